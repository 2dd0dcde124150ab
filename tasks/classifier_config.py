"""The contents of `classifier.json`: labels, and settings for reading text.

The file lies next to the weights of a classifier, a tagger or a model that
chooses. With the config and the vocabulary it suffices to use the model.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import os

import tensorflow as tf

import checkpoint
from data import encoding
from data import file_io
from data import tokenizer_settings
from errors import UserError
import heads
from tasks import problem_types
from tasks import text_files

FILE = "classifier.json"

_PROBLEM_TYPES = (
  *problem_types.PROBLEM_TYPES,
  heads.TAGGING,
  heads.MULTIPLE_CHOICE,
)
_WITHOUT_LABELS = (heads.REGRESSION, heads.MULTIPLE_CHOICE)
_LONG_TEXT = (encoding.TRUNCATE, encoding.HEAD_TAIL, encoding.SLIDING_WINDOW)
# A file also has the settings of the tokenizer that are not those of BERT.
_REQUIRED_FIELDS = (
  "problem_type",
  "labels",
  "do_lower_case",
  "max_seq_length",
  "long_text",
)
# Special tokens need 3; windows of a text need some more.
_SHORTEST_SEQUENCE, _SHORTEST_WINDOW = 3, 8


@dataclasses.dataclass(frozen=True)
class ClassifierConfig:
  """Labels of a classifier, and its settings for reading text.

  Attributes:
    problem_type: Name of the head: a key of `problem_types.PROBLEM_TYPES`,
      `heads.TAGGING` or `heads.MULTIPLE_CHOICE`.
    labels: Labels in the order of their ids; empty for regression and choices.
    text_settings: Settings of the tokenizer.
    max_seq_length: Length of the longest sequence, in tokens.
    long_text: How longer texts are handled; see `encoding.encode_long_pair`.
  """

  problem_type: str
  labels: tuple[str, ...]
  text_settings: tokenizer_settings.TokenizerSettings
  max_seq_length: int
  long_text: str

  @property
  def num_outputs(self) -> int:
    """The number of logits."""
    return len(self.labels) or 1

  @property
  def head(self) -> heads.Head:
    """The head that the classifier has."""
    return heads.HEADS[self.problem_type]

  @property
  def problem(self) -> problem_types.ProblemType:
    """The rules for targets and logits of a classifier of whole texts."""
    return problem_types.PROBLEM_TYPES[self.problem_type](self.num_outputs)

  def write(self, folder: str) -> None:
    """Writes `classifier.json`."""
    file_io.write_json(os.path.join(folder, FILE), self.to_fields())

  def to_fields(self) -> dict[str, object]:
    """Returns the fields of `classifier.json`."""
    return {
      "problem_type": self.problem_type,
      "labels": self.labels,
      **self.text_settings.to_fields(),
      "max_seq_length": self.max_seq_length,
      "long_text": self.long_text,
    }

  @classmethod
  def read(cls, folder: str) -> ClassifierConfig | None:
    """Returns the config in a folder, or None if there is none.

    Raises:
      UserError: the file is damaged, or a field has an impossible value.
    """
    path = os.path.join(folder, FILE)
    if not tf.io.gfile.exists(path):
      return None
    fields = file_io.read_json(path)
    optional = set(tokenizer_settings.field_names()) - set(_REQUIRED_FIELDS)
    if set(fields) - optional != set(_REQUIRED_FIELDS):
      raise UserError(
        f"{path} has {text_files.format_names(fields) or 'no fields'}, "
        f"but needs {', '.join(_REQUIRED_FIELDS)}, and no others."
      )
    _check_fields(fields, path)
    text_fields = tokenizer_settings.pick_fields(fields, path)
    return cls(
      fields["problem_type"],
      tuple(fields["labels"]),
      tokenizer_settings.TokenizerSettings.from_fields(text_fields),
      fields["max_seq_length"],
      fields["long_text"],
    )

  def check_weights(self, path: str, flag: str) -> None:
    """Raises a UserError unless a checkpoint has the head of this classifier.

    Args:
      path: Path of the weights; see `checkpoint.open_checkpoint`.
      flag: The flag that the path comes from, for messages.
    """
    shapes = checkpoint.open_checkpoint(path, flag).shapes
    if "output_bias" not in shapes or "output_weights" not in shapes:
      raise UserError(
        f"{flag}={path} has no classifier, only weights from which one can be "
        "trained. Pass --do_train."
      )
    for name, rank in (("output_bias", 1), ("output_weights", 2)):
      num_outputs, *rest = shapes[name] or (0,)
      if num_outputs != self.num_outputs or len(rest) != rank - 1:
        labels = text_files.format_names(self.labels) or "a number"
        raise UserError(
          f"{flag}={path} is a classifier of {num_outputs} labels, but there "
          f"are {self.num_outputs}: {labels}. Put the {FILE} that it was "
          "trained with into the same folder, or train again in another "
          "--output_dir."
        )
    if self.head.needs_pooler and not heads.has_pooler(shapes):
      raise UserError(
        f"{flag}={path} has no bert/pooler/dense, which a classifier reads. "
        "Its head belongs to another model. Pass --do_train."
      )

  def check_start(
    self, newest: str | None, init_checkpoint: str | None, is_training: bool
  ) -> None:
    """Raises a UserError if the weights to start from do not fit.

    Args:
      newest: The newest checkpoint of the run, which takes precedence, or None.
      init_checkpoint: The initial checkpoint, or None.
      is_training: Whether a new head may be trained.
    """
    if newest:
      self.check_weights(newest, "--output_dir")
    elif init_checkpoint and not is_training:
      self.check_weights(init_checkpoint, "--init_checkpoint")
    elif init_checkpoint:
      checkpoint.open_checkpoint(init_checkpoint)


def _check_fields(fields: Mapping[str, object], path: str) -> None:
  """Raises a UserError if a field of a `classifier.json` is impossible."""
  labels, length = fields["labels"], fields["max_seq_length"]
  needs_labels = fields["problem_type"] not in _WITHOUT_LABELS
  has_windows = fields["long_text"] == encoding.SLIDING_WINDOW
  shortest = _SHORTEST_WINDOW if has_windows else _SHORTEST_SEQUENCE
  are_different_texts = (
    isinstance(labels, list)
    and all(isinstance(label, str) for label in labels)
    and len(set(labels)) == len(labels)
  )
  is_length = (
    isinstance(length, int)
    and not isinstance(length, bool)
    and length >= shortest
  )
  # Field -> whether it is right, and the values that it may have.
  checks = {
    "problem_type": (
      fields["problem_type"] in _PROBLEM_TYPES,
      f"one of {', '.join(_PROBLEM_TYPES)}",
    ),
    "labels": (
      are_different_texts and bool(labels) == needs_labels,
      "a list of different texts" if needs_labels else "an empty list",
    ),
    "do_lower_case": (
      isinstance(fields["do_lower_case"], bool),
      "true or false",
    ),
    "long_text": (
      fields["long_text"] in _LONG_TEXT,
      f"one of {', '.join(_LONG_TEXT)}",
    ),
    "max_seq_length": (
      is_length,
      f"a whole number of at least {shortest}",
    ),
  }
  for name, (is_right, allowed) in checks.items():
    if not is_right:
      value = text_files.format_value(fields[name])
      raise UserError(f"{path}: {name} is {value}, not {allowed}.")
