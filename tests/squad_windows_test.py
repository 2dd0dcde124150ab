"""Tests of tasks/squad_windows.py."""

import collections

import builders
import long_texts
import pytest

from tasks import squad
from tasks import squad_windows
import tokenization

# --- Paragraphs --------------------------------------------------------------


@pytest.mark.parametrize(
  "text, first, last, expected",
  [
    ("the Bad-Cat's mat", 1, 3, "Bad-Cat"),
    # Lower-casing and stripping keep one character for one.
    ("the b\u00e1d, c\u00e4t", 1, 3, "b\u00e1d, c\u00e4t"),
    # An unknown token is its own word, not all that stands together.
    ("the (zzz) cat", 2, 2, "zzz"),
    # Hangul comes apart into letters, and a ligature into none.
    ("the (\ud55c\uae00) cat", 2, 2, "\ud55c\uae00"),
    ("the \u0130zz, cat", 1, 1, "\u0130zz"),
  ],
)
def test_answers_are_spelled_as_in_the_text(
  tokenizer, text, first, last, expected
):
  paragraph = squad_windows.Paragraph(text, tokenizer)
  assert paragraph.answer_text(first, last) == expected


def test_tokens_have_a_span_in_the_text(tokenizer):
  text = "The Cat sat (on the mat), and the unaffable dog ran."
  paragraph = squad_windows.Paragraph(text, tokenizer)
  for first, last, expected in [
    (3, 6, "(on the mat"),
    (7, 8, "),"),
    (12, 14, "affable dog"),
  ]:
    begin, end = paragraph.find_span(first, last)
    assert text[begin:end] == expected
    assert paragraph.find_tokens(begin, end) == (first, last)
  # "he C" is part of two tokens; a character without token has none.
  assert paragraph.find_tokens(1, 5) == (0, 1)
  assert squad_windows.Paragraph("cat \0", tokenizer).find_tokens(4, 5) is None


def test_a_long_word_is_searched_once_for_all_answers(
  tmp_path, vocab_file, monkeypatch
):
  path = tmp_path / "with_chinese.txt"
  with open(vocab_file, encoding="utf-8") as reader:
    path.write_text(reader.read() + "\u4e2d\n")
  tokenizer = tokenization.FullTokenizer(str(path))
  calls = collections.Counter()

  def count_calls(owner, name):
    original = getattr(owner, name)

    def counted(*args):
      calls[name] += 1
      return original(*args)

    monkeypatch.setattr(owner, name, counted)

  count_calls(squad_windows.Paragraph, "_find_text")
  count_calls(tokenizer, "encode_with_offsets")
  paragraph = squad_windows.Paragraph("\u4e2d" * 1000, tokenizer)
  for token in range(998):
    assert paragraph.answer_text(token, token + 2) == "\u4e2d" * 3
  assert calls == {"_find_text": 1, "encode_with_offsets": 1}
  # Hangul has fewer characters than its basic tokens.
  paragraph = squad_windows.Paragraph("\u4e2d" * 1000 + "\ud55c", tokenizer)
  for token in range(998):
    assert paragraph.answer_text(token, token + 2) == "\u4e2d" * 3
  assert calls == {"_find_text": 2, "encode_with_offsets": 2}


# --- Windows -----------------------------------------------------------------


def test_long_paragraphs_have_several_sequences(tokenizer):
  # 12 tokens. The question and three special tokens take 5 of the 16 places.
  dataset = builders.question_dataset(
    "the cat sat on the mat and the dog ran the hill",
    ("it was", ("the mat", 15)),
    ("it was", ("the hill", 39)),
    ("it was",),
  )
  maker = builders.window_maker(dataset, tokenizer)
  windows, positions = zip(*maker.cut_training_windows(False))
  assert [(w.question, w.number, w.first_token, w.offset) for w in windows] == [
    (0, 0, 0, 4),
    (0, 1, 4, 4),
    (1, 0, 0, 4),
    (1, 1, 4, 4),
    (2, 0, 0, 4),
    (2, 1, 4, 4),
  ]
  tokens = [
    tokenizer.convert_ids_to_tokens(w.features.input_ids) for w in windows
  ]
  assert " ".join(tokens[1]) == (
    "[CLS] it was [SEP] the mat and the dog ran the hill [SEP]"
  )
  assert windows[1].features.segment_ids == [0] * 4 + [1] * 9
  # "the mat" is in both windows, "the hill" in the second.
  assert tokens[0][8:10] == tokens[1][4:6] == ["the", "mat"]
  assert positions == ((8, 9), (4, 5), (0, 0), (10, 11), (0, 0), (0, 0))
  assert maker.counts == {
    "questions": 3,
    "questions without answer": 1,
    "windows": 6,
    "windows without answer": 3,
  }


def test_long_questions_are_truncated(tokenizer):
  dataset = builders.question_dataset("a cat", ("the " * 9, ("cat", 2)))
  maker = builders.window_maker(dataset, tokenizer, max_query_length=3)
  [window] = maker.cut_windows()
  tokens = tokenizer.convert_ids_to_tokens(window.features.input_ids)
  assert tokens == ["[CLS]", "the", "the", "the", "[SEP]", "a", "cat", "[SEP]"]


@pytest.mark.parametrize(
  "context, answer, tokens",
  [
    ("a cat (red-blue) ran", ("blue", 11), ["blue"]),
    ("the unaffable cat", ("unaffable", 4), ["un", "##aff", "##able"]),
    # Annotated a little off, or with other white space.
    ("the cat and the dog", ("the dog", 9), ["the", "dog"]),
    ("the cat\n and  the dog", ("cat and", 30), ["cat", "and"]),
    ("the cat sat. the cat ran", ("the cat", 20), ["the", "cat"]),
  ],
)
def test_answers_are_found(tokenizer, context, answer, tokens):
  dataset = builders.question_dataset(context, ("was", answer))
  maker = builders.window_maker(dataset, tokenizer, max_seq_length=40)
  [(window, (start, end))] = maker.cut_training_windows(False)
  answer_ids = window.features.input_ids[start : end + 1]
  assert tokenizer.convert_ids_to_tokens(answer_ids) == tokens


# A vocabulary of some characters, the pieces of others, and longer pieces.
PIECES = ["\u4e2d", "\u56fd", "\u3044", "\u3046", "##\u3044", "##\u3046"]
PIECES += ["##\u3046\u3044", "\u1109", "##\u1165", "##\u110b", "##\u116e"]
PIECES += ["##\u11af", "##\u1173", "##\u11ab", "US", "us", "house", "##boat"]


@pytest.mark.parametrize(
  "context, answer, tokens, text",
  [
    # A word that spaces do not divide has the answer twice.
    ("\u4e2d\u56fd\u4e2d\u56fd", ("\u4e2d\u56fd", 2), (2, 3), None),
    # Kana are pieces of one word of the tokenizer.
    ("\u4e2d\u3044\u3046\u3044\u3044", ("\u3044", 4), (3, 3), None),
    # A piece is longer than the answer.
    ("\u56fd\u3044\u3046\u3044", ("\u3046", 2), (2, 2), "\u3046\u3044"),
    # A Korean particle follows; syllables come apart into letters.
    ("\uc11c\uc6b8\uc740 us", ("\uc11c\uc6b8", 0), (0, 4), None),
    ("\uc11c\uc6b8\uc740 us", ("\uc6b8", 1), (2, 4), None),
    # The same token is spelled in two ways.
    ("\u4e2dus\u56fdUS", ("US", 4), (3, 3), None),
    # A part of a word has tokens of its own, or has not.
    ("us houseboat us", ("boat", 8), (2, 2), None),
    ("us houseboat us", ("ous", 4), (1, 2), "houseboat"),
  ],
)
def test_answers_inside_a_word(tmp_path, context, answer, tokens, text):
  vocab_file = tmp_path / "vocab.txt"
  special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "was"]
  vocab_file.write_text("\n".join(special + PIECES), encoding="utf-8")
  tokenizer = tokenization.FullTokenizer(str(vocab_file))
  dataset = builders.question_dataset(context, ("was", answer))
  maker = builders.window_maker(dataset, tokenizer, max_seq_length=40)
  [(window, positions)] = maker.cut_training_windows(False)
  first, last = (position - window.offset for position in positions)
  assert (first, last) == tokens
  paragraph = maker.get_paragraph(0)
  assert paragraph.answer_text(first, last) == (text or answer[0])
  assert set(maker.counts) == {"questions", "windows"}


def test_answers_without_offset_are_found_first(tokenizer):
  text = "the dog and a cat\n sat, a cat sat"
  dataset = builders.question_dataset(text, ("was", ("cat sat", None)))
  maker = builders.window_maker(dataset, tokenizer, max_seq_length=40)
  [(window, positions)] = maker.cut_training_windows(False)
  assert positions == (window.offset + 4, window.offset + 5)
  assert set(maker.counts) == {"questions", "windows"}


def test_the_nearest_place_of_an_answer_counts(tokenizer):
  text = "a cat sat, a cat ran, a cat flew"
  dataset = builders.question_dataset(text, ("was", ("cat", 18)))
  maker = builders.window_maker(dataset, tokenizer, max_seq_length=40)
  [(_, positions)] = maker.cut_training_windows(False)
  assert positions == (8, 8)
  assert maker.counts["answers found elsewhere than annotated"] == 1


def test_long_answers_are_found_in_linear_time(tokenizer):
  context = "the " * 100_000 + "cat"
  middle = len(context) // 2
  half = context[middle:]
  dataset = builders.question_dataset(
    context,
    ("was", (half, middle)),
    # The first has other tokens at its beginning; the second is elsewhere.
    ("was", (half[1:], middle + 1)),
    ("was", (half, 0)),
    ("was", (half + "x", 0)),
  )
  maker = builders.window_maker(
    dataset, tokenizer, max_seq_length=500, doc_stride=400
  )
  with long_texts.time_limit():
    spans = [
      maker._find_answer(question, skip_missing_answers=True)
      for question in dataset.questions
    ]
    place = squad_windows._find_ids([5] * 1_000_000 + [7], [5] * 500_000 + [7])
  assert spans == [(50_000, 100_000)] * 3 + [None]
  assert place == 500_000


def test_missing_answers_are_refused_or_skipped(tokenizer):
  dataset = builders.question_dataset(
    "the cat sat", ("who", ("the dog", 0)), ("was", ("cat", 4))
  )
  maker = builders.window_maker(dataset, tokenizer)
  with pytest.raises(
    ValueError,
    match="x.json: the answer 'the dog' of question '0' is not in its "
    "paragraph. .*--skip_missing_answers",
  ):
    list(maker.cut_training_windows(False))
  maker = builders.window_maker(dataset, tokenizer)
  [(window, _)] = maker.cut_training_windows(skip_missing_answers=True)
  assert window.question == 1
  assert maker.counts["answers not in the paragraph, left out"] == 1


def test_questions_without_annotation_are_refused(tokenizer):
  question = squad.Question("q9", "who", 0)
  dataset = squad.Dataset("x.json", ["the cat"], [question])
  maker = builders.window_maker(dataset, tokenizer)
  with pytest.raises(ValueError, match="question 'q9' has no answer"):
    list(maker.cut_training_windows(False))


# --- The original code -------------------------------------------------------


@pytest.mark.parametrize("name", builders.GOLDEN_QUESTIONS)
def test_training_windows_match_the_original_code(golden_dir, name):
  golden = builders.GoldenQuestions(golden_dir, name)
  maker = golden.window_maker("train_file")
  for (window, (start, end)), expected in zip(
    maker.cut_training_windows(False),
    golden.read_json_lines("train_features.jsonl.gz"),
    strict=True,
  ):
    assert window.question == expected["example_index"]
    assert window.number == expected["doc_span_index"]
    assert window.features.input_ids == expected["input_ids"]
    assert start == expected["start_position"]
    assert end == expected["end_position"]


@pytest.mark.parametrize("name", builders.GOLDEN_QUESTIONS)
def test_windows_match_the_original_code(golden_dir, name):
  golden = builders.GoldenQuestions(golden_dir, name)
  maker = golden.window_maker("predict_file")
  for window, expected in zip(
    maker.cut_windows(),
    golden.read_json_lines("features.jsonl.gz"),
    strict=True,
  ):
    tokens = maker.tokenizer.convert_ids_to_tokens(window.features.input_ids)
    assert tokens == expected["tokens"]
    question = maker.dataset.questions[window.question]
    paragraph, windows = maker.cut_paragraph(question)
    length = windows.lengths[window.number]
    positions = [str(window.offset + place) for place in range(length)]
    words = paragraph.word_of_token[window.first_token :]
    assert expected["token_to_orig_map"] == dict(zip(positions, words))
    is_max_context = windows.is_max_context[window.number].tolist()
    assert expected["token_is_max_context"] == dict(
      zip(positions, is_max_context)
    )
