"""Compares a pre-training step, as XLA compiles it for a GPU, with PyTorch's.

    python benchmarks/gpu_step.py --export=/tmp/steps
    python benchmarks/gpu_step.py --run=/tmp/steps

The first command needs TensorFlow. It writes our training step for each shape
as StableHLO, the language that XLA compiles. The second one needs a GPU, JAX,
PyTorch and transformers, and no TensorFlow: JAX contains the same compiler. The
peer is transformers' BertForPreTraining with scaled dot-product attention,
bfloat16 autocast, `torch.compile` and the fused AdamW, whose masked LM head
also works on the masked positions only.

All contestants compile at the same time. Then each makes a few steps when it is
its turn, and the result is the median of its turns. The share of the peak is
that of a product of two bfloat16 matrices, 8192 square.
"""

from concurrent import futures
import json
import os
import re
import statistics
import sys

from absl import app
from absl import flags
import result_files
import turns

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PEAK_SIZE = 8192
# The name, among the arguments of the step, of the number of the step.
NUMBER = "number"

FLAGS = flags.FLAGS

flags.DEFINE_string("export", None, "Folder to write our steps to.")
flags.DEFINE_string("run", None, "Folder with our steps, to be timed.")
flags.DEFINE_list(
  "shapes",
  "base:64:128,base:16:512,large:32:128,large:8:512",
  "Sizes of models, with sequences of a step and tokens of a sequence.",
)
flags.DEFINE_integer("steps", 10, "Number of steps of a turn.")
flags.DEFINE_integer("turns", 7, "Number of turns of each.")
result_files.define_flag()
flags.DEFINE_string("role", None, "Set by this program for its children.")


def parse_shape(shape: str) -> tuple[str, int, int, int]:
  """Returns size, sequences, tokens and masked tokens of a shape."""
  size, batch_size, seq_length = shape.split(":")
  # As many masks as the authors of the paper had: 20 of 128, 80 of 512.
  num_predictions = 20 * int(seq_length) // 128
  return size, int(batch_size), int(seq_length), num_predictions


def find_file(folder: str, shape: str, ending: str) -> str:
  """Returns the path of a file that describes our step."""
  return os.path.join(folder, shape.replace(":", "_") + ending)


# --- Export ------------------------------------------------------------------


def make_inputs(batch_size: int, seq_length: int, num_predictions: int):
  """Returns the arguments of a step that are no variables: name -> zeros."""
  import tensorflow as tf  # pylint: disable=g-import-not-at-top

  row, masks = [batch_size, seq_length], [batch_size, num_predictions]
  return {
    "input_ids": tf.zeros(row, tf.int32),
    "input_mask": tf.zeros(row, tf.int32),
    "segment_ids": tf.zeros(row, tf.int32),
    "masked_lm_positions": tf.zeros(masks, tf.int32),
    "masked_lm_ids": tf.zeros(masks, tf.int32),
    "masked_lm_weights": tf.zeros(masks, tf.float32),
    "next_sentence_labels": tf.zeros([batch_size, 1], tf.int32),
    NUMBER: tf.zeros([], tf.int64),
  }


def export_step(folder: str, shape: str) -> None:
  """Writes our training step for a shape: its code and its arguments."""
  sys.path.insert(0, ROOT)
  # pylint: disable=g-import-not-at-top
  import tensorflow as tf

  import modeling
  import optimization
  import run_pretraining
  from training import cost
  from training import devices
  from training import training_step

  size, batch_size, seq_length, num_predictions = parse_shape(shape)
  config = modeling.BertConfig.from_size(size)
  model = modeling.BertForPreTraining(config, tf.bfloat16)
  variables = model.trainable_variables
  optimizer = optimization.create_optimizer(1e-4, 10**6, 0)
  optimizer.build(variables)
  step = training_step.TrainingStep(
    variables,
    run_pretraining.loss_fn_builder(model),
    optimizer,
    work_fn=None,
    devices=devices.Devices(tf.distribute.get_strategy()),
    seed=0,
  )
  inputs = make_inputs(batch_size, seq_length, num_predictions)

  @tf.function(jit_compile=True, autograph=False)
  def make_step(*values):
    features = dict(zip(inputs, values))
    number = features.pop(NUMBER)
    report, _ = step(features, number, tf.constant(1.0), tf.zeros([1]))
    return report.loss

  values = list(inputs.values())
  lower = make_step.experimental_get_compiler_ir(*values)
  with open(find_file(folder, shape, ".stablehlo"), "wb") as writer:
    writer.write(lower(stage="stablehlo_serialized"))
  # The first line says which outputs are the new values of which arguments.
  first_line = lower(stage="hlo").partition("\n")[0]
  by_handle = {id(v.handle): v for v in (*variables, *optimizer.variables)}
  captured = make_step.get_concrete_function(*values).captured_inputs
  state = [by_handle[id(handle)] for handle in captured]
  description = {
    "config": config.to_dict(),
    "flops": cost.training_flops(
      config, batch_size, seq_length, 1 + num_predictions, num_predictions
    ),
    "inputs": {
      name: [value.shape.as_list(), value.dtype.name]
      for name, value in inputs.items()
    },
    "variables": [[v.name.split(":")[0], v.shape.as_list()] for v in state],
    "updates": dict(re.findall(r"\{(\d+)\}: \((\d+)", first_line)),
  }
  with open(find_file(folder, shape, ".json"), "w", encoding="utf-8") as writer:
    json.dump(description, writer)
  print(f"Exported {shape}: {len(state)} variables.", flush=True)


# --- Contestants -------------------------------------------------------------


def compile_step(path: str, device):
  """Returns the step of a file of StableHLO, compiled for a device of JAX."""
  # pylint: disable=g-import-not-at-top
  from jax._src.interpreters import mlir
  from jaxlib import xla_client
  from jaxlib.mlir import ir
  from jaxlib.mlir.dialects import stablehlo

  with open(path, "rb") as reader:
    code = reader.read()
  with mlir.make_ir_context():
    module = stablehlo.deserialize_portable_artifact(ir.Context.current, code)
    text = module.operation.get_asm(print_generic_op_form=True)
    # TensorFlow leaves an operation of its own, which copies a tensor.
    text = text.replace('"mhlo.copy"', '"stablehlo.reshape"')
    code = mlir.module_to_bytecode(ir.Module.parse(text))
  return device.client.compile_and_load(
    code, xla_client.DeviceList((device,)), xla_client.CompileOptions()
  )


def run_ours(settings) -> None:
  """Takes turns with our step, compiled by the XLA inside JAX."""
  # pylint: disable=g-import-not-at-top
  os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
  import jax
  import numpy as np

  jax.config.update("jax_enable_x64", True)  # the number of the step
  folder, shape = settings["folder"], settings["shape"]
  with open(find_file(folder, shape, ".json"), encoding="utf-8") as reader:
    description = json.load(reader)
  device = jax.devices()[0]
  step = compile_step(find_file(folder, shape, ".stablehlo"), device)
  rng = np.random.default_rng(0)
  batch = draw_batch(description["config"], shape, rng)
  inputs = [
    jax.device_put(batch[name].astype(dtype))
    for name, (_, dtype) in description["inputs"].items()
    if name != NUMBER
  ]
  state = [
    jax.device_put(draw_weights(name, variable_shape, rng))
    for name, variable_shape in description["variables"]
  ]
  num_inputs = len(description["inputs"])
  updates = {int(o): int(a) for o, a in description["updates"].items()}
  memory = step.get_compiled_memory_stats()
  num_bytes = memory.temp_size_in_bytes + memory.argument_size_in_bytes
  my_turns = turns.answer_turns(
    {"memory_gib": num_bytes / 2**30, "flops": description["flops"]}
  )
  next(my_turns)
  number = 0
  while True:
    for _ in range(settings["steps"]):
      arguments = [*inputs, jax.device_put(np.int64(number)), *state]
      results = step.execute_sharded(arguments)
      outputs = results.disassemble_into_single_device_arrays()
      for output, argument in updates.items():
        state[argument - num_inputs] = outputs[output][0]
      number += 1
    loss = float(outputs[0][0])
    if not np.isfinite(loss):
      sys.exit(f"The loss of our step for {shape} is {loss}.")
    next(my_turns)


def draw_weights(name, shape, rng):
  """Returns random weights, and zeros for what the optimizer keeps."""
  if "adam_" in name or name.endswith(("bias", "beta")):
    return 0.0 * rng.random(shape, "float32")
  if name.endswith("gamma"):
    return 1.0 + 0.0 * rng.random(shape, "float32")
  return 0.02 * rng.standard_normal(shape, "float32")


def draw_batch(config, shape, rng):
  """Returns random features without padding, by name."""
  _, batch_size, seq_length, num_predictions = parse_shape(shape)
  row, masks = (batch_size, seq_length), (batch_size, num_predictions)
  positions = [
    rng.choice(seq_length, num_predictions, replace=False)
    for _ in range(batch_size)
  ]
  return {
    "input_ids": rng.integers(1000, config["vocab_size"], row),
    "input_mask": rng.integers(1, 2, row),
    "segment_ids": rng.integers(0, 2, row),
    "masked_lm_positions": rng.permuted(positions, axis=1),
    "masked_lm_ids": rng.integers(1000, config["vocab_size"], masks),
    "masked_lm_weights": rng.integers(1, 2, masks),
    "next_sentence_labels": rng.integers(0, 2, (batch_size, 1)),
  }


def run_peer(settings) -> None:
  """Takes turns with PyTorch transformers."""
  # pylint: disable=g-import-not-at-top
  import numpy as np
  import torch
  import transformers

  shape = settings["shape"]
  path = find_file(settings["folder"], shape, ".json")
  with open(path, encoding="utf-8") as reader:
    description = json.load(reader)
  device = "cuda" if torch.cuda.is_available() else "cpu"
  config = transformers.BertConfig(
    **{**description["config"], "hidden_act": "gelu_new"}
  )
  config._attn_implementation = "sdpa"  # pylint: disable=protected-access
  model = transformers.BertForPreTraining(config).to(device)
  model.train()
  optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
  drawn = draw_batch(description["config"], shape, np.random.default_rng(0))
  batch = {
    name: torch.tensor(values, device=device) for name, values in drawn.items()
  }
  positions = batch["masked_lm_positions"][:, :, None]

  @torch.compile
  def compute_loss():
    # Without a mask the fastest kernels of attention can be used.
    outputs = model.bert(
      input_ids=batch["input_ids"], token_type_ids=batch["segment_ids"]
    )
    hidden = outputs.last_hidden_state
    index = positions.expand(-1, -1, hidden.shape[-1])
    masked = torch.gather(hidden, 1, index)
    word_logits, sentence_logits = model.cls(masked, outputs.pooler_output)
    return torch.nn.functional.cross_entropy(
      word_logits.flatten(0, 1).float(), batch["masked_lm_ids"].flatten()
    ) + torch.nn.functional.cross_entropy(
      sentence_logits.float(), batch["next_sentence_labels"].flatten()
    )

  facts = {}
  my_turns = turns.answer_turns(facts)
  next(my_turns)
  while True:
    for _ in range(settings["steps"]):
      optimizer.zero_grad(set_to_none=True)
      with torch.autocast(device, torch.bfloat16):
        loss = compute_loss()
      loss.backward()
      torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
      optimizer.step()
    if not np.isfinite(loss.item()):
      sys.exit(f"The loss of the peer for {shape} is {loss.item()}.")
    if device == "cuda":
      facts["memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
    next(my_turns)


def run_peak(settings) -> None:
  """Takes turns with products of matrices."""
  import torch  # pylint: disable=g-import-not-at-top

  device = "cuda" if torch.cuda.is_available() else "cpu"
  size = settings["size"]
  matrix = torch.randn(size, size, device=device).bfloat16()
  my_turns = turns.answer_turns({})
  next(my_turns)
  while True:
    for _ in range(settings["steps"]):
      product = matrix @ matrix
    product[0, 0].item()  # waits for it
    next(my_turns)


# --- The comparison ----------------------------------------------------------


def compare() -> None:
  """Lets all contestants take turns, and prints and writes the results."""
  base = {"folder": FLAGS.run, "steps": FLAGS.steps}
  starts = [
    (role, {**base, "shape": shape})
    for shape in FLAGS.shapes
    for role in ("ours", "peer")
  ]

  def start(role, settings):
    return turns.Contestant(
      __file__, role, sys.executable, settings, num_warmups=2
    )

  with futures.ThreadPoolExecutor(len(starts)) as pool:
    contestants = list(pool.map(lambda arguments: start(*arguments), starts))
  peak = start("peak", {**base, "size": PEAK_SIZE})
  for _ in range(FLAGS.turns):
    for contestant in (peak, *contestants):
      contestant.take_turn()
  peak_flops = 2.0 * PEAK_SIZE**3 / step_seconds(peak)
  print(f"peak: {peak_flops / 1e12:.0f} TFLOP/s", flush=True)
  rows = []
  for shape, ours, peer in zip(
    FLAGS.shapes, contestants[::2], contestants[1::2]
  ):
    size, batch_size, seq_length, _ = parse_shape(shape)
    our_seconds, peer_seconds = step_seconds(ours), step_seconds(peer)
    share = ours.facts["flops"] / peak_flops
    rows.append(
      {
        "model": size,
        "batch": f"{batch_size} x {seq_length}",
        "ours (ms)": round(1000 * our_seconds, 1),
        "PyTorch (ms)": round(1000 * peer_seconds, 1),
        "times as fast": round(peer_seconds / our_seconds, 2),
        "ours, of the peak": f"{share / our_seconds:.0%}",
        "PyTorch, of the peak": f"{share / peer_seconds:.0%}",
        "ours (GiB)": round(ours.facts["memory_gib"], 1),
        "PyTorch (GiB)": round(peer.facts.get("memory_gib", 0.0), 1),
      }
    )
    print(json.dumps(rows[-1]), flush=True)
  for contestant in (peak, *contestants):
    contestant.leave()
  result_files.write(
    section="Speed",
    title="A pre-training step on a GPU, bfloat16, compiled by XLA",
    rows=rows,
    packages=("jaxlib", "torch", "transformers"),
    note=(
      f"Median of {FLAGS.turns} turns of {FLAGS.steps} steps. The peak is "
      f"{peak_flops / 1e12:.0f} TFLOP/s. Our step was compiled outside of "
      "TensorFlow, from its StableHLO, which `--export` writes."
    ),
  )


def step_seconds(contestant: turns.Contestant) -> float:
  """Returns the median time of a step."""
  return statistics.median(contestant.seconds) / FLAGS.steps


def main(_):
  if FLAGS.role:
    role, settings = json.loads(FLAGS.role)
    {"ours": run_ours, "peer": run_peer, "peak": run_peak}[role](settings)
  elif FLAGS.export:
    os.makedirs(FLAGS.export, exist_ok=True)
    for shape in FLAGS.shapes:
      export_step(FLAGS.export, shape)
  elif FLAGS.run:
    compare()
  else:
    sys.exit("Pass --export=FOLDER, or --run=FOLDER on a machine with a GPU.")


if __name__ == "__main__":
  app.run(main)
