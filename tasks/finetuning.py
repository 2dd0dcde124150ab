"""The recipe of fine-tuning that all programs of tasks share.

    examples --> TaskRecords --Recipe.train----> checkpoints
                             --Recipe.predict--> predictions, in order

A program reads examples, writes their records, and turns predictions into
answers and scores. Everything in between is the same for all tasks.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from absl import logging
import numpy as np
import tensorflow as tf

from data import batching
from data import input_shares
import estimator as estimator_lib
import heads

# Function (params of the estimator) -> model.
CreateModel = Callable[[Mapping[str, Any]], tf.Module]


class TaskRecords(NamedTuple):
  """A file of records with the facts that reading it needs.

  Attributes:
    path: Path of the TFRecord file.
    num_records: Number of records.
    checksum: Checksum of the file.
    max_seq_length: Length of the longest sequence that a record may hold.
    feature_spec: Feature name -> parser, for all features but the ids.
    num_sequences: Number of sequences in each record, such as choices.
  """

  path: str
  num_records: int
  checksum: int
  max_seq_length: int
  feature_spec: Mapping[str, Any]
  num_sequences: int = 1


class BatchSettings(NamedTuple):
  """Settings by which records become batches.

  Attributes:
    train_batch_size: Number of examples of a training step.
    pads_training: Whether training batches all have the same shape.
    pads_prediction: Whether all other batches have the same shape.
  """

  train_batch_size: int = 32
  pads_training: bool = False
  pads_prediction: bool = False


class Recipe:
  """Trains, evaluates and predicts with one model.

  Attributes:
    estimator: The estimator that holds the weights.
    model: The model, which has these weights.
  """

  model: tf.Module

  def __init__(
    self,
    head: heads.Head,
    create_model: CreateModel,
    run_config: estimator_lib.RunConfig,
    batch_settings: BatchSettings | None = None,
    named_losses: Callable[..., heads.NamedSums] | None = None,
    **spec,
  ):
    """Creates the model and finds its weights.

    Args:
      head: Entry of `heads.HEADS`.
      create_model: Function (params) -> model with that head.
      run_config: Where and how the run happens.
      batch_settings: How records become batches.
      named_losses: Function like `Head.named_losses`; None for that of the
        head.
      **spec: Further fields of `estimator.EstimatorSpec`: the optimizer, the
        initial checkpoint, the cost of a step.

    Raises:
      UserError: the weights do not fit the model.
    """
    self._head = head
    self._create_model = create_model
    self._named_losses = named_losses or head.named_losses
    self._batch_settings = batch_settings or BatchSettings()
    self._spec = spec
    self.estimator = estimator_lib.TPUEstimator(
      model_fn=self._model_fn,
      config=run_config,
      train_batch_size=self._batch_settings.train_batch_size,
    )

  def _model_fn(self, params) -> estimator_lib.EstimatorSpec:
    model = self._create_model(params)
    self.model = model

    def compute_logits(features, dropout_seed=None):
      return model(
        features["input_ids"],
        features["input_mask"],
        features["segment_ids"],
        dropout_seed,
      )

    def loss_fn(features, dropout_seed):
      logits = compute_logits(features, dropout_seed)
      return estimator_lib.Losses(self._named_losses(logits, features))

    def predict_fn(features):
      predictions = self._head.named_predictions(compute_logits(features))
      return {**predictions, "record_number": features["record_number"]}

    return estimator_lib.EstimatorSpec(
      model=model, loss_fn=loss_fn, predict_fn=predict_fn, **self._spec
    )

  def train(
    self,
    records: TaskRecords,
    num_examples: int,
    num_steps: int,
    evaluate_fn: Callable[[], Mapping[str, float]] | None = None,
    data_files: Sequence[str] = (),
  ) -> None:
    """Trains until `num_steps` steps in all, and saves.

    Args:
      records: Training records.
      num_examples: Number of examples from which the records were made; it is
        logged.
      num_steps: Number of steps, counted from the start of the run.
      evaluate_fn: Function that returns scores, called while training; see
        `TPUEstimator.train`.
      data_files: Paths of the files that the examples come from.

    Raises:
      UserError: see `TPUEstimator.train`.
      Interrupted: a signal arrived; the last step is saved.
    """
    settings = self._batch_settings
    logging.info("***** Running training *****")
    logging.info("  Num examples = %d", num_examples)
    logging.info(
      "  Num sequences = %d", records.num_records * records.num_sequences
    )
    logging.info("  Batch size = %d", settings.train_batch_size)
    logging.info("  Num steps = %d", num_steps)

    def input_fn(params, share=input_shares.WHOLE):
      order = batching.TrainingOrder(
        records.num_records,
        records.checksum,
        params["seed"],
        params.get(batching.INPUT_POSITION),
      )
      return _create_dataset(
        records, params["batch_size"], order, settings.pads_training, share
      )

    self.estimator.train(input_fn, num_steps, evaluate_fn, data_files)

  def predict(
    self, records: TaskRecords, batch_size: int
  ) -> dict[str, list[np.ndarray]]:
    """Returns the predictions for all records.

    Args:
      records: Records, in the order of the examples.
      batch_size: Number of records of a batch.

    Returns:
      Prediction name -> value of each record, in the order of the records. The
      names are those of `Head.named_predictions`.

    Raises:
      UserError: there are no weights.
    """

    def input_fn(unused_params, share=input_shares.WHOLE):
      pads = self._batch_settings.pads_prediction
      return _create_dataset(records, batch_size, None, pads, share)

    # Records come sorted by length.
    numbers, columns = [], collections.defaultdict(list)
    for row in self.estimator.predict(input_fn):
      numbers.append(row.pop("record_number"))
      for name, value in row.items():
        columns[name].append(value)
    order = np.argsort(numbers)
    return {
      name: [values[i] for i in order] for name, values in columns.items()
    }

  def report_scores(self, scores: Mapping[str, float]) -> dict[str, float]:
    """Returns scores with the step that they belong to; writes a summary."""
    scores = {**scores, "global_step": self.estimator.global_step}
    self.estimator.write_eval_summary(scores)
    return scores


def _create_dataset(
  records: TaskRecords,
  batch_size: int,
  order: batching.TrainingOrder | None,
  static_shapes: bool,
  share: input_shares.InputShare,
) -> tf.data.Dataset:
  return batching.task_dataset(
    records.path,
    records.max_seq_length,
    batch_size,
    records.feature_spec,
    order,
    static_shapes,
    records.num_sequences,
    share,
  )
