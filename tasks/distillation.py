"""What a teacher says of texts, asked once and kept (Turc et al., 2019)."""

from collections.abc import Sequence
import hashlib
import io
import json
import os

from absl import logging
import numpy as np
import tensorflow as tf

from data import file_io
from errors import UserError
import estimator as estimator_lib
import modeling
from tasks import classification
from tasks import classifier as classifier_lib
import tokenization

_BATCH_SIZE = 32


def teacher_logits(
  teacher_dir: str,
  examples: Sequence[classification.Example],
  student: classifier_lib.Classifier,
  cache_dir: str,
  compute_dtype: tf.DType,
) -> np.ndarray:
  """Returns the logits of a teacher for n examples.

  They are kept in `cache_dir`, in a file named after the texts and the weights,
  and read from there when they are needed again.

  Args:
    teacher_dir: folder of a trained classifier, or of its `export`.
    examples: what to label.
    student: the classifier that will learn from it.
    cache_dir: folder of what the teacher has said.
    compute_dtype: of the teacher's activations.

  Returns:
    float32 [n, num_outputs], in the order of the student's labels.

  Raises:
    UserError: the folder holds no classifier, or one of other labels.
  """
  export_dir = os.path.join(teacher_dir, "export")
  folder = export_dir if tf.io.gfile.isdir(export_dir) else teacher_dir
  teacher = classifier_lib.Classifier.read(folder)
  prefix = os.path.join(folder, "bert_model.ckpt")
  if teacher is None:
    raise UserError(
      f"--teacher_model_dir={teacher_dir} holds no classifier.json. It takes "
      "the --output_dir of a classifier that was trained, or its export/."
    )
  if (teacher.problem_type, sorted(teacher.labels)) != (
    student.problem_type,
    sorted(student.labels),
  ):
    raise UserError(
      f"The teacher in {folder} predicts {_description(teacher)}; the student"
      f" is to predict {_description(student)}. Use a teacher of this task."
    )
  teacher.check_weights(prefix, "--teacher_model_dir")
  columns = [teacher.labels.index(label) for label in student.labels] or [0]
  path = os.path.join(
    cache_dir, f"teacher-{_key(teacher, prefix, examples)}.npy"
  )
  cached = read_cached(path, (len(examples), teacher.num_outputs))
  if cached is not None:
    logging.info("%s has what the teacher says.", path)
    return cached[:, columns]
  logging.info("***** The teacher labels %d examples *****", len(examples))
  logits = _ask(teacher, folder, prefix, examples, path, compute_dtype)
  with file_io.atomic_file(path) as temporary:
    with tf.io.gfile.GFile(temporary, "wb") as writer:
      np.save(writer, logits)
  return logits[:, columns]


def read_cached(path: str, shape: tuple[int, int]) -> np.ndarray | None:
  """Returns the logits of a `.npy` file; None if they have to be computed.

  Args:
    path: of the file.
    shape: of the logits.

  Returns:
    float32, of that shape; None if there is no such file, or it is damaged.

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
  if content.startswith(header.getvalue()) and (
    len(content) == start + 4 * shape[0] * shape[1]
  ):
    logits = np.frombuffer(content, "<f4", offset=start).reshape(shape)
    if np.isfinite(logits).all():
      return logits
  logging.warning("%s is damaged, and is made again.", path)
  return None


def _description(classifier: classifier_lib.Classifier) -> str:
  return ", ".join(classifier.labels) or "a number"


def _key(teacher, prefix: str, examples) -> str:
  """Returns a name for what the teacher says of the examples."""
  digest = hashlib.sha256(
    json.dumps(
      [
        teacher.max_seq_length,
        teacher.long_text,
        teacher.do_lower_case,
        [(example.text_a, example.text_b) for example in examples],
      ]
    ).encode()
  )
  # The index of a checkpoint has a checksum of each tensor.
  with tf.io.gfile.GFile(prefix + ".index", "rb") as reader:
    digest.update(reader.read())
  return digest.hexdigest()[:16]


def _ask(
  teacher, folder: str, prefix: str, examples, path: str, compute_dtype
) -> np.ndarray:
  """Returns the logits of the teacher, float32 [n, num_outputs]."""
  config = modeling.BertConfig.from_json_file(
    os.path.join(folder, "bert_config.json")
  )
  if teacher.max_seq_length > config.max_position_embeddings:
    raise UserError(
      f"The classifier.json in {folder} has max_seq_length="
      f"{teacher.max_seq_length}, but the model has max_position_embeddings="
      f"{config.max_position_embeddings}. Correct it."
    )
  tokenizer = tokenization.FullTokenizer(
    os.path.join(folder, "vocab.txt"), teacher.do_lower_case
  )

  def model_fn(params):
    model = modeling.BertForSequenceClassification(
      config, teacher.num_outputs, compute_dtype, params["seed"]
    )
    return estimator_lib.EstimatorSpec(
      model=model,
      init_checkpoint=prefix,
      predict_fn=classifier_lib.predict_fn_builder(
        lambda features, dropout_seed: model(
          features["input_ids"],
          features["input_mask"],
          features["segment_ids"],
          dropout_seed,
        )
      ),
    )

  estimator = estimator_lib.TPUEstimator(model_fn, estimator_lib.RunConfig())
  with file_io.temporary_folder(path) as folder:
    records = classifier_lib.write_records(
      os.path.join(folder, "texts.tf_record"), teacher, tokenizer, examples
    )
    return classifier_lib.predict_logits(
      estimator, records, teacher, _BATCH_SIZE
    ).astype(np.float32)
