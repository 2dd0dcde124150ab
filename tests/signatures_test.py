"""Tests of serving/signatures.py; export_saved_model_test has more."""

import numpy as np
import pytest
import tensorflow as tf

from data import encoding
import heads
import modeling
from serving import serving_settings
from serving import signatures
import tokenization

# Name -> head, number of its outputs, and settings of the served model.
SERVED = {
  "encoder": (heads.ENCODER, None, {}),
  "classifier": (
    heads.SINGLE_LABEL,
    2,
    {"long_text": encoding.SLIDING_WINDOW},
  ),
  "tagger": (heads.TAGGING, 2, {}),
  "span": (heads.SPAN, None, {}),
  "choices": (heads.MULTIPLE_CHOICE, None, {}),
}


@pytest.fixture(params=SERVED)
def served(request, vocab_file):
  """A served model of each kind, with random weights."""
  name, num_outputs, settings = SERVED[request.param]
  head = heads.HEADS[name]
  config = modeling.BertConfig(
    vocab_size=60,
    hidden_size=4,
    num_hidden_layers=1,
    num_attention_heads=1,
    intermediate_size=4,
    max_position_embeddings=16,
    type_vocab_size=2,
  )
  model = head.create_model(config, num_outputs, is_portable=True)
  preprocessor = signatures.Preprocessor(
    vocab_file, tokenization.FullTokenizer(vocab_file), 12
  )
  options = serving_settings.ServingSettings(
    problem_type=name,
    labels=("x", "y") if num_outputs == 2 else (),
    max_query_length=4,
    **settings,
  )
  serving_class = getattr(signatures, head.serving_class)
  return serving_class(model, preprocessor, options)


def ask(signature, inputs):
  """Returns the outputs of a signature."""
  tensors = {name: tf.constant(value) for name, value in inputs.items()}
  return {name: value.numpy() for name, value in signature(**tensors).items()}


def test_a_request_without_rows_has_an_answer_without_rows(served):
  requests = served.warmup_requests()
  for name, signature in served.signatures().items():
    one = ask(signature, requests[name])
    assert all(len(value) == 1 for value in one.values())
    no_rows = {key: np.array(v)[:0] for key, v in requests[name].items()}
    nothing = ask(signature, no_rows)
    for output, value in nothing.items():
      assert (value.dtype, value.ndim) == (one[output].dtype, one[output].ndim)
      assert len(value) == 0, output


BROKEN = [
  # The byte ends the text, where it might take the next row with it.
  b"the cat \xe5\x8c",
  b"r\xffed \xe9 dog sat",
  b"\xf0\x9f",
]


@pytest.mark.parametrize("served", ["classifier", "tagger"], indirect=True)
def test_bytes_that_are_not_utf8_are_dropped_and_change_no_other_row(served):
  ask_texts = served.answer_texts
  valid = [text.decode("utf-8", "ignore") for text in BROKEN]
  broken = [b"a red cat", *BROKEN, b"the dog"]
  expected = ["a red cat", *valid, "the dog"]
  answers = {
    name: value.numpy()
    for name, value in ask_texts(tf.constant(broken)).items()
  }
  for name, value in ask_texts(tf.constant(expected)).items():
    np.testing.assert_array_equal(answers[name], value.numpy(), name)


@pytest.mark.parametrize("served", ["span"], indirect=True)
def test_questions_and_contexts_may_have_bytes_that_are_not_utf8(served):
  contexts = [b"the \xe9cat sat", b"a red \xe5\x8c", b"the dog"]
  questions = [b"what \xff", b"the cat", b"a dog"]
  answers = served.answer_questions(
    tf.constant(questions), tf.constant(contexts)
  )
  expected = served.answer_questions(
    *(
      tf.constant([text.decode("utf-8", "ignore") for text in texts])
      for texts in (questions, contexts)
    )
  )
  for name, value in expected.items():
    np.testing.assert_array_equal(answers[name].numpy(), value.numpy(), name)
