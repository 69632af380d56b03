"""What the demo writes on: a terminal with colours and a moving bar, or plain lines of 80 columns."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from textwrap import dedent
from typing import Any

from rich import box
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.rule import Rule
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

PLAIN_WIDTH = 80
WIDEST = 100
"""Columns that the output takes of a wide terminal."""

INDENT = (0, 0, 0, 4)


@dataclass(frozen=True, slots=True)
class Rows:
    """A table: column titles, ">" before the titles of right-aligned ones, and the cells of each row."""

    titles: Sequence[str]
    cells: Sequence[Sequence[str]]
    found: int | None = None
    """How many records it shows, where that is not one for each row."""


class Screen:
    """Writes to standard output."""

    def __init__(self, *, plain: bool) -> None:
        if plain:
            self._console = Console(
                width=PLAIN_WIDTH,
                color_system=None,
                force_terminal=False,
                force_interactive=False,
                highlight=False,
                markup=False,
                emoji=False,
            )
        else:
            self._console = Console(highlight=False, markup=False, emoji=False)
            self._console.width = min(self._console.width, WIDEST)
        self._live = self._console.is_terminal

    def title(self, text: str, below: str) -> None:
        """The first lines."""
        self._write("", Text(text, "bold"), Text(below, "dim"))

    def heading(self, text: str) -> None:
        """The beginning of a part."""
        self._write("", Rule(Text(text, "bold cyan"), align="left", style="cyan"))

    def say(self, text: str, style: str = "") -> None:
        """A paragraph."""
        self._write(Text(text, style))

    def code(self, source: str) -> None:
        """Python."""
        shown = Syntax(source, "python", theme="ansi_dark", background_color="default", word_wrap=True)
        self._write("", Padding(shown if self._live else Text(source), INDENT))

    def table(self, rows: Rows) -> None:
        """Rows under their titles."""
        table = Table(box=box.SIMPLE_HEAD, header_style="dim", pad_edge=False)
        for title in rows.titles:
            right = title.startswith(">")
            table.add_column(Text(title.lstrip(">")), justify="right" if right else "left", no_wrap=right)
        for cells in rows.cells:
            table.add_row(*map(Text, cells))
        self._write(Padding(table, (0, 0, 0, INDENT[3] - 1)))  # a table begins with a blank

    def cost(self, *parts: str) -> None:
        """What something took."""
        self._write(Padding(Text("→ " + " · ".join(parts), "bold green"), INDENT))

    def _write(self, *parts: RenderableType) -> None:
        """Write them below each other, with no blanks at the ends of lines."""
        with self._console.capture() as captured:
            for part in parts:
                self._console.print(part)
        text = captured.get()
        self._console.file.write("\n".join(line.rstrip(" ") for line in text.split("\n")))
        self._console.file.flush()

    @contextmanager
    def progress(self, label: str, total: int) -> Iterator[Callable[[int], None]]:
        """Give a function that is told how many are done: a bar moves, or a line is written at every quarter."""
        if not self._live:
            yield self._quarters(label, total)
            return
        columns = (TextColumn("    {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self._console) as bars:
            task = bars.add_task(label, total=total)

            def tell(done: int) -> None:
                bars.update(task, completed=done)

            yield tell

    def _quarters(self, label: str, total: int) -> Callable[[int], None]:
        told = 0

        def tell(done: int) -> None:
            nonlocal told
            quarter = 4 * done // total
            if quarter > told:
                told = quarter
                self._write(Text(f"    {label} {25 * quarter:>3} %"))

        return tell


def class_source(cls: type) -> str:
    """The statements of a class, as they stand in its file."""
    return dedent(inspect.getsource(cls)).rstrip()


def body(function: Callable[..., Any]) -> str:
    """The statements of a function below its docstring, as they run; a last `return` is left out."""
    source = dedent(inspect.getsource(function))
    node = ast.parse(source).body[0]
    assert isinstance(node, ast.AsyncFunctionDef)
    lines = source.splitlines()[node.body[1].lineno - 1 : node.end_lineno]
    last = node.body[-1]
    if isinstance(last, ast.Return):
        at = last.lineno - node.body[1].lineno
        lines[at] = lines[at].replace("return ", "", 1)
    return dedent("\n".join(lines))


def duration(seconds: float) -> str:
    """A time with its unit."""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"


def count(number: int, one: str, many: str = "") -> str:
    """A number with its noun."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
