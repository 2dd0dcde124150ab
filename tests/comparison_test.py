"""Tests of comparison.py."""

import json

import html_pages
import pytest

import errors
from reports import comparison
from reports import run_files


def write_run(folder, accuracy, losses, **flags):
  folder.mkdir()
  (folder / "eval_results.txt").write_text(f"eval_accuracy = {accuracy}\n")
  lines = [
    {"step": n, "loss": loss, "examples_per_second": 8.0}
    for n, loss in enumerate(losses, 1)
  ]
  log = "".join(json.dumps(line) + "\n" for line in lines)
  (folder / "training_log.jsonl").write_text(log)
  arguments = [f"--{name}={value}" for name, value in flags.items()]
  run_files.add_command(
    str(folder), run_files.Command("run_classifier.py", arguments, 1.0, [])
  )
  return str(folder)


def test_scores_curves_and_flags_of_two_runs(tmp_path):
  runs = [
    write_run(tmp_path / "a", 0.5, [3.0, 2.0], seed=1, learning_rate=0.1),
    write_run(tmp_path / "b<i>", 0.75, [1.5], seed=1, learning_rate=0.2),
  ]
  page = html_pages.Page(comparison.make_page(runs))
  place = page.cells.index("eval_accuracy")
  assert page.cells[place - 2 : place + 3] == [
    *("a", "b<i>"),
    *("eval_accuracy", "0.5", "0.75"),
  ]
  place = page.cells.index("steps")
  assert page.cells[place + 1 : place + 3] == ["2", "1"]
  figure, _ = page.attributes("figure")
  assert json.loads(figure["data-curves"])[1]["name"] == "b<i>"
  place = page.cells.index("--learning_rate")
  assert page.cells[place + 1 : place + 3] == ["0.1", "0.2"]
  assert "--seed" not in page.cells


def test_a_folder_without_a_run_is_refused(tmp_path):
  run = write_run(tmp_path / "a", 0.5, [1.0])
  (tmp_path / "empty").mkdir()
  with pytest.raises(errors.UserError, match="empty holds neither scores"):
    comparison.make_page([run, str(tmp_path / "empty")])
  with pytest.raises(errors.UserError, match="nowhere is no folder"):
    comparison.make_page([run, str(tmp_path / "nowhere")])
