"""Batches of token sequences of similar lengths, with little padding.

task records   --task_dataset-->      batches, in an order for training
InputFeatures  --features_dataset-->  batches, in the given order
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import itertools
import math
from typing import NamedTuple

from absl import logging
import numpy as np
import tensorflow as tf

from data import encoding
from data import input_shares
from data import serialization

# Maximum number of records that a shuffle holds in memory.
_SHUFFLE_BUFFER = 100_000
# Records of similar lengths are searched among this many records.
_RECORDS_PER_WINDOW = 4096
_AUTOTUNE = tf.data.AUTOTUNE
# Lengths below 64 that batches are padded to, by the version of the padding. A
# run keeps the version that it began with, and so ends with the same weights.
_SHORT_LENGTHS = (
  tuple(range(4, 64, 4)),
  (4, 6, 8, 10, 12, 14, 16, 18, 20, 24, 28, 32, 40, 48, 56),
)
_PADDING_VERSION = 1
# A batch of which a model skips the padding may have this many times as many
# places as tokens: its attention is still computed for each place.
_PLACES_PER_TOKEN = 2
# Feature of a training batch that says where in the data the next one begins.
INPUT_POSITION = "input_position"

Features = dict[str, tf.Tensor]


# --- Records -----------------------------------------------------------------


def create_task_record(
  features: encoding.InputFeatures, **other_features: Sequence[float]
) -> bytes:
  """Returns the serialized record of an example, without padding.

  Args:
    features: Token ids of the example.
    **other_features: Further features, such as labels: lists of int or float.
  """
  return serialization.serialize_example(
    {
      "input_ids": features.input_ids,
      "segment_ids": features.segment_ids,
      **other_features,
    }
  )


def token_feature(dtype: tf.DType) -> tf.io.RaggedFeature:
  """Returns the specification of a feature with one value for each token."""
  return tf.io.RaggedFeature(dtype, row_splits_dtype=tf.int64)


# --- Batches of records ------------------------------------------------------


class TrainingOrder(NamedTuple):
  """The order in which training goes through the records of a file.

  Attributes:
    num_records: Number of records in the file.
    identity: Number that identifies the records, such as a checksum.
    seed: Seed of the order, which differs from epoch to epoch.
    position: `input_position` of the batch after which to continue; None to
      begin with the first record.
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
  share: input_shares.InputShare = input_shares.WHOLE,
) -> tf.data.Dataset:
  """Returns a Dataset of batches of records made by `create_task_record`.

  The records are cut into windows of some thousand. Each window is sorted by
  length and cut into batches. In training, the shuffled records of all epochs
  form one endless stream, and the batches of a window come in random order:

      stream    e0 e0 e0 e0 e0 e0 | e0 e0 e1 e1 e1 e1 | ...    e0 = epoch 0
      windows   first_record = 0    first_record = 6
      lengths   5  9  3  7  8  3    ...
      sorted    3  3 | 5  7 | 8  9                      batches of 2 records
      shuffled  5  7 | 8  9 | 3  3

  This order is a function of the seed and of the place in the stream, so
  training can continue from any batch without reading what comes before its
  window. For evaluation, the batches of a window come in the order of their
  lengths, and `record_number` tells which records they hold.

  Args:
    file: Path of the TFRecord file.
    max_seq_length: Maximum length of a sequence.
    batch_size: Number of records per batch, of all machines together.
    features: Features of a record apart from the token ids, as a
      `tf.io.FixedLenFeature`, or as a `token_feature` for one value per token.
    order: Order of training, which never ends; None to read all records once.
    static_shapes: Whether all batches have the same shape, as TPUs need: rows
      are padded to `max_seq_length`, and a short last batch is filled with
      examples whose `is_real_example` is 0. Records are not sorted then.
      Otherwise, batches are padded to the next of `bucket_lengths`.
    num_sequences: Number of sequences in each record. If there are several,
      they follow each other, and the feature `sequence_lengths` holds their
      lengths.
    share: Which of several machines this is. It parses and pads only its rows
      of each batch of training, and every n-th batch of evaluation.

  Returns:
    A Dataset of dictionaries: int32 `input_ids`, `input_mask` and
    `segment_ids` of shape [rows, length], or with several sequences
    [rows, num_sequences, length]; `features` of shape [rows, ...]; float32
    `is_real_example` of shape [rows]; in training int64 `input_position` of
    shape [5], otherwise int64 `record_number` of shape [rows].
  """
  spec = _record_spec(features, num_sequences)

  # Step 1: windows of serialized records, in the order of reading.
  window_size = _RECORDS_PER_WINDOW
  if order:
    # A window larger than an epoch would hold every record more than once, and
    # sorting would bring the copies into the same batch.
    largest_size = min(_RECORDS_PER_WINDOW, order.num_records)
    window_size = batch_size * max(1, largest_size // batch_size)
  sort_window = _WindowSorter(
    spec, batch_size, window_size, order, is_sorted=not static_shapes
  )
  if order:
    records = _read_endlessly(file, order, sort_window.first_record)
  else:
    records = tf.data.TFRecordDataset(file)
  windows = records.batch(window_size).enumerate()

  # Step 2: windows sorted by length.
  windows = windows.map(sort_window, num_parallel_calls=_AUTOTUNE)

  # Step 3: the batches of each window.
  batches = windows.flat_map(
    lambda window, batches: _cut_window(window, batches, batch_size)
  )
  if not order:
    batches = share.select_batches(batches)

  # Step 4: parsed, dense and padded batches.
  share_of_rows = share if order else input_shares.WHOLE
  num_rows = share_of_rows.batch_size(batch_size)
  lengths = bucket_lengths(max_seq_length, sort_window.padding_version)
  pad = _Padding(lengths, num_rows, static_shapes, spec)

  def parse_rows(batch, position):
    serialized = batch.pop("serialized")
    serialized = share_of_rows.rows_of_batch(serialized, batch_size)
    return {**_parse_batch(serialized, batch, spec, pad), **position}

  batches = batches.map(parse_rows, num_parallel_calls=_AUTOTUNE)
  return batches.prefetch(_AUTOTUNE)


def _record_spec(
  features: Mapping[str, object], num_sequences: int
) -> dict[str, object]:
  """Returns the specification of records; see `task_dataset`."""
  spec = {
    "input_ids": token_feature(tf.int64),
    "segment_ids": token_feature(tf.int64),
    **features,
  }
  if num_sequences > 1:
    spec["sequence_lengths"] = tf.io.FixedLenFeature([num_sequences], tf.int64)
  return spec


class _WindowSorter:
  """Sorts the records of windows by length, and lists the batches of each.

  Attributes:
    first_record: Place in the stream of records where training begins.
    padding_version: Version of the padding of the run.
  """

  def __init__(
    self,
    spec: Mapping[str, object],
    batch_size: int,
    window_size: int,
    order: TrainingOrder | None,
    is_sorted: bool,
  ):
    """Finds where training begins.

    Args:
      spec: Specification of the features of a record.
      batch_size: Number of records per batch.
      window_size: Number of records per window.
      order: Order of training; None in evaluation.
      is_sorted: Whether to sort at all.
    """
    self._spec = spec
    self._batch_size = batch_size
    self._window_size = window_size
    self._order = order
    self._is_sorted = is_sorted
    self.first_record, self._num_batches_done = 0, 0
    self.padding_version = _PADDING_VERSION
    if order:
      self.first_record, self._num_batches_done = _find_start(order, batch_size)
      self.padding_version = _find_padding_version(order.position)

  def __call__(
    self, number: tf.Tensor, serialized: tf.Tensor
  ) -> tuple[Features, Features]:
    """Returns the records of a window, and facts about each of its batches.

    Args:
      number: Number of the window, int64 scalar.
      serialized: Its records, string [n].
    """
    size = tf.size(serialized)
    lengths = tf.zeros([size], tf.int64)  # all are padded to the same length
    if self._is_sorted:
      lengths = _measure_records(serialized, self._spec)
    by_length = tf.argsort(lengths, stable=True)
    window = {
      "serialized": tf.gather(serialized, by_length),
      "length": tf.gather(lengths, by_length),
    }
    batch_starts = tf.range(0, size, self._batch_size)
    first_in_window = number * self._window_size
    if self._order:
      first_in_stream = self.first_record + first_in_window
      batches = {
        "start": _shuffle_batches(
          batch_starts, self._order.seed, first_in_stream
        ),
        INPUT_POSITION: _positions_after(
          first_in_stream,
          self._window_size,
          self._batch_size,
          self._order.identity,
          self.padding_version,
        ),
      }
      # Some batches of the first window may have been trained on already.
      num_skipped = tf.where(number == 0, self._num_batches_done, 0)
      return window, {name: x[num_skipped:] for name, x in batches.items()}
    window["record_number"] = first_in_window + tf.cast(by_length, tf.int64)
    return window, {"start": batch_starts}


def _find_start(order: TrainingOrder, batch_size: int) -> tuple[int, int]:
  """Returns where in the stream training begins.

  Returns:
    The first record of a window in the stream, and the number of batches of
    this window that were trained on before.
  """
  if order.position is None:
    return 0, 0
  if len(order.position) not in (4, 5):
    logging.warning(
      "The checkpoint stores its place in the data in another form than this "
      "program does: training begins with a new epoch."
    )
    return 0, 0
  place = order.position[:4]  # without the version of the padding
  identity, first_record, num_batches_done, old_batch_size = place
  if identity not in (order.identity, 0):
    logging.warning(
      "The training data, or the settings that records are made with, have "
      "changed since the checkpoint was saved. Training skips as many of the "
      "new records as it has used of the old ones."
    )
  elif old_batch_size == batch_size:
    return first_record, num_batches_done
  elif num_batches_done:
    logging.warning(
      "--train_batch_size was %d and is %d now: training continues after the "
      "same number of examples, but up to %d of them may differ from those "
      "that it has used.",
      old_batch_size,
      batch_size,
      _RECORDS_PER_WINDOW,
    )
  return first_record + num_batches_done * old_batch_size, 0


def _find_padding_version(position: Sequence[int] | None) -> int:
  """Returns the version of the padding of a run, by its `input_position`."""
  if position is None or not any(position) or len(position) not in (4, 5):
    return _PADDING_VERSION
  version = position[4] if len(position) == 5 else 0
  return min(version, _PADDING_VERSION)


def _read_endlessly(
  file: str, order: TrainingOrder, first_record: int
) -> tf.data.Dataset:
  """Returns the records of all epochs, each epoch in an order of its own."""
  first_epoch, num_skipped = divmod(first_record, order.num_records)

  def read_epoch(epoch):
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
    is_first = epoch == first_epoch
    return records.skip(
      tf.where(is_first, tf.constant(num_skipped, tf.int64), 0)
    )

  epochs = tf.data.Dataset.range(first_epoch, tf.int64.max)
  return epochs.flat_map(read_epoch)


def _positions_after(
  first_record: tf.Tensor,
  window_size: int,
  batch_size: int,
  identity: int,
  padding_version: int,
) -> tf.Tensor:
  """Returns the `input_position` after each batch of a window, int64 [n, 5].

  A position is (identity of the records, first record of a window, number of
  its batches that are done, batch size, version of the padding). With 3 batches
  of 2 records in the window that begins with record 12 of the stream:

      (id, 12, 1, 2, 1)  (id, 12, 2, 2, 1)  (id, 18, 0, 2, 1)
  """
  num_batches = window_size // batch_size
  num_done = tf.range(1, num_batches + 1, dtype=tf.int64)
  is_last = num_done == num_batches
  # The position after the last batch is the start of the next window.
  columns = [
    tf.fill([num_batches], tf.constant(identity, tf.int64)),
    first_record + tf.where(is_last, tf.constant(window_size, tf.int64), 0),
    tf.where(is_last, tf.constant(0, tf.int64), num_done),
    tf.fill([num_batches], tf.constant(batch_size, tf.int64)),
    tf.fill([num_batches], tf.constant(padding_version, tf.int64)),
  ]
  return tf.stack(columns, axis=1)


def _shuffle_batches(
  batch_starts: tf.Tensor, seed: int, first_in_stream: tf.Tensor
) -> tf.Tensor:
  """Returns the starts of the batches of a window in random order.

  Args:
    batch_starts: int32 Tensor of shape [n].
    seed: Seed of the training order.
    first_in_stream: Place of the window in the stream, an int64 scalar.
  """
  seeds = tf.stack([tf.constant(seed, tf.int64), first_in_stream])
  return tf.random.experimental.stateless_shuffle(batch_starts, seeds)


def _cut_window(
  window: Features, batches: Features, batch_size: int
) -> tf.data.Dataset:
  """Returns pairs of a batch of a window and the other facts about the batch.

  Args:
    window: Features of the records of a window.
    batches: Facts about each batch; `start` is its first record.
    batch_size: Number of records per batch.
  """

  def cut_batch(batch):
    start = batch.pop("start")
    end = start + batch_size
    return {name: x[start:end] for name, x in window.items()}, batch

  return tf.data.Dataset.from_tensor_slices(batches).map(cut_batch)


def _measure_records(
  serialized: tf.Tensor, spec: Mapping[str, object]
) -> tf.Tensor:
  """Returns the length of the longest sequence of each record, int64 [n].

  Parses one feature only: most of the records may be those of other machines.

  Args:
    serialized: Serialized records.
    spec: Specification of all features.
  """
  name = "sequence_lengths" if "sequence_lengths" in spec else "segment_ids"
  values = tf.io.parse_example(serialized, {name: spec[name]})[name]
  if isinstance(values, tf.RaggedTensor):
    return values.row_lengths()
  return tf.reduce_max(values, axis=1)


def _parse_batch(
  serialized: tf.Tensor,
  other_features: Features,
  spec: Mapping[str, object],
  pad: _Padding,
) -> Features:
  """Returns the padded features of the rows of a machine in a batch.

  Args:
    serialized: Serialized records of the machine.
    other_features: `length` of the records of all machines, which pad a batch
      to the same length, and further features.
    spec: Specification of the features of a record.
    pad: Pads dense batches.
  """
  longest = tf.reduce_max(other_features.pop("length"))
  parsed = tf.io.parse_example(serialized, spec)
  num_sequences = 1
  if "sequence_lengths" in spec:
    num_sequences = parsed["sequence_lengths"].shape[1]
  return pad(_to_dense({**parsed, **other_features}, num_sequences), longest)


def _to_dense(batch: Features, num_sequences: int) -> Features:
  """Returns a batch whose ragged features are padded to the longest sequence.

  sequence_lengths   [[2, 1], [1, 3]]            2 records of 2 sequences
  ragged, by record  [[1, 2, 3], [4, 5, 6, 7]]
  by sequence        [[1, 2], [3], [4], [5, 6, 7]]
  dense              [[[1, 2, 0], [3, 0, 0]], [[4, 0, 0], [5, 6, 7]]]
  """
  sequence_lengths = batch.pop("sequence_lengths", None)
  num_records = tf.shape(batch["input_ids"].row_lengths())
  dense = {"is_real_example": tf.ones(num_records)}
  batch["input_mask"] = tf.ones_like(batch["input_ids"])
  for name, value in batch.items():
    if isinstance(value, tf.RaggedTensor):
      if sequence_lengths is None:
        value = value.to_tensor()  # [batch_size, longest]
      else:
        by_sequence = tf.RaggedTensor.from_row_lengths(
          value.values, tf.reshape(sequence_lengths, [-1])
        )
        value = by_sequence.to_tensor()  # [batch_size * num_sequences, longest]
        longest = tf.shape(value)[1]
        value = tf.reshape(value, [-1, num_sequences, longest])
      if value.dtype == tf.int64:
        value = tf.cast(value, tf.int32)
    dense[name] = value
  return dense


# --- Batches of sequences that are made on the way ---------------------------


def features_dataset(
  sequences: Sequence[encoding.InputFeatures],
  max_seq_length: int,
  batch_size: int,
  static_shapes: bool = False,
  padding_is_skipped: bool = False,
) -> tf.data.Dataset:
  """Returns a Dataset of batches of sequences, in the given order.

  Batches of shorter sequences have more rows, so that each is worth its
  computation: a batch holds up to `batch_size * max_seq_length` ids.

  Args:
    sequences: The sequences, best sorted by length.
    max_seq_length: Maximum length of a sequence.
    batch_size: Number of sequences per batch if they have this length.
    static_shapes: Whether all batches have the same shape; see `task_dataset`.
    padding_is_skipped: Whether the ids of padding do not count.

  Returns:
    A Dataset of dictionaries with int32 `input_ids`, `input_mask` and
    `segment_ids` of shape [rows, length], and float32 `is_real_example` of
    shape [rows].
  """
  shape: list[int | None] = [None, None]
  if static_shapes:
    shape = [batch_size, max_seq_length]
    sizes = [batch_size] * math.ceil(len(sequences) / batch_size)
  else:
    lengths = [len(features.input_ids) for features in sequences]
    num_ids = batch_size * max_seq_length
    sizes = list(_sizes_of_batches(lengths, num_ids, padding_is_skipped))
  stops = list(itertools.accumulate(sizes))
  specs = {
    "input_ids": tf.TensorSpec(shape, tf.int32),
    "input_mask": tf.TensorSpec(shape, tf.int32),
    "segment_ids": tf.TensorSpec(shape, tf.int32),
    "is_real_example": tf.TensorSpec(shape[:1], tf.float32),
  }

  def make_batch(number: int) -> list[np.ndarray]:
    stop, size = stops[number], sizes[number]
    rows = sequences[stop - size : stop]
    batch = _create_batch(rows, size, shape[1])
    return [batch[name] for name in specs]

  def read_batch(number: tf.Tensor) -> Features:
    types = [spec.dtype for spec in specs.values()]
    values = tf.numpy_function(make_batch, [number], types, stateful=False)
    return {
      name: tf.ensure_shape(value, spec.shape)
      for (name, spec), value in zip(specs.items(), values)
    }

  # `Dataset.from_generator` would make TensorFlow return memory to the system
  # after each operation. A whole prediction took 1.3 times as long.
  dataset = tf.data.Dataset.range(len(sizes)).map(read_batch)
  return dataset.prefetch(_AUTOTUNE)


def _sizes_of_batches(
  lengths: Sequence[int], num_ids: int, padding_is_skipped: bool
) -> Iterator[int]:
  """Yields numbers of rows for batches of up to `num_ids` ids.

  Args:
    lengths: Length of each sequence.
    num_ids: Maximum number of ids, unless a sequence alone is longer.
    padding_is_skipped: Whether the ids of padding do not count.
  """
  most_places = num_ids * (_PLACES_PER_TOKEN if padding_is_skipped else 1)
  size = longest = num_tokens = 0
  for length in lengths:
    num_places = (size + 1) * max(longest, length)
    is_full = num_tokens + length > num_ids or num_places > most_places
    if size and is_full:
      yield size
      size = longest = num_tokens = 0
    size += 1
    longest = max(longest, length)
    num_tokens += length
  if size:
    yield size


def _create_batch(
  sequences: Sequence[encoding.InputFeatures],
  num_rows: int,
  length: int | None = None,
) -> dict[str, np.ndarray]:
  """Returns a batch of sequences, padded to a number of rows and a length.

  Args:
    sequences: The sequences.
    num_rows: Number of rows.
    length: The length; None for that of the longest sequence.
  """
  if length is None:
    length = max(len(features.input_ids) for features in sequences)
  lengths = np.zeros([num_rows, 1], int)
  lengths[: len(sequences), 0] = [len(x.input_ids) for x in sequences]
  is_token = np.arange(length) < lengths  # [num_rows, length]
  is_real = lengths[:, 0] > 0
  batch = {
    "input_mask": is_token.astype(np.int32),
    "is_real_example": is_real.astype(np.float32),
  }
  for name in ("input_ids", "segment_ids"):
    rows = [getattr(x, name) for x in sequences]
    batch[name] = np.zeros([num_rows, length], np.int32)
    # The places of tokens, row by row, get the values of all rows in order.
    batch[name][is_token] = np.fromiter(
      itertools.chain.from_iterable(rows), np.int32
    )
  return batch


# --- Padding -----------------------------------------------------------------


def bucket_lengths(
  max_seq_length: int, version: int = _PADDING_VERSION
) -> list[int]:
  """Returns the lengths that batches are padded to; the last is the maximum.

  They are dense where many texts are, at 4 to 20 tokens. There are few enough
  that each shape, which has to be compiled, occurs often.

  Args:
    max_seq_length: Maximum length of a sequence.
    version: Version of the padding, of which 0 pads short texts more.
  """
  lengths = [
    *_SHORT_LENGTHS[version],
    *range(64, 128, 8),
    *range(128, 256, 16),
    *range(256, max_seq_length, 32),
  ]
  return [n for n in lengths if n < max_seq_length] + [max_seq_length]


class _Padding:
  """Pads dense batches to one of a few lengths, or to one static shape."""

  def __init__(
    self,
    lengths: Sequence[int],
    num_rows: int,
    static_shapes: bool,
    spec: Mapping[str, object],
  ):
    """Sets what to pad to.

    Args:
      lengths: Result of `bucket_lengths`.
      num_rows: Number of rows if shapes are static.
      static_shapes: Whether all batches get the same shape.
      spec: Specification of the features. Ragged ones have a value for each
        token, in the last dimension.
    """
    self._static_shape = None
    if static_shapes:
      lengths = lengths[-1:]
      self._static_shape = num_rows, lengths[0]
    self._lengths = tf.constant(lengths)
    self._token_features = {"input_mask"}
    for name, feature in spec.items():
      if isinstance(feature, tf.io.RaggedFeature):
        self._token_features.add(name)

  def __call__(self, features: Features, longest: tf.Tensor) -> Features:
    """Returns the padded features of a batch.

    Args:
      features: Dense features, of the rows of one machine.
      longest: Length of the longest sequence of all machines, int64 scalar.
    """
    shape = tf.shape(features["input_ids"])
    num_rows, width = shape[0], shape[-1]
    longest = tf.cast(longest, tf.int32)
    length = self._lengths[tf.searchsorted(self._lengths, [longest])[0]]
    missing_rows = 0
    if self._static_shape:
      missing_rows = self._static_shape[0] - num_rows
    padded = {}
    for name, value in features.items():
      inner_shape = value.shape[1:].as_list()
      paddings = [[0, missing_rows]] + [[0, 0]] * len(inner_shape)
      if name in self._token_features:
        paddings[-1] = [0, length - width]
      padded[name] = tf.pad(value, paddings)
      if self._static_shape:
        all_rows, max_seq_length = self._static_shape
        if name in self._token_features:
          inner_shape[-1] = max_seq_length
        shape = [all_rows, *inner_shape]
        padded[name] = tf.ensure_shape(padded[name], shape)
    return padded
