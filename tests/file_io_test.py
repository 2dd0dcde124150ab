"""Tests of data/file_io.py."""

import errno
import gzip
import json
import ntpath
import os

import pytest
import tensorflow as tf

from data import file_io
from errors import UserError

# --- Writing -----------------------------------------------------------------


def test_a_file_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
  calls = []
  fsync, rename = os.fsync, tf.io.gfile.rename

  def record_fsync(descriptor):
    calls.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    fsync(descriptor)

  def record_rename(source, target, overwrite=False):
    calls.append("rename")
    rename(source, target, overwrite)

  monkeypatch.setattr(os, "fsync", record_fsync)
  monkeypatch.setattr(tf.io.gfile, "rename", record_rename)
  file_io.write_text(str(tmp_path / "x.txt"), "text")
  assert calls[0].startswith(str(tmp_path / "x.txt")) and calls[1:] == [
    "rename",
    str(tmp_path),
  ]
  calls.clear()
  with file_io.atomic_folder(str(tmp_path / "folder")) as temporary:
    os.mkdir(os.path.join(temporary, "inner"))
    open(os.path.join(temporary, "inner", "x"), "w").close()
  position = calls.index("rename")
  assert {os.path.basename(path) for path in calls[:position]} >= {"inner", "x"}
  assert calls[position + 1 :] == [str(tmp_path)]


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path):
  path = tmp_path / "x.txt"
  path.write_text("old")
  with pytest.raises(UserError, match="x.txt cannot be written: No space left"):
    with file_io.atomic_file(str(path)) as temporary:
      with open(temporary, "w") as writer:
        writer.write("ne")
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
  assert path.read_text() == "old" and os.listdir(tmp_path) == ["x.txt"]


def test_error_of_another_file_is_not_blamed_on_the_output(tmp_path):
  with pytest.raises(FileNotFoundError):
    with file_io.atomic_file(str(tmp_path / "x.txt")):
      open(tmp_path / "input", "rb")
  assert os.listdir(tmp_path) == []


def test_leftovers_are_removed_and_nothing_else(tmp_path):
  kept = [
    "notes.txt",
    "x.unfinished",
    "x.txt.0123abcd.tmp",
    "x.txt.0123456.unfinished",
    "x.txt.0123456z.unfinished",
    "0123abcd.unfinished.txt",
    ".0123abcd.unfinished",
  ]
  for name in kept + ["x.txt.0123abcd.unfinished"]:
    (tmp_path / name).write_text("x")
  (tmp_path / "model.0123abcd.unfinished").mkdir()
  (tmp_path / "model.0123abcd.unfinished" / "part").write_text("x")
  (tmp_path / "inner").mkdir()
  with file_io.atomic_file(str(tmp_path / "y.txt")) as file:
    with file_io.atomic_folder(str(tmp_path / "z")) as folder:
      file_io.remove_leftovers(str(tmp_path))
      in_use = [os.path.basename(file), os.path.basename(folder)]
      assert sorted(os.listdir(tmp_path)) == sorted(kept + in_use + ["inner"])
  assert sorted(os.listdir(tmp_path)) == sorted(kept + ["inner", "y.txt", "z"])


def test_leftovers_in_subfolders_are_removed_on_request(tmp_path):
  name = "x.txt.0123abcd.unfinished"
  for folder in ("inner", "inner/deep", "elsewhere"):
    (tmp_path / "run" / folder).mkdir(parents=True)
    (tmp_path / "run" / folder / name).write_text("x")
  (tmp_path / "run" / "elsewhere").rename(tmp_path / "elsewhere")
  (tmp_path / "run" / "link").symlink_to(tmp_path / "elsewhere")
  file_io.remove_leftovers(str(tmp_path / "run"))
  assert (tmp_path / "run" / "inner" / name).exists()
  file_io.remove_leftovers(str(tmp_path / "run"), in_subfolders=True)
  assert not (tmp_path / "run" / "inner" / name).exists()
  assert (tmp_path / "run" / "inner" / "deep" / name).exists()
  assert (tmp_path / "elsewhere" / name).exists()


def test_output_that_is_an_input_is_refused(tmp_path):
  for name in ("a", "b"):
    (tmp_path / name).write_text("x")
  (tmp_path / "link").symlink_to(tmp_path / "a")
  os.link(tmp_path / "a", tmp_path / "hard")
  a, b, link, hard = (str(tmp_path / n) for n in ("a", "b", "link", "hard"))
  file_io.check_not_inputs({"--output": [b, a + "new"]}, {"--input": [a]})
  for output in (a, link, hard, str(tmp_path / "." / "a")):
    with pytest.raises(UserError, match="--output would write .*--input reads"):
      file_io.check_not_inputs({"--output": [b, output]}, {"--input": [a]})


def test_temporary_files_lie_next_to_their_targets_on_windows(monkeypatch):
  monkeypatch.setattr(os, "path", ntpath)
  monkeypatch.setattr(os, "sep", "\\")
  for path in ("C:\\data\\x", "C:\\data\\x\\", "C:\\data\\x/"):
    temporary = file_io.temporary_path(path)
    assert temporary.startswith("C:\\data\\x.")
    assert file_io.is_companion(temporary)
  moved = file_io.temporary_path("C:\\data\\x", "D:\\tmp")
  assert moved.startswith("D:\\tmp\\x.")


# --- Reading -----------------------------------------------------------------


def test_lines_end_at_line_feeds_only_and_must_be_utf8(tmp_path):
  path = tmp_path / "x.txt"
  path.write_bytes("\ufeffa\u2028b\r\nc\n\nd".encode())
  assert list(file_io.read_lines(str(path))) == ["a\u2028b", "c", "", "d"]
  path.write_bytes(b"good\nb\xe9d\n")
  with pytest.raises(UserError, match="line 2: not UTF-8.*0xe9 at column 2"):
    list(file_io.read_lines(str(path)))


def test_lines_end_at_carriage_returns_if_there_are_no_line_feeds(tmp_path):
  path = tmp_path / "x.txt"
  for content, lines in [
    ("a\rb\r\rc\r", ["a", "b", "", "c"]),
    ("a\r", ["a"]),
    ("a\rb\r\nc\r", ["a\rb", "c"]),
  ]:
    path.write_bytes(content.encode())
    assert list(file_io.read_lines(str(path))) == lines
    path.write_bytes(content.encode("utf-16"))
    assert list(file_io.read_lines(str(path))) == lines
    path.write_bytes(content.encode("utf-16-be"))
    assert list(file_io.read_lines(str(path), "utf-16-be")) == lines


def test_files_named_gz_are_decompressed(tmp_path):
  path = tmp_path / "x.json.gz"
  path.write_bytes(gzip.compress(b'{"a":\n1}'))
  assert list(file_io.read_lines(str(path))) == ['{"a":', "1}"]
  assert file_io.read_json(str(path)) == {"a": 1}
  for damaged in (path.read_bytes()[:-9], b"plain"):
    path.write_bytes(damaged)
    for read in (
      file_io.read_json,
      lambda path: list(file_io.read_lines(path)),
    ):
      with pytest.raises(UserError, match="x.json.gz is no file of gzip, or"):
        read(str(path))


@pytest.mark.parametrize(
  "content, message",
  [
    (b"", "x.json: not JSON.*complete"),
    (b'{"a": 1', "x.json: not JSON.*complete"),
    (b'{"a": NaN}', "NaN"),
    (b'{"a": -Infinity}', "-Infinity"),
    (b'{"a": 1e999}', "x.json"),
    (b'{"a": ' + b"9" * 5000 + b"}", "x.json: not JSON"),
    (b'{"a": "\\ud800"}', "surrogate"),
    (b'\n{"a": "\xff"}', "x.json, line 2: not UTF-8 .byte 0xff"),
    (b"[" * 100_000, "nested too deeply"),
    (b'{"a":' * 100_000, "nested too deeply"),
    (b"[1]", r"holds \[1\], not an object"),
    (b"null", "holds null, not an object"),
  ],
)
def test_an_error_about_bad_json_is_one_line(tmp_path, content, message):
  path = tmp_path / "x.json"
  path.write_bytes(content)
  with pytest.raises(UserError, match=message) as error:
    file_io.read_json(str(path))
  assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_good_json_is_read(tmp_path):
  path = tmp_path / "x.json"
  content = {"a": ["ü", "\U0001f600", 1.5, None]}
  for text in (
    json.dumps(content),
    "\ufeff" + json.dumps(content),
    json.dumps(content, ensure_ascii=False),
  ):
    path.write_text(text, encoding="utf-8")
    assert file_io.read_json(str(path)) == content


@pytest.mark.parametrize(
  "read",
  [
    file_io.read_json,
    file_io.read_text,
    file_io.read_bytes,
    lambda path: list(file_io.read_lines(path)),
  ],
)
def test_errors_name_files_that_cannot_be_read(tmp_path, read):
  with pytest.raises(UserError, match="gone.*does not exist"):
    read(str(tmp_path / "gone"))
  with pytest.raises(UserError, match="folder"):
    (tmp_path / "folder").mkdir()
    read(str(tmp_path / "folder"))
