"""Draws the loss curves of one or several runs to a PNG file.

    python plot_training.py --runs=/tmp/pretraining,/tmp/mrpc \\
        --output_file=loss.png

A run is the --output_dir of a training; the curve is in its
training_log.jsonl.
"""

import json
import os

from absl import flags
from absl import logging
import tensorflow as tf

import common_flags
import input_pipeline

FLAGS = flags.FLAGS


def define_flags() -> None:
  """Defines the flags of this program."""
  flags.DEFINE_list("runs", None, "Folders of runs.", required=True)
  flags.DEFINE_string("output_file", None, "PNG file to write.", required=True)


def read_log(run_dir: str) -> tuple[list[int], list[float]]:
  """Returns the steps of a run and its losses.

  After an interruption a run repeats the steps that it had not saved; what it
  wrote last counts.

  Raises:
    ValueError: the folder holds no log.
  """
  path = os.path.join(run_dir, "training_log.jsonl")
  if not tf.io.gfile.exists(path):
    raise ValueError(f"{path} does not exist. --runs takes the --output_dir of "
                     "trainings.")
  steps, losses = [], []
  for line in input_pipeline.read_lines(path):
    try:
      record = json.loads(line)
    except json.JSONDecodeError:
      continue  # the last line of a run that was killed while it wrote it
    while steps and steps[-1] >= record["step"]:
      steps.pop()
      losses.pop()
    steps.append(record["step"])
    losses.append(record["loss"])
  return steps, losses


def main(_):
  # Slow to import, and only needed here.
  from matplotlib import figure  # pylint: disable=g-import-not-at-top
  curves = {run: read_log(run) for run in FLAGS.runs}
  # A Figure without pyplot needs no display.
  picture = figure.Figure(figsize=(4.5 * len(curves), 3.5),
                          layout="constrained")
  axes = picture.subplots(1, len(curves), squeeze=False)[0]
  for axis, (run, (steps, losses)) in zip(axes, curves.items()):
    axis.plot(steps, losses)
    axis.set(title=os.path.basename(os.path.normpath(run)), xlabel="step",
             ylabel="loss", ylim=(0, None))
    axis.grid(alpha=0.3)
  with input_pipeline.whole_file(FLAGS.output_file) as temporary:
    with tf.io.gfile.GFile(temporary, "wb") as writer:
      picture.savefig(writer, format="png", dpi=120)
  logging.info("%s shows %d runs.", FLAGS.output_file, len(curves))


if __name__ == "__main__":
  define_flags()
  common_flags.run(main)
