"""One connection: sends commands and script calls, reads replies, turns the driver's errors into three of its own.

The only importer of `redis`, which connects: addresses, TLS, the login. From then on the wire is the protocol of the
connection's transport itself: a reply is parsed and taken up in the turn of the loop that brings it. A wire is used by
one owner at a time and is dead after any failure: that one connects a new one. Nothing is ever resent here.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

import hiredis
from redis.asyncio.connection import AbstractConnection, Connection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError

from popoto_async.errors import DatabaseError, Unavailable

CONNECT_TIMEOUT = 5.0
"""Seconds to wait for a connection and its greeting."""

SUPPORTED = {"redis": (6, 2), "valkey": (7, 2)}
"""The oldest server of each kind that has every command the scripts use."""


class Lost(Exception):
    """The connection broke: what was sent may or may not have been done."""


class Refused(Exception):
    """The server answered with an error; `code` is its first word, the message the rest."""

    def __init__(self, text: str) -> None:
        self.code, _, message = text.partition(" ")
        super().__init__(message)


PASSING = {"LOADING", "BUSY", "TRYAGAIN", "MASTERDOWN", "CLUSTERDOWN", "NOSCRIPT"}
"""Refusals that pass by themselves."""

UNTOUCHED = {"NOPERM", "NOAUTH", "READONLY", "OOM", "MISCONF", "MOVED", "ASK", "CROSSSLOT", "NOREPLICAS", "UNKNOWN"}
"""Refusals of a whole call, before any of it was done. After another error of a script, some of it may be."""

UNREAD = 1000
"""Replies that may wait to be received; then no more is read from the socket until they are."""

_POOL_OPTIONS = ("max_connections", "timeout")
"""Options of redis-py's URLs that are about its pools, of which there are none here."""

_OURS = {"protocol": 2, "driver_info": None, "socket_timeout": None, "decode_responses": False, "encoding": "utf-8"}
"""Options of connections that a URL can't change."""


class Server(NamedTuple):
    """What a server said of itself."""

    kind: str
    version: tuple[int, ...]

    @property
    def has_read_only_scripts(self) -> bool:
        """EVALSHA_RO came with Redis 7.0; every supported Valkey has it."""
        return self.kind == "valkey" or self.version >= (7, 0)


class _Heads(dict[int, bytes]):
    """What stands before an argument, by its length. Long ones are few, and not kept."""

    def __missing__(self, length: int) -> bytes:
        head = b"\r\n$%d\r\n" % length
        if length < 1024:
            self[length] = head
        return head


_heads = _Heads()


def pack(arguments: Sequence[bytes]) -> bytes:
    """A command as RESP writes it, an array of bulk strings. Raises TypeError for an argument that is not bytes.

    hiredis packs any command. Of many short values it does so half as fast as this, and calls are that.
    """
    parts = [b""] * (2 * len(arguments))
    parts[::2] = map(_heads.__getitem__, map(len, arguments))
    parts[1::2] = arguments
    return b"*%d%b\r\n" % (len(arguments), b"".join(parts))


class Clock:
    """The server's clock as replies tell it by a local one, each to within half of the time that it took.

    A slow reply says little: it counts only where it is at least as exact as what is known, less what both clocks may
    have drifted apart since; or where both can't be true, so that the server's clock was set.
    """

    DRIFT = 1e-4
    LASTING = 1.0
    """Seconds after which the server is asked again, by the next call."""

    def __init__(self, local: Callable[[], float] = time.monotonic) -> None:
        self._local = local
        self._offset = 0.0
        self._error = math.inf
        self._learned = 0.0
        self._heard = 0.0
        self.known = False
        """Whether a server was ever asked."""

    def learn(self, seconds: float, sent: float, received: float, *, afresh: bool = False) -> None:
        """A reply received at `received` to a call sent at `sent` (both of the local clock) said `seconds` of 1970."""
        self._heard, error = received, (received - sent) / 2
        offset, known = seconds - (sent + received) / 2, self._error + self.DRIFT * (received - self._learned)
        if afresh or error <= known or abs(offset - self._offset) > error + known:
            self._offset, self._error, self._learned = offset, error, received
            self.known = True

    def is_old(self, local: float) -> bool:
        """Whether the server's time should be asked for again; `local` is the local clock's."""
        return local - self._heard > self.LASTING

    def now(self) -> float:
        """The server's time in seconds of 1970."""
        return self._local() + self._offset


class Address(NamedTuple):
    """Where a server is: a class of connection, its arguments, and the URL without its password to tell people."""

    connection: type[AbstractConnection]
    arguments: dict[str, Any]
    shown: str


def address(url: str) -> Address:
    """The address a `redis://`, `rediss://`, `unix://`, `valkey://` or `valkeys://` URL names. ValueError if none."""
    scheme, _, rest = url.partition("://")
    known = {"valkey": "redis", "valkeys": "rediss"}.get(scheme, scheme)
    arguments: dict[str, Any] = dict(parse_url(f"{known}://{rest}"))
    connection = arguments.pop("connection_class", None) or Connection
    if scheme == "unix" and not arguments.get("path"):
        raise ValueError("unix:// needs the path of a socket")
    for option in _POOL_OPTIONS:
        arguments.pop(option, None)
    arguments.update(_OURS, retry=Retry(NoBackoff(), 0))
    arguments.setdefault("socket_connect_timeout", CONNECT_TIMEOUT)
    try:
        connection(**arguments)  # connects to nothing: this is where unknown options show
    except (TypeError, RedisError) as error:
        raise ValueError(str(error).rpartition("__init__() ")[2]) from None
    return Address(connection, arguments, shown(url))


def shown(url: str) -> str:
    """The URL as people may see it: without user and password."""
    scheme, separator, rest = url.partition("://")
    place, question, options = rest.partition("?")
    hidden = "…@" if "@" in place else ""
    options = re.sub(r"(password|username)=[^&]*", r"\1=…", options)
    return f"{scheme}{separator}{hidden}{place.rpartition('@')[2]}{question}{options}"


def unix_address(path: str) -> Address:
    """The address of a server on a unix socket of ours."""
    return address(f"unix://{quote(path)}")


class Wire(asyncio.Protocol):
    """An open connection."""

    def __init__(self, connection: AbstractConnection, shown: str) -> None:
        self._loop = asyncio.get_running_loop()
        # The driver's stream gives its transport away; it would warn if it were forgotten before that is closed.
        stream: Any = connection._writer
        connection._writer = connection._reader = None
        self._stream, self._transport = stream, stream.transport
        self._transport.set_protocol(self)
        self._parser = hiredis.Reader(replyError=Refused, notEnoughData=_INCOMPLETE)
        self._replies: deque[Any] = deque()
        self._listener: Callable[[Any], None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._lost: str | None = None
        self._due = 0
        self._sent = 0.0
        self._watch: asyncio.TimerHandle | None = None
        self.patience: float | None = None
        """Seconds of silence after which the connection is given up, where a reply is due."""
        self.shown = shown
        self.server = Server("", ())

    @classmethod
    async def open(cls, where: Address, clock: Clock | None = None) -> Wire:
        """Connect, check that the server will do, read its clock. Raises Unavailable, which names what was tried."""
        loop = asyncio.get_running_loop()
        connection = where.connection(**where.arguments)
        wire: Wire | None = None
        opened = False
        try:
            async with asyncio.timeout(where.arguments["socket_connect_timeout"]):
                await connection.connect()  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
                wire = cls(connection, where.shown)
                info = await wire.command("INFO", "server")
                sent = loop.time()
                seconds, micros = await wire.command("TIME")
                received = loop.time()
            wire.server = _identify(info)
            lowest = SUPPORTED[wire.server.kind]
            if wire.server.version < lowest:
                found, least = (".".join(map(str, version)) for version in (wire.server.version, lowest))
                raise DatabaseError(f"{where.shown} is {wire.server.kind} {found}; {least} or newer is needed")
            if clock is not None:
                clock.learn(int(seconds) + int(micros) / 1e6, sent, received, afresh=True)
            opened = True
            return wire
        except (RedisError, OSError, TimeoutError, Lost, Refused) as error:
            raise _unreachable(where, error) from error
        finally:
            if not opened:
                await (connection.disconnect(nowait=True) if wire is None else wire.close())

    @property
    def alive(self) -> bool:
        """False once the other side is known to have closed."""
        return self._lost is None and not self._transport.is_closing()

    async def send(self, *arguments: Any) -> None:
        """Send one command without waiting for its reply. Raises TypeError for an argument that can't be sent."""
        self.write(hiredis.pack_command(arguments))
        if self._room is not None:
            await self._room

    def write(self, packed: bytes) -> None:
        """Send one packed command, not waiting until the server has read so much that there is room for more."""
        if not self.alive:
            raise self._loss()
        self._transport.write(packed)
        self._due += 1
        self._sent = self._loop.time()
        if self.patience is not None and self._watch is None:
            self._watch = self._loop.call_later(self.patience, self._look, self.patience)

    def listen(self, listener: Callable[[Any], None] | None) -> None:
        """Give the reply of the earliest command not yet answered to a listener, in the turn that brings it.

        An error is given as Refused, a connection that breaks as Lost; raises Lost where it is broken already. None:
        what was listened for is kept for the next one.
        """
        self._listener = None
        if listener is None:
            return
        if self._replies:
            reply = self._replies.popleft()
            if len(self._replies) == UNREAD - 1:
                self._transport.resume_reading()
            listener(reply)
        elif self._lost is not None:
            raise self._loss()
        else:
            self._listener = listener

    async def receive(self) -> Any:
        """The reply of the earliest command not yet answered."""
        waiter: asyncio.Future[Any] = self._loop.create_future()

        def settle(reply: Any) -> None:
            if waiter.done():  # cancelled in this turn of the loop
                self._replies.append(reply)
            elif isinstance(reply, Exception):
                waiter.set_exception(reply)
            else:
                waiter.set_result(reply)

        self.listen(settle)
        try:
            return await waiter
        finally:
            self._listener = None

    async def command(self, *arguments: Any) -> Any:
        """Send one command and wait for its reply."""
        await self.send(*arguments)
        return await self.receive()

    async def close(self) -> None:
        """Close at once; nothing more is sent."""
        self._forget()
        self._transport.abort()

    def _forget(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def _look(self, patience: float) -> None:
        """Give up a silent server; otherwise look again. One timer serves all commands that follow each other."""
        self._watch = None
        left = self._sent + patience - self._loop.time()
        if self._due == 0:
            return
        if left <= 0:
            self._break_off(f"no reply within {patience:g} s")
        else:
            self._watch = self._loop.call_later(left, self._look, patience)

    def _break_off(self, reason: str) -> None:
        self.connection_lost(ConnectionError(reason))
        self._transport.abort()

    def abandon(self) -> None:
        """Close this process's end of the socket without the event loop, which is closed or the parent process's.

        The ordinary way would schedule callbacks in a closed loop, or take the socket out of the selector that a forked
        child shares with its parent.
        """
        self._forget()
        self._listener = self._room = None
        if hasattr(self._transport, "_call_connection_lost"):  # asyncio's own; others close their sockets by themselves
            self._transport._closing = True
            self._transport._call_connection_lost(None)

    # What the transport calls -------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Parse what came, and give each reply to who waits for it."""
        try:
            self._parser.feed(data)
            while (reply := self._parser.gets()) is not _INCOMPLETE:
                self._take(reply)
        except hiredis.HiredisError as error:
            self._break_off(str(error))

    def _take(self, reply: Any) -> None:
        self._due -= 1
        listener, self._listener = self._listener, None
        if listener is not None:
            listener(reply)
            return
        self._replies.append(reply)
        if len(self._replies) == UNREAD:
            self._transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell those who wait."""
        self._forget()
        self._lost = self._lost or str(exc or "the server closed the connection")
        listener, self._listener = self._listener, None
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_exception(self._loss())
            room.exception()  # where nobody waits for it any more, nobody needs to know
        if listener is not None:
            listener(self._loss())

    def _loss(self) -> Lost:
        return Lost(f"{self.shown}: {self._lost or 'the connection is closed'}")

    def pause_writing(self) -> None:
        """The server reads more slowly than is sent to it."""
        self._room = self._loop.create_future()

    def resume_writing(self) -> None:
        """There is room again."""
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)


_INCOMPLETE = object()


def _identify(info: bytes) -> Server:
    said = dict(line.split(":", 1) for line in info.decode(errors="replace").splitlines() if ":" in line)
    kind = "valkey" if "valkey_version" in said else "redis"
    text = said.get(f"{kind}_version", "0")
    version = tuple(int(part) for part in text.split(".") if part.isdigit())
    return Server(kind, version)


def _unreachable(where: Address, error: BaseException) -> Unavailable:
    if isinstance(error, AuthenticationError) or getattr(error, "code", "") in ("NOAUTH", "WRONGPASS", "NOPERM"):
        return Unavailable(f"{where.shown} refused the login: {error}", hint="check user and password in the URL")
    reason = str(error) or type(error).__name__
    return Unavailable(
        f"no server answers at {where.shown}: {reason}",
        hint="start one, or name another: configure(url=…), connect(url), REDIS_URL; embedded:// starts a private one",
    )
