"""Tests of pretraining/altered_copies.py."""

import builders
import numpy as np
import pytest
import tensorflow as tf

from pretraining import altered_copies
from pretraining import masking
from pretraining import record_formats

VOCABULARY = masking.Vocabulary.from_tokens(builders.VOCAB)
CLS, SEP = VOCABULARY.cls_id, VOCABULARY.sep_id
SEQ_LENGTH = 96


def create_rows(num_rows, lengths=None, seq_length=SEQ_LENGTH):
  """Returns rows whose tokens are all different, and their masks."""
  ids = np.zeros([num_rows, seq_length], np.int32)
  mask = np.zeros([num_rows, seq_length], np.int32)
  for row in range(num_rows):
    length = lengths[row] if lengths else seq_length - 2
    ids[row, 0], ids[row, length + 1] = CLS, SEP
    ids[row, 1 : length + 1] = 1000 * (row + 1) + np.arange(length)
    mask[row, : length + 2] = 1
  return ids, mask


def draw(ids, mask, continues_word=None, seed=1):
  if continues_word is None:
    continues_word = np.zeros(ids.shape, bool)
  return altered_copies.pair_rows(
    ids, mask, continues_word, VOCABULARY, np.random.default_rng(seed)
  )


def read_pairs(paired):
  """Yields the row, the label and both parts of each pair."""
  for row, ids in enumerate(paired.input_ids):
    num_tokens = np.count_nonzero(paired.input_mask[row])
    assert not ids[num_tokens:].any()
    starts = paired.sequence_starts[row].tolist()
    ends = [*starts[1:], num_tokens]
    for number, (start, end) in enumerate(zip(starts, ends)):
      pair = ids[start:end].tolist()
      middle = pair.index(SEP)
      assert pair[0] == CLS and pair[-1] == SEP
      segments = paired.segment_ids[row, start:end]
      np.testing.assert_array_equal(
        segments, [0] * (middle + 1) + [1] * (end - start - middle - 1)
      )
      label = int(paired.next_sentence_labels[row, number])
      yield row, label, pair[1:middle], pair[middle + 1 : -1]


def test_half_of_the_second_parts_are_altered_copies_of_the_first():
  num_rows = 200
  pairs = list(read_pairs(draw(*create_rows(num_rows))))
  assert len(pairs) == num_rows * altered_copies.NUM_PAIRS
  shares, num_moved = [], 0
  for row, label, first, second in pairs:
    steps = np.diff(first)
    assert (steps == 1).all() and first[0] // 1000 == row + 1
    assert second
    if label:
      assert second[0] // 1000 != row + 1
    else:
      assert set(second) <= set(first)
      shares.append(len(second) / len(first))
    # The order stays, but for an end that has moved to the front.
    num_breaks = np.count_nonzero(np.diff(second) < 0)
    assert num_breaks <= 1
    num_moved += num_breaks
  assert 0.4 < len(shares) / len(pairs) < 0.6
  assert min(shares) < 0.3 and max(shares) == 1.0
  assert 0.25 < num_moved / len(pairs) < 0.4  # few are moved by no place
  # The lengths do not tell which ones are copies.
  means = [
    np.mean([len(second) for _, label, _, second in pairs if label == wanted])
    for wanted in (0, 1)
  ]
  assert abs(means[0] - means[1]) < 1.0
  assert {len(first) for _, _, first, _ in pairs} == {22, 14, 6}


def test_words_of_several_tokens_stay_together():
  ids, mask = create_rows(50)
  continues_word = np.zeros(ids.shape, bool)
  continues_word[:, 2::3] = True  # words of 3 tokens: columns 1 2, 3 4 5, ...
  continues_word[:, 3::3] = True
  continues_word[:, 1::3] = False
  paired = draw(ids, mask, continues_word)
  num_checked = 0
  for _, label, first, second in read_pairs(paired):
    for before, token in zip(second, second[1:]):
      # Only the first word of a text can be cut.
      if token % 1000 % 3 and not label and token != first[0]:
        assert token == before + 1
        num_checked += 1
  assert num_checked > 100
  # The marks of words move with their tokens.
  is_token = paired.input_ids >= 1000
  np.testing.assert_array_equal(
    paired.continues_word[is_token], paired.input_ids[is_token] % 1000 % 3 > 0
  )


@pytest.mark.parametrize("seq_length", [altered_copies.FEWEST_TOKENS, 512])
def test_short_rows_and_texts_have_pairs(seq_length):
  lengths = [1, 2, 3, 7, 20, seq_length - 2]
  ids, mask = create_rows(len(lengths), lengths, seq_length)
  for seed in range(20):
    for row, _, first, _ in read_pairs(draw(ids, mask, seed=seed)):
      assert first[0] - 1000 * (row + 1) >= 0
      assert first[-1] - 1000 * (row + 1) < lengths[row]


def test_a_single_row_has_only_copies():
  for seed in range(20):
    assert not draw(*create_rows(1), seed=seed).next_sentence_labels.any()


@pytest.mark.parametrize("has_continues_word", [False, True])
def test_a_batch_becomes_masked_pairs(has_continues_word):
  ids, mask = create_rows(8)
  ids[ids >= 1000] = 6 + ids[ids >= 1000] % (len(builders.VOCAB) - 6)
  settings = masking.MaskingSettings(20, 0.2)
  masker = masking.Masker(VOCABULARY, settings)
  masked = masker.mask_rows(ids, mask, None, np.random.default_rng(2))
  record_format = record_formats.PretrainingFormat(
    SEQ_LENGTH,
    20,
    has_next_sentence=False,
    has_continues_word=has_continues_word,
  )
  features = dict(
    zip(masking.MASKED_FEATURES, map(tf.constant, masked)),
    input_mask=tf.constant(mask),
    segment_ids=tf.zeros_like(mask),
  )
  if has_continues_word:
    # All tokens of a row are one word, of which nothing can be missing.
    features["continues_word"] = tf.ones_like(mask)

  def redraw(*seed):
    seed = tf.constant(seed, tf.int64)
    result = altered_copies.redraw_pairs(masker, record_format, features, seed)
    return {name: value.numpy() for name, value in result.items()}

  batch = redraw(5, 3)
  spec = altered_copies.paired_format(record_format).feature_spec()
  assert list(batch) == list(spec)
  for name, feature in spec.items():
    assert batch[name].shape == (8, *feature.shape), name
  # The masks of the records are undone: without the new ones, no token is
  # hidden.
  names = masking.MASKED_FEATURES
  unmasked = masking.undo_masks(*(batch[name] for name in names))
  assert (batch["input_ids"] == VOCABULARY.mask_id).any()
  assert not (unmasked == VOCABULARY.mask_id).any()
  if has_continues_word:
    num_tokens = np.count_nonzero(batch["input_mask"], axis=1)
    assert len(set(num_tokens.tolist())) == 1
  again, other = redraw(5, 3), redraw(5, 4)
  for name, values in batch.items():
    np.testing.assert_array_equal(again[name], values, name)
  assert (other["input_ids"] != batch["input_ids"]).any()
