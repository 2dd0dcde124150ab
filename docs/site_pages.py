"""Adds the pages at the top of the project, and the notebooks, to the site.

MkDocs calls the functions of this module, because mkdocs.yml names it.
"""

from __future__ import annotations

import pathlib
import re

from mkdocs.structure import files
import nbconvert

DOCS = pathlib.Path(__file__).resolve().parent
ROOT = DOCS.parent
# File -> name of its page.
PAGES = {
  "README.md": "index.md",
  "CONTRIBUTING.md": "contributing.md",
  "CHANGELOG.md": "changelog.md",
}
_LINK = re.compile(r"\[([^\[\]]*)\]\(([^()\s]+)\)")
_PICTURES = (".png", ".svg")


def on_files(site_files: files.Files, *, config) -> files.Files:
  """Adds the pages to those in docs/."""
  contents: dict[str, str | bytes] = {}
  for file, page in PAGES.items():
    contents[page] = (ROOT / file).read_text(encoding="utf-8")
  for notebook in sorted(DOCS.glob("notebooks/*.ipynb")):
    contents.update(_convert_notebook(notebook))
  for page, content in contents.items():
    site_files.append(files.File.generated(config, page, content=content))
  return site_files


def on_page_markdown(markdown: str, **unused_arguments) -> str:
  """Returns the text of a page whose links to the pages above work."""
  return _LINK.sub(_rewrite_link, markdown)


def _convert_notebook(path: pathlib.Path) -> dict[str, str | bytes]:
  """Returns name -> content of the page of a notebook, and of its pictures."""
  exporter = nbconvert.MarkdownExporter()
  text, resources = exporter.from_filename(
    str(path), {"unique_key": path.stem, "output_files_dir": ""}
  )
  return {f"{path.stem}.md": text, **resources["outputs"]}


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
  if name.endswith(".ipynb"):
    # All pages are in one folder.
    name = pathlib.PurePath(name).with_suffix(".md").name
  if not name.endswith((".md", *_PICTURES)):
    return text
  return f"[{text}]({name}{'#' + anchor if anchor else ''})"
