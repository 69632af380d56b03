"""How the cost of a page grows: two conditions on two indexes, against the number of records and the size of the page.

`python -m benchmarks.growth --plot growth.svg` stores 2^10 to 2^20 records and asks four kinds of question of each:

| kind | conditions, in the order of the rating |
|---|---|
| selective | one of them lets few records through |
| half-selective | each lets half of the records through, independently of the other |
| opposed | the records that fit stand at the far end of the order |
| empty | each lets half of the records through, and no record passes both |

Server time is that of the script calls alone (SLOWLOG). Every answer is compared with the same predicate in Python.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.judge import Mismatch
from benchmarks.servers import NotEmpty, Server, serve
from popoto_async import Database, IndexedField, KeyField, Model, SortedField, connect

EXPONENTS = (10, 13, 17, 20)
PAGES = (10, 100, 1000)
PAGE = PAGES[0]
ROUNDS = 5
CALLS = frozenset({b"EVALSHA", b"EVALSHA_RO"})
LOGGED_FROM = 60  # µs: script calls take longer, the commands inside them, which are logged too, do not


class Number(Model):
    """The record `i` has the rating `i`, its parity, and the band of numbers of as many binary digits."""

    name = KeyField()
    rating = SortedField(type=int)
    parity = IndexedField(type=str)
    band = IndexedField(type=int)


def values_of(i: int) -> dict[str, Any]:
    return {"name": f"n{i}", "rating": i, "parity": "odd" if i % 2 else "even", "band": i.bit_length()}


@dataclass(frozen=True, slots=True)
class Question:
    """A kind of query on 2^k records, and which of them it has to answer, in order."""

    kind: str
    ask: Callable[[int], Any]
    answer: Callable[[int], Sequence[int]]


QUESTIONS = (
    Question(
        "selective",
        lambda k: Number.query.filter(parity="even", rating__between=(2**k // 3, 2**k // 3 + 2100)),
        lambda k: [i for i in range(2**k // 3, min(2**k, 2**k // 3 + 2101)) if i % 2 == 0],
    ),
    Question(
        "half-selective",
        lambda k: Number.query.filter(parity="even", rating__gte=2**k // 2),
        lambda k: range(2**k // 2, 2**k, 2),
    ),
    Question(
        "opposed",
        lambda k: Number.query.filter(parity="even", band=k - 1).order_by("-rating"),
        lambda k: range(2 ** (k - 1) - 2, 2 ** (k - 2) - 1, -2),
    ),
    Question("empty", lambda k: Number.query.filter(band=k, rating__lt=2**k // 2), lambda k: []),
)


@dataclass(frozen=True, slots=True)
class Figure:
    """One kind, one size, one page: the medians of some rounds."""

    kind: str
    records: int
    page: int
    seconds: float
    calls: int
    server: float
    median: float
    most: float
    """What 95 of 100 calls take at most."""
    longest: float


def call_times(server: Server) -> list[float]:
    """The time of each script call since the last SLOWLOG RESET, in seconds."""
    entries = server.client.slowlog_get(-1)
    return [entry["duration"] / 1e6 for entry in entries if entry["command"].split(b" ")[0] in CALLS]


async def measure(server: Server, question: Question, k: int, page: int) -> Figure:
    rounds = []
    expected = [f"n{i}" for i in question.answer(k)[:page]]
    for _ in range(ROUNDS):
        server.client.slowlog_reset()
        start = time.perf_counter()
        rows = await question.ask(k).limit(page)
        seconds = time.perf_counter() - start
        if [row.name for row in rows] != expected:
            raise Mismatch(f"{question.kind}, {2**k} records, page {page}: {len(rows)} rows, not {len(expected)}")
        calls = sorted(call_times(server))
        count = len(calls)
        split = (calls[count // 2], calls[count * 95 // 100], calls[-1])
        rounds.append(Figure(question.kind, 2**k, page, seconds, count, sum(calls), *split))
    return sorted(rounds, key=lambda figure: figure.server)[ROUNDS // 2]


async def figures(server: Server, database: Database, exponents: Sequence[int]) -> list[Figure]:
    found = []
    stored = 0
    await database.execute("CONFIG", "SET", "slowlog-log-slower-than", LOGGED_FROM)
    await database.execute("CONFIG", "SET", "slowlog-max-len", "20000")
    for k in exponents:
        summary = await Number.create_many(values_of(i) for i in range(stored, 2**k))
        if summary.failed:
            raise Mismatch(f"{summary.failed} records were not stored")
        stored = 2**k
        for question in QUESTIONS:
            for page in PAGES if k == exponents[-1] else (PAGE,):
                found.append(await measure(server, question, k, page))
                print(line(found[-1]), flush=True)
    return found


HEADING = (
    f"{'':16}{'records':>10}{'page':>6}{'wall':>12}{'calls':>7}{'server':>12}"
    f"{'median call':>13}{'95 of 100':>12}{'longest':>12}"
)


def line(figure: Figure) -> str:
    times = (figure.seconds, figure.server, figure.median, figure.most, figure.longest)
    wall, on_server, median, most, longest = (f"{value * 1e3:.2f} ms" for value in times)
    return (
        f"{figure.kind:16}{figure.records:>10,}{figure.page:>6}{wall:>12}{figure.calls:>7}{on_server:>12}"
        f"{median:>13}{most:>12}{longest:>12}"
    )


def plot(found: Sequence[Figure], target: Path) -> None:
    """Server time against records and against the page, both axes logarithmic."""
    matplotlib = import_module("matplotlib")
    matplotlib.use("svg")
    drawing, (by_size, by_page) = import_module("matplotlib.pyplot").subplots(1, 2, figsize=(10, 4), sharey=True)
    largest = max(figure.records for figure in found)
    for axes, name, chosen in (
        (by_size, "records", [figure for figure in found if figure.page == PAGE]),
        (by_page, "page", [figure for figure in found if figure.records == largest]),
    ):
        for kind, points in by_kind(chosen):
            axes.loglog([getattr(p, name) for p in points], [p.server * 1e3 for p in points], marker="o", label=kind)
        axes.set_xlabel(name)
        axes.grid(visible=True, alpha=0.3)
    by_size.set_ylabel("server time, ms")
    by_size.set_title(f"page of {PAGE}")
    by_page.set_title(f"{largest:,} records")
    by_page.legend()
    drawing.savefig(target, bbox_inches="tight")


def by_kind(found: Sequence[Figure]) -> Iterator[tuple[str, list[Figure]]]:
    for question in QUESTIONS:
        yield question.kind, [figure for figure in found if figure.kind == question.kind]


async def run(server: Server, exponents: Sequence[int]) -> list[Figure]:
    async with connect(server.url("ours")) as database:
        return await figures(server, database, exponents)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__.splitlines()[0])
    parser.add_argument("--server", default="embedded", help="as for python -m benchmarks")
    parser.add_argument("--short", action="store_true", help="up to 2^13 records: for CI")
    parser.add_argument("--plot", type=Path, help="draw the curves into this SVG file (needs matplotlib)")
    options = parser.parse_args()
    try:
        with serve(options.server) as server:
            print(f"{server.version()}, {server.kind}\n{HEADING}")
            found = asyncio.run(run(server, EXPONENTS[:2] if options.short else EXPONENTS))
    except (NotEmpty, ValueError, Mismatch) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.plot:
        plot(found, options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
