"""Tests of predict.py: its answers are those of the programs that trained."""

import json
import shutil

import builders
import numpy as np
import pytest

from errors import UserError
import predict
import predict_masked


@pytest.fixture
def answers(run_program, capsys):
  """Function that returns the answers of a model as objects."""

  def run(model, **flags):
    capsys.readouterr()
    run_program(predict, model=model, json=True, **flags)
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

  return run


def write_lines(path, lines):
  path.write_text("\n".join(lines) + "\n")
  return path


def test_classifier_answers_as_in_its_training(classify, answers, tmp_path):
  run = classify(do_train=True, do_predict=True, num_train_epochs=3)
  header, *rows = builders.read_table(run / "test_predictions.tsv")
  texts = [
    line.split("\t")[0]
    for line in (classify.data_dir / "test.tsv").read_text().splitlines()[1:]
  ]
  found = answers(run, input_file=write_lines(tmp_path / "texts", texts))
  assert [row["label"] for row in found] == [row[1] for row in rows]
  np.testing.assert_allclose(
    [list(row["probabilities"].values()) for row in found],
    np.array([row[2:] for row in rows], float),
    atol=1e-5,
  )
  assert list(found[0]["probabilities"]) == header[2:]
  [pair] = answers(run / "export", text="the cat sat ||| the dog")
  assert pair["text"] == ["the cat sat", "the dog"]
  with pytest.raises(UserError, match="has no masked LM, but its head is"):
    answers(run, text="the [MASK] sat")
  with pytest.raises(UserError, match="has 3 parts, but .* a text or two"):
    answers(run, text="a ||| b ||| c")


def test_tagger_answers_as_in_its_training(tag, answers, tmp_path):
  run = tag(do_train=True, do_predict=True)
  expected = [
    json.loads(line)
    for line in (run / "test_predictions.jsonl").read_text().splitlines()
  ]
  texts = [sentence["text"] for sentence in expected]
  found = answers(run, input_file=write_lines(tmp_path / "texts", texts))
  assert any(sentence["entities"] for sentence in found)
  for ours, theirs in zip(found, expected, strict=True):
    assert [
      (entity["type"], entity["start"], entity["end"], entity["text"])
      for entity in ours["entities"]
    ] == [
      (entity["type"], entity["start"], entity["end"], entity["text"])
      for entity in theirs["entities"]
    ]


def test_questions_are_answered_as_in_the_training(answer, answers, tmp_path):
  file = answer.write("q.json")
  run = answer(
    do_train=True,
    train_file=file,
    do_predict=True,
    predict_file=file,
    num_train_epochs=20,
  )
  predictions = json.loads((run / "predictions.json").read_text())
  [article] = json.loads(file.read_text())["data"]
  paragraph = article["paragraphs"][0]
  context = write_lines(tmp_path / "context.txt", [paragraph["context"]])
  questions = paragraph["qas"]
  found = answers(
    run,
    question=tuple(question["question"] for question in questions),
    context_file=context,
  )
  assert [row["answer"] for row in found] == [
    predictions[question["id"]] for question in questions
  ]
  first = found[0]
  start, end = first["start"], first["end"]
  assert paragraph["context"][start:end] == first["answer"]
  with pytest.raises(UserError, match="--question and --context_file together"):
    answers(run, question="who")


def test_released_model_fills_masks_or_compares(
  run_program,
  answers,
  init_checkpoint,
  config_file,
  vocab_file,
  tmp_path,
  capsys,
):
  model = tmp_path  # the fixtures write the files of a model here
  [filled] = answers(model, text="the [MASK] sat", top_k=2)
  capsys.readouterr()
  run_program(
    predict_masked,
    model=model,
    text="the [MASK] sat",
    top_k=2,
    json=True,
    max_seq_length=16,
  )
  assert json.loads(capsys.readouterr().out) == filled
  texts = ("the cat sat", "the dog ran", "the cat sat")
  compared = answers(model, text=texts)
  for number, row in enumerate(compared):
    assert len(row["nearest"]) == 2
    cosines = [other["cosine"] for other in row["nearest"]]
    assert cosines == sorted(cosines, reverse=True)
    if number != 1:
      assert row["nearest"][0]["text"] == "the cat sat"
      assert row["nearest"][0]["cosine"] == pytest.approx(1.0, abs=1e-5)


def test_the_mask_is_the_token_that_the_model_names(
  answers, shared_dir, tmp_path
):
  model = shutil.copytree(shared_dir, tmp_path / "model")
  settings = {"do_lower_case": True, "mask_token": "red"}
  (model / "tokenizer_config.json").write_text(json.dumps(settings))
  [filled] = answers(model, text="the red sat", top_k=2)
  assert len(filled["masks"]) == 1


def test_only_line_ends_end_a_text(answers, shared_dir, tmp_path):
  # Python's splitlines() would also split at this character.
  texts = ["the cat\u2028sat", "the dog"]
  found = answers(shared_dir, input_file=write_lines(tmp_path / "texts", texts))
  assert [row["text"] for row in found] == texts


def test_answers_are_shown_to_people(classify, run_program, capsys):
  run = classify(do_train=True)
  capsys.readouterr()
  run_program(predict, model=run, text="the bird flew")
  first, second = capsys.readouterr().out.splitlines()
  assert first == "the bird flew"
  assert second.startswith("  moving 0.")


def test_missing_models_and_texts_are_named(answers, tmp_path):
  with pytest.raises(UserError, match="download_model.py --name=uncased_L-12"):
    answers("bert-base-uncased", text="a")
  empty = write_lines(tmp_path / "empty", [])
  with pytest.raises(UserError, match="There is no text"):
    answers(tmp_path, input_file=empty)
