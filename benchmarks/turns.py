"""Contestants of a benchmark: processes that work when it is their turn."""

from collections.abc import Iterator, Mapping
import json
import os
import subprocess
import sys
import time
from typing import Any


def answer_turns(facts: Mapping[str, Any]) -> Iterator[None]:
  """Answers each line on standard input with the seconds of a turn.

  A contestant calls this in its process. `next` of the result ends a turn and
  waits for the next one.

  Args:
    facts: Facts about the contestant, which are part of every answer.
  """
  channel = os.fdopen(os.dup(1), "w")
  os.dup2(2, 1)  # libraries that print do so to standard error
  while True:
    if not sys.stdin.readline():
      os._exit(0)
    start = time.perf_counter()
    yield
    answer = {"seconds": time.perf_counter() - start, **facts}
    channel.write(json.dumps(answer) + "\n")
    channel.flush()


class Contestant:
  """A process that takes turns.

  Attributes:
    seconds: Seconds of its turns.
    facts: Facts that it gave about itself.
  """

  def __init__(
    self,
    program: str,
    role: str,
    python: str,
    settings: Mapping[str, Any],
    num_warmups: int,
  ):
    """Starts the process, and lets it take turns that do not count.

    Args:
      program: Path of the program. It gets the flag --role, a JSON list of
        `role` and `settings`.
      role: Role of the process.
      python: Interpreter of the process.
      settings: Settings of the process.
      num_warmups: Number of turns in which it compiles and allocates memory.
    """
    self.seconds: list[float] = []
    self.facts: dict[str, Any] = {}
    self._process = subprocess.Popen(
      [python, program, f"--role={json.dumps([role, settings])}"],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for _ in range(num_warmups):
      self.facts = self._run_turn()

  def _run_turn(self) -> dict[str, Any]:
    self._process.stdin.write("go\n")
    self._process.stdin.flush()
    line = self._process.stdout.readline()
    if not line:
      sys.exit(self._process.communicate()[1])
    return json.loads(line)

  def take_turn(self) -> None:
    """Lets the process work, and records the seconds."""
    self.seconds.append(self._run_turn()["seconds"])

  def leave(self) -> None:
    """Ends the process."""
    self._process.kill()
    self._process.wait()
