"""Runs programs like `python program.py`, but imports TensorFlow only once.

This is a fork server. It imports the libraries, but does not call them and does
not start threads. For each request it forks a process that becomes the program
and imports our own modules.

Each request is a line of JSON on standard input with the fields
- `program` and `arguments`,
- `folder`: working directory,
- `log`: file for standard error; standard output goes to `<log>.out`,
- `environment`: changes of environment variables,
- `dies_at`: number of the file operation before which the process kills itself,
  or null.
The answer is a line `{"started": pid}`, and at the end of the process a line
`{"ended": pid, "status": exit status as in subprocess}`.
"""

import atexit
import functools
import importlib
import json
import os
import runpy
import signal
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# Libraries that take long to import, except pyarrow, which starts a thread.
_LIBRARIES = (
  "tensorflow",
  "tensorflow.python.lib.io.file_io",
  "tensorflow_hub",
  "tensorflow_serving.apis.prediction_log_pb2",
  "safetensors.numpy",
  "tokenizers",
  "matplotlib.figure",
  "matplotlib.backends.backend_agg",
  "orjson",
  "absl.app",
  "zstandard",
  "concurrent.futures.process",
)

# The same as in `launch`, which sets its own handlers when it is imported.
_EXIT_CODES = {signal.SIGTERM: 75, signal.SIGINT: 130}

# Audit events of Python for operations that change files.
_AUDIT_EVENTS = (
  "os.rename",
  "os.remove",
  "os.mkdir",
  "os.rmdir",
  "os.truncate",
  "os.link",
  "os.symlink",
)
# Operations of TensorFlow that change files: functions of the module below
# `tf.io.gfile`, and graph operations.
_GFILE_FUNCTIONS = (
  "CopyFile",
  "CreateDir",
  "DeleteFile",
  "DeleteRecursively",
  "RecursivelyCreateDir",
  "RenameFile",
  "WritableFile",
)
_OPERATIONS = ("SaveV2", "MergeV2Checkpoints")


def main() -> None:
  for library in _LIBRARIES:
    importlib.import_module(library)
  signal.signal(signal.SIGCHLD, _report_ended)
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests
  _answer(ready=os.getpid())
  while line := sys.stdin.readline():
    request = json.loads(line)
    # No handler of the parent may run in the child.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, *_EXIT_CODES})
    pid = os.fork()
    if not pid:
      _become_program(**request)
    _answer(started=pid)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD, *_EXIT_CODES})


def _answer(**fields) -> None:
  os.write(1, json.dumps(fields).encode() + b"\n")


def _report_ended(*unused_args) -> None:
  while True:
    try:
      pid, status = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
      return
    if not pid:
      return
    _answer(ended=pid, status=os.waitstatus_to_exitcode(status))


def _become_program(program, arguments, folder, log, environment, dies_at):
  """Runs a program in this process and ends the process like Python does."""
  os.setsid()
  for number, code in _EXIT_CODES.items():
    signal.signal(
      number, functools.partial(lambda code, *unused_args: os._exit(code), code)
    )
  signal.signal(signal.SIGCHLD, signal.SIG_DFL)
  signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD, *_EXIT_CODES})
  os.chdir(folder)
  for descriptor, (path, mode) in enumerate(
    [
      (os.devnull, os.O_RDONLY),
      (log + ".out", os.O_WRONLY | os.O_CREAT | os.O_APPEND),
      (log, os.O_WRONLY | os.O_CREAT | os.O_APPEND),
    ]
  ):
    opened = os.open(path, mode, 0o666)
    os.dup2(opened, descriptor)
    os.close(opened)
  sys.stdin = open(0, encoding="utf-8")  # without the buffer of the parent
  os.environ.update(environment)
  path = os.path.join(ROOT, program)
  sys.argv = [path, *arguments]
  sys.path[0] = ROOT  # as `python program.py` sets it
  if dies_at:
    _die_at(dies_at, folder, os.path.splitext(log)[0] + ".operations")
  runpy.run_path(path, run_name="__main__")
  sys.exit()


def _die_at(number: int, folder: str, count_file: str) -> None:
  """Makes this process kill itself before a file operation below a folder.

  Args:
    number: Number of the operation, counted from 1.
    folder: Folder whose files count.
    count_file: File for the number of operations of a process that makes fewer.
  """
  import tensorflow as tf
  from tensorflow.python.lib.io import file_io

  count = 0
  folder = os.path.realpath(folder) + os.sep

  def count_operation(path) -> None:
    nonlocal count
    if isinstance(path, bytes):
      path = os.fsdecode(path)
    if isinstance(path, str) and os.path.realpath(path).startswith(folder):
      count += 1
      if count == number:
        os.kill(os.getpid(), signal.SIGKILL)

  def audit(event, arguments) -> None:
    if event in _AUDIT_EVENTS or (
      event == "open"
      and isinstance(arguments[2], int)
      and arguments[2] & (os.O_WRONLY | os.O_RDWR)
    ):
      count_operation(arguments[0])

  def counted(function, path_of):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
      count_operation(path_of(*args, **kwargs))
      return function(*args, **kwargs)

    return wrapper

  def write_count() -> None:
    with open(count_file, "w", encoding="ascii") as writer:
      writer.write(str(count))

  atexit.register(write_count)
  sys.addaudithook(audit)
  low_level = file_io._pywrap_file_io
  for name in _GFILE_FUNCTIONS:
    setattr(
      low_level,
      name,
      counted(getattr(low_level, name), lambda path, *unused_args: path),
    )
  for name in _OPERATIONS:
    setattr(
      tf.raw_ops,
      name,
      counted(
        getattr(tf.raw_ops, name),
        lambda prefix=None, destination_prefix=None, **unused_kwargs: (
          prefix or destination_prefix
        ),
      ),
    )


if __name__ == "__main__":
  main()
