"""Tests of keras_checkpoint.py."""

import builders
import h5py
import numpy as np
import pytest

import checkpoint
from data import keras_checkpoint
from errors import UserError


def write(path, variables, scope="tf_bert_for_pre_training"):
  """Writes variables under the names that transformers gives them in Keras."""
  with h5py.File(path, "w") as file:
    for name, variable in variables.items():
      value = variable.numpy()
      layer, name = name.split("/", 1)
      name = name.replace("layer_", "layer_._")
      if name.endswith("word_embeddings"):
        name += "/weight"
      elif name.endswith("_embeddings"):
        name += "/embeddings"
      if layer == "cls":
        layer = ("mlm" if "predictions" in name else "nsp") + "___cls"
        name = name.replace("output_bias", "bias")
        if name.endswith("output_weights"):
          name = name.replace("output_weights", "kernel")
          value = value.T
      file[f"{layer}/{scope}/{layer}/{name}:0"] = value
    # The layer of masked words has its output weights, the embeddings.
    words = variables["bert/embeddings/word_embeddings"].numpy()
    file[f"mlm___cls/{scope}/bert/embeddings/word_embeddings/weight:0"] = words
    file.create_group("top_level_model_weights")


def test_files_of_keras_hold_the_released_variables(tmp_path):
  saved = builders.random_variables(seed=1)
  path = str(tmp_path / "tf_model.h5")
  write(path, saved)
  assert set(checkpoint.open_checkpoint(path).shapes) == set(saved)
  loaded = builders.random_variables(seed=2)
  checkpoint.restore_all(loaded, path, "--init_checkpoint")
  builders.assert_same_values(loaded, saved)


def test_other_files_are_refused(tmp_path):
  path = tmp_path / "tf_model.h5"
  path.write_bytes(b"not HDF5")
  with pytest.raises(UserError, match="cannot be read as HDF5"):
    keras_checkpoint.KerasFile(str(path))
  with h5py.File(path, "w") as file:
    file["dense/dense/kernel:0"] = np.ones([2, 3])
  with pytest.raises(UserError, match="no BERT .* dense/dense/kernel:0"):
    keras_checkpoint.KerasFile(str(path))
  with h5py.File(path, "w") as file:
    file["bert/x/bert/pooler/dense/bias:0"] = ["text"]
  reader = keras_checkpoint.KerasFile(str(path))
  with pytest.raises(UserError, match="holds no numbers"):
    reader.get_tensor("bert.pooler.dense.bias")
