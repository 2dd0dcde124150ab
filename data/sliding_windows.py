"""Overlapping windows over texts that are longer than a sequence.

    tokens       0 1 2 3 4 5 6 7      8 tokens, windows of 4, stride 2
    window 0     0 0 0 .
    window 1         . 1 1 .
    window 2             . 2 2 2

A token occurs in several windows but counts in only one of them, the one that
shows the most context around it; there its number is drawn. A window shows as
much context as there is on the side with fewer tokens.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class TextWindows(NamedTuple):
  """Overlapping windows over the tokens of a text.

  Attributes:
    starts: int [num_windows], first token of each window.
    lengths: int [num_windows], number of tokens of each window.
    is_max_context: bool [num_windows, longest window], whether a token has
      more context in this window than in any other; False behind the window's
      end.
  """

  starts: np.ndarray
  lengths: np.ndarray
  is_max_context: np.ndarray


def cut_windows(num_tokens: int, max_length: int, stride: int) -> TextWindows:
  """Returns windows that together cover a text.

  Args:
    num_tokens: Number of tokens of the text. A text without tokens has no
      window.
    max_length: Maximum number of tokens of a window. Only the last window may
      be shorter.
    stride: Distance between the starts of two windows. A stride larger than
      `max_length` would leave gaps, and counts as `max_length`.
  """
  # Most texts fit. This shortcut makes cutting SQuAD faster.
  if 0 < num_tokens <= max_length:
    return TextWindows(
      np.zeros(1, int), np.array([num_tokens]), np.ones([1, num_tokens], bool)
    )
  stride = min(stride, max_length)
  num_windows = 0
  if num_tokens:
    num_uncovered = num_tokens - max_length
    num_windows = 1 + -(-num_uncovered // stride)  # rounded up
  starts = np.arange(num_windows) * stride
  lengths = np.minimum(max_length, num_tokens - starts)

  best_windows = _find_best_windows(num_tokens, starts, lengths)
  columns = np.arange(num_tokens) - starts[best_windows]
  longest = min(max_length, num_tokens)
  is_max_context = np.zeros([num_windows, longest], bool)
  is_max_context[best_windows, columns] = True
  return TextWindows(starts, lengths, is_max_context)


def _find_best_windows(
  num_tokens: int, starts: np.ndarray, lengths: np.ndarray
) -> np.ndarray:
  """Returns the window with the most context for each token, int [num_tokens].

  The context of a token is the number of tokens to its left or to its right in
  the window, whichever is smaller. Like the original code, we add a hundredth
  of the window's length, so that the longer of two windows wins if a token has
  the same context in both; if they are equally long, the first one wins.
  """
  best_windows = np.zeros(num_tokens, int)
  most_context = np.full(num_tokens, -np.inf)
  for window, (start, length) in enumerate(zip(starts, lengths)):
    # Views of the tokens in this window; writing to them changes the arrays.
    best_here = best_windows[start : start + length]
    most_here = most_context[start : start + length]
    num_left = np.arange(length)
    num_right = num_left[::-1]
    context = np.minimum(num_left, num_right) + 0.01 * length
    is_better = context > most_here
    best_here[is_better] = window
    most_here[is_better] = context[is_better]
  return best_windows
