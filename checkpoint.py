"""Reads and writes weights by name.

A checkpoint has the format of released ones: a name-based TensorFlow file, in
which every tensor has the name of its variable. Training checkpoints also hold
the slots of the optimizer, such as `<name>/adam_m`, and `global_step`. Files of
PyTorch transformers are read as if they held the released names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent import futures
import json
import os
from typing import Any

from absl import logging
import numpy as np
import tensorflow as tf

from data import checkpoint_folder
from data import file_io
from data import model_garden
from data import transformers_format
from errors import UserError
import heads
import optimization

# The last part of the names in a training checkpoint that are not weights.
_TRAINING_NAMES = {*optimization.SLOT_NAMES, "global_step"}
_DIFFERENCES_SHOWN = 4


def variables_by_name(module: tf.Module) -> dict[str, tf.Variable]:
  """Returns released name -> variable, for all variables of a module."""
  return {
    variable.name.split(":")[0]: variable for variable in module.variables
  }


def remove_training_names(names: Iterable[str]) -> list[str]:
  """Returns the names of weights, sorted, without those of an optimizer."""
  weights = []
  for name in names:
    last_part = name.split("/")[-1]
    if last_part not in _TRAINING_NAMES:
      weights.append(name)
  return sorted(weights)


# --- Reading -----------------------------------------------------------------


class TensorFlowReader:
  """Weights in a name-based TensorFlow checkpoint.

  Attributes:
    shapes: Name -> shape.
  """

  def __init__(self, prefix: str, place: str):
    """Opens a checkpoint.

    Args:
      prefix: Prefix of its files.
      place: Flag and path that the user gave, for error messages.

    Raises:
      UserError: It cannot be read.
    """
    self._place = place
    try:
      self._reader = tf.train.load_checkpoint(prefix)
    except (tf.errors.OpError, RuntimeError, IndexError, ValueError) as error:
      raise UserError(
        f"{place} cannot be read: {error}. Are its files complete?"
      ) from error
    shapes = self._reader.get_variable_to_shape_map()
    self.shapes: dict[str, tuple[int, ...]] = {
      name: tuple(shape) for name, shape in shapes.items()
    }

  def get_tensor(self, name: str) -> np.ndarray:
    """Returns the tensor of a name.

    Raises:
      UserError: It cannot be read, or is no array of numbers.
    """
    try:
      tensor = self._reader.get_tensor(name)
    except (tf.errors.OpError, RuntimeError, IndexError) as error:
      raise UserError(
        f"{self._place}: {name} cannot be read: {error}. Is the file complete?"
      ) from error
    if tensor.dtype == object:
      raise UserError(f"{self._place}: {name} holds text, not numbers.")
    return tensor


Reader = (
  TensorFlowReader
  | model_garden.ModelGardenReader
  | transformers_format.TransformersReader
)


def find_weights(path: str, flag: str = "--init_checkpoint") -> str:
  """Returns the prefix, or the file, of the weights that a path stands for.

  Args:
    path: Prefix of a TensorFlow checkpoint (`.../bert_model.ckpt`); one of its
      files (`.../bert_model.ckpt.index`); a file of PyTorch transformers; or a
      folder, which stands for the newest checkpoint of a run, its only
      checkpoint, or its weights of PyTorch transformers.
    flag: Flag that the user gave the path with, for error messages.

  Raises:
    UserError: A folder has no weights, or several.
  """
  if not tf.io.gfile.isdir(path):
    return checkpoint_folder.remove_file_suffix(path)
  prefix = checkpoint_folder.find_weights(path, flag)
  if prefix:
    return prefix
  file = transformers_format.find_weights(path)
  if file:
    return file
  raise UserError(
    f"{flag}={path} is a folder without weights: it has no checkpoint, such as "
    "bert_model.ckpt.index and bert_model.ckpt.data-00000-of-00001, and no "
    f"{', '.join(transformers_format.WEIGHTS_NAMES)}."
  )


def open_checkpoint(path: str, flag: str = "--init_checkpoint") -> Reader:
  """Opens weights for reading.

  Args:
    path: See `find_weights`.
    flag: Flag that the user gave the path with, for error messages.

  Raises:
    UserError: There is no checkpoint, or it cannot be read.
  """
  given, path = path, find_weights(path, flag)
  if transformers_format.is_transformers_file(path):
    if not os.path.exists(path):
      raise UserError(f"{flag}={given} does not exist.")
    return transformers_format.TransformersReader(
      path, heads.TRANSFORMERS_NAMES
    )
  if not tf.io.gfile.exists(path + ".index"):
    raise UserError(
      f"{flag}={given}: there is no {path}.index. Give the part of the file "
      "names before `.index` and `.data-00000-of-00001`, or the folder."
    )
  reader = TensorFlowReader(path, f"{flag}={given}")
  if model_garden.OBJECT_GRAPH in reader.shapes:
    garden_reader = model_garden.ModelGardenReader(reader)
    if garden_reader.shapes:
      return garden_reader
  return reader


def list_files(path: str) -> list[str]:
  """Returns files that differ whenever weights do.

  Args:
    path: See `find_weights`.
  """
  path = find_weights(path)
  if transformers_format.is_transformers_file(path):
    return transformers_format.list_files(path)
  # The index of a checkpoint has a checksum of each tensor.
  return [path + ".index"]


def restore(
  variables: Mapping[str, tf.Variable],
  path: str,
  flag: str = "--init_checkpoint",
) -> None:
  """Sets variables to the tensors of the same names, and logs what matched.

  All variables of the encoder must match, but those of a pooler only if the
  checkpoint has one. Any other variable that is missing in the checkpoint, or
  has another shape there, belongs to a new head and keeps its value.

  Args:
    variables: Released name -> variable.
    path: See `open_checkpoint`.
    flag: Flag that the user gave the path with, for error messages.

  Raises:
    UserError: The encoder is incomplete or has other shapes.
  """
  reader = open_checkpoint(path, flag)
  place = f"{flag}={path}"
  needed = [
    name
    for name in variables
    if name.startswith(transformers_format.ENCODER_PREFIX)
  ]
  if not heads.has_pooler(reader.shapes):
    needed = heads.remove_pooler(needed)
  _check_fit({name: variables[name] for name in needed}, reader, place)
  matched, new = {}, []
  for name, variable in variables.items():
    if reader.shapes.get(name) == tuple(variable.shape):
      matched[name] = variable
    else:
      new.append(name)
  _assign(matched, reader, place)
  logging.info(
    "%s: %d of the model's %d variables restored.",
    place,
    len(matched),
    len(variables),
  )
  if new:
    logging.info(
      "  not in the checkpoint, newly initialized: %s", ", ".join(sorted(new))
    )
  unused = [
    name
    for name in remove_training_names(reader.shapes)
    if name not in variables
  ]
  if unused:
    logging.info("  in the checkpoint, not in the model: %s", ", ".join(unused))


def restore_all(
  variables: Mapping[str, tf.Variable], path: str, flag: str
) -> None:
  """Sets variables like `restore`, but requires that all of them match.

  Raises:
    UserError: A variable is missing or has another shape.
  """
  reader = open_checkpoint(path, flag)
  _check_fit(variables, reader, f"{flag}={path}")
  _assign(variables, reader, f"{flag}={path}")


def _check_fit(
  variables: Mapping[str, tf.Variable], reader: Reader, place: str
) -> None:
  """Checks that a checkpoint has variables in the right shapes.

  Raises:
    UserError: A variable is missing or has another shape.
  """
  missing = sorted(name for name in variables if name not in reader.shapes)
  if missing:
    missing_names = checkpoint_folder.show_names(missing)
    present_names = checkpoint_folder.show_names(sorted(reader.shapes))
    raise UserError(
      f"{place} lacks {len(missing)} of the {len(variables)} variables that "
      f"are needed, such as {missing_names}. It holds {present_names}. Does it "
      "belong to another model or to another config?"
    )
  differences = []
  for name, variable in sorted(variables.items()):
    saved, needed = list(reader.shapes[name]), variable.shape.as_list()
    if saved != needed:
      differences.append(
        f"{name} is {saved} in the checkpoint and {needed} in the model"
      )
  if differences:
    shown = "; ".join(differences[:_DIFFERENCES_SHOWN])
    raise UserError(
      f"{place} does not fit the model: {len(differences)} variables have "
      f"other shapes. {shown}. Use the "
      "--bert_config_file that belongs to the checkpoint, or another "
      "checkpoint."
    )


def _assign(
  variables: Mapping[str, tf.Variable], reader: Reader, place: str
) -> None:
  """Sets variables to the tensors of a checkpoint."""
  for name, variable in variables.items():
    tensor = reader.get_tensor(name)
    if not np.all(np.isfinite(tensor)):
      raise UserError(
        f"{place}: {name} has values that are not finite. The training that "
        "saved it failed, or the file is damaged. Use another checkpoint."
      )
    variable.assign(tensor.astype(variable.dtype.as_numpy_dtype))


# --- Writing -----------------------------------------------------------------


def write(prefix: str, tensors: Mapping[str, Any]) -> None:
  """Writes a name-based checkpoint, completely or not at all.

  A checkpoint exists when its `.index` file does. The files are written in a
  temporary folder, forced to the disk and renamed, the index last. An older
  index of the same name is removed first, so that it never belongs to other
  data.

  Args:
    prefix: Path without `.index` and `.data-00000-of-00001`.
    tensors: Name -> Tensor, variable or NumPy array.

  Raises:
    UserError: The files cannot be written.
  """
  names = sorted(tensors)
  target_dir, checkpoint_name = os.path.split(prefix)
  with file_io.temporary_folder(prefix) as folder:
    part = os.path.join(folder, "part")
    tf.raw_ops.SaveV2(
      prefix=part,
      tensor_names=names,
      shape_and_slices=[""] * len(names),
      tensors=[tf.convert_to_tensor(tensors[name]) for name in names],
    )
    tf.raw_ops.MergeV2Checkpoints(
      checkpoint_prefixes=[part],
      destination_prefix=os.path.join(folder, checkpoint_name),
      delete_old_dirs=False,
    )
    file_io.sync_tree(folder)
    files = sorted(tf.io.gfile.listdir(folder))
    file_io.remove_existing_files([prefix + ".index"])
    for file in files:  # `.data-...` comes before `.index`
      # A remote file system also lists the parts in the folder.
      if checkpoint_folder.is_file_of(file, checkpoint_name):
        source = os.path.join(folder, file)
        target = os.path.join(target_dir, file)
        tf.io.gfile.rename(source, target, overwrite=True)
    file_io.sync_folder(target_dir)


def write_transformers(path: str, tensors: Mapping[str, np.ndarray]) -> None:
  """Writes a safetensors file that PyTorch transformers loads.

  Args:
    path: Path of the file, on this machine.
    tensors: Released name -> array.
  """
  transformers_format.write_weights(path, tensors, heads.TRANSFORMERS_NAMES)


# --- The checkpoints of a run ------------------------------------------------


def save(
  model_dir: str,
  step: int,
  tensors: Mapping[str, Any],
  keep_checkpoint_max: int,
  state: Mapping[str, object],
) -> str:
  """Writes `model.ckpt-<step>` and makes it the newest of `model_dir`.

  If there is one of this step, it has the same tensors, and its files stay:
  overwriting the newest checkpoint could lose it.

  Args:
    model_dir: Folder of the run.
    step: Number of steps made so far.
    tensors: Name -> Tensor or variable, all weights that the run needs.
    keep_checkpoint_max: Number of checkpoints to keep; older ones are deleted.
      0 to keep all.
    state: Further state of the run, as JSON. `read_state` returns it.

  Returns:
    The prefix of the checkpoint.

  Raises:
    UserError: The files cannot be written.
  """

  def write_files(prefix: str, is_listed: bool) -> None:
    exists = is_listed and tf.io.gfile.exists(prefix + ".index")
    if not exists:
      write(prefix, tensors)
    file_io.write_json(prefix + ".json", state)

  prefix = os.path.join(model_dir, checkpoint_folder.name_of_step(step))
  try:
    checkpoint_folder.add_checkpoint(
      model_dir, step, keep_checkpoint_max, write_files
    )
  except (OSError, tf.errors.OpError, UserError) as error:
    reason = getattr(error, "message", error)
    raise UserError(
      f"The checkpoint {prefix} cannot be written: {reason}. Make room or give "
      "access, and run the same command again: it continues from "
      f"{_latest_or_start(model_dir)}."
    ) from error
  logging.info("Saved %s.", prefix)
  return prefix


def _latest_or_start(model_dir: str) -> str:
  """Returns where a run will resume, for a message about another error."""
  try:
    return checkpoint_folder.find_latest(model_dir) or "the start"
  except (UserError, tf.errors.OpError, OSError):
    return "the start"


def read_state(prefix: str) -> dict[str, Any]:
  """Returns the `state` that `save` was given; empty if there is none.

  Raises:
    UserError: The file is damaged.
  """
  path = prefix + ".json"
  if not tf.io.gfile.exists(path):
    return {}
  try:
    return file_io.read_json(path)
  except UserError as error:
    raise UserError(
      f"{error} The weights next to it are not affected. Delete it, and the "
      "run continues from them; its place in the data is then found by "
      "counting."
    ) from error


class BackgroundWriter:
  """Writes checkpoints in order while training continues.

  A context manager; it waits for the last checkpoint when it ends.
  """

  def __init__(self) -> None:
    self._thread = futures.ThreadPoolExecutor(max_workers=1)
    self._pending: futures.Future | None = None

  def save(
    self,
    model_dir: str,
    step: int,
    variables: Mapping[str, tf.Variable],
    keep_checkpoint_max: int,
    state: Mapping[str, object],
  ) -> None:
    """Takes the present values and starts to write them, as `save` does.

    Raises:
      UserError: The checkpoint before this one could not be written.
    """
    self.wait()
    # On a CPU this copies nothing: an update that finds the old value in use
    # writes the new one to another place.
    with tf.device("CPU:0"):
      snapshot = {
        name: tf.identity(variable) for name, variable in variables.items()
      }
    # Training changes the state while the copy is written.
    state_copy = json.loads(json.dumps(state))
    self.start(save, model_dir, step, snapshot, keep_checkpoint_max, state_copy)

  def start(self, function: Callable[..., Any], *arguments: Any) -> None:
    """Calls a function in the background, after everything started before.

    Raises:
      UserError: Something that was started before failed.
    """
    self.wait()
    self._pending = self._thread.submit(function, *arguments)

  def wait(self) -> None:
    """Returns when everything is written.

    Raises:
      UserError: It could not be written.
    """
    if self._pending:
      pending, self._pending = self._pending, None
      pending.result()

  def __enter__(self) -> BackgroundWriter:
    return self

  def __exit__(self, exception_type, exception, traceback) -> None:
    try:
      self.wait()
    except UserError:
      if exception is None:
        raise
      logging.exception("A checkpoint was lost before the error that follows.")
    finally:
      self._thread.shutdown()
