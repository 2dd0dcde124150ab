"""Measures the work of one of several machines that read pre-training records.

    python benchmarks/input_scaling.py --vocab_file=$BERT/vocab.txt

All machines together read batches of --batch_size records. For each number of
machines, this machine takes the place of one of them, reads the batches as
training does, and counts the processor time of all its threads. If the machines
share the work evenly, each spends 1/n of the time of one machine.

The last rows say how many records per second an accelerator takes, so that
cores can be planned. They are computed from its peak; --utilization is the part
of it that training reaches.
"""

import os
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from absl import app
from absl import flags
import numpy as np
import result_files
import tensorflow as tf

from data import input_shares
from data import record_files
from data import serialization
import modeling
from pretraining import input_pipeline
from pretraining import masking
from pretraining import record_formats
import tokenization
from training import cost
from training import training_data

FLAGS = flags.FLAGS

_MAX_PREDICTIONS = 20
_RECORDS_PER_FILE = 10_000
# Batches that fill the shuffle buffer and start all threads.
_NUM_WARMUPS = 2
# Peak of the matrix products in bfloat16, in teraflops, as their makers say.
_ACCELERATORS = {"H100": 989.0, "core of a TPU v3": 61.5}


def define_flags() -> None:
  """Defines the flags of this program."""
  flags.DEFINE_string(
    "vocab_file", None, "Vocabulary of the masks.", required=True
  )
  flags.DEFINE_list("machines", "1,2,8,64", "Numbers of machines.")
  flags.DEFINE_integer(
    "batch_size", 32768, "Records of a batch of all machines."
  )
  flags.DEFINE_integer("max_seq_length", 128, "Tokens of a record.")
  flags.DEFINE_integer("turns", 3, "How often to measure each number.")
  flags.DEFINE_integer(
    "records_per_turn", 60_000, "Least number of records that a turn reads."
  )
  flags.DEFINE_integer(
    "num_files", 128, "Number of files; with 1, all machines read all of it."
  )
  flags.DEFINE_float(
    "utilization", 0.4, "Part of its peak that an accelerator reaches."
  )
  result_files.define_flag()


def _write_files(folder: str, vocab_size: int) -> list[str]:
  """Writes a file of random records, and gives it many names."""
  rng = np.random.default_rng(1)
  length = FLAGS.max_seq_length
  shape = [_RECORDS_PER_FILE, length]
  few = [_RECORDS_PER_FILE, _MAX_PREDICTIONS]
  is_second = np.arange(length) >= length // 2
  content, lengths = serialization.serialize_rows(
    {
      "input_ids": rng.integers(1000, vocab_size, size=shape),
      "input_mask": np.ones(shape, np.int64),
      "segment_ids": np.broadcast_to(is_second.astype(np.int64), shape),
      "masked_lm_positions": rng.integers(1, length - 1, size=few),
      "masked_lm_ids": rng.integers(1000, vocab_size, size=few),
      "masked_lm_weights": np.ones(few, np.float32),
      "next_sentence_labels": rng.integers(2, size=[_RECORDS_PER_FILE, 1]),
    }
  )
  ends = np.cumsum(lengths)
  files = [
    os.path.join(folder, f"{number}.tfrecord")
    for number in range(FLAGS.num_files)
  ]
  record_files.write_records(
    files[0],
    (content[end - size : end].tobytes() for end, size in zip(ends, lengths)),
  )
  for file in files[1:]:
    os.link(files[0], file)
  return files


def _measure(files, vocab_size, redraw_masks, share) -> dict[str, float]:
  """Returns the processor seconds of a batch, and records per second."""
  num_rows = share.batch_size(FLAGS.batch_size)
  dataset = input_pipeline.pretraining_dataset(
    files,
    record_formats.PretrainingFormat(FLAGS.max_seq_length, _MAX_PREDICTIONS),
    vocab_size,
    2,
    FLAGS.batch_size,
    is_training=True,
    seed=1,
    drop_remainder=True,
    redraw_masks=redraw_masks,
    share=share,
  )
  num_batches = max(4, -(-FLAGS.records_per_turn // num_rows))
  batches = iter(training_data.disable_autotune(dataset))

  def read_batch(number):
    # The batch is needed before the next number is known.
    values = list(batches.get_next().values())
    with tf.control_dependencies(values):
      return number + 1

  @tf.function(autograph=False)
  def read(count):
    # In the graph, like training: Python would take longer than a small batch.
    return tf.while_loop(lambda i: i < count, read_batch, [tf.constant(0)])

  read(tf.constant(_NUM_WARMUPS))
  seconds, started = time.process_time(), time.perf_counter()
  read(tf.constant(num_batches))
  seconds = time.process_time() - seconds
  elapsed = time.perf_counter() - started
  num_records = num_batches * num_rows
  return {
    "batch": seconds / num_batches,
    "per_core": num_records / seconds,
    "per_machine": num_records / elapsed,
  }


def _compare_machines(name, files, vocab_size, redraw_masks):
  """Prints and returns the work of a machine for each number of machines."""
  numbers = [int(number) for number in FLAGS.machines]
  best = {}
  for turn in range(FLAGS.turns):
    for number in numbers:
      share = input_shares.InputShare(turn % number, number)
      measured = _measure(files, vocab_size, redraw_masks, share)
      # Other work on the machine only ever adds time.
      if number not in best or measured["batch"] < best[number]["batch"]:
        best[number] = measured
  rows = []
  for number in numbers:
    measured = best[number]
    work = measured["batch"] * number / best[numbers[0]]["batch"] / numbers[0]
    rows.append(
      {
        "masks": name,
        "machines": number,
        "processor ms per batch": round(1000 * measured["batch"], 2),
        "of an even share": round(work, 2),
        "records/s per core": round(measured["per_core"]),
      }
    )
    print(", ".join(f"{key} {value}" for key, value in rows[-1].items()))
  return rows


def _compute_demand() -> list[dict[str, object]]:
  """Prints and returns the records per second that accelerators take."""
  rows = []
  for size in ("base", "large"):
    config = modeling.BertConfig.from_size(size)
    flops = cost.training_flops(
      config,
      1,
      FLAGS.max_seq_length,
      num_positions=1 + _MAX_PREDICTIONS,
      num_predictions=_MAX_PREDICTIONS,
    )
    for accelerator, teraflops in _ACCELERATORS.items():
      rate = teraflops * 1e12 * FLAGS.utilization / flops
      rows.append(
        {
          "masks": f"BERT-{size.capitalize()} on one {accelerator}, computed",
          "records/s taken": round(rate),
        }
      )
      print(", ".join(f"{key} {value}" for key, value in rows[-1].items()))
  return rows


def main(_):
  tokenizer = tokenization.FullTokenizer(FLAGS.vocab_file)
  vocabulary = masking.Vocabulary.from_tokens(
    tokenizer.vocab, tokenizer.settings.special_tokens
  )
  masker = masking.Masker(vocabulary, masking.MaskingSettings())
  vocab_size = len(tokenizer.vocab)
  with tempfile.TemporaryDirectory() as folder:
    files = _write_files(folder, vocab_size)
    rows = _compare_machines("of the records", files, vocab_size, None)
    rows += _compare_machines(
      "--dynamic_masking", files, vocab_size, masker.redraw_masks
    )
  rows += _compute_demand()
  result_files.write(
    section="Data and files",
    title="Work of one of several machines that read pre-training records",
    rows=rows,
    note=(
      f"Batches of {FLAGS.batch_size} records of {FLAGS.max_seq_length} tokens "
      f"for all machines together; the least of {FLAGS.turns} turns. An even "
      "share is 1. The rates that accelerators take are computed: "
      f"{FLAGS.utilization:.0%} of their peak in bfloat16."
    ),
  )


if __name__ == "__main__":
  define_flags()
  app.run(main)
