"""Milliseconds until one sentence is answered by a model that is loaded.

    python benchmarks/latency.py --model=runs/mrpc/export

The sentence goes through the signature `text` of an exported model, and through
`text_model.load_model` in Python, with activations of both types. All take
turns in one process; the median of the turns counts, and the fastest turn is
printed as well. --roots compares checkouts, whose exports are measured.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time

from absl import app
from absl import flags
import result_files

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

FLAGS = flags.FLAGS

_TEXT = (
  "The quick brown fox jumped over the sleeping dogs yesterday, didn't it, "
  "he asked."
)
_PRECISIONS = ("float32", "bfloat16")

flags.DEFINE_string("model", None, "Folder of a classifier.", required=True)
flags.DEFINE_integer("turns", 200, "Number of turns of each.")
flags.DEFINE_list("roots", [ROOT], "Checkouts to compare.")
result_files.define_flag()


def export(root: str, precision: str, folder: str) -> str:
  """Exports the model with the program of a checkout; returns its folder."""
  export_dir = os.path.join(folder, f"{FLAGS.roots.index(root)}_{precision}")
  command = [
    sys.executable,
    "export_saved_model.py",
    f"--model={os.path.abspath(FLAGS.model)}",
    f"--export_dir={export_dir}",
    f"--precision={precision}",
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
  for precision in _PRECISIONS:
    for root in FLAGS.roots:
      served = tf.saved_model.load(export(root, precision, folder))
      name = "signature" if len(FLAGS.roots) == 1 else f"signature of {root}"

      def ask(served=served):  # keeps the model alive
        return served.signatures["text"](text=text)["logits"].numpy()

      contestants[f"{name}, {precision}"] = ask
    model = text_model.load_model(
      FLAGS.model, compute_dtype=tf.as_dtype(precision)
    )

    def call(model=model):
      return model([_TEXT]).numpy()

    contestants[f"Python, {precision}"] = call
  return contestants


def main(_):
  with tempfile.TemporaryDirectory() as folder:
    contestants = load_contestants(folder)
    seconds = {name: [] for name in contestants}
    for turn in range(FLAGS.turns + 10):
      for name, answer in contestants.items():
        start = time.perf_counter()
        answer()
        if turn >= 10:  # the first ones warm up
          seconds[name].append(time.perf_counter() - start)
  rows = []
  for name, turns in seconds.items():
    median = round(statistics.median(turns) * 1e3, 2)
    fastest = round(min(turns) * 1e3, 2)
    print(f"  {name}: {median} ms, fastest {fastest} ms")
    rows.append(
      {"way": name, "value": median, "fastest": fastest, "unit": "ms"}
    )
  result_files.write(
    section="Speed",
    title="One sentence of 20 tokens, answered by a loaded model",
    rows=rows,
    note=f"Median of {FLAGS.turns} turns.",
  )


if __name__ == "__main__":
  app.run(main)
