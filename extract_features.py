"""Writes what the encoder makes of a text: of each token, or of each line.

    echo 'Who was Jim Henson ? ||| Jim Henson was a puppeteer' > /tmp/input.txt
    python extract_features.py --input_file=/tmp/input.txt \\
        --output_file=/tmp/output.jsonl --layers=-1,-2,-3,-4 \\
        --vocab_file=$BERT/vocab.txt --init_checkpoint=$BERT/bert_model.ckpt \\
        --bert_config_file=$BERT/bert_config.json

A line of input is a sentence, or two with ` ||| ` between them. Input of any
size is read in stretches. A run that was killed continues when the same command
is run again.
"""

import launch  # First: from here on a signal ends the program quietly.

from collections.abc import Iterator, Sequence
import itertools
import os

from absl import flags
from absl import logging
import numpy as np
import tensorflow as tf

import checkpoint
import common_flags
from data import batching
from data import checkpoint_folder
from data import encoding
from data import feature_files
from data import file_io
from data import locks
from errors import UserError
import estimator as estimator_lib
import modeling
from training import model_folder

FLAGS = flags.FLAGS

_SEPARATE = "separate"
# How many numbers a stretch of the input may give, about: a gigabyte.
_STRETCH_SIZE = 2**28
_MOST_LINES = 8192


def define_flags() -> None:
  """Defines the flags of this program."""
  common_flags.define_model_flags()
  common_flags.define_vocab_flags()
  flags.DEFINE_string(
    "input_file",
    None,
    "Text files or globs, separated by commas.",
    required=True,
  )
  flags.DEFINE_string("output_file", None, "File to write.", required=True)
  flags.DEFINE_enum(
    "format",
    "json",
    ["json", "npz", "tfrecord", "parquet"],
    "Of the file; json is the published one, an object a line.",
  )
  flags.DEFINE_list(
    "layers", "-1,-2,-3,-4", "Layers to write: 0 is the first, -1 the last."
  )
  flags.DEFINE_enum(
    "combine_layers",
    _SEPARATE,
    [_SEPARATE, "sum", "concat"],
    "What becomes of several layers.",
  )
  flags.DEFINE_enum(
    "pooling",
    "none",
    ["none", "cls", "mean", "max", "pooled"],
    "One vector for a line: that of [CLS], the mean or the "
    "maximum over its tokens, or the pooled output of the "
    "model, whatever --layers says; or none, and one for each "
    "token.",
  )
  flags.DEFINE_integer(
    "max_seq_length", 128, "Most tokens of a line; longer ones are cut."
  )
  flags.DEFINE_integer(
    "batch_size",
    32,
    "Lines per batch, if they have "
    "--max_seq_length tokens; more of shorter ones.",
    lower_bound=1,
  )
  flags.DEFINE_bool(
    "pad_to_max_length",
    False,
    "Pad every batch to --max_seq_length, as is always done on a TPU. Slower.",
  )
  common_flags.define_tpu_flags()
  flags.DEFINE_bool(
    "use_one_hot_embeddings",
    False,
    "Look words up by a "
    "product with a one-hot matrix, which some TPUs do faster.",
  )


def read_packed(
  input_files, tokenizer, max_seq_length
) -> Iterator[encoding.InputFeatures]:
  """Yields the ids of each line; `a ||| b` is a pair."""
  cls_id, sep_id = tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]"])
  for file in input_files:
    for line in file_io.read_lines(file):
      # At the last separator, should there be several.
      text_a, _, text_b = line.strip().rpartition(" ||| ")
      if not text_a:
        text_a, text_b = text_b, ""
      yield encoding.encode_pair(
        tokenizer.encode(text_a),
        tokenizer.encode(text_b),
        max_seq_length,
        cls_id,
        sep_id,
      )


def features_fn_builder(
  model: modeling.BertModel,
  layers: Sequence[int],
  combine_layers: str,
  pooling: str,
):
  """Returns a function of batches that gives what is to be written.

  Its result is float32, [batch_size, seq_length, num_layers, hidden_size];
  without seq_length where tokens are pooled, without num_layers where layers
  are combined.
  """

  def features_fn(features):
    output = model(
      features["input_ids"], features["input_mask"], features["segment_ids"]
    )
    if pooling == "pooled":
      return tf.cast(output.pooled_output, tf.float32)
    chosen = [
      tf.cast(output.all_encoder_layers[layer], tf.float32) for layer in layers
    ]
    values = {
      _SEPARATE: lambda: tf.stack(chosen, axis=2),
      "sum": lambda: tf.add_n(chosen),
      "concat": lambda: tf.concat(chosen, axis=-1),
    }[combine_layers]()
    if pooling == "none":
      return values
    if pooling == "cls":
      return values[:, 0]
    is_real = tf.cast(features["input_mask"], tf.float32)  # [B, S]
    is_real = tf.reshape(
      is_real,
      tf.concat(
        [tf.shape(is_real), tf.ones([values.shape.rank - 2], tf.int32)], 0
      ),
    )
    if pooling == "max":
      return tf.reduce_max(
        tf.where(is_real > 0.0, values, values.dtype.min), axis=1
      )
    return tf.reduce_sum(values * is_real, 1) / tf.reduce_sum(is_real, 1)

  return features_fn


def model_fn_builder(config, layers, init_checkpoint):
  """Returns the `model_fn`."""

  def model_fn(params):
    model = modeling.BertModel(
      config,
      common_flags.compute_dtype(),
      params["seed"],
      use_one_hot_embeddings=FLAGS.use_one_hot_embeddings,
    )
    features_fn = features_fn_builder(
      model, layers, FLAGS.combine_layers, FLAGS.pooling
    )
    return estimator_lib.EstimatorSpec(
      model=model,
      init_checkpoint=init_checkpoint,
      predict_fn=lambda features: {"values": features_fn(features)},
    )

  return model_fn


def stretch_lines(config, layers) -> int:
  """Returns how many lines make a part of the output."""
  numbers = config.hidden_size * (
    1 if FLAGS.combine_layers == "sum" else len(layers) or 1
  )
  if FLAGS.pooling == "none":
    numbers *= FLAGS.max_seq_length
  return max(FLAGS.batch_size, min(_MOST_LINES, _STRETCH_SIZE // numbers))


def compute(
  estimator, sequences: Sequence[encoding.InputFeatures]
) -> list[np.ndarray]:
  """Returns the values of each of some sequences.

  Near lengths share a batch, so that little is padded.
  """
  order = sorted(
    range(len(sequences)), key=lambda i: len(sequences[i].input_ids)
  )

  def input_fn(params):
    return batching.features_dataset(
      lambda: (sequences[i] for i in order),
      FLAGS.max_seq_length,
      params["batch_size"],
      static_shapes=FLAGS.use_tpu or FLAGS.pad_to_max_length,
    )

  values = [None] * len(sequences)
  for number, row in zip(order, estimator.predict(input_fn)):
    value = row["values"]
    if FLAGS.pooling == "none":
      value = value[: len(sequences[number].input_ids)]
    values[number] = value.copy()  # not a view that keeps a whole batch
  return values


def main(_):
  files = common_flags.model_files(
    "bert_config_file", "vocab_file", "init_checkpoint"
  )
  config = common_flags.read_config(files)
  common_flags.check_max_seq_length(FLAGS.max_seq_length, config, files)
  layers = [] if FLAGS.pooling == "pooled" else layers_of_flag(config)
  for name in ("layers", "combine_layers"):
    if FLAGS[name].present and FLAGS.pooling == "pooled":
      raise UserError(
        f"--{name}={FLAGS[name].value} does nothing with "
        "--pooling=pooled, which is of the last layer."
      )
  tokenizer = common_flags.create_tokenizer(files, config)
  input_files = file_io.expand_patterns(FLAGS.input_file, "--input_file")
  checkpoint.open_checkpoint(files.init_checkpoint)  # checks it
  # A training that is still running may write a newer one.
  files = files._replace(init_checkpoint=_newest_weights(files.init_checkpoint))
  lock_file = FLAGS.output_file + locks.SUFFIX
  check_not_inputs(input_files, lock_file, files)
  with locks.Lock(lock_file, f"--output_file={FLAGS.output_file}"):
    file_io.remove_leftovers(os.path.dirname(FLAGS.output_file) or ".")
    output = open_output(layers, input_files, files)
    estimator = create_estimator(config, layers, files.init_checkpoint)
    extract(
      estimator, tokenizer, input_files, output, stretch_lines(config, layers)
    )


def _newest_weights(path: str) -> str:
  """Returns the path of weights; of those in a folder, the newest."""
  if tf.io.gfile.isdir(path):
    return checkpoint_folder.find_latest(path, "--init_checkpoint")
  return path.removesuffix(".index")


def _weights_file(path: str) -> str:
  """Returns the file that differs if weights do."""
  # The index of a checkpoint has a checksum of each tensor.
  return path if path.endswith((".safetensors", ".bin")) else path + ".index"


def check_not_inputs(
  input_files, lock_file: str, files: model_folder.ModelFiles
) -> None:
  """Raises a UserError if the output would replace a file that is read."""
  weights_file = _weights_file(files.init_checkpoint)
  file_io.check_not_inputs(
    {
      "--output_file": [
        FLAGS.output_file,
        lock_file,
        *feature_files.list_part_files(FLAGS.output_file),
      ]
    },
    {
      "--input_file": input_files,
      "--vocab_file": [files.vocab_file],
      "--bert_config_file": [files.bert_config_file],
      "--init_checkpoint": [
        weights_file,
        *tf.io.gfile.glob(files.init_checkpoint + ".data-*"),
      ],
    },
  )


def create_estimator(
  config, layers, init_checkpoint
) -> estimator_lib.TPUEstimator:
  """Returns an estimator that predicts the features of layers."""
  return estimator_lib.TPUEstimator(
    model_fn=model_fn_builder(config, layers, init_checkpoint),
    config=estimator_lib.RunConfig(
      strategy=common_flags.connect_tpu() if FLAGS.use_tpu else None
    ),
    predict_batch_size=FLAGS.batch_size,
  )


def extract(
  estimator,
  tokenizer,
  input_files,
  output: feature_files.PartedFile,
  lines_per_part: int,
) -> None:
  """Writes the features of all lines that `output` does not have yet."""
  num_lines = num_kept = num_parts = 0
  sequences = read_packed(input_files, tokenizer, FLAGS.max_seq_length)
  while stretch := list(itertools.islice(sequences, lines_per_part)):
    if output.has_part(num_parts, len(stretch)):
      num_kept += len(stretch)
    else:
      output.write_part(
        num_parts,
        [
          feature_files.LineFeatures(
            num_lines + i,
            tokenizer.convert_ids_to_tokens(stretch[i].input_ids)
            if FLAGS.pooling == "none"
            else None,
            values,
          )
          for i, values in enumerate(compute(estimator, stretch))
        ],
      )
    num_parts += 1
    num_lines += len(stretch)
    logging.info("  %d lines", num_lines)
  if num_kept:
    logging.info(
      "The features of %d lines were made by an earlier run.", num_kept
    )
  output.finish(num_parts)
  logging.info("Features of %d lines are in %s.", num_lines, FLAGS.output_file)


def open_output(
  layers, input_files, files: model_folder.ModelFiles
) -> feature_files.PartedFile:
  """Returns the output file, of which there may be parts already."""
  return feature_files.PartedFile(
    FLAGS.output_file, _file_format(layers), _settings(input_files, files)
  )


def _file_format(layers):
  is_combined = FLAGS.combine_layers != _SEPARATE or FLAGS.pooling == "pooled"
  return {
    "json": lambda: feature_files.JsonLines([] if is_combined else layers),
    "npz": feature_files.Npz,
    "tfrecord": feature_files.TfRecords,
    "parquet": feature_files.Parquet,
  }[FLAGS.format]()


def _settings(input_files, files: model_folder.ModelFiles) -> dict[str, object]:
  """Returns what the features depend on."""
  names = (
    "format",
    "layers",
    "combine_layers",
    "pooling",
    "max_seq_length",
    "batch_size",
    "do_lower_case",
    "precision",
  )
  stats = [tf.io.gfile.stat(file) for file in input_files]
  return {
    **{name: FLAGS[name].value for name in names},
    **files._asdict(),
    "config_hash": file_io.compute_checksum(files.bert_config_file),
    "vocab_hash": file_io.compute_checksum(files.vocab_file),
    "weights_hash": file_io.compute_checksum(
      _weights_file(files.init_checkpoint)
    ),
    "input_files": [
      [file, stat.length, stat.mtime_nsec]
      for file, stat in zip(input_files, stats)
    ],
  }


def layers_of_flag(config) -> list[int]:
  """Returns the layers of the flag.

  Raises:
    UserError: one is not a number, or the model has no such layer.
  """
  num_layers = config.num_hidden_layers
  for layer in FLAGS.layers:
    if not layer.strip().lstrip("-").isdigit() or not (
      -num_layers <= int(layer) < num_layers
    ):
      raise UserError(
        f"--layers has {layer!r}, but the model has {num_layers} layers: "
        f"give numbers from {-num_layers} to {num_layers - 1}, separated by "
        "commas."
      )
  return [int(layer) for layer in FLAGS.layers]


if __name__ == "__main__":
  define_flags()
  launch.run(main, saves_at_signals=False)
