"""Tests of tasks/squad_evaluation.py."""

import json
import os

import builders
import pytest

from tasks import squad
from tasks import squad_evaluation


def test_scores_by_hand():
  dataset = builders.question_dataset(
    "",
    ("a", ("The red cat", 0), ("cat", 0)),
    ("b", ("dog", 0)),
    ("c", ("bird", 0)),
  )
  scores = squad_evaluation.evaluate_v1(
    dataset.questions, {"0": "red  cat!", "1": "a big dog"}
  )
  assert scores == pytest.approx(
    {"exact_match": 100 / 3, "f1": (100 + 200 / 3 + 0) / 3}
  )
  dataset = builders.question_dataset(
    "", ("a", ("cat", 0)), ("b",), ("c",), ("d", ("dog", 0))
  )
  scores = squad_evaluation.evaluate_v2(
    dataset.questions,
    {"0": "cat", "1": "x", "2": "y", "3": "dog"},
    {"0": -3.0, "1": 1.5, "2": -1.0, "3": -2.0},
    null_threshold=0.0,
  )
  assert scores["exact"] == scores["f1"] == 75.0
  assert scores["HasAns_exact"] == 100.0 and scores["NoAns_exact"] == 50.0
  # Answering 0 and 3 alone would be right.
  assert scores["best_exact"] == 100.0 and scores["best_exact_thresh"] == -2.0


@pytest.mark.parametrize("version", ["1.1", "2.0"])
def test_scores_are_those_of_the_official_program(large_golden_dir, version):
  folder = os.path.join(large_golden_dir, "squad")
  dataset = squad.read_dataset(
    os.path.join(
      large_golden_dir, "..", "data", "squad", f"dev-v{version}.json"
    )
  )

  def golden_file(file):
    with open(os.path.join(folder, file), encoding="utf-8") as reader:
      return json.load(reader)

  predictions = golden_file(f"bert_predictions_dev-v{version}.json")
  if version == "1.1":
    scores = squad_evaluation.evaluate_v1(dataset.questions, predictions)
  else:
    scores = squad_evaluation.evaluate_v2(
      dataset.questions, predictions, golden_file("na_scores_dev-v2.0.json")
    )
  assert scores == pytest.approx(
    golden_file(f"bert_predictions_dev-v{version}.scores.json"), abs=1e-9
  )
