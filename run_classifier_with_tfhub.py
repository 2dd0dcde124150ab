"""Fine-tunes an encoder from TF Hub to classify sentences and pairs.

    python run_classifier_with_tfhub.py --task_name=MRPC --do_train --do_eval \\
        --data_dir=glue/MRPC --bert_hub_module_handle=served/bert/1 \\
        --max_seq_length=128 --train_batch_size=32 --learning_rate=2e-5 \\
        --num_train_epochs=3.0 --output_dir=/tmp/mrpc

The program works like `run_classifier.py`, but --bert_hub_module_handle names
the encoder: the folder of a SavedModel, or an address to download one from. Two
kinds can be read: encoders with TF Hub's interface for TensorFlow 2, which
export_saved_model.py writes, and the modules of BERT that were published for
TensorFlow 1. Checkpoints hold the trained weights, and predictions need the
same handle. There is no folder `export`.
"""

from __future__ import annotations

import launch  # First: from here on a signal ends the program quietly.

import contextlib
import dataclasses

from absl import flags

from command_line import flag_help
from command_line import input_paths
import common_flags
from data import original_names
import errors
from errors import UserError
import run_classifier
from serving import hub_encoder
import tokenization
from training import model_folder

FLAGS = flags.FLAGS
original_names.explain_missing_names(__name__)

_HANDLE = "--bert_hub_module_handle"
# Commands for the original code may have these.
_FLAGS_WITHOUT_EFFECT = ("bert_config_file", "init_checkpoint")


@flag_help.group("Hub module")
def define_flags() -> None:
  """Defines the flags of this program."""
  flags.DEFINE_string(
    "bert_hub_module_handle",
    None,
    "Folder or address of the encoder.",
    required=True,
  )
  flags.DEFINE_string(
    "vocab_file", None, "Vocabulary of an encoder that comes without one."
  )
  for name in ("bert_hub_module_handle", "vocab_file"):
    input_paths.mark(name, input_paths.check_path)
  flags.DEFINE_bool(
    "do_lower_case",
    True,
    "Whether to lower-case the text, for an encoder that does not say.",
  )
  common_flags.define_token_flags()
  for name in _FLAGS_WITHOUT_EFFECT:
    flags.DEFINE_string(
      name, None, "No effect, as in the original code; a warning says so."
    )
  run_classifier.define_classifier_flags()


@launch.owns("output_dir", finish=common_flags.write_report)
def main(_):
  run_config = common_flags.run_config()
  strategy = run_config.strategy
  with strategy.scope() if strategy else contextlib.nullcontext():
    encoder = hub_encoder.load_encoder(FLAGS.bert_hub_module_handle, _HANDLE)
    hidden_size = encoder.find_hidden_size(FLAGS.max_seq_length)
  tokenizer = _tokenizer(encoder)

  def create_model(num_outputs, params):
    return hub_encoder.HubClassifier(
      encoder, hidden_size, num_outputs, params["seed"]
    )

  run_classifier.run(run_config, tokenizer, create_model=create_model)


def check_flags() -> None:
  """Raises a UserError for flags that need an encoder of ours.

  Flags that the original code ignores are ignored, with a warning.
  """
  run_classifier.check_flags()
  for name in _FLAGS_WITHOUT_EFFECT:
    if FLAGS[name].value:
      errors.warn_now_and_at_end(
        f"--{name}={FLAGS[name].value} has no effect: the encoder of {_HANDLE} "
        "has its own shape and weights."
      )
  for name in ("dropout", "layerwise_lr_decay", "recompute_activations"):
    if FLAGS[name].value != FLAGS[name].default:
      raise UserError(
        f"--{name}={FLAGS[name].value} needs a model whose layers are known. "
        "Use run_classifier.py."
      )


def _tokenizer(encoder: hub_encoder.HubEncoder) -> tokenization.FullTokenizer:
  """Returns the tokenizer of the encoder.

  Raises:
    UserError: the encoder has no vocabulary, or the flags contradict it.
  """
  if encoder.vocab_file and FLAGS.vocab_file:
    raise UserError(
      f"--vocab_file={FLAGS.vocab_file}: the encoder has a "
      f"vocabulary, {encoder.vocab_file}. Leave the flag out."
    )
  vocab_file = encoder.vocab_file or FLAGS.vocab_file
  if not vocab_file:
    raise UserError(
      f"{_HANDLE}={FLAGS.bert_hub_module_handle} comes without "
      "a vocabulary. Pass --vocab_file, and --nodo_lower_case "
      "if it is cased."
    )
  files = model_folder.ModelFiles(vocab_file=vocab_file)
  settings = common_flags.text_settings(files)
  if encoder.do_lower_case is not None:
    if FLAGS["do_lower_case"].present and (
      FLAGS.do_lower_case != encoder.do_lower_case
    ):
      raise UserError(
        f"--do_lower_case={FLAGS.do_lower_case}: the encoder "
        f"says {encoder.do_lower_case}. Leave the flag out."
      )
    settings = dataclasses.replace(
      settings, do_lower_case=encoder.do_lower_case
    )
  return common_flags.create_tokenizer(files, settings=settings)


if __name__ == "__main__":
  define_flags()
  launch.run(main, check_flags)
