"""Learns a WordPiece vocabulary from text (Wu et al., 2016, section 4.1).

    python create_vocabulary.py --input_file=sample_text.txt \\
        --output_dir=/tmp/vocabulary --vocab_size=2000 --model_size=tiny

The text has the format of create_pretraining_data.py, and any size. The
tokenizer that will use the vocabulary splits it into words, which are counted
in several processes. The WordPiece trainer of Hugging Face's tokenizers learns
the tokens from these counts. The output is `vocab.txt`, a `bert_config.json`
that fits, and `vocab.report.json`. `vocab.txt` is written last: if it exists,
all files are complete.
"""

from __future__ import annotations

import launch  # First: from here on a signal ends the program quietly.

import collections
from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import functools
import json
import os
from typing import Any

from absl import flags
from absl import logging
import tensorflow as tf
import tokenizers

from command_line import flag_help
from command_line import input_paths
import common_flags
from data import file_io
from data import file_names
from data import released_models
from data import tokenizer_settings
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

# Longer words are not used for learning.
_LONGEST_WORD = 100
# If there are more different words than this, those that occur once are
# dropped: each takes about 100 bytes.
_MOST_WORDS = 5_000_000
# Number of characters that the trainer gets at once.
_TRAINER_CHARACTERS = 2**20


@flag_help.group("Vocabulary")
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
    "overwrite", False, "Whether to replace a vocabulary that exists already."
  )
  _define_token_flags()
  flags.DEFINE_enum(
    "model_size",
    None,
    sorted(released_models.SIZES),
    "Size of the model described by bert_config.json.",
  )
  flags.DEFINE_string(
    "bert_config_file",
    None,
    "Config to use with another vocab_size, instead of --model_size.",
  )
  input_paths.mark("bert_config_file", input_paths.check_path)
  flags.DEFINE_integer(
    "num_workers",
    0,
    "Number of processes; 0 for one per processor if there is enough work.",
    lower_bound=0,
  )


def _define_token_flags() -> None:
  """Defines the flags that decide which tokens the vocabulary holds."""
  flags.DEFINE_integer(
    "vocab_size", 30522, "Total number of tokens.", lower_bound=6
  )
  flags.DEFINE_bool(
    "do_lower_case",
    True,
    "Whether to lower-case the text and strip accents, for an uncased model.",
  )
  flags.DEFINE_float(
    "character_coverage",
    0.9999,
    "Fraction of the text whose characters are in the vocabulary. The rarest "
    "characters are not, and words with them become [UNK].",
    lower_bound=0.5,
    upper_bound=1.0,
  )
  flags.DEFINE_integer(
    "min_frequency",
    2,
    "Number of times that two tokens must occur next to each other to become "
    "one.",
    lower_bound=1,
  )
  flags.DEFINE_integer(
    "num_unused_tokens",
    99,
    "Number of tokens [unused0] and so on, which leave room for more words.",
    lower_bound=0,
  )
  flags.DEFINE_list(
    "special_tokens",
    [],
    "More tokens such as [QUERY], next to [PAD], [UNK], [CLS], [SEP] and "
    "[MASK].",
  )


def check_flags() -> None:
  """Raises a UserError if flags contradict each other."""
  if FLAGS.model_size and FLAGS.bert_config_file:
    raise UserError(
      "--model_size and --bert_config_file both name a config: pass one of the "
      "two."
    )
  fixed_tokens()


@launch.owns("output_dir")
def main(_):
  input_files = file_names.find_files(FLAGS.input_file, "--input_file")
  tokens = fixed_tokens()
  config = model_config()
  check_not_inputs(input_files)
  settings = vocabulary_settings(input_files, config)
  if is_complete(settings):
    logging.info(
      "%s exists already, made from the same input with the same settings.",
      _output_path(_VOCAB),
    )
    return
  logging.info("*** Counting words ***")
  words, counts = count_words(input_files, common_flags.text_parser())
  if not words:
    raise UserError(f"--input_file={FLAGS.input_file} contains no text.")
  logging.info("*** Learning tokens from %d different words ***", len(words))
  characters = find_common_characters(words, FLAGS.character_coverage)
  num_missing = FLAGS.vocab_size - len(tokens)
  tokens += learn_tokens(words, characters, num_missing, FLAGS.min_frequency)
  if len(tokens) < FLAGS.vocab_size:
    logging.warning(
      "The text is only enough for %d tokens, not for --vocab_size=%d.",
      len(tokens),
      FLAGS.vocab_size,
    )
  report = create_report(tokens, words, counts, characters)
  write_files(tokens, config, {**report, "settings": settings})
  lines = [f"{name} = {value}" for name, value in report.items()]
  training_log.log_lines("Report", lines)


# --- Flags and files ---------------------------------------------------------


def fixed_tokens() -> list[str]:
  """Returns the tokens that are not learned, in the order of released models.

  Raises:
    UserError: A token occurs twice, or there is no room for other tokens.
  """
  unused_tokens = [f"[unused{i}]" for i in range(FLAGS.num_unused_tokens)]
  special_tokens = ["[UNK]", "[CLS]", "[SEP]", "[MASK]", *FLAGS.special_tokens]
  tokens = ["[PAD]", *unused_tokens, *special_tokens]
  for token, count in collections.Counter(tokens).items():
    if count > 1 or token.split() != [token]:
      given = ",".join(FLAGS.special_tokens)
      raise UserError(
        f"--special_tokens={given}: {token!r} is empty, holds a space, or is a "
        "token already."
      )
  if len(tokens) >= FLAGS.vocab_size:
    raise UserError(
      f"--vocab_size={FLAGS.vocab_size} leaves no room for words next to "
      f"{len(tokens)} special and unused tokens. Raise it, or lower "
      "--num_unused_tokens."
    )
  return tokens


def model_config() -> modeling.BertConfig | None:
  """Returns the config to adapt to the vocabulary; None if none is requested.

  Raises:
    UserError: The file cannot be used.
  """
  if FLAGS.model_size:
    return modeling.BertConfig.from_size(FLAGS.model_size)
  if FLAGS.bert_config_file:
    return modeling.BertConfig.from_json_file(FLAGS.bert_config_file)
  return None


def vocabulary_settings(
  input_files: Sequence[str], config: modeling.BertConfig | None
) -> dict[str, object]:
  """Returns everything that the files depend on, as it is read from JSON."""
  settings: dict[str, object] = {}
  for name in (
    "vocab_size",
    "do_lower_case",
    "character_coverage",
    "min_frequency",
    "num_unused_tokens",
    "special_tokens",
    "text_field",
    "split_sentences",
    "errors",
  ):
    settings[name] = FLAGS[name].value
  settings["config"] = config.to_dict() if config else None
  settings["input_files"] = file_io.describe_files(input_files)
  return settings


def check_not_inputs(input_files: Sequence[str]) -> None:
  """Raises a UserError if the output would replace a file that is read."""
  configs = [FLAGS.bert_config_file] if FLAGS.bert_config_file else []
  names = (_VOCAB, _CONFIG, _REPORT, tokenizer_settings.FILE)
  file_io.check_not_inputs(
    {"--output_dir": map(_output_path, names)},
    {"--input_file": input_files, "--bert_config_file": configs},
  )


def is_complete(settings: Mapping[str, object]) -> bool:
  """Returns whether the files exist already, made with the same settings.

  Raises:
    UserError: There are files that may not be overwritten.
  """
  if FLAGS.overwrite:
    return False
  existing_settings = _read_settings() or {}
  has_vocab = tf.io.gfile.exists(_output_path(_VOCAB))
  has_config = tf.io.gfile.exists(_output_path(_CONFIG))
  wants_config = settings["config"] is not None
  if has_vocab:
    has_all = has_config or not wants_config
    if existing_settings == settings and has_all:
      return True
    existing = _output_path(_VOCAB)
  elif has_config and wants_config and not existing_settings.get("config"):
    existing = _output_path(_CONFIG)
  else:
    # Without vocab.txt, the other files come from a run that was killed.
    return False
  raise UserError(
    f"{existing} exists already. Name another --output_dir, or pass "
    "--overwrite."
  )


def _read_settings() -> dict | None:
  """Returns the settings in an existing report, if it can be read."""
  try:
    settings = file_io.read_json(_output_path(_REPORT)).get("settings")
  except UserError:
    return None
  return settings if isinstance(settings, dict) else None


def write_files(
  tokens: Sequence[str],
  config: modeling.BertConfig | None,
  report: Mapping[str, object],
) -> None:
  """Writes all files or none; vocab.txt appears last."""
  contents = {_REPORT: json.dumps(report, indent=2) + "\n"}
  if config:
    config = dataclasses.replace(config, vocab_size=len(tokens))
    contents[_CONFIG] = config.to_json_string()
  # The casing of a vocabulary does not always show in its words.
  casing = tokenizer_settings.TokenizerSettings(FLAGS.do_lower_case)
  contents[tokenizer_settings.FILE] = json.dumps(casing.to_fields()) + "\n"
  contents[_VOCAB] = "\n".join(tokens) + "\n"
  with file_io.temporary_folder(_output_path("vocabulary")) as folder:
    for name, content in contents.items():
      file_io.write_text(os.path.join(folder, name), content)
    unfinished.move_files(folder, FLAGS.output_dir, list(contents))


def _output_path(name: str) -> str:
  return os.path.join(FLAGS.output_dir, name)


# --- Words -------------------------------------------------------------------


def count_words(
  input_files: Sequence[str], parser: corpus.TextParser
) -> tuple[collections.Counter, collections.Counter]:
  """Returns the number of times that each word occurs, and counts of lines."""
  block_bytes = corpus.choose_block_bytes(input_files)
  text_bytes = corpus.estimate_text_bytes(input_files)
  num_workers = workers.choose_num_workers(
    FLAGS.num_workers,
    num_items=text_bytes // block_bytes,
    num_bytes=text_bytes,
  )
  words: collections.Counter = collections.Counter()
  counts: collections.Counter = collections.Counter()
  counter = training_log.Counter("documents")
  # In order, so that every run drops the same words.
  for block_words, block_counts in workers.map_ordered(
    functools.partial(create_word_counter, parser, FLAGS.do_lower_case),
    corpus.read_all_blocks(input_files, block_bytes),
    num_workers,
  ):
    words.update(block_words)
    counts.update(block_counts)
    counter.add(block_counts["documents"])
    if len(words) > _MOST_WORDS:
      rare = [word for word, number in words.items() if number == 1]
      counts["words_dropped"] += len(rare)
      for word in rare:
        del words[word]
  counter.end()
  return words, counts


def create_word_counter(
  parser: corpus.TextParser, do_lower_case: bool
) -> Callable[[corpus.Block], tuple[collections.Counter, collections.Counter]]:
  """Returns the function of a worker that counts the words of a block."""
  tokenizer = tokenization.BasicTokenizer(do_lower_case)

  def count_block(block: corpus.Block):
    counts: collections.Counter = collections.Counter()
    # Most stretches between spaces occur often; each is split only once.
    stretches: collections.Counter = collections.Counter()
    for document in parser.parse_block(block, counts):
      counts["documents"] += 1
      for sentence in document:
        stretches.update(tokenizer.split_at_spaces(sentence))
    words: collections.Counter = collections.Counter()
    for stretch, number in stretches.items():
      for word in tokenizer.split_stretch(stretch):
        words[word] += number
    return words, counts

  return count_block


def find_common_characters(
  words: Mapping[str, int], coverage: float
) -> set[str]:
  """Returns the most common characters that cover a fraction of the text."""
  counts: collections.Counter = collections.Counter()
  for word, number in words.items():
    for character in word:
      counts[character] += number
  # Characters that are equally common are sorted by code, so that all runs
  # agree.
  by_frequency = sorted(counts, key=lambda x: (-counts[x], x))
  wanted = coverage * counts.total()
  characters: set[str] = set()
  total = 0
  for character in by_frequency:
    if total >= wanted:
      break
    characters.add(character)
    total += counts[character]
  return characters


# --- Tokens ------------------------------------------------------------------


def learn_tokens(
  words: Mapping[str, int], characters: set[str], size: int, min_frequency: int
) -> list[str]:
  """Returns at most `size` tokens, single characters first.

  Args:
    words: Number of times that each word occurs.
    characters: Characters that the tokens may contain.
    size: Maximum number of tokens.
    min_frequency: Number of times that two tokens must occur next to each other
      to become one.

  Raises:
    UserError: There is no room for the single characters.
  """
  words = {
    word: number
    for word, number in words.items()
    if len(word) <= _LONGEST_WORD and characters.issuperset(word)
  }
  alphabet = set()
  for word in words:
    alphabet.add(word[0])
    alphabet.update("##" + character for character in word[1:])
  if len(alphabet) > size:
    raise UserError(
      f"The text has {len(characters)} different characters, which take "
      f"{len(alphabet)} of the {size} tokens that are not special or unused. "
      "Raise --vocab_size, or lower --character_coverage."
    )
  # The trainer also lists each character as the start of a word, even if no
  # word starts with it; these tokens are dropped below.
  num_superfluous = len(characters - alphabet)
  trainer = tokenizers.trainers.WordPieceTrainer(
    vocab_size=size + num_superfluous,
    # Among equally frequent pairs, the pair with the lower ids is merged first.
    # Ids that are given here are the same in every run.
    special_tokens=sorted(alphabet),
    min_frequency=min_frequency,
    continuing_subword_prefix="##",
    show_progress=False,
  )
  tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece())
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
  tokenizer.train_from_iterator(_repeat_words(words), trainer)
  vocab = tokenizer.get_vocab()
  tokens = []
  for token in sorted(vocab, key=lambda token: vocab[token]):
    if token in alphabet or token not in characters:
      tokens.append(token)
  return tokens[:size]


def _repeat_words(words: Mapping[str, int]) -> Iterator[str]:
  """Yields text that contains each word the given number of times."""
  for word, number in sorted(words.items()):
    most_at_once = max(1, _TRAINER_CHARACTERS // (len(word) + 1))
    while number > 0:
      yield f"{word} " * min(number, most_at_once)
      number -= most_at_once


# --- The report --------------------------------------------------------------


def create_report(
  tokens: Sequence[str],
  words: Mapping[str, int],
  counts: collections.Counter,
  characters: set[str],
) -> dict[str, Any]:
  """Returns the report on a vocabulary, measured on the words it comes from."""
  vocab = {token: i for i, token in enumerate(tokens)}
  wordpiece = tokenization.WordpieceTokenizer(vocab)
  num_pieces = num_unknown = 0
  for word, number in words.items():
    pieces = wordpiece.split_word(word)
    num_pieces += number * len(pieces)
    if pieces == ["[UNK]"]:
      num_unknown += number
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


if __name__ == "__main__":
  define_flags()
  launch.run(main, check_flags, saves_at_signals=False)
