"""Files of examples: their lines, their rows, and how messages show them."""

from collections.abc import Iterable, Iterator
import csv
import reprlib

from data import file_io
from errors import UserError

# The default of `csv` is less than a long text.
_LONGEST_FIELD = 2**31 - 1
_LONGEST_SHOWN = 60
_NAMES_SHOWN = 12


def read_lines(path: str) -> Iterator[tuple[int, str]]:
  """Yields the number and the text of each line.

  Raises:
    UserError: see `file_io.read_lines`; or the file is not text.
  """
  for number, line in enumerate(file_io.read_lines(path), 1):
    if "\0" in line:
      raise UserError(
        f"{path}, line {number}: there is a byte of value 0, so this is no "
        "UTF-8 text, but a binary file or UTF-16. Convert it first, for "
        "example with `iconv -f utf-16 -t utf-8`."
      )
    yield number, line


def read_csv(path: str) -> Iterator[tuple[int, list[str]]]:
  """Yields the fields of each row that is not empty, and where it begins.

  The format is that of RFC 4180. The first row names the columns; a later one
  may be shorter.

  Raises:
    UserError: see `read_lines`; or quotation marks are missing.
  """
  csv.field_size_limit(_LONGEST_FIELD)
  reader = csv.reader(
    (line + "\n" for _, line in read_lines(path)), strict=True
  )
  number, num_columns = 1, None
  try:
    for fields in reader:
      if fields:
        num_columns = num_columns or len(fields)
        if any(fields[num_columns:]):
          raise UserError(
            f"{path}, line {number}: {len(fields)} columns, but the first "
            f"row names {num_columns}. Fields that hold commas stand in "
            '"...".'
          )
        yield number, fields
      number = reader.line_num + 1
  except csv.Error as error:
    raise UserError(
      f"{path}, line {number}: {error}. Fields that hold commas,"
      ' quotation marks or line feeds stand in "...", with "" '
      "for a quotation mark."
    ) from error


# --- Messages ----------------------------------------------------------------

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = _LONGEST_SHOWN


def shown(value) -> str:
  """Returns how a message shows a value: on one line, shortened if long."""
  return _repr.repr(value)


def some(names: Iterable[str]) -> str:
  """Returns how a message lists names: the first of them if there are many."""
  names = list(names)
  listed = [
    name if name.isprintable() and len(name) <= _LONGEST_SHOWN else shown(name)
    for name in names[:_NAMES_SHOWN]
  ]
  return ", ".join(listed + ["..."] * (len(names) > _NAMES_SHOWN))
