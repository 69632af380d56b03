"""The floor: what a careful person writes by hand with `redis.asyncio` for exactly this model."""

from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import redis.asyncio

from benchmarks.dataset import Record
from benchmarks.workers.contestant import chunked

CLASS = "$Class:Place"
RATING = "$Sort:Place:rating"
LOCATION = "$Geo:Place:location"
PIPELINE = 100  # records in one MULTI

CREATE = """
redis.call('HSET', KEYS[1], 'name', ARGV[1], 'title', ARGV[2], 'rating', ARGV[3], 'category', ARGV[4],
  'location', ARGV[6] .. ',' .. ARGV[5])
redis.call('SADD', KEYS[2], KEYS[1])
redis.call('ZADD', KEYS[3], ARGV[3], KEYS[1])
redis.call('SADD', KEYS[4], KEYS[1])
redis.call('GEOADD', KEYS[5], ARGV[5], ARGV[6], KEYS[1])
"""

COUNT = """
local found = redis.call('ZRANGEBYSCORE', KEYS[1], ARGV[1], '+inf')
local count = 0
for first = 1, #found, 1000 do
  local last = math.min(first + 999, #found)
  for _, member in ipairs(redis.call('SMISMEMBER', KEYS[2], unpack(found, first, last))) do
    count = count + member
  end
end
return count
"""


def category_key(category: str) -> str:
    return f"$Index:Place:category:{category}"


def decode(stored: Mapping[str, str]) -> Record:
    latitude, _, longitude = stored["location"].partition(",")
    return Record(
        stored["name"],
        stored["title"],
        float(stored["rating"]),
        stored["category"],
        float(latitude),
        float(longitude),
    )


class Floor:
    """Same data, same indexes, no ORM."""

    note = ""

    def __init__(self) -> None:
        self.versions = {"redis": version("redis"), "hiredis": version("hiredis")}
        self._trips = 0
        self._client: Any = None
        self._create = ""
        self._count = ""

    async def open(self, url: str) -> None:
        self._client = redis.asyncio.from_url(url, decode_responses=True)
        self._create = await self._client.script_load(CREATE)
        self._count = await self._client.script_load(COUNT)

    async def close(self) -> None:
        await self._client.aclose()

    async def create_each(self, records: Sequence[Record]) -> None:
        for name, title, rating, category, latitude, longitude in records:
            await self._client.evalsha(
                self._create,
                5,
                f"Place:{name}",
                CLASS,
                RATING,
                category_key(category),
                LOCATION,
                name,
                title,
                rating,
                category,
                longitude,
                latitude,
            )
        self._trips += len(records)

    async def create_together(self, records: Sequence[Record]) -> None:
        await self.create_many(records)

    async def create_many(self, records: Iterable[Record]) -> None:
        for chunk in chunked(records, PIPELINE):
            pipeline = self._client.pipeline(transaction=True)
            for name, title, rating, category, latitude, longitude in chunk:
                key = f"Place:{name}"
                stored = {
                    "name": name,
                    "title": title,
                    "rating": rating,
                    "category": category,
                    "location": f"{latitude},{longitude}",
                }
                pipeline.hset(key, mapping=stored)
                pipeline.sadd(CLASS, key)
                pipeline.zadd(RATING, {key: rating})
                pipeline.sadd(category_key(category), key)
                pipeline.geoadd(LOCATION, (longitude, latitude, key))
            await pipeline.execute()
            self._trips += 1

    async def load_together(self, names: Sequence[str]) -> list[Record]:
        return await self._load([f"Place:{name}" for name in names])

    async def between(self, low: float, high: float) -> list[Record]:
        self._trips += 1
        return await self._load(await self._client.zrange(RATING, low, high, byscore=True))

    async def equal(self, category: str, limit: int) -> list[Record]:
        self._trips += 1
        _, keys = await self._client.sscan(category_key(category), 0, count=limit)
        return await self._load(keys[:limit])

    async def count(self, category: str, low: float) -> int:
        self._trips += 1
        return int(await self._client.evalsha(self._count, 2, RATING, category_key(category), low))

    def round_trips(self) -> int | None:
        return self._trips

    async def _load(self, keys: Sequence[str]) -> list[Record]:
        self._trips += 1
        pipeline = self._client.pipeline(transaction=False)
        for key in keys:
            pipeline.hgetall(key)
        return [decode(stored) for stored in await pipeline.execute()]


CONTESTANT = Floor
