"""Speed of windows and answers, compared with code that works token by token.

    python benchmarks/squad.py --squad_file=dev-v1.1.json \\
        --vocab_file=$BERT/vocab.txt

Both cut all questions into windows and choose answers for the same random
logits. The plain code tokenizes each paragraph again for each of its questions,
compares each token of a window with all other windows and each start with each
end, and tokenizes the words of each answer character by character (with
--our_tokenizer it uses ours). The two take turns, their results are compared,
and the median over the turns counts.
"""

import os
import statistics
import sys
import time
from typing import Any

from absl import app
from absl import flags
import numpy as np

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# pylint: disable=g-import-not-at-top,wrong-import-position
import plain_tokenizer as plain_tokenization
import result_files

from tasks import squad
from tasks import squad_answers
from tasks import squad_windows
import tokenization

FLAGS = flags.FLAGS

flags.DEFINE_string(
  "squad_file", None, "File in the format of SQuAD.", required=True
)
flags.DEFINE_string("vocab_file", None, "The vocabulary.", required=True)
flags.DEFINE_integer(
  "max_seq_length", 384, "Maximum number of tokens of a window."
)
flags.DEFINE_integer(
  "doc_stride", 128, "Distance between the starts of two windows in tokens."
)
flags.DEFINE_integer("num_questions", 500, "Number of questions.")
flags.DEFINE_bool(
  "our_tokenizer", False, "Whether the plain code uses our tokenizer."
)
flags.DEFINE_integer("turns", 5, "Number of turns of each.")
result_files.define_flag()

_MAX_QUERY_LENGTH = 64
_ANSWERS = squad_answers.AnswerSettings()


# --- Token by token ----------------------------------------------------------


class OurTokenizer:
  """Our tokenizer with the methods of the plain one."""

  def __init__(self):
    # A new tokenizer has no words in its cache.
    tokenizer = tokenization.FullTokenizer(FLAGS.vocab_file)
    self.tokenize = tokenizer.tokenize
    self.words = tokenizer.basic_tokenizer.tokenize


def plain_windows(dataset, tokenizer, vocab) -> list[dict[str, Any]]:
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
    spans = plain_spans(len(pieces), room)
    for w, (start, length) in enumerate(spans):
      tokens = ["[CLS]", *query, "[SEP]"]
      words_of_tokens, has_most_context = {}, {}
      for token in range(start, start + length):
        words_of_tokens[len(tokens)] = word_of_piece[token]
        has_most_context[len(tokens)] = best_span(spans, token) == w
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


def plain_spans(num_pieces: int, room: int) -> list[tuple[int, int]]:
  """Returns start and length of each window of a paragraph."""
  spans = []
  start = 0
  while num_pieces:
    spans.append((start, min(room, num_pieces - start)))
    if start + room >= num_pieces:
      break
    start += min(room, FLAGS.doc_stride)
  return spans


def best_span(spans: list[tuple[int, int]], token: int) -> int:
  """Returns the number of the window with the most context for a token."""
  best, best_score = -1, 0.0
  for number, (start, length) in enumerate(spans):
    if start <= token < start + length:
      num_left, num_right = token - start, start + length - 1 - token
      score = min(num_left, num_right) + 0.01 * length
      if best < 0 or score > best_score:
        best, best_score = number, score
  return best


def plain_text(window, start: int, end: int, tokenizer) -> str:
  """Returns the text from one token to another, spelled as in the paragraph."""
  first_word = window["words_of_tokens"][start]
  last_word = window["words_of_tokens"][end]
  original = " ".join(window["words"][first_word : last_word + 1])
  wanted = " ".join(window["tokens"][start : end + 1])
  wanted = wanted.replace(" ##", "").replace("##", "")
  basic = " ".join(tokenizer.words(original))
  begin = basic.find(wanted)
  if begin < 0:
    return original
  # Places of the characters that are not spaces.
  basic_places = [i for i, char in enumerate(basic) if char != " "]
  original_places = [i for i, char in enumerate(original) if char != " "]
  if len(basic_places) != len(original_places):
    return original
  numbers = {place: number for number, place in enumerate(basic_places)}
  first = original_places[numbers[begin]]
  last = original_places[numbers[begin + len(wanted) - 1]]
  return original[first : last + 1]


def plain_candidates(window, start_logits, end_logits) -> list[tuple]:
  """Returns score, window, start and end of each allowed span of a window."""
  best_starts = sorted(
    range(len(start_logits)), key=lambda place: -start_logits[place]
  )[: _ANSWERS.n_best_size]
  best_ends = sorted(
    range(len(end_logits)), key=lambda place: -end_logits[place]
  )[: _ANSWERS.n_best_size]
  candidates = []
  for start in best_starts:
    for end in best_ends:
      if (
        start in window["words_of_tokens"]
        and end in window["words_of_tokens"]
        and window["has_most_context"][start]
        and 0 <= end - start < _ANSWERS.max_answer_length
      ):
        score = start_logits[start] + end_logits[end]
        candidates.append((score, window, start, end))
  return candidates


def plain_answers(windows, logits, tokenizer) -> dict[int, list[str]]:
  """Returns the n best answers of each question."""
  by_question = {}
  for window in windows:
    by_question.setdefault(window["question"], []).append(window)
  results = {}
  for number, windows_of_question in by_question.items():
    candidates = []
    for window in windows_of_question:
      start_logits, end_logits = logits[number, window["window"]]
      candidates.extend(plain_candidates(window, start_logits, end_logits))
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


def our_maker(dataset, tokenizer) -> squad_windows.WindowMaker:
  settings = squad_windows.WindowSettings(
    FLAGS.max_seq_length, FLAGS.doc_stride, _MAX_QUERY_LENGTH
  )
  return squad_windows.WindowMaker(dataset, tokenizer, settings)


def our_answers(maker, logits) -> dict[int, list[str]]:
  """Returns the n best answers of each question."""
  results = {}
  answers = squad_answers.choose_answers(maker, logits, _ANSWERS)
  for number, (_, prediction) in enumerate(answers):
    results[number] = [candidate.text for candidate in prediction.n_best]
  return results


# --- Turns -------------------------------------------------------------------


def timed(function, *args) -> tuple[Any, float]:
  """Returns the result of a function and the seconds that it took."""
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

  def take_turn(name, function, *args):
    result, seconds_taken = timed(function, *args)
    seconds[name].append(seconds_taken)
    return result

  for _ in range(FLAGS.turns):
    tokenizer = tokenization.FullTokenizer(FLAGS.vocab_file)
    maker = our_maker(dataset, tokenizer)
    our_windows = take_turn("our windows", lambda: list(maker.cut_windows()))
    if FLAGS.our_tokenizer:
      plain_tokenizer = OurTokenizer()
    else:
      plain_tokenizer = plain_tokenization.PlainTokenizer(tokenizer.vocab)
    windows = take_turn(
      "plain windows", plain_windows, dataset, plain_tokenizer, tokenizer.vocab
    )
    our_ids = [window.features.input_ids for window in our_windows]
    assert our_ids == [window["ids"] for window in windows]
    logits = {}
    for window in windows:
      pair = rng.normal(size=(2, len(window["ids"])))
      logits[window["question"], window["window"]] = pair
    ours = take_turn("our answers", our_answers, maker, logits)
    plain = take_turn(
      "plain answers", plain_answers, windows, logits, plain_tokenizer
    )
    num_same = sum(ours[number] == texts for number, texts in plain.items())
  print(
    f"{len(dataset.questions)} questions, {len(windows)} windows; the n best "
    f"answers of {num_same} are the same"
  )
  rows = []
  for name, count, unit in [
    ("windows", len(windows), "windows"),
    ("answers", len(dataset.questions), "questions"),
  ]:
    ours = statistics.median(seconds[f"our {name}"])
    plain = statistics.median(seconds[f"plain {name}"])
    print(
      f"  {name}: ours {count / ours:,.0f} {unit} per second "
      f"({1e3 * ours / count:.3f} ms each), plain {count / plain:,.0f}: "
      f"{plain / ours:.1f} times as fast"
    )
    rows.append(
      {
        "what": name,
        "value": round(count / ours),
        "unit": f"{unit}/s",
        "times as fast as plain code": round(plain / ours, 1),
      }
    )
  result_files.write(
    section="Data and files",
    title=f"Windows and answers of {len(dataset.questions):,} questions",
    rows=rows,
    note=f"Median of {FLAGS.turns} turns.",
  )


if __name__ == "__main__":
  app.run(main)
