"""Tests of tasks/problem_types.py, and of the losses of its heads."""

import numpy as np
import pytest
import scipy.special
import tensorflow as tf

from data import tokenizer_settings
import heads
from tasks import classifier_config
from tasks import distillation
from tasks import problem_types

LOGITS = np.array([[0.5, -1.0], [2.0, 0.0], [0.0, 3.0]], np.float32)
TEACHER = np.array([[1.0, 0.0], [-1.0, 2.0], [0.5, 0.5]], np.float32)
LABEL_WEIGHTS = np.array([1.0, 0.5, 0.0], np.float32)  # the last has none
TEACHER_WEIGHTS = np.array([1.0, 0.5, 2.0], np.float32)
LABELS = np.array([0, 1, 0])
MANY_LABELS = np.array([[0, 1], [1, 1], [0, 0]], np.float32)
VALUES = np.array([1.0, 2.0, 0.0], np.float32)


def soft_cross_entropy(probabilities, logits):
  return -np.sum(probabilities * scipy.special.log_softmax(logits, 1), axis=1)


def binary_cross_entropy(probabilities, logits):
  positive = probabilities * scipy.special.log_expit(logits)
  negative = (1 - probabilities) * scipy.special.log_expit(-logits)
  return -np.mean(positive + negative, axis=1)


# Problem type, targets, losses of the labels, and losses with the teacher at
# the temperature 2.
CASES = [
  (
    "single_label",
    LABELS,
    soft_cross_entropy(np.eye(2)[LABELS], LOGITS),
    4 * soft_cross_entropy(scipy.special.softmax(TEACHER / 2, 1), LOGITS / 2),
  ),
  (
    "multi_label",
    MANY_LABELS,
    binary_cross_entropy(MANY_LABELS, LOGITS),
    4 * binary_cross_entropy(scipy.special.expit(TEACHER / 2), LOGITS / 2),
  ),
  (
    "regression",
    VALUES,
    (LOGITS[:, 0] - VALUES) ** 2,
    (LOGITS[:, 0] - TEACHER[:, 0]) ** 2,
  ),
]


def mean(values, weights):
  return np.sum(values * weights) / np.sum(weights)


def total_loss(terms):
  return sum(float(total / weight) for total, weight in terms.values())


@pytest.mark.parametrize(
  "problem_type, targets, label_losses, teacher_losses", CASES
)
def test_losses_of_labels_and_of_a_teacher(
  problem_type, targets, label_losses, teacher_losses
):
  is_value = problem_type == "regression"
  classifier = classifier_config.ClassifierConfig(
    problem_type,
    () if is_value else ("x", "y"),
    tokenizer_settings.TokenizerSettings(),
    8,
    "truncate",
  )
  logits, teacher = LOGITS, TEACHER
  if is_value:
    logits, teacher = LOGITS[:, :1], TEACHER[:, :1]
  features = {
    "label_ids": tf.constant(targets),
    "label_weight": tf.constant(LABEL_WEIGHTS),
    "teacher_logits": tf.constant(teacher),
    "teacher_weight": tf.constant(TEACHER_WEIGHTS),
    "is_real_example": tf.ones(3),
  }
  example_losses = classifier.problem.example_losses(targets, logits)
  assert example_losses.dtype == np.float64
  np.testing.assert_allclose(example_losses, label_losses, rtol=1e-6)

  named_losses = classifier.head.named_losses
  expected = mean(label_losses, LABEL_WEIGHTS)
  np.testing.assert_allclose(
    total_loss(named_losses(tf.constant(logits), features)), expected, rtol=1e-6
  )
  student_losses = distillation.add_teacher(
    named_losses, classifier, distillation.DistillationSettings(2.0, 0.25)
  )
  np.testing.assert_allclose(
    total_loss(student_losses(tf.constant(logits), features)),
    0.25 * expected + 0.75 * mean(teacher_losses, TEACHER_WEIGHTS),
    rtol=1e-6,
  )


def test_label_weights_count_where_the_label_is():
  features = {
    "label_ids": tf.constant([[1.0, 0.0]]),
    "label_weight": tf.ones(1),
    "is_real_example": tf.ones(1),
  }
  head = heads.HEADS[heads.MULTI_LABEL]
  weights = np.array([5.0, 7.0], np.float32)
  total, _ = head.named_losses(tf.zeros([1, 2]), features, weights)["loss"]
  np.testing.assert_allclose(total, (5 + 1) * np.log(2) / 2, rtol=1e-6)


@pytest.mark.parametrize(
  "problem_type, decisions, names",
  [
    ("single_label", [0, 0, 1], ["x", "x", "y"]),
    ("multi_label", [[1, 0], [1, 0], [0, 1]], [["x"], ["x"], ["y"]]),
  ],
)
def test_logits_decide_and_predictions_have_names(
  problem_type, decisions, names
):
  classifier = classifier_config.ClassifierConfig(
    problem_type,
    ("x", "y"),
    tokenizer_settings.TokenizerSettings(),
    8,
    "truncate",
  )
  problem = classifier.problem
  found = problem.decide(LOGITS)
  assert found.tolist() == decisions
  assert [
    problem.name_prediction(decision, classifier.labels) for decision in found
  ] == names
  probabilities = problem.probabilities(LOGITS)
  assert probabilities.shape == LOGITS.shape
  empty = problem.empty_targets(3)
  assert empty.shape == found.shape and not empty.any()


def test_losses_of_large_logits_are_finite():
  single = problem_types.SingleLabel(2)
  np.testing.assert_allclose(
    single.example_losses(LABELS[:2], np.array([[1000.0, 0.0], [0.0, 0.0]])),
    [0.0, np.log(2)],
  )
  several = problem_types.MultiLabel(2)
  np.testing.assert_allclose(
    several.example_losses(np.array([[1, 0]]), np.array([[-1000.0, 0.0]])),
    [(1000 + np.log(2)) / 2],
  )
