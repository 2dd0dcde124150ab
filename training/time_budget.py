"""The number of steps that fits into a time: `--train_hours`.

The speed of a run is measured with steps whose weights are thrown away, because
the learning rate of the very first step depends on the number of the last one.
The number is then stored in the folder of the run. A run that resumes reads it
there, and therefore ends with the same weights as one without an interruption.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
import os
import time
from typing import NamedTuple

from absl import logging
import tensorflow as tf

from data import file_io
from errors import UserError

_FILE = "time_budget.json"
SECONDS_PER_HOUR = 3600.0
# Share of the budget, and number of steps at least, to measure the speed with.
_MEASURED_SHARE = 0.01
_LEAST_STEPS = 3
# Share of the steps in which the learning rate rises, by default.
WARMUP_SHARE = 0.1


class StepTimes(NamedTuple):
  """Measured duration of the steps of a run.

  Attributes:
    seconds_to_start: Time from the call of `train` until the first step begins:
      tracing, compiling, reading the first batch.
    seconds_per_step: Mean time of a step.
  """

  seconds_to_start: float
  seconds_per_step: float


class StepTimer:
  """Measures steps until enough time has passed; an observer of `train`."""

  def __init__(
    self, seconds: float, clock: Callable[[], float] = time.monotonic
  ):
    """Starts the clock.

    Args:
      seconds: How long to measure after the first call of the graph.
      clock: Returns the time in seconds.
    """
    self._seconds = seconds
    self._clock = clock
    self._start = clock()
    self._first_end = 0.0  # of the first call of the graph
    self._first_step = 0  # number of steps of the first call
    self._last_end = 0.0
    self._last_step = 0

  def __call__(self, step: int, unused_report: object) -> bool:
    """Notes the end of a call, and returns whether to stop."""
    now = self._clock()
    if not self._first_step:
      self._first_end, self._first_step = now, step
    self._last_end, self._last_step = now, step
    num_measured = step - self._first_step
    has_time_passed = now - self._first_end >= self._seconds
    return has_time_passed and num_measured >= _LEAST_STEPS

  def times(self) -> StepTimes:
    """Returns what was measured; at least two calls must have been noted."""
    num_steps = self._last_step - self._first_step
    seconds_per_step = (self._last_end - self._first_end) / num_steps
    first_seconds = self._first_end - self._start
    seconds_to_start = first_seconds - self._first_step * seconds_per_step
    return StepTimes(max(seconds_to_start, 0.0), seconds_per_step)


@dataclasses.dataclass(frozen=True)
class TimeBudget:
  """Length of a run that `--train_hours` was translated to.

  Attributes:
    train_hours: The time that was given.
    num_train_steps: Number of steps that fit into it.
    num_warmup_steps: Number of steps in which the learning rate rises.
  """

  train_hours: float
  num_train_steps: int
  num_warmup_steps: int

  def write(self, folder: str) -> None:
    """Stores the budget in the folder of a run."""
    file_io.write_json(os.path.join(folder, _FILE), dataclasses.asdict(self))


def seconds_to_measure(train_hours: float) -> float:
  """Returns how long to measure the speed of a run, in seconds."""
  return train_hours * SECONDS_PER_HOUR * _MEASURED_SHARE


def read(folder: str, train_hours: float, has_steps: bool) -> TimeBudget | None:
  """Returns the budget of an earlier run in a folder, or None.

  Args:
    folder: Folder of the run.
    train_hours: Value of the flag, which the budget must have.
    has_steps: Whether the folder has a checkpoint of the run.

  Raises:
    UserError: The run was begun with another time or with a number of steps, or
      the file is damaged.
  """
  path = os.path.join(folder, _FILE)
  if not tf.io.gfile.exists(path):
    if has_steps:
      raise UserError(
        f"--train_hours={train_hours:g}: the run in --output_dir={folder} was "
        "begun with a number of steps. Pass its --num_train_steps to continue, "
        "or --restart to begin again."
      )
    return None
  fields = file_io.read_json(path)
  names = {field.name for field in dataclasses.fields(TimeBudget)}
  if set(fields) != names or not _is_budget(**fields):
    raise UserError(
      f"{path} is damaged. Pass --num_train_steps, which the log of the run "
      "names, in place of --train_hours; or --restart to begin again."
    )
  budget = TimeBudget(**fields)
  if budget.train_hours != train_hours:
    raise UserError(
      f"--train_hours={train_hours:g}: the run in --output_dir={folder} was "
      f"begun with --train_hours={budget.train_hours:g}. Pass that to "
      "continue, or --restart to begin again."
    )
  return budget


def _is_budget(
  train_hours: object, num_train_steps: object, num_warmup_steps: object
) -> bool:
  """Returns whether the fields of a file have values of the right kind."""
  # `type` and not `isinstance`, because a bool is also an int.
  if type(train_hours) not in (int, float):
    return False
  if type(num_train_steps) is not int or num_train_steps < 1:
    return False
  return type(num_warmup_steps) is int and num_warmup_steps >= 0


def plan(
  train_hours: float,
  seconds_used: float,
  parts: Sequence[tuple[StepTimes, float]],
  num_warmup_steps: int | None,
) -> TimeBudget:
  """Returns the number of steps that fits into the rest of a time.

  Args:
    train_hours: Time of the run in hours, from the start of the program to the
      last step.
    seconds_used: Time since the start of the program.
    parts: Measured times of each part of the run, and the share of the steps
      that belongs to it. The shares sum to 1.
    num_warmup_steps: Number of steps of the warm-up; None for a tenth of all.

  Raises:
    UserError: The time is too short for the start, or for the warm-up.
  """
  seconds_left = train_hours * SECONDS_PER_HOUR - seconds_used
  seconds_per_step = 0.0
  for times, share in parts:
    seconds_left -= times.seconds_to_start
    seconds_per_step += share * times.seconds_per_step
  num_train_steps = int(max(seconds_left, 0.0) / seconds_per_step)
  if num_warmup_steps is None:
    num_warmup_steps = int(num_train_steps * WARMUP_SHARE)
  if num_train_steps <= max(num_warmup_steps, 1):
    raise UserError(
      f"--train_hours={train_hours:g} is too short: starting takes "
      f"{train_hours * SECONDS_PER_HOUR - seconds_left:.0f} s, a step "
      f"{seconds_per_step:.2g} s, so that there is time for {num_train_steps} "
      f"steps, {num_warmup_steps} of them warm-up. Give more time, fewer "
      "--num_warmup_steps, a smaller model or smaller batches."
    )
  logging.info(
    "--train_hours=%g: a step takes %.3g s. This run is reproduced by "
    "--num_train_steps=%d --num_warmup_steps=%d.",
    train_hours,
    seconds_per_step,
    num_train_steps,
    num_warmup_steps,
  )
  return TimeBudget(train_hours, num_train_steps, num_warmup_steps)
