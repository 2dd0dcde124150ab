"""SQuAD 1.1 and 2.0, and files of questions in other layouts.

Rajpurkar et al., 2016 and 2018. The published layout is a list of articles with
paragraphs, which have questions (`qas`). These are read as well:

    articles or paragraphs   in a list, without the object around it
    flat                     a question is a row: `id`, `context`, `question`,
                             and `answers` with lists `text`, `answer_start`
    CMRC 2018                `context_text`, `query_id`, `query_text`, and texts
                             as answers

All of them may be JSON, JSON lines or Parquet.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
from typing import Any, NamedTuple

from absl import logging

from data import row_files
from errors import UserError
from tasks import text_files

_KINDS = {
  str: "a string",
  list: "a list",
  int: "an integer",
  bool: "true or false",
}
# Names of fields. The first is that of SQuAD; others are those of CMRC 2018,
# MRQA and KLUE.
_CONTEXT = ("context", "context_text")
_QUESTION = ("question", "query_text")
_ID = ("id", "query_id", "qid", "guid")
_ANSWERS = ("answers", "answer", "answer_text")
# Texts by which annotation tools write true and false; they leave an empty text
# where nobody decided.
_TRUTH_VALUES = {"true": True, "1": True, "false": False, "0": False, "": None}


class Answer(NamedTuple):
  """An annotated answer.

  Attributes:
    text: The answer.
    start: Its offset in the paragraph. None if it is unknown: the first
      occurrence counts then.
  """

  text: str
  start: int | None


@dataclasses.dataclass(frozen=True)
class Question:
  """A question about a paragraph.

  Attributes:
    id: Key of the question in files of predictions.
    text: The question.
    paragraph: Number of the paragraph in the data set.
    answers: Annotated answers; empty if there is no answer or it is unknown.
    is_impossible: Whether the paragraph is known to have no answer.
  """

  id: str
  text: str
  paragraph: int
  answers: tuple[Answer, ...] = ()
  is_impossible: bool = False


class Dataset(NamedTuple):
  """The contents of a file.

  Attributes:
    path: Path of the file, for messages.
    paragraphs: Texts of the paragraphs.
    questions: Questions in the order of the file.
  """

  path: str
  paragraphs: list[str]
  questions: list[Question]

  @property
  def has_answers(self) -> bool:
    """True if predictions can be scored."""
    return all(
      question.answers or question.is_impossible for question in self.questions
    )


def read_dataset(path: str, encoding: str | None = None) -> Dataset:
  """Returns the contents of a file of questions.

  Args:
    path: Path of the file.
    encoding: Encoding of JSON without byte order mark; see
      `text_decoding.decode`.

  Raises:
    UserError: The file is missing, truncated or incomplete; the message names
      the question.
  """
  reader = _DatasetReader(path)
  noun, rows = row_files.read_rows(path, encoding)
  for number, row in rows:
    reader.read_row(row, number, noun)
  return reader.finish()


class _DatasetReader:
  """Collects the questions of the rows of a file."""

  def __init__(self, path: str):
    self._path = path
    self._paragraphs: list[str] = []
    self._questions: list[Question] = []
    # Id of a question -> its place, for messages.
    self._places: dict[str, str] = {}
    # Paragraph of a flat file -> its number.
    self._numbers: dict[str, int] = {}
    # Numbers of questions of a flat file whose list of answers is empty.
    self._unanswered: list[int] = []
    self._made_ids: list[str] = []

  def read_row(self, row: dict[str, Any], number: int, noun: str) -> None:
    """Reads an article, a paragraph or a question.

    Args:
      row: The row.
      number: Its number in the file.
      noun: Name of the rows in messages, such as `entry`.
    """
    if "paragraphs" in row:
      place = f"{'article' if noun == 'entry' else noun} {number}"
      self._read_article(row, place)
    elif "qas" in row:
      place = f"{'paragraph' if noun == 'entry' else noun} {number}"
      self._read_paragraph(row, place)
    elif _find_field(row, _QUESTION)[1] is not None:
      place = f"{'question' if noun == 'entry' else noun} {number}"
      self._read_flat_question(row, place)
    elif set(row) != {"header"}:  # the first line of files of MRQA
      names = text_files.format_names(row) or "nothing"
      raise UserError(
        f"{self._path}: {noun} {number} has neither 'paragraphs', as articles "
        "of SQuAD, nor 'qas', as paragraphs, nor 'question' and 'context', as "
        f"rows of flat files. It has: {names}."
      )

  def finish(self) -> Dataset:
    """Returns the data set after the last row."""
    if not self._questions:
      raise UserError(f"{self._path} holds no questions.")
    if self._made_ids:
      logging.info(
        "%s: %d of %d questions have no id. Their numbers in the file serve as "
        "ids: %s.",
        self._path,
        len(self._made_ids),
        len(self._questions),
        text_files.format_names(self._made_ids),
      )
    # A test set has empty lists for all questions, because the answers are
    # unknown.
    if any(question.answers for question in self._questions):
      for number in self._unanswered:
        question = self._questions[number]
        self._questions[number] = dataclasses.replace(
          question, is_impossible=True
        )
    return Dataset(self._path, self._paragraphs, self._questions)

  def _read_article(self, article: Any, place: str) -> None:
    paragraphs = self._get_field(article, ["paragraphs"], list, place)
    for number, paragraph in enumerate(paragraphs, 1):
      self._read_paragraph(paragraph, f"{place}, paragraph {number}")

  def _read_paragraph(self, paragraph: Any, place: str) -> None:
    text = self._get_field(paragraph, _CONTEXT, str, place)
    entries = self._get_field(paragraph, ["qas"], list, place)
    for number, entry in enumerate(entries, 1):
      question_place = f"{place}, question {number}"
      self._read_question(entry, len(self._paragraphs), question_place)
    self._paragraphs.append(text)

  def _read_flat_question(self, row: dict[str, Any], place: str) -> None:
    text = self._get_field(row, _CONTEXT, str, place)
    number = self._numbers.setdefault(text, len(self._paragraphs))
    if number == len(self._paragraphs):
      self._paragraphs.append(text)
    self._read_question(row, number, place)
    has_answer_field = _find_field(row, _ANSWERS)[1] is not None
    is_marked = _find_field(row, ["is_impossible"])[1] is not None
    if has_answer_field and not is_marked and not self._questions[-1].answers:
      self._unanswered.append(len(self._questions) - 1)

  def _read_question(self, entry: Any, paragraph: int, place: str) -> None:
    question_id = self._read_id(entry, place)
    shown = text_files.format_value(question_id)
    # Predictions are keyed by id.
    if question_id in self._places:
      raise UserError(
        f"{self._path}: {place} has the id {shown}, but "
        f"{self._places[question_id]} already has this id. Ids must be unique."
      )
    self._places[question_id] = place
    place = f"question {shown} ({place})"
    answers = self._read_answers(entry, place)
    is_impossible = self._read_is_impossible(entry, place)
    if is_impossible:
      # Some data sets have plausible answers there, which are wrong.
      answers = []
    text = self._get_field(entry, _QUESTION, str, place)
    self._questions.append(
      Question(question_id, text, paragraph, tuple(answers), is_impossible)
    )

  def _read_id(self, entry: Any, place: str) -> str:
    """Returns the id of a question, or makes one of its number in the file."""
    value = _find_field(entry, _ID)[1]
    if value is None or value == "":
      made_id = f"question_{len(self._questions) + 1}"
      self._made_ids.append(made_id)
      return made_id
    number = _to_integer(value)
    if number is not None and not isinstance(value, str):
      return str(number)
    return self._get_field(entry, _ID, str, place)

  def _read_is_impossible(self, entry: Any, place: str) -> bool:
    # Questions of SQuAD 1.1 have no such field. Some tools write null.
    value = _find_field(entry, ["is_impossible"])[1]
    number = _to_integer(value)
    word = str(value if number is None else number).strip().lower()
    if value is None or word in _TRUTH_VALUES:
      return bool(_TRUTH_VALUES.get(word))
    return self._get_field(entry, ["is_impossible"], bool, place)

  # --- Answers ---------------------------------------------------------------

  def _read_answers(self, entry: Any, place: str) -> list[Answer]:
    """Returns the answers of a question; none if it has no such field."""
    _, value = _find_field(entry, _ANSWERS)
    if value is None:
      return []
    if isinstance(value, str):
      # The only answer, whose offset may be a field of its own.
      value = [{"text": value, "answer_start": entry.get("answer_start")}]
    elif isinstance(value, dict):
      value = self._split_columns(value, place)
    elif not isinstance(value, list):
      value = self._get_field(entry, _ANSWERS, list, place)
    answers = []
    for item in value:
      answer = self._read_answer(item, f"an answer of {place}")
      # Annotation tools write an empty text where nothing is marked.
      if answer.text.strip() or answer.start is not None:
        answers.append(answer)
    return answers

  def _read_answer(self, value: Any, place: str) -> Answer:
    if isinstance(value, str):
      return Answer(value, None)
    text = self._get_field(value, ["text"], str, place)
    start = value.get("answer_start")
    if start is None:
      return Answer(text, None)
    number = _to_integer(start)
    if number is None:
      number = self._get_field(value, ["answer_start"], int, place)
    # Annotation tools write -1 where they did not look for the answer.
    return Answer(text, None if number < 0 else number)

  def _split_columns(self, columns: dict[str, Any], place: str) -> list[Any]:
    """Returns answers one by one, from lists of their texts and offsets."""
    texts = columns.get("text")
    if not isinstance(texts, list):
      return [columns]
    starts = columns.get("answer_start")
    if starts is None:
      return texts
    if not isinstance(starts, list) or len(starts) != len(texts):
      raise UserError(
        f"{self._path}: {place} has {len(texts)} texts of answers, but "
        f"answer_start={text_files.format_value(starts)}. Each text needs one "
        "offset."
      )
    return [
      {"text": text, "answer_start": start}
      for text, start in zip(texts, starts)
    ]

  def _get_field(
    self, entry: Any, names: Sequence[str], kind: type, place: str
  ) -> Any:
    """Returns a field of an object.

    Args:
      entry: The object.
      names: Names of the field; see `_find_field`.
      kind: Type of the field.
      place: Place of the object, for messages.

    Raises:
      UserError: There is no such field, or it has another type.
    """
    name, value = _find_field(entry, names)
    # In Python, True and False are integers.
    is_bool = isinstance(value, bool)
    if isinstance(value, kind) and is_bool == (kind is bool):
      return value
    found = f"has no {name!r}"
    if isinstance(entry, dict) and name in entry:
      found = f"has {name}={text_files.format_value(value)}"
    raise UserError(
      f"{self._path}: {place} {found}; the SQuAD format requires "
      f"{_KINDS[kind]} there."
    )


def _find_field(entry: Any, names: Sequence[str]) -> tuple[str, Any]:
  """Returns name and value of the first of some fields that is not null.

  If there is none, these are the first name and None.
  """
  if isinstance(entry, dict):
    for name in names:
      if entry.get(name) is not None:
        return name, entry[name]
  return names[0], None


def _to_integer(value: Any) -> int | None:
  """Returns the integer that a number or a text stands for, or None.

  Tables of other libraries turn integers into 7.0 where some are missing.
  """
  if isinstance(value, bool):
    return None
  if isinstance(value, int):
    return value
  if isinstance(value, float):
    return int(value) if value.is_integer() else None
  if isinstance(value, str):
    try:
      return int(value)
    except ValueError:
      return None
  return None
