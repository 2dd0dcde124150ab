"""Tests of launch.py."""

import launch

import errno
import os
import shutil
import signal
import subprocess
import sys

import builders
import pytest
import tensorflow as tf

from errors import Interrupted
from errors import UserError

PROGRAM = """
import launch
import os, sys

def wait(word):
  print(word, flush=True)
  sys.stdin.readline()

def main(argv):
  {body}

if __name__ == "__main__":
  {imports}
  launch.run(main{run_flags})
"""


@pytest.fixture
def start(tmp_path):
  """Function that starts a program that imports launch.py and nothing else."""
  processes = []

  def run(body="pass", imports="pass", run_flags="", arguments=(), **settings):
    for name in ("launch.py", "errors.py"):
      shutil.copy(builders.ROOT / name, tmp_path)
    shutil.copytree(builders.ROOT / "command_line", tmp_path / "command_line")
    (tmp_path / "program.py").write_text(
      PROGRAM.format(body=body, imports=imports, run_flags=run_flags)
    )
    processes.append(
      subprocess.Popen(
        [sys.executable, str(tmp_path / "program.py"), *arguments],
        text=True,
        **{
          "stdin": subprocess.PIPE,
          "stdout": subprocess.PIPE,
          "stderr": subprocess.PIPE,
          **settings,
        },
      )
    )
    return processes[-1]

  yield run
  for process in processes:
    process.kill()
    process.communicate(timeout=60)


@pytest.mark.parametrize(
  "number, code", [(signal.SIGTERM, 75), (signal.SIGINT, 130)]
)
@pytest.mark.parametrize("phase", ["imports", "body"])
def test_signal_ends_a_program_quietly(start, phase, number, code):
  process = start(**{phase: "wait('ready')"})
  assert process.stdout.readline() == "ready\n"
  process.send_signal(number)
  _, messages = process.communicate(timeout=60)
  assert process.returncode == code
  assert messages == (
    ""
    if phase == "imports"
    else "program.py: Stopped. The same command continues from "
    "what was saved.\n"
  )


def test_second_signal_does_not_wait(start):
  process = start("""
  try:
    wait('ready')
  finally:
    wait('cleaning')
""")
  for word in ("ready", "cleaning"):
    assert process.stdout.readline() == word + "\n"
    process.send_signal(signal.SIGINT)
  process.communicate(timeout=60)
  assert process.returncode == 130


def test_signal_ends_a_program_in_a_long_call_of_a_library(start):
  # No Python signal handler runs during the call, which takes half a minute.
  process = start(
    """
  import hashlib, threading, time
  def call():
    hashlib.pbkdf2_hmac('sha256', b'a', b'b', 30_000_000)
  def say_ready(thread):
    while sys._current_frames()[thread].f_code is not call.__code__:
      time.sleep(0.01)
    print('ready', flush=True)
  threading.Thread(target=say_ready, args=(threading.get_ident(),)).start()
  try:
    call()
  finally:
    print('the call is over', flush=True)
""".strip(),
    run_flags=", saves_at_signals=False",
  )
  assert process.stdout.readline() == "ready\n"
  process.send_signal(signal.SIGTERM)
  output, messages = process.communicate(timeout=60)
  assert process.returncode == 75 and output == messages == ""


def test_closed_pipe_is_no_error(start):
  process = start("""
  wait('ready')
  for _ in range(10_000):
    print('x' * 100)
""")
  assert process.stdout.readline() == "ready\n"
  process.stdout.close()
  process.stdin.write("\n")
  process.stdin.flush()
  assert process.stderr.read() == ""
  assert process.wait(timeout=60) == 141


def test_user_error_is_one_line(start):
  process = start("from errors import UserError; raise UserError('Bad x.')")
  assert process.communicate(timeout=60)[1] == "program.py: Bad x.\n"
  assert process.returncode == 1


def test_mistake_of_ours_has_a_traceback(start):
  process = start("int('x')")
  assert (
    "Traceback" in process.communicate(timeout=60)[1]
    and process.returncode == 1
  )


@pytest.mark.parametrize("phase", ["imports", "body"])
def test_a_program_ends_with_its_parent(start, phase):
  code = "print('ready', flush=True); import signal; signal.pause()"
  process = start(**{phase: code}, **launch.parent_settings())
  assert process.stdout.readline() == "ready\n"
  process.stdin.close()  # as the system does when the parent dies
  process.stdin = None
  assert process.wait(timeout=60) == 1


CHILD = """
import signal, sys, time
if "--waits" in sys.argv:
  signal.signal(signal.SIGTERM, lambda *unused: sys.exit(75))
  print("ready", flush=True)
  time.sleep(600)
print("The flag is wrong.", file=sys.stderr)
sys.exit(int(sys.argv[1]))
"""


@pytest.mark.parametrize(
  "arguments, status, message",
  [
    ("'0'", 0, ""),
    ("'75'", 75, "Stopped. The same command resumes from there."),
    ("'3'", 1, "child.py ended with status 3; its message is above."),
    ("'3'], 'log.txt'", 1, "The flag is wrong. (The rest is in log.txt.)"),
  ],
)
def test_a_program_that_runs_another_ends_like_it(
  start, tmp_path, arguments, status, message
):
  (tmp_path / "child.py").write_text(CHILD)
  arguments = arguments if "]" in arguments else arguments + "]"
  process = start(f"launch.run_program('child.py', [{arguments})", cwd=tmp_path)
  _, errors = process.communicate(timeout=60)
  assert process.returncode == status and message in errors
  assert "Traceback" not in errors


def test_a_stopped_program_stops_the_one_that_it_runs(start, tmp_path):
  (tmp_path / "child.py").write_text(CHILD)
  process = start("launch.run_program('child.py', ['--waits'])")
  assert process.stdout.readline() == "ready\n"
  process.send_signal(signal.SIGINT)
  # The output ends when both processes have ended.
  process.communicate(timeout=60)
  assert process.returncode == 130


@pytest.mark.parametrize(
  "error, message",
  [
    (UserError("Bad x."), "Bad x."),
    (UserError("a\nb\u2028c\0d\udce9."), "a b c?d?."),
    (
      UserError(f"x={'y' * 10_000}. Do z."),
      f"x={'y' * 998} ... {'y' * 393}. Do z.",
    ),
    (Interrupted(signal.SIGINT, "Stopped."), "Stopped."),
    (
      PermissionError(errno.EACCES, "Permission denied", "x.txt"),
      "x.txt: Permission denied.",
    ),
    (
      UnicodeEncodeError(sys.getfilesystemencoding(), "K\xf6ln", 1, 2, "no"),
      "K\xf6ln: this locale has no such file names, only those in utf-8. Set "
      "the environment variable PYTHONUTF8=1.",
    ),
    (
      tf.errors.ResourceExhaustedError(
        None, None, "a/x; No space left on device"
      ),
      "a/x: No space left on device.",
    ),
    (
      tf.errors.InvalidArgumentError(
        None, None, "assertion failed: [Too large:] [7]\n\t [[{{node x}}]]"
      ),
      "Too large: 7",
    ),
    (tf.errors.NotFoundError(None, None, "no such node"), None),
    (ValueError("invalid literal"), None),
    (KeyError("x"), None),
  ],
)
def test_messages_for_the_user(error, message):
  assert launch.message_for_user(error) == message


@pytest.fixture
def refused(tmp_path):
  """Function that runs a program that fails, and returns its last message."""

  def run(program, **flags):
    arguments = [f"--{name}={value}" for name, value in flags.items()]
    last_line = builders.run_refused(program, *arguments).splitlines()[-1]
    assert last_line.startswith(f"{program}: ")
    return last_line

  return run


def test_errors_end_with_one_line_and_status_1(
  refused, records, config_file, vocab_file, init_checkpoint, tmp_path
):
  small = tmp_path / "small.json"
  small.write_text(builders.tiny_config(vocab_size=12).to_json_string())
  pretraining = dict(
    program="run_pretraining.py",
    do_train=True,
    input_file=records,
    output_dir=tmp_path / "run",
    max_predictions_per_seq=4,
  )
  assert "input_ids has 24" in refused(
    **pretraining, bert_config_file=config_file, max_seq_length=32
  )
  # A check inside the input pipeline fails during training.
  assert "x.tfrecord, record 1: input_ids has the value" in refused(
    **pretraining, bert_config_file=small, max_seq_length=24
  )
  # The reader of the text fails during prediction.
  (tmp_path / "in.txt").write_bytes(b"good\nb\xe9d\n")
  assert "in.txt, line 2: not UTF-8" in refused(
    "extract_features.py",
    input_file=tmp_path / "in.txt",
    output_file=tmp_path / "out.jsonl",
    vocab_file=vocab_file,
    bert_config_file=config_file,
    init_checkpoint=init_checkpoint,
    max_seq_length=16,
    layers="-1",
  )
  assert not list(tmp_path.glob("out.jsonl*"))


def test_output_escapes_what_its_encoding_lacks(start):
  process = start(
    "print('M\\xfcller in \\u5317\\u4eac')",
    env={**os.environ, "PYTHONUTF8": "0", "PYTHONIOENCODING": "latin-1"},
    encoding="latin-1",
  )
  output, _ = process.communicate(timeout=60)
  assert (process.returncode, output) == (0, "Müller in \\u5317\\u4eac\n")


def test_warnings_are_repeated_in_the_last_lines(start):
  process = start(
    "warn_now_and_at_end('mind this'); logging.warning('work')",
    "from errors import warn_now_and_at_end; from absl import logging",
  )
  _, lines = process.communicate(timeout=60)
  messages = [line[15:] for line in lines.splitlines()]
  assert messages[-3:] == [
    "WARNING: mind this",
    "WARNING: work",
    "WARNING: mind this",
  ]


def test_arguments_are_utf8_whatever_the_locale_says(start):
  process = start(
    "print(ascii(flags.FLAGS.x), 'M\xfcller')",
    "from absl import flags; flags.DEFINE_list('x', [], 'Texts.')",
    arguments=[b"--x=M\xc3\xbcller,\xf0\x9f\x98\x80"],
    env={
      **os.environ,
      "PYTHONUTF8": "0",
      "PYTHONCOERCECLOCALE": "0",
      "LC_ALL": "C",
    },
  )
  output, _ = process.communicate(timeout=60)
  shown = "['M\\xfcller', '\\U0001f600'] M\\xfcller\n"
  assert (process.returncode, output) == (0, shown)


def test_the_home_folder_is_found_in_flags(start, tmp_path):
  process = start(
    body="print(flags.FLAGS.data)",
    imports="from absl import flags; flags.DEFINE_string('data', '', '')",
    arguments=["--data=~/texts/a~b.txt"],
    env={**os.environ, "HOME": str(tmp_path), "USERPROFILE": str(tmp_path)},
  )
  output, _ = process.communicate(timeout=120)
  assert output.strip() == str(tmp_path / "texts" / "a~b.txt")


# Removes what Python lacks on Windows. Python runs it when it starts.
LIKE_WINDOWS = """
import asyncio  # has other parts on Windows, which need none of this
import os, select, signal, sys

for module, names in {
  os: "fork forkpty wait killpg getuid geteuid getgid setsid getpgid statvfs "
  "EX_TEMPFAIL sched_getaffinity sysconf mkfifo nice O_NOFOLLOW",
  signal: "SIGKILL SIGHUP SIGUSR1 SIGUSR2 SIGALRM SIGCHLD SIGPIPE alarm "
  "setitimer pthread_sigmask sigwait siginterrupt",
  select: "poll epoll",
}.items():
  for name in names.split():
    vars(module).pop(name, None)
for name in ("fcntl", "resource", "pwd", "grp", "termios", "pty"):
  sys.modules[name] = None
"""


def test_programs_run_without_what_windows_lacks(tmp_path, vocab_file):
  (tmp_path / "sitecustomize.py").write_text(LIKE_WINDOWS)
  (tmp_path / "text.txt").write_text(builders.TEXT)
  records = tmp_path / "out" / "records"
  result = subprocess.run(
    [
      sys.executable,
      str(builders.ROOT / "create_pretraining_data.py"),
      f"--input_file={tmp_path / 'text.txt'}",
      f"--output_file={records}",
      f"--vocab_file={vocab_file}",
      "--max_seq_length=24",
      "--max_predictions_per_seq=4",
      "--num_shards=2",
      "--num_workers=2",
    ],
    env={**os.environ, "PYTHONPATH": str(tmp_path)},
    capture_output=True,
    text=True,
    timeout=300,
    check=False,
  )
  assert result.returncode == 0, result.stderr
  assert "cannot fork processes, so this one does all" in result.stderr
  assert sorted(os.listdir(tmp_path / "out")) == [
    "records-00000-of-00002",
    "records-00001-of-00002",
    "records.report.html",
    "records.report.json",
  ]
