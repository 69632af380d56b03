"""Messages to whoever listens now: `Publisher` and `Subscriber`.

Publish/subscribe remembers nothing: what is published while a subscriber's connection is down never reaches it. That
is said, not hidden: the first message after such a gap says so, and so does a counter. A stream (`EventStreamMixin`) is
for those who must not miss anything.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from contextvars import Context
from typing import Any, Self

import msgspec

from popoto_async.codec import pack, unpack
from popoto_async.database import Database, resolve
from popoto_async.errors import DatabaseError, ModelException, Unavailable, ValidationError, shorten
from popoto_async.flight import fly
from popoto_async.keys import channel, channel_pattern
from popoto_async.line import Line
from popoto_async.pending import verb
from popoto_async.planning.stream import plan_publish
from popoto_async.records import Ask
from popoto_async.schema import Options, build_schema
from popoto_async.wire import Lost, Refused, Wire

PING_EVERY = 10.0
"""Seconds of silence after which a subscriber asks whether the server is there, and again until it gives up."""

BUFFER_BYTES = 64 << 20
"""Bytes of payload that a subscriber keeps at most for its reader."""

ADMISSION = 10

_SCHEMA = build_schema("Publisher", Options(name="$PubSub"), {}, [])
"""Stands for messages where operations name a model; nothing is ever stored under its keys."""


def _database(given: Database | str | None) -> Database:
    return given if isinstance(given, Database) else resolve(given)


def _channel_name(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValidationError(f"a channel is a text that is not empty, not {shorten(value)}", value=value)
    return value


# Publishing ----------------------------------------------------------------------------------------------------------


class Publisher:
    """Sends messages to one channel.

    A message is any value that a container field can hold (text, bytes, numbers, Decimal, datetime, list, dict, set,
    …): it arrives as it left, packed as MessagePack. With `raw=True` it is text or bytes, sent as they are, for
    programs that know nothing of this library. The namespace of the database stands before the channel's name.
    """

    def __init__(self, channel: str, *, raw: bool = False, database: Database | str | None = None) -> None:
        self.channel = _channel_name(channel)
        self._raw, self._given = raw, database

    def publish(self, value: Any, *, timeout: float | None = None) -> Coroutine[Any, Any, int]:
        """Send a message; how many connections received it. One round trip, which concurrent awaits share.

        It is sent once, also where a reply is lost. Raises ValidationError where the value can't be a message.
        """
        message = self._message(value)
        database = _database(self._given)
        name = channel(database.settings.namespace, self.channel)

        return fly("Publisher", "publish", database, ADMISSION, timeout, _Publication, name, message)

    def _message(self, value: Any) -> bytes:
        try:
            if not self._raw:
                return pack(value)
            if isinstance(value, str):
                return value.encode()
            if isinstance(value, bytes):
                return value
        except (ValueError, RecursionError) as error:
            raise ValidationError(f"{shorten(value)} can't be a message: {error}", value=value) from error
        raise ValidationError(
            f"a raw message is text or bytes, not {shorten(value)}", value=value, hint="leave raw=True out"
        )

    def __repr__(self) -> str:
        return f"Publisher({self.channel!r})"


class _Publication(Ask):
    """The request of one message; its value is the number of receivers."""

    def __init__(self, now: float, name: str, message: bytes) -> None:
        super().__init__(now, _SCHEMA, lambda binding: plan_publish(binding, name, message))

    def conclude(self, outcome: Any, binding: Any) -> Any:
        if outcome[0] != b"ok":
            reason = outcome[1].decode(errors="replace") if len(outcome) > 1 else outcome[0].decode()
            raise DatabaseError(f"the message was not sent: {reason}")
        return outcome[1]


# Subscribing ---------------------------------------------------------------------------------------------------------


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """What arrived on a channel; `pattern` is the one that it matched, where the channel was not named.

    `dropped` is the number of earlier messages that the buffer had no room for, just before this one. `after_gap` says
    that the connection was lost before this one, with whatever was published meanwhile. Where the bytes are no value of
    ours, `data` is None, `raw` holds them and `error` says why.
    """

    channel: str
    data: Any
    pattern: str | None = None
    dropped: int = 0
    after_gap: bool = False
    raw: bytes | None = None
    error: str | None = None


class Subscriber:
    """Receives the messages of some channels: `async with Subscriber("news") as sub: async for message in sub: …`.

    Everything published after the block was entered arrives, while the connection holds. When it breaks, it is opened
    again and subscribes again, for `patience` seconds or for ever: `reconnects` counts, `Message.after_gap` marks, and
    `on_gap` is called at once, before any later message is read.

    At most `buffer` messages wait for a slow reader; then the oldest are dropped, counted in `dropped` and in the
    message after them. (To stop reading instead would let them pile up in the server's memory until it closes the
    connection: more would be lost, and nobody could count it.)
    """

    def __init__(
        self,
        *channels: str,
        patterns: Iterable[str] = (),
        raw: bool = False,
        buffer: int = 10_000,
        patience: float | None = None,
        on_gap: Callable[[], Any] | None = None,
        database: Database | str | None = None,
    ) -> None:
        limit: Any = buffer
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise ValidationError(f"buffer is a positive number of messages, not {shorten(buffer)}", value=buffer)
        self.channels = tuple(map(_channel_name, channels))
        given: Any = patterns
        several = isinstance(given, Iterable) and not isinstance(given, (str, bytes))
        self.patterns = tuple(map(_channel_name, given)) if several else ()
        if not several or not (self.channels or self.patterns):
            raise ValidationError(
                "a Subscriber takes names of channels, patterns=[…], or both", hint='Subscriber("a", patterns=["b.*"])'
            )
        self.dropped = 0
        self.reconnects = 0
        self._raw, self._limit, self._patience = raw, buffer, patience
        self._on_gap, self._given = on_gap, database
        self._pump: asyncio.Task[None] | None = None
        self._buffer: deque[tuple[list[bytes], bool]] = deque()
        self._bytes = 0
        self._missed = 0
        self._gap = False
        self._arrived = asyncio.Event()

    # Opening and closing -----------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._pump is not None:
            raise ModelException("this Subscriber is open already", hint="make another")
        line = self._line = Line(_database(self._given), self._patience)
        self._buffer.clear()
        self._bytes = self._missed = self.dropped = self.reconnects = 0
        self._gap, self._arrived = False, asyncio.Event()
        try:
            wire, early = await self._subscribe(line)
        except BaseException as error:
            await line.drop()
            if isinstance(error, Lost):
                raise Unavailable(f"the connection broke: {error}") from error
            raise
        for pushed in early:
            self._take_in(pushed)
        self._pump = asyncio.get_running_loop().create_task(self._serve(line, wire), context=Context())
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    @verb
    async def close(self) -> None:
        """Stop listening and close the connection; who waits for a message is told that there are no more."""
        pump, self._pump = self._pump, None
        self._arrived.set()
        if pump is not None:
            pump.cancel()
            try:
                await asyncio.gather(pump, return_exceptions=True)
            finally:
                await self._line.drop()  # a task cancelled before its first step does nothing, not even that

    # Messages ----------------------------------------------------------------------------------------------------

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        while not self._buffer:
            pump = self._pump
            if pump is None:
                raise StopAsyncIteration
            if pump.done():
                pump.result()  # raises what ended it
            self._arrived.clear()
            await self._arrived.wait()
        pushed, gap = self._buffer.popleft()
        self._bytes -= len(pushed[-1])
        missed, self._missed = self._missed, 0
        return self._message(pushed, missed, gap)

    def _message(self, pushed: list[bytes], dropped: int, gap: bool) -> Message:
        own = len(channel(self._namespace, "").encode())
        raw, error, data = pushed[-1], None, None
        if self._raw:
            data = raw
        else:
            try:
                data = unpack(raw)
            except Exception as reason:  # whatever a decoder raises: they are somebody else's bytes
                error = f"{type(reason).__name__}: {reason}"
        return Message(
            channel=pushed[-2][own:].decode(errors="replace"),
            data=data,
            pattern=self._pattern_names[pushed[1]] if len(pushed) == 4 else None,
            dropped=dropped,
            after_gap=gap,
            raw=raw if error else None,
            error=error,
        )

    # The connection ----------------------------------------------------------------------------------------------

    async def _subscribe(self, line: Line) -> tuple[Wire, list[Any]]:
        """An open connection that listens to everything asked for, and what has arrived there already."""
        wire = await line.wire()
        self._namespace = line.database.settings.namespace
        names = [channel(self._namespace, name) for name in self.channels]
        self._pattern_names = {channel_pattern(self._namespace, name).encode(): name for name in self.patterns}
        for command, wanted in (("SUBSCRIBE", names), ("PSUBSCRIBE", list(self._pattern_names))):
            if wanted:
                await wire.send(command, *wanted)
        waiting = len(names) + len(self._pattern_names)
        early = []
        while waiting:
            try:
                pushed = await wire.receive()
            except Refused as error:
                raise DatabaseError(f"the subscription was refused: {error.code} {error}") from error
            waiting -= pushed[0] in (b"subscribe", b"psubscribe")
            early.append(pushed)
        return wire, early

    async def _serve(self, line: Line, wire: Wire | None) -> None:
        """Take in what arrives; when the connection breaks, open it again."""
        try:
            while True:
                try:
                    if wire is None:
                        wire, early = await self._subscribe(line)
                        self.reconnects += 1
                        if self._on_gap is not None:
                            self._on_gap()
                        for pushed in early:
                            self._take_in(pushed)
                    line.worked()
                    await self._listen(wire)
                except (Lost, Unavailable) as error:
                    wire, self._gap = None, True
                    await line.drop()
                    lost = error if isinstance(error, Unavailable) else Unavailable(f"the connection broke: {error}")
                    await line.endure(lost)
        finally:
            self._arrived.set()
            await line.drop()

    async def _listen(self, wire: Wire) -> None:
        """Until the connection breaks, or the server is silent though asked. Raises Lost then."""
        reading = asyncio.get_running_loop().create_task(self._read(wire))
        try:
            asked = False
            while True:
                self._heard = False
                done, _ = await asyncio.wait([reading], timeout=PING_EVERY)
                if done:
                    return await reading
                if asked and not self._heard:
                    raise Lost(f"{wire.shown}: no answer within {PING_EVERY:g} s")
                asked = not self._heard
                if asked:
                    await wire.send("PING")
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _read(self, wire: Wire) -> None:
        while True:
            try:
                pushed = await wire.receive()
            except Refused as error:
                raise Lost(f"{wire.shown}: {error.code} {error}") from error
            self._heard = True
            self._take_in(pushed)
            if len(self._buffer) >= self._limit:
                await asyncio.sleep(0)  # its reader may only be waiting for its turn

    def _take_in(self, pushed: Any) -> None:
        if not isinstance(pushed, list) or pushed[0] not in (b"message", b"pmessage"):
            return
        gap, self._gap = self._gap, False
        self._buffer.append((pushed, gap))
        self._bytes += len(pushed[-1])
        while len(self._buffer) > self._limit or (self._bytes > BUFFER_BYTES and len(self._buffer) > 1):
            oldest, marked = self._buffer.popleft()
            self._bytes -= len(oldest[-1])
            self.dropped += 1
            self._missed += 1
            if marked:  # the mark must not go with the message
                first, _ = self._buffer[0]
                self._buffer[0] = (first, True)
        self._arrived.set()
