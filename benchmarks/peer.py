"""What benchmarks beside PyTorch transformers share."""

import json

# Our names of activations to theirs, whose `gelu` is the exact form.
_ACTIVATIONS = {"gelu": "gelu_new", "gelu_erf": "gelu"}


def transformers_config(bert_config_file: str, **fields):
  """Returns the config of transformers for a `bert_config.json` of ours."""
  import transformers  # pylint: disable=g-import-not-at-top
  with open(bert_config_file, encoding="utf-8") as reader:
    sizes = json.load(reader)
  activation = sizes["hidden_act"]
  return transformers.BertConfig(**{
      **sizes, "hidden_act": _ACTIVATIONS.get(activation, activation),
      **fields})
