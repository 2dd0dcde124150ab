"""Tests of data/serialization.py."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import tensorflow as tf

from data import serialization


def parse(serialized):
  return tf.train.Example.FromString(serialized)


def test_rows_are_serialized_like_single_examples():
  rng = np.random.default_rng(0)
  num_rows = 9
  edges = [0, 127, 128, 16383, 16384, 2**21 - 1, 2**21, 2**28, 2**31 - 1]
  features = {
    "small": rng.integers(0, 128, (num_rows, 3)),
    "mixed": rng.choice(edges, (num_rows, 200)),
    "flags": rng.integers(0, 2, (num_rows, 130), dtype=np.uint8),
    "weights": rng.random((num_rows, 5), dtype=np.float32),
    "one": np.arange(num_rows)[:, np.newaxis],
  }
  content, lengths = serialization.serialize_rows(features)
  ends = np.cumsum(lengths)
  assert len(ends) == num_rows and ends[-1] == len(content)
  for row, (length, end) in enumerate(zip(lengths, ends)):
    values = {name: array[row].tolist() for name, array in features.items()}
    expected = tf.train.Example.FromString(
      serialization.serialize_example(values)
    )
    serialized = content[end - length : end].tobytes()
    assert tf.train.Example.FromString(serialized) == expected


def test_lists_of_floats_and_of_ints_keep_their_type():
  example = tf.train.Example.FromString(
    serialization.serialize_example(
      {"ints": [1, 2], "floats": [0.0, 1.0], "none": []}
    )
  )
  features = example.features.feature
  assert features["ints"].int64_list.value == [1, 2]
  assert features["floats"].float_list.value == [0.0, 1.0]
  assert features["none"].WhichOneof("kind") is not None


# Protocol buffers serialize a map in another order in each process, unless
# they are asked not to.
def test_an_example_has_the_same_bytes_in_every_process():
  code = (
    "from data import serialization; print(serialization.serialize_example("
    "dict(label_ids=[1], a=[1.0], b=[2], c=[3.0], d=[4])).hex())"
  )
  root = pathlib.Path(serialization.__file__).parent.parent
  outputs = set()
  for _ in range(2):
    process = subprocess.run(
      [sys.executable, "-c", code],
      check=True,
      capture_output=True,
      env={**os.environ, "PYTHONPATH": str(root)},
      timeout=300,
    )
    outputs.add(process.stdout.decode().strip())
  features = {"label_ids": [1], "a": [1.0], "b": [2], "c": [3.0], "d": [4]}
  assert outputs == {serialization.serialize_example(features).hex()}
