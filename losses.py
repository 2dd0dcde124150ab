"""Losses: functions of logits, labels and weights.

Each returns a sum and a weight, not a mean, so that a mean over devices,
accumulated micro-batches and a short last batch comes out exact: add up the
sums, add up the weights, divide once. All are float32.
"""

import tensorflow as tf


def masked_lm_loss(logits, label_ids, label_weights):
  """Cross entropy of the words at masked positions (paper, section 3.1).

  Args:
    logits: float Tensor of shape [rows, vocab_size].
    label_ids: int Tensor with `rows` elements.
    label_weights: float Tensor with `rows` elements; 0 where a prediction is
      not used.

  Returns:
    The sum of weighted losses, and their weight.
  """
  label_weights = tf.reshape(tf.cast(label_weights, tf.float32), [-1])
  example_loss = tf.nn.sparse_softmax_cross_entropy_with_logits(
      labels=tf.reshape(label_ids, [-1]), logits=tf.cast(logits, tf.float32))
  # As in the code the paper came with; a batch without masks has loss 0.
  return (tf.reduce_sum(example_loss * label_weights),
          tf.reduce_sum(label_weights) + 1e-5)


def classification_loss(logits, label_ids, example_weights):
  """Cross entropy of examples that have one label each.

  Args:
    logits: float32 Tensor of shape [batch_size, num_labels].
    label_ids: int Tensor with `batch_size` elements.
    example_weights: float32 Tensor of shape [batch_size]; 0 for examples that
      only fill up a batch.

  Returns:
    The sum of weighted losses, and their weight.
  """
  example_loss = tf.nn.sparse_softmax_cross_entropy_with_logits(
      labels=tf.reshape(label_ids, [-1]), logits=logits)
  return (tf.reduce_sum(example_loss * example_weights),
          tf.reduce_sum(example_weights))


def token_loss(logits, label_ids, label_weights):
  """Cross entropy of tokens that have one label each (paper, section 5.3).

  Args:
    logits: float32 Tensor of shape [batch_size, seq_length, num_labels].
    label_ids: int Tensor of shape [batch_size, seq_length].
    label_weights: float32 Tensor of that shape; 0 where a token has no label.

  Returns:
    The sum of weighted losses, and their weight.
  """
  return classification_loss(
      tf.reshape(logits, [-1, logits.shape[-1]]), label_ids,
      tf.reshape(label_weights, [-1]))


def span_loss(start_logits, end_logits, start_positions, end_positions,
              example_weights):
  """Mean of the cross entropies of start and end (paper, section 4.2).

  Args:
    start_logits: float32 Tensor of shape [batch_size, seq_length].
    end_logits: likewise.
    start_positions: int Tensor of shape [batch_size].
    end_positions: likewise.
    example_weights: float32 Tensor of shape [batch_size].

  Returns:
    The sum of weighted losses, and their weight.
  """
  start, weight = classification_loss(
      start_logits, start_positions, example_weights)
  end, _ = classification_loss(end_logits, end_positions, example_weights)
  return (start + end) / 2.0, weight


def correct(logits, label_ids, label_weights):
  """Counts right predictions, for a weighted accuracy.

  Args:
    logits: float Tensor of shape [rows, num_classes].
    label_ids: int Tensor of shape [rows].
    label_weights: float32 Tensor of shape [rows].

  Returns:
    The weight of the rows predicted right, and the weight of all.
  """
  predictions = tf.argmax(logits, axis=-1, output_type=label_ids.dtype)
  is_right = tf.cast(predictions == label_ids, tf.float32)
  return tf.reduce_sum(is_right * label_weights), tf.reduce_sum(label_weights)
