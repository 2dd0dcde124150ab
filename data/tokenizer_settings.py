"""Settings of a tokenizer, and the files in which models keep them.

They lie next to the vocabulary, in the form of PyTorch transformers:

tokenizer_config.json    all settings; the only file that we write
special_tokens_map.json  special tokens, where they are in a file of their own
tokenizer.json           the settings once more, as the `normalizer`
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import dataclasses
import os
import reprlib
from typing import Any

import tensorflow as tf

from data import file_io
from errors import UserError

FILE = "tokenizer_config.json"
VOCAB_FILE = "vocab.txt"
_TOKENS_FILE = "special_tokens_map.json"
_WHOLE_FILE = "tokenizer.json"

# Our names of the settings, and those of a normalizer in `tokenizer.json`.
_NORMALIZER_NAMES = {
  "do_lower_case": "lowercase",
  "strip_accents": "strip_accents",
  "tokenize_chinese_chars": "handle_chinese_chars",
}
_TOKEN_SUFFIX = "_token"


@dataclasses.dataclass(frozen=True)
class SpecialTokens:
  """The special tokens of a vocabulary.

  Attributes:
    pad: Fills batches; its id is 0.
    unk: Stands for an unknown word.
    cls: Begins a sequence.
    sep: Ends each text of a sequence.
    mask: Stands for a token that is to be predicted.
  """

  pad: str = "[PAD]"
  unk: str = "[UNK]"
  cls: str = "[CLS]"
  sep: str = "[SEP]"
  mask: str = "[MASK]"


BERT_TOKENS = SpecialTokens()


@dataclasses.dataclass(frozen=True)
class TokenizerSettings:
  """Settings of a tokenizer, apart from the words of its vocabulary.

  Attributes:
    do_lower_case: Whether to lower-case; True for uncased models.
    strip_accents: Whether to drop accents; None to drop them if
      `do_lower_case`.
    tokenize_chinese_chars: Whether each Chinese character is a word.
    special_tokens: Names of the special tokens.
  """

  do_lower_case: bool = True
  strip_accents: bool | None = None
  tokenize_chinese_chars: bool = True
  special_tokens: SpecialTokens = BERT_TOKENS

  @property
  def strips_accents(self) -> bool:
    """True if accents are dropped."""
    if self.strip_accents is None:
      return self.do_lower_case
    return self.strip_accents

  def to_fields(self) -> dict[str, Any]:
    """Returns the fields of `tokenizer_config.json`."""
    return {"do_lower_case": self.do_lower_case, **self.unusual_fields()}

  def unusual_fields(self) -> dict[str, Any]:
    """Returns the fields that BERT does without; none for most models."""
    fields: dict[str, Any] = {}
    if self.strips_accents != self.do_lower_case:
      fields["strip_accents"] = self.strips_accents
    if not self.tokenize_chinese_chars:
      fields["tokenize_chinese_chars"] = False
    for name, token in dataclasses.asdict(self.special_tokens).items():
      if token != getattr(BERT_TOKENS, name):
        fields[name + _TOKEN_SUFFIX] = token
    return fields

  @classmethod
  def from_fields(cls, fields: Mapping[str, Any]) -> TokenizerSettings:
    """Returns settings with the values of fields as of `to_fields`.

    Settings that the fields do not mention are those of an uncased BERT.
    """
    values = dict(fields)
    tokens = {
      name.removesuffix(_TOKEN_SUFFIX): values.pop(name)
      for name in fields
      if name.endswith(_TOKEN_SUFFIX)
    }
    return cls(special_tokens=SpecialTokens(**tokens), **values)

  @classmethod
  def read(cls, folder: str) -> TokenizerSettings | None:
    """Returns the settings of a folder; None if its files say nothing.

    Raises:
      UserError: See `read_fields`.
    """
    fields = read_fields(folder)
    return cls.from_fields(fields) if fields else None

  def write(self, folder: str) -> None:
    """Writes `tokenizer_config.json`."""
    file_io.write_json(os.path.join(folder, FILE), self.to_fields())


def read_vocabulary(path: str) -> bytes:
  """Returns a vocabulary in the form of `vocab.txt`, one token per line.

  Args:
    path: Path of a `vocab.txt`, or of a `tokenizer.json`, which has the
      vocabulary, too, and in new folders of transformers is the only file that
      does.

  Raises:
    UserError: The file cannot be read, or is the tokenizer of another model.
  """
  if not path.endswith(".json"):
    return file_io.read_bytes(path)
  fields = file_io.read_json(path)
  model = fields.get("model")
  kind = model.get("type", "WordPiece") if isinstance(model, dict) else None
  vocab = model.get("vocab") if kind == "WordPiece" else None
  if not isinstance(vocab, dict):
    raise UserError(f"{path} is not the WordPiece tokenizer of a BERT.")
  # As texts, because a damaged file may have anything for a number.
  tokens = {str(number): token for token, number in vocab.items()}
  added_tokens = fields.get("added_tokens")
  for added in added_tokens if isinstance(added_tokens, list) else []:
    if isinstance(added, dict):
      tokens.setdefault(str(added.get("id")), added.get("content"))
  lines = [tokens.get(str(number)) for number in range(len(tokens))]
  for number, token in enumerate(lines):
    if not isinstance(token, str) or "\n" in token:
      raise UserError(
        f"{path}: the vocabulary has {len(tokens)} ids, but none of them is "
        f"{number}. Is the file complete?"
      )
  return "".join(f"{token}\n" for token in lines).encode()


def find_vocabulary(folder: str) -> str:
  """Returns the path of the vocabulary in a folder; see `read_vocabulary`."""
  path = os.path.join(folder, VOCAB_FILE)
  whole_path = os.path.join(folder, _WHOLE_FILE)
  is_whole = not tf.io.gfile.exists(path) and tf.io.gfile.exists(whole_path)
  return whole_path if is_whole else path


def field_names() -> list[str]:
  """Returns the names of all fields of `TokenizerSettings.to_fields`."""
  tokens = [field.name for field in dataclasses.fields(SpecialTokens)]
  return [*_NORMALIZER_NAMES, *(name + _TOKEN_SUFFIX for name in tokens)]


def parse_special_tokens(
  assignments: Iterable[str], flag: str
) -> dict[str, str]:
  """Returns the fields of special tokens in texts such as `cls=[START]`.

  Args:
    assignments: The texts.
    flag: The flag that they come from, for messages.

  Raises:
    UserError: A text has another form, or names no special token.
  """
  names = [field.name for field in dataclasses.fields(SpecialTokens)]
  fields = {}
  for assignment in assignments:
    name, _, token = assignment.partition("=")
    if name not in names or not token or token != token.strip():
      raise UserError(
        f"{flag}: {assignment!r} is not of the form name=token, with "
        f"{', '.join(names)} as names. An example is cls=[START],sep=[END]."
      )
    fields[name + _TOKEN_SUFFIX] = token
  return fields


def pick_fields(fields: Mapping[str, Any], path: str) -> dict[str, Any]:
  """Returns the settings among the fields of a JSON object, checked.

  Args:
    fields: The fields; one that is null counts as absent.
    path: The file that they come from, for messages.

  Raises:
    UserError: A setting has an impossible value.
  """
  picked: dict[str, Any] = {}
  for name in field_names():
    value = fields.get(name)
    wanted: type = bool
    if name.endswith(_TOKEN_SUFFIX):
      wanted = str
      if isinstance(value, dict):  # a token with settings of its own
        value = value.get("content")
    if value is None:
      continue
    if not isinstance(value, wanted) or value == "":
      allowed = "true or false" if wanted is bool else "a token"
      raise UserError(
        f"{path}: {name} is {reprlib.repr(value)}, not {allowed}. Correct it."
      )
    picked[name] = value
  return picked


def read_fields(folder: str) -> dict[str, Any]:
  """Returns the settings that the files in a folder name; see `to_fields`.

  Raises:
    UserError: A file is damaged, or a setting has an impossible value.
  """
  fields: dict[str, Any] = {}
  tokens_path = os.path.join(folder, _TOKENS_FILE)
  if tf.io.gfile.exists(tokens_path):
    fields.update(pick_fields(file_io.read_json(tokens_path), tokens_path))
  path = os.path.join(folder, FILE)
  if tf.io.gfile.exists(path):
    fields.update(pick_fields(file_io.read_json(path), path))
  whole_path = os.path.join(folder, _WHOLE_FILE)
  if tf.io.gfile.exists(whole_path):
    # In transformers, too, `tokenizer_config.json` takes precedence.
    fields = {**_read_normalizer(whole_path), **fields}
  return fields


def _read_normalizer(path: str) -> dict[str, Any]:
  """Returns the settings of the normalizer of a `tokenizer.json`."""
  normalizer = file_io.read_json(path).get("normalizer")
  parts = [normalizer]
  if isinstance(normalizer, dict) and "normalizers" in normalizer:
    parts = normalizer["normalizers"]
  if not isinstance(parts, list):
    return {}
  by_kind = {
    str(part.get("type")): part for part in parts if isinstance(part, dict)
  }
  bert = by_kind.get("BertNormalizer")
  if bert:
    named = {
      name: bert.get(theirs) for name, theirs in _NORMALIZER_NAMES.items()
    }
    return pick_fields(named, f"{path}, normalizer")
  if "Lowercase" in by_kind or "StripAccents" in by_kind:
    return {
      "do_lower_case": "Lowercase" in by_kind,
      "strip_accents": "StripAccents" in by_kind,
    }
  return {}
