"""Exported models for Python: SavedModels with the signatures for texts."""

from __future__ import annotations

from collections.abc import Mapping
import os
from typing import Any

import tensorflow as tf

from errors import UserError
import heads
from serving import signatures

_SAVED_MODEL_FILE = "saved_model.pb"


class ExportedModel:
  """Signatures, with the methods of `signatures.ServedModel` that take texts.

  Attributes:
    functions: Name -> signature, a function in a graph.
    head: The head, which the inputs and outputs of the signatures tell.
  """

  def __init__(self, functions: Mapping[str, Any], owner: Any, source: str):
    """Finds the head.

    Args:
      functions: Name -> signature.
      owner: The object that holds the variables of the signatures.
      source: Where the signatures come from, for messages.

    Raises:
      UserError: No signature takes texts, or it is not one of ours.
    """
    self.functions = dict(functions)
    self.head = find_head(self.functions, source)
    self._owner = owner
    self._source = source

  def answer_texts(self, text: tf.Tensor) -> dict[str, tf.Tensor]:
    """Returns answers for texts, string [n]."""
    return self._call(signatures.TEXT, text=text)

  def answer_pairs(
    self, text_a: tf.Tensor, text_b: tf.Tensor | None
  ) -> dict[str, tf.Tensor]:
    """Returns answers for pairs of texts, string [n] each, or None for b."""
    if text_b is None:
      return self.answer_texts(text_a)
    return self._call(signatures.TEXT_PAIR, text_a=text_a, text_b=text_b)

  def answer_questions(
    self, question: tf.Tensor, context: tf.Tensor
  ) -> dict[str, tf.Tensor]:
    """Returns answers about contexts, string [n] each."""
    return self._call(signatures.TEXT, question=question, context=context)

  def answer_choices(
    self, context: tf.Tensor, choices: tf.Tensor
  ) -> dict[str, tf.Tensor]:
    """Returns answers for contexts, string [n], with choices, string [n, c]."""
    return self._call(signatures.TEXT, context=context, choices=choices)

  def _call(self, name: str, **inputs: tf.Tensor) -> dict[str, tf.Tensor]:
    if name not in self.functions:
      raise UserError(
        f"{self._source} has no signature {name}, but "
        f"{', '.join(sorted(self.functions))}."
      )
    return self.functions[name](**inputs)


def input_specs(function: Any) -> dict[str, tf.TensorSpec]:
  """Returns name -> type and shape of the inputs of a signature."""
  by_place, by_name = function.structured_input_signature
  return {**{spec.name: spec for spec in by_place}, **by_name}


def find_head(functions: Mapping[str, Any], source: str) -> heads.Head:
  """Returns the head whose signatures these are.

  Args:
    functions: Name -> signature.
    source: Where they come from, for messages.

  Raises:
    UserError: No signature takes texts, or it is not one of ours.
  """
  if signatures.TEXT not in functions:
    raise UserError(
      f"{source} has no signature {signatures.TEXT}, which takes texts, but "
      f"{', '.join(sorted(functions)) or 'none'}. Export the model with "
      "export_saved_model.py."
    )
  function = functions[signatures.TEXT]
  inputs = set(input_specs(function))
  outputs = set(function.structured_outputs)
  for name, needed_inputs, needed_outputs in _HEADS:
    if inputs == needed_inputs and needed_outputs <= outputs:
      return heads.HEADS[name]
  raise UserError(
    f"{source}: the signature {signatures.TEXT} returns "
    f"{', '.join(sorted(outputs))}, which no head of this project does. Export "
    "the model with export_saved_model.py."
  )


# Head, inputs of its signature for texts, and outputs that tell it from those
# further down.
_HEADS: tuple[tuple[str, set[str], set[str]], ...] = (
  (heads.SPAN, {"question", "context"}, {"answer", "start", "end"}),
  (heads.MULTIPLE_CHOICE, {"context", "choices"}, {"choice", "probabilities"}),
  (heads.TAGGING, {"text"}, {"words", "tags", "starts", "ends"}),
  (heads.REGRESSION, {"text"}, {"value"}),
  (heads.SINGLE_LABEL, {"text"}, {"label", "labels", "probabilities"}),
  (heads.MULTI_LABEL, {"text"}, {"labels", "probabilities"}),
  (heads.ENCODER, {"text"}, {"sequence_output", "input_mask"}),
)


def is_exported(folder: str) -> bool:
  """Returns whether a folder is a SavedModel."""
  return tf.io.gfile.exists(os.path.join(folder, _SAVED_MODEL_FILE))


def load(folder: str, flag: str = "--model") -> ExportedModel:
  """Returns the SavedModel in a folder.

  Args:
    folder: Path of the folder, the one of a version.
    flag: Flag that it comes from, for error messages.

  Raises:
    UserError: It is damaged, or its signatures are not ours.
  """
  source = f"{flag}={folder}"
  try:
    loaded = tf.saved_model.load(folder)
  except (OSError, ValueError, tf.errors.OpError, RuntimeError) as error:
    reason = str(error).strip().splitlines() or [type(error).__name__]
    raise UserError(
      f"{source} is no SavedModel that TensorFlow can load: "
      f"{reason[0][:200]}. Export it again with export_saved_model.py."
    ) from error
  return ExportedModel(loaded.signatures, loaded, source)
