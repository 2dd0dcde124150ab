"""Tests of serve.py: its flags, its start and its end."""

import http.client
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request

from absl import logging
import builders
import pytest
import served_models
from starlette import testclient

from errors import UserError
import heads
import serve
from serving import model_versions
from serving import rest_app
from serving import rest_server
from serving import server_limits


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
  """Folder of a model of pre-training."""
  folder = tmp_path_factory.mktemp("models") / "encoder"
  return served_models.write_model(folder, heads.PRETRAINING)


@pytest.fixture
def started(monkeypatch, run_program):
  """Function that starts the program and returns what it would serve."""
  seen = {}

  def create_app(library, limits, examples):
    seen.update(library=library, limits=limits, examples=examples)
    return "app"

  def run(app, listener, timeout):
    seen.update(address=listener.getsockname(), timeout=timeout)

  monkeypatch.setattr(rest_app, "create_app", create_app)
  monkeypatch.setattr(rest_server, "run", run)

  def start(**flags):
    run_program(serve, **{"port": 0, **flags})
    return seen

  return start


def test_flags_set_what_they_promise(started, encoder, tmp_path):
  examples = tmp_path / "examples.txt"
  examples.write_text("a cat\n\nwho ||| the dog\n")
  limits = dict(
    max_batch_size=3,
    max_body_bytes=4,
    max_rows=5,
    max_text_bytes=6,
    max_queue_rows=7,
    poll_seconds=8.5,
  )
  seen = started(
    model=f"one={encoder},two={encoder}",
    batch_delay_ms=9,
    request_timeout=10.5,
    top_k=2,
    precision="bfloat16",
    examples_file=f"two={examples}",
    **limits,
  )
  assert seen["limits"] == server_limits.ServerLimits(
    batch_delay=0.009, timeout=10.5, **limits
  )
  assert seen["timeout"] == 10.5
  assert seen["examples"] == {"two": [("a cat",), ("who", "the dog")]}
  assert seen["address"][0] == "127.0.0.1"
  models = seen["library"].models
  assert list(models) == ["one", "two"]
  # The second model is loaded while the first one answers.
  assert models["one"].current and not models["two"].current
  version = models["one"].current
  [answer] = version.answers.answer([("a [MASK]",)], version.head)
  assert len(answer["masks"][0]) == 2
  [output] = version.exported.functions["text"](["a"])["sequence_output"]
  assert output.dtype.name == "float32"
  settings = models["one"]._settings
  assert settings["compute_dtype"].name == "bfloat16"


@pytest.fixture
def load_nothing(monkeypatch):
  """Replaces the loading of models."""
  version = model_versions.ModelVersion(1, None, ())
  monkeypatch.setattr(
    model_versions, "load_version", lambda *unused, **also_unused: version
  )


def test_defaults_are_those_of_the_limits(started, encoder, load_nothing):
  assert started(model=encoder)["limits"] == server_limits.ServerLimits()


def test_a_server_for_other_machines_says_that_it_is_open(
  started, encoder, load_nothing, monkeypatch
):
  warnings = []
  monkeypatch.setattr(
    logging, "warning", lambda text, *values: warnings.append(text % values)
  )
  started(model=encoder)
  assert not warnings
  assert started(model=encoder, host="0.0.0.0")["address"][0] == "0.0.0.0"
  assert any("no authentication" in warning for warning in warnings)


def test_mistakes_are_explained_before_work(started, encoder, monkeypatch):
  with pytest.raises(UserError, match="never fit into the queue"):
    started(model=encoder, max_rows=9, max_queue_rows=8)
  with pytest.raises(UserError, match="there is no model x, but encoder"):
    started(model=encoder, examples_file="x=y")
  with pytest.raises(UserError, match="neither a folder"):
    started(model=f"{encoder},no/such/folder")

  def load(*unused_args, **unused_kwargs):
    raise AssertionError("loaded before the port was there")

  monkeypatch.setattr(model_versions, "load_version", load)
  with rest_server.bind("127.0.0.1", 0) as listener:
    with pytest.raises(UserError, match="cannot listen on 127.0.0.1"):
      started(model=encoder, port=listener.getsockname()[1])
  find_spec = importlib.util.find_spec
  monkeypatch.setattr(
    importlib.util,
    "find_spec",
    lambda name: None if name == "uvicorn" else find_spec(name),
  )
  with pytest.raises(UserError, match="requires uvicorn. Run pip install"):
    started(model=encoder)


def test_the_page_offers_the_examples_of_the_user():
  library = served_models.fake_library("one")
  app = rest_app.create_app(
    library, server_limits.ServerLimits(), {"one": [("mine",)]}
  )
  with testclient.TestClient(app) as client:
    [model] = client.get("/v1/models").json()["models"]
  assert model["kinds"] == [{"kind": "classify", "examples": [["mine"]]}]


def test_the_client_of_the_manual_works(capsys):
  page = builders.ROOT / "docs" / "serving.md"
  [client] = [
    block
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.S)
    if "urllib" in block
  ]
  library = served_models.fake_library("help_desk")
  with served_models.running(library) as address:
    exec(client.replace("http://127.0.0.1:8501", address[:-1]), {})
  assert capsys.readouterr().out == "long 0.5\nlong 0.5\n"


def test_a_signal_ends_the_server_after_what_has_begun(tmp_path):
  model = served_models.write_model(tmp_path / "model", heads.ENCODER)
  process = subprocess.Popen(
    [
      *(sys.executable, "serve.py", f"--model=m={model}", "--port=0"),
      "--request_timeout=60",
    ],
    cwd=builders.ROOT,
    stderr=subprocess.PIPE,
    text=True,
    env={**os.environ, "PYTHONUNBUFFERED": "1"},
  )
  try:
    lines = []
    for line in process.stderr:
      lines.append(line)
      found = re.search(r"Serving at http://127.0.0.1:(\d+)/", line)
      if found:
        break
    port = int(found.group(1))
    body = b'{"rows": ["the cat sat", "a dog"]}'
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    client.putrequest("POST", "/v1/models/m:answer")
    client.putheader("Content-Length", str(len(body)))
    client.endheaders()
    client.send(body[:5])
    ask(port, body)  # by now the server knows the first request, too
    process.send_signal(signal.SIGTERM)
    while is_listening(port):
      pass
    client.send(body[5:])
    answer = client.getresponse()
    assert answer.status == 200
    assert len(json.load(answer)["answers"]) == 2
    client.close()
    rest = process.stderr.read()
    assert process.wait(60) == 0, rest
    assert "requests that had begun were answered" in rest
    assert "Traceback" not in "".join(lines) + rest
  finally:
    process.kill()
    process.wait()


def ask(port, body):
  address = f"http://127.0.0.1:{port}/v1/models/m:answer"
  with urllib.request.urlopen(address, body, timeout=60) as answer:
    assert answer.status == 200


def is_listening(port):
  try:
    with socket.create_connection(("127.0.0.1", port), 60):
      return True
  except OSError:
    return False
