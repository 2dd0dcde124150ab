"""Tests of estimator.py."""

import dataclasses
import json
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf

import checkpoint
import estimator as estimator_lib
import modeling
import optimization
import run_pretraining


class Line(tf.Module):
  """y = slope * x, with dropout, so that seeds matter."""

  def __init__(self):
    super().__init__()
    self.slope = tf.Variable([[1.0], [2.0]], name="line/kernel")

  def __call__(self, x, seed):
    return tf.matmul(modeling.dropout(x, 0.5, seed, 0), self.slope)[:, 0]


def line_estimator(model_dir=None, num_train_steps=20, seed=1, **config):
  def model_fn(params):
    del params
    model = Line()

    def loss_fn(features, seed):
      error = tf.square(model(features["x"], seed) - features["y"])
      weight = features["weight"]
      return estimator_lib.Losses(
          {"loss": (tf.reduce_sum(error * weight), tf.reduce_sum(weight))},
          {"mean_y": (tf.reduce_sum(features["y"] * weight),
                      tf.reduce_sum(weight))})

    return estimator_lib.EstimatorSpec(
        model, loss_fn, lambda features: {"y": model(features["x"], None)},
        optimization.create_optimizer(0.1, num_train_steps, 0))

  return estimator_lib.TPUEstimator(
      model_fn, estimator_lib.RunConfig(
          model_dir=model_dir and str(model_dir), seed=seed, **config),
      train_batch_size=4, eval_batch_size=4, predict_batch_size=4)


def line_data(num_examples=30, poison=None):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(num_examples, 2)).astype(np.float32)
  y = x @ np.array([3.0, -1.0], np.float32)
  if poison is not None:
    y[poison] = np.nan
  weight = (np.arange(num_examples) % 3 > 0).astype(np.float32)
  return {"x": x, "y": y, "weight": weight, "is_real_example": weight}


def line_input(is_training, **kwargs):
  def input_fn(params):
    dataset = tf.data.Dataset.from_tensor_slices(line_data(**kwargs))
    if is_training:
      dataset = dataset.shuffle(100, seed=params["seed"]).repeat()
    return dataset.batch(params["batch_size"])
  return input_fn


def weights_after(estimator, *stops):
  for stop in stops:
    estimator.train(line_input(True), stop)
  return estimator._spec.model.slope.numpy()


def test_evaluation_weighs_short_batches_and_fillers_exactly(tmp_path):
  estimator = line_estimator(tmp_path)
  estimator.train(line_input(True), 3)
  results = estimator.evaluate(line_input(False))
  data = line_data()
  error = (data["x"] @ estimator._spec.model.slope.numpy()[:, 0]
           - data["y"]) ** 2
  real = data["weight"] > 0
  np.testing.assert_allclose(results["loss"], error[real].mean(), rtol=1e-5)
  np.testing.assert_allclose(results["mean_y"], data["y"][real].mean(),
                             rtol=1e-5)
  assert results["global_step"] == 3
  first_two = estimator.evaluate(line_input(False), steps=2)
  np.testing.assert_allclose(first_two["loss"], error[:8][real[:8]].mean(),
                             rtol=1e-5)


def test_prediction_yields_real_examples_in_order():
  estimator = line_estimator()
  estimator.train(line_input(True), 1)
  predictions = [p["y"] for p in estimator.predict(line_input(False))]
  data = line_data()
  expected = data["x"] @ estimator._spec.model.slope.numpy()[:, 0]
  np.testing.assert_allclose(predictions, expected[data["weight"] > 0],
                             rtol=1e-5)


def test_resumed_run_ends_where_an_uninterrupted_one_does(tmp_path):
  whole = weights_after(line_estimator(), 20)
  first = line_estimator(tmp_path, save_checkpoints_steps=7)
  with pytest.raises(KeyboardInterrupt):
    first._save = _interrupt_after(first._save, 14)
    first.train(line_input(True), 20)
  second = line_estimator(tmp_path)
  assert second.global_step == 14
  np.testing.assert_array_equal(weights_after(second, 20), whole)
  finished = line_estimator(tmp_path)
  np.testing.assert_array_equal(weights_after(finished, 20), whole)
  assert finished.global_step == 20


def _interrupt_after(save, last_step):
  def interrupted(step):
    save(step)
    if step == last_step:
      raise KeyboardInterrupt
  return interrupted


def test_steps_per_call_change_nothing():
  np.testing.assert_array_equal(
      weights_after(line_estimator(iterations_per_loop=1), 20),
      weights_after(line_estimator(), 20))


def test_seed_decides_the_run():
  runs = [weights_after(line_estimator(seed=seed), 10) for seed in (1, 1, 2)]
  np.testing.assert_array_equal(runs[0], runs[1])
  assert np.any(runs[0] != runs[2])


def test_nonfinite_loss_stops_the_run_and_names_the_step(tmp_path):
  def input_fn(params):
    del params
    dataset = tf.data.Dataset.from_tensor_slices(line_data(40, poison=25))
    return dataset.batch(4).repeat()  # the seventh batch is poisoned
  estimator = line_estimator(tmp_path, save_checkpoints_steps=3)
  with pytest.raises(ValueError, match="loss is nan at step 7.*model.ckpt-6"):
    estimator.train(input_fn, 20)
  assert checkpoint.latest(str(tmp_path)).endswith("model.ckpt-6")


def test_too_few_data_are_named():
  with pytest.raises(ValueError, match="training data ended"):
    line_estimator().train(line_input(False), 20)
  with pytest.raises(ValueError, match="nothing to evaluate"):
    estimator = line_estimator()
    estimator.train(line_input(True), 1)
    estimator.evaluate(lambda params: line_input(False)(params).take(0))


def test_random_weights_are_not_evaluated(tmp_path):
  with pytest.raises(ValueError, match="no checkpoint.*Train first"):
    line_estimator(tmp_path).evaluate(line_input(False))


def test_checkpoints_hold_released_names_and_logs_are_written(tmp_path):
  line_estimator(tmp_path).train(line_input(True), 5)
  reader = tf.train.load_checkpoint(str(tmp_path))
  assert {name: str(dtype) for name, dtype in
          reader.get_variable_to_dtype_map().items()} == {
              "global_step": "<dtype: 'int64'>",
              **{f"line/kernel{slot}": "<dtype: 'float32'>"
                 for slot in ("", "/adam_m", "/adam_v")}}
  rows = [json.loads(line) for line in
          (tmp_path / "training_log.jsonl").read_text().splitlines()]
  assert rows[-1]["step"] == 5 and rows[-1]["loss"] > 0
  assert list(tmp_path.glob("events.out.tfevents.*"))


def test_folder_that_cannot_be_written_is_refused(tmp_path):
  (tmp_path / "file").write_text("in the way")
  with pytest.raises(ValueError, match="--output_dir=.* cannot be written"):
    line_estimator(tmp_path / "file" / "run")


def test_folder_with_another_models_checkpoint_is_refused(tmp_path):
  checkpoint.save(str(tmp_path), 9, {"other/kernel": tf.Variable([1.0])}, 5)
  with pytest.raises(ValueError, match="--output_dir=.*lacks.*line/kernel"):
    line_estimator(tmp_path)


def golden_estimator(folder, config, model_dir, num_train_steps=None):
  with open(os.path.join(folder, "training.json")) as reader:
    training = json.load(reader)

  def model_fn(params):
    del params
    model = modeling.BertForPreTraining(dataclasses.replace(
        config, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))
    return estimator_lib.EstimatorSpec(
        model, run_pretraining.loss_fn_builder(model),
        optimizer=optimization.create_optimizer(
            training["learning_rate"],
            num_train_steps or training["num_train_steps"],
            training["num_warmup_steps"]),
        init_checkpoint=os.path.join(folder, "bert_model.ckpt"))

  return estimator_lib.TPUEstimator(model_fn, estimator_lib.RunConfig(
      model_dir=str(model_dir), iterations_per_loop=1))


@pytest.mark.parametrize("case", ["small_gelu", "relu_nomask"])
def test_training_follows_the_reference(golden_dir, tmp_path, case):
  folder = os.path.join(golden_dir, "modeling", case)
  golden = np.load(os.path.join(folder, "golden.npz"))
  config = modeling.BertConfig.from_json_file(
      os.path.join(folder, "bert_config.json"))
  features = {name: golden[name] for name in (
      "input_ids", "input_mask", "segment_ids", "masked_lm_positions",
      "masked_lm_ids", "masked_lm_weights", "next_sentence_labels")}
  if case == "relu_nomask":  # the reference was given neither
    features["input_mask"] = np.ones_like(features["input_ids"])
    features["segment_ids"] = np.zeros_like(features["input_ids"])
  def input_fn(params):
    del params
    return tf.data.Dataset.from_tensors(features).repeat()
  def losses_of(model_dir):
    with open(os.path.join(model_dir, "training_log.jsonl")) as reader:
      return [json.loads(line)["loss"] for line in reader]

  estimator = golden_estimator(folder, config, tmp_path / "ours")
  estimator.train(input_fn, 6)
  np.testing.assert_allclose(losses_of(tmp_path / "ours"),
                             golden["train_losses"], atol=1e-4)
  ours = tf.train.load_checkpoint(str(tmp_path / "ours"))
  theirs = tf.train.load_checkpoint(os.path.join(folder, "model.ckpt-6"))
  names = theirs.get_variable_to_shape_map()
  assert names == ours.get_variable_to_shape_map()
  for name in names:
    np.testing.assert_allclose(ours.get_tensor(name), theirs.get_tensor(name),
                               atol=1e-4, err_msg=name)

  # A run that the reference began goes on as ours would have gone on.
  resumed = tmp_path / "resumed"
  resumed.mkdir()
  for suffix in (".index", ".data-00000-of-00001"):
    shutil.copy(os.path.join(folder, "model.ckpt-6" + suffix), resumed)
  (resumed / "checkpoint").write_text(
      'model_checkpoint_path: "model.ckpt-6"\n')
  other = golden_estimator(folder, config, resumed, num_train_steps=10)
  assert other.global_step == 6
  other.train(input_fn, 10)
  golden_estimator(folder, config, tmp_path / "ours", 10).train(input_fn, 10)
  actual = losses_of(resumed)
  np.testing.assert_allclose(actual[0], golden["loss_after"], atol=1e-4)
  np.testing.assert_allclose(actual, losses_of(tmp_path / "ours")[6:],
                             atol=1e-4)
