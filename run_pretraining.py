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
"""

from __future__ import annotations

import launch  # First: from here on a signal ends the program quietly.

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import os
from typing import Any

from absl import flags
from absl import logging
import tensorflow as tf

from command_line import flag_help
import common_flags
from data import batching
from data import checkpoint_folder
from data import file_io
from data import file_names
from data import original_names
from data import record_files
from data import tokenizer_settings
from errors import UserError
import estimator as estimator_lib
import heads
import modeling
from pretraining import input_pipeline
from pretraining import masking
from pretraining import record_formats
from reports import mask_report
import tokenization
from training import model_folder
from training import run_folder

FLAGS = flags.FLAGS
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
  flags.DEFINE_integer(
    "num_train_steps",
    100000,
    "Total number of steps, including those before an interruption.",
    lower_bound=1,
  )
  flags.DEFINE_integer(
    "num_warmup_steps",
    10000,
    "Number of steps in which the learning rate increases.",
    lower_bound=0,
  )
  flags.DEFINE_integer(
    "max_eval_steps",
    100,
    "Maximum number of batches of the evaluation.",
    lower_bound=1,
  )
  flags.DEFINE_bool(
    "dynamic_masking",
    False,
    "Draw new masks in each epoch of training; those of the records are "
    "ignored.",
  )
  flags.DEFINE_string(
    "vocab_file",
    None,
    "Vocabulary of the records; --dynamic_masking needs it, and it is copied "
    "next to the weights.",
  )
  common_flags.define_special_tokens_flag()
  common_flags.define_masking_flags("--dynamic_masking")
  flags.DEFINE_bool(
    "skip_damaged_records",
    False,
    "Skip and count damaged records instead of stopping. All files are read "
    "once before training; files with damage are copied without it to the "
    "folder `undamaged` in --output_dir.",
  )


@launch.owns("output_dir", finish=common_flags.write_report)
def main(_):
  run_config = common_flags.run_config()
  files = common_flags.model_files("bert_config_file")
  config = common_flags.read_config(files)
  common_flags.check_max_seq_length(FLAGS.max_seq_length, config, files)
  if not (FLAGS.do_train or FLAGS.do_eval):
    raise UserError("Nothing to do: pass --do_train, --do_eval, or both.")
  redraw_masks = _create_mask_function(config, files)
  common_flags.find_newest_checkpoint(files.init_checkpoint)  # checks it
  data_files = train_files = _expand_flag("input_file")
  eval_files = train_files
  if FLAGS.eval_input_file:
    eval_files = _expand_flag("eval_input_file")
  record_format = record_formats.check_pretraining_files(
    train_files + eval_files,
    FLAGS.max_seq_length,
    FLAGS.max_predictions_per_seq,
    FLAGS.skip_damaged_records,
  )

  def find_problems(records: Sequence[bytes]) -> Mapping[int, str]:
    return record_formats.examine_records(
      records, record_format, config.vocab_size, config.type_vocab_size
    )

  if FLAGS.skip_damaged_records:
    train_files = _copy_undamaged(train_files, find_problems)
    eval_files = _copy_undamaged(eval_files, find_problems)
  estimator = estimator_lib.TPUEstimator(
    model_fn=model_fn_builder(config, record_format, files.init_checkpoint),
    config=run_config,
    train_batch_size=FLAGS.train_batch_size,
    eval_batch_size=FLAGS.eval_batch_size,
    predict_batch_size=mask_report.NUM_RECORDS,
  )
  train_input_fn = input_fn_builder(
    train_files, record_format, config, True, redraw_masks
  )
  eval_input_fn = input_fn_builder(eval_files, record_format, config, False)

  def evaluate():
    with _name_damage(eval_files, find_problems):
      return estimator.evaluate(eval_input_fn, steps=FLAGS.max_eval_steps)

  if FLAGS.do_train:
    history = _create_mask_history(estimator, eval_input_fn, files)
    logging.info("***** Running training *****")
    logging.info("  Batch size = %d", FLAGS.train_batch_size)
    with _name_damage(train_files, find_problems):
      estimator.train(
        train_input_fn,
        max_steps=FLAGS.num_train_steps,
        evaluate_fn=evaluate if FLAGS.do_eval else None,
        data_files=data_files,
        checkpoint_fn=history.add if history else None,
      )
    text_settings = None
    if files.vocab_file:
      text_settings = tokenizer_settings.TokenizerSettings.read(
        os.path.dirname(files.vocab_file)
      )
    common_flags.export_model(
      estimator, config, files.vocab_file, text_settings
    )

  if FLAGS.do_eval:
    logging.info("***** Running evaluation *****")
    logging.info("  Batch size = %d", FLAGS.eval_batch_size)
    run_folder.write_results(FLAGS.output_dir, "eval_results.txt", evaluate())


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
) -> Callable[[Mapping[str, Any]], estimator_lib.EstimatorSpec]:
  """Returns the `model_fn` of pre-training on records of a format."""
  max_predictions = record_format.max_predictions_per_seq

  def model_fn(params):
    model = modeling.BertForPreTraining(
      config, **common_flags.model_options(params)
    )
    optimizer = None
    if FLAGS.do_train:
      optimizer = common_flags.create_optimizer(
        config, FLAGS.num_train_steps, FLAGS.num_warmup_steps
      )
    cost = common_flags.training_cost(
      config,
      num_positions=record_format.max_sequences + max_predictions,
      num_predictions=max_predictions,
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
  config: modeling.BertConfig,
  is_training: bool,
  redraw_masks: Callable | None = None,
) -> Callable[[Mapping[str, Any]], tf.data.Dataset]:
  """Returns the `input_fn` of records."""

  def input_fn(params):
    return input_pipeline.pretraining_dataset(
      input_files,
      record_format,
      config.vocab_size,
      config.type_vocab_size,
      params["batch_size"],
      is_training,
      params["seed"],
      # TPUs need a single shape; other devices evaluate every record.
      drop_remainder=is_training or FLAGS.use_tpu,
      position=params.get(batching.INPUT_POSITION),
      redraw_masks=redraw_masks,
    )

  return input_fn


# --- Flags and files ---------------------------------------------------------


def _create_mask_history(
  estimator: estimator_lib.TPUEstimator,
  eval_input_fn: Callable[[Mapping[str, Any]], tf.data.Dataset],
  files: model_folder.ModelFiles,
) -> mask_report.MaskHistory | None:
  """Returns what records predictions for the page; None if it is not made here.

  Without a vocabulary, the words are not known, and nothing is recorded.
  """
  if not estimator.is_chief:
    return None
  words: Mapping[int, str] = {}
  if files.vocab_file:
    vocab = tokenization.load_vocab(files.vocab_file)
    words = {number: token for token, number in vocab.items()}

  def predict_records():
    return estimator.predict(lambda params: eval_input_fn(params).take(1))

  return mask_report.MaskHistory(
    FLAGS.output_dir,
    estimator.global_step,
    FLAGS.save_checkpoints_steps,
    words,
    predict_records,
  )


def _expand_flag(flag: str) -> list[str]:
  """Returns the input files that a flag names, and logs them."""
  files = file_names.find_files(str(FLAGS[flag].value), f"--{flag}")
  logging.info("*** Files of --%s ***", flag)
  for file in files:
    logging.info("  %s", file)
  return files


def _create_mask_function(
  config: modeling.BertConfig, files: model_folder.ModelFiles
) -> Callable | None:
  """Returns the function that draws new masks; None to keep those of records.

  Raises:
    UserError: Flags contradict each other.
  """
  common_flags.check_belongs(
    (*common_flags.MASKING_FLAGS, "special_tokens"),
    FLAGS.dynamic_masking,
    "--dynamic_masking",
  )
  if not FLAGS.dynamic_masking:
    return None
  if not files.vocab_file:
    raise UserError(
      "--dynamic_masking needs the words: pass the --vocab_file that the "
      "records were made with."
    )
  if common_flags.is_remote_tpu():
    raise UserError(
      "--dynamic_masking runs on the machine of the TPU. Start the program "
      "there, with --tpu_name=local."
    )
  tokenizer = tokenization.FullTokenizer.from_settings(
    files.vocab_file, common_flags.text_settings(files)
  )
  tokenizer.check_special_tokens("mask")
  common_flags.check_vocab_size(len(tokenizer.inv_vocab), config, files)
  vocabulary = masking.Vocabulary.from_tokens(
    tokenizer.vocab, tokenizer.settings.special_tokens
  )
  masker = masking.Masker(vocabulary, common_flags.masking_settings())
  return masker.redraw_masks


# --- Damaged records ---------------------------------------------------------


@contextlib.contextmanager
def _name_damage(
  files: Sequence[str], find_problems: record_files.FindProblems
) -> Iterator[None]:
  """Replaces an error of reading by one that names the damaged record."""
  try:
    yield
  except (tf.errors.DataLossError, tf.errors.InvalidArgumentError) as error:
    logging.info("A record cannot be used. Looking for it ...")
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


def _copy_undamaged(
  files: Sequence[str], find_problems: record_files.FindProblems
) -> list[str]:
  """Returns the files, with copies in place of those that have damage.

  Raises:
    UserError: A file has no undamaged record.
  """
  folder = os.path.join(FLAGS.output_dir, "undamaged")
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
        raise UserError(f"{file} has no undamaged record. Leave it out.")
    result.append(copy)
  return result


if __name__ == "__main__":
  define_flags()
  launch.run(main)
