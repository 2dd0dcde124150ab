"""Starts a program, and ends it cleanly whatever happens.

Programs import this module first. From then on a signal ends them quietly, even
while their other imports, which take seconds, are still running:

    SIGTERM  exit status 75 (EX_TEMPFAIL: the same command continues)
    SIGINT   exit status 130, the convention of shells for Ctrl-C

While `main` runs, a signal raises `errors.Interrupted` wherever the program is.
During training the estimator handles signals, and saves first. Errors that the
user can fix are printed as one line, without a traceback (`-v=1` shows it).

Imports of TensorFlow are postponed until the flags are known to be right, so
that help and mistakes are answered at once; see `command_line.late_imports`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import contextlib
import functools
import io
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

from command_line import late_imports
from errors import Interrupted
from errors import repeat_warnings
from errors import UserError

STARTED = time.monotonic()  # when the program began
EXIT_CODES = {signal.SIGTERM: 75, signal.SIGINT: 130}
_EXIT_CODE_BROKEN_PIPE = 128 + 13  # what shells report for SIGPIPE
# Environment variable of a program that has to end when its standard input
# ends.
_PARENT_VARIABLE = "BERT_ENDS_WITH_STDIN"

# A long message is cut to its beginning and its end, which says what to do.
_LONGEST_BEGINNING, _LONGEST_END = 1000, 400
_LONGEST_DAMAGE = 200

# Time that a program which saves nothing has for cleaning up after a signal.
_SECONDS_TO_END = 1.0

# Errors of file systems, in the form in which TensorFlow reports them.
_FILE_ERROR = re.compile(
  r"^(?P<path>[^\n;]+); (?P<reason>No space left on device|Permission denied|"
  r"Read-only file system|No such file or directory|Input/output error|"
  r"Is a directory|Not a directory|Disk quota exceeded|File name too long|"
  r"Too many open files)"
)


def _exit_at_once(number: int, unused_frame: Any) -> None:
  os._exit(EXIT_CODES[signal.Signals(number)])


def _interrupt(number: int, unused_frame: Any) -> None:
  # A second signal means that the user does not want to wait for anything.
  _handle_signals(_exit_at_once)
  raise Interrupted(
    number, "Stopped. The same command continues from what was saved."
  )


def _handle_signals(handler: Callable) -> None:
  for number in EXIT_CODES:
    signal.signal(number, handler)


def _end_soon_after_signals() -> None:
  """Makes this process end soon after a signal, wherever its main thread is.

  Python's signal handlers wait until a call of a library has ended, which may
  take minutes. The interpreter writes the number of a signal to a socket at
  once.
  """
  receiver, sender = socket.socketpair()
  sender.setblocking(False)
  signal.set_wakeup_fd(sender.fileno())

  # The socket stays open as long as the thread has it as an argument.
  def wait_for_signal(unused_sender):
    while numbers := receiver.recv(1):
      if numbers[0] in EXIT_CODES:
        time.sleep(_SECONDS_TO_END)
        os._exit(EXIT_CODES[numbers[0]])

  threading.Thread(target=wait_for_signal, args=(sender,), daemon=True).start()


def _is_program() -> bool:
  """Returns whether the main module of this process is one of our programs."""
  main_file = getattr(sys.modules["__main__"], "__file__", None)
  if main_file is None:
    return False
  return _folder_of(main_file) == _folder_of(__file__)


def _folder_of(file: str) -> str:
  return os.path.dirname(os.path.abspath(file))


def parent_settings() -> dict[str, Any]:
  """Returns arguments of `subprocess.Popen` that tie a program to this process.

  The program ends when this process ends.
  """
  import subprocess  # pylint: disable=g-import-not-at-top

  return {
    "stdin": subprocess.PIPE,
    "env": {**os.environ, _PARENT_VARIABLE: "1"},
  }


def run_program(
  name: str, arguments: Sequence[str], log_file: str = ""
) -> None:
  """Runs another one of our programs to its end.

  It ends when this one ends, even if this one is killed, so that the next call
  of the same command has its folders to itself. If it was stopped by a signal,
  this program exits with the same status.

  Args:
    name: Name of its file, such as `run_classifier.py`.
    arguments: Its flags.
    log_file: File that its messages are appended to; empty to show them.

  Raises:
    UserError: The program failed.
  """
  import subprocess  # pylint: disable=g-import-not-at-top

  command = [
    sys.executable,
    os.path.join(_folder_of(__file__), name),
    *arguments,
  ]
  with contextlib.ExitStack() as stack:
    output = None
    if log_file:
      output = stack.enter_context(open(log_file, "a", encoding="utf-8"))
    process = subprocess.Popen(
      command, stdout=output, stderr=output, **parent_settings()
    )
    try:
      code = process.wait()
    except BaseException:
      process.terminate()  # upon which it saves its work
      process.wait()
      raise
    finally:
      if process.stdin:
        process.stdin.close()
  if code in EXIT_CODES.values():
    sys.stderr.write("Stopped. The same command resumes from there.\n")
    sys.exit(code)
  if code:
    raise UserError(_explain_failure(name, code, log_file))


def _explain_failure(name: str, code: int, log_file: str) -> str:
  """Returns the message about a program that failed."""
  if not log_file:
    return (
      f"{name} ended with status {code}; its message is above. When the cause "
      "is gone, the same command continues with this program."
    )
  with open(log_file, encoding="utf-8", errors="replace") as log:
    _, _, last_line = log.read().strip().rpartition("\n")
  return f"{last_line} (The rest is in {log_file}.)"


def _end_with_parent() -> None:
  """Ends this process when its parent ends, for whatever reason.

  The parent has the other end of the standard input. The system closes it when
  the parent ends.
  """
  while os.read(0, 4096):
    pass
  os._exit(1)


if _is_program() and threading.current_thread() is threading.main_thread():
  _handle_signals(_exit_at_once)
  late_imports.postpone()
  if os.environ.pop(_PARENT_VARIABLE, None):
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _escape_what_the_output_lacks() -> None:
  """Makes `print` escape characters that the output cannot show.

  A terminal in Latin-1 then shows `\\u5317` instead of ending the program.
  """
  if isinstance(sys.stdout, io.TextIOWrapper):
    sys.stdout.reconfigure(errors="backslashreplace")


def _read_arguments() -> list[str]:
  """Returns the command line, read as UTF-8 whatever the locale says.

  With `LC_ALL=C`, Python does not decode bytes that are not ASCII. An argument
  that is not UTF-8 stays as it is.
  """
  arguments = []
  for argument in sys.argv:
    with contextlib.suppress(UnicodeError):
      argument = os.fsencode(argument).decode("utf-8")
    arguments.append(argument)
  return arguments


def run(
  main: Callable[[list[str]], None],
  check_flags: Callable[[], None] | None = None,
  passes_on_flags: str = "",
  saves_at_signals: bool = True,
) -> None:
  """Runs a program.

  Args:
    main: The program. Its argument is the rest of the command line after the
      flags, with the name of the program first.
    check_flags: Raises a UserError if flags contradict each other. It runs
      before TensorFlow is loaded, and should do without it and without files.
    passes_on_flags: Name of a flag. Where it is given, unknown flags are no
      error, but stay in the rest of the command line.
    saves_at_signals: Whether the program needs time to save its work when a
      signal arrives. If not, it ends within a second or two, even in the middle
      of a long call of a library.
  """
  from absl import app  # pylint: disable=g-import-not-at-top
  from absl import logging  # pylint: disable=g-import-not-at-top

  from command_line import flag_help  # pylint: disable=g-import-not-at-top
  from command_line import flag_parsing  # pylint: disable=g-import-not-at-top
  from command_line import input_paths  # pylint: disable=g-import-not-at-top
  from command_line import messages  # pylint: disable=g-import-not-at-top

  messages.set_up()

  def parse_flags(argv):
    if flag_parsing.asks_for_help(argv):
      docstring = str(sys.modules["__main__"].__doc__)
      sys.stdout.write(flag_help.help_text(docstring))
      sys.exit(0)
    pattern = re.compile(f"--?{passes_on_flags}(=|$)")
    passes_on = passes_on_flags and any(map(pattern.match, argv))
    try:
      rest = flag_parsing.parse(argv, known_only=bool(passes_on))
      input_paths.check_inputs()
      input_paths.check_model_is_named()
      if check_flags:
        check_flags()
      return rest
    except UserError as error:
      sys.exit(_report_error(error))

  def guarded_main(argv):
    if not saves_at_signals:
      _end_soon_after_signals()
    _escape_what_the_output_lacks()
    try:
      if "tensorflow" in sys.modules:
        logging.info("Loading TensorFlow ...")
      with messages.held_back():
        late_imports.load_all()
        _find_gpus()
      _handle_signals(_interrupt)
      main(argv)
      repeat_warnings()
      sys.stdout.flush()
    except (Exception, Interrupted, KeyboardInterrupt) as error:
      code = _report_error(error)
      if code is None:
        raise
      logging.debug("%s", traceback.format_exc())
      if isinstance(error, Interrupted) and not saves_at_signals:
        with contextlib.suppress(OSError):
          sys.stdout.flush()
        os._exit(code)  # libraries may take long to end their threads
      sys.exit(code)
    finally:
      # Everything is done or reported. While Python shuts down, it would
      # restore the default handler, which ends with another exit status.
      _handle_signals(signal.SIG_IGN)

  app.run(guarded_main, argv=_read_arguments(), flags_parser=parse_flags)


def _find_gpus() -> None:
  """Makes TensorFlow look for GPUs, which it reports about at length."""
  from absl import flags  # pylint: disable=g-import-not-at-top

  tensorflow = sys.modules.get("tensorflow")
  uses_tpu = "use_tpu" in flags.FLAGS and flags.FLAGS.use_tpu
  if tensorflow and not uses_tpu:
    tensorflow.config.list_physical_devices()


def _report_error(error: BaseException) -> int | None:
  """Prints an error for the user, and returns the exit status.

  Returns None, and prints nothing, for an error that only a programmer can fix.
  """
  if isinstance(error, KeyboardInterrupt):
    error = Interrupted(signal.SIGINT, "Stopped.")
  if isinstance(error, BrokenPipeError) and _is_output_closed():
    # The reader of our output stopped reading, as `head` does.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return _EXIT_CODE_BROKEN_PIPE
  message = message_for_user(error)
  if message is None:
    return None
  from command_line import messages  # pylint: disable=g-import-not-at-top

  messages.ProgressLine.make_room()
  program = os.path.basename(sys.argv[0])
  sys.stderr.write(f"{program}: {message}\n")
  if isinstance(error, Interrupted):
    return EXIT_CODES[signal.Signals(error.signal_number)]
  return 1


def message_for_user(error: BaseException) -> str | None:
  """Returns the message about an error, or None if it is a mistake of ours.

  Users can fix three kinds of errors: those that our code raises as such, our
  checks inside a `tf.data` pipeline, and errors of the operating system about
  files. The message is one line of moderate length, even if it quotes files.
  """
  message = _full_message(error)
  if message is None:
    return None
  if len(message) > _LONGEST_BEGINNING + _LONGEST_END:
    message = f"{message[:_LONGEST_BEGINNING]} ... {message[-_LONGEST_END:]}"
  return "".join(map(_printable, message.strip()))


def _printable(char: str) -> str:
  """Returns a character that is safe to print on one line."""
  if char.isprintable():
    return char
  return " " if char.isspace() else "?"


def _full_message(error: BaseException) -> str | None:
  """Returns the message of an error that a user can fix, otherwise None."""
  if isinstance(error, (UserError, Interrupted)):
    return str(error)
  if isinstance(error, OSError) and error.errno is not None:
    path = f"{error.filename}: " if error.filename is not None else ""
    return f"{path}{error.strerror}."
  file_encoding = sys.getfilesystemencoding()
  if isinstance(error, UnicodeEncodeError) and error.encoding == file_encoding:
    return (
      f"{error.object}: this locale has no such file names, only those in "
      f"{file_encoding}. Set the environment variable PYTHONUTF8=1."
    )
  if "tensorflow" not in type(error).__module__:
    return None
  text = getattr(error, "message", None) or str(error)
  if type(error).__name__ == "DataLossError":
    damage = text.splitlines()[0][:_LONGEST_DAMAGE]
    return (
      f"A file is damaged: {damage}. If the program made it for itself, the "
      "same command makes it again."
    )
  # The parts of the message of an assertion are in brackets.
  assertion = re.search(r"assertion failed: (.*)", text)
  if assertion:
    parts = re.findall(r"\[(.*?)\](?= \[|$)", assertion.group(1))
    return " ".join(parts)
  file_error = _FILE_ERROR.match(text)
  if file_error:
    return f"{file_error['path']}: {file_error['reason']}."
  return None


def _is_output_closed() -> bool:
  """Returns whether nobody reads the standard output any more."""
  if not hasattr(select, "poll"):
    return True
  poll = select.poll()
  poll.register(1, select.POLLOUT)
  closed = select.POLLERR | select.POLLHUP
  return any(events & closed for _, events in poll.poll(0))


# --- One writer at a time ----------------------------------------------------


def owns(
  flag: str,
  needs_lock: Callable[[], bool] = lambda: True,
  finish: Callable[[float, list[str]], None] = lambda *unused: None,
) -> Callable:
  """Returns a decorator of `main` that holds the lock of a folder.

  Files that an earlier run left half-written in the folder, or in a folder in
  it, are removed first. If several machines train together, only the first one
  holds the lock.

  Args:
    flag: Name of the flag that names the folder.
    needs_lock: Returns whether the program will write to the folder at all.
    finish: Called when `main` has ended well, with the seconds that it took and
      the warnings that it logged.
  """

  def decorator(main):
    @functools.wraps(main)
    def locked_main(argv):
      from absl import flags  # pylint: disable=g-import-not-at-top

      from command_line import messages  # pylint: disable=g-import-not-at-top
      from data import file_io  # pylint: disable=g-import-not-at-top
      from data import locks  # pylint: disable=g-import-not-at-top

      folder = flags.FLAGS[flag].value
      if not (needs_lock() and _is_first_machine()):
        return main(argv)
      with locks.Lock.of_folder(folder, f"--{flag}={folder}"):
        file_io.remove_leftovers(folder, in_subfolders=True)
        started = time.monotonic()
        with messages.collected_warnings() as warnings:
          main(argv)
        return finish(time.monotonic() - started, warnings)

    return locked_main

  return decorator


def _is_first_machine() -> bool:
  """Returns whether this is the first machine of TF_CONFIG, or the only one."""
  try:
    config = json.loads(os.environ.get("TF_CONFIG") or "{}")
    task, cluster = config.get("task", {}), config.get("cluster", {})
    if task.get("type", "chief") == "chief":
      return True
    return "chief" not in cluster and int(task.get("index", 0)) == 0
  except (ValueError, TypeError, AttributeError):
    return True  # a later check reports the mistake
