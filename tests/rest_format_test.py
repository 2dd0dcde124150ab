"""Tests of rest_format.py, with the examples of TensorFlow Serving's manual."""

import json
import types

import numpy as np
import pytest
import tensorflow as tf

from errors import UserError
from serving import rest_format


def make_model(outputs=lambda **inputs: inputs, **inputs):
  """Returns a model whose only signature has these inputs."""
  specs = [
    tf.TensorSpec(shape, dtype, name) for name, (shape, dtype) in inputs.items()
  ]

  def answer(*tensors):
    return outputs(**dict(zip(inputs, tensors)))

  function = tf.function(answer, input_signature=specs, autograph=False)
  functions = {"serving_default": function.get_concrete_function()}
  return types.SimpleNamespace(functions=functions)


def ask(model, body):
  """Returns the answer of a model to a body, as JSON."""
  request = rest_format.parse_predict(
    rest_format.parse_json(json.dumps(body).encode()), model
  )
  rows = rest_format.predict_rows(model, request.signature_name, request.rows)
  return json.loads(rest_format.format_answer(rows, request.is_row_format))


def test_one_input_and_output_have_no_names():
  model = make_model(lambda x: {"y": x / 2 + 3}, x=([None], tf.float32))
  values = [1.0, 2.0, 5.0]
  assert ask(model, {"instances": values}) == {"predictions": [3.5, 4.0, 5.5]}
  assert ask(model, {"inputs": values}) == {"outputs": [3.5, 4.0, 5.5]}
  named = {"instances": [{"x": 1.0}, {"x": 2}]}
  assert ask(model, named) == {"predictions": [3.5, 4.0]}
  assert ask(model, {"inputs": {"x": [5.0]}}) == {"outputs": [5.5]}


def test_rows_and_columns_of_several_inputs():
  model = make_model(
    tag=([None], tf.string),
    signal=([None, None], tf.int32),
    sensor=([None, None, None], tf.int64),
  )
  rows = [
    {"tag": "foo", "signal": [1, 2, 3, 4, 5], "sensor": [[1, 2], [3, 4]]},
    {"tag": "bar", "signal": [3, 4, 1, 2, 5], "sensor": [[4, 5], [6, 8]]},
  ]
  columns = {name: [row[name] for row in rows] for name in rows[0]}
  assert ask(model, {"instances": rows}) == {"predictions": rows}
  assert ask(model, {"inputs": columns}) == {"outputs": columns}
  # The order of names in a row does not matter.
  turned = [dict(reversed(row.items())) for row in rows]
  assert ask(model, {"instances": turned}) == {"predictions": rows}


def test_bytes_are_base64_in_both_directions():
  model = make_model(
    lambda x: {"text": x, "raw_bytes": x}, x=([None], tf.string)
  )
  image = {"b64": "aW1hZ2UgYnl0ZXM="}
  assert ask(model, {"instances": [image, "caf\u00e9"]}) == {
    "predictions": [
      {"text": "image bytes", "raw_bytes": image},
      {"text": "caf\u00e9", "raw_bytes": {"b64": "Y2Fmw6k="}},
    ]
  }
  # Zeros at the end are part of a text.
  assert ask(model, {"inputs": ["a\0", {"b64": "YQA="}]}) == {
    "outputs": {"text": ["a\0"] * 2, "raw_bytes": [{"b64": "YQA="}] * 2}
  }


@pytest.mark.parametrize(
  "body, message",
  [
    ({}, "either instances, for rows, or inputs"),
    ({"instances": ["a"], "inputs": ["a"]}, "either instances"),
    ({"instances": ["a"], "x": 1}, 'The body has "x"'),
    ({"instances": ["a"], "signature_name": "y"}, "has serving_default"),
    ({"instances": ["a"], "signature_name": [1]}, "has serving_default"),
    ({"instances": "a"}, "not a list of rows"),
    ({"instances": []}, "There are no rows"),
    ({"instances": [["a"]]}, "2 dimensions, but the signature takes 1"),
    ({"instances": [1]}, "the value 1, not a text"),
    ({"instances": [None]}, "the value null, not a text"),
    ({"instances": [{"y": "a"}]}, r"instances\[0\] is .* the inputs x"),
    ({"instances": [{"b64": "&"}]}, "is not base64"),
    ({"instances": [{"b64": 1}]}, "is not base64"),
    ({"inputs": {"y": ["a"]}}, "the inputs x"),
    ({"inputs": "a"}, "0 dimensions"),
    ({"inputs": ["a", ["b"]]}, "rows of different lengths"),
  ],
)
def test_wrong_bodies_are_explained(body, message):
  model = make_model(x=([None], tf.string))
  with pytest.raises(UserError, match=message):
    ask(model, body)


@pytest.mark.parametrize(
  "value, message",
  [
    (1.5, "1.5, not a whole number"),
    (True, "true, not a whole number"),
    (2**40, "too large"),
    ("1", "not a whole number"),
  ],
)
def test_numbers_fit_their_type(value, message):
  model = make_model(x=([None], tf.int32))
  with pytest.raises(UserError, match=message):
    ask(model, {"instances": [value]})


def test_columns_have_equal_lengths():
  model = make_model(a=([None], tf.string), b=([None], tf.string))
  with pytest.raises(UserError, match="1 and 2 rows"):
    ask(model, {"inputs": {"a": ["x"], "b": ["x", "y"]}})


@pytest.mark.parametrize(
  "body", [b"", b"{", b"[1]", b"\xff", b'{"a": "\\ud800"}', b"[" * 5000]
)
def test_bodies_that_are_no_objects(body):
  with pytest.raises(UserError, match="The body is"):
    rest_format.parse_json(body)


def test_a_row_does_not_show_how_long_others_were():
  # One row of its batch had 3 words, and one of its request has 2.
  def row(words, length):
    filled = words + [b""] * (length - len(words))
    ends = np.arange(1, length + 1) * (np.array(filled, object) != b"")
    return {"words": np.array(filled, object), "ends": ends.astype(np.int32)}

  rows = [
    rest_format._remove_padding(row([b"a", b"b"], 3)),
    rest_format._remove_padding(row([b"c"], 3)),
  ]
  assert json.loads(rest_format.format_answer(rows, False)) == {
    "outputs": {"words": [["a", "b"], ["c", ""]], "ends": [[1, 2], [1, 0]]}
  }


def test_values_that_json_lacks_are_an_error():
  rows = [{"x": np.array(np.nan, np.float32), "y": np.array(1)}]
  with pytest.raises(rest_format.NotFiniteError, match="values of x"):
    rest_format.format_answer(rows, True)


def test_floats_are_written_in_full():
  value = np.float32(0.1)
  rows = [{"x": np.array([value, 1e-30, 3], np.float32)}]
  text = rest_format.format_answer(rows, True)
  [found] = json.loads(text)["predictions"]
  np.testing.assert_array_equal(np.array(found, np.float32), rows[0]["x"])
