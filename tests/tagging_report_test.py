"""Tests of tagging_report.py."""

import json

import html_pages
import pytest

import errors
from reports import run_report
from reports import tagging_report
from tasks import metrics
from tasks import ner

LABELS = ("B-loc", "B-per", "I-per", "O")
# words, correct tags, predicted tags, mistakes
SENTENCES = [
  ("Ann Lee met Bo", "B-per I-per O B-per", "B-per O O B-loc", "boundary type"),
  ("in Rome now", "O B-loc O", "O O B-per", "invented missed"),
  ("Bo <b>left</b>", "B-per O", "B-per O", ""),
]


@pytest.fixture
def run(tmp_path):
  """Folder of a run that tagged `SENTENCES`."""
  words, tags, predictions = (
    [sentence[column].split() for sentence in SENTENCES] for column in range(3)
  )
  sentences = [
    ner.Sentence(tuple(row), tuple(correct), 0, (), (number,))
    for number, (row, correct) in enumerate(zip(words, tags), 1)
  ]
  scores = metrics.entity_scores(tags, predictions)
  scores = {f"eval_{name}": score for name, score in scores.items()}
  lines = [f"{name} = {score}\n" for name, score in scores.items()]
  (tmp_path / "eval_results.txt").write_text("".join(lines))
  tagging_report.write_examples(
    str(tmp_path), "dev", LABELS, sentences, predictions, scores
  )
  return tmp_path


def test_kinds_of_mistakes_are_told_apart(run):
  page = html_pages.read_page(run)
  assert page.facets() == [
    ["mistake=wrong boundary", "mistake=wrong type", "type=loc", "type=per"],
    ["mistake=invented", "mistake=missed", "type=loc", "type=per"],
    ["mistake=none", "type=per"],
  ]
  place = page.cells.index("wrong type")
  # Columns: right, missed, invented, wrong boundary, wrong type.
  assert page.cells[place + 1 : place + 7] == ["per", "1", "0", "1", "1", "0"]
  assert page.cells[place + 7 : place + 13] == ["loc", "0", "1", "0", "0", "1"]
  assert "<b>left</b>" in page.text


def test_every_score_has_an_interval(run):
  cells = html_pages.read_page(run).cells
  for name in ("eval_accuracy", "eval_f1", "eval_per_recall", "eval_loc_f1"):
    assert " to " in cells[cells.index(name) + 2], name


def test_damaged_tags_are_refused(run):
  path = run / "report_dev.jsonl"
  content = path.read_text()
  path.write_text(content.replace('"O"]', "]"))
  with pytest.raises(errors.UserError, match=r"report_dev\.jsonl"):
    run_report.make_page(str(run))
  header, first, *others = content.splitlines()
  row = json.loads(first)
  row["prediction"].pop()
  path.write_text("\n".join([header, json.dumps(row), *others]))
  with pytest.raises(errors.UserError, match="number of tags than of words"):
    run_report.make_page(str(run))
