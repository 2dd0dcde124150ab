"""Which part of the data each of several machines reads."""

from __future__ import annotations

import dataclasses

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class InputShare:
  """The part of the data that a machine reads; by default all of it.

  In training, a machine handles its rows of every batch. In evaluation and
  prediction, it handles every n-th batch as a whole, because batches may have
  fewer rows than there are machines:

      training, 4 rows a batch      evaluation
      batch      0    1    2        batch      0  1  2  3  4
      machine 0  0 1  0 1  0 1      machine 0  x     x     x
      machine 1  2 3  2 3  2 3      machine 1     x     x

  Attributes:
    machine: Number of this machine.
    num_machines: Number of machines.
    may_split_files: Whether each machine may read files of its own in training.
      Each then has a place of its own in the data, and all are saved.
  """

  machine: int = 0
  num_machines: int = 1
  may_split_files: bool = True

  def batch_size(self, global_batch_size: int) -> int:
    """Returns the number of rows of this machine in a batch of training."""
    assert global_batch_size % self.num_machines == 0
    return global_batch_size // self.num_machines

  def rows_of_batch(self, batch: tf.Tensor, batch_size: int) -> tf.Tensor:
    """Returns the rows of this machine of a batch of training.

    Args:
      batch: Tensor whose first dimension is the batch.
      batch_size: Number of its rows.
    """
    if self.num_machines == 1:
      return batch
    num_rows = self.batch_size(batch_size)
    return batch[self.machine * num_rows : (self.machine + 1) * num_rows]

  def select_batches(self, batches: tf.data.Dataset) -> tf.data.Dataset:
    """Returns the batches of this machine in evaluation or prediction."""
    if self.num_machines == 1:
      return batches
    return batches.shard(self.num_machines, self.machine)

  def count_batches(self, num_batches: int) -> int:
    """Returns how many of the first batches `select_batches` selects."""
    return len(range(self.machine, num_batches, self.num_machines))


# The share of a machine that is alone.
WHOLE = InputShare()
