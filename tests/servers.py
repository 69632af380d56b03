"""Real servers for tests: start, stop, kill, freeze, read the whole keyspace, count commands.

Everything here blocks and uses the synchronous client; its connections close at once, except `Server.client`.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from popoto_async.embedded import valkey_binary
from popoto_async.owned import OwnedProcess

T = TypeVar("T")

KINDS = ("valkey", "redis")
PATIENCE = 20.0

SCRIPT_CALLS = ("eval", "eval_ro", "evalsha", "evalsha_ro", "fcall", "fcall_ro")


class Missing(Exception):
    """The server of this kind is not installed; the text says which and how to get it."""


def binary(kind: str) -> str:
    """Where the server's program is."""
    if kind == "valkey":
        return str(valkey_binary())
    found = shutil.which("redis-server")
    if found is None:
        raise Missing("redis-server is not installed (Debian: apt install redis-server)")
    return found


def until(what: Callable[[], T], *, patience: float = PATIENCE, message: str = "") -> T:
    """The first true answer of `what`, asked until `patience` seconds have passed."""
    deadline = time.monotonic() + patience
    while True:
        answer = what()
        if answer or time.monotonic() > deadline:
            assert answer, message or f"not true within {patience} s"
            return answer
        time.sleep(0.005)


class Server:
    """A Redis or Valkey server on a unix socket and a loopback port, in a temporary folder.

    `config` are directives with `_` for `-`: `Server("redis", maxmemory="10mb", appendonly="yes")`. The folder, the
    port and the socket stay the same over restarts. It ends with the test process, whatever happens to that.
    """

    def __init__(self, kind: str, **config: str) -> None:
        self.kind = kind
        self.program = binary(kind)
        self.config = config
        self.first_config = dict(config)
        self.settings: dict[str, str] = {}
        self.folder = Path(tempfile.mkdtemp(prefix=f"test-{kind}-"))
        self.socket_path = str(self.folder / "server.sock")
        self.log = self.folder / "server.log"
        self.port = 0
        self.process: OwnedProcess | None = None
        self.frozen = False
        self.client: Any = self.connect()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def unix_url(self) -> str:
        return f"unix://{self.socket_path}?db=0"

    @property
    def pid(self) -> int:
        assert self.process is not None, "the server does not run"
        return self.process.process.pid

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.alive

    def connect(self, **options: Any) -> Any:
        """A synchronous client over the unix socket; the caller closes it."""
        return redis.Redis(unix_socket_path=self.socket_path, retry=Retry(NoBackoff(), 0), **options)

    def start(self) -> None:
        """Start it, on the port it had before if it had one; return when it has loaded its data."""
        assert not self.running, "the server runs already"
        for _ in range(5):
            self.port = self.port or _free_port()
            if self._launch():
                self.settings = self.client.config_get("*")
                return
            if "Address already in use" not in self.tail():
                break
            self.port = 0  # somebody took it between our look and the server's bind
        raise AssertionError(f"{self.kind} did not start:\n{self.tail()}")

    def _launch(self) -> bool:
        words = {"save": "", "appendonly": "no", "repl_diskless_sync_delay": "0", **self.config}
        words |= {"port": str(self.port), "bind": "127.0.0.1", "unixsocket": self.socket_path}
        command = [self.program, "--dir", str(self.folder)]
        for name, value in words.items():
            command += [f"--{name.replace('_', '-')}", *(value.split() or [""])]
        empty = Path(tempfile.mkdtemp(prefix="test-scratch-"))
        self.process = OwnedProcess(command, log=self.log, scratch=empty, stop_with=signal.SIGTERM)
        until(lambda: not self.running or self._answers(), message=f"{self.kind} does not answer")
        return self.process.alive

    def stop(self) -> None:
        """Shut it down in order (SIGTERM)."""
        self.resume()
        self.client.close()
        if self.process is not None:
            self.process.stop()
            self.process = None

    def kill(self) -> None:
        """SIGKILL; what an append-only file has not synced yet, the kernel still writes."""
        assert self.process is not None, "the server does not run"
        self.process.process.kill()
        self.process.process.wait()
        self.process.stop()
        self.process = None
        self.frozen = False

    def restart(self, **config: str) -> None:
        """Stop and start, from now on with these directives too."""
        self.stop()
        self.config |= config
        self.start()

    def pause(self) -> None:
        """SIGSTOP: connections are accepted by the kernel and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)
        self.frozen = True

    def resume(self) -> None:
        """SIGCONT."""
        if self.frozen:
            os.kill(self.pid, signal.SIGCONT)
            self.frozen = False

    def reset(self) -> None:
        """As it was when it started first, and empty: running, awake, a primary, its settings restored."""
        self.resume()
        if self.config != self.first_config:
            self.stop()
            self.config = dict(self.first_config)
        if not self.running:
            self.start()
        with suppress(redis.ConnectionError):
            self.client.ping()  # the first call after a restart finds its connection closed
        if "replicaof" not in self.config:
            self.client.replicaof("NO", "ONE")
        for name, value in self.client.config_get("*").items():
            if self.settings[name] != value:
                self.client.config_set(name, self.settings[name])
        self.client.flushall()

    def remove(self) -> None:
        """Stop it and delete its folder."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def tail(self, lines: int = 20) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.RedisError:
            return False

    def __repr__(self) -> str:
        return f"<{self.kind} server, port {self.port}>"


@contextmanager
def running(kind: str, **config: str) -> Iterator[Server]:
    """A server of its own for a block."""
    server = Server(kind, **config)
    try:
        server.start()
        yield server
    finally:
        server.remove()


@contextmanager
def replica_of(primary: Server, *, kind: str = "", **config: str) -> Iterator[Server]:
    """A replica of `primary` for a block, its first synchronisation done."""
    with running(kind or primary.kind, replicaof=f"127.0.0.1 {primary.port}", **config) as server:
        until(lambda: server.client.info("replication")["master_link_status"] == "up", message=server.tail())
        yield server


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def dump(server: Server, db: int = 0) -> dict[bytes, object]:
    """Every key with its full value, sorted by key, so that two keyspaces compare with `==`.

    string → bytes; hash → {field: value}; set → frozenset; zset → [(member, score), …] in server order;
    list → [element, …]; stream → [(id, {field: value}), …].
    """
    with server.connect(db=db) as client:
        kinds = {key: client.type(key) for key in client.scan_iter(count=1000)}
        found = {key: _READERS[kind](client, key) for key, kind in sorted(kinds.items()) if kind != b"none"}
        return {key: value for key, value in found.items() if value}


def deadlines(server: Server, db: int = 0) -> dict[bytes, int]:
    """Every expiring key with its deadline in Unix milliseconds, sorted by key."""
    with server.connect(db=db) as client:
        found = {key: client.pexpiretime(key) for key in sorted(client.scan_iter(count=1000))}
        return {key: deadline for key, deadline in found.items() if deadline > 0}


_READERS: dict[bytes, Callable[[Any, bytes], object]] = {
    b"string": lambda client, key: client.get(key),
    b"hash": lambda client, key: dict(sorted(client.hgetall(key).items())),
    b"set": lambda client, key: frozenset(client.smembers(key)),
    b"zset": lambda client, key: [(member, score) for member, score in client.zrange(key, 0, -1, withscores=True)],
    b"list": lambda client, key: client.lrange(key, 0, -1),
    b"stream": lambda client, key: [tuple(entry) for entry in client.xrange(key)],
}


def commandstats(server: Server) -> Counter[str]:
    """How often each command ran since the server started, those inside scripts included; `"client|list"` for parts."""
    stats = server.client.info("commandstats")
    return Counter({name.removeprefix("cmdstat_"): int(entry["calls"]) for name, entry in stats.items()})


class Counted:
    """What ran on the server in a `count_commands` block, filled when the block ends."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.network_reads = 0
        """Reads from sockets: an upper bound of round trips, as a big request may take several."""

    @property
    def round_trips(self) -> int:
        """Script calls. Every operation of the library is one; commands that a script runs are not counted."""
        return sum(self.calls[name] for name in SCRIPT_CALLS)

    def __repr__(self) -> str:
        return f"<{self.round_trips} script calls, {self.network_reads} reads, {dict(self.calls)}>"


@contextmanager
def count_commands(server: Server) -> Iterator[Counted]:
    """Count what runs on the server during a block, its own INFO calls left out."""
    counted = Counted()
    before, reads = commandstats(server), int(server.client.info("stats")["total_reads_processed"])
    yield counted
    counted.network_reads = int(server.client.info("stats")["total_reads_processed"]) - reads - 1
    counted.calls = commandstats(server) - before
    counted.calls["info"] -= 3  # the two before the block and the one just above
    counted.calls = +counted.calls


def other_clients(server: Server) -> list[dict[str, str]]:
    """Every connection to the server, as CLIENT LIST shows it, but the helper's own and those of replicas."""
    with suppress(redis.ConnectionError):
        server.client.ping()  # after a restart the first call finds its connection closed
    own = str(server.client.client_id())
    listed: list[dict[str, str]] = server.client.client_list()
    return [one for one in listed if one["id"] != own and not set(one["flags"]) & set("SM")]


def assert_no_clients(server: Server, *, grace: float = 1.0) -> None:
    """Fail when connections are open that the helper does not own, after `grace` seconds for closed ones to go."""
    deadline = time.monotonic() + grace
    while (left := other_clients(server)) and time.monotonic() < deadline:
        time.sleep(0.005)
    assert not left, "connections left open: " + "; ".join(
        f"{one['addr']} name={one['name']!r} last command={one['cmd']} age={one['age']} s" for one in left
    )
