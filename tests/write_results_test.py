"""Tests of docs/write_results.py and of the numbers that pages show."""

import json
import re

import builders
import pytest
import write_results

RESULT = {
  "section": "Speed",
  "title": "A step",
  "kind": "measured",
  "command": "python benchmarks/x.py --words='a b' --file=some_long_name.json "
  "--output_dir=another_long_name",
  "date": "2026-01-02",
  "machine": "a machine",
  "versions": {"python": "3.11", "torch": "2.6"},
  "note": "A note.",
  "rows": [
    {"type": "a|b", "value": 1.5, "unit": "s", "count": 12345},
    {"type": "c", "value": 0.25, "unit": "s", "ratio": 0.5},
    {"type": "d", "value": 7.5, "unit": "MB", "ratio": 1.25},
  ],
}


def make_page(folder, *results):
  for number, result in enumerate(results):
    (folder / f"{number}.json").write_text(json.dumps(result))
  return write_results.make_page(folder)


def test_page_is_up_to_date():
  page = write_results.PAGE.read_text(encoding="utf-8")
  assert page == write_results.make_page(), "run `python docs/write_results.py`"


def test_numbers_of_the_readme_are_on_the_page():
  readme = (builders.ROOT / "README.md").read_text(encoding="utf-8")
  section = readme.partition("\n## Results\n")[2].partition("\n## ")[0]
  values = re.findall(r"\| ([\d.,]+) \|$", section, re.MULTILINE)
  page = write_results.PAGE.read_text(encoding="utf-8")
  assert len(values) == 8
  assert [value for value in values if f"| {value} |" not in page] == []


def test_measured_numbers_stand_next_to_their_command(tmp_path):
  page = make_page(tmp_path, RESULT)
  assert (
    """\
| type | value | count | ratio |
|---|---|---|---|
| a\\|b | 1.50 s | 12,345 | |
| c | 0.25 s | | 0.50 |
| d | 7.5 MB | | 1.25 |

A note.

```sh
python benchmarks/x.py --words='a b' --file=some_long_name.json \\
    --output_dir=another_long_name
```

Measured on 2026-01-02. Machine: a machine. Python 3.11, PyTorch 2.6.
"""
    in page
  )


def test_published_numbers_name_their_source(tmp_path):
  result = {**RESULT, "kind": "published", "source": "A", "url": "https://b"}
  page = make_page(tmp_path, result)
  assert "Published in [A](https://b)." in page
  assert "Measured on" not in page and "```" not in page


def test_sections_come_in_the_order_of_the_page(tmp_path):
  page = make_page(tmp_path, RESULT, {**RESULT, "section": "Quickstart"})
  headings = re.findall(r"^## (.*)", page, re.MULTILINE)
  assert headings == ["Quickstart", "Speed", "Not tested"]


def test_an_unknown_section_is_an_error(tmp_path):
  with pytest.raises(ValueError, match="section 'Sped'. The sections in"):
    make_page(tmp_path, {**RESULT, "section": "Sped"})
