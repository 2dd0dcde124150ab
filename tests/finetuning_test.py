"""Tests of tasks/finetuning.py."""

import numpy as np
import pytest
import tensorflow as tf

from data import batching
from data import encoding
from data import record_files
import estimator as estimator_lib
import heads
from tasks import finetuning

LENGTHS = [5, 3, 8, 2, 4]


class FirstIdModel(tf.Module):
  """Has the first id of each sequence as its only logit."""

  def __init__(self):
    super().__init__()
    self.weight = tf.Variable(1.0, name="weight")

  def __call__(self, input_ids, input_mask, segment_ids, dropout_seed=None):
    return self.weight * tf.cast(input_ids[:, :1], tf.float32)


@pytest.fixture
def records(tmp_path):
  path = str(tmp_path / "x.tf_record")
  record_files.write_records(
    path,
    (
      batching.create_task_record(
        encoding.InputFeatures([number] * length, [0] * length)
      )
      for number, length in enumerate(LENGTHS, 1)
    ),
  )
  return finetuning.TaskRecords(path, len(LENGTHS), 7, 8, {})


@pytest.mark.parametrize("pads", [False, True])
def test_predictions_are_in_the_order_of_the_records(records, pads):
  recipe = finetuning.Recipe(
    heads.HEADS[heads.REGRESSION],
    lambda params: FirstIdModel(),
    estimator_lib.RunConfig(),
    finetuning.BatchSettings(pads_prediction=pads),
  )
  recipe.estimator._has_weights = True  # the one weight is set above
  logits = recipe.predict(records, batch_size=2)["logits"]
  np.testing.assert_array_equal(np.ravel(logits), [1, 2, 3, 4, 5])
