"""Makes `report.html`, the page of a run, from the files in its folder."""

from __future__ import annotations

from collections.abc import Callable
import os
from typing import NamedTuple

import tensorflow as tf

from errors import UserError
from reports import choice_report
from reports import classification_report
from reports import earlier_files
from reports import example_files
from reports import grid_report
from reports import mask_report
from reports import overview
from reports import page
from reports import question_report
from reports import run_files
from reports import run_log
from reports import tagging_report

FILE = "report.html"
MOST_BYTES = 2_000_000
# Bytes for examples, from which the first is taken that fits.
_BUDGETS = (1_900_000, 1_300_000, 700_000, 200_000, 0)


class _ExampleKind(NamedTuple):
  """The functions that show examples of a kind.

  Attributes:
    make_part: Function (content, budget) -> part of the page.
    compute_intervals: Function (content) -> score -> its interval as text.
  """

  make_part: Callable[[example_files.ExampleFile, int], page.Part]
  compute_intervals: Callable[[example_files.ExampleFile], dict[str, str]]


_KINDS = {
  kind: _ExampleKind(module.make_part, module.compute_intervals)
  for module in (
    classification_report,
    tagging_report,
    question_report,
    choice_report,
  )
  for kind in module.KINDS
}


def write(folder: str) -> str:
  """Writes the page of a run, and returns its path.

  Raises:
    UserError: The folder holds no run, or a file of it is damaged.
  """
  path = os.path.join(folder, FILE)
  page.write(path, make_page(folder))
  return path


def make_page(folder: str) -> str:
  """Returns the HTML of the page of a run, of at most `MOST_BYTES`.

  Raises:
    UserError: The folder holds no run, or a file of it is damaged.
  """
  if not tf.io.gfile.isdir(folder):
    raise UserError(f"--run={folder} is no folder. Pass an --output_dir.")
  commands = run_files.read_commands(folder)
  results = run_files.read_results(folder)
  contents = _read_examples(folder)
  log_file = run_log.log_file(folder)
  has_log = tf.io.gfile.exists(log_file)
  log = run_log.read_lines(log_file) if has_log else []
  grid = run_files.read_optional_json(folder, grid_report.FILE)
  earlier = earlier_files.make_parts(folder, [c.split for c in contents])
  masks = mask_report.make_part(folder)
  if not any((commands, log, results, contents, grid, earlier, masks)):
    raise UserError(
      f"--run={folder} holds neither scores nor a log of a training. Pass the "
      "--output_dir of a run."
    )
  first = [
    grid_report.make_part(folder, grid) if grid else None,
    _make_scores_part(results, contents, commands, log),
    masks,
  ]
  last = [*earlier, *_make_last_parts(folder, commands, log)]
  name = os.path.basename(os.path.abspath(folder))
  for budget in _BUDGETS:
    share = budget // max(1, len(contents))
    parts = [_KINDS[c.kind].make_part(c, share) for c in contents]
    text = page.render(
      name,
      _describe(commands, results),
      [part for part in (*first, *parts, *last) if part],
    )
    if len(text.encode("utf-8", "replace")) <= MOST_BYTES:
      break
  return text


def _make_scores_part(results, contents, commands, log) -> page.Part | None:
  """Returns the part with the scores and their intervals."""
  intervals: dict[str, dict[str, str]] = {}
  for content in contents:
    known = _KINDS[content.kind].compute_intervals(content)
    intervals.setdefault(_result_file(content.split), {}).update(known)
  return overview.make_scores_part(results, intervals, commands, log)


def _make_last_parts(folder: str, commands, log) -> list[page.Part | None]:
  """Returns the parts about the training, its data and the commands."""
  settings = run_files.read_settings(folder)
  return [
    overview.make_curves_part(log),
    overview.make_data_part(
      folder,
      run_files.read_model_config(folder),
      run_files.summarize_splits(folder),
      log,
      settings.get("train_batch_size"),
    ),
    overview.make_commands_part(commands, settings),
  ]


def _read_examples(folder: str) -> list[example_files.ExampleFile]:
  """Returns the examples of all splits, those of dev first."""
  contents = []
  for split in example_files.find_splits(folder):
    content = example_files.read(folder, split)
    if content.kind not in _KINDS:
      raise UserError(
        f"{folder}: report_{split}.jsonl is of the kind {content.kind!r}, "
        f"which is none of {', '.join(_KINDS)}."
      )
    if content.rows:
      contents.append(content)
  return contents


def _result_file(split: str) -> str:
  """Returns the name of the file with the scores of a split."""
  kind, _, rest = split.partition("_")
  suffix = f"_{rest}" if rest else ""
  return f"test_scores{suffix}.txt" if kind == "test" else "eval_results.txt"


def _describe(commands, results) -> str:
  """Returns the line below the title."""
  programs = list(dict.fromkeys(command.program for command in commands))
  words = [", ".join(programs)] if programs else []
  step = results.get("eval_results.txt", {}).get("global_step")
  if step:
    words.append(f"step {step}")
  return " · ".join(words)
