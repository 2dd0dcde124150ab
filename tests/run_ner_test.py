"""Tests of run_ner.py."""

import json

import builders
import numpy as np
import pytest

import checkpoint
import heads
import run_ner


def test_words_are_tagged(tag):
  run = tag(do_train=True, do_eval=True, do_predict=True, eval_every_steps=20)
  builders.assert_has_report(run, "dev", "test")
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


@pytest.mark.large
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


def test_tags_that_were_not_trained(tag, monkeypatch):
  tag(do_train=True, num_train_epochs=1)
  train = tag.data_dir / "train.txt"
  content = train.read_text()
  train.write_text(content.replace("B-wild", "B-tame"))
  with pytest.raises(
    ValueError, match="holds a tagger for B-pet.*B-wild.* has .*B-tame"
  ):
    tag(do_train=True)
  train.write_text(content)
  dev = tag.data_dir / "dev.txt"
  dev.write_text(dev.read_text().replace("B-wild", "B-tame", 1))
  with pytest.raises(
    ValueError,
    match="dev.txt, line .*: the tag 'B-tame' is "
    "not one of those trained with: B-pet",
  ):
    tag(do_eval=True)
  warnings = []
  monkeypatch.setattr(
    run_ner.logging,
    "warning",
    lambda text, *values: warnings.append(text % values),
  )
  results = builders.read_results(tag(do_eval=True, unseen_labels="count"))
  assert "B-tame (1)" in " ".join(warnings)
  # One entity of the type is expected, and none is predicted.
  assert results["eval_tame_recall"] == 0.0 == results["eval_tame_precision"]


def test_without_a_scheme_accuracy_decides_which_weights_are_best(tag):
  for split in ("train", "dev"):
    (tag.data_dir / f"{split}.txt").write_text("the DET\ncat NOUN\n" * 2)
  run = tag(do_train=True, do_eval=True, num_train_epochs=4, eval_every_steps=1)
  assert set(builders.read_results(run)) == {"eval_accuracy", "global_step"}
  state = json.loads((run / "model.ckpt-1.json").read_text())
  assert state["best"]["metric"] == "eval_accuracy"


def test_a_best_metric_that_does_not_exist_is_refused(tag, tmp_path):
  with pytest.raises(ValueError, match="eval_x is none of the scores of .*f1"):
    tag(do_train=True, do_eval=True, eval_every_steps=1, best_metric="eval_x")
  assert not list(tmp_path.glob("run/*"))


def test_files_of_json(tag):
  for split in ("train", "dev"):
    (tag.data_dir / f"{split}.jsonl").write_bytes(
      '{"tokens": ["the", "cät"], "tags": [0, 1]}\n'.encode("latin1") * 4
    )
  (tag.data_dir / "test.jsonl").write_text(
    '{"text": "the cat\\nsat", "label": []}\n{"text": "", "label": []}\n'
  )
  run = tag(
    do_train=True,
    do_eval=True,
    do_predict=True,
    num_train_epochs=1,
    train_file="train.jsonl",
    dev_file="dev.jsonl",
    test_file="test.jsonl",
    tag_names="O,B-pet",
    encoding="latin1",
  )
  first, second = (run / "test_predictions.jsonl").read_text().splitlines()
  assert json.loads(first)["text"] == "the cat\nsat"
  assert json.loads(second) == {"text": "", "tags": [], "entities": []}
  assert "eval_pet_f1" in builders.read_results(run)


def test_words_that_the_model_cannot_see_are_outside(tag):
  (tag.data_dir / "test.txt").write_text("# a b c\ncat\tO\n\xa0\tB-pet\n")
  run = tag(do_train=True, do_predict=True, num_train_epochs=1, learning_rate=0)
  lines = (run / "test_predictions.txt").read_text().splitlines()
  assert lines[0] == "# a b c"
  assert lines[2] == "\xa0\tB-pet\tO\t1.0000"
