"""Tests of choice_report.py."""

import html_pages
import numpy as np
import pytest

import errors
from reports import choice_report
from reports import run_report
from tasks import swag


def test_choices_are_shown_with_their_probabilities(tmp_path):
  fields = [
    ("0", "the cat", ("sat", "<b>ran</b>"), 0),
    ("1", "the dog", ("sat", "ran"), 1),
  ]
  examples = [swag.ChoiceExample(*row) for row in fields]
  (tmp_path / "eval_results.txt").write_text("eval_accuracy = 0.5\n")
  logits = np.log([[0.25, 0.75], [0.125, 0.875]])
  choice_report.write_examples(
    str(tmp_path), "dev", examples, logits, {"eval_accuracy": 0.5}
  )
  page = html_pages.read_page(tmp_path)
  assert [sorted(facets) for facets in page.facets()] == [
    ["prediction=1", "state=wrong"],
    ["prediction=1", "state=right"],
  ]
  assert "<b>ran</b>" in page.text and "75.0%" in page.text
  assert page.cells[page.cells.index("eval_accuracy") + 2] == "0 to 1"
  path = tmp_path / "report_dev.jsonl"
  path.write_text(
    path.read_text().replace('"prediction": 1', '"prediction": 2')
  )
  with pytest.raises(errors.UserError, match="a choice that it does not have"):
    run_report.make_page(str(tmp_path))
