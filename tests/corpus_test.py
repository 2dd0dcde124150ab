"""Tests of pretraining/corpus.py."""

import bz2
import collections
import gzip
import json
import lzma

import hypothesis
from hypothesis import strategies as st
import long_texts
import pytest
import zstandard

from errors import UserError
from pretraining import corpus


@pytest.fixture
def small_limits(monkeypatch):
  """Cuts the input into blocks of some bytes instead of megabytes."""
  for name, value in dict(
    _CHUNK_BYTES=16,
    _LONGEST_SECTION_BYTES=300,
    _LARGEST_BLOCK_BYTES=700,
    _FEWEST_DOCUMENTS=2,
    _LONGEST_LINE_BYTES=1000,
    _BYTES_TO_LOOK_AT=16,
  ).items():
    monkeypatch.setattr(corpus, name, value)


def documents_of(files, size=100, counts=None, **options):
  """Returns the documents of files, and the blocks."""
  blocks = list(corpus.read_all_blocks(files, size))
  counts = collections.Counter() if counts is None else counts
  parser = corpus.TextParser(**options)
  return [
    document
    for block in blocks
    for document in parser.parse_block(block, counts)
  ], blocks


DOCUMENTS = [
  [f"Sentence {s} of document {d}." for s in range(d % 7 + 1)]
  for d in range(40)
]
TEXT = "\n\n".join("\n".join(document) for document in DOCUMENTS) + "\n"


def compress(text, ending):
  content = text.encode()
  if ending == ".gz":  # of two members, as `cat a.gz b.gz` makes them
    return gzip.compress(content[:70]) + gzip.compress(content[70:])
  if ending == ".zst":
    compressor = zstandard.ZstdCompressor()
    return compressor.compress(content[:70]) + compressor.compress(content[70:])
  if ending == ".bz2":
    return bz2.compress(content[:70]) + bz2.compress(content[70:])
  if ending == ".xz":
    return lzma.compress(content[:70]) + lzma.compress(content[70:])
  return content


@pytest.mark.parametrize("ending", ["", ".gz", ".bz2", ".xz", ".zst"])
@pytest.mark.parametrize("size", [50, 150, 600])
def test_blocks_hold_the_documents_in_order(
  tmp_path, small_limits, ending, size
):
  path = tmp_path / f"text.txt{ending}"
  path.write_bytes(compress(TEXT, ending))
  documents, blocks = documents_of([str(path)], size)
  assert documents == DOCUMENTS
  assert len(blocks) > 1 or ending in (".bz2", ".zst")  # which give all at once
  assert sum(block.input_bytes for block in blocks) == path.stat().st_size
  assert len({block.number for block in blocks}) == len(blocks)


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(
  text=st.text(alphabet="ab\n \r\t\u2028", max_size=400),
  size=st.integers(1, 300),
)
def test_no_text_is_lost_between_blocks(tmp_path_factory, text, size):
  path = tmp_path_factory.mktemp("corpus") / "text.txt"
  path.write_bytes(text.encode())
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(corpus, "_CHUNK_BYTES", 16)
    patch.setattr(corpus, "_BYTES_TO_LOOK_AT", 16)
    patch.setattr(corpus, "_FEWEST_DOCUMENTS", 1)
    documents, blocks = documents_of([str(path)], size)
  assert (
    b"".join(section.content for block in blocks for section in block.sections)
    == text.encode()
  )
  expected, document = [], []
  for line in [*text.split("\n"), ""]:
    if line.strip():
      document.append(line)
    elif document:
      expected.append(document)
      document = []
  assert documents == expected


def test_small_files_share_a_block_but_no_document(tmp_path, small_limits):
  files = []
  for name in "abcdef":
    files.append(str(tmp_path / name))
    (tmp_path / name).write_text(f"One of {name}.\nTwo of {name}.")
  documents, blocks = documents_of(files, size=45)
  assert documents == [[f"One of {n}.", f"Two of {n}."] for n in "abcdef"]
  assert [len(block.sections) for block in blocks] == [3, 3]


def test_a_document_without_end_is_cut_at_sentences(tmp_path, small_limits):
  path = tmp_path / "text.txt"
  lines = [f"Sentence number {i}." for i in range(100)]
  path.write_text("\n".join(lines))
  documents, blocks = documents_of([str(path)])
  assert [line for document in documents for line in document] == lines
  assert 1 < len(documents) == len(blocks)


def test_json_lines(tmp_path, small_limits):
  path = tmp_path / "text.jsonl.gz"
  path.write_bytes(
    gzip.compress(
      "\n".join(
        json.dumps({"id": i, "body": "\n\n".join(document)})
        for i, document in enumerate(DOCUMENTS)
      ).encode()
    )
  )
  documents, _ = documents_of([str(path)], text_field="body")
  assert documents == DOCUMENTS


EXTRACTED = (
  # title, lines of the text after the title
  ("Cats & dogs", ["A cat sat.", "", "<b> is no tag.", "A dog ran."]),
  ("Nothing more", []),
  ('The "doc" >', ["Not the title.", 'The "doc" >']),
)


def as_elements(title, lines):
  """Returns a document as WikiExtractor writes it by default."""
  text = "\n".join([title, "", *lines])
  return f'<doc id="7" url="a?b=7" title="{title}">\n{text}\n</doc>\n\n'


def as_json(title, lines):
  """Returns a document as WikiExtractor writes it with --json."""
  text = "\n".join([title, "", *lines])
  return json.dumps({"id": "7", "url": "u", "title": title, "text": text})


@pytest.mark.parametrize("size", [50, 10_000])
def test_extracted_articles_are_documents_without_titles(
  tmp_path, small_limits, size
):
  expected = [[line for line in lines if line] for _, lines in EXTRACTED * 5]
  expected = [document for document in expected if document]
  for name, text in {
    "wiki_00": "".join(as_elements(*article) for article in EXTRACTED * 5),
    "wiki_01": "\n".join(as_json(*article) for article in EXTRACTED * 5),
    "wiki_02": "\ufeff<doc id=7>\n"
    + "\n</doc>\n\n<doc id=7>\n".join(map("\n".join, expected)),
  }.items():
    (tmp_path / name).write_text(text, encoding="utf-8")
    documents, blocks = documents_of([str(tmp_path / name)], size)
    assert documents == expected, name
    assert size > 50 or len(blocks) > 1


def test_a_long_article_is_cut_at_sentences(tmp_path, small_limits):
  lines = [f"Sentence number {i}." for i in range(100)]
  path = tmp_path / "wiki_00"
  path.write_text(as_elements("Numbers", lines) + as_elements("A", ["Cats."]))
  documents, _ = documents_of([str(path)])
  assert [line for document in documents for line in document] == [
    *lines,
    "Cats.",
  ]
  assert documents[-1] == ["Cats."]


def test_text_that_only_mentions_elements_and_objects_is_text(tmp_path):
  path = tmp_path / "text.txt"
  text = 'A cat.\n<doc id="1" title="A">\nA\n</doc>\n{"text": "B"}\n'
  path.write_text(text)
  assert documents_of([str(path)])[0] == [text.splitlines()]


def test_sentences_are_split_on_request(tmp_path):
  path = tmp_path / "text.txt"
  path.write_text("One. Two!\nThree? Four.\n\nFive.\n")
  documents, _ = documents_of([str(path)], split_sentences=True)
  assert documents == [["One.", "Two!", "Three?", "Four."], ["Five."]]


@pytest.mark.parametrize(
  "sentences",
  [
    ["Mr. J. Smith met Dr. Brown in the U.S. Senate.", "He left."],
    ['He said "No!" and left.', '"Why?" she asked.', "(It was late.)", "So."],
    ["It was No. 5 of 3.14 items (see Fig. 2).", "No.", "Then it ended..."],
    [
      "\u4ed6\u8d70\u4e86\u3002",
      "\u201c\u597d\uff01\u201d",
      "\u4ed6\u8bf4\u3002",
    ],
    [
      "\u00c9t\u00e9 fini.",
      "\u00c0 demain!",
      "\u00bfQu\u00e9?",
      "1999 was good.",
    ],
    [
      "no capital. so no end",
    ],
  ],
)
def test_split_sentences(sentences):
  joined = " ".join(sentences)
  assert corpus.split_sentences(f" {joined} ") == sentences


@pytest.mark.parametrize("shape", long_texts.SHAPES)
def test_long_lines_are_split_in_time_that_grows_with_them(shape):
  text = long_texts.of_length(shape, 200_000)
  with long_texts.time_limit():
    sentences = corpus.split_sentences(text)
  assert "".join(sentences).replace(" ", "") == text.replace(" ", "")


# --- Bad input ---------------------------------------------------------------


def test_bytes_that_are_not_utf8(tmp_path, small_limits):
  path = tmp_path / "text.txt"
  lines = [f"Sentence {i}.".encode() for i in range(30)]
  lines[23] = b"Caf\xe9."
  path.write_bytes(b"\n".join(lines))
  with pytest.raises(
    ValueError, match="text.txt, line 24: not UTF-8.*0xe9 at column 4"
  ):
    documents_of([str(path)])
  counts = collections.Counter()
  documents, _ = documents_of([str(path)], counts=counts, errors="replace")
  assert sum(map(len, documents)) == 30 and counts == {"not_utf8": 1}


def test_binary_files_are_no_text(tmp_path):
  path = tmp_path / "text.txt"
  path.write_text("A cat.\nA dog.\n", encoding="utf-16-le")
  with pytest.raises(ValueError, match="line 1: there is a byte of value 0"):
    documents_of([str(path)])


def test_a_line_without_end(tmp_path, small_limits):
  path = tmp_path / "text.txt"
  path.write_text("A cat.\n" + "cat " * 1000)
  with pytest.raises(ValueError, match="text.txt, line 2 is longer than"):
    documents_of([str(path)])


@pytest.mark.parametrize("ending", [".gz", ".bz2", ".xz", ".zst"])
def test_compressed_files_that_are_cut_off(tmp_path, small_limits, ending):
  path = tmp_path / f"text.txt{ending}"
  path.write_bytes(compress(TEXT, ending)[:-20])
  with pytest.raises(ValueError, match="damaged or cut off"):
    documents_of([str(path)])


@pytest.mark.parametrize("ending", [".gz", ".bz2", ".xz", ".zst"])
def test_plain_files_with_the_name_of_compressed_ones(tmp_path, ending):
  path = tmp_path / f"text.txt{ending}"
  for content in (TEXT.encode(), b"(", b""):
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"although its name ends in {ending}"):
      documents_of([str(path)], errors="replace")


@pytest.mark.parametrize("ending", [".gz", ".bz2", ".xz", ".zst"])
def test_compressed_files_that_are_damaged_anywhere(tmp_path, ending):
  path = tmp_path / f"text.txt{ending}"
  content = compress(TEXT, ending)
  damaged = 0
  for place in range(0, len(content), 7):
    path.write_bytes(
      content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]
    )
    try:
      documents_of([str(path)])
    except UserError as error:
      assert str(path) in str(error)
      damaged += 1
  assert damaged > 0.8 * len(range(0, len(content), 7))


def test_what_is_no_file(tmp_path):
  with pytest.raises(UserError, match=f"{tmp_path} cannot be read: "):
    documents_of([str(tmp_path)])


@pytest.mark.parametrize(
  "line,problem,reason",
  [
    ('{"text": "A cat."', "line 2: not JSON", "not_json"),
    ('{"text": "A cat.", "score": NaN}', "line 2: not JSON: NaN", "not_json"),
    ('{"text": "A \\ud800 cat."}', "line 2 holds half of", "not_json"),
    ('\ufeff{"text": "A cat."}', "line 2: not JSON", "not_json"),
    (
      f'{{"text": "A cat.", "id": {"1" * 5000}}}',
      "line 2: not JSON",
      "not_json",
    ),
    ("[" * 100_000, "line 2 is nested too deeply", "not_json"),
    ('["A cat."]', "line 2: no JSON object", "without_text"),
    ('{"text": 7}', "line 2: the field 'text' holds 7", "without_text"),
    (
      '{"body": "A cat."}',
      "line 2: no field 'text'; there are: 'body'",
      "without_text",
    ),
    (f'{{"{"x" * 100_000}": 1}}', r"'x+\.\.\.; --text_field", "without_text"),
  ],
)
def test_bad_json_lines(tmp_path, line, problem, reason):
  path = tmp_path / "text.jsonl"
  path.write_text(f'\ufeff{{"text": "A."}}\n{line}\n\n{{"text": "B."}}\n')
  with pytest.raises(UserError, match=problem) as error:
    documents_of([str(path)])
  assert len(str(error.value)) < 1000
  counts = collections.Counter()
  documents, _ = documents_of([str(path)], counts=counts, errors="replace")
  assert documents == [["A."], ["B."]] and counts == {reason: 1}
