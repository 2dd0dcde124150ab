"""Speed and memory of create_pretraining_data.py beside plain code.

    python benchmarks/pretraining_data.py --text_file=books_en.txt \\
        --vocab_file=$BERT/vocab.txt

The plain code keeps all documents in memory as lists of tokens and makes one
instance after the other; it has a few megabytes of the text. The program has
all of it, with one process and with two, and then ten times as much, to show
that memory does not grow. Each runs in processes of its own, which are not
timed while they start.
"""

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

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# pylint: disable=g-import-not-at-top,wrong-import-position
from absl import app
from absl import flags
import tensorflow as tf

import create_pretraining_data
from data import file_io
from data import serialization
from pretraining import workers
import tokenization

FLAGS = flags.FLAGS

_LENGTH, _PREDICTIONS = 128, 20


def define_flags() -> None:
  flags.DEFINE_string(
    "text_file", None, "Text, one sentence a line.", required=True
  )
  flags.DEFINE_string(
    "vocab_file", None, "An uncased vocabulary.", required=True
  )
  flags.DEFINE_integer("dupe_factor", 10, "How often to go over the text.")
  flags.DEFINE_integer(
    "plain_megabytes", 3, "How much of the text the plain code has; it is slow."
  )
  flags.DEFINE_integer(
    "times",
    10,
    "How much more text there is when memory is measured; 0 to leave that out.",
  )


# --- Plain code --------------------------------------------------------------


def make_plainly(text_file, vocab_file, megabytes, dupe_factor, output):
  """Makes records token by token; returns how many."""
  tokenizer = tokenization.FullTokenizer(vocab_file)
  rng = random.Random(1)
  with open(text_file, encoding="utf-8") as reader:
    text = reader.read(megabytes << 20)
  documents = [
    [tokenizer.tokenize(line) for line in document.split("\n") if line]
    for document in text.split("\n\n")
  ]
  instances = [
    instance
    for _ in range(dupe_factor)
    for number in range(len(documents))
    for instance in _instances(documents, number, tokenizer, rng)
  ]
  rng.shuffle(instances)
  with tf.io.TFRecordWriter(output) as writer:
    for instance in instances:
      writer.write(_record(*instance, tokenizer))
  return len(instances)


def _instances(documents, number, tokenizer, rng):
  document, longest = documents[number], _LENGTH - 3
  words = list(tokenizer.vocab)
  target = rng.randint(2, longest) if rng.random() < 0.1 else longest
  i = 0
  while i < len(document):
    chunk, length = [], 0
    while i < len(document) and length < target:
      chunk.append(document[i])
      length += len(document[i])
      i += 1
    end_of_a = rng.randint(1, max(1, len(chunk) - 1))
    a = list(itertools.chain(*chunk[:end_of_a]))
    is_random = len(chunk) == 1 or rng.random() < 0.5
    if is_random:
      other = rng.choice(documents[:number] + documents[number + 1 :])
      b = []
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
    tokens = ["[CLS]", *a, "[SEP]", *b, "[SEP]"]
    segment_ids = [0] * (len(a) + 2) + [1] * (len(b) + 1)
    candidates = [
      place
      for place, token in enumerate(tokens)
      if token not in ("[CLS]", "[SEP]")
    ]
    rng.shuffle(candidates)
    wanted = min(_PREDICTIONS, max(1, round(len(tokens) * 0.15)))
    labels = {place: tokens[place] for place in sorted(candidates[:wanted])}
    for place in labels:
      if rng.random() < 0.8:
        tokens[place] = "[MASK]"
      elif rng.random() < 0.5:
        tokens[place] = rng.choice(words)
    yield tokens, segment_ids, labels, is_random


def _record(tokens, segment_ids, labels, is_random, tokenizer) -> bytes:
  padding = [0] * (_LENGTH - len(tokens))
  unused = [0] * (_PREDICTIONS - len(labels))
  return serialization.serialize(
    {
      "input_ids": tokenizer.convert_tokens_to_ids(tokens) + padding,
      "input_mask": [1] * len(tokens) + padding,
      "segment_ids": segment_ids + padding,
      "masked_lm_positions": list(labels) + unused,
      "masked_lm_ids": (
        tokenizer.convert_tokens_to_ids(labels.values()) + unused
      ),
      "masked_lm_weights": [1.0] * len(labels) + [0.0] * len(unused),
      "next_sentence_labels": [int(is_random)],
    }
  )


# --- The program -------------------------------------------------------------


def make(text_file, vocab_file, times, dupe_factor, num_workers, output):
  """Makes records with the program; returns how many."""
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


def _start() -> None:
  """Imports what is needed, and starts what workers are forked from."""
  for _ in workers.map_unordered(_identity, range(2), 2):
    pass


def _identity():
  return int


def _timed(function, arguments):
  """Returns the number of records, seconds, and the peak of memory in MB."""
  start = time.perf_counter()
  count = function(*arguments)
  return (
    count,
    time.perf_counter() - start,
    resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
  )


def measure(name, function, *arguments) -> float:
  """Runs a function in a process of its own; returns instances a second."""
  with tempfile.TemporaryDirectory() as folder:
    with concurrent.futures.ProcessPoolExecutor(
      1, multiprocessing.get_context("spawn")
    ) as executor:
      executor.submit(_start).result()
      count, seconds, peak = executor.submit(
        _timed, function, (*arguments, os.path.join(folder, "x"))
      ).result()
  print(
    f"{name:40s} {count:8d} instances  {count / seconds:8.0f} a second  "
    f"{1e3 * seconds / count:6.3f} ms each  "
    f"peak {peak:5.0f} MB",
    flush=True,
  )
  return count / seconds


def main(_):
  inputs = FLAGS.text_file, FLAGS.vocab_file
  plain = measure(
    "plain code",
    make_plainly,
    *inputs,
    FLAGS.plain_megabytes,
    FLAGS.dupe_factor,
  )
  one = measure("one process", make, *inputs, 1, FLAGS.dupe_factor, 1)
  two = measure("two processes", make, *inputs, 1, FLAGS.dupe_factor, 2)
  print(
    f"ours beside plain code: {one / plain:.1f} times as many a second; "
    f"two processes beside one: {two / one:.2f} times"
  )
  if FLAGS.times:
    measure(
      f"one process, {FLAGS.times} times the text",
      make,
      *inputs,
      FLAGS.times,
      1,
      1,
    )


if __name__ == "__main__":
  define_flags()
  app.run(main)
