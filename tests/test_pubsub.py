"""Messages: what arrives is what left, and what can't arrive is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from popoto_async import (
    Database,
    DatabaseError,
    Message,
    ModelException,
    Publisher,
    Subscriber,
    Unavailable,
    ValidationError,
    connect,
    trace,
    using,
)
from popoto_async import pubsub as module
from tests.proxy import FaultProxy
from tests.servers import Server, other_clients

pytestmark = pytest.mark.anyio

VALUES: list[Any] = [
    "text", "", b"\x00bytes", 0, -5, 2**80, 1.5, True, None, Decimal("1.10"), datetime(2026, 1, 2, 3, 4, 5, 6, UTC),
    date(2026, 1, 2), UUID(int=7), [1, [2, {"a": (3, Decimal(1))}]], (1, 2), {1, 2},
    {"k": {"n": [None]}}, {(1, 2): "x"},
]  # fmt: skip


async def take(sub: Subscriber, count: int) -> list[Message]:
    async with asyncio.timeout(20):
        return [await anext(sub) for _ in range(count)]


def data(messages: list[Message]) -> list[Any]:
    return [message.data for message in messages]


def subscribers(server: Server, channel: str = "news") -> int:
    return int(server.client.pubsub_numsub(channel)[0][1])


async def until(what: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not what():
            await asyncio.sleep(0.002)


async def test_what_arrives_is_what_left(db: Database) -> None:
    async with Subscriber("news") as sub, trace() as t:
        assert await asyncio.gather(*(Publisher("news").publish(value) for value in VALUES)) == [1] * len(VALUES)
        found = await take(sub, len(VALUES))
    assert t.round_trips == 1
    assert data(found) == VALUES
    assert [type(value) for value in data(found)] == [type(value) for value in VALUES]
    assert found[0] == Message(channel="news", data="text")
    with pytest.raises(AttributeError):
        found[0].data = "other"


async def test_the_number_of_receivers(db: Database, clean_server: Server) -> None:
    publisher = Publisher("news")
    assert await publisher.publish("nobody") == 0
    async with Subscriber("news"), Subscriber("news", "other"), Subscriber("other"):
        assert await publisher.publish("two") == 2
        async with Subscriber(patterns=["n*"]):
            assert await publisher.publish("three") == 3
        await until(lambda: clean_server.client.pubsub_numpat() == 0)
        assert await publisher.publish("two") == 2


async def test_channels_and_patterns(db: Database) -> None:
    async with Subscriber("news", "weather", patterns=["user.*", "[ab]?"]) as sub:
        for channel in ("news", "user.5", "other", "a1", "weather", "c1", "news.x"):
            await Publisher(channel).publish(channel)
        found = await take(sub, 4)
    assert [(one.channel, one.pattern, one.data) for one in found] == [
        ("news", None, "news"), ("user.5", "user.*", "user.5"), ("a1", "[ab]?", "a1"), ("weather", None, "weather")
    ]  # fmt: skip


@pytest.mark.parametrize("namespace", ["app", "a*[b]?\\:c", "%"])
async def test_a_namespace_stands_before_channels(clean_server: Server, namespace: str) -> None:
    async with (
        connect(clean_server.url, namespace=namespace) as own,
        connect(clean_server.url) as bare,
        Subscriber("news", patterns=["u.*"], database=own) as inside,
        Subscriber("news", patterns=["*"], database=bare) as outside,
    ):
        assert await Publisher("news", database=own).publish(1) == 2  # the bare one's pattern is for all there are
        assert await Publisher("u.1", database=own).publish(2) == 2
        with using(bare):
            assert await Publisher("news").publish(3) == 2
        found = await take(inside, 2)
        assert [(one.channel, one.pattern, one.data) for one in found] == [("news", None, 1), ("u.1", "u.*", 2)]
        assert data(await take(outside, 3)) == [1, 2, 3]


async def test_raw_messages_and_those_of_others(db: Database, clean_server: Server) -> None:
    async with Subscriber("news") as sub, Subscriber("news", raw=True) as raw:
        await Publisher("news", raw=True).publish("grüße")
        await Publisher("news", raw=True).publish(b"\xff\xff")
        clean_server.client.publish("news", "plain text")
        await Publisher("news").publish([1])
        assert data(await take(raw, 4)) == ["grüße".encode(), b"\xff\xff", b"plain text", b"\x91\x01"]
        strange = await take(sub, 4)
    assert [one.data for one in strange] == [None, None, None, [1]]
    assert [one.raw for one in strange] == ["grüße".encode(), b"\xff\xff", b"plain text", None]
    assert [bool(one.error) for one in strange] == [True, True, True, False]


async def test_a_slow_reader_is_told_how_many_it_missed(db: Database) -> None:
    async with Subscriber("news", buffer=10) as sub:
        for number in range(5):
            await Publisher("news").publish(number)
        assert data(await take(sub, 2)) == [0, 1]
        for number in range(5, 105):
            await Publisher("news").publish(number)
        await until(lambda: sub.dropped == 93)
        found = await take(sub, 10)
        await Publisher("news").publish(105)
        found += await take(sub, 1)
    assert data(found) == list(range(95, 106))
    assert [one.dropped for one in found] == [93, *[0] * 10]
    assert (sub.dropped, sub.reconnects, found[0].after_gap) == (93, 0, False)


async def test_a_reader_that_keeps_up_misses_nothing_of_a_burst(db: Database) -> None:
    async with Subscriber("news", buffer=50) as sub:
        reading = asyncio.create_task(take(sub, 5000))
        await asyncio.gather(*(Publisher("news").publish(number) for number in range(5000)))
        assert data(await reading) == list(range(5000))
        assert sub.dropped == 0


async def test_the_buffer_is_bounded_in_bytes(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUFFER_BYTES", 100_000)
    async with Subscriber("news") as sub:
        for number in range(10):
            await Publisher("news").publish(f"{number}" * 30_000)
        await until(lambda: sub.dropped == 7)
        assert [one.data[0] for one in await take(sub, 3)] == ["7", "8", "9"]


# Connections ---------------------------------------------------------------------------------------------------------


async def test_a_broken_connection_is_opened_again_and_the_gap_is_told(clean_server: Server) -> None:
    async with FaultProxy(clean_server) as proxy, connect(proxy.url), connect(clean_server.url) as direct:
        gaps: list[int] = []
        publisher = Publisher("news", database=direct)
        with using(direct):
            pass
        async with (
            connect(proxy.url) as through,
            Subscriber("news", patterns=["u.*"], database=through, on_gap=lambda: gaps.append(len(gaps))) as sub,
        ):
            await publisher.publish("before")
            for turn in range(3):
                await until(lambda turn=turn: len(sub._buffer) == 1 + 2 * turn)
                proxy.refuse()
                proxy.drop_all()
                await until(lambda: subscribers(clean_server) == 0)
                assert await publisher.publish("lost") == 0
                await proxy.accept()
                await until(lambda turn=turn: sub.reconnects == turn + 1)
                assert await publisher.publish(f"after {turn}") == 1
                assert await Publisher("u.1", database=direct).publish(turn) == 1
            found = await take(sub, 7)
        assert data(found) == ["before", "after 0", 0, "after 1", 1, "after 2", 2]
        assert [one.after_gap for one in found] == [False, True, False, True, False, True, False]
        assert gaps == [0, 1, 2]


async def test_the_mark_of_a_gap_survives_the_drop_of_its_message(clean_server: Server) -> None:
    async with FaultProxy(clean_server) as proxy, connect(proxy.url), Subscriber("news", buffer=2) as sub:
        proxy.drop_all()
        await until(lambda: sub.reconnects == 1)
        for number in range(5):
            await Publisher("news").publish(number)
        await until(lambda: sub.dropped == 3)
        found = await take(sub, 2)
    assert [(one.data, one.dropped, one.after_gap) for one in found] == [(3, 3, True), (4, 0, False)]


async def test_a_killed_server_is_found_again(start_server: Callable[..., Server], anyio_backend: str) -> None:
    for kind in ("valkey", "redis"):
        server = start_server(kind)
        async with connect(server.url), Subscriber("news") as sub:
            waiting = asyncio.create_task(take(sub, 1))
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
            await until(lambda sub=sub: sub.reconnects == 1)
            assert await Publisher("news").publish("new") == 1
            (message,) = await waiting
            assert (message.data, message.after_gap) == ("new", True)


async def test_a_silent_connection_is_given_up(clean_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PING_EVERY", 0.1)
    async with FaultProxy(clean_server) as proxy, connect(proxy.url), Subscriber("news") as sub:
        await until(lambda: proxy.requests["PING"] > 2)
        assert sub.reconnects == 0
        proxy.stall()
        await until(lambda: proxy.connections > 2)
        proxy.flow()
        await until(lambda: sub.reconnects > 0)
        await Publisher("news").publish("there")
        assert (await take(sub, 1))[0].after_gap


async def test_patience_ends_and_so_does_the_database(clean_server: Server) -> None:
    async with FaultProxy(clean_server) as proxy, connect(proxy.url):
        async with Subscriber("news", patience=0.1) as sub:
            await Publisher("news").publish(1)
            await until(lambda: sub._buffer)
            proxy.refuse()
            proxy.drop_all()
            assert data(await take(sub, 1)) == [1]
            with pytest.raises(Unavailable):
                await take(sub, 1)
            with pytest.raises(Unavailable):
                await take(sub, 1)
        with pytest.raises(Unavailable, match="no server answers"):
            await Subscriber("news").__aenter__()
    async with FaultProxy(clean_server) as proxy:
        async with connect(proxy.url):
            sub = await Subscriber("news").__aenter__()
        proxy.drop_all()
        with pytest.raises(Unavailable, match="closed"):
            await take(sub, 1)
        await sub.close()


async def test_a_message_is_sent_once_wherever_the_connection_is_cut(clean_server: Server) -> None:
    async with (
        FaultProxy(clean_server) as proxy,
        connect(clean_server.url) as direct,
        connect(proxy.url) as db,
        Subscriber("news", database=direct) as sub,
    ):
        publisher = Publisher("news", database=db)
        seen = proxy.delay(0, command="EVALSHA")
        await publisher.publish(0)
        assert seen.reply is not None
        cuts = [(proxy.cut_request, after) for after in range(0, len(seen.request) + 1, 11)]
        cuts += [(proxy.cut_reply, after) for after in range(len(seen.reply))]
        for number, (cut, after) in enumerate(cuts, 1):
            fault = cut(after, command="EVALSHA")
            assert await publisher.publish(number) == 1
            assert fault.done.is_set()
        assert data(await take(sub, len(cuts) + 1)) == list(range(len(cuts) + 1))


async def test_cancelled_at_any_turn_it_closes_its_connection(clean_server: Server) -> None:
    async with connect(clean_server.url) as db:
        await db.execute("PING")
        await Publisher("x").publish(1)
        open_before = len(other_clients(clean_server))
        for turns in range(40):

            async def listen() -> None:
                async with Subscriber("news") as sub:
                    async for _ in sub:
                        pass

            task = asyncio.create_task(listen())
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
        await until(lambda: len(other_clients(clean_server)) == open_before)


async def test_a_cancelled_wait_loses_no_message(db: Database) -> None:
    async with Subscriber("news") as sub:
        found: list[Any] = []
        for number in range(30):
            waiting = asyncio.create_task(take(sub, 1))
            publishing = asyncio.create_task(Publisher("news").publish(number))
            for _ in range(number):
                await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting, publishing])
            if not waiting.cancelled():
                found += data(waiting.result())
        found += data(await take(sub, 30 - len(found)))
        assert found == list(range(30))


async def test_closing_ends_the_iteration(db: Database, clean_server: Server) -> None:
    sub = Subscriber("news")
    async with sub:
        await Publisher("news").publish(1)
        await until(lambda: sub._buffer)

        async def read() -> list[Any]:
            return [message.data async for message in sub]

        reading = asyncio.create_task(read())
        await asyncio.sleep(0)
        await sub.close()
        assert await reading == [1]
    await until(lambda: subscribers(clean_server) == 0)
    async with sub:  # and may be opened again
        await Publisher("news").publish(2)
        assert data(await take(sub, 1)) == [2]


def test_two_loops(clean_server: Server) -> None:
    sub, publisher = Subscriber("news"), Publisher("news")

    async def once(value: str) -> list[Any]:
        async with connect(clean_server.url), sub:
            assert await publisher.publish(value) == 1
            return data(await take(sub, 1))

    assert [asyncio.run(once(value)) for value in ("a", "b")] == [["a"], ["b"]]


async def test_arguments_that_cannot_be(db: Database) -> None:
    class Odd:
        pass

    wrong: list[Callable[[], Any]] = [
        lambda: Publisher(""), lambda: Publisher(5), lambda: Subscriber(), lambda: Subscriber(patterns="a*"),
        lambda: Subscriber("a", patterns="b*"), lambda: Subscriber("a", patterns=5),
        lambda: Subscriber("a", patterns=None),
        lambda: Subscriber(""), lambda: Subscriber("a", buffer=0), lambda: Publisher("a").publish(Odd()),
        lambda: Publisher("a", raw=True).publish(5),
        lambda: Publisher("a").publish("\ud800"), lambda: Publisher("a", raw=True).publish("\ud800"),
    ]  # fmt: skip
    for act in wrong:
        with pytest.raises(ValidationError):
            act()
    with pytest.raises(ValidationError, match="patience"):
        await Subscriber("a", patience=-1).__aenter__()
    sub = Subscriber("a")
    async with sub:
        with pytest.raises(ModelException, match="open already"):
            await sub.__aenter__()


async def test_a_subscription_may_be_refused(clean_server: Server) -> None:
    clean_server.client.acl_setuser("u", enabled=True, passwords=["+p"], keys=["*"], commands=["+@all"], channels=["a"])
    try:
        async with connect(clean_server.url.replace("redis://", "redis://u:p@")):
            async with Subscriber("a"):
                pass
            with pytest.raises(DatabaseError, match="NOPERM"):
                await Subscriber("b").__aenter__()
            with pytest.raises(DatabaseError):
                await Publisher("b").publish(1)
    finally:
        clean_server.client.acl_deluser("u")
