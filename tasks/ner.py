"""Tags of words, for example named entities (paper, section 5.3).

    [CLS] the un ##aff ##able cat [SEP]
            O  B-x             I-x

The tag of a word is predicted at its first piece. A text that does not fit is
read in overlapping windows. A word that is in several windows counts in the one
that gives its first piece most context.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
import dataclasses
import json
from typing import Any, NamedTuple

import numpy as np

from data import encoding
from data import sliding_windows
from tasks import metrics
import tokenization

# Longer words are truncated, which does not change their first piece.
MAX_PIECES = 32


class SentenceRow(NamedTuple):
  """A line of a file of words.

  Attributes:
    text: The line, unchanged.
    has_word: Whether it has a word; comments have none.
  """

  text: str
  has_word: bool


@dataclasses.dataclass(frozen=True)
class Sentence:
  """Words and their tags.

  Attributes:
    words: The words.
    tags: Their tags; None if they are unknown.
    document: Number of the document.
    rows: The lines of the file, with the comments before the sentence.
    lines: For each word, the number of its line, from 1.
    separator: Text between the columns of the rows.
    text: The text, if the file has one; None for words with spaces between.
    starts: For each word, where it begins in the text; None without a text.
  """

  words: tuple[str, ...]
  tags: tuple[str, ...] | None
  document: int
  rows: tuple[SentenceRow, ...]
  lines: tuple[int, ...]
  separator: str = " "
  text: str | None = None
  starts: tuple[int, ...] | None = None


def find_dropped_words(
  sentences: Iterable[Sentence], tokenizer: tokenization.FullTokenizer
) -> set[str]:
  """Returns the words of which the tokenizer leaves nothing.

  Examples are a no-break space, U+200B and an empty field. They keep their
  place, and are outside of entities.
  """
  # A word with a letter or a digit always has pieces.
  candidates = {
    word
    for sentence in sentences
    for word in sentence.words
    if not any(map(str.isalnum, word))
  }
  words = sorted(candidates)
  return {
    word for word, ids in zip(words, tokenizer.encode_each(words)) if not ids
  }


# --- Windows -----------------------------------------------------------------


class TagWindow(NamedTuple):
  """A window of a text.

  Attributes:
    features: Ids of the sequence.
    word_numbers: For each token the number of the word that it is the first
      piece of, if this word counts in this window; otherwise -1.
  """

  features: encoding.InputFeatures
  word_numbers: list[int]


def cut_windows(
  sentences: Sequence[Sentence],
  tokenizer: tokenization.FullTokenizer,
  max_seq_length: int,
  document_context: bool,
) -> Iterator[TagWindow]:
  """Yields windows, in which each word of all sentences counts once.

  Words are numbered through all sentences.

  Args:
    sentences: The sentences.
    tokenizer: Tokenizer of the model.
    max_seq_length: Maximum number of tokens of a window.
    document_context: Whether a text is a document instead of a sentence. The
      paper's results were obtained with documents, where a word sees the
      sentences around its own.
  """
  # tokens     the un ##aff ##able cat
  # numbers      0  1    -1     -1   2      in the first text
  room = max_seq_length - 2
  first_word = 0
  for words in _join_texts(sentences, document_context):
    ids: list[int] = []
    numbers: list[int] = []
    for number, pieces in enumerate(tokenizer.encode_each(words), first_word):
      # A word that the tokenizer drops, such as U+200B, needs a tag as well.
      pieces = pieces[:MAX_PIECES] or [tokenizer.unk_id]
      ids.extend(pieces)
      numbers.append(number)
      numbers.extend([-1] * (len(pieces) - 1))
    first_word += len(words)
    windows = sliding_windows.cut_windows(len(ids), room, max(1, room // 2))
    for start, length, is_max_context in zip(*windows):
      here = slice(start, start + length)
      features = encoding.InputFeatures(
        [tokenizer.cls_id, *ids[here], tokenizer.sep_id], [0] * (length + 2)
      )
      counted = np.where(is_max_context[:length], numbers[here], -1).tolist()
      yield TagWindow(features, [-1, *counted, -1])


def _join_texts(
  sentences: Sequence[Sentence], document_context: bool
) -> Iterator[list[str]]:
  """Yields the words of each sentence, or of each document."""
  if not document_context:
    for sentence in sentences:
      yield list(sentence.words)
    return
  words: list[str] = []
  document = sentences[0].document
  for sentence in sentences:
    if sentence.document != document:
      yield words
      words, document = [], sentence.document
    words.extend(sentence.words)
  yield words


# --- Predictions -------------------------------------------------------------


def split_by_sentence(
  sentences: Sequence[Sentence], values: Sequence[Any]
) -> list[list[Any]]:
  """Returns a list for each sentence of values, one for each word."""
  result = []
  start = 0
  for sentence in sentences:
    end = start + len(sentence.words)
    result.append(list(values[start:end]))
    start = end
  return result


def format_rows(
  sentence: Sentence, tags: Sequence[str], probabilities: Sequence[float]
) -> Iterator[str]:
  """Yields the rows of a sentence, with tag and probability as new columns."""
  predictions = zip(tags, probabilities, strict=True)
  for row in sentence.rows:
    if row.has_word:
      tag, probability = next(predictions)
      # A no-break space may be a word.
      text = row.text.rstrip(" \t\r")
      yield sentence.separator.join([text, tag, f"{probability:.4f}"])
    else:
      yield row.text


def sentence_to_json(sentence: Sentence, tags: Sequence[str]) -> str:
  """Returns a JSON object with a text and the entities in it.

  Offsets count characters of the text. Without a text in the file, it is the
  words with spaces between them.
  """
  text, starts = sentence.text, sentence.starts
  if text is None or starts is None:
    text = " ".join(sentence.words)
    lengths = [len(word) + 1 for word in sentence.words]
    starts = tuple(np.cumsum([0, *lengths])[:-1].tolist())
  entities = []
  by_place = sorted(metrics.find_entities(tags), key=lambda entity: entity[1])
  for kind, first, end in by_place:
    begin = starts[first]
    finish = starts[end - 1] + len(sentence.words[end - 1])
    entities.append(
      {
        "type": kind,
        "start": begin,
        "end": finish,
        "text": text[begin:finish],
      }
    )
  content = {"text": text, "tags": list(tags), "entities": entities}
  return json.dumps(content, ensure_ascii=False)
