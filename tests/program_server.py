"""Runs programs as `python program.py` does, without importing TensorFlow anew.

A fork server: this process imports the libraries once, and neither uses them
nor starts a thread. For each request it forks a process that becomes the
program. Our own modules are imported by that process, as always.

Requests are lines of JSON on standard input: `program`, `arguments`, `folder`
(the working directory), `log` (a file for standard error; standard output goes
to the same name with `.out`), `environment` (changes), and `dies_at` (null, or
the number of the file operation before which the process kills itself). The
answer is the line `{"started": pid}`, and when the process has ended
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
# What takes long to import. Not pyarrow, which starts a thread.
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

# As `launch` has them. It sets its own handlers as soon as it is imported.
_EXIT_CODES = {signal.SIGTERM: 75, signal.SIGINT: 130}

# What changes files, by the names of Python's audit events.
_AUDIT_EVENTS = (
  "os.rename",
  "os.remove",
  "os.mkdir",
  "os.rmdir",
  "os.truncate",
  "os.link",
  "os.symlink",
)
# The same in TensorFlow: functions of the module below `tf.io.gfile`, and
# operations.
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
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # is for the tests
  _answer(ready=os.getpid())
  while line := sys.stdin.readline():
    request = json.loads(line)
    # Neither handler of the parent may run in the child.
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
  """Runs a program in this process, and ends it as Python does."""
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
  sys.stdin = open(0, encoding="utf-8")  # nothing that the parent has read
  os.environ.update(environment)
  path = os.path.join(ROOT, program)
  sys.argv = [path, *arguments]
  sys.path[0] = ROOT  # as if the program had been named to Python
  if dies_at:
    _die_at(dies_at, folder, os.path.splitext(log)[0] + ".operations")
  runpy.run_path(path, run_name="__main__")
  sys.exit()


def _die_at(number: int, folder: str, count_file: str) -> None:
  """Kills this process before its nth operation on files below a folder.

  If it makes fewer, their number is written to `count_file`.
  """
  # pylint: disable=g-import-not-at-top
  import tensorflow as tf
  from tensorflow.python.lib.io import file_io

  # pylint: enable=g-import-not-at-top
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
