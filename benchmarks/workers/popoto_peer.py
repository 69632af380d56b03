"""popoto through its asynchronous calls. It connects while it is imported, to REDIS_URL."""

import asyncio
import math
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from typing import Any

from popoto import Field, GeoField, IndexedField, KeyField, Model, Relationship, SortedField

from benchmarks.dataset import Account, Bill, Record, Visit
from benchmarks.workers.contestant import Contestant, Unavailable, require_expired


class Place(Model):
    """The model of the benchmark."""

    name = KeyField()
    title = Field(type=str)
    rating = SortedField(type=float)
    category = IndexedField(type=str)
    location = GeoField()


class PlaceVisit(Model):
    """A record that refers to a place."""

    code = KeyField()
    place = Relationship(model=Place)
    guests = Field(type=int)


class VisitBill(Model):
    """A record that refers to a visit."""

    code = KeyField()
    visit = Relationship(model=PlaceVisit)
    total = Field(type=float)


def values_of(record: Record) -> dict[str, Any]:
    name, title, rating, category, latitude, longitude = record
    location = GeoField.Coordinates(latitude, longitude)
    return {"name": name, "title": title, "rating": rating, "category": category, "location": location}


def record_of(place: Any) -> Record:
    latitude, longitude = place.location
    return Record(place.name, place.title, place.rating, place.category, latitude, longitude)


def account_of(bill: Any) -> Account:
    visit = bill.visit
    return Account(
        Bill(bill.code, visit.code, bill.total),
        Visit(visit.code, visit.place.name, visit.guests),
        record_of(visit.place),
    )


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

    async def intersect(self, category: str, low: float, limit: int) -> list[Record]:
        places = await Place.query.async_filter(category=category, rating__gte=low, order_by="rating", limit=limit)
        return [record_of(place) for place in places]

    async def prefixed(self, prefix: str, limit: int) -> list[Record]:
        places = await Place.query.async_filter(name__startswith=prefix, order_by="name", limit=limit)
        return [record_of(place) for place in places]

    async def create_linked(self, visits: Sequence[Visit], bills: Sequence[Bill]) -> None:
        places = {place.name: place for place in await Place.query.async_all()}
        stored = [PlaceVisit(code=code, place=places[place], guests=guests) for code, place, guests in visits]
        await PlaceVisit.async_bulk_create(stored)
        by_code = {visit.code: visit for visit in stored}
        await VisitBill.async_bulk_create(
            [VisitBill(code=code, visit=by_code[visit], total=total) for code, visit, total in bills]
        )

    async def visits_to(self, category: str, limit: int) -> list[Visit]:
        try:
            visits = await PlaceVisit.query.async_filter(place__category=category, limit=limit)
        except KeyError as error:
            raise Unavailable(f"a filter through a relation ends in KeyError: {error}") from error
        return [Visit(visit.code, visit.place.name, visit.guests) for visit in visits]

    async def accounts(self, codes: Sequence[str]) -> list[Account]:
        bills = await VisitBill.query.async_get_many([f"VisitBill:{code}" for code in codes])
        return [account_of(bill) for bill in bills]

    async def recategorise(self, low: float, high: float, category: str) -> int:
        places = await Place.query.async_filter(rating__gte=low, rating__lte=high)
        return int(await Place.async_bulk_update(places, category=category))

    async def remove(self, low: float, high: float) -> int:
        places = await Place.query.async_filter(rating__gte=low, rating__lte=high)
        return int(await Place.async_bulk_delete(places))

    async def create_expiring(self, records: Sequence[Record], seconds: float) -> float:
        life = math.ceil(seconds)
        before = await self.count_all()
        await asyncio.gather(*(self._create_expiring(record, life) for record in records))
        await asyncio.sleep(life + 0.02)
        await require_expired(self, before)
        return 0.0

    async def count_all(self) -> int:
        return int(await Place.query.async_count())

    async def _create_expiring(self, record: Record, life: int) -> None:
        place = Place(**values_of(record))
        place._ttl = life
        await place.async_save()

    async def check_indexes(self) -> int:
        return int((await Place.async_check_indexes())["total"])

    async def rebuild(self) -> int:
        try:
            return int(await Place.async_rebuild_indexes())
        except AttributeError as error:  # the decoded position is a plain tuple where its GeoField wants Coordinates
            raise Unavailable(f"a rebuild with a GeoField ends in AttributeError: {error}") from error

    def round_trips(self) -> int | None:
        return None


CONTESTANT: type[Contestant] = Popoto
