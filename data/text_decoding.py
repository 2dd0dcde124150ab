"""Decodes text, and says which encoding text that cannot be decoded may have.

Text is UTF-8, unless a byte order mark or the user says something else. A mark
wins over the user: files of one folder may differ.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
import re

from errors import UserError

# Byte order mark -> encoding of the bytes after it. UTF-32 comes first, because
# its mark begins with that of UTF-16.
_BYTE_ORDER_MARKS = {
  codecs.BOM_UTF32_LE: "utf-32-le",
  codecs.BOM_UTF32_BE: "utf-32-be",
  codecs.BOM_UTF8: "utf-8",
  codecs.BOM_UTF16_LE: "utf-16-le",
  codecs.BOM_UTF16_BE: "utf-16-be",
}
# Encodings of the kinds of text in which bytes above 0x7f stand alone, between
# ASCII letters, or next to each other.
_LATIN_ENCODINGS = ("latin1", "cp1252", "cp1250", "mac_roman")
_OTHER_ENCODINGS = (
  "gbk",
  "big5",
  "shift_jis",
  "euc_kr",
  "euc_jp",
  "cp1251",
  "latin1",
)
_NUM_SUGGESTED = 3
_HIGH_BYTES = re.compile(rb"[\x80-\xff]+")
# Number of bytes that suggestions are made from, and of characters shown.
_SAMPLE_BYTES = 4096
_SHOWN_CHARACTERS = 8


def check_encoding(encoding: str, flag: str) -> None:
  """Raises a UserError unless Python knows an encoding of text by this name.

  Args:
    encoding: Name of the encoding.
    flag: Flag that it comes from, for the message.
  """
  try:
    # Some codecs are not for text, such as `hex` and `rot13`.
    "a".encode(encoding)
  except (LookupError, ValueError) as error:
    raise UserError(
      f"{flag}={encoding} is not an encoding of text. Use a name such as "
      "utf-8, utf-16, latin1, cp1252, gbk, big5 or shift_jis."
    ) from error


def find_marked_encoding(content: bytes) -> str | None:
  """Returns the encoding that a byte order mark says, or None without one."""
  for mark, encoding in _BYTE_ORDER_MARKS.items():
    if content.startswith(mark):
      return encoding
  return None


def decode(content: bytes, source: str, encoding: str | None = None) -> str:
  """Returns the text of bytes, without a byte order mark.

  Args:
    content: The bytes.
    source: Place that they come from, for messages.
    encoding: Value of the flag --encoding. None for UTF-8 where the program has
      no such flag, which decides the advice in messages.

  Raises:
    UserError: The bytes have another encoding.
  """
  return "".join(decode_chunks([content], source, encoding))


def decode_chunks(
  chunks: Iterable[bytes], source: str, encoding: str | None = None
) -> Iterator[str]:
  """Yields the text of the chunks of a file; see `decode`."""
  name, decoder = "", None
  # Either ends all lines of a file; the error tells which.
  line_feeds, carriage_returns = _LinePosition("\n"), _LinePosition("\r")
  for chunk in _end_with_nothing(chunks):
    if decoder is None:
      name, mark = _find_encoding(chunk, encoding)
      _check_byte_order(name, chunk, source)
      decoder = codecs.getincrementaldecoder(name)()
      chunk = chunk.removeprefix(mark)
    try:
      text = decoder.decode(chunk, final=not chunk)
    except UnicodeDecodeError as error:
      before = error.object[: error.start].decode(name, "replace")
      line_feeds.advance(before)
      carriage_returns.advance(before)
      has_line_feeds = line_feeds.line > 1 or b"\n" in error.object
      position = line_feeds if has_line_feeds else carriage_returns
      raise _describe_error(error, source, position, encoding) from error
    except UnicodeError as error:
      raise UserError(
        f"{source}: not {name.upper()}: {error}. Pass another --encoding."
      ) from error
    line_feeds.advance(text)
    carriage_returns.advance(text)
    yield text


def decode_line(line: bytes, source: str, number: int) -> str:
  """Returns the text of one line of UTF-8.

  Args:
    line: The line.
    source: Place that its file comes from, for messages.
    number: Number of the line.

  Raises:
    UserError: It has another encoding.
  """
  try:
    return line.decode("utf-8")
  except UnicodeDecodeError as error:
    position = _LinePosition("\n", number)
    position.advance(line[: error.start].decode("utf-8"))
    raise _describe_error(error, source, position, None) from error


class _LinePosition:
  """The line and column, from 1, at which the text so far ends."""

  def __init__(self, line_end: str, line: int = 1):
    self.line, self.column = line, 1
    self._line_end = line_end

  def advance(self, text: str) -> None:
    """Moves to the end of some more text."""
    num_ends = text.count(self._line_end)
    if num_ends:
      self.line += num_ends
      self.column = 1
    self.column += len(text.rpartition(self._line_end)[2])


def _end_with_nothing(chunks: Iterable[bytes]) -> Iterator[bytes]:
  """Yields chunks, and an empty one at the end, for incomplete characters."""
  for chunk in chunks:
    if chunk:
      yield chunk
  yield b""


def _find_encoding(beginning: bytes, encoding: str | None) -> tuple[str, bytes]:
  """Returns the encoding of a file, and its byte order mark or no bytes."""
  for mark, marked_encoding in _BYTE_ORDER_MARKS.items():
    if beginning.startswith(mark):
      return marked_encoding, mark
  return encoding or "utf-8", b""


def _check_byte_order(encoding: str, beginning: bytes, source: str) -> None:
  """Raises a UserError if only a missing mark would tell the byte order."""
  name = codecs.lookup(encoding).name
  if beginning and name in ("utf-16", "utf-32"):
    raise UserError(
      f"{source} does not begin with the byte order mark of {name.upper()}. "
      f"Pass another --encoding, such as utf-8, {name}-le or {name}-be."
    )


def _describe_error(
  error: UnicodeDecodeError,
  source: str,
  position: _LinePosition,
  encoding: str | None,
) -> UserError:
  """Returns the error of a user whose text cannot be decoded."""
  content, start = error.object, error.start
  return UserError(
    f"{source}, line {position.line}: not {error.encoding.upper()} (byte "
    f"0x{content[start]:02x} at column {position.column}). "
    f"{_advise(content, start, encoding)}"
  )


def _advise(content: bytes, start: int, encoding: str | None) -> str:
  """Returns advice on bytes that cannot be decoded from `start` on."""
  suggestions = _suggest_encodings(content, start)
  readings = [
    f"{name} reads {text!r}" for name, text in suggestions.items() if text
  ]
  shown = f" ({', '.join(readings)})" if readings else ""
  if encoding is not None:
    return f"Pass the encoding of the file as --encoding{shown}."
  return (
    "Convert it first, for example with `iconv -f "
    f"{next(iter(suggestions), 'latin1')} -t utf-8`{shown}."
  )


def _suggest_encodings(content: bytes, start: int) -> dict[str, str]:
  """Returns encodings that fit the line at `start`, with a sample of each."""
  first = content.rfind(b"\n", 0, start) + 1
  # The beginning of a very long line says little about the place.
  first = max(first, start - _SAMPLE_BYTES)
  line = content[first : start + _SAMPLE_BYTES].partition(b"\n")[0]
  runs = _HIGH_BYTES.findall(line)
  num_alone = sum(len(run) == 1 for run in runs)
  is_latin = 2 * num_alone > sum(map(len, runs))
  suggestions = {}
  for name in _LATIN_ENCODINGS if is_latin else _OTHER_ENCODINGS:
    # The sample may end within a character.
    decoder = codecs.getincrementaldecoder(name)()
    try:
      text = decoder.decode(line)
    except UnicodeDecodeError:
      continue
    words = [word for word in text.split() if not word.isascii()]
    suggestions[name] = words[0][:_SHOWN_CHARACTERS] if words else ""
    if len(suggestions) == _NUM_SUGGESTED:
      break
  return suggestions
