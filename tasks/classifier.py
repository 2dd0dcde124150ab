"""Classifiers of texts: from examples to records, a loss, and predictions.

Programs that fine-tune a model to classify share this; it knows neither flags
nor data sets. What a classifier is beside its weights lies with them, in
`classifier.json`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import os
from typing import NamedTuple, Optional

import numpy as np
import tensorflow as tf

import checkpoint
from data import batching
from data import encoding
from data import file_io
from data import record_files
from errors import UserError
import estimator as estimator_lib
import losses
from tasks import classification
from tasks import metrics
from tasks import text_files
import tokenization

_FILE = "classifier.json"

# Problem types beside those of `classification`.
TAGGING = "tagging"
MULTIPLE_CHOICE = "multiple_choice"
_PROBLEM_TYPES = (*classification.PROBLEM_TYPES, TAGGING, MULTIPLE_CHOICE)
_WITHOUT_LABELS = (classification.REGRESSION, MULTIPLE_CHOICE)
_LONG_TEXT = (encoding.TRUNCATE, encoding.HEAD_TAIL, encoding.SLIDING_WINDOW)
# Special tokens need 3; windows of a text need some more.
_SHORTEST_SEQUENCE, _SHORTEST_WINDOW = 3, 8


@dataclasses.dataclass(frozen=True)
class Classifier:
  """What a classifier predicts, and how it reads text.

  Attributes:
    problem_type: one of `classification.PROBLEM_TYPES`, or of the above.
    labels: in the order of their ids; none for regression and choices.
    do_lower_case: whether text is lower-cased.
    max_seq_length: most tokens of a sequence.
    long_text: what becomes of longer texts; see `encoding.encode_long_pair`.
  """

  problem_type: str
  labels: tuple[str, ...]
  do_lower_case: bool
  max_seq_length: int
  long_text: str

  @property
  def num_outputs(self) -> int:
    return len(self.labels) or 1

  def write(self, folder: str) -> None:
    """Writes `classifier.json`."""
    file_io.write_json(os.path.join(folder, _FILE), dataclasses.asdict(self))

  @classmethod
  def read(cls, folder: str) -> Optional["Classifier"]:
    """Returns the classifier of a folder, or None if there is none.

    Raises:
      UserError: the file is damaged, or a field has a value that it cannot
        have.
    """
    path = os.path.join(folder, _FILE)
    if not tf.io.gfile.exists(path):
      return None
    fields = file_io.read_json(path)
    names = [field.name for field in dataclasses.fields(cls)]
    if set(fields) != set(names):
      raise UserError(
        f"{path} has {text_files.some(fields) or 'no fields'}, "
        f"but needs {', '.join(names)}, and no others."
      )
    _check_fields(fields, path)
    return cls(**{**fields, "labels": tuple(fields["labels"])})

  def check_weights(self, path: str, flag: str) -> None:
    """Raises a UserError unless a checkpoint is of such a classifier.

    Args:
      path: see `checkpoint.open_checkpoint`.
      flag: what the user gave the path with.
    """
    shapes = checkpoint.open_checkpoint(path, flag).shapes
    if "output_bias" not in shapes or "output_weights" not in shapes:
      raise UserError(
        f"{flag}={path} has no classifier, only what one is "
        "trained from. Pass --do_train."
      )
    for name, rank in (("output_bias", 1), ("output_weights", 2)):
      num_outputs, *rest = shapes[name] or (0,)
      if num_outputs != self.num_outputs or len(rest) != rank - 1:
        raise UserError(
          f"{flag}={path} is a classifier of {num_outputs} labels, but there "
          f"are {self.num_outputs}: "
          f"{text_files.some(self.labels) or 'a number'}. Give it the {_FILE}"
          " that it was trained with, in the same folder, or train again, in "
          "another --output_dir."
        )

  def check_start(
    self, newest: str | None, init_checkpoint: str | None, is_training: bool
  ) -> None:
    """Raises a UserError if the weights to start from do not fit.

    Args:
      newest: the newest checkpoint of the run, which comes first, or None.
      init_checkpoint: what else to start from, or None.
      is_training: whether a new head may be trained.
    """
    if newest:
      self.check_weights(newest, "--output_dir")
    elif init_checkpoint and not is_training:
      self.check_weights(init_checkpoint, "--init_checkpoint")
    elif init_checkpoint:
      checkpoint.open_checkpoint(init_checkpoint)

  def no_targets(self, num_examples: int) -> np.ndarray:
    """Returns zeros in the form of `ClassificationTask.targets`."""
    if self.problem_type == classification.MULTI_LABEL:
      return np.zeros([num_examples, len(self.labels)], np.float32)
    return np.zeros(
      [num_examples],
      np.float32
      if self.problem_type == classification.REGRESSION
      else np.int64,
    )

  # --- What logits mean ------------------------------------------------------

  def probabilities(self, logits: np.ndarray) -> np.ndarray:
    """Returns what is written of logits [n, num_outputs], float64.

    Probabilities of the labels; for regression the number itself.
    """
    if self.problem_type == classification.REGRESSION:
      return np.asarray(logits, np.float64)
    if self.problem_type == classification.MULTI_LABEL:
      return metrics.sigmoid(logits)
    return np.exp(metrics.log_softmax(logits))

  def decide(self, logits: np.ndarray) -> np.ndarray:
    """Returns predictions, in the form of `ClassificationTask.targets`."""
    if self.problem_type == classification.REGRESSION:
      return logits[:, 0]
    if self.problem_type == classification.MULTI_LABEL:
      return (logits > 0.0).astype(np.float32)
    return np.argmax(logits, axis=-1)

  def name(self, prediction):
    """Returns a prediction by name: a label, a list of labels, or a number."""
    if self.problem_type == classification.REGRESSION:
      return float(prediction)
    if self.problem_type == classification.MULTI_LABEL:
      return [label for label, is_one in zip(self.labels, prediction) if is_one]
    return self.labels[prediction]

  def losses(self, targets: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Returns the loss of each of n examples, float64 [n]."""
    if self.problem_type == classification.REGRESSION:
      return (np.asarray(logits[:, 0], np.float64) - targets) ** 2
    if self.problem_type == classification.MULTI_LABEL:
      return metrics.sigmoid_cross_entropy(targets, logits)
    return metrics.cross_entropy(targets, logits)


def _check_fields(fields: Mapping[str, object], path: str) -> None:
  """Checks what a `classifier.json` says.

  Raises:
    UserError: a field has a value that it cannot have.
  """
  labels, length = fields["labels"], fields["max_seq_length"]
  are_different = (
    isinstance(labels, list)
    and all(isinstance(label, str) for label in labels)
    and (len(set(labels)) == len(labels))
  )
  needs_labels = fields["problem_type"] not in _WITHOUT_LABELS
  shortest = (
    _SHORTEST_WINDOW
    if fields["long_text"] == encoding.SLIDING_WINDOW
    else _SHORTEST_SEQUENCE
  )
  for name, wanted, is_right in [
    (
      "problem_type",
      f"one of {', '.join(_PROBLEM_TYPES)}",
      fields["problem_type"] in _PROBLEM_TYPES,
    ),
    (
      "labels",
      "a list of different texts" if needs_labels else "an empty list",
      are_different and bool(labels) == needs_labels,
    ),
    (
      "do_lower_case",
      "true or false",
      isinstance(fields["do_lower_case"], bool),
    ),
    (
      "long_text",
      f"one of {', '.join(_LONG_TEXT)}",
      fields["long_text"] in _LONG_TEXT,
    ),
    (
      "max_seq_length",
      f"a whole number of at least {shortest}",
      isinstance(length, int)
      and not isinstance(length, bool)
      and length >= shortest,
    ),
  ]:
    if not is_right:
      raise UserError(
        f"{path}: {name} is {text_files.shown(fields[name])}, not {wanted}."
      )


# --- Records -----------------------------------------------------------------


class Records(NamedTuple):
  """A file of records.

  Attributes:
    file: its path.
    example_numbers: which example each record is of; a long text may have
      several. Int64 [num_records].
    checksum: of the file.
  """

  file: str
  example_numbers: np.ndarray
  checksum: int


def write_records(
  path: str,
  classifier: Classifier,
  tokenizer: tokenization.FullTokenizer,
  examples: Sequence[classification.Example],
  targets: np.ndarray | None = None,
  label_weights: np.ndarray | None = None,
  teacher_logits: np.ndarray | None = None,
) -> Records:
  """Writes the records of n examples, unless they are there already.

  Args:
    path: of the file.
    classifier: says how text is read.
    tokenizer: of the model.
    examples: the examples.
    targets: see `ClassificationTask.targets`; None if they do not matter.
    label_weights: weight of the label of each example in the loss, float [n];
      None for 1.
    teacher_logits: float [n, num_outputs], if there is a teacher.
  """
  if targets is None:
    targets = classifier.no_targets(len(examples))
  if teacher_logits is not None:
    teacher_logits = np.asarray(teacher_logits, np.float32)
  digest = record_files.compute_digest(
    "classification",
    dataclasses.asdict(classifier),
    record_files.compute_tokenizer_digest(tokenizer),
    [(example.text_a, example.text_b) for example in examples],
    np.asarray(targets),
    label_weights,
    teacher_logits,
  )
  stamped = record_files.reuse_or_write_file(
    path,
    digest,
    lambda: _write_records(
      path,
      classifier,
      tokenizer,
      examples,
      targets,
      label_weights,
      teacher_logits,
    ),
  )
  return Records(
    path, np.array(stamped.facts["example_numbers"], np.int64), stamped.checksum
  )


def _write_records(
  path, classifier, tokenizer, examples, targets, label_weights, teacher_logits
) -> dict[str, list[int]]:
  """Writes the file; returns what there is to know about it."""
  numbers = []
  cls_id, sep_id = tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]"])

  def records() -> Iterator[bytes]:
    for number, example in enumerate(examples):
      windows = encoding.encode_long_pair(
        tokenizer.encode(example.text_a),
        example.text_b and tokenizer.encode(example.text_b),
        classifier.max_seq_length,
        cls_id,
        sep_id,
        classifier.long_text,
      )
      # A text counts once, however many windows it has.
      share = 1.0 / len(windows)
      features = {
        "label_ids": np.ravel(targets[number]).tolist(),
        "label_weight": [
          share
          if label_weights is None
          else share * float(label_weights[number])
        ],
      }
      if teacher_logits is not None:
        features.update(
          teacher_weight=[share], teacher_logits=teacher_logits[number].tolist()
        )
      numbers.extend([number] * len(windows))
      for packed in windows:
        yield batching.create_task_record(packed, **features)

  record_files.write_records(path, records())
  return {"example_numbers": numbers}


def feature_spec(
  classifier: Classifier, has_teacher: bool
) -> dict[str, tf.io.FixedLenFeature]:
  """Returns what records hold beside the ids, for `task_dataset`."""
  labels = {
    classification.SINGLE_LABEL: tf.io.FixedLenFeature([], tf.int64),
    classification.REGRESSION: tf.io.FixedLenFeature([], tf.float32),
    classification.MULTI_LABEL: tf.io.FixedLenFeature(
      [classifier.num_outputs], tf.float32
    ),
  }[classifier.problem_type]
  spec = {
    "label_ids": labels,
    "label_weight": tf.io.FixedLenFeature([], tf.float32),
  }
  if has_teacher:
    spec["teacher_weight"] = tf.io.FixedLenFeature([], tf.float32)
    spec["teacher_logits"] = tf.io.FixedLenFeature(
      [classifier.num_outputs], tf.float32
    )
  return spec


def input_fn_builder(
  records: Records,
  classifier: Classifier,
  is_training: bool,
  static_shapes: bool,
  has_teacher: bool = False,
  batch_size: int | None = None,
):
  """Returns the `input_fn` of records; see `batching.task_dataset`.

  `batch_size` is that of the estimator, if not given.
  """

  def input_fn(params):
    order = None
    if is_training:
      order = batching.TrainingOrder(
        len(records.example_numbers),
        records.checksum,
        params["seed"],
        params.get(batching.INPUT_POSITION),
      )
    return batching.task_dataset(
      records.file,
      classifier.max_seq_length,
      batch_size or params["batch_size"],
      feature_spec(classifier, has_teacher),
      order,
      static_shapes,
    )

  return input_fn


# --- Training ----------------------------------------------------------------


class Distillation(NamedTuple):
  """How a student learns from a teacher (Hinton et al., 2015).

  Attributes:
    temperature: what logits are divided by.
    hard_label_weight: share of the loss that is about the labels, from 0 to 1;
      the rest is about what the teacher says.
  """

  temperature: float = 1.0
  hard_label_weight: float = 0.0


def loss_fn_builder(
  logits_fn: Callable[..., tf.Tensor],
  classifier: Classifier,
  label_weights: np.ndarray | None = None,
  distillation: Distillation | None = None,
):
  """Returns the `loss_fn` of an `EstimatorSpec`.

  Args:
    logits_fn: (features, dropout_seed) -> float32 [batch_size, num_outputs].
    classifier: what is predicted.
    label_weights: for several labels, see `losses.multi_label_loss`.
    distillation: None without a teacher.
  """

  def label_loss(logits, labels, weights):
    if classifier.problem_type == classification.REGRESSION:
      return losses.regression_loss(logits, labels, weights)
    if classifier.problem_type == classification.MULTI_LABEL:
      return losses.multi_label_loss(logits, labels, weights, label_weights)
    return losses.classification_loss(logits, labels, weights)

  def teacher_loss(logits, teacher_logits, weights):
    if classifier.problem_type == classification.REGRESSION:
      return losses.regression_loss(logits, teacher_logits, weights)
    temperature = distillation.temperature
    if classifier.problem_type == classification.SINGLE_LABEL:
      return losses.distillation_loss(
        logits, teacher_logits, weights, temperature
      )
    total, weight = losses.multi_label_loss(
      logits / temperature, tf.sigmoid(teacher_logits / temperature), weights
    )
    return total * temperature**2, weight

  def loss_fn(features, dropout_seed):
    logits = logits_fn(features, dropout_seed)
    total, weight = label_loss(
      logits,
      features["label_ids"],
      features["is_real_example"] * features["label_weight"],
    )
    if not distillation:
      return estimator_lib.Losses({"loss": (total, weight)})
    share = distillation.hard_label_weight
    terms = {}
    if share > 0.0:
      terms["label_loss"] = (share * total, weight)
    if share < 1.0:
      total, weight = teacher_loss(
        logits,
        features["teacher_logits"],
        features["is_real_example"] * features["teacher_weight"],
      )
      terms["teacher_loss"] = ((1.0 - share) * total, weight)
    return estimator_lib.Losses(terms)

  return loss_fn


# --- Prediction --------------------------------------------------------------


def predict_fn_builder(logits_fn: Callable[..., tf.Tensor]):
  """Returns the `predict_fn` of an `EstimatorSpec`; see `loss_fn_builder`."""

  def predict_fn(features) -> Mapping[str, tf.Tensor]:
    return {
      "logits": logits_fn(features, None),
      "record_number": features["record_number"],
    }

  return predict_fn


def predict_logits(
  estimator: estimator_lib.TPUEstimator,
  records: Records,
  classifier: Classifier,
  batch_size: int,
  static_shapes: bool = False,
) -> np.ndarray:
  """Returns float64 [num_examples, num_outputs], means over windows."""
  numbers = records.example_numbers
  logits = np.zeros([int(numbers[-1]) + 1, classifier.num_outputs])
  for prediction in estimator.predict(
    input_fn_builder(
      records,
      classifier,
      is_training=False,
      static_shapes=static_shapes,
      batch_size=batch_size,
    )
  ):
    logits[numbers[prediction["record_number"]]] += prediction["logits"]
  return logits / np.bincount(numbers)[:, np.newaxis]
