"""Lines of files of examples, and how messages show values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
import reprlib
from typing import Any

from data import file_io
from errors import UserError

_LONGEST_SHOWN = 60
_NAMES_SHOWN = 12


def read_lines(
  path: str, encoding: str | None = None
) -> Iterator[tuple[int, str]]:
  """Yields the number and the text of each line.

  The arguments are those of `file_io.read_lines`.

  Raises:
    UserError: See `file_io.read_lines`; or the file is binary.
  """
  for number, line in enumerate(file_io.read_lines(path, encoding), 1):
    if "\0" in line:
      advice = "Convert it first, for example with `iconv -f utf-16 -t utf-8`."
      if encoding is not None:
        advice = "Pass --encoding=utf-16-le or utf-16-be if it is UTF-16."
      raise UserError(
        f"{path}, line {number} has a byte of value 0, so this is not "
        f"{(encoding or 'utf-8').upper()} text, but a binary file, or UTF-16 "
        f"without byte order mark. {advice}"
      )
    yield number, line


# --- Messages ----------------------------------------------------------------

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = _LONGEST_SHOWN


def format_value(value: Any) -> str:
  """Returns a value for a message: on one line, shortened if it is long."""
  return _repr.repr(value)


def format_names(names: Iterable[str]) -> str:
  """Returns names for a message; only the first ones if there are many."""
  names = list(names)
  parts = []
  for name in names[:_NAMES_SHOWN]:
    is_short = name.isprintable() and len(name) <= _LONGEST_SHOWN
    parts.append(name if is_short else format_value(name))
  if len(names) > _NAMES_SHOWN:
    parts.append("...")
  return ", ".join(parts)
