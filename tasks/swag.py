"""Multiple choice (paper, section 4.4): SWAG, and files of one's own.

    [CLS] context [SEP] one of the choices [SEP]     a sequence for each choice
"""

import csv
import dataclasses
import json
import os
from typing import Iterator, Optional

import tensorflow as tf

from data import file_io
from errors import UserError

# Columns of SWAG's files.
_CONTEXT, _BEGINNING, _LABEL = "sent1", "sent2", "label"
_ENDINGS = ("ending0", "ending1", "ending2", "ending3")


@dataclasses.dataclass(frozen=True)
class Example:
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
  label: Optional[int]


def read_examples(path: str, has_labels: bool = True) -> list[Example]:
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
  if not tf.io.gfile.exists(path):
    raise UserError(f"{path} does not exist.")
  readers = {".csv": _read_csv, ".jsonl": file_io.read_json_lines}
  ending = os.path.splitext(path)[1]
  if ending not in readers:
    raise UserError(f"{path}: files of choices end in {' or '.join(readers)}, "
                    "which tells how to read them.")
  examples, lines = [], {}
  for line, fields in readers[ending](path):
    place = f"{path}, line {line}"
    example = _example(fields, place, len(examples), has_labels)
    if examples and len(example.choices) != len(examples[0].choices):
      raise UserError(
          f"{place}: {len(example.choices)} choices, where the examples before "
          f"have {len(examples[0].choices)}. All need the same number.")
    if example.id in lines:
      raise UserError(f"{place}: the id {example.id!r} is that of line "
                      f"{lines[example.id]} as well. Make ids unique, or do "
                      "without them.")
    lines[example.id] = line
    examples.append(example)
  if not examples:
    raise UserError(f"{path} holds no examples.")
  return examples


def _example(fields: dict, place: str, number: int,
             has_labels: bool) -> Example:
  """Returns the example of an object with the keys of the JSON format."""
  choices = fields.get("choices")
  if not isinstance(choices, (list, tuple)) or len(choices) < 2:
    raise UserError(f"{place}: 'choices' is {json.dumps(choices)[:60]}, not a "
                    "list of two texts or more.")
  for i, text in enumerate((fields.get("context"), *choices)):
    if not isinstance(text, str) or not text.strip():
      what = f"choice {i - 1}" if i else "the context"
      raise UserError(f"{place}: {what} is missing: {json.dumps(text)}. Fill "
                      "it in, or leave the row out.")
  label = fields.get("label")
  if label is None and not has_labels:
    return Example(str(fields.get("id", number)), fields["context"],
                   tuple(choices), None)
  try:
    label = int(label)
  except (TypeError, ValueError):
    label = -1
  if not 0 <= label < len(choices):
    raise UserError(f"{place}: the label {fields.get('label')!r} is not the "
                    f"number of a choice, from 0 to {len(choices) - 1}.")
  return Example(str(fields.get("id", number)), fields["context"],
                 tuple(choices), label)


def _read_csv(path: str) -> Iterator[tuple[int, dict]]:
  """Yields lines of SWAG's layout: the second sentence begins every choice."""
  reader = csv.DictReader(line + "\n" for line in
                          file_io.read_lines(path))
  missing = {_CONTEXT, _BEGINNING, *_ENDINGS} - set(reader.fieldnames or ())
  if missing:
    raise UserError(f"{path}, line 1: no column {sorted(missing)[0]!r}. "
                    f"SWAG's files have {_CONTEXT}, {_BEGINNING}, "
                    f"{', '.join(_ENDINGS)} and {_LABEL}.")
  for row in reader:
    beginning = row[_BEGINNING] or ""
    yield reader.line_num, {
        "context": row[_CONTEXT], "label": row.get(_LABEL),
        "choices": [ending and f"{beginning} {ending}".strip()
                    for ending in map(row.get, _ENDINGS)]}
