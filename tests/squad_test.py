"""Tests of tasks/squad.py."""

import json

import pytest

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


@pytest.mark.parametrize(
  "content, message",
  [
    ("", "x.json: not JSON"),
    (json.dumps(article(QUESTION))[:50], "x.json: not JSON.*Is it complete"),
    (
      {"version": 1},
      "the file has no 'data'; the SQuAD format requires a list",
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
      "an answer of question 'q1' .* has no 'answer_start'; .* an integer",
    ),
    (
      article({**QUESTION, "answers": [{"text": "x", "answer_start": True}]}),
      "has answer_start=True; .* an integer",
    ),
    (
      article({**QUESTION, "is_impossible": "false"}),
      "question 'q1' .* has is_impossible='false'; .* true or false",
    ),
    (
      article(QUESTION, QUESTION),
      "question 2 has the id 'q1', but article 1, paragraph 1, question 1 "
      "already has this id",
    ),
    (article(), "holds no questions"),
  ],
)
def test_files_that_are_refused(tmp_path, content, message):
  with pytest.raises(ValueError, match=message):
    squad.read_dataset(write(tmp_path, content))
