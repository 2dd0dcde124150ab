"""Tests of pretraining/masking.py."""

import builders
import numpy as np
import pytest
import tensorflow as tf

from data import tokenizer_settings
from errors import UserError
from pretraining import masking

VOCABULARY = masking.Vocabulary.from_tokens(builders.VOCAB)
SPECIAL = [i for token, i in builders.VOCAB.items() if token.startswith("[")]
CLS, SEP, MASK = VOCABULARY.cls_id, VOCABULARY.sep_id, VOCABULARY.mask_id


def create_masker(max_predictions, prob, do_whole_word_mask=False):
  settings = masking.MaskingSettings(max_predictions, prob, do_whole_word_mask)
  return masking.Masker(VOCABULARY, settings)


def create_rows(rng, num_rows, seq_length=40):
  """Returns rows `[CLS] a [SEP] b [SEP]` of random tokens, and their masks."""
  ids = np.zeros([num_rows, seq_length], np.int32)
  mask = np.zeros([num_rows, seq_length], np.int32)
  for row in range(num_rows):
    length = rng.integers(5, seq_length + 1)
    ids[row, :length] = rng.integers(6, len(builders.VOCAB), length)
    ids[row, 0] = CLS
    ids[row, [rng.integers(2, length - 2), length - 1]] = SEP
    mask[row, :length] = 1
  return ids, mask


def find_words(ids):
  """Returns the places of each word of a row, found by a plain loop."""
  words, is_after_word = [], False
  for place, token_id in enumerate(ids):
    if token_id in SPECIAL:
      is_after_word = False
    elif is_after_word and builders.TOKENS[token_id].startswith("##"):
      words[-1].append(place)
    else:
      words.append([place])
      is_after_word = True
  return words


def chosen_columns(masked):
  """Returns the columns of the predictions of each row."""
  return [
    tuple(positions[weights > 0].tolist())
    for positions, weights in zip(masked.positions, masked.weights)
  ]


# --- Vocabularies ------------------------------------------------------------


def test_facts_about_a_vocabulary():
  tokens = [
    "[PAD]",
    "[SEP]",
    "[CLS]",
    "[MASK]",
    "a",
    "##b",
    "[",
    "[]",
    "",
    "cd]",
    "[cd",
    "[c]",
  ]
  vocabulary = masking.Vocabulary.from_tokens(
    {token: number + 1 for number, token in enumerate(tokens)}
  )
  assert vocabulary.sep_id == 2
  assert vocabulary.cls_id == 3
  assert vocabulary.mask_id == 4
  assert np.flatnonzero(vocabulary.continues_word).tolist() == [6]
  assert len(vocabulary.continues_word) == 13
  # Brackets alone are words; the empty token is none.
  assert vocabulary.replacements.tolist() == [5, 6, 7, 8, 10, 11]
  assert vocabulary.replacements.dtype == np.int32


def test_special_tokens_of_other_names_are_no_replacements():
  special_tokens = tokenizer_settings.SpecialTokens(
    pad="<pad>", unk="<unk>", cls="<s>", sep="</s>", mask="<mask>"
  )
  tokens = ["<mask>", "a", "</s>", "<s>", "<pad>", "<unk>", "b"]
  vocabulary = masking.Vocabulary.from_tokens(
    {token: number for number, token in enumerate(tokens)}, special_tokens
  )
  assert (vocabulary.cls_id, vocabulary.sep_id, vocabulary.mask_id) == (3, 2, 0)
  assert vocabulary.replacements.tolist() == [1, 6]


def test_a_vocabulary_without_words_is_refused():
  special = {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "[MASK]": 3}
  with pytest.raises(UserError, match="The vocabulary has no words"):
    masking.Vocabulary.from_tokens(special)


def test_defaults_are_those_of_the_original_code():
  assert masking.MaskingSettings() == masking.MaskingSettings(20, 0.15, False)


# --- Masks -------------------------------------------------------------------


@pytest.mark.parametrize("whole_words", [False, True])
def test_predictions_are_what_the_masks_hide(whole_words):
  rng = np.random.default_rng(0)
  ids, input_mask = create_rows(rng, 3000)
  masked = create_masker(5, 0.15, whole_words).mask_rows(
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
    words = find_words(ids[row])
    if not whole_words:
      words = [[place] for word in words for place in word]
    taken = [word for word in words if is_chosen[row, word[0]]]
    assert sorted(sum(taken, [])) == positions.tolist()
    assert count <= wanted
    # Words that were skipped did not fit.
    for word in words:
      assert word in taken or len(word) > wanted - count
  assert (masked.input_ids == ids)[~is_chosen].all()
  assert masked.input_ids.dtype == masked.positions.dtype == np.int32
  assert masked.label_ids.dtype == np.int32
  assert masked.weights.dtype == np.float32


def test_tokens_become_masks_random_words_or_stay():
  rng = np.random.default_rng(0)
  ids = rng.integers(6, len(builders.VOCAB), [2000, 50], dtype=np.int32)
  original = ids.copy()
  masked = create_masker(50, 1.0).mask_rows(ids, np.ones_like(ids), None, rng)
  np.testing.assert_array_equal(ids, original)
  is_mask = masked.input_ids == MASK
  is_kept = masked.input_ids == ids
  others = masked.input_ids[~is_mask & ~is_kept]
  assert not np.isin(others, SPECIAL).any()
  assert set(others) == set(VOCABULARY.replacements)
  # A random word is the old one now and then: the vocabulary is tiny.
  num_words = len(VOCABULARY.replacements)
  assert abs(is_mask.mean() - 0.8) < 0.01
  assert abs(is_kept.mean() - 0.1 - 0.1 / num_words) < 0.01


@pytest.mark.parametrize(
  "num_tokens, prob, expected",
  [
    (9, 0.0, 1),  # at least one
    (9, 0.15, 1),
    (10, 0.15, 2),  # 1.5 and 2.5 are rounded to even numbers
    (10, 0.25, 2),
    (18, 0.15, 3),
    (40, 0.15, 4),  # max_predictions_per_seq
  ],
)
def test_number_of_predictions(num_tokens, prob, expected):
  ids = np.zeros([2, 40], np.int32)
  ids[:, :num_tokens] = builders.VOCAB["the"]
  masked = create_masker(4, prob).mask_rows(
    ids, (ids > 0).astype(np.uint8), None, np.random.default_rng(0)
  )
  assert masked.weights.sum(axis=1).tolist() == [expected] * 2


def test_special_tokens_count_but_are_not_predicted():
  ids = np.full([500, 20], SEP, np.int32)
  ids[:, 0] = CLS
  ids[:, [3, 7]] = builders.VOCAB["the"]
  # 20 tokens give 3 predictions, but there are only 2 candidates.
  masked = create_masker(4, 0.15).mask_rows(
    ids, np.ones_like(ids), None, np.random.default_rng(0)
  )
  assert set(chosen_columns(masked)) == {(3, 7)}


# With few random keys, the first columns of long rows would be preferred.
@pytest.mark.parametrize("num_rows, seq_length", [(20_000, 9), (2000, 400)])
def test_every_place_is_masked_equally_often(num_rows, seq_length):
  ids = np.full([num_rows, seq_length], builders.VOCAB["the"], np.int32)
  masked = create_masker(3, 1.0).mask_rows(
    ids, np.ones_like(ids), None, np.random.default_rng(0)
  )
  columns = masked.positions[masked.weights > 0]
  assert len(columns) == 3 * num_rows
  # Counts for each ninth of a row.
  counts = np.bincount(columns * 9 // seq_length, minlength=9)
  np.testing.assert_allclose(counts / len(columns), 1 / 9, atol=0.015)


# --- Whole words -------------------------------------------------------------


def test_given_words_are_masked_whole():
  ids = np.full([500, 9], builders.VOCAB["the"], np.int32)
  ids[:, 0] = CLS
  continues = np.tile([[0, 0, 1, 0, 1, 1, 0, 1, 1]], [500, 1])
  masked = create_masker(9, 0.35, True).mask_rows(
    ids, np.ones_like(ids), continues, np.random.default_rng(0)
  )
  assert set(chosen_columns(masked)) == {(1, 2), (3, 4, 5), (6, 7, 8)}


def test_given_words_are_ignored_if_tokens_are_masked():
  ids = np.full([500, 4], builders.VOCAB["the"], np.int32)
  masked = create_masker(1, 0.25).mask_rows(
    ids, np.ones_like(ids), np.ones_like(ids), np.random.default_rng(0)
  )
  assert set(chosen_columns(masked)) == {(0,), (1,), (2,), (3,)}


def test_the_first_token_after_a_separator_begins_a_word():
  piece = builders.VOCAB["##s"]
  ids = np.array([[CLS, piece, piece, SEP, piece, SEP, 0, 0]] * 500, np.int32)
  masked = create_masker(2, 0.3, True).mask_rows(
    ids, (ids > 0).astype(np.int32), None, np.random.default_rng(0)
  )
  assert set(chosen_columns(masked)) == {(1, 2), (4,)}


def test_a_first_token_that_continues_a_word_begins_one():
  # Rows without `[CLS]`: the word must not reach into the row before.
  ids = np.full([300, 3], builders.VOCAB["##s"], np.int32)
  masked = create_masker(3, 1.0, True).mask_rows(
    ids, np.ones_like(ids), None, np.random.default_rng(0)
  )
  assert set(chosen_columns(masked)) == {(0, 1, 2)}


@pytest.mark.parametrize("seq_length", [63, 64, 65])
def test_the_only_word_that_fits_is_found(seq_length):
  # Words of two tokens, and one of one token in the last column, in any order.
  ids = np.full([200, seq_length], builders.VOCAB["the"], np.int32)
  ids[:, 1::2] = builders.VOCAB["##s"]
  ids[:, -2:] = builders.VOCAB["cat"]
  if seq_length % 2 == 0:
    ids[:, -2:] = [CLS, builders.VOCAB["cat"]]
  else:
    ids[:, -3:-1] = [builders.VOCAB["the"], builders.VOCAB["##s"]]
  masked = create_masker(1, 0.0, True).mask_rows(
    ids, np.ones_like(ids), None, np.random.default_rng(0)
  )
  assert set(chosen_columns(masked)) == {(seq_length - 1,)}


def test_rows_of_one_token():
  ids = np.full([3, 1], builders.VOCAB["the"], np.int32)
  masked = create_masker(2, 0.15, True).mask_rows(
    ids, np.ones_like(ids), None, np.random.default_rng(0)
  )
  assert chosen_columns(masked) == [(0,)] * 3


def test_no_rows():
  ids = np.zeros([0, 7], np.int32)
  masked = create_masker(2, 0.15, True).mask_rows(
    ids, np.ones_like(ids), None, np.random.default_rng(0)
  )
  assert masked.input_ids.shape == (0, 7)
  assert masked.positions.shape == masked.weights.shape == (0, 2)


# --- New masks in training ---------------------------------------------------


@pytest.mark.parametrize("has_words", [False, True])
def test_new_masks_hide_the_same_tokens(has_words):
  rng = np.random.default_rng(0)
  ids, input_mask = create_rows(rng, 64)
  given = create_masker(20, 0.5).mask_rows(ids, input_mask, None, rng)
  features = {
    "input_ids": given.input_ids,
    "input_mask": input_mask,
    "masked_lm_positions": given.positions,
    "masked_lm_ids": given.label_ids,
    "masked_lm_weights": given.weights,
    "other": np.arange(64),
  }
  if has_words:
    # All tokens of a text are one word, which never fits.
    features["continues_word"] = np.ones_like(ids)
  features = {name: tf.constant(value) for name, value in features.items()}
  masker = create_masker(20, 0.01, do_whole_word_mask=has_words)
  draws = []
  # The last seed differs from the first in a high bit.
  for number in (1, 1, 1 + 2**40):
    redrawn = masker.redraw_masks(features, tf.constant([-7, number], tf.int64))
    assert redrawn.keys() == features.keys()
    for name in ("input_mask", "other"):
      assert redrawn[name] is features[name]
    for name, value in redrawn.items():
      assert value.shape == features[name].shape
    draws.append(redrawn["input_ids"].numpy())
    rows, slots = np.nonzero(redrawn["masked_lm_weights"].numpy())
    columns = redrawn["masked_lm_positions"].numpy()[rows, slots]
    restored = draws[-1].copy()
    restored[rows, columns] = redrawn["masked_lm_ids"].numpy()[rows, slots]
    np.testing.assert_array_equal(restored, ids)
    if has_words:
      # Texts of a single token are words of one token.
      assert len(rows) < 64 * 0.5
    else:
      assert len(rows) == 64
  assert (draws[0] == draws[1]).all()
  if not has_words:
    assert (draws[0] != draws[2]).any()
