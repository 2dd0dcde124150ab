"""Models that answer requests: signatures that take ids, or raw text.

A SavedModel holds its own code. These modules put into it what the programs do
around a model in Python: tokenizing, packing, cutting into windows, and saying
by name what was predicted. Batch size and length are free; every input and
output has one row for each text, so a server may put requests together.

The encoder has the interface of TF Hub's text encoders besides, so that other
programs can go on training it.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import tensorflow as tf

from data import encoding
import modeling
from serving import graph_tokenization
from tasks import classification
from tasks import classifier_config
from tasks import ner
import tokenization

# The signatures: of ids, of texts, of pairs of texts.
IDS = tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY
TEXT = "text"
TEXT_PAIR = "text_pair"

# The score of an answer that cannot be one. Infinity is no number in JSON.
_IMPOSSIBLE = -1e9

_IDS = tf.TensorSpec([None, None], tf.int32)
_TEXTS = tf.TensorSpec([None], tf.string)


# --- From texts to ids -------------------------------------------------------


class Reader(tf.Module):
  """Makes of texts what a model reads.

  Attributes:
    vocab_file: the vocabulary, a file of the SavedModel.
    do_lower_case: whether text is lower-cased, a bool variable.
    max_seq_length: most tokens of a sequence.
    tokenizer: the tokenizer, in a graph.
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
    self._cls_id, self._sep_id = tokenizer.convert_tokens_to_ids(
      ["[CLS]", "[SEP]"]
    )

  def read(self, texts_a, texts_b=None) -> dict[str, tf.Tensor]:
    """Returns `input_ids`, `input_mask` and `segment_ids`, int32 [n, s].

    Texts that are too long are cut as `encoding.encode_pair` cuts them. Where
    the second text is empty, the first is alone.
    """
    ids_a, ids_b = self.ids(texts_a, texts_b)
    length_a, length_b = self.lengths(ids_a, ids_b)
    return self.pack(_keep(ids_a, length_a), _keep(ids_b, length_b))

  def ids(self, texts_a, texts_b=None):
    """Returns ids of texts, ragged int32 [n, (t)]; no texts are empty ones."""
    ids_a = self.tokenizer(texts_a).ids
    if texts_b is None:
      return ids_a, ids_a[:, :0]
    return ids_a, self.tokenizer(texts_b).ids

  def lengths(self, ids_a, ids_b):
    """Returns the lengths that pairs are cut to, int64 [n] each.

    As `encoding.truncate_pair` has them.
    """
    length_a, length_b = ids_a.row_lengths(), ids_b.row_lengths()
    room = self.max_seq_length - tf.where(
      length_b > 0, tf.constant(3, tf.int64), 2
    )
    excess = tf.maximum(length_a + length_b - room, 0)
    cut_a = tf.minimum(excess, tf.maximum(length_a - length_b, 0))
    cut_b = tf.minimum(excess, tf.maximum(length_b - length_a, 0))
    rest = excess - cut_a - cut_b
    return length_a - cut_a - rest // 2, length_b - cut_b - (rest + 1) // 2

  def pack(self, ids_a, ids_b) -> dict[str, tf.Tensor]:
    """Returns `[CLS] a [SEP]`, or `[CLS] a [SEP] b [SEP]` where b has ids."""
    num_rows = ids_a.nrows()
    column = tf.fill(tf.stack([num_rows, 1]), self._sep_id)
    ends_b = tf.RaggedTensor.from_row_lengths(
      tf.fill([tf.math.count_nonzero(ids_b.row_lengths())], self._sep_id),
      tf.cast(ids_b.row_lengths() > 0, tf.int64),
      validate=False,
    )
    ids = tf.concat(
      [tf.zeros_like(column) + self._cls_id, ids_a, column, ids_b, ends_b],
      axis=1,
    )
    places = tf.ragged.range(ids.row_lengths())
    first_b = tf.gather(ids_a.row_lengths() + 2, ids.value_rowids())
    segments = ids.with_flat_values(
      tf.cast(places.flat_values >= first_b, tf.int32)
    )
    return {
      "input_ids": ids.to_tensor(),
      "input_mask": tf.ones_like(ids).to_tensor(),
      "segment_ids": segments.to_tensor(),
    }


def _keep(ids: tf.RaggedTensor, lengths, has_tail=False) -> tf.RaggedTensor:
  """Cuts rows to `lengths`; see `encoding.HEAD_TAIL` for the tail."""
  places = tf.ragged.range(ids.row_lengths()).flat_values
  rows = ids.value_rowids()
  heads = lengths
  if has_tail:
    heads = tf.where(ids.row_lengths() > lengths, lengths // 4, lengths)
  tails = ids.row_lengths() - (lengths - heads)
  return tf.RaggedTensor.from_row_lengths(
    tf.boolean_mask(
      ids.flat_values,
      (places < tf.gather(heads, rows)) | (places >= tf.gather(tails, rows)),
    ),
    lengths,
    validate=False,
  )


def _stretches(
  tokens: tf.RaggedTensor, texts, starts, lengths
) -> tf.RaggedTensor:
  """Returns tokens of texts [n, (t)], from `starts` on: [w, (lengths)]."""
  first = tf.gather(tokens.row_starts(), texts) + starts
  places = tf.ragged.range(first, first + lengths)
  return places.with_flat_values(
    tf.gather(tokens.flat_values, places.flat_values)
  )


class _Windows(NamedTuple):
  """Stretches of texts, w in all; those of a text come one after another.

  All int64 [w].

  Attributes:
    texts: the number of the text of each.
    numbers: its number among those of the text.
    starts: the token that it begins with.
    lengths: how many tokens it has.
    num_tokens: how many its text has.
    rooms: the most tokens of a window.
    strides: how far windows are from each other.
  """

  texts: tf.Tensor
  numbers: tf.Tensor
  starts: tf.Tensor
  lengths: tf.Tensor
  num_tokens: tf.Tensor
  rooms: tf.Tensor
  strides: tf.Tensor

  @classmethod
  def cut(cls, num_tokens, rooms, strides, reaches_end=False) -> "_Windows":
    """Cuts windows of `rooms` tokens, each `strides` after the last.

    Args:
      num_tokens: of each text, int64 [n]; one without tokens has one window.
      rooms: int64 [n].
      strides: int64 [n].
      reaches_end: whether the last window is as long as the others, and starts
        where it then has to.
    """
    numbers = tf.ragged.range(
      1 + tf.maximum(-((rooms - num_tokens) // strides), 0)
    )
    texts = numbers.value_rowids()
    num_tokens, rooms, strides = (
      tf.gather(x, texts) for x in (num_tokens, rooms, strides)
    )
    starts = numbers.flat_values * strides
    if reaches_end:
      starts = tf.minimum(starts, tf.maximum(num_tokens - rooms, 0))
    return cls(
      texts,
      numbers.flat_values,
      starts,
      tf.minimum(rooms, num_tokens - starts),
      num_tokens,
      rooms,
      strides,
    )

  def of(self, tokens: tf.RaggedTensor) -> tf.RaggedTensor:
    """Returns what the windows have of tokens [n, (t)]: [w, (t)]."""
    return _stretches(tokens, self.texts, self.starts, self.lengths)

  def is_max_context(self, tokens):
    """Whether tokens have more context there than in any other window.

    By the rule of `sliding_windows.cut_windows`, for windows of `cut` that do
    not reach the end.

    Args:
      tokens: their numbers in their texts, int64 [w, s].

    Returns:
      bool [w, s]; False for a token that is not in the window.
    """
    # No other windows have the token than those so far before and behind.
    reach = tf.reduce_max((self.rooms - 1) // self.strides)
    others = tf.range(-reach, reach + 1)[:, tf.newaxis]  # [d, 1]
    starts = (self.numbers + others) * self.strides  # [d, w]
    lengths = tf.minimum(self.rooms, self.num_tokens - starts)
    exists = (starts >= 0) & (
      (starts == 0) | (starts - self.strides + self.rooms < self.num_tokens)
    )
    left = tokens - starts[..., tf.newaxis]  # [d, w, s]
    right = lengths[..., tf.newaxis] - 1 - left
    context = tf.where(
      exists[..., tf.newaxis] & (left >= 0) & (right >= 0),
      100 * tf.minimum(left, right) + lengths[..., tf.newaxis],
      -1,
    )
    here = context[reach]
    return (
      (here >= 0)
      & (here >= tf.reduce_max(context, axis=0))
      & (here > tf.reduce_max(context[:reach], axis=0))
    )


# --- Models ------------------------------------------------------------------


class _Served(tf.Module):
  """A model with its signatures, which are methods of the same arguments.

  Attributes:
    model: what computes.
    reader: what makes ids of texts.
  """

  def __init__(self, model: tf.Module, reader: Reader):
    super().__init__()
    self.model = model
    self.reader = reader

  def signatures(self) -> dict[str, tf.types.experimental.ConcreteFunction]:
    """Returns the signatures by name."""
    return {
      IDS: _signature(self.of_ids, _IDS, _IDS, _IDS),
      TEXT: _signature(self.of_text, _TEXTS),
      TEXT_PAIR: _signature(self.of_pair, _TEXTS, _TEXTS),
    }

  def requests(self) -> dict[str, dict[str, object]]:
    """Returns a request for each signature, to warm up with."""
    ids = tf.ones([1, 16], tf.int32)
    return {
      IDS: _features(ids, ids, tf.zeros_like(ids)),
      TEXT: {"text": ["a text"]},
      TEXT_PAIR: {"text_a": ["a text"], "text_b": ["another text"]},
    }

  def of_ids(self, input_ids, input_mask, segment_ids):
    """Answers ids, int32 [n, s] each."""
    return self._answers(
      self._compute(_features(input_ids, input_mask, segment_ids))
    )

  def of_text(self, text):
    """Answers texts, string [n]."""
    return self.of_pair(text, None)

  def of_pair(self, text_a, text_b):
    """Answers pairs of texts, string [n] each; `text_b` is None for none."""
    return self._answers(self._compute(self.reader.read(text_a, text_b)))

  def _compute(self, features):
    """Returns what the model makes of ids, after checking their length."""
    encoder = getattr(self.model, "bert", self.model)
    most = encoder.config.max_position_embeddings
    ids = features["input_ids"]
    with tf.control_dependencies(
      [
        tf.debugging.assert_less_equal(
          tf.shape(ids)[-1], most, f"The model reads {most} tokens at most."
        )
      ]
    ):
      ids = tf.identity(ids)
    return self.model(ids, features["input_mask"], features["segment_ids"])

  def _answers(self, output) -> dict[str, tf.Tensor]:
    """Returns what a signature gives for what the model gives."""
    raise NotImplementedError


def _signature(method, *specs: tf.TensorSpec):
  return tf.function(method, input_signature=specs).get_concrete_function()


def _features(input_ids, input_mask, segment_ids) -> dict[str, tf.Tensor]:
  return {
    "input_ids": input_ids,
    "input_mask": input_mask,
    "segment_ids": segment_ids,
  }


class Encoder(_Served):
  """Features of texts, and a layer that other programs can train.

  Follows TF Hub's interface of text encoders. `vocab_file` and `do_lower_case`
  are where the encoders have them that were published for BERT.
  """

  # A module computes these when asked, and what is computed is not saved.
  variables = trainable_variables = None

  def __init__(self, model: modeling.BertModel, reader: Reader):
    super().__init__(model, reader)
    self.variables = list(model.variables)
    self.trainable_variables = list(model.trainable_variables)
    self.regularization_losses = []
    self.vocab_file = reader.vocab_file
    self.do_lower_case = reader.do_lower_case
    inputs = {
      name: tf.TensorSpec([None, None], tf.int32, name)
      for name in ("input_word_ids", "input_mask", "input_type_ids")
    }
    for training in (False, True):
      self.__call__.get_concrete_function(inputs, training=training)

  @tf.function
  def __call__(self, inputs: Mapping[str, tf.Tensor], training: bool = False):
    """Encodes sequences.

    Args:
      inputs: `input_word_ids`, `input_mask` and `input_type_ids`, int32 [n, s].
      training: whether to apply dropout.

    Returns:
      `pooled_output` and `default`, float32 [n, hidden_size];
      `sequence_output`, float32 [n, s, hidden_size]; `encoder_outputs`, a list
      of the same shape for each layer.
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
    answers = self._answers(output)
    return {
      **answers,
      "default": answers["pooled_output"],
      "encoder_outputs": [
        tf.cast(x, tf.float32) for x in output.all_encoder_layers
      ],
    }

  def of_pair(self, text_a, text_b):
    """As `of_ids`, with the features: a caller does not know the tokens."""
    features = self.reader.read(text_a, text_b)
    return {**self._answers(self._compute(features)), **features}

  def _answers(self, output):
    return {
      "pooled_output": tf.cast(output.pooled_output, tf.float32),
      "sequence_output": tf.cast(output.sequence_output, tf.float32),
    }


class Classifier(_Served):
  """Labels of texts, or numbers.

  Args:
    model: a `modeling.BertForSequenceClassification`.
    reader: of its texts.
    classifier: what it predicts.
  """

  def __init__(
    self, model, reader: Reader, classifier: classifier_config.ClassifierConfig
  ):
    super().__init__(model, reader)
    self._problem_type = classifier.problem_type
    self._labels = list(classifier.labels)
    self._long_text = classifier.long_text

  def of_pair(self, text_a, text_b):
    """Answers pairs of texts, string [n] each, whatever their length."""
    ids_a, ids_b = self.reader.ids(text_a, text_b)
    lengths = self.reader.lengths(ids_a, ids_b)
    if self._long_text != encoding.SLIDING_WINDOW:
      has_tail = self._long_text == encoding.HEAD_TAIL
      return self._answers(
        self._compute(
          self.reader.pack(
            *(
              _keep(ids, length, has_tail)
              for ids, length in zip((ids_a, ids_b), lengths)
            )
          )
        )
      )
    # The longer one is read in windows that overlap by half.
    length_a, length_b = lengths
    is_a = ids_a.row_lengths() >= ids_b.row_lengths()
    room = tf.where(is_a, length_a, length_b)
    windows = _Windows.cut(
      tf.where(is_a, ids_a.row_lengths(), ids_b.row_lengths()),
      room,
      tf.maximum(room // 2, 1),
      reaches_end=True,
    )
    texts = windows.texts
    is_a = tf.gather(is_a, texts)
    logits = self._compute(
      self.reader.pack(
        _stretches(
          ids_a,
          texts,
          tf.where(is_a, windows.starts, 0),
          tf.where(is_a, windows.lengths, tf.gather(length_a, texts)),
        ),
        _stretches(
          ids_b,
          texts,
          tf.where(~is_a, windows.starts, 0),
          tf.where(is_a, tf.gather(length_b, texts), windows.lengths),
        ),
      )
    )
    return self._answers(
      tf.math.unsorted_segment_mean(logits, texts, ids_a.nrows())
    )

  def _answers(self, output):
    """Returns answers for logits [n, num_labels]."""
    if self._problem_type == classification.REGRESSION:
      return {"value": output[:, 0]}
    shape = tf.shape(output)
    answers = {
      "logits": output,
      "labels": tf.broadcast_to(tf.constant(self._labels), shape),
    }
    if self._problem_type == classification.MULTI_LABEL:
      return {**answers, "probabilities": tf.sigmoid(output)}
    return {
      **answers,
      "probabilities": tf.nn.softmax(output),
      "label": tf.gather(self._labels, tf.argmax(output, axis=-1)),
    }


class Chooser(_Served):
  """Which of several choices fits a context.

  Args:
    model: a `modeling.BertForMultipleChoice`.
    reader: of its texts.
  """

  def signatures(self):
    return {
      IDS: _signature(
        self.of_ids, *[tf.TensorSpec([None, None, None], tf.int32)] * 3
      ),
      TEXT: _signature(
        self.of_choices, _TEXTS, tf.TensorSpec([None, None], tf.string)
      ),
    }

  def requests(self):
    ids = tf.ones([1, 2, 16], tf.int32)
    return {
      IDS: _features(ids, ids, tf.zeros_like(ids)),
      TEXT: {"context": ["a text"], "choices": [["one", "another"]]},
    }

  def of_choices(self, context, choices):
    """Answers contexts, string [n], with choices, string [n, c]."""
    shape = tf.shape(choices)
    features = self.reader.read(
      tf.repeat(context, shape[1]), tf.reshape(choices, [-1])
    )
    return self._answers(
      self._compute(
        {
          name: tf.reshape(ids, [shape[0], shape[1], -1])
          for name, ids in features.items()
        }
      )
    )

  def _answers(self, output):
    return {
      "logits": output,
      "probabilities": tf.nn.softmax(output),
      "choice": tf.argmax(output, axis=-1, output_type=tf.int32),
    }


class Tagger(_Served):
  """Tags of words.

  Args:
    model: a `modeling.BertForTokenClassification`.
    reader: of its texts.
    tags: in the order of their ids.
  """

  def __init__(self, model, reader: Reader, tags: Sequence[str]):
    super().__init__(model, reader)
    self._tags = list(tags)

  def signatures(self):
    return {
      IDS: _signature(self.of_ids, _IDS, _IDS, _IDS),
      TEXT: _signature(self.of_text, _TEXTS),
    }

  def requests(self):
    requests = super().requests()
    del requests[TEXT_PAIR]
    return requests

  def of_text(self, text):
    """Answers texts, string [n], whose words have white space between them.

    Texts may be of any length. Rows of fewer words are filled with empty
    strings and zeros.
    """
    tokens = self.reader.tokenizer(text)
    words = _Words.of(tokens)
    # A word of many pieces is cut, for its tag is that of the first.
    kept = tokens.ids.with_flat_values(words.ranks < ner.MAX_PIECES)
    ids = tf.ragged.boolean_mask(tokens.ids, kept)
    word_or_none = tf.ragged.boolean_mask(
      tokens.ids.with_flat_values(
        tf.where(words.ranks == 0, words.numbers, -1)
      ),
      kept,
    )
    room = tf.cast(
      tf.fill(tf.shape(text), self.reader.max_seq_length - 2), tf.int64
    )
    windows = _Windows.cut(ids.row_lengths(), room, tf.maximum(room // 2, 1))
    ids = windows.of(ids)
    probabilities = tf.nn.softmax(
      self._compute(self.reader.pack(ids, ids[:, :0]))
    )[:, 1:-1]  # [w, s, tags]

    word_or_none = windows.of(word_or_none).to_tensor(-1)  # [w, s]
    places = windows.starts[:, tf.newaxis] + tf.range(
      tf.shape(word_or_none, tf.int64)[1]
    )
    counts = tf.where(
      (word_or_none >= 0) & windows.is_max_context(places)
    )  # [words, 2]
    num_words = tf.size(words.rows)
    probabilities = tf.scatter_nd(
      tf.gather_nd(word_or_none, counts)[:, tf.newaxis],
      tf.gather_nd(probabilities, counts),
      tf.stack([num_words, len(self._tags)]),
    )  # [words, tags]

    def by_text(values):
      return tf.RaggedTensor.from_value_rowids(
        values, words.rows, tf.shape(text, tf.int64)[0], validate=False
      ).to_tensor()

    return {
      "words": by_text(
        tf.strings.substr(
          tf.gather(text, words.rows),
          words.starts,
          words.ends - words.starts,
          unit="UTF8_CHAR",
        )
      ),
      "starts": by_text(words.starts),
      "ends": by_text(words.ends),
      "tags": by_text(tf.gather(self._tags, tf.argmax(probabilities, axis=-1))),
      "probabilities": by_text(tf.reduce_max(probabilities, axis=-1)),
    }

  def _answers(self, output):
    return {"logits": output}


class _Words(NamedTuple):
  """Words of n texts, w in all, with t tokens in all.

  Attributes:
    numbers: of the word of each token, through all texts, int32 [t].
    ranks: the number of each token in its word, int32 [t].
    rows: the text of each word, int64 [w].
    starts: where each word begins in its text, in characters, int32 [w].
    ends: where it ends, int32 [w].
  """

  numbers: tf.Tensor
  ranks: tf.Tensor
  rows: tf.Tensor
  starts: tf.Tensor
  ends: tf.Tensor

  @classmethod
  def of(cls, tokens: graph_tokenization.Tokens) -> "_Words":
    """Puts tokens together into words."""
    words, rows = tokens.words.flat_values, tokens.words.value_rowids()
    is_first = tf.concat(
      [[True], (words[1:] != words[:-1]) | (rows[1:] != rows[:-1])], axis=0
    )[: tf.size(words)]
    numbers = tf.cumsum(tf.cast(is_first, tf.int32)) - 1
    first = tf.cast(tf.where(is_first)[:, 0], tf.int32)
    return cls(
      numbers,
      tf.range(tf.size(words)) - tf.gather(first, numbers),
      tf.gather(rows, first),
      tf.gather(tokens.starts.flat_values, first),
      tf.math.unsorted_segment_max(
        tokens.ends.flat_values, numbers, tf.size(first)
      ),
    )


class SpanSettings(NamedTuple):
  """How answers are looked for; see `squad_answers.AnswerSettings`."""

  doc_stride: int = 128
  max_query_length: int = 64
  n_best_size: int = 20
  max_answer_length: int = 30


class SpanFinder(_Served):
  """Answers to questions, as stretches of a text.

  Args:
    model: a `modeling.BertForQuestionAnswering`.
    reader: of its texts.
    settings: how to look for them.
  """

  def __init__(self, model, reader: Reader, settings: SpanSettings):
    super().__init__(model, reader)
    self._settings = settings

  def signatures(self):
    return {
      IDS: _signature(self.of_ids, _IDS, _IDS, _IDS),
      TEXT: _signature(self.of_question, _TEXTS, _TEXTS),
    }

  def requests(self):
    return {
      IDS: super().requests()[IDS],
      TEXT: {"question": ["a question"], "context": ["a text"]},
    }

  def of_question(self, question, context):
    """Answers questions about contexts of any length, string [n] each."""
    settings = self._settings
    query = self.reader.tokenizer(question).ids[:, : settings.max_query_length]
    tokens = self.reader.tokenizer(context)
    room = self.reader.max_seq_length - 3 - query.row_lengths()
    windows = _Windows.cut(
      tokens.ids.row_lengths(),
      room,
      tf.minimum(room, tf.cast(settings.doc_stride, tf.int64)),
    )
    query = tf.gather(query, windows.texts)
    start_logits, end_logits = self._compute(
      self.reader.pack(query, windows.of(tokens.ids))
    )  # [w, s] each
    scores, first, last = self._best(
      start_logits, end_logits, windows, query.row_lengths() + 2
    )
    # Of the windows of a question, the one with the best answer.
    num_texts = tf.size(question, tf.int64)
    scores = tf.RaggedTensor.from_value_rowids(
      scores, windows.texts, num_texts, validate=False
    )
    best = scores.row_starts() + tf.argmax(
      scores.to_tensor(2 * _IMPOSSIBLE), axis=1
    )
    score = tf.gather(scores.flat_values, best)

    def character(token, of_tokens):
      """Where a token begins, or ends; 0 where there is no answer."""
      values = tf.concat([of_tokens.flat_values, [0]], axis=0)
      return tf.gather(
        values,
        tf.where(
          score > _IMPOSSIBLE,
          of_tokens.row_starts() + tf.gather(token, best),
          tf.size(values, tf.int64) - 1,
        ),
      )

    start, end = character(first, tokens.starts), character(last, tokens.ends)
    answer = tf.strings.substr(context, start, end - start, unit="UTF8_CHAR")
    return {
      "answer": tf.strings.regex_replace(answer, r"\s+", " "),
      "start": start,
      "end": end,
      "score": score,
      # How well no answer scores: by the window that says so least.
      "null_score": tf.math.unsorted_segment_min(
        start_logits[:, 0] + end_logits[:, 0], windows.texts, num_texts
      ),
    }

  def _best(self, start_logits, end_logits, windows: _Windows, offsets):
    """Returns the best answer of each window, as `squad_answers` does.

    Args:
      start_logits: float32 [w, s].
      end_logits: float32 [w, s].
      windows: w windows.
      offsets: of their tokens in the sequences, int64 [w].

    Returns:
      Scores, float32 [w], and the first and last tokens, int64 [w].
    """
    most = tf.minimum(self._settings.n_best_size, tf.shape(start_logits)[1])
    start_logits, starts = tf.math.top_k(start_logits, most)
    end_logits, ends = tf.math.top_k(end_logits, most)
    # From places in the sequence to tokens of the text.
    starts, ends = (
      tf.cast(x, tf.int64) + (windows.starts - offsets)[:, tf.newaxis]
      for x in (starts, ends)
    )
    may_start = windows.is_max_context(starts)
    may_end = (ends >= windows.starts[:, tf.newaxis]) & (
      ends < (windows.starts + windows.lengths)[:, tf.newaxis]
    )
    sizes = ends[:, tf.newaxis] - starts[..., tf.newaxis] + 1  # [w, k, k]
    may_be = (
      may_start[..., tf.newaxis]
      & may_end[:, tf.newaxis]
      & (sizes > 0)
      & (sizes <= self._settings.max_answer_length)
    )
    scores = tf.where(
      may_be,
      start_logits[..., tf.newaxis] + end_logits[:, tf.newaxis],
      _IMPOSSIBLE,
    )
    scores = tf.reshape(scores, [-1, most * most])
    best = tf.argmax(scores, axis=1, output_type=tf.int32)
    return (
      tf.reduce_max(scores, axis=1),
      tf.gather(starts, best // most, batch_dims=1),
      tf.gather(ends, best % most, batch_dims=1),
    )

  def _answers(self, output):
    return dict(zip(("start_logits", "end_logits"), output))
