"""Compares one epoch of fine-tuning with PyTorch transformers.

    python benchmarks/fine_tuning.py --data_dir=glue/MRPC \\
        --bert_config_file=$BERT/bert_config.json --vocab_file=$BERT/vocab.txt

It measures our program with batches of similar lengths, our program with
batches padded to --max_seq_length, and transformers with dynamic padding
(random batches, each padded to its longest sequence), in float32 and in
bfloat16. Each is a process of its own that does a part of the epoch when it is
its turn; the result is the sum of its turns. The first steps, which compile, do
not count, but the compilation of new lengths does. Weights are random, and
tokens are made before the start. It needs the packages of
`pip install -e '.[benchmark]'`; --peer_python names another interpreter that
has PyTorch and transformers.
"""

import json
import os
import sys
import tempfile

from absl import app
from absl import flags
import peer
import result_files
import turns

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

FLAGS = flags.FLAGS

flags.DEFINE_string("data_dir", None, "Folder of MRPC.")
flags.DEFINE_string("bert_config_file", None, "Config of the model.")
flags.DEFINE_string("vocab_file", None, "Vocabulary of the model.")
flags.DEFINE_integer(
  "max_seq_length", 128, "Largest number of tokens of a sequence."
)
flags.DEFINE_integer("batch_size", 32, "Number of examples of a step.")
flags.DEFINE_integer("turns", 5, "Number of parts of the epoch.")
flags.DEFINE_string("peer_python", sys.executable, "Interpreter for the peer.")
result_files.define_flag()
flags.DEFINE_string("role", None, "Set by this program for its children.")


def read_mrpc(data_dir):
  """Returns texts and labels of the training examples."""
  with open(os.path.join(data_dir, "train.tsv"), encoding="utf-8") as reader:
    rows = [line.rstrip("\n").split("\t") for line in reader][1:]
  return (
    [row[3] for row in rows],
    [row[4] for row in rows],
    [int(row[0]) for row in rows],
  )


def run_ours(settings) -> None:
  """Takes turns with the training of `run_classifier.py`."""
  sys.path.insert(0, ROOT)
  # pylint: disable=g-import-not-at-top
  import tensorflow as tf

  from data import tokenizer_settings
  import estimator as estimator_lib
  import heads
  import modeling
  import optimization
  from tasks import classification_records
  from tasks import classifier_config
  from tasks import finetuning
  from tasks import glue
  import tokenization

  config = modeling.BertConfig.from_json_file(settings["bert_config_file"])
  examples = glue.TASKS["mrpc"].read_examples(settings["data_dir"], "train")
  classifier = classifier_config.ClassifierConfig(
    heads.SINGLE_LABEL,
    ("0", "1"),
    tokenizer_settings.TokenizerSettings(),
    settings["max_seq_length"],
    "truncate",
  )
  dtype = tf.as_dtype(settings["precision"])
  recipe = finetuning.Recipe(
    classifier.head,
    lambda params: modeling.BertForSequenceClassification(
      config, 2, dtype, params["seed"]
    ),
    estimator_lib.RunConfig(
      eval_every_steps=settings["steps"], compute_dtype=dtype
    ),
    finetuning.BatchSettings(settings["batch_size"], settings["pads"]),
    optimizer=optimization.create_optimizer(5e-5, 10**6, 0),
  )
  my_turns = turns.answer_turns({})
  with tempfile.TemporaryDirectory() as folder:
    records = classification_records.write_records(
      os.path.join(folder, "x.tf_record"),
      classifier,
      tokenization.FullTokenizer(settings["vocab_file"]),
      examples,
      classification_records.TrainingTargets(
        glue.TASKS["mrpc"].targets(examples, classifier.labels)
      ),
    )
    next(my_turns)

    def end_turn():
      next(my_turns)
      return {"loss": 0.0}

    recipe.train(records.records, len(examples), 10**9, end_turn)


def run_peer(settings) -> None:
  """Takes turns with PyTorch transformers."""
  # pylint: disable=g-import-not-at-top
  import torch
  import transformers

  model = transformers.BertForSequenceClassification(
    peer.transformers_config(settings["bert_config_file"], num_labels=2)
  )
  model.train()
  optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5)
  tokenizer = transformers.BertTokenizerFast(settings["vocab_file"])
  texts_a, texts_b, labels = read_mrpc(settings["data_dir"])
  encoded = tokenizer(
    texts_a, texts_b, truncation=True, max_length=settings["max_seq_length"]
  )
  rows = [
    {**{name: values[i] for name, values in encoded.items()}, "labels": label}
    for i, label in enumerate(labels)
  ]
  loader = torch.utils.data.DataLoader(
    rows,
    batch_size=settings["batch_size"],
    shuffle=True,
    collate_fn=transformers.DataCollatorWithPadding(tokenizer),
  )
  dtype = getattr(torch, settings["precision"])
  my_turns = turns.answer_turns({})
  next(my_turns)
  count = 0
  while True:
    for batch in loader:
      optimizer.zero_grad(set_to_none=True)
      with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        loss = model(**batch).loss
      loss.backward()
      torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
      optimizer.step()
      loss.item()
      count += 1
      if count % settings["steps"] == 0:
        next(my_turns)


def main(_):
  if FLAGS.role:
    role, settings = json.loads(FLAGS.role)
    {"ours": run_ours, "peer": run_peer}[role](settings)
    return
  num_steps = -(-len(read_mrpc(FLAGS.data_dir)[0]) // FLAGS.batch_size)
  steps = -(-num_steps // FLAGS.turns)
  names = (
    "data_dir",
    "bert_config_file",
    "vocab_file",
    "batch_size",
    "max_seq_length",
  )
  seconds = peer.take_turns(
    __file__,
    FLAGS.peer_python,
    {**{name: FLAGS[name].value for name in names}, "steps": steps},
    num_warmups=1,
    num_turns=FLAGS.turns,
  )
  print(
    f"{steps * FLAGS.turns} steps of {FLAGS.batch_size}, in {FLAGS.turns} turns"
  )
  totals = {name: sum(some) for name, some in seconds.items()}
  for name, value in totals.items():
    print(f"  {name:>22}: {value:6.1f} s")
  peer.print_ratios(totals, seconds)
  result_files.write(
    section="Speed",
    title="An epoch of MRPC, both padded dynamically",
    rows=peer.list_results(totals),
    packages=("torch", "transformers"),
    peer_python=FLAGS.peer_python,
    note=f"{FLAGS.turns} turns of each.",
  )


if __name__ == "__main__":
  app.run(main)
