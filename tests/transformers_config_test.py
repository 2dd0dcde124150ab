"""Tests of transformers_config.py."""

import json

import builders
import pytest

from data import transformers_config
from errors import UserError
import modeling


@pytest.fixture
def read(tmp_path):
  """Function that reads a config with some fields."""

  def run(name="config.json", **fields):
    path = tmp_path / name
    whole = {**builders.tiny_config().to_dict(), "model_type": "bert"}
    path.write_text(json.dumps({**whole, **fields}))
    return modeling.BertConfig.from_json_file(str(path))

  return run


def test_activations_are_translated_wherever_the_config_is_theirs(
  read, tmp_path
):
  for theirs, ours in [
    ("gelu", "gelu_erf"),
    ("gelu_new", "gelu"),
    ("relu", "relu"),
  ]:
    assert read(hidden_act=theirs).hidden_act == ours
    assert read("bert_config.json", hidden_act=theirs).hidden_act == ours
  # Ours does not name the type of the model.
  (tmp_path / "bert_config.json").write_text(
    builders.tiny_config().to_json_string()
  )
  ours = modeling.BertConfig.from_json_file(str(tmp_path / "bert_config.json"))
  assert ours.hidden_act == "gelu"


def test_layer_norm_eps_is_kept(read):
  assert read(layer_norm_eps=1e-5).layer_norm_eps == 1e-5


@pytest.mark.parametrize(
  "field, value",
  [
    ("model_type", "roberta"),
    ("position_embedding_type", ["relative_key"]),
    ("is_decoder", True),
    ("add_cross_attention", True),
    ("tie_word_embeddings", False),
    ("pruned_heads", {"0": [1]}),
  ],
)
def test_other_models_are_refused(read, field, value):
  with pytest.raises(UserError, match=f"config.json: {field}=.*is not"):
    read(**{field: value})


def test_configs_with_missing_and_bad_fields(tmp_path):
  path = tmp_path / "config.json"

  def parse(text):
    path.write_text(text)
    return modeling.BertConfig.from_json_file(str(path))

  config = parse('{"vocab_size": 99}')
  assert (config.hidden_act, config.type_vocab_size) == ("gelu_erf", 2)
  for text, message in [
    ("{", "not JSON"),
    ("[1]", "not an object"),
    ("{}", "vocab_size is missing"),
    ('{"vocab_size": 99, "hidden_act": ["gelu"]}', "hidden_act=.*one of"),
    ('{"vocab_size": 99, "hidden_size": null}', "hidden_size=None must be"),
  ]:
    with pytest.raises(UserError, match=f"config.json.*{message}"):
      parse(text)


def test_a_config_keeps_what_it_came_with():
  original = {
    "model_type": "bert",
    "architectures": ["BertModel"],
    "vocab_size": 44,
    "hidden_act": "gelu_pytorch_tanh",
    "classifier_dropout": 0.3,
    "torch_dtype": "float16",
  }
  ours = modeling.BertConfig.from_dict(
    transformers_config.translate_config(original, "config.json")
  )
  back = transformers_config.to_their_config(ours.to_dict(), original)
  assert {**back, **original} == {**back, "torch_dtype": "float16"}
  assert back["torch_dtype"] == "float32"
  assert back["type_vocab_size"] == 2 and back["layer_norm_eps"] == 1e-12
  other = transformers_config.to_their_config(
    {**ours.to_dict(), "hidden_act": "gelu_erf"}, original
  )
  assert other["hidden_act"] == "gelu"


@pytest.mark.parametrize(
  "labels, message",
  [
    ({"0": "x", "2": "y"}, "has the ids 0, 2, not those from 0 to 1"),
    ({"0": "x", "1": "x"}, "the label 'x' to the ids 0 and 1"),
    (["x"], "no object"),
  ],
)
def test_labels_have_to_be_those_of_all_ids(labels, message):
  with pytest.raises(UserError, match=message):
    transformers_config.read_head_fields({"id2label": labels}, "config.json")
