"""Checks that models of transformers survive conversion in both directions.

    python benchmarks/transformers_round_trip.py --output_dir=/tmp/round_trip

For every class of BERT whose head exists here, transformers saves a small
random model; convert_checkpoint.py converts it there and back. Our outputs must
be within 2e-5 of those of transformers, the tensors and the config must come
back as they were, and the folder that comes back must give the same predictions
in `pipeline()` without any other file.

`pip install -e '.[benchmark]'`; --peer_python names another interpreter that
has PyTorch and transformers. Without them, there is nothing to check.
"""

import json
import os
import pathlib
import subprocess
import sys

from absl import app
from absl import flags
import numpy as np
import result_files

FLAGS = flags.FLAGS
flags.DEFINE_string("output_dir", None, "Folder to write to.", required=True)
flags.DEFINE_string("peer_python", sys.executable, "Interpreter for the peer.")
result_files.define_flag()
flags.DEFINE_enum("stage", None, ["save", "load"], "Set by the program itself.")

_ROOT = pathlib.Path(__file__).parent.parent
_TOLERANCE = 2e-5
_NUM_TEXTS = 50
_TEXT = "the a cat dog bird sat ran on mat hill and it was red big"
_WORDS = _TEXT.split()
_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *_WORDS]
_TAGS = ["O", "B-x", "I-x"]
# Class of transformers -> fields of its config, and its pipeline.
_CLASSES = {
  "BertModel": ({}, "feature-extraction"),
  "BertForPreTraining": ({}, None),
  "BertForMaskedLM": ({}, "fill-mask"),
  "BertForQuestionAnswering": ({}, None),
  "BertForSequenceClassification": (
    {"id2label": {0: "bad", 1: "good", 2: "so so"}},
    "text-classification",
  ),
  "BertForTokenClassification": (
    {"id2label": dict(enumerate(_TAGS))},
    "token-classification",
  ),
  "BertForMultipleChoice": ({}, None),
}


def _make_texts() -> list[str]:
  rng = np.random.default_rng(0)
  lengths = rng.integers(1, 12, _NUM_TEXTS)
  return [" ".join(rng.choice(_WORDS, length)) for length in lengths]


def _make_ids(name: str) -> dict[str, np.ndarray]:
  """Returns the inputs of a model."""
  rng = np.random.default_rng(1)
  shape = (3, 2, 9) if name == "BertForMultipleChoice" else (3, 9)
  mask = np.ones(shape, np.int64)
  mask[0, ..., 6:] = 0
  return {
    "input_ids": rng.integers(5, len(_TOKENS), shape),
    "attention_mask": mask,
    "token_type_ids": rng.integers(0, 2, shape),
  }


# --- Transformers, in a process of its own -----------------------------------


def save_models(folder: pathlib.Path) -> None:
  """Saves a random model of each class."""
  import torch  # pylint: disable=g-import-not-at-top
  import transformers  # pylint: disable=g-import-not-at-top

  vocab_file = folder / "vocab.txt"
  vocab_file.write_text("".join(f"{token}\n" for token in _TOKENS))
  for name, (fields, _) in _CLASSES.items():
    torch.manual_seed(len(name))
    config = transformers.BertConfig(
      vocab_size=len(_TOKENS),
      hidden_size=32,
      num_hidden_layers=3,
      num_attention_heads=4,
      intermediate_size=37,
      max_position_embeddings=40,
      initializer_range=0.2,
      **fields,
    )
    model = getattr(transformers, name)(config).eval()
    theirs = folder / name / "theirs"
    model.save_pretrained(theirs)
    _write_tokenizer(transformers, vocab_file, theirs)


def _write_tokenizer(transformers, vocab_file, theirs) -> None:
  tokens = [line.strip() for line in vocab_file.open()]
  vocab = {token: number for number, token in enumerate(tokens)}
  try:  # version 5 takes the vocabulary itself
    tokenizer = transformers.BertTokenizer(vocab=vocab, model_max_length=40)
  except TypeError:
    tokenizer = transformers.BertTokenizer(vocab_file, model_max_length=40)
  tokenizer.save_pretrained(theirs)


def load_models(folder: pathlib.Path) -> None:
  """Loads what came back, and writes its outputs and those before."""
  import torch  # pylint: disable=g-import-not-at-top
  import transformers  # pylint: disable=g-import-not-at-top

  for name, (_, task) in _CLASSES.items():
    models = {
      kind: getattr(transformers, name)
      .from_pretrained(folder / name / kind)
      .eval()
      for kind in ("theirs", "back")
    }
    before, after = (model.state_dict() for model in models.values())
    assert before.keys() == after.keys(), name
    for key, tensor in before.items():
      assert torch.equal(tensor, after[key]), (name, key)
    ids = {key: torch.tensor(value) for key, value in _make_ids(name).items()}
    for kind, model in models.items():
      with torch.no_grad():
        outputs = model(**ids).to_tuple()
      np.savez(
        folder / name / f"{kind}.npz", *[output.numpy() for output in outputs]
      )
    if task:
      _compare_pipelines(transformers, folder / name, task)
    print(f"{name}: the tensors and predictions that came back are the same")


def _compare_pipelines(transformers, folder, task) -> None:
  texts = _make_texts()
  if task == "fill-mask":
    texts = [f"[MASK] {text}" for text in texts]
  predictions = {}
  for kind in ("theirs", "back"):
    pipe = transformers.pipeline(task, model=str(folder / kind))
    predictions[kind] = pipe(texts)
  # json compares lists of numbers and labels alike.
  assert json.dumps(predictions["theirs"], default=float) == (
    json.dumps(predictions["back"], default=float)
  ), folder


# --- This project ------------------------------------------------------------


def convert(source: pathlib.Path, target: pathlib.Path) -> None:
  """Runs convert_checkpoint.py."""
  subprocess.run(
    [
      sys.executable,
      str(_ROOT / "convert_checkpoint.py"),
      f"--input_dir={source}",
      f"--output_dir={target}",
    ],
    check=True,
    capture_output=True,
  )


def compute_outputs(name: str, folder: pathlib.Path) -> list[np.ndarray]:
  """Returns the outputs of our model, in the order of transformers."""
  sys.path.insert(0, str(_ROOT))
  import checkpoint  # pylint: disable=g-import-not-at-top
  import heads  # pylint: disable=g-import-not-at-top
  import modeling  # pylint: disable=g-import-not-at-top

  path = str(folder / "bert_model.ckpt")
  config = modeling.BertConfig.from_json_file(str(folder / "bert_config.json"))
  shapes = checkpoint.open_checkpoint(path).shapes
  for head in heads.find_heads(shapes):
    if head.transformers_class == name:
      break
  else:
    raise AssertionError(f"no head of {name}")
  num_outputs = shapes.get("output_bias", [0])[0]
  model = head.create_model(
    config, num_outputs, add_pooler=head.adds_pooler(shapes)
  )
  checkpoint.restore(checkpoint.variables_by_name(model), path)
  ids = list(_make_ids(name).values())
  if isinstance(model, modeling.BertForPreTraining):
    positions = np.tile(np.arange(9), (3, 1))
    words, sentences = model(*ids, positions)
    words = np.reshape(words, (3, 9, -1))
    outputs = [words, sentences] if name == "BertForPreTraining" else [words]
  elif isinstance(model, modeling.BertModel):
    outputs = list(model(*ids)[:2])
  else:
    result = model(*ids)
    outputs = result if isinstance(result, list) else [result]
  return [np.asarray(output) for output in outputs]


def check_class(name: str, folder: pathlib.Path) -> float:
  """Compares our outputs, and what came back, with those of transformers.

  Returns:
    The largest difference of our outputs.
  """
  theirs = np.load(folder / "theirs.npz")
  ours = compute_outputs(name, folder / "ours")
  differences = [
    float(np.abs(output - theirs[key]).max())
    for output, key in zip(ours, theirs.files, strict=True)
  ]
  assert max(differences) <= _TOLERANCE, (name, differences)
  before, after = (
    json.loads((folder / kind / "config.json").read_text())
    for kind in ("theirs", "back")
  )
  changed = sorted(key for key in before if before[key] != after.get(key))
  assert not changed, (name, changed)
  print(f"{name}: our outputs differ by at most {max(differences):.1e}")
  return max(differences)


def main(_):
  folder = pathlib.Path(FLAGS.output_dir).absolute()
  if FLAGS.stage:
    {"save": save_models, "load": load_models}[FLAGS.stage](folder)
    return
  peer = [FLAGS.peer_python, __file__, f"--output_dir={folder}"]
  found = subprocess.run(
    [FLAGS.peer_python, "-c", "import absl, torch, transformers"],
    capture_output=True,
    check=False,
  )
  if found.returncode:
    print("Skipped: transformers is missing. See --help.")
    return
  folder.mkdir(parents=True, exist_ok=True)
  environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
  subprocess.run([*peer, "--stage=save"], check=True, env=environment)
  for name in _CLASSES:
    convert(folder / name / "theirs", folder / name / "ours")
    convert(folder / name / "ours", folder / name / "back")
  subprocess.run([*peer, "--stage=load"], check=True, env=environment)
  differences = {name: check_class(name, folder / name) for name in _CLASSES}
  result_files.write(
    section="Agreement",
    title="Small random models of transformers",
    rows=[
      {"class": name, "largest difference": f"{difference:.1e}"}
      for name, difference in differences.items()
    ],
    packages=("torch", "transformers"),
    peer_python=FLAGS.peer_python,
    note="Every tensor and every setting came back from a conversion there and "
    "back as it was.",
  )


if __name__ == "__main__":
  app.run(main)
