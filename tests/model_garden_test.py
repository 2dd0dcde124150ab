"""Tests of model_garden.py."""

import builders
import numpy as np
import pytest
import tensorflow as tf

import checkpoint
from data import model_garden

# The attributes of the two kinds of encoders, outside of their layers.
NUMBERED = {
  "embeddings/word_embeddings": "layer_with_weights-0/embeddings",
  "embeddings/position_embeddings": "layer_with_weights-1/embeddings",
  "embeddings/token_type_embeddings": "layer_with_weights-2/embeddings",
  "embeddings/LayerNorm": "layer_with_weights-3",
  "encoder/layer_0": "layer_with_weights-4",
  "encoder/layer_1": "layer_with_weights-5",
  "pooler/dense": "layer_with_weights-6",
}
NAMED = {
  "embeddings/word_embeddings": "_embedding_layer/embeddings",
  "embeddings/position_embeddings": "_position_embedding_layer/embeddings",
  "embeddings/token_type_embeddings": "_type_embedding_layer/embeddings",
  "embeddings/LayerNorm": "_embedding_norm_layer",
  "encoder/layer_0": "_transformer_layers/0",
  "encoder/layer_1": "_transformer_layers/1",
  "pooler/dense": "_pooler_layer",
}
LAYER = {
  "attention/self/query": "_attention_layer/_query_dense",
  "attention/self/key": "_attention_layer/_key_dense",
  "attention/self/value": "_attention_layer/_value_dense",
  "attention/output/dense": "_attention_layer/_output_dense",
  "attention/output/LayerNorm": "_attention_layer_norm",
  "intermediate/dense": "_intermediate_dense",
  "output/dense": "_output_dense",
  "output/LayerNorm": "_output_layer_norm",
}
HEADS = {
  "cls/predictions/transform/dense": "masked_lm/dense",
  "cls/predictions/transform/LayerNorm": "masked_lm/layer_norm",
  "cls/predictions/output_bias": "masked_lm/output_bias.Sbias",
  "cls/seq_relationship/output_weights": (
    "classification_heads/0/out_proj/kernel"
  ),
  "cls/seq_relationship/output_bias": "classification_heads/0/out_proj/bias",
}


def rename(name, encoder, prefix):
  """Returns the attributes that lead to a variable in the library."""
  for ours, theirs in HEADS.items():
    if name.startswith(ours):
      return theirs + name.removeprefix(ours)
  name = name.removeprefix("bert/")
  for ours, theirs in encoder.items():
    if name.startswith(ours + "/") or name == ours:
      part = name.removeprefix(ours)
      for our_part, their_part in LAYER.items():
        if "encoder" in ours and part.startswith(f"/{our_part}/"):
          part = f"/{their_part}" + part.removeprefix(f"/{our_part}")
      return prefix + theirs + part
  raise AssertionError(name)


def split_heads(name, tensor):
  """Returns a tensor as the library has it, with a dimension for 4 heads."""
  if name.endswith("output_weights"):
    return tensor.T
  if "/attention/self/" in name:
    return tensor.reshape(*tensor.shape[:-1], 4, 8)
  if name.endswith("attention/output/dense/kernel"):
    return tensor.reshape(4, 8, tensor.shape[-1])
  return tensor


def write(path, variables, encoder, prefix):
  """Writes variables like `tf.train.Checkpoint`, without its graph."""
  tensors = {model_garden.OBJECT_GRAPH: tf.constant("")}
  for name, variable in variables.items():
    key = rename(name, encoder, prefix) + "/.ATTRIBUTES/VARIABLE_VALUE"
    tensors[key] = split_heads(name, variable.numpy())
  # A slot of the optimizer has the same attributes.
  slot = ".OPTIMIZER_SLOT/optimizer/m/.ATTRIBUTES/VARIABLE_VALUE"
  key = f"{rename('bert/pooler/dense/bias', encoder, prefix)}/{slot}"
  tensors[key] = np.zeros([32], np.float32)
  checkpoint.write(path, tensors)


@pytest.mark.parametrize(
  "encoder, prefix",
  [
    (NUMBERED, "model/"),
    (NUMBERED, "model/layer_with_weights-0/"),
    (NAMED, "encoder/"),
  ],
)
def test_encoder_and_heads_have_their_released_names(tmp_path, encoder, prefix):
  saved = builders.random_variables(seed=1)
  path = str(tmp_path / "x.ckpt")
  write(path, saved, encoder, prefix)
  assert set(checkpoint.open_checkpoint(path).shapes) == set(saved)
  loaded = builders.random_variables(seed=2)
  checkpoint.restore_all(loaded, path, "--init_checkpoint")
  builders.assert_same_values(loaded, saved)


def test_other_models_keep_their_names(tmp_path):
  path = str(tmp_path / "x.ckpt")
  # The layers of a model with factorized embeddings begin with 5.
  key = (
    "encoder/layer_with_weights-5/_attention_layer/_query_dense/kernel"
    "/.ATTRIBUTES/VARIABLE_VALUE"
  )
  tensors = {model_garden.OBJECT_GRAPH: tf.constant(""), key: np.ones([2, 3])}
  checkpoint.write(path, tensors)
  assert key in checkpoint.open_checkpoint(path).shapes
