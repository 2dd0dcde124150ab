"""Reads words and tags, or texts and entities, from JSON lines and Parquet.

    {"tokens": ["Ann", "Lee", "left"], "ner_tags": ["B-PER", "I-PER", "O"]}
    {"text": "Ann Lee left", "label": [[0, 7, "PER"]]}

Annotation tools write the second form, with offsets in characters. A text is
split into words and punctuation marks as the tokenizer splits it.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
import dataclasses
import re
from typing import Any, NamedTuple

from absl import logging

from data import row_files
from errors import UserError
from tasks import metrics
from tasks import ner
from tasks import text_files
import tokenization

# Names of fields, in the order in which they are looked for.
_WORDS = ("tokens", "words")
_TAGS = ("ner_tags", "tags", "labels", "ner", "label")
_TEXTS = ("text", "data")
_SPANS = ("entities", "label", "labels", "spans")
# Names in spans that are objects.
_STARTS = ("start", "start_offset")
_ENDS = ("end", "end_offset")
_KINDS = ("label", "labels", "type")
_LINE_ENDS = re.compile(r"[\t\r\n]")


class _Span(NamedTuple):
  """An entity: its first character, the one after its last, and its type."""

  start: int
  end: int
  kind: str


def read_sentences(
  path: str,
  has_tags: bool = True,
  tag_names: Sequence[str] = (),
  encoding: str | None = None,
) -> list[ner.Sentence]:
  """Returns a sentence for each object of a file.

  Args:
    path: Path of the file.
    has_tags: Whether tags are required. If not, they are read if there are any.
    tag_names: The names of tags that are numbers.
    encoding: See `row_files.read_rows`.

  Raises:
    UserError: The file is missing or damaged, or an object has other fields.
  """
  file = row_files.read_rows(path, encoding)
  reader = _Reader(path, has_tags, tuple(tag_names))
  sentences = []
  for number, fields in file.rows:
    place = f"{path}, {file.noun} {number}"
    sentences.append(reader.parse(fields, number, place))
  reader.warn_about_spans()
  if not has_tags and reader.num_spans == 0:
    # Annotation tools write empty lists for texts that nobody has read.
    sentences = [
      sentence if sentence.text is None else _without_tags(sentence)
      for sentence in sentences
    ]
  has_all = [sentence.tags is not None for sentence in sentences]
  if any(has_all) and not all(has_all):
    raise UserError(
      f"{path} has tags in some of its objects, but none in {file.noun} "
      f"{sentences[has_all.index(False)].lines[0]}."
    )
  return sentences


class _Reader:
  """Turns the objects of a file into sentences.

  Attributes:
    num_spans: Number of entities so far, in texts.
  """

  def __init__(self, path: str, has_tags: bool, tag_names: tuple[str, ...]):
    self._path = path
    self._has_tags = has_tags
    self._tag_names = tag_names
    self.num_spans = 0
    self._tokenizer = tokenization.BasicTokenizer(do_lower_case=False)
    # Places of spans that could not be read exactly.
    self._inexact: list[str] = []
    self._overlapping: list[str] = []

  def parse(
    self, fields: Mapping[str, Any], number: int, place: str
  ) -> ner.Sentence:
    """Returns the sentence of an object.

    Args:
      fields: The object.
      number: Its number in the file.
      place: Path and number, for messages.
    """
    words = _find_field(fields, _WORDS)
    if words and _are_strings(fields[words]):
      return self._parse_words(fields, words, number, place)
    text = _find_field(fields, _TEXTS)
    if text and isinstance(fields[text], str):
      return self._parse_text(fields, text, number, place)
    raise UserError(
      f"{place} has the fields {text_files.format_names(fields)}, but neither "
      f"a list of words called {' or '.join(_WORDS)}, nor a "
      f"{' or '.join(_TEXTS)}."
    )

  def _parse_words(
    self, fields: Mapping[str, Any], name: str, number: int, place: str
  ) -> ner.Sentence:
    """Returns the sentence of an object with a list of words."""
    words = tuple(fields[name])
    tags = None
    tags_name = _find_field(fields, _TAGS)
    if tags_name:
      tags = self._parse_tags(fields[tags_name], tags_name, len(words), place)
    elif self._has_tags:
      raise UserError(
        f"{place} has words, but no tags. Add a list {_TAGS[0]} with one for "
        "each word."
      )
    return _create_sentence(words, tags, number, document=0)

  def _parse_tags(
    self, values: Any, name: str, num_words: int, place: str
  ) -> tuple[str, ...]:
    """Returns the tags of words."""
    if not isinstance(values, list) or len(values) != num_words:
      shown = text_files.format_value(values)
      raise UserError(
        f"{place}: {name} is {shown}, not a list of {num_words} tags, one for "
        "each word."
      )
    tags = []
    for value in values:
      if isinstance(value, int) and not isinstance(value, bool):
        value = self._name_tag(value, name, place)
      if not isinstance(value, str) or not value.strip():
        shown = text_files.format_value(value)
        raise UserError(f"{place}: {name} holds {shown}, which is no tag.")
      tags.append(value.strip())
    return tuple(tags)

  def _name_tag(self, number: int, name: str, place: str) -> str:
    """Returns the name of a tag that is a number."""
    if not self._tag_names:
      raise UserError(
        f"{place}: {name} holds the number {number}, and the file does not "
        "tell the name of its tag. Pass the names in the order of their "
        "numbers, such as --tag_names=O,B-PER,I-PER."
      )
    if not 0 <= number < len(self._tag_names):
      raise UserError(
        f"{place}: {name} holds {number}, but --tag_names has "
        f"{len(self._tag_names)} names, from 0."
      )
    return self._tag_names[number]

  def _parse_text(
    self, fields: Mapping[str, Any], name: str, number: int, place: str
  ) -> ner.Sentence:
    """Returns the sentence of an object with a text and entities."""
    text = fields[name]
    starts, ends = [], []
    for word in self._tokenizer.split_with_offsets(text):
      starts.append(word.starts[0])
      ends.append(word.ends[-1])
    words = tuple(text[start:end] for start, end in zip(starts, ends))
    tags = None
    spans_name = _find_field(fields, _SPANS)
    if spans_name:
      spans = _parse_spans(fields[spans_name], spans_name, text, place)
      self.num_spans += len(spans)
      tags = self._mark_words(spans, starts, ends, place)
    elif self._has_tags:
      raise UserError(
        f"{place} has a text, but no {' or '.join(_SPANS)}: a list of "
        "[start, end, type], which is empty for a text without entities."
      )
    return _create_sentence(words, tags, number, number, text, tuple(starts))

  def _mark_words(
    self,
    spans: Sequence[_Span],
    starts: Sequence[int],
    ends: Sequence[int],
    place: str,
  ) -> tuple[str, ...]:
    """Returns the tags of words, in IOB2, for the entities of a text."""
    tags = [metrics.OUTSIDE] * len(starts)
    longest_first = sorted(spans, key=lambda span: span.start - span.end)
    for span in longest_first:
      first = bisect.bisect_right(ends, span.start)
      last = bisect.bisect_left(starts, span.end)
      here = range(first, last)
      if not here:
        raise UserError(
          f"{place}: the entity {list(span)} holds no word. Correct its "
          "offsets, or remove it."
        )
      if any(tags[i] != metrics.OUTSIDE for i in here):
        self._overlapping.append(place)
        continue
      if starts[here[0]] < span.start or ends[here[-1]] > span.end:
        self._inexact.append(place)
      for i in here:
        tags[i] = f"I-{span.kind}"
      tags[here[0]] = f"B-{span.kind}"
    return tuple(tags)

  def warn_about_spans(self) -> None:
    """Logs which entities were not read as they are."""
    for places, problem in [
      (
        self._inexact,
        "begin or end inside a word, and count for the whole word",
      ),
      (
        self._overlapping,
        "overlap a longer one, and are left out: a word has one tag",
      ),
    ]:
      if places:
        logging.warning(
          "%s: %d entities %s. The first is in %s.",
          self._path,
          len(places),
          problem,
          places[0],
        )


def _create_sentence(
  words: tuple[str, ...],
  tags: tuple[str, ...] | None,
  number: int,
  document: int,
  text: str | None = None,
  starts: tuple[int, ...] | None = None,
) -> ner.Sentence:
  """Returns the sentence of an object; see `ner.Sentence`."""
  rows = [ner.SentenceRow(_LINE_ENDS.sub(" ", word), True) for word in words]
  # Words may contain spaces.
  lines = (number,) * max(1, len(words))
  return ner.Sentence(
    words, tags, document, tuple(rows), lines, "\t", text, starts
  )


def _without_tags(sentence: ner.Sentence) -> ner.Sentence:
  return dataclasses.replace(sentence, tags=None)


def _find_field(fields: Mapping[str, Any], names: Sequence[str]) -> str | None:
  """Returns the first of the names that has a value, or None."""
  return next((name for name in names if fields.get(name) is not None), None)


def _are_strings(value: Any) -> bool:
  return isinstance(value, list) and all(isinstance(x, str) for x in value)


def _parse_spans(values: Any, name: str, text: str, place: str) -> list[_Span]:
  """Returns the entities of a text.

  Raises:
    UserError: One has another form, or is not in the text.
  """
  if not isinstance(values, list):
    shown = text_files.format_value(values)
    raise UserError(f"{place}: {name} is {shown}, not a list of entities.")
  spans = []
  for value in values:
    parts: Any = value
    if isinstance(value, dict):
      fields = [_find_field(value, names) for names in (_STARTS, _ENDS, _KINDS)]
      parts = [value[field] if field else None for field in fields]
    shown = text_files.format_value(value)
    if not isinstance(parts, list) or len(parts) != 3:
      raise UserError(f"{place}: {name} holds {shown}, not [start, end, type].")
    start, end, kind = parts
    if isinstance(kind, list) and len(kind) == 1:
      kind = kind[0]
    if not isinstance(kind, str) or not kind.strip():
      raise UserError(f"{place}: {name} holds {shown}, which has no type.")
    are_numbers = all(type(x) is int for x in (start, end))
    if not are_numbers or not 0 <= start < end <= len(text):
      raise UserError(
        f"{place}: {name} holds {shown}, which are no offsets in a text of "
        f"{len(text)} characters."
      )
    spans.append(_Span(start, end, kind.strip()))
  return spans
