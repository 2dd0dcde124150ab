"""Tests of distillation.py; run_classifier_test.py tests whole runs with it."""

import io

import numpy as np
import pytest

from tasks import distillation

LOGITS = np.arange(6, dtype=np.float32).reshape(3, 2)


def saved(array) -> bytes:
  writer = io.BytesIO()
  np.save(writer, array)
  return writer.getvalue()


def test_what_a_teacher_said_is_read_again(tmp_path):
  path = tmp_path / "x.npy"
  assert distillation.read_cached(str(path), (3, 2)) is None
  path.write_bytes(saved(LOGITS))
  cached = distillation.read_cached(str(path), (3, 2))
  assert cached.dtype == np.float32 and np.array_equal(cached, LOGITS)


@pytest.mark.parametrize(
  "content",
  [
    b"",
    saved(LOGITS)[:-1],
    saved(LOGITS) + b"\0",
    saved(LOGITS.T),
    saved(LOGITS.astype(np.float64)),
    saved(LOGITS.astype(np.int32)),
    saved(np.where(LOGITS == 3, np.nan, LOGITS)),
    saved(LOGITS[:2]),
  ],
)
def test_a_damaged_file_is_not_used(tmp_path, content):
  path = tmp_path / "x.npy"
  path.write_bytes(content)
  assert distillation.read_cached(str(path), (3, 2)) is None
