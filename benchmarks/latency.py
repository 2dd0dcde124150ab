"""Milliseconds until one sentence is answered by a model that is loaded.

    taskset -c 0 python benchmarks/latency.py --model=runs/mrpc/export

The sentence goes through the signature `text` of an exported model, and through
`text_model.load_model` in Python, with activations of both types. All take
turns in one process; the median of the turns counts, and the fastest turn is
printed as well. --roots compares checkouts, whose exports are measured.

The encoders of other libraries take part if they are installed, each in a
process of its own: the tokenizer of transformers, the model without its head,
and the mean over the tokens. --peer_python names another interpreter that has
them.
"""

from collections.abc import Callable, Mapping
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

from absl import app
from absl import flags
import encoder_peers
import result_files
import turns

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

FLAGS = flags.FLAGS

_TEXT = (
  "The quick brown fox jumped over the sleeping dogs yesterday, didn't it, "
  "he asked."
)
_PRECISIONS = ("float32", "bfloat16")
_PEERS = (
  ("transformers", "float32"),
  ("transformers, weights cast once", "bfloat16"),
  ("zentorch", "bfloat16"),
  ("OpenVINO", "float32"),
  ("OpenVINO", "bfloat16"),
  ("CTranslate2", "int8"),
)
# Sentences of a turn of a peer, so that the way to its process does not matter.
_SENTENCES_PER_TURN = 10

flags.DEFINE_string("model", None, "Folder of a classifier.")
flags.DEFINE_integer("turns", 200, "Number of turns of each.")
flags.DEFINE_list("roots", [ROOT], "Checkouts to compare.")
flags.DEFINE_string("peer_python", sys.executable, "Interpreter for the peers.")
result_files.define_flag()
flags.DEFINE_string("role", None, "Set by this program for its children.")


def export(root: str, precision: str, folder: str, *further_flags: str) -> str:
  """Exports the model with the program of a checkout; returns its folder."""
  export_dir = tempfile.mkdtemp(dir=folder)
  command = [
    sys.executable,
    "export_saved_model.py",
    f"--model={os.path.abspath(FLAGS.model)}",
    f"--export_dir={export_dir}",
    f"--precision={precision}",
    *further_flags,
  ]
  subprocess.run(command, cwd=root, check=True, capture_output=True)
  return os.path.join(export_dir, "1")


def load_contestants(folder: str):
  """Returns name -> function that answers the sentence."""
  sys.path.insert(0, ROOT)
  # pylint: disable=g-import-not-at-top
  import tensorflow as tf

  from serving import text_model

  contestants = {}
  text = tf.constant([_TEXT])

  def load(export_dir: str):
    served = tf.saved_model.load(export_dir)

    def ask():  # keeps the model alive
      return served.signatures["text"](text=text)["logits"].numpy()

    return ask

  for precision in _PRECISIONS:
    for root in FLAGS.roots:
      name = (
        "ours, signature" if len(FLAGS.roots) == 1 else f"signature of {root}"
      )
      contestants[f"{name}, {precision}"] = load(
        export(root, precision, folder)
      )
    contestants[f"ours, --frozen, {precision}"] = load(
      export(ROOT, precision, folder, "--frozen")
    )
    model = text_model.load_model(
      FLAGS.model, compute_dtype=tf.as_dtype(precision)
    )

    def call(model=model):
      return model([_TEXT]).numpy()

    contestants[f"ours in Python, {precision}"] = call
  return contestants


# --- Peers -------------------------------------------------------------------


def run_peer(settings) -> None:
  """Answers the sentence some times in each turn."""
  import transformers  # pylint: disable=g-import-not-at-top

  my_turns = turns.answer_turns({})
  next(my_turns)
  folder = settings["transformers_dir"]
  encode = encoder_peers.load_encoder(
    settings["peer"], settings["precision"], folder
  )
  tokenizer = transformers.BertTokenizerFast.from_pretrained(folder)
  while True:
    for _ in range(_SENTENCES_PER_TURN):
      batch = tokenizer([_TEXT], return_tensors="np")
      list(encode([(batch["input_ids"], batch["attention_mask"])]))
    next(my_turns)


def start_peers(folder: str) -> dict[str, turns.Contestant]:
  """Returns name -> a peer that has warmed up."""
  available = encoder_peers.find_peers(FLAGS.peer_python)
  if not available:
    return {}
  converted = encoder_peers.convert_model(FLAGS.model, folder)
  return {
    f"{peer}, {precision}": turns.Contestant(
      __file__,
      "peer",
      FLAGS.peer_python,
      {"peer": peer, "precision": precision, "transformers_dir": converted},
      num_warmups=3,
    )
    for peer, precision in _PEERS
    if peer in available
  }


# --- Turns -------------------------------------------------------------------


def take_turns(
  contestants: Mapping[str, Callable[[], object]],
  peers: Mapping[str, turns.Contestant],
) -> dict[str, list[float]]:
  """Returns name -> seconds of each answer, or the mean of a peer's turn."""
  for _ in range(10):
    for answer in contestants.values():
      answer()
  seconds = {name: [] for name in contestants}
  for turn in range(FLAGS.turns):
    for name, answer in contestants.items():
      start = time.perf_counter()
      answer()
      seconds[name].append(time.perf_counter() - start)
    if turn % _SENTENCES_PER_TURN == 0:
      for peer in peers.values():
        peer.take_turn()
  for name, peer in peers.items():
    peer.leave()
    seconds[name] = [value / _SENTENCES_PER_TURN for value in peer.seconds]
  return seconds


def main(_):
  if FLAGS.role:
    run_peer(json.loads(FLAGS.role)[1])
    return
  with tempfile.TemporaryDirectory() as folder:
    contestants = load_contestants(folder)
    seconds = take_turns(contestants, start_peers(folder))
  rows = []
  for name, values in seconds.items():
    median = round(statistics.median(values) * 1e3, 2)
    fastest = round(min(values) * 1e3, 2)
    print(f"  {name}: {median} ms, fastest {fastest} ms")
    rows.append(
      {"way": name, "value": median, "fastest": fastest, "unit": "ms"}
    )
  result_files.write(
    section="Speed",
    title="One sentence of 20 tokens, answered by a loaded model",
    rows=rows,
    packages=("torch", "transformers", "zentorch", "openvino", "ctranslate2"),
    peer_python=FLAGS.peer_python,
    note=f"Median of {FLAGS.turns} turns. The peers lack the head of the "
    "classifier.",
  )


if __name__ == "__main__":
  app.run(main)
