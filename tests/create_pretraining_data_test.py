"""Tests of create_pretraining_data.py."""

import collections
import random

import conftest
import pytest

import create_pretraining_data as creation

VOCAB = {token: i for i, token in enumerate(conftest.TOKENS)}
VOCABULARY = creation.Vocabulary.from_tokens(VOCAB)
SPECIAL = {i for token, i in VOCAB.items() if token.startswith("[")}


def documents_of(rng, num_documents):
  """Documents whose ids say where they stand: document, then sentence."""
  return [[[1000 * (d + 1) + s] * rng.randint(1, 9)
           for s in range(rng.randint(1, 12))] for d in range(num_documents)]


def test_pairs_are_consecutive_or_from_another_document():
  rng = random.Random(0)
  documents = documents_of(rng, 8)
  num_random = collections.Counter()
  for _ in range(30):
    for index in range(len(documents)):
      for pair in creation.create_pairs(documents, index, 20, 0.1, rng):
        num_random[pair.is_random_next] += 1
        assert pair.ids_a and pair.ids_b
        assert len(pair.ids_a) + len(pair.ids_b) <= 20
        assert {i // 1000 for i in pair.ids_a} == {index + 1}
        other = {i // 1000 for i in pair.ids_b}
        assert len(other) == 1
        assert (other != {index + 1}) == pair.is_random_next
        if not pair.is_random_next and len(pair.ids_a + pair.ids_b) < 20:
          # Nothing was cut: the second part begins where the first ended.
          assert pair.ids_b[0] == pair.ids_a[-1] + 1
  assert 0.4 < num_random[True] / num_random.total() < 0.7


def test_every_sentence_is_used_when_nothing_is_cut():
  rng = random.Random(1)
  documents = documents_of(rng, 5)
  for index, document in enumerate(documents):
    used = set()
    for pair in creation.create_pairs(documents, index, 1000, 0.0, rng):
      used.update(pair.ids_a)
      used.update(() if pair.is_random_next else pair.ids_b)
    assert used == {sentence[0] for sentence in document}


def test_one_document_gives_no_random_pairs():
  rng = random.Random(0)
  documents = documents_of(rng, 1)
  documents[0] = [[1000 + s] * 4 for s in range(9)]
  for _ in range(50):
    pairs = list(creation.create_pairs(documents, 0, 20, 0.1, rng))
    assert pairs and not any(pair.is_random_next for pair in pairs)


def test_truncation_cuts_both_ends():
  rng = random.Random(0)
  starts = collections.Counter(
      creation._truncate(list(range(9)), [50, 51], 8, rng)[0][0]
      for _ in range(200))
  assert set(starts) == {0, 1, 2, 3}


def test_whole_words_do_not_reach_across_separators():
  tokens = ["[CLS]", "un", "##aff", "##able", "cat", "[SEP]", "##s", "##ing",
            "dog", "[SEP]"]
  ids = [VOCAB[token] for token in tokens]
  assert creation.mask_candidates(ids, VOCABULARY, True) == [
      [1, 2, 3], [4], [6, 7], [8]]
  assert creation.mask_candidates(ids, VOCABULARY, False) == [
      [1], [2], [3], [4], [6], [7], [8]]


@pytest.mark.parametrize("whole_words", [False, True])
def test_masks(whole_words):
  rng = random.Random(0)
  words = [i for token, i in VOCAB.items() if not token.startswith("[")]
  counts = collections.Counter()
  for _ in range(2000):
    ids = [VOCAB["[CLS]"], *rng.choices(words, k=rng.randint(1, 40)),
           VOCAB["[SEP]"], *rng.choices(words, k=rng.randint(1, 40)),
           VOCAB["[SEP]"]]
    masked, positions, labels = creation.mask_tokens(
        ids, VOCABULARY, 0.15, 7, whole_words, rng)
    wanted = min(7, max(1, round(len(ids) * 0.15)))
    assert len(positions) <= wanted and (
        whole_words or len(positions) == wanted)
    assert positions == sorted(set(positions))
    assert [ids[position] for position in positions] == labels
    assert not SPECIAL & set(labels)
    for position, (before, after) in enumerate(zip(ids, masked)):
      if position not in positions:
        assert before == after
      elif after == VOCABULARY.mask_id:
        counts["mask"] += 1
      else:
        assert after not in SPECIAL
        counts["kept" if before == after else "random"] += 1
    if whole_words:
      for group in creation.mask_candidates(ids, VOCABULARY, True):
        assert len(set(group) & set(positions)) in (0, len(group))
  # A random word is the old one now and then: the vocabulary is tiny.
  assert abs(counts["mask"] / counts.total() - 0.8) < 0.01
  assert abs(counts["random"] / counts.total() - 0.1) < 0.01
