"""Tests of subcommands.py, and of what pyproject.toml installs."""

import re
import subprocess
import sys

import builders

from command_line import subcommands


def run_bert(folder, *arguments):
  return subprocess.run(
    [sys.executable, "-c", SCRIPT, *arguments],
    cwd=folder,
    capture_output=True,
    text=True,
    timeout=120,
  )


SCRIPT = (
  f"import sys; sys.path.insert(0, {str(builders.ROOT)!r})\n"
  "from command_line import subcommands\n"
  "sys.exit(subcommands.run_program())"
)


def test_program_runs_from_any_folder(tmp_path):
  result = run_bert(tmp_path, "create_vocabulary", "--vocab_siz=100")
  assert result.returncode == 1
  assert result.stderr.startswith("create_vocabulary.py: There is no flag")
  assert "Did you mean --vocab_size?" in result.stderr
  text = "the cat sat on the mat\n" * 20
  (tmp_path / "text.txt").write_text(text)
  result = run_bert(
    tmp_path,
    "create_vocabulary",
    "--input_file=text.txt",
    "--output_dir=made",
    "--vocab_size=30",
    "--num_unused_tokens=0",
  )
  assert result.returncode == 0, result.stderr
  assert "[MASK]\n" in (tmp_path / "made" / "vocab.txt").read_text()


def test_help_lists_the_programs_with_a_line_each(tmp_path):
  result = run_bert(tmp_path, "--help")
  assert result.returncode == 0
  for name, summary in subcommands.find_programs().items():
    assert f"  {name}\n      {summary}\n" in result.stdout
  assert "  run_squad\n" in result.stdout


def test_mistyped_program_is_answered(tmp_path):
  result = run_bert(tmp_path, "run_clasifier")
  assert result.returncode == 1
  assert "Did you mean run_classifier" in result.stderr


def test_former_program_names_its_replacement(tmp_path):
  result = run_bert(tmp_path, "predict_masked.py", "--text=[MASK]")
  assert result.returncode == 1
  assert "predict_masked is now part of predict." in result.stderr


def test_all_modules_are_installed():
  text = (builders.ROOT / "pyproject.toml").read_text(encoding="utf-8")
  setuptools = {
    name: re.findall(r'"(\w+)"', names)
    for name, names in re.findall(r"^([\w-]+) = \[([^]]*)\]", text, re.M)
  }
  modules = [path.stem for path in builders.ROOT.glob("*.py")]
  assert sorted(setuptools["py-modules"]) == sorted(modules)
  packages = [
    path.parent.name
    for path in builders.ROOT.glob("*/__init__.py")
    if path.parent.name != "tests"
  ]
  assert sorted(setuptools["packages"]) == sorted(packages)
