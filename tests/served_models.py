"""Small models for the tests of the server, one for each head."""

import contextlib
import functools
import threading
import types

import builders
import pytest
import tensorflow as tf

import checkpoint
from data import encoding
from data import tokenizer_settings
import export_saved_model
import heads
from serving import exported_model
from serving import model_versions
from serving import rest_app
from serving import rest_server
from serving import server_limits
from tasks import classifier_config

LABELS = {
  heads.SINGLE_LABEL: ("still", "moving", "<b>odd</b>"),
  heads.MULTI_LABEL: ("pet", "wild"),
  heads.REGRESSION: (),
  heads.TAGGING: ("O", "B-pet", "I-pet", "B-<i>wild</i>"),
  heads.MULTIPLE_CHOICE: (),
}
# Head -> rows that it answers.
ROWS = {
  heads.SINGLE_LABEL: [("the cat sat",), ("a big dog ran", "it was red")],
  heads.MULTI_LABEL: [("the cat sat",), ("the bird flew", "a dog")],
  heads.REGRESSION: [("the cat sat",), ("the lazy dog ran over the hill",)],
  heads.TAGGING: [("the red cat sat",), ("it sat on the \U0001f600 bird.",)],
  heads.SPAN: [
    ("it was red", "the cat sat and the \U0001f600 bird flew"),
    ("it was", "the dog ran over the hill and then the bird flew"),
  ],
  heads.MULTIPLE_CHOICE: [
    ("the cat", "sat", "flew over the hill"),
    ("the bird", "ran", "flew", "sat on the mat"),
  ],
  heads.PRETRAINING: [("the [MASK] sat on the [MASK]",), ("a [MASK]",)],
  heads.MASKED_LM: [("the [MASK] sat on the [MASK]",), ("a [MASK]",)],
  heads.ENCODER: [("the cat sat",), ("a dog ran",), ("the cat sat", "it ran")],
}


def write_model(folder, head_name, seed=3):
  """Writes a model with random weights, and returns its folder.

  Args:
    folder: Folder to make.
    head_name: Name of its head.
    seed: Seed of the weights.
  """
  folder.mkdir(parents=True, exist_ok=True)
  builders.write_vocab(folder)
  # Weights that are larger than usual make answers that differ.
  config = builders.tiny_config(initializer_range=0.5)
  (folder / "bert_config.json").write_text(config.to_json_string())
  settings = tokenizer_settings.TokenizerSettings(do_lower_case=True)
  settings.write(str(folder))
  num_outputs = None
  if head_name in LABELS:
    classifier = classifier_config.ClassifierConfig(
      head_name, LABELS[head_name], settings, 24, encoding.TRUNCATE
    )
    classifier.write(str(folder))
    num_outputs = classifier.num_outputs
  model = heads.HEADS[head_name].create_model(config, num_outputs, seed=seed)
  variables = checkpoint.variables_by_name(model)
  if head_name == heads.MASKED_LM:
    names = [name for name in variables if "seq_relationship" not in name]
    variables = {name: variables[name] for name in names}
  checkpoint.write(str(folder / "bert_model.ckpt"), variables)
  return folder


def export(model, folder, **flags):
  """Exports a model, and returns the folder of the new version."""
  builders.run_program(
    export_saved_model, model=model, export_dir=folder, **flags
  )
  return max(folder.iterdir(), key=lambda path: int(path.name))


def assert_close(found, expected):
  """Asserts that two values of JSON are the same, numbers up to rounding."""
  if isinstance(expected, dict):
    assert list(found) == list(expected)
    for name in expected:
      assert_close(found[name], expected[name])
  elif isinstance(expected, list):
    assert len(found) == len(expected)
    for one, other in zip(found, expected):
      assert_close(one, other)
  elif isinstance(expected, float):
    assert found == pytest.approx(expected, abs=2e-5)
  else:
    assert found == expected


class FakeAnswers:
  """Stands for `text_answers.ServerAnswers`; its head is single_label.

  Attributes:
    wait: Called before each batch.
  """

  head = heads.HEADS[heads.SINGLE_LABEL]
  mask = "[MASK]"
  labels = ("short", "long")

  def __init__(self):
    self.wait = lambda: None
    self.exported = exported_model.ExportedModel(
      {"text": fake_signature()}, None, "a fake"
    )

  def is_masked_lm(self):
    return False

  def choose_head(self, unused_rows):
    return self.head

  def answer_batch(self, rows, unused_head):
    self.wait()
    return [{"label": "short", "length": len(row[0])} for row in rows]

  def finish(self, unused_rows, outputs, unused_head):
    return outputs


@functools.cache
def fake_signature():
  """Returns a signature like that of a classifier, which is made at once."""

  def answer(text):
    labels = tf.constant(["short", "long"])
    lengths = tf.strings.length(text)
    shape = [tf.size(text), 2]
    return {
      "label": tf.gather(labels, tf.cast(lengths > 5, tf.int32)),
      "labels": tf.broadcast_to(labels, shape),
      "probabilities": tf.ones(shape) / 2.0,
    }

  specs = [tf.TensorSpec([None], tf.string, "text")]
  return tf.function(
    answer, input_signature=specs, autograph=False
  ).get_concrete_function()


def fake_library(*names):
  """Returns a library of models that answer at once."""
  library = model_versions.ModelLibrary([])
  available = model_versions.VersionStatus(model_versions.AVAILABLE)
  for name in names:
    answers = FakeAnswers()
    library.models[name] = types.SimpleNamespace(
      name=name,
      current=model_versions.ModelVersion(1, answers, answers.labels),
      statuses={1: available},
      update=lambda: None,
    )
  return library


@contextlib.contextmanager
def running(library, **limits):
  """Yields the address of a server in a thread of this process."""
  limits = server_limits.ServerLimits(**limits)
  app = rest_app.create_app(library, limits)
  server = rest_server.create_server(app, limits.timeout)
  with rest_server.bind("127.0.0.1", 0) as listener:
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
      yield rest_server.address_of(listener)
    finally:
      server.should_exit = True
      thread.join()
