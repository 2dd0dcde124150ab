"""Reads files that may be compressed by gzip, bzip2, xz or Zstandard.

The first bytes of a file tell how it is compressed, whatever its name is. But a
file whose name says that it is compressed must be.
"""

from __future__ import annotations

import bz2
from collections.abc import Callable, Iterator
import functools
import gzip
import lzma
import os
import re
from typing import Any, NamedTuple
import zlib

import tensorflow as tf
import zstandard

from data import file_io
from errors import UserError

_DAMAGE = (
  EOFError,
  gzip.BadGzipFile,
  zlib.error,
  lzma.LZMAError,
  zstandard.ZstdError,
)
_LONGEST_MAGIC = 10


def read_chunks(
  path: str, file: tf.io.gfile.GFile, chunk_bytes: int
) -> Iterator[bytes]:
  """Yields the content of a file, decompressed if necessary.

  Args:
    path: Path of the file.
    file: The file, opened for reading bytes.
    chunk_bytes: Approximate size of the chunks.

  Raises:
    UserError: The file cannot be read, or is compressed and damaged or cut
      off.
  """
  try:
    magic = file.read(_LONGEST_MAGIC)
    file.seek(0)
    suffix = os.path.splitext(path)[1]
    if suffix in _COMPRESSIONS and not _COMPRESSIONS[suffix].magic.match(magic):
      raise UserError(
        f"{path} is not compressed, although its name ends in {suffix}. "
        "Rename it if it is plain text; otherwise, it is damaged."
      )
    read: Callable[..., Iterator[bytes]] = _read_plain
    for compression in _COMPRESSIONS.values():
      if compression.magic.match(magic):
        read = compression.read
    yield from read(file, chunk_bytes)
  except _DAMAGE as error:
    raise UserError(
      f"{path} is compressed, and damaged or cut off: {error}. Was it copied "
      "completely?"
    ) from error
  except file_io.file_errors() as error:
    raise UserError(
      f"{path} cannot be read: {file_io.describe_error(error)}."
    ) from error


def _read_plain(file: Any, chunk_bytes: int) -> Iterator[bytes]:
  """Yields what the `read` of a file or of a decompressor returns."""
  return iter(functools.partial(file.read, chunk_bytes), b"")


def _read_gzip(file: tf.io.gfile.GFile, chunk_bytes: int) -> Iterator[bytes]:
  return _read_plain(gzip.GzipFile(fileobj=file), chunk_bytes)


def _read_streams(
  create_decompressor: Callable[[], Any],
  file: tf.io.gfile.GFile,
  chunk_bytes: int,
) -> Iterator[bytes]:
  """Yields the content of a file of compressed streams, one after the other.

  The libraries' own readers accept a file that is cut off, or ignore what
  follows the first stream if it is damaged.
  """
  stream = None
  while data := file.read(chunk_bytes // 16):
    while data:
      stream = stream or create_decompressor()
      yield stream.decompress(data)
      data = b""
      if stream.eof:
        data, stream = stream.unused_data, None
  if stream:
    raise EOFError("it ends in the middle of a stream")


def _create_zstandard_decompressor() -> Any:
  return zstandard.ZstdDecompressor().decompressobj()


class Compression(NamedTuple):
  """A way to compress files.

  Attributes:
    magic: Matches the first bytes of such a file.
    read: Function (file, chunk_bytes) that yields the decompressed bytes.
  """

  magic: re.Pattern[bytes]
  read: Callable[[tf.io.gfile.GFile, int], Iterator[bytes]]


# Suffix of names -> compression.
_COMPRESSIONS = {
  ".gz": Compression(re.compile(rb"\x1f\x8b"), _read_gzip),
  # The second part begins the first block, or ends a file without blocks. Text
  # may begin with the first part.
  ".bz2": Compression(
    re.compile(rb"BZh[1-9](1AY&SY|\x17\x72\x45\x38\x50\x90)"),
    functools.partial(_read_streams, bz2.BZ2Decompressor),
  ),
  ".xz": Compression(
    re.compile(rb"\xfd7zXZ\x00"),
    functools.partial(_read_streams, lzma.LZMADecompressor),
  ),
  ".zst": Compression(
    re.compile(rb"\x28\xb5\x2f\xfd"),
    functools.partial(_read_streams, _create_zstandard_decompressor),
  ),
}
SUFFIXES = tuple(_COMPRESSIONS)
