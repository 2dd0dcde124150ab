"""Maps a function over items in several processes."""

import concurrent.futures
from concurrent.futures import process
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading

from errors import UserError
from typing import Any, Callable, Iterable, Iterator

# What a worker should have to do, in bytes of text, to be worth its start.
_BYTES_WORTH_A_START = 2 ** 25

# Of this process, if it is a worker: what makes what it does with an item, and
# that.
_factory = _function = None


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


def map_unordered(factory: Callable[[], Callable[[Any], Any]],
                  items: Iterable[Any], num_workers: int) -> Iterator[Any]:
  """Yields function(item) for each item, in the order in which they are done.

  Few more items than there are workers are taken from `items` in advance. A
  worker ends when this process does, however it does.

  Args:
    factory: makes the function, once in each worker; it can be pickled.
    items: what can be pickled.
    num_workers: processes; 1 for none but this one.

  Raises:
    UserError: a worker was killed.
    Exception: what the function raised.
  """
  if num_workers == 1:
    function = factory()
    for item in items:
      yield function(item)
    return
  # Workers are forked from a process that has imported what takes longest, but
  # has no threads that a fork could leave in a bad state.
  context = multiprocessing.get_context("forkserver")
  context.set_forkserver_preload(["tensorflow"])
  executor = concurrent.futures.ProcessPoolExecutor(
      num_workers, context, _initialize, (factory,))
  try:
    pending = set()
    for item in items:
      pending.add(executor.submit(_call, item))
      if len(pending) > num_workers:
        done, pending = concurrent.futures.wait(
            pending, return_when=concurrent.futures.FIRST_COMPLETED)
        for future in done:
          yield _result(future)
    for future in concurrent.futures.as_completed(pending):
      yield _result(future)
  finally:
    executor.shutdown(wait=True, cancel_futures=True)


def _result(future):
  """Returns the result of a future, or raises its error from here.

  So an error is told by the module that knew of it, not by the pool.
  """
  error = future.exception()
  if isinstance(error, process.BrokenProcessPool):
    raise UserError(
        "A worker process was killed, most likely because memory ran out. Run "
        "the same command with fewer --num_workers; what is done is kept."
    ) from error
  if error:
    raise error
  return future.result()


def _initialize(factory) -> None:
  global _factory
  # Ctrl-C goes to all processes; the first one decides what becomes of it.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  threading.Thread(target=_end_with_parent, daemon=True).start()
  _factory = factory


def _end_with_parent() -> None:
  multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
  os._exit(1)


def _call(item):
  global _function
  if _function is None:
    # Not before: the pool would take an error for the death of the worker.
    _function = _factory()
  return _function(item)
