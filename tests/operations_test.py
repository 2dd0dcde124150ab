"""Tests of operations.py."""

import numpy as np
import tensorflow as tf

import operations


def test_written_out_gradients_agree_with_automatic_ones():
  rng = np.random.default_rng(0)
  x, upstream = (
    tf.constant(rng.normal(size=(11, 8)), tf.float32) for _ in range(2)
  )
  gamma, beta = (tf.constant(rng.normal(size=8), tf.float32) for _ in range(2))
  ids = tf.constant(rng.integers(0, 4, 11))

  def plain_layer_norm(x, gamma, beta):
    mean, variance = tf.nn.moments(x, [-1], keepdims=True)
    return (x - mean) / tf.sqrt(variance + 1e-12) * gamma + beta

  pairs = [
    (operations.gelu, lambda x: tf.nn.gelu(x, approximate=True), (x,)),
    (operations.gelu_erf, lambda x: tf.nn.gelu(x, approximate=False), (x,)),
    (operations.layer_norm, plain_layer_norm, (x, gamma, beta)),
    (operations.add_bias, lambda x, bias: x + bias, (x, beta)),
    (
      lambda table: operations.embedding_lookup(table, ids),
      lambda table: tf.linalg.matmul(tf.one_hot(ids, 4), table),
      (x[:4],),
    ),
  ]
  for ours, plain, arguments in pairs:
    results = []
    for function in (ours, plain):
      with tf.GradientTape() as tape:
        tape.watch(arguments)
        y = function(*arguments)
      results.append([y, *tape.gradient(y, arguments, upstream)])
    for actual, expected in zip(*results):
      np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_bias_gradient_of_bfloat16_is_summed_in_float32():
  x = tf.ones([5000, 3], tf.bfloat16)
  bias = tf.zeros([3])
  with tf.GradientTape() as tape:
    tape.watch(bias)
    y = operations.add_bias(x, bias)
  np.testing.assert_array_equal(tape.gradient(y, bias), [5000.0] * 3)


def test_dropout_has_its_rate_and_its_seed():
  x = tf.ones([257, 31])
  dropped = [
    operations.dropout(x, 0.1, tf.constant([1, step])).numpy()
    for step in range(100)
  ]
  # One draw has a standard deviation of 0.0034, mostly of its threshold.
  assert abs(np.mean(np.array(dropped) == 0) - 0.1) < 0.002
  np.testing.assert_allclose(np.max(dropped), 1 / 0.9, rtol=1e-6)
  again = operations.dropout(x, 0.1, tf.constant([1, 0]))
  np.testing.assert_array_equal(again, dropped[0])
  assert np.any(dropped[1] != dropped[0])


def test_gelu_forms_differ_as_documented():
  x = tf.linspace(-10.0, 10.0, 20001)
  difference = np.max(np.abs(operations.gelu(x) - operations.gelu_erf(x)))
  assert 4.6e-4 < difference < 4.8e-4


def test_function_traced_once_keeps_the_shapes_of_each_call():
  traced_shapes = []

  @operations.traced_once
  def double(x):
    traced_shapes.append(x.shape)
    return 2.0 * x

  @tf.function(autograph=False)
  def double_all(*tensors):
    results = [double(x) for x in tensors]
    assert [y.shape for y in results] == [x.shape for x in tensors]
    return results

  results = double_all(*[tf.ones([rows, 2]) for rows in range(1, 7)])
  assert [y.shape[0] for y in results] == [1, 2, 3, 4, 5, 6]
  # One trace for the first shape, and one for all others.
  assert len(traced_shapes) == 2
