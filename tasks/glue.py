"""Classification of sentences and pairs: GLUE's tasks, and files of one's own.

What differs between tasks is data: which file, which column, which labels. To
add a task, add it to `TASKS`.
"""

import dataclasses
import os
from typing import Callable, Iterator, Mapping, Optional, Union

import tensorflow as tf

import input_pipeline
import metrics

# A column, by its number from 0 (from -1 for the last) or by its header.
Column = Union[int, str]


@dataclasses.dataclass(frozen=True)
class Columns:
  """Where one split of a task lies, in a tab-separated file.

  Quotation marks are text, as in GLUE's files.

  Attributes:
    file: name within the folder of the task.
    text_a: column of the sentence.
    text_b: column of the second sentence, if there is one.
    label: column of the label; None for a test file.
    has_header: whether the first line names the columns.
  """

  file: str
  text_a: Column
  text_b: Optional[Column] = None
  label: Optional[Column] = None
  has_header: bool = True


@dataclasses.dataclass(frozen=True)
class Example:
  """A sentence or pair; `label` is None where it is not known."""

  line: int  # in its file, from 1
  text_a: str
  text_b: Optional[str]
  label: Optional[str]


@dataclasses.dataclass(frozen=True)
class SentenceTask:
  """A classification task.

  Attributes:
    name: what --task_name calls it, in lower case.
    splits: `train`, `dev` and `test`.
    labels: in the order of their ids; None if the training file tells.
    metric_fn: (int labels, int predictions) -> {name: score}.
  """

  name: str
  splits: Mapping[str, Columns]
  labels: Optional[tuple[str, ...]] = ("0", "1")
  metric_fn: Callable[..., dict[str, float]] = metrics.accuracy

  def read_examples(self, data_dir: str, split: str) -> list[Example]:
    """Returns the examples of a split, in the order of the file.

    Raises:
      ValueError: the file is missing, is empty, or has a bad row.
    """
    columns = self.splits[split]
    path = os.path.join(data_dir, columns.file)
    if not tf.io.gfile.exists(path):
      raise ValueError(f"{path} does not exist: task {self.name} needs it for "
                       f"its {split} examples.")
    examples = list(_read_rows(path, columns))
    if not examples:
      raise ValueError(f"{path} holds no examples.")
    return examples

  def find_labels(self, examples: list[Example]) -> tuple[str, ...]:
    """Returns the labels: the task's own, or all in `examples`, sorted."""
    return self.labels or tuple(sorted({e.label for e in examples}))

  def label_ids(self, examples: list[Example], labels: tuple[str, ...],
                split: str) -> list[int]:
    """Returns the id of each example's label; 0 where it is not known.

    Raises:
      ValueError: a label is not one of `labels`.
    """
    ids = {label: i for i, label in enumerate(labels)}
    for example in examples:
      if example.label is not None and example.label not in ids:
        raise ValueError(
            f"{self.splits[split].file}, line {example.line}: the label "
            f"{example.label!r} is not one of: {', '.join(labels)}.")
    return [ids.get(example.label, 0) for example in examples]


def _read_rows(path: str, columns: Columns) -> Iterator[Example]:
  """Yields the example of each row."""
  rows = enumerate(input_pipeline.read_lines(path), 1)
  wanted = (columns.text_a, columns.text_b, columns.label)
  if columns.has_header:
    _, first_line = next(rows, (0, ""))
    header = first_line.split("\t")
    wanted = [_column_number(column, header, path) for column in wanted]
  for number, line in rows:
    if not line:
      continue
    fields = line.split("\t")
    try:
      texts_and_label = [None if column is None else fields[column]
                         for column in wanted]
    except IndexError:
      needed = max(column for column in wanted if column is not None) + 1
      raise ValueError(
          f"{path}, line {number}: {len(fields)} tab-separated columns, but "
          f"at least {needed} are needed: {line[:60]!r}.") from None
    yield Example(number, *texts_and_label)


def _column_number(column: Optional[Column], header: list[str],
                   path: str) -> Optional[int]:
  if not isinstance(column, str):
    return column
  if column not in header:
    raise ValueError(f"{path} has no column {column!r}. Its first line names: "
                     f"{', '.join(header)}.")
  return header.index(column)


def tsv_task(text_a_column: str, text_b_column: Optional[str],
             label_column: str) -> SentenceTask:
  """Returns the task of `train.tsv`, `dev.tsv` and `test.tsv` with headers.

  Args:
    text_a_column: header of the text.
    text_b_column: header of the second text, or None.
    label_column: header of the label; the test file does not need it.
  """
  def columns(file, label):
    return Columns(file, text_a_column, text_b_column, label)

  return SentenceTask(name="tsv", labels=None, splits={
      "train": columns("train.tsv", label_column),
      "dev": columns("dev.tsv", label_column),
      "test": columns("test.tsv", None)})


COLA = SentenceTask(
    name="cola", metric_fn=metrics.matthews_correlation,
    splits={"train": Columns("train.tsv", text_a=3, label=1, has_header=False),
            "dev": Columns("dev.tsv", text_a=3, label=1, has_header=False),
            "test": Columns("test.tsv", text_a=1)})
MNLI = SentenceTask(
    name="mnli", labels=("contradiction", "entailment", "neutral"),
    splits={"train": Columns("train.tsv", text_a=8, text_b=9, label=-1),
            "dev": Columns("dev_matched.tsv", text_a=8, text_b=9, label=-1),
            "test": Columns("test_matched.tsv", text_a=8, text_b=9)})
MRPC = SentenceTask(
    name="mrpc", metric_fn=metrics.accuracy_and_f1,
    splits={"train": Columns("train.tsv", text_a=3, text_b=4, label=0),
            "dev": Columns("dev.tsv", text_a=3, text_b=4, label=0),
            "test": Columns("test.tsv", text_a=3, text_b=4)})
RTE = SentenceTask(
    name="rte", labels=("entailment", "not_entailment"),
    splits={"train": Columns("train.tsv", text_a=1, text_b=2, label=3),
            "dev": Columns("dev.tsv", text_a=1, text_b=2, label=3),
            "test": Columns("test.tsv", text_a=1, text_b=2)})
SST2 = SentenceTask(
    name="sst-2",
    splits={"train": Columns("train.tsv", text_a=0, label=1),
            "dev": Columns("dev.tsv", text_a=0, label=1),
            "test": Columns("test.tsv", text_a=1)})
TASKS = {task.name: task for task in (COLA, MNLI, MRPC, RTE, SST2)}
