"""The making of pre-training records as an Apache Beam pipeline.

    units --read--> blocks --make--> (shard, part) --group--> shards

The same records, byte for byte, as without Beam, made by any of its runners on
any number of machines. Beam moves data between machines and tries again what
failed; it takes the place of worker processes and of the folder of parts.
"""

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

# Whether this process is to end with the program, see `Program`.
_is_bound = False


class Program(NamedTuple):
  """The program that runs a pipeline, as its workers know it.

  Attributes:
    machine: its name.
    process: its number.
    lock_file: a file that the program keeps locked.
  """

  machine: str
  process: int
  lock_file: str

  @classmethod
  def of_this_process(cls, lock_file: str) -> "Program":
    if "://" not in lock_file:
      lock_file = os.path.abspath(lock_file)
    return cls(socket.gethostname(), os.getpid(), lock_file)

  def bind(self) -> None:
    """Makes this process end with the program, if it is on its machine.

    Beam's own workers find out only when they next talk to the program.
    """
    global _is_bound
    if (
      _is_bound
      or locks.fcntl is None
      or "://" in self.lock_file
      or self.machine != socket.gethostname()
      or self.process == os.getpid()
    ):
      return
    _is_bound = True

    def end_with_program():
      try:
        with open(self.lock_file, "rb") as file:
          locks.fcntl.flock(file, locks.fcntl.LOCK_SH)
      except FileNotFoundError:
        pass  # the program has ended
      os._exit(1)

    threading.Thread(target=end_with_program, daemon=True).start()


class Part(NamedTuple):
  """The records of a part of a block that were dealt to one bucket."""

  bucket: int
  block: tuple[int, int]
  number: int
  content: bytes


def parse_options(arguments: Sequence[str]) -> pipeline_options.PipelineOptions:
  """Returns the options of Beam and its runner.

  Args:
    arguments: flags such as `--runner=DirectRunner`.

  Raises:
    UserError: Beam knows no such flag.
  """
  options = pipeline_options.PipelineOptions(arguments)
  unknown = set(options.get_all_options(retain_unknown_options=True)) - set(
    options.get_all_options()
  )
  if unknown:
    raise UserError(
      f"--{min(unknown)} is a flag neither of this program nor of Apache Beam."
    )
  return options


def run(
  options: pipeline_options.PipelineOptions,
  input_files: Sequence[str],
  parser: corpus.Parser,
  settings: instances.Settings,
  output: shards.ShardedOutput,
  check_counts: Callable[[collections.Counter], None],
  counts_file: str,
) -> None:
  """Makes the shards that are not there yet.

  Args:
    options: of Beam.
    input_files: paths that all machines can read.
    parser: of the text.
    settings: of the records.
    output: where they go; all machines can write there.
    check_counts: raises an error, before anything is written, if the counts of
      all blocks say that there is nothing to write.
    counts_file: where to write these counts, as JSON.

  Raises:
    UserError: the text cannot be used, or a file cannot be written.
  """
  # Other runners may keep their workers for other programs.
  runner = options.view_as(pipeline_options.StandardOptions).runner or ""
  program = None
  if runner.endswith("DirectRunner"):
    program = Program.of_this_process(output.lock_files[0])
  _call_in_thread(
    functools.partial(
      _run_pipeline,
      options,
      input_files,
      parser,
      settings,
      output,
      check_counts,
      counts_file,
      program,
    )
  )


def _call_in_thread(function: Callable[[], None]) -> None:
  """Calls a function in another thread, and returns when it has ended.

  Signals interrupt the main thread. In the middle of Beam, the interruption
  would be taken for an error of the pipeline.
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
    raise _user_error(error) or error


def _user_error(error: Exception) -> UserError | None:
  """Returns the error for the user that an error of Beam tells of, if any.

  Beam adds the step to the text of an error, and puts the text of an error of
  another process into one of its own.
  """
  text = str(error)
  if not isinstance(error, UserError):
    _, name, text = text.rpartition("UserError: ")
    if not name:
      return None
  return UserError(re.sub(r" \[while running .*", "", text, flags=re.DOTALL))


def _run_pipeline(
  options,
  input_files,
  parser,
  settings,
  output,
  check_counts,
  counts_file,
  program: Program | None,
) -> None:
  size = corpus.block_bytes(input_files)
  missing = frozenset(output.missing_shards())
  with beam.Pipeline(options=options) as pipeline:
    made = (
      pipeline
      | "Units" >> beam.Create(list(enumerate(corpus.units(input_files, size))))
      | "Read"
      >> beam.FlatMapTuple(
        lambda number, unit: corpus.read_blocks(unit, number, size)
      )
      # Lets other machines make the records than the one that reads.
      | "Reshuffle" >> beam.Reshuffle()
      | "Make"
      >> beam.ParDo(
        _MakeRecords(parser, settings, output, missing, program)
      ).with_outputs("counts", main="parts")
    )
    counts = (
      made.counts
      | "Add" >> beam.CombineGlobally(_add_counts)
      | "Check" >> beam.Map(_checked, check_counts)
    )
    _ = (
      made.parts
      | "Group" >> beam.GroupByKey()
      # The counts are an argument so that nothing is written before the
      # check.
      | "Write"
      >> beam.Map(
        lambda shard, counts: _write_shard(output, program, *shard),
        beam.pvalue.AsSingleton(counts),
      )
    )
    _ = counts | "Counts" >> beam.Map(
      functools.partial(file_io.write_json, counts_file)
    )


class _MakeRecords(beam.DoFn):
  """Yields (shard, part) for blocks, and their counts."""

  def __init__(self, parser, settings, output, shards_to_write, program):
    self._parser = parser
    self._settings = settings
    self._output = output
    self._shards_to_write = shards_to_write
    self._program = program

  def setup(self):
    if self._program:
      self._program.bind()
    self._maker = instances.InstanceMaker(self._settings)

  def process(self, block: corpus.Block):
    counts = collections.Counter()
    records = self._maker.make(
      block.number, self._parser.documents(block, counts), counts
    )
    for number, part in enumerate(
      shards.deal(records, self._output.num_buckets)
    ):
      for bucket, content in enumerate(part):
        shard = self._output.shard_of(bucket)
        if shard in self._shards_to_write:
          yield shard, Part(bucket, block.number, number, content)
    yield beam.pvalue.TaggedOutput("counts", dict(counts))


def _add_counts(all_counts: Iterable[dict[str, int]]) -> dict[str, int]:
  total = collections.Counter()
  for counts in all_counts:
    total.update(counts)
  return dict(total)


def _checked(counts, check_counts):
  check_counts(collections.Counter(counts))
  return counts


def _write_shard(
  output: shards.ShardedOutput,
  program: Program | None,
  shard: int,
  parts: Iterable[Part],
) -> None:
  """Writes a shard, of which one bucket at a time is in memory."""
  if program:
    program.bind()
  with tempfile.TemporaryFile() as file:
    places = collections.defaultdict(list)
    for part in parts:
      places[part.bucket].append(
        (part.block, part.number, file.tell(), len(part.content))
      )
      file.write(part.content)

    def contents(bucket) -> Iterator[bytes]:
      for _, _, place, length in sorted(places[bucket]):
        file.seek(place)
        yield file.read(length)

    output.write_shuffled(shard, contents)
