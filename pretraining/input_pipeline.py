"""Batches of pre-training records, in an order that follows from the seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import tensorflow as tf

from data import batching
from data import input_shares
from pretraining import record_formats
from pretraining import training_order

_AUTOTUNE = tf.data.AUTOTUNE


def pretraining_dataset(
  files: Sequence[str],
  record_format: record_formats.PretrainingFormat,
  vocab_size: int,
  type_vocab_size: int,
  batch_size: int,
  is_training: bool,
  seed: int,
  drop_remainder: bool,
  position: Sequence[int] | None = None,
  redraw_masks: Callable | None = None,
  share: input_shares.InputShare = input_shares.WHOLE,
) -> tf.data.Dataset:
  """Returns a Dataset of batches of records of `create_pretraining_data.py`.

  The Dataset fails at a batch that has a value out of range;
  `record_formats.examine_records` finds the record and the reason.

  Args:
    files: Paths of the TFRecord files.
    record_format: Format of the records, from `check_pretraining_files`.
    vocab_size: Limit of token ids.
    type_vocab_size: Limit of segment ids.
    batch_size: Number of records per batch, of all machines together.
    is_training: Whether to shuffle the records and to repeat them endlessly.
    seed: Seed of the order, which differs from epoch to epoch.
    drop_remainder: Whether to drop a short last batch.
    position: `input_position` of the batch after which to continue; None to
      begin with the first epoch.
    redraw_masks: Function that replaces the masks of a batch in training; see
      `masking.Masker.redraw_masks`. None keeps the masks of the records.
    share: Which of several machines this is. It gets its rows of each batch of
      training, and every n-th batch of evaluation.

  Returns:
    A Dataset of dictionaries with the features of `record_format` as int32 or
    float32 of shape [rows, ...]. In training, int64 `input_position` of shape
    [n] says where the next batch begins.
  """
  spec = record_format.feature_spec()
  limits = record_formats.value_limits(
    record_format, vocab_size, type_vocab_size
  )

  def parse_batch(serialized):
    return _parse_batch(serialized, spec, limits)

  def parse_training_batch(serialized, position):
    features = parse_batch(serialized)
    if redraw_masks:
      # Masks are drawn for all rows of a machine at once.
      numbers = [seed] if share.num_machines == 1 else [seed, share.machine]
      mask_seed = tf.concat([tf.constant(numbers, tf.int64), position], axis=0)
      features = redraw_masks(features, mask_seed)
    return {**features, batching.INPUT_POSITION: position}

  if is_training:
    batches = training_order.read_batches(
      files, batch_size, seed, position, share
    )
    batches = batches.map(parse_training_batch, num_parallel_calls=_AUTOTUNE)
  else:
    records = tf.data.TFRecordDataset(list(files))
    batches = records.batch(batch_size, drop_remainder=drop_remainder)
    batches = share.select_batches(batches)
    batches = batches.map(parse_batch, num_parallel_calls=_AUTOTUNE)
  return batches.prefetch(_AUTOTUNE)


def _parse_batch(
  serialized: tf.Tensor,
  spec: Mapping[str, tf.io.FixedLenFeature],
  limits: Mapping[str, int],
) -> dict[str, tf.Tensor]:
  """Returns the features of serialized records, with values in range."""
  features = tf.io.parse_example(serialized, spec)
  check = tf.raw_ops.Assert(
    condition=record_formats.is_within_limits(features, limits),
    data=["A record has values out of range."],
  )
  with tf.control_dependencies([check]):
    for name, value in features.items():
      if value.dtype == tf.int64:
        features[name] = tf.cast(value, tf.int32)
      else:
        features[name] = tf.identity(value)
  return features
