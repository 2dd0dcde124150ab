"""Checks that the input that flags name exists, before TensorFlow is loaded.

A program marks each flag that names input with a check of its kind of value.
A check refuses only what the program itself would refuse later, and suggests
the nearest name that exists. Paths on other file systems, such as gs://, are
left to TensorFlow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
import dataclasses
import difflib
import glob
import os
import re

from absl import flags

from errors import UserError

# Function (name of a flag, its value), which raises a UserError.
Check = Callable[[str, str], None]

# Ends of the names of the files of a checkpoint, after its prefix.
_CHECKPOINT_ENDS = re.compile(r"\.(index|data-\d{5}-of-\d{5})$")
_LEAST_SIMILARITY = 0.6


@dataclasses.dataclass(frozen=True)
class _Mark:
  """A flag that names input.

  Attributes:
    check: Check of its values.
    needed_by: Flag without which it is not read; empty if it always is.
    folder_flag: Flag of the folder that its value is relative to, or empty.
  """

  check: Check
  needed_by: str
  folder_flag: str


_marks: dict[str, _Mark] = {}


def mark(
  name: str, check: Check, needed_by: str = "", folder_flag: str = ""
) -> None:
  """Marks a flag that names input.

  Args:
    name: Name of the flag.
    check: Check of its value, or of each of its values.
    needed_by: Flag without which it is not read; empty if it always is.
    folder_flag: Flag of the folder that its value is relative to, or empty.
  """
  _marks[name] = _Mark(check, needed_by, folder_flag)


def unmark_all() -> None:
  """Forgets all marks, for a process that runs several programs."""
  _marks.clear()


def marked_flags() -> list[str]:
  """Returns the names of the marked flags of this program."""
  return [name for name in _marks if name in flags.FLAGS]


def check_inputs() -> None:
  """Checks the values of all marked flags that are given.

  Raises:
    UserError: A flag names something that does not exist.
  """
  for name in marked_flags():
    marked = _marks[name]
    is_needed = not marked.needed_by or flags.FLAGS[marked.needed_by].value
    if not (flags.FLAGS[name].present and is_needed):
      continue
    value = flags.FLAGS[name].value
    folder = ""
    if marked.folder_flag:
      folder = str(flags.FLAGS[marked.folder_flag].value)
    path = ",".join(value) if isinstance(value, list) else value
    if path and not _is_remote(path):
      marked.check(name, os.path.join(folder, path))


def check_model_is_named() -> None:
  """Raises a UserError if a program that needs a model is given none."""
  names = [
    name
    for name in ("model", "bert_config_file", "vocab_file")
    if name in flags.FLAGS
  ]
  is_given = any(flags.FLAGS[name].value for name in names)
  if names[:1] == ["model"] and len(names) > 1 and not is_given:
    raise UserError(
      "No model is given. Pass --model, its folder or its name, or the files "
      f"of a model: --{', --'.join(names[1:])}."
    )


# --- Kinds of input ----------------------------------------------------------


def check_path(flag: str, path: str) -> None:
  """Raises a UserError if a file or a folder does not exist."""
  if not os.path.exists(path):
    raise _missing(flag, path, path)


def check_named_paths(flag: str, names: str) -> None:
  """Raises a UserError if a path of a list does not exist.

  Args:
    flag: Name of the flag.
    names: Paths, or names and paths as name=path, separated by commas.
  """
  for name in names.split(","):
    path = name.rpartition("=")[2]
    if not (_is_remote(name) or os.path.exists(path) or os.path.exists(name)):
      raise _missing(flag, path, path)


def check_checkpoint(flag: str, path: str) -> None:
  """Raises a UserError if no file belongs to a checkpoint.

  A run that resumes has its own checkpoint, and does not read this one.

  Args:
    flag: Name of the flag.
    path: Prefix of the checkpoint, one of its files, or its folder.
  """
  if glob.glob(f"{glob.escape(path)}*") or _resumes():
    return
  raise _missing(flag, path, path, strip_checkpoint_ends=True)


def check_files(flag: str, names: str) -> None:
  """Raises a UserError if a name stands for no file.

  Args:
    flag: Name of the flag.
    names: Files, folders, patterns and @lists, separated by commas; see
      `data.file_names`.
  """
  if _names_something(names):
    return
  parts = names.split(",")
  while parts:
    # a,b.txt,c.txt   The first parts that together name something are a name.
    for end in range(1, len(parts) + 1):
      name = ",".join(parts[:end]).strip()
      if not name or _names_something(name):
        break
    else:
      missing = _expand(parts[0].strip().removeprefix("@"))
      raise _missing(flag, names, missing)
    parts = parts[end:]


def _names_something(name: str) -> bool:
  """Returns whether a file, a folder, a list or a pattern may have a name."""
  for path in (name, _expand(name), _expand(name.removeprefix("@"))):
    if _is_remote(path) or os.path.exists(path):
      return True
  # TensorFlow reads some patterns in another way than Python, so only what is
  # simple is decided here.
  pattern = _expand(name)
  is_simple = not set(pattern) & set("[]\\{}")
  return not is_simple or bool(glob.glob(pattern, recursive=True))


def _expand(name: str) -> str:
  return os.path.expanduser(os.path.expandvars(name))


def _is_remote(path: str) -> bool:
  return "://" in path


def _resumes() -> bool:
  """Returns whether there is a checkpoint in --output_dir to resume from."""
  if "output_dir" not in flags.FLAGS or not flags.FLAGS.output_dir:
    return False
  begins = "restart" in flags.FLAGS and flags.FLAGS.restart
  folder = str(flags.FLAGS.output_dir)
  is_known = _is_remote(folder) or os.path.exists(
    os.path.join(folder, "checkpoint")
  )
  return is_known and not begins


# --- Messages ----------------------------------------------------------------


def _missing(
  flag: str, value: str, path: str, strip_checkpoint_ends: bool = False
) -> UserError:
  """Returns the error about a path that does not exist.

  Args:
    flag: Name of the flag.
    value: Its value.
    path: The path, which is the value or a part of it.
    strip_checkpoint_ends: Whether to suggest prefixes of checkpoints.
  """
  message = f"--{flag}={path} does not exist."
  if path != value:
    message = f"--{flag}={value}: {path} does not exist."
  folder, name = os.path.split(path.rstrip(os.sep))
  while folder and not os.path.isdir(folder):
    folder, name = os.path.split(folder)
  names = _list_names(folder)
  if strip_checkpoint_ends:
    names = [_CHECKPOINT_ENDS.sub("", name) for name in names]
  similar = find_similar(name, names)
  first_missing = os.path.join(folder, name)
  if first_missing != path.rstrip(os.sep):
    message += f" There is no folder {first_missing}."
  if similar:
    return UserError(f"{message} Did you mean {os.path.join(folder, similar)}?")
  place = os.path.abspath(folder)
  return UserError(f"{message} The program looked in {place}.")


def find_similar(name: str, names: Iterable[str]) -> str:
  """Returns the name that is most similar to another; empty if none is."""
  by_lower = {known.lower(): known for known in names}
  similar = difflib.get_close_matches(
    name.lower(), by_lower, 1, _LEAST_SIMILARITY
  )
  return by_lower[similar[0]] if similar else ""


def _list_names(folder: str) -> list[str]:
  """Returns the names in a folder; none if it cannot be read."""
  try:
    return sorted(os.listdir(folder or "."))
  except OSError:
    return []
