"""Tests of pretraining/record_formats.py."""

import functools

import pytest
import tensorflow as tf

from data import record_files
from data import serialization
from errors import UserError
from pretraining import input_pipeline
from pretraining import record_formats

FORMAT = record_formats.PretrainingFormat(2, 1)
RECORD = {
  "input_ids": [1, 2],
  "input_mask": [1, 1],
  "segment_ids": [0, 1],
  "masked_lm_positions": [1],
  "masked_lm_ids": [2],
  "masked_lm_weights": [1.0],
  "next_sentence_labels": [0],
}
PACKED_RECORD = {
  **RECORD,
  "sequence_starts": [0, 1],
  "next_sentence_labels": [0, 1],
  "next_sentence_weights": [1.0, 1.0],
}


def write(path, *records):
  """Writes records; None stands for a record that is no `tf.train.Example`."""
  serialized = []
  for record in records:
    serialized.append(
      b"\xff" if record is None else serialization.serialize_example(record)
    )
  record_files.write_records(str(path), serialized)
  return str(path)


# --- The format of files -----------------------------------------------------


@pytest.mark.parametrize(
  "record, changes",
  [
    (RECORD, {}),
    (PACKED_RECORD, dict(max_sequences=2)),
    ({**RECORD, "continues_word": [0, 1]}, dict(has_continues_word=True)),
    (
      {k: v for k, v in RECORD.items() if k != "next_sentence_labels"},
      dict(has_next_sentence=False),
    ),
  ],
)
def test_the_format_follows_from_the_features(tmp_path, record, changes):
  record_format = record_formats.check_pretraining_files(
    [write(tmp_path / "x", record)], 2, 1
  )
  assert record_format == FORMAT._replace(**changes)
  assert set(record_format.feature_spec()) == set(record)


@pytest.mark.parametrize(
  "records, message",
  [
    ([], "x holds no records"),
    ([None], "its first record is not a tf.train.Example"),
    ([{"a": [1]}], "input_ids is missing. It has a. Make it with"),
    ([{}], "input_ids is missing. It has no features"),
    (
      [{**RECORD, "input_ids": [1] * 3}],
      "input_ids has 3 values, but --max_seq_length=2. The records were made "
      "with --max_seq_length=3",
    ),
    (
      [{**RECORD, "masked_lm_positions": [1] * 3}],
      "positions has 3 values, but --max_predictions_per_seq=1",
    ),
  ],
)
def test_files_that_are_refused(tmp_path, records, message):
  path = write(tmp_path / "x", *records)
  with pytest.raises(UserError, match=message):
    record_formats.check_pretraining_files([path], 2, 1)


def test_files_of_different_formats_are_refused(tmp_path):
  files = [write(tmp_path / "a", RECORD), write(tmp_path / "b", PACKED_RECORD)]
  with pytest.raises(UserError, match="a has .* 1 seq.*; .*b has .* 2 seq"):
    record_formats.check_pretraining_files(files, 2, 1)


def test_damaged_first_records_can_be_skipped(tmp_path):
  path = write(tmp_path / "x", None, {"a": [1]}, RECORD)
  with pytest.raises(UserError, match="not a tf.train.Example"):
    record_formats.check_pretraining_files([path], 2, 1)
  assert record_formats.check_pretraining_files([path], 2, 1, True) == FORMAT
  with pytest.raises(UserError, match="not a tf.train.Example"):
    only_bad = write(tmp_path / "y", None, {"a": [1]})
    record_formats.check_pretraining_files([only_bad], 2, 1, True)
  file = tmp_path / "z"
  write(file, RECORD)
  file.write_bytes(file.read_bytes()[:-1] + b"x")  # in the checksum
  with pytest.raises(UserError, match="z has no undamaged record"):
    record_formats.check_pretraining_files([str(file)], 2, 1, True)


# --- The values of records ---------------------------------------------------


@pytest.mark.parametrize(
  "changes, problem",
  [
    (
      dict(input_ids=[1, 100]),
      "input_ids has the value 100 at place 1, but its values must be 0 to "
      "below 100, the size of the vocabulary",
    ),
    (dict(input_ids=[-1, 1]), "input_ids has the value -1 at place 0"),
    (dict(input_mask=[1, 2]), "input_mask has the value 2"),
    (dict(segment_ids=[0, 3]), "segment_ids has the value 3"),
    (dict(masked_lm_positions=[2]), "masked_lm_positions has the value 2"),
    (dict(masked_lm_ids=[-5]), "masked_lm_ids has the value -5"),
    (dict(masked_lm_weights=[float("nan")]), "masked_lm_weights has the value"),
    (dict(masked_lm_weights=[float("inf")]), "masked_lm_weights has the value"),
    (dict(masked_lm_weights=[-1.0]), "masked_lm_weights has the value -1"),
    (dict(next_sentence_labels=[2]), "next_sentence_labels has the value 2"),
    (dict(input_ids=[1]), "input_ids has 1 values, not 2"),
    (dict(input_ids=[1.0, 2.0]), "input_ids is a float_list, not a int64_list"),
    (dict(input_mask=None), "input_mask is missing"),
  ],
)
def test_bad_records_stop_the_reading_and_are_found(tmp_path, changes, problem):
  record = {**RECORD, **changes}
  record = {name: value for name, value in record.items() if value is not None}
  path = write(tmp_path / "x.tfrecord", RECORD, RECORD, record, RECORD)
  dataset = input_pipeline.pretraining_dataset(
    [path], FORMAT, 100, 2, 2, False, 1, False
  )
  with pytest.raises(tf.errors.InvalidArgumentError):
    list(dataset)
  examine = functools.partial(
    record_formats.examine_records,
    record_format=FORMAT,
    vocab_size=100,
    type_vocab_size=2,
  )
  damage = record_files.find_damage([path], examine)
  assert str(damage).startswith(f"{path}, record 3: {problem}")
  copy, damages = record_files.copy_undamaged_records(
    path, str(tmp_path / "new"), examine
  )
  assert damages == [damage]
  good = serialization.serialize_example(RECORD)
  assert list(tf.data.TFRecordDataset(copy).as_numpy_iterator()) == [good] * 3


def test_limits_of_packed_records():
  record_format = FORMAT._replace(max_sequences=2, has_continues_word=True)
  limits = record_formats.value_limits(record_format, 100, 3)
  assert limits["input_ids"] == limits["masked_lm_ids"] == 100
  assert limits["segment_ids"] == 3
  assert limits["sequence_starts"] == limits["masked_lm_positions"] == 2
  assert limits["continues_word"] == limits["next_sentence_labels"] == 2
