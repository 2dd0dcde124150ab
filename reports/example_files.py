"""Files of evaluated examples, from which a page is made.

`report_dev.jsonl` has a header and then one line per example: its texts, label
and prediction. `report_test.jsonl` is the same for predicted files.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import json
import math
import os
import random
import re
from typing import Any

from absl import logging
import tensorflow as tf

from data import file_io
from errors import UserError
from tasks import text_files

_NAME = re.compile(r"report_(\w+)\.jsonl")
# Larger files are sampled.
MOST_EXAMPLES = 50_000
# Larger numbers cannot be shown.
LARGEST_NUMBER = 2**63
_LONGEST_TEXT = 2000
_LONGEST_LIST = 2000


@dataclasses.dataclass
class ExampleFile:
  """The content of a file.

  Attributes:
    kind: Kind of the rows, such as `single_label`.
    num_examples: Number of examples that were evaluated.
    labels: All labels, if the kind has labels.
    scores: Scores of all examples, as in the files of results.
    rows: The examples, or a sample of them.
    split: Name of the split, such as `dev_mismatched`.
  """

  kind: str
  num_examples: int
  labels: Sequence[str]
  scores: Mapping[str, float]
  rows: list[dict[str, Any]]
  split: str = ""

  @property
  def is_whole(self) -> bool:
    """True if `rows` holds all examples, not a sample."""
    return len(self.rows) == self.num_examples


@contextlib.contextmanager
def keep_running(
  consequence: str = "The run is complete, but its report is not",
) -> Iterator[None]:
  """Turns an error of making a report into a warning: the run counts more.

  Args:
    consequence: Consequence of the error, for the warning.
  """
  try:
    yield
  except Exception as error:
    logging.warning("%s: %s: %s", consequence, type(error).__name__, error)


def write(
  output_dir: str,
  split: str,
  kind: str,
  num_examples: int,
  make_row: Callable[[int], dict[str, Any]],
  labels: Sequence[str] = (),
  scores: Mapping[str, float] | None = None,
  always_kept: Collection[int] = (),
) -> None:
  """Writes the file of a split; an error becomes a warning.

  Args:
    output_dir: Folder of the run.
    split: Name of the split.
    kind: Kind of the rows.
    num_examples: Number of examples.
    make_row: Function (number of an example) -> its row.
    labels: All labels, if the kind has labels.
    scores: Scores of all examples.
    always_kept: Numbers of examples that a sample has in any case.
  """
  with keep_running():
    numbers = list(range(num_examples))
    if num_examples > MOST_EXAMPLES:
      chosen = random.Random(num_examples).sample(numbers, MOST_EXAMPLES)
      numbers = sorted({*chosen, *always_kept})
    header = {
      "kind": kind,
      "num_examples": num_examples,
      "labels": list(labels),
      # JSON has only finite numbers; the correlation of equal values is none.
      "scores": {
        name: score
        for name, score in (scores or {}).items()
        if math.isfinite(score)
      },
    }
    lines = [json.dumps(header)]
    lines += [json.dumps(_shorten(make_row(number))) for number in numbers]
    path = os.path.join(output_dir, f"report_{split}.jsonl")
    file_io.write_text(path, "\n".join(lines) + "\n")


def _shorten(value: Any) -> Any:
  """Returns a value in which no text and no list is very long."""
  if isinstance(value, str):
    # JSON with half of a surrogate pair could not be read.
    text = value[:_LONGEST_TEXT].encode("utf-8", "replace").decode()
    return f"{text} ..." if len(value) > _LONGEST_TEXT else text
  if isinstance(value, dict):
    return {name: _shorten(item) for name, item in value.items()}
  if isinstance(value, (list, tuple)):
    return [_shorten(item) for item in value[:_LONGEST_LIST]]
  if isinstance(value, float):
    return float(f"{value:.6g}")
  return value


# --- Reading -----------------------------------------------------------------


def find_splits(folder: str) -> list[str]:
  """Returns the names of the splits that have a file, sorted."""
  matches = map(_NAME.fullmatch, tf.io.gfile.listdir(folder))
  return sorted(match.group(1) for match in matches if match)


def read(folder: str, split: str) -> ExampleFile:
  """Returns the content of the file of a split.

  Raises:
    UserError: It is damaged.
  """
  path = os.path.join(folder, f"report_{split}.jsonl")
  lines = list(file_io.read_json_lines(path))
  if not lines:
    raise UserError(f"{path} is empty. Run the evaluation again.")
  (_, header), *rows = lines
  content = ExampleFile(
    pick(header, "kind", str, path),
    pick(header, "num_examples", int, path),
    pick_list(header, "labels", str, path),
    pick(header, "scores", dict, path),
    [row for _, row in rows],
    split,
  )
  if len(content.rows) > content.num_examples or any(
    not isinstance(score, (int, float)) for score in content.scores.values()
  ):
    raise UserError(
      f"{path}: the first line does not fit the others, or has a score that is "
      "no number. Run the evaluation again."
    )
  return content


def pick(row: Mapping[str, Any], name: str, kinds: Any, place: str) -> Any:
  """Returns a value of a row.

  Args:
    row: The row.
    name: Name of the value.
    kinds: Type or types that it may have.
    place: File of the row, for messages.

  Raises:
    UserError: It is missing or has another type.
  """
  value = row.get(name)
  is_right = isinstance(value, kinds) and not isinstance(value, bool)
  if is_right and isinstance(value, (int, float)):
    is_right = abs(value) <= LARGEST_NUMBER
  if not is_right:
    raise UserError(
      f"{place}: {name}={text_files.format_value(value)} is not what a run "
      "writes. Run the evaluation again."
    )
  return value


def pick_list(
  row: Mapping[str, Any], name: str, kinds: Any, place: str
) -> list[Any]:
  """Returns a list of a row, whose items have one of some types.

  Raises:
    UserError: It is no such list.
  """
  values = pick(row, name, list, place)
  for value in values:
    pick({name: value}, name, kinds, place)
  return values
