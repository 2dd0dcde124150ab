"""Tests of classifier.py."""

import json

import numpy as np
import pytest
import tensorflow as tf

import checkpoint
import errors
from tasks import classification
from tasks import classifier as classifier_lib
from tasks import metrics
import tokenization

LOGITS = np.array([[0.5, -1.0], [2.0, 0.0], [0.0, 3.0]], np.float32)
TEACHER = np.array([[1.0, 0.0], [-1.0, 2.0], [0.5, 0.5]], np.float32)
LABEL_WEIGHTS = np.array([1.0, 0.5, 0.0], np.float32)  # the last has none
TEACHER_WEIGHTS = np.array([1.0, 0.5, 2.0], np.float32)


def classifier_of(problem_type, labels=("x", "y"), **changes):
  return classifier_lib.Classifier(
    **{
      **dict(
        problem_type=problem_type,
        labels=labels,
        do_lower_case=True,
        max_seq_length=8,
        long_text="truncate",
      ),
      **changes,
    }
  )


def mean(values, weights):
  return np.sum(values * weights) / np.sum(weights)


def soft_cross_entropy(probabilities, logits):
  return -np.sum(probabilities * metrics.log_softmax(logits), axis=-1)


@pytest.mark.parametrize(
  "problem_type, targets, label_losses, teacher_losses",
  [
    (
      "single_label",
      np.array([0, 1, 0]),
      metrics.cross_entropy(np.array([0, 1, 0]), LOGITS),
      4
      * soft_cross_entropy(
        np.exp(metrics.log_softmax(TEACHER / 2)), LOGITS / 2
      ),
    ),
    (
      "multi_label",
      np.array([[0, 1], [1, 1], [0, 0]], np.float32),
      metrics.sigmoid_cross_entropy(np.array([[0, 1], [1, 1], [0, 0]]), LOGITS),
      4
      * metrics.sigmoid_cross_entropy(metrics.sigmoid(TEACHER / 2), LOGITS / 2),
    ),
    (
      "regression",
      np.array([1.0, 2.0, 0.0], np.float32),
      (LOGITS[:, 0] - np.array([1.0, 2.0, 0.0])) ** 2,
      (LOGITS[:, 0] - TEACHER[:, 0]) ** 2,
    ),
  ],
)
def test_losses_of_labels_and_of_a_teacher(
  problem_type, targets, label_losses, teacher_losses
):
  is_number = problem_type == "regression"
  classifier = classifier_of(problem_type, () if is_number else ("x", "y"))
  logits, teacher = (x[:, :1] if is_number else x for x in (LOGITS, TEACHER))
  features = {
    "label_ids": tf.constant(targets),
    "label_weight": tf.constant(LABEL_WEIGHTS),
    "teacher_logits": tf.constant(teacher),
    "teacher_weight": tf.constant(TEACHER_WEIGHTS),
    "is_real_example": tf.ones(3),
  }

  def loss(distillation=None):
    terms = classifier_lib.loss_fn_builder(
      lambda features, seed: tf.constant(logits),
      classifier,
      distillation=distillation,
    )(features, None).losses
    return sum(float(total / weight) for total, weight in terms.values())

  np.testing.assert_allclose(
    classifier.losses(targets, logits), label_losses, rtol=1e-6
  )
  expected = mean(label_losses, LABEL_WEIGHTS)
  np.testing.assert_allclose(loss(), expected, rtol=1e-6)
  np.testing.assert_allclose(
    loss(classifier_lib.Distillation(2.0, 0.25)),
    0.25 * expected + 0.75 * mean(teacher_losses, TEACHER_WEIGHTS),
    rtol=1e-6,
  )


def test_label_weights_count_where_the_label_is():
  classifier = classifier_of("multi_label")
  features = {
    "label_ids": tf.constant([[1.0, 0.0]]),
    "label_weight": tf.ones(1),
    "is_real_example": tf.ones(1),
  }
  total, _ = classifier_lib.loss_fn_builder(
    lambda features, seed: tf.zeros([1, 2]),
    classifier,
    np.array([5.0, 7.0], np.float32),
  )(features, None).losses["loss"]
  np.testing.assert_allclose(total, (5 + 1) * np.log(2) / 2, rtol=1e-6)


def test_a_text_counts_once_however_long_it_is(vocab_file, tmp_path):
  classifier = classifier_of("single_label", long_text="sliding_window")
  examples = [
    classification.Example("", str(i), "the " * length, None, "x")
    for i, length in enumerate([3, 20])
  ]
  records = classifier_lib.write_records(
    str(tmp_path / "x"),
    classifier,
    tokenization.FullTokenizer(vocab_file),
    examples,
    np.array([0, 1]),
    np.array([1.0, 3.0]),
  )
  assert records.example_numbers.tolist() == [0] + [1] * 6
  batches = list(
    classifier_lib.input_fn_builder(
      records, classifier, is_training=False, static_shapes=False
    )({"batch_size": 3, "seed": 0})
  )
  numbers = np.concatenate([batch["record_number"] for batch in batches])
  weights = np.concatenate([batch["label_weight"] for batch in batches])
  totals = np.bincount(records.example_numbers[numbers], weights)
  np.testing.assert_allclose(totals, [1.0, 3.0], rtol=1e-6)


FIELDS = {
  "problem_type": "single_label",
  "labels": ["x", "y"],
  "do_lower_case": True,
  "max_seq_length": 8,
  "long_text": "truncate",
}


def test_a_classifier_is_read_as_it_was_written(tmp_path):
  assert classifier_lib.Classifier.read(str(tmp_path)) is None
  classifier = classifier_of("multi_label", ("x", "\u00e9"))
  classifier.write(str(tmp_path))
  assert classifier_lib.Classifier.read(str(tmp_path)) == classifier


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"more": 1}, "has .*more, but needs problem_type, .* and no others"),
    (
      {"problem_type": "other"},
      "problem_type is 'other', not one of single_la",
    ),
    ({"problem_type": ["regression"]}, "problem_type is .*, not one of single"),
    (
      {"problem_type": "regression"},
      r"labels is \['x', 'y'\], not an empty list",
    ),
    ({"labels": []}, r"labels is \[\], not a list of different texts"),
    ({"labels": "xy"}, "labels is 'xy', not a list"),
    (
      {"labels": ["x", "x"]},
      r"labels is \['x', 'x'\], not a list of different",
    ),
    ({"labels": ["x", ["y"]]}, r"labels is \['x', \['y'\]\], not a list"),
    ({"do_lower_case": "true"}, "do_lower_case is 'true', not true or false"),
    (
      {"long_text": None},
      "long_text is None, not one of truncate, head_tail, sl",
    ),
    ({"max_seq_length": True}, "max_seq_length is True, not a whole number"),
    ({"max_seq_length": 8.0}, "max_seq_length is 8.0, not a whole number"),
    ({"max_seq_length": 2}, "max_seq_length is 2, not .* of at least 3"),
    ({"max_seq_length": 7, "long_text": "sliding_window"}, "of at least 8"),
  ],
)
def test_fields_that_are_refused(tmp_path, changes, message):
  (tmp_path / "classifier.json").write_text(json.dumps({**FIELDS, **changes}))
  with pytest.raises(errors.UserError, match="classifier.json.*" + message):
    classifier_lib.Classifier.read(str(tmp_path))


def test_a_head_of_which_a_part_is_missing(tmp_path):
  checkpoint.write(str(tmp_path / "x.ckpt"), {"output_bias": np.zeros(2)})
  with pytest.raises(errors.UserError, match="x.ckpt has no classifier"):
    classifier_of("single_label").check_weights(str(tmp_path / "x.ckpt"), "--x")
  checkpoint.write(
    str(tmp_path / "y.ckpt"),
    {"output_bias": np.zeros(2), "output_weights": np.zeros([3, 5])},
  )
  with pytest.raises(
    errors.UserError, match="a classifier of 3 labels, but .* 2"
  ):
    classifier_of("single_label").check_weights(str(tmp_path / "y.ckpt"), "--x")
