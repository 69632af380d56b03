"""Sorted fields partitioned by relations: whatever happens to the target, entries stand where references lead."""

from __future__ import annotations

import asyncio
from copy import deepcopy
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from popoto_async import (
    CASCADE,
    SET_NULL,
    Database,
    IndexedField,
    KeyField,
    MissingPartition,
    Model,
    PopotoError,
    RecordGone,
    Relationship,
    SortedField,
    connect,
    maintenance,
    trace,
)
from tests.examples import examples
from tests.model_of_store import Rows, Values, assert_true, ordered, snapshot
from tests.servers import Server
from tests.world_of_records import World

pytestmark = pytest.mark.anyio


class Hall(Model):
    name: str = KeyField()
    floor: int = KeyField(default=1)


class Show(Model):
    number: int = KeyField()
    hall = Relationship(Hall, on_delete=SET_NULL)
    stage = Relationship(Hall, on_delete=CASCADE)
    kind: str | None = IndexedField()
    price: Decimal | None = SortedField(null=True, partition_by=("hall", "kind"))
    seats: int = SortedField(default=1, partition_by="stage")
    rank: float | None = SortedField(null=True, partition_by=("stage", "hall"))

    class Meta:
        indexes = ((("hall", "kind"), False),)


MODELS: list[type[Model]] = [Hall, Show]
RELATIONS: Any = {(Show, "hall"): (Hall, "SET_NULL"), (Show, "stage"): (Hall, "CASCADE")}

UNKNOWN = object()
few = st.sampled_from
names = few(["a", "b:%", "%null"])
halls = few([None, "Hall:a:1", "Hall:b%3A%25:1", "Hall:%25null:1"])
VALUES: dict[str, Any] = {
    "hall": halls,
    "stage": halls,
    "kind": few([None, "x", "y:z"]),
    "price": few([None, Decimal("0.1"), Decimal("0.1000000000000000000001")]),
    "seats": few([1, 2, 2**60 + 1]),
    "rank": few([None, 0.5, 2.0]),
}
numbers = st.integers(1, 3)
STEPS = st.one_of(
    st.tuples(st.just("create"), numbers, st.fixed_dictionaries(VALUES)),
    st.tuples(few(["save", "part"]), numbers, st.fixed_dictionaries({}, optional=VALUES)),
    st.tuples(st.just("load"), numbers, st.none()),
    st.tuples(st.just("increment"), numbers, few([1, 5])),
    st.tuples(st.just("drop"), names, st.none()),
    st.tuples(st.just("rename"), names, names),
)


def take(world: World, known: dict[int, Values], step: tuple[str, Any, Any]) -> None:
    """What a step does to the rows. A save writes what differs from what its instance knows of the record."""
    verb, which, what = step
    rows, key = world.rows[Show], f"Show:{which}"
    match verb:
        case "create":
            world.insert(Show, {"number": which, **what})
            known[which] = dict(rows[key])
        case "load":
            known.pop(which, None)
            if key in rows:
                known[which] = dict(rows[key])
        case "part" if not what:
            pass
        case "save" | "part":
            own = known.get(which, {})
            world.update(Show, key, {name: value for name, value in what.items() if own.get(name, UNKNOWN) != value})
            known.setdefault(which, {}).update(what)
        case "increment":
            world.update(Show, key, {"seats": rows.get(key, {"seats": 0})["seats"] + what})
            known.setdefault(which, {})["seats"] = rows[key]["seats"]
        case "drop":
            world.drop(Hall, hall_key(which))
        case "rename":
            old, new = hall_key(which), hall_key(what)
            row = world.rows[Hall].pop(old, None)
            if row is None:
                raise RecordGone(old)
            world.rows[Hall][new] = {**row, "name": what}
            for owner, other, name in world.referring(Hall, old) if new != old else ():
                world.rows[owner][other][name] = new


def hall_key(name: str) -> str:
    return f"Hall:{name.replace('%', '%25').replace(':', '%3A')}:1"


async def do(held: dict[int, Any], step: tuple[str, Any, Any]) -> None:
    verb, which, what = step
    show = held.get(which) or held.setdefault(which, Show.ref(number=which)) if isinstance(which, int) else None
    match verb:
        case "create":
            held[which] = await Show.create(number=which, **what)
        case "save" | "part":
            for name, value in what.items():
                setattr(show, name, value)
            await show.save(update_fields=list(what) if verb == "part" else None)
        case "load":
            held.pop(which)
            if (found := await Show.load(number=which)) is not None:
                held[which] = found
        case "increment":
            await show.increment("seats", what)
        case "drop":
            await Hall.ref(name=which, floor=1).delete()
        case "rename":
            hall = Hall.ref(name=which, floor=1)
            hall.name = what
            await hall.save()


async def assert_partitions(rows: Rows) -> None:
    """Ranges and orders in each partition are those of the rows in it."""
    for hall in (None, *map(hall_key, ("a", "b:%", "%null"))):
        own = {key: row for key, row in rows.items() if row["stage"] == hall}
        assert await Show.query.filter(stage=hall).order_by("-seats").keys() == ordered(own, ["-seats"])
        wanted = {key: row for key, row in own.items() if row["seats"] > 2}
        assert await Show.query.filter(stage=hall, seats__gt=2).count() == len(wanted)
        for kind in (None, "x"):
            own = {key: row for key, row in rows.items() if (row["hall"], row["kind"]) == (hall, kind)}
            assert await Show.query.filter(hall=hall, kind=kind).order_by("price").keys() == ordered(own, ["price"])
        for stage in (None, hall_key("a")):
            own = {key: row for key, row in rows.items() if (row["hall"], row["stage"]) == (hall, stage)}
            found = await Show.query.filter(hall=hall, stage=stage, rank__gte=0).order_by("rank").keys()
            assert found == ordered({key: row for key, row in own.items() if row["rank"] is not None}, ["rank"])


@examples(60)
@given(made=st.lists(names, unique=True), steps=st.lists(STEPS, max_size=12))
def test_any_sequence(clean_server: Server, made: list[str], steps: list[tuple[str, Any, Any]]) -> None:
    """Instances are kept from when they were made or loaded, and saved after their targets moved or went."""

    async def run() -> None:
        world, known, held = World(MODELS, RELATIONS), dict[int, Values](), dict[int, Any]()
        for name in made:
            world.rows[Hall][hall_key(name)] = {"name": name, "floor": 1}
        clean_server.client.flushall()
        async with connect(clean_server.unix_url):
            await Hall.create_many({"name": name} for name in made)
            for step in steps:
                after = deepcopy(world)
                try:
                    take(after, known, step)
                except PopotoError as error:
                    with pytest.raises(type(error)):
                        await do(held, step)
                    held.pop(step[1], None)  # it has values that were not stored, or is of no record
                    known.pop(step[1], None)
                else:
                    await do(held, step)
                    world = after
                assert_true(clean_server, MODELS, world.rows)
            assert (await maintenance.check(*MODELS)).clean
            await assert_partitions(world.rows[Show])

    asyncio.run(run())


async def shows(count: int, **values: Any) -> None:
    await Show.create_many(
        {"number": n, "kind": "xy"[n % 2], "price": Decimal(n), "rank": n / 2, "seats": n, **values}
        for n in range(count)
    )


@pytest.mark.parametrize(("count", "trips"), [(150, 1), (450, None)], ids=["at once", "in parts"])
async def test_partitions_follow_their_targets(
    db: Database, clean_server: Server, count: int, trips: int | None
) -> None:
    """Renamed, then deleted: with SET_NULL to the partition of null, with CASCADE gone. Nothing old is left."""
    hall, other = await Hall.create(name="a:1"), await Hall.create(name="b")
    await shows(count, hall=hall)
    stale: Any = await Show.load(number=7)
    loaded: Any = await Show.load(number=8)
    async with trace() as spent:
        hall.name = "%b"
        await hall.save()
    assert trips in (None, spent.round_trips)
    keys = [f"Show:{n}" for n in range(1, count, 2)]
    query = Show.query.filter(hall=hall, kind="y").order_by("price")
    assert await query.keys() == keys
    assert {one.hall.name for one in await query} == {"%b"}
    stale.price = Decimal(-1)  # what it knows of its hall is not what it writes
    await stale.save()
    assert await query.keys() == ["Show:7", *(key for key in keys if key != "Show:7")]
    loaded.hall, loaded.kind = other, "z"
    await loaded.save()
    assert await Show.query.filter(hall=other, kind="z", price__gte=0).keys() == ["Show:8"]
    assert not [key for key in snapshot(clean_server) if b"a%3A1" in key]
    assert_true(clean_server, MODELS)
    async with trace() as spent:
        assert await hall.delete()
    assert trips in (None, spent.round_trips)
    assert await Show.query.filter(hall=None, kind="y", price__gte=0).count() == count // 2 - 1
    assert await Show.query.filter(stage=None, seats__gte=0).count() == count
    stale.price = Decimal(1)
    await stale.save()  # of a hall that is gone
    assert await Show.query.filter(hall=None, kind="y", price__gte=0).count() == count // 2
    assert not [key for key in snapshot(clean_server) if b"%25b" in key]
    assert_true(clean_server, MODELS)
    assert await Show.query.update(stage=other) == count
    assert await Show.query.filter(stage=other, seats__lt=100).order_by("seats").count() == 100
    assert await other.delete()
    assert_true(clean_server, MODELS, {Hall: {}, Show: {}})
    assert (await maintenance.check(*MODELS)).clean


async def test_the_partition_has_to_be_said(db: Database) -> None:
    hall = await Hall.create(name="a")
    await shows(3, hall=hall)
    for lookups in (
        {"price__gte": 1},
        {"price__gte": 1, "hall": hall},
        {"price__gte": 1, "hall__name": "a", "kind": "x"},
    ):
        with pytest.raises(MissingPartition):
            Show.query.filter(**lookups)
    for form in (hall, Hall.ref(name="a", floor=1), "Hall:a:1"):
        assert await Show.query.filter(hall=form, kind="x", price__gte=1).keys() == ["Show:2"]


async def test_damage_in_partitions_is_found_and_repaired(db: Database, clean_server: Server) -> None:
    hall = await Hall.create(name="a")
    await shows(4, hall=hall, stage=hall)
    healthy, client = assert_true(clean_server, MODELS), clean_server.client
    client.zrem("$Sort:Show:price:Hall%3Aa%3A1:x", "Show:0")
    client.zadd("$Sort:Show:price:Hall%3Agone%3A1:x", {"Show:0": 0})
    client.zadd("$Sort:Show:rank:%null:Hall%3Aa%3A1", {"Show:1": 0.5})
    client.zadd("$Sort:Show:seats:Hall%3Aa%3A1", {"Show:9": 9, "Show:2": 3})
    client.zadd("$Index:Show:hall+kind:Hall%3Aa%3A1:y", {"Show:2": 0})
    report = await maintenance.check(Show)
    assert sorted((one.kind, one.key, one.place) for one in report.models[0].damage) == [
        ("extra", "Show:0", "$Sort:Show:price:Hall%3Agone%3A1:x"),
        ("extra", "Show:1", "$Sort:Show:rank:%null:Hall%3Aa%3A1"),
        ("extra", "Show:2", "$Index:Show:hall+kind:Hall%3Aa%3A1:y"),
        ("missing", "Show:0", "$Sort:Show:price:Hall%3Aa%3A1:x"),
        ("orphan", "Show:9", "$Sort:Show:seats:Hall%3Aa%3A1"),
        ("score", "Show:2", "$Sort:Show:seats:Hall%3Aa%3A1"),
    ]
    assert (await maintenance.repair(Show)).left == 0
    assert snapshot(clean_server) == healthy
