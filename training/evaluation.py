"""Evaluation and prediction: functions of batches, on the devices at hand."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
import io
import itertools
import json
import math
from typing import Any

import numpy as np
import tensorflow as tf

from training import devices as devices_lib
from training import training_data
from training import training_log

# Number of batches of each worker whose predictions are gathered at once.
_BATCHES_PER_GATHERING = 16
# Number of batches that a CPU computes at the same time. Its cores wait for
# each other at the end of each operation, and then work on the other batch.
_BATCHES_AT_ONCE = 2


class BatchRunner:
  """Applies functions to all batches of a dataset.

  A batch is split between the replicas of the worker. With several workers,
  each processes other batches; see `input_shares`. A CPU that is the only
  device computes two batches at the same time.
  """

  def __init__(self, devices: devices_lib.Devices):
    """Compiles nothing yet."""
    self._devices = devices
    self._compiled = {}

  def run(
    self, function: Callable[[Any], Any], dataset: tf.data.Dataset
  ) -> Iterator[tuple[Any, Any]]:
    """Yields each batch, and the outputs of a function for it.

    Args:
      function: Features -> structure of Tensors.
      dataset: Dataset of features.

    Yields:
      The features, and the structure with a list of arrays in place of each
      Tensor: one array for each replica of this worker.
    """
    replicas = self._devices.replicas_of_this_worker()
    compiled = self._compile(function, dataset.element_spec, len(replicas))

    def compute(features):
      inputs = features
      if len(replicas) > 1:
        inputs = self._split_between(replicas, features)
      return tf.nest.map_structure(self._to_arrays, compiled(inputs))

    num_at_once = _BATCHES_AT_ONCE if self._devices.is_one_cpu else 1
    batches = training_data.disable_autotune(dataset)
    counter = training_log.Counter()
    for features, arrays in _compute_ahead(compute, batches, num_at_once):
      counter.add(len(next(iter(features.values()))))
      yield features, arrays
    counter.end()

  def _compile(self, function, element_spec, num_replicas):
    """Returns a graph function for batches of a dataset."""
    # The specification of a dataset leaves lengths open that differ between
    # batches, so one graph serves batches of all lengths.
    key = (function, repr(element_spec))
    if key not in self._compiled:
      if num_replicas == 1:
        self._compiled[key] = tf.function(
          function, input_signature=[element_spec], autograph=False
        )
      else:
        strategy = self._devices.strategy
        self._compiled[key] = tf.function(
          lambda rows: strategy.run(function, (rows,)),
          reduce_retracing=True,
          autograph=False,
        )
    return self._compiled[key]

  def _split_between(self, replicas, features):
    """Gives each replica of this worker its rows of a batch."""

    def rows_of_replica(context):
      part = context.replica_id_in_sync_group - replicas[0]
      return devices_lib.slice_rows(features, part, len(replicas))

    strategy = self._devices.strategy
    return strategy.experimental_distribute_values_from_function(
      rows_of_replica
    )

  def _to_arrays(self, value) -> list[np.ndarray]:
    return [part.numpy() for part in self._devices.local_results(value)]


def _compute_ahead(
  function: Callable[[Any], Any], items: Iterable[Any], num_at_once: int
) -> Iterator[tuple[Any, Any]]:
  """Yields each item and `function(item)`, in order.

  Args:
    function: Called for each item; by other threads if `num_at_once` is above
      1. Then up to one item more is ahead of those that were yielded.
    items: The items.
    num_at_once: Number of calls that run at the same time.
  """
  if num_at_once == 1:
    for item in items:
      yield item, function(item)
    return
  pool = futures.ThreadPoolExecutor(num_at_once)
  pending: collections.deque[tuple[Any, futures.Future]] = collections.deque()
  try:
    for item in items:
      pending.append((item, pool.submit(function, item)))
      # The threads have work while the caller uses a result.
      if len(pending) > num_at_once:
        oldest, result = pending.popleft()
        yield oldest, result.result()
    for oldest, result in pending:
      yield oldest, result.result()
  finally:
    pool.shutdown(cancel_futures=True)


def average_losses(
  outputs: Iterable[tuple[Any, Any]], devices: devices_lib.Devices
) -> dict[str, float]:
  """Returns the averages of all losses and metrics, and their `loss`.

  Every worker must call this, and gets the averages over all workers.

  Args:
    outputs: Results of `BatchRunner.run` for a `loss_fn`.
    devices: Gathers the sums of all workers.

  Returns:
    Name -> sum over all batches, divided by the weight of all batches. Empty
    if there are no batches.
  """
  own_totals = {}
  loss_names = []
  for _, (losses, metrics) in outputs:
    loss_names = list(losses)
    for name, sum_and_weight in {**losses, **metrics}.items():
      # [2, num_replicas] -> [2]. In float64 the order does not matter, even
      # for the sums of many batches.
      total = np.sum(sum_and_weight, axis=1, dtype=np.float64)
      own_totals[name] = own_totals.get(name, np.zeros(2)) + total
  own = {name: total.tolist() for name, total in own_totals.items()}
  content = json.dumps([loss_names, own]).encode()
  totals = {}
  for part in devices.gather_from_workers(content):
    names_of_worker, totals_of_worker = json.loads(part)
    # A worker without batches does not know the names.
    loss_names = names_of_worker or loss_names
    for name, total in totals_of_worker.items():
      totals[name] = totals.get(name, np.zeros(2)) + total
  averages = {}
  for name, (total, weight) in totals.items():
    averages[name] = float(total / weight) if weight else math.nan
  if averages:
    averages["loss"] = sum((averages[name] for name in loss_names), 0.0)
  return averages


def predictions_of_examples(
  outputs: Iterable[tuple[Any, Any]], devices: devices_lib.Devices | None
) -> Iterator[dict[str, np.ndarray]]:
  """Yields the predictions for each example, in the order of the batches.

  Examples whose feature `is_real_example` is 0 only fill a batch, and are left
  out. Every worker must consume all, and gets the predictions of all.

  Args:
    outputs: Results of `BatchRunner.run` for a `predict_fn`.
    devices: Gathers the predictions of all workers; None if this one works
      alone.
  """
  batches: Iterator[dict[str, np.ndarray]] = map(_columns_of_batch, outputs)
  if devices and devices.num_workers > 1:
    batches = _gather_batches(batches, devices)
  for columns in batches:
    num_rows = len(next(iter(columns.values())))
    for row in range(num_rows):
      yield {name: column[row] for name, column in columns.items()}


def _columns_of_batch(output: tuple[Any, Any]) -> dict[str, np.ndarray]:
  """Returns the predictions for the real examples of a batch."""
  features, parts_by_name = output
  columns = {}
  for name, parts in parts_by_name.items():
    columns[name] = np.concatenate(parts)  # [batch_size, ...]
  if "is_real_example" in features:
    is_real = features["is_real_example"].numpy() != 0
    if not is_real.all():  # a selection copies all values
      columns = {name: column[is_real] for name, column in columns.items()}
  return columns


def _gather_batches(
  batches: Iterator[dict[str, np.ndarray]], devices: devices_lib.Devices
) -> Iterator[dict[str, np.ndarray]]:
  """Yields the batches of all workers, in the order of the data.

  Worker 0 has the batches 0, 2 and 4, and worker 1 has 1 and 3:

      worker 0   0   2   4
      worker 1     1   3
  """
  while True:
    own = list(itertools.islice(batches, _BATCHES_PER_GATHERING))
    parts = devices.gather_from_workers(_batches_to_bytes(own))
    by_worker = [_batches_from_bytes(part) for part in parts]
    for round_of_workers in itertools.zip_longest(*by_worker):
      for batch in round_of_workers:
        if batch is not None:
          yield batch
    # The last worker is the first that has no more batches.
    if len(by_worker[-1]) < _BATCHES_PER_GATHERING:
      return


def _batches_to_bytes(batches: list[dict[str, np.ndarray]]) -> bytes:
  """Returns the columns of batches as the content of an .npz file."""
  arrays = {}
  for number, columns in enumerate(batches):
    for name, column in columns.items():
      arrays[f"{number}/{name}"] = column
  content = io.BytesIO()
  # A keyword of newer NumPy confuses the type checker.
  np.savez(content, **arrays)  # type: ignore[arg-type]
  return content.getvalue()


def _batches_from_bytes(content: bytes) -> list[dict[str, np.ndarray]]:
  """Returns the batches that `_batches_to_bytes` got."""
  batches: list[dict[str, np.ndarray]] = []
  with np.load(io.BytesIO(content)) as arrays:
    for key, column in arrays.items():
      number, name = key.split("/", 1)
      if int(number) == len(batches):
        batches.append({})
      batches[-1][name] = column
  return batches
