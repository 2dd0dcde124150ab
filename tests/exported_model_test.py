"""Tests of exported_model.py."""

import pytest
import served_models
import tensorflow as tf

from errors import UserError
import heads
from serving import exported_model
from serving import text_answers

SERVED = [
  head for head in served_models.ROWS if heads.HEADS[head].serving_class
]


@pytest.mark.parametrize(
  "head",
  [
    pytest.param(head, marks=() if head == heads.SPAN else pytest.mark.large)
    for head in SERVED
  ],
)
def test_saved_models_answer_as_their_models(head, tmp_path):
  model = served_models.write_model(tmp_path / "model", head)
  flags = {}
  if head == heads.SPAN:  # else 384, more than the tiny model reads
    flags["max_query_length"] = 8
    flags["max_seq_length"] = 40
  folder = served_models.export(model, tmp_path / "served", **flags)
  assert exported_model.is_exported(str(folder))
  ours = text_answers.ServerAnswers(str(model))
  theirs = text_answers.ServerAnswers(str(folder))
  assert theirs.head is ours.head
  rows = served_models.ROWS[head]
  found = theirs.answer(rows, theirs.head)
  expected = ours.answer(rows, ours.head)
  served_models.assert_close(found, expected)


def save(folder, **outputs):
  """Saves a model whose signature `text` has these outputs."""
  module = tf.Module()
  module.answer = tf.function(
    lambda text: dict.fromkeys(outputs, text),
    input_signature=[tf.TensorSpec([None], tf.string, "text")],
  )
  signatures = {"text": module.answer} if outputs else {}
  tf.saved_model.save(module, str(folder), signatures=signatures)
  return str(folder)


def test_other_saved_models_are_explained(tmp_path):
  with pytest.raises(UserError, match="no signature text, which takes texts"):
    exported_model.load(save(tmp_path / "a"))
  with pytest.raises(UserError, match="returns x, which no head"):
    exported_model.load(save(tmp_path / "b", x=1))
  broken = tmp_path / "c"
  broken.mkdir()
  (broken / "saved_model.pb").write_bytes(b"\xff\xff\xff")
  with pytest.raises(UserError, match="no SavedModel that TensorFlow can load"):
    exported_model.load(str(broken))


def test_pairs_need_their_signature():
  model = served_models.FakeAnswers().exported
  with pytest.raises(UserError, match="has no signature text_pair"):
    model.answer_pairs(tf.constant(["a"]), tf.constant(["b"]))
