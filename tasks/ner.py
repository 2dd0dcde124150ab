"""Tags of words, for example named entities (paper, section 5.3).

    [CLS] the un ##aff ##able cat [SEP]
            O  B-x             I-x

The tag of a word is predicted at its first piece. A text that does not fit is
read in overlapping windows. A word that is in several windows counts in the one
that gives its first piece most context.
"""

import collections
from collections.abc import Iterable, Iterator, Sequence
import dataclasses
import json
from typing import Any, NamedTuple

import numpy as np

from data import encoding
from data import sliding_windows
from errors import UserError
from tasks import metrics
from tasks import text_files
import tokenization

# This begins a document in files of CoNLL.
_DOCUMENT = "-DOCSTART-"
# Longer words are truncated, which does not change their first piece.
MAX_PIECES = 32
_OUTSIDE = "O"


@dataclasses.dataclass(frozen=True)
class Sentence:
  """Words and their tags.

  Attributes:
    words: The words.
    tags: Their tags; None if they are unknown.
    document: Number of the document.
    rows: The lines of the file, unchanged.
    line: Number of the first word's line, from 1.
  """

  words: tuple[str, ...]
  tags: tuple[str, ...] | None
  document: int
  rows: tuple[str, ...]
  line: int


class WordColumns(NamedTuple):
  """Layout of the lines of a file.

  Attributes:
    word: Number of the column of words, from 0; negative numbers count from
      the end.
    tag: Number of the column of tags.
    separator: Text between columns; None for any white space.
  """

  word: int = 0
  tag: int = -1
  separator: str | None = None


class _SentenceRows(NamedTuple):
  """Lines between blank lines; `line` is the number of the first, from 1."""

  rows: tuple[str, ...]
  line: int
  document: int


class _Fields(NamedTuple):
  """The columns of a line.

  Attributes:
    place: Path of the file and number of the line, for messages.
    row: The line.
    values: The columns of the line.
  """

  place: str
  row: str
  values: list[str]

  def get(self, number: int, name: str) -> str:
    """Returns the column of a number.

    Raises:
      UserError: There is no such column; the message calls it `name`.
    """
    if not -len(self.values) <= number < len(self.values):
      raise UserError(
        f"{self.place} has {len(self.values)} columns, so there is no {name} "
        f"in column {number}: {text_files.format_value(self.row)}. Are "
        "--column_separator, --word_column and --tag_column right?"
      )
    return self.values[number]


# --- Reading -----------------------------------------------------------------


def read_sentences(
  path: str, columns: WordColumns | None = None, has_tags: bool = True
) -> list[Sentence]:
  """Returns the sentences of a file that has one word per line.

  Blank lines separate sentences.

  Args:
    path: Path of the file.
    columns: Layout of its lines; None for the defaults.
    has_tags: Whether tags are required. If not, they are read if the first
      line has more than one column.

  Raises:
    UserError: The file is missing or empty, or a line has no word or no tag.
  """
  columns = columns or WordColumns()
  if columns.separator == "":
    raise UserError(
      "--column_separator is empty. Leave it out for any white space."
    )
  sentences: list[Sentence] = []
  for block in _read_blocks(path):
    if not sentences:
      num_columns = len(block.rows[0].split(columns.separator))
      has_tags = has_tags or num_columns > 1
    sentences.append(_parse_sentence(block, columns, has_tags, path))
  if not sentences:
    raise UserError(f"{path} holds no words.")
  return sentences


def _read_blocks(path: str) -> Iterator[_SentenceRows]:
  """Yields the stretches of lines that are not blank."""
  rows: list[str] = []
  document, line = 0, 0
  has_begun = False  # whether the first document has begun
  for line, text in text_files.read_lines(path):
    is_document = text.startswith(_DOCUMENT)
    if text.strip() and not is_document:
      rows.append(text)
      continue
    if rows:
      yield _SentenceRows(tuple(rows), line - len(rows), document)
      rows = []
      has_begun = True
    if is_document:
      document += int(has_begun)
      has_begun = True
  if rows:
    yield _SentenceRows(tuple(rows), line + 1 - len(rows), document)


def _parse_sentence(
  block: _SentenceRows, columns: WordColumns, has_tags: bool, path: str
) -> Sentence:
  """Returns the sentence of some lines."""
  words, tags = [], []
  for line, row in enumerate(block.rows, block.line):
    values = row.split(columns.separator)
    fields = _Fields(f"{path}, line {line}", row, values)
    word = fields.get(columns.word, "word")
    if not word.strip():
      raise UserError(
        f"{fields.place} has no word: {text_files.format_value(row)}."
      )
    words.append(word)
    if has_tags:
      tags.append(_get_tag(fields, columns))
  return Sentence(
    tuple(words),
    tuple(tags) if has_tags else None,
    block.document,
    block.rows,
    block.line,
  )


def _get_tag(fields: _Fields, columns: WordColumns) -> str:
  """Returns the tag of a line."""
  tag = fields.get(columns.tag, "tag").strip()
  if not tag or len(fields.values) < 2:
    shown = text_files.format_value(fields.row)
    raise UserError(
      f"{fields.place} has a word without tag: {shown}. Add a tag ({_OUTSIDE} "
      "for none), or remove the line."
    )
  return tag


# --- Schemes of tags ---------------------------------------------------------


def find_scheme(sentences: Iterable[Sequence[str]]) -> str | None:
  """Returns the scheme that tags follow.

  Args:
    sentences: Tags of each sentence.

  Returns:
    `BIOES` if single words (S-) or the ends (E-) of entities are marked; `IOB1`
    if most entities begin with I- (B- is only for an entity that follows
    another of its type); `IOB2` if most begin with B-; None if tags do not mark
    parts of entities.
  """
  # Number of tags by prefix, and whether the tag before is of another type.
  counts: collections.Counter[tuple[str, bool]] = collections.Counter()
  for tags in sentences:
    previous = _OUTSIDE
    for tag in tags:
      if tag != _OUTSIDE:
        if tag[1:2] != "-" or tag[0] not in "BIES":
          return None
        begins = previous == _OUTSIDE or previous[2:] != tag[2:]
        counts[tag[0], begins] += 1
      previous = tag
  if counts["S", True] or counts["S", False] or counts["E", False]:
    return "BIOES"
  return "IOB1" if counts["I", True] > counts["B", True] else "IOB2"


def count_irregular(sentences: Iterable[Sequence[str]], scheme: str) -> int:
  """Returns the number of tags that cannot follow the tag before them.

  Args:
    sentences: Tags of each sentence.
    scheme: Scheme of the tags, see `find_scheme`.
  """
  # After these prefixes an entity can continue.
  open_prefixes = "BI" if scheme == "BIOES" else "BIES"
  count = 0
  for tags in sentences:
    previous = _OUTSIDE
    for tag in (*tags, _OUTSIDE):
      is_open = previous[0] in open_prefixes
      is_same_type = is_open and previous[2:] == tag[2:]
      continues = tag[0] in "IE"
      if scheme == "IOB1":
        # B- separates two entities of one type.
        is_irregular = tag[0] == "B" and not is_same_type
      elif continues:
        is_irregular = not is_same_type
      else:
        # An entity of several words has to end with E-.
        is_irregular = scheme == "BIOES" and is_open
      count += int(is_irregular)
      previous = tag
  return count


# --- Windows -----------------------------------------------------------------


class TagWindow(NamedTuple):
  """A window of a text.

  Attributes:
    features: Ids of the sequence.
    word_numbers: For each token the number of the word that it is the first
      piece of, if this word counts in this window; otherwise -1.
  """

  features: encoding.InputFeatures
  word_numbers: list[int]


def cut_windows(
  sentences: Sequence[Sentence],
  tokenizer: tokenization.FullTokenizer,
  max_seq_length: int,
  document_context: bool,
) -> Iterator[TagWindow]:
  """Yields windows, in which each word of all sentences counts once.

  Words are numbered through all sentences.

  Args:
    sentences: The sentences.
    tokenizer: Tokenizer of the model.
    max_seq_length: Maximum number of tokens of a window.
    document_context: Whether a text is a document instead of a sentence. The
      paper's results were obtained with documents, where a word sees the
      sentences around its own.
  """
  # tokens     the un ##aff ##able cat
  # numbers      0  1    -1     -1   2      in the first text
  cls_id, sep_id, unk_id = tokenizer.convert_tokens_to_ids(
    ["[CLS]", "[SEP]", "[UNK]"]
  )
  room = max_seq_length - 2
  first_word = 0
  for words in _join_texts(sentences, document_context):
    ids: list[int] = []
    numbers: list[int] = []
    for number, pieces in enumerate(tokenizer.encode_each(words), first_word):
      # A word that the tokenizer drops, such as U+200B, needs a tag as well.
      pieces = pieces[:MAX_PIECES] or [unk_id]
      ids.extend(pieces)
      numbers.append(number)
      numbers.extend([-1] * (len(pieces) - 1))
    first_word += len(words)
    windows = sliding_windows.cut_windows(len(ids), room, max(1, room // 2))
    for start, length, is_max_context in zip(*windows):
      here = slice(start, start + length)
      features = encoding.InputFeatures(
        [cls_id, *ids[here], sep_id], [0] * (length + 2)
      )
      counted = np.where(is_max_context[:length], numbers[here], -1).tolist()
      yield TagWindow(features, [-1, *counted, -1])


def _join_texts(
  sentences: Sequence[Sentence], document_context: bool
) -> Iterator[list[str]]:
  """Yields the words of each sentence, or of each document."""
  if not document_context:
    for sentence in sentences:
      yield list(sentence.words)
    return
  words: list[str] = []
  document = sentences[0].document
  for sentence in sentences:
    if sentence.document != document:
      yield words
      words, document = [], sentence.document
    words.extend(sentence.words)
  yield words


# --- Predictions -------------------------------------------------------------


def split_by_sentence(
  sentences: Sequence[Sentence], values: Sequence[Any]
) -> list[list[Any]]:
  """Returns a list for each sentence of values, one for each word."""
  result = []
  start = 0
  for sentence in sentences:
    end = start + len(sentence.words)
    result.append(list(values[start:end]))
    start = end
  return result


def sentence_to_json(sentence: Sentence, tags: Sequence[str]) -> str:
  """Returns a JSON object with a text and the entities in it.

  Offsets count characters of the text, in which spaces separate the words.
  """
  text = " ".join(sentence.words)
  starts = []
  place = 0
  for word in sentence.words:
    starts.append(place)
    place += len(word) + 1
  entities = []
  by_place = sorted(metrics.find_entities(tags), key=lambda entity: entity[1])
  for kind, first, end in by_place:
    begin = starts[first]
    finish = starts[end - 1] + len(sentence.words[end - 1])
    entities.append(
      {
        "type": kind,
        "start": begin,
        "end": finish,
        "text": text[begin:finish],
      }
    )
  content = {"text": text, "tags": list(tags), "entities": entities}
  return json.dumps(content, ensure_ascii=False)
