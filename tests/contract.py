"""Tests that programs repeat, resume, stop and exclude each other as promised.

    python tests/contract.py --kills=1000 --output=/tmp/contract

A trial starts a program on tiny data, kills it several times at random moments
or before random file operations, lets it run to its end, and compares every
file with those of an undisturbed run. `summary.json` is saved after each trial,
and the same command continues an interrupted one. `contracts_test.py` makes
some of these trials.
"""

import argparse
import collections
from collections.abc import Iterator, Sequence
from concurrent import futures
import contextlib
import dataclasses
import json
import os
import pathlib
import queue
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from typing import NamedTuple

import contract_programs
from contract_programs import Program

_HERE = pathlib.Path(__file__).parent
_SECONDS_TO_START = 300.0
# A run hangs if it takes longer than the spare seconds plus the spare factor
# times the seconds of an undisturbed run.
_SPARE_SECONDS, _SPARE_FACTOR = 300.0, 40.0
_SECONDS_OF_SLOWEST = 20.0  # assumed before the first run of a program
_SECONDS_TO_VANISH = 120.0  # for processes whose parent has ended
_POLL_SECONDS = 0.005
_NUM_SHOWN = 3  # problems of one kind
_NEVER = 10**9  # more file operations than any program makes

EXIT_CODES = {signal.SIGTERM: 75, signal.SIGINT: 130}

# Files that a run must not leave behind.
_LEFTOVER = re.compile(
  r"(\.unfinished|_temp|\.parts|\.part|\.part\.json|\.lock|(^|/)\.[^/]*)(/|$)"
)
# Files that a program rewrites while it runs.
_REWRITTEN = re.compile(
  r"(^|/)(checkpoint|training_log\.jsonl|report_masks\.json)$"
)
_WEIGHTS = re.compile(r"^out/(model\.ckpt-(\d+)\..*|checkpoint)$")
_REFUSAL = re.compile(
  r" is in use: (\S+) \(process (\d+) on \S+, since [^)]*\) writes there\."
)


class Problem(NamedTuple):
  """Something that a program did wrong."""

  kind: str
  text: str


def merge_problems(problems: list[Problem]) -> list[Problem]:
  """Joins the problems of each kind: the first in full, the names of others."""
  by_kind = collections.defaultdict(list)
  for problem in dict.fromkeys(problems):
    by_kind[problem.kind].append(problem.text)
  return [
    Problem(
      kind,
      "; ".join(
        texts[:_NUM_SHOWN]
        + (
          [
            f"{len(texts) - _NUM_SHOWN} more: "
            + ", ".join(text.split(" ", 1)[0] for text in texts[_NUM_SHOWN:])
          ]
          if len(texts) > _NUM_SHOWN
          else []
        )
      ),
    )
    for kind, texts in by_kind.items()
  ]


class Run:
  """A program that a `ProgramServer` started."""

  def __init__(self, server: "ProgramServer", pid: int, log: pathlib.Path):
    self._server = server
    self.pid = pid
    self._log = log

  def wait(self, seconds: float | None = None) -> int | None:
    """Returns the exit status, or None if the program runs longer."""
    return self._server.wait(self.pid, seconds)

  def send(self, number: int) -> None:
    if self.wait(0) is None:
      with contextlib.suppress(ProcessLookupError):  # it has just ended
        os.kill(self.pid, number)

  def stop(self) -> None:
    """Stops the process, and returns when it has stopped or ended."""
    self.send(signal.SIGSTOP)
    deadline = time.monotonic() + _SECONDS_TO_VANISH
    while self.wait(_POLL_SECONDS) is None and _state(self.pid)[0] != "T":
      if time.monotonic() > deadline:
        raise TimeoutError(f"Process {self.pid} does not stop.")

  def resume(self) -> None:
    self.send(signal.SIGCONT)

  def log(self) -> str:
    try:
      return self._log.read_text(errors="replace")
    except FileNotFoundError:
      return ""  # the program has just started

  def wait_for_line(self, pattern: str, seconds: float) -> bool:
    """Returns whether the log has a matching line before the program ends."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
      has_ended = self.wait(_POLL_SECONDS) is not None
      if re.search(pattern, self.log()):
        return True
      if has_ended:
        break
    return False

  def remaining_processes(self) -> list[int]:
    """Returns the processes of the session that outlive the run."""
    deadline = time.monotonic() + _SECONDS_TO_VANISH
    while processes := _processes_of_session(self.pid):
      if time.monotonic() > deadline:
        return processes
      time.sleep(_POLL_SECONDS)
    return []


def _state(process: int) -> tuple[str, int]:
  """Returns the state of a process, as a letter, and its session."""
  try:
    stat = pathlib.Path("/proc", str(process), "stat").read_text()
  except OSError:
    return "Z", 0  # the process has just ended
  state, _, _, session = stat.rpartition(")")[2].split()[:4]
  return state, int(session)


def _processes_of_session(session: int) -> list[int]:
  """Returns the running processes of a session."""
  states = {
    int(entry): _state(int(entry))
    for entry in os.listdir("/proc")
    if entry.isdigit()
  }
  return [
    process
    for process, (state, its_session) in states.items()
    if its_session == session and state != "Z"
  ]


class ProgramServer:
  """Client of `program_server.py`, as a context manager."""

  def __init__(self, hash_seed: int):
    self._hash_seed = hash_seed
    self._ended = {}
    self._started = queue.Queue()
    self._changed = threading.Condition()
    self._start_lock = threading.Lock()
    self._process = None

  def __enter__(self) -> "ProgramServer":
    self._process = subprocess.Popen(
      [sys.executable, _HERE / "program_server.py"],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL,
      text=True,
      env={
        **os.environ,
        "PYTHONHASHSEED": str(self._hash_seed),
        "TF_CPP_MIN_LOG_LEVEL": "3",
      },
    )
    threading.Thread(target=self._read_answers, daemon=True).start()
    self._started.get(timeout=_SECONDS_TO_START)
    return self

  def __exit__(self, *unused_exception) -> None:
    self._process.stdin.close()
    try:
      self._process.wait(_SECONDS_TO_START)
    finally:
      self._process.kill()

  def _read_answers(self) -> None:
    for line in self._process.stdout:
      answer = json.loads(line)
      if "ended" not in answer:
        # The system gives the number of a process that has ended to another.
        with self._changed:
          self._ended.pop(answer.get("started"), None)
        self._started.put(answer)
        continue
      with self._changed:
        self._ended[answer["ended"]] = answer["status"]
        self._changed.notify_all()

  def start(
    self,
    program: Program,
    inputs: "Inputs",
    folder: pathlib.Path,
    log: pathlib.Path,
    dies_at: int | None = None,
    **values,
  ) -> Run:
    """Starts a program.

    Args:
      program: The command.
      inputs: Values of `{inputs}` and `{server}` in its arguments.
      folder: Working directory.
      log: New file for the messages of the program.
      dies_at: Number of the file operation before which the program dies.
      **values: Values of other names in braces.
    """
    arguments = [
      argument.format(inputs=inputs.folder, server=inputs.server, **values)
      for argument in program.arguments
    ]
    with self._start_lock:
      self._process.stdin.write(
        json.dumps(
          {
            "program": program.program,
            "arguments": arguments,
            "folder": str(folder),
            "log": str(log),
            "environment": {},
            "dies_at": dies_at,
          }
        )
        + "\n"
      )
      self._process.stdin.flush()
      pid = self._started.get(timeout=_SECONDS_TO_START)["started"]
    return Run(self, pid, log)

  def wait(self, pid: int, seconds: float | None) -> int | None:
    """Returns the exit status of a process, or None if it runs longer."""
    with self._changed:
      self._changed.wait_for(lambda: pid in self._ended, seconds)
      return self._ended.get(pid)


# --- Files -------------------------------------------------------------------


class Inputs:
  """Folder of the files that commands read."""

  def __init__(self, folder: pathlib.Path, server: str):
    self.folder = folder
    self.server = server

  def make_for(self, program: Program, server: ProgramServer) -> None:
    """Makes the files that a command reads, unless they exist.

    Raises:
      RuntimeError: A program that makes files failed.
    """
    if not self.folder.exists():
      temporary = self.folder.with_suffix(".unfinished")
      contract_programs.write_inputs(temporary)
      temporary.rename(self.folder)
    for argument in program.arguments:
      for name in re.findall(r"{inputs}/(\w+)/", argument):
        if name in contract_programs.PREPARATIONS:
          self._prepare(contract_programs.PREPARATIONS[name], server)

  def _prepare(self, program: Program, server: ProgramServer) -> None:
    folder = self.folder / program.name
    if folder.exists():
      return
    self.make_for(program, server)
    temporary = folder.with_suffix(".unfinished")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    run = server.start(program, self, temporary, temporary / "log")
    if run.wait(_SECONDS_TO_START) != 0:
      raise RuntimeError(f"{program.name}: {run.log()}")
    temporary.rename(folder)


def read_files(folder: pathlib.Path, program: Program) -> dict[str, bytes]:
  """Returns the content of the files that a program wrote, by name.

  Names of empty folders end in "/". Files of other people are left out. Content
  that may differ between runs is left empty.
  """
  files = {}
  for parent, folders, names in os.walk(folder):
    parent = pathlib.Path(parent)
    for name in names:
      relative = str((parent / name).relative_to(folder))
      if relative in program.files_of_others:
        continue
      try:
        content = (parent / name).read_bytes()
      except FileNotFoundError:
        continue  # a worker that still runs has removed it
      if any(re.search(pattern, relative) for pattern in program.unequal):
        content = b""
      for pattern in program.times:
        content = re.sub(pattern, b"", content)
      files[relative] = content
    if not folders and not names:
      files[str(parent.relative_to(folder)) + "/"] = b""
  return files


def _without_events(files: dict[str, bytes]) -> dict[str, bytes]:
  """Returns all files except those that each process names differently."""
  return {
    name: content
    for name, content in files.items()
    if "/events.out.tfevents." not in name
  }


def _without_older_weights(files: dict[str, bytes]) -> dict[str, bytes]:
  """Returns all files except older checkpoints of a run."""
  steps = [
    int(match[2]) for match in map(_WEIGHTS.match, files) if match and match[2]
  ]
  return {
    name: content
    for name, content in files.items()
    if not (match := _WEIGHTS.match(name))
    or match[2]
    and int(match[2]) == max(steps)
  }


def _times_of_files(folder: pathlib.Path) -> dict[str, int]:
  """Returns the time of the last change of each file and folder."""
  return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


def write_files_of_others(folder: pathlib.Path, program: Program) -> None:
  """Writes the files that the program must leave alone."""
  for name in program.files_of_others:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"not ours: {name}")


def _problems_of_others(
  folder: pathlib.Path, program: Program
) -> list[Problem]:
  """Returns the files of other people that the program removed or changed."""
  problems = []
  for name in program.files_of_others:
    path = folder / name
    if not path.exists():
      problems.append(Problem("others", f"{name} was removed"))
    elif path.read_text() != f"not ours: {name}":
      problems.append(Problem("others", f"{name} was changed"))
  return problems


def _differences(
  files: dict[str, bytes], expected: dict[str, bytes], kind: str = "difference"
) -> list[Problem]:
  """Returns files that are missing, differ, or should not be there."""
  problems = [
    Problem("leftover", name) for name in files if name not in expected
  ]
  for name, content in expected.items():
    if name not in files:
      problems.append(Problem(kind, f"{name} is missing"))
    elif files[name] != content:
      place = next(
        (i for i, (a, b) in enumerate(zip(files[name], content)) if a != b),
        min(len(files[name]), len(content)),
      )
      problems.append(
        Problem(
          kind,
          (
            f"{name} differs from byte {place} on: {len(files[name])} bytes "
            f"{files[name][place : place + 40]!r}, expected {len(content)} "
            f"{content[place : place + 40]!r}"
          ),
        )
      )
  return problems


def _leftovers(folder: pathlib.Path, program: Program) -> list[Problem]:
  """Returns files that no run may leave, not even an undisturbed one."""
  files = read_files(folder, program)
  problems = [
    Problem("leftover", name) for name in files if _LEFTOVER.search(name)
  ]
  listing = files.get("out/checkpoint")
  if listing is not None:
    listed = set(re.findall(rb'"model\.ckpt-(\d+)"', listing))
    problems += [
      Problem("leftover", f"{name} is not listed in out/checkpoint")
      for name in files
      if (match := _WEIGHTS.match(name))
      and match[2]
      and match[2].encode() not in listed
    ]
  log = folder / "out" / "training_log.jsonl"
  if log.exists():
    for line in log.read_text().splitlines():
      try:
        json.loads(line)
      except ValueError:
        problems.append(Problem("difference", f"training_log.jsonl: {line!r}"))
  return problems


# --- Trials ------------------------------------------------------------------


@dataclasses.dataclass
class Reference:
  """Result of an undisturbed run.

  Attributes:
    files: Content of each file by name.
    unstable: Names of files that differ between two undisturbed runs. This is a
      problem of its own, so other trials do not compare these files.
    seconds: Duration of the run.
    num_operations: Number of its file operations.
  """

  files: dict[str, bytes]
  unstable: frozenset[str]
  seconds: float
  num_operations: int


class Trials:
  """Trials of one program.

  Each trial returns the problems that it found. Without problems, it removes
  its folder.
  """

  def __init__(self, program: Program, inputs: Inputs, folder: pathlib.Path):
    self.program = program
    self.inputs = inputs
    self.folder = folder / program.name
    self._reference: Reference | None = None

  def two_fresh_runs(self, servers: Sequence[ProgramServer]) -> list[Problem]:
    """Compares two undisturbed runs with different hash seeds."""
    trials = [
      _Trial(self, f"fresh-{number}", server)
      for number, server in enumerate(servers)
    ]
    with futures.ThreadPoolExecutor(len(trials)) as pool:
      # The second run counts its file operations.
      seconds = list(pool.map(_Trial.run_to_end, trials, [None, _NEVER]))
    problems, files = [], []
    for trial in trials:
      problems += trial.problems
      problems += _leftovers(trial.folder, self.program)
      problems += _problems_of_others(trial.folder, self.program)
      files.append(_without_events(read_files(trial.folder, self.program)))
    problems += _differences(files[1], files[0])
    if any(trial.problems for trial in trials):
      return merge_problems(problems)
    operations = int(trials[1].log.with_suffix(".operations").read_text())
    unstable = frozenset(
      name for name in files[0] if files[0][name] != files[1].get(name)
    )
    self._reference = Reference(files[0], unstable, min(seconds), operations)
    if not problems:
      shutil.rmtree(self.folder)
    return merge_problems(problems)

  @property
  def has_reference(self) -> bool:
    return self._reference is not None

  @property
  def reference(self) -> Reference:
    if self._reference is None:
      raise RuntimeError(f"{self.program.name} has no undisturbed run.")
    return self._reference

  def kills(
    self, server: ProgramServer, seed: int, most_in_a_row: int
  ) -> tuple[int, list[Problem]]:
    """Kills a program several times, and then lets it run to its end.

    Args:
      server: Where to start the program.
      seed: Seed of the random choices. With an even seed a timer kills the
        program, with an odd one it dies before a file operation.
      most_in_a_row: Largest number of kills.

    Returns:
      The number of kills that came before the end of a run, and the problems.
    """
    rng = random.Random(f"{self.program.name} {seed}")
    trial = _Trial(self, f"kills-{seed}", server)
    num_kills = 0
    for _ in range(rng.randint(1, most_in_a_row)):
      if seed % 2:
        run = trial.start(dies_at=rng.randint(1, self.reference.num_operations))
        status = trial.wait(run)
      else:
        run = trial.start()
        run.wait(rng.uniform(0.0, self.reference.seconds))
        run.send(signal.SIGKILL)
        status = trial.wait(run)
      if status != -signal.SIGKILL:
        trial.expect_status(run, status, [0])
        break
      num_kills += 1
      trial.check_files_are_whole()
    trial.run_to_end()
    trial.check_end()
    return num_kills, trial.finish()

  def death_at(self, server: ProgramServer, operation: int) -> list[Problem]:
    """Kills the program before a file operation, and lets the next run end."""
    trial = _Trial(self, f"death-{operation}", server)
    run = trial.start(dies_at=operation)
    trial.expect_status(run, trial.wait(run), [-signal.SIGKILL, 0])
    trial.check_files_are_whole()
    trial.run_to_end()
    trial.check_end()
    return trial.finish()

  def interruption(
    self,
    server: ProgramServer,
    number: int,
    phase: str | None = None,
    seed: int | None = None,
  ) -> list[Problem]:
    """Sends a signal after a line of the log, or at a random time."""
    name = f"{signal.Signals(number).name}-{seed}"
    if phase:
      name += "-" + re.sub(r"\W+", "_", phase)
    trial = _Trial(self, name, server)
    run = trial.start()
    if phase:
      trial.expect_line(run, phase)
    else:
      rng = random.Random(f"{self.program.name} {number} {seed}")
      run.wait(rng.uniform(0.0, self.reference.seconds))
    run.send(number)
    status = trial.wait(run)
    trial.expect_status(run, status, [EXIT_CODES[number], 0])
    if "Traceback" in run.log():
      trial.problems.append(Problem("status", f"{run.log()[-1500:]}"))
    trial.check_remaining(run)
    trial.check_files_are_whole(allows_older_weights=True)
    if status:
      trial.run_to_end()
    trial.check_end(allows_older_weights=True)
    return trial.finish()

  def two_at_once(self, server: ProgramServer, seed: int) -> list[Problem]:
    """Starts the program twice in one folder.

    With an odd seed, both start at the same moment. With an even seed, the
    first is stopped at a random moment after it took its lock, while the second
    runs.
    """
    rng = random.Random(f"{self.program.name} two {seed}")
    trial = _Trial(self, f"two-{seed}", server)
    first = trial.start()
    expected = [[0, 1], [1, 0]]
    if not seed % 2:
      deadline = time.monotonic() + trial.most_seconds
      while not trial.has_lock():
        has_ended = first.wait(_POLL_SECONDS) is not None
        if has_ended or time.monotonic() > deadline:
          trial.problems.append(Problem("status", "it took no lock"))
          break
      first.wait(rng.uniform(0.0, 0.7 * self.reference.seconds))
      first.stop()
      # Without a lock it has ended, so that the second may run.
      expected = [[0, 1 if trial.has_lock() else 0]]
    second = trial.start()
    if not seed % 2:
      trial.wait(second)
      first.resume()
    statuses = [trial.wait(run) for run in (first, second)]
    if statuses not in expected:
      trial.problems.append(
        Problem(
          "status",
          (
            f"two at once ended with {statuses}, expected {expected}: "
            + " | ".join(run.log()[-500:] for run in (first, second))
          ),
        )
      )
    elif 1 in statuses:
      loser, winner = (second, first) if statuses[1] else (first, second)
      last_line = loser.log().strip().rpartition("\n")[2]
      refusal = _REFUSAL.search(last_line)
      if not refusal or (refusal[1], int(refusal[2])) != (
        self.program.program,
        winner.pid,
      ):
        trial.problems.append(
          Problem(
            "status",
            (
              f"the second of two did not name {self.program.program} (process "
              f"{winner.pid}): {last_line}"
            ),
          )
        )
    trial.check_end()
    return trial.finish()

  def reading(self, server: ProgramServer, reader: Program) -> list[Problem]:
    """Reads the output of a training while it is stopped, and after its end."""
    trial = _Trial(self, reader.name.replace(" ", "_"), server)
    run = trial.start()
    trial.expect_line(run, r"Saved .*-3\.")
    run.stop()
    for is_ended in (False, True):
      if is_ended:
        run.resume()
        trial.expect_status(run, trial.wait(run), [0])
      before = _times_of_files(trial.folder)
      elsewhere = trial.folder.with_suffix(f".{is_ended}")
      shutil.rmtree(elsewhere, ignore_errors=True)
      elsewhere.mkdir()
      read = server.start(
        reader,
        self.inputs,
        elsewhere,
        elsewhere / "log",
        run=trial.folder / "out",
      )
      trial.expect_status(read, trial.wait(read), [0])
      if _times_of_files(trial.folder) != before:
        trial.problems.append(Problem("others", f"{reader.name} changed files"))
      shutil.rmtree(elsewhere)
    trial.check_end()
    return trial.finish()


class _Trial:
  """A folder in which a program is started, perhaps several times."""

  def __init__(self, trials: Trials, name: str, server: ProgramServer):
    self._trials = trials
    self._server = server
    self.folder = trials.folder / name
    shutil.rmtree(self.folder, ignore_errors=True)
    self.folder.mkdir(parents=True)
    self._logs = trials.folder / f"{name}.logs"
    shutil.rmtree(self._logs, ignore_errors=True)
    self._logs.mkdir()
    self.log = self._logs
    self._num_runs = 0
    self.problems: list[Problem] = []
    write_files_of_others(self.folder, trials.program)

  @property
  def most_seconds(self) -> float:
    seconds = (
      self._trials.reference.seconds
      if self._trials.has_reference
      else _SECONDS_OF_SLOWEST
    )
    return _SPARE_SECONDS + _SPARE_FACTOR * seconds

  def start(self, dies_at: int | None = None) -> Run:
    self.log = self._logs / f"{self._num_runs}.txt"
    self._num_runs += 1
    return self._server.start(
      self._trials.program, self._trials.inputs, self.folder, self.log, dies_at
    )

  def wait(self, run: Run) -> int | None:
    """Returns the exit status, and kills a process that hangs."""
    status = run.wait(self.most_seconds)
    if status is None:
      self.problems.append(Problem("hung", run.log()[-1000:]))
      for process in _processes_of_session(run.pid):
        os.kill(process, signal.SIGKILL)
      status = run.wait(_SECONDS_TO_VANISH)
    return status

  def has_lock(self) -> bool:
    return any(path.name.endswith(".lock") for path in self.folder.rglob("*"))

  def expect_line(self, run: Run, pattern: str) -> None:
    if not run.wait_for_line(pattern, self.most_seconds):
      self.problems.append(
        Problem(
          "status", f"no line {pattern!r} in the log: {run.log()[-1000:]}"
        )
      )

  def expect_status(self, run: Run, status, expected) -> None:
    if status not in expected:
      self.problems.append(
        Problem(
          "status",
          (
            f"{status}, expected {' or '.join(map(str, expected))}: "
            f"{run.log()[-1500:]}"
          ),
        )
      )

  def run_to_end(self, dies_at: int | None = None) -> float:
    """Runs the program to its end, and returns the seconds that it took."""
    started = time.monotonic()
    run = self.start(dies_at)
    status = self.wait(run)
    refusal = self._trials.program.refusal
    if not (
      self._trials.has_reference
      and status == 1
      and refusal
      and re.search(refusal, run.log())
    ):
      self.expect_status(run, status, [0])
    seconds = time.monotonic() - started
    self.check_remaining(run)
    return seconds

  def check_remaining(self, run: Run) -> None:
    if processes := run.remaining_processes():
      self.problems.append(Problem("processes", f"{processes} still run"))
      for process in processes:
        os.kill(process, signal.SIGKILL)

  def check_files_are_whole(self, allows_older_weights: bool = False) -> None:
    """Compares existing files with those of an undisturbed run."""
    reference = self._trials.reference
    expected = reference.files
    files = {
      name: content
      for name, content in read_files(self.folder, self._trials.program).items()
      if name in expected
      and name not in reference.unstable
      and not _REWRITTEN.search(name)
    }
    if allows_older_weights:
      # The states depend on the step of the interruption; the weights do not.
      files = {
        name: content
        for name, content in files.items()
        if not name.endswith(".json")
      }
    self.problems += _differences(
      files, {name: expected[name] for name in files}, "half"
    )

  def check_end(self, allows_older_weights: bool = False) -> None:
    program = self._trials.program
    files = _without_events(read_files(self.folder, program))
    expected = dict(self._trials.reference.files)
    for name in self._trials.reference.unstable & files.keys():
      expected[name] = files[name]
    if allows_older_weights:
      files, expected = map(_without_older_weights, (files, expected))
    found = _differences(files, expected)
    found += _leftovers(self.folder, program)
    found += _problems_of_others(self.folder, program)
    self.problems += found

  def finish(self) -> list[Problem]:
    if not self.problems:
      shutil.rmtree(self.folder)
      shutil.rmtree(self._logs)
    return merge_problems(self.problems)


# --- The command line --------------------------------------------------------

_TRIALS = ("kills", "signals", "pairs", "reads")
_KINDS = (
  "difference",
  "leftover",
  "others",
  "half",
  "status",
  "processes",
  "hung",
)


class Task(NamedTuple):
  """A trial to make."""

  program: str
  kind: str  # one of `_TRIALS`
  number: int


class Summary:
  """Results of all trials, in a file that is rewritten after each trial."""

  def __init__(self, path: pathlib.Path):
    self._path = path
    self._lock = threading.Lock()
    self._programs = json.loads(path.read_text()) if path.exists() else {}

  def of_program(self, name: str) -> dict:
    return self._programs.setdefault(
      name, {"kills": 0, "trials": {}, "problems": []}
    )

  def num_trials(self, name: str, kind: str) -> int:
    return self.of_program(name)["trials"].get(kind, 0)

  def total(self, kind: str) -> int:
    """Returns the number of trials of a kind, or the number of kills."""
    if kind == "kills":
      return sum(known["kills"] for known in self._programs.values())
    return sum(
      known["trials"].get(kind, 0) for known in self._programs.values()
    )

  def add(
    self, task: Task, problems: list[Problem], num_kills: int = 0
  ) -> None:
    with self._lock:
      known = self.of_program(task.program)
      known["kills"] += num_kills
      known["trials"][task.kind] = 1 + known["trials"].get(task.kind, 0)
      for problem in problems:
        known["problems"].append(
          {"trial": f"{task.kind} {task.number}", **problem._asdict()}
        )
        print(
          f"{task.program}, {task.kind} {task.number}: {problem.kind}: "
          f"{problem.text}",
          flush=True,
        )
      temporary = self._path.with_suffix(".new")
      temporary.write_text(json.dumps(self._programs, indent=2) + "\n")
      temporary.replace(self._path)

  def table(self) -> str:
    kinds = ("fresh", *_TRIALS)
    rows = [
      ("program", "kills", *(f"{kind} (trials)" for kind in kinds), *_KINDS)
    ]
    for name, known in self._programs.items():
      counts = collections.Counter(
        problem["kind"] for problem in known["problems"]
      )
      rows.append(
        (
          name,
          known["kills"],
          *(known["trials"].get(kind, 0) for kind in kinds),
          *(counts[kind] for kind in _KINDS),
        )
      )
    rows.append(
      (
        "all",
        *(sum(row[i] for row in rows[1:]) for i in range(1, len(rows[0]))),
      )
    )
    widths = [
      max(len(str(row[i])) for row in rows) for i in range(len(rows[0]))
    ]
    return "\n".join(
      "  ".join(
        str(cell).ljust(width) for cell, width in zip(row, widths)
      ).rstrip()
      for row in rows
    )


def _tasks(
  names: list[str], wanted: dict[str, int], summary: Summary
) -> Iterator[Task]:
  """Yields trials of each program in turn until there are enough."""
  for kind, count in wanted.items():
    programs = [contract_programs.PROGRAMS[name] for name in names]
    if kind == "pairs":
      programs = [program for program in programs if program.is_locked]
    if kind == "reads":
      programs = [
        program
        for program in programs
        if program.program == "run_pretraining.py"
      ]
    numbers = {name: summary.num_trials(name, kind) for name in names}
    turn = 0
    while programs and summary.total(kind) < count:
      for program in programs:
        if summary.total(kind) < count and not (program.is_slow and turn % 10):
          yield Task(program.name, kind, numbers[program.name])
          numbers[program.name] += 1
      turn += 1


def _make_trial(
  task: Task, trials: Trials, server: ProgramServer, most_in_a_row: int
) -> tuple[int, list[Problem]]:
  """Returns the number of kills, and the problems."""
  if task.kind == "kills":
    return trials.kills(server, task.number, most_in_a_row)
  if task.kind == "pairs":
    return 0, trials.two_at_once(server, task.number)
  if task.kind == "reads":
    readers = contract_programs.READERS
    return 0, trials.reading(server, readers[task.number % len(readers)])
  # Each signal after each phase, and at random moments.
  phases = (None, *trials.program.phases)
  number, place = divmod(task.number, 2 * len(phases))
  return 0, trials.interruption(
    server,
    (signal.SIGTERM, signal.SIGINT)[place % 2],
    phases[place // 2],
    number,
  )


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
  parser.add_argument(
    "--output",
    type=pathlib.Path,
    required=True,
    help="Folder for the summary and the trials that failed.",
  )
  parser.add_argument(
    "--programs",
    default=",".join(contract_programs.PROGRAMS),
    help="Names of programs, separated by commas.",
  )
  parser.add_argument("--kills", type=int, default=0, help="Number of kills.")
  parser.add_argument(
    "--in_a_row",
    type=int,
    default=3,
    help="Largest number of kills before a program may run to its end.",
  )
  parser.add_argument(
    "--signals", type=int, default=0, help="Number of trials."
  )
  parser.add_argument(
    "--pairs",
    type=int,
    default=0,
    help="Number of trials with two processes at once.",
  )
  parser.add_argument(
    "--reads",
    type=int,
    default=0,
    help="Number of trials with a program that reads the output of another.",
  )
  parser.add_argument(
    "--jobs", type=int, default=2, help="Number of trials at a time."
  )
  options = parser.parse_args()
  output = options.output.resolve()
  output.mkdir(parents=True, exist_ok=True)
  names = options.programs.split(",")
  summary = Summary(output / "summary.json")
  with contextlib.ExitStack() as stack:
    address = stack.enter_context(
      contract_programs.model_server(output / "port")
    )
    servers = [
      stack.enter_context(ProgramServer(1 + number))
      for number in range(max(2, options.jobs))
    ]
    inputs = Inputs(output / "inputs", address)
    for name in names:
      inputs.make_for(contract_programs.PROGRAMS[name], servers[0])
    trials = {
      name: Trials(contract_programs.PROGRAMS[name], inputs, output)
      for name in names
    }

    def make_reference(number: int, name: str) -> None:
      del number
      summary.add(
        Task(name, "fresh", 0), trials[name].two_fresh_runs(servers[:2])
      )

    def make_trial(number: int, task: Task) -> None:
      if not trials[task.program].has_reference:
        return
      num_kills, problems = _make_trial(
        task, trials[task.program], servers[number], options.in_a_row
      )
      summary.add(task, problems, num_kills)

    _in_threads(make_reference, iter(names), options.jobs)
    print(summary.table(), flush=True)
    usable = [name for name in names if trials[name].has_reference]
    wanted = {kind: getattr(options, kind) for kind in _TRIALS}
    _in_threads(make_trial, _tasks(usable, wanted, summary), options.jobs)
  print(summary.table(), flush=True)


def _in_threads(function, items: Iterator, num_threads: int) -> None:
  """Calls function(number of the thread, item) for each item."""
  lock = threading.Lock()

  def work(number: int) -> None:
    while True:
      with lock:
        item = next(items, None)
      if item is None:
        return
      function(number, item)

  with futures.ThreadPoolExecutor(num_threads) as pool:
    for result in [pool.submit(work, number) for number in range(num_threads)]:
      result.result()


if __name__ == "__main__":
  main()
