"""What a call that was not awaited yet is to asyncio: a coroutine, and a future; and what becomes of it in the end."""

from __future__ import annotations

import asyncio
import gc
import inspect
import itertools
import sys
import warnings
from asyncio import futures, tasks
from collections.abc import Callable, Iterator
from contextlib import suppress
from contextvars import copy_context
from typing import Any

import pytest

from popoto_async import (
    CASCADE,
    Database,
    DatabaseError,
    Field,
    KeyField,
    Model,
    NotAwaited,
    OutcomeUnknown,
    Overloaded,
    Relationship,
    TimedOut,
    Unavailable,
    connect,
    maintenance,
)
from popoto_async import lane as lanes
from popoto_async.dispatcher import BIG
from popoto_async.wire import Clock
from tests.proxy import FaultProxy
from tests.servers import Server

pytestmark = pytest.mark.anyio


class Parcel(Model):
    name = KeyField()
    count = Field(type=int, default=0)
    text = Field(type=str, null=True, max_length=None)


class Depot(Model):
    name = KeyField()


class Item(Model):
    number: int = KeyField()
    depot = Relationship(Depot, on_delete=CASCADE)


CALLS: dict[str, Callable[[], Any]] = {
    "a verb of one request": lambda: Parcel.load(name="p"),
    "a verb of more than that": lambda: Parcel.get_or_create(name="p"),
}


@pytest.fixture(params=CALLS)
def call(request: pytest.FixtureRequest) -> Callable[[], Any]:
    return CALLS[request.param]


# Asked about ------------------------------------------------------------------------------------------------------


async def test_asking_a_task_what_it_does_does_not_begin_or_end_it(db: Database, call: Callable[[], Any]) -> None:
    parcel = await Parcel.create(name="p")
    task = asyncio.create_task(call())
    assert "pending" in repr(task)
    task.get_stack()
    task.print_stack(file=sys.stderr)
    assert await task in (parcel, (parcel, False))


async def test_a_question_about_a_call_does_not_spoil_it(db: Database, call: Callable[[], Any]) -> None:
    parcel = await Parcel.create(name="p")
    for ask in (bool, len, iter, repr, inspect.isawaitable, asyncio.iscoroutine, lambda it: hasattr(it, "name")):
        pending = call()
        with suppress(NotAwaited):
            ask(pending)
        assert await pending in (parcel, (parcel, False))


async def test_a_misused_call_is_told_of_once(db: Database, call: Callable[[], Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(NotAwaited):
            bool(call())
        gc.collect()
    pending = call()
    with pytest.warns(RuntimeWarning, match="never awaited"):
        del pending


# Given up ---------------------------------------------------------------------------------------------------------


async def test_a_call_that_was_closed_can_not_be_awaited(db: Database, call: Callable[[], Any]) -> None:
    pending = call()
    pending.close()
    with pytest.raises(RuntimeError):
        await pending
    assert db.stats().operations == 0


async def test_a_call_whose_task_was_cancelled_before_it_began_can_not_be_awaited(
    db: Database, call: Callable[[], Any]
) -> None:
    pending = call()
    task = asyncio.create_task(pending)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(RuntimeError):
        await pending
    assert db.stats().operations == 0


async def test_a_cancelled_call_leaves_no_timer(clean_server: Server) -> None:
    async with FaultProxy(clean_server) as proxy, connect(proxy.url):
        await Parcel.create(name="p")
        held = proxy.hold_reply()
        pending = Parcel.load(name="p", timeout=1000)
        task = asyncio.create_task(pending)
        await held.happened()
        timer = pending._timer
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert timer.cancelled()
        held.release()


async def test_what_a_default_raises_reaches_who_waits_even_stopiteration(db: Database) -> None:
    names = iter(["only"])

    class Named(Model):
        name = KeyField()
        label = Field(type=str, default=lambda: next(names))

    await Named.create(name="a")
    with pytest.raises(RuntimeError) as caught:
        await asyncio.wait_for(Named.create(name="b"), 10)
    assert isinstance(caught.value.__cause__, StopIteration)


# Tasks that begin at once -----------------------------------------------------------------------------------------


class EagerTask(tasks._PyTask):
    """A task as Python 3.12's eager_task_factory makes it: its first step is done before it is returned."""

    numbers = itertools.count()

    def __init__(self, coro: Any, *, loop: Any, name: str | None = None, context: Any = None) -> None:
        futures._PyFuture.__init__(self, loop=loop)
        self._name = name or f"Eager-{next(self.numbers)}"
        self._num_cancels_requested, self._must_cancel, self._fut_waiter = 0, False, None
        self._coro, self._context = coro, context or copy_context()
        outer = tasks._current_tasks.pop(loop, None)
        tasks._register_task(self)
        try:
            self._context.run(self._Task__step)
        finally:
            tasks._current_tasks.pop(loop, None)
            if outer is not None:
                tasks._current_tasks[loop] = outer


@pytest.fixture
def eager_tasks() -> Iterator[Callable[[], None]]:
    """Have the running loop begin tasks at once."""
    loops: list[asyncio.AbstractEventLoop] = []

    def install() -> None:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(lambda loop, coro, **options: EagerTask(coro, loop=loop, **options))
        loops.append(loop)

    yield install
    for loop in loops:
        loop.set_task_factory(None)


async def test_eager_tasks_make_no_difference(clean_server: Server, eager_tasks: Callable[[], None]) -> None:
    eager_tasks()
    async with FaultProxy(clean_server) as proxy, connect(proxy.url):
        for round_ in range(3):
            made = await asyncio.gather(
                *(asyncio.create_task(Parcel.create(name=f"{round_}/{n}")) for n in range(20)),
                Parcel.create(name=f"{round_}/big", text="x" * (BIG + 1)),
            )
            assert len(await Parcel.query.keys()) == len(made) * (round_ + 1)
            clean_server.client.client_kill_filter(_type="normal", skipme=True)
            clean_server.client.script_flush()  # so that the task which loads scripts runs too
        await Parcel.create(name="loaded")
        clean_server.client.execute_command("ACL", "SETUSER", "default", "-evalsha")
        try:
            with pytest.raises(DatabaseError, match="NOPERM"):  # over which that task has nothing to wait for
                await Parcel.create(name="refused")
        finally:
            clean_server.client.execute_command("ACL", "SETUSER", "default", "+evalsha")
        for round_ in range(3):
            work = asyncio.gather(*(Parcel.create(name=f"after{round_}/{n}") for n in range(300)))
            await asyncio.wait_for(work, 20)


# Bounds -----------------------------------------------------------------------------------------------------------


async def test_whoever_waits_for_a_place_is_told_that_the_server_is_lost(
    clean_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "PATIENCE", 0.2)
    async with FaultProxy(clean_server) as proxy, connect(proxy.url) as db:
        await Parcel.create(name="p")
        db.session().dispatcher._limit = 50
        proxy.refuse()
        clean_server.client.client_kill_filter(_type="normal", skipme=True)
        work = asyncio.gather(*(Parcel.create(name=f"p{n}") for n in range(500)), return_exceptions=True)
        outcomes = await asyncio.wait_for(work, 30)
        assert {type(outcome) for outcome in outcomes} <= {Unavailable, OutcomeUnknown}


async def test_who_waits_for_its_turn_alone_is_not_overload(clean_server: Server) -> None:
    async with connect(clean_server.url, queue_timeout=0.0001) as db:
        await Parcel.create(name="p")
        outcomes = await asyncio.gather(*(Parcel.create(name=f"p{n}") for n in range(3000)), return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {Parcel}
        assert db.stats().operations == 3001


async def test_whoever_waited_for_its_turn_first_is_told_when_the_queue_is_full(clean_server: Server) -> None:
    async with FaultProxy(clean_server) as proxy, connect(proxy.url, queue_timeout=0.05) as db:
        await Parcel.create(name="p")
        db.session().dispatcher._limit = 300
        held = proxy.hold_reply(command="EVALSHA")
        work = asyncio.gather(*(Parcel.create(name=f"p{n}") for n in range(2000)), return_exceptions=True)
        await held.happened()
        await asyncio.sleep(0.5)
        held.release()
        kinds = {type(outcome) for outcome in await asyncio.wait_for(work, 30)}
        assert Overloaded in kinds
        assert kinds <= {Parcel, Overloaded}


async def test_a_big_value_has_the_same_patience_with_a_server_that_restarts(clean_server: Server) -> None:
    """The second lane, which only big values take, may never have had a connection."""
    async with FaultProxy(clean_server) as proxy, connect(proxy.url):
        await Parcel.create(name="p")
        proxy.refuse()
        clean_server.client.client_kill_filter(_type="normal", skipme=True)
        work = asyncio.gather(Depot.create(name="small"), Parcel.create(name="b", text="x" * (BIG + 1)))
        await asyncio.sleep(0.2)
        await proxy.accept()
        assert len(await work) == 2


async def test_a_read_in_a_call_of_unknown_outcome_only_failed(clean_server: Server) -> None:
    async with FaultProxy(clean_server) as proxy, connect(proxy.url):
        parcel = await Parcel.create(name="p")
        lost = proxy.swallow_reply(command="EVALSHA")
        work = asyncio.gather(parcel.increment("count"), Parcel.load(name="p"), return_exceptions=True)
        await asyncio.sleep(0)
        proxy.refuse()
        await lost.happened()
        clean_server.client.flushall()
        await proxy.accept()
        written, read = await work
        assert isinstance(written, OutcomeUnknown)
        assert type(read) is Unavailable


# Calls of several parts -------------------------------------------------------------------------------------------


async def filled(count: int = 3000) -> Depot:
    depot = await Depot.create(name="d")
    await Item.create_many({"number": n, "depot": depot} for n in range(count))
    return depot


async def test_a_delete_that_ends_between_its_parts_does_not_promise_that_nothing_was_done(
    clean_server: Server,
) -> None:
    async with FaultProxy(clean_server) as proxy, connect(proxy.url):
        depot = await filled()
        held = proxy.hold_reply(nth=2)
        with pytest.raises(OutcomeUnknown, match="Depot") as caught:
            await depot.delete(timeout=1)
        held.release()
        assert "delete" in str(caught.value.__notes__)
        assert 0 < await Item.query.count() < 3000
        assert await depot.delete()
        assert await Item.query.count() == 0


async def test_a_delete_of_many_parts_ends_within_its_time(clean_server: Server) -> None:
    async with FaultProxy(clean_server) as proxy, connect(proxy.url):
        depot = await filled()
        for number in range(1, 200):
            proxy.delay(0.1, nth=number)
        with pytest.raises(OutcomeUnknown, match="within 0"):
            await depot.delete(timeout=0.35)
        assert await Item.query.count() > 0


async def test_a_rename_that_ends_between_its_parts_is_finished_by_repair(clean_server: Server) -> None:
    async with FaultProxy(clean_server) as proxy, connect(proxy.url):
        depot = await filled()
        depot.name = "new"
        held = proxy.hold_reply(nth=2)
        with pytest.raises(OutcomeUnknown, match="Depot") as caught:
            await depot.save(timeout=1)
        held.release()
        assert "maintenance.repair(Depot)" in str(caught.value.__notes__)
        await maintenance.repair(Depot)
        assert await Item.query.filter(depot=Depot.ref(name="new")).count() == 3000
        assert (await maintenance.check(Depot, Item)).clean


async def test_the_first_part_may_fail_with_nothing_done(clean_server: Server) -> None:
    async with FaultProxy(clean_server) as proxy, connect(proxy.url) as db:
        depot = await filled(10)
        db.session().dispatcher._limit = 0
        with pytest.raises(TimedOut):
            await depot.delete(timeout=0.05)
        db.session().dispatcher._limit = 10
        assert await Item.query.count() == 10


# The server's clock -----------------------------------------------------------------------------------------------


def test_the_clock_follows_a_server_whose_clock_was_set() -> None:
    clock = Clock()
    clock.learn(1000.0, 10.0, 10.002)
    clock.learn(4001.0, 11.0, 11.5)  # less exact, but both can't be true
    assert clock._offset == pytest.approx(4001.0 - 11.25)
