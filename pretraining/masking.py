"""Masks for masked LM (paper, sections 3.1 and A.1), many rows at once.

The same code draws masks when records are made and when training draws new
masks in each epoch. It works on arrays of rows, because a loop over tokens
would take most of the time of making records.

A masking rule is decided in two places: `Masker.mask_rows` says which tokens
are predicted, and `Masker._replace_tokens` what the model sees instead.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from data import tokenizer_settings
from errors import UserError


class Vocabulary(NamedTuple):
  """The facts about a vocabulary that masking depends on.

  Attributes:
    cls_id: Id of `[CLS]`.
    sep_id: Id of `[SEP]`.
    mask_id: Id of `[MASK]`.
    continues_word: bool [vocab_size], whether a token begins with `##`.
    replacements: int32 [n], ids that may replace a predicted token: all tokens
      but special ones and those in brackets.
  """

  cls_id: int
  sep_id: int
  mask_id: int
  continues_word: np.ndarray
  replacements: np.ndarray

  @classmethod
  def from_tokens(
    cls,
    vocab: Mapping[str, int],
    special_tokens: tokenizer_settings.SpecialTokens = (
      tokenizer_settings.BERT_TOKENS
    ),
  ) -> Vocabulary:
    """Returns the facts about a vocabulary.

    Args:
      vocab: token -> id.
      special_tokens: Names of the special tokens, which it has.

    Raises:
      UserError: It has only tokens in brackets, such as `[PAD]`.
    """
    special = dataclasses.astuple(special_tokens)
    continues_word = np.zeros(max(vocab.values()) + 1, bool)
    replacements = []
    for token, token_id in vocab.items():
      if token.startswith("##"):
        continues_word[token_id] = True
      # Text contains no `[PAD]`, `[unused5]` and the like.
      is_bracketed = len(token) > 2 and token[0] == "[" and token[-1] == "]"
      if token and not is_bracketed and token not in special:
        replacements.append(token_id)
    if not replacements:
      raise UserError(
        "The vocabulary has no words, only tokens in brackets such as [MASK]."
      )
    return cls(
      vocab[special_tokens.cls],
      vocab[special_tokens.sep],
      vocab[special_tokens.mask],
      continues_word,
      np.array(replacements, np.int32),
    )


@dataclasses.dataclass(frozen=True)
class MaskingSettings:
  """The rule by which rows are masked.

  Each field is a flag of the same name, and is stored with the records.

  Attributes:
    max_predictions_per_seq: Maximum number of tokens to predict per row.
    masked_lm_prob: Fraction of tokens to predict, at least one per row.
    do_whole_word_mask: Whether to mask all tokens of a word or none. A word
      that would exceed the number of tokens to predict is skipped.
  """

  max_predictions_per_seq: int = 20
  masked_lm_prob: float = 0.15
  do_whole_word_mask: bool = False


# The features that masks change, in the order of `MaskedRows`.
MASKED_FEATURES = (
  "input_ids",
  "masked_lm_positions",
  "masked_lm_ids",
  "masked_lm_weights",
)


class MaskedRows(NamedTuple):
  """Rows with masks, and the tokens to predict.

  Attributes:
    input_ids: int32 [rows, seq_length].
    positions: int32 [rows, max_predictions_per_seq], columns of the tokens to
      predict, in ascending order, padded with 0.
    label_ids: int32 of the same shape, the ids before masking, padded with 0.
    weights: float32 of the same shape, 1 for a prediction and 0 for padding.
  """

  input_ids: np.ndarray
  positions: np.ndarray
  label_ids: np.ndarray
  weights: np.ndarray


@dataclasses.dataclass(frozen=True)
class Masker:
  """Draws masks for rows of token ids."""

  vocabulary: Vocabulary
  settings: MaskingSettings

  def mask_rows(
    self,
    input_ids: np.ndarray,
    input_mask: np.ndarray,
    continues_word: np.ndarray | None,
    rng: np.random.Generator,
  ) -> MaskedRows:
    """Returns the rows with a random choice of tokens masked.

    Args:
      input_ids: int32 [rows, seq_length].
      input_mask: bool or int of the same shape, 0 for padding.
      continues_word: bool or int of the same shape, whether a token belongs to
        the word before it. None if tokens that begin with `##` do.
      rng: Source of all random numbers.
    """
    is_candidate = self._find_candidates(input_ids, input_mask)
    num_to_predict = self._count_tokens_to_predict(input_mask)
    if self.settings.do_whole_word_mask:
      is_start = self._find_word_starts(input_ids, is_candidate, continues_word)
      words = _measure_words(is_start, is_candidate)
      is_chosen = _choose_words(is_start, words.lengths, num_to_predict, rng)
      # A token is chosen if the first token of its word is.
      is_chosen = is_chosen.ravel()[words.starts] & is_candidate
    else:
      word_lengths = is_candidate.astype(np.int32)
      is_chosen = _choose_words(is_candidate, word_lengths, num_to_predict, rng)
    masked_ids = self._replace_tokens(input_ids, is_chosen, rng)
    return self._collect_predictions(masked_ids, input_ids, is_chosen)

  def _find_candidates(
    self, input_ids: np.ndarray, input_mask: np.ndarray
  ) -> np.ndarray:
    """Returns which tokens may be predicted, bool [rows, seq_length]."""
    is_cls = input_ids == self.vocabulary.cls_id
    is_sep = input_ids == self.vocabulary.sep_id
    return (input_mask != 0) & ~is_cls & ~is_sep

  def _count_tokens_to_predict(self, input_mask: np.ndarray) -> np.ndarray:
    """Returns the maximum number of predictions of each row, int32 [rows]."""
    num_tokens = np.count_nonzero(input_mask, axis=1)
    wanted = np.rint(num_tokens * self.settings.masked_lm_prob)
    most = self.settings.max_predictions_per_seq
    return np.clip(wanted, 1, most).astype(np.int32)

  def _find_word_starts(
    self,
    input_ids: np.ndarray,
    is_candidate: np.ndarray,
    continues_word: np.ndarray | None,
  ) -> np.ndarray:
    """Returns which tokens begin a word, bool [rows, seq_length].

    input_ids         [CLS] ##s un ##able cat [SEP] the [SEP]
    is_candidate        0    1   1   1     1    0    1    0
    continues_word      0    1   0   1     0    0    0    0
    result              0    1   1   0     1    0    1    0
    """
    if continues_word is None:
      continues_word = self.vocabulary.continues_word[input_ids]
    # The first token after `[CLS]` or `[SEP]` begins a word in any case.
    follows_candidate = is_candidate[:, :-1]
    continues = (continues_word[:, 1:] != 0) & follows_candidate
    is_start = is_candidate.copy()
    is_start[:, 1:] &= ~continues
    return is_start

  def _replace_tokens(
    self,
    input_ids: np.ndarray,
    is_chosen: np.ndarray,
    rng: np.random.Generator,
  ) -> np.ndarray:
    """Returns the ids with 80 % of the chosen tokens replaced by `[MASK]`.

    Of the others, half are replaced by a random token, and half are kept.
    """
    labels = input_ids[is_chosen]
    # A random token may be the old one, as in the original code.
    draws = rng.random(len(labels), dtype=np.float32)
    replacements = self.vocabulary.replacements
    random_ids = replacements[rng.integers(len(replacements), size=len(labels))]
    other_ids = np.where(draws < 0.9, random_ids, labels)
    masked_ids = input_ids.copy()
    masked_ids[is_chosen] = np.where(
      draws < 0.8, self.vocabulary.mask_id, other_ids
    )
    return masked_ids

  def _collect_predictions(
    self,
    masked_ids: np.ndarray,
    input_ids: np.ndarray,
    is_chosen: np.ndarray,
  ) -> MaskedRows:
    """Returns the masked rows, with the places and ids of the chosen tokens.

    is_chosen [[0, 1, 0, 1],    rows      0 0 1
               [0, 0, 1, 0]]    columns   1 3 2
                                slots     0 1 0
    positions [[1, 3], [2, 0]]
    """
    # Rows are sorted, so predictions of a row are numbered from its first.
    rows, columns = np.nonzero(is_chosen)
    num_chosen = np.count_nonzero(is_chosen, axis=1)
    first_of_row = np.cumsum(num_chosen) - num_chosen
    slots = np.arange(len(rows)) - np.repeat(first_of_row, num_chosen)

    shape = len(input_ids), self.settings.max_predictions_per_seq
    positions = np.zeros(shape, np.int32)
    label_ids = np.zeros(shape, np.int32)
    weights = np.zeros(shape, np.float32)
    positions[rows, slots] = columns
    label_ids[rows, slots] = input_ids[rows, columns]
    weights[rows, slots] = 1.0
    return MaskedRows(masked_ids, positions, label_ids, weights)

  def redraw_masks(
    self, features: Mapping[str, tf.Tensor], seed: tf.Tensor
  ) -> dict[str, tf.Tensor]:
    """Returns a batch of pre-training records with new masks.

    The masks of the records, if there are any, are undone first.

    Args:
      features: Batch of `input_pipeline.pretraining_dataset`. If it has
        `continues_word`, whole words are found by it.
      seed: int64 [n], numbers that decide the masks.
    """
    names = ["input_mask", *MASKED_FEATURES]
    if "continues_word" in features:
      names.append("continues_word")

    def redraw(seed, input_mask, ids, positions, label_ids, weights, *words):
      continues_word = words[0] if words else None
      unmasked_ids = undo_masks(ids, positions, label_ids, weights)
      return self.mask_rows(
        unmasked_ids, input_mask, continues_word, create_generator(seed)
      )

    inputs = [features[name] for name in names]
    output_types = [tf.int32, tf.int32, tf.int32, tf.float32]
    masked = tf.numpy_function(
      redraw, [seed, *inputs], output_types, stateful=False
    )
    result = dict(features)
    for name, value in zip(MASKED_FEATURES, masked):
      result[name] = tf.ensure_shape(value, features[name].shape)
    return result


def create_generator(seed: np.ndarray) -> np.random.Generator:
  """Returns the random generator of a seed, int64 [n]."""
  # NumPy takes no negative seeds.
  unsigned_seed = [int(number) % 2**64 for number in seed]
  return np.random.Generator(np.random.PCG64(unsigned_seed))


def undo_masks(
  input_ids: np.ndarray,
  positions: np.ndarray,
  label_ids: np.ndarray,
  weights: np.ndarray,
) -> np.ndarray:
  """Returns the ids of rows before masking; arguments as in `MaskedRows`."""
  rows, slots = np.nonzero(weights)
  columns = positions[rows, slots]
  unmasked_ids = input_ids.copy()
  unmasked_ids[rows, columns] = label_ids[rows, slots]
  return unmasked_ids


# --- The choice of words -----------------------------------------------------


class _Words(NamedTuple):
  """Words of several tokens.

  Attributes:
    starts: int64 [rows, seq_length], for each token the place of the first
      token of its word, counted over all rows. It means nothing for tokens that
      belong to no word.
    lengths: int32 of the same shape, number of tokens of each word, at the
      place of its first token; 0 elsewhere.
  """

  starts: np.ndarray
  lengths: np.ndarray


def _measure_words(is_start: np.ndarray, is_candidate: np.ndarray) -> _Words:
  """Returns the word of each token, and the lengths of words.

  places         0   1   2    3    4   5   6     7
  is_start       0   1   1    0    1   0   1     0
  is_candidate   0   1   1    1    1   0   1     0
  starts         0   1   2    2    4   4   6     6
  lengths        0   1   2    0    1   0   1     0

  Args:
    is_start: bool [rows, seq_length], whether a token begins a word.
    is_candidate: bool of the same shape, whether it belongs to a word.
  """
  places = np.arange(is_start.size)
  starts = np.maximum.accumulate(np.where(is_start.ravel(), places, 0))
  starts_of_candidates = starts[is_candidate.ravel()]
  lengths = np.bincount(starts_of_candidates, minlength=is_start.size)
  return _Words(
    starts.reshape(is_start.shape),
    lengths.astype(np.int32).reshape(is_start.shape),
  )


def _choose_words(
  is_start: np.ndarray,
  word_lengths: np.ndarray,
  num_to_predict: np.ndarray,
  rng: np.random.Generator,
) -> np.ndarray:
  """Chooses words at random, up to a number of tokens in each row.

  The words of a row are tried in random order, and each one that still fits is
  chosen. With room for 4 tokens:

      word_lengths   2  3  1  2  1      in random order
      chosen         x     x     x      3 and 2 do not fit any more

  Args:
    is_start: bool [rows, seq_length], whether a token begins a word.
    word_lengths: int32 of the same shape, number of tokens of each word, at the
      place of its first token.
    num_to_predict: int32 [rows], maximum number of tokens to choose.
    rng: Source of all random numbers.

  Returns:
    bool [rows, seq_length], whether a token begins a chosen word.
  """
  columns, is_word = _shuffle_columns(is_start, rng)
  is_chosen = np.zeros(is_start.shape, bool)
  room = num_to_predict.copy()
  all_rows = np.arange(len(is_start))[:, np.newaxis]
  # The words are tried in groups; rarely more than the first group is needed.
  group_size = 8 + int(num_to_predict.max(initial=0))
  for first in range(0, is_start.shape[1], group_size):
    group = slice(first, first + group_size)
    group_columns = columns[:, group]
    lengths = word_lengths[all_rows, group_columns]
    lengths = np.where(is_word[:, group], lengths, 0)
    is_open = lengths > 0
    while True:
      # Words are chosen up to the first that does not fit with those before
      # it. Words longer than all of the remaining room are closed, since the
      # room only shrinks; the others are tried again.
      fits = is_open & (lengths <= room[:, np.newaxis])
      sums = np.cumsum(np.where(fits, lengths, 0), axis=1)
      is_taken = fits & (sums <= room[:, np.newaxis])
      if not is_taken.any():
        break
      rows = np.nonzero(is_taken)[0]
      is_chosen[rows, group_columns[is_taken]] = True
      taken_lengths = np.where(is_taken, lengths, 0)
      room -= taken_lengths.sum(axis=1)
      is_open = fits & ~is_taken
    if not room.any():
      break
  return is_chosen


def _shuffle_columns(
  is_start: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the columns of the words of each row, in random order.

  Each column becomes a key, a random number that has the column in its last
  bits. Sorting the keys brings the columns into random order:

      is_start   0    1    1    0    1
      keys       ~~   5|1  2|2  ~~   3|4     ~~ = largest number
      sorted     2|2  3|4  5|1  ~~   ~~
      columns    2    4    1

  Returns:
    int32 and bool of the shape of `is_start`: the columns, and whether there is
    one.
  """
  seq_length = is_start.shape[1]
  bits = max(1, (seq_length - 1).bit_length())
  no_word = np.uint32(2**32 - 1)
  keys = rng.integers(2 ** (32 - bits), size=is_start.shape, dtype=np.uint32)
  keys = (keys << np.uint32(bits)) | np.arange(seq_length, dtype=np.uint32)
  keys = np.where(is_start, keys, no_word)
  keys.sort(axis=1)
  column_bits = keys & np.uint32(2**bits - 1)
  # Keys without a word may have a column out of range.
  columns = np.minimum(column_bits.astype(np.int32), seq_length - 1)
  return columns, keys != no_word
