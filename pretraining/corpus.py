"""Text files of any size to documents, a block at a time.

    files --group_files--> units --read_blocks--> blocks --parse--> documents

A block is a part of the input of some megabytes, cut between documents where
possible. It is the unit of work: the input is read in one place, in order, and
blocks are parsed anywhere, so neither memory nor the number of processors
limits the size of the input.

Files are plain, or compressed by gzip, bzip2, xz or Zstandard. The text has one
of these layouts, which the first line tells:

    lines     one sentence per line, and a blank line between documents
    json      a JSON object with a text on each line
    elements  `<doc id="1" ... title="...">`, lines, `</doc>`

WikiExtractor writes the last two, with the title as the first line of a text. A
title is no sentence, so it is left out.
"""

from __future__ import annotations

import codecs
import collections
from collections.abc import Iterator, Sequence
import dataclasses
import enum
import html
import json
import re
from typing import NamedTuple

import tensorflow as tf

from data import file_io
from data import text_decoding
from errors import UserError
from pretraining import compression

_CHUNK_BYTES = 2**20
# If a part of a file has no blank line, it is cut after a sentence at this
# size. A line may be as long as the second limit.
_LONGEST_SECTION_BYTES = 2**22
_LONGEST_LINE_BYTES = 2**26
# A block has at least this many documents, because random next sentences come
# from other documents of the block; unless that makes the block too large.
_FEWEST_DOCUMENTS = 8
_LARGEST_BLOCK_BYTES = 2**24
# A small input is cut into this many blocks, so that all processors have work.
_FEWEST_BLOCKS = 16
_SMALLEST_BLOCK_BYTES = 2**20

# Names under which skipped lines are counted.
REASONS_TO_SKIP = ("not_utf8", "not_json", "without_text")

# Maximum number of characters of the input that an error message repeats.
_MESSAGE_LENGTH = 200

# Bytes of text per byte of a compressed file, rounded up.
_COMPRESSION_RATIO = 4

_JSON_LINES_SUFFIX = re.compile(
  r"\.(jsonl|ndjson|json)(\.gz|\.bz2|\.xz|\.zst)?$"
)
_JSON_START = re.compile(rb'\s*\{\s*"[^"\\\n]*"\s*:')
_ELEMENT_START = re.compile(rb"\s*<doc id=")
_ELEMENT_LINE = re.compile(r'<doc id=.*?( title="(?P<title>.*)")?>')
_ELEMENT_END_LINE = "</doc>"
# Fields of the objects that WikiExtractor writes.
_EXTRACTED_FIELDS = {"id", "url", "title"}
# The layout of a file is found in this many of its first bytes.
_BYTES_TO_LOOK_AT = 2**10


class Layout(enum.Enum):
  """Ways to divide a text; the value matches the end of a document."""

  LINES = rb"\n(?:[ \t\r]*\n)+"
  JSON = rb"\n"
  ELEMENTS = rb"</doc>[ \t\r]*\n"


# --- Blocks ------------------------------------------------------------------


class FileSection(NamedTuple):
  """Consecutive lines of a file.

  Attributes:
    file: Path of the file.
    layout: How the file divides its text.
    first_line: Number of the first line, from 1.
    content: Bytes of the lines, decompressed.
    num_documents: Approximate number of documents that end in the section.
    ends_document: Whether the next line belongs to another document.
    input_bytes: Number of bytes of the file that were read for the section.
  """

  file: str
  layout: Layout
  first_line: int
  content: bytes
  num_documents: int
  ends_document: bool
  input_bytes: int


class Block(NamedTuple):
  """A part of the input.

  Attributes:
    number: Number of its unit, and number of the block within the unit.
    sections: Parts of the block. A document never continues in another file.
  """

  number: tuple[int, int]
  sections: list[FileSection]

  @property
  def input_bytes(self) -> int:
    return sum(section.input_bytes for section in self.sections)


def estimate_text_bytes(files: Sequence[str]) -> int:
  """Returns the approximate size of text files after decompression."""
  total = 0
  for file in files:
    is_compressed = file.endswith(compression.SUFFIXES)
    ratio = _COMPRESSION_RATIO if is_compressed else 1
    total += file_io.file_size(file) * ratio
  return total


def choose_block_bytes(files: Sequence[str]) -> int:
  """Returns the size of the blocks of an input.

  It must not depend on anything but the input, since the records of a block
  depend on where the block begins and ends.
  """
  size = estimate_text_bytes(files) // _FEWEST_BLOCKS
  return min(max(size, _SMALLEST_BLOCK_BYTES), _LARGEST_BLOCK_BYTES)


def group_files(files: Sequence[str], block_bytes: int) -> list[list[str]]:
  """Groups files into units, which can be read independently of each other.

  Small files share a unit until they are large enough for a block.
  """
  units: list[list[str]] = []
  unit_bytes = block_bytes
  for file in files:
    if unit_bytes >= block_bytes:
      units.append([])
      unit_bytes = 0
    units[-1].append(file)
    unit_bytes += estimate_text_bytes([file])
  return units


def read_all_blocks(files: Sequence[str], block_bytes: int) -> Iterator[Block]:
  """Yields the blocks of files, one unit after the other."""
  for number, unit in enumerate(group_files(files, block_bytes)):
    yield from read_blocks(unit, number, block_bytes)


def read_blocks(
  unit: Sequence[str], unit_number: int, block_bytes: int
) -> Iterator[Block]:
  """Yields the blocks of a unit.

  Args:
    unit: Paths of its files.
    unit_number: Number of the unit.
    block_bytes: Approximate size of a block.

  Raises:
    UserError: A file cannot be read, a compressed file is damaged, or a line
      is far too long.
  """
  number = 0
  block: list[FileSection] = []
  size = num_documents = 0
  # A complete block waits here until the next one is complete, because a last
  # block that is too small is added to it.
  waiting: list[FileSection] = []
  for file in unit:
    for section in _read_sections(file):
      block.append(section)
      size += len(section.content)
      num_documents += section.num_documents
      has_enough = size >= block_bytes and num_documents >= _FEWEST_DOCUMENTS
      is_complete = has_enough and section.ends_document
      if is_complete or size >= _LARGEST_BLOCK_BYTES:
        if waiting:
          yield Block((unit_number, number), waiting)
          number += 1
        waiting, block = block, []
        size = num_documents = 0
  if waiting and size >= block_bytes // 2:
    yield Block((unit_number, number), waiting)
    number += 1
    waiting = []
  if waiting or block:
    yield Block((unit_number, number), waiting + block)


def _read_sections(file: str) -> Iterator[FileSection]:
  """Yields all lines of a file, cut between documents where possible."""
  with tf.io.gfile.GFile(file, "rb") as raw:
    first_line, position = 1, 0
    rest = b""
    chunks = compression.read_chunks(file, raw, _CHUNK_BYTES)
    layout = None
    is_last = False
    while not is_last:
      chunk = next(chunks, None)
      is_last = chunk is None
      rest += chunk or b""
      if layout is None:
        if len(rest) < _BYTES_TO_LOOK_AT and not is_last:
          continue
        layout = _find_layout(file, rest)
      document_ends = [match.end() for match in re.finditer(layout.value, rest)]
      ends_document = bool(document_ends) or is_last
      if is_last:
        end = len(rest)
      elif document_ends:
        end = document_ends[-1]
      elif len(rest) >= _LONGEST_SECTION_BYTES:
        end = rest.rfind(b"\n") + 1
      else:
        end = 0
      if not end and len(rest) >= _LONGEST_LINE_BYTES:
        raise UserError(
          f"{file}, line {first_line} is longer than "
          f"{_LONGEST_LINE_BYTES >> 20} MiB. Is it text, with one sentence "
          "per line?"
        )
      if end:
        content, rest = rest[:end], rest[end:]
        input_bytes = raw.tell() - position
        num_documents = len(document_ends) + is_last
        yield FileSection(
          file,
          layout,
          first_line,
          content,
          num_documents,
          ends_document,
          input_bytes,
        )
        position += input_bytes
        first_line += content.count(b"\n")


def _find_layout(file: str, beginning: bytes) -> Layout:
  """Returns the layout of a file, given its name and its first bytes."""
  beginning = beginning[:_BYTES_TO_LOOK_AT].removeprefix(codecs.BOM_UTF8)
  if _JSON_LINES_SUFFIX.search(file) or _JSON_START.match(beginning):
    return Layout.JSON
  if _ELEMENT_START.match(beginning):
    return Layout.ELEMENTS
  return Layout.LINES


# --- Documents ---------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class TextParser:
  """Settings that decide how blocks become documents.

  Attributes:
    errors: "strict" to raise an error at a line with errors; "replace" to use
      what can be read of it, and to count it.
    split_sentences: Whether to split lines into sentences.
    text_field: Field of a JSON object that holds the text.
  """

  errors: str = "strict"
  split_sentences: bool = False
  text_field: str = "text"

  def parse_block(
    self, block: Block, counts: collections.Counter
  ) -> Iterator[list[str]]:
    """Yields the documents of a block, each as a list of sentences.

    Args:
      block: Block of the input.
      counts: Counter to which the numbers of lines with errors are added, under
        the names in `REASONS_TO_SKIP`.

    Raises:
      UserError: A line has an error, and `errors` is strict.
    """
    for document in self._split_documents(block, counts):
      if self.split_sentences:
        sentences: list[str] = []
        for text in document:
          sentences += split_sentences(text)
        document = sentences
      if document:
        yield document

  def _split_documents(
    self, block: Block, counts: collections.Counter
  ) -> Iterator[list[str]]:
    """Yields the lines of each document, without blank lines."""
    document: list[str] = []
    for section in block.sections:
      lines = self._decode_lines(section, counts)
      if section.layout == Layout.JSON:
        yield from self._parse_json_lines(section, lines, counts)
        continue
      if section.layout == Layout.ELEMENTS:
        lines = _unwrap_elements(lines)
      for line in lines:
        if line.strip():
          document.append(line)
        elif document:
          yield document
          document = []
      if section.ends_document and document:
        yield document
        document = []
    if document:
      yield document

  def _decode_lines(
    self, section: FileSection, counts: collections.Counter
  ) -> list[str]:
    content = section.content
    if b"\0" in content and self.errors == "strict":
      line_ends = content.count(b"\n", 0, content.index(b"\0"))
      raise UserError(
        f"{section.file}, line {section.first_line + line_ends}: there is a "
        "byte of value 0, so this is not UTF-8 text but a binary file or "
        "UTF-16. Convert it first, leave it out, or pass --errors=replace."
      )
    try:
      text = content.decode("utf-8")
    except UnicodeDecodeError as error:
      lines = content.split(b"\n")
      if self.errors == "strict":
        index = content.count(b"\n", 0, error.start)
        number = section.first_line + index
        text_decoding.decode_line(lines[index], section.file, number)  # raises
      text = content.decode("utf-8", "replace")
      for line in lines:
        valid = line.decode("utf-8", "ignore").encode()
        counts["not_utf8"] += line != valid
    if section.first_line == 1:
      text = text.removeprefix("\ufeff")
    # Only line feeds end a line: text may hold other line separators.
    return text.removesuffix("\n").split("\n")

  def _parse_json_lines(
    self,
    section: FileSection,
    lines: Sequence[str],
    counts: collections.Counter,
  ) -> Iterator[list[str]]:
    """Yields the lines of the text of each JSON object."""
    for number, line in enumerate(lines, section.first_line):
      if not line.strip():
        continue
      place = f"{section.file}, line {number}"
      try:
        text = self._parse_json_line(line, place)
      except _LineError as error:
        if self.errors == "strict":
          raise UserError(
            f"{error} Correct the line, or skip such lines with "
            "--errors=replace."
          ) from error
        counts[error.reason] += 1
      else:
        yield [part for part in text.split("\n") if part.strip()]

  def _parse_json_line(self, line: str, place: str) -> str:
    """Returns the text of a JSON object.

    Raises:
      _LineError: The line has no JSON object with a text.
    """
    try:
      json_object = file_io.parse_json(line, place, object)
    except UserError as error:
      raise _LineError(str(error), "not_json") from error
    if not isinstance(json_object, dict):
      raise _LineError(
        f"{place}: no JSON object with a text in it.", "without_text"
      )
    if self.text_field not in json_object:
      names = ", ".join(map(repr, json_object)) or "none"
      raise _LineError(
        f"{place}: no field {self.text_field!r}; there are: {_shorten(names)}; "
        "--text_field names the field of the text.",
        "without_text",
      )
    text = json_object[self.text_field]
    if not isinstance(text, str):
      value = _shorten(json.dumps(text))
      raise _LineError(
        f"{place}: the field {self.text_field!r} holds {value}, not a text.",
        "without_text",
      )
    if json_object.keys() >= _EXTRACTED_FIELDS:
      text = _remove_title(text, str(json_object["title"]))
    return text


def _unwrap_elements(lines: Sequence[str]) -> list[str]:
  """Returns lines with a blank line between documents, and only there.

  <doc id="1" title="Cats">
  Cats                              the title, left out
                                    between paragraphs, left out
  A cat sat.                        A cat sat.
  </doc>                            a blank line
  """
  unwrapped = []
  title = None  # of a document whose first line has not come yet
  for line in lines:
    start = _ELEMENT_LINE.fullmatch(line.strip())
    if start:
      title = start["title"] or ""
      unwrapped.append("")
    elif line.strip() == _ELEMENT_END_LINE:
      unwrapped.append("")
    elif line.strip():
      if title is None or not _is_title(line, title):
        unwrapped.append(line)
      title = None
  return unwrapped


def _remove_title(text: str, title: str) -> str:
  """Returns a text without its first line if that is the title."""
  first, _, rest = text.lstrip().partition("\n")
  return rest if _is_title(first, title) else text


def _is_title(line: str, title: str) -> bool:
  """Returns whether a line is a title; either may have HTML's escapes."""
  return html.unescape(line.strip()) == html.unescape(title.strip())


class _LineError(Exception):
  """A line that cannot be used.

  Attributes:
    reason: Name under which such lines are counted.
  """

  def __init__(self, message: str, reason: str):
    super().__init__(message)
    self.reason = reason


def _shorten(text: str) -> str:
  if len(text) <= _MESSAGE_LENGTH:
    return text
  return text[:_MESSAGE_LENGTH] + "..."


# --- Sentences ---------------------------------------------------------------

# A place where a sentence may end. Either a mark, closing quotes and brackets,
# white space, and a character that can begin a sentence follow each other; or
# it is a Chinese or Japanese mark, after which no space is needed. The negative
# look-behind keeps the pattern from being tried at every character of a long
# run of marks.
_SENTENCE_END = re.compile(
  r"""(?<![.!?\u2026])[.!?\u2026]+["'\u201d\u2019\u00bb)\]]*\s+
            (?=["'\u201c\u2018\u00ab(\[\u00bf\u00a1-]*[^\W_a-z])
        | [\u3002\uff01\uff1f]+["\u201d\u2019\u300d\u300f\uff09]*\s*""",
  re.VERBOSE,
)
_OPENING_MARKS = frozenset("([\"'\u201c\u2018")
_ACRONYM = re.compile(r"(\w\.)*\w")
# Words after which a period never ends a sentence.
_TITLE = re.compile(
  r"mr|mrs|ms|dr|prof|rev|hon|st|sen|rep|gov|gen|col|capt|lt|sgt|mt|ft|vs|"
  r"messrs|mme|mlle|jr|sr|cf|al|viz"
)
# Words after which it does not if a number follows.
_WORD_BEFORE_NUMBER = re.compile(
  r"no|nos|vol|vols|p|pp|fig|figs|ch|sec|art|eq|jan|feb|mar|apr|jun|jul|aug|"
  r"sep|sept|oct|nov|dec"
)


def split_sentences(text: str) -> list[str]:
  """Returns the sentences of a text.

  This is a rule of thumb for text without line breaks between sentences. A
  sentence ends with `.`, `!`, `?` or an ellipsis if the next one begins with a
  capital or a digit. It does not end after a title (`Dr.`), an initial or
  acronym (`J.`, `U.S.`), or an abbreviation before a number (`No. 5`). Chinese
  and Japanese full stops always end a sentence.
  """
  sentences = []
  start = 0
  for match in _SENTENCE_END.finditer(text):
    end = match.end()
    if text[match.start()] == ".":
      word = _find_last_word(text, start, match.start())
      if _is_abbreviation(word, text[end]):
        continue
    elif text[end : end + 1].islower():
      continue
    sentences.append(text[start:end].strip())
    start = end
  sentences.append(text[start:].strip())
  return [sentence for sentence in sentences if sentence]


def _is_abbreviation(word: str, next_character: str) -> bool:
  """Returns whether a period after a word belongs to the word."""
  is_acronym = _ACRONYM.fullmatch(word) and not word.isdigit()
  if is_acronym or _TITLE.fullmatch(word.lower()):
    return True
  is_before_number = _WORD_BEFORE_NUMBER.fullmatch(word.lower())
  return bool(is_before_number) and next_character.isdigit()


def _find_last_word(text: str, start: int, end: int) -> str:
  """Returns the word that ends at `end` and does not begin before `start`."""
  # Searched from the end, since many abbreviations may follow each other.
  place = end
  while place > start:
    character = text[place - 1]
    if character.isspace() or character in _OPENING_MARKS:
      break
    place -= 1
  return text[place:end]
