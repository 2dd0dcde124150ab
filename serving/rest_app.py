"""The REST API of a server, and its page, as an ASGI application.

    POST /v1/models/NAME[/versions/N]:predict   as TensorFlow Serving
    GET  /v1/models/NAME[/versions/N]           states of the versions
    GET  /v1/models/NAME[/versions/N]/metadata  signatures
    POST /v1/models/NAME[/versions/N]:answer    as `predict.py --json`
    GET  /v1/models                             models, for the page
    GET  /healthz, /metrics, /openapi.json      for machines
    GET  /                                      for people

An error is `{"error": "..."}`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
import contextlib
import re
import threading
import time
from typing import Any

from absl import logging
import orjson
from starlette import applications
from starlette import exceptions
from starlette import requests
from starlette import responses
from starlette import routing
import tensorflow as tf

from errors import UserError
from serving import model_versions
from serving import openapi
from serving import rest_format
from serving import row_batches
from serving import server_limits
from serving import server_metrics
from serving import text_answers
from serving import text_page

_JSON = "application/json"
_HEADERS = {
  "Content-Security-Policy": (
    "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
  ),
  "X-Content-Type-Options": "nosniff",
  "Referrer-Policy": "no-referrer",
  "Cache-Control": "no-store",
}
_ANSWER_FIELDS = ("rows", "query")
# Status of a request whose client has gone; it reaches only the metrics.
_CLIENT_GONE = 499

Endpoint = Callable[
  [requests.Request, model_versions.ModelVersion], Awaitable[bytes]
]


class StatusError(Exception):
  """An error with the status code of its answer.

  Attributes:
    status: The status code.
    headers: Further headers of the answer.
  """

  def __init__(self, status: int, message: str, **headers: str):
    """Stores the status, and headers whose names have _ in place of -."""
    super().__init__(message)
    self.status = status
    self.headers = {
      name.replace("_", "-"): value for name, value in headers.items()
    }


def create_app(
  library: model_versions.ModelLibrary,
  limits: server_limits.ServerLimits,
  examples: dict[str, list[text_answers.Row]] | None = None,
) -> applications.Starlette:
  """Returns the application, which loads models while it runs.

  Args:
    library: The models.
    limits: Limits for requests.
    examples: Name of a model -> rows that the page offers.
  """
  return RestServer(library, limits, examples or {}).app


class RestServer:
  """The endpoints, with the objects that they share.

  Attributes:
    app: The application.
    batches: The queue of rows.
  """

  def __init__(
    self,
    library: model_versions.ModelLibrary,
    limits: server_limits.ServerLimits,
    examples: dict[str, list[text_answers.Row]],
  ):
    """Makes the application."""
    self._library = library
    self._limits = limits
    self._examples = examples
    self._metrics = server_metrics.ServerMetrics(library, self._count_waiting)
    # Created in the event loop of the server.
    self.batches: row_batches.RowBatches | None = None
    model = "/v1/models/{name}"
    version = model + "/versions/{version}"
    predict = self._post("predict", self._predict)
    answer = self._post("answer", self._answer)
    self.app = applications.Starlette(
      routes=[
        routing.Route("/", self._get_page),
        routing.Route("/{file}", self._get_file),
        routing.Route("/v1/models", self._list_models),
        routing.Route(version + ":predict", predict, methods=["POST"]),
        routing.Route(model + ":predict", predict, methods=["POST"]),
        routing.Route(version + ":answer", answer, methods=["POST"]),
        routing.Route(model + ":answer", answer, methods=["POST"]),
        routing.Route(version + "/metadata", self._get_metadata),
        routing.Route(model + "/metadata", self._get_metadata),
        routing.Route(version, self._get_status),
        routing.Route(model, self._get_status),
      ],
      lifespan=self._run,
      exception_handlers={
        StatusError: _answer_error,
        exceptions.HTTPException: _answer_http_error,
        Exception: _answer_fault,
      },
    )

  @contextlib.asynccontextmanager
  async def _run(
    self, unused_app: applications.Starlette
  ) -> AsyncIterator[None]:
    """Answers batches and loads versions while the application runs."""
    limits = self._limits
    self.batches = row_batches.RowBatches(
      limits.max_batch_size,
      limits.batch_delay,
      limits.max_queue_rows,
      self._metrics.observe_batch,
    )
    watcher = threading.Thread(
      target=self._library.watch, args=(limits.poll_seconds,), daemon=True
    )
    watcher.start()
    async with self.batches.started():
      yield
    self._library.end()

  def _count_waiting(self) -> int:
    return self.batches.num_waiting if self.batches else 0

  # --- Models ----------------------------------------------------------------

  def _find_model(self, request: requests.Request) -> model_versions.NamedModel:
    """Returns the model that a path names.

    Raises:
      StatusError: There is none.
    """
    name = request.path_params["name"]
    if name not in self._library.models:
      raise StatusError(
        404,
        f"There is no model {rest_format.shorten(name)}. This server has "
        f"{', '.join(self._library.models)}.",
      )
    return self._library.models[name]

  def _find_version(
    self, request: requests.Request
  ) -> model_versions.ModelVersion:
    """Returns the version that a path names, or the one that answers.

    Raises:
      StatusError: There is no such version, or it is still loaded.
    """
    model = self._find_model(request)
    number = request.path_params.get("version")
    current = model.current
    if current and number in (None, str(current.number)):
      return current
    if current is None and number is None:
      raise StatusError(
        503, f"The model {model.name} is still loaded.", Retry_After="1"
      )
    raise StatusError(
      404,
      f"The model {model.name} has no version {rest_format.shorten(number)} "
      f"that answers. It has {current.number if current else 'none yet'}.",
    )

  async def _list_models(
    self, unused_request: requests.Request
  ) -> responses.Response:
    limits = self._limits
    models = []
    for model in self._library.models.values():
      if model.current:
        rows = self._examples.get(model.name)
        models.append(text_page.describe_model(model.name, model.current, rows))
      else:
        models.append({"name": model.name, "head": None})
    return _answer_json(
      {
        "models": models,
        "max_rows": limits.max_rows,
        "max_body_bytes": limits.max_body_bytes,
      }
    )

  async def _get_status(self, request: requests.Request) -> responses.Response:
    model = self._find_model(request)
    number = request.path_params.get("version")
    statuses = {
      str(version): status for version, status in model.statuses.items()
    }
    if number is not None:
      if number not in statuses:
        self._find_version(request)  # raises the error
      statuses = {number: statuses[number]}
    shown = [
      {
        "version": version,
        "state": status.state,
        "status": {
          "error_code": "UNKNOWN" if status.message else "OK",
          "error_message": status.message,
        },
      }
      for version, status in statuses.items()
    ]
    return _answer_json({"model_version_status": shown})

  async def _get_metadata(
    self, request: requests.Request
  ) -> responses.Response:
    version = self._find_version(request)
    described = rest_format.describe_signatures(version.exported)
    return _answer_json(
      {
        "model_spec": {
          "name": request.path_params["name"],
          "signature_name": "",
          "version": str(version.number),
        },
        "metadata": {"signature_def": {"signature_def": described}},
      }
    )

  # --- Answers ---------------------------------------------------------------

  def _post(self, method: str, endpoint: Endpoint) -> Any:
    """Returns an endpoint that is measured, and whose errors are answered."""

    async def respond(request: requests.Request) -> responses.Response:
      started = time.monotonic()
      name = request.path_params["name"]
      status = 500
      try:
        version = self._find_version(request)
        body = await endpoint(request, version)
        status = 200
        return responses.Response(body, media_type=_JSON, headers=_HEADERS)
      except (UserError, tf.errors.InvalidArgumentError) as error:
        status = 400
        raise StatusError(status, _explain(error)) from error
      except StatusError as error:
        status = error.status
        raise
      except requests.ClientDisconnect:
        status = _CLIENT_GONE
        return responses.Response(status_code=status)
      finally:
        seconds = time.monotonic() - started
        self._metrics.observe_request(name, method, status, seconds)

    return respond

  async def _predict(
    self, request: requests.Request, version: model_versions.ModelVersion
  ) -> bytes:
    fields = await self._read_fields(request)
    parsed = rest_format.parse_predict(fields, version.exported)
    rows, name = parsed.rows, parsed.signature_name
    # Arrays of rows of one shape can be stacked.
    shapes = tuple(value.shape for value in rows[0])

    def predict(some: Sequence[Any]) -> list[Any]:
      return rest_format.predict_rows(version.exported, name, some)

    sizes = [sum(map(_count_bytes, row)) for row in rows]
    key = (version, "predict", name, shapes)
    outputs = await self._wait_for(request, key, predict, rows, sizes)
    try:
      return rest_format.format_answer(outputs, parsed.is_row_format)
    except rest_format.NotFiniteError as error:
      raise StatusError(500, str(error)) from error

  async def _answer(
    self, request: requests.Request, version: model_versions.ModelVersion
  ) -> bytes:
    fields = await self._read_fields(request)
    rows, query = _parse_rows(fields)
    answers = version.answers
    asked = rows if query is None else [(query,), *rows]
    head = answers.choose_head(asked)
    if query is not None and head.name != text_page.ENCODER:
      raise UserError(
        f"A query is for an encoder, but the head of this model is {head.name}."
      )
    text_answers.check_parts(asked, head)

    def answer(some: Sequence[Any]) -> list[Any]:
      return answers.answer_batch(some, head)

    sizes = [sum(len(part.encode()) for part in row) for row in asked]
    # Rows of one kind have the same number of texts: a batch is one call.
    by_parts = len({len(row) for row in asked}) == 1
    key = (version, "answer", head.name, len(asked[0]) if by_parts else None)
    outputs = await self._wait_for(request, key, answer, asked, sizes)
    if query is None:
      result = answers.finish(rows, outputs, head)
    else:
      vector, *vectors = outputs
      result = [{"nearest": text_answers.rank(rows, vectors, vector)}]
    return orjson.dumps({"answers": result})

  async def _wait_for(
    self,
    request: requests.Request,
    key: Any,
    function: row_batches.BatchFunction,
    rows: Sequence[Any],
    sizes: Sequence[int],
  ) -> list[Any]:
    """Returns the outputs for rows, unless the client goes or time runs out."""
    limits = self._limits
    limits.check_sizes(sizes)
    assert self.batches
    answering = asyncio.ensure_future(
      self.batches.answer(key, function, rows, sizes)
    )
    # After the body, the only message is that the client has gone.
    leaving = asyncio.ensure_future(request.receive())
    try:
      done, _ = await asyncio.wait(
        [answering, leaving],
        timeout=limits.timeout,
        return_when=asyncio.FIRST_COMPLETED,
      )
    finally:
      for task in (answering, leaving):
        task.cancel()
    if answering in done:
      try:
        return answering.result()
      except row_batches.QueueFullError as error:
        raise StatusError(
          503,
          f"This server is busy: {error} Try again.",
          Retry_After=self._metrics.seconds_to_wait(),
        ) from error
    if leaving in done:
      raise requests.ClientDisconnect
    raise StatusError(
      504, f"The answer was not ready within {limits.timeout:g} seconds."
    )

  async def _read_fields(self, request: requests.Request) -> dict[str, Any]:
    """Returns the object in the body of a request.

    Raises:
      StatusError: The body is too large, or takes too long.
      UserError: It is no object of JSON.
    """
    limits = self._limits
    too_large = StatusError(
      413,
      f"The body has more than the {limits.max_body_bytes} bytes that this "
      "server takes. Send several requests.",
    )
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > limits.max_body_bytes:
      raise too_large

    async def read() -> bytes:
      body = bytearray()
      async for part in request.stream():
        body += part
        if len(body) > limits.max_body_bytes:
          raise too_large
      return bytes(body)

    try:
      body = await asyncio.wait_for(read(), limits.timeout)
    except asyncio.TimeoutError as error:
      raise StatusError(
        408,
        f"The body did not arrive within {limits.timeout:g} seconds.",
        Connection="close",
      ) from error
    return rest_format.parse_json(body)

  # --- For machines and people -----------------------------------------------

  async def _get_page(
    self, unused_request: requests.Request
  ) -> responses.Response:
    return responses.HTMLResponse(text_page.read("page.html"), headers=_HEADERS)

  async def _get_file(self, request: requests.Request) -> responses.Response:
    name = request.path_params["file"]
    if name in text_page.MEDIA_TYPES:
      return responses.Response(
        text_page.read(name),
        media_type=text_page.MEDIA_TYPES[name],
        headers=_HEADERS,
      )
    if name == "healthz":
      return responses.PlainTextResponse("ok\n", headers=_HEADERS)
    if name == "metrics":
      body, content_type = self._metrics.format()
      return responses.Response(
        body, headers={**_HEADERS, "Content-Type": content_type}
      )
    if name == "openapi.json":
      return _answer_json(openapi.describe(self._library))
    raise StatusError(404, f"There is no {rest_format.shorten('/' + name)}.")


def _count_bytes(values: Any) -> int:
  """Returns the number of bytes of text, or of numbers, in a value of a row."""
  if values.dtype == object:
    return sum(map(len, values.ravel().tolist()))
  return int(values.nbytes)


def _parse_rows(
  fields: dict[str, Any],
) -> tuple[list[text_answers.Row], str | None]:
  """Returns the rows of a request for answers, and its query.

  Raises:
    UserError: A field is missing, unknown or wrong.
  """
  unknown = [name for name in fields if name not in _ANSWER_FIELDS]
  if unknown or "rows" not in fields:
    raise UserError(
      "Pass an object with rows, a list of texts or of lists of texts, and for "
      "an encoder also query, a text, if the rows are to be ranked."
    )
  rows, query = fields["rows"], fields.get("query")
  if not isinstance(rows, list) or not rows:
    raise UserError(f"rows is {rest_format.shorten(rows)}, not a list of rows.")
  parsed = []
  for number, row in enumerate(rows):
    parts = [row] if isinstance(row, str) else row
    are_texts = isinstance(parts, list) and all(
      isinstance(part, str) for part in parts
    )
    if not are_texts or not parts:
      raise UserError(
        f"rows[{number}] is {rest_format.shorten(row)}, not a text or a list "
        "of texts."
      )
    parsed.append(tuple(parts))
  if query is not None and not isinstance(query, str):
    raise UserError(f"query is {rest_format.shorten(query)}, not a text.")
  return parsed, query


def _explain(error: Exception) -> str:
  """Returns the message about a body, without TensorFlow's list of operations.

  TensorFlow ends with `assertion failed: [message] ...`, or with the message
  and a line that names the operation in `[[...]]`.
  """
  text = str(error)
  found = re.search(r"assertion failed: \[(.*?)\]", text)
  found = found or re.search(r"([^\n]+)\n\s*\[\[", text)
  return found.group(1) if found else text.partition("\n")[0]


# --- Errors ------------------------------------------------------------------


def _answer_json(
  value: Any, status: int = 200, **headers: str
) -> responses.Response:
  return responses.Response(
    orjson.dumps(value),
    status,
    media_type=_JSON,
    headers={**_HEADERS, **headers},
  )


async def _answer_error(
  unused_request: requests.Request, error: Any
) -> responses.Response:
  return _answer_json({"error": str(error)}, error.status, **error.headers)


async def _answer_http_error(
  request: requests.Request, error: Any
) -> responses.Response:
  """Answers a path or a method that no route has."""
  message = (
    f"{request.method} {rest_format.shorten(request.url.path)}: "
    f"{error.detail}. /openapi.json lists the paths."
  )
  headers = dict(error.headers or {})
  return _answer_json({"error": message}, error.status_code, **headers)


async def _answer_fault(
  unused_request: requests.Request, error: Exception
) -> responses.Response:
  """Answers a fault of ours, which the log shows."""
  logging.error("%s: %s", type(error).__name__, error)
  return _answer_json({"error": "The server failed; its log has more."}, 500)
