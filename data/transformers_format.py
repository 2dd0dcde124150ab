"""Weights in the formats of transformers, under their released names.

Their names follow from the released ones by rules, except for the layers of
heads. The names of those are an argument, `head_names`: released name -> name
in PyTorch transformers. What stands before the names of the encoder differs
between the programs that save models, and is found.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import os
import re
from typing import TypeAlias

import numpy as np

from data import file_io
from data import keras_checkpoint
from data import pytorch_checkpoint
from data import safetensors_checkpoint
from errors import UserError

# The names of weights in a folder. If there are several, the first is read.
_INDEX_SUFFIX = ".index.json"
WEIGHTS_NAMES = (
  "model.safetensors",
  "model.safetensors" + _INDEX_SUFFIX,
  "pytorch_model.bin",
  "pytorch_model.bin" + _INDEX_SUFFIX,
  "tf_model.h5",
)
_SUFFIXES = (
  ".safetensors",
  ".safetensors" + _INDEX_SUFFIX,
  ".bin",
  ".bin" + _INDEX_SUFFIX,
  ".h5",
)
# Prefix of the released names of the encoder.
ENCODER_PREFIX = "bert/"

# A name that every encoder has, after a prefix that differs.
_WORD_EMBEDDINGS = "embeddings.word_embeddings.weight"
_THEIR_ENCODER = "bert."
_ENCODER_PARTS = ("embeddings.", "encoder.", "pooler.")
# Models that are not BERT, although the names of their layers are the same.
_OTHER_MODELS = {"electra", "ernie", "layoutlm", "roberta", "xmod"}
# Their names, with slashes in place of dots, to released names.
_RENAMES_IN = (
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
_CONSTANTS = re.compile(r"(^|\.)embeddings\.(position|token_type)_ids$")
# The layer that predicts masked words: its weight is that of the embeddings.
# A file may hold the copy, the original, or both.
_DECODER_WEIGHT = "cls.predictions.decoder.weight"
_DECODER_COPIES = {
  _DECODER_WEIGHT: "bert.embeddings.word_embeddings.weight",
  "cls.predictions.decoder.bias": "cls.predictions.bias",
}
_WORD_EMBEDDINGS_RELEASED = "bert/embeddings/word_embeddings"
_LONGEST_SHOWN = 80


def find_weights(folder: str) -> str | None:
  """Returns the path of the weights in a folder of transformers, or None."""
  for name in WEIGHTS_NAMES:
    path = os.path.join(folder, name)
    if os.path.exists(path):
      return path
  return None


def is_transformers_file(path: str) -> bool:
  """Returns whether a path names weights of transformers."""
  return path.endswith(_SUFFIXES)


def list_files(path: str) -> list[str]:
  """Returns the files that hold the weights of a path.

  Args:
    path: Path for which `is_transformers_file` is true.

  Raises:
    UserError: An index of several files is damaged.
  """
  if not path.endswith(_INDEX_SUFFIX):
    return [path]
  folder = os.path.dirname(path)
  names = sorted(set(_read_weight_map(path).values()))
  return [os.path.join(folder, name) for name in names]


# --- Weights -----------------------------------------------------------------


class TransformersReader:
  """Weights of transformers, under their released names.

  Attributes:
    shapes: Released name -> shape.
  """

  def __init__(self, path: str, head_names: Mapping[str, str]):
    """Opens a file.

    Args:
      path: Path of a safetensors file, of a `.bin` file of PyTorch, of the
        index of several of these, or of an `.h5` file of Keras.
      head_names: See the module.

    Raises:
      UserError: The file cannot be read, holds another model, or two of its
        names stand for the same variable.
    """
    self._path = path
    self._file = _open_file(path)
    self._released_names = {theirs: name for name, theirs in head_names.items()}
    self._their_names: dict[str, str] = {}  # by released name
    self.shapes: dict[str, tuple[int, ...]] = {}
    # Without what stands before them -> names in the file.
    plain_names = _remove_prefix(self._file.shapes, path)
    self._decoder = plain_names.get(_DECODER_WEIGHT)
    for plain, theirs in plain_names.items():
      original = _DECODER_COPIES.get(plain)
      if original in plain_names or _CONSTANTS.search(plain):
        continue
      self._add(self._released_name(original or plain), theirs)

  def _released_name(self, plain: str) -> str:
    name = self._released_names.get(plain)
    return name or _rename(plain.replace(".", "/"), _RENAMES_IN)

  def _add(self, name: str, theirs: str) -> None:
    """Adds a tensor; raises a UserError if its variable has one already."""
    if name in self._their_names:
      other = self._their_names[name][:_LONGEST_SHOWN]
      raise UserError(
        f"{self._path} holds two tensors for one variable: {other!r} and "
        f"{theirs[:_LONGEST_SHOWN]!r}. Delete one."
      )
    self._their_names[name] = theirs
    shape = self._file.shapes[theirs]
    self.shapes[name] = tuple(shape[::-1] if _is_kernel(name) else shape)

  def get_tensor(self, name: str) -> np.ndarray:
    """Returns the tensor of a released name; every float type as float32.

    Raises:
      UserError: The file cannot be read any more, or the tensor is part of a
        layer that BERT does not have.
    """
    tensor = self._get_their_tensor(self._their_names[name])
    if name == self._released_name("cls.predictions.bias"):
      self._check_decoder()
    return tensor.T if _is_kernel(name) else tensor

  def _get_their_tensor(self, theirs: str) -> np.ndarray:
    tensor = self._file.get_tensor(theirs)
    is_float = np.issubdtype(tensor.dtype, np.floating)
    return tensor.astype(np.float32, copy=False) if is_float else tensor

  def _check_decoder(self) -> None:
    """Raises a UserError if masked words have output weights of their own."""
    embeddings = self._their_names.get(_WORD_EMBEDDINGS_RELEASED)
    if self._decoder in (None, embeddings) or embeddings is None:
      return
    if not np.array_equal(
      self._get_their_tensor(self._decoder), self._get_their_tensor(embeddings)
    ):
      raise UserError(
        f"{self._path}: {self._decoder} differs from {embeddings}. The masked "
        "LM of BERT has the word embeddings as its output weights "
        "(tie_word_embeddings), so this one cannot be used."
      )


def _remove_prefix(names: Iterable[str], path: str) -> dict[str, str]:
  """Returns their names, those of the encoder beginning with `bert.`.

  Args:
    names: Names of a file, such as `bert.pooler.dense.bias`,
      `module.bert.pooler.dense.bias` or `pooler.dense.bias`.
    path: Path of the file, for messages.

  Returns:
    Name as a model with heads has it -> name in the file.

  Raises:
    UserError: The file holds several encoders, or one of another model.
  """
  names = list(names)
  prefixes = set()
  for name in names:
    if name == _WORD_EMBEDDINGS or name.endswith("." + _WORD_EMBEDDINGS):
      prefixes.add(name.removesuffix(_WORD_EMBEDDINGS))
  if len(prefixes) > 1:
    shown = ", ".join(repr(prefix) for prefix in sorted(prefixes)[:4])
    raise UserError(
      f"{path} holds {len(prefixes)} encoders, with names that begin with "
      f"{shown}. Save one of them in a file of its own."
    )
  prefix = prefixes.pop() if prefixes else ""
  model = prefix.rstrip(".").rpartition(".")[2]
  if model in _OTHER_MODELS:
    raise UserError(f"{path} holds a model of the type {model}, not bert.")
  # The prefix of the names of the encoder and of the heads.
  outer = prefix.removesuffix(_THEIR_ENCODER) if model == "bert" else ""
  plain_names: dict[str, str] = {}
  for theirs in names:
    plain = theirs.removeprefix(outer)
    inner = theirs.removeprefix(prefix) if theirs.startswith(prefix) else ""
    if model != "bert" and inner.startswith(_ENCODER_PARTS):
      plain = _THEIR_ENCODER + inner
    if plain in plain_names:
      raise UserError(
        f"{path} holds two tensors for one variable: "
        f"{plain_names[plain][:_LONGEST_SHOWN]!r} and "
        f"{theirs[:_LONGEST_SHOWN]!r}. Delete one."
      )
    plain_names[plain] = theirs
  return plain_names


class _PyTorchFile:
  """A `.bin` file of PyTorch, with the methods of a safetensors file."""

  def __init__(self, path: str):
    self._tensors = pytorch_checkpoint.read_tensors(path)
    self.shapes = {name: tensor.shape for name, tensor in self._tensors.items()}

  def get_tensor(self, name: str) -> np.ndarray:
    return self._tensors[name]


class _ShardedFile:
  """Several files and the index that says which tensor is in which of them."""

  def __init__(self, path: str):
    folder = os.path.dirname(path)
    files: dict[str, _File] = {}
    self._files: dict[str, _File] = {}  # by the name of the tensor
    self.shapes: dict[str, tuple[int, ...]] = {}
    for name, file_name in _read_weight_map(path).items():
      shard = os.path.join(folder, file_name)
      if not os.path.exists(shard):
        raise UserError(f"{path} names {file_name}, which does not exist.")
      if file_name not in files:
        files[file_name] = _open_file(shard)
      if name not in files[file_name].shapes:
        raise UserError(
          f"{path}: {name[:_LONGEST_SHOWN]!r} is not in {file_name}. Are the "
          "files those of one model?"
        )
      self._files[name] = files[file_name]
      self.shapes[name] = files[file_name].shapes[name]

  def get_tensor(self, name: str) -> np.ndarray:
    return self._files[name].get_tensor(name)


def _read_weight_map(path: str) -> dict[str, str]:
  """Returns name of a tensor -> name of its file, for an index of several."""
  weight_map = file_io.read_json(path).get("weight_map")
  if not isinstance(weight_map, dict) or not weight_map:
    raise UserError(f"{path} has no weight_map of tensors and their files.")
  suffix = ".bin" if path.endswith(".bin" + _INDEX_SUFFIX) else ".safetensors"
  for name, file_name in weight_map.items():
    is_name = isinstance(file_name, str) and file_name.endswith(suffix)
    if not is_name or os.path.basename(file_name) != file_name:
      raise UserError(
        f"{path}: {name[:_LONGEST_SHOWN]!r} is said to be in "
        f"{str(file_name)[:_LONGEST_SHOWN]!r}, which is no {suffix} file of "
        "its folder."
      )
  return weight_map


# A text, because the classes would load TensorFlow.
_File: TypeAlias = (
  "_PyTorchFile | _ShardedFile | keras_checkpoint.KerasFile"
  " | safetensors_checkpoint.SafetensorsFile"
)


def _open_file(path: str) -> _File:
  if path.endswith(_INDEX_SUFFIX):
    return _ShardedFile(path)
  if path.endswith(".bin"):
    return _PyTorchFile(path)
  if path.endswith(".h5"):
    return keras_checkpoint.KerasFile(path)
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
