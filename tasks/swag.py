"""Multiple choice (paper, section 4.4): SWAG, and data sets like it.

[CLS] context [SEP] choice [SEP]     one sequence for each choice

Rows are tables in SWAG's layouts, or objects of JSON or Parquet:

    ours, CommonsenseQA   context or question, or both; choices; label
    ARC, OpenBookQA       question; choices as text and label; answerKey
    HellaSwag             ctx, or ctx_a and ctx_b; endings; label
    RACE                  article; questions; options; answers
    SWAG                  sent1; sent2; ending0, ... or gold-ending; label

A question, like the second sentence of SWAG, begins every choice if there is a
context before it. In RACE, a choice fills the blank `_` of a question.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import os
import re
from typing import Any

from data import row_files
from errors import UserError
from tasks import tables
from tasks import text_files

# Columns of SWAG's files. The full ones tell the right ending by its name.
_CONTEXT, _BEGINNING, _LABEL = "sent1", "sent2", "label"
_ENDINGS = ("ending0", "ending1", "ending2", "ending3")
_RIGHT_ENDING, _WRONG_ENDING = "gold-ending", "distractor-"
_BLANKS = re.compile("_+")
# Labels of published files whose labels are secret.
_UNKNOWN_LABELS = ("", "-1", -1)
# Names of fields in objects, in the order in which they are looked for.
_QUESTIONS = ("question", "question_stem")
_CHOICES = ("choices", "options", "endings")
_LABELS = ("label", "answer", "answerKey", "answers")
_IDS = ("id", "example_id")


@dataclasses.dataclass(frozen=True)
class ChoiceExample:
  """A context and its possible continuations.

  Attributes:
    id: Key of the example in files of predictions.
    context: The context.
    choices: The continuations.
    label: Number of the correct choice; None if it is unknown.
  """

  id: str
  context: str
  choices: tuple[str, ...]
  label: int | None


def read_examples(
  paths: Sequence[str], has_labels: bool = True, encoding: str | None = None
) -> list[ChoiceExample]:
  """Returns the examples of files.

  Args:
    paths: Paths of the files: `.csv` or `.tsv` in SWAG's layout, or JSON, JSON
      lines or Parquet.
    has_labels: Whether labels are required.
    encoding: Encoding of files without byte order mark; see
      `text_decoding.decode`.

  Raises:
    UserError: A file is missing, empty or incomplete; the message names the
      line.
  """
  examples: list[ChoiceExample] = []
  places_of_ids: dict[str, str] = {}
  for path in paths:
    ending = os.path.splitext(path.removesuffix(tables.COMPRESSED_ENDING))[1]
    is_table = ending in (".csv", ".tsv")
    read_rows = _read_table if is_table else _read_objects
    for place, row in read_rows(path, encoding):
      for fields in _to_our_layout(row):
        example = _parse_example(fields, place, len(examples), has_labels)
        if example.id in places_of_ids:
          raise UserError(
            f"{place} has the id {text_files.format_value(example.id)}, but "
            f"{places_of_ids[example.id]} already has this id. Make ids "
            "unique, or leave them out."
          )
        places_of_ids[example.id] = place
        examples.append(example)
  if not examples:
    raise UserError(f"{paths[0]} holds no examples.")
  return examples


# --- Rows --------------------------------------------------------------------


def _read_objects(
  path: str, encoding: str | None
) -> Iterator[tuple[str, dict[str, Any]]]:
  """Yields the place and the object of each row of JSON or Parquet."""
  file = row_files.read_rows(path, encoding)
  for number, fields in file.rows:
    yield f"{path}, {file.noun} {number}", fields


def _read_table(
  path: str, encoding: str | None
) -> Iterator[tuple[str, dict[str, Any]]]:
  """Yields the place and the columns of each row of a file of SWAG."""
  rows = tables.read_fields(
    path, (_CONTEXT, _BEGINNING), tables.TableFormat(encoding)
  )
  _, header = next(rows, (0, []))
  header = [name.strip() for name in header]
  is_full = _RIGHT_ENDING in header
  endings = (_RIGHT_ENDING, f"{_WRONG_ENDING}0") if is_full else _ENDINGS
  for name in (_CONTEXT, _BEGINNING, *endings):
    if header.count(name) != 1:
      problem = "two columns" if name in header else "no column"
      raise UserError(
        f"{path}, line 1 has {problem} {name!r}. SWAG's files have {_CONTEXT}, "
        f"{_BEGINNING}, {', '.join(_ENDINGS)} and {_LABEL}; the full ones have "
        f"{_RIGHT_ENDING} and {_WRONG_ENDING}0, ... instead of the endings."
      )
  for line, values in rows:
    yield f"{path}, line {line}", dict(zip(header, values))


# --- Layouts -----------------------------------------------------------------


def _to_our_layout(row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
  """Yields objects with `id`, `context`, `choices` and `label` for a row.

  Fields that a row lacks are None, and are found by `_parse_example`.
  """
  if _CONTEXT in row:
    yield _from_swag(row)
  elif "article" in row:
    yield from _from_race(row)
  elif "ctx" in row or "ctx_a" in row:
    yield _from_hellaswag(row)
  else:
    yield _from_question(row)


def _from_swag(row: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the object for a row of SWAG."""
  label = row.get(_LABEL)
  if _RIGHT_ENDING in row:
    names = [name for name in row if name.startswith(_WRONG_ENDING)]
    # The columns of their kinds have no text of an ending.
    wrong = [row[name] for name in sorted(names) if name[-1].isdigit()]
    endings = [row[_RIGHT_ENDING], *filter(None, wrong)]
    label = 0
  else:
    endings = [row.get(name) for name in _ENDINGS]
  beginning = row.get(_BEGINNING)
  return {
    "context": row[_CONTEXT],
    "choices": [_join(beginning, ending) for ending in endings],
    "label": label,
  }


def _from_hellaswag(row: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the object for a row of HellaSwag."""
  context, beginning = row.get("ctx_a"), row.get("ctx_b")
  if not context:
    context, beginning = row.get("ctx"), ""
  return {
    "id": row.get("id"),
    "context": context,
    "choices": _map_choices(
      row.get("endings"), lambda ending: _join(beginning, ending)
    ),
    "label": row.get(_LABEL),
  }


def _from_race(row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
  """Yields the objects for the questions about an article of RACE."""
  example_id = _find(row, _IDS)
  questions = row.get("questions")
  if not isinstance(questions, list):
    yield {
      "id": example_id,
      "context": row["article"],
      "choices": _fill_blanks(row.get("question"), _find(row, _CHOICES)),
      "label": _find(row, _LABELS),
    }
    return
  for number, question in enumerate(questions):
    yield {
      "id": None if example_id is None else f"{example_id}-{number}",
      "context": row["article"],
      "choices": _fill_blanks(question, _get(row.get("options"), number)),
      "label": _get(row.get("answers"), number),
    }


def _fill_blanks(question: Any, options: Any) -> Any:
  """Returns the question with each option as its answer."""

  def fill(option):
    are_texts = isinstance(question, str) and isinstance(option, str)
    if are_texts and "_" in question and option.strip():
      return _BLANKS.sub(lambda _: option, question)
    return _join(question, option)

  return _map_choices(options, fill)


def _from_question(row: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the object for a question, or for a row in our own layout."""
  context, question = row.get("context"), _find(row, _QUESTIONS)
  choices, label = _find(row, _CHOICES), _find(row, _LABELS)
  if isinstance(question, dict):
    choices = _find(question, _CHOICES) or choices
    question = question.get("stem")
  choices, names = _split_names(choices)
  if label is not None and label in names:
    label = names.index(label)
  if context and question:
    choices = _map_choices(choices, lambda choice: _join(question, choice))
  return {
    "id": _find(row, _IDS),
    "context": context or question,
    "choices": choices,
    "label": label,
  }


def _split_names(choices: Any) -> tuple[Any, list[Any]]:
  """Returns choices, and the names by which labels call them, such as A.

  Names stand next to the texts: in an object of lists `text` and `label`, or in
  a list of objects with these fields.
  """
  if isinstance(choices, dict):
    names = choices.get("label")
    return choices.get("text"), names if isinstance(names, list) else []
  if isinstance(choices, list) and choices and isinstance(choices[0], dict):
    fields = [choice if isinstance(choice, dict) else {} for choice in choices]
    texts = [choice.get("text") for choice in fields]
    return texts, [choice.get("label") for choice in fields]
  return choices, []


def _find(row: Mapping[str, Any], names: Sequence[str]) -> Any:
  """Returns the first field of the names that has a value, or None."""
  return next((row[name] for name in names if row.get(name) is not None), None)


def _get(values: Any, number: int) -> Any:
  """Returns an element of a list, or None if there is none."""
  if isinstance(values, list) and number < len(values):
    return values[number]
  return None


def _map_choices(choices: Any, function) -> Any:
  """Returns the function's values for a list; anything else as it is."""
  return list(map(function, choices)) if isinstance(choices, list) else choices


def _join(beginning: Any, ending: Any) -> Any:
  """Returns two texts as one; a value that is no text stays, to be reported."""
  if not isinstance(ending, str) or not ending.strip():
    return ending
  if beginning and not isinstance(beginning, str):
    return beginning
  return f"{beginning or ''} {ending}".strip()


# --- Examples ----------------------------------------------------------------


def _parse_example(
  fields: dict[str, Any], place: str, number: int, has_labels: bool
) -> ChoiceExample:
  """Returns the example of an object in our layout."""
  choices = fields["choices"]
  if not isinstance(choices, list) or len(choices) < 2:
    raise UserError(
      f"{place}: 'choices' is {text_files.format_value(choices)}, not a list "
      "of two or more strings."
    )
  context = fields["context"]
  texts = {"the context": context}
  for choice_number, choice in enumerate(choices):
    texts[f"choice {choice_number}"] = choice
  for name, text in texts.items():
    if not isinstance(text, str) or not text.strip():
      raise UserError(
        f"{place}: {name} is missing: {text_files.format_value(text)}. Fill "
        "it in, or remove the row."
      )
  # SWAG's files have no ids.
  example_id = fields.get("id")
  if example_id is None:
    example_id = number
  if isinstance(example_id, bool) or not isinstance(example_id, (str, int)):
    raise UserError(
      f"{place}: the id is {text_files.format_value(example_id)}, not a "
      "string or an integer."
    )
  label = fields["label"]
  if label in _UNKNOWN_LABELS and not has_labels:
    label = None
  if label is not None or has_labels:
    label = _parse_label(label, len(choices), place)
  return ChoiceExample(str(example_id), str(context), tuple(choices), label)


def _parse_label(label: Any, num_choices: int, place: str) -> int:
  """Returns the number of the correct choice."""
  # A `.csv` has strings, a `.jsonl` may have anything.
  number = label
  if isinstance(label, str):
    label = label.strip()
    try:
      number = int(label)
    except ValueError:
      # A is the first choice.
      is_letter = len(label) == 1 and label.isascii() and label.isalpha()
      number = ord(label.upper()) - ord("A") if is_letter else None
  if isinstance(number, bool) or number not in range(num_choices):
    raise UserError(
      f"{place}: the label {text_files.format_value(label)} is not the "
      f"number of a choice, from 0 to {num_choices - 1}, nor its letter."
    )
  return int(number)  # JSON may have 2.0
