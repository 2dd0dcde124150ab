"""Settings of a pre-training that fit a text, a machine and a time.

The rules choose the size of the vocabulary from the text, and the size of the
model from the number of tokens that can be trained on in the time.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
from typing import NamedTuple

import tensorflow as tf

from errors import UserError
import modeling
from training import cluster
from training import cost
from training import devices
from training import time_budget

# Bytes of text for each token of the vocabulary, at least. With less text, many
# tokens occur too rarely to be learned.
_BYTES_PER_VOCABULARY_TOKEN = 2000
_VOCABULARY_SIZES = (1000, 2000, 4000, 8000, 16000, 30522)
# Shapes of models, from small to large; the names are those of released sizes.
_MODEL_SIZES = (
  "tiny",
  "L-2_H-256_A-4",
  "mini",
  "small",
  "medium",
  "base",
  "large",
)
# Number of tokens to train on for each weight of the encoder. Hoffmann et al.
# (2022) found 20 for language models that predict the next token.
_TOKENS_PER_WEIGHT = 20
# Share of the speed of a large matrix product that a training step reaches.
_UTILISATION = 0.5
# bfloat16 is chosen if its products are faster than float32's by this factor.
_LEAST_GAIN = 1.2
_FEWEST_STEPS = 100
_BYTES_PER_TOKEN = 4.0  # of English text, about
_FEWEST_SEQUENCES = 100
# The learning rate of a model 256 wide; it falls with the root of the width.
_LEARNING_RATE, _WIDTH = 1e-3, 256

# Share of the tokens to predict, and further flags of run_pretraining.py. Small
# models leave the plateau of the loss earlier with them: docs/from_scratch.md.
MASKED_LM_PROB = 0.3
# Share of the steps that learn to compare texts: those of the falling rate.
ALTERED_COPIES_SHARE = 0.2
TRAINING_FLAGS = (
  "--dynamic_masking",
  "--lr_decay=wsd",
  "--bias_correction",
  "--dropout=0",
)

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# The program of `measure_machine`.
_MEASURE = """
import json, sys
sys.path.insert(0, sys.argv[1])
from pretraining import recipe
print(json.dumps(recipe.measure_here(sys.argv[2])))
"""


class MachineSpeed(NamedTuple):
  """The speed of a machine.

  Attributes:
    precision: Type of activations to use.
    flops: Operations per second of a large matrix product in this type.
  """

  precision: str
  flops: float


@dataclasses.dataclass(frozen=True)
class PretrainingRecipe:
  """Settings of a pre-training.

  Attributes:
    vocab_size: Number of tokens of the vocabulary.
    model_size: Name of a released size; empty for a config of the user.
    precision: Type of the activations.
    max_seq_length: Number of tokens of a sequence.
    max_predictions_per_seq: Number of masked tokens of a sequence.
    train_batch_size: Number of sequences per step.
    learning_rate: Highest learning rate.
  """

  vocab_size: int
  model_size: str
  precision: str
  max_seq_length: int
  max_predictions_per_seq: int
  train_batch_size: int
  learning_rate: float


# --- The machine -------------------------------------------------------------


def measure_machine(precision: str | None = None) -> MachineSpeed:
  """Measures this machine, in a process of its own.

  A process that has used a GPU would keep its memory.

  Args:
    precision: Type of activations; None for bfloat16 where it is faster than
      float32.
  """
  process = subprocess.run(
    [sys.executable, "-c", _MEASURE, _ROOT, precision or ""],
    capture_output=True,
    check=True,
    text=True,
    env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
  )
  return MachineSpeed(*json.loads(process.stdout.splitlines()[-1]))


def measure_here(precision: str) -> MachineSpeed:
  """Measures this machine, in this process; see `measure_machine`."""
  strategy = cluster.choose_strategy() or tf.distribute.get_strategy()
  this_machine = devices.Devices(strategy)

  def measure(dtype: str) -> MachineSpeed:
    flops = this_machine.measure_peak_flops(tf.as_dtype(dtype))
    return MachineSpeed(dtype, flops)

  if precision:
    return measure(precision)
  usual, short = measure("float32"), measure("bfloat16")
  return short if short.flops >= _LEAST_GAIN * usual.flops else usual


# --- The rules ---------------------------------------------------------------


def choose_vocab_size(text_bytes: int) -> int:
  """Returns the number of tokens of a vocabulary for a text."""
  fitting = [
    size
    for size in _VOCABULARY_SIZES
    if size * _BYTES_PER_VOCABULARY_TOKEN <= text_bytes
  ]
  return max(fitting, default=_VOCABULARY_SIZES[0])


def choose_learning_rate(hidden_size: int) -> float:
  """Returns the highest learning rate for a width of the model."""
  rate = _LEARNING_RATE * math.sqrt(_WIDTH / max(hidden_size, _WIDTH))
  return float(f"{rate:.1e}")


def count_predictions(max_seq_length: int, masked_lm_prob: float) -> int:
  """Returns the number of tokens of a sequence that are predicted at most."""
  return math.ceil(max_seq_length * masked_lm_prob)


def choose_model_size(
  hours: float,
  machine: MachineSpeed,
  vocab_size: int,
  max_seq_length: int,
  num_predictions: int,
) -> str:
  """Returns the name of the largest size that a time is enough for.

  Args:
    hours: Time of the training.
    machine: The machine.
    vocab_size: Number of tokens of the vocabulary.
    max_seq_length: Number of tokens of a sequence.
    num_predictions: Number of masked tokens of a sequence.
  """
  chosen = _MODEL_SIZES[0]
  for name in _MODEL_SIZES:
    config = modeling.BertConfig.from_size(name, vocab_size)
    num_tokens = estimate_tokens(
      hours, machine, config, max_seq_length, num_predictions
    )
    # Four square matrices of the attention and eight of the feed-forward layer.
    num_weights = 12 * config.num_hidden_layers * config.hidden_size**2
    if num_tokens >= _TOKENS_PER_WEIGHT * num_weights:
      chosen = name
  return chosen


def estimate_tokens(
  hours: float,
  machine: MachineSpeed,
  config: modeling.BertConfig,
  max_seq_length: int,
  num_predictions: int,
) -> int:
  """Returns the number of tokens that can be trained on in a time, roughly.

  Args:
    hours: Time of the training.
    machine: The machine.
    config: Config of the model.
    max_seq_length: Number of tokens of a sequence.
    num_predictions: Number of masked tokens of a sequence.
  """
  flops_per_sequence = cost.training_flops(
    config, 1, max_seq_length, num_predictions=num_predictions
  )
  flops = time_budget.SECONDS_PER_HOUR * hours * _UTILISATION * machine.flops
  return int(flops / flops_per_sequence * max_seq_length)


# --- Checks ------------------------------------------------------------------


def check_text(text_bytes: int, max_seq_length: int) -> None:
  """Raises a UserError if a text is too short to learn from.

  Args:
    text_bytes: Size of the text.
    max_seq_length: Number of tokens of a sequence.
  """
  num_sequences = int(text_bytes / (_BYTES_PER_TOKEN * max_seq_length))
  if num_sequences < _FEWEST_SEQUENCES:
    raise UserError(
      f"The text has {text_bytes} bytes, which is about {num_sequences} "
      f"sequences of --max_seq_length={max_seq_length} tokens. Pre-training "
      f"needs at least {_FEWEST_SEQUENCES}, and millions of words to be of "
      "use. Give more text."
    )


def check_time(
  hours: float, num_tokens: int, train_batch_size: int, max_seq_length: int
) -> None:
  """Raises a UserError if a time is too short for a training.

  Args:
    hours: The time.
    num_tokens: Number of tokens that can be trained on in the time.
    train_batch_size: Number of sequences per step.
    max_seq_length: Number of tokens of a sequence.
  """
  num_steps = num_tokens // (train_batch_size * max_seq_length)
  if num_steps < _FEWEST_STEPS:
    raise UserError(
      f"--hours={hours:g} is too short: it is enough for about {num_steps} "
      f"steps of {train_batch_size} sequences, and in the first tenth of the "
      f"steps the learning rate only rises. At least {_FEWEST_STEPS} are "
      "needed. Give more time, a smaller --model_size or a smaller "
      "--train_batch_size."
    )
