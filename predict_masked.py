"""Fills [MASK] in texts, or tells how likely a masked LM finds them.

    python predict_masked.py --text='Paris is the [MASK] of France.' \\
        --bert_config_file=$BERT/bert_config.json \\
        --vocab_file=$BERT/vocab.txt --init_checkpoint=$BERT/bert_model.ckpt

Without --text, texts are read from standard input, one a line. `|||` stands
between the two parts of a pair. --score gives the pseudo-log-likelihood of each
text (Salazar et al., 2020): every token is masked in turn, and the logarithms
of the probabilities of what stood there are added up.
"""

import launch  # First: from here on a signal ends the program quietly.

from collections.abc import Iterator
import json
import os
import sys
from typing import NamedTuple

from absl import flags
import numpy as np
import tensorflow as tf

import checkpoint
import common_flags
from data import encoding
from data import file_io
from errors import UserError
import modeling
from tasks import metrics
import tokenization

FLAGS = flags.FLAGS

_MASK = "[MASK]"
_HEAD = "cls/predictions/output_bias"


def define_flags() -> None:
  """Defines the flags of this program."""
  common_flags.define_model_flags()
  common_flags.define_vocab_flags()
  flags.DEFINE_multi_string(
    "text",
    [],
    "A text; may be given several times. "
    "If not given, texts are read from standard input, "
    "one a line.",
  )
  flags.DEFINE_bool(
    "score", False, "Tell how likely the texts are, in place of filling masks."
  )
  flags.DEFINE_integer(
    "top_k", 5, "How many tokens to give for each [MASK].", lower_bound=1
  )
  flags.DEFINE_bool("json", False, "Whether to write a line of JSON a text.")
  flags.DEFINE_integer("max_seq_length", 128, "Most tokens of a text.")
  flags.DEFINE_integer(
    "batch_size",
    32,
    "Sequences to compute at once, with --score.",
    lower_bound=1,
  )


class Sequence(NamedTuple):
  """A text as the model reads it, and where in it tokens are predicted."""

  packed: encoding.InputFeatures
  positions: list[int]


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
      UserError: they have no masked LM.
    """
    model = modeling.BertForPreTraining(config, compute_dtype)
    checkpoint.restore(checkpoint.variables_by_name(model), init_checkpoint)
    if _HEAD not in checkpoint.open_checkpoint(init_checkpoint).shapes:
      raise UserError(
        f"--init_checkpoint={init_checkpoint} has no {_HEAD}: "
        "it was saved without the masked LM that it was "
        "pre-trained with."
      )
    ids = tf.TensorSpec([None, None], tf.int32)

    @tf.function(input_signature=[ids, ids, ids])
    def logits(input_ids, segment_ids, positions):
      return tf.cast(
        model(input_ids, None, segment_ids, positions)[0], tf.float32
      )

    self._logits = logits

  def log_probabilities(self, input_ids, segment_ids, positions) -> np.ndarray:
    """Returns float64 [rows * positions, vocab_size].

    Args:
      input_ids: ints [rows, seq_length], without padding.
      segment_ids: likewise.
      positions: ints [rows, positions], where to predict.
    """
    return metrics.log_softmax(
      self._logits(
        *(np.array(x, np.int32) for x in (input_ids, segment_ids, positions))
      )
    )


def read_sequence(text: str, tokenizer) -> Sequence:
  """Returns the sequence of a text.

  Raises:
    UserError: it is too long, or has nothing to predict.
  """
  ids = [tokenizer.encode(part) for part in text.split("|||", 1)]
  cls_id, sep_id, mask_id = tokenizer.convert_tokens_to_ids(
    ["[CLS]", "[SEP]", _MASK]
  )
  num_ids = sum(map(len, ids)) + 1 + len(ids)
  if num_ids > FLAGS.max_seq_length:
    raise UserError(
      f"{text[:60]!r} has {num_ids} tokens, more than "
      f"--max_seq_length={FLAGS.max_seq_length}."
    )
  packed = encoding.encode_pair(
    ids[0], ids[1] if len(ids) > 1 else None, num_ids, cls_id, sep_id
  )
  positions = [
    position
    for position, token in enumerate(packed.input_ids)
    if (token == mask_id if not FLAGS.score else position and token != sep_id)
  ]
  if not positions:
    raise UserError(
      f"{text[:60]!r} has no {'tokens' if FLAGS.score else _MASK}."
    )
  return Sequence(packed, positions)


def fill(
  model: MaskedLM, sequence: Sequence, tokenizer
) -> list[list[tuple[str, float]]]:
  """Returns the likeliest tokens of each mask, with their probabilities."""
  log_probabilities = model.log_probabilities(
    [sequence.packed.input_ids],
    [sequence.packed.segment_ids],
    [sequence.positions],
  )
  result = []
  for row in log_probabilities:
    best = np.argsort(-row, kind="stable")[: FLAGS.top_k]
    result.append(
      [
        (tokenizer.inv_vocab.get(int(i), f"[{i}]"), float(np.exp(row[i])))
        for i in best
      ]
    )
  return result


def score(model: MaskedLM, sequence: Sequence, mask_id: int) -> list[float]:
  """Returns the log probability of each token, with all others in place."""
  ids = np.array(sequence.packed.input_ids)
  result = []
  for start in range(0, len(sequence.positions), FLAGS.batch_size):
    positions = np.array(sequence.positions[start : start + FLAGS.batch_size])
    rows = np.arange(len(positions))
    masked = np.tile(ids, (len(positions), 1))
    masked[rows, positions] = mask_id
    log_probabilities = model.log_probabilities(
      masked,
      np.tile(sequence.packed.segment_ids, (len(positions), 1)),
      positions[:, np.newaxis],
    )
    result.extend(log_probabilities[rows, ids[positions]].tolist())
  return result


def _texts() -> Iterator[str]:
  """Yields the texts of the flag, or else of standard input.

  Raises:
    UserError: one is not UTF-8.
  """
  if FLAGS.text:
    for number, text in enumerate(FLAGS.text, 1):
      yield file_io.decode_line(os.fsencode(text), "--text", number)
    return
  if sys.stdin is None:
    raise UserError("Standard input is closed. Pass --text.")
  for number, line in enumerate(sys.stdin.buffer, 1):
    text = file_io.decode_line(line, "Standard input", number).strip()
    if text:
      yield text


def read_sequences(tokenizer) -> Iterator[tuple[str, Sequence]]:
  """Yields the texts, and the sequences that they make.

  Raises:
    UserError: see `_texts` and `read_sequence`; of the flag's texts, before any
      of them is yielded.
  """
  sequences = ((text, read_sequence(text, tokenizer)) for text in _texts())
  if FLAGS.text:
    sequences = list(sequences)
  yield from sequences


def main(_):
  files = common_flags.model_files(
    "bert_config_file", "init_checkpoint", "vocab_file"
  )
  config = common_flags.read_config(files)
  common_flags.check_max_seq_length(FLAGS.max_seq_length, config, files)
  common_flags.create_tokenizer(files, config)  # checks the vocabulary
  tokenizer = tokenization.FullTokenizer(
    files.vocab_file, FLAGS.do_lower_case, never_split=[_MASK]
  )
  model = MaskedLM(config, files.init_checkpoint, common_flags.compute_dtype())
  for text, sequence in read_sequences(tokenizer):
    if FLAGS.score:
      scores = score(model, sequence, tokenizer.vocab[_MASK])
      record = {
        "text": text,
        "pseudo_log_likelihood": sum(scores),
        "tokens": len(scores),
      }
      lines = [f"{sum(scores):.3f}\t{sum(scores) / len(scores):.3f}\t{text}"]
    else:
      masks = fill(model, sequence, tokenizer)
      record = {
        "text": text,
        "masks": [
          [
            {"token": token, "probability": probability}
            for token, probability in best
          ]
          for best in masks
        ],
      }
      lines = [
        text,
        *(
          "  "
          + "  ".join(
            f"{token} {probability:.3f}" for token, probability in best
          )
          for best in masks
        ),
      ]
    print(json.dumps(record) if FLAGS.json else "\n".join(lines), flush=True)


if __name__ == "__main__":
  define_flags()
  launch.run(main, saves_at_signals=False)
