"""Tests of run_inputs.py."""

import pytest

from errors import UserError
import run_classifier
import run_ner
import run_squad
from training import run_inputs


def test_config_of_another_model_is_refused_by_field():
  old = {"hidden_size": 8, "num_hidden_layers": 2, "hidden_dropout_prob": 0.1}
  new = {**old, "num_hidden_layers": 1}
  message = "--output_dir=run .*num_hidden_layers is 2 there, but 1 here"
  with pytest.raises(UserError, match=message) as error:
    run_inputs.check_config(old, new, "run")
  assert "hidden_size" not in str(error.value)


def test_config_may_change_what_only_training_uses(caplog):
  # A field that the older version of the program did not know is no change.
  new = {"hidden_size": 8, "hidden_dropout_prob": 0.0, "layer_norm_eps": 1e-12}
  with caplog.at_level("INFO", logger="absl"):
    run_inputs.check_config(
      {"hidden_size": 8, "hidden_dropout_prob": 0.1}, new, "run"
    )
  assert "hidden_dropout_prob was 0.1" in caplog.text


def test_files_are_told_apart_by_content(tmp_path):
  paths = [tmp_path / name for name in ("old", "copy", "other", "longer")]
  for path, content in zip(paths, ("a b", "a b", "a c", "a b ")):
    path.write_text(content)
  old, *new = map(str, paths)
  files = run_inputs.fingerprint_files([old])
  assert run_inputs.describe_other_files(files, files) is None
  text = run_inputs.describe_other_files(
    files, run_inputs.fingerprint_files(new)
  )
  assert text.startswith("other, longer are not files")
  assert run_inputs.describe_other_files({}, files) is None


def _change_rows(path):
  path.write_text(path.read_text().replace("sat", "lay"))


@pytest.fixture(
  params=[
    run_classifier,
    pytest.param(run_ner, marks=pytest.mark.large),
    pytest.param(run_squad, marks=pytest.mark.large),
  ]
)
def training(request):
  """Function that trains a little, and the file that it trains on."""
  if request.param is run_squad:
    answer = request.getfixturevalue("answer")
    file = answer.write("train.json")
    return lambda **flags: answer(
      do_train=True, train_file=file, num_train_epochs=1, **flags
    ), file
  name = "classify" if request.param is run_classifier else "tag"
  train = request.getfixturevalue(name)
  file = next(train.data_dir.glob("train.*"))
  return lambda **flags: train(do_train=True, num_train_epochs=1, **flags), file


def test_run_on_other_data_trains_nothing_and_says_so(training, caplog):
  train, file = training
  run = train()
  weights = (
    run / "export" / "bert_model.ckpt.data-00000-of-00001"
  ).read_bytes()
  caplog.clear()
  train()
  assert "Nothing was trained" in caplog.text
  assert "was trained on so far" not in caplog.text
  _change_rows(file)
  caplog.clear()
  train()
  assert f"{file.name} is not a file that this run was" in caplog.text
  assert f"--init_checkpoint={run}/export/bert_model.ckpt" in caplog.text
  after = (run / "export" / "bert_model.ckpt.data-00000-of-00001").read_bytes()
  assert after == weights
  caplog.clear()
  train(restart=True)
  assert "was trained on so far" not in caplog.text


@pytest.mark.large
def test_pretraining_notices_other_records(create, pretrain, caplog):
  pretrain(create("first.tfrecord"))
  caplog.clear()
  pretrain(create("second.tfrecord", random_seed=7))
  assert "second.tfrecord is not a file that this run was" in caplog.text


def test_fine_tuning_from_random_weights_is_warned_of(classify, caplog):
  classify(do_train=True, num_train_epochs=1)
  assert "random weights. Scores" not in caplog.text
  classify("other", do_train=True, num_train_epochs=1, init_checkpoint="")
  # At the beginning, and among the last lines.
  assert caplog.text.count("random weights. Scores are far better") == 2


def test_another_learning_rate_is_warned_of(classify, caplog):
  classify(do_train=True, num_train_epochs=1)
  caplog.clear()
  classify(do_train=True, num_train_epochs=2, learning_rate=0.1)
  warnings = [
    record.message for record in caplog.records if record.levelname == "WARNING"
  ]
  assert "--learning_rate was 0.001 so far, and is 0.1 now." in warnings[0]


def test_labels_of_another_task_are_refused(classify):
  classify(do_train=True, num_train_epochs=1)
  (classify.data_dir / "test.tsv").write_text("index\tsentence\n0\tgood\n")
  with pytest.raises(UserError, match="labels moving, still, but .*sst-2 has"):
    classify(task_name="SST-2", do_predict=True)
