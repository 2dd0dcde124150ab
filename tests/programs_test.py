"""Runs every program on tiny data, and on data that it must refuse."""

import collections
import csv
import io
import itertools
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import types

import checkpoint_test
import conftest
import hub_encoder_test
import numpy as np
from pyarrow import parquet
import pytest
from safetensors import numpy as safetensors
import tensorflow as tf
import tensorflow_hub as hub
from tensorflow_serving.apis import prediction_log_pb2
import tf_keras

import checkpoint
import convert_checkpoint
import create_pretraining_data
import create_vocabulary
from data import encoding
from data import locks
from data import record_files
from data import serialization
from errors import UserError
import export_saved_model
import extract_features
import modeling
import plot_training
import predict_masked
from pretraining import corpus
from pretraining import input_pipeline
from pretraining import masking
from pretraining import record_formats
from pretraining import shards
import run_classifier
import run_classifier_with_tfhub
import run_glue
import run_ner
import run_pretraining
import run_squad
import run_swag
from serving import hub_encoder
from tasks import classifier as classifier_lib
from tasks import distillation
import tokenization

ROOT = pathlib.Path(__file__).parent.parent
TEXT = "\n\n".join(
  "\n".join(
    f"{a} {b} sat on the {c} ."
    for c in ("mat", "hill", "tree")
    for b in ("cat", "dog", "bird")
  )
  for a in ("the", "a", "one quick")
)


@pytest.fixture
def text_file(tmp_path):
  path = tmp_path / "text.txt"
  path.write_text(TEXT + "\n")
  return str(path)


@pytest.fixture
def init_checkpoint(tmp_path):
  prefix = str(tmp_path / "bert_model.ckpt")
  checkpoint.write(
    prefix,
    checkpoint.variables_by_name(
      modeling.BertForPreTraining(conftest.tiny_config(), seed=5)
    ),
  )
  return prefix


# --- Pre-training ------------------------------------------------------------


@pytest.fixture
def create(run_program, text_file, vocab_file, tmp_path):
  def run(output="x.tfrecord", **flags):
    run_program(
      create_pretraining_data,
      **{
        **dict(
          input_file=text_file,
          vocab_file=vocab_file,
          max_seq_length=24,
          max_predictions_per_seq=4,
          dupe_factor=3,
          output_file=tmp_path / output,
        ),
        **flags,
      },
    )
    return str(tmp_path / output)

  return run


@pytest.fixture
def pretrain(run_program, config_file, tmp_path):
  def run(input_file, output="run", **flags):
    run_program(
      run_pretraining,
      **{
        **dict(
          input_file=input_file,
          bert_config_file=config_file,
          output_dir=tmp_path / output,
          do_train=True,
          max_seq_length=24,
          max_predictions_per_seq=4,
          num_train_steps=4,
          num_warmup_steps=2,
          train_batch_size=8,
          learning_rate=0.001,
        ),
        **flags,
      },
    )
    return tmp_path / output

  return run


def read_records(path):
  return [
    tf.train.Example.FromString(record)
    for record in tf.data.TFRecordDataset(path).as_numpy_iterator()
  ]


def test_records_have_the_published_format(create):
  records = read_records(create())
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
    separators = np.flatnonzero(restored == conftest.TOKENS.index("[SEP]"))
    assert len(separators) == 2 and separators[1] == length - 1
    segments = np.zeros(24, int)
    segments[separators[0] + 1 : length] = 1
    np.testing.assert_array_equal(features["segment_ids"], segments)
    labels.add(int(features["next_sentence_labels"][0]))
  assert labels == {0, 1}


def test_records_depend_on_the_seed_alone(create):
  contents = [
    pathlib.Path(create(name, random_seed=seed)).read_bytes()
    for name, seed in [("a", 1), ("b", 1), ("c", 2)]
  ]
  assert contents[0] == contents[1] != contents[2]


@pytest.fixture
def many_blocks(monkeypatch, text_file):
  """Makes the text one of several blocks."""
  monkeypatch.setattr(corpus, "_SMALLEST_BLOCK_BYTES", 100)
  monkeypatch.setattr(corpus, "_CHUNK_BYTES", 100)
  monkeypatch.setattr(corpus, "_FEWEST_DOCUMENTS", 2)
  pathlib.Path(text_file).write_text((TEXT + "\n\n") * 6)


def test_records_do_not_depend_on_the_number_of_workers(
  create, many_blocks, tmp_path
):
  for num_workers in (1, 2):
    create(f"{num_workers}/x", num_workers=num_workers, num_shards=3)
  folders = [tmp_path / "1", tmp_path / "2"]
  names = [f"x-{i:05d}-of-00003" for i in range(3)] + ["x.report.json"]
  assert [sorted(os.listdir(folder)) for folder in folders] == [names] * 2
  for name in names:
    assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
  report = json.loads((folders[0] / "x.report.json").read_text())
  records = [
    record
    for name in names[:3]
    for record in read_records(str(folders[0] / name))
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


def test_creation_that_was_interrupted_goes_on(
  create, many_blocks, tmp_path, monkeypatch, caplog
):
  whole = pathlib.Path(create("whole.tfrecord", num_workers=1)).read_bytes()
  report = create_pretraining_data.Progress.report
  reports = []

  def interrupted(*args):
    reports.append(args)
    if len(reports) == 2:
      raise KeyboardInterrupt
    report(*args)

  monkeypatch.setattr(create_pretraining_data.Progress, "report", interrupted)
  with pytest.raises(KeyboardInterrupt):
    create(num_workers=1)
  assert not (tmp_path / "x.tfrecord").exists()
  # Other settings would be another build.
  with pytest.raises(ValueError, match="x.parts exists already.*dupe_factor"):
    create(num_workers=1, dupe_factor=4)
  assert pathlib.Path(create(num_workers=1)).read_bytes() == whole
  num_blocks = len(reports)
  create("again.tfrecord", num_workers=1)
  # Two were not made a second time.
  assert num_blocks == len(reports) - num_blocks
  assert not (tmp_path / "x.parts").exists()


def test_records_do_not_depend_on_beam(
  create, many_blocks, tmp_path, monkeypatch
):
  monkeypatch.setattr(shards, "_BUCKET_BYTES", 2000)  # several for each shard
  create("local/x", num_shards=3)
  create("beam/x", num_shards=3, runner="DirectRunner")
  for name in os.listdir(tmp_path / "local"):
    assert (tmp_path / "local" / name).read_bytes() == (
      tmp_path / "beam" / name
    ).read_bytes()
  assert len(os.listdir(tmp_path / "beam")) == 4


def beam_program(text_file, vocab_file, output, *options):
  """Runs the program with Beam, in processes of its own."""
  subprocess.run(
    [
      sys.executable,
      ROOT / "create_pretraining_data.py",
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
  for name in os.listdir(tmp_path / "local"):
    assert (tmp_path / "local" / name).read_bytes() == (
      tmp_path / "beam" / name
    ).read_bytes()


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
    while not (port_file.exists() and port_file.read_text()):
      assert service.poll() is None
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
  for name in os.listdir(tmp_path / "local"):
    assert (tmp_path / "local" / name).read_bytes() == (
      tmp_path / "beam" / name
    ).read_bytes()


def parents_of_processes() -> dict[int, int]:
  """Returns the parent of each process that is running."""
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
def test_creation_killed_at_any_moment_goes_on(vocab_file, tmp_path):
  text = tmp_path / "long.txt"
  text.write_text((TEXT + "\n\n") * 20_000)  # several blocks

  def command(output):
    return [
      sys.executable,
      ROOT / "create_pretraining_data.py",
      f"--input_file={text}",
      f"--vocab_file={vocab_file}",
      "--max_seq_length=24",
      "--max_predictions_per_seq=4",
      "--dupe_factor=1",
      f"--output_file={output}",
      "--num_workers=2",
    ]

  subprocess.run(command(tmp_path / "whole"), check=True)
  for num_blocks in (1, 3, 5):
    process = subprocess.Popen(command(tmp_path / "parts"))
    while len(list(tmp_path.glob("parts.parts/*-*.json"))) < num_blocks:
      with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.05)
    children = descendants(process.pid)
    assert len(children) >= 3  # two workers and who started them
    process.kill()
    process.wait()
    assert not (tmp_path / "parts").exists()
    while children & set(parents_of_processes()):  # none outlives the program
      pass
  subprocess.run(command(tmp_path / "parts"), check=True)
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


def test_pretraining_on_packed_records(create, pretrain):
  records = create(
    pack_sequences=True,
    max_pairs_per_record=3,
    short_seq_prob=1.0,
    max_seq_length=40,
  )
  features = [record.features.feature for record in read_records(records)]
  pairs = [sum(f["next_sentence_weights"].float_list.value) for f in features]
  assert np.mean(pairs) > 1.2
  run = pretrain(
    records,
    do_eval=True,
    num_train_steps=60,
    learning_rate=0.005,
    max_seq_length=40,
  )
  results = (run / "eval_results.txt").read_text()
  assert float(results.split("masked_lm_loss = ")[1].split()[0]) < 2.5
  assert "next_sentence_loss" in results


def test_masked_lm_alone_leaves_the_other_head_as_it_was(
  create, pretrain, init_checkpoint
):
  records = create(next_sentence_prediction=False)
  run = pretrain(records, do_eval=True, init_checkpoint=init_checkpoint)
  assert "next_sentence" not in (run / "eval_results.txt").read_text()
  before, after = (
    tf.train.load_checkpoint(path)
    for path in (init_checkpoint, str(run / "model.ckpt-4"))
  )
  for name in before.get_variable_to_shape_map():
    is_same = np.array_equal(before.get_tensor(name), after.get_tensor(name))
    assert is_same == ("pooler" in name or "seq_relationship" in name), name


def test_masks_drawn_in_training_follow_the_place_in_the_data(
  create, vocab_file
):
  record_format = record_formats.PretrainingFormat(24, 4)
  masker = masking.Masking(
    masking.Vocabulary.from_tokens(tokenization.load_vocab(vocab_file)),
    0.15,
    4,
    True,
  )
  files = [create(dupe_factor=1)]
  num_records = len(read_records(files[0]))

  def batches(count, position=None):
    return list(
      input_pipeline.pretraining_dataset(
        files,
        record_format,
        100,
        2,
        4,
        True,
        1,
        True,
        position,
        masker.mask_anew,
      )
      .take(count)
      .as_numpy_iterator()
    )

  whole = batches(num_records)  # four epochs
  rest = batches(num_records - 3, whole[2]["input_position"])
  for batch, again in zip(whole[3:], rest):
    np.testing.assert_array_equal(batch["input_ids"], again["input_ids"])
  masks = collections.defaultdict(set)
  for batch in whole:
    for row in range(4):
      ids = batch["input_ids"][row].copy()
      count = int(batch["masked_lm_weights"][row].sum())
      positions = batch["masked_lm_positions"][row, :count]
      ids[positions] = batch["masked_lm_ids"][row, :count]
      masks[tuple(ids)].add(tuple(positions))
  assert len(masks) == num_records
  assert np.mean([len(seen) for seen in masks.values()]) > 2


def test_pretraining_with_dynamic_masking(create, pretrain, vocab_file):
  records = create()
  losses = []
  for flags in (dict(), dict(dynamic_masking=True, vocab_file=vocab_file)):
    run = pretrain(records, f"run{len(flags)}", **flags)
    line = (run / "training_log.jsonl").read_text().splitlines()[0]
    losses.append(json.loads(line)["loss"])
  assert losses[0] != losses[1]
  assert (run / "export" / "vocab.txt").exists()


@pytest.mark.parametrize(
  "flags, message",
  [
    (dict(dynamic_masking=True), "pass the --vocab_file"),
    (dict(masked_lm_prob=0.3), "belongs to --dynamic_masking"),
  ],
)
def test_masking_flags_that_do_not_go_together_are_refused(
  create, pretrain, flags, message
):
  with pytest.raises(ValueError, match=message):
    pretrain(create(), **flags)


def test_pretraining_refuses_records_of_two_kinds(create, pretrain):
  files = [create("a"), create("b", pack_sequences=True)]
  with pytest.raises(ValueError, match="records of different kinds"):
    pretrain(",".join(files))


def test_pretraining_runs_evaluates_and_resumes(
  create, pretrain, init_checkpoint
):
  records = create()
  run = pretrain(records, do_eval=True, init_checkpoint=init_checkpoint)
  results = dict(
    line.split(" = ")
    for line in (run / "eval_results.txt").read_text().splitlines()
  )
  assert list(results) == [
    "global_step",
    "loss",
    "masked_lm_accuracy",
    "masked_lm_loss",
    "next_sentence_accuracy",
    "next_sentence_loss",
  ]
  assert int(results["global_step"]) == 4
  np.testing.assert_allclose(
    float(results["loss"]),
    float(results["masked_lm_loss"]) + float(results["next_sentence_loss"]),
    rtol=1e-6,
  )
  pretrain(records, num_train_steps=6)
  rows = [
    json.loads(line)["step"]
    for line in (run / "training_log.jsonl").read_text().splitlines()
  ]
  assert rows[-1] == 6 and sorted(set(rows)) == rows
  twin = pretrain(
    records, "twin", num_train_steps=4, init_checkpoint=init_checkpoint
  )
  weights = [
    tf.train.load_checkpoint(str(folder / "model.ckpt-4")).get_tensor(
      "bert/pooler/dense/kernel"
    )
    for folder in (run, twin)
  ]
  np.testing.assert_array_equal(*weights)


def test_pretraining_in_bfloat16(create, pretrain):
  run = pretrain(create(), precision="bfloat16")
  reader = tf.train.load_checkpoint(str(run))
  assert reader.get_tensor("bert/pooler/dense/kernel").dtype == np.float32


def test_pretraining_with_every_option_of_the_engine(create, pretrain):
  run = pretrain(
    create(),
    do_eval=True,
    eval_every_steps=2,
    early_stopping_patience=3,
    gradient_accumulation_steps=2,
    recompute_activations=True,
    optimizer="lamb",
    lr_decay="poly",
    layerwise_lr_decay=0.9,
    skip_nonfinite_steps=True,
  )
  assert sorted(p.name for p in (run / "export").iterdir()) == [
    "bert_config.json",
    "bert_model.ckpt.data-00000-of-00001",
    "bert_model.ckpt.index",
  ]
  reader = tf.train.load_checkpoint(str(run / "export" / "bert_model.ckpt"))
  assert not [
    name
    for name in reader.get_variable_to_shape_map()
    if "adam" in name or "global_step" in name
  ]
  settings = json.loads((run / "model.ckpt-4.json").read_text())["settings"]
  assert settings["optimizer"] == "lamb" and settings["max_seq_length"] == 24
  rows = [
    json.loads(line)
    for line in (run / "training_log.jsonl").read_text().splitlines()
  ]
  assert [row["step"] for row in rows if "evaluation" in row] == [2, 4]
  assert {
    "masked_lm_loss",
    "tokens_per_second",
    "model_flop_utilisation",
    "gradient_norm",
  } <= set(rows[0])


@pytest.mark.parametrize(
  "flags, message",
  [
    (dict(eval_every_steps=5), "--eval_every_steps=5.*--do_eval"),
    (dict(early_stopping_patience=5), "pass --eval_every_steps"),
    (dict(gradient_accumulation_steps=3), "multiple of 3"),
    (dict(lr_decay_power=2), "belongs to --lr_decay=poly"),
    (
      dict(use_tpu=True, tpu_name="some-tpu"),
      "--input_file=.*Cloud TPU cannot read.*gs://",
    ),
  ],
)
def test_settings_that_do_not_go_together_are_refused(
  create, pretrain, flags, message
):
  with pytest.raises(ValueError, match=message):
    pretrain(create(), **flags)


@pytest.mark.parametrize(
  "flags, message",
  [
    (dict(max_seq_length=32), "input_ids has 24 values.*max_seq_length=24"),
    (dict(max_predictions_per_seq=5), "max_predictions_per_seq=4: pass"),
    (dict(max_seq_length=64), "max_seq_length=64.*max_position_embeddings"),
    (dict(do_train=False), "Nothing to do"),
    (dict(input_file="/nowhere/*.tfrecord"), "nowhere.*matches no file"),
    (dict(bert_config_file="/nowhere/c.json"), "c.json does not exist"),
    (dict(init_checkpoint="/nowhere/m.ckpt"), "there is no /nowhere/m.ckpt"),
    (dict(do_train=False, do_eval=True), "Train first"),
  ],
)
def test_pretraining_refuses(create, pretrain, tmp_path, flags, message):
  records = create()
  with pytest.raises(ValueError, match=message):
    pretrain(flags.pop("input_file", records), **flags)
  assert not list(tmp_path.glob("run/*"))


def test_pretraining_refuses_files_of_another_kind(pretrain, tmp_path):
  path = tmp_path / "x"
  path.write_text("no records at all, just some text\n")
  with pytest.raises(ValueError, match="not a TFRecord file"):
    pretrain(path)
  record_files.write_records(
    str(path), [serialization.serialize({"input_ids": [1]})]
  )
  with pytest.raises(ValueError, match="input_mask is missing|has 1 values"):
    pretrain(path)


def test_pretraining_refuses_ids_outside_the_vocabulary(
  create, pretrain, tmp_path
):
  small = tmp_path / "small.json"
  small.write_text(conftest.tiny_config(vocab_size=12).to_json_string())
  with pytest.raises(
    UserError,
    match=r"x.tfrecord, record \d+: .*_ids has the "
    "value .*below 12, the vocab_size of the model.*Nothing "
    "was saved",
  ):
    pretrain(create(), bert_config_file=small)


def test_damaged_record_is_named_and_can_be_left_out(create, pretrain):
  records = create()
  num_records = len(read_records(records))
  content = bytearray(pathlib.Path(records).read_bytes())
  content[-20] ^= 1  # in the last record, before its checksum
  pathlib.Path(records).write_bytes(content)
  flags = dict(train_batch_size=num_records - 1, save_checkpoints_steps=1)
  with pytest.raises(
    UserError,
    match=r"x.tfrecord, record \d+: its checksum is "
    "wrong.*--skip_damaged_records",
  ):
    pretrain(records, **flags)
  run = pretrain(records, skip_damaged_records=True, do_eval=True, **flags)
  assert checkpoint.latest(str(run)).endswith("ckpt-4")
  [copy] = (run / "undamaged").glob("*/x.tfrecord")
  assert len(read_records(str(copy))) == num_records - 1


def test_lost_list_of_checkpoints_is_no_fresh_start(create, pretrain, tmp_path):
  records = create()
  flags = dict(save_checkpoints_steps=2, do_eval=True, eval_every_steps=2)
  run = pretrain(records, **flags)
  first = (run / "model.ckpt-2.index").read_bytes()
  (run / "checkpoint").unlink()
  before = {path: path.read_bytes() for path in run.rglob("*.data*")}
  for settings in (flags, dict(do_train=False, do_eval=True)):
    with pytest.raises(
      UserError, match="checkpoint is missing.*ckpt-2, model.ckpt-4.*--restart"
    ):
      pretrain(records, **settings)
  assert {path: path.read_bytes() for path in before} == before
  with pytest.raises(UserError, match="--restart .*pass --do_train"):
    pretrain(records, do_train=False, do_eval=True, restart=True)
  with pytest.raises(UserError, match="would delete --init_checkpoint"):
    pretrain(records, restart=True, init_checkpoint=run / "model.ckpt-4")
  # Begins again: another seed trains other weights from step 0 on.
  pretrain(records, restart=True, seed=5, **flags)
  assert (run / "model.ckpt-2.index").read_bytes() != first
  steps = [
    json.loads(line)["step"]
    for line in (run / "training_log.jsonl").read_text().splitlines()
  ]
  assert steps == sorted(steps) and steps[-1] == 4
  assert checkpoint.latest(str(run / "best"))


def test_second_program_in_a_folder_is_refused(create, pretrain, tmp_path):
  records = create()
  run = pretrain(records)
  before = sorted(run.iterdir())
  with locks.Lock.of_folder(str(run), "x"):
    for flags in (dict(num_train_steps=6), dict(do_train=False, do_eval=True)):
      with pytest.raises(UserError, match="--output_dir=.*is in use"):
        pretrain(records, **flags)
  assert sorted(run.iterdir()) == before


def test_pretraining_refuses_another_models_folder(create, pretrain, tmp_path):
  records = create()
  run = pretrain(records)
  before = sorted(p.name for p in run.iterdir())
  other = tmp_path / "other.json"
  other.write_text(conftest.tiny_config(hidden_size=16).to_json_string())
  with pytest.raises(ValueError, match="--output_dir=.*does not fit"):
    pretrain(records, bert_config_file=other, num_train_steps=9)
  assert sorted(p.name for p in run.iterdir()) == before


@pytest.mark.parametrize(
  "content, flags, message",
  [
    (b"", {}, "text.txt is empty"),
    (b"\n \n\n", {}, "holds no text"),
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


# --- Vocabularies ------------------------------------------------------------


@pytest.fixture
def learn(run_program, tmp_path):
  def run(output="vocabulary", **flags):
    run_program(
      create_vocabulary,
      **{
        **dict(
          input_file=ROOT / "sample_text.txt",
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
  # Numbered as in released models.
  assert [
    tokenizer.vocab[token]
    for token in ("[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
  ] == [0, 1, 100, 101, 102, 103]
  counts, num_words = collections.Counter(), 0
  for line in (ROOT / "sample_text.txt").read_text().splitlines():
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
  # What is learnt is used, and the same whoever counted the words.
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


def test_vocabulary_that_exists_is_not_overwritten(learn):
  folder = learn()
  with pytest.raises(ValueError, match="vocab.txt exists already"):
    learn(vocab_size=500)
  learn(vocab_size=500, overwrite=True)
  assert len((folder / "vocab.txt").read_text().splitlines()) == 500


# --- Classification ----------------------------------------------------------


@pytest.fixture
def classify(run_program, config_file, vocab_file, init_checkpoint, tmp_path):
  data_dir = tmp_path / "data"
  data_dir.mkdir()
  rows = [
    f"the {noun} {verb}\t{label}"
    for noun in ("cat", "dog", "bird")
    for verb, label in [("sat", "still"), ("ran", "moving"), ("flew", "moving")]
    for _ in range(4)
  ]
  for split in ("train", "dev", "test"):
    (data_dir / f"{split}.tsv").write_text(
      "text\tlabel\n" + "\n".join(rows) + "\n"
    )

  def run(output="run", **flags):
    run_program(
      run_classifier,
      **{
        **dict(
          task_name="Custom",
          data_dir=data_dir,
          bert_config_file=config_file,
          vocab_file=vocab_file,
          init_checkpoint=init_checkpoint,
          output_dir=tmp_path / output,
          max_seq_length=16,
          train_batch_size=4,
          num_train_epochs=12,
          learning_rate=0.001,
        ),
        **flags,
      },
    )
    return tmp_path / output

  run.data_dir = data_dir
  return run


def read_results(run):
  return {
    name: float(value)
    for name, value in (
      line.split(" = ")
      for line in (run / "eval_results.txt").read_text().splitlines()
    )
  }


def read_table(path):
  with open(path, newline="", encoding="utf-8") as reader:
    return list(csv.reader(reader, delimiter="\t"))


def test_classifier_learns_evaluates_and_predicts(classify):
  run = classify(do_train=True, do_eval=True, do_predict=True)
  results = read_results(run)
  assert (
    list(results)
    == sorted(results)
    == ["eval_accuracy", "eval_loss", "eval_macro_f1", "global_step", "loss"]
  )
  assert results["eval_accuracy"] == 1.0
  probabilities = np.loadtxt(run / "test_results.tsv", delimiter="\t")
  assert probabilities.shape == (36, 2)
  np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, atol=1e-6)
  predictions = read_table(run / "test_predictions.tsv")
  assert predictions[0] == ["id", "prediction", "moving", "still"]
  test_file = (classify.data_dir / "test.tsv").read_text().splitlines()[1:]
  assert [row[:2] for row in predictions[1:]] == [
    [str(number), line.split("\t")[1]] for number, line in enumerate(test_file)
  ]
  np.testing.assert_allclose(
    np.array([row[2:] for row in predictions[1:]], float),
    probabilities,
    atol=1e-6,
  )
  assert read_table(run / "confusion_matrix.tsv") == [
    ["label", "predicted moving", "predicted still"],
    ["moving", "24", "0"],
    ["still", "0", "12"],
  ]
  assert len(read_table(run / "worst_mistakes.tsv")) == 1
  # Another process needs neither the training data nor the first weights.
  (classify.data_dir / "train.tsv").unlink()
  before = (run / "test_results.tsv").read_bytes()
  classify(do_predict=True, init_checkpoint="")
  assert (run / "test_results.tsv").read_bytes() == before
  # What was exported is a classifier, too.
  other = classify(
    "other", do_predict=True, init_checkpoint=run / "export" / "bert_model.ckpt"
  )
  assert (other / "test_results.tsv").read_bytes() == before


def test_mistakes_are_shown_the_worst_first(classify):
  dev = classify.data_dir / "dev.tsv"
  dev.write_text(dev.read_text() + "the cat sat\tmoving\nthe dog ran\tstill\n")
  run = classify(do_train=True, do_eval=True)
  header, *rows = read_table(run / "worst_mistakes.tsv")
  assert header == [
    "id",
    "place",
    "loss",
    "label",
    "prediction",
    "text_a",
    "text_b",
  ]
  assert {(row[0], *row[3:]) for row in rows} == {
    ("36", "moving", "still", "the cat sat", ""),
    ("37", "still", "moving", "the dog ran", ""),
  }
  assert float(rows[0][2]) >= float(rows[1][2])
  assert rows[0][1].startswith(f"{dev}, line 3")


@pytest.mark.parametrize(
  "frequent, rare", [("cat,red", "blue"), ("", "blue,cat,red")]
)
def test_several_labels_or_none_for_a_text(classify, frequent, rare):
  # The text says nothing: what is learnt is how frequent each label is.
  for split, counts in [("train", (36, 4)), ("dev", (6, 2)), ("test", (1, 0))]:
    (classify.data_dir / f"{split}.tsv").write_text(
      "text\tlabel\n"
      + f"the dog\t{frequent}\n" * counts[0]
      + f"the dog\t{rare}\n" * counts[1]
    )
  run = classify(
    do_train=True,
    do_eval=True,
    do_predict=True,
    problem_type="multi_label",
    num_train_epochs=20,
    train_batch_size=40,
    learning_rate=0.003,
  )
  assert read_results(run)["eval_exact_match"] == 6 / 8
  predictions = read_table(run / "test_predictions.tsv")
  assert predictions[0] == ["id", "prediction", "blue", "cat", "red"]
  assert predictions[1][:2] == ["0", frequent]
  assert all(
    (float(probability) > 0.5) == (label in frequent)
    for label, probability in zip(predictions[0][2:], predictions[1][2:])
  )
  assert read_table(run / "confusion_matrix.tsv")[:2] == [
    [
      "label",
      "true positives",
      "false positives",
      "false negatives",
      "true negatives",
    ],
    ["blue", "0", "0", "2", "6"],
  ]


def test_regression(classify):
  words = ["bad", "lazy", "quick", "good"]
  rows = [
    f"a {word} {noun}\t{value}\n"
    for noun in ("cat", "dog", "bird")
    for value, word in enumerate(words)
  ]
  for split in ("train", "dev", "test"):
    (classify.data_dir / f"{split}.tsv").write_text(
      "text\tlabel\n" + "".join(rows * 3)
    )
  run = classify(
    do_train=True,
    do_eval=True,
    do_predict=True,
    problem_type="regression",
    num_train_epochs=30,
  )
  results = read_results(run)
  assert results["eval_spearman"] > 0.9 and results["eval_mse"] < 0.3
  np.testing.assert_allclose(results["eval_loss"], results["eval_mse"])
  predictions = read_table(run / "test_predictions.tsv")
  assert predictions[0] == ["id", "prediction"]
  assert np.loadtxt(run / "test_results.tsv").shape == (36,)
  assert not (run / "confusion_matrix.tsv").exists()


def test_rare_labels_count_more_by_their_weight(classify):
  train = classify.data_dir / "train.tsv"
  # The text says nothing: what is learnt is how frequent the labels are.
  train.write_text(
    "text\tlabel\n" + "the cat\tfrequent\n" * 36 + "the cat\trare\n" * 12
  )
  (classify.data_dir / "test.tsv").write_text("text\nthe cat\n")

  def probability_of_rare(output, **flags):
    run = classify(
      output,
      do_train=True,
      do_predict=True,
      num_train_epochs=60,
      train_batch_size=48,
      learning_rate=0.003,
      **flags,
    )
    return np.loadtxt(run / "test_results.tsv")[1]

  np.testing.assert_allclose(
    [
      probability_of_rare("a"),
      probability_of_rare("b", class_weights="balanced"),
      probability_of_rare("c", class_weights="rare=9"),
    ],
    [1 / 4, 1 / 2, 3 / 4],
    atol=0.06,
  )


def test_long_texts_are_read_in_windows(classify):
  rng = random.Random(1)
  texts = [" ".join(rng.choices(conftest.WORDS, k=20)) for _ in range(8)]
  (classify.data_dir / "train.tsv").write_text(
    "text\tlabel\n"
    + "".join(
      f"{text}\t{'still' if i % 2 else 'moving'}\n"
      for i, text in enumerate(texts)
    )
  )
  (classify.data_dir / "test.tsv").write_text(
    "\n".join(["text", *texts]) + "\n"
  )
  flags = dict(do_predict=True, max_seq_length=12)
  run = classify(
    **flags,
    do_train=True,
    do_eval=True,
    num_train_epochs=1,
    long_text="sliding_window",
  )
  # Each of 8 texts has windows of 10 words that begin after 0, 5 and 10.
  assert read_results(run)["global_step"] == 8 * 3 / 4
  windows = [
    " ".join(text.split()[start : start + 10])
    for text in texts
    for start in (0, 5, 10)
  ]
  (classify.data_dir / "test.tsv").write_text(
    "\n".join(["text", *windows]) + "\n"
  )
  apart = classify(
    "apart", **flags, init_checkpoint=run / "export" / "bert_model.ckpt"
  )
  logits = np.log(np.loadtxt(apart / "test_results.tsv"))
  means = np.exp(logits.reshape([8, 3, 2]).mean(axis=1))
  np.testing.assert_allclose(
    np.loadtxt(run / "test_results.tsv"),
    means / means.sum(axis=1, keepdims=True),
    atol=1e-5,
  )


def test_evaluation_does_not_depend_on_the_size_of_batches(classify):
  run = classify(do_train=True, do_predict=True, num_train_epochs=1)
  before = np.loadtxt(run / "test_results.tsv")
  for flags in (dict(pad_to_max_length=True), dict(predict_batch_size=5)):
    classify(do_predict=True, **flags)
    np.testing.assert_allclose(
      np.loadtxt(run / "test_results.tsv"), before, atol=1e-5
    )


def test_a_model_of_glue_writes_all_its_files(classify, tmp_path):
  header = "\t".join(f"c{i}" for i in range(8)) + "\tsentence1\tsentence2"
  row = "\t".join("01234567") + "\tthe cat sat\ta cat"
  data_dir = tmp_path / "MNLI"
  data_dir.mkdir()
  for file, label in [
    ("train", "\tgold"),
    ("dev_matched", "\tgold"),
    ("dev_mismatched", "\tgold"),
    ("test_matched", ""),
    ("test_mismatched", ""),
  ]:
    names = ("neutral", "entailment", "contradiction") if label else ("",)
    (data_dir / f"{file}.tsv").write_text(
      f"{header}{label}\n"
      + "".join(f"{row}{label and chr(9)}{name}\n" for name in names)
    )
  (data_dir / "diagnostic.tsv").write_text(
    "index\tsentence1\tsentence2\n0\ta cat\ta dog\n1\ta dog\ta cat\n"
  )
  run = classify(
    task_name="MNLI",
    data_dir=data_dir,
    do_train=True,
    do_eval=True,
    do_predict=True,
    num_train_epochs=2,
  )
  assert {"eval_accuracy", "eval_mismatched_accuracy"} <= set(read_results(run))
  assert sorted(path.name for path in (run / "submission").iterdir()) == [
    "AX.tsv",
    "MNLI-m.tsv",
    "MNLI-mm.tsv",
  ]
  table = read_table(run / "submission" / "AX.tsv")
  assert [row[0] for row in table] == ["index", "0", "1"]
  assert {row[1] for row in table[1:]} <= {
    "neutral",
    "entailment",
    "contradiction",
  }


@pytest.mark.parametrize(
  "flags, message",
  [
    (dict(), "Nothing to do"),
    (dict(do_eval=True), "no classifier.json of a trained classifier"),
    (dict(do_train=True, max_seq_length=41), "max_seq_length=41 must be"),
    (dict(do_train=True, data_dir="/nowhere"), "train.tsv or .*does not exist"),
    (dict(do_train=True, text_a_column="words"), "no column 'words'"),
    (
      dict(do_train=True, train_batch_size=1000, num_train_epochs=1),
      "make no single step",
    ),
    (dict(do_train=True, init_checkpoint="/nowhere/m"), "no /nowhere/m.index"),
    (
      dict(do_train=True, problem_type="regression"),
      "line 2: the label 'still' is not a finite number",
    ),
    (
      dict(do_train=True, class_weights="still"),
      "not of the form label=weight",
    ),
    (dict(do_train=True, class_weights="no=2"), "class weight for 'no'"),
    (
      dict(do_train=True, task_name="rte", id_column="x"),
      "--id_column=x belongs to --task_name=custom",
    ),
    (dict(do_train=True, language="de"), "language=.*belongs to .*xnli"),
    (
      dict(do_train=True, hard_label_weight=0.5),
      "hard_label_weight=0.5 belongs to --teacher_model_dir",
    ),
    (
      dict(do_train=True, task_file="x.json", problem_type="regression"),
      "--problem_type and --task_file=x.json say the same",
    ),
    (
      dict(do_train=True, teacher_model_dir="/nowhere"),
      "--teacher_model_dir=/nowhere holds no classifier.json",
    ),
  ],
)
def test_classifier_refuses(classify, tmp_path, flags, message):
  with pytest.raises(ValueError, match=message):
    classify(**flags)
  assert not list(tmp_path.glob("run/*"))


def test_classifier_refuses_a_vocabulary_larger_than_the_model(
  classify, config_file
):
  pathlib.Path(config_file).write_text(
    conftest.tiny_config(vocab_size=20).to_json_string()
  )
  with pytest.raises(
    ValueError, match="vocab.txt has 39 tokens, but vocab_size=20"
  ):
    classify(do_train=True)


def test_classifier_refuses_labels_that_do_not_fit_the_weights(
  classify, init_checkpoint, tmp_path
):
  run = classify(do_train=True, num_train_epochs=1)
  with open(classify.data_dir / "train.tsv", "a") as writer:
    writer.write("a third kind\tthird\n")
  with pytest.raises(
    ValueError,
    match="holds a classifier for single_label "
    "with the labels moving, still, but",
  ):
    classify(do_train=True)
  path = run / "classifier.json"
  settings = json.loads(path.read_text())
  path.write_text(json.dumps({**settings, "labels": ["a", "b", "c"]}))
  with pytest.raises(
    ValueError,
    match="--output_dir=.* is a classifier of 2 "
    "labels, but there are 3: a, b, c",
  ):
    classify(do_predict=True)
  path.write_text('{"labels": ["a"')
  with pytest.raises(ValueError, match="classifier.json: not JSON"):
    classify(do_predict=True)
  # Pre-trained weights alone would predict at random.
  path.write_text(json.dumps(settings))
  for file in run.glob("model.ckpt*"):
    file.unlink()
  (run / "checkpoint").unlink()
  with pytest.raises(
    ValueError, match="has no classifier, only what one is trained from"
  ):
    classify(do_predict=True)


def test_a_model_is_named_by_its_folder(
  run_program,
  classify,
  config_file,
  vocab_file,
  init_checkpoint,
  tmp_path,
  monkeypatch,
):
  # Under the names that such files have, in the folder of the fixtures.
  expected = classify(do_train=True, do_predict=True, num_train_epochs=1)

  def run(model, output, **flags):
    run_program(
      run_classifier,
      model=model,
      task_name="custom",
      data_dir=classify.data_dir,
      output_dir=tmp_path / output,
      max_seq_length=16,
      train_batch_size=4,
      num_train_epochs=1,
      learning_rate=0.001,
      do_train=True,
      do_predict=True,
      **flags,
    )
    return (tmp_path / output / "test_results.tsv").read_bytes()

  assert run(tmp_path, "a") == (expected / "test_results.tsv").read_bytes()
  # By its name, and with other weights.
  (tmp_path / "models").mkdir()
  (tmp_path / "models" / "tiny").symlink_to(tmp_path)
  monkeypatch.chdir(tmp_path)
  assert (
    run("tiny", "b", init_checkpoint="")
    != (expected / "test_results.tsv").read_bytes()
  )
  with pytest.raises(
    ValueError,
    match="neither a folder huge nor models/huge. "
    "Released models are downloaded by download_model.py",
  ):
    run("huge", "c")


# --- Distillation ------------------------------------------------------------


def test_a_student_learns_what_the_teacher_says(
  classify, config_file, monkeypatch
):
  teacher = classify("teacher", do_train=True, do_predict=True)
  says = read_table(teacher / "test_predictions.tsv")
  # The labels of the student's own data are wrong, and it has further texts.
  train = classify.data_dir / "train.tsv"
  rows = [line.split("\t") for line in train.read_text().splitlines()[1:]]
  swap = {"still": "moving", "moving": "still"}
  train.write_text(
    "text\tlabel\n"
    + "".join(
      f"{text}\t{swap[label]}\n" for text, label in rows if "cat" in text
    )
  )
  (classify.data_dir / "more.tsv").write_text(
    "text\n" + "".join(f"{text}\n" for text, _ in rows if "cat" not in text)
  )
  small = pathlib.Path(config_file).with_name("small.json")
  small.write_text(conftest.tiny_config(num_hidden_layers=1).to_json_string())
  student_flags = dict(
    do_train=True,
    do_predict=True,
    bert_config_file=small,
    init_checkpoint="",
    num_train_epochs=60,
    teacher_model_dir=teacher,
    transfer_file="more.tsv",
  )
  student = classify("student", **student_flags)
  assert [row[:2] for row in read_table(student / "test_predictions.tsv")] == [
    row[:2] for row in says
  ]
  [kept] = (teacher / "distillation").iterdir()
  # What it said is read again by another student.
  monkeypatch.setattr(distillation, "_ask", None)
  classify("other", **{**student_flags, "num_train_epochs": 1})
  # With hard labels alone the student believes them.
  misled = classify(
    "misled",
    **student_flags,
    hard_label_weight=1.0,
    distillation_temperature=2.0,
  )
  right = {row[0]: row[1] for row in says[1:]}
  assert all(
    row[1] == swap[right[row[0]]]
    for row in read_table(misled / "test_predictions.tsv")[1:13]
  )
  # Other texts are asked about again.
  (classify.data_dir / "more.tsv").write_text("text\na red bird\n")
  with pytest.raises(TypeError):
    classify("third", **student_flags)
  assert [kept] == list((teacher / "distillation").iterdir())


def test_a_teacher_of_another_task_is_refused(classify):
  teacher = classify("teacher", do_train=True, num_train_epochs=1)
  train = classify.data_dir / "train.tsv"
  train.write_text(train.read_text().replace("still", "calm"))
  with pytest.raises(
    ValueError,
    match="predicts moving, still; the student is to predict calm, moving",
  ):
    classify("student", do_train=True, teacher_model_dir=teacher)


# --- GLUE --------------------------------------------------------------------


@pytest.fixture
def glue_runs(run_program, config_file, vocab_file, init_checkpoint, tmp_path):
  for folder, header, row in [
    ("RTE", "index\tsentence1\tsentence2{}", "0\tthe cat\ta cat{}"),
    ("MRPC", "{}\t1\t2\tsentence1\tsentence2", "{}\t1\t2\tthe cat\ta cat"),
  ]:
    (tmp_path / "glue" / folder).mkdir(parents=True)
    labels = {"RTE": ["\tentailment", "\tnot_entailment"], "MRPC": ["0", "1"]}[
      folder
    ]
    for split in ("train", "dev"):
      (tmp_path / "glue" / folder / f"{split}.tsv").write_text(
        header.format("\tlabel")
        + "\n"
        + "".join(row.format(label) + "\n" for label in labels)
      )

  def run(output="results", **flags):
    run_program(
      run_glue,
      **{
        **dict(
          data_dir=tmp_path / "glue",
          bert_config_file=config_file,
          vocab_file=vocab_file,
          init_checkpoint=init_checkpoint,
          output_dir=tmp_path / output,
          max_seq_length=16,
          batch_sizes="2",
          learning_rates="0.001",
          seeds="1",
          num_train_epochs=4,
        ),
        **flags,
      },
    )
    return tmp_path / output

  return run


def test_the_grid_finds_the_best_and_goes_on(glue_runs, monkeypatch):
  calls = []

  def fake(arguments, log_file):
    """Scores by the rate, with the seed as noise."""
    del log_file
    flags = dict(argument[2:].partition("=")[::2] for argument in arguments)
    calls.append(flags)
    if len(calls) == 5:
      raise KeyboardInterrupt
    folder = pathlib.Path(flags["output_dir"])
    (folder / "export").mkdir(parents=True)
    score = {"0.001": 0.5, "0.002": 0.7}[flags["learning_rate"]] + 0.01 * int(
      flags["seed"]
    )
    metrics = {"rte": ["accuracy"], "mrpc": ["accuracy", "f1"]}
    (folder / "eval_results.txt").write_text(
      "".join(
        f"eval_{metric} = {score + 0.1 * (metric == 'f1')}\n"
        for metric in metrics[flags["task_name"]]
      )
    )

  monkeypatch.setattr(run_glue, "_run_classifier", fake)
  flags = dict(batch_sizes="2,4", learning_rates="0.001,0.002", seeds="1,2,3")
  with pytest.raises(KeyboardInterrupt):
    glue_runs(**flags)
  results = glue_runs(**flags)
  # Two tasks, four points and two further seeds; one was begun twice.
  assert len(calls) == 13
  summary = json.loads((results / "results.json").read_text())
  assert summary["num_tasks"] == 2
  # F1 is 0.1 above the accuracy: the mean of MRPC is 0.77, that of RTE 0.72.
  assert summary["score"] == pytest.approx((0.77 + 0.72) / 2)
  assert summary["columns"]["RTE"]["accuracy"] == pytest.approx(
    {"mean": 0.72, "deviation": 0.01}
  )
  best = summary["tasks"]["rte"]
  assert (best["learning_rate"], best["best_seed"]) == (0.002, 3)
  [row] = [
    line
    for line in (results / "results.md").read_text().splitlines()
    if "82.0" in line
  ]
  assert "| 82.0 ± 1.0 / 72.0 ± 1.0 |" in row and "| 72.0 ± 1.0 |" in row
  assert (results / "results.png").read_bytes().startswith(b"\x89PNG")
  # Of all runs of a task the weights of the best are left.
  kept = sorted(path.parent.name for path in results.glob("*/*/export"))
  assert kept == ["batch2_rate0.002_seed3"] * 2
  # Another task joins the table.
  glue_runs(**{**flags, "tasks": "rte"})
  assert len(calls) == 13
  summary = json.loads((results / "results.json").read_text())
  assert set(summary["tasks"]) == {"rte", "mrpc"}
  with pytest.raises(
    ValueError,
    match="holds a run with other settings: "
    "--num_train_epochs=4 --num_train_epochs=5",
  ):
    glue_runs(**flags, num_train_epochs=5)


@pytest.mark.large
def test_glue_with_real_runs(glue_runs, tmp_path):
  (tmp_path / "glue" / "RTE" / "test.tsv").write_text(
    "index\tsentence1\tsentence2\n0\tthe cat\ta cat\n"
  )
  results = glue_runs(tasks="rte", learning_rates="0.001,0.002")
  assert "| RTE | 2 |" in (results / "results.md").read_text()
  assert len(read_table(results / "submission" / "RTE.tsv")) == 2
  with pytest.raises(ValueError, match="multiple of 4.*The rest is in"):
    glue_runs(
      "other", tasks="rte", classifier_flags="--gradient_accumulation_steps=4"
    )


@pytest.mark.parametrize(
  "flags, message",
  [
    (dict(tasks="rte,sst"), "there is no 'sst'"),
    (dict(tasks="sst-2"), "glue has no folder SST-2"),
    (dict(batch_sizes="8,x"), "--batch_sizes=8,x is not a list of numbers"),
    (dict(init_checkpoint=""), "Pass --init_checkpoint, or --model"),
  ],
)
def test_glue_refuses(glue_runs, tmp_path, flags, message):
  with pytest.raises(ValueError, match=message):
    glue_runs(**flags)
  assert not (tmp_path / "results").exists()


# --- Questions ---------------------------------------------------------------


@pytest.fixture
def answer(run_program, config_file, vocab_file, init_checkpoint, tmp_path):
  def write(name, version_2=False):
    """Writes questions whose answer is the bird, if it is not a lazy one."""
    paragraphs = []
    for a, b, c in itertools.permutations(("cat", "dog", "bird"), 3):
      context = f"the {a} sat and the {b} ran and the {c} flew"
      paragraphs.append(
        {
          "context": context,
          "qas": [
            {
              "id": f"{a}{b} {question}",
              "question": question,
              "answers": []
              if "lazy" in question
              else [{"text": "bird", "answer_start": context.index("bird")}],
              **({"is_impossible": "lazy" in question} if version_2 else {}),
            }
            for question in ("it was", "it was red", "it was lazy")[
              : 3 if version_2 else 2
            ]
          ],
        }
      )
    path = tmp_path / name
    path.write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    return path

  def run(output="run", **flags):
    run_program(
      run_squad,
      **{
        **dict(
          bert_config_file=config_file,
          vocab_file=vocab_file,
          init_checkpoint=init_checkpoint,
          output_dir=tmp_path / output,
          max_seq_length=24,
          max_query_length=8,
          doc_stride=4,
          train_batch_size=6,
          num_train_epochs=100,
          learning_rate=0.001,
        ),
        **flags,
      },
    )
    return tmp_path / output

  run.write = write
  return run


def test_questions_are_answered(answer, capsys, tmp_path, monkeypatch):
  file = answer.write("v1.json")
  run = answer(
    do_train=True,
    do_predict=True,
    train_file=file,
    predict_file=file,
    eval_every_steps=100,
  )
  results = read_results(run)
  assert list(results) == ["exact_match", "f1", "global_step"]
  assert results["exact_match"] > 90
  predictions = json.loads((run / "predictions.json").read_text())
  assert predictions["catdog it was"] == "bird"
  n_best = json.loads((run / "nbest_predictions.json").read_text())
  assert list(n_best) == list(predictions)
  assert list(n_best["catdog it was"][0]) == [
    "text",
    "probability",
    "start_logit",
    "end_logit",
  ]
  assert json.loads((run / "train.report.json").read_text()) == {
    "questions": 12,
    "windows": 12,
  }
  # Without answers there are predictions, and no scores.
  content = json.loads(file.read_text())
  for paragraph in content["data"][0]["paragraphs"]:
    for question in paragraph["qas"]:
      del question["answers"]
  file.write_text(json.dumps(content))
  (run / "eval_results.txt").unlink()
  before = (run / "predictions.json").read_bytes()
  answer(do_predict=True, predict_file=file, init_checkpoint="")
  assert (run / "predictions.json").read_bytes() == before
  assert not (run / "eval_results.txt").exists()
  # From the command line.
  context = tmp_path / "context.txt"
  context.write_text("the dog sat and the\nbird ran and the cat flew")
  capsys.readouterr()
  before = sorted(tmp_path.rglob("*"))
  with locks.Lock.of_folder(str(tmp_path / "run"), "x"):  # as a training would
    answer(context_file=context, question="it was")
  assert sorted(tmp_path.rglob("*")) == before
  printed = capsys.readouterr().out.splitlines()
  assert printed[1] == "it was"
  assert printed[2].endswith(
    "%  the dog sat and the [bird] ran and the cat flew"
  )
  monkeypatch.setattr(sys, "stdin", io.StringIO("it was red\n\nit was\n"))
  answer(context_file=context)
  printed = capsys.readouterr().out.splitlines()
  assert [line for line in printed if line.startswith("it")] == [
    "it was red",
    "it was",
  ]


def test_questions_without_answer(answer):
  file = answer.write("v2.json", version_2=True)
  run = answer(
    do_train=True,
    do_predict=True,
    train_file=file,
    predict_file=file,
    version_2_with_negative=True,
    num_train_epochs=200,
    learning_rate=0.002,
  )
  results = read_results(run)
  assert results["NoAns_exact"] == 100 and results["best_f1"] > 90
  assert results["best_f1"] >= results["f1"] and "best_f1_thresh" in results
  odds = json.loads((run / "null_odds.json").read_text())
  predictions = json.loads((run / "predictions.json").read_text())
  assert {i for i, odd in odds.items() if odd > 0} == {
    i for i, text in predictions.items() if not text
  }


@pytest.mark.parametrize(
  "flags, message",
  [
    (dict(), "Nothing to do"),
    (dict(do_train=True), "--do_train needs --train_file"),
    (
      dict(do_predict=True, predict_file="v1.json"),
      "was not trained to answer",
    ),
    (dict(do_train=True, train_file="/nowhere"), "/nowhere does not exist"),
    (
      dict(do_train=True, train_file="v2.json"),
      "6 questions have no answer, as "
      "in SQuAD 2.0. Pass --version_2_with_negative",
    ),
    (
      dict(do_train=True, train_file="v1.json", max_query_length=21),
      "max_seq_length=24 leaves no room beside --max_query_length=21",
    ),
    (dict(question="who?"), "--question=who.* belongs to --context_file"),
    (dict(null_score_diff_threshold=1), "belongs to --version_2_with_negative"),
    (
      dict(do_train=True, train_file="v1.json", eval_every_steps=2),
      "pass --do_predict as well",
    ),
  ],
)
def test_questions_refused(answer, tmp_path, monkeypatch, flags, message):
  answer.write("v1.json")
  answer.write("v2.json", version_2=True)
  monkeypatch.chdir(tmp_path)
  with pytest.raises(ValueError, match=message):
    answer(**flags)
  assert not list(tmp_path.glob("run/*"))


# --- Words and choices -------------------------------------------------------


@pytest.fixture
def tag(run_program, config_file, vocab_file, init_checkpoint, tmp_path):
  data_dir = tmp_path / "tags"
  data_dir.mkdir()
  rows = []
  for noun, kind in [("cat", "pet"), ("dog", "pet"), ("bird", "wild")]:
    for color in ("red", "blue"):
      rows += [
        f"the O\n{color} B-{kind}\n{noun} I-{kind}\nsat O\n",
        f"it O\nsat O\non O\nthe O\n{noun} B-{kind}\n",
      ]
  for split in ("train", "dev", "test"):
    (data_dir / f"{split}.txt").write_text("\n".join(rows))

  def run(output="run", **flags):
    run_program(
      run_ner,
      **{
        **dict(
          data_dir=data_dir,
          bert_config_file=config_file,
          vocab_file=vocab_file,
          init_checkpoint=init_checkpoint,
          output_dir=tmp_path / output,
          do_lower_case=True,
          max_seq_length=16,
          train_batch_size=4,
          num_train_epochs=40,
          learning_rate=0.001,
        ),
        **flags,
      },
    )
    return tmp_path / output

  run.data_dir = data_dir
  return run


def test_words_are_tagged(tag):
  run = tag(do_train=True, do_eval=True, do_predict=True, eval_every_steps=20)
  results = read_results(run)
  assert results["eval_f1"] == results["eval_pet_recall"] == 1.0
  assert results["eval_accuracy"] == 1.0
  test_file = (tag.data_dir / "test.txt").read_text().splitlines()
  predictions = (run / "test_predictions.txt").read_text().splitlines()
  for line, predicted in zip(test_file, predictions):
    fields = predicted.split()
    assert fields[:2] == line.split() and (not line or fields[1] == fields[2])
  first = json.loads(
    (run / "test_predictions.jsonl").read_text().split("\n")[0]
  )
  assert first["entities"] == [
    {"type": "pet", "start": 4, "end": 11, "text": "red cat"}
  ]
  # Without tags, in windows, and with the weights that were exported.
  (tag.data_dir / "test.txt").write_text(
    "\n".join(line.split(" ")[0] for line in test_file) + "\n"
  )
  other = tag(
    "other",
    do_predict=True,
    document_context=True,
    init_checkpoint=run / "export" / "bert_model.ckpt",
  )
  lines = (other / "test_predictions.txt").read_text().splitlines()
  words = [line for line in test_file if line]
  assert [line.split()[0] for line in lines if line] == [
    line.split()[0] for line in words
  ]
  tags = [line.split()[1] for line in lines if line]
  assert np.mean([a == b.split()[1] for a, b in zip(tags, words)]) > 0.8
  assert not (other / "test_scores.txt").exists()


@pytest.mark.parametrize(
  "flags, message",
  [
    (dict(), "Nothing to do"),
    (dict(do_train=True, do_lower_case=False), "has no capitals, so most"),
    (dict(do_train=True, train_file="no.txt"), "no.txt does not exist"),
    (dict(do_train=True, tag_column=3), "no tag in column 3"),
    (dict(do_predict=True), "no classifier.json of a trained tagger"),
  ],
)
def test_tagging_refuses(tag, tmp_path, flags, message):
  with pytest.raises(ValueError, match=message):
    tag(**flags)
  assert not list(tmp_path.glob("run/*"))


def test_tags_that_were_not_trained_are_refused(tag):
  tag(do_train=True, num_train_epochs=1)
  dev = tag.data_dir / "dev.txt"
  dev.write_text(dev.read_text().replace("B-wild", "B-tame", 1))
  with pytest.raises(
    ValueError,
    match="dev.txt, line .*: the tag 'B-tame' is "
    "none of those trained with: B-pet",
  ):
    tag(do_eval=True)


@pytest.fixture
def choose(run_program, config_file, vocab_file, init_checkpoint, tmp_path):
  def run(output="run", **flags):
    run_program(
      run_swag,
      **{
        **dict(
          data_dir=tmp_path,
          bert_config_file=config_file,
          vocab_file=vocab_file,
          init_checkpoint=init_checkpoint,
          output_dir=tmp_path / output,
          max_seq_length=16,
          train_batch_size=4,
          num_train_epochs=20,
          learning_rate=0.001,
        ),
        **flags,
      },
    )
    return tmp_path / output

  return run


def test_choices_follow_what_was_learnt_in_any_order(choose, tmp_path):
  rng = random.Random(1)
  header = (
    "video-id,fold-ind,startphrase,sent1,sent2,gold-source,ending0,"
    "ending1,ending2,ending3,label\n"
  )
  rows = []
  for _ in range(80):
    # What is good follows.
    endings = [
      f"{word} {rng.choice(['cat', 'dog', 'bird'])}"
      for word in ("good", "bad", "lazy", "quick")
    ]
    rng.shuffle(endings)
    label = [i for i, text in enumerate(endings) if "good" in text][0]
    rows.append(("the dog ran", "it was a", endings, label))

  def write(name, rows):
    (tmp_path / name).write_text(
      header
      + "".join(
        f"v,1,s,{context},{start},gold,{','.join(endings)},{label}\n"
        for context, start, endings, label in rows
      )
    )

  write("train.csv", rows[:60])
  write("val.csv", rows[60:])
  write("test.csv", rows[60:])
  run = choose(do_train=True, do_eval=True, do_predict=True)
  assert read_results(run)["eval_accuracy"] >= 0.95
  before = np.loadtxt(run / "test_results.tsv")
  order = [2, 0, 3, 1]
  write(
    "test.csv",
    [
      (context, start, [endings[i] for i in order], order.index(label))
      for context, start, endings, label in rows[60:]
    ],
  )
  for flags in (dict(), dict(pad_to_max_length=True, predict_batch_size=3)):
    choose(do_predict=True, **flags)
    np.testing.assert_allclose(
      np.loadtxt(run / "test_results.tsv"), before[:, order], atol=1e-5
    )
  # Two choices, in JSON.
  (tmp_path / "two.jsonl").write_text(
    "".join(
      json.dumps({"context": "the dog ran", "choices": choices}) + "\n"
      for choices in [
        ["it was a good cat", "it was a bad cat"],
        ["it was a lazy dog", "it was a good bird"],
      ]
    )
  )
  choose(do_predict=True, test_file="two.jsonl")
  predictions = read_table(run / "test_predictions.tsv")
  assert [row[1] for row in predictions[1:]] == ["0", "1"]


@pytest.mark.parametrize(
  "flags, message",
  [
    (dict(), "Nothing to do"),
    (dict(do_train=True), "train.csv does not exist"),
    (dict(do_predict=True, test_file="test.jsonl"), "has no classifier"),
  ],
)
def test_choosing_refuses(choose, tmp_path, flags, message):
  (tmp_path / "test.jsonl").write_text(
    '{"context": "the dog", "choices": ["ran", "sat"]}\n'
  )
  with pytest.raises(ValueError, match=message):
    choose(**flags)
  assert not list(tmp_path.glob("run/*"))


# --- Features and conversion -------------------------------------------------


def test_features_in_the_published_format(
  run_program, config_file, vocab_file, init_checkpoint, tmp_path
):
  lines = ["the cat sat ||| a dog ran", "bird", "", "the quick dog " * 9]
  (tmp_path / "in.txt").write_text("\n".join(lines) + "\n")

  def run(**flags):
    run_program(
      extract_features,
      **{
        **dict(
          input_file=tmp_path / "in.txt",
          output_file=tmp_path / "out.jsonl",
          vocab_file=vocab_file,
          bert_config_file=config_file,
          max_seq_length=16,
          init_checkpoint=init_checkpoint,
          layers="-1,0",
          batch_size=3,
        ),
        **flags,
      },
    )
    return [
      json.loads(line)
      for line in (tmp_path / "out.jsonl").read_text().splitlines()
    ]

  features = run()
  assert [item["linex_index"] for item in features] == [0, 1, 2, 3]
  assert [feature["token"] for feature in features[0]["features"]] == (
    ["[CLS]", "the", "cat", "sat", "[SEP]", "a", "dog", "ran", "[SEP]"]
  )
  assert [len(item["features"]) for item in features] == [9, 3, 2, 16]
  first = features[0]["features"][0]
  assert [layer["index"] for layer in first["layers"]] == [-1, 0]
  assert len(first["layers"][0]["values"]) == 32
  # A line's features do not depend on what shares its batch.
  alone = run(batch_size=1)
  np.testing.assert_allclose(
    [layer["values"] for layer in alone[1]["features"][1]["layers"]],
    [layer["values"] for layer in features[1]["features"][1]["layers"]],
    atol=1e-5,
  )
  with pytest.raises(ValueError, match="--layers has '7'.*from -2 to 1"):
    run(layers="-1,7")


@pytest.fixture
def extract(run_program, config_file, vocab_file, init_checkpoint, tmp_path):
  lines = [
    "the cat sat ||| a dog ran",
    "bird",
    "",
    "the quick dog " * 9,
    "a lazy dog",
    "it was good",
    "un affable",
  ]
  (tmp_path / "in.txt").write_text("\n".join(lines) + "\n")

  def run(output="out", **flags):
    run_program(
      extract_features,
      **{
        **dict(
          input_file=tmp_path / "in.txt",
          output_file=tmp_path / output,
          vocab_file=vocab_file,
          bert_config_file=config_file,
          max_seq_length=16,
          init_checkpoint=init_checkpoint,
          batch_size=2,
          **({} if "pooling" in flags else {"layers": "-1,0"}),
        ),
        **flags,
      },
    )
    return tmp_path / output

  return run


def token_values(path):
  """Returns the values of the published format, [tokens, layers, size]."""
  return [
    np.array(
      [
        [layer["values"] for layer in token["layers"]]
        for token in json.loads(line)["features"]
      ]
    )
    for line in path.read_text().splitlines()
  ]


COMBINED = {
  "separate": lambda x: x,
  "sum": lambda x: x.sum(axis=-2),
  "concat": lambda x: x.reshape(*x.shape[:-2], -1),
}
POOLED = {
  "none": lambda x: x,
  "cls": lambda x: x[0],
  "mean": lambda x: x.mean(axis=0),
  "max": lambda x: x.max(axis=0),
}


@pytest.mark.parametrize(
  "pooling, combine",
  [
    ("none", "separate"),
    ("none", "concat"),
    ("mean", "sum"),
    ("max", "sum"),
    ("cls", "separate"),
  ],
)
def test_features_are_pooled_and_combined(
  extract, monkeypatch, pooling, combine
):
  monkeypatch.setattr(extract_features, "_MOST_LINES", 3)  # several parts
  expected = [
    POOLED[pooling](COMBINED[combine](x))
    for x in token_values(extract("tokens", layers="-1,0"))
  ]
  flags = dict(pooling=pooling, combine_layers=combine, layers="-1,0")
  arrays = np.load(extract("a.npz", format="npz", **flags))
  if pooling == "none":
    offsets = arrays["offsets"]
    assert arrays["tokens"][offsets[1] : offsets[2]].tolist() == [
      "[CLS]",
      "bird",
      "[SEP]",
    ]
    rows = [
      arrays["values"][slice(*span)] for span in zip(offsets, offsets[1:])
    ]
  else:
    rows = list(arrays["values"])
  for row, wanted in zip(rows, expected, strict=True):
    np.testing.assert_allclose(row, wanted, atol=2e-6)
  records = read_records(extract("a.tfrecord", format="tfrecord", **flags))
  table = parquet.read_table(extract("a.parquet", format="parquet", **flags))
  for number, wanted in enumerate(expected):
    features = records[number].features.feature
    assert features["line"].int64_list.value == [number]
    for values, shape in [
      (features["values"].float_list.value, features["shape"].int64_list.value),
      (table["values"][number].as_py(), table["shape"][number].as_py()),
    ]:
      np.testing.assert_allclose(np.reshape(values, shape), wanted, atol=2e-6)
  lines = list(
    map(json.loads, extract("a.json", **flags).read_text().splitlines())
  )
  assert [line["linex_index"] for line in lines] == list(range(7))
  first = lines[1]
  while "features" in first or "layers" in first:
    first = (first.get("features") or first["layers"])[-1]
  np.testing.assert_allclose(
    first["values"],
    np.reshape(expected[1], -1)[-len(first["values"]) :],
    atol=2e-6,
  )


def test_the_pooled_output_is_written(extract, init_checkpoint, vocab_file):
  model = modeling.BertModel(conftest.tiny_config())
  checkpoint.restore(checkpoint.variables_by_name(model), init_checkpoint)
  ids = tokenization.FullTokenizer(vocab_file).convert_tokens_to_ids(
    ["[CLS]", "bird", "[SEP]"]
  )
  arrays = np.load(extract(format="npz", pooling="pooled"))
  np.testing.assert_allclose(
    arrays["values"][1], model([ids]).pooled_output[0], atol=1e-6
  )


def test_extraction_that_was_killed_goes_on(extract, monkeypatch, tmp_path):
  monkeypatch.setattr(extract_features, "_MOST_LINES", 2)
  whole = extract("whole").read_bytes()
  compute = extract_features.compute
  calls = []

  def interrupted(*args):
    calls.append(args)
    if len(calls) == 3:
      raise KeyboardInterrupt
    return compute(*args)

  monkeypatch.setattr(extract_features, "compute", interrupted)
  with pytest.raises(KeyboardInterrupt):
    extract()
  assert not (tmp_path / "out").exists()
  with pytest.raises(ValueError, match="other settings: max_seq_length"):
    extract(max_seq_length=12)
  assert extract().read_bytes() == whole
  assert len(calls) == 3 + 2
  assert not (tmp_path / "out.parts").exists()


@pytest.mark.parametrize(
  "flags, message",
  [
    (dict(pooling="pooled", layers="-1"), "--layers=.*does nothing with"),
    (dict(layers="-1,x"), "--layers has 'x'"),
    (dict(input_file="/nowhere/*"), "matches no file"),
  ],
)
def test_extraction_refuses(extract, tmp_path, flags, message):
  with pytest.raises(ValueError, match=message):
    extract(**flags)
  assert not list(tmp_path.glob("out*"))


def test_features_of_the_reference(golden_dir, run_program, tmp_path):
  model_dir = os.path.join(golden_dir, "uncased_L-2_H-32_A-2")
  run_program(
    extract_features,
    layers="-1,-2",
    max_seq_length=24,
    input_file=os.path.join(model_dir, "extract_features_input.txt"),
    output_file=tmp_path / "out.jsonl",
    vocab_file=os.path.join(model_dir, "vocab.txt"),
    bert_config_file=os.path.join(model_dir, "bert_config.json"),
    init_checkpoint=os.path.join(model_dir, "bert_model.ckpt"),
  )
  with open(os.path.join(model_dir, "extract_features_output.jsonl")) as reader:
    expected = [json.loads(line) for line in reader]
  actual = [
    json.loads(line)
    for line in (tmp_path / "out.jsonl").read_text().splitlines()
  ]
  assert len(actual) == len(expected)
  for ours, theirs in zip(actual, expected):
    assert ours["linex_index"] == theirs["linex_index"]
    assert [f["token"] for f in ours["features"]] == [
      f["token"] for f in theirs["features"]
    ]
    for feature, other in zip(ours["features"], theirs["features"]):
      for layer, golden in zip(feature["layers"], other["layers"], strict=True):
        assert layer["index"] == golden["index"]
        np.testing.assert_allclose(layer["values"], golden["values"], atol=1e-4)


def read_all(path):
  reader = checkpoint.open_checkpoint(str(path))
  return {name: reader.get_tensor(name) for name in reader.shapes}


def test_conversion_of_a_transformers_model(run_program, vocab_file, tmp_path):
  config = conftest.tiny_config(hidden_act="gelu_erf")
  variables = checkpoint.variables_by_name(modeling.BertModel(config, seed=3))
  source = tmp_path / "source"
  source.mkdir()
  safetensors.save_file(
    checkpoint_test.to_transformers(variables, ""),
    str(source / "model.safetensors"),
  )
  (source / "config.json").write_text(
    json.dumps({**config.to_dict(), "hidden_act": "gelu", "model_type": "bert"})
  )
  (source / "vocab.txt").write_text(pathlib.Path(vocab_file).read_text())
  run_program(convert_checkpoint, input_dir=source, output_dir=tmp_path / "out")
  assert (
    modeling.BertConfig.from_json_file(
      str(tmp_path / "out" / "bert_config.json")
    )
    == config
  )
  tensors = read_all(tmp_path / "out" / "bert_model.ckpt")
  assert set(tensors) == set(variables)
  for name, variable in variables.items():
    np.testing.assert_array_equal(tensors[name], variable)
  # And back, to the very file.
  run_program(
    convert_checkpoint, input_dir=tmp_path / "out", output_dir=tmp_path / "back"
  )
  before, after = (
    safetensors.load_file(str(folder / "model.safetensors"))
    for folder in (source, tmp_path / "back")
  )
  assert before.keys() == after.keys()
  for name in before:
    np.testing.assert_array_equal(before[name], after[name])
  fields = json.loads((tmp_path / "back" / "config.json").read_text())
  assert fields["hidden_act"] == "gelu" and fields["model_type"] == "bert"
  assert fields["architectures"] == ["BertModel"]
  with pytest.raises(
    ValueError,
    match="bert_config.json does not exist.*holds either config.json",
  ):
    run_program(
      convert_checkpoint,
      input_dir=tmp_path / "nowhere",
      output_dir=tmp_path / "out2",
    )


@pytest.mark.parametrize(
  "model, settings, architecture, head",
  [
    (
      modeling.BertForPreTraining,
      None,
      "BertForPreTraining",
      {
        "cls.predictions.bias",
        "cls.predictions.decoder.weight",
        "cls.predictions.transform.LayerNorm.weight",
        "cls.seq_relationship.weight",
      },
    ),
    (
      modeling.BertForQuestionAnswering,
      None,
      "BertForQuestionAnswering",
      {"qa_outputs.weight", "qa_outputs.bias"},
    ),
    (
      lambda config: modeling.BertForSequenceClassification(config, 3),
      ("single_label", ["x", "y", "z"]),
      "BertForSequenceClassification",
      {"classifier.weight", "classifier.bias"},
    ),
    (
      lambda config: modeling.BertForTokenClassification(config, 3),
      ("tagging", ["O", "B-x", "I-x"]),
      "BertForTokenClassification",
      {"classifier.weight", "classifier.bias"},
    ),
    (
      modeling.BertForMultipleChoice,
      ("multiple_choice", []),
      "BertForMultipleChoice",
      {"classifier.weight", "classifier.bias"},
    ),
  ],
)
def test_conversion_of_heads(
  run_program, vocab_file, tmp_path, model, settings, architecture, head
):
  config = conftest.tiny_config()
  source = tmp_path / "source"
  variables = checkpoint.variables_by_name(model(config))
  checkpoint.write(
    str(source / "bert_model.ckpt"),
    {
      **variables,
      "global_step": np.int64(3),
      "output_bias/adam_m": np.zeros(3, np.float32),
    },
  )
  (source / "bert_config.json").write_text(config.to_json_string())
  (source / "vocab.txt").write_text(pathlib.Path(vocab_file).read_text())
  if settings:
    classifier_lib.Classifier(
      settings[0], tuple(settings[1]), True, 8, "truncate"
    ).write(str(source))
  theirs, back = tmp_path / "theirs", tmp_path / "back"
  run_program(convert_checkpoint, input_dir=source, output_dir=theirs)
  fields = json.loads((theirs / "config.json").read_text())
  assert fields["architectures"] == [architecture]
  assert fields["hidden_act"] == "gelu_new"
  names = set(safetensors.load_file(str(theirs / "model.safetensors")))
  assert head <= names
  assert all(
    name.startswith(("bert.", "cls.", "classifier.", "qa_outputs."))
    for name in names
  )
  run_program(convert_checkpoint, input_dir=theirs, output_dir=back)
  tensors = read_all(back / "bert_model.ckpt")
  assert set(tensors) == set(variables)
  for name, variable in variables.items():
    np.testing.assert_array_equal(tensors[name], variable)


# --- Masked words ------------------------------------------------------------


@pytest.fixture
def masked(run_program, config_file, vocab_file, init_checkpoint, capsys):
  def run(**flags):
    capsys.readouterr()
    run_program(
      predict_masked,
      **{
        **dict(
          bert_config_file=config_file,
          vocab_file=vocab_file,
          init_checkpoint=init_checkpoint,
          max_seq_length=16,
        ),
        **flags,
      },
    )
    return capsys.readouterr().out.splitlines()

  return run


def test_masks_are_filled_and_texts_scored(
  masked, init_checkpoint, vocab_file, monkeypatch
):
  model = modeling.BertForPreTraining(conftest.tiny_config())
  checkpoint.restore(checkpoint.variables_by_name(model), init_checkpoint)
  tokenizer = tokenization.FullTokenizer(vocab_file)
  tokens = ["[CLS]", "the", "[MASK]", "sat", "[SEP]", "a", "dog", "[SEP]"]
  ids = tokenizer.convert_tokens_to_ids(tokens)
  segments = [0] * 5 + [1] * 3

  def log_probabilities(ids, positions):
    logits, _ = model(
      tf.constant([ids]),
      None,
      tf.constant([segments]),
      tf.constant([positions]),
    )
    return tf.nn.log_softmax(logits).numpy()

  expected = np.exp(log_probabilities(ids, [2])[0])
  [line] = masked(text="The [MASK] sat ||| a dog", json=True, top_k=3)
  [mask] = json.loads(line)["masks"]
  assert [choice["token"] for choice in mask] == [
    conftest.TOKENS[i] for i in np.argsort(-expected)[:3]
  ]
  np.testing.assert_allclose(
    [choice["probability"] for choice in mask],
    np.sort(expected)[::-1][:3],
    rtol=1e-5,
  )
  # One token after the other is masked.
  ids[2] = tokenizer.vocab["cat"]
  total = 0.0
  for position in (1, 2, 3, 5, 6):
    changed = list(ids)
    changed[position] = tokenizer.vocab["[MASK]"]
    total += log_probabilities(changed, [position])[0, ids[position]]
  monkeypatch.setattr(
    sys, "stdin", io.TextIOWrapper(io.BytesIO(b"the cat sat ||| a dog\n\n"))
  )
  [line] = masked(score=True, batch_size=2)
  assert line == f"{total:.3f}\t{total / 5:.3f}\tthe cat sat ||| a dog"


@pytest.mark.parametrize(
  "flags, message",
  [
    (dict(text="the cat"), "'the cat' has no .MASK."),
    (dict(text="", score=True), "'' has no tokens"),
    (dict(text="[MASK] " * 20), "has 22 tokens, more than --max_seq_length=16"),
    (
      dict(text="[MASK]", init_checkpoint=""),
      "Pass --init_checkpoint, or --model",
    ),
  ],
)
def test_masks_refused(masked, flags, message):
  with pytest.raises(ValueError, match=message):
    masked(**flags)


def test_weights_without_masked_lm_are_refused(masked, tmp_path):
  prefix = str(tmp_path / "encoder.ckpt")
  checkpoint.write(
    prefix,
    checkpoint.variables_by_name(modeling.BertModel(conftest.tiny_config())),
  )
  with pytest.raises(ValueError, match="has no cls/predictions/output_bias"):
    masked(text="[MASK]", init_checkpoint=prefix)


# --- Serving ----------------------------------------------------------------


@pytest.fixture
def serve(run_program, config_file, vocab_file, tmp_path):
  def run(weights, **flags):
    """Exports weights and returns what a server would load."""
    run_program(
      export_saved_model,
      **{
        **dict(
          bert_config_file=config_file,
          vocab_file=vocab_file,
          init_checkpoint=weights,
          export_dir=tmp_path / "served",
        ),
        **flags,
      },
    )
    newest = max((tmp_path / "served").iterdir())
    return tf.saved_model.load(str(newest))

  return run


def request(model, signature="text", **inputs):
  """Returns what a signature answers."""
  return {
    name: value.numpy()
    for name, value in model.signatures[signature](
      **{name: tf.constant(value) for name, value in inputs.items()}
    ).items()
  }


@pytest.mark.parametrize(
  "long_text", ["truncate", "head_tail", "sliding_window"]
)
def test_classifiers_are_served(classify, serve, long_text):
  rng = random.Random(1)

  def text():
    return " ".join(rng.choices(conftest.WORDS, k=rng.randrange(1, 25)))

  pairs = [(text(), text()) for _ in range(40)]
  (classify.data_dir / "test.tsv").write_text(
    "text\ttext_b\n" + "".join(f"{a}\t{b}\n" for a, b in pairs)
  )
  flags = dict(long_text=long_text, max_seq_length=12)
  run = classify(do_train=True, do_predict=True, num_train_epochs=1, **flags)
  model = serve(run / "export" / "bert_model.ckpt")
  answers = request(model, text=[a for a, _ in pairs])
  predictions = read_table(run / "test_predictions.tsv")
  np.testing.assert_allclose(
    answers["probabilities"],
    np.array([row[2:] for row in predictions[1:]], float),
    atol=1e-5,
  )
  assert [label.decode() for label in answers["label"]] == [
    row[1] for row in predictions[1:]
  ]
  assert answers["labels"][0].tolist() == [b"moving", b"still"]

  classify(do_predict=True, text_b_column="text_b", **flags)
  answers = request(
    model,
    "text_pair",
    text_a=[a for a, _ in pairs],
    text_b=[b for _, b in pairs],
  )
  np.testing.assert_allclose(
    answers["probabilities"], np.loadtxt(run / "test_results.tsv"), atol=1e-5
  )


@pytest.mark.parametrize(
  "problem_type, label, outputs",
  [
    ("multi_label", "still,moving", ["labels", "logits", "probabilities"]),
    ("regression", "1.5", ["value"]),
  ],
)
def test_other_classifiers_are_served(
  classify, serve, problem_type, label, outputs
):
  for split in ("train", "test"):
    (classify.data_dir / f"{split}.tsv").write_text(
      "text\tlabel\n" + f"the cat sat\t{label}\na dog ran\t{label}\n" * 4
    )
  run = classify(
    do_train=True,
    do_predict=True,
    num_train_epochs=1,
    problem_type=problem_type,
  )
  model = serve(run / "export" / "bert_model.ckpt")
  answers = request(model, text=["the cat sat", "a dog ran"])
  assert sorted(answers) == outputs
  np.testing.assert_allclose(
    answers[outputs[-1]], np.loadtxt(run / "test_results.tsv")[:2], atol=1e-5
  )


def test_taggers_are_served(tag, serve):
  # A sentence of several windows, and a word of very many pieces.
  words = [
    line.split()[0]
    for line in (tag.data_dir / "test.txt").read_text().split("\n")
    if line
  ] * 2 + ["cat" + "s" * 100, "sat"]
  sentences = [words, ["red", "cat"], ["unaffable"]]
  (tag.data_dir / "test.txt").write_text(
    "\n\n".join("\n".join(sentence) for sentence in sentences) + "\n"
  )
  run = tag(do_train=True, do_predict=True, num_train_epochs=2)
  model = serve(run / "export" / "bert_model.ckpt")
  texts = ["  ".join(sentence) for sentence in sentences]
  answers = request(model, text=texts)
  rows = (run / "test_predictions.txt").read_text().split("\n\n")
  for number, row in enumerate(rows[:3]):
    expected = [line.split() for line in row.split("\n") if line]
    size = len(expected)
    assert (
      [word.decode() for word in answers["words"][number, :size]]
      == [fields[0] for fields in expected]
      == [
        texts[number][start:end]
        for start, end in zip(
          answers["starts"][number, :size], answers["ends"][number]
        )
      ]
    )
    assert [tag.decode() for tag in answers["tags"][number, :size]] == [
      fields[1] for fields in expected
    ]
    np.testing.assert_allclose(
      answers["probabilities"][number, :size],
      [float(fields[2]) for fields in expected],
      atol=1e-4,
    )
    assert not any(answers["words"][number, size:])


def test_answers_are_served(answer, serve, tmp_path):
  file = answer.write("v1.json")
  run = answer(do_train=True, train_file=file, num_train_epochs=20)
  rng = random.Random(1)
  contexts = [
    " ".join(rng.choices(conftest.WORDS + ["."], k=length))
    for length in (1, 10, 40, 200)
  ]
  questions = ["what was it", "the cat " * 10]
  file.write_text(
    json.dumps(
      {
        "data": [
          {
            "paragraphs": [
              {
                "context": context,
                "qas": [
                  {"id": f"{i} {j}", "question": question}
                  for j, question in enumerate(questions)
                ],
              }
              for i, context in enumerate(contexts)
            ]
          }
        ]
      }
    )
  )
  answer(
    do_predict=True,
    predict_file=file,
    version_2_with_negative=True,
    max_seq_length=24,
  )
  model = serve(
    run / "export" / "bert_model.ckpt",
    max_seq_length=24,
    max_query_length=8,
    doc_stride=4,
  )
  n_best = json.loads((run / "nbest_predictions.json").read_text())
  odds = json.loads((run / "null_odds.json").read_text())
  pairs = list(itertools.product(contexts, questions))
  answers = request(
    model,
    question=[question for _, question in pairs],
    context=[context for context, _ in pairs],
  )
  for number, (context, _) in enumerate(pairs):
    key = list(odds)[number]
    best = next(entry for entry in n_best[key] if entry["text"])
    span = slice(answers["start"][number], answers["end"][number])
    assert context[span] == answers["answer"][number].decode() == best["text"]
    np.testing.assert_allclose(
      [
        answers["score"][number],
        answers["null_score"][number] - answers["score"][number],
      ],
      [best["start_logit"] + best["end_logit"], odds[key]],
      atol=1e-4,
    )
  nothing = request(model, question=["the cat"], context=[""])
  assert nothing["answer"] == [b""] and nothing["score"] == -1e9


def test_choices_are_served(choose, serve, tmp_path):
  rng = random.Random(1)
  rows = [
    {
      "context": " ".join(rng.choices(conftest.WORDS, k=8)),
      "choices": [
        " ".join(rng.choices(conftest.WORDS, k=size)) for size in (2, 9, 5)
      ],
      "label": i % 3,
    }
    for i in range(8)
  ]
  for split in ("train", "test"):
    (tmp_path / f"{split}.jsonl").write_text(
      "".join(json.dumps(row) + "\n" for row in rows)
    )
  run = choose(
    do_train=True,
    do_predict=True,
    train_file="train.jsonl",
    test_file="test.jsonl",
    num_train_epochs=1,
  )
  model = serve(run / "export" / "bert_model.ckpt")
  answers = request(
    model,
    context=[row["context"] for row in rows],
    choices=[row["choices"] for row in rows],
  )
  expected = np.loadtxt(run / "test_results.tsv")
  np.testing.assert_allclose(answers["probabilities"], expected, atol=1e-5)
  np.testing.assert_array_equal(answers["choice"], expected.argmax(axis=1))


# What a process does that has the folder of a model and none of our code.
_CLIENT = """
import concurrent.futures, json, sys
import numpy as np
import tensorflow as tf
folder, texts_file, output = sys.argv[1:]
model = tf.saved_model.load(folder)
texts = json.load(open(texts_file))
def ask(text):
  return model.signatures["text"](tf.constant([text]))
with concurrent.futures.ThreadPoolExecutor(32) as pool:
  answers = list(pool.map(ask, texts * 4))
with open(output, "wb") as file:
  np.savez(file, *(np.concatenate(
      [answer["pooled_output"][:, None], answer["sequence_output"]], axis=1)
      for answer in answers))
"""


def test_encoders_need_nothing_but_their_folder(
  serve, init_checkpoint, vocab_file, tmp_path
):
  serve(init_checkpoint)
  rng = random.Random(1)
  texts = [
    " ".join(rng.choices(conftest.WORDS + ["Sat,"], k=size))
    for size in range(40)
  ]
  (tmp_path / "texts.json").write_text(json.dumps(texts))
  (tmp_path / "client.py").write_text(_CLIENT)
  subprocess.run(
    [sys.executable, "-I", "client.py", "served/1", "texts.json", "out.npz"],
    cwd=tmp_path,
    check=True,
    capture_output=True,
  )
  tokenizer = tokenization.FullTokenizer(vocab_file)
  ids = tf.ragged.constant(
    [
      encoding.encode_pair(
        tokenizer.encode(text),
        None,
        40,
        *tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]"]),
      ).input_ids
      for text in texts
    ]
  )
  model = modeling.BertModel(conftest.tiny_config())
  checkpoint.restore(checkpoint.variables_by_name(model), init_checkpoint)
  output = model(ids.to_tensor(), tf.ones_like(ids).to_tensor())
  expected = np.concatenate(
    [output.pooled_output[:, tf.newaxis], output.sequence_output], axis=1
  )
  answers = np.load(tmp_path / "out.npz")
  assert len(answers) == 160
  for number in range(160):
    [answer] = answers[f"arr_{number}"]
    assert len(answer) == 1 + ids[number % 40].shape[0]
    np.testing.assert_allclose(
      answer, expected[number % 40, : len(answer)], atol=1e-5
    )


def test_encoders_can_be_trained_through_the_hub(
  serve, init_checkpoint, vocab_file, tmp_path
):
  loaded = serve(init_checkpoint)
  assert (
    pathlib.Path(loaded.vocab_file.asset_path.numpy().decode()).read_bytes()
    == pathlib.Path(vocab_file).read_bytes()
  )
  assert loaded.do_lower_case.numpy()
  ids = tf.constant([[3, 8, 9, 4, 0], [3, 12, 7, 6, 4]])
  features = dict(
    input_ids=ids,
    input_mask=tf.cast(ids > 0, tf.int32),
    segment_ids=tf.constant([[0, 0, 1, 1, 0], [0, 0, 0, 1, 1]]),
  )
  inputs = dict(
    zip(("input_word_ids", "input_mask", "input_type_ids"), features.values())
  )
  # Gradients go through the folder as they do through the model.
  model = modeling.BertModel(conftest.tiny_config())
  checkpoint.restore(checkpoint.variables_by_name(model), init_checkpoint)
  with tf.GradientTape(persistent=True) as tape:
    ours = tf.reduce_sum(model(*features.values()).pooled_output[:, :5])
    theirs = tf.reduce_sum(loaded(inputs, training=False)["default"][:, :5])
  gradients = {
    variable.name: gradient
    for variable, gradient in zip(
      loaded.trainable_variables,
      tape.gradient(theirs, loaded.trainable_variables),
    )
  }
  assert len(gradients) == len(model.trainable_variables)
  for variable, gradient in zip(
    model.trainable_variables, tape.gradient(ours, model.trainable_variables)
  ):
    np.testing.assert_allclose(gradients[variable.name], gradient, atol=1e-5)
  dropped = [loaded(inputs, training=True)["default"] for _ in range(2)]
  assert np.abs(dropped[0] - dropped[1]).max() > 1e-3

  layer = hub.KerasLayer(str(tmp_path / "served" / "1"), trainable=True)
  before = [variable.numpy() for variable in layer.trainable_variables]
  keras_inputs = {
    name: tf_keras.Input([None], dtype=tf.int32, name=name) for name in inputs
  }
  keras_model = tf_keras.Model(
    keras_inputs, tf_keras.layers.Dense(2)(layer(keras_inputs)["pooled_output"])
  )
  keras_model.compile(
    "sgd", tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
  )
  keras_model.fit(inputs, tf.constant([0, 1]), verbose=0)
  assert all(
    np.any(old != new.numpy())
    for old, new in zip(before, layer.trainable_variables)
  )


def test_versions_are_numbered_and_have_requests_to_warm_up_with(
  serve, init_checkpoint, tmp_path
):
  (tmp_path / "served" / "1").mkdir(parents=True)
  model = serve(init_checkpoint, precision="bfloat16")
  with pytest.raises(ValueError, match="--version=2 is in .*served already"):
    serve(init_checkpoint, version=2)
  with pytest.raises(
    tf.errors.InvalidArgumentError, match="The model reads 40 tokens at most"
  ):
    ids = tf.ones([1, 41], tf.int32)
    request(
      model, "serving_default", input_ids=ids, input_mask=ids, segment_ids=ids
    )
  assert sorted(os.listdir(tmp_path / "served")) == ["1", "2"]
  [path] = (tmp_path / "served" / "2" / "assets.extra").iterdir()
  assert path.name == "tf_serving_warmup_requests"
  exact = modeling.BertModel(conftest.tiny_config())
  checkpoint.restore(checkpoint.variables_by_name(exact), init_checkpoint)
  signatures = []
  for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
    log = prediction_log_pb2.PredictionLog.FromString(record)
    asked = log.predict_log.request
    assert asked.model_spec.name == "served"
    signatures.append(asked.model_spec.signature_name)
    inputs = {
      name: tf.make_ndarray(value) for name, value in asked.inputs.items()
    }
    answers = request(model, signatures[-1], **inputs)
    features = {**inputs, **answers}
    expected = exact(
      *(features[name] for name in ("input_ids", "input_mask", "segment_ids"))
    ).pooled_output
    np.testing.assert_allclose(answers["pooled_output"], expected, atol=0.05)
  assert sorted(signatures) == ["serving_default", "text", "text_pair"]


@pytest.mark.parametrize(
  "flags, message",
  [
    (dict(head="single_label"), "has no classifier, only what one is"),
    (dict(head="span"), "--max_query_length=64 leaves no room for a text in"),
    (
      dict(head="span", max_query_length=8),
      "lacks 2 of the .*such as cls/squad/output_bias",
    ),
    (dict(labels="a,b"), "--labels=.* belongs to a head with labels"),
    (dict(doc_stride=64), "--doc_stride=64 belongs to a span head"),
    (dict(max_seq_length=41), "--max_seq_length=41 must be from 3 to 40"),
    (dict(init_checkpoint=""), "Pass --init_checkpoint, or --model"),
  ],
)
def test_serving_refuses(serve, init_checkpoint, tmp_path, flags, message):
  with pytest.raises(ValueError, match=message):
    serve(flags.pop("init_checkpoint", init_checkpoint), **flags)
  assert not (tmp_path / "served").exists()


def test_weights_of_an_unknown_classifier_are_refused(classify, serve):
  run = classify(do_train=True, num_train_epochs=1)
  (run / "export" / "classifier.json").unlink()
  weights = run / "export" / "bert_model.ckpt"
  with pytest.raises(
    ValueError,
    match="has a classifier, but no classifier.js"
    "on is beside it. Say what it is with --head",
  ):
    serve(weights)
  with pytest.raises(ValueError, match="a classifier of 2 labels.*are 1: yes"):
    serve(weights, head="single_label", labels="yes")
  model = serve(weights, head="single_label", labels="no,yes")
  answers = request(model, text=["the cat"])
  assert answers["label"] == [[b"no", b"yes"][answers["logits"].argmax()]]


# --- Encoders of others ------------------------------------------------------


@pytest.fixture
def classify_with_hub(classify, run_program, tmp_path):
  def run(handle, output="hub", **flags):
    run_program(
      run_classifier_with_tfhub,
      **{
        **dict(
          task_name="Custom",
          data_dir=classify.data_dir,
          bert_hub_module_handle=handle,
          output_dir=tmp_path / output,
          max_seq_length=16,
          train_batch_size=4,
          num_train_epochs=3,
          learning_rate=0.001,
        ),
        **flags,
      },
    )
    return tmp_path / output

  return run


@pytest.fixture(params=["tensorflow_1", "tensorflow_2"])
def hub_folder(request, vocab_file, tmp_path):
  write = (
    hub_encoder_test.write_tensorflow_1_module
    if request.param == "tensorflow_1"
    else hub_encoder_test.write_tensorflow_2_encoder
  )
  return write(str(tmp_path / "encoder"), vocab_file)


def test_encoders_from_the_hub_are_trained(classify_with_hub, hub_folder):
  run = classify_with_hub(
    hub_folder, do_train=True, do_eval=True, do_predict=True
  )
  assert read_results(run)["global_step"] == 27
  before = (run / "test_results.tsv").read_bytes()
  trained = checkpoint.open_checkpoint(str(run))
  assert {"output_weights", "output_bias"} <= set(trained.shapes)
  for variable in hub_encoder.load(hub_folder, "").encoder_variables:
    name = variable.name.removesuffix(":0")
    assert np.any(trained.get_tensor(name) != variable.numpy()), name
  # Another process, that has the same encoder, finds what was trained.
  classify_with_hub(hub_folder, do_predict=True)
  assert (run / "test_results.tsv").read_bytes() == before


@pytest.mark.parametrize(
  "flags, message",
  [
    (dict(layerwise_lr_decay=0.9), "takes a model whose layers are known"),
    (dict(vocab_file="x.txt"), "the encoder has a vocabulary"),
    (dict(do_lower_case=False), "the encoder says True. Leave the flag out"),
    (dict(bert_hub_module_handle="/nowhere"), "there is no such folder"),
  ],
)
def test_classifying_with_the_hub_refuses(
  classify_with_hub, vocab_file, tmp_path, flags, message
):
  folder = hub_encoder_test.write_tensorflow_1_module(
    str(tmp_path / "encoder"), vocab_file
  )
  with pytest.raises(ValueError, match=message):
    classify_with_hub(folder, do_train=True, **flags)


def test_an_encoder_without_vocabulary_needs_one(
  classify_with_hub, vocab_file, tmp_path
):
  folder = hub_encoder_test.write_tensorflow_1_module(
    str(tmp_path / "encoder"), vocab_file, with_vocabulary=False
  )
  with pytest.raises(ValueError, match="comes without a vocabulary"):
    classify_with_hub(folder, do_train=True)
  run = classify_with_hub(
    folder,
    do_train=True,
    do_eval=True,
    num_train_epochs=1,
    vocab_file=vocab_file,
  )
  assert read_results(run)["global_step"] == 9


# --- Pictures ----------------------------------------------------------------


def test_loss_curves_show_training_and_evaluations(run_program, tmp_path):
  run = tmp_path / "run"
  run.mkdir()
  (run / "training_log.jsonl").write_text(
    "".join(
      json.dumps(record) + "\n"
      for record in [
        {"step": 10, "loss": 3.0},
        {"step": 20, "loss": None},
        {"step": 20, "evaluation": {"loss": 2.5}},
        {"step": 30, "loss": 2.0},
      ]
    )
    + '{"step": 40, "lo'
  )  # killed while writing
  assert plot_training.read_log(str(run), "loss") == (
    [(10, 3.0), (30, 2.0)],
    [(20, 2.5)],
  )
  for together in (False, True):
    run_program(
      plot_training,
      runs=f"{run},{run}",
      together=together,
      output_file=tmp_path / "loss.png",
    )
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
  with pytest.raises(ValueError, match="training_log.jsonl does not exist"):
    run_program(plot_training, runs=tmp_path, output_file=tmp_path / "x.png")
  with pytest.raises(ValueError, match="No line of .* has --loss=span_loss"):
    run_program(
      plot_training, runs=run, loss="span_loss", output_file=tmp_path / "x.png"
    )


# --- Several processes, and their deaths -------------------------------------


@pytest.fixture
def machines(create, config_file, tmp_path):
  """Starts `run_pretraining.py` on so many machines, which are all this one."""
  records = create()

  def start(output, num_machines, **flags):
    flags = {
      **dict(
        input_file=records,
        bert_config_file=config_file,
        output_dir=tmp_path / output,
        do_train=True,
        max_seq_length=24,
        max_predictions_per_seq=4,
        num_train_steps=20,
        num_warmup_steps=2,
        train_batch_size=8,
        learning_rate=0.001,
        iterations_per_loop=1,
      ),
      **flags,
    }
    addresses = []
    for _ in range(num_machines):
      with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        addresses.append(f"127.0.0.1:{probe.getsockname()[1]}")
    processes = []
    for index in range(num_machines):
      environment = dict(os.environ)
      if num_machines > 1:
        environment["TF_CONFIG"] = json.dumps(
          {
            "cluster": {"worker": addresses},
            "task": {"type": "worker", "index": index},
          }
        )
      processes.append(
        subprocess.Popen(
          [
            sys.executable,
            "run_pretraining.py",
            *(f"--{name}={value}" for name, value in flags.items()),
          ],
          cwd=ROOT,
          env=environment,
          text=True,
          stderr=subprocess.PIPE,
        )
      )
    return processes

  def finish(processes):
    return [
      (process.communicate()[1], process.returncode)[1] for process in processes
    ]

  return types.SimpleNamespace(start=start, finish=finish)


def losses(run):
  return {
    row["step"]: row["loss"]
    for row in map(
      json.loads, (run / "training_log.jsonl").read_text().splitlines()
    )
  }


def weights(run):
  reader = tf.train.load_checkpoint(str(run))
  return {
    name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()
  }


@pytest.fixture
def no_dropout(config_file):
  pathlib.Path(config_file).write_text(
    conftest.tiny_config(
      hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    ).to_json_string()
  )


def test_two_machines_train_like_one(no_dropout, machines, tmp_path):
  # --deterministic cannot be taken back in a process, so it is tried here.
  runs = [
    machines.start("one", 1, deterministic=True),
    machines.start("two", 2),
  ]
  assert [machines.finish(run) for run in runs] == [[0], [0, 0]]
  one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
  assert list(one) == list(two) == list(range(1, 21))
  np.testing.assert_allclose(list(two.values()), list(one.values()), atol=1e-5)


# A model and a rhythm of saving in which a good part of the time is spent on
# checkpoints.
@pytest.fixture
def busy(tmp_path):
  path = tmp_path / "busy.json"
  path.write_text(
    modeling.BertConfig.from_size("tiny", vocab_size=20000).to_json_string()
  )
  return dict(
    bert_config_file=path,
    num_train_steps=60,
    iterations_per_loop=7,
    save_checkpoints_steps=4,
    train_batch_size=16,
  )


@pytest.mark.large
def test_killed_ten_times_ends_with_the_same_weights(machines, busy, tmp_path):
  rng = random.Random(1)
  started = time.monotonic()
  assert machines.finish(machines.start("whole", 1, **busy)) == [0]
  whole_seconds = time.monotonic() - started
  num_kills = num_resumed = 0
  while num_kills < 10:
    before = checkpoint.latest(str(tmp_path / "killed"))
    (process,) = machines.start("killed", 1, **busy)
    try:
      _, error = process.communicate(
        timeout=whole_seconds * rng.uniform(0.3, 1.0)
      )
      assert process.returncode == 0, error
    except subprocess.TimeoutExpired:
      process.kill()
      process.communicate()
      num_kills += 1
      num_resumed += before is not None
    if checkpoint.latest(str(tmp_path / "killed")) and process.returncode == 0:
      if num_kills < 10:  # it was faster than its killer; begin another
        for name, value in weights(tmp_path / "whole").items():
          np.testing.assert_array_equal(
            weights(tmp_path / "killed")[name], value, err_msg=name
          )
        shutil.rmtree(tmp_path / "killed")
  assert num_resumed
  assert machines.finish(machines.start("killed", 1, **busy)) == [0]
  expected = weights(tmp_path / "whole")
  for name, value in weights(tmp_path / "killed").items():
    np.testing.assert_array_equal(value, expected[name], err_msg=name)
  assert not list((tmp_path / "killed").glob("*temp*"))


@pytest.mark.large
def test_one_of_two_machines_killed_loses_and_doubles_nothing(
  machines, busy, tmp_path
):
  assert machines.finish(machines.start("whole", 2, **busy)) == [0, 0]
  for victim in (0, 1):
    processes = machines.start("killed", 2, **busy)
    wait_for_checkpoint(tmp_path / "killed", processes)
    processes[victim].kill()
    codes = machines.finish(processes)
    assert codes[victim] == -signal.SIGKILL and codes[1 - victim] not in (
      0,
      -signal.SIGKILL,
    )
  assert machines.finish(machines.start("killed", 2, **busy)) == [0, 0]
  expected = weights(tmp_path / "whole")
  for name, value in weights(tmp_path / "killed").items():
    np.testing.assert_allclose(value, expected[name], atol=1e-6, err_msg=name)


@pytest.mark.large
@pytest.mark.parametrize("victims", [[1], [0, 1]])
def test_sigterm_saves_and_ends_all_machines(machines, busy, tmp_path, victims):
  processes = machines.start("run", 2, **busy)
  wait_for_checkpoint(tmp_path / "run", processes)
  for victim in victims:
    processes[victim].terminate()
  assert machines.finish(processes) == [os.EX_TEMPFAIL] * 2
  assert machines.finish(machines.start("run", 2, **busy)) == [0, 0]
  assert list(losses(tmp_path / "run"))[-1] == 60


def wait_for_checkpoint(run, processes):
  """Returns when there is a newer one than at the time of the call."""
  before = checkpoint.latest(str(run))
  while checkpoint.latest(str(run)) == before:
    assert all(process.poll() is None for process in processes)


# --- From the shell ----------------------------------------------------------


@pytest.fixture
def refused(tmp_path):
  """Runs a program that has to fail, and returns the last line it says."""

  def run(program, **flags):
    result = subprocess.run(
      [
        sys.executable,
        program,
        *(f"--{name}={value}" for name, value in flags.items()),
      ],
      cwd=ROOT,
      text=True,
      capture_output=True,
      check=False,
    )
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    last_line = result.stderr.splitlines()[-1]
    assert last_line.startswith(f"{program}: ")
    return last_line

  return run


def test_errors_end_with_one_line_and_status_1(
  refused, create, config_file, vocab_file, init_checkpoint, tmp_path
):
  small = tmp_path / "small.json"
  small.write_text(conftest.tiny_config(vocab_size=12).to_json_string())
  pretraining = dict(
    program="run_pretraining.py",
    do_train=True,
    input_file=create(),
    output_dir=tmp_path / "run",
    max_predictions_per_seq=4,
  )
  assert "input_ids has 24" in refused(
    **pretraining, bert_config_file=config_file, max_seq_length=32
  )
  # Found while training, by a check inside the input pipeline.
  assert "x.tfrecord, record 1: input_ids has the value" in refused(
    **pretraining, bert_config_file=small, max_seq_length=24
  )
  # Found while predicting, by the reader of the text.
  (tmp_path / "in.txt").write_bytes(b"good\nb\xe9d\n")
  assert "in.txt, line 2: not UTF-8" in refused(
    "extract_features.py",
    input_file=tmp_path / "in.txt",
    output_file=tmp_path / "out.jsonl",
    vocab_file=vocab_file,
    bert_config_file=config_file,
    init_checkpoint=init_checkpoint,
    max_seq_length=16,
    layers="-1",
  )
  assert not list(tmp_path.glob("out.jsonl*"))
