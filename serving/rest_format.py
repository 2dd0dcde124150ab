"""Bodies of requests and answers, in TensorFlow Serving's REST format.

    {"instances": ["a text", "another"]}                  one input, row format
    {"instances": [{"text_a": "a", "text_b": "b"}]}       several inputs
    {"inputs": {"text_a": ["a"], "text_b": ["b"]}}        column format

`signature_name` chooses the signature, and `{"b64": "..."}` stands for a text
as the base64 code of its bytes. Answers have the format of their request.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import orjson
import tensorflow as tf

from errors import UserError
from serving import exported_model
from serving import signatures

# Values of a row, one for each input of its signature.
InputRow = tuple[np.ndarray, ...]
Outputs = dict[str, np.ndarray]

_BYTES_KEY = "b64"
_BYTES_SUFFIX = "_bytes"  # of names of outputs that are not text
_FIELDS = ("signature_name", "instances", "inputs")
_LONGEST_SHOWN = 60
# Output whose values that are not 0 tell the length of a row -> outputs that
# have a value for each place of the row. Longer rows of the same batch fill
# them up.
_PADDED_OUTPUTS = {
  "ends": ("words", "starts", "ends", "tags", "probabilities"),
  "input_mask": ("input_ids", "input_mask", "segment_ids", "sequence_output"),
}


class PredictRequest(NamedTuple):
  """A request for predictions.

  Attributes:
    signature_name: Name of the signature.
    rows: The values of each row.
    is_row_format: Whether its answer has a list of rows.
  """

  signature_name: str
  rows: list[InputRow]
  is_row_format: bool


class NotFiniteError(ArithmeticError):
  """An answer has values that are no finite numbers, which JSON lacks."""


# --- Requests ----------------------------------------------------------------


def parse_json(body: bytes) -> dict[str, Any]:
  """Returns the object in a body.

  Raises:
    UserError: The body is not JSON in UTF-8, or not an object.
  """
  try:
    value = orjson.loads(body)
  except ValueError as error:
    raise UserError(f"The body is not JSON: {error}.") from error
  if not isinstance(value, dict):
    raise UserError(f"The body is {shorten(value)}, not an object.")
  return value


def parse_predict(
  fields: Mapping[str, Any], model: exported_model.ExportedModel
) -> PredictRequest:
  """Returns the request in the fields of a body.

  Args:
    fields: The object in the body.
    model: The model that it asks.

  Raises:
    UserError: A field is missing, unknown or wrong.
  """
  unknown = [name for name in fields if name not in _FIELDS]
  if unknown:
    raise UserError(
      f"The body has {shorten(unknown[0])}. Its fields are "
      f"{', '.join(_FIELDS)}."
    )
  if ("instances" in fields) == ("inputs" in fields):
    raise UserError("Pass either instances, for rows, or inputs, for columns.")
  name = fields.get("signature_name") or signatures.IDS
  if not isinstance(name, str) or name not in model.functions:
    raise UserError(
      f"signature_name is {shorten(name)}, but the model has "
      f"{', '.join(sorted(model.functions))}."
    )
  specs = exported_model.input_specs(model.functions[name])
  is_row_format = "instances" in fields
  if is_row_format:
    columns = _columns_of_rows(fields["instances"], specs, name)
  else:
    columns = _columns(fields["inputs"], specs, name)
  arrays = [
    _to_array(columns[input_name], spec, input_name)
    for input_name, spec in specs.items()
  ]
  lengths = sorted({len(array) for array in arrays})
  if len(lengths) > 1:
    raise UserError(
      f"The inputs have {lengths[0]} and {lengths[-1]} rows. All of them need "
      "the same number."
    )
  if not lengths[0]:
    raise UserError("There are no rows. Pass at least one.")
  # With the ellipsis a text stays an array. NumPy would make another type of
  # array of plain bytes.
  rows = [
    tuple(array[number, ...] for array in arrays)
    for number in range(lengths[0])
  ]
  return PredictRequest(name, rows, is_row_format)


def _columns_of_rows(
  instances: Any, specs: Mapping[str, tf.TensorSpec], signature: str
) -> dict[str, list]:
  """Returns name of an input -> its value in each row."""
  if not isinstance(instances, list):
    raise UserError(f"instances is {shorten(instances)}, not a list of rows.")
  columns: dict[str, list] = {name: [] for name in specs}
  [only, *others] = specs
  for number, row in enumerate(instances):
    if not others and not _has_names(row):
      columns[only].append(row)
      continue
    _check_names(row, specs, signature, f"instances[{number}]")
    for name, value in row.items():
      columns[name].append(value)
  return columns


def _columns(
  inputs: Any, specs: Mapping[str, tf.TensorSpec], signature: str
) -> dict[str, Any]:
  """Returns name of an input -> its values."""
  [only, *others] = specs
  if not others and not _has_names(inputs):
    return {only: inputs}
  _check_names(inputs, specs, signature, "inputs")
  return inputs


def _has_names(value: Any) -> bool:
  """Returns whether a value is an object of inputs, not one of bytes."""
  return isinstance(value, dict) and set(value) != {_BYTES_KEY}


def _check_names(
  value: Any, specs: Mapping[str, tf.TensorSpec], signature: str, place: str
) -> None:
  """Raises a UserError unless a value is an object with all inputs."""
  if not isinstance(value, dict) or set(value) != set(specs):
    raise UserError(
      f"{place} is {shorten(value)}, but the signature {signature} has the "
      f"inputs {', '.join(specs)}. Pass an object with these, or another "
      "signature_name."
    )


def _to_array(value: Any, spec: tf.TensorSpec, name: str) -> np.ndarray:
  """Returns nested lists as an array.

  Args:
    value: The lists.
    spec: Type and shape of the input.
    name: Name of the input, for messages.

  Raises:
    UserError: The lists have another shape, or hold something else.
  """
  dtype, expected, kind = _find_types(spec.dtype)
  if expected is bytes:
    value = _encode_texts(value)
  shape = _shape_of(value, name)
  rank = spec.shape.rank
  if len(shape) != rank:
    raise UserError(
      f"{name} has values of {len(shape)} dimensions, but the signature takes "
      f"{rank}: {spec.shape}."
    )
  flat = _flatten(value, rank)
  for item in flat:
    if not isinstance(item, expected) or isinstance(item, bool):
      raise UserError(f"{name} has the value {shorten(item)}, not {kind}.")
  try:
    array = np.array(flat, dtype)
  except OverflowError as error:
    raise UserError(f"{name} has a number that is too large.") from error
  return array.reshape(shape)


def _find_types(dtype: tf.DType) -> tuple[Any, Any, str]:
  """Returns the type of an array, that of its values, and words for it."""
  if dtype == tf.string:
    return object, bytes, "a text"
  if dtype.is_floating:
    return dtype.as_numpy_dtype, (int, float), "a number"
  return dtype.as_numpy_dtype, int, "a whole number"


def _encode_texts(value: Any) -> Any:
  """Returns nested lists with the bytes of their texts."""
  if isinstance(value, str):
    return value.encode("utf-8")
  if isinstance(value, list):
    return [_encode_texts(item) for item in value]
  if isinstance(value, dict) and set(value) == {_BYTES_KEY}:
    try:
      return base64.b64decode(value[_BYTES_KEY], validate=True)
    except (TypeError, ValueError, binascii.Error) as error:
      raise UserError(f"{shorten(value)} is not base64: {error}.") from error
  return value


def _shape_of(value: Any, name: str) -> tuple[int, ...]:
  """Returns the shape of nested lists.

  Raises:
    UserError: Lists at the same depth have different lengths.
  """
  if not isinstance(value, list):
    return ()
  shapes = {_shape_of(item, name) for item in value}
  if len(shapes) > 1:
    raise UserError(
      f"{name} has rows of different lengths. Fill up the shorter ones, or "
      "send them in requests of their own."
    )
  return (len(value), *(shapes.pop() if shapes else ()))


def _flatten(value: Any, rank: int) -> list:
  if not rank:
    return [value]
  if rank == 1:
    return value
  return [item for part in value for item in _flatten(part, rank - 1)]


def shorten(value: Any) -> str:
  """Returns a value as JSON, or its beginning, for messages."""
  text = orjson.dumps(value, default=repr).decode("utf-8")
  if len(text) <= _LONGEST_SHOWN:
    return text
  return text[:_LONGEST_SHOWN] + " ..."


# --- Answers -----------------------------------------------------------------


def predict_rows(
  model: exported_model.ExportedModel,
  signature_name: str,
  rows: Sequence[InputRow],
) -> list[Outputs]:
  """Returns the outputs of a signature for each row, without padding.

  Args:
    model: The model.
    signature_name: Name of the signature.
    rows: Rows of equal shapes.
  """
  function = model.functions[signature_name]
  names = exported_model.input_specs(function)
  columns = [np.stack(column) for column in zip(*rows)]
  inputs = {name: tf.constant(column) for name, column in zip(names, columns)}
  outputs = function(**inputs)
  arrays = {name: output.numpy() for name, output in outputs.items()}
  return [
    _remove_padding({name: array[row, ...] for name, array in arrays.items()})
    for row in range(len(rows))
  ]


def _remove_padding(outputs: Outputs) -> Outputs:
  """Returns the outputs of one row, cut to its own length."""
  for counted, padded in _PADDED_OUTPUTS.items():
    if counted in outputs:
      length = np.count_nonzero(outputs[counted])
      cut = {name: outputs[name][:length] for name in padded if name in outputs}
      return {**outputs, **cut}
  return outputs


def format_answer(rows: Sequence[Outputs], is_row_format: bool) -> bytes:
  """Returns the body of the answer to a request.

  Args:
    rows: Outputs of each row of the request.
    is_row_format: Whether the request has rows, not columns.

  Raises:
    NotFiniteError: A value is infinite, or no number.
  """
  names = list(rows[0])
  columns = {
    name: _to_json(_stack_padded([row[name] for row in rows]), name)
    for name in names
  }
  if is_row_format:
    if len(names) == 1:
      return _dump({"predictions": columns[names[0]]})
    by_row = [dict(zip(names, values)) for values in zip(*columns.values())]
    return _dump({"predictions": by_row})
  return _dump({"outputs": columns if len(names) > 1 else columns[names[0]]})


def _stack_padded(values: Sequence[np.ndarray]) -> np.ndarray:
  """Returns arrays as one, the shorter ones filled up with 0 or empty texts."""
  if len({value.shape for value in values}) == 1:
    return np.stack(values)
  longest = max(len(value) for value in values)
  filler: Any = b"" if values[0].dtype == object else 0
  shape = (len(values), longest, *values[0].shape[1:])
  result = np.full(shape, filler, values[0].dtype)
  for number, value in enumerate(values):
    result[number, : len(value)] = value
  return result


def _to_json(array: np.ndarray, name: str) -> Any:
  """Returns an array as values that `orjson` writes."""
  if array.dtype == object:
    return _decode_texts(array.tolist(), name.endswith(_BYTES_SUFFIX))
  if array.dtype.kind == "f" and not np.isfinite(array).all():
    raise NotFiniteError(
      f"The model computed values of {name} that are no finite numbers."
    )
  if array.ndim == 1:
    return array.tolist()
  return list(np.ascontiguousarray(array))


def _decode_texts(value: Any, is_binary: bool) -> Any:
  if isinstance(value, list):
    return [_decode_texts(item, is_binary) for item in value]
  if is_binary:
    return {_BYTES_KEY: base64.b64encode(value).decode("ascii")}
  return value.decode("utf-8", "replace")


def _dump(value: Any) -> bytes:
  return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def describe_signatures(model: exported_model.ExportedModel) -> dict[str, Any]:
  """Returns the signatures as TensorFlow Serving's metadata describe them."""
  result = {}
  for name, function in sorted(model.functions.items()):
    inputs = exported_model.input_specs(function)
    outputs = function.structured_outputs
    result[name] = {
      "inputs": {key: _describe(inputs[key], key) for key in inputs},
      "outputs": {key: _describe(outputs[key], key) for key in outputs},
      "method_name": "tensorflow/serving/predict",
    }
  return result


def _describe(tensor: Any, name: str) -> dict[str, Any]:
  from tensorflow.core.framework import types_pb2

  shape: Sequence[Any] | None = None
  if tensor.shape.rank is not None:
    shape = [-1 if size is None else size for size in tensor.shape]
  return {
    "dtype": types_pb2.DataType.Name(tensor.dtype.as_datatype_enum),
    "tensor_shape": {
      "dim": [{"size": str(size), "name": ""} for size in shape or ()],
      "unknown_rank": shape is None,
    },
    "name": name,
  }
