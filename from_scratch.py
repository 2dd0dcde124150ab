"""Pre-trains a model from plain text in a given time, and tests its worth.

    python from_scratch.py --input_file='text/*' --hours=2 \\
        --output_dir=/tmp/own_model --glue_dir=glue

It learns a vocabulary, makes records, chooses the size of the model for the
text and the time, and pre-trains. With --glue_dir it also fine-tunes the model
on the tasks found there, next to the same model from random weights, which
takes more time than --hours. Each stage is one of the other programs, whose
command is shown. After an interruption the same command resumes.

The result is a folder that other programs take as a model
(--model=/tmp/own_model/pretraining), results.md with the scores, and loss.png.
"""

from __future__ import annotations

import launch  # First: from here on a signal ends the program quietly.

from collections.abc import Mapping, Sequence
import dataclasses
import json
import os
import shlex
import time
from typing import Any, NamedTuple

from absl import flags
from absl import logging
import tensorflow as tf

from command_line import flag_help
from command_line import input_paths
import common_flags
from data import file_io
from data import file_names
from data import released_models
from errors import UserError
import modeling
from pretraining import altered_copies
from pretraining import corpus
from pretraining import recipe as recipe_lib
from reports import loss_plot
from tasks import glue
from training import cluster
from training import run_folder
from training import time_budget

FLAGS = flags.FLAGS

_PLAN = "plan.json"
_CONFIG = "bert_config.json"
_NUM_SHARDS = 20  # the first one is held out for the evaluation
# Flags that may change when the program runs again in the same folder: what
# belongs to the time after the pre-training.
_LATER_FLAGS = ("output_dir", "glue_dir", "glue_flags")
_DEFAULT_GLUE_FLAGS = (
  "--batch_sizes=32",
  # The lower rate keeps what altered copies taught, and random weights need the
  # higher one.
  "--learning_rates=5e-5,3e-4",
  "--classifier_flags=--dropout=0",
  "--seeds=1,2,3",
  "--nodo_predict",
)


@flag_help.group("From scratch")
def define_flags() -> None:
  """Defines the flags of this program."""
  common_flags.define_text_flags()
  flags.DEFINE_float(
    "hours",
    None,
    "Hours until the model is pre-trained, with vocabulary and records.",
    lower_bound=0.0,
  )
  flags.DEFINE_integer(
    "num_train_steps",
    None,
    "Number of steps of the pre-training, in place of --hours, to reproduce a "
    "run; with --model_size or --bert_config_file.",
    lower_bound=1,
  )
  flags.DEFINE_string(
    "output_dir",
    None,
    "Folder for the vocabulary, the records, the model and the results.",
    required=True,
  )
  flags.DEFINE_string(
    "glue_dir",
    None,
    "Folder with folders of GLUE tasks (CoLA, SST-2, ...) to fine-tune on.",
  )
  input_paths.mark("glue_dir", input_paths.check_path)
  _define_choice_flags()
  flags.DEFINE_string(
    "pretraining_flags",
    "",
    "Further flags for run_pretraining.py, such as '--dropout=0.1'.",
  )
  flags.DEFINE_string(
    "glue_flags",
    "",
    f"Further flags for run_glue.py, after {' '.join(_DEFAULT_GLUE_FLAGS)}.",
  )


@flag_help.group("Choices")
def _define_choice_flags() -> None:
  """Defines the flags of what the program chooses by itself."""
  flags.DEFINE_integer(
    "vocab_size",
    None,
    "Number of tokens of the vocabulary; by default from 1000 to 30522, as the "
    "amount of text allows.",
    lower_bound=6,
  )
  flags.DEFINE_bool(
    "do_lower_case", True, "Whether to lower-case the text and strip accents."
  )
  flags.DEFINE_enum(
    "model_size",
    None,
    sorted(released_models.SIZES),
    "Size of the model; by default the largest that the time is enough for.",
  )
  flags.DEFINE_string(
    "bert_config_file", None, "Config of the model, in place of --model_size."
  )
  input_paths.mark("bert_config_file", input_paths.check_path)
  flags.DEFINE_enum(
    "precision",
    None,
    ["float32", "bfloat16", "float16"],
    "Type of the activations; by default bfloat16 where it is faster.",
  )
  flags.DEFINE_integer(
    "max_seq_length", 128, "Number of tokens per sequence.", lower_bound=5
  )
  flags.DEFINE_integer(
    "train_batch_size", 32, "Number of sequences per step.", lower_bound=1
  )
  flags.DEFINE_float(
    "learning_rate",
    None,
    "Highest learning rate; by default 1e-3, and less for models wider than "
    "256.",
    lower_bound=0.0,
  )
  flags.DEFINE_bool(
    "next_sentence_prediction",
    False,
    "Whether to train next sentence prediction, too.",
  )
  flags.DEFINE_float(
    "altered_copies_share",
    None,
    "Share of the steps, the last ones, that train on pairs of a text and an "
    f"altered copy; by default {recipe_lib.ALTERED_COPIES_SHARE}, and 0 with "
    "--next_sentence_prediction, short sequences or batches of one.",
    lower_bound=0.0,
    upper_bound=1.0,
  )
  common_flags.define_masking_flags(masked_lm_prob=recipe_lib.MASKED_LM_PROB)
  flags.DEFINE_integer("seed", 12345, "Random seed of records and training.")


# --- The plan ----------------------------------------------------------------


@dataclasses.dataclass
class Plan:
  """The settings and the progress of a run, as stored in `plan.json`.

  Attributes:
    flags: Flags that the run was begun with: `--name=value`.
    input_files: Path, size and time of change of each text file.
    recipe: Fields of a `recipe.PretrainingRecipe`.
    seconds: Name of a finished stage -> time that it took.
    train_hours: Time of the pre-training; 0 until it begins, and with a number
      of steps.
  """

  flags: list[str]
  input_files: list[list[Any]]
  recipe: dict[str, Any]
  seconds: dict[str, float] = dataclasses.field(default_factory=dict)
  train_hours: float = 0.0

  def write(self) -> None:
    """Writes the plan to --output_dir."""
    file_io.write_json(_output_path(_PLAN), dataclasses.asdict(self))


def _output_path(*names: str) -> str:
  return os.path.join(FLAGS.output_dir, *names)


def _read_plan() -> Plan | None:
  """Returns the plan of an earlier run in --output_dir, or None.

  Raises:
    UserError: The plan is damaged.
  """
  path = _output_path(_PLAN)
  if not tf.io.gfile.exists(path):
    return None
  fields = file_io.read_json(path)
  try:
    plan = Plan(**fields)
    recipe_lib.PretrainingRecipe(**plan.recipe)
    are_right = (
      isinstance(plan.flags, list)
      and isinstance(plan.seconds, dict)
      and all(
        isinstance(number, (int, float))
        for number in (plan.train_hours, *plan.seconds.values())
      )
    )
  except TypeError:
    are_right = False
  if not are_right:
    raise UserError(
      f"{path} is damaged. Choose another --output_dir, or delete the file if "
      "the other files there are not needed."
    )
  return plan


def _deciding_flags() -> list[str]:
  """Returns the given flags that decide what is trained: `--name=value`."""
  later = tuple(f"--{name}=" for name in _LATER_FLAGS)
  return [
    argument
    for argument in common_flags.describe_command().arguments
    if not argument.startswith(later)
  ]


def make_plan() -> Plan:
  """Returns the plan of the run in --output_dir, or a new one.

  Raises:
    UserError: The run was begun with other flags or another text, the text is
      too short, or the time.
  """
  files = file_names.find_files(FLAGS.input_file, "--input_file")
  input_files = file_io.describe_files(files)
  arguments = _deciding_flags()
  plan = _read_plan()
  if plan:
    differing = sorted(set(plan.flags) ^ set(arguments))
    if differing:
      raise UserError(
        f"The run in --output_dir={FLAGS.output_dir} was begun with other "
        f"flags: {' '.join(differing)}. Pass the same ones to continue, or "
        "choose another --output_dir."
      )
    if plan.input_files != input_files:
      raise UserError(
        f"The text of --input_file={FLAGS.input_file} has changed since the "
        f"run in --output_dir={FLAGS.output_dir} was begun. Choose another "
        "--output_dir."
      )
    return plan
  text_bytes = corpus.estimate_text_bytes(files)
  recipe_lib.check_text(text_bytes, FLAGS.max_seq_length)
  recipe = _make_recipe(text_bytes)
  return Plan(arguments, input_files, dataclasses.asdict(recipe))


def _make_recipe(text_bytes: int) -> recipe_lib.PretrainingRecipe:
  """Returns the settings that the flags, the text and the machine decide.

  Args:
    text_bytes: Size of the text.

  Raises:
    UserError: The time is too short, or the config cannot be used.
  """
  vocab_size = FLAGS.vocab_size or recipe_lib.choose_vocab_size(text_bytes)
  num_predictions = recipe_lib.count_predictions(
    FLAGS.max_seq_length, FLAGS.masked_lm_prob
  )
  if FLAGS.num_train_steps and FLAGS.precision:
    # Nothing depends on the speed, and the result is the same everywhere.
    machine = recipe_lib.MachineSpeed(FLAGS.precision, 0.0)
  else:
    machine = recipe_lib.measure_machine(FLAGS.precision)
  model_size = FLAGS.model_size or ""
  if FLAGS.bert_config_file:
    config = modeling.BertConfig.from_json_file(FLAGS.bert_config_file)
  else:
    if not model_size:
      model_size = recipe_lib.choose_model_size(
        FLAGS.hours, machine, vocab_size, FLAGS.max_seq_length, num_predictions
      )
    config = modeling.BertConfig.from_size(model_size, vocab_size)
  if FLAGS.hours is not None:
    num_tokens = recipe_lib.estimate_tokens(
      FLAGS.hours, machine, config, FLAGS.max_seq_length, num_predictions
    )
    recipe_lib.check_time(
      FLAGS.hours, num_tokens, FLAGS.train_batch_size, FLAGS.max_seq_length
    )
  learning_rate = FLAGS.learning_rate
  if learning_rate is None:
    learning_rate = recipe_lib.choose_learning_rate(config.hidden_size)
  return recipe_lib.PretrainingRecipe(
    vocab_size=vocab_size,
    model_size=model_size,
    precision=machine.precision,
    max_seq_length=FLAGS.max_seq_length,
    max_predictions_per_seq=num_predictions,
    train_batch_size=FLAGS.train_batch_size,
    learning_rate=learning_rate,
  )


# --- The stages --------------------------------------------------------------


class Stage(NamedTuple):
  """A stage of the run.

  Attributes:
    name: Name in the plan.
    title: Heading of the stage in the log.
    program: The program.
    arguments: Its flags.
  """

  name: str
  title: str
  program: str
  arguments: list[str]


def _text_arguments() -> list[str]:
  """Returns the flags about the text that programs share."""
  names = ("input_file", "text_field", "split_sentences", "errors")
  return [FLAGS[name].serialize() for name in names if FLAGS[name].present]


def _record_arguments(recipe: recipe_lib.PretrainingRecipe) -> list[str]:
  """Returns the flags that records and pre-training share."""
  return [
    f"--vocab_file={_output_path('vocabulary', 'vocab.txt')}",
    f"--max_seq_length={recipe.max_seq_length}",
    f"--max_predictions_per_seq={recipe.max_predictions_per_seq}",
    *(FLAGS[name].serialize() for name in common_flags.MASKING_FLAGS),
  ]


def vocabulary_stage(recipe: recipe_lib.PretrainingRecipe) -> Stage:
  """Returns the stage that learns a vocabulary."""
  config = f"--model_size={recipe.model_size}"
  if not recipe.model_size:
    config = f"--bert_config_file={FLAGS.bert_config_file}"
  return Stage(
    "vocabulary",
    "Learning a vocabulary",
    "create_vocabulary.py",
    [
      *_text_arguments(),
      f"--output_dir={_output_path('vocabulary')}",
      f"--vocab_size={recipe.vocab_size}",
      f"--do_lower_case={FLAGS.do_lower_case}",
      config,
    ],
  )


def _shards() -> list[str]:
  """Returns the paths of the records."""
  base = _output_path("records", "text.tfrecord")
  return [f"{base}-{n:05}-of-{_NUM_SHARDS:05}" for n in range(_NUM_SHARDS)]


def _train_list() -> str:
  """Returns the path of the list of the records to train on."""
  return _output_path("records", "train_files.txt")


def records_stage(recipe: recipe_lib.PretrainingRecipe) -> Stage:
  """Returns the stage that makes records."""
  return Stage(
    "records",
    "Making records",
    "create_pretraining_data.py",
    [
      *_text_arguments(),
      f"--output_file={_output_path('records', 'text.tfrecord')}",
      f"--num_shards={_NUM_SHARDS}",
      *_record_arguments(recipe),
      FLAGS["next_sentence_prediction"].serialize(),
      # Masks are drawn while training, so the text is needed only once.
      "--dupe_factor=1",
      f"--random_seed={FLAGS.seed}",
    ],
  )


def _objective_arguments() -> list[str]:
  """Returns the flags of pre-training that do not depend on the machine."""
  return [
    *recipe_lib.TRAINING_FLAGS,
    f"--train_batch_size={FLAGS.train_batch_size}",
    f"--altered_copies_share={_altered_copies_share():g}",
  ]


def _altered_copies_share() -> float:
  """Returns the share of the steps that train on altered copies."""
  if FLAGS.altered_copies_share is not None:
    return float(FLAGS.altered_copies_share)
  if FLAGS.next_sentence_prediction:
    return 0.0
  share = recipe_lib.ALTERED_COPIES_SHARE
  try:
    altered_copies.check_settings(
      share, FLAGS.max_seq_length, FLAGS.train_batch_size, num_machines=1
    )
    altered_copies.check_segments(share, _num_segments())
  except UserError:
    return 0.0
  return share


def _num_segments() -> int:
  """Returns the number of segments that the model can tell apart."""
  if not FLAGS.bert_config_file:
    return 2
  config = modeling.BertConfig.from_json_file(FLAGS.bert_config_file)
  return config.type_vocab_size


def pretraining_stage(
  recipe: recipe_lib.PretrainingRecipe, train_hours: float
) -> Stage:
  """Returns the stage that pre-trains.

  Args:
    recipe: Settings of the pre-training.
    train_hours: Time of the pre-training; without --hours it has no effect.
  """
  length = [f"--train_hours={train_hours:g}"]
  if FLAGS.num_train_steps:
    num_warmup_steps = int(FLAGS.num_train_steps * time_budget.WARMUP_SHARE)
    length = [
      f"--num_train_steps={FLAGS.num_train_steps}",
      f"--num_warmup_steps={num_warmup_steps}",
    ]
  return Stage(
    "pretraining",
    "Pre-training",
    "run_pretraining.py",
    [
      "--do_train",
      "--do_eval",
      f"--input_file=@{_train_list()}",
      f"--eval_input_file={_shards()[0]}",
      f"--output_dir={_output_path('pretraining')}",
      f"--bert_config_file={_output_path('vocabulary', _CONFIG)}",
      *_record_arguments(recipe),
      *_objective_arguments(),
      *length,
      f"--eval_batch_size={recipe.train_batch_size}",
      f"--learning_rate={recipe.learning_rate:g}",
      f"--precision={recipe.precision}",
      f"--seed={FLAGS.seed}",
      *shlex.split(FLAGS.pretraining_flags),
    ],
  )


def glue_stage(
  recipe: recipe_lib.PretrainingRecipe, is_pretrained: bool
) -> Stage:
  """Returns a stage that fine-tunes.

  Args:
    recipe: Settings of the pre-training.
    is_pretrained: Whether to start from the pre-trained weights, or from random
      ones.
  """
  name = "glue" if is_pretrained else "glue_random"
  return Stage(
    name,
    f"Fine-tuning {'the model' if is_pretrained else 'random weights'}",
    "run_glue.py",
    [
      f"--data_dir={FLAGS.glue_dir}",
      f"--model={_output_path('pretraining')}",
      *([] if is_pretrained else ["--random_weights"]),
      f"--output_dir={_output_path(name)}",
      f"--precision={recipe.precision}",
      f"--max_seq_length={recipe.max_seq_length}",
      *_DEFAULT_GLUE_FLAGS,
      *shlex.split(FLAGS.glue_flags),
    ],
  )


def run_stage(stage: Stage, plan: Plan) -> None:
  """Runs a stage, and notes in the plan that it is done.

  Raises:
    UserError: The program failed.
  """
  logging.info("***** %s *****", stage.title)
  if stage.name in plan.seconds:
    logging.info("  It was done by an earlier run.")
    return
  command = ["python", stage.program, *stage.arguments]
  logging.info("  %s", shlex.join(command))
  started = time.monotonic()
  launch.run_program(stage.program, stage.arguments)
  plan.seconds[stage.name] = time.monotonic() - started
  plan.write()


def run_stages(plan: Plan) -> None:
  """Runs all stages that are not done.

  Raises:
    UserError: A stage failed, or left no time for the pre-training.
  """
  recipe = recipe_lib.PretrainingRecipe(**plan.recipe)
  run_stage(vocabulary_stage(recipe), plan)
  _check_vocabulary()
  run_stage(records_stage(recipe), plan)
  file_io.write_text(_train_list(), "\n".join(_shards()[1:]) + "\n")
  if FLAGS.hours is not None and not plan.train_hours:
    plan.train_hours = _remaining_hours(plan)
    plan.write()
  run_stage(pretraining_stage(recipe, plan.train_hours), plan)
  if FLAGS.glue_dir:
    for is_pretrained in (True, False):
      run_stage(glue_stage(recipe, is_pretrained), plan)


def _check_vocabulary() -> None:
  """Raises a UserError if the text was not enough for --vocab_size tokens."""
  if not FLAGS.vocab_size:
    return
  path = _output_path("vocabulary", _CONFIG)
  num_tokens = modeling.BertConfig.from_json_file(path).vocab_size
  if num_tokens < FLAGS.vocab_size:
    raise UserError(
      f"--vocab_size={FLAGS.vocab_size}: the text is only enough for "
      f"{num_tokens} tokens. Pass a smaller number, or more text, and another "
      "--output_dir."
    )


def _remaining_hours(plan: Plan) -> float:
  """Returns the time that is left for the pre-training.

  Raises:
    UserError: There is none.
  """
  seconds_used = sum(plan.seconds.values())
  hours = FLAGS.hours - seconds_used / time_budget.SECONDS_PER_HOUR
  if hours <= 0:
    raise UserError(
      f"--hours={FLAGS.hours:g} is too short: vocabulary and records took "
      f"{seconds_used:.0f} s. Give more time, or less text, and another "
      "--output_dir."
    )
  return float(f"{hours:.4g}")


# --- Results -----------------------------------------------------------------


def write_results(plan: Plan) -> None:
  """Writes `results.json`, `results.md` and `loss.png`, and shows the table."""
  results: dict[str, Any] = {
    "recipe": plan.recipe,
    "seconds": plan.seconds,
    "evaluation": run_folder.read_results(
      _output_path("pretraining"), "eval_results.txt"
    ),
  }
  for name in ("glue", "glue_random"):
    path = _output_path(name, "results.json")
    if tf.io.gfile.exists(path):
      results[name] = file_io.read_json(path)["columns"]
  table = to_markdown(results)
  file_io.write_text(
    _output_path("results.json"), json.dumps(results, indent=2) + "\n"
  )
  file_io.write_text(_output_path("results.md"), table)
  picture = loss_plot.make_picture(
    [_output_path("pretraining")], "loss", together=False
  )
  file_io.write_bytes(_output_path("loss.png"), picture)
  for line in table.splitlines():
    logging.info("%s", line)
  logging.info("Results: %s", _output_path("results.md"))
  model = shlex.quote(_output_path("pretraining"))
  logging.info("Model: pass --model=%s to any program, for example", model)
  logging.info("  python predict.py --model=%s --text='... [MASK] ...'", model)


def to_markdown(results: Mapping[str, Any]) -> str:
  """Returns the tables of the results.

  Args:
    results: Contents of `results.json`.
  """
  lines = ["| pre-training | |", "|---|---|"]
  for name, value in results["recipe"].items():
    lines.append(f"| {name} | {value} |")
  for name, value in results["evaluation"].items():
    if name == "global_step":
      lines.append(f"| steps | {value:.0f} |")
      continue
    lines.append(f"| {name}, held-out text | {value:.4g} |")
  for name, seconds in results["seconds"].items():
    lines.append(f"| {name} | {seconds:.0f} s |")
  if "glue" in results and "glue_random" in results:
    lines += ["", *_compare_glue(results["glue"], results["glue_random"])]
  return "\n".join(lines) + "\n"


def _compare_glue(
  pretrained: Mapping[str, Any], random: Mapping[str, Any]
) -> list[str]:
  """Returns the lines of the table of fine-tuning.

  Args:
    pretrained: `columns` of the `results.json` of `run_glue.py`.
    random: The same from random weights.
  """
  lines = [
    "| score on dev, percent | pre-trained | random weights | gain |",
    "|---|---|---|---|",
  ]
  for heading, scores in pretrained.items():
    for name, score in scores.items():
      other = random.get(heading, {}).get(name)
      if other is None:
        continue
      gain = 100 * (score["mean"] - other["mean"])
      cells = [
        glue.format_score(score),
        glue.format_score(other),
        f"{gain:+.1f}",
      ]
      lines.append(f"| {heading} {name} | {' | '.join(cells)} |")
  return lines


# --- Checks ------------------------------------------------------------------


def check_flags() -> None:
  """Raises a UserError if flags contradict each other."""
  if cluster.count_machines() > 1:
    raise UserError(
      "TF_CONFIG names several machines. from_scratch.py works on one; its "
      "stages can be run by hand on more."
    )
  if (FLAGS.hours is None) == (FLAGS.num_train_steps is None):
    raise UserError(
      "Pass either --hours or --num_train_steps, the length of the "
      "pre-training."
    )
  names_model = FLAGS.model_size or FLAGS.bert_config_file
  if FLAGS.num_train_steps and not names_model:
    raise UserError(
      "--num_train_steps does not say how long the training may take. Pass the "
      "--model_size as well."
    )
  if FLAGS.model_size and FLAGS.bert_config_file:
    raise UserError(
      "--model_size and --bert_config_file both name a config: pass one of the "
      "two."
    )
  if FLAGS.altered_copies_share:
    if FLAGS.next_sentence_prediction:
      raise UserError(
        f"--altered_copies_share={FLAGS.altered_copies_share:g} takes the "
        "place of --next_sentence_prediction: pass one of the two."
      )
    altered_copies.check_settings(
      FLAGS.altered_copies_share,
      FLAGS.max_seq_length,
      FLAGS.train_batch_size,
      num_machines=1,
    )
  if FLAGS.glue_flags and not FLAGS.glue_dir:
    raise UserError(
      f"--glue_flags={FLAGS.glue_flags} belongs to --glue_dir: pass both, or "
      "neither."
    )


def _check_stages() -> None:
  """Checks everything that a later stage would refuse, before work is done.

  Raises:
    UserError: The flags do not fit the model, a flag to pass on is wrong, or
      there is no task in --glue_dir.
  """
  if FLAGS.altered_copies_share:
    altered_copies.check_segments(FLAGS.altered_copies_share, _num_segments())
  length = f"--train_hours={FLAGS.hours}"
  if FLAGS.num_train_steps:
    length = f"--num_train_steps={FLAGS.num_train_steps}"
  _check_arguments(
    "run_pretraining.py",
    [
      "--do_train",
      "--do_eval",
      "--input_file=.",
      length,
      f"--max_seq_length={FLAGS.max_seq_length}",
      *_objective_arguments(),
    ],
    "--pretraining_flags",
    FLAGS.pretraining_flags,
  )
  if FLAGS.glue_dir:
    _check_arguments(
      "run_glue.py",
      ["--data_dir=.", "--random_weights"],
      "--glue_flags",
      FLAGS.glue_flags,
    )
    tasks = glue.find_tasks(FLAGS.glue_dir, "--glue_dir")
    glue.check_files(FLAGS.glue_dir, tasks)


def _check_arguments(
  program: str, own: Sequence[str], flag: str, text: str
) -> None:
  """Checks flags that are passed on to another program.

  Args:
    program: The program.
    own: Flags of the program that we choose.
    flag: Name of our flag, for error messages.
    text: Its value.

  Raises:
    UserError: The program does not know a flag, a value is wrong, or flags
      contradict each other.
  """
  try:
    arguments = shlex.split(text)
  except ValueError as error:
    raise UserError(f"{flag}={text}: {error}.") from error
  if arguments:
    # The files need not be right, because nothing is read.
    common = [*own, "--model=.", f"--output_dir={FLAGS.output_dir}"]
    launch.run_program(program, [*common, *arguments, "--only_check_args"])


@launch.owns("output_dir")
def main(_):
  _check_stages()
  plan = make_plan()
  plan.write()
  logging.info("The run is described by %s.", _output_path(_PLAN))
  run_stages(plan)
  write_results(plan)


if __name__ == "__main__":
  define_flags()
  launch.run(main, check_flags)
