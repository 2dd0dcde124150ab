"""Tests of serving/text_model.py."""

import os

import builders
import numpy as np
import pytest
import tensorflow as tf

import checkpoint
from data import tokenizer_settings
from errors import UserError
import heads
from serving import text_model
from tasks import classifier_config
from training import model_folder


@pytest.fixture
def folder(tmp_path):
  """Returns a model folder, without a head."""
  write_folder(tmp_path, heads.ENCODER)
  return str(tmp_path)


def write_folder(path, head, num_outputs=None):
  """Writes a model folder with random weights; returns its model."""
  builders.write_vocab(path)
  builders.write_config(path)
  model = heads.HEADS[head].create_model(
    builders.tiny_config(), num_outputs, seed=3
  )
  prefix = os.path.join(path, model_folder.FILE_NAMES.init_checkpoint)
  checkpoint.write(prefix, checkpoint.variables_by_name(model))
  return model


def test_texts_of_different_lengths_make_a_padded_batch(folder):
  bert = text_model.load_model(folder)
  texts = ["a", ("b c", "d"), "", "cat " * 60]
  batch = bert.tokenizer(texts)
  lengths = [3, 6, 2, bert.config.max_position_embeddings]
  mask = batch["input_mask"].numpy()
  assert mask.sum(axis=1).tolist() == lengths
  cls_id, sep_id = bert.tokenizer.tokenizer.convert_tokens_to_ids(
    ["[CLS]", "[SEP]"]
  )
  ids = batch["input_ids"].numpy()
  assert (ids[:, 0] == cls_id).all() and (ids[mask == 0] == 0).all()
  assert [row[length - 1] for row, length in zip(ids, lengths)] == [sep_id] * 4
  segments = batch["token_type_ids"].numpy()
  assert segments[1].tolist()[:6] == [0, 0, 0, 0, 1, 1]
  assert segments.sum() == 2


def test_one_graph_answers_all_batches_row_by_row(folder):
  bert = text_model.load_model(folder)
  texts = ["a", "b c d e", ("a b", "c")]
  outputs = bert(texts).pooled_output
  for text, row in zip(texts, outputs):
    alone = bert([text]).pooled_output[0]
    np.testing.assert_allclose(row, alone, rtol=0, atol=1e-5)
    eager = bert.model(**bert.tokenizer([text])).pooled_output[0]
    np.testing.assert_allclose(row, eager, rtol=0, atol=1e-5)
  assert bert._graph.experimental_get_tracing_count() == 1
  one = bert.tokenizer(texts[0])["input_ids"]
  np.testing.assert_array_equal(one, bert.tokenizer([texts[0]])["input_ids"])


def test_weights_are_those_of_the_folder(tmp_path):
  written = write_folder(tmp_path, heads.SPAN)
  for name in (None, heads.SPAN):
    bert = text_model.load_model(str(tmp_path), head=name)
    values = checkpoint.variables_by_name(written)
    loaded = checkpoint.variables_by_name(bert.model)
    assert set(loaded) <= set(values)
    builders.assert_same_values(loaded, {n: values[n] for n in loaded})
  assert any("squad" in n for n in loaded)


def test_a_classifier_comes_with_its_labels_and_settings(tmp_path):
  write_folder(tmp_path, heads.SINGLE_LABEL, 3)
  labels = ("bad", "fair", "good")
  classifier_config.ClassifierConfig(
    heads.SINGLE_LABEL,
    labels,
    tokenizer_settings.TokenizerSettings(do_lower_case=False),
    7,
    "truncate",
  ).write(str(tmp_path))
  bert = text_model.load_model(str(tmp_path))
  batch = bert.tokenizer(["a b c d e f g h", "a"])
  assert batch["input_ids"].shape == [2, 7]
  assert tf.function(bert.model)(**batch).shape == [2, 3]
  assert bert.labels == labels
  assert not bert.tokenizer.tokenizer.basic_tokenizer.do_lower_case


def test_a_vocabulary_with_capitals_is_not_lower_cased(folder):
  def is_lower_casing():
    tokenizer = text_model.load_model(folder).tokenizer.tokenizer
    return tokenizer.basic_tokenizer.do_lower_case

  assert is_lower_casing()
  path = os.path.join(folder, "vocab.txt")
  with open(path, encoding="utf-8") as reader:
    tokens = reader.read().split()
  capitals = [token if "[" in token else token.upper() for token in tokens]
  with open(path, "w", encoding="utf-8") as writer:
    writer.write("\n".join(capitals))
  assert not is_lower_casing()
  # What the folder says goes before what the vocabulary looks like.
  tokenizer_settings.TokenizerSettings(do_lower_case=True).write(folder)
  assert is_lower_casing()


def test_mistakes_are_explained(folder):
  bert = text_model.load_model(folder)
  for text in (7, ("a", "b", "c"), (), ("a", 7), b"a"):
    with pytest.raises(UserError, match=r"texts\[1\] is .*a tuple of two"):
      bert.tokenizer(["a", text])
  for name, message in [
    (heads.SINGLE_LABEL, "no classifier.json"),
    (heads.SPAN, "bert_model.ckpt lacks 2 of"),
    ("spam", "not the name of a head"),
  ]:
    with pytest.raises(UserError, match=message):
      text_model.load_model(folder, head=name)
  with pytest.raises(UserError, match="^model=/nowhere: "):
    text_model.load_model("/nowhere")
