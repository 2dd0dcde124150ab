"""Files of extracted features: made in parts, then merged into one file.

A part holds the features of some lines. If the program is killed, complete
parts are kept. When all parts exist they are merged, with a part at a time in
memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import io
import itertools
import os
import shutil
import tempfile
from typing import Any, NamedTuple, Protocol
import zipfile

import numpy as np
import orjson
import tensorflow as tf

from data import file_io
from data import unfinished
from errors import UserError


class LineFeatures(NamedTuple):
  """The features of a line of text.

  Attributes:
    line: Number of the line, from 0.
    tokens: Its tokens; None if tokens are pooled.
    values: float32 [num_tokens, num_layers, hidden_size]; without the first
      dimension if tokens are pooled, and without the second if layers are
      combined.
  """

  line: int
  tokens: Sequence[str] | None
  values: np.ndarray


def _all_tokens(features: Sequence[LineFeatures]) -> list[Sequence[str]] | None:
  """Returns the tokens of each line; None if tokens are pooled."""
  if features[0].tokens is None:
    return None
  return [line.tokens or () for line in features]


# --- Formats -----------------------------------------------------------------


class FeatureFormat(Protocol):
  """A format of files of features."""

  def write(self, path: str, features: Sequence[LineFeatures]) -> None:
    """Writes a part."""

  def merge(self, parts: Sequence[str], path: str) -> None:
    """Writes the file that consists of some parts, given by their paths."""


class JsonLines:
  """The published format, and similar ones.

  Each line is an object with `linex_index` (the misspelling is part of the
  format) and `features`, a list of objects with `token` and `layers`. If tokens
  are pooled, `layers` is at the top level. If layers are combined, there are
  `values` instead of `layers`.
  """

  def __init__(self, layers: Sequence[int]):
    """Sets the numbers of the layers; none if layers are combined."""
    self._layers = layers

  def write(self, path: str, features: Sequence[LineFeatures]) -> None:
    options = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE
    with tf.io.gfile.GFile(path, "wb") as writer:
      for line in features:
        json_object: dict[str, object] = {"linex_index": line.line}
        values = np.round(line.values.astype(np.float64), 6)
        if line.tokens is None:
          json_object.update(self._create_fields(values))
        else:
          tokens = []
          for token, row in zip(line.tokens, values):
            tokens.append({"token": token, **self._create_fields(row)})
          json_object["features"] = tokens
        writer.write(orjson.dumps(json_object, option=options))

  def _create_fields(self, values: np.ndarray) -> dict[str, object]:
    if not self._layers:
      return {"values": values}
    layers = []
    for index, row in zip(self._layers, values):
      layers.append({"index": index, "values": row})
    return {"layers": layers}

  def merge(self, parts: Sequence[str], path: str) -> None:
    _concatenate_files(parts, path)


class TfRecords:
  """A `tf.train.Example` per line: `line`, `values`, `shape`, `tokens`."""

  def write(self, path: str, features: Sequence[LineFeatures]) -> None:
    with tf.io.TFRecordWriter(path) as writer:
      for line in features:
        example = tf.train.Example()
        fields = example.features.feature
        fields["line"].int64_list.value.append(line.line)
        fields["values"].float_list.value.extend(line.values.ravel())
        fields["shape"].int64_list.value.extend(line.values.shape)
        if line.tokens is not None:
          tokens = [token.encode() for token in line.tokens]
          fields["tokens"].bytes_list.value.extend(tokens)
        # Otherwise, the order of the fields would differ between processes.
        writer.write(example.SerializeToString(deterministic=True))

  def merge(self, parts: Sequence[str], path: str) -> None:
    _concatenate_files(parts, path)


def _concatenate_files(parts: Sequence[str], path: str) -> None:
  with tf.io.gfile.GFile(path, "wb") as writer:
    for part in parts:
      with tf.io.gfile.GFile(part, "rb") as reader:
        shutil.copyfileobj(reader, writer, 2**20)


@contextlib.contextmanager
def _local_file(path: str) -> Iterator[str]:
  """Yields the path of a local file, which is copied to `path` if necessary.

  Some libraries seek in the files that they write, which not all file systems
  support.
  """
  if not file_io.is_remote(path):
    yield path
    return
  with tempfile.TemporaryDirectory() as folder:
    local = os.path.join(folder, "file")
    yield local
    tf.io.gfile.copy(local, path, overwrite=True)


class Npz:
  """NumPy arrays: `values` of all lines, one after the other.

  If tokens are not pooled, there are also all `tokens`, and `offsets`
  [num_lines + 1], the rows of `values` at which the lines begin.
  """

  def write(self, path: str, features: Sequence[LineFeatures]) -> None:
    values = [line.values for line in features]
    all_tokens = _all_tokens(features)
    arrays: dict[str, Any] = {}
    if all_tokens is None:
      arrays["values"] = np.stack(values)
    else:
      lengths = [len(tokens) for tokens in all_tokens]
      arrays["values"] = np.concatenate(values)
      arrays["lengths"] = np.array(lengths)
      arrays["tokens"] = np.array(list(itertools.chain(*all_tokens)))
    with _local_file(path) as local, open(local, "wb") as writer:
      np.savez(writer, **arrays)

  def merge(self, parts: Sequence[str], path: str) -> None:
    with _local_file(path) as local, zipfile.ZipFile(local, "w") as archive:
      for name in _read_npz(parts[0]):
        if name == "lengths":
          self._write_offsets(archive, parts)
        else:
          self._write_array(archive, name, parts)

  def _write_offsets(
    self, archive: zipfile.ZipFile, parts: Sequence[str]
  ) -> None:
    lengths = np.concatenate([_read_npz(part)["lengths"] for part in parts])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    with archive.open(_create_entry("offsets"), "w") as target:
      np.lib.format.write_array(target, offsets)

  def _write_array(
    self, archive: zipfile.ZipFile, name: str, parts: Sequence[str]
  ) -> None:
    """Writes the concatenation of an array of all parts."""
    # One part at a time is in memory: first for its type, then for its length,
    # at last for its content.
    empty_arrays = [_read_npz(part)[name][:0] for part in parts]
    dtype = np.result_type(*empty_arrays)
    size = sum(len(_read_npz(part)[name]) for part in parts)
    inner_shape = empty_arrays[0].shape[1:]
    header = {
      "descr": np.lib.format.dtype_to_descr(dtype),
      "fortran_order": False,
      "shape": (size, *inner_shape),
    }
    with archive.open(_create_entry(name), "w", force_zip64=True) as target:
      np.lib.format.write_array_header_2_0(target, header)
      for part in parts:
        array = _read_npz(part)[name].astype(dtype)
        target.write(array.tobytes())


def _create_entry(name: str) -> zipfile.ZipInfo:
  """Returns the archive entry of an array, with a fixed time."""
  return zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))


def _read_npz(path: str) -> dict[str, np.ndarray]:
  with tf.io.gfile.GFile(path, "rb") as reader:
    content = io.BytesIO(reader.read())
  return dict(np.load(content, allow_pickle=False))


class Parquet:
  """A row per line: `line`, `values` (a flat list), `shape`, `tokens`."""

  def __init__(self):
    """Imports pyarrow, which other formats do not wait for."""
    # pylint: disable-next=g-import-not-at-top
    import pyarrow
    import pyarrow.parquet

    self._arrow = pyarrow

  def write(self, path: str, features: Sequence[LineFeatures]) -> None:
    arrow = self._arrow
    lines = [line.line for line in features]
    values = [line.values.ravel() for line in features]
    shapes = [line.values.shape for line in features]
    columns = {
      "line": arrow.array(lines, arrow.int64()),
      "values": arrow.array(values, arrow.list_(arrow.float32())),
      "shape": arrow.array(shapes, arrow.list_(arrow.int32())),
    }
    tokens = _all_tokens(features)
    if tokens is not None:
      columns["tokens"] = arrow.array(tokens, arrow.list_(arrow.string()))
    with _local_file(path) as local:
      arrow.parquet.write_table(arrow.table(columns), local)

  def merge(self, parts: Sequence[str], path: str) -> None:
    parquet = self._arrow.parquet
    with _local_file(path) as local, contextlib.ExitStack() as stack:
      writer = None
      for part in parts:
        with tf.io.gfile.GFile(part, "rb") as reader:
          content = io.BytesIO(reader.read())
        table = parquet.read_table(content)
        if writer is None:
          writer = parquet.ParquetWriter(local, table.schema)
          stack.enter_context(writer)
        writer.write_table(table)


# --- Parts -------------------------------------------------------------------


class PartedFile:
  """A file that is made in parts, in a folder next to it."""

  def __init__(
    self,
    path: str,
    file_format: FeatureFormat,
    settings: Mapping[str, object],
  ):
    """Checks the parts that exist.

    Args:
      path: Path of the file.
      file_format: Format of the file.
      settings: Settings that the file depends on, as JSON.

    Raises:
      UserError: There are parts that were made with other settings.
    """
    self._path = path
    self._format = file_format
    self._folder = _parts_folder(path, settings)
    self._is_open = False
    # Parts of different settings are never mixed; the user decides.
    differing = self._folder.find_differing_settings()
    if differing:
      raise UserError(
        f"{self._folder.path} holds parts that were made with other settings: "
        f"{', '.join(differing)}. Delete it to start again, or give the same "
        "settings to continue."
      )
    self._resumes = self._folder.read_settings() == self._folder.settings

  def has_part(self, number: int, num_lines: int) -> bool:
    """Returns whether a part with this number of lines exists.

    Raises:
      UserError: It cannot be read.
    """
    if not self._resumes:
      return False
    return self._folder.read_facts(_part_name(number)) == {"lines": num_lines}

  def write_part(self, number: int, features: Sequence[LineFeatures]) -> None:
    """Writes a part, completely or not at all.

    Raises:
      UserError: It cannot be written.
    """
    if not self._is_open:
      self._folder.open()
      self._is_open = True
    name = _part_name(number)
    try:
      with file_io.atomic_file(self._folder.path_of(name)) as temporary:
        self._format.write(temporary, features)
      self._folder.complete_part(name, {"lines": len(features)})
    except BaseException:
      # A first part that fails leaves no folder behind.
      self._folder.remove_if_empty()
      raise

  def finish(self, num_parts: int) -> None:
    """Merges the parts into the file, and removes them.

    Raises:
      UserError: A part was changed after it was written, or the file cannot be
        written.
    """
    paths = []
    for number in range(num_parts):
      name = _part_name(number)
      path = self._folder.path_of(name)
      if self._folder.read_facts(name) is None:
        raise UserError(
          f"{path} was damaged in the meantime. Run the same command again to "
          "repeat this part."
        )
      paths.append(path)
    with file_io.atomic_file(self._path) as temporary:
      self._format.merge(paths, temporary)
    self._folder.remove()


def list_part_files(path: str) -> list[str]:
  """Returns the paths of the parts of a file, complete or not."""
  return _parts_folder(path, {}).list_files()


def _parts_folder(
  path: str, settings: Mapping[str, object]
) -> unfinished.PartsFolder:
  return unfinished.PartsFolder(path + file_io.PARTS_SUFFIX, settings)


def _part_name(number: int) -> str:
  return f"part-{number:06d}"
