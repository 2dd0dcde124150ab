"""Pairs of a text and an altered copy of it, to learn to compare two texts.

Masked words teach a small model what belongs together within a text, and not
whether two texts say the same. Here, rows of running text become pairs, while
training reads them:

    row     [CLS] a b c d e f g h [SEP]
    pairs   [CLS] a b c d [SEP] c d a [SEP]      next_sentence_labels 0
            [CLS] e f g h [SEP] u w [SEP]                             1

The second part of a pair is a copy in which words are missing and the end may
have moved to the front: a copy of the first part, or of one in another row. The
head of next sentences learns to tell which. The pairs of a row are packed into
one row. CLEAR (Wu et al., 2020) alters sentences in the same ways, for a
contrastive loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from errors import UserError
from pretraining import masking
from pretraining import record_formats

# A row has long, medium and short pairs, so that all lengths are learned: the
# share of its tokens that each may take.
_SHARES_OF_ROW = (1 / 2, 1 / 3, 1 / 6)
NUM_PAIRS = len(_SHARES_OF_ROW)
# Number of special tokens of a pair: [CLS], and [SEP] twice.
_NUM_SPECIAL = 3
# A shorter row has no room for the shortest pair.
FEWEST_TOKENS = 32
# Up to this share of the words of a copy are missing.
_MOST_MISSING = 0.8
# Share of the copies whose end has moved to the front.
_MOVED = 0.4


class PairedRows(NamedTuple):
  """Packed pairs, before masking.

  Attributes:
    input_ids: int32 [rows, seq_length].
    input_mask: int32 of the same shape, 0 for padding.
    segment_ids: int32 of the same shape, 1 in the second part of each pair.
    continues_word: bool of the same shape, whether a token belongs to the word
      before it.
    sequence_starts: int32 [rows, NUM_PAIRS], first column of each pair.
    next_sentence_labels: int32 of the same shape, 0 for a copy of the first
      part, 1 for a copy of another text.
  """

  input_ids: np.ndarray
  input_mask: np.ndarray
  segment_ids: np.ndarray
  continues_word: np.ndarray
  sequence_starts: np.ndarray
  next_sentence_labels: np.ndarray


def paired_format(
  record_format: record_formats.PretrainingFormat,
) -> record_formats.PretrainingFormat:
  """Returns the format of batches of pairs that are made from records."""
  return record_format._replace(
    max_sequences=NUM_PAIRS, has_next_sentence=True, has_continues_word=False
  )


def check_settings(
  share: float, max_seq_length: int, batch_size: int, num_machines: int
) -> None:
  """Raises a UserError if a training cannot have altered copies.

  Args:
    share: Share of its steps.
    max_seq_length: Number of tokens of a record.
    batch_size: Number of records per step.
    num_machines: Number of machines that share them.
  """
  flag = f"--altered_copies_share={share:g}"
  if share == 1.0:
    raise UserError(f"{flag} must be below 1: it is about the last steps.")
  if max_seq_length < FEWEST_TOKENS:
    raise UserError(
      f"{flag} needs records of {FEWEST_TOKENS} tokens or more, but "
      f"--max_seq_length={max_seq_length}."
    )
  fewest_records = 2 * num_machines
  if batch_size < fewest_records:
    raise UserError(
      f"{flag} takes other texts from the same batch, and each machine needs "
      f"two: --train_batch_size={batch_size} must be {fewest_records} or more."
    )


def check_segments(share: float, type_vocab_size: int) -> None:
  """Raises a UserError if a model cannot be trained on altered copies.

  Args:
    share: Share of the steps that have them.
    type_vocab_size: Number of segments that the model can tell apart.
  """
  if type_vocab_size < 2:
    raise UserError(
      f"--altered_copies_share={share:g} makes pairs of two segments, but the "
      f"config of the model has a type_vocab_size of {type_vocab_size}. It "
      "cannot be trained on them."
    )


def redraw_pairs(
  masker: masking.Masker,
  record_format: record_formats.PretrainingFormat,
  features: Mapping[str, tf.Tensor],
  seed: tf.Tensor,
) -> dict[str, tf.Tensor]:
  """Returns a batch of pre-training records as masked pairs.

  Args:
    masker: Rule of the masks.
    record_format: Format of the records: running text without next sentences.
    features: Batch of `input_pipeline.pretraining_dataset`.
    seed: int64 [n], numbers that decide pairs and masks.
  """
  vocabulary = masker.vocabulary

  def redraw(seed, input_mask, *columns):
    rng = masking.create_generator(seed)
    input_ids = masking.undo_masks(*columns[:4])
    if record_format.has_continues_word:
      continues_word = columns[4] != 0
    else:
      continues_word = vocabulary.continues_word[input_ids]
    paired = pair_rows(input_ids, input_mask, continues_word, vocabulary, rng)
    masked = masker.mask_rows(
      paired.input_ids, paired.input_mask, paired.continues_word, rng
    )
    return (
      masked.input_ids,
      paired.input_mask,
      paired.segment_ids,
      masked.positions,
      masked.label_ids,
      masked.weights,
      paired.sequence_starts,
      paired.next_sentence_labels,
      np.ones(paired.next_sentence_labels.shape, np.float32),
    )

  names = ["input_mask", *masking.MASKED_FEATURES]
  if record_format.has_continues_word:
    names.append("continues_word")
  # The order of the results above is that of the format.
  spec = paired_format(record_format).feature_spec()
  types = [
    tf.int32 if feature.dtype == tf.int64 else feature.dtype
    for feature in spec.values()
  ]
  values = tf.numpy_function(
    redraw, [seed, *(features[name] for name in names)], types, stateful=False
  )
  num_rows = features["input_ids"].shape[0]
  return {
    name: tf.ensure_shape(value, [num_rows, *feature.shape])
    for (name, feature), value in zip(spec.items(), values)
  }


def pair_rows(
  input_ids: np.ndarray,
  input_mask: np.ndarray,
  continues_word: np.ndarray,
  vocabulary: masking.Vocabulary,
  rng: np.random.Generator,
) -> PairedRows:
  """Makes pairs from rows of running text.

  Args:
    input_ids: int32 [rows, seq_length], `[CLS]`, text, `[SEP]`, and padding.
    input_mask: bool or int of the same shape, 0 for padding.
    continues_word: bool of the same shape, whether a token belongs to the word
      before it.
    vocabulary: Facts about the vocabulary.
    rng: Source of all random numbers.
  """
  num_rows, seq_length = input_ids.shape
  # Everything below is about all pairs of all rows, one after the other.
  row_starts = np.repeat(np.arange(num_rows) * seq_length, NUM_PAIRS)
  starts, a_lengths = _draw_spans(input_mask, rng)
  longest = int(a_lengths.max())
  columns = np.arange(longest)
  # Places of the tokens of the first parts, in all rows as one.
  places = (row_starts + starts)[:, np.newaxis] + columns
  places = np.minimum(places, input_ids.size - 1)  # behind the first parts
  order, copy_lengths = _draw_copies(
    continues_word.ravel()[places], a_lengths, rng
  )
  copy_places = np.take_along_axis(places, order, axis=1)

  is_other, origins = _draw_origins(num_rows, rng)
  copy_places, b_lengths = copy_places[origins], copy_lengths[origins]

  # Where the pairs go:    [CLS] a a a [SEP] b b [SEP]
  #                        first               last
  lengths = a_lengths + b_lengths + _NUM_SPECIAL
  by_row = lengths.reshape(num_rows, NUM_PAIRS)
  sequence_starts = np.cumsum(by_row, axis=1) - by_row
  first = row_starts + sequence_starts.ravel()
  a_start = first + 1
  b_start = a_start + a_lengths + 1
  last = b_start + b_lengths

  new_ids = np.zeros(input_ids.size, np.int32)
  new_continues = np.zeros(input_ids.size, bool)
  segment_ids = np.zeros(input_ids.size, np.int32)
  new_ids[first] = vocabulary.cls_id
  new_ids[b_start - 1] = vocabulary.sep_id
  new_ids[last] = vocabulary.sep_id
  segment_ids[last] = 1
  parts = (
    (a_start, a_lengths, places, 0),
    (b_start, b_lengths, copy_places, 1),
  )
  for part_starts, part_lengths, sources, segment in parts:
    is_token = columns < part_lengths[:, np.newaxis]
    targets = (part_starts[:, np.newaxis] + columns)[is_token]
    new_ids[targets] = input_ids.ravel()[sources[is_token]]
    new_continues[targets] = continues_word.ravel()[sources[is_token]]
    segment_ids[targets] = segment
  new_mask = np.arange(seq_length) < by_row.sum(axis=1)[:, np.newaxis]
  shape = input_ids.shape
  return PairedRows(
    new_ids.reshape(shape),
    new_mask.astype(np.int32),
    segment_ids.reshape(shape),
    new_continues.reshape(shape),
    sequence_starts.astype(np.int32),
    is_other.reshape(num_rows, NUM_PAIRS).astype(np.int32),
  )


def _draw_spans(
  input_mask: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the first column and the length of each first part.

  They follow each other in the row from a random place on, and get shorter if
  the text of the row is short.

  Args:
    input_mask: bool or int [rows, seq_length], 0 for padding.
    rng: Source of all random numbers.

  Returns:
    int64 [rows * NUM_PAIRS] each.
  """
  seq_length = input_mask.shape[1]
  shares = np.array(_SHARES_OF_ROW)
  longest = ((shares * seq_length).astype(np.int64) - _NUM_SPECIAL) // 2
  num_tokens = np.count_nonzero(input_mask, axis=1) - 2  # [CLS] and [SEP]
  num_tokens = np.maximum(num_tokens, 1)[:, np.newaxis]
  shortened = np.maximum(longest * num_tokens // longest.sum(), 1)
  lengths = np.minimum(longest, shortened)  # [rows, NUM_PAIRS]
  room = num_tokens - lengths.sum(axis=1, keepdims=True)
  offset = (rng.random(room.shape) * (np.maximum(room, 0) + 1)).astype(np.int64)
  starts = offset + np.cumsum(lengths, axis=1) - lengths
  starts = np.minimum(starts, num_tokens - lengths)  # in a very short row
  return (starts + 1).ravel(), lengths.ravel()


def _draw_copies(
  continues_word: np.ndarray, lengths: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
  """Draws the tokens of altered copies, and their order.

  tokens     0  1  2  3  4  5        4 and 5 are one word
  is_kept    1  0  1  1  1  1        word 1 is missing
  moved      2  3  4  5  0           begins with token 2
  order      2  3  4  5  0 ...

  Args:
    continues_word: bool [texts, longest], whether a token belongs to the word
      before it.
    lengths: int64 [texts], number of tokens of each text.
    rng: Source of all random numbers.

  Returns:
    int64 [texts, longest] and [texts]: the tokens of each copy, in order, and
    how many of them there are.
  """
  columns = np.arange(continues_word.shape[1])
  lengths = lengths[:, np.newaxis]
  is_start = ~continues_word
  is_start[:, 0] = True
  words = np.cumsum(is_start, axis=1) - 1  # number of the word of each token
  shares = rng.uniform(0.0, _MOST_MISSING, lengths.shape)
  is_word_kept = rng.random(words.shape) >= shares
  is_kept = np.take_along_axis(is_word_kept, words, axis=1)
  # One word stays in any case. It is the first one if the end is moved.
  token = (rng.random(lengths.shape) * lengths).astype(np.int64)
  is_spared = words == np.take_along_axis(words, token, axis=1)
  is_kept = (is_kept | is_spared) & (columns < lengths)
  is_moved = rng.random(lengths.shape) < _MOVED
  new_first = np.where(is_moved, is_spared.argmax(axis=1)[:, np.newaxis], 0)
  keys = (columns - new_first) % lengths
  keys = np.where(is_kept, keys, len(columns))
  return np.argsort(keys, axis=1, kind="stable"), is_kept.sum(axis=1)


def _draw_origins(
  num_rows: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
  """Draws the texts that the second parts are copies of.

  Half of them are of another row, at the same place, so that the lengths do not
  tell. A single row has only its own texts.

  Returns:
    bool and int64 [num_rows * NUM_PAIRS]: whether it is another text, and the
    number of the text.
  """
  shape = num_rows, NUM_PAIRS
  is_other = rng.random(shape) < 0.5
  if num_rows == 1:
    is_other[:] = False
  distances = 1 + (rng.random(shape) * (num_rows - 1)).astype(np.int64)
  rows = np.arange(num_rows)[:, np.newaxis]
  other_rows = np.where(is_other, rows + distances, rows) % num_rows
  origins = other_rows * NUM_PAIRS + np.arange(NUM_PAIRS)
  return is_other.ravel(), origins.ravel()
