"""Tests of tasks/tables.py."""

import gzip
import json

import pyarrow
from pyarrow import parquet
import pytest

from errors import UserError
from tasks import tables

COLUMNS = ["text", "label"]


def read(path, columns=COLUMNS, **settings):
  """Returns the number of each row, and its fields."""
  table_format = tables.TableFormat(**settings)
  rows = tables.read_table(str(path), columns, table_format=table_format).rows
  return [(row.number, *map(row.get, columns)) for row in rows]


def write(folder, name, content):
  """Writes a file and returns its path."""
  path = folder / name
  path.write_bytes(content.encode() if isinstance(content, str) else content)
  return path


@pytest.mark.parametrize(
  "name, content",
  [
    ("x.tsv", "text\tlabel\na; b\tx\nc, d\ty\n"),
    ("x.tsv", '"text"\t"label"\n"a; b"\t"x"\nc, d\ty\n'),
    ("x.tsv.gz", gzip.compress(b"text\tlabel\na; b\tx\nc, d\ty\n", mtime=0)),
    ("x.csv", 'text,label\na; b,x\n"c, d",y\n'),
    ("x.csv", "text|label\na; b|x\nc, d|y\n"),
    ("x.csv", "text\tlabel\na; b\tx\nc, d\ty\n"),
    ("x.csv", 'text;label\n"a; b";x\nc, d;y\n'),
    ("x.csv", 'sep=;\ntext;label\n"a; b";x\nc, d;y\n'),
    ("x.tsv", 'text,label\na; b,x\n"c, d",y\n'),
    ("x.txt", 'text;label\n"a; b";x\nc, d;y\n'),
    # The header is that which names the columns, not that with most fields.
    ("x.csv", 'text;label;"a,b,c,d"\n"a; b";x;\nc, d;y;\n'),
    ("x.csv", 'label, text\nx, a; b\ny, "c, d"\n'),
    ("x.csv", ' text ,label \na; b,x\n,,\n\n,\n"c, d",y,,,\n'),
    ("x.tsv", "\n\ntext\tlabel\r\na; b\tx\t\t\r\n\t\r\nc, d\ty\r\n"),
    ("x.csv", 'text,label\ra; b,x\r"c, d",y\r'),
    ("x.csv", 'text;label\r\n"a; b";x\r\nc, d;y'.encode("utf-16")),
  ],
)
def test_the_header_shows_the_delimiter(tmp_path, name, content):
  rows = read(write(tmp_path, name, content))
  assert [row[1:] for row in rows] == [("a; b", "x"), ("c, d", "y")]


def test_a_delimiter_that_is_named_is_used(tmp_path):
  path = write(tmp_path, "x.csv", "a;b:text:label\n1;2:one, two:x\n")
  assert read(path, delimiter=":") == [(2, "one, two", "x")]
  with pytest.raises(UserError, match="line 1 has no column 'text'"):
    read(path)
  with pytest.raises(UserError, match="line 2 has 2 fields, but line 1 has 1"):
    read(write(tmp_path, "x.csv", "text\none, two"), ["text"])
  for delimiter in ("", ";;", '"', "\n"):
    with pytest.raises(UserError, match="--delimiter=.*not a single character"):
      tables.check_delimiter(delimiter, "--delimiter")


def test_quotation_marks_are_text_where_tabs_separate(tmp_path, caplog):
  content = 'text\tlabel\n"a ""b"""\tx\n"c" and "d"\ty\n"e\tz\n'
  with caplog.at_level("WARNING"):
    rows = read(write(tmp_path, "x.tsv", content))
  assert [row[1] for row in rows] == ['"a ""b"""', '"c" and "d"', '"e']
  assert "x.tsv, line 2, and 0 other rows: quotation marks" in caplog.text
  with pytest.raises(UserError, match="line 3: .* expected after"):
    read(write(tmp_path, "x.csv", content))


def test_values_in_columns_without_name_are_counted(tmp_path, caplog):
  content = ",label,text,,\n1,x,a,,\n2,y,b, and c,\n3,x,d,,e\n"
  with caplog.at_level("WARNING"):
    rows = read(write(tmp_path, "x.csv", content))
  assert rows == [(2, "a", "x"), (3, "b", "y"), (4, "d", "x")]
  assert "x.csv, line 3, and 1 other rows: values in columns" in caplog.text
  caplog.clear()
  read(write(tmp_path, "x.csv", "label,text,,\nx,a,,\n"))
  assert not caplog.text


@pytest.mark.parametrize(
  "content",
  ["x\tone, two\ny\tthree\n", 'x,"one, two"\ny,three\n', "x|one, two\ny|three"],
)
def test_columns_of_files_without_header_have_numbers(tmp_path, content):
  expected = [(1, "one, two", "x"), (2, "three", "y")]
  assert read(write(tmp_path, "x.csv", content), ["1", "0"]) == expected


def test_a_name_is_a_name_before_it_is_a_number(tmp_path):
  path = write(tmp_path, "x.tsv", "1\t0\tlabel\na\tb\tc\n")
  assert read(path, ["1", "0"]) == [(2, "a", "b")]
  # One name shows that there is a header, and the others are numbers.
  assert read(path, ["2", "label"]) == [(2, "c", "c")]
  with pytest.raises(UserError, match="line 1 is a header: column 2 is called"):
    read(path, ["2", "1"])
  with pytest.raises(UserError, match="no column 7: it has 3 columns, which"):
    read(path, ["7", "label"])


@pytest.mark.parametrize(
  "name, content, message",
  [
    (
      "x.tsv",
      "text\tlabel\na\tx\n\nb\tc\ty\n",
      "x.tsv, line 4 has 3 fields, but line 1 has 2. Tabs separate fields, and",
    ),
    (
      "x.csv",
      'text;label\n"a\nb";x\na;b;y\n',
      "x.csv, line 4 has 3 fields, but line 1 has 2. Semicolons separate",
    ),
    ("x.csv", 'text,label\na,x\n"b,y\n', "line 3: unexpected end of data. Put"),
    (
      "x.tsv",
      "good\tpos\n",
      "line 1 has no column 'text'. It names: good, pos. If the file has no "
      "header, give the numbers",
    ),
    ("x.tsv", "", "line 1 has no column 'text'"),
    ("x.csv", "text,text ,label\n", "two columns 'text'"),
    ("x.tsv.gz", "text\tlabel\n", "x.tsv.gz is no file of gzip"),
    ("x.xlsx", "", "x.xlsx has an unknown format. .*tsv, .csv, .*.gz if they"),
    ("x.json", '[{"text": "a"}]', "x.json, entry 1: there is no 'label'"),
  ],
)
def test_tables_that_are_refused(tmp_path, name, content, message):
  with pytest.raises(UserError, match=message):
    read(write(tmp_path, name, content))


def test_json_and_parquet_are_tables(tmp_path):
  rows = [{"text": "a\tb", "label": 1, "x": None}, {"text": "c", "label": 0}]
  lines = "\n".join(map(json.dumps, rows))
  expected = [(1, "a\tb", 1), (2, "c", 0)]
  for name, content in [
    ("x.json", json.dumps(rows, indent=1)),
    ("x.json", json.dumps({"data": rows})),
    ("x.json", lines),
    ("x.jsonl", lines),
    ("x.jsonl.gz", gzip.compress(lines.encode())),
    ("x.jsonl", lines.encode("utf-16")),
  ]:
    assert read(write(tmp_path, name, content)) == expected
  # A row is a row, even if it has a field called `data`.
  path = write(tmp_path, "y.jsonl", '{"text": "a", "label": 1, "data": [1]}')
  assert read(path) == [(1, "a", 1)]
  path = tmp_path / "x.parquet"
  parquet.write_table(pyarrow.Table.from_pylist(rows), path)
  assert read(path) == expected
