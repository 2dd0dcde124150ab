"""Tests of data/tokenizer_settings.py."""

import json

import pytest

from data import tokenizer_settings
from errors import UserError

SpecialTokens = tokenizer_settings.SpecialTokens
TokenizerSettings = tokenizer_settings.TokenizerSettings


def read(folder, **files):
  """Returns the settings of a folder with files, by their names."""
  for name, content in files.items():
    (folder / f"{name}.json").write_text(json.dumps(content))
  return TokenizerSettings.read(str(folder))


@pytest.mark.parametrize(
  "settings, fields",
  [
    (TokenizerSettings(), {"do_lower_case": True}),
    (TokenizerSettings(strip_accents=True), {"do_lower_case": True}),
    (TokenizerSettings(False, False), {"do_lower_case": False}),
    (
      TokenizerSettings(True, False, False, SpecialTokens(sep="[END]")),
      {
        "do_lower_case": True,
        "strip_accents": False,
        "tokenize_chinese_chars": False,
        "sep_token": "[END]",
      },
    ),
  ],
)
def test_files_name_what_is_not_as_in_bert(tmp_path, settings, fields):
  settings.write(str(tmp_path))
  assert json.loads((tmp_path / "tokenizer_config.json").read_text()) == fields
  assert TokenizerSettings.read(str(tmp_path)).to_fields() == fields


def test_a_folder_without_settings(tmp_path):
  assert TokenizerSettings.read(str(tmp_path)) is None
  assert read(tmp_path, tokenizer_config={"model_max_length": 512}) is None


def test_settings_as_transformers_writes_them(tmp_path):
  token = {"content": "<s>", "lstrip": False}
  assert read(
    tmp_path,
    tokenizer_config={
      "do_lower_case": False,
      "strip_accents": None,
      "tokenize_chinese_chars": False,
      "cls_token": token,
      "pad_token": None,
      "tokenizer_class": "BertTokenizer",
    },
    special_tokens_map={"cls_token": "[X]", "mask_token": "<mask>"},
  ) == TokenizerSettings(
    False, None, False, SpecialTokens(cls="<s>", mask="<mask>")
  )


BERT_NORMALIZER = {
  "type": "BertNormalizer",
  "clean_text": True,
  "handle_chinese_chars": False,
  "strip_accents": False,
  "lowercase": True,
}


@pytest.mark.parametrize(
  "normalizer, settings",
  [
    (BERT_NORMALIZER, TokenizerSettings(True, False, False)),
    (
      {"type": "Sequence", "normalizers": [{"type": "NFC"}, BERT_NORMALIZER]},
      TokenizerSettings(True, False, False),
    ),
    (
      {"type": "Sequence", "normalizers": [{"type": "Lowercase"}]},
      TokenizerSettings(True, False),
    ),
    ({"type": "StripAccents"}, TokenizerSettings(False, True)),
    ({"type": "NFC"}, None),
    ({"type": ["x"], "normalizers": 3}, None),
    (None, None),
  ],
)
def test_normalizers(tmp_path, normalizer, settings):
  assert read(tmp_path, tokenizer={"normalizer": normalizer}) == settings


def test_the_config_takes_precedence_over_the_normalizer(tmp_path):
  assert read(
    tmp_path,
    tokenizer={"normalizer": BERT_NORMALIZER},
    tokenizer_config={"do_lower_case": False, "strip_accents": True},
  ) == TokenizerSettings(False, True, False)


@pytest.mark.parametrize(
  "fields, message",
  [
    ({"do_lower_case": "no"}, "do_lower_case is 'no', not true or false"),
    ({"strip_accents": 1}, "strip_accents is 1, not true or false"),
    ({"cls_token": ""}, "cls_token is '', not a token"),
    ({"cls_token": ["[CLS]"]}, "cls_token is .*, not a token"),
  ],
)
def test_bad_settings_are_refused(tmp_path, fields, message):
  with pytest.raises(UserError, match=f"tokenizer_config.json: {message}"):
    read(tmp_path, tokenizer_config=fields)


def test_special_tokens_of_a_flag():
  parse = tokenizer_settings.parse_special_tokens
  assert parse(["cls=[START]", "mask=a=b"], "--x") == {
    "cls_token": "[START]",
    "mask_token": "a=b",
  }
  for text in ("[START]", "cls=", "bos=<s>", "=x", "cls= x"):
    with pytest.raises(UserError, match="--x: .* is not of the form name=tok"):
      parse([text], "--x")


def test_a_vocabulary_may_be_in_tokenizer_json_alone(tmp_path):
  path = tmp_path / "tokenizer.json"
  assert tokenizer_settings.find_vocabulary(str(tmp_path)).endswith("vocab.txt")
  model = {"type": "WordPiece", "vocab": {"b": 1, "[PAD]": 0}}
  added = [{"id": 0, "content": "[PAD]"}, {"id": 2, "content": "[MASK]"}]
  path.write_text(json.dumps({"model": model, "added_tokens": added}))
  assert tokenizer_settings.find_vocabulary(str(tmp_path)) == str(path)
  assert tokenizer_settings.read_vocabulary(str(path)) == b"[PAD]\nb\n[MASK]\n"
  for wrong, message in [
    ({"type": "BPE", "vocab": {"b": 0}}, "not the WordPiece tokenizer"),
    ({"vocab": {"a": 0, "b": 2}}, "2 ids, but none of them is 1"),
    ({"vocab": {"a\n": 0}}, "1 ids, but none of them is 0"),
  ]:
    path.write_text(json.dumps({"model": wrong}))
    with pytest.raises(UserError, match=message):
      tokenizer_settings.read_vocabulary(str(path))
