"""The training data of a run, from where its last checkpoint left off."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import inspect
import json

from absl import logging
import tensorflow as tf

from data import batching
from data import input_shares
from training import devices as devices_lib
from training import run_state

# (params) or (params, share) -> Dataset of batches.
InputFn = Callable[..., tf.data.Dataset]


@tf.autograph.experimental.do_not_convert
def resume_training_data(
  input_fn: InputFn,
  params: Mapping[str, object],
  batch_size: int,
  step: int,
  state: run_state.RunState,
  first_step: int = 0,
  share: input_shares.InputShare = input_shares.WHOLE,
) -> tf.data.Dataset:
  """Returns a dataset of (features, input position of the next batch).

  The features are those of the rows of one machine. The dataset begins at
  `state.input_position`, or at the same place in the data if the checkpoint has
  none. The state gets the position and the batch size.

  Args:
    input_fn: See `TPUEstimator.train`.
    params: Parameters for `input_fn`.
    batch_size: Examples per step, of all machines together.
    step: Number of steps that the run has made so far.
    state: State of the run.
    first_step: Step at which the run begins to read these data. If the state
      has another one, its position belongs to other data and is not used.
    share: Which machine this is.
  """
  if state.input_first_step != first_step:
    state.input_first_step = first_step
    state.input_position = None
    state.train_batch_size = None
    step = first_step
  step -= first_step
  params = {
    **params,
    "batch_size": batch_size,
    batching.INPUT_POSITION: state.input_position,
  }
  if accepts_share(input_fn):
    dataset = input_fn(params, share=share)
  else:
    dataset = _take_rows(input_fn(params), share)
  if batching.INPUT_POSITION in dataset.element_spec:
    dataset = _take_position_from_features(dataset, step, state)
  else:
    dataset = _count_batches(dataset, batch_size, step, state)
  state.train_batch_size = batch_size
  return dataset


def accepts_share(input_fn: InputFn) -> bool:
  """Returns whether an `input_fn` can make the share of one machine alone."""
  return "share" in inspect.signature(input_fn).parameters


def gather_positions(
  position: list[int] | None, devices: devices_lib.Devices
) -> list[int] | None:
  """Returns the input position of all machines. Every machine must call this.

  Args:
    position: Input position of this machine; None if there is none.
    devices: Gathers the positions.

  Returns:
    The position, if that of all machines is the same. Otherwise their
    positions, one after the other.
  """
  content = json.dumps(position).encode()
  positions = [
    json.loads(part) for part in devices.gather_from_workers(content)
  ]
  if all(other == position for other in positions):
    return position
  return [number for numbers in positions for number in numbers]


def _take_rows(dataset, share):
  """Returns the rows of one machine of each batch of all machines."""
  if share.num_machines == 1:
    return dataset

  def slice_features(features):
    features = dict(features)
    position = features.pop(batching.INPUT_POSITION, None)
    rows = devices_lib.slice_rows(features, share.machine, share.num_machines)
    if position is not None:
      rows[batching.INPUT_POSITION] = position
    return rows

  return dataset.map(slice_features)


def _take_position_from_features(dataset, step, state):
  """Moves the input position out of the features."""
  if state.input_position is None:
    # The checkpoint does not say where it stopped, so its steps are skipped.
    position_spec = dataset.element_spec[batching.INPUT_POSITION]
    dataset = dataset.skip(step)
    state.input_position = [0] * position_spec.shape[0]

  def split_position(features):
    features = dict(features)
    position = features.pop(batching.INPUT_POSITION)
    return features, position

  return dataset.map(split_position)


def _count_batches(dataset, batch_size, step, state):
  """Adds the number of batches read so far, and skips those read before."""
  num_read = state.input_position[0] if state.input_position else step
  old_batch_size = state.train_batch_size or batch_size
  if old_batch_size != batch_size:
    num_read = num_read * old_batch_size // batch_size
    logging.warning(
      "--train_batch_size was %d and is %d now: training resumes at about the "
      "same place in the data.",
      old_batch_size,
      batch_size,
    )
  state.input_position = [num_read]

  def add_position(number, features):
    return features, number[tf.newaxis]

  # After the first batch, one more has been read than before, and so on.
  rest = dataset.skip(num_read)
  return rest.enumerate(num_read + 1).map(add_position)


def disable_autotune(dataset: tf.data.Dataset) -> tf.data.Dataset:
  """Returns a dataset whose parallel stages use all cores from the start.

  The thread that would tune them sleeps for up to a minute at a time, and
  destroying an iterator often has to wait until it wakes up.
  """
  options = tf.data.Options()
  options.autotune.enabled = False
  return dataset.with_options(options)
