"""Program order: what is asked first is done first, also where an operation has to be planned again."""

from __future__ import annotations

import asyncio
import copy
import pickle
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from popoto_async import (
    Database,
    DatetimeField,
    Field,
    IndexedField,
    KeyField,
    Model,
    NotLoaded,
    SortedField,
    StaleRecord,
    UniqueField,
    UniqueViolation,
    connect,
    maintenance,
    transaction,
)
from popoto_async.changes import MOST_ATTEMPTS, Update
from popoto_async.dispatcher import BIG
from tests.model_of_store import assert_true
from tests.proxy import FaultProxy
from tests.servers import Server, count_commands

pytestmark = pytest.mark.anyio


class Member(Model):
    name = KeyField()
    team = Field(type=str, default="red")
    points = SortedField(type=int, default=0, partition_by="team")
    kind = IndexedField(type=str, null=True)
    text = Field(type=str, null=True, max_length=None)


class Badge(Model):
    name = KeyField()


async def overtaken() -> Member:
    """A member as it was loaded before somebody else moved it to another team: its next save is planned again."""
    await Member.create(name="m", points=1)
    mine, theirs = [await Member.load(name="m") for _ in range(2)]
    assert mine is not None
    assert theirs is not None
    theirs.team = "blue"
    await theirs.save()
    return mine


async def elsewhere(server: Server) -> None:
    """Another process's class of this name gives the indexes other slots than this one's would."""

    class Member(Model):
        kind = IndexedField(type=str, null=True)
        name = KeyField()
        team = Field(type=str, default="red")
        points = SortedField(type=int, default=0, partition_by="team")

    async with connect(server.url):
        await Member.create(name="other", kind="k")


async def test_reads_see_the_save_before_them_though_it_is_planned_again(db: Database, clean_server: Server) -> None:
    mine = await overtaken()
    mine.points = 5
    _, loaded, count, exists = await asyncio.gather(
        mine.save(),
        Member.load(name="m"),
        Member.query.filter(team="blue", points=5).count(),
        Member.exists(team="blue", points=5),
    )
    assert (loaded.points, loaded.team, count, exists) == (5, "blue", 1, True)
    assert_true(clean_server, [Member])


async def test_writes_keep_their_order_though_one_is_planned_again(db: Database, clean_server: Server) -> None:
    mine = await overtaken()
    latest = await Member.load(name="m")
    mine.points, latest.points = 7, 9
    await asyncio.gather(mine.save(), latest.save())
    again = await Member.load(name="m")
    assert again.points == 9
    assert_true(clean_server, [Member])


async def test_a_delete_comes_after_the_save_before_it_though_that_is_planned_again(
    db: Database, clean_server: Server
) -> None:
    mine = await overtaken()
    mine.points = 7
    assert await asyncio.gather(mine.save(), mine.delete(), Member.load(name="m")) == [True, True, None]
    assert_true(clean_server, [Member])


async def test_order_holds_over_calls_and_lanes_while_things_are_planned_again(clean_server: Server) -> None:
    """Each load sees the create before it, at any distance; both go through calls that a strange slot table returns."""
    await elsewhere(clean_server)
    for gap in (0, 20, 100, 150):
        async with connect(clean_server.url):  # which knows no slot table
            asked: list[Any] = []
            for number in range(700):
                text = "x" * (BIG + 1) if number % 100 == 99 else None
                asked.append(Member.create(name=f"{gap}/{number}", points=number, text=text))
                if number >= gap:
                    asked.append(Member.load(name=f"{gap}/{number - gap}"))
            found = await asyncio.gather(*asked)
            assert None not in found
            assert (await maintenance.check(Member)).clean


async def test_what_waits_behind_is_held_and_sent_once_more(db: Database, clean_server: Server) -> None:
    mine = await overtaken()
    mine.points = 5
    with count_commands(clean_server) as counted:
        await asyncio.gather(mine.save(), *(Member.load(name=f"n{n}") for n in range(20)))
    assert counted.round_trips == 2


async def test_a_read_that_has_to_sweep_keeps_its_place(db: Database, clean_server: Server) -> None:
    """More records have expired than one call sweeps, so the read before the delete is planned again."""
    keep = await Member.create(name="keep")
    for _ in range(2):
        due = [Member(name=f"due{n}") for n in range(1000)]
        await asyncio.gather(*(member.save(expire_in=0.5) for member in due))
        await asyncio.sleep(0.7)
        before, gone, after = await asyncio.gather(Member.load(name="keep"), keep.delete(), Member.load(name="keep"))
        assert (before is not None, gone, after) == (True, True, None)
        keep = await Member.create(name="keep")
    assert await Member.query.count() == 1
    assert_true(clean_server, [Member])


async def test_what_is_cancelled_while_it_is_planned_again_is_not_done_and_holds_up_nobody(
    clean_server: Server,
) -> None:
    async with FaultProxy(clean_server) as proxy, connect(proxy.url):
        mine = await overtaken()
        mine.points = 7
        held = proxy.hold_reply(command="EVALSHA")
        save = asyncio.create_task(mine.save())
        load = asyncio.create_task(Member.load(name="m"))
        await held.happened()
        save.cancel()
        held.release()
        loaded = await load
        assert (loaded.points, loaded.team) == (1, "blue")
    assert_true(clean_server, [Member])


async def test_a_transaction_keeps_its_place_though_it_is_planned_again(db: Database, clean_server: Server) -> None:
    async def together(member: Member) -> None:
        async with transaction() as tx:
            tx.save(Member(name="first"))
            tx.save(member)

    mine = await overtaken()
    mine.points = 5
    done, loaded, first = await asyncio.gather(
        together(mine), Member.load(name="m"), Member.load(name="first"), return_exceptions=True
    )
    assert done is None
    assert (loaded.points, loaded.team) == (5, "blue")
    assert first is not None
    assert_true(clean_server, [Member])


async def test_a_transaction_under_a_strange_slot_table_keeps_its_place(clean_server: Server) -> None:
    await elsewhere(clean_server)

    async def together() -> None:
        async with transaction() as tx:
            tx.save(Badge(name="b"))
            tx.save(Member(name="m", kind="k"))

    async with connect(clean_server.url):
        await Badge.create(name="known")
        _, found = await asyncio.gather(together(), Member.query.filter(kind="k").keys())
        assert sorted(found) == ["Member:m", "Member:other"]
        assert (await maintenance.check(Member, Badge)).clean


# What is under way stays as it was asked for --------------------------------------------------------------------------


async def test_what_is_assigned_to_a_new_instance_under_way_is_not_half_stored(clean_server: Server) -> None:
    await elsewhere(clean_server)
    async with connect(clean_server.url):  # so that the save is planned twice
        member = Member(name="m", team="red", points=3, kind="early")

        async def assign() -> None:
            member.name, member.team, member.points, member.kind = "n", "blue", 4, "late"

        await asyncio.gather(member.save(), assign())
        assert await Member.query.filter(team="red", points=3, kind="early").keys() == ["Member:m"]
        assert await Member.query.filter(kind="late").count() == 0
        assert member.db_key.redis_key == "Member:m"
        assert (await maintenance.check(Member)).clean
        assert await member.save()
        assert await Member.query.filter(team="blue", points=4, kind="late").keys() == ["Member:n"]


async def test_what_is_assigned_to_a_stored_instance_under_way_is_not_half_stored(
    db: Database, clean_server: Server
) -> None:
    mine = await overtaken()
    mine.points, mine.kind = 5, "early"

    async def assign() -> None:
        mine.points, mine.kind, mine.name = 99, "late", "n"

    await asyncio.gather(mine.save(), assign())
    assert_true(clean_server, [Member])
    assert await Member.query.filter(team="blue", points=5, kind="early").keys() == ["Member:m"]


async def test_what_is_assigned_during_a_transaction_is_not_half_stored(clean_server: Server) -> None:
    await elsewhere(clean_server)
    async with connect(clean_server.url):
        member = Member(name="m", points=3, kind="early")

        async def together() -> None:
            async with transaction() as tx:
                tx.save(member)

        async def assign() -> None:
            await asyncio.sleep(0)
            member.points, member.kind = 4, "late"

        await asyncio.gather(together(), assign())
        assert await Member.query.filter(team="red", points=3, kind="early").keys() == ["Member:m"]
        assert (await maintenance.check(Member)).clean


async def test_two_verbs_on_an_instance_that_the_first_makes_new(db: Database, clean_server: Server) -> None:
    mine = await Member.create(name="m")
    _, _, points = await asyncio.gather(mine.delete(), Member.create(name="m", points=10), mine.increment("points", 2))
    assert points == mine.points == 12
    assert mine.is_saved
    mine.kind = "k"
    await mine.save()
    _, _, again = await asyncio.gather(mine.delete(), Member.create(name="m", points=20), mine.refresh())
    assert again.points == 20
    assert again.is_saved
    assert_true(clean_server, [Member])


async def test_two_saves_at_once_that_may_create_anew(db: Database, clean_server: Server) -> None:
    mine = await Member.create(name="m")
    await Member.ref(name="m").delete()
    mine.points = 5
    assert await asyncio.gather(mine.save(if_gone="create"), mine.save(if_gone="create")) == [True, True]
    assert await asyncio.gather(mine.delete(), mine.save(if_gone="create")) == [True, True]
    assert [member.points for member in await Member.query.all()] == [5]
    assert_true(clean_server, [Member])


class Diary(Model):
    name = KeyField()
    code = UniqueField(type=int)
    count = Field(type=int, default=0)
    created = DatetimeField(auto_now_add=True)
    changed = DatetimeField(auto_now=True)


async def test_a_save_that_fails_takes_no_time_from_one_that_does_not(db: Database, clean_server: Server) -> None:
    await Diary.create(name="other", code=1)
    for diary in (Diary(name="new", code=1), await Diary.create(name="old", code=2)):
        diary.code = 1
        failing = asyncio.create_task(diary.save())
        await asyncio.sleep(0)
        diary.code = 3 if diary.name == "new" else 4
        done = asyncio.create_task(diary.save())
        outcomes = await asyncio.gather(failing, done, return_exceptions=True)
        assert isinstance(outcomes[0], UniqueViolation)
        assert "value 1 " in str(outcomes[0]), "what was to be stored, not what was assigned since"
        stored = await Diary.load(name=diary.name)
        assert stored is not None
        assert (stored.created, stored.changed, stored.code) == (diary.created, diary.changed, diary.code)
        diary.count += 1
        await diary.save()
        stored = await Diary.load(name=diary.name)
        assert stored is not None
        assert (stored.created, stored.changed) == (diary.created, diary.changed)
        assert stored.created is not None
    assert_true(clean_server, [Diary])


async def test_a_time_that_is_assigned_while_a_save_is_under_way_is_the_next_saves(db: Database) -> None:
    diary = Diary(name="d", code=1)
    saving = asyncio.create_task(diary.save())
    await asyncio.sleep(0)
    long_ago = datetime(2000, 1, 1, tzinfo=UTC)
    diary.created = long_ago
    assert await saving
    assert diary.created == long_ago
    await diary.save()
    stored = await Diary.load(name="d")
    assert stored is not None
    assert stored.created == long_ago


@pytest.mark.parametrize("names", [None, ["points"]])
async def test_the_value_of_the_last_save_stands(db: Database, clean_server: Server, names: list[str] | None) -> None:
    """Also where it is the one that the instance last knew to be stored, while another one is on its way."""
    member = await Member.create(name="m", points=1)
    saves = []
    for points in (2, 1, 3, 1):
        member.points = points
        saves.append(asyncio.create_task(member.save(names)))
        await asyncio.sleep(0)
    assert await asyncio.gather(*saves) == [True] * 4
    assert await Member.query.filter(team="red", points=1).count() == 1
    assert "_under_way" not in member.__dict__
    assert_true(clean_server, [Member])


async def test_a_stub_whose_record_could_not_be_created_is_a_stub_again(db: Database, clean_server: Server) -> None:
    await Diary.create(name="other", code=1)
    stub = Diary.ref(name="d")
    stub.code = 1
    with pytest.raises(UniqueViolation):
        await stub.save(if_gone="create")
    with pytest.raises(NotLoaded):
        _ = stub.count
    await Diary.create(name="d", code=2, count=7)
    stub.code = 3
    await stub.save()
    stored = await Diary.load(name="d")
    assert stored is not None
    assert (stored.code, stored.count) == (3, 7)


async def test_a_renamed_stub_that_is_saved_twice_keeps_what_it_never_loaded(
    db: Database, clean_server: Server
) -> None:
    await Member.create(name="m", points=5, kind="k")
    stub = Member.ref(name="m")
    stub.name = "n"
    assert await asyncio.gather(stub.save(), stub.save(if_gone="create")) == [True, True]
    stored = await Member.load(name="n")
    assert stored is not None
    assert (stored.points, stored.kind) == (5, "k")
    assert_true(clean_server, [Member])


async def test_what_is_assigned_while_a_number_is_added_or_read_again_is_the_next_saves(db: Database) -> None:
    mine = await Member.create(name="m", points=5)

    async def assign(points: int) -> None:
        mine.points = points
        await mine.save()

    added, _ = await asyncio.gather(mine.increment("points", 2), assign(100))
    assert (added, mine.points) == (7, 100)
    await asyncio.gather(mine.refresh(), assign(50))
    assert mine.points == 50
    mine.kind = "k"
    await mine.save()
    stored = await Member.load(name="m")
    assert stored is not None
    assert (stored.points, stored.kind) == (50, "k")
    mine.points = 60  # before, not while
    assert await mine.increment("points") == mine.points == 51


async def test_times_of_a_record_that_is_saved_deleted_and_saved_at_once(db: Database) -> None:
    diary = Diary(name="d", code=1)
    tasks = []
    for verb in (diary.save, diary.delete, diary.save):
        tasks.append(asyncio.create_task(verb()))
        await asyncio.sleep(0)
    assert await asyncio.gather(*tasks) == [True] * 3
    stored = await Diary.load(name="d")
    assert stored is not None
    assert (stored.created, stored.changed) == (diary.created, diary.changed)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it)), copy.copy])
async def test_a_copy_has_nothing_under_way(db: Database, copied: Callable[[Member], Member]) -> None:
    mine = await Member.create(name="m")
    mine.points = 2
    save = asyncio.create_task(mine.save())
    await asyncio.sleep(0)
    own = copied(mine)
    assert await save
    await own.refresh()
    await Member.ref(name="m").increment("points", 75)
    own.kind = "k"
    await own.save()
    stored = await Member.load(name="m")
    assert stored is not None
    assert (stored.points, stored.kind) == (77, "k")


async def test_a_save_that_is_overtaken_every_time_gives_up_and_holds_up_nobody_for_ever(
    db: Database, clean_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = await overtaken()
    mine.points = 5
    plan, times = Update.plan, 0

    def plan_on_what_is_stored_no_more(change: Update, binding: Any) -> Any:
        nonlocal times
        times += 1
        change.base = {**change.base, "team": b"no such team"}
        return plan(change, binding)

    monkeypatch.setattr(Update, "plan", plan_on_what_is_stored_no_more)
    saved, other = await asyncio.gather(mine.save(), Badge.load(name="b"), return_exceptions=True)
    monkeypatch.undo()
    assert isinstance(saved, StaleRecord)
    assert (saved.key, times, other) == ("Member:m", MOST_ATTEMPTS, None)
    assert "_under_way" not in mine.__dict__
    assert await mine.save()
    assert_true(clean_server, [Member])


# The same while connections break ---------------------------------------------------------------------------------


@pytest.mark.parametrize("nth", [1, 2, 3])
@pytest.mark.parametrize("lost", ["request", "reply"])
async def test_order_holds_where_a_call_that_returns_operations_is_sent_again(
    clean_server: Server, lost: str, nth: int
) -> None:
    async with FaultProxy(clean_server) as proxy, connect(proxy.url) as db:
        mine = await overtaken()
        count = await Member.create(name="count")
        mine.points = 5
        fault = (proxy.cut_request if lost == "request" else proxy.cut_reply)(1, nth=nth, command="EVALSHA")
        answers = await asyncio.gather(
            count.increment("points"),
            mine.save(),
            count.increment("points"),
            Member.load(name="m"),
            mine.delete(),
            Member.create(name="m", points=6, if_exists="error"),
            Member.load(name="m"),
        )
        assert answers[:3] == [1, True, 2]
        read_again = (lost, nth) == ("reply", 2)  # of a call whose writes were done: reads see what these left
        assert [member.points for member in (answers[3], answers[5], answers[6])] == [6 if read_again else 5, 6, 6]
        assert answers[4] is True
        if nth < 3:
            await fault.happened()
            assert db.stats().resent == 1
    assert_true(clean_server, [Member])


async def due(count: int, seconds: float = 0.3) -> None:
    """So many records whose time is over, and that no call has swept yet."""
    members = [Member(name=f"due{number}") for number in range(count)]
    await asyncio.gather(*(member.save(expire_in=seconds) for member in members))
    await asyncio.sleep(seconds + 0.2)


async def test_a_read_that_has_to_sweep_keeps_its_place_before_what_is_asked_meanwhile(clean_server: Server) -> None:
    """In a call of reads, one of which another script has to answer, and a delete that waits for that call."""
    async with FaultProxy(clean_server) as proxy, connect(proxy.url):
        keep = await Member.create(name="keep")
        badge = await Badge.create(name="b")
        await due(1)
        held = proxy.hold_reply()
        reads = asyncio.gather(Member.load(name="keep"), Badge.load(name="b"))
        await held.happened()
        deleted = asyncio.create_task(keep.delete())
        await asyncio.sleep(0.05)
        held.release()
        found = await reads
        assert found[0] is not None
        assert found[0].name == "keep"
        assert found[1] == badge
        assert await deleted


async def test_what_was_held_is_held_again_when_its_call_is_sent_again(clean_server: Server) -> None:
    """At the second time nothing has to be swept any more, so that the first read could be done."""
    async with FaultProxy(clean_server) as proxy, connect(proxy.url):
        keep = await Member.create(name="keep")
        await due(200)
        lost = proxy.swallow_reply(command="EVALSHA")
        keep.points = 5
        before, saved, *after = await asyncio.gather(
            Member.load(name="keep"), keep.save(), Member.load(name="keep"), Member.load(name="keep")
        )
        await lost.happened()
        assert before is not None
        assert saved
        assert [member.points for member in after] == [5, 5]
