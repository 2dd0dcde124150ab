"""Tests of tasks/classification.py: files of one's own."""

import dataclasses
import json

import numpy as np
import pyarrow
from pyarrow import parquet
import pytest

import errors
from tasks import classification

TASK = classification.custom_task(text_a="words", label="kind")


def read(tmp_path, content, task=TASK, file="train.tsv"):
  (tmp_path / file).write_text(content, encoding="utf-8")
  return task.read_examples(str(tmp_path), file.partition(".")[0])


@pytest.mark.parametrize(
  "file, content",
  [
    ("train.tsv", 'n\tkind\twords\nx\tpos\ta "good", dog\n\ny\tneg\tbad\n'),
    ("train.csv", 'n,kind,words\nx,pos,"a ""good"", dog"\n\ny,neg,bad\n'),
    (
      "train.jsonl",
      '{"words": "a \\"good\\", dog", "kind": "pos"}\n\n\n'
      '{"kind": "neg", "words": "bad"}\n',
    ),
  ],
)
def test_three_formats_say_the_same(tmp_path, file, content):
  examples = read(tmp_path, content, file=file)
  assert [(e.id, e.text_a, e.text_b, e.label) for e in examples] == [
    ("0", 'a "good", dog', None, "pos"),
    ("1", "bad", None, "neg"),
  ]
  assert examples[1].place.endswith(f"{file}, line 4")
  labels = TASK.find_labels(examples)
  assert labels == ("neg", "pos")
  assert TASK.targets(examples, labels).tolist() == [1, 0]


def test_csv_fields_may_hold_line_feeds(tmp_path):
  examples = read(
    tmp_path, 'words,kind\n"one\ntwo",a\nthree,b\n', file="train.csv"
  )
  assert [e.text_a for e in examples] == ["one\ntwo", "three"]
  assert [e.place[-1] for e in examples] == ["2", "4"]


def test_several_labels(tmp_path):
  task = classification.custom_task(problem_type="multi_label")
  content = "text\tlabel\na\tx, y\nb\t\nc\ty\nd\ty\n"
  examples = read(tmp_path, content, task)
  assert [e.label for e in examples] == [("x", "y"), (), ("y",), ("y",)]
  labels = task.find_labels(examples)
  targets = task.targets(examples, labels)
  assert targets.tolist() == [[1, 1], [0, 0], [0, 1], [0, 1]]
  lists = read(
    tmp_path,
    "".join(
      json.dumps({"text": e.text_a, "label": list(e.label)}) + "\n"
      for e in examples
    ),
    task,
    "dev.jsonl",
  )
  assert [e.label for e in lists] == [e.label for e in examples]
  # How many examples without a label there are for each that has it.
  weights = classification.custom_task(
    problem_type="multi_label", class_weights="balanced"
  ).label_weights(targets, labels)
  np.testing.assert_allclose(weights, [3.0, 1 / 3])


def test_class_weights(tmp_path):
  examples = read(tmp_path, "words\tkind\n" + "a\tx\n" * 6 + "b\ty\n" * 2)
  labels = TASK.find_labels(examples)
  targets = TASK.targets(examples, labels)

  def weights(class_weights):
    return classification.custom_task(
      class_weights=class_weights
    ).label_weights(targets, labels)

  assert weights(None) is None
  np.testing.assert_allclose(weights({"y": 5}), [1.0, 5.0])
  balanced = weights("balanced")
  np.testing.assert_allclose(balanced, [8 / 12, 2.0])
  # Both labels weigh the same, and all together as much as before.
  np.testing.assert_allclose(balanced * [6, 2], [4.0, 4.0])
  with pytest.raises(ValueError, match="class weight for 'z'.*labels: x, y"):
    weights({"z": 2})
  values = classification.custom_task(
    problem_type="regression", class_weights="balanced"
  )
  with pytest.raises(ValueError, match="regression has none"):
    values.label_weights(np.zeros(2), ())


def test_a_json_file_describes_the_data(tmp_path):
  path = tmp_path / "task.json"
  path.write_text(
    json.dumps(
      {
        "text_a": "q",
        "text_b": "a",
        "label": "score",
        "id": "key",
        "problem_type": "regression",
        "train": "2024.csv",
      }
    )
  )
  task = classification.read_task_file(str(path))
  (tmp_path / "2024.csv").write_text("key,q,a,score\nk7,who,he,2.5\n")
  [example] = task.read_examples(str(tmp_path), "train")
  assert (example.id, example.text_a, example.text_b, example.label) == (
    "k7",
    "who",
    "he",
    2.5,
  )
  assert task.find_labels([example]) == ()
  assert task.targets([example], ()).tolist() == [2.5]
  for content, message in [
    ('{"txt": 1}', "has txt; a task file .* some of: text_a, text_b"),
    ("[1]", r"holds \[1\], not an object"),
    ("{", "task.json: not JSON"),
    ('{"problem_type": "other"}', "'other' is none of single_label"),
    ('{"problem_type": ["single_label"]}', "is none of single_label"),
    ('{"text_a": null}', "task.json: text_a is None, not a string"),
    ('{"text_b": 1}', "text_b is 1, not a string"),
    ('{"label_separator": ""}', "label_separator is '', not a string"),
    ('{"train": ["x.tsv"]}', r"train is \['x.tsv'\], not a string"),
    ('{"labels": "xy"}', "labels is 'xy', not a list of strings"),
    ('{"labels": ["x", null]}', r"labels is \['x', None\], not a list"),
    ('{"labels": ["1", 1]}', "labels has '1' twice"),
    ('{"problem_type": "regression", "labels": [1]}', "regression has none"),
    ('{"class_weights": "equal"}', "class_weights is 'equal', neither"),
    ('{"class_weights": {"x": -1}}', "'x' has the weight -1, not a finite"),
    ('{"class_weights": {"x": "2"}}', "'x' has the weight '2', not a finite"),
  ]:
    path.write_text(content)
    with pytest.raises(errors.UserError, match=message):
      classification.read_task_file(str(path))
  with pytest.raises(ValueError, match="nowhere.json does not exist"):
    classification.read_task_file(str(tmp_path / "nowhere.json"))


@pytest.mark.parametrize(
  "file, content, message",
  [
    (
      "train.tsv",
      None,
      "train.tsv or .*train.csv or .*train.jsonl or .* does not exist",
    ),
    ("train.tsv", "words\tkind\n", "train.tsv holds no examples"),
    ("train.tsv", "", "line 1 has no column 'words'"),
    (
      "train.tsv",
      "text\tkind\na\tb\n",
      "line 1 has no column 'words'. It names: text, kind",
    ),
    (
      "train.tsv",
      "words\tkind\na\t1\nb\n",
      "line 3 has 1 columns, but column 2 is "
      r"needed: \['b'\]",
    ),
    (
      "train.tsv",
      "words\tkind\na\t1\n \t1\n",
      "line 3: column 'words' has ' ', which is no text. The file has 1 row "
      "without text. Fill them in, or leave such rows out with --missing=skip",
    ),
    (
      "train.tsv",
      "words\tkind\twords\na\t1\tb\n",
      "line 1 has two columns 'words'",
    ),
    (
      "train.tsv",
      "words\tkind\na\t1\nb\0\t0\n",
      "train.tsv, line 3 has a byte of value 0",
    ),
    (
      "train.tsv",
      "words\tkind\na\t\n",
      "line 2: column 'kind' has '', which is no label. .* 1 row without lab",
    ),
    (
      "train.tsv",
      "words\tkind\na\t0\nb\t7\n",
      "line 3: the label '7' is not one of: 0, 1",
    ),
    (
      "train.csv",
      'words,kind\na,0\n"b,1\n',
      "train.csv, line 3: unexpected end of data",
    ),
    (
      "train.csv",
      "words,kind\na,0\nyes, of course,1\n",
      "line 3 has 3 fields, but line 1 has 2. Commas separate fields: put",
    ),
    (
      "train.csv",
      "words,kind\n" + "a" * 2**20 + "\n",
      "line 2 has 1 columns, but "
      r"column 2 is needed: \['aaa[^']*\.\.\.[^']*'\]",
    ),
    (
      "train.jsonl",
      '{"words": "a", "kind": 0}\n{"words": 3, "kind": 0}\n',
      "line 2: column 'words' has 3, not a text",
    ),
    (
      "train.jsonl",
      '{"words": "a"}\n',
      "line 1: there is no 'kind'. The object has: words",
    ),
    (
      "train.jsonl",
      '{"words": "a", "kind": ["x"]}\n',
      "line 1: the label is "
      r"\['x'\], not one word.*multi_label",
    ),
    ("train.jsonl", "[]\n", r"line 1 holds \[\], not an object of JSON"),
    ("train.jsonl", "{\n", "line 1: not JSON"),
    (
      "train.jsonl",
      '{"words": "\\ud800", "kind": 0}\n',
      "line 1 holds half of a surrogate pair",
    ),
    (
      "train.jsonl",
      '{"words": "a", "kind": 1e999}\n',
      "line 1: not JSON: 1e999 is too large a number",
    ),
    ("train.jsonl", "[" * 10**5, "line 1 is nested too deeply"),
  ],
)
def test_bad_files(tmp_path, file, content, message):
  with pytest.raises(ValueError, match=message):
    if content is None:
      TASK.read_examples(str(tmp_path), "train")
    TASK.targets(read(tmp_path, content, file=file), ("0", "1"))


def test_files_that_are_not_utf_8(tmp_path):
  (tmp_path / "train.tsv").write_bytes(b"words\tkind\na\t1\ncaf\xe9\t0\n")
  with pytest.raises(errors.UserError, match="train.tsv, line 3: not UTF-8"):
    TASK.read_examples(str(tmp_path), "train")


def test_a_folder_in_place_of_a_file(tmp_path):
  (tmp_path / "train.tsv").mkdir()
  with pytest.raises(errors.UserError, match="train.tsv .*directory"):
    TASK.read_examples(str(tmp_path), "train")


@pytest.mark.parametrize(
  "label, message",
  [
    ("null", "the label is None, not a list of words"),
    ('{"x": 1}', "not a list of words"),
    ('["x", null]', r"the label is \['x', None\], not"),
  ],
)
def test_lists_of_labels_that_are_none(tmp_path, label, message):
  task = classification.custom_task(problem_type="multi_label")
  with pytest.raises(errors.UserError, match=message):
    read(tmp_path, f'{{"text": "a", "label": {label}}}\n', task, "train.jsonl")


@pytest.mark.parametrize("number", ["inf", "good", "-1e39"])
def test_targets_that_are_no_numbers(tmp_path, number):
  task = classification.custom_task(problem_type="regression")
  with pytest.raises(
    ValueError, match=f"line 3: the label '{number}' is not a finite number"
  ):
    read(tmp_path, f"text\tlabel\na\t0.5\nb\t{number}\n", task)


def test_ids_that_are_not_unique(tmp_path):
  task = classification.custom_task(id="key")
  with pytest.raises(ValueError, match="line 4 has the id 'k1', but line 2"):
    read(tmp_path, "key\ttext\tlabel\nk1\ta\tx\nk2\tb\tx\nk1\tc\ty\n", task)


@pytest.mark.parametrize("key", ["null", "true", "1.5", "[1]"])
def test_ids_that_are_no_texts(tmp_path, key):
  task = classification.custom_task(id="key")
  with pytest.raises(
    errors.UserError, match="line 1: the id is .*, not a string"
  ):
    read(
      tmp_path,
      f'{{"key": {key}, "text": "a", "label": "x"}}\n',
      task,
      "train.jsonl",
    )


def test_labels_that_are_all_the_same(tmp_path):
  with pytest.raises(ValueError, match="have the label 'x' only"):
    TASK.find_labels(read(tmp_path, "words\tkind\na\tx\nb\tx\n"))


def test_other_files_need_a_known_ending(tmp_path):
  task = classification.custom_task(train="train.xlsx")
  with pytest.raises(
    ValueError, match="end in one of .tsv, .csv, .txt, .jsonl, .json, .parquet"
  ):
    read(tmp_path, "x", task, "train.xlsx")


def test_rows_without_text_or_label_are_counted(tmp_path):
  content = ",words,kind\n0,a,x\n1,b,\n2,,y\n3,nan,y\n4,none,NaN\n5,null,None\n"
  with pytest.raises(
    errors.UserError,
    match="train.csv, line 3: column 'kind' has '', which is no label. The "
    "file has 2 rows without label, 1 row without text. .*--missing=skip",
  ):
    read(tmp_path, content, file="train.csv")
  task = dataclasses.replace(TASK, missing=classification.SKIP)
  examples = read(tmp_path, content, task, "train.csv")
  # Ids say which row it is.
  assert [(e.id, e.text_a, e.label) for e in examples] == [
    ("0", "a", "x"),
    ("3", "nan", "y"),
    ("5", "null", "None"),
  ]


def test_parquet_files_may_lack_values(tmp_path):
  rows = [
    {"words": "a", "kind": 1.0},
    {"words": None, "kind": 1.0},
    {"words": "b", "kind": None},
    {"words": "c", "kind": float("nan")},
    {"words": "d", "kind": 0.0},
  ]
  parquet.write_table(
    pyarrow.Table.from_pylist(rows), tmp_path / "train.parquet"
  )
  task = dataclasses.replace(TASK, missing=classification.SKIP)
  examples = task.read_examples(str(tmp_path), "train")
  assert [e.text_a for e in examples] == ["a", "d"]
  assert task.find_labels(examples) == ("0", "1")
  with pytest.raises(errors.UserError, match="row 2: column 'words' has None"):
    TASK.read_examples(str(tmp_path), "train")


def test_two_files_of_a_split_are_noticed(tmp_path, caplog):
  (tmp_path / "train.csv").write_text("words,kind\nb,y\n")
  with caplog.at_level("WARNING"):
    assert len(read(tmp_path, "words\tkind\na\tx\n")) == 1
  assert "train.tsv is read, and " in caplog.text
  assert "train.csv is not" in caplog.text


def test_labels_that_are_left_out(tmp_path):
  content = "words\tkind\na\tx\nb\t-\nc\t2.0\nd\ty\n"
  assert len(read(tmp_path, content)) == 4
  task = dataclasses.replace(TASK, skipped_labels=("-", "2"))
  examples = read(tmp_path, content, task)
  assert [(e.id, e.label) for e in examples] == [("0", "x"), ("3", "y")]


@pytest.mark.parametrize(
  "train, dev, labels, dev_labels",
  [
    ("1.0 0.0 1", "1 0. -0", ("0", "1"), ["1", "0", "-0"]),
    # Not all are whole numbers, so they are words.
    ("1.0 2.5", "1.0 2.5", ("1.0", "2.5"), ["1.0", "2.5"]),
    ("01 1", "01 1.0", ("01", "1"), ["01", "1"]),
    ("1 0", "1.0 1.5", ("0", "1"), ["1", "1.5"]),
  ],
)
def test_labels_that_are_whole_numbers(
  tmp_path, train, dev, labels, dev_labels
):
  def read_labels(words):
    rows = "".join(f"a\t{word}\n" for word in words.split())
    return read(tmp_path, f"words\tkind\n{rows}")

  assert TASK.find_labels(read_labels(train)) == labels
  examples = TASK.match_labels(read_labels(dev), labels)
  assert [e.label for e in examples] == dev_labels


def test_space_around_a_label_is_none_of_it(tmp_path):
  rows = "a, Very Good\nb,Very Good \nc,very good\n"
  examples = read(tmp_path, f"words, kind\n{rows}", file="train.csv")
  assert TASK.find_labels(examples) == ("Very Good", "very good")


def test_a_column_for_each_label(tmp_path):
  task = classification.custom_task(
    label=["toxic", "insult"], problem_type="multi_label"
  )
  content = (
    "text,insult,toxic\na,0,1\nb,1.0,1.0\nc,False,false\nd,-1,-1\ne,0,\n"
  )
  with pytest.raises(
    errors.UserError, match="line 5: column 'toxic' has '-1', not 1 where"
  ):
    read(tmp_path, content, task, "train.csv")
  task = dataclasses.replace(
    task, skipped_labels=("-1",), missing=classification.SKIP
  )
  examples = read(tmp_path, content, task, "train.csv")
  labels = task.find_labels(examples)
  assert labels == ("toxic", "insult")
  targets = task.targets(examples, labels)
  assert targets.tolist() == [[1, 0], [1, 1], [0, 0]]
  for settings, message in [
    ({"label": ["a", "b"]}, "needs the problem type multi_label, not single"),
    ({"label": ["a", "a"], "problem_type": "multi_label"}, "different columns"),
    ({"label": ["a", 1], "problem_type": "multi_label"}, "different columns"),
    ({"label": [], "problem_type": "multi_label"}, "different columns"),
    (
      {"label": ["a"], "problem_type": "multi_label", "labels": ["a"]},
      "the labels too",
    ),
  ]:
    with pytest.raises(errors.UserError, match=message):
      classification.custom_task(**settings)
