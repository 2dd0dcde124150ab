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

import itertools
import re
import unicodedata
from typing import Iterable, NamedTuple, Sequence

from absl import logging
import tensorflow as tf

from errors import UserError

REQUIRED_TOKENS = ("[UNK]", "[CLS]", "[SEP]", "[MASK]")

# The blocks that count as Chinese characters. Hangul, Hiragana and Katakana
# are not among them: those scripts are written with spaces, or were cut up by
# WordPiece when the released models were made.
_CJK_BLOCKS = ((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF),
               (0x2A700, 0x2B73F), (0x2B740, 0x2B81F), (0x2B820, 0x2CEAF),
               (0xF900, 0xFAFF), (0x2F800, 0x2FA1F))

# How many stretches of text the tokenizer remembers, and how long they may be.
# 2**18 take about 60 MB, and 30 MB of English novels stay within them.
_CACHE_SIZE = 2 ** 18
_CACHED_LENGTH = 40


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
  if char in "\0\ufffd" or _is_control(char):
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


def _needs_context(text: str) -> bool:
  """Whether characters of `text` change what becomes of their neighbours.

  Only two kinds do: a capital sigma is lower-cased by its place in the word,
  and marks that are kept (category Mc) are put in canonical order.
  """
  return not text.isascii() and ("Σ" in text or any(
      unicodedata.combining(char) and unicodedata.category(char) != "Mn"
      for char in unicodedata.normalize("NFD", text)))


class _Char(NamedTuple):
  """A character of normalized text, and the stretch of text it stands for."""

  text: str
  start: int
  end: int


class BasicTokenizer:
  """Cleans text and splits it at white space and punctuation.

  Args:
    do_lower_case: whether to lower-case.
    strip_accents: whether to drop accents. None: if `do_lower_case`.
    never_split: tokens, such as `[MASK]`, that are kept as they are wherever
      they stand in the text.
  """

  def __init__(self, do_lower_case: bool = True, strip_accents=None,
               never_split: Sequence[str] = ()):
    self.do_lower_case = do_lower_case
    self.strip_accents = (
        do_lower_case if strip_accents is None else strip_accents)
    self.never_split = frozenset(never_split)
    self._never_split_pattern = re.compile("({})".format("|".join(
        map(re.escape, sorted(never_split, key=len, reverse=True)))))
    self._table = _Table(self.normalize_char)

  def tokenize(self, text: str) -> list[str]:
    """Returns the words and punctuation marks of `text`."""
    return [word for stretch in self.split_at_spaces(text)
            for word in self.split_stretch(stretch)]

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
      return [_text(word) for word in self.split_with_offsets(stretch)]
    return stretch.translate(self._table).split()

  def split_with_offsets(self, text: str) -> list[list[_Char]]:
    """Returns the words of `text`, and where each character comes from.

    One character at a time, where `tokenize` uses tables: slower, the same
    result. A mark that was dropped counts to the character before it.
    """
    words = []
    for part in self._split_never_split(text):
      if len(part) == 1 and part[0].text in self.never_split:
        words.append(part)
        continue
      for stretch in _split_chars(_clean_chars(part)):
        words.extend(self._split_punctuation(self._normalize_chars(stretch)))
    return words

  def _split_never_split(self, text: str):
    """Yields lists of characters, a never-split token being one character."""
    position = 0
    parts = [text]
    if self.never_split:
      parts = self._never_split_pattern.split(text)
    for part in parts:
      end = position + len(part)
      if part in self.never_split:
        yield [_Char(part, position, end)]
      else:
        yield [_Char(char, position + i, position + i + 1)
               for i, char in enumerate(part)]
      position = end

  def _normalize_chars(self, chars: list[_Char]) -> list[_Char]:
    """Lower-cases and strips accents of one stretch, by Unicode's rules."""
    if self.do_lower_case:
      lowered = iter("".join(char.text for char in chars).lower())
      chars = [char._replace(text=text) for char in chars
               for text in itertools.islice(lowered, len(char.text.lower()))]
    if not self.strip_accents:
      return chars
    chars = [char._replace(text=text) for char in chars
             for text in unicodedata.normalize("NFD", char.text)]
    result = []
    # Canonical order: runs of marks are sorted by class, which is stable.
    for is_mark, run in itertools.groupby(
        chars, lambda char: unicodedata.combining(char.text) > 0):
      if is_mark:
        run = sorted(run, key=lambda char: unicodedata.combining(char.text))
      for char in run:
        if unicodedata.category(char.text) != "Mn":
          result.append(char)
        elif result:
          result[-1] = result[-1]._replace(end=max(result[-1].end, char.end))
    return result

  def _split_punctuation(self, chars: list[_Char]) -> list[list[_Char]]:
    words = [[]]
    for char in chars:
      if _is_punctuation(char.text):
        words.extend(([char], []))
      elif char.text.isspace():
        words.append([])
      else:
        words[-1].append(char)
    return [word for word in words if word]

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
      cleaned = "".join(c for c in unicodedata.normalize("NFD", cleaned)
                        if unicodedata.category(c) != "Mn")
    return "".join(f" {c} " if _is_punctuation(c) else c for c in cleaned)


def _text(chars: Iterable[_Char]) -> str:
  return "".join(char.text for char in chars)


def _clean_chars(chars: Iterable[_Char]) -> Iterable[_Char]:
  for char in chars:
    cleaned = _clean(char.text)
    if cleaned and _is_cjk(cleaned):
      space = _Char(" ", char.start, char.start)
      yield from (space, char, space)
    elif cleaned:
      yield char._replace(text=cleaned)


def _split_chars(chars: Iterable[_Char]) -> list[list[_Char]]:
  """Splits characters at what Python calls white space."""
  return [list(run) for is_space, run in itertools.groupby(
      chars, lambda char: char.text.isspace()) if not is_space]


class WordpieceTokenizer:
  """Cuts words into the longest pieces of a vocabulary, from the left."""

  def __init__(self, vocab: dict[str, int], unk_token: str = "[UNK]",
               max_input_chars_per_word: int = 200):
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
    UserError: the vocabulary is missing, is not UTF-8, or lacks `[UNK]`,
      `[CLS]`, `[SEP]` or `[MASK]`; or a never-split token is not in it.
  """

  def __init__(self, vocab_file: str, do_lower_case: bool = True,
               strip_accents=None, never_split: Sequence[str] = ()):
    tokens = _read_vocab(vocab_file)
    self.vocab = _number_tokens(tokens, vocab_file)
    self.inv_vocab = dict(enumerate(tokens))
    unknown = [token for token in never_split if token not in self.vocab]
    if unknown:
      raise UserError(f"{vocab_file} has no token {unknown[0]}, which is to "
                      "be recognized in the text.")
    self.basic_tokenizer = BasicTokenizer(
        do_lower_case, strip_accents, never_split)
    self.wordpiece_tokenizer = WordpieceTokenizer(self.vocab)
    self._word_ids = _IdCache(self._encode_word)
    self._stretch_ids = _IdCache(self._encode_stretch)

  def tokenize(self, text: str) -> list[str]:
    """Returns the WordPiece tokens of `text`."""
    return self.convert_ids_to_tokens(self.encode(text))

  def encode(self, text: str) -> list[int]:
    """Returns the ids of the WordPiece tokens of `text`."""
    return list(itertools.chain.from_iterable(
        map(self._stretch_ids.__getitem__,
            self.basic_tokenizer.split_at_spaces(text))))

  def encode_each(self, words: Iterable[str]) -> list[Sequence[int]]:
    """Returns what `encode` returns for each of texts, which are mostly words.

    Faster for those without white space; what is returned must not be changed.
    """
    if self.basic_tokenizer.never_split:
      return [self.encode(word) for word in words]
    # What is printable and no space cannot be split further, see
    # `split_at_spaces`.
    return [self._stretch_ids[word] if word.isprintable() and " " not in word
            else self.encode(word) for word in words]

  def encode_with_offsets(
      self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """Returns ids, and for each the stretch of `text` that it stands for.

    Slower than `encode`; the ids are the same. `text[start:end]` is what was
    written, accents and capitals included. A word that became `[UNK]` is
    covered whole.
    """
    ids = []
    offsets = []
    for word in self.basic_tokenizer.split_with_offsets(text):
      pieces = self.wordpiece_tokenizer.split_word(_text(word))
      ids.extend(self.vocab[piece] for piece in pieces)
      if len(pieces) == 1:
        offsets.append((word[0].start, word[-1].end))
        continue
      first = 0
      for piece in pieces:
        last = first + len(piece) - (2 if first else 0)
        offsets.append((word[first].start, word[last - 1].end))
        first = last
    return ids, offsets

  def convert_tokens_to_ids(self, tokens: Iterable[str]) -> list[int]:
    """Returns the id of each token; a KeyError names one that has none."""
    return [self.vocab[token] for token in tokens]

  def convert_ids_to_tokens(self, ids: Iterable[int]) -> list[str]:
    """Returns the token of each id."""
    return list(map(self.inv_vocab.__getitem__, ids))

  def _encode_stretch(self, stretch: str) -> tuple[int, ...]:
    return tuple(itertools.chain.from_iterable(
        [self._word_ids[word]
         for word in self.basic_tokenizer.split_stretch(stretch)]))

  def _encode_word(self, word: str) -> tuple[int, ...]:
    return tuple(self.convert_tokens_to_ids(
        self.wordpiece_tokenizer.split_word(word)))


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
  if not tf.io.gfile.exists(vocab_file):
    raise UserError(f"The vocabulary {vocab_file} does not exist.")
  with tf.io.gfile.GFile(vocab_file, "rb") as reader:
    content = reader.read()
  try:
    text = content.decode("utf-8")
  except UnicodeDecodeError as error:
    raise UserError(
        f"The vocabulary {vocab_file} is not UTF-8: line "
        f"{content.count(10, 0, error.start) + 1}.") from error
  # Only line feeds end a line: some tokens are other line separators.
  return [line.strip() for line in text.removesuffix("\n").split("\n")]


def _number_tokens(tokens: list[str], vocab_file: str) -> dict[str, int]:
  vocab = {token: i for i, token in enumerate(tokens)}
  missing = [token for token in REQUIRED_TOKENS if token not in vocab]
  if missing:
    raise UserError(
        f"The vocabulary {vocab_file} has {len(vocab)} tokens, but not "
        f"{', '.join(missing)}. Is it the vocab.txt of a BERT model?")
  return vocab


def validate_case_matches_vocab(do_lower_case: bool, vocab: Iterable[str],
                                vocab_file: str) -> None:
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
        "--do_lower_case=False.")
  if not do_lower_case and not num_capitals and any(map(str.islower, words)):
    logging.warning(
        "--do_lower_case is off, but no word of %s has capitals: every word "
        "with one becomes [UNK]. For an uncased model, leave it on.",
        vocab_file)
