"""Parts of the page about tagged words, such as named entities."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from errors import UserError
import heads
from reports import example_files
from reports import page
from reports import score_intervals
from tasks import metrics
from tasks import ner
from tasks import ner_tags

KINDS = (heads.TAGGING,)
_NUM_COLORS = 8
_MISSED, _INVENTED = "missed", "invented"
_WRONG_BOUNDARY, _WRONG_TYPE = "wrong boundary", "wrong type"
_MISTAKES = (_MISSED, _INVENTED, _WRONG_BOUNDARY, _WRONG_TYPE)
_RIGHT = "right"

# Type, first word, word after the last.
_Entity = tuple[str, int, int]


def write_examples(
  output_dir: str,
  split: str,
  labels: Sequence[str],
  sentences: Sequence[ner.Sentence],
  predictions: Sequence[Sequence[str]],
  scores: Mapping[str, float] | None = None,
) -> None:
  """Writes the sentences of a split for the page.

  Args:
    output_dir: Folder of the run.
    split: Name of the split.
    labels: Tags that can be predicted.
    sentences: The sentences.
    predictions: Predicted tags of each sentence.
    scores: Scores of the sentences, if they have tags.
  """

  def make_row(number: int) -> dict[str, Any]:
    sentence = sentences[number]
    return {
      "words": list(sentence.words),
      "tags": list(sentence.tags) if sentence.tags is not None else None,
      "prediction": list(predictions[number]),
      "line": sentence.lines[0] if sentence.lines else 0,
    }

  example_files.write(
    output_dir, split, KINDS[0], len(sentences), make_row, labels, scores
  )


class _TaggedSentence(NamedTuple):
  """A sentence with its entities.

  Attributes:
    words: Its words.
    wanted: Correct entities, or None.
    found: Predicted entities.
    num_right_tags: Number of words whose tag is right.
    line: Line of the first word in its file.
  """

  words: list[str]
  wanted: set[_Entity] | None
  found: set[_Entity]
  num_right_tags: int
  line: int


def _read_sentences(
  content: example_files.ExampleFile,
) -> list[_TaggedSentence]:
  """Returns the sentences of a file.

  Raises:
    UserError: A row is damaged.
  """
  place = f"report_{content.split}.jsonl"
  marks_entities = ner_tags.mark_entities(tuple(content.labels))
  find = metrics.find_entities if marks_entities else _take_each_word
  sentences = []
  for row in content.rows:
    words = example_files.pick_list(row, "words", str, place)
    found = example_files.pick_list(row, "prediction", str, place)
    tags = None
    if row.get("tags") is not None:
      tags = example_files.pick_list(row, "tags", str, place)
    if len(found) != len(words) or len(tags or words) != len(words):
      raise UserError(
        f"{place}: a sentence has another number of tags than of words. Run "
        "the evaluation again."
      )
    sentences.append(
      _TaggedSentence(
        words,
        None if tags is None else find(tags),
        find(found),
        sum(a == b for a, b in zip(tags or (), found)),
        example_files.pick(row, "line", int, place),
      )
    )
  return sentences


def _take_each_word(tags: Sequence[str]) -> set[_Entity]:
  """Returns each word as an entity, for tags that mark none."""
  return {(tag, place, place + 1) for place, tag in enumerate(tags)}


def compute_intervals(content: example_files.ExampleFile) -> dict[str, str]:
  """Returns the intervals of the recorded scores of a split, as text."""
  sentences = _read_sentences(content)
  if not content.is_whole or any(s.wanted is None for s in sentences):
    return {}
  kinds = sorted(_count_kinds(sentences))
  columns = {kind: number for number, kind in enumerate(kinds)}
  # Numbers of entities that are right, predicted and correct, by type.
  counts = np.zeros([3, len(sentences), max(1, len(kinds))])
  tags = np.zeros([2, len(sentences)])  # those that are right, and all
  for number, sentence in enumerate(sentences):
    wanted = sentence.wanted or set()
    groups = (wanted & sentence.found, sentence.found, wanted)
    for row, entities in enumerate(groups):
      for kind, _, _ in entities:
        counts[row, number, columns[kind]] += 1
    tags[:, number] = sentence.num_right_tags, len(sentence.words)

  def score(numbers) -> dict[str, float]:
    num_right_tags, num_tags = tags[:, numbers].sum(axis=1)
    sums = counts[:, numbers].sum(axis=1)
    scores = {"accuracy": num_right_tags / max(num_tags, 1)}
    scores.update(_compute_f1("", *sums.sum(axis=1)))
    for kind, column in columns.items():
      scores.update(_compute_f1(f"{kind}_", *sums[:, column]))
    return scores

  return score_intervals.describe_intervals(
    content.scores, score, len(sentences), len(kinds)
  )


def _compute_f1(prefix: str, right, found, wanted) -> dict[str, float]:
  return {
    f"{prefix}precision": right / max(found, 1),
    f"{prefix}recall": right / max(wanted, 1),
    f"{prefix}f1": 2 * right / max(found + wanted, 1),
  }


def _count_kinds(
  sentences: Sequence[_TaggedSentence],
) -> collections.Counter[str]:
  """Returns how often each type of entity is correct or predicted."""
  return collections.Counter(
    kind
    for sentence in sentences
    for kind, _, _ in [*(sentence.wanted or ()), *sentence.found]
  )


# --- Parts -------------------------------------------------------------------


def make_part(content: example_files.ExampleFile, budget: int) -> page.Part:
  """Returns the part about a split.

  Args:
    content: The sentences of the split.
    budget: Bytes that the sentences may take on the page.

  Raises:
    UserError: A row is damaged.
  """
  sentences = _read_sentences(content)
  has_tags = all(sentence.wanted is not None for sentence in sentences)
  kinds = [kind for kind, _ in _count_kinds(sentences).most_common()]
  colors = {kind: f"c{i % _NUM_COLORS}" for i, kind in enumerate(kinds)}
  mistakes = [
    _find_mistakes(sentence) if has_tags else [] for sentence in sentences
  ]
  filters = [page.Filter("type", "type", kinds)]
  if has_tags:
    filters.append(page.Filter("mistake", "mistake", [*_MISTAKES, "none"]))
  # One sentence of each combination of mistakes, then a second one, ...
  ranks: collections.Counter[tuple[str, ...]] = collections.Counter()
  keyed = []
  for number in sorted(range(len(sentences)), key=lambda i: -len(mistakes[i])):
    group = tuple(sorted({mistake for mistake, _ in mistakes[number]}))
    keyed.append((ranks[group], number))
    ranks[group] += 1
  items = [
    _make_item(sentences[number], mistakes[number], has_tags, colors)
    for _, number in sorted(keyed)
  ]
  shown = page.example_list(
    f"examples-{content.split}",
    "sentences",
    filters,
    items,
    content.num_examples,
    budget,
  )
  shown["entries"].sort(key=lambda item: -item["num_mistakes"])
  values = {
    "table": _count_mistakes(sentences, mistakes, kinds) if has_tags else None,
    "is_sampled": not content.is_whole,
    "examples": shown,
  }
  return page.Part(f"Examples of {content.split}", "tagging.html", values)


def _find_mistakes(sentence: _TaggedSentence) -> list[tuple[str, _Entity]]:
  """Returns the mistakes of a sentence, each with its entity.

  words       Ann  Lee  met  Bo
  correct     (p   p)        (p)
  predicted   (p)       (p)  (l)
              wrong     in-  wrong
              boundary  vented  type
  """
  wanted = sentence.wanted or set()
  mistakes = []
  for entity in sorted(sentence.found - wanted):
    overlapping = [other for other in wanted if _overlap(entity, other)]
    is_same_place = any(other[1:] == entity[1:] for other in overlapping)
    if is_same_place:
      mistakes.append((_WRONG_TYPE, entity))
    else:
      name = _WRONG_BOUNDARY if overlapping else _INVENTED
      mistakes.append((name, entity))
  for entity in sorted(wanted):
    if not any(_overlap(entity, other) for other in sentence.found):
      mistakes.append((_MISSED, entity))
  return mistakes


def _overlap(entity: _Entity, other: _Entity) -> bool:
  return entity[1] < other[2] and other[1] < entity[2]


def _count_mistakes(sentences, mistakes, kinds) -> dict[str, Any]:
  """Returns a table of mistakes by type of entity."""
  counts: collections.Counter[tuple[str, str]] = collections.Counter()
  for sentence, found in zip(sentences, mistakes):
    for kind, _, _ in sentence.wanted & sentence.found:
      counts[kind, _RIGHT] += 1
    for mistake, (kind, _, _) in found:
      counts[kind, mistake] += 1
  columns = [_RIGHT, *_MISTAKES]
  rows = [[kind or "-", *(counts[kind, c] for c in columns)] for kind in kinds]
  return page.table(["type", *columns], rows)


def _make_item(
  sentence: _TaggedSentence,
  mistakes: Sequence[tuple[str, _Entity]],
  has_tags: bool,
  colors: Mapping[str, str],
) -> dict[str, Any]:
  """Returns a sentence as an item of the list."""
  wanted = sentence.wanted or set()
  facets = [("type", kind) for kind in {e[0] for e in wanted | sentence.found}]
  if has_tags:
    names = {mistake for mistake, _ in mistakes} or {"none"}
    facets += [("mistake", name) for name in names]
  missed = {e: mistake for mistake, e in mistakes if mistake == _MISSED}
  others = {e: mistake for mistake, e in mistakes if mistake != _MISSED}
  lines = []
  if mistakes:
    pieces = _split_words(sentence.words, wanted, colors, missed)
    lines.append(("correct", pieces))
  pieces = _split_words(sentence.words, sentence.found, colors, others)
  lines.append(("predicted", pieces))
  return {
    "facets": sorted(facets),
    "num_mistakes": len(mistakes),
    "lines": lines,
    "line": sentence.line,
    "has_tags": has_tags,
  }


def _split_words(
  words: Sequence[str],
  entities: set[_Entity],
  colors: Mapping[str, str],
  mistakes: Mapping[_Entity, str],
) -> list[dict[str, str]]:
  """Returns the words as pieces: entities, and words between them."""
  pieces, place = [], 0
  for entity in sorted(entities, key=lambda e: e[1]):
    kind, first, end = entity
    if first > place:
      pieces.append({"text": " ".join(words[place:first]), "color": ""})
    pieces.append(
      {
        "text": " ".join(words[first:end]),
        "color": colors[kind],
        "kind": kind,
        "mistake": mistakes.get(entity, ""),
      }
    )
    place = end
  if place < len(words):
    pieces.append({"text": " ".join(words[place:]), "color": ""})
  return pieces
