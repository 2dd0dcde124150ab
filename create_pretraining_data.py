"""Makes records for masked LM and next sentence prediction (paper, 3.1).

    python create_pretraining_data.py --input_file=sample_text.txt \\
        --output_file=/tmp/sample.tfrecord --vocab_file=$BERT/vocab.txt

The input is plain text, one sentence a line, with a blank line between
documents. Sentences should be real ones, since the second task is about them.
"""

import collections
import random
from typing import Iterator, NamedTuple, Sequence

from absl import flags
from absl import logging

import common_flags
import input_pipeline
import tokenization

FLAGS = flags.FLAGS


def define_flags() -> None:
  """Defines the flags of this program."""
  flags.DEFINE_string("input_file", None, "Text files or globs, separated by "
                      "commas.", required=True)
  flags.DEFINE_string("output_file", None, "TFRecord file to write, or several "
                      "separated by commas.", required=True)
  common_flags.define_vocab_flags()
  flags.DEFINE_bool("do_whole_word_mask", False, "Mask all pieces of a word, "
                    "or none.")
  flags.DEFINE_integer("max_seq_length", 128, "Tokens of a record.",
                       lower_bound=5)
  flags.DEFINE_integer("max_predictions_per_seq", 20, "Most masks of a record.",
                       lower_bound=1)
  flags.DEFINE_integer("random_seed", 12345, "Seed of all that is drawn.")
  flags.DEFINE_integer("dupe_factor", 10, "How often to go over the text, with "
                       "other masks each time.", lower_bound=1)
  flags.DEFINE_float("masked_lm_prob", 0.15, "Share of the tokens to mask.",
                     lower_bound=0.0, upper_bound=1.0)
  flags.DEFINE_float("short_seq_prob", 0.1, "Share of the documents that are "
                     "made into shorter sequences than the longest.",
                     lower_bound=0.0, upper_bound=1.0)


# A document is a list of sentences, a sentence a list of ids.
Document = list[list[int]]


class Pair(NamedTuple):
  """Two stretches of text, and whether the second is a random one."""

  ids_a: list[int]
  ids_b: list[int]
  is_random_next: bool


class Vocabulary(NamedTuple):
  """What masking needs to know of a vocabulary.

  Attributes:
    cls_id: id of `[CLS]`.
    sep_id: id of `[SEP]`.
    mask_id: id of `[MASK]`.
    continues_word: set of the ids of `##` pieces.
    replacements: ids that a masked token may turn into: all but `[...]`.
  """

  cls_id: int
  sep_id: int
  mask_id: int
  continues_word: frozenset[int]
  replacements: list[int]

  @classmethod
  def from_tokens(cls, vocab: dict[str, int]) -> "Vocabulary":
    """Returns the vocabulary of a dictionary token -> id."""
    return cls(
        vocab["[CLS]"], vocab["[SEP]"], vocab["[MASK]"],
        frozenset(id_ for token, id_ in vocab.items()
                  if token.startswith("##")),
        # `[PAD]`, `[unused5]` and the like are not words that text could hold.
        [id_ for token, id_ in vocab.items()
         if not (len(token) > 2 and token[0] == "[" and token[-1] == "]")])


def read_documents(
    files: Sequence[str],
    tokenizer: tokenization.FullTokenizer) -> Iterator[Document]:
  """Yields the documents of text files, tokenized; empty ones are left out."""
  for file in files:
    document = []
    for line in input_pipeline.read_lines(file):
      if line.strip():
        ids = tokenizer.encode(line)
        if ids:
          document.append(ids)
      elif document:
        yield document
        document = []
    if document:
      yield document


def create_pairs(documents: Sequence[Document], index: int, max_length: int,
                 short_seq_prob: float, rng: random.Random) -> Iterator[Pair]:
  """Cuts a document into pairs of stretches, half of them with a random second.

  Sentences are gathered until they reach the target length, and cut in two at
  a random sentence. For a random pair the second stretch comes from another
  document, and the sentences that it displaced are used again.

  Args:
    documents: all documents.
    index: which of them.
    max_length: the most tokens of a pair, without `[CLS]` and `[SEP]`.
    short_seq_prob: chance that the document gets a shorter target length, so
      that the model sees short inputs too.
    rng: draws everything.
  """
  document = documents[index]
  target_length = max_length
  if rng.random() < short_seq_prob:
    target_length = rng.randint(2, max_length)
  can_be_random = len(documents) > 1
  fewest_sentences = 1 if can_be_random else 2  # its own second must follow
  start = 0
  while start < len(document):
    end, length = start, 0
    while end < len(document) and (
        end - start < fewest_sentences or length < target_length):
      length += len(document[end])
      end += 1
    # At least one sentence goes to each side, if there are two.
    middle = rng.randint(start + 1, max(start + 1, end - 1))
    ids_a = _join(document[start:middle])
    if can_be_random and (end - start == 1 or rng.random() < 0.5):
      ids_b = _random_stretch(documents, index, target_length - len(ids_a), rng)
      pair = Pair(*_truncate(ids_a, ids_b, max_length, rng), True)
      start = middle
    else:
      ids_b = _join(document[middle:end])
      pair = Pair(*_truncate(ids_a, ids_b, max_length, rng), False)
      start = end
    if pair.ids_b:  # not so for a lone last sentence of the only document
      yield pair


def _join(sentences: Sequence[list[int]]) -> list[int]:
  return [id_ for sentence in sentences for id_ in sentence]


def _random_stretch(documents, index, target_length, rng) -> list[int]:
  """Returns sentences from a random place of another document."""
  other = rng.randrange(len(documents) - 1)
  document = documents[other + (other >= index)]
  ids = []
  for sentence in document[rng.randrange(len(document)):]:
    ids += sentence
    if len(ids) >= target_length:
      break
  return ids


def _truncate(ids_a, ids_b, max_length, rng) -> tuple[list[int], list[int]]:
  """Cuts a pair to `max_length`, at the front or the back at random.

  Both ends are cut, lest the model always see the start of a sentence first.
  """
  kept_a, kept_b = input_pipeline.truncate_pair(ids_a, ids_b, max_length)
  return (_cut(ids_a, len(kept_a), rng), _cut(ids_b, len(kept_b), rng))


def _cut(ids, length, rng) -> list[int]:
  excess = len(ids) - length
  # As many coins as tokens to drop; the heads are dropped at the front.
  front = rng.getrandbits(excess).bit_count() if excess else 0
  return ids[front:front + length]


def mask_candidates(ids: Sequence[int], vocabulary: Vocabulary,
                    do_whole_word_mask: bool) -> list[list[int]]:
  """Returns the groups of positions that are masked together, in order.

  Each position is a group of its own, or with whole words each word is.
  """
  groups = []
  previous_is_word = False
  for position, id_ in enumerate(ids):
    if id_ in (vocabulary.cls_id, vocabulary.sep_id):
      previous_is_word = False
    elif (do_whole_word_mask and previous_is_word
          and id_ in vocabulary.continues_word):
      groups[-1].append(position)
    else:
      groups.append([position])
      previous_is_word = True
  return groups


def mask_tokens(ids: Sequence[int], vocabulary: Vocabulary,
                masked_lm_prob: float, max_predictions_per_seq: int,
                do_whole_word_mask: bool, rng: random.Random
               ) -> tuple[list[int], list[int], list[int]]:
  """Masks a sequence (paper, section 3.1 and A.1).

  Of the tokens to predict, 80 % become `[MASK]`, 10 % stay, and 10 % become a
  random word.

  Args:
    ids: `[CLS] a [SEP] b [SEP]`.
    vocabulary: the vocabulary of the ids.
    masked_lm_prob: share of the tokens to predict, at least one.
    max_predictions_per_seq: the most tokens to predict.
    do_whole_word_mask: whether words are masked whole; a word that would be
      one too many tokens is passed over.
    rng: draws everything.

  Returns:
    The ids with masks, the positions to predict, ascending, and the ids that
    stood there.
  """
  num_to_predict = min(max_predictions_per_seq,
                       max(1, round(len(ids) * masked_lm_prob)))
  groups = mask_candidates(ids, vocabulary, do_whole_word_mask)
  if not do_whole_word_mask:
    groups = rng.sample(groups, min(num_to_predict, len(groups)))
  else:
    rng.shuffle(groups)
  positions = []
  for group in groups:
    if len(positions) >= num_to_predict:
      break
    if len(positions) + len(group) <= num_to_predict:
      positions += group
  positions.sort()
  masked = list(ids)
  for position in positions:
    draw = rng.random()
    if draw < 0.8:
      masked[position] = vocabulary.mask_id
    elif draw < 0.9:
      masked[position] = rng.choice(vocabulary.replacements)
  return masked, positions, [ids[position] for position in positions]


def create_record(pair: Pair, vocabulary: Vocabulary, max_seq_length: int,
                  max_predictions_per_seq: int, masked_lm_prob: float,
                  do_whole_word_mask: bool, rng: random.Random) -> bytes:
  """Returns a masked, padded record of a pair.

  Its features are those of `input_pipeline.pretraining_feature_spec`.
  """
  packed = input_pipeline.pack(pair.ids_a, pair.ids_b, max_seq_length,
                               vocabulary.cls_id, vocabulary.sep_id)
  input_ids, positions, label_ids = mask_tokens(
      packed.input_ids, vocabulary, masked_lm_prob, max_predictions_per_seq,
      do_whole_word_mask, rng)
  padding = [0] * (max_seq_length - len(input_ids))
  unused = [0] * (max_predictions_per_seq - len(positions))
  return input_pipeline.serialize({
      "input_ids": input_ids + padding,
      "input_mask": [1] * len(input_ids) + padding,
      "segment_ids": packed.segment_ids + padding,
      "masked_lm_positions": positions + unused,
      "masked_lm_ids": label_ids + unused,
      "masked_lm_weights": [1.0] * len(positions) + [0.0] * len(unused),
      "next_sentence_labels": [int(pair.is_random_next)],
  })


def main(_):
  input_files = input_pipeline.expand_patterns(
      FLAGS.input_file, "--input_file")
  output_files = [name for name in FLAGS.output_file.split(",") if name]
  tokenizer = common_flags.tokenizer()
  logging.info("*** Reading from input files ***")
  for file in input_files:
    logging.info("  %s", file)
  documents = list(read_documents(input_files, tokenizer))
  if not documents:
    raise ValueError(f"--input_file={FLAGS.input_file} holds no text.")
  if len(documents) == 1:
    logging.warning(
        "There is one document only, so no next sentence is random. Put blank "
        "lines between documents if there are several.")
  rng = random.Random(FLAGS.random_seed)
  rng.shuffle(documents)
  pairs = [pair for _ in range(FLAGS.dupe_factor)
           for index in range(len(documents))
           for pair in create_pairs(documents, index, FLAGS.max_seq_length - 3,
                                    FLAGS.short_seq_prob, rng)]
  if not pairs:
    raise ValueError(f"--input_file={FLAGS.input_file} holds one sentence; no "
                     "pair can be made of it.")
  rng.shuffle(pairs)
  _write(output_files, pairs, Vocabulary.from_tokens(tokenizer.vocab), rng)
  random_pairs = collections.Counter(pair.is_random_next for pair in pairs)
  logging.info("%d documents gave %d records, %d of them with a random next "
               "sentence.", len(documents), len(pairs), random_pairs[True])


def _write(output_files, pairs, vocabulary, rng) -> None:
  logging.info("*** Writing to output files ***")
  for number, file in enumerate(output_files):
    logging.info("  %s", file)
    input_pipeline.write_records(file, (
        create_record(pair, vocabulary, FLAGS.max_seq_length,
                      FLAGS.max_predictions_per_seq, FLAGS.masked_lm_prob,
                      FLAGS.do_whole_word_mask, rng)
        for pair in pairs[number::len(output_files)]))


if __name__ == "__main__":
  define_flags()
  common_flags.run(main)
