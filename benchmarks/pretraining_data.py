"""Speed and memory of create_pretraining_data.py compared with plain code.

    python benchmarks/pretraining_data.py --text_file=books_en.txt \\
        --vocab_file=$BERT/vocab.txt

The plain code keeps all documents in memory as lists of tokens, and makes one
instance after the other; it gets a few megabytes of the text. The program gets
the whole text, with one process and with two, and then ten times as much, to
show that memory does not grow. Each measurement runs in a process of its own,
whose start is not timed.
"""

from collections.abc import Callable, Iterator, Sequence
import concurrent.futures
import itertools
import json
import multiprocessing
import os
import random
import resource
import sys
import tempfile
import time
from typing import Any, NamedTuple

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# pylint: disable=g-import-not-at-top,wrong-import-position
from absl import app
from absl import flags
import result_files
import tensorflow as tf

import create_pretraining_data
from data import file_io
from data import serialization
from pretraining import workers
import tokenization

FLAGS = flags.FLAGS

_MAX_SEQ_LENGTH, _MAX_PREDICTIONS = 128, 20


def define_flags() -> None:
  """Defines the flags of this program."""
  flags.DEFINE_string(
    "text_file", None, "Text with one sentence per line.", required=True
  )
  flags.DEFINE_string(
    "vocab_file", None, "An uncased vocabulary.", required=True
  )
  flags.DEFINE_integer(
    "dupe_factor", 10, "Number of times to go over the text."
  )
  flags.DEFINE_integer(
    "plain_megabytes", 3, "Amount of text for the plain code, which is slow."
  )
  flags.DEFINE_integer(
    "times",
    10,
    "Factor by which the text grows when memory is measured; 0 to skip that.",
  )
  result_files.define_flag()


# --- Plain code --------------------------------------------------------------


class _Instance(NamedTuple):
  """A pair of sentences with masks."""

  tokens: list[str]
  segment_ids: list[int]
  labels: dict[int, str]
  is_random: bool


def make_plainly(
  text_file: str,
  vocab_file: str,
  megabytes: int,
  dupe_factor: int,
  output: str,
) -> int:
  """Makes records token by token; returns their number."""
  tokenizer = tokenization.FullTokenizer(vocab_file)
  rng = random.Random(1)
  with open(text_file, encoding="utf-8") as reader:
    text = reader.read(megabytes << 20)
  documents = []
  for document in text.split("\n\n"):
    lines = [line for line in document.split("\n") if line]
    documents.append([tokenizer.tokenize(line) for line in lines])
  instances: list[_Instance] = []
  for _ in range(dupe_factor):
    for number in range(len(documents)):
      instances.extend(_create_instances(documents, number, tokenizer, rng))
  rng.shuffle(instances)
  with tf.io.TFRecordWriter(output) as writer:
    for instance in instances:
      writer.write(_create_record(instance, tokenizer))
  return len(instances)


def _create_instances(
  documents: Sequence[list[list[str]]],
  number: int,
  tokenizer: tokenization.FullTokenizer,
  rng: random.Random,
) -> Iterator[_Instance]:
  document, longest = documents[number], _MAX_SEQ_LENGTH - 3
  words = list(tokenizer.vocab)
  target = rng.randint(2, longest) if rng.random() < 0.1 else longest
  i = 0
  while i < len(document):
    chunk: list[list[str]] = []
    length = 0
    while i < len(document) and length < target:
      chunk.append(document[i])
      length += len(document[i])
      i += 1
    end_of_a = rng.randint(1, max(1, len(chunk) - 1))
    a = list(itertools.chain(*chunk[:end_of_a]))
    is_random = len(chunk) == 1 or rng.random() < 0.5
    if is_random:
      other = rng.choice(documents[:number] + documents[number + 1 :])
      b: list[str] = []
      for sentence in other[rng.randrange(len(other)) :]:
        b.extend(sentence)
        if len(b) >= target - len(a):
          break
      i -= len(chunk) - end_of_a
    else:
      b = list(itertools.chain(*chunk[end_of_a:]))
    while len(a) + len(b) > longest:
      longer = a if len(a) > len(b) else b
      del longer[0 if rng.random() < 0.5 else -1]
    yield _mask_pair(a, b, is_random, words, rng)


def _mask_pair(
  a: list[str],
  b: list[str],
  is_random: bool,
  words: Sequence[str],
  rng: random.Random,
) -> _Instance:
  tokens = ["[CLS]", *a, "[SEP]", *b, "[SEP]"]
  segment_ids = [0] * (len(a) + 2) + [1] * (len(b) + 1)
  candidates = []
  for place, token in enumerate(tokens):
    if token not in ("[CLS]", "[SEP]"):
      candidates.append(place)
  rng.shuffle(candidates)
  wanted = min(_MAX_PREDICTIONS, max(1, round(len(tokens) * 0.15)))
  labels = {place: tokens[place] for place in sorted(candidates[:wanted])}
  for place in labels:
    if rng.random() < 0.8:
      tokens[place] = "[MASK]"
    elif rng.random() < 0.5:
      tokens[place] = rng.choice(words)
  return _Instance(tokens, segment_ids, labels, is_random)


def _create_record(
  instance: _Instance, tokenizer: tokenization.FullTokenizer
) -> bytes:
  length, num_labels = len(instance.tokens), len(instance.labels)
  padding = [0] * (_MAX_SEQ_LENGTH - length)
  unused = [0] * (_MAX_PREDICTIONS - num_labels)
  ids = tokenizer.convert_tokens_to_ids(instance.tokens)
  label_ids = tokenizer.convert_tokens_to_ids(instance.labels.values())
  return serialization.serialize_example(
    {
      "input_ids": ids + padding,
      "input_mask": [1] * length + padding,
      "segment_ids": instance.segment_ids + padding,
      "masked_lm_positions": list(instance.labels) + unused,
      "masked_lm_ids": label_ids + unused,
      "masked_lm_weights": [1.0] * num_labels + [0.0] * len(unused),
      "next_sentence_labels": [int(instance.is_random)],
    }
  )


# --- The program -------------------------------------------------------------


def make_with_program(
  text_file: str,
  vocab_file: str,
  times: int,
  dupe_factor: int,
  num_workers: int,
  output: str,
) -> int:
  """Makes records with the program; returns the number of instances."""
  create_pretraining_data.define_flags()
  FLAGS(
    [
      "create_pretraining_data",
      f"--input_file={','.join([text_file] * times)}",
      f"--output_file={output}",
      f"--vocab_file={vocab_file}",
      f"--dupe_factor={dupe_factor}",
      f"--num_workers={num_workers}",
      "--num_shards=4",
    ]
  )
  create_pretraining_data.main([""])
  with open(output + file_io.REPORT_SUFFIX) as reader:
    return json.load(reader)["instances"]


# --- Measurements ------------------------------------------------------------


def _warm_up() -> None:
  """Imports everything, and starts the process that workers are forked from."""
  for _ in workers.map_unordered(_create_int, range(2), 2):
    pass


def _create_int() -> type:
  return int


class _Measurement(NamedTuple):
  """The number of instances, the time, and the peak of memory in MB."""

  num_instances: int
  seconds: float
  peak: float


def _measure_here(
  function: Callable[..., int], arguments: Sequence[Any]
) -> _Measurement:
  start = time.perf_counter()
  num_instances = function(*arguments)
  seconds = time.perf_counter() - start
  usage = resource.getrusage(resource.RUSAGE_SELF)
  return _Measurement(num_instances, seconds, usage.ru_maxrss / 1e3)


def measure(
  name: str, function: Callable[..., int], *arguments: Any
) -> dict[str, Any]:
  """Runs a function in its own process; returns a row of results."""
  with tempfile.TemporaryDirectory() as folder:
    with concurrent.futures.ProcessPoolExecutor(
      1, multiprocessing.get_context("spawn")
    ) as executor:
      executor.submit(_warm_up).result()
      output = os.path.join(folder, "x")
      future = executor.submit(_measure_here, function, (*arguments, output))
      result = future.result()
  speed = result.num_instances / result.seconds
  print(
    f"{name:40s} {result.num_instances:8d} instances  {speed:8.0f} per second  "
    f"{1e3 / speed:6.3f} ms each  peak {result.peak:5.0f} MB",
    flush=True,
  )
  return {
    "what": name,
    "value": round(speed),
    "unit": "records/s",
    "peak of memory (MB)": round(result.peak),
  }


def main(_):
  inputs = FLAGS.text_file, FLAGS.vocab_file
  dupe_factor = FLAGS.dupe_factor
  plain = measure(
    "plain code", make_plainly, *inputs, FLAGS.plain_megabytes, dupe_factor
  )
  one = measure("one process", make_with_program, *inputs, 1, dupe_factor, 1)
  two = measure("two processes", make_with_program, *inputs, 1, dupe_factor, 2)
  rows = [plain, one, two]
  for row in rows:
    row["times as fast as plain code"] = round(row["value"] / plain["value"], 1)
  print(
    "speed compared with plain code: "
    f"{one['times as fast as plain code']}; two processes compared with one: "
    f"{two['value'] / one['value']:.2f}"
  )
  if FLAGS.times:
    name = f"one process, {FLAGS.times} times the text"
    rows.append(measure(name, make_with_program, *inputs, FLAGS.times, 1, 1))
  result_files.write(
    section="Data and files",
    title="Pre-training records",
    rows=rows,
    note=f"With `--dupe_factor={dupe_factor}`. The plain code has our "
    "tokenizer.",
  )


if __name__ == "__main__":
  define_flags()
  app.run(main)
