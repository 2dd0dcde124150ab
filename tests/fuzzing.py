"""Damages files of every kind that the project reads, and reads them again.

A reader may do two things with a damaged file: return what the file now holds,
or raise an error that tells the user about the damage in one line. For files
with a checksum the only right content is the original one.

`KINDS` is the table of the files. A random generator that is seeded by the kind
and the number of a mutation makes all choices, so these two reproduce a
failure.
"""

import launch

import base64
import collections
from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import functools
import gzip
import hashlib
import io
import json
import os
import pathlib
import random
import resource
import shutil
import signal
import sys
import time
from typing import NamedTuple
from unittest import mock

import builders
import h5py
import numpy as np
import pyarrow
from pyarrow import parquet
import pytorch_files
import safetensors.numpy
import tensorflow as tf
import zstandard

import checkpoint
from data import checkpoint_folder
from data import feature_files
from data import file_io
from data import file_names
from data import locks
from data import record_files
from data import serialization
from data import tokenizer_settings
from data import transformers_config
import download_model
import errors
import modeling
from pretraining import corpus
from pretraining import input_pipeline
from pretraining import record_formats
from reports import example_files
from reports import loss_plot
from reports import mask_report
from reports import run_files
from reports import run_report
import run_glue
from tasks import classification
from tasks import classifier_config
from tasks import distillation
from tasks import metrics
from tasks import ner
from tasks import ner_files
from tasks import ner_tags
from tasks import squad
from tasks import squad_evaluation
from tasks import squad_windows
from tasks import swag
import tokenization
from training import cluster
from training import run_state

# Limits for one read. Seconds are those of the processor, because other
# programs must not matter.
_MOST_SECONDS = 5.0
_MOST_BYTES = 500 * 2**20
_LONGEST_MESSAGE = 1500
# Hard limits, which keep the machine usable and end endless loops.
_BYTES_GIVEN = 4 * 2**30
_HANG_SECONDS = 120


class Kind(NamedTuple):
  """A kind of file.

  Attributes:
    name: Name in messages.
    file: Name of the file to damage.
    write: Function (folder, rng) that writes a valid file and its companions.
    read: Function (folder) that reads like the programs do, and returns the
      content as a value that can be compared.
    has_checksum: Whether the reader must notice or repair every change.
    is_json: Whether the file is a JSON object or has one on each line.
    is_sequence: Whether the content is a list, so that a file cut between two
      entries is a valid, shorter file.
    is_slow: Whether a read takes more than a few milliseconds.
  """

  name: str
  file: str
  write: Callable[[str, random.Random], None]
  read: Callable[[str], object]
  has_checksum: bool = False
  is_json: bool = False
  is_sequence: bool = False
  is_slow: bool = False


# --- Mutations ---------------------------------------------------------------

_PIECES = [
  b"\0",
  b"\0" * 16,
  b"\xff",
  b"\xff" * 8,
  b"\xef\xbb\xbf",
  b"\xff\xfe",
  b"{",
  b"}",
  b"[",
  b"]",
  b'"',
  b"'",
  b"\\",
  b",",
  b":",
  b"\t",
  b"\n",
  b"\r",
  b"\r\n",
  b"\n\n",
  b" ",
  b"\xe2\x80\xa8",
  b"\xc3",
  b"\xed\xa0\x80",
  b"0",
  b"-1",
  b"7",
  b"1" + b"0" * 30,
  b"9" * 5000,
  b"1e999",
  b"NaN",
  b"-Infinity",
  b"null",
  b"true",
  b'"\\ud800"',
  b"\\u0000",
  b"[" * 100_000,
  b'{"":' * 1000,
  b"\x7f\xff\xff\xff",
  b"\xff\xff\xff\x7f",
  b"\x80\x80\x80\x80\x01",
  b"PK\x03\x04",
  b"\x1f\x8b\x08",
  b"a" * 2**20,
]
_JSON_VALUES = [
  "null",
  "true",
  "false",
  "0",
  "-1",
  "2",
  "0.5",
  "-0",
  "1E5",
  "1e999",
  "NaN",
  "Infinity",
  "1" + "0" * 30,
  "1" + "0" * 400,
  "9" * 5000,
  '""',
  '"x"',
  '"1"',
  '"\\ud800"',
  '"\\u0000"',
  '"\\n"',
  '"../x"',
  "[]",
  "{}",
  "[null]",
  "[[]]",
  '["x"]',
  '{"x": 1}',
  "[1, 2]",
  "[" * 500 + "]" * 500,
  "[" * 100_000 + "]" * 100_000,
  '"' + "x" * 2**20 + '"',
]


def _span(rng, content: bytes) -> tuple[int, int]:
  start, end = sorted(rng.randint(0, len(content)) for _ in range(2))
  if rng.random() < 0.7:  # most spans are short
    end = min(end, start + rng.choice([1, 2, 4, 8, 64]))
  return start, end


def _flip_bits(rng, content, unused_other):
  changed = bytearray(content)
  for _ in range(rng.choice([1, 1, 2, 8])):
    changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
  return bytes(changed)


def _change_bytes(rng, content, unused_other):
  changed = bytearray(content)
  for _ in range(rng.choice([1, 1, 2, 8])):
    changed[rng.randrange(len(changed))] = rng.randrange(256)
  return bytes(changed)


def _truncate(rng, content, unused_other):
  return content[: rng.randrange(len(content))]


def _delete(rng, content, unused_other):
  start, end = _span(rng, content)
  return content[:start] + content[end:]


def _duplicate(rng, content, unused_other):
  start, end = _span(rng, content)
  return (
    content[:end] + content[start:end] * rng.choice([1, 1, 3]) + (content[end:])
  )


def _swap(rng, content, unused_other):
  cuts = sorted(rng.randint(0, len(content)) for _ in range(4))
  a, b, c, d = cuts
  return content[:a] + content[c:d] + content[b:c] + content[a:b] + content[d:]


def _insert(rng, content, unused_other):
  start, end = _span(rng, content)
  end = rng.choice([start, end])  # insert the piece, or replace the span by it
  return content[:start] + rng.choice(_PIECES) + content[end:]


def _splice(rng, content, other):
  return (
    content[: rng.randint(0, len(content))]
    + (other[rng.randint(0, len(other)) :])
  )


def _empty(unused_rng, unused_content, unused_other):
  return b""


def _parsed(text: bytes):
  try:
    return json.loads(text)
  except (ValueError, RecursionError):
    return None


def _change_json(rng, content, unused_other):
  """Replaces, deletes, renames or adds a value of a JSON object or line."""
  lines = content.split(b"\n")
  number = rng.randrange(len(lines))
  value = _parsed(content)
  if value is not None:
    lines, number = [content], 0
  else:
    value = _parsed(lines[number])
  if value is None:
    return _insert(rng, content, None)
  new = "@@"
  holders = [[value]]
  for holder in holders:  # the list grows by all lists and objects inside
    inner = holder.values() if isinstance(holder, dict) else holder
    holders.extend(x for x in inner if isinstance(x, (dict, list)))
  holder = rng.choice([h for h in holders if h])
  key = rng.choice(
    list(holder) if isinstance(holder, dict) else range(len(holder))
  )
  action = rng.choice(["replace"] * 4 + ["delete", "rename", "add"])
  if holder is holders[0] or action == "replace":
    holder[key] = new
  elif action == "add" and isinstance(holder, dict):
    holder["more"] = new
  elif action == "add":
    holder.insert(key, new)
  else:
    old = holder.pop(key)
    if action == "rename" and isinstance(holder, dict):
      holder[key.upper()] = old
  text = json.dumps(holders[0][0]).replace(f'"{new}"', rng.choice(_JSON_VALUES))
  lines[number] = text.encode()
  return b"\n".join(lines)


_MUTATIONS = [
  _flip_bits,
  _flip_bits,
  _change_bytes,
  _truncate,
  _delete,
  _duplicate,
  _swap,
  _insert,
  _insert,
  _splice,
]


def mutate(
  kind: Kind, rng: random.Random, content: bytes, other: bytes
) -> tuple[bytes, str]:
  """Damages a file.

  Args:
    kind: Kind of the file.
    rng: Generator that makes all choices.
    content: A valid file.
    other: Another valid file, whose parts may be mixed in.

  Returns:
    The damaged file, and the names of the mutations.
  """
  mutations = _MUTATIONS + [_change_json] * (8 if kind.is_json else 0)
  if rng.random() < 0.01:
    mutations = [_empty]
  changed, names = content, []
  while changed == content or (rng.random() < 0.3 and changed):
    mutation = rng.choice(mutations)
    changed = mutation(rng, changed, other)
    names.append(mutation.__name__.strip("_"))
  return changed, ", ".join(names)


# --- Running -----------------------------------------------------------------


@dataclasses.dataclass
class Tally:
  """Counts of what readers did with the mutations of a kind.

  Attributes:
    mutations: Number of mutations.
    same: Number of reads that returned the original content.
    other: Number of reads that returned another content.
    errors: Number of reads that raised an error for the user.
    failures: Descriptions of reads that did something else.
  """

  mutations: int = 0
  same: int = 0
  other: int = 0
  errors: int = 0
  failures: list[str] = dataclasses.field(default_factory=list)


def run(kind: Kind, folder: str, numbers: range) -> Tally:
  """Damages a file in many ways, and reads it each time.

  Args:
    kind: One of `KINDS`.
    folder: Folder to work in. Its content is removed.
    numbers: Numbers of the mutations.
  """
  tally = Tally()
  samples = [_sample(kind, folder, seed) for seed in (0, 1)]
  _fill(folder, samples[0])
  original = kind.read(folder)
  _fill(folder, samples[0])
  if kind.read(folder) != original:
    raise ValueError(f"{kind.name}: reading twice gives different contents.")
  for number in numbers:
    rng = random.Random(f"{kind.name} {number}")
    content, how = mutate(
      kind, rng, samples[0][kind.file], samples[1][kind.file]
    )
    _fill(folder, {**samples[0], kind.file: content})
    tally.mutations += 1
    is_cut = kind.is_sequence and samples[0][kind.file].startswith(content)
    # These files need not survive a power failure.
    with _limited_memory(), mock.patch("os.fsync"):
      problem = _read_damaged(kind, folder, original, is_cut, tally)
    if problem:
      tally.failures.append(
        f"{kind.name}, mutation {number} ({how}): {problem}"
      )
  return tally


@contextlib.contextmanager
def _limited_memory() -> Iterator[None]:
  """Limits the memory that this process can allocate within the context."""
  if not os.path.exists("/proc/self/status"):
    yield
    return
  with open("/proc/self/status", encoding="utf-8") as reader:
    status = dict(line.split(":") for line in reader if line.count(":") == 1)
  now = int(status["VmData"].split()[0]) * 1024
  limits = resource.getrlimit(resource.RLIMIT_DATA)
  resource.setrlimit(resource.RLIMIT_DATA, (now + _BYTES_GIVEN, limits[1]))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_DATA, limits)


def _sample(kind: Kind, folder: str, seed: int) -> dict[str, bytes]:
  """Returns the files of a valid folder by name."""
  _fill(folder, {})
  kind.write(folder, random.Random(seed))
  return _files(folder)


def _files(folder: str) -> dict[str, bytes]:
  """Returns the content of all files of a folder, by their paths in it."""
  files = {}
  for parent, _, names in os.walk(folder):
    for name in names:
      path = os.path.join(parent, name)
      with open(path, "rb") as reader:
        files[os.path.relpath(path, folder)] = reader.read()
  return files


def _fill(folder: str, files: dict[str, bytes]) -> None:
  shutil.rmtree(folder, ignore_errors=True)
  os.makedirs(folder)
  for name, content in files.items():
    _write(folder, name, content)


class _Hangs(BaseException):
  pass


def _raise_hangs(unused_signal, unused_frame):
  raise _Hangs


def _read_damaged(
  kind: Kind, folder: str, original, is_cut: bool, tally: Tally
) -> str | None:
  """Reads a damaged file, and returns what the reader did wrong, or None."""
  seconds, peak = time.process_time(), _peak_memory()
  old_handler = signal.signal(signal.SIGALRM, _raise_hangs)
  signal.alarm(_HANG_SECONDS)
  problem = None
  try:
    content = kind.read(folder)
    tally.same += content == original
    tally.other += content != original
    if kind.has_checksum and content != (
      original[: len(content)] if is_cut else original
    ):
      problem = f"it accepts other content: {content!r:.300}"
  except _Hangs:
    problem = "it hangs"
  except Exception as error:  # pylint: disable=broad-except
    message = launch.message_for_user(error)
    tally.errors += message is not None
    if message is None:
      problem = f"{type(error).__name__}: {str(error)[:300]}"
    elif len(message.splitlines()) != 1 or len(message) > _LONGEST_MESSAGE:
      problem = f"not one short line: {message[:600]!r}"
  finally:
    signal.alarm(0)
    signal.signal(signal.SIGALRM, old_handler)
  if time.process_time() - seconds > _MOST_SECONDS:
    problem = problem or "it takes too long"
  if _peak_memory() - peak > _MOST_BYTES:
    problem = problem or "it takes too much memory"
  return problem


def _peak_memory() -> int:
  """Returns the peak memory of this process in bytes."""
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak if sys.platform == "darwin" else 1024 * peak


# --- Small files -------------------------------------------------------------


def _write(folder: str, name: str, content) -> None:
  if isinstance(content, str):
    content = content.encode()
  path = os.path.join(folder, name)
  os.makedirs(os.path.dirname(path), exist_ok=True)
  with open(path, "wb") as writer:
    writer.write(content)


def _text(rng, num_words: int = 5) -> str:
  words = [rng.choice(builders.WORDS) for _ in range(num_words)]
  words[0] = rng.choice(
    ['a "quote", b', "un caf\u00e9", "dog\u2028s", words[0]]
  )
  return " ".join(words)


def _lines(rng, make: Callable[[random.Random], object]) -> str:
  return "".join(json.dumps(make(rng)) + "\n" for _ in range(4))


def _comparable(tensors) -> dict:
  """Returns arrays by name as values that can be compared."""
  return {
    name: (str(array.dtype), array.shape, array.tobytes())
    for name, array in tensors.items()
  }


# --- Models ------------------------------------------------------------------


def _write_config(folder, rng):
  _write(
    folder,
    "bert_config.json",
    builders.tiny_config(hidden_size=4 * rng.randint(1, 20)).to_json_string(),
  )


def _write_their_config(folder, rng):
  config = builders.tiny_config(hidden_size=4 * rng.randint(1, 20))
  _write(
    folder,
    "config.json",
    json.dumps(transformers_config.to_their_config(config.to_dict())),
  )


def _write_classifier(folder, rng):
  classifier_config.ClassifierConfig(
    "single_label",
    ("x", "y\u00e9", _text(rng)),
    tokenizer_settings.TokenizerSettings(strip_accents=False),
    rng.randint(8, 128),
    "sliding_window",
  ).write(folder)


def _write_tokenizer_files(folder, rng):
  fields = {
    "do_lower_case": rng.random() < 0.5,
    "strip_accents": False,
    "cls_token": {"content": "<s>", "lstrip": False},
    "mask_token": _text(rng),
    "model_max_length": 512,
  }
  normalizer = {
    "type": "BertNormalizer",
    "handle_chinese_chars": False,
    "lowercase": True,
  }
  sequence = {"type": "Sequence", "normalizers": [{"type": "NFC"}, normalizer]}
  for name, content in (
    ("tokenizer_config.json", fields),
    ("tokenizer.json", {"normalizer": sequence}),
  ):
    file_io.write_json(os.path.join(folder, name), content)


def _write_vocab(folder, rng):
  words = rng.sample(builders.WORDS, 8)
  _write(
    folder,
    "vocab.txt",
    "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]) + "\n",
  )


def _read_vocab(folder):
  tokenizer = tokenization.FullTokenizer(os.path.join(folder, "vocab.txt"))
  return list(tokenizer.vocab.items()), tokenizer.encode_with_offsets(
    "The cat, [MASK] un\u0301affable \u4ed6 " + " ".join(builders.WORDS)
  )


_NAMES = (
  "bert/embeddings/word_embeddings",
  "bert/pooler/dense/kernel",
  "output_bias",
)


def _tensors(rng) -> dict[str, np.ndarray]:
  values = np.random.default_rng(rng.randrange(2**32))
  shapes = [(5, 3), (3, 2), (2,)]
  return {
    name: values.normal(size=shape).astype(np.float32)
    for name, shape in zip(_NAMES, shapes)
  }


def _write_checkpoint(folder, rng):
  checkpoint.write(os.path.join(folder, "x.ckpt"), _tensors(rng))


def _write_safetensors(folder, rng):
  checkpoint.write_transformers(
    os.path.join(folder, "model.safetensors"), _tensors(rng)
  )


def _write_keras(folder, rng):
  layers = ("bert/x/bert/", "bert/x/bert/", "mlm___cls/x/")
  names = (
    "embeddings/word_embeddings/weight:0",
    "pooler/dense/kernel:0",
    "cls/predictions/bias:0",
  )
  with h5py.File(os.path.join(folder, "tf_model.h5"), "w") as file:
    for layer, name, array in zip(layers, names, _tensors(rng).values()):
      file[layer + name] = array


def _write_shards(folder, rng):
  places = {}
  for number, (name, array) in enumerate(_tensors(rng).items()):
    file = f"model-{number + 1:05}-of-00003.safetensors"
    tensors = {name: array}
    checkpoint.write_transformers(os.path.join(folder, file), tensors)
    for written in safetensors.numpy.load_file(os.path.join(folder, file)):
      places[written] = file
  _write(
    folder,
    "model.safetensors.index.json",
    json.dumps({"metadata": {"total_size": 1}, "weight_map": places}),
  )


def _write_pytorch(folder, rng, is_zip):
  content, storages = {}, []
  for number, (name, array) in enumerate(_tensors(rng).items()):
    storages.append(pytorch_files.Storage(str(number), "FloatStorage", array))
    content[name.replace("/", ".")] = pytorch_files.Tensor(
      storages[-1],
      0,
      array.shape,
      tuple(size // array.itemsize for size in array.strides),
    )
  path = pathlib.Path(folder, "pytorch_model.bin")
  pytorch_files.write(path, is_zip, content, storages)


def _read_weights(folder, name):
  reader = checkpoint.open_checkpoint(os.path.join(folder, name))
  return _comparable({name: reader.get_tensor(name) for name in reader.shapes})


def _write_run(folder, rng):
  for step in (1, 2):
    state = run_state.RunState(
      [rng.randrange(100), 2, 3, 4],
      32,
      [2.0 ** rng.randrange(9), 7],
      0,
      run_state.BestEvaluation(1, "eval_f1", rng.random(), 1),
      1,
      {"learning_rate": 0.1, "seed": None},
    )
    checkpoint.save(folder, step, _tensors(rng), 5, state.to_json())


def _read_state(folder):
  prefix = os.path.join(folder, "model.ckpt-2")
  return run_state.RunState.from_json(
    checkpoint.read_state(prefix), prefix + ".json"
  )


def _write_list(folder, rng):
  names = [f"text_{rng.randrange(100)}_{number}.txt" for number in range(5)]
  for name in names:
    _write(folder, name, "A text.\n")
  paths = [os.path.join(folder, name) for name in names]
  _write(folder, "files.txt", "\n".join(paths) + "\n")


def _read_list(folder):
  files = file_names.find_files(f"@{folder}/files.txt", "--input_file")
  return [os.path.relpath(file, folder) for file in files]


# --- Texts -------------------------------------------------------------------


def _read_examples(folder, task, split="train"):
  examples = task.read_examples(folder, split)
  labels = task.find_labels(examples)
  targets = task.targets(examples, labels)
  weights = None
  if task.class_weights:
    weights = task.label_weights(targets, labels).tolist()
  if not np.isfinite(targets).all():
    raise AssertionError("A target is not finite.")
  return examples, labels, targets.tolist(), weights


_SINGLE = classification.custom_task(
  text_b="other", class_weights="balanced", id="id"
)
_MULTI = classification.custom_task(
  problem_type="multi_label", class_weights="balanced"
)
_NUMBER = classification.custom_task(problem_type="regression")


def _quoted(text: str) -> str:
  """Returns a field of a CSV file."""
  return '"' + text.replace('"', '""') + '"'


def _write_rows(folder, rng, file, separator):
  def row(number):
    texts = [_text(rng), _text(rng)]
    if separator == ",":
      texts = [_quoted(text) for text in texts]
    return separator.join([f"k{number}", *texts, rng.choice(["yes", "no"])])

  _write(
    folder,
    file,
    "\n".join(
      [
        separator.join(["id", "text", "other", "label"]),
        *map(row, range(4)),
        row(4).replace("no", "yes"),
        row(5).replace("yes", "no"),
      ]
    )
    + "\n",
  )


def _compress_rows(folder, rng):
  _write_rows(folder, rng, "train.csv", ",")
  path = pathlib.Path(folder, "train.csv")
  path.with_suffix(".csv.gz").write_bytes(
    gzip.compress(path.read_bytes(), mtime=0)
  )
  path.unlink()


def _write_parquet(folder, rng):
  rows = [
    {"id": number, "text": _text(rng), "other": _text(rng), "label": number % 2}
    for number in range(6)
  ]
  table = pyarrow.Table.from_pylist(rows)
  parquet.write_table(table, os.path.join(folder, "train.parquet"))


def _write_numbers(folder, rng):
  _write(
    folder,
    "train.tsv",
    "text\tlabel\n"
    + "".join(f"{_text(rng)}\t{rng.random():.3f}\n" for _ in range(5)),
  )


def _write_several_labels(folder, rng):
  _write(
    folder,
    "train.jsonl",
    _lines(
      rng,
      lambda rng: {"text": _text(rng), "label": rng.sample(["x", "y", "z"], 2)},
    ),
  )


def _write_task(folder, rng):
  _write(
    folder,
    "task.json",
    json.dumps(
      {
        "text_a": "q",
        "text_b": "a",
        "label": "kind",
        "id": "key",
        "problem_type": "multi_label",
        "labels": ["x", "y", 3],
        "label_separator": "|",
        "class_weights": {"x": rng.random(), "y": 2},
        "train": "2024.csv",
        "dev": _text(rng),
        "test": "test.tsv",
      }
    ),
  )


def _write_choices(folder, rng):
  number = iter(range(100))
  _write(
    folder,
    "x.jsonl",
    _lines(
      rng,
      lambda rng: {
        "context": _text(rng),
        "choices": [_text(rng), _text(rng)],
        "label": rng.randrange(2),
        "id": next(number),
      },
    ),
  )


def _write_swag(folder, rng):
  header = "id,sent1,sent2,ending0,ending1,ending2,ending3,label"
  rows = [
    ",".join(
      [_quoted(_text(rng)) for _ in header.split(",")[:-1]]
      + [str(rng.randrange(4))]
    )
    for _ in range(3)
  ]
  _write(folder, "x.csv", "\n".join([header, *rows]) + "\n")


def _write_tags(folder, rng):
  sentences = "\n\n".join(
    "\n".join(
      f"{word} {rng.choice(['O', 'B-x', 'I-x', 'B-y'])}"
      for word in _text(rng).split()
    )
    for _ in range(4)
  )
  _write(folder, "train.txt", f"-DOCSTART- O\n\n{sentences}\n")


def _write_numbered_tags(folder, rng):
  sentences = []
  for number in range(4):
    rows = [
      f"{place}\t{word}\t{rng.choice(['O', 'B-x', 'I-x'])}\tO"
      for place, word in enumerate(_text(rng).split(), 1)
    ]
    sentences.append("\n".join([f"#\tsource {number}", *rows]))
  _write(folder, "train.txt", "\n\n".join(sentences) + "\n")


def _write_tagged_texts(folder, rng):
  lines = []
  for _ in range(3):
    words = _text(rng).split()
    tags = [rng.choice(["O", "B-x", "I-y"]) for _ in words]
    fields = {"tokens": words, "ner_tags": tags}
    if rng.random() < 0.5:
      span = [0, len(words[0]), "x"]
      fields = {"text": " ".join(words), "label": [span]}
    lines.append(json.dumps(fields))
  _write(folder, "train.txt", "\n".join(lines) + "\n")


def _write_articles(folder, rng):
  lines = []
  for number in range(3):
    fields = {
      "id": f"k{number}",
      "article": _text(rng),
      "questions": ["it is _ .", _text(rng)],
      "options": [[_text(rng) for _ in range(n)] for n in (2, 3)],
      "answers": ["A", "C"],
    }
    lines.append(json.dumps(fields))
  _write(folder, "x.jsonl", "\n".join(lines) + "\n")


def _tokenizer(folder):
  path = os.path.join(folder, "vocab.txt")
  with open(path, "w", encoding="utf-8") as writer:
    writer.write("\n".join(builders.TOKENS) + "\n")
  return tokenization.FullTokenizer(path)


def _read_tags(folder):
  sentences = ner_files.read_sentences(os.path.join(folder, "train.txt"))
  tags = [sentence.tags for sentence in sentences]
  scheme = ner_tags.find_scheme(tags)
  irregular = ner_tags.count_irregular(tags, scheme) if scheme else 0
  scores = metrics.entity_scores(tags, tags) if scheme else None
  return (
    sentences,
    scheme,
    irregular,
    scores,
    list(ner.cut_windows(sentences, _tokenizer(folder), 20, True)),
  )


def _write_squad(folder, rng):
  paragraphs = []
  for number in range(2):
    context = _text(rng, 30)
    answer = " ".join(context.split()[4:6])
    paragraphs.append(
      {
        "context": context,
        "qas": [
          {
            "id": f"q{number}",
            "question": _text(rng),
            "is_impossible": False,
            "answers": [
              {"text": answer, "answer_start": context.index(answer)}
            ],
          },
          {
            "id": f"n{number}",
            "question": _text(rng),
            "is_impossible": True,
            "answers": [],
          },
        ],
      }
    )
  _write(
    folder,
    "x.json",
    json.dumps(
      {"version": "2.0", "data": [{"title": "t", "paragraphs": paragraphs}]}
    ),
  )


def _flat_questions(rng):
  """Returns questions as rows, of which the last one has no answer."""
  rows = []
  for number, answer in enumerate([["a cat"], ["a cat", "cat"], []]):
    starts = [3 * place for place in range(len(answer))]
    rows.append(
      {
        "id": f"q{number}",
        "context": f"a cat {_text(rng, 30)}",
        "question": _text(rng),
        "answers": {"text": answer, "answer_start": starts},
      }
    )
  return rows


def _write_flat_lines(folder, rng):
  rows = map(json.dumps, _flat_questions(rng))
  _write(folder, "x.json", "\n".join(rows) + "\n")


def _write_flat_parquet(folder, rng):
  # The library starts a thread, which workers of tests do without.
  import pyarrow
  from pyarrow import parquet

  table = pyarrow.Table.from_pylist(_flat_questions(rng))
  buffer = pyarrow.BufferOutputStream()
  parquet.write_table(table, buffer)
  _write(folder, "x.json", buffer.getvalue().to_pybytes())


def _read_questions(folder):
  dataset = squad.read_dataset(os.path.join(folder, "x.json"))
  return [
    (dataset.paragraphs[question.paragraph], question.text, question.answers)
    for question in dataset.questions
  ]


def _read_squad(folder):
  dataset = squad.read_dataset(os.path.join(folder, "x.json"))
  reader = squad_windows.WindowMaker(
    dataset, _tokenizer(folder), squad_windows.WindowSettings(24, 8, 8)
  )
  scores = squad_evaluation.evaluate_v2(
    dataset.questions, {question.id: "a cat" for question in dataset.questions}
  )
  return (
    dataset,
    scores,
    list(reader.cut_training_windows(skip_missing_answers=True)),
  )


# --- Corpora -----------------------------------------------------------------


def _corpus_text(rng) -> str:
  return (
    "\n\n".join("\n".join(_text(rng) for _ in range(3)) for _ in range(3))
    + "\n"
  )


def _corpus_lines(rng) -> str:
  return _lines(rng, lambda rng: {"text": f"{_text(rng)}\n{_text(rng)}"})


def _compressed(text: str) -> bytes:
  return zstandard.ZstdCompressor(write_checksum=True).compress(text.encode())


def _corpus_kind(name, file, make, **options) -> Kind:
  # Where lines may be replaced, compressed bytes still may not be text.
  parser = corpus.TextParser(
    "replace" if "has_checksum" in options else "strict"
  )
  return Kind(
    name,
    file,
    lambda folder, rng: _write(folder, file, make(rng)),
    lambda folder: _read_corpus(os.path.join(folder, file), parser),
    **options,
  )


def _read_corpus(path, parser):
  files = file_names.find_files(path, "--input_file")
  counts = collections.Counter()
  documents = [
    document
    for block in corpus.read_all_blocks(files, corpus.choose_block_bytes(files))
    for document in parser.parse_block(block, counts)
  ]
  return documents, counts


# --- Records -----------------------------------------------------------------


def _pretraining_record(rng) -> bytes:
  ids = [rng.randrange(1, 30) for _ in range(12)]
  return serialization.serialize_example(
    {
      "input_ids": ids,
      "input_mask": [1] * 12,
      "segment_ids": [0] * 12,
      "masked_lm_positions": [1, 2, 0],
      "masked_lm_ids": [7, 8, 0],
      "masked_lm_weights": [1.0, 1.0, 0.0],
      "next_sentence_labels": [1],
    }
  )


def _write_records(path, contents):
  with tf.io.TFRecordWriter(path) as writer:
    for content in contents:
      writer.write(content)


def _read_pretraining_records(folder):
  file = os.path.join(folder, "x.tfrecord")
  record_format = record_formats.check_pretraining_files([file], 12, 3)
  try:
    return [
      _comparable(row)
      for row in _pretraining_dataset(file, record_format)
      .unbatch()
      .as_numpy_iterator()
    ]
  except (tf.errors.DataLossError, tf.errors.InvalidArgumentError) as error:
    damage = record_files.find_damage(
      [file],
      lambda contents: record_formats.examine_records(
        contents, record_format, 40, 2
      ),
    )
    if damage is None:
      raise
    raise errors.UserError(str(damage)) from error


@functools.lru_cache
def _pretraining_dataset(file, record_format):
  """Returns the batches of a file, which is not read before the iteration."""
  return input_pipeline.pretraining_dataset(
    [file],
    record_format,
    vocab_size=40,
    type_vocab_size=2,
    batch_size=4,
    is_training=False,
    seed=0,
    drop_remainder=False,
  )


def _read_pretraining_content(folder):
  """Reads a record with damaged content and a valid checksum."""
  with open(os.path.join(folder, "x.example"), "rb") as reader:
    _write_records(os.path.join(folder, "x.tfrecord"), [reader.read()])
  return _read_pretraining_records(folder)


def _reuse_records(folder, unused_rng=None):
  path = os.path.join(folder, "x.tf_record")

  def write():
    _write_records(path, [b"a", b"bc"])
    return {"num_records": 2, "places": [[0, 1], [2, 3]]}

  stamped = record_files.reuse_or_write_file(path, "a digest", write)
  return stamped, _files(folder)[os.path.basename(path)]


# --- Features ----------------------------------------------------------------

_FORMATS = {
  "json": lambda: feature_files.JsonLines([0, 1]),
  "npz": feature_files.Npz,
  "tfrecord": feature_files.TfRecords,
  "parquet": feature_files.Parquet,
}


def _feature_file(folder, name):
  return feature_files.PartedFile(
    os.path.join(folder, "x"), _FORMATS[name](), {"layers": [0, 1], "a": "b"}
  )


def _features(rng) -> list[feature_files.LineFeatures]:
  values = np.random.default_rng(rng.randrange(99))
  return [
    feature_files.LineFeatures(
      number,
      ["[CLS]", "un", "##e\u00e9"],
      values.normal(size=(3, 2, 4)).astype(np.float32),
    )
    for number in range(2)
  ]


def _write_parts(folder, name):
  output = _feature_file(folder, name)
  for number in range(2):
    output.write_part(number, _features(random.Random(number)))


def _finish_parts(folder, name):
  output = _feature_file(folder, name)
  for number in range(2):
    if not output.has_part(number, 2):
      output.write_part(number, _features(random.Random(number)))
  output.finish(2)
  return _files(folder)["x"]


def _parts_kind(name, file, label) -> Kind:
  return Kind(
    f"{label}, {name}",
    os.path.join("x.parts", file),
    lambda folder, rng: _write_parts(folder, name),
    lambda folder: _finish_parts(folder, name),
    has_checksum=True,
    is_json=file.endswith(".json"),
    is_slow=True,
  )


# --- Files of runs -----------------------------------------------------------

_LOGITS_SHAPE = (5, 3)


def _write_cache(folder, rng):
  writer = io.BytesIO()
  np.save(
    writer,
    np.random.default_rng(rng.randrange(99))
    .normal(size=_LOGITS_SHAPE)
    .astype(np.float32),
  )
  _write(folder, "x.npy", writer.getvalue())


def _read_cache(folder):
  logits = distillation.read_cached(
    os.path.join(folder, "x.npy"), _LOGITS_SHAPE
  )
  if logits is None:
    return "asked again"
  if not np.isfinite(logits).all():
    raise AssertionError("A logit is not finite.")
  return _comparable({"logits": logits})


# Kind of the examples for a page -> one of them.
_REPORT_ROWS = {
  "single_label": dict(
    id="7",
    text_a="a cat",
    text_b=None,
    label="yes",
    prediction="no",
    probabilities=[0.25, 0.75],
    words=[[[0, 1, -0.5], [2, 5, 1.5]]],
  ),
  "tagging": dict(
    words=["Bo", "ran"], tags=["B-p", "O"], prediction=["O", "O"], line=3
  ),
  "span": dict(
    id="7",
    question="who",
    context="Bo ran",
    is_cut=[False, True],
    answers=["Bo"],
    answer_spans=[[0, 2]],
    prediction="ran",
    span=[3, 6],
    n_best=[["ran", 0.5]],
    exact=0.0,
    f1=0.5,
  ),
  "multiple_choice": dict(
    id="7",
    context="Bo",
    choices=["ran", "sat"],
    label=1,
    prediction=0,
    probabilities=[0.75, 0.25],
  ),
}


def _write_report_examples(kind, folder, rng):
  labels = {"single_label": ["yes", "no"], "tagging": ["B-p", "O"]}
  example_files.write(
    folder,
    "dev",
    kind,
    3,
    lambda number: _REPORT_ROWS[kind],
    labels.get(kind, []),
    {"eval_accuracy": rng.random()},
  )


def _write_report_run(folder, rng):
  command = run_files.Command(
    "run_classifier.py", ["--do_train=true"], rng.random(), ["A warning."]
  )
  run_files.add_command(folder, command)


def _write_report_masks(folder, rng):
  outputs = {
    "input_ids": np.array([1, 2]),
    "input_mask": np.array([1, 1]),
    "masked_lm_positions": np.array([1]),
    "masked_lm_ids": np.array([0]),
    "masked_lm_weights": np.array([1.0]),
    "choices": np.array([[0, 3]]),
    "probabilities": np.array([[rng.random(), 0.0]]),
  }
  history = mask_report.MaskHistory(
    folder, 0, 5, {0: "a", 1: "un", 2: "##able"}, lambda: [outputs]
  )
  history.add(5)
  history.add(10)


def _write_log(folder, rng):
  _write(
    folder,
    "training_log.jsonl",
    "".join(
      json.dumps(record) + "\n"
      for step in range(4)
      for record in [
        {"step": step, "loss": rng.random(), "gradient_norm": None},
        {"step": step, "evaluation": {"loss": rng.random(), "f1": 0.5}},
      ]
    ),
  )


def _write_result(folder, rng):
  _write(
    folder,
    "result.json",
    json.dumps(
      {
        "command": ["--a=b", f"--seed={rng.randrange(9)}"],
        "scores": {"eval_f1": rng.random(), "eval_loss": 1},
      }
    ),
  )


def _write_lock(folder, unused_rng):
  with locks.Lock.of_folder(folder, "--x"):
    content = _files(folder)[".lock"]
  _write(folder, ".lock", content)


def _read_lock(folder):
  return locks._describe_holder(_files(folder)[".lock"][:10_000])


def _write_tf_config(folder, rng):
  _write(
    folder,
    "TF_CONFIG",
    json.dumps(
      {
        "cluster": {"worker": ["a:1", "b:2"], "ps": []},
        "task": {"type": "worker", "index": rng.randrange(2)},
      }
    ),
  )


def _read_tf_config(folder):
  with open(os.path.join(folder, "TF_CONFIG"), "rb") as reader:
    return cluster.count_machines(
      reader.read().decode("utf-8", "surrogateescape")
    )


def _write_model_archive(folder, rng):
  files = os.path.join(folder, "files")
  os.makedirs(files)
  _write_config(files, rng)
  _write_vocab(files, rng)
  checkpoint.write(os.path.join(files, "bert_model.ckpt"), _tensors(rng))
  archive = shutil.make_archive(os.path.join(folder, "x"), "zip", files)
  assert archive.endswith("x.zip")
  shutil.rmtree(files)


_CONTENT = b"a model"


def _write_download(folder, rng):
  md5 = base64.b64encode(hashlib.md5(_CONTENT).digest()).decode()
  _write(folder, "x.part", _CONTENT)
  _write(
    folder,
    "x.part.json",
    json.dumps(
      {
        "size": str(len(_CONTENT)),
        "etag": f'"{rng.random()}"',
        "hash": f"crc32c=x==,md5={md5}",
      }
    ),
  )


def _read_download(folder):
  """Finishes a download that already has all bytes."""
  with mock.patch("urllib.request.urlopen", side_effect=OSError("no server")):
    return download_model.download("http://x/", os.path.join(folder, "x.part"))


def _read_model_archive(folder):
  target = os.path.join(folder, "model")
  download_model.unpack(os.path.join(folder, "x.zip"), target, {"url": "u"})
  return _files(target)


# --- The table ---------------------------------------------------------------

KINDS = (
  Kind(
    "bert_config.json",
    "bert_config.json",
    _write_config,
    lambda folder: modeling.BertConfig.from_json_file(
      os.path.join(folder, "bert_config.json")
    ),
    is_json=True,
  ),
  Kind(
    "config.json of transformers",
    "config.json",
    _write_their_config,
    lambda folder: modeling.BertConfig.from_dict(
      transformers_config.read_config(os.path.join(folder, "config.json"))
    ),
    is_json=True,
  ),
  Kind(
    "classifier.json",
    "classifier.json",
    _write_classifier,
    classifier_config.ClassifierConfig.read,
    is_json=True,
  ),
  *(
    Kind(
      name,
      name,
      _write_tokenizer_files,
      tokenizer_settings.TokenizerSettings.read,
      is_json=True,
    )
    for name in ("tokenizer_config.json", "tokenizer.json")
  ),
  Kind("vocab.txt", "vocab.txt", _write_vocab, _read_vocab),
  Kind(
    "checkpoint, index",
    "x.ckpt.index",
    _write_checkpoint,
    lambda folder: _read_weights(folder, "x.ckpt"),
    has_checksum=True,
  ),
  Kind(
    "checkpoint, data",
    "x.ckpt.data-00000-of-00001",
    _write_checkpoint,
    lambda folder: _read_weights(folder, "x.ckpt"),
    has_checksum=True,
  ),
  Kind(
    "safetensors",
    "model.safetensors",
    _write_safetensors,
    lambda folder: _read_weights(folder, "model.safetensors"),
  ),
  Kind(
    "index of safetensors",
    "model.safetensors.index.json",
    _write_shards,
    lambda folder: _read_weights(folder, "model.safetensors.index.json"),
    is_json=True,
  ),
  Kind(
    "tf_model.h5",
    "tf_model.h5",
    _write_keras,
    lambda folder: _read_weights(folder, "tf_model.h5"),
  ),
  Kind("list of files", "files.txt", _write_list, _read_list, is_sequence=True),
  Kind(
    "pytorch_model.bin, zip",
    "pytorch_model.bin",
    lambda folder, rng: _write_pytorch(folder, rng, True),
    lambda folder: _read_weights(folder, "pytorch_model.bin"),
    has_checksum=True,
  ),
  Kind(
    "pytorch_model.bin, old",
    "pytorch_model.bin",
    lambda folder, rng: _write_pytorch(folder, rng, False),
    lambda folder: _read_weights(folder, "pytorch_model.bin"),
  ),
  Kind(
    "checkpoint list of a run",
    "checkpoint",
    _write_run,
    checkpoint_folder.find_latest,
  ),
  Kind(
    "state of a run", "model.ckpt-2.json", _write_run, _read_state, is_json=True
  ),
  Kind(
    "task file",
    "task.json",
    _write_task,
    lambda folder: classification.read_task_file(
      os.path.join(folder, "task.json")
    ),
    is_json=True,
  ),
  Kind(
    "classification, .tsv",
    "train.tsv",
    lambda folder, rng: _write_rows(folder, rng, "train.tsv", "\t"),
    lambda folder: _read_examples(folder, _SINGLE),
  ),
  Kind(
    "classification, .csv",
    "train.csv",
    lambda folder, rng: _write_rows(folder, rng, "train.csv", ","),
    lambda folder: _read_examples(folder, _SINGLE),
  ),
  Kind(
    "classification, .csv.gz",
    "train.csv.gz",
    _compress_rows,
    lambda folder: _read_examples(folder, _SINGLE),
  ),
  Kind(
    "classification, .parquet",
    "train.parquet",
    _write_parquet,
    lambda folder: _read_examples(folder, _SINGLE),
  ),
  Kind(
    "classification, .jsonl",
    "train.jsonl",
    _write_several_labels,
    lambda folder: _read_examples(folder, _MULTI),
    is_json=True,
  ),
  Kind(
    "regression, .tsv",
    "train.tsv",
    _write_numbers,
    lambda folder: _read_examples(folder, _NUMBER),
  ),
  Kind("SQuAD", "x.json", _write_squad, _read_squad, is_json=True),
  Kind(
    "questions, JSON lines",
    "x.json",
    _write_flat_lines,
    _read_questions,
    is_json=True,
    is_sequence=True,
  ),
  Kind("questions, Parquet", "x.json", _write_flat_parquet, _read_questions),
  Kind("tags", "train.txt", _write_tags, _read_tags),
  Kind("tags, GermEval", "train.txt", _write_numbered_tags, _read_tags),
  Kind(
    "tags, JSON", "train.txt", _write_tagged_texts, _read_tags, is_json=True
  ),
  Kind(
    "choices, .csv",
    "x.csv",
    _write_swag,
    lambda folder: swag.read_examples([os.path.join(folder, "x.csv")]),
  ),
  Kind(
    "choices, .jsonl",
    "x.jsonl",
    _write_choices,
    lambda folder: swag.read_examples([os.path.join(folder, "x.jsonl")]),
    is_json=True,
  ),
  Kind(
    "choices, RACE",
    "x.jsonl",
    _write_articles,
    lambda folder: swag.read_examples([os.path.join(folder, "x.jsonl")]),
    is_json=True,
  ),
  _corpus_kind("corpus, .txt", "x.txt", _corpus_text),
  _corpus_kind("corpus, .jsonl", "x.jsonl", _corpus_lines, is_json=True),
  _corpus_kind(
    "corpus, .jsonl.gz",
    "x.jsonl.gz",
    lambda rng: gzip.compress(_corpus_lines(rng).encode(), mtime=0),
    has_checksum=True,
  ),
  _corpus_kind(
    "corpus, .txt.zst",
    "x.txt.zst",
    lambda rng: _compressed(_corpus_text(rng)),
    has_checksum=True,
  ),
  Kind(
    "pre-training records",
    "x.tfrecord",
    lambda folder, rng: _write_records(
      os.path.join(folder, "x.tfrecord"),
      [_pretraining_record(rng) for _ in range(5)],
    ),
    _read_pretraining_records,
    has_checksum=True,
    is_sequence=True,
    is_slow=True,
  ),
  Kind(
    "content of a record",
    "x.example",
    lambda folder, rng: _write(folder, "x.example", _pretraining_record(rng)),
    _read_pretraining_content,
    is_slow=True,
  ),
  Kind(
    "stamp of records",
    "x.tf_record.stamp.json",
    _reuse_records,
    _reuse_records,
    has_checksum=True,
    is_json=True,
  ),
  Kind(
    "stamped records",
    "x.tf_record",
    _reuse_records,
    _reuse_records,
    has_checksum=True,
  ),
  *(_parts_kind(name, "part-000001", "part of features") for name in _FORMATS),
  _parts_kind("json", "part-000001.json", "manifest of a part"),
  _parts_kind("json", "settings.json", "settings of parts"),
  Kind("teacher's logits", "x.npy", _write_cache, _read_cache),
  Kind(
    "training log",
    "training_log.jsonl",
    _write_log,
    lambda folder: loss_plot.read_curves(folder, "loss"),
    is_json=True,
  ),
  *(
    Kind(
      f"examples for the page, {kind}",
      "report_dev.jsonl",
      functools.partial(_write_report_examples, kind),
      lambda folder: run_report.make_page(folder),
      is_json=True,
    )
    for kind in _REPORT_ROWS
  ),
  Kind(
    "masked words for the page",
    "report_masks.json",
    _write_report_masks,
    lambda folder: run_report.make_page(folder),
    is_json=True,
  ),
  Kind(
    "commands for the page",
    "report_run.json",
    _write_report_run,
    lambda folder: run_report.make_page(folder),
    is_json=True,
  ),
  Kind(
    "result of a run of GLUE",
    "result.json",
    _write_result,
    lambda folder: run_glue._read_result(os.path.join(folder, "result.json")),
    is_json=True,
  ),
  Kind("lock", ".lock", _write_lock, _read_lock, is_json=True),
  Kind(
    "TF_CONFIG", "TF_CONFIG", _write_tf_config, _read_tf_config, is_json=True
  ),
  Kind(
    "download", "x.part", _write_download, _read_download, has_checksum=True
  ),
  Kind(
    "headers of a download",
    "x.part.json",
    _write_download,
    _read_download,
    has_checksum=True,
    is_json=True,
  ),
  Kind(
    "archive of a model",
    "x.zip",
    _write_model_archive,
    _read_model_archive,
    has_checksum=True,
  ),
)
