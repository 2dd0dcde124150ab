"""Classification of texts and pairs of texts: tasks, examples and labels.

Tasks differ in data only: files, columns and labels. `glue.py` and `xnli.py`
hold the published tasks; `custom_task` describes data of the user.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import inspect
import os
import re
from typing import Any

from absl import logging
import numpy as np

from data import file_io
from errors import UserError
import heads
from tasks import metrics
from tasks import tables
from tasks import text_files
from tasks.tables import Column

# A text has one of several labels, any number of labels, or a number.
PROBLEM_TYPES = (heads.SINGLE_LABEL, heads.MULTI_LABEL, heads.REGRESSION)

# Regression learns float32.
_LARGEST_NUMBER = float(np.finfo(np.float32).max)
# A whole number, perhaps as programs write it that know no other numbers.
_WHOLE_NUMBER = re.compile(r"(-?\d+)(\.0*)?")
# Values of a column of its own for a label.
_HAS_LABEL = {"0": False, "false": False, "1": True, "true": True}

# Ways to handle rows without text or label.
ERROR, SKIP = "error", "skip"


@dataclasses.dataclass(frozen=True)
class Columns:
  """A file of a split, and its layout; see `tables.py` for formats.

  Attributes:
    file: Path of the file in the folder of the task.
    text_a: Column of the text.
    text_b: Column of the second text, if there is one.
    label: Column of the label; None for a file without labels. A tuple has a
      column for each label, which is 1 where a text has the label, else 0.
    id: Column of the key in files of predictions; None to use the number of
      the example, from 0.
    has_header: Whether the first line names the columns.
    header: The names that it has in the published file, if columns are numbers.
    only: A column and the value that it must have; other rows are skipped.
    has_gaps: Whether the published file has truncated or empty rows. They are
      skipped and counted.
  """

  file: str
  text_a: Column
  text_b: Column | None = None
  label: Column | tuple[str, ...] | None = None
  id: Column | None = None
  has_header: bool = True
  header: tuple[str, ...] = ()
  only: tuple[Column, str] | None = None
  has_gaps: bool = False

  @property
  def label_columns(self) -> tuple[Column, ...]:
    """The columns of labels, of which there may be none."""
    if self.label is None:
      return ()
    return self.label if isinstance(self.label, tuple) else (self.label,)

  @property
  def needed(self) -> list[Column]:
    """All columns that are read."""
    optional = [self.text_b, self.id, self.only and self.only[0]]
    given = [column for column in optional if column is not None]
    return [self.text_a, *self.label_columns, *given]


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
    table_format: How files are read.
    missing: How to handle rows without text or label: `ERROR` or `SKIP`.
    skipped_labels: Labels whose examples are left out.
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
  table_format: tables.TableFormat = tables.DEFAULT_FORMAT
  missing: str = ERROR
  skipped_labels: tuple[str, ...] = ()

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
    return self.find_file(data_dir, split) is not None

  def find_file(self, data_dir: str, split: str) -> str | None:
    """Returns the path of the file of a split; None if there is none."""
    for _, path in self._find_files(data_dir, split):
      return path
    return None

  def _find_files(self, data_dir: str, split: str) -> list[tuple[Columns, str]]:
    """Returns the layout and the path of each file of a split that exists."""
    found = []
    for columns in self.splits[split]:
      path = tables.find_file(os.path.join(data_dir, columns.file))
      if path:
        found.append((columns, path))
    return found

  def read_examples(self, data_dir: str, split: str) -> list[Example]:
    """Returns the examples of a split, in the order of the file.

    Raises:
      UserError: The file is missing or empty, or has an invalid row.
    """
    found = self._find_files(data_dir, split)
    if not found:
      paths = [
        os.path.join(data_dir, columns.file) for columns in self.splits[split]
      ]
      raise UserError(
        f"{' or '.join(paths)} does not exist: task {self.name} needs it for "
        f"its {split} examples. Does --data_dir name the right folder?"
      )
    columns, path = found[0]
    for _, other in found[1:]:
      if tables.remove_ending(other) == tables.remove_ending(path):
        logging.warning("%s is read, and %s is not.", path, other)
    return self._read(columns, path)

  def read_texts(self, data_dir: str, file: str) -> list[Example]:
    """Returns the examples of another file in the layout of `test`.

    Raises:
      UserError: The file is missing or empty, or has an invalid row.
    """
    # Another file may have no labels and no ids, even if `test` has.
    columns = dataclasses.replace(
      self.splits["test"][0], file=file, label=None, id=None
    )
    path = tables.find_file(os.path.join(data_dir, file))
    if not path:
      raise UserError(f"{os.path.join(data_dir, file)} does not exist.")
    return self._read(columns, path)

  def _read(self, columns: Columns, path: str) -> list[Example]:
    """Returns the examples of a file."""
    table = tables.read_table(
      path, columns.needed, columns.has_header, self.table_format
    )
    if table.header:
      self._check_header(table.header, columns)
    examples: list[Example] = []
    lines_of_ids: dict[str, int] = {}
    skipped = _SkippedRows(path)
    num_rows = 0
    rows = table.rows
    if not columns.has_header:
      rows = self._check_first_row(rows, columns)
    for row in rows:
      if columns.only:
        column, value = columns.only
        if row.get(column) != value:
          continue
      # A row that cannot be parsed is skipped only where the published file is
      # known for such rows; elsewhere it is a mistake of the user.
      try:
        is_skipped = self._skip_row(row, columns, skipped)
        if not is_skipped:
          example = self._parse_example(row, columns, num_rows)
      except UserError:
        if not columns.has_gaps:
          raise
        skipped.counts[_GAP] += 1
        continue
      # Ids count all rows, so that they say which row was predicted.
      num_rows += 1
      if is_skipped:
        continue
      first = lines_of_ids.setdefault(example.id, row.number)
      if first != row.number:
        raise UserError(
          f"{example.place} has the id {text_files.format_value(example.id)}, "
          f"but line {first} already has this id. Predictions could not be "
          "told apart: make ids unique, or leave out the column of ids."
        )
      examples.append(example)
    skipped.report(self.missing == ERROR)
    if not examples:
      condition = ""
      if columns.only:
        column, value = columns.only
        condition = f" with {value!r} in column {column!r}"
      raise UserError(f"{path} holds no examples{condition}.")
    return examples

  def _skip_row(
    self, row: tables.Row, columns: Columns, skipped: _SkippedRows
  ) -> bool:
    """Returns whether a row has no text, no label, or one to leave out.

    Args:
      row: The row.
      columns: Layout of the file.
      skipped: Counts the row, and remembers the first one.

    Raises:
      UserError: A text is missing where published files have gaps.
    """
    for column in (columns.text_a, columns.text_b):
      if column is None or not _is_empty(row.get(column)):
        continue
      if columns.has_gaps:
        raise UserError(f"{row.place}: column {column!r} is empty.")
      skipped.add(_NO_TEXT, row, column)
      return True
    # A list of labels may be empty.
    may_be_empty = self.problem_type == heads.MULTI_LABEL
    for column in columns.label_columns:
      value = row.get(column)
      is_list = may_be_empty and columns.label == column
      if not is_list and _is_no_label(value):
        skipped.add(_NO_LABEL, row, column)
        return True
      if not self.skipped_labels:
        continue
      words = self._split_labels(value) if is_list else [value]
      spellings = {_spell_label(word) for word in words}
      spellings.update([_spell_whole_number(word) for word in spellings])
      if spellings & set(self.skipped_labels):
        skipped.add(_SKIPPED_LABEL, row, column)
        return True
    return False

  def _check_header(self, header: tables.Row, columns: Columns) -> None:
    """Checks the first line of a published file whose columns are numbers.

    Raises:
      UserError: It is an example.
    """
    if not columns.header:
      return
    expected = ", ".join(columns.header)
    if self._is_example(header, columns):
      raise UserError(
        f"{header.place} is an example, but this file begins with a header: "
        f"{expected}. Add this line, with tabs between the names, or download "
        "the file again."
      )
    for column in columns.needed:
      assert isinstance(column, int)
      name = columns.header[column]
      if header.get(column).strip() != name:
        logging.warning(
          "%s names the columns otherwise than the published file of %s: %s. "
          "They are read by their numbers. Does --data_dir name its folder?",
          header.place,
          self.name,
          expected,
        )
        return

  def _check_first_row(
    self, rows: Iterator[tables.Row], columns: Columns
  ) -> Iterator[tables.Row]:
    """Yields the rows of a published file that has no header.

    Raises:
      UserError: The first one is no example, but perhaps a header.
    """
    for number, row in enumerate(rows):
      if not number and not self._is_example(row, columns):
        value = text_files.format_value(row.get(columns.label_columns[0]))
        raise UserError(
          f"{row.place} is no example of {self.name}, but perhaps the header "
          f"of another layout: {value} is not one of the labels "
          f"{text_files.format_names(self.labels or ())}. Do --task_name="
          f"{self.name} and --data_dir fit together?"
        )
      yield row

  def _is_example(self, row: tables.Row, columns: Columns) -> bool:
    """Returns whether the first line of a published file is no header."""
    try:
      if columns.label is None:
        return columns.id is not None and str(row.get(columns.id)).isdecimal()
      label = self._parse_label(row, columns)
    except UserError:
      return False
    return self.problem_type == heads.REGRESSION or label in (self.labels or ())

  def _parse_example(
    self, row: tables.Row, columns: Columns, number: int
  ) -> Example:
    """Returns the example of a row."""
    text_a = _parse_text(row, columns.text_a)
    text_b = None
    if columns.text_b is not None:
      text_b = _parse_text(row, columns.text_b)
    label = None
    if columns.label is not None:
      label = self._parse_label(row, columns)
    example_id = number if columns.id is None else row.get(columns.id)
    if isinstance(example_id, bool) or not isinstance(example_id, (str, int)):
      raise UserError(
        f"{row.place}: the id is {text_files.format_value(example_id)}, not a "
        "string or an integer."
      )
    return Example(row.place, str(example_id), text_a, text_b, label)

  def _parse_label(
    self, row: tables.Row, columns: Columns
  ) -> str | tuple[str, ...] | float:
    """Returns the label of a row that has one."""
    if isinstance(columns.label, tuple):
      return tuple(name for name in columns.label if _has_label(row, name))
    assert columns.label is not None
    value = row.get(columns.label)
    if self.problem_type == heads.REGRESSION:
      return _parse_number(value, row.place)
    if self.problem_type == heads.MULTI_LABEL:
      labels = self._split_labels(value)
      if not all(map(_is_word, labels)):
        raise UserError(
          f"{row.place}: the label is {text_files.format_value(value)}, not a "
          "list of words. [] stands for no label."
        )
      return tuple(map(self._rename_label, labels))
    if not _is_word(value):
      raise UserError(
        f"{row.place}: the label is {text_files.format_value(value)}, not one "
        "word. Texts with several labels need --problem_type=multi_label."
      )
    return self._rename_label(value)

  def _split_labels(self, value: Any) -> list[Any]:
    """Returns the labels of a field that holds any number of them."""
    if not isinstance(value, str):
      return value if isinstance(value, list) else [value]
    parts = value.split(self.label_separator)
    return [part for part in parts if not _is_no_label(part)]

  def _rename_label(self, value: Any) -> str:
    """Returns the label of a spelling."""
    spelling = _spell_label(value)
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
      # 1.0 is 1 if all labels are whole numbers.
      if all(map(_WHOLE_NUMBER.fullmatch, found)):
        found = set(map(_spell_whole_number, found))
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

  def match_labels(
    self, examples: Sequence[Example], labels: Sequence[str]
  ) -> list[Example]:
    """Returns examples whose whole numbers are spelled as in `labels`."""
    ids = set(labels)
    if self.count_labels(examples).keys() <= ids:
      return list(examples)

    def match(label: str) -> str:
      number = _spell_whole_number(label)
      return number if label not in ids and number in ids else label

    matched = []
    for example in examples:
      label = example.label
      if isinstance(label, tuple):
        label = tuple(map(match, label))
      elif isinstance(label, str):
        label = match(label)
      matched.append(dataclasses.replace(example, label=label))
    return matched

  def _get_labels(self, example: Example) -> tuple[str, ...]:
    """Returns the labels of an example whose label is known."""
    if isinstance(example.label, tuple):
      return example.label
    assert isinstance(example.label, str)
    return (example.label,)

  def count_labels(
    self, examples: Sequence[Example]
  ) -> collections.Counter[str]:
    """Returns how many examples have each label."""
    counts: collections.Counter[str] = collections.Counter()
    for example in examples:
      if isinstance(example.label, (str, tuple)):
        counts.update(self._get_labels(example))
    return counts

  def targets(
    self,
    examples: Sequence[Example],
    labels: Sequence[str],
    advice: str = "add examples of it to the training data",
  ) -> np.ndarray:
    """Returns the labels of examples as numbers.

    Args:
      examples: The examples.
      labels: All labels, in the order of their ids.
      advice: How to continue with other labels, for messages.

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
            f"{advice}."
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


# Phrases by which the log and errors describe rows that are skipped.
_GAP = "truncated or empty"
_NO_TEXT, _NO_LABEL = "without text", "without label"
_SKIPPED_LABEL = "with a label of --skip_labels"


class _SkippedRows:
  """Counts rows that are no examples.

  Attributes:
    counts: Phrase for the reason -> number of rows.
  """

  def __init__(self, path: str):
    """Initializes the counts.

    Args:
      path: Path of the file.
    """
    self.counts: collections.Counter[str] = collections.Counter()
    self._path = path
    self._first_missing = ""

  def add(self, reason: str, row: tables.Row, column: Column) -> None:
    """Counts a row.

    Args:
      reason: Phrase for the reason.
      row: The row.
      column: The column that is the reason.
    """
    self.counts[reason] += 1
    if reason in (_NO_TEXT, _NO_LABEL) and not self._first_missing:
      value = text_files.format_value(row.get(column))
      noun = reason.rpartition(" ")[2]
      self._first_missing = (
        f"{row.place}: column {column!r} has {value}, which is no {noun}"
      )

  def report(self, refuses_missing: bool) -> None:
    """Logs the counts.

    Args:
      refuses_missing: Whether missing texts and labels are an error.

    Raises:
      UserError: There are some.
    """
    phrases = []
    for reason, count in self.counts.items():
      noun = "row" if count == 1 else "rows"
      phrases.append(f"{count} {noun} {reason}")
    if self._first_missing and refuses_missing:
      raise UserError(
        f"{self._first_missing}. The file has {', '.join(phrases)}. Fill them "
        "in, or leave such rows out with --missing=skip."
      )
    if phrases:
      logging.info("%s: left out %s.", self._path, ", ".join(phrases))


def _is_empty(value: Any) -> bool:
  """Returns whether a field has no text; NaN is what Parquet may have."""
  if isinstance(value, str):
    return not value.strip()
  return value is None or value != value  # pylint: disable=R0124


def _is_no_label(value: Any) -> bool:
  """Returns whether a field has no label: it is empty, or NaN."""
  return _is_empty(value) or str(value).strip().lower() == "nan"


def _is_word(value: Any) -> bool:
  """Returns whether a field of JSON can be a label."""
  return value is not None and not isinstance(value, (list, dict))


def _spell_label(value: Any) -> str:
  """Returns a label as text; space around it is none of it."""
  return str(value).strip()


def _spell_whole_number(label: str) -> str:
  """Returns a whole number without decimals; other labels as they are."""
  match = _WHOLE_NUMBER.fullmatch(label)
  return match.group(1) if match else label


def _parse_text(row: tables.Row, column: Column) -> str:
  """Returns a field that holds text.

  Raises:
    UserError: It holds something else.
  """
  value = row.get(column)
  if not isinstance(value, str):
    raise UserError(
      f"{row.place}: column {column!r} has {text_files.format_value(value)}, "
      "not a text. Correct it, or remove the row."
    )
  return value


def _has_label(row: tables.Row, column: str) -> bool:
  """Returns whether a text has the label of a column.

  Raises:
    UserError: The column has neither 1 nor 0.
  """
  spelling = _spell_whole_number(_spell_label(row.get(column)).lower())
  if spelling not in _HAS_LABEL:
    raise UserError(
      f"{row.place}: column {column!r} has "
      f"{text_files.format_value(row.get(column))}, not 1 where the text has "
      "this label, or 0. Correct it, or leave out rows that have it with "
      "--skip_labels."
    )
  return _HAS_LABEL[spelling]


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


def custom_task(
  text_a: str = "text",
  text_b: str | None = None,
  label: str | list[str] | tuple[str, ...] = "label",
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
    text_a: Name of the column of the text; or its number, such as "0", in files
      without header.
    text_b: Name of the column of the second text, if there is one.
    label: Name of the column of the label; the test file needs none. For
      `MULTI_LABEL` several names, each the label that a column of 0 and 1 has.
    id: Name of the column of keys in files of predictions, if there is one.
    problem_type: One of `PROBLEM_TYPES`.
    labels: All labels; None to use those of the training file.
    label_separator: Separator of several labels in one field. JSON can have
      lists instead.
    class_weights: See `ClassificationTask`.
    train: File of training examples in the folder of the task; None for the
      first that exists of `train.tsv`, `train.csv` and so on; see
      `tables.ENDINGS`.
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
  required = {"text_a": text_a, "label_separator": label_separator}
  label_columns: str | tuple[str, ...]
  if isinstance(label, (list, tuple)):
    label_columns = _check_label_columns(label, problem_type, labels)
    labels = label_columns
  else:
    required["label"] = label_columns = label
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
    names = [split + ending for ending in tables.ENDINGS]
    if file:
      names = [file]
    label_column = None if split == "test" else label_columns
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


def _check_label_columns(
  columns: Sequence[Any], problem_type: str, labels: Any
) -> tuple[str, ...]:
  """Returns the names of columns that each stand for a label."""
  shown = text_files.format_value(list(columns))
  if problem_type != heads.MULTI_LABEL:
    raise UserError(
      f"label is {shown}, a column for each label. It needs the problem type "
      f"{heads.MULTI_LABEL}, not {problem_type}."
    )
  are_names = all(column and isinstance(column, str) for column in columns)
  if not columns or not are_names or len(set(columns)) < len(columns):
    raise UserError(f"label is {shown}, not a list of different columns.")
  if labels:
    raise UserError(
      f"label is {shown}, which are the labels too. Leave out labels."
    )
  return tuple(columns)


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
