"""Makes pre-training records with an Apache Beam pipeline.

    units --read--> blocks --make--> (shard, part) --group--> shards

The records are the same, byte for byte, as without Beam, for any runner and
any number of machines. Beam moves the data between machines and repeats what
failed; it replaces the worker processes and the folder of parts.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Iterator, Sequence
import functools
import os
import re
import socket
import tempfile
import threading
from typing import NamedTuple

import apache_beam as beam
from apache_beam.options import pipeline_options

from data import file_io
from data import locks
from errors import UserError
from pretraining import corpus
from pretraining import instances
from pretraining import shards

# True if this process ends with the program; see `ProgramIdentity`.
_is_bound = False


class ProgramIdentity(NamedTuple):
  """The identity of the program that runs a pipeline, for its workers.

  Attributes:
    machine: Name of its machine.
    process: Number of its process.
    lock_file: Path of a file that the program keeps locked.
  """

  machine: str
  process: int
  lock_file: str

  @classmethod
  def of_this_process(cls, lock_file: str) -> ProgramIdentity:
    if not file_io.is_remote(lock_file):
      lock_file = os.path.abspath(lock_file)
    return cls(socket.gethostname(), os.getpid(), lock_file)

  def bind_this_process(self) -> None:
    """Makes this process end with the program, if it runs on its machine.

    Beam's own workers notice the end only when they next talk to the program.
    """
    global _is_bound
    if (
      _is_bound
      or locks.fcntl is None
      or file_io.is_remote(self.lock_file)
      or self.machine != socket.gethostname()
      or self.process == os.getpid()
    ):
      return
    _is_bound = True

    def end_with_program():
      # The lock is free as soon as the program has ended.
      try:
        with open(self.lock_file, "rb") as file:
          locks.fcntl.flock(file, locks.fcntl.LOCK_SH)
      except FileNotFoundError:
        pass  # the program has ended and removed it
      os._exit(1)

    threading.Thread(target=end_with_program, daemon=True).start()


class BucketPart(NamedTuple):
  """The records of one part of a block that belong to one bucket."""

  bucket: int
  block: tuple[int, int]
  number: int
  content: bytes


def parse_options(arguments: Sequence[str]) -> pipeline_options.PipelineOptions:
  """Returns the options of Beam and its runner.

  Args:
    arguments: Flags such as `--runner=DirectRunner`.

  Raises:
    UserError: Beam has no such flag.
  """
  options = pipeline_options.PipelineOptions(arguments)
  known = set(options.get_all_options())
  given = set(options.get_all_options(retain_unknown_options=True))
  unknown = given - known
  if unknown:
    raise UserError(
      f"--{min(unknown)} is a flag neither of this program nor of Apache Beam."
    )
  return options


def run(
  options: pipeline_options.PipelineOptions,
  input_files: Sequence[str],
  parser: corpus.TextParser,
  settings: instances.InstanceSettings,
  output: shards.ShardedOutput,
  check_counts: Callable[[collections.Counter], None],
  counts_file: str,
) -> None:
  """Makes the shards that do not exist yet.

  Args:
    options: Options of Beam.
    input_files: Paths that all machines can read.
    parser: Parser of the text.
    settings: Settings of the records.
    output: Files of records; all machines can write to their folders.
    check_counts: Function that raises an error, before anything is written, if
      the counts of all blocks leave nothing to write.
    counts_file: Path to which these counts are written as JSON.

  Raises:
    UserError: The text cannot be used, or a file cannot be written.
  """
  # Other runners may keep their workers for other programs.
  runner = options.view_as(pipeline_options.StandardOptions).runner or ""
  program = None
  if runner.endswith("DirectRunner"):
    program = ProgramIdentity.of_this_process(output.lock_files[0])
  maker = _MakeRecords(
    parser, settings, output, frozenset(output.missing_shards()), program
  )

  def run_pipeline():
    _run_pipeline(options, input_files, maker, check_counts, counts_file)

  _call_in_thread(run_pipeline)


def _call_in_thread(function: Callable[[], None]) -> None:
  """Calls a function in another thread, and returns when it has ended.

  Signals interrupt the main thread. Inside of Beam, the interruption would be
  mistaken for an error of the pipeline.
  """
  errors = []

  def call():
    try:
      function()
    except Exception as error:  # pylint: disable=broad-except
      errors.append(error)

  thread = threading.Thread(target=call, daemon=True)
  thread.start()
  thread.join()
  for error in errors:
    raise _find_user_error(error) or error


def _find_user_error(error: Exception) -> UserError | None:
  """Returns the `UserError` that caused an error of Beam, or None.

  Beam adds the step to the text of an error, and wraps the text of an error of
  another process in an error of its own.
  """
  text = str(error)
  if not isinstance(error, UserError):
    _, name, text = text.rpartition("UserError: ")
    if not name:
      return None
  return UserError(re.sub(r" \[while running .*", "", text, flags=re.DOTALL))


# --- The pipeline ------------------------------------------------------------


class _MakeRecords(beam.DoFn):
  """Yields (shard, part) for blocks, and their counts."""

  def __init__(
    self,
    parser: corpus.TextParser,
    settings: instances.InstanceSettings,
    output: shards.ShardedOutput,
    shards_to_write: frozenset[int],
    program: ProgramIdentity | None,
  ):
    self._parser = parser
    self._settings = settings
    self.output = output
    self._shards_to_write = shards_to_write
    self.program = program

  def setup(self):
    if self.program:
      self.program.bind_this_process()
    self._maker = instances.InstanceMaker(self._settings)

  def process(self, block: corpus.Block):
    counts: collections.Counter = collections.Counter()
    documents = self._parser.parse_block(block, counts)
    records = self._maker.make_records(block.number, documents, counts)
    parts = shards.split_into_buckets(records, self.output.num_buckets)
    for number, part in enumerate(parts):
      for bucket, content in enumerate(part):
        shard = self.output.shard_of_bucket(bucket)
        if shard in self._shards_to_write:
          yield shard, BucketPart(bucket, block.number, number, content)
    yield beam.pvalue.TaggedOutput("counts", dict(counts))


def _run_pipeline(
  options: pipeline_options.PipelineOptions,
  input_files: Sequence[str],
  maker: _MakeRecords,
  check_counts: Callable[[collections.Counter], None],
  counts_file: str,
) -> None:
  block_bytes = corpus.choose_block_bytes(input_files)
  units = list(enumerate(corpus.group_files(input_files, block_bytes)))
  output, program = maker.output, maker.program

  def read_unit(number, unit):
    return corpus.read_blocks(unit, number, block_bytes)

  def write_shard(shard_and_parts, unused_counts):
    shard, parts = shard_and_parts
    _write_shard(output, program, shard, parts)

  read = "Read" >> beam.FlatMapTuple(read_unit)
  make = "Make" >> beam.ParDo(maker).with_outputs("counts", main="parts")
  add = "Add" >> beam.CombineGlobally(_add_counts)
  check = "Check" >> beam.Map(_check_total, check_counts)
  write_counts = functools.partial(file_io.write_json, counts_file)
  with beam.Pipeline(options=options) as pipeline:
    blocks = pipeline | "Units" >> beam.Create(units) | read
    # After a reshuffle, other machines than those that read can make records.
    made = blocks | "Reshuffle" >> beam.Reshuffle() | make
    counts = made.counts | add | check
    # The counts are an argument so that nothing is written before the check.
    checked_counts = beam.pvalue.AsSingleton(counts)
    write = "Write" >> beam.Map(write_shard, checked_counts)
    _ = made.parts | "Group" >> beam.GroupByKey() | write
    _ = counts | "Counts" >> beam.Map(write_counts)


def _add_counts(all_counts: Iterable[dict[str, int]]) -> dict[str, int]:
  total: collections.Counter = collections.Counter()
  for counts in all_counts:
    total.update(counts)
  return dict(total)


def _check_total(
  counts: dict[str, int], check_counts: Callable[[collections.Counter], None]
) -> dict[str, int]:
  """Returns the counts of all blocks, after a check."""
  check_counts(collections.Counter(counts))
  return counts


def _write_shard(
  output: shards.ShardedOutput,
  program: ProgramIdentity | None,
  shard: int,
  parts: Iterable[BucketPart],
) -> None:
  """Writes a shard, with one bucket at a time in memory."""
  if program:
    program.bind_this_process()
  with tempfile.TemporaryFile() as file:
    # For each bucket: (block, number of the part) -> (start, length).
    places: dict[int, dict] = collections.defaultdict(dict)
    for part in parts:
      place = file.tell(), len(part.content)
      places[part.bucket][part.block, part.number] = place
      file.write(part.content)

    def read_bucket(bucket: int) -> Iterator[bytes]:
      for _, (start, length) in sorted(places[bucket].items()):
        file.seek(start)
        yield file.read(length)

    output.write_shuffled_shard(shard, read_bucket)
