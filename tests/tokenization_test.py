"""Tests of tokenization.py."""

import gzip
import itertools
import json
import os
import random
import string
import unicodedata

import builders
import pytest

from data import tokenizer_settings
from errors import UserError
import tokenization

# Characters that trip tokenizers: several kinds of space, controls, marks,
# Chinese and its neighbours, capitals whose lower case is longer or depends on
# the place, ligatures, surrogate-free astral characters.
ODD = (
  "\t\n\r\v\f\0\x1c\x85\xa0\u2028\u3000\ufffd\ufeff\u200b\u00ad"
  "ΣσςİıßẞÅéñÆﬁ①Ω한글กำभाषा中文字豈龥\U00020000\U0001d165\U0001f600"
  "\u0301\u0302\u0327\u0591\u302e$^`~…«»。·-'\""
)


def test_known_examples(tokenizer):
  assert tokenizer.tokenize("The CATS unaffable, réd!") == [
    "the",
    "cat",
    "##s",
    "un",
    "##aff",
    "##able",
    ",",
    "red",
    "!",
  ]
  ids = tokenizer.encode("a dog.")
  assert tokenizer.convert_ids_to_tokens(ids) == ["a", "dog", "."]
  assert tokenizer.convert_tokens_to_ids(["a", "dog", "."]) == ids


def test_basic_tokenizer_case_accents_and_never_split():
  basic = tokenization.BasicTokenizer
  text = " \tHeLLo!how  \n Äre [MASK]中? "
  assert basic().tokenize(text) == [
    "hello",
    "!",
    "how",
    "are",
    "[",
    "mask",
    "]",
    "中",
    "?",
  ]
  assert basic(do_lower_case=False).tokenize("ÄB") == ["ÄB"]
  assert basic(strip_accents=False).tokenize("ÄB") == ["äb"]
  assert basic(do_lower_case=False, strip_accents=True).tokenize("ÄB") == ["AB"]
  assert basic(never_split=["[MASK]"]).tokenize("a [MASK]b[MASK].") == [
    "a",
    "[MASK]",
    "b",
    "[MASK]",
    ".",
  ]
  assert basic().tokenize("ΑΣ ΣΑ ΑΣ.") == ["ας", "σα", "ας", "."]
  assert basic().tokenize("ΑΣ\ufffdΑ") == ["ασα"]


def test_wordpiece_takes_the_longest_piece_and_gives_up_on_long_words():
  vocab = {
    token: i
    for i, token in enumerate(["[UNK]", "a", "ab", "##c", "##cd", "##d"])
  }
  wordpiece = tokenization.WordpieceTokenizer(vocab, max_input_chars_per_word=5)
  assert wordpiece.tokenize("abcd abc x abx") == [
    "ab",
    "##cd",
    "ab",
    "##c",
    "[UNK]",
    "[UNK]",
  ]
  assert wordpiece.tokenize("abcdd abcddd") == ["ab", "##cd", "##d", "[UNK]"]
  # By default a word may have 200 characters, as in the original code.
  wordpiece = tokenization.WordpieceTokenizer({"[UNK]": 0, "a": 1, "##a": 2})
  assert wordpiece.tokenize(200 * "a") == ["a", *199 * ["##a"]]
  assert wordpiece.tokenize(201 * "a") == ["[UNK]"]


def test_of_pieces_that_begin_alike_the_longest_that_fits_is_taken():
  pieces = ["una", "unable", "##", "##un", "##una", "##unabl", "##bx", "#"]
  vocab = {piece: i for i, piece in enumerate(["[UNK]", *pieces])}
  wordpiece = tokenization.WordpieceTokenizer(vocab)
  assert wordpiece.tokenize("unable") == ["unable"]
  assert wordpiece.tokenize("unabx") == ["una", "##bx"]
  assert wordpiece.tokenize("unaunabx") == ["una", "##una", "##bx"]
  assert wordpiece.tokenize("unaunabl") == ["una", "##unabl"]
  assert wordpiece.tokenize("unaunx") == ["[UNK]"]


def test_a_word_may_begin_as_pieces_inside_of_words_do():
  # Text that is not split at punctuation first may hold such words.
  vocab = {"[UNK]": 0, "##ing": 1, "##s": 2, "#": 3, "###": 4}
  wordpiece = tokenization.WordpieceTokenizer(vocab)
  assert wordpiece.tokenize("##ings ##s") == ["##ing", "##s", "##s"]
  assert wordpiece.tokenize("###") == ["###"]
  assert wordpiece.tokenize("##") == ["#", "###"]


# --- Offsets -----------------------------------------------------------------


def test_offsets_give_back_what_was_written(tokenizer):
  text = "Réd  CATS\u0301, 中\ufe00 unaffable"
  ids, offsets = tokenizer.encode_with_offsets(text)
  assert ids == tokenizer.encode(text)
  assert [text[start:end] for start, end in offsets] == [
    "Réd",
    "CAT",
    "S\u0301",
    ",",
    "中\ufe00",
    "un",
    "aff",
    "able",
  ]


def test_marks_that_change_places_are_covered_together():
  # The class of the second mark is the lowest, so it comes first; it and the
  # last one are kept, the first and the third are not.
  text = "ab\u0301\U0001d165\u0301\u302ec"
  [word] = tokenization.BasicTokenizer().split_with_offsets(text)
  assert word == ("ab\U0001d165\u302ec", [0, 1, 2, 2, 6], [1, 2, 6, 6, 7])


def test_marks_that_are_kept_are_put_in_canonical_order():
  # No mark is dropped here; that of the lower class comes first.
  words = tokenization.BasicTokenizer().tokenize("a\u302e\U0001d165")
  assert words == ["a\U0001d165\u302e"]


def test_marks_that_are_in_order_have_places_of_their_own():
  [word] = tokenization.BasicTokenizer().split_with_offsets(
    "a\U0001d165\u302eb"
  )
  assert word == ("a\U0001d165\u302eb", [0, 1, 2, 3], [1, 2, 3, 4])


def test_a_control_character_is_dropped_even_if_it_separates_words_elsewhere():
  [word] = tokenization.BasicTokenizer().split_with_offsets("a\x1cb")
  assert word == ("ab", [0, 2], [1, 3])


_MARKS = [
  chr(codepoint)
  for codepoint in range(0x20000)
  if unicodedata.combining(chr(codepoint))
]
_KEPT_MARKS = [char for char in _MARKS if unicodedata.category(char) != "Mn"]
_POOLS = [
  "abcdeABCDE  .,'",
  ODD,
  "ΑΣΣσςα.'",
  "İIıiẞßﬁﬀǅKÅΩΐᾳ≮①",
  "é\u1e69ệÅǰñ",
  "एकभाषा\u09cb\u0bcb\u0dddகொ",
  "한글각힣각ᅵᇂ",
  "中\ufe00豈龥\U0002f800。「」",
  "\U0001f468\u200d\U0001f469\U0001f3fb\ufe0f",
  "\0\x01\x7f\x9f\x1c\xad\u200b\u202e",
  " \xa0\u1680\u2009\u202f\u3000\u2028\u2029\x85\x0b",
  "\ue000\uf8ff\U0010ffff\u0378",
  "\U0001d15e\U0001d160\u0344\u0340\u0f73",
  _MARKS,
  _KEPT_MARKS,
]
_TOKENS = ("[MASK]", "[unused1]")


def random_text(rng):
  """Returns text that mixes scripts, marks, spaces and what is not text."""
  parts = []
  for _ in range(rng.randrange(1, 12)):
    kind = rng.random()
    if kind < 0.05:
      parts.append(rng.choice(_TOKENS))
    elif kind < 0.1:
      parts.append(
        chr(
          rng.choice([rng.randrange(0xD800), rng.randrange(0xE000, 0x110000)])
        )
      )
    elif kind < 0.11:
      parts.append(rng.choice(rng.choice(_POOLS)) * rng.randrange(190, 210))
    elif kind < 0.3:
      parts += rng.choices(_MARKS + 10 * _KEPT_MARKS, k=rng.randrange(1, 5))
    else:
      parts += rng.choices(rng.choice(_POOLS), k=rng.randrange(1, 6))
  return "".join(parts)


def tokenizers_of_random_text(folder):
  """Returns a tokenizer for each setting, of pieces of some random texts."""
  rng = random.Random(0)
  settings = list(
    itertools.product([True, False], [True, False], [(), _TOKENS])
  )
  pieces = set()
  for _ in range(1000):
    text = random_text(rng)
    for do_lower_case, strip_accents, _ in settings:
      for word in tokenization.BasicTokenizer(
        do_lower_case, strip_accents
      ).tokenize(text):
        pieces.update(word)
        start = rng.randrange(len(word))
        pieces.add(word[start : start + rng.randrange(1, 4)])
  path = folder / "pieces.txt"
  path.write_text(
    "\n".join(
      [
        "[UNK]",
        "[CLS]",
        "[SEP]",
        *_TOKENS,
        *sorted(pieces),
        *(f"##{piece}" for piece in sorted(pieces)),
      ]
    )
    + "\n"
  )
  return [
    tokenization.FullTokenizer(str(path), *setting) for setting in settings
  ]


@pytest.mark.parametrize(
  "text, words",
  [
    # A character that is dropped, inside of a word and before one.
    ("a\ufffdb c", [("ab", [0, 2], [1, 3]), ("c", [4], [5])]),
    ("\u0301a.", [("a", [1], [2]), (".", [2], [3])]),
  ],
)
def test_each_character_of_a_word_has_a_source(text, words):
  assert tokenization.BasicTokenizer().split_with_offsets(text) == words


def check_offsets(tokenizer, text):
  """Checks all that is true of words, pieces and their offsets."""
  basic = tokenizer.basic_tokenizer

  def normalize(text):
    # A sigma is lower-cased by its place, which a part of a text lacks.
    return "".join(basic.tokenize(text)).replace("ς", "σ")

  ids, offsets = tokenizer.encode_with_offsets(text)
  assert ids == tokenizer.encode(text), repr(text)
  for bounds in zip(*offsets):
    assert list(bounds) == sorted(bounds), repr(text)
  words = [word.text for word in basic.split_with_offsets(text)]
  assert words == basic.tokenize(text), repr(text)
  pieces = []
  for word in words:
    of_word = tokenizer.wordpiece_tokenizer.split_word(word)
    pieces += (
      [word]
      if of_word == ["[UNK]"]
      else [of_word[0], *(piece[2:] for piece in of_word[1:])]
    )
  # The stretch of a piece, normalized alone, gives the piece. So do stretches
  # that overlap, put together, and each of them contains its piece.
  shared, shared_start, shared_end = "", 0, 0
  for piece, (start, end) in zip(pieces, offsets, strict=True):
    piece = piece.replace("ς", "σ")
    assert 0 <= start < end <= len(text), repr(text)
    assert piece in normalize(text[start:end]), repr(text)
    if start >= shared_end:
      assert shared == normalize(text[shared_start:shared_end]), repr(text)
      shared, shared_start = "", start
    shared += piece
    shared_end = end
  assert shared == normalize(text[shared_start:shared_end]), repr(text)


def check_random_texts(folder, num_texts):
  tokenizers = tokenizers_of_random_text(folder)
  rng = random.Random(1)
  for number in range(num_texts):
    check_offsets(tokenizers[number % len(tokenizers)], random_text(rng))


def test_offsets_of_any_text(tmp_path):
  check_random_texts(tmp_path, 2500)


@pytest.mark.large
def test_offsets_of_a_million_texts(tmp_path):
  check_random_texts(tmp_path, 1_000_000)


def test_words_follow_the_rules_of_unicode():
  # The rules apply to text that is lower-cased and normalized as a whole.
  rng = random.Random(3)
  basic = tokenization.BasicTokenizer()
  for _ in range(2000):
    text = random_text(rng).translate(tokenization._CLEAN_TABLE)
    text = "".join(
      f" {char} " if tokenization._is_cjk(char) else char for char in text
    )
    stripped = "".join(
      char
      for char in unicodedata.normalize("NFD", text.lower())
      if unicodedata.category(char) != "Mn"
    )
    expected = "".join(
      f" {char} " if tokenization._is_punctuation(char) else char
      for char in stripped
    ).split()
    assert basic.tokenize(text) == expected, repr(text)


# --- Tokens that are not split, the cache ------------------------------------


def test_of_two_tokens_that_are_not_split_the_longer_one_matches():
  basic = tokenization.BasicTokenizer(never_split=["[A", "[A]", "[B]"])
  assert basic.tokenize("x[A]y[B]z[A-") == [
    "x",
    "[A]",
    "y",
    "[B]",
    "z",
    "[A",
    "-",
  ]


def test_never_split_tokens_get_their_ids(vocab_file):
  tokenizer = tokenization.FullTokenizer(vocab_file, never_split=["[MASK]"])
  assert tokenizer.tokenize("a [MASK].") == ["a", "[MASK]", "."]
  ids, offsets = tokenizer.encode_with_offsets("a [MASK].")
  assert ids == tokenizer.encode("a [MASK].") and offsets[1] == (2, 8)
  with pytest.raises(ValueError, match=r"\[NOPE\]"):
    tokenization.FullTokenizer(vocab_file, never_split=["[NOPE]"])


def test_cleaning_makes_no_token_next_to_a_chinese_character(vocab_file):
  tokenizer = tokenization.FullTokenizer(vocab_file, never_split=["[MASK]"])
  text = "\u4e2d[MA\0SK]"
  ids, _ = tokenizer.encode_with_offsets(text)
  assert tokenizer.mask_id not in ids and tokenizer.encode(text) == ids


def test_texts_one_by_one_have_the_ids_of_each(tmp_path):
  tokens = [
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "a",
    "b",
    "##b",
    "[a]",
    "α",
    "##σ",
    "##α",
  ]
  path = tmp_path / "vocab.txt"
  path.write_text("\n".join([*tokens, "[", "]"]))
  # Spaces separate words even after text of the same characters was seen; the
  # zero byte is dropped before the place of the sigma in its word is known.
  words = ["a b", "b a", "ab", "a\tb", "ΑΣ\0Α", "", "[A]", "[a]"]
  expected = [[3, 4], [4, 3], [3, 5], [3, 4], [7, 8, 9], []]
  plain = tokenization.FullTokenizer(str(path))
  in_brackets = [10, 3, 11]
  ids = [list(ids) for ids in plain.encode_each(words)]
  assert ids == [*expected, in_brackets, in_brackets]
  unsplit = tokenization.FullTokenizer(str(path), never_split=["[a]"])
  ids = [list(ids) for ids in unsplit.encode_each([*words, "a[a]b"])]
  assert ids == [*expected, in_brackets, [6], [3, 6, 4]]


def test_cache_is_bounded_and_changes_nothing(vocab_file, monkeypatch):
  monkeypatch.setattr(tokenization, "_CACHE_SIZE", 10)
  rng = random.Random(0)
  texts = [" ".join(rng.choices(builders.WORDS, k=6)) for _ in range(50)]
  small = tokenization.FullTokenizer(vocab_file)
  encoded = [small.encode(text) for text in texts]
  assert len(small._stretch_ids) <= 10
  monkeypatch.undo()
  assert encoded == [
    tokenization.FullTokenizer(vocab_file).encode(text) for text in texts
  ]


def test_vocabulary_lines_are_stripped_and_later_duplicates_win(tmp_path):
  path = tmp_path / "vocab.txt"
  path.write_text("[UNK]\n[CLS]\n[SEP]\n[MASK]\n a \nb\na\n")
  assert tokenization.load_vocab(str(path))["a"] == 6


def test_vocabulary_may_begin_with_a_byte_order_mark(tmp_path):
  path = tmp_path / "vocab.txt"
  path.write_text("\ufeff[UNK]\n[CLS]\n[SEP]\n[MASK]\n\u2028\na\ufeff\n")
  assert list(tokenization.load_vocab(str(path))) == [
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "",
    "a\ufeff",
  ]


@pytest.mark.parametrize(
  "content, message",
  [
    (
      b"[UNK]\n[CLS]\n<s>\n",
      r"3 tokens, but not \[PAD\], \[SEP\], \[MASK\]. .*--special_tokens=cls=",
    ),
    (b"", "is empty"),
    (b"\xef\xbb\xbf\n", "is empty"),
    (b"\r\n \r\n", "is empty"),
    (b"[UNK]\n\xff\n", "line 2: not UTF-8"),
    (b"\n[UNK]\n\0\n", "zero byte in line 3. Is it text"),
    (
      "[UNK]\n[CLS]\n".encode("utf-16"),
      "text in UTF-16-LE.*iconv -f utf-16-le ",
    ),
    ("[UNK]\n[CLS]\n".encode("utf-16-le"), "text in UTF-16"),
    ("[UNK]\n[CLS]\n".encode("utf-16-be"), "text in UTF-16"),
    ("[UNK]\n[CLS]\n".encode("utf-32"), "text in UTF-32-LE"),
  ],
)
def test_bad_vocabularies_are_refused(tmp_path, content, message):
  path = tmp_path / "vocab.txt"
  path.write_bytes(content)
  with pytest.raises(UserError, match=f"vocab.txt.*{message}"):
    tokenization.FullTokenizer(str(path))


def test_vocabularies_that_are_no_files_are_refused(tmp_path):
  with pytest.raises(UserError, match="is a folder"):
    tokenization.load_vocab(str(tmp_path))
  with pytest.raises(UserError, match="vocab.txt does not exist"):
    tokenization.load_vocab(str(tmp_path / "vocab.txt"))


@pytest.mark.parametrize("end", ["", "\n", "\n\n", "\r\n\r\n\r\n", "\n \n\t\n"])
def test_blank_lines_at_the_end_are_no_tokens(tmp_path, end, caplog):
  path = tmp_path / "vocab.txt"
  path.write_bytes(("[UNK]\n[CLS]\n[SEP]\na" + end).encode())
  tokenizer = tokenization.FullTokenizer(str(path))
  assert list(tokenizer.inv_vocab.values()) == ["[UNK]", "[CLS]", "[SEP]", "a"]
  assert not caplog.messages


def test_only_carriage_returns_end_the_lines_of_an_old_mac(tmp_path):
  path = tmp_path / "vocab.txt"
  path.write_bytes(b"[UNK]\r[CLS]\r[SEP]\ra\r")
  assert tokenization.load_vocab(str(path))["a"] == 3


def test_a_blank_line_keeps_its_number_and_is_named(tmp_path, caplog):
  path = tmp_path / "vocab.txt"
  # A token that is itself white space, as in the Chinese vocabulary, is none.
  path.write_text("[UNK]\n[CLS]\n[SEP]\n\u2028\na\n\nb\n")
  for _ in range(2):
    vocab = tokenization.load_vocab(str(path))
  assert (vocab["a"], vocab["b"]) == (4, 6)
  [message] = caplog.messages
  assert "vocab.txt: line 6 is blank" in message
  path.write_text("[UNK]\n\n[CLS]\n[SEP]\n\na\n")
  tokenization.load_vocab(str(path))
  assert "vocab.txt: lines 2, 5 are blank" in caplog.messages[1]


def test_doubled_tokens_are_named(tmp_path, caplog):
  path = tmp_path / "vocab.txt"
  path.write_text("[UNK]\n[CLS]\n[SEP]\na\na\nb\nb\n")
  assert tokenization.load_vocab(str(path))["a"] == 4
  [message] = caplog.messages
  assert message == (
    f"{path} has 'a' in lines 4 and 5, 'b' in lines 6 and 7. The later line "
    "counts."
  )


@pytest.mark.parametrize("number, end", [(5, ""), (6, " and 1 more")])
def test_of_many_doubled_tokens_five_are_named(tmp_path, caplog, number, end):
  path = tmp_path / "vocab.txt"
  tokens = "".join(f"x{i}\n" for i in range(number))
  path.write_text("[UNK]\n[CLS]\n[SEP]\n" + 2 * tokens)
  tokenization.load_vocab(str(path))
  [message] = caplog.messages
  assert message.count(" in lines ") == 5
  last = f"'x4' in lines 8 and {8 + number}"
  assert message.endswith(f"{last}{end}. The later line counts.")


def test_special_tokens_may_have_other_names(tmp_path):
  path = tmp_path / "vocab.txt"
  path.write_text("<s>\n</s>\n<unk>\ngood\n")
  names = tokenizer_settings.SpecialTokens(unk="<unk>", cls="<s>", sep="</s>")
  tokenizer = tokenization.FullTokenizer(str(path), special_tokens=names)
  assert (tokenizer.cls_id, tokenizer.sep_id) == (0, 1)
  assert tokenizer.encode("good bad") == [3, 2]
  tokenizer.check_special_tokens("cls", "sep", "unk")
  with pytest.raises(
    UserError, match=r"no token \[MASK\].*--special_tokens=mask=<name>"
  ):
    tokenizer.check_special_tokens("mask")


def test_ascii_is_letters_punctuation_spaces_and_what_is_dropped():
  basic = tokenization.BasicTokenizer(do_lower_case=False)
  for char in map(chr, range(128)):
    if char.isalnum():
      expected = [f"a{char}b"]
    elif char in string.punctuation:
      expected = ["a", char, "b"]
    elif char in " \t\n\r":
      expected = ["a", "b"]
    else:
      expected = ["ab"]
    assert basic.tokenize(f"a{char}b") == expected, repr(char)


def test_chinese_characters_are_those_of_the_original_code():
  basic = tokenization.BasicTokenizer(do_lower_case=False)
  # The first and the last character of each block.
  bounds = "\u3400\u4dbf\u4e00\u9fff\uf900\ufaff"
  bounds += "\U00020000\U0002a6df\U0002a700\U0002b73f\U0002b740\U0002b81f"
  bounds += "\U0002b820\U0002ceaf\U0002f800\U0002fa1f"
  for char in bounds:
    assert basic.tokenize(f"a{char}b") == ["a", char, "b"], repr(char)
  # The characters before and after them, if they are in no block.
  neighbours = "\u33ff\u4dc0\u4dff\ua000\uf8ff\ufb00"
  neighbours += "\U0001ffff\U0002a6e0\U0002a6ff\U0002ceb0\U0002f7ff\U0002fa20"
  for char in neighbours:
    assert basic.tokenize(f"a{char}b") == [f"a{char}b"], repr(char)


def test_chinese_characters_are_words_unless_they_are_not():
  text = "\u4e2d\u6587a"
  assert tokenization.BasicTokenizer().tokenize(text) == [
    "\u4e2d",
    "\u6587",
    "a",
  ]
  basic = tokenization.BasicTokenizer(tokenize_chinese_chars=False)
  assert basic.tokenize(text) == [text]


def test_whole_chinese_words_have_the_ids_of_a_vocabulary_of_words(tmp_path):
  tokens = ["[UNK]", "[CLS]", "[SEP]", "\u4e2d", "\u6587", "\u4e2d\u6587"]
  path = tmp_path / "vocab.txt"
  path.write_text("\n".join(tokens))
  of_characters = tokenization.FullTokenizer(str(path))
  assert of_characters.encode("\u4e2d\u6587") == [3, 4]
  of_words = tokenization.FullTokenizer(str(path), tokenize_chinese_chars=False)
  assert of_words.encode("\u4e2d\u6587") == [5]


# --- Casing ------------------------------------------------------------------


def test_a_tenth_of_a_cased_vocabulary_has_capitals():
  words = list("abcdefghi")
  assert tokenization.has_capitals([*words, "A"])
  assert not tokenization.has_capitals([*words, "j", "A"])
  assert not tokenization.has_capitals(["[CLS]", "[SEP]", *words])
  assert not tokenization.has_capitals([])


def test_lower_casing_for_a_cased_vocabulary_is_refused(caplog):
  # Tokens in brackets do not count, neither those with capitals nor others.
  words = ["[CLS]", "[SEP]", "The", *"abcdefghi"]
  with pytest.raises(UserError) as error:
    tokenization.validate_case_matches_vocab(True, words, "vocab.txt")
  assert str(error.value) == (
    "--do_lower_case is on, but 1 of the 10 words of vocab.txt have capitals: "
    "this is a cased model. Pass --do_lower_case=False."
  )
  tokenization.validate_case_matches_vocab(False, words, "vocab.txt")
  # Less than a tenth is no cased vocabulary.
  tokenization.validate_case_matches_vocab(True, [*words, "j"], "vocab.txt")
  brackets = ["[unused1]"] * 90
  with pytest.raises(UserError):
    tokenization.validate_case_matches_vocab(
      True, [*words, *brackets], "vocab.txt"
    )
  assert not caplog.messages


def test_an_uncased_vocabulary_without_lower_casing_is_named(caplog):
  validate = tokenization.validate_case_matches_vocab
  validate(True, ["[CLS]", "a", "1"], "vocab.txt")
  validate(True, ["[CLS]"], "vocab.txt")
  # Words without letters, or of scripts without case, tell nothing.
  validate(False, ["[CLS]", "1", "\u4e2d"], "vocab.txt")
  validate(False, ["[CLS]", "[mask]"], "vocab.txt")
  validate(False, ["a", "b", "C"], "vocab.txt")
  assert not caplog.messages
  validate(False, ["[CLS]", "1", "a"], "vocab.txt")
  assert caplog.messages == [
    "--do_lower_case is off, but no word of vocab.txt has capitals: every word "
    "with a capital becomes [UNK]. For an uncased model, leave it on."
  ]


@pytest.mark.parametrize(
  "folder, is_cased",
  [
    ("uncased_L-12_H-768_A-12", False),
    ("wwm_uncased_L-24_H-1024_A-16", False),
    ("chinese_L-12_H-768_A-12", False),
    ("multilingual_L-12_H-768_A-12", False),
    ("cased_L-12_H-768_A-12", True),
    ("multi_cased_L-12_H-768_A-12", True),
  ],
)
def test_names_of_released_models_tell_their_case(folder, is_cased):
  path = f"/models/{folder}/bert_model.ckpt"
  tokenization.validate_case_matches_checkpoint(not is_cased, path)
  kind = "a cased" if is_cased else "an uncased"
  with pytest.raises(UserError) as error:
    tokenization.validate_case_matches_checkpoint(is_cased, path)
  assert str(error.value) == (
    f"--do_lower_case={is_cased}, but {path} is {kind} model. Pass "
    f"--do_lower_case={not is_cased}."
  )


@pytest.mark.parametrize("do_lower_case", [True, False])
def test_other_names_tell_nothing(do_lower_case):
  for path in (
    None,
    "",
    "bert_model.ckpt",
    "cased/bert_model.ckpt",
    "cased_L-12_H-768_A-12_on_my_text/bert_model.ckpt",
  ):
    tokenization.validate_case_matches_checkpoint(do_lower_case, path)


# --- Functions that other people's programs import ---------------------------


def test_bytes_are_taken_wherever_text_is(vocab_file):
  assert tokenization.convert_to_unicode("\u00e9") == "\u00e9"
  assert tokenization.convert_to_unicode(b"\xc3\xa9\xff.") == "\u00e9."
  assert tokenization.printable_text(b"\xc3\xa9") == "\u00e9"
  assert tokenization.whitespace_tokenize(b" a  b\n") == ["a", "b"]
  assert tokenization.whitespace_tokenize(" ") == []
  with pytest.raises(ValueError, match="5 is neither str nor bytes"):
    tokenization.convert_to_unicode(5)
  tokenizer = tokenization.FullTokenizer(vocab_file)
  text = "The unaffable R\u00c9D\ufffd dog"
  content = text.encode().replace("\ufffd".encode(), b"\xe5\x8c")
  assert tokenizer.tokenize(content) == tokenizer.tokenize(text)
  ids, offsets = tokenizer.encode_with_offsets(content)
  assert (ids, offsets[-1]) == (tokenizer.encode(text), (18, 21))
  basic = tokenizer.basic_tokenizer
  assert basic.tokenize(content) == basic.tokenize(text)
  wordpiece = tokenizer.wordpiece_tokenizer
  assert wordpiece.tokenize(b"unaffable a") == wordpiece.tokenize("unaffable a")


def test_tokens_and_ids_by_a_vocabulary():
  vocab = {"a": 3, "b": 4}
  assert tokenization.convert_by_vocab(vocab, "ba") == [4, 3]
  assert tokenization.convert_tokens_to_ids(vocab, ["a", "b"]) == [3, 4]
  assert tokenization.convert_ids_to_tokens({3: "a", 4: "b"}, [4]) == ["b"]
  with pytest.raises(KeyError):
    tokenization.convert_tokens_to_ids(vocab, ["c"])


# --- The reference -----------------------------------------------------------


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
        unicodedata.category(char) == "Cn" for char in case["text"]
      ):
        continue
      key = (case["vocab"], case["do_lower_case"])
      if key not in tokenizers:
        tokenizers[key] = tokenization.FullTokenizer(
          os.path.join(vocab_dir, case["vocab"], "vocab.txt"), key[1]
        )
      tokenizer = tokenizers[key]
      assert tokenizer.tokenize(case["text"]) == case["tokens"], case
      assert tokenizer.encode_with_offsets(case["text"])[0] == tokenizer.encode(
        case["text"]
      ), case
  assert len(tokenizers) == 4
