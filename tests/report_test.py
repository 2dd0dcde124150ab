"""Tests of report.py."""

import pytest

import errors
import report


def test_the_page_of_an_earlier_run(run_program, tmp_path, capsys):
  (tmp_path / "eval_results.txt").write_text("eval_accuracy = 0.75\n")
  run_program(report, run=tmp_path)
  assert "0.75" in (tmp_path / "report.html").read_text()
  run_program(report, run=tmp_path, output_file=tmp_path / "other.html")
  assert (tmp_path / "other.html").exists()
  assert capsys.readouterr().out.splitlines() == [
    str(tmp_path / "report.html"),
    str(tmp_path / "other.html"),
  ]


def test_no_run_is_refused(run_program):
  with pytest.raises(errors.UserError, match="--run names no folder"):
    run_program(report, run="")
