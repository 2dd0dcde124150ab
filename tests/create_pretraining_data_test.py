"""Tests of create_pretraining_data.py."""

import json
import os
import pathlib
import subprocess
import sys

import builders
import numpy as np
import pytest

import create_pretraining_data
from errors import UserError
from pretraining import corpus
from pretraining import shards


def test_records_have_the_published_format(create):
  records = builders.read_records(create())
  assert len(records) > 20
  labels = set()
  for record in records:
    features = {
      name: np.array(feature.int64_list.value or feature.float_list.value)
      for name, feature in record.features.feature.items()
    }
    assert {name: len(value) for name, value in features.items()} == {
      "input_ids": 24,
      "input_mask": 24,
      "segment_ids": 24,
      "masked_lm_positions": 4,
      "masked_lm_ids": 4,
      "masked_lm_weights": 4,
      "next_sentence_labels": 1,
    }
    length = features["input_mask"].sum()
    restored = features["input_ids"].copy()
    num_masks = int(features["masked_lm_weights"].sum())
    restored[features["masked_lm_positions"][:num_masks]] = features[
      "masked_lm_ids"
    ][:num_masks]
    separators = np.flatnonzero(restored == builders.TOKENS.index("[SEP]"))
    assert len(separators) == 2 and separators[1] == length - 1
    segments = np.zeros(24, int)
    segments[separators[0] + 1 : length] = 1
    np.testing.assert_array_equal(features["segment_ids"], segments)
    labels.add(int(features["next_sentence_labels"][0]))
  assert labels == {0, 1}


def read_report(path):
  return json.loads(pathlib.Path(f"{path}.report.json").read_text())


@pytest.mark.parametrize(
  "flags, settings",
  [
    (
      {},
      dict(
        do_lower_case=True,
        max_seq_length=24,
        max_predictions_per_seq=4,
        masked_lm_prob=0.15,
        do_whole_word_mask=False,
        word_segmenter="",
        word_separator="",
        dupe_factor=3,
        short_seq_prob=0.1,
        next_sentence_prediction=True,
        max_pieces_per_row=1,
        seed=12345,
        split_sentences=False,
        text_field="text",
        num_shards=1,
      ),
    ),
    (dict(do_lower_case=False), dict(do_lower_case=False)),
    (dict(max_seq_length=30), dict(max_seq_length=30)),
    (dict(max_predictions_per_seq=3), dict(max_predictions_per_seq=3)),
    (dict(masked_lm_prob=0.5), dict(masked_lm_prob=0.5)),
    (
      dict(do_whole_word_mask=True, word_separator="|"),
      dict(do_whole_word_mask=True, word_separator="|"),
    ),
    (dict(dupe_factor=2), dict(dupe_factor=2)),
    (dict(short_seq_prob=0.5), dict(short_seq_prob=0.5)),
    (
      dict(next_sentence_prediction=False),
      dict(next_sentence_prediction=False, short_seq_prob=0.0),
    ),
    (
      dict(next_sentence_prediction=False, short_seq_prob=0.5),
      dict(next_sentence_prediction=False, short_seq_prob=0.5),
    ),
    (dict(pack_sequences=True), dict(max_pieces_per_row=8)),
    (
      dict(pack_sequences=True, max_pairs_per_record=3),
      dict(max_pieces_per_row=3),
    ),
    (dict(random_seed=5), dict(seed=5)),
    (dict(split_sentences=True), dict(split_sentences=True)),
    (dict(text_field="body"), dict(text_field="body")),
  ],
)
def test_each_flag_reaches_the_settings(create, flags, settings):
  # No other setting may change.
  default = read_report(create("default"))["settings"]
  changed = read_report(create("changed", **flags))["settings"]
  assert changed == {**default, **settings}


@pytest.mark.parametrize("whole_words", [False, True])
def test_whole_words_are_masked_on_request(create, text_file, whole_words):
  pathlib.Path(text_file).write_text("unaffable unaffable\n\n" * 50)
  path = create(do_whole_word_mask=whole_words, masked_lm_prob=0.25)
  records = builders.read_records(path)
  num_masked = set()
  for record in records:
    features = record.features.feature
    ids = features["input_ids"].int64_list.value
    num_tokens = sum(features["input_mask"].int64_list.value)
    weights = features["masked_lm_weights"].float_list.value
    positions = features["masked_lm_positions"].int64_list.value
    assert ids[0] == builders.TOKENS.index("[CLS]") and num_tokens == 15
    num_predictions = int(sum(weights))
    num_masked.add(num_predictions)
    if whole_words:
      # `un ##aff ##able` are three tokens in a row.
      first = positions[0]
      assert list(positions[:3]) == [first, first + 1, first + 2]
  # A quarter of the tokens are four, and a second word does not fit.
  assert num_masked == ({3} if whole_words else {4})


def test_records_depend_on_the_seed_alone(create):
  contents = [
    pathlib.Path(create(name, random_seed=seed)).read_bytes()
    for name, seed in [("a", 1), ("b", 1), ("c", 2)]
  ]
  assert contents[0] == contents[1] != contents[2]


@pytest.fixture
def many_blocks(monkeypatch, text_file):
  """Makes the corpus reader cut the text into several blocks."""
  monkeypatch.setattr(corpus, "_SMALLEST_BLOCK_BYTES", 100)
  monkeypatch.setattr(corpus, "_CHUNK_BYTES", 100)
  monkeypatch.setattr(corpus, "_FEWEST_DOCUMENTS", 2)
  pathlib.Path(text_file).write_text((builders.TEXT + "\n\n") * 6)


def test_records_do_not_depend_on_the_number_of_workers(
  create, many_blocks, tmp_path
):
  for num_workers in (1, 2):
    create(f"{num_workers}/x", num_workers=num_workers, num_shards=3)
  folders = [tmp_path / "1", tmp_path / "2"]
  names = [f"x-{i:05d}-of-00003" for i in range(3)] + ["x.report.json"]
  pages = ["x.report.html"]
  for folder in folders:
    assert sorted(os.listdir(folder)) == sorted([*names, *pages])
  for name in names:
    assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
  report = json.loads((folders[0] / "x.report.json").read_text())
  records = [
    record
    for name in names[:3]
    for record in builders.read_records(str(folders[0] / name))
  ]
  assert report["records"] == report["instances"] == len(records) > 100
  assert report["documents"] == 18 and report["sentences"] == 18 * 9
  assert report["random_next"] == sum(
    record.features.feature["next_sentence_labels"].int64_list.value[0]
    for record in records
  )
  padding = 1 - np.mean(
    [
      record.features.feature["input_mask"].int64_list.value
      for record in records
    ]
  )
  np.testing.assert_allclose(report["padding_fraction"], padding)


def test_interrupted_creation_resumes(
  create, many_blocks, tmp_path, monkeypatch, caplog
):
  whole = pathlib.Path(create("whole.tfrecord", num_workers=1)).read_bytes()
  progress = create_pretraining_data.BlockProgress
  report = progress.report
  reports = []

  def interrupted(*args):
    reports.append(args)
    if len(reports) == 2:
      raise KeyboardInterrupt
    report(*args)

  monkeypatch.setattr(progress, "report", interrupted)
  with pytest.raises(KeyboardInterrupt):
    create(num_workers=1)
  assert not (tmp_path / "x.tfrecord").exists()
  # The parts of an interrupted run belong to its settings.
  with pytest.raises(ValueError, match="x.parts exists already.*dupe_factor"):
    create(num_workers=1, dupe_factor=4)
  assert pathlib.Path(create(num_workers=1)).read_bytes() == whole
  num_blocks = len(reports)
  create("again.tfrecord", num_workers=1)
  # The resumed run did not make the first two blocks again.
  assert num_blocks == len(reports) - num_blocks
  assert not (tmp_path / "x.parts").exists()


def assert_same_records(folder, other):
  """Asserts that folders have the same records, report included."""
  names = sorted(os.listdir(folder))
  assert names == sorted(os.listdir(other)) and len(names) == 5
  for name in names:
    # The page shows the command, which differs.
    if name != "x.report.html":
      assert (folder / name).read_bytes() == (other / name).read_bytes()


def test_records_do_not_depend_on_beam(
  create, many_blocks, tmp_path, monkeypatch
):
  monkeypatch.setattr(shards, "_BUCKET_BYTES", 2000)  # several for each shard
  create("local/x", num_shards=3)
  create("beam/x", num_shards=3, runner="DirectRunner")
  assert_same_records(tmp_path / "local", tmp_path / "beam")


def beam_program(text_file, vocab_file, output, *options):
  """Runs the program with Beam in other processes."""
  subprocess.run(
    [
      sys.executable,
      builders.ROOT / "create_pretraining_data.py",
      f"--input_file={text_file}",
      f"--vocab_file={vocab_file}",
      "--max_seq_length=24",
      "--max_predictions_per_seq=4",
      "--dupe_factor=3",
      f"--output_file={output}",
      "--num_shards=3",
      *options,
    ],
    check=True,
    cwd="/",
    timeout=300,
  )


@pytest.mark.large
def test_beam_in_several_processes(create, text_file, vocab_file, tmp_path):
  create("local/x", num_shards=3)
  beam_program(
    text_file,
    vocab_file,
    tmp_path / "beam/x",
    "--runner=DirectRunner",
    "--direct_num_workers=2",
    "--direct_running_mode=multi_processing",
  )
  assert_same_records(tmp_path / "local", tmp_path / "beam")


@pytest.mark.large
def test_beam_by_a_job_service(create, text_file, vocab_file, tmp_path):
  create("local/x", num_shards=3)
  port_file = tmp_path / "port"
  service = subprocess.Popen(
    [
      sys.executable,
      "-m",
      "apache_beam.runners.portability.local_job_service_main",
      "--port=0",
      f"--port_file={port_file}",
    ]
  )
  try:

    def is_ready():
      assert service.poll() is None
      return port_file.exists() and port_file.read_text()

    builders.wait_until(is_ready)
    beam_program(
      text_file,
      vocab_file,
      tmp_path / "beam/x",
      "--runner=PortableRunner",
      "--environment_type=LOOPBACK",
      f"--job_endpoint=localhost:{port_file.read_text()}",
    )
  finally:
    service.kill()
    service.wait()
  assert_same_records(tmp_path / "local", tmp_path / "beam")


def parents_of_processes() -> dict[int, int]:
  """Returns the parent of each running process."""
  lines = subprocess.run(
    ["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True
  ).stdout.splitlines()
  return dict(map(int, line.split()) for line in lines)


def descendants(pid: int) -> set[int]:
  parents = parents_of_processes()
  found = {pid}
  while (
    more := {child for child, parent in parents.items() if parent in found}
    - found
  ):
    found |= more
  return found - {pid}


@pytest.mark.large
def test_killed_creation_resumes(vocab_file, tmp_path):
  text = tmp_path / "long.txt"
  text.write_text((builders.TEXT + "\n\n") * 20_000)  # several blocks

  def command(output):
    return [
      sys.executable,
      builders.ROOT / "create_pretraining_data.py",
      f"--input_file={text}",
      f"--vocab_file={vocab_file}",
      "--max_seq_length=24",
      "--max_predictions_per_seq=4",
      "--dupe_factor=1",
      f"--output_file={output}",
      "--num_workers=2",
    ]

  subprocess.run(command(tmp_path / "whole"), check=True, timeout=300)
  for num_blocks in (1, 3, 5):
    process = subprocess.Popen(command(tmp_path / "parts"))

    def has_blocks(count=num_blocks, process=process):
      assert process.poll() is None
      return len(list(tmp_path.glob("parts.parts/*-*.json"))) >= count

    builders.wait_until(has_blocks)
    children = descendants(process.pid)
    assert len(children) >= 3  # two workers and who started them
    process.kill()
    process.wait()
    assert not (tmp_path / "parts").exists()
    # No child outlives the program.
    builders.wait_until(
      lambda children=children: not children & set(parents_of_processes())
    )
  subprocess.run(command(tmp_path / "parts"), check=True, timeout=300)
  assert not list(tmp_path.glob("*.tmp"))
  assert (tmp_path / "parts").read_bytes() == (tmp_path / "whole").read_bytes()


def test_creation_twice_is_creation_once(create, tmp_path):
  file = pathlib.Path(create())
  before = file.stat().st_mtime_ns
  create()
  assert file.stat().st_mtime_ns == before
  with pytest.raises(ValueError, match="x.tfrecord exists already"):
    create(dupe_factor=5)
  assert file.stat().st_mtime_ns == before
  create(dupe_factor=5, overwrite=True)
  assert file.stat().st_mtime_ns != before


@pytest.mark.parametrize(
  "content, flags, message",
  [
    (b"", {}, "text.txt is empty"),
    (b"\n \n\n", {}, "contains no text"),
    (b"one sentence only\n", {}, "holds one sentence"),
    (b"good\nb\xe9d\n", {}, "text.txt, line 2: not UTF-8"),
    (b"a\n", dict(vocab_file="/nowhere/vocab.txt"), "vocab.txt does not exist"),
    (b"a\n", dict(input_file="/nowhere/*"), "matches no file"),
    (b"a\n\nb\n", dict(num_shards=100), "too few for 100 files"),
    (b"a\n", dict(word_separator="|"), "pass --do_whole_word_mask as well"),
    (b"a\n", dict(max_pairs_per_record=3), "belongs to --pack_sequences"),
  ],
)
def test_creation_refuses(create, text_file, tmp_path, content, flags, message):
  pathlib.Path(text_file).write_bytes(content)
  with pytest.raises(ValueError, match=message):
    create(**flags)
  assert not list(tmp_path.glob("x.tfrecord*"))


def test_creation_refuses_an_output_that_cannot_be_written(create, tmp_path):
  (tmp_path / "file").write_text("in the way")
  with pytest.raises(ValueError, match="cannot be written"):
    create("file/x.tfrecord")


@pytest.mark.parametrize(
  "output, flag",
  [
    ("text.txt", "input_file"),
    ("vocab.txt", "vocab_file"),
    ("link", "input_file"),
    ("x.lock", "input_file"),
  ],
)
def test_records_do_not_overwrite_their_inputs(create, tmp_path, output, flag):
  os.symlink(tmp_path / "text.txt", tmp_path / "link")
  (tmp_path / "x.lock").write_text("one\n\ntwo")
  flags = {"output_file": tmp_path / output}
  if output == "x.lock":
    flags = {"input_file": tmp_path / output}
  before = builders.read_folder(tmp_path)
  with pytest.raises(UserError, match=f"that --{flag} reads"):
    create(overwrite=True, **flags)
  assert builders.read_folder(tmp_path) == before


def test_the_records_have_a_page(create, tmp_path):
  create()
  path = tmp_path / "x.report.html"
  text = path.read_text()
  assert "As text</h2>" in text and "--max_seq_length=24" in text
  path.unlink()  # a killed process may have left none
  create()
  assert path.read_text() == text


def test_the_next_run_removes_leftovers(create, tmp_path):
  create()
  whole = builders.read_folder(tmp_path)
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
    files = builders.read_folder(tmp_path)
    # The page shows the command, which has another flag.
    assert files.keys() == whole.keys()
    assert {**files, "x.report.html": whole["x.report.html"]} == whole
    assert not (tmp_path / "x.parts").exists()


def test_a_second_process_is_refused(create, tmp_path):
  builders.assert_refused_by_lock(create, tmp_path, "x.lock")
