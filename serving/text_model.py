"""A model for a Python program: a folder loaded, and called with texts.

from serving import text_model
bert = text_model.load_model("models/uncased_L-4_H-512_A-8")
outputs = bert(["A cat sat.", ("A pair of texts", "is a tuple.")])
print(outputs.pooled_output)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import os
from typing import Any

import numpy as np
import tensorflow as tf

import checkpoint
from data import encoding
from data import tokenizer_settings
from errors import UserError
import heads
import modeling
from tasks import classifier_config
import tokenization
from training import model_folder

Text = str | Sequence[str]  # a text, or a pair of texts
_SOURCE = "model"  # names the argument of `load_model` in messages


class BatchTokenizer:
  """Makes texts into a batch, padded to the longest of them.

  Attributes:
    tokenizer: The tokenizer of single texts.
    max_seq_length: Largest number of tokens of a row; the end of longer texts
      is cut off.
  """

  def __init__(
    self, tokenizer: tokenization.FullTokenizer, max_seq_length: int
  ):
    self.tokenizer = tokenizer
    self.max_seq_length = max_seq_length

  def __call__(self, texts: str | Sequence[Text]) -> dict[str, tf.Tensor]:
    """Returns the arguments of a model for a batch.

    Args:
      texts: A list of texts, or of pairs of texts; or one text, for a batch of
        one row.

    Returns:
      `input_ids`, `input_mask` and `token_type_ids`, int32 Tensors of shape
      [batch_size, seq_length].

    Raises:
      UserError: There is something else in the list.
    """
    if isinstance(texts, str):
      texts = [texts]
    rows = [self._encode(text, number) for number, text in enumerate(texts)]
    input_ids = [row.input_ids for row in rows]
    segment_ids = [row.segment_ids for row in rows]
    masks = [[1] * len(ids) for ids in input_ids]
    return {
      "input_ids": _pad(input_ids),
      "input_mask": _pad(masks),
      "token_type_ids": _pad(segment_ids),
    }

  def _encode(self, text: Text, number: int) -> encoding.InputFeatures:
    """Returns the ids of a text or a pair, the element `number` of a list."""
    parts: Sequence[Any] = [text]
    if isinstance(text, (tuple, list)):
      parts = text
    are_texts = all(isinstance(part, str) for part in parts)
    if len(parts) not in (1, 2) or not are_texts:
      raise UserError(
        f"texts[{number}] is {text!r}. Pass a string, or a tuple of two "
        "strings for a pair."
      )
    ids_a, *ids_b = [self.tokenizer.encode(part) for part in parts]
    return encoding.encode_pair(
      ids_a,
      ids_b[0] if ids_b else None,
      self.max_seq_length,
      self.tokenizer.cls_id,
      self.tokenizer.sep_id,
    )


def _pad(rows: Sequence[Sequence[int]]) -> tf.Tensor:
  """Returns rows as int32 [len(rows), longest row], padded with zeros."""
  longest = max(map(len, rows), default=0)
  padded = np.zeros([len(rows), longest], np.int32)
  for number, row in enumerate(rows):
    padded[number, : len(row)] = row
  return tf.constant(padded)


@dataclasses.dataclass(frozen=True)
class TextModel:
  """A model and what belongs to it. It is called with texts.

  Attributes:
    model: `modeling.BertModel`, or the model of a head. It is called with the
      arguments that `tokenizer` returns.
    tokenizer: Makes texts into batches.
    config: Shape of the encoder.
    classifier: Labels and settings of the head; None if it needs none.
  """

  model: tf.Module
  tokenizer: BatchTokenizer
  config: modeling.BertConfig
  classifier: classifier_config.ClassifierConfig | None

  @property
  def labels(self) -> tuple[str, ...]:
    """Labels in the order of the logits; empty if there are none."""
    return self.classifier.labels if self.classifier else ()

  def __call__(self, texts: str | Sequence[Text]) -> Any:
    """Returns the outputs of the model for a batch of texts.

    The first call traces a graph, which serves batches of all sizes.

    Args:
      texts: See `BatchTokenizer.__call__`.

    Raises:
      UserError: There is something else than texts.
    """
    return self._graph(**self.tokenizer(texts))

  @functools.cached_property
  def _graph(self) -> Any:
    def run(input_ids, input_mask, token_type_ids):
      return self.model(input_ids, input_mask, token_type_ids)

    ids = tf.TensorSpec([None, None], tf.int32)
    return tf.function(run, input_signature=[ids, ids, ids], autograph=False)


def load_model(
  folder: str, head: str | None = None, compute_dtype: tf.DType = tf.float32
) -> TextModel:
  """Returns the model in a folder.

  Args:
    folder: Path of the folder, such as `export` of a training, or name of a
      model that `download_model.py` downloaded.
    head: Name of the head, a key of `heads.HEADS`; None for that of
      `classifier.json`, or the encoder if there is no such file.
    compute_dtype: Type of the activations.

  Raises:
    UserError: A file is missing or damaged, the files do not belong together,
      or the weights have no such head.
  """
  files = model_folder.find_model(folder, _SOURCE)
  # One graph answers batches of all shapes.
  return load_files(files, head, compute_dtype, is_portable=True)


def load_files(
  files: model_folder.ModelFiles,
  head: str | None = None,
  compute_dtype: tf.DType = tf.float32,
  text_fields: Mapping[str, Any] | None = None,
  is_portable: bool = False,
) -> TextModel:
  """Returns the model in files; see `load_model` and `create_tokenizer`.

  Args:
    files: Files of the model.
    head: See `load_model`.
    compute_dtype: Type of the activations.
    text_fields: See `create_tokenizer`.
    is_portable: Whether the model does without XLA, which compiles again for
      each new shape of a batch.
  """
  config = modeling.BertConfig.from_json_file(files.bert_config_file)
  classifier = classifier_config.ClassifierConfig.read(
    os.path.dirname(files.init_checkpoint)
  )
  if head is None:
    head = classifier.head.name if classifier else heads.ENCODER
  if head not in heads.HEADS:
    raise UserError(
      f"head={head!r} is not the name of a head. Use one of: "
      f"{', '.join(heads.HEADS)}."
    )
  of_head = None  # for the encoder of a classifier, its labels mean nothing
  if heads.HEADS[head].is_classifier:
    if classifier is None or classifier.head.name != head:
      raise UserError(
        f"head={head!r}: {os.path.dirname(files.init_checkpoint)} has no "
        "classifier.json of such a head, which holds its labels. Pass the "
        "folder `export` of its training."
      )
    classifier.check_weights(files.init_checkpoint, _SOURCE)
    of_head = classifier
  names = checkpoint.open_checkpoint(files.init_checkpoint, _SOURCE).shapes
  model = heads.HEADS[head].create_model(
    config,
    of_head.num_outputs if of_head else None,
    compute_dtype=compute_dtype,
    add_pooler=heads.HEADS[head].adds_pooler(names),
    is_portable=is_portable,
  )
  variables = checkpoint.variables_by_name(model)
  checkpoint.restore_all(variables, files.init_checkpoint, _SOURCE)
  tokenizer = create_tokenizer(files.vocab_file, classifier, text_fields)
  max_seq_length = config.max_position_embeddings
  if classifier:
    max_seq_length = classifier.max_seq_length
  return TextModel(
    model, BatchTokenizer(tokenizer, max_seq_length), config, of_head
  )


def create_tokenizer(
  vocab_file: str,
  classifier: classifier_config.ClassifierConfig | None = None,
  text_fields: Mapping[str, Any] | None = None,
) -> tokenization.FullTokenizer:
  """Returns the tokenizer of a model.

  It is that of the classifier, or as the files next to the vocabulary say. If
  they do not say whether to lower-case, the capitals of the vocabulary do.

  Args:
    vocab_file: Path of the vocabulary.
    classifier: Config of the head, or None.
    text_fields: Fields of `TokenizerSettings` that take precedence, or None.
  """
  if classifier:
    fields = classifier.text_settings.to_fields()
  else:
    fields = tokenizer_settings.read_fields(os.path.dirname(vocab_file))
  fields = {**fields, **(text_fields or {})}
  settings = tokenizer_settings.TokenizerSettings.from_fields(fields)
  tokenizer = tokenization.FullTokenizer.from_settings(vocab_file, settings)
  if "do_lower_case" in fields:
    return tokenizer
  try:
    tokenization.validate_case_matches_vocab(True, tokenizer.vocab, vocab_file)
  except UserError:
    settings = dataclasses.replace(settings, do_lower_case=False)
    return tokenization.FullTokenizer.from_settings(vocab_file, settings)
  return tokenizer
