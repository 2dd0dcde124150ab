"""Tests of heads.py."""

import builders
import numpy as np
import pytest
import tensorflow as tf

import checkpoint
import heads
import modeling
from serving import signatures
from tasks import classification


@pytest.mark.parametrize("name", heads.HEADS)
def test_models_hold_the_variables_that_they_are_recognized_by(name):
  head = heads.HEADS[name]
  model = head.create_model(builders.tiny_config(), num_outputs=3)
  names = set(checkpoint.variables_by_name(model))
  assert type(model).__name__ == head.model_class
  assert set(head.recognized_by) <= set(head.transformers_names) <= names
  found = heads.find_heads(names)
  # The most specific head comes first, the encoder last.
  assert found[0].recognized_by[: len(head.recognized_by)] == (
    head.recognized_by
  )
  assert head in found and found[-1].name == heads.ENCODER


@pytest.mark.parametrize(
  "names, first, is_classifier",
  [
    ([], heads.ENCODER, False),
    (["cls/squad/output_weights"], heads.SPAN, False),
    (["output_weights", "output_bias"], heads.SINGLE_LABEL, True),
    (["cls/predictions/output_bias"], heads.MASKED_LM, False),
    (["cls/seq_relationship/output_bias"], heads.ENCODER, False),
    (
      ["cls/predictions/output_bias", "cls/seq_relationship/output_bias"],
      heads.PRETRAINING,
      False,
    ),
  ],
)
def test_checkpoints_are_recognized(names, first, is_classifier):
  found = heads.find_heads([*names, "bert/pooler/dense/kernel"])[0]
  assert (found.name, found.is_classifier) == (first, is_classifier)


def test_every_serving_class_exists():
  for head in heads.HEADS.values():
    if head.serving_class:
      assert issubclass(getattr(signatures, head.serving_class), tf.Module)
  assert {head.name for head in heads.HEADS.values() if head.is_classifier} == {
    *classification.PROBLEM_TYPES,
    heads.TAGGING,
    heads.MULTIPLE_CHOICE,
  }


def _cross_entropy(logits, label):
  return np.log(np.sum(np.exp(logits))) - logits[label]


# Two rows, of which the second only fills up the batch, and logits of each
# head for them; with the sum and the weight that the first row has.
_IS_REAL = tf.constant([1.0, 0.0])
_LOGITS = np.array([[0.5, -1.0, 2.0], [9.0, 9.0, 0.0]], np.float32)
_ROW = _LOGITS[0]
_LABEL_WEIGHT = tf.constant([0.25, 0.25])
_CASES = {
  heads.SINGLE_LABEL: (
    _LOGITS,
    {"label_ids": tf.constant([1, 0]), "label_weight": _LABEL_WEIGHT},
    0.25 * _cross_entropy(_ROW, 1),
    0.25,
  ),
  heads.MULTI_LABEL: (
    _LOGITS,
    {
      "label_ids": tf.constant([[1.0, 0.0, 1.0]] * 2),
      "label_weight": _LABEL_WEIGHT,
    },
    0.25 * np.mean(np.log1p(np.exp(_ROW * [-1, 1, -1]))),
    0.25,
  ),
  heads.REGRESSION: (
    _LOGITS[:, :1],
    {"label_ids": tf.constant([2.0, 2.0]), "label_weight": _LABEL_WEIGHT},
    0.25 * (0.5 - 2.0) ** 2,
    0.25,
  ),
  heads.TAGGING: (
    np.stack([_LOGITS, _LOGITS]),
    {
      "label_ids": tf.constant([[1, 0], [1, 0]]),
      "label_weights": tf.constant([[1.0, 0.0], [1.0, 1.0]]),
    },
    _cross_entropy(_ROW, 1),
    1.0,
  ),
  # The first row has two choices; its third sequence has no tokens.
  heads.MULTIPLE_CHOICE: (
    _LOGITS,
    {
      "label_ids": tf.constant([1, 0]),
      "input_mask": tf.constant([[[1, 1], [1, 0], [0, 0]], [[0, 0]] * 3]),
    },
    _cross_entropy(_ROW[:2], 1),
    1.0,
  ),
  heads.SPAN: (
    (_LOGITS, -_LOGITS),
    {
      "start_positions": tf.constant([1, 0]),
      "end_positions": tf.constant([2, 0]),
    },
    (_cross_entropy(_ROW, 1) + _cross_entropy(-_ROW, 2)) / 2,
    1.0,
  ),
}


@pytest.mark.parametrize("name", _CASES)
def test_losses_leave_out_rows_that_fill_up_a_batch(name):
  logits, features, expected_sum, expected_weight = _CASES[name]
  features = {**features, "is_real_example": _IS_REAL}
  logits = tf.nest.map_structure(tf.constant, logits)
  [(loss_name, (total, weight))] = (
    heads.HEADS[name].named_losses(logits, features).items()
  )
  assert loss_name == "loss"
  np.testing.assert_allclose(total, expected_sum, rtol=1e-5)
  np.testing.assert_allclose(weight, expected_weight, rtol=1e-6)


def test_label_weights_multiply_the_loss_of_labels_that_apply():
  logits, features, _, _ = _CASES[heads.MULTI_LABEL]
  features = {**features, "is_real_example": _IS_REAL}
  terms = heads.HEADS[heads.MULTI_LABEL].named_losses(
    tf.constant(logits), features, label_weights=tf.constant([5.0, 7.0, 1.0])
  )
  label_losses = np.log1p(np.exp(_ROW * [-1, 1, -1])) * [5, 1, 1]
  np.testing.assert_allclose(
    terms["loss"][0], 0.25 * np.mean(label_losses), rtol=1e-5
  )


def test_pretraining_has_two_losses_where_records_have_next_sentences():
  head = heads.HEADS[heads.PRETRAINING]
  logits = (tf.constant(_LOGITS), tf.constant(_LOGITS[:, :2]))
  features = {
    "masked_lm_ids": tf.constant([[1], [2]]),
    "masked_lm_weights": tf.constant([[1.0], [0.0]]),
  }
  assert set(head.named_losses(logits, features)) == {"masked_lm_loss"}
  assert set(head.named_metrics(logits, features)) == {"masked_lm_accuracy"}
  features["next_sentence_labels"] = tf.constant([[0], [1]])
  terms = head.named_losses(logits, features)
  total, weight = terms["masked_lm_loss"]
  np.testing.assert_allclose(total, _cross_entropy(_ROW, 1), rtol=1e-5)
  np.testing.assert_allclose(weight, 1 + 1e-5, rtol=1e-6)
  assert terms["next_sentence_loss"][1] == 2.0
  features["next_sentence_weights"] = tf.constant([[1.0], [0.0]])
  terms = head.named_losses(logits, features)
  total, weight = terms["next_sentence_loss"]
  np.testing.assert_allclose(total, _cross_entropy(_ROW[:2], 0), rtol=1e-5)
  assert weight == 1.0
  right, weight = head.named_metrics(logits, features)["next_sentence_accuracy"]
  assert (right, weight) == (1.0, 1.0)


@pytest.mark.parametrize("name", heads.HEADS)
def test_heads_that_need_a_pooler_cannot_do_without(name):
  head = heads.HEADS[name]
  model = head.create_model(builders.tiny_config(), 3, add_pooler=False)
  shape = (2, 2, 5) if name == heads.MULTIPLE_CHOICE else (2, 5)
  ids = tf.ones(shape, tf.int32)
  arguments = [ids, ids, ids]
  if isinstance(model, modeling.BertForPreTraining):
    arguments.append(ids[:, :1])
  if head.needs_pooler:
    with pytest.raises(AssertionError, match="pooler"):
      model(*arguments)
  else:
    model(*arguments)
