"""Draws the loss curves of one or several runs to a PNG file.

    python plot_training.py --runs=/tmp/pretraining,/tmp/mrpc \\
        --output_file=loss.png

A run is the --output_dir of a training. The curve comes from its
training_log.jsonl.
"""

from __future__ import annotations

import launch  # First: from here on a signal ends the program quietly.

import os
from typing import Any, NamedTuple

from absl import flags
from absl import logging
import tensorflow as tf

from command_line import flag_help
from command_line import input_paths
from data import file_io
from data import locks
from errors import UserError
from reports import run_log

FLAGS = flags.FLAGS


@flag_help.group("Plots")
def define_flags() -> None:
  """Defines the flags of this program."""
  flags.DEFINE_list("runs", None, "Folders of runs.", required=True)
  input_paths.mark("runs", input_paths.check_files)
  flags.DEFINE_bool("together", False, "Whether to draw all runs in one plot.")
  flags.DEFINE_string(
    "loss",
    "loss",
    "Curve to draw: loss, or a part of it that the logs have, such as "
    "masked_lm_loss.",
  )
  flags.DEFINE_string("output_file", None, "PNG file to write.", required=True)


class Curves(NamedTuple):
  """Curves of a run.

  Attributes:
    training: (step, loss) pairs of the training.
    evaluation: (step, loss) pairs of the evaluations during training.
  """

  training: list[tuple[int, float]]
  evaluation: list[tuple[int, float]]


def read_log(run_dir: str, loss: str) -> Curves:
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
      f"{path} does not exist. --runs takes the --output_dir of trainings."
    )
  lines = run_log.read_lines(path)
  curves = Curves(
    run_log.read_curve(lines, loss, of_evaluations=False),
    run_log.read_curve(lines, loss, of_evaluations=True),
  )
  if not curves.training:
    raise UserError(f"No line of {path} has --loss={loss}.")
  return curves


def _escape(text: str) -> str:
  """Returns text that matplotlib shows unchanged."""
  encodable = text.encode("utf-8", "replace").decode()
  return encodable.replace("$", r"\$")


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


def main(_):
  if not FLAGS.runs:
    raise UserError("--runs names no folder.")
  file_io.check_not_inputs(
    {"--output_file": [FLAGS.output_file]},
    {"--runs": map(run_log.log_file, FLAGS.runs)},
  )
  curves_by_run = {run: read_log(run, FLAGS.loss) for run in FLAGS.runs}
  picture = _draw(curves_by_run, FLAGS.loss, FLAGS.together)
  with locks.Lock(
    f"{FLAGS.output_file}.lock", f"--output_file={FLAGS.output_file}"
  ):
    file_io.remove_leftovers(os.path.dirname(FLAGS.output_file) or ".")
    with file_io.atomic_file(FLAGS.output_file) as temporary:
      with tf.io.gfile.GFile(temporary, "wb") as writer:
        picture.savefig(writer, format="png", dpi=120)
  logging.info("%s shows %d runs.", FLAGS.output_file, len(curves_by_run))


if __name__ == "__main__":
  define_flags()
  launch.run(main)
