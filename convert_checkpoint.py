"""Converts a model of PyTorch transformers to a released-style folder, or back.

    python convert_checkpoint.py --input_dir=all-MiniLM-L6-v2 \\
        --output_dir=models/minilm

A folder of transformers has config.json, vocab.txt and weights:
model.safetensors, pytorch_model.bin, the index of several of these, or
tf_model.h5. A released-style folder has bert_config.json, vocab.txt and
bert_model.ckpt. The files in --input_dir decide the direction. Heads are
converted, too, with their labels in classifier.json. The config is written
last, so a folder that has one is complete.
"""

from __future__ import annotations

import launch  # First: from here on a signal ends the program quietly.

from collections.abc import Iterable, Mapping, Sequence
import json
import os
from typing import Any, NamedTuple

from absl import flags
from absl import logging
import numpy as np
import safetensors
import tensorflow as tf

import checkpoint
from command_line import flag_help
from command_line import input_paths
from data import encoding
from data import file_io
from data import locks
from data import tokenizer_settings
from data import transformers_config
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
_TRANSFORMERS_CONFIG = transformers_config.FILE_NAME
# Several are read; this one is written.
_TRANSFORMERS_WEIGHTS = transformers_format.WEIGHTS_NAMES[0]
# In a released-style folder: the config of transformers that the model came
# with, which has settings that ours does not have.
_ORIGINAL_CONFIG = "transformers_config.json"
# Length of the shortest sequence for which there are windows.
_SHORTEST = 8
# The files of both kinds of folders, in the order in which they are written.
_RELEASED_FILES = (
  _VOCAB,
  tokenizer_settings.FILE,
  classifier_config.FILE,
  _ORIGINAL_CONFIG,
  f"{_CHECKPOINT}.data-00000-of-00001",
  f"{_CHECKPOINT}.index",
  _CONFIG,
)
_TRANSFORMERS_FILES = (
  _VOCAB,
  tokenizer_settings.FILE,
  _TRANSFORMERS_WEIGHTS,
  _TRANSFORMERS_CONFIG,
)


@flag_help.group("Conversion")
def define_flags() -> None:
  """Defines the flags of this program."""
  flags.DEFINE_string("input_dir", None, "Folder of the model.", required=True)
  input_paths.mark("input_dir", input_paths.check_path)
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
    weights_path = transformers_format.find_weights(FLAGS.input_dir)
    if weights_path:
      config = from_transformers(weights_path)
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


def _input_path(name: str) -> str:
  """Returns the path of a file of the input, which has to exist."""
  path = os.path.join(FLAGS.input_dir, name)
  if not tf.io.gfile.exists(path):
    raise UserError(
      f"{path} does not exist. --input_dir holds either "
      f"{_TRANSFORMERS_CONFIG}, {_VOCAB} and weights "
      f"({', '.join(transformers_format.WEIGHTS_NAMES)}), or {_CONFIG}, "
      f"{_VOCAB} and {FLAGS.checkpoint}.index."
    )
  return path


def _join_input(name: str) -> str:
  return os.path.join(FLAGS.input_dir, name)


def _output_path(name: str) -> str:
  return os.path.join(FLAGS.output_dir, name)


class _TokenizerFiles(NamedTuple):
  """The files of the tokenizer.

  Attributes:
    vocabulary: Contents of `vocab.txt`.
    fields: Contents of `tokenizer_config.json`; empty if nothing is known.
    settings: The settings in them; if they say nothing, those of the classifier
      or those that the vocabulary suggests.
  """

  vocabulary: bytes
  fields: dict[str, Any]
  settings: tokenizer_settings.TokenizerSettings

  @classmethod
  def read(cls) -> _TokenizerFiles:
    """Returns the files of the input, after a check."""
    path = tokenizer_settings.find_vocabulary(FLAGS.input_dir)
    path = _input_path(os.path.basename(path))
    fields_path = _join_input(tokenizer_settings.FILE)
    fields: dict[str, Any] = {}
    if tf.io.gfile.exists(fields_path):
      fields = file_io.read_json(fields_path)
    settings = tokenizer_settings.TokenizerSettings.read(FLAGS.input_dir)
    classifier = classifier_config.ClassifierConfig.read(FLAGS.input_dir)
    if classifier and not settings:
      settings = classifier.text_settings
    if settings:
      # Fields that are not ours, such as the longest length, are kept.
      fields.update(settings.to_fields())
    known = settings or tokenizer_settings.TokenizerSettings()
    vocab = tokenization.load_vocab(path, known.special_tokens)
    if settings is None and tokenization.has_capitals(vocab):
      known = tokenizer_settings.TokenizerSettings(do_lower_case=False)
    vocabulary = tokenizer_settings.read_vocabulary(path)
    return cls(vocabulary, fields, known)

  def write(self, folder: str) -> None:
    """Writes the files."""
    file_io.write_bytes(os.path.join(folder, _VOCAB), self.vocabulary)
    if self.fields:
      path = os.path.join(folder, tokenizer_settings.FILE)
      file_io.write_json(path, self.fields)

  def add_defaults(self, max_length: int) -> _TokenizerFiles:
    """Returns files that leave nothing to the defaults of transformers.

    Args:
      max_length: Length of the longest sequence that the model reads.
    """
    fields = {
      "model_max_length": max_length,
      "tokenizer_class": "BertTokenizer",
      **self.settings.to_fields(),
      **self.fields,
    }
    return self._replace(fields=fields)


def from_transformers(weights_path: str) -> modeling.BertConfig:
  """Writes a released-style folder, and returns its config."""
  fields, config_path = _read_their_config()
  config = modeling.BertConfig.from_dict(
    transformers_config.translate_config(fields, config_path), config_path
  )
  weights = _open_weights(config, weights_path)
  head = transformers_config.read_head_fields(fields, config_path)
  tokenizer_files = _TokenizerFiles.read()
  max_length = tokenizer_files.fields.get("model_max_length")
  classifier = _describe_classifier(
    head, weights.shapes, config, tokenizer_files.settings, max_length
  )
  tensors = _read_tensors(weights, weights.shapes)
  with file_io.temporary_folder(_output_path("model")) as folder:
    tokenizer_files.write(folder)
    if classifier:
      classifier.write(folder)
    file_io.write_json(os.path.join(folder, _ORIGINAL_CONFIG), fields)
    checkpoint.write(os.path.join(folder, _CHECKPOINT), tensors)
    file_io.write_text(os.path.join(folder, _CONFIG), config.to_json_string())
    _move_files(folder, _RELEASED_FILES)
  return config


def _read_their_config() -> tuple[dict[str, Any], str]:
  """Returns a config of transformers, and its path.

  In folders of the first versions it has the name of ours.
  """
  path = os.path.join(FLAGS.input_dir, _CONFIG)
  if not tf.io.gfile.exists(path):
    path = _input_path(_TRANSFORMERS_CONFIG)
  elif tf.io.gfile.exists(_join_input(_TRANSFORMERS_CONFIG)):
    path = _join_input(_TRANSFORMERS_CONFIG)
  return file_io.read_json(path), path


def to_transformers() -> modeling.BertConfig:
  """Writes a folder for PyTorch transformers, and returns the config."""
  config = modeling.BertConfig.from_json_file(_input_path(_CONFIG))
  _input_path(FLAGS.checkpoint + ".index")
  weights = _open_weights(
    config, os.path.join(FLAGS.input_dir, FLAGS.checkpoint)
  )
  names = checkpoint.remove_training_names(weights.shapes)
  tensors = _read_tensors(weights, names)
  original = None
  original_path = _join_input(_ORIGINAL_CONFIG)
  if tf.io.gfile.exists(original_path):
    original = file_io.read_json(original_path)
  shapes = {name: weights.shapes[name] for name in names}
  their_config = {
    **transformers_config.to_their_config(config.to_dict(), original),
    **_describe_head(config, shapes, original),
  }
  config_text = json.dumps(their_config, indent=2, sort_keys=True)
  tokenizer_files = _TokenizerFiles.read().add_defaults(
    config.max_position_embeddings
  )
  try:
    with file_io.temporary_folder(_output_path("model")) as folder:
      tokenizer_files.write(folder)
      weights_path = os.path.join(folder, _TRANSFORMERS_WEIGHTS)
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


def _move_files(folder: str, names: Sequence[str]) -> None:
  """Moves the files that were written to the output.

  Args:
    folder: Folder with the files.
    names: Names of the files that there may be. One that was not written is
      removed from the output: it belonged to another model.
  """
  written = []
  obsolete = []
  for name in names:
    is_written = tf.io.gfile.exists(os.path.join(folder, name))
    (written if is_written else obsolete).append(name)
  # The last file says that the model is whole.
  paths = [_output_path(name) for name in (names[-1], *obsolete)]
  file_io.remove_existing_files(paths)
  unfinished.move_files(folder, FLAGS.output_dir, written)


def _open_weights(config: modeling.BertConfig, path: str) -> checkpoint.Reader:
  """Returns a reader of weights whose encoder fits the config.

  Raises:
    UserError: Names or shapes differ from those of the config.
  """
  reader = checkpoint.open_checkpoint(path, "--input_dir")
  add_pooler = heads.has_pooler(reader.shapes)
  encoder = modeling.BertModel(config, add_pooler=add_pooler)
  checkpoint.restore(checkpoint.variables_by_name(encoder), path, "--input_dir")
  return reader


def _read_tensors(
  weights: checkpoint.Reader, names: Iterable[str]
) -> dict[str, np.ndarray]:
  """Returns the tensors with these names, and logs what comes next."""
  logging.info("Reading %s ...", FLAGS.input_dir)
  tensors = {name: weights.get_tensor(name) for name in names}
  num_bytes = sum(tensor.nbytes for tensor in tensors.values())
  logging.info(
    "Writing %d tensors of %d MB to %s ...",
    len(tensors),
    num_bytes // 10**6,
    FLAGS.output_dir,
  )
  return tensors


# --- Heads -------------------------------------------------------------------


def _describe_classifier(
  fields: transformers_config.HeadFields,
  shapes: Mapping[str, Sequence[int]],
  config: modeling.BertConfig,
  settings: tokenizer_settings.TokenizerSettings,
  max_length: object = None,
) -> classifier_config.ClassifierConfig | None:
  """Returns the `classifier.json` of a model of transformers, or None.

  Args:
    fields: The fields of its config about its head.
    shapes: Released name -> shape of its variables.
    config: Shape of its encoder.
    settings: Settings of its tokenizer.
    max_length: Longest length that its tokenizer names, or None.

  Raises:
    UserError: The config does not fit the weights.
  """
  if "output_weights" not in shapes:
    return None
  num_outputs = shapes["output_weights"][0]
  head = _find_classifier(fields, num_outputs, heads.has_pooler(shapes))
  labels = fields.labels
  if head.name in (heads.REGRESSION, heads.MULTIPLE_CHOICE):
    labels, num_labels = (), 1
  else:
    # The names that transformers gives to labels without one.
    labels = labels or tuple(f"LABEL_{i}" for i in range(num_outputs))
    num_labels = len(labels)
  if num_labels != num_outputs:
    raise UserError(
      f"--input_dir={FLAGS.input_dir}: the classifier has {num_outputs} "
      f"outputs, but its {_TRANSFORMERS_CONFIG} describes a {head.name} head "
      f"of {num_labels}. Are the files those of one model?"
    )
  is_tagger = head.name == heads.TAGGING
  longest = config.max_position_embeddings
  # Tokenizers without a limit name a number with thirty digits.
  if isinstance(max_length, int) and _SHORTEST <= max_length < longest:
    longest = max_length
  return classifier_config.ClassifierConfig(
    head.name,
    labels,
    settings,
    longest,
    encoding.SLIDING_WINDOW if is_tagger else encoding.TRUNCATE,
  )


def _find_classifier(
  fields: transformers_config.HeadFields, num_outputs: int, has_pooler: bool
) -> heads.Head:
  """Returns the head of a classifier of transformers."""
  by_class: dict[str, list[heads.Head]] = {}
  for head in heads.HEADS.values():
    if head.is_classifier:
      by_class.setdefault(head.transformers_class, []).append(head)
  name = fields.transformers_class
  if name not in by_class:
    tagger = heads.HEADS[heads.TAGGING].transformers_class
    texts = heads.HEADS[heads.SINGLE_LABEL].transformers_class
    logging.warning(
      "The config names the class %s, which tells nothing about the "
      "classifier. It is read as a %s.",
      name,
      name := texts if has_pooler else tagger,
    )
  found = by_class[name]
  if len(found) == 1:
    return found[0]
  for head in found:
    if head.transformers_problem_type == fields.problem_type:
      return head
  # The rule of transformers where no problem_type is given.
  return heads.HEADS[
    heads.REGRESSION if num_outputs == 1 else heads.SINGLE_LABEL
  ]


def _describe_head(
  config: modeling.BertConfig,
  shapes: Mapping[str, Sequence[int]],
  original: Mapping[str, Any] | None,
) -> dict[str, Any]:
  """Returns the fields about the head in a config of PyTorch transformers.

  Args:
    config: Shape of the encoder.
    shapes: Name -> shape of the variables of the model.
    original: The config that the model came with. If it describes the head
      already, there is nothing to add to it.
  """
  classifier = classifier_config.ClassifierConfig.read(FLAGS.input_dir)
  found = heads.find_heads(shapes)
  if not found[0].is_classifier:
    classifier = None
  known = None
  if original:
    known = transformers_config.read_head_fields(original, _ORIGINAL_CONFIG)
  if known and not known.transformers_class:
    known = None
  if known and classifier:
    described = _describe_classifier(
      known, shapes, config, classifier.text_settings
    )
    same = ("problem_type", "labels")
    if all(getattr(classifier, x) == getattr(described, x) for x in same):
      return {}
  elif known:
    ours = {head.transformers_class for head in heads.HEADS.values()}
    possible = {head.transformers_class for head in found}
    # A class that is unknown here has its weights all the same.
    if known.transformers_class not in ours - possible:
      return {}
  if not classifier:
    head_class = found[0].transformers_class
    return transformers_config.to_head_fields(
      transformers_config.HeadFields(head_class, None, ())
    )
  head = classifier.head
  return transformers_config.to_head_fields(
    transformers_config.HeadFields(
      head.transformers_class,
      head.transformers_problem_type,
      classifier.labels or ("LABEL_0",),
    )
  )


if __name__ == "__main__":
  define_flags()
  launch.run(main, saves_at_signals=False)
