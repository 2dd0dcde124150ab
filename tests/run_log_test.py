"""Tests of run_log.py."""

import json

import pytest

import errors
from reports import run_log


def read(tmp_path, *lines):
  path = tmp_path / "training_log.jsonl"
  texts = [x if isinstance(x, str) else json.dumps(x) + "\n" for x in lines]
  path.write_text("".join(texts))
  assert run_log.log_file(str(tmp_path)) == str(path)
  return run_log.read_lines(str(path))


def test_training_and_evaluation_have_their_own_curves(tmp_path):
  lines = read(
    tmp_path,
    {"step": 1, "loss": 2.0},
    {"step": 1, "evaluation": {"loss": 3.0, "f1": 0.5}},
    # Python writes these for numbers that are not finite.
    {"step": 2, "loss": float("nan")},
    {"step": 3, "loss": 1, "note": "NaN"},
  )
  assert run_log.read_curve(lines, "loss", False) == [(1, 2.0), (3, 1)]
  assert run_log.read_curve(lines, "loss", True) == [(1, 3.0)]
  assert run_log.read_curve(lines, "f1", False) == []
  assert lines[3].record["note"] == "NaN"


def test_half_a_line_at_the_end_is_left_out(tmp_path):
  lines = read(tmp_path, {"step": 1, "loss": 2.0}, '{"step": 2, "lo')
  assert [line.get_step() for line in lines] == [1]
  with pytest.raises(errors.UserError, match="line 1"):
    read(tmp_path, '{"step": 2, "lo\n', {"step": 1, "loss": 2.0})


@pytest.mark.parametrize(
  "line",
  [
    {"step": "1", "loss": 2.0},
    {"step": 1.5, "loss": 2.0},
    {"step": True, "loss": 2.0},
    {"step": 2**70, "loss": 2.0},
    {"step": 1, "loss": "2"},
    {"step": 1, "loss": 1e300},
    {"loss": 2.0},
  ],
)
def test_values_that_no_training_writes_are_refused(tmp_path, line):
  lines = read(tmp_path, line)
  with pytest.raises(errors.UserError, match=r"log\.jsonl, line 1"):
    run_log.read_curve(lines, "loss", of_evaluations=False)


def test_scores_of_an_evaluation_are_an_object(tmp_path):
  with pytest.raises(errors.UserError, match="evaluation=3 is no object"):
    read(tmp_path, {"step": 1, "evaluation": 3})
