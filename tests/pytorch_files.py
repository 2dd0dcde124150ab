"""Files as PyTorch writes them, built by hand in both of its formats."""

import collections
import io
import pickle
import struct
import zipfile

import numpy as np

from data import pytorch_checkpoint


class Global:
  """Pickles as a name of a module."""

  def __init__(self, name):
    self.name = name


class Storage:
  """Pickles as a reference to numbers."""

  def __init__(self, key, dtype, array):
    self.key, self.dtype, self.array = key, dtype, array


class Call:
  """Pickles as the call of a function."""

  def __init__(self, name, *arguments):
    self.name, self.arguments = name, arguments


class Tensor(Call):
  """Pickles as PyTorch's tensors do."""

  def __init__(self, storage, offset, shape, strides, *more):
    super().__init__(
      "torch._utils._rebuild_tensor_v2",
      storage,
      offset,
      shape,
      strides,
      False,
      collections.OrderedDict(),
      *more,
    )


class Pickler(pickle._Pickler):  # the one that can be extended
  """Writes the classes above as PyTorch's pickles have them."""

  dispatch = pickle._Pickler.dispatch.copy()

  def save_global_by_name(self, obj):
    module, _, name = obj.name.rpartition(".")
    self.write(f"c{module}\n{name}\n".encode())

  def save_call(self, obj):
    self.save(Global(obj.name))
    self.save(obj.arguments)
    self.write(pickle.REDUCE)

  dispatch[Global] = save_global_by_name
  dispatch[Call] = dispatch[Tensor] = save_call

  def persistent_id(self, obj):
    if isinstance(obj, Storage):
      return (
        "storage",
        Global(f"torch.{obj.dtype}"),
        obj.key,
        "cpu",
        obj.array.size,
      )
    return None


def dumps(*objects, protocol=2):
  """Returns the pickles of objects, one after another."""
  output = io.BytesIO()
  for obj in objects:
    Pickler(output, protocol).dump(obj)
  return output.getvalue()


def write(path, is_zip, content, storages):
  """Writes an object with its storages, as zip or in the old format."""
  return write_pickle(path, is_zip, dumps(content), storages)


def write_pickle(path, is_zip, pickled, storages=()):
  """Writes a pickle with its storages, and returns the path."""
  if is_zip:
    with zipfile.ZipFile(path, "w") as archive:
      archive.writestr("archive/data.pkl", pickled)
      for storage in storages:
        archive.writestr(f"archive/data/{storage.key}", storage.array.tobytes())
    return str(path)
  data = dumps(pytorch_checkpoint._MAGIC_NUMBER, 1001, {"little_endian": True})
  data += pickled + dumps([storage.key for storage in storages])
  for storage in storages:
    data += struct.pack("<q", storage.array.size) + storage.array.tobytes()
  path.write_bytes(data)
  return str(path)


def floats(size, key="0"):
  """Returns a storage of the numbers 0, 1, 2, ..."""
  return Storage(key, "FloatStorage", np.arange(size, dtype=np.float32))
