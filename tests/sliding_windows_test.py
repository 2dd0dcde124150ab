"""Tests of data/sliding_windows.py."""

import tracemalloc

import numpy as np
import pytest

from data import sliding_windows


@pytest.mark.parametrize(
  "num_tokens, max_length, stride, starts, lengths",
  [
    (0, 4, 2, [], []),
    (1, 4, 2, [0], [1]),
    (4, 4, 2, [0], [4]),
    (5, 4, 2, [0, 2], [4, 3]),
    (8, 4, 2, [0, 2, 4], [4, 4, 4]),
    (9, 4, 2, [0, 2, 4, 6], [4, 4, 4, 3]),
    (3, 1, 1, [0, 1, 2], [1, 1, 1]),
    # A stride that is too long leaves no gaps.
    (9, 4, 7, [0, 4, 8], [4, 4, 1]),
  ],
)
def test_windows_cover_the_text(
  num_tokens, max_length, stride, starts, lengths
):
  windows = sliding_windows.cut_windows(num_tokens, max_length, stride)
  assert windows.starts.tolist() == starts
  assert windows.lengths.tolist() == lengths
  longest = max(lengths, default=0)
  assert windows.is_max_context.shape == (len(starts), longest)
  # Every token counts in one window.
  counts = np.zeros(num_tokens, int)
  for start, length, is_max in zip(*windows):
    assert not is_max[length:].any()
    counts[start : start + length] += is_max[:length]
  assert (counts == 1).all()


def test_a_token_counts_where_it_has_most_context():
  def find_best_window(windows, token):
    """Returns the window in which the original code counts a token."""
    best_window, best_score = None, None
    for window, (start, length) in enumerate(
      zip(windows.starts, windows.lengths)
    ):
      end = start + length - 1
      if not start <= token <= end:
        continue
      score = min(token - start, end - token) + 0.01 * length
      if best_score is None or score > best_score:
        best_window, best_score = window, score
    return best_window

  cases = [
    (num_tokens, *sizes)
    for num_tokens in range(40)
    for sizes in [(1, 1), (7, 3), (7, 7), (7, 20), (12, 5)]
  ]
  # Last windows that are 80 and 150 tokens shorter: from 100 tokens on, the
  # hundredth of the length counts more than a token of context.
  cases += [(370, 250, 100), (300, 250, 200)]
  for case in cases:
    windows = sliding_windows.cut_windows(*case)
    num_tokens = case[0]
    for token in range(num_tokens):
      window = find_best_window(windows, token)
      column = token - windows.starts[window]
      assert windows.is_max_context[window, column]


def test_windows_of_a_long_text_take_little_memory():
  tracemalloc.start()
  windows = sliding_windows.cut_windows(20_000, max_length=10, stride=8)
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert windows.is_max_context.shape == (2500, 10)
  assert peak < 50e6
