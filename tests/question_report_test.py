"""Tests of question_report.py."""

import builders
import html_pages

from reports import question_report
from tasks import squad_answers
from tasks import squad_evaluation

CONTEXT = "the cat sat <i> and the bird flew"


def test_answers_are_marked_and_scores_are_those_of_all(tokenizer, tmp_path):
  dataset = builders.question_dataset(
    CONTEXT,
    ("who flew", ("bird", CONTEXT.index("bird"))),
    ("who sat", ("cat", CONTEXT.index("cat"))),
    ("where is it",),
  )
  maker = builders.window_maker(dataset, tokenizer)
  predictions = {}
  for question, text in zip(dataset.questions, ("the bird flew", "", "bird")):
    spans = [None]
    if text:
      begin = CONTEXT.index(text)
      paragraph = maker.get_paragraph(0)
      spans = [paragraph.find_tokens(begin, begin + len(text))]
    n_best = [squad_answers.Candidate(text, 0.75, 1.0, 1.0)]
    predictions[question.id] = squad_answers.Prediction(
      text, n_best, 0.5, spans
    )
  metric = squad_evaluation.METRICS["squad"]
  scores = squad_evaluation.evaluate(
    dataset.questions, predictions, True, metric
  )
  lines = [f"{name} = {score}\n" for name, score in scores.items()]
  (tmp_path / "eval_results.txt").write_text("".join(lines))
  question_report.write_examples(
    str(tmp_path), maker, predictions, True, metric, scores
  )
  page = html_pages.read_page(tmp_path)
  states = [
    [facet for facet in facets if facet.startswith(("state", "answer"))]
    for facets in page.facets()
  ]
  assert sorted(states) == [
    ["state=partly right", "answer=answer"],
    ["state=wrong", "answer=answer"],
    ["state=wrong", "answer=no answer"],
  ]
  # Predicted are "the bird flew" in three pieces, and "bird".
  assert page.marked == ["predicted", "bird", "the ", "bird", " flew"]
  assert page.text.count(CONTEXT) == 3
  for name in ("exact", "f1", "HasAns_f1", "NoAns_exact"):
    place = page.cells.index(name)
    assert page.cells[place + 1] == f"{scores[name]:.5g}"
    assert " to " in page.cells[place + 2]
  # Number, exact match and F1 of questions by their first word.
  place = page.cells.index("who")
  assert page.cells[place + 1 : place + 4] == ["2", "0.00", "33.33"]
