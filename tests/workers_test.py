"""Tests of workers.py."""

import os
import subprocess
import sys
import threading

import pytest

from pretraining import workers


def ending_worker():
  return lambda item: os._exit(9)


def worker_that_cannot_be_made():
  raise ValueError("it takes the library x: pip install x.")


@pytest.mark.parametrize(
  "factory, message",
  [
    (worker_that_cannot_be_made, "takes the library x"),
    (ending_worker, "A worker process was killed"),
  ],
)
def test_what_went_wrong_in_a_worker_is_told(factory, message):
  with pytest.raises(ValueError, match=message):
    list(workers.map_unordered(factory, range(5), num_workers=2))


class Unportable(Exception):
  """Cannot be pickled by its arguments."""

  def __init__(self, text, unused_number):
    super().__init__(text)


def worker_with_a_mistake():
  def divide(item):
    if not item:
      raise Unportable("none of the usual errors", 1)
    return 1 / (item - 1)

  return divide


@pytest.mark.parametrize(
  "item, error_type, message",
  [
    (1, ZeroDivisionError, "division by zero"),
    (0, RuntimeError, "Unportable.*none of the usual"),
  ],
)
def test_a_mistake_in_a_worker_is_told_with_its_place(
  item, error_type, message
):
  with pytest.raises(error_type, match=message) as caught:
    list(workers.map_unordered(worker_with_a_mistake, [item, 2], 2))
  assert "in divide" in str(caught.value.__cause__)


def wait_for(path):
  # Ends also if nobody makes the file, which the assertions then notice.
  for _ in range(200):
    if os.path.exists(path):
      break
    threading.Event().wait(0.1)


def waiting_worker():
  def wait_and_make(item):
    number, awaited, made = item
    if awaited:
      wait_for(awaited)
    with open(made, "w"):
      return number, os.getpid()

  return wait_and_make


@pytest.mark.parametrize(
  "function, order",
  [(workers.map_unordered, [1, 0]), (workers.map_ordered, [0, 1])],
)
def test_results_come_as_they_are_done_or_in_order(tmp_path, function, order):
  first, second = tmp_path / "first", tmp_path / "second"
  items = [(0, second, first), (1, None, second)]
  assert [number for number, _ in function(waiting_worker, items, 2)] == order


def test_workers_end_when_the_iteration_is_given_up(tmp_path):
  never, made = tmp_path / "never", tmp_path / "made"
  results = workers.map_unordered(
    waiting_worker, [(0, never, made), (1, None, tmp_path / "x")], 2
  )
  _, pid = next(results)
  results.close()
  assert not made.exists()  # the other one was not waited for
  with pytest.raises(ProcessLookupError):
    os.kill(pid, 0)


def say_and_wait(text):
  print(text, flush=True)
  wait_for("/nowhere")
  print("survived", flush=True)


class SlowImport:
  """A factory that takes long to arrive, as one of a module with imports."""

  def __reduce__(self):
    return say_and_wait, ("importing",)


def busy_worker():
  return say_and_wait


@pytest.mark.parametrize(
  "factory, text", [("SlowImport()", "importing"), ("busy_worker", "working")]
)
def test_no_process_outlives_a_program_that_is_killed(factory, text):
  here = os.path.dirname(__file__)
  process = subprocess.Popen(
    [
      sys.executable,
      "-c",
      "import workers_test; list("
      "workers_test.workers.map_unordered("
      f"workers_test.{factory}, ['working'] * 2, 2))",
    ],
    env={
      **os.environ,
      "PYTHONPATH": os.pathsep.join([here, os.path.dirname(here)]),
    },
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )
  assert process.stdout.readline().strip() == text
  process.kill()
  # The pipe ends when the last process that could write to it has ended.
  assert set(process.stdout.read().split()) <= {text}
  process.wait(timeout=60)
