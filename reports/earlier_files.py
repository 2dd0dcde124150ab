"""Parts of the page made from files of results alone.

They are for runs that handed over no examples, such as those of earlier
versions of the programs.
"""

from __future__ import annotations

import csv
import os
import re
from typing import Any

import tensorflow as tf

from data import file_io
from errors import UserError
from reports import charts
from reports import page

_TABLE = re.compile(
  r"(confusion_matrix|worst_mistakes|test_predictions)(?:_(\w+))?\.tsv"
)
_N_BEST = "nbest_predictions.json"
_MISTAKE_COLUMNS = (
  "id",
  "place",
  "loss",
  "label",
  "prediction",
  "text_a",
  "text_b",
)
_MOST_ROWS = 200
_NUM_ANSWERS = 5


def make_parts(folder: str, known_splits: list[str]) -> list[page.Part]:
  """Returns parts about the splits that have no file of examples.

  Args:
    folder: Folder of the run.
    known_splits: Names of the splits that have one.

  Raises:
    UserError: A file is damaged.
  """
  parts = []
  for name in sorted(tf.io.gfile.listdir(folder)):
    match = _TABLE.fullmatch(name)
    if not match:
      continue
    kind, suffix = match.groups()
    split = "test" if kind == "test_predictions" else "dev"
    if (f"{split}_{suffix}" if suffix else split) not in known_splits:
      path = os.path.join(folder, name)
      rows = list(csv.reader(file_io.read_lines(path), delimiter="\t"))
      if len(rows) > 1:
        parts.append(_MAKERS[kind](name, rows, path))
  if tf.io.gfile.exists(os.path.join(folder, _N_BEST)):
    if not {"dev", "test"} & set(known_splits):
      parts.append(_list_answers(os.path.join(folder, _N_BEST)))
  return parts


def _draw_confusion(name: str, rows: list[list[str]], path: str) -> page.Part:
  """Returns the part about a confusion matrix."""
  (_, *columns), *table = rows
  shown = []
  for label, *texts in table:
    try:
      counts = [int(text) for text in texts]
    except ValueError:
      counts = []
    if len(counts) != len(columns):
      raise UserError(
        f"{path}: the row of {label!r} does not hold one count for each "
        "column. Run the evaluation again."
      )
    total = max(1, sum(counts))
    cells = [charts.Cell(str(count), count / total) for count in counts]
    shown.append((label, cells))
  content = {"map": charts.heat_map(name, "label", columns, shown)}
  return page.Part("Confusion matrix", "matrix.html", content)


def _list_mistakes(name: str, rows: list[list[str]], path: str) -> page.Part:
  """Returns the part about the worst mistakes."""
  header, *table = rows
  columns = [c for c in _MISTAKE_COLUMNS if c in header]
  places = [header.index(column) for column in columns]
  return _show_rows("Worst mistakes", name, columns, table, places, path)


def _list_predictions(name: str, rows: list[list[str]], path: str) -> page.Part:
  """Returns the part about predictions."""
  header, *table = rows
  places = list(range(len(header)))
  return _show_rows("Predictions", name, header, table, places, path)


def _show_rows(
  title: str,
  name: str,
  columns: list[str],
  rows: list[list[str]],
  places: list[int],
  path: str,
) -> page.Part:
  """Returns a part with the first rows of a file."""
  shown = []
  for row in rows[:_MOST_ROWS]:
    if len(row) <= max(places, default=0):
      raise UserError(
        f"{path}: a row has {len(row)} columns, which are too few. Run the "
        "program again."
      )
    shown.append([row[place] for place in places])
  note = f"{name}: the first {len(shown)} of {len(rows)} rows."
  content = {"note": note, "tables": [page.table(columns, shown)]}
  return page.Part(title, "rows.html", content)


def _list_answers(path: str) -> page.Part:
  """Returns the part about the best answers of each question."""
  answers = file_io.read_json(path)
  rows: list[list[Any]] = []
  for key, candidates in list(answers.items())[:_MOST_ROWS]:
    try:
      texts = [
        f"{candidate['text'] or 'no answer'} ({candidate['probability']:.1%})"
        for candidate in candidates[:_NUM_ANSWERS]
      ]
    except (KeyError, TypeError, ValueError) as error:
      raise UserError(
        f"{path}: {key!r} has no list of answers with probabilities. Run the "
        "prediction again."
      ) from error
    rows.append([key, " · ".join(texts)])
  note = f"{_N_BEST}: the first {len(rows)} of {len(answers)} questions."
  content = {
    "note": note,
    "tables": [page.table(["question", "best answers"], rows)],
  }
  return page.Part("Answers", "rows.html", content)


_MAKERS = {
  "confusion_matrix": _draw_confusion,
  "worst_mistakes": _list_mistakes,
  "test_predictions": _list_predictions,
}
