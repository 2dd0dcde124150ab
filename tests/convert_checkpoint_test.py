"""Tests of convert_checkpoint.py."""

import json
import pathlib

import builders
import numpy as np
import pytest
from safetensors import numpy as safetensors

import checkpoint
import convert_checkpoint
import modeling
from tasks import classifier as classifier_lib


def test_conversion_of_a_transformers_model(run_program, vocab_file, tmp_path):
  config = builders.tiny_config(hidden_act="gelu_erf")
  variables = checkpoint.variables_by_name(modeling.BertModel(config, seed=3))
  source = tmp_path / "source"
  source.mkdir()
  safetensors.save_file(
    builders.to_transformers(variables, ""),
    str(source / "model.safetensors"),
  )
  (source / "config.json").write_text(
    json.dumps({**config.to_dict(), "hidden_act": "gelu", "model_type": "bert"})
  )
  (source / "vocab.txt").write_text(pathlib.Path(vocab_file).read_text())
  run_program(convert_checkpoint, input_dir=source, output_dir=tmp_path / "out")
  assert (
    modeling.BertConfig.from_json_file(
      str(tmp_path / "out" / "bert_config.json")
    )
    == config
  )
  tensors = builders.read_tensors(tmp_path / "out" / "bert_model.ckpt")
  assert set(tensors) == set(variables)
  for name, variable in variables.items():
    np.testing.assert_array_equal(tensors[name], variable)
  # And back, to the very file.
  run_program(
    convert_checkpoint, input_dir=tmp_path / "out", output_dir=tmp_path / "back"
  )
  before, after = (
    safetensors.load_file(str(folder / "model.safetensors"))
    for folder in (source, tmp_path / "back")
  )
  assert before.keys() == after.keys()
  for name in before:
    np.testing.assert_array_equal(before[name], after[name])
  fields = json.loads((tmp_path / "back" / "config.json").read_text())
  assert fields["hidden_act"] == "gelu" and fields["model_type"] == "bert"
  assert fields["architectures"] == ["BertModel"]
  with pytest.raises(
    ValueError,
    match="bert_config.json does not exist.*holds either config.json",
  ):
    run_program(
      convert_checkpoint,
      input_dir=tmp_path / "nowhere",
      output_dir=tmp_path / "out2",
    )


@pytest.mark.parametrize(
  "model, settings, architecture, head",
  [
    (
      modeling.BertForPreTraining,
      None,
      "BertForPreTraining",
      {
        "cls.predictions.bias",
        "cls.predictions.decoder.weight",
        "cls.predictions.transform.LayerNorm.weight",
        "cls.seq_relationship.weight",
      },
    ),
    (
      modeling.BertForQuestionAnswering,
      None,
      "BertForQuestionAnswering",
      {"qa_outputs.weight", "qa_outputs.bias"},
    ),
    (
      lambda config: modeling.BertForSequenceClassification(config, 3),
      ("single_label", ["x", "y", "z"]),
      "BertForSequenceClassification",
      {"classifier.weight", "classifier.bias"},
    ),
    (
      lambda config: modeling.BertForTokenClassification(config, 3),
      ("tagging", ["O", "B-x", "I-x"]),
      "BertForTokenClassification",
      {"classifier.weight", "classifier.bias"},
    ),
    (
      modeling.BertForMultipleChoice,
      ("multiple_choice", []),
      "BertForMultipleChoice",
      {"classifier.weight", "classifier.bias"},
    ),
  ],
)
def test_conversion_of_heads(
  run_program, vocab_file, tmp_path, model, settings, architecture, head
):
  config = builders.tiny_config()
  source = tmp_path / "source"
  variables = checkpoint.variables_by_name(model(config))
  checkpoint.write(
    str(source / "bert_model.ckpt"),
    {
      **variables,
      "global_step": np.int64(3),
      "output_bias/adam_m": np.zeros(3, np.float32),
    },
  )
  (source / "bert_config.json").write_text(config.to_json_string())
  (source / "vocab.txt").write_text(pathlib.Path(vocab_file).read_text())
  if settings:
    classifier_lib.Classifier(
      settings[0], tuple(settings[1]), True, 8, "truncate"
    ).write(str(source))
  theirs, back = tmp_path / "theirs", tmp_path / "back"
  run_program(convert_checkpoint, input_dir=source, output_dir=theirs)
  fields = json.loads((theirs / "config.json").read_text())
  assert fields["architectures"] == [architecture]
  assert fields["hidden_act"] == "gelu_new"
  names = set(safetensors.load_file(str(theirs / "model.safetensors")))
  assert head <= names
  assert all(
    name.startswith(("bert.", "cls.", "classifier.", "qa_outputs."))
    for name in names
  )
  run_program(convert_checkpoint, input_dir=theirs, output_dir=back)
  tensors = builders.read_tensors(back / "bert_model.ckpt")
  assert set(tensors) == set(variables)
  for name, variable in variables.items():
    np.testing.assert_array_equal(tensors[name], variable)
