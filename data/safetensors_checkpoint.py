"""Reads the tensors of a `.safetensors` file, one at a time.

Such a file consists of the size of its header (8 bytes), the header in JSON,
and the numbers of all tensors, without gaps:

    {"pooler.dense.bias": {"dtype": "F32", "shape": [768],
                           "data_offsets": [0, 3072]}, ...}

Every size in the header is compared with the size of the file before memory is
allocated.
"""

from __future__ import annotations

import math
import os
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from data import file_io
from errors import UserError

# Limits the memory of a header; one with 400 tensors has 50 kB.
_MAX_HEADER_BYTES = 4 << 20
# NumPy's limits: dimensions of an array, and its elements of 8 bytes. NumPy
# ignores dimensions of length 0 when it checks the second limit.
_MAX_DIMENSIONS = 32
_MAX_ELEMENTS = 1 << 59

_BFLOAT16 = np.dtype(tf.bfloat16.as_numpy_dtype)
_DTYPES = {
  "F64": np.dtype("<f8"),
  "F32": np.dtype("<f4"),
  "F16": np.dtype("<f2"),
  "BF16": _BFLOAT16,
  "I64": np.dtype("<i8"),
  "I32": np.dtype("<i4"),
  "I16": np.dtype("<i2"),
  "I8": np.dtype("i1"),
  "U64": np.dtype("<u8"),
  "U32": np.dtype("<u4"),
  "U16": np.dtype("<u2"),
  "U8": np.dtype("u1"),
  "BOOL": np.dtype("?"),
}


class _Entry(NamedTuple):
  """The type and the place of a tensor in a file."""

  dtype: np.dtype
  shape: tuple[int, ...]
  begin: int  # from the start of the file
  end: int


class SafetensorsFile:
  """An open file.

  Attributes:
    shapes: Shape of each tensor, by name.
  """

  def __init__(self, path: str):
    """Opens a file and reads its header.

    Raises:
      UserError: The file cannot be read, is damaged, or contains a tensor of a
        dtype that cannot be read.
    """
    self._path = path
    try:
      self._file = open(path, "rb")  # pylint: disable=consider-using-with
      self._entries = self._read_header()
    except OSError as error:
      raise UserError(
        f"{path} cannot be read: {file_io.describe_error(error)}."
      ) from error
    self.shapes = {name: entry.shape for name, entry in self._entries.items()}

  def get_tensor(self, name: str) -> np.ndarray:
    """Returns a tensor; bfloat16 becomes float32.

    Raises:
      UserError: The file cannot be read any more.
    """
    entry = self._entries[name]
    try:
      self._file.seek(entry.begin)
      content = self._file.read(entry.end - entry.begin)
    except OSError as error:
      raise UserError(
        f"{self._path} cannot be read: {file_io.describe_error(error)}."
      ) from error
    # The header was checked, but the file may have changed since.
    if len(content) != entry.end - entry.begin:
      raise self._damage_error("it has become shorter since it was opened")
    values = np.frombuffer(content, entry.dtype).reshape(entry.shape)
    return values.astype(np.float32) if entry.dtype == _BFLOAT16 else values

  def _read_header(self) -> dict[str, _Entry]:
    file_size = os.fstat(self._file.fileno()).st_size
    header_size = int.from_bytes(self._file.read(8), "little")
    data_start = 8 + header_size
    if file_size < 8 or data_start > file_size:
      raise self._damage_error(
        f"it has {file_size} bytes, too few for its header"
      )
    if header_size > _MAX_HEADER_BYTES:
      raise self._damage_error(
        f"its header has {header_size} bytes; at most "
        f"{_MAX_HEADER_BYTES} are read"
      )
    header = file_io.parse_json(
      self._file.read(header_size), f"{self._path}: its header"
    )
    # The metadata are free text, which does not concern the tensors.
    header.pop("__metadata__", None)
    entries = {
      name: self._read_entry(name, fields, data_start)
      for name, fields in header.items()
    }
    # The tensors follow each other without gaps, in any order of the names.
    position = data_start
    by_place = sorted(entries, key=lambda name: entries[name][2:])
    for name in by_place:
      entry = entries[name]
      if entry.begin != position:
        raise self._damage_error(
          f"tensor {name[:80]!r} does not begin where the one before it ends"
        )
      position = entry.end
    if position != file_size:
      raise self._damage_error(
        f"its tensors end at byte {position}, and the file at byte {file_size}"
      )
    return entries

  def _read_entry(self, name: str, fields: object, data_start: int) -> _Entry:
    """Returns the entry of a tensor, without checking its place."""
    if not isinstance(fields, dict):
      raise self._damage_error(f"its header does not describe {name[:80]!r}")
    if not name.isprintable():
      raise self._damage_error(f"its header has the name {name[:80]!r}")
    dtype = fields.get("dtype")
    shape: Any = fields.get("shape")
    offsets: Any = fields.get("data_offsets")
    if not isinstance(dtype, str):
      raise self._damage_error(f"tensor {name[:80]!r} has no dtype")
    if dtype not in _DTYPES:
      raise UserError(
        f"{self._path}: tensor {name[:80]!r} has the dtype {dtype[:80]!r}, "
        "which cannot be read. Convert it to F32. These are read: "
        f"{', '.join(_DTYPES)}."
      )
    is_shape = _are_sizes(shape) and len(shape) <= _MAX_DIMENSIONS
    if not is_shape or math.prod(filter(None, shape)) > _MAX_ELEMENTS:
      raise self._damage_error(f"tensor {name[:80]!r} has a bad shape")
    size = math.prod(shape) * _DTYPES[dtype].itemsize
    is_range = _are_sizes(offsets) and len(offsets) == 2
    if not is_range or offsets[1] - offsets[0] != size:
      raise self._damage_error(
        f"tensor {name[:80]!r} has another size than its shape says"
      )
    begin, end = offsets
    return _Entry(
      _DTYPES[dtype], tuple(shape), data_start + begin, data_start + end
    )

  def _damage_error(self, reason: str) -> UserError:
    return UserError(
      f"{self._path} cannot be read as safetensors: {reason}. "
      "Is the file complete?"
    )


def _are_sizes(values: object) -> bool:
  """Returns whether a value is a list of integers of at least 0."""
  if not isinstance(values, list):
    return False
  return all(type(value) is int and value >= 0 for value in values)
