"""Token ids as the encoder reads them.

    [CLS] a a a [SEP] b b [SEP]
      0   0 0 0   0   1 1   1      segment_ids

Features are not padded; `batching` pads them.
"""

from collections.abc import Sequence
from typing import NamedTuple

# What becomes of texts that are too long; see `encode_long_pair`.
TRUNCATE = "truncate"
HEAD_TAIL = "head_tail"
SLIDING_WINDOW = "sliding_window"


class InputFeatures(NamedTuple):
  """A sequence, or a pair of them, as the encoder reads it."""

  input_ids: list[int]
  segment_ids: list[int]


def truncate_pair(
  length_a: int, length_b: int, max_length: int
) -> tuple[int, int]:
  """Returns the lengths that a pair is cut to, `max_length` in all.

  One id at a time comes off whichever is longer then (off b when they are
  equal), because an id of a short sequence tells more than one of a long one.
  """
  excess = max(0, length_a + length_b - max_length)
  # First the longer one comes down to the other, then they take turns.
  cut_a = min(excess, max(0, length_a - length_b))
  cut_b = min(excess, max(0, length_b - length_a))
  rest = excess - cut_a - cut_b
  return length_a - cut_a - rest // 2, length_b - cut_b - (rest + 1) // 2


def encode_pair(
  ids_a: Sequence[int],
  ids_b: Sequence[int] | None,
  max_seq_length: int,
  cls_id: int,
  sep_id: int,
) -> InputFeatures:
  """Returns `[CLS] a [SEP]` or `[CLS] a [SEP] b [SEP]`, cut to fit.

  Args:
    ids_a: ids of the first sequence.
    ids_b: ids of the second, or None (or empty) for none.
    max_seq_length: the most ids to return.
    cls_id: id of `[CLS]`.
    sep_id: id of `[SEP]`.
  """
  return encode_long_pair(
    ids_a, ids_b, max_seq_length, cls_id, sep_id, TRUNCATE
  )[0]


def encode_long_pair(
  ids_a: Sequence[int],
  ids_b: Sequence[int] | None,
  max_seq_length: int,
  cls_id: int,
  sep_id: int,
  long_text: str,
) -> list[InputFeatures]:
  """Packs a sequence or a pair that may be too long for the encoder.

  Args:
    ids_a: as for `encode_pair`, like the four that follow.
    ids_b: of the second sequence, or None.
    max_seq_length: the most ids of a window.
    cls_id: id of `[CLS]`.
    sep_id: id of `[SEP]`.
    long_text: what becomes of what does not fit: `truncate` keeps the
      beginning; `head_tail` a quarter of the room from the beginning and the
      rest from the end, which Sun et al. (2019) found best; `sliding_window`
      keeps all, in windows that overlap by half. Of a pair the longer one is
      windowed; the other one is in each window, with half of the room at most.

  Returns:
    The windows, one unless `long_text` is `sliding_window`.
  """
  room = max_seq_length - (3 if ids_b else 2)
  ids_b = ids_b or []
  length_a, length_b = truncate_pair(len(ids_a), len(ids_b), room)
  if long_text == SLIDING_WINDOW:
    windows_a, windows_b = [ids_a[:length_a]], [ids_b[:length_b]]
    if len(ids_a) >= len(ids_b):
      windows_a = _windows(ids_a, length_a)
    else:
      windows_b = _windows(ids_b, length_b)
    pairs = [(a, b) for a in windows_a for b in windows_b]
  else:
    keep = _head_and_tail if long_text == HEAD_TAIL else _head
    pairs = [(keep(ids_a, length_a), keep(ids_b, length_b))]
  return [
    InputFeatures(
      [cls_id, *a, sep_id, *([*b, sep_id] if b else ())],
      [0] * (len(a) + 2) + [1] * (len(b) + 1 if b else 0),
    )
    for a, b in pairs
  ]


def _head(ids, length: int):
  return ids[:length]


def _head_and_tail(ids, length: int):
  if len(ids) <= length:
    return ids
  head = length // 4
  return [*ids[:head], *ids[len(ids) - (length - head) :]]


def _windows(ids, length: int) -> list:
  """Cuts ids into windows that overlap by half; the last ends with them."""
  last = len(ids) - length
  stride = max(1, length // 2)
  return [
    ids[start : start + length] for start in [*range(0, last, stride), last]
  ]
