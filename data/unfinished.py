"""Parts of an output, in a folder next to it while they are made.

    x.parts/settings.json     settings that the parts depend on
    x.parts/part-000007       a part
    x.parts/part-000007.json  its manifest: size, checksum, and facts about it

A part counts only if its manifest matches it. So if a program is killed, the
next run makes the parts that are missing or damaged, and uses the others.
"""

from __future__ import annotations

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
# Names of files that programs write to such a folder, complete or temporary.
_PART_NAME = re.compile(r"(part|block)-[\d-]+(\.records|\.json)?")
_OWN_NAME = re.compile(
  rf"(settings|counts)\.json|{_PART_NAME.pattern}|.+\.[0-9a-f]{{8}}\.unfinished"
)


class PartsFolder:
  """A folder of parts.

  Attributes:
    path: Path of the folder.
    settings: Settings that the parts depend on, as they are after a round trip
      through JSON.
  """

  def __init__(self, path: str, settings: Mapping[str, object]):
    """Sets the attributes, without reading or writing anything."""
    self.path = path
    self.settings = json.loads(json.dumps(settings))

  def path_of(self, name: str) -> str:
    """Returns the path of a file in the folder."""
    return os.path.join(self.path, name)

  def list_files(self) -> list[str]:
    """Returns the paths of all files in the folder."""
    if not tf.io.gfile.isdir(self.path):
      return []
    names = tf.io.gfile.listdir(self.path)
    return [self.path_of(name) for name in names]

  # --- Beginning and ending --------------------------------------------------

  def read_settings(self) -> dict | None:
    """Returns the settings that the existing parts were made with.

    Returns None if there are no parts, or if their settings are damaged.

    Raises:
      UserError: The file of the settings cannot be read.
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

  def find_differing_settings(self) -> list[str]:
    """Returns the names of settings that existing parts were made without."""
    existing = self.read_settings()
    if existing is None or not self._has_parts():
      return []
    differing = []
    for name in sorted({*existing, *self.settings}):
      if existing.get(name) != self.settings.get(name):
        differing.append(name)
    return differing

  def open(self) -> None:
    """Creates the folder, and removes parts made with other settings.

    Raises:
      UserError: The folder cannot be written.
    """
    if self.read_settings() != self.settings:
      self.remove()
      # Written before the first part, so that a part never lacks settings.
      file_io.write_json(self.path_of(_SETTINGS), self.settings)
    file_io.remove_leftovers(self.path)

  def remove(self) -> None:
    """Removes the folder with all files that our programs wrote to it.

    Other files stay, and then the folder stays with them.
    """
    if not tf.io.gfile.isdir(self.path):
      return
    names = tf.io.gfile.listdir(self.path)
    # The settings go first, since parts without them do not count.
    names.sort(key=lambda name: name != _SETTINGS)
    for name in names:
      path = self.path_of(name)
      is_folder = tf.io.gfile.isdir(path)
      if _OWN_NAME.fullmatch(name) and not is_folder:
        tf.io.gfile.remove(path)
    others = tf.io.gfile.listdir(self.path)
    if others:
      logging.warning(
        "Keeping %s because of files that this program did not write: %s.",
        self.path,
        ", ".join(sorted(others)[:4]),
      )
    else:
      tf.io.gfile.rmtree(self.path)

  def remove_if_empty(self) -> None:
    """Removes the folder if it has no parts, not even damaged ones."""
    if not self._has_parts():
      self.remove()

  def _has_parts(self) -> bool:
    if not tf.io.gfile.isdir(self.path):
      return False
    names = tf.io.gfile.listdir(self.path)
    return any(_PART_NAME.fullmatch(name) for name in names)

  # --- Parts -----------------------------------------------------------------

  def complete_part(self, name: str, facts: Mapping[str, object]) -> None:
    """Writes the manifest of a part, which counts from then on.

    Args:
      name: Name of the part, a file that is complete.
      facts: Facts about the part, as JSON.

    Raises:
      UserError: The manifest cannot be written.
    """
    manifest = _create_manifest(self.path_of(name), facts)
    file_io.write_json(self._manifest_path(name), manifest)

  def read_facts(self, name: str) -> dict | None:
    """Returns the facts about a part, or None if it has to be made.

    Raises:
      UserError: A file exists but cannot be read.
    """
    path, manifest_path = self.path_of(name), self._manifest_path(name)
    if not tf.io.gfile.exists(manifest_path):
      return None
    content = file_io.read_bytes(manifest_path)
    try:
      manifest = file_io.parse_json(content, manifest_path)
    except UserError as error:
      logging.warning("%s The part is made again.", error)
      return None
    facts = manifest.get("facts")
    # The checksum includes the facts, so damage of either file is noticed.
    if tf.io.gfile.exists(path) and manifest == _create_manifest(path, facts):
      return facts
    logging.warning(
      "%s is damaged: it does not match its size and checksum in %s. It is "
      "made again.",
      path,
      manifest_path,
    )
    return None

  def _manifest_path(self, name: str) -> str:
    stem, _ = os.path.splitext(name)
    return self.path_of(stem + ".json")


def move_files(source: str, target: str, names: Sequence[str]) -> None:
  """Moves files to another folder of the same file system, replacing old ones.

  The last file says that all of them exist. An old version of it is removed
  first, so that it is never next to files that it does not belong to.

  Args:
    source: Folder with the files, which are on the disk.
    target: Folder that exists.
    names: Names of the files, in the order in which they are moved.
  """
  file_io.remove_existing_files([os.path.join(target, names[-1])])
  file_io.sync_folder(target)
  for name in names:
    tf.io.gfile.rename(
      os.path.join(source, name), os.path.join(target, name), overwrite=True
    )
  file_io.sync_folder(target)


def _create_manifest(path: str, facts: object) -> dict[str, object]:
  """Returns the size of a file, its checksum including facts, and the facts."""
  facts_json = json.dumps(facts, sort_keys=True)
  facts_checksum = zlib.crc32(facts_json.encode())
  return {
    "size": file_io.file_size(path),
    "checksum": file_io.compute_checksum(path, facts_checksum),
    "facts": facts,
  }
