"""Tests of checkpoint_folder.py."""

import contextlib
import os

import builders
import pytest
import tensorflow as tf

import checkpoint
from data import checkpoint_folder
from errors import UserError


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
    # The next run removes everything but one whole checkpoint.
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
  # Follow the advice in the message.
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
