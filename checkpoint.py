"""Reads and writes weights by name.

A checkpoint is what BERT's always were: a name-based TensorFlow file in which
every tensor stands under the name of its variable. Training checkpoints hold
`<name>/adam_m`, `<name>/adam_v` and `global_step` as well. Files in the
safetensors format with the names of PyTorch transformers are read as if they
held the released names.
"""

import json
import os
import re
from typing import Mapping, Optional, Sequence

from absl import logging
import numpy as np
import tensorflow as tf

# What a training checkpoint holds beside weights.
_TRAINING_ONLY = re.compile(r"(^|/)(adam_m|adam_v|global_step)$")
# The encoder, which has to be found whole; heads may be new.
_ENCODER_PREFIX = "bert/"
_NAMES_SHOWN = 4


def variables_by_name(module: tf.Module) -> dict[str, tf.Variable]:
  """Returns released name -> variable, for all variables of a module."""
  return {variable.name.split(":")[0]: variable
          for variable in module.variables}


# --- Reading -----------------------------------------------------------------


class _TensorFlowReader:
  """A name-based TensorFlow checkpoint."""

  def __init__(self, prefix: str):
    self._reader = tf.train.load_checkpoint(prefix)
    self.shapes = {name: tuple(shape) for name, shape in
                   self._reader.get_variable_to_shape_map().items()}

  def get_tensor(self, name: str) -> np.ndarray:
    return self._reader.get_tensor(name)


# PyTorch transformers' names, after dots became slashes, to released names.
_RENAMES = (
    (r"^(embeddings|encoder|pooler)/", r"bert/\1/"),
    (r"/layer/(\d+)/", r"/layer_\1/"),
    (r"_embeddings/weight$", "_embeddings"),
    (r"LayerNorm/weight$", "LayerNorm/gamma"),
    (r"LayerNorm/bias$", "LayerNorm/beta"),
    (r"^cls/predictions/bias$", "cls/predictions/output_bias"),
    (r"^cls/seq_relationship/weight$", "cls/seq_relationship/output_weights"),
    (r"^cls/seq_relationship/bias$", "cls/seq_relationship/output_bias"),
    (r"^classifier/weight$", "output_weights"),
    (r"^classifier/bias$", "output_bias"),
    (r"^qa_outputs/weight$", "cls/squad/output_weights"),
    (r"^qa_outputs/bias$", "cls/squad/output_bias"),
    (r"/weight$", "/kernel"),
)
# Copies of other tensors, and constants.
_REDUNDANT = re.compile(
    r"^cls\.predictions\.decoder\.|\.?embeddings\.(position|token_type)_ids$")


class _SafetensorsReader:
  """A safetensors file with the names of PyTorch transformers."""

  def __init__(self, path: str):
    try:
      import safetensors  # pylint: disable=g-import-not-at-top
      self._file = safetensors.safe_open(path, framework="numpy")
    except Exception as error:
      raise ValueError(f"{path} cannot be read as safetensors: {error}. Is "
                       "the file whole?") from error
    self._names = {}
    self.shapes = {}
    for theirs in self._file.keys():
      if _REDUNDANT.search(theirs):
        continue
      name = theirs.replace(".", "/")
      for pattern, replacement in _RENAMES:
        name = re.sub(pattern, replacement, name)
      shape = tuple(self._file.get_slice(theirs).get_shape())
      self._names[name] = theirs
      # Their dense layers multiply from the other side.
      self.shapes[name] = shape[::-1] if name.endswith("/kernel") else shape

  def get_tensor(self, name: str) -> np.ndarray:
    tensor = self._file.get_tensor(self._names[name])
    return tensor.T if name.endswith("/kernel") else tensor


def open_checkpoint(path: str, flag: str = "--init_checkpoint"):
  """Opens weights for reading.

  Args:
    path: the prefix of a TensorFlow checkpoint (`.../bert_model.ckpt`), a
      folder whose newest checkpoint is meant, or a `.safetensors` file.
    flag: what the user gave the path with, for error messages.

  Returns:
    An object with `shapes`, name -> tuple of ints, and `get_tensor(name)`.

  Raises:
    ValueError: there is no checkpoint, or it cannot be read.
  """
  path = path.removesuffix(".index")
  if path.endswith(".safetensors"):
    if not os.path.exists(path):
      raise ValueError(f"{flag}={path} does not exist.")
    return _SafetensorsReader(path)
  prefix = path
  if tf.io.gfile.isdir(path):
    prefix = tf.train.latest_checkpoint(path)
    if prefix is None:
      raise ValueError(
          f"{flag}={path} is a folder without a `checkpoint` file. Name the "
          "checkpoint in it, such as bert_model.ckpt.")
  if not tf.io.gfile.exists(prefix + ".index"):
    raise ValueError(
        f"{flag}={path}: there is no {prefix}.index. Give the part of the "
        "file names before `.index` and `.data-00000-of-00001`.")
  try:
    return _TensorFlowReader(prefix)
  except (tf.errors.OpError, RuntimeError, ValueError) as error:
    raise ValueError(f"{flag}={path} cannot be read: {error}. Are its files "
                     "whole?") from error


def restore(variables: Mapping[str, tf.Variable], path: str,
            flag: str = "--init_checkpoint") -> None:
  """Sets variables to the tensors of the same names, and logs what matched.

  The encoder must be found whole. Any other variable that the checkpoint does
  not have, or has in another shape, keeps its value: it is a new head.

  Args:
    variables: released name -> variable.
    path: see `open_checkpoint`.
    flag: what the user gave the path with, for error messages.

  Raises:
    ValueError: the encoder is incomplete or of another shape.
  """
  reader = open_checkpoint(path, flag)
  encoder = [name for name in variables if name.startswith(_ENCODER_PREFIX)]
  _check(encoder, variables, reader, path, flag)
  matched, new = [], []
  for name in variables:
    same = reader.shapes.get(name) == tuple(variables[name].shape)
    (matched if same else new).append(name)
  _assign(matched, variables, reader, path, flag)
  logging.info("%s=%s: %d of the model's %d variables restored.",
               flag, path, len(matched), len(variables))
  if new:
    logging.info("  not in the checkpoint, newly initialized: %s",
                 ", ".join(sorted(new)))
  unused = [name for name in reader.shapes
            if name not in variables and not _TRAINING_ONLY.search(name)]
  if unused:
    logging.info("  in the checkpoint, not in the model: %s",
                 ", ".join(sorted(unused)))


def restore_all(variables: Mapping[str, tf.Variable], path: str,
                flag: str) -> None:
  """Like `restore`, but every variable has to be found.

  Raises:
    ValueError: a variable is missing or has another shape.
  """
  reader = open_checkpoint(path, flag)
  _check(list(variables), variables, reader, path, flag)
  _assign(list(variables), variables, reader, path, flag)


def _check(names, variables, reader, path, flag):
  """Raises a ValueError unless `reader` has `names` in the right shapes."""
  missing = sorted(name for name in names if name not in reader.shapes)
  if missing:
    raise ValueError(
        f"{flag}={path} lacks {len(missing)} of the {len(names)} variables "
        f"that are needed, such as {_some(missing)}. It holds "
        f"{_some(sorted(reader.shapes))}. Does it belong to another model or "
        "to another config?")
  differing = sorted(name for name in names
                     if reader.shapes[name] != tuple(variables[name].shape))
  if differing:
    shown = "; ".join(
        f"{name} is {list(reader.shapes[name])} in the checkpoint and "
        f"{variables[name].shape.as_list()} in the model"
        for name in differing[:_NAMES_SHOWN])
    raise ValueError(
        f"{flag}={path} does not fit the model: {len(differing)} variables "
        f"have other shapes. {shown}. Use the --bert_config_file that belongs "
        "to the checkpoint, or another checkpoint.")


def _some(names: Sequence[str]) -> str:
  return ", ".join(names[:_NAMES_SHOWN]) + (
      ", ..." if len(names) > _NAMES_SHOWN else "")


def _assign(names, variables, reader, path, flag):
  for name in names:
    try:
      tensor = reader.get_tensor(name)
    except (tf.errors.OpError, RuntimeError, IndexError) as error:
      raise ValueError(f"{flag}={path}: {name} cannot be read: {error}. Is "
                       "the file whole?") from error
    variables[name].assign(tensor.astype(variables[name].dtype.as_numpy_dtype))


# --- Writing -----------------------------------------------------------------


def write(prefix: str, tensors: Mapping[str, object]) -> None:
  """Writes a name-based checkpoint, whole or not at all.

  The files get their names when they are complete; whoever dies before leaves
  only a folder `<prefix>_temp` behind, which the next write replaces.

  Args:
    prefix: path up to `.index` and `.data-00000-of-00001`.
    tensors: name -> Tensor, variable or NumPy array.
  """
  temporary_dir = prefix + "_temp"
  if tf.io.gfile.exists(temporary_dir):
    tf.io.gfile.rmtree(temporary_dir)
  tf.io.gfile.makedirs(temporary_dir)
  temporary = os.path.join(temporary_dir, "part")
  names = sorted(tensors)
  tf.raw_ops.SaveV2(
      prefix=temporary, tensor_names=names, shape_and_slices=[""] * len(names),
      tensors=[tf.convert_to_tensor(tensors[name]) for name in names])
  tf.raw_ops.MergeV2Checkpoints(
      checkpoint_prefixes=[temporary], destination_prefix=prefix,
      delete_old_dirs=True)


def save(model_dir: str, step: int, variables: Mapping[str, tf.Variable],
         keep_checkpoint_max: int) -> str:
  """Writes `model.ckpt-<step>` and makes it the newest of `model_dir`.

  Args:
    model_dir: folder of the run.
    step: number of updates so far.
    variables: name -> variable, all that the run needs to go on.
    keep_checkpoint_max: how many to keep; older ones are deleted. 0 for all.

  Returns:
    The path of the checkpoint.
  """
  prefix = os.path.join(model_dir, f"model.ckpt-{step}")
  write(prefix, variables)
  state = tf.train.get_checkpoint_state(model_dir)
  kept = [path for path in (state.all_model_checkpoint_paths if state else [])
          if path != prefix] + [prefix]
  expired = kept[:-keep_checkpoint_max] if keep_checkpoint_max else []
  kept = kept[len(expired):]
  _write_state(model_dir, kept)
  for path in expired:
    for file in tf.io.gfile.glob(path + ".*"):
      tf.io.gfile.remove(file)
  return prefix


def _write_state(model_dir: str, kept: Sequence[str]) -> None:
  """Writes the file `checkpoint`; the last of `kept` is the newest.

  It is a text protocol buffer. Names without folders let a run be moved.
  """
  names = [json.dumps(os.path.basename(path)) for path in kept]
  lines = [f"model_checkpoint_path: {names[-1]}",
           *(f"all_model_checkpoint_paths: {name}" for name in names)]
  state_file = os.path.join(model_dir, "checkpoint")
  with tf.io.gfile.GFile(state_file + ".tmp", "w") as writer:
    writer.write("\n".join(lines) + "\n")
  tf.io.gfile.rename(state_file + ".tmp", state_file, overwrite=True)


def latest(model_dir: str) -> Optional[str]:
  """Returns the newest checkpoint of a run, or None if there is none."""
  return tf.train.latest_checkpoint(model_dir)


# --- Other formats -----------------------------------------------------------

# PyTorch transformers' names of activations to ours. Their `gelu` is the exact
# form, the released checkpoints' the approximation.
_ACTIVATIONS = {"gelu": "gelu_erf", "gelu_new": "gelu",
                "gelu_pytorch_tanh": "gelu"}


def read_transformers_config(json_file: str) -> dict:
  """Returns a `config.json` of PyTorch transformers as a dict for `BertConfig`.

  Raises:
    ValueError: the file is not the config of a BERT model that we can run.
  """
  with tf.io.gfile.GFile(json_file) as reader:
    config = json.load(reader)
  if config.get("model_type", "bert") != "bert":
    raise ValueError(f"{json_file} describes a model of type "
                     f"{config['model_type']!r}, not 'bert'.")
  if config.get("position_embedding_type", "absolute") != "absolute":
    raise ValueError(f"{json_file}: position_embedding_type="
                     f"{config['position_embedding_type']!r} is not BERT's.")
  if config.get("layer_norm_eps", 1e-12) != 1e-12:
    raise ValueError(f"{json_file}: layer_norm_eps={config['layer_norm_eps']} "
                     "is not BERT's, which is 1e-12.")
  config["hidden_act"] = _ACTIVATIONS.get(
      config["hidden_act"], config["hidden_act"])
  return config
