"""Tests of run_state.py."""

import json
import math

import pytest

from errors import UserError
from training import run_state


def best_after(metric, *scores):
  """Returns the step of the best of the scores, which come every ten steps."""
  state = run_state.RunState()
  is_best = [
    state.record_score(10 * number, metric, score)
    for number, score in enumerate(scores, 1)
  ]
  assert state.evaluated_step == 10 * len(scores)
  if state.best is None:
    assert not any(is_best)
    return None
  assert is_best[state.best.step // 10 - 1]
  assert not any(is_best[state.best.step // 10 :])
  return state.best.step


def test_the_lowest_loss_and_the_highest_other_score_is_the_best():
  assert best_after("eval_loss", 3.0, 1.0, 2.0) == 20
  assert best_after("eval_accuracy", 1.0, 3.0, 2.0) == 20


def test_an_equal_score_is_not_better():
  assert best_after("f1", 1.0, 1.0) == 10


@pytest.mark.parametrize("metric", ["loss", "f1"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_is_never_the_best(metric, bad):
  assert best_after(metric, bad) is None
  assert best_after(metric, bad, 1.0) == 20
  assert best_after(metric, 1.0, bad) == 10
  assert best_after(metric, 1.0, bad, bad, 1.5 if metric == "f1" else 0.5) == 40


def test_scores_stop_improving_after_some_that_are_not_better():
  state = run_state.RunState()
  assert not state.has_stopped_improving(2)
  for step, score, stops in [
    (1, 0.5, False),
    (2, 0.4, False),
    (3, 0.5, True),
    (4, 0.6, False),
    (5, math.nan, False),  # it says nothing about the weights
    (6, 0.1, False),
    (7, 0.1, True),
  ]:
    state.record_score(step, "f1", score)
    assert state.has_stopped_improving(2) == stops, step
    assert not state.has_stopped_improving(0)


def test_evaluations_are_due_once_for_each_of_their_steps():
  state = run_state.RunState()
  due = [step for step in range(9) if state.is_evaluation_due(step, 4)]
  assert due == [4, 8]
  state.record_score(8, "f1", math.nan)
  assert not state.is_evaluation_due(8, 4)
  assert state.is_evaluation_due(12, 4)


def test_state_survives_a_file():
  state = run_state.RunState(
    [1, 2, 3, 4], 32, [2.0**15, 7.0], 3, None, None, {"seed": 1}
  )
  state.record_score(10, "f1", 0.5)
  state.record_score(20, "f1", 0.25)
  fields = json.loads(json.dumps(state.to_json()))
  assert fields["best"] == {
    "step": 10,
    "metric": "f1",
    "value": 0.5,
    "evaluations_since": 1,
  }
  assert run_state.RunState.from_json(fields, "x.json") == state


def test_states_of_other_programs_are_read():
  state = run_state.RunState.from_json({"f1": 0.5, "skipped_steps": 2}, "x")
  assert state == run_state.RunState(skipped_steps=2)


BEST = {"step": 1, "metric": "f1", "evaluations_since": 0, "value": 0.5}


@pytest.mark.parametrize(
  "name, value",
  [
    ("input_position", [1, -1]),
    ("input_position", 1),
    ("train_batch_size", 0),
    ("train_batch_size", True),
    ("loss_scale", [True, 7]),
    ("loss_scale", [1.0]),
    ("skipped_steps", None),
    ("skipped_steps", 2**63),
    ("best", [1]),
    ("best", {**BEST, "step": 1.5}),
    ("best", {**BEST, "metric": None}),
    ("best", {**BEST, "value": 10**400}),
    ("best", {**BEST, "value": "1"}),
    ("best", {**BEST, "evaluations_since": -1}),
    ("evaluated_step", "1"),
    ("settings", []),
  ],
)
def test_values_that_no_run_has_are_damage(name, value):
  with pytest.raises(UserError, match=f"x.json is damaged: it has {name}="):
    run_state.RunState.from_json({name: value}, "x.json")
