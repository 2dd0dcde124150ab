"""Reads the weights in a `tf_model.h5` that transformers wrote with Keras.

Such a file has a group for each layer at the top, and in it the variables under
the names that they had in TensorFlow:

    /bert/tf_bert_model/bert/encoder/layer_._0/output/dense/kernel:0
    /nsp___cls/tf_bert_for_pre_training/nsp___cls/seq_relationship/kernel:0

They get the names and the layout of PyTorch here, so that one set of rules
leads to the released names.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from errors import UserError

# Beginning of the names of the encoder and of the heads, in the name of the
# model that stands before it. `mlm___cls` is the layer of masked words.
_START = re.compile(
  r"(?:^|/)(?:(?:mlm|nsp)___)?(?=(?:bert|cls|classifier|qa_outputs)/)"
)
_RENAMES = (
  (r":\d+$", ""),
  (r"/layer_\._(\d+)/", r"/layer/\1/"),
  (r"_embeddings/(?:weight|embeddings)$", "_embeddings/weight"),
  (r"/(?:gamma|kernel)$", "/weight"),
  (r"/beta$", "/bias"),
)
_NAMES_SHOWN = 4


class KerasFile:
  """An open file, with the methods of a safetensors file.

  Attributes:
    shapes: Shape of each tensor, by its name in PyTorch transformers.
  """

  def __init__(self, path: str):
    """Opens a file.

    Raises:
      UserError: The file cannot be read, or holds no model of transformers.
    """
    import h5py  # pylint: disable=g-import-not-at-top

    self._path = path
    self._datasets: dict[str, Any] = {}
    self.shapes: dict[str, tuple[int, ...]] = {}
    others: list[str] = []

    def add(name: str, item: Any) -> None:
      if not isinstance(item, h5py.Dataset):
        return
      ours = _name_in_pytorch(name)
      if ours is None:
        others.append(name)
      # The layer of masked words has the word embeddings once more.
      elif ours not in self._datasets:
        self._datasets[ours] = item
        shape = tuple(item.shape)
        self.shapes[ours] = shape[::-1] if _is_kernel(item) else shape

    try:
      h5py.File(path, "r").visititems(add)
    # With a damaged file, HDF5 may raise any exception.
    except Exception as error:  # pylint: disable=broad-except
      raise self._error(error) from error
    if not self.shapes:
      shown = ", ".join(others[:_NAMES_SHOWN]) or "no variables"
      raise UserError(
        f"{path} is no BERT that transformers saved with Keras: it holds "
        f"{shown}."
      )

  def get_tensor(self, name: str) -> np.ndarray:
    """Returns a tensor.

    Raises:
      UserError: It cannot be read, or is no array of numbers.
    """
    dataset = self._datasets[name]
    try:
      values = np.asarray(dataset[()])
    except Exception as error:  # pylint: disable=broad-except
      raise self._error(error) from error
    if values.dtype.kind not in "fiub":
      raise UserError(f"{self._path}: {name} holds no numbers.")
    return values.T if _is_kernel(dataset) else values

  def _error(self, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:400] or type(error).__name__
    return UserError(
      f"{self._path} cannot be read as HDF5: {reason}. Is the file complete?"
    )


def _is_kernel(dataset: Any) -> bool:
  """Returns whether a variable is a matrix, which PyTorch has transposed."""
  return "/kernel" in dataset.name


def _name_in_pytorch(name: str) -> str | None:
  """Returns the name that PyTorch has for a variable, or None."""
  _, _, name = name.partition("/")  # without the layer
  start = _START.search(name)
  if not start:
    return None
  name = name[start.end() :]
  for pattern, replacement in _RENAMES:
    name = re.sub(pattern, replacement, name)
  return name.replace("/", ".")
