"""Makes the page of a run: report.html, one file that opens in any browser.

    python report.py --run=/tmp/mrpc
    python report.py --run=/tmp/mrpc,/tmp/mrpc_large --output_file=both.html

A run is the --output_dir of a program that trains, evaluates or predicts. These
programs write the page themselves; this one makes it again, or for runs that
have none. Several runs come next to each other on one page.

--output_file=loss.png draws the loss curves instead, for papers and slides.
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
from reports import loss_plot
from reports import page
from reports import records_report
from reports import run_log
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
    "HTML file to write, or a file .png for a picture of the loss curves; by "
    "default report.html in the folder of the run. Several runs and records "
    "need it.",
  )
  flags.DEFINE_string(
    "loss",
    "loss",
    "Curve of the picture: loss, or a part of it that the logs have, such as "
    "masked_lm_loss.",
  )
  flags.DEFINE_bool(
    "together", False, "Whether the picture shows all runs in one plot."
  )


def check_flags() -> None:
  """Raises a UserError if flags contradict each other."""
  if not FLAGS.run:
    raise UserError("--run names no folder. Pass an --output_dir.")
  path = FLAGS.output_file
  if not path and not _is_one_run():
    raise UserError(
      f"--run={','.join(FLAGS.run)} is not the folder of one run: pass "
      "--output_file for the page."
    )
  if path and _is_picture(path):
    if FLAGS.vocab_file:
      raise UserError(
        f"--output_file={path}: records have no curves. Pass a file .html, or "
        "no --vocab_file."
      )
    return
  for name in ("loss", "together"):
    if FLAGS[name].present:
      raise UserError(
        f"--{name} is about a picture of curves: pass a file .png as "
        "--output_file."
      )


def main(_):
  is_one_run = _is_one_run()
  path = FLAGS.output_file or os.path.join(FLAGS.run[0], run_report.FILE)
  records = []
  if FLAGS.vocab_file:
    records = file_names.find_files(",".join(FLAGS.run), "--run")
  file_io.check_not_inputs(
    {"--output_file": [path]},
    {
      "--run": records or map(run_log.log_file, FLAGS.run),
      "--vocab_file": [FLAGS.vocab_file] if records else [],
    },
  )
  if _is_picture(path):
    content = loss_plot.make_picture(FLAGS.run, FLAGS.loss, FLAGS.together)
  elif records:
    html = records_report.make_page(records, FLAGS.vocab_file)
    content = page.encode(html)
  elif is_one_run:
    content = page.encode(run_report.make_page(FLAGS.run[0]))
  else:
    content = page.encode(comparison.make_page(FLAGS.run))
  _write(path, content)
  print(path)


def _is_one_run() -> bool:
  """Returns whether the page is about a single run."""
  return len(FLAGS.run) == 1 and not FLAGS.vocab_file


def _is_picture(path: str) -> bool:
  return path.lower().endswith(".png")


def _write(path: str, content: bytes) -> None:
  """Writes a file, unless another process is writing it."""
  with locks.Lock(f"{path}.lock", f"--output_file={path}"):
    file_io.remove_leftovers(os.path.dirname(path) or ".")
    file_io.write_bytes(path, content)


if __name__ == "__main__":
  define_flags()
  launch.run(main, check_flags, saves_at_signals=False)
