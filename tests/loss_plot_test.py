"""Tests of loss_plot.py."""

import json

import pytest

import errors
from reports import loss_plot


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
  assert loss_plot.read_curves(run(LINES + end), "loss") == (
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
    loss_plot.read_curves(run(LINES + line + "\n" + LINES), "loss")


def test_the_same_logs_give_the_same_picture(run):
  runs = [run(LINES, "a $b{$"), run(LINES + LINES, "c$")]
  for together in (False, True):
    picture = loss_plot.make_picture(runs, "loss", together)
    assert picture.startswith(b"\x89PNG")
    assert picture == loss_plot.make_picture(runs, "loss", together)


def test_runs_have_a_plot_each_unless_they_share_one(run):
  runs = [run(LINES, "a"), run(LINES, "b")]
  apart, together = (
    loss_plot.make_picture(runs, "loss", together) for together in (False, True)
  )
  # The width is the first field of the header of a PNG file.
  widths = [int.from_bytes(file[16:20], "big") for file in (apart, together)]
  assert widths[0] == 2 * widths[1]


def test_what_has_no_such_curve_is_refused(run, tmp_path):
  with pytest.raises(errors.UserError, match="training_log.jsonl does not exi"):
    loss_plot.make_picture([str(tmp_path)], "loss", False)
  with pytest.raises(errors.UserError, match="No line of .* has --loss=span"):
    loss_plot.make_picture([run(LINES)], "span_loss", False)
