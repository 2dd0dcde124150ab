"""Tests of data/text_decoding.py."""

import codecs

import pytest

from data import text_decoding
from errors import UserError

TEXT = "Straße\r\n北京\n\U0001f600 end"


@pytest.mark.parametrize(
  "mark, encoding",
  [
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
  ],
)
@pytest.mark.parametrize("given", [None, "utf-8", "gbk"])
def test_a_byte_order_mark_names_the_encoding(mark, encoding, given):
  content = mark + TEXT.encode(encoding)
  assert text_decoding.decode(content, "x", given) == TEXT
  # Chunks may end within a character, but the first one has the mark.
  chunks = [content[:4], *(content[i : i + 1] for i in range(4, len(content)))]
  assert "".join(text_decoding.decode_chunks(chunks, "x", given)) == TEXT


def test_an_encoding_that_is_named_is_used():
  assert text_decoding.decode(b"caf\xe9", "x", "latin1") == "café"
  assert text_decoding.decode("很好".encode("gbk"), "x", "gbk") == "很好"
  assert text_decoding.decode(b"", "x", "utf-8") == ""


@pytest.mark.parametrize(
  "content, encoding, message",
  [
    (
      b"good\nb\xe9d",
      "utf-8",
      "x, line 2: not UTF-8 .byte 0xe9 at column 2.. Pass the encoding of the "
      "file as --encoding .latin1 reads 'béd', cp1252 reads 'béd'",
    ),
    (
      "a\t1\n很好\t2".encode("gbk"),
      "utf-8",
      "line 2: not UTF-8 .byte 0xba .*--encoding .gbk reads '很好', big5 reads",
    ),
    ("東京の".encode("shift_jis"), "utf-8", "shift_jis reads '東京の'"),
    ("хорошо".encode("cp1251"), "utf-8", "cp1251 reads 'хорошо'"),
    # A program without the flag does not advise to pass it.
    (b"b\xe9d", None, r"`iconv -f latin1 -t utf-8` \("),
    (b"a\rb\r\xe9", "utf-8", "line 3: not UTF-8 .byte 0xe9 at column 1"),
    ("一\n二".encode("utf-16-le")[:-1], "utf-16-le", "line 2: not UTF-16-LE"),
    (b"caf\xe9", "gbk", "x, line 1: not GBK .* column 4"),
    (b"no mark", "utf-16", "x does not begin with .* such as utf-8, utf-16-le"),
    ("ab".encode("utf-32-le"), "U32", "mark of UTF-32.* or utf-32-be"),
    (b"odd", "utf-16-le", "encoding of the file as --encoding[.]$"),
  ],
)
def test_errors_give_the_place_and_encodings_that_fit(
  content, encoding, message
):
  with pytest.raises(UserError, match=message):
    text_decoding.decode(content, "x", encoding)


def test_the_place_of_an_error_does_not_depend_on_chunks():
  chunks = [b"one\ntw", b"o\nthr\n", b"fo", b"ur\xc3", b"\xbc\xff"]
  with pytest.raises(UserError, match="x, line 4: .*0xff at column 6"):
    list(text_decoding.decode_chunks(chunks, "x"))


@pytest.mark.parametrize("encoding", ["utf8x", "hex", "rot13", "", "\0"])
def test_names_that_are_no_encoding_of_text(encoding):
  text_decoding.check_encoding("gbk", "--encoding")
  with pytest.raises(UserError, match="--encoding=.*not an encoding of text"):
    text_decoding.check_encoding(encoding, "--encoding")
