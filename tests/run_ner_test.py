"""Tests of run_ner.py."""

import json

import builders
import numpy as np
import pytest

import checkpoint
import heads


def test_words_are_tagged(tag):
  run = tag(do_train=True, do_eval=True, do_predict=True, eval_every_steps=20)
  results = builders.read_results(run)
  assert results["eval_f1"] == results["eval_pet_recall"] == 1.0
  assert results["eval_accuracy"] == 1.0
  test_file = (tag.data_dir / "test.txt").read_text().splitlines()
  predictions = (run / "test_predictions.txt").read_text().splitlines()
  for line, predicted in zip(test_file, predictions):
    fields = predicted.split()
    assert fields[:2] == line.split() and (not line or fields[1] == fields[2])
  first = json.loads(
    (run / "test_predictions.jsonl").read_text().split("\n")[0]
  )
  assert first["entities"] == [
    {"type": "pet", "start": 4, "end": 11, "text": "red cat"}
  ]
  # Words without tags, in windows, with the exported weights.
  (tag.data_dir / "test.txt").write_text(
    "\n".join(line.split(" ")[0] for line in test_file) + "\n"
  )
  other = tag(
    "other",
    do_predict=True,
    document_context=True,
    init_checkpoint=run / "export" / "bert_model.ckpt",
  )
  lines = (other / "test_predictions.txt").read_text().splitlines()
  words = [line for line in test_file if line]
  assert [line.split()[0] for line in lines if line] == [
    line.split()[0] for line in words
  ]
  tags = [line.split()[1] for line in lines if line]
  assert np.mean([a == b.split()[1] for a, b in zip(tags, words)]) > 0.8
  assert not (other / "test_scores.txt").exists()


def test_a_tagger_has_a_pooler_if_its_weights_have(
  tag, init_checkpoint, tmp_path
):
  tensors = builders.read_tensors(init_checkpoint)
  names = heads.remove_pooler(tensors)
  weights = str(tmp_path / "other" / "weights")
  checkpoint.write(weights, {name: tensors[name] for name in names})
  settings = dict(num_train_epochs=1, init_checkpoint=weights)
  run = tag(do_train=True, **settings)
  exported = run / "export" / "bert_model.ckpt"
  tagged = set(builders.read_tensors(exported))
  assert tagged == {
    *(name for name in names if name.startswith("bert/")),
    "output_weights",
    "output_bias",
  }
  tag(do_predict=True, **settings)  # from the checkpoint of the run
  other = tag("other_run", do_train=True, num_train_epochs=1)
  assert heads.has_pooler(builders.read_tensors(other / "export"))


@pytest.mark.parametrize(
  "flags, message",
  [
    (dict(), "Nothing to do"),
    (dict(do_train=True, do_lower_case=False), "has no capitals, so most"),
    (dict(do_train=True, train_file="no.txt"), "no.txt does not exist"),
    (dict(do_train=True, tag_column=3), "no tag in column 3"),
    (dict(do_predict=True), "no classifier.json of a trained tagger"),
  ],
)
def test_tagging_refuses(tag, tmp_path, flags, message):
  with pytest.raises(ValueError, match=message):
    tag(**flags)
  assert not list(tmp_path.glob("run/*"))


def test_tags_that_were_not_trained_are_refused(tag):
  tag(do_train=True, num_train_epochs=1)
  dev = tag.data_dir / "dev.txt"
  dev.write_text(dev.read_text().replace("B-wild", "B-tame", 1))
  with pytest.raises(
    ValueError,
    match="dev.txt, line .*: the tag 'B-tame' is "
    "not one of those trained with: B-pet",
  ):
    tag(do_eval=True)
