"""Parts of the page about questions and their answers."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from errors import UserError
import heads
from reports import example_files
from reports import page
from reports import score_intervals
from tasks import squad
from tasks import squad_answers
from tasks import squad_evaluation
from tasks import squad_windows

KINDS = (heads.SPAN,)
_NUM_SHOWN = 5  # of the best answers
# Characters of the paragraph on either side of the answers.
_CONTEXT = 500
_MOST_FIRST_WORDS = 12
_LONGEST_FIRST_WORD = 15
_NUMBER = (int, float)
# Name of a group of answers -> the largest number of words in it.
_LENGTHS = {"1 word": 1, "2 words": 2, "3 to 5": 5, "6 to 10": 10}
_COLUMNS = ("questions", "exact match", "F1")
_LONGER, _NO_ANSWER = "more than 10", "no answer"


def write_examples(
  output_dir: str,
  maker: squad_windows.WindowMaker,
  predictions: Mapping[str, squad_answers.Prediction],
  version_2_with_negative: bool,
  metric: squad_evaluation.AnswerMetric,
  scores: Mapping[str, float] | None = None,
) -> None:
  """Writes the questions of --predict_file for the page.

  Args:
    output_dir: Folder of the run.
    maker: Maker of the windows, with the questions and paragraphs.
    predictions: Id of the question -> prediction.
    version_2_with_negative: Whether a question may have no answer.
    metric: How answers are compared.
    scores: Scores of all questions, if they have answers.
  """
  dataset = maker.dataset

  def make_row(number: int) -> dict[str, Any]:
    question = dataset.questions[number]
    prediction = predictions[question.id]
    context = dataset.paragraphs[question.paragraph]
    span = _find_prediction(maker, question, prediction)
    answers = _find_answers(question, context)
    begin, end = _choose_stretch([*answers, *([span] if span else [])], context)
    exact, overlap = None, None
    if scores is not None:
      exact, overlap = _score(
        question, prediction.text, version_2_with_negative, metric
      )
    return {
      "id": question.id,
      "question": question.text,
      "context": context[begin:end],
      "is_cut": [begin > 0, end < len(context)],
      "answers": [answer.text for answer in question.answers],
      "answer_spans": [[a - begin, b - begin] for a, b in answers],
      "prediction": prediction.text,
      "span": [span[0] - begin, span[1] - begin] if span else None,
      "n_best": [
        [candidate.text, candidate.probability]
        for candidate in prediction.n_best[:_NUM_SHOWN]
      ],
      "exact": exact,
      "f1": overlap,
    }

  example_files.write(
    output_dir,
    "dev" if scores is not None else "test",
    KINDS[0],
    len(dataset.questions),
    make_row,
    scores=scores,
  )


def _find_prediction(
  maker: squad_windows.WindowMaker,
  question: squad.Question,
  prediction: squad_answers.Prediction,
) -> tuple[int, int] | None:
  """Returns begin and end of the predicted answer in the paragraph."""
  for candidate, span in zip(prediction.n_best, prediction.spans):
    if span and candidate.text == prediction.text:
      return maker.get_paragraph(question.paragraph).find_span(*span)
  return None


def _find_answers(
  question: squad.Question, context: str
) -> list[tuple[int, int]]:
  """Returns begin and end of the different annotated answers."""
  spans = []
  for answer in question.answers:
    start = answer.start
    if start is None:
      start = context.find(answer.text)
    if start >= 0:
      spans.append((start, start + len(answer.text)))
  return sorted(set(spans))


def _choose_stretch(
  spans: Sequence[tuple[int, int]], context: str
) -> tuple[int, int]:
  """Returns begin and end of the part of a paragraph that is shown."""
  if not spans:
    return 0, min(len(context), 2 * _CONTEXT)
  begin = max(0, min(span[0] for span in spans) - _CONTEXT)
  end = max(span[1] for span in spans) + _CONTEXT
  return begin, min(len(context), end)


def _score(question, text: str, version_2: bool, metric) -> tuple[float, float]:
  """Returns exact match and F1 of one answer, from 0 to 1."""
  texts = {question.id: text}
  if version_2:
    scores = squad_evaluation.evaluate_v2([question], texts, metric=metric)
    return scores["exact"] / 100, scores["f1"] / 100
  scores = squad_evaluation.evaluate_v1([question], texts, metric)
  return scores["exact_match"] / 100, scores["f1"] / 100


# --- Reading -----------------------------------------------------------------


def _check_rows(content: example_files.ExampleFile) -> bool:
  """Returns whether the questions have scores.

  Raises:
    UserError: A row is damaged.
  """
  place = f"report_{content.split}.jsonl"
  for row in content.rows:
    for name in ("id", "question", "context", "prediction"):
      example_files.pick(row, name, str, place)
    example_files.pick_list(row, "answers", str, place)
    for name in ("exact", "f1"):
      example_files.pick(row, name, (*_NUMBER, type(None)), place)
    spans = example_files.pick_list(row, "answer_spans", list, place)
    if row.get("span") is not None:
      spans = [*spans, example_files.pick(row, "span", list, place)]
    n_best = example_files.pick_list(row, "n_best", list, place)
    cuts = example_files.pick(row, "is_cut", list, place)
    is_right = len(cuts) == 2 and all(
      len(span) == 2 and all(isinstance(value, int) for value in span)
      for span in spans
    )
    for pair in n_best:
      is_pair = len(pair) == 2 and isinstance(pair[0], str)
      is_right = is_right and is_pair and isinstance(pair[1], _NUMBER)
    if not is_right:
      raise UserError(
        f"{place}: the answers of a question are no places in its text. Run "
        "the prediction again."
      )
  return all(
    row["exact"] is not None and row["f1"] is not None for row in content.rows
  )


def compute_intervals(content: example_files.ExampleFile) -> dict[str, str]:
  """Returns the intervals of the recorded scores of a split, as text."""
  if not _check_rows(content) or not content.is_whole:
    return {}
  exact = np.array([row["exact"] for row in content.rows], float)
  overlap = np.array([row["f1"] for row in content.rows], float)
  has_answer = np.array([bool(row["answers"]) for row in content.rows])

  def score(numbers) -> dict[str, float]:
    exact_here, overlap_here = exact[numbers], overlap[numbers]
    scores = {
      "exact_match": 100 * float(np.mean(exact_here)),
      "exact": 100 * float(np.mean(exact_here)),
      "f1": 100 * float(np.mean(overlap_here)),
    }
    for prefix, is_here in [
      ("HasAns_", has_answer[numbers]),
      ("NoAns_", ~has_answer[numbers]),
    ]:
      if is_here.any():
        scores[f"{prefix}exact"] = 100 * float(np.mean(exact_here[is_here]))
        scores[f"{prefix}f1"] = 100 * float(np.mean(overlap_here[is_here]))
    return scores

  return score_intervals.describe_intervals(content.scores, score, len(exact))


# --- Parts -------------------------------------------------------------------


def make_part(content: example_files.ExampleFile, budget: int) -> page.Part:
  """Returns the part about a split.

  Args:
    content: The questions of the split.
    budget: Bytes that the questions may take on the page.

  Raises:
    UserError: A row is damaged.
  """
  is_scored = _check_rows(content)
  words = collections.Counter(_find_first_word(row) for row in content.rows)
  common = [word for word, _ in words.most_common(_MOST_FIRST_WORDS)]
  filters = [
    page.Filter("predicted", "predicted", ["answer", _NO_ANSWER]),
    page.Filter("word", "first word", common),
  ]
  tables = []
  if is_scored:
    states = ["wrong", "partly right", "right"]
    filters.insert(0, page.Filter("state", "right or wrong", states))
    filters.insert(1, page.Filter("answer", "correct", ["answer", _NO_ANSWER]))
    by_word = _average_by(content.rows, _find_first_word, common)
    tables.append(page.table(["first word", *_COLUMNS], by_word, True))
    lengths = [*_LENGTHS, _LONGER, _NO_ANSWER]
    by_length = _average_by(content.rows, _describe_length, lengths)
    tables.append(page.table(["answer", *_COLUMNS], by_length, True))
  items = [_make_item(row, is_scored) for row in content.rows]
  # Some questions of each state, wrong ones first.
  ranks: collections.Counter[str] = collections.Counter()
  keyed = []
  for number, item in enumerate(items):
    keyed.append((ranks[item["state"]], number))
    ranks[item["state"]] += 1
  shown = page.example_list(
    f"examples-{content.split}",
    "questions",
    filters,
    [items[number] for _, number in sorted(keyed)],
    content.num_examples,
    budget,
  )
  shown["entries"].sort(key=lambda item: item["f1"])
  values = {
    "tables": tables,
    "is_sampled": not content.is_whole,
    "examples": shown,
  }
  return page.Part(f"Examples of {content.split}", "questions.html", values)


def _find_first_word(row: Mapping[str, Any]) -> str:
  """Returns the first word of a question, as a group."""
  first, *_ = row["question"].lower().split(None, 1) or [""]
  # Chinese has no spaces: the first word would be the whole question.
  return first if 0 < len(first) <= _LONGEST_FIRST_WORD else "other"


def _describe_length(row: Mapping[str, Any]) -> str:
  """Returns the number of words of the first answer, as a group."""
  if not row["answers"]:
    return _NO_ANSWER
  num_words = len(row["answers"][0].split())
  for name, largest in _LENGTHS.items():
    if num_words <= largest:
      return name
  return _LONGER


def _average_by(rows, find_group, groups: Sequence[str]) -> list[list[Any]]:
  """Returns rows of a table: number and mean scores of groups of questions."""
  members = collections.defaultdict(list)
  for row in rows:
    members[find_group(row)].append((row["exact"], row["f1"]))
  table = []
  for group in groups:
    if members[group]:
      means = 100 * np.mean(members[group], axis=0)
      shown = [f"{mean:.2f}" for mean in means]
      table.append([group, len(members[group]), *shown])
  return table


def _make_item(row: Mapping[str, Any], is_scored: bool) -> dict[str, Any]:
  """Returns a question as an item of the list."""
  state = ""
  facets = [
    ("predicted", "answer" if row["prediction"] else _NO_ANSWER),
    ("word", _find_first_word(row)),
  ]
  if is_scored:
    state = "partly right" if row["f1"] else "wrong"
    state = "right" if row["exact"] == 1.0 else state
    facets.append(("state", state))
    facets.append(("answer", "answer" if row["answers"] else _NO_ANSWER))
  answers = list(dict.fromkeys(row["answers"]))
  return {
    "facets": facets,
    "state": state,
    "f1": row["f1"] if is_scored else 0.0,
    "id": row["id"],
    "question": row["question"],
    "pieces": _split_context(row),
    "is_cut": row["is_cut"],
    "prediction": row["prediction"],
    "answers": answers,
    "is_scored": is_scored,
    "n_best": [
      {"text": text, "percent": f"{probability:.1%}"}
      for text, probability in row["n_best"]
    ],
  }


def _split_context(row: Mapping[str, Any]) -> list[dict[str, Any]]:
  """Returns the context as pieces with and without predicted and right words.

  context     the  bird  flew  over
  predicted        ----------
  correct          ----
  pieces      the |bird |flew |over
  """
  text, span = row["context"], row["span"] or [0, 0]
  answers = row["answer_spans"]
  places = {0, len(text)}
  for begin, end in [span, *answers]:
    places.update(min(max(place, 0), len(text)) for place in (begin, end))
  ordered = sorted(places)
  pieces = []
  for begin, end in zip(ordered, ordered[1:]):
    is_correct = any(a <= begin and end <= b for a, b in answers)
    is_predicted = span[0] <= begin and end <= span[1]
    pieces.append(
      {
        "text": text[begin:end],
        "is_predicted": is_predicted,
        "is_correct": is_correct,
      }
    )
  return pieces
