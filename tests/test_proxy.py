"""The fault proxy and the servers' helpers do exactly what they say, or the tests that use them prove nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import RedisError

from tests import servers
from tests.fix_servers import installed
from tests.proxy import FaultProxy, Frames, command_of
from tests.servers import assert_no_clients, count_commands, deadlines, dump, other_clients, until

pytestmark = pytest.mark.anyio


def request(*words: str) -> bytes:
    parts = [f"${len(word)}\r\n{word}\r\n" for word in words]
    return f"*{len(words)}\r\n{''.join(parts)}".encode()


async def raw(proxy: FaultProxy) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection without a client library, to see bytes."""
    return await asyncio.open_connection("127.0.0.1", int(proxy.url.split(":")[2].split("/")[0]))


@asynccontextmanager
async def client_of(proxy: FaultProxy) -> AsyncIterator[Any]:
    client: Any = Redis.from_url(proxy.url, retry=Retry(NoBackoff(), 0))
    try:
        yield client
    finally:
        await client.aclose()


REPLIES = [
    b"+OK\r\n",
    b"-ERR no\r\n",
    b":12\r\n",
    b"$5\r\nab\r\nc\r\n",
    b"$0\r\n\r\n",
    b"$-1\r\n",
    b"*-1\r\n",
    b"*0\r\n",
    b"*2\r\n*1\r\n:1\r\n$1\r\nx\r\n",
    b"_\r\n",
    b"#t\r\n",
    b",1.5\r\n",
    b"(123\r\n",
    b"=5\r\ntxt:a\r\n",
    b"!3\r\nERR\r\n",
    b"%2\r\n+a\r\n:1\r\n+b\r\n*2\r\n:1\r\n:2\r\n",
    b"~2\r\n:1\r\n:2\r\n",
    b">2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n",
    b"|1\r\n+ttl\r\n:5\r\n*1\r\n:1\r\n",
]


@pytest.mark.parametrize("size", [1, 2, 7, 10_000])
def test_frames_are_whole_whatever_the_pieces(size):
    stream, frames, found = b"".join(REPLIES), Frames(), []
    for start in range(0, len(stream), size):
        found += frames.feed(stream[start : start + size])
    assert found == REPLIES


def test_command_of():
    assert command_of(request("evalsha", "x")) == "EVALSHA"


@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
async def test_without_faults_it_is_transparent(clean_server, unix):
    async with FaultProxy(clean_server, unix=unix) as proxy, client_of(proxy) as client:
        value = bytes(range(256)) * 4000
        await client.set("key", value)
        assert await client.get("key") == value
        assert await client.hset("hash", mapping={"a": 1, "b": 2}) == 2
        assert await client.hgetall("hash") == {b"a": b"1", b"b": b"2"}
        assert sorted(await asyncio.gather(*(client.incr("n") for _ in range(20)))) == list(range(1, 21))
        assert proxy.requests["SET"] == proxy.requests["GET"] == 1
        assert proxy.requests["INCRBY"] == 20
        assert proxy.bytes_up > len(value)
        assert proxy.bytes_down > len(value)
        assert 1 <= proxy.open == proxy.connections <= 21


async def test_it_stands_before_an_address_too(clean_server):
    async with FaultProxy(("127.0.0.1", clean_server.port)) as proxy, client_of(proxy) as client:
        assert await client.ping()


@pytest.mark.parametrize("after", [0, 1, 5, 6])
async def test_cut_reply_after_some_bytes(clean_server, after):
    async with FaultProxy(clean_server) as proxy:
        fault = proxy.cut_reply(after, nth=2, command="get")
        reader, writer = await raw(proxy)
        clean_server.client.set("key", "value")
        writer.write(request("GET", "key") * 3)
        first = b"$5\r\nvalue\r\n"
        assert await reader.read() == first + first[:after]
        await fault.happened()
        assert fault.reply == first
        assert proxy.bytes_down == len(first) + after
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("after", [0, 1, 20])
async def test_cut_request_after_some_bytes(clean_server, after):
    async with FaultProxy(clean_server) as proxy, client_of(proxy) as client:
        fault = proxy.cut_request(after, command="INCRBY", nth=2)
        assert await client.incr("n") == 1
        with pytest.raises(Disconnected):
            await client.incr("n")
        await fault.happened()
        assert len(fault.request) > 20
        assert await client.incr("n") == 2


async def test_a_swallowed_reply_was_applied(clean_server):
    async with FaultProxy(clean_server) as proxy, client_of(proxy) as client:
        fault = proxy.swallow_reply(command="INCRBY")
        with pytest.raises(Disconnected):
            await client.incr("n")
        await fault.happened()
        assert fault.reply == b":1\r\n"
        assert await client.incr("n") == 2
        assert proxy.connections == 2


async def test_delay(clean_server):
    async with FaultProxy(clean_server) as proxy, client_of(proxy) as client:
        loop = asyncio.get_running_loop()
        proxy.delay(0.05, command="GET")
        start = loop.time()
        await client.get("key")
        assert loop.time() - start >= 0.05


async def test_a_held_reply_waits_for_its_release(clean_server):
    async with FaultProxy(clean_server) as proxy, client_of(proxy) as client:
        fault = proxy.hold_reply(command="INCRBY")
        call = asyncio.create_task(client.incr("n"))
        await fault.happened()
        assert clean_server.client.get("n") == b"1"
        assert not call.done()
        fault.release()
        assert await call == 1


async def test_a_held_request_is_delivered_late(clean_server):
    async with FaultProxy(clean_server) as proxy, client_of(proxy) as client:
        await client.set("n", 10)
        fault = proxy.hold_request(command="INCRBY")
        with pytest.raises(Disconnected):
            await client.incr("n")
        await fault.happened()
        assert await client.get("n") == b"10"
        assert await client.incr("n") == 11
        assert await fault.deliver() == b":12\r\n"
        assert await client.get("n") == b"12"


async def test_refuse_and_accept(clean_server):
    async with FaultProxy(clean_server) as proxy, client_of(proxy) as client:
        await client.ping()
        proxy.refuse()
        assert await client.ping()  # the open connection goes on
        proxy.drop_all()
        with pytest.raises(Disconnected):
            await client.ping()
        with pytest.raises(Disconnected):
            await client.ping()
        await proxy.accept()
        assert await client.ping()
        assert proxy.connections == 2


async def test_stall_and_flow(clean_server):
    async with FaultProxy(clean_server) as proxy, client_of(proxy) as client:
        await client.set("key", "value")
        proxy.stall()
        old = asyncio.create_task(client.get("key"))
        reader, writer = await raw(proxy)
        writer.write(request("GET", "key"))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(old), 0.05)
        assert proxy.requests["GET"] == 0
        proxy.flow()
        assert await old == b"value"
        assert await reader.readexactly(11) == b"$5\r\nvalue\r\n"
        writer.close()
        await writer.wait_closed()


async def test_a_server_that_is_down_closes_the_client(start_server):
    server = start_server("valkey")
    async with FaultProxy(server) as proxy, client_of(proxy) as client:
        await client.ping()
        server.kill()
        with pytest.raises(RedisError):
            await client.ping()
        with pytest.raises(RedisError):
            await client.ping()
        server.start()
        assert await client.ping()


async def test_nothing_stays_open(clean_server):
    async with FaultProxy(clean_server) as proxy:
        _, writer = await raw(proxy)
        fault = proxy.hold_request()
        writer.write(request("PING"))
        await fault.happened()
        assert len(other_clients(clean_server)) == 1
    writer.close()
    await asyncio.to_thread(until, lambda: not other_clients(clean_server))


def test_dump_reads_every_type(clean_server):
    client = clean_server.client
    client.set("string", b"\x00\xff")
    client.hset("hash", mapping={"b": "2", "a": "1"})
    client.sadd("set", "x", "y")
    client.zadd("zset", {"b": 0.1, "a": 0.1, "c": -1})
    client.rpush("list", "2", "1")
    client.xadd("stream", {"f": "v"}, id="1-1")
    client.set("expiring", "1")
    client.pexpireat("expiring", 4_000_000_000_123)
    assert dump(clean_server) == {
        b"expiring": b"1",
        b"hash": {b"a": b"1", b"b": b"2"},
        b"list": [b"2", b"1"],
        b"set": frozenset({b"x", b"y"}),
        b"stream": [(b"1-1", {b"f": b"v"})],
        b"string": b"\x00\xff",
        b"zset": [(b"c", -1.0), (b"a", 0.1), (b"b", 0.1)],
    }
    assert list(dump(clean_server)) == sorted(dump(clean_server))
    assert deadlines(clean_server) == {b"expiring": 4_000_000_000_123}
    assert dump(clean_server, db=1) == {}


def test_count_commands(clean_server):
    client = clean_server.client
    sha = client.script_load("return redis.call('INCR', KEYS[1])")
    with count_commands(clean_server) as nothing:
        pass
    assert nothing.calls == {}
    assert nothing.network_reads == 0
    with count_commands(clean_server) as counted:
        client.evalsha(sha, 1, "n")
        client.evalsha(sha, 1, "n")
        client.get("n")
    assert counted.calls == {"evalsha": 2, "incr": 2, "get": 1}
    assert counted.round_trips == 2
    assert counted.network_reads == 3


def test_restart_kill_pause_and_config(start_server, server):
    own = start_server(server.kind, appendonly="yes", appendfsync="always")
    port = own.port
    own.client.set("key", "value")
    own.kill()
    assert not own.running
    own.start()
    assert (own.port, own.client.get("key")) == (port, b"value")
    own.restart(maxmemory="100mb")
    assert own.client.config_get("maxmemory") == {"maxmemory": "104857600"}
    assert own.client.get("key") == b"value"
    own.pause()
    with own.connect(socket_timeout=0.05) as client, pytest.raises(RedisError):
        client.ping()
    own.resume()
    assert own.client.ping()
    own.client.config_set("maxmemory", "0")
    own.restart(maxclients="50")
    own.reset()
    assert own.client.dbsize() == 0
    assert "maxclients" not in own.config


def test_a_connection_left_open_is_found(clean_server):
    with clean_server.connect(client_name="forgotten") as client:
        client.ping()
        with pytest.raises(AssertionError, match=r"left open: .*name='forgotten' last command=ping"):
            assert_no_clients(clean_server, grace=0)
    assert_no_clients(clean_server)


def test_reset_restores_what_a_test_changed(start_server, server):
    own = start_server(server.kind)
    before = own.client.config_get("*")
    own.client.config_set("maxmemory", "5mb")
    own.client.config_set("maxmemory-policy", "allkeys-lru")
    own.client.replicaof("127.0.0.1", own.port)
    own.pause()
    own.reset()
    assert own.client.config_get("*") == before
    assert own.client.info("replication")["role"] == "master"
    own.kill()
    own.reset()
    assert own.client.ping()


@pytest.mark.parametrize("variable", ["CI", "POPOTO_REQUIRE_SERVERS"])
def test_a_missing_server_skips_or_fails(monkeypatch, variable):
    monkeypatch.setattr("tests.servers.shutil.which", lambda program: None)
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delenv("POPOTO_REQUIRE_SERVERS", raising=False)
    with pytest.raises(pytest.skip.Exception, match="redis-server is not installed"), installed():
        servers.binary("redis")
    monkeypatch.setenv(variable, "1")
    with pytest.raises(pytest.fail.Exception, match="redis-server is not installed"), installed():
        servers.binary("redis")


def test_replica(start_server, clean_server):
    clean_server.client.set("key", "value")
    replica = start_server(clean_server.kind, replica_of=clean_server)
    assert replica.client.get("key") == b"value"
    assert other_clients(clean_server) == []
