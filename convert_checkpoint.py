"""Turns a model of PyTorch transformers into a released-style folder.

    python convert_checkpoint.py --input_dir=all-MiniLM-L6-v2 \\
        --output_dir=models/minilm

The input folder holds model.safetensors, config.json and vocab.txt; the output
folder gets bert_model.ckpt, bert_config.json and vocab.txt.
"""

import os

from absl import flags
from absl import logging
import tensorflow as tf

import checkpoint
import common_flags
import input_pipeline
import modeling
import tokenization

FLAGS = flags.FLAGS


def define_flags() -> None:
  """Defines the flags of this program."""
  flags.DEFINE_string("input_dir", None, "Folder with model.safetensors, "
                      "config.json and vocab.txt.", required=True)
  flags.DEFINE_string("output_dir", None, "Folder to write the model to.",
                      required=True)


def main(_):
  source = {name: os.path.join(FLAGS.input_dir, name)
            for name in ("model.safetensors", "config.json", "vocab.txt")}
  for path in source.values():
    if not tf.io.gfile.exists(path):
      raise ValueError(f"{path} does not exist. --input_dir must be a folder "
                       "with model.safetensors, config.json and vocab.txt.")
  config = modeling.BertConfig.from_dict(
      checkpoint.read_transformers_config(source["config.json"]))
  tokenization.load_vocab(source["vocab.txt"])
  encoder = checkpoint.variables_by_name(modeling.BertModel(config))
  # Restoring into the encoder checks names and shapes against the config.
  checkpoint.restore(encoder, source["model.safetensors"], "--input_dir")
  reader = checkpoint.open_checkpoint(source["model.safetensors"])
  checkpoint.write(
      os.path.join(FLAGS.output_dir, "bert_model.ckpt"),
      {name: reader.get_tensor(name) for name in reader.shapes})
  input_pipeline.write_text(
      os.path.join(FLAGS.output_dir, "bert_config.json"),
      config.to_json_string())
  with tf.io.gfile.GFile(source["vocab.txt"]) as reader:
    input_pipeline.write_text(
        os.path.join(FLAGS.output_dir, "vocab.txt"), reader.read())
  logging.info("%s holds the model, with hidden_act=%s.", FLAGS.output_dir,
               config.hidden_act)


if __name__ == "__main__":
  define_flags()
  common_flags.run(main)
