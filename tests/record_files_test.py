"""Tests of data/record_files.py."""

import os

import numpy as np
import pytest
import tensorflow as tf

from data import record_files
from data import tokenizer_settings
from errors import UserError
import tokenization


def test_a_failed_write_leaves_the_old_file(tmp_path):
  def records():
    yield b"one"
    raise RuntimeError("the source broke")

  path = tmp_path / "x.tf_record"
  path.write_text("old")
  with pytest.raises(RuntimeError):
    record_files.write_records(str(path), records())
  assert [p.name for p in tmp_path.iterdir()] == ["x.tf_record"]
  assert path.read_text() == "old"


def write(path, contents):
  record_files.write_records(str(path), contents)
  return str(path)


CONTENTS = [bytes([i]) * (i + 1) for i in range(40)]


def place_of(number):
  """Returns the byte at which a record begins; records count from 0."""
  return sum(16 + len(content) for content in CONTENTS[:number])


def find_no_problems(unused_records):
  return {}


def damage(path, *places):
  content = bytearray(open(path, "rb").read())
  for place in places:
    content[place] ^= 0x10
  open(path, "wb").write(content)


def read(path):
  return list(tf.data.TFRecordDataset(path).as_numpy_iterator())


# Batches of 16: damage at the beginning, in the middle and at the end of one.
@pytest.mark.parametrize("number", [0, 15, 16, 20, 39])
@pytest.mark.parametrize("place_in_record", [12, -1])
def test_a_record_with_a_wrong_checksum_is_found_and_skipped(
  tmp_path, monkeypatch, number, place_in_record
):
  monkeypatch.setattr(record_files, "_RECORDS_PER_BATCH", 16)
  path = write(tmp_path / "x", CONTENTS)
  damage(
    path,
    place_of(number) + place_in_record
    if place_in_record > 0
    else place_of(number + 1) + place_in_record,
  )
  found = record_files.find_damage([path], find_no_problems)
  assert found == (path, number + 1, found.problem)
  left = tmp_path / "y" / "x.0123abcd.unfinished"  # by a killed program
  left.parent.mkdir()
  left.write_text("")
  copy, damages = record_files.copy_undamaged_records(
    path, str(tmp_path / "y"), find_no_problems
  )
  assert damages == [found] and not left.exists()
  assert read(copy) == CONTENTS[:number] + CONTENTS[number + 1 :]


def test_several_kinds_of_damage_in_one_file(tmp_path, monkeypatch):
  monkeypatch.setattr(record_files, "_RECORDS_PER_BATCH", 16)
  path = write(tmp_path / "x", CONTENTS)
  damage(path, place_of(3) + 13, place_of(4) + 13, place_of(30) + 20)
  os.truncate(path, place_of(40) - 5)
  copy, damages = record_files.copy_undamaged_records(
    path,
    str(tmp_path / "y"),
    lambda batch: {
      i: "odd" for i, record in enumerate(batch) if record[0] == 8
    },
  )
  assert [found.record for found in damages] == [4, 5, 9, 31, 40]
  assert "last 51 bytes" in damages[-1].problem
  assert read(copy) == [
    content for i, content in enumerate(CONTENTS) if i not in (3, 4, 8, 30, 39)
  ]


def test_records_after_a_damaged_length_are_lost(tmp_path):
  path = write(tmp_path / "x", CONTENTS)
  damage(path, place_of(5))
  copy, damages = record_files.copy_undamaged_records(
    path, str(tmp_path / "y"), find_no_problems
  )
  assert [found.record for found in damages] == [6]
  assert read(copy) == CONTENTS[:5]


def test_an_undamaged_file_is_not_copied(tmp_path):
  path = write(tmp_path / "x", CONTENTS)
  assert record_files.copy_undamaged_records(
    path, str(tmp_path / "y"), find_no_problems
  ) == (path, [])
  assert not (tmp_path / "y").exists()


def test_a_file_with_too_much_damage_is_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(record_files, "_MAX_DAMAGED", 10)
  path = write(tmp_path / "x", CONTENTS)
  with pytest.raises(UserError, match="more than 10 damaged records"):
    record_files.copy_undamaged_records(
      path,
      str(tmp_path / "y"),
      lambda batch: dict.fromkeys(range(len(batch)), "odd"),
    )


# --- Stamps ------------------------------------------------------------------


@pytest.fixture
def reuse(tmp_path):
  """Makes a file of records; returns what is known of it, or None if reused."""
  path = str(tmp_path / "x.tf_record")
  calls = []

  def run(digest, contents=CONTENTS):
    def write_file():
      calls.append(digest)
      write(path, contents)
      return {"count": len(contents)}

    num_calls = len(calls)
    stamped = record_files.reuse_or_write_file(path, digest, write_file)
    assert stamped.facts == {"count": len(contents)}
    assert read(path) == contents
    return len(calls) > num_calls

  return run


def test_records_are_reused_only_for_the_same_settings(reuse):
  assert [reuse("a"), reuse("a"), reuse("b"), reuse("b"), reuse("a")] == [
    True,
    False,
    True,
    False,
    True,
  ]


def test_damaged_records_and_stamps_are_made_again(reuse, tmp_path):
  reuse("a")
  damage(tmp_path / "x.tf_record", 100)
  assert reuse("a") and not reuse("a")
  os.truncate(tmp_path / "x.tf_record", 100)
  assert reuse("a")
  for content in (b"", b"{", b"[]", b'{"digest": "a"}', b"\xff"):
    (tmp_path / "x.tf_record.stamp.json").write_bytes(content)
    assert reuse("a") and not reuse("a")
  stamp = tmp_path / "x.tf_record.stamp.json"
  stamp.write_text(stamp.read_text().replace('"count": ', '"count": 1'))
  assert reuse("a")


def test_everything_that_records_depend_on_is_in_the_digest():
  parts = [
    1,
    "a",
    ["a"],
    [["a", "b"]],
    [["a"], ["b"]],
    np.zeros(2),
    np.zeros(2, np.float32),
    np.zeros([2, 1]),
    np.ones(2),
    None,
    ("a", None),
  ]
  assert len({record_files.compute_digest(part) for part in parts}) == len(
    parts
  )
  assert record_files.compute_digest(1, 2) != record_files.compute_digest(2, 1)


def test_settings_of_the_tokenizer_are_in_its_digest(vocab_file):
  special_tokens = tokenizer_settings.SpecialTokens(sep="[CLS]")
  tokenizers = [
    tokenization.FullTokenizer(vocab_file),
    tokenization.FullTokenizer(vocab_file, do_lower_case=False),
    tokenization.FullTokenizer(vocab_file, strip_accents=False),
    tokenization.FullTokenizer(vocab_file, never_split=["[MASK]"]),
    tokenization.FullTokenizer(vocab_file, tokenize_chinese_chars=False),
    tokenization.FullTokenizer(vocab_file, special_tokens=special_tokens),
  ]
  digests = list(map(record_files.compute_tokenizer_digest, tokenizers))
  assert len(set(digests)) == len(digests)
  # That of a usual tokenizer is the one of older records.
  vocab = list(tokenizers[0].vocab.items())
  assert digests[0] == record_files.compute_digest(vocab, True, True, [])
