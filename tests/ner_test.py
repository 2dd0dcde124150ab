"""Tests of tasks/ner.py."""

import json

from tasks import ner
import tokenization

# --- Windows -----------------------------------------------------------------


def sentences_of(*texts, documents=None):
  return [
    ner.Sentence(tuple(text.split()), None, document, (), ())
    for text, document in zip(texts, documents or [0] * len(texts))
  ]


def test_no_word_of_a_long_sentence_is_lost(vocab_file):
  tokenizer = tokenization.FullTokenizer(vocab_file)
  words = ("the unaffable cat \u200b zzz " * 1000).split(" ")[:5000]
  sentence = ner.Sentence(tuple(words), None, 0, (), ())
  windows = list(ner.cut_windows([sentence], tokenizer, 20, False))
  places = [
    place for window in windows for place in window.word_numbers if place >= 0
  ]
  assert sorted(places) == list(range(5000))
  first_ids = [
    next(iter(tokenizer.encode(word)), tokenizer.vocab["[UNK]"])
    for word in words
  ]
  for window in windows:
    ids = window.features.input_ids
    assert len(ids) == len(window.word_numbers) <= 20
    for token, place in enumerate(window.word_numbers):
      if place >= 0:
        assert ids[token] == first_ids[place]
        # A quarter of the window is on either side, but at the ends.
        assert min(token, len(ids) - 1 - token) >= 4 or (
          window in (windows[0], windows[-1])
        )


def test_sentences_around_are_context_on_request(vocab_file):
  tokenizer = tokenization.FullTokenizer(vocab_file)
  sentences = sentences_of("the cat", "it sat", "a dog", documents=[0, 0, 1])

  def texts(document_context):
    return [
      " ".join(tokenizer.convert_ids_to_tokens(window.features.input_ids))
      for window in ner.cut_windows(sentences, tokenizer, 20, document_context)
    ]

  assert texts(False) == [
    "[CLS] the cat [SEP]",
    "[CLS] it sat [SEP]",
    "[CLS] a dog [SEP]",
  ]
  assert texts(True) == ["[CLS] the cat it sat [SEP]", "[CLS] a dog [SEP]"]
  assert ner.split_by_sentence(sentences, range(6)) == [[0, 1], [2, 3], [4, 5]]


def test_entities_have_their_place_in_the_text():
  [sentence] = sentences_of("in New York (NY )")
  assert json.loads(
    ner.sentence_to_json(sentence, ["O", "B-x", "I-x", "O", "O"])
  ) == {
    "text": "in New York (NY )",
    "tags": ["O", "B-x", "I-x", "O", "O"],
    "entities": [{"type": "x", "start": 3, "end": 11, "text": "New York"}],
  }


def test_words_that_the_tokenizer_drops(vocab_file):
  tokenizer = tokenization.FullTokenizer(vocab_file)
  words = ("the", "\xa0", "", "\u200b", "zzz", ".", "\u00ad")
  sentence = ner.Sentence(words, None, 0, (), ())
  assert ner.find_dropped_words([sentence], tokenizer) == {
    "\xa0",
    "",
    "\u200b",
    "\u00ad",
  }


def test_rows_keep_comments_and_words_of_one_space():
  rows = [("# id 1", False), ("the\tO \r", True), ("\xa0", True)]
  sentence = ner.Sentence(
    ("the", "\xa0"),
    None,
    0,
    tuple(ner.SentenceRow(*row) for row in rows),
    (2, 3),
    "\t",
  )
  assert list(ner.format_rows(sentence, ["B-x", "O"], [0.5, 1])) == [
    "# id 1",
    "the\tO\tB-x\t0.5000",
    "\xa0\tO\t1.0000",
  ]


def test_offsets_count_characters_of_the_text_of_the_file():
  sentence = ner.Sentence(
    ("the", "big", "cat"),
    None,
    0,
    (),
    (),
    text="the  big\ncat",
    starts=(0, 5, 9),
  )
  line = ner.sentence_to_json(sentence, ["O", "B-x", "I-x"])
  [entity] = json.loads(line)["entities"]
  assert entity == {"type": "x", "start": 5, "end": 12, "text": "big\ncat"}
