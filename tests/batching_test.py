"""Tests of data/batching.py."""

import numpy as np
import pytest
import tensorflow as tf

from data import batching
from data import encoding
from data import input_shares
from data import record_files

LABEL = {"label_ids": tf.io.FixedLenFeature([], tf.int64)}


def write_examples(path, lengths):
  """Writes examples whose label is their number, and their ids that plus 10."""
  records = []
  for number, length in enumerate(lengths):
    features = encoding.InputFeatures([number + 10] * length, [0] * length)
    records.append(batching.create_task_record(features, label_ids=[number]))
  record_files.write_records(str(path), records)
  return str(path)


def labels_of(batches):
  return [int(label) for batch in batches for label in batch["label_ids"]]


# --- Evaluation --------------------------------------------------------------


def test_evaluation_batches_hold_every_example_once_and_pad_little(tmp_path):
  lengths = [3, 9, 20, 5, 30]
  file = write_examples(tmp_path / "x.tf_record", lengths)
  batches = list(batching.task_dataset(file, 30, 2, LABEL))
  assert [batch["input_ids"].shape.as_list() for batch in batches] == [
    [2, 6],
    [2, 20],
    [1, 30],
  ]
  assert labels_of(batches) == [0, 3, 1, 2, 4]
  for batch in batches:
    np.testing.assert_array_equal(batch["record_number"], batch["label_ids"])
    assert batch["is_real_example"].numpy().all()
    for number, ids, mask in zip(
      batch["label_ids"].numpy(), batch["input_ids"], batch["input_mask"]
    ):
      is_token = np.arange(len(mask)) < lengths[number]
      np.testing.assert_array_equal(mask, is_token)
      np.testing.assert_array_equal(ids, (number + 10) * is_token)


def test_record_numbers_continue_in_the_next_window(tmp_path, monkeypatch):
  monkeypatch.setattr(batching, "_RECORDS_PER_WINDOW", 4)
  file = write_examples(tmp_path / "x.tf_record", [9, 3, 8, 4, 7, 5])
  batches = list(batching.task_dataset(file, 30, 2, LABEL))
  assert [batch["record_number"].numpy().tolist() for batch in batches] == [
    [1, 3],
    [2, 0],
    [5, 4],
  ]


def test_static_shapes_fill_up_the_last_batch(tmp_path):
  file = write_examples(tmp_path / "x.tf_record", [20, 9, 3])
  spec = {**LABEL, "segment_ids": batching.token_feature(tf.int64)}
  dataset = batching.task_dataset(file, 30, 2, spec, static_shapes=True)
  assert dataset.element_spec["input_ids"].shape == (2, 30)
  assert dataset.element_spec["segment_ids"].shape == (2, 30)
  assert dataset.element_spec["label_ids"].shape == (2,)
  batches = list(dataset)
  assert [x["is_real_example"].numpy().tolist() for x in batches] == [
    [1, 1],
    [1, 0],
  ]
  # Records are not sorted.
  assert labels_of(batches)[:3] == [0, 1, 2]


@pytest.mark.parametrize("static_shapes", [False, True])
def test_several_sequences_of_a_record_become_rows(tmp_path, static_shapes):
  file = str(tmp_path / "x.tf_record")
  records = []
  for number, lengths in enumerate([[2, 3, 1], [1, 1, 2]]):
    ids = []
    for sequence, length in enumerate(lengths):
      ids += [10 * number + sequence + 1] * length
    segment_ids = [sequence % 2 for sequence in ids]
    records.append(
      batching.create_task_record(
        encoding.InputFeatures(ids, segment_ids),
        label_ids=[number],
        sequence_lengths=lengths,
      )
    )
  record_files.write_records(file, records)
  [batch] = batching.task_dataset(
    file, 6, 2, LABEL, static_shapes=static_shapes, num_sequences=3
  )
  rows = [
    [[1, 1, 0, 0], [2, 2, 2, 0], [3, 0, 0, 0]],
    [[11, 0, 0, 0], [12, 0, 0, 0], [13, 13, 0, 0]],
  ]
  # The second record has the shorter longest sequence, so it comes first.
  order = [0, 1] if static_shapes else [1, 0]
  expected = np.array([rows[number] for number in order])
  width = 6 if static_shapes else 4
  padded = np.pad(expected, [[0, 0], [0, 0], [0, width - 4]])
  np.testing.assert_array_equal(batch["input_ids"], padded)
  np.testing.assert_array_equal(batch["input_mask"], padded > 0)
  np.testing.assert_array_equal(batch["segment_ids"], padded % 2 * (padded > 0))
  assert labels_of([batch]) == order


# --- Training ----------------------------------------------------------------


def test_training_batches_have_similar_lengths_and_every_example(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(batching, "_RECORDS_PER_WINDOW", 100)
  lengths = [5 + 3 * (i % 10) for i in range(200)]
  file = write_examples(tmp_path / "x.tf_record", lengths)

  def read_two_epochs(seed):
    dataset = batching.task_dataset(
      file, 40, 4, LABEL, batching.TrainingOrder(200, 7, seed)
    )
    batches = list(dataset.take(100))
    widths = [batch["input_ids"].shape[1] for batch in batches]
    for batch, width in zip(batches, widths):
      assert width in batching.bucket_lengths(40)
      assert batch["input_mask"].numpy().sum(axis=1).min() > width - 8
    # The batches of a window do not come in the order of their lengths.
    assert np.corrcoef(widths[:25], range(25))[0, 1] < 0.5
    return labels_of(batches[:50]), labels_of(batches[50:])

  first, second = read_two_epochs(seed=1)
  assert sorted(first) == sorted(second) == list(range(200))
  assert first != second
  assert (first, second) == read_two_epochs(seed=1)
  assert (first, second) != read_two_epochs(seed=2)


def test_a_window_is_not_larger_than_an_epoch(tmp_path):
  file = write_examples(tmp_path / "x.tf_record", [5 + i for i in range(8)])
  dataset = batching.task_dataset(
    file, 40, 4, LABEL, batching.TrainingOrder(8, 7, 1)
  )
  # Sorting a larger window would put copies of a record into one batch.
  for batch in dataset.take(20):
    assert len(set(labels_of([batch]))) == 4


# 23 records in windows of 8: windows begin and end inside of epochs.
@pytest.mark.parametrize("num_done", [1, 2, 3, 4, 7, 12])
def test_training_continues_from_a_position(tmp_path, monkeypatch, num_done):
  monkeypatch.setattr(batching, "_RECORDS_PER_WINDOW", 8)
  file = write_examples(tmp_path / "x.tf_record", [5 + i for i in range(23)])

  def read(count, position=None, batch_size=4):
    order = batching.TrainingOrder(23, 7, 1, position)
    dataset = batching.task_dataset(file, 40, batch_size, LABEL, order)
    return list(dataset.take(count).as_numpy_iterator())

  whole = read(20)
  position = whole[num_done - 1][batching.INPUT_POSITION].tolist()
  rest = read(20 - num_done, position)
  for batch, again in zip(whole[num_done:], rest, strict=True):
    for name, value in batch.items():
      np.testing.assert_array_equal(value, again[name])
  # At the end of a window, training can also continue with another batch size:
  # 23 windows of 8 records are 8 whole epochs.
  if num_done % 2 == 0:
    rest = read(92 - 2 * num_done, position, batch_size=2)
    labels = labels_of(whole[:num_done] + rest)
    assert sorted(labels) == sorted([*range(23)] * 8)


@pytest.mark.parametrize(
  "position, expected",
  [
    (None, (0, 0)),
    ([7, 16, 2, 4], (16, 2)),
    # Positions of older checkpoints do not say what the records were.
    ([0, 16, 2, 4], (16, 2)),
    # Other records, or batches of another size: the same number of examples.
    ([8, 16, 2, 4], (24, 0)),
    ([7, 16, 2, 3], (22, 0)),
    ([7, 16, 0, 3], (16, 0)),
    ([16], (0, 0)),
    ([7, 16, 2, 4, 1], (16, 2)),
  ],
)
def test_place_to_start_from(position, expected):
  order = batching.TrainingOrder(23, 7, 1, position)
  assert batching._find_start(order, batch_size=4) == expected


def test_order_of_a_window_depends_on_its_place_not_on_its_records(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(batching, "_RECORDS_PER_WINDOW", 40)
  lengths = [5 + i for i in range(40)]
  widths = []
  for name in ("a", "b"):
    file = write_examples(tmp_path / name, lengths)
    dataset = batching.task_dataset(
      file, 60, 4, LABEL, batching.TrainingOrder(40, 7, 1)
    )
    widths.append([batch["input_ids"].shape[1] for batch in dataset.take(30)])
    lengths = lengths[::-1]
  assert widths[0] == widths[1]
  # Each of three windows has an order of its own.
  assert len({tuple(widths[0][i : i + 10]) for i in (0, 10, 20)}) == 3


@pytest.mark.parametrize("static_shapes", [False, True])
def test_machines_get_the_rows_of_one(tmp_path, monkeypatch, static_shapes):
  monkeypatch.setattr(batching, "_RECORDS_PER_WINDOW", 24)
  lengths = [5 + 7 * i % 23 for i in range(50)]
  file = write_examples(tmp_path / "x.tf_record", lengths)

  def read(share, is_training):
    order = batching.TrainingOrder(50, 7, 1) if is_training else None
    dataset = batching.task_dataset(
      file, 40, 4, LABEL, order, static_shapes, share=share
    )
    return list(dataset.take(13).as_numpy_iterator())

  shares = [input_shares.InputShare(machine, 2) for machine in range(2)]
  parts = [read(share, True) for share in shares]
  for batch, *halves in zip(read(input_shares.WHOLE, True), *parts):
    position = batch.pop(batching.INPUT_POSITION)
    for half in halves:
      np.testing.assert_array_equal(half[batching.INPUT_POSITION], position)
    for name, value in batch.items():  # also padded to the same length
      rows = np.concatenate([half[name] for half in halves])
      np.testing.assert_array_equal(rows, value)

  parts = [read(share, False) for share in shares]
  for number, batch in enumerate(read(input_shares.WHOLE, False)):
    same = parts[number % 2][number // 2]
    for name, value in batch.items():
      np.testing.assert_array_equal(same[name], value)
  assert [len(part) for part in parts] == [7, 6]
  assert [share.count_batches(13) for share in shares] == [7, 6]


# --- Sequences that are made on the way --------------------------------------


def sequences_of(lengths):
  return [
    encoding.InputFeatures([i + 1] * n, [1] * n) for i, n in enumerate(lengths)
  ]


def test_batches_of_short_sequences_have_more_rows():
  # There are up to 24 ids in a batch.
  lengths = [4] * 6 + [8] * 3 + [2, 3, 4, 6, 8, 12, 12]
  dataset = batching.features_dataset(sequences_of(lengths), 12, 2)
  shapes = [tuple(batch["input_ids"].shape) for batch in dataset]
  assert shapes == [(6, 4), (3, 8), (4, 6), (2, 12), (1, 12)]
  rows = np.concatenate([batch["input_ids"].numpy()[:, 0] for batch in dataset])
  assert rows.tolist() == list(range(1, 17))
  for batch in dataset:
    ids, mask = batch["input_ids"].numpy(), batch["input_mask"].numpy()
    np.testing.assert_array_equal(ids > 0, mask)
    np.testing.assert_array_equal(batch["segment_ids"], mask)
    assert batch["is_real_example"].numpy().all()
    for row, number in zip(mask, ids[:, 0]):
      assert row.sum() == lengths[number - 1]


def test_skipped_padding_does_not_count():
  def shapes_of(lengths):
    dataset = batching.features_dataset(
      sequences_of(lengths), 12, 2, padding_is_skipped=True
    )
    return [tuple(batch["input_ids"].shape) for batch in dataset]

  assert shapes_of([4] * 6 + [3, 6, 9, 6, 1]) == [(6, 4), (4, 9), (1, 1)]
  # Attention has a place for each id of padding, so there is a limit.
  assert shapes_of([1] * 3 + [12] + [1] * 4) == [(4, 12), (4, 1)]
  assert shapes_of([1] * 4 + [12] + [1] * 3) == [(4, 1), (4, 12)]
  assert shapes_of([30]) == [(1, 30)]


def test_sequences_of_static_shape_fill_up_the_last_batch():
  dataset = batching.features_dataset(sequences_of([2, 3, 4]), 5, 2, True)
  assert dataset.element_spec["input_ids"].shape == (2, 5)
  batches = list(dataset)
  assert [x["is_real_example"].numpy().tolist() for x in batches] == [
    [1, 1],
    [1, 0],
  ]
  assert batches[1]["input_ids"].numpy().tolist() == [[3, 3, 3, 3, 0], [0] * 5]


def test_a_run_keeps_the_padding_that_it_began_with(tmp_path):
  file = write_examples(tmp_path / "x.tf_record", [9] * 8)

  def read_width(position):
    order = batching.TrainingOrder(8, 7, 1, position)
    batch = next(iter(batching.task_dataset(file, 40, 4, LABEL, order)))
    return batch["input_ids"].shape[1], batch[batching.INPUT_POSITION][4]

  assert read_width(None) == read_width([7, 8, 1, 4, 1]) == (10, 1)
  # Checkpoints of earlier versions have no version of the padding.
  assert read_width([7, 8, 1, 4]) == read_width([7, 8, 1, 4, 0]) == (12, 0)


def test_bucket_lengths_end_with_the_maximum():
  for longest in (5, 40, 64, 128, 384, 512):
    for version in (0, 1):
      lengths = batching.bucket_lengths(longest, version)
      assert lengths == sorted(set(lengths)) and lengths[-1] == longest
