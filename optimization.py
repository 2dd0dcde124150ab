"""AdamW as BERT used it, LAMB, and their learning-rate schedules."""

from collections.abc import Callable, Sequence
import math
import re

import tensorflow as tf

Schedule = Callable[[tf.Tensor], tf.Tensor]

# Names of variables that are not decayed, and whose LAMB update is not scaled.
_NOT_DECAYED = ("LayerNorm", "layer_norm", "bias")


# --- Learning rates ----------------------------------------------------------


def polynomial_decay(
  learning_rate: float,
  num_train_steps: int,
  num_warmup_steps: int,
  power: float = 1.0,
) -> Schedule:
  """Returns the learning rate of a step: float32 scalar of an int scalar.

  It rises from 0 at step 0 to `learning_rate` at `num_warmup_steps`, and falls
  as (1 - step / num_train_steps) ** power, from step 0 on. The two do not meet:
  when the warm-up ends, the rate steps down, as it always did. Power 1 is
  BERT's (paper, section A.2).
  """

  def decayed(step):
    left = 1.0 - tf.minimum(step, num_train_steps) / num_train_steps
    return left if power == 1.0 else left**power

  return _after_warmup(learning_rate, num_warmup_steps, decayed)


def cosine_decay(
  learning_rate: float, num_train_steps: int, num_warmup_steps: int
) -> Schedule:
  """Returns a rate that falls as half a cosine (Loshchilov and Hutter, 2017).

  It rises from 0 at step 0 to `learning_rate` at `num_warmup_steps`, and falls
  from there to 0 at `num_train_steps`, without a step.
  """

  def decayed(step):
    progress = (step - num_warmup_steps) / max(
      1, num_train_steps - num_warmup_steps
    )
    return 0.5 * (1.0 + tf.cos(math.pi * tf.clip_by_value(progress, 0.0, 1.0)))

  return _after_warmup(learning_rate, num_warmup_steps, decayed)


def _after_warmup(learning_rate, num_warmup_steps, decayed) -> Schedule:
  def schedule(step):
    step = tf.cast(step, tf.float32)
    factor = decayed(step)
    if num_warmup_steps:
      factor = tf.where(
        step < num_warmup_steps, step / num_warmup_steps, factor
      )
    return learning_rate * factor

  return schedule


def layerwise_multiplier(
  num_hidden_layers: int, decay: float
) -> Callable[[str], float]:
  """Returns what to multiply the rate of a variable by, from its name.

  Layers nearer to the text learn more slowly (Howard and Ruder, 2018): the
  head and the pooler have the full rate, the top layer `decay` of it, each
  layer below `decay` of the one above, and the embeddings come last.

  Args:
    num_hidden_layers: of the encoder.
    decay: from 0 to 1; 1 for one rate for all.
  """

  def multiplier(name):
    layer = re.search(r"/layer_(\d+)/", name)
    if layer:
      return decay ** (num_hidden_layers - int(layer.group(1)))
    return decay ** (num_hidden_layers + 1) if "/embeddings/" in name else 1.0

  return multiplier


# --- Optimizers --------------------------------------------------------------


class AdamWeightDecayOptimizer(tf.Module):
  """Adam with weight decay outside the gradient (AdamW).

  Each step: gradients are scaled down to a global norm of at most `clip_norm`;
  m and v are averaged as in Kingma and Ba (2015); the weights move by

      -rate * (m / (sqrt(v) + epsilon) + weight_decay_rate * weight)

  BERT used m and v as they are. With `bias_correction` they are divided by
  1 - beta ** t at update t, which makes up for their start at zero, and the
  method is AdamW as Loshchilov and Hutter (2019) have it.

  The update that takes the step count from n to n + 1 has the rate of step
  n + 1: released checkpoints were trained so, and no update is lost to rate 0.

  Attributes:
    schedule: the learning rate of a step.
  """

  def __init__(
    self,
    schedule: Schedule,
    weight_decay_rate: float = 0.01,
    beta_1: float = 0.9,
    beta_2: float = 0.999,
    epsilon: float = 1e-6,
    clip_norm: float = 1.0,
    bias_correction: bool = False,
    exclude_from_weight_decay: Sequence[str] = _NOT_DECAYED,
    rate_multiplier: Callable[[str], float] | None = None,
  ):
    """Takes the constants of the method.

    Args:
      schedule: int step -> float32 learning rate.
      weight_decay_rate: share of a weight that is taken off, times the rate.
      beta_1: decay of the average of gradients.
      beta_2: decay of the average of their squares.
      epsilon: added to the root of the latter.
      clip_norm: largest global norm of the gradients of all variables.
      bias_correction: whether to correct m and v for their start at zero.
      exclude_from_weight_decay: patterns of names of variables not to decay.
      rate_multiplier: name of a variable -> what to multiply its rate by.
    """
    super().__init__()
    self.schedule = schedule
    self._weight_decay_rate = weight_decay_rate
    self._beta_1 = beta_1
    self._beta_2 = beta_2
    self._epsilon = epsilon
    self._clip_norm = clip_norm
    self._bias_correction = bias_correction
    self._exclude = re.compile("|".join(exclude_from_weight_decay) or "$^")
    self._rate_multiplier = rate_multiplier or (lambda name: 1.0)
    self._slots = {}  # name of a variable -> (adam_m, adam_v)

  def build(self, variables: Sequence[tf.Variable]) -> None:
    """Creates `<name>/adam_m` and `<name>/adam_v`, zero, for each variable."""
    for variable in variables:
      self._slots[_name(variable)] = tuple(
        tf.Variable(
          tf.zeros(variable.shape),
          trainable=False,
          name=f"{_name(variable)}/{slot}",
        )
        for slot in ("adam_m", "adam_v")
      )

  def apply_gradients(
    self,
    gradients: Sequence[tf.Tensor],
    variables: Sequence[tf.Variable],
    step,
    is_good=True,
    gradient_scale=1.0,
  ) -> tf.Tensor:
    """Updates `variables`; called in the context of a replica.

    Gradients that are not finite change nothing.

    Args:
      gradients: dense float32 Tensors, of the loss over the global batch.
      variables: of those that `build` was given, in the order of `gradients`.
      step: int scalar, how many updates there were before this one.
      is_good: bool scalar; if False, nothing changes.
      gradient_scale: float scalar, what the gradients have been multiplied by.

    Returns:
      The global norm of the gradients, float32 scalar, before clipping and
      without `gradient_scale`.
    """
    norm = tf.linalg.global_norm(gradients) / gradient_scale
    is_good = tf.logical_and(is_good, tf.math.is_finite(norm))
    # A factor of 0 makes the gradients 0 and every average stay as it is.
    scale = tf.where(
      is_good,
      self._clip_norm / tf.maximum(norm, self._clip_norm) / gradient_scale,
      0.0,
    )
    rate = tf.where(is_good, self.schedule(step + 1), 0.0)
    beta_1 = tf.where(is_good, self._beta_1, 1.0)
    beta_2 = tf.where(is_good, self._beta_2, 1.0)
    tf.distribute.get_replica_context().merge_call(
      self._update_all,
      args=(
        variables,
        gradients,
        scale,
        rate,
        beta_1,
        beta_2,
        self._bias(self._beta_1, step),
        self._bias(self._beta_2, step),
      ),
    )
    return norm

  def _bias(self, beta, step) -> tf.Tensor:
    """Returns how much of its true size an average has after this update."""
    if not self._bias_correction:
      return tf.ones([])
    return 1.0 - tf.pow(beta, tf.cast(step + 1, tf.float32))

  def _update_all(self, strategy, variables, gradients, *numbers):
    for variable, gradient in zip(variables, gradients):
      name = _name(variable)
      strategy.extended.update(
        variable,
        self._update,
        args=(*self._slots[name], gradient, *numbers),
        kwargs={
          "rate_multiplier": self._rate_multiplier(name),
          "decays": not self._exclude.search(name),
        },
      )

  def _update(
    self,
    variable,
    adam_m,
    adam_v,
    gradient,
    scale,
    rate,
    beta_1,
    beta_2,
    bias_1,
    bias_2,
    rate_multiplier,
    decays,
  ):
    rate = rate * rate_multiplier
    if decays:
      variable.assign(variable * (1.0 - rate * self._weight_decay_rate))
    # One fused kernel, twice as fast as the same in elementary operations. Its
    # own correction is off (powers of beta that are zero): it scales epsilon.
    zero = tf.zeros([])
    tf.raw_ops.ResourceApplyAdam(
      var=variable.handle,
      m=adam_m.handle,
      v=adam_v.handle,
      beta1_power=zero,
      beta2_power=zero,
      lr=rate * tf.sqrt(bias_2) / bias_1,
      beta1=beta_1,
      beta2=beta_2,
      epsilon=self._epsilon * tf.sqrt(bias_2),
      grad=tf.math.multiply_no_nan(gradient, scale),
    )


class LAMBOptimizer(AdamWeightDecayOptimizer):
  """Layer-wise adaptive moments for large batches (You et al., 2020).

  Algorithm 2 of the paper: the update of AdamW, bias correction and decay
  included, scaled for each variable to the norm of its weights. Variables that
  are not decayed move as under AdamW.
  """

  def __init__(self, schedule: Schedule, **kwargs):
    """Takes what `AdamWeightDecayOptimizer` takes, but `bias_correction`."""
    super().__init__(schedule, bias_correction=True, **kwargs)

  def _update(
    self,
    variable,
    adam_m,
    adam_v,
    gradient,
    scale,
    rate,
    beta_1,
    beta_2,
    bias_1,
    bias_2,
    rate_multiplier,
    decays,
  ):
    gradient = tf.math.multiply_no_nan(gradient, scale)
    m = adam_m + (1.0 - beta_1) * (gradient - adam_m)
    v = adam_v + (1.0 - beta_2) * (tf.square(gradient) - adam_v)
    adam_m.assign(m)
    adam_v.assign(v)
    update = (m / bias_1) / (tf.sqrt(v / bias_2) + self._epsilon)
    ratio = 1.0
    if decays:
      update += self._weight_decay_rate * variable
      weight_norm, update_norm = tf.norm(variable), tf.norm(update)
      # A weight that is zero has to be able to leave zero.
      ratio = tf.where(
        weight_norm * update_norm > 0.0,
        tf.math.divide_no_nan(weight_norm, update_norm),
        1.0,
      )
    variable.assign_sub(rate * rate_multiplier * ratio * update)


def create_optimizer(
  learning_rate: float,
  num_train_steps: int,
  num_warmup_steps: int,
  optimizer: str = "adamw",
  lr_decay: str = "linear",
  lr_decay_power: float = 1.0,
  bias_correction: bool = False,
  rate_multiplier: Callable[[str], float] | None = None,
) -> AdamWeightDecayOptimizer:
  """Returns an optimizer; by default that of the paper (section A.2).

  Args:
    learning_rate: the highest rate.
    num_train_steps: the step at which the rate has fallen to 0.
    num_warmup_steps: the steps in which it rises.
    optimizer: `adamw` or `lamb`.
    lr_decay: `linear`, `poly` or `cosine`.
    lr_decay_power: of `poly`.
    bias_correction: of `adamw`; `lamb` always corrects.
    rate_multiplier: name of a variable -> what to multiply its rate by.
  """
  if lr_decay == "cosine":
    schedule = cosine_decay(learning_rate, num_train_steps, num_warmup_steps)
  else:
    schedule = polynomial_decay(
      learning_rate,
      num_train_steps,
      num_warmup_steps,
      power=lr_decay_power if lr_decay == "poly" else 1.0,
    )
  if optimizer == "lamb":
    return LAMBOptimizer(schedule, rate_multiplier=rate_multiplier)
  return AdamWeightDecayOptimizer(
    schedule, bias_correction=bias_correction, rate_multiplier=rate_multiplier
  )


def _name(variable: tf.Variable) -> str:
  return variable.name.split(":")[0]
