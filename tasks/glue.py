"""The tasks of GLUE (Wang et al., 2019): files, labels, scores and grids.

A new task is one entry in the list of tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import os
from typing import Any, NamedTuple

import tensorflow as tf

from errors import UserError
import heads
from tasks import classification
from tasks import metrics
from tasks.classification import Columns


class Grid(NamedTuple):
  """Hyperparameters to try, each batch size with each learning rate."""

  batch_sizes: tuple[int, ...]
  learning_rates: tuple[float, ...]


# The grid of Turc et al. (2019), and a short one.
GRID = Grid((8, 16, 32, 64, 128), (3e-4, 1e-4, 5e-5, 3e-5))
QUICK_GRID = Grid((16, 32), (1e-4, 5e-5))


class TableColumn(NamedTuple):
  """A column of the published table of scores.

  Attributes:
    heading: Heading of the column.
    scores: Names of the scores that it shows, without the prefix `eval_`.
    is_averaged: Whether the column is part of the average over tasks.
  """

  heading: str
  scores: tuple[str, ...]
  is_averaged: bool = True


@dataclasses.dataclass(frozen=True)
class GlueTask(classification.ClassificationTask):
  """A task of GLUE.

  Attributes:
    folder: Name of the folder of its files; also its heading in the table.
    table: Columns of the published table; by default one with the main metrics.
    grid: Hyperparameters to try.
    quick_grid: Fewer hyperparameters, for a quick run.
  """

  folder: str = ""
  table: tuple[TableColumn, ...] = ()
  grid: Grid = GRID
  quick_grid: Grid = QUICK_GRID

  @property
  def table_columns(self) -> tuple[TableColumn, ...]:
    """The columns of the published table."""
    return self.table or (TableColumn(self.folder, self.main_metrics),)


# The diagnostic set AX is in one of these folders.
_AX_FOLDERS = ("", "../diagnostic/", "../AX/", "../ax/")

# Names of columns in the published files. Files with labels have further ones.
_MRPC_HEADER = ("#1 ID", "#2 ID", "#1 String", "#2 String")
_STS_B_HEADER = (
  "index",
  "genre",
  "filename",
  "year",
  "old_index",
  "source1",
  "source2",
  "sentence1",
  "sentence2",
)
_QQP_HEADER = ("id", "qid1", "qid2", "question1", "question2", "is_duplicate")
_MNLI_HEADER = (
  "index",
  "promptID",
  "pairID",
  "genre",
  "sentence1_binary_parse",
  "sentence2_binary_parse",
  "sentence1_parse",
  "sentence2_parse",
  "sentence1",
  "sentence2",
)
_MNLI_DEV_HEADER = (
  *_MNLI_HEADER,
  "label1",
  "label2",
  "label3",
  "label4",
  "label5",
  "gold_label",
)


def _inference_task(
  folder: str,
  labels: tuple[str, ...] = ("entailment", "not_entailment"),
  texts: tuple[str, str] = ("sentence1", "sentence2"),
) -> GlueTask:
  """Returns a task whose files have an index, two texts and a label."""
  header = ("index", *texts)
  return GlueTask(
    name=folder.lower(),
    folder=folder,
    labels=labels,
    submissions={"test": f"{folder}.tsv"},
    splits={
      "train": [Columns("train.tsv", 1, 2, label=3, header=(*header, "label"))],
      "dev": [Columns("dev.tsv", 1, 2, label=3, header=(*header, "label"))],
      "test": [Columns("test.tsv", 1, 2, id=0, header=header)],
    },
  )


# In the order of the published table.
_TASKS = [
  GlueTask(
    name="cola",
    folder="CoLA",
    metric_fn=metrics.matthews_correlation,
    main_metrics=("matthews",),
    submissions={"test": "CoLA.tsv"},
    splits={
      "train": [Columns("train.tsv", 3, label=1, has_header=False)],
      "dev": [Columns("dev.tsv", 3, label=1, has_header=False)],
      "test": [Columns("test.tsv", 1, id=0, header=("index", "sentence"))],
    },
  ),
  GlueTask(
    name="sst-2",
    folder="SST-2",
    submissions={"test": "SST-2.tsv"},
    splits={
      "train": [Columns("train.tsv", 0, label=1, header=("sentence", "label"))],
      "dev": [Columns("dev.tsv", 0, label=1, header=("sentence", "label"))],
      "test": [Columns("test.tsv", 1, id=0, header=("index", "sentence"))],
    },
  ),
  GlueTask(
    name="mrpc",
    folder="MRPC",
    metric_fn=metrics.accuracy_and_f1,
    main_metrics=("f1", "accuracy"),
    submissions={"test": "MRPC.tsv"},
    splits={
      "train": [
        Columns("train.tsv", 3, 4, label=0, header=("Quality", *_MRPC_HEADER))
      ],
      "dev": [
        Columns("dev.tsv", 3, 4, label=0, header=("Quality", *_MRPC_HEADER))
      ],
      "test": [
        Columns("test.tsv", 3, 4, id=0, header=("index", *_MRPC_HEADER))
      ],
    },
  ),
  GlueTask(
    name="sts-b",
    folder="STS-B",
    labels=None,
    problem_type=heads.REGRESSION,
    metric_fn=metrics.correlations_and_errors,
    main_metrics=("pearson", "spearman"),
    submissions={"test": "STS-B.tsv"},
    splits={
      "train": [
        Columns("train.tsv", 7, 8, label=9, header=(*_STS_B_HEADER, "score"))
      ],
      "dev": [
        Columns("dev.tsv", 7, 8, label=9, header=(*_STS_B_HEADER, "score"))
      ],
      "test": [Columns("test.tsv", 7, 8, id=0, header=_STS_B_HEADER)],
    },
  ),
  # A few questions in the published files are split in two, or empty.
  GlueTask(
    name="qqp",
    folder="QQP",
    metric_fn=metrics.accuracy_and_f1,
    main_metrics=("f1", "accuracy"),
    submissions={"test": "QQP.tsv"},
    splits={
      "train": [
        Columns("train.tsv", 3, 4, label=5, header=_QQP_HEADER, has_gaps=True)
      ],
      "dev": [
        Columns("dev.tsv", 3, 4, label=5, header=_QQP_HEADER, has_gaps=True)
      ],
      "test": [
        Columns("test.tsv", 1, 2, id=0, header=("id", "question1", "question2"))
      ],
    },
  ),
  # The model of MNLI also predicts AX, whose labels were published later, in a
  # file with another layout.
  GlueTask(
    name="mnli",
    folder="MNLI",
    table=(
      TableColumn("MNLI-m", ("accuracy",)),
      TableColumn("MNLI-mm", ("mismatched_accuracy",)),
      TableColumn("AX", ("ax_matthews",), is_averaged=False),
    ),
    labels=("contradiction", "entailment", "neutral"),
    metric_fn=metrics.matthews_correlation,
    submissions={
      "test": "MNLI-m.tsv",
      "test_mismatched": "MNLI-mm.tsv",
      "test_ax": "AX.tsv",
    },
    splits={
      "train": [
        Columns(
          "train.tsv",
          8,
          9,
          label=-1,
          header=(*_MNLI_HEADER, "label1", "gold_label"),
        )
      ],
      "dev": [
        Columns("dev_matched.tsv", 8, 9, label=-1, header=_MNLI_DEV_HEADER)
      ],
      "dev_mismatched": [
        Columns("dev_mismatched.tsv", 8, 9, label=-1, header=_MNLI_DEV_HEADER)
      ],
      "dev_ax": [
        Columns(
          folder + "diagnostic-full.tsv", "Premise", "Hypothesis", label="Label"
        )
        for folder in _AX_FOLDERS
      ],
      "test": [Columns("test_matched.tsv", 8, 9, id=0, header=_MNLI_HEADER)],
      "test_mismatched": [
        Columns("test_mismatched.tsv", 8, 9, id=0, header=_MNLI_HEADER)
      ],
      "test_ax": [
        Columns(
          folder + file, 1, 2, id=0, header=("index", "sentence1", "sentence2")
        )
        for folder in _AX_FOLDERS
        for file in ("diagnostic.tsv", "AX.tsv")
      ],
    },
  ),
  _inference_task("QNLI", texts=("question", "sentence")),
  _inference_task("RTE"),
  _inference_task("WNLI", labels=("0", "1")),
]
# Name -> task.
TASKS = {task.name: task for task in _TASKS}


# --- Folders -----------------------------------------------------------------


def find_folder(data_dir: str, task: GlueTask) -> str:
  """Returns the folder of the files of a task; its usual one if none exists.

  Args:
    data_dir: Folder with the folders of the tasks.
    task: The task.
  """
  # The usual name comes first, so that it wins over others that mean the same.
  for folder in (task.folder, *_list_folders(data_dir)):
    path = os.path.join(data_dir, folder)
    is_same = _normalize_name(folder) == _normalize_name(task.folder)
    if is_same and tf.io.gfile.isdir(path):
      return path
  return os.path.join(data_dir, task.folder)


def _normalize_name(name: str) -> str:
  """Returns a name of a task as letters and digits: `sst2` for SST-2."""
  return "".join(filter(str.isalnum, name.lower()))


def _list_folders(folder: str) -> list[str]:
  """Returns the names of the folders in a folder, sorted."""
  if not tf.io.gfile.isdir(folder):
    return []
  # On remote file systems names of folders end in a slash.
  names = [name.rstrip("/") for name in tf.io.gfile.listdir(folder)]
  return [
    name
    for name in sorted(names)
    if tf.io.gfile.isdir(os.path.join(folder, name))
  ]


def find_tasks(
  data_dir: str, flag: str, names: Sequence[str] | None = None
) -> list[GlueTask]:
  """Returns the tasks with these names, or all tasks that a folder holds.

  Args:
    data_dir: Folder with the folders of the tasks.
    flag: Flag that names it, for error messages.
    names: Names of the tasks in any case; None for all that are there.

  Raises:
    UserError: There is no such task, or its folder is missing.
  """
  wanted = [name.lower() for name in names or TASKS]
  unknown = sorted(set(wanted) - set(TASKS))
  if unknown:
    raise UserError(
      f"--tasks has {unknown[0]!r}, which is not one of: {', '.join(TASKS)}."
    )
  found, missing = [], []
  for task in TASKS.values():
    if task.name not in wanted:
      continue
    if tf.io.gfile.isdir(find_folder(data_dir, task)):
      found.append(task)
    else:
      missing.append(task.folder)
  if not found or (names and missing):
    folders = ", ".join(_list_folders(data_dir)) or "none"
    raise UserError(
      f"{flag}={data_dir} has no folder {' or '.join(missing)}. The folders "
      f"that it has: {folders}."
    )
  return found


def check_files(data_dir: str, tasks: Sequence[GlueTask]) -> None:
  """Reads the files of tasks that training and evaluation need.

  Args:
    data_dir: Folder with the folders of the tasks.
    tasks: The tasks.

  Raises:
    UserError: A file is missing or cannot be read.
  """
  for task in tasks:
    folder = find_folder(data_dir, task)
    for split in ("train", *task.existing_splits(folder, "dev")):
      task.read_examples(folder, split)


# --- The table ---------------------------------------------------------------

# Explains the scores below the table.
TABLE_NOTE = (
  "MRPC and QQP: F1 / accuracy; STS-B: Pearson / Spearman; CoLA, AX: Matthews."
)


def table_columns() -> list[tuple[GlueTask, TableColumn]]:
  """Returns the columns of the published table, each with its task.

  Columns that are not part of the average come last.
  """
  columns = [
    (task, column) for task in TASKS.values() for column in task.table_columns
  ]
  return sorted(columns, key=lambda pair: not pair[1].is_averaged)


def format_score(score: Mapping[str, Any]) -> str:
  """Returns a score in percent, with its deviation if there is one.

  Args:
    score: `mean` and `deviation` over the seeds.
  """
  text = f"{100 * score['mean']:.1f}"
  if score["deviation"] is not None:
    text += f" ± {100 * score['deviation']:.1f}"
  return text


def submission_value(
  task: classification.ClassificationTask, prediction: str | float
) -> str:
  """Returns a prediction as the GLUE server expects it.

  Args:
    task: One of `TASKS`.
    prediction: Label, or for regression a number.
  """
  if task.problem_type == heads.REGRESSION:
    return f"{min(max(float(prediction), 0.0), 5.0):.3f}"
  return str(prediction)
