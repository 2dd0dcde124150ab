"""Tests of classification_report.py; run_report_test.py has those of labels."""

import json

import html_pages
import numpy as np
import pytest

from data import tokenizer_settings
import errors
import heads
from reports import classification_report
from reports import run_report
from tasks import classification
from tasks import classifier_config


def write(folder, kind, labels, rows, logits, explain=None):
  """Writes rows of label and prediction as examples, and returns the page."""
  classifier = classifier_config.ClassifierConfig(
    kind, labels, tokenizer_settings.TokenizerSettings(), 16, "truncate"
  )
  examples = [
    classification.Example("x", str(n), f"text {n}", None, label)
    for n, (label, _) in enumerate(rows)
  ]
  predictions = [prediction for _, prediction in rows]
  classification_report.write_examples(
    str(folder),
    "dev",
    classifier,
    examples,
    predictions,
    np.array(logits),
    {},
    explain,
  )
  return html_pages.read_page(folder)


def test_values_are_drawn_against_correct_ones(tmp_path):
  rows = [(1.0, 1.5), (2.0, 5.0), (3.0, 3.0)]
  page = write(tmp_path, heads.REGRESSION, (), rows, [[1.5], [5.0], [3.0]])
  (figure,) = page.attributes("figure")
  assert '"predicted", "points": [[' in figure["data-curves"]
  shown = [text for text in page.texts if text.startswith("text ")]
  assert shown == ["text 1", "text 0", "text 2"]  # the largest error first


def test_a_large_matrix_has_the_labels_with_the_most_mistakes(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(classification_report, "_MOST_MATRIX_LABELS", 2)
  rows = [("a", "a"), ("b", "c"), ("c", "c"), ("d", "d")]
  logits = np.eye(4)[[0, 2, 2, 3]]
  page = write(tmp_path, heads.SINGLE_LABEL, tuple("abcd"), rows, logits)
  assert "The 2 labels with the most mistakes, of 4" in page.text
  # Label, and how often each of the two was predicted.
  place = page.cells.index("b", page.cells.index("c"))
  assert page.cells[place : place + 6] == ["b", "0", "1", "c", "0", "1"]


def test_several_labels_are_scored_one_by_one(tmp_path):
  rows = [(("a", "b"), ["a"]), ((), ["a"]), (("c",), [])]
  logits = [[2.0, -2.0], [2.0, -2.0], [-2.0, -2.0]]
  # No training example has the label c.
  page = write(tmp_path, heads.MULTI_LABEL, ("a", "b"), rows, logits)
  place = page.cells.index("a")
  # Examples, predictions, precision, recall, F1.
  assert page.cells[place + 1 : place + 6] == [
    *("1", "2", "0.5000", "1.0000", "0.6667")
  ]
  assert page.cells[page.cells.index("c") + 1] == "1"
  assert all("state=wrong" in facets for facets in page.facets())


def explain(texts, outputs):
  """Says that each text rests on its first word, and against its number."""
  assert len(texts) == len(outputs)
  return [
    [[(0, 4, 1.5 + output), (5, len(text), -0.25)] for text in texts_of_example]
    for texts_of_example, output in zip(texts, outputs)
  ]


def test_words_are_marked_in_the_worst_mistakes_and_some_others(tmp_path):
  labels = ("no", "yes")
  # 20 mistakes, of which the later ones are surer, then 80 right ones.
  rows = [("no", "yes")] * 20 + [("yes", "yes")] * 80
  logits = [[0.0, 0.2 * number + 0.1] for number in range(100)]
  page = write(tmp_path, heads.SINGLE_LABEL, labels, rows, logits, explain)
  lines = (tmp_path / "report_dev.jsonl").read_text().splitlines()[1:]
  explained = [n for n, line in enumerate(lines) if "words" in json.loads(line)]
  assert set(range(8, 20)) <= set(explained) and explained[-1] == 99
  assert len(explained) == 24
  marked = [facets for facets in page.facets() if "words=marked" in facets]
  assert len(marked) == 24
  # One of each kind is in the note above the list.
  assert page.marked[2:4] == ["text", "19"] and len(page.marked) == 2 + 2 * 24
  assert page.text.count("words for it: text (+2.5)") == 24
  assert page.text.count("words against it: 19 (-0.25)") == 1


@pytest.mark.parametrize(
  "words", ["3", "[]", "[[[0, 2]]]", "[[[4, 5, 1], [0, 1, 1]]]"]
)
def test_damaged_words_are_refused(tmp_path, words):
  write(tmp_path, heads.SINGLE_LABEL, ("no",), [("no", "no")], [[1.0]])
  path = tmp_path / "report_dev.jsonl"
  text = path.read_text()
  path.write_text(text.replace('"text_b"', f'"words": {words}, "text_b"'))
  with pytest.raises(errors.UserError, match=r"report_dev\.jsonl"):
    run_report.make_page(str(tmp_path))
