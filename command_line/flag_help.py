"""Groups of flags, and the text of --help."""

from __future__ import annotations

from collections.abc import Callable
import functools
import inspect
import re
import textwrap

from absl import flags

_WIDTH = 80
_INDENT = " " * 6
# Name of a flag -> title of its group.
_groups: dict[str, str] = {}
# Titles in the order in which their groups were begun -> whether several
# programs share the group.
_titles: dict[str, bool] = {}
_SHARED_FLAGS = "common_flags"  # the module that defines shared flags


def group(title: str) -> Callable:
  """Returns a decorator of a function that defines flags.

  The flags that it defines, and that belong to no group yet, appear in --help
  under this title.

  Args:
    title: Title of the group.
  """

  def decorator(define):
    @functools.wraps(define)
    def define_in_group(*args, **kwargs):
      _titles.setdefault(title, define.__module__ == _SHARED_FLAGS)
      known = set(flags.FLAGS)
      define(*args, **kwargs)
      for name in flags.FLAGS:
        if name not in known:
          _groups.setdefault(name, title)

    return define_in_group

  return decorator


def titles() -> list[str]:
  """Returns the titles of groups: first those of the program itself."""
  used = set(_groups.values())
  return sorted(
    (title for title in _titles if title in used), key=_titles.__getitem__
  )


def own_flags() -> list[str]:
  """Returns the names of our own flags, without those of libraries."""
  return list(_groups)


def help_text(docstring: str) -> str:
  """Returns the text of --help.

  Args:
    docstring: Docstring of the program: a summary, an example and more.
  """
  parts = [inspect.cleandoc(docstring)]
  for title in titles():
    names = [name for name in _groups if _groups[name] == title]
    described = [_describe(flags.FLAGS[name]) for name in names]
    parts.append("\n".join([f"{title}:", *described]))
  parts.append("--helpfull also shows the flags of libraries, such as logging.")
  return "\n\n".join(parts) + "\n"


def _describe(flag: flags.Flag) -> str:
  """Returns the lines about a flag."""
  # absl puts the choices in front of the text of the program.
  text = re.sub(r"^<[^>]*>:\s", "", " ".join((flag.help or "").split()))
  name = f"  --{flag.name}"
  if flag.boolean:
    name = f"  --[no]{flag.name}"
  elif isinstance(flag, flags.EnumFlag):
    choices = "|".join(flag.parser.enum_values)
    name += f"={choices}" if len(choices) < 50 else "=NAME"
    if len(choices) >= 50:
      text = f"{text} One of {', '.join(flag.parser.enum_values)}."
  else:
    name += f"={_KINDS.get(flag.flag_type(), 'TEXT')}"
  if flag.default not in (None, False, "", []):
    text += f" Default: {str(flag.default_as_str).strip(chr(39))}."
  lines = textwrap.wrap(
    text, _WIDTH, initial_indent=_INDENT, subsequent_indent=_INDENT
  )
  return "\n".join([name, *lines])


# Type of a flag in absl -> the kind of its values.
_KINDS = {"int": "N", "float": "X", "string": "TEXT"}
