"""Documents to pre-training records (paper, sections 3.1 and A.2).

    documents --tokenize--> TokenizedBlock --draw--> InstanceSpans --> records

All tokens of a block are stored in one array, and a span of text is a pair of
places in it. Where pairs begin and end has to be drawn one after the other; a
short loop over places does that. Everything that touches tokens works on
thousands of rows at once.

    [CLS] a a a [SEP] b b [SEP] 0 0 0 0 0 0 0 0 0 0        a row of one instance
    [CLS] a a a [SEP] b b [SEP] [CLS] a [SEP] b b [SEP] 0  two, packed
"""

from __future__ import annotations

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
from data import tokenizer_settings
from errors import UserError
from pretraining import masking
import tokenization

# Number of rows that are masked and serialized at once.
_ROWS_PER_STEP = 2048
# A new target length is drawn after this many times the maximum length.
# Otherwise, all instances of a long book would be long, or all short.
_TARGET_LENGTH_PERIOD = 16
# Number of characters that are segmented into words at once, which takes some
# hundred bytes of memory per character.
_SEGMENTED_CHARACTERS = 100_000
# The time that jieba needs grows with the square of a run of text without
# punctuation, so longer runs are cut.
_LONG_RUN = re.compile(r"[\w+#&.%-]{2000}")
# Number of pairs of characters for which we cache whether they are one word;
# 2**18 take about 40 MB.
_CACHED_PAIRS = 2**18


class TokenizedBlock(NamedTuple):
  """The documents of a block as ids.

      ids               7 8 | 9 9 9 | 5 6 6 || 4 4 | 8      || new document
      sentence_starts   0     2       5        8     10 11
      document_starts   0                      3        5

  Attributes:
    ids: int32 [num_tokens], ids of all sentences, one after the other.
    continues_word: bool [num_tokens], whether a token belongs to the word
      before it; None if tokens that begin with `##` do.
    sentence_starts: Places in `ids`, one more than there are sentences.
    document_starts: Places in `sentence_starts`, one more than there are
      documents.
  """

  ids: np.ndarray
  continues_word: np.ndarray | None
  sentence_starts: list[int]
  document_starts: list[int]


class InstanceSpans(NamedTuple):
  """The spans of tokens that instances consist of, int64 [num_instances] each.

  Attributes:
    a_starts: Places of the first tokens of a.
    a_lengths: Numbers of tokens of a.
    b_starts: Places of the first tokens of b; unused if there are no pairs.
    b_lengths: Numbers of tokens of b; 0 if there are no pairs.
    is_random_next: bool, whether b is random and does not follow a.
  """

  a_starts: np.ndarray
  a_lengths: np.ndarray
  b_starts: np.ndarray
  b_lengths: np.ndarray
  is_random_next: np.ndarray

  def select(self, index: np.ndarray) -> InstanceSpans:
    return InstanceSpans(*(field[index] for field in self))


class SerializedRecords(NamedTuple):
  """Serialized records.

  Attributes:
    content: uint8, bytes of all records, one after the other.
    lengths: int64 [num_records], number of bytes of each record.
  """

  content: np.ndarray
  lengths: np.ndarray


@dataclasses.dataclass(frozen=True)
class InstanceSettings:
  """The settings that decide, with the text, which records are made.

  Attributes:
    vocab_file: Path of the vocabulary, one token per line.
    text_settings: Settings of the tokenizer.
    max_seq_length: Number of tokens of a row.
    masking_settings: How to mask the rows.
    word_segmenter: "jieba" to find Chinese words with jieba; "" for no
      segmenter.
    word_separator: String between words in the text; "" if words are not
      marked.
    dupe_factor: Number of times to go over the text.
    short_seq_prob: Probability that the instances of a part of a document are
      shorter than the maximum, so that the model also sees short inputs.
    next_sentence_prediction: Whether to make pairs, half of them with a random
      second part. If not, instances are filled with consecutive text.
    max_instances_per_row: Maximum number of instances that share a row; 1
      gives the format of the original code.
    seed: Seed of everything that is drawn.
  """

  vocab_file: str
  text_settings: tokenizer_settings.TokenizerSettings = (
    tokenizer_settings.TokenizerSettings()
  )
  max_seq_length: int = 128
  masking_settings: masking.MaskingSettings = masking.MaskingSettings()
  word_segmenter: str = ""
  word_separator: str = ""
  dupe_factor: int = 10
  short_seq_prob: float = 0.1
  next_sentence_prediction: bool = True
  max_instances_per_row: int = 1
  seed: int = 12345

  def to_dict(self) -> dict[str, object]:
    """Returns the settings as they are stored with the records."""
    result: dict[str, object] = {}
    for name, value in dataclasses.asdict(self).items():
      if name == "text_settings":
        result.update(self.text_settings.to_fields())
      elif name == "masking_settings":
        result.update(value)
      elif name == "max_instances_per_row":
        # The first name of this setting, by which builds are recognized.
        result["max_pieces_per_row"] = value
      else:
        result[name] = value
    return result


class InstanceMaker:
  """Makes the records of blocks, each a function of settings and block.

  Raises:
    UserError: The vocabulary cannot be used, or jieba is not installed.
  """

  def __init__(self, settings: InstanceSettings):
    self.settings = settings
    self.tokenizer = tokenization.FullTokenizer.from_settings(
      settings.vocab_file, settings.text_settings
    )
    self.masker = masking.Masker(
      masking.Vocabulary.from_tokens(
        self.tokenizer.vocab, settings.text_settings.special_tokens
      ),
      settings.masking_settings,
    )
    self._is_one_word_cache: dict[str, bool] = {}
    self._segment_words: Callable[[str], list[str]] | None = None
    if settings.word_segmenter == "jieba":
      self._segment_words = _create_jieba_segmenter()
    elif settings.word_separator:
      self._segment_words = functools.partial(
        _split_words, settings.word_separator
      )

  def make_records(
    self,
    block_number: Sequence[int],
    documents: Iterable[Sequence[str]],
    counts: collections.Counter,
  ) -> Iterator[tuple[SerializedRecords, np.random.Generator]]:
    """Yields the records of the documents of a block, some thousand at a time.

    With them, it yields the random generator of the block, from which the
    caller draws the order of the records.

    Args:
      block_number: Number of the block, which decides with the seed what is
        drawn.
      documents: Lists of sentences.
      counts: Counter that numbers of what was read, made and dropped are added
        to.
    """
    block = self._tokenize_documents(documents, counts)
    for duplicate in range(self.settings.dupe_factor):
      seed = [self.settings.seed % 2**64, duplicate, *block_number]
      rng = np.random.Generator(np.random.PCG64(seed))
      spans = self._draw_instances(block, counts, rng)
      for row_spans, rows in self._assign_rows(spans, rng):
        yield self._create_records(block, row_spans, rows, counts, rng), rng

  # --- Tokens ----------------------------------------------------------------

  def _tokenize_documents(
    self, documents: Iterable[Sequence[str]], counts: collections.Counter
  ) -> TokenizedBlock:
    ids: list[int] = []
    continues_word: list[bool] = []
    sentence_starts, document_starts = [0], [0]
    longest = self.settings.max_seq_length
    # Parts this short can form a pair with another part of the same sentence.
    stride = longest // 4
    for document in documents:
      for sentence in document:
        if self._segment_words:
          sentence_ids, continues = self._encode_words(
            sentence, self._segment_words
          )
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
          # The line may be a whole paragraph, which does not fit into a row.
          counts["sentences_cut_up"] += 1
          sentence_starts.extend(range(start + stride, len(ids), stride))
        sentence_starts.append(len(ids))
      num_sentences = len(sentence_starts) - 1
      if num_sentences > document_starts[-1]:
        document_starts.append(num_sentences)
        counts["documents"] += 1
    block = TokenizedBlock(
      np.array(ids, np.int32),
      np.array(continues_word, bool) if self._segment_words else None,
      sentence_starts,
      document_starts,
    )
    is_unknown = block.ids == self.tokenizer.unk_id
    counts["tokens"] += len(ids)
    counts["unknown_tokens"] += int(np.count_nonzero(is_unknown))
    return block

  def _encode_words(
    self, sentence: str, segment_words: Callable[[str], list[str]]
  ) -> tuple[list[int], list[bool]]:
    """Returns ids, and which of them belong to the word before them."""
    ids: list[int] = []
    continues_word: list[bool] = []
    for start in range(0, len(sentence), _SEGMENTED_CHARACTERS):
      part = sentence[start : start + _SEGMENTED_CHARACTERS]
      words = self._join_words(segment_words(part))
      text = "".join(words)
      text_ids = self.tokenizer.encode(text)
      ids_of_words = [self.tokenizer.encode(word) for word in words]
      if list(itertools.chain(*ids_of_words)) == text_ids:
        for word_ids in ids_of_words:
          continues_word += [i > 0 for i in range(len(word_ids))]
      else:
        # Some characters are tokenized differently next to others, which is
        # rare. The word of each token follows from its place in the text:
        #
        #   words     ab c de      word_ends      2 3 5
        #   tokens    a ##b c de   first places   0 1 2 3
        #                          word numbers   0 0 1 2
        text_ids, offsets = self.tokenizer.encode_with_offsets(text)
        word_ends = np.cumsum([len(word) for word in words])
        first_places = [first for first, _ in offsets]
        numbers = np.searchsorted(word_ends, first_places, "right")
        is_same_word = np.diff(numbers, prepend=-1) == 0
        continues_word += is_same_word.tolist()
      ids += text_ids
    return ids, continues_word

  def _join_words(self, words: Sequence[str]) -> list[str]:
    """Joins words that the tokenizer does not separate, such as `3` and `D`."""
    groups: list[list[str]] = []
    for word in filter(None, words):
      last_character = groups[-1][-1][-1] if groups else ""
      if groups and self._is_one_word(last_character, word[0]):
        groups[-1].append(word)
      else:
        groups.append([word])
    return ["".join(group) for group in groups]

  def _is_one_word(self, character: str, next_character: str) -> bool:
    """Returns whether the tokenizer keeps two characters together."""
    pair = character + next_character
    if pair not in self._is_one_word_cache:
      if len(self._is_one_word_cache) >= _CACHED_PAIRS:
        self._is_one_word_cache.clear()
      num_words = len(self.tokenizer.basic_tokenizer.tokenize(pair))
      has_space = character.isspace() or next_character.isspace()
      self._is_one_word_cache[pair] = num_words == 1 and not has_space
    return self._is_one_word_cache[pair]

  # --- Instances and rows ----------------------------------------------------

  def _draw_instances(
    self,
    block: TokenizedBlock,
    counts: collections.Counter,
    rng: np.random.Generator,
  ) -> InstanceSpans:
    settings = self.settings
    # Python's generator is faster for single numbers.
    scalar_rng = random.Random(int(rng.integers(2**63)))
    if settings.next_sentence_prediction:
      max_length = settings.max_seq_length - 3
      pairs = draw_pairs(block, max_length, settings.short_seq_prob, scalar_rng)
      spans, num_tokens_cut = truncate_pairs(pairs, max_length, rng)
    else:
      max_length = settings.max_seq_length - 2
      spans = draw_consecutive_spans(
        block, max_length, settings.short_seq_prob, scalar_rng
      )
      num_tokens_cut = 0
    # The tokens of a random b are used a second time, in their own document.
    b_lengths = spans.b_lengths[~spans.is_random_next]
    counts["instances"] += len(spans.a_starts)
    counts["random_next"] += int(np.count_nonzero(spans.is_random_next))
    counts["tokens_cut"] += num_tokens_cut
    counts["tokens_used"] += int(spans.a_lengths.sum() + b_lengths.sum())
    return spans

  def _assign_rows(
    self, spans: InstanceSpans, rng: np.random.Generator
  ) -> Iterator[tuple[InstanceSpans, np.ndarray]]:
    """Yields the instances of some thousand rows, and the row of each."""
    lengths = self._count_tokens(spans)
    if self.settings.max_instances_per_row == 1:
      rows = np.arange(len(lengths))
    else:
      rows = pack_rows(
        lengths,
        self.settings.max_seq_length,
        self.settings.max_instances_per_row,
        rng,
      )
    # Packed rows have instances from all over the block.
    order = np.argsort(rows, kind="stable")
    rows = rows[order]
    num_rows = rows[-1] + 1 if len(rows) else 0
    for first in range(0, num_rows, _ROWS_PER_STEP):
      start, end = np.searchsorted(rows, [first, first + _ROWS_PER_STEP])
      yield spans.select(order[start:end]), rows[start:end] - first

  def _count_tokens(self, spans: InstanceSpans) -> np.ndarray:
    """Returns the length of each instance, including `[CLS]` and `[SEP]`."""
    num_special = 3 if self.settings.next_sentence_prediction else 2
    return spans.a_lengths + spans.b_lengths + num_special

  # --- Records ---------------------------------------------------------------

  def _create_records(
    self,
    block: TokenizedBlock,
    spans: InstanceSpans,
    rows: np.ndarray,
    counts: collections.Counter,
    rng: np.random.Generator,
  ) -> SerializedRecords:
    """Returns the masked and serialized rows.

    Args:
      block: Tokens of the spans.
      spans: Instances of the rows.
      rows: int64 [num_instances], row of each instance, in ascending order.
      counts: Counter to add to.
      rng: Source of all random numbers.
    """
    settings = self.settings
    lengths = self._count_tokens(spans)
    columns, slots = _place_in_rows(rows, lengths)
    num_rows = int(rows[-1]) + 1
    places = rows * settings.max_seq_length + columns
    features = self._fill_rows(block, spans, places, num_rows)
    masked = self.masker.mask_rows(
      features["input_ids"],
      features["input_mask"],
      features.get("continues_word"),
      rng,
    )
    features["input_ids"] = masked.input_ids
    features["masked_lm_positions"] = masked.positions
    features["masked_lm_ids"] = masked.label_ids
    features["masked_lm_weights"] = masked.weights

    def fill_slots(values, dtype):
      """Returns values of instances, [num_rows, max_instances_per_row]."""
      result = np.zeros([num_rows, settings.max_instances_per_row], dtype)
      result[rows, slots] = values
      return result

    # Unpacked rows have the features of the original code, and no others.
    is_packed = settings.max_instances_per_row > 1
    if is_packed:
      features["sequence_starts"] = fill_slots(columns, np.int32)
    if settings.next_sentence_prediction:
      labels = fill_slots(spans.is_random_next, np.int32)
      features["next_sentence_labels"] = labels
    if settings.next_sentence_prediction and is_packed:
      features["next_sentence_weights"] = fill_slots(1.0, np.float32)

    _count_predictions(masked, self.masker.vocabulary, counts)
    counts["records"] += num_rows
    counts["real_tokens"] += int(lengths.sum())
    return SerializedRecords(*serialization.serialize_rows(features))

  def _fill_rows(
    self,
    block: TokenizedBlock,
    spans: InstanceSpans,
    places: np.ndarray,
    num_rows: int,
  ) -> dict[str, np.ndarray]:
    """Returns the features of rows before masking, [num_rows, seq_length].

    places          p                                 p = place of the instance
    input_ids     [CLS] a a a [SEP] b b [SEP]
    segment_ids     0   0 0 0   0   1 1   1
    a_places            ^
    b_places                        ^

    Args:
      block: Tokens of the spans.
      spans: Instances of the rows.
      places: int64 [num_instances], place of each instance, counted over all
        rows.
      num_rows: Number of rows.
    """
    vocabulary = self.masker.vocabulary
    # All rows, one after the other.
    size = num_rows * self.settings.max_seq_length
    input_ids = np.zeros(size, np.int32)
    input_mask = np.zeros(size, np.uint8)
    segment_ids = np.zeros(size, np.uint8)
    features: dict[str, np.ndarray] = {
      "input_ids": input_ids,
      "input_mask": input_mask,
      "segment_ids": segment_ids,
    }
    if block.continues_word is not None:
      features["continues_word"] = np.zeros(size, np.uint8)

    def copy_spans(starts, lengths, places):
      source = _join_ranges(starts, lengths)
      target = _join_ranges(places, lengths)
      input_ids[target] = block.ids[source]
      if block.continues_word is not None:
        features["continues_word"][target] = block.continues_word[source]

    a_places = places + 1
    a_ends = a_places + spans.a_lengths
    input_mask[_join_ranges(places, self._count_tokens(spans))] = 1
    input_ids[places] = vocabulary.cls_id
    copy_spans(spans.a_starts, spans.a_lengths, a_places)
    input_ids[a_ends] = vocabulary.sep_id
    if self.settings.next_sentence_prediction:
      b_places = a_ends + 1
      b_ends = b_places + spans.b_lengths
      copy_spans(spans.b_starts, spans.b_lengths, b_places)
      input_ids[b_ends] = vocabulary.sep_id
      segment_ids[_join_ranges(b_places, spans.b_lengths + 1)] = 1
    shape = num_rows, self.settings.max_seq_length
    return {name: values.reshape(shape) for name, values in features.items()}


def _place_in_rows(
  rows: np.ndarray, lengths: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the first column of each instance, and its number in the row.

  rows      0 0 0 1 1      lengths 5 3 4 6 2
  starts    0 5 8 12 18    if all rows were one
  columns   0 5 8 0 6
  slots     0 1 2 0 1

  Args:
    rows: int64 [num_instances], row of each instance, in ascending order.
    lengths: int64 [num_instances], number of tokens of each.
  """
  is_first = np.diff(rows, prepend=-1) > 0
  starts = np.cumsum(lengths) - lengths
  row_starts = np.maximum.accumulate(np.where(is_first, starts, 0))
  numbers = np.arange(len(rows))
  first_numbers = np.maximum.accumulate(np.where(is_first, numbers, 0))
  return starts - row_starts, numbers - first_numbers


def _join_ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
  """Returns the numbers of several ranges, one range after the other.

  starts  10 20 30
  lengths  3  1  2
  result  10 11 12 20 30 31
  """
  ends = np.cumsum(lengths)
  total = int(ends[-1]) if len(ends) else 0
  first_index = ends - lengths  # of each range in the result
  return np.arange(total) + np.repeat(starts - first_index, lengths)


def _count_predictions(
  masked: masking.MaskedRows,
  vocabulary: masking.Vocabulary,
  counts: collections.Counter,
) -> None:
  is_prediction = masked.weights > 0
  labels = masked.label_ids[is_prediction]
  rows = np.nonzero(is_prediction)[0]
  ids = masked.input_ids[rows, masked.positions[is_prediction]]
  is_mask = ids == vocabulary.mask_id
  is_kept = (ids == labels) & ~is_mask
  counts["predictions"] += len(ids)
  counts["predictions_masked"] += int(np.count_nonzero(is_mask))
  counts["predictions_kept"] += int(np.count_nonzero(is_kept))


def check_counts(
  counts: collections.Counter, settings: InstanceSettings, num_shards: int
) -> None:
  """Checks the counts of all blocks before anything is written.

  Raises:
    UserError: There are too few records to write.
  """
  if not counts["tokens"]:
    raise UserError("The input contains no text.")
  if not counts["instances"]:
    raise UserError(
      "The input holds one sentence, which cannot form a pair. If it is a "
      "longer text, pass --split_sentences."
    )
  if counts["records"] < num_shards:
    raise UserError(
      f"The input gives {counts['records']} records, too few for {num_shards} "
      "files. Ask for fewer files."
    )
  if counts["documents"] == 1 and settings.next_sentence_prediction:
    logging.warning(
      "There is only one document, so no next sentence is random. If the text "
      "has several documents, put blank lines between them."
    )


# --- Words -------------------------------------------------------------------


def _create_jieba_segmenter() -> Callable[[str], list[str]]:
  """Returns the function that splits Chinese text into words."""
  try:
    import jieba  # pylint: disable=g-import-not-at-top
  except ImportError as error:
    raise UserError(
      "--word_segmenter=jieba requires jieba: pip install jieba."
    ) from error
  jieba.setLogLevel("WARNING")

  def segment(text: str) -> list[str]:
    words = []
    start = 0
    for run in _LONG_RUN.finditer(text):
      words += jieba.lcut(text[start : run.end()])
      start = run.end()
    words += jieba.lcut(text[start:])
    return words

  return segment


def _split_words(separator: str, text: str) -> list[str]:
  """Returns the words of a text, followed by the separator if it is a space.

  Other separators are not part of the text.
  """
  space = separator if separator.isspace() else ""
  return [word + space for word in text.split(separator)]


# --- Pairs -------------------------------------------------------------------


class Pair(NamedTuple):
  """Two spans of text, before truncation, as places in `TokenizedBlock.ids`.

  Attributes:
    a_start: Place of the first token of a.
    a_end: Place behind the last token of a.
    b_start: Place of the first token of b.
    b_end: Place behind the last token of b.
    is_random_next: 1 if b comes from another document, 0 if it follows a.
  """

  a_start: int
  a_end: int
  b_start: int
  b_end: int
  is_random_next: int


def draw_pairs(
  block: TokenizedBlock,
  max_length: int,
  short_seq_prob: float,
  rng: random.Random,
) -> list[Pair]:
  """Cuts documents into pairs of spans, half of them with a random b.

  Sentences are gathered until they reach the target length, and cut in two
  after a random sentence. In a random pair, b comes from another document, and
  the sentences that it replaces are used in the next pair:

      sentences   s0 s1 s2 s3 s4 s5 s6 s7 ...        target reached after s3
      next        [a=s0 s1] [b=s2 s3]                continue at s4
      random      [a=s0 s1] [b=t4 t5 of another]     continue at s2

  If there is only one document, no b is random.

  Args:
    block: Tokens of the documents.
    max_length: Maximum number of tokens of a pair, without `[CLS]` and `[SEP]`.
    short_seq_prob: Probability of a shorter target length, which is drawn
      for each part of a document.
    rng: Source of all random numbers.

  Returns:
    The pairs, which may be too long.
  """
  sentences, documents = block.sentence_starts, block.document_starts
  num_documents = len(documents) - 1
  has_others = num_documents > 1
  draw = rng.random
  pairs = []
  for document in range(num_documents):
    # `start`, `middle`, `end` and `last` are numbers of sentences.
    start, last = documents[document], documents[document + 1]
    next_target_place = -1
    while start < last:
      a_start = sentences[start]
      if a_start >= next_target_place:
        next_target_place = a_start + _TARGET_LENGTH_PERIOD * max_length
        target = _draw_target_length(max_length, short_seq_prob, rng)

      # Gather sentences, at least one, until the target length is reached.
      end = bisect.bisect_left(sentences, a_start + target, start + 1, last)
      if not has_others:
        # A pair needs two sentences, and the last one cannot be a pair alone.
        end = min(max(end, start + 2), last)
        if end == last - 1:
          end = last

      # Cut in two, with at least one sentence on each side if there are two.
      middle = start + 1
      if end - start > 2:
        middle += int(draw() * (end - start - 1))
      a_end = sentences[middle]

      # A single sentence can only be followed by a random b.
      if has_others and (end - start == 1 or draw() < 0.5):
        other = int(draw() * (num_documents - 1))
        other += other >= document  # skips the same document
        first, other_last = documents[other], documents[other + 1]
        first += int(draw() * (other_last - first))
        b_start = sentences[first]
        wanted_end = b_start + target - (a_end - a_start)
        b_last = bisect.bisect_left(
          sentences, wanted_end, first + 1, other_last
        )
        pairs.append(Pair(a_start, a_end, b_start, sentences[b_last], 1))
        start = middle
      else:
        # The only sentence of the only document gives no pair.
        if middle < end:
          pairs.append(Pair(a_start, a_end, a_end, sentences[end], 0))
        start = end
  return pairs


def _draw_target_length(
  max_length: int, short_seq_prob: float, rng: random.Random
) -> int:
  """Returns the length that the instances of a part of a document aim at."""
  if rng.random() < short_seq_prob:
    return 2 + int(rng.random() * (max_length - 1))
  return max_length


def truncate_pairs(
  pairs: Sequence[Pair], max_length: int, rng: np.random.Generator
) -> tuple[InstanceSpans, int]:
  """Cuts pairs to `max_length`, each token at the front or the back at random.

  One token at a time is removed from the longer span (from b if both are
  equally long), as in `encoding.truncate_pair`. Both ends are cut, so that the
  model does not always see the start of a sentence first.

  Returns:
    The spans, and the number of tokens that were cut off.
  """
  columns = np.array(pairs, np.int64).reshape(-1, len(Pair._fields)).T
  a_starts, a_ends, b_starts, b_ends, is_random_next = columns
  a_lengths, b_lengths = a_ends - a_starts, b_ends - b_starts
  excess = np.maximum(a_lengths + b_lengths - max_length, 0)
  # The longer span is cut to the length of the other one. From there both lose
  # tokens in turn, b first.
  cut_a = np.minimum(excess, np.maximum(a_lengths - b_lengths, 0))
  cut_b = np.minimum(excess, np.maximum(b_lengths - a_lengths, 0))
  shared = excess - cut_a - cut_b
  cut_a += shared // 2
  cut_b += shared - shared // 2
  # The number of tokens that are cut at the front.
  front_a = rng.binomial(cut_a, 0.5)
  front_b = rng.binomial(cut_b, 0.5)
  is_random_next = is_random_next.astype(bool)
  spans = InstanceSpans(
    a_starts + front_a,
    a_lengths - cut_a,
    b_starts + front_b,
    b_lengths - cut_b,
    is_random_next,
  )
  # Nothing of a random b is lost: it is also used in its own document.
  num_tokens_cut = cut_a.sum() + cut_b[~is_random_next].sum()
  return spans, int(num_tokens_cut)


# --- Single spans ------------------------------------------------------------


def draw_consecutive_spans(
  block: TokenizedBlock,
  max_length: int,
  short_seq_prob: float,
  rng: random.Random,
) -> InstanceSpans:
  """Cuts documents into consecutive spans of up to `max_length` tokens.

  If a document has several spans, the first one has a random length, so that
  duplicates are cut at different places. Arguments as for `draw_pairs`.
  """
  starts, lengths = [], []
  for first, last in zip(block.document_starts, block.document_starts[1:]):
    place, end = block.sentence_starts[first], block.sentence_starts[last]
    next_target_place = -1
    if end - place > max_length:
      length = 1 + int(rng.random() * max_length)
      starts.append(place)
      lengths.append(length)
      place += length
    while place < end:
      if place >= next_target_place:
        next_target_place = place + _TARGET_LENGTH_PERIOD * max_length
        target = _draw_target_length(max_length, short_seq_prob, rng)
      length = min(target, end - place)
      starts.append(place)
      lengths.append(length)
      place += length
  zeros = np.zeros(len(starts), np.int64)
  return InstanceSpans(
    np.array(starts, np.int64),
    np.array(lengths, np.int64),
    zeros,
    zeros,
    zeros.astype(bool),
  )


# --- Packing -----------------------------------------------------------------


def pack_rows(
  lengths: np.ndarray, capacity: int, max_per_row: int, rng: np.random.Generator
) -> np.ndarray:
  """Packs instances into few rows: the longest first, each where it fits best.

  Args:
    lengths: int64 [num_instances], none above `capacity`.
    capacity: Number of tokens of a row.
    max_per_row: Maximum number of instances in a row.
    rng: Source of the order of instances of the same length, so that neighbors
      in the text are not neighbors in a row.

  Returns:
    int64 [num_instances], the row of each instance; rows count from 0.
  """
  order = rng.permutation(len(lengths))
  order = order[np.argsort(-lengths[order], kind="stable")]
  rows = np.empty(len(lengths), np.int64)
  num_in_row: list[int] = []
  # For each amount of room, the rows that have it. Bit r of `rooms` says
  # whether there is a row with room r, so that the smallest room that is large
  # enough is found at once:
  #
  #   rooms                      0b10010100      rows with room 2, 4 and 7
  #   rooms >> 3                    0b10010      room 3 + 1 is the first
  rows_with_room: list[list[int]] = [[] for _ in range(capacity + 1)]
  rooms = 0
  for instance, length in zip(order.tolist(), lengths[order].tolist()):
    fitting = rooms >> length
    if fitting:
      lowest_bit = fitting & -fitting
      room = length + lowest_bit.bit_length() - 1
      row = rows_with_room[room].pop()
      if not rows_with_room[room]:
        rooms ^= 1 << room
    else:
      room, row = capacity, len(num_in_row)
      num_in_row.append(0)
    rows[instance] = row
    num_in_row[row] += 1
    room -= length
    if room and num_in_row[row] < max_per_row:
      rows_with_room[room].append(row)
      rooms |= 1 << room
  return rows
