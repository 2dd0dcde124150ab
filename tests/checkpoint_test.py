"""Tests of checkpoint.py."""

import contextlib
import json
import os
import threading

import builders
import numpy as np
import pytest
from safetensors import numpy as safetensors
import tensorflow as tf

import checkpoint
from data import checkpoint_folder
from data import transformers_format
from errors import UserError
import modeling


def random_model(seed=1, **changes):
  config = builders.tiny_config(**changes)
  model = modeling.BertForPreTraining(config, seed=seed)
  return checkpoint.variables_by_name(model)


def assert_same(variables, others):
  for name in variables:
    np.testing.assert_array_equal(variables[name], others[name], err_msg=name)


def test_round_trip(tmp_path):
  saved = random_model(seed=1)
  prefix = str(tmp_path / "deep" / "model.ckpt")
  checkpoint.write(prefix, saved)
  assert sorted(os.listdir(tmp_path / "deep")) == [
    "model.ckpt.data-00000-of-00001",
    "model.ckpt.index",
  ]
  for path in (prefix, prefix + ".index"):
    loaded = random_model(seed=2)
    checkpoint.restore(loaded, path)
    assert_same(loaded, saved)


@pytest.mark.parametrize("prefix", ["bert.", ""])
def test_safetensors_with_and_without_prefix(tmp_path, prefix):
  saved = random_model(seed=1)
  tensors = builders.to_transformers(saved, prefix)
  tensors["cls.predictions.decoder.weight"] = np.zeros([3, 3], np.float32)
  tensors[prefix + "embeddings.position_ids"] = np.arange(40)
  path = str(tmp_path / "model.safetensors")
  safetensors.save_file(tensors, path)
  assert set(checkpoint.open_checkpoint(path).shapes) == set(saved)
  loaded = random_model(seed=2)
  checkpoint.restore_all(loaded, path, "--init_checkpoint")
  assert_same(loaded, saved)


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


def test_new_head_keeps_its_values(tmp_path):
  saved = random_model(seed=1)
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


def test_incomplete_or_differing_encoders_are_refused(tmp_path):
  saved = random_model()
  prefix = str(tmp_path / "model.ckpt")
  del saved["bert/encoder/layer_1/output/dense/bias"]
  checkpoint.write(prefix, saved)
  with pytest.raises(
    UserError,
    match="--init_checkpoint=.*lacks 1 of the 39 "
    "variables.*bert/encoder/layer_1/output/dense/bias",
  ):
    checkpoint.restore(random_model(), prefix)
  checkpoint.write(prefix, random_model(intermediate_size=38))
  with pytest.raises(
    UserError,
    match=r"intermediate/dense/bias is \[38\] in "
    r"the checkpoint and \[37\] in.*--bert_config_file",
  ):
    checkpoint.restore(random_model(), prefix)


def test_missing_and_damaged_files_are_named(tmp_path):
  prefix = str(tmp_path / "model.ckpt")
  with pytest.raises(UserError, match="model.ckpt.index"):
    checkpoint.open_checkpoint(prefix)
  with pytest.raises(UserError, match="folder without a `checkpoint` file"):
    checkpoint.open_checkpoint(str(tmp_path))
  (tmp_path / "x.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
  with pytest.raises(UserError, match="x.safetensors cannot be read"):
    checkpoint.open_checkpoint(str(tmp_path / "x.safetensors"))
  checkpoint.write(prefix, random_model())
  data = tmp_path / "model.ckpt.data-00000-of-00001"
  data.write_bytes(data.read_bytes()[:1000])
  with pytest.raises(UserError, match="cannot be read.*complete"):
    checkpoint.restore(random_model(), prefix)


@pytest.mark.parametrize("first_step", [0, 1])
def test_death_at_any_file_operation_leaves_a_whole_checkpoint(
  tmp_path, first_step
):
  operations = [
    (tf.raw_ops, "SaveV2"),
    (tf.raw_ops, "MergeV2Checkpoints"),
    (os, "fsync"),
    *builders.FILE_OPERATIONS,
  ]
  model_dir = str(tmp_path)
  variable = tf.Variable(float(first_step))
  if first_step:
    checkpoint.save(model_dir, 1, {"x": variable}, 1, {"step": 1})
  variable.assign(2.0)
  seen = []
  for num_operations in range(100):
    if not builders.run_until_death(
      lambda: checkpoint.save(model_dir, 2, {"x": variable}, 1, {"step": 2}),
      num_operations,
      operations,
    ):
      break
    newest = checkpoint_folder.find_latest(model_dir)
    step = checkpoint.read_state(newest)["step"] if newest else 0
    if newest:
      assert checkpoint.open_checkpoint(newest).get_tensor("x") == step
    seen.append(step)
    # What the next run finds and removes: all but one whole checkpoint.
    checkpoint_folder.finish_save(model_dir)
    assert sorted(os.listdir(model_dir)) == (
      [
        "checkpoint",
        *(
          f"model.ckpt-{step}.{suffix}"
          for suffix in ("data-00000-of-00001", "index", "json")
        ),
      ]
      if newest
      else []
    )
  assert set(seen) == {first_step, 2} and sorted(seen) == seen


def test_damaged_state_is_named(tmp_path):
  prefix = checkpoint.save(str(tmp_path), 1, {"x": tf.Variable(1.0)}, 5, {})
  (tmp_path / "model.ckpt-1.json").write_text('{"input_position": [1')
  with pytest.raises(UserError, match="ckpt-1.json: not JSON.*Delete it"):
    checkpoint.read_state(prefix)


# Brackets are a pattern to a function that looks for files by patterns.
def test_old_checkpoints_are_deleted(tmp_path):
  tmp_path = tmp_path / "run [1]"
  variables = {"x": tf.Variable([1.0])}
  for step in range(1, 5):
    checkpoint.save(str(tmp_path), step, variables, 2, {})
  assert sorted(p.name for p in tmp_path.glob("model*")) == [
    f"model.ckpt-{step}.{suffix}"
    for step in (3, 4)
    for suffix in ("data-00000-of-00001", "index", "json")
  ]
  assert checkpoint_folder.find_latest(str(tmp_path)).endswith("model.ckpt-4")


@pytest.mark.parametrize(
  "list_file",
  [
    'model_checkpoint_path: "{other}/model.ckpt-7"\n'
    'all_model_checkpoint_paths: "{other}/model.ckpt-7"\n',
    'model_checkpoint_path: "../other/model.ckpt-7"\n',
    'model_checkpoint_path: "*"\n',
    'model_checkpoint_path: ""\n',
    'model_checkpoint_path: "model.ckpt-5"\n',
    "model_checkpoint_pa",
    "",
    None,
  ],
)
def test_list_that_contradicts_the_folder_is_no_fresh_start(
  tmp_path, list_file
):
  run, other = tmp_path / "run", tmp_path / "other"
  variables = {"x": tf.Variable([1.0])}
  for step in (2, 3, 12):
    checkpoint.save(str(run), step, variables, 0, {})
  checkpoint.save(str(other), 7, variables, 0, {})
  before = sorted(tmp_path.rglob("*"))
  if list_file is None:
    (run / "checkpoint").unlink()
    before.remove(run / "checkpoint")
  else:
    (run / "checkpoint").write_text(list_file.format(other=other))
  with pytest.raises(
    UserError,
    match=r"ckpt-2, model.ckpt-3, model.ckpt-12. To"
    r' continue from model.ckpt-12, .*path: "model.ckpt-12".*'
    "--restart",
  ):
    checkpoint_folder.find_latest(str(run))
  with contextlib.suppress(UserError):
    checkpoint.save(str(run), 13, variables, 1, {})
  assert [path for path in before if not path.exists()] == []
  # What the message says to do.
  (run / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-12"\n')
  assert checkpoint_folder.find_latest(str(run)) == str(run / "model.ckpt-12")


def test_run_that_was_moved_continues(tmp_path):
  checkpoint.save(str(tmp_path), 2, {"x": tf.Variable([1.0])}, 1, {})
  (tmp_path / "checkpoint").write_text(
    'model_checkpoint_path: "/gone/run/model.ckpt-2"\n'
    'all_model_checkpoint_paths: "/gone/run/model.ckpt-2"\n'
  )
  assert checkpoint_folder.find_latest(str(tmp_path)) == str(
    tmp_path / "model.ckpt-2"
  )
  checkpoint.save(str(tmp_path), 3, {"x": tf.Variable([1.0])}, 1, {})
  assert not (tmp_path / "model.ckpt-2.index").exists()


@pytest.mark.parametrize("suffix", ["index", "data-00000-of-00001"])
def test_checkpoint_without_a_file_is_named(tmp_path, suffix):
  for step in (2, 3):
    checkpoint.save(str(tmp_path), step, {"x": tf.Variable([1.0])}, 0, {})
  (tmp_path / f"model.ckpt-3.{suffix}").unlink()
  with pytest.raises(UserError, match="ckpt-3.*missing.*continue from.*ckpt-2"):
    checkpoint_folder.find_latest(str(tmp_path))


def test_restart_deletes_nothing_but_checkpoints(tmp_path):
  for step in (2, 3):
    checkpoint.save(str(tmp_path), step, {"x": tf.Variable([1.0])}, 0, {})
  others = [
    "model.ckpt-notes.txt",
    "model.ckpt-3.txt",
    "x.tmp",
    "xmodel.ckpt-3.index",
  ]
  for name in others:
    (tmp_path / name).write_text("kept")
  (tmp_path / "model.ckpt-9_temp").mkdir()
  checkpoint_folder.delete_all(str(tmp_path))
  assert sorted(os.listdir(tmp_path)) == sorted([*others, "model.ckpt-9_temp"])


def test_weights_that_are_not_finite_are_refused(tmp_path):
  prefix = str(tmp_path / "model.ckpt")
  name = "bert/pooler/dense/bias"
  model = random_model()
  model[name].assign(np.full(model[name].shape, np.nan))
  checkpoint.write(prefix, model)
  with pytest.raises(UserError, match=f"{name} has values that are not finite"):
    checkpoint.restore(random_model(), prefix)


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
