"""Speed of windows and of answers beside code that goes token by token.

    python benchmarks/squad.py --squad_file=dev-v1.1.json \\
        --vocab_file=$BERT/vocab.txt

Both make the windows of all questions, and choose answers for the same random
logits. The plain code reads each paragraph anew for each of its questions,
looks at every token of every window, at every start with every end, and
tokenizes the words of every answer, a character at a time; --our_tokenizer
gives it ours. The two take turns, what they make is compared, and the median
over the turns counts.
"""

import os
import statistics
import sys
import time

from absl import app
from absl import flags
import numpy as np

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# pylint: disable=g-import-not-at-top,wrong-import-position
import plain_tokenizer as plain_tokenization

from tasks import squad
from tasks import squad_answers
from tasks import squad_windows
import tokenization

FLAGS = flags.FLAGS

flags.DEFINE_string(
  "squad_file", None, "A file in the format of SQuAD.", required=True
)
flags.DEFINE_string("vocab_file", None, "The vocabulary.", required=True)
flags.DEFINE_integer("max_seq_length", 384, "Most tokens of a window.")
flags.DEFINE_integer("doc_stride", 128, "Tokens from window to window.")
flags.DEFINE_integer("num_questions", 500, "How many to take.")
flags.DEFINE_bool("our_tokenizer", False, "Let the plain code have ours.")
flags.DEFINE_integer("turns", 5, "Turns of each.")

_MAX_QUERY_LENGTH = 64
_ANSWERS = squad_answers.AnswerSettings()


# --- Token by token ----------------------------------------------------------


class OurTokenizer:
  """Ours, with the methods of the plain one."""

  def __init__(self):
    # Anew, so that it knows no words yet.
    tokenizer = tokenization.FullTokenizer(FLAGS.vocab_file)
    self.tokenize = tokenizer.tokenize
    self.words = tokenizer.basic_tokenizer.tokenize


def plain_windows(dataset, tokenizer, vocab):
  """Returns a dict for each window."""
  windows = []
  for number, question in enumerate(dataset.questions):
    words = dataset.paragraphs[question.paragraph].split()
    query = tokenizer.tokenize(question.text)[:_MAX_QUERY_LENGTH]
    pieces, word_of_piece = [], []
    for w, word in enumerate(words):
      for piece in tokenizer.tokenize(word):
        pieces.append(piece)
        word_of_piece.append(w)
    room = FLAGS.max_seq_length - len(query) - 3
    starts = []
    start = 0
    while pieces:
      starts.append((start, min(room, len(pieces) - start)))
      if start + room >= len(pieces):
        break
      start += min(room, FLAGS.doc_stride)
    for w, (start, length) in enumerate(starts):
      tokens = ["[CLS]", *query, "[SEP]"]
      words_of_tokens, has_most_context = {}, {}
      for token in range(start, start + length):
        words_of_tokens[len(tokens)] = word_of_piece[token]
        best, best_score = None, None
        for other, (begin, size) in enumerate(starts):
          if begin <= token < begin + size:
            score = min(token - begin, begin + size - 1 - token) + 0.01 * size
            if best is None or score > best_score:
              best, best_score = other, score
        has_most_context[len(tokens)] = best == w
        tokens.append(pieces[token])
      tokens.append("[SEP]")
      windows.append(
        {
          "question": number,
          "window": w,
          "words": words,
          "tokens": tokens,
          "words_of_tokens": words_of_tokens,
          "has_most_context": has_most_context,
          "ids": [vocab[token] for token in tokens],
        }
      )
  return windows


def plain_text(window, start, end, tokenizer):
  """Returns the answer from one token to another as it was written."""
  original = " ".join(
    window["words"][
      window["words_of_tokens"][start] : window["words_of_tokens"][end] + 1
    ]
  )
  wanted = " ".join(window["tokens"][start : end + 1])
  wanted = wanted.replace(" ##", "").replace("##", "")
  basic = " ".join(tokenizer.words(original))
  begin = basic.find(wanted)
  if begin < 0:
    return original
  of_basic = [i for i, char in enumerate(basic) if char != " "]
  of_original = [i for i, char in enumerate(original) if char != " "]
  if len(of_basic) != len(of_original):
    return original
  places = {place: i for i, place in enumerate(of_basic)}
  return original[
    of_original[places[begin]] : of_original[places[begin + len(wanted) - 1]]
    + 1
  ]


def plain_answers(windows, logits, tokenizer):
  """Returns the n best answers of each question."""
  by_question = {}
  for window in windows:
    by_question.setdefault(window["question"], []).append(window)
  results = {}
  for number, of_question in by_question.items():
    candidates = []
    for window in of_question:
      start_logits, end_logits = logits[number, window["window"]]
      best_starts, best_ends = (
        [i for i, _ in sorted(enumerate(x), key=lambda pair: -pair[1])][
          : _ANSWERS.n_best_size
        ]
        for x in (start_logits, end_logits)
      )
      for start in best_starts:
        for end in best_ends:
          if (
            start in window["words_of_tokens"]
            and end in window["words_of_tokens"]
            and window["has_most_context"][start]
            and 0 <= end - start < _ANSWERS.max_answer_length
          ):
            candidates.append(
              (start_logits[start] + end_logits[end], window, start, end)
            )
    candidates.sort(key=lambda candidate: -candidate[0])
    texts = []
    for _, window, start, end in candidates:
      if len(texts) >= _ANSWERS.n_best_size:
        break
      text = plain_text(window, start, end, tokenizer)
      if text not in texts:
        texts.append(text)
    results[number] = texts
  return results


# --- Ours --------------------------------------------------------------------


def our_reader(dataset, tokenizer):
  return squad_windows.WindowMaker(
    dataset,
    tokenizer,
    squad_windows.WindowSettings(
      FLAGS.max_seq_length, FLAGS.doc_stride, _MAX_QUERY_LENGTH
    ),
  )


def our_answers(reader, logits):
  return {
    number: [candidate.text for candidate in prediction.n_best]
    for number, (_, prediction) in enumerate(
      squad_answers.choose_answers(reader, logits, _ANSWERS)
    )
  }


def timed(function, *args):
  start = time.perf_counter()
  result = function(*args)
  return result, time.perf_counter() - start


def main(_):
  dataset = squad.read_dataset(FLAGS.squad_file)
  dataset = dataset._replace(questions=dataset.questions[: FLAGS.num_questions])
  rng = np.random.default_rng(0)
  seconds = {
    name: []
    for name in ("our windows", "plain windows", "our answers", "plain answers")
  }
  for _ in range(FLAGS.turns):
    tokenizer = tokenization.FullTokenizer(FLAGS.vocab_file)
    reader = our_reader(dataset, tokenizer)
    our_windows, time_taken = timed(lambda r: list(r.cut_windows()), reader)
    seconds["our windows"].append(time_taken)
    plain_tokenizer = (
      OurTokenizer()
      if FLAGS.our_tokenizer
      else plain_tokenization.PlainTokenizer(tokenizer.vocab)
    )
    windows, time_taken = timed(
      plain_windows, dataset, plain_tokenizer, tokenizer.vocab
    )
    seconds["plain windows"].append(time_taken)
    assert [window.features.input_ids for window in our_windows] == [
      window["ids"] for window in windows
    ]
    logits = {
      (window["question"], window["window"]): rng.normal(
        size=(2, len(window["ids"]))
      )
      for window in windows
    }
    ours, time_taken = timed(our_answers, reader, logits)
    seconds["our answers"].append(time_taken)
    plain, time_taken = timed(plain_answers, windows, logits, plain_tokenizer)
    seconds["plain answers"].append(time_taken)
    num_same = sum(ours[number] == texts for number, texts in plain.items())
  medians = {
    name: statistics.median(values) for name, values in seconds.items()
  }
  print(
    f"{len(dataset.questions)} questions, {len(windows)} windows; the n "
    f"best answers of {num_same} are the same"
  )
  for what, count, unit in [
    ("windows", len(windows), "windows"),
    ("answers", len(dataset.questions), "questions"),
  ]:
    ours, plain = medians[f"our {what}"], medians[f"plain {what}"]
    print(
      f"  {what}: ours {count / ours:,.0f} {unit} a second "
      f"({1e3 * ours / count:.3f} ms each), plain {count / plain:,.0f}: "
      f"{plain / ours:.1f} times as fast"
    )


if __name__ == "__main__":
  app.run(main)
