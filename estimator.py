"""The training loop: steps, checkpoints, logs, evaluation and prediction.

TensorFlow removed `TPUEstimator`; this is the same contract over
`tf.distribute`. A `model_fn` names a model, a loss and an optimizer and knows
nothing of steps or devices; the estimator knows steps, devices and files, and
nothing of BERT.

Nothing random outlives a step: what a step draws is a function of the seed and
of the number of the step. A run that goes on from a checkpoint therefore does
what it would have done without the interruption.
"""

import dataclasses
import json
import math
import os
import sys
import time
from typing import Callable, Iterator, Mapping, NamedTuple, Optional

from absl import logging
import numpy as np
import tensorflow as tf

import checkpoint

# A sum over a batch and what to divide it by.
SumAndWeight = tuple[tf.Tensor, tf.Tensor]
InputFn = Callable[[Mapping[str, object]], tf.data.Dataset]

# How long a call of the training graph should take, in seconds: long enough
# that its overhead does not count, short enough to show a living number.
_SECONDS_PER_CALL = 2.0
_SECONDS_PER_LOG_LINE = 10.0


class Losses(NamedTuple):
  """What a `loss_fn` returns for a batch.

  The loss is the sum, over the entries of `losses`, of sum divided by weight,
  both taken over the global batch, whatever devices carried it.

  Attributes:
    losses: name -> (sum, weight), float32 scalars.
    metrics: the same, for numbers that are only reported.
  """

  losses: dict[str, SumAndWeight]
  metrics: dict[str, SumAndWeight] = {}


@dataclasses.dataclass
class EstimatorSpec:
  """What a `model_fn` returns.

  Attributes:
    model: its variables, by released name, are what checkpoints hold.
    loss_fn: (features, dropout_seed) -> `Losses`. The seed is int32 [2] in
      training and None in evaluation.
    predict_fn: features -> {name: Tensor with the batch first}.
    optimizer: as in `optimization.py`; None if there is no training.
    init_checkpoint: weights to start from, where `model_dir` has none.
  """

  model: tf.Module
  loss_fn: Optional[Callable[..., Losses]] = None
  predict_fn: Optional[Callable[..., dict[str, tf.Tensor]]] = None
  optimizer: Optional[object] = None
  init_checkpoint: Optional[str] = None


@dataclasses.dataclass(frozen=True)
class RunConfig:
  """Where a run happens and what it saves.

  Attributes:
    model_dir: folder of checkpoints and logs; None to neither read nor write.
    save_checkpoints_steps: steps between checkpoints.
    keep_checkpoint_max: how many checkpoints to keep, 0 for all.
    iterations_per_loop: the most steps that one call of the graph runs.
    seed: decides dropout, here, and by `params["seed"]` what the `input_fn`
      and the `model_fn` draw.
    strategy: how to distribute; None for the one of the context.
  """

  model_dir: Optional[str] = None
  save_checkpoints_steps: int = 1000
  keep_checkpoint_max: int = 5
  iterations_per_loop: int = 1000
  seed: int = 12345
  strategy: Optional[tf.distribute.Strategy] = None


class TPUEstimator:
  """Trains, evaluates and predicts with one model.

  The model is built and its weights are found when the estimator is made, so
  that what does not fit fails before any work: from the newest checkpoint in
  `model_dir` if there is one, else from `init_checkpoint`, else at random.
  """

  def __init__(self, model_fn: Callable[[Mapping[str, object]], EstimatorSpec],
               config: RunConfig, train_batch_size: int = 32,
               eval_batch_size: int = 8, predict_batch_size: int = 8,
               params: Optional[Mapping[str, object]] = None):
    """Builds the model.

    Args:
      model_fn: (params) -> EstimatorSpec; called once, here.
      config: where the run happens.
      train_batch_size: examples per step, over all devices.
      eval_batch_size: examples per batch of `evaluate`.
      predict_batch_size: examples per batch of `predict`.
      params: handed to `model_fn` and to each `input_fn`, with `batch_size`
        and `seed` added.

    Raises:
      ValueError: `model_dir` cannot be written, or a checkpoint does not fit.
    """
    self._config = config
    self._strategy = config.strategy or tf.distribute.get_strategy()
    self._params = {**(params or {}), "seed": config.seed}
    self._train_batch_size = train_batch_size
    self._eval_batch_size = eval_batch_size
    self._predict_batch_size = predict_batch_size
    if config.model_dir:
      _make_writable(config.model_dir)
    with self._strategy.scope():
      self._spec = model_fn(self._params)
      self._global_step = tf.Variable(0, dtype=tf.int64, trainable=False,
                                      name="global_step")
      if self._spec.optimizer:
        self._spec.optimizer.build(self._spec.model.trainable_variables)
    self._has_weights = self._restore()

  @property
  def global_step(self) -> int:
    """The number of updates that the weights have seen."""
    return int(self._global_step.numpy())

  # --- Training --------------------------------------------------------------

  def train(self, input_fn: InputFn, max_steps: int) -> None:
    """Trains until `max_steps` updates in all, and saves.

    Args:
      input_fn: (params) -> an endless Dataset of batches of
        `params["batch_size"]` examples. It has to be the same batches in the
        same order each time it is called.
      max_steps: counted from the very first step of the run; if it has been
        reached already, nothing happens.

    Raises:
      ValueError: the loss is not finite, or the data end too early.
    """
    first_step = self.global_step
    if first_step >= max_steps:
      logging.info("Training is at step %d of %d already: nothing to do.",
                   first_step, max_steps)
      return
    dataset = input_fn({**self._params, "batch_size": self._train_batch_size})
    iterator = iter(self._strategy.experimental_distribute_dataset(
        dataset.skip(first_step)))
    train_steps = self._make_train_function()
    progress = _Progress(self._config.model_dir, first_step, max_steps,
                         self._train_batch_size)
    save_every = self._config.save_checkpoints_steps
    step = first_step
    while step < max_steps:
      next_stop = min(max_steps, (step // save_every + 1) * save_every)
      num_steps = min(next_stop - step, self._config.iterations_per_loop,
                      progress.steps_per_call())
      try:
        losses, rate, norm = train_steps(iterator, tf.constant(num_steps))
      except tf.errors.OutOfRangeError as error:
        raise ValueError(
            f"The training data ended in the {num_steps} steps after step "
            f"{step} of {max_steps}; the input_fn must repeat them.") from error
      losses = losses.numpy()
      if not np.all(np.isfinite(losses)):
        bad_step = step + 1 + int(np.argmin(np.isfinite(losses)))
        raise ValueError(
            f"The loss is {losses[bad_step - step - 1]} at step {bad_step}. "
            f"{self._newest_checkpoint()} Try a lower --learning_rate, more "
            "warm-up, or float32.")
      step += num_steps
      progress.report(step, losses, float(rate), float(norm))
      if step == next_stop:
        self._save(step)
    progress.close()
    self._has_weights = True

  def _make_train_function(self):
    """Returns (iterator, num_steps) -> losses [num_steps], last rate, norm."""
    spec, strategy = self._spec, self._strategy
    variables = spec.model.trainable_variables

    def replica_step(features):
      context = tf.distribute.get_replica_context()
      seed = tf.constant([self._config.seed & 0x7fffffff, 0])
      for number in (self._global_step, context.replica_id_in_sync_group):
        seed = tf.random.experimental.stateless_fold_in(
            seed, tf.cast(number, tf.int32))
      with tf.GradientTape() as tape:
        terms = spec.loss_fn(features, seed).losses
        # Each replica's share of the loss over the global batch.
        loss = tf.add_n([
            tf.math.divide_no_nan(
                total, context.all_reduce(tf.distribute.ReduceOp.SUM, weight))
            for total, weight in terms.values()])
      gradients = tape.gradient(
          loss, variables,
          unconnected_gradients=tf.UnconnectedGradients.ZERO)
      loss, *gradients = context.all_reduce(
          tf.distribute.ReduceOp.SUM, [loss, *gradients])
      norm = spec.optimizer.apply_gradients(
          gradients, variables, self._global_step)
      return loss, norm

    @tf.function
    def train_steps(iterator, num_steps):
      losses = tf.TensorArray(tf.float32, size=num_steps)
      norm = tf.zeros([])
      for i in tf.range(num_steps):
        loss, norm = (
            strategy.experimental_local_results(result)[0]
            for result in strategy.run(replica_step, args=(next(iterator),)))
        self._global_step.assign_add(1)
        losses = losses.write(i, loss)
      return losses.stack(), spec.optimizer.schedule(self._global_step), norm

    return train_steps

  # --- Evaluation and prediction ---------------------------------------------

  def evaluate(self, input_fn: InputFn,
               steps: Optional[int] = None) -> dict[str, float]:
    """Returns the means of all that `loss_fn` reports, `loss` and global_step.

    Args:
      input_fn: (params) -> a Dataset of batches of `params["batch_size"]`.
      steps: the most batches to read; None for all.
    """
    self._require_weights()
    dataset = input_fn({**self._params, "batch_size": self._eval_batch_size})
    if steps is not None:
      dataset = dataset.take(steps)
    strategy = self._strategy
    dataset = strategy.experimental_distribute_dataset(dataset)

    # With the shapes of the data set, in which lengths may be open: one graph
    # for batches of all lengths.
    @tf.function(input_signature=[dataset.element_spec])
    def eval_step(features):
      def total(per_replica):
        return strategy.reduce(tf.distribute.ReduceOp.SUM, per_replica, None)
      return tf.nest.map_structure(
          total, strategy.run(self._spec.loss_fn, args=(features, None)))

    sums = {}
    loss_names = ()
    for features in dataset:
      losses, metrics = eval_step(features)
      loss_names = tuple(losses)
      for name, pair in {**losses, **metrics}.items():
        old = sums.get(name, np.zeros(2))
        # Sums of many batches, in float64: the order does not matter.
        sums[name] = old + np.array([float(x) for x in pair])
    if not sums:
      raise ValueError("There is nothing to evaluate: the data are empty.")
    results = {name: float(total / weight) if weight else math.nan
               for name, (total, weight) in sums.items()}
    results["loss"] = sum(results[name] for name in loss_names)
    results["global_step"] = self.global_step
    self.write_eval_summary(results)
    return results

  def predict(self, input_fn: InputFn) -> Iterator[dict[str, np.ndarray]]:
    """Yields what `predict_fn` returns for each example, in order.

    Examples whose feature `is_real_example` is 0 only fill up a batch and are
    left out.

    Args:
      input_fn: (params) -> a Dataset of batches of `params["batch_size"]`.
    """
    self._require_weights()
    dataset = input_fn({**self._params, "batch_size": self._predict_batch_size})
    strategy = self._strategy
    dataset = strategy.experimental_distribute_dataset(dataset)

    @tf.function(input_signature=[dataset.element_spec])
    def predict_step(features):
      return strategy.run(self._spec.predict_fn, args=(features,))

    for features in dataset:
      predictions = {
          name: _concatenate(strategy, value)
          for name, value in predict_step(features).items()}
      is_real = (_concatenate(strategy, features["is_real_example"])
                 if "is_real_example" in features else None)
      for i in range(len(next(iter(predictions.values())))):
        if is_real is None or is_real[i]:
          yield {name: value[i] for name, value in predictions.items()}

  def write_eval_summary(self, results: Mapping[str, float]) -> None:
    """Shows results to TensorBoard, in the folder `eval` of the run."""
    if not self._config.model_dir:
      return
    writer = tf.summary.create_file_writer(
        os.path.join(self._config.model_dir, "eval"))
    with writer.as_default(step=self.global_step):
      for name, value in results.items():
        if name != "global_step":
          tf.summary.scalar(name, value)
    writer.close()

  # --- Weights ---------------------------------------------------------------

  def _restore(self) -> bool:
    """Finds weights; returns whether there were any."""
    model_dir, spec = self._config.model_dir, self._spec
    newest = checkpoint.latest(model_dir) if model_dir else None
    if newest:
      logging.info("Going on from the run's own checkpoint %s (not from an "
                   "initial checkpoint).", newest)
      checkpoint.restore_all(self._all_variables(), newest, "--output_dir")
      return True
    if spec.init_checkpoint:
      logging.info("Starting from the initial checkpoint %s.",
                   spec.init_checkpoint)
      checkpoint.restore(checkpoint.variables_by_name(spec.model),
                         spec.init_checkpoint)
      return True
    logging.info("Starting from random weights (seed %d).", self._config.seed)
    return False

  def _all_variables(self) -> dict[str, tf.Variable]:
    """Returns all that a run needs to go on, by name."""
    variables = checkpoint.variables_by_name(self._spec.model)
    variables["global_step"] = self._global_step
    if self._spec.optimizer:
      variables.update(checkpoint.variables_by_name(self._spec.optimizer))
    return variables

  def _save(self, step: int) -> None:
    if self._config.model_dir:
      path = checkpoint.save(self._config.model_dir, step,
                             self._all_variables(),
                             self._config.keep_checkpoint_max)
      logging.info("Saved %s.", path)

  def _require_weights(self) -> None:
    if not self._has_weights:
      raise ValueError(
          f"There is no checkpoint in --output_dir={self._config.model_dir}, "
          "and no --init_checkpoint. Train first, or name one.")

  def _newest_checkpoint(self) -> str:
    newest = (checkpoint.latest(self._config.model_dir)
              if self._config.model_dir else None)
    return f"The last good checkpoint is {newest}." if newest else (
        "No checkpoint had been saved.")


class _Progress:
  """Shows and records how training goes."""

  def __init__(self, model_dir, step, max_steps, batch_size):
    self._step = step
    self._max_steps = max_steps
    self._batch_size = batch_size
    self._last_time = time.monotonic()
    self._last_line_time = 0.0
    # Until a call has been timed, one step: the first one compiles.
    self._steps_per_second = None
    self._num_calls = 0
    self._in_place = sys.stderr.isatty()
    self._writer = self._log = None
    if model_dir:
      self._writer = tf.summary.create_file_writer(model_dir)
      self._log = tf.io.gfile.GFile(
          os.path.join(model_dir, "training_log.jsonl"), "a")

  def steps_per_call(self) -> int:
    """How many steps to run in one call of the graph."""
    if self._steps_per_second is None:
      return 1
    return max(1, int(self._steps_per_second * _SECONDS_PER_CALL))

  def report(self, step, losses, learning_rate, gradient_norm) -> None:
    """Takes note of `len(losses)` steps that ended at `step`."""
    now = time.monotonic()
    rate = len(losses) / max(now - self._last_time, 1e-9)
    self._num_calls += 1
    if self._num_calls > 1:  # the first call was spent compiling
      old = self._steps_per_second or rate
      self._steps_per_second = 0.7 * old + 0.3 * rate
    self._last_time = now
    self._step = step
    record = {
        "step": step, "loss": float(np.mean(losses)),
        "learning_rate": learning_rate, "gradient_norm": gradient_norm,
        "examples_per_second": rate * self._batch_size}
    if self._log:
      self._log.write(json.dumps(record) + "\n")
      self._log.flush()
      with self._writer.as_default(step=step):
        for name, value in record.items():
          if name != "step":
            tf.summary.scalar(name, value)
    self._show(record, now)

  def _show(self, record, now) -> None:
    done = self._step == self._max_steps
    if not (self._in_place or done
            or now - self._last_line_time > _SECONDS_PER_LOG_LINE):
      return
    self._last_line_time = now
    line = (f"step {record['step']}/{self._max_steps}  "
            f"loss {record['loss']:.4f}  "
            f"learning rate {record['learning_rate']:.3g}  "
            f"{record['examples_per_second']:.1f} examples/s")
    if self._steps_per_second and not done:
      line += "  " + _duration(
          (self._max_steps - self._step) / self._steps_per_second) + " left"
    if self._in_place:
      sys.stderr.write("\r\x1b[K" + line + ("\n" if done else ""))
      sys.stderr.flush()
    else:
      logging.info("%s", line)

  def close(self) -> None:
    if self._log:
      self._log.close()
      self._writer.close()


def _duration(seconds: float) -> str:
  minutes, seconds = divmod(int(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours}:{minutes:02d}:{seconds:02d}"


def _concatenate(strategy, per_replica) -> np.ndarray:
  return np.concatenate([
      part.numpy() for part in
      strategy.experimental_local_results(per_replica)])


def _make_writable(folder: str) -> None:
  """Creates a folder and makes sure that files can be written there."""
  probe = os.path.join(folder, f".write_test_{os.getpid()}")
  try:
    tf.io.gfile.makedirs(folder)
    with tf.io.gfile.GFile(probe, "w") as writer:
      writer.write("")
    tf.io.gfile.remove(probe)
  except (OSError, tf.errors.OpError) as error:
    raise ValueError(f"--output_dir={folder} cannot be written: "
                     f"{getattr(error, 'message', error)}.") from error
