"""Tests of classifier.py."""

import numpy as np
import pytest
import tensorflow as tf

import classifier as classifier_lib
import metrics
import tokenization
from tasks import classification

LOGITS = np.array([[0.5, -1.0], [2.0, 0.0], [0.0, 3.0]], np.float32)
TEACHER = np.array([[1.0, 0.0], [-1.0, 2.0], [0.5, 0.5]], np.float32)
LABEL_WEIGHTS = np.array([1.0, 0.5, 0.0], np.float32)  # the last has none
TEACHER_WEIGHTS = np.array([1.0, 0.5, 2.0], np.float32)


def classifier_of(problem_type, labels=("x", "y"), **changes):
  return classifier_lib.Classifier(**{**dict(
      problem_type=problem_type, labels=labels, do_lower_case=True,
      max_seq_length=8, long_text="truncate"), **changes})


def mean(values, weights):
  return np.sum(values * weights) / np.sum(weights)


def soft_cross_entropy(probabilities, logits):
  return -np.sum(probabilities * metrics.log_softmax(logits), axis=-1)


@pytest.mark.parametrize("problem_type, targets, label_losses, teacher_losses", [
    ("single_label", np.array([0, 1, 0]),
     metrics.cross_entropy(np.array([0, 1, 0]), LOGITS),
     4 * soft_cross_entropy(np.exp(metrics.log_softmax(TEACHER / 2)),
                            LOGITS / 2)),
    ("multi_label", np.array([[0, 1], [1, 1], [0, 0]], np.float32),
     metrics.sigmoid_cross_entropy(np.array([[0, 1], [1, 1], [0, 0]]), LOGITS),
     4 * metrics.sigmoid_cross_entropy(metrics.sigmoid(TEACHER / 2),
                                       LOGITS / 2)),
    ("regression", np.array([1.0, 2.0, 0.0], np.float32),
     (LOGITS[:, 0] - np.array([1.0, 2.0, 0.0])) ** 2,
     (LOGITS[:, 0] - TEACHER[:, 0]) ** 2)])
def test_losses_of_labels_and_of_a_teacher(
    problem_type, targets, label_losses, teacher_losses):
  is_number = problem_type == "regression"
  classifier = classifier_of(problem_type, () if is_number else ("x", "y"))
  logits, teacher = (x[:, :1] if is_number else x for x in (LOGITS, TEACHER))
  features = {"label_ids": tf.constant(targets),
              "label_weight": tf.constant(LABEL_WEIGHTS),
              "teacher_logits": tf.constant(teacher),
              "teacher_weight": tf.constant(TEACHER_WEIGHTS),
              "is_real_example": tf.ones(3)}
  def loss(distillation=None):
    terms = classifier_lib.loss_fn_builder(
        lambda features, seed: tf.constant(logits), classifier,
        distillation=distillation)(features, None).losses
    return sum(float(total / weight) for total, weight in terms.values())

  np.testing.assert_allclose(
      classifier.losses(targets, logits), label_losses, rtol=1e-6)
  expected = mean(label_losses, LABEL_WEIGHTS)
  np.testing.assert_allclose(loss(), expected, rtol=1e-6)
  np.testing.assert_allclose(
      loss(classifier_lib.Distillation(2.0, 0.25)),
      0.25 * expected + 0.75 * mean(teacher_losses, TEACHER_WEIGHTS), rtol=1e-6)


def test_label_weights_count_where_the_label_is():
  classifier = classifier_of("multi_label")
  features = {"label_ids": tf.constant([[1.0, 0.0]]),
              "label_weight": tf.ones(1), "is_real_example": tf.ones(1)}
  total, _ = classifier_lib.loss_fn_builder(
      lambda features, seed: tf.zeros([1, 2]), classifier,
      np.array([5.0, 7.0], np.float32))(features, None).losses["loss"]
  np.testing.assert_allclose(total, (5 + 1) * np.log(2) / 2, rtol=1e-6)


def test_a_text_counts_once_however_long_it_is(vocab_file, tmp_path):
  classifier = classifier_of("single_label", long_text="sliding_window")
  examples = [classification.Example("", str(i), "the " * length, None, "x")
              for i, length in enumerate([3, 20])]
  records = classifier_lib.write_records(
      str(tmp_path / "x"), classifier, tokenization.FullTokenizer(vocab_file),
      examples, np.array([0, 1]), np.array([1.0, 3.0]))
  assert records.example_numbers.tolist() == [0] + [1] * 6
  batches = list(classifier_lib.input_fn_builder(
      records, classifier, is_training=False, static_shapes=False)(
          {"batch_size": 3, "seed": 0}))
  numbers = np.concatenate([batch["record_number"] for batch in batches])
  weights = np.concatenate([batch["label_weight"] for batch in batches])
  totals = np.bincount(records.example_numbers[numbers], weights)
  np.testing.assert_allclose(totals, [1.0, 3.0], rtol=1e-6)
