"""Tests of run_files.py."""

import json

import pytest

from data import batching
from data import encoding
from data import record_files
import errors
from reports import run_files


def command(*arguments, warnings=()):
  return run_files.Command("run_x.py", list(arguments), 1.5, list(warnings))


def test_a_command_replaces_one_that_did_the_same(tmp_path):
  train = command("--do_train=true", "--learning_rate=1")
  again = command("--learning_rate=2", "--do_train=true")
  predict = command("--do_predict=true", warnings=["w"] * 80)
  for added in (train, predict, again):
    run_files.add_command(str(tmp_path), added)
  kept = run_files.read_commands(str(tmp_path))
  assert [c.arguments for c in kept] == [predict.arguments, again.arguments]
  assert len(kept[0].warnings) == 50 and kept[0].seconds == 1.5


@pytest.mark.parametrize(
  "text",
  [
    "[]",
    "{}",
    '{"commands": [3]}',
    '{"commands": [{"x": 1}]}',
    '{"commands": [{"program": 3, "arguments": [], "seconds": 1}]}',
    '{"commands": [{"program": "x", "arguments": [], "seconds": "x"}]}',
  ],
)
def test_damaged_commands_are_refused_and_replaced(tmp_path, text):
  (tmp_path / "report_run.json").write_text(text)
  with pytest.raises(errors.UserError, match=r"report_run\.json"):
    run_files.read_commands(str(tmp_path))
  run_files.add_command(str(tmp_path), command())
  assert run_files.read_commands(str(tmp_path)) == [command()]


def test_results_keep_the_digits_of_their_files(tmp_path):
  (tmp_path / "eval_results.txt").write_text("f1 = 0.10\nno score\na = b = c\n")
  (tmp_path / "test_scores_mismatched.txt").write_text("f1 = 1e-3\n")
  (tmp_path / "my_eval_results.txt").write_text("f1 = 2\n")
  assert run_files.read_results(str(tmp_path)) == {
    "eval_results.txt": {"f1": "0.10", "a": "b = c"},
    "test_scores_mismatched.txt": {"f1": "1e-3"},
  }


def write_records(folder, name, records, **facts):
  path = str(folder / name)

  def write():
    record_files.write_records(path, records)
    return facts

  record_files.reuse_or_write_file(path, "digest", write)


def test_records_are_summarized_by_split(tmp_path):
  records = []
  for length, label in [(3, 1), (5, 0), (4, 1)]:
    features = encoding.InputFeatures([7] * length, [0] * length)
    records.append(batching.create_task_record(features, label_ids=[label]))
  write_records(tmp_path, "train.tf_record", records, num_too_long=2)
  # An example with three choices, of which one is missing.
  features = encoding.InputFeatures([7] * 5, [0] * 5)
  choices = batching.create_task_record(
    features, label_ids=[0, 1], sequence_lengths=[2, 3, 0]
  )
  write_records(tmp_path, "eval.tf_record", [choices])
  value = batching.create_task_record(features, label_ids=[1.5])
  write_records(tmp_path, "predict.tf_record", [value])
  train, dev, test = run_files.summarize_splits(str(tmp_path))
  assert train == ("train", 3, [3, 5, 4], [1, 0, 1], 2)
  assert dev == ("dev", 1, [2, 3], [], None)
  assert test == ("test", 1, [5], [], None)
  assert not train.is_sampled


def test_settings_are_those_of_the_newest_checkpoint(tmp_path):
  assert run_files.read_settings(str(tmp_path)) == {}
  assert run_files.read_model_config(str(tmp_path)) == {}
  for step in (2, 10):
    for suffix in (".index", ".data-00000-of-00001"):
      (tmp_path / f"model.ckpt-{step}{suffix}").write_text("")
    state = {"settings": {"seed": step}, "model_config": {"hidden_size": step}}
    (tmp_path / f"model.ckpt-{step}.json").write_text(json.dumps(state))
  (tmp_path / "checkpoint").write_text(
    'model_checkpoint_path: "model.ckpt-10"\n'
    'all_model_checkpoint_paths: "model.ckpt-2"\n'
    'all_model_checkpoint_paths: "model.ckpt-10"\n'
  )
  assert run_files.read_settings(str(tmp_path)) == {"seed": 10}
  assert run_files.read_model_config(str(tmp_path)) == {"hidden_size": 10}


def test_flags_are_shown_as_they_are_typed():
  shown = [
    run_files.format_flag("x", value) for value in (True, ["a", 2], 0.1, "y z")
  ]
  assert shown == ["--x=true", "--x=a,2", "--x=0.1", "--x=y z"]
