"""The page of a server: its files, and what it has to know about the models."""

from __future__ import annotations

from collections.abc import Sequence
import functools
import os
from typing import Any

import heads
from serving import model_versions
from serving import text_answers

ENCODER = heads.ENCODER
# Files of the page -> their types.
MEDIA_TYPES = {"page.css": "text/css", "page.js": "text/javascript"}

_TEMPLATES = os.path.join(os.path.dirname(__file__), "templates")
# Rows that the page offers for each kind of question.
_EXAMPLES: dict[str, list[text_answers.Row]] = {
  "classify": [
    ("The food was cold, but the waiter was friendly.",),
    ("Where can I renew a book?",),
    ("He said hello.", "Hello, he said."),
  ],
  "tag": [
    ("Marie Curie worked in Paris before she moved to Warsaw.",),
    ("The United Nations met in Geneva on Monday.",),
  ],
  "find": [
    (
      "When was the tower finished?",
      "The old water tower was finished in 1911. Two world wars later it was "
      "painted white \U0001f5fc, and today it is a museum.",
    ),
    (
      "Who planted the trees?",
      "The avenue is lined with limes. Pupils of the village school planted "
      "the trees, and the baker waters them.",
    ),
  ],
  "choose": [
    (
      "She puts the kettle on the stove.",
      "She waits until the water boils.",
      "She reads the kettle a story.",
      "The stove walks away.",
    ),
  ],
  "fill": [
    ("Paris is the {mask} of France.",),
    ("She put the {mask} on the table and sat {mask}.",),
  ],
  "compare": [
    (
      "A kitten was dozing in the sun.",
      "The cat slept on the warm windowsill.",
      "Borrowing money will cost more.",
      "The train to the coast was late.",
    ),
  ],
}
# Head -> the kinds of questions that it answers.
_KINDS = {
  heads.SINGLE_LABEL: ["classify"],
  heads.MULTI_LABEL: ["classify"],
  heads.REGRESSION: ["classify"],
  heads.TAGGING: ["tag"],
  heads.SPAN: ["find"],
  heads.MULTIPLE_CHOICE: ["choose"],
  heads.PRETRAINING: ["fill", "compare"],
  heads.MASKED_LM: ["fill", "compare"],
  heads.ENCODER: ["compare"],
}


@functools.cache
def read(name: str) -> str:
  """Returns the text of a file of the page."""
  with open(os.path.join(_TEMPLATES, name), encoding="utf-8") as file:
    return file.read()


def examples_of(
  version: model_versions.ModelVersion,
) -> list[text_answers.Row]:
  """Returns the first rows that the page offers for a model."""
  return _examples(_KINDS[version.head.name][0], version)


def _examples(
  kind: str, version: model_versions.ModelVersion
) -> list[text_answers.Row]:
  mask = version.answers.mask
  return [
    tuple(part.replace("{mask}", mask) for part in row)
    for row in _EXAMPLES[kind]
  ]


def describe_model(
  name: str,
  version: model_versions.ModelVersion,
  rows: Sequence[text_answers.Row] | None,
) -> dict[str, Any]:
  """Returns what the page has to know about a model.

  Args:
    name: Name of the model.
    version: The version that answers.
    rows: Examples of the user, or None.
  """
  kinds = []
  for kind in _KINDS[version.head.name]:
    own = rows if rows and kind == _KINDS[version.head.name][0] else None
    kinds.append({"kind": kind, "examples": own or _examples(kind, version)})
  return {
    "name": name,
    "version": version.number,
    "head": version.head.name,
    "labels": version.labels,
    "mask": version.answers.mask,
    "signatures": sorted(version.exported.functions),
    "kinds": kinds,
  }
