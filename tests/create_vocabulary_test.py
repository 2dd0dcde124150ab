"""Tests of create_vocabulary.py."""

import collections
import errno
import json
import os

import builders
import numpy as np
import pytest
import tensorflow as tf

import create_vocabulary
from errors import UserError
import modeling
from pretraining import corpus
from serving import text_model
import tokenization


@pytest.fixture
def learn(run_program, tmp_path):
  def run(output="vocabulary", **flags):
    run_program(
      create_vocabulary,
      **{
        **dict(
          input_file=builders.ROOT / "sample_text.txt",
          output_dir=tmp_path / output,
          vocab_size=1000,
        ),
        **flags,
      },
    )
    return tmp_path / output

  return run


def test_a_vocabulary_is_learnt_and_used(learn, monkeypatch):
  folder = learn(model_size="tiny")
  config = modeling.BertConfig.from_json_file(folder / "bert_config.json")
  assert (config.vocab_size, config.hidden_size) == (1000, 128)
  tokenizer = tokenization.FullTokenizer(str(folder / "vocab.txt"))
  assert len(tokenizer.vocab) == 1000
  # The ids are those of released models.
  assert [
    tokenizer.vocab[token]
    for token in ("[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
  ] == [0, 1, 100, 101, 102, 103]
  counts, num_words = collections.Counter(), 0
  for line in (builders.ROOT / "sample_text.txt").read_text().splitlines():
    counts.update(tokenizer.tokenize(line))
    num_words += len(tokenizer.basic_tokenizer.tokenize(line))
  report = json.loads((folder / "vocab.report.json").read_text())
  assert report["words"] == num_words
  np.testing.assert_allclose(
    report["unknown_rate"], counts["[UNK]"] / num_words
  )
  np.testing.assert_allclose(
    report["pieces_per_word"], counts.total() / num_words
  )
  assert report["unknown_rate"] < 0.01 and report["pieces_per_word"] < 1.7
  # Most learnt tokens occur, and worker processes learn the same tokens.
  assert sum(token in counts for token in tokenizer.vocab) > 0.85 * 900
  monkeypatch.setattr(corpus, "_SMALLEST_BLOCK_BYTES", 20_000)
  again = learn("again", num_workers=2)
  assert (again / "vocab.txt").read_bytes() == (
    folder / "vocab.txt"
  ).read_bytes()


def test_a_vocabulary_keeps_capitals_and_takes_tokens_on_request(learn):
  folder = learn(
    do_lower_case=False, special_tokens="[QUERY],[DOC]", num_unused_tokens=0
  )
  tokens = (folder / "vocab.txt").read_text().split("\n")
  assert tokens[:7] == [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "[QUERY]",
    "[DOC]",
  ]
  assert "The" in tokens


def test_a_vocabulary_leaves_out_the_rarest_characters(learn, tmp_path):
  text = tmp_path / "text.txt"
  text.write_text("the cat sat\n" * 1000 + "caf\u00e9 \u6211\n")
  common = dict(
    input_file=text, vocab_size=60, num_unused_tokens=0, do_lower_case=False
  )
  some = (
    (learn("some", character_coverage=0.999, **common) / "vocab.txt")
    .read_text()
    .split("\n")
  )
  every = (
    (learn("every", character_coverage=1.0, **common) / "vocab.txt")
    .read_text()
    .split("\n")
  )
  assert "\u6211" in every and "##\u00e9" in every
  assert "\u6211" not in some and "##\u00e9" not in some
  assert {"the", "cat", "sat"} <= set(some)


def test_of_too_many_different_words_the_rarest_are_dropped(
  learn, tmp_path, monkeypatch
):
  monkeypatch.setattr(create_vocabulary, "_MOST_WORDS", 3)
  text = tmp_path / "text.txt"
  text.write_text("the cat sat\nthe cat sat\nonce upon\n")
  folder = learn(input_file=text, vocab_size=140, min_frequency=1)
  report = json.loads((folder / "vocab.report.json").read_text())
  assert report["different_words_dropped"] == 2
  tokens = (folder / "vocab.txt").read_text().split("\n")
  assert {"the", "cat", "sat"} <= set(tokens)
  assert not {"once", "upon", "o"} & set(tokens)


@pytest.mark.parametrize(
  "flags, message",
  [
    (dict(vocab_size=50), "leaves no room"),
    (dict(vocab_size=120), "Raise --vocab_size, or lower"),
    (dict(special_tokens="[CLS]"), "is a token already"),
    (dict(model_size="tiny", bert_config_file="x"), "pass one of the two"),
    (dict(input_file="/nowhere/*"), "matches no file"),
  ],
)
def test_vocabulary_refuses(learn, tmp_path, flags, message):
  with pytest.raises(ValueError, match=message):
    learn(**flags)
  assert not (tmp_path / "vocabulary").exists()


def test_text_without_words_is_refused(learn, tmp_path):
  text = tmp_path / "text.txt"
  text.write_text("\u200b\n\n \n")
  with pytest.raises(ValueError, match="=.*text.txt contains no text"):
    learn(input_file=text)


def test_vocabulary_that_exists_is_not_overwritten(learn):
  folder = learn()
  with pytest.raises(ValueError, match="vocab.txt exists already"):
    learn(vocab_size=500)
  learn(vocab_size=500, overwrite=True)
  assert len((folder / "vocab.txt").read_text().splitlines()) == 500


@pytest.fixture
def learn_tiny(run_program, tmp_path):
  text = tmp_path / "text.txt"
  text.write_text("the cat sat on the mat\nthe dog ran\n" * 20)

  def run(folder, **flags):
    if "bert_config_file" not in flags:
      flags = {"model_size": "tiny", **flags}
    flags = {
      **dict(
        input_file=text,
        output_dir=folder,
        vocab_size=40,
        num_unused_tokens=0,
        num_workers=1,
      ),
      **flags,
    }
    run_program(create_vocabulary, **flags)

  return run


@pytest.mark.parametrize("flags", [{}, {"overwrite": True}])
def test_a_killed_run_ends_with_the_same_vocabulary(
  learn_tiny, tmp_path, flags
):
  learn_tiny(tmp_path / "whole")

  def run(folder):
    learn_tiny(folder, **flags)

  whole = builders.read_folder(tmp_path / "whole")
  builders.check_deaths(run, tmp_path / "killed", whole)


def test_a_run_killed_while_overwriting_leaves_old_or_new_files(
  learn_tiny, tmp_path
):
  learn_tiny(tmp_path / "new")
  new = builders.read_folder(tmp_path / "new")
  for step in range(1000):
    folder = tmp_path / str(step)
    learn_tiny(folder, vocab_size=30)
    old = builders.read_folder(folder)
    if not builders.run_until_death(
      lambda: learn_tiny(folder, overwrite=True), step
    ):
      break
    if (folder / "vocab.txt").exists():
      assert {
        name: content
        for name, content in builders.read_folder(folder).items()
        if ".unfinished" not in name
      } in (old, new)
  assert builders.read_folder(folder) == new and step > 5


def test_a_vocabulary_on_a_full_disk_leaves_nothing(
  learn_tiny, monkeypatch, tmp_path
):
  rename = tf.io.gfile.rename

  def full(source, target, overwrite=False):
    if target.endswith("vocab.txt"):
      raise OSError(errno.ENOSPC, "No space left on device")
    rename(source, target, overwrite)

  monkeypatch.setattr(tf.io.gfile, "rename", full)
  with pytest.raises(UserError, match="vocab.txt cannot be written: No space"):
    learn_tiny(tmp_path / "out")
  assert not (tmp_path / "out").exists()


def test_a_vocabulary_does_not_replace_files_of_others(learn_tiny, tmp_path):
  folder = tmp_path / "out"
  folder.mkdir()
  config = folder / "bert_config.json"
  config.write_text("mine")
  with pytest.raises(UserError, match="bert_config.json exists already"):
    learn_tiny(folder)
  assert builders.read_folder(folder) == {"bert_config.json": b"mine"}


def test_a_vocabulary_does_not_overwrite_its_inputs(
  learn_tiny, config_file, tmp_path
):
  before = builders.read_folder(tmp_path)
  with pytest.raises(
    UserError,
    match="--output_dir would write .*bert_config"
    ".json, which is .* that --bert_config_file reads",
  ):
    learn_tiny(tmp_path, bert_config_file=config_file, overwrite=True)
  os.symlink(tmp_path / "text.txt", tmp_path / "vocab.txt")
  with pytest.raises(UserError, match="that --input_file reads"):
    learn_tiny(tmp_path, overwrite=True)
  os.remove(tmp_path / "vocab.txt")
  assert builders.read_folder(tmp_path) == before


def test_a_second_process_is_refused(learn_tiny, tmp_path):
  builders.assert_refused_by_lock(
    lambda: learn_tiny(tmp_path / "v"), tmp_path, "v/.lock"
  )


def test_the_casing_of_a_vocabulary_is_kept_without_capitals(learn, tmp_path):
  text = tmp_path / "text.txt"
  text.write_text("hodia\u016d \u011di estas bela\n" * 9)
  for do_lower_case in (False, True):
    folder = learn(input_file=text, do_lower_case=do_lower_case, overwrite=True)
    tokenizer = text_model.create_tokenizer(str(folder / "vocab.txt"))
    assert tokenizer.settings.do_lower_case == do_lower_case
    assert tokenizer.tokenize("\u011di") != ["[UNK]"]
