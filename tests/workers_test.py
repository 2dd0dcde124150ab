"""Tests of workers.py."""

import os

import pytest

import workers


def ending_worker():
  return lambda item: os._exit(9)


def worker_that_cannot_be_made():
  raise ValueError("it takes the library x: pip install x.")


@pytest.mark.parametrize("factory, message", [
    (worker_that_cannot_be_made, "takes the library x"),
    (ending_worker, "A worker process was killed")])
def test_what_went_wrong_in_a_worker_is_told(factory, message):
  with pytest.raises(ValueError, match=message):
    list(workers.map_unordered(factory, range(5), num_workers=2))
