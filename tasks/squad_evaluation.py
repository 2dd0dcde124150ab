"""The official scores of SQuAD 1.1 and 2.0: exact match and F1, in percent.

Rajpurkar et al., 2016, section 6.1, and 2018, section 5.2.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping, Sequence
import re
import string

from tasks import squad
from tasks import squad_answers

_ARTICLES = re.compile(r"\b(a|an|the)\b", re.UNICODE)
_PUNCTUATION = str.maketrans("", "", string.punctuation)

# Score by the id of the question.
_Scores = dict[str, float]


def normalize_answer(text: str) -> str:
  """Returns a text in lower case, without punctuation and articles.

  One space separates the words.
  """
  text = text.lower().translate(_PUNCTUATION)
  return " ".join(_ARTICLES.sub(" ", text).split())


def exact_match(prediction: str, answer: str) -> float:
  """Returns 1 if both are the same when normalized, else 0."""
  return float(normalize_answer(prediction) == normalize_answer(answer))


def f1(prediction: str, answer: str) -> float:
  """Returns the harmonic mean of precision and recall of the words.

  It is 1 if both are empty, and 0 if one is.
  """
  predicted = normalize_answer(prediction).split()
  wanted = normalize_answer(answer).split()
  if not predicted or not wanted:
    return float(predicted == wanted)
  common = collections.Counter(predicted) & collections.Counter(wanted)
  return 2.0 * common.total() / (len(predicted) + len(wanted))


def evaluate_v1(
  questions: Sequence[squad.Question], predictions: Mapping[str, str]
) -> dict[str, float]:
  """Returns `exact_match` and `f1`; a question without prediction scores 0.

  Args:
    questions: All questions, with answers.
    predictions: Id -> answer.
  """
  exact, overlap = _score(questions, predictions, _answers_v1)
  sum_exact, sum_f1 = sum(exact.values()), sum(overlap.values())
  return {
    "exact_match": 100.0 * sum_exact / len(questions),
    "f1": 100.0 * sum_f1 / len(questions),
  }


def evaluate_v2(
  questions: Sequence[squad.Question],
  predictions: Mapping[str, str],
  null_odds: Mapping[str, float] | None = None,
  null_threshold: float = 1.0,
) -> dict[str, float]:
  """Returns the scores of questions of which some have no answer.

  Args:
    questions: All questions; those without prediction do not count.
    predictions: Id -> answer, empty for no answer.
    null_odds: Id -> score of the question having no answer. If given, the
      results include the best scores that any threshold on these odds gives.
    null_threshold: Odds above which a prediction counts as empty.

  Returns:
    `exact`, `f1` and `total` of all questions; the same with the prefix
    `HasAns_` for those with an answer and `NoAns_` for those without; and
    `best_exact`, `best_exact_thresh`, `best_f1`, `best_f1_thresh`.
  """
  exact, overlap = _score(questions, predictions, _answers_v2)
  has_answer = {question.id: bool(question.answers) for question in questions}
  best = {}
  if null_odds is not None:
    for name, scores in [("exact", exact), ("f1", overlap)]:
      best[f"best_{name}"], best[f"best_{name}_thresh"] = _find_threshold(
        scores, predictions, null_odds, has_answer
      )
    for scores in (exact, overlap):
      for key in scores:
        if null_odds[key] > null_threshold:
          scores[key] = float(not has_answer[key])
  results = _average(exact, overlap, list(exact), "")
  for is_wanted, prefix in [(True, "HasAns_"), (False, "NoAns_")]:
    keys = [key for key in exact if has_answer[key] == is_wanted]
    if keys:
      results.update(_average(exact, overlap, keys, prefix))
  return {**results, **best}


def evaluate(
  questions: Sequence[squad.Question],
  predictions: Mapping[str, squad_answers.Prediction],
  version_2_with_negative: bool,
) -> dict[str, float]:
  """Returns the scores of predictions, see `evaluate_v1` and `evaluate_v2`.

  Args:
    questions: All questions, with answers.
    predictions: Id -> prediction.
    version_2_with_negative: Whether a question may have no answer.
  """
  texts = {key: prediction.text for key, prediction in predictions.items()}
  if not version_2_with_negative:
    return evaluate_v1(questions, texts)
  results = evaluate_v2(questions, texts)
  # The best threshold is found with the best answers that are not empty.
  answers: dict[str, str] = {}
  null_odds: dict[str, float] = {}
  for key, prediction in predictions.items():
    candidates = [candidate.text for candidate in prediction.n_best]
    answers[key] = next(filter(None, candidates), "")
    assert prediction.null_odds is not None
    null_odds[key] = prediction.null_odds
  tuned = evaluate_v2(questions, answers, null_odds)
  for name, value in tuned.items():
    if name.startswith("best_"):
      results[name] = value
  return results


def _answers_v1(question: squad.Question) -> list[str]:
  """Returns the answers as annotated."""
  return [answer.text for answer in question.answers]


def _answers_v2(question: squad.Question) -> list[str]:
  """Returns the answers that are not empty when normalized, or [""]."""
  texts = [answer.text for answer in question.answers]
  return [text for text in texts if normalize_answer(text)] or [""]


def _score(
  questions: Sequence[squad.Question],
  predictions: Mapping[str, str],
  answers_fn: Callable[[squad.Question], list[str]],
) -> tuple[_Scores, _Scores]:
  """Returns exact match and F1 with the answer that fits best.

  Args:
    questions: All questions.
    predictions: Id -> answer.
    answers_fn: Returns the answers of a question.
  """
  exact, overlap = {}, {}
  for question in questions:
    if question.id in predictions:
      prediction = predictions[question.id]
      answers = answers_fn(question)
      exact[question.id] = max(exact_match(prediction, a) for a in answers)
      overlap[question.id] = max(f1(prediction, a) for a in answers)
  return exact, overlap


def _average(
  exact: _Scores, overlap: _Scores, keys: Sequence[str], prefix: str
) -> dict[str, float]:
  """Returns the scores of some questions under prefixed names."""
  sum_exact = sum(exact[key] for key in keys)
  sum_overlap = sum(overlap[key] for key in keys)
  return {
    f"{prefix}exact": 100.0 * sum_exact / len(keys),
    f"{prefix}f1": 100.0 * sum_overlap / len(keys),
    f"{prefix}total": len(keys),
  }


def _find_threshold(
  scores: _Scores,
  predictions: Mapping[str, str],
  null_odds: Mapping[str, float],
  has_answer: Mapping[str, bool],
) -> tuple[float, float]:
  """Returns the best score, and the odds above which predictions are empty."""
  # With the lowest threshold all predictions are empty, and right for questions
  # without answer. A higher threshold changes one prediction after another to
  # the answer, first where no answer is least likely.
  current = best = float(sum(not has_answer[key] for key in scores))
  threshold = 0.0
  for key in sorted(scores, key=null_odds.__getitem__):
    if has_answer[key]:
      current += scores[key]
    elif predictions[key]:
      current -= 1
    if current > best:
      best, threshold = current, null_odds[key]
  return 100.0 * best / len(scores), threshold
