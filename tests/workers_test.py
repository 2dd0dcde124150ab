"""Tests of pretraining/workers.py."""

import os
import subprocess
import sys
import threading

import pytest

from pretraining import workers


def create_ending_worker():
  return lambda item: os._exit(9)


def create_failing_worker():
  raise ValueError("it requires x: pip install x.")


@pytest.mark.parametrize(
  "factory, message",
  [
    (create_failing_worker, "it requires x"),
    (create_ending_worker, "A worker process was killed"),
  ],
)
def test_an_error_of_a_worker_reaches_the_program(factory, message):
  with pytest.raises(ValueError, match=message):
    list(workers.map_unordered(factory, range(5), num_workers=2))


class Unportable(Exception):
  """An exception that cannot be unpickled."""

  def __init__(self, text, unused_number):
    super().__init__(text)


def create_dividing_worker():
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
def test_a_bug_in_a_worker_is_shown_with_its_traceback(
  item, error_type, message
):
  with pytest.raises(error_type, match=message) as caught:
    list(workers.map_unordered(create_dividing_worker, [item, 2], 2))
  assert "in divide" in str(caught.value.__cause__)


def wait_for(path):
  # Also ends if the file never appears, which the assertions then notice.
  for _ in range(200):
    if os.path.exists(path):
      break
    threading.Event().wait(0.1)


def create_waiting_worker():
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
def test_results_come_as_they_finish_or_in_order(tmp_path, function, order):
  first, second = tmp_path / "first", tmp_path / "second"
  items = [(0, second, first), (1, None, second)]
  results = function(create_waiting_worker, items, 2)
  assert [number for number, _ in results] == order


def test_workers_end_when_the_iteration_stops_early(tmp_path):
  never, made = tmp_path / "never", tmp_path / "made"
  results = workers.map_unordered(
    create_waiting_worker, [(0, never, made), (1, None, tmp_path / "x")], 2
  )
  _, pid = next(results)
  results.close()
  assert not made.exists()  # the other worker was stopped
  with pytest.raises(ProcessLookupError):
    os.kill(pid, 0)


def say_and_wait(text):
  # In one piece, because two workers write to one pipe.
  os.write(1, f"{text}\n".encode())
  wait_for("/nowhere")
  print("survived", flush=True)


class SlowImport:
  """A factory that is slow to unpickle, like one of a module with imports."""

  def __reduce__(self):
    return say_and_wait, ("importing",)


def create_busy_worker():
  return say_and_wait


@pytest.mark.parametrize(
  "factory, text",
  [("SlowImport()", "importing"), ("create_busy_worker", "working")],
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
  # The pipe is closed when the last process that can write to it has ended.
  assert set(process.stdout.read().split()) <= {text}
  process.wait(timeout=60)
