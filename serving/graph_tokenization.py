"""The tokenizer as TensorFlow operations, for models that read raw text.

`tokenization` works on Python strings; here the same work is done with tables
of integers: one with the result of the basic step for each character, and one
with the pieces of the vocabulary. `tokenization` itself fills the tables, so
the two agree. The tables are constants of the graph, which needs nothing else
to run.

One text has so few characters that the number of operations decides how long it
takes, not the work in them. There are no loops and few conditions therefore.

There is one difference: marks that are kept (category Mc) stay in the order in
which they were written, where Unicode's normal form may exchange two of them.
"""

from __future__ import annotations

from collections.abc import Mapping
import functools
from typing import NamedTuple
import unicodedata

import numpy as np
import tensorflow as tf

import tokenization

_SPACE = ord(" ")
_CAPITAL_SIGMA, _FINAL_SIGMA = ord("Σ"), ord("ς")
# In the table of forms: the character itself, and no character.
_ITSELF, _NOTHING = -1, -2
# The table of characters has pages, most of which are alike.
_PAGE_SIZE = 256
_NUM_CODEPOINTS = 0x110000
# Added to characters that do not begin a word, a random number.
_INSIDE = 0x2545F4914F6CDD1D
# The base of the hash of pieces, a random number, and its inverse modulo 2^64.
_BASE = 0x3586AA4D6F03675B
_INVERSE_OF_BASE = 0x31A6068FD40E70D3
# An entry of the table of pieces is length * _NUM_IDS + id.
_NUM_IDS = 2**32
# Number of slots for each set of pieces, and the first of the bits of a hash
# that choose the set, the slot, and the step between slots.
_SLOTS_PER_SET, _SET_SHIFT, _SLOT_SHIFT, _STEP_SHIFT = 8, 46, 32, 20
_FEWEST_SLOTS = 2**13
_MOST_DISPLACEMENTS = 2**12


class Tokens(NamedTuple):
  """The tokens of n texts: ragged int32 [n, (num_tokens)] each.

  Attributes:
    ids: Ids of the tokens.
    starts: Where each begins in its text, in characters.
    ends: Where each ends.
    words: Number of the word that each belongs to, counted from 0 in each
      text; words are separated by white space.
    are_dropped: 1 for the unknown token in place of a word of which the
      tokenizer leaves nothing, otherwise 0.
  """

  ids: tf.RaggedTensor
  starts: tf.RaggedTensor
  ends: tf.RaggedTensor
  words: tf.RaggedTensor
  are_dropped: tf.RaggedTensor


def drop_invalid_bytes(texts: tf.Tensor) -> tf.Tensor:
  """Returns texts, string [n], without bytes that are not UTF-8.

  As `tokenization.convert_to_unicode` does it. Operations that count characters
  need valid texts.
  """
  return tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", "ignore")


class GraphTokenizer(tf.Module):
  """Does the work of a `tokenization.FullTokenizer` inside a graph.

  Args:
    tokenizer: The tokenizer to agree with. It has no never-split tokens, which
      are found by searching the text and not character by character.
  """

  def __init__(self, tokenizer: tokenization.FullTokenizer):
    super().__init__()
    basic_tokenizer = tokenizer.basic_tokenizer
    assert not basic_tokenizer.never_split
    self._characters = _CharacterTable(basic_tokenizer)
    self._max_chars = tokenizer.wordpiece_tokenizer.max_input_chars_per_word
    self._pieces = _PieceTable(
      tokenizer.vocab, basic_tokenizer, self._max_chars
    )
    self._unk_id = tokenizer.unk_id

  def __call__(
    self, texts: tf.Tensor, keep_dropped_words: bool = False
  ) -> Tokens:
    """Returns the tokens of UTF-8 texts, string [n].

    Places in them are those after `drop_invalid_bytes`.

    Args:
      texts: The texts.
      keep_dropped_words: Whether a word of which the tokenizer leaves nothing,
        such as U+200B, becomes an unknown token.
    """
    # texts         "Réd cats "  "!"       a space ends each text
    # normal.codes   r e d _ c a t s _  !  _
    ended = tf.strings.join([drop_invalid_bytes(texts), " "])
    chars = tf.strings.unicode_decode(ended, "UTF-8")  # [n, (c)]
    normal = self._characters(chars.flat_values)
    pieces = self._split_words(normal.codes)

    # The first and the last character of each piece in the original texts.
    first = tf.gather(normal.origins, pieces.starts)  # [p]
    last = tf.gather(normal.origins, pieces.ends - 1)
    ids = pieces.ids
    ends = tf.gather(normal.ends, last)
    are_dropped = tf.zeros_like(ids)
    if keep_dropped_words:
      dropped = normal.find_dropped_words(first)
      num_dropped = tf.shape(dropped.first)
      first = tf.concat([first, dropped.first], axis=0)
      order = tf.argsort(first, stable=True)
      first = tf.gather(first, order)

      def insert(values, of_dropped):
        return tf.gather(tf.concat([values, of_dropped], axis=0), order)

      ids = insert(ids, tf.fill(num_dropped, self._unk_id))
      ends = insert(ends, dropped.ends)
      are_dropped = insert(are_dropped, tf.ones(num_dropped, tf.int32))
    text_starts = chars.row_splits  # [n + 1]
    # `tf.searchsorted` fails if there is no piece at all.
    splits = tf.raw_ops.LowerBound(
      sorted_inputs=first[tf.newaxis],
      values=text_starts[tf.newaxis],
      out_type=tf.int64,
    )[0]
    # Numbers that count through all texts become numbers within a text.
    by_row = tf.RaggedTensor.from_row_splits(ids, splits, validate=False)
    rows = by_row.value_rowids()
    chars_before = tf.gather(text_starts, rows)
    words_before = tf.gather(
      _previous(normal.words, first=-1) + 1, chars_before
    )
    starts = first - chars_before
    ends -= chars_before
    words = tf.gather(normal.words, first) - words_before

    def by_text(values):
      return by_row.with_flat_values(tf.cast(values, tf.int32))

    return Tokens(*map(by_text, (ids, starts, ends, words, are_dropped)))

  def _split_words(self, codes: tf.Tensor) -> _Pieces:
    """Returns the pieces of words, with the unknown token where there are none.

    Args:
      codes: Characters with spaces between words and at the end, int32 [k].
    """
    # codes          u n a b l e _ a x _        k = 10; the end is 10
    # next_places    2 f 6 f f f e 8 f e  e f   e: the end, f: failure
    # is_reached     1 . 1 . . . 1 1 1 .
    #
    # The pieces are un and ##able; ##x is missing, so ax is unknown.
    is_space = codes == _SPACE
    begins_word = ~is_space & _previous(is_space, first=True)
    num_codes = tf.size(codes)
    places = tf.range(num_codes)
    spaces_before = tf.cumsum(tf.cast(is_space, tf.int32), exclusive=True)
    spaces = tf.cast(tf.where(is_space)[:, 0], tf.int32)
    word_ends = tf.gather(spaces, spaces_before)  # [k]
    longest = self._pieces(codes, begins_word, word_ends)
    end, failure = num_codes, num_codes + 1
    is_too_long = word_ends - places > self._max_chars
    fails = is_too_long | (longest.lengths == 0)
    next_places = tf.where(fails, failure, places + longest.lengths)
    next_places = tf.where(is_space, end, next_places)
    next_places = tf.concat([next_places, [end, failure]], axis=0)
    # All words advance together: by one piece, by two, by four, and so on.
    is_reached = tf.pad(tf.cast(begins_word, tf.int32), [[0, 2]])
    for _ in range(self._max_chars.bit_length()):
      is_reached += tf.math.unsorted_segment_sum(
        is_reached, next_places, num_codes + 2
      )
      next_places = tf.gather(next_places, next_places)
    is_known = next_places[:num_codes] == end
    is_inside = (is_reached[:num_codes] > 0) & is_known & ~is_space
    starts = tf.where(begins_word | is_inside)[:, 0]  # [p]
    # The only token of an unknown word stands at its first character.
    ids = tf.where(is_known, longest.ids, self._unk_id)
    ends = tf.where(is_known, places + longest.lengths, word_ends)
    return _Pieces(tf.gather(ids, starts), starts, tf.gather(ends, starts))


def _previous(values: tf.Tensor, first) -> tf.Tensor:
  """Returns the value before each of `values` [n]; `first` for the first."""
  return tf.concat([[first], values], axis=0)[: tf.size(values)]


# --- The basic step ----------------------------------------------------------


class _DroppedWords(NamedTuple):
  """The d words of which the tokenizer leaves nothing.

  Attributes:
    first: Number of the first character of each, int64 [d].
    ends: Where each ends, int64 [d].
  """

  first: tf.Tensor
  ends: tf.Tensor


class _NormalizedText(NamedTuple):
  """Result of the basic step for texts with c characters in all.

  Attributes:
    codes: Characters, with spaces between words, int32 [k].
    origins: Number of the original character of each, int64 [k].
    ends: Where each original character ends, including dropped marks that
      follow it, int64 [c].
    words: Number of the word that each original character belongs to, counted
      through all texts, int64 [c]; words are separated by white space, which
      belongs to the word before it.
    is_white: Whether each original character is white space, bool [c].
  """

  codes: tf.Tensor
  origins: tf.Tensor
  ends: tf.Tensor
  words: tf.Tensor
  is_white: tf.Tensor

  def find_dropped_words(self, first_chars: tf.Tensor) -> _DroppedWords:
    """Returns the words that no token belongs to.

    Args:
      first_chars: The first character of each token, int64 [p].
    """
    in_word = tf.where(~self.is_white)  # [characters of words, 1]
    words = tf.gather_nd(self.words, in_word)
    num_words = tf.reduce_max(tf.concat([words, [-1]], axis=0)) + 1
    starts = tf.math.unsorted_segment_min(in_word[:, 0], words, num_words)
    ends = tf.math.unsorted_segment_max(in_word[:, 0], words, num_words) + 1
    seen = tf.gather(self.words, first_chars)
    num_tokens = tf.math.unsorted_segment_sum(
      tf.ones_like(seen), seen, num_words
    )
    dropped = tf.where(num_tokens == 0)[:, 0]
    return _DroppedWords(tf.gather(starts, dropped), tf.gather(ends, dropped))


class _CharacterKind(NamedTuple):
  """All that the basic step knows of a character.

  Attributes:
    form: The code points that replace it; see `_ITSELF`.
    is_mark: Whether it is a mark that is dropped.
    is_ignorable: Unicode's property Case_Ignorable.
    is_cased: Unicode's property Cased.
  """

  form: tuple[int, ...]
  is_mark: bool
  is_ignorable: bool
  is_cased: bool


class _CharacterKinds(NamedTuple):
  """The kind of every code point.

  Attributes:
    pages: Kinds of code points, in pages of which no two are alike, int32
      [num_pages * _PAGE_SIZE].
    page_of: Page of each `_PAGE_SIZE` code points, int32.
    kinds: The kinds, in the order of their numbers.
  """

  pages: np.ndarray
  page_of: np.ndarray
  kinds: list[_CharacterKind]


def _kind_of(
  char: str, basic_tokenizer: tokenization.BasicTokenizer
) -> _CharacterKind:
  """Returns the kind of a character."""
  form: list[int] = []
  for c in basic_tokenizer.normalize_char(char):
    if c.isspace():
      form.append(_SPACE)
    else:
      form.append(_ITSELF if c == char else ord(c))
  # Python does not tell these two properties, but they decide how a capital
  # sigma is lower-cased: as the end of a word after a cased character, and
  # ignorable characters do not count.
  is_cased = f"{char}Σ".lower().endswith("ς")
  follows_letter = f"A{char}Σ".lower().endswith("ς")
  is_dropped = not form
  is_ignorable = is_dropped or (follows_letter and not is_cased)
  is_mark = is_dropped and unicodedata.category(char) == "Mn"
  return _CharacterKind(tuple(form), is_mark, is_ignorable, is_cased)


@functools.lru_cache(maxsize=4)
def _kinds_of_characters(
  do_lower_case: bool, strip_accents: bool, tokenize_chinese_chars: bool
) -> _CharacterKinds:
  """Returns the kinds of all characters for these settings."""
  basic_tokenizer = tokenization.BasicTokenizer(
    do_lower_case,
    strip_accents,
    tokenize_chinese_chars=tokenize_chinese_chars,
  )
  chars = [chr(codepoint) for codepoint in range(_NUM_CODEPOINTS)]
  # Three quarters of the code points have no character. They stay as they are,
  # unless they are in a block that counts as Chinese.
  stays = np.array([unicodedata.category(c) in ("Cn", "Co") for c in chars])
  # Two thirds of all characters are ideographs, whose kind is the same.
  is_ideograph = np.zeros(_NUM_CODEPOINTS, bool)
  for first, last in tokenization.CJK_BLOCKS:
    stays[first : last + 1] = False
    is_ideograph[first : last + 1] = [
      unicodedata.category(char) == "Lo" and not unicodedata.decomposition(char)
      for char in chars[first : last + 1]
    ]
  number_of = {_CharacterKind((_ITSELF,), False, False, False): 0}
  numbers = np.zeros(_NUM_CODEPOINTS, np.int32)
  ideograph_kind = _kind_of(
    chars[tokenization.CJK_BLOCKS[0][0]], basic_tokenizer
  )
  numbers[is_ideograph] = number_of.setdefault(ideograph_kind, len(number_of))
  for codepoint in np.flatnonzero(~stays & ~is_ideograph):
    kind = _kind_of(chars[codepoint], basic_tokenizer)
    numbers[codepoint] = number_of.setdefault(kind, len(number_of))
  pages, page_of = np.unique(
    numbers.reshape(-1, _PAGE_SIZE), axis=0, return_inverse=True
  )
  return _CharacterKinds(
    pages.ravel(), page_of.ravel().astype(np.int32), list(number_of)
  )


class _CharacterTable(tf.Module):
  """The result of the basic step for each character, without context."""

  def __init__(self, basic_tokenizer: tokenization.BasicTokenizer):
    super().__init__()
    pages, page_of, kinds = _kinds_of_characters(
      basic_tokenizer.do_lower_case,
      basic_tokenizer.strip_accents,
      basic_tokenizer.tokenize_chinese_chars,
    )
    forms = [kind.form for kind in kinds]
    width = max(len(form) for form in forms)
    padded = [form + (_NOTHING,) * (width - len(form)) for form in forms]
    self._pages = tf.constant(pages)
    self._page_starts = tf.constant(page_of * _PAGE_SIZE)
    self._forms = tf.constant(padded, tf.int32)
    self._is_white = tf.constant([form == (_SPACE,) for form in forms])
    self._is_dropped = tf.constant([not form for form in forms])
    self._is_mark = tf.constant([kind.is_mark for kind in kinds])
    self._is_ignorable = tf.constant([kind.is_ignorable for kind in kinds])
    self._is_cased = tf.constant([kind.is_cased for kind in kinds])
    self._do_lower_case = basic_tokenizer.do_lower_case

  def __call__(self, codes: tf.Tensor) -> _NormalizedText:
    """Returns texts after the basic step.

    Args:
      codes: Characters of all texts, each with a space at its end, int32 [c].
    """
    if self._do_lower_case:
      codes = tf.cond(
        tf.reduce_any(codes == _CAPITAL_SIGMA),
        lambda: self._lower_final_sigmas(codes),
        lambda: codes,
      )
    kinds = self._kinds_of(codes)
    forms = tf.gather(self._forms, kinds)  # [c, width]
    forms = tf.where(forms == _ITSELF, codes[:, tf.newaxis], forms)
    forms = tf.reshape(forms, [-1])
    kept = tf.where(forms != _NOTHING)[:, 0]  # [k]
    is_white = tf.gather(self._is_white, kinds)
    begins_word = ~is_white & _previous(is_white, first=True)
    return _NormalizedText(
      codes=tf.gather(forms, kept),
      origins=kept // self._forms.shape[1],
      ends=self._ends(kinds),
      words=tf.cumsum(tf.cast(begins_word, tf.int64)) - 1,
      is_white=is_white,
    )

  def _ends(self, kinds: tf.Tensor) -> tf.Tensor:
    """Returns where each character ends, with dropped marks that follow it.

    Args:
      kinds: Kinds of the characters, int32 [c].
    """
    # characters   e  ´  d  _      ´ is a mark that is dropped
    # owners       0  0  1  2      number among those that are not dropped
    # ends         2  2  3  4
    num_chars = tf.size(kinds)
    is_dropped = tf.gather(self._is_dropped, kinds)
    owners = tf.cumsum(tf.cast(~is_dropped, tf.int64)) - 1
    # Characters that are dropped without being marks extend nothing.
    extends = ~is_dropped | tf.gather(self._is_mark, kinds)
    next_places = tf.range(1, tf.cast(num_chars, tf.int64) + 1)
    owner_ends = tf.math.unsorted_segment_max(
      tf.where(extends, next_places, 0), owners, num_chars
    )
    return tf.gather(owner_ends, tf.maximum(owners, 0))

  def _lower_final_sigmas(self, codes: tf.Tensor) -> tf.Tensor:
    """Returns `codes` [c] with a small sigma for each capital one at an end."""
    kinds = self._kinds_of(codes)
    decides = ~tf.gather(self._is_ignorable, kinds)
    places = tf.where(decides)  # [d, 1]
    is_cased = tf.gather(self._is_cased, tf.gather_nd(kinds, places))  # [d]
    follows_letter = _previous(is_cased, first=False)
    precedes_letter = tf.concat([is_cased, [False]], axis=0)[1:]
    ends_word = tf.scatter_nd(
      places, follows_letter & ~precedes_letter, tf.shape(codes, tf.int64)
    )
    return tf.where((codes == _CAPITAL_SIGMA) & ends_word, _FINAL_SIGMA, codes)

  def _kinds_of(self, codes: tf.Tensor) -> tf.Tensor:
    """Returns the kinds of characters, int32 [c]."""
    page_starts = tf.gather(self._page_starts, codes // _PAGE_SIZE)
    return tf.gather(self._pages, page_starts + codes % _PAGE_SIZE)


# --- The WordPiece step ------------------------------------------------------


class _Pieces(NamedTuple):
  """The p pieces of all words.

  Attributes:
    ids: Their ids, int32 [p].
    starts: Number of the character that each begins with, int64 [p].
    ends: Number of the character behind it, int32 [p].
  """

  ids: tf.Tensor
  starts: tf.Tensor
  ends: tf.Tensor


class _LongestPieces(NamedTuple):
  """The longest piece that begins at each of k characters.

  Attributes:
    ids: Its id, int32 [k].
    lengths: Number of its characters, int32 [k]; 0 where no piece begins.
  """

  ids: tf.Tensor
  lengths: tf.Tensor


class _PieceTable(tf.Module):
  """The pieces of a vocabulary, by a hash of their characters.

  The hash of characters c0, c1, c2, ... is c0 * b + c1 * b^2 + c2 * b^3 + ...
  modulo 2^64, for a random odd b. Two texts have the same one with a
  probability of about 2^-64. Characters inside of words differ from those that
  begin one, so `able` and `##able` are two pieces.

  A perfect hash finds a piece in one step (Fox et al., 1992): some bits of its
  hash choose a set, which has a number by which the slots of all its pieces are
  displaced until no two share a slot.
  """

  def __init__(
    self,
    vocab: Mapping[str, int],
    basic_tokenizer: tokenization.BasicTokenizer,
    max_chars: int,
  ):
    super().__init__()
    pieces, ids, are_inside = _list_pieces(vocab, basic_tokenizer, max_chars)
    lengths = np.array([len(piece) for piece in pieces], np.int64)
    self._longest = int(lengths.max(initial=1))
    hashes = _hash_pieces(pieces, lengths, are_inside)
    displacements, slots, num_slots = _place_hashes(hashes)
    table = np.zeros(num_slots, np.int64)
    table[slots] = hashes
    values = np.zeros(num_slots, np.int64)  # 0 where there is no piece
    values[slots] = lengths * _NUM_IDS + ids
    self._displacements = tf.constant(displacements)
    self._hashes = tf.constant(table)
    self._values = tf.constant(values)

  def __call__(
    self, codes: tf.Tensor, begins_word: tf.Tensor, word_ends: tf.Tensor
  ) -> _LongestPieces:
    """Returns the longest piece that begins at each character.

    Args:
      codes: Characters with spaces between words and at the end, int32 [k].
      begins_word: Whether each begins a word, bool [k].
      word_ends: Where the word of each ends, int32 [k]; for a space, its place.
    """
    num_codes = tf.size(codes)
    places = tf.range(num_codes)
    ones = tf.ones([num_codes], tf.int64)
    powers = tf.math.cumprod(ones * _BASE)
    inverses = tf.math.cumprod(ones * _INVERSE_OF_BASE, exclusive=True)
    added = tf.where(begins_word, tf.constant(0, tf.int64), _INSIDE)
    terms = (tf.cast(codes, tf.int64) + added) * powers
    sums = tf.cumsum(terms, exclusive=True)
    # From a character to a later one: c3 * b^4 + c4 * b^5 is b^3 times the hash
    # of c3 and c4.
    # All parts of words that may be a piece, s in all.
    last_ends = tf.minimum(word_ends, places + self._longest)
    ends = tf.ragged.range(places + 1, last_ends + 1)  # [k, (ends)]
    starts = ends.value_rowids()  # [s]
    sums_between = tf.gather(sums, ends.flat_values) - tf.gather(sums, starts)
    hashes = sums_between * tf.gather(inverses, starts)
    sets = tf.bitwise.right_shift(hashes, _SET_SHIFT)
    sets &= self._displacements.shape[0] - 1
    slots = tf.bitwise.right_shift(hashes, _SLOT_SHIFT)
    steps = tf.bitwise.right_shift(hashes, _STEP_SHIFT)
    slots += tf.gather(self._displacements, sets) * steps
    slots &= self._hashes.shape[0] - 1
    is_piece = tf.gather(self._hashes, slots) == hashes
    found = tf.where(is_piece)[:, 0]
    values = tf.gather(self._values, tf.gather(slots, found))
    # The length counts more than the id.
    best = tf.math.unsorted_segment_max(
      values, tf.gather(starts, found), num_codes
    )
    best = tf.maximum(best, 0)
    return _LongestPieces(
      ids=tf.cast(best % _NUM_IDS, tf.int32),
      lengths=tf.cast(best // _NUM_IDS, tf.int32),
    )


def _list_pieces(
  vocab: Mapping[str, int],
  basic_tokenizer: tokenization.BasicTokenizer,
  max_chars: int,
) -> tuple[list[str], list[int], list[bool]]:
  """Returns pieces, without ##, their ids, and whether they are inside words.

  Entries of the vocabulary that no word can contain, such as `[SEP]`, are left
  out: they have a space, or a character that is always a word of its own.
  """
  chars = set("".join(vocab))
  alone = {c for c in chars if basic_tokenizer.normalize_char(c) == f" {c} "}
  pieces, ids, are_inside = [], [], []
  for token, token_id in vocab.items():
    is_inside = token.startswith("##")
    piece = token[2:] if is_inside else token
    has_space = any(char.isspace() for char in piece)
    is_several = len(piece) > 1 and not alone.isdisjoint(piece)
    if 0 < len(piece) <= max_chars and not has_space and not is_several:
      pieces.append(piece)
      ids.append(token_id)
      are_inside.append(is_inside)
  return pieces, ids, are_inside


def _hash_pieces(
  pieces: list[str], lengths: np.ndarray, are_inside: list[bool]
) -> np.ndarray:
  """Returns the hashes of pieces, int64; see `_PieceTable`."""
  text = "".join(pieces).encode("utf-32-le", "surrogatepass")
  codes = np.frombuffer(text, np.uint32).astype(np.int64) + _INSIDE
  ends = np.cumsum(lengths)
  starts = ends - lengths
  codes[starts] -= np.where(are_inside, 0, _INSIDE)
  powers = np.cumprod(np.full(lengths.max(initial=1), _BASE, np.int64))
  places = np.arange(len(codes)) - np.repeat(starts, lengths)
  return np.add.reduceat(codes * powers[places], starts)


def _place_hashes(
  hashes: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, int]:
  """Returns a slot for each hash, of which no two are the same.

  Args:
    hashes: Hashes that differ from each other, int64 [n].

  Returns:
    The displacement of each set, int64 [num_sets]; the slots, int64 [n]; and
    the number of slots, a power of two.
  """
  num_slots = max(1 << (4 * len(hashes)).bit_length(), _FEWEST_SLOTS)
  # With few slots, two pieces may want the same one at every displacement.
  while (placed := _try_to_place_hashes(hashes, num_slots)) is None:
    num_slots *= 2
  return *placed, num_slots


def _try_to_place_hashes(
  hashes: np.ndarray, num_slots: int
) -> tuple[np.ndarray, np.ndarray] | None:
  """Returns the first two results of `_place_hashes`, or None."""
  num_sets = max(num_slots // _SLOTS_PER_SET, 1)
  sets = (hashes >> _SET_SHIFT) & (num_sets - 1)
  set_sizes = np.bincount(sets, minlength=num_sets)
  # In each round, all sets without slots try the next displacement. Of those
  # that want the same slot, the largest gets it: it is the hardest to place.
  order = np.lexsort((sets, -set_sizes[sets]))
  displacements = np.zeros(num_sets, np.int64)
  slots = np.zeros(len(hashes), np.int64)
  is_taken = np.zeros(num_slots, bool)
  displacement = 0
  while len(order):
    if displacement == _MOST_DISPLACEMENTS:
      return None
    steps = hashes[order] >> _STEP_SHIFT
    wanted = (hashes[order] >> _SLOT_SHIFT) + displacement * steps
    wanted &= num_slots - 1
    first_of_slot = np.full(num_slots, len(order))
    np.minimum.at(first_of_slot, wanted, np.arange(len(order)))
    gets_slot = first_of_slot[wanted] == np.arange(len(order))
    gets_slot &= ~is_taken[wanted]
    is_placed = np.ones(num_sets, bool)
    is_placed[sets[order[~gets_slot]]] = False
    placed = is_placed[sets[order]]
    slots[order[placed]] = wanted[placed]
    displacements[sets[order[placed]]] = displacement
    is_taken[wanted[placed]] = True
    order = order[~placed]
    displacement += 1
  return displacements, slots
