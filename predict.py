"""Answers texts with any model: labels, entities, answers, masks, neighbours.

    python predict.py --model=/tmp/help_desk --text='My card was stolen.'
    python predict.py --model=/tmp/squad --question='Who won?' \\
        --context_file=report.txt
    python predict.py --model=uncased_L-4_H-512_A-8 --text='Paris is [MASK].'

The head of the model decides what is printed. Texts come from --text, from
--input_file, or from standard input, one per line; `|||` separates the parts of
a pair, of a question and its context, or of a context and its choices. --json
prints an object per text.

--score prints the pseudo-log-likelihood of each text (Salazar et al., 2020): a
masked LM reads the text with each token masked in turn, and the
log-probabilities of the original tokens are added up.
"""

from __future__ import annotations

import launch  # First: from here on a signal ends the program quietly.

from collections.abc import Callable, Iterable, Iterator
import functools
import itertools
import json
import sys
from typing import Any

from absl import flags

from command_line import flag_help
from command_line import input_paths
import common_flags
from data import file_io
from data import text_decoding
from errors import UserError
import heads
from serving import text_answers

FLAGS = flags.FLAGS

# Function (text, its answer) -> lines for people.
ShowFunction = Callable[..., list[str]]

_TEXT_FLAGS = ("question", "text", "input_file")
_SEPARATOR = "|||"
_NUM_SHOWN = 5
_CONTEXT_SHOWN = 60  # characters on either side of an answer
_BATCH_SIZE = 64


@flag_help.group("Prediction")
def define_flags() -> None:
  """Defines the flags of this program."""
  common_flags.define_model_flags()
  common_flags.define_vocab_flags(do_lower_case=None)
  flags.DEFINE_multi_string(
    "text", [], "A text to answer; the flag may be repeated."
  )
  flags.DEFINE_string("input_file", None, "File with a text per line.")
  flags.DEFINE_multi_string(
    "question",
    [],
    "A question about --context_file; may be repeated. By default the texts "
    "are the questions.",
  )
  flags.DEFINE_string(
    "context_file", None, "File with the text that questions are about."
  )
  for name in ("input_file", "context_file"):
    input_paths.mark(name, input_paths.check_path)
  common_flags.define_encoding_flag()
  flags.DEFINE_bool("json", False, "Print one object of JSON per text.")
  flags.DEFINE_integer(
    "top_k", 5, "Number of tokens to print for each [MASK].", lower_bound=1
  )
  flags.DEFINE_bool(
    "score",
    False,
    "Whether to print how likely a masked LM finds each text, instead of "
    "answers.",
  )


def check_flags() -> None:
  """Raises a UserError if flags contradict each other."""
  common_flags.check_belongs(["question"], FLAGS.context_file, "--context_file")
  sources = [name for name in _TEXT_FLAGS if FLAGS[name].value]
  if len(sources) > 1:
    raise UserError(
      f"--{sources[0]} and --{sources[1]} both give texts. Pass one of them."
    )


def main(_):
  files = common_flags.model_files(
    "bert_config_file", "vocab_file", "init_checkpoint"
  )
  model = text_answers.TextAnswers(
    files,
    FLAGS.top_k,
    common_flags.compute_dtype(),
    common_flags.given_text_fields(),
  )
  batches = _cut_batches(_read_rows())
  if FLAGS.score:
    _print_answers(batches, model.score, _show_score)
    return
  first = next(batches)
  head = model.choose_head(first)
  if head.name == heads.ENCODER:
    # It compares all texts, of which later ones may have masks.
    first.extend(itertools.chain.from_iterable(batches))
    head = model.choose_head(first)
  _print_answers(
    itertools.chain([first], batches),
    functools.partial(model.answer, head=head),
    _SHOWN[head.name],
  )


def _print_answers(
  batches: Iterable[list[text_answers.Row]],
  answer: text_answers.AnswerFunction,
  show: ShowFunction,
) -> None:
  """Prints the answers to texts, each batch as soon as it is answered.

  Args:
    batches: The texts.
    answer: Function (texts) -> their answers.
    show: Function (text, its answer) -> lines for people.
  """
  for batch in batches:
    for row, found in zip(batch, answer(batch)):
      if FLAGS.json:
        fields = {"text": row[0] if len(row) == 1 else list(row), **found}
        print(json.dumps(fields))
      else:
        texts = row[:1] if FLAGS.context_file else row
        shown = _shorten(f" {_SEPARATOR} ".join(texts))
        print("\n".join([shown, *show(row, found)]))
    sys.stdout.flush()


# --- Texts -------------------------------------------------------------------


def _cut_batches(
  rows: Iterator[text_answers.Row],
) -> Iterator[list[text_answers.Row]]:
  """Yields the rows in batches; those of standard input as they arrive."""
  are_given = FLAGS.text or FLAGS.question or FLAGS.input_file
  batch_size = _BATCH_SIZE if are_given else 1
  while batch := list(itertools.islice(rows, batch_size)):
    yield batch


def _read_rows() -> Iterator[text_answers.Row]:
  """Yields the texts, each split into its parts.

  Raises:
    UserError: There is no text, or it cannot be read.
  """
  context = None
  if FLAGS.context_file:
    context = file_io.read_text(
      FLAGS.context_file, common_flags.text_encoding()
    )
  has_rows = False
  for text in _read_texts():
    if not text.strip():
      continue
    has_rows = True
    if context is None:
      yield tuple(part.strip() for part in text.split(_SEPARATOR))
    else:
      yield text.strip(), context  # unchanged, so that places fit the file
  if not has_rows:
    raise UserError("There is no text. Pass --text, or lines in --input_file.")


def _read_texts() -> Iterator[str]:
  """Yields the texts of the flags, or else of standard input."""
  for name in ("question", "text"):
    given: Any = FLAGS[name].value
    if given:
      for number, text in enumerate(given, 1):
        content = text.encode("utf-8", "surrogateescape")
        yield text_decoding.decode_line(content, f"--{name}", number)
      return
  if FLAGS.input_file:
    encoding = common_flags.text_encoding()
    yield from file_io.read_lines(FLAGS.input_file, encoding)
  else:
    yield from file_io.read_standard_input()


# --- Answers -----------------------------------------------------------------


def _shorten(text: str) -> str:
  text = " ".join(text.split())
  return text if len(text) <= 200 else text[:200] + " ..."


def _show_classes(
  unused_row: text_answers.Row, answer: text_answers.Answer
) -> list[str]:
  if "value" in answer:
    return [f"  {answer['value']:.4f}"]
  ranked = sorted(answer["probabilities"].items(), key=lambda item: -item[1])
  shown = [f"{label} {value:.3f}" for label, value in ranked[:_NUM_SHOWN]]
  lines = ["  " + "   ".join(shown)]
  if "labels" in answer:
    lines.append("  labels: " + (", ".join(answer["labels"]) or "none"))
  return lines


def _show_tags(
  unused_row: text_answers.Row, answer: text_answers.Answer
) -> list[str]:
  if not answer["entities"]:
    pairs = zip(answer["words"], answer["tags"])
    return ["  " + "  ".join(f"{word}/{tag}" for word, tag in pairs)]
  return [
    f"  {entity['text']}   {entity['type']} {entity['probability']:.3f}"
    for entity in answer["entities"]
  ]


def _show_span(row: text_answers.Row, answer: text_answers.Answer) -> list[str]:
  place = f"characters {answer['start']} to {answer['end']}"
  return [
    f"  {answer['answer']}   {place}, score {answer['score']:.2f} "
    f"(no answer: {answer['null_score']:.2f})",
    f"  {_in_context(row[1], answer['start'], answer['end'])}",
  ]


def _in_context(text: str, begin: int, end: int) -> str:
  """Returns a stretch of a text in brackets, with the text around it."""
  before = text[max(0, begin - _CONTEXT_SHOWN) : begin]
  after = text[end : end + _CONTEXT_SHOWN]
  if begin > _CONTEXT_SHOWN:
    before = "..." + before
  if end + _CONTEXT_SHOWN < len(text):
    after += "..."
  shown = f"{before}[{text[begin:end]}]{after}"
  return " ".join(shown.split())


def _show_choice(
  unused_row: text_answers.Row, answer: text_answers.Answer
) -> list[str]:
  probability = answer["probabilities"][answer["choice"]]
  return [f"  {answer['choice']}: {answer['text']}   {probability:.3f}"]


def _show_masks(
  unused_row: text_answers.Row, answer: text_answers.Answer
) -> list[str]:
  lines = []
  for choices in answer["masks"]:
    shown = [f"{x['token']} {x['probability']:.3f}" for x in choices]
    lines.append("  " + "   ".join(shown))
  return lines


def _show_neighbours(
  unused_row: text_answers.Row, answer: text_answers.Answer
) -> list[str]:
  if not answer["nearest"]:
    return ["  An encoder compares texts: pass two or more."]
  return [
    f"  {other['cosine']:.3f}  {_shorten(other['text'])}"
    for other in answer["nearest"]
  ]


def _show_score(
  unused_row: text_answers.Row, answer: text_answers.Answer
) -> list[str]:
  total = answer["pseudo_log_likelihood"]
  mean = total / answer["tokens"]
  return [f"  {total:.3f}, which is {mean:.3f} per token"]


_SHOWN: dict[str, ShowFunction] = {
  heads.SINGLE_LABEL: _show_classes,
  heads.MULTI_LABEL: _show_classes,
  heads.REGRESSION: _show_classes,
  heads.TAGGING: _show_tags,
  heads.SPAN: _show_span,
  heads.MULTIPLE_CHOICE: _show_choice,
  heads.PRETRAINING: _show_masks,
  heads.MASKED_LM: _show_masks,
  heads.ENCODER: _show_neighbours,
}


if __name__ == "__main__":
  define_flags()
  launch.run(main, check_flags, saves_at_signals=False)
