"""Tests of run_glue.py."""

import json
import pathlib

import builders
import pytest

from errors import UserError
import run_glue
from tasks import glue


@pytest.fixture
def glue_runs(run_program, config_file, vocab_file, init_checkpoint, tmp_path):
  for folder, header, row in [
    ("RTE", "index\tsentence1\tsentence2{}", "0\tthe cat\ta cat{}"),
    ("MRPC", "{}\t1\t2\tsentence1\tsentence2", "{}\t1\t2\tthe cat\ta cat"),
  ]:
    (tmp_path / "glue" / folder).mkdir(parents=True)
    labels = {"RTE": ["\tentailment", "\tnot_entailment"], "MRPC": ["0", "1"]}[
      folder
    ]
    for split in ("train", "dev"):
      (tmp_path / "glue" / folder / f"{split}.tsv").write_text(
        header.format("\tlabel")
        + "\n"
        + "".join(row.format(label) + "\n" for label in labels)
      )

  def run(output="results", **flags):
    run_program(
      run_glue,
      **{
        **dict(
          data_dir=tmp_path / "glue",
          bert_config_file=config_file,
          vocab_file=vocab_file,
          init_checkpoint=init_checkpoint,
          output_dir=tmp_path / output,
          max_seq_length=16,
          batch_sizes="2",
          learning_rates="0.001",
          seeds="1",
          num_train_epochs=4,
        ),
        **flags,
      },
    )
    return tmp_path / output

  return run


def test_the_grid_finds_the_best_and_resumes(glue_runs, monkeypatch):
  calls = []

  def fake(arguments, log_file):
    """Writes scores that follow the learning rate and, less, the seed."""
    del log_file
    flags = dict(argument[2:].partition("=")[::2] for argument in arguments)
    calls.append(flags)
    if len(calls) == 5:
      raise KeyboardInterrupt
    folder = pathlib.Path(flags["output_dir"])
    (folder / "export").mkdir(parents=True)
    score = {"0.001": 0.5, "0.002": 0.7}[flags["learning_rate"]] + 0.01 * int(
      flags["seed"]
    )
    metrics = {"rte": ["accuracy"], "mrpc": ["accuracy", "f1"]}
    (folder / "eval_results.txt").write_text(
      "".join(
        f"eval_{metric} = {score + 0.1 * (metric == 'f1')}\n"
        for metric in metrics[flags["task_name"]]
      )
    )

  monkeypatch.setattr(run_glue, "_run_classifier", fake)
  flags = dict(batch_sizes="2,4", learning_rates="0.001,0.002", seeds="1,2,3")
  with pytest.raises(KeyboardInterrupt):
    glue_runs(**flags)
  results = glue_runs(**flags)
  # Two tasks with four points and two further seeds; one run started twice.
  assert len(calls) == 13
  summary = json.loads((results / "results.json").read_text())
  assert summary["num_tasks"] == 2
  # F1 is 0.1 above the accuracy: the mean of MRPC is 0.77, that of RTE 0.72.
  assert summary["score"] == pytest.approx((0.77 + 0.72) / 2)
  assert summary["columns"]["RTE"]["accuracy"] == pytest.approx(
    {"mean": 0.72, "deviation": 0.01}
  )
  best = summary["tasks"]["rte"]
  assert (best["learning_rate"], best["best_seed"]) == (0.002, 3)
  [row] = [
    line
    for line in (results / "results.md").read_text().splitlines()
    if "82.0" in line
  ]
  assert "| 82.0 ± 1.0 / 72.0 ± 1.0 |" in row and "| 72.0 ± 1.0 |" in row
  assert (results / "results.png").read_bytes().startswith(b"\x89PNG")
  # Only the best run of a task keeps its weights.
  kept = sorted(path.parent.name for path in results.glob("*/*/export"))
  assert kept == ["batch2_rate0.002_seed3"] * 2
  # Another task joins the table.
  glue_runs(**{**flags, "tasks": "rte"})
  assert len(calls) == 13
  summary = json.loads((results / "results.json").read_text())
  assert set(summary["tasks"]) == {"rte", "mrpc"}
  with pytest.raises(
    ValueError,
    match="holds a run with other settings: "
    "--num_train_epochs=4 --num_train_epochs=5",
  ):
    glue_runs(**flags, num_train_epochs=5)


def test_rules_for_tables_hold_for_the_check_and_for_prediction(
  glue_runs, tmp_path, monkeypatch
):
  folder = tmp_path / "glue" / "RTE"
  for split in ("train", "dev"):
    with open(folder / f"{split}.tsv", "a", encoding="latin1") as writer:
      writer.write("1\t\ta cat\tentailment\n1\tcaf\xe9\ta cat\tentailment\n")
  (folder / "test.tsv").write_text("index\tsentence1\tsentence2\n0\ta\tb\n")
  commands = []

  def fake(arguments, log_file):
    del log_file
    commands.append(arguments)
    flags = dict(argument[2:].partition("=")[::2] for argument in arguments)
    output = pathlib.Path(flags["output_dir"])
    (output / "export").mkdir(parents=True, exist_ok=True)
    (output / "eval_results.txt").write_text("eval_accuracy = 0.5\n")

  monkeypatch.setattr(run_glue, "_run_classifier", fake)
  with pytest.raises(UserError, match="train.tsv.*not UTF-8"):
    glue_runs(tasks="rte", classifier_flags="--missing=skip --bias_correction")
  rules = ["--missing=skip", "--encoding=latin1"]
  glue_runs(
    tasks="rte", classifier_flags=f"--bias_correction {' '.join(rules)}"
  )
  training, prediction = commands
  assert "--do_train" in training and {"--bias_correction", *rules} < {
    *training
  }
  assert "--do_predict" in prediction and {*rules} < {*prediction}
  assert "--bias_correction" not in prediction
  with pytest.raises(UserError, match="--classifier_flags=--missing=x: .*skip"):
    glue_runs(tasks="rte", classifier_flags="--missing=x")


def test_a_new_task_has_a_column(monkeypatch):
  task = glue.GlueTask(name="scitail", folder="SciTail", splits={})
  monkeypatch.setitem(glue.TASKS, "scitail", task)
  seeds = [{"seed": 1, "scores": {"eval_accuracy": 0.9}}]
  result = {
    "batch_size": 8,
    "learning_rate": 1e-4,
    "grid": [{"batch_size": 8, "learning_rate": 1e-4, "score": 0.9}],
    "seeds": seeds,
    "best_seed": 1,
  }
  summary = run_glue.summarize({"scitail": result})
  assert summary["score"] == 0.9
  table = run_glue.to_markdown(summary, "model")
  assert "| WNLI | SciTail | AX |" in table
  assert "| model | 90.0 |" in table
  assert "| SciTail | 8 | 0.0001 | 1 | 1 | 8 x 0.0001: 90.0 |" in table


@pytest.mark.large
def test_glue_with_real_runs(glue_runs, tmp_path):
  (tmp_path / "glue" / "RTE" / "test.tsv").write_text(
    "index\tsentence1\tsentence2\n0\tthe cat\ta cat\n"
  )
  results = glue_runs(tasks="rte", learning_rates="0.001,0.002")
  assert "| RTE | 2 |" in (results / "results.md").read_text()
  builders.assert_has_report(results)
  assert len(builders.read_table(results / "submission" / "RTE.tsv")) == 2
  with pytest.raises(ValueError, match="multiple of 4.*The rest is in"):
    glue_runs(
      "other", tasks="rte", classifier_flags="--gradient_accumulation_steps=4"
    )


@pytest.mark.parametrize(
  "flags, message",
  [
    (dict(tasks="rte,sst"), "'sst', which is not one of: cola, sst-2,"),
    (
      dict(tasks="sst-2"),
      "no folder SST-2. The folders that it has: MRPC, RTE",
    ),
    (dict(batch_sizes="8,x"), "--batch_sizes=8,x is not a list of posi"),
    (dict(init_checkpoint=""), "Pass --init_checkpoint, or --model"),
  ],
)
def test_glue_refuses(glue_runs, tmp_path, flags, message):
  with pytest.raises(ValueError, match=message):
    glue_runs(**flags)
  assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("folder", ["rte", "R-TE"])
def test_folders_of_tasks_may_be_spelled_otherwise(glue_runs, tmp_path, folder):
  path = tmp_path / "glue" / folder
  (tmp_path / "glue" / "RTE").rename(path)
  (path / "train.tsv").unlink()
  with pytest.raises(ValueError, match=f"{path}/train.tsv does not exist"):
    glue_runs(tasks="rte")
