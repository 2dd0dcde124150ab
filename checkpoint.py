"""Reads and writes weights by name.

A checkpoint is what BERT's always were: a name-based TensorFlow file in which
every tensor stands under the name of its variable. Training checkpoints hold
`<name>/adam_m`, `<name>/adam_v` and `global_step` as well. Files of PyTorch
transformers, in the safetensors format or PyTorch's own, are read as if they
held the released names, and the former are written, too.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent import futures
import json
import os
import re
import reprlib

from absl import logging
import numpy as np
import tensorflow as tf

from data import file_io
from data import pytorch_checkpoint
from data import safetensors_checkpoint
from errors import UserError
import heads

# What a training checkpoint holds beside weights.
_TRAINING_ONLY = re.compile(r"(^|/)(adam_m|adam_v|global_step)$")
# The encoder, which has to be found whole; heads may be new.
_ENCODER_PREFIX = "bert/"
_NAMES_SHOWN = 4


def variables_by_name(module: tf.Module) -> dict[str, tf.Variable]:
  """Returns released name -> variable, for all variables of a module."""
  return {
    variable.name.split(":")[0]: variable for variable in module.variables
  }


# --- Reading -----------------------------------------------------------------


class _TensorFlowReader:
  """A name-based TensorFlow checkpoint."""

  def __init__(self, prefix: str, place: str):
    """Opens it.

    Args:
      prefix: of its files.
      place: what the user gave, for error messages.

    Raises:
      UserError: it cannot be read.
    """
    self._place = place
    try:
      self._reader = tf.train.load_checkpoint(prefix)
    except (tf.errors.OpError, RuntimeError, IndexError, ValueError) as error:
      raise UserError(
        f"{place} cannot be read: {error}. Are its files whole?"
      ) from error
    self.shapes = {
      name: tuple(shape)
      for name, shape in self._reader.get_variable_to_shape_map().items()
    }

  def get_tensor(self, name: str) -> np.ndarray:
    try:
      tensor = self._reader.get_tensor(name)
    except (tf.errors.OpError, RuntimeError, IndexError) as error:
      raise UserError(
        f"{self._place}: {name} cannot be read: {error}. Is the file whole?"
      ) from error
    if tensor.dtype == object:
      raise UserError(f"{self._place}: {name} holds text, not numbers.")
    return tensor


# PyTorch transformers' names, after dots became slashes, to released names.
_RENAMES_IN = (
  (r"^(embeddings|encoder|pooler)/", r"bert/\1/"),
  (r"/layer/(\d+)/", r"/layer_\1/"),
  (r"_embeddings/weight$", "_embeddings"),
  (r"LayerNorm/weight$", "LayerNorm/gamma"),
  (r"LayerNorm/bias$", "LayerNorm/beta"),
  (r"/weight$", "/kernel"),
)
# And back. The names of output layers follow no rule; `heads` lists them.
_RENAMES_OUT = (
  (r"/layer_(\d+)/", r"/layer/\1/"),
  (r"_embeddings$", "_embeddings/weight"),
  (r"/(gamma|kernel)$", "/weight"),
  (r"/beta$", "/bias"),
)
# Copies of other tensors, and constants.
_REDUNDANT = re.compile(
  r"^cls\.predictions\.decoder\.|\.?embeddings\.(position|token_type)_ids$"
)


class _TransformersReader:
  """A file with the names of PyTorch transformers."""

  def __init__(
    self,
    path: str,
    shapes: Mapping[str, Sequence[int]],
    tensor_of: Callable[[str], np.ndarray],
  ):
    """Finds out which tensor is which.

    Args:
      path: of the file, for error messages.
      shapes: its name -> shape.
      tensor_of: returns the tensor of a name of the file.

    Raises:
      UserError: two names of the file stand for the same variable.
    """
    self._names = {}
    self._tensor_of = tensor_of
    self.shapes = {}
    for theirs, shape in shapes.items():
      if _REDUNDANT.search(theirs):
        continue
      name = _released_name(theirs)
      if name in self._names:
        raise UserError(
          f"{path} holds two tensors for one variable: "
          f"{self._names[name][:80]!r} and {theirs[:80]!r}. Delete one."
        )
      self._names[name] = theirs
      # Their dense layers multiply from the other side.
      self.shapes[name] = (
        tuple(shape[::-1]) if name.endswith("/kernel") else tuple(shape)
      )

  @classmethod
  def open(cls, path: str) -> "_TransformersReader":
    if path.endswith(".bin"):
      tensors = pytorch_checkpoint.read(path)
      shapes = {name: tensor.shape for name, tensor in tensors.items()}
      return cls(path, shapes, tensors.__getitem__)
    file = safetensors_checkpoint.File(path)
    return cls(path, file.shapes, file.get_tensor)

  def get_tensor(self, name: str) -> np.ndarray:
    tensor = self._tensor_of(self._names[name])
    return tensor.T if name.endswith("/kernel") else tensor


_HEAD_NAMES = {
  theirs: ours for ours, theirs in heads.TRANSFORMERS_NAMES.items()
}


def _released_name(theirs: str) -> str:
  """Returns the released name of a variable of PyTorch transformers."""
  if theirs in _HEAD_NAMES:
    return _HEAD_NAMES[theirs]
  return _renamed(theirs.replace(".", "/"), _RENAMES_IN)


def _transformers_name(name: str) -> str:
  """Returns the name in PyTorch transformers of a released variable."""
  if name in heads.TRANSFORMERS_NAMES:
    return heads.TRANSFORMERS_NAMES[name]
  return _renamed(name, _RENAMES_OUT).replace("/", ".")


def _renamed(name: str, renames) -> str:
  for pattern, replacement in renames:
    name = re.sub(pattern, replacement, name)
  return name


def open_checkpoint(path: str, flag: str = "--init_checkpoint"):
  """Opens weights for reading.

  Args:
    path: the prefix of a TensorFlow checkpoint (`.../bert_model.ckpt`), a
      folder whose newest checkpoint is meant, or a file of PyTorch
      transformers (`.safetensors`, `pytorch_model.bin`).
    flag: what the user gave the path with, for error messages.

  Returns:
    An object with `shapes`, name -> tuple of ints, and `get_tensor(name)`.

  Raises:
    UserError: there is no checkpoint, or it cannot be read.
  """
  path = path.removesuffix(".index")
  if path.endswith((".safetensors", ".bin")):
    if not os.path.exists(path):
      raise UserError(f"{flag}={path} does not exist.")
    return _TransformersReader.open(path)
  prefix = path
  if tf.io.gfile.isdir(path):
    prefix = latest(path, flag)
    if prefix is None:
      raise UserError(
        f"{flag}={path} is a folder without a `checkpoint` file. Name the "
        "checkpoint in it, such as bert_model.ckpt."
      )
  if not tf.io.gfile.exists(prefix + ".index"):
    raise UserError(
      f"{flag}={path}: there is no {prefix}.index. Give the part of the "
      "file names before `.index` and `.data-00000-of-00001`."
    )
  return _TensorFlowReader(prefix, f"{flag}={path}")


def without_training_state(names: Iterable[str]) -> list[str]:
  """Returns the names of weights, sorted, without those of an optimizer."""
  return sorted(name for name in names if not _TRAINING_ONLY.search(name))


def restore(
  variables: Mapping[str, tf.Variable],
  path: str,
  flag: str = "--init_checkpoint",
) -> None:
  """Sets variables to the tensors of the same names, and logs what matched.

  The encoder must be found whole. Any other variable that the checkpoint does
  not have, or has in another shape, keeps its value: it is a new head.

  Args:
    variables: released name -> variable.
    path: see `open_checkpoint`.
    flag: what the user gave the path with, for error messages.

  Raises:
    UserError: the encoder is incomplete or of another shape.
  """
  reader = open_checkpoint(path, flag)
  encoder = [name for name in variables if name.startswith(_ENCODER_PREFIX)]
  _check(encoder, variables, reader, path, flag)
  matched, new = [], []
  for name in variables:
    same = reader.shapes.get(name) == tuple(variables[name].shape)
    (matched if same else new).append(name)
  _assign(matched, variables, reader, path, flag)
  logging.info(
    "%s=%s: %d of the model's %d variables restored.",
    flag,
    path,
    len(matched),
    len(variables),
  )
  if new:
    logging.info(
      "  not in the checkpoint, newly initialized: %s", ", ".join(sorted(new))
    )
  unused = [
    name
    for name in without_training_state(reader.shapes)
    if name not in variables
  ]
  if unused:
    logging.info("  in the checkpoint, not in the model: %s", ", ".join(unused))


def restore_all(
  variables: Mapping[str, tf.Variable], path: str, flag: str
) -> None:
  """Like `restore`, but every variable has to be found.

  Raises:
    UserError: a variable is missing or has another shape.
  """
  reader = open_checkpoint(path, flag)
  _check(list(variables), variables, reader, path, flag)
  _assign(list(variables), variables, reader, path, flag)


def _check(names, variables, reader, path, flag):
  """Raises a UserError unless `reader` has `names` in the right shapes."""
  missing = sorted(name for name in names if name not in reader.shapes)
  if missing:
    raise UserError(
      f"{flag}={path} lacks {len(missing)} of the {len(names)} variables "
      f"that are needed, such as {_some(missing)}. It holds "
      f"{_some(sorted(reader.shapes))}. Does it belong to another model or "
      "to another config?"
    )
  differing = sorted(
    name
    for name in names
    if reader.shapes[name] != tuple(variables[name].shape)
  )
  if differing:
    shown = "; ".join(
      f"{name} is {list(reader.shapes[name])} in the checkpoint and "
      f"{variables[name].shape.as_list()} in the model"
      for name in differing[:_NAMES_SHOWN]
    )
    raise UserError(
      f"{flag}={path} does not fit the model: {len(differing)} variables "
      f"have other shapes. {shown}. Use the --bert_config_file that belongs "
      "to the checkpoint, or another checkpoint."
    )


def _some(names: Sequence[str]) -> str:
  return ", ".join(names[:_NAMES_SHOWN]) + (
    ", ..." if len(names) > _NAMES_SHOWN else ""
  )


def _assign(names, variables, reader, path, flag):
  for name in names:
    tensor = reader.get_tensor(name)
    if not np.all(np.isfinite(tensor)):
      raise UserError(
        f"{flag}={path}: {name} has values that are not finite. "
        "The training that saved it failed, or the file is "
        "damaged. Use another checkpoint."
      )
    variables[name].assign(tensor.astype(variables[name].dtype.as_numpy_dtype))


# --- Writing -----------------------------------------------------------------


def write(prefix: str, tensors: Mapping[str, object]) -> None:
  """Writes a name-based checkpoint, whole or not at all.

  A checkpoint exists when its `.index` does. The files are written in a
  temporary folder, forced to the disk and renamed, the index last. An older
  index of the same name is removed first, so that it never stands next to
  data that it does not belong to.

  Args:
    prefix: path up to `.index` and `.data-00000-of-00001`.
    tensors: name -> Tensor, variable or NumPy array.

  Raises:
    UserError: the files cannot be written.
  """
  names = sorted(tensors)
  target_dir, name = os.path.split(prefix)
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
      destination_prefix=os.path.join(folder, name),
      delete_old_dirs=False,
    )
    file_io.sync_tree(folder)
    # A remote file system lists the parts in the folder as well.
    files = sorted(
      file for file in tf.io.gfile.listdir(folder) if _is_file_of(file, name)
    )
    file_io.remove_if_there([prefix + ".index"])
    for file in files:  # `.data-...` sorts before `.index`
      tf.io.gfile.rename(
        os.path.join(folder, file),
        os.path.join(target_dir, file),
        overwrite=True,
      )
    file_io.sync_folder(target_dir)


def _is_file_of(file: str, name: str) -> bool:
  """Whether a file name is one of those of the checkpoint `name`."""
  return (
    file.startswith(name + ".")
    and re.fullmatch(
      r"index|json|meta|data-\d{5}-of-\d{5}", file[len(name) + 1 :]
    )
    is not None
  )


# --- The checkpoints of a run ------------------------------------------------

# In the folder of a run: the list of its checkpoints, and while one is saved
# the names of those that are not listed before or after.
_LIST = "checkpoint"
_JOURNAL = "checkpoint.journal"
# What a run calls its checkpoints; nothing else is ever deleted.
_OWN_NAME = re.compile(r"model\.ckpt-(\d+)")
_LIST_LINE = re.compile(
  r"\s*(?:(model_checkpoint_path|all_model_checkpoint_paths)\s*:\s*"
  r'"((?:[^"\\]|\\.)+)"|(?:all_model_checkpoint_timestamps|'
  r"last_preserved_timestamp)\s*:\s*[-+.\deE]+)?\s*"
)


def save(
  model_dir: str,
  step: int,
  tensors: Mapping[str, object],
  keep_checkpoint_max: int,
  state: Mapping[str, object],
) -> str:
  """Writes `model.ckpt-<step>` and makes it the newest of `model_dir`.

  If there is one of this step, its tensors are the same, and stay: to write
  over the newest checkpoint could lose it.

  A journal names the checkpoint that is being written and those that will be
  deleted. If the process is killed, `finish_save` deletes what is named there
  and not listed.

  Args:
    model_dir: folder of the run.
    step: number of updates so far.
    tensors: name -> Tensor or variable, all weights that the run needs.
    keep_checkpoint_max: how many to keep; older ones are deleted. 0 for all.
    state: what else the run needs, as JSON; `read_state` gives it back.

  Returns:
    The path of the checkpoint.

  Raises:
    UserError: the files cannot be written.
  """
  name = f"model.ckpt-{step}"
  prefix = os.path.join(model_dir, name)
  try:
    listed = _read_list(model_dir)
    kept = [other for other in listed if other != name] + [name]
    expired = kept[:-keep_checkpoint_max] if keep_checkpoint_max else []
    kept = kept[len(expired) :]
    _replace_list(
      model_dir,
      kept,
      before_listing=lambda: _write_unlisted(
        prefix, tensors, state, is_listed=name in listed
      ),
      expired=expired,
      new=name,
    )
  except (OSError, tf.errors.OpError, UserError) as error:
    raise UserError(
      f"The checkpoint {prefix} cannot be written: "
      f"{getattr(error, 'message', error)}. Make room or give access, and "
      "run the same command again: it continues from "
      f"{_newest_or_none(model_dir) or 'the start'}."
    ) from error
  logging.info("Saved %s.", prefix)
  return prefix


def _write_unlisted(prefix, tensors, state, is_listed: bool) -> None:
  """Writes the files of a checkpoint, but not that it exists."""
  if not (is_listed and tf.io.gfile.exists(prefix + ".index")):
    write(prefix, tensors)
  file_io.write_json(prefix + ".json", state)


def _replace_list(
  model_dir: str,
  kept: Sequence[str],
  expired: Sequence[str],
  before_listing: Callable[[], None] = lambda: None,
  new: str | None = None,
) -> None:
  """Lists other checkpoints, and deletes those that are listed no longer.

  Args:
    model_dir: folder of the run.
    kept: names, the newest last; none to delete the list.
    expired: names to delete.
    before_listing: writes the checkpoint `new`.
    new: its name.
  """
  finish_save(model_dir)
  file_io.write_json(
    os.path.join(model_dir, _JOURNAL), [*expired, *([new] if new else [])]
  )
  before_listing()
  list_file = os.path.join(model_dir, _LIST)
  if kept:
    # A text protocol buffer. Names without folders let a run be moved. From
    # here on the checkpoint exists.
    names = [json.dumps(name) for name in kept]
    file_io.write_text(
      list_file,
      "\n".join(
        [
          f"model_checkpoint_path: {names[-1]}",
          *(f"all_model_checkpoint_paths: {name}" for name in names),
        ]
      )
      + "\n",
    )
  else:
    file_io.remove_if_there([list_file])
  finish_save(model_dir)


def finish_save(model_dir: str) -> None:
  """Completes what a process that was killed while saving had begun.

  Checkpoints that the journal names are deleted, unless they are listed. Only
  names that `save` makes are touched, and only in this folder.
  """
  file_io.remove_leftovers(model_dir)
  journal = os.path.join(model_dir, _JOURNAL)
  if not tf.io.gfile.exists(journal):
    return
  listed = _read_list(model_dir)
  for name in _journaled(model_dir):
    if name not in listed:
      _delete(model_dir, name)
  tf.io.gfile.remove(journal)


def _journaled(model_dir: str) -> list[str]:
  """Returns the names in the journal, none if it is damaged or not there."""
  journal = os.path.join(model_dir, _JOURNAL)
  if not tf.io.gfile.exists(journal):
    return []
  try:
    names = file_io.read_json(journal, list)
  except UserError as error:
    logging.warning("%s It is of no use.", error)
    return []
  return [
    name
    for name in names
    if isinstance(name, str) and _OWN_NAME.fullmatch(name)
  ]


def _being_saved(model_dir: str) -> set[str]:
  """Returns the names of checkpoints that are journaled and not listed."""
  try:
    return set(_journaled(model_dir)) - set(_read_list(model_dir))
  except UserError:
    return set(_journaled(model_dir))


def _delete(model_dir: str, name: str) -> None:
  """Deletes the files of a checkpoint, those that make it whole first."""
  files = [
    file for file in tf.io.gfile.listdir(model_dir) if _is_file_of(file, name)
  ]
  for file in sorted(files, reverse=True):
    tf.io.gfile.remove(os.path.join(model_dir, file))


def keep_only(model_dir: str, step: int) -> None:
  """Deletes all listed checkpoints of a folder but that of one step."""
  name = f"model.ckpt-{step}"
  listed = _read_list(model_dir)
  if listed not in ([], [name]) and name in listed:
    _replace_list(
      model_dir, [name], [other for other in listed if other != name]
    )


def delete_all(model_dir: str) -> None:
  """Deletes the checkpoints of a run, listed or not, so that it can restart."""
  if not tf.io.gfile.isdir(model_dir):
    return
  names = sorted(
    {
      match.group()
      for file in tf.io.gfile.listdir(model_dir)
      if (match := _OWN_NAME.match(file)) and _is_file_of(file, match.group())
    }
  )
  _replace_list(model_dir, [], names)


class BackgroundWriter:
  """Writes checkpoints while training continues, one after the other.

  A context manager; leaving it waits for the last one.
  """

  def __init__(self):
    self._thread = futures.ThreadPoolExecutor(max_workers=1)
    self._pending = None

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
      UserError: the checkpoint before this one could not be written.
    """
    self.wait()
    # On a CPU this copies nothing: an update finds the old value in use, and
    # writes the new one elsewhere.
    with tf.device("CPU:0"):
      snapshot = {
        name: tf.identity(variable) for name, variable in variables.items()
      }
    # Training changes the state while it is written.
    self.start(
      save,
      model_dir,
      step,
      snapshot,
      keep_checkpoint_max,
      json.loads(json.dumps(state)),
    )

  def start(self, function: Callable, *arguments) -> None:
    """Calls a function in the background, after all that was started before.

    Raises:
      UserError: what was started before this failed.
    """
    self.wait()
    self._pending = self._thread.submit(function, *arguments)

  def wait(self) -> None:
    """Returns when everything is written.

    Raises:
      UserError: it could not be written.
    """
    if self._pending:
      pending, self._pending = self._pending, None
      pending.result()

  def __enter__(self) -> "BackgroundWriter":
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


def _read_list(model_dir: str) -> list[str]:
  """Returns the names of the checkpoints of a run, the newest last.

  Raises:
    UserError: the list is damaged, or names a checkpoint of another folder
      that is not in this one.
  """
  path = os.path.join(model_dir, _LIST)
  if not tf.io.gfile.exists(path):
    return []
  newest, names = None, []
  for line in file_io.read_text(path).splitlines():
    match = _LIST_LINE.fullmatch(line)
    if not match:
      raise UserError(f"{path} is damaged: it has the line {line[:60]!r}")
    if match[1]:
      name = _local_name(match[2], model_dir, path)
      newest = name if match[1] == "model_checkpoint_path" else newest
      names.append(name)
  if newest is None:
    raise UserError(f"{path} is damaged: it names no checkpoint")
  return [*dict.fromkeys(name for name in names if name != newest), newest]


def _local_name(checkpoint_path: str, model_dir: str, list_file: str) -> str:
  """Returns the name of a listed checkpoint, which has to be in `model_dir`."""
  folder, name = os.path.split(checkpoint_path.replace("\\\\", "/"))
  # The folder of a run that was moved or copied is another one now.
  if (
    folder
    and not tf.io.gfile.exists(os.path.join(model_dir, name + ".index"))
    and (os.path.abspath(folder) != os.path.abspath(model_dir))
  ):
    raise UserError(
      f"{list_file} names {checkpoint_path}, which is in another folder"
    )
  return name


def latest(model_dir: str, flag: str = "--output_dir") -> str | None:
  """Returns the newest checkpoint of a run, or None if there is none.

  Args:
    model_dir: folder of the run.
    flag: what the user gave it with, for error messages.

  Raises:
    UserError: the list of checkpoints contradicts the folder. To start at step
      0 then would lose the run in silence.
  """
  # One that a killed process was still saving does not exist yet.
  present = _whole_checkpoints(model_dir) - _being_saved(model_dir)
  try:
    listed = _read_list(model_dir)
    if listed and listed[-1] in present:
      return os.path.join(model_dir, listed[-1])
    if listed:
      problem = (
        f"{os.path.join(model_dir, _LIST)} names {listed[-1]}, whose "
        "files are missing or incomplete"
      )
    elif present and any(map(_OWN_NAME.fullmatch, present)):
      problem = f"{os.path.join(model_dir, _LIST)} is missing"
    else:
      return None
  except UserError as error:
    problem = str(error).rstrip(".")
  own = sorted(
    filter(_OWN_NAME.fullmatch, present),
    key=lambda name: int(_OWN_NAME.fullmatch(name)[1]),
  )
  advice = (
    ""
    if flag != "--output_dir"
    else (
      " To begin again at step 0, pass --restart, which deletes the "
      "checkpoints of this run."
    )
  )
  if own:
    raise UserError(
      f"{flag}={model_dir}: {problem}. The folder holds {_some(own)}. To "
      f"continue from {own[-1]}, write the line model_checkpoint_path: "
      f'"{own[-1]}" into {os.path.join(model_dir, _LIST)}.{advice}'
    )
  raise UserError(
    f"{flag}={model_dir}: {problem}. The folder holds no "
    f"checkpoint to continue from.{advice}"
  )


def _whole_checkpoints(model_dir: str) -> set[str]:
  """Returns the names of the checkpoints whose files are all in a folder."""
  if not tf.io.gfile.isdir(model_dir):
    return set()
  files = set(tf.io.gfile.listdir(model_dir))
  shards = {}
  for file in files:
    match = re.fullmatch(r"(.+)\.data-\d{5}-of-(\d{5})", file)
    if match:
      shards.setdefault((match[1], int(match[2])), []).append(file)
  return {
    name
    for (name, count), found in shards.items()
    if name + ".index" in files and len(found) == count
  }


def _newest_or_none(model_dir: str) -> str | None:
  """Returns the newest checkpoint where an error is being reported already."""
  try:
    return latest(model_dir)
  except (UserError, tf.errors.OpError, OSError):
    return None


def read_state(prefix: str) -> dict:
  """Returns what `save` was given as `state`; empty if there is none.

  Raises:
    UserError: the file is damaged.
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


# --- Other formats -----------------------------------------------------------

# PyTorch transformers' names of activations to ours. Their `gelu` is the exact
# form, the released checkpoints' the approximation.
_ACTIVATIONS = {
  "gelu": "gelu_erf",
  "gelu_new": "gelu",
  "gelu_pytorch_tanh": "gelu",
}
_ACTIVATIONS_OUT = {"gelu_erf": "gelu", "gelu": "gelu_new"}
# Fields of their configs that make a model another one than BERT.
_FIXED_FIELDS = {
  "model_type": "bert",
  "position_embedding_type": "absolute",
  "layer_norm_eps": 1e-12,
}


def write_transformers(path: str, tensors: Mapping[str, np.ndarray]) -> None:
  """Writes a safetensors file that PyTorch transformers loads.

  A model without heads gets the names of a bare encoder, `embeddings...`, any
  other the prefix `bert.`.

  Args:
    path: of the file, on this machine.
    tensors: released name -> array.
  """
  # pylint: disable-next=g-import-not-at-top
  from safetensors import numpy as safetensors

  is_bare = all(name.startswith(_ENCODER_PREFIX) for name in tensors)
  renamed = {}
  for name, tensor in tensors.items():
    theirs = _transformers_name(
      name.removeprefix(_ENCODER_PREFIX) if is_bare else name
    )
    renamed[theirs] = np.ascontiguousarray(
      tensor.T if name.endswith("/kernel") else tensor
    )
  if heads.HEADS[heads.MASKED_LM].is_in(tensors):
    # The same tensors under the names of the layer that they are.
    renamed["cls.predictions.decoder.weight"] = renamed[
      "bert.embeddings.word_embeddings.weight"
    ].copy()
    renamed["cls.predictions.decoder.bias"] = renamed[
      "cls.predictions.bias"
    ].copy()
  # Their loader asks for this.
  safetensors.save_file(renamed, path, metadata={"format": "pt"})


def to_transformers_config(config: Mapping[str, object]) -> dict:
  """Returns the fields of a `bert_config.json` as transformers names them."""
  return {
    **config,
    "model_type": "bert",
    "layer_norm_eps": 1e-12,
    "hidden_act": _ACTIVATIONS_OUT.get(
      config["hidden_act"], config["hidden_act"]
    ),
  }


def read_transformers_config(json_file: str) -> dict:
  """Returns a `config.json` of PyTorch transformers as a dict for `BertConfig`.

  Their defaults stand for missing fields where they differ from ours.

  Raises:
    UserError: the file is not the config of a BERT model that we can run.
  """
  config = file_io.read_json(json_file)
  for field, needed in _FIXED_FIELDS.items():
    value = config.get(field, needed)
    if value != needed:
      raise UserError(
        f"{json_file}: {field}={reprlib.repr(value)} is not "
        f"BERT's, which is {needed!r}."
      )
  activation = config.get("hidden_act", "gelu")
  if isinstance(activation, str):
    activation = _ACTIVATIONS.get(activation, activation)
  config["hidden_act"] = activation
  config.setdefault("type_vocab_size", 2)
  return config
