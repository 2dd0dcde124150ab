"""Tests of input_pipeline.py."""

import functools
import gzip
import itertools
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from data import batching
from data import encoding
from data import file_io
from data import record_files
from data import serialization
from pretraining import input_pipeline
from pretraining import record_formats
from tasks import glue
import tokenization

CLS, SEP = 3, 4


def pack(ids_a, ids_b, max_seq_length):
  return encoding.encode_pair(ids_a, ids_b, max_seq_length, CLS, SEP)


def test_packing():
  assert pack([7, 8], [9], 10) == ([3, 7, 8, 4, 9, 4], [0, 0, 0, 0, 1, 1])
  assert pack([7, 8], None, 10) == ([3, 7, 8, 4], [0] * 4)
  assert pack([7, 8, 9], None, 4) == ([3, 7, 8, 4], [0] * 4)
  # The longer one is cut first, the second one where they are equal.
  assert pack([7] * 5, [8] * 3, 9).input_ids == [3, 7, 7, 7, 4, 8, 8, 8, 4]
  assert pack([7] * 5, [8] * 3, 8).input_ids == [3, 7, 7, 7, 4, 8, 8, 4]


def test_a_pair_is_cut_one_by_one_at_the_longer_end():
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
    # A second text as long as the room has half of it.
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
  ],
)
def test_texts_that_are_too_long(long_text, ids_a, ids_b, expected):
  windows = encoding.encode_long_pair(
    list(ids_a), ids_b and list(ids_b), 10, CLS, SEP, long_text
  )
  for window, text in zip(windows, expected, strict=True):
    ids = [{"C": CLS, "S": SEP}.get(x) or int(x) for x in text.split()]
    assert window.input_ids == ids
    first = ids.index(SEP) + 1
    assert window.segment_ids == [0] * first + [1] * (len(ids) - first)


LABEL = {"label_ids": tf.io.FixedLenFeature([], tf.int64)}


def write_examples(path, lengths):
  record_files.write_records(
    str(path),
    (
      batching.create_task_record(
        encoding.InputFeatures([i + 10] * n, [0] * n), label_ids=[i]
      )
      for i, n in enumerate(lengths)
    ),
  )
  return str(path)


def test_evaluation_batches_have_every_example_once_and_pad_little(tmp_path):
  lengths = [3, 9, 20, 5, 30]
  file = write_examples(tmp_path / "x.tf_record", lengths)
  batches = list(batching.task_dataset(file, 30, 2, LABEL))
  assert [b["input_ids"].shape.as_list() for b in batches] == [
    [2, 8],
    [2, 20],
    [1, 30],
  ]
  labels = [int(x) for b in batches for x in b["label_ids"]]
  numbers = [int(x) for b in batches for x in b["record_number"]]
  assert labels == numbers and sorted(labels) == list(range(5))
  for batch in batches:
    ids, mask = batch["input_ids"].numpy(), batch["input_mask"].numpy()
    assert ((ids > 0) == mask).all()
    for label, row in zip(batch["label_ids"], mask):
      assert row.sum() == lengths[int(label)]


def test_record_numbers_count_on_from_window_to_window(tmp_path, monkeypatch):
  monkeypatch.setattr(batching, "_RECORDS_PER_WINDOW", 4)
  file = write_examples(tmp_path / "x.tf_record", [9, 3, 8, 4, 7, 5])
  batches = list(batching.task_dataset(file, 30, 2, LABEL))
  assert [b["record_number"].numpy().tolist() for b in batches] == [
    [1, 3],
    [2, 0],
    [5, 4],
  ]


def test_static_shapes_fill_up_the_last_batch(tmp_path):
  file = write_examples(tmp_path / "x.tf_record", [3, 9, 20])
  dataset = batching.task_dataset(file, 30, 2, LABEL, static_shapes=True)
  assert dataset.element_spec["input_ids"].shape == (2, 30)
  assert dataset.element_spec["label_ids"].shape == (2,)
  real = [x["is_real_example"].numpy().tolist() for x in dataset]
  assert real == [[1, 1], [1, 0]]


def test_training_batches_have_near_lengths_and_every_example(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(batching, "_RECORDS_PER_WINDOW", 100)
  lengths = [5 + 3 * (i % 10) for i in range(200)]
  file = write_examples(tmp_path / "x.tf_record", lengths)

  def epochs_of(seed):
    dataset = batching.task_dataset(
      file, 40, 4, LABEL, batching.TrainingOrder(200, 7, seed)
    )
    widths, labels, epochs = [], [], []
    for batch in dataset.take(100):
      widths.append(batch["input_ids"].shape[1])
      assert widths[-1] in batching.bucket_lengths(40)
      real = batch["input_mask"].numpy().sum(axis=1)
      assert real.min() > widths[-1] - 8
      labels += batch["label_ids"].numpy().tolist()
      if len(labels) == 200:
        epochs.append(labels)
        labels = []
    # The batches of a window do not come in the order of their lengths.
    assert np.corrcoef(widths[:25], range(25))[0, 1] < 0.5
    return epochs

  first, second = epochs_of(seed=1)
  assert sorted(first) == sorted(second) == list(range(200))
  assert first != second
  assert [first, second] == epochs_of(seed=1) != epochs_of(seed=2)


def test_bucket_lengths_end_with_the_longest():
  for longest in (5, 40, 64, 128, 384, 512):
    lengths = batching.bucket_lengths(longest)
    assert lengths == sorted(set(lengths)) and lengths[-1] == longest


def test_failed_write_leaves_nothing(tmp_path):
  def records():
    yield b"one"
    raise RuntimeError("the source broke")

  path = tmp_path / "x.tf_record"
  path.write_text("as it was")
  with pytest.raises(RuntimeError):
    record_files.write_records(str(path), records())
  assert [p.name for p in tmp_path.iterdir()] == ["x.tf_record"]
  assert path.read_text() == "as it was"


def test_lines_end_at_line_feeds_only_and_must_be_utf8(tmp_path):
  path = tmp_path / "x.txt"
  path.write_bytes("\ufeffa\u2028b\r\nc\n\nd".encode())
  assert list(file_io.read_lines(str(path))) == ["a\u2028b", "c", "", "d"]
  path.write_bytes(b"good\nb\xe9d\n")
  with pytest.raises(ValueError, match="line 2: not UTF-8.*0xe9 at column 2"):
    list(file_io.read_lines(str(path)))


def test_patterns_that_match_nothing_or_empty_files_are_refused(tmp_path):
  (tmp_path / "a.txt").write_text("a")
  (tmp_path / "b.txt").write_text("b")
  found = file_io.expand_patterns(f"{tmp_path}/*.txt", "--input_file")
  assert [os.path.basename(name) for name in found] == ["a.txt", "b.txt"]
  with pytest.raises(ValueError, match="--input_file: .*c.txt matches no file"):
    file_io.expand_patterns(
      f"{tmp_path}/a.txt,{tmp_path}/c.txt", "--input_file"
    )
  (tmp_path / "e.txt").write_text("")
  with pytest.raises(ValueError, match="e.txt is empty"):
    file_io.expand_patterns(f"{tmp_path}/*.txt", "--input_file")
  with pytest.raises(ValueError, match="is a folder"):
    file_io.expand_patterns(str(tmp_path), "--input_file")


def test_features_of_the_reference(large_golden_dir):
  data_dir = os.path.join(large_golden_dir, "..", "data")
  tokenizer = tokenization.FullTokenizer(
    os.path.join(data_dir, "vocab", "bert-base-uncased", "vocab.txt")
  )
  examples = glue.MRPC.read_examples(
    os.path.join(data_dir, "glue", "MRPC"), "dev"
  )
  by_guid = {
    f"dev-{number}": example for number, example in enumerate(examples, 1)
  }
  labels = dict(zip(by_guid, glue.MRPC.targets(examples, ("0", "1"))))
  path = os.path.join(large_golden_dir, "features", "mrpc_dev_seq40.jsonl.gz")
  count = 0
  with gzip.open(path, "rt", encoding="utf-8") as reader:
    for case in map(json.loads, reader):
      example = by_guid[case["guid"]]
      assert (example.text_a, example.text_b) == (
        case["text_a"],
        case["text_b"],
      )
      packed = encoding.encode_pair(
        tokenizer.encode(example.text_a),
        tokenizer.encode(example.text_b),
        40,
        tokenizer.vocab["[CLS]"],
        tokenizer.vocab["[SEP]"],
      )
      assert packed == (case["input_ids"], case["segment_ids"]), case["guid"]
      assert labels[case["guid"]] == case["label_id"]
      count += 1
  assert count == 60


# --- Pre-training records ----------------------------------------------------


def test_rows_are_serialized_like_single_records():
  rng = np.random.default_rng(0)
  features = {
    "small": rng.integers(0, 128, (9, 3)),
    "mixed": rng.choice([0, 127, 128, 16383, 16384, 2**31 - 1], (9, 200)),
    "flags": rng.integers(0, 2, (9, 130), dtype=np.uint8),
    "weights": rng.random((9, 5), dtype=np.float32),
    "one": np.arange(9)[:, np.newaxis],
  }
  content, lengths = serialization.serialize_rows(features)
  ends = np.cumsum(lengths)
  assert ends[-1] == len(content)
  for row, (start, end) in enumerate(zip(ends - lengths, ends)):
    assert tf.train.Example.FromString(content[start:end].tobytes()) == (
      tf.train.Example.FromString(
        serialization.serialize(
          {name: values[row].tolist() for name, values in features.items()}
        )
      )
    )


# 23 records in windows of 8: windows begin and end inside of epochs.
@pytest.mark.parametrize("taken", [1, 2, 3, 4, 7, 12])
def test_training_batches_continue_from_a_position(
  tmp_path, monkeypatch, taken
):
  monkeypatch.setattr(batching, "_RECORDS_PER_WINDOW", 8)
  file = write_examples(tmp_path / "x.tf_record", [5 + i for i in range(23)])

  def batches(count, position=None, batch_size=4, identity=7):
    return list(
      batching.task_dataset(
        file,
        40,
        batch_size,
        LABEL,
        batching.TrainingOrder(23, identity, 1, position),
      )
      .take(count)
      .as_numpy_iterator()
    )

  whole = batches(20)
  rest = batches(20 - taken, whole[taken - 1]["input_position"].tolist())
  for batch, again in zip(whole[taken:], rest, strict=True):
    for name, value in batch.items():
      np.testing.assert_array_equal(value, again[name])
  # Between windows also with other batches: 23 windows are 8 whole epochs.
  if taken % 2 == 0:
    more = batches(
      92 - 2 * taken, whole[taken - 1]["input_position"].tolist(), batch_size=2
    )
    labels = [
      label for batch in whole[:taken] + more for label in batch["label_ids"]
    ]
    assert sorted(labels) == sorted([*range(23)] * 8)


def test_order_of_a_window_depends_on_its_place_not_on_its_records(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(batching, "_RECORDS_PER_WINDOW", 40)
  lengths = [5 + i for i in range(40)]
  orders = []
  for name in ("a", "b"):
    file = write_examples(tmp_path / name, lengths)
    dataset = batching.task_dataset(
      file, 60, 4, LABEL, batching.TrainingOrder(40, 7, 1)
    )
    orders.append([batch["input_ids"].shape[1] for batch in dataset.take(30)])
    lengths = lengths[::-1]
  assert orders[0] == orders[1]
  assert len({tuple(orders[0][i : i + 10]) for i in (0, 10, 20)}) == 3


# Maps of protocol buffers are serialized in another order in each process,
# unless they are asked not to.
def test_records_are_the_same_bytes_in_every_process():
  code = (
    "from data import batching, encoding; print(batching.create_task_record("
    "encoding.InputFeatures([1], [0]), label_ids=[1], a=[1.0], b=[2], "
    "c=[3.0]).hex())"
  )
  outputs = {
    subprocess.run(
      [sys.executable, "-c", code],
      check=True,
      capture_output=True,
      env={
        **os.environ,
        "PYTHONPATH": str(pathlib.Path(batching.__file__).parent.parent),
      },
    ).stdout
    for _ in range(2)
  }
  record = batching.create_task_record(
    encoding.InputFeatures([1], [0]), label_ids=[1], a=[1.0], b=[2], c=[3.0]
  )
  assert outputs == {record.hex().encode() + b"\n"}


RIGHT_RECORD = {
  "input_ids": [1, 2],
  "input_mask": [1, 1],
  "segment_ids": [0, 1],
  "masked_lm_positions": [1],
  "masked_lm_ids": [2],
  "masked_lm_weights": [1.0],
  "next_sentence_labels": [0],
}


@pytest.mark.parametrize(
  "changes, problem",
  [
    (dict(input_ids=[1, 100]), "input_ids has the value 100 at place 1"),
    (dict(input_ids=[-1, 1]), "input_ids has the value -1 at place 0"),
    (dict(input_mask=[1, 2]), "input_mask has the value 2"),
    (dict(segment_ids=[0, 3]), "segment_ids has the value 3"),
    (dict(masked_lm_positions=[2]), "masked_lm_positions has the value 2"),
    (dict(masked_lm_ids=[-5]), "masked_lm_ids has the value -5"),
    (dict(masked_lm_weights=[float("nan")]), "masked_lm_weights has the value"),
    (dict(masked_lm_weights=[float("inf")]), "masked_lm_weights has the value"),
    (dict(masked_lm_weights=[-1.0]), "masked_lm_weights has the value -1"),
    (dict(next_sentence_labels=[2]), "next_sentence_labels has the value 2"),
    (dict(input_ids=[1]), "input_ids has 1 values, not 2"),
    (dict(input_ids=[1.0, 2.0]), "input_ids is a float_list, not a int64_list"),
    (dict(input_mask=None), "input_mask is missing"),
  ],
)
def test_damaged_records_stop_the_reading_and_are_found(
  tmp_path, changes, problem
):
  features = {
    name: value
    for name, value in {**RIGHT_RECORD, **changes}.items()
    if value is not None
  }
  right, wrong = (
    serialization.serialize(record) for record in (RIGHT_RECORD, features)
  )
  record_format = record_formats.PretrainingFormat(2, 1)
  path = str(tmp_path / "x.tfrecord")
  record_files.write_records(path, [right, right, wrong, right])
  dataset = input_pipeline.pretraining_dataset(
    [path], record_format, 100, 2, 2, False, 1, False
  )
  with pytest.raises(tf.errors.InvalidArgumentError):
    list(dataset)
  examine = functools.partial(
    record_formats.examine_records,
    record_format=record_format,
    vocab_size=100,
    type_vocab_size=2,
  )
  damage = record_files.find_damage([path], examine)
  assert str(damage).startswith(f"{path}, record 3: {problem}")
  copy, damages = record_files.without_damage(
    path, str(tmp_path / "new"), examine
  )
  assert damages == [damage]
  assert list(tf.data.TFRecordDataset(copy).as_numpy_iterator()) == [right] * 3


@pytest.fixture
def numbered_files(tmp_path):
  """Files of 5 to 11 records; the first id of each record is its number."""
  files, number = [], 0
  for size in range(5, 12):
    records = []
    for _ in range(size):
      number += 1
      records.append(
        serialization.serialize(
          {
            "input_ids": [number, 2],
            "input_mask": [1, 1],
            "segment_ids": [0, 0],
            "masked_lm_positions": [1],
            "masked_lm_ids": [2],
            "masked_lm_weights": [1.0],
            "next_sentence_labels": [0],
          }
        )
      )
    files.append(str(tmp_path / f"{size}.tfrecord"))
    record_files.write_records(files[-1], records)
  return files


def read_batches(files, num_batches, batch_size=4, seed=1, position=None):
  """Returns the numbers of the records of batches, and the last position."""
  dataset = input_pipeline.pretraining_dataset(
    files,
    record_formats.PretrainingFormat(2, 1),
    100,
    2,
    batch_size,
    True,
    seed,
    True,
    position,
  )
  batches = list(dataset.take(num_batches).as_numpy_iterator())
  numbers = [int(n) for batch in batches for n in batch["input_ids"][:, 0]]
  return numbers, batches[-1]["input_position"].tolist()


def test_every_epoch_has_every_record_in_an_order_of_its_own(numbered_files):
  numbers, _ = read_batches(numbered_files, 28)  # two epochs of 56
  assert sorted(numbers[:56]) == sorted(numbers[56:]) == list(range(1, 57))
  assert numbers[:56] != numbers[56:]
  assert numbers != read_batches(numbered_files, 28, seed=2)[0]
  # More than one file takes part in a batch.
  assert max(numbers[:8]) - min(numbers[:8]) > 11


@pytest.mark.parametrize("taken", [1, 6, 7, 13, 14, 17])
def test_records_go_on_from_a_position(numbered_files, taken):
  numbers, _ = read_batches(numbered_files, 30)
  _, position = read_batches(numbered_files, taken)
  rest, _ = read_batches(numbered_files, 30 - taken, position=position)
  assert rest == numbers[4 * taken :]
  # With batches of another size too.
  rest, _ = read_batches(numbered_files, 10, 3, position=position)
  assert rest == numbers[4 * taken :][:30]


def test_position_in_other_files_goes_on_with_the_next_epoch(numbered_files):
  _, position = read_batches(numbered_files, 5)
  numbers, position = read_batches(numbered_files[:2], 1, position=position)
  assert position[1] == 1 and max(numbers) <= 11


def test_position_of_another_form_begins_with_a_new_epoch(numbered_files):
  assert read_batches(numbered_files, 3, position=[7]) == read_batches(
    numbered_files, 3
  )


def test_a_glob_does_not_mean_what_lies_beside_records(tmp_path):
  for name in ("out-00000-of-00002", "out-00001-of-00002", "out.report.json"):
    (tmp_path / name).write_text("x")
  (tmp_path / "out.parts").mkdir()
  files = file_io.expand_patterns(str(tmp_path / "out*"), "--input_file")
  assert [os.path.basename(file) for file in files] == [
    "out-00000-of-00002",
    "out-00001-of-00002",
  ]
