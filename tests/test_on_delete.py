"""What deleting a record does to those that refer to it: four ways, whole or in parts, and nothing left behind."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from popoto_async import (
    CASCADE,
    DO_NOTHING,
    PROTECT,
    SET_NULL,
    CorruptIndex,
    Database,
    IndexedField,
    KeyField,
    Model,
    ModelException,
    ProtectedRecord,
    Relationship,
    SortedField,
    StaleRecord,
    UniqueField,
    connect,
    maintenance,
    trace,
    transaction,
)
from tests.examples import examples
from tests.model_of_store import Rows, assert_true, rows_of, snapshot, values_of
from tests.servers import Server

pytestmark = pytest.mark.anyio


class Owner(Model):
    name: str = KeyField()


class Place(Model):
    name: str = KeyField()
    owner = Relationship(Owner, on_delete=CASCADE, related_name="places")
    keeper = Relationship(Owner, on_delete=PROTECT)
    sister = Relationship("self")


class Visit(Model):
    number: int = KeyField()
    mail: str = UniqueField()
    mood: str | None = IndexedField(default="good")
    place = Relationship(Place, related_name="visits")
    second = Relationship(Place)
    before = Relationship("self", on_delete=CASCADE)
    rank: int = SortedField(default=1, partition_by="place")
    score: int | None = SortedField(null=True, partition_by=("mood", "second"))

    class Meta:
        versioned = True
        indexes = ((("place", "second", "mood"), False),)
        unique_together = (("place", "number"),)


class Note(Model):
    text: str = KeyField()
    visit = Relationship(Visit, on_delete=CASCADE)
    owner = Relationship(Owner, on_delete=DO_NOTHING)


MODELS: list[type[Model]] = [Owner, Place, Visit, Note]


async def visits(count: int, **values: Any) -> None:
    await Visit.create_many({"number": n, "mail": str(n), **values} for n in range(count))


async def test_set_null_moves_every_entry_in_the_same_trip(db: Database, clean_server: Server) -> None:
    place, other = await Place.create(name="a:b"), await Place.create(name="b")
    await visits(20, place=place, second=place, score=5)
    await Visit.create(number=99, mail="x", place=other, second=place)
    await Visit.ref(number=1).expire_in(1000)
    async with trace() as spent:
        assert await place.delete()
    assert spent.round_trips == 1
    assert not place.is_saved
    assert await Visit.query.filter(place__isnull=True).count() == 20
    assert await Visit.query.filter(place=None, rank__gte=1).count() == 20
    assert await Visit.query.filter(second__isnull=True).count() == 21
    assert_true(clean_server, MODELS)
    assert not await place.delete()


async def test_a_value_that_went_with_another_record_is_listed_again_in_the_same_call(
    db: Database, clean_server: Server
) -> None:
    first = await Visit.create(number=1, mail="1")
    async with trace() as spent:
        await asyncio.gather(
            Visit.create(number=2, mail="2", mood="odd", before="Visit:1"),
            first.delete(),
            Visit.create(number=3, mail="3", mood="odd"),
        )
    assert spent.round_trips == 1
    assert [visit.number for visit in await Visit.query.filter(mood__startswith="od")] == [3]
    assert_true(clean_server, MODELS)


async def test_a_versioned_referrer_gets_another_version(db: Database) -> None:
    place = await Place.create(name="a")
    await visits(1, place=place)
    stale = await Visit.load(number=0)
    assert stale is not None
    await place.delete()
    stale.mood = "bad"
    with pytest.raises(StaleRecord):
        await stale.save()


async def test_cascades_go_to_the_end_and_around(db: Database, clean_server: Server) -> None:
    owner = await Owner.create(name="o")
    place = await Place.create(name="p", owner=owner)
    await Place.create(name="q", owner=owner, sister=place)
    outside = await Place.create(name="r", sister=place)
    await Visit.create(number=1, mail="1", before="Visit:3", place=place)
    await Visit.create(number=2, mail="2", before="Visit:1", place=outside)
    await Visit.create(number=3, mail="3", before="Visit:2")
    await Visit.create(number=4, mail="4", before="Visit:4")
    await Note.create(text="n", visit="Visit:2", owner=owner)
    async with trace() as spent:
        await owner.delete()
        await Visit.ref(number=1).delete()
        await Visit.ref(number=4).delete()
    assert spent.round_trips == 3
    found = rows_of(assert_true(clean_server, MODELS), MODELS)
    assert found == {Owner: {}, Visit: {}, Note: {}, Place: {
        "Place:r": {"name": "r", "owner": None, "keeper": None, "sister": None},
    }}  # fmt: skip


async def test_protect_names_the_referrers_and_changes_nothing(db: Database, clean_server: Server) -> None:
    owner = await Owner.create(name="o")
    await Place.create_many({"name": str(n), "owner": owner, "keeper": owner if n > 1 else None} for n in range(30))
    await visits(10, place="Place:3")
    before = snapshot(clean_server)
    with pytest.raises(ProtectedRecord, match=r"Place\.keeper") as caught:
        await owner.delete()
    assert caught.value.referrers[0].startswith("Place:")
    assert 0 < len(caught.value.referrers) <= 10
    assert owner.is_saved
    assert snapshot(clean_server) == before
    for place in await Place.query.filter(keeper=owner):
        await place.delete()
    assert await owner.delete()
    assert await Place.query.count() == 0
    assert_true(clean_server, MODELS)


async def test_do_nothing_leaves_the_reference(db: Database, clean_server: Server) -> None:
    owner = await Owner.create(name="o")
    note = await Note.create(text="n", owner=owner)
    await owner.delete()
    assert values_of(await note.refresh())["owner"] == "Owner:o"
    assert_true(clean_server, MODELS)
    await Owner.create(name="o")
    assert (await note.fetch("owner")).name == "o"


async def test_expired_referrers_neither_protect_nor_stay(db: Database, clean_server: Server) -> None:
    owner = await Owner.create(name="o")
    for name, values in (("k", {"keeper": owner}), ("c", {"owner": owner}), ("s", {})):
        await (await Place.create(name=name, **values)).expire_in(0.001)
    while clean_server.client.exists("Place:k", "Place:c", "Place:s"):
        await asyncio.sleep(0.001)
    assert await owner.delete()
    assert await Place.query.count() == 0
    assert_true(clean_server, MODELS)


@pytest.mark.parametrize("count", [2, 450])
async def test_expired_referrers_are_not_brought_back(db: Database, clean_server: Server, count: int) -> None:
    """By becoming null, with the record they referred to: at once, and in parts."""
    place = await Place.create(name="p")
    await visits(count, place=place, score=1)
    for number in range(count - 1):
        clean_server.client.pexpire(f"Visit:{number}", 1)
    while clean_server.client.exists("Visit:0", f"Visit:{count - 2}"):
        await asyncio.sleep(0.001)
    assert await place.delete()
    assert await Visit.query.filter(place__isnull=True).keys() == [f"Visit:{count - 1}"]
    left = {key for key in snapshot(clean_server) if key.startswith(b"Visit:")}
    assert left == {b"Visit:%d" % (count - 1)}
    assert (await maintenance.repair(Visit)).left == 0  # of what ended behind the library's back
    assert_true(clean_server, MODELS)


async def test_thousands_of_referrers_go_in_bounded_parts(db: Database, clean_server: Server) -> None:
    owner = await Owner.create(name="o")
    await Place.create_many({"name": str(n), "owner": owner} for n in range(450))
    await visits(700, place="Place:1", second="Place:2")
    await Note.create_many({"text": str(n), "visit": f"Visit:{n}"} for n in range(10))
    async with trace() as spent:
        assert await owner.delete()
    assert 8 <= spent.round_trips <= 14
    assert await Place.query.count() == 0
    assert await Visit.query.filter(place=None, second=None).count() == 700
    assert await Note.query.count() == 10
    assert_true(clean_server, MODELS)


async def test_a_long_chain_and_a_large_circle_end(db: Database, clean_server: Server) -> None:
    await Visit.create_many({"number": n, "mail": str(n), "before": f"Visit:{(n - 1) % 600}"} for n in range(600))
    assert await Visit.ref(number=0).delete()
    assert await Visit.query.count() == 0
    assert_true(clean_server, MODELS)
    await visits(1)
    await Visit.create_many({"number": n, "mail": str(n), "before": f"Visit:{n - 1}"} for n in range(1, 600))
    assert await Visit.ref(number=0).delete()
    assert await Visit.query.count() == 0
    assert_true(clean_server, MODELS)


async def test_a_protected_record_in_a_large_cascade_stops_it_truthfully(db: Database, clean_server: Server) -> None:
    class Hall(Model):
        name: str = KeyField()

    class Row(Model):
        number: int = KeyField()
        hall = Relationship(Hall, on_delete=CASCADE)

    class Seat(Model):
        number: int = KeyField()
        row = Relationship(Row, on_delete=PROTECT)

    hall = await Hall.create(name="h")
    await Row.create_many({"number": n, "hall": hall} for n in range(500))
    await Seat.create(number=1, row="Row:77")
    with pytest.raises(ProtectedRecord, match="Row:77") as caught:
        await hall.delete()
    assert caught.value.referrers == ("Seat:1",)
    assert hall.is_saved
    left = await Row.query.keys()
    assert 0 < len(left) <= 500
    assert "Row:77" in left
    assert_true(clean_server, [Hall, Row, Seat])
    await Seat.ref(number=1).delete()
    assert await hall.delete()
    assert await Row.query.count() == 0
    assert_true(clean_server, [Hall, Row, Seat])


async def test_a_transaction_undoes_all_of_it(db: Database, clean_server: Server) -> None:
    owner = await Owner.create(name="o")
    place = await Place.create(name="p", owner=owner)
    await visits(5, place=place, score=1)
    await Visit.ref(number=2).expire_in(1000)
    before = snapshot(clean_server)
    with pytest.raises(ModelException):
        async with transaction() as tx:
            tx.delete(owner)
            tx.save(Visit(number=9, mail="1"))
    assert snapshot(clean_server) == before
    assert owner.is_saved
    assert 900_000 < clean_server.client.pttl("Visit:2") <= 1_000_000
    async with transaction() as tx:
        tx.delete(owner)
        tx.save(Visit(number=9, mail="new"))
    assert await Place.query.count() == 0
    assert await Visit.query.filter(place=None).count() == 6
    assert_true(clean_server, MODELS)
    await visits(300, place="Place:z")
    with pytest.raises(ModelException, match="too many for a transaction"):
        async with transaction() as tx:
            tx.delete(await Place.create(name="z"))
    assert await Visit.query.filter(place="Place:z").count() == 300


async def test_something_foreign_in_the_way_changes_nothing(db: Database, clean_server: Server) -> None:
    place = await Place.create(name="p")
    await visits(5, place=place)
    clean_server.client.set("$Rel:Visit:place:%null", "foreign")
    before = snapshot(clean_server)
    with pytest.raises(CorruptIndex):
        await place.delete()
    assert snapshot(clean_server) == before


async def test_classes_that_nobody_refers_to_send_nothing_more(db: Database) -> None:
    await Note.create(text="a")
    async with trace() as spent:
        await Note.ref(text="a").delete()
    assert "delete" in str(spent)
    assert "erase" not in str(spent)


# Any graph -----------------------------------------------------------------------------------------------------------


class Knot(Model):
    number: int = KeyField()
    goes = Relationship("self", on_delete=CASCADE)
    stays = Relationship("self", on_delete=SET_NULL)
    holds = Relationship("self", on_delete=PROTECT)


Refused = type("Refused", (Exception,), {})


def without(rows: Rows, key: str) -> Rows:
    """The rows after a record was deleted. Refused where another one holds what would go."""
    doomed = [key]
    for gone in doomed:
        if any(row["holds"] == gone and other != gone for other, row in rows.items()):
            raise Refused
        doomed += [other for other, row in rows.items() if row["goes"] == gone and other not in doomed]
    left = {other: dict(row) for other, row in rows.items() if other not in doomed}
    for row in left.values():
        if row["stays"] in doomed:
            row["stays"] = None
    return left


refs = st.none() | st.integers(0, 7).map("Knot:{}".format)
knots = st.fixed_dictionaries({"goes": refs, "stays": refs, "holds": st.none() | st.none() | refs})


@given(
    made=st.lists(knots, min_size=1, max_size=8), victims=st.lists(st.integers(0, 7), max_size=4), many=st.booleans()
)
@examples(60)
def check_graphs(server: Server, made: list[dict[str, Any]], victims: list[int], many: bool) -> None:
    rows: Rows = {f"Knot:{n}": {"number": n, **row} for n, row in enumerate(made)}
    extra = range(100, 310) if many else ()  # one more than a call takes

    async def work() -> None:
        nonlocal rows
        async with connect(server.url):
            for n in extra:
                rows[f"Knot:{n}"] = {"number": n, "goes": None, "stays": "Knot:0", "holds": None}
            await asyncio.gather(*(Knot.create(**row) for row in rows.values()))
            for n in victims:
                try:
                    wanted = without(rows, f"Knot:{n}") if f"Knot:{n}" in rows else rows
                except Refused:
                    # Where it is done in parts, what holds the record may have gone before.
                    with suppress(ProtectedRecord) if many else pytest.raises(ProtectedRecord):
                        await Knot.ref(number=n).delete()
                    before, rows = rows, {one.db_key.redis_key: values_of(one) for one in await Knot.query}
                    assert many or rows == before
                else:
                    await Knot.ref(number=n).delete()
                    rows = wanted
                assert_true(server, [Knot], {Knot: rows})

    server.client.flushall()
    asyncio.run(work())


def test_any_graph(clean_server: Server) -> None:
    check_graphs(clean_server)


def without_all(rows: Rows, keys: set[str]) -> Rows:
    """The rows after all of these that can be deleted were: what protects one may go after it, or with another."""
    while True:
        for key in keys & rows.keys():
            with suppress(Refused):
                rows = without(rows, key)
                break
        else:
            return rows


@given(
    made=st.lists(knots, min_size=1, max_size=8),
    victims=st.sets(st.integers(0, 7), max_size=8),
    limited=st.booleans(),
)
@examples(60)
def check_queries(server: Server, made: list[dict[str, Any]], victims: set[int], limited: bool) -> None:
    rows: Rows = {f"Knot:{n}": {"number": n, **row} for n, row in enumerate(made)}
    asked = {f"Knot:{n}" for n in victims} & rows.keys()
    left = without_all(rows, asked)

    async def work() -> None:
        async with connect(server.url):
            await asyncio.gather(*(Knot.create(**row) for row in rows.values()))
            query = Knot.query.filter(number__in=sorted(victims))
            query = query.order_by("number").limit(8) if limited else query
            if asked & left.keys():
                with pytest.raises(ProtectedRecord) as caught:
                    await query.delete()
                assert caught.value.key in left
                assert set(caught.value.referrers) <= left.keys()
            else:
                assert (await query.delete() > 0) is bool(asked)
            assert_true(server, [Knot], {Knot: left})

    server.client.flushall()
    asyncio.run(work())


def test_any_graph_by_query(clean_server: Server) -> None:
    """Whether something is deleted does not depend on the order in which a query comes to it."""
    check_queries(clean_server)


@pytest.mark.parametrize("order", [1, -1])
async def test_a_query_deletes_what_protects_one_another(db: Database, clean_server: Server, order: int) -> None:
    """Each refers to the one before or after it: few passes, whatever the number."""
    numbers = range(1000, 1500)[::order]
    chain = [{"number": n, "holds": f"Knot:{before}"} for before, n in pairwise(numbers)]
    await Knot.create_many([{"number": numbers[0]}, *chain, {"number": 2000, "holds": f"Knot:{numbers[-1]}"}])
    with pytest.raises(ProtectedRecord) as caught:
        await Knot.query.filter(number__in=list(numbers)).delete()
    assert caught.value.__notes__[-1] == "0 records had been changed; each is changed whole or not at all"
    assert await Knot.query.count() == 501
    async with trace() as spent:
        assert await Knot.query.delete() == 501
    assert spent.round_trips < 100  # how many share one depends on how fast the server answers
    assert_true(clean_server, [Knot], {})


async def test_a_query_deletes_a_page_of_what_protects_one_another(db: Database, clean_server: Server) -> None:
    """And nothing else, though the query would have others in it by then."""
    await Knot.create_many({"number": n, "holds": f"Knot:{n - 1}" if n % 3 else None} for n in range(9))
    assert await Knot.query.order_by("number").limit(6).delete() == 6
    assert await Knot.query.keys() == ["Knot:6", "Knot:7", "Knot:8"]
    with pytest.raises(ProtectedRecord) as caught:
        await Knot.query.order_by("number").limit(2).delete()
    assert (caught.value.key, caught.value.referrers) == ("Knot:6", ("Knot:7",))
    assert await Knot.query.keys() == ["Knot:6", "Knot:7", "Knot:8"]
    assert_true(clean_server, [Knot])


async def test_what_no_query_takes_stays_and_the_rest_goes(db: Database, clean_server: Server) -> None:
    """A protector of another class, that of one record; and one that goes along with another record of the query."""
    for name in "abc":
        await Owner.create(name=name)
    await Place.create(name="x", keeper="Owner:b")
    await Place.create(name="y", keeper="Owner:c", owner="Owner:a")
    with pytest.raises(ProtectedRecord, match=r"Place\.keeper") as caught:
        await Owner.query.delete()
    assert caught.value.referrers == ("Place:x",)
    assert caught.value.__notes__[-1:] == ["2 records had been changed; each is changed whole or not at all"]
    assert (await Owner.query.keys(), await Place.query.keys()) == (["Owner:b"], ["Place:x"])
    assert_true(clean_server, MODELS)


async def test_hooks_of_what_is_protected_at_first(db: Database) -> None:
    called: list[str] = []

    class Part(Model):
        name: str = KeyField()
        whole = Relationship("self", on_delete=PROTECT)

        async def before_delete(self) -> None:
            called.append(f"before {self.name}")

        async def after_delete(self) -> None:
            called.append(f"after {self.name}")

    await Part.create(name="a")
    await Part.create(name="b", whole="Part:a")
    assert await Part.query.delete() == 2
    assert sorted(called) == ["after a", "after b", "before a", "before a", "before b"]


async def test_instances_are_deleted_in_the_order_given(db: Database, clean_server: Server) -> None:
    """What protects one has to come before it; or the failures are given once more."""
    made = [await Knot.create(number=n, holds=f"Knot:{n - 1}" if n else None) for n in range(3)]
    summary = await Knot.delete_many(made)
    assert (summary.done, [item.number for item, _ in summary.failures]) == (1, [0, 1])
    summary = await Knot.delete_many(item for item, _ in reversed(summary.failures))
    assert (summary.done, summary.failed) == (2, 0)
    assert_true(clean_server, [Knot], {})
