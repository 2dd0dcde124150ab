"""Ends calls of the training graph: after a while, or when a signal arrives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import contextlib
import signal
import socket
import threading
from typing import Any, TypeVar

from absl import logging
import tensorflow as tf

from errors import Interrupted

Result = TypeVar("Result")

# Longest time of a call in seconds: long enough that its overhead is
# negligible, short enough that the user sees numbers change.
_SECONDS_PER_CALL = 2.0

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def signal_of(flags: Sequence[float]) -> int:
  """Returns the number of the signal that arrived, or 0.

  Args:
    flags: Values of `Call.flags`, or their sums over several workers.
  """
  for number, flag in zip(_SIGNALS, flags[1:]):
    if flag:
      return int(number)
  return 0


class Call:
  """Ends calls of the training graph early; a context manager.

  The graph reads `flags` before each step. Python's own signal handlers run
  only when the call has ended. A thread that the interpreter wakes up when a
  signal arrives can set a flag at once.

  Attributes:
    flags: float32 variable [3]: 1 if the call has lasted long enough, and for
      each of the signals 1 if it arrived.
  """

  def __init__(self, num_workers: int):
    """Listens to no signal yet.

    Args:
      num_workers: Number of machines that train together.
    """
    self._num_workers = num_workers
    with tf.device("CPU:0"):
      self.flags = tf.Variable(tf.zeros([1 + len(_SIGNALS)]), trainable=False)
    self._signal: signal.Signals | None = None
    self._may_be_left = False

  def __enter__(self) -> Call:
    # Python handles signals in the main thread only.
    self._is_listening = threading.current_thread() is threading.main_thread()
    if self._is_listening:
      self._receiver, self._sender = socket.socketpair()
      self._sender.setblocking(False)
      self._old_handlers: dict[int, Any] = {
        number: signal.signal(number, self._handle) for number in _SIGNALS
      }
      self._old_wakeup = signal.set_wakeup_fd(self._sender.fileno())
      self._listener = threading.Thread(target=self._listen, daemon=True)
      self._listener.start()
    return self

  def __exit__(self, exception_type, exception, traceback) -> None:
    """Stops listening.

    Raises:
      Interrupted: A signal arrived too late for anything else to act on it.
    """
    if self._is_listening:
      signal.set_wakeup_fd(self._old_wakeup)
      for number, handler in self._old_handlers.items():
        signal.signal(number, handler)
      self._sender.close()
      self._listener.join()
      self._receiver.close()
    if self._signal and exception_type is None:
      raise Interrupted(
        self._signal,
        f"Stopped by {self._signal.name} after the last step, which is saved. "
        "The same command resumes from there.",
      )

  def _listen(self) -> None:
    """Sets the flags of the signals whose numbers the interpreter sends."""
    while numbers := self._receiver.recv(16):
      for number in numbers:
        if number in _SIGNALS:
          self._set_flag(1 + _SIGNALS.index(signal.Signals(number)), 1.0)

  def _handle(self, number: int, unused_frame: Any) -> None:
    if self._signal == signal.SIGINT == number:
      raise KeyboardInterrupt  # the second time: at once, without saving
    self._signal = signal.Signals(number)
    advice = ""
    if number == signal.SIGINT:
      advice = " Press Ctrl-C again to exit without saving."
    logging.warning("%s: saving, then exiting.%s", self._signal.name, advice)
    if self._may_be_left:
      raise _Left

  def _set_flag(self, index: int, value: float) -> None:
    self.flags[index].assign(value)

  @contextlib.contextmanager
  def limited(self) -> Iterator[None]:
    """Ends the call of the graph inside after a few seconds."""
    self._set_flag(0, 0.0)
    timer = threading.Timer(_SECONDS_PER_CALL, self._set_flag, (0, 1.0))
    timer.start()
    try:
      yield
    finally:
      timer.cancel()
      timer.join()

  def unless_signalled(
    self, function: Callable[[], Result]
  ) -> tuple[Result | None, int]:
    """Calls a function that may take long, and leaves it if a signal arrives.

    Returns:
      The result of the function and 0, or None and the number of the signal.
    """
    # With several workers, the others would wait for one that left alone.
    if self._num_workers > 1:
      return function(), 0
    try:
      self._may_be_left = True
      if self._signal:
        raise _Left
      return function(), 0
    except _Left:
      assert self._signal
      return None, int(self._signal)
    finally:
      self._may_be_left = False


class _Left(BaseException):
  """Ends an evaluation when a signal arrives.

  It is no `Exception`, so that no handler inside the evaluation catches it.
  """
