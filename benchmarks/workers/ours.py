"""popoto_async through its public calls."""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from importlib.metadata import version
from typing import Any

from benchmarks.dataset import Record
from popoto_async import Field, GeoField, IndexedField, KeyField, Model, SortedField, connect


class Place(Model):
    """The model of the benchmark."""

    name = KeyField()
    title = Field(type=str)
    rating = SortedField(type=float)
    category = IndexedField(type=str)
    location = GeoField()


def values_of(record: Record) -> dict[str, Any]:
    name, title, rating, category, latitude, longitude = record
    location = (latitude, longitude)
    return {"name": name, "title": title, "rating": rating, "category": category, "location": location}


def record_of(place: Any) -> Record:
    latitude, longitude = place.location
    return Record(place.name, place.title, place.rating, place.category, latitude, longitude)


class Ours:
    """The subject."""

    note = ""

    def __init__(self) -> None:
        self.versions = {"redis": version("redis")}
        self._stack = AsyncExitStack()
        self._database: Any = None

    async def open(self, url: str) -> None:
        self._database = await self._stack.enter_async_context(connect(url))

    async def close(self) -> None:
        await self._stack.aclose()

    async def create_each(self, records: Sequence[Record]) -> None:
        for record in records:
            await Place.create(**values_of(record))

    async def create_together(self, records: Sequence[Record]) -> None:
        await asyncio.gather(*(Place.create(**values_of(record)) for record in records))

    async def create_many(self, records: Iterable[Record]) -> None:
        await Place.create_many(values_of(record) for record in records)

    async def load_together(self, names: Sequence[str]) -> list[Record]:
        places = await asyncio.gather(*(Place.load(name=name) for name in names))
        return [record_of(place) for place in places]

    async def between(self, low: float, high: float) -> list[Record]:
        return [record_of(place) for place in await Place.query.filter(rating__gte=low, rating__lte=high)]

    async def equal(self, category: str, limit: int) -> list[Record]:
        return [record_of(place) for place in await Place.query.filter(category=category).limit(limit)]

    async def count(self, category: str, low: float) -> int:
        return await Place.query.filter(category=category, rating__gte=low).count()

    def round_trips(self) -> int | None:
        return int(self._database.stats().round_trips)


CONTESTANT = Ours
