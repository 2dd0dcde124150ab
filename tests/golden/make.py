"""Cuts the small golden files out of the large ones.

    BERT_GOLDEN_DIR=... python tests/golden/make.py

The large files hold inputs and outputs of the original code on TensorFlow 2.15,
in folders of the same names; next to them, `../data` holds vocabularies and
SQuAD. Cutting changes nothing that the outputs depend on:
- Cases, questions and windows are whole ones of the large files.
- A vocabulary keeps the tokens that occur in the outputs, in their order. The
  longest match among them is the same as among all tokens, because tokens that
  are never the longest match may go. Ids are numbered again.
- The checkpoint after training is left out; `golden.npz` holds some of its
  tensors under `after/<name>`.
"""

import gzip
import json
import os
import pathlib
import random
import shutil

import numpy as np
import tensorflow as tf

SMALL = pathlib.Path(__file__).parent
MODEL = "small_gelu"
TENSORS_AFTER_TRAINING = (
  "bert/encoder/layer_0/attention/output/LayerNorm/gamma",
  "bert/pooler/dense/bias",
  "bert/pooler/dense/kernel",
  "cls/predictions/output_bias",
)
NUM_TEXTS = {"adversarial": 60, "ewt": 8, "pud": 8}
NUM_QUESTIONS = {"v1.1_seq384": 5, "v2.0_seq64": 9}
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def read_lines(path: pathlib.Path) -> list[dict]:
  """Returns the objects of a compressed file with one JSON object per line."""
  with gzip.open(path, "rt", encoding="utf-8") as reader:
    return [json.loads(line) for line in reader]


def write_lines(path: pathlib.Path, rows: list[dict]) -> None:
  """Writes objects as JSON lines, compressed, the same bytes each time."""
  content = "".join(json.dumps(row) + "\n" for row in rows)
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(gzip.compress(content.encode(), mtime=0))


def write_json(path: pathlib.Path, value: dict) -> None:
  """Writes an object as JSON without spaces."""
  path.parent.mkdir(parents=True, exist_ok=True)
  content = json.dumps(value, separators=(",", ":"))
  path.write_text(content + "\n", encoding="utf-8")


def copy_model(large: pathlib.Path) -> None:
  """Copies a model with its outputs, and part of the model after training."""
  source = large / "modeling" / MODEL
  target = SMALL / "outputs" / "modeling" / MODEL
  target.mkdir(parents=True, exist_ok=True)
  for name in (
    "bert_config.json",
    "bert_model.ckpt.data-00000-of-00001",
    "bert_model.ckpt.index",
    "training.json",
  ):
    shutil.copy(source / name, target)
  arrays = dict(np.load(source / "golden.npz"))
  after = tf.train.load_checkpoint(str(source / "model.ckpt-6"))
  for name in TENSORS_AFTER_TRAINING:
    for suffix in ("", "/adam_m", "/adam_v"):
      arrays[f"after/{name}{suffix}"] = after.get_tensor(name + suffix)
  np.savez_compressed(target / "golden.npz", **arrays)


def choose_texts(cases: list[dict]) -> set[str]:
  """Returns a few texts of each kind of source."""
  rng = random.Random(1)
  chosen = set()
  for kind, count in NUM_TEXTS.items():
    texts = {case["text"] for case in cases if kind in case["source"]}
    chosen.update(rng.sample(sorted(texts), count))
  return chosen


def cut_tokenization(large: pathlib.Path) -> dict[str, set[str]]:
  """Writes a few cases, and returns the tokens of each vocabulary in them."""
  name = "tokenization/cases.jsonl.gz"
  cases = read_lines(large / name)
  texts = choose_texts(cases)
  cases = [case for case in cases if case["text"] in texts]
  write_lines(SMALL / "outputs" / name, cases)
  used = {}
  for case in cases:
    used.setdefault(case["vocab"], set()).update(case["tokens"])
  return used


def cut_dataset(path: pathlib.Path, num_questions: int) -> dict:
  """Returns the paragraphs of a SQuAD file with its first questions."""
  with open(path, encoding="utf-8") as reader:
    content = json.load(reader)
  articles = []
  for article in content["data"]:
    paragraphs = []
    for paragraph in article["paragraphs"]:
      if num_questions > 0:
        questions = paragraph["qas"][:num_questions]
        paragraphs.append({**paragraph, "qas": questions})
        num_questions -= len(questions)
    if paragraphs:
      articles.append({**article, "paragraphs": paragraphs})
  return {**content, "data": articles}


def cut_squad(large: pathlib.Path, name: str) -> tuple[str, set[str]]:
  """Writes a few questions with their windows and answers.

  Args:
    large: Folder of the large golden files.
    name: Folder of the questions, below `squad`.

  Returns:
    The name of the vocabulary, and the tokens that occur in the windows.
  """
  source = large / "squad" / name
  target = SMALL / "outputs" / "squad" / name
  with open(source / "settings.json", encoding="utf-8") as reader:
    settings = json.load(reader)
  vocab = settings["vocab"]
  num_questions = NUM_QUESTIONS[name]
  write_json(
    target / "settings.json", {**settings, "num_questions": num_questions}
  )
  ids = set()
  for role in ("train", "predict"):
    file = settings[f"{role}_file"]
    path = large / ".." / "data" / "squad" / file
    dataset = cut_dataset(path, num_questions)
    write_json(SMALL / "data" / "squad" / file, dataset)
    if role == "predict":
      questions = [
        question["id"]
        for article in dataset["data"]
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
      ]
  used = set()
  for file in ("features.jsonl.gz", "train_features.jsonl.gz"):
    rows = [
      row
      for row in read_lines(source / file)
      if row["example_index"] < num_questions
    ]
    write_lines(target / file, rows)
    for row in rows:
      used.update(row.get("tokens", ()))
      ids.update(row.get("input_ids", ()))
  tokens = read_vocab(large, vocab)
  used.update(tokens[id_] for id_ in ids)
  for file in ("predictions.json", "nbest_predictions.json", "null_odds.json"):
    if (source / file).exists():
      with open(source / file, encoding="utf-8") as reader:
        content = json.load(reader)
      write_json(target / file, {key: content[key] for key in questions})
  return vocab, used


def read_vocab(large: pathlib.Path, name: str) -> list[str]:
  """Returns the tokens of a whole vocabulary."""
  path = large / ".." / "data" / "vocab" / name / "vocab.txt"
  return path.read_text(encoding="utf-8").rstrip("\n").split("\n")


def write_vocab(name: str, tokens: list[str], used: set[str]) -> list[str]:
  """Writes the tokens that are used, in order, and returns them."""
  kept = [token for token in tokens if token in used or token in SPECIAL]
  path = SMALL / "data" / "vocab" / name / "vocab.txt"
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text("".join(f"{token}\n" for token in kept), encoding="utf-8")
  return kept


def renumber_ids(name: str, tokens: list[str], kept: list[str]) -> None:
  """Rewrites the ids in windows for training to the smaller vocabulary."""
  path = SMALL / "outputs" / "squad" / name / "train_features.jsonl.gz"
  new_ids = {token: number for number, token in enumerate(kept)}
  rows = read_lines(path)
  for row in rows:
    row["input_ids"] = [new_ids[tokens[id_]] for id_ in row["input_ids"]]
  write_lines(path, rows)


def main() -> None:
  large = pathlib.Path(os.environ["BERT_GOLDEN_DIR"])
  for folder in ("outputs", "data"):
    shutil.rmtree(SMALL / folder, ignore_errors=True)
  copy_model(large)
  used = cut_tokenization(large)
  vocab_of = {}
  for name in NUM_QUESTIONS:
    vocab_of[name], tokens = cut_squad(large, name)
    used[vocab_of[name]].update(tokens)
  kept = {}
  for vocab, tokens in used.items():
    kept[vocab] = write_vocab(vocab, read_vocab(large, vocab), tokens)
  for name, vocab in vocab_of.items():
    renumber_ids(name, read_vocab(large, vocab), kept[vocab])


if __name__ == "__main__":
  main()
