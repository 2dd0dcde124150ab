"""Tests of tasks/ner_files.py."""

import pytest

from tasks import ner_files


def read(tmp_path, content, *args, **kwargs):
  (tmp_path / "x.txt").write_text(content, encoding="utf-8")
  return ner_files.read_sentences(str(tmp_path / "x.txt"), *args, **kwargs)


def words_and_tags(sentences):
  """Returns words and tags as text, a pair for each sentence."""
  return [
    (" ".join(sentence.words), " ".join(sentence.tags))
    for sentence in sentences
  ]


def test_reading(tmp_path):
  sentences = read(
    tmp_path,
    "-DOCSTART- -X- O\n\nthe DT O\nUN NNP B-ORG\n\t\n\n"
    "a DT O\n\n-DOCSTART- -X- O\n\nLyon NNP B-LOC\n",
  )
  assert [(s.words, s.tags, s.document, s.lines) for s in sentences] == [
    (("the", "UN"), ("O", "B-ORG"), 0, (3, 4)),
    (("a",), ("O",), 0, (7,)),
    (("Lyon",), ("B-LOC",), 1, (11,)),
  ]
  [sentence] = read(
    tmp_path, "B-x;the cat;1\n", ner_files.WordFormat(1, 0, ";")
  )
  assert (sentence.words, sentence.tags) == (("the cat",), ("B-x",))
  [sentence] = read(tmp_path, "the\ncat\n", has_tags=False)
  assert sentence.tags is None


GERMEVAL = (
  "#\thttp://x.example/wiki/Ann\t[2009-10-17]\n"
  "1\tAnn\tB-PER\tO\n2\tJenaer\tB-LOCderiv\tB-LOC\n\n"
  "#\thttp://x.example/wiki/Bo\t[2009-10-18]\n1\tBo\tO\tO\n2\t.\tO\tO\n"
)
CONLL_U = (
  "# newdoc id = a\n# sent_id = 1\n# text = Au lac\n"
  "1-2\tAu\t_\t_\t_\t_\t_\t_\t_\t_\n"
  "1\tÀ\tà\tADP\t_\t_\t3\tcase\t_\t_\n"
  "2\tle\tle\tDET\t_\t_\t3\tdet\t_\t_\n"
  "3\tlac\tlac\tNOUN\t_\t_\t0\troot\t_\t_\n"
  "3.1\t_\t_\tVERB\t_\t_\t_\t_\t_\t_\n\n"
  "# newdoc id = b\n# text = B-52\n1\tB-52\tB-52\tNUM\t_\t_\t0\troot\t_\t_\n"
)
ONTONOTES = (
  "#begin document (bn/x); part 000\n"
  "bn/x 0 0 Ann NNP (S(NP* - - - A (PERSON* * -\n"
  "bn/x 0 1 Lee NNP * - - - A *) * -\n"
  "bn/x 0 2 saw VBD * see 01 1 A * (V*) -\n"
  "bn/x 0 3 Oslo NNP (NP*) - - - A (GPE) * -\n\n"
  "#end document\n#begin document (bn/y); part 000\n"
  "bn/y 0 0 We PRP (S* - - - B * -\nbn/y 0 1 left VBD * - - - B * -\n\n"
  "#end document\n"
)
UNIVERSAL_NER = (
  "# sent_id = 1\n# text = Bo is in Rome\n"
  "1\tBo\tB-PER\t-\tx\n2\tis\tO\t-\tx\n\n"
)
MULTICONER = (
  "# id 12-ab\tdomain=en\nann _ _ B-PER\nleft _ _ O\n\n"
  "# id 34 domain=en\nin _ _ O\n"
)
LABEL_STUDIO = (
  "-DOCSTART- -X- O\nAnn -X- _ B-PER\n -X- _ O\nleft -X- _ O\n\n#1 -X- _ O\n"
)


@pytest.mark.parametrize(
  "content, expected",
  [
    (GERMEVAL, [("Ann Jenaer", "B-PER B-LOCderiv"), ("Bo .", "O O")]),
    (CONLL_U, [("À le lac", "ADP DET NOUN"), ("B-52", "NUM")]),
    (
      ONTONOTES,
      [("Ann Lee saw Oslo", "B-PERSON I-PERSON O B-GPE"), ("We left", "O O")],
    ),
    (UNIVERSAL_NER, [("Bo is", "B-PER O")]),
    ("en:Ann\tB-PER\nen::\tO\n\nen:\tO\n", [("Ann :", "B-PER O"), ("", "O")]),
    ("en:Ann\tB-PER\nde:x\tO\n", [("en:Ann de:x", "B-PER O")]),
    (MULTICONER, [("ann left", "B-PER O"), ("in", "O")]),
    (LABEL_STUDIO, [("Ann  left", "B-PER O O"), ("#1", "O")]),
    # Words that begin with #: they have the tag of a word.
    (
      "# O\nLyon B-LOC\n\n#lyon B-GPE\n",
      [("# Lyon", "O B-LOC"), ("#lyon", "B-GPE")],
    ),
    ("a ADJ\n# NUM\n\n# NUM\n", [("a #", "ADJ NUM"), ("#", "NUM")]),
    # Words with spaces, if all lines have tabs.
    ("New York\tB-LOC\n\u3000\tO\n", [("New York \u3000", "B-LOC O")]),
    ("a\xa0b O\n\xa0 O\n", [("a\xa0b \xa0", "O O")]),
    ("a\tDT  O\nb  NN B-x\n", [("a b", "O B-x")]),
    ("a\u3000O\nb\u3000B-x\n", [("a b", "O B-x")]),
    # Numbers that count nothing are words.
    ("1 CD O\n3 CD O\n", [("1 3", "O O")]),
    ("1 O\n2 O\n", [("1 2", "O O")]),
  ],
)
def test_layouts_are_found(tmp_path, content, expected):
  assert words_and_tags(read(tmp_path, content)) == expected


def test_documents_and_comments_of_layouts(tmp_path):
  documents = {
    name: [sentence.document for sentence in read(tmp_path, content)]
    for name, content in [("u", CONLL_U), ("onto", ONTONOTES)]
  }
  assert documents == {"u": [0, 1], "onto": [0, 1]}
  for content in (GERMEVAL, CONLL_U, MULTICONER):
    rows = []
    for sentence in read(tmp_path, content):
      rows += [row.text for row in sentence.rows] + [""]
    assert "\n".join(rows).rstrip("\n") == content.rstrip("\n")
  # Comments that stand alone.
  header = "# License: x\n\n"
  [sentence] = read(tmp_path, header + "a O\n\n# The end\n")
  assert [row.text for row in sentence.rows] == [
    "# License: x",
    "",
    "a O",
    "",
    "# The end",
  ]


def test_named_columns_override_what_is_found(tmp_path):
  word_format = ner_files.WordFormat(tag_column=3)
  first, _ = read(tmp_path, GERMEVAL, word_format)
  assert first.tags == ("O", "B-LOC")
  [sentence] = read(
    tmp_path, "1\tO\n2\tO\n", ner_files.WordFormat(word_column=1)
  )
  assert sentence.words == ("O", "O")


@pytest.mark.parametrize(
  "content, words",
  [
    ("1\tAnn\n2\tleft\n", "Ann left"),
    ("Ann _ _ _\nleft _ _ _\n", "Ann left"),
    ("# text = Ann left\nAnn\nleft\n", "Ann left"),
    ("#ann\nleft\n", "#ann left"),
  ],
)
def test_files_without_tags(tmp_path, content, words):
  [sentence] = read(tmp_path, content, has_tags=False)
  assert " ".join(sentence.words) == words and sentence.tags is None


def test_comments_are_counted(tmp_path, caplog):
  caplog.set_level("INFO", logger="absl")
  read(tmp_path, GERMEVAL)
  assert "x.txt: 2 comment lines" in caplog.text
  caplog.clear()
  read(tmp_path, "# O\na O\n")
  assert "comment lines" not in caplog.text


TABS = ner_files.WordFormat(0, 1, "\t")


@pytest.mark.parametrize(
  "content, kwargs, message",
  [
    ("", {}, "x.txt holds no words"),
    ("the O\ncat\n", {}, "line 2 has a word without tag: 'cat'. Add a tag"),
    ("the O\ncat\n", dict(has_tags=False), "line 2 has a word without tag"),
    (
      "the\tO\ncat\t\n",
      dict(word_format=TABS),
      "line 2 has a word without tag",
    ),
    (
      "the O\n",
      dict(word_format=ner_files.WordFormat(0, 2)),
      "line 1 has 2 columns, so there is no tag in column 2: 'the O'. Are",
    ),
    ("\tO\tx\n", dict(word_format=TABS), "line 1 has no word, and no other"),
    ("a\t_\nb\t_\n", {}, "has no tags: the column of tags holds only _"),
    (
      "the O\n",
      dict(word_format=ner_files.WordFormat(0, 1, "")),
      "--column_separator is emp",
    ),
    ("a (X*\nb (Y)\nc *\n", {}, r"line 2: the bracket of '\(Y\)' does not fit"),
    ("a (X*\nb *\n", {}, r"line 2: the sentence ends, but \(X has no"),
    ("the O\nc\0t O\n", {}, "x.txt, line 2 has a byte of value 0"),
    ("the O\n" + "c" * 2**20, {}, r"word without tag: 'c+\.\.\.c+'"),
  ],
)
def test_files_that_are_refused(tmp_path, content, kwargs, message):
  with pytest.raises(ValueError, match=message):
    read(tmp_path, content, **kwargs)
