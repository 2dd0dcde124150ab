"""Tests of example_files.py."""

import pytest

import errors
from reports import example_files


def write(folder, num_examples, make_row, split="dev", **options):
  example_files.write(
    str(folder), split, "kind", num_examples, make_row, **options
  )
  return example_files.read(str(folder), split)


def test_rows_come_back_without_what_is_very_long(tmp_path):
  row = {
    "text": "x" * 3000,
    "half": "a\ud800b",
    "many": [0] * 3000,
    "number": 0.123456789,
    "nested": ({"text": "y" * 3000},),
  }
  scores = {"f1": 0.123456789, "pearson": float("nan")}
  content = write(
    tmp_path, 1, lambda number: row, labels=("b", "a"), scores=scores
  )
  (shown,) = content.rows
  assert shown["text"] == "x" * 2000 + " ..." and shown["half"] == "a?b"
  assert len(shown["many"]) == 2000 and shown["number"] == 0.123457
  assert shown["nested"][0]["text"].endswith("y ...")
  assert content.labels == ["b", "a"] and content.is_whole
  # Scores are compared with those of the file of results.
  assert content.scores == {"f1": 0.123456789}


def test_a_sample_holds_what_is_always_kept(tmp_path, monkeypatch):
  monkeypatch.setattr(example_files, "MOST_EXAMPLES", 20)
  contents = [
    write(tmp_path, 1000, lambda number: {"n": number}, always_kept=[3, 998])
    for _ in range(2)
  ]
  numbers = [row["n"] for row in contents[0].rows]
  assert {3, 998} < set(numbers) and numbers == sorted(numbers)
  assert 20 <= len(numbers) <= 22 and not contents[0].is_whole
  assert contents[0].num_examples == 1000
  assert contents[1].rows == contents[0].rows


def test_splits_are_found_by_their_names(tmp_path):
  for split in ("test", "dev_mismatched", "dev"):
    write(tmp_path, 0, None, split=split)
  (tmp_path / "report_dev.json").write_text("")
  (tmp_path / "my_report_dev.jsonl").write_text("")
  found = example_files.find_splits(str(tmp_path))
  assert found == ["dev", "dev_mismatched", "test"]


def test_an_error_becomes_a_warning(tmp_path, caplog):
  example_files.write(str(tmp_path), "dev", "kind", 1, lambda number: 1 / 0)
  assert "its report is not: ZeroDivisionError" in caplog.text
  assert not (tmp_path / "report_dev.jsonl").exists()


@pytest.mark.parametrize(
  "text",
  [
    "",
    '{"kind": "x"}\n',
    '{"kind": "x", "num_examples": true, "labels": [], "scores": {}}\n',
    '{"kind": "x", "num_examples": 1, "labels": [3], "scores": {}}\n',
    '{"kind": "x", "num_examples": 1, "labels": [], "scores": {"a": "b"}}\n',
    '{"kind": "x", "num_examples": 0, "labels": [], "scores": {}}\n{"a": 1}\n',
  ],
)
def test_damaged_headers_are_refused(tmp_path, text):
  (tmp_path / "report_dev.jsonl").write_text(text)
  with pytest.raises(errors.UserError, match=r"report_dev\.jsonl"):
    example_files.read(str(tmp_path), "dev")
