"""Compares the speed of a training step with PyTorch transformers.

    python benchmarks/training_step.py --size=small --task=classifier \\
        --batch_size=32 --seq_length=128 --precisions=float32,bfloat16

Both train from random weights on the same shapes, with dropout and with AdamW
and clipping. Each is a process of its own that does a few steps when it is its
turn; the result is the median of its turns. Our steps run through the
estimator, as in every program. It needs the packages of
`pip install -e '.[benchmark]'`; --peer_python names another interpreter that
has PyTorch and transformers.
"""

import json
import os
import statistics
import sys

from absl import app
from absl import flags
import result_files
import turns

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

FLAGS = flags.FLAGS

flags.DEFINE_string(
  "size", "small", "A released size, such as small, L-4_H-512_A-8 or base."
)
flags.DEFINE_enum(
  "task", "classifier", ["classifier", "pretraining"], "Kind of model to train."
)
flags.DEFINE_integer("batch_size", 32, "Number of sequences of a step.")
flags.DEFINE_integer(
  "seq_length", 128, "Number of tokens of a sequence, without padding."
)
flags.DEFINE_integer(
  "max_predictions_per_seq", 20, "Number of masks of a sequence."
)
flags.DEFINE_list("precisions", "float32,bfloat16", "Types to compare.")
flags.DEFINE_integer("steps", 4, "Number of steps of a turn.")
flags.DEFINE_integer("turns", 7, "Number of turns of each.")
flags.DEFINE_string("peer_python", sys.executable, "Interpreter for the peer.")
result_files.define_flag()
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
  from training import cost
  from training import devices

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
        return estimator_lib.Losses(
          {
            "loss": losses.classification_loss(
              model(
                features["input_ids"],
                features["input_mask"],
                features["segment_ids"],
                seed,
              ),
              features["label_ids"],
              tf.ones_like(features["label_ids"], tf.float32),
            )
          }
        )

    return estimator_lib.EstimatorSpec(
      model, loss_fn, optimizer=optimization.create_optimizer(1e-4, 10**6, 0)
    )

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
      "masked_lm_ids": rng.integers(1000, 30000, (rows, num_predictions)),
    }
    features = {
      name: value.astype(np.int32) for name, value in features.items()
    }
    features["masked_lm_weights"] = np.ones((rows, num_predictions), np.float32)
    return tf.data.Dataset.from_tensors(features).repeat()

  trainer = estimator_lib.TPUEstimator(
    model_fn,
    estimator_lib.RunConfig(
      eval_every_steps=settings["steps"], compute_dtype=dtype
    ),
    train_batch_size=settings["batch_size"],
  )
  this_machine = devices.Devices(tf.distribute.get_strategy())
  peak = this_machine.measure_peak_flops(dtype)
  flops = cost.training_flops(
    config,
    settings["batch_size"],
    settings["seq_length"],
    1 + num_predictions,
    num_predictions,
  )
  my_turns = turns.answer_turns({"peak_flops": peak, "flops": flops})
  next(my_turns)

  def end_of_turn():
    next(my_turns)
    return {"loss": 0.0}

  trainer.train(input_fn, 10**9, evaluate_fn=end_of_turn)


# --- The peer ----------------------------------------------------------------


def run_peer(settings) -> None:
  """Takes turns with PyTorch transformers."""
  # pylint: disable=g-import-not-at-top
  import torch
  import transformers

  sizes = settings["config"]
  config = transformers.BertConfig(
    **{**sizes, "hidden_act": "gelu_new", "num_labels": 2}
  )
  model = (
    transformers.BertForPreTraining
    if settings["num_predictions"]
    else transformers.BertForSequenceClassification
  )(config)
  model.train()
  optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
  shape = (settings["batch_size"], settings["seq_length"])
  batch = {
    "input_ids": torch.randint(1000, 30000, shape),
    "attention_mask": torch.ones(shape, dtype=torch.long),
    "token_type_ids": torch.randint(0, 2, shape),
  }
  labels = torch.randint(0, 2, shape[:1])
  if settings["num_predictions"]:
    words = torch.full(shape, -100)
    words[:, : settings["num_predictions"]] = torch.randint(
      1000, 30000, (shape[0], settings["num_predictions"])
    )
    batch.update(labels=words, next_sentence_label=labels)
  else:
    batch.update(labels=labels)
  dtype = getattr(torch, settings["precision"])
  my_turns = turns.answer_turns({})
  next(my_turns)
  while True:
    for _ in range(settings["steps"]):
      optimizer.zero_grad(set_to_none=True)
      with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        loss = model(**batch).loss
      loss.backward()
      torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
      optimizer.step()
    next(my_turns)


def main(_):
  if FLAGS.role:
    role, settings = json.loads(FLAGS.role)
    {"ours": run_ours, "peer": run_peer}[role](settings)
    return
  sys.path.insert(0, ROOT)
  import modeling  # pylint: disable=g-import-not-at-top

  config = modeling.BertConfig.from_size(FLAGS.size)
  shape = (
    f"{config.num_hidden_layers} x {config.hidden_size}, batch "
    f"{FLAGS.batch_size} x {FLAGS.seq_length}"
  )
  print(f"{FLAGS.task}, {shape}", flush=True)
  rows = []
  for precision in FLAGS.precisions:
    settings = {
      "size": FLAGS.size,
      "config": config.to_dict(),
      "precision": precision,
      "batch_size": FLAGS.batch_size,
      "seq_length": FLAGS.seq_length,
      "steps": FLAGS.steps,
      "num_predictions": (
        FLAGS.max_predictions_per_seq if FLAGS.task == "pretraining" else 0
      ),
    }
    ours = turns.Contestant(
      __file__, "ours", sys.executable, settings, num_warmups=2
    )
    peer = turns.Contestant(
      __file__, "peer", FLAGS.peer_python, settings, num_warmups=2
    )
    for _ in range(FLAGS.turns):
      ours.take_turn()
      peer.take_turn()
    our_seconds = statistics.median(ours.seconds) / FLAGS.steps
    peer_seconds = statistics.median(peer.seconds) / FLAGS.steps
    turn_pairs = zip(ours.seconds, peer.seconds)
    ratios = sorted(theirs / our for our, theirs in turn_pairs)
    flops = ours.facts["flops"] / our_seconds
    peak_flops = ours.facts["peak_flops"]
    print(
      f"  {precision:>8}: ours {our_seconds:.3f} s, transformers "
      f"{peer_seconds:.3f} s a step: {peer_seconds / our_seconds:.2f} times as "
      f"fast (turn by turn {ratios[0]:.2f} to {ratios[-1]:.2f}); "
      f"{flops / 1e9:.0f} GFLOP/s, {flops / peak_flops:.0%} of the "
      f"{peak_flops / 1e9:.0f} of a large product",
      flush=True,
    )
    rows.append(
      {
        "type": precision,
        "ours (s)": round(our_seconds, 3),
        "times as fast as transformers": round(peer_seconds / our_seconds, 2),
      }
    )
    ours.leave()
    peer.leave()
  result_files.write(
    section="Speed",
    title=f"A training step of {FLAGS.task}, {shape}",
    rows=rows,
    packages=("torch", "transformers"),
    peer_python=FLAGS.peer_python,
    note=f"Median of {FLAGS.turns} turns.",
  )


if __name__ == "__main__":
  app.run(main)
