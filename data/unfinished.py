"""Parts of an output, in a folder next to it while they are made.

    x.parts/settings.json     what the parts depend on
    x.parts/part-000007       a part
    x.parts/part-000007.json  its manifest: its size and checksum, and facts

A part counts only with a manifest that fits it. So a program that was killed
continues with the parts that are not done, and makes damaged ones again.
"""

from collections.abc import Mapping, Sequence
import json
import os
import re
import zlib

from absl import logging
import tensorflow as tf

from data import file_io
from errors import UserError

_SETTINGS = "settings.json"
# The names that programs give to files in such a folder, whole or temporary.
_PART = re.compile(r"(part|block)-[\d-]+(\.records|\.json)?")
_OUR_NAMES = re.compile(
  rf"(settings|counts)\.json|{_PART.pattern}|.+\.[0-9a-f]{{8}}\.unfinished"
)
_CHUNK_BYTES = 2**22


class PartsFolder:
  """A folder of parts.

  Attributes:
    path: of the folder.
    settings: what the parts depend on, as JSON gives it back.
  """

  def __init__(self, path: str, settings: Mapping[str, object]):
    """Reads and writes nothing yet."""
    self.path = path
    self.settings = json.loads(json.dumps(settings))

  def path_of(self, name: str) -> str:
    """Returns the path of a part, or of another file of the folder."""
    return os.path.join(self.path, name)

  def files(self) -> list[str]:
    """Returns the paths of all that is there."""
    if not tf.io.gfile.isdir(self.path):
      return []
    return [self.path_of(name) for name in tf.io.gfile.listdir(self.path)]

  # --- Beginning and ending --------------------------------------------------

  def known_settings(self) -> dict | None:
    """Returns the settings of the parts that are there.

    Returns None if there are none, or if it cannot be known what they depend
    on.

    Raises:
      UserError: the file of the settings cannot be read.
    """
    path = self.path_of(_SETTINGS)
    if not tf.io.gfile.exists(path):
      return None
    content = file_io.read_bytes(path)
    try:
      return file_io.parse_json(content, path)
    except UserError as error:
      logging.warning("%s The parts next to it are made again.", error)
      return None

  def differing_settings(self) -> list[str]:
    """Returns the names of settings that parts there were made without."""
    known = self.known_settings()
    if known is None or not self._has_parts():
      return []
    return sorted(
      name
      for name in {*known, *self.settings}
      if known.get(name) != self.settings.get(name)
    )

  def open(self) -> None:
    """Makes the folder; parts of other settings are removed from it.

    Raises:
      UserError: the folder cannot be written.
    """
    if self.known_settings() != self.settings:
      self.remove()
      file_io.write_json(self.path_of(_SETTINGS), self.settings)
    file_io.remove_leftovers(self.path)

  def remove(self) -> None:
    """Removes the folder with all that this program put there.

    Files of others stay, and the folder with them.
    """
    if not tf.io.gfile.isdir(self.path):
      return
    names = tf.io.gfile.listdir(self.path)
    # Settings first: parts without them count for nothing.
    for name in sorted(names, key=lambda name: name != _SETTINGS):
      path = self.path_of(name)
      if _OUR_NAMES.fullmatch(name) and not tf.io.gfile.isdir(path):
        tf.io.gfile.remove(path)
    others = tf.io.gfile.listdir(self.path)
    if others:
      logging.warning(
        "%s stays, for files that are not of this program: %s.",
        self.path,
        ", ".join(sorted(others)[:4]),
      )
    else:
      tf.io.gfile.rmtree(self.path)

  def remove_if_empty(self) -> None:
    """Removes the folder if there is no part in it, whole or damaged."""
    if not self._has_parts():
      self.remove()

  def _has_parts(self) -> bool:
    return tf.io.gfile.isdir(self.path) and any(
      _PART.fullmatch(name) for name in tf.io.gfile.listdir(self.path)
    )

  # --- Parts -----------------------------------------------------------------

  def record(self, name: str, facts: Mapping[str, object]) -> None:
    """Writes the manifest of a part: from now on it counts.

    Args:
      name: of the part, a file that is whole.
      facts: what to remember of it, as JSON.

    Raises:
      UserError: the manifest cannot be written.
    """
    file_io.write_json(
      self._manifest(name),
      {**_measure(self.path_of(name), facts), "facts": facts},
    )

  def facts(self, name: str) -> dict | None:
    """Returns the facts of a part, or None if it has to be made.

    Raises:
      UserError: a file is there that cannot be read.
    """
    path, manifest_path = self.path_of(name), self._manifest(name)
    if not tf.io.gfile.exists(manifest_path):
      return None
    content = file_io.read_bytes(manifest_path)
    try:
      manifest = file_io.parse_json(content, manifest_path)
    except UserError as error:
      logging.warning("%s The part is made again.", error)
      return None
    facts = manifest.get("facts")
    is_whole = tf.io.gfile.exists(path) and manifest == {
      **_measure(path, facts),
      "facts": facts,
    }
    if not is_whole:
      logging.warning(
        "%s is damaged: it does not fit its size and checksum in "
        "%s. It is made again.",
        path,
        manifest_path,
      )
      return None
    return facts

  def _manifest(self, name: str) -> str:
    return self.path_of(os.path.splitext(name)[0] + ".json")


def move_files(source: str, target: str, names: Sequence[str]) -> None:
  """Moves files to another folder of the same file system, and replaces some.

  The last one says that all are there: an older one is removed first, so that
  it never stands next to files that it does not belong to.

  Args:
    source: a folder with files that are on the disk.
    target: a folder that is there.
    names: of the files, in the order in which they are moved.
  """
  file_io.remove_if_there([os.path.join(target, names[-1])])
  file_io.sync_folder(target)
  for name in names:
    tf.io.gfile.rename(
      os.path.join(source, name), os.path.join(target, name), overwrite=True
    )
  file_io.sync_folder(target)


def _measure(path: str, facts) -> dict[str, int]:
  """Returns the size of a file, and a checksum of it and of facts about it."""
  facts_checksum = zlib.crc32(json.dumps(facts, sort_keys=True).encode())
  return {
    "size": tf.io.gfile.stat(path).length,
    "checksum": checksum(path, facts_checksum),
  }


def checksum(path: str, start: int = 0) -> int:
  """Returns a checksum of a file of any size.

  Args:
    path: of the file.
    start: the checksum of what comes before it.

  Raises:
    UserError: the file cannot be read.
  """
  result = start
  try:
    with tf.io.gfile.GFile(path, "rb") as reader:
      while chunk := reader.read(_CHUNK_BYTES):
        result = zlib.crc32(chunk, result)
  except file_io.FILE_ERRORS as error:
    raise UserError(
      f"{path} cannot be read: {file_io.reason(error)}."
    ) from error
  return result
