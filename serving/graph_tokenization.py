"""The tokenizer as TensorFlow operations, for models that read raw text.

`tokenization` works on Python strings; here the same work is done with tables
of integers: one with the result of the basic step for each character, and one
with the vocabulary as a trie. `tokenization` itself fills the tables, so the
two agree. The tables are constants of the graph, which needs nothing else to
run.

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
# Stands for the character itself in the table of forms.
_ITSELF = -1
# The table of characters has pages, most of which are alike.
_PAGE_SIZE = 256
_NUM_CODEPOINTS = 0x110000
# Edges of the trie are numbered by node * _EDGES_PER_NODE + code point.
_EDGES_PER_NODE = 2**21


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
    assert not tokenizer.basic_tokenizer.never_split
    self._characters = _CharacterTable(tokenizer.basic_tokenizer)
    self._trie = _Trie(tokenizer.vocab)
    self._unk_id = tokenizer.unk_id
    self._max_chars = tokenizer.wordpiece_tokenizer.max_input_chars_per_word

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
    # codes          r e d   c a t s    !      without spaces, [m]
    # word_starts    0       3          7      words without spaces, [w]
    ended = tf.strings.join([drop_invalid_bytes(texts), " "])
    chars = tf.strings.unicode_decode(ended, "UTF-8")  # [n, (c)]
    normal = self._characters(chars.flat_values)
    is_space = normal.codes == _SPACE
    kept = tf.where(~is_space)[:, 0]  # [m]
    codes = tf.gather(normal.codes, kept)
    origins = tf.gather(normal.origins, kept)
    begins_word = ~is_space & _previous(is_space, first=True)
    word_starts = tf.where(tf.gather(begins_word, kept))[:, 0]
    pieces = self._split_words(codes, word_starts)

    # The first and the last character of each piece in the original texts, and
    # the text of the piece.
    places = tf.where(pieces.ids >= 0)[:, 0]  # [p]
    ids = tf.gather(pieces.ids, places)
    first = tf.gather(origins, places)
    last = tf.gather(origins, tf.gather(pieces.ends, places) - 1)
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
    rows = tf.gather(chars.value_rowids(), first)
    # Numbers that count through all texts become numbers within a text.
    chars_before = chars.row_starts()  # [n]
    words_before = tf.gather(
      _previous(normal.words, first=-1) + 1, chars.row_starts()
    )
    starts = first - tf.gather(chars_before, rows)
    ends -= tf.gather(chars_before, rows)
    words = tf.gather(normal.words, first) - tf.gather(words_before, rows)
    num_tokens = tf.math.unsorted_segment_sum(
      tf.ones_like(rows), rows, chars.nrows()
    )

    def by_text(values):
      return tf.RaggedTensor.from_row_lengths(
        tf.cast(values, tf.int32), num_tokens, validate=False
      )

    return Tokens(*map(by_text, (ids, starts, ends, words, are_dropped)))

  def _split_words(self, codes: tf.Tensor, starts: tf.Tensor) -> _Pieces:
    """Returns the pieces of words, with the unknown token where there are none.

    Args:
      codes: Characters of all words, int32 [m].
      starts: Where the words begin, int64 [w].
    """
    num_chars = tf.size(codes, tf.int64)
    ends = tf.concat([starts, [num_chars]], axis=0)[1:]
    lengths = ends - starts
    pieces = self._trie(codes, starts, ends, lengths <= self._max_chars)
    # An unknown word keeps none of the pieces that were found before the
    # search failed. Its only token stands at its first character.
    ids = tf.where(tf.repeat(pieces.is_known, lengths), pieces.ids, -1)
    unknown_starts = tf.boolean_mask(starts, ~pieces.is_known)
    unknown_ends = tf.boolean_mask(ends, ~pieces.is_known)
    unknown_ids = tf.fill(tf.shape(unknown_starts), self._unk_id)
    return _Pieces(
      _update(ids, unknown_starts, unknown_ids),
      _update(pieces.ends, unknown_starts, unknown_ends),
      pieces.is_known,
    )


def _previous(values: tf.Tensor, first) -> tf.Tensor:
  """Returns the value before each of `values` [n]; `first` for the first."""
  return tf.concat([[first], values], axis=0)[: tf.size(values)]


def _update(
  values: tf.Tensor, places: tf.Tensor, updates: tf.Tensor
) -> tf.Tensor:
  """Returns `values` [n] with `updates` [k] at `places` [k]."""
  return tf.tensor_scatter_nd_update(values, places[:, tf.newaxis], updates)


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
  for first, last in tokenization.CJK_BLOCKS:
    stays[first : last + 1] = False
  number_of = {_CharacterKind((_ITSELF,), False, False, False): 0}
  numbers = np.zeros(_NUM_CODEPOINTS, np.int32)
  for codepoint in np.flatnonzero(~stays):
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
    form_ends = np.cumsum([len(form) for form in forms])
    self._pages = tf.constant(pages)
    self._page_of = tf.constant(page_of)
    self._form_codes = tf.constant(np.concatenate(forms), tf.int32)
    self._form_splits = tf.constant([0, *form_ends], tf.int32)
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
    kinds = self._kinds_of(codes)
    if self._do_lower_case:
      codes = self._lower_final_sigmas(codes, kinds)
      kinds = self._kinds_of(codes)
    forms = tf.ragged.range(
      tf.gather(self._form_splits, kinds),
      tf.gather(self._form_splits, kinds + 1),
    )  # [c, (length of the form)]
    origins = forms.value_rowids()
    normal = tf.gather(self._form_codes, forms.flat_values)
    normal = tf.where(normal == _ITSELF, tf.gather(codes, origins), normal)
    is_white = tf.gather(self._is_white, kinds)
    begins_word = ~is_white & _previous(is_white, first=True)
    words = tf.cumsum(tf.cast(begins_word, tf.int64)) - 1
    return _NormalizedText(normal, origins, self._ends(kinds), words, is_white)

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

  def _lower_final_sigmas(
    self, codes: tf.Tensor, kinds: tf.Tensor
  ) -> tf.Tensor:
    """Returns `codes` [c] with a small sigma for each capital one at an end."""
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
    pages = tf.gather(self._page_of, codes // _PAGE_SIZE)
    return tf.gather(self._pages, pages * _PAGE_SIZE + codes % _PAGE_SIZE)


# --- The WordPiece step ------------------------------------------------------


class _Pieces(NamedTuple):
  """The pieces of w words with m characters in all.

  Attributes:
    ids: Id of the piece that begins at each character, -1 where none begins,
      int32 [m].
    ends: Where that piece ends, int64 [m].
    is_known: Whether the vocabulary has all pieces of a word, bool [w].
  """

  ids: tf.Tensor
  ends: tf.Tensor
  is_known: tf.Tensor


class _Search(NamedTuple):
  """The words whose pieces are being looked for; all Tensors are [k].

  Attributes:
    words: Numbers of the words, int64.
    starts: Where the current piece of each begins, int64.
    places: Up to where the trie has followed it, int64.
    nodes: Node of the trie that it has reached, int64.
    match_ids: Id of the longest token so far, int32; -1 if there is none.
    match_ends: Where that token ends, int64.
  """

  words: tf.Tensor
  starts: tf.Tensor
  places: tf.Tensor
  nodes: tf.Tensor
  match_ids: tf.Tensor
  match_ends: tf.Tensor


class _Trie(tf.Module):
  """The tokens of a vocabulary, as a tree in which each edge is a character."""

  # The vocabulary a, ab, ##c, with nodes in the order of their creation:
  #
  #   0 -a-> 1 -b-> 2             token_ids[1] is that of a, [2] of ab,
  #   0 -#-> 3 -#-> 4 -c-> 5      [5] of ##c, and all others are -1
  #
  # Pieces inside a word continue from node 4. The word abc: a leads to node 1,
  # b to node 2, and no edge c leaves it, so the longest match ab is cut off.
  # From node 4, c leads to node 5, and the word is at its end: ##c.

  def __init__(self, vocab: Mapping[str, int]):
    super().__init__()
    children: dict[tuple[int, int], int] = {}
    token_ids = [-1]  # node 0 is the root
    for token, token_id in vocab.items():
      node = 0
      for char in token:
        node = children.setdefault((node, ord(char)), len(token_ids))
        if node == len(token_ids):
          token_ids.append(-1)
      token_ids[node] = token_id
    token_ids[0] = -1  # an empty line of the file is no piece
    edges = sorted(
      (node * _EDGES_PER_NODE + code, child)
      for (node, code), child in children.items()
    )
    self._edges = tf.constant([edge for edge, _ in edges], tf.int64)
    self._children = tf.constant([child for _, child in edges], tf.int64)
    self._token_ids = tf.constant(token_ids, tf.int32)
    # Without tokens that begin with ##: a node that no edge leaves.
    no_node = len(token_ids)
    hash_sign = ord("#")
    first_hash = children.get((0, hash_sign), no_node)
    inside = children.get((first_hash, hash_sign), no_node)
    self._inside = tf.constant(inside, tf.int64)

  def __call__(
    self,
    codes: tf.Tensor,
    starts: tf.Tensor,
    ends: tf.Tensor,
    is_searched: tf.Tensor,
  ) -> _Pieces:
    """Returns the longest pieces of words, cut from the left.

    All words advance together, one character at a time.

    Args:
      codes: Characters of all words, int32 [m].
      starts: Where the words begin, int64 [w].
      ends: Where the words end, int64 [w].
      is_searched: Whether to look at a word at all, bool [w]; all others are
        unknown.
    """
    words = tf.where(is_searched)[:, 0]
    word_starts = tf.gather(starts, words)
    search = _Search(
      words=words,
      starts=word_starts,
      places=word_starts,
      nodes=tf.zeros_like(words),
      match_ids=tf.fill(tf.shape(words), -1),
      match_ends=word_starts,
    )
    pieces = _Pieces(
      ids=tf.fill(tf.shape(codes), -1),
      ends=tf.zeros(tf.shape(codes), tf.int64),
      is_known=is_searched,
    )
    any_length = tf.TensorShape([None])
    _, pieces = tf.while_loop(
      lambda search, pieces: tf.size(search.words) > 0,
      lambda search, pieces: self._advance(search, pieces, codes, ends),
      [search, pieces],
      shape_invariants=[_Search(*[any_length] * 6), _Pieces(*[any_length] * 3)],
    )
    return pieces

  def _advance(
    self,
    search: _Search,
    pieces: _Pieces,
    codes: tf.Tensor,
    word_ends: tf.Tensor,
  ) -> tuple[_Search, _Pieces]:
    """Follows each word by one character, or ends its piece."""
    ends = tf.gather(word_ends, search.words)
    last_place = tf.size(codes, tf.int64) - 1
    next_codes = tf.gather(codes, tf.minimum(search.places, last_place))
    children = self._follow(search.nodes, next_codes)
    moves = (search.places < ends) & (children >= 0)
    nodes = tf.where(moves, children, search.nodes)
    places = tf.where(moves, search.places + 1, search.places)

    # The longest token so far.
    reached_ids = tf.where(moves, tf.gather(self._token_ids, nodes), -1)
    is_token = reached_ids >= 0
    match_ids = tf.where(is_token, reached_ids, search.match_ids)
    match_ends = tf.where(is_token, places, search.match_ends)

    # A word that cannot move on ends its piece, or is unknown without a match.
    cuts = ~moves & (match_ids >= 0)
    fails = ~moves & (match_ids < 0)
    cut_starts = tf.boolean_mask(search.starts, cuts)
    failed_words = tf.boolean_mask(search.words, fails)
    pieces = _Pieces(
      _update(pieces.ids, cut_starts, tf.boolean_mask(match_ids, cuts)),
      _update(pieces.ends, cut_starts, tf.boolean_mask(match_ends, cuts)),
      _update(
        pieces.is_known, failed_words, tf.zeros_like(failed_words, tf.bool)
      ),
    )

    # The next piece begins behind the last one.
    search = _Search(
      words=search.words,
      starts=tf.where(cuts, match_ends, search.starts),
      places=tf.where(cuts, match_ends, places),
      nodes=tf.where(cuts, self._inside, nodes),
      match_ids=tf.where(cuts, -1, match_ids),
      match_ends=match_ends,
    )
    is_done = fails | (cuts & (match_ends == ends))
    search = _Search(*[tf.boolean_mask(values, ~is_done) for values in search])
    return search, pieces

  def _follow(self, nodes: tf.Tensor, codes: tf.Tensor) -> tf.Tensor:
    """Returns the nodes that edges lead to, int64 [k]; -1 without an edge."""
    wanted = nodes * _EDGES_PER_NODE + tf.cast(codes, tf.int64)
    last_edge = tf.size(self._edges) - 1
    found = tf.minimum(tf.searchsorted(self._edges, wanted), last_edge)
    exists = tf.gather(self._edges, found) == wanted
    return tf.where(exists, tf.gather(self._children, found), -1)
