"""Tests of run_pretraining.py."""

import collections
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

import builders
import numpy as np
import pytest
import tensorflow as tf

from data import checkpoint_folder
from data import locks
from data import record_files
from data import serialization
from errors import UserError
import modeling
from pretraining import input_pipeline
from pretraining import masking
from pretraining import record_formats
import tokenization
from training import time_budget


def test_pretraining_on_packed_records(create, pretrain):
  records = create(
    pack_sequences=True,
    max_pairs_per_record=3,
    short_seq_prob=1.0,
    max_seq_length=40,
  )
  features = [
    record.features.feature for record in builders.read_records(records)
  ]
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


@pytest.mark.large
def test_predicted_words_are_recorded_at_checkpoints(
  records, pretrain, vocab_file
):
  run = pretrain(records, vocab_file=vocab_file, save_checkpoints_steps=2)
  pretrain(
    records, vocab_file=vocab_file, save_checkpoints_steps=2, num_train_steps=6
  )
  content = json.loads((run / "report_masks.json").read_text())
  assert [entry["step"] for entry in content["steps"]] == [2, 4, 6]
  first, *_, last = [entry["predictions"] for entry in content["steps"]]
  assert first != last  # those of other weights
  assert "Masked words</h2>" in (run / "report.html").read_text()


def test_masked_lm_alone_does_not_change_the_other_head(
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


def test_masks_depend_on_the_position_in_the_data(create, vocab_file):
  record_format = record_formats.PretrainingFormat(24, 4)
  masker = masking.Masker(
    masking.Vocabulary.from_tokens(tokenization.load_vocab(vocab_file)),
    masking.MaskingSettings(4, 0.15, do_whole_word_mask=True),
  )
  files = [create(dupe_factor=1)]
  num_records = len(builders.read_records(files[0]))

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
        masker.redraw_masks,
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


def test_pretraining_with_dynamic_masking(records, pretrain, vocab_file):
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
  records, pretrain, flags, message
):
  with pytest.raises(ValueError, match=message):
    pretrain(records, **flags)


def test_pretraining_refuses_records_of_two_kinds(create, pretrain):
  files = [create("a"), create("b", pack_sequences=True)]
  with pytest.raises(ValueError, match="records of different kinds"):
    pretrain(",".join(files))


def test_pretraining_runs_evaluates_and_resumes(
  records, pretrain, init_checkpoint
):
  run = pretrain(records, do_eval=True, init_checkpoint=init_checkpoint)
  builders.assert_has_report(run)
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


def test_another_dropout_in_the_middle_of_a_run_is_named(
  records, pretrain, caplog
):
  pretrain(records, dropout=0.0, num_train_steps=2)
  pretrain(records, dropout=0.5, num_train_steps=4)
  warnings = [
    r.getMessage() for r in caplog.records if r.levelname == "WARNING"
  ]
  assert any("--dropout was 0.0 so far" in text for text in warnings)


def test_pretraining_in_bfloat16(records, pretrain):
  run = pretrain(records, precision="bfloat16")
  reader = tf.train.load_checkpoint(str(run))
  assert reader.get_tensor("bert/pooler/dense/kernel").dtype == np.float32


@pytest.mark.large
def test_pretraining_with_every_option_of_the_engine(records, pretrain):
  run = pretrain(
    records,
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
  records, pretrain, flags, message
):
  with pytest.raises(ValueError, match=message):
    pretrain(records, **flags)


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
    (dict(train_hours=1), "train_hours=1 and --num_train_steps=4 both"),
    (
      dict(altered_copies_share=1, dynamic_masking=True),
      "copies_share=1 must be below 1",
    ),
    (dict(altered_copies_share=0.5), "pass --dynamic_masking"),
    (
      dict(altered_copies_share=0.5, dynamic_masking=True),
      "records of 32 tokens or more, but --max_seq_length=24",
    ),
    (
      dict(
        altered_copies_share=0.5,
        dynamic_masking=True,
        max_seq_length=40,
        train_batch_size=1,
      ),
      "train_batch_size=1 must be 2 or more",
    ),
    (dict(long_share=0.2), "long_share.*--long_input_file"),
    (
      dict(long_input_file="x.tfrecord", long_seq_length=65),
      "long_seq_length=65 .*max_position_embeddings",
    ),
    (
      dict(long_input_file="x.tfrecord", long_seq_length=24, long_share=1),
      "long_share=1 must be above 0",
    ),
  ],
)
def test_pretraining_refuses(records, pretrain, tmp_path, flags, message):
  with pytest.raises(ValueError, match=message):
    pretrain(flags.pop("input_file", records), **flags)
  assert not list(tmp_path.glob("run/*"))


def test_pretraining_refuses_files_of_another_kind(pretrain, tmp_path):
  path = tmp_path / "x"
  path.write_text("no records at all, just some text\n")
  with pytest.raises(ValueError, match="not a TFRecord file"):
    pretrain(path)
  record_files.write_records(
    str(path), [serialization.serialize_example({"input_ids": [1]})]
  )
  with pytest.raises(ValueError, match="input_mask is missing|has 1 values"):
    pretrain(path)


def test_pretraining_refuses_ids_outside_the_vocabulary(
  records, pretrain, vocab_file, tmp_path
):
  config = tmp_path / "small.json"
  config.write_text(builders.tiny_config(vocab_size=12).to_json_string())
  # A vocabulary that is smaller than that of the model is not the one of the
  # records either.
  tokens = pathlib.Path(vocab_file).read_text().splitlines()
  vocabulary = tmp_path / "small.txt"
  vocabulary.write_text("\n".join(tokens[:12]))
  for flags in (
    dict(bert_config_file=config),
    dict(vocab_file=vocabulary, dynamic_masking=True),
  ):
    with pytest.raises(
      UserError,
      match=r"x.tfrecord, record \d+: .*_ids has the "
      "value .*below 12, the size of the vocabulary.*Nothing "
      "was saved",
    ):
      pretrain(records, **flags)


def test_a_damaged_record_is_named_and_can_be_skipped(records, pretrain):
  num_records = len(builders.read_records(records))
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
  assert checkpoint_folder.find_latest(str(run)).endswith("ckpt-4")
  [copy] = (run / "undamaged").glob("input_file/*/x.tfrecord")
  assert len(builders.read_records(str(copy))) == num_records - 1
  [record, *_] = builders.read_records(str(copy))
  record.features.feature["input_ids"].int64_list.value[0] = 10**6
  record_files.write_records(str(records), [record.SerializeToString()])
  with pytest.raises(UserError, match="x.tfrecord has no undamaged record"):
    pretrain(records, "other_run", skip_damaged_records=True)


def assert_ends_the_same_if_killed(pretrain, records, whole, flags):
  """Resumes a run of 6 steps at step 4, and compares the last weights.

  Args:
    pretrain: The fixture.
    records: Path of the records.
    whole: Folder of the undisturbed run, with all checkpoints.
    flags: Flags of the run.
  """
  resumed = whole.with_name("killed")
  resumed.mkdir()
  for file in whole.glob("model.ckpt-4.*"):
    shutil.copy(file, resumed)
  (resumed / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-4"\n')
  pretrain(records, resumed.name, **flags)
  expected = builders.read_tensors(whole / "model.ckpt-6")
  actual = builders.read_tensors(resumed / "model.ckpt-6")
  assert actual.keys() == expected.keys()
  for name, tensor in expected.items():
    np.testing.assert_array_equal(actual[name], tensor, name)


def test_the_end_of_a_run_reads_longer_records(create, records, pretrain):
  long_records = create(
    "long.tfrecord", max_seq_length=40, max_predictions_per_seq=6
  )
  flags = dict(
    long_input_file=long_records,
    long_share=0.5,
    long_seq_length=40,
    long_max_predictions_per_seq=6,
    long_train_batch_size=4,
    num_train_steps=6,
    save_checkpoints_steps=1,
    keep_checkpoint_max=0,
  )
  whole = pretrain(records, "whole", **flags)
  expected = builders.read_tensors(whole / "model.ckpt-6")
  # The longer records are read from their beginning, in epoch 0.
  state = json.loads((whole / "model.ckpt-4.json").read_text())
  assert state["input_first_step"] == 3
  assert state["input_position"][1] == 0
  assert_ends_the_same_if_killed(pretrain, records, whole, flags)
  # The longer records decide the result of the second part: positions beyond
  # the first length are trained.
  name = "bert/embeddings/position_embeddings"
  before = builders.read_tensors(whole / "model.ckpt-3")[name]
  is_trained = np.any(expected[name] != before, axis=1)
  assert is_trained[24:40].any()


def test_the_end_of_a_run_trains_on_altered_copies(
  create, pretrain, vocab_file
):
  records = create(
    "text.tfrecord", max_seq_length=40, next_sentence_prediction=False
  )
  flags = dict(
    max_seq_length=40,
    altered_copies_share=0.5,
    dynamic_masking=True,
    vocab_file=vocab_file,
    num_train_steps=6,
    save_checkpoints_steps=1,
    keep_checkpoint_max=0,
    do_eval=True,
  )
  whole = pretrain(records, "whole", **flags)
  # The pooler is part of the head that tells copies apart: nothing else
  # trains it.
  name = "bert/pooler/dense/kernel"
  kernels = [
    builders.read_tensors(whole / f"model.ckpt-{step}")[name]
    for step in (1, 3, 6)
  ]
  np.testing.assert_array_equal(kernels[0], kernels[1])
  assert (kernels[1] != kernels[2]).any()
  assert_ends_the_same_if_killed(pretrain, records, whole, flags)
  # The evaluation is about running text.
  assert "next_sentence" not in (whole / "eval_results.txt").read_text()


def test_altered_copies_are_made_of_running_text_for_two_segments(
  create, pretrain, vocab_file, tmp_path
):
  records = create("pairs.tfrecord", max_seq_length=40)
  flags = dict(
    max_seq_length=40,
    altered_copies_share=0.5,
    dynamic_masking=True,
    vocab_file=vocab_file,
  )
  with pytest.raises(UserError, match="Make them with --nonext_sentence"):
    pretrain(records, **flags)
  config = tmp_path / "one_segment.json"
  config.write_text(builders.tiny_config(type_vocab_size=1).to_json_string())
  with pytest.raises(UserError, match="a type_vocab_size of 1"):
    pretrain(records, bert_config_file=config, **flags)


@pytest.mark.large
def test_a_time_is_the_number_of_steps_that_fits(
  records, pretrain, monkeypatch
):
  planned = []

  def plan(train_hours, seconds_used, parts, num_warmup_steps):
    planned.append((seconds_used, parts, num_warmup_steps))
    if len(planned) > 1:
      raise UserError("There is no time.")
    return time_budget.TimeBudget(train_hours, 4, 2)

  monkeypatch.setattr(time_budget, "plan", plan)
  not_given = dict(num_train_steps=None, num_warmup_steps=None)
  flags = dict(train_hours=1e-6, **not_given)
  run = pretrain(records, "timed", **flags)
  [(seconds_used, [(times, share)], num_warmup_steps)] = planned
  assert seconds_used > 0 and times.seconds_per_step > 0
  assert share == 1.0 and num_warmup_steps is None
  # The measured steps leave no trace: the logged flags reproduce the run.
  same = pretrain(records, "counted", num_train_steps=4, num_warmup_steps=2)
  for name in ("model.ckpt-4.index", "model.ckpt-4.data-00000-of-00001"):
    assert (run / name).read_bytes() == (same / name).read_bytes()
  # A run that resumes keeps the number, another time is refused.
  pretrain(records, "timed", **flags)
  assert len(planned) == 1
  with pytest.raises(UserError, match="There is no time"):
    pretrain(records, "timed", restart=True, **{**flags, "num_warmup_steps": 1})
  assert planned[1][2] == 1
  with pytest.raises(UserError, match="begun with --train_hours=1e-06"):
    pretrain(records, "timed", **{**flags, "train_hours": 2})
  with pytest.raises(UserError, match="begun with a number of steps"):
    pretrain(records, "counted", **flags)


def test_a_lost_list_of_checkpoints_is_an_error(records, pretrain, tmp_path):
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
  # The run starts again: another seed trains other weights from step 0 on.
  pretrain(records, restart=True, seed=5, **flags)
  assert (run / "model.ckpt-2.index").read_bytes() != first
  steps = [
    json.loads(line)["step"]
    for line in (run / "training_log.jsonl").read_text().splitlines()
  ]
  assert steps == sorted(steps) and steps[-1] == 4
  assert checkpoint_folder.find_latest(str(run / "best"))


def test_second_program_in_a_folder_is_refused(records, pretrain, tmp_path):
  run = pretrain(records)
  before = sorted(run.iterdir())
  with locks.Lock.of_folder(str(run), "x"):
    for flags in (dict(num_train_steps=6), dict(do_train=False, do_eval=True)):
      with pytest.raises(UserError, match="--output_dir=.*is in use"):
        pretrain(records, **flags)
  assert sorted(run.iterdir()) == before


def test_pretraining_refuses_another_models_folder(records, pretrain, tmp_path):
  run = pretrain(records)
  before = sorted(p.name for p in run.iterdir())
  other = tmp_path / "other.json"
  other.write_text(builders.tiny_config(hidden_size=16).to_json_string())
  message = "--output_dir=.*another config: hidden_size"
  with pytest.raises(ValueError, match=message):
    pretrain(records, bert_config_file=other, num_train_steps=9)
  assert sorted(p.name for p in run.iterdir()) == before


@pytest.fixture
def machines(records, config_file, tmp_path):
  """Starts `run_pretraining.py` on several machines, which are all this one."""

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
      arguments = [f"--{name}={value}" for name, value in flags.items()]
      # A pipe that nobody reads would block the machine when it is full.
      with open(tmp_path / f"{output}_{index}.log", "ab") as log:
        processes.append(
          subprocess.Popen(
            [sys.executable, "run_pretraining.py", *arguments],
            cwd=builders.ROOT,
            env=environment,
            stderr=log,
          )
        )
    all_processes.extend(processes)
    return processes

  def finish(processes):
    """Returns the exit codes of processes when all have ended."""
    return [process.wait(timeout=300) for process in processes]

  all_processes = []
  yield types.SimpleNamespace(start=start, finish=finish)
  for process in all_processes:
    process.kill()
    process.wait()


@pytest.fixture
def no_dropout(config_file):
  pathlib.Path(config_file).write_text(
    builders.tiny_config(
      hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    ).to_json_string()
  )


def test_two_machines_train_and_evaluate_like_one(
  no_dropout, machines, tmp_path
):
  evaluation = dict(do_eval=True, max_eval_steps=3, eval_batch_size=4)
  # A process cannot take --deterministic back, so this test uses it.
  runs = [
    machines.start("one", 1, deterministic=True, **evaluation),
    machines.start("two", 2, **evaluation),
  ]
  assert [machines.finish(run) for run in runs] == [[0], [0, 0]]
  one = builders.read_losses(tmp_path / "one")
  two = builders.read_losses(tmp_path / "two")
  assert list(one) == list(two) == list(range(1, 21))
  np.testing.assert_allclose(list(two.values()), list(one.values()), atol=1e-5)
  scores = []
  for name in ("one", "two"):
    text = (tmp_path / name / "eval_results.txt").read_text()
    scores.append(dict(line.split(" = ") for line in text.splitlines()))
  assert scores[0].keys() == scores[1].keys()
  for name, value in scores[0].items():
    assert float(scores[1][name]) == pytest.approx(float(value), abs=1e-4)


@pytest.fixture
def busy(tmp_path):
  """Flags of a run that spends a good part of its time on checkpoints."""
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
def test_a_run_killed_ten_times_ends_with_the_same_weights(
  machines, busy, tmp_path
):
  rng = random.Random(1)
  started = time.monotonic()
  assert machines.finish(machines.start("whole", 1, **busy)) == [0]
  whole_seconds = time.monotonic() - started
  expected = builders.read_tensors(tmp_path / "whole")

  def assert_weights_are_the_same():
    weights = builders.read_tensors(tmp_path / "killed")
    assert weights.keys() == expected.keys()
    for name, value in weights.items():
      np.testing.assert_array_equal(value, expected[name], err_msg=name)

  num_kills = num_resumed = num_runs = 0
  while num_kills < 10:
    num_runs += 1
    assert num_runs <= 50, "the runs end before they are killed"
    before = checkpoint_folder.find_latest(str(tmp_path / "killed"))
    (process,) = machines.start("killed", 1, **busy)
    try:
      code = process.wait(timeout=whole_seconds * rng.uniform(0.3, 1.0))
    except subprocess.TimeoutExpired:
      process.kill()
      process.wait()
      num_kills += 1
      num_resumed += before is not None
    else:
      assert code == 0
      assert_weights_are_the_same()
      shutil.rmtree(tmp_path / "killed")  # the next run starts from scratch
  assert num_resumed
  assert machines.finish(machines.start("killed", 1, **busy)) == [0]
  assert_weights_are_the_same()
  assert not list((tmp_path / "killed").glob("*temp*"))


@pytest.mark.large
@pytest.mark.parametrize("num_files", [1, 2])
def test_a_killed_machine_loses_and_doubles_nothing(
  machines, busy, records, tmp_path, num_files
):
  files = [records]
  if num_files > 1:
    # Each machine reads a file of its own.
    files.append(shutil.copy(records, tmp_path / "copy.tfrecord"))
  busy["input_file"] = ",".join(map(str, files))
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
  expected = builders.read_tensors(tmp_path / "whole")
  for name, value in builders.read_tensors(tmp_path / "killed").items():
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
  assert list(builders.read_losses(tmp_path / "run"))[-1] == 60


def wait_for_checkpoint(run, processes):
  """Returns when there is a newer checkpoint than at the time of the call."""
  before = checkpoint_folder.find_latest(str(run))

  def is_newer():
    assert all(process.poll() is None for process in processes)
    return checkpoint_folder.find_latest(str(run)) != before

  builders.wait_until(is_newer)
