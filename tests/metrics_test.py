"""Tests of metrics.py."""

import numpy as np

import metrics


def test_scores_by_hand():
  labels = np.array([1, 1, 1, 0, 0, 0, 0, 1])
  predictions = np.array([1, 1, 0, 0, 0, 1, 0, 1])
  # 3 true positives, 1 false positive, 1 false negative, 3 true negatives.
  assert metrics.accuracy_and_f1(labels, predictions) == {
      "accuracy": 0.75, "f1": 0.75}
  matthews = metrics.matthews_correlation(labels, predictions)
  # For two classes it is the correlation of the two columns of numbers.
  np.testing.assert_allclose(
      matthews["matthews"], np.corrcoef(labels, predictions)[0, 1])


def test_scores_without_positives_are_zero():
  zeros = np.zeros(4, int)
  assert metrics.accuracy_and_f1(zeros, zeros) == {"accuracy": 1.0, "f1": 0.0}
  assert metrics.matthews_correlation(zeros, zeros)["matthews"] == 0.0


def test_cross_entropy_of_large_logits():
  logits = np.array([[1000.0, 0.0], [0.0, 0.0]])
  np.testing.assert_allclose(
      metrics.cross_entropy(np.array([0, 1]), logits), np.log(2) / 2)
