"""Object-based checkpoints of BERT from the TensorFlow Model Garden.

TensorFlow 2 names a variable by the path of attributes that leads to it. There
are two kinds of encoders, of which each is saved at any place of a model:

    encoder/layer_with_weights-4/_attention_layer/_query_dense/kernel
    encoder_network/_transformer_layers/0/_attention_layer/_query_dense/kernel

The first kind numbers its layers from the word embeddings to the pooler. Their
attention has a dimension for the heads, which the released variables lack.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import re
from typing import Protocol

import numpy as np

# Every object-based checkpoint has a tensor of this name.
OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_VALUE_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
_QUERY = "/_attention_layer/_query_dense/kernel"
_NUMBERED = re.compile(rf"(.*?)layer_with_weights-(\d+){_QUERY}")
_NAMED = re.compile(rf"(.*?)_transformer_layers/(\d+){_QUERY}")
# Number of the first Transformer layer, if layers are numbered. Models with a
# factorized embedding have another one; they are not BERT.
_FIRST_LAYER = 4

_EMBEDDINGS = "bert/embeddings"
_NUMBERED_EMBEDDINGS = {
  "layer_with_weights-0/embeddings": f"{_EMBEDDINGS}/word_embeddings",
  "layer_with_weights-1/embeddings": f"{_EMBEDDINGS}/position_embeddings",
  "layer_with_weights-2/embeddings": f"{_EMBEDDINGS}/token_type_embeddings",
  "layer_with_weights-3": f"{_EMBEDDINGS}/LayerNorm",
}
_NAMED_EMBEDDINGS = {
  "_embedding_layer/embeddings": f"{_EMBEDDINGS}/word_embeddings",
  "_position_embedding_layer/embeddings": f"{_EMBEDDINGS}/position_embeddings",
  "_type_embedding_layer/embeddings": f"{_EMBEDDINGS}/token_type_embeddings",
  "_embedding_norm_layer": f"{_EMBEDDINGS}/LayerNorm",
}
_NAMED_POOLER = "_pooler_layer"
_POOLER = "bert/pooler/dense"
# Parts of a Transformer layer.
_LAYER = {
  "_attention_layer/_query_dense": "attention/self/query",
  "_attention_layer/_key_dense": "attention/self/key",
  "_attention_layer/_value_dense": "attention/self/value",
  "_attention_layer/_output_dense": "attention/output/dense",
  "_attention_layer_norm": "attention/output/LayerNorm",
  "_intermediate_dense": "intermediate/dense",
  "_output_dense": "output/dense",
  "_output_layer_norm": "output/LayerNorm",
}
# Heads of pre-training, at the end of a path. The table of embeddings has this
# name if it is found here first. The pooler of the next sentences is trained;
# that of the encoder may not be.
_HEADS = (
  (r"masked_lm/embedding_table", f"{_EMBEDDINGS}/word_embeddings"),
  (r"masked_lm/dense/(kernel|bias)", r"cls/predictions/transform/dense/\1"),
  (
    r"masked_lm/layer_norm/(gamma|beta)",
    r"cls/predictions/transform/LayerNorm/\1",
  ),
  (r"masked_lm/output_bias(?:\.Sbias)?", "cls/predictions/output_bias"),
  (r"next_sentence\.\.pooler_dense/(kernel|bias)", rf"{_POOLER}/\1"),
  (r"classification_heads/0/dense/(kernel|bias)", rf"{_POOLER}/\1"),
  (
    r"classification_heads/0/out_proj/kernel",
    "cls/seq_relationship/output_weights",
  ),
  (r"classification_heads/0/out_proj/bias", "cls/seq_relationship/output_bias"),
)


class _NamedTensors(Protocol):
  """A reader of the tensors of a checkpoint."""

  shapes: dict[str, tuple[int, ...]]

  def get_tensor(self, name: str) -> np.ndarray: ...


class ModelGardenReader:
  """Weights of a model of the Model Garden, under their released names.

  Attributes:
    shapes: Released name -> shape. Empty if there is no encoder of BERT.
  """

  def __init__(self, reader: _NamedTensors):
    """Finds the encoder and the heads.

    Args:
      reader: Reader of an object-based checkpoint, by its own names.
    """
    self._reader = reader
    self._keys = _find_keys(reader.shapes)
    self.shapes: dict[str, tuple[int, ...]] = {}
    for name, key in self._keys.items():
      self.shapes[name] = _released_shape(name, reader.shapes[key])

  def get_tensor(self, name: str) -> np.ndarray:
    """Returns the tensor of a released name."""
    tensor = self._reader.get_tensor(self._keys[name])
    if _is_transposed(name):
      tensor = tensor.T
    return tensor.reshape(self.shapes[name])


def _is_transposed(name: str) -> bool:
  return name.endswith("/output_weights")


def _released_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
  """Returns the shape without a dimension for the heads of attention."""
  if _is_transposed(name):
    return shape[::-1]
  size = int(np.prod(shape))
  if "/attention/" in name and name.endswith("/bias"):
    return (size,)
  if "/attention/" in name and name.endswith("/kernel"):
    return (
      (size // shape[-1], shape[-1])
      if "/output/" in name
      else (
        shape[0],
        size // shape[0],
      )
    )
  return shape


def _find_keys(names: Iterable[str]) -> dict[str, str]:
  """Returns released name -> key of the checkpoint; empty for other models."""
  keys = {
    key.removesuffix(_VALUE_SUFFIX): key
    for key in names
    if key.endswith(_VALUE_SUFFIX) and ".OPTIMIZER_SLOT" not in key
  }
  parts = _find_encoder(keys)
  found: dict[str, str] = {}
  for path, key in keys.items():
    part, _, last = path.rpartition("/")
    if path in parts:
      found[parts[path]] = key
    elif part in parts:
      found[f"{parts[part]}/{last}"] = key
  if not found:
    return {}
  for pattern, name in _HEADS:
    for path, key in keys.items():
      match = re.search(rf"(?:^|/){pattern}$", path)
      if match:
        found[match.expand(name)] = key
  return found


def _find_encoder(paths: Mapping[str, str]) -> dict[str, str]:
  """Returns path of a layer or table -> its released name."""
  for pattern, embeddings, layer_name, first in (
    (_NAMED, _NAMED_EMBEDDINGS, "_transformer_layers/", 0),
    (_NUMBERED, _NUMBERED_EMBEDDINGS, "layer_with_weights-", _FIRST_LAYER),
  ):
    matches = list(filter(None, map(pattern.fullmatch, paths)))
    if not matches:
      continue
    prefix = matches[0][1]
    numbers = sorted(int(match[2]) for match in matches)
    if numbers != list(range(first, first + len(numbers))):
      return {}
    parts = {prefix + path: name for path, name in embeddings.items()}
    for number in numbers:
      for path, name in _LAYER.items():
        place = f"bert/encoder/layer_{number - first}/{name}"
        parts[f"{prefix}{layer_name}{number}/{path}"] = place
    pooler = _NAMED_POOLER if first == 0 else f"{layer_name}{numbers[-1] + 1}"
    parts[prefix + pooler] = _POOLER
    return parts
  return {}
