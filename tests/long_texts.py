"""Texts of any length that make slow code hang, and a limit for it to fail."""

from collections.abc import Iterator
import contextlib
import signal

# Each is repeated. Code that goes back in the text for each of its parts, or
# tries each of its places as a beginning, needs hours for a million of them.
SHAPES = {
  "word": "a",
  "words": "ab ",
  "spaces": " ",
  "punctuation": ".!",
  "marks": "\u0301\u0316",
  "kept marks": "\u302e\u0316",
  "sigmas": "Σ",
  "Chinese": "\u4e2d",
  "Korean": "\ud55c",
  "full stops": ".",
  "abbreviations": "Mr. ",
  "initials": "J.",
  "quotes": '.""" ',
  "quoted": '. "',
  "Chinese stops": "\u3002 ",
  "letters": "A b. ",
  "emoji": "\U0001f468\u200d",
}


def of_length(shape: str, num_chars: int) -> str:
  """Returns a text of a shape; of marks, they are on one letter."""
  part = SHAPES[shape]
  return "a" + part * (num_chars // len(part))


@contextlib.contextmanager
def time_limit(seconds: int = 60) -> Iterator[None]:
  """Fails a test that would hang. The limit is far above what code needs."""

  def fail(*unused_args):
    raise AssertionError(f"not done after {seconds} seconds")

  previous = signal.signal(signal.SIGALRM, fail)
  signal.alarm(seconds)
  try:
    yield
  finally:
    signal.alarm(0)
    signal.signal(signal.SIGALRM, previous)
