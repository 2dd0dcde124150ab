"""Tests of safetensors_checkpoint.py."""

import json
import tracemalloc

import builders
import numpy as np
import pytest
from safetensors import numpy as safetensors

from data import safetensors_checkpoint
from errors import UserError


def write(path, header, data=b"", header_size=None):
  if not isinstance(header, bytes):
    header = json.dumps(header).encode()
  size = len(header) if header_size is None else header_size
  path.write_bytes(size.to_bytes(8, "little") + header + data)


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
  return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def read(path):
  file = safetensors_checkpoint.SafetensorsFile(str(path))
  return {name: file.get_tensor(name) for name in file.shapes}


def test_files_of_the_library_are_read(tmp_path):
  path = tmp_path / "x.safetensors"
  expected = {"scalar": np.array(2.5), "empty": np.zeros([0, 3], np.float32)}
  for number, dtype in enumerate(
    ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "bool"]
  ):
    expected[dtype] = np.arange(12).reshape(3, 4)[:, :number].astype(dtype)
  safetensors.save_file(
    {name: np.ascontiguousarray(array) for name, array in expected.items()},
    path,
    metadata={"format": "pt"},
  )
  assert safetensors_checkpoint.SafetensorsFile(str(path)).shapes["f2"] == (
    3,
    2,
  )
  tensors = read(path)
  assert set(tensors) == set(expected)
  for name, tensor in tensors.items():
    assert tensor.dtype == expected[name].dtype
    np.testing.assert_array_equal(tensor, expected[name])


def test_bfloat16_becomes_float32(tmp_path):
  path = tmp_path / "x.safetensors"
  # The upper halves of float32 3.140625 and -2.
  write(path, {"a": entry("BF16", [2], [0, 4])}, b"\x49\x40\x00\xc0")
  tensor = read(path)["a"]
  assert tensor.dtype == np.float32 and tensor.tolist() == [3.140625, -2.0]


@pytest.mark.parametrize(
  "dtype", ["F8_E4M3", "F8_E5M2", "F4", "C64", "XX", "x\ny" * 100]
)
def test_dtypes_that_cannot_be_read_are_named(tmp_path, dtype):
  path = tmp_path / "x.safetensors"
  write(path, {"a.b": entry(dtype, [4], [0, 4])}, bytes(4))
  with pytest.raises(UserError) as info:
    read(path)
  assert f"{path}: tensor 'a.b' has the dtype '{dtype[0]}" in str(info.value)
  assert str(info.value).isprintable() and len(str(info.value)) < 500


@pytest.mark.parametrize(
  "header, data_size, message",
  [
    ({"a": entry()}, 7, "end at byte"),
    ({"a": entry()}, 9, "end at byte"),
    ({"a": entry(), "b": entry(offsets=[4, 12])}, 12, "'b' does not begin"),
    ({"a": entry(), "b": entry(offsets=[12, 20])}, 20, "'b' does not begin"),
    ({"a": entry(offsets=[8, 16])}, 16, "'a' does not begin"),
    ({"a": entry(offsets=[8, 0])}, 8, "another size"),
    ({"a": entry(offsets=[0, 12])}, 12, "another size"),
    ({"a": entry(offsets=[0, 2**70])}, 8, "another size"),
    ({"a": entry(offsets=[0])}, 8, "another size"),
    ({"a": entry(offsets=None)}, 8, "another size"),
    ({"a": entry(shape=[2**62, 4])}, 8, "bad shape"),
    ({"a": entry(shape=[0, 2**62], offsets=[0, 0])}, 0, "bad shape"),
    ({"a": entry(shape=[1] * 40 + [2])}, 8, "bad shape"),
    ({"a": entry(shape=[-2])}, 8, "bad shape"),
    ({"a": entry(shape=[2.0])}, 8, "bad shape"),
    ({"a": entry(shape=[True, 2])}, 8, "bad shape"),
    ({"a": entry(shape=2)}, 8, "bad shape"),
    ({"a": entry(dtype=["F32"])}, 8, "no dtype"),
    ({"a": {}}, 8, "no dtype"),
    ({"a": [1]}, 8, "does not describe 'a'"),
    ({"a\n": entry()}, 8, "name"),
    ([1], 8, "its header holds"),
    (b"{", 8, "its header: not JSON"),
    (b"", 8, "its header: not JSON"),
    (b'{"\xff": 1}', 8, "not UTF-8"),
    (b'{"a":' * 99999, 8, "nested too deeply"),
    (b'{"\\ud800": 1}', 8, "surrogate"),
    (b" " * (5 << 20), 8, "its header has 5242880 bytes; at most 4194304"),
  ],
)
def test_damaged_headers_are_refused(tmp_path, header, data_size, message):
  path = tmp_path / "x.safetensors"
  write(path, header, bytes(data_size))
  with pytest.raises(UserError, match=f"x.safetensors.*{message}") as info:
    read(path)
  assert str(info.value).isprintable()


def test_files_that_are_cut_off_or_missing(tmp_path):
  path = tmp_path / "x.safetensors"
  for header_size in (3, 2**40, 2**64 - 1):
    write(path, b"{}", header_size=header_size)
    with pytest.raises(UserError, match="10 bytes, too few for its header"):
      read(path)
  for content in (b"", b"1234567"):
    path.write_bytes(content)
    with pytest.raises(UserError, match="too few for its header"):
      read(path)
  with pytest.raises(UserError, match="cannot be read: Is a directory"):
    read(tmp_path)
  write(path, {"a": entry(shape=[30000], offsets=[0, 120000])}, bytes(120000))
  file = safetensors_checkpoint.SafetensorsFile(str(path))
  path.write_bytes(path.read_bytes()[:-1])
  with pytest.raises(UserError, match="has become shorter"):
    file.get_tensor("a")


def test_damaged_files_are_refused_or_read_right(tmp_path):
  path = tmp_path / "x.safetensors"
  safetensors.save_file(
    {"weight": np.ones([4, 3], np.float32), "bias": np.ones([5], np.float16)},
    path,
  )
  tracemalloc.start()
  try:
    num_refused = 0
    for number, changed in enumerate(
      builders.mutations(path.read_bytes(), 300, 1)
    ):
      path.write_bytes(changed)
      try:
        tensors = read(path)
      except UserError as error:
        assert str(error).isprintable(), number
        num_refused += 1
      else:  # names and numbers may differ: the format has no checksum
        assert sum(tensor.nbytes for tensor in tensors.values()) < 200, number
    assert 100 < num_refused < 300
    assert tracemalloc.get_traced_memory()[1] < 100e6
  finally:
    tracemalloc.stop()
