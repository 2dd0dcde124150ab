"""Tests of tasks/ner.py."""

import json

import pytest

from tasks import ner
import tokenization


def read(tmp_path, content, *args, **kwargs):
  (tmp_path / "x.txt").write_text(content, encoding="utf-8")
  return ner.read_sentences(str(tmp_path / "x.txt"), *args, **kwargs)


def test_reading(tmp_path):
  sentences = read(
    tmp_path,
    "-DOCSTART- -X- O\n\nthe DT O\nUN NNP B-ORG\n\t\n\n"
    "a DT O\n\n-DOCSTART- -X- O\n\nLyon NNP B-LOC\n",
  )
  assert [(s.words, s.tags, s.document, s.line) for s in sentences] == [
    (("the", "UN"), ("O", "B-ORG"), 0, 3),
    (("a",), ("O",), 0, 7),
    (("Lyon",), ("B-LOC",), 1, 11),
  ]
  [sentence] = read(tmp_path, "B-x;the cat;1\n", ner.WordColumns(1, 0, ";"))
  assert (sentence.words, sentence.tags) == (("the cat",), ("B-x",))
  [sentence] = read(tmp_path, "the\ncat\n", has_tags=False)
  assert sentence.tags is None


TABS = ner.WordColumns(0, 1, "\t")


@pytest.mark.parametrize(
  "content, kwargs, message",
  [
    ("", {}, "x.txt holds no words"),
    ("the O\ncat\n", {}, "line 2 has a word without tag: 'cat'. Add a tag"),
    ("the O\ncat\n", dict(has_tags=False), "line 2 has a word without tag"),
    (
      "the\tO\ncat\t\n",
      dict(columns=TABS),
      "line 2 has a word without tag",
    ),
    (
      "the O\n",
      dict(columns=ner.WordColumns(0, 2)),
      "line 1 has 2 columns, so there is no tag in column 2: 'the O'. Are",
    ),
    ("\tO\tx\n", dict(columns=TABS), "line 1 has no word"),
    (
      "the O\n",
      dict(columns=ner.WordColumns(0, 1, "")),
      "--column_separator is emp",
    ),
    ("the O\nc\0t O\n", {}, "x.txt, line 2 has a byte of value 0"),
    ("the O\n" + "c" * 2**20, {}, r"word without tag: 'c+\.\.\.c+'"),
  ],
)
def test_files_that_are_refused(tmp_path, content, kwargs, message):
  with pytest.raises(ValueError, match=message):
    read(tmp_path, content, **kwargs)


@pytest.mark.parametrize(
  "tags, scheme, irregular",
  [
    ("B-x I-x O B-y", "IOB2", 0),
    ("B-y I-y B-y O I-x B-z I-y", "IOB2", 2),
    ("I-x I-x O I-y B-y I-z", "IOB1", 0),
    ("I-x O I-x O B-y", "IOB1", 1),
    ("B-x E-x O S-y", "BIOES", 0),
    ("B-x O E-x S-y I-y B-y", "BIOES", 5),
    ("O O", "IOB2", 0),
  ],
)
def test_schemes(tags, scheme, irregular):
  sentences = [tags.split()]
  assert ner.find_scheme(sentences) == scheme
  assert ner.count_irregular(sentences, scheme) == irregular


def test_tags_that_are_no_parts_of_entities_have_no_scheme():
  assert ner.find_scheme([["NN", "DT"], ["O"]]) is None


# --- Windows -----------------------------------------------------------------


def sentences_of(*texts, documents=None):
  return [
    ner.Sentence(tuple(text.split()), None, document, (), 1)
    for text, document in zip(texts, documents or [0] * len(texts))
  ]


def test_no_word_of_a_long_sentence_is_lost(vocab_file):
  tokenizer = tokenization.FullTokenizer(vocab_file)
  words = ("the unaffable cat \u200b zzz " * 1000).split(" ")[:5000]
  sentence = ner.Sentence(tuple(words), None, 0, (), 1)
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
