"""The training loop: steps, devices, checkpoints, logs, evaluation, prediction.

TensorFlow removed `TPUEstimator`; this is the same contract over
`tf.distribute`. A `model_fn` names a model, a loss and an optimizer and knows
nothing of steps or devices; the estimator knows steps, devices and files, and
nothing of BERT.

Nothing random outlives a step: what a step draws is a function of the seed and
of the number of the step. What else a run is made of stands beside its weights
in each checkpoint: where in the data it is, the loss scale, the best evaluation
so far. A run that goes on from a checkpoint therefore does what it would have
done without the interruption.
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import dataclasses
import functools
import math
import os
import signal
import time
from typing import NamedTuple

from absl import logging
import numpy as np
import tensorflow as tf

import checkpoint
from data import batching
from data import file_io
from errors import Interrupted
from errors import UserError
from training import interruption
from training import training_log

# A sum over a batch and what to divide it by.
SumAndWeight = tuple[tf.Tensor, tf.Tensor]
InputFn = Callable[[Mapping[str, object]], tf.data.Dataset]

# Of float16 training (Micikevicius et al., 2018): the first factor of the loss,
# and after how many good steps it is doubled.
_FIRST_LOSS_SCALE = 2.0**15
_LOSS_SCALE_STEPS = 2000

# TensorFlow's AutoGraph would rewrite every Python function before it is
# traced, which takes longer than the tracing. None of our functions needs it:
# the loops of a graph are `tf.while_loop`.
_without_autograph = tf.autograph.experimental.do_not_convert


class Losses(NamedTuple):
  """What a `loss_fn` returns for a batch.

  The loss is the sum, over the entries of `losses`, of sum divided by weight,
  both taken over the global batch, whatever devices carried it.

  Attributes:
    losses: name -> (sum, weight), float32 scalars. A weight may depend on the
      features, not on what the model makes of them.
    metrics: the same, for numbers that are only reported.
  """

  losses: dict[str, SumAndWeight]
  metrics: dict[str, SumAndWeight] = {}


class Work(NamedTuple):
  """What there is to do in a batch, float32 scalars.

  Attributes:
    tokens: how many tokens, without padding.
    flops: floating-point operations of a training step.
  """

  tokens: tf.Tensor
  flops: tf.Tensor


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
    work_fn: features -> `Work`; None to log neither tokens nor utilisation.
    activation_bytes: number of examples -> bytes that a device keeps for their
      gradient; None to estimate no memory.
  """

  model: tf.Module
  loss_fn: Callable[..., Losses] | None = None
  predict_fn: Callable[..., dict[str, tf.Tensor]] | None = None
  optimizer: object | None = None
  init_checkpoint: str | None = None
  work_fn: Callable[..., Work] | None = None
  activation_bytes: Callable[[int], int] | None = None


@dataclasses.dataclass(frozen=True)
class RunConfig:
  """Where and how a run happens, and what it saves.

  Attributes:
    model_dir: folder of checkpoints and logs; None to neither read nor write.
      With several machines, a folder that all of them see.
    save_checkpoints_steps: steps between checkpoints.
    keep_checkpoint_max: how many checkpoints to keep, 0 for all.
    iterations_per_loop: the most steps that one call of the graph runs.
    seed: decides dropout, here, and by `params["seed"]` what the `input_fn`
      and the `model_fn` draw.
    strategy: how to distribute; None for the one of the context.
    compute_dtype: of the activations; float16 brings dynamic loss scaling.
    gradient_accumulation_steps: in how many parts, one after the other, a
      device works through its share of a batch.
    xla: whether to compile the training step with XLA.
    skip_nonfinite_steps: whether to leave out steps whose loss or gradient is
      not finite, instead of stopping at the first.
    eval_every_steps: steps between evaluations during training; 0 for none.
    best_metric: the entry of their results that decides which weights are best:
      the lowest of one that ends in `loss`, the highest of any other.
    early_stopping_patience: stop after so many evaluations in a row without a
      better one; 0 to go on.
    settings: of the run, as JSON; noted in each checkpoint, and compared when
      a run continues.
    restart: whether to delete the checkpoints in `model_dir` and to begin at
      step 0.
  """

  model_dir: str | None = None
  save_checkpoints_steps: int = 1000
  keep_checkpoint_max: int = 5
  iterations_per_loop: int = 1000
  seed: int = 12345
  strategy: tf.distribute.Strategy | None = None
  compute_dtype: tf.DType = tf.float32
  gradient_accumulation_steps: int = 1
  xla: bool = False
  skip_nonfinite_steps: bool = False
  eval_every_steps: int = 0
  best_metric: str = "loss"
  early_stopping_patience: int = 0
  settings: Mapping[str, object] = dataclasses.field(default_factory=dict)
  restart: bool = False


def peak_flops(
  strategy: tf.distribute.Strategy, compute_dtype: tf.DType
) -> float:
  """Measures the floating-point operations per second of large products.

  On all devices of this machine at once, the best of a few tries: what
  utilisation is measured against.
  """
  size, num_products = 1024, 4

  @tf.function(autograph=False)
  def products():
    x = tf.ones([size, size], compute_dtype)
    for _ in range(num_products):
      x = tf.matmul(x, x) * (1.0 / size)
    return tf.reduce_sum(x)

  seconds = []
  for _ in range(6):  # the first traces
    start = time.perf_counter()
    results = strategy.experimental_local_results(strategy.run(products))
    for result in results:
      result.numpy()
    seconds.append(time.perf_counter() - start)
  return 2.0 * size**3 * num_products * len(results) / min(seconds)


class TPUEstimator:
  """Trains, evaluates and predicts with one model.

  The model is built and its weights are found when the estimator is made, so
  that what does not fit fails before any work: from the newest checkpoint in
  `model_dir` if there is one, else from `init_checkpoint`, else at random.
  """

  def __init__(
    self,
    model_fn: Callable[[Mapping[str, object]], EstimatorSpec],
    config: RunConfig,
    train_batch_size: int = 32,
    eval_batch_size: int = 8,
    predict_batch_size: int = 8,
    params: Mapping[str, object] | None = None,
  ):
    """Builds the model.

    Args:
      model_fn: (params) -> EstimatorSpec; called once, here.
      config: where and how the run happens.
      train_batch_size: examples per step, over all devices.
      eval_batch_size: examples per batch of `evaluate`.
      predict_batch_size: examples per batch of `predict`.
      params: handed to `model_fn` and to each `input_fn`, with `batch_size`
        and `seed` added.

    Raises:
      UserError: a checkpoint does not fit, or the batch cannot be split evenly
        among the devices.
    """
    self._config = config
    self._strategy = config.strategy or tf.distribute.get_strategy()
    self._num_workers, self._is_chief = _workers(self._strategy)
    self._params = {**(params or {}), "seed": config.seed}
    self._train_batch_size = train_batch_size
    self._eval_batch_size = eval_batch_size
    self._predict_batch_size = predict_batch_size
    self._check_batch_size()
    self._global_step = tf.Variable(
      0, dtype=tf.int64, trainable=False, name="global_step"
    )
    # The factor of a float16 loss, and how many good steps it has seen.
    self._loss_scale = tf.Variable(
      [_FIRST_LOSS_SCALE if config.compute_dtype == tf.float16 else 1.0, 0.0],
      trainable=False,
    )
    with self._strategy.scope():
      self._spec = model_fn(self._params)
      if self._spec.optimizer:
        self._spec.optimizer.build(self._spec.model.trainable_variables)
    self._state = _State()
    self._is_restart = config.restart  # until the old run is deleted
    self._is_best = False  # whether the weights are of the best evaluation
    self._has_weights = self._restore()
    self._functions = {}  # of evaluation and prediction
    self._eval_writer = None

  @property
  def global_step(self) -> int:
    """The number of steps that the weights have seen."""
    return int(self._global_step.numpy())

  @property
  def is_chief(self) -> bool:
    """Whether this is the only machine, or the first of several."""
    return self._is_chief

  def _check_batch_size(self) -> None:
    replicas = self._strategy.num_replicas_in_sync
    parts = self._config.gradient_accumulation_steps
    if self._train_batch_size % (replicas * parts):
      raise UserError(
        f"--train_batch_size={self._train_batch_size} cannot be dealt out "
        f"evenly to {replicas} devices in "
        f"--gradient_accumulation_steps={parts} parts each. Use a multiple "
        f"of {replicas * parts}."
      )

  # --- Training --------------------------------------------------------------

  def train(
    self,
    input_fn: InputFn,
    max_steps: int,
    evaluate_fn: Callable[[], Mapping[str, float]] | None = None,
  ) -> None:
    """Trains until `max_steps` steps in all, and saves.

    If there is an `evaluate_fn`, the weights that did best are in the folder
    `best` of the run, and in the model afterwards; those of the last step are
    in the newest checkpoint. Without a `model_dir` only the last are kept.

    Args:
      input_fn: (params) -> an endless Dataset of batches of
        `params["batch_size"]` examples, the same in the same order each time.
        A batch may carry the feature `input_position`, int64 [n], that says
        where the next one begins; when a run goes on, `params` has the entry
        `input_position`, a list, for the Dataset to begin there. Batches of
        other data are counted, and skipped by reading them.
      max_steps: counted from the very first step of the run; if it has been
        reached already, nothing happens.
      evaluate_fn: called every `eval_every_steps`; returns scores, the
        `best_metric` of the config among them.

    Raises:
      UserError: `model_dir` cannot be written, the loss is not finite, the data
        end too early, or memory runs out.
      Interrupted: SIGTERM or SIGINT came; the last step made is saved.
    """
    if self._is_best:  # training goes on from the last weights
      self._is_best = False
      self._restore()
    config, state = self._config, self._state
    if not (evaluate_fn and config.eval_every_steps):
      evaluate_fn = state.best = None
    step = self.global_step
    if self._is_done(step, max_steps) and not (
      evaluate_fn and self._is_evaluation_due(step)
    ):
      logging.info(
        "Training is at step %d of %d already: nothing to do%s.",
        step,
        max_steps,
        "" if step >= max_steps else ", for the evaluations stopped it there",
      )
      self._restore_best()
      return
    self._agree_on_step(step)
    self._log_memory()
    if config.model_dir and self._is_chief:
      file_io.check_writable(config.model_dir, "--output_dir")
      self._prepare_model_dir()
    iterator = self._training_iterator(input_fn)
    train_steps = self._make_train_function()
    self._has_weights = True
    with (
      checkpoint.BackgroundWriter() as writer,
      interruption.Call(self._num_workers) as call,
      training_log.Progress(
        config.model_dir if self._is_chief else None,
        step,
        max_steps,
        self._train_batch_size,
        peak_flops(self._strategy, config.compute_dtype) * self._num_workers
        if self._spec.work_fn
        else None,
      ) as progress,
    ):
      self._run_steps(
        train_steps, iterator, max_steps, evaluate_fn, writer, call, progress
      )
    self._from_chief(0.0)  # waits until the first machine has written
    self._restore_best()

  def _prepare_model_dir(self) -> None:
    """Removes what a run that was killed, or is begun again, left there."""
    config = self._config
    if self._is_restart:
      checkpoint.delete_all(self._best_dir())
      checkpoint.delete_all(config.model_dir)
      self._is_restart = False
    for folder in (config.model_dir, self._best_dir()):
      if tf.io.gfile.isdir(folder):
        checkpoint.finish_save(folder)

  def _run_steps(
    self,
    train_steps,
    iterator,
    max_steps,
    evaluate_fn,
    writer: checkpoint.BackgroundWriter,
    call: interruption.Call,
    progress: training_log.Progress,
  ) -> None:
    """Evaluates, saves and runs steps, each when it is due, until done."""
    config, state = self._config, self._state
    position = tf.constant(state.input_position, tf.int64)
    every = [config.save_checkpoints_steps]
    if evaluate_fn:
      every.append(config.eval_every_steps)
    step = self.global_step
    is_saved, signal_number = True, 0
    while True:
      if evaluate_fn and not signal_number and self._is_evaluation_due(step):
        results, signal_number = call.unless_signalled(evaluate_fn)
        if results:
          results = {name: float(value) for name, value in results.items()}
          self._take_note(results, writer)
          progress.report_evaluation(step, results)
          is_saved = False
      is_done = self._is_done(step, max_steps)
      if not is_saved and (
        is_done or signal_number or step % config.save_checkpoints_steps == 0
      ):
        self._save(writer)
        is_saved = True
      if signal_number:
        writer.wait()
        raise Interrupted(
          signal_number,
          (
            f"Stopped by {signal.Signals(signal_number).name} after step "
            f"{step} of {max_steps}, which is saved. The same command goes "
            "on from there."
          ),
        )
      if is_done:
        return
      next_stop = min(max_steps, *((step // n + 1) * n for n in every))
      num_steps = min(next_stop - step, config.iterations_per_loop)
      with self._errors_explained(step, writer), call.limited():
        rows, position, flags = train_steps(
          iterator, tf.constant(num_steps), position, call.flags
        )
        report = training_log.Report.from_rows(rows.numpy(), self._loss_names)
        signal_number = interruption.signal_of(flags.numpy())
      self._check_finite(step, report, writer)
      step += report.num_steps
      state.input_position = position.numpy().tolist()
      is_saved = False
      progress.report(
        step,
        report,
        float(self._spec.optimizer.schedule(step)),
        state.skipped_steps,
      )

  def _is_done(self, step: int, max_steps: int) -> bool:
    patience, best = self._config.early_stopping_patience, self._state.best
    return step >= max_steps or bool(
      patience and best and best["evaluations_since"] >= patience
    )

  def _is_evaluation_due(self, step: int) -> bool:
    return step % self._config.eval_every_steps == 0 and step not in (
      0,
      self._state.evaluated_step,
    )

  @_without_autograph
  def _training_iterator(self, input_fn: InputFn):
    """Returns an iterator over (features, position of the next batch)."""
    state, step = self._state, self.global_step
    batch_size = self._train_batch_size
    dataset = input_fn(
      {
        **self._params,
        "batch_size": batch_size,
        batching.INPUT_POSITION: state.input_position,
      }
    )
    if batching.INPUT_POSITION in dataset.element_spec:
      if state.input_position is None:  # the checkpoint is of other making
        dataset = dataset.skip(step)
        state.input_position = [0] * (
          dataset.element_spec[batching.INPUT_POSITION].shape[0]
        )

      def split(features):
        features = dict(features)
        return features, features.pop(batching.INPUT_POSITION)

      dataset = dataset.map(split)
    else:
      taken = state.input_position[0] if state.input_position else step
      if state.train_batch_size not in (None, batch_size):
        taken = taken * state.train_batch_size // batch_size
        logging.warning(
          "--train_batch_size was %d and is %d now: training goes on at "
          "about the same place in the data.",
          state.train_batch_size,
          batch_size,
        )
      state.input_position = [taken]
      dataset = (
        dataset.skip(taken)
        .enumerate(taken + 1)
        .map(lambda number, features: (features, number[tf.newaxis]))
      )
    state.train_batch_size = batch_size
    return iter(self._dealt_out(_without_autotune(dataset)))

  def _dealt_out(self, dataset):
    """Gives each replica its rows of every batch.

    Each machine reads all of the data and keeps its part: the batches, and so
    the weights, do not depend on how many devices there are.
    """
    strategy = self._strategy
    num_replicas = strategy.num_replicas_in_sync
    if num_replicas == 1:
      return dataset

    def machine_dataset(context):
      num_local = num_replicas // context.num_input_pipelines
      first = context.input_pipeline_id * num_local

      def deal(features, position):
        return tf.data.Dataset.range(first, first + num_local).map(
          lambda replica: (_part(features, replica, num_replicas), position)
        )

      return (
        dataset.flat_map(deal)
        .apply(
          # Spares a question to all replicas at each step whether they have
          # data.
          tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)
        )
        .prefetch(2 * num_local)
      )

    return strategy.distribute_datasets_from_function(machine_dataset)

  def _make_train_function(self):
    """Returns the function that runs steps in one call of the graph.

    It maps an iterator, the most steps to run, the position in the data and the
    flags of an `interruption.Call` to a row of numbers for each step that it
    ran, as `training_log.Report` reads them, the position after them, and the
    flags as all machines have seen them.
    """
    strategy = self._strategy
    replica_step = self._make_replica_step()

    def one_step(iterator, flags):
      features, position = iterator.get_next()
      row, flags, position = (
        strategy.experimental_local_results(result)[0]
        for result in (
          *strategy.run(
            replica_step,
            args=(
              features,
              self._global_step.read_value(),
              self._loss_scale[0],
              flags,
            ),
          ),
          position,
        )
      )
      self._global_step.assign_add(1)
      if self._config.compute_dtype == tf.float16:
        self._adapt_loss_scale(row)
      return row, flags, position

    @tf.function(autograph=False)
    def train_steps(iterator, num_steps, position, flags):
      def is_running(i, rows, position, stop):
        return tf.logical_and(i < num_steps, tf.reduce_max(stop) == 0.0)

      def make_step(i, rows, position, stop):
        row, seen, position = one_step(iterator, flags)
        # Several machines must stop at the same step: the flags that one of
        # them saw before the step are known to all after it.
        stop = flags + 0.0 if self._num_workers == 1 else seen
        return i + 1, rows.write(i, row), position, stop

      rows = tf.TensorArray(tf.float32, size=0, dynamic_size=True)
      _, rows, position, stop = tf.while_loop(
        is_running, make_step, [0, rows, position, tf.zeros_like(flags)]
      )
      return rows.stack(), position, stop

    return train_steps

  def _make_replica_step(self):
    """Returns the function that makes one step on one replica.

    It maps features, the number of the step, the loss scale and flags to a row
    of numbers and the sum of the flags over all replicas.
    """
    spec, strategy, config = self._spec, self._strategy, self._config
    variables = spec.model.trainable_variables
    all_reduce = functools.partial(_all_reduce, strategy)
    # The numbers of the variables that the loss does not depend on, known once
    # `differentiate` has been traced. They stay as they are, without decay.
    unused = set()

    def differentiate(features, weights, seed, loss_scale):
      """Returns the parts of the loss, and gradients times `loss_scale`."""
      with tf.GradientTape() as tape:
        terms = spec.loss_fn(features, seed).losses
        parts = tf.stack(
          [
            tf.math.divide_no_nan(terms[name][0], weight)
            for name, weight in weights.items()
          ]
        )
        scaled_loss = tf.reduce_sum(parts) * loss_scale
      gradients = tape.gradient(scaled_loss, variables)
      unused.update(
        i for i, gradient in enumerate(gradients) if gradient is None
      )
      # Models that are not ours may have sparse gradients.
      return parts, [
        tf.zeros(variable.shape)
        if gradient is None
        else tf.convert_to_tensor(gradient)
        for variable, gradient in zip(variables, gradients)
      ]

    accumulate = functools.partial(
      _in_parts,
      differentiate,
      config.gradient_accumulation_steps,
      [variable.shape for variable in variables],
    )

    def replica_step(features, step, loss_scale, flags):
      seed = self._dropout_seed(step)
      # Nothing else of this forward pass is used, so nothing else is computed.
      terms = spec.loss_fn(features, None).losses
      self._loss_names = tuple(terms)
      weights = all_reduce(
        {name: weight for name, (_, weight) in terms.items()}
      )
      parts, gradients = compute(features, weights, seed, loss_scale)
      work = tf.stack(spec.work_fn(features) if spec.work_fn else [0.0, 0.0])
      parts, gradients, work, flags = all_reduce(
        (parts, gradients, work, flags)
      )
      used = [i for i in range(len(variables)) if i not in unused]
      norm = spec.optimizer.apply_gradients(
        [gradients[i] for i in used],
        [variables[i] for i in used],
        step,
        gradient_scale=loss_scale,
        is_good=tf.reduce_all(tf.math.is_finite(parts)),
      )
      return tf.concat([parts, [norm], [loss_scale], work], axis=0), flags

    # XLA on a CPU does not compile what talks to other replicas.
    compute = accumulate
    if config.xla and strategy.num_replicas_in_sync > 1:
      compute = tf.function(accumulate, jit_compile=True, autograph=False)
    elif config.xla:
      replica_step = tf.function(
        replica_step, jit_compile=True, autograph=False
      )

    return replica_step

  def _dropout_seed(self, step) -> tf.Tensor:
    """Returns the seed, int32 [2], of a step on the replica that asks."""
    replica = tf.distribute.get_replica_context().replica_id_in_sync_group
    seed = tf.constant([self._config.seed & 0x7FFFFFFF, 0])
    for number in (step, replica):
      seed = tf.random.experimental.stateless_fold_in(
        seed, tf.cast(number, tf.int32)
      )
    return seed

  def _adapt_loss_scale(self, row) -> None:
    """Halves the scale after a bad step, doubles it after many good ones."""
    scale, num_good = tf.unstack(self._loss_scale.read_value())
    is_good = tf.reduce_all(tf.math.is_finite(row))
    num_good = tf.where(is_good, num_good + 1.0, 0.0)
    doubles = num_good >= _LOSS_SCALE_STEPS
    scale *= tf.where(is_good, tf.where(doubles, 2.0, 1.0), 0.5)
    self._loss_scale.assign(
      [tf.maximum(scale, 1.0), tf.where(doubles, 0.0, num_good)]
    )

  def _check_finite(
    self,
    step: int,
    report: training_log.Report,
    writer: checkpoint.BackgroundWriter,
  ) -> None:
    """Counts the steps that changed nothing, or raises a UserError."""
    is_bad = ~np.isfinite(report.loss) | ~np.isfinite(report.gradient_norm)
    self._state.skipped_steps += int(is_bad.sum())
    if self._config.skip_nonfinite_steps:
      return
    # Too large a scale is what float16 finds its scale by.
    is_bad &= report.loss_scale <= 1.0
    if not is_bad.any():
      return
    first = int(np.argmax(is_bad))
    what = (
      ("loss is", report.loss[first])
      if not np.isfinite(report.loss[first])
      else ("norm of the gradients is", report.gradient_norm[first])
    )
    newest = self._newest_checkpoint(writer)
    raise UserError(
      f"The {what[0]} {what[1]} at step {step + 1 + first}. "
      + (
        f"The last good checkpoint is {newest}."
        if newest
        else "No checkpoint had been saved."
      )
      + " Try a lower --learning_rate, more warm-up, or --precision=float32; "
      "--skip_nonfinite_steps leaves such steps out."
    )

  @contextlib.contextmanager
  def _errors_explained(self, step: int, writer: checkpoint.BackgroundWriter):
    """Says in a UserError what a user can do about an error in a step."""
    try:
      yield
    except (tf.errors.ResourceExhaustedError, MemoryError) as error:
      raise UserError(
        f"Memory ran out in the steps after step {step}, with "
        f"--train_batch_size={self._train_batch_size}. What helps, the "
        "cheapest first: a larger --gradient_accumulation_steps (same "
        "result, smaller parts), --precision=bfloat16, "
        "--recompute_activations, a smaller --max_seq_length or "
        f"--train_batch_size. TensorFlow says: {_cause(error)}"
      ) from error
    except tf.errors.OpError as error:
      if isinstance(error, tf.errors.OutOfRangeError) or (
        "infinite number of elements" in str(error)
      ):
        raise UserError(
          f"The training data ended after step {step}; the input_fn must "
          "repeat them."
        ) from error
      if self._num_workers > 1 and isinstance(
        error,
        (
          tf.errors.UnavailableError,
          tf.errors.AbortedError,
          tf.errors.CancelledError,
          tf.errors.InternalError,
          tf.errors.DeadlineExceededError,
        ),
      ):
        raise UserError(
          "Another machine of TF_CONFIG was lost, or the way to it. Start "
          "all of them again: they go on from "
          f"{self._newest_checkpoint(writer) or 'the start'}. TensorFlow "
          f"says: {_cause(error)}"
        ) from error
      raise

  def _take_note(self, results: Mapping[str, float], writer) -> None:
    """Keeps the weights of the best evaluation apart."""
    name, best = self._config.best_metric, self._state.best
    if name not in results:
      raise UserError(
        f"There is no score {name!r} to find the best weights "
        f"by. There are: {', '.join(sorted(results))}."
      )
    step = self.global_step
    value = self._from_chief(results[name])
    sign = -1.0 if name.endswith("loss") else 1.0
    self._state.evaluated_step = step
    if not np.isfinite(value):
      logging.warning("  %s is %s at step %d: not counted.", name, value, step)
      return
    if not best or sign * value > sign * best["value"]:
      self._state.best = {
        "step": step,
        "metric": name,
        "value": value,
        "evaluations_since": 0,
      }
      if self._config.model_dir and self._is_chief:
        writer.save(
          self._best_dir(),
          step,
          {
            **checkpoint.variables_by_name(self._spec.model),
            "global_step": self._global_step,
          },
          0,
          results,
        )
    else:
      best["evaluations_since"] += 1
    logging.info(
      "  best %s so far: %s at step %d",
      name,
      self._state.best["value"],
      self._state.best["step"],
    )

  def _log_memory(self) -> None:
    """Logs what a device has to hold."""
    if not self._spec.activation_bytes:
      return
    variables = self._spec.model.trainable_variables
    weights = 4 * sum(int(np.prod(variable.shape)) for variable in variables)
    parts = self._config.gradient_accumulation_steps
    num_examples = self._train_batch_size // (
      self._strategy.num_replicas_in_sync * parts
    )
    gradients = weights * (2 if parts > 1 else 1)
    activations = self._spec.activation_bytes(num_examples)
    logging.info(
      "Memory of a device, estimated: %.2f GiB = weights %.2f + optimizer "
      "%.2f + gradients %.2f + activations %.2f (%d examples at a time, %s)",
      *(
        count / 2**30
        for count in (
          3 * weights + gradients + activations,
          weights,
          2 * weights,
          gradients,
          activations,
        )
      ),
      num_examples,
      self._config.compute_dtype.name,
    )

  # --- Evaluation and prediction ---------------------------------------------

  def evaluate(
    self, input_fn: InputFn, steps: int | None = None
  ) -> dict[str, float]:
    """Returns the means of all that `loss_fn` reports, `loss` and global_step.

    Args:
      input_fn: (params) -> a Dataset of batches of `params["batch_size"]`.
      steps: the most batches to read; None for all.
    """
    self._require_weights()
    dataset = _without_autograph(input_fn)(
      {**self._params, "batch_size": self._eval_batch_size}
    )
    if steps is not None:
      dataset = dataset.take(steps)
    sums = {}
    loss_names = ()
    for _, (losses, metrics) in self._run_batches(
      dataset, self._evaluation_losses
    ):
      loss_names = tuple(losses)
      for name, pairs in {**losses, **metrics}.items():
        # Sums of many batches, in float64: the order does not matter.
        sums[name] = sums.get(name, np.zeros(2)) + np.sum(
          pairs, axis=1, dtype=np.float64
        )
    if not sums:
      raise UserError("There is nothing to evaluate: the data are empty.")
    results = {
      name: float(total / weight) if weight else math.nan
      for name, (total, weight) in sums.items()
    }
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
    dataset = _without_autograph(input_fn)(
      {**self._params, "batch_size": self._predict_batch_size}
    )
    for features, predictions in self._run_batches(
      dataset, self._spec.predict_fn
    ):
      predictions = {
        name: np.concatenate(parts) for name, parts in predictions.items()
      }
      rows = range(len(next(iter(predictions.values()))))
      if "is_real_example" in features:
        rows = np.flatnonzero(features["is_real_example"].numpy())
      for i in rows:
        yield {name: value[i] for name, value in predictions.items()}

  def _run_batches(self, dataset, function):
    """Yields each batch, and `function` of it: for each local device a value.

    Every machine does every batch, without asking the others: scores are of
    all of the data on each of them.
    """
    strategy = self._strategy
    local = []
    strategy.experimental_distribute_values_from_function(
      lambda context: local.append(context.replica_id_in_sync_group) or 0.0
    )
    num_local = len(local)
    # With the shapes of the data set, in which lengths may be open: one graph
    # for batches of all lengths.
    key = (function, repr(dataset.element_spec))
    if key not in self._functions:
      self._functions[key] = (
        tf.function(
          function, input_signature=[dataset.element_spec], autograph=False
        )
        if num_local == 1
        else tf.function(
          lambda parts: strategy.run(function, args=(parts,)),
          reduce_retracing=True,
          autograph=False,
        )
      )
    compiled = self._functions[key]
    for features in _without_autotune(dataset):
      if num_local == 1:
        outputs = compiled(features)
      else:
        outputs = compiled(
          strategy.experimental_distribute_values_from_function(
            lambda context: _part(
              features, context.replica_id_in_sync_group - local[0], num_local
            )
          )
        )
      yield (
        features,
        tf.nest.map_structure(
          lambda value: [
            part.numpy() for part in strategy.experimental_local_results(value)
          ],
          outputs,
        ),
      )

  def _evaluation_losses(self, features):
    return self._spec.loss_fn(features, None)

  def write_eval_summary(self, results: Mapping[str, float]) -> None:
    """Shows results to TensorBoard, in the folder `eval` of the run."""
    if not self._config.model_dir or not self._is_chief:
      return
    if self._eval_writer is None:
      self._eval_writer = tf.summary.create_file_writer(
        os.path.join(self._config.model_dir, "eval")
      )
    with self._eval_writer.as_default(step=self.global_step):
      for name, value in results.items():
        if name != "global_step":
          tf.summary.scalar(name, value)
    self._eval_writer.flush()

  # --- Weights ---------------------------------------------------------------

  def export_weights(self, prefix: str) -> None:
    """Writes the weights of the model alone, as a checkpoint.

    A third of the size of a training checkpoint, and all that others need.

    Args:
      prefix: path up to `.index` and `.data-00000-of-00001`.
    """
    self._require_weights()
    if self._is_chief:
      checkpoint.write(prefix, checkpoint.variables_by_name(self._spec.model))
      logging.info(
        "Exported the weights of step %d to %s.", self.global_step, prefix
      )

  def _best_dir(self) -> str:
    return os.path.join(self._config.model_dir, "best")

  def _restore(self) -> bool:
    """Finds weights; returns whether there were any."""
    model_dir, spec = self._config.model_dir, self._spec
    newest = None
    if model_dir and not self._is_restart:
      newest = checkpoint.latest(model_dir)
    if newest:
      logging.info(
        "Continuing from the run's own checkpoint %s (not from an "
        "initial checkpoint).",
        newest,
      )
      checkpoint.restore_all(self._all_variables(), newest, "--output_dir")
      self._restore_state(checkpoint.read_state(newest), newest)
      if not spec.optimizer:
        self._restore_best()
      return True
    if spec.init_checkpoint:
      logging.info(
        "Starting from the initial checkpoint %s.", spec.init_checkpoint
      )
      checkpoint.restore(
        checkpoint.variables_by_name(spec.model), spec.init_checkpoint
      )
      return True
    logging.info("Starting from random weights (seed %d).", self._config.seed)
    return False

  def _restore_state(self, saved: Mapping[str, object], prefix: str) -> None:
    self._state = _State.from_json(saved, prefix + ".json")
    if self._state.loss_scale and self._config.compute_dtype == tf.float16:
      self._loss_scale.assign(self._state.loss_scale)
    old, new = self._state.settings, dict(self._config.settings)
    if self._spec.optimizer:
      for name in sorted(set(old) & set(new)):
        if old[name] != new[name]:
          logging.info(
            "  --%s was %s when that was saved, and is %s now.",
            name,
            old[name],
            new[name],
          )

  def _restore_best(self) -> None:
    """Puts the weights of the best evaluation into the model, if any."""
    best = self._state.best
    if not (best and self._config.model_dir) or (
      best["step"] == self.global_step
    ):
      return
    path = os.path.join(self._best_dir(), f"model.ckpt-{best['step']}")
    if not tf.io.gfile.exists(path + ".index"):
      logging.warning(
        "%s has gone: the weights are those of step %d, not of "
        "the best evaluation.",
        self._best_dir(),
        self.global_step,
      )
      return
    logging.info(
      "Taking the weights of step %d, whose %s was best (%s).",
      best["step"],
      best["metric"],
      best["value"],
    )
    checkpoint.restore_all(
      {
        **checkpoint.variables_by_name(self._spec.model),
        "global_step": self._global_step,
      },
      path,
      "--output_dir",
    )
    self._is_best = True

  def _all_variables(self) -> dict[str, tf.Variable]:
    """Returns all that a run needs to go on, by name."""
    variables = checkpoint.variables_by_name(self._spec.model)
    variables["global_step"] = self._global_step
    if self._spec.optimizer:
      variables.update(checkpoint.variables_by_name(self._spec.optimizer))
    return variables

  def _save(self, writer: checkpoint.BackgroundWriter) -> None:
    if self._config.model_dir and self._is_chief:
      if self._config.compute_dtype == tf.float16:
        self._state.loss_scale = self._loss_scale.numpy().tolist()
      self._state.settings = dict(self._config.settings)
      writer.save(
        self._config.model_dir,
        self.global_step,
        self._all_variables(),
        self._config.keep_checkpoint_max,
        dataclasses.asdict(self._state),
      )
      if self._state.best:
        # Only now: a run that is killed earlier continues from a checkpoint
        # that knows another best step.
        writer.start(
          checkpoint.keep_only, self._best_dir(), self._state.best["step"]
        )

  def _require_weights(self) -> None:
    if not self._has_weights:
      raise UserError(
        f"There is no checkpoint in --output_dir={self._config.model_dir}, "
        "and no --init_checkpoint. Train first, or name one."
      )

  def _newest_checkpoint(
    self, writer: checkpoint.BackgroundWriter
  ) -> str | None:
    writer.wait()
    return self._config.model_dir and checkpoint.latest(self._config.model_dir)

  # --- Several machines ------------------------------------------------------

  def _from_chief(self, value: float) -> float:
    """Returns what the first machine passed; all have to call this."""
    if self._num_workers == 1:
      return value
    return float(self._sum_from_chief(tf.constant(value, tf.float64)))

  @tf.function(autograph=False)
  def _sum_from_chief(self, value):
    def contribution():
      replica = tf.distribute.get_replica_context().replica_id_in_sync_group
      return _all_reduce(
        self._strategy,
        tf.where(tf.equal(replica, 0), value, tf.zeros_like(value)),
      )

    return self._strategy.experimental_local_results(
      self._strategy.run(contribution)
    )[0]

  def _agree_on_step(self, step: int) -> None:
    chief_step = int(self._from_chief(step))
    if chief_step != step:
      raise UserError(
        f"The first machine is at step {chief_step}, this one at {step}: "
        f"--output_dir={self._config.model_dir} has to be one folder that "
        "all machines see."
      )


@dataclasses.dataclass
class _State:
  """What a run is made of beside its weights; JSON beside each checkpoint.

  Attributes:
    input_position: where in the data the next batch begins.
    train_batch_size: of the steps so far.
    loss_scale: factor of a float16 loss, and good steps since it changed;
      None in other types.
    skipped_steps: how many steps changed nothing.
    best: step, metric and value of the best evaluation, and how many there
      were since.
    evaluated_step: of the last evaluation.
    settings: of the run, when this was saved.
  """

  input_position: list[int] | None = None
  train_batch_size: int | None = None
  loss_scale: list[float] | None = None
  skipped_steps: int = 0
  best: dict | None = None
  evaluated_step: int | None = None
  settings: Mapping[str, object] = dataclasses.field(default_factory=dict)

  @classmethod
  def from_json(cls, fields: Mapping[str, object], path: str) -> "_State":
    """Returns the state that a file holds; fields of other programs are left.

    Raises:
      UserError: a field has a value of another type.
    """

    def is_count(value):
      return (
        isinstance(value, int)
        and not isinstance(value, bool)
        and (0 <= value < 2**63)
      )

    def is_number(value):
      return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and abs(value) <= float(np.finfo(np.float32).max)
      )

    def is_best(best):
      return (
        isinstance(best, dict)
        and is_count(best.get("step"))
        and isinstance(best.get("metric"), str)
        and is_number(best.get("value"))
        and is_count(best.get("evaluations_since"))
      )

    checks = {
      "input_position": lambda value: (
        value is None or isinstance(value, list) and all(map(is_count, value))
      ),
      "train_batch_size": lambda value: (
        value is None or (is_count(value) and value > 0)
      ),
      "loss_scale": lambda value: (
        value is None
        or isinstance(value, list)
        and len(value) == 2
        and all(map(is_number, value))
      ),
      "skipped_steps": is_count,
      "best": lambda value: value is None or is_best(value),
      "evaluated_step": lambda value: value is None or is_count(value),
      "settings": lambda value: isinstance(value, dict),
    }
    for name, is_right in checks.items():
      if name in fields and not is_right(fields[name]):
        raise UserError(
          f"{path} is damaged: it has {name}={str(fields[name])[:60]}. "
          "Delete it, and the run continues from the weights next to it; its "
          "place in the data is then found by counting."
        )
    return cls(
      **{name: value for name, value in fields.items() if name in checks}
    )


def _workers(strategy) -> tuple[int, bool]:
  """Returns how many machines train together, and whether this is the first."""
  if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
    return 1, True
  resolver = strategy.cluster_resolver
  cluster = resolver.cluster_spec().as_dict()
  is_chief = resolver.task_type == "chief" or (
    "chief" not in cluster and resolver.task_id == 0
  )
  return len(cluster.get("chief", [])) + len(cluster["worker"]), is_chief


def _cause(error: Exception) -> str:
  """Returns the line of an error of TensorFlow that says what happened."""
  lines = [
    line
    for line in str(error).splitlines()
    if line
    and not line.startswith(("Graph execution", "Detected at", "<stack", " "))
  ]
  return lines[0][:200] if lines else type(error).__name__


def _all_reduce(strategy, values):
  """Returns the sums of `values` over all replicas; called in one of them."""
  if strategy.num_replicas_in_sync == 1:
    return values
  # TensorFlow goes by the device of each value, which one from outside of the
  # replica does not have.
  return tf.distribute.get_replica_context().all_reduce(
    tf.distribute.ReduceOp.SUM, tf.nest.map_structure(tf.identity, values)
  )


def _in_parts(
  differentiate, num_parts: int, shapes, features, weights, seed, loss_scale
) -> tuple[tf.Tensor, list[tf.Tensor]]:
  """Differentiates one part of the examples after the other, and adds up.

  Args:
    differentiate: function of the arguments from `features` on that returns
      the parts of the loss, and gradients.
    num_parts: of the examples.
    shapes: of the gradients.
    features: of all examples.
    weights: of the losses, over all examples.
    seed: of the dropout, int32 [2].
    loss_scale: what the gradients are multiplied by.
  """
  if num_parts == 1:
    return differentiate(features, weights, seed, loss_scale)

  def add_part(part, sums):
    addends = differentiate(
      _part(features, part, num_parts),
      weights,
      tf.random.experimental.stateless_fold_in(seed, part),
      loss_scale,
    )
    return part + 1, tf.nest.map_structure(tf.add, sums, addends)

  zeros = tf.zeros([len(weights)]), [tf.zeros(shape) for shape in shapes]
  _, sums = tf.while_loop(
    lambda part, sums: part < num_parts,
    add_part,
    [0, zeros],
    parallel_iterations=1,  # two parts at a time would need the memory of two
  )
  return sums


def _part(features, part, num_parts: int):
  """Returns part number `part`, of `num_parts`, of the rows of a batch."""

  def rows(value):
    num_rows = value.shape[0]
    if num_rows is not None and num_rows % num_parts == 0:
      size = num_rows // num_parts
      begin = tf.cast(part, tf.int32) * size
      result = tf.slice(
        value,
        [begin] + [0] * (value.shape.rank - 1),
        [size] + [-1] * (value.shape.rank - 1),
      )
      return tf.ensure_shape(result, [size, *value.shape[1:]])
    number, count = tf.cast(part, tf.int32), tf.shape(value)[0]
    return value[
      number * count // num_parts : (number + 1) * count // num_parts
    ]

  return tf.nest.map_structure(rows, features)


def _without_autotune(dataset: tf.data.Dataset) -> tf.data.Dataset:
  """Gives each parallel stage of a Dataset all cores from the start.

  The thread that would tune them sleeps for up to a minute at a time, and often
  whoever lets go of an iterator has to wait until it wakes up.
  """
  options = tf.data.Options()
  options.autotune.enabled = False
  return dataset.with_options(options)
