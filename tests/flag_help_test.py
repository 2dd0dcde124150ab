"""Tests of flag_help.py."""

import pathlib
import subprocess
import sys

import builders
import pytest

PROGRAMS = [
  path.name
  for path in sorted(builders.ROOT.glob("*.py"))
  if "launch.run(" in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_shows_every_flag_without_tensorflow(program):
  result = subprocess.run(
    [sys.executable, "-X", "importtime", program, "--help"],
    cwd=builders.ROOT,
    capture_output=True,
    text=True,
    timeout=60,
  )
  assert result.returncode == 0, result.stderr[-1000:]
  assert "tensorflow.python" not in result.stderr
  text = result.stdout
  source = pathlib.Path(builders.ROOT / program).read_text(encoding="utf-8")
  assert text.startswith(source[3:].partition("\n")[0])
  assert "\n    " in text  # an example
  assert max(map(len, text.splitlines())) <= 80
  if "define_model_flags" in source:
    assert "Model:\n" in text and "--init_checkpoint=" in text
  if "define_training_flags" in source:
    assert "Examples per step" in text or "--train_batch_size=N" in text
    assert "Default: 32." in text
