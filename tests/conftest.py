"""Fixtures that several test modules share."""

import launch  # noqa: F401  # First: it keeps TensorFlow from loading Keras.

import itertools
import json
import os
import shutil

import builders
import pytest
import tensorflow as tf

import checkpoint
import create_vocabulary
import export_saved_model
import modeling
import run_classifier
import run_ner
import run_pretraining
import run_squad
import run_swag
import tokenization

# Two devices for the tests of distributed training; the rest use the first.
tf.config.set_logical_device_configuration(
  tf.config.list_physical_devices("CPU")[0],
  [tf.config.LogicalDeviceConfiguration()] * 2,
)


# Outputs of the original code: a few that are part of the project, and many in
# a folder of their own. Both have their vocabularies and texts in `../data`.
SMALL_GOLDEN_DIR = str(builders.ROOT / "tests" / "golden" / "outputs")


def find_large_golden_dir() -> str:
  """Returns the folder with many outputs, or skips the test without one."""
  path = os.environ.get("BERT_GOLDEN_DIR")
  if not path:
    pytest.skip("BERT_GOLDEN_DIR does not name the folder of golden outputs")
  return path


@pytest.fixture
def large_golden_dir():
  """Folder with many outputs of the original code."""
  return find_large_golden_dir()


@pytest.fixture(params=["small", "large"])
def golden_dir(request):
  """Folder with outputs of the original code: a few, and then many."""
  if request.param == "small":
    return SMALL_GOLDEN_DIR
  return find_large_golden_dir()


@pytest.fixture(
  params=["small/small_gelu", "large/small_gelu", "large/relu_nomask"]
)
def golden_model_dir(request):
  """Folder with a model, its outputs, and losses of a short training."""
  size, name = request.param.split("/")
  golden = SMALL_GOLDEN_DIR if size == "small" else find_large_golden_dir()
  return os.path.join(golden, "modeling", name)


@pytest.fixture
def vocab_file(tmp_path):
  """File of the tiny vocabulary, which a test may change."""
  return builders.write_vocab(tmp_path)


@pytest.fixture
def tokenizer(vocab_file):
  return tokenization.FullTokenizer(vocab_file)


@pytest.fixture
def config_file(tmp_path):
  """File of the tiny config, which a test may change."""
  return builders.write_config(tmp_path)


@pytest.fixture
def run_program():
  """Function that runs `main` of a program in this process, with flags."""
  return builders.run_program


@pytest.fixture
def text_file(tmp_path):
  """File of plain text with three documents."""
  path = tmp_path / "text.txt"
  path.write_text(builders.TEXT + "\n")
  return str(path)


@pytest.fixture
def project_dir(tmp_path):
  """Folder like that of the project, with a small model in `tiny`."""
  outputs = ("runs", "served", "quickstart", "models", "site")
  for path in builders.ROOT.iterdir():
    if not path.name.startswith(".") and path.name not in outputs:
      (tmp_path / path.name).symlink_to(path)
  builders.run_program(
    create_vocabulary,
    input_file=builders.ROOT / "sample_text.txt",
    output_dir=tmp_path / "tiny",
    vocab_size=2000,
    model_size="L-4_H-128_A-2",
  )
  config_file = tmp_path / "tiny" / "bert_config.json"
  config = modeling.BertConfig.from_json_file(str(config_file))
  model = modeling.BertForPreTraining(config, seed=1)
  checkpoint.write(
    str(tmp_path / "tiny" / "bert_model.ckpt"),
    checkpoint.variables_by_name(model),
  )
  return tmp_path


@pytest.fixture(scope="session")
def shared_dir(tmp_path_factory):
  """Folder of files that tests share; they copy a file before they change it.

  It holds `vocab.txt`, `bert_config.json` and `bert_model.ckpt`, a pre-trained
  model with random weights.
  """
  folder = tmp_path_factory.mktemp("shared")
  builders.write_vocab(folder)
  builders.write_config(folder)
  model = modeling.BertForPreTraining(builders.tiny_config(), seed=5)
  checkpoint.write(
    str(folder / "bert_model.ckpt"), checkpoint.variables_by_name(model)
  )
  return folder


@pytest.fixture
def init_checkpoint(shared_dir, tmp_path):
  """Checkpoint of a pre-trained model, which a test may change."""
  for file in shared_dir.glob("bert_model.ckpt.*"):
    shutil.copy(file, tmp_path)
  return str(tmp_path / "bert_model.ckpt")


@pytest.fixture(scope="session")
def exported_encoder(shared_dir):
  """Folder of the encoder of `shared_dir` as a SavedModel."""
  builders.run_program(
    export_saved_model,
    bert_config_file=shared_dir / "bert_config.json",
    vocab_file=shared_dir / "vocab.txt",
    init_checkpoint=shared_dir / "bert_model.ckpt",
    export_dir=shared_dir / "served",
  )
  return shared_dir / "served" / "1"


@pytest.fixture(scope="session")
def shared_records(shared_dir):
  """File that `create` makes without other flags."""
  text_file = shared_dir / "text.txt"
  text_file.write_text(builders.TEXT + "\n")
  return builders.create_records(
    text_file,
    vocab_file=shared_dir / "vocab.txt",
    output_file=shared_dir / "x.tfrecord",
  )


@pytest.fixture
def records(shared_records, tmp_path):
  """Pre-training records, which a test may change."""
  shutil.copy(shared_records, tmp_path)
  return str(tmp_path / "x.tfrecord")


@pytest.fixture
def create(text_file, vocab_file, tmp_path):
  """Function that makes pre-training records with the given flags."""

  def run(output="x.tfrecord", **flags):
    files = dict(vocab_file=vocab_file, output_file=tmp_path / output)
    return builders.create_records(text_file, **{**files, **flags})

  return run


@pytest.fixture
def pretrain(run_program, config_file, tmp_path):
  def run(input_file, output="run", **flags):
    run_program(
      run_pretraining,
      **{
        **dict(
          input_file=input_file,
          bert_config_file=config_file,
          output_dir=tmp_path / output,
          do_train=True,
          max_seq_length=24,
          max_predictions_per_seq=4,
          num_train_steps=4,
          num_warmup_steps=2,
          train_batch_size=8,
          learning_rate=0.001,
        ),
        **flags,
      },
    )
    return tmp_path / output

  return run


@pytest.fixture
def classify(run_program, config_file, vocab_file, init_checkpoint, tmp_path):
  data_dir = tmp_path / "data"
  data_dir.mkdir()
  rows = [
    f"the {noun} {verb}\t{label}"
    for noun in ("cat", "dog", "bird")
    for verb, label in [("sat", "still"), ("ran", "moving"), ("flew", "moving")]
    for _ in range(4)
  ]
  for split in ("train", "dev", "test"):
    (data_dir / f"{split}.tsv").write_text(
      "text\tlabel\n" + "\n".join(rows) + "\n"
    )

  def run(output="run", **flags):
    run_program(
      run_classifier,
      **{
        **dict(
          task_name="Custom",
          data_dir=data_dir,
          bert_config_file=config_file,
          vocab_file=vocab_file,
          init_checkpoint=init_checkpoint,
          output_dir=tmp_path / output,
          max_seq_length=16,
          train_batch_size=4,
          num_train_epochs=12,
          learning_rate=0.001,
        ),
        **flags,
      },
    )
    return tmp_path / output

  run.data_dir = data_dir
  return run


@pytest.fixture
def answer(run_program, config_file, vocab_file, init_checkpoint, tmp_path):
  def write(name, version_2=False):
    """Writes questions whose answer is the bird, if it is not a lazy one."""
    paragraphs = []
    for a, b, c in itertools.permutations(("cat", "dog", "bird"), 3):
      context = f"the {a} sat and the {b} ran and the {c} flew"
      paragraphs.append(
        {
          "context": context,
          "qas": [
            {
              "id": f"{a}{b} {question}",
              "question": question,
              "answers": []
              if "lazy" in question
              else [{"text": "bird", "answer_start": context.index("bird")}],
              **({"is_impossible": "lazy" in question} if version_2 else {}),
            }
            for question in ("it was", "it was red", "it was lazy")[
              : 3 if version_2 else 2
            ]
          ],
        }
      )
    path = tmp_path / name
    path.write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    return path

  def run(output="run", **flags):
    run_program(
      run_squad,
      **{
        **dict(
          bert_config_file=config_file,
          vocab_file=vocab_file,
          init_checkpoint=init_checkpoint,
          output_dir=tmp_path / output,
          max_seq_length=24,
          max_query_length=8,
          doc_stride=4,
          train_batch_size=6,
          num_train_epochs=100,
          learning_rate=0.001,
        ),
        **flags,
      },
    )
    return tmp_path / output

  run.write = write
  return run


@pytest.fixture
def tag(run_program, config_file, vocab_file, init_checkpoint, tmp_path):
  data_dir = tmp_path / "tags"
  data_dir.mkdir()
  rows = []
  for noun, kind in [("cat", "pet"), ("dog", "pet"), ("bird", "wild")]:
    for color in ("red", "blue"):
      rows += [
        f"the O\n{color} B-{kind}\n{noun} I-{kind}\nsat O\n",
        f"it O\nsat O\non O\nthe O\n{noun} B-{kind}\n",
      ]
  for split in ("train", "dev", "test"):
    (data_dir / f"{split}.txt").write_text("\n".join(rows))

  def run(output="run", **flags):
    run_program(
      run_ner,
      **{
        **dict(
          data_dir=data_dir,
          bert_config_file=config_file,
          vocab_file=vocab_file,
          init_checkpoint=init_checkpoint,
          output_dir=tmp_path / output,
          do_lower_case=True,
          max_seq_length=16,
          train_batch_size=4,
          num_train_epochs=40,
          learning_rate=0.001,
        ),
        **flags,
      },
    )
    return tmp_path / output

  run.data_dir = data_dir
  return run


@pytest.fixture
def choose(run_program, config_file, vocab_file, init_checkpoint, tmp_path):
  def run(output="run", **flags):
    run_program(
      run_swag,
      **{
        **dict(
          data_dir=tmp_path,
          bert_config_file=config_file,
          vocab_file=vocab_file,
          init_checkpoint=init_checkpoint,
          output_dir=tmp_path / output,
          max_seq_length=16,
          train_batch_size=4,
          num_train_epochs=20,
          learning_rate=0.001,
        ),
        **flags,
      },
    )
    return tmp_path / output

  return run
