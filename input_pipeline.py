"""From ids to batches: packing, TFRecord files, buckets of near lengths.

    [CLS] a a a [SEP] b b [SEP]  0   0
      0   0 0 0   0   1 1   1    0   0     segment_ids
      1   1 1 1   1   1 1   1    0   0     input_mask

Records of tasks hold what is real, without the padding; it is added when
batches are made, and no more of it than a batch needs. Records of pre-training
are padded to a fixed length: that format is older than this code, and other
programs write and read it.
"""

import functools
import itertools
import os
import zlib
from typing import Callable, Iterable, Iterator, Mapping, NamedTuple, Optional
from typing import Sequence

from absl import logging
from google.protobuf import message
import numpy as np
import tensorflow as tf

from data import file_io
from data import records as record_files
from errors import UserError

# How many records a shuffle may hold in memory.
_SHUFFLE_BUFFER = 100_000
# How many records to try where damaged ones are skipped.
_RECORDS_TRIED = 1000
# No weight of a prediction is as large.
_MOST_WEIGHT = 2 ** 20
# Among how many records of a task those of near lengths are looked for.
_RECORDS_PER_WINDOW = 4096
# How many files of pre-training records are mixed with each other.
_FILES_PER_GROUP = 4
_AUTOTUNE = tf.data.AUTOTUNE
# The feature of a training batch that tells where the next one begins.
_POSITION = "input_position"

# What becomes of texts that are too long; see `pack_long`.
TRUNCATE = "truncate"
HEAD_TAIL = "head_tail"
SLIDING_WINDOW = "sliding_window"


class Packed(NamedTuple):
  """A sequence, or a pair of them, as the encoder reads it."""

  input_ids: list[int]
  segment_ids: list[int]


def truncate_pair(length_a: int, length_b: int,
                  max_length: int) -> tuple[int, int]:
  """Returns the lengths that a pair is cut to, `max_length` in all.

  One id at a time comes off whichever is longer then (off b when they are
  equal), because an id of a short sequence tells more than one of a long one.
  """
  excess = max(0, length_a + length_b - max_length)
  # First the longer one comes down to the other, then they take turns.
  cut_a = min(excess, max(0, length_a - length_b))
  cut_b = min(excess, max(0, length_b - length_a))
  rest = excess - cut_a - cut_b
  return length_a - cut_a - rest // 2, length_b - cut_b - (rest + 1) // 2


def pack(ids_a: Sequence[int], ids_b: Optional[Sequence[int]],
         max_seq_length: int, cls_id: int, sep_id: int) -> Packed:
  """Returns `[CLS] a [SEP]` or `[CLS] a [SEP] b [SEP]`, cut to fit.

  Args:
    ids_a: ids of the first sequence.
    ids_b: ids of the second, or None (or empty) for none.
    max_seq_length: the most ids to return.
    cls_id: id of `[CLS]`.
    sep_id: id of `[SEP]`.
  """
  return pack_long(ids_a, ids_b, max_seq_length, cls_id, sep_id, TRUNCATE)[0]


def pack_long(ids_a: Sequence[int], ids_b: Optional[Sequence[int]],
              max_seq_length: int, cls_id: int, sep_id: int,
              long_text: str) -> list[Packed]:
  """Packs a sequence or a pair that may be too long for the encoder.

  Args:
    ids_a: as for `pack`, like the four that follow.
    ids_b: of the second sequence, or None.
    max_seq_length: the most ids of a window.
    cls_id: id of `[CLS]`.
    sep_id: id of `[SEP]`.
    long_text: what becomes of what does not fit: `truncate` keeps the
      beginning; `head_tail` a quarter of the room from the beginning and the
      rest from the end, which Sun et al. (2019) found best; `sliding_window`
      keeps all, in windows that overlap by half. Of a pair the longer one is
      windowed; the other one is in each window, with half of the room at most.

  Returns:
    The windows, one unless `long_text` is `sliding_window`.
  """
  room = max_seq_length - (3 if ids_b else 2)
  ids_b = ids_b or []
  length_a, length_b = truncate_pair(len(ids_a), len(ids_b), room)
  if long_text == SLIDING_WINDOW:
    windows_a, windows_b = [ids_a[:length_a]], [ids_b[:length_b]]
    if len(ids_a) >= len(ids_b):
      windows_a = _windows(ids_a, length_a)
    else:
      windows_b = _windows(ids_b, length_b)
    pairs = [(a, b) for a in windows_a for b in windows_b]
  else:
    keep = _head_and_tail if long_text == HEAD_TAIL else _head
    pairs = [(keep(ids_a, length_a), keep(ids_b, length_b))]
  return [Packed([cls_id, *a, sep_id, *([*b, sep_id] if b else ())],
                 [0] * (len(a) + 2) + [1] * (len(b) + 1 if b else 0))
          for a, b in pairs]


def _head(ids, length: int):
  return ids[:length]


def _head_and_tail(ids, length: int):
  if len(ids) <= length:
    return ids
  head = length // 4
  return [*ids[:head], *ids[len(ids) - (length - head):]]


def _windows(ids, length: int) -> list:
  """Cuts ids into windows that overlap by half; the last ends with them."""
  last = len(ids) - length
  stride = max(1, length // 2)
  return [ids[start:start + length] for start in [*range(0, last, stride),
                                                  last]]


class Windows(NamedTuple):
  """Stretches of a text that is longer than a sequence, which overlap.

  Attributes:
    starts: the first token of each, int [n].
    lengths: how many tokens each has, int [n].
    is_max_context: whether a token has more context there than in any other
      window, bool [n, longest]; False beyond the length.
  """

  starts: np.ndarray
  lengths: np.ndarray
  is_max_context: np.ndarray

  @classmethod
  def cut(cls, num_tokens: int, room: int, stride: int) -> "Windows":
    """Cuts windows of at most `room` tokens, each `stride` after the last.

    A text without tokens has none.
    """
    if 0 < num_tokens <= room:
      return cls(np.zeros(1, int), np.array([num_tokens]),
                 np.ones([1, num_tokens], bool))
    stride = min(stride, room)
    num_windows = 1 + max(0, -(-(num_tokens - room) // stride))
    if not num_tokens:
      num_windows = 0
    starts = np.arange(num_windows) * stride
    lengths = np.minimum(room, num_tokens - starts)
    # The context of a token is the smaller one of left and right; among equal
    # ones the longer window counts, and then the first.
    best, most_context = np.zeros(num_tokens, int), np.full(num_tokens, -np.inf)
    for window, (start, length) in enumerate(zip(starts, lengths)):
      here = slice(start, start + length)
      left = np.arange(length)
      context = np.minimum(left, left[::-1]) + 0.01 * length
      is_best = context > most_context[here]
      best[here][is_best] = window
      most_context[here][is_best] = context[is_best]
    is_max_context = np.zeros([num_windows, min(room, num_tokens)], bool)
    is_max_context[best, np.arange(num_tokens) - starts[best]] = True
    return cls(starts, lengths, is_max_context)


# --- Records ----------------------------------------------------------------


def serialize(features: Mapping[str, Sequence[float]]) -> bytes:
  """Returns a tf.train.Example; lists of ints and of floats keep their type.

  The same features give the same bytes in every process.
  """
  example = tf.train.Example()
  for name, values in features.items():
    feature = example.features.feature[name]
    if values and isinstance(values[0], float):
      feature.float_list.value.extend(values)
    else:
      feature.int64_list.value.extend(values)
  return example.SerializeToString(deterministic=True)


def serialize_rows(features: Mapping[str, np.ndarray],
                   ) -> tuple[np.ndarray, np.ndarray]:
  """Returns what `serialize` makes of each row, many rows at once.

  The bytes of all rows are computed column by column, which takes a small part
  of the time of building a message for each.

  Args:
    features: arrays [rows, size]; whole numbers from 0 to 2**31 - 1 of any
      integer type, or float32.

  Returns:
    The bytes of all records, uint8, and the length of each, int64 [rows].
  """
  entries = []
  for name, values in features.items():
    if values.dtype == np.float32:
      kind, packed = 2, _Bytes([values.astype("<f4").view(np.uint8)])
    else:
      kind, packed = 3, _varints(values)
    # Example.features.feature is a map from a name to a list of numbers.
    key = np.frombuffer(name.encode(), np.uint8)[np.newaxis]
    entries.append(_field(1, _field(1, _Bytes([key])) + _field(
        2, _field(kind, _field(1, packed)))))
  record = _field(1, sum(entries, _Bytes([])))
  width = sum(part.shape[1] for part in record.parts)
  content = np.empty([len(values), width], np.uint8)
  is_used = np.ones([len(values), width], bool)
  column = 0
  for part in record.parts:
    columns = slice(column, column := column + part.shape[1])
    if isinstance(part, np.ma.MaskedArray):
      content[:, columns] = part.data
      is_used[:, columns] = ~part.mask
    else:
      content[:, columns] = part
  return content[is_used], np.broadcast_to(record.lengths, [len(values)])


class _Bytes:
  """As many bytes for each row as it needs, in parts put side by side.

  Attributes:
    parts: uint8 [rows, width], or [1, width] if all rows have the same; a
      masked array where rows do without some of the bytes.
    lengths: how many bytes each row has, [rows] or [1].
  """

  def __init__(self, parts: list[np.ndarray], lengths=None):
    self.parts = parts
    self.lengths = lengths
    if lengths is None:
      self.lengths = np.array([sum(part.shape[1] for part in parts)])

  def __add__(self, other: "_Bytes") -> "_Bytes":
    return _Bytes(self.parts + other.parts, self.lengths + other.lengths)


def _varints(values: np.ndarray) -> _Bytes:
  """Writes whole numbers [rows, n] seven bits to a byte, the lowest first."""
  highest = int(values.max(initial=0))
  if highest < 128:
    return _Bytes([values.astype(np.uint8)])
  rows, size = values.shape
  width = -(-highest.bit_length() // 7)
  content = np.empty([rows, size, width], np.uint8)
  is_unused = np.zeros([rows, size, width], bool)
  rest = values.astype(np.uint32)
  for i in range(width):
    if i:
      np.equal(rest, 0, out=is_unused[..., i])
    content[..., i] = rest & 127
    rest >>= 7
    # The highest bit says that another byte follows.
    content[..., i] |= (rest > 0).view(np.uint8) << 7
  is_unused = is_unused.reshape(rows, -1)
  return _Bytes(
      [np.ma.MaskedArray(content.reshape(rows, -1), is_unused)],
      size * width - np.count_nonzero(is_unused, axis=1))


def _field(number: int, payload: _Bytes) -> _Bytes:
  """Puts the tag and the length of a field before its bytes."""
  tag = np.array([[number << 3 | 2]], np.uint8)
  return _Bytes([tag]) + _varints(payload.lengths[:, np.newaxis]) + payload


def write_records(path: str, records: Iterable[bytes],
                  temporary_dir: Optional[str] = None) -> int:
  """Writes a TFRecord file, whole or not at all; returns how many records.

  Arguments as for `whole_file`.
  """
  count = 0
  with file_io.whole_file(path, temporary_dir) as temporary:
    with tf.io.TFRecordWriter(temporary) as writer:
      for record in records:
        writer.write(record)
        count += 1
  return count


# --- Batches of task records -------------------------------------------------


def create_task_record(packed: Packed, **features: Sequence[float]) -> bytes:
  """Returns the record of an example, unpadded.

  Args:
    packed: the ids.
    **features: what else there is to know, ints or floats.
  """
  return serialize({"input_ids": packed.input_ids,
                    "segment_ids": packed.segment_ids, **features})


def token_feature(dtype: tf.DType) -> tf.io.RaggedFeature:
  """Returns the feature of records that have a value for each token."""
  return tf.io.RaggedFeature(dtype, row_splits_dtype=tf.int64)


def bucket_lengths(max_seq_length: int) -> list[int]:
  """Returns the lengths that batches are padded to, the last being the most.

  Steps of 4, 8, 16 and 32: little padding, and few enough shapes that each
  comes up often.
  """
  lengths = [*range(4, 64, 4), *range(64, 128, 8), *range(128, 256, 16),
             *range(256, max_seq_length, 32)]
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
  position: Optional[Sequence[int]] = None


def task_dataset(file: str, max_seq_length: int, batch_size: int,
                 features: Mapping[str, object],
                 order: Optional[TrainingOrder] = None,
                 static_shapes: bool = False,
                 num_sequences: int = 1) -> tf.data.Dataset:
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
  spec = {"input_ids": token_feature(tf.int64),
          "segment_ids": token_feature(tf.int64), **features}
  if num_sequences > 1:
    spec["sequence_lengths"] = tf.io.FixedLenFeature([num_sequences], tf.int64)
  if order:
    # No record twice in a window: copies would meet in one batch.
    window_size = batch_size * max(
        1, min(_RECORDS_PER_WINDOW, order.num_records) // batch_size)
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
      by_length = tf.argsort(_longest_sequences(parsed, num_sequences),
                             stable=True)
      parsed = {name: tf.gather(value, by_length)
                for name, value in parsed.items()}
    starts = tf.range(0, size, batch_size)
    if not order:
      parsed["record_number"] = number * window_size + tf.cast(
          by_length, tf.int64)
      return parsed, {"start": starts}
    window = first_record + number * window_size
    starts = tf.random.experimental.stateless_shuffle(
        starts, tf.stack([tf.constant(order.seed, tf.int64), window]))
    positions = _positions_after(
        window, window_size, batch_size, order.identity)
    # Of the first window, some batches may have been trained on before.
    skipped = tf.where(number == 0, num_taken, 0)
    return parsed, {"start": starts[skipped:],
                    _POSITION: positions[skipped:]}

  def cut(parsed, places):
    return tf.data.Dataset.from_tensor_slices(places).map(
        lambda place: ({name: value[place["start"]:place["start"] + batch_size]
                        for name, value in parsed.items()},
                       {name: value for name, value in place.items()
                        if name == _POSITION}))

  batches = records.batch(window_size).enumerate().map(
      parse, num_parallel_calls=_AUTOTUNE).flat_map(cut)
  pad = _padding_function(
      max_seq_length, batch_size, static_shapes,
      [name for name, feature in spec.items()
       if isinstance(feature, tf.io.RaggedFeature)] + ["input_mask"])
  return batches.map(
      lambda batch, position: {**pad(_to_dense(batch, num_sequences)),
                               **position},
      num_parallel_calls=_AUTOTUNE).prefetch(_AUTOTUNE)


def _place_in_stream(order: TrainingOrder, batch_size: int) -> tuple[int, int]:
  """Returns where training begins.

  Returns:
    The first record of a window in the stream, and how many batches of the
    window were trained on before.
  """
  if order.position is None:
    return 0, 0
  if len(order.position) != 4:
    logging.warning("The checkpoint does not know its place in the data as "
                    "this program does: training begins with a new epoch.")
    return 0, 0
  identity, first_record, num_taken, old_batch_size = order.position
  if identity not in (order.identity, 0):
    logging.warning("The training data, or the settings by which records are "
                    "made of them, are not those that training had so far. It "
                    "continues after as many of the new records.")
  elif old_batch_size == batch_size:
    return first_record, num_taken
  elif num_taken:
    logging.warning(
        "--train_batch_size was %d and is %d now: training continues after as "
        "many examples, but up to %d of them may differ from those that were "
        "trained on.", old_batch_size, batch_size, _RECORDS_PER_WINDOW)
  return first_record + num_taken * old_batch_size, 0


def _endless_records(file: str, order: TrainingOrder,
                     first_record: int) -> tf.data.Dataset:
  """Yields the shuffled records of one epoch after the other, without end."""
  first_epoch, num_skipped = divmod(first_record, order.num_records)

  def epoch_records(epoch):
    seed = tf.random.stateless_uniform(
        [], tf.stack([tf.constant(order.seed, tf.int64), epoch]), minval=None,
        maxval=None, dtype=tf.int64)
    records = tf.data.TFRecordDataset(file).shuffle(
        _SHUFFLE_BUFFER, seed=seed, reshuffle_each_iteration=False)
    return records.skip(tf.where(
        epoch == first_epoch, tf.constant(num_skipped, tf.int64), 0))

  return tf.data.Dataset.range(first_epoch, tf.int64.max).flat_map(
      epoch_records)


def _positions_after(window, window_size: int, batch_size: int,
                     identity: int) -> tf.Tensor:
  """Returns the `input_position` after each batch of a window.

  A position is (identity of the records, first record of a window, batches of
  it that were taken, batch size): with 3 batches of 2 in the window at 12,

      (id, 12, 1, 2)  (id, 12, 2, 2)  (id, 18, 0, 2)
  """
  num_batches = window_size // batch_size
  taken = tf.range(1, num_batches + 1, dtype=tf.int64)
  is_last = taken == num_batches
  return tf.stack([
      tf.fill([num_batches], tf.constant(identity, tf.int64)),
      window + tf.where(is_last, tf.constant(window_size, tf.int64), 0),
      tf.where(is_last, tf.constant(0, tf.int64), taken),
      tf.fill([num_batches], tf.constant(batch_size, tf.int64))], axis=1)


def _longest_sequences(parsed, num_sequences: int) -> tf.Tensor:
  """Returns the length of the longest sequence of each record, int64."""
  if num_sequences > 1:
    return tf.reduce_max(parsed["sequence_lengths"], axis=1)
  return parsed["input_ids"].row_lengths()


def _to_dense(batch, num_sequences: int) -> dict[str, tf.Tensor]:
  """Pads the ragged features of a batch to its longest sequence."""
  lengths = batch.pop("sequence_lengths", None)
  batch["input_mask"] = tf.ones_like(batch["input_ids"])
  dense = {"is_real_example": tf.ones(
      tf.shape(batch["input_ids"].row_lengths()))}
  for name, value in batch.items():
    if isinstance(value, tf.RaggedTensor):
      if lengths is not None:
        value = tf.RaggedTensor.from_row_lengths(
            value.values, tf.reshape(lengths, [-1]))
      value = value.to_tensor()
      if lengths is not None:
        value = tf.reshape(value, [-1, num_sequences, tf.shape(value)[1]])
      if value.dtype == tf.int64:
        value = tf.cast(value, tf.int32)
    dense[name] = value
  return dense


def packed_dataset(sequences: Callable[[], Iterable[Packed]],
                   max_seq_length: int, batch_size: int,
                   static_shapes: bool = False) -> tf.data.Dataset:
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
      yield _batch(pending, batch_size if static_shapes else len(pending),
                   max_seq_length if static_shapes else length)

  def _batch(rows, num_rows, length):
    lengths = np.zeros([num_rows, 1], int)
    lengths[:len(rows), 0] = [len(packed.input_ids) for packed in rows]
    is_token = np.arange(length) < lengths
    batch = {"input_mask": is_token.astype(np.int32),
             "is_real_example": (lengths[:, 0] > 0).astype(np.float32)}
    for name in ("input_ids", "segment_ids"):
      batch[name] = np.zeros([num_rows, length], np.int32)
      batch[name][is_token] = np.fromiter(
          itertools.chain.from_iterable(
              getattr(packed, name) for packed in rows), np.int32)
    return batch

  shape = [batch_size, max_seq_length] if static_shapes else [None, None]
  return tf.data.Dataset.from_generator(batches, output_signature={
      **{name: tf.TensorSpec(shape, tf.int32) for name in names},
      "is_real_example": tf.TensorSpec(shape[:1], tf.float32)}).prefetch(
          _AUTOTUNE)


def _padding_function(max_seq_length: int, batch_size: int,
                      static_shapes: bool, names: Sequence[str]) -> Callable:
  """Returns the function that pads a batch on.

  Args:
    max_seq_length: see `task_dataset`, like the next two.
    batch_size: examples per batch.
    static_shapes: give every batch one shape.
    names: of the features that have a value for each token, in the last
      dimension.
  """
  lengths = tf.constant([max_seq_length] if static_shapes
                        else bucket_lengths(max_seq_length))

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
        inner = value.shape[1:-1] + [max_seq_length] if (
            name in names) else value.shape[1:]
        padded[name] = tf.ensure_shape(padded[name], [batch_size, *inner])
    return padded

  return pad


# --- Batches of pre-training records -----------------------------------------


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
            sequences, tf.float32)
    return spec


def check_pretraining_files(
    files: Sequence[str], max_seq_length: int, max_predictions_per_seq: int,
    skip_damaged_records: bool = False) -> PretrainingFormat:
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
    for record in itertools.islice(_first_records(
        file, skip_damaged_records), num_tried):
      try:
        formats.setdefault(_format_of_record(
            record, file, max_seq_length, max_predictions_per_seq), file)
        break
      except UserError as error:
        first_error = first_error or error
    else:
      raise first_error or UserError(f"{file} holds no record.")
  if len(formats) > 1:
    raise UserError(
        "The input files hold records of different kinds: " + "; ".join(
            f"{file} has {', '.join(sorted(record_format.feature_spec()))}, up "
            f"to {record_format.max_sequences} sequences a record"
            for record_format, file in formats.items())
        + ". Train on those of one kind.")
  return next(iter(formats))


def _first_records(file: str, skip_damaged_records: bool) -> Iterator[bytes]:
  """Yields the first record of a file, or those that can be read."""
  if skip_damaged_records:
    yield from record_files.readable_records(file)
    return
  try:
    yield from tf.data.TFRecordDataset(file).take(1).as_numpy_iterator()
  except tf.errors.DataLossError as error:
    raise UserError(f"{file} is not a TFRecord file, or it is damaged at its "
                    "start.") from error


def _format_of_record(record: bytes, file: str, max_seq_length: int,
                      max_predictions_per_seq: int) -> PretrainingFormat:
  """Returns the format of a record.

  Raises:
    UserError: it is no record of pre-training, or of another length.
  """
  try:
    features = tf.train.Example.FromString(record).features.feature
  except message.DecodeError as error:
    raise UserError(f"{file} is no file of pre-training records: its first "
                    "record is no tf.train.Example. Make it with "
                    "create_pretraining_data.py.") from error
  lengths = {name: len(feature.int64_list.value)
             or len(feature.float_list.value)
             for name, feature in features.items()}
  record_format = PretrainingFormat(
      max_seq_length, max_predictions_per_seq,
      max(1, lengths.get("sequence_starts", 1)),
      "next_sentence_labels" in lengths, "continues_word" in lengths)
  flags = {"input_ids": "max_seq_length",
           "masked_lm_positions": "max_predictions_per_seq"}
  for name, feature in record_format.feature_spec().items():
    if name not in features:
      raise UserError(
          f"{file} is no file of pre-training records: {name} is missing. It "
          f"has {', '.join(sorted(features)) or 'no features'}. Make it with "
          "create_pretraining_data.py.")
    length = lengths[name]
    if length != feature.shape[0]:
      flag = flags.get(name, "max_seq_length")
      raise UserError(
          f"{file}: {name} has {length} values, but --{flag}="
          f"{feature.shape[0]}. The records were made with --{flag}={length}: "
          "pass the same, or make the records again.")
  return record_format


_LIMIT_MEANINGS = {
    **dict.fromkeys(("input_ids", "masked_lm_ids"),
                    ", the vocab_size of the model"),
    "segment_ids": ", the type_vocab_size of the model"}


def _limits(record_format: PretrainingFormat, vocab_size: int,
            type_vocab_size: int) -> dict[str, int]:
  """Returns the number that all values of each feature have to be below."""
  max_seq_length = record_format.max_seq_length
  limits = {"input_ids": vocab_size, "input_mask": 2,
            "segment_ids": type_vocab_size,
            "masked_lm_positions": max_seq_length, "masked_lm_ids": vocab_size,
            "masked_lm_weights": _MOST_WEIGHT, "continues_word": 2,
            "sequence_starts": max_seq_length, "next_sentence_labels": 2,
            "next_sentence_weights": _MOST_WEIGHT}
  return {name: limits[name] for name in record_format.feature_spec()}


def _is_within_limits(features: Mapping[str, tf.Tensor],
                      limits: Mapping[str, int]) -> tf.Tensor:
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
    most = np.concatenate([
        np.full(features[name].shape[1], limits[name]) for name in names])
    if dtype == tf.int64:
      # As unsigned numbers, negative ones are above all limits.
      are_right.append(tf.bitcast(values, tf.uint64) < most.astype(np.uint64))
    else:
      # No comparison with NaN is true.
      are_right.append(tf.logical_and(values >= 0.0,
                                      values < most.astype(np.float32)))
  return tf.reduce_all(tf.concat(are_right, axis=1))


def examine_records(records: Sequence[bytes], record_format: PretrainingFormat,
                    vocab_size: int, type_vocab_size: int) -> dict[int, str]:
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
  limits = _limits(record_format, vocab_size, type_vocab_size)
  try:
    features = tf.io.parse_example(tf.constant(records, tf.string), spec)
  except tf.errors.InvalidArgumentError:
    if len(records) > 1:  # one of them is no such record: which?
      return {i: problem for i, record in enumerate(records)
              for problem in examine_records(
                  [record], record_format, vocab_size,
                  type_vocab_size).values()}
    return {0: _format_problem(records[0], spec)}
  problems = {}
  for name, limit in limits.items():
    values = features[name].numpy()
    is_right = (values >= 0) & (values < limit)
    for i in np.flatnonzero(~np.all(is_right, axis=1)).tolist():
      place = int(np.argmin(is_right[i]))
      value = values[i, place]
      problems.setdefault(
          i, f"{name} has the value {value} at place {place}, but values are "
          f"from 0 to below {limit}{_LIMIT_MEANINGS.get(name, '')}")
  return problems


def _format_problem(record: bytes, spec: Mapping[str, tf.io.FixedLenFeature]
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
      return (f"{name} is a {features[name].WhichOneof('kind') or 'nothing'}, "
              f"not a {kind}")
    length = len(getattr(features[name], kind).value)
    if length != feature.shape[0]:
      return f"{name} has {length} values, not {feature.shape[0]}"
  return "it is no record of pre-training"


def pretraining_dataset(
    files: Sequence[str], record_format: PretrainingFormat, vocab_size: int,
    type_vocab_size: int, batch_size: int, is_training: bool, seed: int,
    drop_remainder: bool,
    position: Optional[Sequence[int]] = None,
    mask_anew: Optional[Callable] = None) -> tf.data.Dataset:
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
  limits = _limits(record_format, vocab_size, type_vocab_size)

  def parse(records):
    features = tf.io.parse_example(records, spec)
    # Which record it is, and what is wrong, is found by `examine_records`.
    with tf.control_dependencies([tf.raw_ops.Assert(
        condition=_is_within_limits(features, limits),
        data=["A record has values out of range."])]):
      return {name: tf.cast(value, tf.int32)
              if value.dtype == tf.int64 else tf.identity(value)
              for name, value in features.items()}

  if not is_training:
    dataset = tf.data.TFRecordDataset(list(files)).batch(
        batch_size, drop_remainder=drop_remainder)
    return dataset.map(parse, num_parallel_calls=_AUTOTUNE).prefetch(_AUTOTUNE)
  dataset = _shuffled_records(files, seed, position).batch(
      batch_size, drop_remainder=drop_remainder)

  def training_features(records, positions):
    features = parse(records)
    if mask_anew:
      features = mask_anew(features, tf.concat(
          [[tf.cast(seed, tf.int64)], positions[-1]], axis=0))
    return {**features, "input_position": positions[-1]}

  return dataset.map(
      training_features, num_parallel_calls=_AUTOTUNE).prefetch(_AUTOTUNE)


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
      "\n".join(os.path.basename(file) for file in files).encode())
  first_epoch, first_group, num_taken = 0, 0, 0
  if position is not None and len(position) != 4:
    logging.warning("The checkpoint does not know its place in the data as "
                    "this program does: training begins with a new epoch.")
  elif position is not None:
    known, first_epoch, first_group, num_taken = position
    if known not in (identity, 0):
      first_epoch, first_group, num_taken = first_epoch + 1, 0, 0
      logging.warning("The input files are not those that training had so far. "
                      "It goes on with epoch %d of the new ones.",
                      first_epoch + 1)

  def epoch_records(epoch):
    order = tf.random.experimental.stateless_shuffle(
        tf.constant(list(files)), seed=tf.stack([tf.cast(seed, tf.int64),
                                                 epoch]))
    is_first = tf.equal(epoch, first_epoch)
    return tf.data.Dataset.range(
        tf.where(is_first, tf.constant(first_group, tf.int64), 0),
        num_groups).flat_map(
            functools.partial(group_records, epoch, order, is_first))

  def group_records(epoch, order, is_first, group):
    names = order[group * group_size:(group + 1) * group_size]
    # A seed that is different for each group; any mixing will do.
    group_seed = tf.random.stateless_uniform(
        [], tf.stack([seed + epoch, group]), minval=None, maxval=None,
        dtype=tf.int64)
    records = tf.data.Dataset.from_tensor_slices(names).interleave(
        tf.data.TFRecordDataset, cycle_length=group_size,
        num_parallel_calls=_AUTOTUNE, deterministic=True)
    records = records.shuffle(_SHUFFLE_BUFFER // 10, seed=group_seed,
                              reshuffle_each_iteration=False)
    skipped = tf.where(
        tf.logical_and(is_first, tf.equal(group, first_group)),
        tf.constant(num_taken, tf.int64), 0)
    return records.skip(skipped).enumerate(skipped + 1).map(
        lambda number, record: (record, tf.stack(
            [tf.constant(identity, tf.int64), epoch, group, number])))

  return tf.data.Dataset.range(first_epoch, tf.int64.max).flat_map(
      epoch_records)
