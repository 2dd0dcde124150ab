"""Pre-trains BERT: masked LM and next sentence prediction (paper, 3.1).

    python run_pretraining.py --do_train --do_eval \\
        --input_file=/tmp/sample.tfrecord --output_dir=/tmp/pretraining \\
        --bert_config_file=$BERT/bert_config.json \\
        --init_checkpoint=$BERT/bert_model.ckpt --max_seq_length=128 \\
        --max_predictions_per_seq=20 --train_batch_size=32 \\
        --num_train_steps=20 --num_warmup_steps=10 --learning_rate=2e-5

Without --init_checkpoint, training starts from random weights. The records
decide what is trained: those without next sentences train masked LM alone, and
packed ones train several pairs per row.

--train_hours=2 in place of --num_train_steps trains for a time. With
--long_input_file the last tenth of the steps reads longer records, as the
authors of the paper did (A.2). With --altered_copies_share the last steps make
pairs of the records, which teach small models to compare two texts.
"""

from __future__ import annotations

import launch  # First: from here on a signal ends the program quietly.

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import functools
import gc
import os
import time
from typing import Any, NamedTuple

from absl import flags
from absl import logging
import tensorflow as tf

from command_line import flag_help
from command_line import input_paths
import common_flags
from data import batching
from data import checkpoint_folder
from data import file_io
from data import file_names
from data import input_shares
from data import original_names
from data import record_files
from data import tokenizer_settings
from errors import Interrupted
from errors import UserError
import estimator as estimator_lib
import heads
import modeling
from pretraining import altered_copies
from pretraining import input_pipeline
from pretraining import learning_check
from pretraining import masking
from pretraining import record_formats
from reports import mask_report
import tokenization
from training import cluster
from training import model_folder
from training import run_folder
from training import time_budget

FLAGS = flags.FLAGS
_FLAGS_OF_LONG_RECORDS = (
  "long_share",
  "long_seq_length",
  "long_max_predictions_per_seq",
  "long_train_batch_size",
)
original_names.explain_missing_names(__name__)


@flag_help.group("Pre-training")
def define_flags() -> None:
  """Defines the flags of this program."""
  common_flags.define_model_flags()
  common_flags.define_training_flags(learning_rate=5e-5, best_metric="loss")
  common_flags.define_evaluation_flags()
  common_flags.define_tpu_flags()
  flags.DEFINE_string(
    "input_file",
    None,
    "TFRecord files, folders, patterns, or @lists (files with one name per "
    "line), separated by commas.",
    required=True,
  )
  flags.DEFINE_string(
    "eval_input_file",
    None,
    "The same for the evaluation; by default --input_file.",
  )
  for name in ("input_file", "eval_input_file"):
    input_paths.mark(name, input_paths.check_files)
  flags.DEFINE_integer(
    "max_seq_length",
    128,
    "Number of tokens per record, as given to create_pretraining_data.py.",
  )
  flags.DEFINE_integer(
    "max_predictions_per_seq",
    20,
    "Maximum number of predictions per record, as given to "
    "create_pretraining_data.py.",
  )
  _define_length_flags()
  flags.DEFINE_integer(
    "max_eval_steps",
    100,
    "Maximum number of batches of the evaluation.",
    lower_bound=1,
  )
  _define_mask_flags()
  flags.DEFINE_float(
    "altered_copies_share",
    0.0,
    "Share of the steps, the last ones, whose records become pairs of a text "
    "and an altered copy of it or of another text, which the model learns to "
    "tell apart. It needs --dynamic_masking, and records without next "
    "sentences.",
    lower_bound=0.0,
    upper_bound=1.0,
  )
  flags.DEFINE_bool(
    "skip_damaged_records",
    False,
    "Skip and count damaged records instead of stopping. All files are read "
    "once before training; files with damage are copied without it to the "
    "folder `undamaged` in --output_dir.",
  )
  _define_long_record_flags()


def _define_length_flags() -> None:
  """Defines the flags of the length of the training."""
  flags.DEFINE_integer(
    "num_train_steps",
    100000,
    "Total number of steps, including those before an interruption.",
    lower_bound=1,
  )
  flags.DEFINE_float(
    "train_hours",
    None,
    "Hours from the start of the program to the last step, in place of "
    "--num_train_steps. The speed is measured first; the log then names the "
    "number of steps that fits. --num_warmup_steps is a tenth of it by "
    "default. A run that resumes keeps the number.",
    lower_bound=0.0,
  )
  flags.DEFINE_integer(
    "num_warmup_steps",
    10000,
    "Number of steps in which the learning rate increases.",
    lower_bound=0,
  )


def _define_mask_flags() -> None:
  """Defines the flags of masks that are drawn while training."""
  flags.DEFINE_bool(
    "dynamic_masking",
    False,
    "Draw new masks in each epoch of training; those of the records are "
    "ignored.",
  )
  flags.DEFINE_string(
    "vocab_file",
    None,
    "Vocabulary of the records; --dynamic_masking needs it, the page of the "
    "run shows predicted words with it, and it is copied next to the weights.",
  )
  input_paths.mark("vocab_file", input_paths.check_path)
  common_flags.define_special_tokens_flag()
  common_flags.define_masking_flags("--dynamic_masking")


@flag_help.group("Longer records")
def _define_long_record_flags() -> None:
  """Defines the flags of longer records for the end of the training."""
  flags.DEFINE_string(
    "long_input_file",
    None,
    "TFRecord files of longer records, which the last steps read. Their "
    "sequences may have more tokens than --max_seq_length.",
  )
  input_paths.mark("long_input_file", input_paths.check_files)
  flags.DEFINE_float(
    "long_share",
    0.1,
    "Share of the steps that read --long_input_file.",
    lower_bound=0.0,
    upper_bound=1.0,
  )
  flags.DEFINE_integer(
    "long_seq_length",
    512,
    "Number of tokens per record of --long_input_file.",
  )
  flags.DEFINE_integer(
    "long_max_predictions_per_seq",
    80,
    "Maximum number of predictions per record of --long_input_file.",
  )
  flags.DEFINE_integer(
    "long_train_batch_size",
    None,
    "Number of records of --long_input_file per step; by default "
    "--train_batch_size.",
    lower_bound=1,
  )


class _TrainingPart(NamedTuple):
  """A part of the training, with records of one format.

  Attributes:
    flag: Flag that names the records.
    data_files: Paths that the flag names.
    files: Paths to read: copies without damage replace damaged files.
    record_format: Format of the records.
    batch_size: Number of records per step.
    share: Share of the steps of the run.
    has_copies: Whether the records become pairs with altered copies.
  """

  flag: str
  data_files: list[str]
  files: list[str]
  record_format: record_formats.PretrainingFormat
  batch_size: int
  share: float
  has_copies: bool = False

  def batch_format(self) -> record_formats.PretrainingFormat:
    """Returns the format of what the model is trained on."""
    if self.has_copies:
      return altered_copies.paired_format(self.record_format)
    return self.record_format

  def create_redraw(self, masker: masking.Masker | None) -> Callable | None:
    """Returns the function that draws new masks, and pairs; None for neither.

    Args:
      masker: Rule of new masks; None to keep those of the records.
    """
    if not masker:
      return None
    if self.has_copies:
      return functools.partial(
        altered_copies.redraw_pairs, masker, self.record_format
      )
    return masker.redraw_masks


class _MeasuredPart(NamedTuple):
  """The speed of a part of the training.

  Attributes:
    share: Share of the steps of the run.
    times: Measured times of its steps.
    seconds_used: Time since the start of the program, after the measurement.
    is_chief: True for the only machine, or the first of several.
  """

  share: float
  times: time_budget.StepTimes
  seconds_used: float
  is_chief: bool


class IdLimits(NamedTuple):
  """Limits of the ids in records, which are 0 to below these.

  Attributes:
    vocab_size: Limit of token ids: that of the model, or, with dynamic masking,
      the number of tokens in the vocabulary file if that is lower.
    type_vocab_size: Limit of segment ids.
  """

  vocab_size: int
  type_vocab_size: int

  @classmethod
  def create(
    cls, config: modeling.BertConfig, masker: masking.Masker | None
  ) -> IdLimits:
    """Returns the limits of a model and a rule of masks."""
    vocab_size = config.vocab_size
    if masker:
      vocab_size = min(vocab_size, len(masker.vocabulary.continues_word))
    return cls(vocab_size, config.type_vocab_size)


class _RunLength(NamedTuple):
  """Number of steps of the run, and of its warm-up."""

  num_train_steps: int
  num_warmup_steps: int


@launch.owns("output_dir", finish=common_flags.write_report)
def main(_):
  run_config = common_flags.run_config()
  files = common_flags.model_files("bert_config_file")
  config = common_flags.read_config(files)
  _check_model(config, files)
  masker = _create_masker(config, files)
  common_flags.find_newest_checkpoint(files.init_checkpoint)  # checks it
  id_limits = IdLimits.create(config, masker)
  parts, eval_files = _read_parts(id_limits)
  run = _PretrainingRun(
    run_config, config, files, parts, eval_files, id_limits, masker
  )
  if FLAGS.do_train:
    estimator = run.train(run.find_length())
    text_settings = None
    if files.vocab_file:
      text_settings = tokenizer_settings.TokenizerSettings.read(
        os.path.dirname(files.vocab_file)
      )
    common_flags.export_model(
      estimator, config, files.vocab_file, text_settings
    )
  else:
    estimator = run.create_estimator(parts[0], _length_of_flags())
  if FLAGS.do_eval:
    logging.info("***** Running evaluation *****")
    logging.info("  Batch size = %d", FLAGS.eval_batch_size)
    results = run.evaluate(estimator)
    run_folder.write_results(FLAGS.output_dir, "eval_results.txt", results)


# --- The run -----------------------------------------------------------------


class _PretrainingRun:
  """A run whose parts, one after the other, train on records of their own form.

  Each part has its own estimator, which continues from the checkpoint at the
  end of the part before.
  """

  def __init__(
    self,
    run_config: estimator_lib.RunConfig,
    config: modeling.BertConfig,
    files: model_folder.ModelFiles,
    parts: Sequence[_TrainingPart],
    eval_files: Sequence[str],
    id_limits: IdLimits,
    masker: masking.Masker | None,
  ):
    """Stores what the parts share.

    Args:
      run_config: Where and how the run happens.
      config: Config of the model.
      files: Files of the model.
      parts: The parts of the training.
      eval_files: Paths of the records of the evaluation, which have the format
        of the first part.
      id_limits: Limits of the ids in all records.
      masker: Rule of new masks; None to keep those of the records.
    """
    self._run_config = run_config
    self._config = config
    self._id_limits = id_limits
    self._files = files
    self._parts = parts
    self._eval_files = eval_files
    self._masker = masker

  def create_estimator(
    self,
    part: _TrainingPart,
    length: _RunLength,
    run_config: estimator_lib.RunConfig | None = None,
  ) -> estimator_lib.TPUEstimator:
    """Returns the estimator of a part of the training."""
    return estimator_lib.TPUEstimator(
      model_fn=model_fn_builder(
        self._config, part.batch_format(), self._files.init_checkpoint, length
      ),
      config=run_config or self._run_config,
      train_batch_size=part.batch_size,
      eval_batch_size=FLAGS.eval_batch_size,
      predict_batch_size=mask_report.NUM_RECORDS,
    )

  def evaluate(self, estimator: estimator_lib.TPUEstimator) -> dict[str, float]:
    """Returns the scores of the present weights."""
    record_format = self._parts[0].record_format
    with _name_damage(self._eval_files, record_format, self._id_limits):
      return estimator.evaluate(
        self._create_eval_input_fn(), steps=FLAGS.max_eval_steps
      )

  def train(self, length: _RunLength) -> estimator_lib.TPUEstimator:
    """Trains the parts that are not done, and returns the last estimator."""
    watch = learning_check.LearningWatch(length.num_warmup_steps)
    estimator, first_step = None, 0
    for part in self._parts:
      last_step = length.num_train_steps
      is_last = part is self._parts[-1]
      if not is_last:
        last_step -= max(round(self._parts[-1].share * last_step), 1)
      if is_last or self._newest_step() < last_step:
        estimator = None  # the memory of the part before is needed
        gc.collect()
        estimator = self.create_estimator(part, length)
        self._train_part(estimator, part, first_step, last_step, watch)
        # Only the first part deletes the checkpoints of an earlier run.
        self._run_config = dataclasses.replace(self._run_config, restart=False)
      first_step = last_step
    watch.repeat_at_end()
    assert estimator, "there is at least one part"
    return estimator

  def _newest_step(self) -> int:
    """Returns the step of the newest checkpoint of the run, or 0."""
    newest = None
    if not self._run_config.restart:
      newest = checkpoint_folder.find_latest(FLAGS.output_dir)
    return checkpoint_folder.step_of_name(newest) if newest else 0

  def _train_part(
    self,
    estimator: estimator_lib.TPUEstimator,
    part: _TrainingPart,
    first_step: int,
    last_step: int,
    watch: learning_check.LearningWatch,
  ) -> None:
    """Trains from one step to another with the records of a part."""
    logging.info(
      "***** Running training on --%s%s *****",
      part.flag,
      ", with altered copies" if part.has_copies else "",
    )
    logging.info("  Batch size = %d", part.batch_size)
    history = self._create_mask_history(estimator)
    with _name_damage(part.files, part.record_format, self._id_limits):
      watch.begin(
        lambda: learning_check.measure_entropies(
          part.files, part.record_format, part.has_copies
        )
      )
      estimator.train(
        self._create_train_input_fn(part),
        max_steps=last_step,
        evaluate_fn=(lambda: self.evaluate(estimator))
        if FLAGS.do_eval
        else None,
        data_files=[file for part in self._parts for file in part.data_files],
        checkpoint_fn=history.add if history else None,
        first_step=first_step,
        observer=watch,
      )

  def _create_train_input_fn(
    self, part: _TrainingPart
  ) -> estimator_lib.InputFn:
    return input_fn_builder(
      part.files,
      part.record_format,
      self._id_limits,
      True,
      part.create_redraw(self._masker),
    )

  def _create_eval_input_fn(self) -> estimator_lib.InputFn:
    return input_fn_builder(
      self._eval_files, self._parts[0].record_format, self._id_limits, False
    )

  def _create_mask_history(
    self, estimator: estimator_lib.TPUEstimator
  ) -> mask_report.MaskHistory | None:
    """Returns the recorder of predictions for the page of the run.

    Without a vocabulary, the words are not known, and it records nothing. Only
    the first machine has one.
    """
    if not estimator.is_chief:
      return None
    words: Mapping[int, str] = {}
    if self._files.vocab_file:
      vocab = tokenization.load_vocab(self._files.vocab_file)
      words = {number: token for token, number in vocab.items()}
    input_fn = self._create_eval_input_fn()

    def predict_records():
      # The other machines do not take part.
      return estimator.predict(
        lambda params: input_fn(params).take(1), is_shared=False
      )

    return mask_report.MaskHistory(
      FLAGS.output_dir,
      estimator.global_step,
      FLAGS.save_checkpoints_steps,
      words,
      predict_records,
    )

  # --- The length ---

  def find_length(self) -> _RunLength:
    """Returns the length that the flags give, or that --train_hours allows.

    Raises:
      UserError: The run in the folder was begun with another time, or the time
        is too short.
    """
    if FLAGS.train_hours is None:
      return _length_of_flags()
    budget = None
    if not self._run_config.restart:
      budget = time_budget.read(
        FLAGS.output_dir, FLAGS.train_hours, self._newest_step() > 0
      )
    if not budget:
      budget = self._plan_budget()
    return _RunLength(budget.num_train_steps, budget.num_warmup_steps)

  def _plan_budget(self) -> time_budget.TimeBudget:
    """Measures the speed of all parts, and stores the number of steps."""
    logging.info(
      "Measuring the speed for --train_hours=%g; these steps are not kept.",
      FLAGS.train_hours,
    )
    measured = [self._measure_part(part) for part in self._parts]
    num_warmup_steps = None
    if FLAGS["num_warmup_steps"].present:
      num_warmup_steps = FLAGS.num_warmup_steps
    budget = time_budget.plan(
      FLAGS.train_hours,
      measured[-1].seconds_used,
      [(part.times, part.share) for part in measured],
      num_warmup_steps,
    )
    if measured[-1].is_chief:
      budget.write(FLAGS.output_dir)
    return budget

  def _measure_part(self, part: _TrainingPart) -> _MeasuredPart:
    """Measures the speed of a part, with an estimator that writes nothing."""
    gc.collect()  # the memory of the part before is needed
    run_config = dataclasses.replace(
      self._run_config, model_dir=None, restart=False
    )
    # The number of steps changes the learning rate and not the speed.
    estimator = self.create_estimator(part, _length_of_flags(), run_config)
    times = self._measure_steps(estimator, part)
    seconds_used = time.monotonic() - launch.STARTED
    # All machines have to plan with the same numbers.
    agree = estimator.broadcast_from_chief
    return _MeasuredPart(
      share=part.share,
      times=time_budget.StepTimes(*map(agree, times)),
      seconds_used=agree(seconds_used),
      is_chief=estimator.is_chief,
    )

  def _measure_steps(
    self, estimator: estimator_lib.TPUEstimator, part: _TrainingPart
  ) -> time_budget.StepTimes:
    """Returns the duration of a step, with its share of the evaluations."""
    seconds = time_budget.seconds_to_measure(FLAGS.train_hours)
    timer = time_budget.StepTimer(seconds)
    try:
      with _name_damage(part.files, part.record_format, self._id_limits):
        estimator.train(
          self._create_train_input_fn(part),
          max_steps=FLAGS.num_train_steps,
          observer=timer,
        )
    except Interrupted as error:
      raise Interrupted(
        error.signal_number,
        "Stopped while the speed was measured. Nothing was trained yet.",
      ) from error
    times = timer.times()
    if FLAGS.do_eval and FLAGS.eval_every_steps:
      start = time.monotonic()
      self.evaluate(estimator)
      seconds = (time.monotonic() - start) / FLAGS.eval_every_steps
      times = times._replace(seconds_per_step=times.seconds_per_step + seconds)
    return times


def _length_of_flags() -> _RunLength:
  return _RunLength(FLAGS.num_train_steps, FLAGS.num_warmup_steps)


# --- Model and input ---------------------------------------------------------


def loss_fn_builder(
  model: modeling.BertForPreTraining,
) -> Callable[..., estimator_lib.Losses]:
  """Returns the `loss_fn` of a model."""
  head = heads.HEADS[heads.PRETRAINING]

  def loss_fn(features, dropout_seed):
    logits = _compute_logits(model, features, dropout_seed)
    return estimator_lib.Losses(
      losses=head.named_losses(logits, features),
      metrics=head.named_metrics(logits, features),
    )

  return loss_fn


def _compute_logits(model, features, dropout_seed=None):
  """Returns the logits of both tasks for a batch of records."""
  return model(
    features["input_ids"],
    features["input_mask"],
    features["segment_ids"],
    features["masked_lm_positions"],
    dropout_seed,
    features.get("sequence_starts"),
  )


def model_fn_builder(
  config: modeling.BertConfig,
  record_format: record_formats.PretrainingFormat,
  init_checkpoint: str | None,
  length: _RunLength,
) -> Callable[[Mapping[str, Any]], estimator_lib.EstimatorSpec]:
  """Returns the `model_fn` of pre-training on records of a format."""
  max_predictions = record_format.max_predictions_per_seq

  def model_fn(params):
    model = modeling.BertForPreTraining(
      common_flags.config_to_train(config), **common_flags.model_options(params)
    )
    optimizer = None
    if FLAGS.do_train:
      optimizer = common_flags.create_optimizer(
        config, length.num_train_steps, length.num_warmup_steps
      )
    cost = common_flags.training_cost(
      config,
      num_positions=record_format.max_sequences + max_predictions,
      num_predictions=max_predictions,
      seq_length=record_format.max_seq_length,
    )

    def predict_fn(features):
      logits, _ = _compute_logits(model, features)
      return mask_report.predict(logits, features)

    return estimator_lib.EstimatorSpec(
      model=model,
      loss_fn=loss_fn_builder(model),
      predict_fn=predict_fn,
      optimizer=optimizer,
      init_checkpoint=init_checkpoint,
      model_config=config.to_dict(),
      **cost,
    )

  return model_fn


def input_fn_builder(
  input_files: Sequence[str],
  record_format: record_formats.PretrainingFormat,
  id_limits: IdLimits,
  is_training: bool,
  redraw_masks: Callable | None = None,
) -> Callable[..., tf.data.Dataset]:
  """Returns the `input_fn` of records."""

  def input_fn(params, share=input_shares.WHOLE):
    return input_pipeline.pretraining_dataset(
      input_files,
      record_format,
      id_limits.vocab_size,
      id_limits.type_vocab_size,
      params["batch_size"],
      is_training,
      params["seed"],
      # TPUs need a single shape; other devices evaluate every record.
      drop_remainder=is_training or FLAGS.use_tpu,
      position=params.get(batching.INPUT_POSITION),
      redraw_masks=redraw_masks,
      share=share,
    )

  return input_fn


# --- Flags and files ---------------------------------------------------------


def check_flags() -> None:
  """Raises a UserError if flags contradict each other."""
  common_flags.check_training_flags()
  if not (FLAGS.do_train or FLAGS.do_eval):
    raise UserError("Nothing to do: pass --do_train, --do_eval, or both.")
  if FLAGS.train_hours is not None and FLAGS["num_train_steps"].present:
    raise UserError(
      f"--train_hours={FLAGS.train_hours:g} and "
      f"--num_train_steps={FLAGS.num_train_steps} both give the length of the "
      "training. Pass one of them."
    )
  common_flags.check_belongs(
    (*common_flags.MASKING_FLAGS, "special_tokens"),
    FLAGS.dynamic_masking,
    "--dynamic_masking",
  )
  if FLAGS.dynamic_masking and common_flags.is_remote_tpu():
    raise UserError(
      "--dynamic_masking runs on the machine of the TPU. Start the program "
      "there, with --tpu_name=local."
    )
  if FLAGS.altered_copies_share:
    _check_altered_copies_flags()
  _check_flags_of_long_records()


def _check_altered_copies_flags() -> None:
  """Raises a UserError if other flags do not allow altered copies."""
  flag = f"--altered_copies_share={FLAGS.altered_copies_share:g}"
  if not FLAGS.dynamic_masking:
    raise UserError(
      f"{flag} makes pairs while the training reads records, and draws their "
      "masks then: pass --dynamic_masking as well."
    )
  if FLAGS.long_input_file:
    raise UserError(
      f"{flag} and --long_input_file both say what the last steps read. Pass "
      "one of the two."
    )
  if FLAGS.early_stopping_patience:
    raise UserError(
      f"{flag} cannot be used with --early_stopping_patience: the number of "
      "steps decides when the pairs begin."
    )
  num_machines = cluster.count_machines()
  altered_copies.check_settings(
    FLAGS.altered_copies_share,
    FLAGS.max_seq_length,
    FLAGS.train_batch_size,
    max(num_machines, 1),
  )


def _check_flags_of_long_records() -> None:
  """Raises a UserError if flags about longer records cannot be used."""
  has_long_records = FLAGS.long_input_file is not None
  common_flags.check_belongs(
    _FLAGS_OF_LONG_RECORDS, has_long_records, "--long_input_file"
  )
  if not has_long_records:
    return
  if not 0.0 < FLAGS.long_share < 1.0:
    raise UserError(
      f"--long_share={FLAGS.long_share:g} must be above 0 and below 1: it is "
      "the share of the steps that read --long_input_file."
    )
  if FLAGS.early_stopping_patience:
    raise UserError(
      "--early_stopping_patience cannot be used with --long_input_file: the "
      "number of steps decides when the longer records begin."
    )


def _check_model(
  config: modeling.BertConfig, files: model_folder.ModelFiles
) -> None:
  """Raises a UserError if the flags do not fit the model."""
  common_flags.check_max_seq_length(FLAGS.max_seq_length, config, files)
  if FLAGS.long_input_file:
    common_flags.check_max_seq_length(
      FLAGS.long_seq_length, config, files, "long_seq_length"
    )
  if FLAGS.altered_copies_share:
    altered_copies.check_segments(
      FLAGS.altered_copies_share, config.type_vocab_size
    )


def _read_parts(
  id_limits: IdLimits,
) -> tuple[list[_TrainingPart], list[str]]:
  """Finds and checks all records.

  Returns:
    The parts of the training, and the files of the evaluation.
  """
  train_files = eval_files = _expand_flag("input_file")
  if FLAGS.eval_input_file:
    eval_files = _expand_flag("eval_input_file")
  long_files = _expand_flag("long_input_file") if FLAGS.long_input_file else []
  record_format = record_formats.check_pretraining_files(
    train_files + eval_files,
    FLAGS.max_seq_length,
    FLAGS.max_predictions_per_seq,
    FLAGS.skip_damaged_records,
  )
  copies_share = FLAGS.altered_copies_share
  has_sequences = record_format.max_sequences > 1
  if copies_share and (record_format.has_next_sentence or has_sequences):
    raise UserError(
      f"--altered_copies_share={copies_share:g} makes pairs from records of "
      f"running text, but those of --input_file={FLAGS.input_file} hold pairs "
      "or several texts. Make them with --nonext_sentence_prediction and "
      "without --pack_sequences."
    )
  long_share = FLAGS.long_share if long_files else 0.0
  parts = [
    _TrainingPart(
      flag="input_file",
      data_files=train_files,
      files=_replace_damaged(
        "input_file", train_files, record_format, id_limits
      ),
      record_format=record_format,
      batch_size=FLAGS.train_batch_size,
      share=1.0 - long_share - copies_share,
    )
  ]
  if copies_share:
    parts.append(parts[0]._replace(share=copies_share, has_copies=True))
  if long_files:
    long_format = record_formats.check_pretraining_files(
      long_files,
      FLAGS.long_seq_length,
      FLAGS.long_max_predictions_per_seq,
      FLAGS.skip_damaged_records,
    )
    parts.append(
      _TrainingPart(
        flag="long_input_file",
        data_files=long_files,
        files=_replace_damaged(
          "long_input_file", long_files, long_format, id_limits
        ),
        record_format=long_format,
        batch_size=FLAGS.long_train_batch_size or FLAGS.train_batch_size,
        share=long_share,
      )
    )
  if eval_files is train_files:
    return parts, parts[0].files
  eval_files = _replace_damaged(
    "eval_input_file", eval_files, record_format, id_limits
  )
  return parts, eval_files


def _expand_flag(flag: str) -> list[str]:
  """Returns the input files that a flag names, and logs them."""
  files = file_names.find_files(str(FLAGS[flag].value), f"--{flag}")
  file_names.log_files(f"Files of --{flag}", files)
  return files


def _create_masker(
  config: modeling.BertConfig, files: model_folder.ModelFiles
) -> masking.Masker | None:
  """Returns the rule of new masks; None to keep those of the records.

  Raises:
    UserError: There is no vocabulary, or one of another model.
  """
  if not FLAGS.dynamic_masking:
    return None
  if not files.vocab_file:
    raise UserError(
      "--dynamic_masking needs the words: pass the --vocab_file that the "
      "records were made with."
    )
  tokenizer = tokenization.FullTokenizer.from_settings(
    files.vocab_file, common_flags.text_settings(files)
  )
  tokenizer.check_special_tokens("mask")
  common_flags.check_vocab_size(len(tokenizer.inv_vocab), config, files)
  vocabulary = masking.Vocabulary.from_tokens(
    tokenizer.vocab, tokenizer.settings.special_tokens
  )
  return masking.Masker(vocabulary, common_flags.masking_settings())


# --- Damaged records ---------------------------------------------------------


def _create_problem_finder(
  record_format: record_formats.PretrainingFormat, id_limits: IdLimits
) -> record_files.FindProblems:
  """Returns the function that finds damage in records of a format."""

  def find_problems(records: Sequence[bytes]) -> Mapping[int, str]:
    return record_formats.examine_records(records, record_format, *id_limits)

  return find_problems


@contextlib.contextmanager
def _name_damage(
  files: Sequence[str],
  record_format: record_formats.PretrainingFormat,
  id_limits: IdLimits,
) -> Iterator[None]:
  """Replaces an error of reading by one that names the damaged record."""
  try:
    yield
  except (tf.errors.DataLossError, tf.errors.InvalidArgumentError) as error:
    logging.info("A record cannot be used. Looking for it ...")
    find_problems = _create_problem_finder(record_format, id_limits)
    damage = record_files.find_damage(files, find_problems)
    if damage is None:
      raise
    newest = checkpoint_folder.find_latest(FLAGS.output_dir)
    progress = "Nothing was saved yet"
    if newest:
      progress = f"The training up to {newest} is saved"
    raise UserError(
      f"{damage}. {progress}. Make the file again with "
      "create_pretraining_data.py, or pass --skip_damaged_records to skip such "
      "records; the same command continues from what is saved."
    ) from error


def _replace_damaged(
  flag: str,
  files: list[str],
  record_format: record_formats.PretrainingFormat,
  id_limits: IdLimits,
) -> list[str]:
  """Returns the files; --skip_damaged_records replaces damaged ones by copies.

  Raises:
    UserError: A file has no undamaged record.
  """
  if not FLAGS.skip_damaged_records:
    return files
  find_problems = _create_problem_finder(record_format, id_limits)
  folder = os.path.join(FLAGS.output_dir, "undamaged", flag)
  result = []
  for number, file in enumerate(files):
    # Files of the same name in different folders get different copies.
    copy, damages = record_files.copy_undamaged_records(
      file, os.path.join(folder, str(number)), find_problems
    )
    for damage in damages:
      logging.warning("Skipping a record: %s.", damage)
    if damages:
      logging.warning("%s: %d damaged records skipped.", file, len(damages))
      if file_io.file_size(copy) == 0:
        raise record_formats.no_records_error(file)
    result.append(copy)
  return result


if __name__ == "__main__":
  define_flags()
  launch.run(main, check_flags)
