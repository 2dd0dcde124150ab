"""Tests of convert_checkpoint.py."""

import errno
import json
import os
import pathlib

import builders
import numpy as np
import pytest
import safetensors.numpy

import checkpoint
import convert_checkpoint
from data import tokenizer_settings
from data import transformers_config
from errors import UserError
import modeling
from tasks import classifier_config


def test_conversion_of_a_transformers_model(run_program, vocab_file, tmp_path):
  config = builders.tiny_config(hidden_act="gelu_erf")
  variables = checkpoint.variables_by_name(modeling.BertModel(config, seed=3))
  source = tmp_path / "source"
  source.mkdir()
  safetensors.numpy.save_file(
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
  # Converting back gives the same tensors.
  run_program(
    convert_checkpoint, input_dir=tmp_path / "out", output_dir=tmp_path / "back"
  )
  before, after = (
    safetensors.numpy.load_file(str(folder / "model.safetensors"))
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
    classifier_config.ClassifierConfig(
      settings[0],
      tuple(settings[1]),
      tokenizer_settings.TokenizerSettings(),
      8,
      "truncate",
    ).write(str(source))
  theirs, back = tmp_path / "theirs", tmp_path / "back"
  run_program(convert_checkpoint, input_dir=source, output_dir=theirs)
  fields = json.loads((theirs / "config.json").read_text())
  assert fields["architectures"] == [architecture]
  assert fields["hidden_act"] == "gelu_new"
  names = set(safetensors.numpy.load_file(str(theirs / "model.safetensors")))
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


def test_a_model_of_transformers_comes_back_as_it_was(
  run_program, vocab_file, tmp_path
):
  config = builders.tiny_config(hidden_act="gelu_erf", layer_norm_eps=1e-5)
  model = modeling.BertForTokenClassification(config, 3, add_pooler=False)
  source, ours, back = (tmp_path / name for name in ("theirs", "ours", "back"))
  source.mkdir()
  variables = checkpoint.variables_by_name(model)
  tensors = builders.to_transformers(variables, "bert.")
  for name in ("weight", "bias"):
    tensors[f"classifier.{name}"] = tensors.pop(name)
  safetensors.numpy.save_file(tensors, str(source / "model.safetensors"))
  labels = ["O", "B-x", "I-x"]
  fields = {
    **config.to_dict(),
    "hidden_act": "gelu",
    "model_type": "bert",
    "architectures": ["BertForTokenClassification"],
    "id2label": {str(i): label for i, label in enumerate(labels)},
    "label2id": {label: i for i, label in enumerate(labels)},
    "classifier_dropout": 0.3,
  }
  (source / "config.json").write_text(json.dumps(fields))
  (source / "vocab.txt").write_text(pathlib.Path(vocab_file).read_text())
  run_program(convert_checkpoint, input_dir=source, output_dir=ours)
  classifier = classifier_config.ClassifierConfig.read(str(ours))
  assert classifier.problem_type == "tagging"
  assert list(classifier.labels) == labels
  assert set(builders.read_tensors(ours / "bert_model.ckpt")) == set(variables)
  run_program(convert_checkpoint, input_dir=ours, output_dir=back)
  assert json.loads((back / "config.json").read_text()) == fields
  after = safetensors.numpy.load_file(str(back / "model.safetensors"))
  builders.assert_same_values(after, tensors)
  # Nothing is left to the defaults of transformers.
  assert json.loads((back / "tokenizer_config.json").read_text()) == {
    "do_lower_case": True,
    "model_max_length": 40,
    "tokenizer_class": "BertTokenizer",
  }
  # A config that tells of other labels than the weights have.
  wrong = {"0": "O", "1": "B-x"}
  (source / "config.json").write_text(json.dumps({**fields, "id2label": wrong}))
  with pytest.raises(UserError, match="3 outputs, but its .* head of 2[.]"):
    run_program(convert_checkpoint, input_dir=source, output_dir=ours)
  (source / "config.json").write_text(json.dumps(fields))
  # Files of another model do not stay.
  encoder = checkpoint.variables_by_name(modeling.BertModel(config))
  safetensors.numpy.save_file(
    builders.to_transformers(encoder, ""), str(source / "model.safetensors")
  )
  run_program(convert_checkpoint, input_dir=source, output_dir=ours)
  assert not (ours / "classifier.json").exists()
  # The config that came with it names a head that it does not have.
  run_program(convert_checkpoint, input_dir=ours, output_dir=back)
  described = json.loads((back / "config.json").read_text())
  assert described["architectures"] == ["BertModel"]


@pytest.mark.parametrize(
  "fields, has_pooler, expected",
  [
    (("BertForSequenceClassification", None, ()), True, "single_label"),
    (
      ("BertForSequenceClassification", "multi_label_classification", ()),
      True,
      "multi_label",
    ),
    (("BertForTokenClassification", None, ()), False, "tagging"),
    (("BertForMultipleChoice", None, ()), True, "multiple_choice"),
    ((None, None, ()), True, "single_label"),
    ((None, None, ()), False, "tagging"),
  ],
)
def test_the_class_decides_the_head(fields, has_pooler, expected):
  head_fields = transformers_config.HeadFields(*fields)
  head = convert_checkpoint._find_classifier(head_fields, 3, has_pooler)
  assert head.name == expected


@pytest.fixture
def convert(run_program):
  def run(source, target):
    run_program(convert_checkpoint, input_dir=source, output_dir=target)

  return run


@pytest.fixture
def released(config_file, vocab_file, tmp_path):
  """Folder of an encoder in the released format."""
  del config_file, vocab_file
  folder = tmp_path / "released"
  folder.mkdir()
  for name in ("bert_config.json", "vocab.txt"):
    os.rename(tmp_path / name, folder / name)
  checkpoint.write(
    str(folder / "bert_model.ckpt"),
    checkpoint.variables_by_name(
      modeling.BertModel(builders.tiny_config(), seed=5)
    ),
  )
  return folder


def test_the_settings_of_the_tokenizer_are_kept(convert, released, tmp_path):
  theirs, ours = tmp_path / "theirs", tmp_path / "ours"
  # Where settings are not known, casing follows the vocabulary.
  convert(released, tmp_path / "unknown")
  text = (tmp_path / "unknown" / "tokenizer_config.json").read_text()
  assert json.loads(text)["do_lower_case"] is True
  fields = {"do_lower_case": True, "strip_accents": False, "mask_token": "red"}
  path = released / "tokenizer_config.json"
  path.write_text(json.dumps({**fields, "model_max_length": 512}))
  convert(released, theirs)
  convert(theirs, ours)
  for folder in (theirs, ours):
    text = (folder / "tokenizer_config.json").read_text()
    assert fields.items() <= json.loads(text).items()


def test_a_killed_conversion_ends_with_the_same_files(
  convert, released, tmp_path
):
  theirs, ours = tmp_path / "theirs", tmp_path / "ours"
  convert(released, theirs)
  convert(theirs, ours)
  for source, whole, last in (
    (released, theirs, "config.json"),
    (theirs, ours, "bert_config.json"),
  ):

    def run(folder):
      convert(source, folder)
      assert folder.joinpath(last).exists()

    builders.check_deaths(
      run,
      tmp_path / f"to_{whole.name}",
      builders.read_folder(whole),
      range(0, 1000, 5),
    )


@pytest.mark.parametrize(
  "error",
  [
    OSError(errno.ENOSPC, "No space left on device"),
    safetensors.SafetensorError("No space left on device (os error 28)"),
  ],
)
def test_a_conversion_to_a_full_disk_changes_nothing(
  convert, released, monkeypatch, tmp_path, error
):
  theirs = tmp_path / "theirs"
  convert(released, theirs)
  before = builders.read_folder(theirs)

  def full(*unused_args):
    raise error

  with monkeypatch.context() as context:
    context.setattr(checkpoint, "write_transformers", full)
    with pytest.raises(UserError, match="cannot be written: No space"):
      convert(released, theirs)
  assert builders.read_folder(theirs) == before


def test_a_conversion_does_not_replace_its_input(convert, released, tmp_path):
  before = builders.read_folder(tmp_path)
  os.symlink(released, tmp_path / "link")
  for target in (released, tmp_path / "link"):
    with pytest.raises(UserError, match="that --input_dir reads"):
      convert(released, target)
  (tmp_path / "target").mkdir()
  os.symlink(released / "vocab.txt", tmp_path / "target" / "vocab.txt")
  with pytest.raises(UserError, match="target/vocab.txt.*--input_dir reads"):
    convert(released, tmp_path / "target")
  os.remove(tmp_path / "target" / "vocab.txt")
  assert builders.read_folder(tmp_path) == before
