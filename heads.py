"""One table of heads, such as classifiers and span finders.

Training, evaluation, export, conversion and serving look a head up here by its
name. A new kind of head is three edits: its model class in `modeling.py`, its
entry here, and its signatures in `serving/signatures.py`.

The table names the serving class instead of holding it: `serving` builds on
`tasks`, which builds on this module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
import dataclasses
from typing import Any

import tensorflow as tf

import losses
import modeling

# The names of the heads, in flags and in `classifier.json`.
ENCODER = "encoder"
SPAN = "span"
SINGLE_LABEL = "single_label"
MULTI_LABEL = "multi_label"
REGRESSION = "regression"
TAGGING = "tagging"
MULTIPLE_CHOICE = "multiple_choice"
MASKED_LM = "masked_lm"
PRETRAINING = "pretraining"

_POOLER_PREFIX = "bert/pooler/"

# Named (sum, weight) pairs of float32 scalars; see `losses`.
NamedSums = dict[str, losses.SumAndWeight]
Features = Mapping[str, "tf.Tensor"]


@dataclasses.dataclass(frozen=True)
class Head:
  """One kind of model: an encoder with the computations on its output.

  Attributes:
    name: Name of the head.
    model_class: Name of the class in `modeling`.
    takes_num_outputs: Whether the number of outputs is an argument of the
      model class, after the config.
    recognized_by: Variables that every checkpoint with this head holds.
    transformers_names: Released name -> name in PyTorch transformers, for the
      variables of the head that follow no general rule.
    transformers_class: Name of the class in PyTorch transformers.
    transformers_problem_type: `problem_type` in a config of transformers, or
      None.
    num_positions: Number of positions of a sequence whose last layer the head
      reads; None for all of them.
    needs_pooler: Whether the model class reads the pooled output.
    named_losses: Function (outputs of the model, features) -> named losses.
    named_metrics: Function (outputs of the model, features) -> named metrics.
    named_predictions: Function (outputs of the model) -> named predictions,
      Tensors whose first dimension is the batch.
    serving_class: Name of the class in `serving.signatures`; None if the head
      is not served.
  """

  name: str
  model_class: str
  takes_num_outputs: bool
  recognized_by: tuple[str, ...]
  transformers_names: Mapping[str, str]
  transformers_class: str
  transformers_problem_type: str | None = None
  num_positions: int | None = None
  needs_pooler: bool = True
  named_losses: Callable[..., NamedSums] | None = None
  named_metrics: Callable[[Any, Features], NamedSums] | None = None
  named_predictions: Callable[[Any], dict[str, tf.Tensor]] | None = None
  serving_class: str | None = None

  @property
  def is_classifier(self) -> bool:
    """True if only a `classifier.json` tells the labels of the head."""
    return "output_weights" in self.recognized_by

  def is_in(self, names: Iterable[str]) -> bool:
    """Returns whether a checkpoint with these variables has this head."""
    return set(self.recognized_by) <= set(names)

  def adds_pooler(self, names: Iterable[str]) -> bool:
    """Returns whether a model that gets these weights has a pooler.

    A head that does not need one keeps that of its weights, if they have one,
    for the next model that is trained from them.

    Args:
      names: Names of the variables in a checkpoint.
    """
    return self.needs_pooler or has_pooler(names)

  def create_model(
    self, config: modeling.BertConfig, num_outputs: int | None = None, **options
  ) -> tf.Module:
    """Returns a new model.

    Args:
      config: Shape of the encoder.
      num_outputs: Number of outputs; ignored by heads with a fixed number.
      **options: Further arguments of `modeling.BertModel`.
    """
    model_class = getattr(modeling, self.model_class)
    if self.takes_num_outputs:
      return model_class(config, num_outputs, **options)
    return model_class(config, **options)


# --- Losses ------------------------------------------------------------------


def _example_weights(features: Features) -> tf.Tensor:
  """Returns float32 [batch_size]; 0 for rows that only fill up the batch."""
  return features["is_real_example"] * features["label_weight"]


def _single_label_loss(logits, features: Features) -> NamedSums:
  return {
    "loss": losses.classification_loss(
      logits, features["label_ids"], _example_weights(features)
    )
  }


def _multi_label_loss(
  logits, features: Features, label_weights=None
) -> NamedSums:
  return {
    "loss": losses.multi_label_loss(
      logits, features["label_ids"], _example_weights(features), label_weights
    )
  }


def _regression_loss(logits, features: Features) -> NamedSums:
  return {
    "loss": losses.regression_loss(
      logits, features["label_ids"], _example_weights(features)
    )
  }


def _tagging_loss(logits, features: Features) -> NamedSums:
  is_real = features["is_real_example"][:, tf.newaxis]  # [B, 1]
  weights = features["label_weights"] * is_real  # [B, S]
  return {"loss": losses.token_loss(logits, features["label_ids"], weights)}


def mask_missing_choices(logits: tf.Tensor, input_mask: tf.Tensor) -> tf.Tensor:
  """Returns logits [B, C] that give missing choices no probability.

  An example with fewer choices than others is filled up with sequences without
  tokens.

  Args:
    logits: float32 [B, C].
    input_mask: ints of shape [B, C, S].
  """
  is_choice = tf.reduce_any(input_mask > 0, axis=-1)  # [B, C]
  return tf.where(is_choice, logits, losses.LOGIT_OF_NOTHING)


def _multiple_choice_loss(logits, features: Features) -> NamedSums:
  logits = mask_missing_choices(logits, features["input_mask"])
  return {
    "loss": losses.classification_loss(
      logits, features["label_ids"], features["is_real_example"]
    )
  }


def _span_loss(logits, features: Features) -> NamedSums:
  start_logits, end_logits = logits
  # As released, positions of padding are not masked in the loss.
  return {
    "loss": losses.span_loss(
      start_logits,
      end_logits,
      features["start_positions"],
      features["end_positions"],
      features["is_real_example"],
    )
  }


def _masked_lm(logits, features: Features):
  """Returns the arguments of the losses of masked words."""
  masked_lm_logits, _ = logits
  label_ids = tf.reshape(features["masked_lm_ids"], [-1])
  label_weights = tf.reshape(features["masked_lm_weights"], [-1])
  return masked_lm_logits, label_ids, label_weights


def _next_sentence(logits, features: Features):
  """Returns the arguments of the losses of next sentences.

  Rows with several packed pairs have `next_sentence_weights`, 0 for places
  without a pair.
  """
  _, next_sentence_logits = logits
  labels = features["next_sentence_labels"]
  weights = features.get(
    "next_sentence_weights", tf.ones_like(labels, tf.float32)
  )
  label_ids = tf.reshape(labels, [-1])
  return next_sentence_logits, label_ids, tf.reshape(weights, [-1])


def _has_next_sentences(features: Features) -> bool:
  return "next_sentence_labels" in features


def _pretraining_loss(logits, features: Features) -> NamedSums:
  result = {
    "masked_lm_loss": losses.masked_lm_loss(*_masked_lm(logits, features))
  }
  if _has_next_sentences(features):
    result["next_sentence_loss"] = losses.classification_loss(
      *_next_sentence(logits, features)
    )
  return result


def _pretraining_metrics(logits, features: Features) -> NamedSums:
  result = {"masked_lm_accuracy": losses.correct(*_masked_lm(logits, features))}
  if _has_next_sentences(features):
    result["next_sentence_accuracy"] = losses.correct(
      *_next_sentence(logits, features)
    )
  return result


# --- Predictions -------------------------------------------------------------


def _predict_logits(logits) -> dict[str, tf.Tensor]:
  return {"logits": logits}


def _predict_spans(logits) -> dict[str, tf.Tensor]:
  start_logits, end_logits = logits
  return {"start_logits": start_logits, "end_logits": end_logits}


def _predict_tags(logits) -> dict[str, tf.Tensor]:
  """Returns the best tag of each token and its probability, both [B, S]."""
  probabilities = tf.nn.softmax(logits)  # [B, S, num_tags]
  return {
    "tags": tf.argmax(probabilities, axis=-1),
    "probabilities": tf.reduce_max(probabilities, axis=-1),
  }


# --- The table ---------------------------------------------------------------

# Several heads are one dense layer with these names; `classifier.json` tells
# which one it is.
_CLASSIFIER: dict[str, Any] = dict(
  recognized_by=("output_weights",),
  transformers_names={
    "output_weights": "classifier.weight",
    "output_bias": "classifier.bias",
  },
)
_PREDICTIONS = {"cls/predictions/output_bias": "cls.predictions.bias"}

_ALL = (
  Head(
    SPAN,
    "BertForQuestionAnswering",
    takes_num_outputs=False,
    recognized_by=("cls/squad/output_weights",),
    transformers_names={
      "cls/squad/output_weights": "qa_outputs.weight",
      "cls/squad/output_bias": "qa_outputs.bias",
    },
    transformers_class="BertForQuestionAnswering",
    needs_pooler=False,
    named_losses=_span_loss,
    named_predictions=_predict_spans,
    serving_class="ServedSpanFinder",
  ),
  Head(
    PRETRAINING,
    "BertForPreTraining",
    takes_num_outputs=False,
    recognized_by=(
      "cls/predictions/output_bias",
      "cls/seq_relationship/output_bias",
    ),
    transformers_names={
      **_PREDICTIONS,
      "cls/seq_relationship/output_weights": "cls.seq_relationship.weight",
      "cls/seq_relationship/output_bias": "cls.seq_relationship.bias",
    },
    transformers_class="BertForPreTraining",
    named_losses=_pretraining_loss,
    named_metrics=_pretraining_metrics,
  ),
  # The weights of `PRETRAINING` without next sentences.
  Head(
    MASKED_LM,
    "BertForPreTraining",
    takes_num_outputs=False,
    recognized_by=("cls/predictions/output_bias",),
    transformers_names=_PREDICTIONS,
    transformers_class="BertForMaskedLM",
    named_losses=_pretraining_loss,
    named_metrics=_pretraining_metrics,
  ),
  Head(
    SINGLE_LABEL,
    "BertForSequenceClassification",
    takes_num_outputs=True,
    **_CLASSIFIER,
    transformers_class="BertForSequenceClassification",
    transformers_problem_type="single_label_classification",
    num_positions=1,
    named_losses=_single_label_loss,
    named_predictions=_predict_logits,
    serving_class="ServedClassifier",
  ),
  Head(
    MULTI_LABEL,
    "BertForSequenceClassification",
    takes_num_outputs=True,
    **_CLASSIFIER,
    transformers_class="BertForSequenceClassification",
    transformers_problem_type="multi_label_classification",
    num_positions=1,
    named_losses=_multi_label_loss,
    named_predictions=_predict_logits,
    serving_class="ServedClassifier",
  ),
  Head(
    REGRESSION,
    "BertForSequenceClassification",
    takes_num_outputs=True,
    **_CLASSIFIER,
    transformers_class="BertForSequenceClassification",
    transformers_problem_type="regression",
    num_positions=1,
    named_losses=_regression_loss,
    named_predictions=_predict_logits,
    serving_class="ServedClassifier",
  ),
  Head(
    TAGGING,
    "BertForTokenClassification",
    takes_num_outputs=True,
    **_CLASSIFIER,
    transformers_class="BertForTokenClassification",
    needs_pooler=False,
    named_losses=_tagging_loss,
    named_predictions=_predict_tags,
    serving_class="ServedTagger",
  ),
  Head(
    MULTIPLE_CHOICE,
    "BertForMultipleChoice",
    takes_num_outputs=False,
    **_CLASSIFIER,
    transformers_class="BertForMultipleChoice",
    num_positions=1,
    named_losses=_multiple_choice_loss,
    named_predictions=_predict_logits,
    serving_class="ServedChooser",
  ),
  # Every checkpoint has an encoder, so it comes last.
  Head(
    ENCODER,
    "BertModel",
    takes_num_outputs=False,
    recognized_by=(),
    transformers_names={},
    transformers_class="BertModel",
    needs_pooler=False,
    serving_class="ServedEncoder",
  ),
)

HEADS: dict[str, Head] = {head.name: head for head in _ALL}

# Released name -> name in PyTorch transformers, over all heads.
TRANSFORMERS_NAMES: dict[str, str] = {
  ours: theirs
  for head in _ALL
  for ours, theirs in head.transformers_names.items()
}


def has_pooler(names: Iterable[str]) -> bool:
  """Returns whether variables with these names have a pooler among them."""
  return any(name.startswith(_POOLER_PREFIX) for name in names)


def remove_pooler(names: Iterable[str]) -> list[str]:
  """Returns the names that are not those of a pooler."""
  return [name for name in names if not name.startswith(_POOLER_PREFIX)]


def find_heads(names: Iterable[str]) -> list[Head]:
  """Returns the heads that a checkpoint may have, the encoder alone last.

  Heads that share their variables are all returned.

  Args:
    names: Names of the variables in the checkpoint.
  """
  names = set(names)
  return [head for head in HEADS.values() if head.is_in(names)]
