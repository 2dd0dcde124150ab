"""What a classifier predicted, in files that people and servers read."""

from collections.abc import Sequence
import csv
import os

import numpy as np
import tensorflow as tf

from data import file_io
from tasks import classification
from tasks import glue
from tasks import metrics

_NUM_MISTAKES = 100


def _write_table(path: str, rows) -> None:
  """Writes rows of fields, tab-separated; a field with a tab is quoted."""
  with file_io.atomic_file(path) as temporary:
    with tf.io.gfile.GFile(temporary, "w") as file:
      csv.writer(file, delimiter="\t", lineterminator="\n").writerows(rows)


def _shown(prediction) -> str:
  """Returns a prediction or a label, as an example has it, as one field."""
  if isinstance(prediction, (tuple, list)):
    return ",".join(prediction)
  if isinstance(prediction, float):
    return f"{prediction:.6g}"
  return prediction


def write_predictions(
  output_dir: str,
  suffix: str,
  examples: Sequence[classification.Example],
  labels: Sequence[str],
  predictions: Sequence,
  probabilities: np.ndarray,
) -> None:
  """Writes `test_results.tsv` and `test_predictions.tsv`.

  The first has the probabilities alone, a row an example, as it always did; the
  second ids, predictions by name, and probabilities, under a header.

  Args:
    output_dir: their folder.
    suffix: of their names, before the ending.
    examples: what was predicted.
    labels: all there are; none for regression.
    predictions: a label, a list of labels, or a number for each example.
    probabilities: float [num_examples, num_labels], for regression [n, 1].
  """
  _write_table(
    os.path.join(output_dir, f"test_results{suffix}.tsv"),
    probabilities.tolist(),
  )
  rows = [["id", "prediction", *labels]]
  for example, prediction, row in zip(examples, predictions, probabilities):
    rows.append(
      [
        example.id,
        _shown(prediction),
        *(f"{probability:.6f}" for probability in row[: len(labels)]),
      ]
    )
  _write_table(os.path.join(output_dir, f"test_predictions{suffix}.tsv"), rows)


def write_submission(
  output_dir: str,
  task: classification.ClassificationTask,
  split: str,
  examples: Sequence[classification.Example],
  predictions: Sequence,
) -> None:
  """Writes the file that the server of GLUE takes for a split, if it does."""
  if split in task.submissions:
    _write_table(
      os.path.join(output_dir, "submission", task.submissions[split]),
      [
        ["index", "prediction"],
        *(
          [example.id, glue.submission_value(task, prediction)]
          for example, prediction in zip(examples, predictions)
        ),
      ],
    )


def write_mistakes(
  output_dir: str,
  suffix: str,
  examples: Sequence[classification.Example],
  predictions: Sequence,
  losses: np.ndarray,
) -> None:
  """Writes `worst_mistakes.tsv`: what was predicted wrong, the worst first.

  Args:
    output_dir: its folder.
    suffix: of its name, before the ending.
    examples: with their labels.
    predictions: by name.
    losses: of the examples.
  """
  rows = [["id", "place", "loss", "label", "prediction", "text_a", "text_b"]]
  for number in np.argsort(-losses, kind="stable"):
    example, prediction = examples[number], predictions[number]
    if isinstance(prediction, list):
      is_right = set(prediction) == set(example.label)
    else:
      is_right = prediction == example.label
    if not is_right:
      rows.append(
        [
          example.id,
          example.place,
          f"{losses[number]:.4f}",
          _shown(example.label),
          _shown(prediction),
          example.text_a,
          example.text_b or "",
        ]
      )
    if len(rows) > _NUM_MISTAKES:
      break
  _write_table(os.path.join(output_dir, f"worst_mistakes{suffix}.tsv"), rows)


def write_confusion(
  output_dir: str,
  suffix: str,
  labels: Sequence[str],
  targets: np.ndarray,
  decisions: np.ndarray,
) -> None:
  """Writes `confusion_matrix.tsv`.

  A row a label, a column a prediction; where examples have any number of
  labels, a row a label, with its true and false positives and negatives.

  Args:
    output_dir: its folder.
    suffix: of its name, before the ending.
    labels: all there are.
    targets: see `ClassificationTask.targets`.
    decisions: likewise.
  """
  if targets.ndim == 1:
    table = metrics.confusion_matrix(targets, decisions, len(labels))
    header = ["label", *(f"predicted {label}" for label in labels)]
  else:
    targets, decisions = targets > 0, decisions > 0
    table = np.stack(
      [
        (targets & decisions).sum(axis=0),
        (~targets & decisions).sum(axis=0),
        (targets & ~decisions).sum(axis=0),
        (~targets & ~decisions).sum(axis=0),
      ],
      axis=1,
    )
    header = [
      "label",
      "true positives",
      "false positives",
      "false negatives",
      "true negatives",
    ]
  _write_table(
    os.path.join(output_dir, f"confusion_matrix{suffix}.tsv"),
    [header, *([label, *row] for label, row in zip(labels, table.tolist()))],
  )
