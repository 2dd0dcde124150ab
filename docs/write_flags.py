"""Writes flags.md: every flag of every program, by group.

    python docs/write_flags.py

The texts come from the programs' own --help. tests/documentation_test.py fails
when the page is not what this program writes.
"""

from __future__ import annotations

from collections.abc import Iterator
import concurrent.futures
import pathlib
import re
import subprocess
import sys
from typing import NamedTuple

DOCS = pathlib.Path(__file__).resolve().parent
ROOT = DOCS.parent
PAGE = DOCS / "flags.md"
_INTRODUCTION = """\
# Flags

Every program takes its settings as flags, `--name=value`, and `--help` lists
them. A switch such as `--do_train` is turned off by `--nodo_train` or
`--do_train=false`. `--flagfile=FILE` reads flags from a file with one per line.
The flags of the original code keep their names and defaults.

`python docs/write_flags.py` writes this page.
"""
_GROUP = re.compile(r"([A-Z].*):")
_FLAG = re.compile(r"  --(\S+)")
# absl begins the help of a closed set of values with these.
_CHOICES = re.compile(r"^<.*?>\s?: ")
_DEFAULT = re.compile(r"^(.*?) ?Default: (.*)\.$")
_REPETITION = re.compile(r"; repeat this option.*")


class _Row(NamedTuple):
  """A flag as the page shows it."""

  name: str
  default: str
  effect: str


class Help(NamedTuple):
  """The help of a program.

  Attributes:
    summary: First line of the docstring.
    groups: Title of a group -> its flags.
  """

  summary: str
  groups: dict[str, list[_Row]]


def find_programs() -> list[str]:
  """Returns the names of all programs that have flags."""
  return sorted(
    path.name
    for path in ROOT.glob("*.py")
    if "def define_flags(" in path.read_text(encoding="utf-8")
    and "launch.run(" in path.read_text(encoding="utf-8")
  )


def read_help(program: str) -> Help:
  """Returns the help of a program, from its own --help."""
  text = subprocess.run(
    [sys.executable, program, "--help"],
    cwd=ROOT,
    check=True,
    stdout=subprocess.PIPE,
    encoding="utf-8",
  ).stdout
  groups: dict[str, list[_Row]] = {}
  # Before the first group is the docstring, which may have lines like titles.
  title = ""
  name, words = "", []  # the flag that is being read
  for line in [*text.splitlines(), ""]:
    flag = _FLAG.fullmatch(line) if title else None
    if flag or not line:
      if name:
        groups.setdefault(title, []).append(_make_row(name, words))
      name, words = flag.group(1) if flag else "", []
    elif name:
      words.append(line.strip())
    elif group := _GROUP.fullmatch(line):
      title = group.group(1)
  return Help(text.partition("\n")[0], groups)


def _make_row(name: str, lines: list[str]) -> _Row:
  # textwrap breaks lines after hyphens, too.
  text = re.sub(r"-\n", "-", "\n".join(lines)).replace("\n", " ")
  text = _REPETITION.sub("", _CHOICES.sub("", text))
  default = ""
  if match := _DEFAULT.fullmatch(text):
    text, default = match.groups()
  return _Row(name, default, text)


def make_page() -> str:
  """Returns the text of the page."""
  programs = find_programs()
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    helps = dict(zip(programs, pool.map(read_help, programs)))
  parts = [_INTRODUCTION, "\n".join(_program_table(helps))]
  titles = [title for text in helps.values() for title in text.groups]
  for title in dict.fromkeys(titles):
    parts.append(f"## {title}\n")
    parts.append("\n".join(_group_table(title, helps)))
  return "\n".join(parts) + "\n"


def _program_table(helps: dict[str, Help]) -> Iterator[str]:
  yield "| program | what it does | groups of flags |"
  yield "|---|---|---|"
  for program, text in helps.items():
    links = [f"[{title}](#{_anchor(title)})" for title in text.groups]
    yield f"| `{program}` | {_cell(text.summary)} | {', '.join(links)} |"
  yield ""


def _group_table(title: str, helps: dict[str, Help]) -> Iterator[str]:
  users = [program for program in helps if title in helps[program].groups]
  rows: dict[_Row, list[str]] = {}
  for program in users:
    for row in helps[program].groups[title]:
      rows.setdefault(row, []).append(program)
  shown = ", ".join(f"`{program}`" for program in users)
  yield f"Of {shown}.\n"
  # Flags of one name stand together, where the first of them was defined.
  names = list(dict.fromkeys(row.name for row in rows))
  yield "| flag | default | effect |"
  yield "|---|---|---|"
  for row in sorted(rows, key=lambda row: names.index(row.name)):
    effect = row.effect
    if rows[row] != users:
      effect += f" ({_some_of(rows[row], users)})"
    default = f"`{row.default}`" if row.default else ""
    yield f"| `--{_cell(row.name)}` | {_cell(default)} | {_cell(effect)} |"
  yield ""


def _some_of(programs: list[str], users: list[str]) -> str:
  """Returns words for some of the programs that have a group."""
  others = [program for program in users if program not in programs]
  is_shorter = len(others) < len(programs)
  named = ", ".join(
    f"`{name}`" for name in (others if is_shorter else programs)
  )
  return f"all but {named}" if is_shorter else named


def _anchor(title: str) -> str:
  """Returns the anchor of a heading, as GitHub and MkDocs make it."""
  kept = re.sub(r"[^\w\- ]", "", title.lower())
  return kept.replace(" ", "-")


def _cell(text: str) -> str:
  """Returns text for a cell, where bars and angle brackets have a meaning."""
  return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
  PAGE.write_text(make_page(), encoding="utf-8")
