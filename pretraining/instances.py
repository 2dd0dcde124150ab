"""Documents to pre-training records (paper, sections 3.1 and A.2).

    documents --tokenize--> TokenizedBlock --draw--> Pieces --rows--> records

All tokens of a block lie in one array, and a piece of text is a pair of places
in it. What has to be drawn one after the other, where pairs begin and end, is
a short loop over places; everything that touches tokens works on thousands of
rows at once.

    [CLS] a a a [SEP] b b [SEP] 0 0 0 0 0 0 0 0 0 0        a row of one pair
    [CLS] a a a [SEP] b b [SEP] [CLS] a [SEP] b b b [SEP] 0 0     packed: of two
"""

import bisect
import collections
from collections.abc import Callable, Iterable, Iterator, Sequence
import dataclasses
import functools
import itertools
import random
import re
from typing import NamedTuple

from absl import logging
import numpy as np

from data import serialization
from errors import UserError
from pretraining import masking
import tokenization

# How many rows are worked on at once.
_ROWS = 2048
# A document gets another target length after so many times the longest one.
# Long books would otherwise be all long or all short.
_TARGETS_PER_STRETCH = 16
# How much text is split into words at once; it takes some hundred bytes a
# character.
_SEGMENTED_CHARACTERS = 100_000
# jieba needs time that grows with the square of a run of text without
# punctuation, so longer ones are cut.
_LONG_RUN = re.compile(r"[\w+#&.%-]{2000}")
# For how many pairs of characters to remember whether they are one word; 2**18
# take about 40 MB.
_PAIRS_REMEMBERED = 2**18


class TokenizedBlock(NamedTuple):
  """The documents of a block, as ids.

  Attributes:
    ids: int32 [tokens], of all sentences, one after the other.
    continues_word: bool [tokens], whether a token belongs to the word before
      it; None to know it by the `##`.
    sentence_starts: places in `ids`; one more than there are sentences.
    document_starts: places in `sentence_starts`; one more than there are
      documents.
  """

  ids: np.ndarray
  continues_word: np.ndarray | None
  sentence_starts: list[int]
  document_starts: list[int]


class Pieces(NamedTuple):
  """What rows are made of: stretches of tokens, int64 [pieces] each.

  Attributes:
    a_starts: place of the first token of a.
    a_lengths: number of its tokens.
    b_starts: place of the first token of b; without meaning if there is none.
    b_lengths: number of its tokens; 0 throughout if there are no pairs.
    is_random_next: whether b does not follow a.
    num_tokens_cut: int, how many tokens did not fit.
  """

  a_starts: np.ndarray
  a_lengths: np.ndarray
  b_starts: np.ndarray
  b_lengths: np.ndarray
  is_random_next: np.ndarray
  num_tokens_cut: int

  def take(self, which) -> "Pieces":
    return Pieces(*(field[which] for field in self[:-1]), 0)


class Records(NamedTuple):
  """Serialized records.

  Attributes:
    content: uint8, the bytes of all, one after the other.
    lengths: int64 [records].
  """

  content: np.ndarray
  lengths: np.ndarray


@dataclasses.dataclass(frozen=True)
class Settings:
  """What decides, with the text, which records are made.

  Attributes:
    vocab_file: a vocabulary, one token a line.
    do_lower_case: whether to lower-case the text.
    max_seq_length: tokens of a row.
    max_predictions_per_seq: the most tokens of a row to predict.
    masked_lm_prob: share of the tokens to predict.
    do_whole_word_mask: whether words are masked whole.
    word_segmenter: "jieba" to find the words of Chinese with it; or "".
    word_separator: what stands between words in the text; or "".
    dupe_factor: how often to go over the text.
    short_seq_prob: chance that a stretch of a document is made into shorter
      pieces, so that the model sees short inputs too.
    next_sentence_prediction: whether to make pairs, half of them with a random
      second; if not, rows are filled with text that runs on.
    max_pieces_per_row: how many pairs (or stretches of text) share a row; 1 is
      the known format.
    seed: of everything that is drawn.
  """

  vocab_file: str
  do_lower_case: bool = True
  max_seq_length: int = 128
  max_predictions_per_seq: int = 20
  masked_lm_prob: float = 0.15
  do_whole_word_mask: bool = False
  word_segmenter: str = ""
  word_separator: str = ""
  dupe_factor: int = 10
  short_seq_prob: float = 0.1
  next_sentence_prediction: bool = True
  max_pieces_per_row: int = 1
  seed: int = 12345


class InstanceMaker:
  """Makes the records of blocks, each a function of settings and block.

  Raises:
    UserError: the vocabulary cannot be used, or a library is missing.
  """

  def __init__(self, settings: Settings):
    self.settings = settings
    self.tokenizer = tokenization.FullTokenizer(
      settings.vocab_file, settings.do_lower_case
    )
    self.masking = masking.Masking(
      masking.Vocabulary.from_tokens(self.tokenizer.vocab),
      settings.masked_lm_prob,
      settings.max_predictions_per_seq,
      settings.do_whole_word_mask,
    )
    self._are_one_word = {}  # for pairs of characters that were looked at
    self._segment_words = None
    if settings.word_segmenter == "jieba":
      self._segment_words = _jieba_segmenter()
    elif settings.word_separator:
      self._segment_words = functools.partial(
        _split_words, settings.word_separator
      )

  def make(
    self,
    block_number: Sequence[int],
    documents: Iterable[Sequence[str]],
    counts: collections.Counter,
  ) -> Iterator[tuple[Records, np.random.Generator]]:
    """Yields records, some thousands at a time, of the documents of a block.

    With them comes the generator that draws what else is to be drawn for them.

    Args:
      block_number: which block this is; all is drawn from it and the seed.
      documents: lists of sentences.
      counts: gets the numbers of what was read, made and left out.
    """
    block = self._tokenize(documents, counts)
    for duplicate in range(self.settings.dupe_factor):
      rng = np.random.Generator(
        np.random.PCG64([self.settings.seed % 2**64, duplicate, *block_number])
      )
      pieces = self._draw_pieces(block, counts, rng)
      for rows in self._rows(pieces, rng):
        yield self._records(block, *rows, counts, rng), rng

  def _tokenize(self, documents, counts) -> TokenizedBlock:
    ids, continues_word = [], []
    sentence_starts, document_starts = [0], [0]
    longest = self.settings.max_seq_length
    # Small enough that a pair can be made of one line.
    stride = longest // 4
    for document in documents:
      for sentence in document:
        if self._segment_words:
          sentence_ids, continues = self._encode_words(sentence)
          continues_word += continues
        else:
          sentence_ids = self.tokenizer.encode(sentence)
        if not sentence_ids:
          counts["sentences_without_tokens"] += 1
          continue
        counts["sentences"] += 1
        start = len(ids)
        ids += sentence_ids
        if len(sentence_ids) > longest:
          # Lest all but a row's worth be lost; a line may be a paragraph.
          counts["sentences_cut_up"] += 1
          sentence_starts.extend(range(start + stride, len(ids), stride))
        sentence_starts.append(len(ids))
      if len(sentence_starts) - 1 > document_starts[-1]:
        document_starts.append(len(sentence_starts) - 1)
        counts["documents"] += 1
    block = TokenizedBlock(
      np.array(ids, np.int32),
      np.array(continues_word, bool) if self._segment_words else None,
      sentence_starts,
      document_starts,
    )
    counts["tokens"] += len(ids)
    counts["unknown_tokens"] += int(
      np.count_nonzero(block.ids == self.tokenizer.vocab["[UNK]"])
    )
    return block

  def _encode_words(self, sentence: str) -> tuple[list[int], list[bool]]:
    """Returns ids, and which of them belong to the word before them."""
    ids, continues_word = [], []
    for start in range(0, len(sentence), _SEGMENTED_CHARACTERS):
      words = self._join_words(
        self._segment_words(sentence[start : start + _SEGMENTED_CHARACTERS])
      )
      text_ids = self.tokenizer.encode("".join(words))
      ids_of_words = list(map(self.tokenizer.encode, words))
      if list(itertools.chain(*ids_of_words)) == text_ids:
        continues_word += [
          i > 0 for word_ids in ids_of_words for i in range(len(word_ids))
        ]
      else:
        # Characters that are read otherwise beside others. Seldom, and slow.
        text_ids, offsets = self.tokenizer.encode_with_offsets("".join(words))
        numbers = np.searchsorted(
          np.cumsum(list(map(len, words))),
          [first for first, _ in offsets],
          "right",
        )
        continues_word += (np.diff(numbers, prepend=-1) == 0).tolist()
      ids += text_ids
    return ids, continues_word

  def _join_words(self, words: Sequence[str]) -> list[str]:
    """Joins words that the tokenizer does not take apart, such as `3` `D`."""
    parts = []
    for word in filter(None, words):
      if parts and self._is_one_word(parts[-1][-1][-1], word[0]):
        parts[-1].append(word)
      else:
        parts.append([word])
    return list(map("".join, parts))

  def _is_one_word(self, character: str, next_character: str) -> bool:
    pair = character + next_character
    if pair not in self._are_one_word:
      if len(self._are_one_word) >= _PAIRS_REMEMBERED:
        self._are_one_word.clear()
      self._are_one_word[pair] = len(
        self.tokenizer.basic_tokenizer.tokenize(pair)
      ) == 1 and not (character.isspace() or next_character.isspace())
    return self._are_one_word[pair]

  def _draw_pieces(self, block, counts, rng) -> Pieces:
    settings = self.settings
    scalar_rng = random.Random(int(rng.integers(2**63)))
    if settings.next_sentence_prediction:
      max_length = settings.max_seq_length - 3
      pieces = _truncate(
        draw_pairs(block, max_length, settings.short_seq_prob, scalar_rng),
        max_length,
        rng,
      )
    else:
      pieces = draw_stretches(
        block, settings.max_seq_length - 2, settings.short_seq_prob, scalar_rng
      )
    counts["instances"] += len(pieces.a_starts)
    counts["random_next"] += int(np.count_nonzero(pieces.is_random_next))
    counts["tokens_cut"] += pieces.num_tokens_cut
    # A random second has a turn of its own.
    counts["tokens_used"] += int(
      pieces.a_lengths.sum() + pieces.b_lengths[~pieces.is_random_next].sum()
    )
    return pieces

  def _rows(self, pieces, rng) -> Iterator[tuple[Pieces, np.ndarray]]:
    """Yields pieces for some thousand rows, and in which row each goes."""
    lengths = self._lengths(pieces)
    if self.settings.max_pieces_per_row == 1:
      rows = np.arange(len(lengths))
    else:
      rows = pack(
        lengths,
        self.settings.max_seq_length,
        self.settings.max_pieces_per_row,
        rng,
      )
    order = np.argsort(rows, kind="stable")
    rows = rows[order]
    for first in range(0, rows[-1] + 1 if len(rows) else 0, _ROWS):
      chosen = slice(*np.searchsorted(rows, [first, first + _ROWS]))
      yield pieces.take(order[chosen]), rows[chosen] - first

  def _lengths(self, pieces) -> np.ndarray:
    """Returns how many tokens of a row each piece takes."""
    return (
      pieces.a_lengths
      + pieces.b_lengths
      + (3 if self.settings.next_sentence_prediction else 2)
    )

  def _records(self, block, pieces, rows, counts, rng) -> Records:
    """Returns the records of pieces, given in which row each goes."""
    settings, lengths = self.settings, self._lengths(pieces)
    columns, numbers = _places_in_rows(rows, lengths)
    text = self._fill_rows(
      block, pieces, rows * settings.max_seq_length + columns, int(rows[-1]) + 1
    )
    masked = self.masking.mask(
      text["input_ids"], text["input_mask"], text.get("continues_word"), rng
    )
    _count_predictions(masked, self.masking.vocabulary, counts)
    counts["records"] += len(masked.input_ids)
    counts["real_tokens"] += int(lengths.sum())
    features = {
      **text,
      "input_ids": masked.input_ids,
      "masked_lm_positions": masked.positions,
      "masked_lm_ids": masked.label_ids,
      "masked_lm_weights": masked.weights,
    }

    def of_pieces(values, dtype):
      result = np.zeros(
        [len(masked.input_ids), settings.max_pieces_per_row], dtype
      )
      result[rows, numbers] = values
      return result

    is_packed = settings.max_pieces_per_row > 1
    if is_packed:
      features["sequence_starts"] = of_pieces(columns, np.int32)
    if settings.next_sentence_prediction:
      features["next_sentence_labels"] = of_pieces(
        pieces.is_random_next, np.int32
      )
    if settings.next_sentence_prediction and is_packed:
      features["next_sentence_weights"] = of_pieces(1.0, np.float32)
    return Records(*serialization.serialize_rows(features))

  def _fill_rows(
    self, block, pieces, places, num_rows
  ) -> dict[str, np.ndarray]:
    """Returns the features of rows that do not depend on masks.

    Args:
      block: what the pieces are of.
      pieces: what there is to put into rows.
      places: where each piece goes, counted over all rows.
      num_rows: how many rows there are.
    """
    vocabulary = self.masking.vocabulary
    size = num_rows * self.settings.max_seq_length
    input_ids = np.zeros(size, np.int32)
    input_mask = np.zeros(size, np.uint8)
    segment_ids = np.zeros(size, np.uint8)
    features = {
      "input_ids": input_ids,
      "input_mask": input_mask,
      "segment_ids": segment_ids,
    }
    if block.continues_word is not None:
      features["continues_word"] = np.zeros(size, np.uint8)

    def put(starts, lengths, places):
      source, target = _ranges(starts, lengths), _ranges(places, lengths)
      input_ids[target] = block.ids[source]
      if block.continues_word is not None:
        features["continues_word"][target] = block.continues_word[source]

    input_mask[_ranges(places, self._lengths(pieces))] = 1
    input_ids[places] = vocabulary.cls_id
    put(pieces.a_starts, pieces.a_lengths, places + 1)
    input_ids[places + 1 + pieces.a_lengths] = vocabulary.sep_id
    if self.settings.next_sentence_prediction:
      b_places = places + pieces.a_lengths + 2
      put(pieces.b_starts, pieces.b_lengths, b_places)
      segment_ids[_ranges(b_places, pieces.b_lengths + 1)] = 1
      input_ids[b_places + pieces.b_lengths] = vocabulary.sep_id
    return {
      name: values.reshape(num_rows, self.settings.max_seq_length)
      for name, values in features.items()
    }


def _places_in_rows(rows, lengths) -> tuple[np.ndarray, np.ndarray]:
  """Returns the first column of each piece in its row, and its number there.

  Args:
    rows: int64 [pieces], the row of each, ascending.
    lengths: int64 [pieces].
  """
  is_first = np.diff(rows, prepend=-1) > 0
  starts = np.cumsum(lengths) - lengths
  order = np.arange(len(rows))
  return (
    starts - np.maximum.accumulate(np.where(is_first, starts, 0)),
    order - np.maximum.accumulate(np.where(is_first, order, 0)),
  )


def _count_predictions(
  masked: masking.Masked, vocabulary: masking.Vocabulary, counts
) -> None:
  is_prediction = masked.weights > 0
  labels = masked.label_ids[is_prediction]
  became = masked.input_ids[
    np.nonzero(is_prediction)[0], masked.positions[is_prediction]
  ]
  is_mask = became == vocabulary.mask_id
  counts["predictions"] += len(became)
  counts["predictions_masked"] += int(np.count_nonzero(is_mask))
  counts["predictions_kept"] += int(
    np.count_nonzero((became == labels) & ~is_mask)
  )


def _ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
  """Returns start, start + 1, ..., for each start as many as its length."""
  ends = np.cumsum(lengths)
  total = int(ends[-1]) if len(ends) else 0
  return np.arange(total) + np.repeat(starts - (ends - lengths), lengths)


def _jieba_segmenter() -> Callable[[str], list[str]]:
  try:
    import jieba  # pylint: disable=g-import-not-at-top
  except ImportError as error:
    raise UserError(
      "--word_segmenter=jieba takes the library jieba: pip install jieba."
    ) from error
  jieba.setLogLevel("WARNING")

  def segment(text: str) -> list[str]:
    words = []
    start = 0
    for run in _LONG_RUN.finditer(text):
      words += jieba.lcut(text[start : run.end()])
      start = run.end()
    return words + jieba.lcut(text[start:])

  return segment


def _split_words(separator: str, text: str) -> list[str]:
  """Returns the words of text, with a separator that is white space."""
  space = separator if separator.isspace() else ""  # it separates tokens too
  return [word + space for word in text.split(separator)]


def check_counts(counts, settings: Settings, num_shards: int) -> None:
  """Raises a UserError if the counts of all blocks leave nothing to write."""
  if not counts["tokens"]:
    raise UserError("The input holds no text.")
  if not counts["instances"]:
    raise UserError(
      "The input holds one sentence, of which no pair can be "
      "made. Should it be split (--split_sentences)?"
    )
  if counts["records"] < num_shards:
    raise UserError(
      f"The input gives {counts['records']} records, too few "
      f"for {num_shards} files. Ask for fewer."
    )
  if counts["documents"] == 1 and settings.next_sentence_prediction:
    logging.warning(
      "There is one document only, so no next sentence is random. Put blank "
      "lines between documents if there are several."
    )


# --- Pairs -------------------------------------------------------------------


def draw_pairs(
  block: TokenizedBlock,
  max_length: int,
  short_seq_prob: float,
  rng: random.Random,
) -> np.ndarray:
  """Cuts documents into pairs of stretches, half of them with a random second.

  Sentences are gathered until they reach the target length, and cut in two
  after a random sentence. For a random pair the second stretch comes from
  another document, and the sentences that it displaced are used again. Where
  there is one document only, none is random.

  Args:
    block: the documents.
    max_length: the most tokens of a pair, without `[CLS]` and `[SEP]`.
    short_seq_prob: chance that the target length is a shorter one, drawn for
      each stretch of a document.
    rng: draws everything.

  Returns:
    int64 [pairs, 5]: places of the start and end of a, of the start and end of
    b, and whether b is random. Pairs may be too long.
  """
  sentences, documents = block.sentence_starts, block.document_starts
  num_documents = len(documents) - 1
  has_others = num_documents > 1
  draw = rng.random
  find = bisect.bisect_left
  result = []
  for document in range(num_documents):
    start, last = documents[document], documents[document + 1]
    stretch_end = -1
    while start < last:
      start_place = sentences[start]
      if start_place >= stretch_end:
        stretch_end = start_place + _TARGETS_PER_STRETCH * max_length
        target = _draw_target(max_length, short_seq_prob, rng)
      end = find(sentences, start_place + target, start + 1, last)
      if not has_others:
        # Its own second must follow, and no last sentence may be left alone.
        end = min(max(end, start + 2), last)
        if end == last - 1:
          end = last
      # At least one sentence goes to each side, if there are two.
      middle = start + 1
      if end - start > 2:
        middle += int(draw() * (end - start - 1))
      middle_place = sentences[middle]
      if has_others and (end - start == 1 or draw() < 0.5):
        other = int(draw() * (num_documents - 1))
        other += other >= document
        first, other_last = documents[other], documents[other + 1]
        first += int(draw() * (other_last - first))
        first_place = sentences[first]
        result.append(
          (
            start_place,
            middle_place,
            first_place,
            sentences[
              find(
                sentences,
                first_place + target - (middle_place - start_place),
                first + 1,
                other_last,
              )
            ],
            1,
          )
        )
        start = middle
      else:
        if middle < end:  # not so for the only sentence of the only document
          result.append(
            (start_place, middle_place, middle_place, sentences[end], 0)
          )
        start = end
  return np.array(result, np.int64).reshape(-1, 5)


def _draw_target(
  max_length: int, short_seq_prob: float, rng: random.Random
) -> int:
  """Returns how long the pieces of a stretch of text should be."""
  if rng.random() < short_seq_prob:
    return 2 + int(rng.random() * (max_length - 1))
  return max_length


def _truncate(
  pairs: np.ndarray, max_length: int, rng: np.random.Generator
) -> Pieces:
  """Cuts pairs to `max_length`, at the front or the back at random.

  One token at a time comes off the longer stretch (off b when they are equal),
  as in `encoding.truncate_pair`. Both ends are cut, lest the model
  always see the start of a sentence first.
  """
  a_starts, a_ends, b_starts, b_ends, is_random_next = pairs.T
  a_lengths, b_lengths = a_ends - a_starts, b_ends - b_starts
  excess = np.maximum(a_lengths + b_lengths - max_length, 0)
  # First the longer one is cut until they are equal, then both in turn.
  cut_a = np.minimum(excess, np.maximum(a_lengths - b_lengths, 0))
  cut_b = np.minimum(excess, np.maximum(b_lengths - a_lengths, 0))
  rest = excess - cut_a - cut_b
  cut_a += rest // 2
  cut_b += rest - rest // 2
  is_random_next = is_random_next.astype(bool)
  return Pieces(
    a_starts + rng.binomial(cut_a, 0.5),
    a_lengths - cut_a,
    b_starts + rng.binomial(cut_b, 0.5),
    b_lengths - cut_b,
    is_random_next,
    # Nothing is lost of a random second: it has a turn of its own.
    int(cut_a.sum() + cut_b[~is_random_next].sum()),
  )


def draw_stretches(
  block: TokenizedBlock,
  max_length: int,
  short_seq_prob: float,
  rng: random.Random,
) -> Pieces:
  """Cuts documents into stretches of `max_length` tokens.

  The first stretch of a document that has several is of random length, so that
  duplicates are cut in different places. Arguments as for `draw_pairs`.
  """
  starts, lengths = [], []
  for first, last in zip(block.document_starts, block.document_starts[1:]):
    place, end = block.sentence_starts[first], block.sentence_starts[last]
    stretch_end = -1
    if end - place > max_length:
      starts.append(place)
      lengths.append(1 + int(rng.random() * max_length))
      place += lengths[-1]
    while place < end:
      if place >= stretch_end:
        stretch_end = place + _TARGETS_PER_STRETCH * max_length
        target = _draw_target(max_length, short_seq_prob, rng)
      starts.append(place)
      lengths.append(min(target, end - place))
      place += lengths[-1]
  none = np.zeros(len(starts), np.int64)
  return Pieces(
    np.array(starts, np.int64),
    np.array(lengths, np.int64),
    none,
    none,
    none.astype(bool),
    0,
  )


def pack(
  lengths: np.ndarray, capacity: int, max_per_row: int, rng: np.random.Generator
) -> np.ndarray:
  """Puts pieces into as few rows as it can: best fit, the longest first.

  Args:
    lengths: int64 [pieces], none above `capacity`.
    capacity: how much a row holds.
    max_per_row: how many pieces a row holds.
    rng: draws which of several pieces of one length comes first, so that
      neighbours in the text are not neighbours in a row.

  Returns:
    int64 [pieces], the row of each piece; rows are numbered from 0.
  """
  order = rng.permutation(len(lengths))
  order = order[np.argsort(-lengths[order], kind="stable")]
  rows = np.empty(len(lengths), np.int64)
  # For each amount of room, the rows that have it; and, as the bits of a
  # number, which amounts there are, so that the least that will do is found at
  # once.
  rows_with_room = [[] for _ in range(capacity + 1)]
  rooms = 0
  num_in_row = []
  for piece, length in zip(order.tolist(), lengths[order].tolist()):
    fitting = rooms >> length
    if fitting:
      room = length + (fitting & -fitting).bit_length() - 1
      row = rows_with_room[room].pop()
      if not rows_with_room[room]:
        rooms ^= 1 << room
    else:
      room, row = capacity, len(num_in_row)
      num_in_row.append(0)
    rows[piece] = row
    num_in_row[row] += 1
    room -= length
    if room and num_in_row[row] < max_per_row:
      rows_with_room[room].append(row)
      rooms |= 1 << room
  return rows
