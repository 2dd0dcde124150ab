"""Tests of masking.py."""

import builders
import numpy as np
import pytest
import tensorflow as tf

from pretraining import masking

VOCABULARY = masking.Vocabulary.from_tokens(builders.VOCAB)
SPECIAL = [i for token, i in builders.VOCAB.items() if token.startswith("[")]


def random_rows(rng, num_rows, seq_length=40):
  """Rows `[CLS] a [SEP] b [SEP]` of words and pieces, and their masks."""
  ids = np.zeros([num_rows, seq_length], np.int32)
  mask = np.zeros([num_rows, seq_length], np.int32)
  for row in range(num_rows):
    length = rng.integers(5, seq_length + 1)
    ids[row, :length] = rng.integers(6, len(builders.VOCAB), length)
    ids[row, 0] = VOCABULARY.cls_id
    ids[row, [rng.integers(2, length - 2), length - 1]] = VOCABULARY.sep_id
    mask[row, :length] = 1
  return ids, mask


def words_of(ids):
  """The places of each word of a row, told by a plain loop."""
  words, is_after_word = [], False
  for place, id_ in enumerate(ids):
    if id_ in SPECIAL:
      is_after_word = False
    elif is_after_word and builders.TOKENS[id_].startswith("##"):
      words[-1].append(place)
    else:
      words.append([place])
      is_after_word = True
  return words


@pytest.mark.parametrize("whole_words", [False, True])
def test_masks(whole_words):
  rng = np.random.default_rng(0)
  ids, input_mask = random_rows(rng, 3000)
  masked = masking.Masking(VOCABULARY, 0.15, 5, whole_words).mask(
    ids, input_mask, None, rng
  )
  is_chosen = np.zeros(ids.shape, bool)
  for row in range(len(ids)):
    count = int(masked.weights[row].sum())
    positions = masked.positions[row, :count]
    wanted = min(5, max(1, round(int(input_mask[row].sum()) * 0.15)))
    assert masked.weights[row].tolist() == [1.0] * count + [0.0] * (5 - count)
    assert not masked.positions[row, count:].any()
    assert not masked.label_ids[row, count:].any()
    assert (np.diff(positions) > 0).all()
    assert (masked.label_ids[row, :count] == ids[row, positions]).all()
    is_chosen[row, positions] = True
    words = (
      words_of(ids[row])
      if whole_words
      else [[place] for word in words_of(ids[row]) for place in word]
    )
    taken = [word for word in words if is_chosen[row, word[0]]]
    assert sorted(sum(taken, [])) == positions.tolist()
    assert count <= wanted
    # What was passed over did not fit.
    assert all(
      len(word) > wanted - count for word in words if word not in taken
    )
  assert (masked.input_ids == ids)[~is_chosen].all()
  became, labels = masked.input_ids[is_chosen], ids[is_chosen]
  is_mask = became == VOCABULARY.mask_id
  assert not np.isin(labels, SPECIAL).any()
  assert not np.isin(became[~is_mask], SPECIAL).any()
  assert abs(is_mask.mean() - 0.8) < 0.015
  # A random word is the old one now and then: the vocabulary is tiny.
  num_words = len(builders.VOCAB) - len(SPECIAL)
  assert abs((became == labels).mean() - 0.1 - 0.1 / num_words) < 0.015


def test_every_place_is_masked_equally_often():
  ids = np.full([20_000, 9], builders.VOCAB["the"], np.int32)
  masked = masking.Masking(VOCABULARY, 0.3, 9).mask(
    ids, np.ones_like(ids), None, np.random.default_rng(0)
  )
  counts = np.bincount(masked.positions[masked.weights > 0], minlength=9)
  np.testing.assert_allclose(counts / 20_000, 3 / 9, atol=0.015)


def test_words_of_several_tokens_are_told_by_argument():
  ids = np.tile(
    np.array([[VOCABULARY.cls_id, *[builders.VOCAB["the"]] * 8]], np.int32),
    [500, 1],
  )
  continues = np.tile(
    [[False, False, True] + [False, True, True] * 2], [500, 1]
  )
  masked = masking.Masking(VOCABULARY, 0.35, 9, True).mask(
    ids, np.ones_like(ids), continues, np.random.default_rng(0)
  )
  rows = {
    tuple(positions[: int(weights.sum())])
    for positions, weights in zip(masked.positions.tolist(), masked.weights)
  }
  assert rows == {(1, 2), (3, 4, 5), (6, 7, 8)}


def test_masks_drawn_anew_are_of_the_same_tokens():
  rng = np.random.default_rng(0)
  ids, input_mask = random_rows(rng, 64)
  given = masking.Masking(VOCABULARY, 0.5, 20).mask(ids, input_mask, None, rng)
  features = {
    "input_ids": given.input_ids,
    "input_mask": input_mask,
    "masked_lm_positions": given.positions,
    "masked_lm_ids": given.label_ids,
    "masked_lm_weights": given.weights,
  }
  features = {name: tf.constant(value) for name, value in features.items()}
  masker = masking.Masking(VOCABULARY, 0.15, 20)
  draws = []
  for number in (1, 1, 2):
    anew = masker.mask_anew(features, tf.constant([7, number], tf.int64))
    draws.append(anew["input_ids"].numpy())
    rows, slots = np.nonzero(anew["masked_lm_weights"].numpy())
    columns = anew["masked_lm_positions"].numpy()[rows, slots]
    restored = draws[-1].copy()
    restored[rows, columns] = anew["masked_lm_ids"].numpy()[rows, slots]
    np.testing.assert_array_equal(restored, ids)
    assert len(rows) < 0.2 * input_mask.sum()
  assert (draws[0] == draws[1]).all() and (draws[0] != draws[2]).any()
