"""Adam with decoupled weight decay, and its schedule, as BERT used them."""

import re
from typing import Callable, Sequence

import tensorflow as tf

Schedule = Callable[[tf.Tensor], tf.Tensor]


def linear_warmup_and_decay(learning_rate: float, num_train_steps: int,
                            num_warmup_steps: int) -> Schedule:
  """Returns the learning rate of a step: float32 scalar of an int scalar.

  It rises from 0 at step 0 to `learning_rate` at `num_warmup_steps`, and falls
  on a line from `learning_rate` at step 0 to 0 at `num_train_steps`. The two
  do not meet: when the warm-up ends, the rate steps down, as it always did.
  """
  def schedule(step):
    step = tf.cast(step, tf.float32)
    decayed = learning_rate * (
        1.0 - tf.minimum(step, num_train_steps) / num_train_steps)
    if not num_warmup_steps:
      return decayed
    return tf.where(step < num_warmup_steps,
                    learning_rate * step / num_warmup_steps, decayed)

  return schedule


class AdamWeightDecayOptimizer(tf.Module):
  """Adam with weight decay outside the gradient, and no bias correction.

  Each step: gradients are scaled down to a global norm of at most `clip_norm`;
  m and v are averaged as in Kingma and Ba (2015), but used as they are, without
  the correction for their start at zero; the weights move by

      -rate * (m / (sqrt(v) + epsilon) + weight_decay_rate * weight)

  The update that takes the step count from n to n + 1 has the rate of step
  n + 1: released checkpoints were trained so, and no update is lost to rate 0.

  Attributes:
    schedule: the learning rate of a step.
  """

  def __init__(self, schedule: Schedule, weight_decay_rate: float = 0.01,
               beta_1: float = 0.9, beta_2: float = 0.999,
               epsilon: float = 1e-6, clip_norm: float = 1.0,
               exclude_from_weight_decay: Sequence[str] = (
                   "LayerNorm", "layer_norm", "bias")):
    """Takes the constants of the method.

    Args:
      schedule: int step -> float32 learning rate.
      weight_decay_rate: share of a weight that is taken off, times the rate.
      beta_1: decay of the average of gradients.
      beta_2: decay of the average of their squares.
      epsilon: added to the root of the latter.
      clip_norm: largest global norm of the gradients of all variables.
      exclude_from_weight_decay: patterns of names of variables not to decay.
    """
    super().__init__()
    self.schedule = schedule
    self._weight_decay_rate = weight_decay_rate
    self._beta_1 = beta_1
    self._beta_2 = beta_2
    self._epsilon = epsilon
    self._clip_norm = clip_norm
    self._exclude = re.compile("|".join(exclude_from_weight_decay) or "$^")
    self._slots = {}  # name of a variable -> (adam_m, adam_v)

  def build(self, variables: Sequence[tf.Variable]) -> None:
    """Creates `<name>/adam_m` and `<name>/adam_v`, zero, for each variable."""
    for variable in variables:
      self._slots[_name(variable)] = tuple(
          tf.Variable(tf.zeros_like(variable), trainable=False,
                      name=f"{_name(variable)}/{slot}")
          for slot in ("adam_m", "adam_v"))

  def apply_gradients(self, gradients: Sequence[tf.Tensor],
                      variables: Sequence[tf.Variable], step) -> tf.Tensor:
    """Updates `variables`; called in the context of a replica.

    Args:
      gradients: dense float32 Tensors, of the loss over the global batch.
      variables: what `build` was given, in the order of `gradients`.
      step: int scalar, how many updates there were before this one.

    Returns:
      The global norm of the gradients before clipping, float32 scalar.
    """
    norm = tf.linalg.global_norm(gradients)
    scale = self._clip_norm / tf.maximum(norm, self._clip_norm)
    rate = self.schedule(step + 1)
    tf.distribute.get_replica_context().merge_call(
        self._update_all, args=(variables, gradients, scale, rate))
    return norm

  def _update_all(self, strategy, variables, gradients, scale, rate):
    for variable, gradient in zip(variables, gradients):
      decays = not self._exclude.search(_name(variable))
      strategy.extended.update(
          variable, self._update,
          args=(*self._slots[_name(variable)], gradient, scale, rate, decays))

  def _update(self, variable, adam_m, adam_v, gradient, scale, rate, decays):
    if decays:
      variable.assign(variable * (1.0 - rate * self._weight_decay_rate))
    # One fused kernel, twice as fast as the same in elementary operations.
    # Powers of beta that are zero switch its bias correction off.
    zero = tf.zeros([])
    tf.raw_ops.ResourceApplyAdam(
        var=variable.handle, m=adam_m.handle, v=adam_v.handle,
        beta1_power=zero, beta2_power=zero, lr=rate, beta1=self._beta_1,
        beta2=self._beta_2, epsilon=self._epsilon, grad=gradient * scale)


def create_optimizer(learning_rate: float, num_train_steps: int,
                     num_warmup_steps: int) -> AdamWeightDecayOptimizer:
  """Returns the optimizer of the paper (section A.2) and its schedule."""
  return AdamWeightDecayOptimizer(linear_warmup_and_decay(
      learning_rate, num_train_steps, num_warmup_steps))


def _name(variable: tf.Variable) -> str:
  return variable.name.split(":")[0]
