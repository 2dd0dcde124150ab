"""Tests of pretraining/shards.py."""

import collections
import json
import os

import numpy as np
import pytest
import tensorflow as tf

from pretraining import instances
from pretraining import shards


def output_of(folder, num_files=2, num_buckets=4, **settings):
  return shards.ShardedOutput(
    [str(folder / f"out.tfrecord-{i}") for i in range(num_files)],
    num_buckets,
    seed=1,
    settings=settings,
  )


def records_of_block(number):
  """Yields the records of a block, 50 at a time; each one names its place."""
  rng = np.random.default_rng(number)
  for part in range(4):
    records = [f"{number}/{part}/{i}".encode() * (i % 3 + 1) for i in range(50)]
    yield (
      instances.SerializedRecords(
        np.frombuffer(b"".join(records), np.uint8),
        np.array([len(record) for record in records]),
      ),
      rng,
    )


def build(output, blocks=(0, 1, 2)):
  """Completes a build; returns the numbers of the blocks that it made."""
  output.begin(overwrite=False)
  indices, made = {}, []
  for number in blocks:
    index = output.read_index((0, number))
    if index is None:
      made.append(number)
      index = output.write_block(
        (0, number), records_of_block(number), {"records": 200}
      )
    indices[(0, number)] = index
  for shard in output.missing_shards():
    output.write_shard(indices, shard)
  output.finish({"records": 600})
  return made


def contents(folder):
  return {name: (folder / name).read_bytes() for name in os.listdir(folder)}


def test_shards_hold_every_record_once_and_mixed(tmp_path, monkeypatch):
  monkeypatch.setattr(shards, "_PART_BYTES", 500)
  output = output_of(tmp_path)
  build(output)
  assert set(os.listdir(tmp_path)) == {
    "out.tfrecord-0",
    "out.tfrecord-1",
    "out.tfrecord-0.report.json",
  }
  read = [
    [
      record.decode()
      for record in tf.data.TFRecordDataset(file).as_numpy_iterator()
    ]
    for file in output.files
  ]
  expected = [
    f"{number}/{part}/{i}" * (i % 3 + 1)
    for number in range(3)
    for part in range(4)
    for i in range(50)
  ]
  assert collections.Counter(sum(read, [])) == collections.Counter(expected)
  assert abs(len(read[0]) - 300) < 20
  for records in read:  # all blocks occur at the beginning and at the end
    for part in (records[:100], records[-100:]):
      assert {record[0] for record in part} == {"0", "1", "2"}
  assert output.is_complete()


def test_death_at_any_file_operation_loses_nothing(tmp_path, monkeypatch):
  whole = tmp_path / "whole"
  build(output_of(whole))
  real = {
    name: getattr(tf.io.gfile, name)
    for name in ("rename", "remove", "rmtree", "makedirs")
  }
  operations = []

  def dying(name, die_at):
    def operation(*args, **kwargs):
      operations.append(name)
      if len(operations) == die_at:
        # The error of a full disk. A SIGKILL leaves the same files.
        raise tf.errors.ResourceExhaustedError(None, None, str(args[0]))
      return real[name](*args, **kwargs)

    return operation

  die_at, is_done = 0, False
  while not is_done:
    die_at += 1
    operations.clear()
    folder = tmp_path / str(die_at)
    for name in real:
      monkeypatch.setattr(tf.io.gfile, name, dying(name, die_at))
    try:
      build(output_of(folder))
      is_done = die_at > len(operations)
    except (ValueError, tf.errors.ResourceExhaustedError):
      for name in real:
        monkeypatch.setattr(tf.io.gfile, name, real[name])
      for file in output_of(folder).files:  # complete, or absent
        if os.path.exists(file):
          assert (
            open(file, "rb").read()
            == (whole / os.path.basename(file)).read_bytes()
          )
      if output_of(folder).is_complete():
        output_of(folder).parts_folder.remove()
      else:
        build(output_of(folder))
    assert contents(folder) == contents(whole)
  assert die_at > 10


def test_a_full_disk_is_named(tmp_path, monkeypatch):
  output = output_of(tmp_path)
  output.begin(overwrite=False)

  def write(file, _):
    raise tf.errors.ResourceExhaustedError(
      None, None, f"{file.name}; No space left on device"
    )

  monkeypatch.setattr(tf.io.gfile.GFile, "write", write)
  with pytest.raises(
    ValueError, match="block-0-7.*cannot be written.*No space"
  ):
    output.write_block((0, 7), records_of_block(7), {})
  assert os.listdir(output.parts_folder.path) == ["settings.json"]


def test_output_that_exists_is_not_overwritten(tmp_path):
  output = output_of(tmp_path, factor=1)
  build(output)
  before = contents(tmp_path)
  other = output_of(tmp_path, factor=2)
  assert not other.is_complete()
  with pytest.raises(ValueError, match="out.tfrecord-0 exists already"):
    other.begin(overwrite=False)
  assert contents(tmp_path) == before
  other.begin(overwrite=True)
  assert [str(path) for path in tmp_path.iterdir()] == [other.parts_folder.path]
  other.write_block((0, 0), records_of_block(0), {})
  with pytest.raises(ValueError, match="begun with other settings: factor"):
    output.begin(overwrite=False)


def change_byte(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)


@pytest.mark.parametrize(
  "file, damage, made",
  [
    ("block-0-1.records", change_byte, [1]),
    ("block-0-1.records", lambda path: os.truncate(path, 1000), [1]),
    ("block-0-1.records", os.remove, [1]),
    ("block-0-1.json", lambda path: os.truncate(path, 0), [1]),
    ("block-0-1.json", lambda path: path.write_text("[1]"), [1]),
    (
      "block-0-1.json",
      lambda path: path.write_text(
        path.read_text().replace('"records": 200', '"records": 201')
      ),
      [1],
    ),
    ("settings.json", lambda path: os.truncate(path, 0), [0, 1, 2]),
    ("settings.json", lambda path: path.write_text("[]"), [0, 1, 2]),
  ],
)
def test_damaged_blocks_are_made_again(tmp_path, file, damage, made):
  build(output_of(tmp_path / "whole", x=1))
  output = output_of(tmp_path / "killed", x=1)
  output.begin(overwrite=False)
  for number in range(3):
    output.write_block((0, number), records_of_block(number), {"records": 200})
  damage(tmp_path / "killed" / "out.tfrecord-0.parts" / file)
  assert build(output_of(tmp_path / "killed", x=1)) == made
  assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_files_of_others_are_kept(tmp_path):
  output = output_of(tmp_path)
  output.begin(overwrite=False)
  notes = tmp_path / "out.tfrecord-0.parts" / "block-notes.txt"
  notes.write_text("mine")
  leftover = notes.parent / "out.tfrecord-0.0123abcd.unfinished"
  leftover.write_text("of a killed run")
  build(output)
  assert os.listdir(notes.parent) == [notes.name]


def test_lock_files(tmp_path):
  def names(output_file, num_shards):
    return shards.ShardedOutput(
      shards.list_output_files(output_file, num_shards), 4, 1, {}
    ).lock_files

  assert names("x.tfrecord", 3) == names("x", 0) == ["x.lock"]
  assert names("a.tfrecord,b", 0) == ["a.lock", "b.lock"]
  # Shards that are made one by one have separate locks.
  assert names("x-00001-of-00003", 0) == ["x-00001-of-00003.lock"]


@pytest.mark.parametrize(
  "output_file,num_shards,problem",
  [
    (",", 0, "names no file"),
    ("a,b,a", 0, "names a file twice"),
    ("a,b", 4, "names 2 files"),
  ],
)
def test_names_of_output_files(output_file, num_shards, problem):
  with pytest.raises(ValueError, match=problem):
    shards.list_output_files(output_file, num_shards)
  assert shards.list_output_files("a, b", 0) == ["a", "b"]
  assert shards.list_output_files("out", 64)[-1] == "out-00063-of-00064"


def test_files_next_to_shards_have_their_name(tmp_path):
  files = shards.list_output_files(str(tmp_path / "out.tfrecord"), 3)
  output = shards.ShardedOutput(files, 3, 1, {})
  assert output.report_file == str(tmp_path / "out.report.json")
  build(output)
  report = json.loads((tmp_path / "out.report.json").read_text())
  assert report["records"] == 600
