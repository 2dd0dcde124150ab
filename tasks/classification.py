"""Classification of texts and pairs of texts: tasks, examples and labels.

Tasks differ in data only: files, columns and labels. `glue.py` and `xnli.py`
hold the published tasks; `custom_task` describes data of the user.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import inspect
import os
from typing import Any

from absl import logging
import numpy as np
import tensorflow as tf

from data import file_io
from errors import UserError
import heads
from tasks import metrics
from tasks import text_files

# A text has one of several labels, any number of labels, or a number.
PROBLEM_TYPES = (heads.SINGLE_LABEL, heads.MULTI_LABEL, heads.REGRESSION)

# Number of a column, from 0 (negative: from the end), or its name.
Column = int | str

# Endings of the formats that can be read.
_FORMATS = (".tsv", ".txt", ".csv", ".jsonl")
# Regression learns float32.
_LARGEST_NUMBER = float(np.finfo(np.float32).max)


@dataclasses.dataclass(frozen=True)
class Columns:
  """A file of a split, and its layout.

  In `.tsv` and `.txt` files tabs separate columns and quotation marks are text,
  as in GLUE's files. `.csv` files are quoted as in RFC 4180. Each line of a
  `.jsonl` file is an object whose keys are the columns.

  Attributes:
    file: Path of the file in the folder of the task.
    text_a: Column of the text.
    text_b: Column of the second text, if there is one.
    label: Column of the label; None for a file without labels.
    id: Column of the key in files of predictions; None to use the number of
      the example, from 0.
    has_header: Whether the first line names the columns.
    only: A column and the value that it must have; other rows are skipped.
    has_gaps: Whether the published file has truncated or empty rows. They are
      skipped and counted.
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
  """A text or a pair of texts.

  Attributes:
    place: File and line, for messages.
    id: Key of the example in files of predictions.
    text_a: The text.
    text_b: The second text, or None.
    label: The label as in the file; a tuple for `MULTI_LABEL`, a float for
      `REGRESSION`, None if it is unknown.
  """

  place: str
  id: str
  text_a: str
  text_b: str | None
  label: None | str | tuple[str, ...] | float


@dataclasses.dataclass(frozen=True)
class ClassificationTask:
  """A task: its files, its labels and its scores.

  Attributes:
    name: Value of --task_name, in lower case.
    splits: Files of `train`, `dev` and `test`. Further files to evaluate or
      predict are called `dev_...` and `test_...`, and are skipped if they do
      not exist. Of several `Columns` the first with an existing file is read.
    labels: Labels in the order of their ids; None to use those of the training
      file.
    problem_type: One of `PROBLEM_TYPES`.
    metric_fn: (labels, predictions) -> {name: score}; see `metrics.py`.
    main_metrics: Scores that decide which run is best.
    renamed_labels: Spelling in a file -> label.
    label_separator: Separator of labels in a `MULTI_LABEL` column.
    class_weights: Label -> weight of its examples in the loss, by default 1;
      `balanced` for weights that give all labels the same influence.
    submissions: Split -> file that the GLUE server expects.
    encoding: Encoding of files without byte order mark; see
      `text_decoding.decode`.
  """

  name: str
  splits: Mapping[str, Sequence[Columns]]
  labels: tuple[str, ...] | None = ("0", "1")
  problem_type: str = heads.SINGLE_LABEL
  metric_fn: Callable[..., dict[str, float]] = metrics.accuracy
  main_metrics: tuple[str, ...] = ("accuracy",)
  renamed_labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
  label_separator: str = ","
  class_weights: None | str | Mapping[str, float] = None
  submissions: Mapping[str, str] = dataclasses.field(default_factory=dict)
  encoding: str | None = None

  # --- Reading ---------------------------------------------------------------

  def existing_splits(self, data_dir: str, kind: str) -> list[str]:
    """Returns `dev` or `test`, and its further splits that have a file."""
    splits = [kind]
    for split in self.splits:
      is_further = split.startswith(f"{kind}_")
      if is_further and self.has_file(data_dir, split):
        splits.append(split)
    return splits

  def has_file(self, data_dir: str, split: str) -> bool:
    """Returns whether a file of a split exists."""
    return self._find_columns(data_dir, split) is not None

  def _find_columns(self, data_dir: str, split: str) -> Columns | None:
    """Returns the columns of the first existing file of a split, or None."""
    for columns in self.splits[split]:
      if tf.io.gfile.exists(os.path.join(data_dir, columns.file)):
        return columns
    return None

  def read_examples(self, data_dir: str, split: str) -> list[Example]:
    """Returns the examples of a split, in the order of the file.

    Raises:
      UserError: The file is missing or empty, or has an invalid row.
    """
    columns = self._find_columns(data_dir, split)
    if columns is None:
      paths = [
        os.path.join(data_dir, columns.file) for columns in self.splits[split]
      ]
      raise UserError(
        f"{' or '.join(paths)} does not exist: task {self.name} needs it for "
        f"its {split} examples. Does --data_dir name the right folder?"
      )
    return self._read(columns, os.path.join(data_dir, columns.file))

  def read_texts(self, data_dir: str, file: str) -> list[Example]:
    """Returns the examples of another file in the layout of `test`.

    Raises:
      UserError: The file is missing or empty, or has an invalid row.
    """
    # Another file may have no labels and no ids, even if `test` has.
    columns = dataclasses.replace(
      self.splits["test"][0], file=file, label=None, id=None
    )
    path = os.path.join(data_dir, file)
    if not tf.io.gfile.exists(path):
      raise UserError(f"{path} does not exist.")
    return self._read(columns, path)

  def _read(self, columns: Columns, path: str) -> list[Example]:
    """Returns the examples of a file."""
    examples: list[Example] = []
    lines_of_ids: dict[str, int] = {}
    num_gaps = 0
    for line, row in _read_rows(path, columns, self.encoding):
      if columns.only:
        column, value = columns.only
        if row.get(column) != value:
          continue
      # A row that cannot be parsed is skipped only where the published file is
      # known for such rows; elsewhere it is a mistake of the user.
      try:
        example = self._parse_example(row, columns, len(examples))
      except UserError:
        if not columns.has_gaps:
          raise
        num_gaps += 1
        continue
      first = lines_of_ids.setdefault(example.id, line)
      if first != line:
        raise UserError(
          f"{example.place} has the id {text_files.format_value(example.id)}, "
          f"but line {first} already has this id. Predictions could not be "
          "told apart: make ids unique, or leave out the column of ids."
        )
      examples.append(example)
    if num_gaps:
      logging.info(
        "%s: skipped %d rows that are truncated or empty.", path, num_gaps
      )
    if not examples:
      condition = ""
      if columns.only:
        column, value = columns.only
        condition = f" with {value!r} in column {column!r}"
      raise UserError(f"{path} holds no examples{condition}.")
    return examples

  def _parse_example(
    self, row: "_Row", columns: Columns, number: int
  ) -> Example:
    """Returns the example of a row."""
    text_a = row.get_text(columns.text_a)
    text_b = None
    if columns.text_b is not None:
      text_b = row.get_text(columns.text_b)
    label = None
    if columns.label is not None:
      label = self._parse_label(row.get(columns.label), row.place)
    example_id = number if columns.id is None else row.get(columns.id)
    if isinstance(example_id, bool) or not isinstance(example_id, (str, int)):
      raise UserError(
        f"{row.place}: the id is {text_files.format_value(example_id)}, not a "
        "string or an integer."
      )
    return Example(row.place, str(example_id), text_a, text_b, label)

  def _parse_label(
    self, value: Any, place: str
  ) -> str | tuple[str, ...] | float:
    """Returns the label of a field."""
    if self.problem_type == heads.REGRESSION:
      return _parse_number(value, place)
    if self.problem_type == heads.MULTI_LABEL:
      labels = value if isinstance(value, list) else [value]
      if not all(map(_is_word, labels)):
        raise UserError(
          f"{place}: the label is {text_files.format_value(value)}, not a list "
          "of words. [] stands for no label."
        )
      if not isinstance(value, list):
        parts = str(value).split(self.label_separator)
        labels = [part.strip() for part in parts]
      return tuple(self._rename_label(label) for label in labels if label != "")
    if not _is_word(value) or value == "":
      raise UserError(
        f"{place}: the label is {text_files.format_value(value)}, not one "
        "word. Texts with several labels need --problem_type=multi_label."
      )
    return self._rename_label(value)

  def _rename_label(self, value: Any) -> str:
    """Returns the label of a spelling."""
    spelling = str(value)
    return self.renamed_labels.get(spelling, spelling)

  # --- Labels ----------------------------------------------------------------

  def find_labels(self, examples: Sequence[Example]) -> tuple[str, ...]:
    """Returns the task's own labels, or all labels of `examples`, sorted.

    Raises:
      UserError: There are too few labels for a classifier.
    """
    if self.problem_type == heads.REGRESSION:
      return ()
    labels = self.labels
    if not labels:
      found = set()
      for example in examples:
        found.update(self._get_labels(example))
      labels = tuple(sorted(found))
    if len(labels) < (1 if self.problem_type == heads.MULTI_LABEL else 2):
      found_labels = "no label"
      if labels:
        found_labels = f"the label {text_files.format_value(labels[0])} only"
      raise UserError(
        f"The training data have {found_labels}. A classifier needs two or "
        "more labels."
      )
    return labels

  def _get_labels(self, example: Example) -> tuple[str, ...]:
    """Returns the labels of an example whose label is known."""
    if isinstance(example.label, tuple):
      return example.label
    assert isinstance(example.label, str)
    return (example.label,)

  def targets(
    self, examples: Sequence[Example], labels: Sequence[str]
  ) -> np.ndarray:
    """Returns the labels of examples as numbers.

    Args:
      examples: The examples.
      labels: All labels, in the order of their ids.

    Returns:
      int64 [num_examples], ids of labels; for `MULTI_LABEL` float32
      [num_examples, num_labels], 1 for each label of the example, else 0; for
      `REGRESSION` float32 [num_examples]. Unknown labels are 0.

    Raises:
      UserError: An example has a label that is not among `labels`.
    """
    if self.problem_type == heads.REGRESSION:
      numbers = [example.label or 0.0 for example in examples]
      return np.array(numbers, np.float32)
    ids = {label: i for i, label in enumerate(labels)}
    is_label = np.zeros([len(examples), len(labels)], np.float32)
    for number, example in enumerate(examples):
      if example.label is None:
        continue
      for label in self._get_labels(example):
        if label not in ids:
          raise UserError(
            f"{example.place}: the label {text_files.format_value(label)} is "
            f"not one of: {text_files.format_names(labels)}. Correct it, or "
            "add examples of it to the training data."
          )
        is_label[number, ids[label]] = 1.0
    if self.problem_type == heads.MULTI_LABEL:
      return is_label
    # A row of zeros, of an unknown label, becomes 0 as well.
    return np.argmax(is_label, axis=1)

  def label_weights(
    self, targets: np.ndarray, labels: Sequence[str]
  ) -> np.ndarray | None:
    """Returns the weight of each label in the loss.

    For `MULTI_LABEL` it is the weight of examples that have the label.

    Args:
      targets: Targets of the training examples.
      labels: All labels, in the order of their ids.

    Returns:
      float32 [num_labels]; None if all weights are 1.

    Raises:
      UserError: `class_weights` does not fit the labels.
    """
    if self.class_weights is None:
      return None
    if self.problem_type == heads.REGRESSION:
      raise UserError("Class weights are for classes; regression has none.")
    if isinstance(self.class_weights, str):
      return self._balance_labels(targets, len(labels))
    unknown = sorted(set(self.class_weights) - set(labels))
    if unknown:
      raise UserError(
        f"There is a class weight for {text_files.format_value(unknown[0])}, "
        f"which is not one of the labels: {text_files.format_names(labels)}."
      )
    weights = [self.class_weights.get(label, 1.0) for label in labels]
    return np.array(weights, np.float32)

  def _balance_labels(self, targets: np.ndarray, num_labels: int) -> np.ndarray:
    """Returns weights that give all labels the same influence on the loss."""
    num_examples = len(targets)
    if self.problem_type == heads.MULTI_LABEL:
      # For each label, the examples with and without it have the same weight.
      counts = targets.sum(axis=0)
      weights = (num_examples - counts) / np.maximum(counts, 1)
    else:
      # Each label has the same total weight, and all examples together have
      # the weight `num_examples`.
      counts = np.bincount(targets, minlength=num_labels)
      weights = num_examples / (num_labels * np.maximum(counts, 1))
    return weights.astype(np.float32)


def _is_word(value: Any) -> bool:
  """Returns whether a field of JSON can be a label."""
  return value is not None and not isinstance(value, (list, dict))


def _parse_number(value: Any, place: str) -> float:
  """Returns the number of a field, for regression."""
  # In Python, float(True) is 1.
  try:
    number = float("" if isinstance(value, bool) else value)
  except (TypeError, ValueError, OverflowError):
    number = np.nan
  # This comparison is also false for NaN.
  if not abs(number) <= _LARGEST_NUMBER:
    raise UserError(
      f"{place}: the label {text_files.format_value(value)} is not a finite "
      "number of float32, as regression needs. Correct it, or remove the row."
    )
  return number


# --- Rows --------------------------------------------------------------------


class _Row:
  """The fields of a line: a list, or an object of JSON.

  Attributes:
    place: File and line, for messages.
  """

  def __init__(
    self, place: str, fields: Any, column_numbers: Mapping[str, int]
  ):
    """Initializes the row.

    Args:
      place: File and line, for messages.
      fields: A list, or a dict of JSON.
      column_numbers: Name -> number of the column, for lists.
    """
    self.place = place
    self._fields = fields
    self._column_numbers = column_numbers

  def get(self, column: Column) -> Any:
    """Returns a field.

    Raises:
      UserError: The row has no such column.
    """
    if isinstance(self._fields, dict):
      if column not in self._fields:
        raise UserError(
          f"{self.place}: there is no {column!r}. The object has: "
          f"{text_files.format_names(self._fields)}."
        )
      return self._fields[column]
    if isinstance(column, str):
      column = self._column_numbers[column]
    try:
      return self._fields[column]
    except IndexError:
      raise UserError(
        f"{self.place} has {len(self._fields)} columns, but column "
        f"{column + 1} is needed: {text_files.format_value(self._fields)}. Is "
        "the row truncated?"
      ) from None

  def get_text(self, column: Column) -> str:
    """Returns a field that holds text.

    Raises:
      UserError: The field is missing or empty, or holds something else.
    """
    value = self.get(column)
    if not isinstance(value, str) or not value.strip():
      raise UserError(
        f"{self.place}: column {column!r} has "
        f"{text_files.format_value(value)}, not a text. Fill it in, or remove "
        "the row."
      )
    return value


def _read_rows(
  path: str, columns: Columns, encoding: str | None
) -> Iterator[tuple[int, _Row]]:
  """Yields the number of the line and the fields of each row."""
  ending = os.path.splitext(path)[1]
  if ending not in _FORMATS:
    raise UserError(
      f"{path} has an unknown format. Files of examples end in one of "
      f"{', '.join(_FORMATS)}."
    )
  column_numbers: dict[str, int] = {}
  if ending == ".jsonl":
    rows: Iterator[tuple[int, Any]] = file_io.read_json_lines(path, encoding)
  else:
    read = text_files.read_csv if ending == ".csv" else _split_lines
    rows = read(path, encoding)
    if columns.has_header:
      _, header = next(rows, (0, []))
      _check_header(header, columns, path)
      column_numbers = {name: number for number, name in enumerate(header)}
  for line, fields in rows:
    yield line, _Row(f"{path}, line {line}", fields, column_numbers)


def _split_lines(
  path: str, encoding: str | None
) -> Iterator[tuple[int, list[str]]]:
  """Yields the number and the tab-separated fields of each non-empty line."""
  for number, line in text_files.read_lines(path, encoding):
    if line:
      yield number, line.split("\t")


def _check_header(header: Sequence[str], columns: Columns, path: str) -> None:
  """Raises a UserError unless each named column is in the header once."""
  needed = [columns.text_a, columns.text_b, columns.label, columns.id]
  if columns.only:
    needed.append(columns.only[0])
  for column in needed:
    if isinstance(column, str) and header.count(column) != 1:
      problem = "two columns" if column in header else "no column"
      raise UserError(
        f"{path}, line 1 has {problem} {column!r}. It names: "
        f"{text_files.format_names(header)}."
      )


# --- Data of the user --------------------------------------------------------

_METRICS = {
  heads.SINGLE_LABEL: metrics.accuracy_and_macro_f1,
  heads.MULTI_LABEL: metrics.multi_label_scores,
  heads.REGRESSION: metrics.correlations_and_errors,
}
_MAIN_METRICS = {
  heads.SINGLE_LABEL: ("accuracy",),
  heads.MULTI_LABEL: ("micro_f1",),
  heads.REGRESSION: ("spearman",),
}
_ENDINGS = (".tsv", ".csv", ".jsonl")


def custom_task(
  text_a: str = "text",
  text_b: str | None = None,
  label: str = "label",
  id: str | None = None,
  problem_type: str = heads.SINGLE_LABEL,
  labels: Sequence[str] | None = None,
  label_separator: str = ",",
  class_weights: None | str | Mapping[str, float] = None,
  train: str | None = None,
  dev: str | None = None,
  test: str | None = None,
) -> ClassificationTask:
  """Returns the task of a data set of the user.

  Args:
    text_a: Name of the column of the text.
    text_b: Name of the column of the second text, if there is one.
    label: Name of the column of the label; the test file needs none.
    id: Name of the column of keys in files of predictions, if there is one.
    problem_type: One of `PROBLEM_TYPES`.
    labels: All labels; None to use those of the training file.
    label_separator: Separator of several labels in one field. JSON can have
      lists instead.
    class_weights: See `ClassificationTask`.
    train: File of training examples in the folder of the task; None for the
      first that exists of `train.tsv`, `train.csv` and `train.jsonl`.
    dev: File of development examples; None as for `train`.
    test: File of test examples; None as for `train`.

  Raises:
    UserError: An argument has an invalid value.
  """
  if problem_type not in PROBLEM_TYPES:
    raise UserError(
      f"The problem type {text_files.format_value(problem_type)} is none of "
      f"{', '.join(PROBLEM_TYPES)}."
    )
  required = {
    "text_a": text_a,
    "label": label,
    "label_separator": label_separator,
  }
  files = {"train": train, "dev": dev, "test": test}
  for name, value in required.items():
    if not value or not isinstance(value, str):
      raise UserError(
        f"{name} is {text_files.format_value(value)}, not a string."
      )
  for name, optional in {"text_b": text_b, "id": id, **files}.items():
    if optional is not None and not isinstance(optional, str):
      raise UserError(
        f"{name} is {text_files.format_value(optional)}, not a string."
      )
  labels = _check_labels(labels, problem_type)
  _check_class_weights(class_weights)
  splits = {}
  for split, file in files.items():
    # The first of these files that exists is read.
    names = [file] if file else [split + ending for ending in _ENDINGS]
    label_column = None if split == "test" else label
    splits[split] = [
      Columns(name, text_a, text_b, label_column, id) for name in names
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


def _check_labels(labels: Any, problem_type: str) -> tuple[str, ...] | None:
  """Returns the labels as strings, or None if there are none."""
  if not labels:
    return None
  if problem_type == heads.REGRESSION:
    raise UserError("labels are for classes; regression has none.")
  if not isinstance(labels, (list, tuple)) or not all(map(_is_label, labels)):
    raise UserError(
      f"labels is {text_files.format_value(labels)}, not a list of strings."
    )
  # JSON may have numbers, while labels in files are strings.
  texts = tuple(map(str, labels))
  for text in texts:
    if texts.count(text) > 1:
      raise UserError(f"labels has {text_files.format_value(text)} twice.")
  return texts


def _is_label(value: Any) -> bool:
  """Returns whether a value of JSON can be a label."""
  return isinstance(value, (str, int, float)) and value != ""


def _check_class_weights(class_weights: Any) -> None:
  """Raises a UserError unless class weights have the right form."""
  if class_weights in (None, "balanced"):
    return
  if not isinstance(class_weights, Mapping):
    raise UserError(
      f"class_weights is {text_files.format_value(class_weights)}, neither "
      '"balanced" nor an object of labels and weights.'
    )
  for label, weight in class_weights.items():
    is_number = isinstance(weight, (int, float))
    if (
      not is_number
      or isinstance(weight, bool)
      or not 0.0 <= weight <= _LARGEST_NUMBER
    ):
      raise UserError(
        f"class_weights: {text_files.format_value(label)} has the weight "
        f"{text_files.format_value(weight)}, not a finite number of at least 0."
      )


def read_task_file(path: str) -> ClassificationTask:
  """Returns the task that a JSON file describes.

  The file holds an object with arguments of `custom_task`, such as

      {"text_a": "question", "text_b": "answer", "label": "quality",
       "problem_type": "regression", "train": "2024.csv"}

  Raises:
    UserError: The file is missing, or has other or invalid arguments.
  """
  settings = file_io.read_json(path)
  known = list(inspect.signature(custom_task).parameters)
  unknown = sorted(set(settings) - set(known))
  if unknown:
    raise UserError(
      f"{path} has {text_files.format_names(unknown)}; a task file is an "
      f"object with some of: {', '.join(known)}."
    )
  try:
    return custom_task(**settings)
  except UserError as error:
    raise UserError(f"{path}: {error}") from error
