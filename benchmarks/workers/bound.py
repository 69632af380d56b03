"""The bound: the least that Python can do for an API whose every operation is awaited by itself, one script a batch.

It is no program anybody would write: no validation, no errors, no resending, no client library but the parser. What it
takes is what the server's interpreter, the parser and the event loop take of any such API on this machine, so a target
that it misses can't be met here.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

import hiredis
from redis.asyncio.connection import parse_url

from benchmarks.dataset import Record
from benchmarks.workers.contestant import Contestant, chunked
from benchmarks.workers.floor import CLASS, CREATE, LOCATION, RATING, Floor, category_key

S = TypeVar("S")
T = TypeVar("T")
Work = Callable[[Sequence[S], Sequence[asyncio.Future[T]]], Coroutine[Any, Any, None]]

LOADS = 250  # in one script, so that the client decodes while the server reads
CREATES = 100

LOAD = """
local rows = {}
for i, key in ipairs(KEYS) do
  rows[i] = redis.call('HMGET', key, 'name', 'title', 'rating', 'category', 'location')
end
return rows
"""

BETWEEN = """
local texts = {}
for i, key in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], ARGV[1], ARGV[2])) do
  local row, before = redis.call('HMGET', key, 'name', 'title', 'rating', 'category', 'location'), (i - 1) * 5
  for j = 1, 5 do texts[before + j] = row[j] end
end
return texts
"""

CREATE_ALL = """
for i = 1, #ARGV, 7 do
  local key, title, rating, category = ARGV[i], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
  local latitude, longitude = ARGV[i + 5], ARGV[i + 6]
  redis.call('HSET', key, 'name', ARGV[i + 1], 'title', title, 'rating', rating, 'category', category,
    'location', latitude .. ',' .. longitude)
  redis.call('SADD', KEYS[1], key)
  redis.call('ZADD', KEYS[2], rating, key)
  redis.call('SADD', KEYS[4] .. category, key)
  redis.call('GEOADD', KEYS[3], longitude, latitude, key)
end
"""


class Wire(asyncio.Protocol):
    """A connection on which commands leave as they come."""

    def __init__(self) -> None:
        self._reader = hiredis.Reader()
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            self._waiting.popleft().set_result(reply)

    async def call(self, *command: Any) -> Any:
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self._transport.write(hiredis.pack_command(command))
        reply = await future
        if isinstance(reply, Exception):
            raise reply
        return reply

    def close(self) -> None:
        self._transport.close()


def decode(row: Sequence[bytes]) -> Record:
    name, title, rating, category, location = row
    latitude, _, longitude = location.partition(b",")
    return Record(name.decode(), title.decode(), float(rating), category.decode(), float(latitude), float(longitude))


class Bound(Floor):
    """The floor's data and indexes; of the rows that name a bound, what it takes at least."""

    def __init__(self) -> None:
        super().__init__()
        self._wire = Wire()
        self._scripts: dict[str, bytes] = {}

    async def open(self, url: str) -> None:
        await super().open(url)
        where, loop = parse_url(url), asyncio.get_running_loop()
        if "path" in where:
            _, self._wire = await loop.create_unix_connection(Wire, where["path"])
        else:
            _, self._wire = await loop.create_connection(Wire, where["host"], where["port"])
        await self._wire.call("SELECT", str(where.get("db", 0)))
        for script in (CREATE, CREATE_ALL, LOAD, BETWEEN):
            self._scripts[script] = await self._wire.call("SCRIPT", "LOAD", script)

    async def close(self) -> None:
        self._wire.close()
        await super().close()

    async def create_each(self, records: Sequence[Record]) -> None:
        sha = self._scripts[CREATE]
        for name, title, rating, category, latitude, longitude in records:
            keys = (f"Place:{name}", CLASS, RATING, category_key(category), LOCATION)
            await self._wire.call("EVALSHA", sha, 5, *keys, name, title, rating, category, longitude, latitude)
        self._trips += len(records)

    async def create_together(self, records: Sequence[Record]) -> None:
        keys = (CLASS, RATING, LOCATION, category_key(""))

        async def create(chunk: Sequence[Record], created: Sequence[asyncio.Future[None]]) -> None:
            values = [value for record in chunk for value in (f"Place:{record.name}", *record)]
            await self._wire.call("EVALSHA", self._scripts[CREATE_ALL], len(keys), *keys, *values)
            for future in created:
                future.set_result(None)

        await self._together(create, records, CREATES)

    async def load_together(self, names: Sequence[str]) -> list[Record]:
        async def load(chunk: Sequence[str], loaded: Sequence[asyncio.Future[Record]]) -> None:
            keys = [f"Place:{name}" for name in chunk]
            rows = await self._wire.call("EVALSHA", self._scripts[LOAD], len(keys), *keys)
            for future, row in zip(loaded, rows, strict=True):
                future.set_result(decode(row))

        return await self._together(load, names, LOADS)

    async def _together(self, work: Work[S, T], items: Sequence[S], size: int) -> list[T]:
        """Each item's result in a future of its own, as for items that are awaited one by one."""
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[T]] = [loop.create_future() for _ in items]
        chunks = zip(chunked(items, size), chunked(futures, size), strict=True)
        async with asyncio.TaskGroup() as group:
            for chunk, waiting in chunks:
                group.create_task(work(chunk, waiting))
                self._trips += 1
            return await asyncio.gather(*futures)

    async def between(self, low: float, high: float) -> list[Record]:
        self._trips += 1
        texts = await self._wire.call("EVALSHA", self._scripts[BETWEEN], 1, RATING, low, high)
        return [decode(texts[at : at + 5]) for at in range(0, len(texts), 5)]


CONTESTANT: type[Contestant] = Bound
