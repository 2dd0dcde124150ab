"""Converts a model of PyTorch transformers to a released-style folder, or back.

    python convert_checkpoint.py --input_dir=all-MiniLM-L6-v2 \\
        --output_dir=models/minilm

A folder of PyTorch transformers has config.json, vocab.txt and
model.safetensors or pytorch_model.bin; a released-style folder has
bert_config.json, vocab.txt and bert_model.ckpt. The files in --input_dir decide
the direction. Heads are converted, too. The config is written last, so a folder
that has one is complete.
"""

from __future__ import annotations

import launch  # First: from here on a signal ends the program quietly.

from collections.abc import Iterable
import json
import os
from typing import Any, NamedTuple

from absl import flags
from absl import logging
import safetensors
import tensorflow as tf

import checkpoint
from command_line import flag_help
from data import file_io
from data import locks
from data import tokenizer_settings
from data import transformers_format
from data import unfinished
from errors import UserError
import heads
import modeling
from tasks import classifier_config
import tokenization
from training import model_folder

FLAGS = flags.FLAGS

_CONFIG, _VOCAB, _CHECKPOINT = model_folder.FILE_NAMES
_TRANSFORMERS_CONFIG = "config.json"
# Both are read; the first is the one that is written.
_TRANSFORMERS_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
# The files of both kinds of folders, in the order in which they are written.
_RELEASED_FILES = (
  _VOCAB,
  tokenizer_settings.FILE,
  f"{_CHECKPOINT}.data-00000-of-00001",
  f"{_CHECKPOINT}.index",
  _CONFIG,
)
_TRANSFORMERS_FILES = (
  _VOCAB,
  tokenizer_settings.FILE,
  _TRANSFORMERS_WEIGHTS[0],
  _TRANSFORMERS_CONFIG,
)


@flag_help.group("Conversion")
def define_flags() -> None:
  """Defines the flags of this program."""
  flags.DEFINE_string("input_dir", None, "Folder of the model.", required=True)
  flags.DEFINE_string(
    "output_dir", None, "Folder to write the model to.", required=True
  )
  flags.DEFINE_string(
    "checkpoint",
    _CHECKPOINT,
    "Name of the checkpoint in a released-style --input_dir.",
  )


def main(_):
  check_place()
  with locks.Lock.of_folder(
    FLAGS.output_dir, f"--output_dir={FLAGS.output_dir}"
  ):
    file_io.remove_leftovers(FLAGS.output_dir)
    weights_name = _find_transformers_weights()
    if weights_name:
      config = from_transformers(weights_name)
    else:
      config = to_transformers()
  logging.info(
    "%s holds the model, with hidden_act=%s.",
    FLAGS.output_dir,
    config.hidden_act,
  )


def check_place() -> None:
  """Raises a UserError if the output would replace a file that is read."""
  names = (*_RELEASED_FILES, *_TRANSFORMERS_FILES)
  outputs = [FLAGS.output_dir, *map(_output_path, names)]
  pattern = os.path.join(FLAGS.input_dir, "*")
  inputs = [FLAGS.input_dir, *tf.io.gfile.glob(pattern)]
  file_io.check_not_inputs({"--output_dir": outputs}, {"--input_dir": inputs})


def _find_transformers_weights() -> str | None:
  """Returns the name of their file of weights in the input, or None."""
  for name in _TRANSFORMERS_WEIGHTS:
    if tf.io.gfile.exists(os.path.join(FLAGS.input_dir, name)):
      return name
  return None


def _input_path(name: str) -> str:
  """Returns the path of a file of the input, which has to exist."""
  path = os.path.join(FLAGS.input_dir, name)
  if not tf.io.gfile.exists(path):
    raise UserError(
      f"{path} does not exist. --input_dir holds either "
      f"{_TRANSFORMERS_CONFIG}, {_VOCAB} and "
      f"{' or '.join(_TRANSFORMERS_WEIGHTS)}, or {_CONFIG}, {_VOCAB} and "
      f"{FLAGS.checkpoint}.index."
    )
  return path


def _output_path(name: str) -> str:
  return os.path.join(FLAGS.output_dir, name)


def _move_files(folder: str, names: Iterable[str]) -> None:
  """Moves those of the files that were written to the output."""
  written = [
    name for name in names if tf.io.gfile.exists(os.path.join(folder, name))
  ]
  unfinished.move_files(folder, FLAGS.output_dir, written)


class _TokenizerFiles(NamedTuple):
  """The vocabulary, and its settings if they are known."""

  vocabulary: bytes
  settings: tokenizer_settings.TokenizerSettings | None

  @classmethod
  def read(cls) -> _TokenizerFiles:
    """Returns the files of the input, after a check."""
    path = _input_path(_VOCAB)
    settings = tokenizer_settings.TokenizerSettings.read(FLAGS.input_dir)
    classifier = classifier_config.ClassifierConfig.read(FLAGS.input_dir)
    if classifier and not settings:
      settings = classifier.text_settings
    known = settings or tokenizer_settings.TokenizerSettings()
    tokenization.load_vocab(path, known.special_tokens)
    return cls(file_io.read_bytes(path), settings)

  def write(self, folder: str) -> None:
    """Writes the files."""
    file_io.write_bytes(os.path.join(folder, _VOCAB), self.vocabulary)
    if self.settings:
      self.settings.write(folder)


def from_transformers(weights_name: str) -> modeling.BertConfig:
  """Writes a released-style folder, and returns its config."""
  config = modeling.BertConfig.from_dict(
    transformers_format.read_their_config(_input_path(_TRANSFORMERS_CONFIG))
  )
  weights = _open_weights(config, _input_path(weights_name))
  tensors = {name: weights.get_tensor(name) for name in weights.shapes}
  tokenizer_files = _TokenizerFiles.read()
  with file_io.temporary_folder(_output_path("model")) as folder:
    tokenizer_files.write(folder)
    checkpoint.write(os.path.join(folder, _CHECKPOINT), tensors)
    file_io.write_text(os.path.join(folder, _CONFIG), config.to_json_string())
    _move_files(folder, _RELEASED_FILES)
  return config


def to_transformers() -> modeling.BertConfig:
  """Writes a folder for PyTorch transformers, and returns the config."""
  config = modeling.BertConfig.from_json_file(_input_path(_CONFIG))
  _input_path(FLAGS.checkpoint + ".index")
  weights = _open_weights(
    config, os.path.join(FLAGS.input_dir, FLAGS.checkpoint)
  )
  names = checkpoint.remove_training_names(weights.shapes)
  tensors = {name: weights.get_tensor(name) for name in names}
  transformers_config = {
    **transformers_format.to_their_config(config.to_dict()),
    **_describe_head(names),
  }
  config_text = json.dumps(transformers_config, indent=2, sort_keys=True)
  tokenizer_files = _TokenizerFiles.read()
  try:
    with file_io.temporary_folder(_output_path("model")) as folder:
      tokenizer_files.write(folder)
      weights_path = os.path.join(folder, _TRANSFORMERS_WEIGHTS[0])
      with file_io.atomic_file(weights_path) as temporary:
        checkpoint.write_transformers(temporary, tensors)
      config_path = os.path.join(folder, _TRANSFORMERS_CONFIG)
      file_io.write_text(config_path, config_text + "\n")
      _move_files(folder, _TRANSFORMERS_FILES)
  except safetensors.SafetensorError as error:  # such as a full disk
    raise UserError(
      f"--output_dir={FLAGS.output_dir} cannot be written: {error}."
    ) from error
  return config


def _open_weights(config: modeling.BertConfig, path: str) -> Any:
  """Returns a reader of weights whose encoder fits the config.

  Raises:
    UserError: Names or shapes differ from those of the config.
  """
  encoder = checkpoint.variables_by_name(modeling.BertModel(config))
  checkpoint.restore(encoder, path, "--input_dir")
  return checkpoint.open_checkpoint(path, "--input_dir")


def _describe_head(names: Iterable[str]) -> dict[str, object]:
  """Returns the fields about the head in a config of PyTorch transformers.

  Args:
    names: Names of the variables of the model.
  """
  classifier = classifier_config.ClassifierConfig.read(FLAGS.input_dir)
  head = heads.find_heads(names)[0]
  if not (head.is_classifier and classifier):
    return {"architectures": [head.transformers_class]}
  head = classifier.head
  labels = classifier.labels or ("LABEL_0",)
  fields: dict[str, object] = {
    "architectures": [head.transformers_class],
    "id2label": dict(enumerate(labels)),
    "label2id": {label: i for i, label in enumerate(labels)},
  }
  if head.transformers_problem_type:
    fields["problem_type"] = head.transformers_problem_type
  return fields


if __name__ == "__main__":
  define_flags()
  launch.run(main, saves_at_signals=False)
