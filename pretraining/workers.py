"""Maps a function over items in several processes.

    this program --starts--> starter --forks--> workers

The starter imports the modules that the function needs, once; the workers share
that memory. It and the workers are a process group of their own, so Ctrl-C
reaches this program alone. All of them end when their standard input does:
when this program ends, even if it is killed.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
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
from typing import Any

from errors import UserError

# What a worker should have to do, in bytes of text, to be worth its start.
_BYTES_WORTH_A_START = 2**25
# How long the processes have to end by themselves, before they are killed.
_SECONDS_TO_END = 1.0
# The program of the starter; its arguments are the folder of our modules and
# the descriptors of the connections.
_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_STARTER = """
import os, sys
sys.path.insert(0, sys.argv[1])
from pretraining import workers
workers.start_workers([int(number) for number in sys.argv[2:]])
os._exit(0)
"""


def num_processors() -> int:
  """Returns how many processors this process may use."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def useful_number(wanted: int, num_items: int, num_bytes: int) -> int:
  """Returns how many workers to have.

  Args:
    wanted: what the user asked for; 0 for as many as are of use.
    num_items: how many items there are.
    num_bytes: how much text there is to go over in all.
  """
  if not wanted:
    wanted = num_processors() if num_bytes > _BYTES_WORTH_A_START else 1
  return max(1, min(wanted, num_items))


def map_unordered(
  factory: Callable[[], Callable[[Any], Any]],
  items: Iterable[Any],
  num_workers: int,
) -> Iterator[Any]:
  """Yields function(item) for each item, in the order in which they are done.

  No more items are taken from `items` than there are workers. The workers end
  with the iteration, also when it is given up.

  Args:
    factory: makes the function, once in each worker; it can be pickled.
    items: objects that can be pickled.
    num_workers: how many processes; 1 for none but this one.

  Raises:
    UserError: a worker was killed.
    Exception: what the function raised.
  """
  if num_workers == 1:
    function = factory()
    for item in items:
      yield function(item)
    return
  with _Workers(factory, num_workers) as workers:
    yield from workers.map(items)


def map_ordered(
  factory: Callable[[], Callable[[Any], Any]],
  items: Iterable[Any],
  num_workers: int,
) -> Iterator[Any]:
  """Like `map_unordered`, but yields the results in the order of the items."""
  results = map_unordered(
    functools.partial(_numbered, factory), enumerate(items), num_workers
  )
  waiting = {}
  next_number = 0
  with contextlib.closing(results):
    for number, result in results:
      waiting[number] = result
      while next_number in waiting:
        yield waiting.pop(next_number)
        next_number += 1


def _numbered(factory):
  """Returns the function of numbered items, which keeps their numbers."""
  function = factory()
  return lambda item: (item[0], function(item[1]))


class _Workers:
  """Processes that apply a function to items; a context manager."""

  def __init__(self, factory, num_workers: int):
    self._factory = factory
    self._num_workers = num_workers

  def __enter__(self) -> "_Workers":
    """Starts the processes; they import modules while this one goes on."""
    pipes = [multiprocessing.Pipe() for _ in range(self._num_workers)]
    self._connections = [ours for ours, _ in pipes]
    descriptors = [theirs.fileno() for _, theirs in pipes]
    self._starter = subprocess.Popen(
      [sys.executable, "-c", _STARTER, _ROOT, *map(str, descriptors)],
      stdin=subprocess.PIPE,
      pass_fds=descriptors,
      start_new_session=True,
    )
    for _, theirs in pipes:
      theirs.close()
    try:
      # How multiprocessing makes a process import the main module of another.
      preparation = multiprocessing.spawn.get_preparation_data("worker")
      del preparation["authkey"]
      with contextlib.suppress(BrokenPipeError):  # noticed when items are sent
        pickle.dump(
          (preparation, pickle.dumps(self._factory)), self._starter.stdin
        )
        self._starter.stdin.flush()
    except BaseException:
      self.__exit__()
      raise
    return self

  def __exit__(self, *unused_exception) -> None:
    """Ends the processes at once: nobody waits for what they still do."""
    with contextlib.suppress(BrokenPipeError):
      self._starter.stdin.close()
    try:
      self._starter.wait(_SECONDS_TO_END)
    except subprocess.TimeoutExpired:
      os.killpg(self._starter.pid, signal.SIGKILL)
      self._starter.wait()
    for connection in self._connections:
      connection.close()

  def map(self, items: Iterable[Any]) -> Iterator[Any]:
    """Yields function(item) for each item, in the order of their ends."""
    items = iter(items)
    busy = []

    def send_next(connection) -> None:
      for item in items:
        busy.append(connection)
        _checked(connection.send, item)
        return

    for connection in self._connections:
      send_next(connection)
    while busy:
      for connection in multiprocessing.connection.wait(busy):
        result, error, text = _checked(connection.recv)
        if error:
          raise error from RuntimeError(f"In a worker process:\n{text}")
        busy.remove(connection)
        send_next(connection)
        yield result


def _checked(function, *args):
  """Returns function(*args), which talks to a worker.

  Raises:
    UserError: the worker is dead.
  """
  try:
    return function(*args)
  except (EOFError, ConnectionError) as error:
    raise UserError(
      "A worker process was killed, most likely because memory ran out. Run "
      "the same command with fewer --num_workers; what is done is kept."
    ) from error


# --- The other processes -----------------------------------------------------


def start_workers(descriptors: Sequence[int]) -> None:
  """Forks workers, and returns when all of them have ended.

  Args:
    descriptors: of the connection of each worker to the program.
  """
  try:
    preparation, pickled_factory = pickle.load(sys.stdin.buffer)
  except (EOFError, pickle.UnpicklingError):
    return  # the program was killed
  is_starting = True

  def end_with_input():
    while os.read(0, 4096):
      pass
    # Later the workers end first, and `os.wait` sees that.
    if is_starting:
      os._exit(1)

  threading.Thread(target=end_with_input, daemon=True).start()
  multiprocessing.spawn.prepare(preparation)
  factory = pickle.loads(pickled_factory)
  for descriptor in descriptors:
    if not os.fork():
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


def _work(factory, connection) -> None:
  """Applies the function to the items that come, and ends the process."""
  function = None
  while True:
    try:
      item = connection.recv()
    except (EOFError, ConnectionError):
      os._exit(1)
    try:
      function = function or factory()
      answer = function(item), None, None
      content = pickle.dumps(answer)
    except Exception as error:  # pylint: disable=broad-except
      content = pickle.dumps((None, _portable(error), traceback.format_exc()))
    with contextlib.suppress(ConnectionError):
      connection.send_bytes(content)


def _portable(error: Exception) -> Exception:
  """Returns an error, or if it cannot be pickled another with its text."""
  try:
    return pickle.loads(pickle.dumps(error))
  except Exception:  # pylint: disable=broad-except
    return RuntimeError(repr(error))
