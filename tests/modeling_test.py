"""Tests of modeling.py."""

import functools
import json
import os

import builders
import numpy as np
import pytest
import tensorflow as tf

import checkpoint
from data import released_models
from errors import UserError
import losses
import modeling
import operations

LAYER_NAMES = [
  "attention/self/query/kernel",
  "attention/self/query/bias",
  "attention/self/key/kernel",
  "attention/self/key/bias",
  "attention/self/value/kernel",
  "attention/self/value/bias",
  "attention/output/dense/kernel",
  "attention/output/dense/bias",
  "attention/output/LayerNorm/gamma",
  "attention/output/LayerNorm/beta",
  "intermediate/dense/kernel",
  "intermediate/dense/bias",
  "output/dense/kernel",
  "output/dense/bias",
  "output/LayerNorm/gamma",
  "output/LayerNorm/beta",
]
OTHER_NAMES = [
  "bert/embeddings/word_embeddings",
  "bert/embeddings/position_embeddings",
  "bert/embeddings/token_type_embeddings",
  "bert/embeddings/LayerNorm/gamma",
  "bert/embeddings/LayerNorm/beta",
  "bert/pooler/dense/kernel",
  "bert/pooler/dense/bias",
  "cls/predictions/transform/dense/kernel",
  "cls/predictions/transform/dense/bias",
  "cls/predictions/transform/LayerNorm/gamma",
  "cls/predictions/transform/LayerNorm/beta",
  "cls/predictions/output_bias",
  "cls/seq_relationship/output_weights",
  "cls/seq_relationship/output_bias",
]


def random_batch(config, batch_size=13, seq_length=7, seed=0):
  rng = np.random.default_rng(seed)
  lengths = rng.integers(2, seq_length + 1, batch_size)
  return {
    "input_ids": rng.integers(0, config.vocab_size, (batch_size, seq_length)),
    "input_mask": (np.arange(seq_length) < lengths[:, None]).astype(np.int32),
    "token_type_ids": rng.integers(
      0, config.type_vocab_size, (batch_size, seq_length)
    ),
  }


def test_shapes_of_all_outputs():
  config = builders.tiny_config(num_hidden_layers=5)
  model = modeling.BertModel(config)
  batch = random_batch(config)
  output = model(**batch)
  assert output.pooled_output.shape == (13, 32)
  assert output.embedding_output.shape == (13, 7, 32)
  assert [x.shape for x in output.all_encoder_layers] == [(13, 7, 32)] * 5
  np.testing.assert_array_equal(
    output.sequence_output, output.all_encoder_layers[-1]
  )
  np.testing.assert_array_equal(
    model.get_pooled_output(**batch), output.pooled_output
  )
  assert model.get_embedding_table().shape == (config.vocab_size, 32)


def test_variables_have_their_released_names():
  model = modeling.BertForPreTraining(builders.tiny_config())
  expected = OTHER_NAMES + [
    f"bert/encoder/layer_{layer}/{name}"
    for layer in range(2)
    for name in LAYER_NAMES
  ]
  assert sorted(checkpoint.variables_by_name(model)) == sorted(expected)
  classifier = modeling.BertForSequenceClassification(
    builders.tiny_config(), num_labels=3
  )
  shapes = {
    name: tuple(v.shape)
    for name, v in checkpoint.variables_by_name(classifier).items()
  }
  assert shapes["output_weights"] == (3, 32) and shapes["output_bias"] == (3,)


def test_the_model_without_a_pooler_has_no_variables_of_one():
  config = builders.tiny_config()
  whole = modeling.BertForTokenClassification(config, 3)
  model = modeling.BertForTokenClassification(config, 3, add_pooler=False)
  names = set(checkpoint.variables_by_name(whole))
  assert names - set(checkpoint.variables_by_name(model)) == {
    "bert/pooler/dense/kernel",
    "bert/pooler/dense/bias",
  }
  batch = random_batch(config)
  assert model.bert(**batch).pooled_output is None
  # The other weights are drawn as before.
  np.testing.assert_array_equal(model(**batch), whole(**batch))


def test_layer_norm_adds_the_epsilon_of_the_config():
  config = builders.tiny_config(layer_norm_eps=0.5)
  rows = np.random.default_rng(0).normal(size=(3, 32)).astype(np.float32)
  norm = modeling.LayerNorm("x", config, modeling.Initializer(0, 0.02))
  centered = rows - rows.mean(axis=1, keepdims=True)
  expected = centered / np.sqrt(rows.var(axis=1, keepdims=True) + 0.5)
  np.testing.assert_allclose(norm(rows), expected, atol=1e-6)
  assert "layer_norm_eps" in config.to_json_string()
  # Released configs do not have it.
  assert "layer_norm_eps" not in builders.tiny_config().to_json_string()


def test_padding_does_not_change_real_positions():
  config = builders.tiny_config()
  model = modeling.BertModel(config)
  batch = random_batch(config)
  before = model(**batch).sequence_output.numpy()
  hidden = batch["input_mask"] == 0
  batch["input_ids"] = np.where(hidden, 5, batch["input_ids"])
  after = model(**batch).sequence_output.numpy()
  np.testing.assert_allclose(before[~hidden], after[~hidden], atol=1e-6)
  longer = {
    name: np.pad(value, [(0, 0), (0, 9)]) for name, value in batch.items()
  }
  padded = model(**longer).sequence_output.numpy()[:, :7]
  np.testing.assert_allclose(before[~hidden], padded[~hidden], atol=1e-5)


def test_a_row_that_is_masked_everywhere_stays_finite():
  config = builders.tiny_config()
  output = modeling.BertModel(config)(
    np.zeros((2, 6), int), np.zeros((2, 6), int)
  )
  assert np.all(np.isfinite(output.sequence_output))


def test_attention_agrees_with_numpy():
  config = builders.tiny_config()
  attention = modeling.SelfAttention(
    "x", config, modeling.Initializer(3, 0.5), operations.TRAINED
  )
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, 5, 32)).astype(np.float32)
  bias = np.array([[0] * 5, [0, 0, 0, -10000, -10000]], np.float32)
  rows = tf.reshape(x, [10, 32])
  layout = modeling.TokenLayout(None, tf.constant(bias[:, None, None]), None)
  actual = attention(rows, rows, layout, None)
  q, k, v = (
    x @ dense.kernel.numpy()
    for dense in (attention.query, attention.key, attention.value)
  )
  expected = np.zeros_like(x)
  for b in range(2):
    for head in range(4):
      part = slice(8 * head, 8 * head + 8)
      scores = q[b, :, part] @ k[b, :, part].T / np.sqrt(8) + bias[b]
      probs = np.exp(scores - scores.max(-1, keepdims=True))
      probs /= probs.sum(-1, keepdims=True)
      expected[b, :, part] = probs @ v[b, :, part]
  np.testing.assert_allclose(actual, expected.reshape(10, 32), atol=1e-4)


HEAD_MODELS = [
  # The model, its arguments after the config, and whether dropout follows the
  # encoder.
  (modeling.BertForSequenceClassification, [3], True),
  (modeling.BertForTokenClassification, [3], True),
  (modeling.BertForMultipleChoice, [], True),
  (modeling.BertForQuestionAnswering, [], False),
]


@pytest.mark.parametrize("model_class, arguments, has_own", HEAD_MODELS)
def test_every_dropout_of_a_model_changes_its_logits(
  monkeypatch, model_class, arguments, has_own
):
  config = builders.tiny_config(
    hidden_dropout_prob=0.5,
    attention_probs_dropout_prob=0.25,
    initializer_range=0.5,
  )
  model = model_class(config, *arguments)
  batch = list(random_batch(config).values())
  if model_class is modeling.BertForMultipleChoice:
    batch = [np.stack([x, x[::-1]], axis=1) for x in batch]
  calls = []
  dropout = operations.dropout

  def logits(only_call):
    """Returns logits with the dropout of one call alone."""
    calls.clear()

    def patched(x, rate, seed):
      calls.append((rate, tuple(seed.numpy())))
      is_active = len(calls) - 1 == only_call
      return dropout(x, rate, seed) if is_active else x

    monkeypatch.setattr(operations, "dropout", patched)
    with builders.untraced():
      return np.array(model(*batch, dropout_seed=tf.constant([5, 7])))

  without = logits(only_call=None)
  # Embeddings; attention and two outputs of each layer; before the head.
  assert [rate for rate, _ in calls] == (
    [0.5] + [0.25, 0.5, 0.5] * 2 + [0.5] * has_own
  )
  assert len({seed for _, seed in calls}) == len(calls)
  for call in range(len(calls)):
    assert np.abs(logits(only_call=call) - without).max() > 1e-3, call
  calls.clear()
  with builders.untraced():
    logits_of_evaluation = np.array(model(*batch))
  np.testing.assert_array_equal(logits_of_evaluation, without)
  assert not calls


def test_dropout_draws_by_its_path_and_its_seed():
  x = tf.ones([100, 10])
  seed = tf.constant([1, 2])
  dropped = modeling.Dropout("a/b", 0.5)(x, seed)
  np.testing.assert_array_equal(modeling.Dropout("a/b", 0.5)(x, seed), dropped)
  for other in [
    modeling.Dropout("a/c", 0.5)(x, seed),
    modeling.Dropout("a/b", 0.5)(x, tf.constant([1, 3])),
    modeling.Dropout("a/b", 0.5)(x, tf.constant([2, 2])),
  ]:
    assert np.any(other != dropped)
  np.testing.assert_array_equal(modeling.Dropout("a/b", 0.5)(x, None), x)
  np.testing.assert_array_equal(modeling.Dropout("a/b", 0.0)(x, seed), x)


def test_kernels_are_stored_in_the_type_that_computes():
  model = modeling.BertModel(builders.tiny_config(), tf.bfloat16, seed=1)
  ids = tf.constant([[3, 8, 9, 4]])
  expected = model(ids).pooled_output
  modeling.store_kernels(model, tf.bfloat16)
  for name, variable in checkpoint.variables_by_name(model).items():
    is_stored = name.endswith(("/kernel", "/bias"))
    assert variable.dtype == (tf.bfloat16 if is_stored else tf.float32), name
  np.testing.assert_array_equal(model(ids).pooled_output, expected)


@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16, tf.float16])
def test_portable_models_compute_the_same(dtype):
  config = builders.tiny_config(hidden_act="gelu_erf", layer_norm_eps=0.1)
  batch = random_batch(config)
  outputs, gradients = [], []
  for is_portable in (False, True):
    model = modeling.BertModel(config, dtype, seed=1, is_portable=is_portable)
    with tf.GradientTape() as tape:
      output = model(**batch).pooled_output
      loss = tf.reduce_sum(tf.cast(output, tf.float32) ** 3)
    variables = model.trainable_variables
    outputs.append(tf.cast(output, tf.float32))
    gradients.append(tape.gradient(loss, variables))
  tolerance = 1e-5 if dtype == tf.float32 else 0.05
  np.testing.assert_allclose(*outputs, atol=tolerance)
  scale = max(float(tf.reduce_max(tf.abs(grad))) for grad in gradients[0])
  for trained, portable in zip(*gradients, strict=True):
    np.testing.assert_allclose(trained, portable, atol=tolerance * scale)


def test_recomputation_repeats_the_layers_for_the_gradient():
  config = builders.tiny_config(num_hidden_layers=3)
  batch = random_batch(config)

  def num_attentions(recompute_activations):
    model = modeling.BertModel(
      config, recompute_activations=recompute_activations
    )

    @tf.function
    def gradients():
      with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(**batch).sequence_output)
      return tape.gradient(loss, model.layers[0].trainable_variables)

    graph = gradients.get_concrete_function().graph.as_graph_def()
    # Attention is a function, of which a gradient has a name of its own.
    called = [node.attr["f"].func.name for node in graph.node]
    return sum(
      "__attend_" in name and "backward" not in name for name in called
    )

  assert (num_attentions(False), num_attentions(True)) == (3, 6)


def test_positions_alone_get_what_they_get_in_the_whole_last_layer():
  config = builders.tiny_config()
  model = modeling.BertModel(config, seed=3)
  batch = random_batch(config)
  positions = np.array([[6, 0, 3]] * 13)
  starts = np.array([[0, 4]] * 13)
  for packing in ({}, {"sequence_starts": starts}):
    whole = model(**batch, **packing).sequence_output
    chosen = model.encode_positions(positions, **batch, **packing)
    np.testing.assert_allclose(
      chosen, tf.gather(whole, positions, batch_dims=1), atol=1e-5
    )


@pytest.mark.parametrize("is_packed", [False, True])
def test_portable_models_skip_padding_and_compute_the_same_tokens(is_packed):
  config = builders.tiny_config()
  batch = random_batch(config)
  batch["input_mask"][3] = [1, 0, 1, 1, 0, 0, 1]
  batch["input_mask"][5] = 0  # a row that only fills the batch
  if is_packed:
    batch["sequence_starts"] = np.array([[0, 3]] * 13)
  mask = batch["input_mask"] > 0
  model = modeling.BertModel(config, seed=3)
  unpadded = modeling.BertModel(config, seed=3, is_portable=True)

  layers = [tf.stack(m(**batch).all_encoder_layers) for m in (model, unpadded)]
  with_padding, without_padding = (layer.numpy() for layer in layers)
  np.testing.assert_allclose(
    without_padding[:, mask], with_padding[:, mask], atol=1e-5
  )
  # Padding is not computed: it has the values of the token before it.
  np.testing.assert_array_equal(
    without_padding[:, 3, [1, 4, 5]], without_padding[:, 3, [0, 3, 3]]
  )
  first = without_padding[:, 5, :1]
  assert np.isfinite(first).all()
  assert (without_padding[:, 5] == first).all()

  positions = np.array([[0, 1]] * 13)
  positions[3, 1] = 6
  chosen = unpadded.encode_positions(positions, **batch)
  whole = tf.gather(without_padding[-1], positions, batch_dims=1)
  np.testing.assert_allclose(chosen, whole, atol=1e-5)


def test_bfloat16_stays_near_float32():
  config = builders.tiny_config(initializer_range=0.1)
  batch = random_batch(config)
  exact = modeling.BertModel(config)(**batch)
  coarse = modeling.BertModel(config, tf.bfloat16)(**batch)
  assert coarse.sequence_output.dtype == tf.bfloat16
  difference = np.abs(
    tf.cast(coarse.sequence_output, tf.float32) - exact.sequence_output
  )
  assert 0 < np.max(difference) < 0.2 and np.mean(difference) < 0.02


def test_seed_decides_the_initial_weights():
  config = builders.tiny_config()
  tables = [
    modeling.BertModel(config, seed=seed).get_embedding_table().numpy()
    for seed in (1, 1, 2)
  ]
  np.testing.assert_array_equal(tables[0], tables[1])
  assert np.any(tables[0] != tables[2])
  assert np.max(np.abs(tables[0])) <= 0.04 and 0.015 < np.std(tables[0]) < 0.02


def test_one_hot_lookup_gives_the_same():
  config = builders.tiny_config()
  batch = random_batch(config)
  plain = modeling.BertModel(config)(**batch)
  one_hot = modeling.BertModel(config, use_one_hot_embeddings=True)(**batch)
  np.testing.assert_allclose(
    plain.sequence_output, one_hot.sequence_output, atol=1e-5
  )


def test_embeddings_in_place_of_ids_give_the_same():
  config = builders.tiny_config()
  batch = random_batch(config)
  model = modeling.BertModel(config)
  embeddings = model.embeddings(
    batch["input_ids"], batch["token_type_ids"], None, None
  )
  expected = model(**batch)
  output = model(**{**batch, "input_ids": embeddings})
  for name in ("embedding_output", "sequence_output", "pooled_output"):
    np.testing.assert_array_equal(
      getattr(output, name), getattr(expected, name)
    )


def test_released_sizes():
  assert len(set(released_models.SIZES.values())) == 25
  large = modeling.BertConfig.from_size("wwm_uncased_L-24_H-1024_A-16")
  assert (large.num_attention_heads, large.intermediate_size) == (16, 4096)
  assert modeling.BertConfig.from_size("tiny", 99).vocab_size == 99
  with pytest.raises(ValueError, match="'L-3_H-128_A-2' is no released size"):
    modeling.BertConfig.from_size("L-3_H-128_A-2")


def test_config_round_trip_and_unknown_keys(tmp_path):
  config = builders.tiny_config()
  fields = {**json.loads(config.to_json_string()), "pooler_fc_size": 768}
  path = tmp_path / "bert_config.json"
  path.write_text(json.dumps(fields))
  assert modeling.BertConfig.from_json_file(str(path)) == config


DEEP = functools.reduce(lambda value, _: [value], range(900), 1)


@pytest.mark.parametrize(
  "field, value, allowed",
  [
    ("hidden_size", 33, "multiple of num_attention_heads=4"),
    ("hidden_size", "32", "a whole number from 1 to 131072"),
    ("hidden_size", 32.0, "a whole number"),
    ("vocab_size", True, "a whole"),
    ("vocab_size", 0, "a whole number"),
    ("vocab_size", None, "a whole number"),
    ("num_hidden_layers", 9 * 10**18, "a whole number from 1 to 4096"),
    ("intermediate_size", DEEP, "a whole number"),
    ("hidden_act", "gelo", "one of gelu, gelu_erf, relu"),
    ("hidden_act", ["gelu"], "one of gelu"),
    ("hidden_dropout_prob", 1.0, "at least 0 and below 1"),
    ("attention_probs_dropout_prob", -0.1, "at least 0"),
    ("hidden_dropout_prob", float("nan"), "at least 0"),
    ("initializer_range", None, "above 0"),
    ("initializer_range", 0, "above 0"),
    ("initializer_range", float("inf"), "above 0 and below 1"),
  ],
)
def test_config_says_which_field_is_wrong(field, value, allowed):
  with pytest.raises(
    UserError, match=f"^BertConfig: {field}=.{{1,60}} .*{allowed}.*[.]$"
  ):
    builders.tiny_config(**{field: value})


def test_config_of_absurd_weight_count_is_refused():
  with pytest.raises(UserError, match="1.7e\\+12 weights; at most 1.1e\\+12"):
    builders.tiny_config(hidden_size=1 << 15, num_hidden_layers=400)


def test_config_file_errors_name_the_file(tmp_path):
  path = tmp_path / "config.json"
  with pytest.raises(UserError, match="config.json does not exist"):
    modeling.BertConfig.from_json_file(str(path))
  with pytest.raises(UserError, match="is a folder"):
    modeling.BertConfig.from_json_file(str(tmp_path))
  for content, message in [
    ("{", "not JSON"),
    ("[]", "not an object"),
    ('{"a": NaN}', "NaN"),
    ("{}", "BertConfig: vocab_size is missing"),
    ('{"vocab_size": 5.5}', "BertConfig: vocab_size=5.5 must be a whole"),
  ]:
    path.write_text(content)
    with pytest.raises(UserError, match=f"config.json.*{message}"):
      modeling.BertConfig.from_json_file(str(path))


def test_sequence_longer_than_the_position_table_is_refused():
  model = modeling.BertModel(builders.tiny_config())
  with pytest.raises(ValueError, match="41 tokens.*max_position_embeddings=40"):
    model(np.zeros((1, 41), int))


def test_outputs_and_gradients_of_the_reference(golden_model_dir):
  folder = golden_model_dir
  golden = np.load(os.path.join(folder, "golden.npz"))
  config = modeling.BertConfig.from_json_file(
    os.path.join(folder, "bert_config.json")
  )
  model = modeling.BertForPreTraining(config)
  variables = checkpoint.variables_by_name(model)
  checkpoint.restore_all(
    variables, os.path.join(folder, "bert_model.ckpt"), "golden"
  )
  inputs = [golden["input_ids"]] + (
    [None, None]
    if folder.endswith("relu_nomask")
    else [golden["input_mask"], golden["segment_ids"]]
  )
  with tf.GradientTape() as tape:
    output = model.bert(*inputs)
    masked_lm, next_sentence = model(*inputs, golden["masked_lm_positions"])
    total, weight = losses.masked_lm_loss(
      masked_lm, golden["masked_lm_ids"], golden["masked_lm_weights"]
    )
    masked_lm_loss = total / weight
    total, weight = losses.classification_loss(
      next_sentence,
      golden["next_sentence_labels"],
      tf.ones(len(golden["input_ids"])),
    )
    next_sentence_loss = total / weight
    total_loss = masked_lm_loss + next_sentence_loss
  gradients = dict(
    zip(variables, tape.gradient(total_loss, list(variables.values())))
  )
  actual = {
    "embedding_output": output.embedding_output,
    "sequence_output": output.sequence_output,
    "pooled_output": output.pooled_output,
    "masked_lm_log_probs": tf.nn.log_softmax(masked_lm),
    "masked_lm_loss": masked_lm_loss,
    "next_sentence_log_probs": tf.nn.log_softmax(next_sentence),
    "next_sentence_loss": next_sentence_loss,
    "total_loss": total_loss,
    "grad_global_norm": tf.linalg.global_norm(list(gradients.values())),
    "grad/pooler_kernel": gradients["bert/pooler/dense/kernel"],
    "grad/word_embeddings": gradients["bert/embeddings/word_embeddings"],
    **{
      f"encoder_layer_{i}": layer
      for i, layer in enumerate(output.all_encoder_layers)
    },
  }
  for name, value in actual.items():
    np.testing.assert_allclose(value, golden[name], atol=1e-5, err_msg=name)


def test_packed_rows_give_what_their_sequences_give_alone():
  model = modeling.BertForPreTraining(builders.tiny_config(), seed=3)
  rng = np.random.default_rng(0)
  lengths = [9, 5, 7]
  sequences = [rng.integers(1, len(builders.TOKENS), n) for n in lengths]
  segments = [(np.arange(n) > n // 2).astype(int) for n in lengths]
  places = [[2, 6], [1, 3], [0, 5]]
  alone = [
    model(ids[np.newaxis], None, segment[np.newaxis], np.array([positions]))
    for ids, segment, positions in zip(sequences, segments, places)
  ]
  starts = np.array([[0, 9, 14, 0]])

  def pad(rows):
    return np.concatenate([*rows, np.zeros(3, int)])[np.newaxis]

  masked_lm, next_sentence = model(
    pad(sequences),
    pad([np.ones(n, int) for n in lengths]),
    pad(segments),
    np.array(
      [
        [
          p + start
          for start, positions in zip(starts[0], places)
          for p in positions
        ]
      ]
    ),
    sequence_starts=starts,
  )
  np.testing.assert_allclose(
    masked_lm, np.concatenate([logits for logits, _ in alone]), atol=1e-5
  )
  np.testing.assert_allclose(
    next_sentence[:3],
    np.concatenate([logits for _, logits in alone]),
    atol=1e-5,
  )
