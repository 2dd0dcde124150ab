"""Tests of training/cost.py."""

import math

import builders
import pytest
import tensorflow as tf

import heads
import modeling
from training import cost


def products_of(function) -> float:
  """Returns the floating-point operations of the matrix products of a graph."""
  graph = tf.__internal__.FuncGraph("products")
  with builders.untraced(), graph.as_default():
    function()
  total = 0.0
  for op in graph.get_operations():
    if "MatMul" in op.type:
      attributes = op.node_def.attr
      is_transposed = attributes["transpose_a"].b or attributes["adj_x"].b
      inner = op.inputs[0].shape[-2 if is_transposed else -1]
      total += 2.0 * math.prod(op.outputs[0].shape) * inner
  return total


def test_flops_are_those_of_the_graph():
  config = builders.tiny_config(num_hidden_layers=3)
  batch_size, seq_length, num_predictions = 5, 7, 4
  model = modeling.BertForPreTraining(config)
  ids = tf.zeros([batch_size, seq_length], tf.int32)
  positions = tf.zeros([batch_size, num_predictions], tf.int32)
  counted = products_of(lambda: model(ids, ids, ids, positions))
  segments = 2 * batch_size * seq_length * config.type_vocab_size
  next_sentence = 2 * batch_size * 2
  small = (segments + next_sentence) * config.hidden_size
  # The gradient takes two products for each of the forward pass.
  expected = cost.training_flops(
    config, batch_size, seq_length, 1 + num_predictions, num_predictions
  )
  assert 3 * (counted - small) == expected


@pytest.mark.parametrize(
  "name", [name for name, head in heads.HEADS.items() if head.named_predictions]
)
def test_heads_read_as_many_positions_as_the_table_says(name):
  head, config = heads.HEADS[name], builders.tiny_config(num_hidden_layers=3)
  shape = [5, 2, 7] if name == heads.MULTIPLE_CHOICE else [5, 7]
  num_rows, seq_length = math.prod(shape[:-1]), 7
  ids = tf.zeros(shape, tf.int32)
  model = head.create_model(config, 3)
  counted = products_of(lambda: model(ids, ids, ids))
  segments = 2 * num_rows * seq_length * config.type_vocab_size
  num_labels = model.output.output_bias.shape[0]
  outputs = 2 * num_rows * (head.num_positions or seq_length) * num_labels
  small = (segments + outputs) * config.hidden_size
  expected = cost.training_flops(
    config, num_rows, seq_length, head.num_positions
  )
  assert 3 * (counted - small) == expected


def test_flops_count_all_positions_unless_told_otherwise():
  config = builders.tiny_config()
  whole = cost.training_flops(config, 5, 7)
  assert whole == cost.training_flops(config, 5, 7, num_positions=7)
  assert whole > cost.training_flops(config, 5, 7, num_positions=1)


def test_recomputed_activations_need_less_memory():
  config = builders.tiny_config(num_hidden_layers=12)

  def estimate(batch_size=8, dtype=tf.float32, recompute=False, **kwargs):
    return cost.activation_bytes(
      config, batch_size, 32, dtype, recompute, **kwargs
    )

  assert estimate(recompute=True) < estimate() / 3
  assert estimate(dtype=tf.bfloat16) < estimate() < estimate(num_predictions=3)
  assert estimate(batch_size=16) == 2 * estimate()
