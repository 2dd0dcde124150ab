"""Tests of tasks/swag.py."""

import json

import pytest

from tasks import swag

HEADER = (
  "video-id,fold-ind,startphrase,sent1,sent2,gold-source,ending0,"
  "ending1,ending2,ending3,label"
)


def read(tmp_path, content, file="x.csv", **kwargs):
  (tmp_path / file).write_text(content, encoding="utf-8")
  return swag.read_examples(str(tmp_path / file), **kwargs)


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
      "line 1: choice 1 is missing: 3",
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
      json.dumps({**CHOICES, "id": None}),
      "the id is None, not a string",
    ),
    (
      "x.jsonl",
      json.dumps(CHOICES)
      + "\n"
      + json.dumps({**CHOICES, "choices": ["x", "y", "z"]}),
      "line 2 has 3 choices, but the examples before have 2",
    ),
    (
      "x.jsonl",
      (json.dumps({**CHOICES, "id": "k"}) + "\n") * 2,
      "line 2 has the id 'k', but line 1 already has this id",
    ),
    ("x.jsonl", "{", "line 1: not JSON"),
    ("x.txt", "x", "Files of choices end in .csv or .jsonl"),
  ],
)
def test_files_that_are_refused(tmp_path, file, content, message):
  with pytest.raises(ValueError, match=message):
    read(tmp_path, content, file)
