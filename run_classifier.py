"""Fine-tunes BERT to classify sentences and pairs (paper, section 4.1).

    python run_classifier.py --task_name=MRPC --do_train --do_eval \\
        --data_dir=glue/MRPC --bert_config_file=$BERT/bert_config.json \\
        --vocab_file=$BERT/vocab.txt --init_checkpoint=$BERT/bert_model.ckpt \\
        --max_seq_length=128 --train_batch_size=32 --learning_rate=2e-5 \\
        --num_train_epochs=3.0 --output_dir=/tmp/mrpc

`--task_name=tsv` takes files of one's own: train.tsv, dev.tsv and test.tsv in
--data_dir, each with a header line that names the columns.
"""

import json
import os

from absl import flags
from absl import logging
import numpy as np
import tensorflow as tf

import common_flags
import estimator as estimator_lib
import input_pipeline
import losses
import metrics
import modeling
from tasks import glue

FLAGS = flags.FLAGS


def define_flags() -> None:
  """Defines the flags of this program."""
  common_flags.define_model_flags()
  common_flags.define_vocab_flags()
  common_flags.define_training_flags(
      learning_rate=5e-5, best_metric="eval_loss")
  common_flags.define_tpu_flags()
  flags.DEFINE_enum("task_name", None, [*glue.TASKS, "tsv"], "What to learn.",
                    required=True, case_sensitive=False)
  flags.DEFINE_string("data_dir", None, "Folder with the files of the task.",
                      required=True)
  flags.DEFINE_string("text_a_column", "text", "--task_name=tsv: header of the "
                      "column with the text.")
  flags.DEFINE_string("text_b_column", None, "--task_name=tsv: header of the "
                      "column with the second text, if there is one.")
  flags.DEFINE_string("label_column", "label", "--task_name=tsv: header of the "
                      "column with the label.")
  flags.DEFINE_integer("max_seq_length", 128, "Most tokens of an example; "
                       "longer ones are cut.")
  flags.DEFINE_bool("pad_to_max_length", False, "Pad every batch to "
                    "--max_seq_length, as is always done on a TPU and for the "
                    "training under --xla. Slower.")
  flags.DEFINE_bool("do_predict", False, "Whether to predict the test file.")
  flags.DEFINE_integer("predict_batch_size", 8, "Examples per batch of the "
                       "prediction.", lower_bound=1)
  flags.DEFINE_float("num_train_epochs", 3.0, "How often to go over the "
                     "training examples.", lower_bound=0.0)
  flags.DEFINE_float("warmup_proportion", 0.1, "Share of the steps in which "
                     "the learning rate rises.", lower_bound=0.0,
                     upper_bound=1.0)


def model_fn_builder(config, num_labels, num_train_steps):
  """Returns the `model_fn` of a classifier.

  Args:
    config: BertConfig.
    num_labels: number of classes.
    num_train_steps: 0 if there is no training.
  """
  def model_fn(params):
    model = modeling.BertForSequenceClassification(
        config, num_labels, **common_flags.model_options(params))

    def logits_fn(features, dropout_seed=None):
      return model(features["input_ids"], features["input_mask"],
                   features["segment_ids"], dropout_seed)

    def loss_fn(features, dropout_seed):
      return estimator_lib.Losses({"loss": losses.classification_loss(
          logits_fn(features, dropout_seed), features["label_ids"],
          features["is_real_example"])})

    return estimator_lib.EstimatorSpec(
        model=model, loss_fn=loss_fn,
        predict_fn=lambda features: {"logits": logits_fn(features)},
        optimizer=common_flags.create_optimizer(
            config, num_train_steps,
            int(num_train_steps * FLAGS.warmup_proportion))
        if num_train_steps else None,
        init_checkpoint=FLAGS.init_checkpoint,
        **common_flags.costs(config, num_outputs=1))

  return model_fn


def input_fn_builder(record_file, is_training):
  """Returns the `input_fn` of a file of records."""
  def input_fn(params):
    return input_pipeline.task_dataset(
        record_file, FLAGS.max_seq_length, tf.int64, params["batch_size"],
        is_training, params["seed"],
        static_shapes=FLAGS.use_tpu or FLAGS.pad_to_max_length or (
            is_training and FLAGS.xla))

  return input_fn


def main(_):
  run_config = common_flags.run_config()
  config = modeling.BertConfig.from_json_file(FLAGS.bert_config_file)
  common_flags.check_max_seq_length(config)
  if not (FLAGS.do_train or FLAGS.do_eval or FLAGS.do_predict):
    raise ValueError("Nothing to do: pass --do_train, --do_eval, --do_predict, "
                     "or several of them.")
  tokenizer = common_flags.tokenizer(config)
  task = (glue.TASKS.get(FLAGS.task_name) or glue.tsv_task(
      FLAGS.text_a_column, FLAGS.text_b_column, FLAGS.label_column))
  examples = {split: task.read_examples(FLAGS.data_dir, split)
              for split, is_wanted in [("train", FLAGS.do_train),
                                       ("dev", FLAGS.do_eval),
                                       ("test", FLAGS.do_predict)] if is_wanted}
  labels = _labels(task, examples)
  label_ids = {split: task.label_ids(examples[split], labels, split)
               for split in examples}
  num_train_steps = _num_train_steps(examples)
  estimator = estimator_lib.TPUEstimator(
      model_fn=model_fn_builder(config, len(labels), num_train_steps),
      config=run_config,
      train_batch_size=FLAGS.train_batch_size,
      eval_batch_size=FLAGS.eval_batch_size,
      predict_batch_size=FLAGS.predict_batch_size)
  _write_labels(labels)

  if FLAGS.do_eval:
    eval_file = _write_records("dev", examples, label_ids, tokenizer, "eval")

  def evaluate():
    return _evaluate(task, estimator, eval_file, np.array(label_ids["dev"]))

  if FLAGS.do_train:
    train_file = _write_records("train", examples, label_ids, tokenizer)
    logging.info("***** Running training *****")
    logging.info("  Num examples = %d", len(examples["train"]))
    logging.info("  Batch size = %d", FLAGS.train_batch_size)
    logging.info("  Num steps = %d", num_train_steps)
    estimator.train(input_fn_builder(train_file, is_training=True),
                    max_steps=num_train_steps,
                    evaluate_fn=evaluate if FLAGS.do_eval else None)
    common_flags.export_model(estimator, config)

  if FLAGS.do_eval:
    common_flags.write_results(
        os.path.join(FLAGS.output_dir, "eval_results.txt"), evaluate())

  if FLAGS.do_predict:
    predict_file = _write_records(
        "test", examples, label_ids, tokenizer, "predict")
    _write_predictions(labels, _predict_logits(estimator, predict_file))


def _labels(task, examples) -> tuple[str, ...]:
  """Returns the labels, those of an earlier training if there was one."""
  labels_file = os.path.join(FLAGS.output_dir, "label_list.json")
  known = None
  if tf.io.gfile.exists(labels_file):
    with tf.io.gfile.GFile(labels_file) as reader:
      known = tuple(json.load(reader))
  if not FLAGS.do_train and known:
    return known
  if not FLAGS.do_train and not task.labels:
    raise ValueError(
        f"{labels_file} does not exist, so the labels are not known. Train "
        "first, or point --output_dir to a trained classifier.")
  labels = task.find_labels(examples.get("train", []))
  if known and known != labels:
    raise ValueError(
        f"--output_dir={FLAGS.output_dir} holds a classifier for the labels "
        f"{', '.join(known)}, but the data have {', '.join(labels)}. Choose "
        "another --output_dir.")
  if len(labels) < 2:
    raise ValueError(f"A classifier needs two labels or more, but the training "
                     f"data have only {labels[0]!r}.")
  return labels


def _write_labels(labels) -> None:
  input_pipeline.write_text(
      os.path.join(FLAGS.output_dir, "label_list.json"),
      json.dumps(labels) + "\n")


def _num_train_steps(examples) -> int:
  if not FLAGS.do_train:
    return 0
  num_train_steps = int(len(examples["train"]) / FLAGS.train_batch_size *
                        FLAGS.num_train_epochs)
  if not num_train_steps:
    raise ValueError(
        f"{len(examples['train'])} examples, --num_train_epochs="
        f"{FLAGS.num_train_epochs} and --train_batch_size="
        f"{FLAGS.train_batch_size} make no single step. Train for more epochs "
        "or with smaller batches.")
  return num_train_steps


def _write_records(split, examples, label_ids, tokenizer, name=None) -> str:
  """Writes the records of a split; returns their file."""
  cls_id, sep_id = tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]"])
  path = os.path.join(FLAGS.output_dir, f"{name or split}.tf_record")
  input_pipeline.write_records(path, (
      input_pipeline.create_task_record(
          input_pipeline.pack(
              tokenizer.encode(example.text_a),
              example.text_b and tokenizer.encode(example.text_b),
              FLAGS.max_seq_length, cls_id, sep_id), label_id)
      for example, label_id in zip(examples[split], label_ids[split])))
  return path


def _predict_logits(estimator, record_file) -> np.ndarray:
  """Returns float32 [num_examples, num_labels]."""
  return np.array([prediction["logits"] for prediction in estimator.predict(
      input_fn_builder(record_file, is_training=False))])


def _evaluate(task, estimator, eval_file, label_ids) -> dict[str, float]:
  """Returns the contents of `eval_results.txt`."""
  logits = _predict_logits(estimator, eval_file)
  scores = task.metric_fn(label_ids, np.argmax(logits, axis=-1))
  results = {f"eval_{name}": score for name, score in scores.items()}
  # The loss stands there twice, as it always did.
  results["eval_loss"] = results["loss"] = metrics.cross_entropy(
      label_ids, logits)
  results["global_step"] = estimator.global_step
  estimator.write_eval_summary(results)
  return results


def _write_predictions(labels, logits) -> None:
  """Writes `test_results.tsv`, and `test_predictions.tsv` with names."""
  probabilities = np.exp(metrics.log_softmax(logits))
  path = os.path.join(FLAGS.output_dir, "test_results.tsv")
  with input_pipeline.whole_file(path) as temporary:
    with tf.io.gfile.GFile(temporary, "w") as writer:
      for row in probabilities:
        writer.write("\t".join(map(str, row)) + "\n")
  path = os.path.join(FLAGS.output_dir, "test_predictions.tsv")
  with input_pipeline.whole_file(path) as temporary:
    with tf.io.gfile.GFile(temporary, "w") as writer:
      writer.write("prediction\tprobability\n")
      for row in probabilities:
        writer.write(f"{labels[np.argmax(row)]}\t{np.max(row):.6f}\n")
  logging.info("Predictions of %d examples are in %s.", len(logits), path)


if __name__ == "__main__":
  define_flags()
  common_flags.run(main)
