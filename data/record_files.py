"""TFRecord files: written, reused, and searched for damage.

Next to a file of records that a program makes for itself, it writes a stamp: a
digest of everything that the records depend on, and the checksum of the file.
If a later run has the same digest and the file is intact, it uses the records
as they are.

Each record of a TFRecord file is stored as:

    length (8 bytes)  its checksum (4)  the record  its checksum (4)

Damage is searched for only after TensorFlow has failed to read a file, or when
it is to be skipped, so reading intact files takes no extra time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from typing import NamedTuple
import unicodedata
import zlib

from absl import logging
import numpy as np
import tensorflow as tf

from data import file_io
from errors import UserError

STAMP_SUFFIX = ".stamp.json"
# Raised when the same input gives other records than before.
_VERSION = 1
_CHUNK_BYTES = 2**22
_RECORDS_PER_BATCH = 1024
# Maximum number of damaged records of one file that may be skipped.
_MAX_DAMAGED = 100
_HEADER_BYTES = 12
# Name of a fact about records: the number of examples that did not fit into one
# sequence.
TOO_LONG = "num_too_long"
_FRAME_BYTES = 16  # the header, and the checksum of the record


def write_records(
  path: str, records: Iterable[bytes], temporary_dir: str | None = None
) -> int:
  """Writes a TFRecord file, completely or not at all.

  Args:
    path: Path of the file.
    records: Serialized records.
    temporary_dir: Folder for the unfinished file; see `file_io.atomic_file`.

  Returns:
    The number of records.
  """
  count = 0
  with file_io.atomic_file(path, temporary_dir) as temporary:
    with tf.io.TFRecordWriter(temporary) as writer:
      for record in records:
        writer.write(record)
        count += 1
  return count


# --- Reused records ----------------------------------------------------------


class StampedFile(NamedTuple):
  """A file of records that a program made for itself.

  Attributes:
    facts: Facts about the records that their maker stored, as JSON.
    checksum: CRC-32 of the file.
  """

  facts: dict
  checksum: int


def reuse_or_write_file(
  path: str, digest: str, write: Callable[[], dict]
) -> StampedFile:
  """Returns a file of records, which is written unless it exists already.

  Args:
    path: Path of the file.
    digest: Digest of everything that the records depend on; see
      `compute_digest`.
    write: Function that writes the file and returns facts about it, as JSON.
  """
  stamp_file = path + STAMP_SUFFIX
  stamp = _read_stamp(stamp_file)
  stamped_size = stamp.get("bytes"), stamp.get("crc32")
  if stamp.get("digest") == digest and _measure_file(path) == stamped_size:
    logging.info(
      "Using %s, which was made from the same input with the same settings.",
      path,
    )
    return StampedFile(stamp["facts"], stamp["crc32"])
  # The facts are the same as if they had been read from the stamp.
  facts = json.loads(json.dumps(write()))
  num_bytes, checksum = _measure_file(path)
  stamp = {
    "digest": digest,
    "bytes": num_bytes,
    "crc32": checksum,
    "facts": facts,
    "facts_crc32": _compute_facts_checksum(facts),
  }
  file_io.write_json(stamp_file, stamp)
  return StampedFile(facts, checksum)


def _read_stamp(path: str) -> dict:
  """Returns the content of a stamp; empty if it is missing or damaged."""
  if not tf.io.gfile.exists(path):
    return {}
  try:
    stamp = file_io.read_json(path)
  except UserError as error:
    logging.warning("%s The records are made again.", error)
    return {}
  facts = stamp.get("facts")
  if not isinstance(facts, dict):
    return {}
  if stamp.get("facts_crc32") != _compute_facts_checksum(facts):
    return {}
  return stamp


def _compute_facts_checksum(facts: dict) -> int:
  return zlib.crc32(json.dumps(facts, sort_keys=True).encode())


def _measure_file(path: str) -> tuple[int, int]:
  """Returns the size and the CRC-32 of a file; zeros if there is none."""
  if not tf.io.gfile.exists(path):
    return 0, 0
  return file_io.file_size(path), file_io.compute_checksum(path)


def compute_digest(*parts) -> str:
  """Returns a digest of dataclasses, arrays, and JSON values.

  It also depends on the version of this code, if that makes other records, and
  on the version of Unicode, because Python versions classify characters
  differently.
  """
  digest = hashlib.sha256()
  for part in (_VERSION, unicodedata.unidata_version, *parts):
    if isinstance(part, np.ndarray):
      header = f"{part.dtype.str}{part.shape}"
      digest.update(header.encode())
      digest.update(np.ascontiguousarray(part).data)
    else:
      digest.update(json.dumps(part, default=_to_json).encode())
  return digest.hexdigest()


def _to_json(value) -> object:
  """Returns the JSON form of a dataclass."""
  if dataclasses.is_dataclass(value):
    return [type(value).__name__, *vars(value).values()]
  raise TypeError(f"{type(value)} has no digest.")


def compute_tokenizer_digest(tokenizer) -> str:
  """Returns a digest of everything that decides how a text is tokenized."""
  basic = tokenizer.basic_tokenizer
  unusual = tokenizer.settings.unusual_fields()
  return compute_digest(
    list(tokenizer.vocab.items()),
    basic.do_lower_case,
    basic.strip_accents,
    sorted(basic.never_split),
    # Most tokenizers have none, and records that were made before there were
    # such settings can be used again.
    *([unusual] if unusual else []),
  )


# --- Damage ------------------------------------------------------------------


class Damage(NamedTuple):
  """A record that cannot be used.

  Attributes:
    file: Path of its file.
    record: Number of the record, from 1.
    problem: Description of the problem.
  """

  file: str
  record: int
  problem: str

  def __str__(self) -> str:
    return f"{self.file}, record {self.record}: {self.problem}"


# A function that examines the content of a batch of records, and returns the
# problems of the bad ones by their index in the batch.
FindProblems = Callable[[Sequence[bytes]], Mapping[int, str]]


def find_damage(
  files: Sequence[str], find_problems: FindProblems
) -> Damage | None:
  """Returns the first damaged record of some files, or None."""
  for file in files:
    for part in _scan_file(file, find_problems, None):
      if isinstance(part, Damage):
        return part
  return None


def read_readable_records(file: str) -> Iterator[bytes]:
  """Yields the records of a file whose checksums are correct."""
  with tempfile.TemporaryDirectory() as temporary_dir:
    for part in _scan_file(file, _find_no_problems, temporary_dir):
      if not isinstance(part, Damage):
        yield from part


def _find_no_problems(records: Sequence[bytes]) -> Mapping[int, str]:
  del records
  return {}


def copy_undamaged_records(
  file: str, folder: str, find_problems: FindProblems
) -> tuple[str, list[Damage]]:
  """Copies a file without its damaged records, if there are any.

  Args:
    file: Path of the file.
    folder: Folder for the copy.
    find_problems: Function that examines the content of records.

  Returns:
    The path of the copy, or of the file itself if it has no damage; and the
    damaged records.

  Raises:
    UserError: The file has too much damage to be skipped.
  """
  file_io.remove_leftovers(folder)
  damages = []

  def undamaged_records():
    with tempfile.TemporaryDirectory() as temporary_dir:
      for part in _scan_file(file, find_problems, temporary_dir):
        if not isinstance(part, Damage):
          yield from part
          continue
        damages.append(part)
        if len(damages) > _MAX_DAMAGED:
          raise UserError(
            f"{file} has more than {_MAX_DAMAGED} damaged records. Make it "
            "again."
          )

  if find_damage([file], find_problems) is None:
    return file, []
  copy = os.path.join(folder, os.path.basename(file))
  write_records(copy, undamaged_records())
  return copy, damages


def _scan_file(
  file: str, find_problems: FindProblems, temporary_dir: str | None
) -> Iterator[list[bytes] | Damage]:
  """Yields lists of undamaged records and single damaged ones, in order.

  TensorFlow reads no further than a record with a wrong checksum. The rest of
  the file is copied, and the copy is read like another file:

      file     1 2 3 X 5 6 X 8      X = wrong checksum
      rest-4           5 6 X 8
      rest-7                 8

  Args:
    file: Path of the file.
    find_problems: Function that examines the content of records.
    temporary_dir: Folder for such copies; None to end at a wrong checksum.
  """
  number = 1  # of the next record in the original file
  rest = file
  while True:
    size = file_io.file_size(rest)
    offset = 0  # of the next record in `rest`
    for batch in _read_batches(rest):
      # The checksums of these records are right; their content may not be.
      problems = find_problems(batch)
      yield [record for i, record in enumerate(batch) if i not in problems]
      for i in sorted(problems):
        yield Damage(file, number + i, problems[i])
      number += len(batch)
      offset += sum(_FRAME_BYTES + len(record) for record in batch)
    if offset >= size:
      return
    # TensorFlow cannot read the record at `offset`.
    length = _read_length(rest, offset)
    end = offset + _FRAME_BYTES + (length or 0)
    if length is None or end > size:
      yield Damage(
        file,
        number,
        f"it is damaged or cut off, so the last {size - offset} bytes of the "
        "file cannot be read",
      )
      return
    yield Damage(file, number, "its checksum is wrong, so it is damaged")
    if temporary_dir is None:
      return
    target = os.path.join(temporary_dir, f"rest-{number}")
    rest = _copy_from(rest, end, target)
    number += 1


def _copy_from(file: str, offset: int, target: str) -> str:
  """Copies the end of a file, from a byte on; returns the path of the copy."""
  with tf.io.gfile.GFile(file, "rb") as reader, open(target, "wb") as writer:
    reader.seek(offset)
    shutil.copyfileobj(reader, writer, _CHUNK_BYTES)
  return target


def _read_batches(file: str) -> Iterator[list[bytes]]:
  """Yields records in batches, up to the first one with a wrong checksum."""
  dataset = tf.data.TFRecordDataset(file)
  num_read = 0
  try:
    for batch in dataset.batch(_RECORDS_PER_BATCH).as_numpy_iterator():
      yield batch.tolist()
      num_read += len(batch)
  except tf.errors.DataLossError:
    # The batch that failed contains good records before the bad one.
    rest = []
    try:
      for record in dataset.skip(num_read).as_numpy_iterator():
        rest.append(record)
    except tf.errors.DataLossError:
      pass
    if rest:
      yield rest


def _read_length(file: str, offset: int) -> int | None:
  """Returns the length of the record at a byte; None if it is damaged."""
  with tf.io.gfile.GFile(file, "rb") as reader:
    reader.seek(offset)
    header = reader.read(_HEADER_BYTES)
  if len(header) < _HEADER_BYTES:
    return None
  length, checksum = header[:8], int.from_bytes(header[8:], "little")
  if _compute_masked_crc32c(length) != checksum:
    return None
  return int.from_bytes(length, "little")


def _compute_masked_crc32c(content: bytes) -> int:
  """Returns the checksum that TFRecord files use, for a few bytes."""
  crc = 0xFFFFFFFF
  for byte in content:
    crc ^= byte
    for _ in range(8):
      is_odd = crc & 1
      crc >>= 1
      if is_odd:
        crc ^= 0x82F63B78
  crc ^= 0xFFFFFFFF
  # Rotated and shifted, because a checksum of data with checksums is weak.
  rotated = (crc >> 15 | crc << 17) & 0xFFFFFFFF
  return (rotated + 0xA282EAD8) & 0xFFFFFFFF
