"""The devices that share the work of a run, and the machines that hold them.

A *worker* is a machine of TF_CONFIG, and the *chief* is the worker that writes
files. A *replica* is a device with its own copy of the model.
"""

from __future__ import annotations

from collections.abc import Callable
import time
from typing import Any

import numpy as np
import tensorflow as tf

from data import input_shares

# `measure_peak_flops` multiplies matrices of this size, so often in a call, and
# keeps the best of the calls. The first call is slow because it traces.
_MATRIX_SIZE = 1024
_PRODUCTS_PER_CALL = 2
_NUM_CALLS = 6
# Number of bytes that each worker sends to the others at once.
_PIECE_SIZE = 8192


class Devices:
  """The devices of a distribution strategy.

  Attributes:
    strategy: The strategy.
    num_replicas: Number of devices that train together, on all workers.
    num_workers: Number of machines that train together.
    is_chief: Whether this is the only worker, or the first of several.
    is_one_cpu: Whether the CPU of this machine is the only device.
  """

  def __init__(self, strategy: tf.distribute.Strategy):
    """Counts the devices of `strategy` and finds the place of this worker."""
    self.strategy = strategy
    self.num_replicas: int = strategy.num_replicas_in_sync
    self.num_workers = 1
    self.is_chief = True
    if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
      resolver = strategy.cluster_resolver
      cluster = resolver.cluster_spec().as_dict()
      self.num_workers = len(cluster.get("chief", [])) + len(cluster["worker"])
      # Without a `chief` in the cluster, its first worker is the chief.
      is_first = "chief" not in cluster and resolver.task_id == 0
      self.is_chief = resolver.task_type == "chief" or is_first
    is_on_accelerators = isinstance(
      strategy, tf.distribute.TPUStrategy
    ) or tf.config.list_logical_devices("GPU")
    self.is_one_cpu = self.num_replicas == 1 and not is_on_accelerators

  def replicas_of_this_worker(self) -> list[int]:
    """Returns the numbers of the replicas on this machine."""
    numbers = []

    def collect_number(context):
      numbers.append(context.replica_id_in_sync_group)
      return 0.0

    self.strategy.experimental_distribute_values_from_function(collect_number)
    return numbers

  def share_of_batches(self) -> input_shares.InputShare:
    """Returns which batches of an evaluation this worker processes."""
    if self.num_workers == 1:
      return input_shares.WHOLE
    own = self.replicas_of_this_worker()
    return input_shares.InputShare(own[0] // len(own), self.num_workers)

  def local_results(self, value: Any) -> tuple:
    """Returns the parts of a distributed value on this worker's replicas."""
    return self.strategy.experimental_local_results(value)

  def first_results(self, values: Any) -> Any:
    """Returns, for a structure of distributed values, those of one replica."""
    return tf.nest.map_structure(
      lambda value: self.local_results(value)[0], values
    )

  def sum_over_replicas(self, values: Any) -> Any:
    """Returns the sums of a structure of Tensors over all replicas.

    Every replica must call this, in its own context.
    """
    if self.num_replicas == 1:
      return values
    # TensorFlow reduces on the device of each value. A value from outside the
    # replica has another device, so each gets a copy inside.
    copies = tf.nest.map_structure(tf.identity, values)
    context = tf.distribute.get_replica_context()
    return context.all_reduce(tf.distribute.ReduceOp.SUM, copies)

  def broadcast_from_chief(self, value: float) -> float:
    """Returns the value that the chief passes. Every worker must call this."""
    if self.num_workers == 1:
      return value
    return float(self._value_of_chief(tf.constant(value, tf.float64)))

  @tf.function(autograph=False)
  def _value_of_chief(self, value):
    def chief_or_zero():
      context = tf.distribute.get_replica_context()
      is_chief = tf.equal(context.replica_id_in_sync_group, 0)
      contribution = tf.where(is_chief, value, tf.zeros_like(value))
      return self.sum_over_replicas(contribution)

    return self.first_results(self.strategy.run(chief_or_zero))

  def gather_from_workers(self, content: bytes) -> list[bytes]:
    """Returns the bytes that each worker passes. Every worker must call this.

    TensorFlow adds up numbers between workers, but sends no texts. So bytes
    travel as numbers, in pieces of one size: each worker adds its own to the
    zeros of the others.
    """
    if self.num_workers == 1:
      return [content]
    lengths = np.zeros([self.num_workers, _PIECE_SIZE], np.int32)
    worker = self.share_of_batches().machine
    lengths[worker, 0] = len(content)
    lengths = self._sum_over_workers(lengths)[:, 0]
    num_pieces = -(-int(lengths.max()) // _PIECE_SIZE)  # rounded up
    gathered = []
    for start in range(0, num_pieces * _PIECE_SIZE, _PIECE_SIZE):
      numbers = np.frombuffer(content[start : start + _PIECE_SIZE], np.uint8)
      piece = np.zeros([self.num_workers, _PIECE_SIZE], np.int32)
      piece[worker, : len(numbers)] = numbers
      gathered.append(self._sum_over_workers(piece).astype(np.uint8))
    if not gathered:
      return [b""] * self.num_workers
    rows = np.concatenate(gathered, axis=1)
    return [row[:length].tobytes() for row, length in zip(rows, lengths)]

  def _sum_over_workers(self, values: np.ndarray) -> np.ndarray:
    """Returns the sum of int32 [num_workers, _PIECE_SIZE] of all workers."""
    return self._sum_of_first_replicas(tf.constant(values)).numpy()

  @tf.function(autograph=False)
  def _sum_of_first_replicas(self, values):
    num_local = self.num_replicas // self.num_workers

    def values_or_zeros():
      context = tf.distribute.get_replica_context()
      is_first = tf.equal(context.replica_id_in_sync_group % num_local, 0)
      contribution = tf.where(is_first, values, tf.zeros_like(values))
      return self.sum_over_replicas(contribution)

    return self.first_results(self.strategy.run(values_or_zeros))

  @tf.autograph.experimental.do_not_convert
  def distribute_training_data(
    self, create_dataset: Callable[[input_shares.InputShare], tf.data.Dataset]
  ) -> Any:
    """Returns a dataset that gives each replica its rows of every batch.

    Args:
      create_dataset: Function that returns, for the share of a worker, an
        endless dataset of (features of its rows, input position).
    """
    if self.num_replicas == 1:
      return create_dataset(input_shares.WHOLE)

    def rows_of_worker(context):
      num_workers = context.num_input_pipelines
      num_local = self.num_replicas // num_workers
      # A Cloud TPU has several workers, but this process is the only one: it
      # does not gather their places in the data.
      share = input_shares.InputShare(
        context.input_pipeline_id,
        num_workers,
        may_split_files=num_workers == self.num_workers,
      )

      def split_batch(features, position):
        def rows_of_replica(replica):
          return slice_rows(features, replica, num_local), position

        return tf.data.Dataset.range(num_local).map(rows_of_replica)

      # An endless dataset avoids a check across replicas, at every step, of
      # whether all of them still have data.
      set_endless = tf.data.experimental.assert_cardinality(
        tf.data.INFINITE_CARDINALITY
      )
      rows = create_dataset(share).flat_map(split_batch).apply(set_endless)
      return rows.prefetch(2 * num_local)

    return self.strategy.distribute_datasets_from_function(rows_of_worker)

  def measure_peak_flops(self, compute_dtype: tf.DType) -> float:
    """Returns the operations per second that all devices reach together.

    It is the best of a few large matrix products: the rate that utilisation
    is compared with.

    Args:
      compute_dtype: Type of the matrices.
    """

    def multiply_again(i: tf.Tensor, matrix: tf.Tensor):
      # The factor keeps the numbers at 1.
      return i + 1, tf.matmul(matrix, matrix) * (1.0 / _MATRIX_SIZE)

    @tf.function(autograph=False)
    def multiply():
      # A loop of the graph: TensorFlow would replace products of constants by
      # their result before it runs the graph, and measure nothing.
      matrix = tf.ones([_MATRIX_SIZE, _MATRIX_SIZE], compute_dtype)
      _, matrix = tf.while_loop(
        lambda i, matrix: i < _PRODUCTS_PER_CALL, multiply_again, [0, matrix]
      )
      return tf.reduce_sum(matrix)

    seconds = []
    for _ in range(_NUM_CALLS):
      start = time.perf_counter()
      results = self.local_results(self.strategy.run(multiply))
      for result in results:
        result.numpy()  # waits for the device
      seconds.append(time.perf_counter() - start)
    flops_per_device = 2.0 * _MATRIX_SIZE**3 * _PRODUCTS_PER_CALL
    local_flops = flops_per_device * len(results) / min(seconds)
    return local_flops * self.num_workers


def slice_rows(features: Any, part: Any, num_parts: int) -> Any:
  """Returns one of `num_parts` slices of the rows of a batch.

  The slices have the same size if the number of rows is known and can be
  divided. Otherwise sizes differ by at most one row:

      rows   0 1 2 3 4 5 6     3 parts of 7 rows
      part   0 0 1 1 2 2 2

  Args:
    features: Structure of Tensors whose first dimension is the batch.
    part: Number of the slice, an int scalar.
    num_parts: Number of slices.
  """
  part = tf.cast(part, tf.int32)

  def slice_value(value):
    num_rows = value.shape[0]
    if num_rows is None or num_rows % num_parts:
      count = tf.shape(value)[0]
      return value[part * count // num_parts : (part + 1) * count // num_parts]
    size = num_rows // num_parts
    other_dimensions = value.shape.rank - 1
    begin = [part * size] + [0] * other_dimensions
    rows = tf.slice(value, begin, [size] + [-1] * other_dimensions)
    # XLA needs the number of rows as a constant.
    return tf.ensure_shape(rows, [size, *value.shape[1:]])

  return tf.nest.map_structure(slice_value, features)
