"""Draws the loss curves of one or several runs to a PNG file.

    python plot_training.py --runs=/tmp/pretraining,/tmp/mrpc \\
        --output_file=loss.png

A run is the --output_dir of a training; the curve is in its
training_log.jsonl.
"""

import launch  # First: from here on a signal ends the program quietly.

import os
import re

from absl import flags
from absl import logging
import tensorflow as tf

from data import file_io
from data import locks
from errors import UserError
from tasks import text_files

FLAGS = flags.FLAGS

# What Python writes for numbers that are not finite, in a place of JSON where
# there can be no number.
_NOT_FINITE = re.compile(r"(?<=: )(NaN|-?Infinity)(?=[,}])")
# Steps and losses are int64 and float32.
_LARGEST_STEP, _LARGEST_LOSS = 2**63 - 1, 3.5e38


def define_flags() -> None:
  """Defines the flags of this program."""
  flags.DEFINE_list("runs", None, "Folders of runs.", required=True)
  flags.DEFINE_bool("together", False, "Draw all runs into one diagram.")
  flags.DEFINE_string(
    "loss",
    "loss",
    "What to draw: loss, or a part of it "
    "that the logs have, such as masked_lm_loss.",
  )
  flags.DEFINE_string("output_file", None, "PNG file to write.", required=True)


def _log_file(run_dir: str) -> str:
  return os.path.join(run_dir, "training_log.jsonl")


def read_log(run_dir: str, loss: str) -> tuple[list, list]:
  """Returns the (step, loss) pairs of training, and those of evaluations.

  Args:
    run_dir: the --output_dir of a training.
    loss: the name of the loss in the log.

  Raises:
    UserError: the folder holds no log, a log without such a loss, or one that
      is damaged.
  """
  path = _log_file(run_dir)
  if not tf.io.gfile.exists(path):
    raise UserError(
      f"{path} does not exist. --runs takes the --output_dir of trainings."
    )
  training, evaluations = [], []
  lines = list(file_io.read_lines(path))
  for number, line in enumerate(lines, 1):
    place = f"{path}, line {number}"
    try:
      record = file_io.parse_json(_NOT_FINITE.sub("null", line), place)
    except UserError:
      if number < len(lines):
        raise
      break  # the run was killed while it wrote the line, or is writing it
    is_evaluation = "evaluation" in record
    scores = record["evaluation"] if is_evaluation else record
    if not isinstance(scores, dict):
      raise UserError(
        f"{place}: evaluation={text_files.format_value(scores)} is no "
        "object of scores."
      )
    # None if no step since the last line had a finite loss.
    if scores.get(loss) is not None:
      (evaluations if is_evaluation else training).append(
        (
          _number(record, "step", int, _LARGEST_STEP, place),
          _number(scores, loss, (int, float), _LARGEST_LOSS, place),
        )
      )
  if not training:
    raise UserError(f"No line of {path} has --loss={loss}.")
  return training, evaluations


def _number(record, name: str, kinds, largest: float, place: str):
  """Returns a number of a line."""
  value = record.get(name)
  if (
    isinstance(value, bool)
    or not isinstance(value, kinds)
    or (not -largest <= value <= largest)
  ):
    raise UserError(
      f"{place}: {name}={text_files.format_value(value)} is no number "
      "that a training writes."
    )
  return value


def _plain(text: str) -> str:
  """Returns text that matplotlib shows as it is."""
  return text.encode("utf-8", "replace").decode().replace("$", r"\$")


def main(_):
  # Slow to import, and only needed here.
  from matplotlib import figure  # pylint: disable=g-import-not-at-top

  if not FLAGS.runs:
    raise UserError("--runs names no folder.")
  file_io.check_not_inputs(
    {"--output_file": [FLAGS.output_file]},
    {"--runs": map(_log_file, FLAGS.runs)},
  )
  curves = {run: read_log(run, FLAGS.loss) for run in FLAGS.runs}
  # A Figure without pyplot needs no display.
  num_axes = 1 if FLAGS.together else len(curves)
  picture = figure.Figure(figsize=(4.5 * num_axes, 3.5), layout="constrained")
  axes = picture.subplots(1, num_axes, squeeze=False)[0]
  for number, (run, (training, evaluations)) in enumerate(curves.items()):
    axis = axes[number % num_axes]
    name = _plain(os.path.basename(os.path.normpath(run)))
    (line,) = axis.plot(*zip(*training), label=name)
    if evaluations:
      axis.plot(
        *zip(*evaluations),
        "o--",
        color=line.get_color(),
        label=f"{name}, evaluation",
      )
    axis.set(xlabel="step", ylabel=_plain(FLAGS.loss), ylim=(0, None))
    axis.legend()
  for axis in axes:
    axis.grid(alpha=0.3)
  with locks.Lock(
    f"{FLAGS.output_file}.lock", f"--output_file={FLAGS.output_file}"
  ):
    file_io.remove_leftovers(os.path.dirname(FLAGS.output_file) or ".")
    with file_io.atomic_file(FLAGS.output_file) as temporary:
      with tf.io.gfile.GFile(temporary, "wb") as writer:
        picture.savefig(writer, format="png", dpi=120)
  logging.info("%s shows %d runs.", FLAGS.output_file, len(curves))


if __name__ == "__main__":
  define_flags()
  launch.run(main)
