"""Exports a trained model as a SavedModel that serves ids and raw text.

    python export_saved_model.py --model=/tmp/mrpc/export \\
        --export_dir=served/mrpc

What a program of this repository has trained is recognized by its head: a
classifier, a tagger, a finder of answers, a chooser among answers, or else an
encoder, which gives features. --export_dir gets a folder with the number of the
version, as TensorFlow Serving looks for it; the model needs nothing else. The
folder appears when it is whole.
"""

import launch  # First: from here on a signal ends the program quietly.

import hashlib
import os

from absl import flags
from absl import logging
import tensorflow as tf
from tensorflow.core.protobuf import fingerprint_pb2
from tensorflow_serving.apis import predict_pb2
from tensorflow_serving.apis import prediction_log_pb2

import checkpoint
import common_flags
from data import encoding
from data import file_io
from errors import UserError
import heads
import modeling
from serving import signatures
from tasks import classification
from tasks import classifier_config

FLAGS = flags.FLAGS

_SPAN = "span"
_ENCODER = "encoder"
# Heads that are described by a classifier.json.
_CLASSIFIERS = (
  *classification.PROBLEM_TYPES,
  heads.TAGGING,
  heads.MULTIPLE_CHOICE,
)
_SPAN_FLAGS = ("doc_stride", "max_query_length", "max_answer_length")
_WARMUP_FILE = os.path.join("assets.extra", "tf_serving_warmup_requests")
_FINGERPRINT_FILE = "fingerprint.pb"


def define_flags() -> None:
  """Defines the flags of this program."""
  common_flags.define_model_flags()
  common_flags.define_vocab_flags()
  flags.DEFINE_string(
    "export_dir", None, "Folder of the versions of the model.", required=True
  )
  flags.DEFINE_integer(
    "version",
    None,
    "Number of this version; one more than the highest there, if not given.",
    lower_bound=1,
  )
  flags.DEFINE_enum(
    "head",
    None,
    [_ENCODER, _SPAN, *_CLASSIFIERS],
    "What the model does; found in its files, if not given.",
  )
  flags.DEFINE_list(
    "labels",
    [],
    "Labels in the order of their ids, for "
    "weights without a classifier.json beside them.",
  )
  flags.DEFINE_integer(
    "max_seq_length",
    None,
    "Most tokens of a sequence that "
    "is made of raw text. If not given, what the model was "
    "trained with, 384 for span, or what it can read.",
  )
  settings = signatures.SpanSettings()
  flags.DEFINE_integer(
    "doc_stride",
    settings.doc_stride,
    "With a span head, "
    "how many tokens a window of a long text begins after "
    "the one before.",
    lower_bound=1,
  )
  flags.DEFINE_integer(
    "max_query_length",
    settings.max_query_length,
    "Most tokens of a question; longer ones are cut.",
    lower_bound=1,
  )
  flags.DEFINE_integer(
    "max_answer_length",
    settings.max_answer_length,
    "Most tokens of an answer.",
    lower_bound=1,
  )


@launch.owns("export_dir")
def main(_):
  files = common_flags.model_files(
    "bert_config_file", "vocab_file", "init_checkpoint"
  )
  config = common_flags.read_config(files)
  version_dir = _version_dir()
  head, classifier = _head(config, files.init_checkpoint)
  do_lower_case = FLAGS.do_lower_case
  if classifier and not FLAGS["do_lower_case"].present:
    do_lower_case = classifier.do_lower_case
  tokenizer = common_flags.create_tokenizer(files, config, do_lower_case)
  max_seq_length = _max_seq_length(config, files, head, classifier)
  reader = signatures.Reader(files.vocab_file, tokenizer, max_seq_length)
  served = _served(config, files.init_checkpoint, head, classifier, reader)
  save(served, version_dir)
  logging.info(
    "%s holds the %s, with the signatures %s.",
    version_dir,
    head,
    ", ".join(served.requests()),
  )


def _version_dir() -> str:
  """Returns the folder to write."""
  names = (
    tf.io.gfile.listdir(FLAGS.export_dir)
    if tf.io.gfile.isdir(FLAGS.export_dir)
    else []
  )
  versions = [
    int(name.strip("/")) for name in names if name.strip("/").isdecimal()
  ]
  version = FLAGS.version or max(versions, default=0) + 1
  return os.path.join(FLAGS.export_dir, str(version))


def _head(
  config, path: str
) -> tuple[str, classifier_config.ClassifierConfig | None]:
  """Returns the head, and what it predicts if it is that of a classifier.

  Raises:
    UserError: the weights have no such head, or it is not known what it says.
  """
  shapes = checkpoint.open_checkpoint(path).shapes
  classifier = classifier_config.ClassifierConfig.read(os.path.dirname(path))
  head = FLAGS.head
  if not head:
    head = _ENCODER
    if "cls/squad/output_weights" in shapes:
      head = _SPAN
    elif "output_weights" in shapes and not classifier:
      raise UserError(
        f"--init_checkpoint={path} has a classifier, but no classifier.json "
        "is beside it. Say what it is with --head, and with --labels what it "
        f"predicts; or pass --head={_ENCODER} for the encoder alone."
      )
    elif "output_weights" in shapes:
      head = classifier.problem_type
  common_flags.check_belongs(_SPAN_FLAGS, head == _SPAN, "a span head")
  if head not in _CLASSIFIERS:
    common_flags.check_belongs(["labels"], False, "a head with labels")
    return head, None
  if not classifier:
    classifier = classifier_config.ClassifierConfig(
      head,
      tuple(FLAGS.labels),
      FLAGS.do_lower_case,
      config.max_position_embeddings,
      encoding.TRUNCATE,
    )
  elif FLAGS.labels:
    raise UserError(
      f"--labels={','.join(FLAGS.labels)}: the classifier.json "
      f"beside {path} has them already. Leave one out."
    )
  classifier.check_weights(path, "--init_checkpoint")
  return head, classifier


def _max_seq_length(config, files, head: str, classifier) -> int:
  """Returns the length of the flag, or the default of the head.

  Raises:
    UserError: the length does not fit the model or the questions.
  """
  length = FLAGS.max_seq_length
  if length is None:
    length = config.max_position_embeddings
    if classifier:
      length = classifier.max_seq_length
    elif head == _SPAN:
      length = min(length, 384)
  common_flags.check_max_seq_length(length, config, files)
  if head == _SPAN and FLAGS.max_query_length > length - 4:
    raise UserError(
      f"--max_query_length={FLAGS.max_query_length} leaves no room for a text"
      f" in --max_seq_length={length}. Lower it."
    )
  return length


def _served(
  config, init_checkpoint: str, head: str, classifier, reader: signatures.Reader
) -> tf.Module:
  """Returns the model with its signatures, weights loaded."""
  options = {"compute_dtype": common_flags.compute_dtype(), "is_portable": True}
  if head == _ENCODER:
    served = signatures.Encoder(modeling.BertModel(config, **options), reader)
  elif head == _SPAN:
    served = signatures.SpanFinder(
      modeling.BertForQuestionAnswering(config, **options),
      reader,
      signatures.SpanSettings(
        FLAGS.doc_stride,
        FLAGS.max_query_length,
        max_answer_length=FLAGS.max_answer_length,
      ),
    )
  elif head == heads.TAGGING:
    served = signatures.Tagger(
      modeling.BertForTokenClassification(
        config, classifier.num_outputs, **options
      ),
      reader,
      classifier.labels,
    )
  elif head == heads.MULTIPLE_CHOICE:
    served = signatures.Chooser(
      modeling.BertForMultipleChoice(config, **options), reader
    )
  else:
    served = signatures.Classifier(
      modeling.BertForSequenceClassification(
        config, classifier.num_outputs, **options
      ),
      reader,
      classifier,
    )
  checkpoint.restore_all(
    checkpoint.variables_by_name(served.model),
    init_checkpoint,
    "--init_checkpoint",
  )
  return served


def save(served: tf.Module, folder: str) -> None:
  """Writes a SavedModel, whole or not at all, and requests to warm up with.

  Args:
    served: a model of `serving`.
    folder: to write; its name is the number of the version.

  Raises:
    UserError: the folder exists with another model, or cannot be written.
  """
  # The name of a temporary folder is no number: a server does not take it for
  # a version.
  with file_io.temporary_folder(folder) as temporary:
    tf.saved_model.save(served, temporary, signatures=served.signatures())
    _set_fingerprint(os.path.join(temporary, _FINGERPRINT_FILE))
    warmup_file = os.path.join(temporary, _WARMUP_FILE)
    tf.io.gfile.makedirs(os.path.dirname(warmup_file))
    parent, version = os.path.split(folder)
    model_name = os.path.basename(os.path.abspath(parent))
    with tf.io.TFRecordWriter(warmup_file) as writer:
      for signature, inputs in served.requests().items():
        writer.write(_warmup_record(model_name, signature, inputs))
    if tf.io.gfile.exists(folder):
      # Perhaps of the same command, killed when it was done.
      if not _is_same(folder, temporary):
        raise UserError(
          f"--version={version} is in {parent} already, with "
          "other files. Give another number, or none for the "
          "next."
        )
      logging.info("%s is there already, with the same files.", folder)
      return
    file_io.sync_tree(temporary)
    tf.io.gfile.rename(temporary, folder)
    file_io.sync_folder(parent)


def _set_fingerprint(path: str) -> None:
  """Replaces the random identifier of a SavedModel by one of its content."""
  if not tf.io.gfile.exists(path):
    return
  fingerprint = fingerprint_pb2.FingerprintDef.FromString(
    file_io.read_bytes(path)
  )
  fingerprint.uuid = ""
  digest = hashlib.sha256(fingerprint.SerializeToString(deterministic=True))
  fingerprint.uuid = str(int.from_bytes(digest.digest()[:8], "big"))
  file_io.write_bytes(path, fingerprint.SerializeToString(deterministic=True))


def _is_same(folder: str, other: str) -> bool:
  """Whether two folders hold the same files."""
  names, other_names = (
    sorted(
      os.path.relpath(os.path.join(parent, name), top)
      for parent, _, files in tf.io.gfile.walk(top)
      for name in files
    )
    for top in (folder, other)
  )
  return names == other_names and all(
    file_io.read_bytes(os.path.join(folder, name))
    == file_io.read_bytes(os.path.join(other, name))
    for name in names
  )


def _warmup_record(model_name: str, signature: str, inputs) -> bytes:
  """Returns a request as TensorFlow Serving reads it from a file."""
  request = predict_pb2.PredictRequest()
  request.model_spec.name = model_name
  request.model_spec.signature_name = signature
  for name, value in inputs.items():
    request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
  log = prediction_log_pb2.PredictionLog()
  log.predict_log.request.CopyFrom(request)
  # The order of a map differs between processes otherwise.
  return log.SerializeToString(deterministic=True)


if __name__ == "__main__":
  define_flags()
  launch.run(main, saves_at_signals=False)
