"""Tests of tasks/attribution.py."""

import builders
import numpy as np
import pytest
import tensorflow as tf

from data import encoding
from data import tokenizer_settings
import heads
import modeling
from tasks import attribution
from tasks import classifier_config


class WordWeights:
  """A linear model: each token adds its weights to the logits."""

  def __init__(self, weights):
    """Takes token -> weights of the logits."""
    num_outputs = len(next(iter(weights.values())))
    self._weights = np.zeros([len(builders.VOCAB), num_outputs], np.float32)
    for token, row in weights.items():
      self._weights[builders.VOCAB[token]] = row
    self.bert = self

  def embeddings(self, input_ids, token_type_ids, position_ids, dropout_seed):
    return tf.one_hot(input_ids, len(builders.VOCAB))

  def __call__(self, embeddings, input_mask, token_type_ids):
    is_token = tf.cast(input_mask, tf.float32)[..., tf.newaxis]
    return tf.reduce_sum(embeddings * is_token, axis=1) @ self._weights


def create_classifier(kind, labels, long_text=encoding.TRUNCATE, length=16):
  return classifier_config.ClassifierConfig(
    kind, labels, tokenizer_settings.TokenizerSettings(), length, long_text
  )


def show(texts, words_of_texts):
  """Returns the words with a share other than 0, and the share."""
  return [
    [(text[w.begin : w.end], w.share) for w in words if w.share]
    for text, words in zip(texts, words_of_texts)
  ]


def test_the_words_that_decide_are_found(tokenizer):
  model = WordWeights({"good": [-3, 3], "bad": [1, -1], "##aff": [0, 2]})
  classifier = create_classifier(heads.SINGLE_LABEL, ("no", "yes"))
  pair = ("The Good dog was UNAFFABLE!", "a bad cat")
  single = ("a cat sat",)
  words = attribution.attribute_words(
    model, tokenizer, classifier, [pair, single], [1, 0]
  )
  # A token that raises both logits does not change the decision.
  assert show(pair, words[0]) == [
    [("Good", 3.0), ("UNAFFABLE", 1.0)],
    [("bad", -1.0)],
  ]
  assert len(words[0][0]) == 6 and show(single, words[1]) == [[]]


@pytest.mark.parametrize(
  "long_text, num_words, share",
  [
    (encoding.TRUNCATE, 6, 0.0),
    (encoding.HEAD_TAIL, 6, 2.0),
    # It is in the last of three windows.
    (encoding.SLIDING_WINDOW, 12, 2.0 / 3),
  ],
)
def test_long_texts_are_read_like_the_classifier_does(
  tokenizer, long_text, num_words, share
):
  classifier = create_classifier(heads.REGRESSION, (), long_text, length=8)
  text = "the " * 11 + "bird"
  [[words]] = attribution.attribute_words(
    WordWeights({"bird": [2.0]}), tokenizer, classifier, [(text,)], [0]
  )
  assert len(words) == num_words
  last = words[-1]
  assert sum(word.share for word in words) == pytest.approx(share)
  assert (text[last.begin : last.end] == "bird") == (share > 0)


def test_a_share_is_the_slope_along_the_embedding(tokenizer):
  model = modeling.BertForSequenceClassification(
    builders.tiny_config(initializer_range=0.5), 3, seed=2
  )
  input_ids = np.array([[3, 7, 9, 4, 0], [3, 12, 15, 16, 4]], np.int32)
  batch = {
    "input_ids": input_ids,
    "input_mask": (input_ids > 0).astype(np.int32),
    "token_type_ids": np.zeros_like(input_ids),
  }
  outputs = np.array([2, 0])
  shares = attribution.attribute_tokens(
    model, batch, outputs, heads.MULTI_LABEL
  )
  embeddings = model.bert.embeddings(
    input_ids, batch["token_type_ids"], None, None
  )
  assert np.all(shares[0, :4]) and np.abs(shares[0, 4]) < 1e-6  # padding
  for place in range(4):
    scales = np.ones([2, 5, 1], np.float32)
    scores = []
    for step in (-0.01, 0.01):
      scales[:, place] = 1.0 + step
      logits = model(
        embeddings * scales, batch["input_mask"], batch["token_type_ids"]
      ).numpy()
      scores.append(logits[[0, 1], outputs])
    slope = (scores[1] - scores[0]) / 0.02
    np.testing.assert_allclose(shares[:, place], slope, rtol=0.02, atol=2e-3)


def test_a_model_on_several_devices_is_explained():
  with builders.two_devices().scope():
    model = modeling.BertForSequenceClassification(
      builders.tiny_config(), 2, recompute_activations=True
    )
  ids = np.array([[3, 7, 9, 4]], np.int32)
  batch = {
    "input_ids": ids,
    "input_mask": np.ones_like(ids),
    "token_type_ids": np.zeros_like(ids),
  }
  shares = attribution.attribute_tokens(
    model, batch, np.array([1]), heads.SINGLE_LABEL
  )
  assert np.all(shares)
