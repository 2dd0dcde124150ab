"""Tests of the notebooks in docs/notebooks/ and of docs/run_notebooks.py."""

import pathlib
import shutil

import nbformat
import pytest
import run_notebooks

SCRIPTS = sorted(run_notebooks.NOTEBOOKS.glob("*.py"))


def read_sources(notebook):
  return [(cell.cell_type, cell.source) for cell in notebook.cells]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_notebooks_are_up_to_date_and_have_outputs(script):
  notebook = nbformat.read(script.with_suffix(".ipynb"), as_version=4)
  expected = run_notebooks.read_script(script)
  assert read_sources(notebook) == read_sources(expected), (
    "run `python docs/run_notebooks.py`"
  )
  outputs = [
    output
    for cell in notebook.cells
    if cell.cell_type == "code"
    for output in cell.outputs
  ]
  assert len(outputs) > 3
  assert "error" not in {output.output_type for output in outputs}
  size = script.with_suffix(".ipynb").stat().st_size
  assert size < 500_000


@pytest.mark.large
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_notebooks_run(script, project_dir, monkeypatch):
  monkeypatch.setenv("BERT", "tiny")
  # The notebook looks for the project in its own folder and above.
  copy = shutil.copy(script, project_dir)
  notebook = run_notebooks.run_script(pathlib.Path(copy))
  assert len(notebook.cells) > 5
  assert list((project_dir / "runs" / script.stem).iterdir())
