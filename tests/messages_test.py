"""Tests of messages.py."""

import io
import logging
import re
import subprocess
import sys

import builders
import pytest

from command_line import messages

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


class Terminal(io.StringIO):
  """A standard error that is a terminal."""

  def isatty(self):
    return True


def test_progress_is_one_line_on_a_terminal_below_all_messages(monkeypatch):
  terminal = Terminal()
  monkeypatch.setattr(sys, "stderr", terminal)
  line = messages.ProgressLine(0.0)
  assert not line.is_due(0.05) and line.is_due(0.2)
  line.show("one", 1.0)
  line.show("two", 2.0)
  record = logging.makeLogRecord({"msg": "a message", "levelno": logging.INFO})
  messages._Formatter().format(record)
  line.show("x" * 500, 3.0)
  line.show("three", 4.0, is_last=True)
  messages.ProgressLine.make_room()
  *shown, after = terminal.getvalue().split("\r\x1b[K")[1:]
  assert shown[:3] == ["one", "two", ""]
  assert 20 < len(shown[3]) < 200  # a longer line would not be erased whole
  assert after == "three\n"


def test_progress_is_logged_now_and_then_elsewhere(monkeypatch, caplog):
  monkeypatch.setattr(sys, "stderr", io.StringIO())
  line = messages.ProgressLine(0.0)
  assert not line.is_due(9.0) and line.is_due(10.0)
  with caplog.at_level("INFO", logger="absl"):
    line.show("a line", 10.0)
  assert caplog.messages == ["a line"]
  line.erase()
  assert not sys.stderr.getvalue()
