"""Tests of tasks/xnli.py, on rows as published."""

import pytest

from tasks import xnli


def test_training_reads_translations(tmp_path):
  (tmp_path / "multinli").mkdir()
  for language in ("en", "ar"):
    path = tmp_path / "multinli" / f"multinli.train.{language}.tsv"
    path.write_text(
      f"premise\thypo\tlabel\nA man .\tNo {language} man .\tcontradictory\n"
    )
  for train_language, expected in [("en", "en"), (None, "ar")]:
    task = xnli.xnli_task(["ar", "zh"], train_language)
    [example] = task.read_examples(str(tmp_path), "train")
    assert example.text_a == "A man ."
    assert example.text_b == f"No {expected} man ."
    assert example.label == "contradiction"


def test_evaluation_reads_both_layouts(tmp_path):
  columns = ["language", "gold_label", *"abcd", "sentence1", "sentence2"]
  rows = ["\t".join(columns)]
  for language in ("ar", "zh", "ar"):
    texts = [f"{language} 1", f"{language} 2"]
    rows.append("\t".join([language, "neutral", *"abcd", *texts]))
  (tmp_path / "xnli.dev.tsv").write_text("\n".join(rows) + "\n")
  (tmp_path / "dev-th.tsv").write_text("th 1\tth 2\tentailment\n")
  task = xnli.xnli_task(["ar", "zh", "th"])
  splits = ["dev", "dev_zh", "dev_th"]
  assert task.existing_splits(str(tmp_path), "dev") == splits
  examples = {
    split: [
      (example.text_a, example.text_b, example.label)
      for example in task.read_examples(str(tmp_path), split)
    ]
    for split in splits
  }
  assert examples == {
    "dev": [("ar 1", "ar 2", "neutral")] * 2,
    "dev_zh": [("zh 1", "zh 2", "neutral")],
    "dev_th": [("th 1", "th 2", "entailment")],
  }
  (tmp_path / "xnli.test.tsv").write_text(rows[1] + "\n" + rows[2] + "\n")
  with pytest.raises(ValueError, match="line 1 is an example, .*: language, g"):
    task.read_examples(str(tmp_path), "test")
  with pytest.raises(ValueError, match="no examples with 'de' in column 0"):
    xnli.xnli_task(["de"]).read_examples(str(tmp_path), "dev")


@pytest.mark.parametrize(
  "languages, train_language, message",
  [
    (["en", "xx"], None, "no language 'xx'. It has: ar, bg"),
    (["en"], "yy", "no language 'yy'"),
    ([], "en", "--language names no language"),
  ],
)
def test_unknown_languages_are_refused(languages, train_language, message):
  with pytest.raises(ValueError, match=message):
    xnli.xnli_task(languages, train_language)
