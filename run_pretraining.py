"""Pre-trains BERT: masked LM and next sentence prediction (paper, 3.1).

    python run_pretraining.py --do_train --do_eval \\
        --input_file=/tmp/sample.tfrecord --output_dir=/tmp/pretraining \\
        --bert_config_file=$BERT/bert_config.json \\
        --init_checkpoint=$BERT/bert_model.ckpt --max_seq_length=128 \\
        --max_predictions_per_seq=20 --train_batch_size=32 \\
        --num_train_steps=20 --num_warmup_steps=10 --learning_rate=2e-5

Leave --init_checkpoint out to start from random weights. What the records
hold decides what is trained: records without next sentences train masked LM
alone, and packed ones train several pairs in a row.
"""

import launch  # First: from here on a signal ends the program quietly.

import contextlib
import os

from absl import flags
from absl import logging
import tensorflow as tf

import common_flags
from data import batching
from data import checkpoint_folder
from data import file_io
from data import record_files
from errors import UserError
import estimator as estimator_lib
import losses
import modeling
from pretraining import input_pipeline
from pretraining import masking
from pretraining import record_formats
import tokenization
from training import run_folder

FLAGS = flags.FLAGS


def define_flags() -> None:
  """Defines the flags of this program."""
  common_flags.define_model_flags()
  common_flags.define_training_flags(learning_rate=5e-5, best_metric="loss")
  common_flags.define_evaluation_flags()
  common_flags.define_tpu_flags()
  flags.DEFINE_string(
    "input_file",
    None,
    "TFRecord files or globs, separated by commas.",
    required=True,
  )
  flags.DEFINE_string(
    "eval_input_file",
    None,
    "The same, for the evaluation; --input_file if not given.",
  )
  flags.DEFINE_integer(
    "max_seq_length",
    128,
    "Tokens of a record, as in create_pretraining_data.py.",
  )
  flags.DEFINE_integer(
    "max_predictions_per_seq",
    20,
    "Masks of a record, as in create_pretraining_data.py.",
  )
  flags.DEFINE_integer(
    "num_train_steps",
    100000,
    "Steps in all, those before an interruption included.",
    lower_bound=1,
  )
  flags.DEFINE_integer(
    "num_warmup_steps",
    10000,
    "Steps in which the learning rate rises.",
    lower_bound=0,
  )
  flags.DEFINE_integer(
    "max_eval_steps", 100, "Most batches of the evaluation.", lower_bound=1
  )
  flags.DEFINE_bool(
    "dynamic_masking",
    False,
    "Draw the masks of the training "
    "anew in each epoch, whatever masks the records have.",
  )
  flags.DEFINE_string(
    "vocab_file",
    None,
    "The vocabulary of the records; for "
    "--dynamic_masking, and to lie beside the weights.",
  )
  flags.DEFINE_float(
    "masked_lm_prob",
    0.15,
    "Share of the tokens to mask, with --dynamic_masking.",
    lower_bound=0.0,
    upper_bound=1.0,
  )
  flags.DEFINE_bool(
    "do_whole_word_mask",
    False,
    "Mask all pieces of a word, or none, with --dynamic_masking.",
  )
  flags.DEFINE_bool(
    "skip_damaged_records",
    False,
    "Leave out damaged records "
    "and count them, instead of stopping. All files are read "
    "once before the training; those with damage are copied "
    "without it to the folder `undamaged` of --output_dir.",
  )


def loss_fn_builder(model):
  """Returns the `loss_fn` of a `BertForPreTraining`."""

  def loss_fn(features, dropout_seed):
    masked_lm_logits, next_sentence_logits = model(
      features["input_ids"],
      features["input_mask"],
      features["segment_ids"],
      features["masked_lm_positions"],
      dropout_seed,
      features.get("sequence_starts"),
    )
    masked_lm = (
      masked_lm_logits,
      tf.reshape(features["masked_lm_ids"], [-1]),
      tf.reshape(features["masked_lm_weights"], [-1]),
    )
    result = estimator_lib.Losses(
      losses={"masked_lm_loss": losses.masked_lm_loss(*masked_lm)},
      metrics={"masked_lm_accuracy": losses.correct(*masked_lm)},
    )
    if "next_sentence_labels" in features:
      labels = features["next_sentence_labels"]
      weights = features.get(
        "next_sentence_weights", tf.ones_like(labels, tf.float32)
      )
      next_sentence = (
        next_sentence_logits,
        tf.reshape(labels, [-1]),
        tf.reshape(weights, [-1]),
      )
      result.losses["next_sentence_loss"] = losses.classification_loss(
        *next_sentence
      )
      result.metrics["next_sentence_accuracy"] = losses.correct(*next_sentence)
    return result

  return loss_fn


def model_fn_builder(config, record_format, init_checkpoint):
  """Returns the `model_fn` of pre-training on records of a format."""

  def model_fn(params):
    model = modeling.BertForPreTraining(
      config, **common_flags.model_options(params)
    )
    return estimator_lib.EstimatorSpec(
      model=model,
      loss_fn=loss_fn_builder(model),
      optimizer=common_flags.create_optimizer(
        config, FLAGS.num_train_steps, FLAGS.num_warmup_steps
      )
      if FLAGS.do_train
      else None,
      init_checkpoint=init_checkpoint,
      **common_flags.training_cost(
        config,
        num_outputs=(
          record_format.max_sequences + FLAGS.max_predictions_per_seq
        ),
        num_predictions=FLAGS.max_predictions_per_seq,
      ),
    )

  return model_fn


def input_fn_builder(
  input_files, record_format, config, is_training, redraw_masks=None
):
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
      # TPUs want one shape; elsewhere every record is evaluated.
      drop_remainder=is_training or FLAGS.use_tpu,
      position=params.get(batching.INPUT_POSITION),
      redraw_masks=redraw_masks,
    )

  return input_fn


@launch.owns("output_dir")
def main(_):
  run_config = common_flags.run_config()
  files = common_flags.model_files("bert_config_file")
  config = common_flags.read_config(files)
  common_flags.check_max_seq_length(FLAGS.max_seq_length, config, files)
  if not (FLAGS.do_train or FLAGS.do_eval):
    raise UserError("Nothing to do: pass --do_train, --do_eval, or both.")
  redraw_masks = _mask_anew(config, files)
  common_flags.find_newest_checkpoint(files.init_checkpoint)  # checks it
  train_files = _input_files("input_file")
  eval_files = (
    _input_files("eval_input_file") if FLAGS.eval_input_file else train_files
  )
  record_format = record_formats.check_pretraining_files(
    train_files + eval_files,
    FLAGS.max_seq_length,
    FLAGS.max_predictions_per_seq,
    FLAGS.skip_damaged_records,
  )

  def examine(records):
    return record_formats.examine_records(
      records, record_format, config.vocab_size, config.type_vocab_size
    )

  if FLAGS.skip_damaged_records:
    train_files = _without_damage(train_files, examine)
    eval_files = _without_damage(eval_files, examine)
  estimator = estimator_lib.TPUEstimator(
    model_fn=model_fn_builder(config, record_format, files.init_checkpoint),
    config=run_config,
    train_batch_size=FLAGS.train_batch_size,
    eval_batch_size=FLAGS.eval_batch_size,
  )

  def evaluate():
    with _damage_named(eval_files, examine):
      return estimator.evaluate(
        input_fn_builder(eval_files, record_format, config, is_training=False),
        steps=FLAGS.max_eval_steps,
      )

  if FLAGS.do_train:
    logging.info("***** Running training *****")
    logging.info("  Batch size = %d", FLAGS.train_batch_size)
    with _damage_named(train_files, examine):
      estimator.train(
        input_fn_builder(
          train_files,
          record_format,
          config,
          is_training=True,
          redraw_masks=redraw_masks,
        ),
        max_steps=FLAGS.num_train_steps,
        evaluate_fn=evaluate if FLAGS.do_eval else None,
      )
    common_flags.export_model(estimator, config, files.vocab_file)

  if FLAGS.do_eval:
    logging.info("***** Running evaluation *****")
    logging.info("  Batch size = %d", FLAGS.eval_batch_size)
    run_folder.write_results(FLAGS.output_dir, "eval_results.txt", evaluate())


def _input_files(flag) -> list[str]:
  """Returns the files of a flag."""
  files = file_io.expand_patterns(FLAGS[flag].value, f"--{flag}")
  logging.info("*** Files of --%s ***", flag)
  for file in files:
    logging.info("  %s", file)
  return files


@contextlib.contextmanager
def _damage_named(files, examine):
  """Says in a UserError which record it was that could not be read."""
  try:
    yield
  except (tf.errors.DataLossError, tf.errors.InvalidArgumentError) as error:
    logging.info("A record cannot be used. Looking for it ...")
    damage = record_files.find_damage(files, examine)
    if damage is None:
      raise
    newest = checkpoint_folder.find_latest(FLAGS.output_dir)
    saved = (
      f"The training up to {newest} is saved"
      if newest
      else "Nothing was saved yet"
    )
    raise UserError(
      f"{damage}. {saved}. Make the file again with create_pretraining_data."
      "py, or pass --skip_damaged_records to leave such records out; the "
      "same command continues from what is saved."
    ) from error


def _without_damage(files, examine) -> list[str]:
  """Returns the files, or where there is damage copies without it.

  Raises:
    UserError: nothing is left of a file.
  """
  folder = os.path.join(FLAGS.output_dir, "undamaged")
  result = []
  for number, file in enumerate(files):
    # Files of the same name in different folders get different copies.
    copy, damages = record_files.copy_undamaged_records(
      file, os.path.join(folder, str(number)), examine
    )
    for damage in damages:
      logging.warning("Left out: %s.", damage)
    if damages:
      logging.warning(
        "%d damaged records of %s are left out.", len(damages), file
      )
      if not tf.io.gfile.stat(copy).length:
        raise UserError(f"{file} has no undamaged record. Leave it out.")
    result.append(copy)
  return result


def _mask_anew(config, files):
  """Returns what draws masks in training; None to leave them as they are.

  Raises:
    UserError: flags that do not go together.
  """
  common_flags.check_belongs(
    ("masked_lm_prob", "do_whole_word_mask"),
    FLAGS.dynamic_masking,
    "--dynamic_masking",
  )
  if not FLAGS.dynamic_masking:
    return None
  if not files.vocab_file:
    raise UserError(
      "--dynamic_masking has to know the words: pass the "
      "--vocab_file that the records were made with."
    )
  if common_flags.is_remote_tpu():
    raise UserError(
      "--dynamic_masking runs on the machine of the TPU. Start "
      "the program there, with --tpu_name=local."
    )
  vocab = tokenization.load_vocab(files.vocab_file)
  common_flags.check_vocab_size(max(vocab.values()) + 1, config, files)
  return masking.Masking(
    masking.Vocabulary.from_tokens(vocab),
    FLAGS.masked_lm_prob,
    FLAGS.max_predictions_per_seq,
    FLAGS.do_whole_word_mask,
  ).mask_anew


if __name__ == "__main__":
  define_flags()
  launch.run(main)
