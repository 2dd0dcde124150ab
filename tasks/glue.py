"""The tasks of GLUE (Wang et al., 2019), in their published layouts.

To add a task, add it to `TASKS`.
"""

from tasks import classification
from tasks import metrics
from tasks.classification import Columns

_ENTAILMENT = ("entailment", "not_entailment")

COLA = classification.ClassificationTask(
  name="cola",
  metric_fn=metrics.matthews_correlation,
  main_metrics=("matthews",),
  submissions={"test": "CoLA.tsv"},
  splits={
    "train": [Columns("train.tsv", 3, label=1, has_header=False)],
    "dev": [Columns("dev.tsv", 3, label=1, has_header=False)],
    "test": [Columns("test.tsv", 1, id=0)],
  },
)

SST2 = classification.ClassificationTask(
  name="sst-2",
  submissions={"test": "SST-2.tsv"},
  splits={
    "train": [Columns("train.tsv", 0, label=1)],
    "dev": [Columns("dev.tsv", 0, label=1)],
    "test": [Columns("test.tsv", 1, id=0)],
  },
)

MRPC = classification.ClassificationTask(
  name="mrpc",
  metric_fn=metrics.accuracy_and_f1,
  main_metrics=("f1", "accuracy"),
  submissions={"test": "MRPC.tsv"},
  splits={
    "train": [Columns("train.tsv", 3, 4, label=0)],
    "dev": [Columns("dev.tsv", 3, 4, label=0)],
    "test": [Columns("test.tsv", 3, 4, id=0)],
  },
)

STSB = classification.ClassificationTask(
  name="sts-b",
  labels=None,
  problem_type=classification.REGRESSION,
  metric_fn=metrics.correlations_and_errors,
  main_metrics=("pearson", "spearman"),
  submissions={"test": "STS-B.tsv"},
  splits={
    "train": [Columns("train.tsv", 7, 8, label=9)],
    "dev": [Columns("dev.tsv", 7, 8, label=9)],
    "test": [Columns("test.tsv", 7, 8, id=0)],
  },
)

# The published files have a few questions that are cut in two, or empty.
QQP = classification.ClassificationTask(
  name="qqp",
  metric_fn=metrics.accuracy_and_f1,
  main_metrics=("f1", "accuracy"),
  submissions={"test": "QQP.tsv"},
  splits={
    "train": [Columns("train.tsv", 3, 4, label=5, has_gaps=True)],
    "dev": [Columns("dev.tsv", 3, 4, label=5, has_gaps=True)],
    "test": [Columns("test.tsv", 1, 2, id=0)],
  },
)

# AX, the diagnostic set, is predicted by the model of MNLI; its labels came
# later, in a file of another layout.
_AX_FOLDERS = ("", "../diagnostic/", "../AX/")
MNLI = classification.ClassificationTask(
  name="mnli",
  labels=("contradiction", "entailment", "neutral"),
  submissions={
    "test": "MNLI-m.tsv",
    "test_mismatched": "MNLI-mm.tsv",
    "test_ax": "AX.tsv",
  },
  metric_fn=metrics.matthews_correlation,
  splits={
    "train": [Columns("train.tsv", 8, 9, label=-1)],
    "dev": [Columns("dev_matched.tsv", 8, 9, label=-1)],
    "dev_mismatched": [Columns("dev_mismatched.tsv", 8, 9, label=-1)],
    "dev_ax": [
      Columns(
        folder + "diagnostic-full.tsv", "Premise", "Hypothesis", label="Label"
      )
      for folder in _AX_FOLDERS
    ],
    "test": [Columns("test_matched.tsv", 8, 9, id=0)],
    "test_mismatched": [Columns("test_mismatched.tsv", 8, 9, id=0)],
    "test_ax": [
      Columns(folder + file, 1, 2, id=0)
      for folder in _AX_FOLDERS
      for file in ("diagnostic.tsv", "AX.tsv")
    ],
  },
)


def _inference_task(name, file, labels=_ENTAILMENT):
  """Returns a task of files with the columns index, two texts, label."""
  return classification.ClassificationTask(
    name=name,
    labels=labels,
    submissions={"test": file},
    splits={
      "train": [Columns("train.tsv", 1, 2, label=3)],
      "dev": [Columns("dev.tsv", 1, 2, label=3)],
      "test": [Columns("test.tsv", 1, 2, id=0)],
    },
  )


QNLI = _inference_task("qnli", "QNLI.tsv")
RTE = _inference_task("rte", "RTE.tsv")
WNLI = _inference_task("wnli", "WNLI.tsv", ("0", "1"))

# In the order of the published table.
TASKS = {
  task.name: task
  for task in (COLA, SST2, MRPC, STSB, QQP, MNLI, QNLI, RTE, WNLI)
}


def submission_value(task: classification.ClassificationTask, prediction):
  """Returns what the server wants for a prediction: a label, or a number.

  Args:
    task: one of `TASKS`.
    prediction: a label, or for regression a float.
  """
  if task.problem_type == classification.REGRESSION:
    return f"{min(max(prediction, 0.0), 5.0):.3f}"
  return prediction
