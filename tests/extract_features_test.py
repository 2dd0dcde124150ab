"""Tests of extract_features.py."""

import json
import os

import builders
import numpy as np
from pyarrow import parquet
import pytest

import checkpoint
from data import feature_files
from errors import UserError
import extract_features
import heads
import modeling
import tokenization


def test_features_in_the_published_format(
  run_program, config_file, vocab_file, init_checkpoint, tmp_path
):
  lines = ["the cat sat ||| a dog ran", "bird", "", "the quick dog " * 9]
  (tmp_path / "in.txt").write_text("\n".join(lines) + "\n")

  def run(**flags):
    run_program(
      extract_features,
      **{
        **dict(
          input_file=tmp_path / "in.txt",
          output_file=tmp_path / "out.jsonl",
          vocab_file=vocab_file,
          bert_config_file=config_file,
          max_seq_length=16,
          init_checkpoint=init_checkpoint,
          layers="-1,0",
          batch_size=3,
        ),
        **flags,
      },
    )
    return [
      json.loads(line)
      for line in (tmp_path / "out.jsonl").read_text().splitlines()
    ]

  features = run()
  assert [item["linex_index"] for item in features] == [0, 1, 2, 3]
  assert [feature["token"] for feature in features[0]["features"]] == (
    ["[CLS]", "the", "cat", "sat", "[SEP]", "a", "dog", "ran", "[SEP]"]
  )
  assert [len(item["features"]) for item in features] == [9, 3, 2, 16]
  first = features[0]["features"][0]
  assert [layer["index"] for layer in first["layers"]] == [-1, 0]
  assert len(first["layers"][0]["values"]) == 32
  # The features of a line do not depend on the other lines of its batch.
  alone = run(batch_size=1)
  np.testing.assert_allclose(
    [layer["values"] for layer in alone[1]["features"][1]["layers"]],
    [layer["values"] for layer in features[1]["features"][1]["layers"]],
    atol=1e-5,
  )
  with pytest.raises(ValueError, match="--layers has '7'.*from -2 to 1"):
    run(layers="-1,7")


@pytest.fixture
def extract(run_program, config_file, vocab_file, init_checkpoint, tmp_path):
  lines = [
    "the cat sat ||| a dog ran",
    "bird",
    "",
    "the quick dog " * 9,
    "a lazy dog",
    "it was good",
    "un affable",
  ]
  (tmp_path / "in.txt").write_text("\n".join(lines) + "\n")

  def run(output="out", **flags):
    run_program(
      extract_features,
      **{
        **dict(
          input_file=tmp_path / "in.txt",
          output_file=tmp_path / output,
          vocab_file=vocab_file,
          bert_config_file=config_file,
          max_seq_length=16,
          init_checkpoint=init_checkpoint,
          batch_size=2,
          **({} if "pooling" in flags else {"layers": "-1,0"}),
        ),
        **flags,
      },
    )
    return tmp_path / output

  return run


def token_values(path):
  """Returns the values of the published format, [tokens, layers, size]."""
  return [
    np.array(
      [
        [layer["values"] for layer in token["layers"]]
        for token in json.loads(line)["features"]
      ]
    )
    for line in path.read_text().splitlines()
  ]


COMBINED = {
  "separate": lambda x: x,
  "sum": lambda x: x.sum(axis=-2),
  "concat": lambda x: x.reshape(*x.shape[:-2], -1),
}


POOLED = {
  "none": lambda x: x,
  "cls": lambda x: x[0],
  "mean": lambda x: x.mean(axis=0),
  "max": lambda x: x.max(axis=0),
}


@pytest.mark.parametrize(
  "pooling, combine",
  [
    ("none", "separate"),
    ("none", "concat"),
    ("mean", "sum"),
    ("max", "sum"),
    ("cls", "separate"),
  ],
)
def test_features_are_pooled_and_combined(
  extract, monkeypatch, pooling, combine
):
  monkeypatch.setattr(extract_features, "_LINES_PER_PART", 3)  # several parts
  expected = [
    POOLED[pooling](COMBINED[combine](x))
    for x in token_values(extract("tokens", layers="-1,0"))
  ]
  flags = dict(pooling=pooling, combine_layers=combine, layers="-1,0")
  arrays = np.load(extract("a.npz", format="npz", **flags))
  if pooling == "none":
    offsets = arrays["offsets"]
    assert arrays["tokens"][offsets[1] : offsets[2]].tolist() == [
      "[CLS]",
      "bird",
      "[SEP]",
    ]
    rows = [
      arrays["values"][slice(*span)] for span in zip(offsets, offsets[1:])
    ]
  else:
    rows = list(arrays["values"])
  for row, wanted in zip(rows, expected, strict=True):
    np.testing.assert_allclose(row, wanted, atol=2e-6)
  records = builders.read_records(
    extract("a.tfrecord", format="tfrecord", **flags)
  )
  table = parquet.read_table(extract("a.parquet", format="parquet", **flags))
  for number, wanted in enumerate(expected):
    features = records[number].features.feature
    assert features["line"].int64_list.value == [number]
    for values, shape in [
      (features["values"].float_list.value, features["shape"].int64_list.value),
      (table["values"][number].as_py(), table["shape"][number].as_py()),
    ]:
      np.testing.assert_allclose(np.reshape(values, shape), wanted, atol=2e-6)
  lines = list(
    map(json.loads, extract("a.json", **flags).read_text().splitlines())
  )
  assert [line["linex_index"] for line in lines] == list(range(7))
  first = lines[1]
  while "features" in first or "layers" in first:
    first = (first.get("features") or first["layers"])[-1]
  np.testing.assert_allclose(
    first["values"],
    np.reshape(expected[1], -1)[-len(first["values"]) :],
    atol=2e-6,
  )


def test_the_pooled_output_is_written(extract, init_checkpoint, vocab_file):
  model = modeling.BertModel(builders.tiny_config())
  checkpoint.restore(checkpoint.variables_by_name(model), init_checkpoint)
  ids = tokenization.FullTokenizer(vocab_file).convert_tokens_to_ids(
    ["[CLS]", "bird", "[SEP]"]
  )
  arrays = np.load(extract(format="npz", pooling="pooled"))
  np.testing.assert_allclose(
    arrays["values"][1], model([ids]).pooled_output[0], atol=1e-6
  )


def test_weights_without_a_pooler_have_features(
  extract, init_checkpoint, tmp_path
):
  expected = extract(layers="-1").read_text()
  tensors = builders.read_tensors(init_checkpoint)
  names = heads.remove_pooler(tensors)
  other = tmp_path / "other" / "weights"
  checkpoint.write(str(other), {name: tensors[name] for name in names})
  found = extract("out2", layers="-1", init_checkpoint=other.parent)
  assert found.read_text() == expected
  with pytest.raises(ValueError, match="--pooling=pooled needs bert/pooler"):
    extract("out3", init_checkpoint=other, pooling="pooled")


def test_interrupted_extraction_resumes(extract, monkeypatch, tmp_path):
  monkeypatch.setattr(extract_features, "_LINES_PER_PART", 2)
  whole = extract("whole").read_bytes()
  compute = extract_features.compute_values
  calls = []

  def interrupted(*args):
    calls.append(args)
    if len(calls) == 3:
      raise KeyboardInterrupt
    return compute(*args)

  monkeypatch.setattr(extract_features, "compute_values", interrupted)
  with pytest.raises(KeyboardInterrupt):
    extract()
  assert not (tmp_path / "out").exists()
  with pytest.raises(ValueError, match="other settings: max_seq_length"):
    extract(max_seq_length=12)
  assert extract().read_bytes() == whole
  assert len(calls) == 3 + 2
  assert not (tmp_path / "out.parts").exists()


@pytest.mark.parametrize(
  "flags, message",
  [
    (dict(pooling="pooled", layers="-1"), "--layers=.*does nothing with"),
    (dict(layers="-1,x"), "--layers has 'x'"),
    (dict(input_file="/nowhere/*"), "matches no file"),
  ],
)
def test_extraction_refuses(extract, tmp_path, flags, message):
  with pytest.raises(ValueError, match=message):
    extract(**flags)
  assert not list(tmp_path.glob("out*"))


def test_features_of_the_reference(large_golden_dir, run_program, tmp_path):
  model_dir = os.path.join(large_golden_dir, "uncased_L-2_H-32_A-2")
  run_program(
    extract_features,
    layers="-1,-2",
    max_seq_length=24,
    input_file=os.path.join(model_dir, "extract_features_input.txt"),
    output_file=tmp_path / "out.jsonl",
    vocab_file=os.path.join(model_dir, "vocab.txt"),
    bert_config_file=os.path.join(model_dir, "bert_config.json"),
    init_checkpoint=os.path.join(model_dir, "bert_model.ckpt"),
  )
  with open(os.path.join(model_dir, "extract_features_output.jsonl")) as reader:
    expected = [json.loads(line) for line in reader]
  actual = [
    json.loads(line)
    for line in (tmp_path / "out.jsonl").read_text().splitlines()
  ]
  assert len(actual) == len(expected)
  for ours, theirs in zip(actual, expected):
    assert ours["linex_index"] == theirs["linex_index"]
    assert [f["token"] for f in ours["features"]] == [
      f["token"] for f in theirs["features"]
    ]
    for feature, other in zip(ours["features"], theirs["features"]):
      for layer, golden in zip(feature["layers"], other["layers"], strict=True):
        assert layer["index"] == golden["index"]
        np.testing.assert_allclose(layer["values"], golden["values"], atol=1e-4)


@pytest.mark.parametrize(
  "name, flag",
  [
    ("in.txt", "input_file"),
    ("vocab.txt", "vocab_file"),
    ("bert_config.json", "bert_config_file"),
    ("bert_model.ckpt.data-00000-of-00001", "init_checkpoint"),
  ],
)
def test_features_do_not_overwrite_their_inputs(extract, tmp_path, name, flag):
  os.symlink(tmp_path / name, tmp_path / "out")
  before = builders.read_folder(tmp_path)
  with pytest.raises(UserError, match=f"that --{flag} reads"):
    extract()
  assert builders.read_folder(tmp_path) == before


def test_features_of_two_models_are_not_mixed(extract, tmp_path, monkeypatch):
  # Three models, one after another, have files of the same names.
  monkeypatch.setattr(
    extract_features,
    "compute_values",
    lambda _, sequences: [
      np.zeros([len(sequence.input_ids), 1, 32]) for sequence in sequences
    ],
  )
  with monkeypatch.context() as context:
    context.setattr(feature_files.PartedFile, "finish", lambda *unused: None)
    extract()
  checkpoint.write(
    str(tmp_path / "bert_model.ckpt"),
    checkpoint.variables_by_name(
      modeling.BertForPreTraining(builders.tiny_config())
    ),
  )
  with pytest.raises(UserError, match="other settings: weights_hash"):
    extract()
  vocab = tmp_path / "vocab.txt"
  vocab.write_text(vocab.read_text().replace("cat\ndog", "dog\ncat"))
  with pytest.raises(
    UserError, match="other settings: vocab_hash, weights_hash"
  ):
    extract()


def test_a_second_process_is_refused(extract, tmp_path):
  builders.assert_refused_by_lock(extract, tmp_path, "out.lock")
