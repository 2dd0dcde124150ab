"""What benchmarks beside PyTorch transformers share."""

from collections.abc import Mapping
import json
import sys

import turns

# Name -> role, precision, and whether ours pads to the longest length.
_CONTESTANTS = {
  "transformers float32": ("peer", "float32", False),
  "transformers bfloat16": ("peer", "bfloat16", False),
  "ours float32": ("ours", "float32", False),
  "ours bfloat16": ("ours", "bfloat16", False),
  "ours bfloat16, padded": ("ours", "bfloat16", True),
}
_COMPARED = [
  ("ours float32", "transformers float32"),
  ("ours bfloat16", "transformers float32"),
  ("ours bfloat16", "transformers bfloat16"),
  ("ours bfloat16", "ours bfloat16, padded"),
]

# Our names of activations to theirs, whose `gelu` is the exact form.
_ACTIVATIONS = {"gelu": "gelu_new", "gelu_erf": "gelu"}


def transformers_config(bert_config_file: str, **fields):
  """Returns the config of transformers for a `bert_config.json` of ours."""
  import transformers  # pylint: disable=g-import-not-at-top

  with open(bert_config_file, encoding="utf-8") as reader:
    sizes = json.load(reader)
  activation = sizes["hidden_act"]
  return transformers.BertConfig(
    **{
      **sizes,
      "hidden_act": _ACTIVATIONS.get(activation, activation),
      **fields,
    }
  )


def take_turns(
  program: str,
  peer_python: str,
  settings: Mapping[str, object],
  num_warmups: int,
  num_turns: int,
) -> dict[str, list[float]]:
  """Lets ours and transformers work in turn, in both precisions.

  Args:
    program: see `turns.Contestant`, likewise `num_warmups`.
    peer_python: the interpreter of transformers.
    settings: for all; each gets its `precision`, and `pads`, besides.
    num_warmups: turns that do not count.
    num_turns: turns of each.

  Returns:
    The seconds of each one's turns, by name.
  """
  contestants = {
    name: turns.Contestant(
      program,
      role,
      peer_python if role == "peer" else sys.executable,
      {**settings, "precision": precision, "pads": pads},
      num_warmups,
    )
    for name, (role, precision, pads) in _CONTESTANTS.items()
  }
  for _ in range(num_turns):
    for contestant in contestants.values():
      contestant.take_turn()
  for contestant in contestants.values():
    contestant.leave()
  return {name: contestant.seconds for name, contestant in contestants.items()}


def print_ratios(
  totals: Mapping[str, float], seconds: Mapping[str, list[float]]
) -> None:
  """Prints how many times as fast ours is.

  Args:
    totals: what counts of the turns of each, by name.
    seconds: see `take_turns`.
  """
  for ours, theirs in _COMPARED:
    ratios = sorted(b / a for a, b in zip(seconds[ours], seconds[theirs]))
    print(
      f"  {ours} beside {theirs}: {totals[theirs] / totals[ours]:.2f} "
      f"times as fast (turn by turn {ratios[0]:.2f} to {ratios[-1]:.2f})"
    )
