"""What the demo asks: functions that are shown as they run, below their docstrings, and the tables of their answers."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from popoto_async import UniqueViolation
from popoto_async.demo.airports import Airport, Pilot
from popoto_async.demo.screen import Rows


@dataclass(frozen=True, slots=True)
class Question:
    """A title, the function that asks, and what makes a table of its answer."""

    title: str
    ask: Callable[[], Awaitable[Any]]
    rows: Callable[[Any], Rows]
    model: type | None = None
    """The model, where it has not been shown before."""


async def by_key() -> Airport | None:
    """A key names one record: no index is read."""
    return await Airport.load(icao="KJFK")


async def highest() -> list[Airport]:
    """Country is indexed, elevation sorted: filter, order, limit and rows are one call, and it reads the page."""
    return await Airport.query.filter(country="PE").order_by("-elevation").limit(6)


async def nearby() -> list[Airport]:
    """Positions are kept exactly: the distances are computed from what was stored."""
    zurich = await Airport.load(icao="LSZH")
    return await Airport.query.filter(
        position_member=zurich,
        position_radius=100,
        position_radius_unit="km",
        position_with_distances=True,
    ).limit(6)


async def around_the_pole() -> list[Airport]:
    """The servers' own geo index ends at 85°. A position here may be anywhere: this one is at 90° south."""
    pole = await Airport.load(icao="NZSP")
    return await Airport.query.filter(
        position_member=pole,
        position_radius=1_350,
        position_radius_unit="km",
        position_with_distances=True,
    )


async def counts() -> tuple[int, ...]:
    """The server counts. Five counts that are awaited together travel together."""
    airports = Airport.query
    return await asyncio.gather(
        airports.count(),
        airports.filter(iata__isnull=False).count(),
        airports.filter(country="US").count(),
        airports.filter(country="US", elevation__gte=5_000).count(),
        airports.filter(elevation__lt=0).count(),
    )


async def rename() -> tuple[Airport | None, ...]:
    """A changed key moves the record with all its index entries, in one atomic call."""
    airport = await Airport.query.get_or_raise(icao="ZUDC")
    airport.icao = "ZZZZ"
    await airport.save()

    return await asyncio.gather(
        Airport.load(icao="ZUDC"),
        Airport.load(icao="ZZZZ"),
        Airport.query.filter(country="CN").order_by("-elevation").first(),
    )


async def conflict() -> list[Pilot | BaseException]:
    """One hundred pilots want the same unique call sign at the same moment."""
    names = [f"Pilot {number}" for number in range(100)]
    return await asyncio.gather(
        *(Pilot.create(name=name, call_sign="Maverick") for name in names),
        return_exceptions=True,
    )


async def one_after_the_other(codes: list[str]) -> list[Airport | None]:
    """Each waits for the one before."""
    return [await Airport.load(icao=code) for code in codes]


async def at_once(codes: list[str]) -> list[Airport | None]:
    """They are awaited together."""
    return await asyncio.gather(*(Airport.load(icao=code) for code in codes))


async def raise_all(found: list[Airport]) -> list[Any]:
    """Writes, index entries included, do the same."""
    return await asyncio.gather(*(each.increment("elevation", 1) for each in found))


# Tables ---------------------------------------------------------------------------------------------------------------


def _card(airport: Airport) -> Rows:
    latitude, longitude = airport.position
    cells = [
        ("key", airport.db_key.redis_key),
        ("name", airport.name),
        ("city", f"{airport.city}, {airport.country}"),
        ("iata", airport.iata or ""),
        ("elevation", _feet(airport)),
        ("position", f"{latitude}, {longitude}"),
    ]
    return Rows(("field", "value"), cells, found=1)


def _heights(airports: list[Airport]) -> Rows:
    cells = [(airport.icao, airport.name, airport.city, _feet(airport)) for airport in airports]
    return Rows(("icao", "name", "city", ">elevation"), cells)


def _distances(airports: list[Airport]) -> Rows:
    # A result of a query with distances carries them as `_geo_distance`.
    cells = [
        (airport.icao, airport.name, airport.country, f"{vars(airport)['_geo_distance']:,.1f} km")
        for airport in airports
    ]
    return Rows(("icao", "name", "country", ">distance"), cells)


def _numbers(numbers: tuple[int, ...]) -> Rows:
    asked = (
        "all airports",
        "with an IATA code",
        "in the US",
        "in the US, at 5,000 ft or above",
        "below sea level",
    )
    cells = [(name, f"{number:,}") for name, number in zip(asked, numbers, strict=True)]
    return Rows(("airports", ">how many"), cells)


def _renamed(answers: tuple[Airport | None, ...]) -> Rows:
    asked = ('load(icao="ZUDC")', 'load(icao="ZZZZ")', "the highest of China")
    cells = [
        (name, airport.db_key.redis_key if airport else "None", airport.name if airport else "")
        for name, airport in zip(asked, answers, strict=True)
    ]
    return Rows(("afterwards", "key", "name"), cells)


def _winners(answers: list[Pilot | BaseException]) -> Rows:
    told: Counter[tuple[str, str]] = Counter()
    for answer in answers:
        if isinstance(answer, Pilot):
            told["created", answer.db_key.redis_key] += 1
        elif isinstance(answer, UniqueViolation):
            told["UniqueViolation", str(answer)] += 1
        else:
            raise answer
    return Rows((">pilots", "outcome", "key or message"), [(str(pilots), *outcome) for outcome, pilots in told.items()])


def _feet(airport: Airport) -> str:
    return f"{airport.elevation:,.0f} ft"


QUESTIONS = (
    Question("Load by key", by_key, _card),
    Question("The highest airports of Peru", highest, _heights),
    Question("Airports within 100 km of Zurich, the nearest first", nearby, _distances),
    Question("Around the South Pole, where all meridians meet", around_the_pole, _distances),
    Question("Counts", counts, _numbers),
    Question("A rename", rename, _renamed),
    Question("A unique conflict", conflict, _winners, model=Pilot),
)
"""In the order in which they are asked."""
