"""Reads files of words and tags, in the layouts in which they are published.

A file has a word a line, with its tags in further columns, and a blank line
between sentences. The lines themselves show the rest:

    GermEval      # <tab> source     a comment: it has no tag of a word
                  1 <tab> Die <tab> O <tab> O     the first column counts words
    CoNLL-2003    -DOCSTART- -X- -X- O     a document begins
                  EU NNP B-NP B-ORG
    OntoNotes     #begin document (bn/abc); part 000
                  bn/abc 0 0 Ann NNP * - - - - (PERSON) ...
    WikiAnn       en:Ann <tab> B-PER
    MultiCoNER    # id 12 domain=en
                  ann _ _ B-PER

Files of JSON are read by `ner_json`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import itertools
import json
import os
import re
from typing import NamedTuple

from absl import logging

from errors import UserError
from tasks import metrics
from tasks import ner
from tasks import ner_json
from tasks import ner_tags
from tasks import text_files

_COMMENT = "#"
# These begin a document, in files of CoNLL and of OntoNotes.
_DOCUMENTS = ("-DOCSTART-", "#begin document")
_BOUNDARIES = (*_DOCUMENTS, "#end document")
_NEW_DOCUMENT = re.compile(r"#\s*newdoc\b")  # in files of CoNLL-U
_KEY_AND_VALUE = re.compile(r"#\s*[\w:.-]+\s*=\s")
_BLANKS = re.compile("[ \t]+")
# Texts that stand for an empty column.
_PLACEHOLDERS = {"_", "-", "?", "-X-"}
# In CoNLL-U, 3-4 is a word that is written as one with the next, 4.1 is a word
# that is not written at all.
_NO_WORD_NUMBER = re.compile(r"\d+[-.]\d+")
_LANGUAGE = re.compile(r"[a-z]{2,}(?:-[a-z]+)*:")
# Entities as in OntoNotes: (PERSON* begins one, *) ends it, (GPE) is one.
_BRACKETS = re.compile(r"(?:\(([\w.-]+))?\*?(\))?")
_NUM_COLUMNS_CONLL_U = 10
_CONLL_U_TAG = 3
_FEWEST_COLUMNS_ONTONOTES = 11
_ONTONOTES_NUMBER, _ONTONOTES_WORD, _ONTONOTES_TAG = 2, 3, 10


class WordFormat(NamedTuple):
  """The known settings of a file; the rest is found in the file.

  Attributes:
    word_column: Number of the column of words, from 0; negative numbers count
      from the end; None if it is not known.
    tag_column: Number of the column of tags, likewise.
    separator: Text between columns; None if it is not known.
    tag_names: The names of tags that are numbers, in files of JSON.
    encoding: Encoding of files without byte order mark; see
      `text_decoding.decode`.
  """

  word_column: int | None = None
  tag_column: int | None = None
  separator: str | None = None
  tag_names: tuple[str, ...] = ()
  encoding: str | None = None


def read_sentences(
  path: str,
  word_format: WordFormat | None = None,
  has_tags: bool = True,
) -> list[ner.Sentence]:
  """Returns the sentences of a file.

  Args:
    path: Path of the file.
    word_format: The settings of the file that are known.
    has_tags: Whether tags are required. If not, they are read if there are any.

  Raises:
    UserError: The file is missing or empty, or a line has no word or no tag.
  """
  word_format = word_format or WordFormat()
  if word_format.separator == "":
    raise UserError(
      "--column_separator is empty. Leave it out to find it in the file."
    )
  if _holds_objects(path, word_format.encoding):
    sentences = ner_json.read_sentences(
      path, has_tags, word_format.tag_names, word_format.encoding
    )
  else:
    sentences = _read_columns(path, word_format, has_tags)
  if not any(sentence.words for sentence in sentences):
    raise UserError(f"{path} holds no words.")
  return sentences


def _holds_objects(path: str, encoding: str | None) -> bool:
  """Returns whether a file holds objects of JSON, or rows of Parquet."""
  ending = os.path.splitext(path.removesuffix(".gz"))[1].lower()
  if ending in (".json", ".jsonl", ".parquet"):
    return True
  _, first = next(text_files.read_lines(path, encoding), (1, ""))
  try:
    return isinstance(json.loads(first), dict)
  except (ValueError, RecursionError):
    return False


# --- Blocks of lines ---------------------------------------------------------


class _Line(NamedTuple):
  """A line of a file and its number, from 1."""

  number: int
  text: str


class _LineBlock(NamedTuple):
  """Lines between blank lines.

  Attributes:
    lines: The lines.
    document: Number of their document.
    before: Lines before them that hold no words.
  """

  lines: list[_Line]
  document: int
  before: list[str]


def _read_blocks(path: str, encoding: str | None) -> Iterator[_LineBlock]:
  """Yields the stretches of lines that are not blank."""
  lines: list[_Line] = []
  before: list[str] = []
  document = 0
  has_begun = False  # whether the first document has begun
  for number, text in text_files.read_lines(path, encoding):
    is_boundary = text.startswith(_BOUNDARIES)
    begins_document = text.startswith(_DOCUMENTS) or (
      not lines and _NEW_DOCUMENT.match(text)
    )
    if text.strip() and not is_boundary:
      if begins_document:
        document += int(has_begun)
        has_begun = True
      lines.append(_Line(number, text))
      continue
    if lines:
      yield _LineBlock(lines, document, before)
      lines, before = [], []
      has_begun = True
    if is_boundary and text.startswith(_COMMENT):
      before.append(text)
    if begins_document:
      document += int(has_begun)
      has_begun = True
  if lines or before:
    yield _LineBlock(lines, document, before)


# --- Layouts -----------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _WordLayout:
  """The meaning of the columns in the lines of a file.

  Attributes:
    split: Function (line) -> columns.
    separator: Text between columns that are added.
    word: Number of the column of words.
    tag: Number of the column of tags; None without tags.
    number: Number of the column that counts the words of a sentence, or None.
    prefix: Text before each word, such as `en:`.
    has_brackets: Whether tags are brackets, as in OntoNotes.
    lengths: Numbers of columns that lines with words have.
    tags: All tags in lines that cannot be comments.
  """

  split: Callable[[str], list[str]]
  separator: str = " "
  word: int = 0
  tag: int | None = -1
  number: int | None = None
  prefix: str = ""
  has_brackets: bool = False
  lengths: frozenset[int] = frozenset()
  tags: frozenset[str] = frozenset()

  def is_comment(self, line: str) -> bool:
    """Returns whether a line before a sentence is no word.

    A word may begin with `#` as well: it has the columns of words, and a tag
    that other words have or that marks an entity.
    """
    if not line.startswith(_COMMENT):
      return False
    values = self.split(line)
    if self.number == 0 or len(values) not in self.lengths:
      return True
    if self.tag is None:
      return bool(_KEY_AND_VALUE.match(line))
    tag = _get(values, self.tag)
    marks_entity = ner_tags.mark_entities(self.tags) and (
      tag == metrics.OUTSIDE or metrics.parse_tag(tag) is not None
    )
    return not (tag in self.tags or marks_entity)

  def has_no_word(self, values: Sequence[str]) -> bool:
    """Returns whether the columns are those of a line without a word."""
    if self.number is None:
      return False
    number = _get(values, self.number)
    return number == _COMMENT or bool(_NO_WORD_NUMBER.fullmatch(number))


def _get(values: Sequence[str], number: int) -> str:
  """Returns a column, or "" if there is none of this number."""
  if -len(values) <= number < len(values):
    return values[number]
  return ""


def _find_layout(
  blocks: Sequence[_LineBlock],
  word_format: WordFormat,
  has_tags: bool,
  path: str,
) -> _WordLayout:
  """Returns the layout of a file."""
  # First lines with `#` may be comments, so the others tell the layout.
  plain = [
    list(itertools.dropwhile(_has_mark, (line.text for line in block.lines)))
    for block in blocks
  ]
  if not any(plain):
    plain = [[line.text for line in block.lines] for block in blocks]
  lines = [line for block in plain for line in block]
  split, separator = _find_separator(lines, word_format.separator)
  sentences = [list(map(split, block)) for block in plain if block]
  rows = [row for sentence in sentences for row in sentence]
  layout = _WordLayout(
    split, separator, lengths=frozenset(len(row) for row in rows)
  )
  layout = _find_columns(layout, sentences, word_format, has_tags)
  words = [_get(row, layout.word) for row in rows]
  layout = dataclasses.replace(layout, prefix=_find_language(words))
  if layout.tag is None:
    return layout
  tags = frozenset(_get(row, layout.tag) for row in rows)
  if tags <= _PLACEHOLDERS:
    if not has_tags:
      return dataclasses.replace(layout, tag=None)
    raise UserError(
      f"{path} has no tags: the column of tags holds only "
      f"{text_files.format_names(sorted(tags))}. Name another one by "
      "--tag_column."
    )
  has_brackets = any(tag.startswith(("(", "*")) for tag in tags) and all(
    tag and _BRACKETS.fullmatch(tag) for tag in tags
  )
  return dataclasses.replace(layout, tags=tags, has_brackets=has_brackets)


def _has_mark(line: str) -> bool:
  return line.startswith(_COMMENT)


def _find_separator(
  lines: Sequence[str], separator: str | None
) -> tuple[Callable[[str], list[str]], str]:
  """Returns how lines are split, and what to put between further columns."""
  if separator is not None:
    return lambda line: line.split(separator), separator
  # A line with a single column has no separator, whichever it is.
  with_blanks = [line for line in lines if " " in line or "\t" in line]
  if with_blanks and all("\t" in line for line in with_blanks):
    return lambda line: [value.strip(" ") for value in line.split("\t")], "\t"
  if _has_single_spaces(with_blanks, len(lines)):
    return lambda line: line.rstrip(" ").split(" "), " "
  if with_blanks:
    return lambda line: _BLANKS.split(line.strip(" \t")), " "
  # Any white space, such as a wide one.
  return str.split, " "


def _has_single_spaces(with_blanks: Sequence[str], num_lines: int) -> bool:
  """Returns whether each single space in a file separates two columns.

  Then a line may begin with an empty word.
  """
  num_columns = {len(line.rstrip(" ").split(" ")) for line in with_blanks}
  num_indented = sum(line.startswith(" ") for line in with_blanks)
  return (
    len(with_blanks) == num_lines
    and len(num_columns) == 1
    and 2 * num_indented < num_lines
    and not any("\t" in line or "  " in line for line in with_blanks)
  )


def _find_columns(
  layout: _WordLayout,
  sentences: Sequence[Sequence[Sequence[str]]],
  word_format: WordFormat,
  has_tags: bool,
) -> _WordLayout:
  """Returns a layout with the numbers of its columns."""
  first_length = len(sentences[0][0])
  shortest = min(layout.lengths)
  number, word, tag = None, 0, -1
  if _count_words(sentences, 0) and shortest >= (3 if has_tags else 2):
    number, word = 0, 1
    if first_length == 2:
      tag = -1
    elif layout.lengths == {_NUM_COLUMNS_CONLL_U}:
      tag = _CONLL_U_TAG
    else:
      tag = _find_first_tags(sentences, first=2)
  elif shortest >= _FEWEST_COLUMNS_ONTONOTES and _count_words(
    sentences, _ONTONOTES_NUMBER
  ):
    number, word, tag = _ONTONOTES_NUMBER, _ONTONOTES_WORD, _ONTONOTES_TAG
  num_others = 1 if number is None else 2
  has_column_of_tags = has_tags or first_length > num_others
  if word_format.word_column is not None:
    word = word_format.word_column
  if word_format.tag_column is not None:
    tag = word_format.tag_column
  return dataclasses.replace(
    layout, word=word, tag=tag if has_column_of_tags else None, number=number
  )


def _count_words(
  sentences: Sequence[Sequence[Sequence[str]]], column: int
) -> bool:
  """Returns whether a column counts the words of most sentences."""
  longest = num_counted = 0
  for sentence in sentences:
    values = [_get(row, column) for row in sentence]
    numbers = [v for v in values if not _NO_WORD_NUMBER.fullmatch(v)]
    first = 0 if numbers[:1] == ["0"] else 1
    expected = range(first, first + len(numbers))
    if numbers == list(map(str, expected)):
      longest = max(longest, len(numbers))
      num_counted += 1
  # A sentence that was edited by hand may have other numbers.
  return longest > 1 and num_counted >= 0.9 * len(sentences)


def _find_first_tags(
  sentences: Sequence[Sequence[Sequence[str]]], first: int
) -> int:
  """Returns the first column whose values mark entities, else the last."""
  rows = [row for sentence in sentences for row in sentence]
  for column in range(first, min(map(len, rows))):
    tags = {row[column] for row in rows}
    if metrics.OUTSIDE in tags and ner_tags.mark_entities(tags):
      return column
  return -1


def _find_language(words: Sequence[str]) -> str:
  """Returns what stands before all words, such as `en:`, or ""."""
  match = _LANGUAGE.match(words[0])
  if not match or len(words) == 1:
    return ""
  prefix = match.group()
  return prefix if all(word.startswith(prefix) for word in words) else ""


# --- Sentences ---------------------------------------------------------------


def _read_columns(
  path: str, word_format: WordFormat, has_tags: bool
) -> list[ner.Sentence]:
  """Returns the sentences of a file with a word a line."""
  blocks = list(_read_blocks(path, word_format.encoding))
  if not any(block.lines for block in blocks):
    raise UserError(f"{path} holds no words.")
  layout = _find_layout(blocks, word_format, has_tags, path)
  sentences: list[ner.Sentence] = []
  pending: list[ner.SentenceRow] = []  # comments without a sentence so far
  comments: list[_Line] = []
  for block in blocks:
    before = [ner.SentenceRow(text, False) for text in block.before]
    num_comments = 0
    for line in block.lines:
      if not layout.is_comment(line.text):
        break
      before.append(ner.SentenceRow(line.text, False))
      num_comments += 1
    comments.extend(block.lines[:num_comments])
    lines = block.lines[num_comments:]
    pending.extend(before)
    if not lines:
      pending.append(ner.SentenceRow("", False))
      continue
    sentences.append(
      _parse_sentence(lines, block.document, pending, layout, path)
    )
    pending = []
  if sentences and pending:
    rows = (*sentences[-1].rows, ner.SentenceRow("", False), *pending[:-1])
    sentences[-1] = dataclasses.replace(sentences[-1], rows=rows)
  _check_words(sentences, path)
  _log_layout(layout, comments, sentences, path)
  return sentences


def _parse_sentence(
  lines: Sequence[_Line],
  document: int,
  before: Sequence[ner.SentenceRow],
  layout: _WordLayout,
  path: str,
) -> ner.Sentence:
  """Returns the sentence of some lines."""
  rows = list(before)
  words, tags, numbers = [], [], []
  for line in lines:
    values = layout.split(line.text)
    has_word = not layout.has_no_word(values)
    rows.append(ner.SentenceRow(line.text, has_word))
    if not has_word:
      continue
    fields = _Fields(f"{path}, line {line.number}", line.text, values)
    words.append(fields.get(layout.word, "word").removeprefix(layout.prefix))
    numbers.append(line.number)
    if layout.tag is not None:
      tags.append(fields.get_tag(layout.tag))
  if layout.has_brackets:
    tags = _read_brackets(tags, numbers, path)
  return ner.Sentence(
    tuple(words),
    tuple(tags) if layout.tag is not None else None,
    document,
    tuple(rows),
    tuple(numbers),
    layout.separator,
  )


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

  def get_tag(self, number: int) -> str:
    """Returns the tag in the column of a number.

    Raises:
      UserError: There is no tag.
    """
    tag = self.get(number, "tag").strip()
    if not tag or len(self.values) < 2:
      shown = text_files.format_value(self.row)
      raise UserError(
        f"{self.place} has a word without tag: {shown}. Add a tag "
        f"({metrics.OUTSIDE} for none), or remove the line."
      )
    return tag


def _read_brackets(
  brackets: Sequence[str], lines: Sequence[int], path: str
) -> list[str]:
  """Returns the tags in IOB2 of entities in brackets.

  Raises:
    UserError: A bracket is missing.
  """
  tags = []
  kind = ""  # of the entity that has begun
  for bracket, line in zip(brackets, lines):
    match = _BRACKETS.fullmatch(bracket)
    begun, end = match.groups() if match else (None, None)
    if (begun and kind) or (end and not begun and not kind):
      raise UserError(
        f"{path}, line {line}: the bracket of {bracket!r} does not fit those "
        "before it."
      )
    kind = begun or kind
    prefix = "B" if begun else "I"
    tags.append(f"{prefix}-{kind}" if kind else metrics.OUTSIDE)
    if end:
      kind = ""
  if kind:
    raise UserError(
      f"{path}, line {lines[-1]}: the sentence ends, but ({kind} has no ')'."
    )
  return tags


def _check_words(sentences: Sequence[ner.Sentence], path: str) -> None:
  """Raises a UserError if all words of a file are empty."""
  if any(word for sentence in sentences for word in sentence.words):
    return
  for sentence in sentences:
    [row, *_] = [row.text for row in sentence.rows if row.has_word]
    raise UserError(
      f"{path}, line {sentence.lines[0]} has no word, and no other line has "
      f"one: {text_files.format_value(row)}. Is --word_column right?"
    )


def _log_layout(
  layout: _WordLayout,
  comments: Sequence[_Line],
  sentences: Sequence[ner.Sentence],
  path: str,
) -> None:
  """Logs how a file was read."""
  tags = "no tags"
  if layout.tag is not None:
    tags = f"tags in column {layout.tag}"
  if layout.tag == -1:
    tags = "tags in the last column"
  prefix = f" after {layout.prefix!r}" if layout.prefix else ""
  logging.info(
    "%s: %d sentences, %d words. Words are in column %d%s, %s; %s between "
    "columns.",
    path,
    len(sentences),
    sum(len(sentence.words) for sentence in sentences),
    layout.word,
    prefix,
    tags,
    {" ": "white space", "\t": "tabs"}.get(
      layout.separator, repr(layout.separator)
    ),
  )
  if comments:
    logging.info(
      "%s: %d comment lines, which hold no words; the first is line %d: %s",
      path,
      len(comments),
      comments[0].number,
      text_files.format_value(comments[0].text),
    )
