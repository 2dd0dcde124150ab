"""Fine-tunes BERT to answer questions about paragraphs (paper, 4.2 and 4.3).

    python run_squad.py --do_train --train_file=train-v1.1.json \\
        --do_predict --predict_file=dev-v1.1.json \\
        --bert_config_file=$BERT/bert_config.json \\
        --vocab_file=$BERT/vocab.txt --init_checkpoint=$BERT/bert_model.ckpt \\
        --train_batch_size=12 \\
        --learning_rate=3e-5 --num_train_epochs=2.0 --max_seq_length=384 \\
        --doc_stride=128 --output_dir=/tmp/squad

For SQuAD 2.0 add --version_2_with_negative. predict.py asks a trained model
single questions.
"""

from __future__ import annotations

import launch  # First: from here on a signal ends the program quietly.

import os

from absl import flags
from absl import logging

import checkpoint
from command_line import flag_help
from command_line import input_paths
import common_flags
from data import file_io
from data import original_names
from errors import UserError
import heads
import modeling
from reports import question_report
from tasks import finetuning
from tasks import squad
from tasks import squad_answers
from tasks import squad_evaluation
from tasks import squad_records
from tasks import squad_windows
import tokenization
from training import model_folder
from training import run_folder

FLAGS = flags.FLAGS
original_names.explain_missing_names(__name__)


@flag_help.group("Questions")
def define_flags() -> None:
  """Defines the flags of this program."""
  common_flags.define_model_flags()
  common_flags.define_vocab_flags()
  common_flags.define_training_flags(
    learning_rate=5e-5, best_metric="f1", evaluation_flag="do_predict"
  )
  common_flags.define_task_flags(max_seq_length=384)
  common_flags.define_tpu_flags()
  common_flags.define_encoding_flag()
  flags.DEFINE_string(
    "train_file",
    None,
    "Questions to train with: JSON as SQuAD has it, or rows of question, "
    "context and answers as JSON, JSON lines or Parquet.",
  )
  flags.DEFINE_string(
    "predict_file",
    None,
    "Questions to predict, as for --train_file. If it has answers, predictions "
    "are scored.",
  )
  input_paths.mark("train_file", input_paths.check_path, "do_train")
  input_paths.mark("predict_file", input_paths.check_path, "do_predict")
  flags.DEFINE_integer(
    "doc_stride",
    128,
    "Distance between the starts of two windows over a long paragraph, in "
    "tokens.",
    lower_bound=1,
  )
  flags.DEFINE_integer(
    "max_query_length",
    64,
    "Maximum number of tokens of a question; longer questions are truncated.",
    lower_bound=1,
  )
  _define_answer_flags()
  flags.DEFINE_bool(
    "skip_missing_answers",
    False,
    "Whether to skip and count training questions whose answer is not in the "
    "paragraph, instead of stopping.",
  )
  flags.DEFINE_bool(
    "verbose_logging",
    False,
    "Whether to log each question with a problem, and not only their number.",
  )


def _define_answer_flags() -> None:
  """Defines the flags that say how answers are chosen and scored."""
  flags.DEFINE_integer(
    "n_best_size",
    20,
    "Number of answers to write to nbest_predictions.json.",
    lower_bound=1,
  )
  flags.DEFINE_integer(
    "max_answer_length",
    30,
    "Maximum number of tokens of an answer.",
    lower_bound=1,
  )
  flags.DEFINE_bool(
    "version_2_with_negative",
    False,
    "Whether some questions have no answer, as in SQuAD 2.0.",
  )
  flags.DEFINE_float(
    "null_score_diff_threshold",
    0.0,
    "No answer is predicted if its score minus that of the best answer exceeds "
    "this threshold.",
  )
  flags.DEFINE_enum(
    "answer_scores",
    squad_evaluation.SQUAD,
    list(squad_evaluation.METRICS),
    "How predicted answers are compared with annotated ones: squad compares "
    "words; cmrc compares Chinese characters, as CMRC 2018 does.",
  )


@launch.owns(
  "output_dir",
  needs_lock=lambda: FLAGS.do_train or FLAGS.do_predict,
  finish=common_flags.write_report,
)
def main(_):
  run_config = common_flags.run_config()
  files = common_flags.model_files("bert_config_file", "vocab_file")
  config = common_flags.read_config(files)
  _check_model(config, files)
  run_folder.check_inputs_are_kept(
    FLAGS.output_dir,
    {
      f"--{name}": [FLAGS[name].value]
      for name in ("train_file", "predict_file")
      if FLAGS[name].value
    },
  )
  tokenizer = common_flags.create_tokenizer(files, config)

  num_train_steps = 0
  if FLAGS.do_predict:
    predict_maker = _create_maker(_read_dataset(FLAGS.predict_file), tokenizer)
  if FLAGS.do_train:
    train_maker = _create_maker(_read_dataset(FLAGS.train_file), tokenizer)
    training_records = squad_records.write_training_records(
      train_maker,
      run_folder.record_path(FLAGS.output_dir, "train"),
      FLAGS.skip_missing_answers,
    )
    _write_report(train_maker, "train")
    num_train_steps = common_flags.num_task_steps(training_records.num_records)
  recipe = common_flags.create_recipe(
    heads.HEADS[heads.SPAN],
    run_config,
    num_train_steps,
    config,
    files.init_checkpoint,
  )
  if FLAGS.do_predict:
    path = run_folder.record_path(FLAGS.output_dir, "dev")
    windows = squad_records.write_records(predict_maker, path)

  if FLAGS.do_train:
    is_scored = FLAGS.do_predict and predict_maker.dataset.has_answers
    recipe.train(
      training_records,
      len(train_maker.dataset.questions),
      num_train_steps,
      (lambda: _evaluate(recipe, predict_maker, windows))
      if is_scored
      else None,
      [FLAGS.train_file],
    )
    common_flags.export_model(
      recipe.estimator, config, files.vocab_file, tokenizer.settings
    )

  if FLAGS.do_predict:
    _predict(recipe, predict_maker, windows)


def check_flags() -> None:
  """Raises a UserError if flags contradict each other."""
  common_flags.check_training_flags("do_predict")
  common_flags.check_belongs(
    ["answer_scores"], FLAGS.do_predict, "--do_predict"
  )
  common_flags.check_belongs(
    ["null_score_diff_threshold"],
    FLAGS.version_2_with_negative,
    "--version_2_with_negative",
  )
  if not (FLAGS.do_train or FLAGS.do_predict):
    raise UserError("Nothing to do: pass --do_train, --do_predict, or both.")
  for is_wanted, name, file in [
    (FLAGS.do_train, "do_train", "train_file"),
    (FLAGS.do_predict, "do_predict", "predict_file"),
  ]:
    if is_wanted and not FLAGS[file].value:
      raise UserError(f"--{name} needs --{file}.")
  if FLAGS.max_seq_length <= FLAGS.max_query_length + 3:
    raise UserError(
      f"--max_seq_length={FLAGS.max_seq_length} leaves no room next to "
      f"--max_query_length={FLAGS.max_query_length} and three special tokens. "
      "Increase --max_seq_length or decrease --max_query_length."
    )


def _check_model(
  config: modeling.BertConfig, files: model_folder.ModelFiles
) -> None:
  """Raises a UserError if the flags do not fit the model."""
  common_flags.check_max_seq_length(FLAGS.max_seq_length, config, files)
  newest = common_flags.find_newest_checkpoint(files.init_checkpoint)
  if newest or files.init_checkpoint:
    flag = "--output_dir" if newest else "--init_checkpoint"
    weights = checkpoint.open_checkpoint(newest or files.init_checkpoint, flag)
    if not FLAGS.do_train and "cls/squad/output_bias" not in weights.shapes:
      raise UserError(
        f"{flag}={newest or files.init_checkpoint} was not "
        "trained to answer questions. Pass --do_train."
      )


def _read_dataset(path: str) -> squad.Dataset:
  """Returns a data set.

  Raises:
    UserError: The data set is of version 2.0, but the flags say 1.1.
  """
  dataset = squad.read_dataset(path, common_flags.text_encoding())
  impossible = sum(question.is_impossible for question in dataset.questions)
  if impossible and not FLAGS.version_2_with_negative:
    raise UserError(
      f"{path}: {impossible} questions have no answer, as in SQuAD 2.0. Pass "
      "--version_2_with_negative."
    )
  return dataset


def _create_maker(
  dataset: squad.Dataset, tokenizer: tokenization.FullTokenizer
) -> squad_windows.WindowMaker:
  """Returns the maker of the windows that the flags describe."""
  return squad_windows.WindowMaker(
    dataset,
    tokenizer,
    squad_windows.WindowSettings(
      FLAGS.max_seq_length, FLAGS.doc_stride, FLAGS.max_query_length
    ),
    FLAGS.verbose_logging,
  )


def _write_report(maker: squad_windows.WindowMaker, name: str) -> None:
  """Writes the counts of windows and of remarks to the folder of the run."""
  path = os.path.join(FLAGS.output_dir, name + file_io.REPORT_SUFFIX)
  squad_records.write_report(maker, path)


# --- Predictions -------------------------------------------------------------


def _predict_answers(
  recipe: finetuning.Recipe,
  maker: squad_windows.WindowMaker,
  windows: squad_records.WindowRecords,
) -> dict[str, squad_answers.Prediction]:
  """Returns the predictions: id of the question -> prediction."""
  logits = squad_records.predict_logits(
    recipe, windows, FLAGS.predict_batch_size
  )
  settings = squad_answers.AnswerSettings(
    FLAGS.n_best_size,
    FLAGS.max_answer_length,
    FLAGS.version_2_with_negative,
    FLAGS.null_score_diff_threshold,
  )
  predictions = squad_answers.choose_answers(maker, logits, settings)
  return {question.id: prediction for question, prediction in predictions}


def _evaluate(
  recipe: finetuning.Recipe,
  maker: squad_windows.WindowMaker,
  windows: squad_records.WindowRecords,
) -> dict[str, float]:
  """Returns the scores and their step."""
  predictions = _predict_answers(recipe, maker, windows)
  scores = squad_evaluation.evaluate(
    maker.dataset.questions,
    predictions,
    FLAGS.version_2_with_negative,
    squad_evaluation.METRICS[FLAGS.answer_scores],
  )
  return recipe.report_scores(scores)


def _predict(
  recipe: finetuning.Recipe,
  maker: squad_windows.WindowMaker,
  windows: squad_records.WindowRecords,
) -> None:
  """Writes predictions, and scores if there are answers to compare with."""
  predictions = _predict_answers(recipe, maker, windows)
  squad_answers.write_predictions(
    FLAGS.output_dir, predictions, FLAGS.version_2_with_negative
  )
  _write_report(maker, "predict")
  metric = squad_evaluation.METRICS[FLAGS.answer_scores]
  results = None
  if maker.dataset.has_answers:
    results = squad_evaluation.evaluate(
      maker.dataset.questions,
      predictions,
      FLAGS.version_2_with_negative,
      metric,
    )
  question_report.write_examples(
    FLAGS.output_dir,
    maker,
    predictions,
    FLAGS.version_2_with_negative,
    metric,
    results,
  )
  if results is None:
    logging.info(
      "%s has questions without answers, so it is not scored.",
      maker.dataset.path,
    )
    return
  results["global_step"] = recipe.estimator.global_step
  run_folder.write_results(FLAGS.output_dir, "eval_results.txt", results)
  if FLAGS.version_2_with_negative:
    best_f1, threshold = squad_evaluation.advise_threshold(
      maker.dataset.questions, predictions, metric
    )
    logging.info(
      "F1 is %.2f with --null_score_diff_threshold=%r. The best F1 that a "
      "threshold reaches on these questions is %.2f, with "
      "--null_score_diff_threshold=%r.",
      results["f1"],
      FLAGS.null_score_diff_threshold,
      best_f1,
      threshold,
    )


if __name__ == "__main__":
  define_flags()
  launch.run(main, check_flags)
