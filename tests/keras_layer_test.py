"""Tests of serving/keras_layer.py."""

import importlib
import os

import builders
import numpy as np
import pytest
import tensorflow as tf

from errors import UserError
import modeling
from serving import keras_layer


@pytest.fixture(params=["keras", "tf_keras"])
def keras(request):
  """Returns either Keras."""
  pytest.importorskip(request.param)
  return importlib.import_module(request.param)


@pytest.fixture
def encoder():
  config = builders.tiny_config(num_hidden_layers=1, hidden_dropout_prob=0.3)
  return modeling.BertModel(config, seed=3)


def create_batch(config):
  """Returns 16 rows, and whether their third word is in the upper half."""
  ids = np.random.default_rng(0).integers(5, config.vocab_size, [16, 7])
  mask = np.ones_like(ids)
  mask[::2, -2:] = 0
  batch = {
    "input_ids": ids,
    "input_mask": mask,
    "token_type_ids": np.zeros_like(ids),
  }
  labels = ids[:, 2] > np.median(ids[:, 2])
  return {k: v.astype("int32") for k, v in batch.items()}, labels.astype(int)


def create_model(keras, layer):
  inputs = keras_layer.create_inputs(keras)
  return keras.Model(inputs, keras.layers.Dense(2)(layer(inputs)))


def values_of(weights):
  return [weight.numpy().copy() for weight in weights]


def test_all_weights_are_trained(keras, encoder):
  keras.utils.set_random_seed(1)
  layer = keras_layer.create_layer(keras, encoder)
  assert len(layer.trainable_weights) == len(encoder.variables)
  model = create_model(keras, layer)
  loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
  model.compile(keras.optimizers.Adam(1e-2), loss)
  before = values_of(layer.trainable_weights)
  batch, labels = create_batch(encoder.config)
  given = values_of(encoder.variables)
  losses = model.fit(batch, labels, epochs=10, verbose=0).history["loss"]
  assert losses[-1] < 0.8 * losses[0]
  for old, new in zip(before, values_of(layer.trainable_weights)):
    assert not np.array_equal(old, new)
  # The layer copied the weights that it was given.
  for old, new in zip(given, values_of(encoder.variables)):
    np.testing.assert_array_equal(old, new)


def test_outputs_are_those_of_the_encoder(keras, encoder):
  batch, _ = create_batch(encoder.config)
  expected = encoder(**batch)
  for name in ("pooled_output", "sequence_output"):
    layer = keras_layer.create_layer(keras, encoder, output=name)
    np.testing.assert_array_equal(layer(batch), getattr(expected, name))
  assert len(layer.trainable_weights) == len(encoder.variables) - 2  # no pooler
  ids = batch["input_ids"]
  alone = layer(tf.constant(ids))
  np.testing.assert_array_equal(alone, encoder(ids).sequence_output)
  # Dropout draws new numbers in each step.
  first, second = (layer(batch, training=True).numpy() for _ in range(2))
  assert not np.array_equal(first, second)


def test_models_of_keras_are_saved_and_loaded(keras, encoder, tmp_path):
  layer = keras_layer.create_layer(keras, encoder, trainable=False)
  assert not layer.trainable_weights
  model = create_model(keras, layer)
  batch, _ = create_batch(encoder.config)
  path = os.path.join(tmp_path, "model.keras")
  model.save(path)
  loaded = keras.models.load_model(path)
  np.testing.assert_array_equal(
    loaded.predict(batch, verbose=0), model.predict(batch, verbose=0)
  )


def test_mistakes_are_explained(keras, encoder, monkeypatch):
  with pytest.raises(UserError, match="output='all' is not one of pooled"):
    keras_layer.create_layer(keras, encoder, output="all")
  with pytest.raises(UserError, match="head='encoder'"):
    keras_layer.create_layer(keras, tf.Module())
  without_pooler = modeling.BertModel(encoder.config, add_pooler=False)
  with pytest.raises(UserError, match="has no pooler.*sequence_output"):
    keras_layer.create_layer(keras, without_pooler)
  keras_layer.layer_class.cache_clear()
  monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
  with pytest.raises(UserError, match="KERAS_BACKEND=tensorflow"):
    keras_layer.create_layer(keras, encoder)
