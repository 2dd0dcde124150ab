"""Reads the pages of runs, for tests."""

import html.parser
import json
import pathlib

from reports import run_report

# Elements without an end.
VOID = {"meta", "input", "br", "img", "line", "circle", "polyline"}


class Page(html.parser.HTMLParser):
  """The elements of a page, and its text."""

  def __init__(self, text):
    super().__init__()
    self.open, self.elements, self.texts = [], [], []
    self.cells, self.marked = [], []
    self.feed(text)
    assert not self.open

  def handle_starttag(self, tag, attrs):
    self.elements.append((tag, dict(attrs)))
    if tag not in VOID:
      self.open.append(tag)
    if tag == "mark":
      self.marked.append("")
    if tag in ("td", "th"):
      self.cells.append("")

  def handle_endtag(self, tag):
    if tag not in VOID:
      assert self.open.pop() == tag

  def handle_data(self, data):
    if self.open[-1:] not in (["style"], ["script"]):
      self.texts.append(data)
    if "mark" in self.open:
      self.marked[-1] += data
    if {"td", "th"} & set(self.open):
      self.cells[-1] += data

  @property
  def text(self):
    return "".join(self.texts)

  def attributes(self, tag):
    return [attributes for name, attributes in self.elements if name == tag]

  def facets(self):
    """Returns the facets of the examples."""
    items = [a for a in self.attributes("li") if "data-facets" in a]
    return [json.loads(item["data-facets"]) for item in items]


def read_page(folder):
  """Returns the page of a run, which is made for it."""
  path = run_report.write(str(folder))
  text = pathlib.Path(path).read_text()
  assert len(text.encode()) <= run_report.MOST_BYTES
  return Page(text)
