"""Shared code of the benchmarks that compare with PyTorch transformers."""

from collections.abc import Mapping
import json
import sys
from typing import NamedTuple

import turns


class _Variant(NamedTuple):
  """A program and its settings.

  Attributes:
    role: `ours` or `peer`.
    precision: Type of the activations.
    pads: Whether our program pads all batches to the longest length.
  """

  role: str
  precision: str
  pads: bool = False


_VARIANTS = {
  "transformers float32": _Variant("peer", "float32"),
  "transformers bfloat16": _Variant("peer", "bfloat16"),
  "ours float32": _Variant("ours", "float32"),
  "ours bfloat16": _Variant("ours", "bfloat16"),
  "ours bfloat16, padded": _Variant("ours", "bfloat16", pads=True),
}
_COMPARED = [
  ("ours float32", "transformers float32"),
  ("ours bfloat16", "transformers float32"),
  ("ours bfloat16", "transformers bfloat16"),
  ("ours bfloat16", "ours bfloat16, padded"),
]

# Our names of activations to theirs. Their `gelu` is the exact form.
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
  """Lets our program and transformers take turns, in both precisions.

  Args:
    program: See `turns.Contestant`.
    peer_python: Interpreter that has PyTorch and transformers.
    settings: Settings for all; each also gets its `precision` and `pads`.
    num_warmups: Number of turns that do not count.
    num_turns: Number of turns of each.

  Returns:
    Name of a contestant -> seconds of its turns.
  """
  contestants = {}
  for name, variant in _VARIANTS.items():
    contestants[name] = turns.Contestant(
      program,
      variant.role,
      peer_python if variant.role == "peer" else sys.executable,
      {**settings, "precision": variant.precision, "pads": variant.pads},
      num_warmups,
    )
  for _ in range(num_turns):
    for contestant in contestants.values():
      contestant.take_turn()
  for contestant in contestants.values():
    contestant.leave()
  return {name: contestant.seconds for name, contestant in contestants.items()}


def list_results(totals: Mapping[str, float]) -> list[dict[str, object]]:
  """Returns a row of results for each precision; see `print_ratios`."""
  rows = []
  for precision in ("float32", "bfloat16"):
    ours = totals[f"ours {precision}"]
    theirs = totals[f"transformers {precision}"]
    rows.append(
      {
        "type": precision,
        "ours (s)": round(ours, 1),
        "times as fast as transformers": round(theirs / ours, 2),
      }
    )
  return rows


def print_ratios(
  totals: Mapping[str, float], seconds: Mapping[str, list[float]]
) -> None:
  """Prints how many times as fast our program is.

  Args:
    totals: Name of a contestant -> the seconds that are compared.
    seconds: See `take_turns`.
  """
  for ours, theirs in _COMPARED:
    turn_pairs = zip(seconds[ours], seconds[theirs])
    ratios = sorted(their / our for our, their in turn_pairs)
    print(
      f"  {ours} compared with {theirs}: {totals[theirs] / totals[ours]:.2f} "
      f"times as fast (turn by turn {ratios[0]:.2f} to {ratios[-1]:.2f})"
    )
