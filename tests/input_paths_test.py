"""Tests of input_paths.py, for the flags of all programs."""

import importlib
import pathlib
import re

from absl import flags
import builders
import pytest

from command_line import input_paths
from errors import UserError

PROGRAMS = [
  importlib.import_module(path.stem)
  for path in sorted(builders.ROOT.glob("*.py"))
  if "launch.run(" in path.read_text(encoding="utf-8") and path.stem != "launch"
]
# Flags that look like input, but name output, or have no effect.
OUTPUT = {"output_dir", "output_file", "export_dir", "teacher_cache_dir"}
OTHERS = {
  # The end of the name of its file, such as .gz, is found later.
  "run_classifier.transfer_file",
  "run_classifier_with_tfhub.transfer_file",
  # These have no effect.
  "run_classifier_with_tfhub.bert_config_file",
  "run_classifier_with_tfhub.init_checkpoint",
}
LOOKS_LIKE_INPUT = re.compile(r".*(_file|_dir|_checkpoint|_handle)|model|runs?")


def set_flag(program, **values):
  """Sets flags of a program, whose required flags get no values."""
  builders.define_flags(program)
  for name in flags.FLAGS:
    flags.FLAGS[name].unparse()
  for name, value in values.items():
    flags.FLAGS[name].parse(value)
    flags.FLAGS[name].present = 1
  flags.FLAGS.mark_as_parsed()


def own_flags(program):
  builders.define_flags(program)
  by_module = flags.FLAGS.flags_by_module_dict()
  return {
    flag.name
    for module, of_module in by_module.items()
    if not module.startswith("absl")
    for flag in of_module
  }


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda x: x.__name__)
def test_every_flag_that_names_input_is_checked(program, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  names = {
    name
    for name in own_flags(program) - OUTPUT
    if LOOKS_LIKE_INPUT.fullmatch(name)
    and f"{program.__name__}.{name}" not in OTHERS
  }
  assert set(input_paths.marked_flags()) == names
  (tmp_path / "folder").mkdir()
  (tmp_path / "folder" / "right").mkdir()
  for name in sorted(names):
    switches = {
      switch: "true"
      for switch in ("do_train", "do_eval", "do_predict")
      if switch in flags.FLAGS
    }
    values = {name: "folder/rigth", **switches}
    if "data_dir" in flags.FLAGS and name != "data_dir":
      values["data_dir"] = "."
    set_flag(program, **values)
    with pytest.raises(UserError) as raised:
      input_paths.check_inputs()
    assert str(raised.value).startswith(f"--{name}=")
    assert "Did you mean " in str(raised.value)
    assert "folder/right?" in str(raised.value)
    for accepted in ("folder/right", "gs://bucket/rigth"):
      set_flag(program, **{**values, name: accepted})
      if (name, accepted) != ("model", "gs://bucket/rigth"):
        input_paths.check_inputs()


def test_mistake_is_answered_before_tensorflow_is_loaded(tmp_path):
  last_line = builders.refuse_at_once(
    "run_squad",
    "--do_train",
    f"--output_dir={tmp_path}/out",
    "--train_file=tran.json",
  )
  assert last_line.startswith("run_squad.py: --train_file=tran.json does not ")
  assert not list(tmp_path.iterdir())


def test_missing_model_is_answered_at_once():
  predict = importlib.import_module("predict")
  set_flag(predict, text="a")
  with pytest.raises(UserError, match="No model is given. Pass --model,"):
    input_paths.check_model_is_named()
  set_flag(predict, vocab_file="vocab.txt")
  input_paths.check_model_is_named()


@pytest.mark.parametrize(
  "name",
  [
    "run/model.ckpt-10",
    "run/model.ckpt-10.index",
    "run/model.ckpt-10.data-00000-of-00001",
    "run",
    "run/",
    "model.safetensors",
  ],
)
def test_spellings_of_weights(name, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  pathlib.Path("run").mkdir()
  for file in ("index", "data-00000-of-00001"):
    pathlib.Path(f"run/model.ckpt-10.{file}").touch()
  pathlib.Path("model.safetensors").touch()
  input_paths.check_checkpoint("init_checkpoint", name)


def test_nearest_weights_are_suggested_by_their_prefix(tmp_path):
  (tmp_path / "bert_model.ckpt.index").touch()
  with pytest.raises(UserError, match=f"mean {tmp_path}/bert_model.ckpt."):
    input_paths.check_checkpoint("init_checkpoint", f"{tmp_path}/bert-model.ck")


def test_resuming_run_needs_no_first_weights(tmp_path):
  run_squad = importlib.import_module("run_squad")
  (tmp_path / "checkpoint").touch()
  set_flag(run_squad, init_checkpoint="gone", output_dir=str(tmp_path))
  input_paths.check_inputs()
  set_flag(
    run_squad, init_checkpoint="gone", output_dir=str(tmp_path), restart="true"
  )
  with pytest.raises(UserError, match="--init_checkpoint=gone does not exist"):
    input_paths.check_inputs()


def test_files_that_are_not_read_are_not_checked():
  run_squad = importlib.import_module("run_squad")
  set_flag(run_squad, train_file="gone", do_predict="true")
  input_paths.check_inputs()


@pytest.mark.parametrize(
  "names, message",
  [
    ("a.txt,b.txt", "--input_file=a.txt,b.txt: b.txt does not exist"),
    ("c*.txt", "c[*].txt does not exist"),
    ("@lst", "lst does not exist. Did you mean .*list"),
    ("$NOWHERE_DIR/a.txt", "/nowhere/a.txt does not exist. There is no folder"),
  ],
)
def test_missing_parts_are_named(names, message, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("NOWHERE_DIR", "/nowhere")
  for name in ("a.txt", "list"):
    pathlib.Path(name).touch()
  with pytest.raises(UserError, match=message):
    input_paths.check_files("input_file", names)
