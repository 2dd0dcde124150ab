"""Speed of a training step beside PyTorch transformers.

    python benchmarks/training_step.py --size=small --task=classifier \\
        --batch_size=32 --seq_length=128 --precisions=float32,bfloat16

Both train from random weights on the same shapes, dropout and AdamW with
clipping included, each in a process of its own that does a few steps when it is
its turn. The median over the turns counts. Ours runs through the estimator, as
every program does. Needs the packages of requirements-benchmark.txt;
--peer_python names another interpreter that has PyTorch and transformers.
"""

import json
import os
import statistics
import subprocess
import sys
import time

from absl import app
from absl import flags

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

FLAGS = flags.FLAGS

flags.DEFINE_string("size", "small", "A released size, such as small, "
                    "L-4_H-512_A-8 or base.")
flags.DEFINE_enum("task", "classifier", ["classifier", "pretraining"],
                  "What to train.")
flags.DEFINE_integer("batch_size", 32, "Sequences of a step.")
flags.DEFINE_integer("seq_length", 128, "Tokens of a sequence, all real.")
flags.DEFINE_integer("max_predictions_per_seq", 20, "Masks of a sequence.")
flags.DEFINE_list("precisions", "float32,bfloat16", "Types to compare.")
flags.DEFINE_integer("steps", 4, "Steps of a turn.")
flags.DEFINE_integer("turns", 7, "Turns of each.")
flags.DEFINE_string("peer_python", sys.executable, "Interpreter for the peer.")
flags.DEFINE_string("role", None, "Set by this program for its children.")


# --- Ours --------------------------------------------------------------------


def run_ours(settings) -> None:
  """Takes turns with our estimator."""
  sys.path.insert(0, ROOT)
  # pylint: disable=g-import-not-at-top
  import numpy as np
  import tensorflow as tf
  import estimator as estimator_lib
  import losses
  import modeling
  import optimization
  import run_pretraining

  dtype = tf.as_dtype(settings["precision"])
  config = modeling.BertConfig.from_size(settings["size"])
  num_predictions = settings["num_predictions"]

  def model_fn(params):
    del params
    if num_predictions:
      model = modeling.BertForPreTraining(config, dtype)
      loss_fn = run_pretraining.loss_fn_builder(model)
    else:
      model = modeling.BertForSequenceClassification(config, 2, dtype)
      def loss_fn(features, seed):
        return estimator_lib.Losses({"loss": losses.classification_loss(
            model(features["input_ids"], features["input_mask"],
                  features["segment_ids"], seed), features["label_ids"],
            tf.ones_like(features["label_ids"], tf.float32))})
    return estimator_lib.EstimatorSpec(
        model, loss_fn, optimizer=optimization.create_optimizer(1e-4, 10**6, 0))

  def input_fn(params):
    rng = np.random.default_rng(0)
    rows, length = params["batch_size"], settings["seq_length"]
    features = {
        "input_ids": rng.integers(1000, 30000, (rows, length)),
        "input_mask": np.ones((rows, length)),
        "segment_ids": rng.integers(0, 2, (rows, length)),
        "label_ids": rng.integers(0, 2, rows),
        "next_sentence_labels": rng.integers(0, 2, (rows, 1)),
        "masked_lm_positions": rng.integers(0, length, (rows, num_predictions)),
        "masked_lm_ids": rng.integers(1000, 30000, (rows, num_predictions))}
    features = {name: value.astype(np.int32)
                for name, value in features.items()}
    features["masked_lm_weights"] = np.ones((rows, num_predictions), np.float32)
    return tf.data.Dataset.from_tensors(features).repeat()

  trainer = estimator_lib.TPUEstimator(
      model_fn, estimator_lib.RunConfig(
          eval_every_steps=settings["steps"], compute_dtype=dtype),
      train_batch_size=settings["batch_size"])
  peak = estimator_lib.peak_flops(tf.distribute.get_strategy(), dtype)
  flops = modeling.training_flops(
      config, settings["batch_size"], settings["seq_length"],
      1 + num_predictions, num_predictions)
  turns = _turns({"peak_flops": peak, "flops": flops})
  next(turns)

  def end_of_turn():
    next(turns)
    return {"loss": 0.0}

  trainer.train(input_fn, 10**9, evaluate_fn=end_of_turn)


# --- The peer ----------------------------------------------------------------


def run_peer(settings) -> None:
  """Takes turns with PyTorch transformers."""
  # pylint: disable=g-import-not-at-top
  import torch
  import transformers

  sizes = settings["config"]
  config = transformers.BertConfig(**{
      **sizes, "hidden_act": "gelu_new", "num_labels": 2})
  model = (transformers.BertForPreTraining if settings["num_predictions"]
           else transformers.BertForSequenceClassification)(config)
  model.train()
  optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
  shape = (settings["batch_size"], settings["seq_length"])
  batch = {"input_ids": torch.randint(1000, 30000, shape),
           "attention_mask": torch.ones(shape, dtype=torch.long),
           "token_type_ids": torch.randint(0, 2, shape)}
  labels = torch.randint(0, 2, shape[:1])
  if settings["num_predictions"]:
    words = torch.full(shape, -100)
    words[:, :settings["num_predictions"]] = torch.randint(
        1000, 30000, (shape[0], settings["num_predictions"]))
    batch.update(labels=words, next_sentence_label=labels)
  else:
    batch.update(labels=labels)
  dtype = getattr(torch, settings["precision"])
  turns = _turns({})
  next(turns)
  while True:
    for _ in range(settings["steps"]):
      optimizer.zero_grad(set_to_none=True)
      with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        loss = model(**batch).loss
      loss.backward()
      torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
      optimizer.step()
    next(turns)


# --- Turns -------------------------------------------------------------------


def _turns(facts):
  """Answers each line on standard input with the seconds of a turn.

  The first answer carries `facts`; what it waits for is to be compiled.
  """
  channel = os.fdopen(os.dup(1), "w")
  os.dup2(2, 1)  # what libraries print goes to standard error
  while True:
    if not sys.stdin.readline():
      os._exit(0)
    start = time.perf_counter()
    yield
    channel.write(json.dumps(
        {"seconds": time.perf_counter() - start, **facts}) + "\n")
    channel.flush()


class _Contestant:
  """A process that takes turns."""

  def __init__(self, role, python, settings):
    self.seconds = []
    self._process = subprocess.Popen(
        [python, __file__, f"--role={json.dumps([role, settings])}"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True)
    for _ in range(2):  # compiles, and grows its memory
      self.facts = self._turn()

  def _turn(self):
    self._process.stdin.write("go\n")
    self._process.stdin.flush()
    line = self._process.stdout.readline()
    if not line:
      sys.exit(self._process.communicate()[1])
    return json.loads(line)

  def take_turn(self, steps):
    self.seconds.append(self._turn()["seconds"] / steps)

  def leave(self):
    self._process.kill()
    self._process.wait()


def main(_):
  if FLAGS.role:
    role, settings = json.loads(FLAGS.role)
    {"ours": run_ours, "peer": run_peer}[role](settings)
    return
  sys.path.insert(0, ROOT)
  import modeling  # pylint: disable=g-import-not-at-top
  config = modeling.BertConfig.from_size(FLAGS.size)
  print(f"{FLAGS.task}, {config.num_hidden_layers} x {config.hidden_size}, "
        f"batch {FLAGS.batch_size} x {FLAGS.seq_length}", flush=True)
  for precision in FLAGS.precisions:
    settings = {
        "size": FLAGS.size, "config": config.to_dict(), "precision": precision,
        "batch_size": FLAGS.batch_size, "seq_length": FLAGS.seq_length,
        "steps": FLAGS.steps, "num_predictions": (
            FLAGS.max_predictions_per_seq if FLAGS.task == "pretraining"
            else 0)}
    ours = _Contestant("ours", sys.executable, settings)
    peer = _Contestant("peer", FLAGS.peer_python, settings)
    for _ in range(FLAGS.turns):
      ours.take_turn(FLAGS.steps)
      peer.take_turn(FLAGS.steps)
    medians = [statistics.median(x.seconds) for x in (ours, peer)]
    ratios = sorted(b / a for a, b in zip(ours.seconds, peer.seconds))
    flops = ours.facts["flops"] / medians[0]
    print(f"  {precision:>8}: ours {medians[0]:.3f} s, transformers "
          f"{medians[1]:.3f} s a step: {medians[1] / medians[0]:.2f} times as "
          f"fast (turn by turn {ratios[0]:.2f} to {ratios[-1]:.2f}); "
          f"{flops / 1e9:.0f} GFLOP/s, {flops / ours.facts['peak_flops']:.0%} "
          f"of the {ours.facts['peak_flops'] / 1e9:.0f} of a large product",
          flush=True)
    ours.leave()
    peer.leave()


if __name__ == "__main__":
  app.run(main)
