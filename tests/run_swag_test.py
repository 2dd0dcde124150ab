"""Tests of run_swag.py."""

import json
import random

import builders
import numpy as np
import pytest


def test_choices_do_not_depend_on_their_order(choose, tmp_path):
  rng = random.Random(1)
  header = (
    "video-id,fold-ind,startphrase,sent1,sent2,gold-source,ending0,"
    "ending1,ending2,ending3,label\n"
  )
  rows = []
  for _ in range(80):
    # The right ending has the word "good".
    endings = [
      f"{word} {rng.choice(['cat', 'dog', 'bird'])}"
      for word in ("good", "bad", "lazy", "quick")
    ]
    rng.shuffle(endings)
    label = [i for i, text in enumerate(endings) if "good" in text][0]
    rows.append(("the dog ran", "it was a", endings, label))

  def write(name, rows):
    (tmp_path / name).write_text(
      header
      + "".join(
        f"v,1,s,{context},{start},gold,{','.join(endings)},{label}\n"
        for context, start, endings, label in rows
      )
    )

  write("train.csv", rows[:60])
  write("val.csv", rows[60:])
  write("test.csv", rows[60:])
  run = choose(do_train=True, do_eval=True, do_predict=True)
  assert builders.read_results(run)["eval_accuracy"] >= 0.95
  before = np.loadtxt(run / "test_results.tsv")
  order = [2, 0, 3, 1]
  write(
    "test.csv",
    [
      (context, start, [endings[i] for i in order], order.index(label))
      for context, start, endings, label in rows[60:]
    ],
  )
  for flags in (dict(), dict(pad_to_max_length=True, predict_batch_size=3)):
    choose(do_predict=True, **flags)
    np.testing.assert_allclose(
      np.loadtxt(run / "test_results.tsv"), before[:, order], atol=1e-5
    )
  # Two choices, in JSON.
  (tmp_path / "two.jsonl").write_text(
    "".join(
      json.dumps({"context": "the dog ran", "choices": choices}) + "\n"
      for choices in [
        ["it was a good cat", "it was a bad cat"],
        ["it was a lazy dog", "it was a good bird"],
      ]
    )
  )
  choose(do_predict=True, test_file="two.jsonl")
  predictions = builders.read_table(run / "test_predictions.tsv")
  assert [row[1] for row in predictions[1:]] == ["0", "1"]


def test_examples_may_have_different_numbers_of_choices(choose, tmp_path):
  # The right choice has the word "good"; RACE has an article a file.
  rng = random.Random(1)
  for split, count in [("train", 60), ("dev", 12), ("test", 12)]:
    for number in range(count):
      words = rng.sample(["bad", "lazy", "quick"], rng.choice([1, 2, 3]))
      options = ["good", *words]
      rng.shuffle(options)
      article = {
        "id": str(number),
        "article": "the dog ran",
        "questions": ["it was a _ cat"],
        "options": [options],
        "answers": ["ABCD"[options.index("good")]],
      }
      path = tmp_path / split / "high" / f"{number}.txt"
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_text(json.dumps(article), encoding="utf-16")
  flags = {f"{split}_file": split for split in ("train", "dev", "test")}
  run = choose(do_train=True, do_eval=True, do_predict=True, **flags)
  builders.assert_has_report(run, "dev", "test")
  results = builders.read_results(run)
  # A missing choice with a probability would add to the loss.
  assert results["eval_accuracy"] == 1.0 and results["eval_loss"] < 0.1
  header, *rows = builders.read_table(run / "test_predictions.tsv")
  assert header == ["id", "prediction", "0", "1", "2", "3"]
  for example_id, _, *probabilities in rows:
    number = example_id.removesuffix("-0")
    article = json.loads(
      (tmp_path / "test" / "high" / f"{number}.txt").read_text("utf-16")
    )
    num_choices = len(article["options"][0])
    assert set(probabilities[num_choices:]) <= {"0.000000"}
    total = sum(map(float, probabilities[:num_choices]))
    assert total == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
  "flags, message",
  [
    (dict(), "Nothing to do"),
    (dict(do_train=True), "train.csv does not exist"),
    (dict(do_predict=True, test_file="test.jsonl"), "has no classifier"),
    (
      dict(do_predict=True, test_file="test.jsonl", encoding="utf-16-le"),
      "test.jsonl",
    ),
  ],
)
def test_choosing_refuses(choose, tmp_path, flags, message):
  (tmp_path / "test.jsonl").write_text(
    '{"context": "the dog", "choices": ["ran", "sat"]}\n'
  )
  with pytest.raises(ValueError, match=message):
    choose(**flags)
  assert not list(tmp_path.glob("run/*"))
