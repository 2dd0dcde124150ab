"""Folders of models: the files that make up a model, found and exported.

bert_config.json       the shape of the model
vocab.txt              its vocabulary
tokenizer_config.json  how text becomes tokens, if that is known
bert_model.ckpt.*      its weights
classifier.json        the meaning of its head, if it has one

A folder of transformers is read, too.
"""

from __future__ import annotations

from collections.abc import Callable
import os
from typing import NamedTuple

import tensorflow as tf

from command_line import input_paths
from data import checkpoint_folder
from data import file_io
from data import released_models
from data import tokenizer_settings
from data import transformers_config
from data import transformers_format
from errors import UserError

# Folder of the models that `download_model.py` has downloaded.
MODELS_DIR = "models"


class ModelFiles(NamedTuple):
  """The files of a model, each named like the flag that sets it.

  Attributes:
    bert_config_file: Path of the config.
    vocab_file: Path of the vocabulary.
    init_checkpoint: Prefix of a checkpoint, or path of a file of other weights.

  A file that is not named is the empty string.
  """

  bert_config_file: str = ""
  vocab_file: str = ""
  init_checkpoint: str = ""


# Folder in an --output_dir that the trained model is exported to.
EXPORT_DIR = "export"
# The names of these files in a folder.
FILE_NAMES = ModelFiles("bert_config.json", "vocab.txt", "bert_model.ckpt")


def find_model(model: str, flag: str = "--model") -> ModelFiles:
  """Returns the files of a model.

  Args:
    model: Path of its folder, ours or of transformers; of the `--output_dir` of
      a training, which has exported it; or name of a released model, here or in
      transformers, that was downloaded to `MODELS_DIR`.
    flag: Flag that it comes from, for error messages.

  Raises:
    UserError: there is no such folder.
  """
  for folder in (model, _download_folder(model)):
    if tf.io.gfile.isdir(folder):
      return _files_in(_exported_folder(folder, flag))
  raise _missing_model(model, flag)


def check_exists(flag: str, model: str) -> None:
  """Raises a UserError if there is no model; needs no TensorFlow.

  Args:
    flag: Name of the flag.
    model: See `find_model`.
  """
  if not (os.path.isdir(model) or os.path.isdir(_download_folder(model))):
    raise _missing_model(model, f"--{flag}")


def _download_folder(model: str) -> str:
  """Returns the folder of a downloaded model."""
  return os.path.join(MODELS_DIR, released_models.find_name(model))


def _missing_model(model: str, flag: str) -> UserError:
  """Returns the error about a model that does not exist."""
  name = released_models.find_name(model)
  parent, base_name = os.path.split(model)
  nearby = _list_folder(parent) if parent else []
  similar = input_paths.find_similar(base_name, nearby)
  advice = "Released models are downloaded by download_model.py."
  if name in released_models.PATHS:
    advice = f"Run python download_model.py --name={name} to download it."
  elif similar:
    advice = f"Did you mean {os.path.join(parent, similar)}?"
  elif not parent:
    known = [*_list_folder("."), *_list_folder(MODELS_DIR)]
    known += [*released_models.PATHS, *released_models.ALIASES]
    similar = input_paths.find_similar(model, known)
    if similar:
      advice = f"Did you mean {similar}? {advice}"
  return UserError(
    f"{flag}={model}: there is neither a folder {model} nor "
    f"{_download_folder(model)}. {advice}"
  )


def _list_folder(folder: str) -> list[str]:
  """Returns the names of the folders in a folder of this machine."""
  if not os.path.isdir(folder):
    return []
  return [entry.name for entry in os.scandir(folder) if entry.is_dir()]


def _exported_folder(folder: str, flag: str) -> str:
  """Returns the folder of a model, or that of its export in a training's.

  Raises:
    UserError: It is the folder of a training that has exported nothing.
  """
  if _has_config(folder):
    return folder
  exported = os.path.join(folder, EXPORT_DIR)
  if _has_config(exported):
    return exported
  if checkpoint_folder.find_latest(folder):
    raise UserError(
      f"{flag}={folder} is the folder of a training that has not ended: it has "
      f"no model in {exported}. Run the same training again to its end."
    )
  return folder


def _has_config(folder: str) -> bool:
  names = (FILE_NAMES.bert_config_file, transformers_config.FILE_NAME)
  return any(tf.io.gfile.exists(os.path.join(folder, name)) for name in names)


def _files_in(folder: str) -> ModelFiles:
  """Returns the files of the model in a folder, ours or of transformers."""
  config, vocab, weights = (os.path.join(folder, name) for name in FILE_NAMES)
  their_config = os.path.join(folder, transformers_config.FILE_NAME)
  is_theirs = tf.io.gfile.exists(their_config)
  if is_theirs and not tf.io.gfile.exists(config):
    their_weights = transformers_format.find_weights(folder)
    their_vocab = tokenizer_settings.find_vocabulary(folder)
    return ModelFiles(their_config, their_vocab, their_weights or weights)
  return ModelFiles(config, vocab, weights)


def export_model(
  folder: str,
  config: str,
  vocab_file: str,
  text_settings: tokenizer_settings.TokenizerSettings | None,
  write_more: Callable[[str], None] | None,
  export_weights: Callable[[str], None],
) -> None:
  """Writes a folder like those of released models.

  The index of the checkpoint is removed first and written last, so that new
  weights never lie next to an old config.

  Args:
    folder: Folder to write.
    config: Contents of the config.
    vocab_file: Path of the vocabulary; empty for none.
    text_settings: Settings of the tokenizer; None if they are not known.
    write_more: Function (folder) that writes further files, or None.
    export_weights: Function (prefix) that writes the checkpoint.
  """
  names = FILE_NAMES
  prefix = os.path.join(folder, names.init_checkpoint)
  file_io.remove_leftovers(folder)
  file_io.remove_existing_files([prefix + ".index"])
  file_io.write_text(os.path.join(folder, names.bert_config_file), config)
  if vocab_file:
    vocabulary = tokenizer_settings.read_vocabulary(vocab_file)
    file_io.write_bytes(os.path.join(folder, names.vocab_file), vocabulary)
  if text_settings:
    text_settings.write(folder)
  if write_more:
    write_more(folder)
  export_weights(prefix)
