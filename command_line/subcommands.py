"""The command `bert`, whose subcommands are the programs.

    bert run_classifier --task_name=MRPC ...

is the same as `python run_classifier.py --task_name=MRPC ...` in the folder of
the project.
"""

from __future__ import annotations

import ast
import difflib
import os
import runpy
import sys

# Program that is gone -> the program that does its work.
_REPLACEMENTS = {"predict_masked": "predict", "plot_training": "report"}
_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def find_programs() -> dict[str, str]:
  """Returns name of a program -> the first line of its docstring."""
  programs = {}
  for file in sorted(os.listdir(_ROOT)):
    name, suffix = os.path.splitext(file)
    if suffix != ".py":
      continue
    with open(os.path.join(_ROOT, file), encoding="utf-8") as source:
      text = source.read()
    if "launch.run(" in text and name != "launch":
      docstring = ast.get_docstring(ast.parse(text)) or ""
      programs[name] = docstring.partition("\n")[0]
  return programs


def run_program() -> str | None:
  """Runs the program that the first argument names; returns what is wrong."""
  programs = find_programs()
  name, *arguments = sys.argv[1:] or ["--help"]
  name = name.removesuffix(".py")
  if name in ("--help", "-h", "help"):
    sys.stdout.write(_help_text(programs))
    return None
  if name in _REPLACEMENTS:
    new_name = _REPLACEMENTS[name]
    return f"bert: {name} is now part of {new_name}. bert {new_name} --help."
  if name not in programs:
    similar = difflib.get_close_matches(name, programs, 3, 0.5)
    hint = f" Did you mean {' or '.join(similar)}?" if similar else ""
    return f"bert: There is no program {name}.{hint} bert --help lists them."
  path = os.path.join(_ROOT, name + ".py")
  sys.argv = [path, *arguments]
  sys.path.insert(0, _ROOT)
  runpy.run_path(path, run_name="__main__")
  return None


def _help_text(programs: dict[str, str]) -> str:
  lines = ["bert PROGRAM --flag=value ...", "", "Programs:"]
  for name, summary in programs.items():
    lines += [f"  {name}", f"      {summary}"]
  lines += ["", "bert PROGRAM --help shows the flags of a program.", ""]
  return "\n".join(lines)
