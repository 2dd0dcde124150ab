"""The training loop: steps, checkpoints, logs, evaluation and prediction.

TensorFlow removed `TPUEstimator`; this class has the same contract and uses
`tf.distribute`. A `model_fn` defines a model, a loss and an optimizer, and does
not know steps or devices. The estimator knows steps, devices and files, and
does not know BERT.

No random state outlives a step: whatever a step draws is a function of the seed
and the number of the step. Everything else that a run needs is stored in each
checkpoint: weights, position in the data, loss scale, best evaluation. A run
that resumes from a checkpoint therefore ends with the same weights, bit for
bit, as a run without the interruption.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import functools
import os
import signal
from typing import Any

from absl import logging
import numpy as np
import tensorflow as tf

import checkpoint
from data import checkpoint_folder
from data import file_io
from data import input_shares
from errors import Interrupted
from errors import UserError
from errors import warn_now_and_at_end
import optimization
from training import devices as devices_lib
from training import evaluation
from training import interruption
from training import run_inputs
from training import run_state
from training import step_errors
from training import training_data
from training import training_log
from training import training_step

# Types in the signatures of a `model_fn` and an `input_fn`.
InputFn = training_data.InputFn
Losses = training_step.Losses
StepReport = training_step.StepReport
Work = training_step.Work

# A function that is called after each call of the graph, with the number of the
# last step and the report of the steps. It returns whether to stop training. In
# training on several machines, only the answer of the first machine counts.
Observer = Callable[[int, StepReport], bool]

# Flags that decide how a run learns. A change in the middle of a run may be a
# mistake.
_SETTINGS_OF_METHOD = frozenset(
  ("learning_rate", "lr_decay", "optimizer", "bias_correction", "dropout")
)
_GIBIBYTE = 2**30


@dataclasses.dataclass
class EstimatorSpec:
  """Result of a `model_fn`.

  Attributes:
    model: The model. Checkpoints hold its variables, by released name.
    loss_fn: (features, dropout_seed) -> `Losses`. The seed is int32 [2] in
      training and None in evaluation.
    predict_fn: features -> {name: Tensor whose first dimension is the batch}.
    optimizer: An optimizer of `optimization.py`; None if there is no training.
    init_checkpoint: Weights to start from if `model_dir` has none.
    work_fn: features -> `Work`; None to log neither tokens nor utilisation.
    model_config: Config of the model, which is compared when the run resumes.
    activation_bytes: Number of examples -> bytes of activations that a device
      keeps for their gradient; None to log no estimate of the memory.
  """

  model: tf.Module
  loss_fn: Callable[..., Losses] | None = None
  predict_fn: Callable[..., dict[str, tf.Tensor]] | None = None
  optimizer: optimization.AdamWeightDecayOptimizer | None = None
  init_checkpoint: str | None = None
  work_fn: Callable[..., Work] | None = None
  model_config: Mapping[str, object] = dataclasses.field(default_factory=dict)
  activation_bytes: Callable[[int], int] | None = None


@dataclasses.dataclass(frozen=True)
class RunConfig:
  """Settings of a run: its devices, its folder and its checkpoints.

  Attributes:
    model_dir: Folder of checkpoints and logs; None to neither read nor write.
      With several machines, a folder that all of them see.
    save_checkpoints_steps: Steps between checkpoints.
    keep_checkpoint_max: Number of checkpoints to keep; 0 for all.
    iterations_per_loop: Largest number of steps in one call of the graph.
    seed: Seed of the dropout. `input_fn` and `model_fn` get it as
      `params["seed"]`, for the order of the data and the initial weights.
    strategy: How to use several devices; None for the strategy in scope.
    compute_dtype: Type of the activations. With float16 the loss is scaled.
    gradient_accumulation_steps: Number of parts into which a device splits its
      share of a batch, to process them one after the other.
    xla: Whether to compile the training step with XLA.
    skip_nonfinite_steps: Whether to skip steps whose loss or gradient is not
      finite, instead of stopping at the first one.
    eval_every_steps: Steps between evaluations during training; 0 for none.
    best_metric: The score that decides which weights are best: the lowest value
      if it ends in `loss`, otherwise the highest.
    early_stopping_patience: Stop after this many evaluations in a row without a
      better score; 0 to never stop early.
    settings: Settings of the run, as JSON. They are stored in each checkpoint
      and compared when the run resumes.
    restart: Whether to delete the checkpoints in `model_dir` and begin at step
      0.
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


@dataclasses.dataclass(frozen=True)
class _TrainingTools:
  """Objects that one call of `train` uses, until it returns.

  Attributes:
    step_loop: Makes steps in the graph.
    iterator: Iterator over (features, input position).
    writer: Writes checkpoints in the background.
    call: Ends calls of the graph after a while, or when a signal arrives.
    progress: Shows and logs the steps.
  """

  step_loop: training_step.StepLoop
  iterator: Any
  writer: checkpoint.BackgroundWriter
  call: interruption.Call
  progress: training_log.Progress


class TPUEstimator:
  """Trains, evaluates and predicts with one model.

  The constructor builds the model and finds its weights, so that anything that
  does not fit fails before any work: they come from the newest checkpoint in
  `model_dir` if there is one, otherwise from `init_checkpoint`, otherwise they
  are random.
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
    """Builds the model and loads its weights.

    Args:
      model_fn: (params) -> EstimatorSpec; called once, here.
      config: Where and how the run happens.
      train_batch_size: Examples per step, over all devices.
      eval_batch_size: Examples per batch of `evaluate`.
      predict_batch_size: Examples per batch of `predict`.
      params: Parameters for `model_fn` and each `input_fn`. The estimator adds
        `seed`, and for an `input_fn` also `batch_size`.

    Raises:
      UserError: A checkpoint does not fit, or the batch cannot be split evenly
        between the devices.
    """
    self._config = config
    self._model_dir = config.model_dir or ""
    strategy = config.strategy or tf.distribute.get_strategy()
    self._devices = devices_lib.Devices(strategy)
    # The order of the data and the initial weights follow from the seed, too.
    self._params = {**(params or {}), "seed": config.seed}
    self._train_batch_size = train_batch_size
    self._eval_batch_size = eval_batch_size
    self._predict_batch_size = predict_batch_size
    self._check_batch_size()
    self._global_step = tf.Variable(
      0, dtype=tf.int64, trainable=False, name="global_step"
    )
    self._loss_scale = training_step.LossScale(config.compute_dtype)
    # In the scope of the strategy, each device gets a copy of each variable.
    with strategy.scope():
      self._spec = model_fn(self._params)
      if self._spec.optimizer:
        self._spec.optimizer.build(self._spec.model.trainable_variables)
    self._state = run_state.RunState()
    self._is_restart = config.restart  # until the old run is deleted
    self._is_best = False  # whether the weights are of the best evaluation
    self._has_weights = self._restore()
    self._batches = evaluation.BatchRunner(self._devices)
    self._eval_writer: Any = None

  @property
  def global_step(self) -> int:
    """The number of steps that made the weights."""
    return int(self._global_step.numpy())

  @property
  def model(self) -> tf.Module:
    """The model."""
    return self._spec.model

  @property
  def is_chief(self) -> bool:
    """True for the only machine, or the first of several."""
    return self._devices.is_chief

  def broadcast_from_chief(self, value: float) -> float:
    """Returns the value that the first machine passes; all must call this."""
    return self._devices.broadcast_from_chief(value)

  @property
  def _writes_files(self) -> bool:
    return bool(self._model_dir) and self._devices.is_chief

  @property
  def _best_dir(self) -> str:
    return os.path.join(self._model_dir, "best")

  def _check_batch_size(self) -> None:
    num_replicas = self._devices.num_replicas
    num_parts = self._config.gradient_accumulation_steps
    if self._train_batch_size % (num_replicas * num_parts):
      raise UserError(
        f"--train_batch_size={self._train_batch_size} cannot be split evenly "
        f"between {num_replicas} devices with "
        f"--gradient_accumulation_steps={num_parts} parts each. Use a multiple "
        f"of {num_replicas * num_parts}."
      )

  # --- Training --------------------------------------------------------------

  def train(
    self,
    input_fn: InputFn,
    max_steps: int,
    evaluate_fn: Callable[[], Mapping[str, float]] | None = None,
    data_files: Sequence[str] = (),
    checkpoint_fn: Callable[[int], None] | None = None,
    first_step: int = 0,
    observer: Observer | None = None,
  ) -> None:
    """Trains until the run has made `max_steps` steps, and saves.

    With an `evaluate_fn`, the folder `best` of the run keeps the weights with
    the best score, and the model has these weights afterwards. The newest
    checkpoint has the weights of the last step. Without a `model_dir` only the
    weights of the last step are kept.

    Args:
      input_fn: (params) -> an endless Dataset of batches of
        `params["batch_size"]` examples, in the same order each time. If it is
        (params, share), several machines need not read the same: it then
        returns the part of an `input_shares.InputShare`. A batch
        may carry the feature `input_position`, int64 [n], which says where the
        next batch begins. A run that resumes passes it, as the list
        `params["input_position"]`, and the Dataset has to begin there. Batches
        without the feature are counted; resuming reads and skips them.
      max_steps: Number of steps from the start of the run. If it has been
        reached already, nothing happens.
      evaluate_fn: Returns scores, among them the `best_metric` of the config.
        It is called every `eval_every_steps`.
      data_files: Paths of the files of the user that the data come from. A run
        that was trained on other ones warns of it.
      first_step: Step at which the run begins to read these data. A run whose
        checkpoint has another one begins with the first batch.
      observer: Sees the steps of each call of the graph, and may end training.

    Raises:
      UserError: `model_dir` cannot be written, the loss is not finite, the data
        end too early, or memory runs out.
      Interrupted: SIGTERM or SIGINT arrived. The last step is saved.
    """
    if self._is_best:
      # Training continues from the last weights, not from the best ones.
      self._is_best = False
      self._restore()
    if not self._config.eval_every_steps:
      evaluate_fn = None
    if not evaluate_fn:
      # An earlier run with evaluations may have had a best one. Its weights do
      # not count as the result of this run.
      self._state.best = None
    self._compare_data_files(data_files)
    if self._has_nothing_to_train(max_steps, evaluate_fn is not None):
      self._finish_last_save()
      self._restore_best()
      return
    self._check_step_of_chief()
    step_loop = self._make_step_loop()
    self._log_memory_estimate(step_loop.training_step)
    if self._writes_files:
      # A folder that cannot be written is found before hours of training.
      file_io.check_writable(self._model_dir, "--output_dir")
      self._prepare_model_dir()
    iterator = self._make_training_iterator(input_fn, first_step)
    self._has_weights = True
    with (
      checkpoint.BackgroundWriter() as writer,
      interruption.Call(self._devices.num_workers) as call,
      self._open_progress(max_steps) as progress,
    ):
      tools = _TrainingTools(step_loop, iterator, writer, call, progress)
      self._train_until(max_steps, evaluate_fn, checkpoint_fn, observer, tools)
    self._devices.broadcast_from_chief(0.0)  # waits until the chief has saved
    self._restore_best()

  def _has_nothing_to_train(self, max_steps: int, evaluates: bool) -> bool:
    """Returns whether the run has ended already, and logs why."""
    step = self.global_step
    if not self._is_done(step, max_steps):
      return False
    if evaluates and self._is_evaluation_due(step):
      return False
    reason = ""
    if step < max_steps:
      reason = ", and the scores had stopped improving"
    warn_now_and_at_end(
      f"Nothing was trained: --output_dir={self._model_dir} is at step {step} "
      f"of {max_steps} already{reason}."
    )
    return True

  def _compare_data_files(self, paths: Sequence[str]) -> None:
    """Warns if the run was trained on other files so far."""
    if not self._model_dir or not paths:
      return
    files = run_inputs.fingerprint_files(paths)
    others = run_inputs.describe_other_files(self._state.data_files, files)
    if others and not self._is_restart:
      warn_now_and_at_end(
        f"{others} To train on other data from the weights of this run, choose "
        "another --output_dir and pass --init_checkpoint="
        f"{os.path.join(self._model_dir, 'export', 'bert_model.ckpt')}."
      )
    self._state.data_files = files

  def _prepare_model_dir(self) -> None:
    """Removes what a killed run, or one that is restarted, left behind."""
    if self._is_restart:
      for folder in (self._best_dir, self._model_dir):
        checkpoint_folder.delete_all(folder)
      self._is_restart = False
    self._finish_saves()

  def _finish_saves(self) -> None:
    """Removes checkpoints that a killed run was still writing or deleting."""
    for folder in (self._best_dir, self._model_dir):
      if tf.io.gfile.isdir(folder):
        checkpoint_folder.finish_save(folder)

  def _finish_last_save(self) -> None:
    """Removes what is left if a run was killed after its last checkpoint."""
    if not self._writes_files:
      return
    self._finish_saves()
    best = self._state.best
    if best and tf.io.gfile.isdir(self._best_dir):
      checkpoint_folder.keep_only(self._best_dir, best.step)

  def _make_step_loop(self) -> training_step.StepLoop:
    config, spec = self._config, self._spec
    assert spec.loss_fn and spec.optimizer, "train() needs both"
    step = training_step.TrainingStep(
      spec.model.trainable_variables,
      spec.loss_fn,
      spec.optimizer,
      spec.work_fn,
      self._devices,
      seed=config.seed,
      num_parts=config.gradient_accumulation_steps,
      xla=config.xla,
    )
    return training_step.StepLoop(step, self._global_step, self._loss_scale)

  def _make_training_iterator(
    self, input_fn: InputFn, first_step: int = 0
  ) -> Any:
    """Returns an iterator over (features, position of the next batch)."""
    restored = self._state

    def create_dataset(share):
      # A Cloud TPU has several shares, each of which begins at the same place.
      self._state = dataclasses.replace(restored)
      dataset = training_data.resume_training_data(
        input_fn,
        self._params,
        self._train_batch_size,
        self.global_step,
        self._state,
        first_step,
        share,
      )
      return training_data.disable_autotune(dataset)

    return iter(self._devices.distribute_training_data(create_dataset))

  def _open_progress(self, max_steps: int) -> training_log.Progress:
    peak_flops = None
    if self._spec.work_fn:
      peak_flops = self._devices.measure_peak_flops(self._config.compute_dtype)
    return training_log.Progress(
      self._model_dir if self._writes_files else None,
      self.global_step,
      max_steps,
      self._train_batch_size,
      peak_flops,
    )

  def _train_until(
    self,
    max_steps: int,
    evaluate_fn: Callable[[], Mapping[str, float]] | None,
    checkpoint_fn: Callable[[int], None] | None,
    observer: Observer | None,
    tools: _TrainingTools,
  ) -> None:
    """Evaluates, saves and makes steps, each when it is due, until done."""
    save_every = self._config.save_checkpoints_steps
    # The graph runs up to the next multiple of one of these.
    stops = [save_every]
    if evaluate_fn:
      stops.append(self._config.eval_every_steps)
    step = self.global_step
    is_saved, signal_number = True, 0
    is_ended = False  # by the observer
    while True:
      # Evaluation comes first: its result is part of the checkpoint.
      if evaluate_fn and not signal_number and self._is_evaluation_due(step):
        results, signal_number = tools.call.unless_signalled(evaluate_fn)
        if results:
          self._record_evaluation(results, tools)
          is_saved = False
      is_done = is_ended or self._is_done(step, max_steps)
      is_regular = is_done or step % save_every == 0
      if checkpoint_fn and step and is_regular and not signal_number:
        call_it = functools.partial(checkpoint_fn, step)
        _, signal_number = tools.call.unless_signalled(call_it)
        tools.progress.restart_clock()
      is_save_due = is_regular or signal_number
      if is_save_due and not is_saved:
        self._save(tools.writer)
        is_saved = True
      if signal_number:
        tools.writer.wait()  # the message promises that the step is saved
        name = signal.Signals(signal_number).name
        raise Interrupted(
          signal_number,
          f"Stopped by {name} after step {step} of {max_steps}, which is "
          "saved. The same command resumes from there.",
        )
      if is_done:
        return
      next_stops = [(step // every + 1) * every for every in stops]
      num_steps = min(max_steps, *next_stops) - step
      num_steps = min(num_steps, self._config.iterations_per_loop)
      result = self._make_steps(num_steps, tools)
      step = self.global_step
      is_saved = False
      signal_number = interruption.signal_of(result.flags.numpy())
      if observer:
        vote = float(observer(step, result.report))
        is_ended = bool(self._devices.broadcast_from_chief(vote))

  def _make_steps(
    self, num_steps: int, tools: _TrainingTools
  ) -> training_step.LoopResult:
    """Makes up to `num_steps` steps, checks them and reports them.

    Returns:
      The result of the loop, with arrays in the report.
    """
    step = self.global_step

    def newest_checkpoint():
      tools.writer.wait()
      return self._find_newest_checkpoint()

    explained = step_errors.explain_errors(
      step, self._train_batch_size, self._devices.num_workers, newest_checkpoint
    )
    with explained, tools.call.limited():
      result = tools.step_loop(
        tools.iterator, tf.constant(num_steps), tools.call.flags
      )
      report = tf.nest.map_structure(lambda x: x.numpy(), result.report)
    is_bad = ~np.isfinite(report.loss) | ~np.isfinite(report.gradient_norm)
    self._state.skipped_steps += int(is_bad.sum())
    # In float16, steps with a scale that is too large are part of the method.
    is_bad &= report.loss_scale <= 1.0
    if is_bad.any() and not self._config.skip_nonfinite_steps:
      raise step_errors.nonfinite_step_error(
        report, is_bad, step, newest_checkpoint
      )
    self._state.input_position = result.position.numpy().tolist()
    step += len(is_bad)
    learning_rate = tools.step_loop.training_step.optimizer.schedule(step)
    tools.progress.report_steps(
      step, report, float(learning_rate), self._state.skipped_steps
    )
    return result._replace(report=report)

  def _find_newest_checkpoint(self) -> str | None:
    if not self._model_dir:
      return None
    return checkpoint_folder.find_latest(self._model_dir)

  def _explain_lost_workers(self):
    """Returns a context in which the loss of another machine is explained."""
    return step_errors.explain_lost_workers(
      self._devices.num_workers, self._find_newest_checkpoint
    )

  def _is_done(self, step: int, max_steps: int) -> bool:
    patience = self._config.early_stopping_patience
    return step >= max_steps or self._state.has_stopped_improving(patience)

  def _is_evaluation_due(self, step: int) -> bool:
    return self._state.is_evaluation_due(step, self._config.eval_every_steps)

  def _record_evaluation(
    self, results: Mapping[str, float], tools: _TrainingTools
  ) -> None:
    """Logs the results of an evaluation, and keeps the best weights."""
    results = {name: float(value) for name, value in results.items()}
    metric = self._config.best_metric
    if metric not in results:
      raise UserError(
        f"There is no score {metric!r} to find the best weights by. There "
        f"are: {', '.join(sorted(results))}."
      )
    step = self.global_step
    # All workers must agree on which evaluation is best, also if their scores
    # differ in the last digit.
    value = self._devices.broadcast_from_chief(results[metric])
    is_best = self._state.record_score(step, metric, value)
    if is_best and self._writes_files:
      tools.writer.save(
        self._best_dir, step, self._variables_without_optimizer(), 0, results
      )
    tools.progress.report_evaluation(step, results)

  def _log_memory_estimate(self, step: training_step.TrainingStep) -> None:
    """Logs how much memory a device needs for training."""
    if not self._spec.activation_bytes:
      return
    num_shares = self._devices.num_replicas * step.num_parts
    num_examples = self._train_batch_size // num_shares
    weights = _num_bytes(step.variables)
    slots = _num_bytes(step.optimizer.variables)
    # With several parts, their sum exists next to the gradients of one part.
    gradients = weights * (2 if step.num_parts > 1 else 1)
    activations = self._spec.activation_bytes(num_examples)
    logging.info(
      "Memory of a device, estimated: %.2f GiB = weights %.2f + optimizer "
      "%.2f + gradients %.2f + activations %.2f (%d examples at a time, %s)",
      (weights + slots + gradients + activations) / _GIBIBYTE,
      weights / _GIBIBYTE,
      slots / _GIBIBYTE,
      gradients / _GIBIBYTE,
      activations / _GIBIBYTE,
      num_examples,
      self._config.compute_dtype.name,
    )

  # --- Evaluation and prediction ---------------------------------------------

  def evaluate(
    self, input_fn: InputFn, steps: int | None = None
  ) -> dict[str, float]:
    """Returns averages of all losses and metrics, `loss` and `global_step`.

    Args:
      input_fn: (params) or (params, share) -> a Dataset of batches of
        `params["batch_size"]`; see `train`.
      steps: Largest number of batches to read; None for all.
    """
    self._require_weights()
    share = self._devices.share_of_batches()
    dataset = self._read_batches(input_fn, self._eval_batch_size, share)
    if steps is not None:
      dataset = dataset.take(share.count_batches(steps))
    outputs = self._batches.run(self._evaluation_losses, dataset)
    with self._explain_lost_workers():
      results = evaluation.average_losses(outputs, self._devices)
    if not results:
      raise UserError("There is nothing to evaluate: the data are empty.")
    results["global_step"] = self.global_step
    self.write_eval_summary(results)
    return results

  @tf.autograph.experimental.do_not_convert
  def _read_batches(
    self, input_fn: InputFn, batch_size: int, share: input_shares.InputShare
  ) -> tf.data.Dataset:
    """Returns the batches of evaluation or prediction of one machine."""
    params = {**self._params, "batch_size": batch_size}
    if training_data.accepts_share(input_fn):
      return input_fn(params, share=share)
    return share.select_batches(input_fn(params))

  def _evaluation_losses(self, features):
    return self._spec.loss_fn(features, None)

  def predict(
    self, input_fn: InputFn, is_shared: bool = True
  ) -> Iterator[dict[str, np.ndarray]]:
    """Yields the results of `predict_fn` for each example, in order.

    Examples whose feature `is_real_example` is 0 only fill a batch, and are
    left out.

    Args:
      input_fn: (params) or (params, share) -> a Dataset of batches of
        `params["batch_size"]`; see `train`.
      is_shared: Whether all machines call this and share the batches. If not,
        this machine predicts all of them, whatever the others do.
    """
    self._require_weights()
    assert self._spec.predict_fn, "predict() needs it"
    if is_shared:
      devices, share = self._devices, self._devices.share_of_batches()
    else:
      devices, share = None, input_shares.WHOLE
    dataset = self._read_batches(input_fn, self._predict_batch_size, share)
    outputs = self._batches.run(self._spec.predict_fn, dataset)
    with self._explain_lost_workers():
      yield from evaluation.predictions_of_examples(outputs, devices)

  def write_eval_summary(self, results: Mapping[str, float]) -> None:
    """Writes results for TensorBoard, to the folder `eval` of the run."""
    if not self._writes_files:
      return
    if self._eval_writer is None:
      self._eval_writer = tf.summary.create_file_writer(
        os.path.join(self._model_dir, "eval")
      )
    with self._eval_writer.as_default(step=self.global_step):
      for name, value in results.items():
        if name != "global_step":
          tf.summary.scalar(name, value)
    self._eval_writer.flush()

  # --- Weights ---------------------------------------------------------------

  def export_weights(self, prefix: str) -> None:
    """Writes the weights of the model alone, as a checkpoint.

    It is a third of the size of a training checkpoint, and holds all that
    other programs need.

    Args:
      prefix: Path without `.index` and `.data-00000-of-00001`.
    """
    self._require_weights()
    if self._devices.is_chief:
      checkpoint.write(prefix, checkpoint.variables_by_name(self._spec.model))
      logging.info(
        "Exported the weights of step %d to %s.", self.global_step, prefix
      )

  def _restore(self) -> bool:
    """Loads weights, and returns whether there were any."""
    spec = self._spec
    newest = None
    if self._model_dir and not self._is_restart:
      newest = checkpoint_folder.find_latest(self._model_dir)
    if newest:
      logging.info(
        "Resuming from the run's own checkpoint %s (not from an initial "
        "checkpoint).",
        newest,
      )
      self._restore_state(newest)
      checkpoint.restore_all(self._all_variables(), newest, "--output_dir")
      if not spec.optimizer:
        # Without training, the result of the run is needed.
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

  def _restore_state(self, prefix: str) -> None:
    """Loads the state next to a checkpoint, and logs changed settings."""
    fields = checkpoint.read_state(prefix)
    self._state = run_state.RunState.from_json(fields, prefix + ".json")
    run_inputs.check_config(
      self._state.model_config, self._spec.model_config, self._model_dir
    )
    if self._state.loss_scale and self._loss_scale.is_dynamic:
      self._loss_scale.state.assign(self._state.loss_scale)
    if not self._spec.optimizer:
      return
    old, new = self._state.settings, self._config.settings
    for name in sorted(set(old) & set(new)):
      if old[name] == new[name]:
        continue
      change = f"--{name} was {old[name]} so far, and is {new[name]} now."
      if name in _SETTINGS_OF_METHOD:
        warn_now_and_at_end(f"{change} The run continues with both.")
      else:
        logging.info("  %s", change)

  def _restore_best(self) -> None:
    """Loads the weights of the best evaluation, if there was one."""
    best = self._state.best
    if not best or not self._model_dir or best.step == self.global_step:
      return
    name = checkpoint_folder.name_of_step(best.step)
    prefix = os.path.join(self._best_dir, name)
    if not tf.io.gfile.exists(prefix + ".index"):
      logging.warning(
        "%s is missing: the weights are those of step %d, not those of the "
        "best evaluation.",
        prefix,
        self.global_step,
      )
      return
    logging.info(
      "Using the weights of step %d, which had the best %s (%s).",
      best.step,
      best.metric,
      best.value,
    )
    # The optimizer keeps the averages of the last step. If training continues,
    # `train` loads the weights of the last step again.
    checkpoint.restore_all(
      self._variables_without_optimizer(), prefix, "--output_dir"
    )
    self._is_best = True

  def _variables_without_optimizer(self) -> dict[str, tf.Variable]:
    """Returns the variables of the model and the step, by name."""
    variables = checkpoint.variables_by_name(self._spec.model)
    variables["global_step"] = self._global_step
    return variables

  def _all_variables(self) -> dict[str, tf.Variable]:
    """Returns all variables that a run needs to resume, by name."""
    variables = self._variables_without_optimizer()
    if self._spec.optimizer:
      variables.update(checkpoint.variables_by_name(self._spec.optimizer))
    return variables

  def _save(self, writer: checkpoint.BackgroundWriter) -> None:
    """Starts to write a checkpoint. Every machine calls this."""
    with self._explain_lost_workers():
      self._state.input_position = training_data.gather_positions(
        self._state.input_position, self._devices
      )
    if not self._writes_files:
      return
    if self._loss_scale.is_dynamic:
      loss_scale = self._loss_scale.state.numpy()
      self._state.loss_scale = loss_scale.tolist()
    self._state.settings = dict(self._config.settings)
    self._state.model_config = dict(self._spec.model_config)
    writer.save(
      self._model_dir,
      self.global_step,
      self._all_variables(),
      self._config.keep_checkpoint_max,
      self._state.to_json(),
    )
    best = self._state.best
    if best:
      # Older best weights are deleted only now: a run that is killed before
      # resumes from a checkpoint whose state names them.
      writer.start(checkpoint_folder.keep_only, self._best_dir, best.step)

  def _require_weights(self) -> None:
    if not self._has_weights:
      raise UserError(
        f"There is no checkpoint in --output_dir={self._model_dir}, "
        "and no --init_checkpoint. Train first, or pass one."
      )

  def _check_step_of_chief(self) -> None:
    step = self.global_step
    # Workers with different folders would train from different weights.
    chief_step = int(self._devices.broadcast_from_chief(step))
    if chief_step != step:
      raise UserError(
        f"The first machine is at step {chief_step}, this one at {step}: "
        f"--output_dir={self._model_dir} has to be one folder that "
        "all machines see."
      )


def _num_bytes(variables) -> int:
  """Returns the memory that variables take."""
  total = 0
  for variable in variables:
    total += variable.dtype.size * variable.shape.num_elements()
  return total
