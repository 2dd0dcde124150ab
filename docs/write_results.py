"""Writes results.md: the tables in benchmarks/results/, by section.

    python docs/write_results.py

Benchmarks write these files; benchmarks/result_files.py says how. A file of
numbers that others published has the kind `published`, with its source in place
of a command. tests/write_results_test.py fails when the page is not what this
program writes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import json
import pathlib
import re
import textwrap
from typing import Any

DOCS = pathlib.Path(__file__).resolve().parent
PAGE = DOCS / "results.md"
RESULTS = DOCS.parent / "benchmarks" / "results"
_WIDTH = 88
_COMMAND_WIDTH = 80  # what a page of the site shows
# A word of a command, with the spaces inside its quotation marks.
_WORD = re.compile(r"(?:[^\s'\"]|'[^']*'|\"[^\"]*\")+")
# Names of packages, where they are not those of the projects.
_NAMES = {"python": "Python", "tensorflow": "TensorFlow", "torch": "PyTorch"}
_INTRODUCTION = """\
# Results

Each table says whether its numbers were measured with this code or published
by others. A measured one ends with its command, date, machine and versions.
`MiniLM` is the model of `make quickstart`: 6 layers of 384 units, trained for
sentence similarity. It needs no download of released weights, which are
stronger.

`python docs/write_results.py` writes this page from the files in
`benchmarks/results/`.
"""
# Heading of a section -> the text below it. Sections come in this order, and
# the files of each by their names.
SECTIONS = {
  "Quickstart": "",
  "Fine-tuning on GLUE": "",
  "Questions": "",
  "Names": "",
  "Distillation": "[Distillation](distillation.md) explains the flags.",
  "Pre-training": "",
  "Speed": (
    "Programs that are compared ran on the same machine and took turns. The "
    "comparisons need `pip install -e '.[benchmark]'`."
  ),
  "Start and answers": "",
  "Data and files": "",
  "Agreement": "",
  "Published scores": (
    "These are the authors' own figures, in percent, not measurements of this "
    "code. No released weights were at hand to measure them again."
  ),
}
_END = """\
## Not tested

Cloud TPUs, whole programs on GPUs, buckets (`gs://`), the Dataflow, Flink and
Spark runners of Beam, the TensorFlow Serving program, modules from tfhub.dev,
Windows, and machines that are really apart. In their place the tests train on
two logical CPU devices, train in two processes that find each other by
`TF_CONFIG`, and compile every training step with XLA for static shapes, as a
TPU takes it. The training step itself, compiled by XLA, has trained on a GPU:
see Pre-training and Speed.
"""


def make_page(folder: pathlib.Path = RESULTS) -> str:
  """Returns the text of the page.

  Raises:
    ValueError: A file names a section that the page does not have.
  """
  tables: dict[str, list[str]] = {section: [] for section in SECTIONS}
  for path in sorted(folder.glob("*.json")):
    result = json.loads(path.read_text(encoding="utf-8"))
    section = result["section"]
    if section not in tables:
      raise ValueError(
        f"{path} has the section {section!r}. The sections in "
        f"docs/write_results.py are: {', '.join(SECTIONS)}."
      )
    tables[section].append("\n\n".join(_describe_result(result)))
  parts = [_INTRODUCTION.strip()]
  for section, texts in tables.items():
    if texts:
      parts += [f"## {section}", _wrap(SECTIONS[section]), *texts]
  parts.append(_END.strip())
  return "\n\n".join(part for part in parts if part) + "\n"


def _describe_result(result: Mapping[str, Any]) -> Iterator[str]:
  """Yields the paragraphs about one file."""
  yield f"### {result['title']}"
  yield _format_table(result["rows"])
  if result["note"]:
    yield _wrap(result["note"])
  if result["kind"] == "published":
    yield f"Published in [{result['source']}]({result['url']})."
    return
  yield f"```sh\n{_break_command(result['command'])}\n```"
  versions = ", ".join(
    f"{_NAMES.get(name, name)} {version}"
    for name, version in result["versions"].items()
  )
  yield _wrap(
    f"Measured on {result['date']}. Machine: {result['machine']}. {versions}."
  )


def _format_table(rows: Sequence[Mapping[str, Any]]) -> str:
  """Returns rows as a table, whose columns are in the order they appear."""
  names = dict.fromkeys(name for row in rows for name in row)
  columns = [name for name in names if name != "unit"]
  lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
  for row in rows:
    cells = [_format_cell(row, name, rows) for name in columns]
    lines.append("| " + " | ".join(cells) + " |")
  return "\n".join(lines).replace("|  |", "| |").replace("|  |", "| |")


def _format_cell(
  row: Mapping[str, Any], column: str, rows: Sequence[Mapping[str, Any]]
) -> str:
  """Returns the text of a cell; the unit of a row follows its `value`."""
  value = row.get(column)
  if value is None:
    return ""
  if isinstance(value, str):
    text = value.replace("|", "\\|")
  elif isinstance(value, int):
    text = f"{value:,}"
  else:
    text = f"{value:,.{_count_digits(row, column, rows)}f}"
  has_unit = column == "value" and "unit" in row
  return f"{text} {row['unit']}" if has_unit else text


def _count_digits(
  row: Mapping[str, Any], column: str, rows: Sequence[Mapping[str, Any]]
) -> int:
  """Returns the number of digits of fractions in a column, of the same unit."""
  digits = 0
  for other in rows:
    is_alike = column != "value" or other.get("unit") == row.get("unit")
    if is_alike and isinstance(other.get(column), float):
      digits = max(digits, len(str(other[column]).partition(".")[2]))
  return digits


def _break_command(command: str) -> str:
  """Returns commands, one per line, in lines that fit on the page."""
  lines = []
  for line in command.split("\n"):
    broken = [""]
    for word in _WORD.findall(line):
      length = len(broken[-1]) + len(f" {word} \\")
      if broken[-1].strip() and length > _COMMAND_WIDTH:
        broken[-1] += " \\"
        broken.append("   ")
      broken[-1] += f" {word}"
    broken[0] = broken[0].removeprefix(" ")
    lines += broken
  return "\n".join(lines)


def _wrap(text: str) -> str:
  return textwrap.fill(
    text, _WIDTH, break_long_words=False, break_on_hyphens=False
  )


if __name__ == "__main__":
  PAGE.write_text(make_page(), encoding="utf-8")
