"""Reads what a run left in its folder, except examples and its log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import json
import os
import re
from typing import Any, NamedTuple

import tensorflow as tf

from data import checkpoint_folder
from data import file_io
from data import record_files
from errors import UserError

_COMMANDS = "report_run.json"
_RESULT_FILE = re.compile(r"(eval_results|test_scores\w*)\.txt")
_SPLIT_FILES = {
  "train": "train.tf_record",
  "dev": "eval.tf_record",
  "test": "predict.tf_record",
}
# Records whose lengths are measured.
_MOST_RECORDS = 50_000
_BATCH_SIZE = 5000
_MOST_WARNINGS = 50
_TOO_LONG = record_files.TOO_LONG


class Command(NamedTuple):
  """A command that wrote to the folder.

  Attributes:
    program: File of the program.
    arguments: The flags that were given.
    seconds: Time that it took; 0 if it is not known.
    warnings: Warnings that it logged.
  """

  program: str
  arguments: Sequence[str]
  seconds: float = 0.0
  warnings: Sequence[str] = ()

  @property
  def actions(self) -> list[str]:
    """The flags that say what the command did, such as --do_train."""
    return [a for a in self.arguments if re.fullmatch(r"--do_[a-z]+=true", a)]


class SplitSummary(NamedTuple):
  """A file of records in numbers.

  Attributes:
    name: Name of the split.
    num_records: Number of records.
    lengths: Number of tokens of the first records.
    label_ids: The label of each of them, if each has one.
    num_too_long: Number of examples that did not fit into one sequence; None if
      it is not known.
  """

  name: str
  num_records: int
  lengths: list[int]
  label_ids: list[int]
  num_too_long: int | None = None

  @property
  def is_sampled(self) -> bool:
    """True if lengths and labels come from a sample of the records."""
    return self.num_records > _MOST_RECORDS


def add_command(folder: str, command: Command) -> None:
  """Adds a command to those of a folder; it replaces one that did the same."""
  try:
    earlier = read_commands(folder)
  except UserError:
    earlier = []  # damaged; the new command counts
  kept = [other for other in earlier if other.actions != command.actions]
  command = command._replace(warnings=command.warnings[:_MOST_WARNINGS])
  commands = [other._asdict() for other in (*kept, command)]
  file_io.write_json(os.path.join(folder, _COMMANDS), {"commands": commands})


def read_commands(folder: str) -> list[Command]:
  """Returns the commands that wrote to a folder, if they are known.

  Raises:
    UserError: The file is damaged.
  """
  path = os.path.join(folder, _COMMANDS)
  if not tf.io.gfile.exists(path):
    return []
  commands = []
  for fields in file_io.read_json(path).get("commands", [None]):
    try:
      command = Command(**fields)
      "".join([command.program, *command.arguments, *command.warnings])
      command = command._replace(seconds=float(command.seconds))
    except (TypeError, ValueError) as error:
      raise UserError(
        f"{path} is damaged: an entry is no command. Delete it."
      ) from error
    commands.append(command)
  return commands


def read_settings(folder: str) -> Mapping[str, Any]:
  """Returns the flags of the training: name -> value, if they are known."""
  newest = checkpoint_folder.find_latest(folder)
  if not newest or not tf.io.gfile.exists(f"{newest}.json"):
    return {}
  settings = file_io.read_json(f"{newest}.json").get("settings")
  return settings if isinstance(settings, dict) else {}


def read_model_config(folder: str) -> Mapping[str, Any]:
  """Returns the config of the model, if it is known."""
  newest = checkpoint_folder.find_latest(folder)
  for path in (
    f"{newest}.json",
    os.path.join(folder, "export", "bert_config.json"),
  ):
    if tf.io.gfile.exists(path):
      fields = file_io.read_json(path)
      config = fields.get("model_config", fields)
      if isinstance(config, dict) and "hidden_size" in config:
        return config
  return {}


def read_results(folder: str) -> dict[str, dict[str, str]]:
  """Returns file of results -> name of a score -> its value as in the file."""
  results = {}
  for name in sorted(tf.io.gfile.listdir(folder)):
    if _RESULT_FILE.fullmatch(name):
      lines = file_io.read_lines(os.path.join(folder, name))
      pairs = [line.split(" = ", 1) for line in lines if " = " in line]
      results[name] = {pair[0]: pair[1] for pair in pairs}
  return results


def summarize_splits(folder: str) -> list[SplitSummary]:
  """Returns the files of records in numbers."""
  summaries = []
  for split, name in _SPLIT_FILES.items():
    path = os.path.join(folder, name)
    if tf.io.gfile.exists(path):
      summaries.append(_summarize_records(split, path))
  return summaries


def _summarize_records(split: str, path: str) -> SplitSummary:
  """Returns a file of records in numbers."""
  num_records = 0
  lengths: list[int] = []
  label_ids: list[int] = []
  # Whole batches are parsed at once: one record at a time took longer than all
  # the rest of the page.
  for records in tf.data.TFRecordDataset(path).batch(_BATCH_SIZE):
    num_records += len(records)
    if num_records <= _MOST_RECORDS:
      lengths += _measure_lengths(records)
      label_ids += _read_label_ids(records)
  stamp = read_optional_json(*os.path.split(path + record_files.STAMP_SUFFIX))
  facts = (stamp or {}).get("facts")
  num_too_long = None
  if isinstance(facts, dict) and isinstance(facts.get(_TOO_LONG), int):
    num_too_long = facts[_TOO_LONG]
  return SplitSummary(split, num_records, lengths, label_ids, num_too_long)


def _measure_lengths(records: tf.Tensor) -> list[int]:
  """Returns the number of tokens of the sequences in records."""
  spec = {
    name: tf.io.RaggedFeature(tf.int64)
    for name in ("input_ids", "sequence_lengths")
  }
  features = tf.io.parse_example(records, spec)
  # Missing choices are sequences without tokens.
  of_choices = [
    n for n in features["sequence_lengths"].values.numpy().tolist() if n
  ]
  return of_choices or features["input_ids"].row_lengths().numpy().tolist()


def _read_label_ids(records: tf.Tensor) -> list[int]:
  """Returns the label of each record, or [] if they have not one each."""
  spec = {"label_ids": tf.io.RaggedFeature(tf.int64)}
  try:
    labels = tf.io.parse_example(records, spec)["label_ids"]
  except tf.errors.InvalidArgumentError:
    return []  # they are values
  has_one_each = bool(tf.reduce_all(labels.row_lengths() == 1))
  return labels.values.numpy().tolist() if has_one_each else []


def read_optional_json(folder: str, name: str) -> dict[str, Any] | None:
  """Returns the content of a JSON file of a run, or None without the file."""
  path = os.path.join(folder, name)
  return file_io.read_json(path) if tf.io.gfile.exists(path) else None


def format_flag(name: str, value: Any) -> str:
  """Returns a flag as an argument: --name=value."""
  if isinstance(value, list):
    value = ",".join(map(str, value))
  if isinstance(value, bool):
    value = json.dumps(value)
  return f"--{name}={value}"
