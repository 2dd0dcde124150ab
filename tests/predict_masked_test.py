"""Tests of predict_masked.py."""

import io
import json
import sys
import types

import builders
import numpy as np
import pytest
import tensorflow as tf

import checkpoint
from errors import UserError
import modeling
import predict_masked
import tokenization


@pytest.fixture
def masked(run_program, config_file, vocab_file, init_checkpoint, capsys):
  def run(**flags):
    capsys.readouterr()
    run_program(
      predict_masked,
      **{
        **dict(
          bert_config_file=config_file,
          vocab_file=vocab_file,
          init_checkpoint=init_checkpoint,
          max_seq_length=16,
        ),
        **flags,
      },
    )
    return capsys.readouterr().out.splitlines()

  return run


def test_masks_are_filled_and_texts_scored(
  masked, init_checkpoint, vocab_file, monkeypatch
):
  model = modeling.BertForPreTraining(builders.tiny_config())
  checkpoint.restore(checkpoint.variables_by_name(model), init_checkpoint)
  tokenizer = tokenization.FullTokenizer(vocab_file)
  tokens = ["[CLS]", "the", "[MASK]", "sat", "[SEP]", "a", "dog", "[SEP]"]
  ids = tokenizer.convert_tokens_to_ids(tokens)
  segments = [0] * 5 + [1] * 3

  def log_probabilities(ids, positions):
    logits, _ = model(
      tf.constant([ids]),
      None,
      tf.constant([segments]),
      tf.constant([positions]),
    )
    return tf.nn.log_softmax(logits).numpy()

  expected = np.exp(log_probabilities(ids, [2])[0])
  [line] = masked(text="The [MASK] sat ||| a dog", json=True, top_k=3)
  [mask] = json.loads(line)["masks"]
  assert [choice["token"] for choice in mask] == [
    builders.TOKENS[i] for i in np.argsort(-expected)[:3]
  ]
  np.testing.assert_allclose(
    [choice["probability"] for choice in mask],
    np.sort(expected)[::-1][:3],
    rtol=1e-5,
  )
  # The score masks one token after another.
  ids[2] = tokenizer.vocab["cat"]
  total = 0.0
  for position in (1, 2, 3, 5, 6):
    changed = list(ids)
    changed[position] = tokenizer.vocab["[MASK]"]
    total += log_probabilities(changed, [position])[0, ids[position]]
  monkeypatch.setattr(
    sys, "stdin", io.TextIOWrapper(io.BytesIO(b"the cat sat ||| a dog\n\n"))
  )
  [line] = masked(score=True, batch_size=2)
  assert line == f"{total:.3f}\t{total / 5:.3f}\tthe cat sat ||| a dog"


@pytest.mark.parametrize(
  "flags, message",
  [
    (dict(text="the cat"), "'the cat' has no .MASK."),
    (dict(text="", score=True), "'' has no tokens"),
    (dict(text="[MASK] " * 20), "has 22 tokens, more than --max_seq_length=16"),
    (
      dict(text="[MASK]", init_checkpoint=""),
      "Pass --init_checkpoint, or --model",
    ),
  ],
)
def test_masks_refused(masked, flags, message):
  with pytest.raises(ValueError, match=message):
    masked(**flags)


def test_weights_without_masked_lm_are_refused(masked, tmp_path):
  prefix = str(tmp_path / "encoder.ckpt")
  checkpoint.write(
    prefix,
    checkpoint.variables_by_name(modeling.BertModel(builders.tiny_config())),
  )
  with pytest.raises(ValueError, match="has no cls/predictions/output_bias"):
    masked(text="[MASK]", init_checkpoint=prefix)


@pytest.mark.parametrize(
  "texts, message",
  [
    (["[MASK] sat", "the cat"], "'the cat' has no .MASK."),
    (["[MASK] sat", "\udcff"], "--text, line 2: not UTF-8"),
  ],
)
def test_a_bad_text_is_reported_before_any_answer(
  vocab_file, monkeypatch, texts, message
):
  monkeypatch.setattr(
    predict_masked,
    "FLAGS",
    types.SimpleNamespace(text=texts, score=False, max_seq_length=16),
  )
  sequences = predict_masked.read_sequences(
    tokenization.FullTokenizer(vocab_file, never_split=["[MASK]"])
  )
  with pytest.raises(UserError, match=message):
    next(sequences)


def test_bad_bytes_on_standard_input_are_reported(monkeypatch):
  monkeypatch.setattr(
    sys, "stdin", io.TextIOWrapper(io.BytesIO(b"the [MASK]\nb\xe9d\n"))
  )
  monkeypatch.setattr(predict_masked, "FLAGS", types.SimpleNamespace(text=[]))
  texts = predict_masked._texts()
  assert next(texts) == "the [MASK]"
  with pytest.raises(UserError, match="Standard input, line 2: not UTF-8"):
    next(texts)
