"""Records of texts to classify, and the logits of the texts.

A text that does not fit may become several records, its windows. It counts as
one example: the windows share its weight, and their logits are averaged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from data import batching
from data import encoding
from data import record_files
from tasks import classification
from tasks import classifier_config
from tasks import finetuning
import tokenization


class TrainingTargets(NamedTuple):
  """Training targets of n examples.

  Attributes:
    targets: Targets in the form of the problem type.
    weights: Weight of each example in the loss of its label, float [n].
    teacher_logits: Logits of a teacher, float [n, num_outputs]; None without
      a teacher.
  """

  targets: np.ndarray
  weights: np.ndarray | None = None
  teacher_logits: np.ndarray | None = None


class ClassificationRecords(NamedTuple):
  """The records of n examples.

  Attributes:
    records: The file of records.
    example_numbers: Number of the example of each record, int64 [num_records].
  """

  records: finetuning.TaskRecords
  example_numbers: np.ndarray


def write_records(
  path: str,
  classifier: classifier_config.ClassifierConfig,
  tokenizer: tokenization.FullTokenizer,
  examples: Sequence[classification.Example],
  training_targets: TrainingTargets | None = None,
) -> ClassificationRecords:
  """Writes the records of examples, unless the same are there already.

  Args:
    path: Path of the file.
    classifier: Says how text is read.
    tokenizer: Tokenizer of the model.
    examples: Examples to write.
    training_targets: Targets of the examples; None if they are not needed.
  """
  if training_targets is None:
    training_targets = TrainingTargets(
      classifier.problem.empty_targets(len(examples))
    )
  targets, weights, teacher_logits = training_targets
  if teacher_logits is not None:
    teacher_logits = np.asarray(teacher_logits, np.float32)
  digest = record_files.compute_digest(
    "classification",
    classifier.to_fields(),
    record_files.compute_tokenizer_digest(tokenizer),
    [(example.text_a, example.text_b) for example in examples],
    np.asarray(targets),
    weights,
    teacher_logits,
  )
  training_targets = TrainingTargets(targets, weights, teacher_logits)

  def write() -> dict[str, Any]:
    facts = {"example_numbers": [], record_files.TOO_LONG: 0}
    record_files.write_records(
      path,
      _records(classifier, tokenizer, examples, training_targets, facts),
    )
    return facts

  stamped = record_files.reuse_or_write_file(path, digest, write)
  numbers = np.array(stamped.facts["example_numbers"], np.int64)
  records = finetuning.TaskRecords(
    path,
    len(numbers),
    stamped.checksum,
    classifier.max_seq_length,
    _feature_spec(classifier, has_teacher=teacher_logits is not None),
  )
  return ClassificationRecords(records, numbers)


def _records(
  classifier: classifier_config.ClassifierConfig,
  tokenizer: tokenization.FullTokenizer,
  examples: Sequence[classification.Example],
  training_targets: TrainingTargets,
  facts: dict[str, Any],
) -> Iterator[bytes]:
  """Yields records, and adds to the facts about them."""
  targets, weights, teacher_logits = training_targets
  for number, example in enumerate(examples):
    ids_a = tokenizer.encode(example.text_a)
    ids_b = tokenizer.encode(example.text_b) if example.text_b else None
    facts[record_files.TOO_LONG] += encoding.is_too_long(
      ids_a, ids_b, classifier.max_seq_length
    )
    windows = encoding.encode_long_pair(
      ids_a,
      ids_b,
      classifier.max_seq_length,
      tokenizer.cls_id,
      tokenizer.sep_id,
      classifier.long_text,
    )
    # A text counts once, however many windows it has.
    share = 1.0 / len(windows)
    weight = share if weights is None else share * float(weights[number])
    target_features = {
      "label_ids": np.ravel(targets[number]).tolist(),
      "label_weight": [weight],
    }
    if teacher_logits is not None:
      target_features["teacher_weight"] = [share]
      target_features["teacher_logits"] = teacher_logits[number].tolist()
    for window in windows:
      facts["example_numbers"].append(number)
      yield batching.create_task_record(window, **target_features)


def _feature_spec(
  classifier: classifier_config.ClassifierConfig, has_teacher: bool
) -> dict[str, tf.io.FixedLenFeature]:
  """Returns the parsers of the features that are not ids."""
  spec = {
    "label_ids": classifier.problem.target_parser,
    "label_weight": tf.io.FixedLenFeature([], tf.float32),
  }
  if has_teacher:
    spec["teacher_weight"] = tf.io.FixedLenFeature([], tf.float32)
    spec["teacher_logits"] = tf.io.FixedLenFeature(
      [classifier.num_outputs], tf.float32
    )
  return spec


def predict_logits(
  recipe: finetuning.Recipe, records: ClassificationRecords, batch_size: int
) -> np.ndarray:
  """Returns the logits of each example, means over its windows.

  Args:
    recipe: Has the weights.
    records: Records of the examples.
    batch_size: Number of records of a batch.

  Returns:
    float64 [num_examples, num_outputs].
  """
  rows = recipe.predict(records.records, batch_size)["logits"]
  # example_numbers   0  1  1  1  2      records of three examples
  # counts            1  3  1            windows of each
  numbers = records.example_numbers
  counts = np.bincount(numbers)
  sums = np.zeros([len(counts), rows[0].shape[-1]])
  for number, logits in zip(numbers, rows):
    sums[number] += logits
  return sums / counts[:, np.newaxis]
