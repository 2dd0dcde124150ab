"""Makes a page of HTML from parts: one file that needs no other.

All text from data passes Jinja's escaping, and a content security policy
forbids every script but that of the page itself.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
import functools
import hashlib
import html
import os
from typing import Any, NamedTuple

import jinja2
import markupsafe

from data import file_io

_TEMPLATES = os.path.join(os.path.dirname(__file__), "templates")
# Bytes of HTML around the texts of an item of a list.
_ITEM_BYTES = 400


class Part(NamedTuple):
  """A part of the page: a title, a template, and the values that it shows."""

  title: str
  template: str
  content: Mapping[str, Any]


def table(
  columns: Sequence[str],
  rows: Iterable[Sequence[Any]],
  are_numbers: bool = False,
) -> dict[str, Any]:
  """Returns a table for the macro `plain_table`.

  Args:
    columns: Headings; empty for none.
    rows: Rows, of which the first value is the name.
    are_numbers: Whether texts are formatted numbers.
  """
  return {"columns": columns, "rows": list(rows), "are_numbers": are_numbers}


class Filter(NamedTuple):
  """A choice that reduces a list of examples.

  Attributes:
    key: Name of the facet.
    title: Title of the choice.
    options: Values of the facet.
  """

  key: str
  title: str
  options: Sequence[str]


def example_list(
  list_id: str,
  noun: str,
  filters: Sequence[Filter],
  items: Sequence[Mapping[str, Any]],
  num_all: int,
  budget: int,
) -> dict[str, Any]:
  """Returns a list for the macro `example_list`.

  Args:
    list_id: Id of the list on the page.
    noun: Name of the items in the plural, for the note.
    filters: Choices that reduce the list.
    items: Items in the order in which they are wanted, each with `facets`, a
      mapping or a list of pairs of names and values.
    num_all: Number of things of this kind that the program evaluated.
    budget: Bytes that the list may take; the rest is left out.
  """
  shown = []
  for item in items:
    budget -= _ITEM_BYTES + _count_bytes(item)
    if budget < 0:
      break
    facets = item["facets"]
    pairs = facets.items() if isinstance(facets, Mapping) else facets
    shown.append({**item, "facets": [f"{k}={value}" for k, value in pairs]})
  note = f"All {num_all} {noun}."
  if len(shown) < num_all:
    note = (
      f"A sample: {len(shown)} of {num_all} {noun}, chosen so that every kind "
      "of mistake has some."
    )
  return {"id": list_id, "note": note, "filters": filters, "entries": shown}


def _count_bytes(value: Any) -> int:
  """Returns about how many bytes the texts in a value take on the page."""
  if isinstance(value, str):
    return len(html.escape(value).encode("utf-8", "replace"))
  if isinstance(value, Mapping):
    return sum(map(_count_bytes, value.values()))
  if isinstance(value, (list, tuple)):
    return sum(_count_bytes(item) + 40 for item in value)
  return 8


@functools.cache
def _environment() -> jinja2.Environment:
  return jinja2.Environment(
    loader=jinja2.FileSystemLoader(_TEMPLATES),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
  )


def _read_own_file(name: str) -> str:
  with open(os.path.join(_TEMPLATES, name), encoding="utf-8") as file:
    return file.read()


def render(title: str, subtitle: str, parts: Sequence[Part]) -> str:
  """Returns the HTML of a page."""
  script = _read_own_file("page.js")
  digest = hashlib.sha256(script.encode("utf-8")).digest()
  return (
    _environment()
    .get_template("page.html")
    .render(
      title=title,
      subtitle=subtitle,
      parts=parts,
      style=markupsafe.Markup(_read_own_file("page.css")),
      script=markupsafe.Markup(script),
      script_hash=f"sha256-{base64.b64encode(digest).decode()}",
    )
  )


def encode(content: str) -> bytes:
  """Returns the bytes of a page; half of a surrogate pair becomes `?`."""
  return content.encode("utf-8", "replace")


def write(path: str, content: str) -> None:
  """Writes a page."""
  file_io.write_bytes(path, encode(content))
