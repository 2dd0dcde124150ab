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
    labels=tf.reshape(label_ids, [-1]), logits=tf.cast(logits, tf.float32)
  )
  # As in the code the paper came with; a batch without masks has loss 0.
  return (
    tf.reduce_sum(example_loss * label_weights),
    tf.reduce_sum(label_weights) + 1e-5,
  )


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
    labels=tf.reshape(label_ids, [-1]), logits=logits
  )
  return (
    tf.reduce_sum(example_loss * example_weights),
    tf.reduce_sum(example_weights),
  )


def multi_label_loss(logits, labels, example_weights, label_weights=None):
  """Cross entropy of examples that have any number of labels.

  Args:
    logits: float32 Tensor of shape [batch_size, num_labels].
    labels: float32 Tensor of that shape, the probability that a label applies.
    example_weights: float32 Tensor of shape [batch_size].
    label_weights: float32 Tensor of shape [num_labels], what the loss of an
      example that has a label is multiplied by; None for 1.

  Returns:
    The sum of weighted losses, means over labels, and their weight.
  """
  if label_weights is None:
    label_weights = tf.ones_like(logits[0])
  label_losses = tf.nn.weighted_cross_entropy_with_logits(
    labels=labels, logits=logits, pos_weight=label_weights
  )
  example_loss = tf.reduce_mean(label_losses, axis=-1)
  return (
    tf.reduce_sum(example_loss * example_weights),
    tf.reduce_sum(example_weights),
  )


def regression_loss(predictions, targets, example_weights):
  """Squared error.

  Args:
    predictions: float32 Tensor with `batch_size` elements.
    targets: likewise.
    example_weights: float32 Tensor of shape [batch_size].

  Returns:
    The sum of weighted losses, and their weight.
  """
  errors = tf.reshape(predictions, [-1]) - tf.reshape(targets, [-1])
  return (
    tf.reduce_sum(tf.square(errors) * example_weights),
    tf.reduce_sum(example_weights),
  )


def distillation_loss(logits, teacher_logits, example_weights, temperature):
  """Cross entropy with the probabilities of a teacher (Hinton et al., 2015).

  At a temperature T both are softmax(logits / T). The loss is multiplied by
  T ** 2, which keeps the size of its gradient.

  Args:
    logits: float32 Tensor of shape [batch_size, num_labels].
    teacher_logits: likewise.
    example_weights: float32 Tensor of shape [batch_size].
    temperature: float.

  Returns:
    The sum of weighted losses, and their weight.
  """
  example_loss = temperature**2 * tf.nn.softmax_cross_entropy_with_logits(
    labels=tf.nn.softmax(teacher_logits / temperature),
    logits=logits / temperature,
  )
  return (
    tf.reduce_sum(example_loss * example_weights),
    tf.reduce_sum(example_weights),
  )


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
    tf.reshape(logits, [-1, logits.shape[-1]]),
    label_ids,
    tf.reshape(label_weights, [-1]),
  )


def span_loss(
  start_logits, end_logits, start_positions, end_positions, example_weights
):
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
    start_logits, start_positions, example_weights
  )
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
