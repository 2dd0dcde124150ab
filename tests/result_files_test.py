"""Tests of benchmarks/result_files.py."""

import importlib.util
import json
import sys

from absl import flags
import builders
import pytest


@pytest.fixture
def result_files(monkeypatch):
  """The module, with its flag."""
  path = builders.ROOT / "benchmarks" / "result_files.py"
  spec = importlib.util.spec_from_file_location("result_files", path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  monkeypatch.setattr(module, "FLAGS", flags.FlagValues())
  flags.DEFINE_string(
    "results_file", None, "", flag_values=module.FLAGS, module_name="test"
  )
  return module


def test_files_have_rows_command_and_versions(
  result_files, tmp_path, monkeypatch
):
  path = tmp_path / "x.json"
  command = ["/home/me/benchmarks/x.py", "--text_file=/data/my books.txt"]
  command += ["--peer_python", "/env/python", "--turns=3", "--size", "tiny"]
  monkeypatch.setattr(sys, "argv", [*command, f"--results_file={path}"])
  result_files.FLAGS([*command[:1], f"--results_file={path}"])
  rows = [{"type": "float32", "seconds": 1.5}]
  result_files.write("Speed", "A step", rows, ["numpy", "absent"], note="A.")
  content = json.loads(path.read_text())
  assert content.pop("command") == (
    "python benchmarks/x.py --text_file='my books.txt' --turns=3 --size tiny"
  )
  assert content.pop("machine").endswith(" cores")
  assert content.pop("date")
  assert set(content.pop("versions")) == {"python", "tensorflow", "numpy"}
  assert content == {
    "section": "Speed",
    "title": "A step",
    "kind": "measured",
    "note": "A.",
    "rows": rows,
  }


def test_nothing_is_written_without_the_flag(result_files, tmp_path):
  result_files.FLAGS(["x.py"])
  result_files.write("Speed", "A step", [])
  assert not list(tmp_path.iterdir())


def test_every_benchmark_can_write_its_results():
  for path in builders.ROOT.glob("benchmarks/*.py"):
    source = path.read_text(encoding="utf-8")
    if "app.run(" in source:
      assert "result_files.define_flag()" in source, path.name
      assert "result_files.write(" in source, path.name
