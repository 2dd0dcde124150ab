"""AdamW as BERT used it, LAMB, and their learning-rate schedules.

`OPTIMIZERS` and `LR_DECAYS` list what can be chosen. The flags, the slots in
checkpoints and the estimate of the memory follow from these two tables: a new
optimizer is a class and an entry, a new decay a function and an entry.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import math
import re
from typing import Any, NamedTuple

import tensorflow as tf

Schedule = Callable[[Any], "tf.Tensor"]

# Variables with these names are not decayed, and LAMB does not scale their
# updates.
_NOT_DECAYED = ("LayerNorm", "layer_norm", "bias")
# Share of the steps, at their end, in which `warmup_stable_decay` falls.
_WSD_DECAY_SHARE = 0.2


# --- Learning rates ----------------------------------------------------------


def linear_decay(
  learning_rate: float, num_train_steps: int, num_warmup_steps: int
) -> Schedule:
  """Returns the schedule of BERT (paper, section A.2).

  See `polynomial_decay`; the power is 1.
  """
  return polynomial_decay(
    learning_rate, num_train_steps, num_warmup_steps, power=1.0
  )


def polynomial_decay(
  learning_rate: float,
  num_train_steps: int,
  num_warmup_steps: int,
  power: float = 1.0,
) -> Schedule:
  """Returns a schedule: int step -> learning rate, a float32 scalar.

  During warm-up the rate rises linearly from 0 at step 0. Afterwards it is
  `learning_rate` * (1 - step / num_train_steps) ** power. The decay counts from
  step 0, so the rate drops when the warm-up ends, as in the original code:

      step   0    5    9    10    50    100     of 100, with 10 for the warm-up
      rate   0   .5   .9    .9    .5     0      times `learning_rate`

  Args:
    learning_rate: Rate that the warm-up rises to.
    num_train_steps: Step at which the rate reaches 0.
    num_warmup_steps: Number of steps of the warm-up.
    power: Exponent of the decay.
  """

  def decay(step):
    remaining = 1.0 - tf.minimum(step, num_train_steps) / num_train_steps
    return remaining if power == 1.0 else remaining**power

  return _after_warmup(learning_rate, num_warmup_steps, decay)


def cosine_decay(
  learning_rate: float, num_train_steps: int, num_warmup_steps: int
) -> Schedule:
  """Returns a schedule with the shape of a half cosine.

  Loshchilov and Hutter (2017). The rate rises from 0 at step 0 to
  `learning_rate` at `num_warmup_steps`, and falls from there, without a jump,
  to 0 at `num_train_steps`.
  """
  num_decay_steps = max(1, num_train_steps - num_warmup_steps)

  def decay(step):
    progress = (step - num_warmup_steps) / num_decay_steps
    progress = tf.clip_by_value(progress, 0.0, 1.0)
    return 0.5 * (1.0 + tf.cos(math.pi * progress))

  return _after_warmup(learning_rate, num_warmup_steps, decay)


def warmup_stable_decay(
  learning_rate: float, num_train_steps: int, num_warmup_steps: int
) -> Schedule:
  """Returns a schedule that stays at its highest rate for most of the steps.

  Hu et al. (2024). The rate rises from 0 at step 0 to `learning_rate` at
  `num_warmup_steps`, stays there, and falls linearly to 0 in the last fifth of
  the steps.
  """
  num_decay_steps = max(1.0, _WSD_DECAY_SHARE * num_train_steps)

  def decay(step):
    return tf.clip_by_value(
      (num_train_steps - step) / num_decay_steps, 0.0, 1.0
    )

  return _after_warmup(learning_rate, num_warmup_steps, decay)


def _after_warmup(
  learning_rate: float,
  num_warmup_steps: int,
  decay: Callable[[tf.Tensor], tf.Tensor],
) -> Schedule:
  """Returns a schedule that rises linearly, then follows `decay`."""

  def schedule(step):
    step = tf.cast(step, tf.float32)
    factor = decay(step)
    if num_warmup_steps:
      is_warmup = step < num_warmup_steps
      factor = tf.where(is_warmup, step / num_warmup_steps, factor)
    return learning_rate * factor

  return schedule


class LearningRateDecay(NamedTuple):
  """A choice of --lr_decay.

  Attributes:
    make_schedule: (learning_rate, num_train_steps, num_warmup_steps) ->
      schedule; with `has_power` also the keyword `power`.
    has_power: Whether --lr_decay_power applies.
  """

  make_schedule: Callable[..., Schedule]
  has_power: bool = False


LR_DECAYS = {
  "linear": LearningRateDecay(linear_decay),
  "poly": LearningRateDecay(polynomial_decay, has_power=True),
  "cosine": LearningRateDecay(cosine_decay),
  "wsd": LearningRateDecay(warmup_stable_decay),
}


def layerwise_multiplier(
  num_hidden_layers: int, decay: float
) -> Callable[[str], float]:
  """Returns a function from the name of a variable to a factor of its rate.

  Layers closer to the input learn more slowly (Howard and Ruder, 2018). Each
  layer has `decay` times the rate of the one above:

      head, pooler   layer_11   layer_10   ...   layer_0     embeddings
            1         decay     decay**2         decay**12    decay**13

  Args:
    num_hidden_layers: Number of layers of the encoder.
    decay: Factor from 0 to 1; 1 gives all variables the same rate.
  """

  def multiplier(name):
    layer = re.search(r"/layer_(\d+)/", name)
    if layer:
      return decay ** (num_hidden_layers - int(layer.group(1)))
    if "/embeddings/" in name:
      return decay ** (num_hidden_layers + 1)
    return 1.0

  return multiplier


# --- Optimizers --------------------------------------------------------------


class UpdateFactors(NamedTuple):
  """Factors of an update, float32 scalars.

  They are computed once for all variables that have the same learning rate. If
  each variable computed its own, a quarter of the operations that TensorFlow
  traces before the first step would be copies of these.

  Attributes:
    gradient_scale: Factor of the gradient: clipping, and what undoes the loss
      scale.
    rate: Learning rate of the variables.
    kept_share: Share of a weight that decay leaves.
    beta_1: Decay of the average of gradients.
    beta_2: Decay of the average of squared gradients.
    bias_1: Share of its true size that the first average has so far; 1 without
      bias correction.
    bias_2: The same for the second average.
    corrected_rate: `rate`, times what corrects the bias of both averages.
    corrected_epsilon: Epsilon, scaled like a second average that is not
      corrected.
  """

  gradient_scale: tf.Tensor
  rate: tf.Tensor
  kept_share: tf.Tensor
  beta_1: tf.Tensor
  beta_2: tf.Tensor
  bias_1: tf.Tensor
  bias_2: tf.Tensor
  corrected_rate: tf.Tensor
  corrected_epsilon: tf.Tensor


class AdamWeightDecayOptimizer:
  """Adam with weight decay outside of the gradient (AdamW).

  Each step scales the gradients down to a global norm of at most `clip_norm`,
  updates the averages m and v as in Kingma and Ba (2015), and moves the weights
  by

      -rate * (m / (sqrt(v) + epsilon) + weight_decay_rate * weight)

  BERT used m and v as they are. With `bias_correction`, update number t divides
  them by 1 - beta ** t, which compensates for their start at zero, and the
  method is AdamW as in Loshchilov and Hutter (2019).

  The update that takes the step count from n to n + 1 uses the rate of step
  n + 1: released checkpoints were trained that way, and no update is lost to
  rate 0.

  Attributes:
    slot_names: Names of the variables that are kept for each weight.
    schedule: Learning rate by step.
  """

  slot_names: tuple[str, ...] = ("adam_m", "adam_v")

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
    """Stores the constants of the method.

    Args:
      schedule: Int step -> learning rate, a float32 scalar.
      weight_decay_rate: Share of a weight that an update subtracts, times the
        learning rate.
      beta_1: Decay of the average of gradients.
      beta_2: Decay of the average of squared gradients.
      epsilon: Number that is added to the root of the second average.
      clip_norm: Largest global norm of the gradients of all variables.
      bias_correction: Whether to correct both averages for their start at zero.
      exclude_from_weight_decay: Patterns of names of variables that are not
        decayed.
      rate_multiplier: Name of a variable -> factor of its learning rate.
    """
    self.schedule = schedule
    self._weight_decay_rate = weight_decay_rate
    self._beta_1 = beta_1
    self._beta_2 = beta_2
    self._epsilon = epsilon
    self._clip_norm = clip_norm
    self._bias_correction = bias_correction
    self._exclude = re.compile("|".join(exclude_from_weight_decay) or "$^")
    self._rate_multiplier = rate_multiplier or (lambda name: 1.0)
    # Name of a variable -> name of a slot -> variable.
    self._slots: dict[str, dict[str, tf.Variable]] = {}

  @property
  def variables(self) -> tuple[tf.Variable, ...]:
    """All slots of all weights."""
    slots = []
    for slots_of_weight in self._slots.values():
      slots.extend(slots_of_weight.values())
    return tuple(slots)

  def build(self, variables: Sequence[tf.Variable]) -> None:
    """Creates the slots `<name>/<slot name>`, zero, for each variable."""
    for variable in variables:
      name = _name_of(variable)
      self._slots[name] = {
        slot: tf.Variable(
          tf.zeros(variable.shape), trainable=False, name=f"{name}/{slot}"
        )
        for slot in self.slot_names
      }

  def apply_gradients(
    self,
    gradients: Sequence[tf.Tensor],
    variables: Sequence[tf.Variable],
    step: Any,
    is_good: Any = True,
    gradient_scale: Any = 1.0,
  ) -> tf.Tensor:
    """Updates `variables`. Every replica calls this in its own context.

    Gradients that are not finite change nothing.

    Args:
      gradients: Dense float32 Tensors: gradients of the loss over the global
        batch.
      variables: Variables that `build` was given, in the order of `gradients`.
      step: Number of updates before this one, an int scalar.
      is_good: Bool scalar; if False, nothing changes.
      gradient_scale: Factor that the gradients have, a float scalar.

    Returns:
      The global norm of the gradients, float32 scalar, before clipping and
      without `gradient_scale`.
    """
    norm = tf.linalg.global_norm(gradients) / gradient_scale
    is_good = tf.logical_and(is_good, tf.math.is_finite(norm))
    clipping = self._clip_norm / tf.maximum(norm, self._clip_norm)
    # With these factors a bad step leaves every weight and average as it is.
    rate = tf.where(is_good, self.schedule(step + 1), 0.0)
    bias_1 = self._bias(self._beta_1, step)
    bias_2 = self._bias(self._beta_2, step)
    shared = dict(
      gradient_scale=tf.where(is_good, clipping / gradient_scale, 0.0),
      beta_1=tf.where(is_good, self._beta_1, 1.0),
      beta_2=tf.where(is_good, self._beta_2, 1.0),
      bias_1=bias_1,
      bias_2=bias_2,
      corrected_epsilon=self._epsilon * tf.sqrt(bias_2),
    )

    def factors_of(multiplier):
      own_rate = rate * multiplier
      return UpdateFactors(
        rate=own_rate,
        kept_share=1.0 - own_rate * self._weight_decay_rate,
        corrected_rate=own_rate * tf.sqrt(bias_2) / bias_1,
        **shared,
      )

    multipliers = [self._rate_multiplier(_name_of(each)) for each in variables]
    factors = {each: factors_of(each) for each in dict.fromkeys(multipliers)}
    factors_of_each = [factors[each] for each in multipliers]
    context = tf.distribute.get_replica_context()
    context.merge_call(
      self._update_all, (variables, gradients, factors_of_each)
    )
    return norm

  def _bias(self, beta: float, step) -> tf.Tensor:
    """Returns the share of its true size that an average has after a step."""
    if not self._bias_correction:
      return tf.ones([])
    return 1.0 - tf.pow(beta, tf.cast(step + 1, tf.float32))

  def _update_all(self, strategy, variables, gradients, factors_of_each):
    """Updates the variables on all devices; called once for all replicas."""
    for variable, gradient, factors in zip(
      variables, gradients, factors_of_each
    ):
      name = _name_of(variable)
      strategy.extended.update(
        variable,
        self._update,
        args=(self._slots[name], gradient, factors),
        kwargs=dict(is_decayed=self._exclude.search(name) is None),
      )

  def _update(
    self,
    variable: tf.Variable,
    slots: dict[str, tf.Variable],
    gradient: tf.Tensor,
    factors: UpdateFactors,
    is_decayed: bool,
  ) -> None:
    """Updates one variable and its slots on one device.

    Args:
      variable: The variable.
      slots: Its slots, by their entry in `slot_names`.
      gradient: Its gradient, without `factors.gradient_scale`.
      factors: Factors of this update.
      is_decayed: Whether its weights are decayed.
    """
    if is_decayed:
      variable.assign(variable * factors.kept_share)
    # One fused kernel, twice as fast as elementary operations. Its own bias
    # correction is off (powers of beta that are zero), because it would also
    # scale epsilon.
    zero = tf.zeros([])
    tf.raw_ops.ResourceApplyAdam(
      var=variable.handle,
      m=slots["adam_m"].handle,
      v=slots["adam_v"].handle,
      beta1_power=zero,
      beta2_power=zero,
      lr=factors.corrected_rate,
      beta1=factors.beta_1,
      beta2=factors.beta_2,
      epsilon=factors.corrected_epsilon,
      grad=tf.math.multiply_no_nan(gradient, factors.gradient_scale),
    )


class LAMBOptimizer(AdamWeightDecayOptimizer):
  """Layer-wise adaptive moments for large batches (You et al., 2020).

  Algorithm 2 of the paper: the update of AdamW with bias correction and decay,
  scaled for each variable to the norm of its weights. Variables that are not
  decayed move as with AdamW.
  """

  def __init__(self, schedule: Schedule, **kwargs: Any):
    """Takes the arguments of `AdamWeightDecayOptimizer`.

    It always corrects the bias, so there is no `bias_correction`.
    """
    super().__init__(schedule, bias_correction=True, **kwargs)

  def _update(
    self,
    variable: tf.Variable,
    slots: dict[str, tf.Variable],
    gradient: tf.Tensor,
    factors: UpdateFactors,
    is_decayed: bool,
  ) -> None:
    adam_m, adam_v = slots["adam_m"], slots["adam_v"]
    gradient = tf.math.multiply_no_nan(gradient, factors.gradient_scale)
    m = adam_m + (1.0 - factors.beta_1) * (gradient - adam_m)
    v = adam_v + (1.0 - factors.beta_2) * (tf.square(gradient) - adam_v)
    adam_m.assign(m)
    adam_v.assign(v)
    root = tf.sqrt(v / factors.bias_2)
    update = (m / factors.bias_1) / (root + self._epsilon)
    ratio = 1.0
    if is_decayed:
      update += self._weight_decay_rate * variable
      weight_norm, update_norm = tf.norm(variable), tf.norm(update)
      # Weights that are all zero must be able to change.
      ratio = tf.where(
        weight_norm * update_norm > 0.0,
        tf.math.divide_no_nan(weight_norm, update_norm),
        1.0,
      )
    variable.assign_sub(factors.rate * ratio * update)


class OptimizerChoice(NamedTuple):
  """A choice of --optimizer.

  Attributes:
    optimizer_class: The class.
    description: Use of the optimizer, for the help of the flag.
    has_bias_correction: Whether --bias_correction applies.
  """

  optimizer_class: type[AdamWeightDecayOptimizer]
  description: str
  has_bias_correction: bool = False


OPTIMIZERS = {
  "adamw": OptimizerChoice(
    AdamWeightDecayOptimizer, "as BERT used it", has_bias_correction=True
  ),
  "lamb": OptimizerChoice(LAMBOptimizer, "for batches of thousands"),
}

# The last part of the names of all slots in checkpoints.
SLOT_NAMES = sorted(
  {
    name
    for choice in OPTIMIZERS.values()
    for name in choice.optimizer_class.slot_names
  }
)


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
    learning_rate: Highest learning rate.
    num_train_steps: Step at which the rate reaches 0.
    num_warmup_steps: Number of steps in which the rate rises.
    optimizer: A name in `OPTIMIZERS`.
    lr_decay: A name in `LR_DECAYS`.
    lr_decay_power: Exponent of the decay, if it has one.
    bias_correction: Whether to correct averages for their start at zero, if
      the optimizer leaves the choice.
    rate_multiplier: Name of a variable -> factor of its learning rate.
  """
  decay = LR_DECAYS[lr_decay]
  decay_options = {"power": lr_decay_power} if decay.has_power else {}
  schedule = decay.make_schedule(
    learning_rate, num_train_steps, num_warmup_steps, **decay_options
  )
  choice = OPTIMIZERS[optimizer]
  options: dict[str, Any] = {"rate_multiplier": rate_multiplier}
  if choice.has_bias_correction:
    options["bias_correction"] = bias_correction
  return choice.optimizer_class(schedule, **options)


def _name_of(variable: tf.Variable) -> str:
  return variable.name.split(":")[0]
