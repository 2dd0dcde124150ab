"""Reads the flags; explains mistakes, and suggests what was meant."""

from __future__ import annotations

from collections.abc import Sequence
import difflib
import os
import re

from absl import flags

from command_line import flag_help
from errors import UserError

# Names of flags in other programs -> our names for the same thing, of which a
# program has one or more.
_OTHER_NAMES = {
  "lr": ["learning_rate"],
  "epochs": ["num_train_epochs"],
  "batch_size": ["train_batch_size", "eval_batch_size"],
  "per_device_train_batch_size": ["train_batch_size"],
  "per_device_eval_batch_size": ["eval_batch_size"],
  "steps": ["num_train_steps"],
  "max_steps": ["num_train_steps"],
  "max_length": ["max_seq_length"],
  "max_len": ["max_seq_length"],
  "model_name_or_path": ["model"],
  "pretrained_model": ["model"],
  "checkpoint": ["init_checkpoint"],
  "config": ["bert_config_file"],
  "config_file": ["bert_config_file"],
  "vocab": ["vocab_file"],
  "task": ["task_name"],
  "fp16": ["precision"],
  "bf16": ["precision"],
  "warmup_ratio": ["warmup_proportion"],
  "warmup_steps": ["num_warmup_steps"],
  "logging_dir": ["output_dir"],
  "overwrite_output_dir": ["restart"],
  "dataset": ["data_dir", "input_file"],
  "lower_case": ["do_lower_case"],
}
# Flag that another program has now -> what to run.
_MOVED_FLAGS = {
  "question": "predict.py --model=... --context_file=... --question=...",
  "context_file": "predict.py --model=... --context_file=... --question=...",
}
# Values of booleans -> the same as absl writes them.
_BOOLEANS = {
  **dict.fromkeys(("true", "yes", "t", "y", "1"), "true"),
  **dict.fromkeys(("false", "no", "f", "n", "0"), "false"),
}
# A flag or a value that begins in the home folder; `~a` is no path.
_HOME = re.compile(r"(?P<flag>--?\w+=)?(?P<path>~[/\\].*)", re.DOTALL)
_NUM_SUGGESTIONS = 3


def parse(argv: Sequence[str], known_only: bool = False) -> list[str]:
  """Reads the flags, and returns the rest of the command line.

  Args:
    argv: The command line; the name of the program first.
    known_only: Whether unknown flags stay in the rest, instead of being errors.

  Raises:
    UserError: A flag is unknown, lacks a value, or has a wrong one.
  """
  try:
    rest = flags.FLAGS(_normalize(argv), known_only=known_only)
  except flags.UnrecognizedFlagError as error:
    raise UserError(_unknown_flag_message(error.flagname)) from error
  except (flags.Error, ValueError) as error:
    raise UserError(_explain(str(error))) from error
  if len(rest) > 1 and not known_only:
    raise UserError(
      f"{rest[1]!r} belongs to no flag. Flags look like --name=value."
    )
  return rest


def asks_for_help(argv: Sequence[str]) -> bool:
  """Returns whether a command line asks for help."""
  return any(word in ("--help", "-help", "-h", "-?") for word in argv[1:])


def _normalize(argv: Sequence[str]) -> list[str]:
  """Returns a command line as absl understands it.

  `--flag True` becomes `--flag=true`. In `--flag=~/file` the home folder
  replaces `~`, which shells do only at the beginning of a word.
  """
  words: list[str] = []
  for word in argv:
    previous = _flag_name(words[-1]) if words else ""
    is_value = previous in flags.FLAGS and "=" not in words[-1]
    if is_value and flags.FLAGS[previous].boolean and word.lower() in _BOOLEANS:
      words[-1] += f"={_BOOLEANS[word.lower()]}"
      continue
    home = _HOME.fullmatch(word)
    if home and (home["flag"] or is_value):
      word = (home["flag"] or "") + os.path.expanduser(home["path"])
    words.append(word)
  return words


def _flag_name(word: str) -> str:
  """Returns the name of the flag that a word sets; empty if it sets none."""
  match = re.match(r"--?([A-Za-z]\w*)", word)
  return match.group(1) if match else ""


def _unknown_flag_message(name: str) -> str:
  own = flag_help.own_flags()
  known = [flag for flag in _OTHER_NAMES.get(name, ()) if flag in own]
  similar = difflib.get_close_matches(name, own, _NUM_SUGGESTIONS, 0.7)
  longer = [flag for flag in own if len(name) > 2 and name in flag]
  suggestions = known or similar or longer[:_NUM_SUGGESTIONS]
  message = f"There is no flag --{name}."
  if name in _MOVED_FLAGS:
    return f"{message} Questions about a text: {_MOVED_FLAGS[name]}"
  if suggestions:
    choices = " or ".join(f"--{flag}" for flag in suggestions)
    message += f" Did you mean {choices}?"
  return f"{message} --help lists the flags."


def _explain(message: str) -> str:
  """Returns a message of absl about a flag in our words."""
  message = " ".join(message.split()).rstrip(".")
  missing = re.fullmatch(r"flag --(\w+)=None: .*other than None", message)
  if missing:
    flag = flags.FLAGS[missing.group(1)]
    return f"--{flag.name} is missing: {_first_sentence(flag.help)}"
  no_value = re.fullmatch(r"Missing value for flag -*(\w+)", message)
  if no_value:
    return f"--{no_value.group(1)} has no value. Flags look like --name=value."
  wrong = re.fullmatch(r"flag --(\w+)=(.*?): (.*)", message)
  if not wrong or wrong.group(1) not in flags.FLAGS:
    return f"{message}. --help lists the flags."
  name, value, reason = wrong.groups()
  flag = flags.FLAGS[name]
  if isinstance(flag, flags.EnumFlag):
    choices = list(flag.parser.enum_values)
    similar = _similar_choices(value, choices)
    if similar:
      return f"--{name}={value} does not exist. Did you mean {similar}?"
    return f"--{name}={value} does not exist. Choose {', '.join(choices)}."
  if flag.boolean:
    reason = "it is either true or false"
  elif "invalid literal" in reason or "could not convert" in reason:
    kinds = {"int": "a whole number", "float": "a number"}
    reason = f"it has to be {kinds.get(flag.flag_type(), 'a number')}"
  return f"--{name}={value}: {reason}. {_first_sentence(flag.help)}"


def _similar_choices(value: str, choices: Sequence[str]) -> str:
  by_lower = {choice.lower(): choice for choice in choices}
  value = value.lower()
  similar = difflib.get_close_matches(value, by_lower, _NUM_SUGGESTIONS, 0.6)
  if not similar and value:
    similar = [name for name in by_lower if value in name][:_NUM_SUGGESTIONS]
  return " or ".join(by_lower[name] for name in similar)


def _first_sentence(text: str | None) -> str:
  sentence = re.split(r"(?<=\.)\s", " ".join((text or "").split()))[0]
  return sentence if sentence.endswith(".") else sentence + "."
