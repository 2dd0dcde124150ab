"""Tests of training/time_budget.py."""

import pytest

from errors import UserError
from training import time_budget


def measure(times, steps, seconds):
  """Returns the calls of a timer that saw steps end at some times."""
  clock = iter(times)
  timer = time_budget.StepTimer(seconds, lambda: next(clock))
  return timer, [timer(step, None) for step in steps]


def test_compilation_does_not_count_as_time_of_a_step():
  # The first call takes 10 s, with 2 steps of 0.5 s among them.
  timer, answers = measure([100, 110, 112, 114], [2, 6, 10], seconds=4)
  assert answers == [False, False, True]
  assert timer.times() == time_budget.StepTimes(9.0, 0.5)


def test_a_few_steps_are_measured_even_if_they_take_long():
  _, answers = measure([0, 1, 60, 120, 180], [1, 2, 3, 4], seconds=5)
  assert answers == [False, False, False, True]


def test_the_steps_fill_the_time_that_is_left():
  fast, slow = time_budget.StepTimes(20, 0.5), time_budget.StepTimes(30, 2.0)
  budget = time_budget.plan(0.5, 100, [(fast, 0.9), (slow, 0.1)], None)
  seconds = 100 + 20 + 30 + budget.num_train_steps * (0.9 * 0.5 + 0.1 * 2.0)
  assert 1799 <= seconds <= 1800
  assert budget.num_warmup_steps == budget.num_train_steps // 10
  assert time_budget.plan(0.5, 100, [(fast, 1.0)], 7).num_warmup_steps == 7


@pytest.mark.parametrize(
  "hours, num_warmup_steps", [(0.001, None), (0.02, None), (0.1, 600)]
)
def test_a_time_that_is_too_short_is_refused(hours, num_warmup_steps):
  times = time_budget.StepTimes(20, 0.5)
  with pytest.raises(UserError, match=f"train_hours={hours:g} is too short"):
    time_budget.plan(hours, 70, [(times, 1.0)], num_warmup_steps)


@pytest.mark.parametrize(
  "content",
  [
    b"{}",
    b"[]",
    b'{"train_hours": 1, "num_train_steps": "9", "num_warmup_steps": 1}',
    b'{"train_hours": 1, "num_train_steps": true, "num_warmup_steps": 1}',
    b'{"train_hours": 1, "num_train_steps": 0, "num_warmup_steps": 1}',
    b'{"train_hours": 1, "num_train_steps": 9.5, "num_warmup_steps": 1}',
  ],
)
def test_a_damaged_file_is_refused(tmp_path, content):
  (tmp_path / "time_budget.json").write_bytes(content)
  with pytest.raises(UserError, match="time_budget.json"):
    time_budget.read(str(tmp_path), 1.0, False)


def test_a_budget_is_read_as_it_was_written(tmp_path):
  budget = time_budget.TimeBudget(1.5, 9, 1)
  assert time_budget.read(str(tmp_path), 1.5, False) is None
  budget.write(str(tmp_path))
  assert time_budget.read(str(tmp_path), 1.5, True) == budget


def test_a_run_that_was_begun_with_another_length_is_refused(tmp_path):
  with pytest.raises(UserError, match="begun with a number of steps"):
    time_budget.read(str(tmp_path), 1.5, True)
  time_budget.TimeBudget(1.5, 9, 1).write(str(tmp_path))
  with pytest.raises(UserError, match="begun with --train_hours=1.5"):
    time_budget.read(str(tmp_path), 2.0, True)
