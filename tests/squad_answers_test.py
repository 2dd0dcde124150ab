"""Tests of tasks/squad_answers.py."""

import collections
import json

import builders
import long_texts
import numpy as np
import pytest

from tasks import squad_answers


def spans_to_logits(maker, scores):
  """Returns logits of all windows, which are high for some spans.

  Args:
    maker: Maker of the windows.
    scores: (start, end), tokens of the paragraph -> logit of both.
  """
  logits = {}
  for window in maker.cut_windows():
    length = len(window.features.input_ids)
    pair = np.full([2, length], -9.0)
    for span, score in scores.items():
      for row, token in enumerate(span):
        position = token - window.first_token + window.offset
        if 0 <= position < length - 1:
          pair[row, position] = score
    logits[window.question, window.number] = pair
  return logits


def choose_answer(maker, scores, **settings):
  """Returns the prediction for the only question."""
  [(_, prediction)] = squad_answers.choose_answers(
    maker,
    spans_to_logits(maker, scores),
    squad_answers.AnswerSettings(**settings),
  )
  return prediction


def test_the_best_span_is_the_answer(tokenizer):
  dataset = builders.question_dataset(
    "The Cat sat (on the mat), and the dog ran.", ("it was", ("x", 0))
  )
  maker = builders.window_maker(dataset, tokenizer)
  scores = {(3, 6): 5.0, (0, 1): 2.0}
  prediction = choose_answer(maker, scores)
  assert prediction.text == "(on the mat"
  assert [c.text for c in prediction.n_best[:2]] == [
    "(on the mat",
    "The Cat sat (on the mat",
  ]
  assert prediction.spans[:2] == [(3, 6), (0, 6)]
  assert prediction.null_odds is None
  short = choose_answer(maker, scores, max_answer_length=2)
  assert short.text == "The Cat"
  single = choose_answer(maker, scores, n_best_size=1)
  assert [candidate.text for candidate in single.n_best] == ["(on the mat"]


def test_probabilities_are_a_softmax_of_the_n_best(tokenizer):
  dataset = builders.question_dataset("a cat sat", ("it was", ("x", 0)))
  maker = builders.window_maker(dataset, tokenizer)
  prediction = choose_answer(maker, {(0, 0): 2.0, (2, 2): 1.0}, n_best_size=3)
  assert [c[:1] + c[2:] for c in prediction.n_best] == [
    ("a", 2.0, 2.0),
    ("a cat sat", 2.0, 1.0),
    ("sat", 1.0, 1.0),
  ]
  weights = np.exp([4.0, 3.0, 2.0])
  np.testing.assert_allclose(
    [candidate.probability for candidate in prediction.n_best],
    weights / np.sum(weights),
  )


@pytest.mark.large
@pytest.mark.parametrize("shape", long_texts.SHAPES)
def test_long_contexts_take_linear_time(tokenizer, shape):
  context = long_texts.of_length(shape, 100_000)
  maker = builders.window_maker(
    builders.question_dataset(context, ("was", (context[-20:], 0))),
    tokenizer,
    max_seq_length=32,
    doc_stride=16,
  )
  places = np.arange(32)
  with long_texts.time_limit(300):
    collections.deque(maker.cut_training_windows(True), maxlen=0)
    _, windows = maker.cut_paragraph(maker.dataset.questions[0])
    # There are fewer texts than answers to give, so all candidates are seen.
    logits = {
      (0, window): (np.sin(places + window), np.cos(places))
      for window in range(len(windows.starts))
    }
    [(_, prediction)] = squad_answers.choose_answers(
      maker, logits, squad_answers.AnswerSettings(5, max_answer_length=2)
    )
  assert prediction.text in context or prediction.text == "empty"


def test_no_answer_is_weighed_against_the_best(tokenizer):
  dataset = builders.question_dataset(
    "the cat sat on the mat and the dog ran the hill", ("it was",)
  )
  maker = builders.window_maker(dataset, tokenizer)
  logits = spans_to_logits(maker, {(1, 2): 3.0})
  logits[0, 0][:, 0] = 2.0
  logits[0, 1][:, 0] = 1.0  # the lowest [CLS] of all windows counts

  def choose(threshold):
    [(_, prediction)] = squad_answers.choose_answers(
      maker,
      logits,
      squad_answers.AnswerSettings(
        version_2_with_negative=True, null_score_diff_threshold=threshold
      ),
    )
    return prediction

  prediction = choose(0.0)
  assert prediction.null_odds == pytest.approx(2.0 - 6.0)
  assert prediction.text == "cat sat"
  # No answer is the second best: its score is 2, that of (1, 1) is 3 - 9.
  assert [c.text for c in prediction.n_best[:2]] == ["cat sat", ""]
  assert prediction.spans[:2] == [(1, 2), None]
  assert choose(-4.0).text == "cat sat"
  assert choose(-5.0).text == ""


def test_questions_without_any_candidate_are_counted(tokenizer):
  dataset = builders.question_dataset(" \n", ("who", ("x", 0)))
  maker = builders.window_maker(dataset, tokenizer)
  assert choose_answer(maker, {}).text == "empty"
  prediction = choose_answer(maker, {}, version_2_with_negative=True)
  assert (prediction.text, prediction.null_odds) == ("", 1_000_000.0)
  # The first count starts again with each prediction.
  assert maker.counts["questions without any candidate"] == 1
  assert maker.counts["questions about empty paragraphs"] == 2


def test_files_of_predictions(tmp_path):
  candidate = squad_answers.Candidate("a cat", 1.0, 2.5, 3.0)
  prediction = squad_answers.Prediction("", [candidate], 0.5, [(0, 1)])
  squad_answers.write_predictions(str(tmp_path), {"q": prediction}, False)
  assert {path.name for path in tmp_path.iterdir()} == {
    "predictions.json",
    "nbest_predictions.json",
  }
  squad_answers.write_predictions(str(tmp_path), {"q": prediction}, True)
  contents = {
    path.name: json.loads(path.read_text()) for path in tmp_path.iterdir()
  }
  assert contents == {
    "predictions.json": {"q": ""},
    "nbest_predictions.json": {"q": [candidate._asdict()]},
    "null_odds.json": {"q": 0.5},
  }


@pytest.mark.parametrize("name", builders.GOLDEN_QUESTIONS)
def test_predictions_match_the_original_code(golden_dir, name):
  golden = builders.GoldenQuestions(golden_dir, name)
  settings = golden.settings
  maker = golden.window_maker("predict_file")
  # The settings describe the random logits that the original code was given.
  first_seed = int(
    settings["logits"].partition("unique_id + ")[2].split(")")[0]
  )
  logits = {}
  for window, feature in zip(
    maker.cut_windows(),
    golden.read_json_lines("features.jsonl.gz"),
    strict=True,
  ):
    rng = np.random.RandomState(feature["unique_id"] + first_seed)
    size = settings["max_seq_length"]
    pair = rng.normal(size=size), rng.normal(size=size)
    logits[window.question, window.number] = pair
  is_version_2 = settings["squad_version"] == "2.0"
  answer_settings = squad_answers.AnswerSettings(
    settings["n_best_size"],
    settings["max_answer_length"],
    is_version_2,
    settings["null_score_diff_threshold"],
  )
  predictions = {
    question.id: prediction
    for question, prediction in squad_answers.choose_answers(
      maker, logits, answer_settings
    )
  }
  texts = {key: prediction.text for key, prediction in predictions.items()}
  assert texts == golden.read_json("predictions.json")
  for key, expected in golden.read_json("nbest_predictions.json").items():
    for ours, theirs in zip(predictions[key].n_best, expected, strict=True):
      assert ours.text == theirs["text"]
      assert ours[1:] == pytest.approx(
        [theirs[name] for name in ours._fields[1:]], abs=1e-6
      )
  if is_version_2:
    odds = {
      key: prediction.null_odds for key, prediction in predictions.items()
    }
    expected = golden.read_json("null_odds.json")
    assert odds == pytest.approx(expected, abs=1e-6)
