"""Parts of the page that all runs have: scores, curves, data, commands."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
import shlex
import statistics
from typing import Any

import tensorflow as tf

from reports import charts
from reports import page
from reports import run_files
from reports import run_log
from tasks import classifier_config

# Shown in this order; other entries of the log are losses.
_SPEED = "examples_per_second"
_OTHER_ENTRIES = {
  "step",
  "learning_rate",
  "gradient_norm",
  _SPEED,
  "tokens_per_second",
  "model_flops_per_second",
  "model_flop_utilisation",
  "loss_scale",
  "skipped_steps",
}
_MODEL_FIELDS = (
  "num_hidden_layers",
  "hidden_size",
  "num_attention_heads",
  "intermediate_size",
  "vocab_size",
  "max_position_embeddings",
)


def make_scores_part(
  results: Mapping[str, Mapping[str, str]],
  intervals: Mapping[str, Mapping[str, str]],
  commands: Sequence[run_files.Command],
  log: Sequence[run_log.LogLine],
) -> page.Part | None:
  """Returns the part with scores and warnings, or None if there are none.

  Args:
    results: See `run_files.read_results`.
    intervals: File of results -> score -> its interval, where it is known.
    commands: Commands of the run, with their warnings.
    log: Lines of the log, in which steps may be skipped.
  """
  tables = []
  for file, scores in results.items():
    known = intervals.get(file, {})
    columns = ["score", file]
    rows = [[name, format_score(text)] for name, text in scores.items()]
    if known:
      columns.append("95 % interval")
      rows = [[*row, known.get(row[0], "")] for row in rows]
    tables.append(page.table(columns, rows, are_numbers=True))
  warnings = [warning for command in commands for warning in command.warnings]
  skipped = [line.record.get("skipped_steps") for line in log]
  counts = [count for count in skipped if isinstance(count, int)]
  if counts:
    warnings.append(
      f"{counts[-1]} steps were skipped, because they were not finite."
    )
  if not (tables or warnings):
    return None
  content = {
    "tables": tables,
    "warnings": list(dict.fromkeys(warnings)),
    "has_intervals": any(intervals.values()),
  }
  return page.Part("Scores", "scores.html", content)


def format_score(text: str) -> str:
  """Returns a score of a file of results with at most five digits."""
  try:
    return text if text.isdigit() else f"{float(text):.5g}"
  except ValueError:
    return text


def make_curves_part(log: list[run_log.LogLine]) -> page.Part | None:
  """Returns the part with the curves of a training, or None without a log."""
  if not log:
    return None

  def read(name, of_evaluations=False):
    return run_log.read_curve(log, name, of_evaluations)

  drawn = [
    charts.line_chart(
      "Loss",
      "step",
      [
        charts.Curve("training", read("loss")),
        charts.Curve("evaluation", _read_evaluation_loss(log), has_dots=True),
      ],
      from_zero=True,
    )
  ]
  entries = {name for line in log for name in line.scores}
  of_training = {
    name for line in log if not line.is_evaluation for name in line.scores
  }
  parts = sorted(of_training - _OTHER_ENTRIES - {"loss"})
  if parts:
    curves = []
    for name in parts:
      curves.append(charts.Curve(name, read(name)))
      points = read(name, of_evaluations=True)
      curves.append(charts.Curve(f"{name}, evaluation", points, has_dots=True))
    drawn.append(charts.line_chart("Parts of the loss", "step", curves, True))
  scores = []
  for name in sorted(entries - of_training - {"global_step"}):
    if "loss" not in name:
      points = read(name, of_evaluations=True)
      scores.append(charts.Curve(name, points, has_dots=True))
  drawn.append(charts.line_chart("Scores of evaluations", "step", scores))
  for title, name in [
    ("Learning rate", "learning_rate"),
    ("Gradient norm", "gradient_norm"),
    ("Examples per second", _SPEED),
    ("Tokens per second", "tokens_per_second"),
  ]:
    curve = charts.Curve(name, read(name))
    drawn.append(charts.line_chart(title, "step", [curve], from_zero=True))
  content = {"charts": [chart for chart in drawn if chart]}
  return page.Part("Training", "curves.html", content)


def _read_evaluation_loss(
  log: list[run_log.LogLine],
) -> list[tuple[int, float]]:
  """Returns the curve of the loss of evaluations, whose name depends."""
  for name in ("eval_loss", "loss"):
    curve = run_log.read_curve(log, name, of_evaluations=True)
    if curve:
      return curve
  return []


def make_data_part(
  folder: str,
  model_config: Mapping[str, Any],
  splits: Sequence[run_files.SplitSummary],
  log: list[run_log.LogLine],
  batch_size: Any,
) -> page.Part | None:
  """Returns the part about the model, the data and the time, or None.

  Args:
    folder: Folder of the run.
    model_config: Config of the model; empty if it is not known.
    splits: Its files of records.
    log: Lines of its log.
    batch_size: Examples per step, or None.
  """
  tables = []
  fields = list_sizes(model_config)
  if fields:
    tables.append(page.table(["model", "value"], fields))
  if splits:
    rows = []
    for split in splits:
      lengths = split.lengths or [0]
      rows.append(
        (
          split.name,
          split.num_records,
          min(lengths),
          round(statistics.median(lengths)),
          max(lengths),
          "-" if split.num_too_long is None else split.num_too_long,
        )
      )
    columns = ["records", "number", "shortest", "median", "longest, in tokens"]
    columns.append("too long")
    tables.append(page.table(columns, rows))
  tables += _count_labels(folder, splits)
  times = summarize_time(log, batch_size)
  if times:
    tables.append(page.table(["training", "value"], times, are_numbers=True))
  if not tables:
    return None
  content = {
    "tables": tables,
    "is_sampled": any(split.is_sampled for split in splits),
    "has_lengths": any(s.num_too_long is not None for s in splits),
  }
  return page.Part("Model, data and time", "data.html", content)


def _count_labels(
  folder: str, splits: Sequence[run_files.SplitSummary]
) -> list[dict[str, Any]]:
  """Returns a table of how often each label occurs, in a list, or []."""
  classifier = classifier_config.ClassifierConfig.read(folder)
  labelled = [s for s in splits if s.label_ids and s.name != "test"]
  if not classifier or not classifier.labels or not labelled:
    return []
  counts = [collections.Counter(split.label_ids) for split in labelled]
  rows = []
  for number, label in enumerate(classifier.labels):
    rows.append((label, *(count[number] for count in counts)))
  return [page.table(["label", *(split.name for split in labelled)], rows)]


def list_sizes(model_config: Mapping[str, Any]) -> list[tuple[str, Any]]:
  """Returns the sizes in the config of a model, if they are known."""
  names = [name for name in _MODEL_FIELDS if name in model_config]
  return [(name, model_config[name]) for name in names]


def summarize_time(
  log: list[run_log.LogLine], batch_size: Any
) -> list[tuple[str, str]]:
  """Returns the number of steps, and the time that they took."""
  steps = [line.get_step() for line in log if not line.is_evaluation]
  speeds = run_log.read_curve(log, _SPEED, of_evaluations=False)
  if not steps or not speeds:
    return []
  rows = [("steps", str(steps[-1]))]
  values = sorted(speed for _, speed in speeds)
  rows.append(
    ("examples per second", charts.format_number(statistics.median(values)))
  )
  if isinstance(batch_size, int):
    seconds, before = 0.0, 0
    for step, speed in speeds:
      seconds += (step - before) * batch_size / max(speed, 1e-9)
      before = step
    rows.append(("time of training", format_seconds(seconds)))
  return rows


def format_seconds(seconds: float) -> str:
  """Returns a time for readers."""
  minutes, rest = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return (
    f"{hours} h {minutes} min {rest} s"
    if hours
    else (f"{minutes} min {rest} s" if minutes else f"{seconds:.3g} s")
  )


def make_commands_part(
  commands: Sequence[run_files.Command], settings: Mapping[str, Any]
) -> page.Part:
  """Returns the part with the commands that reproduce the run.

  Args:
    commands: Commands, if they are known.
    settings: All flags of the training, if they are known.
  """
  shown = []
  for command in commands:
    words = ["python", command.program, *command.arguments]
    time = format_seconds(command.seconds) if command.seconds else ""
    shown.append({"text": shlex.join(words), "time": time})
  flags = [
    run_files.format_flag(name, value)
    for name, value in sorted(settings.items())
    if value is not None
  ]
  content = {
    "commands": shown,
    "flags": flags,
    "tensorflow": tf.__version__,
  }
  return page.Part("Command", "commands.html", content)
