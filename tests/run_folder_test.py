"""Tests of run_folder.py, and of the last lines of programs."""

import re

import builders
import pytest

import common_flags
import errors
import run_classifier
from training import run_folder


@pytest.fixture
def run(tmp_path):
  """Folder with results of a run, of which one has many rows."""
  folder = tmp_path / "run"
  (folder / "export").mkdir(parents=True)
  scores = {"eval_loss": 0.25, "eval_accuracy": 0.987654, "global_step": 12}
  run_folder.write_results(str(folder), "eval_results.txt", scores)
  many = {f"score_{number:02d}": 0.5 for number in range(30)}
  run_folder.write_results(str(folder), "test_scores.txt", many)
  return folder


def test_table_has_the_values_that_are_written(run):
  lines = run_folder.summarize(str(run))
  assert lines[:4] == [
    "Scores in eval_results.txt:",
    "  eval_accuracy  0.9877",
    "  eval_loss      0.2500",
    "  global_step        12",
  ]
  assert (run / "eval_results.txt").read_text().splitlines() == [
    "eval_accuracy = 0.987654",
    "eval_loss = 0.25",
    "global_step = 12",
  ]
  assert lines[4] == "Scores in test_scores.txt:"
  assert lines[-3:] == [
    "  score_19  0.5000",
    "  and 10 more",
    f"Files in {run}: eval_results.txt, export, test_scores.txt",
  ]
  # The next run of this process does not show them again.
  assert len(run_folder.summarize(str(run))) == 1


def test_last_lines_are_warnings_then_scores_then_files_then_the_report(
  run, caplog
):
  builders.set_flags(
    run_classifier, task_name="MRPC", data_dir="x", output_dir=run
  )
  with caplog.at_level("INFO", logger="absl"):
    errors.warn_now_and_at_end("look at this")
    common_flags.write_report(1.0, [])
  messages = [record.getMessage() for record in caplog.records]
  warnings = [i for i, text in enumerate(messages) if text == "look at this"]
  assert len(warnings) == 2
  assert messages[warnings[1] + 1] == "Scores in eval_results.txt:"
  assert messages[-2].startswith(f"Files in {run}: eval_results.txt, export")
  assert messages[-1] == f"Report: {run}/report.html"
  assert (run / "report.html").exists()


def test_every_program_that_scores_ends_with_these_lines():
  scoring = [
    path
    for path in builders.ROOT.glob("run_*.py")
    if "launch.run(" in path.read_text(encoding="utf-8")
  ]
  assert len(scoring) == 7
  for path in scoring:
    text = path.read_text(encoding="utf-8")
    assert re.search(
      r"@launch\.owns\([^@]*finish=common_flags\.write_report,?\s*\)\ndef main",
      text,
    ), path
