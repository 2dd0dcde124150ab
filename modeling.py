"""The BERT encoder and its heads (Devlin et al., 2019, sections 3 and A.2).

Everything that holds weights lives here, as plain `tf.Module`s. Each variable
is created under the name that it has in the released checkpoints, such as
`bert/encoder/layer_0/attention/self/query/kernel`, so that loading is a lookup.

Weights are float32 whatever the compute type; `Dense`, `embedding_lookup` and
`MaskedLMHead` cast them where they meet the activations. Softmax, layer
normalization, loss and every sum over the batch are float32.

Letters in shape comments: B = batch_size, S = seq_length, H = hidden_size,
N = num_attention_heads, D = size_per_head (N*D = H), P = predictions per
sequence, V = vocab_size. Inside the encoder, activations are matrices [B*S, H]:
one large product is faster than B small ones, and nothing is reshaped back and
forth between layers.
"""

from collections.abc import Callable
import dataclasses
import functools
import json
import math
import reprlib
from typing import NamedTuple
import zlib

from absl import logging
import tensorflow as tf

from data import file_io
from errors import UserError

LAYER_NORM_EPSILON = 1e-12


def _in_float32(function):
  """Returns `function`, computed in float32, for a Tensor of any type."""
  return lambda x: tf.cast(function(tf.cast(x, tf.float32)), x.dtype)


def _fused_activation(function, derivative):
  """Returns an elementwise function that is computed in one pass, in float32.

  XLA compiles the function and its derivative to a single loop each, which is
  three times as fast on a CPU as one loop for each of their operations; and
  the gradient keeps nothing but the input.

  Args:
    function: float32 Tensor -> float32 Tensor.
    derivative: float32 Tensor -> float32 Tensor, of `function`.
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


def _gelu_erf_derivative(x):
  density = tf.exp(-0.5 * (x * x)) / math.sqrt(2.0 * math.pi)
  return _normal_cdf(x) + x * density


# Gaussian error linear unit (Hendrycks and Gimpel, 2016) by the tanh
# approximation: what the released checkpoints were trained with.
gelu = _fused_activation(_gelu, _gelu_derivative)

# The same, exact: what weights from libraries whose `gelu` is this form were
# trained with. The two differ by up to 4.7e-4.
gelu_erf = _fused_activation(lambda x: x * _normal_cdf(x), _gelu_erf_derivative)

ACTIVATIONS: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
  "gelu": gelu,
  "gelu_erf": gelu_erf,
  "relu": tf.nn.relu,
  "tanh": tf.tanh,
  "linear": tf.identity,
}

# The same without XLA, which not every server can run.
_PORTABLE_ACTIVATIONS = {
  **ACTIVATIONS,
  "gelu": _in_float32(functools.partial(tf.nn.gelu, approximate=True)),
  "gelu_erf": _in_float32(functools.partial(tf.nn.gelu, approximate=False)),
}

# (num_hidden_layers, hidden_size) of every released English size: the 24 of
# Turc et al. (2019) and the two of the paper. The rest follows from these:
# one attention head for each 64 units, and an intermediate size of 4 times H.
RELEASED_SIZES: dict[str, tuple[int, int]] = {
  f"L-{layers}_H-{hidden}_A-{hidden // 64}": (layers, hidden)
  for layers, hidden in [
    (layers, hidden)
    for layers in (2, 4, 6, 8, 10, 12)
    for hidden in (128, 256, 512, 768)
  ]
  + [(24, 1024)]
}
RELEASED_SIZES.update(
  tiny=(2, 128),
  mini=(4, 256),
  small=(4, 512),
  medium=(8, 512),
  base=(12, 768),
  large=(24, 1024),
)

# The largest sizes of a config, and the largest number of weights. No model
# comes near; a config beyond them is a mistake that would fill the memory.
_LARGEST_SIZES = {
  "vocab_size": 1 << 26,
  "hidden_size": 1 << 17,
  "num_hidden_layers": 1 << 12,
  "num_attention_heads": 1 << 12,
  "intermediate_size": 1 << 20,
  "max_position_embeddings": 1 << 26,
  "type_vocab_size": 1 << 16,
}
_LARGEST_NUM_WEIGHTS = 1 << 40


@dataclasses.dataclass(frozen=True)
class BertConfig:
  """The shape of a model: the contents of `bert_config.json`.

  Attributes:
    vocab_size: number of entries of the vocabulary.
    hidden_size: width of the encoder; a multiple of `num_attention_heads`.
    num_hidden_layers: number of Transformer layers.
    num_attention_heads: number of attention heads of each layer.
    intermediate_size: width of the feed-forward layer.
    hidden_act: a key of `ACTIVATIONS`.
    hidden_dropout_prob: dropout rate of every dense output, and before a
      classifier.
    attention_probs_dropout_prob: dropout rate of the attention probabilities.
    max_position_embeddings: the longest sequence that the model can read.
    type_vocab_size: number of segment ids. 16 unless given, as it always was;
      every released config says 2.
    initializer_range: standard deviation of the initial weights.

  Raises:
    UserError: a field has a value that no model can have.
  """

  vocab_size: int
  hidden_size: int = 768
  num_hidden_layers: int = 12
  num_attention_heads: int = 12
  intermediate_size: int = 3072
  hidden_act: str = "gelu"
  hidden_dropout_prob: float = 0.1
  attention_probs_dropout_prob: float = 0.1
  max_position_embeddings: int = 512
  type_vocab_size: int = 16
  initializer_range: float = 0.02

  def __post_init__(self):
    for name, largest in _LARGEST_SIZES.items():
      value = getattr(self, name)
      if (
        not isinstance(value, int)
        or isinstance(value, bool)
        or (not 1 <= value <= largest)
      ):
        raise _bad_field(name, value, f"a whole number from 1 to {largest}")
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
      value = getattr(self, name)
      if not _is_number(value) or not 0 <= value < 1:
        raise _bad_field(name, value, "a number of at least 0 and below 1")
    if not _is_number(self.initializer_range) or (
      not 0 < self.initializer_range < 1
    ):
      raise _bad_field(
        "initializer_range",
        self.initializer_range,
        "a number above 0 and below 1",
      )
    if not isinstance(self.hidden_act, str) or (
      self.hidden_act not in ACTIVATIONS
    ):
      raise _bad_field(
        "hidden_act", self.hidden_act, f"one of {', '.join(ACTIVATIONS)}"
      )
    if self.hidden_size % self.num_attention_heads:
      raise UserError(
        f"BertConfig: hidden_size={self.hidden_size} is not a multiple of "
        f"num_attention_heads={self.num_attention_heads}."
      )
    num_embeddings = (
      self.vocab_size + self.max_position_embeddings + self.type_vocab_size
    )
    num_weights = num_embeddings * self.hidden_size + self.num_hidden_layers * (
      4 * self.hidden_size**2 + 2 * self.hidden_size * self.intermediate_size
    )
    if num_weights > _LARGEST_NUM_WEIGHTS:
      raise UserError(
        f"BertConfig: a model of this shape has {num_weights:.1e} weights; "
        f"at most {_LARGEST_NUM_WEIGHTS:.1e} are possible. Use smaller sizes "
        "or fewer layers."
      )

  @classmethod
  def from_dict(cls, json_object: dict, path: str = "") -> "BertConfig":
    """Returns the config of a dictionary; unknown keys are logged, not used.

    Args:
      json_object: field -> value.
      path: the file that it comes from, for error messages.

    Raises:
      UserError: a field has a value that no model can have.
    """
    known = {field.name for field in dataclasses.fields(cls)}
    unknown = sorted(set(json_object) - known)
    if unknown:
      # The released Chinese and multilingual configs carry `pooler_*` keys.
      logging.info(
        "bert_config: keys that are not used: %s", ", ".join(unknown)
      )
    try:
      if "vocab_size" not in json_object:
        raise UserError("BertConfig: vocab_size is missing.")
      return cls(**{k: v for k, v in json_object.items() if k in known})
    except UserError as error:
      raise UserError(f"{path}: {error}" if path else str(error)) from error

  @classmethod
  def from_json_file(cls, json_file: str) -> "BertConfig":
    """Returns the config of a `bert_config.json`.

    Raises:
      UserError: the file cannot be read, is not JSON, or holds a bad field.
    """
    return cls.from_dict(file_io.read_json(json_file), json_file)

  @classmethod
  def from_size(cls, name: str, vocab_size: int = 30522) -> "BertConfig":
    """Returns the config of a released size.

    Args:
      name: `tiny`, `mini`, `small`, `medium`, `base`, `large`, or a name such
        as `L-4_H-512_A-8`, with or without what comes before it in the name
        of a released model.
      vocab_size: number of entries of the vocabulary.

    Raises:
      UserError: there is no such size.
    """
    size = name[max(0, name.find("L-")) :]
    if size not in RELEASED_SIZES:
      raise UserError(
        f"{name!r} is no released size. Use one of: "
        f"{', '.join(RELEASED_SIZES)}."
      )
    num_hidden_layers, hidden_size = RELEASED_SIZES[size]
    return cls(
      vocab_size=vocab_size,
      hidden_size=hidden_size,
      num_hidden_layers=num_hidden_layers,
      num_attention_heads=hidden_size // 64,
      intermediate_size=4 * hidden_size,
      type_vocab_size=2,
    )

  def to_dict(self) -> dict:
    return dataclasses.asdict(self)

  def to_json_string(self) -> str:
    """Returns what `bert_config.json` holds, keys sorted."""
    return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"


def _is_number(value) -> bool:
  return isinstance(value, (int, float)) and not isinstance(value, bool)


def _bad_field(name: str, value, allowed: str) -> UserError:
  # A value can be nested deeply, or very long.
  return UserError(
    f"BertConfig: {name}={reprlib.repr(value)} must be {allowed}."
  )


# --- Parts -------------------------------------------------------------------


class Initializer:
  """Draws initial weights as a pure function of a seed and a variable's name.

  Weights do not depend on the order in which variables are created, so adding
  a head leaves the encoder's as they were.
  """

  def __init__(self, seed: int, stddev: float):
    self._seed = seed
    self._stddev = stddev

  def normal(self, name: str, shape) -> tf.Variable:
    """A float32 variable, normal but cut at two standard deviations."""
    seed = (self._seed, zlib.crc32(name.encode()))

    def draw():
      return tf.random.stateless_truncated_normal(
        shape, seed, stddev=self._stddev
      )

    return tf.Variable(draw, name=name)

  def zeros(self, name: str, shape) -> tf.Variable:
    return tf.Variable(lambda: tf.zeros(shape), name=name)

  def ones(self, name: str, shape) -> tf.Variable:
    return tf.Variable(lambda: tf.ones(shape), name=name)


@tf.custom_gradient
def embedding_lookup(table: tf.Tensor, ids: tf.Tensor):
  """Rows of a table: float32 [..., H] for int32 ids [...].

  The gradient is dense. A sparse one would be turned into a dense one in any
  case (the optimizer moves every row, and the masked LM reads the whole
  table), but only after its repeated rows had spoilt the global norm.
  """

  def gradient(upstream):
    rows = tf.reshape(upstream, [-1, table.shape[-1]])
    return tf.math.unsorted_segment_sum(
      rows, tf.reshape(ids, [-1]), table.shape[0]
    ), None

  return tf.gather(table, ids), gradient


@tf.custom_gradient
def add_bias(x: tf.Tensor, bias: tf.Tensor):
  """x [rows, units] in the compute type, plus a float32 bias [units]."""

  def gradient(upstream):
    # A sum of thousands of bfloat16 numbers in bfloat16 is off by tens of
    # percent: once the sum is large, small addends no longer change it.
    return upstream, tf.reduce_sum(tf.cast(upstream, tf.float32), axis=0)

  return tf.nn.bias_add(x, tf.cast(bias, x.dtype)), gradient


@tf.custom_gradient
def layer_norm(x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor):
  """Normalizes rows [rows, H] (Ba et al., 2016) in float32.

  The gradient is written out: it keeps two tensors where automatic
  differentiation keeps six, and a whole training step gains 5 % and more.
  """
  x32 = tf.cast(x, tf.float32)
  centered = x32 - tf.reduce_mean(x32, axis=-1, keepdims=True)
  variance = tf.reduce_mean(tf.square(centered), axis=-1, keepdims=True)
  inverse_stddev = tf.math.rsqrt(variance + LAYER_NORM_EPSILON)
  normalized = centered * inverse_stddev

  def gradient(upstream):
    upstream32 = tf.cast(upstream, tf.float32)
    grad = upstream32 * gamma
    grad_normalized = grad * normalized
    grad_x = inverse_stddev * (
      grad
      - tf.reduce_mean(grad, axis=-1, keepdims=True)
      - normalized * tf.reduce_mean(grad_normalized, axis=-1, keepdims=True)
    )
    return (
      tf.cast(grad_x, x.dtype),
      tf.reduce_sum(upstream32 * normalized, axis=0),
      tf.reduce_sum(upstream32, axis=0),
    )

  return tf.cast(normalized * gamma + beta, x.dtype), gradient


def dropout(
  x: tf.Tensor, rate: float, seed: tf.Tensor | None, site: int
) -> tf.Tensor:
  """Zeroes elements with probability `rate` and scales up the others.

  Eight random bits decide each element, a quarter of what a generator gives in
  one draw: random numbers are the dearest part of dropout. Their resolution of
  1/256 is too coarse for a rate of 0.1, so the threshold itself is drawn, from
  the two nearest, such that each element is dropped with the exact rate.

  Args:
    x: float Tensor of any shape.
    rate: probability of a zero, from 0 to 0.99.
    seed: int32 [2], or None for no dropout (evaluation and prediction).
    site: which dropout of the model this is; each has draws of its own.

  Returns:
    A Tensor like `x`.
  """
  if seed is None or rate == 0.0:
    return x
  seed = tf.random.experimental.stateless_fold_in(seed, site)
  size = tf.size(x)
  words = tf.random.stateless_uniform(
    [1 + (size + 3) // 4], seed, minval=None, maxval=None, dtype=tf.int32
  )
  # The first word draws the threshold, the others are four elements each.
  fraction = tf.cast(tf.bitwise.right_shift(words[0], 8), tf.float32) / 2**24
  threshold = tf.cast(tf.floor(rate * 256 + fraction + 0.5) - 128, tf.int8)
  octets = tf.reshape(tf.bitcast(words[1:], tf.int8), [-1])[:size]
  kept = tf.reshape(octets >= threshold, tf.shape(x))
  return x * (tf.cast(kept, x.dtype) * tf.cast(1.0 / (1.0 - rate), x.dtype))


class Dense(tf.Module):
  """An affine map of rows, followed by an activation if one is given."""

  def __init__(
    self,
    path: str,
    input_size: int,
    output_size: int,
    init: Initializer,
    activation: Callable[[tf.Tensor], tf.Tensor] | None = None,
  ):
    super().__init__()
    self.kernel = init.normal(f"{path}/kernel", [input_size, output_size])
    self.bias = init.zeros(f"{path}/bias", [output_size])
    self._activation = activation

  def __call__(self, x: tf.Tensor) -> tf.Tensor:
    """Maps [rows, input_size] to [rows, output_size], in the type of `x`."""
    y = add_bias(
      tf.matmul(x, tf.cast(self.kernel, x.dtype)),
      tf.convert_to_tensor(self.bias),
    )
    return self._activation(y) if self._activation else y


class LayerNorm(tf.Module):
  """Layer normalization with a learned scale and offset."""

  def __init__(self, path: str, size: int, init: Initializer):
    super().__init__()
    self.gamma = init.ones(f"{path}/gamma", [size])
    self.beta = init.zeros(f"{path}/beta", [size])

  def __call__(self, x: tf.Tensor) -> tf.Tensor:
    return layer_norm(
      x, tf.convert_to_tensor(self.gamma), tf.convert_to_tensor(self.beta)
    )


class Embeddings(tf.Module):
  """Sum of word, position and segment embeddings (paper, figure 2)."""

  def __init__(
    self,
    path: str,
    config: BertConfig,
    init: Initializer,
    use_one_hot_embeddings: bool,
  ):
    super().__init__()
    self.word_embeddings = init.normal(
      f"{path}/word_embeddings", [config.vocab_size, config.hidden_size]
    )
    self.token_type_embeddings = init.normal(
      f"{path}/token_type_embeddings",
      [config.type_vocab_size, config.hidden_size],
    )
    self.position_embeddings = init.normal(
      f"{path}/position_embeddings",
      [config.max_position_embeddings, config.hidden_size],
    )
    self.layer_norm = LayerNorm(f"{path}/LayerNorm", config.hidden_size, init)
    self._config = config
    self._use_one_hot_embeddings = use_one_hot_embeddings

  def __call__(
    self, input_ids, token_type_ids, dropout_seed, position_ids=None
  ) -> tf.Tensor:
    """Returns float32 [B, S, H] for int32 ids and segment ids [B, S].

    `position_ids`, int32 [B, S], say which place each has; None for 0, 1, ...
    """
    if position_ids is None:
      positions = self.position_embeddings[: tf.shape(input_ids)[1]]
    else:
      positions = embedding_lookup(
        tf.convert_to_tensor(self.position_embeddings), position_ids
      )
    if self._use_one_hot_embeddings:
      words = tf.linalg.matmul(
        tf.one_hot(input_ids, self._config.vocab_size),
        tf.convert_to_tensor(self.word_embeddings),
      )
    else:
      words = embedding_lookup(
        tf.convert_to_tensor(self.word_embeddings), input_ids
      )
    # A product with a one-hot matrix: the table has a few rows, and summing
    # the gradients of all positions into them one at a time would be slow.
    segments = tf.linalg.matmul(
      tf.one_hot(token_type_ids, self._config.type_vocab_size),
      tf.convert_to_tensor(self.token_type_embeddings),
    )
    embeddings = words + segments + positions
    shape = tf.shape(embeddings)  # [B, S, H]
    embeddings = self.layer_norm(
      tf.reshape(embeddings, [-1, self._config.hidden_size])
    )  # [B*S, H]
    embeddings = dropout(
      embeddings, self._config.hidden_dropout_prob, dropout_seed, site=0
    )
    return tf.reshape(embeddings, shape)


class SelfAttention(tf.Module):
  """Multi-head scaled dot-product attention (Vaswani et al., 2017, 3.2)."""

  def __init__(self, path: str, config: BertConfig, init: Initializer):
    super().__init__()
    size = config.hidden_size
    self.query = Dense(f"{path}/query", size, size, init)
    self.key = Dense(f"{path}/key", size, size, init)
    self.value = Dense(f"{path}/value", size, size, init)
    self._num_heads = config.num_attention_heads
    self._size_per_head = size // config.num_attention_heads
    self._dropout_prob = config.attention_probs_dropout_prob

  def __call__(
    self, queries, hidden_states, attention_bias, dropout_seed, site
  ):
    """Lets positions attend to the unmasked positions of their sequence.

    Args:
      queries: float Tensor of shape [B*Q, H], the positions that look; all of
        `hidden_states`, or some of each sequence.
      hidden_states: float Tensor of shape [B*S, H], what they look at.
      attention_bias: float32 Tensor of shape [B, 1, 1, S], or [B, 1, Q, S] if
        not all queries may see the same; 0 where a position may be attended
        to, -10000 where it may not.
      dropout_seed: int32 [2], or None for no dropout.
      site: which dropout this is.

    Returns:
      float Tensor of shape [B*Q, H].
    """
    batch_size = tf.shape(attention_bias)[0]

    def split_heads(x):  # [B*S, H] -> [B, N, S, D]
      positions = tf.shape(x)[0] // batch_size
      return tf.transpose(
        tf.reshape(
          x, [batch_size, positions, self._num_heads, self._size_per_head]
        ),
        [0, 2, 1, 3],
      )

    # Scaling the query instead of the scores touches S/D times fewer numbers.
    query = split_heads(self.query(queries) * self._size_per_head**-0.5)
    key = split_heads(self.key(hidden_states))
    value = split_heads(self.value(hidden_states))
    scores = tf.matmul(query, key, transpose_b=True)  # [B, N, Q, S]
    # Released checkpoints were trained with -10000, not -inf; a row that is
    # masked everywhere must also stay finite.
    probs = tf.nn.softmax(tf.cast(scores, tf.float32) + attention_bias)
    probs = dropout(
      tf.cast(probs, value.dtype), self._dropout_prob, dropout_seed, site
    )
    context = tf.matmul(probs, value)  # [B, N, Q, D]
    return tf.reshape(
      tf.transpose(context, [0, 2, 1, 3]),
      [-1, self._num_heads * self._size_per_head],
    )


class TransformerLayer(tf.Module):
  """One encoder layer: attention and feed-forward, each post-normalized."""

  def __init__(
    self,
    path: str,
    layer: int,
    config: BertConfig,
    init: Initializer,
    activation,
  ):
    super().__init__()
    size = config.hidden_size
    path = f"{path}/layer_{layer}"
    self.attention = SelfAttention(f"{path}/attention/self", config, init)
    self.attention_output = Dense(
      f"{path}/attention/output/dense", size, size, init
    )
    self.attention_norm = LayerNorm(
      f"{path}/attention/output/LayerNorm", size, init
    )
    self.intermediate = Dense(
      f"{path}/intermediate/dense",
      size,
      config.intermediate_size,
      init,
      activation,
    )
    self.output = Dense(
      f"{path}/output/dense", config.intermediate_size, size, init
    )
    self.output_norm = LayerNorm(f"{path}/output/LayerNorm", size, init)
    self._dropout_prob = config.hidden_dropout_prob
    self._first_site = 1 + 3 * layer  # site 0 belongs to the embeddings

  def __call__(
    self, hidden_states, attention_bias, dropout_seed, output_positions=None
  ):
    """Maps [B*S, H] to [B*S, H], or to [B*P, H] for `output_positions` [B, P].

    Other arguments as for `SelfAttention`.
    """
    queries = hidden_states
    if output_positions is not None:
      queries = _gather_positions(hidden_states, output_positions)
      if attention_bias.shape[2] != 1:
        attention_bias = tf.gather(
          attention_bias, output_positions, axis=2, batch_dims=1
        )
    context = self.attention(
      queries, hidden_states, attention_bias, dropout_seed, self._first_site
    )
    attended = self.attention_norm(
      queries
      + dropout(
        self.attention_output(context),
        self._dropout_prob,
        dropout_seed,
        self._first_site + 1,
      )
    )
    output = self.output(self.intermediate(attended))
    return self.output_norm(
      attended
      + dropout(output, self._dropout_prob, dropout_seed, self._first_site + 2)
    )


def _gather_positions(hidden_states, positions) -> tf.Tensor:
  """Takes positions [B, P] of sequences [B*S, H]; returns [B*P, H]."""
  batch_size = tf.shape(positions)[0]
  seq_length = tf.shape(hidden_states)[0] // batch_size
  offsets = tf.range(batch_size)[:, tf.newaxis] * seq_length  # [B, 1]
  return tf.gather(
    hidden_states, tf.reshape(tf.cast(positions, tf.int32) + offsets, [-1])
  )


def _positions_and_bias(input_mask, sequence_starts=None):
  """Returns what the encoder has to know of how rows are filled.

  Args:
    input_mask: int Tensor [B, S], 0 where there is padding.
    sequence_starts: int Tensor [B, M], where the sequences of packed rows
      begin, unused ones 0; or None.

  Returns:
    The position of each token in its sequence, int32 [B, S], or None for 0, 1,
    ...; and the attention bias, float32 [B, 1, 1, S], or [B, 1, S, S] for
    packed rows.
  """
  is_visible = tf.cast(input_mask, tf.float32)[:, tf.newaxis, :]  # [B, 1, S]
  position_ids = None
  if sequence_starts is not None:
    position_ids, is_same = _unpack(sequence_starts, tf.shape(input_mask)[1])
    is_visible *= tf.cast(is_same, tf.float32)  # [B, S, S]
  return position_ids, -10000.0 * (1.0 - is_visible)[:, tf.newaxis]


def _unpack(sequence_starts, seq_length) -> tuple[tf.Tensor, tf.Tensor]:
  """Tells sequences apart that are packed into rows.

  Args:
    sequence_starts: int Tensor [B, M], where they begin; unused ones are 0.
    seq_length: of the rows.

  Returns:
    The position of each token in its sequence, int32 [B, S], and whether two
    tokens belong to the same sequence, bool [B, S, S].
  """
  starts = tf.cast(sequence_starts, tf.int32)[:, tf.newaxis, :]  # [B, 1, M]
  places = tf.range(seq_length)[tf.newaxis, :, tf.newaxis]  # [1, S, 1]
  start = tf.reduce_max(tf.where(starts <= places, starts, 0), axis=-1)
  return (
    places[..., 0] - start,
    start[:, :, tf.newaxis] == start[:, tf.newaxis, :],
  )


# --- The encoder -------------------------------------------------------------


class BertOutput(NamedTuple):
  """What the encoder makes of a batch, in its compute type.

  Where `output_positions` [batch_size, P] were asked for, the last layer has
  only these: seq_length is P there, and the first of them is pooled.

  Attributes:
    sequence_output: [batch_size, seq_length, hidden_size], the last layer.
    pooled_output: [batch_size, hidden_size], of the first token ([CLS]).
    all_encoder_layers: a list of [batch_size, seq_length, hidden_size].
    embedding_output: [batch_size, seq_length, hidden_size], what the first
      layer reads.
  """

  sequence_output: tf.Tensor
  pooled_output: tf.Tensor
  all_encoder_layers: list[tf.Tensor]
  embedding_output: tf.Tensor


class BertModel(tf.Module):
  """Bidirectional Transformer encoder (paper, section 3).

  `model(input_ids, input_mask, token_type_ids)` gives everything at once as a
  `BertOutput`; inside a program that is the way to call it. `get_*` with the
  same arguments give one output each.
  """

  def __init__(
    self,
    config: BertConfig,
    compute_dtype=tf.float32,
    seed: int = 0,
    *,
    recompute_activations: bool = False,
    use_one_hot_embeddings: bool = False,
    is_portable: bool = False,
    scope: str = "bert",
  ):
    """Creates the variables with random values.

    Args:
      config: the shape of the model.
      compute_dtype: tf.float32, tf.bfloat16 or tf.float16; the type of the
        activations.
      seed: of the initial weights.
      recompute_activations: keep only what each layer reads, and compute the
        rest once more for the gradient: a third more work, and far less memory
        (Chen et al., 2016).
      use_one_hot_embeddings: look words up by a product with a one-hot matrix.
      is_portable: build a graph that runs where XLA is missing, too.
      scope: what variable names start with.
    """
    super().__init__()
    init = Initializer(seed, config.initializer_range)
    self.config = config
    self.compute_dtype = tf.as_dtype(compute_dtype)
    self.recompute_activations = recompute_activations
    activation = (_PORTABLE_ACTIVATIONS if is_portable else ACTIVATIONS)[
      config.hidden_act
    ]
    self.embeddings = Embeddings(
      f"{scope}/embeddings", config, init, use_one_hot_embeddings
    )
    self.layers = [
      TransformerLayer(f"{scope}/encoder", layer, config, init, activation)
      for layer in range(config.num_hidden_layers)
    ]
    self.pooler = Dense(
      f"{scope}/pooler/dense",
      config.hidden_size,
      config.hidden_size,
      init,
      tf.tanh,
    )

  def __call__(
    self,
    input_ids,
    input_mask=None,
    token_type_ids=None,
    dropout_seed=None,
    output_positions=None,
    sequence_starts=None,
  ) -> BertOutput:
    """Encodes a batch of sequences.

    Args:
      input_ids: int Tensor of shape [batch_size, seq_length].
      input_mask: int Tensor of the same shape, 0 where there is padding; None
        if nothing is.
      token_type_ids: int Tensor of the same shape, the segment of each token;
        None for all 0.
      dropout_seed: int32 Tensor [2] to train with dropout; None for none.
      output_positions: int Tensor of shape [batch_size, P], the positions whose
        last layer will be used; None for all. Most of the layer works on each
        position by itself, and is not computed for the others.
      sequence_starts: int Tensor of shape [batch_size, M] if rows are packed:
        where in each row the sequences begin, in any order, unused ones 0.
        Each sequence has positions of its own and attends to itself alone
        (Krell et al., 2021). None for one sequence a row.

    Raises:
      UserError: seq_length is larger than the table of positions.
    """
    input_ids = tf.cast(input_ids, tf.int32)
    seq_length = input_ids.shape[1]
    if (seq_length or 0) > self.config.max_position_embeddings:
      raise UserError(
        f"A sequence of {seq_length} tokens does not fit "
        f"max_position_embeddings={self.config.max_position_embeddings}."
      )
    if input_mask is None:
      input_mask = tf.ones_like(input_ids)
    if token_type_ids is None:
      token_type_ids = tf.zeros_like(input_ids)

    position_ids, attention_bias = _positions_and_bias(
      input_mask, sequence_starts
    )
    embedding_output = tf.cast(
      self.embeddings(input_ids, token_type_ids, dropout_seed, position_ids),
      self.compute_dtype,
    )
    shape = tf.shape(embedding_output)
    hidden_states = tf.reshape(embedding_output, [-1, self.config.hidden_size])
    all_encoder_layers = []
    for layer in self.layers:
      call = functools.partial(
        layer, attention_bias=attention_bias, dropout_seed=dropout_seed
      )
      if layer is self.layers[-1] and output_positions is not None:
        call = functools.partial(call, output_positions=output_positions)
        shape = tf.stack([shape[0], tf.shape(output_positions)[1], shape[2]])
      if self.recompute_activations:
        # Dropout draws the same again: it is a function of the seed.
        call = tf.recompute_grad(call)
      hidden_states = call(hidden_states)
      all_encoder_layers.append(tf.reshape(hidden_states, shape))
    sequence_output = all_encoder_layers[-1]
    return BertOutput(
      sequence_output=sequence_output,
      pooled_output=self.pooler(sequence_output[:, 0]),
      all_encoder_layers=all_encoder_layers,
      embedding_output=embedding_output,
    )

  def get_pooled_output(self, *args, **kwargs) -> tf.Tensor:
    """Returns [batch_size, hidden_size]; takes what `__call__` takes."""
    return self(*args, **kwargs).pooled_output

  def get_sequence_output(self, *args, **kwargs) -> tf.Tensor:
    """Returns the last layer, [batch_size, seq_length, hidden_size]."""
    return self(*args, **kwargs).sequence_output

  def get_all_encoder_layers(self, *args, **kwargs) -> list[tf.Tensor]:
    """Returns each layer's [batch_size, seq_length, hidden_size]."""
    return self(*args, **kwargs).all_encoder_layers

  def get_embedding_output(self, *args, **kwargs) -> tf.Tensor:
    """Returns what the first layer reads, [batch, seq_length, hidden_size]."""
    return self(*args, **kwargs).embedding_output

  def get_embedding_table(self) -> tf.Variable:
    """Returns the word embeddings, float32 [vocab_size, hidden_size]."""
    return self.embeddings.word_embeddings


# --- Heads -------------------------------------------------------------------


class OutputLayer(tf.Module):
  """The last layer of a head, under the names that heads use for it."""

  def __init__(
    self, path: str, input_size: int, output_size: int, init: Initializer
  ):
    super().__init__()
    self.output_weights = init.normal(
      f"{path}output_weights", [output_size, input_size]
    )
    self.output_bias = init.zeros(f"{path}output_bias", [output_size])

  def __call__(self, x: tf.Tensor) -> tf.Tensor:
    """Maps [rows, input_size] to float32 logits [rows, output_size]."""
    # A few columns: float32 costs nothing here and spares the loss a rounding.
    return (
      tf.matmul(tf.cast(x, tf.float32), self.output_weights, transpose_b=True)
      + self.output_bias
    )


class MaskedLMHead(tf.Module):
  """Predicts the words at masked positions (paper, task 1 of section 3.1).

  The output weights are the word embeddings.
  """

  def __init__(
    self, config: BertConfig, embedding_table: tf.Variable, init: Initializer
  ):
    super().__init__()
    path = "cls/predictions"
    self.transform = Dense(
      f"{path}/transform/dense",
      config.hidden_size,
      config.hidden_size,
      init,
      ACTIVATIONS[config.hidden_act],
    )
    self.transform_norm = LayerNorm(
      f"{path}/transform/LayerNorm", config.hidden_size, init
    )
    self.output_bias = init.zeros(f"{path}/output_bias", [config.vocab_size])
    self._embedding_table = embedding_table

  def __call__(self, rows) -> tf.Tensor:
    """Maps float [rows, H] to logits [rows, V], in the same type."""
    rows = self.transform_norm(self.transform(rows))
    logits = tf.matmul(
      rows, tf.cast(self._embedding_table, rows.dtype), transpose_b=True
    )
    return add_bias(logits, tf.convert_to_tensor(self.output_bias))


class BertForPreTraining(tf.Module):
  """The encoder with both pre-training heads.

  Takes the `options` that `BertModel` takes by name.
  """

  def __init__(
    self, config: BertConfig, compute_dtype=tf.float32, seed: int = 0, **options
  ):
    super().__init__()
    init = Initializer(seed, config.initializer_range)
    self.bert = BertModel(config, compute_dtype, seed, **options)
    self.masked_lm = MaskedLMHead(config, self.bert.get_embedding_table(), init)
    self.next_sentence = OutputLayer(
      "cls/seq_relationship/", config.hidden_size, 2, init
    )

  def __call__(
    self,
    input_ids,
    input_mask,
    token_type_ids,
    masked_lm_positions,
    dropout_seed=None,
    sequence_starts=None,
  ):
    """Returns the logits of both tasks.

    Args:
      input_ids: int Tensor of shape [batch_size, seq_length].
      input_mask: int Tensor of the same shape, or None.
      token_type_ids: int Tensor of the same shape, or None.
      masked_lm_positions: int Tensor of shape
        [batch_size, max_predictions_per_seq].
      dropout_seed: int32 [2], or None for no dropout.
      sequence_starts: int Tensor of shape [batch_size, M] if M pairs, or fewer,
        share a row; see `BertModel`. None for one pair a row; M is 1 then.

    Returns:
      Masked LM logits [batch_size * max_predictions_per_seq, vocab_size] in
      the compute type, and next sentence logits float32 [batch_size * M, 2],
      where 1 means a random sentence.
    """
    starts = sequence_starts
    if starts is None:
      starts = tf.zeros(
        [tf.shape(masked_lm_positions)[0], 1], masked_lm_positions.dtype
      )
    positions = tf.concat(  # [B, M+P]
      [tf.cast(starts, masked_lm_positions.dtype), masked_lm_positions], axis=1
    )
    output = self.bert(
      input_ids,
      input_mask,
      token_type_ids,
      dropout_seed,
      output_positions=positions,
      sequence_starts=sequence_starts,
    )
    first, masked = (
      tf.reshape(rows, [-1, self.bert.config.hidden_size])
      for rows in tf.split(
        output.sequence_output, [starts.shape[1], -1], axis=1
      )
    )
    return (
      self.masked_lm(masked),  # [B*P, V]
      self.next_sentence(self.bert.pooler(first)),
    )  # [B*M, 2]


class _EncoderWithOutputLayer(tf.Module):
  """What the fine-tuned models share: an encoder, dropout, one more layer.

  Each takes the `options` that `BertModel` takes by name.

  `__call__` of each takes int Tensors `input_ids`, `input_mask` and
  `token_type_ids` [batch_size, seq_length], and `dropout_seed`, int32 [2] or
  None for no dropout.
  """

  def __init__(
    self,
    config: BertConfig,
    num_labels: int,
    compute_dtype=tf.float32,
    seed: int = 0,
    path: str = "",
    **options,
  ):
    super().__init__()
    init = Initializer(seed, config.initializer_range)
    self.bert = BertModel(config, compute_dtype, seed, **options)
    self.output = OutputLayer(path, config.hidden_size, num_labels, init)

  def _pooled_output(
    self, input_ids, input_mask, token_type_ids, dropout_seed
  ) -> tf.Tensor:
    """Returns [batch_size, hidden_size], after dropout."""
    first = tf.zeros_like(input_ids[:, :1])
    output = self.bert(
      input_ids,
      input_mask,
      token_type_ids,
      dropout_seed,
      output_positions=first,
    )
    return self._dropout(output.pooled_output, dropout_seed)

  def _dropout(self, x, dropout_seed) -> tf.Tensor:
    config = self.bert.config
    return dropout(
      x,
      config.hidden_dropout_prob,
      dropout_seed,
      site=1 + 3 * config.num_hidden_layers,
    )

  def _token_logits(self, sequence_output) -> tf.Tensor:
    """Maps [B, S, H] to float32 logits [B, S, num_labels]."""
    batch_size, seq_length, _ = tf.unstack(tf.shape(sequence_output))
    rows = tf.reshape(sequence_output, [-1, sequence_output.shape[-1]])
    return tf.reshape(
      self.output(rows),
      [batch_size, seq_length, self.output.output_bias.shape[0]],
    )


class BertForSequenceClassification(_EncoderWithOutputLayer):
  """The encoder with a classifier over `[CLS]` (paper, section 4.1)."""

  def __call__(self, input_ids, input_mask, token_type_ids, dropout_seed=None):
    """Returns logits, float32 [batch_size, num_labels]."""
    return self.output(
      self._pooled_output(input_ids, input_mask, token_type_ids, dropout_seed)
    )


class BertForQuestionAnswering(_EncoderWithOutputLayer):
  """The encoder with a start and an end vector (paper, section 4.2)."""

  def __init__(
    self, config: BertConfig, compute_dtype=tf.float32, seed: int = 0, **options
  ):
    super().__init__(
      config, 2, compute_dtype, seed, path="cls/squad/", **options
    )

  def __call__(self, input_ids, input_mask, token_type_ids, dropout_seed=None):
    """Returns start and end logits, float32 [batch_size, seq_length] each."""
    output = self.bert(input_ids, input_mask, token_type_ids, dropout_seed)
    # As released: no dropout between the encoder and this layer.
    return tf.unstack(self._token_logits(output.sequence_output), axis=-1)


class BertForTokenClassification(_EncoderWithOutputLayer):
  """The encoder with a classifier over every token (paper, section 5.3)."""

  def __call__(self, input_ids, input_mask, token_type_ids, dropout_seed=None):
    """Returns logits, float32 [batch_size, seq_length, num_labels]."""
    output = self.bert(input_ids, input_mask, token_type_ids, dropout_seed)
    return self._token_logits(
      self._dropout(output.sequence_output, dropout_seed)
    )


class BertForMultipleChoice(_EncoderWithOutputLayer):
  """The encoder with one vector that scores each choice (section 4.4)."""

  def __init__(
    self, config: BertConfig, compute_dtype=tf.float32, seed: int = 0, **options
  ):
    super().__init__(config, 1, compute_dtype, seed, **options)

  def __call__(self, input_ids, input_mask, token_type_ids, dropout_seed=None):
    """Returns logits, float32 [batch_size, num_choices].

    The three int Tensors are [batch_size, num_choices, seq_length].
    """
    batch_size, num_choices, seq_length = tf.unstack(tf.shape(input_ids))
    rows = [
      tf.reshape(x, [-1, seq_length])
      for x in (input_ids, input_mask, token_type_ids)
    ]
    return tf.reshape(
      self.output(self._pooled_output(*rows, dropout_seed)),
      [batch_size, num_choices],
    )


# --- What training costs -----------------------------------------------------


def training_flops(
  config: BertConfig,
  batch_size,
  seq_length,
  num_outputs=None,
  num_predictions=0,
):
  """Returns the floating-point operations of a step, of its products alone.

  The gradient costs twice the forward pass; what activation recomputation does
  again does not count. Padding counts: it is computed. What the last layer
  leaves out does not.

  Args:
    config: the shape of the model.
    batch_size: int, or float32 scalar Tensor.
    seq_length: likewise.
    num_outputs: likewise; positions of a sequence whose last layer is used,
      None for all.
    num_predictions: likewise; masked positions of a sequence.
  """
  size = config.hidden_size
  num_outputs = seq_length if num_outputs is None else num_outputs
  keys_and_values = 4.0 * size * size
  others = 4.0 * size * (size + config.intermediate_size + seq_length)
  layers = (
    config.num_hidden_layers * seq_length * keys_and_values
    + ((config.num_hidden_layers - 1) * seq_length + num_outputs) * others
  )
  pooler = 2.0 * size * size
  masked_lm = num_predictions * 2.0 * size * (size + config.vocab_size)
  return 3.0 * batch_size * (layers + pooler + masked_lm)


def activation_bytes(
  config: BertConfig,
  batch_size: int,
  seq_length: int,
  compute_dtype,
  recompute_activations: bool,
  num_predictions: int = 0,
) -> int:
  """Estimates the memory that a training step keeps for its gradient.

  Counts the tensors of `TransformerLayer` and `MaskedLMHead` that the backward
  pass reads; arguments as for `BertModel` and `training_flops`.
  """
  width = tf.as_dtype(compute_dtype).size
  tokens = batch_size * seq_length
  hidden = tokens * config.hidden_size
  intermediate = tokens * config.intermediate_size
  attention = tokens * seq_length * config.num_attention_heads
  # Inputs of the six products, two masks, and each norm's float32 input; the
  # probabilities in float32, their mask, and what is left of them.
  layer = (
    hidden * (8 * width + 2 * 4)
    + intermediate * 2 * width
    + attention * (4 + 2 * width)
  )
  # Recomputed, one layer at a time is there, and its gradients beside it;
  # otherwise gradients take the place of activations that are done with.
  layers = (
    config.num_hidden_layers * hidden * width + 2 * layer
    if recompute_activations
    else config.num_hidden_layers * layer
  )
  # Logits, their float32 copy, and the gradient of either.
  masked_lm = batch_size * num_predictions * config.vocab_size * 2 * (width + 4)
  return layers + hidden * 3 * 4 + masked_lm
