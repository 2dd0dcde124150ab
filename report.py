"""Makes the page of a run: report.html, one file that opens in any browser.

    python report.py --run=/tmp/mrpc
    python report.py --run=/tmp/mrpc,/tmp/mrpc_large --output_file=both.html

A run is the --output_dir of a program that trains, evaluates or predicts. These
programs write the page themselves; this one makes it again, or for runs that
have none. Several runs come next to each other on one page.
"""

from __future__ import annotations

import launch  # First: from here on a signal ends the program quietly.

import os

from absl import flags

from command_line import flag_help
from command_line import input_paths
from data import file_io
from data import file_names
from data import locks
from errors import UserError
from reports import comparison
from reports import page
from reports import records_report
from reports import run_report

FLAGS = flags.FLAGS


@flag_help.group("Reports")
def define_flags() -> None:
  """Defines the flags of this program."""
  flags.DEFINE_list(
    "run",
    None,
    "Folder of a run, its --output_dir; or several, separated by commas, to "
    "compare. With --vocab_file, files of pre-training records.",
    required=True,
  )
  flags.DEFINE_string(
    "vocab_file",
    None,
    "Vocabulary of pre-training records, to show some of them as text.",
  )
  input_paths.mark("run", input_paths.check_files)
  input_paths.mark("vocab_file", input_paths.check_path)
  flags.DEFINE_string(
    "output_file",
    None,
    "HTML file to write; by default report.html in the folder of the run. "
    "Several runs and records need it.",
  )


def main(_):
  if not FLAGS.run:
    raise UserError("--run names no folder. Pass an --output_dir.")
  path = FLAGS.output_file
  is_one_run = len(FLAGS.run) == 1 and not FLAGS.vocab_file
  if not (path or is_one_run):
    raise UserError(
      f"--run={','.join(FLAGS.run)} is not the folder of one run: pass "
      "--output_file for the page."
    )
  if FLAGS.vocab_file:
    files = file_names.find_files(",".join(FLAGS.run), "--run")
    content = records_report.make_page(files, FLAGS.vocab_file)
  elif is_one_run:
    content = run_report.make_page(FLAGS.run[0])
    path = path or os.path.join(FLAGS.run[0], run_report.FILE)
  else:
    content = comparison.make_page(FLAGS.run)
  _write(path, content)
  print(path)


def _write(path: str, content: str) -> None:
  """Writes the page, unless another process is writing it."""
  with locks.Lock(f"{path}.lock", f"--output_file={path}"):
    file_io.remove_leftovers(os.path.dirname(path) or ".")
    page.write(path, content)


if __name__ == "__main__":
  define_flags()
  launch.run(main, saves_at_signals=False)
