"""One connection: sends commands and script calls, reads replies, turns the driver's errors into three of its own.

The only importer of `redis`. A wire is used by one task at a time and is dead after any failure: who owns it connects a
new one. The driver's own retries are off, since it would resend what may have been applied.
"""

from __future__ import annotations

import asyncio
import math
import re
from typing import Any, NamedTuple
from urllib.parse import quote

import hiredis
from redis.asyncio.connection import AbstractConnection, Connection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from popoto_async.errors import DatabaseError, Unavailable

CONNECT_TIMEOUT = 5.0
"""Seconds to wait for a connection and its greeting."""

SUPPORTED = {"redis": (6, 2), "valkey": (7, 2)}
"""The oldest server of each kind that has every command the scripts use."""


class Lost(Exception):
    """The connection broke: what was sent may or may not have been done."""


class Refused(Exception):
    """The server answered with an error; `code` is its first word."""

    def __init__(self, error: Exception) -> None:
        message = str(error)
        super().__init__(message)
        self.code = _CODES.get(type(error)) or message.split(" ", 1)[0]


# The driver cuts the code off the messages of errors that it has classes for.
_CODES: dict[type[Exception], str] = {
    NoScriptError: "NOSCRIPT",
    ReadOnlyError: "READONLY",
    OutOfMemoryError: "OOM",
    TryAgainError: "TRYAGAIN",
    ClusterDownError: "CLUSTERDOWN",
    MasterDownError: "MASTERDOWN",
    NoPermissionError: "NOPERM",
    AuthenticationError: "NOAUTH",
    BusyLoadingError: "LOADING",
    MovedError: "MOVED",
    AskError: "ASK",
}

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


class Clock:
    """The server's clock as replies tell it, each to within half of the time that it took.

    A slow reply says little: it counts only where it is at least as exact as what is known, less what both clocks may
    have drifted apart since.
    """

    DRIFT = 1e-4

    def __init__(self) -> None:
        self._offset = 0.0
        self._error = math.inf
        self._learned = 0.0

    @property
    def known(self) -> bool:
        """Whether a server was ever asked."""
        return self._error < math.inf

    def learn(self, seconds: float, sent: float, received: float, *, afresh: bool = False) -> None:
        """A reply received at `received` to a call sent at `sent` (both of the loop's clock) said `seconds` of 1970."""
        error = (received - sent) / 2
        if afresh or error <= self._error + self.DRIFT * (received - self._learned):
            self._offset, self._error, self._learned = seconds - (sent + received) / 2, error, received

    def now(self) -> float:
        """The server's time in seconds of 1970."""
        return asyncio.get_running_loop().time() + self._offset


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


class Wire:
    """An open connection."""

    def __init__(self, connection: AbstractConnection, shown: str) -> None:
        self._connection = connection
        self.shown = shown
        self.server = Server("", ())

    @classmethod
    async def open(cls, where: Address, clock: Clock | None = None) -> Wire:
        """Connect, check that the server will do, read its clock. Raises Unavailable, which names what was tried."""
        loop = asyncio.get_running_loop()
        connection = where.connection(**where.arguments)
        wire = cls(connection, where.shown)
        opened = False
        try:
            async with asyncio.timeout(where.arguments["socket_connect_timeout"]):
                await connection.connect()  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
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
                await wire.close()

    @property
    def alive(self) -> bool:
        """False once the other side is known to have closed."""
        # The driver's own question for this is a coroutine, and slower than the rest of a call's bookkeeping.
        reader, writer = self._connection._reader, self._connection._writer
        return reader is not None and writer is not None and not (reader.at_eof() or writer.is_closing())

    async def send(self, *arguments: Any) -> None:
        """Send one command without waiting for its reply. Raises TypeError for an argument that can't be sent."""
        packed = hiredis.pack_command(arguments)
        try:
            await self._connection.send_packed_command(packed, check_health=False)
        except (RedisError, OSError, RuntimeError) as error:
            raise Lost(f"{self.shown}: {error}") from error

    async def receive(self) -> Any:
        """The reply of the earliest command not yet answered."""
        try:
            return await self._connection.read_response()
        except (ResponseError, BusyLoadingError, AuthenticationError) as error:
            raise Refused(error) from error
        except (RedisError, OSError, RuntimeError) as error:
            raise Lost(f"{self.shown}: {error}") from error

    async def command(self, *arguments: Any) -> Any:
        """Send one command and wait for its reply."""
        await self.send(*arguments)
        return await self.receive()

    async def close(self) -> None:
        """Close at once; nothing more is sent."""
        await self._connection.disconnect(nowait=True)

    def abandon(self) -> None:
        """Close this process's end of the socket without the event loop, which is closed or the parent process's.

        The ordinary way would schedule callbacks in a closed loop, or take the socket out of the selector that a forked
        child shares with its parent.
        """
        connection = self._connection
        writer, connection._writer, connection._reader = connection._writer, None, None
        transport: Any = writer and writer.transport
        if hasattr(transport, "_call_connection_lost"):  # asyncio's own; others close their sockets by themselves
            transport._closing = True
            transport._call_connection_lost(None)


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
