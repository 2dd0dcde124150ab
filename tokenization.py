"""WordPiece tokenization: text to pieces and ids, exactly as BERT's.

There are two steps (Wu et al., 2016, section 4.1, as the paper uses it). The
basic step cleans the text, puts spaces around Chinese characters, lower-cases
and strips accents on request, and splits at white space and punctuation. The
WordPiece step cuts each word into the longest pieces of the vocabulary, from
the left.

Speed comes from doing little per character. A table holds the result of the
basic step for each character, and a cache holds the ids of each stretch of text
between two spaces: running text is mostly words, with or without a comma, that
occurred before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import dataclasses
import functools
import itertools
import os
import re
from typing import Any, NamedTuple
import unicodedata

from absl import logging

from data import text_decoding
from data import tokenizer_settings
from errors import UserError

# The blocks that count as Chinese characters. Hangul, Hiragana and Katakana
# are not among them: the released models were made with text in which those
# scripts are split at spaces and by WordPiece alone.
CJK_BLOCKS = (
  (0x4E00, 0x9FFF),
  (0x3400, 0x4DBF),
  (0x20000, 0x2A6DF),
  (0x2A700, 0x2B73F),
  (0x2B740, 0x2B81F),
  (0x2B820, 0x2CEAF),
  (0xF900, 0xFAFF),
  (0x2F800, 0x2FA1F),
)

# Limits of the cache: the number of stretches of text, and their length. 2**18
# stretches take about 60 MB, and 30 MB of English novels have fewer.
_CACHE_SIZE = 2**18
_CACHED_LENGTH = 40

_FIRST_CJK = chr(min(first for first, _ in CJK_BLOCKS))
# A run of Chinese characters. The parenthesis makes `re.split` return the runs,
# as every second part.
_CJK_RANGES = "".join(f"{chr(a)}-{chr(b)}" for a, b in CJK_BLOCKS)
_CJK_RUN = re.compile(f"([{_CJK_RANGES}]+)")
# The stretches that `str.split` returns.
_STRETCH = re.compile(r"\S+")
# Stands for bytes that are no text. It is dropped, although it is printable.
_REPLACEMENT = "\ufffd"
# Maximum number of lines of a vocabulary in a message.
_MOST_LINES_SHOWN = 5
_BERT_TOKENS = tokenizer_settings.BERT_TOKENS
# Folders of released models, such as uncased_L-12_H-768_A-12. Those without a
# word about case, multilingual and Chinese, are uncased.
_RELEASED_NAME = re.compile(r"(?P<kind>\w+)_L-\d+_H-\d+_A-\d+")


# --- Characters --------------------------------------------------------------


def _is_control(char: str) -> bool:
  return char not in "\t\n\r" and unicodedata.category(char) in ("Cc", "Cf")


def _is_punctuation(char: str) -> bool:
  if ord(char) < 128:  # ^, $ and ` count, which Unicode calls symbols.
    return not char.isalnum() and char > " " and char != "\x7f"
  return unicodedata.category(char).startswith("P")


def _is_cjk(char: str) -> bool:
  return any(first <= ord(char) <= last for first, last in CJK_BLOCKS)


def _is_dropped_mark(char: str) -> bool:
  """Returns whether the stripping of accents drops a character."""
  return unicodedata.category(char) == "Mn"


def _clean(char: str) -> str:
  """Returns a character after cleaning: nothing or itself."""
  is_dropped = char in "\0" + _REPLACEMENT or _is_control(char)
  return "" if is_dropped else char


class _Table(dict[int, str]):
  """A table for `str.translate` that fills itself on demand."""

  def __init__(self, function: Callable[[str], str]):
    super().__init__()
    self._function = function

  def __missing__(self, codepoint: int) -> str:
    result = self[codepoint] = self._function(chr(codepoint))
    return result


_CLEAN_TABLE = _Table(_clean)


def _clean_with_places(
  text: str, places: Sequence[int]
) -> tuple[str, list[int]]:
  """Returns cleaned text, and the places of the characters that remain.

  Args:
    text: Text to clean.
    places: Place of each character of `text` in some other text.
  """
  cleaned = [_CLEAN_TABLE[ord(char)] for char in text]
  kept_places = [place for place, char in zip(places, cleaned) if char]
  return "".join(cleaned), kept_places


# --- Marks and letters that depend on their neighbours -----------------------


class _KeptMarks(dict[str, bool]):
  """Map from characters to True if they are, or contain, a mark that is kept.

  Such marks (category Mc with a combining class) have an order of their own:
  Unicode's normal form sorts them, and the marks that are dropped, by class.
  """

  def __missing__(self, char: str) -> bool:
    result = self[char] = any(
      unicodedata.combining(part) and not _is_dropped_mark(part)
      for part in unicodedata.normalize("NFD", char)
    )
    return result


_KEPT_MARKS = _KeptMarks()


def _has_kept_marks(text: str) -> bool:
  # One character at a time: `unicodedata.normalize` needs time that grows with
  # the square of the length of a run of marks.
  return any(map(_KEPT_MARKS.__getitem__, text))


# Characters that occurred in text that did not need context. To ask a set
# about all characters at once is faster than a loop over them.
_WITHOUT_CONTEXT: set[str] = set()


def _needs_context(text: str) -> bool:
  """Returns whether characters of `text` influence how others are normalized.

  There are two cases: a capital sigma is lower-cased by its place in the word,
  and marks that are kept are put in canonical order.
  """
  if text.isascii() or _WITHOUT_CONTEXT.issuperset(text):
    return False
  if "Σ" in text or _has_kept_marks(text):
    return True
  _WITHOUT_CONTEXT.update(text)
  return False


def _lower_sigmas(text: str) -> str:
  """Returns `text` with capital sigmas lower-cased by their places in words."""
  lowered = iter(re.findall("[σς]", text.lower()))
  return re.sub("[Σσς]", lambda _: next(lowered), text)


def _split_at_mark_runs(text: str) -> Iterator[str]:
  """Yields parts of `text` such that sorting moves no mark out of its part."""
  start = 0
  ends_in_mark = False
  for place, char in enumerate(text):
    decomposed = unicodedata.normalize("NFD", char)
    begins_with_mark = unicodedata.combining(decomposed[0]) > 0
    if place and not (ends_in_mark and begins_with_mark):
      yield text[start:place]
      start = place
    ends_in_mark = unicodedata.combining(decomposed[-1]) > 0
  yield text[start:]


# --- The basic step ----------------------------------------------------------


class Word(NamedTuple):
  """A word of normalized text.

  Attributes:
    text: The word.
    starts: For each of its characters, where its source begins in the text
      that was tokenized.
    ends: Where that source ends.
  """

  text: str
  starts: Sequence[int]
  ends: Sequence[int]


class BasicTokenizer:
  """Cleans text and splits it at white space and punctuation.

  Args:
    do_lower_case: Whether to lower-case.
    strip_accents: Whether to drop accents; None to drop them if
      `do_lower_case`.
    never_split: Tokens, such as `[MASK]`, that stay as they are wherever they
      occur in the text.
    tokenize_chinese_chars: Whether each Chinese character is a word.
  """

  def __init__(
    self,
    do_lower_case: bool = True,
    strip_accents: bool | None = None,
    never_split: Sequence[str] = (),
    tokenize_chinese_chars: bool = True,
  ):
    self.do_lower_case = do_lower_case
    self.strip_accents = (
      do_lower_case if strip_accents is None else strip_accents
    )
    self.tokenize_chinese_chars = tokenize_chinese_chars
    self.never_split = frozenset(never_split)
    # If two tokens begin alike, the longer one matches. The parenthesis
    # makes `re.split` return the tokens, as every second part.
    longest_first = sorted(never_split, key=len, reverse=True)
    alternatives = "|".join(map(re.escape, longest_first))
    self._never_split_pattern = re.compile(f"({alternatives})")
    self._table = _Table(self.normalize_char)
    # Characters that stay as they are in every context, found so far.
    self._unchanged: set[str] = set()

  def tokenize(self, text: str | bytes) -> list[str]:
    """Returns the words and punctuation marks of `text`."""
    words = []
    for stretch in self.split_at_spaces(convert_to_unicode(text)):
      words += self.split_stretch(stretch)
    return words

  def split_at_spaces(self, text: str) -> list[str]:
    """Returns the stretches of `text` between white space, cleaned.

    `split_stretch` of each returns the words that `tokenize` returns.
    """
    if self.never_split:
      text = " ".join(self._never_split_pattern.split(text))
    # Printable text has no control characters and no white space but the
    # space, so cleaning would not change where it is split.
    if not text.isprintable():
      text = text.translate(_CLEAN_TABLE)
    return text.split()

  def split_stretch(self, stretch: str) -> list[str]:
    """Returns the words and punctuation marks of text without white space."""
    if stretch in self.never_split:
      return [stretch]
    if self._unchanged.issuperset(stretch):
      return [stretch]
    if _needs_context(stretch):
      # Printable text was not cleaned, and may hold this one character.
      stretch = stretch.replace(_REPLACEMENT, "")
      forms = [form for _, form in self._normalize_parts(stretch)]
      return "".join(forms).split()
    normalized = stretch.translate(self._table)
    if normalized == stretch and stretch:
      self._unchanged.update(stretch)
    return normalized.split()

  def split_with_offsets(self, text: str) -> list[Word]:
    """Returns the words of `text`, and the source of each of their characters.

    Slower than `tokenize`; the words are the same. A mark that is dropped
    belongs to the character before it, unless there is a space between them.
    When sorting moves marks of which some are kept, their sources cannot be
    told apart: the source of each kept mark is then the whole run of marks.
    """
    places: Sequence[int] = range(len(text))
    if self.never_split:
      text, places = self._separate_never_split(text)
    if not text.isprintable():
      text, places = _clean_with_places(text, places)
    words = []
    for match in _STRETCH.finditer(text):
      stretch = match.group()
      stretch_places = places[match.start() : match.end()]
      if stretch in self.never_split:
        ends = [place + 1 for place in stretch_places]
        words.append(Word(stretch, stretch_places, ends))
      else:
        words += self._split_stretch_with_places(stretch, stretch_places)
    return words

  def _separate_never_split(self, text: str) -> tuple[str, list[int]]:
    """Puts spaces around tokens that are not split.

    Returns:
      The new text, and the place in `text` of each of its characters. The
      place of an added space has no meaning.
    """
    parts = self._never_split_pattern.split(text)
    places: list[int] = []
    place = 0
    for part in parts:
      places += range(place, place + len(part))
      places.append(-1)
      place += len(part)
    return " ".join(parts), places

  def _split_stretch_with_places(
    self, stretch: str, places: Sequence[int]
  ) -> list[Word]:
    """Returns the words of a stretch, given the place of each character."""
    # stretch "É´a,"   forms of its parts   "e"  ""  "a"  " , "
    #                  starts                0        2    3 3 3
    #                  ends                  2        3    4 4 4
    # The dropped mark in the second place extends the end of the "e".
    if _REPLACEMENT in stretch:
      stretch, places = _clean_with_places(stretch, places)
    forms: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    first = 0
    for length, form in self._normalize_parts(stretch):
      next_first = first + length
      end = places[next_first - 1] + 1
      if form:
        forms.append(form)
        starts += [places[first]] * len(form)
        ends += [end] * len(form)
      elif forms:
        last_length = len(forms[-1])
        ends[-last_length:] = [end] * last_length
      first = next_first
    words = []
    for match in _STRETCH.finditer("".join(forms)):
      start, end = match.span()
      words.append(Word(match.group(), starts[start:end], ends[start:end]))
    return words

  def _normalize_parts(self, stretch: str) -> Iterator[tuple[int, str]]:
    """Normalizes a stretch in parts, which are single characters if possible.

    Only marks that change places with others are normalized together.

    Yields:
      The number of characters of a part, and its form as by `normalize_char`.
    """
    if self.do_lower_case and "Σ" in stretch:
      stretch = _lower_sigmas(stretch)
    if not (self.strip_accents and _has_kept_marks(stretch)):
      for char in stretch:
        yield 1, self._table[ord(char)]
      return
    for run in _split_at_mark_runs(stretch):
      decomposed = "".join(unicodedata.normalize("NFD", char) for char in run)
      in_order = sorted(decomposed, key=unicodedata.combining)
      if in_order == list(decomposed):
        for char in run:
          yield 1, self._table[ord(char)]
      else:
        yield len(run), "".join(self._table[ord(part)] for part in in_order)

  def normalize_char(self, char: str) -> str:
    """Returns the result of the basic step for one character without context.

    Spaces in it separate words.
    """
    form = _clean(char)
    if self.tokenize_chinese_chars and _is_cjk(char):
      form = f" {form} "
    if self.do_lower_case:
      form = form.lower()
    if self.strip_accents:
      decomposed = unicodedata.normalize("NFD", form)
      form = "".join(c for c in decomposed if not _is_dropped_mark(c))
    return "".join(f" {c} " if _is_punctuation(c) else c for c in form)


# --- The WordPiece step ------------------------------------------------------


class WordpieceTokenizer:
  """Cuts words into the longest pieces of a vocabulary, from the left."""

  def __init__(
    self,
    vocab: dict[str, int],
    unk_token: str = "[UNK]",
    max_input_chars_per_word: int = 200,
  ):
    self.vocab = vocab
    self.unk_token = unk_token
    self.max_input_chars_per_word = max_input_chars_per_word
    # Pieces inside of words by their text without ##, which then need not be
    # put before each candidate.
    self._inner_pieces: dict[str, str] = {}
    first_bits: dict[str, int] = {}
    inner_bits: dict[str, int] = {}
    for piece in vocab:
      text, bits = piece, first_bits
      if piece.startswith("##"):
        text, bits = piece[len("##") :], inner_bits
        self._inner_pieces[text] = piece
      key = text[:_KEY_LENGTH]
      bits[key] = bits.get(key, 0) | 1 << len(text)
    self._first_lengths = _PieceLengths(vocab, first_bits)
    self._inner_lengths = _PieceLengths(self._inner_pieces, inner_bits)

  def tokenize(self, text: str | bytes) -> list[str]:
    """Returns the pieces of text that `BasicTokenizer` normalized.

    `unaffable` gives `una ##ffa ##ble`. A word that the vocabulary has no
    pieces for, or that is too long, gives the unknown token.
    """
    words = whitespace_tokenize(text)
    return [piece for word in words for piece in self.split_word(word)]

  def split_word(self, word: str) -> list[str]:
    """Returns the pieces of one word."""
    if len(word) > self.max_input_chars_per_word:
      return [self.unk_token]
    if word in self.vocab:
      return [word]
    if not word:
      return []
    lengths = self._first_lengths[word[:_KEY_LENGTH]]
    if word.startswith("##"):  # not in text that was split at punctuation
      lengths = range(len(word), 0, -1)
    for length in lengths:
      piece = word[:length]
      if piece in self.vocab:
        break
    else:
      return [self.unk_token]
    pieces = [piece]
    start = len(piece)
    while start < len(word):
      key = word[start : start + _KEY_LENGTH]
      for length in self._inner_lengths[key]:
        # A length that is more than is left gives all that is left.
        text = word[start : start + length]
        if text in self._inner_pieces:
          break
      else:
        return [self.unk_token]
      pieces.append(self._inner_pieces[text])
      start += len(text)
    return pieces


# Number of characters by which `_PieceLengths` is searched.
_KEY_LENGTH = 3


class _PieceLengths(dict[str, Sequence[int]]):
  """Map from the next characters of a word to the lengths of pieces to try.

  pieces       un  una  unable  under
  next "una"   6 3 2
  next "unx"   2
  """

  def __init__(self, pieces: Mapping[str, Any], bits: Mapping[str, int]):
    """Makes no lists yet: few of them are ever needed.

    Args:
      pieces: Mapping whose keys are the texts of the pieces.
      bits: First characters of pieces -> number with one bit for each length.
    """
    super().__init__()
    self._pieces = pieces
    self._bits = bits

  def __missing__(self, key: str) -> Sequence[int]:
    bits = self._bits.get(key, 0)
    for length in range(1, len(key)):
      if key[:length] in self._pieces:
        bits |= 1 << length
    lengths = self[key] = _list_bits(bits)
    return lengths


@functools.cache
def _list_bits(bits: int) -> Sequence[int]:
  """Returns the places of the bits of a number, the highest first."""
  return [n for n in range(bits.bit_length() - 1, 0, -1) if bits >> n & 1]


# --- Both steps --------------------------------------------------------------


class _CharIds(dict[str, int]):
  """A cache of the ids of characters."""

  def __init__(self, compute: Callable[[str], int]):
    super().__init__()
    self._compute = compute

  def __missing__(self, char: str) -> int:
    token_id = self[char] = self._compute(char)
    return token_id


class _IdCache(dict[str, tuple[int, ...]]):
  """A cache of the ids of stretches of text, of bounded size."""

  def __init__(self, compute: Callable[[str], tuple[int, ...]]):
    super().__init__()
    self._compute = compute

  def __missing__(self, stretch: str) -> tuple[int, ...]:
    ids = self._compute(stretch)
    if len(stretch) <= _CACHED_LENGTH:
      if len(self) >= _CACHE_SIZE:
        # An empty cache costs less than a record of what is used: frequent
        # words come back at once.
        self.clear()
      self[stretch] = ids
    return ids


class FullTokenizer:
  """Text to WordPiece tokens and ids, and back.

  Args:
    vocab_file: Path of a vocabulary, one token per line.
    do_lower_case: Whether to lower-case; True for uncased models.
    strip_accents: Whether to drop accents; None to drop them if
      `do_lower_case`.
    never_split: Tokens, such as `[MASK]`, that are recognized in the text.
    tokenize_chinese_chars: Whether each Chinese character is a word.
    special_tokens: Names of the special tokens.

  Attributes:
    vocab: token -> id.
    inv_vocab: id -> token.
    settings: The settings, as they are kept with models.
    unk_id: Id of the token of unknown words, `[UNK]`.
    cls_id: Id of the token that begins a sequence, `[CLS]`.
    sep_id: Id of the token that ends a text, `[SEP]`.

  Raises:
    UserError: The vocabulary cannot be read, is not UTF-8, or lacks the token
      of unknown words, `[CLS]` or `[SEP]`; or a never-split token is not in it.
  """

  def __init__(
    self,
    vocab_file: str,
    do_lower_case: bool = True,
    strip_accents: bool | None = None,
    never_split: Sequence[str] = (),
    tokenize_chinese_chars: bool = True,
    special_tokens: tokenizer_settings.SpecialTokens = _BERT_TOKENS,
  ):
    self.settings = tokenizer_settings.TokenizerSettings(
      do_lower_case, strip_accents, tokenize_chinese_chars, special_tokens
    )
    self._vocab_file = vocab_file
    tokens = _read_vocab(vocab_file)
    self.vocab = _number_tokens(tokens, vocab_file, special_tokens)
    self.inv_vocab = dict(enumerate(tokens))
    self.unk_id = self.vocab[special_tokens.unk]
    self.cls_id = self.vocab[special_tokens.cls]
    self.sep_id = self.vocab[special_tokens.sep]
    unknown = [token for token in never_split if token not in self.vocab]
    if unknown:
      raise UserError(
        f"{vocab_file} has no token {unknown[0]}, which should be recognized "
        "in the text. Use the vocabulary of a BERT model."
      )
    self.basic_tokenizer = BasicTokenizer(
      do_lower_case, strip_accents, never_split, tokenize_chinese_chars
    )
    self.wordpiece_tokenizer = WordpieceTokenizer(
      self.vocab, special_tokens.unk
    )
    # Parts of a stretch may look like a token that the stretch does not hold.
    self._splits_at_cjk = tokenize_chinese_chars and not never_split
    self._cjk_ids = _CharIds(self._encode_cjk)
    self._word_ids = _IdCache(self._encode_word)
    self._stretch_ids = _IdCache(self._encode_stretch)

  @classmethod
  def from_settings(
    cls,
    vocab_file: str,
    settings: tokenizer_settings.TokenizerSettings,
    never_split: Sequence[str] = (),
  ) -> FullTokenizer:
    """Returns a tokenizer with the settings of a model."""
    return cls(
      vocab_file,
      settings.do_lower_case,
      settings.strip_accents,
      never_split,
      settings.tokenize_chinese_chars,
      settings.special_tokens,
    )

  @property
  def mask_id(self) -> int:
    """Id of the token that stands for a masked one, `[MASK]`.

    Not every vocabulary has it; see `check_special_tokens`.
    """
    return self.vocab[self.settings.special_tokens.mask]

  def check_special_tokens(self, *names: str) -> None:
    """Raises a UserError if special tokens are missing in the vocabulary.

    Args:
      *names: Names of the tokens, such as `mask`.
    """
    for name in names:
      token = getattr(self.settings.special_tokens, name)
      if token not in self.vocab:
        raise UserError(
          f"The vocabulary {self._vocab_file} has no token {token}, which is "
          f"needed. If it has another name there, pass "
          f"--special_tokens={name}=<name>."
        )

  def tokenize(self, text: str | bytes) -> list[str]:
    """Returns the WordPiece tokens of `text`."""
    return self.convert_ids_to_tokens(self.encode(text))

  def encode(self, text: str | bytes) -> list[int]:
    """Returns the ids of the WordPiece tokens of `text`."""
    text = convert_to_unicode(text)
    stretches = self.basic_tokenizer.split_at_spaces(text)
    ids = map(self._stretch_ids.__getitem__, stretches)
    return list(itertools.chain.from_iterable(ids))

  def encode_each(self, words: Iterable[str]) -> list[Sequence[int]]:
    """Returns the result of `encode` for each of several texts.

    Faster than `encode` for texts without white space. Callers must not change
    the results, which are shared with the cache.
    """
    if self.basic_tokenizer.never_split:
      return [self.encode(word) for word in words]
    # Printable text without a space is one stretch; see `split_at_spaces`.
    return [
      self._stretch_ids[word]
      if word.isprintable() and " " not in word
      else self.encode(word)
      for word in words
    ]

  def encode_with_offsets(
    self, text: str | bytes
  ) -> tuple[list[int], list[tuple[int, int]]]:
    """Returns ids, and for each (start, end) of its source in `text`.

    Slower than `encode`; the ids are the same. `text[start:end]` is the text as
    it was written, accents and capitals included. The source of `[UNK]` is the
    whole word. Offsets in bytes count the characters of `convert_to_unicode`.
    """
    ids: list[int] = []
    offsets: list[tuple[int, int]] = []
    text = convert_to_unicode(text)
    for word in self.basic_tokenizer.split_with_offsets(text):
      pieces = self.wordpiece_tokenizer.split_word(word.text)
      ids.extend(self.vocab[piece] for piece in pieces)
      if len(pieces) == 1:
        offsets.append((word.starts[0], word.ends[-1]))
        continue
      first = 0
      for piece in pieces:
        next_first = first + len(piece) - (2 if first else 0)
        offsets.append((word.starts[first], word.ends[next_first - 1]))
        first = next_first
    return ids, offsets

  def convert_tokens_to_ids(self, tokens: Iterable[str]) -> list[int]:
    """Returns the id of each token; raises a KeyError for an unknown one."""
    return convert_by_vocab(self.vocab, tokens)

  def convert_ids_to_tokens(self, ids: Iterable[int]) -> list[str]:
    """Returns the token of each id."""
    return convert_by_vocab(self.inv_vocab, ids)

  def _encode_stretch(self, stretch: str) -> tuple[int, ...]:
    # Most scripts come before the Chinese characters.
    if self._splits_at_cjk and max(stretch, default="") >= _FIRST_CJK:
      parts = _CJK_RUN.split(stretch)
      if len(parts) > 1:
        return self._encode_between_cjk(parts)
    words = self.basic_tokenizer.split_stretch(stretch)
    ids = map(self._word_ids.__getitem__, words)
    return tuple(itertools.chain.from_iterable(ids))

  def _encode_between_cjk(self, parts: Sequence[str]) -> tuple[int, ...]:
    """Returns the ids of a stretch that has Chinese characters.

    Every Chinese character is a word and separates its neighbours, so all parts
    have the ids that they would have alone. Chinese has no spaces: most
    stretches occur once, but their characters often.

    Args:
      parts: The stretch; every second part holds only Chinese characters.
    """
    ids: list[int] = []
    for number, part in enumerate(parts):
      if number % 2:
        ids.extend(map(self._cjk_ids.__getitem__, part))
      elif part:
        ids.extend(self._stretch_ids[part])
    return tuple(ids)

  def _encode_cjk(self, char: str) -> int:
    """Returns the id of a Chinese character, which is a word of one piece."""
    [word] = self.basic_tokenizer.split_stretch(char)
    [token_id] = self._word_ids[word]
    return token_id

  def _encode_word(self, word: str) -> tuple[int, ...]:
    pieces = self.wordpiece_tokenizer.split_word(word)
    return tuple(self.convert_tokens_to_ids(pieces))


# --- Vocabularies ------------------------------------------------------------


def load_vocab(
  vocab_file: str,
  special_tokens: tokenizer_settings.SpecialTokens = _BERT_TOKENS,
) -> dict[str, int]:
  """Returns a vocabulary, one token per line, as token -> id.

  Lines are stripped. A token that occurs twice has the later id, as in the
  original code.

  Raises:
    UserError: See `FullTokenizer`.
  """
  return _number_tokens(_read_vocab(vocab_file), vocab_file, special_tokens)


def _read_vocab(vocab_file: str) -> list[str]:
  """Returns the stripped lines of a vocabulary, without blank ones at its end.

  A blank line before the end keeps its number.
  """
  content = tokenizer_settings.read_vocabulary(vocab_file)
  text = _decode_vocab(content, vocab_file)
  # Only line feeds end a line: some tokens are other line separators. Files
  # without any may come from an old Mac.
  lines = text.split("\n" if "\n" in text else "\r")
  blank = [i for i, line in enumerate(lines) if not line.strip(" \t\r")]
  while blank and blank[-1] == len(lines) - 1:
    blank.pop()
    lines.pop()
  if not lines:
    raise UserError(f"The vocabulary {vocab_file} is empty.")
  if blank:
    numbers = _join_some([str(i + 1) for i in blank])
    which = f"line {numbers} is" if len(blank) == 1 else f"lines {numbers} are"
    _warn_once(f"{vocab_file}: {which} blank. No text can have such an id.")
  return [line.strip() for line in lines]


def _decode_vocab(content: bytes, vocab_file: str) -> str:
  """Returns the text of a vocabulary; raises a UserError if it is not UTF-8."""
  encoding = text_decoding.find_marked_encoding(content) or "utf-8"
  # The first character is ASCII, so one of its two bytes is zero.
  if content[:2].count(0) == 1:
    encoding = "utf-16"
  if encoding != "utf-8":
    raise UserError(
      f"The vocabulary {vocab_file} is text in {encoding.upper()}. Convert it "
      f"to UTF-8, for example with `iconv -f {encoding} -t utf-8`."
    )
  text = text_decoding.decode(content, vocab_file)
  if "\0" in text:
    line = text.count("\n", 0, text.index("\0")) + 1
    raise UserError(
      f"The vocabulary {vocab_file} has a zero byte in line {line}. Is it text "
      "in UTF-8?"
    )
  return text


@functools.cache
def _warn_once(message: str) -> None:
  """Logs a warning, once even if a file is read several times."""
  logging.warning("%s", message)


def _join_some(names: Sequence[str]) -> str:
  """Returns the first few of the names, and the number of the others."""
  shown = ", ".join(names[:_MOST_LINES_SHOWN])
  more = len(names) - _MOST_LINES_SHOWN
  return f"{shown} and {more} more" if more > 0 else shown


def _number_tokens(
  tokens: list[str],
  vocab_file: str,
  special_tokens: tokenizer_settings.SpecialTokens,
) -> dict[str, int]:
  """Returns token -> id, after a check for the tokens that are required."""
  vocab: dict[str, int] = {}
  doubled = []
  for i, token in enumerate(tokens):
    if token and token in vocab:
      doubled.append(f"{token!r} in lines {vocab[token] + 1} and {i + 1}")
    vocab[token] = i
  required = (special_tokens.unk, special_tokens.cls, special_tokens.sep)
  if not all(token in vocab for token in required):
    names = dataclasses.asdict(special_tokens).values()
    missing = [token for token in names if token not in vocab]
    raise UserError(
      f"The vocabulary {vocab_file} has {len(vocab)} tokens, but not "
      f"{', '.join(missing)}. If they have other names there, pass "
      "--special_tokens=cls=<name>,sep=<name> and so on; if not, use the "
      "vocab.txt of a BERT model."
    )
  if doubled:
    _warn_once(
      f"{vocab_file} has {_join_some(doubled)}. The later line counts."
    )
  return vocab


# --- Casing ------------------------------------------------------------------


def has_capitals(vocab: Iterable[str]) -> bool:
  """Returns whether a tenth of a vocabulary or more has capitals."""
  words = [token for token in vocab if not token.startswith("[")]
  num_capitals = sum(token != token.lower() for token in words)
  return 0 < 0.1 * len(words) <= num_capitals


def validate_case_matches_vocab(
  do_lower_case: bool, vocab: Iterable[str], vocab_file: str
) -> None:
  """Checks that lower-casing suits a vocabulary.

  Raises:
    UserError: Text would be lower-cased although a tenth of the vocabulary or
      more has capitals, and so could never be used.
  """
  words = [token for token in vocab if not token.startswith("[")]
  num_capitals = sum(token != token.lower() for token in words)
  if do_lower_case and has_capitals(words):
    raise UserError(
      f"--do_lower_case is on, but {num_capitals} of the {len(words)} words "
      f"of {vocab_file} have capitals: this is a cased model. Pass "
      "--do_lower_case=False."
    )
  if not do_lower_case and not num_capitals and any(map(str.islower, words)):
    logging.warning(
      "--do_lower_case is off, but no word of %s has capitals: every word "
      "with a capital becomes [UNK]. For an uncased model, leave it on.",
      vocab_file,
    )


def validate_case_matches_checkpoint(
  do_lower_case: bool, init_checkpoint: str | None
) -> None:
  """Checks that lower-casing suits a checkpoint, by the name of its folder.

  Only names of released models tell, such as `cased_L-12_H-768_A-12`. Our own
  programs look at the vocabulary instead.

  Raises:
    UserError: The name says the opposite.
  """
  folder = os.path.basename(os.path.dirname(init_checkpoint or ""))
  released = _RELEASED_NAME.fullmatch(folder)
  if not released:
    return
  is_cased = released["kind"].split("_")[-1] == "cased"
  if do_lower_case == is_cased:
    kind = "a cased" if is_cased else "an uncased"
    raise UserError(
      f"--do_lower_case={do_lower_case}, but {init_checkpoint} is {kind} "
      f"model. Pass --do_lower_case={not is_cased}."
    )


# --- Functions that other people's programs import ---------------------------


def convert_to_unicode(text: str | bytes) -> str:
  """Returns text; of bytes, their UTF-8 without those that are no text.

  Raises:
    ValueError: The argument is neither.
  """
  if isinstance(text, str):
    return text
  if isinstance(text, bytes):
    return text.decode("utf-8", "ignore")
  raise ValueError(f"{text!r} is neither str nor bytes.")


def printable_text(text: str | bytes) -> str:
  """Returns text in the form in which `print` takes it."""
  return convert_to_unicode(text)


def whitespace_tokenize(text: str | bytes) -> list[str]:
  """Returns the parts of text between white space."""
  return convert_to_unicode(text).split()


def convert_by_vocab(vocab: Mapping[Any, Any], items: Iterable[Any]) -> list:
  """Returns the entry of each item; raises a KeyError for an unknown one."""
  return list(map(vocab.__getitem__, items))


def convert_tokens_to_ids(
  vocab: Mapping[str, int], tokens: Iterable[str]
) -> list[int]:
  """Returns the id of each token, by `load_vocab`."""
  return convert_by_vocab(vocab, tokens)


def convert_ids_to_tokens(
  inv_vocab: Mapping[int, str], ids: Iterable[int]
) -> list[str]:
  """Returns the token of each id, by an inverted vocabulary."""
  return convert_by_vocab(inv_vocab, ids)
