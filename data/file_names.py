"""Finds the input files that a flag names.

A flag takes one or several of these, separated by commas:

    text.txt      a file
    texts         a folder: all files in it and in its folders, sorted by name
    texts/*.txt   a pattern
    @files.txt    a list: a file with one of these on each line

`~` and environment variables are replaced by their values. A name that exists
means that file or folder, even if it contains commas or brackets or begins with
`@`. Hidden files, and files that lie next to an output, such as reports and
locks, are found only if they are named exactly.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import glob
import os

from absl import logging
import tensorflow as tf

from data import file_io
from errors import UserError

_LIST_MARK = "@"
# Maximum number of characters of a flag's value in a message.
_LONGEST_SHOWN = 300
# `log_files` shows only the first and last names of longer lists.
_MOST_LOGGED, _SHOWN_AT_EACH_END = 8, 3


def find_files(names: str, flag: str) -> list[str]:
  """Returns the files of a comma-separated list of names.

  Args:
    names: Files, folders, patterns and lists, as in the module's docstring.
    flag: Flag that they come from, for error messages.

  Raises:
    UserError: A name stands for no file, or a file is empty.
  """
  source = flag
  if "," in names and len(names) <= _LONGEST_SHOWN:
    source = f"{flag}={names}"
  # Most names with a comma are lists, but the name of one file may have one.
  files = _find_by_name(names, source) or _find_in_parts(names, source)
  if not files:
    raise UserError(f"{flag} names no file.")
  for file in files:
    if file_io.file_size(file) == 0:
      raise UserError(f"{flag}: {file} is empty.")
  return files


def log_files(title: str, files: Sequence[str]) -> None:
  """Logs the names of files below a title; only some if there are many."""
  logging.info("*** %s ***", title)
  shown = list(files)
  if len(files) > _MOST_LOGGED:
    num_hidden = len(files) - 2 * _SHOWN_AT_EACH_END
    shown[_SHOWN_AT_EACH_END:-_SHOWN_AT_EACH_END] = [f"... {num_hidden} more"]
  for name in shown:
    logging.info("  %s", name)


def _find_in_parts(names: str, source: str) -> list[str]:
  """Returns the files of names that are separated by commas."""
  files: list[str] = []
  parts = names.split(",")
  while parts:
    if not parts[0].strip():
      parts = parts[1:]
      continue
    # a,b.txt,c.txt   The first parts that together name something are a name.
    for end in range(1, len(parts) + 1):
      name = ",".join(parts[:end]).strip()
      found = _find(name, source)
      if found:
        break
    else:
      raise _missing(parts[0].strip(), source)
    files.extend(found)
    parts = parts[end:]
  return files


def _find(name: str, source: str) -> list[str]:
  """Returns the files that one name stands for, or none."""
  files = _find_by_name(name, source)
  if files:
    return files
  if name.startswith(_LIST_MARK):
    list_file = _replace_variables(name.removeprefix(_LIST_MARK))
    if not _exists(list_file, source):
      return []
    return list(_find_files_of_list(list_file, source))
  return _match(_replace_variables(name))


def _find_by_name(name: str, source: str) -> list[str]:
  """Returns the file, or the files of the folder, that has a name, or none.

  Raises:
    UserError: It is a folder without files, or the root of all folders.
  """
  for path in (name, _replace_variables(name)):
    if not path or not _exists(path, source):
      continue
    if not tf.io.gfile.isdir(path):
      return [path]
    if _is_root(path):
      raise UserError(
        f"{source}: {path} is the whole file system. Name the folder of the "
        "data. Is the path complete?"
      )
    files = _list_folder(path)
    if not files:
      raise UserError(f"{source}: the folder {path} has no files.")
    return files
  return []


def _is_root(path: str) -> bool:
  """Returns whether a folder of this machine has no folder around it."""
  if file_io.is_remote(path):
    return False
  real_path = os.path.realpath(path)
  return os.path.dirname(real_path) == real_path


def _replace_variables(name: str) -> str:
  """Returns a name with `~` and environment variables replaced."""
  return os.path.expanduser(os.path.expandvars(name))


def _exists(path: str, source: str) -> bool:
  """Returns whether a path exists.

  Raises:
    UserError: The answer is secret, or there is no such file system.
  """
  try:
    return tf.io.gfile.exists(path)
  except (tf.errors.PermissionDeniedError, tf.errors.UnimplementedError) as err:
    raise UserError(
      f"{source}: {path} cannot be read: {file_io.describe_error(err)}."
    ) from err
  except file_io.file_errors():
    return False  # for example, a list of names is too long to be a name


def _find_files_of_list(list_file: str, source: str) -> Iterator[str]:
  """Yields the files that the lines of a file name.

  Raises:
    UserError: A line stands for no file; the message gives its number.
  """
  for number, line in enumerate(file_io.read_lines(list_file), 1):
    name = line.strip()
    if not name:
      continue
    place = f"{source}: {list_file}, line {number}"
    if "\0" in name:
      raise UserError(f"{place} is not text. Write one name per line in UTF-8.")
    files = _find_by_name(name, place) or _match(_replace_variables(name))
    if not files:
      raise _missing(name, place)
    yield from files


def _missing(name: str, source: str) -> UserError:
  """Returns the error about a name that stands for no file."""
  replaced = _replace_variables(name.removeprefix(_LIST_MARK))
  meaning = "" if name.endswith(replaced) else f" (that is, {replaced})"
  if name.startswith(_LIST_MARK):
    return UserError(
      f"{source}: there is no list {name}{meaning}; it matches no file. Write "
      f"{_LIST_MARK} and the path of a file with one name per line."
    )
  return UserError(
    f"{source}: there is no file or folder {name}{meaning}, and as a pattern "
    "it matches no file. Is the path complete?"
  )


def _match(pattern: str) -> list[str]:
  """Returns the files that match a pattern, or are in matching folders."""
  # texts [2024]/*.txt   The part before the first * or ? may be the name of a
  # folder that is there.
  folder, name = os.path.split(pattern)
  if folder and glob.has_magic(folder) and tf.io.gfile.isdir(folder):
    pattern = os.path.join(glob.escape(folder), name)
  matches = []
  for path in sorted(tf.io.gfile.glob(pattern)):
    is_hidden = _is_hidden(path) and not _is_hidden(pattern)
    if not (is_hidden or file_io.is_companion(path)):
      matches.extend(_list_folder(path) if tf.io.gfile.isdir(path) else [path])
  return matches


def _list_folder(folder: str, parents: Sequence[str] = ()) -> list[str]:
  """Returns the files in a folder and in its folders, sorted by their paths.

  Args:
    folder: Path of the folder.
    parents: Real paths of the folders around it.
  """
  real_path = folder if file_io.is_remote(folder) else os.path.realpath(folder)
  if real_path in parents:
    return []  # a link to a folder that it is in
  files = []
  for name in tf.io.gfile.listdir(folder):
    name = name.rstrip("/")
    path = os.path.join(folder, name)
    if _is_hidden(path) or file_io.is_companion(path):
      continue
    if tf.io.gfile.isdir(path):
      files.extend(_list_folder(path, [*parents, real_path]))
    else:
      files.append(path)
  return sorted(files)


def _is_hidden(path: str) -> bool:
  return os.path.basename(path).startswith(".")
