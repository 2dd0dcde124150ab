"""Tests of from_scratch.py."""

import launch

import importlib
import json
import os
import pathlib
import signal
import subprocess
import sys

from absl import flags as absl_flags
import builders
import pytest

from errors import UserError
import from_scratch
from pretraining import recipe

STAGES = ["vocabulary", "records", "pretraining", "glue", "glue_random"]


@pytest.fixture
def text(tmp_path):
  path = tmp_path / "text.txt"
  path.write_text(100 * (builders.TEXT + "\n\n"))
  return path


@pytest.fixture
def glue_dir(tmp_path):
  folder = tmp_path / "glue_data" / "RTE"
  folder.mkdir(parents=True)
  for split in ("train", "dev"):
    (folder / f"{split}.tsv").write_text(
      "index\tsentence1\tsentence2\tlabel\n"
      "0\tthe cat\ta cat\tentailment\n1\ta\tthe dog\tnot_entailment\n"
    )
  return folder.parent


def values_of(arguments):
  """Returns the flags of a command: name -> value."""
  return dict(argument[2:].partition("=")[::2] for argument in arguments)


def write_outputs(program, flags):
  """Writes what `from_scratch.py` reads of the outputs of a program."""
  folder = pathlib.Path(flags.get("output_dir", "."))
  folder.mkdir(parents=True, exist_ok=True)
  if program == "create_vocabulary.py":
    builders.write_config(folder)
  elif program == "run_pretraining.py":
    (folder / "eval_results.txt").write_text("masked_lm_loss = 4.5\n")
    (folder / "training_log.jsonl").write_text('{"step": 10, "loss": 3.0}\n')
  elif program == "run_glue.py":
    score = 0.5 if "random_weights" in flags else 0.625
    cell = {"mean": score, "deviation": 0.01}
    (folder / "results.json").write_text(
      json.dumps({"columns": {"RTE": {"accuracy": cell}}})
    )


@pytest.fixture
def stages(run_program, text, glue_dir, tmp_path, monkeypatch):
  """Function that runs the program with stages that write their outputs only.

  It returns the commands of the stages: (program, arguments). With `dies_at`,
  the stage of this number fails.
  """
  monkeypatch.setattr(
    recipe,
    "measure_machine",
    lambda precision: recipe.MachineSpeed(precision or "bfloat16", 1e11),
  )

  def run(dies_at=None, **flags):
    commands = []

    def run_stage(program, arguments):
      commands.append((program, arguments))
      if "--only_check_args" in arguments:
        return
      if dies_at == len(commands):
        raise UserError("It failed.")
      write_outputs(program, values_of(arguments))

    monkeypatch.setattr(launch, "run_program", run_stage)
    settings = dict(
      input_file=text, output_dir=tmp_path / "out", hours=2, glue_dir=glue_dir
    )
    run_program(from_scratch, **{**settings, **flags})
    return commands

  return run


def test_the_stages_are_commands_of_other_programs(stages):
  commands = stages()
  assert [program for program, _ in commands] == [
    "create_vocabulary.py",
    "create_pretraining_data.py",
    "run_pretraining.py",
    "run_glue.py",
    "run_glue.py",
  ]
  for program, arguments in commands:
    module = importlib.import_module(program.removesuffix(".py"))
    builders.define_flags(module)
    absl_flags.FLAGS([program, *arguments])  # unknown flags are errors
  random_weights = [
    "random_weights" in values_of(arguments) for _, arguments in commands
  ]
  assert random_weights == [False] * 4 + [True]


@pytest.mark.parametrize(
  "flags, place, expected",
  [
    (dict(vocab_size=12), 0, "--vocab_size=12"),
    (dict(do_lower_case=False), 0, "--do_lower_case=False"),
    (dict(model_size="small"), 0, "--model_size=small"),
    (dict(text_field="body"), 1, "--text_field=body"),
    (dict(next_sentence_prediction=True), 1, "--next_sentence_prediction"),
    (dict(max_seq_length=64), 1, "--max_predictions_per_seq=20"),
    (dict(masked_lm_prob=0.15), 2, "--max_predictions_per_seq=20"),
    (dict(do_whole_word_mask=True), 2, "--do_whole_word_mask"),
    (dict(precision="float32"), 2, "--precision=float32"),
    (dict(), 2, "--masked_lm_prob=0.3"),
    (dict(), 2, "--dropout=0"),
    (dict(), 2, "--lr_decay=wsd"),
    (dict(), 2, "--altered_copies_share=0.2"),
    (dict(altered_copies_share=0.1), 2, "--altered_copies_share=0.1"),
    (dict(next_sentence_prediction=True), 2, "--altered_copies_share=0"),
    (dict(max_seq_length=24), 2, "--altered_copies_share=0"),
    (dict(train_batch_size=1), 2, "--altered_copies_share=0"),
    (dict(), 4, "--classifier_flags=--dropout=0"),
    (dict(train_batch_size=16), 2, "--train_batch_size=16"),
    (dict(learning_rate=0.5), 2, "--learning_rate=0.5"),
    (dict(hours=None, num_train_steps=30, model_size="tiny"), 2,
     "--num_train_steps=30"),
    (dict(seed=7), 2, "--seed=7"),
    (dict(pretraining_flags="--lr_decay=cosine"), 3, "--lr_decay=cosine"),
    (dict(glue_flags="--seeds=4"), 4, "--seeds=4"),
  ],
)  # fmt: skip
def test_each_flag_reaches_its_stage(stages, flags, place, expected):
  assert expected in stages(**flags)[place][1]


def test_a_config_of_the_user_is_used(stages, config_file):
  commands = stages(bert_config_file=config_file)
  assert f"--bert_config_file={config_file}" in commands[0][1]


def test_a_failed_run_continues_at_its_stage(stages, tmp_path):
  for number in range(1, 6):
    with pytest.raises(UserError, match="It failed"):
      stages(dies_at=1 if number > 1 else number)
    plan = json.loads((tmp_path / "out" / "plan.json").read_text())
    assert list(plan["seconds"]) == STAGES[: number - 1]
    if number < 5:
      with pytest.raises(UserError, match="It failed"):
        stages(dies_at=2)
  assert len(stages()) == 1
  assert stages() == []


def test_the_table_shows_what_pretraining_is_worth(stages, tmp_path):
  stages()
  table = (tmp_path / "out" / "results.md").read_text()
  assert "| RTE accuracy | 62.5 ± 1.0 | 50.0 ± 1.0 | +12.5 |" in table
  assert "| masked_lm_loss, held-out text | 4.5 |" in table
  assert (tmp_path / "out" / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_tasks_can_be_added_later_and_nothing_else(stages, text):
  assert len(stages(glue_dir=None)) == 3
  assert len(stages()) == 2
  with pytest.raises(
    UserError, match="begun with other flags: --hours=2.0 --h"
  ):
    stages(hours=3)
  text.write_text(text.read_text() + "The end.\n")
  with pytest.raises(UserError, match="text.txt has changed since"):
    stages()


def test_records_are_held_out_for_the_evaluation(stages, tmp_path):
  flags = values_of(stages()[2][1])
  held_out = pathlib.Path(flags["eval_input_file"])
  list_file = tmp_path / "out" / "records" / "train_files.txt"
  assert flags["input_file"] == f"@{list_file}"
  trained = list_file.read_text().split()
  assert len(trained) == 19 and str(held_out) not in trained
  assert {pathlib.Path(name).parent for name in trained} == {held_out.parent}


@pytest.mark.parametrize(
  "flags, message",
  [
    (dict(hours=None), "either --hours or --num_train_steps"),
    (dict(num_train_steps=5), "either --hours or --num_train_steps"),
    (dict(hours=None, num_train_steps=5), "Pass the --model_size as well"),
    (dict(hours=1e-9), "--hours=1e-09 is too short"),
    (dict(max_seq_length=5000), "Pre-training needs at least 100"),
    (dict(vocab_size=50_000), "the text is only enough for 39 tokens"),
    (dict(glue_dir=None, glue_flags="--seeds=1"), "belongs to --glue_dir"),
    (dict(pretraining_flags="'"), "--pretraining_flags=': No closing quota"),
    (dict(glue_dir="."), r"--glue_dir=\. has no folder CoLA or SST-2"),
    (
      dict(model_size="tiny", bert_config_file="x.json"),
      "both name a config",
    ),
    (dict(altered_copies_share=1), "copies_share=1 must be below 1"),
    (
      dict(altered_copies_share=0.1, next_sentence_prediction=True),
      "altered_copies_share=0.1 takes the place of",
    ),
  ],
)
def test_mistakes_are_refused(stages, tmp_path, monkeypatch, flags, message):
  (tmp_path / "empty").mkdir()
  monkeypatch.chdir(tmp_path / "empty")
  with pytest.raises(UserError, match=message):
    stages(**flags)


def test_a_model_of_one_segment_has_no_altered_copies(stages, tmp_path):
  path = tmp_path / "config.json"
  path.write_text(builders.tiny_config(type_vocab_size=1).to_json_string())
  with pytest.raises(UserError, match="share=0.1 .*type_vocab_size of 1"):
    stages(bert_config_file=path, altered_copies_share=0.1)
  _, arguments = stages(bert_config_file=path)[2]
  assert "--altered_copies_share=0" in arguments


def test_several_machines_are_refused(stages, monkeypatch):
  cluster = {"cluster": {"worker": ["a:1", "b:1"]},
             "task": {"type": "worker", "index": 0}}  # fmt: skip
  monkeypatch.setenv("TF_CONFIG", json.dumps(cluster))
  with pytest.raises(UserError, match="TF_CONFIG names several machines"):
    stages()


@pytest.mark.parametrize(
  "damage", [{"flags": 1}, {"seconds": {"vocabulary": "1"}}, {"recipe": {}}]
)
def test_a_damaged_plan_is_refused(stages, tmp_path, damage):
  stages()
  path = tmp_path / "out" / "plan.json"
  path.write_text(json.dumps({**json.loads(path.read_text()), **damage}))
  with pytest.raises(UserError, match=r"plan\.json is damaged"):
    stages()


# --- Real stages -------------------------------------------------------------


def start(output_dir, text, glue_dir, config_file):
  """Starts the program on a tiny model, in a process group of its own."""
  command = [
    sys.executable,
    builders.ROOT / "from_scratch.py",
    f"--input_file={text}",
    f"--output_dir={output_dir}",
    f"--glue_dir={glue_dir}",
    f"--bert_config_file={config_file}",
    "--num_train_steps=20",
    "--precision=float32",
    "--max_seq_length=16",
    "--train_batch_size=4",
    "--pretraining_flags=--save_checkpoints_steps=5",
    "--glue_flags=--learning_rates=1e-3 --seeds=1 --num_train_epochs=32",
  ]
  return subprocess.Popen(
    [str(part) for part in command],
    stderr=subprocess.PIPE,
    stdin=subprocess.DEVNULL,
    text=True,
    start_new_session=True,
  )


def wait_for_line(process, words):
  """Reads the messages of a process up to a line with these words."""
  for line in process.stderr:
    if words in line:
      return
  raise AssertionError(f"There is no line with {words!r}.")


def results_of(folder):
  """Returns the bytes of the files that must be equal in every run."""
  names = [
    "vocabulary/vocab.txt",
    "pretraining/eval_results.txt",
    "pretraining/export/bert_model.ckpt.data-00000-of-00001",
    "glue/results.md",
    "glue_random/results.md",
    *(f"records/text.tfrecord-{n:05}-of-00020" for n in range(20)),
  ]
  return {name: (folder / name).read_bytes() for name in names}


@pytest.mark.large
def test_a_run_that_is_killed_in_each_stage_ends_as_if_undisturbed(
  text, glue_dir, config_file, tmp_path
):
  arguments = text, glue_dir, config_file
  undisturbed = start(tmp_path / "one", *arguments)
  _, messages = undisturbed.communicate(timeout=1200)
  assert undisturbed.returncode == 0, messages[-2000:]
  for stage in (
    "Learning a vocabulary",
    "Making records",
    "Pre-training",
    "Fine-tuning the model",
    "Fine-tuning random",
  ):
    process = start(tmp_path / "two", *arguments)
    wait_for_line(process, stage)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=1200)  # until the stage has ended as well
  last = start(tmp_path / "two", *arguments)
  _, messages = last.communicate(timeout=1200)
  assert last.returncode == 0, messages[-2000:]
  assert results_of(tmp_path / "one") == results_of(tmp_path / "two")


@pytest.mark.large
@pytest.mark.parametrize(
  "flags, message",
  [
    ("--pretraining_flags=--lr_decy=cosine", "Did you mean --lr_decay"),
    ("--glue_flags=--seedz=1", "Did you mean --seeds"),
    ("--glue_flags=--classifier_flags=--drpout=0", "Did you mean --dropout"),
    (
      "--pretraining_flags=--eval_every_steps=5 --early_stopping_patience=2",
      "--altered_copies_share=0.2 cannot be used with --early_stopping",
    ),
    ("--pretraining_flags=--num_train_steps=9", "both give the length"),
  ],
)
def test_mistakes_in_flags_of_stages_are_found_first(
  text, glue_dir, tmp_path, flags, message
):
  result = subprocess.run(
    [
      sys.executable,
      builders.ROOT / "from_scratch.py",
      f"--input_file={text}",
      f"--output_dir={tmp_path / 'out'}",
      f"--glue_dir={glue_dir}",
      "--hours=1",
      flags,
    ],
    capture_output=True,
    text=True,
    timeout=600,
  )
  assert result.returncode == 1 and message in result.stderr
  assert not list((tmp_path / "out").glob("*"))
