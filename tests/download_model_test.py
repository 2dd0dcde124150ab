"""Tests of download_model.py, against a server on this machine."""

import base64
import errno
import hashlib
from http import server
import io
import json
import os
import shutil
import stat
import threading
import urllib.request
import zipfile

import builders
import pytest

from data import locks
from data import released_models
import download_model
from errors import UserError

NAME = "uncased_L-2_H-128_A-2"
FILES = {
  "bert_config.json": builders.tiny_config().to_json_string(),
  "vocab.txt": "[PAD]\n",
  "bert_model.ckpt.index": "i" * 1000,
  "bert_model.ckpt.data-00000-of-00001": "d" * 300_000,
}


def make_zip(files, folder=""):
  output = io.BytesIO()
  with zipfile.ZipFile(output, "w") as archive:
    for name, content in files.items():
      archive.writestr(
        name if isinstance(name, zipfile.ZipInfo) else folder + name, content
      )
  return output.getvalue()


class Handler(server.BaseHTTPRequestHandler):
  """Serves `server.content`, as the other attributes of the server say."""

  def do_GET(self):
    settings, content = self.server, self.server.content
    settings.requests.append((self.path, self.headers.get("Range")))
    start = 0
    if (
      self.headers.get("Range")
      and settings.takes_ranges
      and (self.headers.get("If-Range") == settings.etag)
    ):
      start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
    if not self.path.endswith(f"/2020_02_20/{NAME}.zip"):
      self.send_error(404)
      return
    self.send_response(206 if start else 200)
    if start:
      self.send_header(
        "Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}"
      )
    self.send_header(
      "Content-Length", str(len(content) - start + settings.extra_length)
    )
    self.send_header("ETag", settings.etag)
    self.send_header("x-goog-hash", f"crc32c=AAAAAA==,md5={settings.md5}")
    self.end_headers()
    rest = content[start:]
    if settings.cuts:
      rest = rest[: settings.cuts.pop(0)]
    self.wfile.write(rest)

  def log_message(self, *args):
    pass


@pytest.fixture
def web(tmp_path, run_program):
  """A server, and the program that is pointed to it."""
  with server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as result:

    def set_content(content):
      result.content = content
      result.md5 = base64.b64encode(hashlib.md5(content).digest()).decode()

    result.set_content = set_content
    result.set_content(make_zip(FILES))
    result.etag, result.takes_ranges = '"1"', True
    result.cuts, result.requests, result.extra_length = [], [], 0
    result.run = lambda: run_program(
      download_model,
      name=NAME,
      output_dir=tmp_path / "models",
      mirror=f"http://127.0.0.1:{result.server_port}/mirror/",
    )
    threading.Thread(target=result.serve_forever, daemon=True).start()
    yield result
    result.shutdown()


def check_model(tmp_path, content):
  folder = tmp_path / "models" / NAME
  assert {path.name for path in folder.iterdir()} == {*FILES, "download.json"}
  for name, text in FILES.items():
    assert (folder / name).read_text() == text
  record = json.loads((folder / "download.json").read_text())
  assert record["url"].endswith(f"/mirror/2020_02_20/{NAME}.zip")
  assert record["bytes"] == len(content)
  assert record["sha256"] == hashlib.sha256(content).hexdigest()
  assert [path.name for path in (tmp_path / "models").iterdir()] == [NAME]


@pytest.mark.parametrize("folder", ["", f"{NAME}/"])
def test_a_model_is_downloaded_once(web, tmp_path, folder):
  web.set_content(make_zip(FILES, folder))
  web.run()
  check_model(tmp_path, web.content)
  web.run()
  assert len(web.requests) == 1


def test_a_download_resumes_after_a_lost_connection(web, tmp_path):
  web.cuts = [1000, 50_000]
  web.run()
  check_model(tmp_path, web.content)
  assert [requested for _, requested in web.requests] == [
    None,
    "bytes=1000-",
    "bytes=51000-",
  ]


def test_an_abandoned_download_resumes(web, tmp_path):
  web.cuts = [1000, 0, 0, 0, 0]
  with pytest.raises(
    ValueError, match="was lost after 1000 of .* Run the same command again"
  ):
    web.run()
  assert not (tmp_path / "models" / NAME).exists()
  web.run()
  check_model(tmp_path, web.content)
  assert web.requests[-1][1] == "bytes=1000-"


def test_a_file_that_changed_is_downloaded_from_its_beginning(web, tmp_path):
  web.cuts = [1000, 0, 0, 0, 0]
  with pytest.raises(ValueError):
    web.run()
  web.etag = '"2"'
  web.set_content(make_zip({**FILES, "vocab.txt": "[PAD]\n"}, f"{NAME}/"))
  web.run()
  check_model(tmp_path, web.content)


def test_a_server_without_ranges_sends_all_again(web, tmp_path):
  web.takes_ranges, web.cuts = False, [1000]
  web.run()
  check_model(tmp_path, web.content)


def test_a_wrong_hash_or_size_is_refused(web, tmp_path):
  web.md5 = "AAAA"
  with pytest.raises(ValueError, match="by its hash.*is removed"):
    web.run()
  assert not list((tmp_path / "models").glob("*.zip*part"))
  web.set_content(web.content)
  web.extra_length = 7
  with pytest.raises(ValueError, match="was lost after"):
    web.run()


def test_a_missing_file_names_the_mirror(web, tmp_path):
  with pytest.raises(ValueError, match="the server says 404.*--mirror"):
    download_model.download(
      f"http://127.0.0.1:{web.server_port}/nothing", str(tmp_path / "x")
    )


def link():
  info = zipfile.ZipInfo("vocab.txt")
  info.external_attr = (stat.S_IFLNK | 0o777) << 16
  return info


@pytest.mark.parametrize(
  "files, message",
  [
    ({**FILES, "../evil": "x"}, "'../evil', which is no plain file"),
    ({**FILES, "/etc/evil": "x"}, "'/etc/evil', which is no plain file"),
    ({**FILES, "a/b/evil": "x"}, "no plain file"),
    ({**FILES, "a\\..\\evil": "x"}, "no plain file"),
    (
      {**{k: v for k, v in FILES.items() if k != "vocab.txt"}, link(): "/etc"},
      "'vocab.txt', which is no plain file",
    ),
    ({**FILES, "a/vocab.txt": "x"}, "'vocab.txt' twice"),
    ({"vocab.txt": "x"}, "is no model: it has no bert_config.json"),
    ({**FILES, "bert_config.json": "{"}, "bert_config.json: not JSON"),
  ],
)
def test_archives_that_are_refused(web, tmp_path, files, message):
  web.set_content(make_zip(files))
  with pytest.raises(ValueError, match=message):
    web.run()
  assert not list(tmp_path.glob("models/*"))
  assert not list(tmp_path.glob("**/evil"))


def test_archives_that_grow_beyond_any_model(web, tmp_path, monkeypatch):
  monkeypatch.setattr(download_model, "_MOST_BYTES", len(web.content) + 10)
  files = {**FILES, "zeros": "0" * 10_000_000}
  output = io.BytesIO()
  with zipfile.ZipFile(output, "w", zipfile.ZIP_DEFLATED) as archive:
    for name, content in files.items():
      archive.writestr(name, content)
  web.set_content(output.getvalue())
  with pytest.raises(ValueError, match="larger than any model"):
    web.run()
  assert not list(tmp_path.glob("models/*"))


def test_a_download_killed_anywhere_continues(web, tmp_path):
  operations = [
    *builders.FILE_OPERATIONS,
    (os, "fsync"),
    (zipfile, "ZipFile"),
    (shutil, "copyfileobj"),
    (urllib.request, "urlopen"),
  ]
  for last in range(100):
    web.etag = f'"{last}"'
    if not builders.run_until_death(web.run, last, operations):
      break
    web.run()
    check_model(tmp_path, web.content)
    shutil.rmtree(tmp_path / "models")
  check_model(tmp_path, web.content)
  assert last > 20


@pytest.mark.parametrize(
  "damaged",
  ["", "{", "[]", '{"size": 1000}', '{"size": "x", "etag": "", "hash": ""}'],
)
def test_a_download_with_damaged_headers_starts_again(web, tmp_path, damaged):
  web.cuts = [1000, 0, 0, 0, 0]
  with pytest.raises(UserError):
    web.run()
  (tmp_path / "models" / f"{NAME}.zip.part.json").write_text(damaged)
  web.run()
  check_model(tmp_path, web.content)
  assert web.requests[-1][1] is None


def test_a_second_download_leaves_the_first_alone(web, tmp_path):
  folder = tmp_path / "models"
  with locks.Lock(str(folder / f"{NAME}.lock"), "the model"):
    part = folder / f"{NAME}.zip.part"
    part.write_text("of the first one")
    with pytest.raises(UserError, match=f"{NAME} is in use: .*process"):
      web.run()
    assert part.read_text() == "of the first one" and not web.requests
    part.unlink()


def test_a_full_disk_keeps_the_download(web, tmp_path, monkeypatch):
  def copy(*args):
    raise OSError(errno.ENOSPC, "No space left on device")

  with monkeypatch.context() as context:
    context.setattr(shutil, "copyfileobj", copy)
    with pytest.raises(UserError, match=f"{NAME} cannot be written: No space"):
      web.run()
  web.run()
  check_model(tmp_path, web.content)
  assert len(web.requests) == 1


@pytest.mark.parametrize("mirror", ["nowhere", "http://a b/", "http://[/"])
def test_a_mirror_that_is_no_address(run_program, tmp_path, mirror):
  with pytest.raises(UserError, match="could not be downloaded.*--mirror"):
    run_program(download_model, name=NAME, output_dir=tmp_path, mirror=mirror)


def test_what_is_no_archive(web, tmp_path):
  web.set_content(b"<html>log in first</html>")
  with pytest.raises(ValueError, match="cannot be unpacked"):
    web.run()
  assert not list(tmp_path.glob("models/*"))


def test_the_released_models_are_all_there():
  paths = set(released_models.PATHS.values())
  # One of the 24 small sizes has the name of the Base model.
  assert len(paths) == len(released_models.PATHS) == 24 + 8
  assert released_models.PATHS["uncased_L-12_H-768_A-12"].startswith("2018")
