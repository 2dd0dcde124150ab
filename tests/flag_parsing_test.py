"""Tests of flag_parsing.py."""

import os

from absl import flags
import pytest

from command_line import flag_help
from command_line import flag_parsing
from errors import UserError


@pytest.fixture(autouse=True)
def own_flags(monkeypatch):
  """Flags of a small program, in place of all others."""
  values = flags.FlagValues()
  monkeypatch.setattr(flags, "FLAGS", values)
  monkeypatch.setattr(flag_help, "_groups", {})

  @flag_help.group("Work")
  def define():
    options = {"flag_values": values}
    flags.DEFINE_bool("do_train", False, "Whether to train.", **options)
    flags.DEFINE_float("learning_rate", 5e-5, "Highest rate.", **options)
    flags.DEFINE_integer("train_batch_size", 32, "Examples.", 1, **options)
    flags.DEFINE_integer("eval_batch_size", 8, "Examples.", 1, **options)
    flags.DEFINE_enum("task_name", "MRPC", ["MRPC", "CoLA"], "Task.", **options)
    flags.DEFINE_string(
      "output_dir",
      None,
      "Folder of the run. It is made.",
      required=True,
      **options,
    )
    flags.DEFINE_string("text", None, "A text.", **options)

  define()
  return values


@pytest.mark.parametrize(
  "words, message",
  [
    (["--lr=1"], "There is no flag --lr. Did you mean --learning_rate?"),
    (["--batch_size=1"], "--train_batch_size or --eval_batch_size?"),
    (["--leaning_rate=1"], "Did you mean --learning_rate?"),
    (["--rate=1"], "Did you mean --learning_rate?"),
    (["--zzz=1"], "There is no flag --zzz. --help lists the flags."),
    (["--task_name=mrcp"], "--task_name=mrcp .* Did you mean MRPC?"),
    (["--task_name=x"], "Choose MRPC, CoLA."),
    (["--learning_rate=fast"], "--learning_rate=fast: .* a number. Highest"),
    (["--train_batch_size=1.5"], "=1.5: it has to be a whole number."),
    (["--train_batch_size=0"], "--train_batch_size=0: .*positive"),
    (["--do_train=maybe"], "--do_train=maybe: it is either true or false."),
    ([], "--output_dir is missing: Folder of the run."),
    (["--output_dir"], "--output_dir has no value."),
    (["--output_dir=x", "maybe"], "'maybe' belongs to no flag."),
  ],
)
def test_mistakes_are_explained(words, message):
  with pytest.raises(UserError, match=message.replace("?", r"\?")):
    flag_parsing.parse(["program", *words])


def test_values_of_booleans_and_homes_are_understood(own_flags, monkeypatch):
  monkeypatch.setenv("HOME", "/home/someone")
  flag_parsing.parse(
    ["program", "--do_train", "True", "--output_dir=~/run", "--text=~a"]
  )
  assert own_flags.do_train
  assert own_flags.output_dir == os.path.expanduser("~/run") != "~/run"
  assert own_flags.text == "~a"
  own_flags.unparse_flags()
  flag_parsing.parse(["program", "--do_train", "no", "--output_dir", "~/b"])
  assert not own_flags.do_train
  assert own_flags.output_dir == os.path.expanduser("~/b")


def test_unknown_flags_may_stay(own_flags):
  words = ["program", "--output_dir=x", "--runner=flink"]
  assert flag_parsing.parse(words, known_only=True) == [
    "program",
    "--runner=flink",
  ]
