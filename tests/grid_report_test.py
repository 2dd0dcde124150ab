"""Tests of grid_report.py."""

import json

import html_pages
import pytest

import errors
from reports import run_report


@pytest.fixture
def results(tmp_path):
  """Folder of run_glue.py with two settings and two seeds of RTE."""
  (tmp_path / "RTE" / "batch4_rate0.002_seed1").mkdir(parents=True)
  (tmp_path / "RTE" / "batch4_rate0.002_seed1" / "report.html").write_text("")
  grid = [(4, 0.001, 0.5), (4, 0.002, 0.75)]
  summary = {
    "score": 0.75,
    "num_tasks": 1,
    "columns": {"RTE": {"accuracy": {"mean": 0.75, "deviation": 0.01}}},
    "tasks": {
      "rte": {
        "batch_size": 4,
        "learning_rate": 0.002,
        "grid": [
          dict(batch_size=size, learning_rate=rate, score=score)
          for size, rate, score in grid
        ],
        "seeds": [
          {"seed": seed, "scores": {"eval_accuracy": score}}
          for seed, score in [(1, 0.75), (2, 0.625)]
        ],
      }
    },
  }
  (tmp_path / "results.json").write_text(json.dumps(summary))
  return tmp_path


def test_the_grid_leads_to_the_pages_of_its_runs(results):
  page = html_pages.read_page(results)
  assert page.cells[page.cells.index("4") :][:3] == ["4", "50.0", "75.0"]
  links = [a["href"] for a in page.attributes("a") if "/" in a["href"]]
  # Once from the grid and once from the list of seeds.
  assert links == ["RTE/batch4_rate0.002_seed1/report.html"] * 2
  (figure,) = page.attributes("figure")
  (curve,) = json.loads(figure["data-curves"])
  assert [point[1:] for point in curve["points"]] == [
    ["1", "0.75"],
    ["2", "0.625"],
  ]
  assert "75.0 ± 1.0" in page.cells


def test_damaged_results_are_refused(results):
  path = results / "results.json"
  path.write_text(path.read_text().replace('"seeds"', '"x"'))
  with pytest.raises(errors.UserError, match=r"results\.json is damaged"):
    run_report.make_page(str(results))
