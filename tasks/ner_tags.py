"""Schemes of tags: how tags mark the parts of entities.

words   Ann    Lee    met  Bo
IOB2    B-per  I-per  O    B-per
BIOES   B-per  E-per  O    S-per
BILOU   B-per  L-per  O    U-per
BMES    B-per  E-per  O    S-per     M- where BIOES has I-
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Sequence

from tasks import metrics

_OUTSIDE = metrics.EntityTag(metrics.OUTSIDE, "")
# Schemes in which the last word of an entity has a prefix of its own.
_WITH_ENDS = ("BIOES", "BILOU", "BMES")


def mark_entities(labels: Iterable[str]) -> bool:
  """Returns whether tags mark entities.

  They do if at least half of the different ones, without O, have a form that
  `metrics.parse_tag` knows, so that a mistake in some tags does not decide.
  """
  inside = {label for label in labels if label != metrics.OUTSIDE}
  return 2 * len(inside - find_misfits(inside)) >= len(inside)


def find_misfits(labels: Iterable[str]) -> set[str]:
  """Returns the tags that mark no part of an entity, O not among them."""
  return {
    label
    for label in labels
    if label != metrics.OUTSIDE and metrics.parse_tag(label) is None
  }


def find_scheme(sentences: Iterable[Sequence[str]]) -> str | None:
  """Returns the scheme that tags follow.

  Args:
    sentences: Tags of each sentence.

  Returns:
    `BILOU` if L- or U- is among the prefixes; `BMES` if M- or W- is; `BIOES` if
    single words (S-) or the ends (E-) of entities are marked; `IOB1` if most
    entities begin with I- (B- is only for an entity that follows another of its
    type); `IOB2` if most begin with B-; None if tags do not mark entities.
  """
  # Number of tags by prefix, and whether the tag before is of another type.
  counts: collections.Counter[tuple[str, bool]] = collections.Counter()
  labels = set()
  for tags in sentences:
    labels.update(tags)
    previous = _OUTSIDE
    for tag in tags:
      parsed = metrics.parse_tag(tag) or _OUTSIDE
      begins = previous == _OUTSIDE or previous.kind != parsed.kind
      counts[parsed.prefix, begins] += 1
      previous = parsed
  if not mark_entities(labels):
    return None
  letters = {label[0] for label in labels - find_misfits(labels)}
  if letters & {"L", "U"}:
    return "BILOU"
  if letters & {"M", "W"}:
    return "BMES"
  if counts["S", True] or counts["S", False] or counts["E", False]:
    return "BIOES"
  return "IOB1" if counts["I", True] > counts["B", True] else "IOB2"


def count_irregular(sentences: Iterable[Sequence[str]], scheme: str) -> int:
  """Returns the number of tags that cannot follow the tag before them.

  Args:
    sentences: Tags of each sentence.
    scheme: Scheme of the tags, see `find_scheme`.
  """
  has_ends = scheme in _WITH_ENDS
  # After these prefixes an entity can continue.
  open_prefixes = "BI" if has_ends else "BIES"
  count = 0
  for tags in sentences:
    previous = _OUTSIDE
    for tag in (*tags, metrics.OUTSIDE):
      parsed = metrics.parse_tag(tag) or _OUTSIDE
      is_open = previous.prefix in open_prefixes
      is_same_type = is_open and previous.kind == parsed.kind
      if scheme == "IOB1":
        # B- separates two entities of one type.
        is_irregular = parsed.prefix == "B" and not is_same_type
      elif parsed.prefix in ("I", "E"):
        is_irregular = not is_same_type
      else:
        # An entity of several words has to end with E-.
        is_irregular = has_ends and is_open
      count += int(is_irregular)
      previous = parsed
  return count
