"""Tests of the contract of programs, with the trials of `contract.py`."""

import signal
import sys

import contract
import contract_programs
import pytest

pytestmark = pytest.mark.skipif(
  sys.platform != "linux", reason="reads processes from /proc"
)

# Between them these write all kinds of files: shards, checkpoints, the best
# one.
_QUICK = ("records", "pretraining_dynamic")
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def every_program(condition=lambda program: True, quick=_QUICK):
  """Parametrizes a test; most programs are left to `make test-large`."""
  return pytest.mark.parametrize(
    "name",
    [
      pytest.param(name, marks=() if name in quick else pytest.mark.large)
      for name, program in contract_programs.PROGRAMS.items()
      if condition(program)
    ],
  )


@pytest.fixture(scope="session")
def servers():
  with (
    contract.ProgramServer(hash_seed=1) as one,
    contract.ProgramServer(hash_seed=2) as other,
  ):
    yield [one, other]


@pytest.fixture(scope="session")
def trials_of(servers, tmp_path_factory):
  """Returns the trials of a program, and the problems of undisturbed runs."""
  folder = tmp_path_factory.mktemp("contract")
  known = {}
  with contract_programs.model_server(folder / "port") as address:
    inputs = contract.Inputs(folder / "inputs", address)

    def trials_of(name):
      if name not in known:
        program = contract_programs.PROGRAMS[name]
        inputs.make_for(program, servers[0])
        trials = contract.Trials(program, inputs, folder)
        known[name] = trials, trials.two_fresh_runs(servers)
      return known[name]

    yield trials_of


@every_program()
def test_two_fresh_runs_write_the_same_bytes(trials_of, name):
  _, problems = trials_of(name)
  assert not problems


@pytest.fixture
def trials(trials_of, name):
  return trials_of(name)[0]


@every_program()
def test_a_killed_run_ends_as_if_it_had_not_been(trials, servers, name):
  # With an odd seed, kills do not depend on the time.
  _, problems = trials.kills(servers[1], seed=1, most_in_a_row=3)
  assert not problems


@pytest.mark.large
@pytest.mark.parametrize("name", contract_programs.PROGRAMS)
def test_a_run_killed_by_the_clock_ends_as_if_it_had_not_been(
  trials, servers, name
):
  for seed in (0, 2, 4):
    _, problems = trials.kills(servers[1], seed, most_in_a_row=3)
    assert not problems


@pytest.mark.large
@pytest.mark.parametrize(
  "name",
  [
    name
    for name, program in contract_programs.PROGRAMS.items()
    if not program.is_slow
  ],
)
def test_a_run_may_die_before_any_operation_on_files(trials, servers, name):
  for operation in range(1, trials.reference.num_operations + 1):
    assert not trials.death_at(servers[operation % 2], operation), operation


@every_program(lambda program: bool(program.phases))
def test_a_signal_after_the_first_checkpoint_loses_nothing(
  trials, servers, name
):
  assert not trials.interruption(
    servers[1], signal.SIGTERM, trials.program.phases[1]
  )


@pytest.mark.large
@pytest.mark.parametrize("number", _SIGNALS)
@pytest.mark.parametrize("name", contract_programs.PROGRAMS)
def test_signals_in_every_phase_lose_nothing(trials, servers, name, number):
  for phase in trials.program.phases:
    assert not trials.interruption(servers[1], number, phase), phase
  for seed in range(3):
    assert not trials.interruption(servers[1], number, seed=seed), seed


@every_program(lambda program: program.is_locked, quick=["records"])
def test_the_second_of_two_is_refused(trials, servers, name):
  assert not trials.two_at_once(servers[1], seed=0)


@pytest.mark.large
@pytest.mark.parametrize(
  "name",
  [
    name
    for name, program in contract_programs.PROGRAMS.items()
    if program.is_locked
  ],
)
def test_of_two_that_start_together_one_is_refused(trials, servers, name):
  assert not trials.two_at_once(servers[1], seed=1)


@pytest.mark.large
@pytest.mark.parametrize("name", ["pretraining"])
@pytest.mark.parametrize(
  "reader", contract_programs.READERS, ids=lambda reader: reader.name
)
def test_reading_a_run_does_not_disturb_it(trials, servers, name, reader):
  assert not trials.reading(servers[1], reader)
