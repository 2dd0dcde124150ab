"""Tests of tasks/swag.py."""

import dataclasses
import json

import pytest

from tasks import swag

HEADER = (
  "video-id,fold-ind,startphrase,sent1,sent2,gold-source,ending0,"
  "ending1,ending2,ending3,label"
)


def read(tmp_path, content, file="x.csv", **kwargs):
  (tmp_path / file).write_text(content, encoding="utf-8")
  return swag.read_examples([str(tmp_path / file)], **kwargs)


def read_objects(tmp_path, *objects, **kwargs):
  """Returns id, context, choices and label of each example."""
  lines = [json.dumps(fields) + "\n" for fields in objects]
  return [
    dataclasses.astuple(example)
    for example in read(tmp_path, "".join(lines), "x.jsonl", **kwargs)
  ]


def test_the_published_layout(tmp_path):
  [example] = read(
    tmp_path,
    f',{HEADER}\n0,anet,1,"A, b. He",'
    '"A, b.",He,gold,runs.,"says ""no"".",sits.,sleeps.,2\n',
  )
  assert example == swag.ChoiceExample(
    "0", "A, b.", ("He runs.", 'He says "no".', "He sits.", "He sleeps."), 2
  )
  [example] = read(
    tmp_path,
    HEADER.removesuffix(",label") + "\nv,1,s,A.,He,gold,a,b,c,d\n",
    has_labels=False,
  )
  assert example.label is None and example.choices[3] == "He d"


def test_any_number_of_choices(tmp_path):
  examples = read(
    tmp_path,
    "".join(
      json.dumps(fields) + "\n"
      for fields in [
        {"context": "c", "choices": ["x", "y", "z"], "label": 2, "id": "k"},
        {"context": "d", "choices": ["x", "y", "z"], "label": "0"},
      ]
    ),
    "x.jsonl",
  )
  assert examples == [
    swag.ChoiceExample("k", "c", ("x", "y", "z"), 2),
    swag.ChoiceExample("1", "d", ("x", "y", "z"), 0),
  ]


def test_the_full_files_of_swag(tmp_path):
  header = (
    "video-id,fold-ind,startphrase,gold-ending,distractor-0,distractor-1,"
    "distractor-2,gold-source,gold-type,distractor-0-type,sent1,sent2\n"
  )
  first, second = read(
    tmp_path,
    f"{header}v,1,s,right.,w0.,w1.,w2.,gold,pos,unl,A.,He\n"
    "v,1,s,right.,w0.,,w2.,gold,pos,unl,A.,He\n",
  )
  assert first.choices == ("He right.", "He w0.", "He w1.", "He w2.")
  assert second.choices == ("He right.", "He w0.", "He w2.")
  assert (second.context, second.label) == ("A.", 0)


def test_hellaswag(tmp_path):
  context = {"ctx_a": "A. B.", "ctx_b": "he", "ctx": "A. B. he"}
  endings = ["runs.", "sits."]
  assert read_objects(
    tmp_path,
    {"ind": 4, **context, "endings": endings, "label": "1"},
    {"ind": 4, **context, "ctx_b": "", "endings": endings, "label": 0},
    {"ctx": "A. B. he", "endings": endings, "label": 1},
  ) == [
    ("0", "A. B.", ("he runs.", "he sits."), 1),
    ("1", "A. B.", ("runs.", "sits."), 0),
    ("2", "A. B. he", ("runs.", "sits."), 1),
  ]
  fields = {"ctx": "A", "endings": endings, "label": ""}
  [(*_, label)] = read_objects(tmp_path, fields, has_labels=False)
  assert label is None


def test_race(tmp_path):
  article = {
    "article": "It rains.",
    "questions": ["It is ___ now.", "Why?"],
    "options": [["wet", "dry"], ["Who knows.", "It is May.", "No."]],
    "answers": ["A", "C"],
    "id": "high1.txt",
  }
  question = {"article": "B.", "question": "Why?", "options": ["x", "y"]}
  assert read_objects(
    tmp_path, article, {**question, "answer": "B", "example_id": "k"}
  ) == [
    ("high1.txt-0", "It rains.", ("It is wet now.", "It is dry now."), 0),
    (
      "high1.txt-1",
      "It rains.",
      ("Why? Who knows.", "Why? It is May.", "Why? No."),
      2,
    ),
    ("k", "B.", ("Why? x", "Why? y"), 1),
  ]


def test_questions(tmp_path):
  texts = ["x", "y"]
  named = {"text": texts, "label": ["1", "2"]}
  listed = [{"text": "x", "label": "A"}, {"text": "y", "label": "B"}]
  assert read_objects(
    tmp_path,
    {"question": "q", "choices": texts, "answer": 1},
    {"question": "q", "context": "c", "choices": texts, "label": "b"},
    {"id": "k", "question": "q", "choices": named, "answerKey": "1"},
    {"question_stem": "q", "choices": named, "answerKey": "2"},
    {"question": {"stem": "q", "choices": listed}, "answerKey": "B"},
  ) == [
    ("0", "q", ("x", "y"), 1),
    ("1", "c", ("q x", "q y"), 1),
    ("k", "q", ("x", "y"), 0),
    ("3", "q", ("x", "y"), 1),
    ("4", "q", ("x", "y"), 1),
  ]


CHOICES = {"context": "c", "choices": ["x", "y"], "label": 0}


@pytest.mark.parametrize(
  "file, content, message",
  [
    ("x.csv", "", "line 1 has no column"),
    ("x.csv", HEADER + "\n", "x.csv holds no examples"),
    ("x.csv", HEADER.replace("ending2,", "") + "\n", "no column 'ending2'"),
    (
      "x.csv",
      HEADER + "\nv,1,s,A.,He,gold,a,b,c,,1\n",
      "x.csv, line 2: choice 3 is missing: ''. Fill it in",
    ),
    (
      "x.csv",
      HEADER + "\nv,1,s,A,b.,He,gold,a,b,c,d,1\n",
      "line 2 has 12 fields, but line 1 has 11",
    ),
    (
      "x.csv",
      HEADER + '\nv,1,s,A.,"He"s,gold,a,b,c,d,1\n',
      "line 2: ',' expected",
    ),
    (
      "x.csv",
      HEADER + "\nv,1,s,A\0.,He,gold,a,b,c,d,1\n",
      "line 2 has a byte of value 0",
    ),
    (
      "x.csv",
      HEADER.replace("ending2", "ending1") + "\n",
      "line 1 has two columns 'ending1'",
    ),
    (
      "x.csv",
      HEADER + "\nv,1,s,,He,gold,a,b,c,d,1\n",
      "line 2: the context is missing",
    ),
    (
      "x.csv",
      HEADER + "\nv,1,s,A.,He,gold,a,b,c,d,4\n",
      "line 2: the label '4' is not the number of a choice, from 0 to 3",
    ),
    ("x.jsonl", json.dumps({**CHOICES, "choices": ["x"]}), "not a list of two"),
    (
      "x.jsonl",
      json.dumps({**CHOICES, "choices": ["x", 3]}),
      "entry 1: choice 1 is missing: 3",
    ),
    (
      "x.jsonl",
      json.dumps({**CHOICES, "label": None}),
      "the label None is not",
    ),
    (
      "x.jsonl",
      json.dumps({**CHOICES, "label": True}),
      "the label True is not",
    ),
    ("x.jsonl", json.dumps({**CHOICES, "label": 0.5}), "the label 0.5 is not"),
    ("x.jsonl", json.dumps({**CHOICES, "label": "9" * 5000}), "the label '999"),
    (
      "x.jsonl",
      (json.dumps({**CHOICES, "id": "k"}) + "\n") * 2,
      "line 2 has the id 'k', but .*, line 1 already has this id",
    ),
    ("x.jsonl", "{", "x.jsonl: not JSON"),
    (
      "x.jsonl",
      json.dumps({**CHOICES, "label": "C"}),
      "the label 'C' is not the number of a choice, from 0 to 1, nor its",
    ),
    (
      "x.jsonl",
      json.dumps({"article": "a", "questions": ["q", "r"], "options": []}),
      "'choices' is None, not a list",
    ),
    (
      "x.jsonl",
      json.dumps({"text": "a", "options": ["b", "c"]}),
      "the context is missing: None",
    ),
    (
      "x.jsonl",
      json.dumps({"ctx_a": "a", "ctx_b": 7, "endings": ["x", "y"]}),
      "choice 0 is missing: 7",
    ),
    (
      "x.jsonl",
      json.dumps({"article": "a", "questions": ["_"], "options": [["x", 2]]}),
      "choice 1 is missing: 2",
    ),
    ("x.txt", "x", "x.txt: not JSON"),
  ],
)
def test_files_that_are_refused(tmp_path, file, content, message):
  with pytest.raises(ValueError, match=message):
    read(tmp_path, content, file)
