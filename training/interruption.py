"""Ends a call of the training graph: after a while, or when a signal comes."""

from collections.abc import Callable, Sequence
import contextlib
import signal
import socket
import threading

from absl import logging
import tensorflow as tf

from errors import Interrupted

# How long a call may take, in seconds: long enough that its overhead does not
# count, short enough to show a living number.
_SECONDS_PER_CALL = 2.0

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def signal_of(flags: Sequence[float]) -> int:
  """Returns the number of a signal that `Call.flags` tell of, or 0.

  They may be sums over machines.
  """
  return next(
    (int(number) for number, flag in zip(_SIGNALS, flags[1:]) if flag), 0
  )


class Call:
  """Ends calls of the training graph early; a context manager.

  The graph reads `flags` before each step. Python's own handlers of signals run
  only when the call is over; a thread that the interpreter wakes up on a signal
  can set a flag at once.

  Attributes:
    flags: float32 variable: 1 when the call has lasted long enough, and for
      each of the signals when it came.
  """

  def __init__(self, num_workers: int):
    """Listens to no signal yet; `num_workers` is how many machines train."""
    self._num_workers = num_workers
    with tf.device("CPU:0"):
      self.flags = tf.Variable(tf.zeros([1 + len(_SIGNALS)]), trainable=False)
    self._signal = None
    self._may_be_left = False

  def __enter__(self) -> "Call":
    self._is_listening = threading.current_thread() is threading.main_thread()
    if self._is_listening:
      self._receiver, self._sender = socket.socketpair()
      self._sender.setblocking(False)
      self._old_handlers = {
        number: signal.signal(number, self._handle) for number in _SIGNALS
      }
      self._old_wakeup = signal.set_wakeup_fd(self._sender.fileno())
      self._listener = threading.Thread(target=self._listen, daemon=True)
      self._listener.start()
    return self

  def __exit__(self, exception_type, exception, traceback) -> None:
    """Stops listening.

    Raises:
      Interrupted: a signal came too late for anything else to act on it.
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
        f"Stopped by {self._signal.name} after "
        "the last step, which is saved. The same command "
        "continues from there.",
      )

  def _listen(self) -> None:
    while numbers := self._receiver.recv(16):
      for number in numbers:
        if number in _SIGNALS:
          self._set_flag(1 + _SIGNALS.index(number), 1.0)

  def _handle(self, number: int, unused_frame) -> None:
    if self._signal == signal.SIGINT == number:
      raise KeyboardInterrupt  # asked twice: at once, and without saving
    self._signal = signal.Signals(number)
    logging.warning(
      "%s: saving, then leaving.%s",
      self._signal.name,
      " Once more to leave without saving." if number == signal.SIGINT else "",
    )
    if self._may_be_left:
      raise _Left

  def _set_flag(self, index: int, value: float) -> None:
    self.flags[index].assign(value)

  @contextlib.contextmanager
  def limited(self):
    """Lets the call inside last a few seconds."""
    self._set_flag(0, 0.0)
    timer = threading.Timer(_SECONDS_PER_CALL, self._set_flag, (0, 1.0))
    timer.start()
    try:
      yield
    finally:
      timer.cancel()
      timer.join()

  def unless_signalled(self, function: Callable[[], object]):
    """Calls a function that may take long, and leaves it when a signal comes.

    Returns what `function` returns and 0, or None and the signal.
    """
    # Other machines would wait for one that left alone.
    if self._num_workers > 1:
      return function(), 0
    try:
      self._may_be_left = True
      if self._signal:
        raise _Left
      return function(), 0
    except _Left:
      return None, int(self._signal)
    finally:
      self._may_be_left = False


class _Left(BaseException):
  """Leaves an evaluation when a signal comes."""
