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


def test_several_runs_need_a_file(run_program, tmp_path):
  for name in ("a", "b"):
    (tmp_path / name).mkdir()
    (tmp_path / name / "eval_results.txt").write_text("eval_f1 = 0.25\n")
  runs = f"{tmp_path / 'a'},{tmp_path / 'b'}"
  with pytest.raises(errors.UserError, match="pass --output_file"):
    run_program(report, run=runs)
  run_program(report, run=runs, output_file=tmp_path / "x.html")
  assert "a and b" in (tmp_path / "x.html").read_text()


def test_records_are_read_with_a_vocabulary(
  run_program, records, vocab_file, tmp_path
):
  path = tmp_path / "x.html"
  run_program(report, run=records, vocab_file=vocab_file, output_file=path)
  assert "As text" in path.read_text()
