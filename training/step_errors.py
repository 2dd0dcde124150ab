"""Errors of training steps, explained to the user."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import contextlib

import numpy as np
import tensorflow as tf

from errors import UserError
from training import training_step

_LONGEST_SHOWN = 200
# Lines of TensorFlow's messages that say where in the graph an error occurred.
_LINES_OF_GRAPH = ("Graph execution", "Detected at", "<stack", " ")
# Errors that workers report when they lose another worker.
_LOST_WORKER_ERRORS = (
  tf.errors.UnavailableError,
  tf.errors.AbortedError,
  tf.errors.CancelledError,
  tf.errors.InternalError,
  tf.errors.DeadlineExceededError,
)

# Waits until all checkpoints are written; returns the newest one, or None.
NewestCheckpoint = Callable[[], str | None]


@contextlib.contextmanager
def explain_errors(
  step: int,
  train_batch_size: int,
  num_workers: int,
  newest_checkpoint: NewestCheckpoint,
) -> Iterator[None]:
  """Turns errors of TensorFlow in a step into advice for the user.

  Args:
    step: Number of steps made before.
    train_batch_size: Examples per step.
    num_workers: Number of machines that train together.
    newest_checkpoint: See `NewestCheckpoint`.

  Raises:
    UserError: Memory or the data ran out, or another worker was lost.
  """
  try:
    yield
  except (tf.errors.ResourceExhaustedError, MemoryError) as error:
    raise UserError(
      f"Memory ran out in the steps after step {step}, with "
      f"--train_batch_size={train_batch_size}. These help, the cheapest "
      "first: a larger --gradient_accumulation_steps (same result, smaller "
      "parts), --precision=bfloat16, --recompute_activations, a smaller "
      f"--max_seq_length or --train_batch_size. TensorFlow says: "
      f"{_cause_of(error)}"
    ) from error
  except tf.errors.OpError as error:
    is_end_of_data = isinstance(error, tf.errors.OutOfRangeError)
    if is_end_of_data or "infinite number of elements" in str(error):
      raise UserError(
        f"The training data ended after step {step}; the input_fn must repeat "
        "them."
      ) from error
    with explain_lost_workers(num_workers, newest_checkpoint):
      raise


@contextlib.contextmanager
def explain_lost_workers(
  num_workers: int, newest_checkpoint: NewestCheckpoint
) -> Iterator[None]:
  """Turns errors of the communication between workers into advice.

  Args:
    num_workers: Number of machines that work together.
    newest_checkpoint: See `NewestCheckpoint`.

  Raises:
    UserError: Another worker was lost.
  """
  try:
    yield
  except _LOST_WORKER_ERRORS as error:
    if num_workers == 1:
      raise
    newest = newest_checkpoint() or "the start"
    raise UserError(
      "The connection to another machine of TF_CONFIG was lost. Start all "
      f"machines again: they resume from {newest}. TensorFlow says: "
      f"{_cause_of(error)}"
    ) from error


def _cause_of(error: Exception) -> str:
  """Returns the line of a TensorFlow error that says what happened."""
  for line in str(error).splitlines():
    if line and not line.startswith(_LINES_OF_GRAPH):
      return line[:_LONGEST_SHOWN]
  return type(error).__name__


def nonfinite_step_error(
  report: training_step.StepReport,
  is_bad: np.ndarray,
  step: int,
  newest_checkpoint: NewestCheckpoint,
) -> UserError:
  """Returns the error for steps whose loss or gradient is not finite.

  Args:
    report: Report of the steps.
    is_bad: Whether each step is bad, bool [num_steps]; at least one is.
    step: Number of steps made before.
    newest_checkpoint: See `NewestCheckpoint`.
  """
  first = int(np.argmax(is_bad))
  loss = report.loss[first]
  problem = f"loss is {loss}"
  if np.isfinite(loss):
    problem = f"norm of the gradients is {report.gradient_norm[first]}"
  newest = newest_checkpoint()
  saved = "No checkpoint had been saved."
  if newest:
    saved = f"The last good checkpoint is {newest}."
  return UserError(
    f"The {problem} at step {step + 1 + first}. {saved} Try a lower "
    "--learning_rate, more warm-up, or --precision=float32; "
    "--skip_nonfinite_steps skips such steps."
  )
