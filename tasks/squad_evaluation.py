"""The official scores of SQuAD 1.1 and 2.0: exact match and F1, in percent.

Rajpurkar et al., 2016, section 6.1, and 2018, section 5.2. Answers in Chinese
can be compared as CMRC 2018 does (Cui et al., 2019).
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping, Sequence
import re
import string
from typing import NamedTuple

from tasks import squad
from tasks import squad_answers

_ARTICLES = re.compile(r"\b(a|an|the)\b", re.UNICODE)
_PUNCTUATION = str.maketrans("", "", string.punctuation)
# CMRC 2018 drops these signs, and no others.
_CMRC_PUNCTUATION = str.maketrans(
  "",
  "",
  "-:_*^/\\~`+="
  "\uff0c\u3002\uff1a\uff1f\uff01\u201c\u201d\uff1b\u2019\u300a\u300b\u00b7\u3001"
  "\u300c\u300d\uff08\uff09\uff0d\uff5e\u300e\u300f",
)
# Chinese characters stand alone; others form words, numbers such as 1,000.5 and
# signs.
_OTHER_LETTER = r"[^\W\u4e00-\u9fa5]"
_SEGMENT = re.compile(
  rf"[\u4e00-\u9fa5]|{_OTHER_LETTER}+(?:[.,']{_OTHER_LETTER}+)*|[^\w\s]"
)

# Score by the id of the question.
_Scores = dict[str, float]


# --- Two answers -------------------------------------------------------------


class AnswerMetric(NamedTuple):
  """A way to compare a predicted answer with an annotated one.

  Attributes:
    normalize: Returns the text that counts for an exact match.
    split: Returns the parts of an answer that count for F1.
    count_common: Returns the number of parts that two answers have in common.
  """

  normalize: Callable[[str], str]
  split: Callable[[str], list[str]]
  count_common: Callable[[list[str], list[str]], int]

  def exact_match(self, prediction: str, answer: str) -> float:
    """Returns 1 if both are the same when normalized, else 0."""
    return float(self.normalize(prediction) == self.normalize(answer))

  def f1(self, prediction: str, answer: str) -> float:
    """Returns the harmonic mean of precision and recall of the parts.

    It is 0 if they have nothing in common, even if both are empty.
    """
    predicted, wanted = self.split(prediction), self.split(answer)
    num_common = self.count_common(predicted, wanted)
    return 2.0 * num_common / max(1, len(predicted) + len(wanted))

  def f1_or_empty(self, prediction: str, answer: str) -> float:
    """Returns F1, or 1 if both are empty when normalized, as SQuAD 2.0 does."""
    if not (self.split(prediction) or self.split(answer)):
      return 1.0
    return self.f1(prediction, answer)


def normalize_answer(text: str) -> str:
  """Returns a text in lower case, without punctuation and articles.

  One space separates the words.
  """
  text = text.lower().translate(_PUNCTUATION)
  return " ".join(_ARTICLES.sub(" ", text).split())


def _split_words(text: str) -> list[str]:
  return normalize_answer(text).split()


def _count_common_words(predicted: list[str], wanted: list[str]) -> int:
  common = collections.Counter(predicted) & collections.Counter(wanted)
  return common.total()


def normalize_characters(text: str) -> str:
  """Returns a text in lower case, without the punctuation of CMRC 2018."""
  return text.lower().strip().translate(_CMRC_PUNCTUATION)


def split_characters(text: str) -> list[str]:
  """Returns the Chinese characters of a text, and the words between them.

  The official script splits the words between them with NLTK, which also takes
  contractions such as "don't" apart.
  """
  return _SEGMENT.findall(normalize_characters(text))


def count_longest_run(predicted: list[str], wanted: list[str]) -> int:
  """Returns the length of the longest run of parts that both answers have."""
  # lengths[i] is the length of the run that ends before part i of `predicted`
  # and at the current part of `wanted`.
  longest = 0
  lengths = [0] * (len(predicted) + 1)
  for part in wanted:
    for number in range(len(predicted), 0, -1):
      is_same = predicted[number - 1] == part
      lengths[number] = lengths[number - 1] + 1 if is_same else 0
    longest = max(longest, *lengths)
  return longest


SQUAD = "squad"
CMRC = "cmrc"
METRICS = {
  SQUAD: AnswerMetric(normalize_answer, _split_words, _count_common_words),
  CMRC: AnswerMetric(normalize_characters, split_characters, count_longest_run),
}


# --- All answers -------------------------------------------------------------


def evaluate_v1(
  questions: Sequence[squad.Question],
  predictions: Mapping[str, str],
  metric: AnswerMetric = METRICS[SQUAD],
) -> dict[str, float]:
  """Returns `exact_match` and `f1`; a question without prediction scores 0.

  Args:
    questions: All questions, with answers.
    predictions: Id -> answer.
    metric: How to compare answers.
  """
  exact, overlap = {}, {}
  for question in questions:
    if question.id in predictions:
      text = predictions[question.id]
      answers = [answer.text for answer in question.answers]
      exact[question.id] = max(metric.exact_match(text, a) for a in answers)
      overlap[question.id] = max(metric.f1(text, a) for a in answers)
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
  metric: AnswerMetric = METRICS[SQUAD],
) -> dict[str, float]:
  """Returns the scores of questions of which some have no answer.

  Args:
    questions: All questions; those without prediction do not count.
    predictions: Id -> answer, empty for no answer.
    null_odds: Id -> score of the question having no answer. If given, the
      results include the best scores that any threshold on these odds gives.
    null_threshold: Odds above which a prediction counts as empty.
    metric: How to compare answers.

  Returns:
    `exact`, `f1` and `total` of all questions; the same with the prefix
    `HasAns_` for those with an answer and `NoAns_` for those without; and
    `best_exact`, `best_exact_thresh`, `best_f1`, `best_f1_thresh`.
  """
  exact, overlap = _score_v2(questions, predictions, metric)
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
  metric: AnswerMetric = METRICS[SQUAD],
) -> dict[str, float]:
  """Returns the scores of predictions, see `evaluate_v1` and `evaluate_v2`.

  Args:
    questions: All questions, with answers.
    predictions: Id -> prediction.
    version_2_with_negative: Whether a question may have no answer.
    metric: How to compare answers.
  """
  texts = {key: prediction.text for key, prediction in predictions.items()}
  if not version_2_with_negative:
    return evaluate_v1(questions, texts, metric)
  results = evaluate_v2(questions, texts, metric=metric)
  answers, null_odds = _find_best_answers(predictions)
  tuned = evaluate_v2(questions, answers, null_odds, metric=metric)
  for name, value in tuned.items():
    if name.startswith("best_"):
      results[name] = value
  return results


def advise_threshold(
  questions: Sequence[squad.Question],
  predictions: Mapping[str, squad_answers.Prediction],
  metric: AnswerMetric = METRICS[SQUAD],
) -> tuple[float, float]:
  """Returns the best F1 that a threshold on no answer gives, and the threshold.

  The official `best_f1` is not always within reach: it may tell questions with
  the same odds apart, and names the threshold 0 where no answer is always best.

  Args:
    questions: All questions.
    predictions: Id -> prediction, of which some may be empty.
    metric: How to compare answers.
  """
  answers, null_odds = _find_best_answers(predictions)
  _, answered = _score_v2(questions, answers, metric)
  _, unanswered = _score_v2(questions, dict.fromkeys(answers, ""), metric)
  gains = collections.defaultdict(float)
  for key in answered:
    gains[null_odds[key]] += answered[key] - unanswered[key]
  # A higher threshold gives the answers of one value of the odds after another.
  odds = sorted(gains)
  current = best = sum(unanswered.values())
  threshold = odds[0] - 1.0
  for number, value in enumerate(odds):
    current += gains[value]
    if current > best:
      # In the middle, the threshold does not depend on the last digits.
      following = odds[number + 1] if value < odds[-1] else value + 1.0
      middle = (value + following) / 2
      best, threshold = current, middle if middle < following else value
  return 100.0 * best / len(answered), threshold


def _find_best_answers(
  predictions: Mapping[str, squad_answers.Prediction],
) -> tuple[dict[str, str], dict[str, float]]:
  """Returns the best answers that are not empty, and the odds of no answer."""
  answers: dict[str, str] = {}
  null_odds: dict[str, float] = {}
  for key, prediction in predictions.items():
    candidates = [candidate.text for candidate in prediction.n_best]
    answers[key] = next(filter(None, candidates), "")
    assert prediction.null_odds is not None
    null_odds[key] = prediction.null_odds
  return answers, null_odds


def _score_v2(
  questions: Sequence[squad.Question],
  predictions: Mapping[str, str],
  metric: AnswerMetric,
) -> tuple[_Scores, _Scores]:
  """Returns exact match and F1 with the answer that fits best.

  Annotated answers that are empty when normalized do not count next to others.

  Args:
    questions: All questions; those without prediction do not count.
    predictions: Id -> answer.
    metric: How to compare answers.
  """
  exact, overlap = {}, {}
  for question in questions:
    if question.id in predictions:
      text = predictions[question.id]
      texts = [answer.text for answer in question.answers]
      answers = list(filter(metric.normalize, texts)) or [""]
      exact[question.id] = max(metric.exact_match(text, a) for a in answers)
      overlap[question.id] = max(metric.f1_or_empty(text, a) for a in answers)
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
