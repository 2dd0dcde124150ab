"""Tests of tasks/classification_records.py."""

import json
import pathlib

import numpy as np
import pytest

from data import batching
from data import tokenizer_settings
from tasks import classification
from tasks import classification_records
from tasks import classifier_config
import tokenization


@pytest.fixture
def records(vocab_file, tmp_path):
  """Records of a text that fits and of one that is read in windows."""
  classifier = classifier_config.ClassifierConfig(
    "single_label",
    ("x", "y"),
    tokenizer_settings.TokenizerSettings(),
    8,
    "sliding_window",
  )
  examples = [
    classification.Example("", str(i), "the " * length, None, "x")
    for i, length in enumerate([3, 20])
  ]
  return classification_records.write_records(
    str(tmp_path / "x"),
    classifier,
    tokenization.FullTokenizer(vocab_file),
    examples,
    classification_records.TrainingTargets(
      np.array([0, 1]), np.array([1.0, 3.0])
    ),
  )


def test_long_texts_are_counted(records):
  stamp = json.loads(
    pathlib.Path(f"{records.records.path}.stamp.json").read_text()
  )
  assert stamp["facts"]["num_too_long"] == 1


def test_a_text_counts_once_however_long_it_is(records):
  assert records.example_numbers.tolist() == [0] + [1] * 6
  batches = list(
    batching.task_dataset(
      records.records.path, 8, 3, records.records.feature_spec
    )
  )
  numbers = np.concatenate([batch["record_number"] for batch in batches])
  weights = np.concatenate([batch["label_weight"] for batch in batches])
  totals = np.bincount(records.example_numbers[numbers], weights)
  np.testing.assert_allclose(totals, [1.0, 3.0], rtol=1e-6)


class FakeRecipe:
  """Predicts the number of the record as both logits."""

  def predict(self, records, batch_size):
    assert batch_size == 5
    return {"logits": [np.full(2, i) for i in range(records.num_records)]}


def test_logits_of_a_text_are_the_means_of_its_windows(records):
  logits = classification_records.predict_logits(FakeRecipe(), records, 5)
  np.testing.assert_array_equal(logits, [[0.0, 0.0], [3.5, 3.5]])
