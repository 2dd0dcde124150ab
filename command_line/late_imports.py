"""Postpones imports until the flags are known to be right.

Half of the time of a small command is the import of TensorFlow. Someone who
asks for help, or mistypes a flag, should not wait for it. So while a program
defines and reads its flags, `import tensorflow` and the imports of our own
modules give empty modules. A module is loaded when one of its attributes is
used, or at the latest by `load_all`, before the work begins.

TensorFlow also loads Keras, which no program uses and which takes almost half
of its import. It is kept out, but loads as ever when something uses it.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import sys
import types
from typing import Any

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# Module -> the loader that it still needs, in the order of imports.
_loaders: dict[types.ModuleType, Any] = {}


class _PostponedModule(types.ModuleType):
  """A module that is loaded when one of its attributes is missing."""

  def __getattr__(self, name: str) -> Any:
    # The import system itself asks for attributes such as `__path__`.
    if name.startswith("__") or self not in _loaders:
      raise AttributeError(f"module {self.__name__!r} has no {name!r}")
    _load(self)
    return getattr(self, name)


def _load(module: types.ModuleType) -> None:
  spec, loader = module.__spec__, _loaders.pop(module)
  assert spec is not None
  module.__class__ = types.ModuleType
  # As Python's import system does; see `_KerasLater`.
  spec._initializing = True  # type: ignore[attr-defined]
  try:
    loader.exec_module(module)
  except BaseException:
    sys.modules.pop(module.__name__, None)
    raise
  finally:
    spec._initializing = False  # type: ignore[attr-defined]


class _PostponingLoader(importlib.abc.Loader):
  """Loader that only remembers which loader has to be used later."""

  def __init__(self, loader: Any):
    """Stores the loader."""
    self._loader = loader

  def create_module(self, spec: Any) -> types.ModuleType:
    return _PostponedModule(spec.name)

  def exec_module(self, module: types.ModuleType) -> None:
    _loaders[module] = self._loader


class _Postponer(importlib.abc.MetaPathFinder):
  """Finder of TensorFlow and of our own modules, which postpones them."""

  def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
    del target
    package = name.partition(".")[0]
    parent = sys.modules.get(package)
    if package == "tensorflow" and parent in _loaders:
      _load(parent)  # a part of TensorFlow cannot do without the rest
    if package == "tensorflow" and name != package:
      return None
    spec = importlib.machinery.PathFinder.find_spec(name, path)
    if spec is None or spec.loader is None:
      return None
    is_ours = str(spec.origin).startswith(_ROOT + os.sep)
    is_installed = "site-packages" in str(spec.origin)
    if name != "tensorflow" and (is_installed or not is_ours):
      return None
    spec.loader = _PostponingLoader(spec.loader)
    return spec


class _KerasLater(importlib.abc.MetaPathFinder):
  """Finder that keeps TensorFlow from loading Keras.

  TensorFlow ends its own import with an import of Keras' optimizers, for users
  of `tf.keras`, and goes on without them if that import fails. This finder
  makes it fail, but only while TensorFlow itself is being imported. Later,
  `tf.keras`, `import keras` and layers of TensorFlow Hub load Keras as ever.
  """

  def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
    del path, target
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is None or not name.startswith(("keras.", "tf_keras.")):
      return
    # The mark of Python's import system for a module whose code still runs.
    if getattr(tensorflow.__spec__, "_initializing", False):
      raise ModuleNotFoundError(f"{name} is loaded on first use", name=name)


_postponer = _Postponer()
sys.meta_path.insert(0, _KerasLater())


def postpone() -> None:
  """Postpones all further imports of TensorFlow and of our own modules."""
  sys.meta_path.insert(0, _postponer)


def load_all() -> None:
  """Loads what was postponed, and postpones nothing further."""
  if _postponer in sys.meta_path:
    sys.meta_path.remove(_postponer)
  while _loaders:
    _load(next(iter(_loaders)))
