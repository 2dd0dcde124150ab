"""Makes records for masked LM and next sentence prediction (paper, 3.1).

    python create_pretraining_data.py --input_file=sample_text.txt \\
        --output_file=/tmp/sample.tfrecord --vocab_file=$BERT/vocab.txt

The input is plain text, one sentence a line, with a blank line between
documents; or JSON lines with a text each. Sentences should be real ones, since
the second task is about them. Input and output may be of any size: a worker
holds a block of some megabytes, and the result is the same for any number of
workers, or for any `--runner` of Apache Beam. A run that was killed continues
when the same command is run again.
"""

import launch  # First: from here on a signal ends the program quietly.

import collections
from collections.abc import Mapping
import contextlib
import dataclasses
import functools
import os
import time
import zlib

from absl import flags
from absl import logging
import tensorflow as tf

import common_flags
from data import file_io
from data import locks
from errors import UserError
from pretraining import corpus
from pretraining import instances
from pretraining import shards
from pretraining import workers
from training import model_folder
from training import training_log

FLAGS = flags.FLAGS

_SECONDS_PER_LOG_LINE = 10.0


def define_flags() -> None:
  """Defines the flags of this program."""
  common_flags.define_text_flags()
  flags.DEFINE_string(
    "output_file",
    None,
    "TFRecord file to write, or several separated by commas.",
    required=True,
  )
  flags.DEFINE_integer(
    "num_shards",
    0,
    "Divide the output into so many files, "
    "<output_file>-00000-of-00064 and so on.",
    lower_bound=0,
  )
  flags.DEFINE_bool(
    "overwrite", False, "Whether to delete output that is there already."
  )
  common_flags.define_vocab_flags()
  flags.DEFINE_bool(
    "do_whole_word_mask", False, "Mask all pieces of a word, or none."
  )
  flags.DEFINE_enum(
    "word_segmenter",
    "",
    ["", "jieba"],
    "What finds the words of Chinese, for --do_whole_word_mask.",
  )
  flags.DEFINE_string(
    "word_separator",
    "",
    "What stands between words in the "
    "text, for --do_whole_word_mask: words of several "
    "Chinese characters are then masked whole.",
  )
  flags.DEFINE_integer(
    "max_seq_length", 128, "Tokens of a record.", lower_bound=5
  )
  flags.DEFINE_integer(
    "max_predictions_per_seq", 20, "Most masks of a record.", lower_bound=1
  )
  flags.DEFINE_integer("random_seed", 12345, "Seed of all that is drawn.")
  flags.DEFINE_integer(
    "dupe_factor",
    10,
    "How often to go over the text, with other masks each time.",
    lower_bound=1,
  )
  flags.DEFINE_float(
    "masked_lm_prob",
    0.15,
    "Share of the tokens to mask.",
    lower_bound=0.0,
    upper_bound=1.0,
  )
  flags.DEFINE_float(
    "short_seq_prob",
    0.1,
    "Share of the stretches of text "
    "that are made into shorter sequences than the longest; 0 "
    "if not given and there are no pairs.",
    lower_bound=0.0,
    upper_bound=1.0,
  )
  flags.DEFINE_bool(
    "next_sentence_prediction",
    True,
    "Whether to make pairs "
    "for next sentence prediction. If not, records are filled "
    "with the text of one document, for masked LM alone.",
  )
  flags.DEFINE_bool(
    "pack_sequences",
    False,
    "Put several short pairs into one record, which attend each to itself.",
  )
  flags.DEFINE_integer(
    "max_pairs_per_record",
    8,
    "Most pairs of a record, with --pack_sequences.",
    lower_bound=2,
  )
  flags.DEFINE_integer(
    "num_workers",
    0,
    "Processes; 0 for one a processor, if there is enough to do.",
    lower_bound=0,
  )
  flags.DEFINE_string(
    "runner",
    None,
    "Run as a pipeline of Apache Beam, by "
    "this runner of it: DirectRunner, DataflowRunner, "
    "FlinkRunner, SparkRunner, ... Further flags are Beam's.",
  )


def settings_of_flags(files: model_folder.ModelFiles) -> instances.Settings:
  """Returns what the flags say of the records.

  Raises:
    UserError: flags that do not go together.
  """
  for name in ("word_segmenter", "word_separator"):
    if FLAGS[name].value and not FLAGS.do_whole_word_mask:
      raise UserError(
        f"--{name}={FLAGS[name].value} is for whole words: pass "
        "--do_whole_word_mask as well."
      )
  if FLAGS.word_segmenter and FLAGS.word_separator:
    raise UserError(
      "--word_segmenter finds words and --word_separator says "
      "where they are: pass one of the two."
    )
  common_flags.check_belongs(
    ["max_pairs_per_record"], FLAGS.pack_sequences, "--pack_sequences"
  )
  short_seq_prob = FLAGS.short_seq_prob
  if not (FLAGS.next_sentence_prediction or FLAGS["short_seq_prob"].present):
    short_seq_prob = 0.0
  return instances.Settings(
    vocab_file=files.vocab_file,
    do_lower_case=FLAGS.do_lower_case,
    max_seq_length=FLAGS.max_seq_length,
    max_predictions_per_seq=FLAGS.max_predictions_per_seq,
    masked_lm_prob=FLAGS.masked_lm_prob,
    do_whole_word_mask=FLAGS.do_whole_word_mask,
    word_segmenter=FLAGS.word_segmenter,
    word_separator=FLAGS.word_separator,
    dupe_factor=FLAGS.dupe_factor,
    short_seq_prob=short_seq_prob,
    next_sentence_prediction=FLAGS.next_sentence_prediction,
    max_pieces_per_row=(
      FLAGS.max_pairs_per_record if FLAGS.pack_sequences else 1
    ),
    seed=FLAGS.random_seed,
  )


def sharded_output(input_files, settings, parser) -> shards.ShardedOutput:
  """Returns where the records go, and what decides their content."""
  files = shards.output_files(FLAGS.output_file, FLAGS.num_shards)
  stats = [tf.io.gfile.stat(file) for file in input_files]
  vocab_hash = zlib.crc32(file_io.read_bytes(settings.vocab_file))
  # Records take about twice the bytes of their text.
  expected_bytes = 2 * settings.dupe_factor * corpus.text_bytes(input_files)
  return shards.ShardedOutput(
    files,
    shards.num_buckets(len(files), expected_bytes),
    settings.seed,
    {
      **dataclasses.asdict(settings),
      "split_sentences": parser.split_sentences,
      "text_field": parser.text_field,
      "input_files": [
        (file, stat.length, stat.mtime_nsec)
        for file, stat in zip(input_files, stats)
      ],
      "vocab_hash": vocab_hash,
      "num_shards": len(files),
    },
  )


@dataclasses.dataclass(frozen=True)
class Job:
  """What a worker has to know."""

  settings: instances.Settings
  parser: corpus.Parser
  output: shards.ShardedOutput


def block_worker(job: Job):
  """Returns the function that makes the parts of a block."""
  maker = instances.InstanceMaker(job.settings)

  def write_block(block: corpus.Block):
    counts = collections.Counter()
    records = maker.make(
      block.number, job.parser.documents(block, counts), counts
    )
    index = job.output.write_block(block.number, records, counts)
    return block.number, block.input_bytes, index

  return write_block


def shard_worker(output: shards.ShardedOutput, indices):
  """Returns the function that makes a shard of blocks with these indices."""
  return functools.partial(output.write_shard, indices)


def main(argv):
  input_files = file_io.expand_patterns(FLAGS.input_file, "--input_file")
  files = common_flags.model_files("vocab_file")
  common_flags.create_tokenizer(files)  # checks the vocabulary
  settings = settings_of_flags(files)
  parser = common_flags.text_parser()
  output = sharded_output(input_files, settings, parser)
  check_not_inputs(output, input_files, settings.vocab_file)
  with contextlib.ExitStack() as stack:
    for lock_file in output.lock_files:
      stack.enter_context(
        locks.Lock(lock_file, f"--output_file={FLAGS.output_file}")
      )
    for folder in sorted({os.path.dirname(file) for file in output.files}):
      file_io.remove_leftovers(folder or ".")
    create(Job(settings, parser, output), input_files, argv[1:])


def check_not_inputs(
  output: shards.ShardedOutput, input_files, vocab_file: str
) -> None:
  """Raises a UserError if the output would replace a file that is read."""
  file_io.check_not_inputs(
    {
      "--output_file": [
        *output.files,
        output.report_file,
        *output.lock_files,
        *output.parts_folder.files(),
      ]
    },
    {"--input_file": input_files, "--vocab_file": [vocab_file]},
  )


def create(job: Job, input_files, beam_arguments) -> None:
  """Makes all files that are not there yet."""
  output = job.output
  if output.is_complete() and not FLAGS.overwrite:
    logging.info(
      "%s is there already, made of the same input with the same settings.",
      FLAGS.output_file,
    )
    output.parts_folder.remove()
    return
  try:
    if FLAGS.runner:
      counts = run_beam(job, input_files, beam_arguments)
    else:
      counts = run_workers(job, input_files)
  except Exception:
    if len(output.missing_shards()) == len(output.files):
      output.parts_folder.remove_if_empty()
    raise
  report = create_report(counts, job.settings)
  output.finish(report)
  training_log.log_lines(
    "Report", (f"{name} = {value}" for name, value in report.items())
  )


def run_workers(job: Job, input_files) -> collections.Counter:
  """Makes the shards in processes of this machine; returns all counts."""
  output = job.output
  output.begin(FLAGS.overwrite)
  indices = make_parts(job, input_files)
  counts = sum(
    (collections.Counter(index["counts"]) for index in indices.values()),
    collections.Counter(),
  )
  try:
    instances.check_counts(counts, job.settings, len(output.files))
  except ValueError:
    output.parts_folder.remove()
    raise
  write_shards(output, indices)
  return counts


def run_beam(job: Job, input_files, arguments) -> collections.Counter:
  """Makes the shards by Apache Beam; returns all counts.

  Args:
    job: what there is to do.
    input_files: paths.
    arguments: the flags of Beam.
  """
  try:
    from pretraining import beam_pipeline  # pylint: disable=g-import-not-at-top
  except ImportError as error:
    raise UserError(
      f"--runner={FLAGS.runner} takes Apache Beam: pip install -r "
      "requirements-beam.txt."
    ) from error
  # Processes that a runner starts on this machine find our modules by this.
  here = os.path.dirname(os.path.abspath(__file__))
  os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [here, os.environ.get("PYTHONPATH")])
  )
  arguments = [f"--runner={FLAGS.runner}", *arguments]
  if FLAGS["num_workers"].present:  # Beam has a flag of this name, too
    arguments.append(f"--num_workers={FLAGS.num_workers}")
  options = beam_pipeline.parse_options(arguments)
  output = job.output
  output.begin(FLAGS.overwrite)
  counts_file = output.parts_folder.path_of("counts.json")
  beam_pipeline.run(
    options,
    input_files,
    job.parser,
    job.settings,
    output,
    functools.partial(
      instances.check_counts,
      settings=job.settings,
      num_shards=len(output.files),
    ),
    counts_file,
  )
  return collections.Counter(file_io.read_json(counts_file))


def make_parts(job: Job, input_files) -> dict[shards.Number, shards.Index]:
  """Makes the parts of all blocks that are not done; returns all indices."""
  logging.info("*** Reading from input files ***")
  for file in input_files:
    logging.info("  %s", file)
  size = corpus.block_bytes(input_files)
  num_bytes = corpus.text_bytes(input_files)
  progress = Progress(
    sum(tf.io.gfile.stat(file).length for file in input_files)
  )
  indices = {}

  def missing_blocks():
    for block in corpus.read_all_blocks(input_files, size):
      index = job.output.read_index(block.number)
      if index is None:
        yield block
      else:
        indices[block.number] = index
        progress.skip(block.input_bytes)

  for number, input_bytes, index in workers.map_unordered(
    functools.partial(block_worker, job),
    missing_blocks(),
    workers.useful_number(
      FLAGS.num_workers, num_bytes // size, job.settings.dupe_factor * num_bytes
    ),
  ):
    indices[number] = index
    progress.report(input_bytes, index["counts"])
  if progress.num_skipped:
    logging.info("%d blocks were done by an earlier run.", progress.num_skipped)
  return indices


def write_shards(output: shards.ShardedOutput, indices) -> None:
  """Makes the shards that are not there yet, of blocks with these indices."""
  logging.info("*** Writing to output files ***")
  missing = output.missing_shards()
  for file in output.files:
    logging.info("  %s", file)
  for _ in workers.map_unordered(
    functools.partial(shard_worker, output, indices),
    missing,
    workers.useful_number(
      FLAGS.num_workers, len(missing), shards.size_of_parts(indices) // 4
    ),
  ):
    pass


class Progress:
  """Logs how far the blocks are."""

  def __init__(self, total_bytes: int):
    self._total_bytes = total_bytes
    self.num_skipped = 0
    self._skipped_bytes = self._done_bytes = 0
    self._counts = collections.Counter()
    self._start = self._last_line = time.monotonic()

  def skip(self, input_bytes: int) -> None:
    """Counts a block that was done by an earlier run."""
    self.num_skipped += 1
    self._skipped_bytes += input_bytes

  def report(self, input_bytes: int, counts: Mapping[str, int]) -> None:
    """Counts a block that was done, and logs the progress now and then."""
    self._done_bytes += input_bytes
    self._counts.update(counts)
    now = time.monotonic()
    if now - self._last_line < _SECONDS_PER_LOG_LINE:
      return
    self._last_line = now
    seconds = now - self._start
    rest = self._total_bytes - self._skipped_bytes - self._done_bytes
    logging.info(
      "%d %% of the input: %d documents, %d instances, %d instances per "
      "second, about %d s left",
      100 * (self._skipped_bytes + self._done_bytes) / self._total_bytes,
      self._counts["documents"],
      self._counts["instances"],
      self._counts["instances"] / seconds,
      seconds * rest / self._done_bytes,
    )


def create_report(counts, settings: instances.Settings) -> dict:
  """Returns what is to be told of a build, from the counts of its blocks."""
  skipped = {
    reason: counts[reason]
    for reason in (*corpus.REASONS_TO_SKIP, "sentences_without_tokens")
  }
  room = settings.max_seq_length
  predictions = counts["predictions"]
  return {
    "documents": counts["documents"],
    "sentences": counts["sentences"],
    "sentences_cut_up": counts["sentences_cut_up"],
    "tokens": counts["tokens"],
    "unknown_rate": counts["unknown_tokens"] / counts["tokens"],
    "skipped": skipped,
    "instances": counts["instances"],
    "random_next": counts["random_next"],
    "records": counts["records"],
    # The cut ones are of all duplicates.
    "tokens_cut": counts["tokens_cut"],
    "tokens_without_next": (
      settings.dupe_factor * counts["tokens"]
      - counts["tokens_used"]
      - counts["tokens_cut"]
    ),
    "padding_fraction": 1 - counts["real_tokens"] / (room * counts["records"]),
    "padding_fraction_unpacked": 1
    - counts["real_tokens"] / (room * counts["instances"]),
    "predictions": {
      "all": predictions,
      "masked": counts["predictions_masked"],
      "kept": counts["predictions_kept"],
      "random": (
        predictions - counts["predictions_masked"] - counts["predictions_kept"]
      ),
    },
  }


if __name__ == "__main__":
  define_flags()
  launch.run(main, passes_on_flags="runner", saves_at_signals=False)
