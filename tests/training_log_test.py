"""Tests of training_log.py."""

import itertools
import json
import math

from absl import logging
import numpy as np
import pytest

from command_line import messages
from training import training_log
from training import training_step


def report(*losses, norms=None, loss_scale=1.0):
  """Returns the report of steps with two parts of the loss, a third and two."""
  losses = np.array(losses, np.float32)
  ones = np.ones_like(losses)
  return training_step.StepReport(
    {"a": losses / 3, "b": losses * 2 / 3},
    ones if norms is None else np.array(norms, np.float32),
    loss_scale * ones,
    100 * ones,
    1e9 * ones,
  )


@pytest.fixture
def clock(monkeypatch):
  """Replaces the clock by one that is one second later at each look."""
  seconds = itertools.count(1000)
  monkeypatch.setattr(
    training_log.time, "monotonic", lambda: float(next(seconds))
  )


@pytest.fixture
def lines(monkeypatch):
  """The lines about steps that are shown on the screen."""
  shown = []

  def show(text, *args):
    if "%" in text:
      shown.append(text % args)

  monkeypatch.setattr(logging, "info", show)
  return shown


def read_records(folder):
  text = (folder / "training_log.jsonl").read_text()
  return [json.loads(line) for line in text.splitlines()]


def test_a_line_has_the_means_of_its_steps(tmp_path, clock):
  with training_log.Progress(str(tmp_path), 0, 4, 32, 4e9) as progress:
    progress.report_steps(2, report(3.0, 9.0, norms=[1.0, 2.0]), 0.5, 0)
    progress.report_evaluation(2, {"f1": 0.5})
    progress.report_steps(4, report(3.0, 3.0), 0.25, 0)
  first, evaluation, second = read_records(tmp_path)
  assert list(first) == [
    "step",
    "loss",
    "a",
    "b",
    "learning_rate",
    "gradient_norm",
    "examples_per_second",
    "tokens_per_second",
    "model_flops_per_second",
    "model_flop_utilisation",
  ]
  # Two steps in a second.
  assert first == {
    "step": 2,
    "loss": 6.0,
    "a": 2.0,
    "b": 4.0,
    "learning_rate": 0.5,
    "gradient_norm": 1.5,
    "examples_per_second": 64.0,
    "tokens_per_second": 200.0,
    "model_flops_per_second": 2e9,
    "model_flop_utilisation": 0.5,
  }
  assert evaluation == {"step": 2, "evaluation": {"f1": 0.5}}
  assert (second["step"], second["loss"]) == (4, 3.0)


def test_steps_that_are_not_finite_do_not_count_in_means(tmp_path, clock):
  with training_log.Progress(str(tmp_path), 0, 5, 32, None) as progress:
    progress.report_steps(3, report(3.0, math.nan, 5.0), 0.5, 1)
    progress.report_evaluation(3, {})
    bad = report(math.nan, math.inf, norms=[math.inf, math.nan])
    progress.report_steps(5, bad, 0.5, 3)
  first, _, second = read_records(tmp_path)
  assert (first["loss"], first["skipped_steps"]) == (4.0, 1)
  assert second["loss"] is second["gradient_norm"] is second["a"] is None
  assert second["skipped_steps"] == 3
  assert "tokens_per_second" not in first


def test_the_scale_of_the_loss_is_logged_where_there_is_one(tmp_path, clock):
  with training_log.Progress(str(tmp_path), 0, 2, 32, None) as progress:
    progress.report_steps(2, report(1.0, 1.0, loss_scale=8.0), 0.5, 0)
  assert read_records(tmp_path)[0]["loss_scale"] == 8.0


def test_calls_share_a_line_where_there_would_be_too_many(tmp_path, clock):
  with training_log.Progress(str(tmp_path), 0, 20_000, 32, None) as progress:
    for step in range(1, 11):
      progress.report_steps(step, report(float(step)), 0.5, 0)
  records = read_records(tmp_path)
  assert [record["step"] for record in records] == [4, 8, 10]
  assert [record["loss"] for record in records] == [2.5, 6.5, 9.5]


def test_lines_about_steps_to_come_are_dropped(tmp_path):
  log = tmp_path / "training_log.jsonl"
  log.write_text('{"step": 2}\n{"step": 4}\n[]\n{"step": 3}\n{"step": 1, "los')
  with training_log.Progress(str(tmp_path), 3, 9, 32, None):
    pass
  assert log.read_text() == '{"step": 2}\n{"step": 3}\n'


def test_the_screen_shows_what_a_user_wants_to_know(clock, lines):
  with training_log.Progress(None, 0, 40, 32, 4e9) as progress:
    progress.report_steps(10, report(*[2.0] * 10), 0.5, 0)
    for step in (11, 12, 13):  # too soon for another line
      progress.report_steps(step, report(2.0), 0.5, 0)
    progress.report_steps(40, report(*[0.0] * 27), 1e-5, 2)
  assert lines == [
    "step 10/40  loss 2.0000  learning rate 0.5  320.0 examples/s  "
    "250% of peak",
    "step 40/40  loss 0.0000  learning rate 1e-05  864.0 examples/s  "
    "675% of peak  2 steps skipped",
  ]


def test_the_time_that_is_left_is_shown(clock, lines, monkeypatch):
  monkeypatch.setattr(messages, "SECONDS_PER_LINE", 0.0)
  with training_log.Progress(None, 0, 7300, 32, None) as progress:
    for step in (1, 2, 3):
      progress.report_steps(step, report(math.nan), 0.5, 0)
  assert lines[0].endswith("examples/s")  # the first call compiles
  assert lines[2].startswith("step 3/7300  loss nan  ")
  assert lines[2].endswith("  2:01:37 left")


def test_long_evaluations_show_how_far_they_are(monkeypatch, caplog):
  clock = iter([0.0, 4.0, 20.0, 21.0])
  monkeypatch.setattr(training_log.time, "monotonic", lambda: next(clock))
  counter = training_log.Counter()
  with caplog.at_level("INFO", logger="absl"):
    for _ in range(3):
      counter.add(32)
  assert [record.message for record in caplog.records] == [
    "  64 examples, 3.2 examples/s"
  ]
