"""Draws the loss curves of runs as a picture, for papers and slides."""

from __future__ import annotations

from collections.abc import Sequence
import io
import os
from typing import Any, NamedTuple

import tensorflow as tf

from errors import UserError
from reports import run_log


class Curves(NamedTuple):
  """Curves of a run.

  Attributes:
    training: (step, loss) pairs of the training.
    evaluation: (step, loss) pairs of the evaluations during training.
  """

  training: list[tuple[int, float]]
  evaluation: list[tuple[int, float]]


def read_curves(run_dir: str, loss: str) -> Curves:
  """Returns the curves of a run.

  Args:
    run_dir: The --output_dir of a training.
    loss: Name of the loss in the log.

  Raises:
    UserError: The folder holds no log, a log without this loss, or a damaged
      log.
  """
  path = run_log.log_file(run_dir)
  if not tf.io.gfile.exists(path):
    raise UserError(
      f"--run: {path} does not exist. A picture shows the curves of trainings: "
      "pass the --output_dir of each."
    )
  lines = run_log.read_lines(path)
  curves = Curves(
    run_log.read_curve(lines, loss, of_evaluations=False),
    run_log.read_curve(lines, loss, of_evaluations=True),
  )
  if not curves.training:
    raise UserError(f"No line of {path} has --loss={loss}.")
  return curves


def make_picture(folders: Sequence[str], loss: str, together: bool) -> bytes:
  """Returns a PNG file with the curves of runs.

  Args:
    folders: The --output_dir of each run.
    loss: Name of the loss in the logs.
    together: Whether all runs share one plot.

  Raises:
    UserError: A log is missing or damaged, or has no such loss.
  """
  curves_by_run = {folder: read_curves(folder, loss) for folder in folders}
  picture = _draw(curves_by_run, loss, together)
  file = io.BytesIO()
  picture.savefig(file, format="png", dpi=120)
  return file.getvalue()


def _draw(curves_by_run: dict[str, Curves], loss: str, together: bool) -> Any:
  """Returns a figure with the curves of runs.

  Args:
    curves_by_run: Folder of a run -> its curves.
    loss: Name of the loss, for the axis.
    together: Whether all runs share one plot.
  """
  # Slow to import, and only needed here. A Figure without pyplot needs no
  # display.
  from matplotlib import figure  # pylint: disable=g-import-not-at-top

  num_axes = 1 if together else len(curves_by_run)
  picture = figure.Figure(figsize=(4.5 * num_axes, 3.5), layout="constrained")
  axes = picture.subplots(1, num_axes, squeeze=False)[0]
  for number, (run, curves) in enumerate(curves_by_run.items()):
    axis = axes[number % num_axes]
    name = _escape(os.path.basename(os.path.normpath(run)))
    (line,) = axis.plot(*zip(*curves.training), label=name)
    if curves.evaluation:
      axis.plot(
        *zip(*curves.evaluation),
        "o--",
        color=line.get_color(),
        label=f"{name}, evaluation",
      )
    axis.set(xlabel="step", ylabel=_escape(loss), ylim=(0, None))
    axis.legend()
  for axis in axes:
    axis.grid(alpha=0.3)
  return picture


def _escape(text: str) -> str:
  """Returns text that matplotlib shows unchanged."""
  encodable = text.encode("utf-8", "replace").decode()
  return encodable.replace("$", r"\$")
