"""Tests of data/encoding.py."""

import gzip
import itertools
import json
import os

import pytest

from data import encoding
from tasks import glue
import tokenization

CLS, SEP = 3, 4


@pytest.mark.parametrize(
  "ids_a, ids_b, max_seq_length, input_ids, num_first_segment",
  [
    ([7, 8], [9], 10, [CLS, 7, 8, SEP, 9, SEP], 4),
    ([7, 8], None, 10, [CLS, 7, 8, SEP], 4),
    ([7, 8], [], 4, [CLS, 7, 8, SEP], 4),
    ([7, 8, 9], None, 4, [CLS, 7, 8, SEP], 4),
    ([], None, 4, [CLS, SEP], 2),
    ([], [9], 4, [CLS, SEP, 9, SEP], 2),
    # The longer text is cut first, and the second one if they are equal.
    ([7] * 5, [8] * 3, 9, [CLS, 7, 7, 7, SEP, 8, 8, 8, SEP], 5),
    ([7] * 5, [8] * 3, 8, [CLS, 7, 7, 7, SEP, 8, 8, SEP], 5),
  ],
)
def test_pairs_get_special_tokens_and_segments(
  ids_a, ids_b, max_seq_length, input_ids, num_first_segment
):
  features = encoding.encode_pair(ids_a, ids_b, max_seq_length, CLS, SEP)
  assert features.input_ids == input_ids
  num_second_segment = len(input_ids) - num_first_segment
  assert features.segment_ids == (
    [0] * num_first_segment + [1] * num_second_segment
  )


def test_truncation_equals_removing_one_id_at_a_time():
  for length_a, length_b, room in itertools.product(
    range(8), range(8), range(10)
  ):
    a, b = length_a, length_b
    while a + b > room:
      a, b = (a - 1, b) if a > b else (a, b - 1)
    assert encoding.truncate_pair(length_a, length_b, room) == (a, b)


@pytest.mark.parametrize(
  "long_text, ids_a, ids_b, expected",
  [
    ("truncate", range(10, 20), None, ["C 10 11 12 13 14 15 16 17 S"]),
    ("head_tail", range(10, 20), None, ["C 10 11 14 15 16 17 18 19 S"]),
    ("head_tail", range(10, 20), [30], ["C 10 15 16 17 18 19 S 30 S"]),
    ("head_tail", [10, 11], [30], ["C 10 11 S 30 S"]),
    (
      "head_tail",
      range(10, 21),
      range(30, 40),
      ["C 10 18 19 20 S 37 38 39 S"],
    ),
    # A text that fits exactly is not cut.
    ("head_tail", range(10, 18), None, ["C 10 11 12 13 14 15 16 17 S"]),
    ("sliding_window", range(10, 18), None, ["C 10 11 12 13 14 15 16 17 S"]),
    (
      "sliding_window",
      range(10, 20),
      None,
      ["C 10 11 12 13 14 15 16 17 S", "C 12 13 14 15 16 17 18 19 S"],
    ),
    ("sliding_window", [10, 11], [30], ["C 10 11 S 30 S"]),
    (
      "sliding_window",
      [10, 11],
      range(30, 39),
      [
        "C 10 11 S 30 31 32 33 34 S",
        "C 10 11 S 32 33 34 35 36 S",
        "C 10 11 S 34 35 36 37 38 S",
      ],
    ),
    # The second text would fit alone, and still gets half of the room only.
    (
      "sliding_window",
      range(10, 21),
      range(30, 40),
      [
        "C 10 11 12 13 S 30 31 32 S",
        "C 12 13 14 15 S 30 31 32 S",
        "C 14 15 16 17 S 30 31 32 S",
        "C 16 17 18 19 S 30 31 32 S",
        "C 17 18 19 20 S 30 31 32 S",
      ],
    ),
    # If two texts have the same length, the first is cut into windows.
    (
      "sliding_window",
      range(10, 15),
      range(30, 35),
      ["C 10 11 12 13 S 30 31 32 S", "C 11 12 13 14 S 30 31 32 S"],
    ),
  ],
)
def test_long_texts_are_cut_or_windowed(long_text, ids_a, ids_b, expected):
  sequences = encoding.encode_long_pair(
    list(ids_a), ids_b and list(ids_b), 10, CLS, SEP, long_text
  )
  special_ids = {"C": CLS, "S": SEP}
  for features, text in zip(sequences, expected, strict=True):
    ids = [special_ids.get(word) or int(word) for word in text.split()]
    assert features.input_ids == ids
    num_first_segment = ids.index(SEP) + 1
    num_second_segment = len(ids) - num_first_segment
    assert features.segment_ids == (
      [0] * num_first_segment + [1] * num_second_segment
    )


def test_windows_of_a_single_id_cover_the_text():
  sequences = encoding.encode_long_pair(
    [7, 8, 9], None, 3, CLS, SEP, encoding.SLIDING_WINDOW
  )
  assert [x.input_ids for x in sequences] == [
    [CLS, 7, SEP],
    [CLS, 8, SEP],
    [CLS, 9, SEP],
  ]


def test_features_equal_those_of_the_original_code(large_golden_dir):
  data_dir = os.path.join(large_golden_dir, "..", "data")
  tokenizer = tokenization.FullTokenizer(
    os.path.join(data_dir, "vocab", "bert-base-uncased", "vocab.txt")
  )
  examples = glue.TASKS["mrpc"].read_examples(
    os.path.join(data_dir, "glue", "MRPC"), "dev"
  )
  by_guid = {
    f"dev-{number}": example for number, example in enumerate(examples, 1)
  }
  labels = dict(zip(by_guid, glue.TASKS["mrpc"].targets(examples, ("0", "1"))))
  path = os.path.join(large_golden_dir, "features", "mrpc_dev_seq40.jsonl.gz")
  count = 0
  with gzip.open(path, "rt", encoding="utf-8") as reader:
    for case in map(json.loads, reader):
      guid = case["guid"]
      example = by_guid[guid]
      assert example.text_a == case["text_a"], guid
      assert example.text_b == case["text_b"], guid
      features = encoding.encode_pair(
        tokenizer.encode(example.text_a),
        tokenizer.encode(example.text_b),
        40,
        tokenizer.vocab["[CLS]"],
        tokenizer.vocab["[SEP]"],
      )
      assert features == (case["input_ids"], case["segment_ids"]), guid
      assert labels[guid] == case["label_id"], guid
      count += 1
  assert count == 60
