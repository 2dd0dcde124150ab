"""The computation and the memory that a training step needs."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

import modeling


def training_flops(
  config: modeling.BertConfig,
  batch_size: Any,
  seq_length: Any,
  num_positions: Any = None,
  num_predictions: Any = 0,
) -> Any:
  """Returns the floating-point operations of the matrix products of a step.

  The gradient costs twice the forward pass. Padding counts, because it is
  computed. Operations that activation recomputation repeats do not count,
  neither do positions that the last layer leaves out.

  Args:
    config: Shape of the model.
    batch_size: Number of sequences; this and the following are ints or float32
      scalar Tensors.
    seq_length: Number of tokens of each sequence.
    num_positions: Number of positions of a sequence that the last layer
      computes; None for all.
    num_predictions: Number of masked positions of a sequence.
  """
  if num_positions is None:
    num_positions = seq_length
  size = config.hidden_size
  # Keys and values are computed for all positions; queries, attention and the
  # feed-forward layer only for those whose output is needed.
  keys_and_values = 4.0 * size * size
  others = 4.0 * size * (size + config.intermediate_size + seq_length)
  num_computed = (config.num_hidden_layers - 1) * seq_length + num_positions
  layers = (
    config.num_hidden_layers * seq_length * keys_and_values
    + num_computed * others
  )
  pooler = 2.0 * size * size
  masked_lm = num_predictions * 2.0 * size * (size + config.vocab_size)
  return 3.0 * batch_size * (layers + pooler + masked_lm)


def activation_bytes(
  config: modeling.BertConfig,
  batch_size: int,
  seq_length: int,
  compute_dtype: tf.DType,
  recompute_activations: bool,
  num_predictions: int = 0,
) -> int:
  """Estimates the memory that a training step keeps for its gradient, in bytes.

  Counts the tensors of `TransformerLayer` and `MaskedLMHead` that the backward
  pass reads. Arguments as for `BertModel` and `training_flops`.
  """
  width = tf.as_dtype(compute_dtype).size
  num_tokens = batch_size * seq_length
  hidden = num_tokens * config.hidden_size
  intermediate = num_tokens * config.intermediate_size
  attention = num_tokens * seq_length * config.num_attention_heads
  # Inputs of the six products, two dropout masks, and the float32 input of
  # each norm; the probabilities in float32, their mask, and their product.
  layer = (
    hidden * (8 * width + 2 * 4)
    + intermediate * 2 * width
    + attention * (4 + 2 * width)
  )
  if recompute_activations:
    # The inputs of all layers, and one layer at a time with its gradients.
    layers = config.num_hidden_layers * hidden * width + 2 * layer
  else:
    # Gradients take the place of activations that are no longer needed.
    layers = config.num_hidden_layers * layer
  # The logits, their float32 copy, and the gradient of each.
  masked_lm = batch_size * num_predictions * config.vocab_size * 2 * (width + 4)
  return layers + hidden * 3 * 4 + masked_lm
