"""Adds the pages at the top of the project to the site.

MkDocs calls the functions of this module, because mkdocs.yml names it.
"""

from __future__ import annotations

import pathlib
import re

from mkdocs.structure import files

ROOT = pathlib.Path(__file__).resolve().parent.parent
# File -> name of its page.
PAGES = {
  "README.md": "index.md",
  "CONTRIBUTING.md": "contributing.md",
  "CHANGELOG.md": "changelog.md",
}
_LINK = re.compile(r"\[([^\[\]]*)\]\(([^()\s]+)\)")


def on_files(site_files: files.Files, *, config) -> files.Files:
  """Adds the pages to those in docs/."""
  for file, page in PAGES.items():
    text = (ROOT / file).read_text(encoding="utf-8")
    content = _LINK.sub(_rewrite_link, text)
    site_files.append(files.File.generated(config, page, content=content))
  return site_files


def on_page_markdown(markdown: str, **unused_arguments) -> str:
  """Returns the text of a page whose links to the pages above work."""
  return _LINK.sub(_rewrite_link, markdown)


def _rewrite_link(match: re.Match[str]) -> str:
  """Returns a link as it has to be on the site.

  Source files are not part of the site, so a link to one becomes its text.
  """
  text, target = match.groups()
  if re.match(r"https?://|#", target):
    return match.group()
  path, _, anchor = target.partition("#")
  name = path.removeprefix("../").removeprefix("docs/")
  name = PAGES.get(name, name)
  if not name.endswith(".md"):
    return text
  return f"[{text}]({name}{'#' + anchor if anchor else ''})"
