"""Losses: functions of logits, labels and weights.

The functions that end in `_loss` return a sum and a weight instead of a mean.
A mean over devices, accumulated parts and a short last batch is then exact: add
up the sums, add up the weights, divide once. In training everything is float32.
The functions of single examples also work on float64, for evaluation.
"""

from __future__ import annotations

import tensorflow as tf

# A sum over a batch, and the number by which it is to be divided.
SumAndWeight = tuple["tf.Tensor", "tf.Tensor"]

# Logit of a choice that an example does not have: its probability is 0.
LOGIT_OF_NOTHING = -1e9


# --- Losses of single examples -----------------------------------------------


def cross_entropy(logits: tf.Tensor, label_ids: tf.Tensor) -> tf.Tensor:
  """Returns the loss of examples that have one label each.

  Args:
    logits: float Tensor of shape [rows, num_labels].
    label_ids: int Tensor with `rows` elements.

  Returns:
    Tensor of shape [rows], in the type of `logits`.
  """
  return tf.nn.sparse_softmax_cross_entropy_with_logits(
    labels=tf.reshape(label_ids, [-1]), logits=logits
  )


def multi_label_cross_entropy(
  logits: tf.Tensor,
  labels: tf.Tensor,
  label_weights: tf.Tensor | None = None,
) -> tf.Tensor:
  """Returns the loss of examples that have any number of labels.

  Args:
    logits: float Tensor of shape [batch_size, num_labels].
    labels: Tensor of the same type and shape; the probability that a label
      applies.
    label_weights: float Tensor of shape [num_labels]; factor of the loss where
      an example has the label. None for 1.

  Returns:
    Means over the labels, of shape [batch_size].
  """
  if label_weights is None:
    label_weights = tf.ones_like(logits[0])
  label_losses = tf.nn.weighted_cross_entropy_with_logits(
    labels=labels, logits=logits, pos_weight=label_weights
  )
  return tf.reduce_mean(label_losses, axis=-1)


def squared_error(predictions: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
  """Returns the squared errors of Tensors with n elements, of shape [n]."""
  errors = tf.reshape(predictions, [-1]) - tf.reshape(targets, [-1])
  return tf.square(errors)


def weighted_sum(
  example_loss: tf.Tensor, example_weights: tf.Tensor
) -> SumAndWeight:
  """Returns the sum of weighted losses, and the sum of the weights."""
  return (
    tf.reduce_sum(example_loss * example_weights),
    tf.reduce_sum(example_weights),
  )


# --- Losses of a batch -------------------------------------------------------


def masked_lm_loss(
  logits: tf.Tensor, label_ids: tf.Tensor, label_weights: tf.Tensor
) -> SumAndWeight:
  """Returns the cross entropy of the words at masked positions (paper, 3.1).

  Args:
    logits: float Tensor of shape [rows, vocab_size].
    label_ids: int Tensor with `rows` elements.
    label_weights: float Tensor with `rows` elements; 0 where a prediction is
      not used.

  Returns:
    The sum of weighted losses, and their weight.
  """
  label_weights = tf.reshape(tf.cast(label_weights, tf.float32), [-1])
  example_loss = cross_entropy(tf.cast(logits, tf.float32), label_ids)
  total, weight = weighted_sum(example_loss, label_weights)
  # As in the original code: a batch without masks has the loss 0.
  return total, weight + 1e-5


def classification_loss(
  logits: tf.Tensor, label_ids: tf.Tensor, example_weights: tf.Tensor
) -> SumAndWeight:
  """Returns the cross entropy of examples that have one label each.

  Args:
    logits: float32 Tensor of shape [batch_size, num_labels].
    label_ids: int Tensor with `batch_size` elements.
    example_weights: float32 Tensor of shape [batch_size]; 0 for examples that
      only fill up a batch.

  Returns:
    The sum of weighted losses, and their weight.
  """
  return weighted_sum(cross_entropy(logits, label_ids), example_weights)


def multi_label_loss(
  logits: tf.Tensor,
  labels: tf.Tensor,
  example_weights: tf.Tensor,
  label_weights: tf.Tensor | None = None,
) -> SumAndWeight:
  """Returns the cross entropy of examples that have any number of labels.

  Args:
    logits: float32 Tensor of shape [batch_size, num_labels].
    labels: float32 Tensor of the same shape; the probability that a label
      applies.
    example_weights: float32 Tensor of shape [batch_size].
    label_weights: see `multi_label_cross_entropy`.

  Returns:
    The sum of weighted losses, and their weight.
  """
  example_loss = multi_label_cross_entropy(logits, labels, label_weights)
  return weighted_sum(example_loss, example_weights)


def regression_loss(
  predictions: tf.Tensor, targets: tf.Tensor, example_weights: tf.Tensor
) -> SumAndWeight:
  """Returns the squared error.

  Args:
    predictions: float32 Tensor with `batch_size` elements.
    targets: float32 Tensor with `batch_size` elements.
    example_weights: float32 Tensor of shape [batch_size].

  Returns:
    The sum of weighted losses, and their weight.
  """
  return weighted_sum(squared_error(predictions, targets), example_weights)


def distillation_loss(
  logits: tf.Tensor,
  teacher_logits: tf.Tensor,
  example_weights: tf.Tensor,
  temperature: float,
) -> SumAndWeight:
  """Returns the cross entropy with a teacher's labels (Hinton et al., 2015).

  At the temperature T the probabilities of both are softmax(logits / T). The
  factor T ** 2 keeps the size of the gradient.

  Args:
    logits: float32 Tensor of shape [batch_size, num_labels].
    teacher_logits: float32 Tensor of the same shape.
    example_weights: float32 Tensor of shape [batch_size].
    temperature: The temperature T.

  Returns:
    The sum of weighted losses, and their weight.
  """
  example_loss = tf.nn.softmax_cross_entropy_with_logits(
    labels=tf.nn.softmax(teacher_logits / temperature),
    logits=logits / temperature,
  )
  return weighted_sum(temperature**2 * example_loss, example_weights)


def multi_label_distillation_loss(
  logits: tf.Tensor,
  teacher_logits: tf.Tensor,
  example_weights: tf.Tensor,
  temperature: float,
) -> SumAndWeight:
  """Returns `distillation_loss` for examples with any number of labels.

  The probabilities are sigmoid(logits / T); the arguments are the same.
  """
  total, weight = multi_label_loss(
    logits / temperature,
    tf.sigmoid(teacher_logits / temperature),
    example_weights,
  )
  return total * temperature**2, weight


def token_loss(
  logits: tf.Tensor, label_ids: tf.Tensor, label_weights: tf.Tensor
) -> SumAndWeight:
  """Returns the cross entropy of tokens that have one label each (paper, 5.3).

  Args:
    logits: float32 Tensor of shape [batch_size, seq_length, num_labels].
    label_ids: int Tensor of shape [batch_size, seq_length].
    label_weights: float32 Tensor of shape [batch_size, seq_length]; 0 where a
      token has no label.

  Returns:
    The sum of weighted losses, and their weight.
  """
  return classification_loss(
    tf.reshape(logits, [-1, logits.shape[-1]]),
    label_ids,
    tf.reshape(label_weights, [-1]),
  )


def span_loss(
  start_logits: tf.Tensor,
  end_logits: tf.Tensor,
  start_positions: tf.Tensor,
  end_positions: tf.Tensor,
  example_weights: tf.Tensor,
) -> SumAndWeight:
  """Returns the mean of the cross entropies of start and end (paper, 4.2).

  Args:
    start_logits: float32 Tensor of shape [batch_size, seq_length].
    end_logits: float32 Tensor of the same shape.
    start_positions: int Tensor of shape [batch_size].
    end_positions: int Tensor of shape [batch_size].
    example_weights: float32 Tensor of shape [batch_size].

  Returns:
    The sum of weighted losses, and their weight.
  """
  start, weight = classification_loss(
    start_logits, start_positions, example_weights
  )
  end, _ = classification_loss(end_logits, end_positions, example_weights)
  return (start + end) / 2.0, weight


def correct(
  logits: tf.Tensor, label_ids: tf.Tensor, label_weights: tf.Tensor
) -> SumAndWeight:
  """Returns the counts from which a weighted accuracy follows.

  Args:
    logits: float Tensor of shape [rows, num_classes].
    label_ids: int Tensor of shape [rows].
    label_weights: float32 Tensor of shape [rows].

  Returns:
    The weight of the rows that are predicted right, and the weight of all.
  """
  predictions = tf.argmax(logits, axis=-1, output_type=label_ids.dtype)
  is_right = tf.cast(predictions == label_ids, tf.float32)
  return weighted_sum(is_right, label_weights)
