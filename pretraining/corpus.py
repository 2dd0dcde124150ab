"""Text files to documents, a block at a time: the input of any size.

    files --units, read_blocks--> blocks of some megabytes --Parser--> documents

A block is a stretch of the input, cut between documents where that is possible.
It is the unit of work: read in one place, in order, and parsed anywhere, so
that neither memory nor the number of processors limits the size of the input.

Two formats are known, plain or compressed by gzip or Zstandard: text with one
sentence a line and a blank line between documents; and, in files whose name
ends in `.jsonl` or `.json`, a JSON object with a text on each line.
"""

import collections
from collections.abc import Iterator, Sequence
import dataclasses
import functools
import gzip
import itertools
import json
import os
import re
from typing import NamedTuple
import zlib

import tensorflow as tf
import zstandard

from data import file_io
from errors import UserError

_CHUNK_BYTES = 2**20
# A stretch without a blank line is cut at a sentence after so many bytes, and
# may have lines as long as this.
_LONGEST_STRETCH_BYTES = 2**22
_LONGEST_LINE_BYTES = 2**26
# A random next sentence should have some documents to come from, unless they
# are so long that a block would become too large for memory.
_FEWEST_DOCUMENTS = 8
_LARGEST_BLOCK_BYTES = 2**24
# How many blocks a small input is cut into, so that all processors have work.
_FEWEST_BLOCKS = 16
_SMALLEST_BLOCK_BYTES = 2**20

# What lines are counted as that are not what they should be.
REASONS_TO_SKIP = ("not_utf8", "not_json", "without_text")

# How much of what was given an error message repeats, in characters.
_MESSAGE_LENGTH = 200

# How many bytes of text a byte of a compressed file holds, or a little more.
_COMPRESSION = 4

_BLANK_LINES = re.compile(rb"\n(?:[ \t\r]*\n)+")
_LINE_ENDS = re.compile(rb"\n")
_JSON_LINES_SUFFIX = re.compile(r"\.(jsonl|ndjson|json)(\.gz|\.zst)?$")
_MAGIC_OF_GZIP = b"\x1f\x8b"
_MAGIC_OF_ZSTANDARD = b"\x28\xb5\x2f\xfd"
_MAGIC_OF_ENDING = {".gz": _MAGIC_OF_GZIP, ".zst": _MAGIC_OF_ZSTANDARD}


class Stretch(NamedTuple):
  """Consecutive lines of a file.

  Attributes:
    file: its path.
    first_line: the number of the first line, from 1.
    content: the bytes, decompressed.
    num_documents: about how many documents end in it.
    ends_document: whether the next line belongs to another document.
    input_bytes: how many bytes of the file, as it lies there, they took.
  """

  file: str
  first_line: int
  content: bytes
  num_documents: int
  ends_document: bool
  input_bytes: int


class Block(NamedTuple):
  """A stretch of the input.

  Attributes:
    number: (number of the unit, number of the block within it).
    stretches: its parts; documents do not reach from one file to the next.
  """

  number: tuple[int, int]
  stretches: list[Stretch]

  @property
  def input_bytes(self) -> int:
    return sum(stretch.input_bytes for stretch in self.stretches)


def text_bytes(files: Sequence[str]) -> int:
  """Returns about how much text files hold, decompressed."""
  return sum(
    tf.io.gfile.stat(file).length
    * (_COMPRESSION if file.endswith((".gz", ".zst")) else 1)
    for file in files
  )


def block_bytes(files: Sequence[str]) -> int:
  """Returns how large the blocks of an input should be.

  It depends on the input alone, and so does, with it, all that is made of a
  block.
  """
  return min(
    max(text_bytes(files) // _FEWEST_BLOCKS, _SMALLEST_BLOCK_BYTES),
    _LARGEST_BLOCK_BYTES,
  )


def units(files: Sequence[str], size: int) -> list[list[str]]:
  """Groups files into units that can be read independently of each other.

  Small files share a unit until they make a block of about `size` bytes.
  """
  result, length = [], size
  for file in files:
    if length >= size:
      result.append([])
      length = 0
    result[-1].append(file)
    length += text_bytes([file])
  return result


def read_all_blocks(files: Sequence[str], size: int) -> Iterator[Block]:
  """Yields the blocks of files, one unit after the other."""
  for number, unit in enumerate(units(files, size)):
    yield from read_blocks(unit, number, size)


def read_blocks(unit: Sequence[str], number: int, size: int) -> Iterator[Block]:
  """Yields the blocks of a unit, each of about `size` bytes.

  Args:
    unit: paths.
    number: of the unit.
    size: bytes.

  Raises:
    UserError: a file cannot be read, a compressed file is damaged, or a line
      is far too long.
  """
  index = 0
  block, waiting = [], None
  length = num_documents = 0
  for file in unit:
    for stretch in _read_stretches(file):
      block.append(stretch)
      length += len(stretch.content)
      num_documents += stretch.num_documents
      is_large = length >= _LARGEST_BLOCK_BYTES
      if is_large or (
        length >= size
        and stretch.ends_document
        and num_documents >= _FEWEST_DOCUMENTS
      ):
        # A block waits for the next, and takes a short rest in.
        if waiting:
          yield Block((number, index), waiting)
          index += 1
        block, waiting = [], block
        length = num_documents = 0
  if waiting and length >= size // 2:
    yield Block((number, index), waiting)
    index += 1
    waiting = None
  if waiting or block:
    yield Block((number, index), (waiting or []) + block)


def _read_stretches(file: str) -> Iterator[Stretch]:
  """Yields the whole of a file, cut between documents where possible."""
  line, position = 1, 0
  rest = b""
  with tf.io.gfile.GFile(file, "rb") as raw:
    for chunk in itertools.chain(_read_chunks(file, raw), [None]):
      rest += chunk or b""
      ends = [match.end() for match in _document_ends(file).finditer(rest)]
      end = ends[-1] if ends else 0
      is_last = chunk is None
      if is_last:
        end = len(rest)
      elif not end and len(rest) >= _LONGEST_STRETCH_BYTES:
        end = rest.rfind(b"\n") + 1
        if not end and len(rest) >= _LONGEST_LINE_BYTES:
          raise UserError(
            f"{file}, line {line} is longer than "
            f"{_LONGEST_LINE_BYTES >> 20} MiB. Is it text, with a sentence "
            "on each line?"
          )
      if end:
        content, rest = rest[:end], rest[end:]
        read = raw.tell() - position
        yield Stretch(
          file, line, content, len(ends) + is_last, bool(ends) or is_last, read
        )
        position += read
        line += content.count(b"\n")


def _document_ends(file: str) -> re.Pattern[bytes]:
  return _LINE_ENDS if _is_json_lines(file) else _BLANK_LINES


def _is_json_lines(file: str) -> bool:
  return bool(_JSON_LINES_SUFFIX.search(file))


def _read_chunks(file: str, raw: tf.io.gfile.GFile) -> Iterator[bytes]:
  """Yields what a file holds, decompressed if need be.

  Raises:
    UserError: the file cannot be read, or is compressed and damaged or cut off.
  """
  try:
    magic = raw.read(4)
    raw.seek(0)
    ending = os.path.splitext(file)[1]
    if not magic.startswith(_MAGIC_OF_ENDING.get(ending, b"")):
      raise UserError(
        f"{file} is not compressed as its name says. If it is "
        f"plain text, let its name not end in {ending}; else it "
        "is damaged."
      )
    if magic.startswith(_MAGIC_OF_GZIP):
      yield from iter(
        functools.partial(gzip.GzipFile(fileobj=raw).read, _CHUNK_BYTES), b""
      )
    elif magic == _MAGIC_OF_ZSTANDARD:
      yield from _read_zstandard(raw)
    else:
      yield from iter(functools.partial(raw.read, _CHUNK_BYTES), b"")
  except (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError) as error:
    raise UserError(
      f"{file} is compressed, and damaged or cut off: {error}. "
      "Was it copied whole?"
    ) from error
  except file_io.FILE_ERRORS as error:
    raise UserError(
      f"{file} cannot be read: {file_io.reason(error)}."
    ) from error


def _read_zstandard(raw: tf.io.gfile.GFile) -> Iterator[bytes]:
  """Yields what a file of Zstandard frames holds.

  The library's own reader of streams takes a file that is cut off for a whole
  one.
  """
  frame = None
  while data := raw.read(_CHUNK_BYTES // 16):
    while data:
      frame = frame or zstandard.ZstdDecompressor().decompressobj()
      yield frame.decompress(data)
      data = b""
      if frame.eof:
        data, frame = frame.unused_data, None
  if frame:
    raise EOFError("it ends in the middle of a frame")


# --- Documents ---------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Parser:
  """How blocks become documents.

  Attributes:
    errors: "strict" to raise an error at a line that is not what it should
      be, "replace" to go on with what can be read of it, and count it.
    split_sentences: whether a line is prose that has to be split.
    text_field: the field of a JSON object that holds the text.
  """

  errors: str = "strict"
  split_sentences: bool = False
  text_field: str = "text"

  def documents(
    self, block: Block, counts: collections.Counter
  ) -> Iterator[list[str]]:
    """Yields the documents of a block, each a list of sentences.

    Args:
      block: the block.
      counts: gets the number of lines that were not what they should be, by
        `REASONS_TO_SKIP`.

    Raises:
      UserError: such a line, if `errors` is strict; file and line are named.
    """
    for document in self._documents(block, counts):
      if self.split_sentences:
        document = [
          sentence for text in document for sentence in split_sentences(text)
        ]
      if document:
        yield document

  def _documents(self, block, counts) -> Iterator[list[str]]:
    """Yields the lines with text of each document."""
    document = []
    for stretch in block.stretches:
      lines = self._lines(stretch, counts)
      if _is_json_lines(stretch.file):
        yield from self._json_documents(stretch, lines, counts)
        continue
      for line in lines:
        if line.strip():
          document.append(line)
        elif document:
          yield document
          document = []
      if stretch.ends_document and document:
        yield document
        document = []
    if document:
      yield document

  def _lines(self, stretch: Stretch, counts) -> list[str]:
    content = stretch.content
    if b"\0" in content and self.errors == "strict":
      number = stretch.first_line + content.count(
        b"\n", 0, content.index(b"\0")
      )
      raise UserError(
        f"{stretch.file}, line {number}: there is a byte of value 0, so this "
        "is no UTF-8 text, but a binary file or UTF-16. Convert it first, "
        "leave it out, or pass --errors=replace."
      )
    try:
      text = content.decode("utf-8")
    except UnicodeDecodeError as error:
      lines = content.split(b"\n")
      if self.errors == "strict":
        number = content.count(b"\n", 0, error.start)
        file_io.decode_line(
          lines[number], stretch.file, stretch.first_line + number
        )
      text = content.decode("utf-8", "replace")
      counts["not_utf8"] += sum(
        line != line.decode("utf-8", "ignore").encode() for line in lines
      )
    if stretch.first_line == 1:
      text = text.removeprefix("\ufeff")
    # Only line feeds end a line: text may hold other line separators.
    return text.removesuffix("\n").split("\n")

  def _json_documents(self, stretch, lines, counts) -> Iterator[list[str]]:
    for number, line in enumerate(lines, stretch.first_line):
      if not line.strip():
        continue
      place = f"{stretch.file}, line {number}"
      try:
        json_object = file_io.parse_json(line, place, object)
      except UserError as error:
        problem, reason = str(error), "not_json"
      else:
        text = (
          json_object.get(self.text_field)
          if isinstance(json_object, dict)
          else None
        )
        if isinstance(text, str):
          yield [part for part in text.split("\n") if part.strip()]
          continue
        problem, reason = self._missing_text(json_object, place), "without_text"
      if self.errors == "strict":
        raise UserError(
          f"{problem} Correct the line, or skip such lines with "
          "--errors=replace."
        )
      counts[reason] += 1

  def _missing_text(self, json_object, place: str) -> str:
    """Returns what is wrong with JSON that has no text."""
    if not isinstance(json_object, dict):
      return f"{place}: no JSON object with a text in it."
    if self.text_field in json_object:
      value = json.dumps(json_object[self.text_field])
      return (
        f"{place}: the field {self.text_field!r} holds "
        f"{_shortened(value)}, not a text."
      )
    names = ", ".join(map(repr, json_object)) or "none"
    return (
      f"{place}: no field {self.text_field!r}; there are: "
      f"{_shortened(names)}; --text_field names the field of the text."
    )


def _shortened(text: str) -> str:
  return (
    text if len(text) <= _MESSAGE_LENGTH else (text[:_MESSAGE_LENGTH] + "...")
  )


# Where a sentence may end: after a mark, and quotes and brackets that close,
# before white space and what a sentence begins with; or after a mark of
# Chinese or Japanese, which needs no space. Looking behind spares a run of
# marks that ends no sentence from being tried at each of its characters.
_SENTENCE_END = re.compile(
  r"""(?<![.!?\u2026])[.!?\u2026]+["'\u201d\u2019\u00bb)\]]*\s+
            (?=["'\u201c\u2018\u00ab(\[\u00bf\u00a1-]*[^\W_a-z])
        | [\u3002\uff01\uff1f]+["\u201d\u2019\u300d\u300f\uff09]*\s*""",
  re.VERBOSE,
)
_BEFORE_WORDS = frozenset("([\"'\u201c\u2018")
_ACRONYM = re.compile(r"(\w\.)*\w")
# Words that a point after them does not end a sentence, whatever follows, and
# those of which the same is true before a number.
_TITLES = frozenset(
  [
    "mr",
    "mrs",
    "ms",
    "dr",
    "prof",
    "rev",
    "hon",
    "st",
    "sen",
    "rep",
    "gov",
    "gen",
    "col",
    "capt",
    "lt",
    "sgt",
    "mt",
    "ft",
    "vs",
    "messrs",
    "mme",
    "mlle",
    "jr",
    "sr",
    "cf",
    "al",
    "viz",
  ]
)
_BEFORE_NUMBERS = frozenset(
  [
    "no",
    "nos",
    "vol",
    "vols",
    "p",
    "pp",
    "fig",
    "figs",
    "ch",
    "sec",
    "art",
    "eq",
    "jan",
    "feb",
    "mar",
    "apr",
    "jun",
    "jul",
    "aug",
    "sep",
    "sept",
    "oct",
    "nov",
    "dec",
  ]
)


def split_sentences(text: str) -> list[str]:
  """Splits prose into sentences.

  A rule of thumb for text without line breaks between sentences: a sentence
  ends with `.`, `!`, `?` or an ellipsis, and the next begins with a capital or
  a digit; but not after a title (`Dr.`), an initial or acronym (`J.`, `U.S.`),
  or an abbreviation before a number (`No. 5`). After the full stops of Chinese
  and Japanese it always ends.
  """
  sentences = []
  start = 0
  for match in _SENTENCE_END.finditer(text):
    if text[match.start()] == ".":
      word = _last_word(text, start, match.start())
      if (
        word.lower() in _TITLES
        or _ACRONYM.fullmatch(word)
        and not word.isdigit()
        or word.lower() in _BEFORE_NUMBERS
        and text[match.end()].isdigit()
      ):
        continue
    elif text[match.end() : match.end() + 1].islower():
      continue
    sentences.append(text[start : match.end()].strip())
    start = match.end()
  sentences.append(text[start:].strip())
  return [sentence for sentence in sentences if sentence]


def _last_word(text: str, start: int, end: int) -> str:
  """Returns the word that ends at `end` and does not begin before `start`."""
  # From the end: many abbreviations may follow each other.
  place = end
  while place > start and not (
    text[place - 1].isspace() or text[place - 1] in _BEFORE_WORDS
  ):
    place -= 1
  return text[place:end]
