"""Tables of examples: separated values, JSON, JSON lines and Parquet.

In `.tsv` and `.txt` files tabs separate fields and quotation marks are text, as
in GLUE's files, unless names of columns are quoted. `.csv` files are quoted as
in RFC 4180. The header may show another delimiter: a comma, semicolon, tab or
pipe. Rows of JSON and Parquet have the columns as keys. `.gz` may follow each
ending.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import csv
import itertools
import os
import re
from typing import Any, NamedTuple

from absl import logging
import tensorflow as tf

from data import file_io
from data import row_files
from errors import UserError
from tasks import text_files

# Number of a column, from 0 (negative: from the end), or its name.
Column = int | str

# Endings of files that hold a table.
SEPARATED_ENDINGS = (".tsv", ".csv", ".txt")
ENDINGS = (*SEPARATED_ENDINGS, ".jsonl", ".json", ".parquet")
COMPRESSED_ENDING = ".gz"

_TAB = "\t"
# Delimiters that a header can show, and their names in messages.
_DELIMITERS = {_TAB: "tabs", ",": "commas", ";": "semicolons", "|": "pipes"}
# Number of lines that decide on the delimiter where no column has a name.
_SAMPLE_LINES = 20
# A first line of this form tells spreadsheets the delimiter.
_DELIMITER_LINE = re.compile(r'"?sep=(.)"?')
# A first line that begins with a quoted name.
_QUOTED_NAME = re.compile(r'"[^"]*"(\t|$)')
# A field as programs write it that quote some texts.
_QUOTED_FIELD = re.compile(r'"([^"]|"")*"')
# The default limit of `csv` is shorter than a long text.
_LONGEST_FIELD = 2**31 - 1
# Words that name columns. Files whose columns are numbered should not have them
# in their first line.
_HEADER_WORDS = (
  "category",
  "class",
  "gold_label",
  "label",
  "labels",
  "sentence",
  "sentence1",
  "sentiment",
  "target",
  "text",
)


class TableFormat(NamedTuple):
  """Settings that the contents of a table do not show.

  Attributes:
    encoding: Encoding of files without byte order mark; see
      `text_decoding.decode`.
    delimiter: Delimiter of fields; None to find it.
  """

  encoding: str | None = None
  delimiter: str | None = None


DEFAULT_FORMAT = TableFormat()


class Row:
  """The fields of a row.

  Attributes:
    number: Number of its line, row or entry, from 1.
    place: File and number, for messages.
  """

  def __init__(
    self,
    place: str,
    number: int,
    fields: Sequence[str] | Mapping[str, Any],
    positions: Mapping[Column, int],
  ):
    """Initializes the row.

    Args:
      place: File and number, for messages.
      number: Number of its line, row or entry.
      fields: A list, or an object of JSON.
      positions: Column -> its place in a list.
    """
    self.place = place
    self.number = number
    self._fields = fields
    self._positions = positions

  def get(self, column: Column) -> Any:
    """Returns a field.

    Raises:
      UserError: The row has no such column.
    """
    if isinstance(self._fields, Mapping):
      if column not in self._fields:
        raise UserError(
          f"{self.place}: there is no {column!r}. The object has: "
          f"{text_files.format_names(self._fields)}."
        )
      return self._fields[str(column)]
    position = self._positions[column]
    if position >= len(self._fields):
      raise UserError(
        f"{self.place} has {len(self._fields)} columns, but column "
        f"{position + 1} is needed: {text_files.format_value(self._fields)}. "
        "Is the row truncated?"
      )
    return self._fields[position]


class TableRows(NamedTuple):
  """The rows of a file.

  Attributes:
    header: The row of names; None for a file without.
    rows: All other rows.
  """

  header: Row | None
  rows: Iterator[Row]


def check_delimiter(delimiter: str, flag: str) -> None:
  """Raises a UserError unless a delimiter is one character that may be one.

  Args:
    delimiter: The delimiter.
    flag: Flag that it comes from, for the message.
  """
  if len(delimiter) != 1 or delimiter in '"\r\n':
    raise UserError(
      f"{flag}={delimiter!r} is not a single character that can stand between "
      "fields. Use one such as ',', ';', '|' or tab."
    )


def find_file(path: str) -> str | None:
  """Returns the path of a file that may be compressed, or None."""
  for name in (path, path + COMPRESSED_ENDING):
    if tf.io.gfile.exists(name):
      return name
  return None


def remove_ending(path: str) -> str:
  """Returns a path without the endings that tell the format of a file."""
  return path.removesuffix(COMPRESSED_ENDING).removesuffix(_find_ending(path))


def read_table(
  path: str,
  columns: Sequence[Column],
  has_header: bool = True,
  table_format: TableFormat = DEFAULT_FORMAT,
) -> TableRows:
  """Returns the rows of a file.

  Args:
    path: Path of the file.
    columns: Columns that are needed. A name such as "0" that the first line
      lacks is the number of a column.
    has_header: Whether the first line has names. If all `columns` are names
      such as "0", and the first line lacks one, it has none either.
    table_format: How the file is read.

  Raises:
    UserError: The file is missing or damaged, or lacks a column. It may be
      raised while rows are read.
  """
  ending = _find_ending(path)
  if ending not in SEPARATED_ENDINGS:
    return TableRows(None, _read_objects(path, ending, table_format.encoding))
  names = [column for column in columns if isinstance(column, str)]
  # Files with fixed columns are published ones, some of which are ragged.
  is_fixed = all(isinstance(column, int) and column >= 0 for column in columns)
  lines = read_fields(path, names, table_format, not is_fixed)
  first_line, first = next(lines, (1, []))
  if not first and not names:
    return TableRows(None, iter(()))
  header_names = [field.strip() for field in first]
  if names and _are_numbers(names) and not set(names) <= set(header_names):
    has_header = False
    _check_no_header(header_names, names, f"{path}, line {first_line}")
  positions = {
    column: _find_position(header_names, column, f"{path}, line {first_line}")
    for column in columns
  }
  header = None
  if has_header:
    header = Row(f"{path}, line {first_line}", first_line, first, positions)
  elif first:
    lines = itertools.chain([(first_line, first)], lines)
  if has_header and not header_names[-1]:
    lines = _warn_of_unnamed(lines, header_names, path)
  rows = (
    Row(f"{path}, line {line}", line, fields, positions)
    for line, fields in lines
  )
  return TableRows(header, rows)


def _warn_of_unnamed(
  lines: Iterator[tuple[int, list[str]]], names: Sequence[str], path: str
) -> Iterator[tuple[int, list[str]]]:
  """Yields rows; warns of values after the last column that has a name.

  They may be the rest of a text with a delimiter that should be quoted.
  """
  width = len(names)
  while width and not names[width - 1]:
    width -= 1
  count = first_line = 0
  for line, fields in lines:
    if "".join(fields[width:]).strip():
      count += 1
      first_line = first_line or line
    yield line, fields
  if count:
    logging.warning(
      "%s, line %d, and %d other rows: values in columns without name are not "
      "read. Are they parts of texts that should be quoted?",
      path,
      first_line,
      count - 1,
    )


def _find_ending(path: str) -> str:
  """Returns the ending that tells the format of a file.

  Raises:
    UserError: There is no such format.
  """
  ending = os.path.splitext(path.removesuffix(COMPRESSED_ENDING))[1]
  if ending not in ENDINGS:
    raise UserError(
      f"{path} has an unknown format. Files of examples end in one of "
      f"{', '.join(ENDINGS)}, and {COMPRESSED_ENDING} if they are compressed."
    )
  return ending


def _read_objects(
  path: str, ending: str, encoding: str | None
) -> Iterator[Row]:
  """Yields the rows of a file of JSON or Parquet."""
  if ending == ".jsonl":
    noun, rows = "line", file_io.read_json_lines(path, encoding)
  else:
    noun, rows = row_files.read_rows(path, encoding)
  for number, fields in rows:
    yield Row(f"{path}, {noun} {number}", number, fields, {})


# --- Columns -----------------------------------------------------------------


def _are_numbers(names: Sequence[str]) -> bool:
  """Returns whether all names can be numbers of columns."""
  return all(name.isdecimal() for name in names)


def _check_no_header(
  first: Sequence[str], names: Sequence[str], place: str
) -> None:
  """Raises a UserError if the first line of numbered columns has names."""
  for name in names:
    number = int(name)
    field = first[number] if number < len(first) else ""
    if field.lower() in _HEADER_WORDS:
      raise UserError(
        f"{place} is a header: column {number} is called {field!r}. Numbers of "
        "columns are for files without header; name the columns instead, as "
        f"the header does: {text_files.format_names(first)}."
      )


def _find_position(first: Sequence[str], column: Column, place: str) -> int:
  """Returns the place of a column.

  Args:
    first: The fields of the first line.
    column: Number or name.
    place: File and line, for messages.

  Raises:
    UserError: The first line has no such column, or two.
  """
  if isinstance(column, int):
    return column if column >= 0 else column + len(first)
  count = first.count(column)
  if count == 1:
    return first.index(column)
  shown = text_files.format_names(first)
  if count > 1:
    raise UserError(f"{place} has two columns {column!r}. It names: {shown}.")
  if not column.isdecimal():
    raise UserError(
      f"{place} has no column {column!r}. It names: {shown}. If the file has "
      "no header, give the numbers of columns, from 0, in place of names."
    )
  if int(column) >= len(first):
    raise UserError(
      f"{place} has no column {column}: it has {len(first)} columns, which are "
      f"numbered from 0: {shown}."
    )
  return int(column)


# --- Fields ------------------------------------------------------------------


def read_fields(
  path: str,
  names: Sequence[str] = (),
  table_format: TableFormat = DEFAULT_FORMAT,
  is_rectangular: bool = True,
) -> Iterator[tuple[int, list[str]]]:
  """Yields the number of the line and the fields of each row with a value.

  Args:
    path: Path of a file of separated values.
    names: Names or numbers of columns, which tell the delimiter.
    table_format: How the file is read.
    is_rectangular: Whether a row with more values than the first row has fields
      is an error. Empty fields at the end, which spreadsheets write, are none.

  Raises:
    UserError: See `text_files.read_lines`; or quotation marks are missing, or
      a row has too many values.
  """
  csv.field_size_limit(_LONGEST_FIELD)
  lines = text_files.read_lines(path, table_format.encoding)
  sample = list(itertools.islice(lines, _SAMPLE_LINES))
  delimiter = table_format.delimiter
  if sample and (match := _DELIMITER_LINE.fullmatch(sample[0][1])):
    delimiter = delimiter or match.group(1)
    sample = sample[1:]
  is_csv = _find_ending(path) == ".csv"
  sample_lines = [line for _, line in sample if line.strip()]
  delimiter = delimiter or _find_delimiter(sample_lines, names, is_csv)
  lines = itertools.chain(sample, lines)
  is_quoted = is_csv or delimiter != _TAB
  if names and not is_quoted:
    # Some programs quote all texts, which the names of columns show.
    is_quoted = any(_QUOTED_NAME.match(line) for line in sample_lines[:1])
  if is_quoted:
    has_spaces = any(f"{delimiter} " in line for line in sample_lines[:1])
    rows = _parse_quoted(lines, path, delimiter, has_spaces)
  else:
    rows = ((number, line.split(delimiter)) for number, line in lines)
    if names:
      rows = _warn_of_quotation_marks(rows, path)
  first_line, width = 0, 0
  for number, fields in rows:
    if not "".join(fields).strip():
      continue
    if not width:
      first_line, width = number, len(fields)
    if is_rectangular and "".join(fields[width:]).strip():
      raise UserError(
        f"{path}, line {number} has {len(fields)} fields, but line "
        f"{first_line} has {width}. {_describe_format(delimiter, is_quoted)}"
      )
    yield number, fields


def _describe_format(delimiter: str, is_quoted: bool) -> str:
  """Returns advice on rows that have too many fields."""
  noun = _DELIMITERS.get(delimiter, f"the characters {delimiter!r}")
  sentence = f"{noun.capitalize()} separate fields"
  if is_quoted:
    return f"{sentence}: put fields with {noun} in quotation marks."
  return (
    f"{sentence}, and quotation marks are text: take {noun} out of texts, or "
    "use a .csv file, where fields can be quoted."
  )


def _find_delimiter(
  sample: Sequence[str], names: Sequence[str], is_csv: bool
) -> str:
  """Returns the delimiter that the first lines show.

  It is the usual one of the ending, unless another one fits better.

  Args:
    sample: The first lines.
    names: Names or numbers of columns that are needed.
    is_csv: Whether the file is a `.csv`.
  """
  default = "," if is_csv else _TAB
  candidates = [default, *(d for d in _DELIMITERS if d != default)]
  if not names or not sample:
    return default
  if _are_numbers(names):
    for delimiter in candidates:
      widths = {len(_split(line, delimiter)) for line in sample}
      if len(widths) == 1 and max(widths) > max(map(int, names)):
        return delimiter
  for delimiter in candidates:
    if set(names) <= set(_split(sample[0], delimiter)):
      return delimiter
  return max(candidates, key=lambda d: len(_split(sample[0], d)))


def _split(line: str, delimiter: str) -> list[str]:
  """Returns the fields of a single line, without space around them."""
  try:
    fields = next(csv.reader([line], delimiter=delimiter), [])
  except csv.Error:
    # Another delimiter may fit; if none does, reading gives the reason.
    return []
  return [field.strip() for field in fields]


def _warn_of_quotation_marks(
  rows: Iterator[tuple[int, list[str]]], path: str
) -> Iterator[tuple[int, list[str]]]:
  """Yields rows; warns of fields that another program may have quoted."""
  count = first_line = 0
  for number, fields in rows:
    if any(map(_QUOTED_FIELD.fullmatch, fields)):
      count += 1
      first_line = first_line or number
    yield number, fields
  if count:
    logging.warning(
      "%s, line %d, and %d other rows: quotation marks around fields are part "
      "of the text in this format. If they are not meant so, name the file "
      ".csv.",
      path,
      first_line,
      count - 1,
    )


def _parse_quoted(
  lines: Iterator[tuple[int, str]], path: str, delimiter: str, has_spaces: bool
) -> Iterator[tuple[int, list[str]]]:
  """Yields the number of the first line of each row, and its fields.

  Args:
    lines: Numbered lines.
    path: Path of the file, for messages.
    delimiter: Delimiter of fields.
    has_spaces: Whether a space follows delimiters and is part of no field.
  """
  first_line, first = next(lines, (1, ""))
  texts = itertools.chain([first], (text for _, text in lines))
  reader = csv.reader(
    (text + "\n" for text in texts),
    delimiter=delimiter,
    skipinitialspace=has_spaces,
    strict=True,
  )
  number = first_line
  try:
    for fields in reader:
      yield number, fields
      # A field with line feeds spans several lines.
      number = first_line + reader.line_num
  except csv.Error as error:
    noun = _DELIMITERS.get(delimiter, repr(delimiter))
    raise UserError(
      f"{path}, line {number}: {error}. Put fields with {noun}, quotation "
      'marks or line feeds in "...", and write "" for a quotation mark.'
    ) from error
