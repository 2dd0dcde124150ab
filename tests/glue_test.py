"""Tests of tasks/glue.py, on rows as published."""

import dataclasses

import pytest

import errors
from tasks import glue

MNLI_HEADER = "\t".join(f"column{i}" for i in range(10))
ROWS = {
  ("cola", "train"): (
    "train.tsv",
    "gj04\t1\t\tOur friends won't buy this.",
    ("Our friends won't buy this.", None, "1"),
  ),
  ("cola", "test"): (
    "test.tsv",
    "index\tsentence\n0\tBill whistled.",
    ("Bill whistled.", None, None),
  ),
  ("mnli", "train"): (
    "train.tsv",
    f"{MNLI_HEADER}\tlabel1\tgold_label\n"
    + "\t".join([*"01234567", "A man.", "A person.", "neutral", "entailment"]),
    ("A man.", "A person.", "entailment"),
  ),
  ("mnli", "dev"): (
    "dev_matched.tsv",
    f"{MNLI_HEADER}\tl1\tl2\tl3\tl4\tl5\tgold_label\n"
    + "\t".join([*"01234567", "A man.", "A dog.", *"nncnc", "neutral"]),
    ("A man.", "A dog.", "neutral"),
  ),
  ("mnli", "test"): (
    "test_matched.tsv",
    f"{MNLI_HEADER}\n" + "\t".join([*"01234567", "A man.", "A dog."]),
    ("A man.", "A dog.", None),
  ),
  ("mrpc", "train"): (
    "train.tsv",
    "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
    '1\t70\t71\tHe said "no" .\t" No , " he said .',
    ('He said "no" .', '" No , " he said .', "1"),
  ),
  ("mrpc", "dev"): (
    "dev.tsv",
    "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
    "0\t70\t71\tOne .\tTwo .",
    ("One .", "Two .", "0"),
  ),
  ("mrpc", "test"): (
    "test.tsv",
    "index\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t70\t71\tOne .\tTwo .",
    ("One .", "Two .", None),
  ),
  ("rte", "dev"): (
    "dev.tsv",
    "index\tsentence1\tsentence2\tlabel\n0\tIt rains.\tIt is wet.\tentailment",
    ("It rains.", "It is wet.", "entailment"),
  ),
  ("rte", "test"): (
    "test.tsv",
    "index\tsentence1\tsentence2\n0\tIt rains.\tIt is wet.",
    ("It rains.", "It is wet.", None),
  ),
  ("sst-2", "train"): (
    "train.tsv",
    "sentence\tlabel\nso good \t1",
    ("so good ", None, "1"),
  ),
  ("sst-2", "test"): (
    "test.tsv",
    "index\tsentence\n0\tso bad .",
    ("so bad .", None, None),
  ),
  ("cola", "dev"): (
    "dev.tsv",
    "clc95\t0\t*\tIn which did you live?",
    ("In which did you live?", None, "0"),
  ),
  ("mnli", "dev_mismatched"): (
    "dev_mismatched.tsv",
    f"{MNLI_HEADER}\tl1\tl2\tl3\tl4\tl5\tgold_label"
    "\n"
    + "\t".join([*"01234567", "A man.", "A dog.", *"ccncc", "contradiction"]),
    ("A man.", "A dog.", "contradiction"),
  ),
  ("mnli", "test_mismatched"): (
    "test_mismatched.tsv",
    f"{MNLI_HEADER}\n" + "\t".join([*"01234567", "A man.", "A dog."]),
    ("A man.", "A dog.", None),
  ),
  ("mnli", "test_ax"): (
    "../AX/AX.tsv",
    "index\tsentence1\tsentence2\n0\tThe cat sat.\tA cat.",
    ("The cat sat.", "A cat.", None),
  ),
  ("mnli", "dev_ax"): (
    "../diagnostic/diagnostic-full.tsv",
    "Lexical Semantics\tPredicate-Argument Structure\tLogic\tKnowledge\t"
    "Domain\tPremise\tHypothesis\tLabel\n\t\tNegation\t\tArtificial\t"
    "The cat sat.\tThe cat did not sit.\tcontradiction",
    ("The cat sat.", "The cat did not sit.", "contradiction"),
  ),
  ("qnli", "train"): (
    "train.tsv",
    "index\tquestion\tsentence\tlabel\n"
    '0\tWho won?\tThe team "X" won.\tnot_entailment',
    ("Who won?", 'The team "X" won.', "not_entailment"),
  ),
  ("qnli", "test"): (
    "test.tsv",
    "index\tquestion\tsentence\n0\tWho?\tHe.",
    ("Who?", "He.", None),
  ),
  ("qqp", "train"): (
    "train.tsv",
    "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
    "133273\t213221\t213222\tHow is it?\tHow's it?\t1",
    ("How is it?", "How's it?", "1"),
  ),
  ("qqp", "test"): (
    "test.tsv",
    "id\tquestion1\tquestion2\n0\tWhy?\tWho?",
    ("Why?", "Who?", None),
  ),
  ("sts-b", "dev"): (
    "dev.tsv",
    "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\t"
    "sentence1\tsentence2\tscore\n0\tmain-captions\tMSRvid\t2012test\t0000"
    "\tnone\tnone\tA man.\tA boy.\t3.800",
    ("A man.", "A boy.", 3.8),
  ),
  ("sts-b", "test"): (
    "test.tsv",
    "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\t"
    "sentence1\tsentence2\n0\tmain-captions\tMSRvid\t2012test\t0024\tnone\t"
    "none\tA man.\tA boy.",
    ("A man.", "A boy.", None),
  ),
  ("wnli", "train"): (
    "train.tsv",
    "index\tsentence1\tsentence2\tlabel\n0\tI stuck a pin.\tA pin.\t1",
    ("I stuck a pin.", "A pin.", "1"),
  ),
}


@pytest.mark.parametrize("name, split", ROWS)
def test_published_layouts(tmp_path, name, split):
  file, content, expected = ROWS[name, split]
  path = tmp_path / "data" / file
  path.parent.mkdir(parents=True)
  (tmp_path / "data").mkdir(exist_ok=True)
  path.write_text(content + "\n", encoding="utf-8")
  task = glue.TASKS[name]
  data_dir = str(tmp_path / "data")
  [example] = task.read_examples(data_dir, split)
  assert (example.text_a, example.text_b, example.label) == expected
  assert example.id == "0"
  assert example.place.endswith(f", line {1 + content.count(chr(10))}")
  task.targets([example], task.labels)
  kind = split.partition("_")[0]
  if split != kind:
    assert task.existing_splits(data_dir, kind) == [kind, split]


def test_every_layout_is_tested():
  tested = {
    columns
    for name, split in ROWS
    for columns in glue.TASKS[name].splits[split]
  }
  # One row for training and dev files that differ in their names alone.
  tested = {dataclasses.replace(columns, file="") for columns in tested}
  for task in glue.TASKS.values():
    for columns in sum(task.splits.values(), []):
      assert dataclasses.replace(columns, file="") in tested, (
        task.name,
        columns,
      )


@pytest.mark.parametrize(
  "name, split", [key for key in ROWS if key != ("mnli", "dev_ax")]
)
def test_a_header_that_is_missing_is_noticed(tmp_path, name, split):
  file, content, _ = ROWS[name, split]
  header, _, row = content.rpartition("\n")
  path = tmp_path / "data" / file
  path.parent.mkdir(parents=True)
  (tmp_path / "data").mkdir(exist_ok=True)
  if header:
    path.write_text(f"{row}\n{row}\n", encoding="utf-8")
    message = "line 1 is an example, but this file begins with a header: "
  else:
    # The files of CoLA have none, but those of other tasks do.
    path.write_text(f"Quality\t#1 ID\ta\tb\n{row}\n", encoding="utf-8")
    message = "line 1 is no example of cola, but perhaps the header of another"
  with pytest.raises(errors.UserError, match=message):
    glue.TASKS[name].read_examples(str(tmp_path / "data"), split)
  path.write_text("")
  with pytest.raises(errors.UserError, match="holds no examples"):
    glue.TASKS[name].read_examples(str(tmp_path / "data"), split)


def test_questions_cut_in_two_are_left_out(tmp_path):
  (tmp_path / "train.tsv").write_text(
    "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
    "1\t2\t3\tHow is it?\tHow\n's it?\t1\n4\t5\t6\tWho?\t\t0\n"
    "7\t8\t9\tWhy?\tWhat for?\t1\n"
  )
  examples = glue.TASKS["qqp"].read_examples(str(tmp_path), "train")
  assert [example.text_a for example in examples] == ["Why?"]


def test_submissions_are_what_the_server_takes():
  assert glue.submission_value(glue.TASKS["sts-b"], 5.25) == "5.000"
  assert glue.submission_value(glue.TASKS["sts-b"], -0.1) == "0.000"
  assert glue.submission_value(glue.TASKS["rte"], "entailment") == "entailment"
  files = {
    file for task in glue.TASKS.values() for file in task.submissions.values()
  }
  assert files == {
    f"{name}.tsv"
    for name in (
      "CoLA",
      "SST-2",
      "MRPC",
      "STS-B",
      "MNLI-m",
      "MNLI-mm",
      "QNLI",
      "QQP",
      "RTE",
      "WNLI",
      "AX",
    )
  }


def test_columns_of_the_published_table_are_in_order():
  columns = glue.table_columns()
  assert [(column.heading, task.name) for task, column in columns] == [
    ("CoLA", "cola"),
    ("SST-2", "sst-2"),
    ("MRPC", "mrpc"),
    ("STS-B", "sts-b"),
    ("QQP", "qqp"),
    ("MNLI-m", "mnli"),
    ("MNLI-mm", "mnli"),
    ("QNLI", "qnli"),
    ("RTE", "rte"),
    ("WNLI", "wnli"),
    ("AX", "mnli"),
  ]
  scores = {column.heading: column.scores for _, column in columns}
  assert scores["CoLA"] == ("matthews",)
  assert scores["STS-B"] == ("pearson", "spearman")
  assert scores["MNLI-mm"] == ("mismatched_accuracy",)
  assert [c.heading for _, c in columns if not c.is_averaged] == ["AX"]
