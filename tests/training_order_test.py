"""Tests of pretraining/training_order.py."""

from absl import logging
import numpy as np
import pytest

from data import input_shares
from data import record_files
from pretraining import training_order


@pytest.fixture
def numbered_files(tmp_path):
  """Seven files of 8 records, which are their numbers as texts."""
  files = []
  for number in range(7):
    files.append(str(tmp_path / f"{number}.tfrecord"))
    records = [b"%d" % (8 * number + i) for i in range(8)]
    record_files.write_records(files[-1], records)
  return files


def read(files, num_batches, machine=0, num_machines=1, position=None, **kw):
  """Returns the records of batches of one machine, and the last position."""
  share = input_shares.InputShare(machine, num_machines, **kw)
  dataset = training_order.read_batches(files, 8, 1, position, share)
  batches = list(dataset.take(num_batches).as_numpy_iterator())
  records = [[int(x) for x in rows] for rows, _ in batches]
  return records, batches[-1][1].tolist()


def read_all(files, num_batches, num_machines, position=None):
  """Returns the records of all machines, and the position that they save."""
  parts = [
    read(files, num_batches, machine, num_machines, position)
    for machine in range(num_machines)
  ]
  records = [records for records, _ in parts]
  return records, sum((place for _, place in parts), [])


@pytest.mark.parametrize("num_machines", [2, 4])
def test_common_order_does_not_depend_on_machines(numbered_files, num_machines):
  whole, position = read(numbered_files, 12)
  parts = [
    read(numbered_files, 12, machine, num_machines, may_split_files=False)
    for machine in range(num_machines)
  ]
  together = np.concatenate([records for records, _ in parts], axis=1)
  assert together.tolist() == whole
  assert all(place == position for _, place in parts)


def test_fewer_files_than_machines_are_read_in_the_common_order(numbered_files):
  whole, _ = read(numbered_files[:3], 6)
  parts, _ = read_all(numbered_files[:3], 6, 4)
  assert np.concatenate(parts, axis=1).tolist() == whole


# Each machine reads seven groups, of three files or of one.
@pytest.mark.parametrize("num_machines, num_epochs", [(2, 6), (4, 4)])
def test_split_files_are_read_once_an_epoch_by_one_machine_each(
  numbered_files, num_machines, num_epochs
):
  parts, _ = read_all(numbered_files, 7 * num_epochs, num_machines)
  counts = np.bincount(np.ravel(parts), minlength=56)
  assert counts.tolist() == [num_epochs] * 56
  # In the first half of an epoch, no machine reads a record of another one.
  half = [set(np.ravel(part[:3])) for part in parts]
  assert len(set.union(*half)) == sum(map(len, half)) == 24
  for part in parts:
    assert np.ravel(part).tolist() != sorted(np.ravel(part))
  assert len({tuple(np.ravel(part)) for part in parts}) == num_machines


@pytest.mark.parametrize("num_done", [1, 5, 6, 13])
def test_split_order_continues_from_the_places_of_all(numbered_files, num_done):
  whole, _ = read_all(numbered_files, 20, 2)
  _, position = read_all(numbered_files, num_done, 2)
  rest, _ = read_all(numbered_files, 20 - num_done, 2, position)
  assert rest == [part[num_done:] for part in whole]


def test_a_run_keeps_the_order_that_it_began_with(numbered_files):
  whole, _ = read(numbered_files, 10)
  _, position = read(numbered_files, 4)
  parts, _ = read_all(numbered_files, 6, 2, position)
  assert np.concatenate(parts, axis=1).tolist() == whole[4:]


@pytest.mark.parametrize("num_machines", [1, 4])
def test_another_split_continues_with_the_next_epoch(
  numbered_files, monkeypatch, num_machines
):
  messages = []
  monkeypatch.setattr(logging, "warning", lambda *args: messages.append(args))
  # Both machines are in the second epoch after 10 of 7 batches.
  _, position = read_all(numbered_files, 10, 2)
  _, places = read_all(numbered_files, 1, num_machines, position)
  epoch = 1 if num_machines == 1 else 3
  assert places[epoch] == 2
  assert "split between %d machines so far" in messages[0][0]
  assert messages[0][-1] == 3  # people count from 1


def test_places_of_other_files_continue_with_the_next_epoch(numbered_files):
  _, position = read_all(numbered_files, 3, 2)
  records, places = read_all(numbered_files[:5], 1, 2, position)
  assert places[3] == 1 and np.max(records) < 40
