"""The demo from beginning to end, on a database that is already open."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from popoto_async import Database, PopotoError, Trace, trace
from popoto_async.demo import questions
from popoto_async.demo.airports import Airport
from popoto_async.demo.questions import QUESTIONS, Question
from popoto_async.demo.screen import Rows, Screen, body, class_source, count, duration

CONCURRENT = 500


class Watch:
    """Seconds of a block, as `seconds` when it has ended."""

    seconds = 0.0


@contextmanager
def _watch() -> Iterator[Watch]:
    watch = Watch()
    started = time.perf_counter()
    yield watch
    watch.seconds = time.perf_counter() - started


async def tell(screen: Screen, database: Database, airports: list[dict[str, Any]]) -> None:
    """Load the airports, ask every question, and run many awaits at once."""
    await _load(screen, airports)
    for number, question in enumerate(QUESTIONS, 2):
        await _ask(screen, number, question)
    await _many(screen, len(QUESTIONS) + 2, [values["icao"] for values in airports if values["icao"] != "ZUDC"])
    stats = database.stats()
    screen.heading("In all")
    screen.say(
        f"{stats.operations:,} operations in {stats.round_trips:,} round trips over"
        f" {count(stats.connections, 'connection')}. Next: docs/models.md, docs/queries.md, docs/batching.md."
    )


async def _load(screen: Screen, airports: list[dict[str, Any]]) -> None:
    screen.heading(f"1 · Load {len(airports):,} airports")
    screen.say("A model is a class. A save is one atomic call, its index entries included; many saves share a call.")
    screen.code(f"{class_source(Airport)}\n\nawait Airport.create_many(airports, progress=bar)")
    screen.say("")
    with screen.progress("airports", len(airports)) as bar, _watch() as watch:
        async with trace() as seen:
            try:
                await Airport.create_many(airports, progress=bar, on_outcome=_stop_at_failure)
            except ExceptionGroup as failures:
                raise failures.exceptions[0] from None
    stored = await Airport.query.count()
    screen.cost(
        count(stored, "airport") + " stored",
        f"{stored / watch.seconds:,.0f} a second",
        duration(watch.seconds),
        _trips(seen),
    )


def _stop_at_failure(_: Any, error: BaseException | None) -> None:
    if error is not None:
        raise error


async def _ask(screen: Screen, number: int, question: Question) -> None:
    screen.heading(f"{number} · {question.title}")
    screen.say(question.ask.__doc__ or "")
    if question.model is not None:
        screen.code(class_source(question.model))
    screen.code(body(question.ask))
    with _watch() as watch:
        async with trace() as seen:
            answer = await question.ask()
    if answer is None:
        raise PopotoError(f"{question.title}: a record that was just stored is gone")
    rows = question.rows(answer)
    screen.table(rows)
    found = len(rows.cells) if rows.found is None else rows.found
    screen.cost(count(found, "row"), duration(watch.seconds), _trips(seen))


async def _many(screen: Screen, number: int, codes: list[str]) -> None:
    codes = codes[:: max(1, len(codes) // CONCURRENT)][:CONCURRENT]
    screen.heading(f"{number} · What {len(codes)} awaits cost")
    screen.say("Awaits that run at the same time share round trips: nothing to collect, no pipeline to open.")
    cells: list[tuple[str, ...]] = []
    seconds: list[float] = []

    async def measure(name: str, ask: Callable[[Any], Awaitable[Any]], argument: list[Any]) -> Any:
        screen.code(body(ask))
        with _watch() as watch:
            async with trace() as seen:
                answer = await ask(argument)
        cells.append((name, str(len(argument)), f"{seen.round_trips:,}", duration(watch.seconds)))
        seconds.append(watch.seconds)
        return answer

    await measure("loads, one after the other", questions.one_after_the_other, codes)
    found = await measure("loads, at once", questions.at_once, codes)
    await measure("increments, at once", questions.raise_all, [airport for airport in found if airport])
    screen.table(Rows(("awaits", ">number", ">round trips", ">time"), cells))
    screen.cost(f"{seconds[0] / seconds[1]:.1f} times as fast at once")


def _trips(seen: Trace) -> str:
    return count(seen.round_trips, "round trip")
