"""Tests of tasks/squad.py and tasks/squad_evaluation.py."""

import collections
import gzip
import json
import os

import long_texts
import numpy as np
import pytest

from tasks import squad
from tasks import squad_evaluation
import tokenization


def dataset_of(context, *questions, path="x.json"):
  """Returns a data set of one paragraph.

  Args:
    context: its text.
    *questions: a text, and what is answered (none if it has no answer) with its
      offset.
    path: of the file that it is said to be of.
  """
  return squad.Dataset(
    path,
    [context],
    [
      squad.Question(
        str(number),
        text,
        0,
        tuple(squad.Answer(*answer) for answer in answers),
        is_impossible=not answers,
      )
      for number, (text, *answers) in enumerate(questions)
    ],
  )


@pytest.fixture
def tokenizer(vocab_file):
  return tokenization.FullTokenizer(vocab_file)


def reader_of(
  dataset, tokenizer, max_seq_length=16, doc_stride=4, max_query_length=5
):
  return squad.WindowMaker(
    dataset,
    tokenizer,
    squad.WindowSettings(max_seq_length, doc_stride, max_query_length),
  )


# --- Reading -----------------------------------------------------------------


def write(tmp_path, content):
  path = tmp_path / "x.json"
  path.write_text(content if isinstance(content, str) else json.dumps(content))
  return str(path)


def article(*questions, context="the cat sat"):
  return {
    "version": "2.0",
    "data": [
      {
        "title": "t",
        "paragraphs": [{"context": context, "qas": list(questions)}],
      }
    ],
  }


QUESTION = {
  "id": "q1",
  "question": "who sat?",
  "answers": [{"text": "the cat", "answer_start": 0}],
}


def test_reading(tmp_path):
  other = {
    "id": "q2",
    "question": "who ran?",
    "answers": [],
    "is_impossible": True,
  }
  dataset = squad.read_dataset(write(tmp_path, article(QUESTION, other)))
  assert dataset.paragraphs == ["the cat sat"]
  assert dataset.questions == [
    squad.Question("q1", "who sat?", 0, (squad.Answer("the cat", 0),)),
    squad.Question("q2", "who ran?", 0, (), True),
  ]
  assert dataset.has_answers
  unknown = {"id": "q3", "question": "when?"}
  assert not squad.read_dataset(write(tmp_path, article(unknown))).has_answers


@pytest.mark.parametrize(
  "content, message",
  [
    ("", "x.json: not JSON"),
    (json.dumps(article(QUESTION))[:50], "x.json: not JSON.*Is it whole"),
    (
      {"version": 1},
      "the file has no 'data'; the format of SQuAD wants a list",
    ),
    ([], r"x.json holds \[\], not an object"),
    (article({**QUESTION, "question": "\ud800"}), "half of a surrogate pair"),
    ({"data": [{"title": "t"}]}, "article 1 has no 'paragraphs'"),
    (
      {"data": [{"paragraphs": [{"qas": []}]}]},
      "article 1, paragraph 1 has no 'context'",
    ),
    (article({"question": "who?"}), "paragraph 1, question 1 has no 'id'"),
    (
      article({**QUESTION, "question": 7}),
      r"question 'q1' \(article 1, paragraph 1, question 1\) has question=7",
    ),
    (
      article({**QUESTION, "answers": [{"text": "x"}]}),
      "an answer of question 'q1' .* has no 'answer_start'; .* a whole number",
    ),
    (
      article({**QUESTION, "answers": [{"text": "x", "answer_start": True}]}),
      "has answer_start=True; .* a whole number",
    ),
    (
      article({**QUESTION, "is_impossible": "false"}),
      "question 'q1' .* has is_impossible='false'; .* true or false",
    ),
    (
      article(QUESTION, QUESTION),
      "the id 'q1' of .* question 2 is that of "
      "article 1, paragraph 1, question 1 as well",
    ),
    (article(), "holds no questions"),
  ],
)
def test_files_that_are_refused(tmp_path, content, message):
  with pytest.raises(ValueError, match=message):
    squad.read_dataset(write(tmp_path, content))


# --- Windows -----------------------------------------------------------------


def test_sequences_of_a_long_paragraph(tokenizer):
  # 12 tokens; of 16, the question and three special ones take 5.
  dataset = dataset_of(
    "the cat sat on the mat and the dog ran the hill",
    ("it was", ("the mat", 15)),
  )
  reader = reader_of(dataset, tokenizer)
  features = list(reader.cut_training_windows(skip_missing_answers=False))
  assert [(f.number, f.first_token, f.offset) for f, _ in features] == [
    (0, 0, 4),
    (1, 4, 4),
  ]
  tokens = [
    tokenizer.convert_ids_to_tokens(f.features.input_ids) for f, _ in features
  ]
  assert " ".join(tokens[1]) == (
    "[CLS] it was [SEP] the mat and the dog ran the hill [SEP]"
  )
  assert features[1][0].features.segment_ids == [0] * 4 + [1] * 9
  for (_, (start, end)), row in zip(features, tokens):
    assert row[start : end + 1] == ["the", "mat"]
  # Where it is not, [CLS] is the answer.
  features = list(
    reader_of(
      dataset_of(
        dataset.paragraphs[0], ("it was", ("the hill", 39)), ("it was",)
      ),
      tokenizer,
    ).cut_training_windows(skip_missing_answers=False)
  )
  assert [position for _, position in features] == [
    (0, 0),
    (10, 11),
    (0, 0),
    (0, 0),
  ]


@pytest.mark.parametrize(
  "context, answer, tokens",
  [
    ("a cat (red-blue) ran", ("blue", 11), ["blue"]),
    ("the unaffable cat", ("unaffable", 4), ["un", "##aff", "##able"]),
    # Annotated a little off, or with other white space.
    ("the cat and the dog", ("the dog", 9), ["the", "dog"]),
    ("the cat\n and  the dog", ("cat and", 30), ["cat", "and"]),
    ("the cat sat. the cat ran", ("the cat", 20), ["the", "cat"]),
  ],
)
def test_answers_are_found(tokenizer, context, answer, tokens):
  reader = reader_of(dataset_of(context, ("was", answer)), tokenizer, 40)
  [(window, (start, end))] = reader.cut_training_windows(False)
  assert (
    tokenizer.convert_ids_to_tokens(window.features.input_ids[start : end + 1])
    == tokens
  )


def test_long_answers_are_found_in_time_that_grows_with_them(tokenizer):
  context = "the " * 100_000 + "cat"
  half = context[len(context) // 2 :]
  dataset = dataset_of(
    context,
    ("was", (half, len(context) // 2)),
    # With other tokens at the beginning; and elsewhere than annotated.
    ("was", (half[1:], len(context) // 2 + 1)),
    ("was", (half, 0)),
    ("was", (half + "x", 0)),
  )
  reader = reader_of(dataset, tokenizer, max_seq_length=500, doc_stride=400)
  with long_texts.time_limit():
    spans = [
      reader._answer_tokens(question, skip_missing_answers=True)
      for question in dataset.questions
    ]
    place = squad._find_ids([5] * 1_000_000 + [7], [5] * 500_000 + [7])
  assert spans == [(50_000, 100_000)] * 3 + [None]
  assert place == 500_000


def test_answers_that_are_not_there(tokenizer):
  dataset = dataset_of(
    "the cat sat", ("who", ("the dog", 0)), ("was", ("cat", 4))
  )
  with pytest.raises(
    ValueError,
    match="x.json: the answer 'the dog' of question"
    " '0' is not in its paragraph. .*--skip_missing_answers",
  ):
    list(reader_of(dataset, tokenizer).cut_training_windows(False))
  reader = reader_of(dataset, tokenizer)
  [(window, _)] = reader.cut_training_windows(skip_missing_answers=True)
  assert window.question == 1
  assert reader.counts["answers not in the paragraph, left out"] == 1
  unanswered = squad.Dataset(
    "x.json", ["the cat"], [squad.Question("q9", "who", 0)]
  )
  with pytest.raises(ValueError, match="question 'q9' has no answer"):
    list(reader_of(unanswered, tokenizer).cut_training_windows(False))


# --- Answers -----------------------------------------------------------------


def logits_of(reader, places):
  """Returns logits that are high at (start, end) -> score, in tokens."""
  logits = {}
  for window in reader.cut_windows():
    length = len(window.features.input_ids)
    pair = np.full([2, length], -9.0)
    for (start, end), score in places.items():
      for row, token in enumerate((start, end)):
        place = token - window.first_token + window.offset
        if 0 <= place < length - 1:
          pair[row, place] = score
    logits[window.question, window.number] = pair
  return logits


def predict(reader, places, **settings):
  [(_, prediction)] = squad.predict(
    reader, logits_of(reader, places), squad.AnswerSettings(**settings)
  )
  return prediction


def test_the_best_span_is_the_answer(tokenizer):
  dataset = dataset_of(
    "The Cat sat (on the mat), and the dog ran.", ("it was", ("x", 0))
  )
  reader = reader_of(dataset, tokenizer)
  prediction = predict(reader, {(3, 6): 5.0, (0, 1): 2.0})
  assert prediction.text == "(on the mat"
  assert [c.text for c in prediction.n_best[:2]] == [
    "(on the mat",
    "The Cat sat (on the mat",
  ]
  np.testing.assert_allclose(sum(c.probability for c in prediction.n_best), 1.0)
  assert prediction.spans[0] == (3, 6)
  paragraph = reader.paragraph(0)
  assert paragraph.text[slice(*paragraph.offsets(3, 6))] == "(on the mat),"
  assert (
    predict(reader, {(3, 6): 5.0, (0, 1): 2.0}, max_answer_length=2).text
    == "The Cat"
  )


@pytest.mark.parametrize(
  "text, first, last, expected",
  [
    ("the Bad-Cat's mat", 1, 3, "Bad-Cat"),
    # Lower-casing and stripping keep one character for one.
    ("the b\u00e1d, c\u00e4t", 1, 3, "b\u00e1d, c\u00e4t"),
    # An unknown token is its own word, not all that stands together.
    ("the (zzz) cat", 2, 2, "zzz"),
    # Hangul comes apart into letters, and a ligature into none.
    ("the (\ud55c\uae00) cat", 2, 2, "\ud55c\uae00"),
    ("the \u0130zz, cat", 1, 1, "\u0130zz"),
  ],
)
def test_answers_are_as_written(tokenizer, text, first, last, expected):
  assert squad.Paragraph(text, tokenizer).answer(first, last) == expected


def test_a_long_word_is_looked_at_once_for_all_answers(
  tmp_path, vocab_file, monkeypatch
):
  path = tmp_path / "with_chinese.txt"
  with open(vocab_file, encoding="utf-8") as reader:
    path.write_text(reader.read() + "\u4e2d\n")
  tokenizer = tokenization.FullTokenizer(str(path))
  calls = collections.Counter()

  def count_calls(owner, name):
    original = getattr(owner, name)

    def counted(*args):
      calls[name] += 1
      return original(*args)

    monkeypatch.setattr(owner, name, counted)

  count_calls(squad.Paragraph, "_find")
  count_calls(tokenizer, "encode_with_offsets")
  paragraph = squad.Paragraph("\u4e2d" * 1000, tokenizer)
  for token in range(998):
    assert paragraph.answer(token, token + 2) == "\u4e2d" * 3
  assert calls == {"_find": 1}
  # Hangul has fewer characters than its basic tokens.
  paragraph = squad.Paragraph("\u4e2d" * 1000 + "\ud55c", tokenizer)
  for token in range(998):
    assert paragraph.answer(token, token + 2) == "\u4e2d" * 3
  assert calls == {"_find": 2, "encode_with_offsets": 1}


@pytest.mark.large
@pytest.mark.parametrize("shape", long_texts.SHAPES)
def test_long_contexts_take_time_that_grows_with_them(tokenizer, shape):
  context = long_texts.of_length(shape, 100_000)
  reader = reader_of(
    dataset_of(context, ("was", (context[-20:], 0))),
    tokenizer,
    max_seq_length=32,
    doc_stride=16,
  )
  places = np.arange(32)
  with long_texts.time_limit(300):
    collections.deque(reader.cut_training_windows(True), maxlen=0)
    _, windows = reader.windows_of(reader.dataset.questions[0])
    # There are fewer texts than answers to give, so all candidates are seen.
    logits = {
      (0, window): (np.sin(places + window), np.cos(places))
      for window in range(len(windows.starts))
    }
    [(_, prediction)] = squad.predict(
      reader, logits, squad.AnswerSettings(5, max_answer_length=2)
    )
  assert prediction.text in context or prediction.text == "empty"


def test_no_answer_is_weighed_against_the_best(tokenizer):
  dataset = dataset_of(
    "the cat sat on the mat and the dog ran the hill", ("it was",)
  )
  reader = reader_of(dataset, tokenizer)
  places = {(1, 2): 3.0, (-4, -4): 2.0}  # the latter is [CLS] of window 0
  logits = logits_of(reader, places)
  logits[0, 1][:, 0] = 1.0  # the least [CLS] of all windows counts

  def predict_with(threshold):
    [(_, prediction)] = squad.predict(
      reader,
      logits,
      squad.AnswerSettings(
        version_2_with_negative=True, null_score_diff_threshold=threshold
      ),
    )
    return prediction

  assert predict_with(0.0).null_odds == pytest.approx(2.0 - 6.0)
  assert predict_with(0.0).text == "cat sat"
  assert predict_with(-5.0).text == ""
  assert "" in [candidate.text for candidate in predict_with(0.0).n_best]


def test_questions_without_any_candidate_are_counted(tokenizer):
  reader = reader_of(dataset_of(" \n", ("who", ("x", 0))), tokenizer)
  assert predict(reader, {}).text == "empty"
  assert predict(reader, {}, version_2_with_negative=True).text == ""
  assert reader.counts["questions without any candidate"] == 1
  assert reader.counts["questions about empty paragraphs"] == 2


# --- Outputs of the reference ------------------------------------------------


GOLDEN = ("v1.1_seq384", "v2.0_seq64")


def golden_reader(golden_dir, name, file):
  folder = os.path.join(golden_dir, "squad", name)
  data_dir = os.path.join(golden_dir, "..", "data")
  with open(os.path.join(folder, "settings.json"), encoding="utf-8") as reader:
    settings = json.load(reader)
  tokenizer = tokenization.FullTokenizer(
    os.path.join(data_dir, "vocab", settings["vocab"], "vocab.txt"),
    settings["do_lower_case"],
  )
  dataset = squad.read_dataset(os.path.join(data_dir, "squad", settings[file]))
  dataset = dataset._replace(
    questions=dataset.questions[: settings["num_questions"]]
  )
  return (
    folder,
    settings,
    tokenizer,
    squad.WindowMaker(
      dataset,
      tokenizer,
      squad.WindowSettings(
        settings["max_seq_length"],
        settings["doc_stride"],
        settings["max_query_length"],
      ),
    ),
  )


def read_lines(folder, name):
  with gzip.open(os.path.join(folder, name), "rt", encoding="utf-8") as reader:
    return list(map(json.loads, reader))


@pytest.mark.parametrize("name", GOLDEN)
def test_windows_to_train_with_are_those_of_the_reference(golden_dir, name):
  folder, _, _, reader = golden_reader(golden_dir, name, "train_file")
  for (window, positions), golden in zip(
    reader.cut_training_windows(False),
    read_lines(folder, "train_features.jsonl.gz"),
    strict=True,
  ):
    assert (
      window.question,
      window.number,
      window.features.input_ids,
      *positions,
    ) == (
      golden["example_index"],
      golden["doc_span_index"],
      golden["input_ids"],
      golden["start_position"],
      golden["end_position"],
    )


@pytest.mark.parametrize("name", GOLDEN)
def test_predictions_are_those_of_the_reference(golden_dir, name):
  folder, settings, tokenizer, reader = golden_reader(
    golden_dir, name, "predict_file"
  )
  offset = int(settings["logits"].partition("unique_id + ")[2].split(")")[0])
  logits = {}
  for window, golden in zip(
    reader.cut_windows(), read_lines(folder, "features.jsonl.gz"), strict=True
  ):
    paragraph, windows = reader.windows_of(
      reader.dataset.questions[window.question]
    )
    assert (
      tokenizer.convert_ids_to_tokens(window.features.input_ids)
      == golden["tokens"]
    )
    places = [
      str(window.offset + i) for i in range(windows.lengths[window.number])
    ]
    assert golden["token_to_orig_map"] == dict(
      zip(places, paragraph.word_of_token[window.first_token :])
    )
    assert golden["token_is_max_context"] == dict(
      zip(places, windows.is_max_context[window.number].tolist())
    )
    rng = np.random.RandomState(golden["unique_id"] + offset)
    logits[window.question, window.number] = (
      rng.normal(size=settings["max_seq_length"]),
      rng.normal(size=settings["max_seq_length"]),
    )
  predictions = {
    question.id: prediction
    for question, prediction in squad.predict(
      reader,
      logits,
      squad.AnswerSettings(
        settings["n_best_size"],
        settings["max_answer_length"],
        settings["squad_version"] == "2.0",
        settings["null_score_diff_threshold"],
      ),
    )
  }

  def golden_file(file):
    with open(os.path.join(folder, file), encoding="utf-8") as reader:
      return json.load(reader)

  assert {i: p.text for i, p in predictions.items()} == golden_file(
    "predictions.json"
  )
  for i, expected in golden_file("nbest_predictions.json").items():
    for ours, theirs in zip(predictions[i].n_best, expected, strict=True):
      assert ours.text == theirs["text"]
      assert ours[1:] == pytest.approx(
        [theirs[name] for name in ours._fields[1:]], abs=1e-6
      )
  if settings["squad_version"] == "2.0":
    assert {i: p.null_odds for i, p in predictions.items()} == pytest.approx(
      golden_file("null_odds.json"), abs=1e-6
    )


@pytest.mark.parametrize("version", ["1.1", "2.0"])
def test_scores_are_those_of_the_official_program(large_golden_dir, version):
  folder = os.path.join(large_golden_dir, "squad")
  dataset = squad.read_dataset(
    os.path.join(
      large_golden_dir, "..", "data", "squad", f"dev-v{version}.json"
    )
  )

  def golden_file(file):
    with open(os.path.join(folder, file), encoding="utf-8") as reader:
      return json.load(reader)

  predictions = golden_file(f"bert_predictions_dev-v{version}.json")
  if version == "1.1":
    scores = squad_evaluation.evaluate_v1(dataset.questions, predictions)
  else:
    scores = squad_evaluation.evaluate_v2(
      dataset.questions, predictions, golden_file("na_scores_dev-v2.0.json")
    )
  assert scores == pytest.approx(
    golden_file(f"bert_predictions_dev-v{version}.scores.json"), abs=1e-9
  )


# --- Scores ------------------------------------------------------------------


def test_scores_by_hand():
  dataset = dataset_of(
    "",
    ("a", ("The red cat", 0), ("cat", 0)),
    ("b", ("dog", 0)),
    ("c", ("bird", 0)),
  )
  scores = squad_evaluation.evaluate_v1(
    dataset.questions, {"0": "red  cat!", "1": "a big dog"}
  )
  assert scores == pytest.approx(
    {"exact_match": 100 / 3, "f1": (100 + 200 / 3 + 0) / 3}
  )
  dataset = dataset_of("", ("a", ("cat", 0)), ("b",), ("c",), ("d", ("dog", 0)))
  scores = squad_evaluation.evaluate_v2(
    dataset.questions,
    {"0": "cat", "1": "x", "2": "y", "3": "dog"},
    {"0": -3.0, "1": 1.5, "2": -1.0, "3": -2.0},
    null_threshold=0.0,
  )
  assert scores["exact"] == scores["f1"] == 75.0
  assert scores["HasAns_exact"] == 100.0 and scores["NoAns_exact"] == 50.0
  # Answering 0 and 3 alone would be right.
  assert scores["best_exact"] == 100.0 and scores["best_exact_thresh"] == -2.0
