"""Folders of models: the files that make up a model, found and exported.

bert_config.json   the shape of the model
vocab.txt          its vocabulary
bert_model.ckpt.*  its weights
classifier.json    the meaning of its head, if it has one
"""

import os
from typing import NamedTuple

import tensorflow as tf

from errors import UserError

# Folder of the models that `download_model.py` has downloaded.
MODELS_DIR = "models"


class ModelFiles(NamedTuple):
  """The files of a model; each field is named after the flag that sets it.

  Attributes:
    bert_config_file: path of the config, or None.
    vocab_file: path of the vocabulary, or None.
    init_checkpoint: prefix of a checkpoint, or a file of other weights, or
      None.
  """

  bert_config_file: str | None = None
  vocab_file: str | None = None
  init_checkpoint: str | None = None


# The names of these files in a folder.
FILE_NAMES = ModelFiles("bert_config.json", "vocab.txt", "bert_model.ckpt")


def find_model(model: str) -> ModelFiles:
  """Returns the files of a model.

  Args:
    model: path of its folder, or name of a folder in `MODELS_DIR`.

  Raises:
    UserError: there is no such folder.
  """
  folders = [model, os.path.join(MODELS_DIR, model)]
  for folder in folders:
    if tf.io.gfile.isdir(folder):
      return ModelFiles(*(os.path.join(folder, name) for name in FILE_NAMES))
  raise UserError(
    f"--model={model}: there is neither a folder {folders[0]} nor "
    f"{folders[1]}. Released models are downloaded by download_model.py."
  )
