"""Downloads a released model and unpacks it.

    python download_model.py --name=uncased_L-12_H-768_A-12 --output_dir=models

models/uncased_L-12_H-768_A-12 then holds bert_config.json, vocab.txt, the
checkpoint bert_model.ckpt, and download.json: where it came from, its size and
hash. An interrupted download continues where it stopped when the same command
is run again. --mirror, or the environment variable BERT_MODEL_MIRROR, names
another server with the same paths. Programs take the model by its name, as
--model.
"""

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
import urllib.error
import urllib.request
import zipfile
import zlib

from absl import flags
from absl import logging

from data import file_io
from data import locks
from errors import UserError
import modeling
from training import model_folder

FLAGS = flags.FLAGS

_SERVER = "https://storage.googleapis.com/bert_models/"
_MIRROR_VARIABLE = "BERT_MODEL_MIRROR"

# Name -> path on the server: the 24 sizes of Turc et al. (2019), the models of
# the paper, with whole words masked, multilingual, Chinese.
_SMALL_MODELS = [
  f"uncased_L-{layers}_H-{hidden}_A-{hidden // 64}"
  for layers in (2, 4, 6, 8, 10, 12)
  for hidden in (128, 256, 512, 768)
]
MODELS = {name: f"2020_02_20/{name}.zip" for name in _SMALL_MODELS}
MODELS.update(
  {
    os.path.basename(path).removesuffix(".zip"): path
    for path in (
      # The one of the paper comes last: it has the name of one of the 24.
      "2018_10_18/cased_L-12_H-768_A-12.zip",
      "2018_10_18/uncased_L-24_H-1024_A-16.zip",
      "2018_10_18/cased_L-24_H-1024_A-16.zip",
      "2019_05_30/wwm_uncased_L-24_H-1024_A-16.zip",
      "2019_05_30/wwm_cased_L-24_H-1024_A-16.zip",
      "2018_11_23/multi_cased_L-12_H-768_A-12.zip",
      "2018_11_03/multilingual_L-12_H-768_A-12.zip",
      "2018_11_03/chinese_L-12_H-768_A-12.zip",
      "2018_10_18/uncased_L-12_H-768_A-12.zip",
    )
  }
)

_RECORD = "download.json"
_CONFIG, _CHECKPOINT_INDEX = "bert_config.json", "bert_model.ckpt.index"
_NEEDED = (_CONFIG, "vocab.txt", _CHECKPOINT_INDEX)
_TRIES = 5
_CHUNK_BYTES = 2**20
# More than the largest released model has.
_MOST_BYTES = 2**32
_SECONDS_PER_LINE = 5.0
_TIMEOUT_SECONDS = 60.0


def define_flags() -> None:
  """Defines the flags of this program."""
  flags.DEFINE_enum("name", None, list(MODELS), "The model.", required=True)
  flags.DEFINE_string(
    "output_dir",
    model_folder.MODELS_DIR,
    "Folder to put the folder of the model into.",
  )
  flags.DEFINE_string(
    "mirror",
    None,
    "Server with the same paths as the one "
    f"of the authors; ${_MIRROR_VARIABLE} if not given.",
  )


# --- Downloading -------------------------------------------------------------


class _Progress:
  """Logs how far a download is."""

  def __init__(self, total: int | None):
    self._total = total
    self._last = time.monotonic()

  def report(self, size: int) -> None:
    if time.monotonic() - self._last > _SECONDS_PER_LINE:
      self._last = time.monotonic()
      logging.info(
        "  %.1f MB%s",
        size / 1e6,
        (f" of {self._total / 1e6:.1f}" if self._total else ""),
      )


def download(url: str, part: str) -> dict[str, object]:
  """Downloads a file, or the rest of it if there is a beginning.

  The headers of the server are kept in `<part>.json` meanwhile.

  Args:
    url: of the file.
    part: path of what is there of it, in the end all.

  Returns:
    `url`, `bytes` and `sha256`.

  Raises:
    UserError: the server has no such file, or something else than it says.
  """
  os.makedirs(os.path.dirname(part), exist_ok=True)
  for attempt in range(_TRIES):
    try:
      headers = _fetch(url, part)
      break
    except urllib.error.HTTPError as error:
      raise UserError(
        f"{url}: the server says {error.code} {error.reason}. "
        "Is the --mirror right?"
      ) from error
    except UserError:
      raise
    except (ValueError, http.client.HTTPException) as error:
      raise UserError(
        f"{url} could not be downloaded: {error}. Is the --mirror right?"
      ) from error
    except OSError as error:  # of the connection, or a file
      if attempt == _TRIES - 1 or os.path.isdir(part):
        raise UserError(
          f"{url} could not be downloaded: {error}. Run the same command "
          "again: it goes on from what is there."
        ) from error
      logging.info("  %s; trying again.", error)
  return _verified(url, part, headers)


def _fetch(url: str, part: str) -> dict[str, str]:
  """Downloads what is missing of a file; returns what the server says of it.

  Raises:
    OSError: the connection broke off, among others.
  """
  known = _known_headers(part)
  size = os.path.getsize(part) if known else 0
  if known and size == int(known["size"]):
    return known
  request = urllib.request.Request(url)
  if size:
    request.add_header("Range", f"bytes={size}-")
    if known["etag"]:  # another file by now would be sent from its beginning
      request.add_header("If-Range", known["etag"])
  with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as response:
    goes_on = response.status == 206 and response.headers.get(
      "Content-Range", ""
    ).startswith(f"bytes {size}-")
    if not goes_on:
      length = response.headers.get("Content-Length")
      if not length or not 0 < int(length) <= _MOST_BYTES:
        raise UserError(
          f"{url}: the server says that it has {length} bytes, "
          "which no model has."
        )
      known = {
        "size": length,
        "etag": response.headers.get("ETag", ""),
        "hash": response.headers.get("x-goog-hash", ""),
      }
      with open(part, "wb"):  # what there was is of another file
        pass
      file_io.write_text(part + ".json", json.dumps(known))
      size = 0
    progress = _Progress(int(known["size"]))
    with open(part, "ab") as writer:
      while chunk := response.read(_CHUNK_BYTES):
        size += len(chunk)
        if size > int(known["size"]):
          break
        writer.write(chunk)
        progress.report(size)
  if size < int(known["size"]):
    raise ConnectionError(
      f"the connection broke off after {size} of {known['size']} bytes"
    )
  return known


def _known_headers(part: str) -> dict[str, str] | None:
  """Returns the headers of a download that was begun; None for a new one."""
  if not (os.path.exists(part) and os.path.exists(part + ".json")):
    return None
  try:
    known = file_io.read_json(part + ".json")
  except UserError as error:
    logging.warning("%s The download starts again.", error)
    return None
  if (
    set(known) != {"size", "etag", "hash"}
    or not all(isinstance(value, str) for value in known.values())
    or not known["size"].isdecimal()
  ):
    logging.warning("%s.json is damaged. The download starts again.", part)
    return None
  return known


def _verified(url: str, part: str, headers) -> dict[str, object]:
  """Returns the record of a whole file.

  Raises:
    UserError: it is not what the server said it would be; it is removed.
  """
  sha256, md5 = hashlib.sha256(), hashlib.md5()
  with open(part, "rb") as reader:
    while chunk := reader.read(_CHUNK_BYTES):
      sha256.update(chunk)
      md5.update(chunk)
  size = os.path.getsize(part)
  wanted = [
    field.strip().removeprefix("md5=")
    for field in headers["hash"].split(",")
    if field.strip().startswith("md5=")
  ]
  is_wrong = wanted and wanted[0] != base64.b64encode(md5.digest()).decode()
  if is_wrong or size != int(headers["size"]):
    remove_download(part)
    raise UserError(
      f"{url}: what came is not what the server has (by its "
      f"{'hash' if is_wrong else 'size'}), and is removed. Run "
      "the same command again."
    )
  return {"url": url, "bytes": size, "sha256": sha256.hexdigest()}


def remove_download(part: str) -> None:
  """Removes what there is of a download."""
  file_io.remove_if_there([part, part + ".json"])


# --- Unpacking ---------------------------------------------------------------


def unpack(
  archive_path: str, folder: str, record: Mapping[str, object]
) -> None:
  """Unpacks a model; the folder appears when it is whole, with the record.

  Files come from the archive's top or from the one folder in it. Only plain
  files with plain names are taken. An archive that cannot be used is removed.

  Args:
    archive_path: of the archive.
    folder: to write.
    record: of the download, to be put there as well.

  Raises:
    UserError: the archive is damaged, is no model, or wants to write
      elsewhere.
  """
  with file_io.atomic_folder(folder) as temporary:
    try:
      _extract(archive_path, temporary)
    except UserError:
      remove_download(archive_path)  # it would not be better next time
      raise
    file_io.write_json(os.path.join(temporary, _RECORD), record)


def _extract(archive_path: str, folder: str) -> None:
  """Puts the files of an archive into a folder, and checks them."""
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
      f"{archive_path} cannot be unpacked, and is removed: "
      f"{error}. Run the same command again."
    ) from error
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
    *folders, name = member.filename.split("/")
    kind = stat.S_IFMT(member.external_attr >> 16)
    if (
      len(folders) > 1
      or folders in ([""], ["."], [".."])
      or name in ("", ".", "..")
      or "\\" in member.filename
      or ":" in member.filename
      or kind not in (0, stat.S_IFREG)
      or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    ):
      raise UserError(
        f"{path} holds {member.filename!r}, which is no plain "
        "file of a model. It is not unpacked."
      )
    if name in seen:
      raise UserError(f"{path} holds {name!r} twice. It is not unpacked.")
    seen.add(name)
    total += member.file_size
    if total > _MOST_BYTES:
      raise UserError(
        f"{path} would be larger than any model. It is not unpacked."
      )
    yield member, name


def main(_):
  folder = os.path.join(FLAGS.output_dir, FLAGS.name)
  with locks.Lock(folder + locks.SUFFIX, folder):
    file_io.remove_leftovers(FLAGS.output_dir)
    part = folder + ".zip.part"
    if os.path.exists(os.path.join(folder, _RECORD)):
      logging.info("%s is there already.", folder)
      remove_download(part)
      return
    if os.path.exists(folder):
      raise UserError(
        f"{folder} exists, but was not put there by this program: "
        f"it has no {_RECORD}. Choose another --output_dir."
      )
    server = FLAGS.mirror or os.environ.get(_MIRROR_VARIABLE) or _SERVER
    url = server.rstrip("/") + "/" + MODELS[FLAGS.name]
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
