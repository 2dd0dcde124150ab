"""Tests of export_saved_model.py."""

import itertools
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import types
import zlib

import builders
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import fingerprint_pb2
from tensorflow.core.protobuf import saved_model_pb2
import tensorflow_hub as hub
from tensorflow_serving.apis import prediction_log_pb2
import tf_keras

import checkpoint
from data import encoding
from data import file_io
from data import tokenizer_settings
from errors import UserError
import export_saved_model
import heads
import modeling
from serving import signatures
import tokenization


@pytest.fixture
def run_export(run_program, config_file, vocab_file, tmp_path):
  """Function that runs the program on a checkpoint."""

  def run(weights, **flags):
    settings = dict(
      bert_config_file=config_file,
      vocab_file=vocab_file,
      init_checkpoint=weights,
      export_dir=tmp_path / "served",
    )
    run_program(export_saved_model, **{**settings, **flags})

  return run


@pytest.fixture
def serve(run_export, tmp_path):
  """Function that exports weights and loads them like a server."""

  def run(weights, **flags):
    run_export(weights, **flags)
    newest = max((tmp_path / "served").iterdir())
    return tf.saved_model.load(str(newest))

  return run


@pytest.fixture
def serve_eagerly(run_export, monkeypatch):
  """Function like `serve` that neither traces nor saves the model.

  It takes a tenth of the time. One test of each head exports in earnest.
  """

  def run(weights, **flags):
    served = []
    with monkeypatch.context() as context:
      context.setattr(signatures, "_signature", lambda method, *specs: method)
      context.setattr(
        export_saved_model, "save", lambda model, folder: served.append(model)
      )
      run_export(weights, **flags)
      return types.SimpleNamespace(
        signatures=served[0].signatures(), model=served[0].model
      )

  return run


def ask(model, signature="text", **inputs):
  """Returns the outputs of a signature."""
  return {
    name: value.numpy()
    for name, value in model.signatures[signature](
      **{name: tf.constant(value) for name, value in inputs.items()}
    ).items()
  }


@pytest.mark.parametrize(
  "long_text, export",
  [
    ("truncate", "serve_eagerly"),
    ("head_tail", "serve_eagerly"),
    ("sliding_window", "serve"),
  ],
)
def test_classifiers_are_served(classify, request, long_text, export):
  rng = random.Random(1)

  def text():
    return " ".join(rng.choices(builders.WORDS, k=rng.randrange(1, 25)))

  pairs = [(text(), text()) for _ in range(40)]
  (classify.data_dir / "test.tsv").write_text(
    "text\ttext_b\n" + "".join(f"{a}\t{b}\n" for a, b in pairs)
  )
  flags = dict(long_text=long_text, max_seq_length=12)
  run = classify(do_train=True, do_predict=True, num_train_epochs=1, **flags)
  model = request.getfixturevalue(export)(run / "export" / "bert_model.ckpt")
  answers = ask(model, text=[a for a, _ in pairs])
  predictions = builders.read_table(run / "test_predictions.tsv")
  np.testing.assert_allclose(
    answers["probabilities"],
    np.array([row[2:] for row in predictions[1:]], float),
    atol=1e-5,
  )
  assert [label.decode() for label in answers["label"]] == [
    row[1] for row in predictions[1:]
  ]
  assert answers["labels"][0].tolist() == [b"moving", b"still"]

  classify(do_predict=True, text_b_column="text_b", **flags)
  answers = ask(
    model,
    "text_pair",
    text_a=[a for a, _ in pairs],
    text_b=[b for _, b in pairs],
  )
  np.testing.assert_allclose(
    answers["probabilities"], np.loadtxt(run / "test_results.tsv"), atol=1e-5
  )


@pytest.mark.parametrize(
  "problem_type, label, outputs",
  [
    ("multi_label", "still,moving", ["labels", "logits", "probabilities"]),
    ("regression", "1.5", ["value"]),
  ],
)
def test_other_classifiers_are_served(
  classify, serve_eagerly, problem_type, label, outputs
):
  for split in ("train", "test"):
    (classify.data_dir / f"{split}.tsv").write_text(
      "text\tlabel\n" + f"the cat sat\t{label}\na dog ran\t{label}\n" * 4
    )
  run = classify(
    do_train=True,
    do_predict=True,
    num_train_epochs=1,
    problem_type=problem_type,
  )
  model = serve_eagerly(run / "export" / "bert_model.ckpt")
  answers = ask(model, text=["the cat sat", "a dog ran"])
  assert sorted(answers) == outputs
  np.testing.assert_allclose(
    answers[outputs[-1]], np.loadtxt(run / "test_results.tsv")[:2], atol=1e-5
  )


def test_kernels_are_exported_in_the_type_that_computes(
  classify, serve_eagerly, init_checkpoint
):
  run = classify(do_train=True, num_train_epochs=1)
  weights = run / "export" / "bert_model.ckpt"
  exact = serve_eagerly(weights, version=1)
  rounded = serve_eagerly(weights, version=2, precision="bfloat16")
  assert exact.model.bert.pooler.kernel.dtype == tf.float32
  for name, variable in checkpoint.variables_by_name(rounded.model).items():
    is_stored = name.endswith(("/kernel", "/bias"))
    assert variable.dtype == (tf.bfloat16 if is_stored else tf.float32), name
  texts = ["the cat sat", "a dog ran"]
  np.testing.assert_allclose(
    ask(rounded, text=texts)["logits"],
    ask(exact, text=texts)["logits"],
    atol=0.05,
  )
  # Other programs may train an encoder.
  encoder = serve_eagerly(init_checkpoint, version=3, precision="bfloat16")
  assert encoder.model.pooler.kernel.dtype == tf.float32


def count_constants(folder, shape):
  """Returns the number of constants of a shape in a SavedModel."""
  model = saved_model_pb2.SavedModel()
  model.ParseFromString((folder / "saved_model.pb").read_bytes())
  tensors = [
    node.attr["value"].tensor
    for function in model.meta_graphs[0].graph_def.library.function
    for node in function.node_def
    if node.op == "Const"
  ]
  sizes = [[dim.size for dim in x.tensor_shape.dim] for x in tensors]
  return sizes.count(shape)


def test_frozen_kernels_are_constants_that_all_signatures_share(
  classify, serve, run_export, init_checkpoint, tmp_path, monkeypatch
):
  run = classify(do_train=True, num_train_epochs=1)
  weights = run / "export" / "bert_model.ckpt"
  config = builders.tiny_config()
  kernel = [config.hidden_size, config.intermediate_size]
  answers = []
  for frozen in (False, True):
    model = serve(weights, frozen=frozen, version=1 + frozen)
    answers.append(ask(model, text=["the cat sat", "a dog ran"])["logits"])
    num_kernels = count_constants(tmp_path / "served" / str(1 + frozen), kernel)
    assert num_kernels == frozen * config.num_hidden_layers
  np.testing.assert_allclose(*answers, atol=1e-5)
  # Variables of the kernels would only take up space.
  names = [
    name
    for name, _ in tf.train.list_variables(
      str(tmp_path / "served" / "2" / "variables" / "variables")
    )
  ]
  assert not any("kernel" in name for name in names)
  with pytest.raises(UserError, match="stay variables"):
    run_export(init_checkpoint, frozen=True)
  monkeypatch.setattr(export_saved_model, "_MOST_CONSTANTS", 1000)
  with pytest.raises(UserError, match="holds at most"):
    run_export(weights, frozen=True)


def test_taggers_are_served(tag, serve):
  # One sentence needs several windows, and one word has very many pieces.
  words = [
    line.split()[0]
    for line in (tag.data_dir / "test.txt").read_text().split("\n")
    if line
  ] * 2 + ["cat" + "s" * 100, "sat"]
  # The tokenizer leaves nothing of these words.
  words = ["\u200b", *words[:5], "\u200b\xad", *words[5:]]
  sentences = [words, ["red", "\u200b", "cat"], ["unaffable"], ["\u200b"]]
  (tag.data_dir / "test.txt").write_text(
    "\n\n".join("\n".join(sentence) for sentence in sentences) + "\n"
  )
  run = tag(do_train=True, do_predict=True, num_train_epochs=2)
  model = serve(run / "export" / "bert_model.ckpt")
  texts = ["  ".join(sentence) for sentence in sentences]
  answers = ask(model, text=texts)
  rows = (run / "test_predictions.txt").read_text().split("\n\n")
  for number, row in enumerate(rows[:4]):
    expected = [line.split() for line in row.split("\n") if line]
    size = len(expected)
    assert (
      [word.decode() for word in answers["words"][number, :size]]
      == [fields[0] for fields in expected]
      == [
        texts[number][start:end]
        for start, end in zip(
          answers["starts"][number, :size], answers["ends"][number]
        )
      ]
    )
    assert [tag.decode() for tag in answers["tags"][number, :size]] == [
      fields[1] for fields in expected
    ]
    np.testing.assert_allclose(
      answers["probabilities"][number, :size],
      [float(fields[2]) for fields in expected],
      atol=1e-4,
    )
    assert not any(answers["words"][number, size:])


def test_answers_are_served(answer, serve, tmp_path):
  file = answer.write("v1.json")
  run = answer(do_train=True, train_file=file, num_train_epochs=20)
  rng = random.Random(1)
  contexts = [
    " ".join(rng.choices(builders.WORDS + ["."], k=length))
    for length in (1, 10, 40, 200)
  ]
  questions = ["what was it", "the cat " * 10]
  file.write_text(
    json.dumps(
      {
        "data": [
          {
            "paragraphs": [
              {
                "context": context,
                "qas": [
                  {"id": f"{i} {j}", "question": question}
                  for j, question in enumerate(questions)
                ],
              }
              for i, context in enumerate(contexts)
            ]
          }
        ]
      }
    )
  )
  answer(
    do_predict=True,
    predict_file=file,
    version_2_with_negative=True,
    max_seq_length=24,
  )
  model = serve(
    run / "export" / "bert_model.ckpt",
    max_seq_length=24,
    max_query_length=8,
    doc_stride=4,
  )
  n_best = json.loads((run / "nbest_predictions.json").read_text())
  odds = json.loads((run / "null_odds.json").read_text())
  pairs = list(itertools.product(contexts, questions))
  answers = ask(
    model,
    question=[question for _, question in pairs],
    context=[context for context, _ in pairs],
  )
  for number, (context, _) in enumerate(pairs):
    key = list(odds)[number]
    best = next(entry for entry in n_best[key] if entry["text"])
    span = slice(answers["start"][number], answers["end"][number])
    assert context[span] == answers["answer"][number].decode() == best["text"]
    np.testing.assert_allclose(
      [
        answers["score"][number],
        answers["null_score"][number] - answers["score"][number],
      ],
      [best["start_logit"] + best["end_logit"], odds[key]],
      atol=1e-4,
    )
  nothing = ask(model, question=["the cat"], context=[""])
  assert nothing["answer"] == [b""] and nothing["score"] == -1e9


def test_choices_are_served(choose, serve, tmp_path):
  rng = random.Random(1)
  rows = [
    {
      "context": " ".join(rng.choices(builders.WORDS, k=8)),
      "choices": [
        " ".join(rng.choices(builders.WORDS, k=size))
        for size in (2, 9, 5)[: 2 + i % 2]
      ],
      "label": i % 2,
    }
    for i in range(8)
  ]
  for split in ("train", "test"):
    (tmp_path / f"{split}.jsonl").write_text(
      "".join(json.dumps(row) + "\n" for row in rows)
    )
  run = choose(
    do_train=True,
    do_predict=True,
    train_file="train.jsonl",
    test_file="test.jsonl",
    num_train_epochs=1,
  )
  model = serve(run / "export" / "bert_model.ckpt")
  answers = ask(
    model,
    context=[row["context"] for row in rows],
    choices=[(row["choices"] + [""])[:3] for row in rows],
  )
  expected = np.loadtxt(run / "test_results.tsv")
  np.testing.assert_allclose(answers["probabilities"], expected, atol=1e-5)
  np.testing.assert_array_equal(answers["choice"], expected.argmax(axis=1))
  assert not answers["probabilities"][::2, 2].any()  # there is no such choice


# Program of a process that has the folder of a model, and none of our code.
_CLIENT = """
import concurrent.futures, json, sys
import numpy as np
import tensorflow as tf
folder, texts_file, output = sys.argv[1:]
model = tf.saved_model.load(folder)
texts = json.load(open(texts_file))
def ask(text):
  return model.signatures["text"](tf.constant([text]))
with concurrent.futures.ThreadPoolExecutor(16) as pool:
  answers = list(pool.map(ask, texts * 3))
with open(output, "wb") as file:
  np.savez(file, *(np.concatenate(
      [answer["pooled_output"][:, None], answer["sequence_output"]], axis=1)
      for answer in answers))
"""


def test_encoders_need_nothing_but_their_folder(
  exported_encoder, init_checkpoint, vocab_file, tmp_path
):
  shutil.copytree(exported_encoder, tmp_path / "1")
  rng = random.Random(1)
  texts = [
    " ".join(rng.choices(builders.WORDS + ["Sat,"], k=size))
    for size in range(0, 40, 3)
  ]
  (tmp_path / "texts.json").write_text(json.dumps(texts))
  (tmp_path / "client.py").write_text(_CLIENT)
  subprocess.run(
    [sys.executable, "-I", "client.py", "1", "texts.json", "out.npz"],
    cwd=tmp_path,
    check=True,
    capture_output=True,
    timeout=300,
  )
  tokenizer = tokenization.FullTokenizer(vocab_file)
  ids = tf.ragged.constant(
    [
      encoding.encode_pair(
        tokenizer.encode(text),
        None,
        40,
        *tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]"]),
      ).input_ids
      for text in texts
    ]
  )
  model = modeling.BertModel(builders.tiny_config())
  checkpoint.restore(checkpoint.variables_by_name(model), init_checkpoint)
  output = model(ids.to_tensor(), tf.ones_like(ids).to_tensor())
  expected = np.concatenate(
    [output.pooled_output[:, tf.newaxis], output.sequence_output], axis=1
  )
  answers = np.load(tmp_path / "out.npz")
  assert len(answers) == 3 * len(texts)
  for number in range(len(answers)):
    [answer] = answers[f"arr_{number}"]
    text = number % len(texts)
    assert len(answer) == 1 + ids[text].shape[0]
    np.testing.assert_allclose(answer, expected[text, : len(answer)], atol=1e-5)


@pytest.mark.large
def test_encoders_without_a_pooler_have_no_pooled_output(
  init_checkpoint, serve, tmp_path
):
  tensors = builders.read_tensors(init_checkpoint)
  names = heads.remove_pooler(tensors)
  weights = str(tmp_path / "other" / "weights")
  checkpoint.write(weights, {name: tensors[name] for name in names})
  text = tf.constant(["the cat"])
  found = serve(weights, version=1).signatures["text"](text)
  expected = serve(init_checkpoint, version=2).signatures["text"](text)
  assert set(expected) - set(found) == {"pooled_output"}
  np.testing.assert_array_equal(
    found["sequence_output"], expected["sequence_output"]
  )


@pytest.mark.large
def test_encoders_can_be_trained_through_the_hub(
  exported_encoder, init_checkpoint, vocab_file
):
  loaded = tf.saved_model.load(str(exported_encoder))
  assert (
    pathlib.Path(loaded.vocab_file.asset_path.numpy().decode()).read_bytes()
    == pathlib.Path(vocab_file).read_bytes()
  )
  assert loaded.do_lower_case.numpy()
  ids = tf.constant([[3, 8, 9, 4, 0], [3, 12, 7, 6, 4]])
  features = dict(
    input_ids=ids,
    input_mask=tf.cast(ids > 0, tf.int32),
    segment_ids=tf.constant([[0, 0, 1, 1, 0], [0, 0, 0, 1, 1]]),
  )
  inputs = dict(
    zip(("input_word_ids", "input_mask", "input_type_ids"), features.values())
  )
  # Gradients of the SavedModel equal those of the model.
  model = modeling.BertModel(builders.tiny_config())
  checkpoint.restore(checkpoint.variables_by_name(model), init_checkpoint)
  with tf.GradientTape(persistent=True) as tape:
    ours = tf.reduce_sum(model(*features.values()).pooled_output[:, :5])
    theirs = tf.reduce_sum(loaded(inputs, training=False)["default"][:, :5])
  gradients = {
    variable.name: gradient
    for variable, gradient in zip(
      loaded.trainable_variables,
      tape.gradient(theirs, loaded.trainable_variables),
    )
  }
  assert len(gradients) == len(model.trainable_variables)
  for variable, gradient in zip(
    model.trainable_variables, tape.gradient(ours, model.trainable_variables)
  ):
    np.testing.assert_allclose(gradients[variable.name], gradient, atol=1e-5)
  dropped = [loaded(inputs, training=True)["default"] for _ in range(2)]
  assert np.abs(dropped[0] - dropped[1]).max() > 1e-3

  layer = hub.KerasLayer(str(exported_encoder), trainable=True)
  before = [variable.numpy() for variable in layer.trainable_variables]
  keras_inputs = {
    name: tf_keras.Input([None], dtype=tf.int32, name=name) for name in inputs
  }
  keras_model = tf_keras.Model(
    keras_inputs, tf_keras.layers.Dense(2)(layer(keras_inputs)["pooled_output"])
  )
  keras_model.compile(
    "sgd", tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
  )
  keras_model.fit(inputs, tf.constant([0, 1]), verbose=0)
  assert all(
    np.any(old != new.numpy())
    for old, new in zip(before, layer.trainable_variables)
  )


def test_versions_are_numbered_and_have_requests_to_warm_up_with(
  serve, run_export, init_checkpoint, tmp_path, monkeypatch
):
  (tmp_path / "served" / "1").mkdir(parents=True)
  model = serve(init_checkpoint, precision="bfloat16")
  with monkeypatch.context() as context:
    # The other model only has to differ.
    context.setattr(signatures, "_signature", lambda method, *specs: method)
    context.setattr(
      tf.saved_model, "save", lambda served, path, signatures: None
    )
    with pytest.raises(ValueError, match="--version=2 is in .*served already"):
      run_export(init_checkpoint, version=2)
  with pytest.raises(
    tf.errors.InvalidArgumentError, match="The model reads at most 40 tokens"
  ):
    ids = tf.ones([1, 41], tf.int32)
    ask(
      model, "serving_default", input_ids=ids, input_mask=ids, segment_ids=ids
    )
  assert sorted(os.listdir(tmp_path / "served")) == ["1", "2"]
  [path] = (tmp_path / "served" / "2" / "assets.extra").iterdir()
  assert path.name == "tf_serving_warmup_requests"
  exact = modeling.BertModel(builders.tiny_config())
  checkpoint.restore(checkpoint.variables_by_name(exact), init_checkpoint)
  signature_names = []
  for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
    log = prediction_log_pb2.PredictionLog.FromString(record)
    asked = log.predict_log.request
    assert asked.model_spec.name == "served"
    signature_names.append(asked.model_spec.signature_name)
    inputs = {
      name: tf.make_ndarray(value) for name, value in asked.inputs.items()
    }
    answers = ask(model, signature_names[-1], **inputs)
    features = {**inputs, **answers}
    expected = exact(
      *(features[name] for name in ("input_ids", "input_mask", "segment_ids"))
    ).pooled_output
    np.testing.assert_allclose(answers["pooled_output"], expected, atol=0.05)
  assert sorted(signature_names) == ["serving_default", "text", "text_pair"]


@pytest.mark.parametrize(
  "flags, message",
  [
    (dict(head="single_label"), "has no classifier, only weights from which"),
    (dict(head="span"), "--max_query_length=64 leaves no room for a text in"),
    (
      dict(head="span", max_query_length=8),
      "lacks 2 of the .*such as cls/squad/output_bias",
    ),
    (dict(labels="a,b"), "--labels=.* belongs to a head with labels"),
    (dict(doc_stride=64), "--doc_stride=64 belongs to a span head"),
    (dict(max_seq_length=41), "--max_seq_length=41 must be from 3 to 40"),
    (dict(init_checkpoint=""), "Pass --init_checkpoint, or --model"),
  ],
)
def test_serving_refuses(serve, init_checkpoint, tmp_path, flags, message):
  with pytest.raises(ValueError, match=message):
    serve(flags.pop("init_checkpoint", init_checkpoint), **flags)
  assert not (tmp_path / "served").exists()


def test_weights_of_an_unknown_classifier_are_refused(classify, serve_eagerly):
  run = classify(do_train=True, num_train_epochs=1)
  (run / "export" / "classifier.json").unlink()
  weights = run / "export" / "bert_model.ckpt"
  with pytest.raises(
    ValueError,
    match="has a classifier, but there is no classifier.json next to it. Pass "
    "--head",
  ):
    serve_eagerly(weights)
  with pytest.raises(ValueError, match="a classifier of 2 labels.*are 1: yes"):
    serve_eagerly(weights, head="single_label", labels="yes")
  model = serve_eagerly(weights, head="single_label", labels="no,yes")
  answers = ask(model, text=["the cat"])
  assert answers["label"] == [[b"no", b"yes"][answers["logits"].argmax()]]


class Served:
  """Stands for a model with signatures."""

  preprocessor = types.SimpleNamespace(
    text_settings=tokenizer_settings.TokenizerSettings()
  )

  def signatures(self):
    return {}

  def warmup_requests(self):
    return {"text": {"text_a": ["a"], "text_b": ["b"]}}


@pytest.fixture
def export(monkeypatch):
  """Function that exports version 1, with made-up files of TensorFlow."""

  def run(folder, model=b"model"):
    def save(unused_served, path, signatures):
      del signatures
      os.makedirs(os.path.join(path, "variables"))
      fingerprint = fingerprint_pb2.FingerprintDef(
        saved_model_checksum=zlib.crc32(model), uuid=str(random.random())
      )
      for name, content in [
        ("saved_model.pb", model),
        ("variables/variables.index", b"index"),
        ("fingerprint.pb", fingerprint.SerializeToString()),
      ]:
        with open(os.path.join(path, name), "wb") as writer:
          writer.write(content)
      os.chmod(os.path.join(path, "saved_model.pb"), 0o444)

    folder.mkdir(parents=True, exist_ok=True)
    file_io.remove_leftovers(str(folder))
    with monkeypatch.context() as context:
      context.setattr(tf.saved_model, "save", save)
      export_saved_model.save(Served(), str(folder / "served" / "1"))

  return run


def test_a_killed_export_ends_with_the_same_files(export, tmp_path):
  export(tmp_path / "whole")
  whole = builders.read_folder(tmp_path / "whole")

  def run(folder):
    file_io.remove_leftovers(str(folder / "served"))
    export(folder)
    assert os.listdir(folder / "served") == ["1"]

  builders.check_deaths(run, tmp_path / "killed", whole)


def test_an_existing_version_is_kept(export, tmp_path):
  export(tmp_path)
  before = builders.read_folder(tmp_path)
  export(tmp_path)  # the same again
  with pytest.raises(
    UserError, match="--version=1 is in .* already, with other"
  ):
    export(tmp_path, b"another")
  assert builders.read_folder(tmp_path) == before
