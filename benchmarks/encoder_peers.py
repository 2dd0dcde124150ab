"""Encoders of other libraries, for the benchmarks of features.

`load_encoder` returns a function that turns batches of tokens into the mean of
the last layer over the tokens of each line, which is what
`extract_features.py --pooling=mean` computes.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
import importlib
import json
import os
import shutil
import subprocess
import sys

import numpy as np

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# Name of a peer -> packages that it needs.
PACKAGES: Mapping[str, tuple[str, ...]] = {
  "transformers": ("torch", "transformers"),
  "transformers, weights cast once": ("torch", "transformers"),
  "zentorch": ("torch", "transformers", "zentorch"),
  "OpenVINO": ("torch", "transformers", "openvino"),
  "CTranslate2": ("torch", "transformers", "ctranslate2"),
}

# Ids and mask of a batch, NumPy int64 [n, s] each -> float32 [n, hidden_size].
Batches = Iterable[tuple[np.ndarray, np.ndarray]]
Encoder = Callable[[Batches], Iterator[np.ndarray]]


def find_peers(python: str) -> list[str]:
  """Returns the peers that an interpreter has, and prints what others lack."""
  names = sorted({name for some in PACKAGES.values() for name in some})
  script = (
    "import importlib.util, sys\n"
    "print(*[n for n in sys.argv[1:] if importlib.util.find_spec(n)])\n"
  )
  answer = subprocess.run(
    [python, "-c", script, *names], check=True, capture_output=True, text=True
  )
  found = []
  for peer, packages in PACKAGES.items():
    missing = set(packages) - set(answer.stdout.split())
    if missing:
      print(f"  {peer} does not take part: it needs {', '.join(missing)}.")
    else:
      found.append(peer)
  return found


def convert_model(model: str, folder: str) -> str:
  """Converts a released-style model for the peers; returns its new folder."""
  converted = os.path.join(folder, "transformers")
  command = [sys.executable, "convert_checkpoint.py"]
  command += [f"--input_dir={os.path.abspath(model)}"]
  command += [f"--output_dir={converted}"]
  subprocess.run(command, cwd=_ROOT, check=True, capture_output=True)
  # CTranslate2 asks for a field that newer versions of transformers leave out.
  config_file = os.path.join(converted, "config.json")
  with open(config_file, encoding="utf-8") as reader:
    config = json.load(reader)
  with open(config_file, "w", encoding="utf-8") as writer:
    json.dump({"position_embedding_type": "absolute", **config}, writer)
  return converted


def load_encoder(peer: str, precision: str, model_dir: str) -> Encoder:
  """Returns the encoder of a peer.

  Args:
    peer: One of `PACKAGES`.
    precision: Type of the activations; `int8` for CTranslate2.
    model_dir: Folder of a model of transformers.
  """
  if peer == "OpenVINO":
    return _load_openvino(precision, model_dir)
  if peer == "CTranslate2":
    return _load_ctranslate2(precision, model_dir)
  return _load_pytorch(peer, precision, model_dir)


def _load_model(model_dir: str):
  import transformers  # pylint: disable=g-import-not-at-top

  model = transformers.BertModel.from_pretrained(
    model_dir, add_pooling_layer=False
  )
  return model.eval()


def _mean(hidden, mask):
  """Returns the mean of float Tensors [n, s, h] over the tokens: [n, h]."""
  weights = mask[..., None].float()
  return (hidden.float() * weights).sum(1) / weights.sum(1)


def _load_pytorch(peer: str, precision: str, model_dir: str) -> Encoder:
  import torch  # pylint: disable=g-import-not-at-top

  model = _load_model(model_dir)
  dtype = getattr(torch, precision)
  is_cast_once = peer != "transformers"
  if is_cast_once:
    model = model.to(dtype)
  if peer == "zentorch":
    importlib.import_module("zentorch")  # which registers itself
    # Graphs for each length would take minutes to compile.
    model = torch.compile(model, backend="zentorch", dynamic=True)

  autocast = torch.autocast(
    "cpu", dtype, enabled=not is_cast_once and dtype != torch.float32
  )

  def encode(batches):
    # zentorch does not compile under `inference_mode`.
    with torch.no_grad(), autocast:
      for ids, mask in batches:
        ids, mask = torch.from_numpy(ids), torch.from_numpy(mask)
        output = model(input_ids=ids, attention_mask=mask)
        yield _mean(output.last_hidden_state, mask).numpy()

  return encode


def _load_openvino(precision: str, model_dir: str) -> Encoder:
  # pylint: disable=g-import-not-at-top
  import openvino
  import torch

  class MeanEncoder(torch.nn.Module):
    """The model and the mean, as one graph."""

    def __init__(self):
      super().__init__()
      self.model = _load_model(model_dir)

    def forward(self, input_ids, attention_mask):
      output = self.model(input_ids=input_ids, attention_mask=attention_mask)
      return _mean(output.last_hidden_state, attention_mask)

  example = torch.ones([2, 8], dtype=torch.int64)
  graph = openvino.convert_model(
    MeanEncoder(),
    example_input={"input_ids": example, "attention_mask": example},
  )
  compiled = openvino.Core().compile_model(
    graph,
    "CPU",
    {
      "INFERENCE_PRECISION_HINT": "bf16" if precision == "bfloat16" else "f32",
      "PERFORMANCE_HINT": "THROUGHPUT",
    },
  )

  def encode(batches):
    vectors = {}
    queue = openvino.AsyncInferQueue(compiled)

    def keep(request, number):
      vectors[number] = request.get_output_tensor(0).data.copy()

    queue.set_callback(keep)
    for number, batch in enumerate(batches):
      queue.start_async(batch, number)
    queue.wait_all()
    for number in range(len(vectors)):
      yield vectors[number]

  return encode


def _load_ctranslate2(precision: str, model_dir: str) -> Encoder:
  import ctranslate2  # pylint: disable=g-import-not-at-top

  converted = os.path.join(model_dir, f"ctranslate2_{precision}")
  shutil.rmtree(converted, ignore_errors=True)
  converter = ctranslate2.converters.TransformersConverter(model_dir)
  converter.convert(converted, quantization=precision)
  model = ctranslate2.Encoder(
    converted,
    device="cpu",
    compute_type=precision,
    intra_threads=len(os.sched_getaffinity(0)),
  )

  def encode(batches):
    for ids, mask in batches:
      lengths = mask.sum(1)
      lists = [row[:n].tolist() for row, n in zip(ids, lengths)]
      output = model.forward_batch(lists)
      hidden = np.asarray(output.last_hidden_state)
      weights = mask[..., None].astype(np.float32)
      yield (hidden * weights).sum(1) / weights.sum(1)

  return encode
