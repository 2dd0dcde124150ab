"""Tests of rest_app.py: paths, limits and errors, and answers of every head."""

import asyncio
import contextlib
import json
import re
import threading

import numpy as np
import pytest
import served_models
from starlette import testclient
import tensorflow as tf

import heads
from serving import model_versions
from serving import rest_app
from serving import server_limits
from serving import text_answers
from training import model_folder

JSON = "application/json"


@contextlib.contextmanager
def client_of(library, **limits):
  app = rest_app.create_app(library, server_limits.ServerLimits(**limits))
  with testclient.TestClient(app) as client:
    yield client


@pytest.fixture
def client():
  """Client of a server with two models that answer at once."""
  with client_of(served_models.fake_library("one", "two")) as client:
    yield client


def predict(client, *texts, name="one"):
  body = {"signature_name": "text", "instances": list(texts)}
  return client.post(f"/v1/models/{name}:predict", json=body)


# --- Paths -------------------------------------------------------------------


def test_paths_of_tensorflow_serving(client):
  expected = {
    "label": "short",
    "labels": ["short", "long"],
    "probabilities": [0.5, 0.5],
  }
  assert predict(client, "cat").json() == {"predictions": [expected]}
  body = {"signature_name": "text", "inputs": {"text": ["a cat sat"]}}
  answer = client.post("/v1/models/two/versions/1:predict", json=body)
  assert answer.headers["content-type"] == JSON
  assert answer.json()["outputs"]["label"] == ["long"]
  status = {
    "version": "1",
    "state": "AVAILABLE",
    "status": {"error_code": "OK", "error_message": ""},
  }
  for path in ("/v1/models/one", "/v1/models/one/versions/1"):
    assert client.get(path).json() == {"model_version_status": [status]}
  metadata = client.get("/v1/models/one/versions/1/metadata").json()
  assert metadata == client.get("/v1/models/one/metadata").json()
  assert metadata["model_spec"]["version"] == "1"
  signature = metadata["metadata"]["signature_def"]["signature_def"]["text"]
  assert signature["inputs"]["text"]["dtype"] == "DT_STRING"
  assert signature["outputs"]["probabilities"]["dtype"] == "DT_FLOAT"
  dims = signature["inputs"]["text"]["tensor_shape"]["dim"]
  assert dims == [{"size": "-1", "name": ""}]


@pytest.mark.parametrize(
  "method, path, status",
  [
    ("GET", "/v1/models/none", 404),
    ("POST", "/v1/models/none:predict", 404),
    ("POST", "/v1/models/one/versions/2:predict", 404),
    ("POST", "/v1/models/one/versions/01:predict", 404),
    ("GET", "/v1/models/one/versions/2", 404),
    ("GET", "/v1/models/one/versions/2/metadata", 404),
    ("POST", "/v1/models/one:classify", 405),
    ("GET", "/v1/models/one:predict", 404),
    ("GET", "/none", 404),
    ("GET", "/../page.css/x", 404),
    ("DELETE", "/v1/models/one", 405),
  ],
)
def test_wrong_paths_are_errors_in_json(client, method, path, status):
  answer = client.request(method, path)
  assert answer.status_code == status
  assert list(answer.json()) == ["error"]


@pytest.mark.parametrize(
  "path, body",
  [
    ("predict", b"{"),
    ("predict", b"[]"),
    ("predict", b'{"signature_name": "text"}'),
    ("predict", b'{"instances": ["a"]}'),
    ("answer", b"{}"),
    ("answer", b'{"rows": []}'),
    ("answer", b'{"rows": "a"}'),
    ("answer", b'{"rows": [1]}'),
    ("answer", b'{"rows": [[]]}'),
    ("answer", b'{"rows": [["a", null]]}'),
    ("answer", b'{"rows": ["a"], "more": 1}'),
    ("answer", b'{"rows": ["a"], "query": 1}'),
    ("answer", b'{"rows": ["a"], "query": "b"}'),  # it is no encoder
    ("answer", b'{"rows": [["a", "b", "c"]]}'),
  ],
)
def test_wrong_bodies_are_errors_in_json(client, path, body):
  answer = client.post(f"/v1/models/one:{path}", content=body)
  assert answer.status_code == 400
  assert list(answer.json()) == ["error"]
  assert predict(client, "cat").status_code == 200


def test_health_and_security(client):
  assert client.get("/healthz").text == "ok\n"
  assert "page.js" in client.get("/").text
  for path in ("/", "/page.js", "/page.css", "/v1/models", "/none"):
    policy = client.get(path).headers["content-security-policy"]
    assert "default-src 'none'; script-src 'self';" in policy
    assert "unsafe" not in policy


def test_metrics_count_requests_and_batches(client):
  predict(client, "a", "b")
  predict(client, 1)
  predict(client, "a", name="none")
  text = client.get("/metrics").text
  for line in (
    'bert_requests_total{method="predict",model="one",status="200"} 1.0',
    'bert_requests_total{method="predict",model="one",status="400"} 1.0',
    'bert_requests_total{method="predict",model="",status="404"} 1.0',
    'bert_batch_rows_bucket{le="2.0"} 1.0',
    "bert_waiting_rows 0.0",
    'bert_model_version{model="two"} 1.0',
  ):
    assert line in text.splitlines(), text


def test_the_description_names_the_paths_that_exist(client):
  described = client.get("/openapi.json").json()
  text = json.dumps(described)
  for reference in re.findall(r'"\$ref": "#/([^"]*)"', text):
    value = described
    for part in reference.split("/"):
      value = value[part]
  ids = re.findall(r'"operationId": "([^"]*)"', text)
  assert len(ids) == len(set(ids))
  example = {"rows": [["a"]]}
  for path, operations in described["paths"].items():
    path = path.replace("{version}", "1")
    for method in set(operations) & {"get", "post"}:
      body = example if path.endswith(":answer") else None
      answer = client.request(method, path, json=body)
      expected = 400 if path.endswith(":predict") else 200
      assert answer.status_code == expected, path
  assert "/v1/models/two/versions/{version}:predict" in described["paths"]


# --- Limits ------------------------------------------------------------------


def test_limits_are_answered_and_harm_nobody():
  library = served_models.fake_library("one")
  limits = dict(max_rows=2, max_text_bytes=5, max_body_bytes=200)
  with client_of(library, **limits) as client:
    assert predict(client, "a", "b", "c").status_code == 400
    assert predict(client, "\u00e9\u00e9\u00e9").status_code == 400
    assert predict(client, "x" * 200).status_code == 413
    parts = iter([b"{" + b" " * 150, b" " * 150])  # without a length
    answer = client.post("/v1/models/one:predict", content=parts)
    assert answer.status_code == 413
    assert list(answer.json()) == ["error"]
    assert predict(client, "\u00e9\u00e9a", "b").status_code == 200


@contextlib.contextmanager
def held(library):
  """Yields an event that releases the model, and one set when it waits."""
  go_on, waits = threading.Event(), threading.Event()

  def wait():
    waits.set()
    assert go_on.wait(60)

  library.models["one"].current.answers.wait = wait
  try:
    yield go_on, waits
  finally:
    go_on.set()


def answer(client, *rows):
  return client.post("/v1/models/one:answer", json={"rows": list(rows)})


def test_a_full_queue_says_when_to_try_again():
  library = served_models.fake_library("one")
  with client_of(library, max_queue_rows=2, max_rows=2) as client:
    with held(library) as (go_on, waits):
      results = []
      threads = [
        threading.Thread(target=lambda rows: results.append(answer(*rows)),
                         args=((client, *rows),))
        for rows in (["a"], ["b", "c"])
      ]  # fmt: skip
      threads[0].start()
      assert waits.wait(60)
      threads[1].start()
      while "bert_waiting_rows 2.0" not in client.get("/metrics").text:
        pass
      refused = answer(client, "d")
      assert refused.status_code == 503
      assert int(refused.headers["retry-after"]) >= 1
      # Requests that need no model are answered.
      assert client.get("/healthz").status_code == 200
      go_on.set()
      for thread in threads:
        thread.join()
    assert [result.status_code for result in results] == [200, 200]
    assert answer(client, "d").status_code == 200


def test_an_answer_that_takes_too_long_is_given_up():
  library = served_models.fake_library("one")
  with client_of(library, timeout=0.1) as client:
    with held(library):
      late = answer(client, "a")
      assert late.status_code == 504
      assert "within 0.1 seconds" in late.json()["error"]
    library.models["one"].current.answers.wait = lambda: None
    assert answer(client, "a").status_code == 200


def test_clients_that_go_are_dropped_from_the_queue():
  library = served_models.fake_library("one")
  server = rest_app.RestServer(library, server_limits.ServerLimits(), {})

  async def request(body, leaves):
    """Sends a request whose client leaves once an event is set."""
    scope = {
      "type": "http",
      "method": "POST",
      "path": "/v1/models/one:answer",
      "headers": [],
      "query_string": b"",
    }
    messages = [{"type": "http.request", "body": body, "more_body": False}]
    sent = []

    async def receive():
      if messages:
        return messages.pop()
      await leaves.wait()
      return {"type": "http.disconnect"}

    async def send(message):
      sent.append(message)

    await server.app(scope, receive, send)
    return sent[0]["status"]

  async def until(condition):
    while not condition():
      await asyncio.sleep(0)

  async def test():
    async with server.app.router.lifespan_context(server.app):
      with held(library) as (go_on, waits):
        stays, leaves = asyncio.Event(), asyncio.Event()
        first = asyncio.ensure_future(request(b'{"rows": ["a"]}', stays))
        await until(waits.is_set)
        second = asyncio.ensure_future(request(b'{"rows": ["b"]}', leaves))
        await until(lambda: server.batches.num_waiting == 1)
        leaves.set()
        assert await second == 499
        assert server.batches.num_waiting == 0
        go_on.set()
        assert await first == 200

  asyncio.run(asyncio.wait_for(test(), 60))


def test_a_body_that_does_not_come_is_given_up():
  library = served_models.fake_library("one")
  server = rest_app.RestServer(
    library, server_limits.ServerLimits(timeout=0.1), {}
  )
  sent = []

  async def receive():
    await asyncio.Event().wait()

  async def send(message):
    sent.append(message)

  async def test():
    scope = {
      "type": "http",
      "method": "POST",
      "path": "/v1/models/one:predict",
      "headers": [],
      "query_string": b"",
    }
    async with server.app.router.lifespan_context(server.app):
      await server.app(scope, receive, send)

  asyncio.run(asyncio.wait_for(test(), 60))
  assert sent[0]["status"] == 408
  assert (b"connection", b"close") in sent[0]["headers"]


def test_faults_of_ours_are_hidden():
  library = served_models.fake_library("one")

  def fail():
    raise RuntimeError("secret")

  library.models["one"].current.answers.wait = fail
  app = rest_app.create_app(library, server_limits.ServerLimits())
  with testclient.TestClient(app, raise_server_exceptions=False) as client:
    failed = answer(client, "a")
    assert failed.status_code == 500
    assert "secret" not in failed.text
    assert predict(client, "a").status_code == 200


# --- Answers of real models --------------------------------------------------


# The server treats the other heads alike.
QUICK = (heads.TAGGING, heads.PRETRAINING)


@pytest.mark.parametrize(
  "head",
  [
    pytest.param(head, marks=() if head in QUICK else pytest.mark.large)
    for head in served_models.ROWS
  ],
)
def test_answers_are_those_of_predict(head, tmp_path):
  folder = served_models.write_model(tmp_path / "model", head)
  rows = served_models.ROWS[head]
  files = model_folder.find_model(str(folder))
  expected_model = text_answers.TextAnswers(files)
  expected = expected_model.answer(rows, expected_model.choose_head(rows))
  model = model_versions.NamedModel("m", str(folder))
  library = model_versions.ModelLibrary([model])
  library.load_first()
  with client_of(library) as client:
    found = client.post(
      "/v1/models/m:answer", json={"rows": [list(row) for row in rows]}
    )
    assert found.status_code == 200, found.text
    served_models.assert_close(
      found.json()["answers"], json.loads(json.dumps(expected))
    )
    [described] = client.get("/v1/models").json()["models"]
    assert described["head"] == head
    for kind in described["kinds"]:
      for row in kind["examples"]:
        body = {"rows": [row]}
        if kind["kind"] == "compare":
          body = {"query": row[0], "rows": row[1:]}
        shown = client.post("/v1/models/m:answer", json=body)
        assert shown.status_code == 200, shown.text
    check_signatures(client, model.current)


def check_signatures(client, version):
  """Asserts that answers are the outputs of the signatures of the model."""
  functions = version.exported.functions
  for name, function in functions.items():
    if name == "serving_default":
      continue
    inputs = {
      "text": ["the cat sat", "a dog"],
      "text_a": ["the cat sat", "a dog"],
      "text_b": ["it ran", ""],
      "question": ["it was red", "it was"],
      "context": ["the cat sat", "a bird flew over the hill"],
      "choices": [["sat", "ran"], ["flew", "sat on the mat"]],
    }
    names = [spec.name for spec in function.structured_input_signature[0]]
    inputs = {name: inputs[name] for name in names}
    answer = client.post(
      "/v1/models/m:predict", json={"signature_name": name, "inputs": inputs}
    )
    expected = function(**{k: tf.constant(v) for k, v in inputs.items()})
    outputs = answer.json()["outputs"]
    if not isinstance(outputs, dict):  # a single output has no name
      outputs = {next(iter(expected)): outputs}
    assert set(outputs) == set(expected)
    mask = outputs.get("input_mask")
    for key, value in expected.items():
      value = value.numpy()
      if mask and key == "sequence_output":
        value = value * np.array(mask)[..., np.newaxis]
      if value.dtype == object:
        assert outputs[key] == np.vectorize(bytes.decode)(value).tolist()
      else:
        np.testing.assert_allclose(outputs[key], value, atol=2e-5)


@pytest.fixture(scope="module")
def encoder_client(tmp_path_factory):
  folder = tmp_path_factory.mktemp("models") / "m"
  served_models.write_model(folder, heads.ENCODER)
  model = model_versions.NamedModel("m", str(folder))
  library = model_versions.ModelLibrary([model])
  library.load_first()
  with client_of(library) as client:
    yield client


def test_texts_are_ranked_by_a_query(encoder_client):
  rows = ["a big dog ran over the hill", "the cat sat", "it was red"]

  def ask(**body):
    answer = encoder_client.post("/v1/models/m:answer", json=body)
    return answer.json()["answers"]

  [found] = ask(query="the cat sat", rows=rows)
  assert found["nearest"][0]["text"] == "the cat sat"
  cosines = [other["cosine"] for other in found["nearest"]]
  assert cosines[0] == pytest.approx(1, abs=1e-5)
  assert cosines == sorted(cosines, reverse=True) and len(cosines) == 3
  # The neighbours of each row are among the rows of its own request.
  texts = [
    [other["text"] for other in row["nearest"]] for row in ask(rows=rows[:2])
  ]
  assert texts == [[rows[1]], [rows[0]]]


def test_ids_that_the_model_lacks_are_an_error(encoder_client):
  def ask(ids):
    row = dict(input_ids=ids, input_mask=[1] * len(ids))
    row["segment_ids"] = [0] * len(ids)
    body = {"instances": [row]}
    return encoder_client.post("/v1/models/m:predict", json=body)

  assert ask([3, 7, 4]).status_code == 200
  unknown = ask([3, 10**6, 4])
  assert unknown.status_code == 400
  assert "1000000 is not in" in unknown.json()["error"]
  too_long = ask([3] * 100)
  assert too_long.status_code == 400
  assert too_long.json()["error"] == "The model reads at most 40 tokens."
