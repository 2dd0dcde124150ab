"""Questions about paragraphs (SQuAD 1.1 and 2.0): reading, windows, answers.

    [CLS] question [SEP] part of the paragraph [SEP]
      0      0       0     1 ...                 1

A paragraph that does not fit is read in windows that overlap. Of a token that
is in several, the window counts where it has the most context.
"""

import bisect
import collections
from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import functools
import itertools
import math
import re
from typing import NamedTuple

from absl import logging
import numpy as np

from data import encoding
from data import file_io
from data import sliding_windows
from errors import UserError
from tasks import text_files
import tokenization

# What separates words of a paragraph; other white space is part of them.
_WORD = re.compile("[^ \t\r\n\u202f]+")
_STRETCH = re.compile(r"\S+")
# How many characters of paragraphs to keep cut up, at 70 bytes each.
_CHARACTERS_KEPT = 1_000_000
# A score that every score of an empty answer is below.
_NO_NULL_SCORE = 1_000_000.0
# What is answered where nothing can be and something has to be.
_NO_CANDIDATE = "empty"
_NOTHING_FOUND = "questions without any candidate"
_KINDS = {
  str: "a text",
  list: "a list",
  int: "a whole number",
  bool: "true or false",
}


# --- Reading -----------------------------------------------------------------


class Answer(NamedTuple):
  """An answer as annotated; `start` is its offset in the paragraph."""

  text: str
  start: int


@dataclasses.dataclass(frozen=True)
class Question:
  """A question about a paragraph.

  Attributes:
    id: what names it in predictions.
    text: the question.
    paragraph: number of the paragraph.
    answers: as annotated; none if the paragraph has none, or they are unknown.
    is_impossible: whether the paragraph is known to have no answer.
  """

  id: str
  text: str
  paragraph: int
  answers: tuple[Answer, ...] = ()
  is_impossible: bool = False


class Dataset(NamedTuple):
  """The contents of a file.

  Attributes:
    path: of the file, for messages.
    paragraphs: their texts.
    questions: in the order of the file.
  """

  path: str
  paragraphs: list[str]
  questions: list[Question]

  @property
  def has_answers(self) -> bool:
    """Whether predictions can be scored."""
    return all(
      question.answers or question.is_impossible for question in self.questions
    )


def read_dataset(path: str) -> Dataset:
  """Reads a file in the format of SQuAD, of either version.

  Raises:
    UserError: the file is missing, is cut off, or lacks something; the message
      names the question.
  """
  articles = file_io.read_json(path)
  result = Dataset(path, [], [])
  places = {}
  for a, article in enumerate(_get(articles, "data", list, path, "the file")):
    where = f"article {a + 1}"
    for p, paragraph in enumerate(
      _get(article, "paragraphs", list, path, where)
    ):
      where = f"article {a + 1}, paragraph {p + 1}"
      text = _get(paragraph, "context", str, path, where)
      for q, entry in enumerate(_get(paragraph, "qas", list, path, where)):
        question = _read_question(
          entry, len(result.paragraphs), path, f"{where}, question {q + 1}"
        )
        if question.id in places:
          raise UserError(
            f"{path}: the id {text_files.shown(question.id)} of {where}, "
            f"question {q + 1} is that of {places[question.id]} as well. Ids "
            "have to be unique."
          )
        places[question.id] = f"{where}, question {q + 1}"
        result.questions.append(question)
      result.paragraphs.append(text)
  if not result.questions:
    raise UserError(f"{path} holds no questions.")
  return result


def _get(entry, key: str, kind: type, path: str, where: str):
  """Returns an entry of an object of JSON, or raises a UserError."""
  value = entry.get(key) if isinstance(entry, dict) else None
  # To Python, true is a whole number.
  if not isinstance(value, kind) or isinstance(value, bool) != (kind is bool):
    found = (
      f"has {key}={text_files.shown(value)}"
      if (isinstance(entry, dict) and key in entry)
      else f"has no {key!r}"
    )
    raise UserError(
      f"{path}: {where} {found}; the format of SQuAD wants "
      f"{_KINDS[kind]} there."
    )
  return value


def _read_question(entry, paragraph: int, path: str, where: str) -> Question:
  question_id = _get(entry, "id", str, path, where)
  where = f"question {text_files.shown(question_id)} ({where})"
  answers, is_impossible = [], False
  if entry.get("answers") is not None:
    answers = _get(entry, "answers", list, path, where)
  if entry.get("is_impossible") is not None:
    is_impossible = _get(entry, "is_impossible", bool, path, where)
  return Question(
    question_id,
    _get(entry, "question", str, path, where),
    paragraph,
    tuple(
      Answer(
        _get(answer, "text", str, path, f"an answer of {where}"),
        _get(answer, "answer_start", int, path, f"an answer of {where}"),
      )
      for answer in answers
    ),
    is_impossible,
  )


# --- Paragraphs --------------------------------------------------------------


class Paragraph:
  """A paragraph, cut into words and tokens once for all of its questions.

  Attributes:
    text: the paragraph.
    words: what stands between white space.
    spans: where each word begins and ends in the text.
    ids: of all tokens.
    word_of_token: the number of the word of each token.
    first_tokens: the number of the first token of each word, and of all tokens
      at the end.
  """

  def __init__(self, text: str, tokenizer: tokenization.FullTokenizer):
    self.text = text
    self._tokenizer = tokenizer
    matches = list(_WORD.finditer(text))
    self.words = [match.group() for match in matches]
    self.spans = [match.span() for match in matches]
    ids = tokenizer.encode_each(self.words)
    self.ids = list(itertools.chain.from_iterable(ids))
    counts = np.fromiter(map(len, ids), np.int32, len(ids))
    self.word_of_token = np.repeat(np.arange(len(ids)), counts).tolist()
    self.first_tokens = [0, *np.cumsum(counts).tolist()]
    self._starts = [start for start, _ in self.spans]
    self._windows = {}
    self._found = {}
    self._offsets = {}

  def windows(self, room: int, stride: int) -> sliding_windows.TextWindows:
    """Returns its windows of at most `room` tokens, each `stride` further."""
    if (room, stride) not in self._windows:
      self._windows[room, stride] = sliding_windows.cut_windows(
        len(self.ids), room, stride
      )
    return self._windows[room, stride]

  def word_at(self, place: int) -> int:
    """Returns the word at an offset in the text, or before it."""
    return max(0, bisect.bisect_right(self._starts, place) - 1)

  def offsets(self, first: int, last: int) -> tuple[int, int]:
    """Returns where the words of tokens `first` to `last` are in the text."""
    return (
      self.spans[self.word_of_token[first]][0],
      self.spans[self.word_of_token[last]][1],
    )

  def answer(self, first: int, last: int) -> str:
    """Returns the text of tokens `first` to `last`, as it was written.

    The pieces, put together, are looked for in what the basic tokenizer makes
    of their words; characters but spaces correspond one to one. Where that is
    not so (an unknown token, letters that lower-casing makes two of), what the
    tokenizer says of the origin of each token decides.
    """
    words = self.word_of_token[first], self.word_of_token[last] + 1
    wanted = (
      " ".join(self._tokens[first : last + 1])
      .replace(" ##", "")
      .replace("##", "")
    )
    # Many candidates have the same text, and a word may be very long.
    if (words, wanted) not in self._found:
      self._found[words, wanted] = self._find(words, wanted)
    found = self._found[words, wanted]
    return self._stretch(first, last) if found is None else found

  def _find(self, words: tuple[int, int], wanted: str) -> str | None:
    """Returns the text of what is found in the basic tokens of some words."""
    if not self._is_one_to_one(words):
      return None
    original = " ".join(self.words[slice(*words)])
    basic = " ".join(filter(None, self._basic[slice(*words)]))
    start = basic.find(wanted)
    if start < 0:
      return None
    # Of all characters of the paragraph but spaces, the first and the last.
    begin = self._num_chars[words[0]] + start - basic.count(" ", 0, start)
    end = begin + len(wanted) - wanted.count(" ") - 1
    begin, end = (
      char
      - self._num_chars[words[0]]
      + bisect.bisect_right(self._num_chars, char)
      - 1
      - words[0]
      for char in (begin, end)
    )
    return original[begin : end + 1]

  def _is_one_to_one(self, words: tuple[int, int]) -> bool:
    """Whether words have as many characters as their basic tokens."""
    first, last = words
    return (
      self._num_chars[last] - self._num_chars[first]
      == self._num_basic_chars[last] - self._num_basic_chars[first]
    )

  @functools.cached_property
  def _tokens(self) -> list[str]:
    return self._tokenizer.convert_ids_to_tokens(self.ids)

  @functools.cached_property
  def _basic(self) -> list[str]:
    """What the basic tokenizer makes of each word, its parts with spaces."""
    return [
      " ".join(self._tokenizer.basic_tokenizer.tokenize(word))
      for word in self.words
    ]

  @functools.cached_property
  def _num_chars(self) -> list[int]:
    """How many characters of words come before each word, and in all."""
    return [0, *itertools.accumulate(map(len, self.words))]

  @functools.cached_property
  def _num_basic_chars(self) -> list[int]:
    """Likewise of their basic tokens."""
    return [
      0,
      *itertools.accumulate(
        len(basic) - basic.count(" ") for basic in self._basic
      ),
    ]

  def _stretch(self, first: int, last: int) -> str:
    """Returns the text from the beginning of a token to the end of one."""
    ends = []
    for token in (first, last):
      word = self.word_of_token[token]
      if word not in self._offsets:
        _, self._offsets[word] = self._tokenizer.encode_with_offsets(
          self.words[word]
        )
      begin = self.spans[word][0]
      ends.append(
        [
          begin + place
          for place in self._offsets[word][token - self.first_tokens[word]]
        ]
      )
    return " ".join(self.text[ends[0][0] : ends[1][1]].split())

  def places_of(self, wanted: str) -> Iterator[tuple[int, int]]:
    """Yields where some words are in the text.

    Args:
      wanted: the words, separated by single spaces; in the text they may be
        separated by any white space.

    Yields:
      Where they begin and end; places do not overlap.
    """
    matches = list(_STRETCH.finditer(self.text))
    text = " ".join(match.group() for match in matches)
    starts = [
      0,
      *itertools.accumulate(
        match.end() - match.start() + 1 for match in matches
      ),
    ]

    def place_in_text(place: int) -> int:
      stretch = bisect.bisect_right(starts, place) - 1
      return matches[stretch].start() + place - starts[stretch]

    place = text.find(wanted)
    while place >= 0:
      end = place + len(wanted)
      yield place_in_text(place), place_in_text(end - 1) + 1
      place = text.find(wanted, end)


# --- Windows of questions ----------------------------------------------------


class WindowSettings(NamedTuple):
  """How long windows are; all in tokens."""

  max_seq_length: int
  doc_stride: int
  max_query_length: int


class QuestionWindow(NamedTuple):
  """A window of a question.

  Attributes:
    question: number of the question.
    number: number of the window, among those of the question.
    first_token: the token of the paragraph that it begins with.
    offset: the place of that token in the sequence.
    features: the ids.
  """

  question: int
  number: int
  first_token: int
  offset: int
  features: encoding.InputFeatures


class WindowMaker:
  """Makes windows of the questions of a data set.

  Attributes:
    dataset: the data set.
    settings: how long windows are.
    tokenizer: of the model.
    counts: what there is to report.
  """

  def __init__(
    self,
    dataset: Dataset,
    tokenizer: tokenization.FullTokenizer,
    settings: WindowSettings,
    is_verbose: bool = False,
  ):
    """Takes what to read.

    Args:
      dataset: the data set.
      tokenizer: of the model.
      settings: how long windows are.
      is_verbose: whether to log each question that there is something to say
        of, and not only their number.
    """
    self.dataset = dataset
    self._is_verbose = is_verbose
    self.settings = settings
    self.counts = collections.Counter(questions=len(dataset.questions))
    self.tokenizer = tokenizer
    self._cls_id, self._sep_id = tokenizer.convert_tokens_to_ids(
      ["[CLS]", "[SEP]"]
    )
    self._paragraphs = {}
    self._characters_kept = 0

  def note(self, question: Question, what: str) -> None:
    """Counts a question that there is something to say of."""
    self.counts[what] += 1
    if self._is_verbose:
      logging.info("question %s: %s", question.id, what)

  def paragraph(self, number: int) -> Paragraph:
    if number not in self._paragraphs:
      text = self.dataset.paragraphs[number]
      if self._characters_kept + len(text) > _CHARACTERS_KEPT:
        # Questions come paragraph by paragraph: old ones are done with.
        self._paragraphs.clear()
        self._characters_kept = 0
      self._paragraphs[number] = Paragraph(text, self.tokenizer)
      self._characters_kept += len(text)
    return self._paragraphs[number]

  def _query_ids(self, question: Question) -> list[int]:
    return self.tokenizer.encode(question.text)[
      : self.settings.max_query_length
    ]

  def offset(self, question: Question) -> int:
    """Returns the place of the paragraph in the sequences of a question."""
    return len(self._query_ids(question)) + 2

  def windows_of(
    self, question: Question
  ) -> tuple[Paragraph, sliding_windows.TextWindows]:
    """Returns the paragraph of a question, and its windows."""
    paragraph = self.paragraph(question.paragraph)
    room = self.settings.max_seq_length - len(self._query_ids(question)) - 3
    return paragraph, paragraph.windows(room, self.settings.doc_stride)

  def cut_windows(self) -> Iterator[QuestionWindow]:
    """Yields the windows of all questions, in order.

    Questions are cut to `max_query_length`. A paragraph without tokens has no
    window.
    """
    for number, question in enumerate(self.dataset.questions):
      query = self._query_ids(question)
      paragraph, windows = self.windows_of(question)
      offset = len(query) + 2
      if not len(windows.starts):
        self.note(question, "questions about empty paragraphs")
      for window, (start, length) in enumerate(
        zip(windows.starts.tolist(), windows.lengths.tolist())
      ):
        self.counts["windows"] += 1
        yield QuestionWindow(
          number,
          window,
          start,
          offset,
          encoding.InputFeatures(
            [
              self._cls_id,
              *query,
              self._sep_id,
              *paragraph.ids[start : start + length],
              self._sep_id,
            ],
            [0] * offset + [1] * (length + 1),
          ),
        )

  # --- Training --------------------------------------------------------------

  def cut_training_windows(
    self, skip_missing_answers: bool
  ) -> Iterator[tuple[QuestionWindow, tuple[int, int]]]:
    """Yields windows, and the positions of the answer in each.

    They are those of `[CLS]`, (0, 0), where the answer is not in the window,
    or there is none. Of several answers the first counts.

    Args:
      skip_missing_answers: whether to leave out questions whose answer is not
        in the paragraph.

    Raises:
      UserError: a question has no answer where one is needed.
    """
    spans = {}
    for window in self.cut_windows():
      question = self.dataset.questions[window.question]
      if window.question not in spans:
        spans = {
          window.question: self._answer_tokens(question, skip_missing_answers)
        }
      span = spans[window.question]
      if span is None:
        continue
      first, last = span
      last_token = (
        window.first_token + len(window.features.input_ids) - window.offset - 2
      )
      if question.is_impossible or not (
        window.first_token <= first and last <= last_token
      ):
        self.counts["windows without answer"] += 1
        yield window, (0, 0)
      else:
        shift = window.offset - window.first_token
        yield window, (first + shift, last + shift)

  def _answer_tokens(
    self, question: Question, skip_missing_answers: bool
  ) -> tuple[int, int] | None:
    """Returns the first and last token of the answer; None to leave it out."""
    if question.is_impossible:
      self.counts["questions without answer"] += 1
      return 0, 0
    if not question.answers:
      raise UserError(
        f"{self.dataset.path}: question {text_files.shown(question.id)} has "
        "no answer to train with, and is not marked by is_impossible."
      )
    paragraph = self.paragraph(question.paragraph)
    words = self._answer_words(paragraph, question)
    if words is None:
      self.note(question, "answers not in the paragraph, left out")
      if skip_missing_answers:
        return None
      raise UserError(
        f"{self.dataset.path}: the answer "
        f"{text_files.shown(question.answers[0].text)} of question "
        f"{text_files.shown(question.id)} is not in its paragraph. Correct "
        "it, or leave such questions out with --skip_missing_answers."
      )
    first = paragraph.first_tokens[words[0]]
    last = max(first, paragraph.first_tokens[words[1] + 1] - 1)
    # Those of its words that are the answer: 1895 of (1895-1943).
    wanted = self.tokenizer.encode(question.answers[0].text)
    place = _find_ids(paragraph.ids[first : last + 1], wanted)
    if not wanted or place < 0:
      return first, last
    return first + place, first + place + len(wanted) - 1

  def _answer_words(
    self, paragraph: Paragraph, question: Question
  ) -> tuple[int, int] | None:
    """Returns the first and last word of an answer; None if it is not there."""
    answer = question.answers[0]
    wanted = " ".join(answer.text.split())
    if not wanted or not paragraph.words:
      return None
    words = [
      paragraph.word_at(place)
      for place in (answer.start, answer.start + len(answer.text) - 1)
    ]
    if wanted in " ".join(paragraph.words[words[0] : words[1] + 1]):
      return words[0], words[1]
    # Annotated with another offset, or other white space: the nearest place.
    nearest = min(
      paragraph.places_of(wanted),
      default=None,
      key=lambda span: abs(span[0] - answer.start),
    )
    if nearest is None:
      return None
    self.note(question, "answers found elsewhere than annotated")
    begin, end = nearest
    return paragraph.word_at(begin), paragraph.word_at(end - 1)


def _find_ids(ids: Sequence[int], wanted: Sequence[int]) -> int:
  """Returns where some ids first stand among others, or -1."""
  # As characters: text is searched in time that grows with its length only.
  characters = {
    id_: chr(number) for number, id_ in enumerate(dict.fromkeys(wanted), 1)
  }
  text = "".join(characters.get(id_, "\0") for id_ in ids)
  return text.find("".join(characters[id_] for id_ in wanted))


# --- Answers -----------------------------------------------------------------


class AnswerSettings(NamedTuple):
  """How answers are chosen.

  Attributes:
    n_best_size: how many to keep, and how many starts and ends of a window to
      look at.
    max_answer_length: in tokens.
    version_2_with_negative: whether a paragraph may have no answer.
    null_score_diff_threshold: how much better the empty answer has to score
      than the best other one to be given.
  """

  n_best_size: int = 20
  max_answer_length: int = 30
  version_2_with_negative: bool = False
  null_score_diff_threshold: float = 0.0


class Candidate(NamedTuple):
  """An answer: its text, probability among the n best, and logits."""

  text: str
  probability: float
  start_logit: float
  end_logit: float


class Prediction(NamedTuple):
  """What is predicted for a question.

  Attributes:
    text: the answer; empty for none.
    n_best: the best answers, the best first.
    null_odds: how much better the empty answer scores than the best other one;
      None if there has to be an answer.
    spans: the first and last token, in the paragraph, of each of the best
      answers; None for the empty answer.
  """

  text: str
  n_best: list[Candidate]
  null_odds: float | None
  spans: list[tuple[int, int] | None]


def predict(
  reader: WindowMaker,
  logits: Mapping[tuple[int, int], tuple],
  settings: AnswerSettings,
) -> Iterator[tuple[Question, Prediction]]:
  """Yields the prediction for each question, in order.

  Args:
    reader: of the data set.
    logits: (question, window) -> start logits and end logits of its sequence,
      float arrays; what they have beyond the sequence takes part in the choice
      of the best, as it always did, but is no answer.
    settings: how to choose.
  """
  reader.counts.pop(_NOTHING_FOUND, None)  # of an earlier prediction
  for number, question in enumerate(reader.dataset.questions):
    paragraph, windows = reader.windows_of(question)
    offset = reader.offset(question)
    columns, null = [], (_NO_NULL_SCORE, 0.0, 0.0)
    for window in range(len(windows.starts)):
      start_logits, end_logits = (np.asarray(x) for x in logits[number, window])
      columns.append(
        _candidates(start_logits, end_logits, windows, window, offset, settings)
      )
      null_score = float(start_logits[0] + end_logits[0])
      if null_score < null[0]:
        null = (null_score, float(start_logits[0]), float(end_logits[0]))
    prediction = _choose(paragraph, columns, null, settings)
    if not any(prediction.spans):
      reader.note(question, _NOTHING_FOUND)
    yield question, prediction


def _candidates(
  start_logits,
  end_logits,
  windows: sliding_windows.TextWindows,
  window: int,
  offset: int,
  settings: AnswerSettings,
) -> tuple:
  """Returns the candidates of a window: arrays of tokens and logits."""
  starts, ends = (
    np.argsort(-x, kind="stable")[: settings.n_best_size] - offset
    for x in (start_logits, end_logits)
  )
  length = windows.lengths[window]
  starts = starts[(starts >= 0) & (starts < length)]
  starts = starts[windows.is_max_context[window][starts]]
  ends = ends[(ends >= 0) & (ends < length)]
  sizes = ends - starts[:, np.newaxis] + 1
  i, j = np.nonzero((sizes > 0) & (sizes <= settings.max_answer_length))
  starts, ends = starts[i], ends[j]
  first = windows.starts[window]
  return (
    starts + first,
    ends + first,
    start_logits[starts + offset],
    end_logits[ends + offset],
  )


def _choose(
  paragraph: Paragraph,
  columns: Sequence[tuple],
  null: tuple,
  settings: AnswerSettings,
) -> Prediction:
  """Returns the prediction of the candidates of all windows of a question."""
  may_be_empty = settings.version_2_with_negative
  starts, ends, start_logits, end_logits = (
    (np.concatenate(parts) for parts in zip(*columns))
    if columns
    else (np.zeros([4, 0]))
  )
  if may_be_empty and columns:
    starts, ends, start_logits, end_logits = (
      np.append(column, value)
      for column, value in zip(
        (starts, ends, start_logits, end_logits), (-1, -1, *null[1:])
      )
    )
  best, spans = {}, {}
  order = np.argsort(-(start_logits + end_logits), kind="stable")
  for candidate in order.tolist():
    if len(best) >= settings.n_best_size:
      break
    span = int(starts[candidate]), int(ends[candidate])
    text = "" if span[0] < 0 else paragraph.answer(*span)
    if text not in best:
      best[text] = float(start_logits[candidate]), float(end_logits[candidate])
      spans[text] = span if text else None
  if may_be_empty:
    best.setdefault("", null[1:])
  if not best:
    best[_NO_CANDIDATE] = (0.0, 0.0)
  n_best = _with_probabilities(best)
  spans = [spans.get(candidate.text) for candidate in n_best]
  if not may_be_empty:
    return Prediction(n_best[0].text, n_best, None, spans)
  others = [candidate for candidate in n_best if candidate.text]
  if not others:
    # Nothing stands against the empty answer.
    return Prediction("", n_best, _NO_NULL_SCORE, spans)
  null_odds = null[0] - others[0].start_logit - others[0].end_logit
  is_empty = null_odds > settings.null_score_diff_threshold
  return Prediction(
    "" if is_empty else others[0].text, n_best, null_odds, spans
  )


def _with_probabilities(logits: Mapping[str, tuple]) -> list[Candidate]:
  """Returns candidates with a softmax over their scores."""
  highest = max(map(sum, logits.values()))
  weights = [math.exp(sum(pair) - highest) for pair in logits.values()]
  total = sum(weights)
  return [
    Candidate(text, weight / total, *pair)
    for (text, pair), weight in zip(logits.items(), weights)
  ]
