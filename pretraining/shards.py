"""Records to shuffled files, in bounded memory, whatever is interrupted.

    blocks --write_block--> parts, by bucket --write_shard--> shards

Each record goes to a bucket at random; a shard is a few buckets, and a bucket
is small enough to be shuffled in memory. Blocks that are done are files of a
folder of parts next to the output. A block that is whole there is not made
again, and a shard that is there is whole.
"""

import collections
from collections.abc import Iterable, Iterator, Mapping, Sequence
import dataclasses
import re

import numpy as np
import tensorflow as tf

from data import file_io
from data import locks
from data import record_files
from data import unfinished
from errors import UserError
from pretraining import instances

_BUCKET_BYTES = 2**26
# How many bytes of records are sorted by bucket at once.
_PART_BYTES = 2**25

# Of a block: the number of its unit of input, and its own within that.
Number = tuple[int, ...]
# Of a block: the `counts` of what it holds, and the `places` of the buckets in
# each of its parts.
Index = Mapping[str, object]


def output_files(output_file: str, num_shards: int) -> list[str]:
  """Returns the files that a pattern of the command line stands for.

  Args:
    output_file: paths, separated by commas.
    num_shards: 0 for these paths; or how many files to make of the one, named
      `<path>-00000-of-00064`.

  Raises:
    UserError: there is no path, one is there twice, or several are to be
      divided.
  """
  files = [name.strip() for name in output_file.split(",") if name.strip()]
  repeated = [
    name for name, count in collections.Counter(files).items() if count > 1
  ]
  if not files or repeated:
    raise UserError(
      f"--output_file={output_file} names "
      f"{'a file twice' if repeated else 'no file'}."
    )
  if not num_shards:
    return files
  if len(files) > 1:
    raise UserError(
      f"--output_file={output_file} names {len(files)} files, and "
      f"--num_shards={num_shards} would divide one. Give one of the two."
    )
  return [f"{files[0]}-{i:05d}-of-{num_shards:05d}" for i in range(num_shards)]


def num_buckets(num_files: int, expected_bytes: int) -> int:
  """Returns how many buckets records of so many bytes should be dealt to."""
  return num_files * max(1, -(-expected_bytes // (num_files * _BUCKET_BYTES)))


@dataclasses.dataclass(frozen=True)
class ShardedOutput:
  """Files of records that are being made.

  Attributes:
    files: the paths of the shards.
    num_buckets: a multiple of their number.
    seed: of the order.
    settings: what decides the content; a build goes on only with the same.
  """

  files: Sequence[str]
  num_buckets: int
  seed: int
  settings: Mapping[str, object]

  @property
  def report_file(self) -> str:
    return _stem(self.files[0]) + file_io.REPORT_SUFFIX

  @property
  def parts_folder(self) -> unfinished.PartsFolder:
    return unfinished.PartsFolder(
      _stem(self.files[0]) + file_io.PARTS_SUFFIX, self.settings
    )

  @property
  def lock_files(self) -> list[str]:
    """The files by which programs that write here keep each other out."""
    is_family = self.files[0].endswith(f"-00000-of-{len(self.files):05d}")
    names = self.files[:1] if is_family else self.files
    return sorted({_stem(name) + locks.SUFFIX for name in names})

  # --- Beginning and ending --------------------------------------------------

  def is_complete(self) -> bool:
    """Whether all that is to be made is there."""
    if not all(map(tf.io.gfile.exists, (*self.files, self.report_file))):
      return False
    try:
      report = file_io.read_json(self.report_file)
    except UserError:
      return False
    return report.get("settings") == self.parts_folder.settings

  def begin(self, overwrite: bool) -> None:
    """Makes the folder of parts, or takes up one that is there.

    Args:
      overwrite: whether to delete what is there of another build.

    Raises:
      UserError: there is another build, and it is not to be overwritten.
    """
    folder = self.parts_folder
    if folder.known_settings() == folder.settings:
      folder.open()
      return
    there = [file for file in self.files if tf.io.gfile.exists(file)]
    changed = ""
    differing = folder.differing_settings()
    if differing:
      there.append(folder.path)
      changed = f" It was begun with other settings: {', '.join(differing)}."
    if there and not overwrite:
      raise UserError(
        f"{there[0]} exists already.{changed} Delete it, name "
        "another --output_file, or pass --overwrite."
      )
    # First the shards: while parts are there, a shard counts as made of them.
    file_io.remove_if_there([*self.files, self.report_file])
    folder.open()

  def finish(self, report: Mapping[str, object]) -> None:
    """Writes the report and removes the parts."""
    file_io.write_json(self.report_file, {**report, "settings": self.settings})
    self.parts_folder.remove()

  # --- Blocks ----------------------------------------------------------------

  def write_block(
    self,
    number: Number,
    records: Iterable[tuple[instances.Records, np.random.Generator]],
    counts: collections.Counter,
  ) -> Index:
    """Writes the parts of a block, and that it is done.

    Args:
      number: of the block.
      records: of the block, with the generator that deals them to buckets.
      counts: what to remember of the block, once all records are there.

    Raises:
      UserError: a file cannot be written.
    """
    name = _block_name(number)
    places = []
    with file_io.atomic_file(self.parts_folder.path_of(name)) as temporary:
      with tf.io.gfile.GFile(temporary, "wb") as writer:
        place = 0
        writer.write(b"")  # even without records there is a file
        for part in deal(records, self.num_buckets):
          sizes = [len(content) for content in part]
          places.append([place, *(place + np.cumsum(sizes)).tolist()])
          place = places[-1][-1]
          writer.write(b"".join(part))
    index = {"counts": dict(counts), "places": places}
    self.parts_folder.record(name, index)
    return index

  def read_index(self, number: Number) -> Index | None:
    """Returns the index of a block, or None if it has to be made."""
    return self.parts_folder.facts(_block_name(number))

  def shard_of(self, bucket: int) -> int:
    """Returns the number of the shard that a bucket is part of."""
    return bucket % len(self.files)

  # --- Shards ----------------------------------------------------------------

  def missing_shards(self) -> list[int]:
    """Returns the numbers of the shards that are not there yet."""
    return [
      i for i, file in enumerate(self.files) if not tf.io.gfile.exists(file)
    ]

  def write_shard(self, indices: Mapping[Number, Index], shard: int) -> None:
    """Shuffles the records of a shard and writes its file.

    Args:
      indices: of all blocks.
      shard: its number.

    Raises:
      UserError: the file cannot be written.
    """

    def contents(bucket):
      for number, index in sorted(indices.items()):
        with tf.io.gfile.GFile(
          self.parts_folder.path_of(_block_name(number)), "rb"
        ) as reader:
          for places in index["places"]:
            reader.seek(places[bucket])
            yield reader.read(places[bucket + 1] - places[bucket])

    self.write_shuffled(shard, contents)

  def write_shuffled(self, shard: int, contents) -> None:
    """Writes the file of a shard from `deal`ed bytes.

    Args:
      shard: its number.
      contents: function of the number of a bucket that gives, in order, what
        `deal` made for it of each part.
    """
    record_files.write_records(
      self.files[shard],
      (
        record
        for bucket in range(self.num_buckets)
        if self.shard_of(bucket) == shard
        for record in self._shuffled(bucket, contents(bucket))
      ),
      # What a kill leaves there goes with the folder.
      temporary_dir=self.parts_folder.path,
    )

  def _shuffled(self, bucket: int, contents) -> Iterator[bytes]:
    records = [record for content in contents for record in _split(content)]
    rng = np.random.Generator(np.random.PCG64([self.seed % 2**64, bucket]))
    for place in rng.permutation(len(records)).tolist():
      yield records[place]


def _stem(file: str) -> str:
  """Returns the path of the files next to an output, without their endings."""
  path = re.sub(r"-00000-of-\d{5}$", "", file)
  return re.sub(r"\.tf_?records?$", "", path)


def _block_name(number: Number) -> str:
  return f"block-{'-'.join(map(str, number))}.records"


def deal(
  records: Iterable[tuple[instances.Records, np.random.Generator]],
  num_buckets: int,
) -> Iterator[list[bytes]]:
  """Deals records to buckets, in turn and in random order.

  Yields:
    For each some ten megabytes of records, the bytes of each bucket: how many
    records there are, their lengths (uint32 both), and the records.
  """
  lengths, contents = [], []
  size = 0
  for part, rng in records:
    ends = np.cumsum(part.lengths)
    view = memoryview(part.content)
    contents += [
      view[end - length : end]
      for end, length in zip(ends.tolist(), part.lengths.tolist())
    ]
    lengths += part.lengths.tolist()
    size += len(view)
    if size >= _PART_BYTES:
      yield _dealt(lengths, contents, num_buckets, rng)
      lengths, contents, size = [], [], 0
  if contents:
    yield _dealt(lengths, contents, num_buckets, rng)


def _dealt(lengths, contents, num_buckets, rng) -> list[bytes]:
  order = rng.permutation(len(contents)).tolist()
  first = int(rng.integers(num_buckets))
  buckets = []
  for bucket in range(num_buckets):
    places = order[(bucket - first) % num_buckets :: num_buckets]
    header = np.array([len(places), *(lengths[i] for i in places)], "<u4")
    buckets.append(b"".join([header.tobytes(), *(contents[i] for i in places)]))
  return buckets


def _split(content: bytes) -> Iterator[bytes]:
  """Yields the records of one bucket, as `_dealt` put them together."""
  count = int(np.frombuffer(content, "<u4", 1)[0])
  lengths = np.frombuffer(content, "<u4", count, offset=4)
  place = 4 * (1 + count)
  for length in lengths.tolist():
    yield content[place : place + length]
    place += length


def size_of_parts(indices: Mapping[Number, Index]) -> int:
  """Returns how many bytes the parts of blocks have."""
  return sum(
    places[-1] for index in indices.values() for places in index["places"]
  )
