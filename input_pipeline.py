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
from typing import Callable, Iterable, Mapping, NamedTuple, Optional
from typing import Sequence

from absl import logging
import numpy as np
import tensorflow as tf

from data import file_io
from errors import UserError

# How many records a shuffle may hold in memory.
_SHUFFLE_BUFFER = 100_000
# Among how many records of a task those of near lengths are looked for.
_RECORDS_PER_WINDOW = 4096
# How many files of pre-training records are mixed with each other.
_FILES_PER_GROUP = 4
_AUTOTUNE = tf.data.AUTOTUNE

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
    left = np.arange(num_tokens) - starts[:, np.newaxis]       # [n, tokens]
    right = lengths[:, np.newaxis] - 1 - left
    context = np.minimum(left, right) + 0.01 * lengths[:, np.newaxis]
    context[(left < 0) | (right < 0)] = -np.inf
    best = np.argmax(context, axis=0) if num_windows else np.zeros(0, int)
    places = starts[:, np.newaxis] + np.arange(min(room, num_tokens))
    is_max_context = (best[np.minimum(places, num_tokens - 1)]
                      == np.arange(num_windows)[:, np.newaxis]) & (
                          places < num_tokens)
    return cls(starts, lengths, is_max_context)


# --- Records ----------------------------------------------------------------


def serialize(features: Mapping[str, Sequence[float]]) -> bytes:
  """Returns a tf.train.Example; lists of ints and of floats keep their type."""
  example = tf.train.Example()
  for name, values in features.items():
    feature = example.features.feature[name]
    if values and isinstance(values[0], float):
      feature.float_list.value.extend(values)
    else:
      feature.int64_list.value.extend(values)
  return example.SerializeToString()


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


def task_dataset(file: str, max_seq_length: int, batch_size: int,
                 features: Mapping[str, object],
                 num_training_records: int = 0, seed: int = 0,
                 static_shapes: bool = False,
                 num_sequences: int = 1) -> tf.data.Dataset:
  """Batches of the records of a task, as `create_task_record` makes them.

  Training batches are drawn from near lengths: some thousand records, drawn at
  random, are sorted by length and cut into batches, which come in random order.
  Other records come once, also sorted among thousands; their number says where
  they belong.

  Args:
    file: the TFRecord file.
    max_seq_length: no sequence is longer.
    batch_size: examples per batch.
    features: what records hold beside the ids: a `tf.io.FixedLenFeature`, or
      where there is a value for each token a `tf.io.RaggedFeature`.
    num_training_records: how many records the file has, to shuffle them and
      repeat them without end; 0 not to train with them.
    seed: of the order; it differs from epoch to epoch.
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
    `is_real_example` [batch_size]; and if not in training `record_number`,
    int64 [batch_size].
  """
  spec = {"input_ids": token_feature(tf.int64),
          "segment_ids": token_feature(tf.int64), **features}
  if num_sequences > 1:
    spec["sequence_lengths"] = tf.io.FixedLenFeature([num_sequences], tf.int64)
  dataset = tf.data.TFRecordDataset(file)
  window = _RECORDS_PER_WINDOW
  if num_training_records:
    dataset = dataset.shuffle(_SHUFFLE_BUFFER, seed=seed).repeat()
    # No record twice in a window: copies would meet in one batch.
    window = batch_size * max(1, min(window, num_training_records)
                              // batch_size)

  def parse(number, records):
    """Returns the features of a window, and where its batches begin."""
    parsed = tf.io.parse_example(records, spec)
    size = tf.size(records)
    if not static_shapes:
      order = tf.argsort(_longest_sequences(parsed, num_sequences), stable=True)
      parsed = {name: tf.gather(value, order)
                for name, value in parsed.items()}
    starts = tf.range(0, size, batch_size)
    if num_training_records:
      # Which record comes first is as random as all else in the window.
      random = tf.strings.to_hash_bucket_fast(records[0], 2 ** 31 - 1)
      return parsed, tf.random.experimental.stateless_shuffle(
          starts, tf.stack([seed & 0x7fffffff, tf.cast(random, tf.int32)]))
    parsed["record_number"] = number * window + tf.cast(
        tf.range(size) if static_shapes else order, tf.int64)
    return parsed, starts

  def batches(parsed, starts):
    return tf.data.Dataset.from_tensor_slices(starts).map(
        lambda start: {name: value[start:start + batch_size]
                       for name, value in parsed.items()})

  dataset = dataset.batch(window).enumerate().map(
      parse, num_parallel_calls=_AUTOTUNE).flat_map(batches)
  return _padded(
      dataset.map(functools.partial(_to_dense, num_sequences=num_sequences),
                  num_parallel_calls=_AUTOTUNE),
      max_seq_length, batch_size, static_shapes,
      [name for name, feature in spec.items()
       if isinstance(feature, tf.io.RaggedFeature)] + ["input_mask"])


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


def _padded(dataset, max_seq_length: int, batch_size: int, static_shapes: bool,
            names: Sequence[str]) -> tf.data.Dataset:
  """Pads batches on.

  Args:
    dataset: of batches, as long as their longest sequence.
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

  return dataset.map(pad, num_parallel_calls=_AUTOTUNE).prefetch(_AUTOTUNE)


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
    files: Sequence[str], max_seq_length: int,
    max_predictions_per_seq: int) -> PretrainingFormat:
  """Looks at the first record of each file, before hours go by.

  Returns:
    The format of the records.

  Raises:
    UserError: a file is no TFRecord file, holds other features, or was made
      with another length or number of predictions; or the files differ.
  """
  flags = {"input_ids": "max_seq_length",
           "masked_lm_positions": "max_predictions_per_seq"}
  formats = {}
  for file in files:
    try:
      record = next(iter(tf.data.TFRecordDataset(file).take(1)), None)
    except tf.errors.DataLossError as error:
      raise UserError(f"{file} is not a TFRecord file, or it is "
                      "damaged at its start.") from error
    if record is None:
      raise UserError(f"{file} holds no record.")
    features = tf.train.Example.FromString(record.numpy()).features.feature
    lengths = {name: len(feature.int64_list.value)
               or len(feature.float_list.value)
               for name, feature in features.items()}
    record_format = PretrainingFormat(
        max_seq_length, max_predictions_per_seq,
        lengths.get("sequence_starts", 1), "next_sentence_labels" in lengths,
        "continues_word" in lengths)
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
            f"{feature.shape[0]}. The records were made with --{flag}={length}:"
            " pass the same, or make them anew.")
    formats.setdefault(record_format, file)
  if len(formats) > 1:
    raise UserError(
        "The input files hold records of different kinds: " + "; ".join(
            f"{file} has {', '.join(sorted(record_format.feature_spec()))}, up "
            f"to {record_format.max_sequences} sequences a record"
            for record_format, file in formats.items())
        + ". Train on those of one kind.")
  return next(iter(formats))


def pretraining_dataset(
    files: Sequence[str], record_format: PretrainingFormat, vocab_size: int,
    batch_size: int, is_training: bool, seed: int, drop_remainder: bool,
    position: Optional[Sequence[int]] = None,
    mask_anew: Optional[Callable] = None) -> tf.data.Dataset:
  """Batches of records that `create_pretraining_data.py` wrote.

  Args:
    files: TFRecord files.
    record_format: what `check_pretraining_files` says of them.
    vocab_size: ids have to be below; the Dataset fails at a batch that has a
      higher one.
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

  def parse(records):
    features = tf.io.parse_example(records, spec)
    highest = tf.maximum(tf.reduce_max(features["input_ids"]),
                         tf.reduce_max(features["masked_lm_ids"]))
    with tf.control_dependencies([tf.debugging.Assert(
        highest < vocab_size,
        ["The input_file has the id", highest, "but the vocab_size of the "
         f"model is {vocab_size}. Were the records made with its vocabulary?"
        ])]):
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
  if position is not None:
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
