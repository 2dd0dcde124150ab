"""Batches of pre-training records, in an order that follows from the seed."""

from collections.abc import Callable, Sequence
import functools
import os
import zlib

from absl import logging
import tensorflow as tf

from pretraining import record_formats

# How many records a shuffle may hold in memory.
_SHUFFLE_BUFFER = 10_000
# How many files of pre-training records are mixed with each other.
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
  mask_anew: Callable | None = None,
) -> tf.data.Dataset:
  """Batches of records that `create_pretraining_data.py` wrote.

  Args:
    files: TFRecord files.
    record_format: what `check_pretraining_files` says of them.
    vocab_size: ids have to be below; the Dataset fails at a batch that has a
      value out of range.
    type_vocab_size: segment ids have to be below.
    batch_size: examples per batch.
    is_training: whether to shuffle and to repeat without end.
    seed: of the order; it differs from epoch to epoch.
    drop_remainder: whether to leave out a short last batch.
    position: an `input_position` to begin at; None for the start.
    mask_anew: function of the features of a batch, and of numbers that no
      other batch has, that draws other masks for training; or None.

  Returns:
    A Dataset of dictionaries with the features of `record_format`, batched;
    ints are int32. In training `input_position`, int64 [4], tells where the
    next batch begins.
  """
  spec = record_format.feature_spec()
  limits = record_formats.value_limits(
    record_format, vocab_size, type_vocab_size
  )

  def parse(records):
    features = tf.io.parse_example(records, spec)
    # Which record it is, and what is wrong, is found by `examine_records`.
    with tf.control_dependencies(
      [
        tf.raw_ops.Assert(
          condition=record_formats.is_within_limits(features, limits),
          data=["A record has values out of range."],
        )
      ]
    ):
      return {
        name: tf.cast(value, tf.int32)
        if value.dtype == tf.int64
        else tf.identity(value)
        for name, value in features.items()
      }

  if not is_training:
    dataset = tf.data.TFRecordDataset(list(files)).batch(
      batch_size, drop_remainder=drop_remainder
    )
    return dataset.map(parse, num_parallel_calls=_AUTOTUNE).prefetch(_AUTOTUNE)
  dataset = _shuffled_records(files, seed, position).batch(
    batch_size, drop_remainder=drop_remainder
  )

  def training_features(records, positions):
    features = parse(records)
    if mask_anew:
      features = mask_anew(
        features, tf.concat([[tf.cast(seed, tf.int64)], positions[-1]], axis=0)
      )
    return {**features, "input_position": positions[-1]}

  return dataset.map(training_features, num_parallel_calls=_AUTOTUNE).prefetch(
    _AUTOTUNE
  )


def _shuffled_records(files, seed, position) -> tf.data.Dataset:
  """Yields (record, position of the next record) without end.

  Each epoch takes the files in an order of its own, a few at a time: the
  records of such a group are shuffled among themselves. A position is (which
  files there are, epoch, group, records of the group that were taken), and to
  begin at one only its group has to be read.
  """
  group_size = min(_FILES_PER_GROUP, len(files))
  num_groups = -(-len(files) // group_size)
  identity = zlib.crc32(
    "\n".join(os.path.basename(file) for file in files).encode()
  )
  first_epoch, first_group, num_taken = 0, 0, 0
  if position is not None and len(position) != 4:
    logging.warning(
      "The checkpoint does not know its place in the data as "
      "this program does: training begins with a new epoch."
    )
  elif position is not None:
    known, first_epoch, first_group, num_taken = position
    if known not in (identity, 0):
      first_epoch, first_group, num_taken = first_epoch + 1, 0, 0
      logging.warning(
        "The input files are not those that training had so far. "
        "It goes on with epoch %d of the new ones.",
        first_epoch + 1,
      )

  def epoch_records(epoch):
    order = tf.random.experimental.stateless_shuffle(
      tf.constant(list(files)), seed=tf.stack([tf.cast(seed, tf.int64), epoch])
    )
    is_first = tf.equal(epoch, first_epoch)
    return tf.data.Dataset.range(
      tf.where(is_first, tf.constant(first_group, tf.int64), 0), num_groups
    ).flat_map(functools.partial(group_records, epoch, order, is_first))

  def group_records(epoch, order, is_first, group):
    names = order[group * group_size : (group + 1) * group_size]
    # A seed that is different for each group; any mixing will do.
    group_seed = tf.random.stateless_uniform(
      [],
      tf.stack([seed + epoch, group]),
      minval=None,
      maxval=None,
      dtype=tf.int64,
    )
    records = tf.data.Dataset.from_tensor_slices(names).interleave(
      tf.data.TFRecordDataset,
      cycle_length=group_size,
      num_parallel_calls=_AUTOTUNE,
      deterministic=True,
    )
    records = records.shuffle(
      _SHUFFLE_BUFFER, seed=group_seed, reshuffle_each_iteration=False
    )
    skipped = tf.where(
      tf.logical_and(is_first, tf.equal(group, first_group)),
      tf.constant(num_taken, tf.int64),
      0,
    )
    return (
      records.skip(skipped)
      .enumerate(skipped + 1)
      .map(
        lambda number, record: (
          record,
          tf.stack([tf.constant(identity, tf.int64), epoch, group, number]),
        )
      )
    )

  return tf.data.Dataset.range(first_epoch, tf.int64.max).flat_map(
    epoch_records
  )
