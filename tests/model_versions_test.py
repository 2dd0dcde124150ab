"""Tests of model_versions.py."""

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


def test_new_versions_replace_old_ones(tmp_path):
  model = served_models.write_model(tmp_path / "a", heads.SINGLE_LABEL)
  served = tmp_path / "served"
  first = served_models.export(model, served)
  assert model_versions.find_versions(str(first)) == {1: str(first)}
  named = model_versions.NamedModel("m", str(served))
  library = model_versions.ModelLibrary([named])
  library.load_first()
  old = named.current
  assert (old.number, old.head.name) == (1, heads.SINGLE_LABEL)
  assert tuple(old.labels) == served_models.LABELS[heads.SINGLE_LABEL]
  library.update()
  assert named.current is old

  # A version that cannot be loaded leaves the old one, and says so.
  broken = shutil.copytree(first, served / "7")
  shutil.rmtree(broken / "variables")
  library.update()
  assert named.current is old
  assert named.statuses[7].state == model_versions.FAILED
  assert named.statuses[1].state == model_versions.AVAILABLE
  assert "7" in named.statuses[7].message

  # Once its files are there, it is tried again.
  shutil.copytree(first / "variables", broken / "variables")
  library.update()
  assert named.current.number == 7
  assert {n: s.state for n, s in named.statuses.items()} == {7: "AVAILABLE"}

  # The old version still answers those who hold it.
  head = old.head
  rows = [("the cat sat",)]
  assert old.answers.answer_batch(rows, head) == (
    named.current.answers.answer_batch(rows, head)
  )

  # Without the new version the old one comes back.
  shutil.rmtree(broken)
  library.update()
  assert named.current.number == 1


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
