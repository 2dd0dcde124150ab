"""Makes records for masked LM and next sentence prediction (paper, 3.1).

    python create_pretraining_data.py --input_file=sample_text.txt \\
        --output_file=/tmp/sample.tfrecord --vocab_file=$BERT/vocab.txt

The input is plain text with one sentence per line and a blank line between
documents, or JSON lines with one text each. The lines should be real sentences,
because next sentence prediction is about them. Input and output may be of any
size: a worker holds a block of some megabytes. The result is the same for any
number of workers, and for any `--runner` of Apache Beam. If the program is
killed, the same command resumes its work.
"""

from __future__ import annotations

import launch  # First: from here on a signal ends the program quietly.

import collections
from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import functools
import os
import time
from typing import Any
import zlib

from absl import flags
from absl import logging
import tensorflow as tf

from command_line import flag_help
from command_line import messages
import common_flags
from data import file_io
from data import file_names
from data import locks
from data import original_names
from errors import UserError
from pretraining import corpus
from pretraining import instances
from pretraining import shards
from pretraining import workers
from reports import example_files
from reports import records_report
import tokenization
from training import model_folder
from training import training_log

FLAGS = flags.FLAGS
original_names.explain_missing_names(__name__)


@flag_help.group("Pre-training data")
def define_flags() -> None:
  """Defines the flags of this program."""
  common_flags.define_text_flags()
  flags.DEFINE_string(
    "output_file",
    None,
    "TFRecord file to write, or several files separated by commas.",
    required=True,
  )
  flags.DEFINE_integer(
    "num_shards",
    0,
    "Number of files to divide the output into, named "
    "<output_file>-00000-of-00064 and so on; 0 for a single file.",
    lower_bound=0,
  )
  flags.DEFINE_bool(
    "overwrite", False, "Whether to delete output that exists already."
  )
  common_flags.define_vocab_flags()
  common_flags.define_masking_flags()
  flags.DEFINE_enum(
    "word_segmenter",
    "",
    ["", "jieba"],
    "Library that finds Chinese words, for --do_whole_word_mask.",
  )
  flags.DEFINE_string(
    "word_separator",
    "",
    "String between words in the text, for --do_whole_word_mask. Chinese words "
    "of several characters are then masked as a whole.",
  )
  _define_record_flags()
  flags.DEFINE_integer(
    "num_workers",
    0,
    "Number of processes; 0 for one per processor if there is enough work.",
    lower_bound=0,
  )
  flags.DEFINE_string(
    "runner",
    None,
    "Runner of Apache Beam: DirectRunner, DataflowRunner, FlinkRunner, "
    "SparkRunner, ... Further flags are passed on to Beam.",
  )


def _define_record_flags() -> None:
  """Defines the flags of records: their size, masks and pairs."""
  flags.DEFINE_integer(
    "max_seq_length", 128, "Number of tokens per record.", lower_bound=5
  )
  flags.DEFINE_integer(
    "max_predictions_per_seq",
    20,
    "Maximum number of predictions per record.",
    lower_bound=1,
  )
  flags.DEFINE_integer(
    "random_seed", 12345, "Random seed of pairs, masks and order."
  )
  flags.DEFINE_integer(
    "dupe_factor",
    10,
    "Number of times to go over the text, with different masks each time.",
    lower_bound=1,
  )
  flags.DEFINE_float(
    "short_seq_prob",
    0.1,
    "Fraction of the text that is cut into sequences shorter than the maximum. "
    "The default is 0 with --nonext_sentence_prediction.",
    lower_bound=0.0,
    upper_bound=1.0,
  )
  flags.DEFINE_bool(
    "next_sentence_prediction",
    True,
    "Whether to make pairs for next sentence prediction. If not, records are "
    "filled with text of one document, for masked LM alone.",
  )
  flags.DEFINE_bool(
    "pack_sequences",
    False,
    "Put several short pairs into one record, each of which attends only to "
    "itself.",
  )
  flags.DEFINE_integer(
    "max_pairs_per_record",
    8,
    "Maximum number of pairs per record, with --pack_sequences.",
    lower_bound=2,
  )


@dataclasses.dataclass(frozen=True)
class Job:
  """The input, settings and output of a build; workers get a copy."""

  input_files: Sequence[str]
  parser: corpus.TextParser
  settings: instances.InstanceSettings
  output: shards.ShardedOutput


def check_flags() -> None:
  """Raises a UserError if flags contradict each other."""
  for name in ("word_segmenter", "word_separator"):
    if FLAGS[name].value and not FLAGS.do_whole_word_mask:
      raise UserError(
        f"--{name}={FLAGS[name].value} is for whole words: pass "
        "--do_whole_word_mask as well."
      )
  if FLAGS.word_segmenter and FLAGS.word_separator:
    raise UserError(
      "--word_segmenter finds words and --word_separator says where they are: "
      "pass one of the two."
    )
  common_flags.check_belongs(
    ["max_pairs_per_record"], FLAGS.pack_sequences, "--pack_sequences"
  )


def main(argv):
  input_files = file_names.find_files(FLAGS.input_file, "--input_file")
  files = common_flags.model_files("vocab_file")
  tokenizer = common_flags.create_tokenizer(files)
  tokenizer.check_special_tokens("mask")
  parser = common_flags.text_parser()
  settings = instance_settings(files, tokenizer)
  output = sharded_output(input_files, parser, settings)
  check_not_inputs(output, input_files, settings.vocab_file)
  with contextlib.ExitStack() as stack:
    place = f"--output_file={FLAGS.output_file}"
    for lock_file in output.lock_files:
      stack.enter_context(locks.Lock(lock_file, place))
    for folder in sorted({os.path.dirname(file) for file in output.files}):
      file_io.remove_leftovers(folder or ".")
    create_output(Job(input_files, parser, settings, output), argv[1:])


# --- Settings and output -----------------------------------------------------


def instance_settings(
  files: model_folder.ModelFiles,
  tokenizer: tokenization.FullTokenizer,
) -> instances.InstanceSettings:
  """Returns the settings of records that the flags describe."""
  short_seq_prob = FLAGS.short_seq_prob
  if not (FLAGS.next_sentence_prediction or FLAGS["short_seq_prob"].present):
    short_seq_prob = 0.0
  max_instances_per_row = 1
  if FLAGS.pack_sequences:
    max_instances_per_row = FLAGS.max_pairs_per_record
  return instances.InstanceSettings(
    vocab_file=str(files.vocab_file),
    text_settings=tokenizer.settings,
    max_seq_length=FLAGS.max_seq_length,
    masking_settings=common_flags.masking_settings(),
    word_segmenter=FLAGS.word_segmenter,
    word_separator=FLAGS.word_separator,
    dupe_factor=FLAGS.dupe_factor,
    short_seq_prob=short_seq_prob,
    next_sentence_prediction=FLAGS.next_sentence_prediction,
    max_instances_per_row=max_instances_per_row,
    seed=FLAGS.random_seed,
  )


def sharded_output(
  input_files: Sequence[str],
  parser: corpus.TextParser,
  settings: instances.InstanceSettings,
) -> shards.ShardedOutput:
  """Returns the files to write, and everything that they depend on."""
  files = shards.list_output_files(FLAGS.output_file, FLAGS.num_shards)
  # Records take about twice the bytes of their text.
  text_bytes = corpus.estimate_text_bytes(input_files)
  expected_bytes = 2 * settings.dupe_factor * text_bytes
  return shards.ShardedOutput(
    files,
    shards.choose_num_buckets(len(files), expected_bytes),
    settings.seed,
    {
      **settings.to_dict(),
      "split_sentences": parser.split_sentences,
      "text_field": parser.text_field,
      "input_files": file_io.describe_files(input_files),
      "vocab_hash": zlib.crc32(file_io.read_bytes(settings.vocab_file)),
      "num_shards": len(files),
    },
  )


def check_not_inputs(
  output: shards.ShardedOutput, input_files: Sequence[str], vocab_file: str
) -> None:
  """Raises a UserError if the output would replace a file that is read."""
  output_files = [
    *output.files,
    output.report_file,
    output.page_file,
    *output.lock_files,
    *output.parts_folder.list_files(),
  ]
  file_io.check_not_inputs(
    {"--output_file": output_files},
    {"--input_file": input_files, "--vocab_file": [vocab_file]},
  )


# --- The build ---------------------------------------------------------------


def create_output(job: Job, beam_arguments: Sequence[str]) -> None:
  """Makes all files that do not exist yet."""
  output = job.output
  if output.is_complete() and not FLAGS.overwrite:
    logging.info(
      "%s exists already, made from the same input with the same settings.",
      FLAGS.output_file,
    )
    output.parts_folder.remove()
    if not tf.io.gfile.exists(output.page_file):
      _write_page(job)
    return
  try:
    counts = _run(job, beam_arguments)
  except Exception:
    if len(output.missing_shards()) == len(output.files):
      output.parts_folder.remove_if_empty()
    raise
  report = create_report(counts, job.settings)
  output.finish(report)
  lines = [f"{name} = {value}" for name, value in report.items()]
  training_log.log_lines("Report", lines)
  _write_page(job)


def _write_page(job: Job) -> None:
  """Writes the page about the records; an error becomes a warning."""
  with example_files.keep_running("The records have no page"):
    records_report.write(
      job.output.page_file,
      job.output.files,
      job.settings.vocab_file,
      common_flags.describe_command(),
    )


def _run(job: Job, beam_arguments: Sequence[str]) -> collections.Counter:
  if FLAGS.runner:
    return run_beam(job, beam_arguments)
  return run_workers(job)


def run_workers(job: Job) -> collections.Counter:
  """Makes the shards in processes of this machine; returns all counts."""
  output = job.output
  output.begin(FLAGS.overwrite)
  indices = write_missing_blocks(job)
  counts: collections.Counter = collections.Counter()
  for index in indices.values():
    counts.update(index["counts"])
  try:
    instances.check_counts(counts, job.settings, len(output.files))
  except UserError:
    output.parts_folder.remove()
    raise
  write_missing_shards(output, indices)
  return counts


def run_beam(job: Job, arguments: Sequence[str]) -> collections.Counter:
  """Makes the shards with Apache Beam; returns all counts.

  Args:
    job: The build.
    arguments: Flags of Beam.
  """
  try:
    from pretraining import beam_pipeline  # pylint: disable=g-import-not-at-top
  except ImportError as error:
    raise UserError(
      f"--runner={FLAGS.runner} requires Apache Beam: run "
      "pip install -e '.[beam]' in the folder of the project."
    ) from error
  # Processes that a runner starts on this machine find our modules by this.
  paths = [os.path.dirname(os.path.abspath(__file__))]
  if os.environ.get("PYTHONPATH"):
    paths.append(os.environ["PYTHONPATH"])
  os.environ["PYTHONPATH"] = os.pathsep.join(paths)
  arguments = [f"--runner={FLAGS.runner}", *arguments]
  if FLAGS["num_workers"].present:  # Beam has a flag of this name, too
    arguments.append(f"--num_workers={FLAGS.num_workers}")
  options = beam_pipeline.parse_options(arguments)
  output = job.output
  output.begin(FLAGS.overwrite)
  counts_file = output.parts_folder.path_of("counts.json")
  check_counts = functools.partial(
    instances.check_counts,
    settings=job.settings,
    num_shards=len(output.files),
  )
  beam_pipeline.run(
    options,
    job.input_files,
    job.parser,
    job.settings,
    output,
    check_counts,
    counts_file,
  )
  return collections.Counter(file_io.read_json(counts_file))


# --- Blocks ------------------------------------------------------------------


def write_missing_blocks(
  job: Job,
) -> dict[shards.BlockNumber, shards.BlockIndex]:
  """Writes the blocks that are not complete yet; returns all indices."""
  file_names.log_files("Reading from input files", job.input_files)
  input_bytes = sum(map(file_io.file_size, job.input_files))
  progress = BlockProgress(input_bytes)
  block_bytes = corpus.choose_block_bytes(job.input_files)
  text_bytes = corpus.estimate_text_bytes(job.input_files)
  num_workers = workers.choose_num_workers(
    FLAGS.num_workers,
    num_items=text_bytes // block_bytes,
    num_bytes=job.settings.dupe_factor * text_bytes,
  )
  indices: dict[shards.BlockNumber, shards.BlockIndex] = {}

  def read_missing_blocks() -> Iterator[corpus.Block]:
    for block in corpus.read_all_blocks(job.input_files, block_bytes):
      index = job.output.read_index(block.number)
      if index is None:
        yield block
      else:
        indices[block.number] = index
        progress.skip(block.input_bytes)

  for number, input_bytes, index in workers.map_unordered(
    functools.partial(create_block_writer, job),
    read_missing_blocks(),
    num_workers,
  ):
    indices[number] = index
    progress.report(input_bytes, index["counts"])
  progress.end()
  if progress.num_skipped:
    logging.info("%d blocks were made by an earlier run.", progress.num_skipped)
  return indices


def create_block_writer(job: Job) -> Callable[[corpus.Block], Any]:
  """Returns the function of a worker that writes the records of a block."""
  maker = instances.InstanceMaker(job.settings)

  def write_block(block: corpus.Block):
    counts: collections.Counter = collections.Counter()
    documents = job.parser.parse_block(block, counts)
    records = maker.make_records(block.number, documents, counts)
    index = job.output.write_block(block.number, records, counts)
    return block.number, block.input_bytes, index

  return write_block


class BlockProgress:
  """Logs the progress of the blocks.

  Attributes:
    num_skipped: Number of blocks that were made by an earlier run.
  """

  def __init__(self, total_bytes: int):
    self._total_bytes = total_bytes
    self.num_skipped = 0
    self._skipped_bytes = self._done_bytes = 0
    self._counts: collections.Counter = collections.Counter()
    self._start = time.monotonic()
    self._line = messages.ProgressLine(self._start)

  def skip(self, input_bytes: int) -> None:
    """Counts a block that was made by an earlier run."""
    self.num_skipped += 1
    self._skipped_bytes += input_bytes

  def report(self, input_bytes: int, counts: Mapping[str, int]) -> None:
    """Counts a block that was made, and logs the progress if it is time."""
    self._done_bytes += input_bytes
    self._counts.update(counts)
    now = time.monotonic()
    if not self._line.is_due(now):
      return
    seconds = now - self._start
    finished_bytes = self._skipped_bytes + self._done_bytes
    missing_bytes = self._total_bytes - finished_bytes
    share = finished_bytes / self._total_bytes
    num_instances = self._counts["instances"]
    # Skipped blocks took no time.
    seconds_left = seconds * missing_bytes / self._done_bytes
    self._line.show(
      f"{share:.0%} of the input: {self._counts['documents']} documents, "
      f"{num_instances} instances, {num_instances / seconds:.0f} instances per "
      f"second, about {seconds_left:.0f} s left",
      now,
    )

  def end(self) -> None:
    """Removes the progress from the screen."""
    self._line.erase()


# --- Shards ------------------------------------------------------------------


def write_missing_shards(
  output: shards.ShardedOutput,
  indices: Mapping[shards.BlockNumber, shards.BlockIndex],
) -> None:
  """Writes the shards that do not exist yet from blocks with these indices."""
  file_names.log_files("Writing to output files", output.files)
  missing = output.missing_shards()
  num_workers = workers.choose_num_workers(
    FLAGS.num_workers,
    num_items=len(missing),
    # Shuffling records takes a fraction of the time of making them.
    num_bytes=shards.count_part_bytes(indices) // 4,
  )
  create_writer = functools.partial(create_shard_writer, output, indices)
  for _ in workers.map_unordered(create_writer, missing, num_workers):
    pass


def create_shard_writer(
  output: shards.ShardedOutput,
  indices: Mapping[shards.BlockNumber, shards.BlockIndex],
) -> Callable[[int], None]:
  """Returns the function of a worker that writes a shard."""
  return functools.partial(output.write_shard, indices)


# --- The report --------------------------------------------------------------


def create_report(
  counts: collections.Counter, settings: instances.InstanceSettings
) -> dict[str, Any]:
  """Returns the report on a build, from the counts of all its blocks."""
  skipped = {}
  for reason in (*corpus.REASONS_TO_SKIP, "sentences_without_tokens"):
    skipped[reason] = counts[reason]
  num_duplicated_tokens = settings.dupe_factor * counts["tokens"]
  num_handled_tokens = counts["tokens_used"] + counts["tokens_cut"]
  packed_room = settings.max_seq_length * counts["records"]
  unpacked_room = settings.max_seq_length * counts["instances"]
  masked, kept = counts["predictions_masked"], counts["predictions_kept"]
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
    # In all duplicates together.
    "tokens_cut": counts["tokens_cut"],
    "tokens_without_next": num_duplicated_tokens - num_handled_tokens,
    "padding_fraction": 1 - counts["real_tokens"] / packed_room,
    "padding_fraction_unpacked": 1 - counts["real_tokens"] / unpacked_room,
    "predictions": {
      "all": counts["predictions"],
      "masked": masked,
      "kept": kept,
      "random": counts["predictions"] - masked - kept,
    },
  }


if __name__ == "__main__":
  define_flags()
  launch.run(
    main, check_flags, passes_on_flags="runner", saves_at_signals=False
  )
