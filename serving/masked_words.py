"""Words in the place of masks, and how likely texts are."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

import checkpoint
from data import encoding
from errors import UserError
import heads
import modeling
from tasks import metrics
import tokenization


class MaskedSequence(NamedTuple):
  """The features of a text, and the positions whose tokens are predicted."""

  features: encoding.InputFeatures
  positions: list[int]


def encode_text(
  text: str,
  tokenizer: tokenization.FullTokenizer,
  max_seq_length: int,
  predicts_all: bool = False,
) -> MaskedSequence:
  """Returns the sequence of a text, or of two texts separated by `|||`.

  Args:
    text: The text.
    tokenizer: The tokenizer, which never splits masks.
    max_seq_length: Largest number of tokens.
    predicts_all: Whether to predict all tokens, instead of the masks.

  Raises:
    UserError: The text is too long, or has nothing to predict.
  """
  parts = [tokenizer.encode(part) for part in text.split("|||", 1)]
  num_ids = 1 + sum(len(part) + 1 for part in parts)
  if num_ids > max_seq_length:
    raise UserError(
      f"{text[:60]!r} has {num_ids} tokens, more than "
      f"--max_seq_length={max_seq_length}. Shorten it, or raise the flag."
    )
  ids_b = parts[1] if len(parts) > 1 else None
  features = encoding.encode_pair(
    parts[0], ids_b, num_ids, tokenizer.cls_id, tokenizer.sep_id
  )
  positions = []
  for position, token_id in enumerate(features.input_ids):
    if predicts_all:
      is_predicted = position > 0 and token_id != tokenizer.sep_id
    else:
      is_predicted = token_id == tokenizer.mask_id
    if is_predicted:
      positions.append(position)
  if not positions:
    mask = tokenizer.settings.special_tokens.mask
    raise UserError(
      f"{text[:60]!r} has no {'tokens' if predicts_all else mask}."
    )
  return MaskedSequence(features, positions)


class MaskedLM:
  """Predicts masked tokens."""

  def __init__(
    self,
    config: modeling.BertConfig,
    init_checkpoint: str,
    compute_dtype: tf.DType,
  ):
    """Loads the weights.

    Raises:
      UserError: The weights have no masked LM.
    """
    head = heads.HEADS[heads.MASKED_LM]
    model = modeling.BertForPreTraining(config, compute_dtype)
    checkpoint.restore(checkpoint.variables_by_name(model), init_checkpoint)
    if not head.is_in(checkpoint.open_checkpoint(init_checkpoint).shapes):
      raise UserError(
        f"--init_checkpoint={init_checkpoint} has no {head.recognized_by[0]}: "
        "it was saved without the masked LM of its pre-training. Use the "
        "checkpoint of a pre-training."
      )
    ids = tf.TensorSpec([None, None], tf.int32)

    @tf.function(input_signature=[ids, ids, ids], autograph=False)
    def logits(input_ids, segment_ids, positions):
      masked_lm_logits, _ = model(input_ids, None, segment_ids, positions)
      return tf.cast(masked_lm_logits, tf.float32)

    self._logits = logits

  def log_probabilities(
    self, input_ids: Any, segment_ids: Any, positions: Any
  ) -> np.ndarray:
    """Returns float64 [rows * positions, vocab_size].

    Args:
      input_ids: ints of shape [rows, seq_length], without padding.
      segment_ids: ints of shape [rows, seq_length].
      positions: ints of shape [rows, positions], the positions to predict.
    """
    logits = self._logits(
      np.array(input_ids, np.int32),
      np.array(segment_ids, np.int32),
      np.array(positions, np.int32),
    )
    return metrics.log_softmax(logits)


def fill_masks(
  model: MaskedLM,
  sequence: MaskedSequence,
  tokenizer: tokenization.FullTokenizer,
  top_k: int,
) -> list[list[tuple[str, float]]]:
  """Returns the `top_k` likeliest tokens of each mask, with probabilities."""
  log_probabilities = model.log_probabilities(
    [sequence.features.input_ids],
    [sequence.features.segment_ids],
    [sequence.positions],
  )
  masks = []
  for row in log_probabilities:
    choices = []
    for token_id in np.argsort(-row, kind="stable")[:top_k].tolist():
      # A vocabulary may be smaller than the model.
      token = tokenizer.inv_vocab.get(token_id, f"[{token_id}]")
      choices.append((token, float(np.exp(row[token_id]))))
    masks.append(choices)
  return masks


def score_tokens(
  model: MaskedLM, sequence: MaskedSequence, mask_id: int, batch_size: int
) -> list[float]:
  """Returns the log-probability of each token, with all others in place.

  Args:
    model: The model.
    sequence: Sequence whose tokens are all predicted.
    mask_id: Id of the mask.
    batch_size: Number of tokens to predict at once.
  """
  ids = np.array(sequence.features.input_ids)
  scores: list[float] = []
  for start in range(0, len(sequence.positions), batch_size):
    # One row for each position, which is masked in it.
    positions = np.array(sequence.positions[start : start + batch_size])
    num_rows = len(positions)
    rows = np.arange(num_rows)
    masked_ids = np.tile(ids, (num_rows, 1))
    masked_ids[rows, positions] = mask_id
    log_probabilities = model.log_probabilities(
      masked_ids,
      np.tile(sequence.features.segment_ids, (num_rows, 1)),
      positions[:, np.newaxis],
    )
    scores.extend(log_probabilities[rows, ids[positions]].tolist())
  return scores
