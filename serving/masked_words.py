"""Words in the place of masks, and how likely texts are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

import checkpoint
from data import encoding
from errors import UserError
import modeling
from tasks import metrics
import tokenization
from training import model_folder

_NUM_SCORED = 32  # tokens of a text that are masked at once, each in its row


class _MaskedSequence(NamedTuple):
  """The features of a text, and the positions whose tokens are predicted."""

  features: encoding.InputFeatures
  positions: list[int]


class MaskedLM:
  """Predicts masked tokens of texts, or of pairs of texts."""

  def __init__(
    self,
    config: modeling.BertConfig,
    tokenizer: tokenization.FullTokenizer,
    files: model_folder.ModelFiles,
    compute_dtype: tf.DType,
  ):
    """Loads the weights.

    Args:
      config: Config of the model.
      tokenizer: Tokenizer of texts without masks.
      files: Files of the model, whose weights have a masked LM.
      compute_dtype: Type of the activations.

    Raises:
      UserError: The vocabulary has no token for masks.
    """
    tokenizer.check_special_tokens("mask")
    self._mask = tokenizer.settings.special_tokens.mask
    self._tokenizer = tokenization.FullTokenizer.from_settings(
      files.vocab_file, tokenizer.settings, never_split=[self._mask]
    )
    self._max_seq_length = config.max_position_embeddings
    # XLA would compile a part of the model for every length of a text.
    model = modeling.BertForPreTraining(config, compute_dtype, is_portable=True)
    variables = checkpoint.variables_by_name(model)
    checkpoint.restore(variables, files.init_checkpoint)
    modeling.store_kernels(model, compute_dtype)
    ids = tf.TensorSpec([None, None], tf.int32)

    @tf.function(input_signature=[ids, ids, ids], autograph=False)
    def logits(input_ids, segment_ids, positions):
      masked_lm_logits, _ = model(input_ids, None, segment_ids, positions)
      return tf.cast(masked_lm_logits, tf.float32)

    self._logits = logits

  def fill_masks(
    self, texts: Sequence[str], top_k: int
  ) -> list[list[tuple[str, float]]]:
    """Returns the `top_k` likeliest tokens of each mask, with probabilities.

    Args:
      texts: A text, or two.
      top_k: Number of tokens.

    Raises:
      UserError: The texts are too long, or have no mask.
    """
    features, positions = self._encode(texts, predicts_all=False)
    log_probabilities = self._log_probabilities(
      np.array([features.input_ids]), features.segment_ids, [positions]
    )
    masks = []
    for row in log_probabilities:
      choices = []
      for token_id in np.argsort(-row, kind="stable")[:top_k].tolist():
        # A vocabulary may be smaller than the model.
        token = self._tokenizer.inv_vocab.get(token_id, f"[{token_id}]")
        choices.append((token, float(np.exp(row[token_id]))))
      masks.append(choices)
    return masks

  def score(self, texts: Sequence[str]) -> list[float]:
    """Returns the log-probability of each token, with all others in place.

    Args:
      texts: A text, or two.

    Raises:
      UserError: The texts are too long, or empty.
    """
    features, all_positions = self._encode(texts, predicts_all=True)
    ids = np.array(features.input_ids)
    scores: list[float] = []
    for start in range(0, len(all_positions), _NUM_SCORED):
      # One row for each position, which is masked in it.
      positions = np.array(all_positions[start : start + _NUM_SCORED])
      rows = np.arange(len(positions))
      masked_ids = np.tile(ids, (len(positions), 1))
      masked_ids[rows, positions] = self._tokenizer.mask_id
      log_probabilities = self._log_probabilities(
        masked_ids, features.segment_ids, positions[:, np.newaxis]
      )
      scores.extend(log_probabilities[rows, ids[positions]].tolist())
    return scores

  def _encode(
    self, texts: Sequence[str], predicts_all: bool
  ) -> _MaskedSequence:
    """Returns the sequence of one text or two.

    Args:
      texts: A text, or two.
      predicts_all: Whether to predict all tokens, instead of the masks.

    Raises:
      UserError: The texts are too long, or have nothing to predict.
    """
    tokenizer = self._tokenizer
    shown = " ||| ".join(texts)[:60]
    ids_a, *others = [tokenizer.encode(text) for text in texts]
    ids_b = others[0] if others else None
    num_ids = len(ids_a) + 2 + (len(ids_b) + 1 if ids_b is not None else 0)
    if num_ids > self._max_seq_length:
      raise UserError(
        f"{shown!r} has {num_ids} tokens, but the model reads at most "
        f"{self._max_seq_length}. Shorten the text."
      )
    features = encoding.encode_pair(
      ids_a, ids_b, num_ids, tokenizer.cls_id, tokenizer.sep_id
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
      missing = "tokens" if predicts_all else self._mask
      raise UserError(f"{shown!r} has no {missing}.")
    return _MaskedSequence(features, positions)

  def _log_probabilities(
    self,
    input_ids: np.ndarray,
    segment_ids: Sequence[int],
    positions: Sequence[Sequence[int]] | np.ndarray,
  ) -> np.ndarray:
    """Returns float64 [rows * positions, vocab_size].

    Args:
      input_ids: ints of shape [rows, seq_length], without padding.
      segment_ids: ints of shape [seq_length], the same for all rows.
      positions: ints of shape [rows, positions], the positions to predict.
    """
    logits = self._logits(
      input_ids.astype(np.int32),
      np.tile(np.array(segment_ids, np.int32), (len(input_ids), 1)),
      np.array(positions, np.int32),
    )
    return metrics.log_softmax(logits)
