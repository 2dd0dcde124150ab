"""Tests of interruption.py."""

import signal
import threading

import numpy as np
import pytest

from errors import Interrupted
from training import interruption

SIGNALS = [signal.SIGTERM, signal.SIGINT]


def raise_signal(number):
  """Sends a signal to this process; returns when its handler has run."""
  signal.raise_signal(number)
  for _ in range(100):  # Python runs handlers between instructions
    pass


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_a_function_and_is_returned(number):
  steps = []

  def evaluate():
    steps.append("begun")
    raise_signal(number)
    steps.append("finished")
    return {"f1": 1.0}

  with pytest.raises(Interrupted), interruption.Call(1) as call:
    assert call.unless_signalled(evaluate) == (None, number)
  assert steps == ["begun"]


@pytest.mark.parametrize("number", SIGNALS)
def test_after_a_signal_no_function_is_begun(number):
  with pytest.raises(Interrupted), interruption.Call(1) as call:
    raise_signal(number)  # outside of a function it only sets the flags
    result = call.unless_signalled(lambda: pytest.fail("It was called."))
    assert result == (None, number)


def test_a_function_of_several_machines_is_finished():
  def evaluate():
    raise_signal(signal.SIGTERM)
    return {"f1": 1.0}

  with pytest.raises(Interrupted), interruption.Call(2) as call:
    assert call.unless_signalled(evaluate) == ({"f1": 1.0}, 0)


def test_handlers_of_errors_do_not_catch_the_end_of_a_function():
  def evaluate():
    try:
      raise_signal(signal.SIGTERM)
    except Exception:
      pytest.fail("It was caught.")

  with pytest.raises(Interrupted), interruption.Call(1) as call:
    assert call.unless_signalled(evaluate) == (None, signal.SIGTERM)


def test_without_a_signal_the_result_is_returned():
  handlers = [signal.getsignal(number) for number in SIGNALS]
  with interruption.Call(1) as call:
    assert call.unless_signalled(lambda: 7) == (7, 0)
  assert [signal.getsignal(number) for number in SIGNALS] == handlers


def test_the_second_ctrl_c_does_not_wait():
  with pytest.raises(KeyboardInterrupt), interruption.Call(1):
    raise_signal(signal.SIGINT)
    raise_signal(signal.SIGINT)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_sets_its_flag(monkeypatch, number):
  is_set = threading.Event()

  class Noticing(interruption.Call):
    def _set_flag(self, index, value):
      super()._set_flag(index, value)
      is_set.set()

  with pytest.raises(Interrupted), Noticing(1) as call:
    raise_signal(number)
    assert is_set.wait(timeout=60)
    assert interruption.signal_of(call.flags.numpy()) == number
    # The sum over two machines, one of which has seen it.
    assert interruption.signal_of(2 * call.flags.numpy()) == number
    assert call.flags.numpy()[0] == 0.0


def test_no_flag_is_no_signal():
  assert interruption.signal_of(np.array([1.0, 0.0, 0.0])) == 0


def test_a_call_ends_after_a_while(monkeypatch):
  monkeypatch.setattr(interruption, "_SECONDS_PER_CALL", 0.0)
  is_set = threading.Event()

  class Noticing(interruption.Call):
    def _set_flag(self, index, value):
      super()._set_flag(index, value)
      if value:
        is_set.set()

  with Noticing(1) as call:
    with call.limited():
      assert is_set.wait(timeout=60)
    assert call.flags.numpy().tolist() == [1.0, 0.0, 0.0]
    monkeypatch.setattr(interruption, "_SECONDS_PER_CALL", 1e6)
    with call.limited():
      assert call.flags.numpy().tolist() == [0.0, 0.0, 0.0]
