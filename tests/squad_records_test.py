"""Tests of tasks/squad_records.py."""

import types

import builders
import numpy as np
import pytest

from tasks import squad_records


@pytest.fixture
def create_maker(tokenizer):
  """Returns a function that returns a new maker of the same windows."""
  dataset = builders.question_dataset(
    "the cat sat on the mat and the dog ran the hill",
    ("it was", ("the hill", 39)),
    ("was", ("bird", 0)),
  )
  return lambda: builders.window_maker(dataset, tokenizer)


def read_features(path):
  """Returns the features of each record, as lists of ints."""
  return [
    {
      name: list(feature.int64_list.value)
      for name, feature in example.features.feature.items()
    }
    for example in builders.read_records(path)
  ]


def test_records_are_the_windows(create_maker, tmp_path):
  path = str(tmp_path / "eval.tf_record")
  maker = create_maker()
  windows = squad_records.write_records(maker, path)
  assert windows.places == [(0, 0), (0, 1), (1, 0)]
  expected = [window.features for window in create_maker().cut_windows()]
  assert windows.lengths == [len(features.input_ids) for features in expected]
  assert read_features(path) == [features._asdict() for features in expected]
  assert windows.records.num_records == 3
  assert windows.records.max_seq_length == 16
  # The same records are not written again, but are counted.
  other_maker = create_maker()
  assert squad_records.write_records(other_maker, path) == windows
  assert other_maker.counts == maker.counts == {"questions": 2, "windows": 3}


def test_training_records_have_positions(create_maker, tmp_path):
  path = str(tmp_path / "train.tf_record")
  with pytest.raises(ValueError, match="'bird' .* is not in its paragraph"):
    squad_records.write_training_records(create_maker(), path, False)
  for _ in range(2):
    maker = create_maker()
    records = squad_records.write_training_records(maker, path, True)
    assert records.num_records == 2
    assert set(records.feature_spec) == {"start_positions", "end_positions"}
    assert maker.counts["answers not in the paragraph, left out"] == 1
  positions = [
    (*row["start_positions"], *row["end_positions"])
    for row in read_features(path)
  ]
  assert positions == [(0, 0), (10, 11)]


def test_other_settings_make_other_records(create_maker, tokenizer, tmp_path):
  path = str(tmp_path / "eval.tf_record")
  maker = create_maker()
  squad_records.write_records(maker, path)
  long_maker = builders.window_maker(maker.dataset, tokenizer, 20)
  windows = squad_records.write_records(long_maker, path)
  assert windows.places == [(0, 0), (1, 0)]


def test_the_report_has_the_counts(create_maker, tmp_path):
  maker = create_maker()
  list(maker.cut_windows())
  path = tmp_path / "train.report.json"
  squad_records.write_report(maker, str(path))
  assert path.read_text() == '{\n  "questions": 2,\n  "windows": 3\n}\n'


def test_logits_of_padding_are_dropped(create_maker, tmp_path):
  windows = squad_records.write_records(
    create_maker(), str(tmp_path / "eval.tf_record")
  )
  padded = np.arange(3 * 16).reshape(3, 16)

  def predict(records, batch_size):
    assert (records, batch_size) == (windows.records, 4)
    return {"start_logits": list(padded), "end_logits": list(-padded)}

  recipe = types.SimpleNamespace(predict=predict)
  logits = squad_records.predict_logits(recipe, windows, 4)
  assert list(logits) == windows.places
  for row, length, pair in zip(padded, windows.lengths, logits.values()):
    np.testing.assert_array_equal(pair, [row[:length], -row[:length]])
