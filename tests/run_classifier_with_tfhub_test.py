"""Tests of run_classifier_with_tfhub.py."""

import json
import shutil

import builders
import numpy as np
import pytest

import checkpoint
import common_flags
from errors import UserError
import run_classifier_with_tfhub
from serving import hub_encoder


@pytest.fixture
def classify_with_hub(classify, run_program, tmp_path):
  def run(handle, output="hub", **flags):
    run_program(
      run_classifier_with_tfhub,
      **{
        **dict(
          task_name="Custom",
          data_dir=classify.data_dir,
          bert_hub_module_handle=handle,
          output_dir=tmp_path / output,
          max_seq_length=16,
          train_batch_size=4,
          num_train_epochs=3,
          learning_rate=0.001,
        ),
        **flags,
      },
    )
    return tmp_path / output

  return run


@pytest.fixture(params=["tensorflow_1", "tensorflow_2"])
def hub_folder(request, vocab_file, tmp_path):
  if request.param == "tensorflow_2":
    return str(request.getfixturevalue("exported_encoder"))
  return builders.write_tensorflow_1_module(
    str(tmp_path / "encoder"), vocab_file
  )


def test_encoders_from_the_hub_are_trained(classify_with_hub, hub_folder):
  run = classify_with_hub(
    hub_folder, do_train=True, do_eval=True, do_predict=True
  )
  assert builders.read_results(run)["global_step"] == 27
  builders.assert_has_report(run, "dev", "test")
  before = (run / "test_results.tsv").read_bytes()
  trained = checkpoint.open_checkpoint(str(run))
  assert {"output_weights", "output_bias"} <= set(trained.shapes)
  for variable in hub_encoder.load_encoder(hub_folder, "").encoder_variables:
    name = variable.name.removesuffix(":0")
    assert np.any(trained.get_tensor(name) != variable.numpy()), name
  # A later run with the same encoder restores the trained weights.
  classify_with_hub(hub_folder, do_predict=True)
  assert (run / "test_results.tsv").read_bytes() == before


@pytest.mark.parametrize(
  "flags, message",
  [
    (dict(layerwise_lr_decay=0.9), "needs a model whose layers are known"),
    (dict(dropout=0.0), "needs a model whose layers are known"),
    (dict(vocab_file="x.txt"), "the encoder has a vocabulary"),
    (dict(do_lower_case=False), "the encoder says True. Leave the flag out"),
    (dict(bert_hub_module_handle="/nowhere"), "there is no such folder"),
  ],
)
def test_classifying_with_the_hub_refuses(
  classify_with_hub, vocab_file, tmp_path, flags, message
):
  folder = builders.write_tensorflow_1_module(
    str(tmp_path / "encoder"), vocab_file
  )
  with pytest.raises(ValueError, match=message):
    classify_with_hub(folder, do_train=True, **flags)


class TokenizerWasCreated(BaseException):
  """Ends the program; its argument are the settings of the tokenizer."""


def test_an_encoder_keeps_the_settings_of_its_tokenizer(
  classify_with_hub, exported_encoder, monkeypatch, tmp_path
):
  def create(files, settings):
    raise TokenizerWasCreated(settings)

  monkeypatch.setattr(common_flags, "create_tokenizer", create)
  folder = tmp_path / "encoder"
  shutil.copytree(exported_encoder, folder)
  path = folder / "assets" / "tokenizer_config.json"
  assert json.loads(path.read_text()) == {"do_lower_case": True}
  path.write_text('{"do_lower_case": true, "strip_accents": false}')
  for flags, strip_accents in (({}, False), ({"strip_accents": True}, True)):
    with pytest.raises(TokenizerWasCreated) as reached:
      classify_with_hub(folder, do_train=True, **flags)
    settings = reached.value.args[0]
    assert settings.do_lower_case
    assert settings.strips_accents == strip_accents


def test_flags_of_the_original_code_without_effect(classify_with_hub, caplog):
  unused = dict(bert_config_file="x.json", init_checkpoint="y.ckpt")
  with pytest.raises(UserError, match="there is no such folder"):
    classify_with_hub("/nowhere", do_train=True, **unused)
  for name, value in unused.items():
    assert f"--{name}={value} has no effect" in caplog.text


def test_an_encoder_without_vocabulary_needs_one(
  classify_with_hub, vocab_file, tmp_path
):
  folder = builders.write_tensorflow_1_module(
    str(tmp_path / "encoder"), vocab_file, with_vocabulary=False
  )
  with pytest.raises(ValueError, match="comes without a vocabulary"):
    classify_with_hub(folder, do_train=True)
  run = classify_with_hub(
    folder,
    do_train=True,
    do_eval=True,
    num_train_epochs=1,
    vocab_file=vocab_file,
  )
  assert builders.read_results(run)["global_step"] == 9
