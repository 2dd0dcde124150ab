"""Parts of the page about a grid of runs on the tasks of GLUE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import os
import statistics
from typing import Any
import urllib.parse

import tensorflow as tf

from errors import UserError
from reports import charts
from reports import page
from tasks import glue

FILE = "results.json"


def make_part(folder: str, summary: Mapping[str, Any]) -> page.Part:
  """Returns the part with the table of scores and the grid of each task.

  Args:
    folder: The --output_dir of run_glue.py.
    summary: Content of its results.json.

  Raises:
    UserError: The file is damaged.
  """
  try:
    table = _make_table(summary)
    tasks = [
      _describe_task(folder, glue.TASKS[name], result)
      for name, result in summary["tasks"].items()
    ]
  except (KeyError, TypeError, ValueError, AttributeError) as error:
    raise UserError(
      f"{os.path.join(folder, FILE)} is damaged: {type(error).__name__} "
      f"{error}. The same command of run_glue.py writes it again."
    ) from error
  content = {
    "table": table,
    "note": f"{summary['num_tasks']} tasks. {glue.TABLE_NOTE}",
    "tasks": tasks,
  }
  return page.Part("Tasks of GLUE", "grid.html", content)


def _make_table(summary: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the table in the published layout, in percent."""
  headings, cells = ["Score"], [f"{100 * summary['score']:.1f}"]
  for _, column in glue.table_columns():
    scores = summary["columns"].get(column.heading, {})
    texts = []
    for score in scores.values():
      text = f"{100 * score['mean']:.1f}"
      if score["deviation"] is not None:
        text += f" ± {100 * score['deviation']:.1f}"
      texts.append(text)
    headings.append(column.heading)
    cells.append(" / ".join(texts) or "-")
  return page.table(headings, [cells], are_numbers=True)


def _describe_task(
  folder: str, task: glue.GlueTask, result: Mapping[str, Any]
) -> dict[str, Any]:
  """Returns the grid of a task as a heat map, and its seeds as points."""
  points = {
    (point["batch_size"], point["learning_rate"]): point["score"]
    for point in result["grid"]
  }
  batch_sizes = sorted({batch_size for batch_size, _ in points})
  rates = sorted({rate for _, rate in points})
  first_seed = result["seeds"][0]["seed"]
  low, high = min(points.values()), max(points.values())
  rows = []
  for batch_size in batch_sizes:
    cells = []
    for rate in rates:
      score = points.get((batch_size, rate))
      if score is None:
        cells.append(charts.Cell("-", 0.0))
        continue
      share = (score - low) / (high - low) if high > low else 1.0
      link = _find_page(folder, task, batch_size, rate, first_seed)
      cells.append(charts.Cell(f"{100 * score:.1f}", share, link=link))
    rows.append((str(batch_size), cells))
  grid = charts.heat_map(
    f"Scores on dev in percent, with seed {first_seed}.",
    "batch size / rate",
    [f"{rate:g}" for rate in rates],
    rows,
  )
  return {
    "name": task.folder,
    "grid": grid,
    "chart": _draw_seeds(task, result["seeds"]),
    "links": _list_seeds(folder, task, result),
  }


def _draw_seeds(
  task: glue.GlueTask, runs: Sequence[Mapping[str, Any]]
) -> dict[str, Any] | None:
  """Returns a chart of the scores of the best setting with each seed."""
  curves = []
  for metric in task.main_metrics:
    pairs = [(run["seed"], run["scores"][f"eval_{metric}"]) for run in runs]
    curves.append(
      charts.Curve(metric, sorted(pairs), is_line=False, has_dots=True)
    )
  return charts.line_chart("Seeds of the best setting", "seed", curves)


def _list_seeds(
  folder: str, task: glue.GlueTask, result: Mapping[str, Any]
) -> list[dict[str, Any]]:
  """Returns score and page of each seed of the best setting."""
  links = []
  for run in result["seeds"]:
    scores = [run["scores"][f"eval_{metric}"] for metric in task.main_metrics]
    links.append(
      {
        "text": f"seed {run['seed']}: {100 * statistics.mean(scores):.1f}",
        "link": _find_page(
          folder,
          task,
          result["batch_size"],
          result["learning_rate"],
          run["seed"],
        ),
      }
    )
  return links


def _find_page(
  folder: str, task: glue.GlueTask, batch_size: int, rate: float, seed: int
) -> str | None:
  """Returns the address of the page of a run, or None without one."""
  name = f"batch{batch_size}_rate{rate:g}_seed{seed}"
  path = os.path.join(task.folder, name, "report.html")
  if not tf.io.gfile.exists(os.path.join(folder, path)):
    return None
  return urllib.parse.quote(path)
