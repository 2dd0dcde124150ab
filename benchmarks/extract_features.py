"""Measures how many sentence vectors ours and other libraries make per second.

    python benchmarks/extract_features.py --text_file=books_en.txt \\
        --model=quickstart/minilm

A vector is the mean of the last layer over the tokens of a line. Our program
reads lines and writes a file of vectors, in batches of similar lengths. The
peers keep their vectors in memory; their batches are of lines sorted by length,
with the tokenizer of transformers and the same weights. Each is a process of
its own that has loaded its weights, and does all lines when it is its turn. The
median over the turns counts; the first turns, which compile, do not. The
vectors of all are compared with those of transformers in float32.

PyTorch and transformers are needed (`pip install -e '.[benchmark]'`);
zentorch, OpenVINO and CTranslate2 take part if they are installed.
--peer_python names another interpreter that has them.
"""

import json
import os
import statistics
import sys
import tempfile

from absl import app
from absl import flags
import encoder_peers
import numpy as np
import result_files
import turns

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

FLAGS = flags.FLAGS

_OURS = "ours"
# The vectors of all are compared with those of the first.
_CONTESTANTS = (
  ("transformers", "float32"),
  (_OURS, "float32"),
  ("transformers", "bfloat16"),
  ("transformers, weights cast once", "bfloat16"),
  ("zentorch", "bfloat16"),
  ("OpenVINO", "bfloat16"),
  ("CTranslate2", "int8"),
  (_OURS, "bfloat16"),
)

flags.DEFINE_string("text_file", None, "Text, a sentence a line.")
flags.DEFINE_string("model", None, "Folder of the model, released style.")
flags.DEFINE_integer("num_lines", 5000, "How many lines to take.")
flags.DEFINE_integer("max_seq_length", 128, "Most tokens of a line.")
flags.DEFINE_integer("batch_size", 32, "Lines of a batch.")
flags.DEFINE_integer("turns", 3, "Turns of each.")
flags.DEFINE_string("peer_python", sys.executable, "Interpreter for the peers.")
result_files.define_flag()
flags.DEFINE_string("role", None, "Set by this program for its children.")


def read_lines(settings) -> list[str]:
  lines = []
  with open(settings["text_file"], encoding="utf-8") as reader:
    for line in reader:
      if line.strip():
        lines.append(line.strip())
      if len(lines) == settings["num_lines"]:
        break
  return lines


# --- The contestants ---------------------------------------------------------


def run_ours(settings) -> None:
  """Takes turns with the program itself."""
  sys.path.insert(0, ROOT)
  # pylint: disable=g-import-not-at-top
  # This file has the name of the program.
  import importlib.util

  spec = importlib.util.spec_from_file_location(
    "extract_features", os.path.join(ROOT, "extract_features.py")
  )
  program = importlib.util.module_from_spec(spec)
  sys.modules[spec.name] = program
  spec.loader.exec_module(program)
  for name in list(FLAGS):
    if name in FLAGS and not FLAGS.find_module_defining_flag(name).startswith(
      "absl"
    ):
      delattr(FLAGS, name)
  program.define_flags()
  my_turns = turns.answer_turns({})
  text_file = os.path.join(settings["folder"], "lines.txt")
  with open(text_file, "w", encoding="utf-8") as writer:
    writer.write("\n".join(read_lines(settings)) + "\n")
  output = os.path.join(settings["folder"], f"ours_{settings['precision']}.npz")
  flag_values = [
    f"--{name}={settings[name]}"
    for name in ("model", "max_seq_length", "batch_size", "precision")
  ]
  FLAGS(
    [
      "extract_features.py",
      *flag_values,
      f"--input_file={text_file}",
      f"--output_file={output}",
      "--format=npz",
      "--pooling=mean",
      "--layers=-1",
      "--combine_layers=concat",
    ]
  )
  # The steps of the program, with the estimator made once.
  files = program.common_flags.model_files(
    "bert_config_file", "vocab_file", "init_checkpoint"
  )
  config = program.common_flags.read_config(files)
  tokenizer = program.common_flags.create_tokenizer(files, config)
  layers = program.layers_of_flag(config)
  estimator = program.create_estimator(config, layers, files.init_checkpoint)
  while True:
    next(my_turns)
    if os.path.exists(output):
      np.save(settings["vectors"], np.load(output)["values"])
      os.remove(output)  # otherwise nothing would be left to do
    program.extract(
      estimator,
      tokenizer,
      program.encode_lines([text_file], tokenizer),
      program.open_output(layers, [text_file], files, tokenizer),
      program.lines_per_part(config, layers),
    )


def run_peer(settings) -> None:
  """Takes turns with another library."""
  # pylint: disable=g-import-not-at-top
  import transformers

  # Libraries that print while they load must not write to the channel.
  my_turns = turns.answer_turns({})
  next(my_turns)
  encode = encoder_peers.load_encoder(
    settings["peer"], settings["precision"], settings["transformers_dir"]
  )
  tokenizer = transformers.BertTokenizerFast.from_pretrained(
    settings["transformers_dir"]
  )
  lines = read_lines(settings)
  size = settings["batch_size"]

  def make_batches(order):
    for start in range(0, len(order), size):
      batch = tokenizer(
        [lines[i] for i in order[start : start + size]],
        truncation=True,
        max_length=settings["max_seq_length"],
        padding=True,
        return_tensors="np",
      )
      yield batch["input_ids"], batch["attention_mask"]

  while True:
    order = sorted(range(len(lines)), key=lambda i: len(lines[i]))
    vectors = np.concatenate(list(encode(make_batches(order))))
    vectors = vectors[np.argsort(order)]
    next(my_turns)
    np.save(settings["vectors"], vectors)


# --- The race ----------------------------------------------------------------


def start_contestants(folder: str) -> dict[tuple[str, str], turns.Contestant]:
  """Returns (name, type) -> a contestant that has warmed up."""
  names = ("text_file", "num_lines", "max_seq_length", "batch_size")
  settings = {
    **{name: FLAGS[name].value for name in names},
    "folder": folder,
    "model": os.path.abspath(FLAGS.model),
    "transformers_dir": encoder_peers.convert_model(FLAGS.model, folder),
  }
  available = [_OURS, *encoder_peers.find_peers(FLAGS.peer_python)]
  contestants = {}
  for name, precision in _CONTESTANTS:
    if name not in available:
      continue
    is_ours = name == _OURS
    contestants[name, precision] = turns.Contestant(
      __file__,
      "ours" if is_ours else "peer",
      sys.executable if is_ours else FLAGS.peer_python,
      {
        **settings,
        "peer": name,
        "precision": precision,
        "vectors": vectors_file(folder, name, precision),
      },
      num_warmups=2,
    )
    print(f"  {name}, {precision}: ready", flush=True)
  return contestants


def vectors_file(folder: str, name: str, precision: str) -> str:
  return os.path.join(folder, f"{name}_{precision}.npy")


def least_cosine(vectors: np.ndarray, right: np.ndarray) -> float:
  """Returns the least cosine of rows with those of other vectors [n, h]."""
  vectors = vectors.reshape(right.shape)
  products = (vectors * right).sum(1)
  norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(right, axis=1)
  return float((products / norms).min())


def main(_):
  if FLAGS.role:
    role, settings = json.loads(FLAGS.role)
    {"ours": run_ours, "peer": run_peer}[role](settings)
    return
  with tempfile.TemporaryDirectory() as folder:
    contestants = start_contestants(folder)
    for _ in range(FLAGS.turns):
      for contestant in contestants.values():
        contestant.take_turn()
    for contestant in contestants.values():
      contestant.leave()
    vectors = {key: np.load(vectors_file(folder, *key)) for key in contestants}
  right = vectors[_CONTESTANTS[0]]
  ours = contestants[_OURS, "bfloat16"].seconds
  rows = []
  for (name, precision), contestant in contestants.items():
    rows.append(
      {
        "library": name,
        "type": precision,
        "lines a second": round(
          FLAGS.num_lines / statistics.median(contestant.seconds)
        ),
        "ratio to ours in bfloat16": round(
          statistics.median(contestant.seconds) / statistics.median(ours), 2
        ),
        "least cosine": round(least_cosine(vectors[name, precision], right), 4),
      }
    )
    print(
      "  " + ", ".join(f"{key}: {value}" for key, value in rows[-1].items())
    )
  result_files.write(
    section="Speed",
    title=f"Vectors of {FLAGS.num_lines:,} lines, all sorted by length",
    rows=rows,
    packages=("torch", "transformers", "zentorch", "openvino", "ctranslate2"),
    peer_python=FLAGS.peer_python,
    note=f"Median of {FLAGS.turns} turns. A ratio above 1 says that ours in "
    "bfloat16 is faster. Vectors are compared with those of transformers in "
    "float32.",
  )


if __name__ == "__main__":
  app.run(main)
