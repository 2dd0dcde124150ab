"""Tests of pytorch_checkpoint.py, on files built by hand in both formats."""

import collections
import io
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest

import pytorch_checkpoint


class Global:
  """Pickles as a name of a module."""

  def __init__(self, name):
    self.name = name


class Storage:
  """Pickles as a reference to numbers."""

  def __init__(self, key, dtype, array):
    self.key, self.dtype, self.array = key, dtype, array


class Tensor:
  """Pickles as PyTorch's tensors do."""

  def __init__(self, storage, offset, shape, strides):
    self.arguments = (storage, offset, shape, strides, False,
                      collections.OrderedDict())


class Pickler(pickle._Pickler):  # the one in Python can write any global
  dispatch = pickle._Pickler.dispatch.copy()

  def save_global_by_name(self, obj):
    module, _, name = obj.name.rpartition(".")
    self.write(f"c{module}\n{name}\n".encode())

  def save_tensor(self, obj):
    self.save(Global("torch._utils._rebuild_tensor_v2"))
    self.save(obj.arguments)
    self.write(pickle.REDUCE)

  dispatch[Global] = save_global_by_name
  dispatch[Tensor] = save_tensor

  def persistent_id(self, obj):
    if isinstance(obj, Storage):
      return ("storage", Global(f"torch.{obj.dtype}"), obj.key, "cpu",
              obj.array.size)
    return None


def dumps(*objects):
  output = io.BytesIO()
  for obj in objects:
    Pickler(output, 2).dump(obj)
  return output.getvalue()


def write(path, is_zip, content, storages):
  if is_zip:
    with zipfile.ZipFile(path, "w") as archive:
      archive.writestr("archive/data.pkl", dumps(content))
      for storage in storages:
        archive.writestr(f"archive/data/{storage.key}",
                         storage.array.tobytes())
    return str(path)
  data = dumps(pytorch_checkpoint._MAGIC_NUMBER, 1001, {"little_endian": True},
               content, [storage.key for storage in storages])
  for storage in storages:
    data += struct.pack("<q", storage.array.size) + storage.array.tobytes()
  path.write_bytes(data)
  return str(path)


@pytest.mark.parametrize("is_zip", [True, False])
def test_tensors_are_read(tmp_path, is_zip):
  numbers = np.arange(24, dtype=np.float32)
  floats = Storage("0", "FloatStorage", numbers)
  halves = Storage("1", "HalfStorage", np.array([1.5, -2.0], np.float16))
  # The upper half of float32 3.140625.
  brain = Storage("2", "BFloat16Storage", np.array([0x4049], np.uint16))
  content = collections.OrderedDict(
      a=Tensor(floats, 0, (4, 3), (3, 1)), b=Tensor(floats, 12, (3, 4), (1, 3)),
      c=Tensor(halves, 0, (2,), (1,)), d=Tensor(brain, 0, (1,), (1,)),
      e=Tensor(floats, 5, (), ()), count=7)
  tensors = pytorch_checkpoint.read(write(
      tmp_path / "x.bin", is_zip, content, [floats, halves, brain]))
  assert list(tensors) == ["a", "b", "c", "d", "e"]
  np.testing.assert_array_equal(tensors["a"], numbers[:12].reshape(4, 3))
  np.testing.assert_array_equal(tensors["b"], numbers[12:].reshape(4, 3).T)
  assert tensors["c"].tolist() == [1.5, -2.0]
  assert tensors["d"].tolist() == [3.140625] and tensors["e"] == 5.0


class Attack:
  def __reduce__(self):
    return os.mkdir, (self.path,)


@pytest.mark.parametrize("is_zip", [True, False])
def test_nothing_in_a_file_is_run(tmp_path, is_zip):
  attack = Attack()
  attack.path = str(tmp_path / "made")
  with pytest.raises(ValueError, match="x.bin cannot be read as tensors .*"
                     "it holds .*mkdir, which is no tensor"):
    pytorch_checkpoint.read(write(tmp_path / "x.bin", is_zip,
                                  {"a": attack}, []))
  assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("offset, shape, strides", [
    (0, (5,), (1,)), (3, (2,), (1,)), (0, (2, 2), (3, 1)), (-1, (1,), (1,)),
    (0, (2,), (-1,)), (0, (2, 2), (1,))])
def test_tensors_stay_within_their_numbers(tmp_path, offset, shape, strides):
  storage = Storage("0", "FloatStorage", np.zeros(4, np.float32))
  with pytest.raises(ValueError, match="a tensor reaches beyond its numbers"):
    pytorch_checkpoint.read(write(
        tmp_path / "x.bin", True,
        {"a": Tensor(storage, offset, shape, strides)}, [storage]))


@pytest.mark.parametrize("is_zip", [True, False])
def test_files_that_are_cut_off(tmp_path, is_zip):
  storage = Storage("0", "FloatStorage", np.zeros(400, np.float32))
  path = write(tmp_path / "x.bin", is_zip,
               {"a": Tensor(storage, 0, (400,), (1,))}, [storage])
  content = (tmp_path / "x.bin").read_bytes()
  for size in (0, 20, len(content) // 2, len(content) - 1):
    (tmp_path / "x.bin").write_bytes(content[:size])
    with pytest.raises(ValueError, match="Is it whole"):
      pytorch_checkpoint.read(path)
