"""Awaits become batches: what leaves together, in which order, within which bounds, and how it is counted."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from popoto_async import (
    Database,
    Field,
    IndexedField,
    KeyField,
    ListField,
    Model,
    OutcomeUnknown,
    Overloaded,
    SortedField,
    TimedOut,
    UniqueField,
    UniqueViolation,
    ValidationError,
    connect,
    trace,
    transaction,
    unbatched,
)
from popoto_async import lane as lane_module
from popoto_async.backlog import CALL_BYTES
from popoto_async.dispatcher import BIG
from popoto_async.wire import Wire
from tests.model_of_store import assert_true, values_of
from tests.proxy import FaultProxy
from tests.servers import Server, count_commands

pytestmark = pytest.mark.anyio


class Parcel(Model):
    name = KeyField()
    kind = IndexedField(type=str, null=True)
    price = SortedField(type=float, null=True)
    count = Field(type=int, default=0)
    text = Field(type=str, null=True, max_length=None)


class Crate(Model):
    name = KeyField()
    text = Field(type=str, null=True, max_length=None)


class Sender(Model):
    name = KeyField()
    email = UniqueField()


@asynccontextmanager
async def proxied(server: Server, **options: Any) -> AsyncIterator[tuple[FaultProxy, Database]]:
    async with FaultProxy(server) as proxy, connect(proxy.url, **options) as db:
        yield proxy, db


async def known(*models: type[Model]) -> None:
    """Have the slot tables of the models on the server, so that nothing is planned twice."""
    for model in models:
        await model.create(name="known", **({"email": "known"} if model is Sender else {}))


async def turns(count: int = 5) -> None:
    """Let the loop go round."""
    for _ in range(count):
        await asyncio.sleep(0)


# Together ---------------------------------------------------------------------------------------------------------


async def test_awaits_of_one_turn_leave_in_one_call(db: Database, clean_server: Server) -> None:
    await known(Parcel)
    with count_commands(clean_server) as counted:
        await asyncio.gather(*(Parcel.create(name=f"i{n}", kind="a", price=n) for n in range(50)))
    assert counted.round_trips == 1
    assert await Parcel.query.count() == 51


async def test_a_lone_await_is_one_call(db: Database, clean_server: Server) -> None:
    await known(Parcel)
    with count_commands(clean_server) as counted:
        await Parcel.create(name="one", kind="a", price=1)
    assert counted.round_trips == 1


async def test_what_comes_while_a_call_is_under_way_leaves_together_when_it_is_answered(clean_server: Server) -> None:
    async with proxied(clean_server) as (proxy, _):
        await known(Parcel)
        held = proxy.hold_reply(command="EVALSHA")
        first = asyncio.create_task(Parcel.create(name="first"))
        await held.happened()
        before = proxy.requests["EVALSHA"]
        later = []
        for n in range(20):
            later.append(asyncio.create_task(Parcel.create(name=f"later{n}")))
            await asyncio.sleep(0)
        assert proxy.requests["EVALSHA"] == before
        held.release()
        await asyncio.gather(first, *later)
        assert proxy.requests["EVALSHA"] == before + 1


async def test_the_next_call_leaves_in_the_turn_that_brings_the_reply_to_the_one_before(
    clean_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with proxied(clean_server) as (proxy, db):
        await known(Parcel)
        lane, took = db.session().dispatcher.lanes[0], Wire.data_received
        under_way: list[bool] = []

        def take(wire: Wire, data: bytes) -> None:
            took(wire, data)
            under_way.append(lane.call is not None)

        held = proxy.hold_reply(command="EVALSHA")
        first = asyncio.create_task(Parcel.create(name="first"))
        await held.happened()
        later = asyncio.create_task(Parcel.create(name="later"))
        await turns()
        monkeypatch.setattr(Wire, "data_received", take)
        held.release()
        await asyncio.gather(first, later)
        assert under_way == [True, False]


async def test_operations_of_all_kinds_and_models_share_a_call(db: Database, clean_server: Server) -> None:
    await known(Parcel, Crate)
    await Parcel.create(name="old", count=1)
    old = await Parcel.load(name="old")
    assert old is not None
    with count_commands(clean_server) as counted:
        results = await asyncio.gather(
            Parcel.create(name="new"),
            old.increment("count"),
            Crate.create(name="o"),
            Parcel.load(name="new"),
            Parcel.query.filter(name="old").count(),
            Parcel.exists(name="nobody"),
        )
    assert counted.round_trips == 1
    assert (results[1], results[3], results[4], results[5]) == (2, results[0], 1, False)


async def test_each_failure_belongs_to_its_own_await(db: Database) -> None:
    await known(Sender)
    names = [f"a{n}" for n in range(40)]
    outcomes = await asyncio.gather(
        *(Sender.create(name=name, email="known" if n % 4 == 0 else f"e{n}") for n, name in enumerate(names)),
        return_exceptions=True,
    )
    for n, outcome in enumerate(outcomes):
        assert isinstance(outcome, UniqueViolation) == (n % 4 == 0)
    failures = [outcome for outcome in outcomes if isinstance(outcome, UniqueViolation)]
    assert len({id(failure) for failure in failures}) == 10
    assert await Sender.query.count() == 31


# In order ---------------------------------------------------------------------------------------------------------


async def test_operations_are_executed_in_the_order_in_which_they_were_awaited(db: Database) -> None:
    await known(Parcel)
    item = await Parcel.create(name="i", count=0)
    seen = await asyncio.gather(
        Parcel.load(name="i"),
        item.increment("count", 5),
        Parcel.load(name="i"),
        item.increment("count", 5),
        Parcel.query.filter(name="i").values("count").first(),
        item.delete(),
        Parcel.load(name="i"),
        Parcel.create(name="i", count=100),
        Parcel.load(name="i"),
    )
    assert seen[0] is not None
    assert seen[2] is not None
    assert seen[8] is not None
    assert [seen[0].count, seen[1], seen[2].count, seen[3], seen[4], seen[5], seen[6], seen[8].count] == [
        0,
        5,
        5,
        10,
        {"count": 10},
        True,
        None,
        100,
    ]


class Stage(Model):
    """A model whose saves carry values of every kind: set, dropped, expected, of lists."""

    name: str = KeyField()
    part: str = Field(default="a")
    rank: int = SortedField(default=0, partition_by="part")
    kind: str | None = IndexedField(default="k")
    note: str | None = Field(null=True, default=None)
    log: list[int] = ListField(max_length=5)


async def test_operations_that_differ_in_their_record_alone_keep_their_values_apart(
    db: Database, clean_server: Server
) -> None:
    stages = [Stage(name=f"s{n}", rank=n, note=str(n), log=[n]) for n in range(24)]
    await asyncio.gather(*(stage.save() for stage in stages))
    for n, stage in enumerate(stages):
        stage.rank, stage.log = n + 100 * (n % 5), [n, n]
        if n % 6 < 3:
            stage.kind, stage.note = f"k{n % 4}", None
    async with trace() as t:
        answers: list[Any] = await asyncio.gather(
            *(stage.save() for stage in stages),
            Stage.load(name="s7"),
            *(stage.delete() for stage in stages[20:22]),
            Stage.load(name="s20"),
            Stage.create(name="s20", kind="new"),
        )
    loaded, gone, again = answers[24], answers[27], answers[28]
    assert t.round_trips == 1
    assert (loaded.rank, loaded.log, gone, again.kind) == (207, [7, 7], None, "new")
    left = {f"Stage:{stage.name}": values_of(stage) for stage in (*stages[:20], *stages[22:], again)}
    assert_true(clean_server, [Stage], {Stage: left})


async def test_order_holds_over_many_calls(db: Database) -> None:
    await known(Parcel)
    item = await Parcel.create(name="i")
    async with trace() as t:
        answers = await asyncio.gather(*(item.increment("count") for _ in range(2000)))
    assert answers == list(range(1, 2001))
    assert t.round_trips > 1


async def test_a_big_value_travels_apart_and_holds_up_nobody(clean_server: Server) -> None:
    async with proxied(clean_server) as (proxy, db):
        await known(Parcel, Crate)
        held = proxy.hold_reply(command="EVALSHA")
        big = asyncio.create_task(Crate.create(name="big", text="x" * (BIG + 1)))
        await held.happened()
        await Parcel.create(name="small")
        assert not big.done()
        assert db.stats().connections == 2
        held.release()
        await big


async def test_a_model_with_a_big_value_pending_keeps_its_order(clean_server: Server) -> None:
    async with proxied(clean_server) as (proxy, db):
        await known(Parcel, Crate)
        held = proxy.hold_reply(command="EVALSHA")
        big = asyncio.create_task(Crate.create(name="a", text="x" * (BIG + 1)))
        await held.happened()
        behind = asyncio.create_task(Crate.load(name="a"))
        await Parcel.create(name="small")
        assert not behind.done()
        held.release()
        found = await behind
        assert found is not None
        assert found.text == (await big).text


async def test_a_transaction_waits_for_its_models_on_both_lanes_and_they_for_it(clean_server: Server) -> None:
    async with proxied(clean_server) as (proxy, db):
        await known(Parcel, Crate)
        item, other = await asyncio.gather(Parcel.create(name="i"), Crate.create(name="o", text=""))
        big_held = proxy.hold_reply(command="EVALSHA")
        other.text = "x" * (BIG + 1)
        big = asyncio.create_task(other.save())
        await big_held.happened()
        small_held = proxy.hold_reply(command="EVALSHA")
        small = asyncio.create_task(item.increment("count"))
        await small_held.happened()

        async def both() -> None:
            async with transaction() as tx:
                tx.delete(item)
                tx.delete(other)

        deleting = asyncio.create_task(both())
        await turns(5)
        after = asyncio.gather(Parcel.load(name="i"), Crate.load(name="o"))
        await turns(5)
        small_held.release()
        assert await small == 1
        sent = proxy.requests["EVALSHA"]
        await turns(50)
        assert proxy.requests["EVALSHA"] == sent
        assert not deleting.done()
        big_held.release()
        assert await big
        await deleting
        assert await after == [None, None]
        assert await Crate.load(name="o") is None


# Bounds -----------------------------------------------------------------------------------------------------------


async def test_no_call_carries_more_than_its_cost(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    await known(Parcel)
    async with trace() as t:
        await asyncio.gather(*(Parcel.create(name=f"i{n}", kind="a", price=n) for n in range(1000)))
    sizes = [len(call) for call in t.calls]
    assert sum(sizes) == 1000
    assert max(sizes) <= 300, "a save with two indexes is estimated at about 20 µs or more"
    assert len(sizes) < 40


async def test_no_call_carries_more_than_its_bytes(clean_server: Server) -> None:
    async with proxied(clean_server) as (proxy, _):
        await known(Crate)
        text = "x" * (CALL_BYTES // 4)
        before = proxy.bytes_up
        async with trace() as t:
            await asyncio.gather(*(Crate.create(name=f"o{n}", text=text) for n in range(8)))
        assert proxy.bytes_up - before > 8 * len(text)
        assert all(len(call) <= 4 for call in t.calls)


async def test_a_value_bigger_than_a_call_travels_alone(db: Database) -> None:
    await known(Crate)
    text = "é" * (2 * CALL_BYTES)
    async with trace() as t:
        await asyncio.gather(Crate.create(name="a"), Crate.create(name="big", text=text), Crate.create(name="b"))
    big = await Crate.load(name="big")
    assert big is not None
    assert big.text == text
    assert sorted(len(call) for call in t.calls) in ([1, 1, 1], [1, 2])


async def test_a_wide_read_goes_on_in_more_calls(db: Database) -> None:
    await Parcel.create_many({"name": f"i{n:05}", "kind": f"k{n % 3}", "price": n % 7} for n in range(5000))
    async with trace() as t:
        found = (
            await Parcel.query.filter(kind__in=["k0", "k1", "k2"], price__gte=3)
            .order_by("name")
            .values("name", "price")
        )
    assert [row["name"] for row in found] == [f"i{n:05}" for n in range(5000) if n % 7 >= 3]
    assert t.round_trips > 1
    assert {traced.operation for traced in t.operations} == {"select"}


async def test_others_are_answered_between_the_calls_of_a_wide_read(clean_server: Server) -> None:
    async with proxied(clean_server) as (proxy, _):
        await Parcel.create_many({"name": f"i{n:05}", "price": n} for n in range(6000))
        async with trace() as t:
            wide = asyncio.create_task(Parcel.query.filter(count=0, price__gte=0).count())
            while not t.operations:
                await asyncio.sleep(0)
            await Parcel.exists(name="i00000")
            assert not wide.done()
            assert await wide == 6000


async def test_the_queue_is_bounded_and_callers_wait_for_a_place(clean_server: Server) -> None:
    async with proxied(clean_server) as (proxy, db):
        await known(Parcel)
        dispatcher = db.session().dispatcher
        dispatcher._limit = 100
        held = proxy.hold_reply(command="EVALSHA")
        first = asyncio.create_task(Parcel.create(name="first"))
        await held.happened()
        waiting = [asyncio.create_task(Parcel.create(name=f"w{n}")) for n in range(1000)]
        await turns(30)
        assert len(dispatcher.lanes[0].backlog.tickets) < 500, "one turn may overshoot the limit, no more"
        assert db.stats().queued == 1000
        held.release()
        await asyncio.gather(first, *waiting)
        assert db.stats().queued == 0
    assert clean_server.client.zcard("$Class:Parcel") == 1002


async def test_a_queue_that_stays_full_is_overload(clean_server: Server) -> None:
    async with proxied(clean_server, queue_timeout=0.2) as (proxy, db):
        await known(Parcel)
        db.session().dispatcher._limit = 10
        held = proxy.hold_reply(command="EVALSHA")
        first = asyncio.create_task(Parcel.create(name="first"))
        await held.happened()
        fitting = [asyncio.create_task(Parcel.create(name=f"f{n}")) for n in range(10)]
        await turns()
        too_many = [asyncio.create_task(Parcel.create(name=f"t{n}")) for n in range(20)]
        too_many[0].cancel()
        outcomes = await asyncio.gather(*too_many, return_exceptions=True)
        assert isinstance(outcomes[0], asyncio.CancelledError)
        assert {type(outcome) for outcome in outcomes[1:]} == {Overloaded}
        assert {outcome.model for outcome in outcomes[1:]} == {"Parcel"}
        assert "queue_timeout" in str(outcomes[1].__notes__)
        held.release()
        await asyncio.gather(first, *fitting)
    assert clean_server.client.zcard("$Class:Parcel") == 12


async def test_a_cancelled_waiter_gives_its_place_to_the_next(clean_server: Server) -> None:
    async with proxied(clean_server) as (proxy, db):
        await known(Parcel)
        db.session().dispatcher._limit = 1
        held = proxy.hold_reply(command="EVALSHA")
        first = asyncio.create_task(Parcel.create(name="first"))
        await held.happened()
        waiting = [asyncio.create_task(Parcel.create(name=f"w{n}")) for n in range(50)]
        await turns()
        for one in waiting[:40]:
            one.cancel()
        held.release()
        await asyncio.gather(first, *waiting[40:])
        assert not db.session().dispatcher._waiting
    assert clean_server.client.zcard("$Class:Parcel") == 12


# Reads that are the same --------------------------------------------------------------------------------------------


async def test_identical_reads_are_sent_once_and_each_caller_gets_its_own_object(db: Database) -> None:
    await known(Parcel)
    joined = db.stats().joined
    async with trace() as t:
        first, second, other = await asyncio.gather(
            Parcel.load(name="known"), Parcel.load(name="known"), Parcel.load(name="x")
        )
    assert first == second
    assert first is not second
    assert other is None
    assert db.stats().joined == joined + 1
    assert len(t.operations) == 3, "the trace shows every await"
    assert t.round_trips == 1


async def test_a_read_does_not_join_across_a_write_of_its_model(db: Database) -> None:
    item = await Parcel.create(name="i")
    joined = db.stats().joined
    before, _, after = await asyncio.gather(Parcel.load(name="i"), item.increment("count"), Parcel.load(name="i"))
    assert (before.count, after.count) == (0, 1)
    assert db.stats().joined == joined


async def test_a_read_joins_across_a_write_of_another_model(db: Database) -> None:
    await known(Parcel, Crate)
    joined = db.stats().joined
    await asyncio.gather(Parcel.load(name="known"), Crate.create(name="o"), Parcel.load(name="known"))
    assert db.stats().joined == joined + 1


async def test_a_transaction_counts_as_a_write_of_each_of_its_models(db: Database) -> None:
    await known(Parcel, Crate)
    item, other = await asyncio.gather(Parcel.create(name="i"), Crate.create(name="o"))

    async def both() -> None:
        async with transaction() as tx:
            tx.delete(item)
            tx.delete(other)

    before, _, after = await asyncio.gather(Crate.load(name="o"), both(), Crate.load(name="o"))
    assert before is not None
    assert after is None


async def test_a_cancelled_reader_leaves_the_answer_to_those_who_joined(db: Database) -> None:
    await known(Parcel)
    reads = [asyncio.create_task(Parcel.load(name="known")) for _ in range(3)]
    await asyncio.sleep(0)
    reads[0].cancel()
    outcomes = await asyncio.gather(*reads, return_exceptions=True)
    assert isinstance(outcomes[0], asyncio.CancelledError)
    assert outcomes[1] == outcomes[2]
    assert outcomes[1] is not outcomes[2]


# Counted and shown --------------------------------------------------------------------------------------------------


async def test_operations_leave_no_work_to_the_garbage_collector(db: Database) -> None:
    async def work() -> None:
        await asyncio.gather(*(Crate.create(name=f"c{n}") for n in range(200)))
        await asyncio.gather(*(Crate.load(name=f"c{n}") for n in range(200)))
        await Crate.create_many({"name": f"c{n}"} for n in range(200))

    await work()
    gc.collect()
    gc.disable()
    try:
        await work()
        assert gc.collect() < 200  # a collection that finds thousands holds the loop for tens of milliseconds
    finally:
        gc.enable()


async def test_stats_count_what_was_sent(clean_server: Server) -> None:
    async with connect(clean_server.url) as db:
        assert db.stats().round_trips == 0
        await known(Parcel)
        before, trips = db.stats().operations, db.stats().round_trips
        await asyncio.gather(*(Parcel.create(name=f"i{n}") for n in range(30)))
        stats = db.stats()
        assert (stats.operations - before, stats.round_trips - trips) == (30, 1)
        assert stats.mean_batch == stats.operations / stats.round_trips
        assert (stats.connections, stats.queued, stats.resent, stats.reconnects) == (1, 0, 0, 0)


async def test_a_trace_shows_which_awaits_shared_a_round_trip(db: Database) -> None:
    await known(Parcel, Crate)
    async with trace() as t:
        await asyncio.gather(Parcel.create(name="a"), Crate.create(name="b"), Parcel.load(name="a"))
        await Parcel.load(name="a")
    assert [[(one.model, one.operation) for one in call] for call in t.calls] == [
        [("Parcel", "save"), ("Crate", "save"), ("Parcel", "load")],
        [("Parcel", "load")],
    ]
    assert str(t).startswith("4 operations in 2 round trips")


async def test_a_trace_keeps_so_many_operations_and_counts_the_rest(db: Database) -> None:
    async with trace() as traced:
        traced.limit = 3
        for _ in range(5):
            await Parcel.load(name="x")
    assert (len(traced.operations), traced.dropped) == (3, 2)
    assert str(traced).startswith("5 operations")


async def test_a_trace_sees_the_tasks_of_its_block_and_of_inner_traces_and_no_others(db: Database) -> None:
    await known(Parcel)
    async with trace() as outer:
        async with trace() as inner:
            await asyncio.create_task(_load("known"))
        await Parcel.load(name="known")
    await Parcel.load(name="known")
    assert (len(inner.operations), len(outer.operations)) == (1, 2)


async def _load(name: str) -> Parcel | None:
    return await Parcel.load(name=name)


async def test_unbatched_sends_each_await_alone(db: Database) -> None:
    await known(Parcel)
    async with trace() as t, unbatched():
        await asyncio.gather(*(Parcel.load(name="known") for _ in range(10)))
    assert t.round_trips == 10


async def test_batching_can_be_switched_off_for_a_database(clean_server: Server) -> None:
    async with connect(clean_server.url, batching=False) as db:
        await known(Parcel)
        async with trace() as t:
            await asyncio.gather(*(Parcel.create(name=f"i{n}") for n in range(10)))
        assert t.round_trips == 10
        assert db.stats().mean_batch == 1


# Time -------------------------------------------------------------------------------------------------------------


async def test_a_call_that_left_and_is_not_answered_in_time_has_an_unknown_outcome(clean_server: Server) -> None:
    async with proxied(clean_server) as (proxy, _):
        await known(Parcel)
        held = proxy.hold_reply(command="EVALSHA")
        with pytest.raises(OutcomeUnknown, match=r"Parcel.*0\.2 s"):
            await Parcel.create(name="slow", timeout=0.2)
        held.release()
        assert await Parcel.load(name="slow") is not None, "it completed all the same"


async def test_a_call_that_has_not_left_in_time_is_never_sent(clean_server: Server) -> None:
    async with proxied(clean_server) as (proxy, _):
        await known(Parcel)
        held = proxy.hold_reply(command="EVALSHA")
        first = asyncio.create_task(Parcel.create(name="first"))
        await held.happened()
        item = Parcel(name="late")
        with pytest.raises(TimedOut) as caught:
            await item.save(timeout=0.05)
        assert isinstance(caught.value, TimeoutError)
        assert not item.is_saved
        held.release()
        await first
        assert await Parcel.load(name="late") is None


async def test_a_read_that_is_not_answered_in_time_has_timed_out(clean_server: Server) -> None:
    async with proxied(clean_server, timeout=0.1) as (proxy, _):
        await known(Parcel)
        for read in (
            lambda: Parcel.load(name="known"),
            lambda: Parcel.query.count(),
            lambda: Parcel.query.filter(kind="a"),
        ):
            held = proxy.hold_reply()
            with pytest.raises(TimedOut):
                await read()
            held.release()
        assert await Parcel.load(name="known") is not None


async def test_the_default_time_limit_covers_the_wait_for_a_place(clean_server: Server) -> None:
    async with proxied(clean_server, timeout=0.1) as (proxy, db):
        await known(Parcel)
        db.session().dispatcher._limit = 1
        held = proxy.hold_reply(command="EVALSHA")
        outcomes = await asyncio.gather(*(Parcel.create(name=f"i{n}") for n in range(300)), return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} <= {TimedOut, OutcomeUnknown}
        held.release()
    assert clean_server.client.zcard("$Class:Parcel") == 1 + sum(type(one) is OutcomeUnknown for one in outcomes)


async def test_the_time_limit_of_a_call_comes_before_the_default(clean_server: Server) -> None:
    async with proxied(clean_server, timeout=60) as (proxy, _):
        await known(Parcel)
        item = await Parcel.create(name="i")
        for call in (
            lambda: item.save(timeout=0.05),
            lambda: item.increment("count", timeout=0.05),
            lambda: item.expire_in(100, timeout=0.05),
            lambda: item.refresh(timeout=0.05),
            lambda: item.delete(timeout=0.05),
            lambda: Parcel.load(name="i", timeout=0.05),
            lambda: Parcel.query.timeout(0.05).get(name="i"),
            lambda: Parcel.query.filter(kind="a").timeout(0.05).all(),
            lambda: Parcel.query.timeout(0.05).count(),
        ):
            held = proxy.hold_reply()
            with pytest.raises((OutcomeUnknown, TimedOut)):
                await call()
            held.release()
            await Parcel.query.count()


async def test_a_field_named_timeout_keeps_its_name(db: Database) -> None:
    class Job(Model):
        name = KeyField()
        timeout = Field(type=float, null=True)

    job = await Job.create(name="j", timeout=0.000001)
    assert job.timeout == 0.000001


@pytest.mark.parametrize("wrong", ["1", -1, True, float("nan"), [1]])
async def test_a_time_limit_is_a_number_of_seconds(db: Database, wrong: Any) -> None:
    with pytest.raises(ValidationError, match="timeout is a number of seconds"):
        await Parcel.create(name="i", timeout=wrong)
    with pytest.raises(ValidationError, match="timeout is a number of seconds"):
        connect_options: dict[str, Any] = {"timeout": wrong}
        async with connect("redis://127.0.0.1:1", **connect_options):
            pass


# Nothing is left ----------------------------------------------------------------------------------------------------


async def test_no_count_of_what_is_pending_is_left_behind(clean_server: Server) -> None:
    async with proxied(clean_server) as (proxy, db):
        await known(Parcel, Crate, Sender)
        lanes = db.session().dispatcher.lanes
        await asyncio.gather(
            *(Parcel.create(name=f"i{n}") for n in range(300)),
            *(Crate.create(name=f"o{n}", text="x" * (BIG + n)) for n in range(20)),
            *(Sender.create(name=f"a{n}", email="same") for n in range(20)),
            return_exceptions=True,
        )
        proxy.drop_all()
        cancelled = [asyncio.create_task(Parcel.load(name=f"i{n}")) for n in range(100)]
        await asyncio.sleep(0)
        for one in cancelled[::2]:
            one.cancel()
        await asyncio.gather(*cancelled, return_exceptions=True)
        await Parcel.query.count()
        assert [lane.backlog.pending for lane in lanes] == [{}, {}]
        assert [len(lane.backlog.tickets) for lane in lanes] == [0, 0]


async def test_the_task_of_a_lane_refers_to_no_callers_context(db: Database) -> None:
    async with trace() as t:
        await Parcel.create(name="i")
    await Parcel.create(name="j")
    assert [one.operation for one in t.operations].count("save") <= 2, "the second create belongs to no trace"


# The lane's own task --------------------------------------------------------------------------------------------------


async def test_a_lane_has_a_task_only_for_what_it_has_to_wait_for(clean_server: Server) -> None:
    async with proxied(clean_server) as (proxy, db):
        lane = db.session().dispatcher.lanes[0]
        await known(Parcel)
        held = proxy.hold_reply(command="EVALSHA")
        first = asyncio.create_task(Parcel.create(name="first"))
        await held.happened()
        assert (lane.call is not None, lane._task) == (True, None)
        held.release()
        await first
        assert (lane.call, lane._task) == (None, None)


async def test_a_lane_whose_task_is_cancelled_goes_on_while_somebody_waits(clean_server: Server) -> None:
    async with proxied(clean_server) as (proxy, db):
        await known(Parcel)
        item = await Parcel.create(name="i")
        held = proxy.hold_reply(command="INFO")
        proxy.drop_all()
        first = asyncio.create_task(item.increment("count"))
        await held.happened()
        second = asyncio.create_task(item.increment("count"))
        await turns()
        lane = db.session().dispatcher.lanes[0]
        assert lane._task is not None
        lane._task.cancel()
        await turns()
        held.release()
        assert await asyncio.gather(first, second) == [1, 2]
        assert (await item.refresh()).count == 2
        assert db.stats().reconnects == 1


async def test_a_lane_cancelled_between_a_command_of_its_own_and_the_reply_crosses_no_replies(
    clean_server: Server,
) -> None:
    async with proxied(clean_server) as (proxy, db):
        await known(Parcel)
        parcel = await Parcel.create(name="p")
        clean_server.client.script_flush()
        held = proxy.hold_reply(command="SCRIPT")
        first = [asyncio.create_task(parcel.increment("count")) for _ in range(20)]
        await held.happened()
        second = [asyncio.create_task(parcel.increment("count")) for _ in range(20)]
        await turns()
        lane = db.session().dispatcher.lanes[0]
        assert lane._task is not None
        lane._task.cancel()
        await turns()
        held.release()
        assert await asyncio.gather(*first, *second) == list(range(1, 41))
        assert await parcel.increment("count", 10) == 50
        assert await Parcel.query.count() == 2
        assert (db.stats().reconnects, db.stats().resent) == (1, 0)


@asynccontextmanager
async def two_calls(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Database, Parcel, list[asyncio.Task[int]]]]:
    """400 increments; the reply to the first 200 comes now, and each of these is told in a turn of its own."""
    monkeypatch.setattr(lane_module, "SLICE", 0)
    async with proxied(server) as (proxy, db):
        await known(Parcel)
        parcel = await Parcel.create(name="p")
        held = proxy.hold_reply(command="EVALSHA")
        tasks = [asyncio.create_task(parcel.increment("count")) for _ in range(200)]
        await held.happened()
        tasks += [asyncio.create_task(parcel.increment("count")) for _ in range(200)]
        await turns()
        held.release()
        yield db, parcel, tasks


async def test_a_reply_waits_until_what_the_one_before_brought_is_handed_out(
    clean_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two_calls(clean_server, monkeypatch) as (db, _, tasks):
        lane, most = db.session().dispatcher.lanes[0], 0
        while not tasks[-1].done():
            await asyncio.sleep(0)
            most = max(most, len(lane._answered))
        assert await asyncio.gather(*tasks) == list(range(1, 401))
        assert 0 < most <= 200


async def test_a_lane_that_breaks_while_outcomes_are_handed_out_sends_the_next_call_again(
    clean_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two_calls(clean_server, monkeypatch) as (db, parcel, tasks):
        lane = db.session().dispatcher.lanes[0]
        while not (lane._answered and lane.call is not None):
            await asyncio.sleep(0)
        assert lane.wire is not None
        lane.wire._break_off("cut here")
        assert await asyncio.gather(*tasks) == list(range(1, 401))
        assert await parcel.increment("count", 10) == 410
        assert (db.stats().reconnects, db.stats().resent) == (1, 1)
