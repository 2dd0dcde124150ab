"""Scores: NumPy functions of labels and predictions.

A score that is not defined is 0: F1 without positives, a correlation with a
constant.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence
import functools
import math
import operator
import re
from typing import NamedTuple

import numpy as np

OUTSIDE = "O"  # the tag of a word that is in no entity
_ENTITY_TAG = re.compile(r"([BIESLUMW])(?:[-_](.*))?", re.DOTALL)
# Prefixes of BILOU and BMES, under their names in BIOES.
_BIOES_PREFIXES = {"L": "E", "M": "I", "U": "S", "W": "S"}


def accuracy(labels: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
  """Returns the share of correct predictions.

  Args:
    labels: int [num_examples], correct classes.
    predictions: int [num_examples], predicted classes.
  """
  return {"accuracy": float(np.mean(labels == predictions))}


def accuracy_and_f1(
  labels: np.ndarray, predictions: np.ndarray
) -> dict[str, float]:
  """Returns accuracy, and F1 of class 1; arguments as for `accuracy`."""
  return {
    **accuracy(labels, predictions),
    "f1": float(_f1(labels == 1, predictions == 1)),
  }


def accuracy_and_macro_f1(
  labels: np.ndarray, predictions: np.ndarray
) -> dict[str, float]:
  """Returns accuracy, and mean F1 of all classes; arguments as for `accuracy`.

  A class counts if it is among the labels or the predictions.
  """
  classes = np.union1d(labels, predictions)
  is_label = labels[:, np.newaxis] == classes  # [num_examples, num_classes]
  is_predicted = predictions[:, np.newaxis] == classes
  macro_f1 = float(np.mean(_f1(is_label, is_predicted)))
  return {**accuracy(labels, predictions), "macro_f1": macro_f1}


def multi_label_scores(
  labels: np.ndarray, predictions: np.ndarray
) -> dict[str, float]:
  """Returns scores of examples that have any number of labels.

  Args:
    labels: [num_examples, num_labels], 1 for each correct label, else 0.
    predictions: [num_examples, num_labels], 1 for each predicted label, else 0.

  Returns:
    `exact_match`, share of examples with all labels right; `micro_f1`, F1 of
    all decisions together; `macro_f1`, mean F1 of the labels.
  """
  is_label, is_predicted = labels > 0, predictions > 0
  is_right = np.all(is_label == is_predicted, axis=1)
  micro_f1 = _f1(is_label.ravel(), is_predicted.ravel())
  return {
    "exact_match": float(np.mean(is_right)),
    "micro_f1": float(micro_f1),
    "macro_f1": float(np.mean(_f1(is_label, is_predicted))),
  }


def _f1(is_label: np.ndarray, is_predicted: np.ndarray) -> np.ndarray:
  """Returns F1 (van Rijsbergen, 1979) of each column of bools."""
  true_positives = np.sum(is_label & is_predicted, axis=0)
  positives = np.sum(is_label, axis=0) + np.sum(is_predicted, axis=0)
  return 2 * true_positives / np.maximum(positives, 1)


def matthews_correlation(
  labels: np.ndarray, predictions: np.ndarray
) -> dict[str, float]:
  """Returns `matthews`, and accuracy; arguments as for `accuracy`.

  The correlation of several classes is that of Gorodkin (2004); for two
  classes it equals that of Matthews (1975).
  """
  num_classes = 1 + int(max(labels.max(), predictions.max()))
  # A product of four counts would overflow integers.
  table = confusion_matrix(labels, predictions, num_classes).astype(float)
  total, right = table.sum(), np.trace(table)
  wanted, predicted = table.sum(axis=1), table.sum(axis=0)
  # All three are multiplied by the squared number of examples.
  covariance = right * total - wanted @ predicted
  variance_wanted = total**2 - wanted @ wanted
  variance_predicted = total**2 - predicted @ predicted
  product = variance_predicted * variance_wanted
  correlation = covariance / math.sqrt(product) if product else 0.0
  return {**accuracy(labels, predictions), "matthews": float(correlation)}


def correlations_and_errors(
  labels: np.ndarray, predictions: np.ndarray
) -> dict[str, float]:
  """Returns scores of predicted numbers.

  Args:
    labels: [num_examples], correct numbers.
    predictions: [num_examples], predicted numbers.

  Returns:
    `pearson`, correlation of the numbers; `spearman`, correlation of their
    ranks; `mse`, mean of squared errors; `mae`, mean of absolute errors.
  """
  labels = np.asarray(labels, np.float64)
  predictions = np.asarray(predictions, np.float64)
  errors = predictions - labels
  return {
    "pearson": _correlate(labels, predictions),
    "spearman": _correlate(_rank(labels), _rank(predictions)),
    "mse": float(np.mean(errors**2)),
    "mae": float(np.mean(np.abs(errors))),
  }


def _correlate(x: np.ndarray, y: np.ndarray) -> float:
  """Returns Pearson's correlation coefficient."""
  x, y = x - np.mean(x), y - np.mean(y)
  product = (x @ x) * (y @ y)
  return float(x @ y / math.sqrt(product)) if product else 0.0


def _rank(values: np.ndarray) -> np.ndarray:
  """Returns ranks, float64 [num_values]; equal values share their mean rank."""
  # values    3.0  1.0  3.0  2.0
  # groups     2    0    2    1     number of the distinct value
  # counts     1    1    2          of each distinct value
  # ends       1    2    4          last rank of each distinct value
  # ranks     3.5   1   3.5   2
  _, groups, counts = np.unique(values, return_inverse=True, return_counts=True)
  ends = np.cumsum(counts)
  mean_ranks = ends - (counts - 1) / 2.0
  return mean_ranks[groups]


def confusion_matrix(
  labels: np.ndarray, predictions: np.ndarray, num_labels: int
) -> np.ndarray:
  """Returns how often each label (row) was predicted as each label (column).

  Args:
    labels: int [num_examples], correct classes.
    predictions: int [num_examples], predicted classes.
    num_labels: Number of classes.

  Returns:
    int64 [num_labels, num_labels].
  """
  cells = labels * num_labels + predictions
  counts = np.bincount(cells, minlength=num_labels**2)
  return counts.reshape(num_labels, num_labels)


# --- Entities ----------------------------------------------------------------


class EntityTag(NamedTuple):
  """A tag that marks a part of an entity.

  Attributes:
    prefix: Place in the entity, as in BIOES: begin, inside, end or single.
    kind: Type of the entity; "" if entities have no types.
  """

  prefix: str
  kind: str


@functools.cache
def parse_tag(tag: str) -> EntityTag | None:
  """Returns the parts of a tag such as `B-PER`, or None if it has another form.

  The prefixes are those of IOB, BIOES, BILOU (L- ends an entity, U- is a single
  word) and BMES (M- is inside). `B_PER` and, without types, `B` mean the same.
  """
  match = _ENTITY_TAG.fullmatch(tag)
  if not match:
    return None
  prefix, kind = match.groups()
  return EntityTag(_BIOES_PREFIXES.get(prefix, prefix), kind or "")


def find_entities(tags: Sequence[str]) -> set[tuple[str, int, int]]:
  """Returns the entities of a sentence: type, first word, word after the last.

      words      Ann  Lee  met  Bo   in  New  York
      tags       B-p  I-p  O    B-p  O   B-l  I-l
      entities   (p, 0, 2)  (p, 3, 4)  (l, 5, 7)

  The tags of IOB1, IOB2, BIOES, BILOU and BMES are read as in the official
  `conlleval`, even in an impossible order. An entity begins at B- or S-, and at
  any other tag that does not continue an entity of its type. It ends at E- or
  S-, and before any tag that does not continue it. A tag that `parse_tag` does
  not know is outside of entities.
  """
  entities = set()
  kind, first, is_open = "", 0, False
  for place, tag in enumerate((*tags, OUTSIDE)):
    parsed = parse_tag(tag)
    prefix, tag_kind = parsed or (OUTSIDE, "")
    continues = is_open and prefix in ("I", "E") and tag_kind == kind
    if is_open and not continues:
      entities.add((kind, first, place))
      is_open = False
    if parsed and not continues:
      kind, first, is_open = tag_kind, place, True
    if prefix in ("E", "S"):
      entities.add((kind, first, place + 1))
      is_open = False
  return entities


def entity_scores(
  labels: Sequence[Sequence[str]], predictions: Sequence[Sequence[str]]
) -> dict[str, float]:
  """Returns scores of entities, which are right only as a whole.

  Args:
    labels: Correct tags of each sentence.
    predictions: Predicted tags of each sentence.

  Returns:
    `accuracy` of tags; `precision`, `recall` and `f1` of all entities, and of
    each type of entity with the prefix `<type>_`, if entities have types.
  """
  # Numbers of entities by type.
  right: collections.Counter[str] = collections.Counter()
  found: collections.Counter[str] = collections.Counter()
  wanted: collections.Counter[str] = collections.Counter()
  num_right_tags = num_tags = 0
  for sentence, predicted in zip(labels, predictions, strict=True):
    entities, predicted_entities = map(find_entities, (sentence, predicted))
    right.update(kind for kind, _, _ in entities & predicted_entities)
    found.update(kind for kind, _, _ in predicted_entities)
    wanted.update(kind for kind, _, _ in entities)
    num_right_tags += sum(map(operator.eq, sentence, predicted))
    num_tags += len(sentence)
  results = {"accuracy": num_right_tags / num_tags}
  results.update(_entity_f1("", right.total(), found.total(), wanted.total()))
  for kind in sorted({*found, *wanted} - {""}):
    results.update(
      _entity_f1(f"{kind}_", right[kind], found[kind], wanted[kind])
    )
  return results


def _entity_f1(
  prefix: str, right: int, found: int, wanted: int
) -> dict[str, float]:
  """Returns precision, recall and F1 under prefixed names.

  Args:
    prefix: Prefix of the names.
    right: Number of entities that are both predicted and correct.
    found: Number of predicted entities.
    wanted: Number of correct entities.
  """
  return {
    f"{prefix}precision": right / found if found else 0.0,
    f"{prefix}recall": right / wanted if wanted else 0.0,
    f"{prefix}f1": 2 * right / (found + wanted) if found + wanted else 0.0,
  }


# --- Probabilities -----------------------------------------------------------


def log_softmax(logits: np.ndarray) -> np.ndarray:
  """Returns log probabilities, float64 [..., num_classes], of logits."""
  logits = np.asarray(logits, np.float64)
  shifted = logits - np.max(logits, axis=-1, keepdims=True)
  sums = np.sum(np.exp(shifted), axis=-1, keepdims=True)
  return shifted - np.log(sums)


def sigmoid(logits: np.ndarray) -> np.ndarray:
  """Returns the probability of each logit by itself, float64."""
  # Unlike 1 / (1 + exp(-x)), this does not overflow for any logit.
  logits = np.asarray(logits, np.float64)
  return np.exp(-np.logaddexp(0.0, -logits))
