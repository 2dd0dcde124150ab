"""The kinds of labels that texts can have, and what follows from each.

A problem type decides the form of targets, the meaning of logits and the loss
of an example. Targets of examples to evaluate may have further labels, which no
training example has. Arrays of n examples have these forms:

                  targets                          logits
    SingleLabel   int64 [n], number of the label   [n, num_labels]
    MultiLabel    float32 [n, num_labels], 0 or 1  [n, num_labels]
    Regression    float32 [n], the value           [n, 1]
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses

import numpy as np
import tensorflow as tf

import heads
import losses
from tasks import metrics


@dataclasses.dataclass(frozen=True)
class SingleLabel:
  """Each text has one label of several."""

  num_outputs: int

  @property
  def target_parser(self) -> tf.io.FixedLenFeature:
    """The parser of the targets in records."""
    return tf.io.FixedLenFeature([], tf.int64)

  def empty_targets(self, num_examples: int) -> np.ndarray:
    """Returns placeholder targets for examples whose label is not known."""
    return np.zeros([num_examples], np.int64)

  def keep_known_labels(self, targets: np.ndarray) -> np.ndarray:
    """Returns targets without further labels, which become placeholders."""
    return np.where(targets < self.num_outputs, targets, 0)

  def match_targets(
    self, decisions: np.ndarray, targets: np.ndarray
  ) -> np.ndarray:
    """Returns predictions of all labels of `targets`, for scores."""
    del targets
    return decisions

  def probabilities(self, logits: np.ndarray) -> np.ndarray:
    """Returns the probability of each label, float64 [n, num_labels]."""
    return np.exp(metrics.log_softmax(logits))

  def decide(self, logits: np.ndarray) -> np.ndarray:
    """Returns the predictions, in the form of targets."""
    return np.argmax(logits, axis=-1)

  def name_prediction(self, prediction, labels: Sequence[str]):
    """Returns the label of a prediction."""
    return labels[prediction]

  def example_losses(
    self, targets: np.ndarray, logits: np.ndarray
  ) -> np.ndarray:
    """Returns the loss of each example, float64 [n].

    It is infinite if the label cannot be predicted.
    """
    logits = np.asarray(logits, np.float64)
    known_targets = self.keep_known_labels(targets)
    known_losses = losses.cross_entropy(logits, known_targets).numpy()
    return np.where(targets < self.num_outputs, known_losses, np.inf)

  def teacher_loss(self, logits, teacher_logits, weights, temperature: float):
    """Returns the sum and the weight of the loss with a teacher's labels."""
    return losses.distillation_loss(
      logits, teacher_logits, weights, temperature
    )


@dataclasses.dataclass(frozen=True)
class MultiLabel:
  """Each text has any number of labels; methods as for `SingleLabel`."""

  num_outputs: int

  @property
  def target_parser(self) -> tf.io.FixedLenFeature:
    return tf.io.FixedLenFeature([self.num_outputs], tf.float32)

  def empty_targets(self, num_examples: int) -> np.ndarray:
    return np.zeros([num_examples, self.num_outputs], np.float32)

  def keep_known_labels(self, targets: np.ndarray) -> np.ndarray:
    return targets[:, : self.num_outputs]

  def match_targets(
    self, decisions: np.ndarray, targets: np.ndarray
  ) -> np.ndarray:
    num_further = targets.shape[1] - self.num_outputs
    return np.pad(decisions, [(0, 0), (0, num_further)])

  def probabilities(self, logits: np.ndarray) -> np.ndarray:
    return metrics.sigmoid(logits)

  def decide(self, logits: np.ndarray) -> np.ndarray:
    return (logits > 0.0).astype(np.float32)

  def name_prediction(self, prediction, labels: Sequence[str]):
    """Returns the list of the labels of a prediction."""
    return [label for label, is_one in zip(labels, prediction) if is_one]

  def example_losses(
    self, targets: np.ndarray, logits: np.ndarray
  ) -> np.ndarray:
    targets = np.asarray(self.keep_known_labels(targets), np.float64)
    logits = np.asarray(logits, np.float64)
    return losses.multi_label_cross_entropy(logits, targets).numpy()

  def teacher_loss(self, logits, teacher_logits, weights, temperature: float):
    return losses.multi_label_distillation_loss(
      logits, teacher_logits, weights, temperature
    )


@dataclasses.dataclass(frozen=True)
class Regression:
  """Each text has a value; methods as for `SingleLabel`."""

  num_outputs: int = 1

  @property
  def target_parser(self) -> tf.io.FixedLenFeature:
    return tf.io.FixedLenFeature([], tf.float32)

  def empty_targets(self, num_examples: int) -> np.ndarray:
    return np.zeros([num_examples], np.float32)

  def keep_known_labels(self, targets: np.ndarray) -> np.ndarray:
    return targets

  def match_targets(
    self, decisions: np.ndarray, targets: np.ndarray
  ) -> np.ndarray:
    del targets
    return decisions

  def probabilities(self, logits: np.ndarray) -> np.ndarray:
    """Returns the values themselves, float64 [n, 1]."""
    return np.asarray(logits, np.float64)

  def decide(self, logits: np.ndarray) -> np.ndarray:
    return logits[:, 0]

  def name_prediction(self, prediction, labels: Sequence[str]):
    """Returns the value as a float."""
    del labels
    return float(prediction)

  def example_losses(
    self, targets: np.ndarray, logits: np.ndarray
  ) -> np.ndarray:
    logits, targets = (np.asarray(x, np.float64) for x in (logits, targets))
    return losses.squared_error(logits, targets).numpy()

  def teacher_loss(self, logits, teacher_logits, weights, temperature: float):
    del temperature  # the teacher's value is the target
    return losses.regression_loss(logits, teacher_logits, weights)


ProblemType = SingleLabel | MultiLabel | Regression

PROBLEM_TYPES: dict[str, type[ProblemType]] = {
  heads.SINGLE_LABEL: SingleLabel,
  heads.MULTI_LABEL: MultiLabel,
  heads.REGRESSION: Regression,
}
