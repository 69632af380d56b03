"""`popoto-async check|repair|rebuild|stats MODULE`: maintenance from the command line.

Exit codes: 0 all is well, 1 damage was found (check, dry runs) or is left, 2 wrong usage, 3 it could not be done.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
from collections.abc import Callable, Coroutine, Sequence
from contextlib import ExitStack
from typing import Annotated, Any, NoReturn

import typer

from popoto_async import ConfigurationError, Model, PopotoError, ValidationError, connect, maintenance
from popoto_async.demo.screen import Rows, Screen, count
from popoto_async.maintenance import KINDS, ModelReport, ModelStats, Report

DAMAGED, USAGE, FAILED, INTERRUPTED = 1, 2, 3, 130
"""Exit codes, besides 0."""

SHOWN = 20
"""Pieces of damage of one model that are shown without --all."""

Modules = Annotated[list[str], typer.Argument(metavar="MODULE…", help="app.models, or app.models:User for one model.")]
Url = Annotated[str | None, typer.Option(envvar="REDIS_URL", help="The server; without it, the configured one.")]
Namespace = Annotated[str | None, typer.Option(help="What the keys begin with; without it, the configured one.")]
Plain = Annotated[bool, typer.Option("--plain", help="No colours, no moving bar, 80 columns.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]
All = Annotated[bool, typer.Option("--all", help="Show every piece of damage (up to 1,000 of a model).")]
Renames = Annotated[list[str] | None, typer.Option("--rename", metavar="OLD=NEW", help="A field that was renamed.")]


def check(
    modules: Modules, url: Url = None, namespace: Namespace = None, every: All = False, plain: Plain = False
) -> None:
    """Compare all indexes with what the records imply. Changes nothing; ends with 1 where something is wrong."""
    _done(_examine(modules, url, namespace, Screen(plain=plain), every, "check", maintenance.check))


def repair(
    modules: Modules,
    url: Url = None,
    namespace: Namespace = None,
    dry_run: DryRun = False,
    every: All = False,
    plain: Plain = False,
) -> None:
    """Bring everything that check finds in order. No record is removed."""

    def run(*models: Any, progress: Any) -> Coroutine[Any, Any, Report]:
        return maintenance.repair(*models, dry_run=dry_run, progress=progress)

    _done(_examine(modules, url, namespace, Screen(plain=plain), every, "repair", run))


def rebuild(
    modules: Modules,
    url: Url = None,
    namespace: Namespace = None,
    rename: Renames = None,
    dry_run: DryRun = False,
    every: All = False,
    plain: Plain = False,
) -> None:
    """Bring the indexes to what the classes declare, after these have changed. Run it again if it was interrupted."""
    renamed = dict(_pair(text) for text in rename or ())

    def run(*models: Any, progress: Any) -> Coroutine[Any, Any, Report]:
        return maintenance.rebuild(*models, renamed=renamed, dry_run=dry_run, progress=progress)

    _done(_examine(modules, url, namespace, Screen(plain=plain), every, "rebuild", run))


def stats(modules: Modules, url: Url = None, namespace: Namespace = None, plain: Plain = False) -> None:
    """Show records, memory and index sizes of each model."""
    screen = Screen(plain=plain)

    async def show() -> int:
        async with _connected(url, namespace):
            for one in await maintenance.stats(*models):
                _show_stats(screen, one)
        return 0

    models = _models(modules)
    _done(show())


COMMANDS: tuple[Callable[..., None], ...] = (check, repair, rebuild, stats)


def _pair(text: str) -> tuple[str, str]:
    old, equals, new = text.partition("=")
    if not (old and equals and new):
        _stop(f"--rename takes OLD=NEW, not {text!r}", USAGE)
    return old, new


def _models(names: Sequence[str]) -> list[type[Any]]:
    """The models that the arguments name, each once."""
    sys.path.insert(0, os.getcwd())
    found: dict[type[Any], None] = {}
    for name in names:
        path, _, wanted = name.partition(":")
        try:
            module = importlib.import_module(path)
        except Exception as error:  # whatever a module of theirs raises
            _stop(f"{path} can't be imported: {type(error).__name__}: {error}", USAGE)
        known = {
            key: one
            for key, one in vars(module).items()
            if isinstance(one, type) and issubclass(one, Model) and one is not Model and not one._meta.options.abstract
        }
        if not known or (wanted and wanted not in known):
            there = f"; there are {', '.join(known)}" if known else ""
            _stop(f"{path} has no model{f' {wanted!r}' if wanted else ''}{there}", USAGE)
        found.update(dict.fromkeys([known[wanted]] if wanted else known.values()))
    return list(found)


def _connected(url: str | None, namespace: str | None) -> Any:
    return connect(url) if namespace is None else connect(url, namespace=namespace)


async def _examine(
    modules: Sequence[str],
    url: str | None,
    namespace: str | None,
    screen: Screen,
    every: bool,
    verb: str,
    run: Callable[..., Coroutine[Any, Any, Report]],
) -> int:
    models = _models(modules)
    left = 0
    async with _connected(url, namespace):
        for model in models:
            with ExitStack() as stack:
                report = await run(model, progress=_bar(screen, stack, f"{verb} {model.__name__}"))
            for one in report.models:
                _show_report(screen, one, every)
                left += one.left + len(one.unbuilt)
    return DAMAGED if left else 0


def _bar(screen: Screen, stack: ExitStack, label: str) -> Callable[[int, int], None]:
    """What moves a bar, which begins when it is known how far it has to go."""
    bars: list[Callable[[int], None]] = []

    def tell(done: int, total: int) -> None:
        if not bars and total:
            bars.append(stack.enter_context(screen.progress(label, total)))
        for bar in bars:
            bar(done)

    return tell


def _show_report(screen: Screen, report: ModelReport, every: bool) -> None:
    looked = f"{report.model}: {count(report.records, 'record')}, {count(report.entries, 'entry', 'entries')}"
    if not report.total:
        screen.say(f"{looked}. All in order.")
    else:
        screen.say(f"{looked}. {report.total:,} not in order, {report.mended:,} of that put right.")
        for kind, number in sorted(report.found.items(), key=lambda item: -item[1]):
            screen.say(f"    {number:>9,}  {KINDS[kind]} ({kind})")
        shown = report.damage if every else report.damage[:SHOWN]
        for damage in shown:
            screen.say(f"  - {damage}")
        if len(shown) < report.total:
            screen.say(f"  … and {report.total - len(shown):,} more")
    if report.unbuilt:
        names = ", ".join(report.unbuilt)
        screen.say(
            f"Not every record is in {names}: run popoto-async rebuild when all programs that write are up to date."
        )
    if report.busy:
        screen.say(f"{count(report.busy, 'record')} changed all the time: run it again.")


def _show_stats(screen: Screen, one: ModelStats) -> None:
    screen.say(
        f"{one.model}: {count(one.records, 'record')}, {_size(one.bytes)}; {count(one.deadlines, 'deadline')} waiting;"
        f" {count(one.slots, 'slot')} in use, {one.retired} retired"
    )
    sampled = "" if one.sampled >= one.records else f", from {one.sampled:,}"
    cells = [(f"records{sampled}", "", f"{one.records:,}", _size(one.record_bytes))]
    cells += [(index.name, f"{index.keys:,}", f"{index.entries:,}", _size(index.bytes)) for index in one.indexes]
    screen.table(Rows(("", ">keys", ">entries", ">memory"), cells))


def _size(number: float) -> str:
    """Bytes with a unit."""
    if number < 1024:
        return f"{number:,.0f} B"
    for unit in ("KiB", "MiB"):
        number /= 1024
        if number < 1024:
            return f"{number:,.1f} {unit}"
    return f"{number / 1024:,.1f} GiB"


def _done(work: Coroutine[Any, Any, int]) -> None:
    """Run it, and end with its exit code."""
    try:
        code = asyncio.run(work)
    except KeyboardInterrupt:
        _stop("Stopped.", INTERRUPTED)
    except PopotoError as error:
        code = USAGE if isinstance(error, (ValidationError, ConfigurationError)) else FAILED
        _stop(f"{error} ({error.hint})" if error.hint else str(error), code)
    raise typer.Exit(code)


def _stop(message: str, code: int) -> NoReturn:
    """End with a line that says why."""
    sys.stderr.write(f"popoto-async: {message}\n")
    raise typer.Exit(code)
