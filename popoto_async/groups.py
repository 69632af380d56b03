"""Consumer groups: every event of a model handled at least once by one of several consumers, dead ones' taken over.

What a group knows stands on the server. A consumer asks for entries with one atomic operation, which travels as any
other: when its reply is lost, the answer is sent again and no entry with it. Only the waiting for new ones happens on a
connection of its own, and nothing is delivered there: it is a doorbell.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from contextvars import Context
from typing import Any, Self

from popoto_async.database import Database
from popoto_async.errors import (
    CorruptRecord,
    DatabaseError,
    ModelException,
    OutcomeUnknown,
    PopotoError,
    Unavailable,
    ValidationError,
    shorten,
)
from popoto_async.events import Event
from popoto_async.flight import fly
from popoto_async.line import Line
from popoto_async.outcomes import failure
from popoto_async.pending import verb
from popoto_async.plan import Outcome
from popoto_async.planning.stream import plan_group
from popoto_async.records import Ask, database_of
from popoto_async.schema import Schema
from popoto_async.wire import Lost, Refused

LONGEST_WAIT = 5.0
"""Seconds after which a waiting consumer looks again for entries that others left alone."""

GRACE = 5.0
"""Seconds beyond that after which a silent connection is given up."""

CLOSE_TIMEOUT = 5.0
"""Seconds for which leaving waits for what is under way."""

ADMISSION = 20


class Delivery(Event, frozen=True, kw_only=True):
    """An event handed to this consumer, until it says what became of it. `deliveries` counts this one."""

    deliveries: int
    group: EventGroup

    @verb
    async def ack(self) -> bool:
        """It is handled: nobody gets it again. False if that was known already. One round trip."""
        return await self.group.settle("ack", self.id)

    @verb
    async def retry(self) -> bool:
        """It was not handled: whoever asks next gets it again, at once. One round trip."""
        return await self.group.settle("retry", self.id)

    @verb
    async def reject(self, reason: str = "rejected") -> bool:
        """It can't be handled: it goes to the dead letters. One round trip."""
        return await self.group.settle("reject", self.id, reason)

    @verb
    async def extend(self) -> bool:
        """It is still being handled: `min_idle` begins anew. False if another consumer has it now. One round trip."""
        return await self.group.settle("extend", self.id)


class EventGroup:
    """One consumer of a group: `async with … as events: async for event in events: …; await event.ack()`.

    At least once: an event comes again when its consumer did not acknowledge it within `min_idle` seconds. After
    `max_deliveries` deliveries it goes to the dead letters instead.
    """

    def __init__(
        self,
        schema: Schema,
        name: str,
        consumer: str,
        *,
        start: str,
        batch: int,
        min_idle: float,
        max_deliveries: int,
        patience: float | None,
    ) -> None:
        self._schema, self.name, self.consumer = schema, name, consumer
        self._body: dict[str, Any] = {
            "group": name,
            "consumer": consumer,
            "start": _start(schema, start),
            "count": _whole(schema, "batch", batch, 1000),
            "idle": _milliseconds(schema, min_idle),
            "most": _whole(schema, "max_deliveries", max_deliveries, 2**31),
        }
        named: list[tuple[str, Any]] = [("a group's name", name), ("consumer", consumer)]
        for word, value in named:
            if not isinstance(value, str) or not value:
                raise ValidationError(f"{schema.model}: {word} is a text, not {shorten(value)}", model=schema.model)
        self._min_idle, self._patience = min_idle, patience
        self._line: Line | None = None
        self._fetch: asyncio.Task[None] | None = None
        self._waiting = False
        self._taken_at = 0.0
        self._after: str | None = None
        self._newest = "0-0"
        self._buffer: deque[Delivery] = deque()

    # Joining and leaving -----------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._line is not None:
            raise ModelException(
                f"{self._schema.model}: this consumer of {self.name!r} has joined already",
                model=self._schema.model,
                hint="make another with events.group(…)",
            )
        line = self._line = Line(database_of(self._schema), self._patience)
        try:
            await line.wire()
            # What this consumer had when it was last here is handed out again, without waiting for `min_idle`.
            while await self._take(line.database, "join"):
                continue
        except BaseException:
            self._line = None
            await line.drop()
            raise
        return self

    async def __aexit__(self, *error: object) -> None:
        line, fetch = self._open_line(), self._fetch
        try:
            if fetch is not None:
                if self._waiting:
                    fetch.cancel()
                await asyncio.wait([fetch], timeout=CLOSE_TIMEOUT)
                fetch.cancel()
                await asyncio.gather(fetch, return_exceptions=True)
            with suppress(PopotoError):  # `min_idle` gives them to others all the same
                await self._settle(line.database, "leave", [event.id for event in self._buffer])
        finally:
            self._line = self._fetch = None
            self._buffer.clear()
            await line.drop()

    def _open_line(self) -> Line:
        if self._line is None:
            raise ModelException(
                f"{self._schema.model}: the consumer of {self.name!r} has not joined",
                model=self._schema.model,
                hint="async with …events.group(…) as events:",
            )
        return self._line

    # Events ------------------------------------------------------------------------------------------------------

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Delivery:
        line, loop = self._open_line(), asyncio.get_running_loop()
        while True:
            if self._buffer and loop.time() - self._taken_at > self._min_idle / 2:
                # Others may be about to take them over: give them back, and ask for what there is.
                ids = [event.id for event in self._buffer]
                self._buffer.clear()
                self._after = None
                await self._settle(line.database, "return", ids)
            if self._buffer:
                return self._buffer.popleft()
            if self._fetch is None:
                # A task of its own: who waits may be cancelled, and what was taken meanwhile waits for the next.
                self._fetch = loop.create_task(self._fetch_some(line), context=Context())
            fetch = self._fetch
            try:
                await asyncio.shield(fetch)
            finally:
                if fetch.done() and self._fetch is fetch:
                    self._fetch = None

    async def _fetch_some(self, line: Line) -> None:
        """Wait until there are events, whatever the connection goes through meanwhile."""
        while not self._buffer:
            try:
                if not await self._take(line.database) and not self._buffer:
                    await self._wait(line)
                line.worked()
            except (Unavailable, OutcomeUnknown) as error:
                await line.endure(error)

    async def _take(self, database: Database, verb: str = "take") -> bool:
        """Ask once; whether there is more to look through at once."""
        sent = asyncio.get_running_loop().time()
        outcome = await self._ask(database, verb, {"after": self._after} if self._after else {})
        self._after = outcome[2].decode() if outcome[2] else None
        self._newest = outcome[3].decode()
        self._taken_at = sent
        keys, unreadable = database.binding(self._schema).keys, []
        for raw_id, words, deliveries in outcome[1]:
            try:
                event = Delivery.read(self._schema, keys, [raw_id, words], deliveries=deliveries, group=self)
                self._buffer.append(event)
            except CorruptRecord:
                unreadable.append(raw_id.decode())
        if unreadable:
            await self._settle(database, "reject", unreadable, "unreadable")
        return self._after is not None

    async def _wait(self, line: Line) -> None:
        """Wait for an entry that is newer than all there were, or until it is time to look at those left alone."""
        key, seconds = line.database.binding(self._schema).keys.stream, min(self._min_idle, LONGEST_WAIT)
        self._waiting = True
        try:
            wire = await line.wire()
            async with asyncio.timeout(seconds + GRACE):
                milliseconds = max(1, round(seconds * 1000))
                await wire.send("XREAD", "COUNT", 1, "BLOCK", milliseconds, "STREAMS", key, self._newest)
                await wire.receive()
        except (Lost, TimeoutError) as error:
            raise Unavailable(f"the connection broke: {str(error) or 'no answer'}") from error
        except Refused as error:
            if error.code in ("LOADING", "MASTERDOWN", "UNBLOCKED", "BUSY"):
                raise Unavailable(f"the server answered: {error}") from error
            raise DatabaseError(f"{self._schema.model}: XREAD {key}: {error.code} {error}", key=key) from error
        except asyncio.CancelledError:
            await line.drop()
            raise
        finally:
            self._waiting = False

    # What became of them -----------------------------------------------------------------------------------------

    async def settle(self, how: str, event_id: str, reason: str = "") -> bool:
        """Say what became of an event; whether it was pending. The verbs of a delivery call this."""
        return bool(await self._settle(self._open_line().database, how, [event_id], reason))

    async def _settle(self, database: Database, how: str, ids: list[str], reason: str = "") -> int:
        outcome = await self._ask(database, how, {"reason": reason}, ids)
        return int(outcome[1])

    async def _ask(self, database: Database, verb: str, more: dict[str, Any], ids: list[str] | None = None) -> Outcome:
        schema, body = self._schema, {**self._body, **more}
        ask = fly(
            schema.model,
            verb,
            database,
            ADMISSION,
            None,
            Ask,
            schema,
            lambda binding: plan_group(binding, verb, body, ids),
        )
        status, outcome, binding = await ask
        if status != b"ok":
            raise failure(schema, binding.keys.stream, {}, outcome, binding)
        return outcome


def _whole(schema: Schema, name: str, value: Any, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise ValidationError(
            f"{schema.model}: {name} is a whole number from 1 to {most}, not {shorten(value)}", model=schema.model
        )
    return value


def _milliseconds(schema: Schema, seconds: Any) -> int:
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds < 2**31:
        raise ValidationError(
            f"{schema.model}: min_idle is a positive number of seconds, not {shorten(seconds)}", model=schema.model
        )
    return max(1, round(seconds * 1000))


def _start(schema: Schema, start: Any) -> str:
    if start not in ("0", "$"):
        raise ValidationError(
            f'{schema.model}: start is "0" (every event there is) or "$" (those to come), not {shorten(start)}',
            model=schema.model,
        )
    return str(start)
