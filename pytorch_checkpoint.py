"""Reads the tensors of a `pytorch_model.bin` without running what is in it.

Such a file is a pickle, which can name any function of any module to be called.
Here only what tensors are made of is understood, and nothing is called but code
of this file; whatever else is in the file is refused. Both formats of PyTorch
are read: the one of today, a zip archive, and the one before version 1.6.
"""

import collections
import pickle
import struct
from typing import BinaryIO, Callable, NamedTuple
import zipfile

import numpy as np

from errors import UserError

# What the older format begins with.
_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C

# bfloat16 is the upper half of a float32.
_BFLOAT16 = "bfloat16"
_DTYPES = {"FloatStorage": "<f4", "HalfStorage": "<f2", "DoubleStorage": "<f8",
           "BFloat16Storage": _BFLOAT16, "LongStorage": "<i8",
           "IntStorage": "<i4", "ShortStorage": "<i2", "CharStorage": "<i1",
           "ByteStorage": "<u1", "BoolStorage": "?"}


class _Storage(NamedTuple):
  """Where the numbers of tensors are."""

  key: str
  dtype: str
  size: int


class _Tensor(NamedTuple):
  """A tensor whose numbers are not read yet."""

  storage: _Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]

  def read(self, content: bytes) -> np.ndarray:
    """Returns the array, given the bytes of its storage."""
    storage = self.storage
    last = self.offset + sum((size - 1) * stride for size, stride in zip(
        self.shape, self.strides))
    numbers = [self.offset, *self.shape, *self.strides]
    if len(self.shape) != len(self.strides) or not all(
        isinstance(n, int) and n >= 0 for n in numbers) or (
            0 not in self.shape and last >= storage.size):
      raise UserError("a tensor reaches beyond its numbers")
    if storage.dtype == _BFLOAT16:
      values = (np.frombuffer(content, "<u2", storage.size).astype(np.uint32)
                << 16).view(np.float32)
    else:
      values = np.frombuffer(content, storage.dtype, storage.size)
    return np.lib.stride_tricks.as_strided(
        values[self.offset:], self.shape,
        [stride * values.itemsize for stride in self.strides]).copy()


def _rebuild_tensor(storage, offset, shape, strides, *unused):
  if not isinstance(storage, _Storage):
    raise pickle.UnpicklingError("a tensor without numbers")
  return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _rebuild_parameter(tensor, *unused):
  return tensor


_ALLOWED: dict[tuple[str, str], object] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    **{("torch", name): dtype for name, dtype in _DTYPES.items()},
}


class _Unpickler(pickle.Unpickler):
  """Understands tensors and nothing else."""

  def find_class(self, module, name):
    try:
      return _ALLOWED[module, name]
    except KeyError:
      raise pickle.UnpicklingError(
          f"it holds {module}.{name}, which is no tensor") from None

  def persistent_load(self, pid):
    kind, dtype, key, _, size = pid[:5]
    if kind != "storage" or dtype not in _DTYPES.values() or (
        not isinstance(size, int) or size < 0):
      raise pickle.UnpicklingError(f"it refers to {pid!r}")
    return _Storage(str(key), dtype, size)


def read(path: str) -> dict[str, np.ndarray]:
  """Returns the tensors of a file by name.

  Args:
    path: of a state dict, as `torch.save` writes it.

  Raises:
    UserError: the file is damaged, or holds something other than tensors.
  """
  try:
    with open(path, "rb") as file:
      if zipfile.is_zipfile(file):
        return _read_zip(file)
      file.seek(0)
      return _read_legacy(file)
  except (pickle.UnpicklingError, EOFError, ValueError, KeyError, TypeError,
          AttributeError, IndexError, struct.error,
          zipfile.BadZipFile) as error:
    raise UserError(
        f"{path} cannot be read as tensors of PyTorch: {error}. Is it whole, "
        "and a state dict? Files that hold more than tensors are not opened, "
        "for they could run anything.") from error


def _read_zip(file: BinaryIO) -> dict[str, np.ndarray]:
  with zipfile.ZipFile(file) as archive:
    [name] = [name for name in archive.namelist()
              if name.endswith("/data.pkl")]
    folder = name.removesuffix("data.pkl")
    with archive.open(name) as pickled:
      tensors = _tensors(_Unpickler(pickled).load())
    return _materialize(
        tensors, lambda storage: archive.read(f"{folder}data/{storage.key}"))


def _read_legacy(file: BinaryIO) -> dict[str, np.ndarray]:
  if _Unpickler(file).load() != _MAGIC_NUMBER:
    raise UserError("it does not begin like such a file")
  for _ in range(2):  # versions and sizes of C's types
    _Unpickler(file).load()
  tensors = _tensors(_Unpickler(file).load())
  keys = _Unpickler(file).load()
  storages = {tensor.storage.key: tensor.storage
              for tensor in tensors.values()}
  contents = {}
  for key in keys:
    size, = struct.unpack("<q", file.read(8))
    dtype = storages[key].dtype
    width = 2 if dtype == _BFLOAT16 else np.dtype(dtype).itemsize
    contents[key] = file.read(size * width)
  return _materialize(tensors, lambda storage: contents[storage.key])


def _tensors(content) -> dict[str, _Tensor]:
  """Returns the tensors of a state dict."""
  if not isinstance(content, dict):
    raise UserError("it is no state dict")
  return {name: tensor for name, tensor in content.items()
          if isinstance(tensor, _Tensor)}


def _materialize(tensors, content_of: Callable[[_Storage], bytes]
                ) -> dict[str, np.ndarray]:
  return {name: tensor.read(content_of(tensor.storage))
          for name, tensor in tensors.items()}
