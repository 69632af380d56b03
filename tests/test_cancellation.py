"""Cancelling an await never loses, crosses or repeats anybody's reply, and never costs a connection."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from popoto_async import (
    Database,
    Field,
    KeyField,
    Model,
    OutcomeUnknown,
    SortedField,
    Unavailable,
    UniqueField,
    connect,
    transaction,
    using,
)
from popoto_async import lane as lanes
from popoto_async.dispatcher import BIG
from tests.proxy import Fault, FaultProxy
from tests.servers import Server, other_clients

pytestmark = pytest.mark.anyio


class Meter(Model):
    name = KeyField()
    n = Field(type=int, default=0)


class Memo(Model):
    name = KeyField()
    owner = UniqueField()
    rank = SortedField(type=int, null=True)
    text = Field(type=str, null=True, max_length=None)


@asynccontextmanager
async def proxied(server: Server) -> AsyncIterator[tuple[FaultProxy, Database]]:
    async with FaultProxy(server) as proxy, connect(proxy.url) as db:
        await Meter.create(name="known")
        await Memo.create(name="known", owner="known")
        yield proxy, db


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def closed(proxy: FaultProxy) -> None:
    """Return when the proxy has seen its clients go."""
    async with asyncio.timeout(10):
        while proxy.open:
            await asyncio.sleep(0)


# Many ---------------------------------------------------------------------------------------------------------------


class Storm:
    """Awaits of all kinds, a third of them cancelled at random moments."""

    def __init__(self, seed: int, counters: list[Meter]) -> None:
        self.random = random.Random(seed)
        self.counters = counters
        self.sums: list[dict[int, int]] = [{} for _ in counters]
        self.cancelled: set[int] = set()
        self.tasks: list[asyncio.Task[None]] = []

    async def one(self, number: int) -> None:
        """One await, its reply checked to be its own."""
        kind, at = number % 5, number % len(self.counters)
        if kind == 0:
            assert await Meter.query.count() == len(self.counters) + 1
        elif kind == 1:
            note = await Memo.create(name=f"n{number}", owner=f"o{number}", rank=number)
            assert note.name == f"n{number}"
        elif kind == 2:
            loaded = await Meter.load(name=f"c{at}")
            assert loaded is not None
            assert loaded.name == f"c{at}"
        elif kind == 3:
            found = await Memo.query.filter(rank=number - 2).values("name").first()
            assert found in (None, {"name": f"n{number - 2}"})
        else:
            self.sums[at][number] = await self.counters[at].increment("n")

    async def blow(self, awaits: int) -> None:
        """Start them, some in each turn of the loop; cancel a third, wherever they are by then."""
        for number in range(awaits):
            self.tasks.append(asyncio.create_task(self.one(number)))
            if self.random.random() < 0.02:
                await asyncio.sleep(0)
            if number % 3 == 0:
                self._cancel_one(number)
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def _cancel_one(self, number: int) -> None:
        for _ in range(20):
            victim = self.random.randint(max(0, number - 400), number)
            if victim not in self.cancelled and not self.tasks[victim].done():
                self.cancelled.add(victim)
                self.tasks[victim].cancel()
                return


@pytest.mark.parametrize("breaking", [False, True], ids=["calm", "connections break"])
async def test_ten_thousand_awaits_a_third_of_them_cancelled(clean_server: Server, breaking: bool) -> None:
    async with proxied(clean_server) as (proxy, db):
        counters = [await Meter.create(name=f"c{n}") for n in range(7)]
        storm = Storm(20, counters)
        if breaking:
            for nth in range(3, 50, 6):
                proxy.swallow_reply(nth=nth, command="EVALSHA")
                proxy.cut_request(300, nth=nth + 3, command="EVALSHA")
        await storm.blow(10_000)

        for number, task in enumerate(storm.tasks):
            if task.cancelled():
                assert number in storm.cancelled
            else:
                assert task.exception() is None, f"await {number}: {task.exception()!r}"
        assert sum(task.cancelled() for task in storm.tasks) > 2500
        if breaking:
            assert db.stats().reconnects > 3

        for at, counter in enumerate(counters):
            await counter.refresh()
            values = list(storm.sums[at].values())
            assert len(set(values)) == len(values), "two increments were given one reply"
            assert values == sorted(values), "they were awaited in this order"
            asked = sum(n % 5 == 4 and n % 7 == at for n in range(10_000))
            assert max(values) <= counter.n
            assert len(values) <= counter.n <= asked
        stored = {note["name"] for note in await Memo.query.values("name")}
        created = {f"n{n}" for n, task in enumerate(storm.tasks) if n % 5 == 1 and not task.cancelled()}
        assert created < stored

        lanes = db.session().dispatcher.lanes
        assert [(lane.backlog.pending, len(lane.backlog.tickets)) for lane in lanes] == [({}, 0), ({}, 0)]
        assert db.stats().connections <= 2
        assert proxy.open == db.stats().connections
        assert len(other_clients(clean_server)) == db.stats().connections


# One ----------------------------------------------------------------------------------------------------------------


async def saved(note: Memo) -> None:
    await note.save()


async def test_what_is_cancelled_before_it_leaves_is_never_sent(clean_server: Server) -> None:
    async with proxied(clean_server) as (proxy, _):
        counter = await Meter.create(name="c")
        note = await Memo.create(name="old", owner="old", text="")
        held = proxy.hold_reply(command="EVALSHA")
        first = asyncio.create_task(counter.increment("n"))
        await held.happened()
        new = Memo(name="new", owner="new")
        note.rank = 5

        async def both() -> None:
            async with transaction() as tx:
                tx.delete(note)
                tx.save(Memo(name="third", owner="third"))

        waiting = [
            asyncio.create_task(work)
            for work in (
                saved(new),
                saved(note),
                counter.increment("n"),
                counter.delete(),
                both(),
                note.expire_in(1000),
            )
        ]
        await turns()
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        assert all(task.cancelled() for task in waiting)
        held.release()
        assert await first == 1
        assert not new.is_saved
        assert (await counter.refresh()).n == 1
        assert await Memo.query.keys() == ["Memo:known", "Memo:old"]
        assert (await note.refresh()).rank is None
        assert clean_server.client.ttl("Memo:old") == -1


async def test_what_is_cancelled_while_the_server_is_looked_for_is_never_sent(clean_server: Server) -> None:
    async with proxied(clean_server) as (proxy, _):
        counter = await Meter.create(name="c")
        proxy.refuse()
        proxy.drop_all()
        tasks = [asyncio.create_task(counter.increment("n")) for _ in range(3)]
        await turns(20)
        tasks[0].cancel()
        tasks[2].cancel()
        await turns()
        await proxy.accept()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert outcomes[1] == 1
        assert tasks[0].cancelled()
        assert tasks[2].cancelled()
        assert (await counter.refresh()).n == 1


async def test_what_has_left_completes_and_the_instance_knows(clean_server: Server) -> None:
    async with proxied(clean_server) as (proxy, _):
        counter, note = await Meter.create(name="c"), Memo(name="new", owner="new")
        held = proxy.hold_reply(command="EVALSHA")
        tasks = [asyncio.create_task(counter.increment("n")), asyncio.create_task(saved(note))]
        await held.happened()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        held.release()
        assert await counter.increment("n") == 2
        assert await Memo.load(name="new") == note
        note.rank = 1
        await note.save()
        assert await Memo.query.filter(rank=1).count() == 1


async def test_a_cancelled_neighbour_changes_nothing_for_the_others_of_a_call(clean_server: Server) -> None:
    async with proxied(clean_server) as (proxy, _):
        held = proxy.hold_reply(command="EVALSHA")
        tasks = [asyncio.create_task(_create(f"n{n}")) for n in range(60)]
        await held.happened()
        for task in tasks[::3]:
            task.cancel()
        await turns()
        held.release()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [getattr(one, "name", None) for one in outcomes] == [f"n{n}" if n % 3 else None for n in range(60)]
        assert await Memo.query.count() == 61


async def _create(name: str) -> Memo:
    return await Memo.create(name=name, owner=name)


async def test_the_ways_to_give_up_waiting(clean_server: Server) -> None:
    async with proxied(clean_server) as (proxy, db):
        counter = await Meter.create(name="c")

        async def wait_for() -> None:
            await asyncio.wait_for(counter.increment("n"), 0.01)

        async def timeout() -> None:
            async with asyncio.timeout(0.01):
                await counter.increment("n")

        async def group() -> None:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(counter.increment("n"))
                await asyncio.sleep(0.01)
                raise TimeoutError

        for done, way in enumerate((wait_for, timeout, group), 1):
            held = proxy.hold_reply(command="EVALSHA")
            with pytest.raises((TimeoutError, ExceptionGroup)):
                await way()
            assert held.done.is_set()
            held.release()
            assert (await counter.refresh()).n == done
        assert db.stats().reconnects == 0


async def test_a_stream_that_is_left_early_asks_for_no_more(clean_server: Server) -> None:
    async with proxied(clean_server) as (proxy, db):
        await Memo.create_many({"name": f"n{n:05}", "owner": f"o{n}", "rank": n} for n in range(5000))
        stream = aiter(Memo.query.order_by("name"))
        assert (await anext(stream)).name == "known"
        await stream.aclose()
        sent = sum(proxy.requests.values())
        await turns(50)
        assert sum(proxy.requests.values()) == sent
        assert db.session().dispatcher.lanes[0].backlog.pending == {}


async def test_connecting_can_be_cancelled(clean_server: Server) -> None:
    async with FaultProxy(clean_server) as proxy:
        for command in ("INFO", "TIME"):
            held = proxy.hold_reply(command=command)

            async def use() -> None:
                async with connect(proxy.url):
                    pytest.fail("not connected")

            task = asyncio.create_task(use())
            await held.happened()
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            held.release()
        async with connect(proxy.url):
            await Meter.create(name="c")
            assert proxy.open == 1


async def test_a_caller_that_is_cancelled_while_connecting_does_not_take_the_connection_from_others(
    clean_server: Server,
) -> None:
    async with proxied(clean_server) as (proxy, db):
        held = proxy.hold_reply(command="INFO")
        proxy.drop_all()
        await turns(20)
        first = asyncio.create_task(Meter.load(name="known"))
        await held.happened()
        second = asyncio.create_task(Meter.load(name="other"))
        await turns()
        first.cancel()
        held.release()
        assert await second is None
        assert first.cancelled()
        assert db.stats().reconnects == 1


# The loop's end ------------------------------------------------------------------------------------------------------


def run(server: Server, main: Callable[[Database], Coroutine[Any, Any, Any]]) -> Any:
    async def whole() -> Any:
        async with connect(server.url) as db:
            return await main(db)

    return asyncio.run(whole())


def test_a_loop_can_end_with_calls_under_way_and_queued(clean_server: Server) -> None:
    async def main() -> None:
        database = Database(clean_server.url)
        await database.open()
        with using(database):
            await Meter.create(name="c")
            left_behind = [asyncio.create_task(_create(name)) for name in (*map("n{}".format, range(500)), "x" * BIG)]
            await turns(2)
            assert not all(task.done() for task in left_behind)

    asyncio.run(main())
    assert clean_server.client.exists("Meter:c")


def test_a_loop_can_end_while_the_server_is_frozen(clean_server: Server) -> None:
    async def main(db: Database) -> None:
        await Meter.create(name="c")
        clean_server.pause()
        task = asyncio.create_task(_create("n"))
        await turns(20)
        task.cancel()

    async def whole() -> None:
        database = Database(clean_server.url)
        await database.open()
        with using(database):
            await main(database)

    asyncio.run(whole())
    clean_server.resume()
    run(clean_server, lambda db: Meter.create(name="d"))


def test_a_task_may_save_in_its_finally_when_the_loop_ends(clean_server: Server) -> None:
    reports: list[str] = []

    async def worker(counter: Meter) -> None:
        try:
            while True:
                await counter.increment("n")
        finally:
            note = await _create("last words")
            reports.append(note.name)

    async def main() -> None:
        database = Database(clean_server.url)
        await database.open()
        with using(database):
            counter = await Meter.create(name="c")
            tasks = [asyncio.create_task(worker(counter)) for _ in range(3)]
            while counter.n < 20:
                await asyncio.sleep(0)
            assert not any(task.done() for task in tasks)

    asyncio.run(main())
    assert reports == ["last words"] * 3
    assert clean_server.client.exists("Memo:last words")


async def unanswered(proxy: FaultProxy) -> tuple[Meter, Fault, asyncio.Task[int]]:
    """A record, and an increment of it that has left; its reply is held back."""
    counter = await Meter.create(name="c")
    held = proxy.hold_reply(command="EVALSHA")
    left = asyncio.create_task(counter.increment("n"))
    await held.happened()
    return counter, held, left


async def test_closing_fails_what_is_queued_and_lets_finish_what_is_under_way(clean_server: Server) -> None:
    async with FaultProxy(clean_server) as proxy:
        async with connect(proxy.url) as db:
            counter, held, under_way = await unanswered(proxy)
            queued = asyncio.create_task(counter.increment("n"))
            await turns()
            asyncio.get_running_loop().call_later(0.05, held.release)
        assert await under_way == 1
        with pytest.raises(Unavailable, match="closed"):
            await queued
        with pytest.raises(Unavailable, match="closed"), using(db):
            await Meter.query.count()
        await closed(proxy)


async def test_closing_does_not_wait_for_ever(clean_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "CLOSE_TIMEOUT", 0.1)
    async with FaultProxy(clean_server) as proxy:
        async with connect(proxy.url):
            _, held, under_way = await unanswered(proxy)
        with pytest.raises(OutcomeUnknown):
            await under_way
        held.release()
        await closed(proxy)


async def test_closing_lets_finish_what_has_left_though_nobody_waits_for_it(clean_server: Server) -> None:
    async with FaultProxy(clean_server) as proxy:
        async with connect(proxy.url):
            _, held, left = await unanswered(proxy)
            left.cancel()
            await asyncio.wait([left])
            asyncio.get_running_loop().call_later(0.05, held.release)
        await closed(proxy)
    assert clean_server.client.hget("Meter:c", "n") == b"1"
    assert not clean_server.client.keys("*$Lane:*"), "the reply was read, so the server could be told to forget"


async def test_a_reply_that_comes_in_the_turn_of_a_cancellation_is_kept_for_who_asks_next(
    clean_server: Server,
) -> None:
    async with connect(clean_server.url) as db:
        wire = await db.open_wire()
        try:
            receiving = asyncio.create_task(wire.receive())
            await turns()
            receiving.cancel()
            wire.data_received(b"$9\r\nthis turn\r\n")
            await asyncio.wait([receiving])
            async with asyncio.timeout(10):
                assert await wire.receive() == b"this turn"
        finally:
            await wire.close()
