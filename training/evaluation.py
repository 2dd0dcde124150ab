"""Evaluation and prediction: functions of batches, on the devices at hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
import math
from typing import Any

import numpy as np
import tensorflow as tf

from training import devices as devices_lib
from training import training_data
from training import training_log


class BatchRunner:
  """Applies functions to all batches of a dataset.

  Every worker processes every batch without asking the others, so each of them
  has the scores of all of the data. A batch is split between the replicas of
  the worker.
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
    counter = training_log.Counter()
    for features in training_data.disable_autotune(dataset):
      inputs = features
      if len(replicas) > 1:
        inputs = self._split_between(replicas, features)
      outputs = compiled(inputs)
      arrays = tf.nest.map_structure(self._to_arrays, outputs)
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


def average_losses(outputs: Iterable[tuple[Any, Any]]) -> dict[str, float]:
  """Returns the averages of all losses and metrics, and their `loss`.

  Args:
    outputs: Results of `BatchRunner.run` for a `loss_fn`.

  Returns:
    Name -> sum over all batches, divided by the weight of all batches. Empty
    if there are no batches.
  """
  totals = {}
  loss_names = ()
  for _, (losses, metrics) in outputs:
    loss_names = tuple(losses)
    for name, sum_and_weight in {**losses, **metrics}.items():
      # [2, num_replicas] -> [2]. In float64 the order does not matter, even
      # for the sums of many batches.
      total = np.sum(sum_and_weight, axis=1, dtype=np.float64)
      totals[name] = totals.get(name, np.zeros(2)) + total
  averages = {}
  for name, (total, weight) in totals.items():
    averages[name] = float(total / weight) if weight else math.nan
  if averages:
    averages["loss"] = sum((averages[name] for name in loss_names), 0.0)
  return averages


def predictions_of_examples(
  outputs: Iterable[tuple[Any, Any]],
) -> Iterator[dict[str, np.ndarray]]:
  """Yields the predictions for each example, in the order of the batches.

  Examples whose feature `is_real_example` is 0 only fill a batch, and are left
  out.

  Args:
    outputs: Results of `BatchRunner.run` for a `predict_fn`.
  """
  for features, parts_by_name in outputs:
    columns = {}
    for name, parts in parts_by_name.items():
      columns[name] = np.concatenate(parts)  # [batch_size, ...]
    any_column = next(iter(columns.values()))
    rows = np.arange(len(any_column))
    if "is_real_example" in features:
      rows = np.flatnonzero(features["is_real_example"].numpy())
    for row in rows:
      yield {name: column[row] for name, column in columns.items()}
