"""Seconds from the command to its result, next to PyTorch transformers.

    python benchmarks/cold_start.py --model=models/uncased_L-4_H-512_A-8 \\
        --classifier=runs/mrpc/export

Three small tasks: the features of 5 lines, one masked word, and the labels of
10 texts. Ours are the programs themselves; transformers gets the few lines of
Python that do the same with random weights of the same shape. Every turn is a
new process, and the fastest of each counts, which other work on the machine
disturbs least. It needs the packages of `pip install -e '.[benchmark]'`;
--peer_python names another interpreter that has PyTorch and transformers, and
--peer_python= leaves transformers out. --roots compares checkouts.
"""

from collections.abc import Callable
import json
import os
import subprocess
import sys
import tempfile
import time
from typing import Any

from absl import app
from absl import flags
import result_files

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

FLAGS = flags.FLAGS

_TEXTS = [
  f"Line {number}: the library opens at {number} and closes at noon."
  for number in range(10)
]
_MASKED = "Paris is the [MASK] of France."
_PEER = "transformers"

flags.DEFINE_string("model", None, "Model of a pre-training.", required=True)
flags.DEFINE_string("classifier", None, "Trained classifier.", required=True)
flags.DEFINE_integer("turns", 5, "Number of turns of each.")
flags.DEFINE_list("roots", [ROOT], "Checkouts to compare.")
flags.DEFINE_string("peer_python", sys.executable, "Interpreter for the peer.")
result_files.define_flag()
flags.DEFINE_string("role", None, "Set by this program for its children.")


# --- Ours --------------------------------------------------------------------


def our_commands(folder: str) -> dict[str, list[str]]:
  """Returns name of a task -> program and flags."""
  lines = os.path.join(folder, "lines.txt")
  with open(lines, "w", encoding="utf-8") as writer:
    writer.write("\n".join(_TEXTS[:5]) + "\n")
  model = os.path.abspath(FLAGS.model)
  return {
    "features of 5 lines": [
      "extract_features.py",
      f"--model={model}",
      f"--input_file={lines}",
      f"--output_file={os.path.join(folder, 'out.jsonl')}",
    ],
    "one masked word": ["predict.py", f"--model={model}", f"--text={_MASKED}"],
    "labels of 10 texts": [
      "predict.py",
      f"--model={os.path.abspath(FLAGS.classifier)}",
      *(f"--text={text}" for text in _TEXTS),
    ],
  }


# --- Transformers ------------------------------------------------------------


def save_peer_model(folder: str, bert_config_file: str, vocab_file: str):
  """Saves random weights of a shape as the model of transformers."""
  # pylint: disable=g-import-not-at-top
  import peer
  import transformers

  config = peer.transformers_config(bert_config_file)
  transformers.BertForMaskedLM(config).save_pretrained(folder)
  transformers.BertTokenizerFast(vocab_file).save_pretrained(folder)


def run_peer(task: str, folder: str) -> None:
  """Does a task with transformers."""
  # pylint: disable=g-import-not-at-top
  import torch
  import transformers

  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  model_class = {
    "features of 5 lines": transformers.AutoModel,
    "one masked word": transformers.AutoModelForMaskedLM,
    "labels of 10 texts": transformers.AutoModelForSequenceClassification,
  }[task]
  model = model_class.from_pretrained(folder)
  texts = {"features of 5 lines": _TEXTS[:5], "one masked word": [_MASKED]}
  batch = tokenizer(texts.get(task, _TEXTS), padding=True, return_tensors="pt")
  with torch.inference_mode():
    print(model(**batch)[0].sum())


# --- Turns -------------------------------------------------------------------


def _measure(command: list[str], folder: str) -> float:
  """Returns the seconds of a command that runs in a folder."""
  start = time.perf_counter()
  result = subprocess.run(
    command, cwd=folder, capture_output=True, text=True, check=False
  )
  seconds = time.perf_counter() - start
  if result.returncode:
    sys.exit(result.stderr)
  return seconds


def _runs(folder: str) -> dict[str, dict[str, Callable[[], float]]]:
  """Returns name of a task -> name of a contestant -> function of a turn."""
  runs: dict[str, dict[str, Callable[[], float]]] = {}
  output = os.path.join(folder, "out.jsonl")

  def run_ours(command: list[str], root: str) -> float:
    if os.path.exists(output):
      os.remove(output)  # otherwise nothing would be left to do
    return _measure([sys.executable, *command], root)

  def run_theirs(*arguments: str) -> float:
    role = f"--role={json.dumps(arguments)}"
    required = [f"--model={FLAGS.model}", f"--classifier={FLAGS.classifier}"]
    command = [FLAGS.peer_python, __file__, role, *required]
    return _measure(command, folder)

  if FLAGS.peer_python:
    files = ("bert_config.json", "vocab.txt")
    model = [os.path.join(os.path.abspath(FLAGS.model), file) for file in files]
    run_theirs("save", os.path.join(folder, "peer"), *model)
  for task, command in our_commands(folder).items():
    runs[task] = {}
    for root in FLAGS.roots:
      name = "ours" if len(FLAGS.roots) == 1 else root
      runs[task][name] = lambda c=command, r=root: run_ours(c, r)
    if FLAGS.peer_python:
      peer_folder = os.path.join(folder, "peer")
      runs[task][_PEER] = lambda t=task: run_theirs(t, peer_folder)
  return runs


def main(_):
  if FLAGS.role:
    role, *arguments = json.loads(FLAGS.role)
    if role == "save":
      save_peer_model(*arguments)
    else:
      run_peer(role, *arguments)
    return
  rows: list[dict[str, Any]] = []
  with tempfile.TemporaryDirectory() as folder:
    for task, contestants in _runs(folder).items():
      seconds: dict[str, list[float]] = {name: [] for name in contestants}
      for _ in range(FLAGS.turns):
        for name, run in contestants.items():
          seconds[name].append(run())
      fastest = {name: round(min(turns), 2) for name, turns in seconds.items()}
      print(f"  {task:>20}:", fastest, flush=True)
      rows.append({"task": task, "unit": "s", **fastest})
  result_files.write(
    section="Speed",
    title="From a command to its result",
    rows=rows,
    packages=("torch", "transformers") if FLAGS.peer_python else (),
    peer_python=FLAGS.peer_python,
    note=f"The fastest of {FLAGS.turns} turns, each a new process.",
  )


if __name__ == "__main__":
  app.run(main)
