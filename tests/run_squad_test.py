"""Tests of run_squad.py."""

import json

import builders
import pytest


def test_questions_are_answered(answer, tmp_path):
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
    (
      dict(do_train=True, train_file="v1.json", answer_scores="cmrc"),
      "answer_scores=cmrc belongs to --do_predict",
    ),
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
