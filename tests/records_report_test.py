"""Tests of records_report.py."""

import builders
import html_pages
import pytest

import errors
from reports import records_report


def test_records_are_shown_with_their_masks(create, vocab_file):
  records = create()
  page = html_pages.Page(records_report.make_page([records], vocab_file))
  first, *_ = builders.read_records(records)
  features = first.features.feature
  (position, *_), (wanted, *_) = (
    features[name].int64_list.value
    for name in ("masked_lm_positions", "masked_lm_ids")
  )
  seen = builders.TOKENS[features["input_ids"].int64_list.value[position]]
  # The first mark is in the sentence that explains the marks.
  assert page.marked[1] == f"{seen} → {builders.TOKENS[wanted]}"
  assert "next sentence" in page.text
  assert "tokens_cut" in page.cells  # from the report of the build


def test_another_vocabulary_or_file_is_refused(records, vocab_file, tmp_path):
  (tmp_path / "short.txt").write_text("\n".join(builders.TOKENS[:9]) + "\n")
  with pytest.raises(errors.UserError, match=r"short\.txt has no token"):
    records_report.make_page([records], str(tmp_path / "short.txt"))
  with pytest.raises(errors.UserError, match="vocab.txt holds no records"):
    records_report.make_page([vocab_file], vocab_file)
