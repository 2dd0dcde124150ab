"""Reads the tensors of a `pytorch_model.bin` without running code from it.

Such a file contains a pickle: a program for a small machine, which can call any
function of any module. This module has its own machine. It knows the opcodes
that tensors are stored with, and creates only plain values. It imports nothing,
looks up no attributes and calls nothing; everything else is refused by name.

Both formats of PyTorch can be read: the zip archive, and the format before
version 1.6. Every size in a file is compared with the size of the file before
memory is allocated.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import io
import math
import os
import pickletools
import re
import struct
from typing import Any, BinaryIO
import zipfile

import numpy as np
import tensorflow as tf

from data import file_io
from errors import UserError

# Limits of a pickle, far above those of any BERT: one with 400 tensors takes
# 60 kB and 12,000 opcodes. They bound the memory and the time of reading.
_MAX_PICKLE_BYTES = 4 << 20
_MAX_OPCODES = 1 << 17
_MAX_INT_BITS = 128
_MAX_NAME_LENGTH = 1000
_MAX_PROTOCOL = 5

# NumPy's limits: dimensions of an array, and its elements of 8 bytes. NumPy
# ignores dimensions of length 0 when it checks the second limit.
_MAX_DIMENSIONS = 32
_MAX_ELEMENTS = 1 << 59

_ZIP_MAGIC = b"PK\3\4"
# The older format begins with these two numbers.
_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_FORMAT_VERSION = 1001

# PyTorch's names of storages and of their dtypes.
_STORAGES = {
  "FloatStorage": "float32",
  "HalfStorage": "float16",
  "DoubleStorage": "float64",
  "BFloat16Storage": "bfloat16",
  "LongStorage": "int64",
  "IntStorage": "int32",
  "ShortStorage": "int16",
  "CharStorage": "int8",
  "ByteStorage": "uint8",
  "BoolStorage": "bool",
  "ComplexFloatStorage": "complex64",
  "ComplexDoubleStorage": "complex128",
  "QInt8Storage": "qint8",
  "QUInt8Storage": "quint8",
  "QInt32Storage": "qint32",
  "QUInt4x2Storage": "quint4x2",
  "QUInt2x4Storage": "quint2x4",
  "UntypedStorage": "untyped",
}
# The dtypes that can be read.
_BFLOAT16 = np.dtype(tf.bfloat16.as_numpy_dtype)
_DTYPES = {
  "float32": np.dtype("<f4"),
  "float16": np.dtype("<f2"),
  "float64": np.dtype("<f8"),
  "bfloat16": _BFLOAT16,
  "int64": np.dtype("<i8"),
  "int32": np.dtype("<i4"),
  "int16": np.dtype("<i2"),
  "int8": np.dtype("i1"),
  "uint8": np.dtype("u1"),
  "bool": np.dtype("?"),
}

_UNREADABLE = "which cannot be read; convert it to float32 with PyTorch"

# The functions that a file may name. They are never called here.
_ORDERED_DICT = "collections.OrderedDict"
_REBUILD_TENSOR = "torch._utils._rebuild_tensor_v2"
_REBUILD_PARAMETER = "torch._utils._rebuild_parameter"
_SIZE = "torch.Size"
_REBUILD_OF_DTYPE = "torch._utils._rebuild_tensor_v3"
# Functions of tensors that cannot be read, and the reason for the error.
_REBUILD_OTHERS = {
  "torch._utils._rebuild_sparse_tensor": "is sparse",
  "torch._utils._rebuild_sparse_csr_tensor": "is sparse",
  "torch._utils._rebuild_qtensor": "is quantized",
  "torch.serialization._get_layout": "is a layout",
}
_STORAGE_NAMES = [f"torch.{storage}" for storage in _STORAGES]
_GLOBALS = frozenset(
  [
    _ORDERED_DICT,
    _REBUILD_TENSOR,
    _REBUILD_PARAMETER,
    _REBUILD_OF_DTYPE,
    *_REBUILD_OTHERS,
    _SIZE,
    "torch.storage.UntypedStorage",
    "torch.per_tensor_affine",
    "torch.per_channel_affine",
    *_STORAGE_NAMES,
  ]
)
_DTYPE_GLOBAL = re.compile(
  r"torch\.(b?float|u?int|complex|bits)\d\w*", re.ASCII
)


# --- Values ------------------------------------------------------------------
# The machine creates these values, and None, bool, int, float, str, bytes, list
# and tuple.


@dataclasses.dataclass(frozen=True)
class _Global:
  """The name of a function or class; it is never looked up."""

  name: str


@dataclasses.dataclass(eq=False)
class _Dict:
  """The entries of a dictionary, which should be pairs.

  Keys are not hashed, because hashing tuples that contain each other takes
  forever.
  """

  items: list = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class _Storage:
  """A flat array of numbers that tensors refer to."""

  key: str
  dtype: str
  size: int

  @property
  def num_bytes(self) -> int:
    return self.size * _DTYPES[self.dtype].itemsize


@dataclasses.dataclass(frozen=True, eq=False)
class _Tensor:
  """A tensor whose numbers are not read yet.

  Its fields may have any values until `_check_tensor` has accepted them.
  """

  storage: Any
  offset: Any
  shape: Any
  strides: Any


@dataclasses.dataclass(frozen=True, eq=False)
class _UnreadableTensor:
  """A tensor that cannot be read, and the reason."""

  reason: str


# --- The machine -------------------------------------------------------------


class _Machine:
  """Runs pickles, with the values above.

  Attributes:
    storages: All storages that the pickles refer to, by key.
  """

  def __init__(self) -> None:
    self.storages: dict[str, _Storage] = {}
    self._stack: list[Any] = []
    self._marks: list[int] = []  # heights of the stack
    self._memo: dict[int, Any] = {}

  def run(self, stream: BinaryIO) -> object:
    """Returns the value of a pickle; the stream is left at its end.

    Raises:
      UserError: The pickle contains more than tensors and plain values.
      ValueError: It is damaged.
    """
    self._stack, self._marks, self._memo = [], [], {}
    for number, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
      if number >= _MAX_OPCODES:
        raise UserError(f"its pickle has more than {_MAX_OPCODES} opcodes")
      if opcode.name == "STOP":
        return self._pop()
      self._step(opcode.name, argument)
    raise AssertionError("genops ends with STOP or an error")

  def _step(self, opcode: str, argument) -> None:
    """Runs one opcode."""
    push, pop = self._stack.append, self._pop
    match opcode:
      case "PROTO":
        if argument > _MAX_PROTOCOL:
          raise UserError(f"its pickle has the unknown protocol {argument}")
      case "FRAME":
        pass  # a hint about the number of bytes to read at once
      case "NONE":
        push(None)
      case "NEWTRUE" | "NEWFALSE":
        push(opcode == "NEWTRUE")
      case "BININT" | "BININT1" | "BININT2" | "LONG1" | "INT" | "LONG":
        if argument.bit_length() > _MAX_INT_BITS:
          raise UserError("it holds a number that is too large")
        push(argument)
      case (
        "BINFLOAT"
        | "SHORT_BINUNICODE"
        | "BINUNICODE"
        | "SHORT_BINSTRING"
        | "BINSTRING"
        | "SHORT_BINBYTES"
        | "BINBYTES"
      ):
        push(argument)
      case "BINPUT" | "LONG_BINPUT":
        self._memo[argument] = self._top(object)
      case "MEMOIZE":
        self._memo[len(self._memo)] = self._top(object)
      case "BINGET" | "LONG_BINGET":
        if argument not in self._memo:
          raise UserError(f"its pickle refers to {argument}, which is unknown")
        push(self._memo[argument])
      case "GLOBAL":
        module, name = argument.split(" ", 1)
        push(_create_global(module, name))
      case "STACK_GLOBAL":
        name, module = pop(), pop()
        if type(module) is not str or type(name) is not str:
          raise UserError("it refers to a function without a name")
        push(_create_global(module, name))
      case "BINPERSID":
        push(self._find_storage(pop()))
      case "REDUCE":
        arguments, function = pop(), pop()
        push(_evaluate_call(function, arguments))
      case "BUILD":
        # PyTorch sets `_metadata` of a state dict, which does not concern the
        # tensors.
        pop()
        self._top(_Dict)
      case _:
        self._build_collection(opcode)

  def _build_collection(self, opcode: str) -> None:
    """Runs one opcode of tuples, lists or dictionaries; no other is left."""
    push, pop = self._stack.append, self._pop
    match opcode:
      case "MARK":
        self._marks.append(len(self._stack))
      case "EMPTY_TUPLE":
        push(())
      case "TUPLE1" | "TUPLE2" | "TUPLE3":
        size = int(opcode[-1])
        values = [pop() for _ in range(size)]
        push(tuple(reversed(values)))
      case "TUPLE":
        push(tuple(self._pop_to_mark()))
      case "EMPTY_LIST":
        push([])
      case "APPEND":
        value = pop()
        self._top(list).append(value)
      case "APPENDS":
        values = self._pop_to_mark()
        self._top(list).extend(values)
      case "EMPTY_DICT":
        push(_Dict())
      case "SETITEM":
        value, key = pop(), pop()
        self._top(_Dict).items.append((key, value))
      case "SETITEMS":
        values = self._pop_to_mark()
        if len(values) % 2:
          raise UserError("its pickle has a key without a value")
        self._top(_Dict).items.extend(zip(values[::2], values[1::2]))
      case _:
        raise UserError(f"its pickle uses {opcode}, which tensors do not need")

  def _pop(self) -> Any:
    self._top(object)
    return self._stack.pop()

  def _top(self, kind: type) -> Any:
    """Returns the last value, which must be above the last mark."""
    last_mark = self._marks[-1] if self._marks else 0
    if len(self._stack) <= last_mark:
      raise UserError("its pickle takes a value where there is none")
    value = self._stack[-1]
    if not isinstance(value, kind):
      raise UserError(
        f"its pickle changes a value of the wrong type ({type(value).__name__})"
      )
    return value

  def _pop_to_mark(self) -> list:
    if not self._marks:
      raise UserError("its pickle ends a group that has no beginning")
    height = self._marks.pop()
    values = self._stack[height:]
    del self._stack[height:]
    return values

  def _find_storage(self, reference: Any) -> _Storage:
    """Returns the storage that a pickle refers to.

    A reference is ("storage", class, key, device, size). In the older format it
    also has the storage that this one is a part of, which must be None.
    """
    is_reference = (
      type(reference) is tuple
      and len(reference) in (5, 6)
      and reference[0] == "storage"
      and reference[5:] in ((), (None,))
    )
    if not is_reference:
      raise UserError("it refers to something that is not a storage of numbers")
    _, kind, key, _, size = reference[:5]
    name = kind.name.rpartition(".")[2] if isinstance(kind, _Global) else None
    if name not in _STORAGES or type(key) is not str or not _is_size(size):
      raise UserError("it refers to a storage of an unknown kind")
    storage = _Storage(key, _STORAGES[name], size)
    if self.storages.setdefault(key, storage) != storage:
      raise UserError(f"it describes the storage {key[:80]!r} in two ways")
    return storage


def _create_global(module: str, name: str) -> _Global:
  """Returns a name, if it can be part of a tensor."""
  full = f"{module}.{name}"
  if "." in name or not (full in _GLOBALS or _DTYPE_GLOBAL.fullmatch(full)):
    raise UserError(
      f"it refers to {full[:80]!r}, which is not part of a tensor"
    )
  return _Global(full)


def _evaluate_call(function: object, arguments: object) -> object:
  """Returns the value that stands for PyTorch's result of a function call."""
  if not isinstance(function, _Global) or type(arguments) is not tuple:
    raise UserError("it calls something that is not a function of PyTorch")
  name = function.name
  if name == _ORDERED_DICT and not arguments:
    return _Dict()
  if (
    name == _ORDERED_DICT and len(arguments) == 1 and type(arguments[0]) is list
  ):
    # The form that Python 2 wrote. The list is not copied, because a file can
    # refer to a long list many times.
    return _Dict(arguments[0])
  if name == _REBUILD_TENSOR and len(arguments) >= 4:
    # The other arguments say whether the tensor is trained and which hooks it
    # has, and rarely how its numbers have to be transformed.
    if len(arguments) > 6:
      return _UnreadableTensor("is a view of negated or conjugated numbers")
    return _Tensor(*arguments[:4])
  if (
    name == _REBUILD_PARAMETER
    and arguments
    and isinstance(arguments[0], (_Tensor, _UnreadableTensor))
  ):
    return arguments[0]
  if name == _SIZE and len(arguments) == 1:
    return arguments[0]
  if name == _REBUILD_OF_DTYPE:
    names = [
      argument.name for argument in arguments if isinstance(argument, _Global)
    ]
    dtype = names[-1].removeprefix("torch.") if names else "unknown"
    return _UnreadableTensor(f"has the dtype {dtype}")
  if name in _REBUILD_OTHERS:
    return _UnreadableTensor(_REBUILD_OTHERS[name])
  raise UserError(f"it calls {name} with arguments that do not fit")


# --- Files -------------------------------------------------------------------


def read_tensors(path: str) -> dict[str, np.ndarray]:
  """Returns the tensors of a file by name; bfloat16 becomes float32.

  Tensors that share numbers in the file share them in memory, so they are not
  writeable.

  Args:
    path: Path of a state dict written by `torch.save`.

  Raises:
    UserError: The file is damaged, or contains more than tensors.
  """
  try:
    with open(path, "rb") as file:
      file_size = os.fstat(file.fileno()).st_size
      is_zip = file.read(len(_ZIP_MAGIC)) == _ZIP_MAGIC
      file.seek(0)
      return (_read_zip if is_zip else _read_legacy)(file, file_size)
  except OSError as error:
    raise UserError(
      f"{path} cannot be read: {file_io.describe_error(error)}."
    ) from error
  # With a damaged file, zipfile and pickletools may raise any exception.
  except Exception as error:  # pylint: disable=broad-except
    reason = " ".join(str(error).split())
    reason = reason[:400] or type(error).__name__
    raise UserError(
      f"{path} cannot be read as tensors of PyTorch: {reason}. Is it complete, "
      "and a state dict? Files with more than tensors are not opened, because "
      "they could run any code."
    ) from error


def _read_zip(file: BinaryIO, file_size: int) -> dict[str, np.ndarray]:
  with zipfile.ZipFile(file) as archive:
    members = {member.filename: member for member in archive.infolist()}
    if len(members) < len(archive.infolist()):
      raise UserError("two members of the archive have the same name")
    pickles = [name for name in members if name.endswith("/data.pkl")]
    if len(pickles) != 1:
      raise UserError(f"the archive has {len(pickles)} members data.pkl")
    folder = pickles[0].removesuffix("data.pkl")

    def read_member(name: str) -> bytes:
      member = members.get(folder + name)
      if member is None:
        raise UserError(f"the archive has no {name[:80]!r}")
      _check_member(member, name, file_size)
      return archive.read(member)

    has_byteorder = folder + "byteorder" in members
    if has_byteorder and read_member("byteorder") != b"little":
      raise UserError("its numbers are not little-endian")
    if members[pickles[0]].file_size > _MAX_PICKLE_BYTES:
      raise UserError(f"its pickle is larger than {_MAX_PICKLE_BYTES} bytes")
    machine = _Machine()
    content = machine.run(io.BytesIO(read_member("data.pkl")))
    tensors = _collect_tensors(content)
    storages = _collect_storages(tensors)
    # Members may overlap, and then need more memory than the file has bytes.
    num_bytes = sum(storage.num_bytes for storage in storages.values())
    if num_bytes > file_size:
      raise UserError("its tensors are larger than the file")
    numbers = {}
    for key, storage in storages.items():
      numbers[key] = _decode_numbers(read_member(f"data/{key}"), storage)
    return _create_arrays(tensors, numbers)


def _check_member(member: zipfile.ZipInfo, name: str, file_size: int) -> None:
  """Checks that a member of an archive is stored without compression.

  Raises:
    UserError: It is compressed, or reaches beyond the end of the file.
  """
  is_stored = member.compress_type == zipfile.ZIP_STORED
  if not is_stored or member.file_size != member.compress_size:
    raise UserError(
      f"{name[:80]!r} is compressed, which PyTorch never does; save it with "
      "PyTorch again"
    )
  if member.header_offset + member.file_size > file_size:
    raise UserError(f"{name[:80]!r} reaches beyond the end of the file")


def _read_legacy(file: BinaryIO, file_size: int) -> dict[str, np.ndarray]:
  # The file is five pickles, followed by the numbers of the storages: the magic
  # number, the version, sizes of C types, the tensors, the keys of storages.
  stream = io.BytesIO(file.read(_MAX_PICKLE_BYTES))
  machine = _Machine()
  if machine.run(stream) != _MAGIC_NUMBER:
    raise UserError("it does not begin like such a file")
  if machine.run(stream) != _FORMAT_VERSION:
    raise UserError("it has an unknown version")
  machine.run(stream)
  tensors = _collect_tensors(machine.run(stream))
  storages = _collect_storages(tensors)
  keys = machine.run(stream)
  if type(keys) is not list:
    raise UserError("it has no list of storages")

  file.seek(stream.tell())
  numbers = {}
  for key in keys:
    if type(key) is not str or key not in machine.storages:
      raise UserError("it lists a storage that no tensor refers to")
    storage = machine.storages[key]
    size = file.read(8)
    if size != struct.pack("<q", storage.size):
      raise UserError(
        f"the storage {key[:80]!r} has another size than its tensors say"
      )
    if storage.dtype not in _DTYPES:
      raise UserError(
        f"the storage {key[:80]!r} has the dtype {storage.dtype}, {_UNREADABLE}"
      )
    if storage.num_bytes > file_size - file.tell():
      raise UserError(
        f"the storage {key[:80]!r} reaches beyond the end of the file"
      )
    if key in storages:
      content = file.read(storage.num_bytes)
      numbers[key] = _decode_numbers(content, storage)
    else:
      file.seek(storage.num_bytes, os.SEEK_CUR)
  return _create_arrays(tensors, numbers)


# --- Tensors -----------------------------------------------------------------


def _collect_tensors(content: object) -> dict[str, _Tensor]:
  """Returns the tensors of a state dict, after checking them.

  Raises:
    UserError: There are no tensors, or one cannot be read.
  """
  if not isinstance(content, _Dict):
    raise UserError("it is not a state dict")
  for item in content.items:
    if type(item) not in (list, tuple) or len(item) != 2:
      raise UserError("its state dict does not consist of pairs")
  tensors = {}
  for name, tensor in content.items:
    if not isinstance(tensor, (_Tensor, _UnreadableTensor)):
      continue
    is_name = (
      type(name) is str and len(name) <= _MAX_NAME_LENGTH and name.isprintable()
    )
    if not is_name:
      raise UserError("it holds a tensor whose name is not text")
    if isinstance(tensor, _UnreadableTensor):
      raise UserError(
        f"the tensor {name[:80]!r} {tensor.reason}, {_UNREADABLE}"
      )
    _check_tensor(name, tensor)
    tensors[name] = tensor
  if not tensors:
    names = ", ".join(key for key, _ in content.items[:5] if type(key) is str)
    raise UserError(f"it holds no tensors by name, only {names[:80]!r}")
  return tensors


def _check_tensor(name: str, tensor: _Tensor) -> None:
  """Checks that a tensor consists of numbers of its storage.

  Raises:
    UserError: It does not, or its dtype cannot be read.
  """
  shown = repr(name[:80])
  storage, shape, strides = tensor.storage, tensor.shape, tensor.strides
  if not isinstance(storage, _Storage):
    raise UserError(f"the tensor {shown} has no numbers")
  if storage.dtype not in _DTYPES:
    raise UserError(
      f"the tensor {shown} has the dtype {storage.dtype}, {_UNREADABLE}"
    )
  is_shape = (
    type(shape) is tuple
    and type(strides) is tuple
    and len(shape) == len(strides)
    and len(shape) <= _MAX_DIMENSIONS
    and all(map(_is_size, (tensor.offset, *shape, *strides)))
  )
  if not is_shape:
    raise UserError(f"the tensor {shown} has a damaged shape")
  size = math.prod(length for length in shape if length)
  last = tensor.offset  # place of the last number in the storage
  for length, stride in zip(shape, strides):
    last += (length - 1) * stride
  # An empty tensor has no last number, but NumPy limits its other dimensions.
  is_outside = 0 not in shape and max(size - 1, last) >= storage.size
  if size > _MAX_ELEMENTS or is_outside:
    raise UserError(f"the tensor {shown} reaches beyond its numbers")


def _collect_storages(tensors: Mapping[str, _Tensor]) -> dict[str, _Storage]:
  return {tensor.storage.key: tensor.storage for tensor in tensors.values()}


def _decode_numbers(content: bytes, storage: _Storage) -> np.ndarray:
  """Returns the numbers of a storage as an array of one dimension."""
  dtype = _DTYPES[storage.dtype]
  if len(content) // dtype.itemsize != storage.size:
    raise UserError(
      f"the storage {storage.key[:80]!r} has another size than its tensors say"
    )
  values = np.frombuffer(content, dtype, storage.size)
  return values.astype(np.float32) if values.dtype == _BFLOAT16 else values


def _create_arrays(
  tensors: Mapping[str, _Tensor], numbers: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
  """Returns the tensors as views of the numbers of their storages."""
  arrays = {}
  for name, tensor in tensors.items():
    key = tensor.storage.key
    if key not in numbers:
      raise UserError(f"the storage {key[:80]!r} is missing")
    arrays[name] = _create_view(tensor, numbers[key])
  return arrays


def _create_view(tensor: _Tensor, numbers: np.ndarray) -> np.ndarray:
  if 0 in tensor.shape:
    return np.zeros(tensor.shape, numbers.dtype)
  # The stride of a dimension of length 1 means nothing, and may be huge.
  strides = [
    stride * numbers.itemsize if length > 1 else 0
    for length, stride in zip(tensor.shape, tensor.strides)
  ]
  return np.lib.stride_tricks.as_strided(
    numbers[tensor.offset :], tensor.shape, strides, writeable=False
  )


def _is_size(value: object) -> bool:
  """Returns whether a value of a file is an integer of at least 0."""
  return type(value) is int and value >= 0
