"""Turns a model of PyTorch transformers into a released-style folder, and back.

    python convert_checkpoint.py --input_dir=all-MiniLM-L6-v2 \\
        --output_dir=models/minilm

From config.json, vocab.txt and model.safetensors (or pytorch_model.bin) the
output folder gets bert_config.json, vocab.txt and bert_model.ckpt; from these,
the former. Heads come along. The files of --input_dir decide the direction. The
config is written last: with it, all is there.
"""

import launch  # First: from here on a signal ends the program quietly.

import json
import os

from absl import flags
from absl import logging
import safetensors
import tensorflow as tf

import checkpoint
from data import file_io
from data import locks
from data import transformers_format
from data import unfinished
from errors import UserError
import heads
import modeling
from tasks import classifier_config
import tokenization

FLAGS = flags.FLAGS

_VOCAB, _CONFIG, _CHECKPOINT = (
  "vocab.txt",
  "bert_config.json",
  "bert_model.ckpt",
)
_THEIR_CONFIG = "config.json"
# The first is the one that is written.
_THEIR_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
# What is written, in this order: the config says that all is there.
_OUR_FILES = (
  _VOCAB,
  f"{_CHECKPOINT}.data-00000-of-00001",
  f"{_CHECKPOINT}.index",
  _CONFIG,
)
_THEIR_FILES = (_VOCAB, _THEIR_WEIGHTS[0], _THEIR_CONFIG)
# Their classes of models that we have, by what our `classifier.json` says.
_ARCHITECTURES = {
  heads.TAGGING: "BertForTokenClassification",
  heads.MULTIPLE_CHOICE: "BertForMultipleChoice",
}
_PROBLEM_TYPES = {
  "single_label": "single_label_classification",
  "multi_label": "multi_label_classification",
  "regression": "regression",
}


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


def _path(name: str) -> str:
  """Returns the path of a file of the input, which has to be there."""
  path = os.path.join(FLAGS.input_dir, name)
  if not tf.io.gfile.exists(path):
    raise UserError(
      f"{path} does not exist. --input_dir holds either config.json, "
      f"vocab.txt and {' or '.join(_THEIR_WEIGHTS)}, or bert_config.json, "
      f"vocab.txt and {FLAGS.checkpoint}.index."
    )
  return path


def _output_path(name: str) -> str:
  return os.path.join(FLAGS.output_dir, name)


def _read_vocabulary() -> bytes:
  path = _path(_VOCAB)
  tokenization.load_vocab(path)  # checks it
  return file_io.read_bytes(path)


def from_transformers(weights_name: str) -> modeling.BertConfig:
  """Writes a released-style folder; returns the config."""
  config = modeling.BertConfig.from_dict(
    transformers_format.read_their_config(_path(_THEIR_CONFIG))
  )
  source = _path(weights_name)
  # Restoring into the encoder checks names and shapes against the config.
  checkpoint.restore(
    checkpoint.variables_by_name(modeling.BertModel(config)),
    source,
    "--input_dir",
  )
  reader = checkpoint.open_checkpoint(source, "--input_dir")
  vocabulary = _read_vocabulary()
  with file_io.temporary_folder(_output_path("model")) as folder:
    file_io.write_bytes(os.path.join(folder, _VOCAB), vocabulary)
    checkpoint.write(
      os.path.join(folder, _CHECKPOINT),
      {name: reader.get_tensor(name) for name in reader.shapes},
    )
    file_io.write_text(os.path.join(folder, _CONFIG), config.to_json_string())
    unfinished.move_files(folder, FLAGS.output_dir, _OUR_FILES)
  return config


def to_transformers() -> modeling.BertConfig:
  """Writes a folder that PyTorch transformers loads; returns the config."""
  config = modeling.BertConfig.from_json_file(_path(_CONFIG))
  _path(FLAGS.checkpoint + ".index")
  prefix = os.path.join(FLAGS.input_dir, FLAGS.checkpoint)
  checkpoint.restore(
    checkpoint.variables_by_name(modeling.BertModel(config)),
    prefix,
    "--input_dir",
  )
  reader = checkpoint.open_checkpoint(prefix, "--input_dir")
  names = checkpoint.remove_training_names(reader.shapes)
  tensors = {name: reader.get_tensor(name) for name in names}
  their_config = {
    **transformers_format.to_their_config(config.to_dict()),
    **_head(names),
  }
  vocabulary = _read_vocabulary()
  try:
    with file_io.temporary_folder(_output_path("model")) as folder:
      file_io.write_bytes(os.path.join(folder, _VOCAB), vocabulary)
      with file_io.atomic_file(
        os.path.join(folder, _THEIR_WEIGHTS[0])
      ) as temporary:
        checkpoint.write_transformers(temporary, tensors)
      file_io.write_text(
        os.path.join(folder, _THEIR_CONFIG),
        json.dumps(their_config, indent=2, sort_keys=True) + "\n",
      )
      unfinished.move_files(folder, FLAGS.output_dir, _THEIR_FILES)
  except safetensors.SafetensorError as error:  # such as a full disk
    raise UserError(
      f"--output_dir={FLAGS.output_dir} cannot be written: {error}."
    ) from error
  return config


def _head(names) -> dict[str, object]:
  """Returns what a config of theirs says of the head."""
  classifier = classifier_config.ClassifierConfig.read(FLAGS.input_dir)
  if "cls/squad/output_weights" in names:
    return {"architectures": ["BertForQuestionAnswering"]}
  if "cls/predictions/output_bias" in names:
    return {
      "architectures": [
        "BertForPreTraining"
        if "cls/seq_relationship/output_bias" in names
        else "BertForMaskedLM"
      ]
    }
  if "output_weights" not in names:
    return {"architectures": ["BertModel"]}
  if not classifier:
    return {"architectures": ["BertForSequenceClassification"]}
  head = {
    "architectures": [
      _ARCHITECTURES.get(
        classifier.problem_type, "BertForSequenceClassification"
      )
    ]
  }
  if classifier.problem_type in _PROBLEM_TYPES:
    head["problem_type"] = _PROBLEM_TYPES[classifier.problem_type]
  labels = classifier.labels or ("LABEL_0",)
  return {
    **head,
    "id2label": dict(enumerate(labels)),
    "label2id": {label: i for i, label in enumerate(labels)},
  }


def check_place() -> None:
  """Raises a UserError if the output would replace a file that is read."""
  file_io.check_not_inputs(
    {
      "--output_dir": [
        FLAGS.output_dir,
        *map(_output_path, (*_OUR_FILES, *_THEIR_FILES)),
      ]
    },
    {
      "--input_dir": [
        FLAGS.input_dir,
        *tf.io.gfile.glob(os.path.join(FLAGS.input_dir, "*")),
      ]
    },
  )


def main(_):
  check_place()
  found = [
    name
    for name in _THEIR_WEIGHTS
    if tf.io.gfile.exists(os.path.join(FLAGS.input_dir, name))
  ]
  with locks.Lock.of_folder(
    FLAGS.output_dir, f"--output_dir={FLAGS.output_dir}"
  ):
    file_io.remove_leftovers(FLAGS.output_dir)
    config = from_transformers(found[0]) if found else to_transformers()
  logging.info(
    "%s holds the model, with hidden_act=%s.",
    FLAGS.output_dir,
    config.hidden_act,
  )


if __name__ == "__main__":
  define_flags()
  launch.run(main, saves_at_signals=False)
