"""Learns a WordPiece vocabulary from text (Wu et al., 2016, section 4.1).

    python create_vocabulary.py --input_file=sample_text.txt \\
        --output_dir=/tmp/vocabulary --vocab_size=2000 --model_size=tiny

The text is what create_pretraining_data.py takes, of any size. Words are split
from it by the tokenizer that will use the vocabulary, and counted in all
processes; the pieces are learnt by the WordPiece trainer of Hugging Face's
tokenizers. The folder then holds `vocab.txt`, a `bert_config.json` that fits,
and `vocab.report.json`. `vocab.txt` comes last: it says that all are there.
"""

import launch  # First: from here on a signal ends the program quietly.

import collections
from collections.abc import Iterator, Mapping
import dataclasses
import functools
import json
import os

from absl import flags
from absl import logging
import tensorflow as tf
import tokenizers

import common_flags
from data import file_io
from data import unfinished
from errors import UserError
import modeling
from pretraining import corpus
from pretraining import workers
import tokenization
from training import training_log

FLAGS = flags.FLAGS

_VOCAB, _CONFIG = "vocab.txt", "bert_config.json"
_REPORT = "vocab" + file_io.REPORT_SUFFIX

# Longer words are not worth a piece of their own.
_LONGEST_WORD = 100
# When there are more different words than this, those seen once are dropped:
# each takes about 100 bytes.
_MOST_WORDS = 5_000_000
# How much text the trainer is handed at once.
_TRAINER_CHARACTERS = 2**20


def define_flags() -> None:
  """Defines the flags of this program."""
  common_flags.define_text_flags()
  flags.DEFINE_string(
    "output_dir",
    None,
    "Folder for vocab.txt and bert_config.json.",
    required=True,
  )
  flags.DEFINE_bool(
    "overwrite", False, "Whether to replace a vocabulary that is there already."
  )
  flags.DEFINE_integer("vocab_size", 30522, "Tokens in all.", lower_bound=6)
  flags.DEFINE_bool(
    "do_lower_case",
    True,
    "Whether to lower-case the text, "
    "and to strip accents: for an uncased model.",
  )
  flags.DEFINE_float(
    "character_coverage",
    0.9999,
    "Share of the text whose "
    "characters are in the vocabulary; the rarest are not, "
    "and their words become [UNK].",
    lower_bound=0.5,
    upper_bound=1.0,
  )
  flags.DEFINE_integer(
    "min_frequency",
    2,
    "How often two pieces have to stand beside each other to become one.",
    lower_bound=1,
  )
  flags.DEFINE_integer(
    "num_unused_tokens",
    99,
    "Room for words to be added later: [unused0] and so on.",
    lower_bound=0,
  )
  flags.DEFINE_list(
    "special_tokens",
    [],
    "More tokens such as [QUERY], beside "
    "[PAD], [UNK], [CLS], [SEP] and [MASK].",
  )
  flags.DEFINE_enum(
    "model_size",
    None,
    sorted(modeling.RELEASED_SIZES),
    "Size of the model of bert_config.json.",
  )
  flags.DEFINE_string(
    "bert_config_file",
    None,
    "A config to take over with another vocab_size, in place of --model_size.",
  )
  flags.DEFINE_integer(
    "num_workers",
    0,
    "Processes; 0 for one a processor, if there is enough to do.",
    lower_bound=0,
  )


def fixed_tokens() -> list[str]:
  """Returns the tokens that are not learnt, in the order of released models.

  Raises:
    UserError: a token is there twice, or there is no room for others.
  """
  tokens = [
    "[PAD]",
    *(f"[unused{i}]" for i in range(FLAGS.num_unused_tokens)),
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *FLAGS.special_tokens,
  ]
  for token, count in collections.Counter(tokens).items():
    if count > 1 or not token.strip() or token.split() != [token]:
      raise UserError(
        f"--special_tokens={','.join(FLAGS.special_tokens)}: "
        f"{token!r} is empty, holds a space, or is a token "
        "already."
      )
  if len(tokens) >= FLAGS.vocab_size:
    raise UserError(
      f"--vocab_size={FLAGS.vocab_size} leaves no room for words beside "
      f"{len(tokens)} special and unused tokens. Raise it, or lower "
      "--num_unused_tokens."
    )
  return tokens


def config_of_flags():
  """Returns the config that the vocabulary is for; None if none is asked for.

  Raises:
    UserError: two are asked for, or the file cannot be used.
  """
  if FLAGS.model_size and FLAGS.bert_config_file:
    raise UserError(
      "--model_size and --bert_config_file both name a config: "
      "pass one of the two."
    )
  if FLAGS.model_size:
    return modeling.BertConfig.from_size(FLAGS.model_size)
  if FLAGS.bert_config_file:
    return modeling.BertConfig.from_json_file(FLAGS.bert_config_file)
  return None


def word_counter(parser: corpus.Parser, do_lower_case: bool):
  """Returns the function that counts the words of a block."""
  tokenizer = tokenization.BasicTokenizer(do_lower_case)

  def count(block: corpus.Block):
    counts = collections.Counter()
    stretches = collections.Counter()
    for document in parser.documents(block, counts):
      counts["documents"] += 1
      for sentence in document:
        stretches.update(tokenizer.split_at_spaces(sentence))
    words = collections.Counter()
    for stretch, number in stretches.items():
      for word in tokenizer.split_stretch(stretch):
        words[word] += number
    return words, counts

  return count


def count_words(
  input_files, parser
) -> tuple[collections.Counter, collections.Counter]:
  """Returns how often each word occurs, and what was read and left out."""
  size = corpus.block_bytes(input_files)
  num_bytes = corpus.text_bytes(input_files)
  words, counts = collections.Counter(), collections.Counter()
  # In order, so that the same words are dropped in each run.
  for block_words, block_counts in workers.map_ordered(
    functools.partial(word_counter, parser, FLAGS.do_lower_case),
    corpus.read_all_blocks(input_files, size),
    workers.useful_number(FLAGS.num_workers, num_bytes // size, num_bytes),
  ):
    words.update(block_words)
    counts.update(block_counts)
    if len(words) > _MOST_WORDS:
      rare = [word for word, number in words.items() if number == 1]
      counts["words_dropped"] += len(rare)
      for word in rare:
        del words[word]
  return words, counts


def covered_characters(words: Mapping[str, int], coverage: float) -> set[str]:
  """Returns the commonest characters that make up that share of all text."""
  characters = collections.Counter()
  for word, number in words.items():
    for character in word:
      characters[character] += number
  wanted = coverage * characters.total()
  result, total = set(), 0
  # By frequency, and where that is equal by code, so that runs agree.
  for character, number in sorted(
    characters.items(), key=lambda item: (-item[1], item[0])
  ):
    if total >= wanted:
      break
    result.add(character)
    total += number
  return result


def learn_pieces(
  words: Mapping[str, int], characters: set[str], size: int, min_frequency: int
) -> list[str]:
  """Returns at most `size` pieces, the characters first.

  Raises:
    UserError: there is not even room for the characters.
  """
  words = {
    word: number
    for word, number in words.items()
    if len(word) <= _LONGEST_WORD and characters.issuperset(word)
  }
  alphabet = {word[0] for word in words} | {
    f"##{character}" for word in words for character in word[1:]
  }
  if len(alphabet) > size:
    raise UserError(
      f"The text has {len(characters)} different characters, which take "
      f"{len(alphabet)} of the {size} tokens that are not special or unused. "
      "Raise --vocab_size, or lower --character_coverage."
    )
  tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece())
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
  tokenizer.train_from_iterator(
    _repeated(words),
    tokenizers.trainers.WordPieceTrainer(
      # It lists each character as the start of a word as well.
      vocab_size=size + len(characters - alphabet),
      # Of pairs that are equally frequent the one with the lower numbers
      # comes first. Numbers given here are the same in each run.
      special_tokens=sorted(alphabet),
      min_frequency=min_frequency,
      continuing_subword_prefix="##",
      show_progress=False,
    ),
  )
  vocab = tokenizer.get_vocab()
  return [
    piece
    for piece in sorted(vocab, key=vocab.get)
    if piece in alphabet or piece not in characters
  ][:size]


def _repeated(words: Mapping[str, int]) -> Iterator[str]:
  """Yields text that holds each word as often as its number says."""
  for word, number in sorted(words.items()):
    at_once = max(1, _TRAINER_CHARACTERS // (len(word) + 1))
    while number > 0:
      yield f"{word} " * min(number, at_once)
      number -= at_once


def create_report(
  vocab: Mapping[str, int],
  words: Mapping[str, int],
  counts: Mapping[str, int],
  characters: set[str],
) -> dict:
  """Returns what is to be told of a vocabulary, by the words it came from."""
  wordpiece = tokenization.WordpieceTokenizer(dict(vocab))
  num_pieces = num_unknown = 0
  for word, number in words.items():
    pieces = wordpiece.split_word(word)
    num_pieces += number * len(pieces)
    num_unknown += number * (pieces == ["[UNK]"])
  num_words = sum(words.values())
  return {
    "vocab_size": len(vocab),
    "documents": counts["documents"],
    "words": num_words,
    "different_words": len(words),
    "different_words_dropped": counts["words_dropped"],
    "characters": len(characters),
    "unknown_rate": num_unknown / num_words,
    "pieces_per_word": num_pieces / num_words,
    "skipped": {reason: counts[reason] for reason in corpus.REASONS_TO_SKIP},
  }


def _path(name: str) -> str:
  return os.path.join(FLAGS.output_dir, name)


def settings_of_flags(input_files, config) -> dict[str, object]:
  """Returns what the files depend on, as JSON gives it back."""
  names = (
    "vocab_size",
    "do_lower_case",
    "character_coverage",
    "min_frequency",
    "num_unused_tokens",
    "special_tokens",
    "text_field",
    "split_sentences",
    "errors",
  )
  stats = [tf.io.gfile.stat(file) for file in input_files]
  return {
    **{name: FLAGS[name].value for name in names},
    "config": config.to_dict() if config else None,
    "input_files": [
      [file, stat.length, stat.mtime_nsec]
      for file, stat in zip(input_files, stats)
    ],
  }


def check_place(input_files) -> None:
  """Raises a UserError if an output would replace a file that is read."""
  configs = [FLAGS.bert_config_file] if FLAGS.bert_config_file else []
  file_io.check_not_inputs(
    {"--output_dir": map(_path, (_VOCAB, _CONFIG, _REPORT))},
    {"--input_file": input_files, "--bert_config_file": configs},
  )


def is_complete(settings: Mapping[str, object]) -> bool:
  """Whether the files are there already, made with the same settings.

  Raises:
    UserError: files are there that may not be overwritten.
  """
  if FLAGS.overwrite:
    return False
  known = _known_settings()
  has_config = tf.io.gfile.exists(_path(_CONFIG))
  wants_config = settings["config"] is not None
  there = _path(_VOCAB)
  if tf.io.gfile.exists(there):
    if known == settings and (has_config or not wants_config):
      return True
  # Without vocab.txt, a run was killed that had written the report, and then
  # perhaps the config.
  elif has_config and wants_config and not (known or {}).get("config"):
    there = _path(_CONFIG)
  else:
    return False
  raise UserError(
    f"{there} exists already. Name another --output_dir, or pass --overwrite."
  )


def _known_settings() -> dict | None:
  """Returns the settings of the report that is there, if it can be read."""
  try:
    settings = file_io.read_json(_path(_REPORT)).get("settings")
  except UserError:
    return None
  return settings if isinstance(settings, dict) else None


def write_files(files: Mapping[str, str]) -> None:
  """Writes files, all or none; vocab.txt, which says so, appears last."""
  names = [name for name in (_REPORT, _CONFIG, _VOCAB) if name in files]
  with file_io.temporary_folder(_path("vocabulary")) as folder:
    for name in names:
      file_io.write_text(os.path.join(folder, name), files[name])
    unfinished.move_files(folder, FLAGS.output_dir, names)


@launch.owns("output_dir")
def main(_):
  input_files = file_io.expand_patterns(FLAGS.input_file, "--input_file")
  tokens = fixed_tokens()
  config = config_of_flags()
  check_place(input_files)
  settings = settings_of_flags(input_files, config)
  if is_complete(settings):
    logging.info(
      "%s is there already, made of the same input with the same settings.",
      _path(_VOCAB),
    )
    return
  logging.info("*** Counting words ***")
  words, counts = count_words(input_files, common_flags.text_parser())
  if not words:
    raise UserError(f"--input_file={FLAGS.input_file} holds no text.")
  logging.info("*** Learning pieces from %d different words ***", len(words))
  characters = covered_characters(words, FLAGS.character_coverage)
  tokens += learn_pieces(
    words, characters, FLAGS.vocab_size - len(tokens), FLAGS.min_frequency
  )
  if len(tokens) < FLAGS.vocab_size:
    logging.warning(
      "The text has enough for %d tokens, not for --vocab_size=%d.",
      len(tokens),
      FLAGS.vocab_size,
    )
  report = create_report(
    {token: i for i, token in enumerate(tokens)}, words, counts, characters
  )
  files = {
    _REPORT: json.dumps({**report, "settings": settings}, indent=2) + "\n",
    _VOCAB: "\n".join(tokens) + "\n",
  }
  if config:
    files[_CONFIG] = dataclasses.replace(
      config, vocab_size=len(tokens)
    ).to_json_string()
  write_files(files)
  training_log.log_lines(
    "Report", (f"{name} = {value}" for name, value in report.items())
  )


if __name__ == "__main__":
  define_flags()
  launch.run(main, saves_at_signals=False)
