"""Tags of words: named entities and the like (paper, section 5.3).

    [CLS] the un ##aff ##able cat [SEP]
            O  B-x             I-x

The first piece of a word has its tag. A text that does not fit is read in
windows that overlap; of a word that is in several, the window counts where its
first piece has the most context.
"""

import collections
from collections.abc import Iterable, Iterator, Sequence
import dataclasses
import json
from typing import NamedTuple

import numpy as np

from data import encoding
from data import sliding_windows
from errors import UserError
from tasks import metrics
from tasks import text_files
import tokenization

# Begins a document in CoNLL's files.
_DOCUMENT = "-DOCSTART-"
# A word of more pieces is cut: its tag is that of the first.
MAX_PIECES = 32
_OUTSIDE = "O"


@dataclasses.dataclass(frozen=True)
class Sentence:
  """Words and their tags.

  Attributes:
    words: the words.
    tags: their tags; None if they are not known.
    document: number of the document.
    rows: the lines of the file as they stand there.
    line: of the first word, from 1.
  """

  words: tuple[str, ...]
  tags: tuple[str, ...] | None
  document: int
  rows: tuple[str, ...]
  line: int


class WordColumns(NamedTuple):
  """How the lines of a file are built.

  Attributes:
    word: number of the column of the word, from 0, or from -1 for the last.
    tag: likewise of the tag.
    separator: what is between columns; None for any white space.
  """

  word: int = 0
  tag: int = -1
  separator: str | None = None


def read_sentences(
  path: str, columns: WordColumns | None = None, has_tags: bool = True
) -> list[Sentence]:
  """Reads a file with a word a line and a blank line between sentences.

  Args:
    path: of the file.
    columns: how its lines are built; None for the defaults.
    has_tags: whether there have to be tags; if not, they are read where the
      first line has a column for them.

  Raises:
    UserError: the file is missing, empty, or has a line without word or tag.
  """
  columns = columns or WordColumns()
  if columns.separator == "":
    raise UserError(
      "--column_separator is empty. Leave it out for any white space."
    )
  sentences, rows = [], []
  document, has_documents, line = 0, False, 0

  def end_sentence():
    nonlocal has_tags
    if rows:
      words, tags = [], []
      for number, row in enumerate(rows, line - len(rows)):
        fields = row.split(columns.separator)
        if not sentences and not words:
          has_tags = has_tags or len(fields) > 1
        word = _field(fields, columns.word, "word", path, number, row)
        if not word.strip():
          raise UserError(
            f"{path}, line {number}: no word: {text_files.shown(row)}."
          )
        words.append(word)
        if has_tags:
          tags.append(_tag(fields, columns, path, number, row))
      sentences.append(
        Sentence(
          tuple(words),
          tuple(tags) if has_tags else None,
          document,
          tuple(rows),
          line - len(rows),
        )
      )
      rows.clear()

  for line, text in text_files.read_lines(path):
    if text.strip() and not text.startswith(_DOCUMENT):
      rows.append(text)
      continue
    end_sentence()
    if text.startswith(_DOCUMENT):
      document += has_documents or bool(sentences)
      has_documents = True
  line += 1
  end_sentence()
  if not sentences:
    raise UserError(f"{path} holds no words.")
  return sentences


def _field(fields, number: int, what: str, path: str, line: int, row: str):
  if not -len(fields) <= number < len(fields):
    raise UserError(
      f"{path}, line {line}: {len(fields)} columns, and so no {what} in "
      f"column {number}: {text_files.shown(row)}. Are --column_separator, "
      "--word_column and --tag_column right?"
    )
  return fields[number]


def _tag(fields, columns: WordColumns, path: str, line: int, row: str) -> str:
  tag = _field(fields, columns.tag, "tag", path, line, row).strip()
  if not tag or len(fields) < 2:
    raise UserError(
      f"{path}, line {line}: a word without tag: "
      f"{text_files.shown(row)}. Give it one ({_OUTSIDE} for "
      "none), or remove the line."
    )
  return tag


# --- Schemes of tags ---------------------------------------------------------


def find_scheme(sentences: Iterable[Sequence[str]]) -> str | None:
  """Returns which scheme tags follow.

  Args:
    sentences: the tags of each.

  Returns:
    `BIOES` if entities that are single words or end are marked; `IOB1` if most
    entities begin with I- (B- marks one right after another of its kind);
    `IOB2` if they begin with B-; None if tags are no parts of entities.
  """
  prefixes = collections.Counter()
  for tags in sentences:
    previous = _OUTSIDE
    for tag in tags:
      if tag != _OUTSIDE:
        if tag[1:2] != "-" or tag[0] not in "BIES":
          return None
        starts = previous == _OUTSIDE or previous[2:] != tag[2:]
        prefixes[tag[0], starts] += 1
      previous = tag
  if prefixes["S", True] + prefixes["S", False] + prefixes["E", False]:
    return "BIOES"
  return "IOB1" if prefixes["I", True] > prefixes["B", True] else "IOB2"


def count_irregular(sentences: Iterable[Sequence[str]], scheme: str) -> int:
  """Counts tags that cannot follow the one before them in a scheme."""
  count = 0
  for tags in sentences:
    previous = _OUTSIDE
    for tag in (*tags, _OUTSIDE):
      inside = previous[0] in ("BI" if scheme == "BIOES" else "BIES")
      continues = tag[0] in "IE" and tag != _OUTSIDE
      same = inside and previous[2:] == tag[2:]
      if scheme == "BIOES":
        count += continues != same if continues else inside
      elif scheme == "IOB2":
        count += continues and not same
      else:
        count += tag[0] == "B" and not same
      previous = tag
  return int(count)


# --- Windows -----------------------------------------------------------------


class TagWindow(NamedTuple):
  """A window of a text.

  Attributes:
    features: the ids.
    word_numbers: of each token, the number of the word whose first piece it
      is and that counts here, or -1.
  """

  features: encoding.InputFeatures
  word_numbers: list[int]


def cut_windows(
  sentences: Sequence[Sentence],
  tokenizer: tokenization.FullTokenizer,
  max_seq_length: int,
  document_context: bool,
) -> Iterator[TagWindow]:
  """Yields windows in which each word counts once.

  Words are numbered through all sentences.

  Args:
    sentences: what to read.
    tokenizer: of the model.
    max_seq_length: most tokens of a window.
    document_context: whether a text is a document, and not a sentence; the
      sentences around a word are its context then, as for the figures of the
      paper.
  """
  cls_id, sep_id, unk_id = tokenizer.convert_tokens_to_ids(
    ["[CLS]", "[SEP]", "[UNK]"]
  )
  room = max_seq_length - 2
  first_word = 0
  for words in _texts(sentences, document_context):
    ids, places = [], []
    for number, pieces in enumerate(tokenizer.encode_each(words), first_word):
      pieces = pieces[:MAX_PIECES] or [unk_id]
      ids.extend(pieces)
      places.extend([number, *[-1] * (len(pieces) - 1)])
    first_word += len(words)
    places = np.array(places)
    windows = sliding_windows.cut_windows(len(ids), room, max(1, room // 2))
    for start, length, counts in zip(*windows):
      here = slice(start, start + length)
      yield TagWindow(
        encoding.InputFeatures(
          [cls_id, *ids[here], sep_id], [0] * (length + 2)
        ),
        [-1, *np.where(counts[:length], places[here], -1).tolist(), -1],
      )


def _texts(sentences, document_context: bool) -> Iterator[list[str]]:
  """Yields the words of each text."""
  if not document_context:
    yield from (list(sentence.words) for sentence in sentences)
    return
  words, document = [], sentences[0].document
  for sentence in sentences:
    if sentence.document != document:
      yield words
      words, document = [], sentence.document
    words.extend(sentence.words)
  yield words


# --- Predictions -------------------------------------------------------------


def split_by_sentence(
  sentences: Sequence[Sentence], values: Sequence
) -> list[list]:
  """Returns a list of values for each sentence, given one value per word."""
  values = iter(values)
  return [[next(values) for _ in sentence.words] for sentence in sentences]


def sentence_to_json(sentence: Sentence, tags: Sequence[str]) -> str:
  """Returns a JSON object: the text, and the entities in it.

  Offsets count characters of the text, whose words are separated by spaces.
  """
  starts, place = [], 0
  for word in sentence.words:
    starts.append(place)
    place += len(word) + 1
  text = " ".join(sentence.words)
  entities = []
  for kind, first, end in sorted(metrics.entities(tags), key=lambda e: e[1]):
    span = starts[first], starts[end - 1] + len(sentence.words[end - 1])
    entities.append(
      {
        "type": kind,
        "start": span[0],
        "end": span[1],
        "text": text[slice(*span)],
      }
    )
  return json.dumps(
    {"text": text, "tags": list(tags), "entities": entities}, ensure_ascii=False
  )
