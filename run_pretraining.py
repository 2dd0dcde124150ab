"""Pre-trains BERT: masked LM and next sentence prediction (paper, 3.1).

    python run_pretraining.py --do_train --do_eval \\
        --input_file=/tmp/sample.tfrecord --output_dir=/tmp/pretraining \\
        --bert_config_file=$BERT/bert_config.json \\
        --init_checkpoint=$BERT/bert_model.ckpt --max_seq_length=128 \\
        --max_predictions_per_seq=20 --train_batch_size=32 \\
        --num_train_steps=20 --num_warmup_steps=10 --learning_rate=2e-5

Leave --init_checkpoint out to start from random weights.
"""

import os

from absl import flags
from absl import logging
import tensorflow as tf

import common_flags
import estimator as estimator_lib
import input_pipeline
import losses
import modeling

FLAGS = flags.FLAGS


def define_flags() -> None:
  """Defines the flags of this program."""
  common_flags.define_model_flags()
  common_flags.define_training_flags(
      learning_rate=5e-5, best_metric="loss")
  common_flags.define_tpu_flags()
  flags.DEFINE_string("input_file", None, "TFRecord files or globs, separated "
                      "by commas.", required=True)
  flags.DEFINE_string("eval_input_file", None, "The same, for the evaluation; "
                      "--input_file if not given.")
  flags.DEFINE_integer("max_seq_length", 128, "Tokens of a record, as in "
                       "create_pretraining_data.py.")
  flags.DEFINE_integer("max_predictions_per_seq", 20, "Masks of a record, as "
                       "in create_pretraining_data.py.")
  flags.DEFINE_integer("num_train_steps", 100000, "Steps in all, those before "
                       "an interruption included.", lower_bound=1)
  flags.DEFINE_integer("num_warmup_steps", 10000, "Steps in which the learning "
                       "rate rises.", lower_bound=0)
  flags.DEFINE_integer("max_eval_steps", 100, "Most batches of the evaluation.",
                       lower_bound=1)


def loss_fn_builder(model):
  """Returns the `loss_fn` of a `BertForPreTraining`."""
  def loss_fn(features, dropout_seed):
    masked_lm_logits, next_sentence_logits = model(
        features["input_ids"], features["input_mask"], features["segment_ids"],
        features["masked_lm_positions"], dropout_seed)
    label_ids = tf.reshape(features["masked_lm_ids"], [-1])
    label_weights = tf.reshape(features["masked_lm_weights"], [-1])
    next_labels = tf.reshape(features["next_sentence_labels"], [-1])
    example_weights = tf.ones_like(next_labels, tf.float32)
    return estimator_lib.Losses(
        losses={
            "masked_lm_loss": losses.masked_lm_loss(
                masked_lm_logits, label_ids, label_weights),
            "next_sentence_loss": losses.classification_loss(
                next_sentence_logits, next_labels, example_weights)},
        metrics={
            "masked_lm_accuracy": losses.correct(
                masked_lm_logits, label_ids, label_weights),
            "next_sentence_accuracy": losses.correct(
                next_sentence_logits, next_labels, example_weights)})

  return loss_fn


def model_fn_builder(config):
  """Returns the `model_fn` of pre-training."""
  def model_fn(params):
    model = modeling.BertForPreTraining(
        config, **common_flags.model_options(params))
    return estimator_lib.EstimatorSpec(
        model=model, loss_fn=loss_fn_builder(model),
        optimizer=common_flags.create_optimizer(
            config, FLAGS.num_train_steps, FLAGS.num_warmup_steps)
        if FLAGS.do_train else None,
        init_checkpoint=FLAGS.init_checkpoint,
        **common_flags.costs(
            config, num_outputs=1 + FLAGS.max_predictions_per_seq,
            num_predictions=FLAGS.max_predictions_per_seq))

  return model_fn


def input_fn_builder(input_files, vocab_size, is_training):
  """Returns the `input_fn` of records."""
  def input_fn(params):
    return input_pipeline.pretraining_dataset(
        input_files, FLAGS.max_seq_length, FLAGS.max_predictions_per_seq,
        vocab_size, params["batch_size"], is_training, params["seed"],
        # TPUs want one shape; elsewhere every record is evaluated.
        drop_remainder=is_training or FLAGS.use_tpu,
        position=params.get(estimator_lib.INPUT_POSITION))

  return input_fn


def main(_):
  run_config = common_flags.run_config()
  config = modeling.BertConfig.from_json_file(FLAGS.bert_config_file)
  common_flags.check_max_seq_length(config)
  if not (FLAGS.do_train or FLAGS.do_eval):
    raise ValueError("Nothing to do: pass --do_train, --do_eval, or both.")
  train_files = _input_files("input_file")
  eval_files = (_input_files("eval_input_file") if FLAGS.eval_input_file
                else train_files)
  estimator = estimator_lib.TPUEstimator(
      model_fn=model_fn_builder(config), config=run_config,
      train_batch_size=FLAGS.train_batch_size,
      eval_batch_size=FLAGS.eval_batch_size)

  def evaluate():
    return estimator.evaluate(
        input_fn_builder(eval_files, config.vocab_size, is_training=False),
        steps=FLAGS.max_eval_steps)

  if FLAGS.do_train:
    logging.info("***** Running training *****")
    logging.info("  Batch size = %d", FLAGS.train_batch_size)
    estimator.train(
        input_fn_builder(train_files, config.vocab_size, is_training=True),
        max_steps=FLAGS.num_train_steps,
        evaluate_fn=evaluate if FLAGS.do_eval else None)
    common_flags.export_model(estimator, config)

  if FLAGS.do_eval:
    logging.info("***** Running evaluation *****")
    logging.info("  Batch size = %d", FLAGS.eval_batch_size)
    common_flags.write_results(
        os.path.join(FLAGS.output_dir, "eval_results.txt"), evaluate())


def _input_files(flag) -> list[str]:
  """Returns the files of a flag, checked."""
  files = input_pipeline.expand_patterns(FLAGS[flag].value, f"--{flag}")
  logging.info("*** Files of --%s ***", flag)
  for file in files:
    logging.info("  %s", file)
  input_pipeline.check_pretraining_files(
      files, FLAGS.max_seq_length, FLAGS.max_predictions_per_seq)
  return files


if __name__ == "__main__":
  define_flags()
  common_flags.run(main)
