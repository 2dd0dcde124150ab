"""Tests of devices.py."""

import builders
import numpy as np
import pytest
import tensorflow as tf

from training import devices


@pytest.mark.parametrize("num_rows", [1, 6, 7, 8])
@pytest.mark.parametrize("num_parts", [1, 2, 3])
@pytest.mark.parametrize("is_known", [True, False])
def test_slices_hold_every_row_once_and_differ_by_one(
  num_rows, num_parts, is_known
):
  rows = tf.reshape(tf.range(2 * num_rows), [num_rows, 2])
  shape = [num_rows if is_known else None, 2]

  @tf.function(
    input_signature=[
      tf.TensorSpec(shape, tf.int32),
      tf.TensorSpec([], tf.int64),
    ]
  )
  def slice_batch(x, part):
    return devices.slice_rows({"x": x, "y": x[:, 0]}, part, num_parts)

  parts = [slice_batch(rows, part) for part in range(num_parts)]
  for name, expected in [("x", rows), ("y", rows[:, 0])]:
    together = np.concatenate([part[name] for part in parts])
    np.testing.assert_array_equal(together, expected)
  sizes = [len(part["x"]) for part in parts]
  assert max(sizes) - min(sizes) <= 1


def test_slices_of_a_known_batch_have_a_known_size():
  x = tf.zeros([6, 2])
  part = tf.function(lambda part: devices.slice_rows(x, part, 3))
  traced = part.get_concrete_function(tf.TensorSpec([], tf.int32))
  assert traced.structured_outputs.shape == [2, 2]


def test_one_machine_is_its_own_chief():
  two = builders.two_devices()
  for strategy, replicas in [
    (tf.distribute.get_strategy(), [0]),
    (two, [0, 1]),
  ]:
    found = devices.Devices(strategy)
    assert found.is_chief and found.num_workers == 1
    assert found.num_replicas == len(replicas)
    assert found.replicas_of_this_worker() == replicas
    assert found.broadcast_from_chief(1.5) == 1.5


def test_sums_are_over_replicas():
  found = devices.Devices(builders.two_devices())

  def replica_number():
    context = tf.distribute.get_replica_context()
    number = tf.cast(context.replica_id_in_sync_group, tf.float32)
    return found.sum_over_replicas({"x": number + 1.0, "y": [number]})

  run = tf.function(lambda: found.strategy.run(replica_number))
  assert found.first_results(run()) == {"x": 3.0, "y": [1.0]}
  assert len(found.local_results(run()["x"])) == 2
