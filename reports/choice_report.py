"""Parts of the page about choices of what follows a context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from errors import UserError
import heads
from reports import example_files
from reports import page
from reports import score_intervals
from tasks import metrics
from tasks import swag

KINDS = (heads.MULTIPLE_CHOICE,)


def write_examples(
  output_dir: str,
  split: str,
  examples: Sequence[swag.ChoiceExample],
  logits: np.ndarray,
  scores: Mapping[str, float] | None = None,
) -> None:
  """Writes the examples of a split for the page.

  Args:
    output_dir: Folder of the run.
    split: Name of the split.
    examples: The examples.
    logits: float [num_examples, num_choices].
    scores: Scores of the examples, if they have labels.
  """

  probabilities = np.exp(metrics.log_softmax(logits))

  def make_row(number: int) -> dict[str, Any]:
    example = examples[number]
    return {
      "id": str(example.id),
      "context": example.context,
      "choices": list(example.choices),
      "label": None if example.label is None else int(example.label),
      "prediction": int(np.argmax(probabilities[number])),
      "probabilities": probabilities[number, : len(example.choices)].tolist(),
    }

  example_files.write(
    output_dir, split, KINDS[0], len(examples), make_row, scores=scores
  )


def _check_rows(content: example_files.ExampleFile) -> bool:
  """Returns whether the examples have labels.

  Raises:
    UserError: A row is damaged.
  """
  place = f"report_{content.split}.jsonl"
  for row in content.rows:
    example_files.pick(row, "id", str, place)
    example_files.pick(row, "context", str, place)
    choices = example_files.pick_list(row, "choices", str, place)
    numbers = example_files.pick_list(row, "probabilities", (int, float), place)
    label = row.setdefault("label", None)
    example_files.pick(row, "label", (int, type(None)), place)
    prediction = example_files.pick(row, "prediction", int, place)
    last = max(prediction, label or 0)
    is_choice = min(prediction, label or 0) >= 0 and last < len(choices)
    if not is_choice or len(numbers) != len(choices):
      raise UserError(
        f"{place}: an example names a choice that it does not have. Run the "
        "evaluation again."
      )
  return all(row["label"] is not None for row in content.rows)


def compute_intervals(content: example_files.ExampleFile) -> dict[str, str]:
  """Returns the intervals of the recorded scores of a split, as text."""
  if not _check_rows(content) or not content.is_whole:
    return {}
  is_right = np.array([r["label"] == r["prediction"] for r in content.rows])

  def score(numbers) -> dict[str, float]:
    return {"accuracy": float(np.mean(is_right[numbers]))}

  return score_intervals.describe_intervals(
    content.scores, score, len(is_right)
  )


def make_part(content: example_files.ExampleFile, budget: int) -> page.Part:
  """Returns the part about a split.

  Args:
    content: The examples of the split.
    budget: Bytes that the examples may take on the page.

  Raises:
    UserError: A row is damaged.
  """
  has_labels = _check_rows(content)
  filters = []
  if has_labels:
    filters.append(page.Filter("state", "right or wrong", ["wrong", "right"]))
  most_choices = max(len(row["choices"]) for row in content.rows)
  numbers = [str(number) for number in range(most_choices)]
  filters.append(page.Filter("prediction", "predicted choice", numbers))
  items = [_make_item(row, has_labels) for row in content.rows]
  # Mistakes first, the surest ones before others.
  items.sort(key=lambda item: (not item["is_wrong"], -item["probability"]))
  values = {
    "examples": page.example_list(
      f"examples-{content.split}",
      "examples",
      filters,
      items,
      content.num_examples,
      budget,
    )
  }
  return page.Part(f"Examples of {content.split}", "choices.html", values)


def _make_item(row: Mapping[str, Any], has_labels: bool) -> dict[str, Any]:
  """Returns an example as an item of the list."""
  prediction, label = row["prediction"], row["label"]
  is_wrong = has_labels and label != prediction
  facets = [("prediction", str(prediction))]
  if has_labels:
    facets.append(("state", "wrong" if is_wrong else "right"))
  choices = []
  for number, text in enumerate(row["choices"]):
    probability = row["probabilities"][number]
    choices.append(
      {
        "text": text,
        "percent": f"{probability:.1%}",
        "width": round(100 * min(max(probability, 0.0), 1.0)),
        "is_label": number == label,
        "is_prediction": number == prediction,
      }
    )
  return {
    "facets": facets,
    "is_wrong": is_wrong,
    "probability": row["probabilities"][prediction],
    "id": row["id"],
    "context": row["context"],
    "choices": choices,
  }
