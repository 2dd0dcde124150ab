"""Fine-tunes BERT to choose the best continuation (paper, section 4.4).

    python run_swag.py --do_train --do_eval --data_dir=swag \\
        --bert_config_file=$BERT/bert_config.json \\
        --vocab_file=$BERT/vocab.txt --init_checkpoint=$BERT/bert_model.ckpt \\
        --train_batch_size=16 --learning_rate=2e-5 \\
        --num_train_epochs=3 --output_dir=/tmp/swag

--data_dir holds train.csv, val.csv and test.csv of SWAG, or files named by
flags in the layouts of `tasks/swag.py`, such as those of HellaSwag and RACE.
"""

from __future__ import annotations

import launch  # First: from here on a signal ends the program quietly.

import collections
import os
from typing import NamedTuple

from absl import flags
from absl import logging
import numpy as np
import tensorflow as tf

from command_line import flag_help
from command_line import input_paths
import common_flags
from data import batching
from data import encoding
from data import file_names
from data import record_files
import heads
import losses
from reports import choice_report
from tasks import classification_results
from tasks import classifier_config
from tasks import finetuning
from tasks import metrics
from tasks import swag
import tokenization
from training import run_folder

FLAGS = flags.FLAGS


@flag_help.group("Choices")
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
  input_paths.mark("data_dir", input_paths.check_path)
  for split, file in [
    ("train", "train.csv"),
    ("dev", "val.csv"),
    ("test", "test.csv"),
  ]:
    flags.DEFINE_string(
      f"{split}_file",
      file,
      f"The {split} file in --data_dir, or a folder of files.",
    )
  common_flags.mark_split_files()
  common_flags.define_encoding_flag()


class ChoiceSplit(NamedTuple):
  """The examples of a file, and their records."""

  examples: list[swag.ChoiceExample]
  records: finetuning.TaskRecords


def check_flags() -> None:
  """Raises a UserError if flags contradict each other."""
  common_flags.check_training_flags()
  common_flags.wanted_splits()


@launch.owns("output_dir", finish=common_flags.write_report)
def main(_):
  run_config = common_flags.run_config()
  files = common_flags.model_files("bert_config_file", "vocab_file")
  config = common_flags.read_config(files)
  common_flags.check_max_seq_length(FLAGS.max_seq_length, config, files)
  wanted = common_flags.wanted_splits()
  run_folder.check_inputs_are_kept(
    FLAGS.output_dir,
    {f"--{name}_file": _find_files(name) for name in wanted},
  )
  tokenizer = common_flags.create_tokenizer(files, config)
  examples = {name: _read_examples(name) for name in wanted}
  num_train_steps = 0
  if FLAGS.do_train:
    num_train_steps = common_flags.num_task_steps(len(examples["train"]))
  classifier = classifier_config.ClassifierConfig(
    heads.MULTIPLE_CHOICE,
    (),
    tokenizer.settings,
    FLAGS.max_seq_length,
    encoding.TRUNCATE,
  )
  newest = common_flags.find_newest_checkpoint(files.init_checkpoint)
  classifier.check_start(newest, files.init_checkpoint, FLAGS.do_train)
  splits = {
    name: ChoiceSplit(rows, _write_records(name, rows, tokenizer))
    for name, rows in examples.items()
  }
  recipe = common_flags.create_recipe(
    classifier.head,
    run_config,
    num_train_steps,
    config,
    files.init_checkpoint,
    num_sequences=max(split.records.num_sequences for split in splits.values()),
  )

  if FLAGS.do_train:
    recipe.train(
      splits["train"].records,
      len(examples["train"]),
      num_train_steps,
      (lambda: _evaluate(recipe, splits["dev"])) if FLAGS.do_eval else None,
      _find_files("train"),
    )
    common_flags.export_model(
      recipe.estimator,
      config,
      files.vocab_file,
      tokenizer.settings,
      classifier,
    )

  if FLAGS.do_eval:
    results = _evaluate(recipe, splits["dev"], writes_examples=True)
    run_folder.write_results(FLAGS.output_dir, "eval_results.txt", results)

  if FLAGS.do_predict:
    _predict(recipe, splits["test"])


def _find_files(name: str) -> list[str]:
  """Returns the paths of the files of a split."""
  flag = f"{name}_file"
  path = os.path.join(FLAGS.data_dir, str(FLAGS[flag].value))
  if tf.io.gfile.isdir(path):
    return file_names.find_files(path, f"--{flag}")
  return [path]


def _read_examples(name: str) -> list[swag.ChoiceExample]:
  """Returns the examples of the files of a split."""
  examples = swag.read_examples(
    _find_files(name), name != "test", common_flags.text_encoding()
  )
  counts = collections.Counter(len(example.choices) for example in examples)
  logging.info(
    "%s: %d examples, with %s choices.",
    FLAGS[f"{name}_file"].value,
    len(examples),
    " or ".join(map(str, sorted(counts))),
  )
  return examples


def _write_records(
  name: str,
  examples: list[swag.ChoiceExample],
  tokenizer: tokenization.FullTokenizer,
) -> finetuning.TaskRecords:
  """Writes the records of a file, unless the same are there already."""
  path = run_folder.record_path(FLAGS.output_dir, name)
  num_sequences = max(len(example.choices) for example in examples)

  num_too_long = 0

  def create_record(example: swag.ChoiceExample) -> bytes:
    nonlocal num_too_long
    # The sequences of all choices, one after the other.
    features = encoding.InputFeatures([], [])
    lengths = []
    context = tokenizer.encode(example.context)
    choices = [tokenizer.encode(choice) for choice in example.choices]
    num_too_long += any(
      encoding.is_too_long(context, choice, FLAGS.max_seq_length)
      for choice in choices
    )
    for choice in choices:
      sequence = encoding.encode_pair(
        context,
        choice,
        FLAGS.max_seq_length,
        tokenizer.cls_id,
        tokenizer.sep_id,
      )
      features.input_ids.extend(sequence.input_ids)
      features.segment_ids.extend(sequence.segment_ids)
      lengths.append(len(sequence.input_ids))
    # Missing choices are sequences without tokens.
    lengths.extend([0] * (num_sequences - len(lengths)))
    return batching.create_task_record(
      features, sequence_lengths=lengths, label_ids=[example.label or 0]
    )

  def write() -> dict[str, object]:
    record_files.write_records(path, map(create_record, examples))
    return {record_files.TOO_LONG: num_too_long}

  digest = record_files.compute_digest(
    "choices",
    [(example.context, example.choices, example.label) for example in examples],
    record_files.compute_tokenizer_digest(tokenizer),
    FLAGS.max_seq_length,
  )
  stamped = record_files.reuse_or_write_file(path, digest, write)
  return finetuning.TaskRecords(
    path,
    len(examples),
    stamped.checksum,
    FLAGS.max_seq_length,
    {"label_ids": tf.io.FixedLenFeature([], tf.int64)},
    num_sequences=num_sequences,
  )


def _predict_logits(
  recipe: finetuning.Recipe, split: ChoiceSplit, batch_size: int
) -> np.ndarray:
  """Returns the logits of all choices, float32 [num_examples, num_choices].

  Choices that an example does not have get `losses.LOGIT_OF_NOTHING`.
  """
  logits = np.array(recipe.predict(split.records, batch_size)["logits"])
  numbers = [[len(example.choices)] for example in split.examples]
  is_choice = np.arange(logits.shape[1]) < np.array(numbers)
  return np.where(is_choice, logits, losses.LOGIT_OF_NOTHING)


def _scores(split: ChoiceSplit, logits: np.ndarray) -> dict[str, float]:
  """Returns the accuracy and the mean loss."""
  labels = np.array([example.label for example in split.examples])
  example_losses = losses.cross_entropy(
    np.asarray(logits, np.float64), labels
  ).numpy()
  return {
    **metrics.accuracy(labels, np.argmax(logits, axis=1)),
    "loss": float(np.mean(example_losses)),
  }


def _evaluate(
  recipe: finetuning.Recipe, split: ChoiceSplit, writes_examples: bool = False
) -> dict[str, float]:
  """Returns the contents of `eval_results.txt`."""
  logits = _predict_logits(recipe, split, FLAGS.eval_batch_size)
  scores = _scores(split, logits)
  results = {f"eval_{name}": score for name, score in scores.items()}
  if writes_examples:
    choice_report.write_examples(
      FLAGS.output_dir, "dev", split.examples, logits, results
    )
  return recipe.report_scores(results)


def _predict(recipe: finetuning.Recipe, split: ChoiceSplit) -> None:
  """Writes predictions, and scores if there are labels."""
  logits = _predict_logits(recipe, split, FLAGS.predict_batch_size)
  choices = [str(i) for i in range(logits.shape[1])]
  classification_results.write_predictions(
    FLAGS.output_dir,
    "",
    [example.id for example in split.examples],
    choices,
    [choices[i] for i in np.argmax(logits, axis=1)],
    np.exp(metrics.log_softmax(logits)),
  )
  path = os.path.join(FLAGS.output_dir, "test_predictions.tsv")
  logging.info("Predictions of %d examples are in %s.", len(logits), path)
  scores = None
  if all(example.label is not None for example in split.examples):
    scores = _scores(split, logits)
    run_folder.write_results(FLAGS.output_dir, "test_scores.txt", scores)
  choice_report.write_examples(
    FLAGS.output_dir, "test", split.examples, logits, scores
  )


if __name__ == "__main__":
  define_flags()
  launch.run(main, check_flags)
