"""Tests of how programs make files: wholly, again, alone, and over no input."""

import os
import pathlib

import pytest
import tensorflow as tf

import create_vocabulary
from errors import UserError


class Killed(BaseException):
  """Ends a process that a test only imagines."""


@pytest.fixture
def die_after(monkeypatch):
  """Makes every file operation after the first few fail, as death does."""
  def start(num_operations):
    count = [0]

    def dying(function):
      def wrapper(*args, **kwargs):
        count[0] += 1
        if count[0] > num_operations:
          raise Killed
        return function(*args, **kwargs)
      return wrapper

    for name in ("rename", "remove", "rmtree", "makedirs", "copy", "GFile"):
      monkeypatch.setattr(tf.io.gfile, name, dying(getattr(tf.io.gfile, name)))

  return start


def contents(folder):
  return {str(path.relative_to(folder)): path.read_bytes()
          for path in folder.rglob("*") if path.is_file()}


def check_deaths(run, die_after, monkeypatch, folder, whole, steps=range(1000)):
  """Kills a run at one file operation after the other.

  Args:
    run: function of a folder.
    die_after: the fixture.
    monkeypatch: the fixture.
    folder: where to run.
    whole: the files of a run that was left alone.
    steps: after how many operations to die.
  """
  for step in steps:
    place = folder / str(step)
    try:
      die_after(step)
      run(place)
      return  # there were no more operations
    except Killed:
      pass
    finally:
      monkeypatch.undo()
    run(place)
    assert contents(place) == whole, step


# --- Vocabularies ------------------------------------------------------------


@pytest.fixture
def learn(run_program, tmp_path):
  text = tmp_path / "text.txt"
  text.write_text("the cat sat on the mat\nthe dog ran\n" * 20)

  def run(folder, **flags):
    if "bert_config_file" not in flags:
      flags = {"model_size": "tiny", **flags}
    flags = {**dict(
        input_file=text, output_dir=folder, vocab_size=40, num_unused_tokens=0,
        num_workers=1), **flags}
    run_program(create_vocabulary, **flags)
  return run


@pytest.mark.parametrize("flags", [{}, {"overwrite": True}])
def test_a_vocabulary_killed_anywhere_is_made_by_the_same_command(
    learn, die_after, monkeypatch, tmp_path, flags):
  learn(tmp_path / "whole")
  def run(folder):
    learn(folder, **flags)
  check_deaths(run, die_after, monkeypatch, tmp_path / "killed",
               contents(tmp_path / "whole"))


def test_a_vocabulary_killed_while_overwriting_is_not_a_mixture(
    learn, die_after, monkeypatch, tmp_path):
  learn(tmp_path / "new")
  new = contents(tmp_path / "new")
  for step in range(1000):
    folder = tmp_path / str(step)
    learn(folder, vocab_size=30)
    old = contents(folder)
    try:
      die_after(step)
      learn(folder, overwrite=True)
      break
    except Killed:
      pass
    finally:
      monkeypatch.undo()
    if (folder / "vocab.txt").exists():
      assert contents(folder) in (old, new)
  assert contents(folder) == new and step > 5


def test_a_vocabulary_does_not_replace_files_of_others(learn, tmp_path):
  folder = tmp_path / "out"
  folder.mkdir()
  config = folder / "bert_config.json"
  config.write_text("mine")
  with pytest.raises(UserError, match="bert_config.json exists already"):
    learn(folder)
  assert contents(folder) == {"bert_config.json": b"mine"}


def test_a_vocabulary_does_not_replace_what_it_is_made_of(
    learn, config_file, tmp_path):
  before = contents(tmp_path)
  with pytest.raises(UserError, match="--output_dir would write .*bert_config"
                     ".json, which is .* that --bert_config_file reads"):
    learn(tmp_path, bert_config_file=config_file, overwrite=True)
  os.symlink(tmp_path / "text.txt", tmp_path / "vocab.txt")
  with pytest.raises(UserError, match="that --input_file reads"):
    learn(tmp_path, overwrite=True)
  os.remove(tmp_path / "vocab.txt")
  assert contents(tmp_path) == before
