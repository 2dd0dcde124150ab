"""The tokenizer as TensorFlow operations, for models that read raw text.

What `tokenization` does with Python's strings, in tables of integers: what the
basic step makes of each character, and the pieces of the vocabulary as a trie.
`tokenization` itself fills the tables, so the two agree; they are constants of
the graph, and whoever runs it needs nothing else.

One thing differs: marks that are kept (category Mc) stay in the order in which
they were written, where Unicode's normal form may exchange two of them.
"""

from collections.abc import Mapping
import functools
from typing import NamedTuple
import unicodedata

import numpy as np
import tensorflow as tf

import tokenization

_SPACE = ord(" ")
_CAPITAL_SIGMA, _FINAL_SIGMA = ord("Σ"), ord("ς")
# In the table of forms: the character itself.
_ITSELF = -1
# Code points come in pages, most of which are alike.
_PAGE_SIZE = 256
_NUM_CODEPOINTS = 0x110000
# What the number of an edge counts nodes by: more than there are code points.
_EDGE = 2**21


class Tokens(NamedTuple):
  """The tokens of n texts: ragged int32 [n, (num_tokens)] each.

  Attributes:
    ids: their ids.
    starts: where each begins in its text, in characters.
    ends: where it ends.
    words: the number of the word that it is part of, from 0, where words are
      what white space separates.
  """

  ids: tf.RaggedTensor
  starts: tf.RaggedTensor
  ends: tf.RaggedTensor
  words: tf.RaggedTensor


class GraphTokenizer(tf.Module):
  """Does what a `tokenization.FullTokenizer` does, inside a graph.

  Args:
    tokenizer: what to agree with; without tokens that are never split, which
      are found by searching the text and not by looking at characters.
  """

  def __init__(self, tokenizer: tokenization.FullTokenizer):
    super().__init__()
    assert not tokenizer.basic_tokenizer.never_split
    self._characters = _CharacterTable(tokenizer.basic_tokenizer)
    self._trie = _Trie(tokenizer.vocab)
    self._unk_id = tokenizer.vocab[tokenizer.wordpiece_tokenizer.unk_token]
    self._max_chars = tokenizer.wordpiece_tokenizer.max_input_chars_per_word

  def __call__(self, texts: tf.Tensor) -> Tokens:
    """Returns the tokens of UTF-8 texts, string [n]."""
    # With a space after each, no word goes on into the next text.
    chars = tf.strings.unicode_decode(
      tf.strings.join([texts, " "]), "UTF-8"
    )  # [n, (c)]
    normal = self._characters(chars.flat_values)
    is_space = normal.codes == _SPACE
    kept = tf.where(~is_space)[:, 0]  # [m]
    begins = ~is_space & _shifted(is_space, True)
    starts = tf.where(tf.gather(begins, kept))[:, 0]  # [w]
    origins = tf.gather(normal.origins, kept)
    ids, ends = self._pieces(tf.gather(normal.codes, kept), starts)

    places = tf.where(ids >= 0)[:, 0]  # [p]
    first = tf.gather(origins, places)
    last = tf.gather(origins, tf.gather(ends, places) - 1)
    rows = tf.gather(chars.value_rowids(), first)
    text_starts = chars.row_starts()
    words_before = tf.gather(_shifted(normal.words, -1) + 1, text_starts)
    num_tokens = tf.math.unsorted_segment_sum(
      tf.ones_like(rows), rows, chars.nrows()
    )
    return Tokens(
      *(
        tf.RaggedTensor.from_row_lengths(
          tf.cast(values, tf.int32), num_tokens, validate=False
        )
        for values in (
          tf.gather(ids, places),
          first - tf.gather(text_starts, rows),
          tf.gather(normal.ends, last) - tf.gather(text_starts, rows),
          tf.gather(normal.words, first) - tf.gather(words_before, rows),
        )
      )
    )

  def _pieces(self, codes, starts):
    """Cuts words into pieces.

    Args:
      codes: the characters of all words, int32 [m].
      starts: where the words begin, int64 [w].

    Returns:
      Where a piece begins, its id (elsewhere -1) and where it ends: int32 [m]
      and int64 [m].
    """
    ends = tf.concat([starts, [tf.size(codes, tf.int64)]], 0)[1:]
    ends = ends[: tf.size(starts)]
    fits = ends - starts <= self._max_chars
    ids, piece_ends, is_known = self._trie(codes, starts, ends, fits)
    # Of an unknown word nothing is kept, not even pieces that were found.
    ids = tf.where(tf.repeat(is_known, ends - starts), ids, -1)
    unknown = tf.boolean_mask(starts, ~is_known)[:, tf.newaxis]
    return (
      tf.tensor_scatter_nd_update(
        ids, unknown, tf.fill(tf.shape(unknown)[:1], self._unk_id)
      ),
      tf.tensor_scatter_nd_update(
        piece_ends, unknown, tf.boolean_mask(ends, ~is_known)
      ),
    )


def _shifted(values, first) -> tf.Tensor:
  """Returns what stands before each of `values`; `first` before the first."""
  return tf.concat([[first], values], axis=0)[: tf.size(values)]


class _Normalized(NamedTuple):
  """What the basic step makes of texts with c characters in all.

  Attributes:
    codes: characters, with spaces between words, int32 [k].
    origins: of each, the number of the character it was made of, int64 [k].
    ends: where each of the c characters ends, with marks that were dropped
      behind it, int64 [c].
    words: the number of the word that each of them is in, through all texts,
      where words are what white space separates; int64 [c].
  """

  codes: tf.Tensor
  origins: tf.Tensor
  ends: tf.Tensor
  words: tf.Tensor


@functools.lru_cache(maxsize=4)
def _kinds_of_characters(do_lower_case: bool, strip_accents: bool):
  """Sorts all characters by what becomes of them.

  Returns:
    The number of the kind of each character, in pages of which no two are
    alike, int32 [pages * _PAGE_SIZE]; the page of each `_PAGE_SIZE` characters,
    int32; and of each kind what the basic step makes of it (see `_ITSELF`),
    whether it is a mark that is dropped, and its Unicode properties
    Case_Ignorable and Cased.
  """
  basic_tokenizer = tokenization.BasicTokenizer(do_lower_case, strip_accents)
  kinds = {}
  numbers = np.zeros(_NUM_CODEPOINTS, np.int32)
  for codepoint in range(_NUM_CODEPOINTS):
    char = chr(codepoint)
    form = tuple(
      _SPACE if c.isspace() else _ITSELF if c == char else ord(c)
      for c in basic_tokenizer.normalize_char(char)
    )
    # Told by what they do: after them a capital sigma ends a word.
    is_cased = f"{char}Σ".lower().endswith("ς")
    is_ignorable = not form or (
      not is_cased and f"A{char}Σ".lower().endswith("ς")
    )
    kind = (
      form,
      not form and unicodedata.category(char) == "Mn",
      is_ignorable,
      is_cased,
    )
    numbers[codepoint] = kinds.setdefault(kind, len(kinds))
  pages, page_of = np.unique(
    numbers.reshape(-1, _PAGE_SIZE), axis=0, return_inverse=True
  )
  return pages.ravel(), page_of.ravel().astype(np.int32), list(kinds)


class _CharacterTable(tf.Module):
  """What the basic step makes of each character, out of context."""

  def __init__(self, basic_tokenizer: tokenization.BasicTokenizer):
    super().__init__()
    pages, page_of, kinds = _kinds_of_characters(
      basic_tokenizer.do_lower_case, basic_tokenizer.strip_accents
    )
    self._pages = tf.constant(pages)
    self._page_of = tf.constant(page_of)
    forms, is_mark, is_ignorable, is_cased = zip(*kinds)
    self._form_values = tf.constant(np.concatenate(forms), tf.int32)
    self._form_splits = tf.constant(np.cumsum([0, *map(len, forms)]), tf.int32)
    self._is_white = tf.constant([form == (_SPACE,) for form in forms])
    self._is_dropped = tf.constant([not form for form in forms])
    self._is_mark = tf.constant(is_mark)
    self._is_ignorable = tf.constant(is_ignorable)
    self._is_cased = tf.constant(is_cased)
    self._do_lower_case = basic_tokenizer.do_lower_case

  def __call__(self, codes) -> _Normalized:
    """Normalizes texts, each with a space at its end, int32 [c]."""
    kinds = self._kinds(codes)
    if self._do_lower_case:
      codes = self._with_final_sigmas(codes, kinds)
      kinds = self._kinds(codes)
    forms = tf.ragged.range(
      tf.gather(self._form_splits, kinds),
      tf.gather(self._form_splits, kinds + 1),
    )
    normal = tf.gather(self._form_values, forms.flat_values)
    origins = forms.value_rowids()
    normal = tf.where(normal == _ITSELF, tf.gather(codes, origins), normal)

    # Each mark belongs to what was last not dropped.
    owners = (
      tf.cumsum(tf.cast(~tf.gather(self._is_dropped, kinds), tf.int64)) - 1
    )
    is_dropped = tf.gather(self._is_dropped, kinds)
    next_places = tf.range(1, tf.size(codes, tf.int64) + 1)
    counts = ~is_dropped | tf.gather(self._is_mark, kinds)
    ends = tf.math.unsorted_segment_max(
      tf.where(counts, next_places, 0), owners, tf.size(codes)
    )
    is_white = tf.gather(self._is_white, kinds)
    begins_word = ~is_white & _shifted(is_white, True)
    return _Normalized(
      normal,
      origins,
      tf.gather(ends, tf.maximum(owners, 0)),
      tf.cumsum(tf.cast(begins_word, tf.int64)) - 1,
    )

  def _with_final_sigmas(self, codes, kinds) -> tf.Tensor:
    """Writes a small sigma for each capital one that ends a word."""
    places = tf.where(~tf.gather(self._is_ignorable, kinds))  # [d, 1]
    is_cased = tf.gather(self._is_cased, tf.gather_nd(kinds, places))
    follows_letter = _shifted(is_cased, False)
    precedes_letter = tf.concat([is_cased, [False]], axis=0)[1:]
    ends_word = tf.scatter_nd(
      places, follows_letter & ~precedes_letter, tf.shape(codes, tf.int64)
    )
    return tf.where((codes == _CAPITAL_SIGMA) & ends_word, _FINAL_SIGMA, codes)

  def _kinds(self, codes) -> tf.Tensor:
    page = tf.gather(self._page_of, codes // _PAGE_SIZE)
    return tf.gather(self._pages, page * _PAGE_SIZE + codes % _PAGE_SIZE)


class _Trie(tf.Module):
  """The tokens of a vocabulary, as a tree in which each edge is a character.

  A node is a number, and an edge a number too, in sorted order: the node that
  it leaves times 2**21, plus the character.
  """

  def __init__(self, vocab: Mapping[str, int]):
    super().__init__()
    children, tokens = {}, [-1]  # node 0 is the root
    for token, token_id in vocab.items():
      node = 0
      for char in token:
        node = children.setdefault((node, ord(char)), len(tokens))
        if node == len(tokens):
          tokens.append(-1)
      tokens[node] = token_id
    tokens[0] = -1  # an empty line of the file is no piece
    edges = sorted(
      (node * _EDGE + code, child) for (node, code), child in children.items()
    )
    self._edges = tf.constant([edge for edge, _ in edges], tf.int64)
    self._children = tf.constant([child for _, child in edges], tf.int64)
    self._tokens = tf.constant(tokens, tf.int32)
    # Where pieces go on a word, which are written with `##`; a node without
    # edges if there are none.
    hash_sign = ord("#")
    self._inside = tf.constant(
      children.get((children.get((0, hash_sign)), hash_sign), len(tokens)),
      tf.int64,
    )

  def __call__(self, codes, starts, ends, fits):
    """Cuts words into the longest pieces, from the left.

    All words move along at once, a character at a time.

    Args:
      codes: the characters of all words, int32 [m].
      starts: where the words begin, int64 [w].
      ends: where they end, int64 [w].
      fits: whether to look at a word at all, bool [w].

    Returns:
      Where a piece begins, its id (elsewhere -1) and where it ends: int32 [m]
      and int64 [m]; and of which words the pieces are all there: bool [w].
    """
    words = tf.where(fits)[:, 0]
    begins = tf.gather(starts, words)
    state = _Cutting(
      words,
      begins,
      begins,
      tf.zeros_like(words),
      tf.fill(tf.shape(words), -1),
      begins,
      tf.fill(tf.shape(codes), -1),
      tf.zeros(tf.shape(codes), tf.int64),
      fits,
    )
    return tf.while_loop(
      lambda state: tf.size(state.words) > 0,
      lambda state: [self._move(state, codes, ends)],
      [state],
      shape_invariants=[_Cutting(*[tf.TensorShape([None])] * 9)],
    )[0][-3:]

  def _move(self, state: "_Cutting", codes, ends) -> "_Cutting":
    """Moves each word on by a character, or ends a piece of it."""
    words, begins, places, nodes, match_ids, match_ends, *results = state
    ends = tf.gather(ends, words)
    children = self._follow(
      nodes, tf.gather(codes, tf.minimum(places, tf.size(codes, tf.int64) - 1))
    )
    moves = (places < ends) & (children >= 0)
    nodes = tf.where(moves, children, nodes)
    places = tf.where(moves, places + 1, places)
    tokens = tf.where(moves, tf.gather(self._tokens, nodes), -1)
    match_ends = tf.where(tokens >= 0, places, match_ends)
    match_ids = tf.where(tokens >= 0, tokens, match_ids)

    cuts = ~moves & (match_ids >= 0)
    fails = ~moves & (match_ids < 0)
    ids, piece_ends, is_known = results
    at = tf.boolean_mask(begins, cuts)[:, tf.newaxis]
    ids = tf.tensor_scatter_nd_update(ids, at, tf.boolean_mask(match_ids, cuts))
    piece_ends = tf.tensor_scatter_nd_update(
      piece_ends, at, tf.boolean_mask(match_ends, cuts)
    )
    failed = tf.boolean_mask(words, fails)[:, tf.newaxis]
    is_known = tf.tensor_scatter_nd_update(
      is_known, failed, tf.zeros(tf.shape(failed)[:1], tf.bool)
    )

    goes_on = ~fails & ~(cuts & (match_ends == ends))
    return _Cutting(
      *(
        tf.boolean_mask(x, goes_on)
        for x in (
          words,
          tf.where(cuts, match_ends, begins),
          tf.where(cuts, match_ends, places),
          tf.where(cuts, self._inside, nodes),
          tf.where(cuts, -1, match_ids),
          match_ends,
        )
      ),
      ids,
      piece_ends,
      is_known,
    )

  def _follow(self, nodes, codes) -> tf.Tensor:
    """Returns the node that an edge leads to, or -1 if there is none."""
    wanted = nodes * _EDGE + tf.cast(codes, tf.int64)
    found = tf.minimum(
      tf.searchsorted(self._edges, wanted), tf.size(self._edges) - 1
    )
    return tf.where(
      tf.gather(self._edges, found) == wanted,
      tf.gather(self._children, found),
      -1,
    )


class _Cutting(NamedTuple):
  """How far words have been cut into pieces.

  The first six are of the words that go on, the last three the results of all;
  see `_Trie.__call__`.

  Attributes:
    words: numbers of the words, int64.
    begins: where the piece begins that is looked for, int64.
    places: how far it has been followed, int64.
    nodes: to which node of the trie, int64.
    match_ids: the longest token on the way, int32; -1 for none so far.
    match_ends: where it ends, int64.
    ids: of pieces, at their first characters, int32.
    piece_ends: likewise, int64.
    is_known: of each word, whether no piece is missing so far, bool.
  """

  words: tf.Tensor
  begins: tf.Tensor
  places: tf.Tensor
  nodes: tf.Tensor
  match_ids: tf.Tensor
  match_ends: tf.Tensor
  ids: tf.Tensor
  piece_ends: tf.Tensor
  is_known: tf.Tensor
