"""Sequences of token ids as the encoder reads them, cut to a length.

    tokens       [CLS] a a a [SEP] b b [SEP]
    segment_ids    0   0 0 0   0   1 1   1

Sequences are not padded here; `batching` pads whole batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

# Ways to handle texts that are too long; see `encode_long_pair`.
TRUNCATE = "truncate"
HEAD_TAIL = "head_tail"
SLIDING_WINDOW = "sliding_window"


class InputFeatures(NamedTuple):
  """The ids of one text or of a pair of texts, with special tokens."""

  input_ids: list[int]
  segment_ids: list[int]


def truncate_pair(
  length_a: int, length_b: int, max_length: int
) -> tuple[int, int]:
  """Returns the lengths to cut a pair to, `max_length` in total.

  One id at a time is removed from the longer sequence (from b when both are
  equally long), because an id of a short sequence carries more information
  than an id of a long one.
  """
  excess = max(0, length_a + length_b - max_length)
  # The longer sequence is cut to the length of the other one. From there both
  # lose ids in turn, b first.
  cut_a = min(excess, max(0, length_a - length_b))
  cut_b = min(excess, max(0, length_b - length_a))
  shared = excess - cut_a - cut_b
  cut_a += shared // 2
  cut_b += shared - shared // 2
  return length_a - cut_a, length_b - cut_b


def is_too_long(
  ids_a: Sequence[int], ids_b: Sequence[int] | None, max_seq_length: int
) -> bool:
  """Returns whether a text or a pair does not fit into one sequence."""
  return len(ids_a) + len(ids_b or ()) > _find_room(ids_b, max_seq_length)


def _find_room(ids_b: Sequence[int] | None, max_seq_length: int) -> int:
  """Returns the number of ids besides `[CLS]` and each `[SEP]`."""
  return max_seq_length - (3 if ids_b else 2)


def encode_pair(
  ids_a: Sequence[int],
  ids_b: Sequence[int] | None,
  max_seq_length: int,
  cls_id: int,
  sep_id: int,
) -> InputFeatures:
  """Returns `[CLS] a [SEP]` or `[CLS] a [SEP] b [SEP]`, cut to fit.

  Args:
    ids_a: Ids of the first text.
    ids_b: Ids of the second text; None or empty if there is only one.
    max_seq_length: Maximum number of ids, including `[CLS]` and `[SEP]`.
    cls_id: Id of `[CLS]`.
    sep_id: Id of `[SEP]`.
  """
  [features] = encode_long_pair(
    ids_a, ids_b, max_seq_length, cls_id, sep_id, TRUNCATE
  )
  return features


def encode_long_pair(
  ids_a: Sequence[int],
  ids_b: Sequence[int] | None,
  max_seq_length: int,
  cls_id: int,
  sep_id: int,
  long_text: str,
) -> list[InputFeatures]:
  """Returns the sequences for a text or a pair that may be too long.

  Args:
    ids_a: Ids of the first text.
    ids_b: Ids of the second text; None or empty if there is only one.
    max_seq_length: Maximum number of ids of a sequence.
    cls_id: Id of `[CLS]`.
    sep_id: Id of `[SEP]`.
    long_text: How to handle a text that does not fit. `truncate` keeps its
      beginning. `head_tail` keeps its beginning, a quarter of the available
      length, and its end, which Sun et al. (2019) found to work best.
      `sliding_window` keeps all of it, in windows that overlap by half; of a
      pair, the longer text is cut into windows, and each window contains the
      other text, cut to half of the available length.

  Returns:
    One sequence, or with `sliding_window` one or more.
  """
  ids_b = ids_b or ()
  room = _find_room(ids_b, max_seq_length)
  length_a, length_b = truncate_pair(len(ids_a), len(ids_b), room)
  cut_a = cut_b = _keep_head
  if long_text == HEAD_TAIL:
    cut_a = cut_b = _keep_head_and_tail
  elif long_text == SLIDING_WINDOW:
    if len(ids_a) >= len(ids_b):
      cut_a = _cut_half_windows
    else:
      cut_b = _cut_half_windows
  return [
    _add_special_tokens(a, b, cls_id, sep_id)
    for a in cut_a(ids_a, length_a)
    for b in cut_b(ids_b, length_b)
  ]


def _add_special_tokens(
  ids_a: Sequence[int], ids_b: Sequence[int], cls_id: int, sep_id: int
) -> InputFeatures:
  input_ids = [cls_id, *ids_a, sep_id]
  segment_ids = [0] * len(input_ids)
  if ids_b:
    input_ids += [*ids_b, sep_id]
    segment_ids += [1] * (len(ids_b) + 1)
  return InputFeatures(input_ids, segment_ids)


# Each of these functions cuts ids to `length`, in one piece or several.


def _keep_head(ids: Sequence[int], length: int) -> list[Sequence[int]]:
  return [ids[:length]]


def _keep_head_and_tail(ids: Sequence[int], length: int) -> list[Sequence[int]]:
  head_length = length // 4
  tail_start = len(ids) - (length - head_length)
  return [[*ids[:head_length], *ids[tail_start:]]]


def _cut_half_windows(ids: Sequence[int], length: int) -> list[Sequence[int]]:
  """Returns windows that overlap by half; the last one ends with the ids."""
  stride = max(1, length // 2)
  last_start = len(ids) - length
  starts = [*range(0, last_start, stride), last_start]
  return [ids[start : start + length] for start in starts]
