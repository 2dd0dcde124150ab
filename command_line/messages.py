"""Messages on standard error: short lines, and no noise."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import logging as python_logging
import os
import shutil
import sys
import tempfile

from absl import logging

_STDERR = 2  # the number of the file
# Time between two lines about progress: in a log, and on a terminal.
SECONDS_PER_LINE = 10.0
_SECONDS_PER_UPDATE = 0.1
# Returns to the start of the line and erases it.
_ERASE_LINE = "\r\x1b[K"


class ProgressLine:
  """A line about progress: updated on a terminal, elsewhere logged at times.

  What else is logged appears above the line.
  """

  # The one that is on the screen and not finished, if any.
  _open: ProgressLine | None = None

  def __init__(self, last_time: float):
    """Shows nothing yet.

    Args:
      last_time: Time from which the seconds between lines count.
    """
    self._last_time = last_time
    self._in_place = sys.stderr.isatty()

  def is_due(self, now: float) -> bool:
    """Returns whether it is time to show something new."""
    pause = _SECONDS_PER_UPDATE if self._in_place else SECONDS_PER_LINE
    return now - self._last_time >= pause

  def show(self, text: str, now: float, is_last: bool = False) -> None:
    """Shows a text.

    Args:
      text: The text.
      now: The time.
      is_last: Whether the text stays on the screen.
    """
    self._last_time = now
    if not self._in_place:
      logging.info("%s", text)
      return
    width = shutil.get_terminal_size().columns - 1
    sys.stderr.write(_ERASE_LINE + text[:width] + ("\n" if is_last else ""))
    sys.stderr.flush()
    ProgressLine._open = None if is_last else self

  def erase(self) -> None:
    """Removes the line from the screen."""
    if ProgressLine._open is self:
      sys.stderr.write(_ERASE_LINE)
      sys.stderr.flush()
      ProgressLine._open = None

  def keep(self) -> None:
    """Leaves the line on the screen as it is."""
    if ProgressLine._open is self:
      sys.stderr.write("\n")
      ProgressLine._open = None

  @classmethod
  def make_room(cls) -> None:
    """Removes the line that is on the screen, for another message."""
    if cls._open:
      cls._open.erase()


class _Formatter(python_logging.Formatter):
  """Date, time and message; a warning or an error says so."""

  def __init__(self):
    """Sets the format of the time."""
    super().__init__("%(asctime)s %(message)s", "%m-%d %H:%M:%S")

  def formatMessage(self, record: python_logging.LogRecord) -> str:
    ProgressLine.make_room()
    if record.levelno >= python_logging.WARNING:
      return f"{record.asctime} {record.levelname}: {record.message}"
    return super().formatMessage(record)


def set_up() -> None:
  """Makes messages short, and shows those of level INFO."""
  logging.use_absl_handler()
  logging.set_verbosity(logging.INFO)
  logging.get_absl_handler().setFormatter(_Formatter())
  # TensorFlow's C++ code shows errors only. Its warnings are about kernels and
  # devices, which users do not choose.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


class _Collector(python_logging.Handler):
  """Keeps the warnings that it is given."""

  def __init__(self):
    """Starts without warnings."""
    super().__init__(python_logging.WARNING)
    self.warnings: list[str] = []

  def emit(self, record: python_logging.LogRecord) -> None:
    self.warnings.append(record.getMessage())


@contextlib.contextmanager
def collected_warnings() -> Iterator[list[str]]:
  """Yields a list to which the warnings of our code are added."""
  collector = _Collector()
  logger = logging.get_absl_logger()
  logger.addHandler(collector)
  try:
    yield collector.warnings
  finally:
    logger.removeHandler(collector)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
  """Holds back what is written to standard error, unless the block fails.

  TensorFlow's C++ code reports each library of GPUs that a machine without GPUs
  lacks, before its log level counts.
  """
  sys.stderr.flush()
  original = os.dup(_STDERR)
  with tempfile.TemporaryFile() as held:
    os.dup2(held.fileno(), _STDERR)
    try:
      yield
    except BaseException:
      held.seek(0)
      with os.fdopen(os.dup(original), "wb") as stderr:
        shutil.copyfileobj(held, stderr)
      raise
    finally:
      sys.stderr.flush()
      os.dup2(original, _STDERR)
      os.close(original)
