"""The features of pre-training records, and checks of their values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import itertools
from typing import NamedTuple

from google.protobuf import message
import numpy as np
import tensorflow as tf

from data import file_io
from data import record_files
from errors import UserError

# Number of records to try per file if damaged ones are skipped.
_RECORDS_TO_TRY = 1000
# Upper limit of the weight of a prediction, far above any sensible weight.
_WEIGHT_LIMIT = 2**20


class PretrainingFormat(NamedTuple):
  """The features of pre-training records.

  Attributes:
    max_seq_length: Number of tokens of a record, including padding.
    max_predictions_per_seq: Number of predictions, including padding.
    max_sequences: Number of sequences that a record can hold: 1 in the format
      of the original code, more if sequences are packed.
    has_next_sentence: Whether there are labels for next sentence prediction.
    has_continues_word: Whether records mark the tokens that continue a word.
  """

  max_seq_length: int
  max_predictions_per_seq: int
  max_sequences: int = 1
  has_next_sentence: bool = True
  has_continues_word: bool = False

  def feature_spec(self) -> dict[str, tf.io.FixedLenFeature]:
    """Returns the specification of the features, for parsing."""
    tokens = tf.io.FixedLenFeature([self.max_seq_length], tf.int64)
    predictions = [self.max_predictions_per_seq]
    sequences = [self.max_sequences]
    is_packed = self.max_sequences > 1
    spec = {
      "input_ids": tokens,
      "input_mask": tokens,
      "segment_ids": tokens,
      "masked_lm_positions": tf.io.FixedLenFeature(predictions, tf.int64),
      "masked_lm_ids": tf.io.FixedLenFeature(predictions, tf.int64),
      "masked_lm_weights": tf.io.FixedLenFeature(predictions, tf.float32),
    }
    if self.has_continues_word:
      spec["continues_word"] = tokens
    if is_packed:
      spec["sequence_starts"] = tf.io.FixedLenFeature(sequences, tf.int64)
    if self.has_next_sentence:
      spec["next_sentence_labels"] = tf.io.FixedLenFeature(sequences, tf.int64)
    if self.has_next_sentence and is_packed:
      weights = tf.io.FixedLenFeature(sequences, tf.float32)
      spec["next_sentence_weights"] = weights
    return spec


# --- The format of files -----------------------------------------------------


def check_pretraining_files(
  files: Sequence[str],
  max_seq_length: int,
  max_predictions_per_seq: int,
  skip_damaged_records: bool = False,
) -> PretrainingFormat:
  """Checks the first record of each file, before training begins.

  Args:
    files: Paths of TFRecord files.
    max_seq_length: Number of tokens that records should have.
    max_predictions_per_seq: Number of predictions that records should have.
    skip_damaged_records: Whether to check the first undamaged record instead.

  Returns:
    The format of the records.

  Raises:
    UserError: A file is not a TFRecord file, holds other features, or was made
      with another number of tokens or predictions; or the files differ.
  """
  num_tried = _RECORDS_TO_TRY if skip_damaged_records else 1
  files_by_format: dict[PretrainingFormat, str] = {}
  for file in files:
    first_error = None
    records = _read_first_records(file, skip_damaged_records)
    for record in itertools.islice(records, num_tried):
      try:
        record_format = _detect_format(
          record, file, max_seq_length, max_predictions_per_seq
        )
      except UserError as error:
        first_error = first_error or error
      else:
        files_by_format.setdefault(record_format, file)
        break
    else:
      raise first_error or no_records_error(file)
  if len(files_by_format) > 1:
    raise _mixed_formats_error(files_by_format)
  return next(iter(files_by_format))


def no_records_error(file: str) -> UserError:
  """Returns the error of a user whose file has no record that can be used."""
  if file_io.file_size(file):
    return UserError(f"{file} has no undamaged record. Leave it out.")
  return UserError(f"{file} holds no records.")


def _mixed_formats_error(
  files_by_format: Mapping[PretrainingFormat, str],
) -> UserError:
  descriptions = []
  for record_format, file in files_by_format.items():
    names = ", ".join(sorted(record_format.feature_spec()))
    descriptions.append(
      f"{file} has {names}, and up to {record_format.max_sequences} sequences "
      "per record"
    )
  return UserError(
    f"The input files hold records of different kinds: "
    f"{'; '.join(descriptions)}. Train on files of one kind."
  )


def _read_first_records(
  file: str, skip_damaged_records: bool
) -> Iterator[bytes]:
  """Yields the first record of a file, or all readable ones."""
  if skip_damaged_records:
    yield from record_files.read_readable_records(file)
    return
  dataset = tf.data.TFRecordDataset(file).take(1)
  try:
    yield from dataset.as_numpy_iterator()
  except tf.errors.DataLossError as error:
    raise UserError(
      f"{file} is not a TFRecord file, or it is damaged at its start."
    ) from error


def _detect_format(
  record: bytes, file: str, max_seq_length: int, max_predictions_per_seq: int
) -> PretrainingFormat:
  """Returns the format of a record.

  Raises:
    UserError: It is not a pre-training record, or has other lengths.
  """
  try:
    example = tf.train.Example.FromString(record)
  except message.DecodeError as error:
    raise UserError(
      f"{file} does not hold pre-training records: its first record is not a "
      "tf.train.Example. Make it with create_pretraining_data.py."
    ) from error
  features = example.features.feature
  lengths = {}
  for name, feature in features.items():
    num_ints = len(feature.int64_list.value)
    lengths[name] = num_ints or len(feature.float_list.value)
  record_format = PretrainingFormat(
    max_seq_length,
    max_predictions_per_seq,
    max_sequences=max(1, lengths.get("sequence_starts", 1)),
    has_next_sentence="next_sentence_labels" in lengths,
    has_continues_word="continues_word" in lengths,
  )
  # Features that the format does not have are ignored.
  for name, feature in record_format.feature_spec().items():
    if name not in features:
      existing = ", ".join(sorted(features)) or "no features"
      raise UserError(
        f"{file} does not hold pre-training records: {name} is missing. It has "
        f"{existing}. Make it with create_pretraining_data.py."
      )
    length, wanted = lengths[name], feature.shape[0]
    if length != wanted:
      flag = "--max_seq_length"
      if name == "masked_lm_positions":
        flag = "--max_predictions_per_seq"
      raise UserError(
        f"{file}: {name} has {length} values, but {flag}={wanted}. The "
        f"records were made with {flag}={length}: pass the same value, or "
        "make the records again."
      )
  return record_format


# --- The values of records ---------------------------------------------------


def value_limits(
  record_format: PretrainingFormat, vocab_size: int, type_vocab_size: int
) -> dict[str, int]:
  """Returns the limit of each feature; its values are 0 to below the limit."""
  max_seq_length = record_format.max_seq_length
  limits = {
    "input_ids": vocab_size,
    "input_mask": 2,
    "segment_ids": type_vocab_size,
    "masked_lm_positions": max_seq_length,
    "masked_lm_ids": vocab_size,
    "masked_lm_weights": _WEIGHT_LIMIT,
    "continues_word": 2,
    "sequence_starts": max_seq_length,
    "next_sentence_labels": 2,
    "next_sentence_weights": _WEIGHT_LIMIT,
  }
  return {name: limits[name] for name in record_format.feature_spec()}


# Feature -> the size that its limit is, for error messages.
_LIMIT_SOURCES = {
  "input_ids": ", the size of the vocabulary",
  "masked_lm_ids": ", the size of the vocabulary",
  "segment_ids": ", the type_vocab_size of the model",
}


def is_within_limits(
  features: Mapping[str, tf.Tensor], limits: Mapping[str, int]
) -> tf.Tensor:
  """Returns whether all values are 0 to below their limits, bool [].

  All features of one type are compared at once, because the number of
  operations takes the time, not the number of values.
  """
  names_by_type: dict[tf.DType, list[str]] = {tf.int64: [], tf.float32: []}
  for name in limits:
    names_by_type[features[name].dtype].append(name)
  comparisons = []
  for dtype, names in names_by_type.items():
    # [batch_size, width of all features], and the limit of each column.
    values = tf.concat([features[name] for name in names], axis=1)
    widths = [features[name].shape[1] for name in names]
    column_limits = np.repeat([limits[name] for name in names], widths)
    if dtype == tf.int64:
      # As unsigned numbers, negative ones are above all limits.
      unsigned = tf.bitcast(values, tf.uint64)
      comparisons.append(unsigned < column_limits.astype(np.uint64))
    else:
      # No comparison with NaN is true.
      is_below = values < column_limits.astype(np.float32)
      comparisons.append(tf.logical_and(values >= 0.0, is_below))
  return tf.reduce_all(tf.concat(comparisons, axis=1))


def examine_records(
  records: Sequence[bytes],
  record_format: PretrainingFormat,
  vocab_size: int,
  type_vocab_size: int,
) -> dict[int, str]:
  """Returns the problems of records that training cannot use.

  Args:
    records: Serialized records.
    record_format: Format that they should have.
    vocab_size: Limit of token ids.
    type_vocab_size: Limit of segment ids.

  Returns:
    The problem of each bad record, by its index.
  """
  spec = record_format.feature_spec()
  limits = value_limits(record_format, vocab_size, type_vocab_size)
  # Usually all records can be parsed, and their values are checked at once.
  try:
    features = tf.io.parse_example(tf.constant(records, tf.string), spec)
  except tf.errors.InvalidArgumentError:
    if len(records) == 1:
      return {0: _find_format_problem(records[0], spec)}
    # At least one record cannot be parsed, so each is examined on its own.
    problems = {}
    for i, record in enumerate(records):
      own_problems = examine_records(
        [record], record_format, vocab_size, type_vocab_size
      )
      for problem in own_problems.values():
        problems[i] = problem
    return problems
  problems = {}
  for name, limit in limits.items():
    values = features[name].numpy()
    is_valid = (values >= 0) & (values < limit)
    bad_rows = np.flatnonzero(~np.all(is_valid, axis=1))
    for i in bad_rows.tolist():
      place = int(np.argmin(is_valid[i]))
      problems.setdefault(
        i,
        f"{name} has the value {values[i, place]} at place {place}, but its "
        f"values must be 0 to below {limit}{_LIMIT_SOURCES.get(name, '')}",
      )
  return problems


def _find_format_problem(
  record: bytes, spec: Mapping[str, tf.io.FixedLenFeature]
) -> str:
  """Returns why `tf.io.parse_example` rejects a record."""
  try:
    example = tf.train.Example.FromString(record)
  except message.DecodeError:
    return "it is not a tf.train.Example"
  features = example.features.feature
  for name, feature in spec.items():
    if name not in features:
      return f"{name} is missing"
    wanted = "float_list" if feature.dtype == tf.float32 else "int64_list"
    given = features[name].WhichOneof("kind")
    if given != wanted:
      return f"{name} is a {given or 'nothing'}, not a {wanted}"
    length = len(getattr(features[name], wanted).value)
    if length != feature.shape[0]:
      return f"{name} has {length} values, not {feature.shape[0]}"
  return "it is not a pre-training record"
