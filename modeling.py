"""The BERT encoder and its heads (Devlin et al., 2019, sections 3 and A.2).

From the top: the config, layers, embeddings, attention, the Transformer layer,
the encoder, heads. All variables of models are created here. Each has the name
that it has in the released checkpoints, such as
`bert/encoder/layer_0/attention/self/query/kernel`, so that loading is a lookup.

Weights are float32 whatever the compute type. `Dense` and `MaskedLMHead` cast
their weights to the type of their input; `Embeddings` and `OutputLayer` compute
in float32. Softmax and layer normalization are computed in float32, as are the
gradients of biases and norms, which are sums over the batch.

Letters in shape comments: B = batch_size, S = seq_length, H = hidden_size,
N = num_attention_heads, D = size_per_head (N*D = H), P = positions of a
sequence, V = vocab_size, T = tokens that the layers compute: all B*S, or those
that are not padding. Inside the encoder, activations are matrices [T, H]: one
large product is faster than B small ones, and no layer has to reshape.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import functools
import json
import reprlib
from typing import Any, NamedTuple
import zlib

from absl import logging
import tensorflow as tf

from data import original_names
from data import released_models
from data import transformers_config
from errors import UserError
import operations

original_names.explain_missing_names(__name__)

# --- The config --------------------------------------------------------------

# Limits for the sizes of a config and for the number of weights. They are far
# above any real model: a config beyond them is a mistake that would fill the
# memory.
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
    vocab_size: Number of entries of the vocabulary.
    hidden_size: Width of the encoder; a multiple of `num_attention_heads`.
    num_hidden_layers: Number of Transformer layers.
    num_attention_heads: Number of attention heads of each layer.
    intermediate_size: Width of the feed-forward layer.
    hidden_act: A key of `operations.ACTIVATIONS`.
    hidden_dropout_prob: Dropout rate of the embeddings, of the two outputs of
      each layer, and before a classifier.
    attention_probs_dropout_prob: Dropout rate of the attention probabilities.
    max_position_embeddings: Length of the longest sequence that fits.
    type_vocab_size: Number of segment ids. The default of 16 is that of the
      original code; every released config says 2.
    initializer_range: Standard deviation of the initial weights.
    layer_norm_eps: Number that layer normalization adds to the variance. The
      original code has this value without a name.

  Raises:
    UserError: A field has a value that no model can have.
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
  layer_norm_eps: float = operations.LAYER_NORM_EPSILON

  def __post_init__(self) -> None:
    for name, largest in _LARGEST_SIZES.items():
      size = getattr(self, name)
      is_size = _is_integer(size) and 1 <= size <= largest
      self._check_field(name, is_size, f"a whole number from 1 to {largest}")
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
      rate = getattr(self, name)
      is_rate = _is_number(rate) and 0 <= rate < 1
      self._check_field(name, is_rate, "a number of at least 0 and below 1")
    for name in ("initializer_range", "layer_norm_eps"):
      value = getattr(self, name)
      is_fraction = _is_number(value) and 0 < value < 1
      self._check_field(name, is_fraction, "a number above 0 and below 1")
    is_known = isinstance(self.hidden_act, str) and (
      self.hidden_act in operations.ACTIVATIONS
    )
    known = ", ".join(operations.ACTIVATIONS)
    self._check_field("hidden_act", is_known, f"one of {known}")
    if self.hidden_size % self.num_attention_heads:
      raise UserError(
        f"BertConfig: hidden_size={self.hidden_size} is not a multiple of "
        f"num_attention_heads={self.num_attention_heads}."
      )
    self._check_num_weights()

  def _check_field(self, name: str, is_allowed: bool, allowed: str) -> None:
    """Raises a UserError that shows the field unless its value is allowed."""
    if not is_allowed:
      # The value can be nested deeply, or very long.
      value = reprlib.repr(getattr(self, name))
      raise UserError(f"BertConfig: {name}={value} must be {allowed}.")

  def _check_num_weights(self) -> None:
    """Raises a UserError if the model could not fit into any memory."""
    num_embeddings = (
      self.vocab_size + self.max_position_embeddings + self.type_vocab_size
    )
    num_weights_per_layer = (
      4 * self.hidden_size**2 + 2 * self.hidden_size * self.intermediate_size
    )
    num_weights = (
      num_embeddings * self.hidden_size
      + num_weights_per_layer * self.num_hidden_layers
    )
    if num_weights > _LARGEST_NUM_WEIGHTS:
      raise UserError(
        f"BertConfig: a model of this shape has {num_weights:.1e} weights; "
        f"at most {_LARGEST_NUM_WEIGHTS:.1e} are possible. Use smaller sizes "
        "or fewer layers."
      )

  @classmethod
  def from_dict(cls, json_object: dict[str, Any], path: str = "") -> BertConfig:
    """Returns the config of a dictionary; unknown keys are logged and ignored.

    Args:
      json_object: Name of a field -> value.
      path: Path of the file with the config, for error messages.

    Raises:
      UserError: A field has a value that no model can have.
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
  def from_json_file(cls, json_file: str) -> BertConfig:
    """Returns the config of a `bert_config.json`.

    A `config.json` of transformers is translated.

    Raises:
      UserError: The file cannot be read, is not JSON, or holds a bad field; or
        it is that of another model of transformers.
    """
    return cls.from_dict(transformers_config.read_config(json_file), json_file)

  @classmethod
  def from_size(cls, name: str, vocab_size: int = 30522) -> BertConfig:
    """Returns the config of a released size.

    Args:
      name: `tiny`, `mini`, `small`, `medium`, `base`, `large`, or a name that
        ends like `L-4_H-512_A-8`.
      vocab_size: Number of entries of the vocabulary.

    Raises:
      UserError: There is no such size.
    """
    size = name[max(0, name.find("L-")) :]
    if size not in released_models.SIZES:
      raise UserError(
        f"{name!r} is no released size. Use one of: "
        f"{', '.join(released_models.SIZES)}."
      )
    num_hidden_layers, hidden_size = released_models.SIZES[size]
    return cls(
      vocab_size=vocab_size,
      hidden_size=hidden_size,
      num_hidden_layers=num_hidden_layers,
      num_attention_heads=hidden_size // 64,
      intermediate_size=4 * hidden_size,
      type_vocab_size=2,
    )

  def to_dict(self) -> dict[str, Any]:
    """Returns field -> value."""
    return dataclasses.asdict(self)

  def to_json_string(self) -> str:
    """Returns the contents of a `bert_config.json`, keys sorted."""
    fields = self.to_dict()
    if self.layer_norm_eps == operations.LAYER_NORM_EPSILON:
      # Released configs do not have this field.
      del fields["layer_norm_eps"]
    return json.dumps(fields, indent=2, sort_keys=True) + "\n"


def _is_integer(value: object) -> bool:
  return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
  return isinstance(value, (int, float)) and not isinstance(value, bool)


# --- Layers ------------------------------------------------------------------


class Initializer:
  """Draws initial weights as a pure function of a seed and a variable's name.

  Weights do not depend on the order in which variables are created, so a new
  head leaves the weights of the encoder unchanged.
  """

  def __init__(self, seed: int, stddev: float):
    self._seed = seed
    self._stddev = stddev

  def normal(self, name: str, shape: list[int]) -> tf.Variable:
    """Returns a float32 variable, normal but cut at two standard deviations."""
    seed = (self._seed, zlib.crc32(name.encode()))

    def draw():
      return tf.random.stateless_truncated_normal(
        shape, seed, stddev=self._stddev
      )

    return tf.Variable(draw, name=name)

  def zeros(self, name: str, shape: list[int]) -> tf.Variable:
    """Returns a float32 variable of zeros."""
    return tf.Variable(lambda: tf.zeros(shape), name=name)

  def ones(self, name: str, shape: list[int]) -> tf.Variable:
    """Returns a float32 variable of ones."""
    return tf.Variable(lambda: tf.ones(shape), name=name)


class Dense(tf.Module):
  """An affine map of rows, followed by an activation if one is given."""

  def __init__(
    self,
    path: str,
    input_size: int,
    output_size: int,
    init: Initializer,
    activation: operations.Activation | None = None,
  ):
    super().__init__()
    self.kernel = init.normal(f"{path}/kernel", [input_size, output_size])
    self.bias = init.zeros(f"{path}/bias", [output_size])
    self._activation = activation

  def __call__(self, x: tf.Tensor) -> tf.Tensor:
    """Maps [rows, input_size] to [rows, output_size], in the type of `x`."""
    product = tf.matmul(x, tf.cast(self.kernel, x.dtype))
    y = operations.add_bias(product, tf.convert_to_tensor(self.bias))
    return self._activation(y) if self._activation else y


class LayerNorm(tf.Module):
  """Layer normalization with a learned scale and offset."""

  def __init__(
    self,
    path: str,
    config: BertConfig,
    init: Initializer,
    forms: operations.Forms = operations.TRAINED,
  ):
    super().__init__()
    self._normalize = forms.layer_norm
    size = config.hidden_size
    self.gamma = init.ones(f"{path}/gamma", [size])
    self.beta = init.zeros(f"{path}/beta", [size])
    self._epsilon = config.layer_norm_eps

  def __call__(self, x: tf.Tensor) -> tf.Tensor:
    """Maps [rows, hidden_size] to rows of the same shape and type."""
    return self._normalize(
      x,
      tf.convert_to_tensor(self.gamma),
      tf.convert_to_tensor(self.beta),
      self._epsilon,
    )


class Dropout:
  """Dropout that draws as a pure function of a seed and its path in the model.

  The draws do not depend on how many other dropouts there are, so a change to
  one part of a model leaves those of the others unchanged.

  Attributes:
    rate: Probability that an element is dropped.
  """

  def __init__(self, path: str, rate: float):
    # The function that takes it wants an int32.
    self._site = zlib.crc32(path.encode()) & 0x7FFFFFFF
    self.rate = rate

  def __call__(self, x: tf.Tensor, seed: tf.Tensor | None) -> tf.Tensor:
    """Returns `x` with some elements zeroed and the others scaled up.

    Args:
      x: float Tensor of any shape.
      seed: int32 Tensor of shape [2], another in each training step; None to
        return `x` as it is, for evaluation and prediction.
    """
    own_seed = self.own_seed(seed)
    return x if own_seed is None else operations.dropout(x, self.rate, own_seed)

  def own_seed(self, seed: tf.Tensor | None) -> tf.Tensor | None:
    """Returns the seed of this dropout in a step; None if it drops nothing."""
    if seed is None or self.rate == 0.0:
      return None
    return tf.random.experimental.stateless_fold_in(seed, self._site)


def store_kernels(model: tf.Module, dtype: tf.DType) -> None:
  """Stores kernels and biases of a model that only answers in the compute type.

  Otherwise each call of the model casts them.
  """
  for module in model.submodules:
    if isinstance(module, Dense) and module.kernel.dtype != dtype:
      for attribute in ("kernel", "bias"):
        weight = getattr(module, attribute)
        name = weight.name.partition(":")[0]
        values = tf.cast(weight, dtype)
        stored = tf.Variable(values, trainable=False, name=name)
        setattr(module, attribute, stored)


def freeze_kernels(model: tf.Module, dtype: tf.DType) -> int:
  """Makes the kernels and biases of a model constants of its graphs.

  TensorFlow arranges constants for products on a CPU once, and variables in
  each call. But it keeps a dozen copies of each constant.

  Returns:
    The size of the constants in bytes.
  """
  num_bytes = 0
  for module in model.submodules:
    if isinstance(module, Dense):
      for attribute in ("kernel", "bias"):
        values = tf.cast(getattr(module, attribute), dtype).numpy()
        delattr(module, attribute)  # or else the variable would be saved, too
        setattr(module, attribute, values)
        num_bytes += values.nbytes
  return num_bytes


# --- Embeddings --------------------------------------------------------------


class Embeddings(tf.Module):
  """Sum of word, position and segment embeddings (paper, figure 2)."""

  def __init__(
    self,
    path: str,
    config: BertConfig,
    init: Initializer,
    use_one_hot_embeddings: bool,
    forms: operations.Forms,
  ):
    super().__init__()
    size = config.hidden_size
    self.word_embeddings = init.normal(
      f"{path}/word_embeddings", [config.vocab_size, size]
    )
    self.token_type_embeddings = init.normal(
      f"{path}/token_type_embeddings", [config.type_vocab_size, size]
    )
    self.position_embeddings = init.normal(
      f"{path}/position_embeddings", [config.max_position_embeddings, size]
    )
    self.layer_norm = LayerNorm(f"{path}/LayerNorm", config, init, forms)
    self._dropout = Dropout(path, config.hidden_dropout_prob)
    self._use_one_hot_embeddings = use_one_hot_embeddings

  def __call__(
    self,
    input_ids: tf.Tensor,
    token_type_ids: tf.Tensor,
    position_ids: tf.Tensor | None,
    dropout_seed: tf.Tensor | None,
  ) -> tf.Tensor:
    """Returns the embeddings of tokens, float32 [B, S, H].

    Args:
      input_ids: int32 Tensor of shape [B, S].
      token_type_ids: int32 Tensor of shape [B, S].
      position_ids: int32 Tensor of shape [B, S]; None for 0, 1, ... in each
        row.
      dropout_seed: int32 Tensor of shape [2], or None for no dropout.
    """
    if self._use_one_hot_embeddings:
      words = _one_hot_lookup(self.word_embeddings, input_ids)
    else:
      words = _lookup(self.word_embeddings, input_ids)
    # The table has a few rows. A lookup would sum the gradients of all
    # positions into them one at a time; a product is faster.
    segments = _one_hot_lookup(self.token_type_embeddings, token_type_ids)
    if position_ids is None:
      positions = self.position_embeddings[: tf.shape(input_ids)[1]]  # [S, H]
    else:
      positions = _lookup(self.position_embeddings, position_ids)
    embeddings = words + segments + positions  # [B, S, H]
    rows = tf.reshape(embeddings, [-1, embeddings.shape[-1]])  # [B*S, H]
    rows = self._dropout(self.layer_norm(rows), dropout_seed)
    return tf.reshape(rows, tf.shape(embeddings))  # [B, S, H]


def _lookup(table: tf.Variable, ids: tf.Tensor) -> tf.Tensor:
  """Returns rows of a table: float32 [..., H] for int32 ids [...]."""
  return operations.embedding_lookup(tf.convert_to_tensor(table), ids)


def _one_hot_lookup(table: tf.Variable, ids: tf.Tensor) -> tf.Tensor:
  """Returns the rows that `_lookup` returns, by a matrix product."""
  one_hot = tf.one_hot(ids, table.shape[0])
  return tf.linalg.matmul(one_hot, tf.convert_to_tensor(table))


# --- Attention ---------------------------------------------------------------


class Unpadding(NamedTuple):
  """Where the tokens of a batch are that are computed without its padding.

      input_mask      1 1 0     token_numbers   0 1 1     (1: padding)
                      1 1 1                     2 3 4
      token_places    0 1 3 4 5

  Attributes:
    token_places: Place of each token in the batch, in order, int32 [T].
    token_numbers: Number of the token at each place, int32 [B, S]. A place of
      padding has that of the token before it.
  """

  token_places: tf.Tensor
  token_numbers: tf.Tensor

  def split_heads(self, x: tf.Tensor, num_heads: int) -> tf.Tensor:
    """Maps [T, H] to [B, N, S, D].

    One lookup puts padding back and splits the heads. Its table has a row for
    each head of each token.
    """
    table = tf.reshape(x, [-1, x.shape[-1] // num_heads])  # [T*N, D]
    first_rows = self.token_numbers[:, tf.newaxis] * num_heads  # [B, 1, S]
    heads = tf.range(num_heads)[:, tf.newaxis]  # [N, 1]
    return tf.gather(table, first_rows + heads)

  def join_heads(self, x: tf.Tensor) -> tf.Tensor:
    """Maps [B, N, S, D] to the heads of each token, [T*N, D].

    With the shape [T, N, D], TensorFlow would not see that the rows are those
    of the queries; see `_attend`.
    """
    _, num_heads, seq_length, size_per_head = tf.unstack(tf.shape(x))
    table = tf.reshape(x, [-1, size_per_head])  # [B*N*S, D]
    sequences = self.token_places // seq_length  # [T]
    positions = self.token_places % seq_length  # [T]
    first_rows = sequences * num_heads * seq_length + positions  # [T]
    heads = tf.range(num_heads) * seq_length  # [N]
    rows = first_rows[:, tf.newaxis] + heads  # [T, N]
    return tf.gather(table, tf.reshape(rows, [-1]))


class TokenLayout(NamedTuple):
  """The arrangement of the tokens of a batch in rows.

  Attributes:
    position_ids: Position of each token in its sequence, int32 [B, S]; None
      for 0, 1, ... in each row.
    attention_bias: float32 [B, 1, 1, S], or [B, 1, S, S] for packed rows; 0
      where a position may be attended to, -10000 where it may not.
    unpadding: Where the tokens are; None if padding is computed like tokens.
  """

  position_ids: tf.Tensor | None
  attention_bias: tf.Tensor
  unpadding: Unpadding | None

  def to_tokens(self, x: tf.Tensor) -> tf.Tensor:
    """Maps [B, S, H] to the rows that the layers compute, [T, H]."""
    rows = tf.reshape(x, [-1, x.shape[-1]])
    if self.unpadding is None:
      return rows
    return tf.gather(rows, self.unpadding.token_places)

  def to_places(self, rows: tf.Tensor, shape: tf.Tensor) -> tf.Tensor:
    """Maps [T, H] to a Tensor of shape [B, S, H]."""
    if self.unpadding is not None:
      rows = tf.gather(rows, self.unpadding.token_numbers)
    return tf.reshape(rows, shape)


def _token_layout(
  input_mask: tf.Tensor,
  sequence_starts: tf.Tensor | None,
  skip_padding: bool,
) -> TokenLayout:
  """Returns the layout of rows with one sequence, or with several packed ones.

  Args:
    input_mask: int Tensor of shape [B, S], 0 where there is padding.
    sequence_starts: int Tensor of shape [B, M], see `BertModel.__call__`.
    skip_padding: Whether padding is left out, see `BertModel`.
  """
  is_visible = tf.cast(input_mask, tf.float32)[:, tf.newaxis, :]  # [B, 1, S]
  position_ids = None
  if sequence_starts is not None:
    # places            0  1  2  3  4  5
    # sequence_starts   0        3           as a row: [0, 3, 0, ...]
    # start_of_each     0  0  0  3  3  3
    # position_ids      0  1  2  0  1  2
    starts = tf.cast(sequence_starts, tf.int32)[:, tf.newaxis, :]  # [B, 1, M]
    places = tf.range(tf.shape(input_mask)[1])  # [S]
    is_before = starts <= places[:, tf.newaxis]  # [B, S, M]
    start_of_each = tf.reduce_max(tf.where(is_before, starts, 0), axis=-1)
    position_ids = places - start_of_each  # [B, S]
    is_same_sequence = (
      start_of_each[:, :, tf.newaxis] == start_of_each[:, tf.newaxis, :]
    )
    is_visible *= tf.cast(is_same_sequence, tf.float32)  # [B, S, S]
  attention_bias = -10000.0 * (1.0 - is_visible)[:, tf.newaxis]
  unpadding = _find_tokens(input_mask) if skip_padding else None
  return TokenLayout(position_ids, attention_bias, unpadding)


def _find_tokens(input_mask: tf.Tensor) -> Unpadding:
  """Returns where the tokens are: int Tensor [B, S], 0 where there is padding.

  The first place of a row counts as a token whatever the mask says, so that a
  row without tokens has a `[CLS]`, too.
  """
  is_first = tf.equal(tf.range(tf.shape(input_mask)[1]), 0)  # [S]
  is_token = tf.logical_or(tf.not_equal(input_mask, 0), is_first)  # [B, S]
  flat = tf.reshape(is_token, [-1])
  token_places = tf.cast(tf.where(flat)[:, 0], tf.int32)
  token_numbers = tf.cumsum(tf.cast(flat, tf.int32)) - 1
  return Unpadding(
    token_places, tf.reshape(token_numbers, tf.shape(input_mask))
  )


class SelfAttention(tf.Module):
  """Multi-head scaled dot-product attention (Vaswani et al., 2017, 3.2)."""

  def __init__(
    self,
    path: str,
    config: BertConfig,
    init: Initializer,
    forms: operations.Forms,
  ):
    super().__init__()
    size = config.hidden_size
    self.query = Dense(f"{path}/query", size, size, init)
    self.key = Dense(f"{path}/key", size, size, init)
    self.value = Dense(f"{path}/value", size, size, init)
    self._compute_probs = forms.attention_probs
    self._dropout = Dropout(path, config.attention_probs_dropout_prob)
    self._num_heads = config.num_attention_heads
    self._size_per_head = size // config.num_attention_heads

  def __call__(
    self,
    queries: tf.Tensor,
    hidden_states: tf.Tensor,
    layout: TokenLayout,
    dropout_seed: tf.Tensor | None,
  ) -> tf.Tensor:
    """Lets positions attend to the unmasked positions of their sequence.

    Args:
      queries: float Tensor, the positions that attend: `hidden_states` itself,
        or [B*Q, H] for Q positions of each sequence.
      hidden_states: float Tensor of shape [T, H], the positions that are
        attended to.
      layout: Where they are; for Q positions of each sequence, its bias is that
        of shape [B, 1, 1, S] or [B, 1, Q, S].
      dropout_seed: int32 Tensor of shape [2], or None for no dropout.

    Returns:
      float Tensor of the shape of `queries`.
    """
    return _attend(
      self.query(queries),
      self.key(hidden_states),
      self.value(hidden_states),
      layout.attention_bias,
      layout.unpadding if queries is hidden_states else None,
      layout.unpadding,
      self._compute_probs,
      self._num_heads,
      self._size_per_head,
      self._dropout.rate,
      self._dropout.own_seed(dropout_seed),
    )


@operations.traced_once
def _attend(
  queries: tf.Tensor,
  keys: tf.Tensor,
  values: tf.Tensor,
  attention_bias: tf.Tensor,
  query_unpadding: Unpadding | None,
  key_unpadding: Unpadding | None,
  compute_probs: Callable[..., tf.Tensor],
  num_heads: int,
  size_per_head: int,
  dropout_rate: float,
  dropout_seed: tf.Tensor | None,
) -> tf.Tensor:
  """Returns for each query the mean of the values, weighted by their keys.

  Args:
    queries: float Tensor of shape [B*Q, H], or [T, H] without padding.
    keys: float Tensor of shape [B*S, H], or [T, H] without padding.
    values: float Tensor of the shape of `keys`.
    attention_bias: float32 Tensor of shape [B, 1, 1, S] or [B, 1, Q, S], which
      is added to the logarithms of the weights.
    query_unpadding: Where the queries are; None if there are Q in each row.
    key_unpadding: Where the keys are; None if there are S in each row.
    compute_probs: Computes the weights, see `operations.attention_probs`.
    num_heads: Number N of heads.
    size_per_head: Number D of columns of each head; H is N * D.
    dropout_rate: Rate at which weights are dropped.
    dropout_seed: int32 Tensor of shape [2], or None for no dropout.

  Returns:
    float Tensor of the shape of `queries`.
  """
  batch_size = tf.shape(attention_bias)[0]

  def split_heads(x, unpadding):  # [B*S, H] or [T, H] to [B, N, S, D]
    if unpadding is not None:
      return unpadding.split_heads(x, num_heads)
    seq_length = tf.shape(x)[0] // batch_size
    shape = [batch_size, seq_length, num_heads, size_per_head]
    return tf.transpose(tf.reshape(x, shape), [0, 2, 1, 3])

  query = split_heads(queries, query_unpadding)
  key = split_heads(keys, key_unpadding)
  value = split_heads(values, key_unpadding)
  # Released checkpoints were trained with a bias of -10000, not -inf; a row
  # that is masked everywhere must also stay finite.
  probs = compute_probs(query, key, size_per_head**-0.5, attention_bias)
  if dropout_seed is not None:
    probs = operations.dropout(probs, dropout_rate, dropout_seed)
  context = tf.matmul(probs, value)  # [B, N, Q, D]
  if query_unpadding is not None:
    context = query_unpadding.join_heads(context)  # [T*N, D]
  else:
    context = tf.transpose(context, [0, 2, 1, 3])  # [B, Q, N, D]
  # This shape tells TensorFlow that the rows are those of the queries, so that
  # it can add the residual connection in the product that follows.
  return tf.reshape(context, tf.shape(queries))


# --- The Transformer layer ---------------------------------------------------


class TransformerLayer(tf.Module):
  """One layer of the encoder: attention, then a feed-forward network."""

  def __init__(
    self,
    path: str,
    config: BertConfig,
    init: Initializer,
    forms: operations.Forms,
  ):
    super().__init__()
    size, inner_size = config.hidden_size, config.intermediate_size
    rate = config.hidden_dropout_prob
    attended = f"{path}/attention/output"
    self.attention = SelfAttention(
      f"{path}/attention/self", config, init, forms
    )
    self.attention_output = Dense(f"{attended}/dense", size, size, init)
    self.attention_dropout = Dropout(attended, rate)
    self.attention_norm = LayerNorm(
      f"{attended}/LayerNorm", config, init, forms
    )
    self.intermediate = Dense(
      f"{path}/intermediate/dense",
      size,
      inner_size,
      init,
      forms.activations[config.hidden_act],
    )
    self.output = Dense(f"{path}/output/dense", inner_size, size, init)
    self.output_dropout = Dropout(f"{path}/output", rate)
    self.output_norm = LayerNorm(
      f"{path}/output/LayerNorm", config, init, forms
    )

  def __call__(
    self,
    hidden_states: tf.Tensor,
    layout: TokenLayout,
    dropout_seed: tf.Tensor | None,
    output_positions: tf.Tensor | None = None,
  ) -> tf.Tensor:
    """Maps [T, H] to [T, H], or to [B*P, H] for `output_positions`.

    Args:
      hidden_states: float Tensor of shape [T, H].
      layout: Where these are in the batch.
      dropout_seed: int32 Tensor of shape [2], or None for no dropout.
      output_positions: int Tensor of shape [B, P], the positions to compute;
        None for all.
    """
    queries = hidden_states
    if output_positions is not None:
      queries = _gather_positions(
        hidden_states, layout, output_positions
      )  # [B*P, H]
      if layout.attention_bias.shape[2] != 1:  # packed rows
        layout = layout._replace(
          attention_bias=tf.gather(
            layout.attention_bias, output_positions, axis=2, batch_dims=1
          )  # [B, 1, P, S]
        )
    # Post-norm, as in the paper: each norm follows its residual connection.
    # These two blocks alone decide the order.
    context = self.attention(queries, hidden_states, layout, dropout_seed)
    update = self.attention_output(context)
    update = self.attention_dropout(update, dropout_seed)
    attended = self.attention_norm(queries + update)

    update = self.output(self.intermediate(attended))
    update = self.output_dropout(update, dropout_seed)
    return self.output_norm(attended + update)


def _gather_positions(
  hidden_states: tf.Tensor, layout: TokenLayout, positions: tf.Tensor
) -> tf.Tensor:
  """Returns positions [B, P] of sequences [T, H], as a Tensor [B*P, H]."""
  batch_size = tf.shape(positions)[0]
  seq_length = tf.shape(layout.attention_bias)[-1]
  row_starts = tf.range(batch_size)[:, tf.newaxis] * seq_length  # [B, 1]
  places = tf.reshape(tf.cast(positions, tf.int32) + row_starts, [-1])  # [B*P]
  if layout.unpadding is not None:
    numbers = tf.reshape(layout.unpadding.token_numbers, [-1])  # [B*S]
    return tf.gather(hidden_states, tf.gather(numbers, places))
  return tf.gather(hidden_states, places)


# --- The encoder -------------------------------------------------------------


class BertOutput(NamedTuple):
  """All outputs of the encoder for a batch, in its compute type.

  Attributes:
    sequence_output: The last layer, [batch_size, seq_length, hidden_size].
    pooled_output: The pooler's map of the last layer at the first token
      ([CLS]), [batch_size, hidden_size]; None if there is no pooler.
    all_encoder_layers: A list with the output of each layer, [batch_size,
      seq_length, hidden_size].
    embedding_output: The input of the first layer, [batch_size, seq_length,
      hidden_size].
  """

  sequence_output: tf.Tensor
  pooled_output: tf.Tensor | None
  all_encoder_layers: list[tf.Tensor]
  embedding_output: tf.Tensor


class BertModel(tf.Module):
  """Bidirectional Transformer encoder (paper, section 3).

  `model(input_ids, input_mask, token_type_ids)` returns all outputs as a
  `BertOutput`. `get_*` with the same arguments return one of them, under the
  names of the original code.
  """

  def __init__(
    self,
    config: BertConfig,
    compute_dtype: tf.DType = tf.float32,
    seed: int = 0,
    *,
    recompute_activations: bool = False,
    use_one_hot_embeddings: bool = False,
    is_portable: bool = False,
    add_pooler: bool = True,
    scope: str = "bert",
  ):
    """Creates the variables with random values.

    Args:
      config: Shape of the model.
      compute_dtype: Type of the activations: tf.float32, tf.bfloat16 or
        tf.float16.
      seed: Random seed of the initial weights.
      recompute_activations: Whether to keep only the input of each layer, and
        compute the layer again for the gradient. This takes a third more work
        and far less memory (Chen et al., 2016).
      use_one_hot_embeddings: Whether to look words up by a product with a
        one-hot matrix.
      is_portable: Whether the operations are those that answer fastest on a
        CPU, and that run where XLA is missing. The layers then leave out the
        padding of a batch, so that the number of tokens is another in each,
        and outputs at padding are those of the token before it.
      add_pooler: Whether there is a pooler. Some weights have none; heads that
        read every token do not need it.
      scope: First part of the names of all variables.
    """
    super().__init__()
    init = Initializer(seed, config.initializer_range)
    self.forms = operations.PORTABLE if is_portable else operations.TRAINED
    self.config = config
    self.compute_dtype = tf.as_dtype(compute_dtype)
    self.recompute_activations = recompute_activations
    self._is_portable = is_portable
    self.embeddings = Embeddings(
      f"{scope}/embeddings", config, init, use_one_hot_embeddings, self.forms
    )
    self.layers = [
      TransformerLayer(
        f"{scope}/encoder/layer_{number}",
        config,
        init,
        self.forms,
      )
      for number in range(config.num_hidden_layers)
    ]
    self.pooler: Dense | None = None
    if add_pooler:
      size = config.hidden_size
      self.pooler = Dense(f"{scope}/pooler/dense", size, size, init, tf.tanh)

  def __call__(
    self,
    input_ids: tf.Tensor,
    input_mask: tf.Tensor | None = None,
    token_type_ids: tf.Tensor | None = None,
    dropout_seed: tf.Tensor | None = None,
    sequence_starts: tf.Tensor | None = None,
  ) -> BertOutput:
    """Returns all outputs for a batch of sequences.

    Args:
      input_ids: int Tensor of shape [batch_size, seq_length]; or the output of
        `embeddings`, float Tensor of shape [batch_size, seq_length,
        hidden_size], for the gradient with respect to it.
      input_mask: int Tensor of shape [batch_size, seq_length], 0 where there is
        padding; None if there is none.
      token_type_ids: int Tensor of the same shape, the segment of each token;
        None for 0 everywhere.
      dropout_seed: int32 Tensor of shape [2] to train with dropout; None for
        no dropout.
      sequence_starts: int Tensor of shape [batch_size, M] if rows are packed:
        the places in each row where its sequences begin, in any order, unused
        ones 0. Each sequence has its own positions and attends to itself alone
        (Krell et al., 2021). None for one sequence per row.

    Raises:
      UserError: seq_length exceeds max_position_embeddings.
    """
    embeddings, layout = self._embed(
      input_ids, input_mask, token_type_ids, dropout_seed, sequence_starts
    )
    shape = tf.shape(embeddings)  # [B, S, H]
    hidden_states = layout.to_tokens(embeddings)  # [T, H]
    all_encoder_layers = []
    for layer in self.layers:
      hidden_states = self._run_layer(
        layer, hidden_states, layout, dropout_seed
      )  # [T, H]
      all_encoder_layers.append(layout.to_places(hidden_states, shape))
    sequence_output = all_encoder_layers[-1]
    pooled_output = None
    if self.pooler:
      pooled_output = self.pooler(sequence_output[:, 0])
    return BertOutput(
      sequence_output=sequence_output,
      pooled_output=pooled_output,
      all_encoder_layers=all_encoder_layers,
      embedding_output=embeddings,
    )

  def encode_positions(
    self,
    output_positions: tf.Tensor,
    input_ids: tf.Tensor,
    input_mask: tf.Tensor | None = None,
    token_type_ids: tf.Tensor | None = None,
    dropout_seed: tf.Tensor | None = None,
    sequence_starts: tf.Tensor | None = None,
  ) -> tf.Tensor:
    """Returns the last layer at some positions, computing it only there.

    Most of a layer works on each position by itself, so this saves most of the
    last layer.

    Args:
      output_positions: int Tensor of shape [batch_size, P].
      input_ids: As for `__call__`, like all other arguments.
      input_mask: See `__call__`.
      token_type_ids: See `__call__`.
      dropout_seed: See `__call__`.
      sequence_starts: See `__call__`.

    Returns:
      Tensor of shape [batch_size, P, hidden_size], in the compute type.
    """
    embeddings, layout = self._embed(
      input_ids, input_mask, token_type_ids, dropout_seed, sequence_starts
    )
    hidden_states = layout.to_tokens(embeddings)  # [T, H]
    for layer in self.layers[:-1]:
      hidden_states = self._run_layer(
        layer, hidden_states, layout, dropout_seed
      )  # [T, H]
    outputs = self._run_layer(
      self.layers[-1], hidden_states, layout, dropout_seed, output_positions
    )  # [B*P, H]
    batch_size, num_positions = tf.unstack(tf.shape(output_positions))
    shape = [batch_size, num_positions, self.config.hidden_size]
    return tf.reshape(outputs, shape)

  def _embed(
    self, input_ids, input_mask, token_type_ids, dropout_seed, sequence_starts
  ) -> tuple[tf.Tensor, TokenLayout]:
    """Returns embeddings [B, S, H] in the compute type, and their layout."""
    input_ids = tf.convert_to_tensor(input_ids)
    seq_length = input_ids.shape[1]
    if (seq_length or 0) > self.config.max_position_embeddings:
      raise UserError(
        f"A sequence of {seq_length} tokens does not fit "
        f"max_position_embeddings={self.config.max_position_embeddings}."
      )
    shape = tf.shape(input_ids)[:2]
    if input_mask is None:
      input_mask = tf.ones(shape, tf.int32)
    if token_type_ids is None:
      token_type_ids = tf.zeros(shape, tf.int32)
    layout = _token_layout(
      input_mask, sequence_starts, skip_padding=self._is_portable
    )
    embeddings = input_ids
    if not input_ids.dtype.is_floating:
      embeddings = self.embeddings(
        tf.cast(input_ids, tf.int32),
        token_type_ids,
        layout.position_ids,
        dropout_seed,
      )
    return tf.cast(embeddings, self.compute_dtype), layout

  def _run_layer(
    self,
    layer: TransformerLayer,
    hidden_states: tf.Tensor,
    layout: TokenLayout,
    dropout_seed: tf.Tensor | None,
    output_positions: tf.Tensor | None = None,
  ) -> tf.Tensor:
    """Returns the output of a layer, whose activations may be recomputed."""
    run = functools.partial(
      layer,
      layout=layout,
      dropout_seed=dropout_seed,
      output_positions=output_positions,
    )
    if self.recompute_activations:
      # Dropout draws the same numbers again: they are a function of the seed.
      run = tf.recompute_grad(run)
    return run(hidden_states)

  def pool(self, rows: tf.Tensor) -> tf.Tensor:
    """Maps [rows, hidden_size] of the last layer to the pooled output."""
    assert self.pooler, "a head that calls this has a model with a pooler"
    return self.pooler(rows)

  def get_pooled_output(self, *args, **kwargs) -> tf.Tensor:
    """Returns `pooled_output` for the arguments of `__call__`."""
    return self(*args, **kwargs).pooled_output

  def get_sequence_output(self, *args, **kwargs) -> tf.Tensor:
    """Returns `sequence_output` for the arguments of `__call__`."""
    return self(*args, **kwargs).sequence_output

  def get_all_encoder_layers(self, *args, **kwargs) -> list[tf.Tensor]:
    """Returns `all_encoder_layers` for the arguments of `__call__`."""
    return self(*args, **kwargs).all_encoder_layers

  def get_embedding_output(self, *args, **kwargs) -> tf.Tensor:
    """Returns `embedding_output` for the arguments of `__call__`."""
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
    # There are a few columns: float32 costs little here, and the loss gets
    # logits that were not rounded.
    x32 = tf.cast(x, tf.float32)
    product = tf.matmul(x32, self.output_weights, transpose_b=True)
    return product + self.output_bias


class MaskedLMHead(tf.Module):
  """Predicts the words at masked positions (paper, section 3.1, task 1).

  The output weights are the word embeddings.
  """

  def __init__(
    self,
    config: BertConfig,
    embedding_table: tf.Variable,
    init: Initializer,
    forms: operations.Forms,
  ):
    super().__init__()
    path = "cls/predictions"
    size = config.hidden_size
    self.transform = Dense(
      f"{path}/transform/dense",
      size,
      size,
      init,
      forms.activations[config.hidden_act],
    )
    self.transform_norm = LayerNorm(
      f"{path}/transform/LayerNorm", config, init, forms
    )
    self.output_bias = init.zeros(f"{path}/output_bias", [config.vocab_size])
    self._embedding_table = embedding_table

  def __call__(self, rows: tf.Tensor) -> tf.Tensor:
    """Maps float [rows, H] to logits [rows, V], in the same type."""
    rows = self.transform_norm(self.transform(rows))
    table = tf.cast(self._embedding_table, rows.dtype)
    logits = tf.matmul(rows, table, transpose_b=True)
    return operations.add_bias(logits, tf.convert_to_tensor(self.output_bias))


class BertForPreTraining(tf.Module):
  """The encoder with both pre-training heads."""

  def __init__(
    self,
    config: BertConfig,
    compute_dtype: tf.DType = tf.float32,
    seed: int = 0,
    **options,
  ):
    """Creates the variables; the arguments are those of `BertModel`."""
    super().__init__()
    init = Initializer(seed, config.initializer_range)
    self.bert = BertModel(config, compute_dtype, seed, **options)
    self.masked_lm = MaskedLMHead(
      config, self.bert.get_embedding_table(), init, self.bert.forms
    )
    self.next_sentence = OutputLayer(
      "cls/seq_relationship/", config.hidden_size, 2, init
    )

  def __call__(
    self,
    input_ids: tf.Tensor,
    input_mask: tf.Tensor | None,
    token_type_ids: tf.Tensor | None,
    masked_lm_positions: tf.Tensor,
    dropout_seed: tf.Tensor | None = None,
    sequence_starts: tf.Tensor | None = None,
  ) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the logits of both tasks.

    Args:
      input_ids: int Tensor of shape [batch_size, seq_length].
      input_mask: int Tensor of the same shape, or None.
      token_type_ids: int Tensor of the same shape, or None.
      masked_lm_positions: int Tensor of shape
        [batch_size, max_predictions_per_seq].
      dropout_seed: int32 Tensor of shape [2], or None for no dropout.
      sequence_starts: int Tensor of shape [batch_size, M] if up to M pairs
        share a row; see `BertModel.__call__`. None for one pair per row; then
        M is 1.

    Returns:
      Masked LM logits [batch_size * max_predictions_per_seq, vocab_size] in
      the compute type, and next sentence logits float32 [batch_size * M, 2],
      where 1 means a random sentence.
    """
    positions_dtype = masked_lm_positions.dtype
    if sequence_starts is None:
      batch_size = tf.shape(masked_lm_positions)[0]
      cls_positions = tf.zeros([batch_size, 1], positions_dtype)
    else:
      cls_positions = tf.cast(sequence_starts, positions_dtype)
    num_sequences = cls_positions.shape[1]
    outputs = self.bert.encode_positions(
      tf.concat([cls_positions, masked_lm_positions], axis=1),  # [B, M+P]
      input_ids,
      input_mask,
      token_type_ids,
      dropout_seed,
      sequence_starts,
    )
    first, masked = tf.split(outputs, [num_sequences, -1], axis=1)
    size = self.bert.config.hidden_size
    pooled = self.bert.pool(tf.reshape(first, [-1, size]))  # [B*M, H]
    masked_lm_logits = self.masked_lm(tf.reshape(masked, [-1, size]))
    return masked_lm_logits, self.next_sentence(pooled)


class _FineTunedModel(tf.Module):
  """Base of the fine-tuned models: an encoder, dropout and one more layer.

  `__call__` of each takes int Tensors `input_ids`, `input_mask` and
  `token_type_ids` of shape [batch_size, seq_length], and `dropout_seed`, an
  int32 Tensor of shape [2], or None for no dropout.
  """

  def __init__(
    self,
    config: BertConfig,
    num_labels: int,
    compute_dtype: tf.DType = tf.float32,
    seed: int = 0,
    path: str = "",
    **options,
  ):
    """Creates the variables.

    Args:
      config: Shape of the encoder.
      num_labels: Number of outputs.
      compute_dtype: See `BertModel`, like all further arguments.
      seed: See `BertModel`.
      path: First part of the names of the variables of the last layer.
      **options: See `BertModel`.
    """
    super().__init__()
    init = Initializer(seed, config.initializer_range)
    self.bert = BertModel(config, compute_dtype, seed, **options)
    self.output = OutputLayer(path, config.hidden_size, num_labels, init)
    self._dropout = Dropout(f"{path}output", config.hidden_dropout_prob)

  def _pooled_output(
    self, input_ids, input_mask, token_type_ids, dropout_seed
  ) -> tf.Tensor:
    """Returns the pooled output after dropout, [batch_size, hidden_size]."""
    cls_position = tf.zeros([tf.shape(input_ids)[0], 1], tf.int32)
    last_layer = self.bert.encode_positions(
      cls_position, input_ids, input_mask, token_type_ids, dropout_seed
    )  # [B, 1, H]
    pooled_output = self.bert.pool(last_layer[:, 0])
    return self._dropout(pooled_output, dropout_seed)

  def _token_logits(self, sequence_output: tf.Tensor) -> tf.Tensor:
    """Maps [B, S, H] to float32 logits [B, S, num_labels]."""
    batch_size, seq_length, _ = tf.unstack(tf.shape(sequence_output))
    rows = tf.reshape(sequence_output, [-1, sequence_output.shape[-1]])
    logits = self.output(rows)  # [B*S, num_labels]
    return tf.reshape(logits, [batch_size, seq_length, logits.shape[-1]])


class BertForSequenceClassification(_FineTunedModel):
  """The encoder with a classifier over `[CLS]` (paper, section 4.1)."""

  def __call__(
    self,
    input_ids: tf.Tensor,
    input_mask: tf.Tensor,
    token_type_ids: tf.Tensor,
    dropout_seed: tf.Tensor | None = None,
  ) -> tf.Tensor:
    """Returns logits, float32 [batch_size, num_labels]."""
    pooled_output = self._pooled_output(
      input_ids, input_mask, token_type_ids, dropout_seed
    )
    return self.output(pooled_output)


class BertForQuestionAnswering(_FineTunedModel):
  """The encoder with a start and an end vector (paper, section 4.2)."""

  def __init__(
    self,
    config: BertConfig,
    compute_dtype: tf.DType = tf.float32,
    seed: int = 0,
    **options,
  ):
    """Creates the variables; the arguments are those of `BertModel`."""
    super().__init__(
      config, 2, compute_dtype, seed, path="cls/squad/", **options
    )

  def __call__(
    self,
    input_ids: tf.Tensor,
    input_mask: tf.Tensor,
    token_type_ids: tf.Tensor,
    dropout_seed: tf.Tensor | None = None,
  ) -> list[tf.Tensor]:
    """Returns start and end logits, float32 [batch_size, seq_length] each."""
    output = self.bert(input_ids, input_mask, token_type_ids, dropout_seed)
    # The original code has no dropout between the encoder and this layer.
    return tf.unstack(self._token_logits(output.sequence_output), axis=-1)


class BertForTokenClassification(_FineTunedModel):
  """The encoder with a classifier over every token (paper, section 5.3)."""

  def __call__(
    self,
    input_ids: tf.Tensor,
    input_mask: tf.Tensor,
    token_type_ids: tf.Tensor,
    dropout_seed: tf.Tensor | None = None,
  ) -> tf.Tensor:
    """Returns logits, float32 [batch_size, seq_length, num_labels]."""
    output = self.bert(input_ids, input_mask, token_type_ids, dropout_seed)
    sequence_output = self._dropout(output.sequence_output, dropout_seed)
    return self._token_logits(sequence_output)


class BertForMultipleChoice(_FineTunedModel):
  """The encoder with one vector that scores each choice (section 4.4)."""

  def __init__(
    self,
    config: BertConfig,
    compute_dtype: tf.DType = tf.float32,
    seed: int = 0,
    **options,
  ):
    """Creates the variables; the arguments are those of `BertModel`."""
    super().__init__(config, 1, compute_dtype, seed, **options)

  def __call__(
    self,
    input_ids: tf.Tensor,
    input_mask: tf.Tensor,
    token_type_ids: tf.Tensor,
    dropout_seed: tf.Tensor | None = None,
  ) -> tf.Tensor:
    """Returns logits, float32 [batch_size, num_choices].

    The three int Tensors have shape [batch_size, num_choices, seq_length].
    """
    batch_size, num_choices, seq_length = tf.unstack(tf.shape(input_ids))
    rows_shape = [-1, seq_length]
    pooled_output = self._pooled_output(
      tf.reshape(input_ids, rows_shape),
      tf.reshape(input_mask, rows_shape),
      tf.reshape(token_type_ids, rows_shape),
      dropout_seed,
    )
    logits = self.output(pooled_output)  # [B*num_choices, 1]
    return tf.reshape(logits, [batch_size, num_choices])
