"""Tests of hub_encoder.py."""

import os

import conftest
import numpy as np
import pytest
import tensorflow as tf

import export_saved_model
import modeling
from serving import hub_encoder
from serving import signatures
import tokenization

v1 = tf.compat.v1
_HIDDEN_SIZE = 6


def write_tensorflow_1_module(
  folder, vocab_file, use_resource=False, with_vocabulary=True
):
  """Writes a module as they were published, if a small one."""
  builder = v1.saved_model.Builder(folder)
  values = np.random.default_rng(1).normal(size=(len(conftest.TOKENS), 6))
  for tags in ([], ["train"]):
    with v1.Graph().as_default(), v1.Session() as session:
      names = ("input_ids", "input_mask", "segment_ids")
      inputs = [v1.placeholder(tf.int32, [None, None], name) for name in names]
      with v1.variable_scope("bert", use_resource=use_resource):
        table = v1.get_variable(
          "embeddings/word_embeddings", initializer=values.astype(np.float32)
        )
        kernel = v1.get_variable(
          "pooler/dense/kernel",
          initializer=np.eye(_HIDDEN_SIZE, dtype=np.float32),
        )
      is_real = tf.cast(inputs[1], tf.float32)[..., tf.newaxis]
      embedded = tf.nn.embedding_lookup(table, inputs[0]) * is_real
      if tags:
        embedded = v1.nn.dropout(embedded, rate=0.1)
      pooled = tf.tanh(tf.matmul(tf.reduce_sum(embedded, axis=1), kernel))
      outputs = {"pooled_output": pooled, "sequence_output": embedded}
      info = {
        "vocab_file": tf.constant(vocab_file),
        "do_lower_case": tf.constant(True),
      }
      v1.add_to_collection(v1.GraphKeys.ASSET_FILEPATHS, info["vocab_file"])
      signatures = {"tokens": (dict(zip(names, inputs)), outputs)}
      if with_vocabulary:
        signatures["tokenization_info"] = ({}, info)

      def describe(tensors):
        return {
          name: v1.saved_model.utils.build_tensor_info(tensor)
          for name, tensor in tensors.items()
        }

      session.run(v1.global_variables_initializer())
      arguments = dict(
        signature_def_map={
          name: v1.saved_model.build_signature_def(*map(describe, tensors))
          for name, tensors in signatures.items()
        },
        assets_collection=v1.get_collection(v1.GraphKeys.ASSET_FILEPATHS),
      )
      if tags:
        builder.add_meta_graph(tags, **arguments)
      else:
        builder.add_meta_graph_and_variables(session, tags, **arguments)
  builder.save()
  with open(os.path.join(folder, "tfhub_module.pb"), "wb") as writer:
    writer.write(b"\x08\x03")
  return folder


def write_tensorflow_2_encoder(folder, vocab_file):
  """Writes what export_saved_model.py writes."""
  tokenizer = tokenization.FullTokenizer(vocab_file)
  export_saved_model.save(
    signatures.Encoder(
      modeling.BertModel(conftest.tiny_config(), is_portable=True),
      signatures.Reader(vocab_file, tokenizer, max_seq_length=40),
    ),
    folder,
  )
  return folder


@pytest.fixture(params=["resource", "reference", "tensorflow_2"])
def folder(request, vocab_file, tmp_path):
  if request.param == "tensorflow_2":
    return write_tensorflow_2_encoder(str(tmp_path / "1"), vocab_file)
  return write_tensorflow_1_module(
    str(tmp_path / "1"), vocab_file, request.param == "resource"
  )


@pytest.mark.parametrize("num_devices", [1, 2])
def test_encoders_can_be_trained(folder, vocab_file, num_devices):
  devices = tf.config.list_logical_devices("CPU")[:num_devices]
  strategy = tf.distribute.MirroredStrategy([d.name for d in devices])
  with strategy.scope():
    encoder = hub_encoder.load(folder, "--handle")
    hidden_size = encoder.check(16)
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
  # What is trained is what is used.
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
    folder = write_tensorflow_1_module(
      str(tmp_path / str(use_resource)), vocab_file, use_resource
    )
    encoder = hub_encoder.load(folder, "--handle")
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


def test_what_is_no_encoder_is_refused(tmp_path):
  with pytest.raises(ValueError, match="there is no such folder, and an addre"):
    hub_encoder.load(str(tmp_path / "nowhere"), "--handle")
  with pytest.raises(ValueError, match="there is no .*saved_model.pb"):
    hub_encoder.load(str(tmp_path), "--handle")
  module = tf.Module()
  tf.saved_model.save(module, str(tmp_path / "module"))
  with pytest.raises(ValueError, match="no encoder that can be trained"):
    hub_encoder.load(str(tmp_path / "module"), "--handle")


@pytest.mark.parametrize(
  "file", ["saved_model.pb", "variables/variables.index"]
)
def test_a_broken_module_is_refused(folder, file):
  path = os.path.join(folder, file)
  with open(path, "r+b") as writer:
    writer.truncate(os.path.getsize(path) // 2)
  with pytest.raises(ValueError, match="--handle=.* cannot be read.*whole"):
    hub_encoder.load(folder, "--handle")
