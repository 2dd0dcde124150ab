"""Files of a classifier's predictions, for people and servers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import csv
import os
from typing import Any

import numpy as np
import tensorflow as tf

from data import file_io
from tasks import classification
from tasks import glue
from tasks import metrics

_NUM_MISTAKES = 100


def _write_table(path: str, rows: Iterable[Sequence[Any]]) -> None:
  """Writes rows of tab-separated fields; a field with a tab is quoted."""
  with file_io.atomic_file(path) as temporary:
    with tf.io.gfile.GFile(temporary, "w") as file:
      writer = csv.writer(file, delimiter="\t", lineterminator="\n")
      writer.writerows(rows)


def _format_label(label: Any) -> str:
  """Returns a label or prediction as one field."""
  if isinstance(label, (tuple, list)):
    return ",".join(label)
  if isinstance(label, float):
    return f"{label:.6g}"
  return label


def write_predictions(
  output_dir: str,
  suffix: str,
  ids: Sequence[str],
  labels: Sequence[str],
  predictions: Sequence[Any],
  probabilities: np.ndarray,
) -> None:
  """Writes `test_results.tsv` and `test_predictions.tsv`.

  As in the original code, `test_results.tsv` holds probabilities alone, one row
  per example. `test_predictions.tsv` holds ids, predictions and probabilities
  under a header.

  Args:
    output_dir: Folder of the files.
    suffix: Suffix of their names, before the ending.
    ids: Id of each example.
    labels: All labels; empty for regression.
    predictions: Label, list of labels, or number for each example.
    probabilities: float [num_examples, num_labels]; for regression
      [num_examples, 1].
  """
  results_file = os.path.join(output_dir, f"test_results{suffix}.tsv")
  _write_table(results_file, probabilities.tolist())
  rows = [["id", "prediction", *labels]]
  for example_id, prediction, row in zip(ids, predictions, probabilities):
    # Regression has no labels; its number is the prediction itself.
    columns = [f"{probability:.6f}" for probability in row[: len(labels)]]
    rows.append([example_id, _format_label(prediction), *columns])
  predictions_file = os.path.join(output_dir, f"test_predictions{suffix}.tsv")
  _write_table(predictions_file, rows)


def write_submission(
  output_dir: str,
  task: classification.ClassificationTask,
  split: str,
  examples: Sequence[classification.Example],
  predictions: Sequence[Any],
) -> None:
  """Writes the file that the GLUE server expects for a split, if any.

  Args:
    output_dir: Folder of the folder `submission`.
    task: The task.
    split: The split.
    examples: Its examples.
    predictions: Label or number for each example.
  """
  if split not in task.submissions:
    return
  rows = [["index", "prediction"]]
  for example, prediction in zip(examples, predictions):
    rows.append([example.id, glue.submission_value(task, prediction)])
  file = task.submissions[split]
  _write_table(os.path.join(output_dir, "submission", file), rows)


def write_mistakes(
  output_dir: str,
  suffix: str,
  examples: Sequence[classification.Example],
  predictions: Sequence[Any],
  losses: np.ndarray,
) -> None:
  """Writes `worst_mistakes.tsv`: wrong predictions, the largest loss first.

  Args:
    output_dir: Folder of the file.
    suffix: Suffix of its name, before the ending.
    examples: The examples, with labels.
    predictions: Label, list of labels, or number for each example.
    losses: float [num_examples], loss of each example.
  """
  rows = [["id", "place", "loss", "label", "prediction", "text_a", "text_b"]]
  # Examples with the same loss stay in the order of the file.
  for number in np.argsort(-losses, kind="stable"):
    example, prediction = examples[number], predictions[number]
    # Labels of an example have no order.
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
          _format_label(example.label),
          _format_label(prediction),
          example.text_a,
          example.text_b or "",
        ]
      )
    if len(rows) > _NUM_MISTAKES:  # with the header
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

  Rows are labels and columns are predictions. If examples can have any number
  of labels, the columns are true and false positives and negatives.

  Args:
    output_dir: Folder of the file.
    suffix: Suffix of its name, before the ending.
    labels: All labels.
    targets: Correct labels, see `ClassificationTask.targets`.
    decisions: Predicted labels in the same form.
  """
  if targets.ndim == 1:
    table = metrics.confusion_matrix(targets, decisions, len(labels))
    columns = [f"predicted {label}" for label in labels]
  else:
    is_label, is_predicted = targets > 0, decisions > 0
    counts = {
      "true positives": is_label & is_predicted,
      "false positives": ~is_label & is_predicted,
      "false negatives": is_label & ~is_predicted,
      "true negatives": ~is_label & ~is_predicted,
    }
    columns = list(counts)
    sums = [is_counted.sum(axis=0) for is_counted in counts.values()]
    table = np.stack(sums, axis=1)
  rows: list[list[Any]] = [["label", *columns]]
  for label, row in zip(labels, table.tolist()):
    rows.append([label, *row])
  _write_table(os.path.join(output_dir, f"confusion_matrix{suffix}.tsv"), rows)
