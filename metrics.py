"""Scores: NumPy functions of labels and predictions."""

import math

import numpy as np


def accuracy(labels: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
  """Share of predictions that are right; both are ints [num_examples]."""
  return {"accuracy": float(np.mean(labels == predictions))}


def accuracy_and_f1(labels: np.ndarray,
                    predictions: np.ndarray) -> dict[str, float]:
  """Accuracy, and F1 of class 1; both arguments are ints [num_examples]."""
  true_positives = np.sum((labels == 1) & (predictions == 1))
  positives = np.sum(labels == 1) + np.sum(predictions == 1)
  f1 = 2 * true_positives / positives if positives else 0.0
  return {**accuracy(labels, predictions), "f1": float(f1)}


def matthews_correlation(labels: np.ndarray,
                         predictions: np.ndarray) -> dict[str, float]:
  """Matthews correlation of two classes (Matthews, 1975), and accuracy.

  0 where it is not defined: one class only, in the labels or the predictions.
  """
  counts = [[float(np.sum((labels == label) & (predictions == prediction)))
             for prediction in (0, 1)] for label in (0, 1)]
  (tn, fp), (fn, tp) = counts
  product = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
  correlation = (tp * tn - fp * fn) / math.sqrt(product) if product else 0.0
  return {**accuracy(labels, predictions), "matthews": correlation}


def log_softmax(logits: np.ndarray) -> np.ndarray:
  """Log probabilities, float64 [..., num_classes], of logits of that shape."""
  logits = np.asarray(logits, np.float64)
  logits = logits - np.max(logits, axis=-1, keepdims=True)
  return logits - np.log(np.sum(np.exp(logits), axis=-1, keepdims=True))


def cross_entropy(labels: np.ndarray, logits: np.ndarray) -> float:
  """Mean loss of int labels [n] under logits [n, num_classes]."""
  return float(-np.mean(log_softmax(logits)[np.arange(len(labels)), labels]))
