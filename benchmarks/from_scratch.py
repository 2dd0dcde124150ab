"""Compares three ways to pre-train a small model on a text in the same time.

    python benchmarks/from_scratch.py --input_file=books.txt --minutes=30 \\
        --output_dir=/tmp/race

The ways are: our `run_pretraining.py` with the settings of `from_scratch.py`;
the same program with the commands of the original code (static masks, ten
copies of the text with next sentences, padding to 128 tokens, float32,
dropout); and the Trainer of PyTorch transformers, with the type of activations
that is faster here. All have the same model, vocabulary and text.

Each is a process that is stopped while another one has its turn, so that the
load of the machine is the same for all. Our time counts from the start of the
process; that of the peer from its first step, after it has cut the text into
tokens and tried both types. Afterwards one program computes the masked LM loss
of every checkpoint on the same held-out text, with 15 % of the tokens masked.
The peer needs the packages of `pip install -e '.[benchmark]'`, and
`accelerate`.
"""

from collections.abc import Sequence
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

from absl import app
from absl import flags
import peer
import result_files

ROOT = pathlib.Path(__file__).resolve().parents[1]
SEQ_LENGTH = 128
HELD_OUT_SHARE = 0.02  # of the text, at its end
PEER = "transformers"
# A contestant writes this file when it has measured its speed.
BUDGET = "time_budget.json"

FLAGS = flags.FLAGS

flags.DEFINE_string("input_file", None, "Text, one sentence per line.")
flags.DEFINE_string(
  "output_dir", None, "Folder for records, checkpoints and logs."
)
flags.DEFINE_float("minutes", 30.0, "Time of each way.", lower_bound=0.1)
flags.DEFINE_integer("vocab_size", 8000, "Number of tokens of the vocabulary.")
flags.DEFINE_string("model_size", "L-2_H-256_A-4", "Size of the model.")
flags.DEFINE_string("precision", "bfloat16", "Type of our activations.")
flags.DEFINE_integer("train_batch_size", 32, "Number of sequences of a step.")
flags.DEFINE_float("learning_rate", 1e-3, "Rate of ours and of transformers.")
flags.DEFINE_float("published_rate", 1e-4, "Rate of the published commands.")
flags.DEFINE_integer("checkpoints", 8, "Number of checkpoints of each way.")
flags.DEFINE_float("turn_seconds", 60.0, "Seconds of a turn.")
flags.DEFINE_string("peer_python", sys.executable, "Interpreter for the peer.")
result_files.define_flag()
flags.DEFINE_string("role", None, "Set by this program for its children.")


# --- Text and records --------------------------------------------------------


def run(program: str, *arguments: str) -> None:
  """Runs one of our programs; its output goes to a log file."""
  folder = pathlib.Path(FLAGS.output_dir)
  with open(folder / "programs.log", "a", encoding="utf-8") as log:
    subprocess.run(
      [sys.executable, str(ROOT / program), *arguments],
      stdout=log,
      stderr=log,
      check=True,
    )


def our_mask_flags() -> list[str]:
  """Returns the flags of our records and of their masks."""
  # pylint: disable-next=g-import-not-at-top
  from pretraining import recipe

  share = recipe.MASKED_LM_PROB
  most = recipe.count_predictions(SEQ_LENGTH, share)
  return [f"--masked_lm_prob={share}", f"--max_predictions_per_seq={most}"]


def prepare(folder: pathlib.Path) -> None:
  """Makes the vocabulary, the config and the records of all ways."""
  lines = pathlib.Path(FLAGS.input_file).read_text(encoding="utf-8")
  cut = lines.index("\n", int(len(lines) * (1 - HELD_OUT_SHARE))) + 1
  train, held_out = folder / "train.txt", folder / "held_out.txt"
  train.write_text(lines[:cut], encoding="utf-8")
  held_out.write_text(lines[cut:], encoding="utf-8")
  run(
    "create_vocabulary.py",
    f"--input_file={train}",
    f"--output_dir={folder}",
    f"--vocab_size={FLAGS.vocab_size}",
    f"--model_size={FLAGS.model_size}",
  )

  def make_records(name: str, text: pathlib.Path, *arguments: str) -> None:
    run(
      "create_pretraining_data.py",
      f"--input_file={text}",
      f"--output_file={folder / name}.tfrecord",
      f"--vocab_file={folder / 'vocab.txt'}",
      f"--max_seq_length={SEQ_LENGTH}",
      *arguments,
    )

  alone = ("--nonext_sentence_prediction", "--dupe_factor=1")
  make_records("held_out", held_out, *alone)
  make_records(
    "ours",
    train,
    *alone,
    *our_mask_flags(),
    "--num_shards=20",
  )
  make_records("published", train, "--num_shards=20")


# --- The contestants ---------------------------------------------------------


@dataclasses.dataclass
class Contestant:
  """A way to pre-train, as a process that can be stopped.

  Attributes:
    name: Name in the tables.
    folder: Folder of its checkpoints.
    process: The process.
    turns: (start in seconds since the epoch, length) of its turns.
  """

  name: str
  folder: pathlib.Path
  process: subprocess.Popen
  turns: list[tuple[float, float]]

  def send(self, number: int) -> None:
    """Sends a signal to the process and its children."""
    if self.process.poll() is None:
      os.killpg(self.process.pid, number)

  def active_seconds(self, moment: float) -> float:
    """Returns the length of its turns before a moment."""
    return sum(
      min(max(moment - start, 0.0), length) for start, length in self.turns
    )


def start(name: str, command: Sequence[str]) -> Contestant:
  """Starts a contestant, and stops it at once."""
  folder = pathlib.Path(FLAGS.output_dir) / name
  folder.mkdir(parents=True, exist_ok=True)
  with open(folder / "run.log", "w", encoding="utf-8") as log:
    process = subprocess.Popen(
      command, stdout=log, stderr=log, start_new_session=True
    )
  contestant = Contestant(name, folder, process, [])
  contestant.send(signal.SIGSTOP)
  return contestant


def our_command(name: str, steps: int, *arguments: str) -> list[str]:
  """Returns a command of run_pretraining.py."""
  folder = pathlib.Path(FLAGS.output_dir)
  return [
    sys.executable,
    str(ROOT / "run_pretraining.py"),
    "--do_train",
    f"--input_file={folder / name}.tfrecord*",
    f"--output_dir={folder / name}",
    f"--bert_config_file={folder / 'bert_config.json'}",
    f"--train_batch_size={FLAGS.train_batch_size}",
    f"--train_hours={FLAGS.minutes / 60}",
    f"--save_checkpoints_steps={steps}",
    "--keep_checkpoint_max=0",
    *arguments,
  ]


def group_tokens(tokenizer, path: pathlib.Path) -> list[dict[str, list[int]]]:
  """Returns all tokens of a text, cut to rows of equal length.

  The examples of transformers group texts in this way.
  """
  tokens = []
  for line in path.read_text(encoding="utf-8").splitlines():
    tokens += tokenizer(line, add_special_tokens=False)["input_ids"]
  cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
  size = SEQ_LENGTH - 2
  return [
    {"input_ids": [cls, *tokens[i : i + size], sep]}
    for i in range(0, len(tokens) - size, size)
  ]


def run_peer(settings) -> None:
  """Trains with transformers, and writes folders that our programs read."""
  # pylint: disable=g-import-not-at-top
  import torch
  import transformers

  folder = pathlib.Path(settings["folder"])
  config = peer.transformers_config(str(folder / "bert_config.json"))
  tokenizer = transformers.BertTokenizer(str(folder / "vocab.txt"))
  rows = group_tokens(tokenizer, folder / "train.txt")
  collator = transformers.DataCollatorForLanguageModeling(
    tokenizer=tokenizer, mlm_probability=0.15
  )

  class StepClock(transformers.TrainerCallback):
    """Notes when each step ended."""

    def __init__(self):
      self.ends = []

    def on_step_end(self, *unused, **also_unused):
      self.ends.append(time.monotonic())

  def train(
    output: pathlib.Path, num_steps: int, save_steps: int, bf16: bool
  ) -> float:
    """Returns the seconds of a step, without the first, which is slower."""
    torch.manual_seed(0)
    arguments = transformers.TrainingArguments(
      output_dir=str(output),
      max_steps=num_steps,
      per_device_train_batch_size=settings["batch_size"],
      learning_rate=settings["learning_rate"],
      warmup_steps=num_steps // 10,
      weight_decay=0.01,
      bf16=bf16,
      use_cpu=not torch.cuda.is_available(),
      save_steps=save_steps,
      logging_strategy="no",
      report_to=[],
      disable_tqdm=True,
    )
    model = transformers.BertForMaskedLM(config)
    trainer = transformers.Trainer(
      model, arguments, data_collator=collator, train_dataset=rows
    )
    clock = StepClock()
    trainer.add_callback(clock)
    trainer.train()
    return (clock.ends[-1] - clock.ends[0]) / max(num_steps - 1, 1)

  seconds = {
    bf16: train(folder / "speed", 5, 10**9, bf16) for bf16 in (False, True)
  }
  is_bf16 = seconds[True] < seconds[False]
  num_steps = max(int(settings["minutes"] * 60 / seconds[is_bf16]), 1)
  output = folder / PEER
  (output / BUDGET).write_text(
    json.dumps({"num_train_steps": num_steps, "bf16": is_bf16})
  )
  train(
    output, num_steps, max(num_steps // settings["checkpoints"], 1), is_bf16
  )


# --- The race ----------------------------------------------------------------


def race(contestants: Sequence[Contestant]) -> None:
  """Lets the contestants take turns until all have ended."""
  waiting = list(contestants)
  try:
    while waiting:
      contestant = waiting.pop(0)
      begin = time.time()
      contestant.send(signal.SIGCONT)
      budget = contestant.folder / BUDGET
      while contestant.process.poll() is None:
        time.sleep(0.2)
        # The speed must be measured without a pause.
        is_over = time.time() - begin >= FLAGS.turn_seconds
        if is_over and (contestant.turns or budget.exists()):
          break
      contestant.send(signal.SIGSTOP)
      contestant.turns.append((begin, time.time() - begin))
      if contestant.process.poll() is None:
        waiting.append(contestant)
      elif contestant.process.returncode:
        log = (contestant.folder / "run.log").read_text(encoding="utf-8")
        sys.exit(f"{contestant.name} failed:\n{log[-2000:]}")
  finally:
    for contestant in contestants:
      contestant.send(signal.SIGKILL)


def find_checkpoints(contestant: Contestant) -> list[tuple[int, str, float]]:
  """Returns (step, path, time that was needed in seconds), by step."""
  seconds_before = 0.0
  if contestant.name == PEER:
    first_step = (contestant.folder / BUDGET).stat().st_mtime
    seconds_before = contestant.active_seconds(first_step)
    found = [
      (int(path.parent.name.split("-")[-1]), path.parent, path)
      for path in contestant.folder.glob("checkpoint-*/model.safetensors")
    ]
  else:
    found = [
      (int(path.stem.split("-")[-1]), path.with_suffix(""), path)
      for path in contestant.folder.glob("model.ckpt-*.index")
    ]
  return sorted(
    (
      step,
      str(name),
      contestant.active_seconds(path.stat().st_mtime) - seconds_before,
    )
    for step, name, path in found
  )


def evaluate(folder: pathlib.Path, checkpoint: str) -> float:
  """Returns the masked LM loss of a checkpoint on the held-out text."""
  output = folder / "evaluation"
  run(
    "run_pretraining.py",
    "--do_eval",
    f"--input_file={folder / 'held_out.tfrecord'}",
    f"--init_checkpoint={checkpoint}",
    f"--bert_config_file={folder / 'bert_config.json'}",
    f"--output_dir={output}",
    "--eval_batch_size=64",
    "--max_eval_steps=1000",
  )
  # pylint: disable-next=g-import-not-at-top
  from training import run_folder

  results = run_folder.read_results(str(output), "eval_results.txt")
  return results["masked_lm_loss"]


def time_to_reach(curve: Sequence[tuple[float, float]], loss: float) -> float:
  """Returns the seconds after which a curve of (seconds, loss) is at a loss."""
  before = None
  for seconds, value in curve:
    if value <= loss:
      if not before:
        return seconds
      share = (before[1] - loss) / (before[1] - value)
      return before[0] + share * (seconds - before[0])
    before = (seconds, value)
  return float("inf")


def start_all(folder: pathlib.Path) -> list[Contestant]:
  """Starts all contestants; none of them runs yet."""
  # pylint: disable-next=g-import-not-at-top
  from pretraining import recipe

  save_steps = max(int(FLAGS.minutes * 60 / FLAGS.checkpoints), 1)
  ours = our_command(
    "ours",
    save_steps,
    f"--learning_rate={FLAGS.learning_rate}",
    f"--precision={FLAGS.precision}",
    f"--vocab_file={folder / 'vocab.txt'}",
    *our_mask_flags(),
    *recipe.TRAINING_FLAGS,
  )
  published = our_command(
    "published", save_steps, f"--learning_rate={FLAGS.published_rate}"
  )
  settings = {
    "folder": str(folder.resolve()),
    "minutes": FLAGS.minutes,
    "batch_size": FLAGS.train_batch_size,
    "learning_rate": FLAGS.learning_rate,
    "checkpoints": FLAGS.checkpoints,
  }
  role = f"--role={json.dumps(['peer', settings])}"
  return [
    start("ours", ours),
    start("published", published),
    start(PEER, [FLAGS.peer_python, __file__, role]),
  ]


def draw_curve(
  folder: pathlib.Path, contestant: Contestant
) -> tuple[list[tuple[float, float]], int]:
  """Returns (seconds, loss) of each checkpoint, and the last step."""
  curve, step = [], 0
  for step, checkpoint, seconds in find_checkpoints(contestant):
    loss = evaluate(folder, checkpoint)
    curve.append((seconds, loss))
    print(
      f"{contestant.name}: step {step}, {seconds:.0f} s, loss {loss:.2f}",
      flush=True,
    )
  return curve, step


def compare() -> None:
  """Runs the race, and prints and writes the results."""
  folder = pathlib.Path(FLAGS.output_dir)
  folder.mkdir(parents=True, exist_ok=True)
  if any(folder.iterdir()):
    # Trainings of an earlier race would be continued.
    sys.exit(f"--output_dir={folder} is not empty. Choose another folder.")
  # An end by this signal must not leave stopped processes behind.
  signal.signal(signal.SIGTERM, lambda *unused: sys.exit("Stopped."))
  prepare(folder)
  contestants = start_all(folder)
  race(contestants)
  curves = {each.name: draw_curve(folder, each) for each in contestants}
  slowest = max(curve[-1][1] for curve, _ in curves.values())
  rows = []
  for name, (curve, step) in curves.items():
    row = {"way": name}
    for share in (0.25, 0.5, 0.75, 1.0):
      seconds = share * 60 * FLAGS.minutes
      losses = [loss for at, loss in curve if at <= seconds * 1.03]
      row[f"loss at {share:.0%}"] = round(losses[-1], 2) if losses else "-"
    num_tokens = step * FLAGS.train_batch_size * SEQ_LENGTH
    row["tokens/s, with padding"] = round(num_tokens / curve[-1][0])
    reached = time_to_reach(curve, slowest)
    row[f"minutes to {slowest:.2f}"] = round(reached / 60, 1)
    rows.append(row)
    print(json.dumps(row), flush=True)
  result_files.write(
    section="Pre-training",
    title=(
      f"A model of size {FLAGS.model_size} after {FLAGS.minutes:g} minutes, "
      "masked LM loss on held-out text"
    ),
    rows=rows,
    packages=("torch", "transformers"),
    peer_python=FLAGS.peer_python,
    note=(
      "Losses are those of the last checkpoint at the time. The loss of the "
      "last column is that at which the slowest way ended."
    ),
  )


def main(_):
  if FLAGS.role:
    _, settings = json.loads(FLAGS.role)
    run_peer(settings)
    return
  for name in ("input_file", "output_dir"):
    if not FLAGS[name].value:
      sys.exit(f"Pass --{name}.")
  sys.path.insert(0, str(ROOT))
  compare()


if __name__ == "__main__":
  app.run(main)
