"""Tests of plot_training.py."""

import json
import os

import pytest

import errors
import plot_training


@pytest.fixture
def run(tmp_path):
  """Function that writes the log of a run, and returns its folder."""

  def write(content, name="run"):
    folder = tmp_path / name
    folder.mkdir(exist_ok=True)
    (folder / "training_log.jsonl").write_text(content)
    return str(folder)

  return write


LINES = "".join(
  json.dumps(record) + "\n"
  for record in [
    {"step": 10, "loss": 3.0},
    {"step": 20, "loss": None},
    {"step": 20, "evaluation": {"loss": 2.5}},
    {"step": 25, "evaluation": {"loss": float("nan"), "f1": float("inf")}},
    {"step": 30, "loss": 2.0},
  ]
)


@pytest.mark.parametrize("end", ["", '{"step": 40, "lo', "\0" * 40])
def test_a_log_whose_last_line_is_cut_off(run, end):
  assert plot_training.read_log(run(LINES + end), "loss") == (
    [(10, 3.0), (30, 2.0)],
    [(20, 2.5)],
  )


@pytest.mark.parametrize(
  "line, message",
  [
    ('{"step": 40, "lo', "line 6: not JSON"),
    ("[1]", r"line 6 holds \[1\], not an object"),
    ('{"step": 40, "loss": "2"}', "line 6: loss='2' is no number"),
    ('{"step": 40, "loss": true}', "line 6: loss=True is no number"),
    ('{"step": 40, "loss": 1e200}', r"line 6: loss=1e\+200 is no number"),
    ('{"step": 4.5, "loss": 2}', "line 6: step=4.5 is no number"),
    ('{"loss": 2}', "line 6: step=None is no number"),
    ('{"step": 1%s, "loss": 2}' % ("0" * 400), "line 6: step=1000.* is no num"),
    ('{"step": 40, "evaluation": 2}', "line 6: evaluation=2 is no object"),
  ],
)
def test_damaged_lines_are_named(run, line, message):
  with pytest.raises(errors.UserError, match="training_log.jsonl, " + message):
    plot_training.read_log(run(LINES + line + "\n" + LINES), "loss")


def test_the_same_logs_give_the_same_file(run_program, run, tmp_path):
  runs = f"{run(LINES, 'a $b{$')},{run(LINES + LINES, 'c$')}"
  pictures = []
  for name in ("x.png", "y.png"):
    run_program(plot_training, runs=runs, output_file=tmp_path / name)
    pictures.append((tmp_path / name).read_bytes())
  assert pictures[0] == pictures[1]


def test_a_log_is_not_written_over(run_program, run):
  folder = run(LINES)
  with pytest.raises(errors.UserError, match="--output_file would write"):
    run_program(
      plot_training,
      runs=folder,
      output_file=os.path.join(folder, "..", "run", "training_log.jsonl"),
    )
  assert plot_training.read_log(folder, "loss")[0]


def test_no_run_is_refused(run_program, tmp_path):
  with pytest.raises(errors.UserError, match="--runs names no folder"):
    run_program(plot_training, runs="", output_file=tmp_path / "x.png")


def test_loss_curves_show_training_and_evaluations(run_program, tmp_path):
  run = tmp_path / "run"
  run.mkdir()
  (run / "training_log.jsonl").write_text(
    "".join(
      json.dumps(record) + "\n"
      for record in [
        {"step": 10, "loss": 3.0},
        {"step": 20, "loss": None},
        {"step": 20, "evaluation": {"loss": 2.5}},
        {"step": 30, "loss": 2.0},
      ]
    )
    + '{"step": 40, "lo'
  )  # killed while writing
  assert plot_training.read_log(str(run), "loss") == (
    [(10, 3.0), (30, 2.0)],
    [(20, 2.5)],
  )
  for together in (False, True):
    run_program(
      plot_training,
      runs=f"{run},{run}",
      together=together,
      output_file=tmp_path / "loss.png",
    )
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
  with pytest.raises(ValueError, match="training_log.jsonl does not exist"):
    run_program(plot_training, runs=tmp_path, output_file=tmp_path / "x.png")
  with pytest.raises(ValueError, match="No line of .* has --loss=span_loss"):
    run_program(
      plot_training, runs=run, loss="span_loss", output_file=tmp_path / "x.png"
    )
