"""popoto through its asynchronous calls. It connects while it is imported, to REDIS_URL."""

import asyncio
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from typing import Any

from popoto import Field, GeoField, IndexedField, KeyField, Model, SortedField

from benchmarks.dataset import Record


class Place(Model):  # type: ignore[misc]  # the peer has no types
    """The model of the benchmark."""

    name = KeyField()
    title = Field(type=str)
    rating = SortedField(type=float)
    category = IndexedField(type=str)
    location = GeoField()


def values_of(record: Record) -> dict[str, Any]:
    name, title, rating, category, latitude, longitude = record
    location = GeoField.Coordinates(latitude, longitude)
    return {"name": name, "title": title, "rating": rating, "category": category, "location": location}


def record_of(place: Any) -> Record:
    latitude, longitude = place.location
    return Record(place.name, place.title, place.rating, place.category, latitude, longitude)


class Popoto:
    """The peer whose promises ours repeats."""

    note = ""

    def __init__(self) -> None:
        self.versions = {"popoto": version("popoto"), "redis": version("redis")}

    async def open(self, url: str) -> None:
        await Place.query.async_count()

    async def close(self) -> None:
        """Its connections end with the process."""

    async def create_each(self, records: Sequence[Record]) -> None:
        for record in records:
            await Place.async_create(**values_of(record))

    async def create_together(self, records: Sequence[Record]) -> None:
        await asyncio.gather(*(Place.async_create(**values_of(record)) for record in records))

    async def create_many(self, records: Iterable[Record]) -> None:
        await Place.async_bulk_create([Place(**values_of(record)) for record in records])

    async def load_together(self, names: Sequence[str]) -> list[Record]:
        places = await asyncio.gather(*(Place.query.async_get(name=name) for name in names))
        return [record_of(place) for place in places]

    async def between(self, low: float, high: float) -> list[Record]:
        places = await Place.query.async_filter(rating__gte=low, rating__lte=high)
        return [record_of(place) for place in places]

    async def equal(self, category: str, limit: int) -> list[Record]:
        places = await Place.query.async_filter(category=category, limit=limit)
        return [record_of(place) for place in places]

    async def count(self, category: str, low: float) -> int:
        return int(await Place.query.async_count(category=category, rating__gte=low))

    def round_trips(self) -> int | None:
        return None


CONTESTANT = Popoto
