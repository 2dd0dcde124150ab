"""The `config.json` of transformers, and what it says in our own terms.

It describes the shape of the model, like our `bert_config.json`, and its head:
the class of the model, the names of its labels, and the kind of its answers.
"""

from __future__ import annotations

from collections.abc import Mapping
import os
import reprlib
from typing import Any, NamedTuple

from data import file_io
from errors import UserError

FILE_NAME = "config.json"

# Their names of activations to ours. Their `gelu` is the exact form; that of
# the released checkpoints is the approximation.
_ACTIVATIONS_IN = {
  "gelu": "gelu_erf",
  "gelu_python": "gelu_erf",
  "gelu_new": "gelu",
  "gelu_fast": "gelu",
  "gelu_pytorch_tanh": "gelu",
}
_ACTIVATIONS_OUT = {"gelu_erf": "gelu", "gelu": "gelu_new"}
# Fields with which a model is not BERT if they have another value, and the
# value that they have if they are missing.
_FIXED_FIELDS = {
  "model_type": "bert",
  "position_embedding_type": "absolute",
  "is_decoder": False,
  "add_cross_attention": False,
  "tie_word_embeddings": True,
  "pruned_heads": {},
}
# Fields that only their configs have.
_THEIR_FIELDS = {
  "architectures",
  "id2label",
  "model_type",
  "transformers_version",
}
# The type of the weights, which are float32 here.
_DTYPE_FIELDS = {"dtype", "torch_dtype"}
_DEFAULTS = {"hidden_act": "gelu", "type_vocab_size": 2}


class HeadFields(NamedTuple):
  """The fields of a config about the head of its model.

  Attributes:
    transformers_class: Name of the class, or None.
    problem_type: Kind of answers of a classifier of texts, or None.
    labels: Labels in the order of their ids; empty if none are named.
  """

  transformers_class: str | None
  problem_type: str | None
  labels: tuple[str, ...]


def is_their_config(fields: Mapping[str, Any], json_file: str) -> bool:
  """Returns whether the contents of a file are a config of transformers.

  Args:
    fields: The contents.
    json_file: Path of the file. Ours is never called `config.json`.
  """
  has_their_name = os.path.basename(json_file) == FILE_NAME
  return has_their_name or not _THEIR_FIELDS.isdisjoint(fields)


def translate_config(
  fields: Mapping[str, Any], json_file: str
) -> dict[str, Any]:
  """Returns the contents of a `config.json` as fields of `BertConfig`.

  Missing fields get their defaults where those differ from ours. All others
  are kept.

  Args:
    fields: The contents.
    json_file: Path of the file, for messages.

  Raises:
    UserError: The model is not BERT.
  """
  for field, needed in _FIXED_FIELDS.items():
    value = fields.get(field, needed)
    if value != needed:
      raise UserError(
        f"{json_file}: {field}={reprlib.repr(value)} is not that of BERT, "
        f"which is {needed!r}."
      )
  config = {**_DEFAULTS, **fields}
  activation = config["hidden_act"]
  if isinstance(activation, str):
    config["hidden_act"] = _ACTIVATIONS_IN.get(activation, activation)
  return config


def read_config(json_file: str) -> dict[str, Any]:
  """Returns the fields of `BertConfig` in a file, ours or of transformers.

  Raises:
    UserError: The file cannot be read, or its model is not BERT.
  """
  fields = file_io.read_json(json_file)
  if is_their_config(fields, json_file):
    return translate_config(fields, json_file)
  return fields


def to_their_config(
  config: Mapping[str, Any], original: Mapping[str, Any] | None = None
) -> dict[str, Any]:
  """Returns the fields of a `bert_config.json` as transformers names them.

  Args:
    config: All fields of a `BertConfig`.
    original: The config of transformers that the model came with, if any. Its
      fields are kept unless they say something else than `config`.
  """
  original = original or {}
  known = translate_config(original, FILE_NAME)
  fields: dict[str, Any] = {"model_type": "bert", **original}
  for name, value in config.items():
    if name in original and known[name] == value:
      continue
    if name == "hidden_act":
      value = _ACTIVATIONS_OUT.get(value, value)
    fields[name] = value
  for name in _DTYPE_FIELDS & set(fields):
    fields[name] = "float32"
  return fields


def read_head_fields(fields: Mapping[str, Any], json_file: str) -> HeadFields:
  """Returns the fields of a config of transformers about the head.

  Args:
    fields: Contents of the config.
    json_file: Path of the file, for messages.

  Raises:
    UserError: The labels are not those of the ids 0, 1, ..., or are not
      different.
  """
  architectures = fields.get("architectures")
  names = architectures if isinstance(architectures, list) else []
  # Older versions wrote the names of their TensorFlow classes here.
  transformers_class = str(names[0]).removeprefix("TF") if names else None
  labels_by_id = fields.get("id2label") or {}
  if not isinstance(labels_by_id, dict):
    raise UserError(f"{json_file}: id2label is no object of ids and labels.")
  ids = [str(number) for number in range(len(labels_by_id))]
  if set(labels_by_id) != set(ids):
    shown = ", ".join(sorted(labels_by_id)[:4])
    raise UserError(
      f"{json_file}: id2label has the ids {shown}, not those from 0 to "
      f"{len(ids) - 1}."
    )
  labels = tuple(str(labels_by_id[number]) for number in ids)
  for number, label in enumerate(labels):
    if label in labels[:number]:
      raise UserError(
        f"{json_file}: id2label gives the label {label[:80]!r} to the ids "
        f"{labels.index(label)} and {number}. Give each its own label."
      )
  problem_type = fields.get("problem_type")
  return HeadFields(
    transformers_class,
    problem_type if isinstance(problem_type, str) else None,
    labels,
  )


def to_head_fields(head: HeadFields) -> dict[str, Any]:
  """Returns the fields of a config of transformers that describe a head."""
  fields: dict[str, Any] = {"architectures": [head.transformers_class]}
  if head.labels:
    fields["id2label"] = {str(i): name for i, name in enumerate(head.labels)}
    fields["label2id"] = {name: i for i, name in enumerate(head.labels)}
  if head.problem_type:
    fields["problem_type"] = head.problem_type
  return fields
