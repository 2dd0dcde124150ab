"""Fine-tunes BERT to choose what follows (paper, section 4.4).

    python run_swag.py --do_train --do_eval --data_dir=swag \\
        --bert_config_file=$BERT/bert_config.json \\
        --vocab_file=$BERT/vocab.txt --init_checkpoint=$BERT/bert_model.ckpt \\
        --train_batch_size=16 \\
        --learning_rate=2e-5 --num_train_epochs=3 --output_dir=/tmp/swag

--data_dir holds train.csv, val.csv and test.csv of SWAG, or files named by
flags: .csv in its layout, or .jsonl with a context and any number of choices.
"""

import launch  # First: from here on a signal ends the program quietly.

import os
from typing import NamedTuple

from absl import flags
from absl import logging
import numpy as np
import tensorflow as tf

import common_flags
from data import batching
from data import encoding
from data import record_files
import estimator as estimator_lib
import losses
import modeling
from tasks import classification_results
from tasks import classifier as classifier_lib
from tasks import metrics
from tasks import swag

FLAGS = flags.FLAGS

_SPEC = {"label_ids": tf.io.FixedLenFeature([], tf.int64)}


def define_flags() -> None:
  """Defines the flags of this program."""
  common_flags.define_model_flags()
  common_flags.define_vocab_flags()
  common_flags.define_training_flags(
    learning_rate=2e-5, best_metric="eval_loss"
  )
  common_flags.define_evaluation_flags()
  common_flags.define_task_flags(max_seq_length=128)
  common_flags.define_tpu_flags()
  flags.DEFINE_string("data_dir", None, "Folder with the files.", required=True)
  for split, file in [
    ("train", "train.csv"),
    ("dev", "val.csv"),
    ("test", "test.csv"),
  ]:
    flags.DEFINE_string(
      f"{split}_file", file, f"The {split} file in --data_dir."
    )


class Split(NamedTuple):
  """The examples of a file, their records, and the checksum of these."""

  examples: list[swag.ChoiceExample]
  record_file: str
  checksum: int


def model_fn_builder(config, init_checkpoint, num_choices, num_train_steps):
  """Returns the `model_fn`; `num_train_steps` is 0 if there is no training."""

  def model_fn(params):
    model = modeling.BertForMultipleChoice(
      config, **common_flags.model_options(params)
    )

    def logits_fn(features, dropout_seed=None):
      return model(
        features["input_ids"],
        features["input_mask"],
        features["segment_ids"],
        dropout_seed,
      )

    def loss_fn(features, dropout_seed):
      return estimator_lib.Losses(
        {
          "loss": losses.classification_loss(
            logits_fn(features, dropout_seed),
            features["label_ids"],
            features["is_real_example"],
          )
        }
      )

    costs = common_flags.costs(config, num_outputs=1)
    return estimator_lib.EstimatorSpec(
      model=model,
      loss_fn=loss_fn,
      predict_fn=classifier_lib.predict_fn_builder(
        lambda features, dropout_seed: logits_fn(features)
      ),
      optimizer=common_flags.task_optimizer(config, num_train_steps),
      init_checkpoint=init_checkpoint,
      work_fn=costs["work_fn"],
      activation_bytes=lambda num_examples: costs["activation_bytes"](
        num_choices * num_examples
      ),
    )

  return model_fn


def input_fn_builder(split: Split, is_training: bool, batch_size=None):
  """Returns the `input_fn`; `batch_size` is the estimator's, if not given."""

  def input_fn(params):
    order = None
    if is_training:
      order = batching.TrainingOrder(
        len(split.examples),
        split.checksum,
        params["seed"],
        params.get(batching.INPUT_POSITION),
      )
    return batching.task_dataset(
      split.record_file,
      FLAGS.max_seq_length,
      batch_size or params["batch_size"],
      _SPEC,
      order,
      common_flags.static_shapes(is_training),
      num_sequences=len(split.examples[0].choices),
    )

  return input_fn


@launch.owns("output_dir")
def main(_):
  run_config = common_flags.run_config()
  files = common_flags.model_files("bert_config_file", "vocab_file")
  config = common_flags.read_config(files)
  common_flags.check_max_seq_length(FLAGS.max_seq_length, config, files)
  wanted = common_flags.wanted_splits()
  common_flags.check_inputs_are_kept(
    {
      f"--{name}_file": [
        os.path.join(FLAGS.data_dir, FLAGS[f"{name}_file"].value)
      ]
      for name in wanted
    }
  )
  tokenizer = common_flags.create_tokenizer(files, config)
  examples = {
    name: swag.read_examples(
      os.path.join(FLAGS.data_dir, FLAGS[f"{name}_file"].value),
      has_labels=name != "test",
    )
    for name in wanted
  }
  num_train_steps = (
    common_flags.num_task_steps(len(examples["train"])) if FLAGS.do_train else 0
  )
  classifier = classifier_lib.Classifier(
    classifier_lib.MULTIPLE_CHOICE,
    (),
    FLAGS.do_lower_case,
    FLAGS.max_seq_length,
    encoding.TRUNCATE,
  )
  classifier.check_start(
    common_flags.find_newest_checkpoint(files.init_checkpoint),
    files.init_checkpoint,
    FLAGS.do_train,
  )
  splits = {
    name: _write_records(name, examples[name], tokenizer) for name in examples
  }
  estimator = estimator_lib.TPUEstimator(
    model_fn=model_fn_builder(
      config,
      files.init_checkpoint,
      max(len(some[0].choices) for some in examples.values()),
      num_train_steps,
    ),
    config=run_config,
    train_batch_size=FLAGS.train_batch_size,
  )

  if FLAGS.do_train:
    common_flags.log_training(
      len(examples["train"]),
      sum(len(example.choices) for example in examples["train"]),
      num_train_steps,
    )
    estimator.train(
      input_fn_builder(splits["train"], is_training=True),
      max_steps=num_train_steps,
      evaluate_fn=lambda: (
        _evaluate(estimator, splits["dev"]) if FLAGS.do_eval else None
      ),
    )
    common_flags.export_model(estimator, config, files.vocab_file, classifier)

  if FLAGS.do_eval:
    common_flags.write_results(
      os.path.join(FLAGS.output_dir, "eval_results.txt"),
      _evaluate(estimator, splits["dev"]),
    )

  if FLAGS.do_predict:
    _predict(estimator, splits["test"])


def _write_records(name: str, examples, tokenizer) -> Split:
  """Writes the records of a file, unless they are there already."""
  cls_id, sep_id = tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]"])
  path = common_flags.record_file(name)

  def records():
    for example in examples:
      context = tokenizer.encode(example.context)
      packed = [
        encoding.encode_pair(
          context,
          tokenizer.encode(choice),
          FLAGS.max_seq_length,
          cls_id,
          sep_id,
        )
        for choice in example.choices
      ]
      yield batching.create_task_record(
        encoding.InputFeatures(*(sum(parts, []) for parts in zip(*packed))),
        sequence_lengths=[len(one.input_ids) for one in packed],
        label_ids=[example.label or 0],
      )

  def write():
    record_files.write_records(path, records())
    return {}

  digest = record_files.compute_digest(
    "choices",
    [(example.context, example.choices, example.label) for example in examples],
    record_files.compute_tokenizer_digest(tokenizer),
    FLAGS.max_seq_length,
  )
  stamped = record_files.reuse_or_write_file(path, digest, write)
  return Split(examples, path, stamped.checksum)


def _predict_logits(estimator, split: Split, batch_size: int) -> np.ndarray:
  """Returns float [num_examples, num_choices], in order."""
  logits = np.zeros([len(split.examples), len(split.examples[0].choices)])
  for row in estimator.predict(
    input_fn_builder(split, is_training=False, batch_size=batch_size)
  ):
    logits[row["record_number"]] = row["logits"]
  return logits


def _scores(split: Split, logits: np.ndarray) -> dict[str, float]:
  labels = np.array([example.label for example in split.examples])
  return {
    **metrics.accuracy(labels, np.argmax(logits, axis=1)),
    "loss": float(np.mean(metrics.cross_entropy(labels, logits))),
  }


def _evaluate(estimator, split: Split) -> dict[str, float]:
  """Returns the contents of `eval_results.txt`."""
  logits = _predict_logits(estimator, split, FLAGS.eval_batch_size)
  results = {
    f"eval_{name}": score for name, score in _scores(split, logits).items()
  }
  results["global_step"] = estimator.global_step
  estimator.write_eval_summary(results)
  return results


def _predict(estimator, split: Split) -> None:
  """Writes predictions, and scores if there are labels."""
  logits = _predict_logits(estimator, split, FLAGS.predict_batch_size)
  choices = [str(i) for i in range(logits.shape[1])]
  classification_results.write_predictions(
    FLAGS.output_dir,
    "",
    split.examples,
    choices,
    [choices[i] for i in np.argmax(logits, axis=1)],
    np.exp(metrics.log_softmax(logits)),
  )
  logging.info(
    "Predictions of %d examples are in %s.",
    len(split.examples),
    os.path.join(FLAGS.output_dir, "test_predictions.tsv"),
  )
  if all(example.label is not None for example in split.examples):
    common_flags.write_results(
      os.path.join(FLAGS.output_dir, "test_scores.txt"), _scores(split, logits)
    )


if __name__ == "__main__":
  define_flags()
  launch.run(main)
