"""Features to serialized `tf.train.Example`s, one row or many rows at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

# Kinds of values in a `tf.train.Feature`: its fields float_list and int64_list.
_FLOAT_LIST, _INT64_LIST = 2, 3


def serialize_example(features: Mapping[str, Sequence[float]]) -> bytes:
  """Returns a serialized `tf.train.Example`.

  Lists of ints stay ints and lists of floats stay floats. The same features
  give the same bytes in every process.
  """
  example = tf.train.Example()
  for name, values in features.items():
    feature = example.features.feature[name]
    if values and isinstance(values[0], float):
      feature.float_list.value.extend(values)
    else:
      feature.int64_list.value.extend(values)
  # Otherwise, the order of the features would differ between processes.
  return example.SerializeToString(deterministic=True)


def serialize_rows(
  features: Mapping[str, np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the serialized `tf.train.Example` of each row of some arrays.

  The bytes of all rows are computed column by column, which takes a small
  fraction of the time of building a message for each row. An example with one
  feature `x`, the int 300, is three nested fields and a list of numbers:

      Example.features   0a 0d
        entry of the map   0a 0b
          key                0a 01 "x"
          value              12 06
            int64_list         1a 04
              value              0a 02 ac 02

  Each field begins with a tag and the length of its content.

  Args:
    features: Arrays of shape [rows, size]: float32, or integers of any type
      from 0 to 2**31 - 1.

  Returns:
    uint8, the bytes of all examples, and int64 [rows], their lengths.
  """
  entries = _RowBytes([])
  for name, values in features.items():
    if values.dtype == np.float32:
      kind = _FLOAT_LIST
      little_endian = values.astype("<f4")
      numbers = _RowBytes([little_endian.view(np.uint8)])
    else:
      kind = _INT64_LIST
      numbers = _encode_varints(values)
    # The key is the same for all rows, and has shape [1, length].
    key = np.frombuffer(name.encode(), np.uint8)[np.newaxis]
    value = _encode_field(kind, _encode_field(1, numbers))
    entry = _encode_field(1, _RowBytes([key])) + _encode_field(2, value)
    entries += _encode_field(1, entry)
  examples = _encode_field(1, entries)
  num_rows = len(values)
  return examples.concatenate(num_rows), np.broadcast_to(
    examples.lengths, [num_rows]
  )


class _RowBytes:
  """A string of bytes for each row, stored as columns.

      row 0   0a 02 ac 02
      row 1   0a 01 05 ..      .. = not used in this row

  Attributes:
    columns: Groups of adjacent columns, each a uint8 array of shape
      [rows, width], or [1, width] if all rows are equal; a masked array if
      some rows do not use all columns.
    lengths: int [rows] or [1], number of bytes of each row.
  """

  def __init__(
    self, columns: list[np.ndarray], lengths: np.ndarray | None = None
  ):
    self.columns = columns
    if lengths is None:
      width = sum(group.shape[1] for group in columns)
      lengths = np.array([width])
    self.lengths = lengths

  def __add__(self, other: _RowBytes) -> _RowBytes:
    """Returns the bytes of each row followed by those of the same other row."""
    return _RowBytes(self.columns + other.columns, self.lengths + other.lengths)

  def concatenate(self, num_rows: int) -> np.ndarray:
    """Returns the bytes of all rows, one row after the other."""
    width = sum(group.shape[1] for group in self.columns)
    content = np.empty([num_rows, width], np.uint8)
    is_used = np.ones([num_rows, width], bool)
    end = 0
    for group in self.columns:
      start, end = end, end + group.shape[1]
      if isinstance(group, np.ma.MaskedArray):
        content[:, start:end] = group.data
        is_used[:, start:end] = ~group.mask
      else:
        content[:, start:end] = group
    return content[is_used]


def _encode_varints(values: np.ndarray) -> _RowBytes:
  """Returns the numbers of each row as varints.

  A varint has seven bits of its number in each byte, the lowest first. The
  highest bit says whether another byte follows:

      300 = 10 0101100   1_0101100 0_0000010   ac 02
        5 =      101     0_0000101             05

  Args:
    values: Integers from 0 to 2**31 - 1 of shape [rows, size].
  """
  # Most features are small numbers, which take one byte in every row.
  highest = int(values.max(initial=0))
  if highest < 128:
    return _RowBytes([values.astype(np.uint8)])
  rows, size = values.shape
  width = -(-highest.bit_length() // 7)  # bytes of the longest varint
  content = np.empty([rows, size, width], np.uint8)
  is_unused = np.zeros([rows, size, width], bool)
  rest = values.astype(np.uint32)  # the bits that are not written yet
  for i in range(width):
    # Even a 0 has its first byte.
    if i > 0:
      np.equal(rest, 0, out=is_unused[..., i])
    content[..., i] = rest & 127
    rest >>= 7
    another_follows = (rest > 0).view(np.uint8)
    content[..., i] |= another_follows << 7
  content = content.reshape(rows, size * width)
  is_unused = is_unused.reshape(rows, size * width)
  num_unused = np.count_nonzero(is_unused, axis=1)
  return _RowBytes(
    [np.ma.MaskedArray(content, is_unused)], size * width - num_unused
  )


def _encode_field(number: int, content: _RowBytes) -> _RowBytes:
  """Returns a field of a message: its tag, its length, and its content."""
  tag = np.array([[number << 3 | 2]], np.uint8)  # 2: a length follows
  length = _encode_varints(content.lengths[:, np.newaxis])
  return _RowBytes([tag]) + length + content
