"""Tests of row_batches.py, which wait for events and never for time."""

import asyncio
import contextlib
import itertools
import threading

import hypothesis
from hypothesis import strategies
import pytest

from errors import UserError
from serving import row_batches

NEVER = 3600.0


@contextlib.asynccontextmanager
async def queue(size=4, delay=0.0, most=100, observe=lambda *_: None):
  batches = row_batches.RowBatches(size, delay, most, observe)
  async with batches.started():
    yield batches


def run(test):
  """Runs a coroutine; a test that hangs fails."""
  return asyncio.run(asyncio.wait_for(test, 60))


class Model:
  """A function of batches, which waits until it is released.

  Attributes:
    batches: The rows of each call.
    may_go_on: Set unless calls have to wait.
  """

  def __init__(self):
    self.batches = []
    self.has_begun, self.may_go_on = threading.Event(), threading.Event()
    self.may_go_on.set()

  def __call__(self, rows):
    self.batches.append(list(rows))
    self.has_begun.set()
    assert self.may_go_on.wait(60)
    for row in rows:
      if row == "bad":
        raise UserError("a bad row")
    return [row.upper() for row in rows]


async def until(condition):
  while not condition():
    await asyncio.sleep(0)


async def hold(batches, model):
  """Lets the model compute a row until `may_go_on` is set."""
  model.may_go_on.clear()
  task = asyncio.ensure_future(batches.answer("held", model, ["x"], [1]))
  await until(model.has_begun.is_set)
  model.batches.clear()
  return task


def ask(batches, model, *rows, key="key"):
  return asyncio.ensure_future(
    batches.answer(key, model, rows, [len(row) for row in rows])
  )


def test_outputs_belong_to_their_rows():
  async def test():
    model = Model()
    async with queue(size=3) as batches:
      rows = [["a", "bbb"], ["cc"], list("defghij"), ["kkkkkkkkk", "l"]]
      tasks = [ask(batches, model, *some) for some in rows]
      assert await asyncio.gather(*tasks) == [
        [row.upper() for row in some] for some in rows
      ]
    assert max(map(len, model.batches)) == 3
    assert batches.num_waiting == 0

  run(test())


def test_rows_that_gather_while_the_model_computes_share_a_batch():
  async def test():
    model, sizes = Model(), []
    async with queue(observe=lambda size, _: sizes.append(size)) as batches:
      held = await hold(batches, model)
      tasks = [ask(batches, model, row) for row in "abc"]
      await until(lambda: batches.num_waiting == 3)
      model.may_go_on.set()
      assert await asyncio.gather(held, *tasks) == [["X"], ["A"], ["B"], ["C"]]
    assert model.batches == [["a", "b", "c"]]
    assert sizes == [1, 3]

  run(test())


def test_rows_of_other_keys_stay_apart():
  async def test():
    model = Model()
    async with queue() as batches:
      held = await hold(batches, model)
      tasks = [ask(batches, model, row, key=row in "ac") for row in "abc"]
      await until(lambda: batches.num_waiting == 3)
      model.may_go_on.set()
      await asyncio.gather(held, *tasks)
    assert model.batches == [["a", "c"], ["b"]]

  run(test())


def test_a_full_batch_does_not_wait_for_more():
  async def test():
    model = Model()
    async with queue(size=2, delay=NEVER) as batches:
      one = ask(batches, model, "a")
      await until(lambda: batches.num_waiting == 1)
      two = ask(batches, model, "b")
      assert await asyncio.gather(one, two) == [["A"], ["B"]]
    assert model.batches == [["a", "b"]]

  run(test())


def test_rows_that_are_dropped_do_not_reach_the_model():
  async def test():
    model = Model()
    async with queue() as batches:
      held = await hold(batches, model)
      tasks = [ask(batches, model, row) for row in "abc"]
      await until(lambda: batches.num_waiting == 3)
      tasks[1].cancel()
      await until(lambda: batches.num_waiting == 2)
      model.may_go_on.set()
      await asyncio.gather(held, tasks[0], tasks[2])
    assert model.batches == [["a", "c"]]

  run(test())


def test_all_waiting_rows_may_be_dropped():
  async def test():
    model = Model()
    async with queue(delay=NEVER) as batches:
      task = ask(batches, model, "a")
      await until(lambda: batches.num_waiting == 1)
      task.cancel()
      await until(lambda: batches.num_waiting == 0)
      tasks = [ask(batches, model, row, key="other") for row in "abcd"]
      await asyncio.gather(*tasks)

  run(test())


def test_a_bad_row_fails_its_own_request_alone():
  async def test():
    model = Model()
    async with queue() as batches:
      held = await hold(batches, model)
      tasks = [ask(batches, model, *rows) for rows in ("a", ["bad"], "cd")]
      await until(lambda: batches.num_waiting == 4)
      model.may_go_on.set()
      good, bad, other = await asyncio.gather(*tasks, return_exceptions=True)
      await held
    assert (good, other) == (["A"], ["C", "D"])
    assert isinstance(bad, UserError)

  run(test())


def test_a_full_queue_refuses_and_takes_rows_again_later():
  async def test():
    model = Model()
    async with queue(most=3) as batches:
      held = await hold(batches, model)
      task = ask(batches, model, "a", "b")
      await until(lambda: batches.num_waiting == 2)
      with pytest.raises(row_batches.QueueFullError):
        await ask(batches, model, "c", "d")
      one = ask(batches, model, "e")
      await until(lambda: batches.num_waiting == 3)
      model.may_go_on.set()
      await asyncio.gather(held, task, one)
      assert await ask(batches, model, "f", "g", "h") == ["F", "G", "H"]

  run(test())


@hypothesis.given(
  strategies.lists(strategies.integers(0, 300_000), min_size=1, max_size=20),
  strategies.integers(1, 8),
  strategies.data(),
)
def test_batches_hold_the_oldest_row_and_little_padding(sizes, most, data):
  sizes.sort()
  oldest = data.draw(strategies.integers(0, len(sizes) - 1))
  chosen = row_batches.choose_rows(sizes, oldest, most)
  batch = sizes[chosen]
  assert chosen.start <= oldest < chosen.stop
  assert len(batch) <= most
  if len(batch) > 1:
    assert len(batch) * batch[-1] <= min(2 * sum(batch), 200_000)


def test_rows_of_similar_sizes_are_chosen():
  assert row_batches.choose_rows([1, 4, 5, 6, 30], 2, 9) == slice(0, 4)
  assert row_batches.choose_rows([1, 4, 5, 6, 30], 2, 2) == slice(2, 4)
  assert row_batches.choose_rows([1, 4, 5, 6, 30], 4, 9) == slice(3, 5)
  equal = [7] * 5
  for oldest, most in itertools.product(range(5), range(1, 6)):
    chosen = row_batches.choose_rows(equal, oldest, most)
    assert chosen.stop - chosen.start == most
