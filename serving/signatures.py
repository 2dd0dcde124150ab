"""Models that answer requests: signatures that take ids, or raw text.

A SavedModel holds its own code. These modules put into its graph the steps that
programs run around a model in Python: tokenizing, building sequences, cutting
windows, and naming predictions. The number of texts and their length are free.
Every input and output has one row per text, so a server may batch requests.

`ServedEncoder` also has the interface of TF Hub's text encoders, so that other
programs can continue to train it.
"""

from __future__ import annotations

from collections.abc import Mapping
import functools
from typing import Any, NamedTuple

import tensorflow as tf

from data import encoding
import heads
import modeling
from serving import graph_tokenization
from serving import serving_settings
from tasks import metrics
from tasks import ner
import tokenization

# The signatures: for ids, for texts, and for pairs of texts.
IDS = tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY
TEXT = "text"
TEXT_PAIR = "text_pair"

# Score of a span that cannot be an answer. JSON has no infinity.
_IMPOSSIBLE = -1e9

_IDS = tf.TensorSpec([None, None], tf.int32)
_IDS_OF_CHOICES = tf.TensorSpec([None, None, None], tf.int32)
_TEXTS = tf.TensorSpec([None], tf.string)
_CHOICES = tf.TensorSpec([None, None], tf.string)


# --- From texts to ids -------------------------------------------------------


class PairLengths(NamedTuple):
  """The lengths that n pairs of texts are truncated to, int64 [n] each."""

  a: tf.Tensor
  b: tf.Tensor


class Preprocessor(tf.Module):
  """Turns texts into the ids, mask and segments that a model reads.

  Attributes:
    vocab_file: The vocabulary, a file of the SavedModel.
    do_lower_case: Whether text is lower-cased, a bool variable.
    max_seq_length: Largest number of tokens of a sequence.
    text_settings: Settings of the tokenizer.
    tokenizer: The tokenizer, in a graph.
  """

  def __init__(
    self,
    vocab_file: str,
    tokenizer: tokenization.FullTokenizer,
    max_seq_length: int,
  ):
    super().__init__()
    self.vocab_file = tf.saved_model.Asset(vocab_file)
    self.do_lower_case = tf.Variable(
      tokenizer.basic_tokenizer.do_lower_case,
      trainable=False,
      name="do_lower_case",
    )
    self.tokenizer = graph_tokenization.GraphTokenizer(tokenizer)
    self.max_seq_length = max_seq_length
    self.text_settings = tokenizer.settings
    self._cls_id, self._sep_id = tokenizer.cls_id, tokenizer.sep_id

  def preprocess(
    self, texts_a: tf.Tensor, texts_b: tf.Tensor | None = None
  ) -> dict[str, tf.Tensor]:
    """Returns `input_ids`, `input_mask` and `segment_ids`, int32 [n, s].

    Texts that are too long are truncated as `encoding.encode_pair` does it. A
    second text that is empty counts as none.
    """
    ids_a, ids_b = self.tokenize_pairs(texts_a, texts_b)
    lengths = self.truncated_lengths(ids_a, ids_b)
    return self.build_sequences(
      _truncate(ids_a, lengths.a), _truncate(ids_b, lengths.b)
    )

  def tokenize_pairs(
    self, texts_a: tf.Tensor, texts_b: tf.Tensor | None
  ) -> tuple[tf.RaggedTensor, tf.RaggedTensor]:
    """Returns the ids of both texts of pairs, ragged int32 [n, (t)] each."""
    ids_a = self.tokenizer(texts_a).ids
    if texts_b is None:
      return ids_a, ids_a[:, :0]
    return ids_a, self.tokenizer(texts_b).ids

  def truncated_lengths(
    self, ids_a: tf.RaggedTensor, ids_b: tf.RaggedTensor
  ) -> PairLengths:
    """Returns the lengths that pairs are cut to, as `encoding.truncate_pair`.

    Like there, tokens are taken from the longer text until both are of the
    same length, and then from both in turn.
    """
    length_a, length_b = ids_a.row_lengths(), ids_b.row_lengths()
    num_special = tf.where(length_b > 0, tf.constant(3, tf.int64), 2)
    room = self.max_seq_length - num_special
    excess = tf.maximum(length_a + length_b - room, 0)
    from_a = tf.minimum(excess, tf.maximum(length_a - length_b, 0))
    from_b = tf.minimum(excess, tf.maximum(length_b - length_a, 0))
    from_both = excess - from_a - from_b
    return PairLengths(
      length_a - from_a - from_both // 2,
      length_b - from_b - (from_both + 1) // 2,
    )

  def build_sequences(
    self, ids_a: tf.RaggedTensor, ids_b: tf.RaggedTensor
  ) -> dict[str, tf.Tensor]:
    """Returns `[CLS] a [SEP]`, or `[CLS] a [SEP] b [SEP]` where b has ids.

    Args:
      ids_a: Ids of the first texts, ragged int32 [n, (t)].
      ids_b: Ids of the second texts, ragged int32 [n, (t)].

    Returns:
      `input_ids`, `input_mask` and `segment_ids`, int32 [n, s].
    """
    # input_ids     [CLS] a a [SEP] b [SEP]      [CLS] a [SEP]
    # segment_ids     0   0 0   0   1   1          0   0   0
    num_rows = ids_a.nrows()
    column_shape = tf.stack([num_rows, 1])
    cls_column = tf.fill(column_shape, self._cls_id)
    sep_column = tf.fill(column_shape, self._sep_id)
    has_b = ids_b.row_lengths() > 0
    last_sep = tf.RaggedTensor.from_row_lengths(
      tf.fill([tf.math.count_nonzero(has_b)], self._sep_id),
      tf.cast(has_b, tf.int64),
      validate=False,
    )  # [n, (0 or 1)]
    ids = tf.concat([cls_column, ids_a, sep_column, ids_b, last_sep], axis=1)
    places = tf.ragged.range(ids.row_lengths()).flat_values
    first_places_of_b = ids_a.row_lengths() + 2
    is_in_b = places >= tf.gather(first_places_of_b, ids.value_rowids())
    segment_ids = ids.with_flat_values(tf.cast(is_in_b, tf.int32))
    return {
      "input_ids": ids.to_tensor(),
      "input_mask": tf.ones_like(ids).to_tensor(),
      "segment_ids": segment_ids.to_tensor(),
    }


def _truncate(
  ids: tf.RaggedTensor, lengths: tf.Tensor, keep_tail: bool = False
) -> tf.RaggedTensor:
  """Returns ids [n, (t)] cut to lengths [n].

  Args:
    ids: Ragged int32 [n, (t)].
    lengths: Numbers of ids to keep, int64 [n].
    keep_tail: Whether rows that are cut keep their end as well; see
      `encoding.HEAD_TAIL`.
  """
  row_lengths = ids.row_lengths()
  head_lengths = lengths
  if keep_tail:
    head_lengths = tf.where(row_lengths > lengths, lengths // 4, lengths)
  tail_starts = row_lengths - (lengths - head_lengths)
  places = tf.ragged.range(row_lengths).flat_values
  rows = ids.value_rowids()
  is_in_head = places < tf.gather(head_lengths, rows)
  is_in_tail = places >= tf.gather(tail_starts, rows)
  kept = tf.boolean_mask(ids.flat_values, is_in_head | is_in_tail)
  return tf.RaggedTensor.from_row_lengths(kept, lengths, validate=False)


# --- Windows over long texts -------------------------------------------------


def _slice_rows(
  values: tf.RaggedTensor, rows: tf.Tensor, starts: tf.Tensor, lengths
) -> tf.RaggedTensor:
  """Returns slices of rows: of each `lengths` values from `starts` on.

  Args:
    values: Ragged Tensor of shape [n, (t)].
    rows: Row of each slice, int64 [w].
    starts: Where each slice begins in its row, int64 [w].
    lengths: Length of each slice, int64 [w].

  Returns:
    Ragged Tensor of shape [w, (lengths)].
  """
  first = tf.gather(values.row_starts(), rows) + starts
  places = tf.ragged.range(first, first + lengths)  # [w, (lengths)]
  return places.with_flat_values(
    tf.gather(values.flat_values, places.flat_values)
  )


class _TokenWindows(NamedTuple):
  """Windows over n texts, w in all; those of a text follow each other.

  All Tensors are int64 [w].

  Attributes:
    texts: Number of the text of each window.
    numbers: Number of the window among those of its text.
    starts: The token of the text that the window begins with.
    lengths: Number of tokens in the window.
    num_tokens: Number of tokens in the text.
    rooms: Largest number of tokens of a window of the text.
    strides: Distance between the starts of windows of the text.
  """

  texts: tf.Tensor
  numbers: tf.Tensor
  starts: tf.Tensor
  lengths: tf.Tensor
  num_tokens: tf.Tensor
  rooms: tf.Tensor
  strides: tf.Tensor

  @classmethod
  def cut(
    cls,
    num_tokens: tf.Tensor,
    rooms: tf.Tensor,
    strides: tf.Tensor,
    last_is_full: bool = False,
  ) -> _TokenWindows:
    """Returns windows of `rooms` tokens, each `strides` after the one before.

    Args:
      num_tokens: Number of tokens of each text, int64 [n]; a text without
        tokens has one window.
      rooms: Largest number of tokens of a window, int64 [n].
      strides: Distance between the starts of windows, int64 [n].
      last_is_full: Whether the last window of a long text starts earlier, so
        that it is as long as the others.
    """
    # 10 tokens, room for 6, a stride of 3:
    #   window 0   0 1 2 3 4 5
    #   window 1         3 4 5 6 7 8
    #   window 2               6 7 8 9      from 4 on if `last_is_full`
    num_missing = tf.maximum(num_tokens - rooms, 0)  # by the first window
    num_windows = 1 - (-num_missing // strides)  # rounded up
    numbers = tf.ragged.range(num_windows)  # [n, (windows)]
    texts = numbers.value_rowids()
    num_tokens = tf.gather(num_tokens, texts)
    rooms = tf.gather(rooms, texts)
    strides = tf.gather(strides, texts)
    starts = numbers.flat_values * strides
    if last_is_full:
      starts = tf.minimum(starts, tf.maximum(num_tokens - rooms, 0))
    return cls(
      texts=texts,
      numbers=numbers.flat_values,
      starts=starts,
      lengths=tf.minimum(rooms, num_tokens - starts),
      num_tokens=num_tokens,
      rooms=rooms,
      strides=strides,
    )

  def slice_tokens(self, values: tf.RaggedTensor) -> tf.RaggedTensor:
    """Returns the values [n, (t)] of tokens in each window, [w, (t)]."""
    return _slice_rows(values, self.texts, self.starts, self.lengths)

  def is_max_context(self, tokens: tf.Tensor) -> tf.Tensor:
    """Returns whether tokens have more context here than in other windows.

    Follows `sliding_windows.TextWindows`, for windows that were cut without
    `last_is_full`.

    Args:
      tokens: Numbers of tokens in the texts of the windows, int64 [w, s].

    Returns:
      bool [w, s]; False for tokens that are not in the window.
    """
    # Tokens 3, 4 and 5 in the windows above, with `context` as the smaller of
    # the distances to both ends, times 100, plus the length of the window:
    #   window 0   distances 2 1 0   context 206 106   6
    #   window 1   distances 0 1 2   context   6 106 206
    # So 3 belongs to window 0, 5 to window 1, and of equals the first wins.
    #
    # Only windows up to this far before and behind can hold the same token.
    reach = tf.reduce_max((self.rooms - 1) // self.strides)
    others = tf.range(-reach, reach + 1)[:, tf.newaxis]  # [d, 1]
    starts = (self.numbers + others) * self.strides  # [d, w]
    lengths = tf.minimum(self.rooms, self.num_tokens - starts)
    # A window exists if the one before does not reach the end of the text.
    ends_before = starts - self.strides + self.rooms
    is_needed = (starts == 0) | (ends_before < self.num_tokens)
    exists = (starts >= 0) & is_needed
    lengths = lengths[..., tf.newaxis]  # [d, w, 1]
    left = tokens - starts[..., tf.newaxis]  # [d, w, s]
    right = lengths - 1 - left
    is_inside = exists[..., tf.newaxis] & (left >= 0) & (right >= 0)
    context = 100 * tf.minimum(left, right) + lengths
    context = tf.where(is_inside, context, -1)  # [d, w, s]
    here = context[reach]  # [w, s]
    is_largest = here >= tf.reduce_max(context, axis=0)
    is_first = here > tf.reduce_max(context[:reach], axis=0)
    return (here >= 0) & is_largest & is_first


# --- Models ------------------------------------------------------------------


class ServedModel(tf.Module):
  """A model with its signatures, which are methods with the same arguments.

  Attributes:
    model: The model, of a class in `modeling`.
    preprocessor: Turns texts into ids.
    settings: See `serving_settings.ServingSettings`.
  """

  _ids_spec = _IDS

  def __init__(
    self,
    model: Any,
    preprocessor: Preprocessor,
    settings: serving_settings.ServingSettings | None = None,
  ):
    super().__init__()
    self.model = model
    self.preprocessor = preprocessor
    self._settings = settings or serving_settings.ServingSettings()
    # All signatures share this graph, and the constants in it. As an attribute
    # it would be saved once more.
    graph = tf.function(
      model, input_signature=[self._ids_spec] * 3, autograph=False
    )
    self._call_in_graph = lambda *features: graph(*features)

  def signatures(self) -> dict[str, tf.types.experimental.ConcreteFunction]:
    """Returns name -> signature."""
    return {
      IDS: _signature(self.answer_ids, _IDS, _IDS, _IDS),
      TEXT: _signature(self.answer_texts, _TEXTS),
      TEXT_PAIR: _signature(self.answer_pairs, _TEXTS, _TEXTS),
    }

  def warmup_requests(self) -> dict[str, dict[str, Any]]:
    """Returns name of a signature -> a request that a server warms up with."""
    ids = tf.ones([1, 16], tf.int32)
    return {
      IDS: _features(ids, ids, tf.zeros_like(ids)),
      TEXT: {"text": ["a text"]},
      TEXT_PAIR: {"text_a": ["a text"], "text_b": ["another text"]},
    }

  def answer_ids(
    self,
    input_ids: tf.Tensor,
    input_mask: tf.Tensor,
    segment_ids: tf.Tensor,
  ) -> dict[str, tf.Tensor]:
    """Returns answers for ids, int32 [n, s] each."""
    features = _features(input_ids, input_mask, segment_ids)
    return self._name_outputs(self._run_model(features))

  def answer_texts(self, text: tf.Tensor) -> dict[str, tf.Tensor]:
    """Returns answers for texts, string [n]."""
    return self.answer_pairs(text, None)

  def answer_pairs(
    self, text_a: tf.Tensor, text_b: tf.Tensor | None
  ) -> dict[str, tf.Tensor]:
    """Returns answers for pairs of texts, string [n] each, or None for b."""
    features = self.preprocessor.preprocess(text_a, text_b)
    return self._name_outputs(self._run_model(features))

  def _run_model(self, features: Mapping[str, tf.Tensor]) -> Any:
    """Returns the output of the model for ids whose length is checked."""
    encoder = getattr(self.model, "bert", self.model)
    longest = encoder.config.max_position_embeddings
    ids = features["input_ids"]
    check = tf.debugging.assert_less_equal(
      tf.shape(ids)[-1], longest, f"The model reads at most {longest} tokens."
    )
    with tf.control_dependencies([check]):
      ids = tf.identity(ids)
    # Without a graph, a single request is answered sooner.
    call = self.model if tf.executing_eagerly() else self._call_in_graph
    return call(ids, features["input_mask"], features["segment_ids"])

  def _name_outputs(self, output: Any) -> dict[str, tf.Tensor]:
    """Returns the answers of a signature for an output of the model."""
    raise NotImplementedError


def _signature(method, *specs: tf.TensorSpec):
  """Returns a method as a signature whose inputs have the names of its own."""

  # Reshapes, maxima and the like fail without rows. One row is answered in
  # their place, and taken away again.
  @functools.wraps(method)
  def answer(*inputs: tf.Tensor) -> dict[str, tf.Tensor]:
    num_rows = tf.shape(inputs[0])[0]
    outputs = method(*map(_replace_no_rows, inputs))
    return {name: value[:num_rows] for name, value in outputs.items()}

  return tf.function(
    answer, input_signature=specs, autograph=False
  ).get_concrete_function()


def _replace_no_rows(values: tf.Tensor) -> tf.Tensor:
  """Returns values [n, ...]; if n is 0, one row of zeros or empty texts."""
  shape = tf.shape(values)
  result = tf.cond(
    shape[0] > 0,
    lambda: values,
    lambda: tf.zeros(tf.maximum(shape, 1), values.dtype),
  )
  return tf.ensure_shape(result, values.shape)


def _features(
  input_ids: tf.Tensor, input_mask: tf.Tensor, segment_ids: tf.Tensor
) -> dict[str, tf.Tensor]:
  return {
    "input_ids": input_ids,
    "input_mask": input_mask,
    "segment_ids": segment_ids,
  }


class ServedEncoder(ServedModel):
  """Features of texts, and a layer that other programs can train.

  Follows TF Hub's interface of text encoders: `vocab_file` and `do_lower_case`
  are attributes of the published encoders of BERT.
  """

  # A module computes these on demand, and computed values are not saved.
  variables = trainable_variables = None

  def __init__(
    self,
    model: modeling.BertModel,
    preprocessor: Preprocessor,
    settings: serving_settings.ServingSettings | None = None,
  ):
    super().__init__(model, preprocessor, settings)
    self.variables = list(model.variables)
    self.trainable_variables = list(model.trainable_variables)
    self.regularization_losses: list[Any] = []
    self.vocab_file = preprocessor.vocab_file
    self.do_lower_case = preprocessor.do_lower_case
    inputs = {
      name: tf.TensorSpec([None, None], tf.int32, name)
      for name in ("input_word_ids", "input_mask", "input_type_ids")
    }
    for training in (False, True):
      self.__call__.get_concrete_function(inputs, training=training)

  @tf.function(autograph=False)
  def __call__(
    self, inputs: Mapping[str, tf.Tensor], training: bool = False
  ) -> dict[str, Any]:
    """Encodes sequences.

    Args:
      inputs: `input_word_ids`, `input_mask` and `input_type_ids`, int32 [n, s].
      training: Whether to apply dropout.

    Returns:
      `pooled_output` and `default`, float32 [n, hidden_size], unless the model
      has no pooler; `sequence_output`, float32 [n, s, hidden_size];
      `encoder_outputs`, a list of the same shape for each layer.
    """
    seed = None
    if training:
      seed = tf.random.uniform([2], maxval=tf.int32.max, dtype=tf.int32)
    output = self.model(
      inputs["input_word_ids"],
      inputs["input_mask"],
      inputs["input_type_ids"],
      seed,
    )
    answers = self._name_outputs(output)
    layers = [tf.cast(x, tf.float32) for x in output.all_encoder_layers]
    if "pooled_output" in answers:
      answers["default"] = answers["pooled_output"]
    return {**answers, "encoder_outputs": layers}

  def answer_pairs(self, text_a, text_b):
    """Returns features of pairs, with their ids: a caller has no tokenizer."""
    features = self.preprocessor.preprocess(text_a, text_b)
    return {**self._name_outputs(self._run_model(features)), **features}

  def _name_outputs(self, output):
    answers = {"sequence_output": tf.cast(output.sequence_output, tf.float32)}
    if output.pooled_output is not None:
      answers["pooled_output"] = tf.cast(output.pooled_output, tf.float32)
    return answers


class ServedClassifier(ServedModel):
  """Labels or numbers for texts, by a `BertForSequenceClassification`."""

  def answer_pairs(self, text_a, text_b):
    """Returns answers for pairs of texts of any length, string [n] each."""
    ids_a, ids_b = self.preprocessor.tokenize_pairs(text_a, text_b)
    lengths = self.preprocessor.truncated_lengths(ids_a, ids_b)
    if self._settings.long_text == encoding.SLIDING_WINDOW:
      logits = self._mean_logits_of_windows(ids_a, ids_b, lengths)
      return self._name_outputs(logits)
    keep_tail = self._settings.long_text == encoding.HEAD_TAIL
    features = self.preprocessor.build_sequences(
      _truncate(ids_a, lengths.a, keep_tail),
      _truncate(ids_b, lengths.b, keep_tail),
    )
    return self._name_outputs(self._run_model(features))

  def _mean_logits_of_windows(
    self,
    ids_a: tf.RaggedTensor,
    ids_b: tf.RaggedTensor,
    lengths: PairLengths,
  ) -> tf.Tensor:
    """Returns logits [n, num_labels], means over windows of the longer text.

    Args:
      ids_a: Ids of the first texts, ragged int32 [n, (t)].
      ids_b: Ids of the second texts, ragged int32 [n, (t)].
      lengths: Numbers of ids of both that fit into a sequence.
    """
    num_ids_a, num_ids_b = ids_a.row_lengths(), ids_b.row_lengths()
    cuts_a = num_ids_a >= num_ids_b  # [n]
    rooms = tf.where(cuts_a, lengths.a, lengths.b)
    windows = _TokenWindows.cut(
      num_tokens=tf.where(cuts_a, num_ids_a, num_ids_b),
      rooms=rooms,
      strides=tf.maximum(rooms // 2, 1),  # windows overlap by half
      last_is_full=True,
    )
    # From one value for each text to one for each window. The text that is
    # not cut into windows is the same in all of them.
    texts = windows.texts
    cuts_a = tf.gather(cuts_a, texts)  # [w]
    whole_a, whole_b = tf.gather(lengths.a, texts), tf.gather(lengths.b, texts)
    starts_a = tf.where(cuts_a, windows.starts, 0)
    starts_b = tf.where(~cuts_a, windows.starts, 0)
    lengths_a = tf.where(cuts_a, windows.lengths, whole_a)
    lengths_b = tf.where(cuts_a, whole_b, windows.lengths)
    features = self.preprocessor.build_sequences(
      _slice_rows(ids_a, texts, starts_a, lengths_a),
      _slice_rows(ids_b, texts, starts_b, lengths_b),
    )
    logits = self._run_model(features)  # [w, num_labels]
    return tf.math.unsorted_segment_mean(logits, texts, ids_a.nrows())

  def _name_outputs(self, output):
    """Returns answers for logits [n, num_labels]."""
    if self._settings.problem_type == heads.REGRESSION:
      return {"value": output[:, 0]}
    labels = tf.constant(list(self._settings.labels))
    answers = {
      "logits": output,
      "labels": tf.broadcast_to(labels, tf.shape(output)),
    }
    if self._settings.problem_type == heads.MULTI_LABEL:
      return {**answers, "probabilities": tf.sigmoid(output)}
    return {
      **answers,
      "probabilities": tf.nn.softmax(output),
      "label": tf.gather(labels, tf.argmax(output, axis=-1)),
    }


class ServedChooser(ServedModel):
  """The choice that fits a context best, by a `BertForMultipleChoice`."""

  _ids_spec = _IDS_OF_CHOICES

  def signatures(self):
    ids = [_IDS_OF_CHOICES] * 3
    return {
      IDS: _signature(self.answer_ids, *ids),
      TEXT: _signature(self.answer_choices, _TEXTS, _CHOICES),
    }

  def warmup_requests(self):
    ids = tf.ones([1, 2, 16], tf.int32)
    return {
      IDS: _features(ids, ids, tf.zeros_like(ids)),
      TEXT: {"context": ["a text"], "choices": [["one", "another"]]},
    }

  def answer_choices(
    self, context: tf.Tensor, choices: tf.Tensor
  ) -> dict[str, tf.Tensor]:
    """Returns answers for contexts, string [n], with choices, string [n, c].

    A context with fewer choices than others has empty texts in their place,
    which get no probability.
    """
    num_texts, num_choices = tf.unstack(tf.shape(choices))
    features = self.preprocessor.preprocess(
      tf.repeat(context, num_choices), tf.reshape(choices, [-1])
    )
    shape = [num_texts, num_choices, -1]
    by_choice = {name: tf.reshape(x, shape) for name, x in features.items()}
    is_choice = tf.cast(choices != "", tf.int32)
    by_choice["input_mask"] *= is_choice[..., tf.newaxis]
    return self._name_outputs(self._run_model(by_choice))

  def _run_model(self, features):
    logits = super()._run_model(features)
    return heads.mask_missing_choices(logits, features["input_mask"])

  def _name_outputs(self, output):
    """Returns answers for logits [n, c]."""
    return {
      "logits": output,
      "probabilities": tf.nn.softmax(output),
      "choice": tf.argmax(output, axis=-1, output_type=tf.int32),
    }


# --- Tags --------------------------------------------------------------------


class _TokenizedWords(NamedTuple):
  """The words of n texts, w in all, with t tokens in all.

  Attributes:
    numbers: Number of the word of each token, through all texts, int32 [t].
    ranks: Number of each token in its word, int32 [t].
    rows: Text of each word, int64 [w].
    starts: Where each word begins in its text, in characters, int32 [w].
    ends: Where it ends, int32 [w].
    are_dropped: Whether the tokenizer leaves nothing of a word, bool [w].
  """

  numbers: tf.Tensor
  ranks: tf.Tensor
  rows: tf.Tensor
  starts: tf.Tensor
  ends: tf.Tensor
  are_dropped: tf.Tensor

  @classmethod
  def from_tokens(cls, tokens: graph_tokenization.Tokens) -> _TokenizedWords:
    """Returns the words that tokens are part of."""
    # tokens        un ##able to | to      of two texts
    # tokens.words   0   0     1 | 0
    # is_first       1   0     1   1
    # numbers        0   0     1   2
    # ranks          0   1     0   0
    words, rows = tokens.words.flat_values, tokens.words.value_rowids()
    num_tokens = tf.size(words)
    differs = (words[1:] != words[:-1]) | (rows[1:] != rows[:-1])
    is_first = tf.concat([[True], differs], axis=0)[:num_tokens]
    numbers = tf.cumsum(tf.cast(is_first, tf.int32)) - 1
    first_tokens = tf.cast(tf.where(is_first)[:, 0], tf.int32)  # [w]
    return cls(
      numbers=numbers,
      ranks=tf.range(num_tokens) - tf.gather(first_tokens, numbers),
      rows=tf.gather(rows, first_tokens),
      starts=tf.gather(tokens.starts.flat_values, first_tokens),
      ends=tf.math.unsorted_segment_max(
        tokens.ends.flat_values, numbers, tf.size(first_tokens)
      ),
      are_dropped=tf.gather(tokens.are_dropped.flat_values, first_tokens) > 0,
    )


class ServedTagger(ServedModel):
  """Tags of words, by a `BertForTokenClassification`."""

  def signatures(self):
    return {
      IDS: _signature(self.answer_ids, _IDS, _IDS, _IDS),
      TEXT: _signature(self.answer_texts, _TEXTS),
    }

  def warmup_requests(self):
    requests = super().warmup_requests()
    del requests[TEXT_PAIR]
    return requests

  def answer_texts(self, text):
    """Returns the tags of texts, string [n], with white space between words.

    Texts may be of any length. Rows of fewer words are filled with empty
    strings and zeros.
    """
    text = graph_tokenization.drop_invalid_bytes(text)
    tokens = self.preprocessor.tokenizer(text, keep_dropped_words=True)
    words = _TokenizedWords.from_tokens(tokens)
    probabilities = self._word_probabilities(tokens.ids, words)  # [words, tags]
    labels = self._settings.labels
    if metrics.OUTSIDE in labels:
      # The model cannot see these words, so they are outside of entities.
      outside = tf.one_hot(labels.index(metrics.OUTSIDE), len(labels))
      is_dropped = words.are_dropped[:, tf.newaxis]
      probabilities = tf.where(is_dropped, outside, probabilities)
    tags = tf.gather(
      list(self._settings.labels), tf.argmax(probabilities, axis=-1)
    )
    written = tf.strings.substr(
      tf.gather(text, words.rows),
      words.starts,
      words.ends - words.starts,
      unit="UTF8_CHAR",
    )

    def by_text(values):
      rows = tf.RaggedTensor.from_value_rowids(
        values, words.rows, tf.shape(text, tf.int64)[0], validate=False
      )
      return rows.to_tensor()

    return {
      "words": by_text(written),
      "starts": by_text(words.starts),
      "ends": by_text(words.ends),
      "tags": by_text(tags),
      "probabilities": by_text(tf.reduce_max(probabilities, axis=-1)),
    }

  def _word_probabilities(
    self, ids: tf.RaggedTensor, words: _TokenizedWords
  ) -> tf.Tensor:
    """Returns the probability of each tag, float32 [words, tags].

    Args:
      ids: Ids of texts, ragged int32 [n, (t)].
      words: Their words.
    """
    # The tag of a word is that of its first token. Words of many tokens are
    # cut, as in training.
    is_kept = ids.with_flat_values(words.ranks < ner.MAX_PIECES)
    word_or_none = tf.where(words.ranks == 0, words.numbers, -1)
    word_or_none = tf.ragged.boolean_mask(
      ids.with_flat_values(word_or_none), is_kept
    )
    ids = tf.ragged.boolean_mask(ids, is_kept)

    room = self.preprocessor.max_seq_length - 2  # for [CLS] and [SEP]
    rooms = tf.fill([ids.nrows()], tf.cast(room, tf.int64))
    windows = _TokenWindows.cut(
      ids.row_lengths(), rooms, strides=tf.maximum(rooms // 2, 1)
    )
    window_ids = windows.slice_tokens(ids)
    features = self.preprocessor.build_sequences(window_ids, window_ids[:, :0])
    logits = self._run_model(features)[:, 1:-1]  # [w, s, tags]
    probabilities = tf.nn.softmax(logits)

    # Each word is read in the window where its first token has most context.
    word_or_none = windows.slice_tokens(word_or_none).to_tensor(-1)  # [w, s]
    columns = tf.range(tf.shape(word_or_none, tf.int64)[1])
    places = windows.starts[:, tf.newaxis] + columns
    is_read = (word_or_none >= 0) & windows.is_max_context(places)
    places_read = tf.where(is_read)  # [words, 2]
    word_numbers = tf.gather_nd(word_or_none, places_read)
    return tf.scatter_nd(
      word_numbers[:, tf.newaxis],
      tf.gather_nd(probabilities, places_read),
      tf.stack([tf.size(words.rows), len(self._settings.labels)]),
    )

  def _name_outputs(self, output):
    return {"logits": output}


# --- Answers to questions ----------------------------------------------------


class _BestSpans(NamedTuple):
  """The best span of each window.

  Attributes:
    scores: float32 [w]; `_IMPOSSIBLE` if the window has no possible span.
    first: First token of the span in its text, int64 [w].
    last: Its last token, int64 [w].
  """

  scores: tf.Tensor
  first: tf.Tensor
  last: tf.Tensor


class ServedSpanFinder(ServedModel):
  """Answers that are spans of a text, by a `BertForQuestionAnswering`."""

  def signatures(self):
    return {
      IDS: _signature(self.answer_ids, _IDS, _IDS, _IDS),
      TEXT: _signature(self.answer_questions, _TEXTS, _TEXTS),
    }

  def warmup_requests(self):
    return {
      IDS: super().warmup_requests()[IDS],
      TEXT: {"question": ["a question"], "context": ["a text"]},
    }

  def answer_questions(
    self, question: tf.Tensor, context: tf.Tensor
  ) -> dict[str, tf.Tensor]:
    """Returns answers about contexts of any length, string [n] each."""
    settings = self._settings
    query_ids = self.preprocessor.tokenizer(question).ids
    query_ids = query_ids[:, : settings.max_query_length]
    context = graph_tokenization.drop_invalid_bytes(context)
    tokens = self.preprocessor.tokenizer(context)
    # [CLS] query [SEP] window [SEP]
    rooms = self.preprocessor.max_seq_length - 3 - query_ids.row_lengths()
    doc_stride = tf.cast(settings.doc_stride, tf.int64)
    windows = _TokenWindows.cut(
      tokens.ids.row_lengths(), rooms, tf.minimum(rooms, doc_stride)
    )
    query_ids = tf.gather(query_ids, windows.texts)  # [w, (t)]
    features = self.preprocessor.build_sequences(
      query_ids, windows.slice_tokens(tokens.ids)
    )
    start_logits, end_logits = self._run_model(features)  # [w, s] each
    spans = self._best_spans(
      start_logits, end_logits, windows, query_ids.row_lengths() + 2
    )
    num_texts = tf.size(question, tf.int64)
    best = _best_windows(spans.scores, windows.texts, num_texts)  # [n]
    score = tf.gather(spans.scores, best)
    exists = score > _IMPOSSIBLE
    start = _at_tokens(tokens.starts, tf.gather(spans.first, best), exists)
    end = _at_tokens(tokens.ends, tf.gather(spans.last, best), exists)
    answer = tf.strings.substr(context, start, end - start, unit="UTF8_CHAR")
    # The score of no answer is that of `[CLS]` in the window where it is worst.
    null_scores = start_logits[:, 0] + end_logits[:, 0]
    return {
      "answer": tf.strings.regex_replace(answer, r"\s+", " "),
      "start": start,
      "end": end,
      "score": score,
      "null_score": tf.math.unsorted_segment_min(
        null_scores, windows.texts, num_texts
      ),
    }

  def _best_spans(
    self,
    start_logits: tf.Tensor,
    end_logits: tf.Tensor,
    windows: _TokenWindows,
    offsets: tf.Tensor,
  ) -> _BestSpans:
    """Returns the best span of each window, as `tasks.squad` chooses it.

    Args:
      start_logits: float32 [w, s].
      end_logits: float32 [w, s].
      windows: The windows.
      offsets: Place in its sequence of the first token of each window, int64
        [w].
    """
    # places      0    1   2    3    4   5   6   7    8
    # sequence  [CLS]  q   q  [SEP]  t3  t4  t5  t6  [SEP]
    # tokens     -1    0   1    2    3   4   5   6    7
    # for a window that begins with token 3, whose offset is 4: the token at a
    # place is place + 3 - 4. Tokens before 3 and after 6 are not in the window.
    settings = self._settings
    num_best = tf.minimum(settings.n_best_size, tf.shape(start_logits)[1])
    start_logits, start_places = tf.math.top_k(start_logits, num_best)
    end_logits, end_places = tf.math.top_k(end_logits, num_best)  # [w, k]
    shift = (windows.starts - offsets)[:, tf.newaxis]  # [w, 1]
    first = tf.cast(start_places, tf.int64) + shift
    last = tf.cast(end_places, tf.int64) + shift
    window_starts = windows.starts[:, tf.newaxis]
    window_ends = window_starts + windows.lengths[:, tf.newaxis]
    may_end = (last >= window_starts) & (last < window_ends)
    may_start = windows.is_max_context(first)

    # All pairs of a start (rows) and an end (columns): [w, k, k].
    may_start, may_end = may_start[..., tf.newaxis], may_end[:, tf.newaxis]
    lengths = last[:, tf.newaxis] - first[..., tf.newaxis] + 1
    fits = (lengths > 0) & (lengths <= settings.max_answer_length)
    scores = start_logits[..., tf.newaxis] + end_logits[:, tf.newaxis]
    scores = tf.where(may_start & may_end & fits, scores, _IMPOSSIBLE)

    # The best pair, by its number in reading order.
    scores = tf.reshape(scores, [-1, num_best * num_best])
    best = tf.argmax(scores, axis=1, output_type=tf.int32)  # [w]
    return _BestSpans(
      scores=tf.reduce_max(scores, axis=1),
      first=tf.gather(first, best // num_best, batch_dims=1),
      last=tf.gather(last, best % num_best, batch_dims=1),
    )

  def _name_outputs(self, output):
    start_logits, end_logits = output
    return {"start_logits": start_logits, "end_logits": end_logits}


def _best_windows(
  scores: tf.Tensor, texts: tf.Tensor, num_texts: tf.Tensor
) -> tf.Tensor:
  """Returns the window with the highest score of each text, int64 [n].

  Args:
    scores: Score of each window, float32 [w].
    texts: Text of each window, int64 [w].
    num_texts: Number of texts, int64.
  """
  by_text = tf.RaggedTensor.from_value_rowids(
    scores, texts, num_texts, validate=False
  )
  padded = by_text.to_tensor(2 * _IMPOSSIBLE)  # [n, most windows of a text]
  return by_text.row_starts() + tf.argmax(padded, axis=1)


def _at_tokens(
  values: tf.RaggedTensor, tokens: tf.Tensor, exists: tf.Tensor
) -> tf.Tensor:
  """Returns values at one token of each text, int32 [n]; 0 without a token.

  Args:
    values: A value for each token, ragged int32 [n, (t)].
    tokens: Number of a token in each text, int64 [n].
    exists: Whether there is such a token, bool [n].
  """
  with_zero = tf.concat([values.flat_values, [0]], axis=0)
  place_of_zero = tf.size(with_zero, tf.int64) - 1
  places = tf.where(exists, values.row_starts() + tokens, place_of_zero)
  return tf.gather(with_zero, places)
