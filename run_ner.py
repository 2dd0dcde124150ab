"""Fine-tunes BERT to tag words, such as named entities (paper, section 5.3).

    python run_ner.py --do_train --do_eval --data_dir=conll2003 \\
        --bert_config_file=$BERT/bert_config.json \\
        --vocab_file=$BERT/vocab.txt --init_checkpoint=$BERT/bert_model.ckpt \\
        --output_dir=/tmp/ner

--data_dir holds train.txt, dev.txt and test.txt, with one word and its tag per
line and a blank line between sentences, or files of JSON lines; see
`tasks/ner_files.py`. The training file defines the tags.
"""

from __future__ import annotations

import launch  # First: from here on a signal ends the program quietly.

import collections
import dataclasses
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
from data import file_io
from data import record_files
from errors import UserError
import heads
import modeling
from reports import tagging_report
from tasks import classifier_config
from tasks import finetuning
from tasks import metrics
from tasks import ner
from tasks import ner_files
from tasks import ner_tags
from tasks import text_files
import tokenization
from training import model_folder
from training import run_folder

FLAGS = flags.FLAGS


@flag_help.group("Tagging")
def define_flags() -> None:
  """Defines the flags of this program."""
  common_flags.define_model_flags()
  common_flags.define_vocab_flags(do_lower_case=False)
  common_flags.define_training_flags(
    learning_rate=5e-5,
    best_metric=None,
    best_metric_default=" By default eval_f1, or eval_accuracy for tags that "
    "mark no entities.",
  )
  common_flags.define_evaluation_flags()
  common_flags.define_task_flags(max_seq_length=128)
  common_flags.define_tpu_flags()
  flags.DEFINE_string("data_dir", None, "Folder with the files.", required=True)
  input_paths.mark("data_dir", input_paths.check_path)
  for split in ("train", "dev", "test"):
    flags.DEFINE_string(
      f"{split}_file", f"{split}.txt", f"The {split} file in --data_dir."
    )
  common_flags.mark_split_files()
  common_flags.define_encoding_flag()
  common_flags.define_unseen_labels_flag()
  flags.DEFINE_integer(
    "word_column",
    None,
    "Column of the word: 0 is the first, -1 the last. By default it is found "
    "in the file: the first one that does not count the words.",
  )
  flags.DEFINE_integer(
    "tag_column",
    None,
    "Column of the tag: 0 is the first, -1 the last. By default it is found in "
    "the file; in most files it is the last.",
  )
  flags.DEFINE_string(
    "column_separator",
    None,
    "Separator of the columns. By default tabs if all lines have one, else any "
    "white space.",
  )
  flags.DEFINE_list(
    "tag_names",
    [],
    "Names of the tags, in the order of their numbers, for files of JSON or "
    "Parquet in which tags are numbers: O,B-PER,I-PER.",
  )
  flags.DEFINE_bool(
    "document_context",
    False,
    "Whether to read the sentences of a document together, so that a word has "
    "the sentences around it as context.",
  )


class TaggedSplit(NamedTuple):
  """The sentences of a file, and their records.

  Attributes:
    sentences: Sentences in the order of the file.
    records: The records of their windows.
    places: For each window, see `ner.TagWindow.word_numbers`.
    dropped_words: The words that the model cannot see; see
      `ner.find_dropped_words`.
  """

  sentences: list[ner.Sentence]
  records: finetuning.TaskRecords
  places: list[list[int]]
  dropped_words: set[str]


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
    {f"--{name}_file": [_path(name)] for name in wanted},
  )
  tokenizer = _create_tokenizer(config, files)
  sentences = {name: _read_sentences(name) for name in wanted}
  tagger = _create_tagger(sentences, files.init_checkpoint, tokenizer.settings)
  for name in sentences:
    _check_tags(name, sentences[name], tagger.labels)
    _log_scheme(name, sentences[name], tagger.labels)
  if FLAGS.eval_every_steps:
    best_metric = _best_metric(sentences["dev"], tagger)
    run_config = dataclasses.replace(run_config, best_metric=best_metric)
  splits = {
    name: _write_records(name, sentences[name], tokenizer, tagger)
    for name in sentences
  }
  num_train_steps = 0
  if FLAGS.do_train:
    num_train_steps = common_flags.num_task_steps(
      splits["train"].records.num_records
    )
  recipe = common_flags.create_recipe(
    tagger.head,
    run_config,
    num_train_steps,
    config,
    files.init_checkpoint,
    tagger.num_outputs,
  )

  if FLAGS.do_train:
    tagger.write(FLAGS.output_dir)
    recipe.train(
      splits["train"].records,
      len(sentences["train"]),
      num_train_steps,
      (lambda: _evaluate(recipe, splits["dev"], tagger))
      if FLAGS.do_eval
      else None,
      [_path("train")],
    )
    common_flags.export_model(
      recipe.estimator, config, files.vocab_file, tokenizer.settings, tagger
    )

  if FLAGS.do_eval:
    results = _evaluate(recipe, splits["dev"], tagger, writes_examples=True)
    run_folder.write_results(FLAGS.output_dir, "eval_results.txt", results)

  if FLAGS.do_predict:
    _predict(recipe, splits["test"], tagger)


def _create_tokenizer(
  config: modeling.BertConfig, files: model_folder.ModelFiles
) -> tokenization.FullTokenizer:
  """Returns the tokenizer, and checks that it suits names.

  Raises:
    UserError: an uncased vocabulary would be used without lower-casing.
  """
  tokenizer = common_flags.create_tokenizer(files, config)
  has_capitals = any(
    token != token.lower()
    for token in tokenizer.vocab
    if not token.startswith("[")
  )
  if not has_capitals and not tokenizer.settings.do_lower_case:
    raise UserError(
      f"--vocab_file={files.vocab_file} has no capitals, so "
      "most words with one would be unknown. Use a cased model, "
      "which tells names from other words, or pass --do_lower_case."
    )
  if tokenizer.settings.do_lower_case:
    logging.warning(
      "An uncased model cannot see capitals, which tell names from other "
      "words: a cased model does better."
    )
  return tokenizer


def _read_sentences(name: str) -> list[ner.Sentence]:
  """Returns the sentences of a file."""
  path = _path(name)
  word_format = ner_files.WordFormat(
    FLAGS.word_column,
    FLAGS.tag_column,
    FLAGS.column_separator,
    tuple(FLAGS.tag_names),
    common_flags.text_encoding(),
  )
  sentences = ner_files.read_sentences(
    path, word_format, has_tags=name != "test"
  )
  if FLAGS.document_context and not sentences[-1].document:
    logging.warning(
      "%s has no -DOCSTART- lines, so it is read as one document.", path
    )
  return sentences


def _create_tagger(
  sentences, init_checkpoint, settings
) -> classifier_config.ClassifierConfig:
  """Returns the config of the tagger: as trained earlier, or from the data.

  Raises:
    UserError: no tagger is known to predict with, or the tags have changed.
  """
  known = None
  if not FLAGS.restart:
    known = classifier_config.ClassifierConfig.read(FLAGS.output_dir)
  if known and known.problem_type != heads.TAGGING:
    raise UserError(
      f"--output_dir={FLAGS.output_dir} holds a classifier for "
      f"{known.problem_type}. Choose another one."
    )
  if FLAGS.do_train:
    tags = sorted(
      {tag for sentence in sentences["train"] for tag in sentence.tags}
    )
    tagger = classifier_config.ClassifierConfig(
      heads.TAGGING,
      tuple(tags),
      settings,
      FLAGS.max_seq_length,
      encoding.SLIDING_WINDOW,
    )
    if known and known.labels != tagger.labels:
      raise UserError(
        f"--output_dir={FLAGS.output_dir} holds a tagger for "
        f"{', '.join(known.labels)}, but {FLAGS.train_file} has "
        f"{', '.join(tagger.labels)}. Choose another --output_dir."
      )
  else:
    if not known and init_checkpoint:
      known = classifier_config.ClassifierConfig.read(
        os.path.dirname(init_checkpoint)
      )
    if not known:
      raise UserError(
        f"{FLAGS.output_dir} holds no classifier.json of a trained tagger. "
        "Train first, or point --output_dir to one."
      )
    tagger = known
  tagger.check_start(
    common_flags.find_newest_checkpoint(init_checkpoint),
    init_checkpoint,
    FLAGS.do_train,
  )
  return tagger


def _path(name: str) -> str:
  """Returns the path of the file of a split."""
  return os.path.join(FLAGS.data_dir, str(FLAGS[f"{name}_file"].value))


def _check_tags(name: str, sentences: list[ner.Sentence], labels) -> None:
  """Handles tags that are not among the tagger's labels.

  Raises:
    UserError: There is one, and --unseen_labels does not allow it.
  """
  counts = collections.Counter(
    tag for sentence in sentences for tag in sentence.tags or ()
  )
  unseen = set(counts) - set(labels)
  if not unseen:
    return
  tag, line = _find_first_tag(sentences, unseen)
  place = f"{_path(name)}, line {line}"
  if FLAGS.unseen_labels == "error":
    raise UserError(
      f"{place}: the tag {tag!r} is not one of those trained with: "
      f"{text_files.format_names(labels)}. Correct it, train with sentences "
      "that have it, or pass --unseen_labels=count, which counts it as never "
      "predicted."
    )
  logging.warning(
    "%s: no training sentence has the tag %r. Such tags are counted as never "
    "predicted: %s.",
    place,
    tag,
    ", ".join(f"{tag} ({counts[tag]})" for tag in sorted(unseen)),
  )


def _log_scheme(name: str, sentences: list[ner.Sentence], labels) -> None:
  """Logs the scheme of the tags of a file, and the tags that do not fit."""
  path = _path(name)
  tagged = [sentence.tags for sentence in sentences if sentence.tags]
  if not tagged:
    return
  has_entities = ner_tags.mark_entities(labels)
  misfits = ner_tags.find_misfits(tag for tags in tagged for tag in tags)
  if misfits:
    tag, line = _find_first_tag(sentences, misfits)
    effect = (
      f"In the scores of entities it counts as {metrics.OUTSIDE}."
      if has_entities
      else "Neither have most others, so the only score is the accuracy of "
      "tags, and no scores of entities are computed."
    )
    logging.warning(
      "%s, line %d: the tag %r has no prefix of IOB, BIOES, BILOU or BMES, "
      "such as B- in B-PER. %s",
      path,
      line,
      tag,
      effect,
    )
  scheme = ner_tags.find_scheme(tagged)
  if has_entities and scheme:
    irregular = ner_tags.count_irregular(tagged, scheme)
    shown = "BILOU (BILUO)" if scheme == "BILOU" else scheme
    exceptions = ""
    if irregular:
      exceptions = (
        f"; {irregular} cannot follow the tag before them, and are read as the "
        "official scoring program reads them"
      )
    logging.info("%s: the tags follow %s%s.", path, shown, exceptions)


def _find_first_tag(
  sentences: list[ner.Sentence], wanted: set[str]
) -> tuple[str, int]:
  """Returns the first tag that is one of the wanted ones, and its line."""
  for sentence in sentences:
    for line, tag in zip(sentence.lines, sentence.tags or ()):
      if tag in wanted:
        return tag, line
  raise ValueError(f"No sentence has one of the tags {wanted}.")


def _best_metric(
  sentences: list[ner.Sentence], tagger: classifier_config.ClassifierConfig
) -> str:
  """Returns the score that decides which weights are best.

  Raises:
    UserError: --best_metric is not one of the scores.
  """
  tags = [list(sentence.tags or ()) for sentence in sentences]
  names = [f"eval_{name}" for name in _scores(sentences, tags, tagger)]
  metric = FLAGS.best_metric
  if metric is None:
    metric = "eval_f1" if "eval_f1" in names else "eval_accuracy"
    logging.info("The best weights are those with the best %s.", metric)
  elif metric not in names:
    raise UserError(
      f"--best_metric={metric} is none of the scores of {_path('dev')}: "
      f"{', '.join(names)}. Name one of them."
    )
  return metric


def _write_records(
  name: str,
  sentences: list[ner.Sentence],
  tokenizer: tokenization.FullTokenizer,
  tagger: classifier_config.ClassifierConfig,
) -> TaggedSplit:
  """Writes the windows of a file, unless the same are there already."""
  ids = {tag: i for i, tag in enumerate(tagger.labels)}
  labels = []  # of all words; placeholders if they are not known
  for sentence in sentences:
    tags = sentence.tags or tagger.labels[:1] * len(sentence.words)
    # A tag that was not trained has no id, and needs none: labels are for
    # training.
    labels.extend(ids.get(tag, 0) for tag in tags)
  path = run_folder.record_path(FLAGS.output_dir, name)

  def write() -> dict[str, object]:
    places = []

    def create_record(window: ner.TagWindow) -> bytes:
      # A token without a place has the weight 0.
      places.append([int(place) for place in window.word_numbers])
      return batching.create_task_record(
        window.features,
        label_ids=[
          labels[place] if place >= 0 else 0 for place in window.word_numbers
        ],
        label_weights=[float(place >= 0) for place in window.word_numbers],
      )

    windows = ner.cut_windows(
      sentences, tokenizer, FLAGS.max_seq_length, FLAGS.document_context
    )
    record_files.write_records(path, map(create_record, windows))
    return {"places": places}

  digest = record_files.compute_digest(
    "tagging",
    [(sentence.words, sentence.document) for sentence in sentences],
    labels,
    record_files.compute_tokenizer_digest(tokenizer),
    FLAGS.max_seq_length,
    FLAGS.document_context,
  )
  stamped = record_files.reuse_or_write_file(path, digest, write)
  places = stamped.facts["places"]
  feature_spec = {
    "label_ids": batching.token_feature(tf.int64),
    "label_weights": batching.token_feature(tf.float32),
  }
  records = finetuning.TaskRecords(
    path, len(places), stamped.checksum, FLAGS.max_seq_length, feature_spec
  )
  dropped_words = ner.find_dropped_words(sentences, tokenizer)
  _log_dropped_words(name, sentences, dropped_words)
  return TaggedSplit(sentences, records, places, dropped_words)


def _log_dropped_words(
  name: str, sentences: list[ner.Sentence], dropped_words: set[str]
) -> None:
  """Logs how many words the model cannot see, if there are any."""
  places = [
    (line, word)
    for sentence in sentences
    for line, word in zip(sentence.lines, sentence.words)
    if word in dropped_words
  ]
  if places:
    line, word = places[0]
    logging.info(
      "%s: the tokenizer leaves nothing of %d words, such as %a in line %d. "
      "Such words keep their place, and are predicted as %s.",
      _path(name),
      len(places),
      word,
      line,
      metrics.OUTSIDE,
    )


class TagPredictions(NamedTuple):
  """The tag of each word of each sentence, and its probability."""

  tags: list[list[str]]
  probabilities: list[list[float]]


def predict_tags(
  recipe: finetuning.Recipe,
  split: TaggedSplit,
  tagger: classifier_config.ClassifierConfig,
  batch_size: int,
) -> TagPredictions:
  """Returns the predictions for all sentences."""
  num_words = sum(len(sentence.words) for sentence in split.sentences)
  tags = np.zeros(num_words, int)
  probabilities = np.zeros(num_words)
  predictions = recipe.predict(split.records, batch_size)
  # places of a window   -1  0  1 -1  2 -1    [CLS] un ##aff ... [SEP]
  # tokens                   1  2     4       those that stand for a word
  for places_of_window, window_tags, window_probabilities in zip(
    split.places, predictions["tags"], predictions["probabilities"]
  ):
    places = np.array(places_of_window)
    tokens = np.flatnonzero(places >= 0)
    numbers = places[tokens]
    tags[numbers] = window_tags[tokens]
    probabilities[numbers] = window_probabilities[tokens]
  if split.dropped_words and metrics.OUTSIDE in tagger.labels:
    # The model cannot see these words, so it cannot tell them apart.
    words = [word for sentence in split.sentences for word in sentence.words]
    is_dropped = [word in split.dropped_words for word in words]
    tags[is_dropped] = tagger.labels.index(metrics.OUTSIDE)
    probabilities[is_dropped] = 1.0
  labels = [tagger.labels[i] for i in tags]
  return TagPredictions(
    ner.split_by_sentence(split.sentences, labels),
    ner.split_by_sentence(split.sentences, probabilities.tolist()),
  )


def _scores(
  sentences: list[ner.Sentence],
  tags: list[list[str]],
  tagger: classifier_config.ClassifierConfig,
) -> dict[str, float]:
  """Returns the scores of entities; of tags, if tags mark no entities."""
  labels = [sentence.tags or () for sentence in sentences]
  scores = metrics.entity_scores(labels, tags)
  if ner_tags.mark_entities(tagger.labels):
    return scores
  return {"accuracy": scores["accuracy"]}


def _evaluate(
  recipe: finetuning.Recipe,
  split: TaggedSplit,
  tagger: classifier_config.ClassifierConfig,
  writes_examples: bool = False,
) -> dict[str, float]:
  """Returns the contents of `eval_results.txt`."""
  tags = predict_tags(recipe, split, tagger, FLAGS.eval_batch_size).tags
  scores = _scores(split.sentences, tags, tagger)
  results = {f"eval_{name}": score for name, score in scores.items()}
  if writes_examples:
    tagging_report.write_examples(
      FLAGS.output_dir, "dev", tagger.labels, split.sentences, tags, results
    )
  return recipe.report_scores(results)


def _predict(
  recipe: finetuning.Recipe,
  split: TaggedSplit,
  tagger: classifier_config.ClassifierConfig,
) -> None:
  """Writes predictions as CoNLL's columns and as JSON, and scores."""
  predictions = predict_tags(recipe, split, tagger, FLAGS.predict_batch_size)
  lines = []
  for sentence, tags, probabilities in zip(split.sentences, *predictions):
    lines.extend(ner.format_rows(sentence, tags, probabilities))
    lines.append("")
  objects = list(map(ner.sentence_to_json, split.sentences, predictions.tags))
  for name, content in [
    ("test_predictions.txt", lines),
    ("test_predictions.jsonl", objects),
  ]:
    path = os.path.join(FLAGS.output_dir, name)
    file_io.write_text(path, "\n".join(content) + "\n")
    logging.info("Predictions are in %s.", path)
  scores = None
  if split.sentences[0].tags is not None:
    scores = _scores(split.sentences, predictions.tags, tagger)
    run_folder.write_results(FLAGS.output_dir, "test_scores.txt", scores)
  tagging_report.write_examples(
    FLAGS.output_dir,
    "test",
    tagger.labels,
    split.sentences,
    predictions.tags,
    scores,
  )


if __name__ == "__main__":
  define_flags()
  launch.run(main, check_flags)
