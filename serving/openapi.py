"""The description of a server's REST API as OpenAPI 3.1."""

from __future__ import annotations

from typing import Any

from serving import exported_model
from serving import model_versions
from serving import text_page

_JSON = "application/json"
# Status of an error -> what it means.
_STATUSES = {
  "400": "The body is wrong; the error says what to change.",
  "404": "There is no such model or version.",
  "408": "The body took too long.",
  "413": "The body is too large.",
  "503": "The server is busy, or still loads the model; see Retry-After.",
  "504": "The answer took too long.",
}


def describe(library: model_versions.ModelLibrary) -> dict[str, Any]:
  """Returns the description of a server with these models."""
  paths: dict[str, Any] = {
    "/healthz": {"get": _operation("Tells that the server runs.", "health")},
    "/metrics": {"get": _operation("Metrics for Prometheus.", "metrics")},
    "/v1/models": {"get": _operation("All models.", "models")},
  }
  for name, model in library.models.items():
    paths.update(_model_paths(name, model))
  return {
    "openapi": "3.1.0",
    "info": {
      "title": "BERT",
      "version": "1",
      "description": "The paths with :predict follow TensorFlow Serving.",
    },
    "paths": paths,
    "components": {
      "schemas": {
        "Error": _object({"error": {"type": "string"}}),
        "Text": {
          "description": "A text, or its bytes in base64.",
          "anyOf": [{"type": "string"}, _object({"b64": {"type": "string"}})],
        },
      },
    },
  }


def _model_paths(name: str, model: model_versions.NamedModel) -> dict[str, Any]:
  """Returns the paths of a model, with and without a version."""
  paths: dict[str, Any] = {}
  for path, suffix in (
    (f"/v1/models/{name}", ""),
    (f"/v1/models/{name}/versions/{{version}}", "_version"),
  ):
    status = _operation(f"States of {name}.", f"status_{name}{suffix}")
    metadata = _operation(f"Signatures of {name}.", f"metadata_{name}{suffix}")
    entries: dict[str, Any] = {
      path: {"get": status},
      f"{path}/metadata": {"get": metadata},
    }
    if model.current:
      predict = _operation(
        f"Outputs of a signature of {name}.", f"predict_{name}{suffix}"
      )
      answer = _operation(
        f"Answers of {name}, as predict.py --json prints them.",
        f"answer_{name}{suffix}",
      )
      predict["requestBody"] = _body(_predict_schema(model.current))
      answer["requestBody"] = _body(
        _answer_schema(),
        {"rows": [list(row) for row in text_page.examples_of(model.current)]},
      )
      entries[f"{path}:predict"] = {"post": predict}
      entries[f"{path}:answer"] = {"post": answer}
    if suffix:
      number = {"type": "integer", "minimum": 0}
      parameter = {"name": "version", "in": "path", "required": True}
      for entry in entries.values():
        entry["parameters"] = [{**parameter, "schema": number}]
    paths.update(entries)
  return paths


def _operation(summary: str, operation_id: str) -> dict[str, Any]:
  result: dict[str, Any] = {
    "summary": summary,
    "operationId": operation_id,
    "responses": {"200": {"description": "The answer."}},
  }
  error = {_JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}
  for status, description in _STATUSES.items():
    result["responses"][status] = {
      "description": description,
      "content": error,
    }
  return result


def _body(schema: dict[str, Any], example: Any = None) -> dict[str, Any]:
  content = {"schema": schema}
  if example is not None:
    content["example"] = example
  return {"required": True, "content": {_JSON: content}}


def _object(
  properties: dict[str, Any], required: list[str] | None = None
) -> dict[str, Any]:
  return {
    "type": "object",
    "properties": properties,
    "required": list(properties) if required is None else required,
    "additionalProperties": False,
  }


def _array(items: dict[str, Any]) -> dict[str, Any]:
  return {"type": "array", "items": items, "minItems": 1}


def _predict_schema(version: model_versions.ModelVersion) -> dict[str, Any]:
  """Returns the schema of a request for predictions."""
  choices = []
  for signature, function in sorted(version.exported.functions.items()):
    specs = exported_model.input_specs(function)
    values = {}
    for name, spec in specs.items():
      value: dict[str, Any] = {"type": "integer"}
      if spec.dtype.name == "string":
        value = {"$ref": "#/components/schemas/Text"}
      for _ in range(spec.shape.rank - 1):
        value = _array(value)
      values[name] = value
    chosen = {"signature_name": {"const": signature}}
    columns = {name: _array(value) for name, value in values.items()}
    row_items: list[dict[str, Any]] = [_object(values)]
    if len(values) == 1:
      row_items.extend(values.values())
    rows = _array({"anyOf": row_items})
    choices.append(_object({**chosen, "instances": rows}))
    choices.append(_object({**chosen, "inputs": _object(columns)}))
  return {"anyOf": choices}


def _answer_schema() -> dict[str, Any]:
  """Returns the schema of a request for answers."""
  text = {"type": "string"}
  rows = _array({"anyOf": [text, _array(text)]})
  return _object({"rows": rows, "query": text}, required=["rows"])
