"""Fine-tunes BERT to classify sentences and pairs (paper, section 4.1).

    python run_classifier.py --task_name=MRPC --do_train --do_eval \\
        --data_dir=glue/MRPC --bert_config_file=$BERT/bert_config.json \\
        --vocab_file=$BERT/vocab.txt --init_checkpoint=$BERT/bert_model.ckpt \\
        --max_seq_length=128 --train_batch_size=32 --learning_rate=2e-5 \\
        --num_train_epochs=3.0 --output_dir=/tmp/mrpc

With `--task_name=custom`, --data_dir holds files of the user: train, dev and
test, each .tsv, .csv, .jsonl, .json or .parquet.
"""

from __future__ import annotations

import launch  # First: from here on a signal ends the program quietly.

from collections.abc import Callable, Mapping
import dataclasses
import functools
import math
import os
from typing import Any, NamedTuple

from absl import flags
from absl import logging
import numpy as np
import tensorflow as tf

from command_line import flag_help
from command_line import input_paths
import common_flags
from data import encoding
from data import original_names
from errors import UserError
import estimator as estimator_lib
import heads
import modeling
from reports import classification_report
from tasks import attribution
from tasks import classification
from tasks import classification_records
from tasks import classification_results
from tasks import classification_targets
from tasks import classifier_config
from tasks import distillation
from tasks import finetuning
from tasks import glue
from tasks import xnli
import tokenization
from training import model_folder
from training import run_folder

FLAGS = flags.FLAGS
original_names.explain_missing_names(__name__)

# Flags that --task_file replaces.
_COLUMN_FLAGS = (
  "text_a_column",
  "text_b_column",
  "label_column",
  "id_column",
  "problem_type",
  "label_separator",
)
_CUSTOM_FLAGS = ("task_file", *_COLUMN_FLAGS)
_XNLI_FLAGS = ("language", "train_language")
_TEACHER_FLAGS = (
  "teacher_cache_dir",
  "transfer_file",
  "distillation_temperature",
  "hard_label_weight",
)


@flag_help.group("Task")
def define_flags() -> None:
  """Defines the flags of this program."""
  common_flags.define_model_flags()
  common_flags.define_vocab_flags()
  define_classifier_flags()


@flag_help.group("Task")
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
    "Task to learn.",
    required=True,
    case_sensitive=False,
  )
  flags.DEFINE_string(
    "data_dir", None, "Folder with the files of the task.", required=True
  )
  input_paths.mark("data_dir", input_paths.check_path)
  flags.DEFINE_enum(
    "long_text",
    encoding.TRUNCATE,
    [encoding.TRUNCATE, encoding.HEAD_TAIL, encoding.SLIDING_WINDOW],
    "How to handle texts longer than --max_seq_length: truncate, keep head and "
    "tail, or average the logits over sliding windows that overlap by half.",
  )
  flags.DEFINE_string(
    "class_weights",
    None,
    "Weights of the labels in the loss, such as spam=5,ham=1; or `balanced`, "
    "which makes all labels count the same.",
  )
  _define_custom_flags()
  common_flags.define_table_flags()
  common_flags.define_unseen_labels_flag()
  flags.DEFINE_list(
    "language",
    "zh",
    "Language to evaluate and predict, or several, separated by commas. For "
    "--task_name=xnli.",
  )
  flags.DEFINE_string(
    "train_language",
    None,
    "Language to train in; by default the first --language. For "
    "--task_name=xnli.",
  )
  _define_teacher_flags()


@flag_help.group("One's own files")
def _define_custom_flags() -> None:
  """Defines the flags of --task_name=custom."""
  flags.DEFINE_string(
    "task_file",
    None,
    "JSON file that describes the data, in place of the flags for columns. For "
    "--task_name=custom.",
  )
  input_paths.mark("task_file", input_paths.check_path)
  flags.DEFINE_string(
    "text_a_column",
    "text",
    "Name of the column with the text; or its number, from 0, if the files "
    "have no header. For --task_name=custom.",
  )
  flags.DEFINE_string(
    "text_b_column",
    None,
    "Name of the column with the second text of a pair. For "
    "--task_name=custom.",
  )
  flags.DEFINE_string(
    "label_column",
    "label",
    "Name of the column with the label. With --problem_type=multi_label also "
    "several, separated by commas: columns of 1 and 0, one for each label. For "
    "--task_name=custom.",
  )
  flags.DEFINE_string(
    "id_column",
    None,
    "Name of the column with ids, which then name the predictions. For "
    "--task_name=custom.",
  )
  flags.DEFINE_enum(
    "problem_type",
    heads.SINGLE_LABEL,
    classification.PROBLEM_TYPES,
    "Whether a text has one label, any number of labels, or a numeric value. "
    "For --task_name=custom.",
  )
  flags.DEFINE_string(
    "label_separator",
    ",",
    "Separator of the labels of a text with several. For --task_name=custom.",
  )


@flag_help.group("Distillation")
def _define_teacher_flags() -> None:
  """Defines the flags of distillation."""
  flags.DEFINE_string(
    "teacher_model_dir",
    None,
    "Teacher: the --output_dir of a trained classifier, or its `export`. The "
    "student learns its predictions.",
  )
  input_paths.mark("teacher_model_dir", input_paths.check_path, "do_train")
  flags.DEFINE_string(
    "teacher_cache_dir",
    None,
    "Folder for the cached logits of the teacher; by default the folder "
    "`distillation` of the teacher.",
  )
  flags.DEFINE_string(
    "transfer_file",
    None,
    "File in --data_dir with further texts for the teacher to label. Its "
    "columns are those of the test file.",
  )
  flags.DEFINE_float(
    "distillation_temperature",
    1.0,
    "Divisor of the logits of teacher and student.",
    lower_bound=1e-3,
  )
  flags.DEFINE_float(
    "hard_label_weight",
    0.0,
    "Share of the loss of the labels, from 0 to 1, when there is a teacher.",
    lower_bound=0.0,
    upper_bound=1.0,
  )


def check_flags() -> None:
  """Raises a UserError if flags contradict each other."""
  common_flags.check_training_flags()
  common_flags.wanted_splits()
  common_flags.check_belongs(
    _CUSTOM_FLAGS, FLAGS.task_name == "custom", "--task_name=custom"
  )
  common_flags.check_belongs(
    _XNLI_FLAGS, FLAGS.task_name == "xnli", "--task_name=xnli"
  )
  common_flags.check_belongs(
    _TEACHER_FLAGS, FLAGS.teacher_model_dir, "--teacher_model_dir"
  )
  given = [name for name in _COLUMN_FLAGS if FLAGS[name].present]
  if given and FLAGS.task_file:
    raise UserError(
      f"--{given[0]} and --task_file={FLAGS.task_file} set the same thing. "
      "Pass one of the two."
    )
  if FLAGS.long_text == encoding.SLIDING_WINDOW and (FLAGS.max_seq_length < 8):
    raise UserError(
      f"--max_seq_length={FLAGS.max_seq_length} leaves no room "
      "for windows of a text. Use 8 or more."
    )
  if FLAGS.class_weights:
    _class_weights()


def task_of_flags() -> classification.ClassificationTask:
  """Returns the task.

  Raises:
    UserError: its file cannot be used.
  """
  if FLAGS.task_name == "xnli":
    task = xnli.xnli_task(FLAGS.language, FLAGS.train_language)
  elif FLAGS.task_name != "custom":
    task = glue.TASKS[FLAGS.task_name]
  elif FLAGS.task_file:
    task = classification.read_task_file(FLAGS.task_file)
  else:
    task = classification.custom_task(
      FLAGS.text_a_column,
      FLAGS.text_b_column,
      _label_columns(),
      FLAGS.id_column,
      FLAGS.problem_type,
      label_separator=FLAGS.label_separator,
    )
  if FLAGS.class_weights:
    task = dataclasses.replace(task, class_weights=_class_weights())
  return common_flags.apply_table_flags(task)


def _label_columns() -> str | list[str]:
  """Returns the column of labels, or a column for each label."""
  names = [name.strip() for name in FLAGS.label_column.split(",")]
  is_list = FLAGS.problem_type == heads.MULTI_LABEL and len(names) > 1
  return names if is_list else FLAGS.label_column


def _class_weights():
  """Returns the value of the flag as `ClassificationTask.class_weights`."""
  if FLAGS.class_weights == "balanced":
    return "balanced"
  weights = {}
  for part in FLAGS.class_weights.split(","):
    label, _, weight = part.rpartition("=")
    try:
      weights[label] = float(weight)
    except ValueError:
      weights[label] = -1.0
    if not label or not 0.0 <= weights[label] < math.inf:
      raise UserError(
        f"--class_weights={FLAGS.class_weights}: {part!r} is "
        "not of the form label=weight. Use weights such as spam=5,ham=1, or "
        "balanced."
      )
  return weights


class Split(NamedTuple):
  """The examples of a file to evaluate or predict, and their records."""

  data: classification_targets.LabelledExamples
  records: classification_records.ClassificationRecords


class TrainingData(NamedTuple):
  """The data of a training.

  Attributes:
    records: Records with the targets; None if there is no training.
    label_weights: Weights of the labels of `MULTI_LABEL`, or None.
    num_steps: Number of steps.
  """

  records: classification_records.ClassificationRecords | None = None
  label_weights: np.ndarray | None = None
  num_steps: int = 0


@launch.owns("output_dir", finish=common_flags.write_report)
def main(_):
  run_config = common_flags.run_config()
  files = common_flags.model_files("bert_config_file", "vocab_file")
  config = common_flags.read_config(files)
  common_flags.check_max_seq_length(FLAGS.max_seq_length, config, files)
  tokenizer = common_flags.create_tokenizer(files, config)
  run(run_config, tokenizer, config, files)


def run(
  run_config: estimator_lib.RunConfig,
  tokenizer: tokenization.FullTokenizer,
  config: modeling.BertConfig | None = None,
  files: model_folder.ModelFiles | None = None,
  create_model: Callable[[int, Mapping[str, Any]], tf.Module] | None = None,
) -> None:
  """Trains, evaluates and predicts, as the flags say.

  Args:
    run_config: Where and how the run happens.
    tokenizer: Tokenizer of the encoder.
    config: Config of the encoder if it is ours; the model is exported then.
    files: Files of the model if it is ours.
    create_model: Function (num_outputs, params) -> a model that is called like
      `modeling.BertForSequenceClassification`; None for ours.
  """
  files = files or model_folder.ModelFiles()
  task = task_of_flags()
  _check_inputs(task)
  classifier, data = _read_data(task, files.init_checkpoint, tokenizer)

  training = TrainingData()
  if FLAGS.do_train:
    training = _prepare_training(task, classifier, tokenizer, data["train"])
  recipe = common_flags.create_recipe(
    classifier.head,
    run_config,
    training.num_steps,
    config,
    files.init_checkpoint,
    classifier.num_outputs,
    named_losses=_named_losses(classifier, training.label_weights),
    create_model=create_model
    and functools.partial(create_model, classifier.num_outputs),
  )

  explain = None  # only a model of ours has embeddings that are known
  if config:
    explain = functools.partial(
      attribution.attribute_words, recipe.model, tokenizer, classifier
    )

  def write_splits(kind: str) -> dict[str, Split]:
    return _write_splits(kind, classifier, tokenizer, data)

  dev = write_splits("dev") if FLAGS.do_eval else {}

  if training.records:
    classifier.write(FLAGS.output_dir)
    recipe.train(
      training.records.records,
      len(data["train"].examples),
      training.num_steps,
      (lambda: _evaluate(task, classifier, recipe, dev)) if dev else None,
      list(filter(None, [task.find_file(FLAGS.data_dir, "train")])),
    )
    if config:
      common_flags.export_model(
        recipe.estimator,
        config,
        files.vocab_file,
        tokenizer.settings,
        classifier,
      )

  if FLAGS.do_eval:
    results = _evaluate(task, classifier, recipe, dev, True, explain)
    run_folder.write_results(FLAGS.output_dir, "eval_results.txt", results)

  if FLAGS.do_predict:
    _predict(task, classifier, recipe, write_splits("test"), explain)


def _read_data(
  task, init_checkpoint: str | None, tokenizer: tokenization.FullTokenizer
) -> tuple[
  classifier_config.ClassifierConfig,
  dict[str, classification_targets.LabelledExamples],
]:
  """Returns the classifier, and the examples of each split that is wanted.

  Raises:
    UserError: The data do not fit together, or not to an earlier run.
  """
  examples = _read_examples(task)
  classifier = _create_classifier(task, examples, init_checkpoint, tokenizer)
  counts_unseen = FLAGS.unseen_labels == "count"
  data = {
    name: classification_targets.label_examples(
      task, name, examples[name], classifier.labels, counts_unseen
    )
    for name in examples
  }
  newest = common_flags.find_newest_checkpoint(init_checkpoint)
  classifier.check_start(newest, init_checkpoint, FLAGS.do_train)
  return classifier, data


def _write_splits(
  kind: str,
  classifier: classifier_config.ClassifierConfig,
  tokenizer: tokenization.FullTokenizer,
  data: Mapping[str, classification_targets.LabelledExamples],
) -> dict[str, Split]:
  """Writes the records of all splits of a kind, `dev` or `test`."""
  splits = {}
  for name, labelled in data.items():
    if name.partition("_")[0] == kind:
      targets = classifier.problem.keep_known_labels(labelled.targets)
      records = classification_records.write_records(
        run_folder.record_path(FLAGS.output_dir, name),
        classifier,
        tokenizer,
        labelled.examples,
        classification_records.TrainingTargets(targets),
      )
      splits[name] = Split(labelled, records)
  return splits


def _check_inputs(task) -> None:
  """Raises a UserError if a file of the task would be written over."""
  data_files = [
    os.path.join(FLAGS.data_dir, columns.file)
    for splits in task.splits.values()
    for columns in splits
  ]
  if FLAGS.transfer_file:
    data_files.append(os.path.join(FLAGS.data_dir, FLAGS.transfer_file))
  run_folder.check_inputs_are_kept(
    FLAGS.output_dir,
    {
      "--data_dir": data_files,
      "--task_file": [FLAGS.task_file] if FLAGS.task_file else [],
    },
  )


def _read_examples(task) -> dict[str, list[classification.Example]]:
  """Returns the examples of each split that is wanted."""
  return {
    name: task.read_examples(FLAGS.data_dir, name)
    for kind in common_flags.wanted_splits()
    for name in task.existing_splits(FLAGS.data_dir, kind)
  }


def _create_classifier(
  task,
  examples: Mapping[str, list[classification.Example]],
  init_checkpoint: str | None,
  tokenizer: tokenization.FullTokenizer,
) -> classifier_config.ClassifierConfig:
  """Returns the labels and their kind, of an earlier training or the data.

  Raises:
    UserError: nothing is known to predict with, or the data have changed.
  """
  known = None
  if not FLAGS.restart:
    known = classifier_config.ClassifierConfig.read(FLAGS.output_dir)
  if not FLAGS.do_train:
    if not known and init_checkpoint:
      known = classifier_config.ClassifierConfig.read(
        os.path.dirname(init_checkpoint)
      )
    if known and known.problem_type == task.problem_type:
      if task.labels and set(known.labels) != set(task.labels):
        raise UserError(
          f"The model was trained on the labels {', '.join(known.labels)}, but "
          f"--task_name={task.name} has the labels {', '.join(task.labels)}. "
          "Pass the task that it was trained on, or another model."
        )
      return dataclasses.replace(
        known, max_seq_length=FLAGS.max_seq_length, long_text=FLAGS.long_text
      )
    has_labels = task.labels or task.problem_type == heads.REGRESSION
    if known or not has_labels:
      raise UserError(
        f"{FLAGS.output_dir} holds no classifier.json of a trained classifier"
        f" for {task.problem_type}, so the labels are not known. Train "
        "first, or point --output_dir to a trained classifier."
      )
  classifier = classifier_config.ClassifierConfig(
    task.problem_type,
    task.find_labels(examples.get("train", ())),
    tokenizer.settings,
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
  task,
  classifier: classifier_config.ClassifierConfig,
  tokenizer: tokenization.FullTokenizer,
  data: classification_targets.LabelledExamples,
) -> TrainingData:
  """Writes the training records; asks the teacher, if there is one."""
  examples, _, targets = data
  # Too few examples are found before a teacher works on them.
  common_flags.num_task_steps(len(examples))
  label_weights = task.label_weights(targets, classifier.labels)
  weights = np.ones(len(examples))
  if label_weights is not None and targets.ndim == 1:
    # The one label of an example decides its weight.
    weights, label_weights = label_weights[targets], None
  teacher_logits = None
  if FLAGS.teacher_model_dir:
    if FLAGS.transfer_file:
      more = task.read_texts(FLAGS.data_dir, FLAGS.transfer_file)
      logging.info("%s adds %d examples.", FLAGS.transfer_file, len(more))
      examples = examples + more
      no_targets = classifier.problem.empty_targets(len(more))
      targets = np.concatenate([targets, no_targets])
      weights = np.concatenate([weights, np.zeros(len(more))])
    teacher_logits = distillation.teacher_logits(
      FLAGS.teacher_model_dir,
      examples,
      classifier,
      FLAGS.teacher_cache_dir
      or os.path.join(FLAGS.teacher_model_dir, "distillation"),
      common_flags.compute_dtype(),
    )
  records = classification_records.write_records(
    run_folder.record_path(FLAGS.output_dir, "train"),
    classifier,
    tokenizer,
    examples,
    classification_records.TrainingTargets(targets, weights, teacher_logits),
  )
  num_steps = common_flags.num_task_steps(records.records.num_records)
  return TrainingData(records, label_weights, num_steps)


def _named_losses(
  classifier: classifier_config.ClassifierConfig,
  label_weights: np.ndarray | None,
) -> Callable[..., heads.NamedSums]:
  """Returns the losses of the head, with label weights and teacher."""
  named_losses: Any = classifier.head.named_losses
  if label_weights is not None:
    named_losses = functools.partial(named_losses, label_weights=label_weights)
  if FLAGS.teacher_model_dir:
    settings = distillation.DistillationSettings(
      FLAGS.distillation_temperature, FLAGS.hard_label_weight
    )
    named_losses = distillation.add_teacher(named_losses, classifier, settings)
  return named_losses


def _evaluate(
  task,
  classifier: classifier_config.ClassifierConfig,
  recipe: finetuning.Recipe,
  dev: Mapping[str, Split],
  writes_mistakes: bool = False,
  explain: classification_report.Explain | None = None,
) -> dict[str, float]:
  """Returns the contents of `eval_results.txt`."""
  results = {}
  for name, split in dev.items():
    suffix = name.removeprefix("dev")
    logits = classification_records.predict_logits(
      recipe, split.records, FLAGS.eval_batch_size
    )
    decisions = classifier.problem.decide(logits)
    examples, labels, targets = split.data
    losses = classifier.problem.example_losses(targets, logits)
    all_decisions = classifier.problem.match_targets(decisions, targets)
    prefix = f"eval{suffix}_"
    for metric, score in task.metric_fn(targets, all_decisions).items():
      results[prefix + metric] = score
    # A label that training did not see has no finite loss.
    results[prefix + "loss"] = float(np.mean(losses[~np.isposinf(losses)]))
    if writes_mistakes:
      predictions = _name_predictions(classifier, decisions)
      classification_results.write_mistakes(
        FLAGS.output_dir, suffix, examples, predictions, losses
      )
      classification_report.write_examples(
        FLAGS.output_dir,
        name,
        classifier,
        examples,
        predictions,
        logits,
        {key: results[key] for key in results if key.startswith(prefix)},
        explain,
      )
      if labels:
        classification_results.write_confusion(
          FLAGS.output_dir, suffix, labels, targets, all_decisions
        )
  # The loss appears twice, as in the original code.
  results["loss"] = results["eval_loss"]
  return recipe.report_scores(results)


def _name_predictions(
  classifier: classifier_config.ClassifierConfig, decisions: np.ndarray
) -> list:
  """Returns predictions as labels, lists of labels, or numbers."""
  problem, labels = classifier.problem, classifier.labels
  return [problem.name_prediction(decision, labels) for decision in decisions]


def _predict(
  task,
  classifier: classifier_config.ClassifierConfig,
  recipe: finetuning.Recipe,
  test: Mapping[str, Split],
  explain: classification_report.Explain | None,
) -> None:
  """Writes predictions, and scores of files that have labels."""
  for name, split in test.items():
    suffix = name.removeprefix("test")
    logits = classification_records.predict_logits(
      recipe, split.records, FLAGS.predict_batch_size
    )
    decisions = classifier.problem.decide(logits)
    examples, _, targets = split.data
    predictions = _name_predictions(classifier, decisions)
    classification_results.write_predictions(
      FLAGS.output_dir,
      suffix,
      [example.id for example in examples],
      classifier.labels,
      predictions,
      classifier.problem.probabilities(logits),
    )
    classification_results.write_submission(
      FLAGS.output_dir, task, name, examples, predictions
    )
    classification_report.write_examples(
      FLAGS.output_dir,
      name,
      classifier,
      examples,
      predictions,
      logits,
      explain=explain,
    )
    path = os.path.join(FLAGS.output_dir, f"test_predictions{suffix}.tsv")
    logging.info(
      "Predictions of %d examples are in %s.", len(predictions), path
    )
    if examples[0].label is not None:
      all_decisions = classifier.problem.match_targets(decisions, targets)
      scores = task.metric_fn(targets, all_decisions)
      run_folder.write_results(
        FLAGS.output_dir, f"test_scores{suffix}.txt", scores
      )


if __name__ == "__main__":
  define_flags()
  launch.run(main, check_flags)
