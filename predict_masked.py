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

from absl import flags

from command_line import flag_help
import common_flags
from data import file_io
from data import text_decoding
import modeling
from serving import masked_words
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
  model = masked_words.MaskedLM(
    config, files.init_checkpoint, common_flags.compute_dtype()
  )
  for text, sequence in read_sequences(tokenizer):
    if FLAGS.score:
      scores = masked_words.score_tokens(
        model, sequence, tokenizer.mask_id, FLAGS.batch_size
      )
      answer = _show_scores(text, scores)
    else:
      masks = masked_words.fill_masks(model, sequence, tokenizer, FLAGS.top_k)
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


def read_sequences(
  tokenizer: tokenization.FullTokenizer,
) -> Iterator[tuple[str, masked_words.MaskedSequence]]:
  """Yields each text and its sequence.

  Raises:
    UserError: See `_texts` and `masked_words.encode_text`. An error in --text
      is raised before the first text is yielded.
  """
  texts = _texts()
  if FLAGS.text:
    yield from [(text, _encode(text, tokenizer)) for text in texts]
  else:
    for text in texts:
      yield text, _encode(text, tokenizer)


def _encode(
  text: str, tokenizer: tokenization.FullTokenizer
) -> masked_words.MaskedSequence:
  return masked_words.encode_text(
    text, tokenizer, FLAGS.max_seq_length, predicts_all=FLAGS.score
  )


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
