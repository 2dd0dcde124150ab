"""Tests of optimization.py."""

import numpy as np
import tensorflow as tf

import optimization


def test_schedule_warms_up_then_decays_from_step_zero():
  schedule = optimization.linear_warmup_and_decay(0.1, 100, 10)
  rates = [float(schedule(step)) for step in (0, 5, 9, 10, 50, 100, 150)]
  np.testing.assert_allclose(
      rates, [0, 0.05, 0.09, 0.09, 0.05, 0, 0], atol=1e-8)
  no_warmup = optimization.linear_warmup_and_decay(0.1, 100, 0)
  assert abs(float(no_warmup(0)) - 0.1) < 1e-8


def test_updates_agree_with_numpy():
  rng = np.random.default_rng(0)
  names = ["a/kernel", "a/bias", "a/LayerNorm/gamma", "cls/output_bias"]
  weights = {name: rng.normal(size=(3, 2)) for name in names}
  variables = [tf.Variable(weights[name], name=name, dtype=tf.float32)
               for name in names]
  optimizer = optimization.create_optimizer(0.05, 10, 2)
  optimizer.build(variables)
  m = {name: 0.0 for name in names}
  v = {name: 0.0 for name in names}
  for step in range(5):
    scale = 3.0 if step % 2 else 0.01  # clipped, and not
    gradients = {name: scale * rng.normal(size=(3, 2)) for name in names}
    norm = np.sqrt(sum(np.sum(g ** 2) for g in gradients.values()))
    actual_norm = optimizer.apply_gradients(
        [tf.constant(gradients[name], tf.float32) for name in names],
        variables, tf.constant(step))
    np.testing.assert_allclose(actual_norm, norm, rtol=1e-5)
    rate = 0.05 * ((step + 1) / 2 if step + 1 < 2 else 1 - (step + 1) / 10)
    for name in names:
      gradient = gradients[name] / max(1.0, norm)
      m[name] = 0.9 * m[name] + 0.1 * gradient
      v[name] = 0.999 * v[name] + 0.001 * gradient ** 2
      update = m[name] / (np.sqrt(v[name]) + 1e-6)
      if name == "a/kernel":
        update += 0.01 * weights[name]
      weights[name] = weights[name] - rate * update
  for name, variable in zip(names, variables):
    np.testing.assert_allclose(variable, weights[name], atol=1e-5,
                               err_msg=name)


def test_slots_have_their_released_names():
  optimizer = optimization.create_optimizer(0.1, 10, 0)
  optimizer.build([tf.Variable([1.0], name="bert/x/kernel")])
  assert [slot.name for slot in optimizer.variables] == [
      "bert/x/kernel/adam_m:0", "bert/x/kernel/adam_v:0"]
