"""Tests of metrics.py."""

import numpy as np
import pytest
from scipy import stats
import scipy.special
from sklearn import metrics as sklearn_metrics

from tasks import metrics


@pytest.mark.parametrize("seed", range(5))
def test_scores_are_those_of_scikit_learn_and_scipy(seed):
  rng = np.random.default_rng(seed)
  labels, predictions = rng.integers(0, 2, (2, 50))
  many, others = rng.integers(0, 4, (2, 50))
  is_label, is_predicted = rng.integers(0, 2, (2, 50, 3))
  # With ties, as human scores have them.
  numbers = rng.integers(0, 11, 50) / 2
  estimates = np.round(numbers + rng.normal(size=50), 1)
  peer = sklearn_metrics
  expected = [
    (
      metrics.accuracy_and_f1(labels, predictions),
      {
        "accuracy": peer.accuracy_score(labels, predictions),
        "f1": peer.f1_score(labels, predictions),
      },
    ),
    (
      metrics.matthews_correlation(labels, predictions),
      {
        "accuracy": peer.accuracy_score(labels, predictions),
        "matthews": peer.matthews_corrcoef(labels, predictions),
      },
    ),
    (
      metrics.matthews_correlation(many, others),
      {
        "accuracy": peer.accuracy_score(many, others),
        "matthews": peer.matthews_corrcoef(many, others),
      },
    ),
    (
      metrics.accuracy_and_macro_f1(many, others),
      {
        "accuracy": peer.accuracy_score(many, others),
        "macro_f1": peer.f1_score(many, others, average="macro"),
      },
    ),
    (
      metrics.multi_label_scores(is_label, is_predicted),
      {
        "exact_match": peer.accuracy_score(is_label, is_predicted),
        "micro_f1": peer.f1_score(is_label, is_predicted, average="micro"),
        "macro_f1": peer.f1_score(is_label, is_predicted, average="macro"),
      },
    ),
    (
      metrics.correlations_and_errors(numbers, estimates),
      {
        "pearson": stats.pearsonr(numbers, estimates).statistic,
        "spearman": stats.spearmanr(numbers, estimates).statistic,
        "mse": peer.mean_squared_error(numbers, estimates),
        "mae": peer.mean_absolute_error(numbers, estimates),
      },
    ),
  ]
  for ours, theirs in expected:
    assert ours == pytest.approx(theirs, abs=1e-12)
  np.testing.assert_array_equal(
    metrics.confusion_matrix(many, others, 4),
    peer.confusion_matrix(many, others, labels=range(4)),
  )
  logits = rng.normal(size=(50, 4))
  log_probabilities = metrics.log_softmax(logits)[np.arange(50), many]
  assert -np.mean(log_probabilities) == pytest.approx(
    peer.log_loss(many, scipy.special.softmax(logits, axis=1), labels=range(4))
  )


def test_scores_that_are_not_defined_are_zero():
  zeros = np.zeros(4, int)
  assert metrics.accuracy_and_f1(zeros, zeros) == {"accuracy": 1.0, "f1": 0.0}
  assert metrics.matthews_correlation(zeros, zeros)["matthews"] == 0.0
  scores = metrics.correlations_and_errors(zeros, np.arange(4))
  assert scores["pearson"] == scores["spearman"] == 0.0


def test_probabilities_of_large_logits():
  np.testing.assert_allclose(
    metrics.log_softmax(np.array([[1000.0, 0.0], [0.0, 0.0]])),
    [[0.0, -1000.0], [-np.log(2)] * 2],
  )
  np.testing.assert_allclose(
    metrics.sigmoid(np.array([-1000.0, 0.0, 1000.0])), [0.0, 0.5, 1.0]
  )
