"""Tests of tasks/glue.py, on rows as the published files have them."""

import pytest

from tasks import glue

MNLI_HEADER = "\t".join(f"column{i}" for i in range(10))
ROWS = {
    ("cola", "train"): ("train.tsv", "gj04\t1\t\tOur friends won't buy this.",
                        ("Our friends won't buy this.", None, "1")),
    ("cola", "test"): ("test.tsv", "index\tsentence\n0\tBill whistled.",
                       ("Bill whistled.", None, None)),
    ("mnli", "train"): (
        "train.tsv", f"{MNLI_HEADER}\tlabel1\tgold_label\n" + "\t".join(
            [*"01234567", "A man.", "A person.", "neutral", "entailment"]),
        ("A man.", "A person.", "entailment")),
    ("mnli", "dev"): (
        "dev_matched.tsv", f"{MNLI_HEADER}\tl1\tl2\tl3\tl4\tl5\tgold_label\n"
        + "\t".join([*"01234567", "A man.", "A dog.", *"nncnc", "neutral"]),
        ("A man.", "A dog.", "neutral")),
    ("mnli", "test"): ("test_matched.tsv", f"{MNLI_HEADER}\n" + "\t".join(
        [*"01234567", "A man.", "A dog."]), ("A man.", "A dog.", None)),
    ("mrpc", "train"): (
        "train.tsv", "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
        '1\t70\t71\tHe said "no" .\t" No , " he said .',
        ('He said "no" .', '" No , " he said .', "1")),
    ("mrpc", "dev"): (
        "dev.tsv", "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
        "0\t70\t71\tOne .\tTwo .", ("One .", "Two .", "0")),
    ("mrpc", "test"): (
        "test.tsv", "index\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
        "0\t70\t71\tOne .\tTwo .", ("One .", "Two .", None)),
    ("rte", "dev"): ("dev.tsv", "index\tsentence1\tsentence2\tlabel\n"
                     "0\tIt rains.\tIt is wet.\tentailment",
                     ("It rains.", "It is wet.", "entailment")),
    ("rte", "test"): ("test.tsv", "index\tsentence1\tsentence2\n"
                      "0\tIt rains.\tIt is wet.",
                      ("It rains.", "It is wet.", None)),
    ("sst-2", "train"): ("train.tsv", "sentence\tlabel\nso good \t1",
                         ("so good ", None, "1")),
    ("sst-2", "test"): ("test.tsv", "index\tsentence\n0\tso bad .",
                        ("so bad .", None, None)),
}


@pytest.mark.parametrize("name, split", ROWS)
def test_published_layouts(tmp_path, name, split):
  file, content, expected = ROWS[name, split]
  (tmp_path / file).write_text(content + "\n", encoding="utf-8")
  task = glue.TASKS[name]
  [example] = task.read_examples(str(tmp_path), split)
  assert (example.text_a, example.text_b, example.label) == expected
  assert example.line == content.count("\n") + 1
  task.label_ids([example], task.labels, split)


def test_ones_own_files(tmp_path):
  (tmp_path / "train.tsv").write_text(
      "id\tkind\twords\n1\tpos\tgood dog\n\n2\tneg\tbad cat\n")
  task = glue.tsv_task("words", None, "kind")
  examples = task.read_examples(str(tmp_path), "train")
  labels = task.find_labels(examples)
  assert labels == ("neg", "pos")
  assert task.label_ids(examples, labels, "train") == [1, 0]
  assert [example.line for example in examples] == [2, 4]


@pytest.mark.parametrize("content, message", [
    (None, "train.tsv does not exist"),
    ("text\tlabel\n", "train.tsv holds no examples"),
    ("", "has no column 'text'"),
    ("words\tlabel\na\tb\n", "no column 'text'.*names: words, label"),
    ("text\tlabel\na\t1\nb\n", "train.tsv, line 3: 1 tab-separated columns, "
     "but at least 2"),
    ("text\tlabel\na\t1\nb\t7\n", "train.tsv, line 3: the label '7' is not one"
     " of: 0, 1")])
def test_bad_files(tmp_path, content, message):
  if content is not None:
    (tmp_path / "train.tsv").write_text(content)
  task = glue.tsv_task("text", None, "label")
  with pytest.raises(ValueError, match=message):
    examples = task.read_examples(str(tmp_path), "train")
    task.label_ids(examples, ("0", "1"), "train")
