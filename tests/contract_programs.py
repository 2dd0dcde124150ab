"""Table of the programs whose contract is tested, as commands on tiny data.

Each command runs in a folder of its own, writes to `out` in that folder, and
takes a few seconds. `write_inputs` and the commands in `PREPARATIONS` make the
files that it reads, once for all commands.
"""

import base64
from collections.abc import Iterator
import contextlib
import dataclasses
import hashlib
from http import server
import io
import itertools
import json
import pathlib
import random
import threading
import time
import zipfile

import tiny

_CONFIG = {
  **tiny.CONFIG,
  **dict(
    num_hidden_layers=1,
    initializer_range=0.02,
    hidden_act="gelu",
    hidden_dropout_prob=0.1,
    attention_probs_dropout_prob=0.1,
  ),
}
_ZIP_NAME = "uncased_L-2_H-128_A-2"

# Files of other people that look like ours. Programs must leave them alone: the
# first ones in the folder of the output, the others next to saved weights.
_FILES_OF_OTHERS = (
  "notes.txt",
  "sibling/notes.txt",
  "sibling/model.ckpt-1.index",
  "out.tmp",
  "out/notes.txt",
  "out/x.tmp",
  "out/notes.0123abcx.unfinished",
  "out/other.parts/part-000000",
  "out/tmp-1-notes/keep.txt",
)
_NEXT_TO_WEIGHTS = (
  "out/model.ckpt-notes.txt",
  "out/model.ckpt-99_temp/keep.txt",
  # Looks like part of a checkpoint that is deleted later.
  "out/model.ckpt-3.notes.txt",
  "out/best/notes.txt",
  "out/export/notes.txt",
  "out/eval/notes.txt",
)

# Files that hold times, process ids or random names.
_UNEQUAL_IN_TRAINING = (
  r"(^|/)events\.out\.tfevents\.[^/]*$",
  r"/training_log\.jsonl$",
  r"(^|/)report(\.html|_run\.json)$",
)


@dataclasses.dataclass(frozen=True)
class Program:
  """A command with the properties of its output.

  Attributes:
    name: Name of this entry.
    program: File of the program.
    arguments: Arguments of the command. `{inputs}` stands for the folder of the
      inputs.
    files_of_others: Files that are in the folder before the command runs.
    unequal: Patterns of files whose content may differ between runs.
    times: Patterns of parts of files that may differ between runs.
    phases: Patterns of log lines. A signal is sent after each of them.
    is_locked: Whether the program refuses a second process.
    refusal: Pattern of the error of a run that finds its work already done.
    is_slow: Whether a run takes much longer than runs of other programs.
  """

  name: str
  program: str
  arguments: tuple[str, ...]
  files_of_others: tuple[str, ...] = _FILES_OF_OTHERS
  unequal: tuple[str, ...] = ()
  times: tuple[bytes, ...] = ()
  phases: tuple[str, ...] = ()
  is_locked: bool = True
  refusal: str | None = None
  is_slow: bool = False


def _flags(**flags) -> tuple[str, ...]:
  return tuple(f"--{name}={value}" for name, value in flags.items())


# --- Inputs ------------------------------------------------------------------


def write_inputs(folder: pathlib.Path) -> None:
  """Writes the files that commands read, except those that commands make."""
  rng = random.Random(1)

  def sentence(length: int | None = None) -> str:
    return " ".join(rng.choices(tiny.WORDS, k=length or rng.randrange(4, 9)))

  def document() -> str:
    return "\n".join(sentence() for _ in range(8)) + "\n\n"

  def write(name: str, text: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")

  write("vocab.txt", "\n".join(tiny.TOKENS) + "\n")
  write("bert_config.json", json.dumps(_CONFIG))
  # TF Hub encoders draw dropout from generators that have no seed.
  write(
    "no_dropout.json",
    json.dumps(
      {
        **_CONFIG,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
      }
    ),
  )
  write("few.txt", "".join(document() for _ in range(6)))
  # The corpus reader splits this into three blocks of a megabyte.
  documents = [document() for _ in range(50)]
  write("many.txt", "".join(rng.choices(documents, k=13_000)))
  write("lines.txt", "".join(sentence(3) + "\n" for _ in range(8500)))
  for split in ("train", "dev", "test"):
    _write_tables(write, split, rng, sentence)
  _write_questions(write)


def _write_tables(write, split: str, rng, sentence) -> None:
  """Writes one split of the tasks except question answering."""
  nouns = ("cat", "dog", "bird")
  rows = [
    (f"the {noun} {verb} {rng.choice(tiny.WORDS)}", label)
    for noun in nouns
    for verb, label in [("sat", "still"), ("ran", "moving"), ("flew", "moving")]
    for _ in range(4)
  ]
  columns = {
    "single_label": rows,
    "multi_label": [
      (text, ",".join(sorted({label, text.split()[1]}))) for text, label in rows
    ],
    "regression": [(text, len(text) / 10) for text, _ in rows],
    "long": [(sentence(20), label) for _, label in rows[:16]],
    # A task of GLUE has columns of its own.
    "glue/RTE": [
      (i, text, "a cat", "entailment" if label == "still" else "not_entailment")
      for i, (text, label) in enumerate(rows[:8])
    ],
  }
  for name, table in columns.items():
    header = ("text", "label")
    if name == "glue/RTE":
      header = ("index", "sentence1", "sentence2", "label")
      if split == "test":
        header, table = header[:-1], [row[:-1] for row in table]
    write(
      f"{name}/{split}.tsv",
      "".join("\t".join(map(str, row)) + "\n" for row in (header, *table)),
    )
  for problem_type in ("single_label", "multi_label", "regression"):
    write(f"{problem_type}.json", json.dumps({"problem_type": problem_type}))
  tags = [
    f"the O\n{color} B-{kind}\n{noun} I-{kind}\nsat O\n"
    for noun, kind in zip(nouns, ("pet", "pet", "wild"))
    for color in ("red", "blue", "big", "small")
  ]
  write(f"tags/{split}.txt", "\n".join(tags))
  choices = [
    {
      "context": sentence(),
      "choices": [sentence(3) for _ in range(3)],
      "label": rng.randrange(3),
    }
    for _ in range(16)
  ]
  write(
    f"choices/{split}.jsonl", "".join(json.dumps(row) + "\n" for row in choices)
  )


def _write_questions(write) -> None:
  """Writes a data set in the format of each version of SQuAD."""
  for version in (1, 2):
    paragraphs = []
    for a, b, c in itertools.permutations(("cat", "dog", "bird"), 3):
      context = f"the {a} sat and the {b} ran and the {c} flew over the hill"
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
              **({"is_impossible": "lazy" in question} if version == 2 else {}),
            }
            for question in ("it was", "it was red", "it was lazy")[
              : 1 + version
            ]
          ],
        }
      )
    write(
      f"squad_{version}.json",
      json.dumps({"data": [{"paragraphs": paragraphs}]}),
    )


class _ZipHandler(server.BaseHTTPRequestHandler):
  """Serves a model so slowly that tests can kill the client meanwhile."""

  content = b""

  def do_GET(self):
    start = 0
    if self.headers.get("Range"):
      start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
    digest = base64.b64encode(hashlib.md5(self.content).digest()).decode()
    self.send_response(206 if start else 200)
    if start:
      size = len(self.content)
      self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
    self.send_header("Content-Length", str(len(self.content) - start))
    self.send_header("ETag", f'"{digest}"')
    self.send_header("x-goog-hash", f"md5={digest}")
    self.end_headers()
    with contextlib.suppress(OSError):  # the client was killed
      for place in range(start, len(self.content), 200_000):
        self.wfile.write(self.content[place : place + 200_000])
        time.sleep(0.05)

  def log_message(self, *args):
    pass


@contextlib.contextmanager
def model_server(port_file: pathlib.Path) -> Iterator[str]:
  """Serves a released model.

  Args:
    port_file: File that keeps the port. The next server uses the same port,
      because files of a download contain its address.

  Yields:
    The address of the server.
  """
  rng = random.Random(1)
  output = io.BytesIO()
  with zipfile.ZipFile(output, "w") as archive:
    for name, content in [
      ("bert_config.json", json.dumps(_CONFIG)),
      ("vocab.txt", "[PAD]\n"),
      ("bert_model.ckpt.index", "index"),
      ("bert_model.ckpt.data-00000-of-00001", rng.randbytes(3_000_000)),
    ]:
      archive.writestr(zipfile.ZipInfo(name), content)
  port = int(port_file.read_text()) if port_file.exists() else 0
  handler = type("Handler", (_ZipHandler,), {"content": output.getvalue()})
  with server.ThreadingHTTPServer(("127.0.0.1", port), handler) as result:
    port_file.write_text(str(result.server_port))
    thread = threading.Thread(target=result.serve_forever, daemon=True)
    thread.start()
    try:
      yield f"http://127.0.0.1:{result.server_port}"
    finally:
      result.shutdown()
      thread.join()


# --- Commands ----------------------------------------------------------------

_MODEL = _flags(
  bert_config_file="{inputs}/bert_config.json", vocab_file="{inputs}/vocab.txt"
)
_INITIALIZED = (
  *_MODEL,
  *_flags(init_checkpoint="{inputs}/pretrained/out/export/bert_model.ckpt"),
)


def _create(name: str, text: str, **flags) -> Program:
  return Program(
    name,
    "create_pretraining_data.py",
    _flags(
      **{
        **dict(
          input_file="{inputs}/" + text,
          vocab_file="{inputs}/vocab.txt",
          max_seq_length=24,
          max_predictions_per_seq=4,
          dupe_factor=1,
          output_file="out/x.tfrecord",
        ),
        **flags,
      }
    ),
  )


def _train(name: str, program: str, *arguments, phases=(), **flags) -> Program:
  return Program(
    name,
    program,
    (
      *arguments,
      *_flags(
        **{
          **dict(
            output_dir="out",
            do_train=True,
            train_batch_size=4,
            learning_rate=0.001,
            save_checkpoints_steps=3,
            keep_checkpoint_max=2,
          ),
          **flags,
        }
      ),
    ),
    files_of_others=_FILES_OF_OTHERS + _NEXT_TO_WEIGHTS,
    unequal=_UNEQUAL_IN_TRAINING,
    phases=("Running training", r"Saved .*-3\.", *phases),
  )


def _pretrain(name: str, **flags) -> Program:
  return _train(
    name,
    "run_pretraining.py",
    *_flags(
      bert_config_file="{inputs}/bert_config.json",
      input_file="{inputs}/records/out/x.tfrecord",
      max_seq_length=24,
      max_predictions_per_seq=4,
      num_train_steps=20,
      num_warmup_steps=2,
      do_eval=True,
      max_eval_steps=20,
    ),
    phases=("Running evaluation",),
    **flags,
  )


def _fine_tune(name: str, program: str, **flags) -> Program:
  return _train(
    name,
    program,
    *_INITIALIZED,
    **{
      **dict(
        max_seq_length=16, num_train_epochs=2, do_eval=True, do_predict=True
      ),
      **flags,
    },
  )


def _classify(name: str, data: str, **flags) -> Program:
  return _fine_tune(
    name,
    "run_classifier.py",
    **{**dict(task_name="custom", data_dir="{inputs}/" + data), **flags},
  )


def _answer(name: str, version: int, **flags) -> Program:
  file = f"{{inputs}}/squad_{version}.json"
  return _train(
    name,
    "run_squad.py",
    *_INITIALIZED,
    **{
      **dict(
        train_file=file,
        predict_file=file,
        do_predict=True,
        max_seq_length=24,
        max_query_length=8,
        doc_stride=4,
        num_train_epochs=3,
      ),
      **flags,
    },
  )


def _extract(file_format: str) -> Program:
  return Program(
    f"extract_{file_format}",
    "extract_features.py",
    (
      *_INITIALIZED,
      *_flags(
        input_file="{inputs}/lines.txt",
        output_file="out/x",
        layers="-1,0",
        pooling="mean",
        max_seq_length=8,
        format=file_format,
      ),
    ),
  )


# Commands that make inputs of other commands.
PREPARATIONS = {
  program.name: program
  for program in (
    _create("records", "few.txt", dupe_factor=3),
    _pretrain("pretrained"),
    Program(
      "hub",
      "export_saved_model.py",
      (
        *_INITIALIZED,
        *_flags(bert_config_file="{inputs}/no_dropout.json", export_dir="out"),
      ),
    ),
    _classify("teacher", "single_label"),
    Program(
      "transformers",
      "convert_checkpoint.py",
      _flags(input_dir="{inputs}/teacher/out/export", output_dir="out"),
    ),
  )
}

PROGRAMS = {
  program.name: program
  for program in (
    _create("records", "many.txt", num_workers=1, num_shards=2),
    _create("records_by_workers", "many.txt", num_workers=2, num_shards=2),
    Program(
      "vocabulary",
      "create_vocabulary.py",
      _flags(
        input_file="{inputs}/many.txt",
        output_dir="out",
        vocab_size=200,
        model_size="tiny",
      ),
    ),
    _pretrain("pretraining"),
    _pretrain(
      "pretraining_dynamic",
      dynamic_masking=True,
      vocab_file="{inputs}/vocab.txt",
      eval_every_steps=4,
    ),
    _classify(
      "classifier",
      "single_label",
      eval_every_steps=5,
      best_metric="eval_accuracy",
      task_file="{inputs}/single_label.json",
    ),
    _classify("regression", "regression", task_file="{inputs}/regression.json"),
    _classify(
      "multi_label", "multi_label", task_file="{inputs}/multi_label.json"
    ),
    _classify(
      "windows",
      "long",
      long_text="sliding_window",
      max_seq_length=12,
      num_train_epochs=1,
    ),
    _classify(
      "student",
      "single_label",
      teacher_model_dir="{inputs}/teacher/out",
      teacher_cache_dir="out/cache",
    ),
    _answer("squad", 1, eval_every_steps=4),
    _answer("squad_2", 2, version_2_with_negative=True),
    _fine_tune(
      "tagger",
      "run_ner.py",
      data_dir="{inputs}/tags",
      do_lower_case=True,
      num_train_epochs=5,
    ),
    _fine_tune(
      "chooser",
      "run_swag.py",
      data_dir="{inputs}/choices",
      train_file="train.jsonl",
      dev_file="dev.jsonl",
      test_file="test.jsonl",
      num_train_epochs=4,
    ),
    _train(
      "hub_classifier",
      "run_classifier_with_tfhub.py",
      *_flags(
        bert_hub_module_handle="{inputs}/hub/out/1",
        task_name="custom",
        data_dir="{inputs}/single_label",
        max_seq_length=16,
        num_train_epochs=1,
        do_eval=True,
        do_predict=True,
      ),
    ),
    Program(
      "glue",
      "run_glue.py",
      (
        *_INITIALIZED,
        *_flags(
          data_dir="{inputs}/glue",
          output_dir="out",
          max_seq_length=16,
          batch_sizes=2,
          learning_rates=0.001,
          seeds=1,
          num_train_epochs=2,
        ),
      ),
      files_of_others=(
        *_FILES_OF_OTHERS,
        *(
          f"out/RTE/batch2_rate0.001_seed1/{name}"
          for name in ("notes.txt", "model.ckpt-notes.txt", "eval/notes.txt")
        ),
      ),
      unequal=(r"/log\.txt$", *_UNEQUAL_IN_TRAINING),
      # The seconds that runs took, in JSON and in the table.
      times=(rb'"seconds": [^,}\n]*', rb"\| \d+ \|\n"),
      is_slow=True,
    ),
    *map(_extract, ("json", "npz", "parquet", "tfrecord")),
    Program(
      "export",
      "export_saved_model.py",
      _flags(model="{inputs}/teacher/out/export", export_dir="out", version=1),
      refusal="--version=1 is in out already",
    ),
    Program(
      "to_transformers",
      "convert_checkpoint.py",
      _flags(input_dir="{inputs}/teacher/out/export", output_dir="out"),
    ),
    Program(
      "from_transformers",
      "convert_checkpoint.py",
      _flags(input_dir="{inputs}/transformers/out", output_dir="out"),
    ),
    Program(
      "download",
      "download_model.py",
      _flags(name=_ZIP_NAME, output_dir="out", mirror="{server}"),
    ),
    Program(
      "plot",
      "report.py",
      _flags(
        run="{inputs}/pretrained/out,{inputs}/teacher/out",
        output_file="out/loss.png",
      ),
    ),
    Program(
      "report",
      "report.py",
      _flags(
        run="{inputs}/pretrained/out,{inputs}/teacher/out",
        output_file="out/runs.html",
      ),
    ),
  )
}

# Commands that only read from `{run}`, the folder of a training that is running
# or has ended.
READERS = (
  Program(
    "features of a run",
    "extract_features.py",
    (
      *_MODEL,
      *_flags(
        init_checkpoint="{run}",
        max_seq_length=8,
        input_file="{inputs}/few.txt",
        output_file="x.json",
      ),
    ),
  ),
  Program(
    "masks by a run",
    "predict.py",
    (*_MODEL, *_flags(init_checkpoint="{run}", text="the [MASK] sat")),
  ),
  Program(
    "export of a run",
    "export_saved_model.py",
    (
      *_MODEL,
      *_flags(init_checkpoint="{run}", head="encoder", export_dir="served"),
    ),
  ),
  Program(
    "plot of a run",
    "report.py",
    _flags(run="{run}", output_file="loss.png"),
  ),
  Program(
    "report of a run",
    "report.py",
    _flags(run="{run}", output_file="run.html"),
  ),
)
