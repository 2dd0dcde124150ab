"""Tests of model_versions.py."""

import os
import shutil

import pytest
import served_models

from errors import UserError
import heads
from serving import model_versions


@pytest.mark.parametrize(
  "values, names",
  [
    (["runs/mrpc"], ["mrpc"]),
    (["runs/mrpc/export"], ["mrpc"]),
    (["served/mrpc/12/"], ["mrpc"]),
    (["a=runs/x=y", "runs/b"], ["a", "b"]),
    (["google-bert/bert-base-uncased"], ["uncased_L-12_H-768_A-12"]),
  ],
)
def test_models_have_names(values, names):
  assert list(model_versions.parse_models(values)) == names


def test_paths_may_have_an_equals_sign():
  assert model_versions.parse_models(["a=x/y=z", "./b=c/d"]) == {
    "a": "x/y=z",
    "d": "./b=c/d",
  }


@pytest.mark.parametrize(
  "values, message",
  [
    (["a b=x"], "cannot be the name"),
    (["/"], "cannot be the name"),
    (["x/a", "y/a"], "two models have the name a"),
  ],
)
def test_impossible_names_are_explained(values, message):
  with pytest.raises(UserError, match=message):
    model_versions.parse_models(values)


def test_folders_without_a_model_are_explained(tmp_path):
  (tmp_path / "empty" / "notes").mkdir(parents=True)
  (tmp_path / "empty" / "3").mkdir()
  with pytest.raises(UserError, match="empty is a folder without a model"):
    model_versions.NamedModel("m", str(tmp_path / "empty"))
  with pytest.raises(UserError, match="neither a folder"):
    model_versions.NamedModel("m", str(tmp_path / "none"))


@pytest.fixture
def load_quickly(monkeypatch):
  """Replaces the loading of models; one without weights is damaged."""

  def load_version(number, folder, top_k):
    if not os.path.exists(os.path.join(folder, "variables")):
      raise UserError(f"{folder} has no weights")
    assert top_k == 2
    return model_versions.ModelVersion(number, None, ())

  monkeypatch.setattr(model_versions, "load_version", load_version)


def write_version(folder, has_weights=True):
  folder.mkdir(parents=True)
  (folder / "saved_model.pb").write_bytes(b"")
  if has_weights:
    (folder / "variables").write_bytes(b"")


def test_new_versions_replace_old_ones(load_quickly, tmp_path):
  write_version(tmp_path / "1")
  named = model_versions.NamedModel("m", str(tmp_path), top_k=2)
  assert named.statuses[1].state == model_versions.LOADING
  library = model_versions.ModelLibrary([named])
  library.load_first()
  old = named.current
  assert old.number == 1
  library.update()
  assert named.current is old

  # A version that cannot be loaded leaves the old one, and says so.
  write_version(tmp_path / "7", has_weights=False)
  for _ in range(2):
    library.update()
    assert named.current is old
    assert named.statuses[7].state == model_versions.FAILED
    assert named.statuses[1].state == model_versions.AVAILABLE
    assert "7 has no weights" in named.statuses[7].message

  # Once its files have changed, it is tried again.
  (tmp_path / "7" / "variables").write_bytes(b"x")
  library.update()
  assert named.current.number == 7
  assert {n: s.state for n, s in named.statuses.items()} == {7: "AVAILABLE"}

  # 10 is more than 7, and what is no number is no version.
  write_version(tmp_path / "10")
  write_version(tmp_path / "9.tmp")
  library.update()
  assert named.current.number == 10

  # Without the new versions the old one comes back.
  shutil.rmtree(tmp_path / "10")
  shutil.rmtree(tmp_path / "7")
  library.update()
  assert named.current.number == 1

  # The last version answers even if its folder vanishes.
  shutil.rmtree(tmp_path / "1")
  library.update()
  assert named.current.number == 1


def test_a_version_may_be_named_itself(tmp_path):
  write_version(tmp_path / "12")
  path = str(tmp_path / "12")
  assert model_versions.find_versions(path) == {12: path}


def test_versions_may_be_folders_of_models(tmp_path):
  for number in (2, 10):
    folder = tmp_path / "m" / str(number)
    served_models.write_model(folder, heads.SINGLE_LABEL, seed=number)
  versions = model_versions.find_versions(str(tmp_path / "m"))
  assert sorted(versions) == [2, 10]


def test_watching_ends(tmp_path):
  library = served_models.fake_library("one")
  calls = []

  def update():
    calls.append(1)
    library.end()

  library.models["one"].update = update
  library.watch(3600)
  assert calls == [1]
