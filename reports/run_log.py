"""Reads `training_log.jsonl`, the log of a training."""

from __future__ import annotations

import os
import re
from typing import Any, NamedTuple

from data import file_io
from errors import UserError
from tasks import text_files

# Python writes these in JSON for numbers that are not finite. Between these
# characters they are not part of a text.
_NOT_FINITE = re.compile(r"(?<=: )(NaN|-?Infinity)(?=[,}])")
# The largest int64 and float32, the types of steps and losses.
_LARGEST_STEP, _LARGEST_VALUE = 2**63 - 1, 3.5e38


class LogLine(NamedTuple):
  """A line of the log.

  Attributes:
    place: File and line, for messages.
    record: All entries of the line.
    is_evaluation: Whether the line is about an evaluation.
    scores: The entries about losses, speed and scores; of an evaluation, its
      results.
  """

  place: str
  record: dict[str, Any]
  is_evaluation: bool
  scores: dict[str, Any]

  def get_step(self) -> int:
    """Returns the step.

    Raises:
      UserError: There is no such number.
    """
    return _get_number(self, self.record, "step", (int,), _LARGEST_STEP)

  def get_score(self, name: str) -> float:
    """Returns a score.

    Raises:
      UserError: There is no such number.
    """
    return _get_number(self, self.scores, name, (int, float), _LARGEST_VALUE)


def log_file(run_dir: str) -> str:
  """Returns the path of the log of a run."""
  return os.path.join(run_dir, "training_log.jsonl")


def read_lines(path: str) -> list[LogLine]:
  """Returns the lines of a log.

  Raises:
    UserError: The log is damaged.
  """
  log_lines = []
  lines = list(file_io.read_lines(path))
  for number, line in enumerate(lines, 1):
    place = f"{path}, line {number}"
    try:
      record = file_io.parse_json(_NOT_FINITE.sub("null", line), place)
    except UserError:
      if number < len(lines):
        raise
      break  # the run was killed while it wrote the line, or is writing it
    scores = record.get("evaluation", record)
    if not isinstance(scores, dict):
      raise UserError(
        f"{place}: evaluation={text_files.format_value(scores)} is no object "
        "of scores."
      )
    is_evaluation = "evaluation" in record
    log_lines.append(LogLine(place, record, is_evaluation, scores))
  return log_lines


def read_curve(
  lines: list[LogLine], name: str, of_evaluations: bool
) -> list[tuple[int, float]]:
  """Returns (step, value) pairs of a score.

  Args:
    lines: Lines of the log.
    name: Name of the score.
    of_evaluations: Whether to take the lines about evaluations, or the others.

  Raises:
    UserError: The log is damaged.
  """
  curve = []
  for line in lines:
    # The loss is None if no step since the line before had a finite one.
    has_score = line.scores.get(name) is not None
    if has_score and line.is_evaluation == of_evaluations:
      curve.append((line.get_step(), line.get_score(name)))
  return curve


def _get_number(
  line: LogLine,
  entries: dict[str, Any],
  name: str,
  kinds: tuple[type, ...],
  largest: float,
) -> Any:
  """Returns a number of a line.

  Args:
    line: The line, for error messages.
    entries: Entries of the line, or of the evaluation in it.
    name: Name of the entry.
    kinds: Types that it may have.
    largest: Largest absolute value that it may have.

  Raises:
    UserError: There is no such number.
  """
  value: Any = entries.get(name)
  is_number = isinstance(value, kinds) and not isinstance(value, bool)
  if not is_number or not -largest <= value <= largest:
    raise UserError(
      f"{line.place}: {name}={text_files.format_value(value)} is no number "
      "that a training writes."
    )
  return value
