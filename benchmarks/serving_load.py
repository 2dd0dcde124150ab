"""Loads serve.py with requests, and compares its answers with predict.py.

    python benchmarks/serving_load.py --model=quickstart/classifier
    python benchmarks/serving_load.py --model=quickstart/classifier \\
        --num_requests=20000

Clients in a process of their own keep one connection each and send a text at a
time. With 1, 8 and 64 clients, with batches and without (--max_batch_size=1),
the first command shows requests per second and the time of an answer. The
second one shows the memory of the server before and after each quarter of the
requests. Every answer has to be that of predict.py --json.
"""

import asyncio
from collections.abc import Iterator, Sequence
import contextlib
import json
import os
import pathlib
import re
import subprocess
import sys
import time
from typing import NamedTuple

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from absl import app
from absl import flags
import numpy as np
import result_files

FLAGS = flags.FLAGS

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_CLIENTS = (1, 8, 64)
_BATCH_SIZES = (32, 1)
_WARM_UP = 100  # requests
# Batches of other shapes are computed in another order of additions.
_TOLERANCE = 1e-5


def define_flags() -> None:
  """Defines the flags of this program."""
  flags.DEFINE_string("model", None, "Folder of a classifier.", required=True)
  flags.DEFINE_string(
    "input_file", "sample_data/test.tsv", "Table whose first column is sent."
  )
  flags.DEFINE_float("seconds", 10.0, "Time of each measurement.")
  flags.DEFINE_integer(
    "num_requests",
    0,
    "Number of requests of a test of memory; 0 for the test of speed.",
  )
  flags.DEFINE_integer("memory_clients", 32, "Clients of the test of memory.")
  result_files.define_flag()


class Load(NamedTuple):
  """Results that clients saw.

  Attributes:
    answers: Number of a text -> its answers.
    seconds: Time of each answer.
    rate: Answers per second.
  """

  answers: dict[int, list[dict]]
  seconds: np.ndarray
  rate: float


def predict(texts: Sequence[str]) -> list[dict]:
  """Returns the answers of predict.py."""
  result = subprocess.run(
    [sys.executable, "predict.py", f"--model={FLAGS.model}", "--json"],
    cwd=_ROOT,
    input="".join(text + "\n" for text in texts),
    stdout=subprocess.PIPE,
    text=True,
    check=True,
  )
  return [json.loads(line) for line in result.stdout.splitlines()]


@contextlib.contextmanager
def running_server(max_batch_size: int) -> Iterator[tuple[int, int]]:
  """Yields the port and the process id of a server."""
  process = subprocess.Popen(
    [
      *(sys.executable, "serve.py", f"--model=m={FLAGS.model}", "--port=0"),
      f"--max_batch_size={max_batch_size}",
    ],
    cwd=_ROOT,
    stderr=subprocess.PIPE,
    text=True,
  )
  try:
    assert process.stderr
    for line in process.stderr:
      if found := re.search(r"Serving at http://[^:]*:(\d+)/", line):
        yield int(found.group(1)), process.pid
        break
  finally:
    process.terminate()
    process.wait()


async def _run_client(port: int, texts, numbers, until, answers, seconds):
  """Sends texts one after another, until a function says that it is enough."""
  reader, writer = await asyncio.open_connection("127.0.0.1", port)
  while not until():
    number = next(numbers) % len(texts)
    body = json.dumps({"rows": [texts[number]]}).encode()
    header = (
      "POST /v1/models/m:answer HTTP/1.1\r\nHost: localhost\r\n"
      f"Content-Length: {len(body)}\r\n\r\n"
    )
    started = time.monotonic()
    writer.write(header.encode() + body)
    answer = await reader.readuntil(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 "), answer
    length = re.search(rb"content-length: (\d+)", answer, re.IGNORECASE)
    content = await reader.readexactly(int(length.group(1)))
    seconds.append(time.monotonic() - started)
    if content not in answers.setdefault(number, []):
      answers[number].append(content)
  writer.close()


async def send_load(
  port: int,
  texts: Sequence[str],
  num_clients: int,
  seconds: float = float("inf"),
  num_requests: float = float("inf"),
) -> Load:
  """Lets clients send texts for a time, or a number of them."""
  numbers = iter(range(10**9))
  times: list[float] = []
  contents: dict[int, list[bytes]] = {}
  started = time.monotonic()

  def is_enough() -> bool:
    has_time = time.monotonic() - started < seconds
    return not has_time or len(times) >= num_requests

  clients = [
    _run_client(port, texts, numbers, is_enough, contents, times)
    for _ in range(num_clients)
  ]
  await asyncio.gather(*clients)
  rate = len(times) / (time.monotonic() - started)
  answers = {
    number: [json.loads(content)["answers"][0] for content in some]
    for number, some in contents.items()
  }
  return Load(answers, np.array(times), rate)


def largest_difference(load: Load, expected: Sequence[dict]) -> float:
  """Returns the largest difference of a probability from predict.py's.

  Raises:
    AssertionError: A label differs, or a probability by more than rounding.
  """
  largest = 0.0
  for number, answers in load.answers.items():
    probabilities = expected[number]["probabilities"]
    for answer in answers:
      assert answer["label"] == expected[number]["label"], number
      for label, value in answer["probabilities"].items():
        largest = max(largest, abs(value - probabilities[label]))
  assert largest <= _TOLERANCE, largest
  return largest


def resident_megabytes(process: int) -> float:
  """Returns the memory that a process has in use."""
  status = pathlib.Path("/proc", str(process), "status").read_text()
  return int(re.search(r"VmRSS:\s*(\d+) kB", status).group(1)) / 1024


def measure_speed(texts: Sequence[str], expected: Sequence[dict]) -> None:
  """Measures two servers, with batches and without, which take turns."""
  rows = []
  differences = []
  with contextlib.ExitStack() as stack:
    ports = {}
    for size in _BATCH_SIZES:
      ports[size], _ = stack.enter_context(running_server(size))
      for num_clients in _CLIENTS:
        asyncio.run(
          send_load(ports[size], texts, num_clients, num_requests=_WARM_UP)
        )
    for num_clients in _CLIENTS:
      for size in _BATCH_SIZES:
        load = asyncio.run(
          send_load(ports[size], texts, num_clients, seconds=FLAGS.seconds)
        )
        differences.append(largest_difference(load, expected))
        row = {
          "clients": num_clients,
          "largest batch": size,
          "requests/s": round(load.rate, 1),
          "p50, ms": round(1000 * float(np.percentile(load.seconds, 50)), 1),
          "p99, ms": round(1000 * float(np.percentile(load.seconds, 99)), 1),
        }
        rows.append(row)
        print(row, flush=True)
  result_files.write(
    section="Start and answers",
    title="serve.py under load, with batches and without",
    rows=rows,
    packages=("starlette", "uvicorn"),
    note=(
      f"{len(texts)} texts. Both servers and the clients share the machine, "
      "and take turns. All labels are those of predict.py, and probabilities "
      f"differ by at most {max(differences):.0e}."
    ),
  )


def measure_memory(texts: Sequence[str], expected: Sequence[dict]) -> None:
  """Measures the memory of a server before and after many requests."""
  rows = []
  quarter = FLAGS.num_requests // 4
  with running_server(_BATCH_SIZES[0]) as (port, process):
    asyncio.run(send_load(port, texts, 64, num_requests=_WARM_UP))
    for number in range(5):
      if number:
        load = asyncio.run(
          send_load(port, texts, FLAGS.memory_clients, num_requests=quarter)
        )
        largest_difference(load, expected)
      size = round(resident_megabytes(process))
      rows.append({"requests": number * quarter, "memory, MB": size})
      print(rows[-1], flush=True)
  result_files.write(
    section="Start and answers",
    title="Memory of serve.py over many requests",
    rows=rows,
    packages=("starlette", "uvicorn"),
    note=f"{FLAGS.memory_clients} clients.",
  )


def main(_):
  lines = pathlib.Path(FLAGS.input_file).read_text("utf-8").splitlines()
  texts = [line.split("\t")[0] for line in lines[1:]]
  expected = predict(texts)
  if FLAGS.num_requests:
    measure_memory(texts, expected)
  else:
    measure_speed(texts, expected)


if __name__ == "__main__":
  define_flags()
  app.run(main)
