"""Flags that several programs share, and how a program starts."""

import os
import re
import sys
import traceback
from typing import Mapping, Optional

from absl import app
from absl import flags
from absl import logging
import tensorflow as tf

import estimator
import input_pipeline
import modeling
import tokenization

FLAGS = flags.FLAGS


def define_model_flags() -> None:
  """Flags that name a model and where its work goes."""
  flags.DEFINE_string(
      "bert_config_file", None, "The bert_config.json of the model.",
      required=True)
  flags.DEFINE_string(
      "init_checkpoint", None, "Weights to start from: the prefix of a "
      "checkpoint (such as bert_model.ckpt), or a .safetensors file.")
  flags.DEFINE_enum(
      "precision", "float32", ["float32", "bfloat16"],
      "Type of the activations. Weights are float32 in any case. bfloat16 is "
      "faster on TPUs, recent GPUs, and CPUs with AVX512-BF16 or AMX.")


def define_vocab_flags() -> None:
  """Flags of the tokenizer."""
  flags.DEFINE_string("vocab_file", None, "The vocab.txt of the model.",
                      required=True)
  flags.DEFINE_bool("do_lower_case", True, "Whether to lower-case the text: "
                    "True for uncased models, False for cased ones.")


def define_training_flags(learning_rate: float) -> None:
  """Flags of programs that train and evaluate."""
  flags.DEFINE_string("output_dir", None, "Folder for checkpoints, logs and "
                      "results. A run that finds a checkpoint there goes on.",
                      required=True)
  flags.DEFINE_bool("do_train", False, "Whether to train.")
  flags.DEFINE_bool("do_eval", False, "Whether to evaluate.")
  flags.DEFINE_integer("train_batch_size", 32, "Examples per step.",
                       lower_bound=1)
  flags.DEFINE_integer("eval_batch_size", 8, "Examples per batch of the "
                       "evaluation.", lower_bound=1)
  flags.DEFINE_float("learning_rate", learning_rate, "Highest learning rate.",
                     lower_bound=0.0)
  flags.DEFINE_integer("save_checkpoints_steps", 1000, "Steps between "
                       "checkpoints.", lower_bound=1)
  flags.DEFINE_integer("keep_checkpoint_max", 5, "How many checkpoints to keep;"
                       " 0 for all.", lower_bound=0)
  flags.DEFINE_integer("iterations_per_loop", 1000, "The most steps that one "
                       "call of the training graph runs.", lower_bound=1)
  flags.DEFINE_integer("seed", 12345, "Of initial weights, order and dropout.")


def define_tpu_flags() -> None:
  """Flags that put a run on a Cloud TPU."""
  flags.DEFINE_bool("use_tpu", False, "Whether to run on a Cloud TPU.")
  flags.DEFINE_string("tpu_name", None, "Name or grpc:// address of the TPU; "
                      "`local` on a TPU VM.")
  flags.DEFINE_string("tpu_zone", None, "GCE zone of the TPU; the one of this "
                      "machine if not given.")
  flags.DEFINE_string("gcp_project", None, "Cloud project of the TPU; the one "
                      "of this machine if not given.")
  flags.DEFINE_string("master", None, "Address of the TPU, in place of "
                      "--tpu_name.")
  flags.DEFINE_integer("num_tpu_cores", 8, "How many cores the TPU has; "
                       "checked when it is found.", lower_bound=1)


def run_config() -> estimator.RunConfig:
  """Returns what the flags say of where a run happens and what it saves."""
  return estimator.RunConfig(
      model_dir=FLAGS.output_dir,
      save_checkpoints_steps=FLAGS.save_checkpoints_steps,
      keep_checkpoint_max=FLAGS.keep_checkpoint_max,
      iterations_per_loop=FLAGS.iterations_per_loop,
      seed=FLAGS.seed,
      strategy=tpu_strategy() if FLAGS.use_tpu else None)


def tpu_strategy() -> tf.distribute.Strategy:
  """Connects to the TPU of the flags."""
  resolver = tf.distribute.cluster_resolver.TPUClusterResolver(
      tpu=FLAGS.tpu_name or FLAGS.master, zone=FLAGS.tpu_zone,
      project=FLAGS.gcp_project)
  tf.config.experimental_connect_to_cluster(resolver)
  tf.tpu.experimental.initialize_tpu_system(resolver)
  strategy = tf.distribute.TPUStrategy(resolver)
  if strategy.num_replicas_in_sync != FLAGS.num_tpu_cores:
    raise ValueError(
        f"The TPU has {strategy.num_replicas_in_sync} cores, not "
        f"--num_tpu_cores={FLAGS.num_tpu_cores}.")
  return strategy


def compute_dtype() -> tf.DType:
  """Returns the type of the activations."""
  return tf.as_dtype(FLAGS.precision)


def tokenizer(
    config: Optional[modeling.BertConfig] = None) -> tokenization.FullTokenizer:
  """Returns the tokenizer of the flags, checked against the model if given.

  Raises:
    ValueError: the vocabulary does not fit the config or the casing.
  """
  result = tokenization.FullTokenizer(FLAGS.vocab_file, FLAGS.do_lower_case)
  tokenization.validate_case_matches_vocab(
      FLAGS.do_lower_case, result.vocab, FLAGS.vocab_file)
  if config and len(result.inv_vocab) > config.vocab_size:
    raise ValueError(
        f"--vocab_file={FLAGS.vocab_file} has {len(result.inv_vocab)} tokens, "
        f"but vocab_size={config.vocab_size} in {FLAGS.bert_config_file}. Use "
        "the two files of one model.")
  return result


def check_max_seq_length(config: modeling.BertConfig) -> None:
  """Raises a ValueError if sequences would not fit the model."""
  if not 3 <= FLAGS.max_seq_length <= config.max_position_embeddings:
    raise ValueError(
        f"--max_seq_length={FLAGS.max_seq_length} must be from 3 to "
        f"{config.max_position_embeddings}, which is max_position_embeddings "
        f"in {FLAGS.bert_config_file}.")


def write_results(path: str, results: Mapping[str, float]) -> None:
  """Logs results and writes them as `name = value`, sorted by name."""
  logging.info("***** Results *****")
  with input_pipeline.whole_file(path) as temporary:
    with tf.io.gfile.GFile(temporary, "w") as writer:
      for name, value in sorted(results.items()):
        logging.info("  %s = %s", name, value)
        writer.write(f"{name} = {value}\n")


def run(main) -> None:
  """Runs a program; what its user did wrong is told without a traceback."""
  logging.set_verbosity(logging.INFO)

  def guarded_main(argv):
    if len(argv) > 1:
      raise app.UsageError(f"What does {argv[1]!r} belong to? Flags look like "
                           "--name=value.")
    try:
      main(argv)
    except (ValueError, tf.errors.InvalidArgumentError) as error:
      message = _message_for_user(error)
      if message is None:
        raise
      logging.debug("%s", traceback.format_exc())
      sys.stderr.write(f"{os.path.basename(sys.argv[0])}: {message}\n")
      sys.exit(1)

  app.run(guarded_main)


def _message_for_user(error: Exception):
  """Returns the message of an error that one of our checks raised, or None."""
  if isinstance(error, tf.errors.InvalidArgumentError):
    # A check of ours inside a tf.data pipeline; its parts are in brackets.
    asserted = re.search(r"assertion failed: (.*)", str(error))
    return asserted and " ".join(
        re.findall(r"\[(.*?)\](?= \[|$)", asserted.group(1)))
  innermost = traceback.extract_tb(error.__traceback__)[-1].filename
  here = os.path.dirname(os.path.abspath(__file__))
  is_ours = os.path.abspath(innermost).startswith(here + os.sep) and (
      "site-packages" not in innermost)
  return str(error) if is_ours else None
