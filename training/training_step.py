"""The training step: from a batch of features to updated weights.

`TrainingStep` makes one step on one replica. `StepLoop` repeats it inside the
graph, so that Python is needed once in a thousand steps and not in each.

Functions are traced with `autograph=False`: AutoGraph would rewrite every
Python function first, which takes longer than the tracing, and none of ours
needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

import optimization
from training import devices as devices_lib

# A sum over a batch, and the weight to divide it by.
SumAndWeight = tuple[tf.Tensor, tf.Tensor]

# The first scale of a float16 loss, and how many good steps double it.
_FIRST_LOSS_SCALE = 2.0**15
_GOOD_STEPS_TO_DOUBLE = 2000


class Losses(NamedTuple):
  """Result of a `loss_fn` for a batch.

  The loss is the sum, over the entries of `losses`, of sum divided by weight.
  Both are taken over the global batch, however it is split between devices.

  Attributes:
    losses: Name -> (sum, weight), float32 scalars. A weight may depend on the
      features, but not on the outputs of the model.
    metrics: The same, for numbers that are only reported.
  """

  losses: dict[str, SumAndWeight]
  metrics: dict[str, SumAndWeight] = {}


class Work(NamedTuple):
  """Size of a batch, float32 scalars.

  Attributes:
    tokens: Number of tokens, without padding.
    flops: Floating-point operations of a training step.
  """

  tokens: tf.Tensor
  flops: tf.Tensor


class StepReport(NamedTuple):
  """Numbers that training steps report.

  A step reports float32 scalars. A loop of steps reports float32 vectors with
  one entry for each step.

  Attributes:
    parts: Name -> part of the loss. The loss is their sum.
    gradient_norm: Global norm of the gradients before clipping.
    loss_scale: Factor of the loss in float16 training, otherwise 1.
    tokens: See `Work`.
    flops: See `Work`.
  """

  parts: dict[str, Any]
  gradient_norm: Any
  loss_scale: Any
  tokens: Any
  flops: Any

  @property
  def loss(self) -> Any:
    """The loss of each step."""
    return sum(self.parts.values())


class Differentiation(NamedTuple):
  """Loss and gradients of a batch, or of a part of it.

  Attributes:
    parts: Name -> part of the loss, float32 scalar.
    gradients: Position in `TrainingStep.variables` -> gradient times the loss
      scale. Variables that the loss does not depend on have no entry.
  """

  parts: dict[str, tf.Tensor]
  gradients: dict[int, tf.Tensor]


class LossScale:
  """Dynamic factor of a float16 loss (Micikevicius et al., 2018).

  Small gradients would become 0 in float16. The loss, and with it all
  gradients, is multiplied by a factor that is as large as they allow.

  Attributes:
    is_dynamic: Whether the factor changes; if not, it is 1.
    state: float32 variable [2]: the factor, and the number of good steps since
      it changed.
  """

  def __init__(self, compute_dtype: tf.DType):
    """Starts with a large factor if `compute_dtype` is float16."""
    self.is_dynamic: bool = compute_dtype == tf.float16
    first_scale = _FIRST_LOSS_SCALE if self.is_dynamic else 1.0
    self.state = tf.Variable([first_scale, 0.0], trainable=False)

  def read_factor(self) -> tf.Tensor:
    """Returns the factor, a float32 scalar."""
    return self.state[0]

  def adapt(self, report: StepReport) -> None:
    """Halves the factor after a bad step, doubles it after many good ones."""
    if not self.is_dynamic:
      return
    scale, num_good_steps = tf.unstack(self.state.read_value())
    is_good = _all_finite(report)
    num_good_steps = tf.where(is_good, num_good_steps + 1.0, 0.0)
    doubles = num_good_steps >= _GOOD_STEPS_TO_DOUBLE
    growth = tf.where(doubles, 2.0, 1.0)
    new_scale = scale * tf.where(is_good, growth, 0.5)
    self.state.assign(
      [tf.maximum(new_scale, 1.0), tf.where(doubles, 0.0, num_good_steps)]
    )


class TrainingStep:
  """One update of the weights from one batch, on one replica.

  Calling it makes the step. Everything that it draws at random depends only on
  the seed, the number of the step, the replica and the part of the batch.

  Attributes:
    variables: Trainable variables of the model.
    loss_fn: (features, dropout seed) -> `Losses`.
    optimizer: An optimizer of `optimization.py`, already built.
    work_fn: Features -> `Work`, or None.
    devices: All devices that train together.
    seed: Seed of the dropout.
    num_parts: Number of parts into which a replica splits its rows. They are
      processed one after the other, to save memory.
    xla: Whether to compile with XLA.
  """

  def __init__(
    self,
    variables: Sequence[tf.Variable],
    loss_fn: Callable[..., Losses],
    optimizer: optimization.AdamWeightDecayOptimizer,
    work_fn: Callable[..., Work] | None,
    devices: devices_lib.Devices,
    seed: int,
    num_parts: int = 1,
    xla: bool = False,
  ):
    """Chooses what to compile. The arguments become the attributes."""
    self.variables = list(variables)
    self.loss_fn = loss_fn
    self.optimizer = optimizer
    self.work_fn = work_fn
    self.devices = devices
    self.seed = seed
    self.num_parts = num_parts
    self.xla = xla
    self._make_step = self._make_step_in_graph
    self._differentiate_batch = self._differentiate_in_parts
    if xla and devices.num_replicas == 1:
      self._make_step = tf.function(
        self._make_step_in_graph, jit_compile=True, autograph=False
      )
    elif xla:
      # XLA on a CPU does not compile communication between replicas.
      self._differentiate_batch = tf.function(
        self._differentiate_in_parts, jit_compile=True, autograph=False
      )
    self._differentiate_part = tf.function(self._differentiate, autograph=False)

  def __call__(
    self,
    features: Mapping[str, tf.Tensor],
    step: tf.Tensor,
    loss_scale: tf.Tensor,
    flags: tf.Tensor,
  ) -> tuple[StepReport, tf.Tensor]:
    """Updates the variables. Every replica calls this in its own context.

    Args:
      features: Rows of this replica.
      step: Number of steps before this one, int64 scalar.
      loss_scale: Factor of the loss, float32 scalar.
      flags: Flags of `interruption.Call` on this worker.

    Returns:
      The report of the step, and the sum of the flags over all replicas.
    """
    return self._make_step(features, step, loss_scale, flags)

  def _make_step_in_graph(self, features, step, loss_scale, flags):
    weights = None
    if self.num_parts > 1 or self.devices.num_replicas > 1:
      weights = self._sum_loss_weights(features)
    seed = self._fold_dropout_seed(step)
    parts, gradients = self._differentiate_batch(
      features, weights, seed, loss_scale
    )
    work = Work(tf.constant(0.0), tf.constant(0.0))
    if self.work_fn:
      work = self.work_fn(features)
    # Each replica has divided by the weight of the global batch, so sums over
    # replicas are the loss and the gradient of the global batch.
    parts, gradients, work, flags = self.devices.sum_over_replicas(
      (parts, gradients, work, flags)
    )
    # Variables without a gradient stay as they are, without decay.
    norm = self.optimizer.apply_gradients(
      list(gradients.values()),
      [self.variables[position] for position in gradients],
      step,
      is_good=_all_finite(parts),
      gradient_scale=loss_scale,
    )
    return StepReport(parts, norm, loss_scale, *work), flags

  def _sum_loss_weights(self, features) -> dict[str, tf.Tensor]:
    """Returns the weights of the losses over the global batch, by name."""
    # Weights do not depend on the outputs of the model, so TensorFlow prunes
    # this forward pass down to them.
    losses = self.loss_fn(features, None).losses
    weights = {name: weight for name, (_, weight) in losses.items()}
    return self.devices.sum_over_replicas(weights)

  def _fold_dropout_seed(self, step: tf.Tensor) -> tf.Tensor:
    """Returns the seed of a step on the calling replica, int32 [2]."""
    replica = tf.distribute.get_replica_context().replica_id_in_sync_group
    seed = tf.constant([self.seed & 0x7FFFFFFF, 0])
    for number in (step, replica):
      seed = tf.random.experimental.stateless_fold_in(
        seed, tf.cast(number, tf.int32)
      )
    return seed

  def _differentiate_in_parts(
    self, features, weights, seed, loss_scale
  ) -> Differentiation:
    """Differentiates one part of a batch after the other; returns the sums."""
    if self.num_parts == 1:
      return self._differentiate(features, weights, seed, loss_scale)

    def arguments_of(part):
      rows = devices_lib.slice_rows(features, part, self.num_parts)
      part_seed = tf.random.experimental.stateless_fold_in(seed, part)
      return rows, weights, part_seed, loss_scale

    def is_unfinished(part, sums):
      return part < self.num_parts

    def add_part(part, sums):
      results = self._differentiate_part(*arguments_of(part))
      return part + 1, tf.nest.map_structure(tf.add, sums, results)

    # The loop needs the structure of its result before it starts. Tracing the
    # function first gives it, and costs nothing: the loop calls the same trace.
    traced = self._differentiate_part.get_concrete_function(*arguments_of(0))
    zeros = tf.nest.map_structure(
      lambda output: tf.zeros(output.shape), traced.structured_outputs
    )
    # Two parts at the same time would need the memory of two.
    _, sums = tf.while_loop(
      is_unfinished, add_part, [0, zeros], parallel_iterations=1
    )
    return sums

  def _differentiate(
    self, features, weights, seed, loss_scale
  ) -> Differentiation:
    """Returns the loss and the gradients of some rows.

    Args:
      features: The rows.
      weights: Name -> weight of the loss over the global batch; None if the
        rows are the global batch.
      seed: Seed of the dropout, int32 [2].
      loss_scale: Factor of the gradients.
    """
    with tf.GradientTape() as tape:
      losses = self.loss_fn(features, seed).losses
      parts = {}
      for name, (total, weight) in losses.items():
        global_weight = weights[name] if weights else weight
        parts[name] = tf.math.divide_no_nan(total, global_weight)
      scaled_loss = tf.reduce_sum(list(parts.values())) * loss_scale
    gradients = tape.gradient(scaled_loss, self.variables)
    # Gradients of models that are not ours may be sparse.
    dense = {
      position: tf.convert_to_tensor(gradient)
      for position, gradient in enumerate(gradients)
      if gradient is not None
    }
    return Differentiation(parts, dense)


class LoopResult(NamedTuple):
  """Result of the steps that one call of `StepLoop` made.

  Attributes:
    report: Vectors with one entry for each step.
    position: Input position of the next batch.
    flags: Flags of `interruption.Call`, as all workers have seen them.
  """

  report: StepReport
  position: tf.Tensor
  flags: tf.Tensor


class StepLoop:
  """Makes training steps in one call of the graph, until a flag is set.

  Attributes:
    training_step: The step that is repeated.
    global_step: int64 variable: the number of steps made so far.
    loss_scale: Factor of the loss.
  """

  def __init__(
    self,
    training_step: TrainingStep,
    global_step: tf.Variable,
    loss_scale: LossScale,
  ):
    """Traces nothing yet. The arguments become the attributes."""
    self.training_step = training_step
    self._devices = training_step.devices
    self.global_step = global_step
    self.loss_scale = loss_scale
    self._traced_step = tf.function(self._make_step, autograph=False)

  def _make_step(self, iterator, flags):
    """Returns the report of one step, the flags, and the next position.

    Several workers have to stop at the same step. Flags that one of them saw
    before the step are known to all of them after it.
    """
    features, position = iterator.get_next()
    arguments = (
      features,
      self.global_step.read_value(),
      self.loss_scale.read_factor(),
      flags,
    )
    results = self._devices.strategy.run(self.training_step, arguments)
    report, flags, position = self._devices.first_results((*results, position))
    self.global_step.assign_add(1)
    self.loss_scale.adapt(report)
    return report, flags, position

  @tf.function(autograph=False)
  def __call__(
    self,
    iterator: Any,
    num_steps: tf.Tensor,
    flags: tf.Variable,
  ) -> LoopResult:
    """Makes steps until `num_steps` are made or a flag is set.

    Args:
      iterator: Iterator over (features, input position).
      num_steps: Largest number of steps, int32 scalar, at least 1.
      flags: Flags of `interruption.Call`, which may change at any time.
    """
    # The loop needs the structure of its results before it starts. It calls the
    # same trace, so this costs nothing.
    traced = self._traced_step.get_concrete_function(iterator, flags)
    report_structure, _, first_position = traced.structured_outputs
    position = tf.zeros(
      first_position.shape, tf.int64
    )  # the first step sets it
    num_columns = len(tf.nest.flatten(report_structure))

    def is_running(i, rows, position, stop):
      return tf.logical_and(i < num_steps, tf.reduce_max(stop) == 0.0)

    def make_step(i, rows, position, stop):
      report, stop, position = self._traced_step(iterator, flags)
      if self._devices.num_workers == 1:
        stop = flags + 0.0  # those set during the step are seen already
      rows = rows.write(i, tf.stack(tf.nest.flatten(report)))
      return i + 1, rows, position, stop

    rows = tf.TensorArray(tf.float32, size=0, dynamic_size=True)
    _, rows, position, stop = tf.while_loop(
      is_running, make_step, [0, rows, position, tf.zeros_like(flags)]
    )
    columns = tf.unstack(rows.stack(), num_columns, axis=1)
    report = tf.nest.pack_sequence_as(report_structure, columns)
    return LoopResult(report, position, stop)


def _all_finite(values: Any) -> tf.Tensor:
  """Returns whether all scalars of a structure are finite."""
  return tf.reduce_all(tf.math.is_finite(tf.nest.flatten(values)))
