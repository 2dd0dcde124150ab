"""Tests of run_report.py: the pages of runs."""

import json
import re

import browser
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
from tasks import metrics

HOSTILE = (
  '<script>alert(1)</script> "><img src=x onerror=alert(2)> </style> \ud800'
)
RIGHT_TO_LEFT = "שלום עולם"


def classify(folder, texts, kind=heads.SINGLE_LABEL, labels=("no", "yes")):
  """Writes a run that classified texts: the first half of them rightly."""
  classifier = classifier_config.ClassifierConfig(
    kind, labels, tokenizer_settings.TokenizerSettings(), 16, "truncate"
  )
  half = len(texts) // 2
  targets = np.arange(len(texts)) % 2
  decisions = np.where(np.arange(len(texts)) < half, targets, 1 - targets)
  examples = [
    classification.Example("x", str(i), text, None, labels[target])
    for i, (text, target) in enumerate(zip(texts, targets))
  ]
  scores = metrics.accuracy_and_macro_f1(targets, decisions)
  scores = {f"eval_{name}": score for name, score in scores.items()}
  lines = [f"{name} = {score}" for name, score in scores.items()]
  (folder / "eval_results.txt").write_text("\n".join(lines) + "\n")
  classification_report.write_examples(
    str(folder),
    "dev",
    classifier,
    examples,
    [labels[decision] for decision in decisions],
    np.eye(len(labels))[decisions] * 2.0,
    scores,
  )
  return scores


def test_text_of_data_is_never_markup(tmp_path):
  texts = [HOSTILE, RIGHT_TO_LEFT, HOSTILE, "x"]
  classify(tmp_path, texts, labels=(HOSTILE.strip("\ud800 "), "'yes' & \"no\""))
  page = html_pages.read_page(tmp_path)
  assert len(page.attributes("script")) == len(page.attributes("style")) == 1
  assert not page.attributes("img")
  assert page.text.count("onerror=alert(2)>") >= 2
  assert RIGHT_TO_LEFT in page.text
  for tag, attributes in page.elements:
    assert not [name for name in attributes if name.startswith("on")], tag
    assert not {"src", "srcset"} & set(attributes), tag
  # Nothing but the page's own script may run, and nothing is loaded.
  (policy,) = [a for a in page.attributes("meta") if "http-equiv" in a]
  assert re.search(
    "default-src 'none'.*script-src 'sha256-[^ ]*';", policy["content"]
  )


def test_scores_are_those_of_the_result_file(tmp_path):
  scores = classify(tmp_path, ["a", "b", "c", "d"] * 10)
  cells = html_pages.read_page(tmp_path).cells
  for name, score in scores.items():
    place = cells.index(name)
    assert cells[place + 1] == f"{score:.5g}"
    low, high = map(float, cells[place + 2].split(" to "))
    assert low < score < high


def test_cells_of_the_matrix_lead_to_examples(tmp_path):
  classify(tmp_path, ["a", "b", "c", "d"] * 2)
  page = html_pages.read_page(tmp_path)
  buttons = [a for a in page.attributes("button") if "data-list" in a]
  assert len(buttons) == 4
  for button in buttons:
    wanted = json.loads(button["data-facets"])
    pairs = {f"{key}={value}" for key, value in wanted.items()}
    assert sum(pairs <= set(facets) for facets in page.facets()) == 2


def test_many_predictions_stay_below_two_megabytes(tmp_path):
  texts = [f"{i} " + "<&> a long text " * 30 for i in range(10_000)]
  classify(tmp_path, texts)
  page = html_pages.read_page(tmp_path)
  shown = page.facets()
  assert 500 < len(shown) < 10_000
  assert f"A sample: {len(shown)} of 10000 examples" in page.text
  # Every kind of mistake has examples.
  assert len({tuple(facets) for facets in shown}) == 4


def test_curves_show_the_values_of_the_log(tmp_path):
  lines = [
    {"step": 1, "loss": 3.0, "masked_lm_loss": 2.5, "learning_rate": 0.1},
    {"step": 2, "evaluation": {"loss": 2.25, "accuracy": 0.5}},
    {"step": 3, "loss": None, "masked_lm_loss": 1.5, "learning_rate": 0.0},
  ]
  (tmp_path / "training_log.jsonl").write_text(
    "\n".join(map(json.dumps, lines))
  )
  figures = html_pages.read_page(tmp_path).attributes("figure")
  curves = {}
  for figure in figures:
    for curve in json.loads(figure["data-curves"]):
      curves[curve["name"]] = [point[1:] for point in curve["points"]]
  assert curves["training"] == [["1", "3"]]
  assert curves["evaluation"] == [["2", "2.25"]]
  assert curves["accuracy"] == [["2", "0.5"]]
  assert curves["masked_lm_loss"] == [["1", "2.5"], ["3", "1.5"]]


@pytest.mark.parametrize("line", ["[]", '{"kind": "x"}', "{}", '{"id": 3}'])
@pytest.mark.parametrize("number", [0, 1])
def test_damaged_examples_are_refused(tmp_path, line, number):
  classify(tmp_path, ["a", "b"])
  path = tmp_path / "report_dev.jsonl"
  lines = path.read_text().splitlines()
  lines[number] = line
  path.write_text("\n".join(lines))
  with pytest.raises(errors.UserError, match=r"report_dev\.jsonl"):
    run_report.make_page(str(tmp_path))


def test_a_folder_without_a_run_is_refused(tmp_path):
  with pytest.raises(errors.UserError, match="neither scores nor a log"):
    run_report.make_page(str(tmp_path))
  with pytest.raises(errors.UserError, match="is no folder"):
    run_report.make_page(str(tmp_path / "x"))


VISIBLE = "document.querySelectorAll('ul.items > li:not([hidden])').length"


@pytest.mark.large
def test_filters_and_links_work_in_a_browser(tmp_path):
  """Nothing leaves the page, and text of the data stays text."""
  classify(tmp_path, [HOSTILE, RIGHT_TO_LEFT, "x" * 300, "y"] * 20)
  path = run_report.write(str(tmp_path))
  with browser.opened() as page:
    page.open(path)
    assert page.evaluate(VISIBLE) == 40
    page.evaluate("document.querySelector('button.more').click()")
    assert page.evaluate(VISIBLE) == 80
    page.evaluate("document.querySelector('td button').click()")
    assert page.evaluate(VISIBLE) == 20
    page.evaluate(
      "const search = document.querySelector('input[type=search]');"
      "search.value = 'onError'; search.dispatchEvent(new Event('input'))"
    )
    assert page.evaluate(VISIBLE) == 10
    # The arrow keys show the values of a chart.
    page.evaluate(
      "document.querySelector('figure svg').dispatchEvent("
      "new KeyboardEvent('keydown', {key: 'ArrowRight'}))"
    )
    output = "document.querySelector('figure output').textContent"
    shown = page.evaluate(output)
    assert shown == "probability 0: perfect calibration 0"
    for width in (360, 1200):
      page.resize(width)
      needed = page.evaluate("document.documentElement.scrollWidth")
      assert needed <= width
    assert page.requests == [f"file://{path}"]
    assert not page.errors
