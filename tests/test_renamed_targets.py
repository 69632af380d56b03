"""A record whose key changes takes along what refers to it: at once, or in parts that nobody notices."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from popoto_async import (
    CASCADE,
    DO_NOTHING,
    PROTECT,
    CorruptIndex,
    Database,
    IndexedField,
    KeyField,
    Model,
    ModelException,
    RecordGone,
    Relationship,
    SortedField,
    StaleRecord,
    UniqueViolation,
    connect,
    saving,
    trace,
    transaction,
)
from tests.model_of_store import assert_true, rows_of, snapshot
from tests.servers import Server

pytestmark = pytest.mark.anyio


class Place(Model):
    name: str = KeyField()
    cuisine: str | None = IndexedField()
    sister = Relationship("self")


class Visit(Model):
    number: int = KeyField()
    place = Relationship(Place, on_delete=CASCADE, related_name="visits")
    second = Relationship(Place, on_delete=PROTECT)
    third = Relationship(Place, on_delete=DO_NOTHING)
    before = Relationship("self")
    rank: int = SortedField(default=1, partition_by=("place", "number"))
    score: int | None = SortedField(null=True, partition_by="place")

    class Meta:
        indexes = ((("place", "number", "second"), False),)


class Seat(Model):
    code: str = KeyField()
    place = Relationship(Place)
    number: int = SortedField()

    class Meta:
        versioned = True
        unique_together = (("place", "number"),)


MODELS: list[type[Model]] = [Place, Visit, Seat]


async def visits(count: int, **values: Any) -> None:
    await Visit.create_many({"number": n, **values} for n in range(count))


async def rename(place: Any, name: str) -> None:
    place.name = name
    await place.save()


@pytest.fixture
def cut_off(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Renames end after their first call, as those of a process that dies do."""

    async def nothing(schema: Any, state: Any, *times: Any) -> None:
        state.pop("_moved", None)

    monkeypatch.setattr(saving, "rewrite", nothing)
    return monkeypatch


async def test_everything_follows_in_the_same_trip(db: Database, clean_server: Server) -> None:
    place, other = await Place.create(name="a:b", cuisine="Thai"), await Place.create(name="o")
    await visits(20, place=place, second=other, third=place, score=3)
    await Visit.create(number=99, place=other, second=place)
    await Seat.create(code="s", place=place, number=1)
    await Visit.ref(number=1).expire_in(1000)
    loaded = await Visit.load(number=0)
    assert loaded is not None
    async with trace() as spent:
        await rename(place, "%new{}")
    assert spent.round_trips == 1
    found = rows_of(assert_true(clean_server, MODELS), MODELS)
    key = "Place:%25new%7B%7D"
    assert {row["place"] for row in found[Visit].values()} == {key, "Place:o"}
    assert {row["third"] for row in found[Visit].values()} == {key, None}
    assert found[Visit]["Visit:99"]["second"] == key
    assert await Visit.query.filter(place=place, score__gte=3).count() == 20
    assert await place.visits.count() == 20
    assert await Visit.query.filter(place__cuisine="Thai").count() == 20
    assert await Place.load(name="a:b") is None
    with pytest.raises(RecordGone):
        await loaded.place
    loaded.score = 4
    await loaded.save()  # what it knows of the place is not what it writes
    assert_true(clean_server, MODELS)


async def test_records_that_refer_to_themselves(db: Database, clean_server: Server) -> None:
    place = await Place.create(name="a", sister="Place:a")
    twin = await Place.create(name="b")
    twin.sister = twin
    await twin.save()
    for one, name in ((place, "c"), (twin, "d"), (place, "e"), (twin, "a")):
        await rename(one, name)
        assert one.sister.db_key.redis_key == f"Place:{name}"
        found = rows_of(assert_true(clean_server, MODELS), MODELS)[Place]
        assert found[f"Place:{name}"]["sister"] == f"Place:{name}"
    await place.save()
    await twin.save()
    assert_true(clean_server, MODELS)


async def test_a_versioned_record_that_refers_to_itself_gets_one_version(db: Database, clean_server: Server) -> None:
    """The one that its saver knows: it may go on saving."""

    class Node(Model):
        name: str = KeyField()
        size: int = SortedField(default=1)
        up = Relationship("self")

        class Meta:
            versioned = True

    node = await Node.create(name="a", up="Node:a")
    for size, name in enumerate("bcd"):
        node.name, node.size = name, size
        await node.save()
        assert node.up.db_key.redis_key == f"Node:{name}"
        node.size += 10
        await node.save()
    assert_true(clean_server, [Node], {Node: {"Node:d": {"name": "d", "size": 12, "up": "Node:d"}}})


async def test_a_versioned_referrer_gets_another_version(db: Database) -> None:
    place = await Place.create(name="a")
    stale = await Seat.create(code="s", place=place, number=1)
    await rename(place, "b")
    stale.number = 2
    with pytest.raises(StaleRecord):
        await stale.save()


async def test_a_renamed_record_takes_the_place_of_another_with_its_referrers(
    db: Database, clean_server: Server
) -> None:
    first, second = await Place.create(name="a"), await Place.create(name="b")
    await Visit.create(number=1, place=first)
    await Visit.create(number=2, place=second)
    await rename(first, "b")
    assert await first.visits.count() == 2
    assert_true(clean_server, MODELS)
    third = await Place.create(name="c")
    await Seat.create(code="1", place=first, number=1)
    await Seat.create(code="2", place=third, number=1)
    before = snapshot(clean_server)
    third.name = "b"
    with pytest.raises(UniqueViolation, match="Seat:2"):
        await third.save()
    assert snapshot(clean_server) == before


async def test_something_foreign_in_the_way_changes_nothing(db: Database, clean_server: Server) -> None:
    place = await Place.create(name="a", sister="Place:a")
    await visits(3, place=place, third=place)
    await Visit.ref(number=1).expire_in(1000)
    clean_server.client.set("$Rel:Visit:third:Place:b", "foreign")
    before = snapshot(clean_server)
    with pytest.raises(CorruptIndex):
        await rename(place, "b")
    assert snapshot(clean_server) == before
    async with transaction() as tx:
        place.name = "c"
        tx.save(place)
    assert await Visit.query.filter(place=place).count() == 3
    before = snapshot(clean_server)
    place.name = "b"
    with pytest.raises(CorruptIndex):
        async with transaction() as tx:
            tx.save(Place(name="n"))
            tx.save(place)
    assert snapshot(clean_server) == before


async def test_a_transaction_takes_references_along_or_undoes_it(db: Database, clean_server: Server) -> None:
    place = await Place.create(name="a")
    await visits(300, place=place)
    before = snapshot(clean_server)
    place.name = "b"
    with pytest.raises(ModelException):
        async with transaction() as tx:
            tx.save(place)
            tx.save(Place.ref(name="none"))
    assert snapshot(clean_server) == before
    async with transaction() as tx:
        tx.save(place)
    assert await place.visits.count() == 300
    assert_true(clean_server, MODELS)


async def test_thousands_follow_in_bounded_parts(db: Database, clean_server: Server) -> None:
    place = await Place.create(name="a")
    await visits(1000, place=place, third=place)
    async with trace() as spent:
        await rename(place, "b")
    assert 9 <= spent.round_trips <= 12
    assert await place.visits.count() == 1000
    assert_true(clean_server, MODELS)


@pytest.mark.parametrize("count", [2, 450])
async def test_expired_referrers_are_not_brought_back(db: Database, clean_server: Server, count: int) -> None:
    """By following: at once, and in parts."""
    place = await Place.create(name="a")
    await visits(count, place=place, third=place, score=1)
    for number in range(count - 1):
        await Visit.ref(number=number).expire_in(0.001)
    while clean_server.client.exists("Visit:0", f"Visit:{count - 2}"):
        await asyncio.sleep(0.001)
    await rename(place, "b")
    left = {key for key in snapshot(clean_server) if key.startswith(b"Visit:")}
    assert left == {b"Visit:%d" % (count - 1)}
    assert await place.visits.count() == 1
    assert_true(clean_server, MODELS)


async def test_until_all_have_followed_nobody_notices(
    db: Database, clean_server: Server, cut_off: pytest.MonkeyPatch
) -> None:
    place = await Place.create(name="a", cuisine="Thai", sister="Place:a")
    await visits(450, place=place, third=place)
    await rename(place, "b")
    assert clean_server.client.hexists("$Alias:Place", "Place:a")
    keys = {f"Visit:{n}" for n in range(450)}
    for query in (
        Visit.query.filter(place=place),
        Visit.query.filter(place__in=[place, "Place:x"]),
        Visit.query.filter(place__cuisine="Thai"),
        Visit.query.filter(place__name="b", third__sister__name="b"),
        Visit.query.filter(place__cuisine="Thai", number__in=list(range(450))),
        place.visits,
    ):
        assert set(await query.keys()) == keys
        assert await query.count() == 450
    assert await Visit.query.filter(place__name="a").count() == 0
    rows = await Visit.query.prefetch("place")
    assert {row.place.name for row in rows} == {"b"}
    last = await Visit.query.filter(place="Place:a").first()
    assert last is not None
    assert (await last.place).name == "b"
    assert await Visit.ref(number=last.number).delete()  # by its manifest, which still has the earlier key
    other = await Visit.query.filter(place="Place:a").last()
    assert other is not None
    other.score = 5
    await other.save()
    await rename(place, "c")  # before all have heard of the first
    assert await place.visits.count() == 449
    assert len(await Visit.query.filter(place__cuisine="Thai")) == 449
    cut_off.undo()
    await Place.create(name="a")  # whose references must not be taken for those to come
    assert await place.visits.count() == 449
    assert await Visit.query.filter(place__name="a").count() == 0
    await Place.create(name="b")
    assert not clean_server.client.exists("$Alias:Place")
    assert_true(clean_server, MODELS)
    assert {row["place"] for row in rows_of(snapshot(clean_server), MODELS)[Visit].values()} == {"Place:c"}


async def test_a_transaction_does_not_wait_for_references_that_follow(
    db: Database, cut_off: pytest.MonkeyPatch
) -> None:
    place = await Place.create(name="a")
    await visits(450, place=place)
    await rename(place, "b")
    with pytest.raises(ModelException, match="still being told"):
        async with transaction() as tx:
            tx.save(Place(name="a"))
    assert await place.visits.count() == 450


async def test_deleting_while_references_follow(
    db: Database, clean_server: Server, cut_off: pytest.MonkeyPatch
) -> None:
    place = await Place.create(name="a")
    await visits(450, place=place)
    await rename(place, "b")
    assert await place.delete()
    assert await Visit.query.count() == 0
    assert not clean_server.client.exists("$Alias:Place")
    assert_true(clean_server, MODELS)


async def test_two_clients_rename_while_others_refer(clean_server: Server) -> None:
    async with connect(clean_server.url), connect(clean_server.url):
        place = await Place.create(name="0")
        await visits(30, place=place)

        async def follow() -> None:
            for n in range(30):
                visit = await Visit.load(number=n)
                assert visit is not None
                visit.score = n
                await visit.save()

        async def go() -> None:
            for n in range(1, 20):
                await rename(place, str(n))

        await asyncio.gather(follow(), go())
        assert await place.visits.count() == 30
    assert_true(clean_server, MODELS)
