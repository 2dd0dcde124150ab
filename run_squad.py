"""Fine-tunes BERT to answer questions about paragraphs (paper, 4.2 and 4.3).

    python run_squad.py --do_train --train_file=train-v1.1.json \\
        --do_predict --predict_file=dev-v1.1.json \\
        --bert_config_file=$BERT/bert_config.json \\
        --vocab_file=$BERT/vocab.txt --init_checkpoint=$BERT/bert_model.ckpt \\
        --train_batch_size=12 \\
        --learning_rate=3e-5 --num_train_epochs=2.0 --max_seq_length=384 \\
        --doc_stride=128 --output_dir=/tmp/squad

For SQuAD 2.0 add --version_2_with_negative. To ask questions of a text:

    python run_squad.py --question='Who ...?' --context_file=text.txt ...
"""

import launch  # First: from here on a signal ends the program quietly.

import collections
from collections.abc import Iterator, Mapping
import json
import math
import os
import sys
import tempfile
from typing import NamedTuple

from absl import flags
from absl import logging
import tensorflow as tf

import checkpoint
import common_flags
from data import batching
from data import file_io
from data import record_files
from errors import UserError
import estimator as estimator_lib
import losses
import modeling
from tasks import squad
from tasks import squad_answers
from tasks import squad_evaluation
from tasks import squad_windows

FLAGS = flags.FLAGS

_NUM_SHOWN = 3  # answers to a question from the command line
_CONTEXT_SHOWN = 60  # characters on either side of an answer


def define_flags() -> None:
  """Defines the flags of this program."""
  common_flags.define_model_flags()
  common_flags.define_vocab_flags()
  common_flags.define_training_flags(
    learning_rate=5e-5, best_metric="f1", evaluation_flag="do_predict"
  )
  common_flags.define_task_flags(max_seq_length=384)
  common_flags.define_tpu_flags()
  flags.DEFINE_string("train_file", None, "JSON file of SQuAD to train with.")
  flags.DEFINE_string(
    "predict_file",
    None,
    "JSON file of SQuAD to predict; "
    "where it has answers, predictions are scored.",
  )
  flags.DEFINE_integer(
    "doc_stride",
    128,
    "How many tokens a window of a long paragraph begins after the one before.",
    lower_bound=1,
  )
  flags.DEFINE_integer(
    "max_query_length",
    64,
    "Most tokens of a question; longer ones are cut.",
    lower_bound=1,
  )
  flags.DEFINE_integer(
    "n_best_size",
    20,
    "How many answers to write to nbest_predictions.json.",
    lower_bound=1,
  )
  flags.DEFINE_integer(
    "max_answer_length", 30, "Most tokens of an answer.", lower_bound=1
  )
  flags.DEFINE_bool(
    "version_2_with_negative",
    False,
    "Whether there are questions without an answer, as in SQuAD 2.0.",
  )
  flags.DEFINE_float(
    "null_score_diff_threshold",
    0.0,
    "By how much no answer "
    "has to score better than the best one to be predicted.",
  )
  flags.DEFINE_bool(
    "skip_missing_answers",
    False,
    "Leave out training "
    "questions whose answer is not in their paragraph, and "
    "count them, instead of stopping.",
  )
  flags.DEFINE_bool(
    "verbose_logging",
    False,
    "Log each question that there is "
    "something to say of, and not only their number.",
  )
  flags.DEFINE_string(
    "context_file", None, "A text to ask questions of, in place of a data set."
  )
  flags.DEFINE_string(
    "question",
    None,
    "What to ask of --context_file; if not "
    "given, questions are read from standard input, one a "
    "line.",
  )


def model_fn_builder(config, init_checkpoint, num_train_steps):
  """Returns the `model_fn`; `num_train_steps` is 0 if there is no training."""

  def model_fn(params):
    model = modeling.BertForQuestionAnswering(
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
      start_logits, end_logits = logits_fn(features, dropout_seed)
      # As released, positions of padding are not masked in the loss.
      return estimator_lib.Losses(
        {
          "loss": losses.span_loss(
            start_logits,
            end_logits,
            features["start_positions"],
            features["end_positions"],
            features["is_real_example"],
          )
        }
      )

    def predict_fn(features):
      start_logits, end_logits = logits_fn(features)
      return {
        "start_logits": start_logits,
        "end_logits": end_logits,
        "record_number": features["record_number"],
      }

    return estimator_lib.EstimatorSpec(
      model=model,
      loss_fn=loss_fn,
      predict_fn=predict_fn,
      optimizer=common_flags.task_optimizer(config, num_train_steps),
      init_checkpoint=init_checkpoint,
      **common_flags.costs(config),
    )

  return model_fn


class Windows(NamedTuple):
  """A file of windows to predict.

  Attributes:
    file: the records.
    places: the number of the question of each, and of the window among those of
      the question.
    lengths: how many tokens each has.
  """

  file: str
  places: list[tuple[int, int]]
  lengths: list[int]


class TrainingWindows(NamedTuple):
  """A file of windows to train with."""

  file: str
  num_records: int
  checksum: int


def training_input_fn_builder(windows: TrainingWindows):
  """Returns the `input_fn` of windows with the positions of answers."""
  spec = {
    name: tf.io.FixedLenFeature([], tf.int64)
    for name in ("start_positions", "end_positions")
  }

  def input_fn(params):
    return batching.task_dataset(
      windows.file,
      FLAGS.max_seq_length,
      params["batch_size"],
      spec,
      batching.TrainingOrder(
        windows.num_records,
        windows.checksum,
        params["seed"],
        params.get(batching.INPUT_POSITION),
      ),
      common_flags.static_shapes(is_training=True),
    )

  return input_fn


def input_fn_builder(windows: Windows):
  """Returns the `input_fn` of windows to predict."""

  def input_fn(params):
    return batching.task_dataset(
      windows.file,
      FLAGS.max_seq_length,
      params["batch_size"],
      {},
      static_shapes=common_flags.static_shapes(is_training=False),
    )

  return input_fn


@launch.owns(
  "output_dir", needs_lock=lambda: FLAGS.do_train or FLAGS.do_predict
)
def main(_):
  run_config = common_flags.run_config("do_predict")
  files = common_flags.model_files("bert_config_file", "vocab_file")
  config = common_flags.read_config(files)
  _check_flags(config, files)
  common_flags.check_inputs_are_kept(
    {
      f"--{name}": [FLAGS[name].value]
      for name in ("train_file", "predict_file", "context_file")
      if FLAGS[name].value
    }
  )
  tokenizer = common_flags.create_tokenizer(files, config)

  def reader(dataset):
    return squad_windows.WindowMaker(
      dataset,
      tokenizer,
      squad_windows.WindowSettings(
        FLAGS.max_seq_length, FLAGS.doc_stride, FLAGS.max_query_length
      ),
      FLAGS.verbose_logging,
    )

  num_train_steps = 0
  if FLAGS.do_predict:
    predict_reader = reader(_read_dataset(FLAGS.predict_file))
  if FLAGS.do_train:
    train_reader = reader(_read_dataset(FLAGS.train_file))
    training_windows = write_training_windows(train_reader)
    num_train_steps = common_flags.num_task_steps(training_windows.num_records)
  estimator = estimator_lib.TPUEstimator(
    model_fn=model_fn_builder(config, files.init_checkpoint, num_train_steps),
    config=run_config,
    train_batch_size=FLAGS.train_batch_size,
    predict_batch_size=FLAGS.predict_batch_size,
  )
  if FLAGS.do_predict:
    windows = write_windows(predict_reader, common_flags.record_file("dev"))

  if FLAGS.do_train:
    common_flags.log_training(
      len(train_reader.dataset.questions),
      training_windows.num_records,
      num_train_steps,
    )
    estimator.train(
      training_input_fn_builder(training_windows),
      max_steps=num_train_steps,
      evaluate_fn=lambda: (
        _evaluate(estimator, predict_reader, windows)
        if FLAGS.do_predict and predict_reader.dataset.has_answers
        else None
      ),
    )
    common_flags.export_model(estimator, config, files.vocab_file)

  if FLAGS.do_predict:
    _predict(estimator, predict_reader, windows)

  if FLAGS.context_file:
    _answer_questions(estimator, reader)


def _check_flags(config, files) -> None:
  """Raises a UserError for flags that do not go together."""
  common_flags.check_max_seq_length(FLAGS.max_seq_length, config, files)
  common_flags.check_belongs(["question"], FLAGS.context_file, "--context_file")
  common_flags.check_belongs(
    ["null_score_diff_threshold"],
    FLAGS.version_2_with_negative,
    "--version_2_with_negative",
  )
  if not (FLAGS.do_train or FLAGS.do_predict or FLAGS.context_file):
    raise UserError(
      "Nothing to do: pass --do_train, --do_predict, or --context_file."
    )
  for is_wanted, name, file in [
    (FLAGS.do_train, "do_train", "train_file"),
    (FLAGS.do_predict, "do_predict", "predict_file"),
  ]:
    if is_wanted and not FLAGS[file].value:
      raise UserError(f"--{name} needs --{file}.")
  if FLAGS.max_seq_length <= FLAGS.max_query_length + 3:
    raise UserError(
      f"--max_seq_length={FLAGS.max_seq_length} leaves no room beside "
      f"--max_query_length={FLAGS.max_query_length} and three special "
      "tokens."
    )
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
  """Returns a data set of the version that the flags say."""
  dataset = squad.read_dataset(path)
  impossible = sum(question.is_impossible for question in dataset.questions)
  if impossible and not FLAGS.version_2_with_negative:
    raise UserError(
      f"{path}: {impossible} questions have no answer, as in SQuAD 2.0. Pass "
      "--version_2_with_negative."
    )
  return dataset


# --- Records -----------------------------------------------------------------


def write_windows(reader: squad_windows.WindowMaker, path: str) -> Windows:
  """Writes the windows of all questions, unless they are there already."""

  def write():
    facts = {"places": [], "lengths": []}

    def records() -> Iterator[bytes]:
      for window in reader.cut_windows():
        facts["places"].append((window.question, window.number))
        facts["lengths"].append(len(window.features.input_ids))
        yield batching.create_task_record(window.features)

    record_files.write_records(path, records())
    return {**facts, "counts": reader.counts}

  facts = record_files.reuse_or_write_file(path, _digest(reader), write).facts
  reader.counts = collections.Counter(facts["counts"])
  return Windows(path, list(map(tuple, facts["places"])), facts["lengths"])


def write_training_windows(
  reader: squad_windows.WindowMaker,
) -> TrainingWindows:
  """Writes the windows to train with, unless they are there already."""
  path = common_flags.record_file("train")

  def write():
    num_records = record_files.write_records(
      path,
      (
        batching.create_task_record(
          window.features, start_positions=[start], end_positions=[end]
        )
        for window, (start, end) in reader.cut_training_windows(
          FLAGS.skip_missing_answers
        )
      ),
    )
    return {"num_records": num_records, "counts": reader.counts}

  stamped = record_files.reuse_or_write_file(
    path, _digest(reader, FLAGS.skip_missing_answers), write
  )
  reader.counts = collections.Counter(stamped.facts["counts"])
  _report("train", reader)
  return TrainingWindows(path, stamped.facts["num_records"], stamped.checksum)


def _digest(reader: squad_windows.WindowMaker, *settings) -> str:
  """Returns a digest of all that windows depend on."""
  return record_files.compute_digest(
    "questions",
    reader.dataset.paragraphs,
    reader.dataset.questions,
    reader.settings,
    record_files.compute_tokenizer_digest(reader.tokenizer),
    *settings,
  )


def _report(name: str, reader: squad_windows.WindowMaker) -> None:
  """Logs what there was to count, and writes it to a file."""
  common_flags.log_lines(
    f"Questions of {reader.dataset.path}",
    [f"{what} = {count}" for what, count in sorted(reader.counts.items())],
  )
  file_io.write_text(
    os.path.join(FLAGS.output_dir, name + file_io.REPORT_SUFFIX),
    json.dumps(reader.counts, indent=2, sort_keys=True) + "\n",
  )


# --- Predictions -------------------------------------------------------------


def predict_answers(
  estimator, reader: squad_windows.WindowMaker, windows: Windows
) -> dict[str, squad_answers.Prediction]:
  """Returns predictions by the id of the question."""
  logits = {}
  if windows.places:
    for row in estimator.predict(input_fn_builder(windows)):
      number = int(row["record_number"])
      length = windows.lengths[number]
      logits[windows.places[number]] = (
        row["start_logits"][:length],
        row["end_logits"][:length],
      )
  return {
    question.id: prediction
    for question, prediction in squad_answers.choose_answers(
      reader,
      logits,
      squad_answers.AnswerSettings(
        FLAGS.n_best_size,
        FLAGS.max_answer_length,
        FLAGS.version_2_with_negative,
        FLAGS.null_score_diff_threshold,
      ),
    )
  }


def score(
  dataset: squad.Dataset, predictions: Mapping[str, squad_answers.Prediction]
) -> dict[str, float]:
  """Returns the official scores."""
  texts = {i: prediction.text for i, prediction in predictions.items()}
  if not FLAGS.version_2_with_negative:
    return squad_evaluation.evaluate_v1(dataset.questions, texts)
  results = squad_evaluation.evaluate_v2(dataset.questions, texts)
  # Which threshold would be best is found among answers that are not empty.
  answers = {
    i: next(
      (candidate.text for candidate in prediction.n_best if candidate.text), ""
    )
    for i, prediction in predictions.items()
  }
  tuned = squad_evaluation.evaluate_v2(
    dataset.questions,
    answers,
    {i: prediction.null_odds for i, prediction in predictions.items()},
    null_threshold=math.inf,
  )
  return {
    **results,
    **{
      name: value for name, value in tuned.items() if name.startswith("best_")
    },
  }


def _evaluate(estimator, reader, windows) -> dict[str, float]:
  """Returns the scores and the step that they are of."""
  results = score(reader.dataset, predict_answers(estimator, reader, windows))
  results["global_step"] = estimator.global_step
  estimator.write_eval_summary(results)
  return results


def _predict(
  estimator, reader: squad_windows.WindowMaker, windows: Windows
) -> None:
  """Writes predictions, and scores if there are answers to compare with."""
  predictions = predict_answers(estimator, reader, windows)
  files = {
    "predictions.json": {i: p.text for i, p in predictions.items()},
    "nbest_predictions.json": {
      i: [candidate._asdict() for candidate in p.n_best]
      for i, p in predictions.items()
    },
  }
  if FLAGS.version_2_with_negative:
    files["null_odds.json"] = {i: p.null_odds for i, p in predictions.items()}
  for name, content in files.items():
    file_io.write_text(
      os.path.join(FLAGS.output_dir, name), json.dumps(content, indent=4) + "\n"
    )
  _report("predict", reader)
  if not reader.dataset.has_answers:
    logging.info(
      "%s has questions without answers, and is not scored.",
      reader.dataset.path,
    )
    return
  results = score(reader.dataset, predictions)
  results["global_step"] = estimator.global_step
  common_flags.write_results(
    os.path.join(FLAGS.output_dir, "eval_results.txt"), results
  )
  if FLAGS.version_2_with_negative:
    logging.info(
      "F1 is %.2f with --null_score_diff_threshold=%g, and would be %.2f "
      "with the one that is best here: --null_score_diff_threshold=%g.",
      results["f1"],
      FLAGS.null_score_diff_threshold,
      results["best_f1"],
      results["best_f1_thresh"],
    )


# --- Questions from the command line -----------------------------------------


def _answer_questions(estimator, make_reader) -> None:
  """Prints answers to questions about a text."""
  if not tf.io.gfile.exists(FLAGS.context_file):
    raise UserError(f"--context_file={FLAGS.context_file} does not exist.")
  text = "\n".join(file_io.read_lines(FLAGS.context_file))
  questions = [FLAGS.question] if FLAGS.question else sys.stdin
  # The folder of the model is only read: a training may be running there.
  with tempfile.TemporaryDirectory() as folder:
    for question in filter(None, map(str.strip, questions)):
      reader = make_reader(
        squad.Dataset(
          FLAGS.context_file, [text], [squad.Question("0", question, 0)]
        )
      )
      windows = write_windows(reader, os.path.join(folder, "windows.tf_record"))
      prediction = predict_answers(estimator, reader, windows)["0"]
      print(f"\n{question}")
      for candidate, span in list(zip(prediction.n_best, prediction.spans))[
        :_NUM_SHOWN
      ]:
        shown = "(no answer)"
        if span:
          shown = _in_context(text, *reader.get_paragraph(0).find_span(*span))
        print(f"  {candidate.probability:6.1%}  {shown}")
      sys.stdout.flush()


def _in_context(text: str, begin: int, end: int) -> str:
  """Returns a stretch of a text in brackets, with what stands around it."""
  before = text[max(0, begin - _CONTEXT_SHOWN) : begin]
  after = text[end : end + _CONTEXT_SHOWN]
  return " ".join(
    f"{'...' if begin > _CONTEXT_SHOWN else ''}{before}[{text[begin:end]}]"
    f"{after}{'...' if end + _CONTEXT_SHOWN < len(text) else ''}".split()
  )


if __name__ == "__main__":
  define_flags()
  launch.run(main)
