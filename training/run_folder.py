"""The names of the files in the folder of a run, `--output_dir`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import os
import re

from data import file_io
from errors import UserError
from training import training_log

# The files that programs write there, except those for predictions.
_OUTPUT_NAME = re.compile(
  r"checkpoint|checkpoint\.journal|model\.ckpt-.*|classifier\.json|"
  r"(train|eval|predict)(_\w+)?\.tf_record(\.stamp\.json)?|"
  r"training_log\.jsonl|eval_results\.txt|(train|predict)\.report\.json|"
  r"(nbest_)?predictions\.json|null_odds\.json|"
  r"test_(results|predictions|scores)(_\w+)?\.(tsv|txt|jsonl)|"
  r"(confusion_matrix|worst_mistakes)(_\w+)?\.tsv|"
  r"report\.html|report_((run|masks)\.json|(dev|test)(_\w+)?\.jsonl)"
)
# Split -> the name of its records in the original code.
_RECORD_NAMES = {"train": "train", "dev": "eval", "test": "predict"}


def record_path(output_dir: str, split: str) -> str:
  """Returns the path of the records of a split, such as `dev_mismatched`."""
  kind, *rest = split.split("_", 1)
  name = "_".join([_RECORD_NAMES[kind], *rest])
  return os.path.join(output_dir, name + ".tf_record")


def check_inputs_are_kept(
  output_dir: str, inputs: Mapping[str, Iterable[str]]
) -> None:
  """Checks that no input file has the name of a file that will be written.

  Args:
    output_dir: Folder of the run.
    inputs: Flag -> paths that are read.

  Raises:
    UserError: an input lies in `output_dir` and has such a name.
  """
  real_dir = os.path.realpath(output_dir)
  for flag, paths in inputs.items():
    for path in paths:
      folder, name = os.path.split(os.path.realpath(path))
      if folder == real_dir and _OUTPUT_NAME.fullmatch(name):
        raise UserError(
          f"{flag}: {path} is in --output_dir={output_dir} and has the name of "
          "a file that is written there. Choose another --output_dir."
        )


def write_results(
  output_dir: str, name: str, results: Mapping[str, float]
) -> None:
  """Logs results, and writes them as lines `name = value`, sorted by name."""
  lines = [f"{key} = {value}" for key, value in sorted(results.items())]
  training_log.log_lines("Results", lines)
  file_io.write_text(os.path.join(output_dir, name), "\n".join(lines) + "\n")
