"""Tests of common_flags.py: flags have their effect in every program."""

import contextlib
import functools
import json
import os

from absl import flags
import builders
import numpy as np
import pytest
import tensorflow as tf

import create_pretraining_data
from data import tokenizer_settings
from errors import UserError
import estimator
import export_saved_model
import extract_features
import optimization
import predict
import run_glue
import tokenization

# Flags of the optimizer, and the optimizer that they should give. No flag can
# have the effect of another.
OPTIMIZER_FLAGS = [
  (
    dict(
      bias_correction=True,
      lr_decay="poly",
      lr_decay_power=3.0,
      layerwise_lr_decay=0.5,
    ),
    dict(
      bias_correction=True,
      lr_decay="poly",
      lr_decay_power=3.0,
      rate_multiplier=optimization.layerwise_multiplier(2, 0.5),
    ),
  ),
  (
    dict(optimizer="lamb", lr_decay="cosine"),
    dict(optimizer="lamb", lr_decay="cosine"),
  ),
]


class TrainingBegan(BaseException):
  """Ends a program where it would begin to train."""


@pytest.fixture
def start_training(monkeypatch, request, tmp_path):
  """Runs a program until it trains; returns its estimator and `max_steps`.

  The loss of its first batch is computed, with the model in Python.
  """
  calls = []

  def train(self, input_fn, max_steps, *unused, **unused_too):
    params = {"batch_size": 2, "seed": 1}
    features = next(iter(input_fn(params)))
    self._spec.loss_fn(features, None)
    calls.append((self, max_steps))
    raise TrainingBegan

  monkeypatch.setattr(estimator.TPUEstimator, "train", train)

  def start(program, **values):
    values = dict(do_train=True, learning_rate=0.1, **values)
    fixture = request.getfixturevalue(PROGRAMS[program])
    with contextlib.suppress(TrainingBegan):
      if program == "run_pretraining":
        create = request.getfixturevalue("create")
        fixture(create(), num_train_steps=40, num_warmup_steps=4, **values)
      elif program == "run_squad":
        fixture(train_file=fixture.write("train.json"), **values)
      else:
        if program == "run_swag":
          (tmp_path / "train.csv").write_text(
            "video-id,fold-ind,startphrase,sent1,sent2,gold-source,ending0,"
            "ending1,ending2,ending3,label\n"
            + "v,1,s,the dog,it was,gold,a cat,a dog,a bird,red,1\n"
            * 8
          )
        fixture(**values)
    assert calls, "It did not train."
    return calls.pop()

  return start


# Program -> fixture that runs it.
PROGRAMS = {
  "run_pretraining": "pretrain",
  "run_classifier": "classify",
  "run_ner": "tag",
  "run_squad": "answer",
  "run_swag": "choose",
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_dropout_of_a_training_replaces_that_of_the_config(
  start_training, program
):
  trainer, _ = start_training(program, dropout=0.25)
  trained = trainer._spec.model.bert.config
  assert trained.hidden_dropout_prob == 0.25
  assert trained.attention_probs_dropout_prob == 0.25
  stored = trainer._spec.model_config
  assert stored == builders.tiny_config().to_dict()
  assert stored["hidden_dropout_prob"] != 0.25


def weights_after_two_updates(optimizer):
  """Returns weights of several layers, after updates with fixed gradients."""
  rng = np.random.default_rng(0)
  names = [
    "bert/embeddings/word_embeddings",
    "bert/encoder/layer_0/output/dense/kernel",
    "bert/encoder/layer_1/output/dense/bias",
    "output_weights",
  ]
  variables = [
    tf.Variable(rng.normal(size=(3, 2)), name=name, dtype=tf.float32)
    for name in names
  ]
  optimizer.build(variables)
  for step in (5, 20):  # in the middle of the run, where rates differ most
    gradients = [tf.constant(rng.normal(size=(3, 2)), tf.float32)] * len(names)
    optimizer.apply_gradients(gradients, variables, tf.constant(step))
  return np.stack([variable.numpy() for variable in variables])


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("values, options", OPTIMIZER_FLAGS)
def test_optimizer_follows_its_flags(start_training, program, values, options):
  trained, max_steps = start_training(program, **values)
  assert max_steps > 21
  num_warmup_steps = 4 if program == "run_pretraining" else int(max_steps * 0.1)
  optimizer = trained._spec.optimizer

  def rates(schedule):
    return [float(schedule(step)) for step in range(0, max_steps + 1, 3)]

  def reference(**changes):
    return optimization.create_optimizer(
      0.1, max_steps, num_warmup_steps, **{**options, **changes}
    )

  expected = reference()
  assert rates(optimizer.schedule) == rates(expected.schedule)
  weights = weights_after_two_updates(optimizer)
  np.testing.assert_array_equal(weights, weights_after_two_updates(expected))
  # Each of the flags makes a difference here.
  defaults = dict(
    optimizer="adamw",
    lr_decay="linear",
    lr_decay_power=1.0,
    bias_correction=False,
    rate_multiplier=None,
  )
  for name in options:
    other = reference(**{name: defaults[name]})
    assert np.any(weights_after_two_updates(other) != weights), name


def test_choices_of_the_optimizer_are_those_of_the_tables(start_training):
  start_training("run_ner")
  for flag, table in [
    ("optimizer", optimization.OPTIMIZERS),
    ("lr_decay", optimization.LR_DECAYS),
  ]:
    assert flags.FLAGS[flag].parser.enum_values == list(table)


class ProductWasReached(BaseException):
  """Ends a program at its first matrix product."""


@pytest.fixture
def product_type(monkeypatch):
  """Returns the type of the first matrix product of a program.

  It is that of the first dense layer, whose input are activations.
  """
  types = []

  def multiply(a, b, *args, **kwargs):
    types.append(a.dtype)
    raise ProductWasReached

  def run(program, *args, **kwargs):
    with monkeypatch.context() as context:
      context.setattr(tf, "matmul", multiply)
      with pytest.raises(ProductWasReached):
        program(*args, **kwargs)
    return types.pop()

  return run


@pytest.mark.parametrize("program", PROGRAMS)
def test_precision_is_the_type_of_activations_in_training(
  start_training, product_type, program
):
  for name in ("bfloat16", "float32"):
    run = functools.partial(start_training, program, precision=name)
    assert product_type(run, output=name) == name


@pytest.mark.parametrize(
  "program, values",
  [
    (
      extract_features,
      dict(
        input_file="in.txt",
        output_file="{name}.jsonl",
        layers="-1",
        max_seq_length="16",
      ),
    ),
    (predict, dict(text="the [MASK] sat")),
    (export_saved_model, dict(export_dir="{name}", max_seq_length="16")),
  ],
)
def test_precision_is_the_type_of_activations_in_prediction(
  run_program,
  config_file,
  vocab_file,
  init_checkpoint,
  product_type,
  monkeypatch,
  tmp_path,
  program,
  values,
):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "in.txt").write_text("the cat sat\n")
  for name in ("bfloat16", "float32"):
    actual = product_type(
      run_program,
      program,
      bert_config_file=config_file,
      vocab_file=vocab_file,
      init_checkpoint=init_checkpoint,
      precision=name,
      **{flag: value.format(name=name) for flag, value in values.items()},
    )
    assert actual == name


def test_precision_reaches_the_runs_of_glue(
  run_program, config_file, vocab_file, init_checkpoint, monkeypatch, tmp_path
):
  def begin(arguments, log_file):
    assert "--precision=bfloat16" in arguments
    raise TrainingBegan

  monkeypatch.setattr(run_glue, "_run_classifier", begin)
  folder = tmp_path / "glue" / "RTE"
  folder.mkdir(parents=True)
  for split in ("train", "dev"):
    (folder / f"{split}.tsv").write_text(
      "index\tsentence1\tsentence2\tlabel\n0\tthe cat\ta cat\tentailment\n"
    )
  with pytest.raises(TrainingBegan):
    run_program(
      run_glue,
      tasks="RTE",
      data_dir=tmp_path / "glue",
      bert_config_file=config_file,
      vocab_file=vocab_file,
      init_checkpoint=init_checkpoint,
      output_dir=tmp_path / "results",
      precision="bfloat16",
    )


# --- The tokenizer -----------------------------------------------------------

# Program without training -> flags that it requires.
OTHER_PROGRAMS = {
  create_pretraining_data: dict(input_file="in.txt", output_file="x.tfrecord"),
  extract_features: dict(
    input_file="in.txt", output_file="x", layers="-1", max_seq_length=16
  ),
  predict: dict(text="the [MASK] sat"),
  export_saved_model: dict(export_dir="served"),
}


class TokenizerWasCreated(BaseException):
  """Ends a program that creates a tokenizer; its argument are the settings."""


@pytest.fixture
def read_settings(
  run_program,
  config_file,
  init_checkpoint,
  vocab_file,
  request,
  monkeypatch,
  tmp_path,
):
  """Returns the settings with which a program creates its tokenizer."""

  def create(vocab_file, settings, never_split=()):
    raise TokenizerWasCreated(settings)

  monkeypatch.setattr(tokenization.FullTokenizer, "from_settings", create)
  monkeypatch.chdir(tmp_path)
  (tmp_path / "in.txt").write_text("the cat sat\n")

  def read(program, **values):
    with pytest.raises(TokenizerWasCreated) as reached:
      if program in PROGRAMS:
        fixture = request.getfixturevalue(PROGRAMS[program])
        if program == "run_squad":
          values["train_file"] = fixture.write("train.json")
        fixture(do_train=True, **values)
      else:
        run_program(
          program, model=tmp_path, **OTHER_PROGRAMS[program], **values
        )
    return reached.value.args[0]

  read.folder = tmp_path
  return read


@pytest.mark.parametrize(
  "program",
  [*OTHER_PROGRAMS, *sorted(set(PROGRAMS) - {"run_pretraining"})],
  ids=lambda program: getattr(program, "__name__", program),
)
def test_settings_next_to_the_vocabulary_and_flags_reach_the_tokenizer(
  read_settings, program
):
  given = dict(do_lower_case=True)  # the fixture of one program gives it
  assert read_settings(program, **given).to_fields() == {"do_lower_case": True}
  fields = {
    "do_lower_case": True,
    "strip_accents": False,
    "tokenize_chinese_chars": False,
    "sep_token": "[END]",
  }
  path = read_settings.folder / "tokenizer_config.json"
  path.write_text(json.dumps(fields))
  assert read_settings(program, **given).to_fields() == fields
  settings = read_settings(
    program, strip_accents=True, special_tokens="cls=<s>,sep=</s>", **given
  )
  assert settings == tokenizer_settings.TokenizerSettings(
    True, True, False, tokenizer_settings.SpecialTokens(cls="<s>", sep="</s>")
  )


def test_flags_decide_against_the_folder_with_a_warning(read_settings, caplog):
  path = read_settings.folder / "tokenizer_config.json"
  path.write_text('{"do_lower_case": false}')
  assert not read_settings(extract_features).do_lower_case
  assert not caplog.messages
  assert read_settings(extract_features, do_lower_case=True).do_lower_case
  [message] = caplog.messages
  assert "The flags say do_lower_case=True, but the files next to" in message
  assert message.endswith("vocab.txt say False. The flags decide.")


@pytest.mark.parametrize("program", [create_pretraining_data, predict])
def test_masks_need_their_token(
  run_program,
  init_checkpoint,
  vocab_file,
  config_file,
  tmp_path,
  monkeypatch,
  program,
):
  monkeypatch.chdir(tmp_path)
  path = tmp_path / "vocab.txt"
  path.write_text(path.read_text().replace("[MASK]", "<mask>"))
  (tmp_path / "in.txt").write_text("the cat sat\n")
  with pytest.raises(
    UserError, match=r"no token \[MASK\].*--special_tokens=mask=<name>"
  ):
    run_program(program, model=tmp_path, **OTHER_PROGRAMS[program])


@pytest.mark.parametrize(
  "special_tokens, message",
  [
    ("mask=<mask>", "has no token <mask>, which is needed.*=mask=<name>"),
    ("<s>", "'<s>' is not of the form name=token"),
  ],
)
def test_special_tokens_that_are_refused(
  run_program, text_file, vocab_file, special_tokens, message
):
  with pytest.raises(UserError, match=message):
    run_program(
      create_pretraining_data,
      input_file=text_file,
      vocab_file=vocab_file,
      output_file=os.path.join(os.path.dirname(vocab_file), "x.tfrecord"),
      special_tokens=special_tokens,
    )
