"""Streams of writes: an entry for each write, by the same script; none without a write, none twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from popoto_async import (
    AlreadyExists,
    CorruptIndex,
    CorruptRecord,
    Database,
    DatetimeField,
    DefinitionError,
    Event,
    EventStream,
    EventStreamMixin,
    Field,
    IndexedField,
    KeyField,
    Model,
    PopotoError,
    RecordGone,
    Relationship,
    SortedField,
    UniqueViolation,
    ValidationError,
    connect,
    trace,
    transaction,
    using,
)
from tests.examples import examples
from tests.model_of_store import replayed, rows_of, snapshot
from tests.proxy import FaultProxy
from tests.servers import Server, count_commands

pytestmark = pytest.mark.anyio


class Shop(EventStreamMixin, Model):
    name: str = KeyField()
    owner: str | None = Field()
    kind: str | None = IndexedField()
    size: int = SortedField(default=0)
    price: Decimal | None = Field()

    class Meta:
        unique_together = (("owner", "kind"),)


class Full(EventStreamMixin, Model):
    _stream_values = "all"
    _stream_max_length = 1000

    name: str = KeyField()
    note: str | None = Field()
    count: int = Field(default=0)
    changed = DatetimeField(auto_now=True)

    class Meta:
        versioned = True


class Bare(EventStreamMixin, Model):
    _stream_values = "none"
    _stream_max_length = 50

    name: str = KeyField()
    n: int = Field(default=0)


class Plain(Model):
    name: str = KeyField()
    n: int = Field(default=0)
    kind: str | None = IndexedField()


def without_id(events: list[Event]) -> list[tuple[Any, ...]]:
    return [(event.operation, event.key, event.previous_key, event.values) for event in events]


async def test_each_write_has_its_entry(db: Database, clean_server: Server) -> None:
    async with trace() as t:
        shop = await Shop.create(name="a", kind="x", price=Decimal("1.10"))
        shop.kind, shop.size = None, 5
        await shop.save()
        await shop.increment("size", 2**60)
        shop.name = "b"
        await shop.save()
        await shop.save()
        await shop.delete()
        await shop.delete()
    assert t.round_trips == 7
    events = await Shop.events.read()
    assert without_id(events) == [
        ("create", "Shop:a", None, {"name": "a", "kind": "x", "size": 0, "price": Decimal("1.10")}),
        ("update", "Shop:a", None, {"kind": None, "size": 5}),
        ("update", "Shop:a", None, {"size": 2**60 + 5}),
        ("update", "Shop:b", "Shop:a", {"name": "b"}),
        ("update", "Shop:b", None, {}),
        ("delete", "Shop:b", None, {}),
    ]
    assert sorted(event.id for event in events) == [event.id for event in events]
    assert abs(events[-1].time - datetime.now(UTC)) < timedelta(minutes=1)
    assert await Shop.events.length() == 6
    assert await Shop.events.read(after=events[2].id, limit=2) == events[3:5]
    assert clean_server.client.type("$Stream:Shop") == b"stream"


async def test_an_entry_may_hold_all_of_the_record_or_nothing(db: Database) -> None:
    full = await Full.create(name="a", note="n")
    first = full._version
    await full.increment("count", 3)
    changed = full.changed
    full.note = None
    await full.save()
    last = full.changed
    await full.delete()
    created, counted, nulled, deleted = await Full.events.read()
    assert (created.version, deleted.version) == (first, None)
    assert counted.version is not None
    assert int(counted.version) > int(first)
    assert dict(counted.values) == {"name": "a", "note": "n", "count": 3, "changed": changed}
    assert dict(nulled.values) == dict(deleted.values) == {"name": "a", "note": None, "count": 3, "changed": last}
    await Bare.create(name="a", n=3)
    (bare,) = await Bare.events.read()
    assert (bare.operation, bare.key, dict(bare.values)) == ("create", "Bare:a", {})


async def test_models_without_a_stream_pay_nothing(db: Database, clean_server: Server) -> None:
    await Plain.create(name="warm")
    with count_commands(clean_server) as counted:
        plain = await Plain.create(name="a", kind="x")
        await plain.increment("n")
        await plain.delete()
    assert {"type", "xadd"} & set(counted.calls) == set()
    with count_commands(clean_server) as streamed:
        shop = await Shop.create(name="a", kind="x")
        await shop.increment("size")
        await shop.delete()
    assert (streamed.calls["xadd"], streamed.round_trips) == (3, 3)


async def test_no_entry_without_a_write(db: Database, clean_server: Server) -> None:
    shop, other = await Shop.create(name="a", owner="o", kind="x"), await Shop.create(name="b")
    ghost = await Shop.load(name="b")
    assert ghost is not None
    await other.delete()
    before = snapshot(clean_server)
    ghost.size = 3

    async def all_of(*steps: Callable[[Any], None]) -> None:
        async with transaction() as tx:
            for step in steps:
                step(tx)

    failing: list[tuple[Callable[[], Any], type[PopotoError]]] = [
        (lambda: Shop.create(name="c", owner="o", kind="x"), UniqueViolation),
        (lambda: Shop.create(name="a", if_exists="error"), AlreadyExists),
        (ghost.save, RecordGone),
        (lambda: ghost.increment("size"), RecordGone),
        (lambda: Shop.create(name="c", size="x"), PopotoError),
        (
            lambda: all_of(
                lambda tx: tx.save(Shop(name="c")),
                lambda tx: tx.increment(shop, "size"),
                lambda tx: tx.delete(shop),
                lambda tx: tx.save(ghost),
            ),
            RecordGone,
        ),
    ]
    for act, kind in failing:
        with pytest.raises(kind):
            await act()
        assert snapshot(clean_server) == before
    assert await other.delete() is False
    await asyncio.gather(*(act() for act, _ in failing), return_exceptions=True)
    assert snapshot(clean_server) == before


async def test_a_transaction_that_fails_pushes_nothing_out_of_a_full_stream(db: Database, clean_server: Server) -> None:
    clean_server.client.config_set("stream-node-max-entries", 1)
    await Bare.create_many([{"name": str(number)} for number in range(60)])
    before = snapshot(clean_server)
    assert isinstance(before[b"$Stream:Bare"], list)
    assert len(before[b"$Stream:Bare"]) == 50
    with pytest.raises(AlreadyExists):
        async with transaction() as tx:
            for number in range(60, 70):
                tx.save(Bare(name=str(number)))
            tx.save(Bare(name="1"), if_exists="error")
    assert snapshot(clean_server) == before
    async with transaction() as tx:
        for number in range(60, 70):
            tx.save(Bare(name=str(number)))
    assert [event.key for event in await Bare.events.read()] == [f"Bare:{number}" for number in range(20, 70)]


async def test_a_stream_is_bounded(db: Database, clean_server: Server) -> None:
    await Bare.create_many([{"name": str(number)} for number in range(500)])
    assert 50 <= await Bare.events.length() < 50 + 100  # the server drops whole nodes of 100
    assert (await Bare.events.read(limit=1000))[-1].key == "Bare:499"


async def test_something_else_under_the_streams_key(db: Database, clean_server: Server) -> None:
    shop = await Shop.create(name="a")
    clean_server.client.delete("$Stream:Shop")
    clean_server.client.rpush("$Stream:Shop", "x")
    before, state = snapshot(clean_server), dict(vars(shop))
    shop.size = 4
    verbs: list[Callable[[], Any]] = [
        shop.save, shop.delete, lambda: shop.increment("size"), lambda: Shop.create(name="b")
    ]  # fmt: skip
    for verb in verbs:
        with pytest.raises(CorruptIndex, match=r"\$Stream:Shop.*list") as raised:
            await verb()
        assert raised.value.model == "Shop"
        assert snapshot(clean_server) == before
    shop.size = 0
    assert vars(shop) == state
    with pytest.raises(PopotoError):
        await Shop.events.read()
    assert await Shop.load(name="a") == shop
    clean_server.client.delete("$Stream:Shop")
    assert await shop.delete()


# Once, whatever happens to connections -------------------------------------------------------------------------------


@asynccontextmanager
async def proxied(server: Server) -> AsyncIterator[tuple[FaultProxy, Database]]:
    async with FaultProxy(server) as proxy, connect(proxy.url) as db:
        yield proxy, db


async def test_one_entry_for_each_write_wherever_the_connection_is_cut(clean_server: Server) -> None:
    async with proxied(clean_server) as (proxy, db):
        shop = await Shop.create(name="a")
        seen = proxy.delay(0, command="EVALSHA")
        await shop.increment("size")
        assert seen.reply is not None
        cuts: list[tuple[Callable[..., Any], int]] = [
            *((proxy.cut_request, after) for after in range(0, len(seen.request) + 1, 7)),
            *((proxy.cut_reply, after) for after in range(len(seen.reply) + 1)),
        ]
        for cut, after in cuts:
            fault = cut(after, command="EVALSHA")
            await shop.increment("size")
            assert fault.done.is_set()
        for number, (cut, after) in enumerate(cuts[::9]):
            fault = cut(after, command="EVALSHA")
            async with transaction() as tx:
                tx.increment(shop, "size")
                tx.save(Shop(name=f"n{number}"))
            assert fault.done.is_set()
        events = await Shop.events.read(limit=10_000)
        sizes = [event.values["size"] for event in events if event.key == "Shop:a"]
        assert sizes == list(range(len(cuts) + len(cuts[::9]) + 2))
        assert len(events) == len(sizes) + len(cuts[::9])
        assert db.stats().resent > 0


# What the entries say is what happened -------------------------------------------------------------------------------

NAMES = st.sampled_from(["a", "b", "c:d", "%null"])
OWNERS = st.sampled_from([None, "1", "2"])
KINDS = st.sampled_from([None, "x"])
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["create", "change", "rename", "increment", "delete", "together", "many"]),
        NAMES,
        NAMES,
        OWNERS,
        KINDS,
        st.integers(-3, 3),
    ),
    max_size=25,
)


async def act(model: Any, step: tuple[Any, ...]) -> None:
    verb, name, other, owner, kind, number = step
    first = await model.load(name=name)
    if verb == "create":
        await model.create(name=name, owner=owner, kind=kind, size=number)
    elif verb == "many":
        await model.create_many([{"name": one, "owner": owner, "kind": kind} for one in (name, other)])
    elif first is not None:
        if verb == "change":
            first.owner, first.kind, first.price = owner, kind, Decimal(number) if number > 0 else None
            await first.save()
        elif verb == "rename":
            first.name, first.kind = other, kind
            await first.save()
        elif verb == "increment":
            await first.increment("size", number)
        elif verb == "delete":
            await first.delete()
        else:
            async with transaction() as tx:
                tx.increment(first, "size", number)
                first.name, first.owner = other, owner
                tx.save(first)
                tx.save(model(name=name, owner=owner, kind=kind))


class Whole(EventStreamMixin, Model):
    _stream_values = "all"

    name: str = KeyField()
    owner: str | None = Field()
    kind: str | None = IndexedField()
    size: int = SortedField(default=0)
    price: Decimal | None = Field()

    class Meta:
        unique_together = (("owner", "kind"),)


@pytest.mark.parametrize("model", [Shop, Whole])
def test_the_stream_read_from_its_beginning_gives_the_records(clean_server: Server, model: Any) -> None:
    with asyncio.Runner() as runner:
        opened = connect(clean_server.unix_url)
        database = runner.run(opened.__aenter__())

        @examples(40)
        @given(steps=STEPS)
        def example(steps: list[tuple[Any, ...]]) -> None:
            async def play() -> None:
                clean_server.client.flushall()
                with using(database):
                    for step in steps:
                        try:
                            await act(model, step)
                        except UniqueViolation:
                            continue

            runner.run(play())
            found = snapshot(clean_server)
            name = model.__name__
            assert replayed(found.get(f"$Stream:{name}".encode(), []), model) == rows_of(found, [model])[model]

        try:
            example()
        finally:
            runner.run(opened.__aexit__(None, None, None))


# Declaring and reading -----------------------------------------------------------------------------------------------


async def test_a_namespace_stands_before_the_stream_too(clean_server: Server) -> None:
    async with connect(clean_server.url, namespace="app:1"):
        await Shop.create(name="a")
        assert Shop.events.key == "app%3A1:$Stream:Shop"
        assert [event.key for event in await Shop.events.read()] == ["app%3A1:Shop:a"]
    assert clean_server.client.exists("app%3A1:$Stream:Shop")


async def test_entries_of_other_classes_stay_readable(db: Database, clean_server: Server) -> None:
    await Shop.create(name="a", kind="x", size=3)

    class Changed(EventStreamMixin, Model):
        class Meta:
            name = "Shop"

        name: str = KeyField()
        size = DatetimeField()

    (event,) = await Changed.events.read()
    assert dict(event.values) == {"name": "a"}
    assert dict(event.unreadable) == {"kind": b"x", "size": b"3"}
    clean_server.client.xadd("$Stream:Shop", {"x": "y"})
    with pytest.raises(CorruptRecord, match="is no event"):
        await Changed.events.read()


@pytest.mark.parametrize(("option", "value"), [
    ("_stream_max_length", 0), ("_stream_max_length", True), ("_stream_max_length", "9"), ("_stream_max_length", None),
    ("_stream_values", "some"), ("_stream_values", None),
])  # fmt: skip
def test_options_that_cannot_be(option: str, value: Any) -> None:
    with pytest.raises(DefinitionError, match=option):
        type("Odd", (EventStreamMixin, Model), {option: value, "__module__": __name__, "__qualname__": "<locals>.Odd"})


@pytest.mark.parametrize("after", ["x", "", "5-", "-5", 5, b"5-0", "5-0-0", "+", " 5"])
async def test_a_place_that_can_not_be(db: Database, after: Any) -> None:
    async with trace() as t:
        for read in (Shop.events.read, Shop.events.dead):
            with pytest.raises(ValidationError, match="id of an event") as caught:
                await read(after=after)
            assert (caught.value.model, caught.value.value) == ("Shop", after)
    assert t.round_trips == 0


async def test_a_model_without_the_mixin_has_no_stream(db: Database) -> None:
    with pytest.raises(DefinitionError, match="EventStreamMixin"):
        EventStream(Plain)

    class Taken(EventStreamMixin, Model):
        name: str = KeyField()
        events: list[Any] = Field(type=list, default=list)

    async with trace() as t:
        await Taken.create(name="a", events=[1])
    assert t.round_trips == 1
    assert [event.values["events"] for event in await EventStream(Taken).read()] == [[1]]


# What happens to records because of others ---------------------------------------------------------------------------


class Town(EventStreamMixin, Model):
    name: str = KeyField()


class Street(EventStreamMixin, Model):
    name: str = KeyField()
    town = Relationship(Town, on_delete="CASCADE", null=True)


class House(EventStreamMixin, Model):
    class Meta:
        versioned = True

    number: int = KeyField()
    street = Relationship(Street, on_delete="SET_NULL", null=True)
    next_to = Relationship("self", on_delete="SET_NULL", null=True)


async def test_records_that_go_or_change_with_others_have_their_entries(db: Database, clean_server: Server) -> None:
    town, other = await Town.create(name="t"), await Town.create(name="o")
    street = await Street.create(name="s", town=town)
    house = await House.create(number=1, street=street)
    await House.create(number=2, street=street, next_to=house)
    clean_server.client.delete("$Stream:Street", "$Stream:House")
    clean_server.client.set("$Stream:House", "x")
    before = snapshot(clean_server)
    with pytest.raises(CorruptIndex, match=r"\$Stream:House"):
        await town.delete()
    assert snapshot(clean_server) == before
    clean_server.client.delete("$Stream:House")
    with pytest.raises(AlreadyExists):
        async with transaction() as tx:
            tx.delete(town)
            tx.save(Town(name="o"), if_exists="error")
    assert await House.events.length() == 0
    async with trace() as t:
        assert await town.delete()
    assert t.round_trips == 1
    assert [(one.operation, one.key) for one in await Street.events.read()] == [("delete", "Street:s")]
    changed = await House.events.read()
    assert sorted((one.operation, one.key, str(dict(one.values))) for one in changed) == [
        ("update", "House:1", "{'street': None}"), ("update", "House:2", "{'street': None}")
    ]  # fmt: skip
    assert {one.version for one in changed} == {house.decode() for house in [
        clean_server.client.hget(f"House:{number}", "$v") for number in (1, 2)
    ]}  # fmt: skip
    assert other.is_saved


async def test_a_cascade_in_parts_has_an_entry_for_each_record(db: Database, clean_server: Server) -> None:
    town = await Town.create(name="t")
    await Street.create_many([{"name": str(number), "town": town} for number in range(450)])
    clean_server.client.delete("$Stream:Street")
    assert await town.delete()
    deleted = [event.key for event in await Street.events.read(limit=1000)]
    assert sorted(deleted) == sorted(f"Street:{number}" for number in range(450))
    assert [event.operation for event in await Town.events.read()] == ["create", "delete"]
