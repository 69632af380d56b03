"""The verbs of one record: what each stores, returns, costs, and leaves on the instance."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal
from uuid import uuid4

import pytest

from popoto_async import (
    AlreadyExists,
    AutoKeyField,
    Database,
    DatetimeField,
    DefinitionError,
    Field,
    GeoField,
    IndexedField,
    KeyField,
    ListField,
    Model,
    ModelException,
    MultipleResults,
    RecordGone,
    SetField,
    SortedField,
    StaleRecord,
    Timestampable,
    UniqueField,
    UnknownField,
    ValidationError,
    connect,
    trace,
    transaction,
    using,
)
from tests.model_of_store import assert_true, snapshot
from tests.proxy import FaultProxy
from tests.servers import Server, count_commands

pytestmark = pytest.mark.anyio


class Cafe(Model):
    name = KeyField()
    street = KeyField()
    cuisine = IndexedField(type=str, null=True)
    rating = SortedField(type=float, null=True, partition_by="cuisine")
    email = UniqueField()
    place = GeoField()
    seats = Field(type=int, default=0)
    price = Field(type=Decimal, null=True)


class Post(Timestampable, Model):
    slug = KeyField()
    title = Field(type=str, max_length=20)
    views = Field(type=int, default=0)
    tags = SetField(default=set)
    extra = Field(type=dict, default=dict)
    published = DatetimeField(auto_now_add=True)


class Keyless(Model):
    text = Field()


class Guarded(Model):
    id = KeyField()
    name = IndexedField(type=str, null=True)

    class Meta:
        immutable_key = True


class Page(Model):
    id = KeyField()
    text = Field(type=str, default="")

    class Meta:
        versioned = True


class Abstract(Model):
    id = KeyField()

    class Meta:
        abstract = True


def cafe(name: str = "Siam", street: str = "Main", **values: Any) -> dict[str, Any]:
    return {"name": name, "street": street, "email": f"{name}@{street}", **values}


async def must(found: Awaitable[Any]) -> Any:
    record = await found
    assert record is not None
    return record


# One round trip -----------------------------------------------------------------------------------------------------


async def commit(*records: Any) -> None:
    async with transaction() as tx:
        for record in records:
            tx.save(record)


async def commit_delete(record: Any) -> None:
    async with transaction() as tx:
        tx.delete(record)


async def change(record: Cafe, **values: Any) -> bool:
    for name, value in values.items():
        setattr(record, name, value)
    return await record.save()


ONE_TRIP: dict[str, Callable[[Cafe], Awaitable[Any]]] = {
    "create": lambda record: Cafe.create(**cafe("b", cuisine="Thai", rating=3, place=(1, 2))),
    "create over": lambda record: Cafe.create(**cafe(cuisine="Thai", rating=3, place=(1, 2))),
    "save": lambda record: change(record, cuisine="Greek", rating=1, email="c", place=(3, 4), seats=5),
    "rename": lambda record: change(record, name="Roma", street="Side"),
    "save of nothing": lambda record: record.save(),
    "save of a field": lambda record: record.save(update_fields=["rating"]),
    "delete": lambda record: record.delete(),
    "load": lambda record: Cafe.load(name="Siam", street="Main"),
    "load by a part of the key": lambda record: Cafe.load(name="Siam"),
    "get": lambda record: Cafe.query.get(email="Siam@Main"),
    "get by key": lambda record: Cafe.query.get(name="Siam", street="Main"),
    "exists": lambda record: Cafe.exists(name="Siam", street="Main"),
    "count": lambda record: Cafe.query.filter(cuisine="Thai", rating__gt=0).count(),
    "filter": lambda record: Cafe.query.filter(cuisine="Thai").order_by("-rating").limit(3).all(),
    "refresh": lambda record: record.refresh(),
    "increment": lambda record: record.increment("seats"),
    "expire": lambda record: record.expire_in(100),
    "persist": lambda record: record.persist(),
    "get_or_create, there": lambda record: Cafe.get_or_create(email="Siam@Main", defaults={"name": "x", "street": "y"}),
    "get_or_create, new": lambda record: Cafe.get_or_create(name="x", street="y", defaults={"email": "z"}),
    "get_or_create, there, without what a new one needs": lambda record: Cafe.get_or_create(email="Siam@Main"),
    "transaction": lambda record: commit(record, Cafe(**cafe("b")), Cafe(**cafe("c"))),
}


@pytest.mark.parametrize("verb", ONE_TRIP)
async def test_one_round_trip(db: Database, clean_server: Server, verb: str) -> None:
    record = await Cafe.create(**cafe(cuisine="Thai", rating=4.5, place=(1, 1)))
    await Cafe.load(name="nobody", street="nowhere")  # the server knows both scripts then
    with count_commands(clean_server) as counted:
        async with trace() as traced:
            await ONE_TRIP[verb](record)
    assert (len(traced.operations), traced.round_trips) == (1, 1)
    assert counted.round_trips == 1
    assert_true(clean_server, [Cafe])


async def test_what_is_not_touched_costs_no_command(db: Database, clean_server: Server) -> None:
    """An unchanged manifest costs a comparison: no index is read or written."""
    record = await Cafe.create(**cafe(cuisine="Thai", rating=4.5, place=(1, 1)))
    indexing = {"zadd", "zrem", "zscore", "hdel", "hsetnx", "del", "rename"}
    for work in (lambda: change(record, seats=7), lambda: record.save(), lambda: record.increment("seats")):
        with count_commands(clean_server) as counted:
            await work()
        assert indexing & {name for name, calls in counted.calls.items() if calls} <= {"zscore"}
        assert counted.calls["zscore"] <= 1, "the deadline"
    with count_commands(clean_server) as counted:
        await change(record, email="other")
    assert (counted.calls["zadd"], counted.calls["zrem"]) == (1, 1), "the list of emails"


# Save ---------------------------------------------------------------------------------------------------------------


async def test_a_save_without_a_change_goes_to_the_server(db: Database) -> None:
    post = await Post.create(slug="a")
    before = post.updated_at
    assert await post.save() is True
    assert post.updated_at > before
    await (await must(Post.load(slug="a"))).delete()
    with pytest.raises(RecordGone):
        await post.save()
    record = await Cafe.create(**cafe())
    await (await must(Cafe.load(name="Siam"))).delete()
    with pytest.raises(RecordGone):
        await record.save()


async def test_update_fields_validates_and_writes_those_and_the_auto_now_ones(db: Database) -> None:
    post: Any = await Post.create(slug="a", title="first")
    before, post.title, post.views = post.updated_at, "second", "many"
    await post.save(update_fields=["title"])
    stored = await must(Post.load(slug="a"))
    assert (stored.title, stored.views) == ("second", 0)
    assert stored.updated_at == post.updated_at > before
    assert post.views == "many", "what was not saved stays assigned"
    with pytest.raises(ValidationError):
        await post.save(update_fields=["views", "title"])
    with pytest.raises(ValidationError):
        await post.save()
    post.views = 3
    async with trace() as traced:
        assert await post.save(update_fields=[])
    assert traced.operations == []
    assert (await must(Post.load(slug="a"))).updated_at == stored.updated_at
    with pytest.raises(UnknownField):
        await post.save(update_fields=["title", "nmae"])
    assert await post.save(), "and the rest with the next whole save"
    assert (await must(Post.load(slug="a"))).views == 3


async def test_a_partial_save_may_move_the_record(db: Database, clean_server: Server) -> None:
    record = await Cafe.create(**cafe(cuisine="Thai", rating=1))
    record.name, record.seats = "Roma", 9
    await record.save(update_fields=["name"])
    assert await Cafe.query.keys() == ["Cafe:Roma:Main"]
    assert (await must(Cafe.load(name="Roma"))).seats == 0
    assert_true(clean_server, [Cafe])


async def test_one_reading_of_the_servers_clock_for_each_save(db: Database, clean_server: Server) -> None:
    def now() -> datetime:
        seconds, micros = clean_server.client.time()
        return datetime.fromtimestamp(seconds, UTC) + timedelta(microseconds=micros)

    slack = timedelta(milliseconds=50)
    before = now()
    post = await Post.create(slug="a")
    assert before - slack <= post.created_at <= now() + slack
    assert post.created_at == post.updated_at == post.published
    stored = await must(Post.load(slug="a"))
    assert (stored.created_at, stored.updated_at) == (post.created_at, post.updated_at)
    created = post.created_at
    await post.save()
    await post.save(update_fields=["title"])
    assert post.created_at == created < post.updated_at
    assert (await must(Post.load(slug="a"))).updated_at == post.updated_at


async def test_an_explicit_value_wins_over_auto_now_add_and_not_over_auto_now(db: Database) -> None:
    long_ago = datetime(2001, 2, 3, tzinfo=UTC)
    post = await Post.create(slug="a", created_at=long_ago, updated_at=long_ago)
    assert post.created_at == long_ago < post.updated_at
    post.created_at = long_ago + timedelta(days=1)
    await post.save()
    assert (await must(Post.load(slug="a"))).created_at == long_ago + timedelta(days=1)


async def test_changes_in_place_count_as_changed(db: Database) -> None:
    post = await Post.create(slug="a", tags={"x", "y"}, extra={"deep": [{"n": 1}]})
    post.tags.add("z")
    post.extra["deep"][0]["n"] = 2
    other = await must(Post.load(slug="a"))
    other.title = "other"
    await other.save()
    await post.save()
    stored = await must(Post.load(slug="a"))
    assert (stored.tags, stored.extra, stored.title) == ({"x", "y", "z"}, {"deep": [{"n": 2}]}, "other")


async def test_two_writers_of_different_fields_don_t_undo_each_other(db: Database) -> None:
    await Cafe.create(**cafe())
    one, two = await must(Cafe.load(name="Siam")), await must(Cafe.load(name="Siam"))
    one.seats, two.cuisine = 5, "Thai"
    await asyncio.gather(one.save(), two.save())
    stored = await must(Cafe.load(name="Siam"))
    assert (stored.seats, stored.cuisine) == (5, "Thai")


async def test_if_gone(db: Database, clean_server: Server) -> None:
    record = await Cafe.create(**cafe(cuisine="Thai", rating=1))
    await (await must(Cafe.load(name="Siam"))).delete()
    record.seats = 5
    assert await record.save(if_gone="create")
    assert (await must(Cafe.load(name="Siam"))).to_dict() == record.to_dict()
    record.seats = 6
    assert await record.save(if_gone="create"), "and it is an ordinary save where the record is there"
    assert (await must(Cafe.load(name="Siam"))).seats == 6
    assert_true(clean_server, [Cafe])


async def test_if_gone_and_back_again_meanwhile(db: Database, clean_server: Server) -> None:
    """Deleted, and made again by somebody else between the two calls that it takes: a save of that record then."""
    async with FaultProxy(clean_server) as proxy, connect(proxy.url):
        record = await Cafe.create(**cafe(cuisine="Thai"))
        with using(db):
            await (await must(Cafe.load(name="Siam"))).delete()
        record.seats = 5
        held = proxy.hold_reply(command="EVALSHA")
        saving = asyncio.create_task(record.save(if_gone="create"))
        await held.happened()
        with using(db):
            await Cafe.create(**cafe(cuisine="Greek", price=Decimal(3)))
        held.release()
        assert await saving
    stored = await must(Cafe.load(name="Siam"))
    assert (stored.seats, stored.cuisine, stored.price) == (5, "Greek", Decimal(3))
    assert_true(clean_server, [Cafe])


@pytest.mark.parametrize("if_exists", ["error", "overwrite"])
async def test_if_gone_and_to_go_where_another_record_stands(
    db: Database, clean_server: Server, if_exists: Literal["error", "overwrite"]
) -> None:
    record = await Cafe.create(**cafe(cuisine="Thai"))
    other = await Cafe.create(**cafe(name="Roma", cuisine="Italian"))
    await (await must(Cafe.load(name="Siam"))).delete()
    record.name = "Roma"
    async with asyncio.timeout(20), trace() as t:
        if if_exists == "error":
            with pytest.raises(AlreadyExists, match="Cafe:Roma"):
                await record.save(if_gone="create", if_exists="error")
            assert record.db_key.redis_key == "Cafe:Siam:Main", "the instance is what it was"
        else:
            assert await record.save(if_gone="create")
    assert t.round_trips == 2
    standing = other if if_exists == "error" else record
    assert [one.to_dict() for one in await Cafe.query] == [standing.to_dict()]
    assert_true(clean_server, [Cafe])


async def test_a_stale_version_and_its_way_out(db: Database) -> None:
    await Page.create(id="a")
    one, two = await must(Page.load(id="a")), await must(Page.load(id="a"))
    one.text, two.text = "one", "two"
    await one.save()
    with pytest.raises(StaleRecord):
        await two.save()
    assert await (await two.refresh()).save()
    one.text = "again"
    with pytest.raises(StaleRecord):
        await one.save()


async def test_a_version_is_none_that_an_earlier_record_of_the_key_had(db: Database) -> None:
    ways = {"over": lambda: Page.create(id="over"), "anew": lambda: _deleted_and_created(Page(id="anew"))}
    for name, again in ways.items():
        await Page.create(id=name)
        stale = await must(Page.load(id=name))
        await again()
        stale.text = "of another record"
        with pytest.raises(StaleRecord):
            await stale.save()


async def _deleted_and_created(record: Any) -> None:
    assert await record.delete()
    await record.save()


async def test_an_immutable_key(db: Database) -> None:
    record = await Guarded.create(id="a", name="x")
    record.name = "y"
    assert await record.save()
    record.id = "b"
    async with trace() as traced:
        for save in (record.save, lambda: record.save(update_fields=["id"]), lambda: commit(record)):
            with pytest.raises(ModelException, match="immutable_key") as caught:
                await save()
            assert (caught.value.model, caught.value.key) == ("Guarded", "Guarded:a")
    assert traced.operations == []
    assert await Guarded.query.keys() == ["Guarded:a"]


async def test_abstract_models_are_not_saved(db: Database) -> None:
    for save in (Abstract(id="a").save, lambda: Abstract.create(id="a"), lambda: commit(Abstract(id="a"))):
        with pytest.raises(DefinitionError, match="abstract"):
            await save()


# Delete -------------------------------------------------------------------------------------------------------------


async def test_delete(db: Database, clean_server: Server) -> None:
    record = await Cafe.create(**cafe(cuisine="Thai", rating=1))
    assert record.is_saved
    assert await record.delete() is True
    assert not record.is_saved
    assert await record.delete() is False
    assert await record.save(), "it is a new instance then"
    assert record.is_saved
    assert await Cafe(name="Siam", street="Main").delete() is True, "by its key, without having been loaded"
    assert snapshot(clean_server).keys() == {b"$Slots:Cafe"}


@pytest.mark.parametrize("name", [5, None, "\ud800", ["x"]])
async def test_a_key_that_can_not_be(db: Database, name: Any) -> None:
    record = Cafe(**cafe(name))
    uses: list[Callable[[], Any]] = [lambda: record.db_key, record.delete, lambda: commit_delete(record)]
    for use in uses:
        with pytest.raises(ValidationError) as caught:
            await use()
        assert (caught.value.model, caught.value.field) == ("Cafe", "name")
    assert (await Cafe.delete_many([record])).failed == 1
    assert db.stats().operations == 0


# Looking at an instance ---------------------------------------------------------------------------------------------


async def test_the_key_of_a_record(db: Database) -> None:
    record = Cafe(**cafe("Siam Garden", "a:b"))
    assert record.db_key.redis_key == "Cafe:Siam Garden:a%3Ab", "unsaved, the key it would get"
    record.name = "Other"
    assert record.db_key.redis_key == "Cafe:Other:a%3Ab"
    await record.save()
    record.name = "Third"
    assert record.db_key.redis_key == "Cafe:Other:a%3Ab", "the stored key until a save moves it"
    await record.save()
    assert record.db_key.redis_key == "Cafe:Third:a%3Ab"
    await record.delete()
    assert record.db_key.redis_key == "Cafe:Third:a%3Ab"


async def test_equality(db: Database) -> None:
    record = await Cafe.create(**cafe())
    again = await must(Cafe.load(name="Siam"))
    other = await Cafe.create(**cafe("Roma"))
    again.seats = 99
    assert record == again
    assert hash(record) == hash(again)
    assert {record, again, other} == {record, other}
    assert record != other
    assert Cafe(**cafe()) != Cafe(**cafe()), "unsaved ones by identity"
    unsaved = Cafe(**cafe())
    assert unsaved == unsaved
    assert len({unsaved, Cafe(**cafe())}) == 2
    assert unsaved != record
    assert await Page.create(id="x") != await Guarded.create(id="x")
    twins = [type("Twin", (Model,), {"__qualname__": "<locals>.Twin", "id": KeyField()}) for _ in range(2)]
    one, two = [await twin.create(id="x") for twin in twins]
    assert one.db_key == two.db_key
    assert one != two, "records of two classes"


async def test_to_dict_and_a_hidden_key(db: Database) -> None:
    record = await Keyless.create(text="x")
    assert record.to_dict() == {"text": "x"}
    assert await Keyless.query.values() == [{"text": "x"}]
    assert await must(Keyless.query.first()) == record
    assert len(record.db_key.redis_key) == len("Keyless:") + 32


async def test_values_by_default_are_made_for_each_instance(db: Database) -> None:
    class Made(Model):
        id = AutoKeyField(strategy="ulid")
        token = Field(type=str, default=uuid4)
        tags = Field(type=list, default=list)

    one, two = await Made.create(), await Made.create()
    assert one.id < two.id
    assert (len(one.token), one.token != two.token) == (36, True), "a str field turns a UUID into its text"
    one.tags.append("x")
    assert two.tags == []
    assert (await must(Made.load(id=one.id))).token == one.token
    assert (await Made.create(id="mine")).id == "mine"


# Reading one --------------------------------------------------------------------------------------------------------


async def test_load_with_a_part_of_the_key(db: Database) -> None:
    await Cafe.create(**cafe())
    assert (await must(Cafe.load(street="Main"))).name == "Siam"
    await Cafe.create(**cafe("Roma"))
    with pytest.raises(MultipleResults):
        await Cafe.load(street="Main")
    assert await Cafe.load(street="Side") is None
    assert await Cafe.exists(street="Main")
    assert not await Cafe.exists(street="Side")


async def test_refresh(db: Database) -> None:
    record = await Cafe.create(**cafe(cuisine="Thai", seats=3))
    other = await must(Cafe.load(name="Siam"))
    other.cuisine, other.seats = "Greek", 8
    await other.save()
    record.cuisine, record.price = "Lao", Decimal(5)
    assert await record.refresh("seats") is record
    assert (record.seats, record.cuisine, record.price) == (8, "Lao", Decimal(5))
    await record.refresh()
    assert (record.seats, record.cuisine, record.price) == (8, "Greek", None)
    assert await record.save()
    assert (await must(Cafe.load(name="Siam"))).to_dict() == record.to_dict()


# Numbers ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "by", "total"),
    [
        (None, Decimal("0.1"), "0.1"),
        (Decimal("1.10"), Decimal("-0.1"), "1.00"),
        (Decimal("0.1"), 2, "2.1"),
        (Decimal("1E+30"), Decimal("1E-30"), f"1{'0' * 30}.{'0' * 29}1"),
    ],
)
async def test_increments_of_decimals_are_exact(db: Database, start: Any, by: Any, total: str) -> None:
    record = await Cafe.create(**cafe(price=start))
    found = await record.increment("price", by)
    assert type(found) is Decimal
    assert record.price == found == Decimal(total) == (await must(Cafe.load(name="Siam"))).price


async def test_concurrent_increments(db: Database, clean_server: Server) -> None:
    record = await Cafe.create(**cafe(cuisine="Thai", rating=0.5))
    found = await asyncio.gather(*(record.increment("seats", 2) for _ in range(50)))
    assert sorted(found) == list(range(2, 102, 2))
    await asyncio.gather(*(record.increment("rating") for _ in range(50)))
    assert await Cafe.query.filter(cuisine="Thai", rating__gte=50.5).count() == 1
    assert_true(clean_server, [Cafe])


# Get or create ------------------------------------------------------------------------------------------------------


class Seat(Model):
    id = AutoKeyField()
    row = Field(type=int, null=False)
    number = Field(type=int, null=False)
    guest = UniqueField()
    note = Field()

    class Meta:
        unique_together = (("row", "number"),)


@pytest.mark.parametrize("lookup", [{"guest": "ann"}, {"row": 1, "number": 2}, {"id": "x"}])
async def test_of_concurrent_calls_one_creates(db: Database, clean_server: Server, lookup: dict[str, Any]) -> None:
    rest = {"id": "x", "row": 1, "number": 2, "guest": "ann", "note": "new"}
    defaults = {name: value for name, value in rest.items() if name not in lookup}
    for verb in (Seat.get_or_create, Seat.update_or_create):
        outcomes: list[tuple[Seat, bool]] = await asyncio.gather(*(verb(defaults, **lookup) for _ in range(40)))
        assert [created for _, created in outcomes].count(True) == 1
        assert {seat.db_key.redis_key for seat, _ in outcomes} == {"Seat:x"}
        assert_true(clean_server, [Seat])
        assert await outcomes[0][0].delete()


async def test_what_is_there_already_needs_no_defaults(db: Database) -> None:
    await Seat.create(id="x", row=1, number=2, guest="ann", note="old")
    for lookup in ({"guest": "ann"}, {"row": 1, "number": 2}, {"id": "x"}):
        found, created = await Seat.get_or_create(**lookup)
        assert (found.id, found.note, created) == ("x", "old", False)
    found, created = await Seat.update_or_create({"note": "new"}, guest="ann")
    assert (found.note, created) == ("new", False)
    assert (await must(Seat.load(id="x"))).note == "new"
    with pytest.raises(ValidationError):
        await Seat.get_or_create(guest="bob")
    with pytest.raises(ValidationError):
        await Seat.update_or_create({"note": 5}, guest="ann")
    for wrong in ({"guest": 5}, {"row": 1}, {"note": "old"}):
        with pytest.raises(ValidationError):
            await Seat.get_or_create(**wrong)
    assert await Seat.query.count() == 1


# Meta ---------------------------------------------------------------------------------------------------------------


async def test_where_a_class_is_stored(db: Database, clean_server: Server) -> None:
    class Renamed(Model):
        id = KeyField()
        kind = IndexedField(default="k")

        class Meta:
            name = "Other"

    await Renamed.create(id="a")
    indexes = {b"$Index:Other:kind:k", b"$Val:Other:kind"}
    assert set(snapshot(clean_server)) == {b"Other:a", b"$Class:Other", b"$Slots:Other", *indexes}
    assert [one.id for one in await Renamed.query.filter(kind="k")] == ["a"]


async def test_keys_and_values_read_as_written(db: Database, clean_server: Server) -> None:
    """As a person sees them in redis-cli."""

    class Reservation(Model):
        restaurant = KeyField()
        guest = KeyField()
        people = Field(type=int)
        price = Field(type=Decimal)
        weight = Field(type=float)
        vip = Field(type=bool)
        at = Field(type=datetime)
        raw = Field(type=bytes)
        nothing = Field()

    at = datetime(2024, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
    await Reservation.create(
        restaurant="Siam Garden", guest="foodie42", people=2**70, price=Decimal("1.10"), weight=4.5, vip=True, at=at,
        raw=b"\x00\xff",
    )  # fmt: skip
    found = clean_server.client.hgetall("Reservation:Siam Garden:foodie42")
    assert found.pop(b"$")
    assert found == {
        b"restaurant": b"Siam Garden", b"guest": b"foodie42", b"people": b"1180591620717411303424",
        b"price": b"1.10", b"weight": b"4.5", b"vip": b"1", b"at": b"2024-01-02T03:04:05.000006Z", b"raw": b"\x00\xff",
    }  # fmt: skip
    clean_server.client.flushall()
    await Reservation.create(restaurant="100% *?[x]{y}'/:é🦊\n\x00\x7f", guest="")
    keys = [key for key in snapshot(clean_server) if not key.startswith(b"$")]
    assert keys == ["Reservation:100%25 *?[x]%7By%7D'/%3Aé🦊%0A%00%7F:".encode()]


async def test_the_order_of_meta(db: Database) -> None:
    class Ranked(Model):
        id = KeyField(type=int)
        rank = SortedField(type=int)
        group = IndexedField(type=str)

        class Meta:
            order_by = ("group", "-rank")

    for number, (group, rank) in enumerate([("b", 1), ("a", 1), ("b", 5), ("a", 3)]):
        await Ranked.create(id=number, group=group, rank=rank)
    assert [one.id for one in await Ranked.query] == [3, 1, 2, 0]
    assert [one.id for one in await Ranked.query.filter(rank__gte=2)] == [3, 2]
    assert (await must(Ranked.query.first())).id == 3
    assert (await must(Ranked.query.last())).id == 0
    assert [one.id for one in await Ranked.query.order_by("rank")] == [0, 1, 3, 2]
    assert [one.id async for one in Ranked.query.filter(group="b")] == [2, 0]


async def test_a_copy_of_an_instance_knows_what_was_stored_when_it_was_made(db: Database) -> None:
    class Shop(Model):
        name = KeyField()
        seats = Field(type=int, default=0)
        tags = Field(type=list, null=True)
        log = ListField(max_length=5)

    one = await Shop.create(name="a", seats=1)
    one.tags = ["x"]
    await one.save()
    other = copy.copy(one)
    theirs = await Shop.load(name="a")
    assert theirs is not None
    theirs.seats = 5
    await theirs.save()
    await one.refresh()
    other.tags = ["y"]
    await other.save()
    stored = await Shop.load(name="a")
    assert stored is not None
    assert stored.seats == 5


async def test_a_save_takes_one_deadline(db: Database) -> None:
    class Shop(Model):
        name = KeyField()

    with pytest.raises(ValidationError, match="two deadlines"):
        await Shop(name="a").save(expire_in=5, expire_at=datetime(2100, 1, 1))
    with pytest.raises(ValidationError, match='is "overwrite" or "error", not \'return\''):
        await Shop(name="a").save(if_exists="return")  # type: ignore[arg-type]  # what the type rules out
    assert await Shop.query.count() == 0


async def test_names_of_arguments_can_be_fields(db: Database) -> None:
    class Course(Model):
        cls = KeyField()

    await Course.create(cls="a")
    assert (await Course.ref(cls="a")).cls == "a"
