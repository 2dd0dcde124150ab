"""Makes the pictures of the documentation from real runs.

    make pictures

tour.svg shows what programs print, a loss curve and a confusion matrix; the
other pictures are parts of pages of runs, as Chromium shows them. The runs have
to be there:

    make quickstart                                  quickstart/
    python docs/run_notebooks.py own_language        runs/own_language/
    run_squad.py, as docs/reports.md shows           runs/squad/
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import html
import io
import json
import pathlib
import shlex
import shutil
import subprocess
import sys
import tempfile
import textwrap
from typing import Any

from PIL import Image

DOCS = pathlib.Path(__file__).resolve().parent
ROOT = DOCS.parent
PICTURES = DOCS / "pictures"
# Folder of a run -> what makes it.
RUNS = {
  "quickstart/classifier": "make quickstart",
  "runs/own_language/model": "python docs/run_notebooks.py own_language",
  "runs/squad": "run_squad.py, as docs/reports.md shows",
}
# Program and flags of each command in the terminal.
COMMANDS = [
  [
    "predict.py",
    "--model=runs/own_language/model",
    "--top_k=3",
    "--text=hodiaŭ la [MASK] trinkas la lakton .",
  ],
  [
    "predict.py",
    "--model=quickstart/classifier",
    "--text=Where can I renew a book?",
  ],
  [
    "predict.py",
    "--model=runs/squad",
    "--context_file=sample_data/library.txt",
    "--question=When do the doors close on Saturdays?",
  ],
]
# Picture -> run, and the first and last row of pixels of its page to show.
PAGES = {
  "report_scores.png": ("quickstart/classifier", 0, 820),
  "report_examples.png": ("quickstart/classifier", 1470, 2170),
}
_PAGE_WIDTH = 1000
_CHROMIUM = ("chromium", "chromium-browser", "google-chrome")

# Sizes in the picture, in pixels of its own.
# They are few, so that letters can be read on a phone.
_WIDTH, _MARGIN = 720, 20
_LINE_HEIGHT, _LETTER_WIDTH = 21, 8.4
_COLUMNS = 80
_CHART_HEIGHT = 265
_STYLE = """
  .letters { font: 14px ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono',
    monospace; }
  .label { font: 14px system-ui, 'DejaVu Sans', sans-serif; fill: #59636e; }
  .title { font: bold 15px system-ui, 'DejaVu Sans', sans-serif; }
  .page { fill: #fff; } .terminal { fill: #151b23; } .command { fill: #7ee787; }
  .output { fill: #e6edf3; } .dot { fill: #3d444d; }
  .title, .cell { fill: #1b1f24; } .axis { stroke: #d1d9e0; }
  .curve { stroke: #0969da; stroke-width: 2; fill: none; }
  .heat { fill: #0969da; }
  @media (prefers-color-scheme: dark) {
    .page { fill: #0d1117; } .label { fill: #9198a1; }
    .title, .cell { fill: #e6edf3; }
    .axis { stroke: #3d444d; } .curve { stroke: #388bfd; }
    .heat { fill: #388bfd; }
  }
"""


def main() -> None:
  for folder, command in RUNS.items():
    if not (ROOT / folder).exists():
      sys.exit(f"{folder} does not exist. It is made by: {command}.")
  PICTURES.mkdir(exist_ok=True)
  write_tour(PICTURES / "tour.svg")
  for name, (folder, top, bottom) in PAGES.items():
    page = ROOT / folder / "report.html"
    take_picture(page, PICTURES / name, top, bottom)


# --- The picture of the tour -------------------------------------------------


def write_tour(path: pathlib.Path) -> None:
  """Writes the picture with the terminal, the curve and the matrix."""
  lines = [line for command in COMMANDS for line in run_command(command)]
  lines.pop()  # the empty line after the last command
  terminal = list(draw_terminal(lines))
  top = len(lines) * _LINE_HEIGHT + 4 * _MARGIN
  log = (ROOT / "quickstart/pretraining/training_log.jsonl").read_text()
  matrix = (ROOT / "quickstart/classifier/confusion_matrix.tsv").read_text()
  parts = [
    *terminal,
    *draw_curve(read_losses(log), _MARGIN, top, _WIDTH / 2 - 3 * _MARGIN),
    *draw_matrix([row.split("\t") for row in matrix.splitlines()], top),
  ]
  height = top + _CHART_HEIGHT
  shapes = "\n".join(parts)
  path.write_text(
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}">'
    f'\n<style>{_STYLE}</style>\n<rect class="page" width="{_WIDTH}" '
    f'height="{height}" rx="10"/>\n{shapes}\n</svg>\n',
    encoding="utf-8",
  )


def run_command(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
  """Runs a program; yields class and text of the lines in the terminal."""
  result = subprocess.run(
    [sys.executable, *arguments],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
  )
  command = "$ python"
  for word in map(_quote, arguments):
    if len(f"{command} {word}") > _COLUMNS:
      yield "command", f"{command} \\"
      command = "   "
    command += f" {word}"
  yield "command", command
  for line in result.stdout.rstrip().splitlines():
    for part in textwrap.wrap(line, _COLUMNS, subsequent_indent="  ") or [""]:
      yield "output", part
  yield "output", ""


def _quote(word: str) -> str:
  """Returns a word as one writes it in a shell."""
  name, is_flag, value = word.partition("=")
  return f"{name}={shlex.quote(value)}" if is_flag else word


def _text(x: float, y: float, style: str, text: str, more: str = "") -> str:
  return (
    f'<text x="{x:.0f}" y="{y:.0f}" class="{style}" {more}>'
    f"{html.escape(text)}</text>"
  )


def draw_terminal(lines: Sequence[tuple[str, str]]) -> Iterator[str]:
  """Yields the shapes of a terminal with lines; see `run_command`."""
  height = len(lines) * _LINE_HEIGHT + 2 * _MARGIN
  yield (f'<rect class="terminal" width="{_WIDTH}" height="{height}" rx="10"/>')
  for number in range(3):
    x = _MARGIN + 18 * number
    yield f'<circle class="dot" cx="{x}" cy="16" r="5"/>'
  for number, (style, text) in enumerate(lines):
    y = 2 * _MARGIN + 6 + number * _LINE_HEIGHT
    # The width of letters does not depend on the fonts of the reader.
    length = (
      f'xml:space="preserve" textLength="{len(text) * _LETTER_WIDTH:.0f}"'
    )
    yield _text(_MARGIN, y, f"letters {style}", text, length if text else "")


def read_losses(log: str) -> list[tuple[float, float]]:
  """Returns step and masked LM loss of each row of a training log."""
  rows = [json.loads(line) for line in log.splitlines()]
  return [(row["step"], row["masked_lm_loss"]) for row in rows]


def draw_curve(
  points: Sequence[tuple[float, float]], left: float, top: float, width: float
) -> Iterator[str]:
  """Yields the shapes of a chart of losses; its axes begin at 0."""
  yield _text(left, top, "title", "Pre-training: loss, by step")
  left, bottom = left + 30, top + 210
  height = bottom - top - _MARGIN
  last_step = points[-1][0]
  largest = max(loss for _, loss in points)
  for value in range(0, int(largest) + 1, 3):
    y = bottom - height * value / largest
    yield f'<path class="axis" d="M{left:.0f} {y:.0f}h{width:.0f}"/>'
    yield _text(left - 6, y + 4, "label", str(value), 'text-anchor="end"')
  for tick in range(0, int(last_step) + 1, 50):
    x = left + width * tick / last_step
    yield _text(x, bottom + 20, "label", str(tick), 'text-anchor="middle"')
  places = []
  for step, loss in points:
    x = left + width * step / last_step
    y = bottom - height * loss / largest
    places.append(f"{x:.1f} {y:.1f}")
  yield f'<path class="curve" d="M{"L".join(places)}"/>'


def draw_matrix(rows: Sequence[Sequence[str]], top: float) -> Iterator[str]:
  """Yields the shapes of a confusion matrix.

  Args:
    rows: Rows of `confusion_matrix.tsv`, with their headings.
    top: Place of the title.
  """
  left = _WIDTH / 2 + _MARGIN
  yield _text(left, top, "title", "Label, and predicted label")
  columns = [name.removeprefix("predicted ") for name in rows[0][1:]]
  cells_left = left + 90
  width = (_WIDTH - _MARGIN - cells_left) / len(columns)
  height = 190 / len(columns)
  largest = max(int(cell) for row in rows[1:] for cell in row[1:])
  for i, row in enumerate(rows[1:]):
    y = top + _MARGIN + i * height
    middle = y + height / 2 + 5
    yield _text(cells_left - 8, middle, "label", row[0], 'text-anchor="end"')
    for j, cell in enumerate(row[1:]):
      x = cells_left + j * width
      yield (
        f'<rect class="heat" x="{x:.1f}" y="{y:.1f}" width="{width - 2:.1f}" '
        f'height="{height - 2:.1f}" opacity="{int(cell) / largest * 0.7:.2f}"/>'
      )
      center = x + width / 2
      yield _text(center, middle, "label cell", cell, 'text-anchor="middle"')
  for j, name in enumerate(columns):
    x = cells_left + (j + 0.5) * width
    # Names of neighbours are at two heights, because they are wide.
    y = top + _MARGIN + 190 + 20 + 17 * (j % 2)
    yield _text(x, y, "label", name, 'text-anchor="middle"')


# --- Pages of runs -----------------------------------------------------------


def take_picture(
  page: pathlib.Path, path: pathlib.Path, top: int, bottom: int
) -> None:
  """Writes a picture of some rows of pixels of a page."""
  program = next(filter(None, map(shutil.which, _CHROMIUM)), None)
  if not program:
    sys.exit("Pictures of pages need Chromium or Chrome.")
  with tempfile.TemporaryDirectory() as folder:
    file = pathlib.Path(folder) / "page.png"
    command: list[Any] = [program, "--headless", "--no-sandbox"]
    command += ["--disable-gpu", "--hide-scrollbars", f"--screenshot={file}"]
    command += [f"--window-size={_PAGE_WIDTH},{bottom}", page.as_uri()]
    subprocess.run(command, check=True, capture_output=True)
    picture = Image.open(io.BytesIO(file.read_bytes()))
  part = picture.convert("RGB").crop((0, top, _PAGE_WIDTH, bottom))
  # A palette makes the file several times smaller.
  part.quantize(128).save(path, optimize=True)
  print(f"{path} is written.")


if __name__ == "__main__":
  main()
