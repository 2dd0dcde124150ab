"""Extracts features: vectors of the encoder for each token, or for each line.

    echo 'Who was Jim Henson ? ||| Jim Henson was a puppeteer' > /tmp/input.txt
    python extract_features.py --input_file=/tmp/input.txt \\
        --output_file=/tmp/output.jsonl --layers=-1,-2,-3,-4 \\
        --vocab_file=$BERT/vocab.txt --init_checkpoint=$BERT/bert_model.ckpt \\
        --bert_config_file=$BERT/bert_config.json

A line of input is a sentence, or two with ` ||| ` between them. Input of any
size is processed in parts. A run that was killed continues when the same
command is run again.
"""

from __future__ import annotations

import launch  # First: from here on a signal ends the program quietly.

from collections.abc import Callable, Iterator, Mapping, Sequence
import itertools
import os
from typing import Any

from absl import flags
from absl import logging
import numpy as np
import tensorflow as tf

import checkpoint
from command_line import flag_help
from command_line import input_paths
import common_flags
from data import batching
from data import encoding
from data import feature_files
from data import file_io
from data import file_names
from data import locks
from data import original_names
from errors import UserError
import estimator as estimator_lib
import heads
import modeling
import tokenization
from training import model_folder
from training import training_log

FLAGS = flags.FLAGS
original_names.explain_missing_names(__name__)

_SEPARATE = "separate"
# Limits of a part of the output: about a gigabyte of numbers, and its lines.
_NUMBERS_PER_PART = 2**28
_LINES_PER_PART = 8192


@flag_help.group("Features")
def define_flags() -> None:
  """Defines the flags of this program."""
  common_flags.define_model_flags()
  common_flags.define_vocab_flags()
  flags.DEFINE_string(
    "input_file",
    None,
    "Text files, folders, patterns, or @lists (files with one name per line), "
    "separated by commas.",
    required=True,
  )
  input_paths.mark("input_file", input_paths.check_files)
  flags.DEFINE_string("output_file", None, "File to write.", required=True)
  flags.DEFINE_enum(
    "format",
    "json",
    ["json", "npz", "tfrecord", "parquet"],
    "Format of the file. json is that of the original code: one object per "
    "line.",
  )
  flags.DEFINE_list(
    "layers", "-1,-2,-3,-4", "Layers to write: 0 is the first, -1 the last."
  )
  flags.DEFINE_enum(
    "combine_layers",
    _SEPARATE,
    [_SEPARATE, "sum", "concat"],
    "How to write several layers: separately, or combined into one vector.",
  )
  flags.DEFINE_enum(
    "pooling",
    "none",
    ["none", "cls", "mean", "max", "pooled"],
    "How to make one vector per line: from the vector of [CLS], the mean or "
    "maximum over the tokens, or the pooled output of the model, for which "
    "--layers does not matter. none writes one vector per token.",
  )
  flags.DEFINE_integer(
    "max_seq_length",
    128,
    "Largest number of tokens of a line; longer lines are truncated.",
  )
  flags.DEFINE_integer(
    "batch_size",
    32,
    "Lines per batch if they have --max_seq_length tokens; batches of shorter "
    "lines have more.",
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
    "Look words up by a product with a one-hot matrix, which is faster on some "
    "TPUs.",
  )


def check_flags() -> None:
  """Raises a UserError for flags that have no effect."""
  if FLAGS.pooling != "pooled":
    return
  for name in ("layers", "combine_layers"):
    if FLAGS[name].present:
      raise UserError(
        f"{FLAGS[name].serialize()} does nothing with --pooling=pooled, "
        "which is made from the last layer. Pass one of the two."
      )


def main(_):
  files = common_flags.model_files(
    "bert_config_file", "vocab_file", "init_checkpoint"
  )
  config = common_flags.read_config(files)
  common_flags.check_max_seq_length(FLAGS.max_seq_length, config, files)
  layers = [] if FLAGS.pooling == "pooled" else layers_of_flag(config)
  tokenizer = common_flags.create_tokenizer(files, config)
  input_files = file_names.find_files(FLAGS.input_file, "--input_file")
  _check_weights(files.init_checkpoint)
  lock_file = FLAGS.output_file + locks.SUFFIX
  check_not_inputs(input_files, lock_file, files)
  with locks.Lock(lock_file, f"--output_file={FLAGS.output_file}"):
    file_io.remove_leftovers(os.path.dirname(FLAGS.output_file) or ".")
    output = open_output(layers, input_files, files, tokenizer)
    estimator = create_estimator(config, layers, files.init_checkpoint)
    sequences = encode_lines(input_files, tokenizer)
    extract(
      estimator, tokenizer, sequences, output, lines_per_part(config, layers)
    )


# --- Flags and files ---------------------------------------------------------


def layers_of_flag(config: modeling.BertConfig) -> list[int]:
  """Returns the layers of the flag.

  Raises:
    UserError: One is not a number, or the model has no such layer.
  """
  num_layers = config.num_hidden_layers
  for layer in FLAGS.layers:
    is_number = layer.strip().lstrip("-").isdigit()
    if not is_number or not -num_layers <= int(layer) < num_layers:
      raise UserError(
        f"--layers has {layer!r}, but the model has {num_layers} layers. Pass "
        f"numbers from {-num_layers} to {num_layers - 1}, separated by commas."
      )
  return [int(layer) for layer in FLAGS.layers]


def _check_weights(path: str) -> None:
  """Raises a UserError if weights lack what --pooling needs."""
  names = checkpoint.open_checkpoint(path).shapes
  if FLAGS.pooling == "pooled" and not heads.has_pooler(names):
    raise UserError(
      f"--pooling=pooled needs bert/pooler/dense, which --init_checkpoint="
      f"{path} does not have: its head reads every token. Use another "
      "--pooling, such as mean."
    )


def check_not_inputs(
  input_files: Sequence[str], lock_file: str, files: model_folder.ModelFiles
) -> None:
  """Raises a UserError if the output would replace a file that is read."""
  parts = feature_files.list_part_files(FLAGS.output_file)
  weights_files = [
    *checkpoint.list_files(files.init_checkpoint),
    *tf.io.gfile.glob(files.init_checkpoint + ".data-*"),
  ]
  file_io.check_not_inputs(
    {"--output_file": [FLAGS.output_file, lock_file, *parts]},
    {
      "--input_file": input_files,
      "--vocab_file": [files.vocab_file],
      "--bert_config_file": [files.bert_config_file],
      "--init_checkpoint": weights_files,
    },
  )


def open_output(
  layers: Sequence[int],
  input_files: Sequence[str],
  files: model_folder.ModelFiles,
  tokenizer: tokenization.FullTokenizer,
) -> feature_files.PartedFile:
  """Returns the output file, some parts of which may exist already."""
  settings = _settings(input_files, files, tokenizer)
  return feature_files.PartedFile(
    FLAGS.output_file, _file_format(layers), settings
  )


def _file_format(layers: Sequence[int]) -> Any:
  """Returns the format of the flag, of `feature_files`."""
  is_combined = FLAGS.combine_layers != _SEPARATE or FLAGS.pooling == "pooled"
  if FLAGS.format == "json":
    return feature_files.JsonLines([] if is_combined else layers)
  formats = {
    "npz": feature_files.Npz,
    "tfrecord": feature_files.TfRecords,
    "parquet": feature_files.Parquet,
  }
  return formats[FLAGS.format]()


def _settings(
  input_files: Sequence[str],
  files: model_folder.ModelFiles,
  tokenizer: tokenization.FullTokenizer,
) -> dict[str, object]:
  """Returns all that the features depend on."""
  names = (
    "format",
    "layers",
    "combine_layers",
    "pooling",
    "max_seq_length",
    "batch_size",
    "precision",
  )
  return {
    **{name: FLAGS[name].value for name in names},
    **tokenizer.settings.to_fields(),
    **files._asdict(),
    "config_hash": file_io.compute_checksum(files.bert_config_file),
    "vocab_hash": file_io.compute_checksum(files.vocab_file),
    "weights_hash": [
      file_io.compute_checksum(file)
      for file in checkpoint.list_files(files.init_checkpoint)
    ],
    "input_files": file_io.describe_files(input_files),
  }


def lines_per_part(config: modeling.BertConfig, layers: Sequence[int]) -> int:
  """Returns the number of lines in a part of the output."""
  num_vectors = 1 if FLAGS.combine_layers == "sum" else len(layers) or 1
  numbers_per_line = config.hidden_size * num_vectors
  if FLAGS.pooling == "none":
    numbers_per_line *= FLAGS.max_seq_length
  num_lines = min(_LINES_PER_PART, _NUMBERS_PER_PART // numbers_per_line)
  return max(FLAGS.batch_size, num_lines)


# --- The model ---------------------------------------------------------------


def create_estimator(
  config: modeling.BertConfig, layers: Sequence[int], init_checkpoint: str
) -> estimator_lib.TPUEstimator:
  """Returns an estimator that predicts the features of layers."""

  names = checkpoint.open_checkpoint(init_checkpoint).shapes

  def model_fn(params):
    model = modeling.BertModel(
      config,
      common_flags.compute_dtype(),
      params["seed"],
      use_one_hot_embeddings=FLAGS.use_one_hot_embeddings,
      is_portable=_is_on_cpu(),
      add_pooler=heads.has_pooler(names),
    )
    compute = features_fn_builder(
      model, layers, FLAGS.combine_layers, FLAGS.pooling
    )
    return estimator_lib.EstimatorSpec(
      model=model,
      init_checkpoint=init_checkpoint,
      predict_fn=lambda features: {"values": compute(features)},
    )

  strategy = common_flags.connect_tpu() if FLAGS.use_tpu else None
  estimator = estimator_lib.TPUEstimator(
    model_fn=model_fn,
    config=estimator_lib.RunConfig(strategy=strategy),
    predict_batch_size=FLAGS.batch_size,
  )
  if not FLAGS.use_tpu:
    modeling.store_kernels(estimator.model, common_flags.compute_dtype())
  return estimator


def _is_on_cpu() -> bool:
  """Returns whether there is a CPU alone, whose models skip padding."""
  return not FLAGS.use_tpu and not tf.config.list_physical_devices("GPU")


def features_fn_builder(
  model: modeling.BertModel,
  layers: Sequence[int],
  combine_layers: str,
  pooling: str,
) -> Callable[[Mapping[str, tf.Tensor]], tf.Tensor]:
  """Returns a function (batch) -> values to write.

  The values are float32 [batch_size, seq_length, num_layers, hidden_size];
  without seq_length if tokens are pooled, without num_layers if layers are
  combined.
  """

  def compute(features):
    output = model(
      features["input_ids"], features["input_mask"], features["segment_ids"]
    )
    if pooling == "pooled":
      return tf.cast(output.pooled_output, tf.float32)
    chosen = [
      tf.cast(output.all_encoder_layers[layer], tf.float32) for layer in layers
    ]
    values = _combine(chosen, combine_layers)
    return _pool(values, features["input_mask"], pooling)

  return compute


def _combine(layers: Sequence[tf.Tensor], combine_layers: str) -> tf.Tensor:
  """Returns layers [B, S, H] in one Tensor.

  Its shape is [B, S, num_layers, H] if they stay separate, else [B, S, H] or,
  for `concat`, [B, S, num_layers * H].
  """
  if combine_layers == "sum":
    return tf.add_n(layers)
  if combine_layers == "concat":
    return tf.concat(layers, axis=-1)
  return tf.stack(layers, axis=2)


def _pool(values: tf.Tensor, input_mask: tf.Tensor, pooling: str) -> tf.Tensor:
  """Returns values [B, S, ...] pooled to [B, ...], or as they are."""
  if pooling == "none":
    return values
  if pooling == "cls":
    return values[:, 0]
  is_real = tf.cast(input_mask, tf.float32)  # [B, S]
  for _ in range(values.shape.rank - 2):
    is_real = is_real[..., tf.newaxis]  # [B, S, 1, ...]
  if pooling == "max":
    masked = tf.where(is_real > 0.0, values, values.dtype.min)
    return tf.reduce_max(masked, axis=1)
  return tf.reduce_sum(values * is_real, 1) / tf.reduce_sum(is_real, 1)


# --- Extraction --------------------------------------------------------------


def encode_lines(
  input_files: Sequence[str], tokenizer: tokenization.FullTokenizer
) -> Iterator[encoding.InputFeatures]:
  """Yields the features of each line; `a ||| b` is a pair."""
  for file in input_files:
    for line in file_io.read_lines(file):
      # A line with several separators is split at the last one.
      text_a, _, text_b = line.strip().rpartition(" ||| ")
      if not text_a:
        text_a, text_b = text_b, ""
      yield encoding.encode_pair(
        tokenizer.encode(text_a),
        tokenizer.encode(text_b),
        FLAGS.max_seq_length,
        tokenizer.cls_id,
        tokenizer.sep_id,
      )


def extract(
  estimator: estimator_lib.TPUEstimator,
  tokenizer: tokenization.FullTokenizer,
  sequences: Iterator[encoding.InputFeatures],
  output: feature_files.PartedFile,
  lines_per_part: int,
) -> None:
  """Writes the features of all lines that `output` does not have yet."""
  num_lines = num_kept = num_parts = 0
  counter = training_log.Counter("lines")
  while part := list(itertools.islice(sequences, lines_per_part)):
    if output.has_part(num_parts, len(part)):
      num_kept += len(part)
    else:
      lines = []
      for i, values in enumerate(compute_values(estimator, part)):
        tokens = None
        if FLAGS.pooling == "none":
          tokens = tokenizer.convert_ids_to_tokens(part[i].input_ids)
        lines.append(feature_files.LineFeatures(num_lines + i, tokens, values))
      output.write_part(num_parts, lines)
    num_parts += 1
    num_lines += len(part)
    counter.add(len(part))
  counter.end()
  if num_kept:
    logging.info("The features of %d lines come from an earlier run.", num_kept)
  output.finish(num_parts)
  logging.info("Features of %d lines are in %s.", num_lines, FLAGS.output_file)


def compute_values(
  estimator: estimator_lib.TPUEstimator,
  sequences: Sequence[encoding.InputFeatures],
) -> list[np.ndarray]:
  """Returns the values of each sequence, in the order of the sequences.

  Similar lengths share a batch, so that there is little padding.
  """
  order = sorted(
    range(len(sequences)), key=lambda i: len(sequences[i].input_ids)
  )

  def input_fn(params):
    return batching.features_dataset(
      [sequences[i] for i in order],
      FLAGS.max_seq_length,
      params["batch_size"],
      static_shapes=FLAGS.use_tpu or FLAGS.pad_to_max_length,
      padding_is_skipped=_is_on_cpu(),
    )

  values: dict[int, np.ndarray] = {}
  for number, row in zip(order, estimator.predict(input_fn)):
    value = row["values"]
    if FLAGS.pooling == "none":
      value = value[: len(sequences[number].input_ids)]
    values[number] = value.copy()  # a view would keep the whole batch
  return [values[number] for number in range(len(sequences))]


if __name__ == "__main__":
  define_flags()
  launch.run(main, check_flags, saves_at_signals=False)
