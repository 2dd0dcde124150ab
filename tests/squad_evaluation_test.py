"""Tests of tasks/squad_evaluation.py."""

import json
import os
import random

import builders
import pytest

from tasks import squad
from tasks import squad_answers
from tasks import squad_evaluation


@pytest.mark.parametrize(
  "text, expected",
  [
    ("The  Cat,\n sat!", "cat sat"),
    ("A theme, an answer", "theme answer"),
    # Punctuation goes first, and leaves no space.
    ("co-operate", "cooperate"),
    ("a.b", "ab"),
    ("The", ""),
    # Only ASCII punctuation goes; articles are whole words.
    (
      "\u201cthe\u201d caf\u00e9 \u00e0 la",
      "\u201c \u201d caf\u00e9 \u00e0 la",
    ),
  ],
)
def test_answers_are_normalized(text, expected):
  assert squad_evaluation.normalize_answer(text) == expected


@pytest.mark.parametrize(
  "prediction, answer, exact, f1",
  [
    ("the red cat", "Red cat.", 1.0, 1.0),
    ("red", "red cat", 0.0, 2 / 3),
    ("big red dog", "red", 0.0, 1 / 2),
    # A word counts as often as both have it.
    ("cat cat cat", "cat cat dog", 0.0, 2 / 3),
    ("dog", "cat", 0.0, 0.0),
    # The official script of version 1 finds nothing in common.
    ("", "the", 1.0, 0.0),
    ("", "cat", 0.0, 0.0),
    ("cat", "", 0.0, 0.0),
  ],
)
def test_scores_of_an_answer(prediction, answer, exact, f1):
  metric = squad_evaluation.METRICS["squad"]
  assert metric.exact_match(prediction, answer) == exact
  assert metric.f1(prediction, answer) == pytest.approx(f1)


@pytest.mark.parametrize(
  "prediction, answer, exact, f1",
  [
    # Punctuation of both widths does not count; case does not either.
    ("\u300a\u4e2d-\u56fd\u300b", "\u4e2d\u56fd\u3002", 1.0, 1.0),
    ("BBC\u4e2d\u56fd", " bbc\u4e2d\u56fd", 1.0, 1.0),
    # These signs and articles count.
    ("\u4e2d.\u56fd", "\u4e2d\u56fd", 0.0, 2 / 5),
    ("the \u56fd", "\u56fd", 0.0, 2 / 3),
    # Only the longest run counts, not the parts in common.
    ("\u4e2d\u56fd\u4eba", "\u4e2d\u7f8e\u56fd\u4eba", 0.0, 4 / 7),
    ("\u4eba\u4e2d\u56fd", "\u4e2d\u56fd\u4eba", 0.0, 4 / 6),
    # Words and numbers between Chinese characters are one part.
    ("\u5e74 1,000.5 km", "1,000.5\u5e74", 0.0, 2 / 5),
    # Both are lower-cased, so this letter does not become "ss".
    ("\u00df\u56fd", "SS\u56fd", 0.0, 2 / 4),
    ("\u3002", "\uff0c", 1.0, 0.0),
    ("\u4e2d", "\u56fd", 0.0, 0.0),
  ],
)
def test_scores_of_an_answer_in_chinese(prediction, answer, exact, f1):
  metric = squad_evaluation.METRICS["cmrc"]
  assert metric.exact_match(prediction, answer) == exact
  assert metric.f1(prediction, answer) == pytest.approx(f1)


def test_scores_of_version_1_by_hand():
  dataset = builders.question_dataset(
    "",
    ("a", ("The red cat", 0), ("cat", 0)),
    ("b", ("dog", 0), ("bird", 0)),
    ("c", ("bird", 0)),
    ("d", ("bird", 0)),
  )
  predictions = {"0": "red  cat!", "1": "a big dog", "2": "bird"}
  # The best of several answers counts; a missing prediction is wrong.
  assert squad_evaluation.evaluate_v1(
    dataset.questions, predictions
  ) == pytest.approx({"exact_match": 200 / 4, "f1": (100 + 200 / 3 + 100) / 4})
  # In version 1 an answer that is empty when normalized counts.
  dataset = builders.question_dataset("", ("a", ("The", 0), ("cat", 0)))
  assert squad_evaluation.evaluate_v1(dataset.questions, {"0": ""}) == {
    "exact_match": 100.0,
    "f1": 0.0,
  }


# Questions 0, 3 and 4 have an answer, 1 and 2 have none.
VERSION_2 = builders.question_dataset(
  "", ("a", ("red cat", 0)), ("b",), ("c",), ("d", ("dog", 0)), ("e", ("x", 0))
)


def test_scores_of_version_2_by_hand():
  predictions = {"0": "cat", "1": "x", "2": "", "3": "dog"}
  scores = squad_evaluation.evaluate_v2(VERSION_2.questions, predictions)
  # A question without prediction does not count.
  assert scores == pytest.approx(
    {
      "exact": 100 * 2 / 4,
      "f1": 100 * (2 / 3 + 2) / 4,
      "total": 4,
      "HasAns_exact": 100 * 1 / 2,
      "HasAns_f1": 100 * (2 / 3 + 1) / 2,
      "HasAns_total": 2,
      "NoAns_exact": 100 * 1 / 2,
      "NoAns_f1": 100 * 1 / 2,
      "NoAns_total": 2,
    }
  )
  # The order is that of the official program.
  assert list(scores) == [
    f"{prefix}{name}"
    for prefix in ("", "HasAns_", "NoAns_")
    for name in ("exact", "f1", "total")
  ]


def test_the_best_of_several_answers_counts_in_version_2():
  dataset = builders.question_dataset("", ("a", ("dog", 0), ("red cat", 0)))
  for text, exact, f1 in [("dog", 100.0, 100.0), ("cat", 0.0, 200 / 3)]:
    scores = squad_evaluation.evaluate_v2(dataset.questions, {"0": text})
    assert scores["exact"] == exact
    assert scores["f1"] == pytest.approx(f1)


def test_empty_answers_do_not_count_next_to_others():
  dataset = builders.question_dataset("", ("a", ("the", 0), ("cat", 0)))
  scores = squad_evaluation.evaluate_v2(dataset.questions, {"0": ""})
  assert scores["exact"] == 0.0
  # All of its answers are empty when normalized, but it has some.
  dataset = builders.question_dataset("", ("a", ("the", 0)))
  scores = squad_evaluation.evaluate_v2(dataset.questions, {"0": ""})
  assert scores["exact"] == scores["HasAns_exact"] == 100.0
  assert scores["f1"] == scores["HasAns_f1"] == 100.0
  assert "NoAns_exact" not in scores


def test_odds_above_the_threshold_make_predictions_empty():
  predictions = {"0": "red cat", "1": "x", "2": "y", "3": "dog"}
  null_odds = {"0": 1.5, "1": 1.5, "2": 1.0, "3": 1.0}

  def evaluate(**settings):
    return squad_evaluation.evaluate_v2(
      VERSION_2.questions, predictions, null_odds, **settings
    )

  # 0 and 1 become empty; 1.0 is not above the default.
  scores = evaluate()
  assert scores["HasAns_exact"] == scores["HasAns_f1"] == 50.0
  assert scores["NoAns_exact"] == scores["NoAns_f1"] == 50.0
  assert evaluate(null_threshold=2.0)["HasAns_exact"] == 100.0
  assert evaluate(null_threshold=2.0)["NoAns_exact"] == 0.0
  assert evaluate(null_threshold=0.5)["HasAns_exact"] == 0.0
  assert evaluate(null_threshold=0.5)["NoAns_exact"] == 100.0


def find_best(predictions, null_odds):
  """Returns the best scores and their thresholds."""
  scores = squad_evaluation.evaluate_v2(
    VERSION_2.questions, predictions, null_odds, null_threshold=0.0
  )
  return {
    name: value for name, value in scores.items() if name.startswith("best_")
  }


def test_the_best_threshold_is_found():
  # The wrong prediction for 1 costs less than those for 3 and 4 gain; the one
  # for 2 has to become empty.
  predictions = {"0": "cat", "1": "x", "2": "y", "3": "dog", "4": "x"}
  null_odds = {"0": -3.0, "1": -2.5, "2": 1.0, "3": -2.0, "4": -1.5}
  assert find_best(predictions, null_odds) == pytest.approx(
    {
      "best_exact": 100 * 3 / 5,
      "best_exact_thresh": -1.5,
      "best_f1": 100 * (2 / 3 + 3) / 5,
      "best_f1_thresh": -1.5,
    }
  )


def test_the_lowest_of_equally_good_thresholds_counts():
  # The empty prediction for 2 costs nothing: with 0 and 1, one is right.
  predictions = {"0": "red cat", "1": "x", "2": "", "3": "dog"}
  null_odds = {"0": -3.0, "1": -2.0, "2": -1.5, "3": -1.0}
  assert find_best(predictions, null_odds) == {
    "best_exact": 75.0,
    "best_exact_thresh": -3.0,
    "best_f1": 75.0,
    "best_f1_thresh": -3.0,
  }


def test_the_threshold_is_0_if_no_answer_is_always_best():
  predictions = {"0": "dog", "1": "x", "2": "y", "3": "cat"}
  null_odds = {"0": 1.0, "1": -2.0, "2": 3.0, "3": -1.0}
  assert find_best(predictions, null_odds) == {
    "best_exact": 50.0,
    "best_exact_thresh": 0.0,
    "best_f1": 50.0,
    "best_f1_thresh": 0.0,
  }


def prediction_of(texts, null_odds):
  """Returns a prediction with the n best texts, the best first."""
  n_best = [squad_answers.Candidate(text, 0.1, 0.0, 0.0) for text in texts]
  return squad_answers.Prediction(texts[0], n_best, null_odds, [])


def test_predictions_are_scored():
  predictions = {
    "0": prediction_of(["", "red cat"], 2.0),
    "1": prediction_of(["", "x"], 4.0),
    "2": prediction_of([""], -1.0),
    "3": prediction_of(["", "dog"], 3.0),
    "4": prediction_of([""], 1e6),
  }
  scores = squad_evaluation.evaluate(VERSION_2.questions, predictions, True)
  # 1 and 2 are right. With a threshold of 3, so are 0 and 3.
  assert scores["exact"] == scores["f1"] == 40.0
  assert scores["NoAns_exact"] == 100.0
  assert (scores["best_exact"], scores["best_exact_thresh"]) == (80.0, 3.0)
  assert (scores["best_f1"], scores["best_f1_thresh"]) == (80.0, 3.0)
  assert squad_evaluation.evaluate(
    VERSION_2.questions[3:4], predictions, False
  ) == {"exact_match": 0.0, "f1": 0.0}


@pytest.mark.parametrize("seed", range(20))
def test_the_advised_threshold_reaches_the_best_score(seed):
  rng = random.Random(seed)
  questions, predictions = [], {}
  for number in range(8):
    # The answer "the" is empty when normalized.
    answers = rng.choice([(), ("cat",), ("red cat", "dog"), ("the",)])
    answers = tuple(squad.Answer(text, 0) for text in answers)
    key = str(number)
    questions.append(squad.Question(key, "q", 0, answers, not answers))
    # Few values of the odds, so that some are equal.
    odds = rng.choice([-2.0, -1.0, 0.5, 0.5000001, 3.0])
    text = rng.choice(["cat", "dog", "a"])
    predictions[key] = prediction_of([text, ""], odds)

  def score(threshold):
    chosen = {
      key: prediction._replace(
        text="" if prediction.null_odds > threshold else prediction.n_best[0][0]
      )
      for key, prediction in predictions.items()
    }
    return squad_evaluation.evaluate(questions, chosen, True)["f1"]

  best, threshold = squad_evaluation.advise_threshold(questions, predictions)
  assert score(float(repr(threshold))) == pytest.approx(best)
  others = [score(odds) for odds in (-9, -2, -1, 0, 0.5, 0.5000001, 3)]
  assert max(others) == pytest.approx(best)


@pytest.mark.parametrize(
  "null_odds, has_answer, threshold",
  [
    # In the middle, also between the last two.
    ([0.0, 1.0, 1.25], [True, True, False], 1.125),
    ([0.0, 0.25, 1.0, 5.0], [True, True, False, False], 0.625),
    # The lowest of those that are equally good.
    ([-3.0, 1.0, 2.0], [True, False, True], -1.0),
    # Above or below all, with a distance.
    ([0.0, 1.0], [True, True], 1.5),
    ([4.0], [False], 3.0),
    # The middle of these neighbours would be rounded to the second.
    ([1.0 + 2**-52, 1.0 + 2**-51], [True, False], 1.0 + 2**-52),
  ],
)
def test_the_advised_threshold_by_hand(null_odds, has_answer, threshold):
  questions, predictions = [], {}
  for number, odds in enumerate(null_odds):
    answers = (squad.Answer("cat", 0),) * has_answer[number]
    key = str(number)
    questions.append(squad.Question(key, "q", 0, answers, not answers))
    predictions[key] = prediction_of(["cat"], odds)
  advised = squad_evaluation.advise_threshold(questions, predictions)
  assert advised[1] == threshold


def test_all_scores_compare_answers_by_the_metric_they_are_given():
  # These are the same by the rules of CMRC alone.
  dataset = builders.question_dataset("", ("a", ("\u4e2d\u56fd\u3002", 0)))
  predictions = {"0": prediction_of(["\u4e2d\u56fd"], 1.0)}
  arguments = dataset.questions, predictions

  def scores_by(metric):
    best, _ = squad_evaluation.advise_threshold(*arguments, metric)
    scores = [best]
    for version_2 in (False, True):
      results = squad_evaluation.evaluate(*arguments, version_2, metric)
      scores += [
        value
        for name, value in results.items()
        if not name.endswith(("total", "thresh"))
      ]
    return scores

  assert set(scores_by(squad_evaluation.METRICS["cmrc"])) == {100.0}
  assert set(scores_by(squad_evaluation.METRICS["squad"])) == {0.0}


@pytest.mark.parametrize("version", ["1.1", "2.0"])
def test_scores_match_the_official_program(large_golden_dir, version):
  folder = os.path.join(large_golden_dir, "squad")
  data_dir = os.path.join(large_golden_dir, "..", "data", "squad")
  dataset = squad.read_dataset(os.path.join(data_dir, f"dev-v{version}.json"))

  def read_golden(file):
    with open(os.path.join(folder, file), encoding="utf-8") as reader:
      return json.load(reader)

  name = f"bert_predictions_dev-v{version}"
  predictions = read_golden(f"{name}.json")
  if version == "1.1":
    scores = squad_evaluation.evaluate_v1(dataset.questions, predictions)
  else:
    null_odds = read_golden("na_scores_dev-v2.0.json")
    scores = squad_evaluation.evaluate_v2(
      dataset.questions, predictions, null_odds
    )
  assert scores == pytest.approx(read_golden(f"{name}.scores.json"), abs=1e-9)
