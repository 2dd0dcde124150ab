"""Rows of JSON, JSON lines and Parquet files, as dictionaries.

The content tells the formats apart, not the name: libraries write JSON lines to
files called `.json`.
"""

from __future__ import annotations

from collections.abc import Iterator
import json
from typing import Any, NamedTuple

from data import file_io
from data import text_decoding
from errors import UserError

# Bytes at the beginning of Parquet files.
_PARQUET_MAGIC = b"PAR1"


class RowFile(NamedTuple):
  """The rows of a file.

  Attributes:
    noun: Word for a row and its number in messages: "line" of JSON lines, "row"
      of a Parquet file, or "entry" of a list of JSON.
    rows: Yields the number of each row, from 1, and the row.
  """

  noun: str
  rows: Iterator[tuple[int, dict[str, Any]]]


def read_rows(path: str, encoding: str | None = None) -> RowFile:
  """Returns the rows of a file, which may be compressed and named `.gz`.

  A JSON file holds a list of objects, an object whose field `data` is such a
  list, or a single object, which then is the only row.

  Args:
    path: Path of the file.
    encoding: Encoding of JSON without byte order mark; see
      `text_decoding.decode`.

  Raises:
    UserError: The file cannot be read, is damaged, or holds anything else.
      The message gives the row. It may be raised while rows are read.
  """
  content = file_io.read_content(path)
  if content.startswith(_PARQUET_MAGIC):
    return RowFile("row", _read_parquet(content, path))
  text = text_decoding.decode(content, path, encoding)
  if _has_json_lines(text):
    return RowFile("line", _read_json_lines(text, path))
  value = file_io.parse_json(text, path, object)
  if isinstance(value, dict):
    entries = value.get("data")
    value = entries if isinstance(entries, list) else [value]
  if not isinstance(value, list):
    raise UserError(
      f"{path} holds {json.dumps(value)[:60]}, not a list or an object of JSON."
    )
  return RowFile("entry", _number_entries(value, path))


def _has_json_lines(text: str) -> bool:
  """Returns whether the first of several lines is a complete JSON object."""
  first, _, rest = text.lstrip().partition("\n")
  if not (first.startswith("{") and rest.strip()):
    return False
  try:
    json.loads(first)
  except (ValueError, RecursionError):
    return False
  return True


def _read_json_lines(
  text: str, path: str
) -> Iterator[tuple[int, dict[str, Any]]]:
  for number, line in enumerate(text.split("\n"), 1):
    if line.strip():
      yield number, file_io.parse_json(line, f"{path}, line {number}")


def _number_entries(
  entries: list[Any], path: str
) -> Iterator[tuple[int, dict[str, Any]]]:
  for number, entry in enumerate(entries, 1):
    if not isinstance(entry, dict):
      raise UserError(
        f"{path}, entry {number} holds {json.dumps(entry)[:60]}, not an object "
        "of JSON."
      )
    yield number, entry


def _read_parquet(
  content: bytes, path: str
) -> Iterator[tuple[int, dict[str, Any]]]:
  # The library takes a moment to load, and few users need it.
  import pyarrow  # pylint: disable=g-import-not-at-top
  from pyarrow import parquet  # pylint: disable=g-import-not-at-top

  number = 0
  try:
    file = parquet.ParquetFile(pyarrow.BufferReader(content))
    for batch in file.iter_batches(use_threads=False):
      for row in batch.to_pylist():
        number += 1
        yield number, row
  except (pyarrow.ArrowException, OSError, ValueError) as error:
    reason = str(error).partition("\n")[0]
    raise UserError(
      f"{path} is a damaged Parquet file (after row {number}): {reason}"
    ) from error
