"""Settings of a served model besides its weights."""

from __future__ import annotations

from typing import NamedTuple

from data import encoding
import heads


class ServingSettings(NamedTuple):
  """Settings of a served model besides its weights.

  Attributes:
    problem_type: The `problem_type` of a classifier.
    labels: Labels of a classifier, or tags, in the order of their ids.
    long_text: How a classifier handles long texts; see `encoding`.
    doc_stride: Distance between windows of a context, in tokens; this and the
      following are for questions, see `tasks.squad`.
    max_query_length: Largest number of tokens of a question.
    n_best_size: Number of starts, and of ends, to look at.
    max_answer_length: Largest number of tokens of an answer.
  """

  problem_type: str = heads.SINGLE_LABEL
  labels: tuple[str, ...] = ()
  long_text: str = encoding.TRUNCATE
  doc_stride: int = 128
  max_query_length: int = 64
  n_best_size: int = 20
  max_answer_length: int = 30
