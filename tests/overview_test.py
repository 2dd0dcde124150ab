"""Tests of overview.py."""

import json

import pytest

from data import tokenizer_settings
from reports import overview
from reports import run_files
from reports import run_log
from tasks import classifier_config


def read_log(folder, *records):
  path = folder / "training_log.jsonl"
  path.write_text("".join(json.dumps(record) + "\n" for record in records))
  return run_log.read_lines(str(path))


def find_curves(part):
  """Returns title of a chart -> name of a curve -> its y values."""
  return {
    chart["title"]: {
      curve["name"]: [y for _, _, y in curve["points"]]
      for curve in chart["hover"]
    }
    for chart in part.content["charts"]
  }


def test_all_warnings_stand_in_one_place(tmp_path):
  commands = [
    run_files.Command("x.py", [], 1.0, ["slow", "odd"]),
    run_files.Command("y.py", [], 1.0, ["odd"]),
  ]
  log = read_log(tmp_path, {"step": 1}, {"step": 2, "skipped_steps": 3})
  results = {
    "eval_results.txt": {"f1": "0.49999999", "global_step": "1234567"},
    "test_scores.txt": {"f1": "0.25"},
  }
  intervals = {"eval_results.txt": {"f1": "0.4 to 0.6"}}
  part = overview.make_scores_part(results, intervals, commands, log)
  warnings = part.content["warnings"]
  assert warnings[:2] == ["slow", "odd"] and warnings[2].startswith("3 steps")
  dev, test = part.content["tables"]
  assert dev["rows"] == [
    ["f1", "0.5", "0.4 to 0.6"],
    ["global_step", "1234567", ""],
  ]
  assert test["rows"] == [["f1", "0.25"]]  # without an empty column


@pytest.mark.parametrize("name", ["loss", "eval_loss"])
def test_curves_of_training_and_evaluation(tmp_path, name):
  log = read_log(
    tmp_path,
    {"step": 1, "loss": 3.0, "a_loss": 2.0, "b_loss": 1.0, "gradient_norm": 7},
    {
      "step": 1,
      "evaluation": {name: 2.5, "a_loss": 1.5, "f1": 0.5, "global_step": 1},
    },
    {"step": 2, "loss": 2.0, "a_loss": 1.0, "b_loss": 1.0, "gradient_norm": 5},
  )
  assert find_curves(overview.make_curves_part(log)) == {
    "Loss": {"training": ["3", "2"], "evaluation": ["2.5"]},
    "Parts of the loss": {
      "a_loss": ["2", "1"],
      "a_loss, evaluation": ["1.5"],
      "b_loss": ["1", "1"],
    },
    "Scores of evaluations": {"f1": ["0.5"]},
    "Gradient norm": {"gradient_norm": ["7", "5"]},
  }


def test_a_run_has_no_empty_parts(tmp_path):
  assert overview.make_scores_part({}, {}, [], []) is None
  assert overview.make_curves_part([]) is None
  assert overview.make_data_part(str(tmp_path), {}, [], [], None) is None


def test_data_and_time_in_numbers(tmp_path):
  classifier_config.ClassifierConfig(
    "single_label",
    ("no", "yes"),
    tokenizer_settings.TokenizerSettings(),
    16,
    "truncate",
  ).write(str(tmp_path))
  splits = [
    run_files.SplitSummary("train", 60_000, [3, 9, 4], [1, 0, 1], 2),
    run_files.SplitSummary("test", 1, [5], [0]),
  ]
  # 20 steps of 4 examples at 8 a second, and 10 steps at 2 a second.
  log = read_log(
    tmp_path,
    {"step": 20, "examples_per_second": 8.0},
    {"step": 30, "examples_per_second": 2.0},
  )
  part = overview.make_data_part(
    str(tmp_path), {"hidden_size": 32, "x": 1}, splits, log, 4
  )
  model, lengths, labels, time = [t["rows"] for t in part.content["tables"]]
  assert model == [("hidden_size", 32)]
  assert lengths == [("train", 60_000, 3, 4, 9, 2), ("test", 1, 5, 5, 5, "-")]
  # The labels of examples to predict may be placeholders.
  assert labels == [("no", 1), ("yes", 2)]
  assert time == [
    ("steps", "30"),
    ("examples per second", "5"),
    ("time of training", "30 s"),
  ]
  assert part.content["is_sampled"]


def test_commands_can_be_pasted():
  commands = [run_files.Command("x.py", ["--name=a b", "--x=$y"], 3725.0)]
  settings = {"seed": 1, "names": ["a", "b"], "none": None}
  content = overview.make_commands_part(commands, settings).content
  assert content["commands"] == [
    {"text": "python x.py '--name=a b' '--x=$y'", "time": "1 h 2 min 5 s"}
  ]
  assert content["flags"] == ["--names=a,b", "--seed=1"]


@pytest.mark.parametrize(
  "seconds, text",
  [
    (0.25, "0.25 s"),
    (59.4, "59.4 s"),
    (60, "1 min 0 s"),
    (3600, "1 h 0 min 0 s"),
  ],
)
def test_times_are_readable(seconds, text):
  assert overview.format_seconds(seconds) == text
