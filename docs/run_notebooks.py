"""Runs the notebooks in docs/notebooks/, and writes them with their outputs.

    python docs/run_notebooks.py              # all of them
    python docs/run_notebooks.py look_inside

Each is a script, `<name>.py`, in the format `percent` of Jupytext. This program
runs it, and writes `<name>.ipynb` next to it. The notebooks use the model that
the environment variable BERT names, by default that of `make quickstart`. Needs
`pip install -e '.[docs]'`.
"""

from __future__ import annotations

import os
import pathlib
import sys

import jupytext
import nbclient
import nbformat

NOTEBOOKS = pathlib.Path(__file__).resolve().parent / "notebooks"
# Messages of TensorFlow's runtime are no part of the result. The rest of them
# goes to standard error, which is left out.
_ENVIRONMENT = {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONWARNINGS": "ignore"}
_SECONDS_OF_A_CELL = 600


def read_script(script: pathlib.Path) -> nbformat.NotebookNode:
  """Returns the notebook of a script, without outputs."""
  notebook = jupytext.read(script)
  for number, cell in enumerate(notebook.cells):
    cell.id = f"cell-{number}"  # by default random, another one in each run
  notebook.metadata = nbformat.from_dict(
    {
      "kernelspec": {
        "display_name": "Python 3",
        "language": "python",
        "name": "python3",
      },
      "language_info": {"name": "python"},
    }
  )
  return notebook


def run_script(script: pathlib.Path) -> nbformat.NotebookNode:
  """Returns the notebook of a script, with its outputs.

  Raises:
    nbclient.exceptions.CellExecutionError: A cell failed.
  """
  notebook = read_script(script)
  client = nbclient.NotebookClient(
    notebook,
    timeout=_SECONDS_OF_A_CELL,
    kernel_name="python3",
    resources={"metadata": {"path": str(script.parent)}},
    record_timing=False,
    coalesce_streams=True,
  )
  client.execute(env={**os.environ, **_ENVIRONMENT})
  for cell in notebook.cells:
    if cell.cell_type == "code":
      cell.outputs = [
        output for output in cell.outputs if output.get("name") != "stderr"
      ]
  return notebook


def main(names: list[str]) -> None:
  scripts = [NOTEBOOKS / f"{name}.py" for name in names]
  for script in scripts or sorted(NOTEBOOKS.glob("*.py")):
    nbformat.write(run_script(script), script.with_suffix(".ipynb"))
    print(f"{script.with_suffix('.ipynb')} is written.")


if __name__ == "__main__":
  main(sys.argv[1:])
