"""SQuAD 1.1 and 2.0: questions about paragraphs, and their annotated answers.

Rajpurkar et al., 2016 and 2018.
"""

from collections.abc import Iterator
import dataclasses
from typing import Any, NamedTuple

from data import file_io
from errors import UserError
from tasks import text_files

_KINDS = {
  str: "a string",
  list: "a list",
  int: "an integer",
  bool: "true or false",
}


class Answer(NamedTuple):
  """An annotated answer; `start` is its offset in the paragraph."""

  text: str
  start: int


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
    """Whether predictions can be scored."""
    return all(
      question.answers or question.is_impossible for question in self.questions
    )


def read_dataset(path: str) -> Dataset:
  """Returns the contents of a SQuAD file, version 1.1 or 2.0.

  Raises:
    UserError: The file is missing, truncated or incomplete; the message names
      the question.
  """
  dataset = Dataset(path, [], [])
  places: dict[str, str] = {}
  for place, paragraph in _read_paragraphs(path):
    text = _get_field(paragraph, "context", str, path, place)
    entries = _get_field(paragraph, "qas", list, path, place)
    for number, entry in enumerate(entries, 1):
      question_place = f"{place}, question {number}"
      question = _read_question(
        entry, len(dataset.paragraphs), path, question_place
      )
      # Predictions are keyed by id.
      if question.id in places:
        shown = text_files.format_value(question.id)
        raise UserError(
          f"{path}: {question_place} has the id {shown}, but "
          f"{places[question.id]} already has this id. Ids must be unique."
        )
      places[question.id] = question_place
      dataset.questions.append(question)
    dataset.paragraphs.append(text)
  if not dataset.questions:
    raise UserError(f"{path} holds no questions.")
  return dataset


def _read_paragraphs(path: str) -> Iterator[tuple[str, Any]]:
  """Yields the paragraphs of a file, each with its place for messages."""
  content = file_io.read_json(path)
  articles = _get_field(content, "data", list, path, "the file")
  for article_number, article in enumerate(articles, 1):
    place = f"article {article_number}"
    paragraphs = _get_field(article, "paragraphs", list, path, place)
    for number, paragraph in enumerate(paragraphs, 1):
      yield f"{place}, paragraph {number}", paragraph


def _get_field(entry: Any, key: str, kind: type, path: str, place: str) -> Any:
  """Returns a field of a JSON object.

  Raises:
    UserError: There is no such field, or it has another type.
  """
  value = entry.get(key) if isinstance(entry, dict) else None
  # In Python, True and False are integers.
  is_bool = isinstance(value, bool)
  if isinstance(value, kind) and is_bool == (kind is bool):
    return value
  found = f"has no {key!r}"
  if isinstance(entry, dict) and key in entry:
    found = f"has {key}={text_files.format_value(value)}"
  raise UserError(
    f"{path}: {place} {found}; the SQuAD format requires {_KINDS[kind]} there."
  )


def _read_question(
  entry: Any, paragraph: int, path: str, place: str
) -> Question:
  """Returns the question of a JSON object."""
  question_id = _get_field(entry, "id", str, path, place)
  place = f"question {text_files.format_value(question_id)} ({place})"
  # Questions of a test set have no answers, and those of SQuAD 1.1 have no
  # `is_impossible`. Some tools write null for a missing field.
  answers = []
  if entry.get("answers") is not None:
    answer_place = f"an answer of {place}"
    for answer in _get_field(entry, "answers", list, path, place):
      text = _get_field(answer, "text", str, path, answer_place)
      start = _get_field(answer, "answer_start", int, path, answer_place)
      answers.append(Answer(text, start))
  is_impossible = False
  if entry.get("is_impossible") is not None:
    is_impossible = _get_field(entry, "is_impossible", bool, path, place)
  text = _get_field(entry, "question", str, path, place)
  return Question(question_id, text, paragraph, tuple(answers), is_impossible)
