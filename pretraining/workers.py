"""Maps a function over items in several processes.

    this program --starts--> starter --forks--> workers

The starter imports the modules that the function needs, once, and the workers
share that memory. The starter and its workers are a process group of their own,
so Ctrl-C reaches only this program. All of them end when their standard input
is closed, that is when this program ends, even if it is killed.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
import contextlib
import functools
import multiprocessing
import multiprocessing.connection
import multiprocessing.spawn
import os
import pickle
import signal
import subprocess
import sys
import threading
import traceback
from typing import Any, NamedTuple

from absl import logging

from errors import UserError

# Returns the function to map; called once in each worker.
Factory = Callable[[], Callable[[Any], Any]]

# Windows cannot fork.
CAN_FORK = hasattr(os, "fork")
# An input with fewer bytes of text is not worth the start of workers.
_BYTES_WORTH_A_START = 2**25
# Time that the processes have to end by themselves before they are killed.
_SECONDS_TO_END = 1.0
# The program of the starter. Its arguments are the folder of our modules and
# the descriptors of the connections.
_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_STARTER = """
import os, sys
sys.path.insert(0, sys.argv[1])
from pretraining import workers
workers.start_workers([int(number) for number in sys.argv[2:]])
os._exit(0)
"""


def count_processors() -> int:
  """Returns the number of processors that this process may use."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def choose_num_workers(requested: int, num_items: int, num_bytes: int) -> int:
  """Returns the number of workers to start.

  Args:
    requested: Number that the user asked for; 0 for as many as are useful.
    num_items: Number of items.
    num_bytes: Total amount of text to process.
  """
  if not CAN_FORK:
    if requested > 1:
      logging.warning(
        "--num_workers=%d: this system cannot fork processes, so this one does "
        "all the work.",
        requested,
      )
    return 1
  if not requested:
    is_large = num_bytes > _BYTES_WORTH_A_START
    requested = count_processors() if is_large else 1
  return max(1, min(requested, num_items))


def map_unordered(
  factory: Factory, items: Iterable[Any], num_workers: int
) -> Generator[Any, None, None]:
  """Yields function(item) for each item, in the order in which they finish.

  Items are taken from `items` only when a worker is free. The workers end with
  the iteration, also if it is stopped early.

  Args:
    factory: Function that creates the function to map, once in each worker. It
      must be possible to pickle it.
    items: Objects that can be pickled.
    num_workers: Number of processes; 1 to use only this process.

  Raises:
    UserError: A worker was killed.
    Exception: The function raised it.
  """
  if num_workers == 1:
    function = factory()
    for item in items:
      yield function(item)
    return
  with _WorkerPool(factory, num_workers) as pool:
    yield from pool.map(items)


def map_ordered(
  factory: Factory, items: Iterable[Any], num_workers: int
) -> Iterator[Any]:
  """Like `map_unordered`, but yields the results in the order of the items."""
  results = map_unordered(
    functools.partial(_create_numbered_function, factory),
    enumerate(items),
    num_workers,
  )
  waiting = {}
  next_number = 0
  with contextlib.closing(results):
    for number, result in results:
      waiting[number] = result
      while next_number in waiting:
        yield waiting.pop(next_number)
        next_number += 1


def _create_numbered_function(
  factory: Factory,
) -> Callable[[tuple[int, Any]], tuple[int, Any]]:
  """Returns the function of (number, item) that returns (number, result)."""
  function = factory()
  return lambda item: (item[0], function(item[1]))


class _WorkerPool:
  """Processes that apply a function to items; a context manager."""

  def __init__(self, factory: Factory, num_workers: int):
    self._factory = factory
    self._num_workers = num_workers
    self._connections: list[multiprocessing.connection.Connection] = []

  def __enter__(self) -> _WorkerPool:
    """Starts the processes, which import modules while this one continues."""
    pipes = [multiprocessing.Pipe() for _ in range(self._num_workers)]
    self._connections = [our_end for our_end, _ in pipes]
    descriptors = [their_end.fileno() for _, their_end in pipes]
    self._starter = subprocess.Popen(
      [sys.executable, "-c", _STARTER, _ROOT, *map(str, descriptors)],
      stdin=subprocess.PIPE,
      pass_fds=descriptors,
      start_new_session=True,
    )
    for _, their_end in pipes:
      their_end.close()
    try:
      self._send_factory()
    except BaseException:
      self.__exit__()
      raise
    return self

  def _send_factory(self) -> None:
    # With this data, multiprocessing lets a process import the main module of
    # another one.
    preparation = multiprocessing.spawn.get_preparation_data("worker")
    del preparation["authkey"]
    message = pickle.dumps((preparation, pickle.dumps(self._factory)))
    stream = self._starter.stdin
    assert stream
    # A starter that is dead is noticed when items are sent.
    with contextlib.suppress(BrokenPipeError):
      stream.write(message)
      stream.flush()

  def __exit__(self, *unused_exception) -> None:
    """Ends the processes at once, whatever they are doing."""
    stream = self._starter.stdin
    assert stream
    with contextlib.suppress(BrokenPipeError):
      stream.close()
    try:
      self._starter.wait(_SECONDS_TO_END)
    except subprocess.TimeoutExpired:
      os.killpg(self._starter.pid, signal.SIGKILL)
      self._starter.wait()
    for connection in self._connections:
      connection.close()

  def map(self, items: Iterable[Any]) -> Iterator[Any]:
    """Yields function(item) for each item, in the order in which they finish.

    Raises:
      UserError: A worker was killed.
      Exception: The function raised it.
    """
    items = iter(items)
    busy: list[Any] = []

    def send_next_item(connection: Any) -> None:
      for item in items:
        busy.append(connection)
        _communicate(connection.send, item)
        return

    for connection in self._connections:
      send_next_item(connection)
    while busy:
      ready: list[Any] = multiprocessing.connection.wait(busy)
      for connection in ready:
        answer = _communicate(connection.recv)
        if answer.error:
          cause = RuntimeError(f"In a worker process:\n{answer.traceback}")
          raise answer.error from cause
        busy.remove(connection)
        send_next_item(connection)
        yield answer.result


class _WorkerAnswer(NamedTuple):
  """The answer of a worker to an item: a result, or an error."""

  result: Any
  error: Exception | None = None
  traceback: str = ""


def _communicate(function: Callable[..., Any], *args: Any) -> Any:
  """Returns function(*args), which communicates with a worker.

  Raises:
    UserError: The worker is dead.
  """
  try:
    return function(*args)
  except (EOFError, ConnectionError) as error:
    raise UserError(
      "A worker process was killed, most likely because the machine ran out "
      "of memory. Run the same command with fewer --num_workers; finished work "
      "is kept."
    ) from error


# --- The other processes -----------------------------------------------------


def start_workers(descriptors: Sequence[int]) -> None:
  """Forks workers, and returns when all of them have ended.

  Args:
    descriptors: Descriptors of the workers' connections to the program.
  """
  try:
    preparation, pickled_factory = pickle.load(sys.stdin.buffer)
  except (EOFError, pickle.UnpicklingError):
    return  # the program was killed
  is_starting = True

  def end_with_input():
    while os.read(0, 4096):
      pass
    # After the start the workers end first, and `os.wait` notices it.
    if is_starting:
      os._exit(1)

  threading.Thread(target=end_with_input, daemon=True).start()
  multiprocessing.spawn.prepare(preparation)
  factory = pickle.loads(pickled_factory)
  for descriptor in descriptors:
    if not os.fork():
      # In the new worker.
      for other in descriptors:
        if other != descriptor:
          os.close(other)
      threading.Thread(target=end_with_input, daemon=True).start()
      _work(factory, multiprocessing.connection.Connection(descriptor))
  is_starting = False
  for descriptor in descriptors:
    os.close(descriptor)
  with contextlib.suppress(ChildProcessError):
    while True:
      os.wait()


def _work(
  factory: Factory, connection: multiprocessing.connection.Connection
) -> None:
  """Answers items until the program closes the connection."""
  function = None
  while True:
    try:
      item = connection.recv()
    except (EOFError, ConnectionError):
      os._exit(1)
    try:
      function = function or factory()
      content = pickle.dumps(_WorkerAnswer(function(item)))
    except Exception as error:  # pylint: disable=broad-except
      answer = _WorkerAnswer(None, _to_portable(error), traceback.format_exc())
      content = pickle.dumps(answer)
    with contextlib.suppress(ConnectionError):
      connection.send_bytes(content)


def _to_portable(error: Exception) -> Exception:
  """Returns an error, or a similar one if it cannot be pickled."""
  try:
    return pickle.loads(pickle.dumps(error))
  except Exception:  # pylint: disable=broad-except
    return RuntimeError(repr(error))
