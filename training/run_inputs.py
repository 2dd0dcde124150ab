"""Compares the inputs of a run with those that it was trained on so far.

A folder of a run holds one model and what it learned. If the same command is
given another config, its weights cannot be used. If it is given other data, the
run can go on, but its user has to know.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent import futures
import os
import zlib

from absl import logging
import tensorflow as tf

from errors import UserError

# Fields of a config that matter only while training.
_TRAINING_FIELDS = frozenset(
  ("attention_probs_dropout_prob", "hidden_dropout_prob", "initializer_range")
)
# Bytes at the beginning of a file that its fingerprint depends on.
_FINGERPRINT_BYTES = 2**20
_NUM_READERS = 16
_NUM_SHOWN = 3


def check_config(
  old: Mapping[str, object], new: Mapping[str, object], output_dir: str
) -> None:
  """Checks that a config describes the model that a run has trained.

  Args:
    old: Config of the run; empty if it is not known.
    new: Config that is given now.
    output_dir: Folder of the run.

  Raises:
    UserError: They differ in a field that the model depends on.
  """
  differing = []
  for name in sorted(set(old) & set(new)):
    if old[name] == new[name]:
      continue
    if name in _TRAINING_FIELDS:
      logging.info(
        "  %s was %s in the config of this run, and is %s now.",
        name,
        old[name],
        new[name],
      )
    else:
      differing.append(f"{name} is {old[name]} there, but {new[name]} here")
  if differing:
    raise UserError(
      f"--output_dir={output_dir} holds a model with another config: "
      f"{'; '.join(differing)}. Choose another --output_dir, or pass the "
      "config of that run."
    )


def fingerprint_files(paths: Iterable[str]) -> dict[str, str]:
  """Returns path -> fingerprint of the file, from its size and beginning.

  Files of terabytes are told apart quickly, not with certainty.
  """
  paths = list(paths)
  with futures.ThreadPoolExecutor(_NUM_READERS) as pool:
    return dict(zip(paths, pool.map(_fingerprint, paths), strict=True))


def _fingerprint(path: str) -> str:
  with tf.io.gfile.GFile(path, "rb") as file:
    beginning = file.read(_FINGERPRINT_BYTES)
    return f"{file.size()}-{zlib.crc32(beginning):08x}"


def describe_other_files(
  old: Mapping[str, str], new: Mapping[str, str]
) -> str | None:
  """Returns a text that names data files which a run was not trained on.

  A file that was moved or renamed is the same file.

  Args:
    old: Path -> fingerprint of the files it was trained on; empty if they are
      not known.
    new: Path -> fingerprint of the files that are given now.

  Returns:
    The text, or None if the run was trained on these files.
  """
  if not old:
    return None
  known = set(old.values())
  others = [path for path, mark in new.items() if mark not in known]
  if not others:
    return None
  names = ", ".join(map(os.path.basename, others[:_NUM_SHOWN]))
  if len(others) == 1:
    return f"{names} is not a file that this run was trained on so far."
  more = len(others) - _NUM_SHOWN
  if more > 0:
    names += f" and {more} more"
  return f"{names} are not files that this run was trained on so far."
