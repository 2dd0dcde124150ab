"""Fused operations: activations, lookups, layer normalization, dropout.

Each has the value of a few lines of TensorFlow and a gradient that is written
out, which is faster, keeps fewer tensors for the backward pass, or adds up in
a wider type. There are no variables here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import functools
import math
from typing import NamedTuple

import tensorflow as tf

LAYER_NORM_EPSILON = 1e-12

Activation = Callable[[tf.Tensor], tf.Tensor]


# --- Activations -------------------------------------------------------------


def _in_float32(function: Activation) -> Activation:
  """Returns `function`, computed in float32, for a Tensor of any type."""
  return lambda x: tf.cast(function(tf.cast(x, tf.float32)), x.dtype)


def _fused_activation(
  function: Activation, derivative: Activation
) -> Activation:
  """Returns an elementwise function that is computed in one pass, in float32.

  XLA compiles the function and its derivative to a single loop each. On a CPU
  this is three times as fast as one loop per operation, and the gradient keeps
  nothing but the input.

  Args:
    function: float32 Tensor -> float32 Tensor.
    derivative: Derivative of `function`.
  """

  @tf.function(jit_compile=True, reduce_retracing=True, autograph=False)
  def forward(x):
    return _in_float32(function)(x)

  @tf.function(jit_compile=True, reduce_retracing=True, autograph=False)
  def backward(x, upstream):
    slope = derivative(tf.cast(x, tf.float32))
    return tf.cast(slope * tf.cast(upstream, tf.float32), x.dtype)

  @tf.custom_gradient
  def activation(x):
    return forward(x), lambda upstream: backward(x, upstream)

  return activation


def _tanh_of_gelu(x):
  return tf.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * (x * x * x)))


def _gelu(x):
  return 0.5 * x * (1.0 + _tanh_of_gelu(x))


def _gelu_derivative(x):
  tanh = _tanh_of_gelu(x)
  inner = math.sqrt(2.0 / math.pi) * (1.0 + 3 * 0.044715 * (x * x))
  return 0.5 * (1.0 + tanh) + 0.5 * x * (1.0 - tanh * tanh) * inner


def _normal_cdf(x):
  return 0.5 * (1.0 + tf.math.erf(x * math.sqrt(0.5)))


def _gelu_erf(x):
  return x * _normal_cdf(x)


def _gelu_erf_derivative(x):
  density = tf.exp(-0.5 * (x * x)) / math.sqrt(2.0 * math.pi)
  return _normal_cdf(x) + x * density


# Gaussian error linear unit (Hendrycks and Gimpel, 2016) in its tanh
# approximation, with which the released checkpoints were trained.
gelu = _fused_activation(_gelu, _gelu_derivative)

# The exact form, with which weights of some libraries were trained under the
# name `gelu`. The two differ by up to 4.7e-4.
gelu_erf = _fused_activation(_gelu_erf, _gelu_erf_derivative)

# The values of `hidden_act` in a config.
ACTIVATIONS: Mapping[str, Activation] = {
  "gelu": gelu,
  "gelu_erf": gelu_erf,
  "relu": tf.nn.relu,
  "tanh": tf.tanh,
  "linear": tf.identity,
}


def _in_float32_if_half(function: Activation) -> Activation:
  """Returns `function`, computed in float32 for float16 alone."""

  def activation(x):
    is_half = x.dtype == tf.float16
    return _in_float32(function)(x) if is_half else function(x)

  return activation


# The same functions without XLA, which not every server can run. On a CPU,
# TensorFlow recognizes these and computes them as part of the product before.
PORTABLE_ACTIVATIONS: Mapping[str, Activation] = {
  **ACTIVATIONS,
  "gelu": _in_float32_if_half(functools.partial(tf.nn.gelu, approximate=True)),
  "gelu_erf": _in_float32_if_half(
    functools.partial(tf.nn.gelu, approximate=False)
  ),
}


# --- Layers ------------------------------------------------------------------


def traced_once(
  function: Callable[..., tf.Tensor],
) -> Callable[..., tf.Tensor]:
  """Returns `function`, which TensorFlow traces once and then calls.

  A model calls it in each layer. Tracing it and its gradient for every call
  would take up much of the wait before the first step.
  """
  return tf.function(function, autograph=False, reduce_retracing=True)


@tf.custom_gradient
def embedding_lookup(table: tf.Tensor, ids: tf.Tensor):
  """Returns rows of a table: float32 [..., H] for int32 ids [...].

  The gradient is dense. A sparse gradient would become dense in any case,
  since the optimizer moves every row and the masked LM reads the whole table,
  but its repeated rows would first distort the global norm.
  """

  def gradient(upstream):
    rows = tf.reshape(upstream, [-1, table.shape[-1]])
    row_ids = tf.reshape(ids, [-1])
    return tf.math.unsorted_segment_sum(rows, row_ids, table.shape[0]), None

  return tf.gather(table, ids), gradient


@tf.custom_gradient
def add_bias(x: tf.Tensor, bias: tf.Tensor):
  """Returns `x` [rows, units] of any float type plus a float32 bias [units]."""

  def gradient(upstream):
    # A sum of thousands of bfloat16 numbers in bfloat16 is off by tens of
    # percent: once the sum is large, small addends no longer change it.
    return upstream, tf.reduce_sum(tf.cast(upstream, tf.float32), axis=0)

  return tf.nn.bias_add(x, tf.cast(bias, x.dtype)), gradient


@traced_once
def layer_norm(
  x: tf.Tensor,
  gamma: tf.Tensor,
  beta: tf.Tensor,
  epsilon: float = LAYER_NORM_EPSILON,
) -> tf.Tensor:
  """Returns normalized rows [rows, H] (Ba et al., 2016), computed in float32.

  Args:
    x: float Tensor of shape [rows, H].
    gamma: float32 Tensor of shape [H].
    beta: float32 Tensor of shape [H].
    epsilon: Number that is added to the variance.
  """

  # The gradient keeps two tensors where automatic differentiation keeps six,
  # which makes a whole training step at least 5 % faster.
  @tf.custom_gradient
  def normalize(x, gamma, beta):
    normalized, inverse_stddev = _standardize(x, epsilon)
    gradient = functools.partial(
      _layer_norm_gradient, x.dtype, normalized, inverse_stddev, gamma
    )
    return tf.cast(normalized * gamma + beta, x.dtype), gradient

  return normalize(x, gamma, beta)


def _standardize(x: tf.Tensor, epsilon: float) -> tuple[tf.Tensor, tf.Tensor]:
  """Returns rows with mean 0 and variance 1, and 1 / standard deviation."""
  x32 = tf.cast(x, tf.float32)
  centered = x32 - tf.reduce_mean(x32, axis=-1, keepdims=True)
  variance = tf.reduce_mean(tf.square(centered), axis=-1, keepdims=True)
  inverse_stddev = tf.math.rsqrt(variance + epsilon)
  return centered * inverse_stddev, inverse_stddev


def _layer_norm_gradient(dtype, normalized, inverse_stddev, gamma, upstream):
  """Returns the gradients of `layer_norm` with respect to x, gamma and beta."""
  upstream32 = tf.cast(upstream, tf.float32)
  grad = upstream32 * gamma
  mean_grad = tf.reduce_mean(grad, axis=-1, keepdims=True)
  mean_product = tf.reduce_mean(grad * normalized, axis=-1, keepdims=True)
  grad_x = inverse_stddev * (grad - mean_grad - normalized * mean_product)
  grad_gamma = tf.reduce_sum(upstream32 * normalized, axis=0)
  grad_beta = tf.reduce_sum(upstream32, axis=0)
  return tf.cast(grad_x, dtype), grad_gamma, grad_beta


@traced_once
def portable_layer_norm(
  x: tf.Tensor,
  gamma: tf.Tensor,
  beta: tf.Tensor,
  epsilon: float = LAYER_NORM_EPSILON,
) -> tf.Tensor:
  """Returns `layer_norm`, in one operation on a CPU if nothing is trained."""

  @tf.custom_gradient
  def normalize(x, gamma, beta):
    # TensorFlow recognizes a batch norm with a channel for each row, and
    # replaces it by the layer norm of oneDNN.
    num_rows, size = tf.unstack(tf.shape(x))
    none = tf.constant([], tf.float32)
    normalized = tf.raw_ops.FusedBatchNormV3(
      x=tf.reshape(x, [1, num_rows, size, 1]),
      scale=tf.fill([num_rows], 1.0),
      offset=tf.fill([num_rows], 0.0),
      mean=none,
      variance=none,
      epsilon=epsilon,
      data_format="NCHW",
      is_training=True,
    ).y
    normalized = tf.reshape(normalized, tf.shape(x))

    def gradient(upstream):
      parts = _standardize(x, epsilon)
      return _layer_norm_gradient(x.dtype, *parts, gamma, upstream)

    scaled = normalized * tf.cast(gamma, x.dtype)
    return tf.cast(beta, x.dtype) + scaled, gradient

  return normalize(x, gamma, beta)


def attention_probs(
  query: tf.Tensor, key: tf.Tensor, scale: float, bias: tf.Tensor
) -> tf.Tensor:
  """Returns the weight of each key for each query: float [B, N, Q, S].

  Args:
    query: float Tensor of shape [B, N, Q, D].
    key: float Tensor of shape [B, N, S, D].
    scale: Factor of the products of queries and keys.
    bias: float32 Tensor of shape [B, 1, 1, S] or [B, 1, Q, S], which is added
      to them.
  """
  # To scale the query instead of the scores touches S/D times fewer numbers.
  scores = tf.matmul(query * scale, key, transpose_b=True)  # [B, N, Q, S]
  probs = tf.nn.softmax(tf.cast(scores, tf.float32) + bias)
  return tf.cast(probs, query.dtype)


def portable_attention_probs(
  query: tf.Tensor, key: tf.Tensor, scale: float, bias: tf.Tensor
) -> tf.Tensor:
  """Returns `attention_probs`, in two operations on a CPU."""
  # TensorFlow recognizes scale and bias, and makes them part of the product.
  scores = tf.matmul(query, key, transpose_b=True) * scale
  return tf.nn.softmax(scores + tf.cast(bias, scores.dtype))


def dropout(x: tf.Tensor, rate: float, seed: tf.Tensor) -> tf.Tensor:
  """Returns `x` with elements zeroed at a rate, and the others scaled up.

  Random numbers are the expensive part of dropout, so eight bits decide each
  element, a quarter of what a generator gives in one draw. Their resolution of
  1/256 is too coarse for a rate of 0.1. Therefore the threshold itself is
  drawn, from the two nearest, so that every element has the exact rate.

  Args:
    x: float Tensor of any shape.
    rate: Probability of a zero, from 0 to 0.99.
    seed: int32 Tensor of shape [2].
  """
  size = tf.size(x)
  num_words = 1 + (size + 3) // 4
  words = tf.random.stateless_uniform(
    [num_words], seed, minval=None, maxval=None, dtype=tf.int32
  )
  # The first word draws the threshold, each of the others four elements.
  fraction = tf.cast(tf.bitwise.right_shift(words[0], 8), tf.float32) / 2**24
  threshold = tf.floor(rate * 256 + fraction + 0.5) - 128
  octets = tf.reshape(tf.bitcast(words[1:], tf.int8), [-1])[:size]
  is_kept = tf.reshape(octets >= tf.cast(threshold, tf.int8), tf.shape(x))
  scale = tf.cast(1.0 / (1.0 - rate), x.dtype)
  return x * (tf.cast(is_kept, x.dtype) * scale)


# --- Forms of operations -----------------------------------------------------


class Forms(NamedTuple):
  """The forms that a model uses of operations that have several.

  Attributes:
    activations: Values of `hidden_act` -> functions.
    layer_norm: Has the arguments and the result of `layer_norm`.
    attention_probs: Has those of `attention_probs`.
  """

  activations: Mapping[str, Activation]
  layer_norm: Callable[..., tf.Tensor]
  attention_probs: Callable[..., tf.Tensor]


# For models that are trained, and for accelerators.
TRAINED = Forms(ACTIVATIONS, layer_norm, attention_probs)
# For models that answer: everywhere, and fastest on a CPU.
PORTABLE = Forms(
  PORTABLE_ACTIVATIONS, portable_layer_norm, portable_attention_probs
)
