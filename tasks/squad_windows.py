"""Windows over paragraphs of SQuAD, and the positions of answers in them.

    [CLS] question [SEP] part of the paragraph [SEP]
      0      0       0     1 ...                 1     segment_ids

A paragraph that is longer than a sequence is read in overlapping windows. A
token that is in several windows counts in the one that gives it most context.
"""

from __future__ import annotations

import bisect
import collections
from collections.abc import Iterable, Iterator, Sequence
import functools
import itertools
import re
from typing import NamedTuple

from absl import logging
import numpy as np

from data import encoding
from data import sliding_windows
from errors import UserError
from tasks import squad
from tasks import text_files
import tokenization

# These characters separate words; other white space is part of a word.
_WORD = re.compile("[^ \t\r\n\u202f]+")
# A stretch without any white space.
_STRETCH = re.compile(r"\S+")
# Letters of scripts that do not put spaces between words, or that attach other
# words, such as the particles of Korean: Thai, Lao, Tibetan, Burmese, Khmer,
# kana, Hangul and Chinese characters.
_UNSPACED = re.compile(
  "[\u0e00-\u0fff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u3040-\u31ff"
  "\u3400-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff\uff66-\uffdc"
  "\U00020000-\U0003ffff]"
)
# Tokenized paragraphs are cached, up to this number of characters. A character
# takes about 70 bytes.
_CHARACTERS_KEPT = 1_000_000


# --- Paragraphs --------------------------------------------------------------


class Paragraph:
  """A paragraph, split into words and tokens once for all of its questions.

      words            The   unaffable         cat.
      tokens           the   un ##aff ##able   cat .
      word_of_token     0     1    1     1      2  2
      first_tokens      0     1                 4      6

  Attributes:
    text: The paragraph.
    words: Its words.
    spans: Begin and end of each word in the text.
    ids: Ids of the tokens of all words.
    word_of_token: Number of the word of each token.
    first_tokens: Number of the first token of each word; then the number of
      tokens.
  """

  def __init__(self, text: str, tokenizer: tokenization.FullTokenizer):
    self.text = text
    self._tokenizer = tokenizer
    matches = list(_WORD.finditer(text))
    self.words = [match.group() for match in matches]
    self.spans = [match.span() for match in matches]
    ids_of_words = tokenizer.encode_each(self.words)
    self.ids = list(itertools.chain.from_iterable(ids_of_words))
    num_words = len(self.words)
    counts = np.fromiter(map(len, ids_of_words), np.int32, num_words)
    self.word_of_token = np.repeat(np.arange(num_words), counts).tolist()
    ends = np.cumsum(counts).tolist()
    self.first_tokens = [0, *ends]
    self._starts = [start for start, _ in self.spans]
    # Caches of the methods below.
    self._windows: dict[tuple[int, int], sliding_windows.TextWindows] = {}
    self._found: dict[tuple[int, int, str], str | None] = {}
    self._offsets: dict[int, Sequence[tuple[int, int]]] = {}

  def cut_windows(self, room: int, stride: int) -> sliding_windows.TextWindows:
    """Returns windows of at most `room` tokens, one every `stride` tokens."""
    if (room, stride) not in self._windows:
      self._windows[room, stride] = sliding_windows.cut_windows(
        len(self.ids), room, stride
      )
    return self._windows[room, stride]

  def find_word(self, place: int) -> int:
    """Returns the number of the word at an offset in the text, or before it."""
    return max(0, bisect.bisect_right(self._starts, place) - 1)

  def find_span(self, first: int, last: int) -> tuple[int, int]:
    """Returns begin and end of tokens `first` to `last` in the text."""
    begin, _ = self._span_of_token(first)
    _, end = self._span_of_token(last)
    return begin, end

  def find_tokens(self, begin: int, end: int) -> tuple[int, int] | None:
    """Returns the first and last token of a part of the text.

    They are the fewest tokens that contain it, or None if it has no token.

    Args:
      begin: Begin of the part.
      end: Its end.
    """
    first_word, last_word = self.find_word(begin), self.find_word(end - 1)
    word_begin, _ = self.spans[first_word]
    offsets = self._offsets_in_word(first_word)
    first = self.first_tokens[first_word] + bisect.bisect_right(
      offsets, begin - word_begin, key=lambda offset: offset[1]
    )
    word_begin, _ = self.spans[last_word]
    offsets = self._offsets_in_word(last_word)
    end_token = self.first_tokens[last_word] + bisect.bisect_left(
      offsets, end - word_begin, key=lambda offset: offset[0]
    )
    return (first, end_token - 1) if first < end_token else None

  def is_unspaced(self, first_word: int, last_word: int) -> bool:
    """Returns whether spaces do not separate the words of this language."""
    words = range(first_word, last_word + 1)
    return any(_UNSPACED.search(self.words[word]) for word in words)

  def find_places(self, wanted: str) -> Iterator[tuple[int, int]]:
    """Yields begin and end of each place where the text has some words.

    Places do not overlap.

    Args:
      wanted: Words separated by single spaces; any white space may separate
        them in the text.
    """
    # text      the cat\n  sat
    # joined    the cat sat
    # starts    0   4   8   12     where stretches begin in `joined`
    matches = list(_STRETCH.finditer(self.text))
    stretches = [match.group() for match in matches]
    joined = " ".join(stretches)
    lengths = (len(stretch) + 1 for stretch in stretches)
    starts = list(itertools.accumulate(lengths, initial=0))

    def place_in_text(place: int) -> int:
      number = bisect.bisect_right(starts, place) - 1
      return matches[number].start() + place - starts[number]

    place = joined.find(wanted)
    while place >= 0:
      end = place + len(wanted)
      yield place_in_text(place), place_in_text(end - 1) + 1
      place = joined.find(wanted, end)

  # --- The text of an answer -------------------------------------------------

  def answer_text(self, first: int, last: int) -> str:
    """Returns the text of tokens `first` to `last`, spelled as in the text.

    As in the original code, the joined tokens are searched for in the basic
    tokens of their words, and characters are matched one to one. Where this
    fails (an unknown token; a letter that lower-casing turns into two), the
    tokenizer's offsets decide, while the original code returned whole words.
    They also decide where a word may be a whole sentence, which has the same
    tokens at several places.
    """
    first_word = self.word_of_token[first]
    end_word = self.word_of_token[last] + 1
    joined = " ".join(self._tokens[first : last + 1])
    wanted = joined.replace(" ##", "").replace("##", "")
    # Many candidates have the same text, and a word can be very long.
    key = (first_word, end_word, wanted)
    if key not in self._found:
      self._found[key] = self._find_text(first_word, end_word, wanted)
    found = self._found[key]
    return self._cut_text(first, last) if found is None else found

  def _find_text(
    self, first_word: int, end_word: int, wanted: str
  ) -> str | None:
    """Returns the spelling of some basic tokens, or None if it is not found.

        original   The (Red-Blue) cat
        basic      the ( red - blue ) cat
        wanted               - blue )         found: -Blue)

    Args:
      first_word: Number of the first word to search.
      end_word: Number of the word after the last one.
      wanted: Basic tokens, joined by spaces.
    """
    if self.is_unspaced(first_word, end_word - 1):
      return None
    if not self._is_one_to_one(first_word, end_word):
      return None
    original = " ".join(self.words[first_word:end_word])
    basic = " ".join(filter(None, self._basic[first_word:end_word]))
    start = basic.find(wanted)
    if start < 0:
      return None
    # Number of the first and of the last character, without spaces.
    first_char = start - basic.count(" ", 0, start)
    last_char = first_char + len(wanted) - wanted.count(" ") - 1
    begin = self._place_in_words(first_char, first_word)
    last = self._place_in_words(last_char, first_word)
    return original[begin : last + 1]

  def _place_in_words(self, char: int, first_word: int) -> int:
    """Returns the place of a character in words that are joined by spaces.

    Args:
      char: Number of the character, without spaces.
      first_word: Number of the word where the count begins.
    """
    char_of_text = self._num_chars[first_word] + char
    word = bisect.bisect_right(self._num_chars, char_of_text) - 1
    num_spaces = word - first_word
    return char + num_spaces

  def _is_one_to_one(self, first_word: int, end_word: int) -> bool:
    """Returns whether words have as many characters as their basic tokens."""
    num_chars = self._num_chars[end_word] - self._num_chars[first_word]
    num_basic_chars = (
      self._num_basic_chars[end_word] - self._num_basic_chars[first_word]
    )
    return num_chars == num_basic_chars

  def _cut_text(self, first: int, last: int) -> str:
    """Returns the text of tokens `first` to `last` by the offsets of tokens."""
    begin, end = self.find_span(first, last)
    return " ".join(self.text[begin:end].split())

  def _span_of_token(self, token: int) -> tuple[int, int]:
    """Returns begin and end of a token in the text."""
    word = self.word_of_token[token]
    offsets = self._offsets_in_word(word)
    begin, end = offsets[token - self.first_tokens[word]]
    start, _ = self.spans[word]
    return start + begin, start + end

  def _offsets_in_word(self, word: int) -> Sequence[tuple[int, int]]:
    """Returns begin and end of each token of a word, counted from its begin."""
    if word not in self._offsets:
      _, offsets = self._tokenizer.encode_with_offsets(self.words[word])
      self._offsets[word] = offsets
    return self._offsets[word]

  @functools.cached_property
  def _tokens(self) -> list[str]:
    return self._tokenizer.convert_ids_to_tokens(self.ids)

  @functools.cached_property
  def _basic(self) -> list[str]:
    """The basic tokens of each word, joined by spaces."""
    basic_tokenizer = self._tokenizer.basic_tokenizer
    return [" ".join(basic_tokenizer.tokenize(word)) for word in self.words]

  @functools.cached_property
  def _num_chars(self) -> list[int]:
    """The number of characters before each word; then that of all words."""
    return list(itertools.accumulate(map(len, self.words), initial=0))

  @functools.cached_property
  def _num_basic_chars(self) -> list[int]:
    """The number of characters of basic tokens before each word, and of all."""
    counts = (len(basic) - basic.count(" ") for basic in self._basic)
    return list(itertools.accumulate(counts, initial=0))


# --- Windows -----------------------------------------------------------------


class WindowSettings(NamedTuple):
  """Sizes of windows, all in tokens."""

  max_seq_length: int
  doc_stride: int
  max_query_length: int


class QuestionWindow(NamedTuple):
  """A question with one window of its paragraph.

  Attributes:
    question: Number of the question in the data set.
    number: Number of the window among those of the question.
    first_token: Number of the paragraph's token that begins the window.
    offset: Position of that token in the sequence.
    features: Ids of the sequence.
  """

  question: int
  number: int
  first_token: int
  offset: int
  features: encoding.InputFeatures

  def find_positions(self, first: int, last: int) -> tuple[int, int]:
    """Returns the positions of an answer, or (0, 0) if it is not inside.

    Args:
      first: Number of the first token of the answer in the paragraph.
      last: Number of the last token.
    """
    # sequence      [CLS] who [SEP] cat sat on [SEP]     offset = 3
    # paragraph                      4   5   6           first_token = 4
    num_tokens = len(self.features.input_ids) - self.offset - 1
    if first < self.first_token or last >= self.first_token + num_tokens:
      return 0, 0
    shift = self.offset - self.first_token
    return first + shift, last + shift


class WindowMaker:
  """Cuts the questions of a data set into windows, and counts problems.

  Attributes:
    dataset: The data set.
    tokenizer: Tokenizer of the model.
    settings: Sizes of windows.
    counts: Numbers of questions, of windows, and of questions with a remark.
  """

  def __init__(
    self,
    dataset: squad.Dataset,
    tokenizer: tokenization.FullTokenizer,
    settings: WindowSettings,
    is_verbose: bool = False,
  ):
    """Initializes the maker; windows are cut on request.

    Args:
      dataset: The data set.
      tokenizer: Tokenizer of the model.
      settings: Sizes of windows.
      is_verbose: Whether to log each question with a remark, and not only
        count them.
    """
    self.dataset = dataset
    self.tokenizer = tokenizer
    self.settings = settings
    self.counts = collections.Counter(questions=len(dataset.questions))
    self._is_verbose = is_verbose
    self._paragraphs: dict[int, Paragraph] = {}
    self._characters_kept = 0

  def count_question(self, question: squad.Question, remark: str) -> None:
    """Counts a question that has a remark."""
    self.counts[remark] += 1
    if self._is_verbose:
      logging.info("question %s: %s", question.id, remark)

  def get_paragraph(self, number: int) -> Paragraph:
    """Returns a paragraph, tokenized."""
    if number not in self._paragraphs:
      text = self.dataset.paragraphs[number]
      # Questions come paragraph by paragraph, so old ones are not needed again.
      if self._characters_kept + len(text) > _CHARACTERS_KEPT:
        self._paragraphs.clear()
        self._characters_kept = 0
      self._paragraphs[number] = Paragraph(text, self.tokenizer)
      self._characters_kept += len(text)
    return self._paragraphs[number]

  def _encode_question(self, question: squad.Question) -> list[int]:
    ids = self.tokenizer.encode(question.text)
    return ids[: self.settings.max_query_length]

  def get_offset(self, question: squad.Question) -> int:
    """Returns the position of the paragraph in sequences of a question."""
    return len(self._encode_question(question)) + 2

  def cut_paragraph(
    self, question: squad.Question
  ) -> tuple[Paragraph, sliding_windows.TextWindows]:
    """Returns the paragraph of a question and its windows."""
    paragraph = self.get_paragraph(question.paragraph)
    # The question, its [CLS] and [SEP], and the last [SEP] leave this room.
    room = self.settings.max_seq_length - self.get_offset(question) - 1
    return paragraph, paragraph.cut_windows(room, self.settings.doc_stride)

  def cut_windows(self) -> Iterator[QuestionWindow]:
    """Yields the windows of all questions, in order.

    A question is truncated to `max_query_length`. A paragraph without tokens
    has no windows.
    """
    for question_number, question in enumerate(self.dataset.questions):
      paragraph, windows = self.cut_paragraph(question)
      question_ids = self._encode_question(question)
      prefix = [self.tokenizer.cls_id, *question_ids, self.tokenizer.sep_id]
      offset = len(prefix)
      if not len(windows.starts):
        self.count_question(question, "questions about empty paragraphs")
      for number, start in enumerate(windows.starts.tolist()):
        length = int(windows.lengths[number])
        ids = paragraph.ids[start : start + length]
        features = encoding.InputFeatures(
          [*prefix, *ids, self.tokenizer.sep_id],
          [0] * offset + [1] * (length + 1),
        )
        self.counts["windows"] += 1
        yield QuestionWindow(question_number, number, start, offset, features)

  # --- Training --------------------------------------------------------------

  def cut_training_windows(
    self, skip_missing_answers: bool
  ) -> Iterator[tuple[QuestionWindow, tuple[int, int]]]:
    """Yields windows, each with the first and last position of the answer.

    The positions are those of `[CLS]`, (0, 0), if the window does not contain
    the answer or there is none. Of several answers the first counts.

    Args:
      skip_missing_answers: Whether to skip questions whose answer is not in
        the paragraph.

    Raises:
      UserError: A question has no answer but needs one.
    """
    question_number, tokens = -1, None
    for window in self.cut_windows():
      question = self.dataset.questions[window.question]
      if window.question != question_number:
        question_number = window.question
        tokens = self._find_answer(question, skip_missing_answers)
      if tokens is None:
        continue
      positions = (0, 0)
      if not question.is_impossible:
        positions = window.find_positions(*tokens)
      if positions == (0, 0):
        self.counts["windows without answer"] += 1
      yield window, positions

  def _find_answer(
    self, question: squad.Question, skip_missing_answers: bool
  ) -> tuple[int, int] | None:
    """Returns the first and last token of the answer; None to skip it."""
    if question.is_impossible:
      self.counts["questions without answer"] += 1
      return 0, 0
    shown_id = text_files.format_value(question.id)
    if not question.answers:
      raise UserError(
        f"{self.dataset.path}: question {shown_id} has no answer to train "
        "with, and is not marked by is_impossible."
      )
    paragraph = self.get_paragraph(question.paragraph)
    span = self._find_answer_span(paragraph, question)
    if span is None:
      self.count_question(question, "answers not in the paragraph, left out")
      if skip_missing_answers:
        return None
      answer = text_files.format_value(question.answers[0].text)
      raise UserError(
        f"{self.dataset.path}: the answer {answer} of question {shown_id} is "
        "not in its paragraph. Correct it, or skip such questions with "
        "--skip_missing_answers."
      )
    return self._find_answer_tokens(paragraph, question.answers[0], *span)

  def _find_answer_tokens(
    self, paragraph: Paragraph, answer: squad.Answer, begin: int, end: int
  ) -> tuple[int, int]:
    """Returns the first and last token of an answer.

    They are the tokens that are exactly the answer. Where there are none, they
    are those of the whole words, as in the original code, or the fewest tokens
    around the answer where a word may be a whole sentence.

    Args:
      paragraph: The paragraph.
      answer: The answer.
      begin: Begin of the answer in the paragraph.
      end: Its end.
    """
    first_word = paragraph.find_word(begin)
    last_word = paragraph.find_word(end - 1)
    first = paragraph.first_tokens[first_word]
    last = max(first, paragraph.first_tokens[last_word + 1] - 1)
    # Most answers are whole words, and need no search in their tokens.
    word_begin, _ = paragraph.spans[first_word]
    _, word_end = paragraph.spans[last_word]
    if (begin, end) == (word_begin, word_end):
      return first, last
    tokens = paragraph.find_tokens(begin, end)
    if tokens and paragraph.find_span(*tokens) == (begin, end):
      return tokens
    # Characters that the tokenizer drops, such as accents, are no difference.
    wanted = self.tokenizer.encode(answer.text)
    place = _find_ids(paragraph.ids[first : last + 1], wanted)
    if wanted and place >= 0:
      return first + place, first + place + len(wanted) - 1
    if tokens and paragraph.is_unspaced(first_word, last_word):
      return tokens
    return first, last

  def _find_answer_span(
    self, paragraph: Paragraph, question: squad.Question
  ) -> tuple[int, int] | None:
    """Returns begin and end of an answer; None if it is missing."""
    answer = question.answers[0]
    wanted = " ".join(answer.text.split())
    if not wanted or not paragraph.words:
      return None
    start = answer.start or 0
    annotated = paragraph.text[start : start + len(answer.text)]
    if answer.start is not None and " ".join(annotated.split()) == wanted:
      num_spaces = len(annotated) - len(annotated.lstrip())
      return start + num_spaces, start + len(annotated.rstrip())
    # It is annotated with no offset, another offset or other white space: the
    # nearest place counts.
    nearest = min(
      paragraph.find_places(wanted),
      default=None,
      key=lambda span: abs(span[0] - start),
    )
    if nearest is None:
      return None
    begin, end = nearest
    is_near = begin < start + len(answer.text) and start < end
    if answer.start is not None and not is_near:
      self.count_question(question, "answers found elsewhere than annotated")
    return nearest


def _find_ids(ids: Iterable[int], wanted: Sequence[int]) -> int:
  """Returns the first place of some ids among others, or -1."""
  # Both are searched as strings, because Python searches a string in time that
  # is linear in its length. Ids that are not wanted all become one character.
  distinct = dict.fromkeys(wanted)
  characters = {id_: chr(number) for number, id_ in enumerate(distinct, 1)}
  text = "".join(characters.get(id_, "\0") for id_ in ids)
  return text.find("".join(characters[id_] for id_ in wanted))
