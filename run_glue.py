"""Fine-tunes on the tasks of GLUE as published, and writes the table of scores.

    python run_glue.py --data_dir=glue \\
        --bert_config_file=$BERT/bert_config.json \\
        --vocab_file=$BERT/vocab.txt --init_checkpoint=$BERT/bert_model.ckpt \\
        --output_dir=/tmp/glue

For each task, `run_classifier.py` runs with each batch size and learning rate
of a grid, by default that of Turc et al. (2019). The setting with the highest
score on dev runs once more for each further seed. After an interruption the
same command resumes. With other --tasks it fills more columns of the table.
"""

from __future__ import annotations

import launch  # First: from here on a signal ends the program quietly.

from collections.abc import Sequence
import json
import os
import re
import shlex
import statistics
import time
from typing import Any, NamedTuple

from absl import flags
from absl import logging
import tensorflow as tf

from command_line import flag_help
from command_line import input_paths
import common_flags
from data import file_io
from errors import UserError
from tasks import glue
from training import model_folder
from training import run_folder

FLAGS = flags.FLAGS

# Files that are deleted when a run is done: checkpoints, records and curves.
_NOT_KEPT = re.compile(
  r"model\.ckpt-\d+\.(index|json|data-\d{5}-of-\d{5})|checkpoint|"
  r"(train|eval|eval_\w+)\.tf_record(\.stamp\.json)?|events\.out\..*"
)


@flag_help.group("Grid of runs")
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
  input_paths.mark("data_dir", input_paths.check_path)
  flags.DEFINE_string(
    "output_dir", None, "Folder for runs and results.", required=True
  )
  flags.DEFINE_list(
    "tasks", None, "Tasks to train on; by default all tasks in --data_dir."
  )
  _define_grid_flags()
  flags.DEFINE_float(
    "num_train_epochs",
    4.0,
    "Number of passes over the training examples.",
    lower_bound=0.0,
  )
  flags.DEFINE_integer(
    "max_seq_length", 128, "Maximum number of tokens of a sequence."
  )
  flags.DEFINE_bool(
    "do_predict",
    True,
    "Whether to predict the test files with the best run, for the GLUE server.",
  )
  flags.DEFINE_bool(
    "random_weights",
    False,
    "Whether to start from random weights, to see what pre-training is worth.",
  )
  flags.DEFINE_string(
    "classifier_flags",
    "",
    "Further flags for run_classifier.py, such as '--bias_correction'.",
  )


def _define_grid_flags() -> None:
  """Defines the flags of the settings to try."""
  batch_sizes, learning_rates = map(_join, glue.GRID)
  quick_batch_sizes, quick_learning_rates = map(_join, glue.QUICK_GRID)
  flags.DEFINE_bool(
    "quick",
    False,
    f"Whether to use a short grid: batch sizes {quick_batch_sizes} and "
    f"learning rates {quick_learning_rates}.",
  )
  flags.DEFINE_list(
    "batch_sizes",
    None,
    f"Batch sizes of the grid; by default {batch_sizes}.",
  )
  flags.DEFINE_list(
    "learning_rates",
    None,
    f"Learning rates of the grid; by default {learning_rates}.",
  )
  flags.DEFINE_list(
    "seeds",
    "1,2,3",
    "Random seeds: the first for the grid, all for its best setting.",
  )


def _join(numbers: Sequence[float]) -> str:
  return ",".join(f"{number:g}" for number in numbers)


# --- Runs --------------------------------------------------------------------


class Run(NamedTuple):
  """One run of `run_classifier.py`."""

  task: glue.GlueTask
  files: model_folder.ModelFiles
  batch_size: int
  learning_rate: float
  seed: int

  @property
  def folder(self) -> str:
    return os.path.join(
      FLAGS.output_dir,
      self.task.folder,
      f"batch{self.batch_size}_rate{self.learning_rate:g}_seed{self.seed}",
    )

  @property
  def name(self) -> str:
    return (
      f"{self.task.folder}, batch size {self.batch_size}, rate "
      f"{self.learning_rate:g}, seed {self.seed}"
    )

  def command(self) -> list[str]:
    """Returns the arguments of `run_classifier.py`."""
    return [
      *_common_arguments(self.task, self.files),
      "--do_train",
      "--do_eval",
      *_weight_arguments(self.files),
      f"--train_batch_size={self.batch_size}",
      f"--learning_rate={self.learning_rate:g}",
      f"--seed={self.seed}",
      f"--num_train_epochs={FLAGS.num_train_epochs:g}",
      "--eval_batch_size=32",
      f"--output_dir={self.folder}",
      *shlex.split(FLAGS.classifier_flags),
    ]


class Result(NamedTuple):
  """A run that is done, and its entries of `eval_results.txt`."""

  run: Run
  scores: dict[str, float]

  @property
  def score(self) -> float:
    """The score that decides which run is best."""
    return statistics.mean(self.main_scores().values())

  def main_scores(self) -> dict[str, float]:
    """Returns the main scores of the task."""
    metrics = self.run.task.main_metrics
    return {metric: self.scores[f"eval_{metric}"] for metric in metrics}


def _common_arguments(
  task: glue.GlueTask, files: model_folder.ModelFiles
) -> list[str]:
  """Returns the arguments that training and prediction share."""
  return [
    f"--task_name={task.name}",
    f"--data_dir={glue.find_folder(FLAGS.data_dir, task)}",
    f"--bert_config_file={files.bert_config_file}",
    f"--vocab_file={files.vocab_file}",
    *_text_arguments(files),
    f"--precision={FLAGS.precision}",
    f"--max_seq_length={FLAGS.max_seq_length}",
  ]


def _weight_arguments(files: model_folder.ModelFiles) -> list[str]:
  """Returns the argument that names the weights to start from, if there are."""
  if not files.init_checkpoint:
    return []
  return [f"--init_checkpoint={files.init_checkpoint}"]


def _text_arguments(files: model_folder.ModelFiles) -> list[str]:
  """Returns the arguments that decide how text is read.

  What lies next to the vocabulary is read by the program itself.
  """
  settings = common_flags.text_settings(files)
  arguments = [f"--do_lower_case={settings.do_lower_case}"]
  if FLAGS.strip_accents is not None:
    arguments.append(f"--strip_accents={FLAGS.strip_accents}")
  if FLAGS.special_tokens:
    arguments.append(f"--special_tokens={','.join(FLAGS.special_tokens)}")
  return arguments


def _run_classifier(arguments: Sequence[str], log_file: str) -> None:
  """Runs `run_classifier.py`, with its messages in a file."""
  launch.run_program("run_classifier.py", arguments, log_file)


def make_run(run: Run) -> Result:
  """Makes a run, or reads its result if it was made before.

  Raises:
    UserError: The run failed, or was made with other settings.
  """
  result_file = os.path.join(run.folder, "result.json")
  command = run.command()
  if tf.io.gfile.exists(result_file):
    saved = _read_result(result_file)
    # A result is valid only for the command that produced it.
    if saved["command"] != command:
      differing = sorted(set(saved["command"]) ^ set(command))
      raise UserError(
        f"{run.folder} holds a run with other settings: "
        f"{' '.join(differing)}. Choose another --output_dir."
      )
    _delete_unneeded(run.folder)
    return Result(run, saved["scores"])
  tf.io.gfile.makedirs(run.folder)
  started = time.monotonic()
  _run_classifier(command, os.path.join(run.folder, "log.txt"))
  logging.info("  %s took %.0f s.", run.name, time.monotonic() - started)
  scores = run_folder.read_results(run.folder, "eval_results.txt")
  file_io.write_json(result_file, {"command": command, "scores": scores})
  _delete_unneeded(run.folder)
  return Result(run, scores)


def _read_result(path: str) -> dict[str, Any]:
  """Returns the command and the scores of a run that is done.

  Raises:
    UserError: The file is damaged.
  """
  saved = file_io.read_json(path)
  command, scores = saved.get("command"), saved.get("scores")
  if isinstance(command, list) and isinstance(scores, dict):
    are_strings = [isinstance(argument, str) for argument in command]
    are_numbers = [isinstance(score, (float, int)) for score in scores.values()]
    if all(are_strings) and all(are_numbers):
      return saved
  raise UserError(
    f"{path} is damaged: it has no command and scores. Delete its folder to "
    "make the run again."
  )


def _delete_unneeded(folder: str) -> None:
  """Deletes checkpoints, records and curves of a run that is done."""
  for part in ("", "best", "eval"):
    part_dir = os.path.join(folder, part)
    for name in _list_files(part_dir):
      if _NOT_KEPT.fullmatch(name):
        tf.io.gfile.remove(os.path.join(part_dir, name))


def _list_files(folder: str) -> list[str]:
  """Returns the names in a folder; none if it does not exist."""
  return tf.io.gfile.listdir(folder) if tf.io.gfile.isdir(folder) else []


def _delete_weights(run: Run) -> None:
  """Deletes the exported weights of a run."""
  export_dir = os.path.join(run.folder, model_folder.EXPORT_DIR)
  if tf.io.gfile.exists(export_dir):
    tf.io.gfile.rmtree(export_dir)


def _find_best(results: Sequence[Result]) -> Result:
  """Returns the first result with the highest score."""
  return max(results, key=lambda result: result.score)


def make_runs(
  runs: Sequence[Run], earlier: Sequence[Result] = ()
) -> list[Result]:
  """Makes runs in order, and deletes all weights but those of the best run.

  Args:
    runs: The runs.
    earlier: Results of earlier runs.

  Returns:
    The results of the runs, without earlier ones.
  """
  results = list(earlier)
  for number, run in enumerate(runs, 1):
    result = make_run(run)
    scores = result.main_scores()
    shown = ", ".join(f"{name} {score:.4f}" for name, score in scores.items())
    logging.info("  %d/%d  %s: %s", number, len(runs), run.name, shown)
    # Between equal scores the earlier run wins, as in `_find_best`.
    if results:
      best = _find_best(results)
      is_better = result.score > best.score
      _delete_weights(best.run if is_better else run)
    results.append(result)
  return results[len(earlier) :]


def search_grid(
  task: glue.GlueTask,
  files: model_folder.ModelFiles,
  grid: Sequence[tuple[int, float]],
  seeds: Sequence[int],
) -> dict[str, Any]:
  """Makes the runs of a task.

  Args:
    task: The task.
    files: The files of the model.
    grid: Batch sizes and learning rates.
    seeds: Random seeds: the first for the grid, all for its best setting.

  Returns:
    The contents of `task.json`: `grid`, the score of each setting with the
    first seed; `seeds`, all scores of the best setting, and its `batch_size`
    and `learning_rate`; the `folder` and the `best_seed` of the best run.
  """
  logging.info("***** %s: grid of %d *****", task.folder, len(grid))
  of_grid = make_runs([Run(task, files, *point, seeds[0]) for point in grid])
  chosen = _find_best(of_grid)
  more_runs = [chosen.run._replace(seed=seed) for seed in seeds[1:]]
  more = make_runs(more_runs, of_grid)
  best = _find_best([*of_grid, *more])
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


def _predict(
  task: glue.GlueTask,
  files: model_folder.ModelFiles,
  folder: str,
  table_flags: flags.FlagValues,
) -> None:
  """Predicts the test files of a task with the weights of its best run.

  Args:
    task: The task.
    files: The files of the model.
    folder: Folder of the best run.
    table_flags: Values of `common_flags.TABLE_FLAGS` for the test files.
  """
  data_dir = glue.find_folder(FLAGS.data_dir, task)
  if not task.has_file(data_dir, "test"):
    logging.info("  There is no test file in %s.", data_dir)
    return
  output_dir = os.path.join(FLAGS.output_dir, task.folder, "best")
  done_file = os.path.join(output_dir, "predicted.json")
  # Further seeds may have made another run the best one since.
  if tf.io.gfile.exists(done_file):
    if file_io.read_json(done_file, object) == folder:
      return
  export_dir = os.path.join(folder, model_folder.EXPORT_DIR)
  if not tf.io.gfile.exists(export_dir):
    raise UserError(
      f"{folder} is the best of these runs, but its weights were deleted when "
      "another run was better. Delete the folder, and the same command makes "
      "the run again."
    )
  tf.io.gfile.makedirs(output_dir)
  weights = os.path.join(export_dir, "bert_model.ckpt")
  _run_classifier(
    [
      *_common_arguments(task, files),
      *[
        table_flags[name].serialize()
        for name in common_flags.TABLE_FLAGS
        if table_flags[name].present
      ],
      "--do_predict",
      "--predict_batch_size=32",
      f"--init_checkpoint={weights}",
      f"--output_dir={output_dir}",
    ],
    os.path.join(output_dir, "log.txt"),
  )
  submission_dir = os.path.join(output_dir, "submission")
  for name in _list_files(submission_dir):
    file_io.write_bytes(
      os.path.join(FLAGS.output_dir, "submission", name),
      file_io.read_bytes(os.path.join(submission_dir, name)),
    )
  file_io.write_json(done_file, folder)


# --- The table ---------------------------------------------------------------


def summarize(results: dict[str, dict[str, Any]]) -> dict[str, Any]:
  """Returns the contents of `results.json`.

  Args:
    results: Task name -> contents of its `task.json`.
  """
  columns = {}
  means: dict[str, list[float]] = {}  # of each task
  for task, column in glue.table_columns():
    if task.name not in results:
      continue
    runs = [seed["scores"] for seed in results[task.name]["seeds"]]
    # Further files of a task, such as that of AX, may be missing.
    if f"eval_{column.scores[0]}" not in runs[0]:
      continue
    cell = {}
    for name in column.scores:
      cell[name] = _average([run[f"eval_{name}"] for run in runs])
    columns[column.heading] = cell
    if column.is_averaged:
      column_means = [score["mean"] for score in cell.values()]
      means.setdefault(task.name, []).extend(column_means)
  # The GLUE server averages over tasks, each the mean of its scores.
  return {
    "score": statistics.mean(map(statistics.mean, means.values())),
    "num_tasks": len(means),
    "columns": columns,
    "tasks": results,
  }


def _average(values: Sequence[float]) -> dict[str, Any]:
  """Returns mean and standard deviation; the latter is None for one value."""
  deviation = statistics.stdev(values) if len(values) > 1 else None
  return {"mean": statistics.mean(values), "deviation": deviation}


def to_markdown(summary: dict[str, Any], model_name: str) -> str:
  """Returns the table in the published layout, and a table of the settings."""
  headings = [column.heading for _, column in glue.table_columns()]
  cells = []
  for heading in headings:
    scores = summary["columns"].get(heading, {})
    texts = [glue.format_score(score) for score in scores.values()]
    cells.append(" / ".join(texts) if texts else "-")
  average = f"{100 * summary['score']:.1f}"
  settings = ["Task", "batch size", "rate", "seeds", "best seed"]
  lines = [
    f"Scores on dev, in percent; of {summary['num_tasks']} tasks. "
    f"{glue.TABLE_NOTE}",
    "",
    _format_row(["Model", "Score", *headings]),
    "|---" * (len(headings) + 2) + "|",
    _format_row([model_name, average, *cells]),
    "",
    _format_row([*settings, "runs of the grid"]),
    "|---" * 6 + "|",
  ]
  for name, result in summary["tasks"].items():
    seeds = [str(run["seed"]) for run in result["seeds"]]
    grid = [
      f"{point['batch_size']} x {point['learning_rate']:g}: "
      f"{100 * point['score']:.1f}"
      for point in result["grid"]
    ]
    row = [
      glue.TASKS[name].folder,
      str(result["batch_size"]),
      f"{result['learning_rate']:g}",
      ", ".join(seeds),
      str(result["best_seed"]),
      ", ".join(grid),
    ]
    lines.append(_format_row(row))
  return "\n".join(lines) + "\n"


def _format_row(cells: Sequence[str]) -> str:
  """Returns a row of a table in Markdown."""
  return f"| {' | '.join(cells)} |"


def draw(summary: dict[str, Any], path: str) -> None:
  """Writes a picture of the table: means, deviations, and the grid.

  Args:
    summary: Contents of `results.json`.
    path: Path of the PNG file.
  """
  # Slow to import, and only needed here.
  from matplotlib import figure  # pylint: disable=g-import-not-at-top

  columns = summary["columns"]
  picture = figure.Figure(
    figsize=(1.5 + 0.9 * len(columns), 3.5), layout="constrained"
  )
  axis = picture.subplots()
  tasks = {column.heading: task.name for task, column in glue.table_columns()}
  # The bars of a column, one for each score, are centered at its place.
  for place, (heading, scores) in enumerate(columns.items()):
    width = 0.8 / len(scores)
    for number, score in enumerate(scores.values()):
      shift = number - (len(scores) - 1) / 2
      x = place + shift * width
      _draw_bar(axis, x, 0.9 * width, score, f"C{number}")
    grid = summary["tasks"][tasks[heading]]["grid"]
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


def _draw_bar(
  axis, x: float, width: float, score: dict[str, Any], color: str
) -> None:
  """Draws the mean of a score as a bar, with its deviation and number."""
  mean = 100 * score["mean"]
  deviation = 100 * (score["deviation"] or 0.0)
  axis.bar(x, mean, width, color=color, yerr=deviation, capsize=3)
  axis.annotate(
    f"{mean:.1f}",
    (x, 1),
    ha="center",
    fontsize=7,
    color="white",
    rotation=90,
    va="bottom",
  )


def write_results(init_checkpoint: str) -> None:
  """Writes `results.json`, `results.md` and `results.png` of all tasks.

  Args:
    init_checkpoint: The weights that the runs started from; empty for random
      ones.
  """
  # Tasks of earlier calls are part of the table.
  results = {}
  for task in glue.TASKS.values():
    path = _task_file(task)
    if tf.io.gfile.exists(path):
      results[task.name] = file_io.read_json(path)
  summary = summarize(results)
  model_name = "random weights"
  if init_checkpoint:
    checkpoint_dir = os.path.dirname(os.path.abspath(init_checkpoint))
    model_name = os.path.basename(checkpoint_dir)
  table = to_markdown(summary, model_name)
  contents = {
    "results.json": json.dumps(summary, indent=2) + "\n",
    "results.md": table,
  }
  for name, text in contents.items():
    file_io.write_text(os.path.join(FLAGS.output_dir, name), text)
  draw(summary, os.path.join(FLAGS.output_dir, "results.png"))
  rows = {"Score of GLUE": f"{100 * summary['score']:.1f}"}
  for heading, scores in summary["columns"].items():
    for name, score in scores.items():
      rows[f"{heading} {name}"] = glue.format_score(score)
  run_folder.keep_table(os.path.join(FLAGS.output_dir, "results.md"), rows)


def _task_file(task: glue.GlueTask) -> str:
  """Returns the path of the results of a task."""
  return os.path.join(FLAGS.output_dir, task.folder, "task.json")


# --- Flags -------------------------------------------------------------------


# Flags that are lists of numbers.
_NUMBERS = {"batch_sizes": int, "learning_rates": float, "seeds": int}


def _read_numbers(name: str) -> list[Any] | None:
  """Returns the numbers of a flag of `_NUMBERS`, or None if it is not set.

  Raises:
    UserError: The flag has no values, or one that is not a positive number.
  """
  texts = FLAGS[name].value
  if texts is None:
    return None
  try:
    values = [_NUMBERS[name](text) for text in texts]
  except ValueError:
    values = []
  if not values or min(values) <= 0:
    raise UserError(
      f"--{name}={','.join(texts)} is not a list of positive numbers, "
      "separated by commas."
    )
  return values


def _read_table_flags() -> flags.FlagValues:
  """Returns the values of `common_flags.TABLE_FLAGS` in --classifier_flags.

  Raises:
    UserError: One has a bad value, or a quotation has no end.
  """
  values = flags.FlagValues()
  common_flags.define_table_flags(values)
  try:
    arguments = shlex.split(FLAGS.classifier_flags)
    values(["run_classifier.py", *arguments], known_only=True)
  except (ValueError, flags.Error) as error:
    raise UserError(
      f"--classifier_flags={FLAGS.classifier_flags}: {error}"
    ) from error
  return values


def _make_grid(task: glue.GlueTask) -> list[tuple[int, float]]:
  """Returns the batch sizes and learning rates to try."""
  grid = task.quick_grid if FLAGS.quick else task.grid
  batch_sizes = _read_numbers("batch_sizes") or grid.batch_sizes
  learning_rates = _read_numbers("learning_rates") or grid.learning_rates
  return [(size, rate) for size in batch_sizes for rate in learning_rates]


def _find_model() -> model_folder.ModelFiles:
  """Returns the files of the model; no weights with --random_weights."""
  if not FLAGS.random_weights:
    return common_flags.model_files(
      "bert_config_file", "vocab_file", "init_checkpoint"
    )
  files = common_flags.model_files("bert_config_file", "vocab_file")
  return files._replace(init_checkpoint="")


def check_flags() -> None:
  """Raises a UserError if flags cannot be used."""
  if FLAGS.random_weights and FLAGS.init_checkpoint:
    raise UserError(
      f"--random_weights and --init_checkpoint={FLAGS.init_checkpoint} both "
      "say where to start. Pass one of them."
    )
  for name in _NUMBERS:
    _read_numbers(name)
  _read_table_flags()
  if FLAGS.classifier_flags:
    # The files need not be right, because nothing is read.
    needed = ["--task_name=cola", "--data_dir=.", "--model=.", "--do_train"]
    launch.run_program(
      "run_classifier.py",
      [
        *needed,
        "--do_eval",
        f"--output_dir={FLAGS.output_dir}",
        *shlex.split(FLAGS.classifier_flags),
        "--only_check_args",
      ],
    )


@launch.owns("output_dir", finish=common_flags.write_report)
def main(_):
  files = _find_model()
  table_flags = _read_table_flags()
  tasks = [
    common_flags.apply_table_flags(task, table_flags)
    for task in glue.find_tasks(FLAGS.data_dir, "--data_dir", FLAGS.tasks)
  ]
  # Problems of files are reported before hours of work.
  glue.check_files(FLAGS.data_dir, tasks)
  grids = [_make_grid(task) for task in tasks]
  seeds = _read_numbers("seeds")
  for task, grid in zip(tasks, grids):
    result = search_grid(task, files, grid, seeds)
    file_io.write_json(_task_file(task), result)
    if FLAGS.do_predict:
      _predict(task, files, result["folder"], table_flags)
    write_results(files.init_checkpoint)


if __name__ == "__main__":
  define_flags()
  launch.run(main, check_flags)
