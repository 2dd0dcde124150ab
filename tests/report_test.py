"""Tests of report.py."""

import shutil

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


@pytest.fixture
def run(tmp_path):
  folder = tmp_path / "run"
  folder.mkdir()
  (folder / "training_log.jsonl").write_text(
    '{"step": 10, "loss": 3.0, "part_loss": 1.0}\n'
    '{"step": 20, "loss": 2.0, "part_loss": 1.0}\n'
  )
  return folder


def test_a_file_png_is_a_picture_of_the_curves(run_program, run, tmp_path):
  other = tmp_path / "other"
  shutil.copytree(run, other)
  pictures = []
  for flags in ({}, {"loss": "part_loss"}, {"together": True}):
    path = tmp_path / "x.png"
    run_program(report, run=f"{run},{other}", output_file=path, **flags)
    pictures.append(path.read_bytes())
  assert len(set(pictures)) == 3
  assert pictures[0].startswith(b"\x89PNG")


def test_flags_that_do_not_fit_the_file_are_refused(
  run_program, run, vocab_file
):
  with pytest.raises(errors.UserError, match="--loss is about a picture"):
    run_program(report, run=run, loss="part_loss")
  with pytest.raises(errors.UserError, match="records have no curves"):
    run_program(report, run=run, vocab_file=vocab_file, output_file="x.png")


def test_files_that_are_read_are_not_written_over(
  run_program, run, records, vocab_file
):
  log = run / ".." / "run" / "training_log.jsonl"
  for flags in (
    {"run": run, "output_file": log},
    {"run": records, "vocab_file": vocab_file, "output_file": records},
    {"run": records, "vocab_file": vocab_file, "output_file": vocab_file},
  ):
    with pytest.raises(errors.UserError, match="--output_file would write"):
      run_program(report, **flags)
