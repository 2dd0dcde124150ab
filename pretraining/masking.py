"""Masks for masked LM (paper, sections 3.1 and A.1), many rows at once.

One rule for both times at which masks are drawn: when records are made, and
when training draws them anew in each epoch. It works on arrays of rows,
because a loop over tokens would be most of the time that making records takes.
"""

from collections.abc import Mapping
import dataclasses
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from errors import UserError


class Vocabulary(NamedTuple):
  """What masking needs to know of a vocabulary.

  Attributes:
    cls_id: id of `[CLS]`.
    sep_id: id of `[SEP]`.
    mask_id: id of `[MASK]`.
    continues_word: bool [vocab_size], whether the token is a `##` piece.
    replacements: int32 [n], the ids that a masked token may turn into: those
      of words and pieces, not of `[...]`.
  """

  cls_id: int
  sep_id: int
  mask_id: int
  continues_word: np.ndarray
  replacements: np.ndarray

  @classmethod
  def from_tokens(cls, vocab: Mapping[str, int]) -> "Vocabulary":
    """Returns the vocabulary of a dictionary token -> id.

    Raises:
      UserError: it holds nothing but tokens such as `[PAD]`.
    """
    continues_word = np.zeros(max(vocab.values()) + 1, bool)
    continues_word[
      [id_ for token, id_ in vocab.items() if token.startswith("##")]
    ] = True
    # `[PAD]`, `[unused5]` and the like are not words that text could hold.
    replacements = [
      id_
      for token, id_ in vocab.items()
      if token and not (len(token) > 2 and token[0] == "[" and token[-1] == "]")
    ]
    if not replacements:
      raise UserError(
        "The vocabulary holds no words, only tokens in brackets such as [MASK]."
      )
    return cls(
      vocab["[CLS]"],
      vocab["[SEP]"],
      vocab["[MASK]"],
      continues_word,
      np.array(replacements, np.int32),
    )


class Masked(NamedTuple):
  """Rows with masks, and what stood there.

  Attributes:
    input_ids: int32 [rows, seq_length].
    positions: int32 [rows, max_predictions_per_seq], ascending, then 0.
    label_ids: the same, the ids that stood at the positions, then 0.
    weights: float32, the same, 1 for a prediction, then 0.
  """

  input_ids: np.ndarray
  positions: np.ndarray
  label_ids: np.ndarray
  weights: np.ndarray


@dataclasses.dataclass(frozen=True)
class Masking:
  """How rows are masked.

  Attributes:
    vocabulary: the vocabulary of the ids.
    masked_lm_prob: share of the tokens to predict; at least one of a row.
    max_predictions_per_seq: the most tokens to predict.
    do_whole_word_mask: whether words are masked whole; a word that would be
      one token too many is passed over.
  """

  vocabulary: Vocabulary
  masked_lm_prob: float
  max_predictions_per_seq: int
  do_whole_word_mask: bool = False

  def mask(
    self,
    input_ids: np.ndarray,
    input_mask: np.ndarray,
    continues_word: np.ndarray | None,
    rng: np.random.Generator,
  ) -> Masked:
    """Masks rows: of the tokens to predict, 80 % become `[MASK]`, 10 % a
    random word, and 10 % stay.

    Args:
      input_ids: int32 [rows, seq_length].
      input_mask: bool or int, the same; 0 where there is padding.
      continues_word: bool or int, the same, whether a token belongs to the
        word before it; None to know it by the `##`.
      rng: draws everything.
    """
    vocabulary = self.vocabulary
    candidates = (
      (input_mask != 0)
      & (input_ids != vocabulary.cls_id)
      & (input_ids != vocabulary.sep_id)
    )
    starts = candidates
    if self.do_whole_word_mask:
      if continues_word is None:
        continues_word = vocabulary.continues_word[input_ids]
      # The first token after `[CLS]` or `[SEP]` begins a word, whatever it is.
      starts = candidates.copy()
      starts[:, 1:] &= ~((continues_word[:, 1:] != 0) & candidates[:, :-1])
    num_tokens = np.count_nonzero(input_mask, axis=1)
    num_to_predict = np.clip(
      np.rint(num_tokens * self.masked_lm_prob), 1, self.max_predictions_per_seq
    ).astype(np.int32)
    chosen = _choose_words(starts, candidates, num_to_predict, rng)

    rows, columns = np.nonzero(chosen)
    num_chosen = np.count_nonzero(chosen, axis=1)
    slots = np.arange(len(rows)) - np.repeat(
      np.cumsum(num_chosen) - num_chosen, num_chosen
    )
    shape = len(input_ids), self.max_predictions_per_seq
    positions, label_ids = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    weights = np.zeros(shape, np.float32)
    labels = input_ids[rows, columns]
    positions[rows, slots] = columns
    label_ids[rows, slots] = labels
    weights[rows, slots] = 1.0

    draws = rng.random(len(rows), dtype=np.float32)
    random_words = vocabulary.replacements[
      rng.integers(len(vocabulary.replacements), size=len(rows))
    ]
    masked_ids = input_ids.copy()
    masked_ids[rows, columns] = np.where(
      draws < 0.8,
      vocabulary.mask_id,
      np.where(draws < 0.9, random_words, labels),
    )
    return Masked(masked_ids, positions, label_ids, weights)

  def mask_anew(
    self, features: Mapping[str, tf.Tensor], seed: tf.Tensor
  ) -> dict[str, tf.Tensor]:
    """Draws other masks for a batch of pre-training records.

    The tokens are put back from `masked_lm_ids` first, so the records may hold
    any masks, or none.

    Args:
      features: of a batch, as `input_pipeline.pretraining_dataset` has them.
        With whole words, `continues_word` is used where it is given.
      seed: int64 [n], any numbers; the masks are a function of them.
    """
    names = (
      "input_ids",
      "input_mask",
      "masked_lm_positions",
      "masked_lm_ids",
      "masked_lm_weights",
    )
    given = [features[name] for name in names]
    if "continues_word" in features:
      given.append(features["continues_word"])

    def in_numpy(
      seed,
      input_ids,
      input_mask,
      positions,
      label_ids,
      weights,
      continues_word=None,
    ):
      rng = np.random.Generator(
        np.random.PCG64([int(number) % 2**64 for number in seed])
      )
      rows, slots = np.nonzero(weights)
      tokens = input_ids.copy()
      tokens[rows, positions[rows, slots]] = label_ids[rows, slots]
      return self.mask(tokens, input_mask, continues_word, rng)

    masked = Masked(
      *tf.numpy_function(
        in_numpy, [seed, *given], [tf.int32] * 3 + [tf.float32], stateful=False
      )
    )
    result = dict(features)
    for name, value in (
      ("input_ids", masked.input_ids),
      ("masked_lm_positions", masked.positions),
      ("masked_lm_ids", masked.label_ids),
      ("masked_lm_weights", masked.weights),
    ):
      result[name] = tf.ensure_shape(value, features[name].shape)
    return result


def _choose_words(starts, candidates, num_to_predict, rng) -> np.ndarray:
  """Chooses whole words at random, up to a number of tokens in each row.

  The words of a row are gone through in random order, and one that still fits
  is taken.

  Args:
    starts: bool [rows, seq_length], where words begin.
    candidates: bool, the same, the tokens that belong to words.
    num_to_predict: int32 [rows], the most tokens to choose.
    rng: draws everything.

  Returns:
    bool [rows, seq_length].
  """
  words_are_tokens = starts is candidates
  if words_are_tokens:
    lengths = starts.astype(np.int32)
  else:
    # The place where the word of each token starts, counted over all rows.
    places = np.arange(starts.size)
    word_starts = np.maximum.accumulate(np.where(starts.ravel(), places, 0))
    lengths = (
      np.bincount(word_starts[candidates.ravel()], minlength=starts.size)
      .astype(np.int32)
      .reshape(starts.shape)
    )
  columns, is_word = _shuffled(starts, rng)
  chosen = np.zeros(starts.shape, bool)
  room = num_to_predict.copy()
  all_rows = np.arange(len(starts))[:, np.newaxis]
  # Seldom more words than the first of these are needed.
  stride = 8 + int(num_to_predict.max(initial=0))
  for first in range(0, starts.shape[1], stride):
    some = columns[:, first : first + stride]
    word_lengths = np.where(
      is_word[:, first : first + stride], lengths[all_rows, some], 0
    )
    open_words = word_lengths > 0
    while True:
      # The words that fit go in as long as their sum does. The first that does
      # not is out for good, since room only shrinks; the rest are looked at
      # again.
      fits = open_words & (word_lengths <= room[:, np.newaxis])
      total = np.cumsum(np.where(fits, word_lengths, 0), axis=1)
      taken = fits & (total <= room[:, np.newaxis])
      if not taken.any():
        break
      chosen[np.nonzero(taken)[0], some[taken]] = True
      room -= np.where(taken, word_lengths, 0).sum(axis=1, dtype=np.int32)
      open_words = fits & ~taken
    if not room.any():
      break
  if words_are_tokens:
    return chosen
  return chosen.ravel()[word_starts].reshape(starts.shape) & candidates


def _shuffled(starts, rng) -> tuple[np.ndarray, np.ndarray]:
  """Returns the columns of the True of each row in random order.

  Those come first: where they are is True in the second array returned, bool,
  of the shape of `starts`, as the first, int32.
  """
  # A random number with the column in its last bits: sorting brings the
  # columns into random order.
  seq_length = starts.shape[1]
  bits = max(1, (seq_length - 1).bit_length())
  nothing = np.uint32(2**32 - 1)
  keys = rng.integers(2 ** (32 - bits), size=starts.shape, dtype=np.uint32)
  keys = (keys << np.uint32(bits)) | np.arange(seq_length, dtype=np.uint32)
  keys = np.where(starts, keys, nothing)
  keys.sort(axis=1)
  columns = (keys & np.uint32(2**bits - 1)).astype(np.int32)
  return np.minimum(columns, seq_length - 1), keys != nothing
