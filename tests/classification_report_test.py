"""Tests of classification_report.py; run_report_test.py has those of labels."""

import html_pages
import numpy as np

from data import tokenizer_settings
import heads
from reports import classification_report
from tasks import classification
from tasks import classifier_config


def write(folder, kind, labels, rows, logits):
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
    str(folder), "dev", classifier, examples, predictions, np.array(logits), {}
  )
  return html_pages.read_page(folder)


def test_values_are_drawn_against_correct_ones(tmp_path):
  rows = [(1.0, 1.5), (2.0, 5.0), (3.0, 3.0)]
  page = write(tmp_path, heads.REGRESSION, (), rows, [[1.5], [5.0], [3.0]])
  (figure,) = page.attributes("figure")
  assert '"predicted", "points": [[' in figure["data-curves"]
  shown = [text for text in page.texts if text.startswith("text ")]
  assert shown == ["text 1", "text 0", "text 2"]  # the largest error first


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
