"""Learning from a teacher (Hinton et al., 2015; Turc et al., 2019).

The logits of the teacher are computed once, and cached in a file that is named
after the texts and the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import hashlib
import io
import json
import os
from typing import NamedTuple

from absl import logging
import numpy as np
import tensorflow as tf

from data import file_io
from errors import UserError
import estimator as estimator_lib
import heads
import modeling
from tasks import classification
from tasks import classification_records
from tasks import classifier_config
from tasks import finetuning
import tokenization
from training import model_folder

_BATCH_SIZE = 32


class DistillationSettings(NamedTuple):
  """Settings by which a student learns from a teacher.

  Attributes:
    temperature: Divisor of the logits of both.
    hard_label_weight: Share of the loss of the labels, from 0 to 1; the rest is
      the loss of the teacher's logits.
  """

  temperature: float = 1.0
  hard_label_weight: float = 0.0


def add_teacher(
  named_losses: Callable[..., heads.NamedSums],
  classifier: classifier_config.ClassifierConfig,
  settings: DistillationSettings,
) -> Callable[..., heads.NamedSums]:
  """Returns the losses of a student, a function like `Head.named_losses`.

  Args:
    named_losses: Function that returns the loss of the labels as `loss`.
    classifier: Kind of the predictions, and their labels.
    settings: How the student learns.
  """
  share = settings.hard_label_weight

  def student_losses(
    logits: tf.Tensor, features: Mapping[str, tf.Tensor]
  ) -> heads.NamedSums:
    terms = {}
    if share > 0.0:
      total, weight = named_losses(logits, features)["loss"]
      terms["label_loss"] = (share * total, weight)
    if share < 1.0:
      weights = features["is_real_example"] * features["teacher_weight"]
      total, weight = classifier.problem.teacher_loss(
        logits, features["teacher_logits"], weights, settings.temperature
      )
      terms["teacher_loss"] = ((1.0 - share) * total, weight)
    return terms

  return student_losses


# --- The logits of the teacher -----------------------------------------------


def teacher_logits(
  teacher_dir: str,
  examples: Sequence[classification.Example],
  student: classifier_config.ClassifierConfig,
  cache_dir: str,
  compute_dtype: tf.DType,
) -> np.ndarray:
  """Returns the logits of a teacher, from the cache if they are there.

  Args:
    teacher_dir: Folder of a trained classifier, or of its `export`.
    examples: Examples to label.
    student: The classifier that learns from the teacher.
    cache_dir: Folder of the cached logits.
    compute_dtype: Type of the teacher's activations.

  Returns:
    float32 [num_examples, num_outputs], in the order of the student's labels.

  Raises:
    UserError: the folder holds no classifier, or one with other labels.
  """
  export_dir = os.path.join(teacher_dir, model_folder.EXPORT_DIR)
  folder = export_dir if tf.io.gfile.isdir(export_dir) else teacher_dir
  teacher = classifier_config.ClassifierConfig.read(folder)
  prefix = os.path.join(folder, "bert_model.ckpt")
  if teacher is None:
    raise UserError(
      f"--teacher_model_dir={teacher_dir} holds no classifier.json. Pass the "
      "--output_dir of a trained classifier, or its export/."
    )
  if (teacher.problem_type, sorted(teacher.labels)) != (
    student.problem_type,
    sorted(student.labels),
  ):
    raise UserError(
      f"The teacher in {folder} predicts {_describe_labels(teacher)}; the "
      f"student is to predict {_describe_labels(student)}. Use a teacher of "
      "this task."
    )
  teacher.check_weights(prefix, "--teacher_model_dir")
  columns = [teacher.labels.index(label) for label in student.labels] or [0]
  key = _cache_key(teacher, prefix, examples)
  path = os.path.join(cache_dir, f"teacher-{key}.npy")
  file_io.remove_leftovers(cache_dir)
  cached = read_cached(path, (len(examples), teacher.num_outputs))
  if cached is not None:
    logging.info("The logits of the teacher are read from %s.", path)
    return cached[:, columns]
  logging.info("***** The teacher labels %d examples *****", len(examples))
  logits = _compute_logits(
    teacher, folder, prefix, examples, path, compute_dtype
  )
  with file_io.atomic_file(path) as temporary:
    with tf.io.gfile.GFile(temporary, "wb") as writer:
      np.save(writer, logits)
  return logits[:, columns]


def read_cached(path: str, shape: tuple[int, int]) -> np.ndarray | None:
  """Returns the logits of a `.npy` file; None if they must be computed.

  Args:
    path: Path of the file.
    shape: Shape of the logits.

  Returns:
    float32 of that shape; None if there is no such file, or it is damaged.

  Raises:
    UserError: the file cannot be read.
  """
  if not tf.io.gfile.exists(path):
    return None
  content = file_io.read_bytes(path)
  header = io.BytesIO()
  np.lib.format.write_array_header_1_0(
    header, {"descr": "<f4", "fortran_order": False, "shape": shape}
  )
  start = len(header.getvalue())
  num_bytes = 4 * shape[0] * shape[1]
  has_header = content.startswith(header.getvalue())
  if has_header and len(content) == start + num_bytes:
    logits = np.frombuffer(content, "<f4", offset=start).reshape(shape)
    if np.isfinite(logits).all():
      return logits
  logging.warning("%s is damaged, so it is computed again.", path)
  return None


def _describe_labels(classifier: classifier_config.ClassifierConfig) -> str:
  return ", ".join(classifier.labels) or "a number"


def _cache_key(teacher, prefix: str, examples) -> str:
  """Returns a digest of all that the logits depend on."""
  texts = [(example.text_a, example.text_b) for example in examples]
  settings: list[object] = [
    teacher.max_seq_length,
    teacher.long_text,
    teacher.text_settings.do_lower_case,
    texts,
  ]
  unusual = teacher.text_settings.unusual_fields()
  if unusual:
    settings.append(unusual)
  digest = hashlib.sha256(json.dumps(settings).encode())
  # The index of a checkpoint has a checksum of each tensor.
  with tf.io.gfile.GFile(prefix + ".index", "rb") as reader:
    digest.update(reader.read())
  return digest.hexdigest()[:16]


def _compute_logits(
  teacher: classifier_config.ClassifierConfig,
  folder: str,
  prefix: str,
  examples: Sequence[classification.Example],
  path: str,
  compute_dtype: tf.DType,
) -> np.ndarray:
  """Returns the logits of the teacher, float32 [num_examples, num_outputs]."""
  config = modeling.BertConfig.from_json_file(
    os.path.join(folder, "bert_config.json")
  )
  if teacher.max_seq_length > config.max_position_embeddings:
    raise UserError(
      f"The classifier.json in {folder} has max_seq_length="
      f"{teacher.max_seq_length}, but the model has max_position_embeddings="
      f"{config.max_position_embeddings}. Correct it."
    )
  tokenizer = tokenization.FullTokenizer.from_settings(
    os.path.join(folder, "vocab.txt"), teacher.text_settings
  )

  def create_model(params):
    return teacher.head.create_model(
      config,
      teacher.num_outputs,
      compute_dtype=compute_dtype,
      seed=params["seed"],
    )

  recipe = finetuning.Recipe(
    teacher.head,
    create_model,
    estimator_lib.RunConfig(),
    init_checkpoint=prefix,
  )
  with file_io.temporary_folder(path) as temporary:
    records = classification_records.write_records(
      os.path.join(temporary, "texts.tf_record"), teacher, tokenizer, examples
    )
    logits = classification_records.predict_logits(recipe, records, _BATCH_SIZE)
  return logits.astype(np.float32)
