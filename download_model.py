"""Downloads a released model and unpacks it.

    python download_model.py --name=uncased_L-12_H-768_A-12 --output_dir=models

models/uncased_L-12_H-768_A-12 then holds bert_config.json, vocab.txt, the
checkpoint bert_model.ckpt, and download.json: where it came from, its size and
hash. An interrupted download continues where it stopped when the same command
is run again. --mirror, or the environment variable BERT_MODEL_MIRROR, names
another server with the same paths. Programs take the model by its name, as
--model.
"""

from __future__ import annotations

import launch  # First: from here on a signal ends the program quietly.

import base64
from collections.abc import Iterator, Mapping
import hashlib
import http.client
import json
import os
import shutil
import stat
import struct
import sys
import time
from typing import NamedTuple
import urllib.error
import urllib.request
import zipfile
import zlib

from absl import flags
from absl import logging

from command_line import flag_help
from command_line import messages
from data import file_io
from data import locks
from data import released_models
from errors import UserError
import modeling
from training import model_folder

FLAGS = flags.FLAGS

_SERVER = "https://storage.googleapis.com/bert_models/"
_MIRROR_VARIABLE = "BERT_MODEL_MIRROR"

_RECORD = "download.json"
_CONFIG, _CHECKPOINT_INDEX = "bert_config.json", "bert_model.ckpt.index"
_NEEDED = (_CONFIG, "vocab.txt", _CHECKPOINT_INDEX)
_TRIES = 5
_CHUNK_BYTES = 2**20
# The largest released model is smaller.
_MOST_BYTES = 2**32
_TIMEOUT_SECONDS = 60.0


@flag_help.group("Download")
def define_flags() -> None:
  """Defines the flags of this program."""
  flags.DEFINE_enum(
    "name",
    None,
    [*released_models.PATHS, *released_models.ALIASES],
    "Name of the model, here or in the transformers library.",
    required=True,
  )
  flags.DEFINE_string(
    "output_dir",
    model_folder.MODELS_DIR,
    "Folder in which the folder of the model is created.",
  )
  flags.DEFINE_string(
    "mirror",
    None,
    "Server with the same paths as the server of the authors; "
    f"${_MIRROR_VARIABLE} if not given.",
  )


# --- Downloading -------------------------------------------------------------


class ServerFile(NamedTuple):
  """The properties of a file on a server, stored next to its download.

  Attributes:
    size: Size in bytes, in decimal digits.
    etag: Version of the file, or an empty text.
    hash: Hashes of the file, such as `crc32c=...,md5=...`, or an empty text.
  """

  size: str
  etag: str
  hash: str

  @property
  def num_bytes(self) -> int:
    """The size as a number."""
    return int(self.size)


class _DownloadProgress:
  """Logs the size of a growing download."""

  def __init__(self, total: int):
    self._total = total
    self._line = messages.ProgressLine(time.monotonic())

  def report_size(self, size: int) -> None:
    now = time.monotonic()
    if self._line.is_due(now):
      text = f"  {size / 1e6:.1f} MB of {self._total / 1e6:.1f}"
      self._line.show(text, now)


def download(url: str, part: str) -> dict[str, object]:
  """Downloads a file, or the rest of it if a part was downloaded before.

  Meanwhile `<part>.json` holds what the server said about the file.

  Args:
    url: Address of the file.
    part: Path of the part that was downloaded; in the end of the whole file.

  Returns:
    `url`, `bytes` and `sha256`.

  Raises:
    UserError: The server does not have the file, or sends another one than it
      announced.
  """
  os.makedirs(os.path.dirname(part), exist_ok=True)
  for attempt in range(_TRIES):
    try:
      server_file = _download_rest(url, part)
      break
    except urllib.error.HTTPError as error:
      raise UserError(
        f"{url}: the server says {error.code} {error.reason}. Is the --mirror "
        "right?"
      ) from error
    except UserError:
      raise
    except (ValueError, http.client.HTTPException) as error:
      raise UserError(
        f"{url} could not be downloaded: {error}. Is the --mirror right?"
      ) from error
    except OSError as error:  # from the connection or a file
      if attempt == _TRIES - 1 or os.path.isdir(part):
        raise UserError(
          f"{url} could not be downloaded: {error}. Run the same command "
          "again: it continues the download."
        ) from error
      logging.info("  %s; trying again.", error)
  return _verify(url, part, server_file)


def _download_rest(url: str, part: str) -> ServerFile:
  """Downloads the missing rest of a file.

  Raises:
    OSError: The connection was lost, among others.
  """
  known = _read_server_file(part)
  size = os.path.getsize(part) if known else 0
  if known and size == known.num_bytes:
    return known
  request = urllib.request.Request(url)
  if size and known:
    request.add_header("Range", f"bytes={size}-")
    if known.etag:  # if the file has changed, the server sends all of it
      request.add_header("If-Range", known.etag)
  with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as response:
    sent_range = response.headers.get("Content-Range", "")
    continues = response.status == 206 and sent_range.startswith(
      f"bytes {size}-"
    )
    if not known or not continues:
      known = _begin_download(url, part, response.headers)
      size = 0
    progress = _DownloadProgress(known.num_bytes)
    with open(part, "ab") as writer:
      while chunk := response.read(_CHUNK_BYTES):
        size += len(chunk)
        if size > known.num_bytes:
          break
        writer.write(chunk)
        progress.report_size(size)
  if size < known.num_bytes:
    raise ConnectionError(
      f"the connection was lost after {size} of {known.size} bytes"
    )
  return known


def _begin_download(url: str, part: str, headers) -> ServerFile:
  """Starts the download of a file from its first byte."""
  length = headers.get("Content-Length")
  if not length or not 0 < int(length) <= _MOST_BYTES:
    raise UserError(
      f"{url}: the server says that the file has {length} bytes, which is not "
      "the size of a model."
    )
  server_file = ServerFile(
    size=length,
    etag=headers.get("ETag", ""),
    hash=headers.get("x-goog-hash", ""),
  )
  with open(part, "wb"):  # anything there belongs to another file
    pass
  file_io.write_text(part + ".json", json.dumps(server_file._asdict()))
  return server_file


def _read_server_file(part: str) -> ServerFile | None:
  """Returns what the server said when a download began; None for a new one."""
  path = part + ".json"
  if not (os.path.exists(part) and os.path.exists(path)):
    return None
  try:
    fields = file_io.read_json(path)
  except UserError as error:
    logging.warning("%s The download starts again.", error)
    return None
  are_texts = all(isinstance(value, str) for value in fields.values())
  if set(fields) == set(ServerFile._fields) and are_texts:
    server_file = ServerFile(**fields)
    if server_file.size.isdecimal():
      return server_file
  logging.warning("%s is damaged. The download starts again.", path)
  return None


def _verify(url: str, part: str, server_file: ServerFile) -> dict[str, object]:
  """Compares a whole file with what the server said about it.

  Returns:
    `url`, `bytes` and `sha256`.

  Raises:
    UserError: They differ. The file is removed.
  """
  sha256, md5 = hashlib.sha256(), hashlib.md5()
  with open(part, "rb") as reader:
    while chunk := reader.read(_CHUNK_BYTES):
      sha256.update(chunk)
      md5.update(chunk)
  size = os.path.getsize(part)
  actual_md5 = base64.b64encode(md5.digest()).decode()
  difference = "" if size == server_file.num_bytes else "size"
  for field in server_file.hash.split(","):
    kind, _, expected = field.strip().partition("=")
    if kind == "md5" and expected != actual_md5:
      difference = "hash"
      break
  if difference:
    remove_download(part)
    raise UserError(
      f"{url}: the downloaded file is not that of the server (by its "
      f"{difference}), and is removed. Run the same command again."
    )
  return {"url": url, "bytes": size, "sha256": sha256.hexdigest()}


def remove_download(part: str) -> None:
  """Removes a download, whole or not."""
  file_io.remove_existing_files([part, part + ".json"])


# --- Unpacking ---------------------------------------------------------------


def unpack(
  archive_path: str, folder: str, record: Mapping[str, object]
) -> None:
  """Unpacks a model. Its folder appears when it is complete.

  Files are taken from the top of the archive or from the one folder in it, and
  only if they are plain files with plain names. An archive that cannot be used
  is removed.

  Args:
    archive_path: Path of the archive.
    folder: Path of the new folder.
    record: Record of the download, which is stored in the folder.

  Raises:
    UserError: The archive is damaged, is no model, or would write to another
      place.
  """
  with file_io.atomic_folder(folder) as temporary:
    try:
      _extract(archive_path, temporary)
      _check_model(archive_path, temporary)
    except UserError:
      remove_download(archive_path)  # it would fail again the next time
      raise
    file_io.write_json(os.path.join(temporary, _RECORD), record)


def _extract(archive_path: str, folder: str) -> None:
  """Writes the files of an archive into a folder."""
  try:
    with zipfile.ZipFile(archive_path) as archive:
      for member, name in _members(archive, archive_path):
        with archive.open(member) as source:
          with open(os.path.join(folder, name), "wb") as target:
            shutil.copyfileobj(source, target, _CHUNK_BYTES)
  except UserError:
    raise
  except (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    ValueError,
    RuntimeError,
  ) as error:
    raise UserError(
      f"{archive_path} cannot be unpacked, and is removed: {error}. Run the "
      "same command again."
    ) from error


def _check_model(archive_path: str, folder: str) -> None:
  """Raises a UserError if a folder lacks a file of a model."""
  for name in _NEEDED:
    if not os.path.exists(os.path.join(folder, name)):
      raise UserError(
        f"{archive_path} is no model: it has no {name}. It is removed."
      )
  modeling.BertConfig.from_json_file(os.path.join(folder, _CONFIG))


def _members(
  archive: zipfile.ZipFile, path: str
) -> Iterator[tuple[zipfile.ZipInfo, str]]:
  """Yields the files of an archive and their names in the folder."""
  total, seen = 0, set()
  for member in archive.infolist():
    if member.is_dir():
      continue
    if not _is_plain_file(member):
      raise UserError(
        f"{path} holds {member.filename!r}, which is no plain file of a model. "
        "It is not unpacked."
      )
    name = member.filename.split("/")[-1]
    if name in seen:
      raise UserError(f"{path} holds {name!r} twice. It is not unpacked.")
    seen.add(name)
    total += member.file_size
    if total > _MOST_BYTES:
      raise UserError(
        f"{path} would be larger than any model. It is not unpacked."
      )
    yield member, name


def _is_plain_file(member: zipfile.ZipInfo) -> bool:
  """Returns whether a member is a file, at the top or in a folder there."""
  if "\\" in member.filename or ":" in member.filename:
    return False
  *folders, name = member.filename.split("/")
  if len(folders) > 1 or folders in ([""], ["."], [".."]):
    return False
  if name in ("", ".", ".."):
    return False
  # Links and devices have another kind; some programs store none.
  kind = stat.S_IFMT(member.external_attr >> 16)
  if kind not in (0, stat.S_IFREG):
    return False
  return member.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def main(_):
  name = released_models.find_name(FLAGS.name)
  folder = os.path.join(FLAGS.output_dir, name)
  with locks.Lock(folder + locks.SUFFIX, folder):
    file_io.remove_leftovers(FLAGS.output_dir)
    part = folder + ".zip.part"
    if os.path.exists(os.path.join(folder, _RECORD)):
      logging.info("%s exists already.", folder)
      remove_download(part)
      return
    if os.path.exists(folder):
      raise UserError(
        f"{folder} exists, but was not created by this program: it has no "
        f"{_RECORD}. Choose another --output_dir."
      )
    server = FLAGS.mirror or os.environ.get(_MIRROR_VARIABLE) or _SERVER
    url = server.rstrip("/") + "/" + released_models.PATHS[name]
    logging.info("Downloading %s", url)
    record = download(url, part)
    unpack(part, folder, record)
    remove_download(part)
  logging.info(
    "%s holds the model (%d bytes, sha256 %s).",
    folder,
    record["bytes"],
    record["sha256"],
  )
  sys.stdout.write(folder + "\n")


if __name__ == "__main__":
  define_flags()
  launch.run(main, saves_at_signals=False)
