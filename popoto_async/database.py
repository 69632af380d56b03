"""Databases: where they are, which one a model uses, and their connections per process and event loop.

Connections belong to a (process, event loop) pair: each loop gets a dispatcher of its own, a forked child starts with
none, and a loop that ends closes what it opened (an async generator kept open is finished by the loop's shutdown).
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from types import NoneType
from typing import Any

import msgspec
from msgspec.structs import replace

from popoto_async.dispatcher import Dispatcher
from popoto_async.embedded import EmbeddedServer, folder_of
from popoto_async.errors import (
    ConfigurationError,
    DatabaseError,
    OutcomeUnknown,
    Unavailable,
    ValidationError,
    shorten,
)
from popoto_async.pending import verb
from popoto_async.schema import Binding, Schema
from popoto_async.tracing import Stats
from popoto_async.types import UNSET
from popoto_async.wire import Address, Clock, Lost, Refused, Wire, address, shown, unix_address

DEFAULT_URL = "redis://localhost:6379/0"
"""Where a server is looked for when nothing was configured and REDIS_URL is not set."""

STATEFUL = {
    "SUBSCRIBE",
    "PSUBSCRIBE",
    "SSUBSCRIBE",
    "MONITOR",
    "MULTI",
    "EXEC",
    "WATCH",
    "SELECT",
    "HELLO",
    "AUTH",
    "RESET",
    "QUIT",
}
"""Commands that change what a connection is; `execute` shares one, so it refuses them."""


class Settings(msgspec.Struct, frozen=True):
    """How a database is used."""

    namespace: str | None = None
    batching: bool = True
    timeout: float | None = None
    queue_timeout: float | None = None

    def __post_init__(self) -> None:
        namespace: Any = self.namespace
        if namespace is not None and (not isinstance(namespace, str) or not namespace):
            raise ValidationError(f"namespace is a text, not {shorten(namespace)}", value=namespace)
        batching: Any = self.batching
        if not isinstance(batching, bool):
            raise ValidationError(f"batching is True or False, not {shorten(batching)}", value=batching)
        require_seconds("timeout", self.timeout)
        require_seconds("queue_timeout", self.queue_timeout)


def require_seconds(name: str, value: Any) -> None:
    """Raise ValidationError unless a time limit is a number of seconds, or None."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0):
        raise ValidationError(f"{name} is a number of seconds, not {shorten(value)}", value=value)


class _Session:
    """What one event loop of one process has open to a database."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.loop = asyncio.get_running_loop()
        self.dispatcher = Dispatcher(
            database.open_wire,
            namespace=database.settings.namespace,
            batching=database.settings.batching,
            queue_timeout=database.settings.queue_timeout,
        )
        self.direct: Wire | None = None
        self.lock = asyncio.Lock()
        _live.add(self)
        # A loop finishes the async generators that were started in it when it shuts down: this one closes the session.
        self._guard = self._closing()
        with suppress(StopIteration):
            self._guard.__anext__().send(None)

    async def _closing(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            _live.discard(self)
            self.database.forget(self)
            try:
                await self.dispatcher.close()
            finally:
                if self.direct is not None:
                    await self.direct.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._guard.aclose()

    def abandon(self) -> None:
        """Let go of the connections without the event loop, which is closed or the parent process's."""
        self.database.forget(self)
        self.dispatcher.abandon()
        if self.direct is not None:
            self.direct.abandon()
            self.direct = None


_live: set[_Session] = set()
"""Sessions not closed yet. Held here, so that a database that nobody names any more keeps its connections until its
loop ends, instead of losing them to the garbage collector."""

_inherited: list[_Session] = []
"""In a forked child, its parent's sessions: the parent goes on with them."""


def _sweep() -> None:
    """Let go of what loops left open that were closed without being shut down."""
    for session in [session for session in list(_live) if session.loop.is_closed()]:
        _live.discard(session)
        session.abandon()


def _disown() -> None:
    for session in _live:
        session.abandon()
    _inherited.extend(_live)
    _live.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_disown)


class Database:
    """One server, as models use it. Opened on first use; `connect` and `configure` make them."""

    def __init__(self, url: str | None = None, settings: Settings | None = None) -> None:
        self.url = (os.environ.get("REDIS_URL") or DEFAULT_URL) if url is None else url
        self.settings = settings or Settings()
        given: Any = self.url
        if not isinstance(given, str):
            raise ConfigurationError(f"{shorten(given)} is no address of a server: it must be a str", value=given)
        self._embedded = self.url.startswith("embedded:")
        if self._embedded:
            folder_of(self.url)  # raises for one that can't be
        try:
            self._address: Address | None = None if self._embedded else address(self.url)
        except ValueError as error:
            raise ConfigurationError(
                f"{shown(self.url)!r} is no address of a server: {error}",
                hint="redis:// rediss:// unix:// valkey:// valkeys:// or embedded://",
            ) from error
        self._server: EmbeddedServer | None = None
        self._starting = threading.Lock()
        self._pid = os.getpid()
        self._sessions: dict[asyncio.AbstractEventLoop, _Session] = {}
        self._latest: _Session | None = None
        self._over = False
        self._bindings: dict[Schema, Binding] = {}

    # Connections -------------------------------------------------------------------------------------------------

    def session(self) -> _Session:
        """What the running loop has open; nothing connects before something is sent."""
        loop, latest = asyncio.get_running_loop(), self._latest
        if latest is not None and latest.loop is loop:
            return latest
        if self._over:
            raise Unavailable(f"{self!r} was closed: its connect() block has ended", hint="connect again")
        if self._pid != os.getpid():
            self._pid, self._starting = os.getpid(), threading.Lock()
        session = self._sessions.get(loop)
        if session is None:
            _sweep()
            session = self._sessions[loop] = _Session(self)
        self._latest = session
        return session

    def forget(self, session: _Session) -> None:
        """The session is closed."""
        self._sessions.pop(session.loop, None)
        if self._latest is session:
            self._latest = None

    async def open_wire(self, clock: Clock | None = None) -> Wire:
        """A new connection; an embedded server is started first."""
        if self._address is None:
            self._address = unix_address(await asyncio.to_thread(self._start))
        return await Wire.open(self._address, clock)

    def _start(self) -> str:
        with self._starting:
            if self._server is None:
                self._server = EmbeddedServer.start(self.url)
            return self._server.socket_path

    async def open(self) -> None:
        """Connect and check the server. Raises Unavailable, which names what was tried."""
        await self.session().dispatcher.lanes[0].ready()

    async def close(self) -> None:
        """Close the running loop's connections, and an embedded server. What is used afterwards opens them again."""
        session = self._sessions.get(asyncio.get_running_loop())
        try:
            if session is not None:
                await session.close()
        finally:
            if self._server is not None:
                server, self._server, self._address = self._server, None, None
                await asyncio.to_thread(server.stop)

    @property
    def ended(self) -> bool:
        """Whether it was closed for good."""
        return self._over

    async def end(self) -> None:
        """Close it for good."""
        self._over = True
        await self.close()

    # Sending -----------------------------------------------------------------------------------------------------

    @verb
    async def execute(self, *command: Any) -> Any:
        """Send any command, `execute("TTL", key)`, and return the server's reply, bytes as bytes.

        It travels on a connection of its own, one command at a time, and is never sent twice.
        """
        name = str(command[0]).upper() if command else ""
        if not name or name in STATEFUL:
            raise ConfigurationError(
                f"execute() can't send {name or 'nothing'}: it shares its connection with other callers",
                value=name,
                hint="transaction() is for several changes at once; for the rest open a client of your own",
            )
        session = self.session()
        async with session.lock:
            wire = session.direct
            if wire is not None and not wire.alive:
                session.direct = None
                await wire.close()
            wire = session.direct = session.direct or await self.open_wire()
            try:
                async with asyncio.timeout(self.settings.timeout):
                    return await wire.command(*command)
            except Refused as error:
                raise DatabaseError(f"{name}: {error.code} {error}") from error
            except TypeError as error:
                raise ConfigurationError(
                    f"{name}: {error}", value=command, hint="arguments are str, bytes, int or float"
                ) from error
            except BaseException as error:
                session.direct = None
                await wire.close()
                if isinstance(error, (Lost, TimeoutError)):
                    reason = str(error) or f"no reply within {self.settings.timeout} s"
                    raise OutcomeUnknown(f"{name}: the outcome can't be known: {reason}") from error
                raise

    def stats(self) -> Stats:
        """Counters of the running loop: operations, round trips, mean batch, connections."""
        session = self._sessions.get(asyncio.get_running_loop())
        return session.dispatcher.snapshot() if session is not None else Stats()

    # Slot tables -------------------------------------------------------------------------------------------------

    def binding(self, schema: Schema) -> Binding:
        """A model's keys and slots in this database, as far as they are known."""
        binding = self._bindings.get(schema)
        if binding is None:
            binding = self._bindings[schema] = schema.bind(self.settings.namespace)
        return binding

    def rebind(self, schema: Schema, stored: str) -> Binding:
        """The same after the server told its slot table."""
        binding = self._bindings[schema] = schema.bind(self.settings.namespace, stored)
        return binding

    def __repr__(self) -> str:
        return f"<Database {self._address.shown if self._address else self.url}>"


# Which database -------------------------------------------------------------------------------------------------------


class _Defaults(msgspec.Struct):
    url: str | None = None
    urls: Mapping[str, str] = msgspec.field(default_factory=dict)
    settings: Settings = msgspec.field(default_factory=Settings)
    default: Database | None = None
    named: dict[str, Database] = msgspec.field(default_factory=dict)
    connected: list[Database] = msgspec.field(default_factory=list)


_defaults = _Defaults()
_using: ContextVar[Database | None] = ContextVar("popoto_async_using", default=None)


def _settings(**given: Any) -> Settings:
    """The defaults, but for what was given."""
    return replace(_defaults.settings, **{name: value for name, value in given.items() if value is not UNSET})


def configure(
    url: str | None = UNSET,
    *,
    databases: Mapping[str, str] = UNSET,
    namespace: str | None = UNSET,
    batching: bool = UNSET,
    timeout: float | None = UNSET,
    queue_timeout: float | None = UNSET,
) -> None:
    """Set process-wide defaults; what is left out stays as it is. Does no I/O.

    `url` is the default database, `databases` the named ones (`{name: url}`) that `Meta.database` picks; `namespace`
    stands before every key; `batching=False` sends each operation alone; `timeout` and `queue_timeout` are in seconds.
    """
    settings = _settings(namespace=namespace, batching=batching, timeout=timeout, queue_timeout=queue_timeout)
    if databases is not UNSET and not isinstance(databases, (Mapping, NoneType)):
        raise ConfigurationError(f"databases are urls by name, not {shorten(databases)}", value=databases)
    urls = _defaults.urls if databases is UNSET else dict(databases or {})
    url = _defaults.url if url is UNSET else url
    for candidate in (url, *urls.values()):
        Database(candidate, settings)
    _defaults.url, _defaults.urls, _defaults.settings = url, urls, settings
    _defaults.default = None
    _defaults.named = {}


def resolve(name: str | None = None) -> Database:
    """The database a model uses now: its named one, else the task's, the connected one, the configured one."""
    if name is not None:
        if name not in _defaults.named:
            if name not in _defaults.urls:
                known = ", ".join(_defaults.urls) or "none"
                raise ConfigurationError(
                    f"no database is named {name!r} (configured: {known})",
                    hint=f"configure(databases={{{name!r}: url}})",
                )
            _defaults.named[name] = Database(_defaults.urls[name], _defaults.settings)
        return _defaults.named[name]
    current = _using.get()
    if current is not None:
        return current
    if _defaults.connected:
        return _defaults.connected[-1]
    if _defaults.default is None:
        _defaults.default = Database(_defaults.url, _defaults.settings)
    return _defaults.default


@asynccontextmanager
async def connect(
    url: str | None = None,
    *,
    namespace: str | None = UNSET,
    batching: bool = UNSET,
    timeout: float | None = UNSET,
    queue_timeout: float | None = UNSET,
) -> AsyncIterator[Database]:
    """Open a database, check the server, and make it the process's default until the block ends.

    Without `url`: the configured one, else REDIS_URL, else `redis://localhost:6379/0`. Raises Unavailable, which names
    what was tried.
    """
    settings = _settings(namespace=namespace, batching=batching, timeout=timeout, queue_timeout=queue_timeout)
    database = Database(_defaults.url if url is None else url, settings)
    try:
        await database.open()
        _defaults.connected.append(database)
        yield database
    finally:
        if database in _defaults.connected:
            _defaults.connected.remove(database)
        await database.end()


@contextmanager
def using(database: Database | str) -> Iterator[Database]:
    """Within the block, models of this task without a `Meta.database` use this one (or the one of this name)."""
    found = resolve(database) if isinstance(database, str) else database
    token = _using.set(found)
    try:
        yield found
    finally:
        _using.reset(token)
