"""Multiple choice (paper, section 4.4): SWAG, and data sets of the user.

[CLS] context [SEP] choice [SEP]     one sequence for each choice
"""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
import os
from typing import Any

from data import file_io
from errors import UserError
from tasks import tables
from tasks import text_files

# Columns of SWAG's files.
_CONTEXT, _BEGINNING, _LABEL = "sent1", "sent2", "label"
_ENDINGS = ("ending0", "ending1", "ending2", "ending3")


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


def read_examples(path: str, has_labels: bool = True) -> list[ChoiceExample]:
  """Returns the examples of a `.csv` in SWAG's layout, or of a `.jsonl`.

  A line of a `.jsonl` is an object with `context`, `choices` (a list of
  strings), `label` (number of the correct choice, from 0) and optionally `id`.

  Args:
    path: Path of the file.
    has_labels: Whether labels are required.

  Raises:
    UserError: The file is missing, empty or incomplete; the message names the
      line.
  """
  readers = {".csv": _read_csv, ".jsonl": file_io.read_json_lines}
  ending = os.path.splitext(path)[1]
  if ending not in readers:
    raise UserError(
      f"{path} has an unknown format. Files of choices end in "
      f"{' or '.join(readers)}."
    )
  examples: list[ChoiceExample] = []
  lines: dict[str, int] = {}
  for line, fields in readers[ending](path):
    place = f"{path}, line {line}"
    example = _parse_example(fields, place, len(examples), has_labels)
    # All examples of a batch are one tensor, with an axis of choices.
    num_choices = len(example.choices)
    num_before = len(examples[0].choices) if examples else num_choices
    if num_choices != num_before:
      raise UserError(
        f"{place} has {num_choices} choices, but the examples before have "
        f"{num_before}. All need the same number."
      )
    if example.id in lines:
      raise UserError(
        f"{place} has the id {text_files.format_value(example.id)}, but line "
        f"{lines[example.id]} already has this id. Make ids unique, or leave "
        "them out."
      )
    lines[example.id] = line
    examples.append(example)
  if not examples:
    raise UserError(f"{path} holds no examples.")
  return examples


def _parse_example(
  fields: dict[str, Any], place: str, number: int, has_labels: bool
) -> ChoiceExample:
  """Returns the example of an object in the layout of `.jsonl` files."""
  choices = fields.get("choices")
  if not isinstance(choices, (list, tuple)) or len(choices) < 2:
    raise UserError(
      f"{place}: 'choices' is {text_files.format_value(choices)}, not a list "
      "of two or more strings."
    )
  context = fields.get("context")
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
  example_id = fields.get("id", number)
  if isinstance(example_id, bool) or not isinstance(example_id, (str, int)):
    raise UserError(
      f"{place}: the id is {text_files.format_value(example_id)}, not a "
      "string or an integer."
    )
  label = fields.get("label")
  if label is not None or has_labels:
    label = _parse_label(label, len(choices), place)
  return ChoiceExample(str(example_id), str(context), tuple(choices), label)


def _parse_label(label: Any, num_choices: int, place: str) -> int:
  """Returns the number of the correct choice."""
  # A `.csv` has strings, a `.jsonl` may have anything.
  number = label
  if isinstance(label, str):
    try:
      number = int(label)
    except ValueError:
      number = None
  if isinstance(number, bool) or number not in range(num_choices):
    raise UserError(
      f"{place}: the label {text_files.format_value(label)} is not the "
      f"number of a choice, from 0 to {num_choices - 1}."
    )
  return int(number)  # JSON may have 2.0


def _read_csv(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
  """Yields the rows of a file in SWAG's layout, as objects of `.jsonl` files.

  In this layout the second sentence begins every choice.
  """
  rows = tables.read_fields(path, (_CONTEXT, _BEGINNING))
  _, header = next(rows, (0, []))
  for name in (_CONTEXT, _BEGINNING, *_ENDINGS):
    if header.count(name) != 1:
      problem = "two columns" if name in header else "no column"
      raise UserError(
        f"{path}, line 1 has {problem} {name!r}. SWAG's files have {_CONTEXT}, "
        f"{_BEGINNING}, {', '.join(_ENDINGS)} and {_LABEL}."
      )
  for line, values in rows:
    row = dict(zip(header, values))
    beginning = row.get(_BEGINNING, "")
    choices = []
    for name in _ENDINGS:
      choice = row.get(name)
      # An empty ending stays empty, so that it is reported as missing.
      if choice:
        choice = f"{beginning} {choice}".strip()
      choices.append(choice)
    yield (
      line,
      {
        "context": row.get(_CONTEXT),
        "label": row.get(_LABEL),
        "choices": choices,
      },
    )
