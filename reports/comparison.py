"""Makes a page of several runs next to each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import os
import shlex
from typing import Any

import tensorflow as tf

from errors import UserError
from reports import charts
from reports import overview
from reports import page
from reports import run_files
from reports import run_log

_MOST_NAME_PARTS = 6


def make_page(folders: Sequence[str]) -> str:
  """Returns the HTML of a page of several runs.

  Raises:
    UserError: A folder holds no run, or a file of it is damaged.
  """
  for folder in folders:
    if not tf.io.gfile.isdir(folder):
      raise UserError(f"--run: {folder} is no folder. Pass output folders.")
  names = _name_runs(folders)
  results = [run_files.read_results(folder) for folder in folders]
  logs = [_read_log(folder) for folder in folders]
  for folder, result, log in zip(folders, results, logs):
    if not (result or log):
      raise UserError(
        f"--run: {folder} holds neither scores nor a log of a training. Pass "
        "the --output_dir of a run."
      )
  flags = [_read_flags(folder) for folder in folders]
  parts = [
    page.Part(
      "Scores", "tables.html", {"tables": _compare_results(names, results)}
    ),
    page.Part("Training", "curves.html", {"charts": _draw(names, logs)}),
    page.Part(
      "Flags in which they differ",
      "tables.html",
      {"tables": [_compare_flags(names, flags)]},
    ),
  ]
  facts = _compare_facts(names, folders, logs)
  if facts["rows"]:
    parts.insert(
      1, page.Part("Model and time", "tables.html", {"tables": [facts]})
    )
  return page.render(" and ".join(names), f"{len(names)} runs", parts)


def _name_runs(folders: Sequence[str]) -> list[str]:
  """Returns the shortest ends of the paths that differ from each other."""
  paths = [os.path.abspath(folder).split(os.sep) for folder in folders]
  for length in range(1, _MOST_NAME_PARTS):
    names = ["/".join(path[-length:]) for path in paths]
    if len(set(names)) == len(names):
      return names
  return [f"{number}: {folder}" for number, folder in enumerate(folders, 1)]


def _read_log(folder: str) -> list[run_log.LogLine]:
  path = run_log.log_file(folder)
  return run_log.read_lines(path) if tf.io.gfile.exists(path) else []


def _read_flags(folder: str) -> dict[str, str]:
  """Returns the flags of a run: name -> value."""
  flags = {
    name: run_files.format_flag(name, value).partition("=")[2]
    for name, value in run_files.read_settings(folder).items()
    if value is not None
  }
  if flags:
    return flags
  for command in run_files.read_commands(folder):
    for argument in command.arguments:
      name, _, value = argument.removeprefix("--").partition("=")
      flags[name] = value
  return flags


def _compare_results(
  names: Sequence[str], results: Sequence[Mapping[str, Mapping[str, str]]]
) -> list[dict[str, Any]]:
  """Returns a table of scores for each file of results."""
  tables = []
  for file in sorted({file for result in results for file in result}):
    of_runs = [result.get(file, {}) for result in results]
    scores = dict.fromkeys(score for run in of_runs for score in run)
    rows = []
    for score in scores:
      texts = [run.get(score, "-") for run in of_runs]
      rows.append([score, *map(overview.format_score, texts)])
    tables.append(page.table([file, *names], rows, are_numbers=True))
  return tables


def _draw(
  names: Sequence[str], logs: Sequence[list[run_log.LogLine]]
) -> list[dict[str, Any]]:
  """Returns a chart with the curves of all runs for each kind of curve."""
  entries: dict[tuple[bool, str], None] = {}
  for log in logs:
    for line in log:
      for name in line.scores:
        if name not in ("step", "global_step", "evaluation"):
          entries[line.is_evaluation, name] = None
  drawn = []
  for is_evaluation, entry in entries:
    curves = []
    for name, log in zip(names, logs):
      points = run_log.read_curve(log, entry, is_evaluation)
      # A run without these points keeps its place, and so its color.
      curves.append(charts.Curve(name, points, has_dots=is_evaluation))
    title = f"{entry} of evaluations" if is_evaluation else entry
    chart = charts.line_chart(title, "step", curves)
    if chart:
      drawn.append(chart)
  return drawn


def _compare_facts(
  names: Sequence[str],
  folders: Sequence[str],
  logs: Sequence[list[run_log.LogLine]],
) -> dict[str, Any]:
  """Returns a table of the sizes of the models, and of the time they took."""
  of_runs: list[dict[str, Any]] = []
  for folder, log in zip(folders, logs):
    batch_size = run_files.read_settings(folder).get("train_batch_size")
    of_runs.append(
      dict(
        [
          *overview.list_sizes(run_files.read_model_config(folder)),
          *overview.summarize_time(log, batch_size),
        ]
      )
    )
  facts = dict.fromkeys(fact for run in of_runs for fact in run)
  rows = [[fact, *(run.get(fact, "-") for run in of_runs)] for fact in facts]
  return page.table(["", *names], rows, are_numbers=True)


def _compare_flags(
  names: Sequence[str], flags: Sequence[Mapping[str, str]]
) -> dict[str, Any]:
  """Returns a table of the flags whose values differ."""
  rows = []
  names_of_flags = {name for run in flags for name in run} - {"output_dir"}
  for name in sorted(names_of_flags):
    values = [run.get(name, "") for run in flags]
    if len(set(values)) > 1:
      rows.append([f"--{name}", *map(shlex.quote, values)])
  if not rows:
    rows.append(["none", *("" for _ in names)])
  return page.table(["flag", *names], rows)
