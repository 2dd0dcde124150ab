"""Starts a program, and ends it well whatever happens.

Programs import this module first. From then on a signal ends them quietly, even
while their other imports, which take seconds, are still running:

    SIGTERM  exit status 75 (EX_TEMPFAIL: the same command continues)
    SIGINT   exit status 130, as shells have it for Ctrl-C

While `main` runs, a signal raises `errors.Interrupted` where the program
happens to be; `estimator` handles it during training, and saves first. What the
user can mend is told in one line, without a traceback (`-v=1` shows it).
"""

from collections.abc import Callable
import contextlib
import functools
import json
import os
import re
import select
import signal
import socket
import sys
import threading
import time
import traceback
from typing import Any

from errors import Interrupted
from errors import UserError

EXIT_CODES = {signal.SIGTERM: 75, signal.SIGINT: 130}
_EXIT_CODE_BROKEN_PIPE = 128 + 13  # what shells say of a death by SIGPIPE
# Set for a program that is to end when its standard input does.
_PARENT_VARIABLE = "BERT_ENDS_WITH_STDIN"

# What a message shows of something long: its beginning, and its end, which says
# what to do.
_LONGEST_BEGINNING, _LONGEST_END = 1000, 400

# How long a program that saves nothing has to tidy up when a signal comes.
_SECONDS_TO_END = 1.0

# What a file system says, in the form in which TensorFlow tells it.
_FILE_ERROR = re.compile(
  r"^(?P<path>[^\n;]+); (?P<reason>No space left on device|Permission denied|"
  r"Read-only file system|No such file or directory|Input/output error|"
  r"Is a directory|Not a directory|Disk quota exceeded|File name too long|"
  r"Too many open files)"
)


def _exit_at_once(number: int, unused_frame) -> None:
  os._exit(EXIT_CODES[number])


def _interrupt(number: int, unused_frame) -> None:
  # Who asks twice does not want to wait for anything.
  _handle_signals(_exit_at_once)
  raise Interrupted(
    number, "Stopped. The same command continues from what was saved."
  )


def _handle_signals(handler: Callable) -> None:
  for number in EXIT_CODES:
    signal.signal(number, handler)


def _end_soon_after_signals() -> None:
  """Ends this process soon after a signal, wherever its main thread is then.

  Python's handlers wait for the end of a call of a library, which may be
  minutes away. The interpreter writes the number of a signal to a socket at
  once.
  """
  receiver, sender = socket.socketpair()
  sender.setblocking(False)
  signal.set_wakeup_fd(sender.fileno())

  def wait_for_signal(unused_sender):  # which stays open by being an argument
    while numbers := receiver.recv(1):
      if numbers[0] in EXIT_CODES:
        time.sleep(_SECONDS_TO_END)
        os._exit(EXIT_CODES[numbers[0]])

  threading.Thread(target=wait_for_signal, args=(sender,), daemon=True).start()


def _is_program() -> bool:
  """Whether the main module of this process is one of our programs."""
  main_file = getattr(sys.modules["__main__"], "__file__", None)
  return main_file is not None and (
    os.path.dirname(os.path.abspath(main_file))
    == os.path.dirname(os.path.abspath(__file__))
  )


def parent_settings() -> dict[str, Any]:
  """Returns arguments of `subprocess.Popen`: the program ends when we do."""
  import subprocess  # pylint: disable=g-import-not-at-top

  return {
    "stdin": subprocess.PIPE,
    "env": {**os.environ, _PARENT_VARIABLE: "1"},
  }


def _end_with_parent() -> None:
  """Ends this process when the one that started it dies, however it dies.

  The parent holds the other end of the standard input; the system closes it.
  """
  while os.read(0, 4096):
    pass
  os._exit(1)


if _is_program() and threading.current_thread() is threading.main_thread():
  _handle_signals(_exit_at_once)
  if os.environ.pop(_PARENT_VARIABLE, None):
    threading.Thread(target=_end_with_parent, daemon=True).start()


def run(
  main: Callable, passes_on_flags: str = "", saves_at_signals: bool = True
) -> None:
  """Runs a program.

  Args:
    main: takes what is left of the command line, its first entry the program.
    passes_on_flags: a flag that makes flags which are not known be left, and
      not an error, where it is given.
    saves_at_signals: whether the program takes its time to save what it has
      when a signal comes. If not, it ends within a second or two, even in the
      middle of a long call of a library.
  """
  from absl import app  # pylint: disable=g-import-not-at-top
  from absl import flags  # pylint: disable=g-import-not-at-top
  from absl import logging  # pylint: disable=g-import-not-at-top

  logging.set_verbosity(logging.INFO)

  def parse_flags(argv):
    if passes_on_flags and any(
      re.match(f"--?{passes_on_flags}(=|$)", argument) for argument in argv
    ):
      return flags.FLAGS(argv, known_only=True)
    return app.parse_flags_with_usage(argv)

  def guarded_main(argv):
    if len(argv) > 1 and not (
      passes_on_flags and flags.FLAGS[passes_on_flags].value
    ):
      raise app.UsageError(
        f"What does {argv[1]!r} belong to? Flags look like --name=value."
      )
    if not saves_at_signals:
      _end_soon_after_signals()
    try:
      _handle_signals(_interrupt)
      main(argv)
      sys.stdout.flush()
    except (Exception, Interrupted, KeyboardInterrupt) as error:
      code = _report(error)
      if code is None:
        raise
      logging.debug("%s", traceback.format_exc())
      if isinstance(error, Interrupted) and not saves_at_signals:
        with contextlib.suppress(OSError):
          sys.stdout.flush()
        os._exit(code)  # libraries may take long to end their threads
      sys.exit(code)
    finally:
      # All is done or told. Python's own end would restore the default, which
      # is to die with another exit status.
      _handle_signals(signal.SIG_IGN)

  app.run(guarded_main, flags_parser=parse_flags)


def _report(error: BaseException) -> int | None:
  """Tells the user what happened; returns the exit status.

  Returns None for an error that only a programmer can mend.
  """
  if isinstance(error, KeyboardInterrupt):
    error = Interrupted(signal.SIGINT, "Stopped.")
  if isinstance(error, BrokenPipeError) and _is_output_closed():
    # Whoever read our output has had enough, as `head` does.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return _EXIT_CODE_BROKEN_PIPE
  message = message_for_user(error)
  if message is None:
    return None
  sys.stderr.write(f"{os.path.basename(sys.argv[0])}: {message}\n")
  if isinstance(error, Interrupted):
    return EXIT_CODES[error.signal_number]
  return 1


def message_for_user(error: BaseException) -> str | None:
  """Returns what the user is told of an error; None if it is a mistake of ours.

  Three kinds are the user's: those that our code raises as such, checks of ours
  inside a `tf.data` pipeline, and what the operating system says of a file. The
  message is one line of moderate length, whatever the files hold that it cites.
  """
  message = _message(error)
  if message is None:
    return None
  if len(message) > _LONGEST_BEGINNING + _LONGEST_END:
    message = f"{message[:_LONGEST_BEGINNING]} ... {message[-_LONGEST_END:]}"
  return "".join(
    char if char.isprintable() else " " if char.isspace() else "?"
    for char in message.strip()
  )


def _message(error: BaseException) -> str | None:
  """Returns what an error says to the user, None if nothing."""
  if isinstance(error, (UserError, Interrupted)):
    return str(error)
  if isinstance(error, OSError) and error.errno is not None:
    path = f"{error.filename}: " if error.filename is not None else ""
    return f"{path}{error.strerror}."
  if "tensorflow" not in type(error).__module__:
    return None
  text = getattr(error, "message", None) or str(error)
  if type(error).__name__ == "DataLossError":
    return (
      f"A file is damaged: {text.splitlines()[0][:200]}. Records that "
      "the program made for itself are made again by the same command."
    )
  # The parts of the message of an assertion are in brackets.
  asserted = re.search(r"assertion failed: (.*)", text)
  if asserted:
    return " ".join(re.findall(r"\[(.*?)\](?= \[|$)", asserted.group(1)))
  of_file = _FILE_ERROR.match(text)
  return of_file and f"{of_file['path']}: {of_file['reason']}."


def _is_output_closed() -> bool:
  """Whether nobody reads the standard output any more."""
  if not hasattr(select, "poll"):
    return True
  poll = select.poll()
  poll.register(1, select.POLLOUT)
  return any(
    events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0)
  )


# --- One writer at a time ----------------------------------------------------


def owns(flag: str, needs_lock: Callable[[], bool] = lambda: True) -> Callable:
  """Returns a decorator of `main`: it holds the lock of a folder meanwhile.

  What an earlier run left half-written in the folder is removed first. Of
  several machines that train together only the first one holds the lock.

  Args:
    flag: name of the flag that names the folder.
    needs_lock: whether the program will write to it at all.
  """

  def decorator(main):
    @functools.wraps(main)
    def locked_main(argv):
      from absl import flags  # pylint: disable=g-import-not-at-top

      from data import file_io  # pylint: disable=g-import-not-at-top
      from data import locks  # pylint: disable=g-import-not-at-top

      folder = flags.FLAGS[flag].value
      if not (needs_lock() and _is_first_machine()):
        return main(argv)
      with locks.Lock.of_folder(folder, f"--{flag}={folder}"):
        file_io.remove_leftovers(folder)
        return main(argv)

    return locked_main

  return decorator


def _is_first_machine() -> bool:
  """Whether TF_CONFIG, if there is one, says so."""
  try:
    config = json.loads(os.environ.get("TF_CONFIG") or "{}")
    task, cluster = config.get("task", {}), config.get("cluster", {})
    return task.get("type", "chief") == "chief" or (
      "chief" not in cluster and int(task.get("index", 0)) == 0
    )
  except (ValueError, TypeError, AttributeError):
    return True  # what is wrong with it is told later
