"""Which words a classification rests on: gradient times input.

The gradient of a score with respect to the embedding of a token says how the
score changes with it (Simonyan et al., 2013). Its product with the embedding is
the share of the token in the score, to first order (Shrikumar et al., 2016).
Such shares are a hint, not a proof: a model is not linear.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from data import batching
from data import encoding
import heads
from tasks import classifier_config
import tokenization

# Tokens of a batch. The activations of all layers stay in memory for the
# gradient, and this many fit wherever a model can be trained.
_TOKENS_PER_BATCH = 1024
# Windows of one text; longer texts would take too long.
_MOST_WINDOWS = 8
_CONTINUES_WORD = "##"


class WordShare(NamedTuple):
  """A word of a text, and its share in a score.

  Attributes:
    begin: Place of its first character in the text.
    end: Place after its last character.
    share: Above 0 if the word raises the score, below 0 if it lowers it.
  """

  begin: int
  end: int
  share: float


class _Text(NamedTuple):
  """One text or a pair of texts, in pieces.

  Attributes:
    words: For each text, the places in `ids` and in the text of its words.
    ids: Ids of all pieces, then of `[CLS]` and `[SEP]`.
    windows: Sequences with places in `ids` in place of ids.
  """

  words: list[list[tuple[slice, int, int]]]
  ids: np.ndarray
  windows: list[encoding.InputFeatures]


def gradient_times_input(
  score_fn: Callable[[tf.Tensor], tf.Tensor], embeddings: tf.Tensor
) -> tf.Tensor:
  """Returns the share of each token in a score, float32 [B, S].

  If a score is linear in the embeddings, the shares of a sequence add up to it.

  Args:
    score_fn: Function (embeddings) -> score of each sequence, float32 [B].
    embeddings: float32 Tensor of shape [B, S, H].
  """
  with tf.GradientTape(watch_accessed_variables=False) as tape:
    tape.watch(embeddings)
    scores = score_fn(embeddings)  # [B]
  # A sequence has no influence on the scores of others, so the gradient of
  # their sum holds the gradients of all of them.
  gradients = tape.gradient(scores, embeddings)  # [B, S, H]
  return tf.reduce_sum(gradients * embeddings, axis=-1)


def attribute_tokens(
  model: tf.Module,
  batch: dict[str, np.ndarray],
  outputs: np.ndarray,
  problem_type: str,
) -> np.ndarray:
  """Returns the share of each token in an output, float32 [B, S].

  Args:
    model: A `modeling.BertForSequenceClassification`.
    batch: `input_ids`, `input_mask` and `token_type_ids`, int32 [B, S].
    outputs: Number of the output of each sequence, int [B].
    problem_type: Key of `problem_types.PROBLEM_TYPES`.
  """

  def score(embeddings: tf.Tensor) -> tf.Tensor:
    logits = model(embeddings, batch["input_mask"], batch["token_type_ids"])
    if problem_type == heads.SINGLE_LABEL:
      # Softmax ignores what all logits have in common.
      logits -= tf.reduce_mean(logits, axis=-1, keepdims=True)
    return tf.gather(logits, outputs, axis=1, batch_dims=1)  # [B]

  embeddings = model.bert.embeddings(
    tf.constant(batch["input_ids"]),
    tf.constant(batch["token_type_ids"]),
    None,
    None,
  )  # [B, S, H]
  return gradient_times_input(score, embeddings).numpy()


def attribute_words(
  model: tf.Module,
  tokenizer: tokenization.FullTokenizer,
  classifier: classifier_config.ClassifierConfig,
  texts: Sequence[Sequence[str]],
  outputs: Sequence[int],
) -> list[list[list[WordShare]]]:
  """Returns the shares of the words of texts in an output of a classifier.

  Words that were cut off have none. A text with several windows has the mean of
  their logits, and its words the mean of their shares.

  Args:
    model: A `modeling.BertForSequenceClassification`.
    tokenizer: Tokenizer of the model.
    classifier: Says how the texts are cut, and what the outputs are.
    texts: For each example a text, or two.
    outputs: Number of the label of each example whose logit is explained; 0
      for a value.

  Returns:
    For each example, and for each of its texts, the words in their order.
  """
  cut = [_cut_text(tokenizer, classifier, pair) for pair in texts]
  rows, row_outputs = [], []
  for text, output in zip(cut, outputs):
    for window in text.windows:
      ids = text.ids[window.input_ids]
      rows.append(encoding.InputFeatures(ids.tolist(), window.segment_ids))
      row_outputs.append(output)
  shares = iter(_attribute_rows(model, rows, row_outputs, classifier))
  return [
    _join_words(text, [next(shares) for _ in text.windows]) for text in cut
  ]


def _cut_text(
  tokenizer: tokenization.FullTokenizer,
  classifier: classifier_config.ClassifierConfig,
  texts: Sequence[str],
) -> _Text:
  """Returns a text or a pair in pieces, and its windows.

  text      un able to go      (a pair of texts: "unable to", "go")
  ids       7  8    9  5  CLS SEP
  window    -2 0 1 2 -1 3 -1   the places of [CLS] un ##able to [SEP] go [SEP]
  """
  ids: list[int] = []
  words, numbers = [], []
  for text in texts:
    text_ids, offsets = tokenizer.encode_with_offsets(text)
    first = len(ids)
    ids += text_ids
    numbers.append(range(first, len(ids)))
    words.append(_find_words(tokenizer, text_ids, offsets, first))
  windows = encoding.encode_long_pair(
    numbers[0],
    numbers[1] if len(numbers) > 1 else None,
    classifier.max_seq_length,
    -2,  # places of [CLS] and [SEP], counted from the end
    -1,
    classifier.long_text,
  )
  all_ids = np.array([*ids, tokenizer.cls_id, tokenizer.sep_id])
  return _Text(words, all_ids, windows[:_MOST_WINDOWS])


def _find_words(
  tokenizer: tokenization.FullTokenizer,
  ids: Sequence[int],
  offsets: Sequence[tuple[int, int]],
  first: int,
) -> list[tuple[slice, int, int]]:
  """Returns the pieces of each word, counted from `first`, and its place."""
  starts = [
    number
    for number, token_id in enumerate(ids)
    if not number
    or not tokenizer.inv_vocab[token_id].startswith(_CONTINUES_WORD)
  ]
  words = []
  for start, end in zip(starts, [*starts[1:], len(ids)]):
    pieces = slice(first + start, first + end)
    words.append((pieces, offsets[start][0], offsets[end - 1][1]))
  return words


def _attribute_rows(
  model: tf.Module,
  rows: Sequence[encoding.InputFeatures],
  outputs: Sequence[int],
  classifier: classifier_config.ClassifierConfig,
) -> list[np.ndarray]:
  """Returns the shares of the tokens of each row."""
  if not rows:
    return []
  # All batches have the same shape, and other texts probably as well, so that
  # little is compiled twice.
  longest = max(len(row.input_ids) for row in rows)
  lengths = batching.bucket_lengths(classifier.max_seq_length)
  length = min(n for n in lengths if n >= longest)
  num_rows = max(1, _TOKENS_PER_BATCH // length)
  shares = []
  for start in range(0, len(rows), num_rows):
    here = rows[start : start + num_rows]
    batch = {
      name: np.zeros([num_rows, length], np.int32)
      for name in ("input_ids", "input_mask", "token_type_ids")
    }
    numbers = np.zeros([num_rows], np.int32)
    numbers[: len(here)] = outputs[start : start + num_rows]
    for number, row in enumerate(here):
      size = len(row.input_ids)
      batch["input_ids"][number, :size] = row.input_ids
      batch["input_mask"][number, :size] = 1
      batch["token_type_ids"][number, :size] = row.segment_ids
    of_batch = attribute_tokens(model, batch, numbers, classifier.problem_type)
    for values, row in zip(of_batch, here):
      shares.append(values[: len(row.input_ids)])
  return shares


def _join_words(
  text: _Text, shares: Sequence[np.ndarray]
) -> list[list[WordShare]]:
  """Returns the shares of words, the sums over their pieces and windows."""
  of_pieces = np.zeros(len(text.ids))
  is_read = np.zeros(len(text.ids), bool)
  for window, values in zip(text.windows, shares):
    np.add.at(of_pieces, window.input_ids, values / len(text.windows))
    is_read[window.input_ids] = True
  return [
    [
      WordShare(begin, end, float(of_pieces[pieces].sum()))
      for pieces, begin, end in words
      if is_read[pieces].any()
    ]
    for words in text.words
  ]
