"""Tests of data/original_names.py."""

import importlib
import pathlib
import re

import pytest

from data import original_names

ROOT = pathlib.Path(__file__).parent.parent
PAIRS = [
  (module, name)
  for module, names in original_names.REPLACEMENTS.items()
  for name in names
]


def test_a_missing_name_answers_with_what_to_write_now():
  for module, name in PAIRS:
    with pytest.raises(AttributeError, match="write now: ") as error:
      getattr(importlib.import_module(module), name)
    assert original_names.REPLACEMENTS[module][name] in str(error.value)


def test_other_missing_names_are_missing_as_ever():
  name = "create_nothing"
  for module in original_names.REPLACEMENTS:
    with pytest.raises(AttributeError, match=f"'{module}' has no.*'{name}'$"):
      getattr(importlib.import_module(module), name)


def find(path):
  """Returns what a dotted path of our modules or of TensorFlow stands for."""
  parts = path.replace("tf.", "tensorflow.", 1).split(".")
  for end in range(len(parts), 0, -1):
    try:
      value = importlib.import_module(".".join(parts[:end]))
    except ImportError:
      continue
    for part in parts[end:]:
      value = getattr(value, part)
    return value
  raise AssertionError(path)


def test_replacements_exist():
  for module, name in PAIRS:
    replacement = original_names.REPLACEMENTS[module][name]
    for code in re.findall("`(.*?)`", replacement):
      path = re.match(r"[\w.]+", code)
      if path and "." in path[0] and not path[0].startswith("x."):
        find(path[0])


def test_the_page_shows_the_table():
  page = (ROOT / "docs" / "porting.md").read_text(encoding="utf-8")
  for module, names in original_names.REPLACEMENTS.items():
    rows = [f"| `{name}` | {new} |" for name, new in names.items()]
    table = f"## {module}.py\n\n| then | now |\n|---|---|\n" + "\n".join(rows)
    assert table in page, f"docs/porting.md should have:\n\n{table}"
