"""The features of pre-training records, and checks of their values."""

from collections.abc import Iterator, Mapping, Sequence
import itertools
from typing import NamedTuple

from google.protobuf import message
import numpy as np
import tensorflow as tf

from data import record_files
from errors import UserError

# How many records to try where damaged ones are skipped.
_RECORDS_TRIED = 1000
# No weight of a prediction is as large.
_MOST_WEIGHT = 2**20


class PretrainingFormat(NamedTuple):
  """What pre-training records hold.

  Attributes:
    max_seq_length: tokens of a record.
    max_predictions_per_seq: predictions of a record.
    max_sequences: how many sequences a record holds; 1 in the known format,
      more in packed records.
    has_next_sentence: whether they are labelled for next sentence prediction.
    has_words: whether it is told which tokens belong to the word before them.
  """

  max_seq_length: int
  max_predictions_per_seq: int
  max_sequences: int = 1
  has_next_sentence: bool = True
  has_words: bool = False

  def feature_spec(self) -> dict[str, tf.io.FixedLenFeature]:
    """Returns the features, for `tf.io.parse_example`."""
    sequence = tf.io.FixedLenFeature([self.max_seq_length], tf.int64)
    predictions = [self.max_predictions_per_seq]
    sequences = [self.max_sequences]
    spec = {
      "input_ids": sequence,
      "input_mask": sequence,
      "segment_ids": sequence,
      "masked_lm_positions": tf.io.FixedLenFeature(predictions, tf.int64),
      "masked_lm_ids": tf.io.FixedLenFeature(predictions, tf.int64),
      "masked_lm_weights": tf.io.FixedLenFeature(predictions, tf.float32),
    }
    if self.has_words:
      spec["continues_word"] = sequence
    if self.max_sequences > 1:
      spec["sequence_starts"] = tf.io.FixedLenFeature(sequences, tf.int64)
    if self.has_next_sentence:
      spec["next_sentence_labels"] = tf.io.FixedLenFeature(sequences, tf.int64)
      if self.max_sequences > 1:
        spec["next_sentence_weights"] = tf.io.FixedLenFeature(
          sequences, tf.float32
        )
    return spec


def check_pretraining_files(
  files: Sequence[str],
  max_seq_length: int,
  max_predictions_per_seq: int,
  skip_damaged_records: bool = False,
) -> PretrainingFormat:
  """Looks at the first record of each file, before hours go by.

  Args:
    files: TFRecord files.
    max_seq_length: tokens that a record should have.
    max_predictions_per_seq: predictions that a record should have.
    skip_damaged_records: whether the first undamaged record will do.

  Returns:
    The format of the records.

  Raises:
    UserError: a file is no TFRecord file, holds other features, or was made
      with another length or number of predictions; or the files differ.
  """
  num_tried = _RECORDS_TRIED if skip_damaged_records else 1
  formats = {}
  for file in files:
    first_error = None
    for record in itertools.islice(
      _first_records(file, skip_damaged_records), num_tried
    ):
      try:
        formats.setdefault(
          _format_of_record(
            record, file, max_seq_length, max_predictions_per_seq
          ),
          file,
        )
        break
      except UserError as error:
        first_error = first_error or error
    else:
      raise first_error or UserError(f"{file} holds no record.")
  if len(formats) > 1:
    raise UserError(
      "The input files hold records of different kinds: "
      + "; ".join(
        f"{file} has {', '.join(sorted(record_format.feature_spec()))}, up "
        f"to {record_format.max_sequences} sequences a record"
        for record_format, file in formats.items()
      )
      + ". Train on those of one kind."
    )
  return next(iter(formats))


def _first_records(file: str, skip_damaged_records: bool) -> Iterator[bytes]:
  """Yields the first record of a file, or those that can be read."""
  if skip_damaged_records:
    yield from record_files.readable_records(file)
    return
  try:
    yield from tf.data.TFRecordDataset(file).take(1).as_numpy_iterator()
  except tf.errors.DataLossError as error:
    raise UserError(
      f"{file} is not a TFRecord file, or it is damaged at its start."
    ) from error


def _format_of_record(
  record: bytes, file: str, max_seq_length: int, max_predictions_per_seq: int
) -> PretrainingFormat:
  """Returns the format of a record.

  Raises:
    UserError: it is no record of pre-training, or of another length.
  """
  try:
    features = tf.train.Example.FromString(record).features.feature
  except message.DecodeError as error:
    raise UserError(
      f"{file} is no file of pre-training records: its first "
      "record is no tf.train.Example. Make it with "
      "create_pretraining_data.py."
    ) from error
  lengths = {
    name: len(feature.int64_list.value) or len(feature.float_list.value)
    for name, feature in features.items()
  }
  record_format = PretrainingFormat(
    max_seq_length,
    max_predictions_per_seq,
    max(1, lengths.get("sequence_starts", 1)),
    "next_sentence_labels" in lengths,
    "continues_word" in lengths,
  )
  flags = {
    "input_ids": "max_seq_length",
    "masked_lm_positions": "max_predictions_per_seq",
  }
  for name, feature in record_format.feature_spec().items():
    if name not in features:
      raise UserError(
        f"{file} is no file of pre-training records: {name} is missing. It "
        f"has {', '.join(sorted(features)) or 'no features'}. Make it with "
        "create_pretraining_data.py."
      )
    length = lengths[name]
    if length != feature.shape[0]:
      flag = flags.get(name, "max_seq_length")
      raise UserError(
        f"{file}: {name} has {length} values, but --{flag}="
        f"{feature.shape[0]}. The records were made with --{flag}={length}: "
        "pass the same, or make the records again."
      )
  return record_format


_LIMIT_MEANINGS = {
  **dict.fromkeys(
    ("input_ids", "masked_lm_ids"), ", the vocab_size of the model"
  ),
  "segment_ids": ", the type_vocab_size of the model",
}


def value_limits(
  record_format: PretrainingFormat, vocab_size: int, type_vocab_size: int
) -> dict[str, int]:
  """Returns the number that all values of each feature have to be below."""
  max_seq_length = record_format.max_seq_length
  limits = {
    "input_ids": vocab_size,
    "input_mask": 2,
    "segment_ids": type_vocab_size,
    "masked_lm_positions": max_seq_length,
    "masked_lm_ids": vocab_size,
    "masked_lm_weights": _MOST_WEIGHT,
    "continues_word": 2,
    "sequence_starts": max_seq_length,
    "next_sentence_labels": 2,
    "next_sentence_weights": _MOST_WEIGHT,
  }
  return {name: limits[name] for name in record_format.feature_spec()}


def is_within_limits(
  features: Mapping[str, tf.Tensor], limits: Mapping[str, int]
) -> tf.Tensor:
  """Returns whether all values are from 0 to below their limits, bool [].

  All features of a type are compared at once: a batch is small, and it is the
  number of operations that takes time.
  """
  by_type = {tf.int64: [], tf.float32: []}
  for name in limits:
    by_type[features[name].dtype].append(name)
  are_right = []
  for dtype, names in by_type.items():
    values = tf.concat([features[name] for name in names], axis=1)
    most = np.concatenate(
      [np.full(features[name].shape[1], limits[name]) for name in names]
    )
    if dtype == tf.int64:
      # As unsigned numbers, negative ones are above all limits.
      are_right.append(tf.bitcast(values, tf.uint64) < most.astype(np.uint64))
    else:
      # No comparison with NaN is true.
      are_right.append(
        tf.logical_and(values >= 0.0, values < most.astype(np.float32))
      )
  return tf.reduce_all(tf.concat(are_right, axis=1))


def examine_records(
  records: Sequence[bytes],
  record_format: PretrainingFormat,
  vocab_size: int,
  type_vocab_size: int,
) -> dict[int, str]:
  """Says what is wrong with pre-training records that training would not take.

  Args:
    records: serialized.
    record_format: what they should hold.
    vocab_size: as for `pretraining_dataset`.
    type_vocab_size: likewise.

  Returns:
    The index of each such record, and its problem.
  """
  spec = record_format.feature_spec()
  limits = value_limits(record_format, vocab_size, type_vocab_size)
  try:
    features = tf.io.parse_example(tf.constant(records, tf.string), spec)
  except tf.errors.InvalidArgumentError:
    if len(records) > 1:  # one of them is no such record: which?
      return {
        i: problem
        for i, record in enumerate(records)
        for problem in examine_records(
          [record], record_format, vocab_size, type_vocab_size
        ).values()
      }
    return {0: _format_problem(records[0], spec)}
  problems = {}
  for name, limit in limits.items():
    values = features[name].numpy()
    is_right = (values >= 0) & (values < limit)
    for i in np.flatnonzero(~np.all(is_right, axis=1)).tolist():
      place = int(np.argmin(is_right[i]))
      value = values[i, place]
      problems.setdefault(
        i,
        f"{name} has the value {value} at place {place}, but values are "
        f"from 0 to below {limit}{_LIMIT_MEANINGS.get(name, '')}",
      )
  return problems


def _format_problem(
  record: bytes, spec: Mapping[str, tf.io.FixedLenFeature]
) -> str:
  """Says why `tf.io.parse_example` does not take a record."""
  try:
    features = tf.train.Example.FromString(record).features.feature
  except message.DecodeError:
    return "it is no tf.train.Example"
  for name, feature in spec.items():
    kind = "float_list" if feature.dtype == tf.float32 else "int64_list"
    if name not in features:
      return f"{name} is missing"
    if features[name].WhichOneof("kind") != kind:
      return (
        f"{name} is a {features[name].WhichOneof('kind') or 'nothing'}, "
        f"not a {kind}"
      )
    length = len(getattr(features[name], kind).value)
    if length != feature.shape[0]:
      return f"{name} has {length} values, not {feature.shape[0]}"
  return "it is no record of pre-training"
