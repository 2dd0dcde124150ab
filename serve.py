"""Serves models: a page for people, and a REST API for programs.

    python serve.py --model=runs/mrpc
    python serve.py --model=reviews=runs/reviews,bert=uncased_L-4_H-512_A-8
    curl http://127.0.0.1:8501/v1/models/mrpc:predict \\
        -d '{"signature_name": "text", "instances": ["Hello, he said."]}'

The page at http://127.0.0.1:8501/ answers texts that one types, pastes or drops
as a file. The API is that of TensorFlow Serving. A folder with numbered
versions is watched: a new version is loaded while the old one answers. SIGTERM
ends the server when it has answered what had begun. There is no authentication:
see docs/serving.md before you pass --host.
"""

from __future__ import annotations

import launch  # First: from here on a signal ends the program quietly.

from collections.abc import Mapping
import importlib.util
import os

from absl import flags
from absl import logging

from command_line import flag_help
from command_line import input_paths
import common_flags
from data import file_io
from errors import UserError
from serving import model_versions
from serving import server_limits
from serving import text_answers
from training import model_folder

FLAGS = flags.FLAGS

# Packages of the extra `serve`.
_PACKAGES = ("starlette", "uvicorn", "prometheus_client")
_SEPARATOR = "|||"


def _check_models(flag: str, names: str) -> None:
  """Raises a UserError if a model of --model does not exist."""
  for name in names.split(","):
    path = name.partition("=")[2] or name
    is_there = "://" in path or os.path.isdir(path) or os.path.isdir(name)
    if not is_there:
      model_folder.check_exists(flag, path)


@flag_help.group("Server")
def define_flags() -> None:
  """Defines the flags of this program."""
  flags.DEFINE_list(
    "model",
    None,
    "Models, each a path or name=path. A path is a folder of a model, such as "
    "the --output_dir of a training, the name of a model that "
    "download_model.py downloaded, a SavedModel, or a folder of numbered "
    "versions.",
    required=True,
  )
  flags.DEFINE_string(
    "host",
    "127.0.0.1",
    "Address to listen on; 0.0.0.0 for all networks of this machine.",
  )
  flags.DEFINE_integer(
    "port",
    8501,
    "Port to listen on; 0 for any that is free.",
    lower_bound=0,
    upper_bound=65535,
  )
  flags.DEFINE_list(
    "examples_file",
    [],
    "Files with a row per line that the page offers as examples, each a path "
    "or name=path with the name of a model. ||| separates the parts of a row.",
  )
  input_paths.mark("model", _check_models)
  input_paths.mark("examples_file", input_paths.check_named_paths)
  flags.DEFINE_integer(
    "top_k", 5, "Number of tokens to show for each [MASK].", lower_bound=1
  )
  flags.DEFINE_float(
    "poll_seconds",
    server_limits.ServerLimits().poll_seconds,
    "Seconds between two looks for new versions of the models.",
    lower_bound=0.1,
  )
  _define_limits()
  common_flags.define_precision_flag()


@flag_help.group("Limits")
def _define_limits() -> None:
  limits = server_limits.ServerLimits()
  flags.DEFINE_integer(
    "max_batch_size",
    limits.max_batch_size,
    "Largest number of rows, of one or several requests, that the model "
    "answers at once.",
    lower_bound=1,
  )
  flags.DEFINE_float(
    "batch_delay_ms",
    1000 * limits.batch_delay,
    "Milliseconds that a row waits for others to join its batch, unless it has "
    "waited for earlier batches already.",
    lower_bound=0,
  )
  flags.DEFINE_integer(
    "max_body_bytes",
    limits.max_body_bytes,
    "Largest body of a request.",
    lower_bound=1,
  )
  flags.DEFINE_integer(
    "max_rows",
    limits.max_rows,
    "Largest number of rows of a request.",
    lower_bound=1,
  )
  flags.DEFINE_integer(
    "max_text_bytes",
    limits.max_text_bytes,
    "Largest number of bytes of text of a row.",
    lower_bound=1,
  )
  flags.DEFINE_integer(
    "max_queue_rows",
    limits.max_queue_rows,
    "Largest number of rows that wait for the model. Further requests are "
    "answered with 503 and the time after which to try again.",
    lower_bound=1,
  )
  flags.DEFINE_float(
    "request_timeout",
    limits.timeout,
    "Seconds that a request may take to arrive, and seconds until its answer.",
    lower_bound=0.1,
  )


def check_flags() -> None:
  """Raises a UserError if a package is missing or flags contradict others."""
  _check_packages()
  if FLAGS.max_rows > FLAGS.max_queue_rows:
    raise UserError(
      f"--max_rows={FLAGS.max_rows} is more than --max_queue_rows="
      f"{FLAGS.max_queue_rows}, so the largest requests would never fit into "
      "the queue. Raise --max_queue_rows."
    )


def main(_):
  # These need the packages of the extra `serve`.
  from serving import rest_app
  from serving import rest_server

  paths = model_versions.parse_models(FLAGS.model)
  examples = _read_examples(paths)
  dtype = common_flags.compute_dtype()
  models = [
    model_versions.NamedModel(
      name, path, top_k=FLAGS.top_k, compute_dtype=dtype
    )
    for name, path in paths.items()
  ]
  library = model_versions.ModelLibrary(models)
  with rest_server.bind(FLAGS.host, FLAGS.port) as listener:
    library.load_first()
    limits = server_limits.ServerLimits(
      max_batch_size=FLAGS.max_batch_size,
      batch_delay=FLAGS.batch_delay_ms / 1000,
      max_body_bytes=FLAGS.max_body_bytes,
      max_rows=FLAGS.max_rows,
      max_text_bytes=FLAGS.max_text_bytes,
      max_queue_rows=FLAGS.max_queue_rows,
      timeout=FLAGS.request_timeout,
      poll_seconds=FLAGS.poll_seconds,
    )
    app = rest_app.create_app(library, limits, examples)
    if not rest_server.is_private(listener):
      logging.warning(
        "--host=%s: other machines reach this server, which has no "
        "authentication.",
        FLAGS.host,
      )
    logging.info("Serving at %s", rest_server.address_of(listener))
    rest_server.run(app, listener, limits.timeout)


def _check_packages() -> None:
  """Raises a UserError if a package of the extra `serve` is missing."""
  missing = [name for name in _PACKAGES if not importlib.util.find_spec(name)]
  if missing:
    raise UserError(
      f"serve.py requires {', '.join(missing)}. Run pip install -e '.[serve]' "
      "in the folder of the project."
    )


def _read_examples(
  paths: Mapping[str, str],
) -> dict[str, list[text_answers.Row]]:
  """Returns name of a model -> the rows of its file of examples.

  Raises:
    UserError: There is no such model, or the file cannot be read.
  """
  examples = {}
  for value in FLAGS.examples_file:
    name, has_name, path = value.rpartition("=")
    if not has_name:
      name = next(iter(paths))
    if name not in paths:
      raise UserError(
        f"--examples_file={value}: there is no model {name}, but "
        f"{', '.join(paths)}."
      )
    rows = []
    for line in file_io.read_lines(path):
      if line.strip():
        parts = [part.strip() for part in line.split(_SEPARATOR)]
        rows.append(tuple(parts))
    examples[name] = rows
  return examples


if __name__ == "__main__":
  define_flags()
  launch.run(main, check_flags)
