"""Groups of flags, and the text of --help."""

from __future__ import annotations

from collections.abc import Callable
import functools
import inspect
import textwrap

from absl import flags

_WIDTH = 80
_INDENT = " " * 6
# Name of a flag -> title of its group.
_groups: dict[str, str] = {}


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
      known = set(flags.FLAGS)
      define(*args, **kwargs)
      for name in flags.FLAGS:
        if name not in known:
          _groups.setdefault(name, title)

    return define_in_group

  return decorator


def own_flags() -> list[str]:
  """Returns the names of our own flags, without those of libraries."""
  return list(_groups)


def help_text(docstring: str) -> str:
  """Returns the text of --help.

  Args:
    docstring: Docstring of the program: a summary, an example and more.
  """
  titles = list(dict.fromkeys(_groups.values()))
  parts = [inspect.cleandoc(docstring)]
  for title in titles:
    names = [name for name in _groups if _groups[name] == title]
    described = [_describe(flags.FLAGS[name]) for name in names]
    parts.append("\n".join([f"{title}:", *described]))
  parts.append("--helpfull also shows the flags of libraries, such as logging.")
  return "\n\n".join(parts) + "\n"


def _describe(flag: flags.Flag) -> str:
  """Returns the lines about a flag."""
  name = f"  --{flag.name}"
  if flag.boolean:
    name = f"  --[no]{flag.name}"
  elif isinstance(flag, flags.EnumFlag):
    choices = "|".join(flag.parser.enum_values)
    name += f"={choices}" if len(choices) < 50 else "=NAME"
  else:
    name += f"={_KINDS.get(flag.flag_type(), 'TEXT')}"
  text = " ".join((flag.help or "").split())
  if flag.default not in (None, False, "", []):
    text += f" Default: {str(flag.default_as_str).strip(chr(39))}."
  lines = textwrap.wrap(
    text, _WIDTH, initial_indent=_INDENT, subsequent_indent=_INDENT
  )
  return "\n".join([name, *lines])


# Type of a flag in absl -> the kind of its values.
_KINDS = {"int": "N", "float": "X", "string": "TEXT"}
