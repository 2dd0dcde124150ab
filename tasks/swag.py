"""Multiple choice (paper, section 4.4): SWAG, and files of one's own.

[CLS] context [SEP] one of the choices [SEP]     a sequence for each choice
"""

from collections.abc import Iterator
import dataclasses
import os

from data import file_io
from errors import UserError
from tasks import text_files

# Columns of SWAG's files.
_CONTEXT, _BEGINNING, _LABEL = "sent1", "sent2", "label"
_ENDINGS = ("ending0", "ending1", "ending2", "ending3")


@dataclasses.dataclass(frozen=True)
class ChoiceExample:
  """A context and what may follow it.

  Attributes:
    id: what names it in predictions.
    context: what comes first.
    choices: what may follow.
    label: the number of the right choice; None if it is not known.
  """

  id: str
  context: str
  choices: tuple[str, ...]
  label: int | None


def read_examples(path: str, has_labels: bool = True) -> list[ChoiceExample]:
  """Reads SWAG's `.csv`, or `.jsonl` of any number of choices.

  An object of JSON has `context`, `choices` (a list of texts), `label` (the
  number of the right one, from 0) and, if there is one, `id`.

  Args:
    path: of the file.
    has_labels: whether there have to be labels.

  Raises:
    UserError: the file is missing or empty, or lacks something; the message
      names the line.
  """
  readers = {".csv": _read_csv, ".jsonl": file_io.read_json_lines}
  ending = os.path.splitext(path)[1]
  if ending not in readers:
    raise UserError(
      f"{path}: files of choices end in {' or '.join(readers)}, "
      "which tells how to read them."
    )
  examples, lines = [], {}
  for line, fields in readers[ending](path):
    place = f"{path}, line {line}"
    example = _example(fields, place, len(examples), has_labels)
    if examples and len(example.choices) != len(examples[0].choices):
      raise UserError(
        f"{place}: {len(example.choices)} choices, where the examples before "
        f"have {len(examples[0].choices)}. All need the same number."
      )
    if example.id in lines:
      raise UserError(
        f"{place}: the id {text_files.shown(example.id)} is that of line "
        f"{lines[example.id]} as well. Make ids unique, or do without them."
      )
    lines[example.id] = line
    examples.append(example)
  if not examples:
    raise UserError(f"{path} holds no examples.")
  return examples


def _example(
  fields: dict, place: str, number: int, has_labels: bool
) -> ChoiceExample:
  """Returns the example of an object with the keys of the JSON format."""
  choices = fields.get("choices")
  if not isinstance(choices, (list, tuple)) or len(choices) < 2:
    raise UserError(
      f"{place}: 'choices' is {text_files.shown(choices)}, not a "
      "list of two texts or more."
    )
  for i, text in enumerate((fields.get("context"), *choices)):
    if not isinstance(text, str) or not text.strip():
      what = f"choice {i - 1}" if i else "the context"
      raise UserError(
        f"{place}: {what} is missing: {text_files.shown(text)}. "
        "Fill it in, or leave the row out."
      )
  example_id = fields.get("id", number)
  if isinstance(example_id, bool) or not isinstance(example_id, (str, int)):
    raise UserError(
      f"{place}: the id is {text_files.shown(example_id)}, not a "
      "text or a whole number."
    )
  label = fields.get("label")
  if label is not None or has_labels:
    label = _choice(label, len(choices), place)
  return ChoiceExample(
    str(example_id), fields["context"], tuple(choices), label
  )


def _choice(label, num_choices: int, place: str) -> int:
  """Returns the number of the right choice."""
  try:
    number = int(label) if isinstance(label, str) else label
  except ValueError:
    number = None
  if isinstance(number, bool) or number not in range(num_choices):
    raise UserError(
      f"{place}: the label {text_files.shown(label)} is not the "
      f"number of a choice, from 0 to {num_choices - 1}."
    )
  return int(number)  # also of 2.0


def _read_csv(path: str) -> Iterator[tuple[int, dict]]:
  """Yields lines of SWAG's layout: the second sentence begins every choice."""
  rows = text_files.read_csv(path)
  _, header = next(rows, (0, []))
  for name in (_CONTEXT, _BEGINNING, *_ENDINGS):
    if header.count(name) != 1:
      what = "two columns" if name in header else "no column"
      raise UserError(
        f"{path}, line 1: {what} {name!r}. SWAG's files have "
        f"{_CONTEXT}, {_BEGINNING}, {', '.join(_ENDINGS)} and "
        f"{_LABEL}."
      )
  for number, fields in rows:
    row = dict(zip(header, fields))
    beginning = row.get(_BEGINNING, "")
    yield (
      number,
      {
        "context": row.get(_CONTEXT),
        "label": row.get(_LABEL),
        "choices": [
          ending and f"{beginning} {ending}".strip()
          for ending in map(row.get, _ENDINGS)
        ],
      },
    )
