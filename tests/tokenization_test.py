"""Tests of tokenization.py."""

import gzip
import json
import os
import random
import unicodedata

import conftest
import pytest

import tokenization

# Characters that trip tokenizers: several kinds of space, controls, marks,
# Chinese and its neighbours, capitals whose lower case is longer or depends on
# the place, ligatures, surrogate-free astral characters.
ODD = ("\t\n\r\v\f\0\x1c\x85\xa0\u2028\u3000\ufffd\ufeff\u200b\u00ad"
       "ΣσςİıßẞÅéñÆﬁ①Ω한글กำभाषा中文字豈龥\U00020000\U0001D165\U0001F600"
       "\u0301\u0302\u0327\u0591\u302e$^`~…«»。·-'\"")


@pytest.fixture
def tokenizer(vocab_file):
  return tokenization.FullTokenizer(vocab_file)


def test_known_examples(tokenizer):
  assert tokenizer.tokenize("The CATS unaffable, réd!") == [
      "the", "cat", "##s", "un", "##aff", "##able", ",", "red", "!"]
  ids = tokenizer.encode("a dog.")
  assert tokenizer.convert_ids_to_tokens(ids) == ["a", "dog", "."]
  assert tokenizer.convert_tokens_to_ids(["a", "dog", "."]) == ids


def test_basic_tokenizer_case_accents_and_never_split():
  basic = tokenization.BasicTokenizer
  text = " \tHeLLo!how  \n Äre [MASK]中? "
  assert basic().tokenize(text) == [
      "hello", "!", "how", "are", "[", "mask", "]", "中", "?"]
  assert basic(do_lower_case=False).tokenize("ÄB") == ["ÄB"]
  assert basic(strip_accents=False).tokenize("ÄB") == ["äb"]
  assert basic(do_lower_case=False, strip_accents=True).tokenize("ÄB") == ["AB"]
  assert basic(never_split=["[MASK]"]).tokenize("a [MASK]b[MASK].") == [
      "a", "[MASK]", "b", "[MASK]", "."]
  assert basic().tokenize("ΑΣ ΣΑ ΑΣ.") == ["ας", "σα", "ας", "."]


def test_wordpiece_takes_the_longest_piece_and_gives_up_on_long_words():
  vocab = {token: i for i, token in enumerate(
      ["[UNK]", "a", "ab", "##c", "##cd", "##d"])}
  wordpiece = tokenization.WordpieceTokenizer(
      vocab, max_input_chars_per_word=5)
  assert wordpiece.tokenize("abcd abc x abx") == [
      "ab", "##cd", "ab", "##c", "[UNK]", "[UNK]"]
  assert wordpiece.tokenize("abcdd abcddd") == ["ab", "##cd", "##d", "[UNK]"]


@pytest.mark.parametrize("do_lower_case", [True, False])
def test_tables_and_the_walk_over_characters_agree(do_lower_case):
  # Two implementations in one module: `tokenize` looks characters up,
  # `split_with_offsets` applies Unicode's rules to whole words.
  basic = tokenization.BasicTokenizer(do_lower_case, never_split=["[X]"])
  rng = random.Random(0)
  alphabet = ODD + "aAbB  " + "".join(
      chr(rng.randrange(0x20, 0xD800)) for _ in range(300))
  for _ in range(3000):
    text = "".join(rng.choices(alphabet, k=rng.randrange(12)))
    if rng.random() < 0.2:
      text += "[X]" + text
    walked = basic.split_with_offsets(text)
    assert basic.tokenize(text) == [
        "".join(char.text for char in word) for word in walked], repr(text)
    spans = [(word[0].start, word[-1].end) for word in walked]
    assert all(0 <= s <= e <= len(text) for s, e in spans), repr(text)
    assert spans == sorted(spans), repr(text)


def test_offsets_give_back_what_was_written(tokenizer):
  text = "Réd  CATS\u0301, 中 unaffable"
  ids, offsets = tokenizer.encode_with_offsets(text)
  assert ids == tokenizer.encode(text)
  assert [text[start:end] for start, end in offsets] == [
      "Réd", "CAT", "S\u0301", ",", "中", "un", "aff", "able"]


def test_never_split_tokens_get_their_ids(vocab_file):
  tokenizer = tokenization.FullTokenizer(vocab_file, never_split=["[MASK]"])
  assert tokenizer.tokenize("a [MASK].") == ["a", "[MASK]", "."]
  ids, offsets = tokenizer.encode_with_offsets("a [MASK].")
  assert ids == tokenizer.encode("a [MASK].") and offsets[1] == (2, 8)
  with pytest.raises(ValueError, match=r"\[NOPE\]"):
    tokenization.FullTokenizer(vocab_file, never_split=["[NOPE]"])


def test_cache_is_bounded_and_changes_nothing(vocab_file, monkeypatch):
  monkeypatch.setattr(tokenization, "_CACHE_SIZE", 10)
  rng = random.Random(0)
  texts = [" ".join(rng.choices(conftest.WORDS, k=6)) for _ in range(50)]
  small = tokenization.FullTokenizer(vocab_file)
  encoded = [small.encode(text) for text in texts]
  assert len(small._stretch_ids) <= 10
  monkeypatch.undo()
  assert encoded == [tokenization.FullTokenizer(vocab_file).encode(text)
                     for text in texts]


def test_vocabulary_lines_are_stripped_and_later_duplicates_win(tmp_path):
  path = tmp_path / "vocab.txt"
  path.write_text("[UNK]\n[CLS]\n[SEP]\n[MASK]\n a \nb\na\n")
  assert tokenization.load_vocab(str(path))["a"] == 6


@pytest.mark.parametrize("content, message", [
    (b"[UNK]\n[CLS]\n[SEP]\n", r"not \[MASK\]"),
    (b"", r"not \[UNK\], \[CLS\]"),
    (b"[UNK]\n\xff\n", "not UTF-8: line 2")])
def test_bad_vocabularies_are_refused(tmp_path, content, message):
  path = tmp_path / "vocab.txt"
  path.write_bytes(content)
  with pytest.raises(ValueError, match=message):
    tokenization.FullTokenizer(str(path))


def test_lower_casing_for_a_cased_vocabulary_is_refused():
  cased = ["[CLS]", "a", "The", "Cat", "dog"]
  with pytest.raises(ValueError, match="do_lower_case=False"):
    tokenization.validate_case_matches_vocab(True, cased, "vocab.txt")
  tokenization.validate_case_matches_vocab(False, cased, "vocab.txt")
  tokenization.validate_case_matches_vocab(True, ["[CLS]", "a"], "vocab.txt")


def test_tokens_of_the_reference(golden_dir):
  vocab_dir = os.path.join(golden_dir, "..", "data", "vocab")
  tokenizers = {}
  path = os.path.join(golden_dir, "tokenization", "cases.jsonl.gz")
  with gzip.open(path, "rt", encoding="utf-8") as reader:
    for line in reader:
      case = json.loads(line)
      # The tokens are by the tables of Unicode 14, Python 3.11's. An older
      # Python does not know some of the characters.
      if unicodedata.unidata_version < "14.0.0" and any(
          unicodedata.category(char) == "Cn" for char in case["text"]):
        continue
      key = (case["vocab"], case["do_lower_case"])
      if key not in tokenizers:
        tokenizers[key] = tokenization.FullTokenizer(
            os.path.join(vocab_dir, case["vocab"], "vocab.txt"), key[1])
      tokenizer = tokenizers[key]
      assert tokenizer.tokenize(case["text"]) == case["tokens"], case
      assert (tokenizer.encode_with_offsets(case["text"])[0]
              == tokenizer.encode(case["text"])), case
  assert len(tokenizers) == 4
