"""Tests of tasks/ner_json.py."""

import json

import pytest

from tasks import ner_files


def read(tmp_path, *objects, file="x.jsonl", **kwargs):
  lines = [json.dumps(fields, ensure_ascii=False) for fields in objects]
  (tmp_path / file).write_text("\n".join(lines) + "\n", encoding="utf-8")
  return ner_files.read_sentences(str(tmp_path / file), **kwargs)


def test_words_with_tags(tmp_path):
  sentences = read(
    tmp_path,
    {"id": 7, "tokens": ["New York", "is"], "ner_tags": ["B-LOC", "O"]},
    {"words": [], "tags": []},
    {"words": ["a"], "labels": ["O"]},
    file="x.txt",
  )
  assert [(s.words, s.tags, s.lines) for s in sentences] == [
    (("New York", "is"), ("B-LOC", "O"), (1, 1)),
    ((), (), (2,)),
    (("a",), ("O",), (3,)),
  ]
  [sentence] = read(
    tmp_path,
    {"tokens": ["Ann", "left"], "ner_tags": [1, 0]},
    word_format=ner_files.WordFormat(tag_names=("O", "B-PER")),
  )
  assert sentence.tags == ("B-PER", "O")


@pytest.mark.parametrize(
  "spans",
  [
    {"label": [[0, 7, "PER"], [16, 20, "LOC"]]},
    {"entities": [[16, 20, "LOC"], [0, 7, "PER"]]},
    {
      "labels": [],
      "entities": [
        {"id": 1, "label": "PER", "start_offset": 0, "end_offset": 7},
        {"id": 2, "label": "LOC", "start_offset": 16, "end_offset": 20},
      ],
    },
    {
      "tokens": [{"text": "Ann", "start": 0, "end": 3, "id": 0}],
      "spans": [
        {"start": 0, "end": 7, "label": "PER", "token_end": 1},
        {"start": 16, "end": 20, "label": "LOC"},
      ],
    },
  ],
)
def test_texts_with_entities(tmp_path, spans):
  [sentence] = read(tmp_path, {"text": "Ann Lee left  (\nOslo).", **spans})
  assert sentence.words == ("Ann", "Lee", "left", "(", "Oslo", ")", ".")
  assert sentence.tags == ("B-PER", "I-PER", "O", "O", "B-LOC", "O", "O")
  assert sentence.starts == (0, 4, 8, 14, 16, 20, 21)


def test_entities_that_are_not_read_exactly_are_counted(tmp_path, caplog):
  caplog.set_level("INFO", logger="absl")
  first, second = read(
    tmp_path,
    {"text": "Oslos cat", "label": [[0, 4, "LOC"]]},
    {"text": "the cat of Oslo", "label": [[11, 15, "LOC"], [4, 15, "PET"]]},
  )
  assert first.tags == ("B-LOC", "O")
  assert second.tags == ("O", "B-PET", "I-PET", "I-PET")
  assert "1 entities begin or end inside a word" in caplog.text
  assert "1 entities overlap a longer one" in caplog.text
  assert "x.jsonl, line 2" in caplog.text


def test_texts_that_nobody_has_read_have_no_tags(tmp_path):
  texts = [{"text": "a b", "label": []}, {"text": "c", "label": []}]
  assert [s.tags for s in read(tmp_path, *texts, has_tags=False)] == [None] * 2
  assert [s.tags for s in read(tmp_path, *texts)] == [("O", "O"), ("O",)]
  texts[1]["label"] = [[0, 1, "x"]]
  assert read(tmp_path, *texts, has_tags=False)[0].tags == ("O", "O")


WORDS = {"tokens": ["a", "b"]}
TEXT = {"text": "a b"}


@pytest.mark.parametrize(
  "fields, message",
  [
    (WORDS, "entry 1 has words, but no tags"),
    (
      {**WORDS, "ner_tags": [3, 0]},
      "ner_tags holds the number 3, and the file does not tell .*--tag_names",
    ),
    ({**WORDS, "ner_tags": ["O"]}, "ner_tags is .*, not a list of 2 tags"),
    ({**WORDS, "ner_tags": ["O", ""]}, "holds '', which is no tag"),
    ({**WORDS, "ner_tags": ["O", True]}, "holds True, which is no tag"),
    ({"tokens": [1]}, "has the fields tokens, but neither a list of words"),
    (TEXT, "entry 1 has a text, but no entities or label"),
    ({**TEXT, "label": "x"}, "label is 'x', not a list of entities"),
    ({**TEXT, "label": [[0, 1]]}, "not .start, end, type."),
    ({**TEXT, "label": [[0, 4, "x"]]}, "no offsets in a text of 3 characters"),
    ({**TEXT, "label": [[1, 1, "x"]]}, "no offsets in a text"),
    ({**TEXT, "label": [[0, True, "x"]]}, "no offsets in a text"),
    ({**TEXT, "label": [[0, 1, ""]]}, "which has no type"),
    ({**TEXT, "label": [[1, 2, "x"]]}, r"the entity .1, 2, 'x'. holds no word"),
  ],
)
def test_objects_that_are_refused(tmp_path, fields, message):
  with pytest.raises(ValueError, match=message):
    read(tmp_path, fields)


def test_tags_in_some_objects_only_are_refused(tmp_path):
  objects = [{**WORDS, "tags": ["O", "O"]}, WORDS]
  with pytest.raises(ValueError, match="but none in line 2"):
    read(tmp_path, *objects, has_tags=False)
  with pytest.raises(ValueError, match="--tag_names has 1 names"):
    read(
      tmp_path,
      {**WORDS, "tags": [0, 1]},
      word_format=ner_files.WordFormat(tag_names=("O",)),
    )
