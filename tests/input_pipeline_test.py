"""Tests of pretraining/input_pipeline.py."""

import pytest

from data import batching
from data import record_files
from data import serialization
from pretraining import input_pipeline
from pretraining import record_formats


@pytest.fixture
def numbered_files(tmp_path):
  """Files of 5 to 11 records; the first id of each record is its number."""
  files, number = [], 0
  for size in range(5, 12):
    records = []
    for _ in range(size):
      number += 1
      record = {
        "input_ids": [number, 2],
        "input_mask": [1, 1],
        "segment_ids": [0, 0],
        "masked_lm_positions": [1],
        "masked_lm_ids": [2],
        "masked_lm_weights": [1.0],
        "next_sentence_labels": [0],
      }
      records.append(serialization.serialize_example(record))
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
  return numbers, batches[-1][batching.INPUT_POSITION].tolist()


def test_every_epoch_has_every_record_in_an_order_of_its_own(numbered_files):
  numbers, _ = read_batches(numbered_files, 28)  # two epochs of 56
  assert sorted(numbers[:56]) == sorted(numbers[56:]) == list(range(1, 57))
  assert numbers[:56] != numbers[56:]
  assert numbers != read_batches(numbered_files, 28, seed=2)[0]
  # A batch has records of several files.
  assert max(numbers[:8]) - min(numbers[:8]) > 11


@pytest.mark.parametrize("drop_remainder, count", [(False, 11), (True, 8)])
def test_evaluation_reads_every_record_in_order(
  numbered_files, drop_remainder, count
):
  dataset = input_pipeline.pretraining_dataset(
    numbered_files[:2],
    record_formats.PretrainingFormat(2, 1),
    100,
    2,
    4,
    False,
    1,
    drop_remainder,
  )
  batches = list(dataset.as_numpy_iterator())
  numbers = [int(n) for batch in batches for n in batch["input_ids"][:, 0]]
  assert numbers == list(range(1, count + 1))
  assert batching.INPUT_POSITION not in batches[0]


@pytest.mark.parametrize("num_done", [1, 6, 7, 13, 14, 17])
def test_training_continues_from_a_position(numbered_files, num_done):
  numbers, _ = read_batches(numbered_files, 30)
  _, position = read_batches(numbered_files, num_done)
  rest, _ = read_batches(numbered_files, 30 - num_done, position=position)
  assert rest == numbers[4 * num_done :]
  # With batches of another size too.
  rest, _ = read_batches(numbered_files, 10, 3, position=position)
  assert rest == numbers[4 * num_done :][:30]


def test_with_other_files_training_continues_with_the_next_epoch(
  numbered_files,
):
  _, position = read_batches(numbered_files, 5)
  numbers, position = read_batches(numbered_files[:2], 1, position=position)
  assert position[1] == 1 and max(numbers) <= 11


def test_without_a_known_position_training_begins_with_a_new_epoch(
  numbered_files,
):
  assert read_batches(numbered_files, 3, position=[7]) == read_batches(
    numbered_files, 3
  )
