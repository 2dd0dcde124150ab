"""Batches of pre-training records, in an order that follows from the seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import os
from typing import NamedTuple
import zlib

from absl import logging
import tensorflow as tf

from data import batching
from pretraining import record_formats

# Maximum number of records that a shuffle holds in memory.
_SHUFFLE_BUFFER = 10_000
# Number of files whose records are mixed with each other.
_FILES_PER_GROUP = 4
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
) -> tf.data.Dataset:
  """Returns a Dataset of batches of records of `create_pretraining_data.py`.

  The Dataset fails at a batch that has a value out of range;
  `record_formats.examine_records` finds the record and the reason.

  Args:
    files: Paths of the TFRecord files.
    record_format: Format of the records, from `check_pretraining_files`.
    vocab_size: Limit of token ids.
    type_vocab_size: Limit of segment ids.
    batch_size: Number of records per batch.
    is_training: Whether to shuffle the records and to repeat them endlessly.
    seed: Seed of the order, which differs from epoch to epoch.
    drop_remainder: Whether to drop a short last batch.
    position: `input_position` of the batch after which to continue; None to
      begin with the first epoch.
    redraw_masks: Function that replaces the masks of a batch in training; see
      `masking.Masker.redraw_masks`. None keeps the masks of the records.

  Returns:
    A Dataset of dictionaries with the features of `record_format` as int32 or
    float32 of shape [batch_size, ...]. In training, int64 `input_position` of
    shape [4] says where the next batch begins.
  """
  spec = record_format.feature_spec()
  limits = record_formats.value_limits(
    record_format, vocab_size, type_vocab_size
  )

  def parse_batch(serialized):
    return _parse_batch(serialized, spec, limits)

  def parse_training_batch(serialized, positions):
    features = parse_batch(serialized)
    # The position after the last record of a batch, which no other batch has.
    position = positions[-1]
    if redraw_masks:
      mask_seed = tf.concat([[tf.cast(seed, tf.int64)], position], axis=0)
      features = redraw_masks(features, mask_seed)
    return {**features, batching.INPUT_POSITION: position}

  if is_training:
    records = _read_shuffled_records(files, seed, position)
    batches = records.batch(batch_size, drop_remainder=drop_remainder)
    batches = batches.map(parse_training_batch, num_parallel_calls=_AUTOTUNE)
  else:
    records = tf.data.TFRecordDataset(list(files))
    batches = records.batch(batch_size, drop_remainder=drop_remainder)
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


# --- The order of training ---------------------------------------------------


class _Position(NamedTuple):
  """A place in the stream of all epochs; stored as `input_position`.

  Attributes:
    identity: Checksum of the names of the files.
    epoch: Number of the epoch.
    group: Number of the group of files within the epoch.
    num_taken: Number of records of the group that come before this place.
  """

  identity: int
  epoch: int
  group: int
  num_taken: int


def _read_shuffled_records(
  files: Sequence[str], seed: int, position: Sequence[int] | None
) -> tf.data.Dataset:
  """Returns the records of all epochs, with the position after each.

  Each epoch goes through the files in an order of its own, a group of a few
  files at a time, and shuffles the records of a group among each other:

      epoch 0   files c a d f | records shuffled    files b g e | ...
      epoch 1   files g d b a | ...

  To continue from a position, only its group has to be read again.
  """
  names = "\n".join(os.path.basename(file) for file in files)
  identity = zlib.crc32(names.encode())
  start = _find_start(position, identity)
  group_size = min(_FILES_PER_GROUP, len(files))
  num_groups = -(-len(files) // group_size)  # rounded up

  def read_epoch(epoch):
    file_seed = tf.stack([tf.cast(seed, tf.int64), epoch])
    order = tf.random.experimental.stateless_shuffle(
      tf.constant(list(files)), file_seed
    )
    is_first_epoch = tf.equal(epoch, start.epoch)
    first_group = tf.where(
      is_first_epoch, tf.constant(start.group, tf.int64), 0
    )

    def read_group(group):
      group_files = order[group * group_size : (group + 1) * group_size]
      is_first = tf.logical_and(is_first_epoch, tf.equal(group, start.group))
      num_skipped = tf.where(
        is_first, tf.constant(start.num_taken, tf.int64), 0
      )
      records = _shuffle_group(group_files, group_size, seed + epoch, group)
      records = records.skip(num_skipped).enumerate(num_skipped + 1)

      def add_position(num_taken, record):
        next_position = _Position(
          tf.constant(identity, tf.int64), epoch, group, num_taken
        )
        return record, tf.stack(next_position)

      return records.map(add_position)

    groups = tf.data.Dataset.range(first_group, num_groups)
    return groups.flat_map(read_group)

  epochs = tf.data.Dataset.range(start.epoch, tf.int64.max)
  return epochs.flat_map(read_epoch)


def _find_start(position: Sequence[int] | None, identity: int) -> _Position:
  """Returns where training begins, given the position of a checkpoint."""
  beginning = _Position(identity, 0, 0, 0)
  if position is None:
    return beginning
  if len(position) != len(beginning):
    logging.warning(
      "The checkpoint stores its place in the data in another form than this "
      "program does: training begins with a new epoch."
    )
    return beginning
  start = _Position(*position)
  if start.identity in (identity, 0):
    return start
  logging.warning(
    "The input files have changed since the checkpoint was saved. Training "
    "continues with epoch %d of the new files.",
    start.epoch + 2,
  )
  return beginning._replace(epoch=start.epoch + 1)


def _shuffle_group(
  files: tf.Tensor, group_size: int, epoch_seed: tf.Tensor, group: tf.Tensor
) -> tf.data.Dataset:
  """Returns the records of a group of files in random order."""
  # Each group of each epoch gets its own seed.
  seed = tf.random.stateless_uniform(
    [],
    tf.stack([epoch_seed, group]),
    minval=None,
    maxval=None,
    dtype=tf.int64,
  )
  names = tf.data.Dataset.from_tensor_slices(files)
  records = names.interleave(
    tf.data.TFRecordDataset,
    cycle_length=group_size,
    num_parallel_calls=_AUTOTUNE,
    deterministic=True,
  )
  return records.shuffle(
    _SHUFFLE_BUFFER, seed=seed, reshuffle_each_iteration=False
  )
