"""Tests of data/pytorch_checkpoint.py, on handmade files of both formats."""

import collections
import os
import struct
import tracemalloc
import zipfile

import builders
import numpy as np
import pytest
import pytorch_files as files

from data import pytorch_checkpoint
from errors import UserError


def assert_refused(path, message, most_bytes=100e6):
  """Asserts that a file is refused in one line, with little memory."""
  tracemalloc.start()
  try:
    with pytest.raises(UserError, match=message) as info:
      pytorch_checkpoint.read_tensors(str(path))
    assert tracemalloc.get_traced_memory()[1] < most_bytes
  finally:
    tracemalloc.stop()
  assert str(path) in str(info.value) and str(info.value).isprintable()


@pytest.mark.parametrize("protocol", [1, 2, 4])
@pytest.mark.parametrize("is_zip", [True, False])
def test_tensors_are_read(tmp_path, is_zip, protocol):
  storage = files.floats(24)
  numbers = storage.array
  halves = files.Storage("1", "HalfStorage", np.array([1.5, -2.0], np.float16))
  # The upper half of float32 3.140625.
  brain = files.Storage("2", "BFloat16Storage", np.array([0x4049], np.uint16))
  parameter = files.Call(
    "torch._utils._rebuild_parameter",
    files.Tensor(storage, 5, (), ()),
    True,
    collections.OrderedDict(),
  )
  content = collections.OrderedDict(
    a=files.Tensor(storage, 0, (4, 3), (3, 1)),
    b=files.Tensor(storage, 12, (3, 4), (1, 3)),
    c=files.Tensor(halves, 0, (2,), (1,)),
    d=files.Tensor(brain, 0, (1, 1), (2**62, 1)),
    e=parameter,
    f=files.Tensor(files.floats(0, "3"), 0, (0, 768), (768, 1)),
    count=7,
  )
  content._metadata = collections.OrderedDict({"": {"version": 1}})
  tensors = pytorch_checkpoint.read_tensors(
    files.write_pickle(
      tmp_path / "x.bin",
      is_zip,
      files.dumps(content, protocol=protocol),
      [storage, halves, brain, files.floats(0, "3")],
    )
  )
  assert list(tensors) == ["a", "b", "c", "d", "e", "f"]
  np.testing.assert_array_equal(tensors["a"], numbers[:12].reshape(4, 3))
  np.testing.assert_array_equal(tensors["b"], numbers[12:].reshape(4, 3).T)
  assert tensors["c"].tolist() == [1.5, -2.0]
  assert tensors["d"].tolist() == [[3.140625]] and tensors["e"] == 5.0
  assert tensors["f"].shape == (0, 768)


def test_state_dicts_of_python_2_are_read(tmp_path):
  # Its OrderedDict calls itself with a list of pairs; its text is bytes.
  storage = files.floats(3)
  content = files.Call(
    "collections.OrderedDict",
    [["k", files.Tensor(storage, 0, (3,), (1,))]],
  )
  pickled = files.dumps(content).replace(b"X\1\0\0\0k", b"U\1k")
  assert b"U\1k" in pickled
  tensors = pytorch_checkpoint.read_tensors(
    files.write_pickle(tmp_path / "x.bin", False, pickled, [storage])
  )
  assert tensors["k"].tolist() == [0, 1, 2]


class Attack:
  def __reduce__(self):
    return os.mkdir, (self.path,)


@pytest.mark.parametrize("is_zip", [True, False])
def test_nothing_in_a_file_is_run(tmp_path, is_zip):
  attack = Attack()
  attack.path = str(tmp_path / "made")
  files.write(tmp_path / "x.bin", is_zip, {"a": attack}, [])
  assert_refused(
    tmp_path / "x.bin",
    "cannot be read as tensors of PyTorch: it "
    "refers to '.*mkdir', which is not part of a tensor",
  )
  assert not (tmp_path / "made").exists()


ORDERED_DICT = b"ccollections\nOrderedDict\n"
FLOAT_STORAGE = b"ctorch\nFloatStorage\n"


def text(value):
  return b"X" + struct.pack("<I", len(value)) + value


def reference(kind=FLOAT_STORAGE, key=b"X\x01\0\0\x000", size=b"K\1", more=b""):
  return (
    b"(" + text(b"storage") + kind + key + text(b"cpu") + size + more + b"tQ"
  )


@pytest.mark.parametrize(
  "opcodes, message",
  [
    (b"cos\nsystem\n", "refers to 'os.system'"),
    (b"ctorch._utils\n_import_dotted_name\n", "_import_dotted_name"),
    (text(b"os") + text(b"system") + b"\x93", "refers to 'os.system'"),
    (
      text(b"torch") + text(b"_utils._rebuild_tensor_v2") + b"\x93",
      "refers to 'torch._utils._rebuild_tensor_v2'",
    ),
    (text(b"torch") + text(b"float.x32") + b"\x93", "refers to"),
    (b"]K\1\x93", "without a name"),
    (b"(ios\nsystem\n", "uses INST"),
    (b"(" + ORDERED_DICT + b"o", "uses OBJ"),
    (ORDERED_DICT + b")\x81", "uses NEWOBJ,"),
    (ORDERED_DICT + b")}\x92", "uses NEWOBJ_EX"),
    (FLOAT_STORAGE + b")R", "calls torch.FloatStorage with"),
    (ORDERED_DICT + b"K\1K\2\x86R", "calls collections.OrderedDict with"),
    (ORDERED_DICT + b"K\1R", "calls something that is not a function"),
    (text(b"x") + b")R", "calls something that is not a function"),
    (ORDERED_DICT + b")R)R", "calls something that is not a function"),
    (b"ctorch._utils\n_rebuild_parameter\nN\x85R", "_rebuild_parameter with"),
    (ORDERED_DICT + b"}b", r"of the wrong type \(_Global\)"),
    (b"]}b", r"of the wrong type \(list\)"),
    (reference() + b"}b", r"of the wrong type \(_Storage\)"),
    (b"\x82\1", "uses EXT1"),
    (b"\x83\1\0", "uses EXT2"),
    (b"\x84\1\0\0\0", "uses EXT4"),
    (b"Pstorage\n", "uses PERSID"),
    (b"NQ", "not a storage"),
    (b"(" + text(b"module") + b"NNNNtQ", "not a storage"),
    (reference(more=text(b"1") + b"K\0K\1\x87"), "not a storage"),
    (reference(kind=text(b"FloatStorage")), "unknown kind"),
    (reference(kind=ORDERED_DICT), "unknown kind"),
    (reference(key=b"K\0"), "unknown kind"),
    (reference(size=b"\x88"), "kind"),
    (reference(size=b"J\xff\xff\xff\xff"), "unknown kind"),
    (reference() + reference(size=b"K\2"), "storage '0' in two ways"),
    (b"\x97", "uses NEXT_BUFFER"),
    (b"N\x98", "uses READONLY_BUFFER"),
    (b"\x96" + bytes(8), "uses BYTEARRAY8"),
    (b"\x8f", "uses EMPTY_SET"),
    (b"(\x91", "uses FROZENSET"),
    (b"N2", "uses DUP"),
    (b"N0", "uses POP"),
    (b"(d", "uses DICT"),
    (b"h\0", "refers to 0, which is unknown"),
    (b"(", "no value|where there is none"),
    (b"u", "no beginning"),
    (b"}(Nu", "a key without a value"),
    (b"}NNNs", "wrong type"),
    (b"\xff", "opcode"),
    (b"\x80\x09", "unknown protocol 9"),
    (b"\x8a\x11" + b"\1" * 17, "too large"),
    (b"X\xff\xff\xff\xff", "only .* remain"),
    (b"\x8b\xff\xff\xff\x7f1", "not enough data"),
    (b"I" + b"9" * 5000 + b"\n", "limit"),
    (b"", "where there is none"),
  ],
)
def test_opcodes_that_tensors_do_not_need_are_refused(
  tmp_path, opcodes, message
):
  for is_zip in (True, False):
    files.write_pickle(tmp_path / "x.bin", is_zip, b"\x80\2" + opcodes + b".")
    assert_refused(tmp_path / "x.bin", message)


# Each tuple holds the one before it twice.
DOUBLED = b"N" + b"q\0h\0\x86" * 1000


@pytest.mark.parametrize(
  "pickled, message",
  [
    (b"N" * 9999 + b".", "more than 9000 opcodes"),
    (b"(" * 9999, "more than 9000 opcodes"),
    (b"]" * 4000 + b"a" * 3999 + b".", "not a state dict"),
    (b"N" + b"\x85" * 8000 + b".", "not a state dict"),
    (b"]q\0h\0a.", "not a state dict"),
    (b"}q\0h\0h\0s.", "no tensors by name"),
    (b"}" + DOUBLED + b"Ns.", "no tensors by name"),
    (DOUBLED + b"Q.", "not a storage"),
    (DOUBLED + b")R.", "not a function"),
    (
      ORDERED_DICT
      + b"q\1]("
      + b"N" * 3000
      + b"eq\2"
      + b"h\1h\2\x85R" * 1200
      + b".",
      "does not consist of pairs",
    ),
    (text(b"x" * (5 << 20)) + b".", "larger than|only .* remain"),
  ],
)
def test_pickles_that_waste_time_or_memory_are_refused(
  tmp_path, monkeypatch, pickled, message
):
  monkeypatch.setattr(pytorch_checkpoint, "_MAX_OPCODES", 9000)
  for is_zip in (True, False):
    files.write_pickle(tmp_path / "x.bin", is_zip, pickled)
    assert_refused(tmp_path / "x.bin", message, 20e6)


@pytest.mark.parametrize(
  "offset, shape, strides, message",
  [
    (0, (5,), (1,), "reaches beyond"),
    (3, (2,), (1,), "reaches beyond"),
    (0, (2, 2), (3, 1), "reaches beyond"),
    (0, (1000,), (0,), "reaches beyond"),
    (0, (2**40, 2**40), (0, 0), "reaches beyond"),
    (0, (0, 2**60), (1, 1), "reaches beyond"),
    (4, (1,), (1,), "reaches"),
    (-1, (1,), (1,), "damaged"),
    (0, (2,), (-1,), "damaged"),
    (0, (2, 2), (1,), "damaged"),
    (0, (-1,), (1,), "damaged"),
    (0, (1.0,), (1,), "damaged"),
    (True, (1,), (1,), "damaged"),
    (0, [1], [1], "damaged"),
    (0, (1,) * 33, (1,) * 33, "damaged"),
    (0, None, (1,), "damaged"),
  ],
)
def test_tensors_stay_within_their_numbers(
  tmp_path, offset, shape, strides, message
):
  storage = files.floats(4)
  files.write(
    tmp_path / "x.bin",
    True,
    {"a.b": files.Tensor(storage, offset, shape, strides)},
    [storage],
  )
  assert_refused(tmp_path / "x.bin", f"the tensor 'a.b' .*{message}")


@pytest.mark.parametrize(
  "make, message",
  [
    (
      lambda storage: files.Call(
        "torch._utils._rebuild_tensor_v3",
        storage,
        0,
        (2,),
        (1,),
        False,
        {},
        files.Global("torch.float8_e4m3fn"),
      ),
      "has the dtype float8_e4m3fn",
    ),
    (
      lambda storage: files.Call("torch._utils._rebuild_qtensor", storage, 0),
      "is quantized",
    ),
    (
      lambda storage: files.Call("torch._utils._rebuild_sparse_tensor", None),
      "is sparse",
    ),
    (
      lambda storage: files.Tensor(storage, 0, (2,), (1,), {"neg": True}),
      "is a view of negated",
    ),
    (
      lambda storage: files.Tensor(None, 0, (2,), (1,)),
      "has no numbers",
    ),
    (
      lambda storage: files.Tensor(
        files.Storage("0", "ComplexFloatStorage", storage.array),
        0,
        (2,),
        (1,),
      ),
      "has the dtype complex64",
    ),
    (
      lambda storage: files.Call(
        "torch._utils._rebuild_parameter",
        files.Tensor(
          files.Storage("0", "QInt8Storage", storage.array),
          0,
          (2,),
          (1,),
        ),
      ),
      "has the dtype qint8",
    ),
  ],
)
def test_other_tensors_are_refused_by_name(tmp_path, make, message):
  storage = files.floats(2)
  files.write(tmp_path / "x.bin", True, {"a.b": make(storage)}, [storage])
  assert_refused(tmp_path / "x.bin", f"the tensor 'a.b' {message}")


@pytest.mark.parametrize("name", ["a\nb", "\ud800", "a" * 1001, b"a", 1, None])
def test_names_of_tensors_are_text(tmp_path, name):
  storage = files.floats(1)
  files.write_pickle(
    tmp_path / "x.bin",
    True,
    files.dumps({name: files.Tensor(storage, 0, (1,), (1,))}, protocol=3),
    [storage],
  )
  assert_refused(tmp_path / "x.bin", "a tensor whose name is not text")


def test_storages_fit_into_a_file_of_the_older_format(tmp_path):
  path = tmp_path / "x.bin"
  storage = files.floats(1000)
  content = {"a": files.Tensor(storage, 0, (2,), (1,))}
  files.write(path, False, content, [])
  begin = path.read_bytes()[: -len(files.dumps([]))]
  for rest, message in [
    (files.dumps([]), "storage '0' is missing"),
    (files.dumps({}), "no list of storages"),
    (files.dumps(["1"]), "no tensor refers to"),
    (files.dumps([[]]), "no tensor refers"),
    (
      files.dumps(["0"]) + struct.pack("<q", 999) + bytes(4000),
      "another size",
    ),
    (
      files.dumps(["0"]) + struct.pack("<q", 1000) + bytes(3999),
      "beyond the end",
    ),
    (files.dumps(["0"]) + b"\0", "another size"),
  ]:
    path.write_bytes(begin + rest)
    assert_refused(path, message)


def test_members_of_an_archive_fit(tmp_path):
  path = tmp_path / "x.bin"
  storage = files.floats(1000)
  pickled = files.dumps({"a": files.Tensor(storage, 0, (2,), (1,))})

  def write_members(*members, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
      for name, content in members:
        archive.writestr(f"archive/{name}", content)

  numbers = ("data/0", storage.array.tobytes())
  write_members(("data.pkl", pickled), numbers, ("byteorder", "little"))
  assert pytorch_checkpoint.read_tensors(str(path))["a"].tolist() == [0, 1]
  for members, message in [
    ([("data.pkl", pickled), ("data/1", bytes(4000))], "no 'data/0'"),
    ([numbers], "0 members data.pkl"),
    ([("data.pkl", pickled), ("data/0", bytes(3996))], "another size"),
    ([("data.pkl", pickled), ("data/0", bytes(4004))], "another size"),
    ([("data.pkl", pickled), ("x/data.pkl", pickled)], "2 members data.pkl"),
    ([("data.pkl", pickled), numbers, ("byteorder", "big")], "little-endian"),
    ([("data.pkl", bytes(5 << 20))], "larger than 4194304 bytes"),
  ]:
    write_members(*members)
    assert_refused(path, message)
  with pytest.warns(UserWarning):
    write_members(("data.pkl", pickled), numbers, numbers)
  assert_refused(path, "same name")
  write_members(("data.pkl", pickled), numbers, method=zipfile.ZIP_DEFLATED)
  assert_refused(path, "'data.pkl' is compressed")


def change_directory(path, **fields):
  """Changes fields of the last entry of an archive's directory."""
  content = bytearray(path.read_bytes())
  start = content.rindex(b"PK\1\2")
  places = {
    "flags": (8, "<H"),
    "method": (10, "<H"),
    "crc": (16, "<I"),
    "compressed": (20, "<I"),
    "size": (24, "<I"),
    "offset": (42, "<I"),
  }
  for field, value in fields.items():
    place, form = places[field]
    struct.pack_into(form, content, start + place, value)
  path.write_bytes(content)


@pytest.mark.parametrize(
  "fields, message",
  [
    ({"flags": 1}, "encrypted"),
    ({"method": 99}, "compressed"),
    ({"crc": 0}, "CRC"),
    ({"size": 2**32 - 2}, "compressed"),
    ({"size": 2**31, "compressed": 2**31}, "beyond the end"),
    ({"size": 3, "compressed": 3}, "CRC|another size"),
    ({"offset": 2**31}, "beyond the end"),
    # Later versions of Python see first that two members overlap.
    ({"offset": 3}, "magic number|Overlapped"),
  ],
)
def test_damaged_directories_of_archives(tmp_path, fields, message):
  storage = files.floats(1000)
  files.write(
    tmp_path / "x.bin",
    True,
    {"a": files.Tensor(storage, 0, (2,), (1,))},
    [storage],
  )
  change_directory(tmp_path / "x.bin", **fields)
  assert_refused(tmp_path / "x.bin", message)


def test_archives_whose_members_overlap_are_refused(tmp_path):
  # Each member holds all that follow it, so that the sum of their sizes is
  # quadratic in the size of the file.
  path = tmp_path / "x.bin"
  block, members = bytes(1 << 16), []
  for number in range(100):
    member = zipfile.ZipInfo(f"archive/data/{number:03}")
    member.file_size = member.compress_size = len(block)
    member.CRC = zipfile.crc32(block)
    block = member.FileHeader() + block
    members.append((member, len(block)))
  storages = [
    files.Storage(
      f"{number:03}", "ByteStorage", np.empty(member.file_size, "u1")
    )
    for number, (member, _) in enumerate(members)
  ]
  with zipfile.ZipFile(path, "w") as archive:
    archive.writestr(
      "archive/data.pkl",
      files.dumps({s.key: files.Tensor(s, 0, (1,), (1,)) for s in storages}),
    )
    start = archive.fp.tell()
    archive.fp.write(block)
    for member, distance in members:
      member.header_offset = start + len(block) - distance
      archive.filelist.append(member)
    archive.start_dir = archive.fp.tell()
  assert_refused(path, "its tensors are larger than the file")


def test_files_that_cannot_be_opened(tmp_path):
  with pytest.raises(UserError, match="x.bin cannot be read: No such file"):
    pytorch_checkpoint.read_tensors(str(tmp_path / "x.bin"))
  with pytest.raises(UserError, match="cannot be read: Is a directory"):
    pytorch_checkpoint.read_tensors(str(tmp_path))


@pytest.mark.parametrize("is_zip", [True, False])
def test_files_that_are_cut_off(tmp_path, is_zip):
  storage = files.floats(400)
  path = files.write(
    tmp_path / "x.bin",
    is_zip,
    {"a": files.Tensor(storage, 0, (400,), (1,))},
    [storage],
  )
  content = (tmp_path / "x.bin").read_bytes()
  for size in (0, 3, 4, 20, len(content) // 2, len(content) - 1):
    (tmp_path / "x.bin").write_bytes(content[:size])
    assert_refused(path, "Is it complete")


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.filterwarnings("ignore:invalid escape sequence")
def test_damaged_files_are_refused_or_read_right(tmp_path, is_zip):
  path = tmp_path / "x.bin"
  storages = [
    files.floats(24),
    files.Storage("1", "BFloat16Storage", np.arange(6, dtype=np.uint16)),
  ]
  content = collections.OrderedDict(
    weight=files.Tensor(storages[0], 0, (4, 3), (3, 1)),
    bias=files.Tensor(storages[0], 12, (3, 4), (1, 3)),
    gamma=files.Tensor(storages[1], 0, (6,), (1,)),
  )
  content._metadata = {"": {"version": 1}}
  files.write(path, is_zip, content, storages)
  expected = pytorch_checkpoint.read_tensors(str(path))
  tracemalloc.start()
  try:
    num_refused = 0
    for number, changed in enumerate(
      builders.mutations(path.read_bytes(), 300, 1)
    ):
      path.write_bytes(changed)
      try:
        tensors = pytorch_checkpoint.read_tensors(str(path))
      except UserError as error:
        assert str(error).isprintable(), number
        num_refused += 1
        continue
      if is_zip:  # which has checksums
        assert list(tensors) == list(expected), number
        for name, tensor in tensors.items():
          np.testing.assert_array_equal(tensor, expected[name])
      assert sum(tensor.nbytes for tensor in tensors.values()) < 1000, number
    assert 100 < num_refused < 300
    assert tracemalloc.get_traced_memory()[1] < 100e6
  finally:
    tracemalloc.stop()
