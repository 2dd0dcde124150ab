"""Records to shuffled files, in bounded memory; an interrupted build resumes.

    blocks --write_block--> parts, by bucket --write_shard--> shards

Each record goes to a random bucket. A shard consists of a few buckets, each
small enough to be shuffled in memory. The records of finished blocks are stored
in a folder of parts next to the output. If the program is killed, the next run
uses the blocks that are complete there, and the shards that exist.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import dataclasses
import re
from typing import Any

import numpy as np
import tensorflow as tf

from data import file_io
from data import locks
from data import record_files
from data import unfinished
from errors import UserError
from pretraining import instances

_BUCKET_BYTES = 2**26
# Number of bytes of records that are distributed to buckets at once.
_PART_BYTES = 2**25

# The number of a block: that of its unit of input, and its own within the unit.
BlockNumber = tuple[int, ...]
# The content of the file of a block: its `counts`, and for each of its parts
# the `places` where the buckets begin and end.
BlockIndex = Mapping[str, Any]


def list_output_files(output_file: str, num_shards: int) -> list[str]:
  """Returns the paths of the shards.

  Args:
    output_file: Paths, separated by commas.
    num_shards: Number of files to divide a single path into, which are named
      `<path>-00000-of-00064`; 0 to use the paths as they are.

  Raises:
    UserError: There is no path, a path occurs twice, or several paths should
      be divided.
  """
  files = [name.strip() for name in output_file.split(",") if name.strip()]
  if not files:
    raise UserError(f"--output_file={output_file} names no file.")
  if len(set(files)) < len(files):
    raise UserError(f"--output_file={output_file} names a file twice.")
  if not num_shards:
    return files
  if len(files) > 1:
    raise UserError(
      f"--output_file={output_file} names {len(files)} files, and "
      f"--num_shards={num_shards} would divide one. Give one of the two."
    )
  return [f"{files[0]}-{i:05d}-of-{num_shards:05d}" for i in range(num_shards)]


def choose_num_buckets(num_files: int, expected_bytes: int) -> int:
  """Returns the number of buckets for records of some size in total."""
  buckets_per_file = -(-expected_bytes // (num_files * _BUCKET_BYTES))
  return num_files * max(1, buckets_per_file)


@dataclasses.dataclass(frozen=True)
class ShardedOutput:
  """Files of records that are being made.

  Attributes:
    files: Paths of the shards.
    num_buckets: Number of buckets, a multiple of the number of shards.
    seed: Seed of the order of the records.
    settings: Everything that the records depend on. An interrupted build
      resumes only with the same settings.
  """

  files: Sequence[str]
  num_buckets: int
  seed: int
  settings: Mapping[str, object]

  @property
  def report_file(self) -> str:
    return _strip_suffixes(self.files[0]) + file_io.REPORT_SUFFIX

  @property
  def page_file(self) -> str:
    """Path of the page about the records."""
    return _strip_suffixes(self.files[0]) + file_io.PAGE_SUFFIX

  @property
  def parts_folder(self) -> unfinished.PartsFolder:
    path = _strip_suffixes(self.files[0]) + file_io.PARTS_SUFFIX
    return unfinished.PartsFolder(path, self.settings)

  @property
  def lock_files(self) -> list[str]:
    """Paths of the lock files of all shards, which may share one."""
    is_divided = self.files[0].endswith(f"-00000-of-{len(self.files):05d}")
    files = self.files[:1] if is_divided else self.files
    return sorted({_strip_suffixes(file) + locks.SUFFIX for file in files})

  # --- Beginning and ending --------------------------------------------------

  def is_complete(self) -> bool:
    """Returns whether all files exist, made with the same settings."""
    for file in (*self.files, self.report_file):
      if not tf.io.gfile.exists(file):
        return False
    try:
      report = file_io.read_json(self.report_file)
    except UserError:
      return False
    return report.get("settings") == self.parts_folder.settings

  def begin(self, overwrite: bool) -> None:
    """Creates the folder of parts, or resumes a build that was interrupted.

    Args:
      overwrite: Whether to delete the files of another build.

    Raises:
      UserError: There are files of another build, and `overwrite` is false.
    """
    folder = self.parts_folder
    # An interrupted build with the same settings: its blocks are reused.
    if folder.read_settings() == folder.settings:
      folder.open()
      return
    existing = list(filter(tf.io.gfile.exists, self.files))
    differing = folder.find_differing_settings()
    reason = ""
    if differing:
      existing.append(folder.path)
      reason = f" It was begun with other settings: {', '.join(differing)}."
    if existing and not overwrite:
      raise UserError(
        f"{existing[0]} exists already.{reason} Delete it, name another "
        "--output_file, or pass --overwrite."
      )
    # The old shards go first: a shard that exists next to parts counts as made
    # from these parts.
    file_io.remove_existing_files(
      [*self.files, self.report_file, self.page_file]
    )
    folder.open()

  def finish(self, report: Mapping[str, object]) -> None:
    """Writes the report and removes the parts."""
    file_io.write_json(self.report_file, {**report, "settings": self.settings})
    self.parts_folder.remove()

  # --- Blocks ----------------------------------------------------------------

  def write_block(
    self,
    number: BlockNumber,
    records: Iterable[tuple[instances.SerializedRecords, np.random.Generator]],
    counts: collections.Counter,
  ) -> BlockIndex:
    """Writes the records of a block, sorted by bucket, and its index.

    The file has several parts of some megabytes, each with all buckets:

        content   bucket 0 | bucket 1 | bucket 0 | bucket 1
        places    [0         100        220]
                                       [220        310        420]

    Args:
      number: Number of the block.
      records: Records of the block, with the generator for their order.
      counts: Counts of the block, complete after the last record was read.

    Raises:
      UserError: A file cannot be written.
    """
    name = _block_name(number)
    places = []
    with file_io.atomic_file(self.parts_folder.path_of(name)) as temporary:
      with tf.io.gfile.GFile(temporary, "wb") as writer:
        writer.write(b"")  # so that a file exists even without records
        start = 0
        for part in split_into_buckets(records, self.num_buckets):
          bucket_sizes = [len(content) for content in part]
          bucket_ends = start + np.cumsum(bucket_sizes)
          places.append([start, *bucket_ends.tolist()])
          start = places[-1][-1]
          writer.write(b"".join(part))
    index = {"counts": dict(counts), "places": places}
    self.parts_folder.complete_part(name, index)
    return index

  def read_index(self, number: BlockNumber) -> BlockIndex | None:
    """Returns the index of a block, or None if the block has to be made."""
    return self.parts_folder.read_facts(_block_name(number))

  def shard_of_bucket(self, bucket: int) -> int:
    """Returns the number of the shard that contains a bucket."""
    return bucket % len(self.files)

  # --- Shards ----------------------------------------------------------------

  def missing_shards(self) -> list[int]:
    """Returns the numbers of the shards that do not exist yet."""
    missing = []
    for shard, file in enumerate(self.files):
      if not tf.io.gfile.exists(file):
        missing.append(shard)
    return missing

  def write_shard(
    self, indices: Mapping[BlockNumber, BlockIndex], shard: int
  ) -> None:
    """Writes a shard from the files of all blocks.

    Args:
      indices: Indices of all blocks.
      shard: Number of the shard.

    Raises:
      UserError: The file cannot be written.
    """

    def read_bucket(bucket: int) -> Iterator[bytes]:
      for number, index in sorted(indices.items()):
        path = self.parts_folder.path_of(_block_name(number))
        with tf.io.gfile.GFile(path, "rb") as reader:
          for places in index["places"]:
            start, end = places[bucket], places[bucket + 1]
            reader.seek(start)
            yield reader.read(end - start)

    self.write_shuffled_shard(shard, read_bucket)

  def write_shuffled_shard(
    self, shard: int, read_bucket: Callable[[int], Iterable[bytes]]
  ) -> None:
    """Writes a shard with the records of its buckets in random order.

    Args:
      shard: Number of the shard.
      read_bucket: Function that returns, for the number of a bucket, its
        content in each part of each block, in order.
    """

    def shuffled_records() -> Iterator[bytes]:
      for bucket in range(self.num_buckets):
        if self.shard_of_bucket(bucket) == shard:
          yield from self._shuffle_bucket(bucket, read_bucket(bucket))

    record_files.write_records(
      self.files[shard],
      shuffled_records(),
      # If the program is killed, the temporary file goes with this folder.
      temporary_dir=self.parts_folder.path,
    )

  def _shuffle_bucket(
    self, bucket: int, contents: Iterable[bytes]
  ) -> Iterator[bytes]:
    records: list[bytes] = []
    for content in contents:
      records.extend(_split_records(content))
    seed = [self.seed % 2**64, bucket]
    rng = np.random.Generator(np.random.PCG64(seed))
    for place in rng.permutation(len(records)).tolist():
      yield records[place]


def _strip_suffixes(file: str) -> str:
  """Returns the start of the names of files next to an output file."""
  path = re.sub(r"-00000-of-\d{5}$", "", file)
  return re.sub(r"\.tf_?records?$", "", path)


def _block_name(number: BlockNumber) -> str:
  return f"block-{'-'.join(map(str, number))}.records"


# --- Buckets -----------------------------------------------------------------


def split_into_buckets(
  records: Iterable[tuple[instances.SerializedRecords, np.random.Generator]],
  num_buckets: int,
) -> Iterator[list[bytes]]:
  """Distributes records to buckets, at random and evenly.

  Yields:
    For every some ten megabytes of records, the content of each bucket: the
    number of records and their lengths, as uint32, and the records.
  """
  lengths: list[int] = []
  contents: list[memoryview] = []
  size = 0
  for serialized, rng in records:
    # Views, so that the bytes are copied only once, into their bucket.
    view = serialized.content.data
    new_lengths = serialized.lengths.tolist()
    ends = np.cumsum(serialized.lengths).tolist()
    for end, length in zip(ends, new_lengths):
      contents.append(view[end - length : end])
    lengths += new_lengths
    size += len(view)
    if size >= _PART_BYTES:
      yield _create_part(lengths, contents, num_buckets, rng)
      lengths, contents, size = [], [], 0
  if contents:
    yield _create_part(lengths, contents, num_buckets, rng)


def _create_part(
  lengths: Sequence[int],
  contents: Sequence[memoryview],
  num_buckets: int,
  rng: np.random.Generator,
) -> list[bytes]:
  """Returns the content of each bucket; see `split_into_buckets`.

  order            4 1 0 3 2     random order of the records
  first = 1 of 2   1 0 1 0 1     buckets in turn, from a random one on
  """
  order = rng.permutation(len(contents)).tolist()
  first = int(rng.integers(num_buckets))
  buckets = []
  for bucket in range(num_buckets):
    start = (bucket - first) % num_buckets
    numbers = order[start::num_buckets]
    bucket_lengths = [lengths[i] for i in numbers]
    header = np.array([len(numbers), *bucket_lengths], "<u4")
    bucket_contents = [contents[i] for i in numbers]
    buckets.append(b"".join([header.tobytes(), *bucket_contents]))
  return buckets


def _split_records(content: bytes) -> Iterator[bytes]:
  """Yields the records of one bucket of one part."""
  count = int(np.frombuffer(content, "<u4", 1)[0])
  lengths = np.frombuffer(content, "<u4", count, offset=4)
  start = 4 * (1 + count)
  for length in lengths.tolist():
    yield content[start : start + length]
    start += length


def count_part_bytes(indices: Mapping[BlockNumber, BlockIndex]) -> int:
  """Returns the total size of the parts of blocks."""
  total = 0
  for index in indices.values():
    total += sum(places[-1] for places in index["places"])
  return total
