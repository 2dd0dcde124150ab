"""Speed of tokenization.py beside plain code and Hugging Face tokenizers.

    python benchmarks/tokenization.py --text_file=books_en.txt \\
        --vocab_file=$BERT/vocab.txt

Every tokenizer turns the same lines into ids on one thread, in turn, several
times over; the best time of each counts. The ids have to be the same. Needs
the packages of requirements-benchmark.txt.
"""

import collections
import itertools
import os
import sys
import time

# Before tokenizers is imported: its thread pool reads these.
os.environ["RAYON_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# pylint: disable=g-import-not-at-top,wrong-import-position
from absl import app
from absl import flags
import plain_tokenizer
import tokenizers

from data import file_io
import tokenization

FLAGS = flags.FLAGS

flags.DEFINE_string(
  "text_file", None, "Text to tokenize, line by line.", required=True
)
flags.DEFINE_string("vocab_file", None, "An uncased vocabulary.", required=True)
flags.DEFINE_integer("repetitions", 3, "How often each tokenizer has a turn.")
flags.DEFINE_integer(
  "plain_megabytes",
  3,
  "How much of the text the plain code is timed on; it is slow.",
)


def _hugging_face_tokenizer(vocab):
  tokenizer = tokenizers.Tokenizer(
    tokenizers.models.WordPiece(
      vocab, unk_token="[UNK]", max_input_chars_per_word=200
    )
  )
  tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
  return tokenizer


def _encode_in_batches(tokenizer, lines):
  """Yields Hugging Face's ids; in batches, which is how they are fastest."""
  for start in range(0, len(lines), 1000):
    for encoding in tokenizer.encode_batch_fast(
      lines[start : start + 1000], add_special_tokens=False
    ):
      yield encoding.ids


def main(_):
  lines = list(file_io.read_lines(FLAGS.text_file))
  size = _size(lines)
  num_few = round(len(lines) * min(1.0, FLAGS.plain_megabytes * 1e6 / size))
  few = lines[:num_few]
  vocab = tokenization.load_vocab(FLAGS.vocab_file)
  plain = plain_tokenizer.PlainTokenizer(vocab)
  theirs = _hugging_face_tokenizer(vocab)

  def ours():
    # A new one each time: its memory is filled within the time measured.
    return map(tokenization.FullTokenizer(FLAGS.vocab_file).encode, lines)

  contestants = {
    "plain": (lambda: map(plain.encode, few), _size(few)),
    "tokenizers": (lambda: _encode_in_batches(theirs, lines), size),
    "ours": (ours, size),
  }
  num_ids = 0
  for number, (a, b) in enumerate(
    itertools.zip_longest(ours(), contestants["tokenizers"][0]())
  ):
    num_ids += len(a)
    if a != b or (number < len(few) and a != plain.encode(few[number])):
      raise ValueError(f"The ids of line {number + 1} differ: {lines[number]}")
  print(
    f"{size / 1e6:.1f} MB, {num_ids} ids, the same from all (plain code: "
    f"the first {_size(few) / 1e6:.1f} MB)"
  )

  seconds = {name: [] for name in contestants}
  for _ in range(FLAGS.repetitions):
    for name, (encode_all, _) in contestants.items():
      started = time.perf_counter()
      collections.deque(encode_all(), maxlen=0)  # makes all, keeps none
      seconds[name].append(time.perf_counter() - started)
  speeds = {
    name: amount / 1e6 / min(seconds[name])
    for name, (_, amount) in contestants.items()
  }
  for name, speed in speeds.items():
    print(
      f"{name:>10}: {speed:6.2f} MB/s, ours is "
      f"{speeds['ours'] / speed:5.1f} times as fast"
    )


def _size(lines) -> int:
  return sum(len(line.encode()) + 1 for line in lines)


if __name__ == "__main__":
  app.run(main)
