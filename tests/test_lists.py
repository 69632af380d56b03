"""Capped lists: Redis lists beside their records, which nothing loses, outlives or leaves behind."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from popoto_async import (
    CASCADE,
    PROTECT,
    SET_NULL,
    CappedList,
    CorruptIndex,
    CorruptRecord,
    Database,
    DatabaseError,
    DefinitionError,
    Field,
    IndexedField,
    InvalidLookup,
    KeyField,
    ListField,
    Model,
    ModelException,
    ProtectedRecord,
    RecordGone,
    Relationship,
    SortedField,
    UniqueField,
    UniqueViolation,
    ValidationError,
    connect,
    trace,
    transaction,
    using,
)
from tests import servers
from tests.model_of_store import assert_true, snapshot
from tests.proxy import FaultProxy
from tests.servers import Server

pytestmark = pytest.mark.anyio

PAST = datetime(2001, 1, 1, tzinfo=UTC)


class Log(Model):
    name: str = KeyField()
    day: str = KeyField(default="mon")
    events = ListField(max_length=5)
    tail = ListField(max_length=2)
    size: int = Field(default=0)


class Agent(Model):
    name: str = KeyField()
    email: str = UniqueField()
    team: str = IndexedField(default="a")
    rank: int = SortedField(default=1, partition_by="team")
    memory = ListField(max_length=3)


class Race(Model):
    name: str = KeyField()
    everything = ListField(max_length=100_000)
    newest = ListField(max_length=10)
    note: str = Field(default="")


MODELS = [Log, Agent, Race]
KEY = "Log:a:mon"


def items(server: Server, key: str) -> list[bytes]:
    found: list[bytes] = server.client.lrange(key, 0, -1)
    return found


# The value -----------------------------------------------------------------------------------------------------------


async def test_it_is_a_list_that_is_empty_when_unset(db: Database, clean_server: Server) -> None:
    fresh = Log(name="a")
    assert (fresh.events, fresh.is_valid(), bool(fresh.events), len(fresh.tail)) == ([], True, False, 0)
    await fresh.save()
    assert not [key for key in snapshot(clean_server) if key.startswith(b"$List")]
    loaded = await Log.load(name="a", day="mon")
    assert loaded is not None
    assert loaded.events == []
    loaded.events = [1, "two", None]
    assert isinstance(loaded.events, list)
    assert isinstance(loaded.events, CappedList)
    assert repr(loaded.events) == "[1, 'two', None]"
    assert json.dumps(loaded.events) == '[1, "two", null]'
    assert loaded.events == [1, "two", None] != loaded.tail
    assert type(loaded.to_dict()["events"]) is list
    loaded.events = None
    assert loaded.events == []
    assert_true(clean_server, MODELS)


async def test_push_puts_it_first_here_and_there(db: Database, clean_server: Server) -> None:
    log = await Log.create(name="a")
    for number in range(8):
        async with trace() as traced:
            assert await log.events.push(number) == min(number + 1, 5)
        assert traced.round_trips == 1
        stored = await Log.load(name="a", day="mon")
        assert stored is not None
        assert stored.events == log.events == list(range(number, -1, -1))[:5]
        assert_true(clean_server, MODELS)
    assert log.tail == []


async def test_what_is_pushed_is_a_value_of_its_own(db: Database) -> None:
    log, item = await Log.create(name="a"), {"seen": [1]}
    await log.events.push(item)
    item["seen"].append(2)
    assert log.events == [{"seen": [1]}]
    other = await Log.create(name="b", events=log.events)
    other.events.append("other's")
    assert log.events == [{"seen": [1]}]


async def test_many_pushes_share_a_trip_and_keep_their_order(db: Database) -> None:
    log = await Log.create(name="a")
    async with trace() as traced:
        lengths = await asyncio.gather(*(log.events.push(number) for number in range(20)))
    assert traced.round_trips == 1
    assert lengths == [min(number, 5) for number in range(1, 21)]
    assert log.events == [19, 18, 17, 16, 15]
    await log.refresh()
    assert log.events == [19, 18, 17, 16, 15]


async def test_a_list_without_a_record_cannot_be_pushed_to(db: Database, clean_server: Server) -> None:
    fresh = Log(name="a", events=[1])
    with pytest.raises(ModelException):
        await fresh.events.push(2)
    assert fresh.events == [1]
    await fresh.save()
    for strange in (copy.copy(fresh.events), copy.deepcopy(fresh.events), pickle.loads(pickle.dumps(fresh.events))):
        assert type(strange) is CappedList
        assert strange == [1]
        with pytest.raises(ModelException, match="belongs to no record"):
            await strange.push(2)
    assert await (await Log.query.get_or_raise(name="a")).events.push(2) == 2, "though nothing else refers to it"
    await fresh.delete()
    with pytest.raises(ModelException):
        await fresh.events.push(3)
    assert_true(clean_server, MODELS)


@pytest.mark.parametrize("how", ["deleted", "expired", "renamed", "never there"])
async def test_a_push_onto_a_record_that_is_gone(db: Database, clean_server: Server, how: str) -> None:
    log = await Log.create(name="a", events=[1])
    other = await Log.query.get_or_raise(name="a")
    if how == "deleted":
        await other.delete()
    elif how == "expired":
        await other.expire_at(PAST)
    elif how == "renamed":
        other.name = "b"
        await other.save()
    else:
        clean_server.client.flushall()
    before = snapshot(clean_server)
    with pytest.raises(RecordGone):
        await log.events.push(2)
    assert log.events == [1]
    if how != "never there":
        assert_true(clean_server, MODELS)
    if how != "expired":
        before.pop(b"$Slots:Log", None)
        after = snapshot(clean_server)
        after.pop(b"$Slots:Log", None)
        assert after == before


async def test_what_cannot_be_pushed(db: Database, clean_server: Server) -> None:
    class Strict(Model):
        name: str = KeyField()
        numbers = ListField(max_length=3, validators=[lambda found: "too many ones" if found.count(1) > 1 else None])

    log, strict = await Log.create(name="a"), await Strict.create(name="s", numbers=[1])
    before = snapshot(clean_server)
    with servers.count_commands(clean_server) as counted:
        for wrong in (object(), {"deep": {1: lambda: 0}}, "\ud800"):
            with pytest.raises(ValidationError) as caught:
                await log.events.push(wrong)
            assert caught.value.field == "events"
        with pytest.raises(ValidationError, match="too many ones"):
            await strict.numbers.push(1)
    assert counted.round_trips == 0
    assert snapshot(clean_server) == before
    assert (log.events, strict.numbers) == ([], [1])
    assert await strict.numbers.push(2) == 2


def test_assigned_values_are_checked() -> None:
    for wrong in ("abc", (1, 2), {1}, 5):
        log = Log(name="a", events=wrong)
        assert list(log.errors()) == ["events"]
    assert list(Log(name="a", events=[object()]).errors()) == ["events"]
    assert Log(name="a", events=list(range(9))).events == [0, 1, 2, 3, 4], "what a save would store"


# Declaring -----------------------------------------------------------------------------------------------------------


def test_all_ways_to_declare_one() -> None:
    class Many(Model):
        name: str = KeyField()
        a = ListField(max_length=1)
        b = Field(type=list, max_length=1)
        c: list[str] = Field(max_length=1)
        d: CappedList[str] = ListField(max_length=1)
        e: list[int] | None = ListField(max_length=1)
        f = ListField()
        g = Field(type=list)
        h = ListField(max_length=None)
        i: CappedList[str] = Field(max_length=1)

    class Sub(Many):
        j = ListField(max_length=1, default=lambda: [7])

    made = Sub(name="x")
    assert {name for name in "abcdefghij" if isinstance(getattr(made, name), CappedList)} == set("abcdeij")
    assert (made.j, made.f) == ([7], None)


def test_what_it_cannot_be() -> None:
    for wrong in (0, -1, True, "5", 1.5):
        with pytest.raises(DefinitionError, match="max_length"):
            type("Wrong", (Model,), {"name": KeyField(), "items": ListField(max_length=wrong)})
    for options in ({"indexed": True}, {"unique": True}, {"default": [1]}):
        with pytest.raises(DefinitionError):
            type("Wrong", (Model,), {"name": KeyField(), "items": ListField(max_length=3, **options)})
    with pytest.raises(DefinitionError):
        type("Wrong", (Model,), {"items": KeyField(type=list, max_length=3)})
    with pytest.raises(DefinitionError):
        type("Wrong", (Model,), {
            "name": KeyField(), "items": ListField(max_length=3), "n": SortedField(type=int, partition_by="items"),
        })  # fmt: skip


@pytest.mark.parametrize("lookup", ["events", "events__in", "events__isnull"])
def test_it_answers_no_filter(lookup: str) -> None:
    with pytest.raises(InvalidLookup):
        Log.query.filter(**{lookup: [1]})
    with pytest.raises(InvalidLookup):
        Log.query.filter(Log.events == [1])
    with pytest.raises(InvalidLookup):
        Log.query.order_by("events")


async def test_no_lookup_is_taken_for_the_list(db: Database) -> None:
    with pytest.raises(ModelException, match="neither the whole key"):
        await Log.get_or_create({"name": "a"})


# Reading -------------------------------------------------------------------------------------------------------------


async def _iterated() -> list[Any]:
    return [log async for log in Log.query.filter(name="a")]


async def _refreshed() -> Any:
    log = Log(name="a")
    log.__dict__.update(_key=KEY, _stored={})
    return await log.refresh()


READS: dict[str, Callable[[], Any]] = {
    "load": lambda: Log.load(name="a", day="mon"),
    "load by part": lambda: Log.load(name="a"),
    "get": lambda: Log.query.get(name="a", day="mon"),
    "filter": lambda: Log.query.filter(name="a"),
    "order": lambda: Log.query.order_by("size").limit(3),
    "first": lambda: Log.query.first(),
    "last": lambda: Log.query.last(),
    "async for": _iterated,
    "values": lambda: Log.query.values(),
    "some values": lambda: Log.query.values("events", "tail"),
    "get_or_create": lambda: Log.get_or_create(name="a", day="mon"),
    "refresh": _refreshed,
}


@pytest.mark.parametrize("form", READS)
async def test_it_comes_with_the_record_in_every_form(db: Database, form: str) -> None:
    await Log.create(name="a", events=[3, (2, {1})], tail=[])
    async with trace() as traced:
        found = await READS[form]()
    assert traced.round_trips == 1
    one = found[0] if isinstance(found, (list, tuple)) else found
    values = one if isinstance(one, dict) else one.to_dict()
    assert (values["events"], values["tail"]) == ([3, (2, {1})], [])
    assert type(values["events"]) is list


async def test_it_comes_with_the_owner_of_a_unique_value(db: Database) -> None:
    await Agent.create(name="a", email="x", memory=[1, 2])
    found, created = await Agent.get_or_create({"name": "b"}, email="x")
    assert (found.memory, created) == ([1, 2], False)
    assert await found.memory.push(3) == 3


async def test_readers_of_one_reply_have_lists_of_their_own(db: Database) -> None:
    await Log.create(name="a", events=[1])
    one, two = await asyncio.gather(*(Log.load(name="a", day="mon") for _ in range(2)))
    assert one is not None
    assert two is not None
    await one.events.push(2)
    assert two.events == [1]
    two.size = 1
    await two.save()
    await one.refresh()
    assert one.events == [2, 1]


async def test_wide_rows_take_several_calls(db: Database, clean_server: Server) -> None:
    """A page of records with long lists is answered in calls that stay short."""
    long = list(range(5000))
    await Race.create_many({"name": f"{number:03}", "everything": long} for number in range(40))
    async with trace() as traced:
        found = await Race.query.all()
    assert [race.name for race in found] == [f"{number:03}" for number in range(40)]
    assert all(race.everything == long for race in found)
    assert traced.round_trips > 5
    assert_true(clean_server, MODELS)


# Saving --------------------------------------------------------------------------------------------------------------


async def test_a_save_leaves_the_list_alone_unless_it_changed(db: Database, clean_server: Server) -> None:
    log = await Log.create(name="a", events=[1])
    other = await Log.query.get_or_raise(name="a")
    await other.events.push(2)
    for change in (log.save, lambda: log.save(update_fields=["size"]), lambda: log.increment("size")):
        log.size += 1
        await change()
        assert items(clean_server, "$List:Log:events:a:mon") == [b"\x02", b"\x01"]
    log.tail = ["t"]
    await log.save()
    assert items(clean_server, "$List:Log:events:a:mon") == [b"\x02", b"\x01"]
    log.events.append(9)
    await log.save(update_fields=["tail"])
    assert items(clean_server, "$List:Log:events:a:mon") == [b"\x02", b"\x01"]
    await log.save()
    assert items(clean_server, "$List:Log:events:a:mon") == [b"\x01", b"\x09"], "as this instance has it"
    assert_true(clean_server, MODELS)


@pytest.mark.parametrize(
    "change",
    [
        lambda log: log.events.insert(0, "new"),
        lambda log: log.events.clear(),
        lambda log: log.events.sort(key=repr),
        lambda log: log.events[0]["deep"].append(1),
        lambda log: setattr(log, "events", [1, 2, 3, 4, 5, 6, 7]),
        lambda log: setattr(log, "events", None),
        lambda log: log.events.extend(range(20)),
    ],
)
async def test_changes_in_place_are_stored_and_trimmed(
    db: Database, clean_server: Server, change: Callable[[Log], Any]
) -> None:
    await Log.create(name="a", events=[{"deep": [0]}, "x", 1])
    log = await Log.query.get_or_raise(name="a")
    change(log)
    expected = list(log.events[:5])
    await log.save()
    assert log.events == expected
    stored = await Log.query.get_or_raise(name="a")
    assert stored.events == expected
    async with trace():
        log.size = 4
        await log.save()
    await log.refresh()
    assert log.events == expected
    assert_true(clean_server, MODELS)


async def test_many_items_are_stored_in_one_trip(db: Database, clean_server: Server) -> None:
    race = Race(name="r", everything=list(range(30_000)))
    async with trace() as traced:
        await race.save()
    assert traced.round_trips == 1
    stored = await Race.query.get_or_raise(name="r")
    assert stored.everything == list(range(30_000))
    stored.everything.reverse()
    await stored.save()
    await race.refresh()
    assert race.everything == list(range(29_999, -1, -1))
    assert_true(clean_server, MODELS)


async def test_a_fresh_instance_overwrites_the_lists_too(db: Database, clean_server: Server) -> None:
    await Log.create(name="a", events=[1, 2], tail=[3])
    await Log.create(name="a", tail=[4])
    stored = await Log.query.get_or_raise(name="a")
    assert (stored.events, stored.tail) == ([], [4])
    assert_true(clean_server, MODELS)


async def test_what_was_pushed_is_not_saved_again(db: Database) -> None:
    log = await Log.create(name="a", events=[1])
    other = await Log.query.get_or_raise(name="a")
    await log.events.push(2)
    await other.events.push(3)
    log.size = 5
    await log.save()
    assert (await Log.query.get_or_raise(name="a")).events == [3, 2, 1]


async def test_a_failed_save_changes_no_list(db: Database, clean_server: Server) -> None:
    await Agent.create(name="a", email="1", memory=[1])
    other = await Agent.create(name="b", email="2", memory=[2])
    before = snapshot(clean_server)
    other.email, other.memory, other.name = "1", [3], "c"
    with pytest.raises(UniqueViolation):
        await other.save()
    with pytest.raises(UniqueViolation):
        await Agent.create(name="b", email="1", memory=[4])
    assert snapshot(clean_server) == before
    assert other.memory == [3]


@pytest.mark.parametrize("onto", [False, True])
async def test_a_rename_takes_the_lists_along(db: Database, clean_server: Server, onto: bool) -> None:
    if onto:
        await Log.create(name="b", events=["old"], tail=["old"])
    log = await Log.create(name="a", events=[1, 2])
    await (await Log.query.get_or_raise(name="a")).events.push(3)
    log.name = "b"
    async with trace() as traced:
        await log.save()
    assert traced.round_trips == 1
    stored = await Log.query.get_or_raise(name="b")
    assert (stored.events, stored.tail) == ([3, 1, 2], []), "what others pushed comes along"
    assert_true(clean_server, MODELS)
    log.name, log.events = "c", ["assigned"]
    await log.save()
    assert (await Log.query.get_or_raise(name="c")).events == ["assigned"]
    assert_true(clean_server, MODELS)


async def test_a_push_bumps_no_version_and_writes_no_stamp(db: Database, clean_server: Server) -> None:
    class Paper(Model):
        name: str = KeyField()
        marks = ListField(max_length=3)

        class Meta:
            versioned = True

    paper = await Paper.create(name="p")
    other = await Paper.query.get_or_raise(name="p")
    await other.marks.push(1)
    await paper.save()
    assert_true(clean_server, [Paper])


@pytest.mark.parametrize("how", ["deleted", "in parts", "forbidden", "taken back"])
async def test_lists_go_with_what_a_relation_takes_along(db: Database, clean_server: Server, how: str) -> None:
    class Owner(Model):
        name: str = KeyField()
        notes = ListField(max_length=3)

    class Dog(Model):
        name: str = KeyField()
        owner = Relationship(Owner, on_delete=CASCADE)
        walks = ListField(max_length=3)

    class Tag(Model):
        name: str = KeyField()
        dog = Relationship(Dog, on_delete=PROTECT if how == "forbidden" else SET_NULL)
        marks = ListField(max_length=3)

    owner = await Owner.create(name="o", notes=["note"])
    count = 250 if how == "in parts" else 5
    await Dog.create_many({"name": str(number), "owner": owner, "walks": [number]} for number in range(count))
    await Tag.create(name="t", dog=Dog.ref(name="1"), marks=["kept"])
    (await Dog.query.get_or_raise(name="2")).walks.clear()
    before = snapshot(clean_server)
    if how == "forbidden":
        with pytest.raises(ProtectedRecord):
            await owner.delete()
    elif how == "taken back":
        with pytest.raises(RecordGone):
            async with transaction() as tx:
                tx.delete(owner)
                tx.save(await Tag.query.get_or_raise(name="t"))
                tx.save(_gone(Dog, owner=owner))
    else:
        assert await owner.delete()
        assert await Dog.query.count() == 0
        found = [key for key in snapshot(clean_server) if key.startswith(b"$List")]
        assert found == [b"$List:Tag:marks:t"]
    if how in ("forbidden", "taken back"):
        assert snapshot(clean_server) == before
    assert (await Tag.query.get_or_raise(name="t")).marks == ["kept"]


def _gone(model: Any, **values: Any) -> Any:
    gone = model(name="gone", **values)
    gone.__dict__.update(_key=f"{model.__name__}:gone", _stored={})
    return gone


@pytest.mark.parametrize("together", [False, True])
async def test_a_list_follows_a_record_that_others_refer_to(db: Database, clean_server: Server, together: bool) -> None:
    class Shop(Model):
        name: str = KeyField()
        news = ListField(max_length=3)

    class Item(Model):
        name: str = KeyField()
        shop = Relationship(Shop)
        seen = ListField(max_length=3)

    shop = await Shop.create(name="s", news=["a"])
    await Item.create(name="i", shop=shop, seen=[1])
    shop.name = "t"
    if together:
        async with transaction() as tx:
            tx.save(shop)
    else:
        await shop.save()
    (item,) = await Item.query.prefetch("shop")
    assert await item.seen.push(2) == 2
    assert ((await item.shop).news, item.seen) == (["a"], [2, 1])
    assert b"$List:Shop:news:s" not in snapshot(clean_server)
    before = snapshot(clean_server)
    shop.name, shop.news = "u", ["changed"]
    with pytest.raises(RecordGone):
        async with transaction() as tx:
            tx.save(shop)
            tx.save(_gone(Item, shop=shop))
    assert snapshot(clean_server) == before


async def test_lists_come_with_prefetched_records(db: Database) -> None:
    class Shop(Model):
        name: str = KeyField()
        news = ListField(max_length=3)

    class Item(Model):
        name: str = KeyField()
        shop = Relationship(Shop)

    await Shop.create(name="s", news=["a", "b"])
    await Item.create(name="i", shop=Shop.ref(name="s"))
    async with trace() as traced:
        (item,) = await Item.query.prefetch("shop")
        assert (await item.shop).news == ["a", "b"]
    assert traced.round_trips == 2
    item = await Item.query.get_or_raise(name="i")
    shop = await item.shop
    assert await shop.news.push("c") == 3
    assert shop.news == ["c", "a", "b"]


async def test_transactions_take_lists_back(db: Database, clean_server: Server) -> None:
    one = await Agent.create(name="a", email="1", memory=[1, 2])
    two = await Agent.create(name="b", email="2", memory=[3])
    await two.expire_in(1000)
    before = snapshot(clean_server)
    one.memory, one.name = ["changed"], "moved"
    new = Agent(name="new", email="1", memory=["new"])
    with pytest.raises(UniqueViolation):
        async with transaction() as tx:
            tx.save(one)
            tx.delete(two)
            tx.save(Agent(name="b", email="3", memory=["overwritten"]))
            tx.save(new)
            tx.save(Agent(name="last", email="3"))
    assert snapshot(clean_server) == before
    assert_true(clean_server, MODELS)
    async with transaction() as tx:
        tx.delete(two)
        tx.save(one)
        tx.save(Agent(name="new", email="2", memory=["new"]))
    assert {agent.name: agent.memory for agent in await Agent.query.all()} == {"moved": ["changed"], "new": ["new"]}
    assert_true(clean_server, MODELS)


# Many at once --------------------------------------------------------------------------------------------------------


async def test_64_tasks_push_while_others_save(clean_server: Server) -> None:
    """Nothing is lost, the cap is kept, and each writer's items stand in its order."""
    tasks, each = 64, 20
    async with connect(clean_server.url) as one, connect(clean_server.url) as two:
        await Race.create(name="r")

        async def pusher(number: int) -> None:
            race = await Race.query.get_or_raise(name="r")
            for step in range(each):
                lengths = await asyncio.gather(race.everything.push((number, step)), race.newest.push((number, step)))
                assert lengths[0] >= step
                assert lengths[1] <= 10

        async def saver(number: int) -> None:
            race = await Race.query.get_or_raise(name="r")
            for step in range(each):
                race.note = f"{number} {step}"
                await race.save()

        async def under(database: Database, work: Any) -> None:
            with using(database):
                await work

        await asyncio.gather(*(under(one if n % 2 else two, pusher(n)) for n in range(tasks)),
                             *(under(one if n % 2 else two, saver(n)) for n in range(16)))  # fmt: skip
        stored = await Race.query.get_or_raise(name="r")
        assert len(stored.everything) == tasks * each
        for number in range(tasks):
            mine = [step for writer, step in stored.everything if writer == number]
            assert mine == list(range(each - 1, -1, -1))
        assert len(stored.newest) == 10
        assert set(stored.newest) <= set(stored.everything[: 2 * 10 * tasks])
        assert_true(clean_server, MODELS)


async def test_a_push_is_applied_once_wherever_the_connection_is_cut(clean_server: Server) -> None:
    async with FaultProxy(clean_server) as proxy, connect(proxy.url) as db:
        race = await Race.create(name="r")
        seen = proxy.delay(0, command="EVALSHA")
        await race.everything.push(0)
        assert seen.reply is not None
        cuts = [
            *((proxy.cut_request, after) for after in range(len(seen.request) + 1)),
            *((proxy.cut_reply, after) for after in range(len(seen.reply) + 1)),
        ]
        for number, (cut, after) in enumerate(cuts, 1):
            fault = cut(after, command="EVALSHA")
            assert await race.everything.push(number) == number + 1
            assert fault.done.is_set()
        assert race.everything == list(range(len(cuts), -1, -1))
        stored = await Race.query.get_or_raise(name="r")
        assert stored.everything == race.everything
        assert db.stats().resent >= len(cuts) - 1


async def test_scripts_that_were_flushed(db: Database, clean_server: Server) -> None:
    log = await Log.create(name="a")
    for number in range(3):
        clean_server.client.script_flush()
        assert await log.events.push(number) == number + 1
    assert_true(clean_server, MODELS)


async def test_a_cancelled_push_that_has_left_is_known_to_the_instance(clean_server: Server) -> None:
    async with FaultProxy(clean_server) as proxy, connect(proxy.url):
        log = await Log.create(name="a")
        held = proxy.hold_reply(command="EVALSHA")
        pushing = asyncio.create_task(log.events.push("kept"))
        await held.happened()
        pushing.cancel()
        held.release()
        stored = await Log.query.get_or_raise(name="a")
        assert stored.events == log.events == ["kept"]


# Deadlines -----------------------------------------------------------------------------------------------------------


def ends(server: Server, *keys: str) -> set[int]:
    return {int(server.client.pexpiretime(key)) for key in keys}


async def test_a_list_ends_with_its_record(db: Database, clean_server: Server) -> None:
    keys = KEY, "$List:Log:events:a:mon", "$List:Log:tail:a:mon"
    log = await Log.create(name="a", events=[1])
    await log.expire_in(500)
    await log.tail.push("made by a push")
    assert len(ends(clean_server, *keys)) == 1
    log.events = ["assigned"]
    await log.save()
    assert len(ends(clean_server, *keys)) == 1
    assert ends(clean_server, *keys) != {-1}
    await log.persist()
    assert ends(clean_server, *keys) == {-1}
    await log.save(expire_in=700)
    assert len(ends(clean_server, *keys)) == 1
    log.name = "b"
    await log.save()
    assert len(ends(clean_server, "Log:b:mon", "$List:Log:events:b:mon", "$List:Log:tail:b:mon")) == 1
    assert_true(clean_server, MODELS)
    await Log.create(name="b", day="mon", events=["lives"])
    assert ends(clean_server, "Log:b:mon", "$List:Log:events:b:mon") == {-1}
    assert_true(clean_server, MODELS)


async def test_nothing_of_an_expired_record_is_left(db: Database, clean_server: Server) -> None:
    for how in ("past", "save", "soon"):
        agent = await Agent.create(name="a", email="1", memory=[1, 2])
        if how == "past":
            await agent.expire_at(PAST)
        elif how == "save":
            agent.memory = [3]
            await agent.save(expire_at=PAST)
        else:
            await agent.expire_in(0.001)
            while clean_server.client.exists("Agent:a"):
                await asyncio.sleep(0.001)
        count, again = await asyncio.gather(Agent.query.count(), Agent.create(name="b", email="1"))
        assert (count, again.memory) == (0, [])
        assert await Agent.query.filter(team="a").order_by("rank").keys() == ["Agent:b"]
        await again.delete()
        assert set(snapshot(clean_server)) == {b"$Slots:Agent"}


async def test_expired_records_with_lists_claims_and_partitions_are_swept_in_bounded_calls(
    db: Database, clean_server: Server
) -> None:
    await asyncio.gather(
        *(Agent(name=f"{n:03}", email=f"{n}", team="ab"[n % 2], memory=[n]).save(expire_in=1000) for n in range(400))
    )
    await Agent.create(name="stays", email="stays", memory=["stays"])
    assert clean_server.client.dbsize() > 800
    soon = int(clean_server.client.time()[0]) * 1000 + 1500
    keys = [key for key, _ in clean_server.client.zrange("$Exp:Agent", 0, -1, withscores=True)]
    with clean_server.client.pipeline() as pipe:
        for key in keys:
            pipe.pexpireat(key, soon)
            pipe.pexpireat(b"$List:Agent:memory:" + key.removeprefix(b"Agent:"), soon)
            pipe.zadd("$Exp:Agent", {key: soon})
        pipe.execute()
    while clean_server.client.exists(*keys):
        await asyncio.sleep(0.005)
    with servers.count_commands(clean_server) as counted:
        assert await Agent.query.count() == 1, "in the very second after"
    assert 3 <= counted.round_trips <= 5
    assert await Agent.query.filter(team="a", rank__gte=0).keys() == ["Agent:stays"]
    assert await Agent.create(name="new", email="7")
    assert_true(clean_server, MODELS)
    assert not [key for key in snapshot(clean_server) if b"$List" in key and b"stays" not in key]


async def test_a_list_that_the_server_did_not_expire_is_swept(db: Database, clean_server: Server) -> None:
    agent = await Agent.create(name="a", email="1", memory=[1])
    await agent.expire_in(1000)
    clean_server.client.persist("$List:Agent:memory:a")
    clean_server.client.delete("Agent:a")
    clean_server.client.zadd("$Exp:Agent", {"Agent:a": 1})
    assert await Agent.query.count() == 0
    assert set(snapshot(clean_server)) == {b"$Slots:Agent"}


# What is foreign -----------------------------------------------------------------------------------------------------


async def test_something_foreign_under_the_key_of_a_list(db: Database, clean_server: Server) -> None:
    client, beside = clean_server.client, "$List:Log:events:a:mon"
    log = await Log.create(name="a", events=[1], size=7)
    client.delete(beside)
    client.set(beside, "somebody else's")
    created = (await Log.get_or_create(name="a", day="mon"))[0]
    for found in (await Log.load(name="a", day="mon"), (await Log.query.all())[0], created):
        assert found is not None
        assert found.size == 7, "the other fields stay readable"
        with pytest.raises(CorruptRecord) as caught:
            assert found.events
        assert (caught.value.field, caught.value.key) == ("events", KEY)
        found.size = 7
        assert await found.save()
        assert await found.save(expire_in=1000)
        await found.persist()
    assert client.get(beside) == b"somebody else's"
    before = snapshot(clean_server)
    log.events = [2]
    moved = await Log.query.get_or_raise(name="a")
    moved.name = "b"
    outcomes = await asyncio.gather(
        log.events.push(3), log.save(), moved.save(), Log.create(name="a", day="mon"), log.delete(),
        Log.load(name="a", day="mon"), return_exceptions=True,
    )  # fmt: skip
    assert [type(outcome) for outcome in outcomes] == [CorruptIndex] * 5 + [Log]
    assert "$List:Log:events:a:mon" in str(outcomes[0])
    assert snapshot(clean_server) == before
    clean_server.client.delete(beside)
    await log.delete()
    assert_true(clean_server, MODELS)


@pytest.mark.parametrize("verb", ["rename", "create", "assign"])
async def test_a_save_overwrites_nothing_foreign(db: Database, clean_server: Server, verb: str) -> None:
    log = await Log.create(name="a", events=[1])
    clean_server.client.set("$List:Log:tail:b:mon", "mine")
    clean_server.client.set("$List:Log:tail:a:mon", "mine")
    before = snapshot(clean_server)
    with pytest.raises(CorruptIndex):
        if verb == "create":
            await Log.create(name="b", tail=[1])
        elif verb == "assign":
            log.tail = [1]
            await log.save()
        else:
            clean_server.client.delete("$List:Log:tail:a:mon")
            before.pop(b"$List:Log:tail:a:mon")
            log.name = "b"
            await log.save()
    assert snapshot(clean_server) == before


async def test_items_that_cannot_be_read(db: Database, clean_server: Server) -> None:
    await Log.create(name="a", events=[1], size=7)
    clean_server.client.lpush("$List:Log:events:a:mon", b"\xc1 no value")
    log = await Log.query.get_or_raise(name="a")
    with pytest.raises(CorruptRecord):
        assert log.events
    log.size = 8
    await log.save()
    assert items(clean_server, "$List:Log:events:a:mon") == [b"\xc1 no value", b"\x01"], "a save destroys nothing"
    log.events = ["repaired"]
    await log.save()
    assert (await Log.query.get_or_raise(name="a")).events == ["repaired"]


async def test_a_sweep_leaves_what_is_foreign(db: Database, clean_server: Server) -> None:
    agent = await Agent.create(name="a", email="1", memory=[1])
    await agent.expire_in(1000)
    clean_server.client.delete("$List:Agent:memory:a", "Agent:a")
    clean_server.client.set("$List:Agent:memory:a", "mine")
    clean_server.client.zadd("$Exp:Agent", {"Agent:a": 1})
    assert await Agent.query.count() == 0
    assert set(snapshot(clean_server)) == {b"$Slots:Agent", b"$List:Agent:memory:a"}


async def test_at_maxmemory_a_push_fails_and_reads_go_on(db: Database, clean_server: Server) -> None:
    log = await Log.create(name="a", events=[1])
    clean_server.client.config_set("maxmemory", "1")
    try:
        before = snapshot(clean_server)
        with pytest.raises(DatabaseError, match="OOM"):
            await log.events.push(2)
        assert (await Log.query.get_or_raise(name="a")).events == log.events == [1]
        assert snapshot(clean_server) == before
    finally:
        clean_server.client.config_set("maxmemory", "0")


# Changing the class --------------------------------------------------------------------------------------------------


async def test_a_class_gets_and_loses_a_list(db: Database, clean_server: Server) -> None:
    """Records from before have it empty; a class that doesn't know it deletes it all the same."""

    def plain() -> Any:
        class Doc(Model):
            name: str = KeyField()

        return Doc

    def with_list() -> Any:
        class Doc(Model):
            name: str = KeyField()
            lines = ListField(max_length=3)

        return Doc

    old, new = plain(), with_list()
    await asyncio.gather(*(old.create(name=name) for name in "abc"))
    found = await new.query.all()
    assert [doc.lines for doc in found] == [[], [], []]
    for doc in found:
        assert await doc.lines.push("x") == 1
    assert_true(clean_server, [new])
    again = await old.query.get_or_raise(name="a")
    await again.delete()
    moved = await old.query.get_or_raise(name="b")
    moved.name = "d"
    await moved.save()
    await old.create(name="c")
    assert {doc.name: doc.lines for doc in await new.query.all()} == {"c": [], "d": ["x"]}
    assert_true(clean_server, [new])


async def test_a_plain_list_gets_a_cap(db: Database, clean_server: Server) -> None:
    def declared(**options: Any) -> Any:
        class Doc(Model):
            name: str = KeyField()
            lines: Any = ListField(**options)

        return Doc

    old, new = declared(), declared(max_length=2)
    await old.create(name="a", lines=[1, (2,), 3])
    doc = await new.query.get_or_raise(name="a")
    assert doc.lines == [1, (2,)]
    with pytest.raises(CorruptRecord, match="before the field had max_length"):
        await doc.lines.push(0)
    assert doc.lines == [1, (2,)]
    await doc.save()
    assert await doc.lines.push(0) == 2
    assert (await new.query.get_or_raise(name="a")).lines == [0, 1]
    assert not clean_server.client.hexists("Doc:a", "lines")
    assert_true(clean_server, [new])


async def test_a_smaller_cap_holds_from_the_next_write(db: Database, clean_server: Server) -> None:
    def declared(cap: int) -> Any:
        class Doc(Model):
            name: str = KeyField()
            lines = ListField(max_length=cap)

        return Doc

    old, new = declared(5), declared(2)
    await old.create(name="a", lines=[1, 2, 3, 4])
    doc = await new.query.get_or_raise(name="a")
    assert doc.lines == [1, 2]
    assert await doc.lines.push(0) == 2
    assert (await old.query.get_or_raise(name="a")).lines == doc.lines == [0, 1]


async def test_keys_under_a_namespace(clean_server: Server) -> None:
    async with connect(clean_server.url, namespace="app:1"):
        log = await Log.create(name="a:b", day="ü")
        await log.events.push(1)
        assert "app%3A1:$List:Log:events:a%3Ab:ü".encode() in snapshot(clean_server)
        assert (await Log.query.get_or_raise(name="a:b")).events == [1]
        await log.delete()
        assert [key for key in snapshot(clean_server) if b"$Lane" not in key] == [b"app%3A1:$Slots:Log"]


async def test_queries_that_change_and_find(db: Database, clean_server: Server) -> None:
    await Agent.create_many({"name": f"{n}", "email": f"{n}", "team": "ab"[n % 2], "memory": [n]} for n in range(6))
    assert await Agent.query.filter(team="a").update(rank=2) == 3
    assert [agent.memory for agent in await Agent.query.filter(team="a")] == [[0], [2], [4]]
    assert await Agent.query.filter(team="a").update(memory=["all", 1, 2, 3]) == 3
    assert [agent.memory for agent in await Agent.query.filter(team="a")] == [["all", 1, 2]] * 3
    assert_true(clean_server, MODELS)
    found = await Agent.query.in_bulk(["Agent:0", "Agent:1"])
    assert [agent.memory for agent in found.values()] == [["all", 1, 2], [1]]
    first = await Agent.query.order_by("name").page(2)
    assert [agent.memory for agent in first.rows] == [["all", 1, 2], [1]]
    assert await Agent.query.filter(team="a").delete() == 3
    assert [agent.memory for agent in await Agent.query.all()] == [[1], [3], [5]]
    assert_true(clean_server, MODELS)
