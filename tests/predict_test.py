"""Tests of predict.py: its answers are those of the programs that trained."""

import io
import json
import shutil
import sys

import builders
import numpy as np
import pytest
import served_models
import tensorflow as tf

import checkpoint
from errors import UserError
import heads
import modeling
import predict
from serving import masked_words
import tokenization


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


def test_questions_are_answered_as_in_the_training(
  answer, answers, run_program, tmp_path, monkeypatch, capsys
):
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
  context = write_lines(tmp_path / "context.txt", ["", paragraph["context"]])
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
  assert context.read_text()[start:end] == first["answer"]
  # Without --question, texts are the questions.
  give_on_standard_input(monkeypatch, b"it was red\n\nit was\n")
  capsys.readouterr()
  run_program(predict, model=run, context_file=context)
  printed = capsys.readouterr().out.splitlines()
  assert printed[::3] == ["it was red", "it was"]


def give_on_standard_input(monkeypatch, content):
  monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_masks_are_filled_and_texts_scored(
  answers,
  run_program,
  shared_dir,
  vocab_file,
  init_checkpoint,
  monkeypatch,
  capsys,
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
  [filled] = answers(shared_dir, text="The [MASK] sat ||| a dog", top_k=3)
  [mask] = filled["masks"]
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
  give_on_standard_input(monkeypatch, b"the cat sat ||| a dog\n\n")
  monkeypatch.setattr(masked_words, "_NUM_SCORED", 2)
  [scored] = answers(shared_dir, score=True)
  assert scored["text"] == ["the cat sat", "a dog"]
  assert scored["pseudo_log_likelihood"] == pytest.approx(total, rel=1e-5)
  assert scored["tokens"] == 5
  capsys.readouterr()
  run_program(
    predict, model=shared_dir, score=True, text="the cat sat ||| a dog"
  )
  assert capsys.readouterr().out.splitlines()[1] == (
    f"  {total:.3f}, which is {total / 5:.3f} per token"
  )


def test_files_and_settings_are_taken_from_flags(
  run_program, shared_dir, tmp_path, capsys, monkeypatch
):
  model = shutil.copytree(shared_dir, tmp_path / "model")
  vocab = model / "vocab.txt"
  names = vocab.read_text().replace("[MASK]", "<hole>")
  (tmp_path / "words.txt").write_text(names)
  vocab.unlink()
  (tmp_path / "texts").write_bytes("the <hole>\xe9 sat".encode("latin1"))
  run_program(
    predict,
    bert_config_file=model / "bert_config.json",
    vocab_file=tmp_path / "words.txt",
    init_checkpoint=model / "bert_model.ckpt",
    special_tokens="mask=<hole>",
    input_file=tmp_path / "texts",
    encoding="latin1",
  )
  text, masks = capsys.readouterr().out.splitlines()
  assert text == "the <hole>\xe9 sat"
  assert len(masks.split()) == 10  # five tokens with their probabilities


def test_first_answers_come_before_the_input_ends(
  answers, shared_dir, monkeypatch, capsys
):
  give_on_standard_input(monkeypatch, b"the [MASK]\nb\xe9d\n")
  with pytest.raises(UserError, match="Standard input, line 2: not UTF-8"):
    answers(shared_dir)
  assert json.loads(capsys.readouterr().out)["text"] == "the [MASK]"


@pytest.mark.parametrize(
  "flags, message",
  [
    (dict(text=("[MASK] sat", "the cat")), "'the cat' has no .MASK."),
    (dict(text=("the cat", "\udcff")), "--text, line 2: not UTF-8"),
    (dict(text="\u200b", score=True), "has no tokens"),
    (dict(text="[MASK] " * 40), "has 42 tokens, but the model reads at most"),
    (dict(text="a ||| b ||| c", score=True), "has 3 parts"),
    (dict(question="who"), "--question=.* belongs to --context_file"),
  ],
)
def test_texts_refused(answers, shared_dir, capsys, flags, message):
  with pytest.raises(UserError, match=message):
    answers(shared_dir, **flags)
  assert not capsys.readouterr().out


def test_standard_input_that_is_closed_is_named(
  answers, shared_dir, monkeypatch
):
  monkeypatch.setattr(sys, "stdin", None)
  with pytest.raises(
    UserError, match="input is closed. Pass the text by a flag"
  ):
    answers(shared_dir)


def test_only_a_masked_lm_scores_texts(answers, shared_dir, tmp_path):
  model = shutil.copytree(shared_dir, tmp_path / "model")
  encoder = modeling.BertModel(builders.tiny_config())
  checkpoint.write(
    str(model / "bert_model.ckpt"), checkpoint.variables_by_name(encoder)
  )
  for flags in (dict(score=True), dict()):
    with pytest.raises(UserError, match="masked LM.*is encoder"):
      answers(model, text="a [MASK]", **flags)


def test_released_model_compares_texts(answers, shared_dir):
  texts = ("the cat sat", "the dog ran", "the cat sat")
  compared = answers(shared_dir, text=texts)
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


def show_labels(answer):
  ranked = sorted(answer["probabilities"].items(), key=lambda item: -item[1])
  chosen = [name for name in ("pet", "wild") if dict(ranked)[name] > 0.5]
  return [
    "  " + "   ".join(f"{name} {value:.3f}" for name, value in ranked),
    f"  labels: {', '.join(chosen) or 'none'}",
  ]


def show_tags(answer):
  if set(answer["tags"]) == {"O"}:
    return ["  " + "  ".join(f"{word}/O" for word in answer["words"])]
  return [
    f"  {entity['text']}   {entity['type']} {entity['probability']:.3f}"
    for entity in answer["entities"]
  ]


def show_choice(answer):
  number = int(np.argmax(answer["probabilities"]))
  text = ["sat", "flew over the hill"][number]
  return [f"  {number}: {text}   {answer['probabilities'][number]:.3f}"]


@pytest.mark.parametrize(
  "head_name, texts, show",
  [
    (
      heads.REGRESSION,
      ["the cat sat", "a dog ||| it ran"],
      lambda answer: [f"  {answer['value']:.4f}"],
    ),
    (heads.MULTI_LABEL, ["the cat sat", "a dog", "the bird flew"], show_labels),
    (heads.TAGGING, ["the red cat sat", "it sat on the bird", "a"], show_tags),
    (
      heads.MULTIPLE_CHOICE,
      ["the cat ||| sat ||| flew over the hill"],
      show_choice,
    ),
    (
      heads.ENCODER,
      ["the cat sat", "a dog ran"],
      lambda answer: [
        f"  {other['cosine']:.3f}  {other['text']}"
        for other in answer["nearest"]
      ],
    ),
    (
      heads.ENCODER,
      ["the cat sat"],
      lambda answer: ["  An encoder compares texts: pass two or more."],
    ),
  ],
)
def test_every_head_answers_people_as_it_answers_programs(
  head_name, texts, show, answers, run_program, capsys, tmp_path
):
  model = served_models.write_model(tmp_path / "model", head_name)
  found = answers(model, text=tuple(texts))
  run_program(predict, model=model, text=tuple(texts))
  expected = []
  for text, answer in zip(texts, found, strict=True):
    expected += [text, *show(answer)]
  assert capsys.readouterr().out.splitlines() == expected


def test_missing_models_and_texts_are_named(answers, shared_dir, tmp_path):
  with pytest.raises(UserError, match="download_model.py --name=uncased_L-12"):
    answers("bert-base-uncased", text="a")
  empty = write_lines(tmp_path / "empty", [])
  with pytest.raises(UserError, match="There is no text"):
    answers(shared_dir, input_file=empty)
