"""Tests of pretraining_instances.py."""

import collections
import random

import builders
import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest
import tensorflow as tf

from pretraining import instances

CLS, SEP = builders.VOCAB["[CLS]"], builders.VOCAB["[SEP]"]


def block_of(documents) -> instances.TokenizedBlock:
  """Documents of sentences of ids."""
  sentences = [sentence for document in documents for sentence in document]
  starts = np.cumsum([0, *map(len, sentences)]).tolist()
  return instances.TokenizedBlock(
    np.array(sum(sentences, []), np.int32),
    None,
    starts,
    np.cumsum([0, *map(len, documents)]).tolist(),
  )


def documents_of(rng, num_documents):
  """Documents whose ids say where they stand: document, then sentence."""
  return [
    [
      [1000 * (d + 1) + s] * rng.randint(1, 9)
      for s in range(rng.randint(1, 12))
    ]
    for d in range(num_documents)
  ]


def draw(documents, max_length, short_seq_prob, rng):
  """Yields (ids of a, ids of b, whether b is random), before truncation."""
  block = block_of(documents)
  ids = block.ids.tolist()
  for a, a_end, b, b_end, is_random in instances.draw_pairs(
    block, max_length, short_seq_prob, rng
  ).tolist():
    yield ids[a:a_end], ids[b:b_end], is_random


def test_pairs_are_consecutive_or_from_another_document():
  rng = random.Random(0)
  documents = documents_of(rng, 8)
  num_random = collections.Counter()
  for _ in range(30):
    for a, b, is_random in draw(documents, 20, 0.1, rng):
      num_random[is_random] += 1
      assert a and b
      assert len({i // 1000 for i in a}) == len({i // 1000 for i in b}) == 1
      assert (a[0] // 1000 != b[0] // 1000) == is_random
      if not is_random:
        assert b[0] == a[-1] + 1
  assert 0.4 < num_random[1] / num_random.total() < 0.7


def test_every_sentence_has_a_turn():
  rng = random.Random(1)
  documents = documents_of(rng, 5)
  used = []
  for a, b, is_random in draw(documents, 30, 0.3, rng):
    used += a + (b if not is_random else [])
  assert used == [i for document in documents for s in document for i in s]


@pytest.mark.parametrize("num_sentences", [2, 3, 9, 10])
def test_one_document_gives_no_random_pairs(num_sentences):
  rng = random.Random(0)
  document = [[1000 + s] * 4 for s in range(num_sentences)]
  for _ in range(50):
    pairs = list(draw([document], 20, 0.1, rng))
    assert pairs and not any(is_random for _, _, is_random in pairs)
    assert sum((a + b for a, b, _ in pairs), []) == sum(document, [])


def test_truncation_cuts_the_longer_part_at_both_ends():
  pairs = np.tile([[0, 9, 50, 52, 1]], [300, 1])
  pieces = instances._truncate(pairs, 8, np.random.default_rng(0))
  assert set(pieces.a_starts) == {0, 1, 2, 3} and set(pieces.a_lengths) == {6}
  assert set(pieces.b_starts) == {50} and set(pieces.b_lengths) == {2}
  # As one token at a time off the longer part, off b when they are equal.
  lengths = np.random.default_rng(0).integers(1, 30, (500, 2))
  pairs = np.stack(
    [
      np.zeros(500, int),
      lengths[:, 0],
      np.zeros(500, int),
      lengths[:, 1],
      np.zeros(500, int),
    ],
    axis=1,
  )
  pieces = instances._truncate(pairs, 16, np.random.default_rng(0))
  for (a, b), kept_a, kept_b in zip(
    lengths.tolist(), pieces.a_lengths, pieces.b_lengths
  ):
    while a + b > 16:
      a, b = (a - 1, b) if a > b else (a, b - 1)
    assert (kept_a, kept_b) == (a, b)


def test_stretches_run_through_documents():
  rng = random.Random(0)
  documents = documents_of(rng, 6)
  block = block_of(documents)
  for _ in range(20):
    pieces = instances.draw_stretches(block, 10, 0.2, rng)
    places = [
      place
      for start, length in zip(pieces.a_starts, pieces.a_lengths)
      for place in range(start, start + length)
    ]
    assert places == list(range(len(block.ids)))
    assert pieces.a_lengths.max() <= 10
    for start, length in zip(pieces.a_starts, pieces.a_lengths):
      assert len(set(block.ids[start : start + length] // 1000)) == 1


@hypothesis.given(
  lengths=st.lists(st.integers(1, 30), min_size=1),
  max_per_row=st.integers(1, 5),
)
def test_packed_rows_hold_what_fits(lengths, max_per_row):
  rows = instances.pack(
    np.array(lengths), 30, max_per_row, np.random.default_rng(0)
  )
  loads = np.bincount(rows, lengths)
  assert loads.min() > 0 and loads.max() <= 30
  assert np.bincount(rows).max() <= max_per_row
  if max_per_row == 5:
    # No two rows could have been one, unless that would be too many pieces.
    light = sorted(loads[np.bincount(rows) <= 2])
    assert len(light) < 2 or light[0] + light[1] > 30


# --- Records -----------------------------------------------------------------


def records_of(settings, documents):
  """Returns the features of all records, and the counts."""
  counts = collections.Counter()
  features = []
  maker = instances.InstanceMaker(settings)
  for records, _ in maker.make((0, 0), documents, counts):
    content, place = records.content.tobytes(), 0
    for length in records.lengths:
      example = tf.train.Example.FromString(content[place : place + length])
      features.append(
        {
          name: np.array(feature.int64_list.value or feature.float_list.value)
          for name, feature in example.features.feature.items()
        }
      )
      place += length
    assert place == len(content)
  return features, counts


def unmasked(record):
  ids = record["input_ids"].copy()
  is_label = record["masked_lm_weights"] > 0
  ids[record["masked_lm_positions"][is_label]] = record["masked_lm_ids"][
    is_label
  ]
  return ids


@pytest.fixture(scope="module")
def vocab_path(tmp_path_factory):
  path = tmp_path_factory.mktemp("vocab") / "vocab.txt"
  path.write_text("\n".join(builders.TOKENS) + "\n")
  return str(path)


SENTENCES = st.lists(
  st.sampled_from(
    ["the", "cat", "sat", "unaffable", "running", ",", "\u00e9", " "]
  ),
  max_size=40,
).map(" ".join)


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(
  documents=st.lists(st.lists(SENTENCES, max_size=6), max_size=6),
  next_sentence=st.booleans(),
  whole_words=st.booleans(),
  max_pieces=st.sampled_from([1, 3]),
  dupe_factor=st.integers(1, 2),
)
def test_any_documents_give_valid_records(
  vocab_path, documents, next_sentence, whole_words, max_pieces, dupe_factor
):
  settings = instances.Settings(
    vocab_path,
    max_seq_length=16,
    max_predictions_per_seq=3,
    do_whole_word_mask=whole_words,
    dupe_factor=dupe_factor,
    next_sentence_prediction=next_sentence,
    max_pieces_per_row=max_pieces,
  )
  records, counts = records_of(settings, documents)
  num_pieces = num_tokens = 0
  for record in records:
    ids, length = unmasked(record), int(record["input_mask"].sum())
    assert not record["input_mask"][length:].any() and not ids[length:].any()
    assert not record["segment_ids"][length:].any()
    # No whole word may fit.
    assert (not whole_words) <= record["masked_lm_weights"].sum() <= 3
    starts = np.flatnonzero(ids == CLS)
    assert starts[0] == 0
    if max_pieces > 1:
      used = len(starts)
      np.testing.assert_array_equal(record["sequence_starts"][:used], starts)
      assert not record["sequence_starts"][used:].any()
    assert len(starts) <= max_pieces
    for start, end in zip(starts, [*starts[1:], length]):
      row, segments = ids[start:end], record["segment_ids"][start:end]
      separators = np.flatnonzero(row == SEP)
      assert len(separators) == 1 + next_sentence
      assert separators[-1] == len(row) - 1
      np.testing.assert_array_equal(
        segments, np.arange(len(row)) > separators[0]
      )
      num_pieces += 1
      num_tokens += len(row)
    assert ("next_sentence_labels" in record) == next_sentence
    if next_sentence and max_pieces > 1:
      assert record["next_sentence_weights"].sum() == len(starts)
  assert (
    num_pieces == counts["instances"] and num_tokens == (counts["real_tokens"])
  )
  assert len(records) == counts["records"]
  # Nothing is lost but what is counted.
  missing = dupe_factor * counts["tokens"] - (
    counts["tokens_used"] + counts["tokens_cut"]
  )
  if not next_sentence or counts["documents"] > 1:
    assert missing == 0
  else:  # the only sentence of the only document has no second
    assert missing in (0, dupe_factor * counts["tokens"])
  assert counts["tokens"] == sum(
    len(instances.InstanceMaker(settings).tokenizer.encode(sentence))
    for document in documents
    for sentence in document
  )


def test_a_paragraph_on_one_line_is_cut_up_not_off(vocab_path):
  settings = instances.Settings(vocab_path, max_seq_length=16, dupe_factor=1)
  records, counts = records_of(
    settings, [["the cat " * 500], ["a dog ran"] * 9]
  )
  assert counts["sentences_cut_up"] == 1
  assert 0.3 < counts["random_next"] / counts["instances"] < 0.8
  assert len(records) > 50
  assert counts["tokens_cut"] < 0.5 * counts["tokens"]


def test_words_do_not_change_how_text_is_tokenized(vocab_path):
  maker = instances.InstanceMaker(
    instances.Settings(vocab_path, do_whole_word_mask=True, word_separator="|")
  )
  # Marks within what is one word for the tokenizer do not count; one word may
  # be several for it.
  ids, continues = maker._encode_words("un|affable |cat|, the dog|")
  assert ids == maker.tokenizer.encode("unaffable cat, the dog")
  assert [builders.TOKENS[i] for i in ids] == [
    "un",
    "##aff",
    "##able",
    "cat",
    ",",
    "the",
    "dog",
  ]
  assert continues == [False, True, True, False, False, True, True]


def test_jieba_is_given_text_without_long_runs(monkeypatch):
  jieba = pytest.importorskip("jieba")
  given = []
  monkeypatch.setattr(jieba, "lcut", lambda text: given.append(text) or [text])
  segment = instances._jieba_segmenter()
  run = "\u4e2d" * 1500
  # Punctuation ends a run, and then nothing is cut.
  assert segment(f"{run}\u3002{run}") == [f"{run}\u3002{run}"]
  given.clear()
  assert "".join(segment(run * 10)) == run * 10
  assert max(map(len, given)) == 2000


def test_few_pairs_of_characters_are_remembered(vocab_path, monkeypatch):
  settings = instances.Settings(
    vocab_path, do_whole_word_mask=True, word_separator="|"
  )
  text = "un|affable| |cat|, the| d|o|g|"
  expected = instances.InstanceMaker(settings)._encode_words(text)
  monkeypatch.setattr(instances, "_PAIRS_REMEMBERED", 2)
  maker = instances.InstanceMaker(settings)
  assert maker._encode_words(text) == expected
  assert len(maker._are_one_word) <= 2


@pytest.mark.parametrize(
  "flags,text",
  [
    ({"word_separator": "|"}, "\u6211\u4eec|\u559c\u6b22|\u4f60"),
    ({"word_separator": " "}, "\u6211\u4eec \u559c\u6b22 \u4f60"),
    ({"word_segmenter": "jieba"}, "\u6211\u4eec\u559c\u6b22\u4f60"),
  ],
)
def test_chinese_words_are_masked_whole(tmp_path, flags, text):
  characters = "\u6211\u4eec\u559c\u6b22\u4f60"
  path = tmp_path / "vocab.txt"
  path.write_text("\n".join([*builders.TOKENS, *characters, "x"]) + "\n")
  settings = instances.Settings(
    str(path),
    max_seq_length=16,
    masked_lm_prob=0.25,
    dupe_factor=40,
    do_whole_word_mask=True,
    **flags,
  )
  records, _ = records_of(settings, [[text] * 4] * 2)
  words = collections.Counter()
  for record in records:
    tokens = unmasked(record)
    starts = np.flatnonzero((record["continues_word"] == 0) & (tokens > 5))
    for start in starts:
      end = start + 1
      while end < 16 and record["continues_word"][end]:
        end += 1
      words[
        "".join(characters[i - len(builders.TOKENS)] for i in tokens[start:end])
      ] += 1
      chosen = [
        place in record["masked_lm_positions"][record["masked_lm_weights"] > 0]
        for place in range(start, end)
      ]
      assert len(set(chosen)) == 1
  whole = {"\u6211\u4eec", "\u559c\u6b22", "\u4f60"}
  # Truncation cuts words too; their rest is a word.
  assert whole <= set(words)
  assert sum(words[word] for word in whole) > 0.9 * words.total()
