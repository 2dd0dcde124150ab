"""How a program ends early: by an error that its user can mend, or a signal."""


class UserError(ValueError):
  """Something that the user gave cannot be used.

  The message says what was given, what is wrong with it and what to do. A
  program prints it as one line, without a traceback, and exits with status 1.
  """


class Interrupted(BaseException):
  """A signal ended the program; what was made until then is saved.

  Not an `Exception`, so that no handler of errors takes it for one.
  """

  def __init__(self, signal_number: int, message: str):
    super().__init__(message)
    self.signal_number = signal_number
