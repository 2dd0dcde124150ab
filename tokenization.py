"""WordPiece tokenization: text to pieces and ids, exactly as BERT's.

Two steps (Wu et al., 2016, section 4.1, as the paper uses it). The basic step
cleans the text, puts spaces round Chinese characters, lower-cases and strips
accents if asked to, and splits at white space and punctuation. The WordPiece
step cuts each word into the longest pieces of the vocabulary, from the left.

The speed comes from doing little per character. What the basic step does to a
character is looked up in a table, and what both steps make of a stretch of
text between two spaces is remembered: running text is mostly words, with or
without a comma, that were seen before.
"""

from collections.abc import Iterable, Iterator, Sequence
import itertools
import re
from typing import NamedTuple
import unicodedata

from absl import logging

from data import file_io
from errors import UserError

REQUIRED_TOKENS = ("[UNK]", "[CLS]", "[SEP]", "[MASK]")

# The blocks that count as Chinese characters. Hangul, Hiragana and Katakana
# are not among them: those scripts are written with spaces, or were cut up by
# WordPiece when the released models were made.
_CJK_BLOCKS = (
  (0x4E00, 0x9FFF),
  (0x3400, 0x4DBF),
  (0x20000, 0x2A6DF),
  (0x2A700, 0x2B73F),
  (0x2B740, 0x2B81F),
  (0x2B820, 0x2CEAF),
  (0xF900, 0xFAFF),
  (0x2F800, 0x2FA1F),
)

# How many stretches of text the tokenizer remembers, and how long they may be.
# 2**18 take about 60 MB, and 30 MB of English novels stay within them.
_CACHE_SIZE = 2**18
_CACHED_LENGTH = 40

# What white space separates, as `str.split` has it.
_STRETCH = re.compile(r"\S+")
# Stands for bytes that were no text. It is dropped, though it is printable.
_REPLACEMENT = "\ufffd"


def _is_whitespace(char: str) -> bool:
  return char in " \t\n\r" or unicodedata.category(char) == "Zs"


def _is_control(char: str) -> bool:
  return char not in "\t\n\r" and unicodedata.category(char) in ("Cc", "Cf")


def _is_punctuation(char: str) -> bool:
  if ord(char) < 128:  # ^, $ and ` count, which Unicode calls symbols.
    return not char.isalnum() and char > " " and char != "\x7f"
  return unicodedata.category(char).startswith("P")


def _is_cjk(char: str) -> bool:
  return any(first <= ord(char) <= last for first, last in _CJK_BLOCKS)


def _clean(char: str) -> str:
  """What cleaning leaves of a character: nothing, a space, or itself."""
  if char in "\0" + _REPLACEMENT or _is_control(char):
    return ""
  return " " if _is_whitespace(char) else char


class _Table(dict):
  """A table for `str.translate` that fills itself on demand."""

  def __init__(self, function):
    super().__init__()
    self._function = function

  def __missing__(self, codepoint):
    result = self[codepoint] = self._function(chr(codepoint))
    return result


_CLEAN_TABLE = _Table(_clean)


def _clean_with_places(
  text: str, places: Sequence[int]
) -> tuple[str, list[int]]:
  """Cleans text; keeps of the places of its characters those that are left."""
  cleaned = [_CLEAN_TABLE[ord(char)] for char in text]
  return "".join(cleaned), [
    place for place, char in zip(places, cleaned) if char
  ]


class _KeptMarks(dict):
  """Whether a character is, or decomposes into, a mark that is kept.

  Such marks (category Mc with a combining class) have an order of their own:
  Unicode's normal form sorts them, and the marks that are dropped, by class.
  """

  def __missing__(self, char):
    result = self[char] = any(
      unicodedata.combining(part) and unicodedata.category(part) != "Mn"
      for part in unicodedata.normalize("NFD", char)
    )
    return result


_KEPT_MARKS = _KeptMarks()


def _has_kept_marks(text: str) -> bool:
  # One character at a time: `unicodedata.normalize` needs time that grows with
  # the square of the length of a run of marks.
  return any(map(_KEPT_MARKS.__getitem__, text))


def _needs_context(text: str) -> bool:
  """Whether characters of `text` change what becomes of their neighbours.

  Only two kinds do: a capital sigma is lower-cased by its place in the word,
  and marks that are kept are put in canonical order.
  """
  return not text.isascii() and ("Σ" in text or _has_kept_marks(text))


def _lower_sigmas(text: str) -> str:
  """Lower-cases capital sigmas, each by its place in its word."""
  lowered = iter(re.findall("[σς]", text.lower()))
  return re.sub("[Σσς]", lambda _: next(lowered), text)


def _runs_of_marks(text: str) -> Iterator[str]:
  """Cuts text at all places that marks cannot cross when they are sorted."""
  start = 0
  ends_in_mark = False
  for place, char in enumerate(text):
    decomposed = unicodedata.normalize("NFD", char)
    if place and not (ends_in_mark and unicodedata.combining(decomposed[0])):
      yield text[start:place]
      start = place
    ends_in_mark = unicodedata.combining(decomposed[-1]) > 0
  yield text[start:]


class Word(NamedTuple):
  """A word of normalized text.

  Attributes:
    text: the word.
    starts: for each of its characters, where the text that it was made of
      begins.
    ends: where that text ends.
  """

  text: str
  starts: Sequence[int]
  ends: Sequence[int]


class BasicTokenizer:
  """Cleans text and splits it at white space and punctuation.

  Args:
    do_lower_case: whether to lower-case.
    strip_accents: whether to drop accents. None: if `do_lower_case`.
    never_split: tokens, such as `[MASK]`, that are kept as they are wherever
      they stand in the text.
  """

  def __init__(
    self,
    do_lower_case: bool = True,
    strip_accents=None,
    never_split: Sequence[str] = (),
  ):
    self.do_lower_case = do_lower_case
    self.strip_accents = (
      do_lower_case if strip_accents is None else strip_accents
    )
    self.never_split = frozenset(never_split)
    self._never_split_pattern = re.compile(
      "({})".format(
        "|".join(map(re.escape, sorted(never_split, key=len, reverse=True)))
      )
    )
    self._table = _Table(self.normalize_char)

  def tokenize(self, text: str) -> list[str]:
    """Returns the words and punctuation marks of `text`."""
    return [
      word
      for stretch in self.split_at_spaces(text)
      for word in self.split_stretch(stretch)
    ]

  def split_at_spaces(self, text: str) -> list[str]:
    """Cleans `text` and returns the stretches between white space.

    `split_stretch` finds in each what `tokenize` would find there.
    """
    if self.never_split:
      # The pattern's parenthesis makes every second part a token.
      parts = self._never_split_pattern.split(text)
      text = " ".join(parts)
    # Text that is printable has no control characters and no white space but
    # the space, so cleaning could not change where it is split.
    if not text.isprintable():
      text = text.translate(_CLEAN_TABLE)
    return text.split()

  def split_stretch(self, stretch: str) -> list[str]:
    """Returns the words and punctuation marks of text without white space."""
    if stretch in self.never_split:
      return [stretch]
    if _needs_context(stretch):
      # Printable text was not cleaned, and may hold this one character.
      stretch = stretch.replace(_REPLACEMENT, "")
      return "".join(form for _, form in self._parts(stretch)).split()
    return stretch.translate(self._table).split()

  def split_with_offsets(self, text: str) -> list[Word]:
    """Returns the words of `text`, and where each character comes from.

    Slower than `tokenize`; the words are the same. A mark that was dropped
    counts to the character before it, unless there is a space between them.
    Marks that were sorted, and of which some are kept, cannot be told apart:
    each of them that is kept stands for all.
    """
    places = range(len(text))
    if self.never_split:
      text, places = self._part_tokens(text)
    if not text.isprintable():
      text, places = _clean_with_places(text, places)
    words = []
    for match in _STRETCH.finditer(text):
      stretch = match.group()
      stretch_places = places[match.start() : match.end()]
      if stretch in self.never_split:
        words.append(
          Word(stretch, stretch_places, [place + 1 for place in stretch_places])
        )
      else:
        words += self._split_stretch_with_places(stretch, stretch_places)
    return words

  def _part_tokens(self, text: str) -> tuple[str, list[int]]:
    """Puts spaces around tokens that are not split.

    Returns:
      The text, and where each of its characters was before. The place of an
      added space has no meaning.
    """
    parts = self._never_split_pattern.split(text)
    places = []
    place = 0
    for part in parts:
      places += [*range(place, place + len(part)), -1]
      place += len(part)
    return " ".join(parts), places

  def _split_stretch_with_places(
    self, stretch: str, places: Sequence[int]
  ) -> list[Word]:
    """Returns the words of a stretch, given the place of each character."""
    if _REPLACEMENT in stretch:
      stretch, places = _clean_with_places(stretch, places)
    forms, starts, ends = [], [], []
    first = 0
    for length, form in self._parts(stretch):
      last = first + length - 1
      if form:
        forms.append(form)
        starts += [places[first]] * len(form)
        ends += [places[last] + 1] * len(form)
      elif forms:
        ends[-len(forms[-1]) :] = [places[last] + 1] * len(forms[-1])
      first += length
    return [
      Word(
        match.group(), starts[slice(*match.span())], ends[slice(*match.span())]
      )
      for match in _STRETCH.finditer("".join(forms))
    ]

  def _parts(self, stretch: str) -> Iterator[tuple[int, str]]:
    """Normalizes a stretch in parts, which are single characters if possible.

    Only marks that change places with others are normalized together.

    Yields:
      How many characters a part has, and its form as by `normalize_char`.
    """
    if self.do_lower_case and "Σ" in stretch:
      stretch = _lower_sigmas(stretch)
    has_order = self.strip_accents and _has_kept_marks(stretch)
    for run in _runs_of_marks(stretch) if has_order else stretch:
      ordered = decomposed = [run]
      if has_order:
        decomposed = [
          part for char in run for part in unicodedata.normalize("NFD", char)
        ]
        ordered = sorted(decomposed, key=unicodedata.combining)
      if ordered == decomposed:
        yield from ((1, self._table[ord(char)]) for char in run)
      else:
        yield len(run), "".join(self._table[ord(part)] for part in ordered)

  def normalize_char(self, char: str) -> str:
    """What the basic step makes of one character, out of context.

    Where a word ends there is a space.
    """
    cleaned = _clean(char)
    if _is_cjk(char):
      cleaned = f" {cleaned} "
    if self.do_lower_case:
      cleaned = cleaned.lower()
    if self.strip_accents:
      cleaned = "".join(
        c
        for c in unicodedata.normalize("NFD", cleaned)
        if unicodedata.category(c) != "Mn"
      )
    return "".join(f" {c} " if _is_punctuation(c) else c for c in cleaned)


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
    # No piece is longer, so no longer one need be looked for.
    self._longest = max(map(len, vocab))

  def tokenize(self, text: str) -> list[str]:
    """Returns the pieces of text that `BasicTokenizer` went over.

    `unaffable` gives `una ##ffa ##ble`; a word that cannot be put together
    from the vocabulary, or that is too long, gives the unknown token.
    """
    return [piece for word in text.split() for piece in self.split_word(word)]

  def split_word(self, word: str) -> list[str]:
    """Returns the pieces of one word."""
    if word in self.vocab and len(word) <= self.max_input_chars_per_word:
      return [word]
    if len(word) > self.max_input_chars_per_word:
      return [self.unk_token]
    pieces = []
    start = 0
    while start < len(word):
      prefix = "##" if start else ""
      for end in range(min(len(word), start + self._longest), start, -1):
        piece = prefix + word[start:end]
        if piece in self.vocab:
          pieces.append(piece)
          start = end
          break
      else:
        return [self.unk_token]
    return pieces


class _IdCache(dict):
  """Remembers the ids of stretches of text, a bounded number of them."""

  def __init__(self, compute):
    super().__init__()
    self._compute = compute

  def __missing__(self, stretch):
    ids = self._compute(stretch)
    if len(stretch) <= _CACHED_LENGTH:
      if len(self) >= _CACHE_SIZE:
        # Starting afresh costs less than keeping count of what is used:
        # frequent words come back at once.
        self.clear()
      self[stretch] = ids
    return ids


class FullTokenizer:
  """Text to WordPiece tokens and ids, and back.

  Args:
    vocab_file: a vocabulary, one token a line.
    do_lower_case: whether to lower-case; True for uncased models.
    strip_accents: whether to drop accents. None: if `do_lower_case`.
    never_split: tokens, such as `[MASK]`, that are recognized in the text.

  Attributes:
    vocab: token -> id.
    inv_vocab: id -> token.

  Raises:
    UserError: the vocabulary cannot be read, is not UTF-8, or lacks `[UNK]`,
      `[CLS]`, `[SEP]` or `[MASK]`; or a never-split token is not in it.
  """

  def __init__(
    self,
    vocab_file: str,
    do_lower_case: bool = True,
    strip_accents=None,
    never_split: Sequence[str] = (),
  ):
    tokens = _read_vocab(vocab_file)
    self.vocab = _number_tokens(tokens, vocab_file)
    self.inv_vocab = dict(enumerate(tokens))
    unknown = [token for token in never_split if token not in self.vocab]
    if unknown:
      raise UserError(
        f"{vocab_file} has no token {unknown[0]}, which is to "
        "be recognized in the text."
      )
    self.basic_tokenizer = BasicTokenizer(
      do_lower_case, strip_accents, never_split
    )
    self.wordpiece_tokenizer = WordpieceTokenizer(self.vocab)
    self._word_ids = _IdCache(self._encode_word)
    self._stretch_ids = _IdCache(self._encode_stretch)

  def tokenize(self, text: str) -> list[str]:
    """Returns the WordPiece tokens of `text`."""
    return self.convert_ids_to_tokens(self.encode(text))

  def encode(self, text: str) -> list[int]:
    """Returns the ids of the WordPiece tokens of `text`."""
    return list(
      itertools.chain.from_iterable(
        map(
          self._stretch_ids.__getitem__,
          self.basic_tokenizer.split_at_spaces(text),
        )
      )
    )

  def encode_each(self, words: Iterable[str]) -> list[Sequence[int]]:
    """Returns what `encode` returns for each of texts, which are mostly words.

    Faster for those without white space; what is returned must not be changed.
    """
    if self.basic_tokenizer.never_split:
      return [self.encode(word) for word in words]
    # What is printable and no space cannot be split further, see
    # `split_at_spaces`.
    return [
      self._stretch_ids[word]
      if word.isprintable() and " " not in word
      else self.encode(word)
      for word in words
    ]

  def encode_with_offsets(
    self, text: str
  ) -> tuple[list[int], list[tuple[int, int]]]:
    """Returns ids, and for each the stretch of `text` that it stands for.

    Slower than `encode`; the ids are the same. `text[start:end]` is what was
    written, accents and capitals included. A word that became `[UNK]` is
    covered whole.
    """
    ids = []
    offsets = []
    for word in self.basic_tokenizer.split_with_offsets(text):
      pieces = self.wordpiece_tokenizer.split_word(word.text)
      ids.extend(self.vocab[piece] for piece in pieces)
      if len(pieces) == 1:
        offsets.append((word.starts[0], word.ends[-1]))
        continue
      first = 0
      for piece in pieces:
        last = first + len(piece) - (2 if first else 0)
        offsets.append((word.starts[first], word.ends[last - 1]))
        first = last
    return ids, offsets

  def convert_tokens_to_ids(self, tokens: Iterable[str]) -> list[int]:
    """Returns the id of each token; a KeyError names one that has none."""
    return [self.vocab[token] for token in tokens]

  def convert_ids_to_tokens(self, ids: Iterable[int]) -> list[str]:
    """Returns the token of each id."""
    return list(map(self.inv_vocab.__getitem__, ids))

  def _encode_stretch(self, stretch: str) -> tuple[int, ...]:
    return tuple(
      itertools.chain.from_iterable(
        [
          self._word_ids[word]
          for word in self.basic_tokenizer.split_stretch(stretch)
        ]
      )
    )

  def _encode_word(self, word: str) -> tuple[int, ...]:
    return tuple(
      self.convert_tokens_to_ids(self.wordpiece_tokenizer.split_word(word))
    )


# --- Vocabularies ------------------------------------------------------------


def load_vocab(vocab_file: str) -> dict[str, int]:
  """Reads a vocabulary, one token a line, as token -> id.

  Lines are stripped, and of a token that is there twice the later id counts,
  as it always was.

  Raises:
    UserError: see `FullTokenizer`.
  """
  return _number_tokens(_read_vocab(vocab_file), vocab_file)


def _read_vocab(vocab_file: str) -> list[str]:
  text = file_io.read_text(vocab_file)
  if not text.strip():
    raise UserError(f"The vocabulary {vocab_file} is empty.")
  if "\0" in text:
    line = text.count("\n", 0, text.index("\0")) + 1
    raise UserError(
      f"The vocabulary {vocab_file} has a zero byte in line "
      f"{line}. Is it text, in UTF-8?"
    )
  # Only line feeds end a line: some tokens are other line separators.
  return [line.strip() for line in text.removesuffix("\n").split("\n")]


def _number_tokens(tokens: list[str], vocab_file: str) -> dict[str, int]:
  vocab = {token: i for i, token in enumerate(tokens)}
  missing = [token for token in REQUIRED_TOKENS if token not in vocab]
  if missing:
    raise UserError(
      f"The vocabulary {vocab_file} has {len(vocab)} tokens, but not "
      f"{', '.join(missing)}. Is it the vocab.txt of a BERT model?"
    )
  return vocab


def validate_case_matches_vocab(
  do_lower_case: bool, vocab: Iterable[str], vocab_file: str
) -> None:
  """Checks that lower-casing suits a vocabulary.

  Raises:
    UserError: text would be lower-cased though a tenth of the vocabulary or
      more has capitals, and so could never be used.
  """
  words = [token for token in vocab if not token.startswith("[")]
  num_capitals = sum(token != token.lower() for token in words)
  if do_lower_case and num_capitals >= 0.1 * len(words):
    raise UserError(
      f"--do_lower_case is on, but {num_capitals} of the {len(words)} words "
      f"of {vocab_file} have capitals: this is a cased model. Pass "
      "--do_lower_case=False."
    )
  if not do_lower_case and not num_capitals and any(map(str.islower, words)):
    logging.warning(
      "--do_lower_case is off, but no word of %s has capitals: every word "
      "with one becomes [UNK]. For an uncased model, leave it on.",
      vocab_file,
    )
