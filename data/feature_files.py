"""Files of features: in parts while they are made, then in one piece.

A part holds the features of a number of lines. A program that was killed keeps
the parts that are whole; when all are there they become one file, in memory
that does not grow with it.
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import io
import os
import shutil
import tempfile
from typing import NamedTuple
import zipfile

import numpy as np
import orjson
import tensorflow as tf

from data import file_io
from data import unfinished
from errors import UserError


class Features(NamedTuple):
  """What is written of a line.

  Attributes:
    line: number of the line, from 0.
    tokens: its tokens, or those that stand for it; none if they are pooled.
    values: float32 [num_tokens, num_layers, hidden_size]; without the first
      dimension if tokens are pooled, without the second if layers are combined.
  """

  line: int
  tokens: Sequence[str] | None
  values: np.ndarray


# --- Formats -----------------------------------------------------------------


class JsonLines:
  """The published format, and others like it.

  An object a line: `linex_index` (the misspelling is the format), and
  `features`, a list of `token` and `layers`. Pooled lines have `layers` at the
  top; combined layers are `values`.
  """

  def __init__(self, layers: Sequence[int]):
    self._layers = layers  # their numbers; none if they are combined

  def write(self, path: str, features: Sequence[Features]) -> None:
    with tf.io.gfile.GFile(path, "wb") as writer:
      for line in features:
        values = np.round(line.values.astype(np.float64), 6)
        if line.tokens is None:
          fields = self._fields(values)
        else:
          fields = {
            "features": [
              {"token": token, **self._fields(row)}
              for token, row in zip(line.tokens, values)
            ]
          }
        writer.write(
          orjson.dumps(
            {"linex_index": line.line, **fields},
            option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE,
          )
        )

  def _fields(self, values) -> dict:
    if not self._layers:
      return {"values": values}
    return {
      "layers": [
        {"index": index, "values": row}
        for index, row in zip(self._layers, values)
      ]
    }

  def merge(self, parts: Sequence[str], path: str) -> None:
    _concatenate(parts, path)


class TfRecords:
  """A `tf.train.Example` a line: `line`, `values`, `shape`, `tokens`."""

  def write(self, path: str, features: Sequence[Features]) -> None:
    with tf.io.TFRecordWriter(path) as writer:
      for line in features:
        example = tf.train.Example()
        fields = example.features.feature
        fields["line"].int64_list.value.append(line.line)
        fields["values"].float_list.value.extend(line.values.ravel())
        fields["shape"].int64_list.value.extend(line.values.shape)
        if line.tokens is not None:
          fields["tokens"].bytes_list.value.extend(
            token.encode() for token in line.tokens
          )
        # The order of a map differs between processes otherwise.
        writer.write(example.SerializeToString(deterministic=True))

  def merge(self, parts: Sequence[str], path: str) -> None:
    _concatenate(parts, path)


@contextlib.contextmanager
def _local_file(path: str) -> Iterator[str]:
  """Gives the path of a file of this machine, and copies it to `path`.

  For libraries that seek in what they write, which not all file systems can.
  """
  if "://" not in path:
    yield path
    return
  with tempfile.TemporaryDirectory() as folder:
    local = os.path.join(folder, "file")
    yield local
    tf.io.gfile.copy(local, path, overwrite=True)


def _concatenate(parts: Sequence[str], path: str) -> None:
  with tf.io.gfile.GFile(path, "wb") as writer:
    for part in parts:
      with tf.io.gfile.GFile(part, "rb") as reader:
        shutil.copyfileobj(reader, writer, 2**20)


class Npz:
  """NumPy arrays: `values` of all lines, one after the other.

  Where tokens are not pooled, `offsets` [num_lines + 1] says where in `values`
  a line begins, and `tokens` are all tokens.
  """

  def write(self, path: str, features: Sequence[Features]) -> None:
    arrays = {
      "values": np.stack([line.values for line in features])
      if features[0].tokens is None
      else np.concatenate([line.values for line in features])
    }
    if features[0].tokens is not None:
      arrays["lengths"] = np.array([len(line.tokens) for line in features])
      arrays["tokens"] = np.array(
        [token for line in features for token in line.tokens]
      )
    with _local_file(path) as local, open(local, "wb") as writer:
      np.savez(writer, **arrays)

  def merge(self, parts: Sequence[str], path: str) -> None:
    with _local_file(path) as local, zipfile.ZipFile(local, "w") as archive:
      for name in _read_npz(parts[0]):
        if name != "lengths":
          self._write_array(archive, name, parts)
          continue
        lengths = np.concatenate([_read_npz(part)[name] for part in parts])
        with archive.open(_zip_entry("offsets"), "w") as target:
          np.lib.format.write_array(
            target, np.concatenate([[0], np.cumsum(lengths)])
          )

  def _write_array(
    self, archive: zipfile.ZipFile, name: str, parts: Sequence[str]
  ) -> None:
    """Writes an array that is the parts one after the other."""
    arrays = [_read_npz(part)[name][:0] for part in parts]  # types alone
    dtype = np.result_type(*arrays)
    size = sum(len(_read_npz(part)[name]) for part in parts)
    with archive.open(_zip_entry(name), "w", force_zip64=True) as target:
      np.lib.format.write_array_header_2_0(
        target,
        {
          "descr": np.lib.format.dtype_to_descr(dtype),
          "fortran_order": False,
          "shape": (size, *arrays[0].shape[1:]),
        },
      )
      for part in parts:
        target.write(_read_npz(part)[name].astype(dtype).tobytes())


def _zip_entry(name: str) -> zipfile.ZipInfo:
  """Returns the entry of an array, without the time of now."""
  return zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))


def _read_npz(path: str) -> dict[str, np.ndarray]:
  with tf.io.gfile.GFile(path, "rb") as reader:
    content = io.BytesIO(reader.read())
  return dict(np.load(content, allow_pickle=False))


class Parquet:
  """A row a line: `line`, `values` (as one list), `shape`, `tokens`."""

  def __init__(self):
    """Looks for the library.

    Raises:
      UserError: it is not installed.
    """
    try:
      # pylint: disable-next=g-import-not-at-top
      import pyarrow
      import pyarrow.parquet
    except ImportError as error:
      raise UserError(
        "--format=parquet takes the library pyarrow: pip install pyarrow."
      ) from error
    self._arrow = pyarrow

  def write(self, path: str, features: Sequence[Features]) -> None:
    columns = {
      "line": self._arrow.array(
        [line.line for line in features], self._arrow.int64()
      ),
      "values": self._arrow.array(
        [line.values.ravel() for line in features],
        self._arrow.list_(self._arrow.float32()),
      ),
      "shape": self._arrow.array(
        [line.values.shape for line in features],
        self._arrow.list_(self._arrow.int32()),
      ),
    }
    if features[0].tokens is not None:
      columns["tokens"] = self._arrow.array(
        [line.tokens for line in features],
        self._arrow.list_(self._arrow.string()),
      )
    with _local_file(path) as local:
      self._arrow.parquet.write_table(self._arrow.table(columns), local)

  def merge(self, parts: Sequence[str], path: str) -> None:
    target = None
    with _local_file(path) as local:
      for part in parts:
        with tf.io.gfile.GFile(part, "rb") as reader:
          content = io.BytesIO(reader.read())
        table = self._arrow.parquet.read_table(content)
        target = target or self._arrow.parquet.ParquetWriter(
          local, table.schema
        )
        target.write_table(table)
      target.close()


# --- Parts -------------------------------------------------------------------


class PartedFile:
  """A file that is made in parts, in a folder next to it."""

  def __init__(self, path: str, file_format, settings: Mapping[str, object]):
    """Looks for parts that are there.

    Args:
      path: of the file.
      file_format: one of the formats.
      settings: what the file depends on, as JSON.

    Raises:
      UserError: it was begun with other settings.
    """
    self._path = path
    self._format = file_format
    self._folder = _parts_folder(path, settings)
    self._is_open = False
    differing = self._folder.differing_settings()
    if differing:
      raise UserError(
        f"{self._folder.path} holds parts that were made with other settings: "
        f"{', '.join(differing)}. Delete it to start again, or give the same "
        "settings to continue."
      )
    self._is_continued = self._folder.known_settings() == self._folder.settings

  def has_part(self, number: int, num_lines: int) -> bool:
    """Whether a part is whole that has so many lines.

    Raises:
      UserError: it cannot be read.
    """
    return self._is_continued and (
      self._folder.facts(_name(number)) == {"lines": num_lines}
    )

  def write_part(self, number: int, features: Sequence[Features]) -> None:
    """Writes a part, whole or not at all.

    Raises:
      UserError: it cannot be written.
    """
    if not self._is_open:
      self._folder.open()
      self._is_open = True
    name = _name(number)
    try:
      with file_io.atomic_file(self._folder.path_of(name)) as temporary:
        self._format.write(temporary, features)
      self._folder.record(name, {"lines": len(features)})
    except BaseException:
      self._folder.remove_if_empty()
      raise

  def finish(self, num_parts: int) -> None:
    """Makes the file of its parts, and removes these.

    Raises:
      UserError: a part is not what was written, or the file cannot be written.
    """
    names = [_name(number) for number in range(num_parts)]
    for name in names:
      if self._folder.facts(name) is None:
        raise UserError(
          f"{self._folder.path_of(name)} was damaged in the "
          "meantime. Run the same command again: it is made "
          "again."
        )
    with file_io.atomic_file(self._path) as temporary:
      self._format.merge(list(map(self._folder.path_of, names)), temporary)
    self._folder.remove()


def files_of_parts(path: str) -> list[str]:
  """Returns the paths of the parts that a file has, finished or not."""
  return _parts_folder(path, {}).files()


def _parts_folder(path: str, settings) -> unfinished.PartsFolder:
  return unfinished.PartsFolder(path + file_io.PARTS_SUFFIX, settings)


def _name(number: int) -> str:
  return f"part-{number:06d}"
