"""What several test modules share."""

import os
import types

from absl import flags
import pytest
import tensorflow as tf

import modeling

# Two devices for the tests of distributed training; the rest use the first.
tf.config.set_logical_device_configuration(
  tf.config.list_physical_devices("CPU")[0],
  [tf.config.LogicalDeviceConfiguration()] * 2,
)

WORDS = [
  "the",
  "a",
  "cat",
  "dog",
  "bird",
  "sat",
  "ran",
  "flew",
  "on",
  "over",
  "mat",
  "hill",
  "tree",
  "and",
  "then",
  "it",
  "was",
  "red",
  "blue",
  "big",
  "small",
  "quick",
  "lazy",
  "good",
  "bad",
]
TOKENS = [
  "[PAD]",
  "[unused0]",
  "[UNK]",
  "[CLS]",
  "[SEP]",
  "[MASK]",
  *WORDS,
  "##s",
  "##ing",
  "un",
  "##aff",
  "##able",
  ",",
  ".",
  "!",
]


@pytest.fixture(scope="session")
def golden_dir():
  """The folder with outputs of the reference implementation."""
  path = os.environ.get("BERT_GOLDEN_DIR")
  if not path:
    pytest.skip("BERT_GOLDEN_DIR does not name the folder of golden outputs")
  return path


@pytest.fixture
def vocab_file(tmp_path):
  path = tmp_path / "vocab.txt"
  path.write_text("\n".join(TOKENS) + "\n")
  return str(path)


def tiny_config(**changes) -> modeling.BertConfig:
  """A config in which every size differs from the others."""
  return modeling.BertConfig(
    **{
      **dict(
        vocab_size=len(TOKENS),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=37,
        max_position_embeddings=40,
        type_vocab_size=2,
      ),
      **changes,
    }
  )


@pytest.fixture
def config_file(tmp_path):
  path = tmp_path / "bert_config.json"
  path.write_text(tiny_config().to_json_string())
  return str(path)


@pytest.fixture
def run_program():
  """Runs the `main` of a program in this process, with the given flags."""

  def run(program: types.ModuleType, **values) -> None:
    by_module = flags.FLAGS.flags_by_module_dict()
    for module in list(by_module):
      if not module.startswith("absl"):
        for flag in list(by_module[module]):
          if flag.name in flags.FLAGS:
            delattr(flags.FLAGS, flag.name)
    program.define_flags()
    flags.FLAGS(
      [
        program.__name__,
        *(f"--{name}={value}" for name, value in values.items()),
      ]
    )
    program.main([])

  return run
