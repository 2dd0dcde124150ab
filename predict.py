"""Answers texts with any model: labels, entities, answers, masks, neighbours.

    python predict.py --model=/tmp/help_desk --text='My card was stolen.'
    python predict.py --model=/tmp/squad --question='Who won?' \\
        --context_file=report.txt
    python predict.py --model=uncased_L-4_H-512_A-8 --text='Paris is [MASK].'

What the model does decides what is printed. Texts come from --text, from
--input_file, or from standard input, one per line; `|||` separates the parts of
a pair, of a question and its context, or of a context and its choices. --json
prints an object per text.
"""

from __future__ import annotations

import launch  # First: from here on a signal ends the program quietly.

from collections.abc import Callable, Sequence
import json

from absl import flags

from command_line import flag_help
import common_flags
from data import file_io
from errors import UserError
import heads
from serving import text_answers

FLAGS = flags.FLAGS

_SEPARATOR = "|||"
_NUM_SHOWN = 5


@flag_help.group("Prediction")
def define_flags() -> None:
  """Defines the flags of this program."""
  flags.DEFINE_string(
    "model",
    None,
    "Folder of a model, such as the --output_dir of a training, or name of a "
    "model that download_model.py downloaded.",
    required=True,
  )
  flags.DEFINE_multi_string(
    "text", [], "A text to answer; the flag may be repeated."
  )
  flags.DEFINE_string("input_file", None, "File with a text per line.")
  flags.DEFINE_multi_string(
    "question", [], "A question about --context_file; may be repeated."
  )
  flags.DEFINE_string(
    "context_file", None, "File with the text that questions are about."
  )
  flags.DEFINE_bool("json", False, "Print one object of JSON per text.")
  flags.DEFINE_integer(
    "top_k", 5, "Number of tokens to print for each [MASK].", lower_bound=1
  )
  common_flags.define_precision_flag()


def main(_):
  rows = _read_rows()
  model = text_answers.TextAnswers(
    FLAGS.model, FLAGS.top_k, common_flags.compute_dtype()
  )
  show = _SHOWN[model.choose_head(rows).name]
  for row, answer in zip(rows, model.answer(rows)):
    if FLAGS.json:
      fields = {"text": row[0] if len(row) == 1 else list(row), **answer}
      print(json.dumps(fields))
    else:
      shown = _shorten(f" {_SEPARATOR} ".join(row))
      print("\n".join([shown, *show(answer)]))


# --- Texts -------------------------------------------------------------------


def _read_rows() -> list[text_answers.Row]:
  """Returns the texts, each split into its parts.

  Raises:
    UserError: There is no text, or it cannot be read.
  """
  if bool(FLAGS.question) != bool(FLAGS.context_file):
    raise UserError("Pass --question and --context_file together.")
  if FLAGS.question:
    context = file_io.read_text(FLAGS.context_file)
    return [(question, context) for question in FLAGS.question]
  if FLAGS.text:
    texts = list(FLAGS.text)
  elif FLAGS.input_file:
    texts = list(file_io.read_lines(FLAGS.input_file))
  else:
    texts = list(file_io.read_standard_input())
  rows = []
  for text in texts:
    if text.strip():
      parts = text.split(_SEPARATOR)
      rows.append(tuple(part.strip() for part in parts))
  if not rows:
    raise UserError("There is no text. Pass --text, or lines in --input_file.")
  return rows


# --- Answers -----------------------------------------------------------------


def _shorten(text: str) -> str:
  text = " ".join(text.split())
  return text if len(text) <= 200 else text[:200] + " ..."


def _show_classes(answer: text_answers.Answer) -> list[str]:
  if "value" in answer:
    return [f"  {answer['value']:.4f}"]
  ranked = sorted(answer["probabilities"].items(), key=lambda item: -item[1])
  shown = [f"{label} {value:.3f}" for label, value in ranked[:_NUM_SHOWN]]
  lines = ["  " + "   ".join(shown)]
  if "labels" in answer:
    lines.append("  labels: " + (", ".join(answer["labels"]) or "none"))
  return lines


def _show_tags(answer: text_answers.Answer) -> list[str]:
  if not answer["entities"]:
    pairs = zip(answer["words"], answer["tags"])
    return ["  " + "  ".join(f"{word}/{tag}" for word, tag in pairs)]
  return [
    f"  {entity['text']}   {entity['type']} {entity['probability']:.3f}"
    for entity in answer["entities"]
  ]


def _show_span(answer: text_answers.Answer) -> list[str]:
  place = f"characters {answer['start']} to {answer['end']}"
  return [f"  {answer['answer']}   {place}, score {answer['score']:.2f}"]


def _show_choice(answer: text_answers.Answer) -> list[str]:
  probability = answer["probabilities"][answer["choice"]]
  return [f"  {answer['choice']}: {answer['text']}   {probability:.3f}"]


def _show_masks(answer: text_answers.Answer) -> list[str]:
  lines = []
  for choices in answer["masks"]:
    shown = [f"{x['token']} {x['probability']:.3f}" for x in choices]
    lines.append("  " + "   ".join(shown))
  return lines


def _show_neighbours(answer: text_answers.Answer) -> list[str]:
  if not answer["nearest"]:
    return ["  An encoder compares texts: pass two or more."]
  return [
    f"  {other['cosine']:.3f}  {_shorten(other['text'])}"
    for other in answer["nearest"]
  ]


_SHOWN: dict[str, Callable[[text_answers.Answer], Sequence[str]]] = {
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
  launch.run(main, saves_at_signals=False)
