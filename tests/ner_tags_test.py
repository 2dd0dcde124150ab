"""Tests of tasks/ner_tags.py."""

import pytest

from tasks import ner_tags


@pytest.mark.parametrize(
  "tags, scheme, irregular",
  [
    ("B-x I-x O B-y", "IOB2", 0),
    ("B-y I-y B-y O I-x B-z I-y", "IOB2", 2),
    ("B_y I_y B_y", "IOB2", 0),
    ("B I O B", "IOB2", 0),
    ("I-x I-x O I-y B-y I-z", "IOB1", 0),
    ("I-x O I-x O B-y", "IOB1", 1),
    ("B-x E-x O S-y", "BIOES", 0),
    ("B-x O E-x S-y I-y B-y", "BIOES", 5),
    ("B-x L-x O B-x I-x L-x", "BILOU", 0),
    ("U-x L-x B-y O", "BILOU", 2),
    ("B-x M-x E-x S-y", "BMES", 0),
    ("M-x E-x B-x O", "BMES", 2),
    ("B M E S", "BMES", 0),
    ("O O", "IOB2", 0),
    # A mistake in one tag does not decide.
    ("B-x I-x BORG O", "IOB2", 0),
    ("B-x BORG I-x", "IOB2", 1),
  ],
)
def test_schemes(tags, scheme, irregular):
  sentences = [tags.split()]
  assert ner_tags.find_scheme(sentences) == scheme
  assert ner_tags.count_irregular(sentences, scheme) == irregular


def test_tags_that_are_no_parts_of_entities_have_no_scheme():
  assert ner_tags.find_scheme([["NN", "DT"], ["O"]]) is None
  assert not ner_tags.mark_entities(["NN", "B-x", "DT", "O"])
  assert ner_tags.find_misfits(["NN", "B-x", "O"]) == {"NN"}
