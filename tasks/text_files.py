"""Lines and rows of files of examples, and how messages show values."""

from collections.abc import Iterable, Iterator
import csv
import reprlib
from typing import Any

from data import file_io
from errors import UserError

# The default limit of `csv` is shorter than a long text.
_LONGEST_FIELD = 2**31 - 1
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


def read_csv(
  path: str, encoding: str | None = None
) -> Iterator[tuple[int, list[str]]]:
  """Yields each row that is not empty, with the number of its first line.

  The format is that of RFC 4180. The first row names the columns; other rows
  may be shorter.

  Raises:
    UserError: See `read_lines`; or quotation marks are missing.
  """
  csv.field_size_limit(_LONGEST_FIELD)
  lines = (line + "\n" for _, line in read_lines(path, encoding))
  reader = csv.reader(lines, strict=True)
  number, num_columns = 1, None
  try:
    for fields in reader:
      if fields:
        num_columns = num_columns or len(fields)
        # Empty fields at the end are harmless; spreadsheets write them.
        if any(fields[num_columns:]):
          raise UserError(
            f"{path}, line {number} has {len(fields)} columns, but the first "
            f"row names {num_columns}. Put fields with commas in quotation "
            "marks."
          )
        yield number, fields
      # A field with line feeds spans several lines.
      number = reader.line_num + 1
  except csv.Error as error:
    raise UserError(
      f"{path}, line {number}: {error}. Put fields with commas, quotation "
      'marks or line feeds in "...", and write "" for a quotation mark.'
    ) from error


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
