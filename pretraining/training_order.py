"""The order in which pre-training goes through the records of its files.

Each epoch goes through the files in an order of its own, a group of a few files
at a time, and shuffles the records of a group among each other:

    epoch 0   files c a d f | records shuffled    files b g e | ...
    epoch 1   files g d b a | ...

To continue from a place, only its group has to be read again.

There are two orders. In the *common order*, every machine reads all records and
keeps its rows of each batch. Batches do not depend on the number of machines,
but reading takes time on each machine for the rows of all. In the *split
order*, which needs a file for each machine at least, the files of all epochs
form one endless row, and each machine reads every n-th file:

    files       c a d f b g e | g d b a f e c | ...
    machine 0   c   d   b   e     d   a   e
    machine 1     a   f   g     g   b   f   c

A run stays in the order that it began with as long as it can.
"""

from __future__ import annotations

from collections.abc import Sequence
import os
from typing import NamedTuple
import zlib

from absl import logging
import tensorflow as tf

from data import input_shares

# Maximum number of records that a shuffle holds in memory.
_SHUFFLE_BUFFER = 10_000
# Number of files whose records are mixed with each other.
_FILES_PER_GROUP = 4
_AUTOTUNE = tf.data.AUTOTUNE


class _Position(NamedTuple):
  """A place in the common order; stored as `input_position`.

  Attributes:
    identity: Checksum of the names of the files.
    epoch: Number of the epoch.
    group: Number of the group of files within the epoch.
    num_taken: Number of records of the group that come before this place.
  """

  identity: int
  epoch: int
  group: int
  num_taken: int


class _SplitPosition(NamedTuple):
  """A machine's place in the split order.

  The places of all machines, one after the other, are the `input_position` of
  a checkpoint.

  Attributes:
    identity: Checksum of the names of the files.
    num_machines: Number of machines.
    machine: Number of this machine.
    epoch: Number of the epoch in which the group begins.
    group: Number of the group of files of this machine, over all epochs.
    num_taken: Number of records of the group that come before this place.
  """

  identity: int
  num_machines: int
  machine: int
  epoch: int
  group: int
  num_taken: int


def read_batches(
  files: Sequence[str],
  batch_size: int,
  seed: int,
  position: Sequence[int] | None = None,
  share: input_shares.InputShare = input_shares.WHOLE,
) -> tf.data.Dataset:
  """Returns the records of a machine in each batch of training, endlessly.

  Args:
    files: Paths of the TFRecord files.
    batch_size: Number of records in a batch of all machines together.
    seed: Seed of the order, which differs from epoch to epoch.
    position: Where to begin; None for the first epoch.
    share: Which machine this is.

  Returns:
    A Dataset of (serialized records, string [rows]; where the next batch
    begins, int64 [n]).
  """
  names = "\n".join(os.path.basename(file) for file in files)
  identity = zlib.crc32(names.encode())
  if _uses_split_order(files, position, share):
    order = _SplitOrder(files, identity, seed, share)
    return order.read_batches(batch_size, order.find_start(position))
  start = _find_start(position, identity)
  records = _read_in_common_order(files, seed, start)
  batches = records.batch(batch_size, drop_remainder=True)

  def take_rows(records, place, nums_taken):
    epochs, groups = place
    rows = share.rows_of_batch(records, batch_size)
    # The position after the last record of a batch, which no other batch has.
    last = _Position(
      tf.constant(identity, tf.int64), epochs[-1], groups[-1], nums_taken[-1]
    )
    return rows, tf.stack(last)

  return batches.map(take_rows)


def _uses_split_order(
  files: Sequence[str],
  position: Sequence[int] | None,
  share: input_shares.InputShare,
) -> bool:
  """Returns whether each machine reads files of its own; logs it."""
  if share.num_machines == 1:
    return False
  if not share.may_split_files or len(files) < share.num_machines:
    logging.info(
      "Each of the %d machines reads all of the records, in an order that does "
      "not depend on the number of machines. With a file for each machine at "
      "least, each would read its own.",
      share.num_machines,
    )
    return False
  if position and any(position) and not _is_split_position(position):
    logging.info(
      "Each of the %d machines reads all of the records, because the run began "
      "in an order for any number of machines. In a new run, each machine "
      "would read files of its own.",
      share.num_machines,
    )
    return False
  logging.info(
    "The %d files are split between the %d machines. The order of the records "
    "depends on the number of machines.",
    len(files),
    share.num_machines,
  )
  return True


def _is_split_position(position: Sequence[int]) -> bool:
  """Returns whether a position holds the places of several machines."""
  num_machines, rest = divmod(len(position), len(_SplitPosition._fields))
  return num_machines > 1 and rest == 0 and position[1] == num_machines


def _split_positions(position: Sequence[int]) -> list[_SplitPosition]:
  """Returns the places of all machines, sorted by machine."""
  size = len(_SplitPosition._fields)
  places = []
  for start in range(0, len(position), size):
    places.append(_SplitPosition(*position[start : start + size]))
  return sorted(places, key=lambda place: place.machine)


# --- The common order --------------------------------------------------------


def _read_in_common_order(
  files: Sequence[str], seed: int, start: _Position
) -> tf.data.Dataset:
  """Returns (record, (epoch, group), number in the group), endlessly."""
  group_size = min(_FILES_PER_GROUP, len(files))
  num_groups = -(-len(files) // group_size)  # rounded up

  def read_epoch(epoch):
    order = _shuffle_files(files, seed, epoch)
    is_first_epoch = tf.equal(epoch, start.epoch)
    first_group = tf.where(
      is_first_epoch, tf.constant(start.group, tf.int64), 0
    )

    def read_group(group):
      group_files = order[group * group_size : (group + 1) * group_size]
      is_first = tf.logical_and(is_first_epoch, tf.equal(group, start.group))
      num_skipped = tf.where(
        is_first, tf.constant(start.num_taken, tf.int64), 0
      )
      # Each group of each epoch gets its own seed.
      group_seed = _draw_seed(seed + epoch, group)
      records = _shuffle_group(group_files, group_size, group_seed)
      records = records.skip(num_skipped)
      # A function that adds these numbers would take longer than the reading.
      place = tf.data.Dataset.from_tensors((epoch, group)).repeat()
      numbers = tf.data.Dataset.range(num_skipped + 1, tf.int64.max)
      return tf.data.Dataset.zip(records, place, numbers)

    groups = tf.data.Dataset.range(first_group, num_groups)
    return groups.flat_map(read_group)

  epochs = tf.data.Dataset.range(start.epoch, tf.int64.max)
  return epochs.flat_map(read_epoch)


def _find_start(position: Sequence[int] | None, identity: int) -> _Position:
  """Returns where training begins, given the position of a checkpoint."""
  beginning = _Position(identity, 0, 0, 0)
  if position is None:
    return beginning
  if _is_split_position(position):
    places = _split_positions(position)
    next_epoch = 1 + max(place.epoch for place in places)
    logging.warning(
      "The input files were split between %d machines so far, and this run "
      "reads them in another order. Training continues with epoch %d.",
      len(places),
      next_epoch + 1,
    )
    return beginning._replace(epoch=next_epoch)
  if len(position) != len(beginning):
    logging.warning(
      "The checkpoint stores its place in the data in another form than this "
      "program does: training begins with a new epoch."
    )
    return beginning
  start = _Position(*position)
  if start.identity in (identity, 0):
    return start
  logging.warning(
    "The input files have changed since the checkpoint was saved. Training "
    "continues with epoch %d of the new files.",
    start.epoch + 2,
  )
  return beginning._replace(epoch=start.epoch + 1)


# --- The split order ---------------------------------------------------------


class _SplitOrder:
  """The order in which a machine reads its own files."""

  def __init__(
    self,
    files: Sequence[str],
    identity: int,
    seed: int,
    share: input_shares.InputShare,
  ):
    """Sets what to read.

    Args:
      files: Paths of the files of all machines, at least one for each.
      identity: Checksum of their names.
      seed: Seed of the order.
      share: Which machine this is.
    """
    self._files = files
    self._identity = identity
    self._seed = seed
    self._share = share
    self._group_size = min(_FILES_PER_GROUP, len(files) // share.num_machines)

  def read_batches(
    self, batch_size: int, start: _SplitPosition
  ) -> tf.data.Dataset:
    """Returns the (records, position) of each batch from a place on."""

    def read_group(group):
      num_skipped = tf.where(
        tf.equal(group, start.group), tf.constant(start.num_taken, tf.int64), 0
      )
      records = self._read_group(group).skip(num_skipped)
      place = tf.data.Dataset.from_tensors(group).repeat()
      numbers = tf.data.Dataset.range(num_skipped + 1, tf.int64.max)
      return tf.data.Dataset.zip(records, place, numbers)

    def add_position(records, groups, nums_taken):
      epoch = self._files_of_group(groups[-1])[0] // len(self._files)
      position = start._replace(
        epoch=epoch, group=groups[-1], num_taken=nums_taken[-1]
      )
      numbers = [tf.cast(number, tf.int64) for number in position]
      return records, tf.stack(numbers)

    groups = tf.data.Dataset.range(start.group, tf.int64.max)
    records = groups.flat_map(read_group)
    num_rows = self._share.batch_size(batch_size)
    return records.batch(num_rows, drop_remainder=True).map(add_position)

  def _files_of_group(self, group):
    """Returns the places of the files of a group in the row of all epochs."""
    first = group * self._group_size
    numbers = first + tf.range(self._group_size, dtype=tf.int64)
    return numbers * self._share.num_machines + self._share.machine

  def _read_group(self, group: tf.Tensor) -> tf.data.Dataset:
    """Returns the shuffled records of a group of files."""
    places = self._files_of_group(group)
    # A group is not longer than an epoch, so it lies in two epochs at most.
    first_epoch = places[0] // len(self._files)
    order = tf.concat(
      [
        _shuffle_files(self._files, self._seed, first_epoch),
        _shuffle_files(self._files, self._seed, first_epoch + 1),
      ],
      axis=0,
    )
    group_files = tf.gather(order, places - first_epoch * len(self._files))
    # The place of a file is that of no other group, on no other machine.
    group_seed = _draw_seed(tf.constant(self._seed, tf.int64), places[0])
    return _shuffle_group(group_files, self._group_size, group_seed)

  def find_start(self, position: Sequence[int] | None) -> _SplitPosition:
    """Returns where training begins, given the position of a checkpoint."""
    share = self._share
    beginning = _SplitPosition(
      self._identity,
      share.num_machines,
      share.machine,
      epoch=0,
      group=0,
      num_taken=0,
    )
    if not position or not any(position):
      return beginning
    places = _split_positions(position)
    next_epoch = 1 + max(place.epoch for place in places)
    if len(places) != share.num_machines:
      logging.warning(
        "The input files were split between %d machines so far, and are split "
        "between %d now. Training continues with epoch %d, in another order.",
        len(places),
        share.num_machines,
        next_epoch + 1,
      )
    elif places[share.machine].identity != self._identity:
      logging.warning(
        "The input files have changed since the checkpoint was saved. Training "
        "continues with epoch %d of the new files.",
        next_epoch + 1,
      )
    else:
      return places[share.machine]
    # Groups do not end where epochs do: the first that begins in this epoch.
    files_per_group = self._group_size * share.num_machines
    first_file = next_epoch * len(self._files) - share.machine
    group = -(-first_file // files_per_group)  # rounded up
    return beginning._replace(epoch=next_epoch, group=group)


# --- Files and groups --------------------------------------------------------


def _shuffle_files(
  files: Sequence[str], seed: int, epoch: tf.Tensor
) -> tf.Tensor:
  """Returns the files in the order of an epoch, string [n]."""
  file_seed = tf.stack([tf.cast(seed, tf.int64), epoch])
  return tf.random.experimental.stateless_shuffle(
    tf.constant(list(files)), file_seed
  )


def _draw_seed(seed: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
  """Returns the seed of a shuffle, int64 []."""
  return tf.random.stateless_uniform(
    [],
    tf.stack([seed, number]),
    minval=None,
    maxval=None,
    dtype=tf.int64,
  )


def _shuffle_group(
  files: tf.Tensor, group_size: int, seed: tf.Tensor
) -> tf.data.Dataset:
  """Returns the records of a group of files in random order."""
  names = tf.data.Dataset.from_tensor_slices(files)
  records = names.interleave(
    tf.data.TFRecordDataset,
    cycle_length=group_size,
    num_parallel_calls=_AUTOTUNE,
    deterministic=True,
  )
  return records.shuffle(
    _SHUFFLE_BUFFER, seed=seed, reshuffle_each_iteration=False
  )
