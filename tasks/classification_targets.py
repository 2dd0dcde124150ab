"""Examples with targets, some of whose labels training may not have seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from absl import logging
import numpy as np

from errors import UserError
from tasks import classification
from tasks import text_files

# Number of labels that the log shows with their counts.
_MOST_SHOWN = 40


class LabelledExamples(NamedTuple):
  """Examples of a split, and their targets.

  Attributes:
    examples: The examples.
    labels: Labels of the classifier, followed by labels of the examples that
      the classifier does not know and cannot predict.
    targets: Targets in the form of the problem type, for `labels`.
  """

  examples: list[classification.Example]
  labels: tuple[str, ...]
  targets: np.ndarray


def label_examples(
  task: classification.ClassificationTask,
  split: str,
  examples: Sequence[classification.Example],
  labels: tuple[str, ...],
  counts_unseen: bool,
) -> LabelledExamples:
  """Returns examples with their targets, and logs how often labels occur.

  Args:
    task: The task.
    split: Name of the split.
    examples: Examples of the split.
    labels: Labels of the classifier.
    counts_unseen: Whether other labels may occur outside of `train`.

  Raises:
    UserError: An example has another label, which may not occur; or all have.
  """
  matched = task.match_labels(examples, labels)
  counts = task.count_labels(matched)
  if counts:
    logging.info(
      "%s: %d examples with the labels %s.",
      split,
      len(matched),
      _describe_counts(counts),
    )
  unseen = {name: count for name, count in counts.items() if name not in labels}
  advice = "add examples of it to the training data"
  if split != "train":
    advice = "count it as wrong with --unseen_labels=count"
  elif task.name != "custom":
    advice = f"check that --task_name={task.name} and --data_dir fit together"
  if not unseen or not counts_unseen or split == "train":
    targets = task.targets(matched, labels, advice)
    return LabelledExamples(matched, labels, targets)
  if len(unseen) == len(counts):
    raise UserError(
      f"{split}: no example has a label that training examples have. The "
      f"labels are {_describe_counts(counts)}, not "
      f"{text_files.format_names(labels)}."
    )
  logging.warning(
    "%s: labels that no training example has count as wrong: %s.",
    split,
    _describe_counts(unseen),
  )
  all_labels = (*labels, *sorted(unseen))
  return LabelledExamples(
    matched, all_labels, task.targets(matched, all_labels)
  )


def _describe_counts(counts: dict[str, int]) -> str:
  """Returns labels and their counts for a message."""
  names = sorted(counts)
  phrases = [
    f"{text_files.format_names([name])} {counts[name]}"
    for name in names[:_MOST_SHOWN]
  ]
  if len(names) > _MOST_SHOWN:
    phrases.append(f"and {len(names) - _MOST_SHOWN} others")
  return ", ".join(phrases)
