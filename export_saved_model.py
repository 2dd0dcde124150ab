"""Exports a trained model as a SavedModel that serves ids and raw text.

    python export_saved_model.py --model=/tmp/mrpc/export \\
        --export_dir=served/mrpc

The head of a model that a program of this repository has trained is found in
its files: a classifier, a tagger, a model that finds answers or chooses among
them, or else an encoder, which returns features. The program writes a folder in
--export_dir that is named by the number of the version, as TensorFlow Serving
expects it, and that holds all that the model needs. It appears when it is
complete.
"""

from __future__ import annotations

import launch  # First: from here on a signal ends the program quietly.

from collections.abc import Mapping
import hashlib
import os
from typing import Any

from absl import flags
from absl import logging
import tensorflow as tf

import checkpoint
from command_line import flag_help
import common_flags
from data import encoding
from data import file_io
from errors import UserError
import heads
import modeling
from serving import serving_settings
from serving import signatures
from tasks import classifier_config
from training import model_folder

FLAGS = flags.FLAGS

_SPAN_FLAGS = ("doc_stride", "max_query_length", "max_answer_length")
_DEFAULT_SPAN_LENGTH = 384
# Bytes of constants that fit into a graph; its file may have 2 GiB.
_MOST_CONSTANTS = 2**30 * 3 // 2
_WARMUP_FILE = os.path.join("assets.extra", "tf_serving_warmup_requests")
_FINGERPRINT_FILE = "fingerprint.pb"


@flag_help.group("Export")
def define_flags() -> None:
  """Defines the flags of this program."""
  common_flags.define_model_flags()
  common_flags.define_vocab_flags()
  flags.DEFINE_string(
    "export_dir",
    None,
    "Folder with one folder per version of the model.",
    required=True,
  )
  flags.DEFINE_integer(
    "version",
    None,
    "Number of this version. Default: one more than the highest in "
    "--export_dir.",
    lower_bound=1,
  )
  flags.DEFINE_enum(
    "head",
    None,
    [head.name for head in heads.HEADS.values() if head.serving_class],
    "Head of the model. Default: the head that is found in its files.",
  )
  flags.DEFINE_list(
    "labels",
    [],
    "Labels in the order of their ids, for weights without a classifier.json "
    "next to them.",
  )
  flags.DEFINE_integer(
    "max_seq_length",
    None,
    "Largest number of tokens of a sequence that is made from raw text. "
    "Default: the length from the training of a classifier, 384 for span, or "
    "else the longest that the model can read.",
  )
  flags.DEFINE_bool(
    "frozen",
    False,
    "Store kernels as constants of the graph. In bfloat16, a CPU then answers "
    "a short text in two thirds of the time. A server needs several times "
    "the memory, and more time to load: for small models.",
  )
  _define_span_flags()


def _define_span_flags() -> None:
  """Defines the flags of a span head."""
  settings = serving_settings.ServingSettings()
  flags.DEFINE_integer(
    "doc_stride",
    settings.doc_stride,
    "With a span head: distance between the starts of two windows over a long "
    "text, in tokens.",
    lower_bound=1,
  )
  flags.DEFINE_integer(
    "max_query_length",
    settings.max_query_length,
    "With a span head: largest number of tokens of a question; longer "
    "questions are truncated.",
    lower_bound=1,
  )
  flags.DEFINE_integer(
    "max_answer_length",
    settings.max_answer_length,
    "With a span head: largest number of tokens of an answer.",
    lower_bound=1,
  )


@launch.owns("export_dir")
def main(_):
  files = common_flags.model_files(
    "bert_config_file", "vocab_file", "init_checkpoint"
  )
  config = common_flags.read_config(files)
  version_dir = _version_dir()
  head, classifier = _find_head(config, files)
  if FLAGS.frozen and head.name == heads.ENCODER:
    raise UserError(
      "--frozen: other programs may train an encoder, so its weights have to "
      "stay variables. Leave the flag out, or pass the --head of a classifier."
    )
  settings = common_flags.text_settings(
    files, classifier.text_settings if classifier else None
  )
  tokenizer = common_flags.create_tokenizer(files, config, settings)
  max_seq_length = _max_seq_length(config, files, head, classifier)
  preprocessor = signatures.Preprocessor(
    files.vocab_file, tokenizer, max_seq_length
  )
  logging.info("Reading the weights of %s ...", files.init_checkpoint)
  model = _load_model(config, files.init_checkpoint, head, classifier)
  serving_class = getattr(signatures, head.serving_class)
  served = serving_class(model, preprocessor, _serving_settings(classifier))
  save(served, version_dir)
  names = ", ".join(served.warmup_requests())
  logging.info(
    "%s holds the %s, with the signatures %s.", version_dir, head.name, names
  )


def _version_dir() -> str:
  """Returns the folder to write."""
  names = []
  if tf.io.gfile.isdir(FLAGS.export_dir):
    names = [name.strip("/") for name in tf.io.gfile.listdir(FLAGS.export_dir)]
  versions = [int(name) for name in names if name.isdecimal()]
  version = FLAGS.version or max(versions, default=0) + 1
  return os.path.join(FLAGS.export_dir, str(version))


def _find_head(
  config: modeling.BertConfig, files: model_folder.ModelFiles
) -> tuple[heads.Head, classifier_config.ClassifierConfig | None]:
  """Returns the head, and its labels and settings if it is a classifier.

  Args:
    config: Config of the model.
    files: Files of the model.

  Raises:
    UserError: The weights have no such head, or its labels are not known.
  """
  path = files.init_checkpoint
  names = checkpoint.open_checkpoint(path).shapes
  classifier = classifier_config.ClassifierConfig.read(os.path.dirname(path))
  if FLAGS.head:
    head = heads.HEADS[FLAGS.head]
  else:
    found = [head for head in heads.find_heads(names) if head.serving_class]
    head = found[0]
    if head.is_classifier:
      if not classifier:
        raise UserError(
          f"--init_checkpoint={path} has a classifier, but there is no "
          "classifier.json next to it. Pass --head, and --labels if it has "
          f"any; or pass --head={heads.ENCODER} for the encoder alone."
        )
      head = classifier.head
  common_flags.check_belongs(
    _SPAN_FLAGS, head.name == heads.SPAN, "a span head"
  )
  if not head.is_classifier:
    common_flags.check_belongs(["labels"], False, "a head with labels")
    return head, None
  if classifier and FLAGS.labels:
    raise UserError(
      f"--labels={','.join(FLAGS.labels)}: the classifier.json next to {path} "
      "already has the labels. Leave --labels out, or remove the file."
    )
  if not classifier:
    classifier = classifier_config.ClassifierConfig(
      head.name,
      tuple(FLAGS.labels),
      common_flags.text_settings(files),
      config.max_position_embeddings,
      encoding.TRUNCATE,
    )
  classifier.check_weights(path, "--init_checkpoint")
  return head, classifier


def _max_seq_length(
  config: modeling.BertConfig,
  files: model_folder.ModelFiles,
  head: heads.Head,
  classifier: classifier_config.ClassifierConfig | None,
) -> int:
  """Returns --max_seq_length, or the default of the head.

  Raises:
    UserError: The length does not fit the model or the questions.
  """
  is_span = head.name == heads.SPAN
  length = FLAGS.max_seq_length
  if length is None:
    length = config.max_position_embeddings
    if classifier:
      length = classifier.max_seq_length
    elif is_span:
      length = min(length, _DEFAULT_SPAN_LENGTH)
  common_flags.check_max_seq_length(length, config, files)
  if is_span and FLAGS.max_query_length > length - 4:
    raise UserError(
      f"--max_query_length={FLAGS.max_query_length} leaves no room for a text"
      f" in --max_seq_length={length}. Lower it."
    )
  return length


def _load_model(
  config: modeling.BertConfig,
  init_checkpoint: str,
  head: heads.Head,
  classifier: classifier_config.ClassifierConfig | None,
) -> tf.Module:
  """Returns the model with the weights of the checkpoint."""
  names = checkpoint.open_checkpoint(init_checkpoint).shapes
  model = head.create_model(
    config,
    classifier.num_outputs if classifier else None,
    compute_dtype=common_flags.compute_dtype(),
    is_portable=True,
    add_pooler=head.adds_pooler(names),
  )
  variables = checkpoint.variables_by_name(model)
  checkpoint.restore_all(variables, init_checkpoint, "--init_checkpoint")
  if head.name == heads.ENCODER:  # other programs may train it
    return model
  if not FLAGS.frozen:
    modeling.store_kernels(model, common_flags.compute_dtype())
    return model
  num_bytes = modeling.freeze_kernels(model, common_flags.compute_dtype())
  if num_bytes > _MOST_CONSTANTS:
    raise UserError(
      f"--frozen: the kernels have {num_bytes / 2**30:.1f} GiB, and the graph "
      f"of a SavedModel holds at most {_MOST_CONSTANTS / 2**30:.1f}. Leave the "
      "flag out, or pass --precision=bfloat16."
    )
  return model


def _serving_settings(
  classifier: classifier_config.ClassifierConfig | None,
) -> serving_settings.ServingSettings:
  """Returns the settings of the flags, and those of a classifier."""
  settings = serving_settings.ServingSettings(
    doc_stride=FLAGS.doc_stride,
    max_query_length=FLAGS.max_query_length,
    max_answer_length=FLAGS.max_answer_length,
  )
  if classifier:
    settings = settings._replace(
      problem_type=classifier.problem_type,
      labels=classifier.labels,
      long_text=classifier.long_text,
    )
  return settings


# --- The files of a SavedModel -----------------------------------------------


def save(served: signatures.ServedModel, folder: str) -> None:
  """Writes a SavedModel, and requests to warm it up; all files or none.

  Args:
    served: The model.
    folder: Folder to write; its name is the number of the version.

  Raises:
    UserError: The folder exists with another model, or cannot be written.
  """
  logging.info("Building the graphs of the signatures, and writing them ...")
  # The name of a temporary folder is not a number, so a server does not take
  # it for a version.
  with file_io.temporary_folder(folder) as temporary:
    tf.saved_model.save(served, temporary, signatures=served.signatures())
    _set_fingerprint(os.path.join(temporary, _FINGERPRINT_FILE))
    # Next to the vocabulary, where our own programs look for it.
    served.preprocessor.text_settings.write(os.path.join(temporary, "assets"))
    parent, version = os.path.split(folder)
    model_name = os.path.basename(os.path.abspath(parent))
    _write_warmup_requests(
      os.path.join(temporary, _WARMUP_FILE),
      model_name,
      served.warmup_requests(),
    )
    if tf.io.gfile.exists(folder):
      # It may come from the same command, killed when it was done.
      if not _have_same_files(folder, temporary):
        raise UserError(
          f"--version={version} is in {parent} already, with other files. Pass "
          "another number, or leave --version out for the next one."
        )
      logging.info("%s exists already, with the same files.", folder)
      return
    file_io.sync_tree(temporary)
    tf.io.gfile.rename(temporary, folder)
    file_io.sync_folder(parent)


def _set_fingerprint(path: str) -> None:
  """Replaces the random identifier of a SavedModel by one of its content."""
  if not tf.io.gfile.exists(path):
    return
  content = file_io.read_bytes(path)
  from tensorflow.core.protobuf import fingerprint_pb2

  fingerprint = fingerprint_pb2.FingerprintDef.FromString(content)
  fingerprint.uuid = ""
  digest = hashlib.sha256(fingerprint.SerializeToString(deterministic=True))
  fingerprint.uuid = str(int.from_bytes(digest.digest()[:8], "big"))
  file_io.write_bytes(path, fingerprint.SerializeToString(deterministic=True))


def _write_warmup_requests(
  path: str, model_name: str, requests: Mapping[str, Mapping[str, Any]]
) -> None:
  """Writes requests as TensorFlow Serving reads them.

  Args:
    path: Path of the file.
    model_name: Name of the model on the server.
    requests: Name of a signature -> its inputs by name.
  """
  from tensorflow_serving.apis import predict_pb2
  from tensorflow_serving.apis import prediction_log_pb2

  tf.io.gfile.makedirs(os.path.dirname(path))
  with tf.io.TFRecordWriter(path) as writer:
    for signature, inputs in requests.items():
      request = predict_pb2.PredictRequest()
      request.model_spec.name = model_name
      request.model_spec.signature_name = signature
      for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
      log = prediction_log_pb2.PredictionLog()
      log.predict_log.request.CopyFrom(request)
      # Otherwise the order of a map differs between processes.
      writer.write(log.SerializeToString(deterministic=True))


def _have_same_files(folder: str, other: str) -> bool:
  """Returns whether two folders hold the same files."""
  names = _files_below(folder)
  if names != _files_below(other):
    return False
  for name in names:
    content = file_io.read_bytes(os.path.join(folder, name))
    if content != file_io.read_bytes(os.path.join(other, name)):
      return False
  return True


def _files_below(folder: str) -> list[str]:
  """Returns the paths of all files in a folder, relative to it and sorted."""
  paths = []
  for parent, _, names in tf.io.gfile.walk(folder):
    for name in names:
      paths.append(os.path.relpath(os.path.join(parent, name), folder))
  return sorted(paths)


if __name__ == "__main__":
  define_flags()
  launch.run(main, saves_at_signals=False)
