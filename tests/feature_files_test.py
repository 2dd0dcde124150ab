"""Tests of data/feature_files.py."""

import os

import builders
import numpy as np
import pytest

from data import feature_files
from data import file_io
from errors import UserError

FORMATS = {
  "json": lambda: feature_files.JsonLines([-1, 0]),
  "npz": feature_files.Npz,
  "tfrecord": feature_files.TfRecords,
  "parquet": feature_files.Parquet,
}


def features_of_part(number):
  return [
    feature_files.LineFeatures(
      3 * number + i,
      ["a", "bird"][: 1 + i % 2],
      np.full([1 + i % 2, 2, 4], number + i / 3, np.float32),
    )
    for i in range(3)
  ]


def write_features(folder, file_format, settings=None):
  """Writes a file of three parts, and returns the numbers of new parts."""
  file_io.remove_leftovers(str(folder))
  output = feature_files.PartedFile(
    str(folder / "out"), FORMATS[file_format](), settings or {"x": 1}
  )
  made = []
  for number in range(3):
    if not output.has_part(number, 3):
      output.write_part(number, features_of_part(number))
      made.append(number)
  output.finish(3)
  return made


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_killed_run_ends_with_the_same_features(tmp_path, file_format):
  def run(folder):
    folder.mkdir(parents=True, exist_ok=True)
    write_features(folder, file_format)

  run(tmp_path / "whole")
  # The other formats differ only in a few operations.
  steps = range(0, 1000, 1 if file_format == "json" else 5)
  whole = builders.read_folder(tmp_path / "whole")
  builders.check_deaths(run, tmp_path / "killed", whole, steps)


def cut(path):
  os.truncate(path, path.stat().st_size - 5)


def flip(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)


@pytest.mark.parametrize(
  "file, damage, made",
  [
    ("part-000001", cut, [1]),
    ("part-000001", flip, [1]),
    ("part-000001.json", cut, [1]),
    ("part-000000.json", os.remove, [0]),
    ("part-000001.json", lambda path: path.write_text("[]"), [1]),
    ("settings.json", lambda path: os.truncate(path, 0), [0, 1, 2]),
  ],
)
def test_damaged_parts_of_features_are_made_again(
  monkeypatch, tmp_path, file, damage, made
):
  write_features(tmp_path, "json")
  whole = builders.read_folder(tmp_path)
  with monkeypatch.context() as context:
    context.setattr(feature_files.PartedFile, "finish", lambda *unused: None)
    write_features(tmp_path, "json")
  with pytest.raises(UserError, match="other settings: x, y. Delete"):
    write_features(tmp_path, "json", {"x": 2, "y": 1})
  damage(tmp_path / "out.parts" / file)
  assert write_features(tmp_path, "json") == made
  assert builders.read_folder(tmp_path) == whole


def test_parts_damaged_before_the_end_are_reported(tmp_path):
  output = feature_files.PartedFile(
    str(tmp_path / "out"), FORMATS["json"](), {}
  )
  output.write_part(0, features_of_part(0))
  cut(tmp_path / "out.parts" / "part-000000")
  with pytest.raises(UserError, match="part-000000 was damaged.*Run the same"):
    output.finish(1)
  assert not (tmp_path / "out").exists()


def test_a_folder_in_place_of_a_file_is_a_user_error(tmp_path):
  (tmp_path / "out.parts" / "settings.json").mkdir(parents=True)
  with pytest.raises(UserError, match="settings.json is a folder"):
    write_features(tmp_path, "json")
