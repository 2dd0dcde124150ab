"""Fine-tunes on the tasks of GLUE as published, and writes the table of scores.

    python run_glue.py --data_dir=glue \\
        --bert_config_file=$BERT/bert_config.json \\
        --vocab_file=$BERT/vocab.txt --init_checkpoint=$BERT/bert_model.ckpt \\
        --output_dir=/tmp/glue

For each task: a run of `run_classifier.py` with every batch size and learning
rate of the grid (that of Turc et al., 2019), and with the best of them one for
each further seed. The best is the one of the highest score on dev. Run the same
command again after an interruption, and it goes on; with other --tasks, more
columns of the table are filled.
"""

import launch  # First: from here on a signal ends the program quietly.

from collections.abc import Sequence
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
import time
from typing import NamedTuple

from absl import flags
from absl import logging
import tensorflow as tf

import common_flags
from data import file_io
from errors import UserError
from tasks import classification
from tasks import glue
from training import model_folder
from training import training_log

FLAGS = flags.FLAGS

# The folders of the tasks, in the order of the published table.
FOLDERS = {
  "cola": "CoLA",
  "sst-2": "SST-2",
  "mrpc": "MRPC",
  "sts-b": "STS-B",
  "qqp": "QQP",
  "mnli": "MNLI",
  "qnli": "QNLI",
  "rte": "RTE",
  "wnli": "WNLI",
}
_BATCH_SIZES = (8, 16, 32, 64, 128)
_LEARNING_RATES = (3e-4, 1e-4, 5e-5, 3e-5)
_QUICK_BATCH_SIZES = (16, 32)
_QUICK_LEARNING_RATES = (1e-4, 5e-5)
# Files of a run that nobody needs when it is done.
_NOT_KEPT = re.compile(
  r"model\.ckpt-\d+\.(index|json|data-\d{5}-of-\d{5})|checkpoint|"
  r"(train|eval|eval_\w+)\.tf_record(\.stamp\.json)?|events\.out\..*"
)


def define_flags() -> None:
  """Defines the flags of this program."""
  common_flags.define_model_flags()
  common_flags.define_vocab_flags()
  flags.DEFINE_string(
    "data_dir",
    None,
    "Folder with the folders of the tasks: CoLA, SST-2, ...",
    required=True,
  )
  flags.DEFINE_string(
    "output_dir", None, "Folder for runs and results.", required=True
  )
  flags.DEFINE_list(
    "tasks", None, "Tasks to train on; all that --data_dir has, if not given."
  )
  flags.DEFINE_bool(
    "quick",
    False,
    f"A short grid: batch sizes "
    f"{_numbers(_QUICK_BATCH_SIZES)} and rates "
    f"{_numbers(_QUICK_LEARNING_RATES)}.",
  )
  flags.DEFINE_list(
    "batch_sizes", None, f"Of the grid; {_numbers(_BATCH_SIZES)} if not given."
  )
  flags.DEFINE_list(
    "learning_rates",
    None,
    f"Of the grid; {_numbers(_LEARNING_RATES)} if not given.",
  )
  flags.DEFINE_list(
    "seeds", "1,2,3", "The grid is run with the first; its best with all."
  )
  flags.DEFINE_float(
    "num_train_epochs",
    4.0,
    "How often to go over the training examples.",
    lower_bound=0.0,
  )
  flags.DEFINE_integer("max_seq_length", 128, "Most tokens of a sequence.")
  flags.DEFINE_bool(
    "do_predict",
    True,
    "Whether to predict the test files "
    "with the best run, for the server of GLUE.",
  )
  flags.DEFINE_string(
    "classifier_flags",
    "",
    "Further flags for run_classifier.py, such as '--bias_correction'.",
  )


def _numbers(values) -> str:
  return ",".join(f"{value:g}" for value in values)


class Run(NamedTuple):
  """One run of the grid."""

  task: classification.ClassificationTask
  files: model_folder.ModelFiles
  batch_size: int
  learning_rate: float
  seed: int

  @property
  def folder(self) -> str:
    return os.path.join(
      FLAGS.output_dir,
      FOLDERS[self.task.name],
      f"batch{self.batch_size}_rate{self.learning_rate:g}_seed{self.seed}",
    )

  @property
  def name(self) -> str:
    return (
      f"{FOLDERS[self.task.name]}, batch size {self.batch_size}, rate "
      f"{self.learning_rate:g}, seed {self.seed}"
    )

  def command(self) -> list[str]:
    """Returns the arguments of `run_classifier.py`."""
    return [
      *_common_arguments(self.task, self.files),
      "--do_train",
      "--do_eval",
      f"--init_checkpoint={self.files.init_checkpoint}",
      f"--train_batch_size={self.batch_size}",
      f"--learning_rate={self.learning_rate:g}",
      f"--seed={self.seed}",
      f"--num_train_epochs={FLAGS.num_train_epochs:g}",
      "--eval_batch_size=32",
      f"--output_dir={self.folder}",
      *shlex.split(FLAGS.classifier_flags),
    ]


class Result(NamedTuple):
  """What came of a run: its entries of `eval_results.txt`."""

  run: Run
  scores: dict[str, float]

  @property
  def score(self) -> float:
    """The score that decides which run is best."""
    return statistics.mean(
      self.scores[f"eval_{metric}"] for metric in self.run.task.main_metrics
    )


def _common_arguments(task, files: model_folder.ModelFiles) -> list[str]:
  return [
    f"--task_name={task.name}",
    f"--data_dir={os.path.join(FLAGS.data_dir, FOLDERS[task.name])}",
    f"--bert_config_file={files.bert_config_file}",
    f"--vocab_file={files.vocab_file}",
    f"--do_lower_case={FLAGS.do_lower_case}",
    f"--precision={FLAGS.precision}",
    f"--max_seq_length={FLAGS.max_seq_length}",
  ]


# --- Runs --------------------------------------------------------------------


def _run_classifier(arguments: Sequence[str], log_file: str) -> None:
  """Runs the program, which writes its messages to a file.

  It ends when this program does, even by a kill, so that the next call of the
  same command is alone in the folder.

  Raises:
    UserError: it failed.
  """
  program = os.path.join(
    os.path.dirname(os.path.abspath(__file__)), "run_classifier.py"
  )
  with open(log_file, "a", encoding="utf-8") as log:
    process = subprocess.Popen(
      [sys.executable, program, *arguments],
      stdout=log,
      stderr=subprocess.STDOUT,
      **launch.parent_settings(),
    )
    try:
      code = process.wait()
    except BaseException:
      process.terminate()  # it saves what it has
      process.wait()
      raise
    finally:
      process.stdin.close()
  if code in launch.EXIT_CODES.values():
    logging.info("Stopped. The same command continues from there.")
    sys.exit(code)
  if code:
    with open(log_file, encoding="utf-8", errors="replace") as log:
      last_line = log.read().strip().rpartition("\n")[2]
    raise UserError(f"{last_line} (The rest is in {log_file}.)")


def do_run(run: Run) -> Result:
  """Makes a run, or reads what came of it if it was made before.

  Raises:
    UserError: it failed, or was made with other settings.
  """
  result_file = os.path.join(run.folder, "result.json")
  command = run.command()
  if tf.io.gfile.exists(result_file):
    saved = _read_result(result_file)
    if saved["command"] != command:
      differing = sorted(set(saved["command"]) ^ set(command))
      raise UserError(
        f"{run.folder} holds a run with other settings: "
        f"{' '.join(differing)}. Choose another --output_dir."
      )
    _remove_what_is_not_kept(run.folder)
    return Result(run, saved["scores"])
  tf.io.gfile.makedirs(run.folder)
  started = time.monotonic()
  _run_classifier(command, os.path.join(run.folder, "log.txt"))
  logging.info("  %s took %.0f s.", run.name, time.monotonic() - started)
  lines = file_io.read_lines(os.path.join(run.folder, "eval_results.txt"))
  scores = {
    name: float(value) for name, value in (line.split(" = ") for line in lines)
  }
  file_io.write_json(result_file, {"command": command, "scores": scores})
  _remove_what_is_not_kept(run.folder)
  return Result(run, scores)


def _read_result(path: str) -> dict:
  """Returns the command and the scores of a run that is done.

  Raises:
    UserError: the file is damaged.
  """
  saved = file_io.read_json(path)
  command, scores = saved.get("command"), saved.get("scores")
  if not (
    isinstance(command, list)
    and isinstance(scores, dict)
    and all(isinstance(argument, str) for argument in command)
    and all(isinstance(score, (float, int)) for score in scores.values())
  ):
    raise UserError(
      f"{path} is damaged: it has no command and scores. Delete "
      "the folder that it is in, and the run is made again."
    )
  return saved


def _remove_what_is_not_kept(folder: str) -> None:
  """Deletes checkpoints, records and curves of a run that is done."""
  for part in (
    folder,
    os.path.join(folder, "best"),
    os.path.join(folder, "eval"),
  ):
    for name in tf.io.gfile.listdir(part) if tf.io.gfile.isdir(part) else ():
      if _NOT_KEPT.fullmatch(name):
        tf.io.gfile.remove(os.path.join(part, name))


def _forget_weights(run: Run) -> None:
  export_dir = os.path.join(run.folder, "export")
  if tf.io.gfile.exists(export_dir):
    tf.io.gfile.rmtree(export_dir)


def do_task(
  task,
  files: model_folder.ModelFiles,
  grid: Sequence[tuple[int, float]],
  seeds: Sequence[int],
) -> dict[str, object]:
  """Makes the runs of a task; only the weights of the best run are kept.

  Args:
    task: one of `glue.TASKS`.
    files: the files of the model.
    grid: batch sizes and learning rates.
    seeds: the first for the grid, all for the best of it.

  Returns:
    What is written to `task.json`: `grid`, the score of each setting with the
    first seed; `seeds`, all scores of the best setting, and its `batch_size`
    and `learning_rate`; the `folder` and the `best_seed` of the best run.
  """
  best: Result | None = None

  def results_of(runs):
    nonlocal best
    for number, run in enumerate(runs, 1):
      result = do_run(run)
      logging.info(
        "  %d/%d  %s: %s",
        number,
        len(runs),
        run.name,
        ", ".join(
          f"{metric} {result.scores['eval_' + metric]:.4f}"
          for metric in task.main_metrics
        ),
      )
      if best and result.score <= best.score:
        _forget_weights(run)
      else:
        if best:
          _forget_weights(best.run)
        best = result
      yield result

  logging.info("***** %s: grid of %d *****", FOLDERS[task.name], len(grid))
  of_grid = list(
    results_of([Run(task, files, *point, seeds[0]) for point in grid])
  )
  chosen = max(of_grid, key=lambda result: result.score)
  more = list(
    results_of([chosen.run._replace(seed=seed) for seed in seeds[1:]])
  )
  return {
    "batch_size": chosen.run.batch_size,
    "learning_rate": chosen.run.learning_rate,
    "grid": [
      {
        "batch_size": result.run.batch_size,
        "learning_rate": result.run.learning_rate,
        "score": result.score,
      }
      for result in of_grid
    ],
    "seeds": [
      {"seed": result.run.seed, "scores": result.scores}
      for result in (chosen, *more)
    ],
    "best_seed": best.run.seed,
    "folder": best.run.folder,
  }


def _predict(task, files: model_folder.ModelFiles, folder: str) -> None:
  """Predicts the test files of a task with the weights of its best run."""
  export_dir = os.path.join(folder, "export")
  data_dir = os.path.join(FLAGS.data_dir, FOLDERS[task.name])
  output_dir = os.path.join(FLAGS.output_dir, FOLDERS[task.name], "best")
  if not any(
    tf.io.gfile.exists(os.path.join(data_dir, columns.file))
    for columns in task.splits["test"]
  ):
    logging.info("  There is no test file in %s.", data_dir)
    return
  done_file = os.path.join(output_dir, "predicted.json")
  if tf.io.gfile.exists(done_file) and (
    file_io.read_json(done_file, object) == folder
  ):
    return
  if not tf.io.gfile.exists(export_dir):
    raise UserError(
      f"{folder} is the best run of these, but its weights have "
      "gone, for a better one there was. Delete the folder, and "
      "the same command makes the run again."
    )
  tf.io.gfile.makedirs(output_dir)
  _run_classifier(
    [
      *_common_arguments(task, files),
      "--do_predict",
      "--predict_batch_size=32",
      f"--init_checkpoint={os.path.join(export_dir, 'bert_model.ckpt')}",
      f"--output_dir={output_dir}",
    ],
    os.path.join(output_dir, "log.txt"),
  )
  submission_dir = os.path.join(output_dir, "submission")
  for name in (
    tf.io.gfile.listdir(submission_dir)
    if tf.io.gfile.isdir(submission_dir)
    else ()
  ):
    file_io.write_bytes(
      os.path.join(FLAGS.output_dir, "submission", name),
      file_io.read_bytes(os.path.join(submission_dir, name)),
    )
  file_io.write_json(done_file, folder)


# --- The table ---------------------------------------------------------------


# Columns of the published table: heading, task, entries of the results.
_COLUMNS = [
  ("CoLA", "cola", ("eval_matthews",)),
  ("SST-2", "sst-2", ("eval_accuracy",)),
  ("MRPC", "mrpc", ("eval_f1", "eval_accuracy")),
  ("STS-B", "sts-b", ("eval_pearson", "eval_spearman")),
  ("QQP", "qqp", ("eval_f1", "eval_accuracy")),
  ("MNLI-m", "mnli", ("eval_accuracy",)),
  ("MNLI-mm", "mnli", ("eval_mismatched_accuracy",)),
  ("QNLI", "qnli", ("eval_accuracy",)),
  ("RTE", "rte", ("eval_accuracy",)),
  ("WNLI", "wnli", ("eval_accuracy",)),
  ("AX", "mnli", ("eval_ax_matthews",)),
]


def summarize(results: dict[str, dict]) -> dict[str, object]:
  """Returns the contents of `results.json`.

  Args:
    results: task name -> its `task.json`.
  """
  columns = {}
  for heading, task, entries in _COLUMNS:
    of_seeds = (
      [run["scores"] for run in results[task]["seeds"]]
      if task in results
      else []
    )
    if of_seeds and entries[0] in of_seeds[0]:
      columns[heading] = {
        entry.removeprefix("eval_"): {
          "mean": statistics.mean(scores[entry] for scores in of_seeds),
          "deviation": statistics.stdev(scores[entry] for scores in of_seeds)
          if len(of_seeds) > 1
          else None,
        }
        for entry in entries
      }
  # As the server averages: over tasks, each the mean of its scores. AX does
  # not count.
  of_tasks = {}
  for heading, task, _ in _COLUMNS:
    if heading in columns and heading != "AX":
      of_tasks.setdefault(task, []).extend(
        score["mean"] for score in columns[heading].values()
      )
  return {
    "score": statistics.mean(map(statistics.mean, of_tasks.values())),
    "num_tasks": len(of_tasks),
    "columns": columns,
    "tasks": results,
  }


def to_markdown(summary, model_name: str) -> str:
  """Returns the table in the published layout, and one of the settings."""

  def percent(score):
    deviation = (
      ""
      if score["deviation"] is None
      else (f" ± {100 * score['deviation']:.1f}")
    )
    return f"{100 * score['mean']:.1f}{deviation}"

  headings = [heading for heading, _, _ in _COLUMNS]
  cells = [
    " / ".join(map(percent, summary["columns"][heading].values()))
    if heading in summary["columns"]
    else "-"
    for heading in headings
  ]
  lines = [
    f"Scores on dev, in percent; of {summary['num_tasks']} tasks. MRPC and "
    "QQP: F1 / accuracy; STS-B: Pearson / Spearman; CoLA, AX: Matthews.",
    "",
    "| " + " | ".join(["Model", "Score", *headings]) + " |",
    "|---" * (len(headings) + 2) + "|",
    "| "
    + " | ".join([model_name, f"{100 * summary['score']:.1f}", *cells])
    + " |",
    "",
    "| Task | batch size | rate | seeds | best seed | runs of the grid |",
    "|---" * 6 + "|",
  ]
  for task, facts in summary["tasks"].items():
    lines.append(
      "| "
      + " | ".join(
        map(
          str,
          (
            FOLDERS[task],
            facts["batch_size"],
            f"{facts['learning_rate']:g}",
            ", ".join(str(run["seed"]) for run in facts["seeds"]),
            facts["best_seed"],
            ", ".join(
              f"{point['batch_size']} x {point['learning_rate']:g}: "
              f"{100 * point['score']:.1f}"
              for point in facts["grid"]
            ),
          ),
        )
      )
      + " |"
    )
  return "\n".join(lines) + "\n"


def draw(summary, path: str) -> None:
  """Writes a picture of the table: means, deviations, and the grid."""
  # Slow to import, and only needed here.
  from matplotlib import figure  # pylint: disable=g-import-not-at-top

  columns = summary["columns"]
  picture = figure.Figure(
    figsize=(1.5 + 0.9 * len(columns), 3.5), layout="constrained"
  )
  axis = picture.subplots()
  for place, (heading, scores) in enumerate(columns.items()):
    width = 0.8 / len(scores)
    for i, (_name, score) in enumerate(scores.items()):
      x = place + (i - (len(scores) - 1) / 2) * width
      axis.bar(
        x,
        100 * score["mean"],
        0.9 * width,
        color=f"C{i}",
        yerr=100 * (score["deviation"] or 0.0),
        capsize=3,
      )
      axis.annotate(
        f"{100 * score['mean']:.1f}",
        (x, 1),
        ha="center",
        fontsize=7,
        color="white",
        rotation=90,
        va="bottom",
      )
    task = next(task for name, task, _ in _COLUMNS if name == heading)
    grid = summary["tasks"][task]["grid"]
    axis.plot(
      [place] * len(grid),
      [100 * point["score"] for point in grid],
      "_",
      color="black",
      label=None if place else "settings of the grid",
    )
  axis.set(
    xticks=range(len(columns)),
    xticklabels=list(columns),
    ylabel="score on dev, percent",
  )
  picture.legend(loc="outside upper right", fontsize=7)
  with file_io.atomic_file(path) as temporary:
    with tf.io.gfile.GFile(temporary, "wb") as writer:
      picture.savefig(writer, format="png", dpi=120)


def write_results(init_checkpoint: str) -> None:
  """Writes `results.json`, `results.md` and `results.png` of all tasks."""
  results = {}
  for task, folder in FOLDERS.items():
    path = _task_file(folder)
    if tf.io.gfile.exists(path):
      results[task] = file_io.read_json(path)
  summary = summarize(results)
  checkpoint_dir = os.path.dirname(os.path.abspath(init_checkpoint))
  table = to_markdown(summary, os.path.basename(checkpoint_dir))
  for name, text in [
    ("results.json", json.dumps(summary, indent=2) + "\n"),
    ("results.md", table),
  ]:
    file_io.write_text(os.path.join(FLAGS.output_dir, name), text)
  draw(summary, os.path.join(FLAGS.output_dir, "results.png"))
  training_log.log_lines("Results so far", table.splitlines())


def _task_file(folder: str) -> str:
  return os.path.join(FLAGS.output_dir, folder, "task.json")


# --- Flags -------------------------------------------------------------------


def _values(name: str, kind, quick, default) -> list:
  """Returns the numbers of a flag that lists some."""
  texts = FLAGS[name].value
  if texts is None:
    return list(quick if FLAGS.quick else default)
  try:
    values = [kind(text) for text in texts]
  except ValueError:
    values = []
  if not values or min(values) <= 0:
    raise UserError(
      f"--{name}={','.join(texts)} is not a list of numbers "
      "above 0, separated by commas."
    )
  return values


def _tasks() -> list[classification.ClassificationTask]:
  """Returns the tasks of the flag, or all there are data for."""
  wanted = [name.lower() for name in FLAGS.tasks or ()]
  unknown = sorted(set(wanted) - set(FOLDERS))
  if unknown:
    raise UserError(
      f"--tasks: there is no {unknown[0]!r}. There are: {', '.join(FOLDERS)}."
    )
  found = [
    name
    for name, folder in FOLDERS.items()
    if tf.io.gfile.isdir(os.path.join(FLAGS.data_dir, folder))
  ]
  missing = [name for name in wanted if name not in found]
  if missing or not found:
    folders = [FOLDERS[name] for name in missing or FOLDERS]
    raise UserError(
      f"--data_dir={FLAGS.data_dir} has no folder {' or '.join(folders)}."
    )
  return [glue.TASKS[name] for name in found if not wanted or name in wanted]


@launch.owns("output_dir")
def main(_):
  files = common_flags.model_files(
    "bert_config_file", "vocab_file", "init_checkpoint"
  )
  tasks = _tasks()
  for task in tasks:  # what is wrong with files is told before hours of work
    data_dir = os.path.join(FLAGS.data_dir, FOLDERS[task.name])
    for split in ("train", *task.existing_splits(data_dir, "dev")):
      task.read_examples(data_dir, split)
  grid = [
    (batch_size, rate)
    for batch_size in _values(
      "batch_sizes", int, _QUICK_BATCH_SIZES, _BATCH_SIZES
    )
    for rate in _values(
      "learning_rates", float, _QUICK_LEARNING_RATES, _LEARNING_RATES
    )
  ]
  seeds = _values("seeds", int, (), ())
  for task in tasks:
    result = do_task(task, files, grid, seeds)
    file_io.write_json(_task_file(FOLDERS[task.name]), result)
    if FLAGS.do_predict:
      _predict(task, files, result["folder"])
    write_results(files.init_checkpoint)


if __name__ == "__main__":
  define_flags()
  launch.run(main)
