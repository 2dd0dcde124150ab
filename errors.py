"""How a program ends early: an error that its user can fix, or a signal."""


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
