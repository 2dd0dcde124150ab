"""The files in the folder of a run, `--output_dir`, and its scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import os
import re

from absl import logging
import tensorflow as tf

from data import file_io
from errors import UserError

# The files that programs write there, except those for predictions.
_OUTPUT_NAME = re.compile(
  r"checkpoint|checkpoint\.journal|model\.ckpt-.*|classifier\.json|"
  r"(train|eval|predict)(_\w+)?\.tf_record(\.stamp\.json)?|"
  r"training_log\.jsonl|eval_results\.txt|(train|predict)\.report\.json|"
  r"(nbest_)?predictions\.json|null_odds\.json|"
  r"test_(results|predictions|scores)(_\w+)?\.(tsv|txt|jsonl)|"
  r"(confusion_matrix|worst_mistakes)(_\w+)?\.tsv|"
  r"report\.html|report_((run|masks)\.json|(dev|test)(_\w+)?\.jsonl)"
)
# Split -> the name of its records in the original code.
_RECORD_NAMES = {"train": "train", "dev": "eval", "test": "predict"}


def record_path(output_dir: str, split: str) -> str:
  """Returns the path of the records of a split, such as `dev_mismatched`."""
  kind, *rest = split.split("_", 1)
  name = "_".join([_RECORD_NAMES[kind], *rest])
  return os.path.join(output_dir, name + ".tf_record")


def check_inputs_are_kept(
  output_dir: str, inputs: Mapping[str, Iterable[str]]
) -> None:
  """Checks that no input file has the name of a file that will be written.

  Args:
    output_dir: Folder of the run.
    inputs: Flag -> paths that are read.

  Raises:
    UserError: an input lies in `output_dir` and has such a name.
  """
  real_dir = os.path.realpath(output_dir)
  for flag, paths in inputs.items():
    for path in paths:
      folder, name = os.path.split(os.path.realpath(path))
      if folder == real_dir and _OUTPUT_NAME.fullmatch(name):
        raise UserError(
          f"{flag}: {path} is in --output_dir={output_dir} and has the name of "
          "a file that is written there. Choose another --output_dir."
        )


# --- Scores ------------------------------------------------------------------

# Names of results, predictions and models, which the last lines show.
_SHOWN_FILES = re.compile(
  r"eval_results\.txt|test_(results|predictions|scores)(_\w+)?\.(tsv|txt|jsonl)|"
  r"(nbest_)?predictions\.json|null_odds\.json|results\.(json|md|png)|"
  r"(confusion_matrix|worst_mistakes)(_\w+)?\.tsv|submission|export"
)
_MOST_ROWS = 20
# File of results -> its rows, for the table at the end of the program.
_tables: dict[str, dict[str, str]] = {}


def read_results(output_dir: str, name: str) -> dict[str, float]:
  """Returns the results in a file of `write_results`."""
  results = {}
  for line in file_io.read_lines(os.path.join(output_dir, name)):
    key, value = line.split(" = ")
    results[key] = float(value)
  return results


def write_results(
  output_dir: str, name: str, results: Mapping[str, float]
) -> None:
  """Writes results as lines `name = value`, sorted by name, and logs them.

  They are shown once more when the program ends; see `summarize`.
  """
  lines = [f"{key} = {value}" for key, value in sorted(results.items())]
  file_io.write_text(os.path.join(output_dir, name), "\n".join(lines) + "\n")
  rows = {key: _format_score(value) for key, value in sorted(results.items())}
  keep_table(os.path.join(output_dir, name), rows)


def _format_score(value: float) -> str:
  return f"{value:.4f}" if isinstance(value, float) else str(value)


def keep_table(path: str, rows: Mapping[str, str]) -> None:
  """Logs the rows of a table, and keeps them for the end of the program.

  Args:
    path: Path of the file that has them.
    rows: Name -> value.
  """
  shown = [f"{name} {value}" for name, value in rows.items()][:_MOST_ROWS]
  logging.info("%s: %s", path, ", ".join(shown))
  _tables[path] = dict(rows)


def summarize(output_dir: str) -> list[str]:
  """Returns the last lines of a program: its scores, and where its files are.

  Args:
    output_dir: Folder of the run. Tables of other folders are forgotten.
  """
  lines = []
  for path, rows in _tables.items():
    folder, name = os.path.split(path)
    if folder == output_dir.rstrip("/"):
      lines += [f"Scores in {name}:", *_align(rows)]
  _tables.clear()
  names = [name.rstrip("/") for name in tf.io.gfile.listdir(output_dir)]
  shown = sorted(name for name in names if _SHOWN_FILES.fullmatch(name))
  if shown:
    lines.append(f"Files in {output_dir}: {', '.join(shown)}")
  return lines


def _align(rows: Mapping[str, str]) -> list[str]:
  """Returns the lines of a table of names and values."""
  names = list(rows)[:_MOST_ROWS]
  name_width = max(map(len, names), default=0)
  value_width = max((len(rows[name]) for name in names), default=0)
  lines = [
    f"  {x.ljust(name_width)}  {rows[x].rjust(value_width)}" for x in names
  ]
  if len(rows) > len(names):
    lines.append(f"  and {len(rows) - len(names)} more")
  return lines
