"""Overlapping windows over texts that are longer than a sequence."""

from typing import NamedTuple

import numpy as np


class TextWindows(NamedTuple):
  """Stretches of a text that is longer than a sequence, which overlap.

  Attributes:
    starts: the first token of each, int [n].
    lengths: how many tokens each has, int [n].
    is_max_context: whether a token has more context there than in any other
      window, bool [n, longest]; False beyond the length.
  """

  starts: np.ndarray
  lengths: np.ndarray
  is_max_context: np.ndarray

  @classmethod
  def cut(cls, num_tokens: int, room: int, stride: int) -> "TextWindows":
    """Cuts windows of at most `room` tokens, each `stride` after the last.

    A text without tokens has none.
    """
    if 0 < num_tokens <= room:
      return cls(
        np.zeros(1, int), np.array([num_tokens]), np.ones([1, num_tokens], bool)
      )
    stride = min(stride, room)
    num_windows = 1 + max(0, -(-(num_tokens - room) // stride))
    if not num_tokens:
      num_windows = 0
    starts = np.arange(num_windows) * stride
    lengths = np.minimum(room, num_tokens - starts)
    # The context of a token is the smaller one of left and right; among equal
    # ones the longer window counts, and then the first.
    best, most_context = np.zeros(num_tokens, int), np.full(num_tokens, -np.inf)
    for window, (start, length) in enumerate(zip(starts, lengths)):
      here = slice(start, start + length)
      left = np.arange(length)
      context = np.minimum(left, left[::-1]) + 0.01 * length
      is_best = context > most_context[here]
      best[here][is_best] = window
      most_context[here][is_best] = context[is_best]
    is_max_context = np.zeros([num_windows, min(room, num_tokens)], bool)
    is_max_context[best, np.arange(num_tokens) - starts[best]] = True
    return cls(starts, lengths, is_max_context)
