"""Tests of pretraining/instances.py."""

import collections
import random
import sys

import builders
import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest
import tensorflow as tf

from errors import UserError
from pretraining import instances
from pretraining import masking

VOCAB = {token: i for i, token in enumerate(builders.TOKENS)}
CLS, SEP = VOCAB["[CLS]"], VOCAB["[SEP]"]


def create_block(documents) -> instances.TokenizedBlock:
  """Returns the block of documents, which are lists of sentences of ids."""
  sentences = [sentence for document in documents for sentence in document]
  ids = [token_id for sentence in sentences for token_id in sentence]
  lengths = [len(sentence) for sentence in sentences]
  num_sentences = [len(document) for document in documents]
  return instances.TokenizedBlock(
    np.array(ids, np.int32),
    None,
    np.cumsum([0, *lengths]).tolist(),
    np.cumsum([0, *num_sentences]).tolist(),
  )


def create_documents(rng, num_documents):
  """Returns documents whose ids are 1000 * document + sentence, from 1000."""
  documents = []
  for document in range(1, num_documents + 1):
    sentences = []
    for sentence in range(rng.randint(1, 12)):
      token_id = 1000 * document + sentence
      sentences.append([token_id] * rng.randint(1, 9))
    documents.append(sentences)
  return documents


# --- Pairs -------------------------------------------------------------------


def draw_pairs(documents, max_length, short_seq_prob, rng):
  """Yields (ids of a, ids of b, whether b is random), before truncation."""
  block = create_block(documents)
  ids = block.ids.tolist()
  for pair in instances.draw_pairs(block, max_length, short_seq_prob, rng):
    a, b = ids[pair.a_start : pair.a_end], ids[pair.b_start : pair.b_end]
    yield a, b, pair.is_random_next


def test_pairs_are_consecutive_or_from_another_document():
  rng = random.Random(0)
  documents = create_documents(rng, 8)
  num_random = collections.Counter()
  for _ in range(30):
    for a, b, is_random in draw_pairs(documents, 20, 0.1, rng):
      num_random[is_random] += 1
      assert a and b
      assert len({i // 1000 for i in a}) == len({i // 1000 for i in b}) == 1
      assert (a[0] // 1000 != b[0] // 1000) == is_random
      if not is_random:
        assert b[0] == a[-1] + 1
  assert 0.4 < num_random[1] / num_random.total() < 0.7


def test_every_sentence_is_used_in_order():
  rng = random.Random(1)
  documents = create_documents(rng, 5)
  used = []
  for a, b, is_random in draw_pairs(documents, 30, 0.3, rng):
    used += a + (b if not is_random else [])
  assert used == [i for document in documents for s in document for i in s]


def test_a_random_second_part_comes_from_anywhere_in_any_other_document():
  documents = [[[1000 * d + s] for s in range(4)] for d in range(1, 4)]
  first_ids = set()
  for a, b, is_random in draw_pairs(documents * 200, 9, 0.0, random.Random(0)):
    # Documents are repeated, so b may look like the document of a.
    if is_random:
      first_ids.add((a[0] // 1000, b[0]))
  assert first_ids == {
    (d, 1000 * other + s)
    for d in range(1, 4)
    for other in range(1, 4)
    for s in range(4)
  }


def test_pairs_reach_the_target_length():
  sentence = [7] * 5
  documents = [[sentence] * 200] * 2
  lengths = collections.Counter()
  for a, b, _ in draw_pairs(documents, 38, 0.0, random.Random(0)):
    lengths[len(a) + len(b)] += 1
  # 8 sentences of 5 tokens are the first to reach 38.
  assert lengths.most_common(1)[0][0] == 40
  assert lengths[40] > 0.9 * lengths.total()
  assert max(lengths) == 40


def test_some_pairs_aim_at_shorter_lengths():
  documents = [[[7]] * 20_000] * 2
  lengths = collections.Counter()
  for a, b, _ in draw_pairs(documents, 20, 1.0, random.Random(0)):
    lengths[len(a) + len(b)] += 1
  assert set(range(2, 21)) <= set(lengths)
  assert max(lengths) == 20


@pytest.mark.parametrize("num_sentences", [2, 3, 9, 10])
def test_one_document_gives_no_random_pairs(num_sentences):
  rng = random.Random(0)
  document = [[1000 + s] * 4 for s in range(num_sentences)]
  for _ in range(50):
    pairs = list(draw_pairs([document], 20, 0.1, rng))
    assert pairs and not any(is_random for _, _, is_random in pairs)
    assert sum((a + b for a, b, _ in pairs), []) == sum(document, [])


def test_a_single_sentence_gives_no_pair():
  assert not list(draw_pairs([[[7, 8]]], 20, 0.1, random.Random(0)))


def test_truncation_cuts_the_longer_span_at_both_ends():
  pairs = [instances.Pair(0, 9, 50, 52, 1)] * 300
  spans, num_tokens_cut = instances.truncate_pairs(
    pairs, 8, np.random.default_rng(0)
  )
  assert set(spans.a_starts) == {0, 1, 2, 3} and set(spans.a_lengths) == {6}
  assert set(spans.b_starts) == {50} and set(spans.b_lengths) == {2}
  assert spans.is_random_next.all()
  assert num_tokens_cut == 900


def test_truncation_equals_removing_one_token_at_a_time():
  rng = np.random.default_rng(0)
  lengths = rng.integers(1, 30, (500, 2)).tolist()
  pairs = [
    instances.Pair(0, a, 100, 100 + b, number % 2)
    for number, (a, b) in enumerate(lengths)
  ]
  spans, num_tokens_cut = instances.truncate_pairs(pairs, 16, rng)
  expected_cut = 0
  for number, (length_a, length_b) in enumerate(lengths):
    a, b = length_a, length_b
    while a + b > 16:
      a, b = (a - 1, b) if a > b else (a, b - 1)
    assert (spans.a_lengths[number], spans.b_lengths[number]) == (a, b)
    assert 0 <= spans.a_starts[number] <= length_a - a
    assert 100 <= spans.b_starts[number] <= 100 + length_b - b
    # The tokens of a random b are not lost.
    expected_cut += length_a - a
    if not spans.is_random_next[number]:
      expected_cut += length_b - b
  assert num_tokens_cut == expected_cut


# --- Single spans and packing ------------------------------------------------


def test_consecutive_spans_cover_all_documents():
  rng = random.Random(0)
  documents = create_documents(rng, 6)
  block = create_block(documents)
  first_lengths = set()
  for _ in range(20):
    spans = instances.draw_consecutive_spans(block, 10, 0.2, rng)
    first_lengths.add(int(spans.a_lengths[0]))
    places = []
    for start, length in zip(spans.a_starts, spans.a_lengths):
      places += range(start, start + length)
      assert len(set(block.ids[start : start + length] // 1000)) == 1
    assert places == list(range(len(block.ids)))
    assert spans.a_lengths.max() <= 10
    assert not spans.b_lengths.any() and not spans.is_random_next.any()
  # Duplicates are cut at different places.
  assert len(first_lengths) > 5


@hypothesis.given(
  lengths=st.lists(st.integers(1, 30), min_size=1),
  max_per_row=st.integers(1, 5),
)
def test_packed_rows_hold_what_fits(lengths, max_per_row):
  rows = instances.pack_rows(
    np.array(lengths), 30, max_per_row, np.random.default_rng(0)
  )
  loads = np.bincount(rows, lengths)
  assert loads.min() > 0 and loads.max() <= 30
  assert np.bincount(rows).max() <= max_per_row
  if max_per_row == 5:
    # No two rows could have been one, unless that would be too many instances.
    light = sorted(loads[np.bincount(rows) <= 2])
    assert len(light) < 2 or light[0] + light[1] > 30


# --- Records -----------------------------------------------------------------


def make_records(settings, documents):
  """Returns the features of all records, and the counts."""
  counts = collections.Counter()
  features = []
  maker = instances.InstanceMaker(settings)
  for records, _ in maker.make_records((0, 0), documents, counts):
    content, place = records.content.tobytes(), 0
    for length in records.lengths:
      example = tf.train.Example.FromString(content[place : place + length])
      record = {}
      for name, feature in example.features.feature.items():
        values = feature.int64_list.value or feature.float_list.value
        record[name] = np.array(values)
      features.append(record)
      place += length
    assert place == len(content)
  return features, counts


def restore_ids(record):
  """Returns the ids of a record before it was masked."""
  ids = record["input_ids"].copy()
  is_label = record["masked_lm_weights"] > 0
  positions = record["masked_lm_positions"][is_label]
  ids[positions] = record["masked_lm_ids"][is_label]
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
  max_per_row=st.sampled_from([1, 3]),
  dupe_factor=st.integers(1, 2),
)
def test_any_documents_give_valid_records(
  vocab_path, documents, next_sentence, whole_words, max_per_row, dupe_factor
):
  settings = instances.InstanceSettings(
    vocab_path,
    max_seq_length=16,
    masking_settings=masking.MaskingSettings(
      max_predictions_per_seq=3, do_whole_word_mask=whole_words
    ),
    dupe_factor=dupe_factor,
    next_sentence_prediction=next_sentence,
    max_instances_per_row=max_per_row,
  )
  records, counts = make_records(settings, documents)
  num_instances = num_tokens = 0
  for record in records:
    ids, length = restore_ids(record), int(record["input_mask"].sum())
    assert not record["input_mask"][length:].any() and not ids[length:].any()
    assert not record["segment_ids"][length:].any()
    # No whole word may fit.
    assert (not whole_words) <= record["masked_lm_weights"].sum() <= 3
    starts = np.flatnonzero(ids == CLS)
    assert starts[0] == 0
    if max_per_row > 1:
      used = len(starts)
      np.testing.assert_array_equal(record["sequence_starts"][:used], starts)
      assert not record["sequence_starts"][used:].any()
    assert len(starts) <= max_per_row
    for start, end in zip(starts, [*starts[1:], length]):
      row, segments = ids[start:end], record["segment_ids"][start:end]
      separators = np.flatnonzero(row == SEP)
      assert len(separators) == 1 + next_sentence
      assert separators[-1] == len(row) - 1
      np.testing.assert_array_equal(
        segments, np.arange(len(row)) > separators[0]
      )
      num_instances += 1
      num_tokens += len(row)
    assert ("next_sentence_labels" in record) == next_sentence
    if next_sentence and max_per_row > 1:
      assert record["next_sentence_weights"].sum() == len(starts)
  assert num_instances == counts["instances"]
  assert num_tokens == counts["real_tokens"]
  assert len(records) == counts["records"]
  # Tokens that are not used are counted.
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
  settings = instances.InstanceSettings(
    vocab_path, max_seq_length=16, dupe_factor=1
  )
  records, counts = make_records(
    settings, [["the cat " * 500], ["a dog ran"] * 9]
  )
  assert counts["sentences_cut_up"] == 1
  assert 0.3 < counts["random_next"] / counts["instances"] < 0.8
  assert len(records) > 50
  assert counts["tokens_cut"] < 0.5 * counts["tokens"]


def create_word_maker(vocab_path):
  return instances.InstanceMaker(
    instances.InstanceSettings(
      vocab_path,
      masking_settings=masking.MaskingSettings(do_whole_word_mask=True),
      word_separator="|",
    )
  )


def test_words_do_not_change_how_text_is_tokenized(vocab_path):
  maker = create_word_maker(vocab_path)
  # Separators inside a word of the tokenizer do not count; several words of the
  # tokenizer may be one.
  ids, continues = maker._encode_words(
    "un|affable |cat|, the dog|", maker._segment_words
  )
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


def test_jieba_that_is_missing_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, "jieba", None)
  with pytest.raises(UserError, match="pip install jieba"):
    instances._create_jieba_segmenter()


def test_jieba_is_given_text_without_long_runs(monkeypatch):
  jieba = pytest.importorskip("jieba")
  given = []
  monkeypatch.setattr(jieba, "lcut", lambda text: given.append(text) or [text])
  segment = instances._create_jieba_segmenter()
  run = "\u4e2d" * 1500
  # Punctuation ends a run, and then nothing is cut.
  assert segment(f"{run}\u3002{run}") == [f"{run}\u3002{run}"]
  given.clear()
  assert "".join(segment(run * 10)) == run * 10
  assert max(map(len, given)) == 2000


def test_few_pairs_of_characters_are_cached(vocab_path, monkeypatch):
  text = "un|affable| |cat|, the| d|o|g|"
  maker = create_word_maker(vocab_path)
  expected = maker._encode_words(text, maker._segment_words)
  monkeypatch.setattr(instances, "_CACHED_PAIRS", 2)
  maker = create_word_maker(vocab_path)
  assert maker._encode_words(text, maker._segment_words) == expected
  assert len(maker._is_one_word_cache) <= 2


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
  settings = instances.InstanceSettings(
    str(path),
    max_seq_length=16,
    masking_settings=masking.MaskingSettings(
      masked_lm_prob=0.25, do_whole_word_mask=True
    ),
    dupe_factor=40,
    **flags,
  )
  records, _ = make_records(settings, [[text] * 4] * 2)
  words = collections.Counter()
  for record in records:
    tokens = restore_ids(record)
    positions = record["masked_lm_positions"][record["masked_lm_weights"] > 0]
    starts = np.flatnonzero((record["continues_word"] == 0) & (tokens > 5))
    for start in starts:
      end = start + 1
      while end < 16 and record["continues_word"][end]:
        end += 1
      ids = tokens[start:end] - len(builders.TOKENS)
      words["".join(characters[i] for i in ids)] += 1
      is_chosen = np.isin(np.arange(start, end), positions)
      assert is_chosen.all() or not is_chosen.any()
  whole = {"\u6211\u4eec", "\u559c\u6b22", "\u4f60"}
  # Truncation also cuts words; what remains of them is a word.
  assert whole <= set(words)
  assert sum(words[word] for word in whole) > 0.9 * words.total()


def test_settings_are_stored_under_the_names_of_their_flags(vocab_path):
  settings = instances.InstanceSettings(
    vocab_path,
    masking_settings=masking.MaskingSettings(7, 0.3, True),
    max_instances_per_row=4,
  )
  # Other names, or another order, would change the files of a build.
  assert list(settings.to_dict().items()) == [
    ("vocab_file", vocab_path),
    ("do_lower_case", True),
    ("max_seq_length", 128),
    ("max_predictions_per_seq", 7),
    ("masked_lm_prob", 0.3),
    ("do_whole_word_mask", True),
    ("word_segmenter", ""),
    ("word_separator", ""),
    ("dupe_factor", 10),
    ("short_seq_prob", 0.1),
    ("next_sentence_prediction", True),
    ("max_pieces_per_row", 4),
    ("seed", 12345),
  ]


@pytest.mark.parametrize(
  "counts, num_shards, message",
  [
    (dict(), 1, "contains no text"),
    (dict(tokens=9), 1, "one sentence, which cannot form a pair"),
    (dict(tokens=9, instances=3, records=3), 4, "3 records, too few for 4"),
  ],
)
def test_builds_with_too_few_records_are_refused(counts, num_shards, message):
  settings = instances.InstanceSettings("")
  with pytest.raises(UserError, match=message):
    instances.check_counts(collections.Counter(counts), settings, num_shards)
