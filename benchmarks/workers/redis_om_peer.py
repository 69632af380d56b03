"""redis-om. Its indexes are those of the server's search module; without it only saving and loading by key exist."""

import asyncio
import math
import os
from collections.abc import Awaitable, Iterable, Sequence
from importlib.metadata import version
from typing import Any

from aredis_om import Coordinates, Field, HashModel, Migrator, get_redis_connection
from redis.exceptions import ResponseError

from benchmarks.dataset import Account, Bill, Record, Visit
from benchmarks.workers.contestant import Contestant, Unavailable, chunked, require_expired

AT_ONCE = 64
NO_SEARCH = "find() needs the search module, which this server does not have"
NO_REFERENCES = "its records don't refer to one another; a JSON model holds others inside"


class Place(HashModel, index=True):  # type: ignore[misc, call-arg]  # the peer is not typed for its users
    """The model of the benchmark."""

    name: str = Field(primary_key=True, sortable=True)
    title: str
    rating: float = Field(sortable=True, index=True)
    category: str = Field(index=True)
    location: Coordinates = Field(index=True)

    class Meta:
        """Where its records are."""

        database = get_redis_connection(url=os.environ["REDIS_URL"])


async def has_search() -> bool:
    """Asked by hand: the library's own check raises on a server without the module."""
    try:
        await Place.db().execute_command("FT._LIST")
    except ResponseError:
        return False
    return True


async def together(calls: Sequence[Awaitable[Any]]) -> list[Any]:
    """A gather that its connection pool survives: the pool raises when more than 100 calls run at once."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(call: Awaitable[Any]) -> Any:
        async with gate:
            return await call

    return await asyncio.gather(*map(one, calls))


def place_of(record: Record) -> Any:
    name, title, rating, category, latitude, longitude = record
    return Place(name=name, title=title, rating=rating, category=category, location=(latitude, longitude))


def record_of(place: Any) -> Record:
    location = place.location
    return Record(place.name, place.title, place.rating, place.category, location.latitude, location.longitude)


class RedisOm:
    """The ORM of the module's vendor."""

    def __init__(self) -> None:
        self.versions = {"redis-om": version("redis-om"), "redis": version("redis")}
        self.note = ""
        self._search = False

    async def open(self, url: str) -> None:
        self._search = await has_search()
        if self._search:
            await Migrator().run()
        else:
            self.note = f"writes the hash only, its indexes need the search module; gathers of {AT_ONCE} at once"

    async def close(self) -> None:
        await Place.db().aclose()

    async def create_each(self, records: Sequence[Record]) -> None:
        for record in records:
            await place_of(record).save()

    async def create_together(self, records: Sequence[Record]) -> None:
        await together([place_of(record).save() for record in records])

    async def create_many(self, records: Iterable[Record]) -> None:
        for chunk in chunked(records, 1_000):
            await Place.add([place_of(record) for record in chunk])

    async def load_together(self, names: Sequence[str]) -> list[Record]:
        return [record_of(place) for place in await together([Place.get(name) for name in names])]

    async def between(self, low: float, high: float) -> list[Record]:
        query = self._find((Place.rating >= low) & (Place.rating <= high)).sort_by("rating")
        return [record_of(place) for place in await query.all()]

    async def equal(self, category: str, limit: int) -> list[Record]:
        return [record_of(place) for place in await self._find(Place.category == category).page(0, limit)]

    async def count(self, category: str, low: float) -> int:
        return int(await self._find((Place.category == category) & (Place.rating >= low)).count())

    async def intersect(self, category: str, low: float, limit: int) -> list[Record]:
        query = self._find((Place.category == category) & (Place.rating >= low)).sort_by("rating")
        return [record_of(place) for place in await query.page(0, limit)]

    async def prefixed(self, prefix: str, limit: int) -> list[Record]:
        query = self._find(Place.name.startswith(prefix)).sort_by("name")
        return [record_of(place) for place in await query.page(0, limit)]

    async def create_linked(self, visits: Sequence[Visit], bills: Sequence[Bill]) -> None:
        raise Unavailable(NO_REFERENCES)

    async def visits_to(self, category: str, limit: int) -> list[Visit]:
        raise Unavailable(NO_REFERENCES)

    async def accounts(self, codes: Sequence[str]) -> list[Account]:
        raise Unavailable(NO_REFERENCES)

    async def recategorise(self, low: float, high: float, category: str) -> int:
        query = self._find((Place.rating >= low) & (Place.rating <= high))
        found = int(await query.count())
        await query.update(category=category)
        return found

    async def remove(self, low: float, high: float) -> int:
        return int(await self._find((Place.rating >= low) & (Place.rating <= high)).delete())

    async def create_expiring(self, records: Sequence[Record], seconds: float) -> float:
        life = math.ceil(seconds)
        before = await self.count_all()
        places = [place_of(record) for record in records]
        await Place.add(places)
        await together([place.expire(life) for place in places])
        await asyncio.sleep(life + 0.02)
        await require_expired(self, before)
        return 0.0

    async def count_all(self) -> int:
        self._require_search()
        return int(await Place.find().count())

    async def check_indexes(self) -> int:
        raise Unavailable("it has no check of its indexes")

    async def rebuild(self) -> int:
        raise Unavailable("it has no rebuild of its indexes: the search module makes them")

    def round_trips(self) -> int | None:
        return None

    def _require_search(self) -> None:
        if not self._search:
            raise Unavailable(NO_SEARCH)

    def _find(self, expression: Any) -> Any:
        self._require_search()
        return Place.find(expression)


CONTESTANT: type[Contestant] = RedisOm
