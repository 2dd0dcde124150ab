"""Tests of earlier_files.py."""

import html_pages
import pytest

import errors
from reports import run_report


def test_files_of_results_make_parts(tmp_path):
  (tmp_path / "confusion_matrix.tsv").write_text(
    "label\tpredicted no\tpredicted yes\nno\t3\t1\nyes\t0\t4\n"
  )
  (tmp_path / "worst_mistakes.tsv").write_text(
    "id\tloss\tlabel\tprediction\ttext_a\ttext_b\n"
    '7\t2.5\tno\tyes\t"<b>bad</b> ""x"""\t\n'
  )
  (tmp_path / "nbest_predictions.json").write_text(
    '{"q1": [{"text": "", "probability": 0.75}]}'
  )
  page = html_pages.read_page(tmp_path)
  place = page.cells.index("no")
  assert page.cells[place : place + 3] == ["no", "3", "1"]
  place = page.cells.index("7")
  assert page.cells[place + 4] == '<b>bad</b> "x"'
  assert page.cells[page.cells.index("q1") + 1] == "no answer (75.0%)"


@pytest.mark.parametrize(
  "name, text",
  [
    ("confusion_matrix.tsv", "label\tpredicted no\nno\tmany\n"),
    ("confusion_matrix.tsv", "label\tpredicted no\nno\n"),
    ("test_predictions.tsv", "id\tprediction\n1\n"),
    ("nbest_predictions.json", '{"q1": [{"text": "x"}]}'),
    ("nbest_predictions.json", '{"q1": 3}'),
  ],
)
def test_damaged_files_are_refused(tmp_path, name, text):
  (tmp_path / name).write_text(text)
  with pytest.raises(errors.UserError, match=name):
    run_report.make_page(str(tmp_path))
