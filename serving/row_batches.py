"""Rows of concurrent requests, answered together in batches of similar lengths.

A request hands over its rows and waits for their outputs. One worker takes the
row that has waited longest, fills the batch with rows of about its length from
all requests, and calls the model in a thread. While the model computes, further
rows gather.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from concurrent import futures
import contextlib
import dataclasses
import itertools
import time
from typing import Any

# Padded to its longest row, a batch has at most this many bytes of text,
# unless it is a single row. It bounds the memory that a batch needs.
_MOST_BYTES = 200_000
# At most this multiple of the text in a batch is text and padding.
_MOST_PADDED = 2

BatchFunction = Callable[[Sequence[Any]], Sequence[Any]]


class QueueFullError(RuntimeError):
  """More rows would wait than the queue may hold."""


@dataclasses.dataclass(eq=False)
class _WaitingRequest:
  """A request with rows that wait.

  Attributes:
    outputs: Outputs of its rows, or None.
    num_missing: Number of rows without an output.
    is_done: Set to its outputs, or to an error.
  """

  outputs: list[Any]
  num_missing: int
  is_done: asyncio.Future[list[Any]]


@dataclasses.dataclass(eq=False)
class _WaitingRow:
  """A row that waits.

  Attributes:
    request: Its request.
    place: Number of the row in its request.
    value: Argument of the function.
    size: Length of the row, in bytes.
    arrival: Number of the row among all rows.
    arrived: Time of its arrival, of the monotonic clock.
  """

  request: _WaitingRequest
  place: int
  value: Any
  size: int
  arrival: int
  arrived: float


def choose_rows(
  sizes: Sequence[int], oldest: int, max_batch_size: int
) -> slice:
  """Returns which rows to answer together with the oldest of them.

  Args:
    sizes: Sizes of the waiting rows, in ascending order.
    oldest: Place of the row that has waited longest.
    max_batch_size: Largest number of rows.
  """
  # The batch grows to whichever side has the row of more similar size:
  #   sizes   1  4  5  6  30     oldest 5: then 4, 6, 1; never 30
  start, end = oldest, oldest + 1
  total = sizes[oldest]
  while end - start < max_batch_size:
    has_shorter, has_longer = start > 0, end < len(sizes)
    if not (has_shorter or has_longer):
      break
    takes_longer = has_longer and (
      not has_shorter
      or sizes[end] - sizes[oldest] <= sizes[oldest] - sizes[start - 1]
    )
    added = sizes[end] if takes_longer else sizes[start - 1]
    longest = max(sizes[end - 1], added)
    padded = (end - start + 1) * longest
    if padded > min(_MOST_PADDED * (total + added), _MOST_BYTES):
      break
    total += added
    start, end = (start, end + 1) if takes_longer else (start - 1, end)
  return slice(start, end)


class RowBatches:
  """A queue of rows, and the worker that answers them.

  Attributes:
    num_waiting: Number of rows that wait.
  """

  def __init__(
    self,
    max_batch_size: int,
    max_delay: float,
    max_waiting: int,
    observe: Callable[[int, float], None] = lambda size, seconds: None,
  ):
    """Stores the settings; `started` starts the worker.

    Args:
      max_batch_size: Largest number of rows that are answered together.
      max_delay: How long a row may wait for others to join it, in seconds. The
        wait for the batches before it counts.
      max_waiting: Largest number of rows that wait.
      observe: Called with the number of rows and the seconds of each batch.
    """
    self._max_batch_size = max_batch_size
    self._max_delay = max_delay
    self._max_waiting = max_waiting
    self._observe = observe
    self._waiting: dict[Hashable, list[_WaitingRow]] = {}
    self._functions: dict[Hashable, BatchFunction] = {}
    self._arrivals = itertools.count()
    self._changed = asyncio.Event()
    self.num_waiting = 0

  @contextlib.asynccontextmanager
  async def started(self) -> AsyncIterator[None]:
    """Answers rows inside the block."""
    with futures.ThreadPoolExecutor(1, "model") as executor:
      worker = asyncio.ensure_future(self._work(executor))
      try:
        yield
      finally:
        worker.cancel()
        with contextlib.suppress(asyncio.CancelledError):
          await worker

  async def answer(
    self,
    key: Hashable,
    function: BatchFunction,
    rows: Sequence[Any],
    sizes: Sequence[int],
  ) -> list[Any]:
    """Returns the output of a function for each row.

    If the caller is cancelled, rows that still wait are dropped.

    Args:
      key: Rows with equal keys may be answered together.
      function: Is called with rows, and returns as many outputs.
      rows: The rows.
      sizes: Their lengths, in bytes.

    Raises:
      QueueFullError: Too many rows wait already.
    """
    if self.num_waiting + len(rows) > self._max_waiting:
      raise QueueFullError(f"{self.num_waiting} rows wait.")
    loop = asyncio.get_running_loop()
    request = _WaitingRequest(
      [None] * len(rows), len(rows), loop.create_future()
    )
    self._functions[key] = function
    queue = self._waiting.setdefault(key, [])
    now = time.monotonic()
    for place, (value, size) in enumerate(zip(rows, sizes)):
      arrival = next(self._arrivals)
      queue.append(_WaitingRow(request, place, value, size, arrival, now))
    self.num_waiting += len(rows)
    self._changed.set()
    try:
      return await request.is_done
    finally:
      if request.num_missing:
        self._drop(key, request)

  def _drop(self, key: Hashable, request: _WaitingRequest) -> None:
    """Removes the rows of a request that still wait."""
    rows = self._waiting.get(key, [])
    self._keep(key, [row for row in rows if row.request is not request])

  def _keep(self, key: Hashable, rows: list[_WaitingRow]) -> None:
    """Replaces the rows that wait under a key."""
    self.num_waiting += len(rows) - len(self._waiting.pop(key, []))
    if rows:
      self._waiting[key] = rows
    else:
      self._functions.pop(key, None)

  async def _work(self, executor: futures.Executor) -> None:
    while True:
      while not self._waiting:
        self._changed.clear()
        await self._changed.wait()
      key = await self._choose_key()
      if key is not None:
        function = self._functions[key]
        await self._answer_batch(executor, function, self._take_batch(key))

  async def _choose_key(self) -> Hashable | None:
    """Returns the key of the oldest row, after the wait for others.

    Returns None if the rows were dropped meanwhile.
    """
    key = min(self._waiting, key=lambda key: self._waiting[key][0].arrival)
    deadline = self._waiting[key][0].arrived + self._max_delay
    while (rows := self._waiting.get(key)) and (
      len(rows) < self._max_batch_size
    ):
      seconds = deadline - time.monotonic()
      if seconds <= 0:
        break
      self._changed.clear()
      with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(self._changed.wait(), seconds)
    return key if key in self._waiting else None

  def _take_batch(self, key: Hashable) -> list[_WaitingRow]:
    rows = self._waiting[key]
    oldest = rows[0]
    by_size = sorted(rows, key=lambda row: (row.size, row.arrival))
    chosen = choose_rows(
      [row.size for row in by_size],
      by_size.index(oldest),
      self._max_batch_size,
    )
    batch = by_size[chosen]
    taken = set(batch)
    self._keep(key, [row for row in rows if row not in taken])
    return batch

  async def _answer_batch(
    self,
    executor: futures.Executor,
    function: BatchFunction,
    batch: Sequence[_WaitingRow],
  ) -> None:
    loop = asyncio.get_running_loop()
    values = [row.value for row in batch]
    started = time.monotonic()
    try:
      outputs = await loop.run_in_executor(executor, function, values)
    except Exception as error:
      await self._explain_failure(executor, function, batch, error)
      return
    self._observe(len(batch), time.monotonic() - started)
    for row, output in zip(batch, outputs):
      request = row.request
      request.outputs[row.place] = output
      request.num_missing -= 1
      if not request.num_missing and not request.is_done.done():
        request.is_done.set_result(request.outputs)

  async def _explain_failure(
    self,
    executor: futures.Executor,
    function: BatchFunction,
    batch: Sequence[_WaitingRow],
    error: Exception,
  ) -> None:
    """Hands an error to the request that caused it.

    The rows of each request are answered again on their own, so that a request
    does not fail because of the rows of another.
    """
    requests = list({row.request: None for row in batch})
    if len(requests) > 1:
      for request in requests:
        own = [row for row in batch if row.request is request]
        await self._answer_batch(executor, function, own)
    elif not requests[0].is_done.done():
      requests[0].is_done.set_exception(error)
