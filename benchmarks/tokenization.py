"""Speed of tokenization.py next to plain code and Hugging Face tokenizers.

    python benchmarks/tokenization.py --text_file=books_en.txt \\
        --vocab_file=$BERT/vocab.txt

Every tokenizer turns the same lines into ids on one thread. They take turns
several times, and the best time of each counts. All ids have to be the same.
Requires `pip install -e '.[benchmark]'`.
"""

import collections
from collections.abc import Callable, Iterable, Iterator, Sequence
import itertools
import os
import sys
import time
from typing import NamedTuple

# Before tokenizers is imported: its thread pool reads these.
os.environ["RAYON_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# pylint: disable=g-import-not-at-top,wrong-import-position
from absl import app
from absl import flags
import plain_tokenizer
import result_files
import tokenizers

from data import file_io
import tokenization

FLAGS = flags.FLAGS

flags.DEFINE_string(
  "text_file", None, "Text to tokenize, line by line.", required=True
)
flags.DEFINE_string("vocab_file", None, "An uncased vocabulary.", required=True)
flags.DEFINE_integer("repetitions", 3, "Number of turns of each tokenizer.")
flags.DEFINE_integer(
  "plain_megabytes",
  3,
  "Amount of text for the plain code, which is slow.",
)
result_files.define_flag()


class Competitor(NamedTuple):
  """A tokenizer in the comparison.

  Attributes:
    encode_all: Function () -> the ids of each line.
    num_bytes: Size of those lines.
  """

  encode_all: Callable[[], Iterable[Sequence[int]]]
  num_bytes: int


def main(_):
  lines = list(file_io.read_lines(FLAGS.text_file))
  vocab = tokenization.load_vocab(FLAGS.vocab_file)
  competitors = _competitors(lines, vocab)
  num_bytes = competitors["ours"].num_bytes
  num_ids = _check_equal(competitors, lines)
  plain_megabytes = competitors["plain"].num_bytes / 1e6
  print(
    f"{num_bytes / 1e6:.1f} MB, {num_ids} ids, the same from all (plain code: "
    f"the first {plain_megabytes:.1f} MB)"
  )
  speeds = _measure_speeds(competitors)
  rows = []
  for name, speed in speeds.items():
    ratio = speeds["ours"] / speed
    print(f"{name:>10}: {speed:6.2f} MB/s, ours is {ratio:5.1f} times as fast")
    rows.append(
      {
        "tokenizer": name,
        "MB/s": round(speed, 2),
        "ours is times as fast": round(ratio, 1),
      }
    )
  result_files.write(
    section="Data and files",
    title=f"Tokenizing {num_bytes / 1e6:.0f} MB of text on one thread",
    rows=rows,
    packages=("tokenizers",),
    note="All ids are the same.",
  )


def _competitors(
  lines: Sequence[str], vocab: dict[str, int]
) -> dict[str, Competitor]:
  """Returns the competitors by name."""
  num_bytes = _count_bytes(lines)
  share = min(1.0, FLAGS.plain_megabytes * 1e6 / num_bytes)
  first_lines = lines[: round(len(lines) * share)]
  plain = plain_tokenizer.PlainTokenizer(vocab)
  hugging_face = _hugging_face_tokenizer(vocab)

  def encode_ours():
    # A new tokenizer each time, so that the time to fill its cache counts.
    return map(tokenization.FullTokenizer(FLAGS.vocab_file).encode, lines)

  return {
    "plain": Competitor(
      lambda: map(plain.encode, first_lines), _count_bytes(first_lines)
    ),
    "tokenizers": Competitor(
      lambda: _encode_in_batches(hugging_face, lines), num_bytes
    ),
    "ours": Competitor(encode_ours, num_bytes),
  }


def _hugging_face_tokenizer(vocab: dict[str, int]) -> tokenizers.Tokenizer:
  """Returns Hugging Face's tokenizer with the settings of BERT."""
  tokenizer = tokenizers.Tokenizer(
    tokenizers.models.WordPiece(
      vocab, unk_token="[UNK]", max_input_chars_per_word=200
    )
  )
  tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
  return tokenizer


def _encode_in_batches(
  tokenizer: tokenizers.Tokenizer, lines: Sequence[str]
) -> Iterator[Sequence[int]]:
  """Yields Hugging Face's ids; in batches, its fastest way."""
  for start in range(0, len(lines), 1000):
    batch = lines[start : start + 1000]
    for encoding in tokenizer.encode_batch_fast(
      batch, add_special_tokens=False
    ):
      yield encoding.ids


def _check_equal(
  competitors: dict[str, Competitor], lines: Sequence[str]
) -> int:
  """Returns the number of ids; raises a ValueError if some ids differ."""
  all_ids = [competitor.encode_all() for competitor in competitors.values()]
  num_ids = 0
  for number, row in enumerate(itertools.zip_longest(*all_ids)):
    # The plain code has no ids for later lines.
    first, *others = [ids for ids in row if ids is not None]
    num_ids += len(first)
    if any(ids != first for ids in others):
      raise ValueError(f"The ids of line {number + 1} differ: {lines[number]}")
  return num_ids


def _measure_speeds(competitors: dict[str, Competitor]) -> dict[str, float]:
  """Returns the best speed of each competitor, in megabytes per second."""
  seconds = collections.defaultdict(list)
  for _ in range(FLAGS.repetitions):
    for name, competitor in competitors.items():
      started = time.perf_counter()
      # Computes all ids and keeps none.
      collections.deque(competitor.encode_all(), maxlen=0)
      seconds[name].append(time.perf_counter() - started)
  return {
    name: competitor.num_bytes / 1e6 / min(seconds[name])
    for name, competitor in competitors.items()
  }


def _count_bytes(lines: Iterable[str]) -> int:
  return sum(len(line.encode()) + 1 for line in lines)


if __name__ == "__main__":
  app.run(main)
