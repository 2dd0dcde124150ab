"""Writes what the encoder makes of each token of a text, as JSON lines.

    echo 'Who was Jim Henson ? ||| Jim Henson was a puppeteer' > /tmp/input.txt
    python extract_features.py --input_file=/tmp/input.txt \\
        --output_file=/tmp/output.jsonl --layers=-1,-2,-3,-4 \\
        --vocab_file=$BERT/vocab.txt --init_checkpoint=$BERT/bert_model.ckpt \\
        --bert_config_file=$BERT/bert_config.json

A line of input is a sentence, or two with ` ||| ` between them.
"""

import json
from typing import Iterator

from absl import flags
from absl import logging
import numpy as np
import tensorflow as tf

import common_flags
import estimator as estimator_lib
import input_pipeline
import modeling

FLAGS = flags.FLAGS


def define_flags() -> None:
  """Defines the flags of this program."""
  common_flags.define_model_flags()
  common_flags.define_vocab_flags()
  flags.DEFINE_string("input_file", None, "Text files or globs, separated by "
                      "commas.", required=True)
  flags.DEFINE_string("output_file", None, "JSON lines to write.",
                      required=True)
  flags.DEFINE_list("layers", "-1,-2,-3,-4", "Layers to write: 0 is the first, "
                    "-1 the last.")
  flags.DEFINE_integer("max_seq_length", 128, "Most tokens of a line; longer "
                       "ones are cut.")
  flags.DEFINE_integer("batch_size", 32, "Lines per batch.", lower_bound=1)
  common_flags.define_tpu_flags()
  flags.DEFINE_bool("use_one_hot_embeddings", False, "Look words up by a "
                    "product with a one-hot matrix, which some TPUs do faster.")


def read_packed(input_files, tokenizer, max_seq_length
               ) -> Iterator[input_pipeline.Packed]:
  """Yields the ids of each line; `a ||| b` is a pair."""
  cls_id, sep_id = tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]"])
  for file in input_files:
    for line in input_pipeline.read_lines(file):
      # At the last separator, should there be several.
      text_a, _, text_b = line.strip().rpartition(" ||| ")
      if not text_a:
        text_a, text_b = text_b, ""
      yield input_pipeline.pack(
          tokenizer.encode(text_a), tokenizer.encode(text_b), max_seq_length,
          cls_id, sep_id)


def model_fn_builder(config, layers):
  """Returns a `model_fn` that predicts the given layers."""
  def model_fn(params):
    model = modeling.BertModel(
        config, common_flags.compute_dtype(), params["seed"],
        use_one_hot_embeddings=FLAGS.use_one_hot_embeddings)

    def predict_fn(features):
      output = model(features["input_ids"], features["input_mask"],
                     features["segment_ids"])
      return {"input_ids": features["input_ids"],
              "input_mask": features["input_mask"],
              **{f"layer_{layer}": tf.cast(output.all_encoder_layers[layer],
                                           tf.float32) for layer in layers}}

    return estimator_lib.EstimatorSpec(
        model=model, predict_fn=predict_fn,
        init_checkpoint=FLAGS.init_checkpoint)

  return model_fn


def input_fn_builder(sequences):
  """Returns the `input_fn` of an iterable of `Packed`."""
  def input_fn(params):
    return input_pipeline.packed_dataset(
        sequences, FLAGS.max_seq_length, params["batch_size"],
        static_shapes=FLAGS.use_tpu)

  return input_fn


def to_json(line_index, prediction, layers, inv_vocab) -> str:
  """Returns the JSON of one line of input."""
  length = int(np.sum(prediction["input_mask"]))
  values = {layer: np.round(
      prediction[f"layer_{layer}"][:length].astype(np.float64), 6).tolist()
            for layer in layers}
  return json.dumps({
      "linex_index": line_index,  # sic: the misspelling is the format
      "features": [
          {"token": inv_vocab[int(prediction["input_ids"][i])],
           "layers": [{"index": layer, "values": values[layer][i]}
                      for layer in layers]}
          for i in range(length)]})


def main(_):
  config = common_flags.model_config()
  common_flags.check_max_seq_length(config)
  layers = _layers(config)
  tokenizer = common_flags.tokenizer(config)
  input_files = input_pipeline.expand_patterns(
      FLAGS.input_file, "--input_file")
  common_flags.resolve_model("init_checkpoint")
  estimator = estimator_lib.TPUEstimator(
      model_fn=model_fn_builder(config, layers),
      config=estimator_lib.RunConfig(
          strategy=common_flags.tpu_strategy() if FLAGS.use_tpu else None),
      predict_batch_size=FLAGS.batch_size)
  failures = []

  def sequences():
    try:
      yield from read_packed(input_files, tokenizer, FLAGS.max_seq_length)
    except ValueError as error:
      # tf.data would bury it under a traceback of its own.
      failures.append(error)

  predictions = estimator.predict(input_fn_builder(sequences))
  count = 0
  with input_pipeline.whole_file(FLAGS.output_file) as temporary:
    with tf.io.gfile.GFile(temporary, "w") as writer:
      for prediction in predictions:
        writer.write(
            to_json(count, prediction, layers, tokenizer.inv_vocab) + "\n")
        count += 1
    if failures:
      raise failures[0]
  logging.info("Features of %d lines are in %s.", count, FLAGS.output_file)


def _layers(config) -> list[int]:
  """Returns the layers of the flag.

  Raises:
    ValueError: one is not a number, or the model has no such layer.
  """
  num_layers = config.num_hidden_layers
  for layer in FLAGS.layers:
    if not layer.strip().lstrip("-").isdigit() or not (
        -num_layers <= int(layer) < num_layers):
      raise ValueError(
          f"--layers has {layer!r}, but the model has {num_layers} layers: "
          f"give numbers from {-num_layers} to {num_layers - 1}, separated by "
          "commas.")
  return [int(layer) for layer in FLAGS.layers]


if __name__ == "__main__":
  define_flags()
  common_flags.run(main)
