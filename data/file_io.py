"""Reads files with checks, and writes them whole and durable.

A file is written under a temporary name, forced to the disk and renamed, so it
is whole or not there even after a power failure. A temporary file stays locked
while it is written: what a killed process left behind is known by being free,
and is removed by the next program that writes to its folder.

Paths go through `tf.io.gfile`, so `gs://` works; such file systems write whole
files by themselves.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import contextlib
import errno
import json
import math
import os
import re
import shutil
import stat
import uuid

from absl import logging
import tensorflow as tf

from data import locks
from errors import UserError

# Files next to records: the report on how they were made, and while they are
# being made the folder of their parts.
REPORT_SUFFIX = ".report.json"
PARTS_SUFFIX = ".parts"

FILE_ERRORS = (OSError, tf.errors.OpError)
_CHUNK_BYTES = 2**20
_TEMPORARY = re.compile(r".\.[0-9a-f]{8}\.unfinished$")
_FULL_OR_BROKEN = (
  errno.ENOSPC,
  errno.EDQUOT,
  errno.EFBIG,
  errno.EIO,
  errno.EROFS,
)
# How much of a bad value a message shows.
_LONGEST_SHOWN = 60
_SURROGATE = re.compile(r"\\u[dD][89abABcCdDeEfF]")


def is_remote(path: str) -> bool:
  """Whether a path names a file of another system, such as `gs://`."""
  return "://" in path


def reason(error: Exception) -> str:
  """Returns what an error of the file system says, without its path."""
  if isinstance(error, OSError) and error.strerror:
    return error.strerror
  message = getattr(error, "message", None) or str(error)
  return message.rpartition("; ")[2] or message


# --- Names and patterns ------------------------------------------------------


def expand_patterns(patterns: str, flag: str) -> list[str]:
  """Returns the files of a comma-separated list of names and globs.

  Args:
    patterns: the list.
    flag: where it comes from, for error messages.

  Raises:
    UserError: a name or glob matches no file, or a file is empty.
  """
  files = []
  for pattern in filter(None, (p.strip() for p in patterns.split(","))):
    # `records*` does not mean the files next to records.
    found = [
      file
      for file in sorted(tf.io.gfile.glob(pattern))
      if file == pattern
      or not (
        file.endswith((REPORT_SUFFIX, PARTS_SUFFIX, locks.SUFFIX))
        or _TEMPORARY.search(file)
      )
    ]
    if not found:
      raise UserError(f"{flag}: {pattern} matches no file.")
    files.extend(found)
  if not files:
    raise UserError(f"{flag} names no file.")
  for file in files:
    if tf.io.gfile.isdir(file):
      raise UserError(
        f"{flag}: {file} is a folder. Name files in it, such "
        f"as {os.path.join(file, '*')}."
      )
    if not tf.io.gfile.stat(file).length:
      raise UserError(f"{flag}: {file} is empty.")
  return files


def check_not_inputs(
  outputs: Mapping[str, Iterable[str]], inputs: Mapping[str, Iterable[str]]
) -> None:
  """Checks that no file would be written over a file that is read.

  Args:
    outputs: flag -> paths that will be written.
    inputs: flag -> paths that are read.

  Raises:
    UserError: a path is in both; links are followed.
  """
  read_by = {
    _identity(path): (flag, path)
    for flag, paths in inputs.items()
    for path in paths
  }
  for flag, paths in outputs.items():
    for path in paths:
      if _identity(path) in read_by:
        input_flag, read = read_by[_identity(path)]
        raise UserError(
          f"{flag} would write {path}, which is {read} that {input_flag} "
          f"reads. Choose another {flag}."
        )


def _identity(path: str):
  """Returns what is the same for all names of a file."""
  if is_remote(path):
    return path
  try:
    status = os.stat(path)
    return status.st_dev, status.st_ino
  except OSError:
    return os.path.realpath(path)


# --- Reading -----------------------------------------------------------------


def read_bytes(path: str) -> bytes:
  """Returns the content of a file.

  Raises:
    UserError: it is missing, is a folder, or cannot be read.
  """
  try:
    if tf.io.gfile.isdir(path):
      raise UserError(f"{path} is a folder, not a file.")
    with tf.io.gfile.GFile(path, "rb") as reader:
      return reader.read()
  except (tf.errors.NotFoundError, FileNotFoundError) as error:
    raise UserError(f"{path} does not exist.") from error
  except FILE_ERRORS as error:
    raise UserError(f"{path} cannot be read: {reason(error)}.") from error


def read_text(path: str) -> str:
  """Returns the text of a UTF-8 file, without a byte order mark.

  Raises:
    UserError: see `read_bytes`; or it is not UTF-8.
  """
  return _decode(read_bytes(path), path)


def _decode(content: bytes, where: str) -> str:
  try:
    return content.decode("utf-8-sig")
  except UnicodeDecodeError as error:
    line = content.count(b"\n", 0, error.start) + 1
    raise UserError(
      f"{where} is not UTF-8: line {line} has the byte "
      f"0x{content[error.start]:02x}. Convert it first, for example with "
      "`iconv -f latin1 -t utf-8`."
    ) from error


def read_lines(path: str) -> Iterator[str]:
  """Yields the lines of a UTF-8 text file, without their ends.

  A byte order mark is dropped, and only a line feed ends a line: text may hold
  other characters that Python would split at.

  Raises:
    UserError: the file cannot be read, or a line is not UTF-8; the message
      gives file, line and bytes.
  """
  try:
    for number, line in enumerate(_raw_lines(path), 1):
      text = decode_line(line, path, number)
      if number == 1:
        text = text.removeprefix("\ufeff")
      yield text.rstrip("\r")
  except (tf.errors.NotFoundError, FileNotFoundError) as error:
    raise UserError(f"{path} does not exist.") from error
  except tf.errors.OpError as error:
    raise UserError(f"{path} cannot be read: {reason(error)}.") from error


def _raw_lines(path: str) -> Iterator[bytes]:
  """Yields the lines of a file, without line feeds.

  `GFile` yields lines as well, but takes an error for the end of the file.
  """
  with tf.io.gfile.GFile(path, "rb") as reader:
    parts = []  # of the present line
    while chunk := reader.read(_CHUNK_BYTES):
      first, *others = chunk.split(b"\n")
      parts.append(first)
      for line in others:
        yield b"".join(parts)
        parts = [line]
    last = b"".join(parts)
    if last:
      yield last


def decode_line(line: bytes, path: str, number: int) -> str:
  """Returns the text of a line of a file.

  Raises:
    UserError: it is not UTF-8; the message gives file, line and bytes.
  """
  try:
    return line.decode("utf-8")
  except UnicodeDecodeError as error:
    raise UserError(
      f"{path}, line {number}: not UTF-8 (byte 0x{line[error.start]:02x} at "
      f"column {error.start + 1}). Convert it first, for example with "
      "`iconv -f latin1 -t utf-8`."
    ) from error


def read_json(path: str, kind: type = dict):
  """Returns the content of a JSON file.

  Args:
    path: of the file.
    kind: what it holds: `dict`, `list`, or `object` for anything.

  Raises:
    UserError: see `parse_json`; or the file cannot be read.
  """
  return parse_json(read_bytes(path), path, kind)


def read_json_lines(path: str) -> Iterator[tuple[int, dict]]:
  """Yields the number and the object of each line that is not blank.

  Raises:
    UserError: a line holds something else; the message names it.
  """
  for number, line in enumerate(read_lines(path), 1):
    if line.strip():
      yield number, parse_json(line, f"{path}, line {number}")


def parse_json(content, where: str, kind: type = dict):
  """Returns what JSON stands for.

  Args:
    content: bytes or text.
    where: the place, for error messages.
    kind: what it has to be: `dict`, `list`, or `object` for anything.

  Raises:
    UserError: it is not UTF-8 (a byte order mark is accepted), not JSON, nested
      too deeply, or of another kind; or it holds NaN, an infinite number, or
      half of a surrogate pair.
  """
  text = _decode(content, where) if isinstance(content, bytes) else content
  try:
    result = json.loads(
      text, parse_constant=_refuse_constant, parse_float=_finite_float
    )
    if _SURROGATE.search(text):
      json.dumps(result, ensure_ascii=False).encode("utf-8")
  except UnicodeEncodeError as error:
    raise UserError(
      f"{where} holds half of a surrogate pair, which is no character."
    ) from error
  except RecursionError as error:
    raise UserError(f"{where} is nested too deeply.") from error
  except ValueError as error:
    raise UserError(f"{where}: not JSON: {error}. Is it whole?") from error
  if not isinstance(result, kind):
    names = {dict: "an object", list: "a list"}
    beginning = " ".join(text[:_LONGEST_SHOWN].split())
    raise UserError(f"{where} holds {beginning}, not {names[kind]} of JSON.")
  return result


def _refuse_constant(name: str):
  raise ValueError(f"{name} is no number of JSON")


def _finite_float(text: str) -> float:
  number = float(text)
  if math.isinf(number):
    raise ValueError(f"{text[:_LONGEST_SHOWN]} is too large a number")
  return number


# --- Writing -----------------------------------------------------------------


@contextlib.contextmanager
def atomic_file(path: str, temporary_dir: str | None = None) -> Iterator[str]:
  """Gives a temporary path, and renames it to `path` if nothing went wrong.

  Args:
    path: of the file.
    temporary_dir: a folder of the same file system; that of `path` if None.

  Raises:
    UserError: the file cannot be written.
  """
  temporary = temporary_path(path, temporary_dir)
  descriptor = None
  try:
    tf.io.gfile.makedirs(os.path.dirname(path) or ".")
    if not is_remote(path):
      descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
      locks.try_lock(descriptor)
  except FILE_ERRORS as error:
    raise _not_written(path, error) from error
  try:
    yield temporary
    sync(temporary)
    tf.io.gfile.rename(temporary, path, overwrite=True)
    sync_folder(os.path.dirname(path))
  except FILE_ERRORS as error:
    if not _is_about(error, path):
      raise  # not this file, but one that its content comes from
    raise _not_written(path, error) from error
  finally:
    try:
      with contextlib.suppress(*FILE_ERRORS):
        tf.io.gfile.remove(temporary)
    finally:
      if descriptor is not None:
        os.close(descriptor)


@contextlib.contextmanager
def atomic_folder(path: str) -> Iterator[str]:
  """Like `atomic_file`, for a folder that does not exist yet.

  Raises:
    UserError: the folder cannot be written.
  """
  with temporary_folder(path) as temporary:
    yield temporary
    sync_tree(temporary)
    tf.io.gfile.rename(temporary, path)
    sync_folder(os.path.dirname(path))


@contextlib.contextmanager
def temporary_folder(path: str) -> Iterator[str]:
  """Gives a folder for the making of `path`, and removes what is left of it.

  Raises:
    UserError: the folder, or what is made in it, cannot be written.
  """
  temporary = temporary_path(path)
  descriptor = None
  try:
    tf.io.gfile.makedirs(temporary)
    if not is_remote(path) and os.name != "nt":
      descriptor = os.open(temporary, os.O_RDONLY)
      locks.try_lock(descriptor)
  except FILE_ERRORS as error:
    raise _not_written(path, error) from error
  try:
    yield temporary
  except FILE_ERRORS as error:
    if not _is_about(error, path):
      raise
    raise _not_written(path, error) from error
  finally:
    try:
      with contextlib.suppress(*FILE_ERRORS):
        if tf.io.gfile.isdir(temporary):
          tf.io.gfile.rmtree(temporary)
    finally:
      if descriptor is not None:
        os.close(descriptor)


def temporary_path(path: str, folder: str | None = None) -> str:
  """Returns a new name for what will be `path`, known to `remove_leftovers`."""
  path = path.rstrip("/")
  if folder is not None:
    path = os.path.join(folder, os.path.basename(path))
  return f"{path}.{uuid.uuid4().hex[:8]}.unfinished"


def _is_about(error: Exception, path: str) -> bool:
  """Whether an error is about writing a file, not about something else."""
  return (
    os.path.basename(path) in str(error)
    or getattr(error, "errno", None) in _FULL_OR_BROKEN
  )


def _not_written(path: str, error: Exception) -> UserError:
  return UserError(f"{path} cannot be written: {reason(error)}.")


def write_text(path: str, text: str) -> None:
  """Writes a UTF-8 text file, whole or not at all.

  Raises:
    UserError: the file cannot be written.
  """
  write_bytes(path, text.encode("utf-8"))


def write_bytes(path: str, content: bytes) -> None:
  """Writes a file, whole or not at all.

  Raises:
    UserError: the file cannot be written.
  """
  with atomic_file(path) as temporary:
    with tf.io.gfile.GFile(temporary, "wb") as writer:
      writer.write(content)


def write_json(path: str, json_object) -> None:
  """Writes a JSON file, whole or not at all.

  Raises:
    UserError: the file cannot be written.
  """
  write_text(path, json.dumps(json_object, indent=2) + "\n")


def sync(path: str) -> None:
  """Forces what was written to a file onto the disk."""
  if is_remote(path):
    return
  # Only Windows needs the right to write, which copies of read-only files lack.
  descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def sync_folder(folder: str) -> None:
  """Forces the names in a folder onto the disk, as after a rename."""
  if is_remote(folder) or os.name == "nt":
    return
  descriptor = os.open(folder or ".", os.O_RDONLY)
  try:
    os.fsync(descriptor)
  except OSError as error:
    if error.errno != errno.EINVAL:  # some file systems do not have this
      raise
  finally:
    os.close(descriptor)


def sync_tree(folder: str) -> None:
  """Forces a folder and all that is in it onto the disk."""
  if is_remote(folder):
    return
  for parent, _, names in os.walk(folder):
    for name in names:
      sync(os.path.join(parent, name))
    sync_folder(parent)


def check_writable(folder: str, flag: str) -> None:
  """Creates a folder, and checks that files can be written there.

  Args:
    folder: its path.
    flag: what the user gave it with, for error messages.

  Raises:
    UserError: it cannot be written.
  """
  probe = temporary_path(os.path.join(folder, "probe"))
  try:
    tf.io.gfile.makedirs(folder)
    with tf.io.gfile.GFile(probe, "w") as writer:
      writer.write("")
    tf.io.gfile.remove(probe)
  except FILE_ERRORS as error:
    raise UserError(
      f"{flag}={folder} cannot be written: {reason(error)}."
    ) from error


def remove_leftovers(folder: str) -> None:
  """Removes temporary files of processes that were killed while they wrote.

  Only names that `temporary_path` makes are touched, and only if no process
  holds them.
  """
  if is_remote(folder) or not os.path.isdir(folder):
    return
  for name in os.listdir(folder):
    if not _TEMPORARY.search(name):
      continue
    path = os.path.join(folder, name)
    with contextlib.suppress(OSError):
      descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
      try:
        if locks.try_lock(descriptor):
          logging.info("Removing %s, which a killed program left behind.", path)
          if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            shutil.rmtree(path)
          else:
            os.remove(path)
      finally:
        os.close(descriptor)


def remove_if_there(paths: Sequence[str]) -> None:
  """Removes those of some files that exist."""
  for path in paths:
    if tf.io.gfile.exists(path):
      tf.io.gfile.remove(path)
