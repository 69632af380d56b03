"""popoto_async through its public calls."""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from importlib.metadata import version
from typing import Any

from benchmarks.dataset import Account, Bill, Record, Visit
from benchmarks.workers.contestant import Contestant
from popoto_async import Field, GeoField, IndexedField, KeyField, Model, Relationship, SortedField, connect, maintenance


class Place(Model):
    """The model of the benchmark."""

    name = KeyField()
    title = Field(type=str)
    rating = SortedField(type=float)
    category = IndexedField(type=str)
    location = GeoField()


class PlaceVisit(Model):
    """A record that refers to a place. Deleting a place doesn't look for visits, as with the other contestants."""

    code = KeyField()
    place = Relationship(Place, on_delete="DO_NOTHING")
    guests = Field(type=int)


class VisitBill(Model):
    """A record that refers to a visit."""

    code = KeyField()
    visit = Relationship(PlaceVisit, on_delete="DO_NOTHING")
    total = Field(type=float)


def values_of(record: Record) -> dict[str, Any]:
    name, title, rating, category, latitude, longitude = record
    location = (latitude, longitude)
    return {"name": name, "title": title, "rating": rating, "category": category, "location": location}


def record_of(place: Any) -> Record:
    latitude, longitude = place.location
    return Record(place.name, place.title, place.rating, place.category, latitude, longitude)


def visit_of(visit: Any) -> Visit:
    return Visit(visit.code, visit.place.name, visit.guests)


def account_of(bill: Any) -> Account:
    visit = bill.visit
    return Account(Bill(bill.code, visit.code, bill.total), visit_of(visit), record_of(visit.place))


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

    async def intersect(self, category: str, low: float, limit: int) -> list[Record]:
        query = Place.query.filter(category=category, rating__gte=low).order_by("rating").limit(limit)
        return [record_of(place) for place in await query]

    async def prefixed(self, prefix: str, limit: int) -> list[Record]:
        return [record_of(place) for place in await Place.query.filter(name__startswith=prefix).limit(limit)]

    async def create_linked(self, visits: Sequence[Visit], bills: Sequence[Bill]) -> None:
        await PlaceVisit.create_many(
            {"code": code, "place": Place.ref(name=place), "guests": guests} for code, place, guests in visits
        )
        await VisitBill.create_many(
            {"code": code, "visit": PlaceVisit.ref(code=visit), "total": total} for code, visit, total in bills
        )

    async def visits_to(self, category: str, limit: int) -> list[Visit]:
        return [visit_of(visit) for visit in await PlaceVisit.query.filter(place__category=category).limit(limit)]

    async def accounts(self, codes: Sequence[str]) -> list[Account]:
        bills = await VisitBill.query.filter(code__in=codes).prefetch("visit", "visit__place")
        return [account_of(bill) for bill in bills]

    async def recategorise(self, low: float, high: float, category: str) -> int:
        return await Place.query.filter(rating__gte=low, rating__lte=high).update(category=category)

    async def remove(self, low: float, high: float) -> int:
        return await Place.query.filter(rating__gte=low, rating__lte=high).delete()

    async def create_expiring(self, records: Sequence[Record], seconds: float) -> float:
        await asyncio.gather(*(Place(**values_of(record)).save(expire_in=seconds) for record in records))
        return seconds

    async def count_all(self) -> int:
        return await Place.query.count()

    async def check_indexes(self) -> int:
        return (await maintenance.check(Place)).total

    async def rebuild(self) -> int:
        return (await maintenance.rebuild(Place)).models[0].records

    def round_trips(self) -> int | None:
        return int(self._database.stats().round_trips)


CONTESTANT: type[Contestant] = Ours
