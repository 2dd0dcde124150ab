"""Notices that a training does not learn: `LearningWatch`.

A model that knows only how often each token occurs reaches a masked LM loss
equal to the entropy of these frequencies. It learns that within the warm-up. A
loss that stays there means that the model does not use the context. In the same
way, a next sentence loss equal to the entropy of its labels is pure chance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import functools
import math

from absl import logging
import numpy as np
import tensorflow as tf

from errors import warn_now_and_at_end
from pretraining import record_formats

MASKED_LM, NEXT_SENTENCE = "masked_lm_loss", "next_sentence_loss"
# Records that the entropies are estimated from.
_MOST_FILES, _RECORDS_PER_FILE = 8, 1000
# Number of steps after the warm-up that are averaged for a verdict.
_WINDOW = 200
# A loss this much below the entropy, in nats, is better than chance.
_MARGIN = {MASKED_LM: 0.05, NEXT_SENTENCE: 0.01}
# Next sentences are learned later than words: number of steps after the
# warm-up before which chance is no reason to worry.
_STEPS_UNTIL_NEXT_SENTENCES = 1000

_ADVICE = {
  MASKED_LM: (
    "the masked LM loss is {loss:.2f}. A model that knows only how often each "
    "token occurs has {entropy:.2f}: this one does not use the context yet. "
    "If it stays there, a lower --learning_rate (half or a quarter), a longer "
    "warm-up (--num_warmup_steps) or --bias_correction usually help; for small "
    "models also --dropout=0, --lr_decay=wsd, more masked tokens (0.3), and "
    "smaller batches with more steps."
  ),
  NEXT_SENTENCE: (
    "the next sentence loss is {loss:.3f}, which is chance ({entropy:.3f}). "
    "Longer training or a lower --learning_rate usually helps. Check that the "
    "documents of the text are separated by empty lines, or make records "
    "without next sentences."
  ),
}


def measure_entropies(
  files: Sequence[str],
  record_format: record_formats.PretrainingFormat,
  has_copies: bool = False,
) -> dict[str, float]:
  """Returns the losses, in nats, of a model that knows only frequencies.

  Args:
    files: Paths of the TFRecord files; a few thousand records are read.
    record_format: Format of the records.
    has_copies: Whether the records become pairs with altered copies, half of
      them of another text.

  Returns:
    `masked_lm_loss`, and `next_sentence_loss` if the records have labels.
  """
  spec = record_format.feature_spec()
  token_counts = np.zeros(0, np.int64)
  label_counts = np.zeros(0, np.int64)
  for file in files[:_MOST_FILES]:
    records = tf.data.TFRecordDataset(file).take(_RECORDS_PER_FILE)
    for serialized in records.batch(_RECORDS_PER_FILE):
      features = tf.io.parse_example(serialized, spec)
      is_real = features["masked_lm_weights"].numpy() > 0
      tokens = features["masked_lm_ids"].numpy()[is_real]
      token_counts = _add_counts(token_counts, tokens)
      if record_format.has_next_sentence:
        labels = features["next_sentence_labels"].numpy()
        if "next_sentence_weights" in features:
          labels = labels[features["next_sentence_weights"].numpy() > 0]
        label_counts = _add_counts(label_counts, labels)
  entropies = {MASKED_LM: entropy(token_counts)}
  if record_format.has_next_sentence:
    entropies[NEXT_SENTENCE] = entropy(label_counts)
  elif has_copies:
    entropies[NEXT_SENTENCE] = math.log(2.0)
  return entropies


def _add_counts(counts: np.ndarray, ids: np.ndarray) -> np.ndarray:
  """Returns the counts with one more for each of some ids."""
  new_counts = np.bincount(ids.ravel(), minlength=len(counts))
  new_counts[: len(counts)] += counts
  return new_counts


def entropy(counts: np.ndarray) -> float:
  """Returns the entropy of a distribution, in nats, from counts of a sample.

  A sample looks more regular than what it was drawn from. The correction of
  Miller (1955) adds (number of values - 1) / (2 * size of the sample).
  """
  counts = counts[counts > 0]
  if not counts.size:
    return 0.0
  total = counts.sum()
  shares = counts / total
  plain = float(-np.sum(shares * np.log(shares)))
  return plain + (len(counts) - 1) / (2.0 * float(total))


class LearningWatch:
  """Warns if the losses after the warm-up are those of frequencies.

  It is an observer of `TPUEstimator.train`, and never ends the training.
  """

  def __init__(self, num_warmup_steps: int):
    """Watches nothing yet.

    Args:
      num_warmup_steps: Number of steps of the warm-up.
    """
    self._num_warmup_steps = num_warmup_steps
    self._measure: Callable[[], Mapping[str, float]] = dict
    self._recent: dict[str, list[float]] = {}  # losses of the last steps
    self._step = 0
    self._warned: set[str] = set()

  def begin(self, measure: Callable[[], Mapping[str, float]]) -> None:
    """Begins to watch the training on some records.

    Args:
      measure: Returns `measure_entropies` of the records. It is called when
        there are enough losses to compare, which short runs never have.
    """
    self._measure = functools.cache(measure)
    self._recent = {name: [] for name in _ADVICE}

  def __call__(self, step: int, report) -> bool:
    """Takes note of the steps of a call of the graph; see `StepReport`."""
    self._step = step
    for name, values in report.parts.items():
      if name not in self._recent:
        continue
      steps = np.arange(step - len(values) + 1, step + 1)
      is_late = steps > self._first_step_to_judge(name)
      self._recent[name].extend(values[is_late].tolist())
      del self._recent[name][:-_WINDOW]
      if name not in self._warned and self._is_at_chance(name):
        self._warned.add(name)
        logging.warning("After step %d, %s", step, self._describe(name))
    return False

  def repeat_at_end(self) -> None:
    """Warns once more, at the end, of the losses that are still at chance."""
    for name in self._recent:
      if self._is_at_chance(name):
        warn_now_and_at_end(f"After step {self._step}, {self._describe(name)}")

  def _first_step_to_judge(self, name: str) -> int:
    if name == NEXT_SENTENCE:
      return self._num_warmup_steps + _STEPS_UNTIL_NEXT_SENTENCES
    return self._num_warmup_steps

  def _is_at_chance(self, name: str) -> bool:
    losses = self._recent[name]
    if len(losses) < _WINDOW:
      return False
    return self._mean_loss(name) > self._measure()[name] - _MARGIN[name]

  def _mean_loss(self, name: str) -> float:
    return float(np.mean(self._recent[name]))

  def _describe(self, name: str) -> str:
    return _ADVICE[name].format(
      loss=self._mean_loss(name), entropy=self._measure()[name]
    )
