"""Sentence vectors a second, beside PyTorch transformers.

    python benchmarks/extract_features.py --text_file=books_en.txt \\
        --bert_config_file=$BERT/bert_config.json \\
        --vocab_file=$BERT/vocab.txt --init_checkpoint=$BERT/bert_model.ckpt

The mean of the last layer over the tokens of each line: ours, from lines to a
file of vectors, in batches of near lengths and padded to --max_seq_length;
transformers in batches of lines sorted by length, with its tokenizer, on
weights of the same shape, to vectors in memory. Each is a process of its own
that has loaded its weights and does all lines when it is its turn; the median
over the turns counts, and the first turns, which compile, do not.
Needs `pip install -e '.[benchmark]'`; --peer_python names another
interpreter that has PyTorch and transformers.
"""

import json
import os
import statistics
import sys

from absl import app
from absl import flags
import peer
import result_files
import turns

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

FLAGS = flags.FLAGS

flags.DEFINE_string("text_file", None, "Text, a sentence a line.")
flags.DEFINE_string("bert_config_file", None, "The model.")
flags.DEFINE_string("vocab_file", None, "Its vocabulary.")
flags.DEFINE_string("init_checkpoint", None, "Its weights.")
flags.DEFINE_integer("num_lines", 5000, "How many lines to take.")
flags.DEFINE_integer("max_seq_length", 128, "Most tokens of a line.")
flags.DEFINE_integer("batch_size", 32, "Lines of a batch.")
flags.DEFINE_integer("turns", 3, "Turns of each.")
flags.DEFINE_string("peer_python", sys.executable, "Interpreter for the peer.")
result_files.define_flag()
flags.DEFINE_string("role", None, "Set by this program for its children.")


def read_lines(settings) -> list[str]:
  lines = []
  with open(settings["text_file"], encoding="utf-8") as reader:
    for line in reader:
      if line.strip():
        lines.append(line.strip())
      if len(lines) == settings["num_lines"]:
        break
  return lines


def run_ours(settings) -> None:
  """Takes turns with the program itself."""
  sys.path.insert(0, ROOT)
  # pylint: disable=g-import-not-at-top
  # This file has the name of the program.
  import importlib.util
  import tempfile

  spec = importlib.util.spec_from_file_location(
    "extract_features", os.path.join(ROOT, "extract_features.py")
  )
  program = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(program)
  for name in list(FLAGS):
    if name in FLAGS and not FLAGS.find_module_defining_flag(name).startswith(
      "absl"
    ):
      delattr(FLAGS, name)
  program.define_flags()
  my_turns = turns.answer_turns({})
  with tempfile.TemporaryDirectory() as folder:
    text_file = os.path.join(folder, "lines.txt")
    with open(text_file, "w", encoding="utf-8") as writer:
      writer.write("\n".join(read_lines(settings)) + "\n")
    flag_values = [
      f"--{name}={settings[name]}"
      for name in (
        "bert_config_file",
        "vocab_file",
        "init_checkpoint",
        "max_seq_length",
        "batch_size",
        "precision",
      )
    ]
    FLAGS(
      [
        "extract_features.py",
        *flag_values,
        f"--input_file={text_file}",
        f"--output_file={os.path.join(folder, 'out.npz')}",
        "--format=npz",
        "--pooling=mean",
        "--layers=-1",
        "--combine_layers=concat",
        f"--pad_to_max_length={settings['pads']}",
      ]
    )
    # The steps of the program, with the estimator made once.
    files = program.common_flags.model_files(
      "bert_config_file", "vocab_file", "init_checkpoint"
    )
    config = program.common_flags.read_config(files)
    tokenizer = program.common_flags.create_tokenizer(files, config)
    layers = program.layers_of_flag(config)
    estimator = program.create_estimator(config, layers, files.init_checkpoint)
    while True:
      next(my_turns)
      output = os.path.join(folder, "out.npz")
      if os.path.exists(output):
        os.remove(output)  # otherwise nothing would be left to do
      program.extract(
        estimator,
        tokenizer,
        program.encode_lines([text_file], tokenizer),
        program.open_output(layers, [text_file], files, tokenizer),
        program.lines_per_part(config, layers),
      )


def run_peer(settings) -> None:
  """Takes turns with PyTorch transformers."""
  # pylint: disable=g-import-not-at-top
  import torch
  import transformers

  model = transformers.BertModel(
    peer.transformers_config(settings["bert_config_file"]),
    add_pooling_layer=False,
  )
  model.eval()
  tokenizer = transformers.BertTokenizerFast(settings["vocab_file"])
  lines = read_lines(settings)
  dtype = getattr(torch, settings["precision"])
  my_turns = turns.answer_turns({})
  next(my_turns)
  while True:
    order = sorted(range(len(lines)), key=lambda i: len(lines[i]))
    vectors = [None] * len(lines)
    with (
      torch.inference_mode(),
      torch.autocast("cpu", dtype, enabled=dtype != torch.float32),
    ):
      for start in range(0, len(order), settings["batch_size"]):
        chosen = order[start : start + settings["batch_size"]]
        batch = tokenizer(
          [lines[i] for i in chosen],
          truncation=True,
          max_length=settings["max_seq_length"],
          padding=True,
          return_tensors="pt",
        )
        hidden = model(**batch).last_hidden_state.float()
        mask = batch["attention_mask"][..., None].float()
        means = (hidden * mask).sum(1) / mask.sum(1)
        for i, vector in zip(chosen, means.numpy()):
          vectors[i] = vector
    next(my_turns)


def main(_):
  if FLAGS.role:
    role, settings = json.loads(FLAGS.role)
    {"ours": run_ours, "peer": run_peer}[role](settings)
    return
  names = (
    "text_file",
    "bert_config_file",
    "vocab_file",
    "init_checkpoint",
    "num_lines",
    "max_seq_length",
    "batch_size",
  )
  settings = {name: FLAGS[name].value for name in names}
  seconds = peer.take_turns(
    __file__, FLAGS.peer_python, settings, num_warmups=2, num_turns=FLAGS.turns
  )
  medians = {name: statistics.median(some) for name, some in seconds.items()}
  for name, value in medians.items():
    print(
      f"  {name:>22}: {FLAGS.num_lines / value:7.1f} lines a second "
      f"({value:.1f} s)"
    )
  peer.print_ratios(medians, seconds)
  result_files.write(
    section="Speed",
    title=f"Vectors of {FLAGS.num_lines:,} lines, both sorted by length",
    rows=peer.list_results(medians),
    packages=("torch", "transformers"),
    peer_python=FLAGS.peer_python,
    note=f"Median of {FLAGS.turns} turns.",
  )


if __name__ == "__main__":
  app.run(main)
