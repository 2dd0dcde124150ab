"""Weights and configs in the format of PyTorch transformers.

Their names follow from the released ones by rules, except for the layers of
heads. The names of those are an argument, `head_names`: released name -> name
in PyTorch transformers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import os
import re
import reprlib
from typing import Any

import numpy as np

from data import file_io
from data import pytorch_checkpoint
from data import safetensors_checkpoint
from errors import UserError

# The names of weights in a folder. If there are several, the first is read.
WEIGHTS_NAMES = ("model.safetensors", "pytorch_model.bin")
# Prefix of the released names of the encoder.
ENCODER_PREFIX = "bert/"

# Their names, with slashes in place of dots, to released names.
_RENAMES_IN = (
  (r"^(embeddings|encoder|pooler)/", r"bert/\1/"),
  (r"/layer/(\d+)/", r"/layer_\1/"),
  (r"_embeddings/weight$", "_embeddings"),
  (r"LayerNorm/weight$", "LayerNorm/gamma"),
  (r"LayerNorm/bias$", "LayerNorm/beta"),
  (r"/weight$", "/kernel"),
)
# Released names to theirs, with slashes in place of dots.
_RENAMES_OUT = (
  (r"/layer_(\d+)/", r"/layer/\1/"),
  (r"_embeddings$", "_embeddings/weight"),
  (r"/(gamma|kernel)$", "/weight"),
  (r"/beta$", "/bias"),
)
# Copies of other tensors, and constants.
_REDUNDANT = re.compile(
  r"^cls\.predictions\.decoder\.|\.?embeddings\.(position|token_type)_ids$"
)
# The layer that predicts masked words: its weight is that of the embeddings.
_DECODER_COPIES = {
  "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
  "cls.predictions.decoder.bias": "cls.predictions.bias",
}
_LONGEST_SHOWN = 80

# Their names of activations to ours. Their `gelu` is the exact form; that of
# the released checkpoints is the approximation.
_ACTIVATIONS_IN = {
  "gelu": "gelu_erf",
  "gelu_new": "gelu",
  "gelu_pytorch_tanh": "gelu",
}
_ACTIVATIONS_OUT = {"gelu_erf": "gelu", "gelu": "gelu_new"}
# Fields of a config with which a model is not BERT if they have another value.
_FIXED_FIELDS = {
  "model_type": "bert",
  "position_embedding_type": "absolute",
  "layer_norm_eps": 1e-12,
}


def find_weights(folder: str) -> str | None:
  """Returns the path of the weights in a folder of transformers, or None."""
  for name in WEIGHTS_NAMES:
    path = os.path.join(folder, name)
    if os.path.exists(path):
      return path
  return None


def is_transformers_file(path: str) -> bool:
  """Returns whether a path names weights of PyTorch transformers."""
  return path.endswith((".safetensors", ".bin"))


# --- Weights -----------------------------------------------------------------


class TransformersReader:
  """Weights of PyTorch transformers, under their released names.

  Attributes:
    shapes: Released name -> shape.
  """

  def __init__(self, path: str, head_names: Mapping[str, str]):
    """Opens a file.

    Args:
      path: Path of a safetensors file, or of a `.bin` file of PyTorch.
      head_names: See the module.

    Raises:
      UserError: The file cannot be read, or two of its names stand for the same
        variable.
    """
    file = _open_file(path)
    self._get_their_tensor = file.get_tensor
    self._their_names: dict[str, str] = {}
    self.shapes: dict[str, tuple[int, ...]] = {}
    released_names = {theirs: name for name, theirs in head_names.items()}
    for theirs, shape in file.shapes.items():
      if _REDUNDANT.search(theirs):
        continue
      name = released_names.get(theirs)
      if name is None:
        name = _rename(theirs.replace(".", "/"), _RENAMES_IN)
      if name in self._their_names:
        other = self._their_names[name][:_LONGEST_SHOWN]
        raise UserError(
          f"{path} holds two tensors for one variable: {other!r} and "
          f"{theirs[:_LONGEST_SHOWN]!r}. Delete one."
        )
      self._their_names[name] = theirs
      self.shapes[name] = tuple(shape[::-1] if _is_kernel(name) else shape)

  def get_tensor(self, name: str) -> np.ndarray:
    """Returns the tensor of a released name."""
    tensor = self._get_their_tensor(self._their_names[name])
    return tensor.T if _is_kernel(name) else tensor


class _PyTorchFile:
  """A `.bin` file of PyTorch, with the methods of a safetensors file."""

  def __init__(self, path: str):
    self._tensors = pytorch_checkpoint.read_tensors(path)
    self.shapes = {name: tensor.shape for name, tensor in self._tensors.items()}

  def get_tensor(self, name: str) -> np.ndarray:
    return self._tensors[name]


def _open_file(
  path: str,
) -> _PyTorchFile | safetensors_checkpoint.SafetensorsFile:
  if path.endswith(".bin"):
    return _PyTorchFile(path)
  return safetensors_checkpoint.SafetensorsFile(path)


def write_weights(
  path: str, tensors: Mapping[str, np.ndarray], head_names: Mapping[str, str]
) -> None:
  """Writes a safetensors file that PyTorch transformers loads.

  A model without heads gets the names of a bare encoder, `embeddings...`, any
  other the prefix `bert.`.

  Args:
    path: Path of the file, on this machine.
    tensors: Released name -> array.
    head_names: See the module.
  """
  # pylint: disable-next=g-import-not-at-top
  from safetensors import numpy as safetensors

  is_bare = all(name.startswith(ENCODER_PREFIX) for name in tensors)
  prefix = ENCODER_PREFIX if is_bare else ""
  renamed = {}
  for name, tensor in tensors.items():
    theirs = head_names.get(name)
    if theirs is None:
      theirs = _rename(name.removeprefix(prefix), _RENAMES_OUT)
      theirs = theirs.replace("/", ".")
    their_tensor = tensor.T if _is_kernel(name) else tensor
    renamed[theirs] = np.ascontiguousarray(their_tensor)
  if "cls.predictions.bias" in renamed:
    for copy, original in _DECODER_COPIES.items():
      renamed[copy] = renamed[original].copy()
  # Their loader requires this.
  safetensors.save_file(renamed, path, metadata={"format": "pt"})


def _is_kernel(name: str) -> bool:
  """Returns whether a variable is the matrix of a dense layer.

  Those of PyTorch are transposed.
  """
  return name.endswith("/kernel")


def _rename(name: str, rules: Iterable[tuple[str, str]]) -> str:
  for pattern, replacement in rules:
    name = re.sub(pattern, replacement, name)
  return name


# --- Configs -----------------------------------------------------------------


def to_their_config(config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the fields of a `bert_config.json` as transformers names them."""
  activation = config["hidden_act"]
  return {
    **config,
    "model_type": "bert",
    "layer_norm_eps": 1e-12,
    "hidden_act": _ACTIVATIONS_OUT.get(activation, activation),
  }


def read_their_config(json_file: str) -> dict[str, Any]:
  """Returns a `config.json` of PyTorch transformers as fields of `BertConfig`.

  Missing fields get their defaults where they differ from ours.

  Raises:
    UserError: The file is not the config of a BERT model.
  """
  config = file_io.read_json(json_file)
  for field, needed in _FIXED_FIELDS.items():
    value = config.get(field, needed)
    if value != needed:
      raise UserError(
        f"{json_file}: {field}={reprlib.repr(value)} is not that of BERT, "
        f"which is {needed!r}."
      )
  activation = config.get("hidden_act", "gelu")
  if isinstance(activation, str):
    activation = _ACTIVATIONS_IN.get(activation, activation)
  config["hidden_act"] = activation
  config.setdefault("type_vocab_size", 2)
  return config
