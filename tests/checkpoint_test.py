"""Tests of checkpoint.py."""

import os
import threading

import builders
import numpy as np
import pytest
import tensorflow as tf

import checkpoint
from errors import UserError
import heads
import modeling


def test_round_trip(tmp_path):
  saved = builders.random_variables(seed=1)
  prefix = str(tmp_path / "deep" / "model.ckpt")
  checkpoint.write(prefix, saved)
  assert sorted(os.listdir(tmp_path / "deep")) == [
    "model.ckpt.data-00000-of-00001",
    "model.ckpt.index",
  ]
  (tmp_path / "deep" / "model.ckpt.meta").write_bytes(b"")
  suffixes = ("", ".index", ".meta", ".data-00000-of-00001")
  paths = [prefix + suffix for suffix in suffixes]
  for path in [*paths, str(tmp_path / "deep")]:
    loaded = builders.random_variables(seed=2)
    checkpoint.restore(loaded, path)
    builders.assert_same_values(loaded, saved)


def test_new_head_keeps_its_values(tmp_path):
  saved = builders.random_variables(seed=1)
  prefix = str(tmp_path / "model.ckpt")
  checkpoint.write(prefix, {**saved, "output_weights": np.zeros([5, 32])})
  classifier = checkpoint.variables_by_name(
    modeling.BertForSequenceClassification(builders.tiny_config(), 3, seed=2)
  )
  before = classifier["output_weights"].numpy()
  checkpoint.restore(classifier, prefix)
  np.testing.assert_array_equal(classifier["output_weights"], before)
  np.testing.assert_array_equal(
    classifier["bert/pooler/dense/kernel"], saved["bert/pooler/dense/kernel"]
  )


def test_a_pooler_is_new_where_the_weights_have_none(tmp_path, caplog):
  saved = builders.random_variables(seed=1)
  prefix = str(tmp_path / "model.ckpt")
  without = {name: saved[name] for name in heads.remove_pooler(saved)}
  assert len(saved) - len(without) == 2
  checkpoint.write(prefix, without)
  model = builders.random_variables(seed=2)
  kernel = model["bert/pooler/dense/kernel"].numpy()
  with caplog.at_level("INFO", logger="absl"):
    checkpoint.restore(model, prefix)
  assert (
    "newly initialized: bert/pooler/dense/bias, bert/pooler/dense/kernel"
    in caplog.text
  )
  np.testing.assert_array_equal(model["bert/pooler/dense/kernel"], kernel)
  builders.assert_same_values({name: model[name] for name in without}, without)
  # Half a pooler is damage.
  half = {**without, "bert/pooler/dense/bias": np.zeros(32, np.float32)}
  checkpoint.write(prefix, half)
  with pytest.raises(UserError, match="lacks 1 .*bert/pooler/dense/kernel"):
    checkpoint.restore(model, prefix)


def test_of_several_checkpoints_one_has_to_be_named(tmp_path):
  for name in ("model.ckpt-3", "model.ckpt-12"):
    checkpoint.write(str(tmp_path / name), {"x": np.float32(1)})
  with pytest.raises(
    UserError, match="2 checkpoints.*model.ckpt-3, model.ckpt-12.*such as"
  ):
    checkpoint.open_checkpoint(str(tmp_path))
  (tmp_path / "model.ckpt-12.data-00000-of-00001").unlink()
  found = checkpoint.find_weights(str(tmp_path))
  assert found == str(tmp_path / "model.ckpt-3")


def test_incomplete_or_differing_encoders_are_refused(tmp_path):
  saved = builders.random_variables()
  prefix = str(tmp_path / "model.ckpt")
  del saved["bert/encoder/layer_1/output/dense/bias"]
  checkpoint.write(prefix, saved)
  with pytest.raises(
    UserError,
    match="--init_checkpoint=.*lacks 1 of the 39 "
    "variables.*bert/encoder/layer_1/output/dense/bias",
  ):
    checkpoint.restore(builders.random_variables(), prefix)
  checkpoint.write(prefix, builders.random_variables(intermediate_size=38))
  with pytest.raises(
    UserError,
    match=r"intermediate/dense/bias is \[38\] in "
    r"the checkpoint and \[37\] in.*--bert_config_file",
  ):
    checkpoint.restore(builders.random_variables(), prefix)


def test_missing_and_damaged_files_are_named(tmp_path):
  prefix = str(tmp_path / "model.ckpt")
  with pytest.raises(UserError, match="model.ckpt.index"):
    checkpoint.open_checkpoint(prefix)
  with pytest.raises(UserError, match="=.*/y.safetensors does not exist"):
    checkpoint.open_checkpoint(str(tmp_path / "y.safetensors"))
  with pytest.raises(
    UserError, match="folder without weights.*model.safetensors"
  ):
    checkpoint.open_checkpoint(str(tmp_path))
  (tmp_path / "x.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
  with pytest.raises(UserError, match="x.safetensors cannot be read"):
    checkpoint.open_checkpoint(str(tmp_path / "x.safetensors"))
  checkpoint.write(prefix, builders.random_variables())
  data = tmp_path / "model.ckpt.data-00000-of-00001"
  data.write_bytes(data.read_bytes()[:1000])
  with pytest.raises(UserError, match="cannot be read.*complete"):
    checkpoint.restore(builders.random_variables(), prefix)


def test_text_among_the_weights_is_refused(tmp_path):
  prefix = str(tmp_path / "model.ckpt")
  tf.raw_ops.SaveV2(
    prefix=prefix,
    tensor_names=["words"],
    shape_and_slices=[""],
    tensors=[tf.constant(["the", "cat"])],
  )
  reader = checkpoint.open_checkpoint(prefix)
  with pytest.raises(UserError, match="words holds text, not numbers"):
    reader.get_tensor("words")


def test_damaged_state_is_named(tmp_path):
  prefix = checkpoint.save(str(tmp_path), 1, {"x": tf.Variable(1.0)}, 5, {})
  (tmp_path / "model.ckpt-1.json").write_text('{"input_position": [1')
  with pytest.raises(UserError, match="ckpt-1.json: not JSON.*Delete it"):
    checkpoint.read_state(prefix)


def test_weights_that_are_not_finite_are_refused(tmp_path):
  prefix = str(tmp_path / "model.ckpt")
  name = "bert/pooler/dense/bias"
  model = builders.random_variables()
  model[name].assign(np.full(model[name].shape, np.nan))
  checkpoint.write(prefix, model)
  with pytest.raises(UserError, match=f"{name} has values that are not finite"):
    checkpoint.restore(builders.random_variables(), prefix)


def test_background_writer_keeps_the_values_it_was_given(tmp_path, monkeypatch):
  may_write = threading.Event()
  write = checkpoint.write

  def write_late(*args):
    may_write.wait()
    write(*args)

  monkeypatch.setattr(checkpoint, "write", write_late)
  variable, slot = tf.Variable([1.0, 2.0]), tf.Variable([1.0, 2.0])
  with checkpoint.BackgroundWriter() as writer:
    writer.save(str(tmp_path), 1, {"x": variable, "m": slot}, 5, {})
    one = tf.constant(1.0)
    tf.raw_ops.ResourceApplyAdam(  # as the optimizer updates them, in place
      var=variable.handle,
      m=slot.handle,
      v=tf.Variable([1.0, 2.0]).handle,
      beta1_power=0.0,
      beta2_power=0.0,
      lr=one,
      beta1=0.9,
      beta2=0.9,
      epsilon=one,
      grad=[3.0, 4.0],
    )
    variable.assign_add([7.0, 7.0])
    assert np.all(variable.numpy() != [1.0, 2.0])
    may_write.set()
  reader = checkpoint.open_checkpoint(str(tmp_path))
  for name in ("x", "m"):
    np.testing.assert_array_equal(reader.get_tensor(name), [1.0, 2.0])


def test_checkpoint_that_cannot_be_written_is_reported(tmp_path):
  folder = tmp_path / "run"
  with (
    pytest.raises(
      UserError, match="ckpt-2 cannot be written.*continues from .*ckpt-1"
    ),
    checkpoint.BackgroundWriter() as writer,
  ):
    writer.save(str(folder), 1, {"x": tf.Variable(1.0)}, 5, {})
    writer.wait()
    (folder / "model.ckpt-2.json").mkdir()  # in the way
    writer.save(str(folder), 2, {"x": tf.Variable(1.0)}, 5, {})
