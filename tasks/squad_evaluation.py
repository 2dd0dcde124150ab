"""The official scores of SQuAD 1.1 and 2.0: exact match and F1.

Rajpurkar et al., 2016, section 6.1, and 2018, section 5.2. All are percentages.
"""

import collections
from collections.abc import Callable, Mapping, Sequence
import re
import string

from tasks import squad

_ARTICLES = re.compile(r"\b(a|an|the)\b", re.UNICODE)
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
  """Lower-cases, drops punctuation and articles, and joins by one space."""
  text = text.lower().translate(_PUNCTUATION)
  return " ".join(_ARTICLES.sub(" ", text).split())


def exact_match(prediction: str, answer: str) -> float:
  return float(normalize_answer(prediction) == normalize_answer(answer))


def f1(prediction: str, answer: str) -> float:
  """Harmonic mean of the precision and recall of words.

  Two empty answers have 1, one of them 0.
  """
  predicted, wanted = (
    normalize_answer(text).split() for text in (prediction, answer)
  )
  if not predicted or not wanted:
    return float(predicted == wanted)
  common = sum(
    (collections.Counter(predicted) & collections.Counter(wanted)).values()
  )
  return 2.0 * common / (len(predicted) + len(wanted))


def evaluate_v1(
  questions: Sequence[squad.Question], predictions: Mapping[str, str]
) -> dict[str, float]:
  """Returns `exact_match` and `f1`; a question without prediction has 0.

  Args:
    questions: all of them, with answers.
    predictions: id -> answer.
  """
  exact, overlap = _scores(questions, predictions, _answers_v1)
  return {
    "exact_match": 100.0 * sum(exact.values()) / len(questions),
    "f1": 100.0 * sum(overlap.values()) / len(questions),
  }


def evaluate_v2(
  questions: Sequence[squad.Question],
  predictions: Mapping[str, str],
  null_odds: Mapping[str, float] | None = None,
  null_threshold: float = 1.0,
) -> dict[str, float]:
  """Returns the scores of questions of which some have no answer.

  Args:
    questions: all of them; those without prediction do not count.
    predictions: id -> answer, empty for none.
    null_odds: id -> score of there being no answer. With these, the best that
      any threshold on them gives is told as well.
    null_threshold: odds above which a prediction counts as empty.

  Returns:
    `exact`, `f1`, `total`, the same of the questions that have an answer and of
    those that have none, with the prefixes `HasAns_` and `NoAns_`, and
    `best_exact`, `best_exact_thresh`, `best_f1`, `best_f1_thresh`.
  """
  exact, overlap = _scores(questions, predictions, _answers_v2)
  raw = {"exact": exact, "f1": overlap}
  has_answer = {question.id: bool(question.answers) for question in questions}
  if null_odds is not None:
    exact, overlap = (
      {
        i: float(not has_answer[i]) if null_odds[i] > null_threshold else score
        for i, score in scores.items()
      }
      for scores in raw.values()
    )
  results = _means(exact, overlap, "")
  for is_wanted, prefix in [(True, "HasAns_"), (False, "NoAns_")]:
    ids = [i for i in exact if has_answer[i] == is_wanted]
    if ids:
      results.update(
        _means({i: exact[i] for i in ids}, {i: overlap[i] for i in ids}, prefix)
      )
  if null_odds is not None:
    for name, scores in raw.items():
      best, threshold = _best_threshold(
        scores, predictions, null_odds, has_answer
      )
      results[f"best_{name}"] = best
      results[f"best_{name}_thresh"] = threshold
  return results


def _answers_v1(question: squad.Question) -> list[str]:
  return [answer.text for answer in question.answers]


def _answers_v2(question: squad.Question) -> list[str]:
  """Returns answers that are not empty when normalized; else an empty one."""
  return [
    answer.text for answer in question.answers if normalize_answer(answer.text)
  ] or [""]


def _scores(
  questions,
  predictions,
  answers_of: Callable[[squad.Question], list[str]],
) -> tuple[dict[str, float], dict[str, float]]:
  """Returns exact match and F1 by id, each with the answer it fits best."""
  exact, overlap = {}, {}
  for question in questions:
    if question.id in predictions:
      answers, prediction = answers_of(question), predictions[question.id]
      exact[question.id] = max(exact_match(prediction, a) for a in answers)
      overlap[question.id] = max(f1(prediction, a) for a in answers)
  return exact, overlap


def _means(exact, overlap, prefix: str) -> dict[str, float]:
  return {
    f"{prefix}exact": 100.0 * sum(exact.values()) / len(exact),
    f"{prefix}f1": 100.0 * sum(overlap.values()) / len(overlap),
    f"{prefix}total": len(exact),
  }


def _best_threshold(
  scores, predictions, null_odds, has_answer
) -> tuple[float, float]:
  """Returns the best score, and the odds above which nothing is answered."""
  # At first nothing is answered; then question after question is, the one that
  # is least likely to have no answer first.
  current = best = sum(not has_answer[i] for i in scores)
  threshold = 0.0
  for question_id in sorted(scores, key=null_odds.__getitem__):
    if has_answer[question_id]:
      current += scores[question_id]
    elif predictions[question_id]:
      current -= 1
    if current > best:
      best, threshold = current, null_odds[question_id]
  return 100.0 * best / len(scores), threshold
