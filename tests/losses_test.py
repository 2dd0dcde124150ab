"""Tests of losses.py, against a few lines of NumPy."""

import numpy as np
import pytest
import tensorflow as tf

import losses

RNG = np.random.default_rng(0)
WEIGHTS = np.array([1.0, 0.0, 0.5, 2.0, 1.0], np.float32)
LOGITS = RNG.normal(size=(5, 3)).astype(np.float32)
TEACHER_LOGITS = RNG.normal(size=(5, 3)).astype(np.float32)
LABEL_IDS = np.array([2, 0, 1, 1, 0], np.int32)
MANY_LABELS = np.array(
  [[0, 1, 1], [1, 0, 0], [0, 0, 0], [0.25, 0.5, 1], [1, 1, 1]], np.float32
)


def log_softmax(logits):
  return logits - np.log(np.sum(np.exp(logits), axis=-1, keepdims=True))


def sigmoid(x):
  return 1.0 / (1.0 + np.exp(-x))


def negative_log_likelihood(logits, label_ids):
  return -log_softmax(logits)[np.arange(len(logits)), label_ids]


def assert_sum_and_weight(actual, example_loss, weights):
  total, weight = actual
  assert total.dtype == weight.dtype == tf.float32
  assert total.shape == weight.shape == []
  np.testing.assert_allclose(total, np.sum(example_loss * weights), rtol=1e-5)
  np.testing.assert_allclose(weight, np.sum(weights), rtol=1e-6)


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_cross_entropy_has_the_type_of_its_logits(dtype):
  # Labels come as a column from records.
  loss = losses.cross_entropy(tf.cast(LOGITS, dtype), LABEL_IDS[:, np.newaxis])
  assert loss.dtype == dtype
  expected = negative_log_likelihood(LOGITS.astype(np.float64), LABEL_IDS)
  np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_classification():
  assert_sum_and_weight(
    losses.classification_loss(LOGITS, LABEL_IDS, WEIGHTS),
    negative_log_likelihood(LOGITS, LABEL_IDS),
    WEIGHTS,
  )


@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16])
def test_masked_words(dtype):
  logits = tf.cast(LOGITS, dtype)
  total, weight = losses.masked_lm_loss(
    logits, LABEL_IDS[:, np.newaxis], WEIGHTS[:, np.newaxis].astype(np.float64)
  )
  # The logits are rounded to the type; the loss is computed in float32.
  rounded = tf.cast(logits, tf.float32).numpy()
  example_loss = negative_log_likelihood(rounded, LABEL_IDS)
  assert_sum_and_weight((total, weight - 1e-5), example_loss, WEIGHTS)


def test_a_batch_without_masks_has_the_loss_0():
  total, weight = losses.masked_lm_loss(LOGITS, LABEL_IDS, np.zeros(5))
  assert total == 0.0
  np.testing.assert_allclose(weight, 1e-5)


@pytest.mark.parametrize("label_weights", [None, [1.0, 5.0, 0.5]])
def test_several_labels(label_weights):
  if label_weights is not None:
    label_weights = np.array(label_weights, np.float32)
  factors = 1.0 if label_weights is None else label_weights
  label_losses = -factors * MANY_LABELS * np.log(sigmoid(LOGITS))
  label_losses -= (1.0 - MANY_LABELS) * np.log(1.0 - sigmoid(LOGITS))
  assert_sum_and_weight(
    losses.multi_label_loss(
      tf.constant(LOGITS), MANY_LABELS, WEIGHTS, label_weights
    ),
    label_losses.mean(axis=1),
    WEIGHTS,
  )


def test_several_labels_of_a_single_example():
  assert_sum_and_weight(
    losses.multi_label_loss(
      tf.constant(LOGITS[:1]), MANY_LABELS[:1], WEIGHTS[:1]
    ),
    -np.log(sigmoid(LOGITS[:1] * [[-1, 1, 1]])).mean(axis=1),
    WEIGHTS[:1],
  )


def test_a_choice_that_does_not_exist_changes_nothing():
  logits = tf.constant([[-80.0, 90.0]])
  with_nothing = tf.constant([[-80.0, 90.0, losses.LOGIT_OF_NOTHING]])
  assert losses.cross_entropy(with_nothing, [0]) == losses.cross_entropy(
    logits, [0]
  )
  assert tf.nn.softmax(with_nothing)[0, 2] == 0.0


def test_numbers():
  predictions, targets = LOGITS[:, :1], TEACHER_LOGITS[:, 0]
  assert_sum_and_weight(
    losses.regression_loss(predictions, targets, WEIGHTS),
    (predictions[:, 0] - targets) ** 2,
    WEIGHTS,
  )
  columns = losses.regression_loss(predictions, targets[:, np.newaxis], WEIGHTS)
  rows = losses.regression_loss(predictions[:, 0], targets, WEIGHTS)
  assert columns == rows


def test_a_teacher_of_one_label():
  probabilities = np.exp(log_softmax(TEACHER_LOGITS / 3.0))
  example_loss = -np.sum(probabilities * log_softmax(LOGITS / 3.0), axis=1)
  assert_sum_and_weight(
    losses.distillation_loss(LOGITS, TEACHER_LOGITS, WEIGHTS, 3.0),
    9.0 * example_loss,
    WEIGHTS,
  )


def test_a_teacher_of_several_labels():
  probabilities = sigmoid(TEACHER_LOGITS / 3.0)
  student = sigmoid(LOGITS / 3.0)
  label_losses = -probabilities * np.log(student)
  label_losses -= (1.0 - probabilities) * np.log(1.0 - student)
  assert_sum_and_weight(
    losses.multi_label_distillation_loss(
      tf.constant(LOGITS), TEACHER_LOGITS, WEIGHTS, 3.0
    ),
    9.0 * label_losses.mean(axis=1),
    WEIGHTS,
  )


def test_tokens():
  logits = RNG.normal(size=(2, 4, 3)).astype(np.float32)
  label_ids = RNG.integers(0, 3, (2, 4))
  weights = RNG.integers(0, 2, (2, 4)).astype(np.float32)
  assert_sum_and_weight(
    losses.token_loss(tf.constant(logits), label_ids, weights),
    negative_log_likelihood(logits.reshape(8, 3), label_ids.reshape(8)),
    weights.reshape(8),
  )


def test_spans():
  starts, ends = LABEL_IDS, (LABEL_IDS + 1) % 3
  example_loss = negative_log_likelihood(LOGITS, starts)
  example_loss += negative_log_likelihood(TEACHER_LOGITS, ends)
  assert_sum_and_weight(
    losses.span_loss(LOGITS, TEACHER_LOGITS, starts, ends, WEIGHTS),
    example_loss / 2.0,
    WEIGHTS,
  )


def test_right_predictions_are_counted_by_their_weight():
  logits = np.eye(3, dtype=np.float32)[[2, 0, 0, 1, 2]]
  is_right = np.array([1, 1, 0, 1, 0], np.float32)
  assert_sum_and_weight(
    losses.correct(logits, tf.constant(LABEL_IDS), WEIGHTS), is_right, WEIGHTS
  )
  assert_sum_and_weight(
    losses.correct(logits, tf.constant(LABEL_IDS, tf.int64), WEIGHTS),
    is_right,
    WEIGHTS,
  )
