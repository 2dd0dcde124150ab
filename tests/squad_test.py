"""Tests of tasks/squad.py."""

import json

import pyarrow
from pyarrow import parquet
import pytest

from errors import UserError
from tasks import squad


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


FLAT = [
  {
    "id": "q1",
    "context": "the cat sat",
    "question": "who sat?",
    "answers": {"text": ["the cat", "cat"], "answer_start": [0, 4]},
  },
  {
    "id": "q2",
    "context": "a dog ran",
    "question": "who ran?",
    "answers": {"text": ["dog"], "answer_start": [2]},
  },
  {
    "id": "q3",
    "context": "the cat sat",
    "question": "who flew?",
    "answers": {"text": [], "answer_start": []},
  },
]
FLAT_QUESTIONS = [
  squad.Question(
    "q1", "who sat?", 0, (squad.Answer("the cat", 0), squad.Answer("cat", 4))
  ),
  squad.Question("q2", "who ran?", 1, (squad.Answer("dog", 2),)),
  squad.Question("q3", "who flew?", 0, (), True),
]


def zipped(row):
  """Returns a row whose answers are a list of objects."""
  names = list(row["answers"])
  answers = [dict(zip(names, pair)) for pair in zip(*row["answers"].values())]
  return {**row, "answers": answers}


@pytest.mark.parametrize(
  "content",
  [
    {"data": FLAT},
    FLAT,
    [zipped(row) for row in FLAT],
    "\n".join(map(json.dumps, FLAT)),
    '{"header": {"dataset": "x"}}\n' + "\n".join(map(json.dumps, FLAT)),
  ],
)
def test_flat_files(tmp_path, content):
  dataset = squad.read_dataset(write(tmp_path, content))
  assert dataset.paragraphs == ["the cat sat", "a dog ran"]
  assert dataset.questions == FLAT_QUESTIONS


@pytest.mark.parametrize("change", [lambda row: row, zipped])
def test_parquet_files(tmp_path, change):
  table = pyarrow.Table.from_pylist(list(map(change, FLAT)))
  path = str(tmp_path / "x.parquet")
  parquet.write_table(table, path)
  assert squad.read_dataset(path).questions == FLAT_QUESTIONS


def test_empty_lists_are_no_answer_only_next_to_answers(tmp_path):
  # Test sets have empty lists, because their answers are unknown.
  dataset = squad.read_dataset(write(tmp_path, FLAT[2:]))
  assert not dataset.questions[0].is_impossible and not dataset.has_answers
  marked = [FLAT[0], {**FLAT[2], "is_impossible": False}]
  dataset = squad.read_dataset(write(tmp_path, marked))
  assert not dataset.questions[1].is_impossible and not dataset.has_answers


@pytest.mark.parametrize("is_line", [False, True])
def test_lists_of_articles_or_paragraphs(tmp_path, is_line):
  articles = article(QUESTION)["data"]
  expected = squad.read_dataset(write(tmp_path, article(QUESTION)))
  for entries in (articles, articles[0]["paragraphs"]):
    content = json.dumps(entries[0]) if is_line else entries
    assert squad.read_dataset(write(tmp_path, content)) == expected
  other = article({**QUESTION, "id": "q2"}, context="x")["data"]
  both = "\n".join(map(json.dumps, articles + other[0]["paragraphs"]))
  dataset = squad.read_dataset(write(tmp_path, both))
  assert [question.paragraph for question in dataset.questions] == [0, 1]
  with pytest.raises(
    UserError, match="line 2, question 1 has the id 'q1', but"
  ):
    squad.read_dataset(write(tmp_path, both.replace("q2", "q1")))


def test_the_layout_of_cmrc_2018(tmp_path):
  paragraph = {
    "context_id": "C_1",
    "context_text": "the cat sat",
    "title": "t",
    "qas": [
      {"query_id": "C_1_Q", "query_text": "who?", "answers": ["cat", "the cat"]}
    ],
  }
  dataset = squad.read_dataset(write(tmp_path, [paragraph]))
  answers = (squad.Answer("cat", None), squad.Answer("the cat", None))
  assert dataset.paragraphs == ["the cat sat"]
  assert dataset.questions == [squad.Question("C_1_Q", "who?", 0, answers)]


@pytest.mark.parametrize(
  "given, expected",
  [
    (7, "7"),
    (7.0, "7"),
    ("07", "07"),
    (None, "question_2"),
    ("", "question_2"),
  ],
)
def test_ids(tmp_path, caplog, given, expected):
  first = {**QUESTION, "id": "q1"}
  second = {**QUESTION, "id": given}
  with caplog.at_level("INFO", logger="absl"):
    dataset = squad.read_dataset(write(tmp_path, article(first, second)))
  assert [question.id for question in dataset.questions] == ["q1", expected]
  is_made = expected.startswith("question")
  assert ("1 of 2 questions have no id" in caplog.text) == is_made


@pytest.mark.parametrize(
  "answers, expected",
  [
    # Exports of annotation tools.
    ([{"text": "cat", "answer_start": -1}], [("cat", None)]),
    ([{"text": "cat"}], [("cat", None)]),
    ([{"text": "cat", "answer_start": None}], [("cat", None)]),
    ([{"text": "cat", "answer_start": "4"}], [("cat", 4)]),
    ([{"text": "cat", "answer_start": 4.0}], [("cat", 4)]),
    ([{"text": "", "answer_start": -1}], []),
    ({"text": "cat", "answer_start": 4}, [("cat", 4)]),
    ({"text": ["cat"]}, [("cat", None)]),
    ([{"text": "cat", "answer_start": 10**400}], [("cat", 10**400)]),
    ("cat", [("cat", None)]),
    (None, []),
  ],
)
def test_forms_of_answers(tmp_path, answers, expected):
  question = {**QUESTION, "answers": answers}
  dataset = squad.read_dataset(write(tmp_path, article(question)))
  [read] = dataset.questions
  assert list(read.answers) == expected


def test_an_answer_may_have_its_offset_next_to_it(tmp_path):
  row = {"context": "a cat", "question": "who?", "id": "q"}
  row.update(answer_text="cat", answer_start=2)
  dataset = squad.read_dataset(write(tmp_path, [row]))
  assert dataset.questions[0].answers == (squad.Answer("cat", 2),)


@pytest.mark.parametrize(
  "value, expected",
  [
    ("true", True),
    ("False", False),
    (1, True),
    (0.0, False),
    ("1", True),
    ("", False),
    (None, False),
  ],
)
def test_forms_of_is_impossible(tmp_path, value, expected):
  question = {**QUESTION, "is_impossible": value}
  dataset = squad.read_dataset(write(tmp_path, article(question)))
  assert dataset.questions[0].is_impossible is expected
  # Answers of an impossible question are only plausible.
  assert bool(dataset.questions[0].answers) is not expected


@pytest.mark.parametrize(
  "content, message",
  [
    ("", "x.json: not JSON"),
    (json.dumps(article(QUESTION))[:50], "x.json: not JSON.*Is it complete"),
    (
      {"version": 1},
      "entry 1 has neither 'paragraphs', .* nor 'qas', .* It has: version.",
    ),
    ([], "x.json holds no questions"),
    (article({**QUESTION, "question": "\ud800"}), "half of a surrogate pair"),
    ({"data": [{"title": "t"}]}, "entry 1 has neither 'paragraphs'"),
    ([{"paragraphs": 7}], "article 1 has paragraphs=7; .* requires a list"),
    ([{"question": "who?"}], "question 1 has no 'context'"),
    (
      [{**FLAT[0], "answers": {"text": ["a", "b"], "answer_start": [1]}}],
      r"question 'q1' \(question 1\) has 2 texts .* answer_start=\[1\]",
    ),
    (
      {"data": [{"paragraphs": [{"qas": []}]}]},
      "article 1, paragraph 1 has no 'context'",
    ),
    (article({**QUESTION, "id": True}), "question 1 has id=True; .* a string"),
    (
      article({**QUESTION, "question": 7}),
      r"question 'q1' \(article 1, paragraph 1, question 1\) has question=7",
    ),
    (
      article({**QUESTION, "answers": [{"answer_start": 1}]}),
      "an answer of question 'q1' .* has no 'text'; .* a string",
    ),
    (
      article({**QUESTION, "answers": [{"text": "x", "answer_start": True}]}),
      "has answer_start=True; .* an integer",
    ),
    (
      article({**QUESTION, "is_impossible": "no answer"}),
      "question 'q1' .* has is_impossible='no answer'; .* true or false",
    ),
    (
      article(QUESTION, QUESTION),
      "question 2 has the id 'q1', but article 1, paragraph 1, question 1 "
      "already has this id",
    ),
    (
      article(QUESTION, {**QUESTION, "id": "7"}, {**QUESTION, "id": 7}),
      "question 3 has the id '7', but article 1, paragraph 1, question 2",
    ),
    (article(), "holds no questions"),
  ],
)
def test_files_that_are_refused(tmp_path, content, message):
  with pytest.raises(ValueError, match=message):
    squad.read_dataset(write(tmp_path, content))
