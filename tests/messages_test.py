"""Tests of messages.py."""

import re
import subprocess
import sys

import builders
import pytest

START = (
  "import os, sys\n"
  "from absl import flags, logging\n"
  "from command_line import messages\n"
  "messages.set_up()\n"
  "flags.FLAGS(sys.argv)\n"
)


def stderr_of(script: str) -> str:
  result = subprocess.run(
    [sys.executable, "-c", START + script],
    cwd=builders.ROOT,
    stderr=subprocess.PIPE,
    text=True,
    timeout=60,
  )
  return result.stderr


def test_lines_are_short_and_warnings_say_so():
  lines = stderr_of("logging.info('a %s', 'b'); logging.warning('c')")
  time = r"\d\d-\d\d \d\d:\d\d:\d\d"
  assert re.fullmatch(rf"{time} a b\n{time} WARNING: c\n", lines)


@pytest.mark.parametrize("fails", [False, True])
def test_noise_is_shown_only_if_something_fails(fails):
  lines = stderr_of(
    "with messages.held_back():\n"
    "  os.write(2, b'noise\\n')\n"
    f"  if {fails}: raise ValueError('trouble')\n"
    "os.write(2, b'after\\n')\n"
  )
  if fails:
    assert lines.startswith("noise\n") and "trouble" in lines
  else:
    assert lines == "after\n"
