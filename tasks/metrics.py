"""Scores: NumPy functions of labels and predictions.

Where a score is not defined it is 0: F1 without positives, a correlation with
what is constant.
"""

import collections
from collections.abc import Sequence
import math
import operator

import numpy as np


def accuracy(labels: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
  """Share of predictions that are right; both are ints [num_examples]."""
  return {"accuracy": float(np.mean(labels == predictions))}


def accuracy_and_f1(
  labels: np.ndarray, predictions: np.ndarray
) -> dict[str, float]:
  """Accuracy, and F1 of class 1; both arguments are ints [num_examples]."""
  return {
    **accuracy(labels, predictions),
    "f1": float(_f1(labels == 1, predictions == 1)),
  }


def accuracy_and_macro_f1(
  labels: np.ndarray, predictions: np.ndarray
) -> dict[str, float]:
  """Accuracy, and the mean F1 of all classes; arguments as for `accuracy`."""
  classes = np.union1d(labels, predictions)
  f1 = _f1(
    labels[:, np.newaxis] == classes, predictions[:, np.newaxis] == classes
  )
  return {**accuracy(labels, predictions), "macro_f1": float(np.mean(f1))}


def multi_label_scores(
  labels: np.ndarray, predictions: np.ndarray
) -> dict[str, float]:
  """Scores of examples that have any number of labels.

  Args:
    labels: 1 or 0, [num_examples, num_labels].
    predictions: likewise.

  Returns:
    `exact_match`, the share of examples with all labels right; `micro_f1`, of
    all decisions; `macro_f1`, the mean over labels.
  """
  labels, predictions = labels > 0, predictions > 0
  return {
    "exact_match": float(np.mean(np.all(labels == predictions, axis=1))),
    "micro_f1": float(_f1(labels.ravel(), predictions.ravel())),
    "macro_f1": float(np.mean(_f1(labels, predictions))),
  }


def _f1(labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
  """F1 (van Rijsbergen, 1979) of each column of bools."""
  true_positives = np.sum(labels & predictions, axis=0)
  positives = np.sum(labels, axis=0) + np.sum(predictions, axis=0)
  return np.where(positives, 2 * true_positives / np.maximum(positives, 1), 0.0)


def matthews_correlation(
  labels: np.ndarray, predictions: np.ndarray
) -> dict[str, float]:
  """Correlation of classes (Matthews, 1975; Gorodkin, 2004), and accuracy."""
  table = confusion_matrix(
    labels, predictions, 1 + int(max(labels.max(), predictions.max()))
  )
  table = table.astype(float)
  total, right = table.sum(), np.trace(table)
  true, predicted = table.sum(axis=1), table.sum(axis=0)
  product = (total**2 - predicted @ predicted) * (total**2 - true @ true)
  correlation = (
    (right * total - true @ predicted) / math.sqrt(product) if product else 0.0
  )
  return {**accuracy(labels, predictions), "matthews": float(correlation)}


def correlations_and_errors(
  labels: np.ndarray, predictions: np.ndarray
) -> dict[str, float]:
  """Scores of numbers [num_examples].

  Returns:
    `pearson`, the correlation of the numbers; `spearman`, that of their ranks;
    `mse` and `mae`, the means of squared and of absolute errors.
  """
  labels, predictions = (
    np.asarray(x, np.float64) for x in (labels, predictions)
  )
  errors = predictions - labels
  return {
    "pearson": _correlation(labels, predictions),
    "spearman": _correlation(_ranks(labels), _ranks(predictions)),
    "mse": float(np.mean(errors**2)),
    "mae": float(np.mean(np.abs(errors))),
  }


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
  x, y = x - np.mean(x), y - np.mean(y)
  product = (x @ x) * (y @ y)
  return float(x @ y / math.sqrt(product)) if product else 0.0


def _ranks(values: np.ndarray) -> np.ndarray:
  """Ranks, float64; equal values share the mean of theirs."""
  _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
  ends = np.cumsum(counts)
  return (ends - (counts - 1) / 2.0)[which]


def confusion_matrix(
  labels: np.ndarray, predictions: np.ndarray, num_labels: int
) -> np.ndarray:
  """How often each label (row) was predicted as each (column), int64."""
  return np.bincount(
    labels * num_labels + predictions, minlength=num_labels**2
  ).reshape(num_labels, num_labels)


# --- Entities ----------------------------------------------------------------


def entities(tags: Sequence[str]) -> set[tuple[str, int, int]]:
  """Returns the entities of a sentence: type, first word, word after the last.

  As the official `conlleval` reads tags of IOB1, IOB2 and BIOES, whatever
  precedes what: an entity begins with B- or S-, and with any other tag that
  does not continue one of its type; it ends with E- or S-, and before a tag
  that does not continue it.
  """
  result = set()
  kind, first, is_open = "", 0, False
  for place, tag in enumerate((*tags, "O")):
    prefix, _, this_kind = tag.partition("-")
    continues = is_open and prefix in ("I", "E") and this_kind == kind
    if is_open and not continues:
      result.add((kind, first, place))
      is_open = False
    if tag != "O" and not continues:
      kind, first, is_open = this_kind, place, True
    if is_open and prefix in ("E", "S"):
      result.add((kind, first, place + 1))
      is_open = False
  return result


def entity_scores(
  labels: Sequence[Sequence[str]], predictions: Sequence[Sequence[str]]
) -> dict[str, float]:
  """Precision, recall and F1 of entities that are right as a whole.

  Args:
    labels: the tags of each sentence.
    predictions: likewise.

  Returns:
    `precision`, `recall`, `f1` of all, and with the prefix `<type>_` of each
    type; `accuracy` of tags.
  """
  counts = collections.defaultdict(lambda: np.zeros(3))
  right = total = 0
  for sentence, predicted in zip(labels, predictions, strict=True):
    wanted, found = entities(sentence), entities(predicted)
    for column, some in enumerate((wanted & found, found, wanted)):
      for kind, _, _ in some:
        counts[f"{kind}_"][column] += 1
        counts[""][column] += 1
    right += sum(map(operator.eq, sentence, predicted))
    total += len(sentence)
  results = {"accuracy": right / total}
  for prefix, (both, found, wanted) in {"": counts[""], **counts}.items():
    results[f"{prefix}precision"] = float(both / found) if found else 0.0
    results[f"{prefix}recall"] = float(both / wanted) if wanted else 0.0
    results[f"{prefix}f1"] = (
      float(2 * both / (found + wanted)) if (found + wanted) else 0.0
    )
  return results


# --- Probabilities -----------------------------------------------------------


def log_softmax(logits: np.ndarray) -> np.ndarray:
  """Log probabilities, float64 [..., num_classes], of logits of that shape."""
  logits = np.asarray(logits, np.float64)
  logits = logits - np.max(logits, axis=-1, keepdims=True)
  return logits - np.log(np.sum(np.exp(logits), axis=-1, keepdims=True))


def sigmoid(logits: np.ndarray) -> np.ndarray:
  """Probabilities, float64, of logits that stand each for itself."""
  return np.exp(-np.logaddexp(0.0, -np.asarray(logits, np.float64)))
