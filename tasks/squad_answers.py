"""From logits to answers of questions: candidates, n best, and no answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import json
import math
import os
from typing import NamedTuple

import numpy as np

from data import file_io
from data import sliding_windows
from tasks import squad
from tasks import squad_windows

# Higher than every score of the empty answer.
_NO_NULL_SCORE = 1_000_000.0
# Placeholder answer when no candidate exists but one is required.
_NO_CANDIDATE = "empty"
_NOTHING_FOUND = "questions without any candidate"


class AnswerSettings(NamedTuple):
  """Settings by which answers are chosen.

  Attributes:
    n_best_size: Number of answers to keep; also the number of starts and of
      ends that are considered in each window.
    max_answer_length: Maximum length of an answer in tokens.
    version_2_with_negative: Whether a paragraph may have no answer.
    null_score_diff_threshold: The empty answer is given if its score minus
      that of the best other answer exceeds this threshold.
  """

  n_best_size: int = 20
  max_answer_length: int = 30
  version_2_with_negative: bool = False
  null_score_diff_threshold: float = 0.0


class Candidate(NamedTuple):
  """An answer: its text, probability among the n best, and logits."""

  text: str
  probability: float
  start_logit: float
  end_logit: float


class Prediction(NamedTuple):
  """The prediction for a question.

  Attributes:
    text: The answer; empty for none.
    n_best: The best answers, the best first.
    null_odds: Score of the empty answer minus that of the best other answer;
      None if an answer is required.
    spans: For each of the best answers its first and last token in the
      paragraph, or None for the empty answer.
  """

  text: str
  n_best: list[Candidate]
  null_odds: float | None
  spans: list[tuple[int, int] | None]


class _Spans(NamedTuple):
  """Spans that may be the answer, as arrays of one value per span.

  Attributes:
    starts: First token in the paragraph, int [num_spans]; -1 for no answer.
    ends: Last token, int [num_spans]; -1 for no answer.
    start_logits: Logit of the start, float [num_spans].
    end_logits: Logit of the end, float [num_spans].
  """

  starts: np.ndarray
  ends: np.ndarray
  start_logits: np.ndarray
  end_logits: np.ndarray


class _NoAnswer(NamedTuple):
  """The logits of `[CLS]`, which stand for no answer, and their sum."""

  score: float
  start_logit: float
  end_logit: float


class _Choice(NamedTuple):
  """The best span of a text; `span` is None for the empty answer."""

  start_logit: float
  end_logit: float
  span: tuple[int, int] | None = None

  @property
  def score(self) -> float:
    return self.start_logit + self.end_logit


def choose_answers(
  maker: squad_windows.WindowMaker,
  logits: Mapping[tuple[int, int], Sequence[np.ndarray]],
  settings: AnswerSettings,
) -> Iterator[tuple[squad.Question, Prediction]]:
  """Yields each question with its prediction, in order.

  Args:
    maker: Maker of the windows.
    logits: Start logits and end logits, float arrays, of each pair of a
      question's number and a window's number. As in the original code, places
      outside the paragraph take part in the choice of the best starts and
      ends, although they cannot be answers.
    settings: How to choose.
  """
  maker.counts.pop(_NOTHING_FOUND, None)  # from an earlier prediction
  for number, question in enumerate(maker.dataset.questions):
    paragraph, windows = maker.cut_paragraph(question)
    offset = maker.get_offset(question)
    no_answer = _NoAnswer(_NO_NULL_SCORE, 0.0, 0.0)
    parts = []
    for window in range(len(windows.starts)):
      start_logits, end_logits = map(np.asarray, logits[number, window])
      parts.append(
        _find_spans(start_logits, end_logits, windows, window, offset, settings)
      )
      # [CLS] stands for no answer; the window with the lowest score decides.
      score = float(start_logits[0] + end_logits[0])
      if score < no_answer.score:
        no_answer = _NoAnswer(
          score, float(start_logits[0]), float(end_logits[0])
        )
    spans = None
    if parts:
      columns = zip(*parts)
      spans = _Spans(*map(np.concatenate, columns))
    prediction = _choose_answer(paragraph, spans, no_answer, settings)
    if not any(prediction.spans):
      maker.count_question(question, _NOTHING_FOUND)
    yield question, prediction


def _find_spans(
  start_logits: np.ndarray,
  end_logits: np.ndarray,
  windows: sliding_windows.TextWindows,
  window: int,
  offset: int,
  settings: AnswerSettings,
) -> _Spans:
  """Returns the spans of a window between its best starts and ends.

  Args:
    start_logits: float [seq_length].
    end_logits: float [seq_length].
    windows: Windows of the paragraph.
    window: Number of the window.
    offset: Position of the paragraph in the sequence.
    settings: How to choose.
  """
  # positions        0    1    2    3   4   5    6
  # sequence       [CLS] who [SEP] cat sat on  [SEP]     offset = 3
  # in the window   -3   -2   -1    0   1   2    3
  # in paragraph                    4   5   6            windows.starts = 4
  length = windows.lengths[window]
  starts = _find_largest(start_logits, settings.n_best_size) - offset
  ends = _find_largest(end_logits, settings.n_best_size) - offset
  starts = starts[(starts >= 0) & (starts < length)]
  ends = ends[(ends >= 0) & (ends < length)]
  # A span counts only in the window that gives its start most context.
  starts = starts[windows.is_max_context[window][starts]]
  # Row i, column j: the span from start i to end j.
  num_tokens = ends - starts[:, np.newaxis] + 1
  is_allowed = (num_tokens > 0) & (num_tokens <= settings.max_answer_length)
  rows, columns = np.nonzero(is_allowed)
  starts, ends = starts[rows], ends[columns]
  first_token = windows.starts[window]
  return _Spans(
    starts + first_token,
    ends + first_token,
    start_logits[starts + offset],
    end_logits[ends + offset],
  )


def _find_largest(values: np.ndarray, number: int | None = None) -> np.ndarray:
  """Returns the places of the largest values, or of all, the largest first."""
  return np.argsort(-values, kind="stable")[:number]


def _choose_answer(
  paragraph: squad_windows.Paragraph,
  spans: _Spans | None,
  no_answer: _NoAnswer,
  settings: AnswerSettings,
) -> Prediction:
  """Returns the prediction for a question.

  Args:
    paragraph: Paragraph of the question.
    spans: Spans of all windows; None if there are no windows.
    no_answer: Logits of no answer.
    settings: How to choose.
  """
  may_be_empty = settings.version_2_with_negative
  choices: dict[str, _Choice] = {}
  if spans and may_be_empty:
    values = (-1, -1, no_answer.start_logit, no_answer.end_logit)
    spans = _Spans(*map(np.append, spans, values))
  if spans:
    choices = _choose_texts(paragraph, spans, settings.n_best_size)
  if may_be_empty:
    empty = _Choice(no_answer.start_logit, no_answer.end_logit)
    choices.setdefault("", empty)
  if not choices:
    choices[_NO_CANDIDATE] = _Choice(0.0, 0.0)
  n_best = _add_probabilities(choices)
  best_spans = [choice.span for choice in choices.values()]
  if not may_be_empty:
    return Prediction(n_best[0].text, n_best, None, best_spans)
  best = next((candidate for candidate in n_best if candidate.text), None)
  if best is None:  # nothing competes with the empty answer
    return Prediction("", n_best, _NO_NULL_SCORE, best_spans)
  null_odds = no_answer.score - best.start_logit - best.end_logit
  is_empty = null_odds > settings.null_score_diff_threshold
  text = "" if is_empty else best.text
  return Prediction(text, n_best, null_odds, best_spans)


def _choose_texts(
  paragraph: squad_windows.Paragraph, spans: _Spans, n_best_size: int
) -> dict[str, _Choice]:
  """Returns the best span of each of the best texts, the best first."""
  choices: dict[str, _Choice] = {}
  order = _find_largest(spans.start_logits + spans.end_logits)
  for number in order.tolist():
    if len(choices) >= n_best_size:
      break
    start, end = int(spans.starts[number]), int(spans.ends[number])
    text = "" if start < 0 else paragraph.answer_text(start, end)
    if text not in choices:
      choices[text] = _Choice(
        float(spans.start_logits[number]),
        float(spans.end_logits[number]),
        (start, end) if text else None,
      )
  return choices


def _add_probabilities(choices: Mapping[str, _Choice]) -> list[Candidate]:
  """Returns candidates with the softmax of their scores."""
  highest = max(choice.score for choice in choices.values())
  weights = [math.exp(choice.score - highest) for choice in choices.values()]
  total = sum(weights)
  return [
    Candidate(text, weight / total, choice.start_logit, choice.end_logit)
    for (text, choice), weight in zip(choices.items(), weights)
  ]


def write_predictions(
  output_dir: str,
  predictions: Mapping[str, Prediction],
  version_2_with_negative: bool,
) -> None:
  """Writes `predictions.json` and `nbest_predictions.json`.

  Args:
    output_dir: Folder of the files.
    predictions: Id of the question -> prediction.
    version_2_with_negative: Whether to write `null_odds.json` as well.
  """
  texts, n_best, null_odds = {}, {}, {}
  for key, prediction in predictions.items():
    texts[key] = prediction.text
    n_best[key] = [candidate._asdict() for candidate in prediction.n_best]
    null_odds[key] = prediction.null_odds
  files = {"predictions.json": texts, "nbest_predictions.json": n_best}
  if version_2_with_negative:
    files["null_odds.json"] = null_odds
  for name, content in files.items():
    path = os.path.join(output_dir, name)
    file_io.write_text(path, json.dumps(content, indent=4) + "\n")
