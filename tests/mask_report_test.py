"""Tests of mask_report.py."""

import json

import builders
import html_pages
import numpy as np
import pytest

import errors
from reports import mask_report
from reports import run_report

WORDS = dict(enumerate(builders.TOKENS))


def outputs(best):
  """Returns the predictions for `un ##[MASK] <b> [MASK]` and a filler."""
  ids = [builders.VOCAB[t] for t in ("un", "[MASK]", "cat", "[MASK]", "[PAD]")]
  return {
    "input_ids": np.array(ids),
    "input_mask": np.array([1, 1, 1, 1, 0]),
    "masked_lm_positions": np.array([1, 3, 0]),
    "masked_lm_ids": np.array([builders.VOCAB["##able"], 10**6, 0]),
    "masked_lm_weights": np.array([1.0, 1.0, 0.0]),
    "choices": np.full([3, 2], builders.VOCAB[best]),
    "probabilities": np.full([3, 2], 0.25),
  }


def add_steps(folder, *steps, start=0, best="##able", words=WORDS):
  history = mask_report.MaskHistory(
    str(folder), start, 10, words, lambda: [outputs(best)]
  )
  for step in steps:
    history.add(step)
  path = folder / mask_report.FILE
  return path.read_bytes() if path.exists() else None


def test_words_of_first_middle_and_last_step(tmp_path):
  add_steps(tmp_path, 10, 20, 30, best="dog")
  add_steps(tmp_path, 40, 50, 60, 61, start=30)
  page = html_pages.read_page(tmp_path)
  assert page.marked == ["[MASK] 1", "[MASK] 2"]
  place = page.cells.index("step 10")
  assert page.cells[place : place + 3] == ["step 10", "step 30", "step 61"]
  assert page.cells[place + 3 : place + 8] == [
    *("1", "##able", "dog 25.0%dog 25.0%", "dog 25.0%dog 25.0%"),
    "✓ ##able 25.0%✓ ##able 25.0%",
  ]
  assert page.cells[place + 9] == "[1000000]"


def test_a_resumed_run_leaves_the_same_file(tmp_path):
  (tmp_path / "twin").mkdir()
  steps = range(10, 330, 10)
  whole = add_steps(tmp_path / "twin", *steps, 325)
  add_steps(tmp_path, *range(10, 270, 10))
  # Killed after step 260; the newest checkpoint is that of step 190.
  assert add_steps(tmp_path, *range(190, 330, 10), 325, start=190) == whole
  kept = [entry["step"] for entry in json.loads(whole)["steps"]]
  assert kept == [10, 40, 80, 120, 160, 200, 240, 280, 320, 325]


def test_a_new_run_forgets_the_old_one(tmp_path):
  add_steps(tmp_path, 10, 20)
  assert add_steps(tmp_path, words={}) is None


def test_an_error_does_not_end_the_training(tmp_path, caplog):
  calls = []

  def fail():
    calls.append(1)
    raise ValueError("x")

  history = mask_report.MaskHistory(str(tmp_path), 0, 10, WORDS, fail)
  history.add(10)
  history.add(20)
  assert len(calls) == 1 and "lacks masked words: ValueError" in caplog.text


@pytest.mark.parametrize(
  "old, new",
  [
    ('"records"', '"x"'),
    ('"positions": [', '"positions": [99, '),
    ('"correct": [', '"correct": [3, '),
    ("0.25", '"x"'),
    ('"predictions"', '"x"'),
    ('"step": 10', '"step": "x"'),
  ],
)
def test_damaged_files_are_refused(tmp_path, old, new):
  text = add_steps(tmp_path, 10).decode()
  text = json.dumps(json.loads(text)).replace(old, new)
  (tmp_path / mask_report.FILE).write_text(text)
  with pytest.raises(errors.UserError, match=mask_report.FILE):
    run_report.make_page(str(tmp_path))
