"""Tests of data/locks.py."""

import os
import subprocess
import sys

import builders
import pytest

from data import locks
from errors import UserError


def test_a_second_writer_learns_who_the_first_one_is(tmp_path):
  with locks.Lock.of_folder(str(tmp_path), "--output_dir=x"):
    with (
      pytest.raises(
        UserError,
        match=r"--output_dir=x is in use: .*"
        rf"\(process {os.getpid()} on .*since 20",
      ),
      locks.Lock.of_folder(str(tmp_path), "--output_dir=x"),
    ):
      pass
    with locks.Lock.of_folder(str(tmp_path / "other"), "--output_dir=y"):
      pass
  with locks.Lock.of_folder(str(tmp_path), "--output_dir=x"):
    pass
  assert os.listdir(tmp_path) == []


def test_folders_that_stay_empty_are_removed(tmp_path):
  with locks.Lock.of_folder(str(tmp_path / "a" / "b"), ""):
    pass
  assert os.listdir(tmp_path) == []
  with locks.Lock.of_folder(str(tmp_path / "a" / "b"), ""):
    (tmp_path / "a" / "b" / "file").touch()
  assert os.listdir(tmp_path / "a" / "b") == ["file"]


def test_a_kill_releases_the_lock(tmp_path):
  code = (
    "import sys; from data import locks\n"
    "with locks.Lock.of_folder(sys.argv[1], 'x'):\n"
    "  print('locked', flush=True); sys.stdin.read()"
  )
  process = subprocess.Popen(
    [sys.executable, "-c", code, str(tmp_path)],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    env={**os.environ, "PYTHONPATH": str(builders.ROOT)},
  )
  assert process.stdout.readline() == b"locked\n"
  with pytest.raises(UserError, match=f"process {process.pid} on"):
    with locks.Lock.of_folder(str(tmp_path), "x"):
      pass
  process.kill()
  process.communicate(timeout=60)
  assert os.listdir(tmp_path) == [".lock"]
  with locks.Lock.of_folder(str(tmp_path), "x"):
    pass
  assert os.listdir(tmp_path) == []


def test_a_file_without_a_name_is_no_lock(tmp_path, monkeypatch):
  # The holder removes the file after another process opened it and before that
  # process locks it.
  try_lock = locks.try_lock
  path = tmp_path / ".lock"

  def remove_and_lock(descriptor):
    monkeypatch.undo()
    path.unlink()
    return try_lock(descriptor)

  monkeypatch.setattr(locks, "try_lock", remove_and_lock)
  with locks.Lock.of_folder(str(tmp_path), "x"):
    assert path.exists()
    with pytest.raises(UserError, match="in use"):
      with locks.Lock.of_folder(str(tmp_path), "x"):
        pass


@pytest.mark.parametrize(
  "content", [b"", b"{", b"[]", b"{}", b"\xff", b"[" * 9999]
)
def test_a_damaged_lock_file_is_no_obstacle(tmp_path, content):
  (tmp_path / ".lock").write_bytes(content)
  with locks.Lock.of_folder(str(tmp_path), "x"):
    (tmp_path / ".lock").write_bytes(content)
    with pytest.raises(UserError, match="in use: another program writes"):
      with locks.Lock.of_folder(str(tmp_path), "x"):
        pass


def test_an_error_names_a_place_that_cannot_be_written(tmp_path):
  (tmp_path / "file").touch()
  with pytest.raises(UserError, match="--output_dir=x cannot be written"):
    with locks.Lock.of_folder(str(tmp_path / "file"), "--output_dir=x"):
      pass
