"""Files of measured numbers, from which docs/results.md is made.

A benchmark calls `define_flag` next to its own flags, and `write` at its end:

    result_files.define_flag()
    ...
    result_files.write(
      section="Speed",
      title="A training step, next to PyTorch transformers",
      rows=[
        {"type": "float32", "ours": 1.61, "unit": "s", "times as fast": 1.74},
        {"type": "bfloat16", "ours": 0.98, "unit": "s", "times as fast": 1.71},
      ],
      packages=("torch", "transformers"),
      note="Median of 7 turns.",
    )

The file is written if --results_file names one. Commit it as
benchmarks/results/<benchmark>.json, and run `python docs/write_results.py`,
which puts its table on the page, with command, date, machine and versions. The
sections of the page are listed there.
"""

from collections.abc import Iterable, Mapping, Sequence
import datetime
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
from typing import Any

from absl import flags

FLAGS = flags.FLAGS

# Flags that say nothing about the measurement.
_LEFT_OUT = ("--results_file", "--peer_python")


def define_flag() -> None:
  """Defines --results_file."""
  flags.DEFINE_string(
    "results_file",
    None,
    "JSON file to write the results to, such as "
    "benchmarks/results/training_step.json; no file if this is not set.",
  )


def write(
  section: str,
  title: str,
  rows: Sequence[Mapping[str, Any]],
  packages: Sequence[str] = (),
  peer_python: str | None = None,
  note: str = "",
) -> None:
  """Writes the results of this process, if --results_file names a file.

  Args:
    section: Heading of docs/results.md under which the table stands.
    title: The measured quantity, in a few words.
    rows: Rows of the table: name of a column -> text or number. Numbers are
      shown as they are, so round them to the digits that mean something. Rows
      may lack columns. A column `unit` says what the numbers of a row are.
    packages: Packages whose versions matter, besides TensorFlow.
    peer_python: Interpreter that has these packages, if it is another one.
    note: A sentence about how it was measured.
  """
  if not FLAGS.results_file:
    return
  versions = _find_versions(("tensorflow",), sys.executable)
  found = _find_versions(packages, peer_python or sys.executable)
  versions.update((name, found[name]) for name in packages if name in found)
  content = {
    "section": section,
    "title": title,
    "kind": "measured",
    "command": _describe_command(sys.argv),
    "date": datetime.date.today().isoformat(),
    "machine": describe_machine(),
    "versions": versions,
    "note": note,
    "rows": list(rows),
  }
  text = json.dumps(content, indent=2, ensure_ascii=False)
  with open(FLAGS.results_file, "w", encoding="utf-8") as writer:
    writer.write(text + "\n")


def describe_machine() -> str:
  """Returns the processor, how many cores this process may use, and the GPU."""
  cores = len(os.sched_getaffinity(0))
  machine = f"{_find_processor()}, {cores} core{'s' if cores > 1 else ''}"
  gpu = _find_gpu()
  return f"{machine}, {gpu}" if gpu else machine


def _find_processor() -> str:
  """Returns the name of the processor, as Linux knows it."""
  with open("/proc/cpuinfo", encoding="utf-8") as reader:
    for line in reader:
      if line.startswith("model name"):
        return line.split(":", 1)[1].strip()
  return platform.machine()


def _find_gpu() -> str:
  """Returns the names of NVIDIA's GPUs, or "" without one."""
  program = shutil.which("nvidia-smi")
  if not program:
    return ""
  answer = subprocess.run(
    [program, "--query-gpu=name", "--format=csv,noheader"],
    capture_output=True,
    text=True,
    check=False,
  )
  return ", ".join(answer.stdout.split("\n")).strip(", ")


def _find_versions(packages: Iterable[str], python: str) -> dict[str, str]:
  """Returns the versions of an interpreter and of the packages that it has."""
  script = (
    "import importlib.metadata, json, platform, sys\n"
    "versions = {'python': platform.python_version()}\n"
    "for name in sys.argv[1:]:\n"
    "  try:\n"
    "    versions[name] = importlib.metadata.version(name)\n"
    "  except importlib.metadata.PackageNotFoundError:\n"
    "    pass\n"
    "print(json.dumps(versions))\n"
  )
  answer = subprocess.run(
    [python, "-c", script, *packages],
    capture_output=True,
    text=True,
    check=True,
  )
  return json.loads(answer.stdout)


def _describe_command(arguments: Sequence[str]) -> str:
  """Returns a command without what only this machine has.

  Args:
    arguments: Path of the program, and its flags.
  """
  program, *rest = arguments
  words = ["python", "benchmarks/" + os.path.basename(program)]
  is_left_out = False
  for word in rest:
    name, has_value, value = word.partition("=")
    if name in _LEFT_OUT:
      is_left_out = not has_value  # then the next word is the value
    elif is_left_out:
      is_left_out = False
    elif word.startswith("--") and has_value:
      words.append(f"{name}={shlex.quote(_shorten_path(value))}")
    else:
      words.append(shlex.quote(_shorten_path(word)))
  return " ".join(words)


def _shorten_path(value: str) -> str:
  """Returns the last part of an absolute path."""
  return os.path.basename(value) if os.path.isabs(value) else value
