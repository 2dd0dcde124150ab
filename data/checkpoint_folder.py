"""The checkpoints in the folder of a run: which there are, and which is newest.

The file `checkpoint` lists them; a checkpoint exists when it is listed. While
one is added, `checkpoint.journal` names all that are listed only before or only
after. If the process is killed, the next one deletes those that the journal
names and the list does not, so that a kill at any moment leaves whole
checkpoints. Nothing else is ever deleted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
import json
import os
import re

from absl import logging
import tensorflow as tf

from data import file_io
from errors import UserError

_LIST = "checkpoint"
_JOURNAL = "checkpoint.journal"
# Names of the checkpoints of a run; others are never deleted.
_OWN_NAME = re.compile(r"model\.ckpt-(\d+)")
# Ends of the names of the files of a checkpoint.
_FILE_SUFFIX = re.compile(r"\.(index|json|meta|data-\d{5}-of-\d{5})")
_CHECKPOINT_FILE = re.compile(
  r"(?P<prefix>.*[^/])\.(index|meta|data-\d{5}-of-\d{5})"
)
_DATA_FILE = re.compile(r"(?P<name>.+)\.data-\d{5}-of-(?P<num_shards>\d{5})")
# A line of the list, which is a text protocol buffer of TensorFlow.
_LIST_LINE = re.compile(
  r"\s*(?:(?P<field>model_checkpoint_path|all_model_checkpoint_paths)\s*:\s*"
  r'"(?P<path>(?:[^"\\]|\\.)+)"|(?:all_model_checkpoint_timestamps|'
  r"last_preserved_timestamp)\s*:\s*[-+.\deE]+)?\s*"
)
_NAMES_SHOWN = 4
_LONGEST_SHOWN = 60


def name_of_step(step: int) -> str:
  """Returns the name of the checkpoint of a step."""
  return f"model.ckpt-{step}"


def step_of_name(name: str) -> int:
  """Returns the step that the name, or path, of a checkpoint ends in."""
  return int(name.rpartition("-")[2])


def is_file_of(file: str, name: str) -> bool:
  """Returns whether a file name belongs to the checkpoint `name`."""
  if not file.startswith(name):
    return False
  return _FILE_SUFFIX.fullmatch(file, len(name)) is not None


def show_names(names: Sequence[str]) -> str:
  """Returns the first few of many names, for a message."""
  shown = list(names[:_NAMES_SHOWN])
  if len(names) > _NAMES_SHOWN:
    shown.append("...")
  return ", ".join(shown)


# --- The newest checkpoint ---------------------------------------------------


def find_latest(folder: str, flag: str = "--output_dir") -> str | None:
  """Returns the prefix of the newest checkpoint, or None if there is none.

  Args:
    folder: Folder of the run.
    flag: Flag that the user gave the folder with, for error messages.

  Raises:
    UserError: The list of checkpoints contradicts the folder. Starting at step
      0 then would lose the run silently.
  """
  # A checkpoint that a killed process was still saving does not exist yet.
  present = _whole_checkpoints(folder) - _unfinished_checkpoints(folder)
  list_file = os.path.join(folder, _LIST)
  own = sorted(filter(_OWN_NAME.fullmatch, present), key=step_of_name)
  try:
    listed = _read_list(folder)
    if listed and listed[-1] in present:
      return os.path.join(folder, listed[-1])
    if listed:
      problem = (
        f"{list_file} names {listed[-1]}, whose files are missing or incomplete"
      )
    elif own:
      problem = f"{list_file} is missing"
    else:
      return None
  except UserError as error:
    problem = str(error).rstrip(".")
  contents = "no checkpoint to continue from."
  if own:
    contents = (
      f"{show_names(own)}. To continue from {own[-1]}, write the line "
      f'model_checkpoint_path: "{own[-1]}" into {list_file}.'
    )
  advice = ""
  if flag == "--output_dir":
    advice = (
      " To begin again at step 0, pass --restart, which deletes the "
      "checkpoints of this run."
    )
  raise UserError(
    f"{flag}={folder}: {problem}. The folder holds {contents}{advice}"
  )


def find_weights(folder: str, flag: str) -> str | None:
  """Returns the prefix of the weights in a folder that is only read.

  That is the newest checkpoint of a run; in a folder without a list, such as
  those of released models, the only checkpoint. None if there is none.

  Args:
    folder: Any folder.
    flag: Flag that the user gave the folder with, for error messages.

  Raises:
    UserError: There are several, or the list contradicts the folder.
  """
  if tf.io.gfile.exists(os.path.join(folder, _LIST)):
    return find_latest(folder, flag)
  names = sorted(
    _whole_checkpoints(folder) - _unfinished_checkpoints(folder),
    # 9 comes before 12.
    key=lambda name: (re.sub(r"\d+", "", name), _numbers_in(name)),
  )
  if len(names) > 1:
    raise UserError(
      f"{flag}={folder} holds {len(names)} checkpoints, and no file {_LIST} "
      f"that says which is the newest: {show_names(names)}. Name one, such as "
      f"{flag}={os.path.join(folder, names[-1])}."
    )
  return os.path.join(folder, names[0]) if names else None


def _numbers_in(name: str) -> list[int]:
  return [int(number) for number in re.findall(r"\d+", name)]


def remove_file_suffix(path: str) -> str:
  """Returns the prefix of a checkpoint for the path of one of its files."""
  match = _CHECKPOINT_FILE.fullmatch(path)
  if match is None or tf.io.gfile.exists(path + ".index"):
    return path
  return match["prefix"]


def _whole_checkpoints(folder: str) -> set[str]:
  """Returns the names of the checkpoints whose files are all in a folder."""
  if not tf.io.gfile.isdir(folder):
    return set()
  files = set(tf.io.gfile.listdir(folder))
  # (name, number of data files it should have) -> number of those there are
  num_found: dict[tuple[str, int], int] = {}
  for file in files:
    match = _DATA_FILE.fullmatch(file)
    if match:
      key = match["name"], int(match["num_shards"])
      num_found[key] = num_found.get(key, 0) + 1
  whole = set()
  for (name, num_shards), count in num_found.items():
    if count == num_shards and f"{name}.index" in files:
      whole.add(name)
  return whole


def _unfinished_checkpoints(folder: str) -> set[str]:
  """Returns the names that the journal holds and the list does not."""
  journaled = set(_read_journal(folder))
  try:
    return journaled - set(_read_list(folder))
  except UserError:
    return journaled


# --- Adding and deleting -----------------------------------------------------


def add_checkpoint(
  folder: str,
  step: int,
  keep_checkpoint_max: int,
  write_files: Callable[[str, bool], None],
) -> None:
  """Adds the checkpoint of a step to the list, as the newest.

  Args:
    folder: Folder of the run.
    step: Number of steps made so far.
    keep_checkpoint_max: Number of checkpoints to keep; older ones are deleted.
      0 to keep all.
    write_files: Writes the files of the checkpoint. Its arguments are their
      prefix, and whether a checkpoint of this step is listed already.
  """
  name = name_of_step(step)
  listed = _read_list(folder)
  names = [other for other in listed if other != name] + [name]
  num_expired = 0
  if keep_checkpoint_max:
    num_expired = max(0, len(names) - keep_checkpoint_max)
  finish_save(folder)
  # From here on a kill leaves checkpoints that the next process deletes.
  _write_journal(folder, [*names[:num_expired], name])
  write_files(os.path.join(folder, name), name in listed)
  # From here on the new checkpoint exists and the expired ones do not.
  _write_list(folder, names[num_expired:])
  finish_save(folder)


def keep_only(folder: str, step: int) -> None:
  """Deletes all listed checkpoints except that of one step."""
  name = name_of_step(step)
  listed = _read_list(folder)
  others = [other for other in listed if other != name]
  if others and name in listed:
    _replace_list(folder, [name], expired=others)


def delete_all(folder: str) -> None:
  """Deletes the checkpoints of a run, listed or not, so that it can restart."""
  if not tf.io.gfile.isdir(folder):
    return
  names = set()
  for file in tf.io.gfile.listdir(folder):
    match = _OWN_NAME.match(file)
    if match and is_file_of(file, match.group()):
      names.add(match.group())
  _replace_list(folder, [], expired=sorted(names))


def finish_save(folder: str) -> None:
  """Finishes the save of a process that was killed meanwhile.

  Checkpoints that the journal names are deleted unless they are listed.
  """
  file_io.remove_leftovers(folder)
  journal = os.path.join(folder, _JOURNAL)
  if not tf.io.gfile.exists(journal):
    return
  listed = _read_list(folder)
  for name in _read_journal(folder):
    if name not in listed:
      _delete_files(folder, name)
  tf.io.gfile.remove(journal)


def _replace_list(
  folder: str, names: Sequence[str], expired: Sequence[str]
) -> None:
  """Lists `names` and deletes `expired`."""
  finish_save(folder)
  _write_journal(folder, expired)
  _write_list(folder, names)
  finish_save(folder)


def _delete_files(folder: str, name: str) -> None:
  """Deletes the files of a checkpoint, those that make it whole first."""
  # In reverse order, `.index` comes before `.data-...`.
  for file in sorted(tf.io.gfile.listdir(folder), reverse=True):
    if is_file_of(file, name):
      tf.io.gfile.remove(os.path.join(folder, file))


# --- The list and the journal ------------------------------------------------


def _read_list(folder: str) -> list[str]:
  """Returns the names of the checkpoints of a run, the newest last.

  Raises:
    UserError: The list is damaged, or names a checkpoint of another folder
      that is not in this one.
  """
  list_file = os.path.join(folder, _LIST)
  if not tf.io.gfile.exists(list_file):
    return []
  newest, names = None, []
  for line in file_io.read_text(list_file).splitlines():
    match = _LIST_LINE.fullmatch(line)
    if not match:
      shown = line[:_LONGEST_SHOWN]
      raise UserError(f"{list_file} is damaged: it has the line {shown!r}")
    if match["field"]:
      name = _local_name(match["path"], folder, list_file)
      if match["field"] == "model_checkpoint_path":
        newest = name
      names.append(name)
  if newest is None:
    raise UserError(f"{list_file} is damaged: it names no checkpoint")
  others = dict.fromkeys(name for name in names if name != newest)
  return [*others, newest]


def _local_name(checkpoint_path: str, folder: str, list_file: str) -> str:
  """Returns the name of a listed checkpoint, which has to be in `folder`."""
  listed_folder, name = os.path.split(checkpoint_path.replace("\\\\", "/"))
  if not listed_folder:
    return name
  # A run that was moved or copied is in another folder now.
  if tf.io.gfile.exists(os.path.join(folder, f"{name}.index")):
    return name
  if os.path.abspath(listed_folder) == os.path.abspath(folder):
    return name
  raise UserError(
    f"{list_file} names {checkpoint_path}, which is in another folder"
  )


def _write_list(folder: str, names: Sequence[str]) -> None:
  """Replaces the list; without names there is none."""
  list_file = os.path.join(folder, _LIST)
  if not names:
    file_io.remove_existing_files([list_file])
    return
  # Names without folders allow a run to be moved.
  quoted = [json.dumps(name) for name in names]
  lines = [f"model_checkpoint_path: {quoted[-1]}"]
  lines += [f"all_model_checkpoint_paths: {name}" for name in quoted]
  file_io.write_text(list_file, "\n".join(lines) + "\n")


def _read_journal(folder: str) -> list[str]:
  """Returns the names in the journal; none if it is damaged or missing."""
  journal = os.path.join(folder, _JOURNAL)
  if not tf.io.gfile.exists(journal):
    return []
  try:
    names = file_io.read_json(journal, list)
  except UserError as error:
    logging.warning("%s It is ignored.", error)
    return []
  return [
    name
    for name in names
    if isinstance(name, str) and _OWN_NAME.fullmatch(name)
  ]


def _write_journal(folder: str, names: Iterable[str]) -> None:
  file_io.write_json(os.path.join(folder, _JOURNAL), list(names))
