"""Tests of data/row_files.py."""

import json

import pyarrow
from pyarrow import parquet
import pytest

from data import row_files
from errors import UserError

ROWS = [
  {"id": 7, "text": "M\u00fcller", "parts": {"text": ["a", "b"]}},
  {"id": 8, "text": "", "parts": {"text": []}},
]


def read(path):
  """Returns the noun of a file, and its numbered rows."""
  file = row_files.read_rows(str(path))
  return file.noun, list(file.rows)


NUMBERED = list(enumerate(ROWS, 1))


@pytest.mark.parametrize(
  "content, noun, rows",
  [
    (json.dumps(ROWS, indent=1), "entry", NUMBERED),
    (json.dumps({"version": 1, "data": ROWS}), "entry", NUMBERED),
    (json.dumps(ROWS[0], indent=1), "entry", NUMBERED[:1]),
    # A single line is the same as JSON and as JSON lines.
    (json.dumps(ROWS[0]) + "\n", "entry", NUMBERED[:1]),
    ("\n".join(map(json.dumps, ROWS)), "line", NUMBERED),
    # Blank lines count as lines, but are no rows.
    (
      "\ufeff\n" + "\r\n\r\n".join(map(json.dumps, ROWS)) + "\r\n",
      "line",
      [(2, ROWS[0]), (4, ROWS[1])],
    ),
    ("[]", "entry", []),
  ],
)
def test_the_content_tells_the_format(tmp_path, content, noun, rows):
  path = tmp_path / "rows.json"
  path.write_bytes(content.encode("utf-8"))
  assert read(path) == (noun, rows)


def test_rows_of_parquet_files_are_those_of_json(tmp_path):
  path = tmp_path / "rows"
  parquet.write_table(pyarrow.Table.from_pylist(ROWS), path, row_group_size=1)
  assert read(path) == ("row", NUMBERED)
  content = path.read_bytes()
  for damaged in (content[:-3], content[:9] + b"\xff" * 99 + content[108:]):
    path.write_bytes(damaged)
    with pytest.raises(UserError, match="rows is a damaged Parquet file"):
      read(path)


@pytest.mark.parametrize(
  "content, message",
  [
    ("7", "rows.json holds 7, not a list or an object"),
    ('[{"a": 1}, "x"]', 'rows.json, entry 2 holds "x", not an object'),
    ('{"data": [[1]]}', r"entry 1 holds \[1\], not an object"),
    ('{"a": 1}\n{"a": ', "rows.json, line 2: not JSON"),
    ('{"a": 1}\n[2]', r"rows.json, line 2 holds \[2\], not an object"),
    ('{"a": 1', "rows.json: not JSON.*complete"),
    (b'{"a": "\xe9"}', "rows.json, line 1: not UTF-8 .byte 0xe9"),
  ],
)
def test_rows_that_are_refused(tmp_path, content, message):
  path = tmp_path / "rows.json"
  path.write_bytes(content if isinstance(content, bytes) else content.encode())
  with pytest.raises(UserError, match=message):
    read(path)
