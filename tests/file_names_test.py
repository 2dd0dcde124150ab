"""Tests of data/file_names.py."""

import os

import pytest

from command_line import input_paths
from data import file_names
from errors import UserError


@pytest.fixture(autouse=True)
def work_folder(tmp_path, monkeypatch):
  """Makes an empty folder the current one."""
  monkeypatch.chdir(tmp_path)
  return tmp_path


def write(*names):
  """Writes small files."""
  for name in names:
    os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
    with open(name, "w", encoding="utf-8") as writer:
      writer.write("A cat.\n")


def find(names):
  """Returns the found files; TensorFlow finds ./a.txt for *.txt."""
  files = file_names.find_files(names, "--input_file")
  # The check before TensorFlow is loaded accepts the same names.
  input_paths.check_files("input_file", names)
  return [file.removeprefix("./") for file in files]


# --- Names before patterns and lists -----------------------------------------


@pytest.mark.parametrize(
  "name",
  [
    "text [final].txt",
    "a,b.txt",
    "what?.txt",
    "50* of it",
    "@mine",
    "~mine",
    "$HOME",
    " padded",
    "[x]/a.txt",
  ],
)
def test_a_name_that_exists_means_that_file(name):
  # Files that the name would mean if it were a pattern, a list or a variable.
  write(name, "text f.txt", "a", "b.txt", "whats.txt", "50 of it", "mine", "x")
  assert find(name) == [name]


def test_commas_separate_names_and_belong_to_them():
  write("a,b.txt", "c.txt", "d,e,f.txt", "n1.txt", "n2.txt")
  assert find("c.txt, a,b.txt,,n?.txt,d,e,f.txt") == [
    "c.txt",
    "a,b.txt",
    "n1.txt",
    "n2.txt",
    "d,e,f.txt",
  ]
  many = ",".join(["c.txt"] * 3000)  # too long for a name of a file
  assert len(find(many)) == 3000


def test_patterns_in_a_folder_with_brackets():
  write("texts [2024]/b.txt", "texts [2024]/a.txt", "texts [2024]/c.md")
  assert [os.path.basename(f) for f in find("texts [2024]/*.txt")] == [
    "a.txt",
    "b.txt",
  ]


def test_home_and_variables_are_replaced(tmp_path, monkeypatch):
  write("home/text.txt", "data/a.txt", "data/b.txt")
  monkeypatch.setenv("HOME", str(tmp_path / "home"))
  monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
  monkeypatch.setenv("TEXTS", str(tmp_path / "data"))
  assert find("~/text.txt,$TEXTS/a.txt,${TEXTS}/b*") == [
    str(tmp_path / "home" / "text.txt"),
    str(tmp_path / "data" / "a.txt"),
    str(tmp_path / "data" / "b.txt"),
  ]
  with pytest.raises(UserError, match=r"folder ~/x \(that is, .*home/x\)"):
    find("~/x")


# --- Folders -----------------------------------------------------------------


def test_a_folder_stands_for_its_files_sorted_by_name():
  write("t/b.txt", "t/AA/wiki_01", "t/AA/wiki_00", "t/a.txt", "t/AB/wiki_00")
  write("t/.DS_Store", "t/.git/x", "t/a.report.json", "t/a.parts/x", "t/a.lock")
  write("t/b.txt.0123abcd.unfinished")
  in_order = [
    "t/AA/wiki_00",
    "t/AA/wiki_01",
    "t/AB/wiki_00",
    "t/a.txt",
    "t/b.txt",
  ]
  assert find("t") == find("t/") == in_order
  assert find("t/A*") == in_order[:3]
  os.symlink("..", "t/AA/folder_around_it")
  assert find("t") == in_order
  os.mkdir("empty")
  with pytest.raises(UserError, match="--input_file: the folder empty has no"):
    find("empty")


def test_a_pattern_does_not_match_the_files_next_to_an_output():
  names = ["out-00000-of-00002", "out-00001-of-00002"]
  write(*names, "out.report.json", "out.lock", "out-2.0123abcd.unfinished")
  write("out.parts/x", ".out-hidden")
  assert find("out*") == find("*") == names
  assert find(".o*") == [".out-hidden"]
  # A file that is named can be read all the same.
  assert find("out.report.json") == ["out.report.json"]


# --- Lists -------------------------------------------------------------------


def test_a_list_has_a_name_on_each_line():
  write("b.txt", "a.txt", "x,y.txt", "t/1", "t/2")
  with open("files.txt", "wb") as writer:
    writer.write(b"\xef\xbb\xbfb.txt\r\n\r\na*.txt\r\n  x,y.txt\r\nt")
  names = ["b.txt", "a.txt", "x,y.txt", "t/1", "t/2"]
  assert find("@files.txt") == names
  assert find("a.txt,@files.txt") == ["a.txt", *names]


# --- Errors ------------------------------------------------------------------


@pytest.mark.parametrize(
  "names, message",
  [
    ("text [draft].txt", r"^--input_file: .*folder text \[draft\].txt, "),
    ("a.txt,c.txt", "^--input_file=a.txt,c.txt: .*folder c.txt, .*matches no"),
    ("c*.txt", r"folder c\*.txt, and as a pattern it matches no file"),
    ("@gone.txt", "there is no list @gone.txt"),
    ("@list", "^--input_file: list, line 3: .* folder c.txt"),
    ("@utf16", "utf16, line 1 is not text"),
    ("@latin1", "latin1, line 1: not UTF-8"),
    (" , ", "^--input_file names no file"),
    ("", "^--input_file names no file"),
    ("@blank", "^--input_file names no file|no list @blank"),
    ("empty.txt", "^--input_file: empty.txt is empty"),
    ("a.txt/b.txt", "folder a.txt/b.txt"),
    ("/", "^--input_file: / is the whole file system"),
    ("/tmp/..", "^--input_file: /tmp/.. is the whole file system"),
    ("nowhere://a.txt", "nowhere://a.txt cannot be read: File system scheme"),
  ],
)
def test_names_that_stand_for_no_file_are_refused(names, message):
  write("a.txt")
  for name, content in {
    "list": b"a.txt\n\nc.txt\n",
    "utf16": "a.txt\n".encode("utf-16-le"),
    "latin1": b"caf\xe9.txt\n",
    "blank": b"\n",
    "empty.txt": b"",
  }.items():
    with open(name, "wb") as writer:
      writer.write(content)
  with pytest.raises(UserError, match=message) as error:
    find(names)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("num_files, num_lines", [(8, 8), (9, 7), (1000, 7)])
def test_of_many_files_some_are_logged(caplog, num_files, num_lines):
  names = [f"x{number}" for number in range(num_files)]
  with caplog.at_level("INFO", logger="absl"):
    file_names.log_files("Files", names)
  title, *lines = caplog.messages
  assert title == "*** Files ***" and len(lines) == num_lines
  assert (lines[0], lines[-1]) == ("  x0", f"  x{num_files - 1}")
  if num_lines < num_files:
    assert lines[3] == f"  ... {num_files - 6} more"
