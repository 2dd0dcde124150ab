"""Tests of transformers_format.py."""

import json

import builders
import numpy as np
import pytest
from safetensors import numpy as safetensors

import checkpoint
from data import transformers_format
from errors import UserError
import modeling


@pytest.mark.parametrize("prefix", ["bert.", ""])
def test_safetensors_with_and_without_prefix(tmp_path, prefix):
  saved = builders.random_variables(seed=1)
  tensors = builders.to_transformers(saved, prefix)
  tensors["cls.predictions.decoder.weight"] = np.zeros([3, 3], np.float32)
  tensors[prefix + "embeddings.position_ids"] = np.arange(40)
  path = str(tmp_path / "model.safetensors")
  safetensors.save_file(tensors, path)
  assert set(checkpoint.open_checkpoint(path).shapes) == set(saved)
  loaded = builders.random_variables(seed=2)
  checkpoint.restore_all(loaded, path, "--init_checkpoint")
  builders.assert_same_values(loaded, saved)


def test_two_tensors_for_one_variable_are_refused(tmp_path):
  path = str(tmp_path / "model.safetensors")
  safetensors.save_file(
    {"pooler.dense.bias": np.zeros(3), "bert.pooler.dense.bias": np.ones(3)},
    path,
  )
  with pytest.raises(
    UserError, match="two tensors for one variable.*'pooler.d"
  ):
    checkpoint.open_checkpoint(path)


def test_transformers_config(tmp_path):
  path = tmp_path / "config.json"
  fields = {**builders.tiny_config().to_dict(), "model_type": "bert"}
  for theirs, ours in [
    ("gelu", "gelu_erf"),
    ("gelu_new", "gelu"),
    ("relu", "relu"),
  ]:
    path.write_text(json.dumps({**fields, "hidden_act": theirs}))
    config = transformers_format.read_their_config(str(path))
    assert modeling.BertConfig.from_dict(config).hidden_act == ours
  for field, value in [
    ("model_type", "roberta"),
    ("layer_norm_eps", 1e-5),
    ("position_embedding_type", ["relative_key"]),
  ]:
    path.write_text(json.dumps({**fields, field: value}))
    with pytest.raises(UserError, match=f"config.json: {field}=.*is not"):
      transformers_format.read_their_config(str(path))


def test_transformers_config_with_missing_and_bad_fields(tmp_path):
  path = str(tmp_path / "config.json")

  def read(text):
    (tmp_path / "config.json").write_text(text)
    return modeling.BertConfig.from_dict(
      transformers_format.read_their_config(path), path
    )

  config = read('{"vocab_size": 99}')
  assert (config.hidden_act, config.type_vocab_size) == ("gelu_erf", 2)
  for text, message in [
    ("{", "not JSON"),
    ("[1]", "not an object"),
    ("{}", "vocab_size is missing"),
    ('{"vocab_size": 99, "hidden_act": ["gelu"]}', "hidden_act=.*one of"),
    ('{"vocab_size": 99, "hidden_size": null}', "hidden_size=None must be"),
  ]:
    with pytest.raises(UserError, match=f"config.json.*{message}"):
      read(text)
