"""Tests of hub_encoder.py."""

import os
import shutil

import builders
import numpy as np
import pytest
import tensorflow as tf

from serving import hub_encoder

v1 = tf.compat.v1


@pytest.fixture(params=["resource", "reference", "tensorflow_2"])
def folder(request, vocab_file, tmp_path):
  """Folder of an encoder of each kind, which a test may change."""
  if request.param == "tensorflow_2":
    exported = request.getfixturevalue("exported_encoder")
    return str(shutil.copytree(exported, tmp_path / "1"))
  return builders.write_tensorflow_1_module(
    str(tmp_path / "1"), vocab_file, request.param == "resource"
  )


@pytest.mark.parametrize("num_devices", [1, 2])
def test_encoders_can_be_trained(folder, vocab_file, num_devices):
  devices = tf.config.list_logical_devices("CPU")[:num_devices]
  strategy = tf.distribute.MirroredStrategy([d.name for d in devices])
  with strategy.scope():
    encoder = hub_encoder.load_encoder(folder, "--handle")
    hidden_size = encoder.find_hidden_size(16)
  with open(encoder.vocab_file) as saved, open(vocab_file) as original:
    assert saved.read() == original.read()
  assert encoder.do_lower_case
  ids = tf.constant([[3, 8, 9, 4, 0], [3, 12, 7, 6, 4]])
  inputs = (ids, tf.cast(ids > 0, tf.int32), tf.zeros_like(ids))

  @tf.function
  def step():
    with tf.GradientTape() as tape:
      loss = tf.reduce_sum(encoder(*inputs, is_training=True)[:, :2])
    gradients = tape.gradient(loss, encoder.encoder_variables)
    return [
      tf.reduce_sum(tf.abs(tf.convert_to_tensor(gradient)))
      for gradient in gradients
      if gradient is not None
    ]

  gradients = strategy.experimental_local_results(strategy.run(step))
  assert len(gradients) == num_devices
  assert all(value > 0 for value in gradients[0])
  assert len(gradients[0]) == len(encoder.encoder_variables)

  def encode(is_training):
    return strategy.experimental_local_results(
      strategy.run(lambda: encoder(*inputs, is_training=is_training))
    )[0].numpy()

  assert encode(False).shape == (2, hidden_size)
  np.testing.assert_array_equal(encode(False), encode(False))
  assert np.abs(encode(True) - encode(True)).max() > 1e-3
  # The trained variables are the ones that the encoder uses.
  table = next(
    variable
    for variable in encoder.encoder_variables
    if "word_embeddings" in variable.name
  )
  before = encode(False)
  table.assign(tf.reverse(table, axis=[0]))
  assert np.abs(encode(False) - before).max() > 1e-3


def test_a_module_of_tensorflow_1_computes_what_it_did(vocab_file, tmp_path):
  for use_resource in (True, False):
    folder = builders.write_tensorflow_1_module(
      str(tmp_path / str(use_resource)), vocab_file, use_resource
    )
    encoder = hub_encoder.load_encoder(folder, "--handle")
    with v1.Graph().as_default(), v1.Session() as session:
      graph = v1.saved_model.load(session, [], folder)
      signature = graph.signature_def["tokens"]
      feed = {
        signature.inputs["input_ids"].name: [[3, 8, 4]],
        signature.inputs["input_mask"].name: [[1, 1, 1]],
      }
      expected = session.run(signature.outputs["pooled_output"].name, feed)
    np.testing.assert_allclose(
      encoder(
        tf.constant([[3, 8, 4]]),
        tf.ones([1, 3], tf.int32),
        tf.zeros([1, 3], tf.int32),
      ),
      expected,
      atol=1e-6,
    )


def test_a_classifier_applies_dropout_in_training():
  def encoder(input_ids, input_mask, token_type_ids, is_training):
    return tf.ones([1, 50]) * (2.0 if is_training else 1.0)

  classifier = hub_encoder.HubClassifier(encoder, 50, num_labels=4, seed=0)
  ids = tf.zeros([1, 3], tf.int32)
  weights = classifier.output.output_weights.numpy()
  np.testing.assert_allclose(
    classifier(ids, ids, ids), [weights.sum(axis=1)], atol=1e-6
  )
  in_training = classifier(ids, ids, ids, tf.constant([1, 2]))
  assert np.abs(in_training - 2 * weights.sum(axis=1)).max() > 1e-4


def test_what_is_no_encoder_is_refused(tmp_path):
  with pytest.raises(ValueError, match="there is no such folder, and an addre"):
    hub_encoder.load_encoder(str(tmp_path / "nowhere"), "--handle")
  with pytest.raises(ValueError, match="there is no .*saved_model.pb"):
    hub_encoder.load_encoder(str(tmp_path), "--handle")
  module = tf.Module()
  tf.saved_model.save(module, str(tmp_path / "module"))
  with pytest.raises(ValueError, match="no encoder that can be trained"):
    hub_encoder.load_encoder(str(tmp_path / "module"), "--handle")


@pytest.mark.parametrize(
  "file", ["saved_model.pb", "variables/variables.index"]
)
def test_a_broken_module_is_refused(folder, file):
  path = os.path.join(folder, file)
  with open(path, "r+b") as writer:
    writer.truncate(os.path.getsize(path) // 2)
  with pytest.raises(ValueError, match="--handle=.* cannot be read.*complete"):
    hub_encoder.load_encoder(folder, "--handle")
