"""Tests of late_imports.py."""

import os
import subprocess
import sys

import builders
import pytest

SCRIPT = """
import sys
from command_line import late_imports
late_imports.postpone()
import tensorflow as tf
from data import file_io
import modeling
assert not {"keras", "numpy"} & set(sys.modules)
"""


def run_python(script: str, **environment) -> None:
  result = subprocess.run(
    [sys.executable, "-c", SCRIPT + script],
    cwd=builders.ROOT,
    env={**os.environ, **environment},
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert result.returncode == 0, result.stderr


def test_module_is_loaded_on_first_use():
  # The suffix is a constant of a module that does not use TensorFlow for it.
  run_python(
    "assert file_io.REPORT_SUFFIX and 'tensorflow.python' not in sys.modules\n"
    "assert issubclass(modeling.BertModel, tf.Module)\n"
    "assert 'keras' not in sys.modules\n"
    "late_imports.load_all()\n"
    "import tokenization\n"
    "assert type(tokenization) is type(sys)"
  )


def test_missing_attributes_and_modules_are_errors_as_ever():
  run_python(
    "late_imports.load_all()\n"
    "for code in ('tf.nothing', 'modeling.nothing'):\n"
    "  try: eval(code)\n"
    "  except AttributeError: continue\n"
    "  raise AssertionError(code)\n"
    "try: import data.nothing\n"
    "except ModuleNotFoundError: pass"
  )


@pytest.mark.parametrize("legacy", ["0", "1"])
def test_keras_is_loaded_on_first_use_only(legacy):
  run_python(
    "late_imports.load_all()\n"
    "loaded = {name.partition('.')[0] for name in sys.modules}\n"
    "assert not loaded & {'keras', 'tf_keras'}, loaded\n"
    "model = tf.keras.Sequential([tf.keras.layers.Dense(1)])\n"
    "model.compile('sgd', 'mse')\n"
    "model.fit(tf.ones([2, 3]), tf.ones([2, 1]), verbose=0)",
    TF_USE_LEGACY_KERAS=legacy,
  )
