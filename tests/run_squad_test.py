"""Tests of run_squad.py."""

import io
import json
import sys

import builders
import pytest

from data import locks


def test_questions_are_answered(answer, capsys, tmp_path, monkeypatch):
  file = answer.write("v1.json")
  run = answer(
    do_train=True,
    do_predict=True,
    train_file=file,
    predict_file=file,
    eval_every_steps=100,
  )
  builders.assert_has_report(run, "dev")
  results = builders.read_results(run)
  assert list(results) == ["exact_match", "f1", "global_step"]
  assert results["exact_match"] > 90
  predictions = json.loads((run / "predictions.json").read_text())
  assert predictions["catdog it was"] == "bird"
  n_best = json.loads((run / "nbest_predictions.json").read_text())
  assert list(n_best) == list(predictions)
  assert list(n_best["catdog it was"][0]) == [
    "text",
    "probability",
    "start_logit",
    "end_logit",
  ]
  assert json.loads((run / "train.report.json").read_text()) == {
    "questions": 12,
    "windows": 12,
  }
  # "the bird" is not "bird" for CMRC, but it is for SQuAD.
  content = json.loads(file.read_text())
  # The middle dot is punctuation for CMRC, and not UTF-8 in this file.
  other_text = file.read_text().replace('"bird"', '"the bird\xb7"')
  other_file = tmp_path / "other.json"
  other_file.write_bytes(other_text.encode("latin1"))
  answer(
    do_predict=True,
    predict_file=other_file,
    init_checkpoint="",
    encoding="latin1",
    answer_scores="cmrc",
  )
  results = builders.read_results(run)
  assert results["exact_match"] == 0 and results["f1"] > 60
  # Without answers in the file, the program predicts but does not score.
  for paragraph in content["data"][0]["paragraphs"]:
    for question in paragraph["qas"]:
      del question["answers"]
  file.write_text(json.dumps(content))
  (run / "eval_results.txt").unlink()
  before = (run / "predictions.json").read_bytes()
  answer(do_predict=True, predict_file=file, init_checkpoint="")
  assert (run / "predictions.json").read_bytes() == before
  assert not (run / "eval_results.txt").exists()
  # A question on the command line.
  context = tmp_path / "context.txt"
  context.write_text("the dog sat and the\nbird ran and the cat flew")
  capsys.readouterr()
  before = sorted(tmp_path.rglob("*"))
  with locks.Lock.of_folder(str(tmp_path / "run"), "x"):  # as a training would
    answer(context_file=context, question="it was")
  assert sorted(tmp_path.rglob("*")) == before
  printed = capsys.readouterr().out.splitlines()
  assert printed[1] == "it was"
  assert printed[2].endswith(
    "%  the dog sat and the [bird] ran and the cat flew"
  )
  lines = io.BytesIO(b"it was red\n\nit was\n")
  monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(lines))
  answer(context_file=context)
  printed = capsys.readouterr().out.splitlines()
  assert [line for line in printed if line.startswith("it")] == [
    "it was red",
    "it was",
  ]


def test_questions_without_answer(answer):
  file = answer.write("v2.json", version_2=True)
  run = answer(
    do_train=True,
    do_predict=True,
    train_file=file,
    predict_file=file,
    version_2_with_negative=True,
    num_train_epochs=200,
    learning_rate=0.002,
  )
  results = builders.read_results(run)
  assert results["NoAns_exact"] == 100 and results["best_f1"] > 90
  assert results["best_f1"] >= results["f1"] and "best_f1_thresh" in results
  odds = json.loads((run / "null_odds.json").read_text())
  predictions = json.loads((run / "predictions.json").read_text())
  assert {i for i, odd in odds.items() if odd > 0} == {
    i for i, text in predictions.items() if not text
  }


@pytest.mark.parametrize(
  "flags, message",
  [
    (dict(), "Nothing to do"),
    (dict(do_train=True), "--do_train needs --train_file"),
    (
      dict(do_predict=True, predict_file="v1.json"),
      "was not trained to answer",
    ),
    (dict(do_train=True, train_file="/nowhere"), "/nowhere does not exist"),
    (
      dict(do_train=True, train_file="v2.json"),
      "6 questions have no answer, as "
      "in SQuAD 2.0. Pass --version_2_with_negative",
    ),
    (
      dict(do_train=True, train_file="v1.json", max_query_length=21),
      "max_seq_length=24 leaves no room next to --max_query_length=21",
    ),
    (dict(context_file="/nowhere"), "--context_file=/nowhere does not exist"),
    (
      dict(do_train=True, train_file="v1.json", answer_scores="cmrc"),
      "answer_scores=cmrc belongs to --do_predict",
    ),
    (dict(question="who?"), "--question=who.* belongs to --context_file"),
    (dict(null_score_diff_threshold=1), "belongs to --version_2_with_negative"),
    (
      dict(do_train=True, train_file="v1.json", eval_every_steps=2),
      "pass --do_predict as well",
    ),
  ],
)
def test_questions_refused(answer, tmp_path, monkeypatch, flags, message):
  answer.write("v1.json")
  answer.write("v2.json", version_2=True)
  monkeypatch.chdir(tmp_path)
  with pytest.raises(ValueError, match=message):
    answer(**flags)
  assert not list(tmp_path.glob("run/*"))
