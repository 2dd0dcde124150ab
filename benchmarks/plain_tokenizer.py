"""WordPiece in plain code, for comparison."""

import unicodedata


class PlainTokenizer:
  """WordPiece as the method is described, one step and character at a time.

  There is a function for each property of a character, a pass over the text
  for each step, and no cache of words.
  """

  def __init__(self, vocab: dict[str, int]):
    self._vocab = vocab

  def encode(self, text: str) -> list[int]:
    """Returns the ids of the pieces of `text`."""
    return [self._vocab[piece] for piece in self.tokenize(text)]

  def tokenize(self, text: str) -> list[str]:
    """Returns the pieces of `text`."""
    return [piece for word in self.words(text) for piece in self._pieces(word)]

  def words(self, text: str) -> list[str]:
    """Returns the words and punctuation marks of `text`."""
    words = []
    for token in self._space_chinese(self._clean(text)).split():
      token = self._strip_accents(token.lower())
      words.extend(self._split_punctuation(token))
    return " ".join(words).split()

  def _clean(self, text):
    output = []
    for char in text:
      if ord(char) in (0, 0xFFFD) or _is_control(char):
        continue
      output.append(" " if _is_space(char) else char)
    return "".join(output)

  def _space_chinese(self, text):
    output = []
    for char in text:
      if _is_chinese(ord(char)):
        output += [" ", char, " "]
      else:
        output.append(char)
    return "".join(output)

  def _strip_accents(self, token):
    output = []
    for char in unicodedata.normalize("NFD", token):
      if unicodedata.category(char) != "Mn":
        output.append(char)
    return "".join(output)

  def _split_punctuation(self, token):
    words = []
    starts_word = True
    for char in token:
      if _is_punctuation(char):
        words.append([char])
        starts_word = True
      else:
        if starts_word:
          words.append([])
          starts_word = False
        words[-1].append(char)
    return ["".join(word) for word in words]

  def _pieces(self, word):
    chars = list(word)
    if len(chars) > 200:
      return ["[UNK]"]
    pieces, start = [], 0
    while start < len(chars):
      end, found = len(chars), None
      while start < end:
        piece = "".join(chars[start:end])
        if start > 0:
          piece = "##" + piece
        if piece in self._vocab:
          found = piece
          break
        end -= 1
      if found is None:
        return ["[UNK]"]
      pieces.append(found)
      start = end
    return pieces


def _is_space(char):
  return char in " \t\n\r" or unicodedata.category(char) == "Zs"


def _is_control(char):
  if char in "\t\n\r":
    return False
  return unicodedata.category(char) in ("Cc", "Cf")


def _is_punctuation(char):
  codepoint = ord(char)
  if (
    33 <= codepoint <= 47
    or 58 <= codepoint <= 64
    or 91 <= codepoint <= 96
    or 123 <= codepoint <= 126
  ):
    return True
  return unicodedata.category(char).startswith("P")


def _is_chinese(codepoint):
  return (
    0x4E00 <= codepoint <= 0x9FFF
    or 0x3400 <= codepoint <= 0x4DBF
    or 0xF900 <= codepoint <= 0xFAFF
    or 0x20000 <= codepoint <= 0x2A6DF
    or 0x2A700 <= codepoint <= 0x2CEAF
    or 0x2F800 <= codepoint <= 0x2FA1F
  )
