"""Tests of page.py."""

import base64
import hashlib
import re

import html_pages

from reports import page


def make_list(items, budget, num_all=3):
  return page.example_list("x", "texts", [], items, num_all, budget)


def test_a_list_ends_where_its_budget_ends():
  items = [
    {"facets": {"kind": "a"}, "text": "x" * 1000},
    {"facets": [("kind", "b"), ("kind", "c")], "text": "<" * 1000},
    {"facets": {}, "text": "y"},
  ]
  whole = make_list(items, budget=10_000)
  assert whole["note"] == "All 3 texts."
  facets = [entry["facets"] for entry in whole["entries"]]
  assert facets == [["kind=a"], ["kind=b", "kind=c"], []]
  # A bracket takes four bytes, so the second text fits into 4000 alone.
  assert len(make_list(items, budget=4000)["entries"]) == 1
  few = make_list(items, budget=6200)
  assert len(few["entries"]) == 2
  assert few["note"].startswith("A sample: 2 of 3 texts")


def test_the_policy_allows_the_script_of_the_page_and_no_other():
  text = page.render("<b>run</b>", "&", [])
  (script,) = re.findall("<script>(.*?)</script>", text, re.DOTALL)
  digest = hashlib.sha256(script.encode()).digest()
  shown = html_pages.Page(text)
  (policy,) = [a for a in shown.attributes("meta") if "http-equiv" in a]
  allowed = f"script-src 'sha256-{base64.b64encode(digest).decode()}'"
  assert allowed in policy["content"]
  assert "<b>run</b>" in shown.text and not shown.attributes("b")


def test_parts_are_reached_by_their_names():
  parts = [
    page.Part("A & B", "tables.html", {"tables": []}),
    page.Part("C", "tables.html", {"tables": [page.table(["x"], [["y", 1]])]}),
  ]
  shown = html_pages.Page(page.render("run", "", parts))
  links = [a["href"] for a in shown.attributes("a")]
  headings = [f"#{a['id']}" for a in shown.attributes("h2")]
  assert links == headings and len(links) == 2
  assert shown.cells == ["x", "y", "1"]


def test_half_of_a_surrogate_pair_does_not_stop_the_page(tmp_path):
  page.write(str(tmp_path / "x.html"), "a\ud800b")
  assert (tmp_path / "x.html").read_text() == "a?b"
