"""Fine-tunes BERT to tag words, such as named entities (paper, section 5.3).

    python run_ner.py --do_train --do_eval --data_dir=conll2003 \\
        --bert_config_file=$BERT/bert_config.json \\
        --vocab_file=$BERT/vocab.txt --init_checkpoint=$BERT/bert_model.ckpt \\
        --output_dir=/tmp/ner

--data_dir holds train.txt, dev.txt and test.txt: a word a line, with its tag,
and a blank line between sentences. Tags are whatever the training file has.
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
from data import file_io
from data import record_files
from errors import UserError
import estimator as estimator_lib
import losses
import modeling
from tasks import classifier as classifier_lib
from tasks import metrics
from tasks import ner

FLAGS = flags.FLAGS

_SPEC = {
  "label_ids": batching.token_feature(tf.int64),
  "label_weights": batching.token_feature(tf.float32),
}


def define_flags() -> None:
  """Defines the flags of this program."""
  common_flags.define_model_flags()
  common_flags.define_vocab_flags(do_lower_case=False)
  common_flags.define_training_flags(learning_rate=5e-5, best_metric="eval_f1")
  common_flags.define_evaluation_flags()
  common_flags.define_task_flags(max_seq_length=128)
  common_flags.define_tpu_flags()
  flags.DEFINE_string("data_dir", None, "Folder with the files.", required=True)
  for split in ("train", "dev", "test"):
    flags.DEFINE_string(
      f"{split}_file", f"{split}.txt", f"The {split} file in --data_dir."
    )
  flags.DEFINE_integer(
    "word_column", 0, "Column of the word, from 0, or from -1 for the last."
  )
  flags.DEFINE_integer("tag_column", -1, "Column of the tag, likewise.")
  flags.DEFINE_string(
    "column_separator",
    None,
    "What stands between columns; any white space, if not given.",
  )
  flags.DEFINE_bool(
    "document_context",
    False,
    "Read the sentences of a "
    "document together: those around a word are its context.",
  )


class Split(NamedTuple):
  """The sentences of a file, and their records.

  Attributes:
    sentences: in the order of the file.
    record_file: the windows.
    places: for each window, what `ner.TagWindow.word_numbers` says.
    checksum: of the file.
  """

  sentences: list[ner.Sentence]
  record_file: str
  places: list[list[int]]
  checksum: int


def model_fn_builder(config, init_checkpoint, num_tags, num_train_steps):
  """Returns the `model_fn`; `num_train_steps` is 0 if there is no training."""

  def model_fn(params):
    model = modeling.BertForTokenClassification(
      config, num_tags, **common_flags.model_options(params)
    )

    def logits_fn(features, dropout_seed=None):
      return model(
        features["input_ids"],
        features["input_mask"],
        features["segment_ids"],
        dropout_seed,
      )

    def loss_fn(features, dropout_seed):
      weights = (
        features["label_weights"] * features["is_real_example"][:, tf.newaxis]
      )
      return estimator_lib.Losses(
        {
          "loss": losses.token_loss(
            logits_fn(features, dropout_seed), features["label_ids"], weights
          )
        }
      )

    def predict_fn(features):
      probabilities = tf.nn.softmax(logits_fn(features))  # [B, S, T]
      return {
        "tags": tf.argmax(probabilities, axis=-1),
        "probabilities": tf.reduce_max(probabilities, axis=-1),
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


def input_fn_builder(split: Split, is_training: bool, batch_size=None):
  """Returns the `input_fn`; `batch_size` is the estimator's, if not given."""

  def input_fn(params):
    order = None
    if is_training:
      order = batching.TrainingOrder(
        len(split.places),
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
  tokenizer = _create_tokenizer(config, files)
  sentences = {name: _read(name) for name in wanted}
  tagger = _tagger(sentences, files.init_checkpoint)
  for name in sentences:
    _check_tags(name, sentences[name], tagger.labels)
  splits = {
    name: _write_records(name, sentences[name], tokenizer, tagger)
    for name in sentences
  }
  num_train_steps = 0
  if FLAGS.do_train:
    num_train_steps = common_flags.num_task_steps(len(splits["train"].places))
  estimator = estimator_lib.TPUEstimator(
    model_fn=model_fn_builder(
      config, files.init_checkpoint, tagger.num_outputs, num_train_steps
    ),
    config=run_config,
    train_batch_size=FLAGS.train_batch_size,
  )

  if FLAGS.do_train:
    tagger.write(FLAGS.output_dir)
    common_flags.log_training(
      len(sentences["train"]), len(splits["train"].places), num_train_steps
    )
    estimator.train(
      input_fn_builder(splits["train"], is_training=True),
      max_steps=num_train_steps,
      evaluate_fn=lambda: (
        _evaluate(estimator, splits["dev"], tagger) if FLAGS.do_eval else None
      ),
    )
    common_flags.export_model(estimator, config, files.vocab_file, tagger)

  if FLAGS.do_eval:
    common_flags.write_results(
      os.path.join(FLAGS.output_dir, "eval_results.txt"),
      _evaluate(estimator, splits["dev"], tagger),
    )

  if FLAGS.do_predict:
    _predict(estimator, splits["test"], tagger)


def _create_tokenizer(config, files):
  """Returns the tokenizer, which keeps capitals if the model knows them."""
  tokenizer = common_flags.create_tokenizer(files, config)
  has_capitals = any(
    token != token.lower()
    for token in tokenizer.vocab
    if not token.startswith("[")
  )
  if not has_capitals and not FLAGS.do_lower_case:
    raise UserError(
      f"--vocab_file={files.vocab_file} has no capitals, so "
      "most words with one would be unknown. Use a cased model, "
      "which tells names from other words, or pass "
      "--do_lower_case."
    )
  if FLAGS.do_lower_case:
    logging.warning(
      "Capitals are lost to an uncased model, and they tell "
      "names from other words: a cased one does better."
    )
  return tokenizer


def _columns() -> ner.WordColumns:
  return ner.WordColumns(
    FLAGS.word_column, FLAGS.tag_column, FLAGS.column_separator
  )


def _read(name: str) -> list[ner.Sentence]:
  """Returns the sentences of a file."""
  path = os.path.join(FLAGS.data_dir, FLAGS[f"{name}_file"].value)
  sentences = ner.read_sentences(path, _columns(), has_tags=name != "test")
  if FLAGS.document_context and not sentences[-1].document:
    logging.warning(
      "%s has no lines -DOCSTART-: all of it is one document.", path
    )
  return sentences


def _tagger(sentences, init_checkpoint) -> classifier_lib.Classifier:
  """Returns what is predicted; what was trained earlier, if something was.

  Raises:
    UserError: there is nothing to predict with, or the tags have changed.
  """
  known = None
  if not FLAGS.restart:
    known = classifier_lib.Classifier.read(FLAGS.output_dir)
  if known and known.problem_type != classifier_lib.TAGGING:
    raise UserError(
      f"--output_dir={FLAGS.output_dir} holds a classifier for "
      f"{known.problem_type}. Choose another one."
    )
  if FLAGS.do_train:
    tags = sorted(
      {tag for sentence in sentences["train"] for tag in sentence.tags}
    )
    tagger = classifier_lib.Classifier(
      classifier_lib.TAGGING,
      tuple(tags),
      FLAGS.do_lower_case,
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
    tagger = known or (
      init_checkpoint
      and classifier_lib.Classifier.read(os.path.dirname(init_checkpoint))
    )
    if not tagger:
      raise UserError(
        f"{FLAGS.output_dir} holds no classifier.json of a "
        "trained tagger. Train first, or point --output_dir to "
        "one."
      )
  tagger.check_start(
    common_flags.find_newest_checkpoint(init_checkpoint),
    init_checkpoint,
    FLAGS.do_train,
  )
  return tagger


def _check_tags(name: str, sentences, tags) -> None:
  """Raises a UserError for an unknown tag; counts irregular ones."""
  path = os.path.join(FLAGS.data_dir, FLAGS[f"{name}_file"].value)
  for sentence in sentences:
    for place, tag in enumerate(sentence.tags or ()):
      if tag not in tags:
        raise UserError(
          f"{path}, line {sentence.line + place}: the tag {tag!r} is none of "
          f"those trained with: {', '.join(tags)}."
        )
  tagged = [sentence.tags for sentence in sentences if sentence.tags]
  scheme = ner.find_scheme(tagged)
  if scheme:
    irregular = ner.count_irregular(tagged, scheme)
    logging.info(
      "%s: tags of %s, %d of them where they cannot follow; such "
      "are read as the official program does.",
      path,
      scheme,
      irregular,
    )


def _write_records(name: str, sentences, tokenizer, tagger) -> Split:
  """Writes the windows of a file, unless they are there already."""
  ids = {tag: i for i, tag in enumerate(tagger.labels)}
  labels = [
    ids[tag]
    for sentence in sentences
    for tag in sentence.tags or (tagger.labels[0],) * len(sentence.words)
  ]
  path = common_flags.record_file(name)

  def write():
    places = []

    def records():
      for window in ner.cut_windows(
        sentences, tokenizer, FLAGS.max_seq_length, FLAGS.document_context
      ):
        places.append(list(map(int, window.word_numbers)))
        yield batching.create_task_record(
          window.features,
          label_ids=[
            labels[place] if place >= 0 else 0 for place in window.word_numbers
          ],
          label_weights=[float(place >= 0) for place in window.word_numbers],
        )

    record_files.write_records(path, records())
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
  return Split(sentences, path, stamped.facts["places"], stamped.checksum)


def predict_tags(
  estimator, split: Split, tagger, batch_size: int
) -> tuple[list[list[str]], list[list[float]]]:
  """Returns the tags of each sentence, and their probabilities."""
  num_words = sum(len(sentence.words) for sentence in split.sentences)
  tags = np.zeros(num_words, int)
  probabilities = np.zeros(num_words)
  for row in estimator.predict(input_fn_builder(split, False, batch_size)):
    places = np.array(split.places[row["record_number"]])
    tokens = np.flatnonzero(places >= 0)
    tags[places[tokens]] = row["tags"][tokens]
    probabilities[places[tokens]] = row["probabilities"][tokens]
  return (
    ner.split_by_sentence(split.sentences, [tagger.labels[i] for i in tags]),
    ner.split_by_sentence(split.sentences, probabilities.tolist()),
  )


def _scores(split: Split, tags, tagger) -> dict[str, float]:
  """Returns the scores of entities, or where there are none of tags."""
  labels = [sentence.tags for sentence in split.sentences]
  if ner.find_scheme([tagger.labels]):
    return metrics.entity_scores(labels, tags)
  right = [a == b for x, y in zip(labels, tags) for a, b in zip(x, y)]
  return {"accuracy": float(np.mean(right))}


def _evaluate(estimator, split: Split, tagger) -> dict[str, float]:
  """Returns the contents of `eval_results.txt`."""
  tags, _ = predict_tags(estimator, split, tagger, FLAGS.eval_batch_size)
  results = {
    f"eval_{name}": score
    for name, score in _scores(split, tags, tagger).items()
  }
  results["global_step"] = estimator.global_step
  estimator.write_eval_summary(results)
  return results


def _predict(estimator, split: Split, tagger) -> None:
  """Writes predictions as CoNLL's columns and as JSON."""
  tags, probabilities = predict_tags(
    estimator, split, tagger, FLAGS.predict_batch_size
  )
  separator = FLAGS.column_separator or " "
  lines = []
  for sentence, row, certain in zip(split.sentences, tags, probabilities):
    lines.extend(
      separator.join((line.rstrip(), tag, f"{probability:.4f}"))
      for line, tag, probability in zip(sentence.rows, row, certain)
    )
    lines.append("")
  for name, content in [
    ("test_predictions.txt", lines),
    (
      "test_predictions.jsonl",
      map(ner.sentence_to_json, split.sentences, tags),
    ),
  ]:
    path = os.path.join(FLAGS.output_dir, name)
    file_io.write_text(path, "\n".join(content) + "\n")
    logging.info("Predictions are in %s.", path)
  if split.sentences[0].tags is not None:
    common_flags.write_results(
      os.path.join(FLAGS.output_dir, "test_scores.txt"),
      _scores(split, tags, tagger),
    )


if __name__ == "__main__":
  define_flags()
  launch.run(main)
