"""Reads files with checks, and writes them atomically and durably.

A file is written under a temporary name, forced to the disk and renamed, so it
is complete or absent even after a power failure. The temporary file stays
locked while it is written. If a process is killed, its temporary files are not
locked any more, and the next program that writes to the folder removes them.

All paths go through `tf.io.gfile`, so `gs://` works; such file systems write
whole files anyway.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
import contextlib
import errno
import gzip
import json
import math
import os
import re
import shutil
import stat
import sys
from typing import Any
import uuid
import zlib

from absl import logging
import tensorflow as tf

from data import locks
from data import text_decoding
from errors import UserError

# Suffixes of files next to records: the report on how they were made, and the
# folder of parts while they are being made.
REPORT_SUFFIX = ".report.json"
PAGE_SUFFIX = ".report.html"
PARTS_SUFFIX = ".parts"

_CHUNK_BYTES = 2**20
_TEMPORARY_NAME = re.compile(r".\.[0-9a-f]{8}\.unfinished$")
_FULL_OR_BROKEN = (
  errno.ENOSPC,
  errno.EDQUOT,
  errno.EFBIG,
  errno.EIO,
  errno.EROFS,
)
# Maximum number of characters of a bad value in a message.
_LONGEST_SHOWN = 60
_SURROGATE = re.compile(r"\\u[dD][89abABcCdDeEfF]")


def file_errors() -> tuple[type[Exception], ...]:
  """Returns the classes of the errors of local and remote file systems."""
  return OSError, tf.errors.OpError


def is_remote(path: str) -> bool:
  """Returns whether a path is on another file system, such as `gs://`."""
  return "://" in path


def describe_error(error: Exception) -> str:
  """Returns the description of an error of the file system, without a path."""
  if isinstance(error, OSError) and error.strerror:
    return error.strerror
  message = getattr(error, "message", None) or str(error)
  return message.rpartition("; ")[2] or message


def file_size(path: str) -> int:
  """Returns the number of bytes of a file."""
  return tf.io.gfile.stat(path).length


def describe_files(paths: Iterable[str]) -> list[list[object]]:
  """Returns path, size in bytes, and time of change in ns of each file.

  If these stay the same, the content is taken to be the same.
  """
  descriptions = []
  for path in paths:
    stat = tf.io.gfile.stat(path)
    descriptions.append([path, stat.length, stat.mtime_nsec])
  return descriptions


# --- Names -------------------------------------------------------------------


def is_companion(path: str) -> bool:
  """Returns whether a path is that of a file that lies next to an output.

  Such are reports, parts, locks and temporary files.
  """
  is_temporary = bool(_TEMPORARY_NAME.search(path))
  return is_temporary or path.endswith(
    (REPORT_SUFFIX, PAGE_SUFFIX, PARTS_SUFFIX, locks.SUFFIX)
  )


def check_not_inputs(
  outputs: Mapping[str, Iterable[str]], inputs: Mapping[str, Iterable[str]]
) -> None:
  """Checks that no file would be overwritten that is also read.

  Args:
    outputs: Paths that will be written, by flag.
    inputs: Paths that are read, by flag.

  Raises:
    UserError: A path, or the file that it links to, is in both.
  """
  read_by = {}
  for flag, paths in inputs.items():
    for path in paths:
      read_by[_identify_file(path)] = flag, path
  for flag, paths in outputs.items():
    for path in paths:
      identity = _identify_file(path)
      if identity in read_by:
        input_flag, input_path = read_by[identity]
        raise UserError(
          f"{flag} would write {path}, which is {input_path} that {input_flag} "
          f"reads. Choose another {flag}."
        )


def _identify_file(path: str) -> object:
  """Returns a value that is the same for all names of a file."""
  if is_remote(path):
    return path
  try:
    # The same for hard links and for links to files or folders.
    status = os.stat(path)
    return status.st_dev, status.st_ino
  except OSError:
    # The file does not exist yet, but its folder may be a link.
    return os.path.realpath(path)


# --- Reading -----------------------------------------------------------------


def read_bytes(path: str) -> bytes:
  """Returns the content of a file.

  Raises:
    UserError: It does not exist, is a folder, or cannot be read.
  """
  try:
    if tf.io.gfile.isdir(path):
      raise UserError(f"{path} is a folder, not a file.")
    with tf.io.gfile.GFile(path, "rb") as reader:
      return reader.read()
  except (tf.errors.NotFoundError, FileNotFoundError) as error:
    raise UserError(f"{path} does not exist.") from error
  except file_errors() as error:
    raise UserError(
      f"{path} cannot be read: {describe_error(error)}."
    ) from error


def read_content(path: str | os.PathLike) -> bytes:
  """Returns the content of a file, decompressed if it is named `.gz`."""
  path = os.fspath(path)
  if _is_compressed(path):
    return b"".join(_read_chunks(path))
  return read_bytes(path)


def read_text(path: str, encoding: str | None = None) -> str:
  """Returns the text of a file, without a byte order mark.

  Args:
    path: Path of the file.
    encoding: Its encoding if there is no mark; see `text_decoding.decode`.

  Raises:
    UserError: The file cannot be read, or has another encoding.
  """
  return text_decoding.decode(read_content(path), path, encoding)


def read_lines(path: str, encoding: str | None = None) -> Iterator[str]:
  """Yields the lines of a text file, without line ends.

  A byte order mark is dropped, and a file named `.gz` is decompressed. Only a
  line feed ends a line, since text may contain other characters that Python
  would split at; but if there is none, lines end with carriage returns.

  Args:
    path: Path of the file.
    encoding: Its encoding if there is no mark; see `text_decoding.decode`.

  Raises:
    UserError: The file cannot be read, or a line has another encoding; the
      message gives file, line and bytes.
  """
  line_end = ""
  parts: list[str] = []  # of the current line
  chunks = _read_chunks(path)
  for text in text_decoding.decode_chunks(chunks, path, encoding):
    line_end = line_end or _find_line_end(text)
    first, *others = text.split(line_end) if line_end else [text]
    parts.append(first)
    for line in others:
      yield "".join(parts).rstrip("\r")
      parts = [line]
  last = "".join(parts)
  if last:
    yield last.rstrip("\r")


def _find_line_end(text: str) -> str:
  """Returns what ends lines in the beginning of a file; "" if it has one."""
  if "\n" in text:
    return "\n"
  # A carriage return at the very end may come before a line feed.
  return "\r" if "\r" in text[:-1] else ""


def _read_chunks(path: str) -> Iterator[bytes]:
  """Yields the content of a file, decompressed if it is named `.gz`.

  `GFile` can also yield lines, but takes an error for the end of the file.
  """
  try:
    with tf.io.gfile.GFile(path, "rb") as reader:
      source = gzip.GzipFile(fileobj=reader) if _is_compressed(path) else reader
      while chunk := source.read(_CHUNK_BYTES):
        yield chunk
  except (EOFError, gzip.BadGzipFile, zlib.error) as error:
    raise UserError(
      f"{path} is no file of gzip, or is damaged: {error}. Was it copied "
      "completely?"
    ) from error
  except (tf.errors.NotFoundError, FileNotFoundError) as error:
    raise UserError(f"{path} does not exist.") from error
  except tf.errors.OpError as error:
    raise UserError(
      f"{path} cannot be read: {describe_error(error)}."
    ) from error


def _is_compressed(path: str) -> bool:
  """Returns whether a file is named as compressed by gzip."""
  return path.endswith(".gz")


def read_standard_input() -> Iterator[str]:
  """Yields the lines of standard input that are not blank, stripped.

  They are read as UTF-8 whatever the locale says.

  Raises:
    UserError: Standard input is closed, or a line is not UTF-8.
  """
  if sys.stdin is None:
    raise UserError("Standard input is closed. Pass the text by a flag.")
  for number, line in enumerate(sys.stdin.buffer, 1):
    text = text_decoding.decode_line(line, "Standard input", number).strip()
    if text:
      yield text


def read_json(path: str, kind: type = dict, encoding: str | None = None) -> Any:
  """Returns the content of a JSON file.

  Args:
    path: Path of the file.
    kind: Expected type: `dict`, `list`, or `object` for any.
    encoding: Its encoding if there is no mark; see `text_decoding.decode`.

  Raises:
    UserError: The file cannot be read, or `parse_json` refuses its content.
  """
  return parse_json(read_text(path, encoding), path, kind)


def read_json_lines(
  path: str, encoding: str | None = None
) -> Iterator[tuple[int, dict]]:
  """Yields the number and the JSON object of each line that is not blank.

  The arguments are those of `read_lines`.

  Raises:
    UserError: A line has no JSON object; the message gives file and line.
  """
  for number, line in enumerate(read_lines(path, encoding), 1):
    if line.strip():
      yield number, parse_json(line, f"{path}, line {number}")


def parse_json(content: bytes | str, source: str, kind: type = dict) -> Any:
  """Returns the value of a JSON text.

  Args:
    content: JSON text, or its bytes in UTF-8, or with a byte order mark.
    source: Place that it comes from, for error messages.
    kind: Expected type: `dict`, `list`, or `object` for any.

  Raises:
    UserError: The content is not UTF-8, not JSON, nested too deeply, or of
      another type; or it contains NaN, an infinite number, or half of a
      surrogate pair.
  """
  if isinstance(content, str):
    text = content
  else:
    text = text_decoding.decode(content, source)
  try:
    value = json.loads(
      text, parse_constant=_refuse_constant, parse_float=_parse_finite_float
    )
    # Python reads half of a surrogate pair, but no file can be written with it.
    if _SURROGATE.search(text):
      json.dumps(value, ensure_ascii=False).encode("utf-8")
  except UnicodeEncodeError as error:
    raise UserError(
      f"{source} holds half of a surrogate pair, which is no character."
    ) from error
  except RecursionError as error:
    raise UserError(f"{source} is nested too deeply.") from error
  except ValueError as error:
    raise UserError(f"{source}: not JSON: {error}. Is it complete?") from error
  if not isinstance(value, kind):
    wanted = "an object" if kind is dict else "a list"
    beginning = " ".join(text[:_LONGEST_SHOWN].split())
    raise UserError(f"{source} holds {beginning}, not {wanted} of JSON.")
  return value


def _refuse_constant(name: str) -> None:
  raise ValueError(f"{name} is no number of JSON")


def _parse_finite_float(text: str) -> float:
  number = float(text)
  if math.isinf(number):
    raise ValueError(f"{text[:_LONGEST_SHOWN]} is too large a number")
  return number


def compute_checksum(path: str, start: int = 0) -> int:
  """Returns the CRC-32 of a file of any size.

  Args:
    path: Path of the file.
    start: CRC-32 of the bytes before the file.

  Raises:
    UserError: The file cannot be read.
  """
  checksum = start
  try:
    with tf.io.gfile.GFile(path, "rb") as reader:
      while chunk := reader.read(_CHUNK_BYTES):
        checksum = zlib.crc32(chunk, checksum)
  except file_errors() as error:
    raise UserError(
      f"{path} cannot be read: {describe_error(error)}."
    ) from error
  return checksum


# --- Writing -----------------------------------------------------------------


@contextlib.contextmanager
def atomic_file(path: str, temporary_dir: str | None = None) -> Iterator[str]:
  """Yields a temporary path, which is renamed to `path` if all goes well.

  Args:
    path: Path of the file.
    temporary_dir: Folder on the same file system for the temporary file; None
      for that of `path`.

  Raises:
    UserError: The file cannot be written.
  """
  temporary = temporary_path(path, temporary_dir)
  descriptor = None
  try:
    tf.io.gfile.makedirs(os.path.dirname(path) or ".")
    if locks.ARE_AVAILABLE and not is_remote(path):
      # The lock tells `remove_leftovers` that the file is in use.
      descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
      locks.try_lock(descriptor)
  except file_errors() as error:
    raise _write_error(path, error) from error
  try:
    yield temporary
    sync_file(temporary)
    tf.io.gfile.rename(temporary, path, overwrite=True)
    sync_folder(os.path.dirname(path))
  except file_errors() as error:
    if not _concerns_output(error, path):
      raise  # an error of a file that is read meanwhile
    raise _write_error(path, error) from error
  finally:
    # After the rename, there is no temporary file any more.
    try:
      with contextlib.suppress(*file_errors()):
        tf.io.gfile.remove(temporary)
    finally:
      if descriptor is not None:
        os.close(descriptor)


@contextlib.contextmanager
def atomic_folder(path: str) -> Iterator[str]:
  """Like `atomic_file`, for a folder that does not exist yet.

  Raises:
    UserError: The folder cannot be written.
  """
  with temporary_folder(path) as temporary:
    yield temporary
    sync_tree(temporary)
    tf.io.gfile.rename(temporary, path)
    sync_folder(os.path.dirname(path))


@contextlib.contextmanager
def temporary_folder(path: str) -> Iterator[str]:
  """Yields a folder in which to make `path`, and removes it at the end.

  Raises:
    UserError: The folder, or a file in it, cannot be written.
  """
  temporary = temporary_path(path)
  descriptor = None
  try:
    tf.io.gfile.makedirs(temporary)
    if locks.ARE_AVAILABLE and not is_remote(path):
      descriptor = os.open(temporary, os.O_RDONLY)
      locks.try_lock(descriptor)
  except file_errors() as error:
    raise _write_error(path, error) from error
  try:
    yield temporary
  except file_errors() as error:
    if not _concerns_output(error, path):
      raise
    raise _write_error(path, error) from error
  finally:
    try:
      with contextlib.suppress(*file_errors()):
        if tf.io.gfile.isdir(temporary):
          tf.io.gfile.rmtree(temporary)
    finally:
      if descriptor is not None:
        os.close(descriptor)


def temporary_path(path: str, folder: str | None = None) -> str:
  """Returns a new temporary path for `path`, known to `remove_leftovers`."""
  path = path.rstrip("/" + os.sep)
  if folder is not None:
    path = os.path.join(folder, os.path.basename(path))
  random_name = uuid.uuid4().hex[:8]
  return f"{path}.{random_name}.unfinished"


def _concerns_output(error: Exception, path: str) -> bool:
  """Returns whether an error comes from writing a file."""
  # Errors of TensorFlow name the file; errors of a full disk may not.
  names_output = os.path.basename(path) in str(error)
  return names_output or getattr(error, "errno", None) in _FULL_OR_BROKEN


def _write_error(path: str, error: Exception) -> UserError:
  return UserError(f"{path} cannot be written: {describe_error(error)}.")


def write_text(path: str, text: str) -> None:
  """Writes a UTF-8 text file, completely or not at all.

  Raises:
    UserError: The file cannot be written.
  """
  write_bytes(path, text.encode("utf-8"))


def write_bytes(path: str, content: bytes) -> None:
  """Writes a file, completely or not at all.

  Raises:
    UserError: The file cannot be written.
  """
  with atomic_file(path) as temporary:
    with tf.io.gfile.GFile(temporary, "wb") as writer:
      writer.write(content)


def write_json(path: str, json_object: object) -> None:
  """Writes a JSON file, completely or not at all.

  Raises:
    UserError: The file cannot be written.
  """
  write_text(path, json.dumps(json_object, indent=2) + "\n")


def sync_file(path: str) -> None:
  """Forces the content of a file to the disk."""
  if is_remote(path):
    return
  # Only Windows needs a writable descriptor, which copies of read-only files
  # do not allow.
  descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def sync_folder(folder: str) -> None:
  """Forces the names in a folder to the disk, for example after a rename."""
  if is_remote(folder) or os.name == "nt":
    return
  descriptor = os.open(folder or ".", os.O_RDONLY)
  try:
    os.fsync(descriptor)
  except OSError as error:
    if error.errno != errno.EINVAL:  # some file systems do not support it
      raise
  finally:
    os.close(descriptor)


def sync_tree(folder: str) -> None:
  """Forces a folder and everything in it to the disk."""
  if is_remote(folder):
    return
  for parent, _, names in os.walk(folder):
    for name in names:
      sync_file(os.path.join(parent, name))
    sync_folder(parent)


def check_writable(folder: str, flag: str) -> None:
  """Creates a folder, and checks that files can be written to it.

  Args:
    folder: Path of the folder.
    flag: Flag that it comes from, for error messages.

  Raises:
    UserError: It cannot be written to.
  """
  probe = temporary_path(os.path.join(folder, "probe"))
  try:
    tf.io.gfile.makedirs(folder)
    with tf.io.gfile.GFile(probe, "w") as writer:
      writer.write("")
    tf.io.gfile.remove(probe)
  except file_errors() as error:
    raise UserError(
      f"{flag}={folder} cannot be written: {describe_error(error)}."
    ) from error


def remove_leftovers(folder: str, in_subfolders: bool = False) -> None:
  """Removes temporary files of processes that were killed while writing.

  Only files with a name from `temporary_path` are removed, and only if no
  process holds them.

  Args:
    folder: The folder.
    in_subfolders: Whether to look into the folders in it, too, such as
      `submission` of a run.
  """
  if is_remote(folder) or not os.path.isdir(folder):
    return
  for name in os.listdir(folder):
    path = os.path.join(folder, name)
    if not _TEMPORARY_NAME.search(name):
      is_subfolder = os.path.isdir(path) and not os.path.islink(path)
      if in_subfolders and is_subfolder:
        with contextlib.suppress(OSError):
          remove_leftovers(path)
      continue
    # Another program may remove the file at the same time.
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


def remove_existing_files(paths: Iterable[str]) -> None:
  """Removes those of the files that exist."""
  for path in paths:
    if tf.io.gfile.exists(path):
      tf.io.gfile.remove(path)
