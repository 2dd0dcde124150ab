"""Tests of tasks/classification_results.py."""

import builders
import numpy as np

from tasks import classification
from tasks import classification_results
from tasks import glue


def examples_of(*labels):
  """Returns an example for each label; the ids are a, b, ..."""
  return [
    classification.Example(f"x.tsv, line {number}", key, "a\tb", None, label)
    for number, (key, label) in enumerate(zip("abcdefgh", labels), 1)
  ]


def test_predictions_have_ids_labels_and_probabilities(tmp_path):
  classification_results.write_predictions(
    str(tmp_path),
    "_x",
    ["a", "b", "c"],
    ["no", "yes"],
    ["yes", ["no", "yes"], []],
    np.array([[0.25, 0.75], [0.5, 1 / 3], [0.1, 0.2]]),
  )
  assert builders.read_table(tmp_path / "test_predictions_x.tsv") == [
    ["id", "prediction", "no", "yes"],
    ["a", "yes", "0.250000", "0.750000"],
    ["b", "no,yes", "0.500000", "0.333333"],
    ["c", "", "0.100000", "0.200000"],
  ]
  # The original code writes probabilities alone, with all digits.
  assert (tmp_path / "test_results_x.tsv").read_text() == (
    "0.25\t0.75\n0.5\t0.3333333333333333\n0.1\t0.2\n"
  )


def test_predictions_of_regression_are_numbers(tmp_path):
  classification_results.write_predictions(
    str(tmp_path), "", ["a"], [], [2.34567891], np.array([[2.34567891]])
  )
  assert builders.read_table(tmp_path / "test_predictions.tsv") == [
    ["id", "prediction"],
    ["a", "2.34568"],
  ]


def test_only_splits_of_glue_have_a_submission(tmp_path):
  examples = examples_of(None, None)
  for split in ("test", "dev", "test_other"):
    classification_results.write_submission(
      str(tmp_path), glue.TASKS["sts-b"], split, examples, [1.5, 9.0]
    )
  [path] = (tmp_path / "submission").iterdir()
  assert path.name == "STS-B.tsv"
  assert path.read_text() == "index\tprediction\na\t1.500\nb\t5.000\n"


def test_mistakes_are_sorted_by_loss(tmp_path):
  examples = examples_of("x", "y", "x", ("x", "y"), 1.5, 0.0)
  predictions = ["y", "y", "z", ["y", "x"], 2.25, 0.0]
  losses = np.array([1.0, 9.0, 3.0, 9.0, 3.0, 9.0])
  classification_results.write_mistakes(
    str(tmp_path), "", examples, predictions, losses
  )
  assert builders.read_table(tmp_path / "worst_mistakes.tsv") == [
    ["id", "place", "loss", "label", "prediction", "text_a", "text_b"],
    ["c", "x.tsv, line 3", "3.0000", "x", "z", "a\tb", ""],
    ["e", "x.tsv, line 5", "3.0000", "1.5", "2.25", "a\tb", ""],
    ["a", "x.tsv, line 1", "1.0000", "x", "y", "a\tb", ""],
  ]


def test_at_most_100_mistakes_are_written(tmp_path):
  classification_results.write_mistakes(
    str(tmp_path), "", examples_of("x") * 150, ["y"] * 150, np.arange(150.0)
  )
  rows = builders.read_table(tmp_path / "worst_mistakes.tsv")
  assert len(rows) == 101
  assert (rows[1][2], rows[-1][2]) == ("149.0000", "50.0000")


def test_rows_of_the_confusion_matrix_are_labels(tmp_path):
  classification_results.write_confusion(
    str(tmp_path), "_x", ["n", "y"], np.array([0, 0, 1]), np.array([1, 1, 1])
  )
  assert builders.read_table(tmp_path / "confusion_matrix_x.tsv") == [
    ["label", "predicted n", "predicted y"],
    ["n", "0", "2"],
    ["y", "0", "1"],
  ]


def test_each_of_many_labels_has_its_counts(tmp_path):
  targets = np.array([[1, 0], [1, 1], [0, 1], [0, 1]], np.float32)
  decisions = np.array([[1, 1], [0, 1], [0, 0], [0, 0]], np.float32)
  classification_results.write_confusion(
    str(tmp_path), "", ["n", "y"], targets, decisions
  )
  assert builders.read_table(tmp_path / "confusion_matrix.tsv") == [
    [
      "label",
      "true positives",
      "false positives",
      "false negatives",
      "true negatives",
    ],
    ["n", "1", "0", "1", "2"],
    ["y", "1", "1", "2", "0"],
  ]
