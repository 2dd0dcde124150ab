"""Tests of transformers_format.py."""

import json

import builders
import numpy as np
import pytest
from safetensors import numpy as safetensors

import checkpoint
from errors import UserError
import modeling

DECODER_WEIGHT = "cls.predictions.decoder.weight"
DECODER_BIAS = "cls.predictions.decoder.bias"


def assert_read_as(path, saved):
  assert set(checkpoint.open_checkpoint(path).shapes) == set(saved)
  loaded = builders.random_variables(seed=2)
  checkpoint.restore_all(loaded, path, "--init_checkpoint")
  builders.assert_same_values(loaded, saved)


@pytest.mark.parametrize(
  "outer, encoder",
  [("", "bert."), ("", ""), ("module.", "bert."), ("", "0.auto_model.")],
)
def test_names_of_the_encoder_may_begin_in_any_way(tmp_path, outer, encoder):
  saved = builders.random_variables(seed=1)
  tensors = builders.to_transformers(saved, encoder)
  words = tensors[encoder + "embeddings.word_embeddings.weight"]
  # Copies and constants that some versions save.
  tensors[DECODER_WEIGHT] = words.copy()
  tensors[DECODER_BIAS] = tensors["cls.predictions.bias"].copy()
  tensors[encoder + "embeddings.position_ids"] = np.arange(40)
  path = str(tmp_path / "model.safetensors")
  safetensors.save_file(
    {outer + name: tensor for name, tensor in tensors.items()}, path
  )
  assert_read_as(path, saved)


def test_a_copy_stands_for_a_missing_original(tmp_path):
  saved = builders.random_variables(seed=1)
  tensors = builders.to_transformers(saved, "bert.")
  tensors[DECODER_BIAS] = tensors.pop("cls.predictions.bias")
  path = str(tmp_path / "model.safetensors")
  safetensors.save_file(tensors, path)
  assert_read_as(path, saved)


def test_output_weights_of_their_own_are_refused_where_they_matter(tmp_path):
  saved = builders.random_variables(seed=1)
  tensors = builders.to_transformers(saved, "bert.")
  words = tensors["bert.embeddings.word_embeddings.weight"]
  tensors[DECODER_WEIGHT] = words + 1
  path = str(tmp_path / "model.safetensors")
  safetensors.save_file(tensors, path)
  with pytest.raises(UserError, match="decoder.weight differs.*tie_word"):
    checkpoint.restore_all(builders.random_variables(), path, "--x")
  encoder = modeling.BertModel(builders.tiny_config())
  checkpoint.restore(checkpoint.variables_by_name(encoder), path)


@pytest.mark.parametrize(
  "names, message",
  [
    (["a.embeddings", "b.embeddings"], "2 encoders.*'a.', 'b.'"),
    (["roberta.embeddings"], "of the type roberta, not bert"),
  ],
)
def test_files_that_are_no_bert_are_refused(tmp_path, names, message):
  path = str(tmp_path / "model.safetensors")
  tensors = {
    f"{name}.word_embeddings.weight": np.ones([3, 2]) for name in names
  }
  safetensors.save_file(tensors, path)
  with pytest.raises(UserError, match=message):
    checkpoint.open_checkpoint(path)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_every_float_type_is_read_as_float32(tmp_path, dtype):
  path = str(tmp_path / "model.safetensors")
  weight = np.array([[1.5, -2.25], [0.125, 3.0]], dtype)
  safetensors.save_file({"bert.pooler.dense.weight": weight}, path)
  reader = checkpoint.open_checkpoint(path)
  tensor = reader.get_tensor("bert/pooler/dense/kernel")
  assert tensor.dtype == np.float32
  np.testing.assert_array_equal(tensor, weight.T)


def write_shards(folder, tensors):
  """Writes two files and their index, and returns the index as JSON."""
  weight_map = {}
  for number in (0, 1):
    file_name = f"model-{number + 1:05}-of-00002.safetensors"
    part = dict(sorted(tensors.items())[number::2])
    safetensors.save_file(part, folder / file_name)
    weight_map.update(dict.fromkeys(part, file_name))
  return {"metadata": {"total_size": 1}, "weight_map": weight_map}


def test_weights_in_several_files_are_found_by_their_index(tmp_path):
  saved = builders.random_variables(seed=1)
  index = write_shards(tmp_path, builders.to_transformers(saved, "bert."))
  path = tmp_path / "model.safetensors.index.json"
  path.write_text(json.dumps(index))
  assert_read_as(str(path), saved)
  assert_read_as(str(tmp_path), saved)
  assert len(checkpoint.list_files(str(path))) == 2
  name = "bert.pooler.dense.bias"
  for file_name, message in [
    ("../x.safetensors", "'../x.safetensors', which is no .safetensors"),
    (None, "'None', which is no .safetensors file"),
    ("missing.safetensors", "names missing.safetensors, which does not"),
    (index["weight_map"]["bert.pooler.dense.weight"], "is not in model-"),
  ]:
    wrong = {**index["weight_map"], name: file_name}
    path.write_text(json.dumps({"weight_map": wrong}))
    with pytest.raises(UserError, match=message):
      checkpoint.open_checkpoint(str(path))
  for content in ({}, {"weight_map": {}}, {"weight_map": [name]}):
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="index.json has no weight_map"):
      checkpoint.open_checkpoint(str(path))


@pytest.mark.parametrize(
  "names",
  [
    ("pooler.dense.bias", "bert.pooler.dense.bias"),
    ("bert.embeddings.LayerNorm.gamma", "bert.embeddings.LayerNorm.weight"),
  ],
)
def test_two_tensors_for_one_variable_are_refused(tmp_path, names):
  path = str(tmp_path / "model.safetensors")
  safetensors.save_file(dict.fromkeys(names, np.zeros(3)), path)
  with pytest.raises(
    UserError, match=f"two tensors for one variable.*'{names[0]}"
  ):
    checkpoint.open_checkpoint(path)
