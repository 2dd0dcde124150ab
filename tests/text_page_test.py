"""Tests of the page of serve.py, in a browser where there is one."""

import contextlib
import csv
import json
import os
import pathlib
import time
import urllib.parse

import browser
import pytest
import served_models

import heads
from serving import model_versions
from serving import text_page

EVIL = "<img src=x onerror=alert(1)>\u05e9\u05dc\u05d5\u05dd \u4f60\u597d"
# Folder for pictures of the page, if a person wants to look at them.
PICTURES = os.environ.get("BERT_PICTURES_DIR")


def test_every_head_has_examples_that_fit_it():
  assert set(text_page._KINDS) == set(served_models.ROWS)
  for kinds in text_page._KINDS.values():
    assert set(kinds) <= set(text_page._EXAMPLES)
  script = text_page.read("page.js")
  for kind in text_page._EXAMPLES:
    assert f"\n  {kind}: {{\n    verb: " in script


def test_the_page_takes_nothing_from_elsewhere():
  for name in ("page.html", "page.css", "page.js"):
    text = text_page.read(name)
    assert "//" not in text.replace("// ", "").replace("https://", "x")
    assert "innerHTML" not in text and "eval(" not in text
    assert " style=" not in text and " onclick=" not in text


class Page:
  """The page in a browser, as a person uses it."""

  def __init__(self, opened):
    self.browser = opened
    self.evaluate = opened.evaluate

  def text(self, selector):
    return self.evaluate(
      f"document.querySelector({json.dumps(selector)}).textContent"
    )

  def count(self, selector):
    return self.evaluate(
      f"document.querySelectorAll({json.dumps(selector)}).length"
    )

  def click(self, selector):
    self.evaluate(f"document.querySelector({json.dumps(selector)}).click()")

  def fill(self, name, text):
    """Types into a box, in place of its text."""
    self.evaluate(
      f"(() => {{ const e = document.getElementById('field-{name}');"
      "e.focus(); e.select(); })()"
    )
    self.browser.write(text)

  def answer(self):
    """Presses Ctrl + Enter, and waits for the answer."""
    self.evaluate("document.getElementById('answer').replaceChildren()")
    self.browser.press("Enter", 13, control=True)
    self.wait_for_answer()

  def wait_for_answer(self):
    self.browser.wait_for(
      "document.getElementById('answer').textContent +"
      " document.getElementById('problem').textContent"
    )
    assert self.text("#problem") == ""

  def save_pictures(self, name):
    if not PICTURES:
      return
    folder = pathlib.Path(PICTURES)
    for width, is_dark in ((1100, False), (390, True)):
      self.browser.show(width, 900, is_dark)
      color = "dark" if is_dark else "light"
      self.browser.save_screenshot(folder / f"{name}_{width}_{color}.png")


@pytest.fixture
def open_page(tmp_path):
  """Function (head) -> context of its page; errors fail the test."""

  @contextlib.contextmanager
  def run(*names):
    models = []
    for head in names:
      folder = served_models.write_model(tmp_path / head, head)
      models.append(model_versions.NamedModel(head, str(folder)))
    library = model_versions.ModelLibrary(models)
    library.update()
    with browser.opened() as opened:
      with served_models.running(library) as address:
        opened.show(1100, 900)
        opened.open_address(address)
        opened.wait_for("!document.getElementById('one').hidden")
        page = Page(opened)
        yield page
        assert page.evaluate("typeof hacked") == "undefined"
        # Nothing runs over the edge of a phone.
        opened.show(390, 800)
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= 390
        own = [a for a in opened.requests if not a.startswith("blob:")]
        assert own
        hosts = {urllib.parse.urlsplit(a).netloc for a in own}
        assert hosts <= {urllib.parse.urlsplit(address).netloc, ""}
        assert not opened.errors

  return run


def read_download(folder, name):
  """Returns the text of a file that the browser saves."""
  deadline = time.monotonic() + 60
  path = folder / name
  while not path.exists():
    assert time.monotonic() < deadline
  return path.read_text(encoding="utf-8")


@pytest.mark.large
def test_classifiers(open_page, tmp_path):
  with open_page(heads.SINGLE_LABEL) as page:
    page.fill("text", "the cat sat")
    page.answer()
    labels = served_models.LABELS[heads.SINGLE_LABEL]
    assert page.count("#answer meter") == 3
    assert page.count("#answer .chosen") == 1
    for label in labels:  # one of them is markup
      assert label in page.text("#answer")
    assert page.count("#answer b") == 0
    page.save_pictures("classify")

    page.click("#examples button")
    page.wait_for_answer()
    assert page.evaluate("document.getElementById('field-text').value")

    page.fill("text", EVIL)
    page.fill("second", "it's a 'pair'")
    page.answer()
    command, python, serving = (
      page.text(f"#snippets pre:nth-of-type({number})") for number in (1, 2, 3)
    )
    assert "curl 'http://127.0.0.1:" in command
    assert "'\\''pair'\\''" in command
    assert '"signature_name":"text_pair"' in serving
    body = next(line for line in python.splitlines() if line[:6] == "body =")
    namespace = {}
    exec(body, namespace)
    assert namespace["body"] == {"rows": [[EVIL, "it's a 'pair'"]]}

    # An empty box is named, and nothing is sent.
    page.fill("text", " ")
    page.browser.press("Enter", 13, control=True)
    page.browser.wait_for("document.getElementById('problem').textContent")
    assert "Text" in page.text("#problem")

    rows = ["the cat sat", EVIL, 'quotes " and, commas', "a\nnew line"]
    path = tmp_path / "many.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
      writer = csv.writer(file)
      writer.writerows([("number", "text"), *enumerate(rows)])
    folder = tmp_path / "downloads"
    folder.mkdir()
    page.browser.allow_downloads(folder)
    page.browser.drop_file(path, "#table")
    page.browser.wait_for("document.querySelector('#many-answer table')")
    assert page.count("#many-answer tbody tr") == 4
    assert page.count("#many-answer img") == 0
    page.save_pictures("many")
    page.click("#many-answer button")
    text = read_download(folder, f"{heads.SINGLE_LABEL}.csv")
    found = list(csv.DictReader(text.splitlines(keepends=True)))
    assert [row["text"] for row in found] == rows
    assert all(row["label"] in labels for row in found)
    page.click("#many-answer button + button")
    lines = read_download(folder, f"{heads.SINGLE_LABEL}.jsonl").splitlines()
    objects = [json.loads(line) for line in lines]
    assert [row["text"] for row in objects] == rows
    assert [row["label"] for row in objects] == [row["label"] for row in found]


@pytest.mark.large
def test_a_bad_row_of_many_does_not_spoil_the_others(open_page):
  with open_page(heads.MULTI_LABEL) as page:
    page.evaluate(
      "document.getElementById('table').value ="
      "'the cat\\na ||| b ||| c\\na dog ||| it ran'"
    )
    page.click("#run-many")
    page.browser.wait_for("document.querySelector('#many-answer table')")
    assert page.count("#many-answer tbody tr") == 3
    assert page.text("#many-answer").count("has 3 parts") == 1
    # The browser reports the answers with errors; nothing else is there.
    assert all("400" in json.dumps(e) for e in page.browser.errors)
    page.browser.errors.clear()


@pytest.mark.large
@pytest.mark.parametrize("head", [heads.MULTI_LABEL, heads.REGRESSION])
def test_other_classifiers(open_page, head):
  with open_page(head) as page:
    page.fill("text", "the cat sat")
    page.answer()
    assert page.text("#answer")
    page.save_pictures(head)


@pytest.mark.large
def test_taggers(open_page):
  with open_page(heads.TAGGING) as page:
    text = "it \U0001f600 sat on the red bird and a <b>dog</b> ran over it ."
    page.fill("text", text)
    page.answer()
    shown = page.text("#answer")
    if page.count("#answer .entity"):
      parts = page.evaluate(
        "[...document.querySelectorAll('#answer .text')].map((e) => {"
        "const c = e.cloneNode(true);"
        "c.querySelectorAll('small').forEach((s) => s.remove());"
        "return c.textContent; })[0]"
      )
      assert parts == text
    assert shown and page.count("#answer b") == 0
    page.save_pictures("tag")
    page.click("#examples button")
    page.wait_for_answer()


@pytest.mark.large
def test_span_finders(open_page):
  with open_page(heads.SPAN) as page:
    context = "the \U0001f600 cat sat <b>and</b> the bird flew over the hill"
    page.fill("question", "it was red")
    page.fill("context", context)
    page.answer()
    assert page.text("#answer .text") == context
    marked = " ".join(page.text("#answer mark").split())
    assert marked and marked == page.text("#answer strong")
    page.save_pictures("find")
    page.click("#examples button")
    page.wait_for_answer()
    assert page.text("#answer mark")


@pytest.mark.large
def test_choosers(open_page):
  with open_page(heads.MULTIPLE_CHOICE) as page:
    page.fill("context", "the cat")
    page.fill("choices", "sat\n\nran over the <i>hill</i>\nflew")
    page.answer()
    assert page.count("#answer meter") == 3
    values = page.evaluate(
      "[...document.querySelectorAll('#answer meter')].map((m) => m.value)"
    )
    assert values == sorted(values, reverse=True)
    assert "ran over the <i>hill</i>" in page.text("#answer")
    page.save_pictures("choose")
    page.click("#examples button")
    page.wait_for_answer()


@pytest.mark.large
def test_models_of_pre_training(open_page):
  with open_page(heads.PRETRAINING, heads.SINGLE_LABEL) as page:
    assert page.count("#models button") == 3
    page.fill("text", "the ")
    page.click("#fields button")
    page.browser.write(" sat on a [MASK]")
    page.answer()
    assert page.count("#answer mark") == 2
    assert page.count("#answer meter") == 10
    page.save_pictures("fill")
    page.click("#models button:nth-child(2)")
    page.fill("query", "the cat sat")
    page.fill("others", "a dog ran\nthe cat sat\nit was <red>")
    page.answer()
    first = page.text("#answer .bars .name")
    assert first == "the cat sat" and page.count("#answer meter") == 3
    page.save_pictures("compare")
    page.evaluate(
      "document.getElementById('table').value = 'a bird\\nthe cat sat'"
    )
    page.click("#run-many")
    page.browser.wait_for("document.querySelector('#many-answer table')")
    assert page.text("#many-answer tbody td") == "the cat sat"
    page.click("#models button:nth-child(3)")
    assert page.text("#title") == heads.SINGLE_LABEL
    page.fill("text", "the cat")
    page.answer()


@pytest.mark.large
def test_encoders(open_page):
  with open_page(heads.ENCODER) as page:
    page.click("#examples button")
    page.wait_for_answer()
    assert page.count("#answer meter") == 3
