"""Fine-tunes BERT to classify sentences and pairs (paper, section 4.1).

    python run_classifier.py --task_name=MRPC --do_train --do_eval \\
        --data_dir=glue/MRPC --bert_config_file=$BERT/bert_config.json \\
        --vocab_file=$BERT/vocab.txt --init_checkpoint=$BERT/bert_model.ckpt \\
        --max_seq_length=128 --train_batch_size=32 --learning_rate=2e-5 \\
        --num_train_epochs=3.0 --output_dir=/tmp/mrpc

`--task_name=custom` takes files of one's own: train, dev and test, each .tsv,
.csv or .jsonl, in --data_dir.
"""

import launch  # First: from here on a signal ends the program quietly.

from collections.abc import Callable, Mapping
import dataclasses
import os
from typing import NamedTuple

from absl import flags
from absl import logging
import numpy as np
import tensorflow as tf

import common_flags
from data import encoding
from errors import UserError
import estimator as estimator_lib
import modeling
from tasks import classification
from tasks import classification_results
from tasks import classifier as classifier_lib
from tasks import distillation
from tasks import glue
from tasks import xnli
import tokenization
from training import model_folder

FLAGS = flags.FLAGS

_CUSTOM_FLAGS = (
  "task_file",
  "text_a_column",
  "text_b_column",
  "label_column",
  "id_column",
  "problem_type",
  "label_separator",
)
_XNLI_FLAGS = ("language", "train_language")
_TEACHER_FLAGS = (
  "teacher_cache_dir",
  "transfer_file",
  "distillation_temperature",
  "hard_label_weight",
)


def define_flags() -> None:
  """Defines the flags of this program."""
  common_flags.define_model_flags()
  common_flags.define_vocab_flags()
  define_classifier_flags()


def define_classifier_flags() -> None:
  """Defines the flags that do not depend on the kind of the encoder."""
  common_flags.define_training_flags(
    learning_rate=5e-5, best_metric="eval_loss"
  )
  common_flags.define_evaluation_flags()
  common_flags.define_task_flags(max_seq_length=128)
  common_flags.define_tpu_flags()
  flags.DEFINE_enum(
    "task_name",
    None,
    [*glue.TASKS, "xnli", "custom"],
    "What to learn.",
    required=True,
    case_sensitive=False,
  )
  flags.DEFINE_string(
    "data_dir", None, "Folder with the files of the task.", required=True
  )
  flags.DEFINE_enum(
    "long_text",
    encoding.TRUNCATE,
    [encoding.TRUNCATE, encoding.HEAD_TAIL, encoding.SLIDING_WINDOW],
    "What becomes of longer texts: cut off; "
    "their beginning and their end; or all of them, in windows "
    "that overlap by half, whose logits are averaged.",
  )
  flags.DEFINE_string(
    "class_weights",
    None,
    "Weights of labels in the loss, "
    "such as `spam=5,ham=1`, or `balanced` for weights such "
    "that all labels count the same.",
  )
  _define_custom_flags()
  flags.DEFINE_list(
    "language",
    "zh",
    "--task_name=xnli: language to evaluate "
    "and predict; or several, separated by commas.",
  )
  flags.DEFINE_string(
    "train_language",
    None,
    "--task_name=xnli: language to "
    "train in; that of the evaluation, if not given.",
  )
  _define_teacher_flags()


def _define_custom_flags() -> None:
  """Flags of --task_name=custom."""
  flags.DEFINE_string(
    "task_file",
    None,
    "--task_name=custom: JSON file that "
    "describes the data, in place of the next flags.",
  )
  flags.DEFINE_string(
    "text_a_column",
    "text",
    "--task_name=custom: name of the column with the text.",
  )
  flags.DEFINE_string(
    "text_b_column",
    None,
    "--task_name=custom: name of the "
    "column with the second text, if there is one.",
  )
  flags.DEFINE_string(
    "label_column",
    "label",
    "--task_name=custom: name of the column with the label.",
  )
  flags.DEFINE_string(
    "id_column",
    None,
    "--task_name=custom: name of the "
    "column with ids for the predictions, if there is one.",
  )
  flags.DEFINE_enum(
    "problem_type",
    classification.SINGLE_LABEL,
    classification.PROBLEM_TYPES,
    "--task_name=custom: whether "
    "a text has one label, any number of them, or a number.",
  )
  flags.DEFINE_string(
    "label_separator",
    ",",
    "--task_name=custom: between the labels of a text with several.",
  )


def _define_teacher_flags() -> None:
  """Flags of distillation."""
  flags.DEFINE_string(
    "teacher_model_dir",
    None,
    "Learn what this classifier "
    "predicts: the --output_dir of its training, or a folder "
    "like the `export` in it.",
  )
  flags.DEFINE_string(
    "teacher_cache_dir",
    None,
    "Where what a teacher says is "
    "kept; the folder `distillation` of the teacher, if not "
    "given.",
  )
  flags.DEFINE_string(
    "transfer_file",
    None,
    "Further texts for the teacher to "
    "label: columns as in the test file, in --data_dir.",
  )
  flags.DEFINE_float(
    "distillation_temperature",
    1.0,
    "What the logits of teacher and student are divided by.",
    lower_bound=1e-3,
  )
  flags.DEFINE_float(
    "hard_label_weight",
    0.0,
    "Share of the loss that is about the labels, with a teacher.",
    lower_bound=0.0,
    upper_bound=1.0,
  )


def task_of_flags() -> classification.ClassificationTask:
  """Returns the task.

  Raises:
    UserError: flags that do not go together.
  """
  common_flags.check_belongs(
    _CUSTOM_FLAGS, FLAGS.task_name == "custom", "--task_name=custom"
  )
  common_flags.check_belongs(
    _XNLI_FLAGS, FLAGS.task_name == "xnli", "--task_name=xnli"
  )
  common_flags.check_belongs(
    _TEACHER_FLAGS, FLAGS.teacher_model_dir, "--teacher_model_dir"
  )
  if FLAGS.task_name == "xnli":
    task = xnli.xnli_task(FLAGS.language, FLAGS.train_language)
  elif FLAGS.task_name != "custom":
    task = glue.TASKS[FLAGS.task_name]
  elif FLAGS.task_file:
    given = [name for name in _CUSTOM_FLAGS[1:] if FLAGS[name].present]
    if given:
      raise UserError(
        f"--{given[0]} and --task_file={FLAGS.task_file} say "
        "the same thing: pass one of the two."
      )
    task = classification.read_task_file(FLAGS.task_file)
  else:
    task = classification.custom_task(
      FLAGS.text_a_column,
      FLAGS.text_b_column,
      FLAGS.label_column,
      FLAGS.id_column,
      FLAGS.problem_type,
      label_separator=FLAGS.label_separator,
    )
  if FLAGS.class_weights:
    task = dataclasses.replace(task, class_weights=_class_weights())
  return task


def _class_weights():
  """Returns the weights of the flag, in the form of `ClassificationTask`."""
  if FLAGS.class_weights == "balanced":
    return "balanced"
  weights = {}
  for part in FLAGS.class_weights.split(","):
    label, _, weight = part.rpartition("=")
    try:
      weights[label] = float(weight)
    except ValueError:
      weights[label] = -1.0
    if not label or not 0.0 <= weights[label] < np.inf:
      raise UserError(
        f"--class_weights={FLAGS.class_weights}: {part!r} is "
        "not of the form label=weight. Weights look like "
        "spam=5,ham=1; or say balanced."
      )
  return weights


def model_fn_builder(
  create_model,
  config,
  init_checkpoint,
  classifier,
  label_weights,
  num_train_steps,
):
  """Returns the `model_fn` of a classifier.

  Args:
    create_model: see `run`, likewise `config` and `init_checkpoint`.
    config: BertConfig, or None.
    init_checkpoint: weights to start from, or None.
    classifier: what is predicted.
    label_weights: of the loss of several labels, or None.
    num_train_steps: 0 if there is no training.
  """

  def model_fn(params):
    model = create_model(classifier.num_outputs, params)

    def logits_fn(features, dropout_seed):
      return model(
        features["input_ids"],
        features["input_mask"],
        features["segment_ids"],
        dropout_seed,
      )

    return estimator_lib.EstimatorSpec(
      model=model,
      loss_fn=classifier_lib.loss_fn_builder(
        logits_fn, classifier, label_weights, _distillation()
      ),
      predict_fn=classifier_lib.predict_fn_builder(logits_fn),
      optimizer=common_flags.task_optimizer(config, num_train_steps),
      init_checkpoint=init_checkpoint,
      **(common_flags.costs(config, num_outputs=1) if config else {}),
    )

  return model_fn


def _distillation() -> classifier_lib.Distillation | None:
  if not FLAGS.teacher_model_dir:
    return None
  return classifier_lib.Distillation(
    FLAGS.distillation_temperature, FLAGS.hard_label_weight
  )


class Split(NamedTuple):
  """The examples of a file, what they are labelled with, and their records."""

  examples: list[classification.Example]
  targets: np.ndarray
  records: classifier_lib.Records


class Training(NamedTuple):
  """What there is to train with."""

  records: classifier_lib.Records
  label_weights: np.ndarray | None
  num_steps: int


@launch.owns("output_dir")
def main(_):
  run_config = common_flags.run_config()
  files = common_flags.model_files("bert_config_file", "vocab_file")
  config = common_flags.read_config(files)
  common_flags.check_max_seq_length(FLAGS.max_seq_length, config, files)

  def create_model(num_outputs, params):
    return modeling.BertForSequenceClassification(
      config, num_outputs, **common_flags.model_options(params)
    )

  run(
    run_config,
    common_flags.create_tokenizer(files, config),
    create_model,
    config,
    files,
  )


def run(
  run_config: estimator_lib.RunConfig,
  tokenizer: tokenization.FullTokenizer,
  create_model: Callable[[int, Mapping[str, object]], tf.Module],
  config: modeling.BertConfig | None = None,
  files: model_folder.ModelFiles | None = None,
) -> None:
  """Trains, evaluates and predicts, as the flags say.

  Args:
    run_config: where and how.
    tokenizer: of the encoder.
    create_model: (num_outputs, params) -> a model that is called like
      `modeling.BertForSequenceClassification`.
    config: of the encoder, if it is ours; then the model is exported.
    files: the files of the model, if it is ours.
  """
  files = files or model_folder.ModelFiles()
  init_checkpoint = files.init_checkpoint
  _check_flags()
  task = task_of_flags()
  _check_inputs(task)
  examples = _read_examples(task)
  classifier = _classifier(
    task, examples, init_checkpoint, tokenizer.basic_tokenizer.do_lower_case
  )
  targets = {
    name: task.targets(examples[name], classifier.labels) for name in examples
  }
  classifier.check_start(
    common_flags.find_newest_checkpoint(init_checkpoint),
    init_checkpoint,
    FLAGS.do_train,
  )

  training = Training(None, None, 0)
  if FLAGS.do_train:
    training = _prepare_training(
      task, classifier, tokenizer, examples["train"], targets["train"]
    )
  estimator = estimator_lib.TPUEstimator(
    model_fn=model_fn_builder(
      create_model,
      config,
      init_checkpoint,
      classifier,
      training.label_weights,
      training.num_steps,
    ),
    config=run_config,
    train_batch_size=FLAGS.train_batch_size,
  )

  def splits(kind):
    return {
      name: Split(
        examples[name],
        targets[name],
        classifier_lib.write_records(
          common_flags.record_file(name),
          classifier,
          tokenizer,
          examples[name],
          targets[name],
        ),
      )
      for name in examples
      if name.partition("_")[0] == kind
    }

  if FLAGS.do_eval:
    dev = splits("dev")

  if FLAGS.do_train:
    _train(
      classifier,
      estimator,
      training,
      len(examples["train"]),
      lambda: (
        _evaluate(task, classifier, estimator, dev) if FLAGS.do_eval else None
      ),
    )
    if config:
      common_flags.export_model(estimator, config, files.vocab_file, classifier)

  if FLAGS.do_eval:
    common_flags.write_results(
      os.path.join(FLAGS.output_dir, "eval_results.txt"),
      _evaluate(task, classifier, estimator, dev, writes_mistakes=True),
    )

  if FLAGS.do_predict:
    _predict(task, classifier, estimator, splits("test"))


def _check_flags() -> None:
  """Raises a UserError for flags that do not go together."""
  if FLAGS.long_text == encoding.SLIDING_WINDOW and (FLAGS.max_seq_length < 8):
    raise UserError(
      f"--max_seq_length={FLAGS.max_seq_length} leaves no room "
      "for windows of a text. Use 8 or more."
    )


def _check_inputs(task) -> None:
  """Raises a UserError if a file of the task would be written over."""
  data_files = [
    os.path.join(FLAGS.data_dir, columns.file)
    for splits in task.splits.values()
    for columns in splits
  ]
  if FLAGS.transfer_file:
    data_files.append(os.path.join(FLAGS.data_dir, FLAGS.transfer_file))
  common_flags.check_inputs_are_kept(
    {
      "--data_dir": data_files,
      "--task_file": [FLAGS.task_file] if FLAGS.task_file else [],
    }
  )


def _read_examples(task) -> dict[str, list[classification.Example]]:
  """Returns the examples of each split that is wanted."""
  return {
    name: task.read_examples(FLAGS.data_dir, name)
    for kind in common_flags.wanted_splits()
    for name in task.existing_splits(FLAGS.data_dir, kind)
  }


def _classifier(
  task, examples, init_checkpoint, do_lower_case: bool
) -> classifier_lib.Classifier:
  """Returns what is predicted; what was trained earlier, if something was.

  Raises:
    UserError: there is nothing to predict with, or the data have changed.
  """
  known = None
  if not FLAGS.restart:
    known = classifier_lib.Classifier.read(FLAGS.output_dir)
  if not FLAGS.do_train:
    if not known and init_checkpoint:
      known = classifier_lib.Classifier.read(os.path.dirname(init_checkpoint))
    if known and known.problem_type == task.problem_type:
      return dataclasses.replace(
        known, max_seq_length=FLAGS.max_seq_length, long_text=FLAGS.long_text
      )
    if known or not (
      task.labels or task.problem_type == classification.REGRESSION
    ):
      raise UserError(
        f"{FLAGS.output_dir} holds no classifier.json of a trained classifier"
        f" for {task.problem_type}, and so the labels are not known. Train "
        "first, or point --output_dir to a trained classifier."
      )
  classifier = classifier_lib.Classifier(
    task.problem_type,
    task.find_labels(examples.get("train", ())),
    do_lower_case,
    FLAGS.max_seq_length,
    FLAGS.long_text,
  )
  if known and (known.problem_type, known.labels) != (
    classifier.problem_type,
    classifier.labels,
  ):
    raise UserError(
      f"--output_dir={FLAGS.output_dir} holds a classifier for "
      f"{known.problem_type} with the labels {', '.join(known.labels)}, but "
      f"the data are for {classifier.problem_type} with the labels "
      f"{', '.join(classifier.labels)}. Choose another --output_dir."
    )
  return classifier


def _prepare_training(
  task, classifier, tokenizer, examples, targets
) -> Training:
  """Writes the records to train with; asks the teacher, if there is one."""
  common_flags.num_task_steps(len(examples))  # too few are found at once
  label_weights = task.label_weights(targets, classifier.labels)
  weights = np.ones(len(examples))
  if label_weights is not None and targets.ndim == 1:
    weights, label_weights = label_weights[targets], None
  teacher_logits = None
  if FLAGS.teacher_model_dir:
    if FLAGS.transfer_file:
      more = task.read_texts(FLAGS.data_dir, FLAGS.transfer_file)
      logging.info("%s adds %d examples.", FLAGS.transfer_file, len(more))
      examples = examples + more
      targets = np.concatenate([targets, classifier.no_targets(len(more))])
      weights = np.concatenate([weights, np.zeros(len(more))])
    teacher_logits = distillation.teacher_logits(
      FLAGS.teacher_model_dir,
      examples,
      classifier,
      FLAGS.teacher_cache_dir
      or os.path.join(FLAGS.teacher_model_dir, "distillation"),
      common_flags.compute_dtype(),
    )
  records = classifier_lib.write_records(
    common_flags.record_file("train"),
    classifier,
    tokenizer,
    examples,
    targets,
    weights,
    teacher_logits,
  )
  return Training(
    records,
    label_weights,
    common_flags.num_task_steps(len(records.example_numbers)),
  )


def _train(
  classifier, estimator, training: Training, num_examples: int, evaluate_fn
) -> None:
  """Trains; `evaluate_fn` is as for `TPUEstimator.train`."""
  classifier.write(FLAGS.output_dir)
  common_flags.log_training(
    num_examples, len(training.records.example_numbers), training.num_steps
  )
  estimator.train(
    classifier_lib.input_fn_builder(
      training.records,
      classifier,
      is_training=True,
      static_shapes=common_flags.static_shapes(is_training=True),
      has_teacher=bool(FLAGS.teacher_model_dir),
    ),
    max_steps=training.num_steps,
    evaluate_fn=evaluate_fn,
  )


def _evaluate(
  task,
  classifier,
  estimator,
  dev: Mapping[str, Split],
  writes_mistakes: bool = False,
) -> dict[str, float]:
  """Returns the contents of `eval_results.txt`."""
  results = {"global_step": estimator.global_step}
  for name, split in dev.items():
    suffix = name.removeprefix("dev")
    logits = classifier_lib.predict_logits(
      estimator,
      split.records,
      classifier,
      FLAGS.eval_batch_size,
      common_flags.static_shapes(is_training=False),
    )
    decisions = classifier.decide(logits)
    losses = classifier.losses(split.targets, logits)
    prefix = f"eval{suffix}_"
    for metric, score in task.metric_fn(split.targets, decisions).items():
      results[prefix + metric] = score
    results[prefix + "loss"] = float(np.mean(losses))
    if writes_mistakes:
      classification_results.write_mistakes(
        FLAGS.output_dir,
        suffix,
        split.examples,
        [classifier.name(decision) for decision in decisions],
        losses,
      )
      if classifier.labels:
        classification_results.write_confusion(
          FLAGS.output_dir, suffix, classifier.labels, split.targets, decisions
        )
  # The loss stands there twice, as it always did.
  results["loss"] = results["eval_loss"]
  estimator.write_eval_summary(results)
  return results


def _predict(task, classifier, estimator, test: Mapping[str, Split]) -> None:
  """Writes predictions, and scores of files that have labels."""
  for name, split in test.items():
    suffix = name.removeprefix("test")
    logits = classifier_lib.predict_logits(
      estimator,
      split.records,
      classifier,
      FLAGS.predict_batch_size,
      common_flags.static_shapes(is_training=False),
    )
    decisions = classifier.decide(logits)
    predictions = [classifier.name(decision) for decision in decisions]
    classification_results.write_predictions(
      FLAGS.output_dir,
      suffix,
      split.examples,
      classifier.labels,
      predictions,
      classifier.probabilities(logits),
    )
    classification_results.write_submission(
      FLAGS.output_dir, task, name, split.examples, predictions
    )
    logging.info(
      "Predictions of %d examples are in %s.",
      len(predictions),
      os.path.join(FLAGS.output_dir, f"test_predictions{suffix}.tsv"),
    )
    if split.examples[0].label is not None:
      scores = task.metric_fn(split.targets, decisions)
      common_flags.write_results(
        os.path.join(FLAGS.output_dir, f"test_scores{suffix}.txt"), scores
      )


if __name__ == "__main__":
  define_flags()
  launch.run(main)
