"""Tests of how programs make files: wholly, again, alone, and over no input."""

import errno
import functools
import io
import os
import random
import sys
import types
import zlib

import builders
import numpy as np
import pytest
import safetensors
import tensorflow as tf
from tensorflow.core.protobuf import fingerprint_pb2

import checkpoint
import convert_checkpoint
import create_pretraining_data
import create_vocabulary
from data import feature_files
from data import file_io
from data import locks
from errors import UserError
import export_saved_model
import extract_features
import modeling
import predict_masked
from pretraining import beam_pipeline
import tokenization


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
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in folder.rglob("*")
    if path.is_file()
  }


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
def test_a_vocabulary_killed_anywhere_is_made_by_the_same_command(
  learn, die_after, monkeypatch, tmp_path, flags
):
  learn(tmp_path / "whole")

  def run(folder):
    learn(folder, **flags)

  check_deaths(
    run,
    die_after,
    monkeypatch,
    tmp_path / "killed",
    contents(tmp_path / "whole"),
  )


def test_a_vocabulary_killed_while_overwriting_is_not_a_mixture(
  learn, die_after, monkeypatch, tmp_path
):
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
      assert {
        name: content
        for name, content in contents(folder).items()
        if ".unfinished" not in name
      } in (old, new)
  assert contents(folder) == new and step > 5


def test_a_vocabulary_on_a_full_disk_leaves_nothing(
  learn, monkeypatch, tmp_path
):
  rename = tf.io.gfile.rename

  def full(source, target, overwrite=False):
    if target.endswith("vocab.txt"):
      raise OSError(errno.ENOSPC, "No space left on device")
    rename(source, target, overwrite)

  monkeypatch.setattr(tf.io.gfile, "rename", full)
  with pytest.raises(UserError, match="vocab.txt cannot be written: No space"):
    learn(tmp_path / "out")
  assert not (tmp_path / "out").exists()


def test_a_vocabulary_does_not_replace_files_of_others(learn, tmp_path):
  folder = tmp_path / "out"
  folder.mkdir()
  config = folder / "bert_config.json"
  config.write_text("mine")
  with pytest.raises(UserError, match="bert_config.json exists already"):
    learn(folder)
  assert contents(folder) == {"bert_config.json": b"mine"}


def test_a_vocabulary_does_not_replace_what_it_is_made_of(
  learn, config_file, tmp_path
):
  before = contents(tmp_path)
  with pytest.raises(
    UserError,
    match="--output_dir would write .*bert_config"
    ".json, which is .* that --bert_config_file reads",
  ):
    learn(tmp_path, bert_config_file=config_file, overwrite=True)
  os.symlink(tmp_path / "text.txt", tmp_path / "vocab.txt")
  with pytest.raises(UserError, match="that --input_file reads"):
    learn(tmp_path, overwrite=True)
  os.remove(tmp_path / "vocab.txt")
  assert contents(tmp_path) == before


# --- Features ----------------------------------------------------------------

FORMATS = {
  "json": lambda: feature_files.JsonLines([-1, 0]),
  "npz": feature_files.Npz,
  "tfrecord": feature_files.TfRecords,
  "parquet": feature_files.Parquet,
}


def features_of_part(number):
  return [
    feature_files.Features(
      3 * number + i,
      ["a", "bird"][: 1 + i % 2],
      np.full([1 + i % 2, 2, 4], number + i / 3, np.float32),
    )
    for i in range(3)
  ]


def write_features(folder, file_format, settings=None):
  """Writes a file of three parts; returns which of them were made."""
  file_io.remove_leftovers(str(folder))
  output = feature_files.PartedFile(
    str(folder / "out"), FORMATS[file_format](), settings or {"x": 1}
  )
  made = []
  for number in range(3):
    if not output.has_part(number, 3):
      output.write_part(number, features_of_part(number))
      made.append(number)
  output.finish(3)
  return made


@pytest.mark.parametrize("file_format", FORMATS)
def test_features_killed_anywhere_are_those_of_one_run(
  die_after, monkeypatch, tmp_path, file_format
):
  def run(folder):
    folder.mkdir(parents=True, exist_ok=True)
    write_features(folder, file_format)

  run(tmp_path / "whole")
  # What formats do differently takes up only some operations.
  steps = range(0, 1000, 1 if file_format == "json" else 5)
  check_deaths(
    run,
    die_after,
    monkeypatch,
    tmp_path / "killed",
    contents(tmp_path / "whole"),
    steps,
  )


def cut(path):
  os.truncate(path, path.stat().st_size - 5)


def flip(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)


@pytest.mark.parametrize(
  "file, damage, made",
  [
    ("part-000001", cut, [1]),
    ("part-000001", flip, [1]),
    ("part-000001.json", cut, [1]),
    ("part-000000.json", os.remove, [0]),
    ("part-000001.json", lambda path: path.write_text("[]"), [1]),
    ("settings.json", lambda path: os.truncate(path, 0), [0, 1, 2]),
  ],
)
def test_damaged_parts_of_features_are_made_again(
  monkeypatch, tmp_path, file, damage, made
):
  write_features(tmp_path, "json")
  whole = contents(tmp_path)
  with monkeypatch.context() as context:
    context.setattr(feature_files.PartedFile, "finish", lambda *unused: None)
    write_features(tmp_path, "json")
  with pytest.raises(UserError, match="other settings: x, y. Delete"):
    write_features(tmp_path, "json", {"x": 2, "y": 1})
  damage(tmp_path / "out.parts" / file)
  assert write_features(tmp_path, "json") == made
  assert contents(tmp_path) == whole


def test_features_are_not_made_of_parts_that_were_damaged_meanwhile(tmp_path):
  output = feature_files.PartedFile(
    str(tmp_path / "out"), FORMATS["json"](), {}
  )
  output.write_part(0, features_of_part(0))
  cut(tmp_path / "out.parts" / "part-000000")
  with pytest.raises(UserError, match="part-000000 was damaged.*Run the same"):
    output.finish(1)
  assert not (tmp_path / "out").exists()


def test_a_part_that_is_a_folder_is_told_in_one_line(tmp_path):
  (tmp_path / "out.parts" / "settings.json").mkdir(parents=True)
  with pytest.raises(UserError, match="settings.json is a folder"):
    write_features(tmp_path, "json")


@pytest.fixture
def extract(run_program, config_file, vocab_file, tmp_path):
  prefix = str(tmp_path / "bert_model.ckpt")
  checkpoint.write(
    prefix,
    checkpoint.variables_by_name(
      modeling.BertForPreTraining(builders.tiny_config(), seed=5)
    ),
  )
  (tmp_path / "in.txt").write_text("the cat sat\nbird\n")

  def run(**flags):
    run_program(
      extract_features,
      **{
        **dict(
          input_file=tmp_path / "in.txt",
          output_file=tmp_path / "out",
          vocab_file=vocab_file,
          bert_config_file=config_file,
          max_seq_length=16,
          init_checkpoint=prefix,
          layers="-1",
        ),
        **flags,
      },
    )

  return run


@pytest.mark.parametrize(
  "name, flag",
  [
    ("in.txt", "input_file"),
    ("vocab.txt", "vocab_file"),
    ("bert_config.json", "bert_config_file"),
    ("bert_model.ckpt.data-00000-of-00001", "init_checkpoint"),
  ],
)
def test_features_do_not_replace_what_they_are_made_of(
  extract, tmp_path, name, flag
):
  os.symlink(tmp_path / name, tmp_path / "out")
  before = contents(tmp_path)
  with pytest.raises(UserError, match=f"that --{flag} reads"):
    extract()
  assert contents(tmp_path) == before


def test_features_of_two_models_are_not_mixed(extract, tmp_path, monkeypatch):
  # Three models with files of the same names.
  monkeypatch.setattr(
    extract_features,
    "compute",
    lambda _, sequences: [
      np.zeros([len(sequence.input_ids), 1, 32]) for sequence in sequences
    ],
  )
  with monkeypatch.context() as context:
    context.setattr(feature_files.PartedFile, "finish", lambda *unused: None)
    extract()
  checkpoint.write(
    str(tmp_path / "bert_model.ckpt"),
    checkpoint.variables_by_name(
      modeling.BertForPreTraining(builders.tiny_config())
    ),
  )
  with pytest.raises(UserError, match="other settings: weights_hash"):
    extract()
  vocab = tmp_path / "vocab.txt"
  vocab.write_text(vocab.read_text().replace("cat\ndog", "dog\ncat"))
  with pytest.raises(
    UserError, match="other settings: vocab_hash, weights_hash"
  ):
    extract()


# --- Records -----------------------------------------------------------------


@pytest.fixture
def create(run_program, vocab_file, tmp_path):
  (tmp_path / "in.txt").write_text("the cat sat\na dog ran\n\n" * 20)

  def run(**flags):
    run_program(
      create_pretraining_data,
      **{
        **dict(
          input_file=tmp_path / "in.txt",
          output_file=tmp_path / "x.tfrecord",
          vocab_file=vocab_file,
          max_seq_length=24,
          max_predictions_per_seq=4,
        ),
        **flags,
      },
    )

  return run


@pytest.mark.parametrize(
  "output, flag",
  [
    ("in.txt", "input_file"),
    ("vocab.txt", "vocab_file"),
    ("link", "input_file"),
    ("x.lock", "input_file"),
  ],
)
def test_records_do_not_replace_what_they_are_made_of(
  create, tmp_path, output, flag
):
  os.symlink(tmp_path / "in.txt", tmp_path / "link")
  (tmp_path / "x.lock").write_text("one\n\ntwo")
  flags = {"output_file": tmp_path / output}
  if output == "x.lock":
    flags = {"input_file": tmp_path / output}
  before = contents(tmp_path)
  with pytest.raises(UserError, match=f"that --{flag} reads"):
    create(overwrite=True, **flags)
  assert contents(tmp_path) == before


@pytest.mark.parametrize(
  "error, message",
  [
    (
      UserError("x, line 2: bad. [while running 'Make/ParDo(f)']"),
      "x, line 2: bad.",
    ),
    (
      RuntimeError(
        "Traceback\n  raise UserError(\nerrors.UserError: x, line 2: "
        "bad. [while running 'Make/ParDo(f)']\n\n"
      ),
      "x, line 2: bad.",
    ),
    (RuntimeError("of another kind"), None),
  ],
)
def test_errors_of_beam_are_told_without_it(error, message):
  told = beam_pipeline._user_error(error)
  assert (told and str(told)) == message


def test_leftovers_go_with_the_next_run(create, tmp_path):
  """Also if that has nothing else to do, or begins again."""
  create()
  whole = contents(tmp_path)
  for flags in ({}, {"overwrite": True}):
    (tmp_path / "x.parts").mkdir()
    for name in (
      "x.parts/settings.json",
      "x.parts/block-0-0.records",
      "x.parts/x.tfrecord.0123abcd.unfinished",
      "x.report.json.0123abcd.unfinished",
    ):
      (tmp_path / name).write_text("of a killed run")
    create(**flags)
    assert contents(tmp_path) == whole
    assert not (tmp_path / "x.parts").exists()


# --- Conversions -------------------------------------------------------------


@pytest.fixture
def convert(run_program):
  def run(source, target):
    run_program(convert_checkpoint, input_dir=source, output_dir=target)

  return run


@pytest.fixture
def released(config_file, vocab_file, tmp_path):
  """A folder with a model like those of the authors, and one file more."""
  del config_file, vocab_file
  folder = tmp_path / "released"
  folder.mkdir()
  for name in ("bert_config.json", "vocab.txt"):
    os.rename(tmp_path / name, folder / name)
  checkpoint.write(
    str(folder / "bert_model.ckpt"),
    checkpoint.variables_by_name(
      modeling.BertModel(builders.tiny_config(), seed=5)
    ),
  )
  return folder


def test_a_conversion_killed_anywhere_is_made_by_the_same_command(
  convert, released, die_after, monkeypatch, tmp_path
):
  theirs, ours = tmp_path / "theirs", tmp_path / "ours"
  convert(released, theirs)
  convert(theirs, ours)
  for source, whole, last in (
    (released, theirs, "config.json"),
    (theirs, ours, "bert_config.json"),
  ):

    def run(folder):
      convert(source, folder)
      assert folder.joinpath(last).exists()

    check_deaths(
      run,
      die_after,
      monkeypatch,
      tmp_path / f"to_{whole.name}",
      contents(whole),
      range(0, 1000, 5),
    )


@pytest.mark.parametrize(
  "error",
  [
    OSError(errno.ENOSPC, "No space left on device"),
    safetensors.SafetensorError("No space left on device (os error 28)"),
  ],
)
def test_a_conversion_to_a_full_disk_changes_nothing(
  convert, released, monkeypatch, tmp_path, error
):
  theirs = tmp_path / "theirs"
  convert(released, theirs)
  before = contents(theirs)

  def full(*unused_args):
    raise error

  with monkeypatch.context() as context:
    context.setattr(checkpoint, "write_transformers", full)
    with pytest.raises(UserError, match="cannot be written: No space"):
      convert(released, theirs)
  assert contents(theirs) == before


def test_a_conversion_does_not_replace_its_input(convert, released, tmp_path):
  before = contents(tmp_path)
  os.symlink(released, tmp_path / "link")
  for target in (released, tmp_path / "link"):
    with pytest.raises(UserError, match="that --input_dir reads"):
      convert(released, target)
  (tmp_path / "target").mkdir()
  os.symlink(released / "vocab.txt", tmp_path / "target" / "vocab.txt")
  with pytest.raises(UserError, match="target/vocab.txt.*--input_dir reads"):
    convert(released, tmp_path / "target")
  os.remove(tmp_path / "target" / "vocab.txt")
  assert contents(tmp_path) == before


# --- Exports -----------------------------------------------------------------


class Served:
  """Stands for a model of `serving`."""

  def signatures(self):
    return {}

  def requests(self):
    return {"text": {"text_a": ["a"], "text_b": ["b"]}}


@pytest.fixture
def export(monkeypatch):
  """Exports version 1, with what TensorFlow writes made up."""

  def run(folder, model=b"model"):
    def save(unused_served, path, signatures):
      del signatures
      os.makedirs(os.path.join(path, "variables"))
      fingerprint = fingerprint_pb2.FingerprintDef(
        saved_model_checksum=zlib.crc32(model), uuid=str(random.random())
      )
      for name, content in [
        ("saved_model.pb", model),
        ("variables/variables.index", b"index"),
        ("fingerprint.pb", fingerprint.SerializeToString()),
      ]:
        with open(os.path.join(path, name), "wb") as writer:
          writer.write(content)
      os.chmod(os.path.join(path, "saved_model.pb"), 0o444)

    monkeypatch.setattr(tf.saved_model, "save", save)
    folder.mkdir(parents=True, exist_ok=True)
    file_io.remove_leftovers(str(folder))
    export_saved_model.save(Served(), str(folder / "served" / "1"))
    monkeypatch.undo()

  return run


def test_an_export_killed_anywhere_is_made_by_the_same_command(
  export, die_after, monkeypatch, tmp_path
):
  export(tmp_path / "whole")
  whole = contents(tmp_path / "whole")

  def run(folder):
    file_io.remove_leftovers(str(folder / "served"))
    export(folder)
    assert os.listdir(folder / "served") == ["1"]

  check_deaths(run, die_after, monkeypatch, tmp_path / "killed", whole)


def test_a_version_that_is_there_stays(export, tmp_path):
  export(tmp_path)
  before = contents(tmp_path)
  export(tmp_path)  # the same again
  with pytest.raises(
    UserError, match="--version=1 is in .* already, with other"
  ):
    export(tmp_path, b"another")
  assert contents(tmp_path) == before


# --- Masked words ------------------------------------------------------------


@pytest.mark.parametrize(
  "texts, message",
  [
    (["[MASK] sat", "the cat"], "'the cat' has no .MASK."),
    (["[MASK] sat", "\udcff"], "--text, line 2: not UTF-8"),
  ],
)
def test_a_bad_text_is_told_before_others_are_answered(
  vocab_file, monkeypatch, texts, message
):
  monkeypatch.setattr(
    predict_masked,
    "FLAGS",
    types.SimpleNamespace(text=texts, score=False, max_seq_length=16),
  )
  sequences = predict_masked.read_sequences(
    tokenization.FullTokenizer(vocab_file, never_split=["[MASK]"])
  )
  with pytest.raises(UserError, match=message):
    next(sequences)


def test_bad_bytes_on_standard_input_are_told(monkeypatch):
  monkeypatch.setattr(
    sys, "stdin", io.TextIOWrapper(io.BytesIO(b"the [MASK]\nb\xe9d\n"))
  )
  monkeypatch.setattr(predict_masked, "FLAGS", types.SimpleNamespace(text=[]))
  texts = predict_masked._texts()
  assert next(texts) == "the [MASK]"
  with pytest.raises(UserError, match="Standard input, line 2: not UTF-8"):
    next(texts)


# --- Two at once --------------------------------------------------------------


@pytest.mark.parametrize(
  "program, place",
  [("create", "x.lock"), ("extract", "out.lock"), ("learn", "v/.lock")],
)
def test_a_second_program_names_the_first(request, program, place, tmp_path):
  run = request.getfixturevalue(program)
  if program == "learn":
    run = functools.partial(run, tmp_path / "v")
  before = contents(tmp_path)
  with locks.Lock(str(tmp_path / place), "the place"):
    with pytest.raises(UserError, match=rf"is in use: .*process {os.getpid()}"):
      run()
  assert contents(tmp_path) == before
