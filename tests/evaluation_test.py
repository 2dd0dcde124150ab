"""Tests of training/evaluation.py."""

from concurrent import futures
import threading
import types

import numpy as np
import pytest
import tensorflow as tf

from data import input_shares
from training import devices as devices_lib
from training import evaluation


class Workers:
  """Workers in threads, which gather bytes as those on machines do."""

  def __init__(self, num_workers):
    self.num_workers = num_workers
    self.barrier = threading.Barrier(num_workers, timeout=60)
    self.contents = [b""] * num_workers

  def run(self, function):
    """Returns the results of a function (devices, share) of all workers."""

    def work(worker):
      def gather(content):
        self.contents[worker] = content
        self.barrier.wait()
        gathered = list(self.contents)
        self.barrier.wait()
        return gathered

      devices = types.SimpleNamespace(
        num_workers=self.num_workers, gather_from_workers=gather
      )
      share = input_shares.InputShare(worker, self.num_workers)
      return function(devices, share)

    with futures.ThreadPoolExecutor(self.num_workers) as pool:
      return list(pool.map(work, range(self.num_workers)))


def batch_outputs(number, num_rows=3):
  """Returns the features and predictions of a batch; its last row is filler."""
  is_real = tf.constant([1.0] * (num_rows - 1) + [0.0])
  rows = np.arange(num_rows) + 10 * number
  # As on two devices; the lengths of batches differ.
  wide = np.ones([num_rows, number + 1]) * rows[:, np.newaxis]
  columns = {"y": [rows[:1], rows[1:]], "wide": [wide[:1], wide[1:]]}
  return {"is_real_example": is_real}, columns


def run_on_cpu(function, num_batches):
  """Returns x and the output y of a function for batches x of one number."""
  devices = devices_lib.Devices(tf.distribute.get_strategy())
  runner = evaluation.BatchRunner(devices)
  dataset = tf.data.Dataset.from_tensor_slices({"x": tf.range(num_batches)})
  outputs = runner.run(function, dataset.batch(1))
  return [(int(batch["x"][0]), int(y["y"][0][0])) for batch, y in outputs]


@pytest.mark.parametrize("num_batches", [2, 8])
def test_a_cpu_computes_two_batches_at_a_time_in_order(num_batches):
  barrier = threading.Barrier(2, timeout=60)

  def wait_for_another_batch(x):
    barrier.wait()
    return 10 * x

  def function(features):
    return {
      "y": tf.numpy_function(wait_for_another_batch, [features["x"]], tf.int32)
    }

  expected = [(n, 10 * n) for n in range(num_batches)]
  assert run_on_cpu(function, num_batches) == expected


def test_a_batch_that_fails_ends_the_run():
  def function(features):
    with tf.control_dependencies([tf.debugging.assert_less(features["x"], 5)]):
      return {"y": tf.identity(features["x"])}

  assert run_on_cpu(function, 5) == [(n, n) for n in range(5)]
  with pytest.raises(tf.errors.InvalidArgumentError):
    run_on_cpu(function, 9)


@pytest.mark.parametrize("num_workers", [1, 2, 3])
@pytest.mark.parametrize("num_batches", [1, 4, 32, 33, 35])
def test_predictions_of_all_workers_come_in_the_order_of_the_data(
  num_workers, num_batches
):
  def predict(devices, share):
    numbers = range(share.machine, num_batches, share.num_machines)
    outputs = map(batch_outputs, numbers)
    rows = list(evaluation.predictions_of_examples(outputs, devices))
    for row in rows:
      assert row["wide"].tolist() == [row["y"]] * (row["y"] // 10 + 1)
    return [int(row["y"]) for row in rows]

  expected = [10 * n + i for n in range(num_batches) for i in range(2)]
  for predictions in Workers(num_workers).run(predict):
    assert predictions == expected


@pytest.mark.parametrize("num_batches", [1, 5])
def test_averages_are_over_the_batches_of_all_workers(num_batches):
  def average(devices, share):
    outputs = []
    for number in range(share.machine, num_batches, share.num_machines):
      losses = {"a": [[number, 1.0], [2.0, 3.0]]}  # sums, weights
      outputs.append((None, (losses, {"m": [[1.0], [number + 1.0]]})))
    return evaluation.average_losses(outputs, devices)

  sums = sum(number + 1.0 for number in range(num_batches))
  expected = {"a": sums / (5.0 * num_batches), "m": num_batches / sums}
  expected["loss"] = expected["a"]
  for averages in Workers(3).run(average):
    assert averages == pytest.approx(expected)
