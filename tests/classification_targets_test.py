"""Tests of tasks/classification_targets.py."""

import numpy as np
import pytest

from errors import UserError
import heads
from tasks import classification
from tasks import classification_targets
from tasks import problem_types


def examples_of(*labels):
  """Returns examples with labels."""
  return [
    classification.Example(f"dev.csv, line {number}", str(number), "a", None, x)
    for number, x in enumerate(labels, 2)
  ]


def label(task, split, labels, known, counts_unseen):
  return classification_targets.label_examples(
    task, split, examples_of(*labels), known, counts_unseen
  )


def test_labels_that_training_lacks_count_as_wrong():
  task = classification.custom_task()
  known = ("neg", "pos")
  with pytest.raises(
    UserError,
    match="dev.csv, line 3: the label 'neutral' is not one of: neg, pos. "
    ".*--unseen_labels=count",
  ):
    label(task, "dev", ["pos", "neutral"], known, False)
  with pytest.raises(UserError, match="add examples of it to the training"):
    label(task, "train", ["pos", "neutral"], known, True)
  with pytest.raises(UserError, match="dev: no example has a label that tr"):
    label(task, "dev", ["neutral"], known, True)
  data = label(task, "dev", ["pos", "so so", "neutral", "neg"], known, True)
  assert data.labels == ("neg", "pos", "neutral", "so so")
  assert data.targets.tolist() == [1, 3, 2, 0]
  problem = problem_types.PROBLEM_TYPES[heads.SINGLE_LABEL](2)
  assert problem.keep_known_labels(data.targets).tolist() == [1, 0, 0, 0]
  logits = np.array([[0.0, 1.0]] * 4)
  losses = problem.example_losses(data.targets, logits)
  assert np.isposinf(losses).tolist() == [False, True, True, False]
  decisions = problem.match_targets(problem.decide(logits), data.targets)
  assert task.metric_fn(data.targets, decisions)["accuracy"] == 0.25


def test_several_labels_of_which_training_lacks_some():
  task = classification.custom_task(problem_type="multi_label")
  labels = [("x",), ("x", "z"), ()]
  data = label(task, "dev", labels, ("x", "y"), True)
  assert data.labels == ("x", "y", "z")
  assert data.targets.tolist() == [[1, 0, 0], [1, 0, 1], [0, 0, 0]]
  problem = problem_types.PROBLEM_TYPES[heads.MULTI_LABEL](2)
  known = problem.keep_known_labels(data.targets)
  assert known.tolist() == [[1, 0], [1, 0], [0, 0]]
  logits = np.array([[1.0, -1.0]] * 3)
  np.testing.assert_allclose(
    problem.example_losses(data.targets, logits),
    problem.example_losses(known, logits),
  )
  decisions = problem.match_targets(problem.decide(logits), data.targets)
  assert decisions.tolist() == [[1, 0, 0]] * 3
  assert task.metric_fn(data.targets, decisions)["exact_match"] == 1 / 3
