"""Tests of the floor plan in CONTRIBUTING.md and of the rules of its style."""

import ast
import collections
import functools
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent

# From bottom to top. A module imports from the layers below its own, and a
# module of a package also from its package. All others at the top level are
# programs, which import from everywhere but from each other.
LAYERS = [
  {"errors"},
  {"command_line"},
  {"data"},
  {"losses", "operations", "optimization", "tokenization"},
  {"modeling"},
  {"heads"},
  {"checkpoint"},
  {"training"},
  {"estimator"},
  {"pretraining", "tasks"},
  {"serving"},
  {"reports"},
  {"common_flags", "launch"},
]
PACKAGES = {
  "command_line",
  "data",
  "training",
  "pretraining",
  "tasks",
  "serving",
  "reports",
}
LIBRARIES = set().union(*LAYERS)
# It replaces one part of the other program.
IMPORTED_PROGRAMS = {("run_classifier_with_tfhub", "run_classifier")}
MOST_FILES_AT_THE_TOP = 28
# Lines of a body without its docstring.
MOST_LINES_OF_A_FUNCTION = 60
# A statement is dense if its expressions are nested this deep.
DENSE_DEPTH = 7
LARGEST_DENSE_SHARE = 0.02
FORBIDDEN_WORDS = re.compile(
  r"\b(TODO|FIXME|XXX|anew|whoever|such as were|what is written of)\b",
  re.IGNORECASE,
)


def is_own_code(path: pathlib.Path) -> bool:
  """Returns whether a file is part of the project and no test."""
  top = path.relative_to(ROOT).parts[0]
  return path.parent == ROOT or top in PACKAGES


@functools.cache
def sources() -> dict[str, ast.Module]:
  """Returns the syntax trees of all modules, except tests and benchmarks."""
  trees = {}
  for path in sorted(ROOT.glob("*.py")) + sorted(ROOT.glob("*/*.py")):
    if is_own_code(path):
      name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
      trees[name] = ast.parse(path.read_text(encoding="utf-8"))
  return trees


def modules() -> dict[str, ast.Module]:
  """Returns `sources` without the `__init__` of packages."""
  return {
    name: tree
    for name, tree in sources().items()
    if not name.endswith(".__init__")
  }


def programs() -> set[str]:
  """Returns the names of modules that are commands."""
  return {
    name for name in modules() if "." not in name and name not in LIBRARIES
  }


def imports_of(tree: ast.Module) -> set[str]:
  """Returns the modules of the project that a module imports."""
  names = set()
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      names.update(alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      names.add(node.module)
      names.update(f"{node.module}.{alias.name}" for alias in node.names)
  return names & set(modules())


def package_of(module: str) -> str:
  """Returns the package of a module, or "" at the top level."""
  return module.rpartition(".")[0]


def layer_of(module: str) -> int:
  """Returns the number of a module's layer, counted from the bottom."""
  top = module.split(".")[0]
  for number, names in enumerate(LAYERS):
    if top in names:
      return number
  return len(LAYERS)


def test_top_level_is_small():
  names = [name for name in modules() if "." not in name]
  assert len(names) <= MOST_FILES_AT_THE_TOP, sorted(names)
  tops = {path.parent.name for path in ROOT.glob("*/__init__.py")}
  assert tops == PACKAGES


def test_imports_point_one_way():
  wrong = []
  for name, tree in modules().items():
    for other in imports_of(tree):
      is_same_package = package_of(name) == package_of(other) != ""
      is_below = layer_of(other) < layer_of(name)
      is_exception = (name, other) in IMPORTED_PROGRAMS
      if not (is_below or is_same_package or is_exception):
        wrong.append(f"{name} imports {other}")
  assert not wrong


def test_imports_make_no_cycle():
  rest = {name: imports_of(tree) for name, tree in modules().items()}
  while leaves := {name for name, others in rest.items() if not others}:
    rest = {
      name: others - leaves
      for name, others in rest.items()
      if name not in leaves
    }
  assert not rest


def test_programs_have_a_main_and_no_other_module_has():
  for name, tree in modules().items():
    functions = {
      node.name for node in tree.body if isinstance(node, ast.FunctionDef)
    }
    if name in programs():
      assert "main" in functions, name
    else:
      assert "main" not in functions, name


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_packages_name_their_modules(package):
  text = ast.get_docstring(sources()[f"{package}.__init__"])
  for module in modules():
    if module.startswith(f"{package}."):
      assert re.search(rf"\b{module.split('.')[1]}\b", text), module
  # A module that is gone is not named either.
  for line in text.splitlines():
    names = re.match(r"(\w+(?:, \w+)*)  ", line)
    if names:
      for name in names.group(1).split(", "):
        assert f"{package}.{name}" in modules(), line


def test_classes_have_different_names():
  places = collections.defaultdict(list)
  for name, tree in modules().items():
    for node in ast.walk(tree):
      if isinstance(node, ast.ClassDef):
        places[node.name.lstrip("_")].append(name)
  assert not {name: where for name, where in places.items() if len(where) > 1}


def test_no_variable_has_the_name_of_an_imported_module():
  own_names = {name.split(".")[-1] for name in modules()}
  wrong = []
  for name, tree in modules().items():
    imported = {
      alias.asname or alias.name
      for node in ast.walk(tree)
      if isinstance(node, (ast.Import, ast.ImportFrom))
      for alias in node.names
    } & own_names
    for node in ast.walk(tree):
      if isinstance(node, ast.arg) and node.arg in imported:
        wrong.append(f"{name}:{node.lineno}: {node.arg}")
      if (
        isinstance(node, ast.Name)
        and isinstance(node.ctx, ast.Store)
        and node.id in imported
      ):
        wrong.append(f"{name}:{node.lineno}: {node.id}")
  assert not wrong


def test_results_of_many_values_have_names():
  wrong = []
  for name, tree in modules().items():
    for node in ast.walk(tree):
      if isinstance(node, ast.FunctionDef) and node.returns is not None:
        text = ast.unparse(node.returns)
        for values in re.findall(r"\btuple\[([^\[\]]*)\]", text):
          if values.count(",") > 2:
            wrong.append(f"{name}:{node.lineno}: {node.name} -> {text}")
  assert not wrong


def expression_depth(node: ast.AST) -> int:
  """Returns how deep the expressions of a statement are nested."""
  deepest = 0
  for child in ast.iter_child_nodes(node):
    if isinstance(child, ast.stmt):
      continue
    is_level = isinstance(child, (ast.expr, ast.comprehension))
    deepest = max(deepest, expression_depth(child) + is_level)
  return deepest


def test_few_statements_are_dense():
  num_statements = 0
  dense = collections.Counter()
  for name, tree in sources().items():
    for node in ast.walk(tree):
      if isinstance(node, ast.stmt):
        num_statements += 1
        dense[name] += expression_depth(node) >= DENSE_DEPTH
  share = dense.total() / num_statements
  assert share <= LARGEST_DENSE_SHARE, dense.most_common(10)


def test_functions_are_short():
  too_long = []
  for name, tree in sources().items():
    for node in ast.walk(tree):
      if isinstance(node, ast.FunctionDef):
        has_docstring = ast.get_docstring(node) is not None
        statements = node.body[1:] if has_docstring else node.body
        num_lines = 0
        if statements:
          last_line = statements[-1].end_lineno
          num_lines = last_line - statements[0].lineno + 1
        if num_lines > MOST_LINES_OF_A_FUNCTION:
          too_long.append(f"{name}.{node.name} has {num_lines} lines")
  assert not too_long


def is_flags(node: ast.AST) -> bool:
  """Returns whether an expression is `FLAGS` or ends in it."""
  return (isinstance(node, ast.Name) and node.id == "FLAGS") or (
    isinstance(node, ast.Attribute) and node.attr == "FLAGS"
  )


def test_no_code_writes_to_flags():
  wrong = []
  for name, tree in modules().items():
    for node in ast.walk(tree):
      is_assigned = (
        isinstance(node, ast.Attribute)
        and not isinstance(node.ctx, ast.Load)
        and is_flags(node.value)
      )
      is_item = (
        isinstance(node, ast.Subscript)
        and not isinstance(node.ctx, ast.Load)
        and is_flags(node.value)
      )
      is_call = (
        isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("setattr", "delattr")
        and is_flags(node.args[0])
      )
      is_method = (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("set_default", "__setattr__")
      )
      if is_assigned or is_item or is_call or is_method:
        wrong.append(f"{name}:{node.lineno}: {ast.unparse(node)}")
  assert not wrong


def test_only_programs_define_and_read_flags():
  define = programs() | {"common_flags"}
  read = define | {"launch"}
  for name, tree in modules().items():
    for node in ast.walk(tree):
      place = f"{name}:{getattr(node, 'lineno', 0)}"
      if isinstance(node, ast.Attribute) and node.attr.startswith("DEFINE_"):
        assert name in define, place
      if is_flags(node) and not name.startswith("command_line."):
        assert name in read, place


# Test modules that test a promise of several modules.
TESTS_OF_SEVERAL_MODULES = {
  "contradictions_test",
  "contracts_test",
  "documentation_test",
  "fuzz_test",
  "house_test",
}


def test_test_modules_mirror_modules():
  names = {name.split(".")[-1] for name in modules()}
  names |= {path.stem for path in ROOT.glob("docs/*.py")}
  names |= {path.stem for path in ROOT.glob("benchmarks/*.py")}
  tests = {path.stem for path in ROOT.glob("tests/*_test.py")}
  assert tests >= TESTS_OF_SEVERAL_MODULES
  for test in tests - TESTS_OF_SEVERAL_MODULES:
    assert test.removesuffix("_test") in names, test


def test_modules_of_tests_have_names_of_their_own():
  names = {name.split(".")[-1] for name in modules()} | PACKAGES
  assert len(names) == len(modules()) + len(PACKAGES)
  for path in ROOT.glob("tests/*.py"):
    assert path.stem not in names


def test_words_that_we_do_not_use():
  wrong = []
  endings = ("py", "md")
  paths = [path for end in endings for path in ROOT.glob(f"*.{end}")]
  paths += [path for end in endings for path in ROOT.glob(f"*/*.{end}")]
  for path in paths:
    if path == pathlib.Path(__file__):
      continue
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
      if FORBIDDEN_WORDS.search(line):
        wrong.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
  assert not wrong
