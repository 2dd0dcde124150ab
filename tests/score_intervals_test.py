"""Tests of score_intervals.py."""

import numpy as np
import pytest

from reports import score_intervals


def accuracy_of(is_right):
  return lambda numbers: {"accuracy": float(np.mean(is_right[numbers]))}


def test_intervals_agree_with_the_normal_distribution():
  is_right = np.arange(400) < 300
  intervals = score_intervals.compute_intervals(accuracy_of(is_right), 400)
  margin = 1.96 * np.sqrt(0.75 * 0.25 / 400)
  expected = 0.75 - margin, 0.75 + margin
  assert intervals["accuracy"] == pytest.approx(expected, abs=0.006)
  # The same examples have the same intervals.
  again = score_intervals.compute_intervals(accuracy_of(is_right), 400)
  assert again == intervals


@pytest.mark.parametrize(
  "num_examples, values_per_example, num_calls",
  [(100, 1, 1000), (20_000, 1, 400), (20_000, 2, 200), (20_000, 100, 100)],
)
def test_more_work_means_fewer_resamples(
  num_examples, values_per_example, num_calls
):
  sizes = []

  def score(numbers):
    sizes.append(len(numbers))
    return {"x": 0.0}

  score_intervals.compute_intervals(score, num_examples, values_per_example)
  assert sizes == [num_examples] * num_calls


def test_each_recorded_score_gets_its_own_interval():
  computed = {"f1": 0.5, "loc_f1": 0.25, "accuracy": 0.75}
  intervals = {
    name: (value - 0.1, value + 0.1) for name, value in computed.items()
  }
  recorded = {
    "eval_f1": 0.5,
    "eval_loc_f1": 0.25,
    "accuracy": 0.7500001,
    # Another score of this name, and one that examples do not have.
    "eval_mm_accuracy": 0.5,
    "eval_loss": 0.5,
  }
  assert score_intervals.format_intervals(recorded, computed, intervals) == {
    "eval_f1": "0.4 to 0.6",
    "eval_loc_f1": "0.15 to 0.35",
    "accuracy": "0.65 to 0.85",
  }
