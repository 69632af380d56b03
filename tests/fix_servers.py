"""Fixtures: real servers. A test asks for `clean_server` and runs against Valkey and against Redis.

| fixture | what |
|---|---|
| `valkey_server`, `redis_server` | one of each for the whole session |
| `server` | both in turn (`server.kind` is "valkey" or "redis") |
| `clean_server` | `server`, reset and empty; after the test it must have no connection left |
| `start_server` | a server of the test's own: `start_server("redis", maxmemory="10mb")`, `…(replica_of=other)` |

A server that is not installed skips its tests, with the reason; where `CI` or `POPOTO_REQUIRE_SERVERS` is set, it fails
them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from popoto_async.errors import PopotoError
from tests import servers
from tests.servers import Server


@contextmanager
def installed() -> Iterator[None]:
    """Turn the lack of a server into a skip, or into a failure where servers are required."""
    try:
        yield
    except (servers.Missing, PopotoError) as missing:
        if os.environ.get("CI") or os.environ.get("POPOTO_REQUIRE_SERVERS"):
            pytest.fail(f"servers are required here: {missing}")
        pytest.skip(str(missing))


def _session(kind: str) -> Iterator[Server]:
    with installed():
        servers.binary(kind)
    with servers.running(kind) as server:
        yield server


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[Server]:
    yield from _session("valkey")


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Server]:
    yield from _session("redis")


@pytest.fixture(params=servers.KINDS)
def server(request: pytest.FixtureRequest) -> Server:
    found: Server = request.getfixturevalue(f"{request.param}_server")
    return found


@pytest.fixture
def clean_server(server: Server) -> Iterator[Server]:
    server.reset()
    for stray in servers.other_clients(server):  # of a test that failed: this one must not pay for it
        server.client.client_kill_filter(_id=stray["id"])
    yield server
    server.resume()
    if server.running:
        servers.assert_no_clients(server)


@pytest.fixture
def start_server() -> Iterator[Callable[..., Server]]:
    with ExitStack() as stack:

        def start(kind: str, *, replica_of: Server | None = None, **config: str) -> Server:
            with installed():
                servers.binary(kind)
            if replica_of is not None:
                return stack.enter_context(servers.replica_of(replica_of, kind=kind, **config))
            return stack.enter_context(servers.running(kind, **config))

        yield start
