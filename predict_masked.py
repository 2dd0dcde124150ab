"""Fills [MASK] in texts, or scores how likely a masked LM finds them.

    python predict_masked.py --text='Paris is the [MASK] of France.' \\
        --bert_config_file=$BERT/bert_config.json \\
        --vocab_file=$BERT/vocab.txt --init_checkpoint=$BERT/bert_model.ckpt

Without --text, texts are read from standard input, one per line. `|||`
separates the two parts of a pair. --score prints the pseudo-log-likelihood of
each text (Salazar et al., 2020): every token is masked in turn, and the
log-probabilities of the original tokens are added up.
"""

from __future__ import annotations

import launch  # First: from here on a signal ends the program quietly.

from collections.abc import Iterator
import json
from typing import Any, NamedTuple

from absl import flags
import numpy as np
import tensorflow as tf

import checkpoint
from command_line import flag_help
import common_flags
from data import encoding
from data import file_io
from data import text_decoding
from errors import UserError
import heads
import modeling
from tasks import metrics
import tokenization
from training import model_folder

FLAGS = flags.FLAGS


@flag_help.group("Masked words")
def define_flags() -> None:
  """Defines the flags of this program."""
  common_flags.define_model_flags()
  common_flags.define_vocab_flags()
  flags.DEFINE_multi_string(
    "text",
    [],
    "A text; the flag may be repeated. Default: texts from standard input, one "
    "per line.",
  )
  flags.DEFINE_bool(
    "score", False, "Score the texts, instead of filling masks."
  )
  flags.DEFINE_integer(
    "top_k", 5, "Number of tokens to print for each [MASK].", lower_bound=1
  )
  flags.DEFINE_bool("json", False, "Print one line of JSON per text.")
  flags.DEFINE_integer(
    "max_seq_length", 128, "Largest number of tokens of a text."
  )
  flags.DEFINE_integer(
    "batch_size",
    32,
    "Number of sequences that are computed at once, with --score.",
    lower_bound=1,
  )


def main(_):
  files = common_flags.model_files(
    "bert_config_file", "init_checkpoint", "vocab_file"
  )
  config = common_flags.read_config(files)
  common_flags.check_max_seq_length(FLAGS.max_seq_length, config, files)
  tokenizer = create_tokenizer(files, config)
  model = MaskedLM(config, files.init_checkpoint, common_flags.compute_dtype())
  for text, sequence in read_sequences(tokenizer):
    if FLAGS.score:
      scores = score_tokens(model, sequence, tokenizer.mask_id)
      answer = _show_scores(text, scores)
    else:
      masks = fill_masks(model, sequence, tokenizer)
      answer = _show_masks(text, masks)
    print(answer, flush=True)


def create_tokenizer(
  files: model_folder.ModelFiles, config: modeling.BertConfig
) -> tokenization.FullTokenizer:
  """Returns the tokenizer, which recognizes masks in texts.

  Raises:
    UserError: The vocabulary has no token for masks, or does not fit the model.
  """
  settings = common_flags.text_settings(files)
  tokenizer = common_flags.create_tokenizer(files, config, settings)
  tokenizer.check_special_tokens("mask")
  return tokenization.FullTokenizer.from_settings(
    files.vocab_file, settings, never_split=[settings.special_tokens.mask]
  )


# --- Texts -------------------------------------------------------------------


class MaskedSequence(NamedTuple):
  """The features of a text, and the positions whose tokens are predicted."""

  features: encoding.InputFeatures
  positions: list[int]


def read_sequences(
  tokenizer: tokenization.FullTokenizer,
) -> Iterator[tuple[str, MaskedSequence]]:
  """Yields each text and its sequence.

  Raises:
    UserError: See `_texts` and `encode_text`. An error in --text is raised
      before the first text is yielded.
  """
  texts = _texts()
  if FLAGS.text:
    yield from [(text, encode_text(text, tokenizer)) for text in texts]
  else:
    for text in texts:
      yield text, encode_text(text, tokenizer)


def _texts() -> Iterator[str]:
  """Yields the texts of the flag, or else of standard input.

  Raises:
    UserError: A text is not UTF-8.
  """
  if FLAGS.text:
    for number, text in enumerate(FLAGS.text, 1):
      content = text.encode("utf-8", "surrogateescape")
      yield text_decoding.decode_line(content, "--text", number)
    return
  yield from file_io.read_standard_input()


def encode_text(
  text: str, tokenizer: tokenization.FullTokenizer
) -> MaskedSequence:
  """Returns the sequence of a text.

  Raises:
    UserError: The text is too long, or has nothing to predict.
  """
  parts = [tokenizer.encode(part) for part in text.split("|||", 1)]
  num_ids = 1 + sum(len(part) + 1 for part in parts)
  if num_ids > FLAGS.max_seq_length:
    raise UserError(
      f"{text[:60]!r} has {num_ids} tokens, more than "
      f"--max_seq_length={FLAGS.max_seq_length}. Shorten it, or raise the flag."
    )
  ids_b = parts[1] if len(parts) > 1 else None
  features = encoding.encode_pair(
    parts[0], ids_b, num_ids, tokenizer.cls_id, tokenizer.sep_id
  )
  positions = []
  for position, token_id in enumerate(features.input_ids):
    if FLAGS.score:
      is_predicted = position > 0 and token_id != tokenizer.sep_id
    else:
      is_predicted = token_id == tokenizer.mask_id
    if is_predicted:
      positions.append(position)
  if not positions:
    mask = tokenizer.settings.special_tokens.mask
    raise UserError(
      f"{text[:60]!r} has no {'tokens' if FLAGS.score else mask}."
    )
  return MaskedSequence(features, positions)


# --- Predictions -------------------------------------------------------------


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
) -> list[list[tuple[str, float]]]:
  """Returns the likeliest tokens of each mask, with their probabilities."""
  log_probabilities = model.log_probabilities(
    [sequence.features.input_ids],
    [sequence.features.segment_ids],
    [sequence.positions],
  )
  masks = []
  for row in log_probabilities:
    choices = []
    for token_id in np.argsort(-row, kind="stable")[: FLAGS.top_k].tolist():
      # A vocabulary may be smaller than the model.
      token = tokenizer.inv_vocab.get(token_id, f"[{token_id}]")
      choices.append((token, float(np.exp(row[token_id]))))
    masks.append(choices)
  return masks


def score_tokens(
  model: MaskedLM, sequence: MaskedSequence, mask_id: int
) -> list[float]:
  """Returns the log-probability of each token, with all others in place."""
  ids = np.array(sequence.features.input_ids)
  scores: list[float] = []
  for start in range(0, len(sequence.positions), FLAGS.batch_size):
    # One row for each position, which is masked in it.
    positions = np.array(sequence.positions[start : start + FLAGS.batch_size])
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


# --- Answers -----------------------------------------------------------------


def _show_scores(text: str, scores: list[float]) -> str:
  """Returns the line for the scores of a text."""
  total = sum(scores)
  if FLAGS.json:
    return json.dumps(
      {"text": text, "pseudo_log_likelihood": total, "tokens": len(scores)}
    )
  return f"{total:.3f}\t{total / len(scores):.3f}\t{text}"


def _show_masks(text: str, masks: list[list[tuple[str, float]]]) -> str:
  """Returns the line or lines for the masks of a text."""
  if FLAGS.json:
    fields = [
      [{"token": token, "probability": p} for token, p in choices]
      for choices in masks
    ]
    return json.dumps({"text": text, "masks": fields})
  lines = [text]
  for choices in masks:
    shown = [f"{token} {probability:.3f}" for token, probability in choices]
    lines.append("  " + "  ".join(shown))
  return "\n".join(lines)


if __name__ == "__main__":
  define_flags()
  launch.run(main, saves_at_signals=False)
