"""TFRecord files: used again where they are as they would be made, and damage.

A file of records that a program makes for itself gets a stamp next to it: a
digest of all that the records depend on, and the checksum of the file. A later
run with the same digest and an undamaged file takes the records as they are.

    length (8 bytes)  its checksum (4)  the record  its checksum (4)

Damage is looked for only after TensorFlow has failed on a file, or when it is
to be skipped. Reading undamaged files costs nothing more.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from typing import (
  NamedTuple,
)
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
# How many damaged records of one file may be left out.
_MOST_DAMAGED = 100
_HEADER_BYTES = 12
_FRAME_BYTES = 16  # a header and the checksum of the record


# --- Records that are used again ---------------------------------------------


class StampedFile(NamedTuple):
  """A file of records that a program made for itself.

  Attributes:
    facts: what its maker wants to know of it, as JSON.
    checksum: of its bytes, CRC-32.
  """

  facts: dict
  checksum: int


def reuse_or_write(
  path: str, digest: str, write: Callable[[], dict]
) -> StampedFile:
  """Takes a file of records as it is, if it is as it would be made.

  Args:
    path: of the file.
    digest: of all that the records depend on, see `digest_of`.
    write: writes the file, and returns facts about it that are JSON.
  """
  stamp_file = path + STAMP_SUFFIX
  known = _read_stamp(stamp_file)
  if known.get("digest") == digest and (
    _checksum(path) == (known.get("bytes"), known.get("crc32"))
  ):
    logging.info(
      "%s is used again: it was made of the same input with the same settings.",
      path,
    )
    return StampedFile(known["facts"], known["crc32"])
  facts = json.loads(json.dumps(write()))
  num_bytes, checksum = _checksum(path)
  file_io.write_json(
    stamp_file,
    {
      "digest": digest,
      "bytes": num_bytes,
      "crc32": checksum,
      "facts": facts,
      "facts_crc32": _checksum_of_facts(facts),
    },
  )
  return StampedFile(facts, checksum)


def _read_stamp(path: str) -> dict:
  """Returns what a stamp says; nothing if it is missing or damaged."""
  if not tf.io.gfile.exists(path):
    return {}
  try:
    stamp = file_io.read_json(path)
  except UserError as error:
    logging.warning("%s The records are made again.", error)
    return {}
  facts = stamp.get("facts")
  is_whole = isinstance(facts, dict) and (
    _checksum_of_facts(facts) == stamp.get("facts_crc32")
  )
  return stamp if is_whole else {}


def _checksum_of_facts(facts: dict) -> int:
  return zlib.crc32(json.dumps(facts, sort_keys=True).encode())


def _checksum(path: str) -> tuple[int, int]:
  """Returns the number of bytes and the CRC-32 of a file; zeros for none."""
  if not tf.io.gfile.exists(path):
    return 0, 0
  num_bytes = checksum = 0
  with tf.io.gfile.GFile(path, "rb") as reader:
    while chunk := reader.read(_CHUNK_BYTES):
      num_bytes += len(chunk)
      checksum = zlib.crc32(chunk, checksum)
  return num_bytes, checksum


def digest_of(*parts) -> str:
  """Returns a digest of dataclasses, arrays, and what JSON can hold.

  Two versions of this code that make other records have other digests, and so
  have two versions of Python that classify characters differently.
  """
  digest = hashlib.sha256()
  for part in (_VERSION, unicodedata.unidata_version, *parts):
    if isinstance(part, np.ndarray):
      digest.update(f"{part.dtype.str}{part.shape}".encode())
      digest.update(np.ascontiguousarray(part).data)
    else:
      digest.update(json.dumps(part, default=_fields).encode())
  return digest.hexdigest()


def _fields(value) -> object:
  """Returns what stands for a value that is not JSON."""
  if dataclasses.is_dataclass(value):
    return [type(value).__name__, *vars(value).values()]
  raise TypeError(f"{type(value)} has no digest.")


def digest_of_tokenizer(tokenizer) -> str:
  """Returns a digest of all that decides what a tokenizer makes of a text."""
  basic = tokenizer.basic_tokenizer
  return digest_of(
    list(tokenizer.vocab.items()),
    basic.do_lower_case,
    basic.strip_accents,
    sorted(basic.never_split),
  )


# --- Damage ------------------------------------------------------------------


class Damage(NamedTuple):
  """A record that cannot be used.

  Attributes:
    file: its path.
    record: its number, from 1.
    problem: what is wrong with it.
  """

  file: str
  record: int
  problem: str

  def __str__(self) -> str:
    return f"{self.file}, record {self.record}: {self.problem}"


# Says what is wrong with some of a batch of records: index -> problem.
Examine = Callable[[Sequence[bytes]], Mapping[int, str]]


def find_damage(files: Sequence[str], examine: Examine) -> Damage | None:
  """Returns the first damaged record of some files, or None."""
  for file in files:
    for part in _scan(file, examine, None):
      if isinstance(part, Damage):
        return part
  return None


def readable_records(file: str) -> Iterator[bytes]:
  """Yields the records of a file whose checksums are right."""
  with tempfile.TemporaryDirectory() as temporary_dir:
    for part in _scan(file, lambda unused_records: {}, temporary_dir):
      if not isinstance(part, Damage):
        yield from part


def without_damage(
  file: str, folder: str, examine: Examine
) -> tuple[str, list[Damage]]:
  """Returns a file with the undamaged records of another.

  Args:
    file: the other file.
    folder: where to write a copy, if there is damage.
    examine: says what is wrong with the content of records.

  Returns:
    The path of the file itself if it has no damage, else that of the copy; and
    what was left out.

  Raises:
    UserError: more is damaged than should be left out.
  """
  damages = []

  def undamaged():
    with tempfile.TemporaryDirectory() as temporary_dir:
      for part in _scan(file, examine, temporary_dir):
        if not isinstance(part, Damage):
          yield from part
          continue
        damages.append(part)
        if len(damages) > _MOST_DAMAGED:
          raise UserError(
            f"{file} has more than {_MOST_DAMAGED} damaged "
            "records. Make it again."
          )

  if find_damage([file], examine) is None:
    return file, []
  copy = os.path.join(folder, os.path.basename(file))
  with file_io.whole_file(copy) as temporary:
    with tf.io.TFRecordWriter(temporary) as writer:
      for record in undamaged():
        writer.write(record)
  return copy, damages


def _scan(
  file: str, examine: Examine, temporary_dir: str | None
) -> Iterator[list[bytes] | Damage]:
  """Yields the undamaged records of a file, and what is damaged, in order.

  Args:
    file: its path.
    examine: says what is wrong with the content of records.
    temporary_dir: for what comes after a record that TensorFlow cannot read;
      None to end there.
  """
  number, rest = 1, file
  while True:
    size, offset = tf.io.gfile.stat(rest).length, 0
    for batch in _readable_batches(rest):
      problems = examine(batch)
      yield [record for i, record in enumerate(batch) if i not in problems]
      for i in sorted(problems):
        yield Damage(file, number + i, problems[i])
      number += len(batch)
      offset += sum(_FRAME_BYTES + len(record) for record in batch)
    if offset >= size:
      return
    # TensorFlow cannot read the record at `offset`.
    length = _length_at(rest, offset)
    end = offset + _FRAME_BYTES + (length or 0)
    if length is None or end > size:
      yield Damage(
        file,
        number,
        "it is damaged or cut off, and so the last "
        f"{size - offset} bytes of the file cannot be read",
      )
      return
    yield Damage(file, number, "its checksum is wrong, so it is damaged")
    if temporary_dir is None:
      return
    rest = _copy_from(rest, end, os.path.join(temporary_dir, f"rest-{number}"))
    number += 1


def _copy_from(file: str, offset: int, target: str) -> str:
  """Copies a file from a byte on; returns the path of the copy."""
  with tf.io.gfile.GFile(file, "rb") as reader, open(target, "wb") as writer:
    reader.seek(offset)
    shutil.copyfileobj(reader, writer, _CHUNK_BYTES)
  return target


def _readable_batches(file: str) -> Iterator[list[bytes]]:
  """Yields records until one cannot be read, or the file ends."""
  dataset = tf.data.TFRecordDataset(file)
  num_read = 0
  try:
    for batch in dataset.batch(_RECORDS_PER_BATCH).as_numpy_iterator():
      yield batch.tolist()
      num_read += len(batch)
  except tf.errors.DataLossError:
    # The batch that failed had good records before the bad one.
    rest = []
    try:
      for record in dataset.skip(num_read).as_numpy_iterator():
        rest.append(record)
    except tf.errors.DataLossError:
      pass
    if rest:
      yield rest


def _length_at(file: str, offset: int) -> int | None:
  """Returns the length of the record at a byte; None if it is damaged."""
  with tf.io.gfile.GFile(file, "rb") as reader:
    reader.seek(offset)
    header = reader.read(_HEADER_BYTES)
  if len(header) < _HEADER_BYTES:
    return None
  length, checksum = header[:8], int.from_bytes(header[8:], "little")
  if _masked_crc32c(length) != checksum:
    return None
  return int.from_bytes(length, "little")


def _masked_crc32c(content: bytes) -> int:
  """Returns the checksum of TFRecord files, of a few bytes."""
  crc = 0xFFFFFFFF
  for byte in content:
    crc ^= byte
    for _ in range(8):
      crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
  crc ^= 0xFFFFFFFF
  return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def write_records(
  path: str, records: Iterable[bytes], temporary_dir: str | None = None
) -> int:
  """Writes a TFRecord file, whole or not at all; returns how many records.

  Arguments as for `whole_file`.
  """
  count = 0
  with file_io.whole_file(path, temporary_dir) as temporary:
    with tf.io.TFRecordWriter(temporary) as writer:
      for record in records:
        writer.write(record)
        count += 1
  return count
