"""Draws the loss curves of one or several runs to a PNG file.

    python plot_training.py --runs=/tmp/pretraining,/tmp/mrpc \\
        --output_file=loss.png

A run is the --output_dir of a training; the curve is in its
training_log.jsonl.
"""

import launch  # First: from here on a signal ends the program quietly.

import json
import os

from absl import flags
from absl import logging
import tensorflow as tf

from data import file_io
from errors import UserError

FLAGS = flags.FLAGS


def define_flags() -> None:
  """Defines the flags of this program."""
  flags.DEFINE_list("runs", None, "Folders of runs.", required=True)
  flags.DEFINE_bool("together", False, "Draw all runs into one diagram.")
  flags.DEFINE_string("loss", "loss", "What to draw: loss, or a part of it "
                      "that the logs have, such as masked_lm_loss.")
  flags.DEFINE_string("output_file", None, "PNG file to write.", required=True)


def read_log(run_dir: str, loss: str) -> tuple[list, list]:
  """Returns the (step, loss) pairs of training, and those of evaluations.

  Args:
    run_dir: the --output_dir of a training.
    loss: the name of the loss in the log.

  Raises:
    UserError: the folder holds no log, or a log without such a loss.
  """
  path = os.path.join(run_dir, "training_log.jsonl")
  if not tf.io.gfile.exists(path):
    raise UserError(f"{path} does not exist. --runs takes the --output_dir of "
                    "trainings.")
  training, evaluations = [], []
  for line in file_io.read_lines(path):
    try:
      record = json.loads(line)
    except json.JSONDecodeError:
      continue  # the last line of a run that was killed while it wrote it
    scores = record.get("evaluation", record)
    # Not there if no step since the last line had a finite loss.
    if scores.get(loss) is not None:
      (evaluations if "evaluation" in record else training).append(
          (record["step"], scores[loss]))
  if not training:
    raise UserError(f"No line of {path} has --loss={loss}.")
  return training, evaluations


def main(_):
  # Slow to import, and only needed here.
  from matplotlib import figure  # pylint: disable=g-import-not-at-top
  curves = {run: read_log(run, FLAGS.loss) for run in FLAGS.runs}
  # A Figure without pyplot needs no display.
  num_axes = 1 if FLAGS.together else len(curves)
  picture = figure.Figure(figsize=(4.5 * num_axes, 3.5), layout="constrained")
  axes = picture.subplots(1, num_axes, squeeze=False)[0]
  for number, (run, (training, evaluations)) in enumerate(curves.items()):
    axis = axes[number % num_axes]
    name = os.path.basename(os.path.normpath(run))
    line, = axis.plot(*zip(*training), label=name)
    if evaluations:
      axis.plot(*zip(*evaluations), "o--", color=line.get_color(),
                label=f"{name}, evaluation")
    axis.set(xlabel="step", ylabel=FLAGS.loss, ylim=(0, None))
    axis.legend()
  for axis in axes:
    axis.grid(alpha=0.3)
  with file_io.whole_file(FLAGS.output_file) as temporary:
    with tf.io.gfile.GFile(temporary, "wb") as writer:
      picture.savefig(writer, format="png", dpi=120)
  logging.info("%s shows %d runs.", FLAGS.output_file, len(curves))


if __name__ == "__main__":
  define_flags()
  launch.run(main)
