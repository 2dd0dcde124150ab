"""Tests of optimization.py."""

import numpy as np
import pytest
import tensorflow as tf

import optimization


def slow_down_biases(name):
  return 0.5 if "bias" in name else 1.0


def rates(schedule, *steps):
  return [float(schedule(step)) for step in steps]


def test_schedule_warms_up_then_decays_from_step_zero():
  schedule = optimization.polynomial_decay(0.1, 100, 10)
  np.testing.assert_allclose(
    rates(schedule, 0, 5, 9, 10, 50, 100, 150),
    [0, 0.05, 0.09, 0.09, 0.05, 0, 0],
    atol=1e-8,
  )
  no_warmup = optimization.polynomial_decay(0.1, 100, 0)
  assert abs(float(no_warmup(0)) - 0.1) < 1e-8
  square = optimization.polynomial_decay(0.1, 100, 10, power=2.0)
  np.testing.assert_allclose(
    rates(square, 5, 20, 50, 150), [0.05, 0.064, 0.025, 0], atol=1e-8
  )


def test_cosine_falls_from_the_end_of_warmup():
  schedule = optimization.cosine_decay(0.1, 110, 10)
  np.testing.assert_allclose(
    rates(schedule, 0, 5, 10, 35, 60, 110, 150),
    [0, 0.05, 0.1, 0.05 * (1 + np.sqrt(0.5)), 0.05, 0, 0],
    atol=1e-7,
  )
  # One step of decay, and none.
  for num_train_steps in (11, 10):
    schedule = optimization.cosine_decay(0.1, num_train_steps, 10)
    np.testing.assert_allclose(rates(schedule, 10, 11), [0.1, 0], atol=1e-7)


def test_warmup_stable_decay_falls_in_the_last_fifth():
  schedule = optimization.warmup_stable_decay(0.1, 100, 10)
  np.testing.assert_allclose(
    rates(schedule, 0, 5, 10, 80, 90, 100, 150),
    [0, 0.05, 0.1, 0.1, 0.05, 0, 0],
    atol=1e-7,
  )
  # A fifth of a few steps is one step.
  short = optimization.warmup_stable_decay(0.1, 4, 0)
  np.testing.assert_allclose(rates(short, 3, 4), [0.1, 0], atol=1e-7)


@pytest.mark.parametrize(
  "lr_decay, rate",
  [("linear", 0.08), ("poly", 0.064), ("cosine", 0.097), ("wsd", 0.1)],
)
def test_decays_have_names_and_only_one_has_a_power(lr_decay, rate):
  optimizer = optimization.create_optimizer(
    0.1, 100, 10, lr_decay=lr_decay, lr_decay_power=2.0
  )
  np.testing.assert_allclose(rates(optimizer.schedule, 20), rate, rtol=1e-3)


def test_the_power_of_a_decay_is_1_by_default():
  optimizer = optimization.create_optimizer(0.1, 100, 10, lr_decay="poly")
  np.testing.assert_allclose(rates(optimizer.schedule, 20), 0.08, rtol=1e-6)


def test_lower_layers_learn_more_slowly():
  multiplier = optimization.layerwise_multiplier(12, 0.5)
  assert [
    multiplier(name)
    for name in (
      "output_weights",
      "bert/pooler/dense/kernel",
      "bert/encoder/layer_11/output/dense/kernel",
      "bert/encoder/layer_1/output/dense/kernel",
      "bert/encoder/layer_0/output/dense/kernel",
      "bert/embeddings/word_embeddings",
    )
  ] == [1.0, 1.0, 0.5, 0.5**11, 0.5**12, 0.5**13]


@pytest.mark.parametrize(
  "method, options",
  [
    ("bert", {}),
    ("adamw", dict(bias_correction=True)),
    ("lamb", dict(optimizer="lamb")),
    ("bert", dict(rate_multiplier=slow_down_biases)),
    ("lamb", dict(optimizer="lamb", rate_multiplier=slow_down_biases)),
  ],
)
def test_updates_agree_with_numpy(method, options):
  rng = np.random.default_rng(0)
  names = [
    "a/kernel",
    "a/bias",
    "a/LayerNorm/gamma",
    "a/layer_norm/gamma",
    "cls/output_bias",
    "zero/kernel",
  ]
  weights = {
    name: rng.normal(size=(3, 2)) * (name != "zero/kernel") for name in names
  }
  variables = [
    tf.Variable(weights[name], name=name, dtype=tf.float32) for name in names
  ]
  optimizer = optimization.create_optimizer(0.05, 10, 2, **options)
  optimizer.build(variables)
  m = dict.fromkeys(names, 0.0)
  v = dict.fromkeys(names, 0.0)
  for step in range(5):
    scale = 3.0 if step % 2 else 0.01  # clipped, and not
    gradients = {name: scale * rng.normal(size=(3, 2)) for name in names}
    norm = np.sqrt(sum(np.sum(g**2) for g in gradients.values()))
    actual_norm = optimizer.apply_gradients(
      [tf.constant(8 * gradients[name], tf.float32) for name in names],
      variables,
      tf.constant(step),
      gradient_scale=8.0,
    )
    np.testing.assert_allclose(actual_norm, norm, rtol=1e-5)
    rate = 0.05 * ((step + 1) / 2 if step + 1 < 2 else 1 - (step + 1) / 10)
    for name in names:
      gradient = gradients[name] / max(1.0, norm)
      m[name] = 0.9 * m[name] + 0.1 * gradient
      v[name] = 0.999 * v[name] + 0.001 * gradient**2
      m_hat, v_hat = m[name], v[name]
      if method != "bert":
        m_hat = m_hat / (1 - 0.9 ** (step + 1))
        v_hat = v_hat / (1 - 0.999 ** (step + 1))
      update = m_hat / (np.sqrt(v_hat) + 1e-6)
      if "kernel" in name:
        update += 0.01 * weights[name]
        size = np.linalg.norm(weights[name])
        if method == "lamb" and size:
          update *= size / np.linalg.norm(update)
      slowed = options.get("rate_multiplier", lambda name: 1.0)(name)
      weights[name] = weights[name] - rate * slowed * update
  for name, variable in zip(names, variables):
    np.testing.assert_allclose(variable, weights[name], atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
  "excluded, is_decayed",
  [(["bias", "free"], [1.0, 0.0]), (["other"], [1.0, 1.0]), ([], [1.0, 1.0])],
)
def test_constants_of_the_method_are_used(excluded, is_decayed):
  optimizer = optimization.AdamWeightDecayOptimizer(
    lambda step: tf.constant(0.1),
    weight_decay_rate=0.5,
    beta_1=0.6,
    beta_2=0.7,
    epsilon=0.3,
    clip_norm=2.0,
    exclude_from_weight_decay=excluded,
  )
  weights = np.array([-1.0, 2.0], np.float32)
  names = ["a/kernel", "a/free/kernel"]
  variables = [tf.Variable([x], name=name) for x, name in zip(weights, names)]
  optimizer.build(variables)
  norm = optimizer.apply_gradients(
    [tf.constant([3.0]), tf.constant([4.0])], variables, 0
  )
  # The gradients are cut to a norm of 2.
  assert norm == 5.0
  gradients = np.array([1.2, 1.6])
  update = 0.4 * gradients / (np.sqrt(0.3) * gradients + 0.3)
  update += 0.5 * np.array(is_decayed) * weights
  np.testing.assert_allclose(
    np.concatenate(variables), weights - 0.1 * update, rtol=1e-6
  )


@pytest.mark.parametrize("name", ["adamw", "lamb"])
def test_gradients_that_are_not_finite_change_nothing(name):
  variable = tf.Variable([1.0, 2.0], name="a/kernel")
  optimizer = optimization.create_optimizer(0.1, 10, 0, optimizer=name)
  optimizer.build([variable])
  optimizer.apply_gradients([tf.constant([0.1, 0.2])], [variable], 0)
  before = [x.numpy() for x in (variable, *optimizer.variables)]
  for bad in (np.nan, np.inf, -np.inf):
    optimizer.apply_gradients([tf.constant([bad, 0.2])], [variable], 1)
  optimizer.apply_gradients(
    [tf.constant([0.1, 0.2])], [variable], 1, is_good=False
  )
  after = [x.numpy() for x in (variable, *optimizer.variables)]
  np.testing.assert_array_equal(before, after)


def test_slots_have_their_released_names():
  optimizer = optimization.create_optimizer(0.1, 10, 0)
  optimizer.build([tf.Variable([1.0], name="bert/x/kernel")])
  assert [slot.name for slot in optimizer.variables] == [
    "bert/x/kernel/adam_m:0",
    "bert/x/kernel/adam_v:0",
  ]
  assert optimization.SLOT_NAMES == ["adam_m", "adam_v"]
  assert not any(slot.trainable for slot in optimizer.variables)
