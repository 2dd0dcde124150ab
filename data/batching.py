"""Batches of the records of tasks: similar lengths, little padding."""

from collections.abc import Callable, Iterable, Mapping, Sequence
import itertools
from typing import NamedTuple

from absl import logging
import numpy as np
import tensorflow as tf

from data import encoding
from data import serialization

# How many records a shuffle may hold in memory.
_SHUFFLE_BUFFER = 100_000
# Among how many records of a task those of near lengths are looked for.
_RECORDS_PER_WINDOW = 4096
_AUTOTUNE = tf.data.AUTOTUNE
# The feature of a training batch that tells where the next one begins.
INPUT_POSITION = "input_position"


def create_task_record(
  packed: encoding.InputFeatures, **features: Sequence[float]
) -> bytes:
  """Returns the record of an example, unpadded.

  Args:
    packed: the ids.
    **features: what else there is to know, ints or floats.
  """
  return serialization.serialize(
    {
      "input_ids": packed.input_ids,
      "segment_ids": packed.segment_ids,
      **features,
    }
  )


def token_feature(dtype: tf.DType) -> tf.io.RaggedFeature:
  """Returns the feature of records that have a value for each token."""
  return tf.io.RaggedFeature(dtype, row_splits_dtype=tf.int64)


def bucket_lengths(max_seq_length: int) -> list[int]:
  """Returns the lengths that batches are padded to, the last being the most.

  Steps of 4, 8, 16 and 32: little padding, and few enough shapes that each
  comes up often.
  """
  lengths = [
    *range(4, 64, 4),
    *range(64, 128, 8),
    *range(128, 256, 16),
    *range(256, max_seq_length, 32),
  ]
  return [n for n in lengths if n < max_seq_length] + [max_seq_length]


class TrainingOrder(NamedTuple):
  """In which order the records of a file are trained on.

  Attributes:
    num_records: how many records the file has.
    identity: a number that other records would not have, such as a checksum.
    seed: of the order, which differs from epoch to epoch.
    position: the `input_position` to begin at; None for the start.
  """

  num_records: int
  identity: int
  seed: int
  position: Sequence[int] | None = None


def task_dataset(
  file: str,
  max_seq_length: int,
  batch_size: int,
  features: Mapping[str, object],
  order: TrainingOrder | None = None,
  static_shapes: bool = False,
  num_sequences: int = 1,
) -> tf.data.Dataset:
  """Batches of the records of a task, as `create_task_record` makes them.

  Batches hold sequences of similar lengths. In training, the shuffled records
  of all epochs are one endless stream, cut into windows of some thousand. A
  window is sorted by length and cut into batches, which come in random order:

      stream   e0 e0 e0 e0 e0 e0 | e0 e0 e1 e1 e1 e1 | ...
      windows  first_record = 0    first_record = 6

  All of that order follows from the seed and the place in the stream, so a run
  can begin anywhere in it without reading what comes before. Without training,
  records come once, also sorted among thousands; their number says where they
  belong.

  Args:
    file: the TFRecord file.
    max_seq_length: no sequence is longer.
    batch_size: examples per batch.
    features: what records hold beside the ids: a `tf.io.FixedLenFeature`, or
      where there is a value for each token a `tf.io.RaggedFeature`.
    order: to train, without end; None to read the records once.
    static_shapes: give every batch one shape, as TPUs want it: padded to
      `max_seq_length`, and a short last batch filled up with examples whose
      `is_real_example` is 0. Records are not sorted then. If not, batches are
      padded to the next of `bucket_lengths`.
    num_sequences: how many sequences a record has, one after the other, whose
      lengths are in its feature `sequence_lengths`.

  Returns:
    A Dataset of dictionaries: int32 `input_ids`, `input_mask` and
    `segment_ids` [batch_size, length], or if there are several sequences
    [batch_size, num_sequences, length]; `features` [batch_size, ...]; float32
    `is_real_example` [batch_size]. In training `input_position`, int64 [4],
    tells where the next batch begins; else `record_number`, int64
    [batch_size], which record each is.
  """
  spec = {
    "input_ids": token_feature(tf.int64),
    "segment_ids": token_feature(tf.int64),
    **features,
  }
  if num_sequences > 1:
    spec["sequence_lengths"] = tf.io.FixedLenFeature([num_sequences], tf.int64)
  if order:
    # No record twice in a window: copies would meet in one batch.
    window_size = batch_size * max(
      1, min(_RECORDS_PER_WINDOW, order.num_records) // batch_size
    )
    first_record, num_taken = _place_in_stream(order, batch_size)
    records = _endless_records(file, order, first_record)
  else:
    window_size = _RECORDS_PER_WINDOW
    records = tf.data.TFRecordDataset(file)

  def parse(number, records):
    """Returns the features of a window, and the place of each batch in it."""
    parsed = tf.io.parse_example(records, spec)
    size = tf.size(records)
    by_length = tf.range(size)
    if not static_shapes:
      by_length = tf.argsort(
        _longest_sequences(parsed, num_sequences), stable=True
      )
      parsed = {
        name: tf.gather(value, by_length) for name, value in parsed.items()
      }
    starts = tf.range(0, size, batch_size)
    if not order:
      parsed["record_number"] = number * window_size + tf.cast(
        by_length, tf.int64
      )
      return parsed, {"start": starts}
    window = first_record + number * window_size
    starts = tf.random.experimental.stateless_shuffle(
      starts, tf.stack([tf.constant(order.seed, tf.int64), window])
    )
    positions = _positions_after(
      window, window_size, batch_size, order.identity
    )
    # Of the first window, some batches may have been trained on before.
    skipped = tf.where(number == 0, num_taken, 0)
    return parsed, {
      "start": starts[skipped:],
      INPUT_POSITION: positions[skipped:],
    }

  def cut(parsed, places):
    return tf.data.Dataset.from_tensor_slices(places).map(
      lambda place: (
        {
          name: value[place["start"] : place["start"] + batch_size]
          for name, value in parsed.items()
        },
        {
          name: value for name, value in place.items() if name == INPUT_POSITION
        },
      )
    )

  batches = (
    records.batch(window_size)
    .enumerate()
    .map(parse, num_parallel_calls=_AUTOTUNE)
    .flat_map(cut)
  )
  pad = _padding_function(
    max_seq_length,
    batch_size,
    static_shapes,
    [
      name
      for name, feature in spec.items()
      if isinstance(feature, tf.io.RaggedFeature)
    ]
    + ["input_mask"],
  )
  return batches.map(
    lambda batch, position: {
      **pad(_to_dense(batch, num_sequences)),
      **position,
    },
    num_parallel_calls=_AUTOTUNE,
  ).prefetch(_AUTOTUNE)


def _place_in_stream(order: TrainingOrder, batch_size: int) -> tuple[int, int]:
  """Returns where training begins.

  Returns:
    The first record of a window in the stream, and how many batches of the
    window were trained on before.
  """
  if order.position is None:
    return 0, 0
  if len(order.position) != 4:
    logging.warning(
      "The checkpoint does not know its place in the data as "
      "this program does: training begins with a new epoch."
    )
    return 0, 0
  identity, first_record, num_taken, old_batch_size = order.position
  if identity not in (order.identity, 0):
    logging.warning(
      "The training data, or the settings by which records are "
      "made of them, are not those that training had so far. It "
      "continues after as many of the new records."
    )
  elif old_batch_size == batch_size:
    return first_record, num_taken
  elif num_taken:
    logging.warning(
      "--train_batch_size was %d and is %d now: training continues after as "
      "many examples, but up to %d of them may differ from those that were "
      "trained on.",
      old_batch_size,
      batch_size,
      _RECORDS_PER_WINDOW,
    )
  return first_record + num_taken * old_batch_size, 0


def _endless_records(
  file: str, order: TrainingOrder, first_record: int
) -> tf.data.Dataset:
  """Yields the shuffled records of one epoch after the other, without end."""
  first_epoch, num_skipped = divmod(first_record, order.num_records)

  def epoch_records(epoch):
    seed = tf.random.stateless_uniform(
      [],
      tf.stack([tf.constant(order.seed, tf.int64), epoch]),
      minval=None,
      maxval=None,
      dtype=tf.int64,
    )
    records = tf.data.TFRecordDataset(file).shuffle(
      _SHUFFLE_BUFFER, seed=seed, reshuffle_each_iteration=False
    )
    return records.skip(
      tf.where(epoch == first_epoch, tf.constant(num_skipped, tf.int64), 0)
    )

  return tf.data.Dataset.range(first_epoch, tf.int64.max).flat_map(
    epoch_records
  )


def _positions_after(
  window, window_size: int, batch_size: int, identity: int
) -> tf.Tensor:
  """Returns the `input_position` after each batch of a window.

  A position is (identity of the records, first record of a window, batches of
  it that were taken, batch size): with 3 batches of 2 in the window at 12,

      (id, 12, 1, 2)  (id, 12, 2, 2)  (id, 18, 0, 2)
  """
  num_batches = window_size // batch_size
  taken = tf.range(1, num_batches + 1, dtype=tf.int64)
  is_last = taken == num_batches
  return tf.stack(
    [
      tf.fill([num_batches], tf.constant(identity, tf.int64)),
      window + tf.where(is_last, tf.constant(window_size, tf.int64), 0),
      tf.where(is_last, tf.constant(0, tf.int64), taken),
      tf.fill([num_batches], tf.constant(batch_size, tf.int64)),
    ],
    axis=1,
  )


def _longest_sequences(parsed, num_sequences: int) -> tf.Tensor:
  """Returns the length of the longest sequence of each record, int64."""
  if num_sequences > 1:
    return tf.reduce_max(parsed["sequence_lengths"], axis=1)
  return parsed["input_ids"].row_lengths()


def _to_dense(batch, num_sequences: int) -> dict[str, tf.Tensor]:
  """Pads the ragged features of a batch to its longest sequence."""
  lengths = batch.pop("sequence_lengths", None)
  batch["input_mask"] = tf.ones_like(batch["input_ids"])
  dense = {
    "is_real_example": tf.ones(tf.shape(batch["input_ids"].row_lengths()))
  }
  for name, value in batch.items():
    if isinstance(value, tf.RaggedTensor):
      if lengths is not None:
        value = tf.RaggedTensor.from_row_lengths(
          value.values, tf.reshape(lengths, [-1])
        )
      value = value.to_tensor()
      if lengths is not None:
        value = tf.reshape(value, [-1, num_sequences, tf.shape(value)[1]])
      if value.dtype == tf.int64:
        value = tf.cast(value, tf.int32)
    dense[name] = value
  return dense


def features_dataset(
  sequences: Callable[[], Iterable[encoding.InputFeatures]],
  max_seq_length: int,
  batch_size: int,
  static_shapes: bool = False,
) -> tf.data.Dataset:
  """Batches of sequences that are made on the way, in order.

  Short sequences make batches of more rows, with about as many tokens in all,
  so that each is worth its computation.

  Args:
    sequences: gives an iterator over them, best sorted by length.
    max_seq_length: no sequence is longer.
    batch_size: sequences per batch of the longest ones.
    static_shapes: give every batch one shape, as for `task_dataset`.

  Returns:
    A Dataset like that of `task_dataset`, without `label_ids`.
  """
  names = ("input_ids", "input_mask", "segment_ids")

  def batches():
    pending, length = [], 0
    for packed in sequences():
      pending.append(packed)
      length = max(length, len(packed.input_ids))
      if static_shapes:
        length = max_seq_length
      # The number of rows follows from the length: few shapes, of which each
      # is compiled once.
      num_rows = batch_size * max_seq_length // length
      if len(pending) >= num_rows:
        yield _batch(pending[:num_rows], num_rows, length)
        pending = pending[num_rows:]
        length = max((len(rest.input_ids) for rest in pending), default=0)
    if pending:
      yield _batch(
        pending,
        batch_size if static_shapes else len(pending),
        max_seq_length if static_shapes else length,
      )

  def _batch(rows, num_rows, length):
    lengths = np.zeros([num_rows, 1], int)
    lengths[: len(rows), 0] = [len(packed.input_ids) for packed in rows]
    is_token = np.arange(length) < lengths
    batch = {
      "input_mask": is_token.astype(np.int32),
      "is_real_example": (lengths[:, 0] > 0).astype(np.float32),
    }
    for name in ("input_ids", "segment_ids"):
      batch[name] = np.zeros([num_rows, length], np.int32)
      batch[name][is_token] = np.fromiter(
        itertools.chain.from_iterable(getattr(packed, name) for packed in rows),
        np.int32,
      )
    return batch

  shape = [batch_size, max_seq_length] if static_shapes else [None, None]
  return tf.data.Dataset.from_generator(
    batches,
    output_signature={
      **{name: tf.TensorSpec(shape, tf.int32) for name in names},
      "is_real_example": tf.TensorSpec(shape[:1], tf.float32),
    },
  ).prefetch(_AUTOTUNE)


def _padding_function(
  max_seq_length: int,
  batch_size: int,
  static_shapes: bool,
  names: Sequence[str],
) -> Callable:
  """Returns the function that pads a batch on.

  Args:
    max_seq_length: see `task_dataset`, like the next two.
    batch_size: examples per batch.
    static_shapes: give every batch one shape.
    names: of the features that have a value for each token, in the last
      dimension.
  """
  lengths = tf.constant(
    [max_seq_length] if static_shapes else bucket_lengths(max_seq_length)
  )

  def pad(features):
    """Pads to one of `lengths`, and if shapes are static all rows."""
    shape = tf.shape(features["input_ids"])
    length = lengths[tf.searchsorted(lengths, shape[-1:])[0]]
    missing_rows = batch_size - shape[0] if static_shapes else 0
    padded = {}
    for name, value in features.items():
      paddings = [[0, missing_rows]] + [[0, 0]] * (value.shape.rank - 1)
      if name in names:
        paddings[-1] = [0, length - shape[-1]]
      padded[name] = tf.pad(value, paddings)
      if static_shapes:
        inner = (
          value.shape[1:-1] + [max_seq_length]
          if (name in names)
          else value.shape[1:]
        )
        padded[name] = tf.ensure_shape(padded[name], [batch_size, *inner])
    return padded

  return pad
