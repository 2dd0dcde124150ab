"""Tests of run_classifier.py."""

import json
import pathlib
import random

import builders
import numpy as np
import pytest

import run_classifier
from tasks import distillation


def test_classifier_learns_evaluates_and_predicts(classify):
  run = classify(do_train=True, do_eval=True, do_predict=True)
  builders.assert_has_report(run, "dev", "test")
  for split in ("dev", "test"):
    _, *lines = (run / f"report_{split}.jsonl").read_text().splitlines()
    assert sum("words" in json.loads(line) for line in lines) == 12
  results = builders.read_results(run)
  assert (
    list(results)
    == sorted(results)
    == ["eval_accuracy", "eval_loss", "eval_macro_f1", "global_step", "loss"]
  )
  assert results["eval_accuracy"] == 1.0
  probabilities = np.loadtxt(run / "test_results.tsv", delimiter="\t")
  assert probabilities.shape == (36, 2)
  np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, atol=1e-6)
  predictions = builders.read_table(run / "test_predictions.tsv")
  assert predictions[0] == ["id", "prediction", "moving", "still"]
  test_file = (classify.data_dir / "test.tsv").read_text().splitlines()[1:]
  assert [row[:2] for row in predictions[1:]] == [
    [str(number), line.split("\t")[1]] for number, line in enumerate(test_file)
  ]
  np.testing.assert_allclose(
    np.array([row[2:] for row in predictions[1:]], float),
    probabilities,
    atol=1e-6,
  )
  assert builders.read_table(run / "confusion_matrix.tsv") == [
    ["label", "predicted moving", "predicted still"],
    ["moving", "24", "0"],
    ["still", "0", "12"],
  ]
  assert len(builders.read_table(run / "worst_mistakes.tsv")) == 1
  # A later run needs neither the training data nor the first weights.
  (classify.data_dir / "train.tsv").unlink()
  before = (run / "test_results.tsv").read_bytes()
  classify(do_predict=True, init_checkpoint="")
  assert (run / "test_results.tsv").read_bytes() == before
  # The exported weights are a classifier as well.
  other = classify(
    "other", do_predict=True, init_checkpoint=run / "export" / "bert_model.ckpt"
  )
  assert (other / "test_results.tsv").read_bytes() == before


def test_mistakes_are_shown_the_worst_first(classify):
  dev = classify.data_dir / "dev.tsv"
  dev.write_text(dev.read_text() + "the cat sat\tmoving\nthe dog ran\tstill\n")
  run = classify(do_train=True, do_eval=True)
  header, *rows = builders.read_table(run / "worst_mistakes.tsv")
  assert header == [
    "id",
    "place",
    "loss",
    "label",
    "prediction",
    "text_a",
    "text_b",
  ]
  assert {(row[0], *row[3:]) for row in rows} == {
    ("36", "moving", "still", "the cat sat", ""),
    ("37", "still", "moving", "the dog ran", ""),
  }
  assert float(rows[0][2]) >= float(rows[1][2])
  assert rows[0][1].startswith(f"{dev}, line 3")


@pytest.mark.parametrize(
  "frequent, rare", [("cat,red", "blue"), ("", "blue,cat,red")]
)
def test_several_labels_or_none_for_a_text(classify, frequent, rare):
  # The texts are all the same, so the model learns how frequent each label is.
  for split, counts in [("train", (36, 4)), ("dev", (6, 2)), ("test", (1, 0))]:
    (classify.data_dir / f"{split}.tsv").write_text(
      "text\tlabel\n"
      + f"the dog\t{frequent}\n" * counts[0]
      + f"the dog\t{rare}\n" * counts[1]
    )
  run = classify(
    do_train=True,
    do_eval=True,
    do_predict=True,
    problem_type="multi_label",
    num_train_epochs=20,
    train_batch_size=40,
    learning_rate=0.003,
  )
  assert builders.read_results(run)["eval_exact_match"] == 6 / 8
  predictions = builders.read_table(run / "test_predictions.tsv")
  assert predictions[0] == ["id", "prediction", "blue", "cat", "red"]
  assert predictions[1][:2] == ["0", frequent]
  assert all(
    (float(probability) > 0.5) == (label in frequent)
    for label, probability in zip(predictions[0][2:], predictions[1][2:])
  )
  assert builders.read_table(run / "confusion_matrix.tsv")[:2] == [
    [
      "label",
      "true positives",
      "false positives",
      "false negatives",
      "true negatives",
    ],
    ["blue", "0", "0", "2", "6"],
  ]


def test_tables_are_read_as_the_flags_say(classify):
  for split, rows in [
    ("train", "the cat, sat:x\na dog:y\n:x\na bird:-\n"),
    ("dev", "the cat:x\nthe dog:z\n"),
  ]:
    (classify.data_dir / f"{split}.tsv").unlink()
    (classify.data_dir / f"{split}.csv").write_text(f"text:label\n{rows}")
  run = classify(
    do_train=True,
    do_eval=True,
    train_batch_size=2,
    num_train_epochs=1,
    delimiter=":",
    missing="skip",
    skip_labels="-",
    unseen_labels="count",
  )
  results = builders.read_results(run)
  assert results["eval_accuracy"] <= 0.5 and np.isfinite(results["eval_loss"])
  table = builders.read_table(run / "confusion_matrix.tsv")
  assert table[0] == ["label", "predicted x", "predicted y", "predicted z"]
  assert table[3][0] == "z" and table[3][3] == "0"
  worst = builders.read_table(run / "worst_mistakes.tsv")[1]
  assert worst[2:4] == ["inf", "z"]


def test_a_column_for_each_label_and_numbers_of_columns(classify):
  for split in ("train", "dev"):
    (classify.data_dir / f"{split}.tsv").write_text(
      "text\tred\tblue\nthe red dog\t1\t0\nthe blue dog\t0\t1\n"
    )
  (classify.data_dir / "test.tsv").write_text("1\tthe dog\n2\tthe cat\n")
  settings = dict(
    problem_type="multi_label", train_batch_size=2, num_train_epochs=1
  )
  run = classify(
    do_train=True, do_eval=True, label_column="red,blue", **settings
  )
  table = builders.read_table(run / "confusion_matrix.tsv")
  assert [row[0] for row in table] == ["label", "red", "blue"]
  classify(do_predict=True, text_a_column="1", id_column="0", **settings)
  table = builders.read_table(run / "test_predictions.tsv")
  assert [row[0] for row in table] == ["id", "1", "2"]


def test_regression(classify):
  words = ["bad", "lazy", "quick", "good"]
  rows = [
    f"a {word} {noun}\t{value}\n"
    for noun in ("cat", "dog", "bird")
    for value, word in enumerate(words)
  ]
  for split in ("train", "dev", "test"):
    (classify.data_dir / f"{split}.tsv").write_text(
      "text\tlabel\n" + "".join(rows * 3)
    )
  run = classify(
    do_train=True,
    do_eval=True,
    do_predict=True,
    problem_type="regression",
    num_train_epochs=30,
  )
  results = builders.read_results(run)
  assert results["eval_spearman"] > 0.9 and results["eval_mse"] < 0.3
  np.testing.assert_allclose(results["eval_loss"], results["eval_mse"])
  predictions = builders.read_table(run / "test_predictions.tsv")
  assert predictions[0] == ["id", "prediction"]
  assert np.loadtxt(run / "test_results.tsv").shape == (36,)
  assert not (run / "confusion_matrix.tsv").exists()


@pytest.mark.large
def test_rare_labels_count_more_by_their_weight(classify):
  train = classify.data_dir / "train.tsv"
  # The texts are all the same, so the model learns how frequent each label is.
  train.write_text(
    "text\tlabel\n" + "the cat\tfrequent\n" * 36 + "the cat\trare\n" * 12
  )
  (classify.data_dir / "test.tsv").write_text("text\nthe cat\n")

  def probability_of_rare(output, **flags):
    run = classify(
      output,
      do_train=True,
      do_predict=True,
      num_train_epochs=60,
      train_batch_size=48,
      learning_rate=0.003,
      **flags,
    )
    return np.loadtxt(run / "test_results.tsv")[1]

  np.testing.assert_allclose(
    [
      probability_of_rare("a"),
      probability_of_rare("b", class_weights="balanced"),
      probability_of_rare("c", class_weights="rare=9"),
    ],
    [1 / 4, 1 / 2, 3 / 4],
    atol=0.06,
  )


def test_long_texts_are_read_in_windows(classify):
  rng = random.Random(1)
  texts = [" ".join(rng.choices(builders.WORDS, k=20)) for _ in range(8)]
  (classify.data_dir / "train.tsv").write_text(
    "text\tlabel\n"
    + "".join(
      f"{text}\t{'still' if i % 2 else 'moving'}\n"
      for i, text in enumerate(texts)
    )
  )
  (classify.data_dir / "test.tsv").write_text(
    "\n".join(["text", *texts]) + "\n"
  )
  flags = dict(do_predict=True, max_seq_length=12)
  run = classify(
    **flags,
    do_train=True,
    do_eval=True,
    num_train_epochs=1,
    long_text="sliding_window",
  )
  # Each of 8 texts has windows of 10 words that begin after 0, 5 and 10.
  assert builders.read_results(run)["global_step"] == 8 * 3 / 4
  windows = [
    " ".join(text.split()[start : start + 10])
    for text in texts
    for start in (0, 5, 10)
  ]
  (classify.data_dir / "test.tsv").write_text(
    "\n".join(["text", *windows]) + "\n"
  )
  apart = classify(
    "apart", **flags, init_checkpoint=run / "export" / "bert_model.ckpt"
  )
  logits = np.log(np.loadtxt(apart / "test_results.tsv"))
  means = np.exp(logits.reshape([8, 3, 2]).mean(axis=1))
  np.testing.assert_allclose(
    np.loadtxt(run / "test_results.tsv"),
    means / means.sum(axis=1, keepdims=True),
    atol=1e-5,
  )


def test_evaluation_does_not_depend_on_the_size_of_batches(classify):
  run = classify(do_train=True, do_predict=True, num_train_epochs=1)
  before = np.loadtxt(run / "test_results.tsv")
  for flags in (dict(pad_to_max_length=True), dict(predict_batch_size=5)):
    classify(do_predict=True, **flags)
    np.testing.assert_allclose(
      np.loadtxt(run / "test_results.tsv"), before, atol=1e-5
    )


def test_mnli_writes_all_its_files(classify, tmp_path):
  header = "\t".join(f"c{i}" for i in range(8)) + "\tsentence1\tsentence2"
  row = "\t".join("01234567") + "\tthe cat sat\ta cat"
  data_dir = tmp_path / "MNLI"
  data_dir.mkdir()
  for file, label in [
    ("train", "\tgold"),
    ("dev_matched", "\tgold"),
    ("dev_mismatched", "\tgold"),
    ("test_matched", ""),
    ("test_mismatched", ""),
  ]:
    names = ("neutral", "entailment", "contradiction") if label else ("",)
    (data_dir / f"{file}.tsv").write_text(
      f"{header}{label}\n"
      + "".join(f"{row}{label and chr(9)}{name}\n" for name in names)
    )
  (data_dir / "diagnostic.tsv").write_text(
    "index\tsentence1\tsentence2\n0\ta cat\ta dog\n1\ta dog\ta cat\n"
  )
  run = classify(
    task_name="MNLI",
    data_dir=data_dir,
    do_train=True,
    do_eval=True,
    do_predict=True,
    num_train_epochs=2,
  )
  assert {"eval_accuracy", "eval_mismatched_accuracy"} <= set(
    builders.read_results(run)
  )
  assert sorted(path.name for path in (run / "submission").iterdir()) == [
    "AX.tsv",
    "MNLI-m.tsv",
    "MNLI-mm.tsv",
  ]
  table = builders.read_table(run / "submission" / "AX.tsv")
  assert [row[0] for row in table] == ["index", "0", "1"]
  assert {row[1] for row in table[1:]} <= {
    "neutral",
    "entailment",
    "contradiction",
  }


@pytest.mark.parametrize(
  "flags, message",
  [
    (dict(), "Nothing to do"),
    (dict(do_eval=True), "no classifier.json of a trained classifier"),
    (dict(do_train=True, max_seq_length=41), "max_seq_length=41 must be"),
    (dict(do_train=True, data_dir="/nowhere"), "train.tsv or .*does not exist"),
    (dict(do_train=True, text_a_column="words"), "no column 'words'"),
    (dict(do_train=True, encoding="utf-32-be"), "line 1: not UTF-32-BE"),
    (dict(do_train=True, encoding="ansi"), "encoding=ansi is not an encoding"),
    (
      dict(do_train=True, train_batch_size=1000, num_train_epochs=1),
      "make no single step",
    ),
    (dict(do_train=True, init_checkpoint="/nowhere/m"), "no /nowhere/m.index"),
    (
      dict(do_train=True, problem_type="regression"),
      "line 2: the label 'still' is not a finite number",
    ),
    (
      dict(do_train=True, class_weights="still"),
      "not of the form label=weight",
    ),
    (dict(do_train=True, class_weights="no=2"), "class weight for 'no'"),
    (
      dict(do_train=True, task_name="rte", id_column="x"),
      "--id_column=x belongs to --task_name=custom",
    ),
    (dict(do_train=True, language="de"), "language=.*belongs to .*xnli"),
    (
      dict(do_train=True, hard_label_weight=0.5),
      "hard_label_weight=0.5 belongs to --teacher_model_dir",
    ),
    (
      dict(do_train=True, task_file="x.json", problem_type="regression"),
      "--problem_type and --task_file=x.json set the same",
    ),
    (
      dict(do_train=True, teacher_model_dir="/nowhere"),
      "--teacher_model_dir=/nowhere holds no classifier.json",
    ),
  ],
)
def test_classifier_refuses(classify, tmp_path, flags, message):
  with pytest.raises(ValueError, match=message):
    classify(**flags)
  assert not list(tmp_path.glob("run/*"))


def test_classifier_refuses_a_vocabulary_larger_than_the_model(
  classify, config_file
):
  pathlib.Path(config_file).write_text(
    builders.tiny_config(vocab_size=20).to_json_string()
  )
  with pytest.raises(
    ValueError, match="vocab.txt has 39 tokens, but vocab_size=20"
  ):
    classify(do_train=True)


def test_classifier_refuses_labels_that_do_not_fit_the_weights(
  classify, init_checkpoint, tmp_path
):
  run = classify(do_train=True, num_train_epochs=1)
  with open(classify.data_dir / "train.tsv", "a") as writer:
    writer.write("a third kind\tthird\n")
  with pytest.raises(
    ValueError,
    match="holds a classifier for single_label "
    "with the labels moving, still, but",
  ):
    classify(do_train=True)
  path = run / "classifier.json"
  settings = json.loads(path.read_text())
  path.write_text(json.dumps({**settings, "labels": ["a", "b", "c"]}))
  with pytest.raises(
    ValueError,
    match="--output_dir=.* is a classifier of 2 "
    "labels, but there are 3: a, b, c",
  ):
    classify(do_predict=True)
  path.write_text('{"labels": ["a"')
  with pytest.raises(ValueError, match="classifier.json: not JSON"):
    classify(do_predict=True)
  # Pre-trained weights alone would predict at random.
  path.write_text(json.dumps(settings))
  for file in run.glob("model.ckpt*"):
    file.unlink()
  (run / "checkpoint").unlink()
  with pytest.raises(
    ValueError, match="has no classifier, only weights from which"
  ):
    classify(do_predict=True)


def test_a_folder_stands_for_the_model(
  run_program,
  classify,
  config_file,
  vocab_file,
  init_checkpoint,
  tmp_path,
  monkeypatch,
):
  # The fixtures write the files of a model under their usual names.
  expected = classify(do_train=True, do_predict=True, num_train_epochs=1)

  def run(model, output, **flags):
    run_program(
      run_classifier,
      model=model,
      task_name="custom",
      data_dir=classify.data_dir,
      output_dir=tmp_path / output,
      max_seq_length=16,
      train_batch_size=4,
      num_train_epochs=1,
      learning_rate=0.001,
      do_train=True,
      do_predict=True,
      **flags,
    )
    return (tmp_path / output / "test_results.tsv").read_bytes()

  assert run(tmp_path, "a") == (expected / "test_results.tsv").read_bytes()
  # By name, with random weights.
  (tmp_path / "models").mkdir()
  (tmp_path / "models" / "tiny").symlink_to(tmp_path)
  monkeypatch.chdir(tmp_path)
  assert (
    run("tiny", "b", init_checkpoint="")
    != (expected / "test_results.tsv").read_bytes()
  )
  with pytest.raises(
    ValueError,
    match="neither a folder huge nor models/huge. "
    "Released models are downloaded by download_model.py",
  ):
    run("huge", "c")


@pytest.mark.large
def test_a_student_learns_the_predictions_of_its_teacher(
  classify, config_file, monkeypatch
):
  teacher = classify("teacher", do_train=True, do_predict=True)
  says = builders.read_table(teacher / "test_predictions.tsv")
  # The student's own labels are wrong, and it has further texts without labels.
  train = classify.data_dir / "train.tsv"
  rows = [line.split("\t") for line in train.read_text().splitlines()[1:]]
  swap = {"still": "moving", "moving": "still"}
  train.write_text(
    "text\tlabel\n"
    + "".join(
      f"{text}\t{swap[label]}\n" for text, label in rows if "cat" in text
    )
  )
  (classify.data_dir / "more.tsv").write_text(
    "text\n" + "".join(f"{text}\n" for text, _ in rows if "cat" not in text)
  )
  small = pathlib.Path(config_file).with_name("small.json")
  small.write_text(builders.tiny_config(num_hidden_layers=1).to_json_string())
  student_flags = dict(
    do_train=True,
    do_predict=True,
    bert_config_file=small,
    init_checkpoint="",
    num_train_epochs=60,
    teacher_model_dir=teacher,
    transfer_file="more.tsv",
  )
  student = classify("student", **student_flags)
  assert [
    row[:2] for row in builders.read_table(student / "test_predictions.tsv")
  ] == [row[:2] for row in says]
  [kept] = (teacher / "distillation").iterdir()
  # Another student reads the saved predictions of the teacher.
  monkeypatch.setattr(distillation, "_compute_logits", None)
  classify("other", **{**student_flags, "num_train_epochs": 1})
  # With hard labels alone the student learns the wrong labels.
  misled = classify(
    "misled",
    **student_flags,
    hard_label_weight=1.0,
    distillation_temperature=2.0,
  )
  right = {row[0]: row[1] for row in says[1:]}
  assert all(
    row[1] == swap[right[row[0]]]
    for row in builders.read_table(misled / "test_predictions.tsv")[1:13]
  )
  # The teacher predicts again for other texts. What a killed run left there is
  # removed first.
  left = teacher / "distillation" / f"{kept.name}.0123abcd.unfinished"
  left.mkdir()
  (classify.data_dir / "more.tsv").write_text("text\na red bird\n")
  with pytest.raises(TypeError):
    classify("third", **student_flags)
  assert [kept] == list((teacher / "distillation").iterdir())


def test_a_teacher_of_another_task_is_refused(classify):
  teacher = classify("teacher", do_train=True, num_train_epochs=1)
  train = classify.data_dir / "train.tsv"
  train.write_text(train.read_text().replace("still", "calm"))
  with pytest.raises(
    ValueError,
    match="predicts moving, still; the student is to predict calm, moving",
  ):
    classify("student", do_train=True, teacher_model_dir=teacher)
