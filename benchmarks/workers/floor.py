"""The floor: what a careful person writes by hand with `redis.asyncio` for exactly this model."""

import time
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import redis.asyncio

from benchmarks.dataset import Account, Bill, Record, Visit
from benchmarks.workers.contestant import Contestant, Unavailable, chunked

CLASS = "$Class:Place"
RATING = "$Sort:Place:rating"
LOCATION = "$Geo:Place:location"
VALUES = "$Index:Place:category:"
NAMES = "$Names:Place"  # for the row of prefixes
DEADLINES = "$Exp:Place"  # for the row of expiry, with what is needed when the hash is gone
CATEGORIES = "$ExpCategory:Place"
VISITS = "$Rel:Visit:place:"
BILLS = "$Rel:Bill:visit:"
PIPELINE = 100  # records in one MULTI, or in one script

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

INTERSECT = """
local page, first, piece, limit = {}, 0, 100, tonumber(ARGV[2])
while #page < limit do
  local found = redis.call('ZRANGEBYSCORE', KEYS[1], ARGV[1], '+inf', 'LIMIT', first, piece)
  if #found == 0 then break end
  for i, member in ipairs(redis.call('SMISMEMBER', KEYS[2], unpack(found))) do
    if member == 1 and #page < limit then page[#page + 1] = found[i] end
  end
  first, piece = first + piece, math.min(2 * piece, 1000)
end
return page
"""

VISITS_TO = """
local page, cursor, limit = {}, '0', tonumber(ARGV[2])
repeat
  local scan = redis.call('SSCAN', KEYS[1], cursor, 'COUNT', ARGV[2])
  cursor = scan[1]
  for _, place in ipairs(scan[2]) do
    for _, visit in ipairs(redis.call('SMEMBERS', ARGV[1] .. place)) do
      page[#page + 1] = visit
      if #page == limit then return page end
    end
  end
until cursor == '0'
return page
"""

RECATEGORISE = """
local count = 0
for i = 2, #KEYS do
  local old = redis.call('HGET', KEYS[i], 'category')
  if old then
    redis.call('HSET', KEYS[i], 'category', ARGV[1])
    redis.call('SREM', ARGV[2] .. old, KEYS[i])
    redis.call('SADD', KEYS[1], KEYS[i])
    count = count + 1
  end
end
return count
"""

REMOVE = """
local count = 0
for i = 4, #KEYS do
  local category = redis.call('HGET', KEYS[i], 'category')
  if category then
    redis.call('DEL', KEYS[i])
    redis.call('SREM', KEYS[1], KEYS[i])
    redis.call('ZREM', KEYS[2], KEYS[i])
    redis.call('ZREM', KEYS[3], KEYS[i])
    redis.call('SREM', ARGV[1] .. category, KEYS[i])
    count = count + 1
  end
end
return count
"""

COUNT_ALL = """
local now = redis.call('TIME')
local due = now[1] * 1000 + math.floor(now[2] / 1000)
for _, key in ipairs(redis.call('ZRANGEBYSCORE', KEYS[4], '-inf', due)) do
  redis.call('SREM', KEYS[1], key)
  redis.call('ZREM', KEYS[2], key)
  redis.call('ZREM', KEYS[3], key)
  redis.call('SREM', ARGV[1] .. redis.call('HGET', KEYS[5], key), key)
  redis.call('HDEL', KEYS[5], key)
end
redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', due)
return redis.call('SCARD', KEYS[1])
"""

SCRIPTS = (CREATE, COUNT, INTERSECT, VISITS_TO, RECATEGORISE, REMOVE, COUNT_ALL)


def category_key(category: str) -> str:
    return f"{VALUES}{category}"


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


def visit_of(stored: Mapping[str, str]) -> Visit:
    return Visit(stored["code"], stored["place"].removeprefix("Place:"), int(stored["guests"]))


def bill_of(stored: Mapping[str, str]) -> Bill:
    return Bill(stored["code"], stored["visit"].removeprefix("Visit:"), float(stored["total"]))


def queue_create(pipeline: Any, record: Record) -> str:
    """Puts the commands that create a record into a pipeline; returns its key."""
    name, title, rating, category, latitude, longitude = record
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
    return key


class Floor:
    """Same data, same indexes, no ORM."""

    note = ""

    def __init__(self) -> None:
        self.versions = {"redis": version("redis"), "hiredis": version("hiredis")}
        self._trips = 0
        self._client: Any = None
        self._shas: dict[str, str] = {}
        self._names_listed = False

    async def open(self, url: str) -> None:
        self._client = redis.asyncio.from_url(url, decode_responses=True)
        self._shas = {script: await self._client.script_load(script) for script in SCRIPTS}

    async def close(self) -> None:
        await self._client.aclose()

    async def create_each(self, records: Sequence[Record]) -> None:
        for name, title, rating, category, latitude, longitude in records:
            await self._client.evalsha(
                self._shas[CREATE],
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
            for record in chunk:
                queue_create(pipeline, record)
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
        return int(await self._run(COUNT, [RATING, category_key(category)], [low]))

    async def intersect(self, category: str, low: float, limit: int) -> list[Record]:
        return await self._load(await self._run(INTERSECT, [RATING, category_key(category)], [low, limit]))

    async def prefixed(self, prefix: str, limit: int) -> list[Record]:
        await self._list_names()
        self._trips += 1
        first, last = f"[{prefix}", f"({prefix}\U0010ffff"
        names = await self._client.zrange(NAMES, first, last, bylex=True, offset=0, num=limit)
        return await self.load_together(names)

    async def create_linked(self, visits: Sequence[Visit], bills: Sequence[Bill]) -> None:
        pipeline = self._client.pipeline(transaction=True)
        for visit in visits:
            key, place = f"Visit:{visit.code}", f"Place:{visit.place}"
            pipeline.hset(key, mapping={"code": visit.code, "place": place, "guests": visit.guests})
            pipeline.sadd("$Class:Visit", key)
            pipeline.sadd(f"{VISITS}{place}", key)
        for bill in bills:
            key, visited = f"Bill:{bill.code}", f"Visit:{bill.visit}"
            pipeline.hset(key, mapping={"code": bill.code, "visit": visited, "total": bill.total})
            pipeline.sadd("$Class:Bill", key)
            pipeline.sadd(f"{BILLS}{visited}", key)
        await pipeline.execute()
        self._trips += 1

    async def visits_to(self, category: str, limit: int) -> list[Visit]:
        keys = await self._run(VISITS_TO, [category_key(category)], [VISITS, limit])
        return [visit_of(stored) for stored in await self._hashes(keys)]

    async def accounts(self, codes: Sequence[str]) -> list[Account]:
        bills = [bill_of(stored) for stored in await self._hashes([f"Bill:{code}" for code in codes])]
        visited = dict.fromkeys(bill.visit for bill in bills)
        found = await self._hashes([f"Visit:{code}" for code in visited])
        visits = dict(zip(visited, map(visit_of, found), strict=True))
        named = dict.fromkeys(visit.place for visit in visits.values())
        places = dict(zip(named, await self.load_together(list(named)), strict=True))
        return [Account(bill, visits[bill.visit], places[visits[bill.visit].place]) for bill in bills]

    async def recategorise(self, low: float, high: float, category: str) -> int:
        return await self._run_over(RECATEGORISE, low, high, [category_key(category)], [category, VALUES])

    async def remove(self, low: float, high: float) -> int:
        return await self._run_over(REMOVE, low, high, [CLASS, RATING, LOCATION], [VALUES])

    async def create_expiring(self, records: Sequence[Record], seconds: float) -> float:
        for chunk in chunked(records, PIPELINE):
            pipeline = self._client.pipeline(transaction=True)
            deadline = int((time.time() + seconds) * 1000)
            for record in chunk:
                key = queue_create(pipeline, record)
                pipeline.pexpireat(key, deadline)
                pipeline.zadd(DEADLINES, {key: deadline})
                pipeline.hset(CATEGORIES, key, record.category)
            await pipeline.execute()
            self._trips += 1
        return seconds

    async def count_all(self) -> int:
        return int(await self._run(COUNT_ALL, [CLASS, RATING, LOCATION, DEADLINES, CATEGORIES], [VALUES]))

    async def check_indexes(self) -> int:
        raise Unavailable("it has no check of its indexes")

    async def rebuild(self) -> int:
        raise Unavailable("by hand there is nothing that knows which indexes there are")

    def round_trips(self) -> int | None:
        return self._trips

    async def _run(self, script: str, keys: Sequence[str], arguments: Sequence[str | float]) -> Any:
        self._trips += 1
        return await self._client.evalsha(self._shas[script], len(keys), *keys, *arguments)

    async def _run_over(self, script: str, low: float, high: float, keys: list[str], arguments: list[str]) -> int:
        """Adds up what a script returns for the records with low ≤ rating ≤ high; their keys follow those given."""
        self._trips += 2
        pipeline = self._client.pipeline(transaction=False)
        for chunk in chunked(await self._client.zrange(RATING, low, high, byscore=True), PIPELINE):
            pipeline.evalsha(self._shas[script], len(keys) + len(chunk), *keys, *chunk, *arguments)
        return sum(await pipeline.execute())

    async def _list_names(self) -> None:
        """Makes the one set that no other row needs, in the round that isn't counted."""
        if not self._names_listed:
            keys = await self._client.smembers(CLASS)
            await self._client.zadd(NAMES, {key.removeprefix("Place:"): 0 for key in keys})
            self._names_listed = True

    async def _load(self, keys: Sequence[str]) -> list[Record]:
        return [decode(stored) for stored in await self._hashes(keys)]

    async def _hashes(self, keys: Sequence[str]) -> list[dict[str, str]]:
        self._trips += 1
        pipeline = self._client.pipeline(transaction=False)
        for key in keys:
            pipeline.hgetall(key)
        found: list[dict[str, str]] = await pipeline.execute()
        return found


CONTESTANT: type[Contestant] = Floor
