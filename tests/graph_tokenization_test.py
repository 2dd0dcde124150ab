"""Tests of graph_tokenization.py."""

import gzip
import itertools
import json
import os
import random
import unicodedata

import numpy as np
import pytest
import tensorflow as tf
from tokenization_test import ODD

from data import tokenizer_settings
from serving import graph_tokenization
import tokenization

_TEXTS = tf.TensorSpec([None], tf.string)


def tokenize(tokenizer, texts, **options):
  """Returns the tokens of texts as lists."""
  graph_tokenizer = graph_tokenization.GraphTokenizer(tokenizer)
  function = tf.function(
    lambda texts: graph_tokenizer(texts, **options), input_signature=[_TEXTS]
  )
  return [
    values.to_list()
    for values in function(
      tf.constant([text.encode() for text in texts], tf.string)
    )
  ]


def test_known_examples(vocab_file):
  tokenizer = tokenization.FullTokenizer(vocab_file)
  texts = [
    "  The CATS unaffable,\u200b ré\u0301d! ",
    "",
    " \t ",
    "a",
    "x" * 201,
    "the" + "s" * 198 + " dog",
  ]
  ids, starts, ends, words, _ = tokenize(tokenizer, texts)
  assert [tokenizer.convert_ids_to_tokens(row) for row in ids] == [
    ["the", "cat", "##s", "un", "##aff", "##able", ",", "red", "!"],
    [],
    [],
    ["a"],
    ["[UNK]"],
    ["[UNK]", "dog"],
  ]
  assert [texts[0][start:end] for start, end in zip(starts[0], ends[0])] == [
    "The",
    "CAT",
    "S",
    "un",
    "aff",
    "able",
    ",",
    "ré\u0301d",
    "!",
  ]
  assert words == [[0, 1, 1, 2, 2, 2, 2, 3, 3], [], [], [0], [0], [0, 1]]
  assert (starts[-1], ends[-1]) == ([0, 202], [201, 205])
  assert tokenize(tokenizer, ["", " "]) == [[[], []]] * 5
  assert tokenize(tokenizer, []) == [[]] * 5


def test_words_of_which_nothing_is_left_may_be_unknown_tokens(vocab_file):
  tokenizer = tokenization.FullTokenizer(vocab_file)
  texts = ["\u200b the \u200b\xad cats", "", "\u200b", "a \u200b"]
  ids, starts, ends, words, are_dropped = tokenize(
    tokenizer, texts, keep_dropped_words=True
  )
  assert [tokenizer.convert_ids_to_tokens(row) for row in ids] == [
    ["[UNK]", "the", "[UNK]", "cat", "##s"],
    [],
    ["[UNK]"],
    ["a", "[UNK]"],
  ]
  assert words == [[0, 1, 2, 3, 3], [], [0], [0, 1]]
  assert starts == [[0, 2, 6, 9, 12], [], [0], [0, 2]]
  assert ends == [[1, 5, 8, 12, 13], [], [1], [1, 3]]
  assert are_dropped == [[1, 0, 1, 0, 0], [], [1], [0, 1]]


@pytest.mark.parametrize(
  "settings",
  [
    tokenizer_settings.TokenizerSettings(True),
    tokenizer_settings.TokenizerSettings(False),
    tokenizer_settings.TokenizerSettings(
      True, False, False, tokenizer_settings.SpecialTokens(unk="ab")
    ),
  ],
)
def test_agrees_with_the_tokenizer_about_odd_text(tmp_path, settings):
  path = tmp_path / "vocab.txt"
  pieces = sorted(
    set("abcdeAÉéñnßσςΣ文字한ﬁ.,$-" + unicodedata.normalize("NFD", "글भाषा"))
  )
  path.write_text(
    "\n".join(
      [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *pieces,
        *(f"##{piece}" for piece in pieces),
        "ab",
        "abc",
        "##cd",
        "##σa",
      ]
    )
    + "\n"
  )
  tokenizer = tokenization.FullTokenizer.from_settings(str(path), settings)
  rng = random.Random(1)
  texts = [
    "".join(rng.choices("abcdeAÉéñΣΣΣ  ..'" + ODD, k=rng.randrange(12)))
    for _ in range(2000)
  ]
  ids, starts, ends, *_ = tokenize(tokenizer, texts)
  for text, *values in zip(texts, ids, starts, ends):
    assert values[0] == tokenizer.encode(text), repr(text)
    # Marks after a Chinese character, or among the parts of a Korean one,
    # belong to it in the graph alone; and see the docstring there.
    if not any(unicodedata.category(char) in ("Mn", "Mc") for char in text):
      offsets = tokenizer.encode_with_offsets(text)[1]
      assert list(zip(*values[1:])) == offsets, repr(text)


def test_golden(golden_dir):
  path = os.path.join(golden_dir, "tokenization", "cases.jsonl.gz")
  with gzip.open(path, "rt", encoding="utf-8") as reader:
    cases = [json.loads(line) for line in reader]

  def kind(case):
    return (case["vocab"], case["do_lower_case"])

  for (vocab, do_lower_case), group in itertools.groupby(
    sorted(cases, key=kind), kind
  ):
    tokenizer = tokenization.FullTokenizer(
      os.path.join(golden_dir, "..", "data", "vocab", vocab, "vocab.txt"),
      do_lower_case,
    )
    group = list(group)
    ids = tokenize(tokenizer, [case["text"] for case in group])[0]
    for case, row in zip(group, ids):
      assert tokenizer.convert_ids_to_tokens(row) == case["tokens"], case


def test_hashes_that_differ_only_in_high_bits_get_slots():
  # In a small table, these want the same slot at every displacement.
  first = 5 << 32 | 3 << 20
  hashes = np.array([first, first + (1 << 45), 7 << 46], np.int64)
  _, slots, num_slots = graph_tokenization._place_hashes(hashes)
  assert len(set(slots)) == 3 and slots.max() < num_slots
