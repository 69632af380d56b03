"""Consumer groups: every event handled at least once, by one consumer after the other if need be."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from popoto_async import (
    CorruptIndex,
    Database,
    Delivery,
    EventGroup,
    EventStreamMixin,
    Field,
    KeyField,
    Model,
    ModelException,
    PopotoError,
    Unavailable,
    ValidationError,
    connect,
    trace,
)
from popoto_async import lane as lanes
from tests.proxy import FaultProxy
from tests.servers import Server

pytestmark = pytest.mark.anyio

STREAM = "$Stream:Job"


class Job(EventStreamMixin, Model):
    name: str = KeyField()
    n: int = Field(default=0)


def group(consumer: str = "a", name: str = "g", **options: Any) -> EventGroup:
    return Job.events.group(name, consumer=consumer, **options)


async def take(events: EventGroup, count: int) -> list[Delivery]:
    async with asyncio.timeout(20):
        return [await anext(events) for _ in range(count)]


async def create(*names: str) -> None:
    for name in names:
        await Job.create(name=name)


def names(deliveries: list[Delivery]) -> list[str]:
    return [one.values["name"] for one in deliveries]


def pending(server: Server, name: str = "g") -> dict[str, tuple[str, int]]:
    """Entry → consumer and deliveries."""
    found = server.client.xpending_range(STREAM, name, "-", "+", 1000)
    return {one["message_id"].decode(): (one["consumer"].decode(), one["times_delivered"]) for one in found}


def idle(server: Server) -> list[int]:
    """Milliseconds since each pending entry was delivered."""
    return [one["time_since_delivered"] for one in server.client.xpending_range(STREAM, "g", "-", "+", 1000)]


async def test_what_was_there_and_what_comes(db: Database, clean_server: Server) -> None:
    await create("a", "b")
    async with group() as events:
        first = await take(events, 2)
        assert (names(first), [one.deliveries for one in first]) == (["a", "b"], [1, 1])
        assert [one.operation for one in first] == ["create", "create"]
        waiting = asyncio.create_task(take(events, 1))
        await asyncio.sleep(0)
        await create("c")
        (third,) = await waiting
        assert third.values["name"] == "c"
        async with trace() as t:
            assert await asyncio.gather(*(one.ack() for one in [*first, third])) == [True] * 3
        assert t.round_trips == 1
        assert await third.ack() is False
        assert pending(clean_server) == {}
    assert clean_server.client.xinfo_consumers(STREAM, "g") == []


async def test_each_event_goes_to_one_consumer_of_each_group(db: Database) -> None:
    handled: dict[str, Counter[str]] = {"g": Counter(), "h": Counter()}

    async def consume(name: str, consumer: str) -> None:
        async with group(consumer, name, batch=3) as events:
            async for event in events:
                handled[name][event.values["name"]] += 1
                await event.ack()

    tasks = [asyncio.create_task(consume(name, consumer)) for name in "gh" for consumer in "abc"]
    await asyncio.gather(*(Job.create(name=str(number)) for number in range(200)))
    async with asyncio.timeout(20):
        while any(len(one) < 200 for one in handled.values()):
            await asyncio.sleep(0.005)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert all(set(one.values()) == {1} for one in handled.values())


async def test_a_new_group_begins_where_it_is_told(db: Database) -> None:
    await create("old")
    async with group(name="all") as all_, group(name="new", start="$") as new:
        await create("fresh")
        assert names(await take(new, 1)) == ["fresh"]
        assert names(await take(all_, 2)) == ["old", "fresh"]


async def test_a_dead_consumers_events_are_taken_over(db: Database, clean_server: Server) -> None:
    await create("a", "b", "c")
    async with group("dead", min_idle=60) as dead:
        lost = await take(dead, 1)
        task = dead._fetch  # it dies here: nothing of it is given back
        assert task is None
        dead._buffer.clear()
    assert set(pending(clean_server).values()) == {("dead", 1)}
    async with group("b", min_idle=0.01) as events:
        again = await take(events, 3)
        assert names(again) == ["a", "b", "c"]
        assert [one.deliveries for one in again] == [2, 2, 2]
        assert again[0].id == lost[0].id
        assert {owner for owner, _ in pending(clean_server).values()} == {"b"}
        # The dead one was only slow: what it says counts, once.
        async with group("dead") as dead:
            assert await dead.settle("ack", lost[0].id) is True
        assert await again[0].ack() is False


async def test_what_a_consumer_had_is_its_own_again_when_it_returns(db: Database, clean_server: Server) -> None:
    await create("a", "b")
    async with group("a", min_idle=60, batch=1) as events:
        await take(events, 1)
    async with group("a", min_idle=60) as events:
        again = await take(events, 2)
    assert (names(again), [one.deliveries for one in again]) == (["a", "b"], [2, 1])


async def test_what_was_fetched_and_not_begun_is_given_back(db: Database, clean_server: Server) -> None:
    await create("a", "b", "c")
    async with group("a", min_idle=60, batch=3) as events:
        (first,) = await take(events, 1)
        assert len(pending(clean_server)) == 3
    assert sorted(pending(clean_server).values()) == [("a", 0), ("a", 0), ("a", 1)]
    async with group("b", min_idle=60) as events:
        others = await take(events, 2)
        assert (names(others), [one.deliveries for one in others]) == (["b", "c"], [1, 1])
        assert pending(clean_server)[first.id] == ("a", 1)


async def test_what_waits_long_in_the_buffer_is_asked_for_again(db: Database, clean_server: Server) -> None:
    await create("a", "b", "c")
    async with group("slow", min_idle=0.2, batch=3) as slow, group("quick", min_idle=0.2) as quick:
        assert names(await take(slow, 1)) == ["a"]
        while min(idle(clean_server)) < 250:
            await asyncio.sleep(0.01)
        assert names(await take(quick, 3)) == ["a", "b", "c"]
        for event in list(quick._buffer):
            await event.extend()
        waiting = asyncio.create_task(take(slow, 1))
        await create("d")
        found = names(await waiting)
    assert found in (["d"], ["a"], ["b"], ["c"])  # never one of its own old ones without taking it over again


async def test_retry_reject_and_extend(db: Database, clean_server: Server) -> None:
    await create("a", "b", "c")
    async with group(min_idle=60) as events, group("other", min_idle=60) as others:
        a, b, c = await take(events, 3)
        assert await a.retry() is True
        (again,) = await take(others, 1)
        assert (again.id, again.deliveries) == (a.id, 2)
        assert (await a.retry(), await a.extend(), await again.extend()) == (False, False, True)
        assert pending(clean_server)[a.id] == ("other", 2), "to have it for longer is no delivery"
        assert await b.reject("no such address") is True
        assert await b.ack() is False
        assert await c.ack()
        (letter,) = await Job.events.dead()
        assert (letter.event_id, letter.group, letter.deliveries, letter.reason) == (b.id, "g", 1, "no such address")
        assert letter.event is not None
        assert (letter.event.id, letter.event.key, dict(letter.event.values)) == (b.id, b.key, dict(b.values))
        assert list(pending(clean_server)) == [a.id]


async def test_what_is_delivered_too_often_goes_to_the_dead_letters(db: Database, clean_server: Server) -> None:
    await create("bad", "good")
    counts: Counter[str] = Counter()
    async with group(min_idle=0.01, max_deliveries=3) as events:
        while not await Job.events.dead():
            event = (await take(events, 1))[0]
            counts[event.id] += 1
            assert event.deliveries == counts[event.id]
            if event.values["name"] == "good":
                await event.ack()
                await create("good")
            else:
                await event.retry()
    (letter,) = await Job.events.dead()
    assert counts.pop(letter.event_id) == 3
    assert set(counts.values()) == {1}
    assert (letter.deliveries, letter.reason, letter.event and letter.event.values["name"]) == (
        3, "delivered too often", "bad"
    )  # fmt: skip


async def test_what_the_stream_dropped_unhandled_is_told(db: Database, clean_server: Server) -> None:
    await create("a")
    async with group("x", min_idle=60) as events:
        (gone,) = await take(events, 1)
    clean_server.client.xtrim(STREAM, maxlen=0, approximate=False)
    await create("b")
    async with group("x") as events:
        assert names(await take(events, 1)) == ["b"]
    (letter,) = await Job.events.dead()
    assert (letter.event_id, letter.reason, letter.event) == (gone.id, "trimmed", None)


async def test_foreign_entries_go_to_the_dead_letters(db: Database, clean_server: Server) -> None:
    clean_server.client.xadd(STREAM, {"x": "y"})
    await create("a")
    async with group() as events:
        assert names(await take(events, 1)) == ["a"]
    (letter,) = await Job.events.dead()
    assert (letter.reason, letter.event) == ("unreadable", None)


async def test_many_pending_ones_are_looked_through_in_parts(db: Database, clean_server: Server) -> None:
    await Job.create_many([{"name": str(number)} for number in range(450)])
    async with group("old", min_idle=60, batch=450) as old:
        await take(old, 450)
        old._buffer.clear()
    seen: set[str] = set()
    async with group("new", min_idle=0.05, batch=7) as events:
        while len(seen) < 450:
            (event,) = await take(events, 1)
            seen.add(event.values["name"])
            await event.ack()
    assert pending(clean_server) == {}


async def test_a_flushed_stream_is_joined_again(db: Database, clean_server: Server) -> None:
    async with group() as events:
        await create("a")
        assert names(await take(events, 1)) == ["a"]
        clean_server.client.flushall()
        await create("b")
        assert names(await take(events, 1)) == ["b"]


async def test_something_else_under_the_key(db: Database, clean_server: Server) -> None:
    for key in (STREAM, f"{STREAM}:dead"):
        clean_server.client.set(key, "x")
        with pytest.raises(CorruptIndex, match=r"\$Stream:Job"):
            async with group():
                pass
        clean_server.client.delete(key)


# Connections ---------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def proxied(server: Server, **options: Any) -> AsyncIterator[tuple[FaultProxy, Database]]:
    async with FaultProxy(server) as proxy, connect(proxy.url, **options) as db:
        yield proxy, db


async def test_wherever_the_connection_is_cut_no_event_is_lost_and_none_comes_twice(clean_server: Server) -> None:
    """A lost reply is answered, not repeated: twice is for consumers that die."""
    async with proxied(clean_server) as (proxy, db):
        handled: list[str] = []
        acknowledged: list[str] = []

        async def consume() -> None:
            async with group(batch=1, min_idle=60) as events:
                async for event in events:
                    handled.append(event.values["name"])
                    await event.ack()
                    acknowledged.append(event.values["name"])

        task = asyncio.create_task(consume())
        cuts: list[tuple[Callable[..., Any], int]] = [
            (cut, after) for after in (0, 5, 40, 100, 200, 400) for cut in (proxy.cut_request, proxy.cut_reply)
        ]
        number = 0
        for command in ("EVALSHA", "XREAD"):
            for cut, after in cuts:
                fault = cut(after, command=command)
                while not fault.done.is_set():
                    await Job.create(name=str(number))
                    number += 1
                    await asyncio.sleep(0.002)
        await Job.create(name="last")
        async with asyncio.timeout(20):
            while "last" not in acknowledged:
                await asyncio.sleep(0.005)
        task.cancel()
        await asyncio.wait([task])
        assert handled == [*(str(one) for one in range(number)), "last"]
        assert clean_server.client.xpending(STREAM, "g")["pending"] == 0


async def test_a_killed_server_is_found_again(start_server: Callable[..., Server], anyio_backend: str) -> None:
    for kind in ("valkey", "redis"):
        server = start_server(kind, appendonly="yes", appendfsync="always")
        async with connect(server.url):
            async with group(batch=1) as events:
                await create("a")
                (first,) = await take(events, 1)
                waiting = asyncio.create_task(take(events, 2))
                await first.ack()
                while not server.client.info("clients")["blocked_clients"]:
                    await asyncio.sleep(0.005)
                await asyncio.to_thread(server.kill)
                await asyncio.to_thread(server.start)
                await create("b", "c")
                found = await waiting
                assert names(found) == ["b", "c"]
                await found[0].ack()
            assert [owner for owner, _ in pending(server).values()] == ["a"]


async def test_patience_ends_and_so_does_the_database(clean_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "PATIENCE", 0.1)
    async with proxied(clean_server) as (proxy, _), group(patience=0.1) as events:
        waiting = asyncio.create_task(take(events, 1))
        while "XREAD" not in proxy.requests:
            await asyncio.sleep(0.005)
        proxy.refuse()
        proxy.drop_all()
        with pytest.raises(Unavailable):
            await waiting
    async with FaultProxy(clean_server) as proxy:
        async with connect(proxy.url):
            events = await group().__aenter__()
            waiting = asyncio.create_task(take(events, 1))
            while "XREAD" not in proxy.requests:
                await asyncio.sleep(0.005)
        proxy.drop_all()
        with pytest.raises(Unavailable, match="closed"):
            await waiting
        await events.__aexit__(None, None, None)


async def test_cancelled_at_any_turn_it_loses_nothing_and_closes_its_connection(clean_server: Server) -> None:
    async with proxied(clean_server) as (proxy, _):
        for turns in range(60):
            await Job.create(name=str(turns))

            async def consume() -> None:
                async with group(str(turns % 3), batch=2, min_idle=60) as events:
                    async for event in events:
                        await event.ack()

            task = asyncio.create_task(consume())
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            async with asyncio.timeout(5):
                while proxy.open > 1:
                    await asyncio.sleep(0)
        # Whatever was under way: nothing stays with a consumer that left, but what it had begun with.
        async with group("0", min_idle=0.05) as events, asyncio.timeout(20):
            await create("last")
            async for event in events:
                await event.ack()
                if not pending(clean_server) and not clean_server.client.xinfo_groups(STREAM)[0].get("lag"):
                    break
        assert await Job.events.dead() == []


async def test_a_cancelled_wait_leaves_the_consumer_as_it_was(db: Database) -> None:
    async with group() as events:
        for number in range(20):
            waiting = asyncio.create_task(take(events, 1))
            for _ in range(number):
                await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting])
        await create("a", "b")
        assert names(await take(events, 2)) == ["a", "b"]


def test_two_loops(clean_server: Server) -> None:
    async def once(name: str) -> list[str]:
        async with connect(clean_server.url):
            await create(name)
            async with group(min_idle=60) as events:
                (event,) = await take(events, 1)
                await event.ack()
                return names([event])

    assert [asyncio.run(once(name)) for name in ("a", "b")] == [["a"], ["b"]]


async def test_arguments_that_cannot_be(db: Database) -> None:
    wrong: list[dict[str, Any]] = [
        {"consumer": ""}, {"consumer": 5}, {"name": ""}, {"start": "5"}, {"batch": 0}, {"batch": 10**6},
        {"min_idle": 0}, {"min_idle": "x"}, {"max_deliveries": 0}, {"patience": "x"},
    ]  # fmt: skip
    for options in wrong:
        with pytest.raises(ValidationError):
            async with group(**options):
                pass
    events = group()
    with pytest.raises(ModelException, match="has not joined"):
        await anext(events)
    async with events:
        with pytest.raises(ModelException, match="joined already"):
            await events.__aenter__()
    with pytest.raises(PopotoError):
        await Job.events.read(limit=0)
