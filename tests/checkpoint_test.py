"""Tests of checkpoint.py."""

import json
import os

import conftest
import numpy as np
import pytest
from safetensors import numpy as safetensors
import tensorflow as tf

import checkpoint
import modeling


def random_model(seed=1, **changes):
  config = conftest.tiny_config(**changes)
  model = modeling.BertForPreTraining(config, seed=seed)
  return checkpoint.variables_by_name(model)


def assert_same(variables, others):
  for name in variables:
    np.testing.assert_array_equal(variables[name], others[name], err_msg=name)


def to_transformers(variables, prefix):
  """Returns tensors under PyTorch transformers' names."""
  renames = [("cls/predictions/output_bias", "cls.predictions.bias"),
             ("output_weights", "weight"), ("output_bias", "bias"),
             ("bert/", prefix), ("layer_", "layer."), ("gamma", "weight"),
             ("beta", "bias"), ("kernel", "weight"), ("/", ".")]
  result = {}
  for name, variable in variables.items():
    tensor = variable.numpy()
    tensor = tensor.T if name.endswith("kernel") else tensor
    if name.endswith("_embeddings"):
      name += "/weight"
    for ours, theirs in renames:
      name = name.replace(ours, theirs)
    result[name] = np.ascontiguousarray(tensor)
  return result


def test_round_trip(tmp_path):
  saved = random_model(seed=1)
  prefix = str(tmp_path / "deep" / "model.ckpt")
  checkpoint.write(prefix, saved)
  assert sorted(os.listdir(tmp_path / "deep")) == [
      "model.ckpt.data-00000-of-00001", "model.ckpt.index"]
  for path in (prefix, prefix + ".index"):
    loaded = random_model(seed=2)
    checkpoint.restore(loaded, path)
    assert_same(loaded, saved)


@pytest.mark.parametrize("prefix", ["bert.", ""])
def test_safetensors_with_and_without_prefix(tmp_path, prefix):
  saved = random_model(seed=1)
  tensors = to_transformers(saved, prefix)
  tensors["cls.predictions.decoder.weight"] = np.zeros([3, 3], np.float32)
  tensors[prefix + "embeddings.position_ids"] = np.arange(40)
  path = str(tmp_path / "model.safetensors")
  safetensors.save_file(tensors, path)
  assert set(checkpoint.open_checkpoint(path).shapes) == set(saved)
  loaded = random_model(seed=2)
  checkpoint.restore_all(loaded, path, "--init_checkpoint")
  assert_same(loaded, saved)


def test_new_head_keeps_its_values(tmp_path):
  saved = random_model(seed=1)
  prefix = str(tmp_path / "model.ckpt")
  checkpoint.write(prefix, {**saved, "output_weights": np.zeros([5, 32])})
  classifier = checkpoint.variables_by_name(
      modeling.BertForSequenceClassification(conftest.tiny_config(), 3, seed=2))
  before = classifier["output_weights"].numpy()
  checkpoint.restore(classifier, prefix)
  np.testing.assert_array_equal(classifier["output_weights"], before)
  np.testing.assert_array_equal(classifier["bert/pooler/dense/kernel"],
                                saved["bert/pooler/dense/kernel"])


def test_incomplete_or_differing_encoders_are_refused(tmp_path):
  saved = random_model()
  prefix = str(tmp_path / "model.ckpt")
  del saved["bert/encoder/layer_1/output/dense/bias"]
  checkpoint.write(prefix, saved)
  with pytest.raises(ValueError, match="--init_checkpoint=.*lacks 1 of the 39 "
                     "variables.*bert/encoder/layer_1/output/dense/bias"):
    checkpoint.restore(random_model(), prefix)
  checkpoint.write(prefix, random_model(intermediate_size=38))
  with pytest.raises(ValueError, match=r"intermediate/dense/bias is \[38\] in "
                     r"the checkpoint and \[37\] in.*--bert_config_file"):
    checkpoint.restore(random_model(), prefix)


def test_missing_and_damaged_files_are_named(tmp_path):
  prefix = str(tmp_path / "model.ckpt")
  with pytest.raises(ValueError, match="model.ckpt.index"):
    checkpoint.open_checkpoint(prefix)
  with pytest.raises(ValueError, match="folder without a `checkpoint` file"):
    checkpoint.open_checkpoint(str(tmp_path))
  (tmp_path / "x.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
  with pytest.raises(ValueError, match="x.safetensors cannot be read"):
    checkpoint.open_checkpoint(str(tmp_path / "x.safetensors"))
  checkpoint.write(prefix, random_model())
  data = tmp_path / "model.ckpt.data-00000-of-00001"
  data.write_bytes(data.read_bytes()[:1000])
  with pytest.raises(ValueError, match="cannot be read.*whole"):
    checkpoint.restore(random_model(), prefix)


def test_failed_save_leaves_the_previous_checkpoint(tmp_path, monkeypatch):
  model_dir = str(tmp_path)
  variables = random_model()
  first = checkpoint.save(model_dir, 1, variables, keep_checkpoint_max=5)
  def fail(*args, **kwargs):
    raise KeyboardInterrupt
  monkeypatch.setattr(tf.raw_ops, "MergeV2Checkpoints", fail)
  with pytest.raises(KeyboardInterrupt):
    checkpoint.save(model_dir, 2, variables, keep_checkpoint_max=5)
  assert checkpoint.latest(model_dir) == first
  checkpoint.restore_all(random_model(seed=3), first, "--output_dir")
  monkeypatch.undo()
  second = checkpoint.save(model_dir, 2, variables, keep_checkpoint_max=5)
  assert checkpoint.latest(model_dir) == second
  assert not [name for name in os.listdir(model_dir) if "temp" in name]


def test_old_checkpoints_are_deleted(tmp_path):
  variables = {"x": tf.Variable([1.0])}
  for step in range(1, 5):
    checkpoint.save(str(tmp_path), step, variables, keep_checkpoint_max=2)
  assert sorted(p.name for p in tmp_path.glob("*.index")) == [
      "model.ckpt-3.index", "model.ckpt-4.index"]
  assert checkpoint.latest(str(tmp_path)).endswith("model.ckpt-4")


def test_transformers_config(tmp_path):
  path = tmp_path / "config.json"
  fields = {**conftest.tiny_config().to_dict(), "model_type": "bert"}
  for theirs, ours in [("gelu", "gelu_erf"), ("gelu_new", "gelu"),
                       ("relu", "relu")]:
    path.write_text(json.dumps({**fields, "hidden_act": theirs}))
    config = checkpoint.read_transformers_config(str(path))
    assert modeling.BertConfig.from_dict(config).hidden_act == ours
  for field, value in [("model_type", "roberta"), ("layer_norm_eps", 1e-5),
                       ("position_embedding_type", "relative_key")]:
    path.write_text(json.dumps({**fields, field: value}))
    with pytest.raises(ValueError, match=str(value)):
      checkpoint.read_transformers_config(str(path))
