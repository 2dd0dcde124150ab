"""Functions that several test modules share; their fixtures are in conftest.py.

They build small models and texts, and read the files that programs write.
"""

from collections.abc import Callable, Iterable, Iterator
import contextlib
import csv
import functools
import gzip
import json
import os
import pathlib
import random
import subprocess
import sys
import time
import types

from absl import flags
import numpy as np
import pytest
import tensorflow as tf
import tiny

import checkpoint
from command_line import input_paths
import create_pretraining_data
from data import locks
from errors import UserError
import modeling
from tasks import squad
from tasks import squad_windows
import tokenization

v1 = tf.compat.v1

ROOT = pathlib.Path(__file__).parent.parent

WORDS = tiny.WORDS
TOKENS = tiny.TOKENS
VOCAB = {token: number for number, token in enumerate(TOKENS)}
TEXT = "\n\n".join(
  "\n".join(
    f"{a} {b} sat on the {c} ."
    for c in ("mat", "hill", "tree")
    for b in ("cat", "dog", "bird")
  )
  for a in ("the", "a", "one quick")
)


@functools.cache
def two_devices() -> tf.distribute.Strategy:
  """Returns the strategy with two devices, the same one for a whole process.

  Strategies number their sums over devices from the same start. TensorFlow
  remembers the shape of each number, so a second strategy whose sums have other
  shapes fails.
  """
  return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


@contextlib.contextmanager
def untraced() -> Iterator[None]:
  """Runs the Python code of functions that are otherwise traced once."""
  tf.config.run_functions_eagerly(True)
  try:
    yield
  finally:
    tf.config.run_functions_eagerly(False)


def tiny_config(**changes) -> modeling.BertConfig:
  """Returns a config in which every size differs from the others."""
  return modeling.BertConfig(**{**tiny.CONFIG, **changes})


def random_variables(seed: int = 1, **changes) -> dict[str, tf.Variable]:
  """Returns the variables of a tiny model, by name.

  Args:
    seed: Seed of the weights.
    **changes: Fields of its config.
  """
  model = modeling.BertForPreTraining(tiny_config(**changes), seed=seed)
  return checkpoint.variables_by_name(model)


def assert_same_values(variables, others) -> None:
  """Asserts that variables or arrays have the same names and values."""
  assert set(variables) == set(others)
  for name in variables:
    np.testing.assert_array_equal(variables[name], others[name], err_msg=name)


def write_vocab(folder: pathlib.Path) -> str:
  """Writes the tiny vocabulary, and returns its file."""
  path = folder / "vocab.txt"
  path.write_text("\n".join(TOKENS) + "\n")
  return str(path)


def write_config(folder: pathlib.Path) -> str:
  """Writes the tiny config, and returns its file."""
  path = folder / "bert_config.json"
  path.write_text(tiny_config().to_json_string())
  return str(path)


def define_flags(program: types.ModuleType) -> None:
  """Defines the flags of a program, in place of those of another."""
  by_module = flags.FLAGS.flags_by_module_dict()
  for module in list(by_module):
    if not module.startswith("absl"):
      for flag in list(by_module[module]):
        if flag.name in flags.FLAGS:
          delattr(flags.FLAGS, flag.name)
  input_paths.unmark_all()
  program.define_flags()


def set_flags(program: types.ModuleType, **values) -> None:
  """Sets the flags of a program, like its command line does.

  A tuple stands for a repeated flag, and None for one that is not given.
  """
  define_flags(program)
  arguments = []
  for name, value in values.items():
    if value is None:
      continue
    repeated = value if isinstance(value, tuple) else (value,)
    arguments += [f"--{name}={one}" for one in repeated]
  flags.FLAGS([program.__name__, *arguments])


def run_program(program: types.ModuleType, **values) -> None:
  """Runs the `main` of a program in this process, with the given flags."""
  set_flags(program, **values)
  if hasattr(program, "check_flags"):
    program.check_flags()
  program.main([])
  # It had its inputs, so the check before TensorFlow is loaded accepts them.
  input_paths.check_inputs()


def run_refused(*arguments: str) -> str:
  """Runs Python on a program that has to fail, and returns its messages."""
  result = subprocess.run(
    [sys.executable, *arguments],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert result.returncode == 1
  assert "Traceback" not in result.stderr
  return result.stderr


def refuse_at_once(program: str, *arguments: str) -> str:
  """Runs a program that has to fail before it loads TensorFlow.

  Args:
    program: Name of the program, such as `predict`.
    *arguments: Its flags.

  Returns:
    The last line of its messages.
  """
  messages = run_refused("-X", "importtime", f"{program}.py", *arguments)
  assert "tensorflow.python" not in messages
  return messages.splitlines()[-1]


def create_records(text_file, **values) -> str:
  """Runs create_pretraining_data.py on tiny data, and returns the output."""
  settings = dict(
    input_file=text_file,
    max_seq_length=24,
    max_predictions_per_seq=4,
    dupe_factor=3,
  )
  settings.update(values)
  run_program(create_pretraining_data, **settings)
  return str(settings["output_file"])


# --- Files that programs write ------------------------------------------------


def read_records(path):
  """Returns the tf.train.Examples of a TFRecord file."""
  return [
    tf.train.Example.FromString(record)
    for record in tf.data.TFRecordDataset(path).as_numpy_iterator()
  ]


def read_results(run):
  """Returns the numbers in `eval_results.txt` of a run, by name."""
  return {
    name: float(value)
    for name, value in (
      line.split(" = ")
      for line in (run / "eval_results.txt").read_text().splitlines()
    )
  }


def assert_has_report(run, *splits):
  """Asserts that a run has its page, made from the examples of its splits."""
  page = (run / "report.html").read_text(encoding="utf-8")
  assert all(f"Examples of {split}</h2>" in page for split in splits)
  (command,) = json.loads((run / "report_run.json").read_text())["commands"]
  assert f"--output_dir={run}" in command["arguments"]


def read_table(path):
  """Returns the rows of a file of tab-separated values."""
  with open(path, newline="", encoding="utf-8") as reader:
    return list(csv.reader(reader, delimiter="\t"))


def read_tensors(path):
  """Returns the tensors of a checkpoint, or of the newest one in a folder."""
  reader = checkpoint.open_checkpoint(str(path))
  return {name: reader.get_tensor(name) for name in reader.shapes}


def read_losses(run):
  """Returns the loss of each logged step of a run."""
  return {
    row["step"]: row["loss"]
    for row in map(
      json.loads, (run / "training_log.jsonl").read_text().splitlines()
    )
  }


def to_transformers(variables, prefix):
  """Returns tensors under PyTorch transformers' names."""
  renames = [
    ("cls/predictions/output_bias", "cls.predictions.bias"),
    ("output_weights", "weight"),
    ("output_bias", "bias"),
    ("bert/", prefix),
    ("layer_", "layer."),
    ("gamma", "weight"),
    ("beta", "bias"),
    ("kernel", "weight"),
    ("/", "."),
  ]
  result = {}
  for name, variable in variables.items():
    tensor = variable.numpy()
    tensor = tensor.T if name.endswith("kernel") else tensor
    if name.endswith("_embeddings"):
      name += "/weight"
    for ours, theirs in renames:
      name = name.replace(ours, theirs)
    result[name] = np.ascontiguousarray(tensor)
  return result


def mutations(content, count, seed):
  """Yields copies of `content` with a few changes each."""
  rng = random.Random(seed)
  for _ in range(count):
    changed = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 5])):
      place = rng.randrange(len(changed))
      length = rng.choice([1, 2, 4, 8, 40])
      part = slice(place, place + length)
      choice = rng.randrange(6)
      if choice == 0:
        changed[place] ^= 1 << rng.randrange(8)
      elif choice == 1:
        changed[place] = rng.choice(b"\0\1\x7f\x80\xff(R")
      elif choice == 2:
        changed[part] = rng.randbytes(length)
      elif choice == 3:
        changed[part] = b"\xff" * length
      elif choice == 4:
        changed[place:place] = changed[part]
      else:
        del changed[part]
    yield bytes(changed)


def write_tensorflow_1_module(
  folder, vocab_file, use_resource=False, with_vocabulary=True
):
  """Writes a module as they were published, if a small one."""
  builder = v1.saved_model.Builder(folder)
  values = np.random.default_rng(1).normal(size=(len(TOKENS), 6))
  for tags in ([], ["train"]):
    with v1.Graph().as_default(), v1.Session() as session:
      names = ("input_ids", "input_mask", "segment_ids")
      inputs = [v1.placeholder(tf.int32, [None, None], name) for name in names]
      with v1.variable_scope("bert", use_resource=use_resource):
        table = v1.get_variable(
          "embeddings/word_embeddings", initializer=values.astype(np.float32)
        )
        kernel = v1.get_variable(
          "pooler/dense/kernel",
          initializer=np.eye(6, dtype=np.float32),
        )
      is_real = tf.cast(inputs[1], tf.float32)[..., tf.newaxis]
      embedded = tf.nn.embedding_lookup(table, inputs[0]) * is_real
      if tags:
        embedded = v1.nn.dropout(embedded, rate=0.1)
      pooled = tf.tanh(tf.matmul(tf.reduce_sum(embedded, axis=1), kernel))
      outputs = {"pooled_output": pooled, "sequence_output": embedded}
      info = {
        "vocab_file": tf.constant(vocab_file),
        "do_lower_case": tf.constant(True),
      }
      v1.add_to_collection(v1.GraphKeys.ASSET_FILEPATHS, info["vocab_file"])
      signatures = {"tokens": (dict(zip(names, inputs)), outputs)}
      if with_vocabulary:
        signatures["tokenization_info"] = ({}, info)

      def describe(tensors):
        return {
          name: v1.saved_model.utils.build_tensor_info(tensor)
          for name, tensor in tensors.items()
        }

      session.run(v1.global_variables_initializer())
      arguments = dict(
        signature_def_map={
          name: v1.saved_model.build_signature_def(*map(describe, tensors))
          for name, tensors in signatures.items()
        },
        assets_collection=v1.get_collection(v1.GraphKeys.ASSET_FILEPATHS),
      )
      if tags:
        builder.add_meta_graph(tags, **arguments)
      else:
        builder.add_meta_graph_and_variables(session, tags, **arguments)
  builder.save()
  with open(os.path.join(folder, "tfhub_module.pb"), "wb") as writer:
    writer.write(b"\x08\x03")
  return folder


# --- Deaths -------------------------------------------------------------------


class Killed(BaseException):
  """Stands for the death of a process in the middle of its work."""


FILE_OPERATIONS = [
  (tf.io.gfile, name)
  for name in ("rename", "remove", "rmtree", "makedirs", "copy", "GFile")
]


def run_until_death(
  run: Callable[[], object],
  num_operations: int,
  operations: Iterable[tuple[object, str]] = tuple(FILE_OPERATIONS),
) -> bool:
  """Runs a function that dies when it has made some file operations.

  Args:
    run: The function.
    num_operations: Number of operations that succeed. Each later one raises
      `Killed`, so that nothing more is written, as after a real death.
    operations: The functions that count, as pairs of a module and a name.

  Returns:
    Whether the function died.
  """
  count = 0

  def dying(function):
    def wrapper(*args, **kwargs):
      nonlocal count
      count += 1
      if count > num_operations:
        raise Killed
      return function(*args, **kwargs)

    return wrapper

  with pytest.MonkeyPatch.context() as monkeypatch:
    for module, name in operations:
      monkeypatch.setattr(module, name, dying(getattr(module, name)))
    try:
      run()
    except Killed:
      return True
  return False


def check_deaths(
  run: Callable[[pathlib.Path], object],
  folder: pathlib.Path,
  whole: dict[str, bytes],
  steps: Iterable[int] = range(1000),
) -> None:
  """Asserts that a killed run, run again, ends with the same files.

  Args:
    run: Function of the folder to write to.
    folder: Where to make a folder for each death.
    whole: Files of a run that was not killed.
    steps: Numbers of file operations after which the runs die.
  """
  for step in steps:
    place = folder / str(step)
    if not run_until_death(lambda: run(place), step):
      return  # there were no more operations
    run(place)
    assert read_folder(place) == whole, step


def read_folder(folder: pathlib.Path) -> dict[str, bytes]:
  """Returns the content of all files below a folder, by their path in it."""
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in folder.rglob("*")
    if path.is_file()
  }


# --- Other processes ----------------------------------------------------------


def wait_until(condition: Callable[[], object], seconds: float = 120) -> None:
  """Returns when a condition is true; fails if that takes too long."""
  deadline = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < deadline, f"nothing happened in {seconds} s"
    time.sleep(0.01)


def assert_refused_by_lock(
  run: Callable[[], object], folder: pathlib.Path, lock_file: str
) -> None:
  """Asserts that a program names the process that writes to its output.

  Args:
    run: Runs the program.
    folder: Everything that the program reads and writes.
    lock_file: Path of its lock in the folder.
  """
  before = read_folder(folder)
  with locks.Lock(str(folder / lock_file), "the place"):
    with pytest.raises(UserError, match=rf"is in use: .*process {os.getpid()}"):
      run()
  assert read_folder(folder) == before


# --- Questions about paragraphs ----------------------------------------------


def question_dataset(context, *questions, path="x.json"):
  """Returns a SQuAD data set with one paragraph.

  Args:
    context: Text of the paragraph.
    *questions: For each question its text and then its answers, each a text
      and an offset. A question without answers is impossible.
    path: Path that messages name.
  """
  return squad.Dataset(
    path,
    [context],
    [
      squad.Question(
        str(number),
        text,
        0,
        tuple(squad.Answer(*answer) for answer in answers),
        is_impossible=not answers,
      )
      for number, (text, *answers) in enumerate(questions)
    ],
  )


def window_maker(
  dataset, tokenizer, max_seq_length=16, doc_stride=4, max_query_length=5
):
  """Returns a maker of short windows."""
  return squad_windows.WindowMaker(
    dataset,
    tokenizer,
    squad_windows.WindowSettings(max_seq_length, doc_stride, max_query_length),
  )


# Folders of outputs of the original code.
GOLDEN_QUESTIONS = ("v1.1_seq384", "v2.0_seq64")


class GoldenQuestions:
  """Windows and answers of the original code, in a folder of golden files.

  Attributes:
    settings: The settings that the outputs were made with.
  """

  def __init__(self, golden_dir, name):
    self._folder = os.path.join(golden_dir, "squad", name)
    self._data_dir = os.path.join(golden_dir, "..", "data")
    self.settings = self.read_json("settings.json")

  def read_json(self, file):
    with open(os.path.join(self._folder, file), encoding="utf-8") as reader:
      return json.load(reader)

  def read_json_lines(self, file):
    path = os.path.join(self._folder, file)
    with gzip.open(path, "rt", encoding="utf-8") as reader:
      return [json.loads(line) for line in reader]

  def window_maker(self, file):
    """Returns a maker of the windows of `train_file` or `predict_file`."""
    vocab_dir = os.path.join(self._data_dir, "vocab", self.settings["vocab"])
    tokenizer = tokenization.FullTokenizer(
      os.path.join(vocab_dir, "vocab.txt"), self.settings["do_lower_case"]
    )
    dataset = squad.read_dataset(
      os.path.join(self._data_dir, "squad", self.settings[file])
    )
    questions = dataset.questions[: self.settings["num_questions"]]
    return window_maker(
      dataset._replace(questions=questions),
      tokenizer,
      self.settings["max_seq_length"],
      self.settings["doc_stride"],
      self.settings["max_query_length"],
    )
