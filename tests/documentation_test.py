"""Tests of README.md and docs/: their commands, code, flags and links.

A comment before a block of code says what the tests do with it:

    <!-- run -->      it is run, in one folder with all such blocks before it
    <!-- output -->   it is what the block before it prints; `...` is anything
"""

import ast
import collections
from collections.abc import Iterator
import dataclasses
import importlib
import importlib.util
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

from absl import flags
import builders
import pytest

from command_line import flag_parsing
from data import released_models
from errors import UserError

ROOT = builders.ROOT
README = ROOT / "README.md"
NAVIGATION = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
# The pages of docs/ in the order of the site, in which their blocks are run.
PAGES = [
  README,
  *(
    ROOT / "docs" / name
    for name in re.findall(r": (\w+\.md)$", NAVIGATION, re.MULTILINE)
    if (ROOT / "docs" / name).exists()
  ),
  ROOT / "CONTRIBUTING.md",
  ROOT / "CHANGELOG.md",
]
LANGUAGES = {"sh", "python", "json", "text"}
# Commands that the tests do not look into.
OTHER_TOOLS = {
  ".", "awk", "cat", "cd", "curl", "cut", "docker", "done", "echo", "export",
  "for", "git", "ls", "mkdir", "pip", "pre-commit", "sed", "shuf", "sort",
  "tee", "tensorboard", "wikiextractor",
}  # fmt: skip
# Flags of absl, Beam, TensorBoard and other tools.
OTHER_FLAGS = {
  "direct_num_workers", "direct_running_mode", "dry", "environment_type",
  "flagfile", "help", "helpfull", "logdir", "random", "sdk_container_image",
}  # fmt: skip
_FENCE = re.compile(r"```(\w*)\s*")
_MARK = re.compile(r"<!-- (\w+) -->")
_LINK = re.compile(r"\]\(([^()\s]+)\)")
_HEADING = re.compile(r"#+ (.*)")
_FLAG = re.compile(r"(?<![\w-])--(?:\[no\])?([a-zA-Z]\w*)")
_HEREDOC = re.compile(r"<<'?(\w+)'?(.*?)\n.*?\n\1(?=\n|$)", re.DOTALL)
_REDIRECTION = re.compile(r"\s\d?>>?\s*[^\s'\"|&;]+")
_COMMENT = re.compile(r"(^|\s)#\s.*$", re.MULTILINE)
_SEPARATORS = "();<>|&\n"


@dataclasses.dataclass
class Block:
  """A block of code.

  Attributes:
    place: File and line, for messages.
    language: What stands after its fence.
    mark: What the comment before it says.
    text: Its lines.
  """

  place: str
  language: str
  mark: str
  text: str


def split_page(page: pathlib.Path) -> tuple[list[Block], str]:
  """Returns the blocks of code of a page, and the text around them."""
  blocks: list[Block] = []
  prose: list[str] = []
  inside, mark = None, ""
  lines = page.read_text(encoding="utf-8").splitlines()
  for number, line in enumerate(lines, start=1):
    fence = _FENCE.fullmatch(line)
    if inside is not None and fence:
      blocks[-1].text = "\n".join(inside)
      inside, mark = None, ""
    elif inside is not None:
      inside.append(line)
    elif fence:
      place = f"{page.relative_to(ROOT)}:{number}"
      blocks.append(Block(place, fence.group(1), mark, ""))
      inside = []
    else:
      found = _MARK.fullmatch(line)
      mark = found.group(1) if found else ""
      prose.append(line)
  assert inside is None, f"{page} ends inside a block"
  return blocks, "\n".join(prose)


def all_blocks(language: str) -> list[Block]:
  """Returns the blocks of all pages in a language."""
  blocks = [block for page in PAGES for block in split_page(page)[0]]
  return [block for block in blocks if block.language == language]


def by_place(block: Block) -> str:
  return block.place


def split_commands(text: str) -> Iterator[list[str]]:
  """Yields the words of each command of a shell script."""
  text = _HEREDOC.sub(r"\2", text.replace("\\\n", " "))
  text = _REDIRECTION.sub("", _COMMENT.sub("", text))
  lexer = shlex.shlex(text, posix=True, punctuation_chars=_SEPARATORS)
  lexer.whitespace = " \t"
  lexer.whitespace_split = True
  lexer.commenters = ""
  words: list[str] = []
  for word in [*lexer, "\n"]:
    if word.strip(_SEPARATORS):
      words.append(word)
      continue
    while words and re.match(r"[A-Z_]+=|do$", words[0]):
      words.pop(0)
    if words:
      yield words
    words = []


def check_command(words: list[str]) -> None:
  """Fails if a command names a program or flags that do not exist."""
  name, *arguments = words
  if name == "make":
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in arguments:
      assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    return
  if name not in ("python", "bert"):
    assert name in OTHER_TOOLS, f"{name} is not known to this test"
    return
  program, *arguments = arguments
  if program == "-c":
    ast.parse(arguments[0])
    return
  if name == "python":
    assert (ROOT / program).is_file(), f"{program} does not exist"
  if os.path.dirname(program):
    return  # benchmarks and tests, which are not installed
  check_flags(program.removesuffix(".py"), arguments)


def check_flags(program: str, arguments: list[str]) -> None:
  """Fails if a program does not accept flags."""
  builders.define_flags(importlib.import_module(program))
  is_complete = "..." not in arguments
  values = [re.sub(r"\$\{?\w+\}?", "1", word) for word in arguments]
  values = [value for value in values if value != "..."]
  # Beam has flags of its own.
  has_runner = any(value.startswith("--runner") for value in values)
  try:
    flag_parsing.parse([program, *values], known_only=has_runner)
  except UserError as error:
    is_left_out = "is missing" in str(error) and not is_complete
    assert is_left_out, f"{program}: {error}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_is_fenced_and_names_its_language(page):
  blocks, prose = split_page(page)
  for block in blocks:
    assert block.language in LANGUAGES, block.place
    assert block.mark in ("", "run", "output"), block.place
  assert not re.search(r"\n\n    \S", prose), "code that is only indented"


@pytest.mark.parametrize("block", all_blocks("sh"), ids=by_place)
def test_commands_exist_and_accept_their_flags(block):
  commands = list(split_commands(block.text))
  assert commands
  for words in commands:
    check_command(words)


def test_wrong_commands_are_found():
  for wrong in (
    "python run_clasifier.py --task_name=MRPC",
    "python run_ner.py --data_dir=x --output_dir=y --no_such_flag=1",
    "python run_ner.py --data_dir=x --output_dir=y --max_seq_length=long",
    "python run_ner.py --data_dir=x --precision=float8 ...",
    "make tests",
    "ech hello",
  ):
    (words,) = split_commands(wrong)
    with pytest.raises((AssertionError, UserError)):
      check_command(words)


def test_shell_is_split_into_commands():
  text = "A='x y' python a.py --b='1 2' \\\n  --c 2>/dev/null > d  # e\n"
  text += "cat <<END > f\nnot a command\nEND\nf | g; h"
  assert list(split_commands(text)) == [
    ["python", "a.py", "--b=1 2", "--c"],
    ["cat"],
    ["f"],
    ["g"],
    ["h"],
  ]


@pytest.mark.parametrize("block", all_blocks("python"), ids=by_place)
def test_python_is_valid(block):
  ast.parse(block.text)


@pytest.mark.parametrize("block", all_blocks("json"), ids=by_place)
def test_json_is_valid(block):
  try:
    json.loads(block.text)
  except ValueError:
    for line in block.text.splitlines():
      json.loads(line)


# --- Links and flags ---------------------------------------------------------


def anchors_of(page: pathlib.Path) -> set[str]:
  """Returns the anchors of the headings of a page."""
  headings = _HEADING.findall(split_page(page)[1])
  kept = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
  return {heading.replace(" ", "-") for heading in kept}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
  prose = re.sub(r"`[^`\n]*`", "", split_page(page)[1])
  for link in _LINK.findall(prose):
    if re.match(r"https?://|mailto:", link):
      continue
    file, _, anchor = link.partition("#")
    target = (page.parent / file).resolve() if file else page
    assert target.exists(), link
    if anchor:
      assert anchor in anchors_of(target), link


def test_readme_is_short_and_leads_to_every_page():
  text = README.read_text(encoding="utf-8")
  assert len(text.splitlines()) <= 200
  for page in ROOT.glob("docs/*.md"):
    assert f"(docs/{page.name}" in text, page.name
    assert page in PAGES, page.name


def test_pictures_are_small_and_shown():
  text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
  pictures = list(ROOT.glob("docs/pictures/*"))
  assert pictures
  for picture in pictures:
    assert f"pictures/{picture.name})" in text, picture.name
    assert picture.stat().st_size < 300_000, picture.name


def documented_flags() -> set[str]:
  """Returns the names of the flags in flags.md."""
  text = (ROOT / "docs" / "flags.md").read_text(encoding="utf-8")
  return set(re.findall(r"^\| `--(?:\[no\])?(\w+)", text, re.MULTILINE))


def flags_of_scripts() -> set[str]:
  """Returns the names of the flags of benchmarks and of tests/contract.py."""
  names: set[str] = set()
  for path in [*ROOT.glob("benchmarks/*.py"), ROOT / "tests" / "contract.py"]:
    source = path.read_text(encoding="utf-8")
    definitions = r"(?:add_argument\(|DEFINE_\w+\()\s*\"(?:--)?(\w+)"
    names.update(re.findall(definitions, source))
  return names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_flags_exist(page):
  known = documented_flags() | OTHER_FLAGS | flags_of_scripts()
  _, prose = split_page(page)
  for name in _FLAG.findall(prose):
    assert name in known or name.removeprefix("no") in known, name


def load_write_flags():
  path = ROOT / "docs" / "write_flags.py"
  spec = importlib.util.spec_from_file_location("write_flags", path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def test_page_of_flags_is_up_to_date():
  write_flags = load_write_flags()
  page = write_flags.PAGE.read_text(encoding="utf-8")
  assert page == write_flags.make_page(), "run `python docs/write_flags.py`"


def test_every_flag_is_documented():
  known = documented_flags()
  for program in load_write_flags().find_programs():
    module = importlib.import_module(program.removesuffix(".py"))
    builders.define_flags(module)
    by_module = flags.FLAGS.flags_by_module_dict()
    own = [name for name in by_module if not name.startswith("absl")]
    names = {flag.name for name in own for flag in by_module[name]}
    assert names <= known, program


def test_every_released_model_is_documented():
  text = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
  small = re.compile(r"uncased_L-(\d+)_H-(\d+)_A-(\d+)")
  for name in released_models.PATHS:
    if f"`{name}`" in text:
      continue
    layers, hidden, heads = small.fullmatch(name).groups()
    assert f"| H={hidden}, A={heads} |" in text, name
    assert f"\n| L={layers} |" in text, name
  for alias in released_models.ALIASES:
    assert f"`{alias}`" in text or alias.startswith("google/"), alias


# --- Blocks that are run -----------------------------------------------------


def run_block(text: str, language: str, folder: pathlib.Path) -> str:
  """Runs a block, and returns what it prints."""
  commands = {
    "sh": ["bash", "-e", "-o", "pipefail", "-c", text],
    "python": [sys.executable, "-c", text],
  }
  path = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]
  result = subprocess.run(
    commands[language],
    cwd=folder,
    env={**os.environ, "BERT": "tiny", "PATH": path},
    capture_output=True,
    text=True,
    timeout=900,
  )
  assert result.returncode == 0, f"{text}\n{result.stderr[-3000:]}"
  return result.stdout


@pytest.mark.large
def test_marked_blocks_run_and_print_what_is_shown(project_dir):
  printed = ""
  marks = collections.Counter()
  for page in PAGES:
    for block in split_page(page)[0]:
      if block.mark == "run":
        printed = run_block(block.text, block.language, project_dir)
      elif block.mark == "output":
        pattern = re.escape(block.text).replace(re.escape("..."), ".*?")
        assert re.fullmatch(pattern, printed.strip(), re.DOTALL), block.place
      marks[block.mark] += 1
  assert marks["run"] > 10 and marks["output"]
