"""Names and versions of the models that a server answers with.

A model is a folder or a name as for `predict.py`, an exported SavedModel, or a
folder whose subfolders are numbered versions, as TensorFlow Serving reads it:

    served/mrpc/1    the version 1, a SavedModel or a folder of a model
    served/mrpc/2    the version 2, which answers, since its number is higher

The folders are looked at again and again. A new version is loaded while the
old one answers. A request keeps the version that it began with.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import os
import re
import threading
from typing import Any

from absl import logging
import tensorflow as tf

from data import released_models
from errors import UserError
import heads
from serving import exported_model
from serving import text_answers
from training import model_folder

# States of a version, as in TensorFlow Serving.
LOADING, AVAILABLE, FAILED = "LOADING", "AVAILABLE", "END"

_NAME = re.compile(r"[\w.-]+", re.ASCII)
_SAMPLES = {
  heads.SPAN: ("a question", "a text"),
  heads.MULTIPLE_CHOICE: ("a text", "one", "another"),
}


@dataclasses.dataclass(eq=False)
class ModelVersion:
  """A model that is loaded.

  Attributes:
    number: Number of the version.
    answers: Answers to texts.
    labels: Labels of its head; empty if it has none, or if they are not known.
  """

  number: int
  answers: text_answers.ServerAnswers
  labels: Sequence[str]

  @property
  def head(self) -> heads.Head:
    """The head that the model was trained with."""
    return self.answers.head

  @property
  def exported(self) -> exported_model.ExportedModel:
    """The signatures of the model."""
    return self.answers.exported


def load_version(
  number: int,
  folder: str,
  top_k: int = 5,
  compute_dtype: tf.DType = tf.float32,
) -> ModelVersion:
  """Returns a model that has answered once, so that its graphs are there.

  Args:
    number: Number of the version.
    folder: Folder or name of the model.
    top_k: Number of tokens for each mask.
    compute_dtype: Type of the activations.

  Raises:
    UserError: The model cannot be read.
  """
  answers = text_answers.ServerAnswers(folder, top_k, compute_dtype)
  head = answers.exported.head
  rows = [_SAMPLES.get(head.name, ("a text",))]
  [output] = answers.answer_batch(rows, head)
  if answers.is_masked_lm():
    answers.answer_batch([(f"a {answers.mask}",)], answers.head)
  labels: Sequence[str] = answers.labels
  if head.name in (heads.SINGLE_LABEL, heads.MULTI_LABEL):
    labels = list(output["probabilities"])
  return ModelVersion(number, answers, labels)


@dataclasses.dataclass
class VersionStatus:
  """State of a version, and the reason if it could not be loaded."""

  state: str
  message: str = ""


class NamedModel:
  """A model under its name: the version that answers, and states of others.

  Attributes:
    name: Name of the model.
    path: Its folder or name.
    current: The version that answers; None while the first one is loaded.
    statuses: Number of a version -> its state.
  """

  def __init__(self, name: str, path: str, **settings: Any):
    """Looks for versions.

    Args:
      name: Name of the model.
      path: Folder or name; see the module.
      **settings: Further arguments of `load_version`.

    Raises:
      UserError: There is no model.
    """
    self.name = name
    self.path = path
    self.current: ModelVersion | None = None
    self._settings = settings
    self._failed: dict[int, Any] = {}
    self.statuses = {max(find_versions(path)): VersionStatus(LOADING)}

  def update(self) -> None:
    """Loads the newest version if it is another than the one that answers.

    Raises:
      UserError: The version cannot be loaded. The old one stays.
    """
    versions = find_versions(self.path)
    newest = max(versions)
    folder = versions[newest]
    old = self.current
    if old and old.number == newest:
      return
    content = _list_content(folder)
    if self._failed.get(newest) == content:
      return
    self.statuses = {**self.statuses, newest: VersionStatus(LOADING)}
    try:
      version = load_version(newest, folder, **self._settings)
    except Exception as error:
      self._failed[newest] = content
      failed = VersionStatus(FAILED, str(error))
      self.statuses = {**self.statuses, newest: failed}
      raise
    self._failed.clear()
    self.current = version
    self.statuses = {newest: VersionStatus(AVAILABLE)}
    logging.info("%s: version %d answers.", self.name, newest)


def find_versions(path: str) -> dict[int, str]:
  """Returns number of a version -> its folder.

  A model without versions is its version 1.

  Raises:
    UserError: The path is no folder, or has no model.
  """
  if not tf.io.gfile.isdir(path):
    model_folder.find_model(path)  # a released model, or an error
    return {1: path}
  if _is_model(path):
    name = os.path.basename(os.path.abspath(path))
    is_version = exported_model.is_exported(path) and name.isdecimal()
    return {int(name) if is_version else 1: path}
  versions = {}
  for name in tf.io.gfile.listdir(path):
    folder = os.path.join(path, name.strip("/"))
    if name.strip("/").isdecimal() and _is_model(folder):
      versions[int(name.strip("/"))] = folder
  if not versions:
    model_folder.find_model(path)  # the folder of a training that has not ended
    raise UserError(
      f"--model={path} is a folder without a model: it has no saved_model.pb, "
      "no bert_config.json, and no numbered folder with one of them. Pass the "
      "--output_dir of a training, or a folder that export_saved_model.py "
      "wrote."
    )
  return versions


def _is_model(folder: str) -> bool:
  """Returns whether a folder is a model, and not one of its versions."""
  if exported_model.is_exported(folder):
    return True
  try:
    config = model_folder.find_model(folder).bert_config_file
  except UserError:  # the folder of a training that has not ended
    return False
  return tf.io.gfile.exists(config)


def _list_content(folder: str) -> list[tuple[str, int]]:
  """Returns the names and sizes of all files in a folder."""
  content = []
  for parent, _, names in tf.io.gfile.walk(folder):
    for name in names:
      path = os.path.join(parent, name)
      content.append((path, tf.io.gfile.stat(path).length))
  return sorted(content)


def parse_models(values: Sequence[str]) -> dict[str, str]:
  """Returns name -> path of the models of a flag.

  Args:
    values: Elements `path` or `name=path`. Without a name, the last part of the
      path that says something is the name.

  Raises:
    UserError: A name is impossible, or there are two models of a name.
  """
  paths: dict[str, str] = {}
  for value in values:
    name, has_name, path = value.partition("=")
    if not has_name or os.sep in name:
      path, name = value, _name_of(value)
    if not _NAME.fullmatch(name):
      raise UserError(
        f"--model={value}: {name!r} cannot be the name of a model, which has "
        "letters, digits, _, - and . only. Pass --model=name=path."
      )
    if name in paths:
      raise UserError(
        f"--model={','.join(values)}: two models have the name {name}. Pass "
        "--model=name=path,other=path."
      )
    paths[name] = path
  return paths


def _name_of(path: str) -> str:
  """Returns `mrpc` for `runs/mrpc/export` and for `served/mrpc/1`."""
  if released_models.find_name(path) in released_models.PATHS:
    return released_models.find_name(path)
  parts = os.path.abspath(path).split(os.sep)
  for part in reversed(parts):
    if part != model_folder.EXPORT_DIR and not part.isdecimal():
      return part
  return ""


class ModelLibrary:
  """All models of a server, which are loaded one after another.

  Attributes:
    models: Name -> model.
  """

  def __init__(self, models: Sequence[NamedModel]):
    """Stores the models, of which there is at least one."""
    self.models = {model.name: model for model in models}
    self._has_ended = threading.Event()

  def load_first(self) -> None:
    """Loads the first model.

    Raises:
      UserError: It cannot be loaded.
    """
    next(iter(self.models.values())).update()

  def update(self) -> None:
    """Loads new versions; logs an error, and continues with the others."""
    for model in self.models.values():
      if self._has_ended.is_set():
        return
      try:
        model.update()
      except Exception as error:
        logging.error("%s: %s", model.name, error)

  def watch(self, seconds: float) -> None:
    """Calls `update` again and again, until `end` is called.

    Args:
      seconds: Seconds between two calls.
    """
    self.update()
    while not self._has_ended.wait(seconds):
      self.update()

  def end(self) -> None:
    """Ends `watch`, which may be loading a model."""
    self._has_ended.set()
