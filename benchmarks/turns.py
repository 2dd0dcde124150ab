"""Contestants of a benchmark: processes that work when it is their turn."""

from collections.abc import Iterator, Mapping
import json
import os
import subprocess
import sys
import time


def answer_turns(facts: Mapping[str, object]) -> Iterator[None]:
  """Answers each line on standard input with the seconds of a turn.

  Called in the process of a contestant. `next` of what it returns ends a turn
  and waits for the next one; the answers carry `facts`.
  """
  channel = os.fdopen(os.dup(1), "w")
  os.dup2(2, 1)  # what libraries print goes to standard error
  while True:
    if not sys.stdin.readline():
      os._exit(0)
    start = time.perf_counter()
    yield
    channel.write(
      json.dumps({"seconds": time.perf_counter() - start, **facts}) + "\n"
    )
    channel.flush()


class Contestant:
  """A process that takes turns.

  Attributes:
    seconds: of its turns.
    facts: what it says of itself.
  """

  def __init__(
    self,
    program: str,
    role: str,
    python: str,
    settings: Mapping[str, object],
    num_warmups: int,
  ):
    """Starts the process and lets it take turns that do not count.

    Args:
      program: path of the program, which gets the flag --role, a JSON list of
        `role` and `settings`.
      role: what the process is.
      python: its interpreter.
      settings: what it should do.
      num_warmups: turns in which it compiles and grows its memory.
    """
    self.seconds = []
    self._process = subprocess.Popen(
      [python, program, f"--role={json.dumps([role, settings])}"],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for _ in range(num_warmups):
      self.facts = self._turn()

  def _turn(self):
    self._process.stdin.write("go\n")
    self._process.stdin.flush()
    line = self._process.stdout.readline()
    if not line:
      sys.exit(self._process.communicate()[1])
    return json.loads(line)

  def take_turn(self) -> None:
    self.seconds.append(self._turn()["seconds"])

  def leave(self) -> None:
    self._process.kill()
    self._process.wait()
