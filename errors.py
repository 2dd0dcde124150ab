"""Messages for the user: errors that end a program, and warnings.

A warning that must not be overlooked is repeated when the program ends.
"""

from __future__ import annotations

from absl import logging

# Warnings that are repeated when the program ends.
_warnings_for_the_end: list[str] = []


class UserError(ValueError):
  """Something that the user gave cannot be used.

  The message says what was given, what is wrong with it and what to do. A
  program prints it as one line, without a traceback, and exits with status 1.
  """


class Interrupted(BaseException):
  """A signal ended the program; everything done until then is saved.

  It is no `Exception`, so that error handlers do not catch it.

  Attributes:
    signal_number: Number of the signal.
  """

  def __init__(self, signal_number: int, message: str):
    """Stores the number; the message is for the user."""
    super().__init__(message)
    self.signal_number = signal_number


def warn_now_and_at_end(message: str) -> None:
  """Logs a warning, and once more among the last lines of the program."""
  logging.warning("%s", message)
  if message not in _warnings_for_the_end:
    _warnings_for_the_end.append(message)


def repeat_warnings() -> None:
  """Logs the warnings of `warn_now_and_at_end`; called when a program ends."""
  for message in _warnings_for_the_end:
    logging.warning("%s", message)
  _warnings_for_the_end.clear()
