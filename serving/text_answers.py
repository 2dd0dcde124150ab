"""Answers of any model to texts, as Python values that JSON can hold.

A row of the input is a tuple of texts, whose number depends on the head:

    single_label, multi_label, regression   a text, or two
    tagging                                 a text
    span                                    a question and a context
    multiple_choice                         a context and its choices
    masked LM                               a text with masks, or two
    encoder                                 a text, or two; compared with others
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import functools
import os
from typing import Any

import numpy as np
import tensorflow as tf

import checkpoint
from data import tokenizer_settings
from errors import UserError
import heads
import modeling
from serving import exported_model
from serving import masked_words
from serving import serving_settings
from serving import signatures
from serving import text_model
from tasks import classifier_config
from tasks import metrics
from training import model_folder

Row = tuple[str, ...]
Answer = dict[str, Any]
AnswerFunction = Callable[[Sequence[Row]], list[Answer]]
# Function (rows) -> an answer for each row. That of an encoder returns vectors,
# which `TextAnswers.finish` compares.
BatchFunction = Callable[[Sequence[Row]], list[Any]]

_NUM_NEAREST = 3
# Head -> smallest and largest number of texts of a row, and what they are.
_PARTS = {
  heads.TAGGING: (1, 1, "one text"),
  heads.SPAN: (2, 2, "a question and a context"),
  heads.MULTIPLE_CHOICE: (3, 1000, "a context and two choices or more"),
}
_DEFAULT_PARTS = (1, 2, "a text or two")


def find_head(files: model_folder.ModelFiles) -> heads.Head:
  """Returns the head of a model that answers texts.

  Args:
    files: Files of the model.

  Raises:
    UserError: The weights cannot be read, or the labels are missing.
  """
  path = files.init_checkpoint
  classifier = classifier_config.ClassifierConfig.read(os.path.dirname(path))
  if classifier:
    return classifier.head
  names = checkpoint.open_checkpoint(path, "--model").shapes
  head = heads.find_heads(names)[0]
  if head.is_classifier:
    raise UserError(
      f"{path} has a classifier, but there is no classifier.json next to it, "
      "which has its labels. Pass the folder `export` of its training."
    )
  return head


class TextAnswers:
  """Answers texts with a model. A head is loaded when it is first needed.

  Attributes:
    head: The head of the model.
    mask: The token that stands for a missing word.
    labels: Labels of the head; empty if it has none.
  """

  def __init__(
    self,
    files: model_folder.ModelFiles,
    top_k: int = 5,
    compute_dtype: tf.DType = tf.float32,
    text_fields: Mapping[str, Any] | None = None,
  ):
    """Finds the head of the model.

    Args:
      files: Files of the model.
      top_k: Number of tokens for each mask.
      compute_dtype: Type of the activations.
      text_fields: See `text_model.create_tokenizer`.

    Raises:
      UserError: The model cannot be read.
    """
    self._files = files
    self.head = find_head(files)
    self._top_k = top_k
    self._compute_dtype = compute_dtype
    self._text_fields = text_fields
    self._functions: dict[str, BatchFunction] = {}
    tokenizer = text_model.create_tokenizer(files.vocab_file, None, text_fields)
    self.mask = tokenizer.settings.special_tokens.mask
    classifier = classifier_config.ClassifierConfig.read(
      os.path.dirname(files.init_checkpoint)
    )
    self.labels = classifier.labels if classifier else ()

  def choose_head(self, rows: Sequence[Row]) -> heads.Head:
    """Returns the head that answers rows.

    A model with the heads of pre-training is a masked LM if there are masks in
    the rows, otherwise an encoder.

    Raises:
      UserError: There are masks, but no head for them.
    """
    self._check_masks(rows)
    if self.is_masked_lm() and not self._has_masks(rows):
      return heads.HEADS[heads.ENCODER]
    return self.head

  def answer(self, rows: Sequence[Row], head: heads.Head) -> list[Answer]:
    """Returns the answer to each row.

    Args:
      rows: See the module. An encoder compares all of them.
      head: The head, of those that `choose_head` returns.

    Raises:
      UserError: A row has another number of texts than the head takes, or
        masks that the head does not fill.
    """
    self._check_masks(rows)
    check_parts(rows, head)
    return self.finish(rows, self.answer_batch(rows, head), head)

  def answer_batch(self, rows: Sequence[Row], head: heads.Head) -> list[Any]:
    """Returns an output for each row, from which `finish` makes the answers.

    Rows do not depend on each other, so those of several callers may be mixed.

    Args:
      rows: Rows that `check_parts` accepts.
      head: The head, of those that `choose_head` returns.
    """
    if head.name not in self._functions:
      self._functions[head.name] = self._load(head)
    answer = self._functions[head.name]
    return answer(rows)

  def finish(
    self, rows: Sequence[Row], outputs: list[Any], head: heads.Head
  ) -> list[Answer]:
    """Returns the answers to rows, given all their outputs."""
    if head.name == heads.ENCODER:
      return _compare(rows, outputs)
    return outputs

  def score(self, rows: Sequence[Row]) -> list[Answer]:
    """Returns how likely a masked LM finds each row.

    Raises:
      UserError: The model has no masked LM, or a row has more than two texts.
    """
    if not self.is_masked_lm():
      raise UserError(
        "Only a masked LM scores texts. The head of the model in "
        f"{self._files.init_checkpoint} is {self.head.name}. Pass a model of "
        "pre-training."
      )
    check_parts(rows, self.head)
    answers: list[Answer] = []
    for row in rows:
      scores = self._masked_lm.score(row)
      answers.append(
        {"pseudo_log_likelihood": sum(scores), "tokens": len(scores)}
      )
    return answers

  def is_masked_lm(self) -> bool:
    """Returns whether the model fills masks."""
    return self.head.name in (heads.PRETRAINING, heads.MASKED_LM)

  def _has_masks(self, rows: Sequence[Row]) -> bool:
    return any(self.mask in part for row in rows for part in row)

  def _check_masks(self, rows: Sequence[Row]) -> None:
    """Raises a UserError if there are masks, but no head for them."""
    if self._has_masks(rows) and not self.is_masked_lm():
      raise UserError(
        f"A text has {self.mask}. The model in "
        f"{self._files.init_checkpoint} has no masked LM, but its head is "
        f"{self.head.name}. Pass texts without masks, or a model of "
        "pre-training."
      )

  # --- Loading ---------------------------------------------------------------

  def _load(self, head: heads.Head) -> BatchFunction:
    if head.name in (heads.PRETRAINING, heads.MASKED_LM):
      return self._fill_masks
    return functools.partial(_ANSWERS[head.name], self._load_served(head))

  def _load_served(self, head: heads.Head, is_portable: bool = False) -> Any:
    """Returns the model with its tokenizer in a graph.

    Args:
      head: The head.
      is_portable: See `text_model.load_files`.
    """
    loaded = text_model.load_files(
      self._files,
      head.name,
      self._compute_dtype,
      self._text_fields,
      is_portable,
    )
    settings = serving_settings.ServingSettings()
    if loaded.classifier:
      settings = settings._replace(
        problem_type=loaded.classifier.problem_type,
        labels=loaded.labels,
        long_text=loaded.classifier.long_text,
      )
    preprocessor = signatures.Preprocessor(
      self._files.vocab_file,
      loaded.tokenizer.tokenizer,
      loaded.tokenizer.max_seq_length,
    )
    serving_class = getattr(signatures, str(head.serving_class))
    return serving_class(loaded.model, preprocessor, settings)

  @functools.cached_property
  def _masked_lm(self) -> masked_words.MaskedLM:
    files = self._files
    tokenizer = text_model.create_tokenizer(
      files.vocab_file, None, self._text_fields
    )
    return masked_words.MaskedLM(
      modeling.BertConfig.from_json_file(files.bert_config_file),
      tokenizer,
      files,
      self._compute_dtype,
    )

  def _fill_masks(self, rows: Sequence[Row]) -> list[Answer]:
    answers: list[Answer] = []
    for row in rows:
      masks = [
        [{"token": token, "probability": value} for token, value in choices]
        for choices in self._masked_lm.fill_masks(row, self._top_k)
      ]
      answers.append({"masks": masks})
    return answers


class ServerAnswers(TextAnswers):
  """Answers of a model that answers often: of a SavedModel, or traced first.

  Attributes:
    exported: The signatures of the model.
  """

  def __init__(
    self,
    model: str,
    top_k: int = 5,
    compute_dtype: tf.DType = tf.float32,
  ):
    """Loads the model.

    Args:
      model: Folder or name of a model, or folder of a SavedModel.
      top_k: Number of tokens for each mask.
      compute_dtype: Type of the activations, unless it is a SavedModel.

    Raises:
      UserError: The model cannot be read.
    """
    if exported_model.is_exported(model):
      self.exported = exported_model.load(model)
      self.head = self.exported.head
      self.mask = tokenizer_settings.SpecialTokens().mask
      self.labels = ()
      self._functions = {}
      self._files = model_folder.ModelFiles(init_checkpoint=model)
      return
    super().__init__(model_folder.find_model(model), top_k, compute_dtype)
    head = self.head
    if head.serving_class is None:
      head = heads.HEADS[heads.ENCODER]
    # Batches of a server have many shapes.
    served = super()._load_served(head, is_portable=True)
    modeling.store_kernels(served.model, compute_dtype)
    self.exported = exported_model.ExportedModel(
      served.signatures(), served, self._files.init_checkpoint
    )

  def _load_served(self, head: heads.Head, is_portable: bool = False) -> Any:
    del head, is_portable  # it is loaded already
    return self.exported


def check_parts(rows: Sequence[Row], head: heads.Head) -> None:
  """Raises a UserError for a row with a wrong number of texts."""
  fewest, most, what = _PARTS.get(head.name, _DEFAULT_PARTS)
  for row in rows:
    if not fewest <= len(row) <= most:
      raise UserError(
        f"{' ||| '.join(row)[:60]!r} has {len(row)} parts, but the "
        f"{head.name} head reads {what}. Separate parts by |||."
      )


# --- Answers of each head ----------------------------------------------------


def _by_row(outputs: Any, num_rows: int) -> list[dict[str, np.ndarray]]:
  """Returns the outputs of a signature, as a dictionary for each row."""
  arrays = {name: output.numpy() for name, output in outputs.items()}
  return [
    {name: array[row] for name, array in arrays.items()}
    for row in range(num_rows)
  ]


def _text(value: Any) -> str:
  return bytes(value).decode("utf-8", "replace")


def _call_with_pairs(served: Any, rows: Sequence[Row]) -> list[dict]:
  """Returns the outputs for rows of one or two texts each, in their order."""
  outputs: dict[int, dict] = {}
  for num_parts in (1, 2):
    numbers = [i for i, row in enumerate(rows) if len(row) == num_parts]
    if not numbers:
      continue
    first = tf.constant([rows[i][0] for i in numbers])
    second = None
    if num_parts == 2:
      second = tf.constant([rows[i][1] for i in numbers])
    answer_pairs = served.answer_pairs
    found = _by_row(answer_pairs(first, second), len(numbers))
    outputs.update(zip(numbers, found))
  return [outputs[i] for i in range(len(rows))]


def _classify(served: Any, rows: Sequence[Row]) -> list[Answer]:
  answers: list[Answer] = []
  for output in _call_with_pairs(served, rows):
    if "value" in output:
      answers.append({"value": float(output["value"])})
      continue
    labels = [_text(label) for label in output["labels"]]
    values = map(float, output["probabilities"])
    probabilities = dict(zip(labels, values))
    if "label" in output:
      answer: Answer = {"label": _text(output["label"])}
    else:
      chosen = [label for label in labels if probabilities[label] > 0.5]
      answer = {"labels": chosen}
    answers.append({**answer, "probabilities": probabilities})
  return answers


def _tag(served: Any, rows: Sequence[Row]) -> list[Answer]:
  texts = tf.constant([row[0] for row in rows])
  answer_texts = served.answer_texts
  answers: list[Answer] = []
  for row, output in zip(rows, _by_row(answer_texts(texts), len(rows))):
    num_words = int(np.count_nonzero(output["ends"]))
    tags = [_text(tag) for tag in output["tags"][:num_words]]
    entities = []
    for kind, first, end in sorted(
      metrics.find_entities(tags), key=lambda entity: entity[1]
    ):
      start = int(output["starts"][first])
      stop = int(output["ends"][end - 1])
      probability = float(np.min(output["probabilities"][first:end]))
      entities.append(
        {
          "text": row[0][start:stop],
          "type": kind,
          "start": start,
          "end": stop,
          "probability": probability,
        }
      )
    words = [_text(word) for word in output["words"][:num_words]]
    answers.append({"entities": entities, "words": words, "tags": tags})
  return answers


def _answer_questions(served: Any, rows: Sequence[Row]) -> list[Answer]:
  questions, contexts = zip(*rows)
  answer = served.answer_questions
  outputs = answer(tf.constant(questions), tf.constant(contexts))
  return [
    {
      "answer": _text(output["answer"]),
      "start": int(output["start"]),
      "end": int(output["end"]),
      "score": float(output["score"]),
      "null_score": float(output["null_score"]),
    }
    for output in _by_row(outputs, len(rows))
  ]


def _choose(served: Any, rows: Sequence[Row]) -> list[Answer]:
  answer = served.answer_choices
  answers: list[Answer] = []
  for context, *choices in rows:
    outputs = answer(tf.constant([context]), tf.constant([choices]))
    [output] = _by_row(outputs, 1)
    chosen = int(output["choice"])
    probabilities = [float(value) for value in output["probabilities"]]
    answers.append(
      {
        "choice": chosen,
        "text": choices[chosen],
        "probabilities": probabilities,
      }
    )
  return answers


def _encode(served: Any, rows: Sequence[Row]) -> list[np.ndarray]:
  """Returns the mean of the last layer of each row, as a unit vector."""
  vectors = []
  for output in _call_with_pairs(served, rows):
    mask = output["input_mask"].astype(np.float32)[:, np.newaxis]
    vector = (output["sequence_output"] * mask).sum(axis=0)
    vectors.append(vector / np.linalg.norm(vector))
  return vectors


def _compare(
  rows: Sequence[Row], vectors: Sequence[np.ndarray]
) -> list[Answer]:
  """Returns the nearest other rows of each, by the cosine of their means."""
  similarities = np.array(vectors) @ np.transpose(vectors)  # [rows, rows]
  answers: list[Answer] = []
  for number, row in enumerate(similarities):
    order = [int(i) for i in np.argsort(-row, kind="stable") if i != number]
    nearest = [_neighbour(rows[i], row[i]) for i in order[:_NUM_NEAREST]]
    answers.append({"nearest": nearest})
  return answers


def rank(
  rows: Sequence[Row], vectors: Sequence[np.ndarray], query: np.ndarray
) -> list[Answer]:
  """Returns all rows with their cosine to a query, the nearest first."""
  similarities = np.array(vectors) @ query  # [rows]
  order = np.argsort(-similarities, kind="stable")
  return [_neighbour(rows[i], similarities[i]) for i in order]


def _neighbour(row: Row, cosine: Any) -> Answer:
  return {"text": " ||| ".join(row), "cosine": float(cosine)}


# Head -> function (model with its signatures, rows) -> an output for each row.
_ANSWERS: dict[str, Callable[[Any, Sequence[Row]], list[Any]]] = {
  heads.SINGLE_LABEL: _classify,
  heads.MULTI_LABEL: _classify,
  heads.REGRESSION: _classify,
  heads.TAGGING: _tag,
  heads.SPAN: _answer_questions,
  heads.MULTIPLE_CHOICE: _choose,
  heads.ENCODER: _encode,
}
