"""Tests of pretraining/learning_check.py."""

import logging as python_logging

import builders
import numpy as np
import pytest

import errors
from pretraining import learning_check
from pretraining import record_formats
from training import training_step

MASKED_LM, NEXT_SENTENCE = "masked_lm_loss", "next_sentence_loss"
ENTROPIES = {MASKED_LM: 6.0, NEXT_SENTENCE: 0.69}


@pytest.fixture
def warnings(caplog):
  caplog.set_level(python_logging.WARNING)
  yield lambda: [record.getMessage() for record in caplog.records]
  errors.repeat_warnings()


def watch(losses_of_calls, num_warmup_steps=100):
  """Shows a watch calls of 50 steps each, with one loss per call."""
  watch = learning_check.LearningWatch(num_warmup_steps)
  watch.begin(lambda: ENTROPIES)
  for number, parts in enumerate(losses_of_calls, 1):
    report = training_step.StepReport(
      {name: np.full(50, loss) for name, loss in parts.items()}, 0, 0, 0, 0
    )
    assert not watch(50 * number, report)
  return watch


def test_a_loss_that_stays_at_the_entropy_is_reported_once(warnings):
  # The warm-up ends with call 2, and 200 steps later are judged.
  watch([{MASKED_LM: 5.98}] * 5)
  assert not warnings()
  stuck = watch([{MASKED_LM: 5.98}] * 9)
  [message] = warnings()
  assert "After step 300" in message and "5.98" in message and "6.00" in message
  assert "--learning_rate" in message
  stuck.repeat_at_end()
  assert "After step 450" in warnings()[-1]


def test_a_loss_that_falls_is_not_reported(warnings):
  falling = watch([{MASKED_LM: 9.0}] * 2 + [{MASKED_LM: 5.9}] * 9)
  falling.repeat_at_end()
  late = watch([{MASKED_LM: 6.0}] * 6 + [{MASKED_LM: 4.0}] * 9)
  late.repeat_at_end()
  assert len(warnings()) == 1  # of the late one, and not at its end


def test_next_sentences_have_more_time(warnings):
  watch([{NEXT_SENTENCE: 0.69, MASKED_LM: 1.0}] * 25)
  assert not warnings()
  watch([{NEXT_SENTENCE: 0.69, MASKED_LM: 1.0}] * 27)
  assert "next sentence loss is 0.690, which is chance" in warnings()[0]


def test_entropy_of_a_sample_is_close_to_that_of_its_source():
  rng = np.random.default_rng(1)
  shares = rng.dirichlet(np.full(1000, 0.5))
  counts = np.bincount(rng.choice(1000, 20000, p=shares), minlength=1000)
  true_entropy = -np.sum(shares * np.log(shares))
  assert abs(learning_check.entropy(counts) - true_entropy) < 0.01
  assert learning_check.entropy(np.array([0, 5, 0])) == 0.0
  assert learning_check.entropy(np.zeros(3, np.int64)) == 0.0


def test_entropies_are_those_of_the_labels_of_the_records(create):
  path = create()
  ids, labels = [], []
  for record in builders.read_records(path):
    feature = record.features.feature
    for token, weight in zip(
      feature["masked_lm_ids"].int64_list.value,
      feature["masked_lm_weights"].float_list.value,
    ):
      ids.extend([token] * int(weight))
    labels.extend(feature["next_sentence_labels"].int64_list.value)
  entropies = learning_check.measure_entropies(
    [path], record_formats.PretrainingFormat(24, 4)
  )
  assert entropies == {
    MASKED_LM: learning_check.entropy(np.bincount(ids)),
    NEXT_SENTENCE: learning_check.entropy(np.bincount(labels)),
  }
