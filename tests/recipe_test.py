"""Tests of recipe.py."""

import pytest

from errors import UserError
import modeling
from pretraining import recipe
from training import cost

MACHINE = recipe.MachineSpeed("float32", 1e11)


def test_more_text_gives_a_larger_vocabulary():
  sizes = [recipe.choose_vocab_size(10**n) for n in range(5, 10)]
  assert sizes == sorted(sizes)
  assert (sizes[0], sizes[-1]) == (1000, 30522)


def test_more_time_gives_a_larger_model_and_twice_the_tokens():
  names = [
    recipe.choose_model_size(hours, MACHINE, 8000, 128, 20)
    for hours in (0.01, 10, 1000, 1e6)
  ]
  assert len(set(names)) == 4
  sizes = [modeling.BertConfig.from_size(name) for name in names]
  weights = [size.num_hidden_layers * size.hidden_size**2 for size in sizes]
  assert weights == sorted(weights)
  once, twice = (
    recipe.estimate_tokens(hours, MACHINE, sizes[1], 128, 20)
    for hours in (1, 2)
  )
  assert twice == pytest.approx(2 * once, abs=2)


def test_tokens_are_those_of_half_the_speed_of_a_product():
  config = modeling.BertConfig.from_size("mini", 8000)
  step = cost.training_flops(config, 1, 128, num_predictions=20)
  machine = recipe.MachineSpeed("float32", 2 * step)  # one sequence per second
  assert recipe.estimate_tokens(1, machine, config, 128, 20) == 3600 * 128


def test_wide_models_learn_at_a_lower_rate():
  rates = [recipe.choose_learning_rate(width) for width in (128, 256, 1024)]
  assert rates == [1e-3, 1e-3, 5e-4]


def test_what_is_too_short_is_refused():
  recipe.check_text(60_000, 128)
  with pytest.raises(UserError, match="about 97 sequences of --max_seq_leng"):
    recipe.check_text(50_000, 128)
  recipe.check_time(0.1, 100 * 64 * 128, 64, 128)
  with pytest.raises(UserError, match="--hours=0.1 is too short: .* 99 steps"):
    recipe.check_time(0.1, 100 * 64 * 128 - 1, 64, 128)


def test_the_machine_is_measured_in_a_process_of_its_own():
  machine = recipe.measure_machine("float32")
  assert machine.precision == "float32" and machine.flops > 1e8
  chosen = recipe.measure_machine()
  assert chosen.precision in ("float32", "bfloat16")
