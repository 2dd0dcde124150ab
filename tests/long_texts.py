"""Long texts that reveal slow code, and a time limit for its tests."""

from collections.abc import Iterator
import contextlib
import signal

# Texts repeat one of these. Code that looks back from each part, or that tries
# to match from each position, takes quadratic time: hours for a million
# characters.
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
  """Returns a long text of the given shape, after one letter."""
  part = SHAPES[shape]
  return "a" + part * (num_chars // len(part))


@contextlib.contextmanager
def time_limit(seconds: int = 60) -> Iterator[None]:
  """Raises AssertionError when the body takes longer.

  Args:
    seconds: Limit, far above the time that linear code needs.
  """

  def fail(*unused_args):
    raise AssertionError(f"not done after {seconds} seconds")

  previous = signal.signal(signal.SIGALRM, fail)
  signal.alarm(seconds)
  try:
    yield
  finally:
    signal.alarm(0)
    signal.signal(signal.SIGALRM, previous)
