"""Tests of tasks/classifier_config.py."""

import dataclasses
import json

import numpy as np
import pytest

import checkpoint
from data import tokenizer_settings
import errors
from tasks import classifier_config

FIELDS = {
  "problem_type": "single_label",
  "labels": ["x", "y"],
  "do_lower_case": True,
  "max_seq_length": 8,
  "long_text": "truncate",
}


def create_classifier(problem_type, labels=("x", "y")):
  return classifier_config.ClassifierConfig(
    problem_type, labels, tokenizer_settings.TokenizerSettings(), 8, "truncate"
  )


def test_a_classifier_is_read_as_it_was_written(tmp_path):
  assert classifier_config.ClassifierConfig.read(str(tmp_path)) is None
  classifier = create_classifier("multi_label", ("x", "\u00e9"))
  classifier.write(str(tmp_path))
  assert classifier_config.ClassifierConfig.read(str(tmp_path)) == classifier
  # Files of classifiers with BERT's tokenizer have no further fields.
  fields = json.loads((tmp_path / "classifier.json").read_text())
  assert list(fields) == list(FIELDS)
  classifier = dataclasses.replace(
    classifier,
    text_settings=tokenizer_settings.TokenizerSettings(
      True, False, False, tokenizer_settings.SpecialTokens(cls="<s>")
    ),
  )
  classifier.write(str(tmp_path))
  assert classifier_config.ClassifierConfig.read(str(tmp_path)) == classifier


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"more": 1}, "has .*more, but needs problem_type, .* and no others"),
    (
      {"problem_type": "other"},
      "problem_type is 'other', not one of single_la",
    ),
    ({"problem_type": ["regression"]}, "problem_type is .*, not one of single"),
    (
      {"problem_type": "regression"},
      r"labels is \['x', 'y'\], not an empty list",
    ),
    ({"labels": []}, r"labels is \[\], not a list of different texts"),
    ({"labels": "xy"}, "labels is 'xy', not a list"),
    (
      {"labels": ["x", "x"]},
      r"labels is \['x', 'x'\], not a list of different",
    ),
    ({"labels": ["x", ["y"]]}, r"labels is \['x', \['y'\]\], not a list"),
    ({"strip_accents": 1}, "strip_accents is 1, not true or false"),
    ({"do_lower_case": "true"}, "do_lower_case is 'true', not true or false"),
    (
      {"long_text": None},
      "long_text is None, not one of truncate, head_tail, sl",
    ),
    ({"max_seq_length": True}, "max_seq_length is True, not a whole number"),
    ({"max_seq_length": 8.0}, "max_seq_length is 8.0, not a whole number"),
    ({"max_seq_length": 2}, "max_seq_length is 2, not .* of at least 3"),
    ({"max_seq_length": 7, "long_text": "sliding_window"}, "of at least 8"),
  ],
)
def test_fields_that_are_refused(tmp_path, changes, message):
  (tmp_path / "classifier.json").write_text(json.dumps({**FIELDS, **changes}))
  with pytest.raises(errors.UserError, match="classifier.json.*" + message):
    classifier_config.ClassifierConfig.read(str(tmp_path))


def test_a_head_of_which_a_part_is_missing(tmp_path):
  checkpoint.write(str(tmp_path / "x.ckpt"), {"output_bias": np.zeros(2)})
  with pytest.raises(errors.UserError, match="x.ckpt has no classifier"):
    create_classifier("single_label").check_weights(
      str(tmp_path / "x.ckpt"), "--x"
    )
  checkpoint.write(
    str(tmp_path / "y.ckpt"),
    {"output_bias": np.zeros(2), "output_weights": np.zeros([3, 5])},
  )
  with pytest.raises(
    errors.UserError, match="a classifier of 3 labels, but .* 2"
  ):
    create_classifier("single_label").check_weights(
      str(tmp_path / "y.ckpt"), "--x"
    )


def test_a_classifier_of_texts_needs_a_pooler(tmp_path):
  path = str(tmp_path / "y.ckpt")
  tensors = {"output_weights": np.zeros([2, 4]), "output_bias": np.zeros([2])}
  tagger, classifier = map(create_classifier, ("tagging", "single_label"))
  checkpoint.write(path, tensors)
  tagger.check_weights(path, "--x")
  with pytest.raises(errors.UserError, match="has no bert/pooler/dense"):
    classifier.check_weights(path, "--x")
  checkpoint.write(path, {**tensors, "bert/pooler/dense/bias": np.zeros([4])})
  classifier.check_weights(path, "--x")
