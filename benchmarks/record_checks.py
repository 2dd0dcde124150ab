"""Times what the checks of records cost, with and without them in turn.

    python benchmarks/record_checks.py --vocab_size=30522

Three rows: reading pre-training batches (values in range or not checked),
serializing the records of a task (in a fixed order of features or not), and
writing files of records (forced to the disk or not). A ratio is the speed with
checks, divided by the speed without.
"""

import os
import statistics
import sys
import tempfile
import time
from unittest import mock

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from absl import app
from absl import flags
import numpy as np
import result_files
import tensorflow as tf

from data import file_io
from data import record_files
from data import serialization
from pretraining import input_pipeline
from pretraining import record_formats

FLAGS = flags.FLAGS

_MAX_SEQ_LENGTH, _MAX_PREDICTIONS = 128, 20
_NUM_RECORDS = 20_000
_BATCH_SIZE = 32


def define_flags() -> None:
  """Defines the flags of this program."""
  flags.DEFINE_integer("vocab_size", 30522, "Ids are below.")
  flags.DEFINE_integer("turns", 9, "How often to time each way.")
  result_files.define_flag()


def _write_records(path: str) -> None:
  """Writes pre-training records of random ids."""
  rng = np.random.default_rng(1)
  shape = [_NUM_RECORDS, _MAX_SEQ_LENGTH]
  few = [_NUM_RECORDS, _MAX_PREDICTIONS]
  content, lengths = serialization.serialize_rows(
    {
      "input_ids": rng.integers(FLAGS.vocab_size, size=shape),
      "input_mask": np.ones(shape, np.int64),
      "segment_ids": rng.integers(2, size=shape),
      "masked_lm_positions": rng.integers(_MAX_SEQ_LENGTH, size=few),
      "masked_lm_ids": rng.integers(FLAGS.vocab_size, size=few),
      "masked_lm_weights": np.ones(few, np.float32),
      "next_sentence_labels": rng.integers(2, size=[_NUM_RECORDS, 1]),
    }
  )
  ends = np.cumsum(lengths)
  record_files.write_records(
    path,
    (
      content[end - length : end].tobytes()
      for end, length in zip(ends, lengths)
    ),
  )


def _read(path: str) -> None:
  """Reads an epoch of training batches."""
  dataset = input_pipeline.pretraining_dataset(
    [path],
    record_formats.PretrainingFormat(_MAX_SEQ_LENGTH, _MAX_PREDICTIONS),
    FLAGS.vocab_size,
    2,
    _BATCH_SIZE,
    True,
    1,
    True,
  )
  for _ in dataset.take(_NUM_RECORDS // _BATCH_SIZE):
    pass


def _read_unchecked(path: str) -> None:
  with mock.patch.object(
    record_formats, "is_within_limits", lambda *_: tf.constant(True)
  ):
    _read(path)


def _serialize(**settings) -> None:
  """Makes and serializes records of a task."""
  ids, segment_ids = list(range(60)), [0] * 60
  for label in range(_NUM_RECORDS // 10):
    example = tf.train.Example()
    for name, values in [
      ("input_ids", ids),
      ("segment_ids", segment_ids),
      ("label_ids", [label]),
    ]:
      example.features.feature[name].int64_list.value.extend(values)
    example.SerializeToString(**settings)


def _write(folder: str) -> None:
  """Writes files of 20 MB."""
  record = bytes(1000)
  record_files.write_records(
    os.path.join(folder, "x"), (record for _ in range(_NUM_RECORDS))
  )


def _write_unsynced(folder: str) -> None:
  with (
    mock.patch.object(file_io, "sync_file"),
    mock.patch.object(file_io, "sync_folder"),
  ):
    _write(folder)


def _compare(name: str, with_checks, without) -> dict[str, object]:
  """Runs two functions in turn; prints and returns how fast they are."""
  seconds = {with_checks: [], without: []}
  for turn in range(FLAGS.turns + 1):  # the first warms up
    for function in (with_checks, without):
      start = time.perf_counter()
      function()
      if turn:
        seconds[function].append(time.perf_counter() - start)
  # Other work on the machine only ever makes a turn slower.
  fastest, fastest_without = map(min, seconds.values())
  ratios = [b / a for a, b in zip(*seconds.values())]
  print(
    f"{name}: {_NUM_RECORDS / fastest:.0f} records a second, ratio of the "
    f"fastest turns {fastest_without / fastest:.3f}, median of the ratios "
    f"{statistics.median(ratios):.3f}"
  )
  return {
    "what": name,
    "value": round(_NUM_RECORDS / fastest),
    "unit": "records/s",
    "speed with checks / without": round(fastest_without / fastest, 3),
  }


def main(_):
  with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "records")
    _write_records(path)
    rows = [
      _compare("reading", lambda: _read(path), lambda: _read_unchecked(path)),
      _compare(
        "serializing", lambda: _serialize(deterministic=True), _serialize
      ),
      _compare(
        "writing", lambda: _write(folder), lambda: _write_unsynced(folder)
      ),
    ]
  result_files.write(
    section="Data and files",
    title="What the checks of records cost",
    rows=rows,
    note=f"The fastest of {FLAGS.turns} turns.",
  )


if __name__ == "__main__":
  define_flags()
  app.run(main)
