"""Confidence intervals of scores, by resampling examples (Efron, 1979)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import math
from typing import Any

import numpy as np

_SEED = 1
_MOST_RESAMPLES, _FEWEST_RESAMPLES = 1000, 100
# Values that all resamples together may touch.
_MOST_VALUES = 8e6
_PERCENTILES = (2.5, 97.5)


def describe_intervals(
  recorded: Mapping[str, float],
  score_fn: Callable[[Any], Mapping[str, float]],
  num_examples: int,
  values_per_example: int = 1,
) -> dict[str, str]:
  """Returns the 95 % intervals of recorded scores as text.

  Args:
    recorded: Scores that the run recorded, whose names may have a prefix.
    score_fn: Function (index of arrays of examples) -> scores of them.
    num_examples: Number of examples.
    values_per_example: See `compute_intervals`.
  """
  intervals = compute_intervals(score_fn, num_examples, values_per_example)
  return format_intervals(recorded, score_fn(slice(None)), intervals)


def compute_intervals(
  score_fn: Callable[[np.ndarray], Mapping[str, float]],
  num_examples: int,
  values_per_example: int = 1,
) -> dict[str, tuple[float, float]]:
  """Returns the 95 % interval of each score.

  Args:
    score_fn: Function (numbers of examples, int array) -> scores of them.
    num_examples: Number of examples.
    values_per_example: Work that an example makes, such as the number of
      labels. More work means fewer resamples.
  """
  work = max(1, num_examples * values_per_example)
  affordable = int(_MOST_VALUES / work)
  num_resamples = min(max(affordable, _FEWEST_RESAMPLES), _MOST_RESAMPLES)
  generator = np.random.default_rng(_SEED)
  samples: dict[str, list[float]] = {}
  for _ in range(num_resamples):
    numbers = generator.integers(num_examples, size=num_examples)
    for name, score in score_fn(numbers).items():
      samples.setdefault(name, []).append(score)
  intervals = {}
  for name, values in samples.items():
    low, high = np.percentile(values, _PERCENTILES)
    intervals[name] = (float(low), float(high))
  return intervals


def format_intervals(
  recorded: Mapping[str, float],
  computed: Mapping[str, float],
  intervals: Mapping[str, tuple[float, float]],
) -> dict[str, str]:
  """Returns the intervals of recorded scores as text.

  A score that the examples do not reproduce has no interval: they are a sample,
  or the score is another one of the same name.

  Args:
    recorded: Scores that the run recorded, whose names may have a prefix.
    computed: Scores of the examples of the page.
    intervals: Intervals of these.
  """
  texts = {}
  for name, score in recorded.items():
    short = name if name in computed else name.rpartition("_")[2]
    for candidate in computed:
      if name.endswith(f"_{candidate}") and len(candidate) > len(short):
        short = candidate
    is_same = short in computed and math.isclose(
      computed[short], score, rel_tol=1e-4, abs_tol=1e-9
    )
    if is_same and short in intervals:
      low, high = intervals[short]
      texts[name] = f"{low:.4g} to {high:.4g}"
  return texts
