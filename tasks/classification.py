"""Classification of texts and pairs of texts: what a task is, and its files.

What differs between tasks is data: which file, which column, which labels. The
published ones stand in `glue.py` and `xnli.py`; `custom_task` is one's own.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import inspect
import os

from absl import logging
import numpy as np
import tensorflow as tf

from data import file_io
from errors import UserError
from tasks import metrics
from tasks import text_files

# What a text has: one label of several, any number of them, or a number.
SINGLE_LABEL = "single_label"
MULTI_LABEL = "multi_label"
REGRESSION = "regression"
PROBLEM_TYPES = (SINGLE_LABEL, MULTI_LABEL, REGRESSION)

# A column, by its number from 0 (from -1 for the last) or by its name.
Column = int | str

# The endings of the files that can be read.
_FORMATS = (".tsv", ".txt", ".csv", ".jsonl")
# Numbers to learn are float32.
_LARGEST_NUMBER = float(np.finfo(np.float32).max)


@dataclasses.dataclass(frozen=True)
class Columns:
  """Where one split of a task lies.

  In `.tsv` and `.txt` files tabs separate columns and quotation marks are text,
  as in GLUE's; `.csv` files are quoted as RFC 4180 has it; `.jsonl` files hold
  an object a line, whose keys are the columns.

  Attributes:
    file: name, from the folder of the task.
    text_a: column of the text.
    text_b: column of the second text, if there is one.
    label: column of the label; None for a file without.
    id: column of what names the example in predictions; None for its number,
      from 0.
    has_header: whether the first line names the columns.
    only: a column and the value that rows need there; the others are left out.
    has_gaps: whether the published file is known for rows that are cut off or
      empty; they are left out, and counted.
  """

  file: str
  text_a: Column
  text_b: Column | None = None
  label: Column | None = None
  id: Column | None = None
  has_header: bool = True
  only: tuple[Column, str] | None = None
  has_gaps: bool = False


@dataclasses.dataclass(frozen=True)
class Example:
  """A text or a pair.

  Attributes:
    place: file and line, for messages.
    id: what names it in predictions.
    text_a: the text.
    text_b: the second text, or None.
    label: as the file has it; for `MULTI_LABEL` a tuple, for `REGRESSION` a
      float; None where it is not known.
  """

  place: str
  id: str
  text_a: str
  text_b: str | None
  label: None | str | tuple[str, ...] | float


@dataclasses.dataclass(frozen=True)
class ClassificationTask:
  """A task: its files, its labels and how it is scored.

  Attributes:
    name: what --task_name calls it, in lower case.
    splits: `train`, `dev` and `test`; further files to evaluate or predict are
      called `dev_...` and `test_...`, and are left out where they are missing.
      Of several `Columns` the first whose file is there counts.
    labels: in the order of their ids; None if the training file tells.
    problem_type: one of `PROBLEM_TYPES`.
    metric_fn: (labels, predictions) -> {name: score}; see `metrics.py`.
    main_metrics: those of the published table, in its order.
    renamed_labels: spelling in a file -> label.
    label_separator: between the labels of a `MULTI_LABEL` column.
    class_weights: label -> weight of its examples in the loss, 1 where it is
      not named; `balanced` for weights such that all labels count the same.
    submissions: split -> the file that the server of GLUE wants for it.
  """

  name: str
  splits: Mapping[str, Sequence[Columns]]
  labels: tuple[str, ...] | None = ("0", "1")
  problem_type: str = SINGLE_LABEL
  metric_fn: Callable[..., dict[str, float]] = metrics.accuracy
  main_metrics: tuple[str, ...] = ("accuracy",)
  renamed_labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
  label_separator: str = ","
  class_weights: None | str | Mapping[str, float] = None
  submissions: Mapping[str, str] = dataclasses.field(default_factory=dict)

  # --- Reading ---------------------------------------------------------------

  def existing_splits(self, data_dir: str, kind: str) -> list[str]:
    """Returns a kind of split, and its further files that are there."""
    return [kind] + [
      split
      for split in self.splits
      if split.startswith(f"{kind}_")
      and any(
        tf.io.gfile.exists(os.path.join(data_dir, columns.file))
        for columns in self.splits[split]
      )
    ]

  def read_examples(self, data_dir: str, split: str) -> list[Example]:
    """Returns the examples of a split, in the order of the file.

    Raises:
      UserError: the file is missing or empty, or has a bad row.
    """
    return self._read(*self._find(data_dir, split))

  def read_texts(self, data_dir: str, file: str) -> list[Example]:
    """Returns the examples of another file, with the columns of `test`."""
    columns = dataclasses.replace(
      self.splits["test"][0], file=file, label=None, id=None
    )
    path = os.path.join(data_dir, file)
    if not tf.io.gfile.exists(path):
      raise UserError(f"{path} does not exist.")
    return self._read(columns, path)

  def _read(self, columns: Columns, path: str) -> list[Example]:
    examples, gaps, lines_of_ids = [], 0, {}
    for line, row in _read_rows(path, columns):
      place = f"{path}, line {line}"
      if columns.only and row.get(columns.only[0], place) != columns.only[1]:
        continue
      try:
        example = self._example(row, columns, place, len(examples))
      except UserError:
        if not columns.has_gaps:
          raise
        gaps += 1
        continue
      first = lines_of_ids.setdefault(example.id, line)
      if first != line:
        raise UserError(
          f"{place}: the id {text_files.shown(example.id)} is that of line "
          f"{first} as well. Predictions could not be told apart: make "
          "ids unique, or do without a column of ids."
        )
      examples.append(example)
    if gaps:
      logging.info(
        "%s: %d rows are cut off or empty, and left out.", path, gaps
      )
    if not examples:
      raise UserError(
        f"{path} holds no examples"
        + (
          f" with {columns.only[1]!r} in column {columns.only[0]!r}."
          if columns.only
          else "."
        )
      )
    return examples

  def _find(self, data_dir: str, split: str) -> tuple[Columns, str]:
    paths = []
    for columns in self.splits[split]:
      paths.append(os.path.join(data_dir, columns.file))
      if tf.io.gfile.exists(paths[-1]):
        return columns, paths[-1]
    raise UserError(
      f"{' or '.join(paths)} does not exist: task {self.name} needs it for "
      f"its {split} examples. Does --data_dir name the right folder?"
    )

  def _example(
    self, row: "_Row", columns: Columns, place: str, number: int
  ) -> Example:
    texts = [
      None if column is None else row.text(column, place)
      for column in (columns.text_a, columns.text_b)
    ]
    label = None
    if columns.label is not None:
      label = self._label(row.get(columns.label, place), place)
    example_id = number if columns.id is None else row.get(columns.id, place)
    if isinstance(example_id, bool) or not isinstance(example_id, (str, int)):
      raise UserError(
        f"{place}: the id is {text_files.shown(example_id)}, not "
        "a text or a whole number."
      )
    return Example(place, str(example_id), *texts, label)

  def _label(self, value, place: str):
    """Returns the label that a field holds."""
    if self.problem_type == REGRESSION:
      return _number(value, place)
    if self.problem_type == MULTI_LABEL:
      values = (
        value
        if isinstance(value, list)
        else [label.strip() for label in str(value).split(self.label_separator)]
      )
      if (
        value is None
        or isinstance(value, dict)
        or any(
          label is None or isinstance(label, (list, dict)) for label in values
        )
      ):
        raise UserError(
          f"{place}: the label is {text_files.shown(value)}, not "
          "a list of words. [] stands for none."
        )
      return tuple(self._known_as(label) for label in values if label != "")
    if value is None or value == "" or isinstance(value, (list, dict)):
      raise UserError(
        f"{place}: the label is {text_files.shown(value)}, not "
        "one word. Texts with several labels are learnt with "
        "--problem_type=multi_label."
      )
    return self._known_as(value)

  def _known_as(self, value) -> str:
    label = str(value)
    return self.renamed_labels.get(label, label)

  # --- Labels ----------------------------------------------------------------

  def find_labels(self, examples: Sequence[Example]) -> tuple[str, ...]:
    """Returns the task's own labels, or all in `examples`, sorted.

    Raises:
      UserError: there are too few to learn anything.
    """
    if self.problem_type == REGRESSION:
      return ()
    labels = self.labels or tuple(
      sorted(
        {label for example in examples for label in self._labels_of(example)}
      )
    )
    if len(labels) < (1 if self.problem_type == MULTI_LABEL else 2):
      raise UserError(
        "The training data have "
        + (
          f"the label {text_files.shown(labels[0])} only."
          if labels
          else "no label."
        )
        + " A classifier needs two or more."
      )
    return labels

  def _labels_of(self, example: Example) -> tuple[str, ...]:
    if self.problem_type == MULTI_LABEL:
      return example.label
    return (example.label,)

  def targets(
    self, examples: Sequence[Example], labels: Sequence[str]
  ) -> np.ndarray:
    """Returns what is to be predicted for each of n examples.

    Returns:
      The number of the label, int64 [n]; for `MULTI_LABEL` 1 where a label
      applies and 0 where it does not, float32 [n, num_labels]; for `REGRESSION`
      float32 [n]. All 0 where it is not known.

    Raises:
      UserError: a label is not one of `labels`.
    """
    if self.problem_type == REGRESSION:
      return np.array(
        [example.label or 0.0 for example in examples], np.float32
      )
    ids = {label: i for i, label in enumerate(labels)}
    shape = [len(examples), len(labels)]
    is_label = np.zeros(shape, np.float32)
    for number, example in enumerate(examples):
      if example.label is None:
        continue
      for label in self._labels_of(example):
        if label not in ids:
          raise UserError(
            f"{example.place}: the label {text_files.shown(label)} is not "
            f"one of: {text_files.some(labels)}. Correct it, or train with "
            "examples of it."
          )
        is_label[number, ids[label]] = 1.0
    if self.problem_type == MULTI_LABEL:
      return is_label
    return np.argmax(is_label, axis=1)

  def label_weights(
    self, targets: np.ndarray, labels: Sequence[str]
  ) -> np.ndarray | None:
    """Returns the weight of each label in the loss, float32, or None for 1.

    For `MULTI_LABEL` it is that of the examples that have the label.

    Args:
      targets: of the training examples.
      labels: in the order of their ids.

    Raises:
      UserError: `class_weights` does not go with the labels.
    """
    if self.class_weights is None:
      return None
    if self.problem_type == REGRESSION:
      raise UserError("Class weights are for classes; regression has none.")
    if self.class_weights == "balanced":
      if self.problem_type == MULTI_LABEL:
        counts = targets.sum(axis=0)
        return ((len(targets) - counts) / np.maximum(counts, 1)).astype(
          np.float32
        )
      counts = np.bincount(targets, minlength=len(labels))
      return (len(targets) / (len(labels) * np.maximum(counts, 1))).astype(
        np.float32
      )
    unknown = sorted(set(self.class_weights) - set(labels))
    if unknown:
      raise UserError(
        "There is a class weight for "
        f"{text_files.shown(unknown[0])}, which is not one of "
        f"the labels: {text_files.some(labels)}."
      )
    return np.array(
      [self.class_weights.get(label, 1.0) for label in labels], np.float32
    )


def _number(value, place: str) -> float:
  """Returns the number that a field holds, to be learnt by regression."""
  try:
    number = float("" if isinstance(value, bool) else value)
  except (TypeError, ValueError, OverflowError):
    number = np.nan
  if not abs(number) <= _LARGEST_NUMBER:  # nor NaN
    raise UserError(
      f"{place}: the label {text_files.shown(value)} is not a "
      "finite number of float32, which regression learns. "
      "Correct it, or leave the row out."
    )
  return number


# --- Rows --------------------------------------------------------------------


class _Row:
  """The fields of a line; a list, or a dict of JSON."""

  def __init__(self, fields, numbers: Mapping[str, int]):
    self._fields = fields
    self._numbers = numbers  # of named columns, where `fields` is a list

  def get(self, column: Column, place: str):
    """Returns a field.

    Raises:
      UserError: the row has no such column.
    """
    if isinstance(self._fields, dict):
      if column not in self._fields:
        raise UserError(
          f"{place}: there is no {column!r}. The object has: "
          f"{text_files.some(self._fields)}."
        )
      return self._fields[column]
    number = self._numbers.get(column, column)
    try:
      return self._fields[number]
    except IndexError:
      raise UserError(
        f"{place}: {len(self._fields)} columns, but column {number + 1} is "
        f"needed: {text_files.shown(self._fields)}. Is the row cut off?"
      ) from None

  def text(self, column: Column, place: str) -> str:
    """Returns a field that holds text.

    Raises:
      UserError: it is missing or empty, or something else.
    """
    value = self.get(column, place)
    if not isinstance(value, str) or not value.strip():
      raise UserError(
        f"{place}: column {column!r} has "
        f"{text_files.shown(value)}, not a text. Fill it in, or "
        "leave the row out."
      )
    return value


def _read_rows(path: str, columns: Columns) -> Iterator[tuple[int, _Row]]:
  """Yields the number of the line and the fields of each row."""
  ending = os.path.splitext(path)[1]
  if ending not in _FORMATS:
    raise UserError(
      f"{path}: files of examples end in one of "
      f"{', '.join(_FORMATS)}, which tells how to read them."
    )
  if ending == ".jsonl":
    for number, fields in file_io.read_json_lines(path):
      yield number, _Row(fields, {})
    return
  rows = (
    text_files.read_csv(path)
    if ending == ".csv"
    else (
      (number, line.split("\t"))
      for number, line in text_files.read_lines(path)
      if line
    )
  )
  numbers = {}
  if columns.has_header:
    _, header = next(rows, (0, []))
    numbers = {name: number for number, name in enumerate(header)}
    for column in (
      columns.text_a,
      columns.text_b,
      columns.label,
      columns.id,
      columns.only and columns.only[0],
    ):
      if isinstance(column, str) and header.count(column) != 1:
        what = "two columns" if column in numbers else "no column"
        raise UserError(
          f"{path}, line 1: {what} {column!r}. It names: "
          f"{text_files.some(header)}."
        )
  for number, fields in rows:
    yield number, _Row(fields, numbers)


# --- One's own data ----------------------------------------------------------

_METRICS = {
  SINGLE_LABEL: metrics.accuracy_and_macro_f1,
  MULTI_LABEL: metrics.multi_label_scores,
  REGRESSION: metrics.correlations_and_errors,
}
_MAIN_METRICS = {
  SINGLE_LABEL: ("accuracy",),
  MULTI_LABEL: ("micro_f1",),
  REGRESSION: ("spearman",),
}


def custom_task(
  text_a: str = "text",
  text_b: str | None = None,
  label: str = "label",
  id: str | None = None,
  problem_type: str = SINGLE_LABEL,
  labels: Sequence[str] | None = None,
  label_separator: str = ",",
  class_weights: None | str | Mapping[str, float] = None,
  train: str | None = None,
  dev: str | None = None,
  test: str | None = None,
) -> ClassificationTask:
  """Returns the task of files of one's own.

  Args:
    text_a: name of the column of the text.
    text_b: of the second text, if there is one.
    label: of the label; the test file does not need it.
    id: of what names an example in predictions, if there is one.
    problem_type: one of `PROBLEM_TYPES`.
    labels: all labels; None for those of the training file.
    label_separator: between several labels in one field. JSON may have lists.
    class_weights: see `ClassificationTask`.
    train: the file of training examples, from the folder of the task; None for
      `train.tsv`, `train.csv` or `train.jsonl`, whichever there is.
    dev: likewise, for `dev`.
    test: likewise, for `test`.

  Raises:
    UserError: an argument has a value that it cannot have.
  """
  if problem_type not in PROBLEM_TYPES:
    raise UserError(
      f"The problem type {text_files.shown(problem_type)} is "
      f"none of {', '.join(PROBLEM_TYPES)}."
    )
  for name, value in [
    ("text_a", text_a),
    ("label", label),
    ("label_separator", label_separator),
  ]:
    if not value or not isinstance(value, str):
      raise UserError(f"{name} is {text_files.shown(value)}, not a text.")
  for name, value in [
    ("text_b", text_b),
    ("id", id),
    ("train", train),
    ("dev", dev),
    ("test", test),
  ]:
    if value is not None and not isinstance(value, str):
      raise UserError(f"{name} is {text_files.shown(value)}, not a text.")
  labels = _checked_labels(labels, problem_type)
  _check_class_weights(class_weights)
  splits = {}
  for split, file in [("train", train), ("dev", dev), ("test", test)]:
    names = (
      [file]
      if file
      else [split + ending for ending in (".tsv", ".csv", ".jsonl")]
    )
    splits[split] = [
      Columns(name, text_a, text_b, None if split == "test" else label, id)
      for name in names
    ]
  return ClassificationTask(
    name="custom",
    splits=splits,
    labels=labels,
    problem_type=problem_type,
    metric_fn=_METRICS[problem_type],
    main_metrics=_MAIN_METRICS[problem_type],
    label_separator=label_separator,
    class_weights=class_weights,
  )


def _checked_labels(labels, problem_type: str) -> tuple[str, ...] | None:
  """Returns the labels as texts; None if there are none."""
  if not labels:
    return None
  if problem_type == REGRESSION:
    raise UserError("labels are for classes; regression has none.")
  if not isinstance(labels, (list, tuple)) or any(
    label == "" or not isinstance(label, (str, int, float)) for label in labels
  ):
    raise UserError(
      f"labels is {text_files.shown(labels)}, not a list of texts."
    )
  texts = tuple(map(str, labels))
  if len(set(texts)) < len(texts):
    twice = next(text for text in texts if texts.count(text) > 1)
    raise UserError(f"labels has {text_files.shown(twice)} twice.")
  return texts


def _check_class_weights(class_weights) -> None:
  """Checks the form of class weights, see `ClassificationTask`."""
  if class_weights in (None, "balanced"):
    return
  if not isinstance(class_weights, Mapping):
    raise UserError(
      f"class_weights is {text_files.shown(class_weights)}, "
      'neither "balanced" nor an object of labels and '
      "weights."
    )
  for label, weight in class_weights.items():
    if (
      isinstance(weight, bool)
      or not isinstance(weight, (int, float))
      or (not 0.0 <= weight <= _LARGEST_NUMBER)
    ):
      raise UserError(
        f"class_weights: {text_files.shown(label)} has the "
        f"weight {text_files.shown(weight)}, not a finite "
        "number from 0."
      )


def read_task_file(path: str) -> ClassificationTask:
  """Returns the task that a JSON file describes.

  It holds an object with arguments of `custom_task`, such as

      {"text_a": "question", "text_b": "answer", "label": "quality",
       "problem_type": "regression", "train": "2024.csv"}

  Raises:
    UserError: the file is missing, or says something else.
  """
  settings = file_io.read_json(path)
  known = list(inspect.signature(custom_task).parameters)
  unknown = sorted(set(settings) - set(known))
  if unknown:
    raise UserError(
      f"{path} has {text_files.some(unknown)}; a task file is an "
      f"object with some of: {', '.join(known)}."
    )
  try:
    return custom_task(**settings)
  except UserError as error:
    raise UserError(f"{path}: {error}") from error
