"""References: what they take and read as, what loads them and in how many trips, and what stands on the server."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import pytest

from popoto_async import (
    CASCADE,
    DO_NOTHING,
    SET_NULL,
    Database,
    DefinitionError,
    Field,
    IndexedField,
    InvalidLookup,
    KeyField,
    MissingPartition,
    Model,
    ModelException,
    NotLoaded,
    RecordGone,
    Relationship,
    SortedField,
    UnknownField,
    ValidationError,
    connect,
    trace,
    transaction,
)
from popoto_async.fields.relationship import OnDelete
from tests.model_of_store import assert_true, values_of
from tests.servers import Server

pytestmark = pytest.mark.anyio


class Owner(Model):
    name: str = KeyField()
    city: str | None = IndexedField()


class Restaurant(Model):
    name: str = KeyField()
    branch: int = KeyField(default=1)
    cuisine: str | None = IndexedField()
    rating: float | None = SortedField(null=True)
    note: str | None = Field()
    owner = Relationship(Owner, related_name="restaurants")


class Reservation(Model):
    code: str = KeyField()
    restaurant = Relationship("Restaurant", related_name="reservations")
    guest = Relationship("Guest", null=True, on_delete="DO_NOTHING", related_name="visits")
    before = Relationship("self", related_name="after")
    price: Decimal = SortedField(default=Decimal(1), partition_by="restaurant")

    class Meta:
        indexes = ((("restaurant", "guest"), False),)
        unique_together = (("restaurant", "code"),)


class Guest(Model):
    name: str = KeyField()


MODELS: list[type[Model]] = [Owner, Restaurant, Reservation, Guest]


def code(*instances: Any) -> list[str]:
    return [one.code for one in instances]


async def furnish() -> tuple[Any, Any]:
    ann = await Owner.create(name="Ann", city="Bonn")
    siam = await Restaurant.create(name="Siam: Garden", cuisine="Thai", rating=4.5, owner=ann)
    roma = await Restaurant.create(name="Roma", branch=2, cuisine="Italian")
    for number, target in enumerate((siam, roma, None, siam)):
        await Reservation.create(code=str(number), restaurant=target, price=Decimal(number))
    return siam, roma


# Values --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["instance", "unsaved", "stub", "key", "loaded"])
async def test_every_form_of_a_value_is_stored_as_the_key(db: Database, clean_server: Server, form: str) -> None:
    forms: dict[str, Any] = {
        "instance": await Guest.create(name="a:b%"),
        "unsaved": Guest(name="a:b%"),
        "stub": Guest.ref(name="a:b%"),
        "key": "Guest:a%3Ab%25",
        "loaded": await Guest.load(name="a:b%"),
    }
    assert await Reservation.create(code="1", guest=forms[form])
    assert clean_server.client.hget("Reservation:1", "guest") == b"Guest:a%3Ab%25"
    found = await Reservation.load(code="1")
    assert found is not None
    assert type(found.guest) is Guest
    assert found.guest.name == "a:b%"
    assert found.guest == forms["instance"]
    assert found.guest.db_key.redis_key == "Guest:a%3Ab%25"
    assert found.to_dict()["guest"] == "Guest:a%3Ab%25"
    assert await Reservation.query.values("guest") == [{"guest": "Guest:a%3Ab%25"}]
    assert_true(clean_server, MODELS)


@pytest.mark.parametrize(
    "wrong", [5, b"Guest:a", "Guest", "Guest:a:b", "Owner:a", "a", "", "Guest:%zz", "Guest:a%3ab", "x:y:Guest:a"]
)
async def test_what_is_no_record_is_invalid(db: Database, clean_server: Server, wrong: Any) -> None:
    one = Reservation(code="1", guest=wrong)
    assert not one.is_valid()
    with pytest.raises(ValidationError, match="guest"):
        await one.save()
    with pytest.raises(InvalidLookup, match="guest"):
        Reservation.query.filter(guest=wrong)
    assert clean_server.client.dbsize() == 0 or not await Reservation.query.count()


async def test_records_of_other_models_and_incomplete_ones_are_invalid() -> None:
    for wrong in (Owner(name="x"), Reservation(code="1"), Guest()):
        assert list(Reservation(code="1", guest=wrong).errors()) == ["guest"]
    with pytest.raises(InvalidLookup):
        Reservation.query.filter(guest__in=[None])


async def test_new_records_that_refer_to_one_another_in_a_circle(db: Database, clean_server: Server) -> None:
    first, second = Reservation(code="1"), Reservation(code="2")
    first.before, second.before = second, first
    assert first.errors() == {}
    assert await asyncio.gather(first.save(), second.save()) == [True, True]
    own = Reservation(code="own")
    own.before = own
    assert await own.save()
    assert await Reservation.query.filter(before=own).keys() == ["Reservation:own"]
    unnamed = Reservation()
    unnamed.before = unnamed
    with pytest.raises(ValidationError, match=r"must not be null|not complete"):
        await unnamed.save()
    assert_true(clean_server, MODELS)


async def test_a_namespace_is_part_of_the_key(clean_server: Server) -> None:
    async with connect(clean_server.url, namespace="my app"):
        guest = await Guest.create(name="ann")
        await Reservation.create(code="1", guest=guest)
        await Reservation.create(code="2", guest="my app:Guest:ann")
        assert clean_server.client.hget("my app:Reservation:1", "guest") == b"my app:Guest:ann"
        assert code(*await Reservation.query.filter(guest=Guest.ref(name="ann"))) == ["1", "2"]
        assert code(*await Reservation.query.filter(guest__name="ann")) == ["1", "2"]
        found = await Reservation.load(code="2")
        assert found is not None
        assert (await found.guest).name == "ann"
        assert not Reservation(code="3", guest="Guest:ann").is_valid()


async def test_parts_of_keys_of_every_type_are_told_from_the_key() -> None:
    stub = Restaurant.ref(name="%null", branch=7)
    row = Owner(name="x")
    assert (stub.name, stub.branch) == ("%null", 7)
    assert repr(stub) == "Restaurant(name='%null', branch=7)"
    with pytest.raises(ValidationError, match="branch is missing"):
        Restaurant.ref(name="x")
    with pytest.raises(UnknownField):
        Restaurant.ref(name="x", branch=1, cuisine="Thai")
    with pytest.raises(ValidationError):
        Restaurant.ref(name=5, branch=1)
    assert row.is_valid()


# Loading -------------------------------------------------------------------------------------------------------------


async def test_a_stub_tells_what_to_write(db: Database) -> None:
    await furnish()
    found = await Reservation.load(code="0")
    assert found is not None
    async with trace() as spent:
        assert (found.restaurant.name, found.restaurant.branch) == ("Siam: Garden", 1)
        with pytest.raises(NotLoaded, match=r"Restaurant\.cuisine") as caught:
            print(found.restaurant.cuisine)
        with pytest.raises(NotLoaded):
            found.restaurant.to_dict()
    assert spent.round_trips == 0
    assert "await reservation.restaurant" in caught.value.__notes__[0]
    assert (caught.value.field, caught.value.key) == ("cuisine", "Restaurant:Siam%3A Garden:1")


async def test_awaiting_loads_in_one_trip_and_a_loaded_one_costs_nothing(db: Database) -> None:
    await furnish()
    found = await Reservation.load(code="0")
    assert found is not None
    async with trace() as spent:
        loaded = await found.restaurant
    assert spent.round_trips == 1
    async with trace() as spent:
        assert await found.restaurant is loaded is found.restaurant
        assert await loaded is loaded
        assert await found.fetch("restaurant") is loaded
        assert found.restaurant.rating == 4.5
        assert await found.fetch("guest") is None
    assert spent.round_trips == 0
    new = Guest(name="new")
    assert await new is new


async def test_concurrent_awaits_share_one_trip(db: Database) -> None:
    await furnish()
    found = await Reservation.query
    async with trace() as spent:
        loaded = await asyncio.gather(*(one.fetch("restaurant") for one in found))
    assert spent.round_trips == 1
    assert [one and one.cuisine for one in loaded] == ["Thai", "Italian", None, "Thai"]


async def test_a_missing_target(db: Database) -> None:
    made = await Reservation.create(code="1", guest=Guest.ref(name="nobody"))
    found = await Reservation.load(code="1")
    assert found is not None
    with pytest.raises(RecordGone, match="nobody"):
        await found.guest
    assert await found.fetch("guest") is None
    assert await Reservation.query.filter(guest__name="nobody") == []
    assert await Reservation.query.filter(guest="Guest:nobody") == [made]
    with pytest.raises(UnknownField):
        await found.fetch("gest")
    with pytest.raises(ModelException, match="no relation"):
        await found.fetch("price")
    with pytest.raises(ValidationError, match=r"Reservation.guest: 'Nobody:x' is no key of Guest"):
        await Reservation(code="2", guest="Nobody:x").fetch("guest")


async def test_an_expired_target_is_gone(db: Database) -> None:
    guest = await Guest.create(name="ann")
    await Reservation.create(code="1", guest=guest)
    await guest.expire_in(0.001)
    while await db.execute("EXISTS", "Guest:ann"):
        await asyncio.sleep(0.001)
    for _ in range(2):  # before and after it is swept
        assert await Reservation.query.filter(guest__name="ann").keys() == []
        found = await Reservation.load(code="1")
        assert found is not None
        assert await found.fetch("guest") is None
        assert (await Reservation.query.prefetch("guest"))[0].guest == Guest.ref(name="ann")
        assert await Guest.query.count() == 0


async def test_what_was_assigned_to_a_stub_survives_its_loading(db: Database, clean_server: Server) -> None:
    await furnish()
    stub = Restaurant.ref(name="Roma", branch=2)
    stub.cuisine = "Pizza"
    assert await stub is stub
    assert (stub.cuisine, stub.rating, stub.is_saved) == ("Pizza", None, True)
    await stub.save()
    other = Restaurant.ref(name="Roma", branch=2)
    other.rating = 3.0
    async with trace() as spent:
        await other.save()  # without having been loaded
    assert spent.round_trips == 1
    found = await Restaurant.load(name="Roma", branch=2)
    assert found is not None
    assert (found.cuisine, found.rating) == ("Pizza", 3.0)
    assert_true(clean_server, MODELS)
    assert await Restaurant.ref(name="Roma", branch=2).delete()
    with pytest.raises(RecordGone):
        await other.save()
    with pytest.raises(RecordGone):
        await Restaurant.ref(name="no", branch=1)


async def test_null_assigned_to_a_stub_is_stored(db: Database, clean_server: Server) -> None:
    await furnish()
    stub = Restaurant.ref(name="Roma", branch=2)
    stub.cuisine = None
    await stub.save()
    found = await Restaurant.load(name="Roma", branch=2)
    assert found is not None
    assert found.cuisine is None
    found.cuisine = "Thai"
    await found.save()
    await stub.save()  # which has nothing new to say
    assert (await stub).cuisine == "Thai"
    assert_true(clean_server, MODELS)


async def test_a_stub_of_a_partitioned_record_saves_by_what_is_stored(db: Database, clean_server: Server) -> None:
    siam, roma = await furnish()
    stub = Reservation.ref(code="0")
    stub.restaurant = roma
    await stub.save()
    assert_true(clean_server, MODELS)
    stub = Reservation.ref(code="0")
    stub.price = Decimal(9)
    await stub.save()
    assert_true(clean_server, MODELS)
    assert (await Reservation.query.filter(restaurant=roma).order_by("-price").first()).code == "0"
    assert await Reservation.ref(code="0").increment("price", 1) == 10
    assert (await Reservation.ref(code="0").refresh()).price == 10
    gone = Reservation.ref(code="0")
    await gone.delete()
    with pytest.raises(ValidationError, match="price"):
        await gone.save()


# Prefetching ---------------------------------------------------------------------------------------------------------


async def test_a_hundred_rows_with_two_levels_take_three_trips(db: Database) -> None:
    owners = [await Owner.create(name=str(n), city="Bonn") for n in range(10)]
    places = [await Restaurant.create(name=str(n), owner=owners[n % 10]) for n in range(50)]
    guests = [await Guest.create(name=str(n)) for n in range(100)]
    await Reservation.create_many(
        {"code": str(n), "restaurant": places[n % 50], "guest": guests[n]} for n in range(100)
    )
    query = Reservation.query.prefetch("restaurant", "restaurant__owner", "guest")
    async with trace() as spent:
        rows = await query
    assert spent.round_trips == 3
    async with trace() as spent:
        assert len(rows) == 100
        assert {row.restaurant.owner.city for row in rows} == {"Bonn"}
        assert [(await row.guest).name for row in rows] == [row.code for row in rows]
    assert spent.round_trips == 0
    assert len({id(row.restaurant) for row in rows}) == 50
    async with trace() as spent:
        streamed = [row.restaurant.owner.name async for row in query]
        first, last = await query.first(), await query.last()
        one = await query.get(code="7")
    assert spent.round_trips == 12
    assert len(streamed) == 100
    assert [first.guest.name, last.guest.name, one.restaurant.owner.name] == ["0", "99", "7"]


async def test_prefetching_loads_each_record_once_and_circles_end(db: Database, clean_server: Server) -> None:
    first = await Reservation.create(code="1", before="Reservation:2")
    await Reservation.create(code="2", before=first)
    async with trace() as spent:
        rows = await Reservation.query.prefetch("before__before__before")
    assert spent.round_trips == 4
    assert [row.before.before.before.code for row in rows] == ["2", "1"]
    assert "Reservation:1" in repr(rows)
    assert await Reservation.query.filter(before__before__before__code="1").keys() == ["Reservation:2"]
    assert code(*await rows[0].after) == ["2"]
    assert_true(clean_server, MODELS)


async def test_prefetch_refuses_what_is_no_relation(db: Database) -> None:
    for path in ("price", "restaurant__cuisine", "restaurent", ""):
        with pytest.raises(InvalidLookup, match="no relation"):
            Reservation.query.prefetch(path)
    with pytest.raises(InvalidLookup, match="values"):
        await Reservation.query.prefetch("guest").values("guest")
    assert await Reservation.query.prefetch("guest") == []


# Queries -------------------------------------------------------------------------------------------------------------


async def test_lookups(db: Database) -> None:
    siam, roma = await furnish()
    loaded = await Reservation.load(code="1")
    assert loaded is not None
    asked: list[tuple[Any, list[str]]] = [
        (Reservation.query.filter(restaurant=siam), ["0", "3"]),
        (Reservation.query.filter(restaurant=Restaurant.ref(name="Roma", branch=2)), ["1"]),
        (Reservation.query.filter(restaurant="Restaurant:Roma:2"), ["1"]),
        (Reservation.query.filter(restaurant=loaded.restaurant), ["1"]),
        (Reservation.query.filter(Reservation.restaurant == siam), ["0", "3"]),
        (Reservation.query.filter(~(Reservation.restaurant == siam)), ["1", "2"]),
        (Reservation.query.filter(restaurant__in=[siam, roma, siam]), ["0", "1", "3"]),
        (Reservation.query.filter(restaurant__in=[]), []),
        (Reservation.query.filter(restaurant=None), ["2"]),
        (Reservation.query.filter(restaurant__isnull=True), ["2"]),
        (Reservation.query.filter(restaurant__isnull=False), ["0", "1", "3"]),
        (Reservation.query.filter(restaurant=siam, price__gte=1), ["3"]),
        (Reservation.query.filter(restaurant=None, price__lt=5), ["2"]),
        (siam.reservations.all(), ["0", "3"]),
        (siam.reservations.order_by("-price"), ["3", "0"]),
        (roma.reservations.filter(price=1), ["1"]),
        (Restaurant.ref(name="Roma", branch=2).reservations, ["1"]),
        (Reservation.query.order_by("restaurant"), ["1", "0", "3", "2"]),
    ]
    for query, wanted in asked:
        async with trace() as spent:
            assert code(*await query) == wanted
        assert spent.round_trips == 1
    assert await siam.reservations.count() == 2
    with pytest.raises(MissingPartition):
        Reservation.query.order_by("price")
    with pytest.raises(ModelException, match="is a query"):
        siam.reservations = []


async def test_unknown_lookups_name_what_there_is() -> None:
    for wrong in (
        "restaurant__gte",
        "restaurant__cusine",
        "restaurant__owner__citty",
        "guest__name__gte",
        "x__y",
    ):
        with pytest.raises(InvalidLookup) as caught:
            Reservation.query.filter(**{wrong: 1})
        assert caught.value.__notes__
    with pytest.raises(InvalidLookup):
        Restaurant.query.filter(Reservation.restaurant == "Restaurant:Roma:2")


async def test_a_changed_reference_leaves_nothing_behind(db: Database, clean_server: Server) -> None:
    siam, roma = await furnish()
    for found in await Reservation.query:
        found.restaurant = roma
        await found.save()
        assert_true(clean_server, MODELS)
    assert await siam.reservations.count() == 0
    one = await Reservation.query.first()
    assert one is not None
    one.restaurant = None
    await one.save(update_fields=["restaurant"])
    one.restaurant = siam
    async with transaction() as tx:
        tx.save(one)
        tx.delete(roma)
        tx.save(Reservation(code="t", restaurant=Restaurant(name="later"), guest=Guest(name="g")))
    rows = {values_of(found)["code"]: values_of(found)["restaurant"] for found in await Reservation.query}
    assert rows["0"] == "Restaurant:Siam%3A Garden:1"
    assert rows["t"] == "Restaurant:later:1"


async def test_stale_partitions_by_reference(db: Database, clean_server: Server) -> None:
    siam, roma = await furnish()
    fresh, stale = await Reservation.load(code="0"), await Reservation.load(code="0")
    assert fresh is not None
    assert stale is not None
    fresh.restaurant = roma
    await fresh.save()
    stale.price = Decimal(7)
    await stale.save()
    assert code(*await Reservation.query.filter(restaurant=roma, price__gte=7)) == ["0"]
    assert_true(clean_server, MODELS)


# Declaring -----------------------------------------------------------------------------------------------------------


async def test_a_name_that_is_never_defined(db: Database, clean_server: Server) -> None:
    called = f"Frend{clean_server.kind}"

    class Lonely(Model):
        name: str = KeyField()
        friend = Relationship(called)

    assert Lonely(name="x").is_valid()
    for use in (
        lambda: Lonely(name="x", friend="Friend:x").errors(),
        lambda: Lonely.query.filter(friend="Friend:x"),
        lambda: Lonely.query.filter(friend__name="x"),
        lambda: Lonely.query.prefetch("friend"),
    ):
        with pytest.raises(DefinitionError, match=called):
            use()
    await Lonely.create(name="x")
    clean_server.client.hset("Lonely:x", "friend", f"{called}:y")
    with pytest.raises(DefinitionError, match=called):
        await Lonely.load(name="x")

    body = {"name": KeyField(), "__module__": __name__}
    friend: Any = type(called, (Model,), {**body, "__qualname__": f"<locals>.{called}"})
    with pytest.raises(DefinitionError, match=called):  # it is local to another function, as far as one can tell
        await Lonely.load(name="x")
    friend = type(called, (Model,), body)
    found = await Lonely.load(name="x")
    assert found is not None
    assert found.friend == friend.ref(name="y")


def test_what_cannot_be_declared() -> None:
    wrong: Any = 5
    for make in (
        lambda: Relationship(str),
        lambda: Relationship(wrong),
        lambda: Relationship(Guest, on_delete=wrong),
        lambda: Relationship(Guest, unique=True),
        lambda: type("A", (Model,), {"r": Relationship(Guest, null=False), "__qualname__": "<locals>.A"}),
        lambda: type("A", (Model,), {"r": Relationship(Guest, related_name="a__b"), "__qualname__": "<locals>.A"}),
        lambda: type("A", (Model,), {"r": Relationship(Guest, related_name="name"), "__qualname__": "<locals>.A"}),
        lambda: type("A", (Model,), {"r": Relationship(Guest, related_name="visits"), "__qualname__": "<locals>.A"}),
        lambda: type("A", (Model,), {"r": Relationship(Guest, related_name="save"), "__qualname__": "<locals>.A"}),
    ):
        with pytest.raises(DefinitionError):
            make()
    assert [OnDelete(one) for one in ("SET_NULL", "CASCADE", "DO_NOTHING")] == [SET_NULL, CASCADE, DO_NOTHING]


async def test_references_are_inherited(db: Database) -> None:
    class Base(Model):
        name: str = KeyField()
        guest = Relationship(Guest)
        up = Relationship("self")

        class Meta:
            abstract = True

    class Left(Base):
        pass

    class Right(Base):
        extra = Relationship(Left, related_name="rights")

    left = await Left.create(name="l", guest="Guest:x")
    right = await Right.create(name="r", up="Right:r", extra=left)
    assert type(right.up) is Right
    assert await left.rights == [right]
    assert not Left(name="a", up=right).is_valid()
    with pytest.raises(DefinitionError, match="abstract"):
        type("A", (Model,), {"r": Relationship(Base), "__qualname__": "<locals>.A"})


async def test_a_class_defined_again_takes_the_place_of_the_first(db: Database) -> None:
    def define(**more: Any) -> Any:
        body = {"name": KeyField(), "__module__": __name__, "__qualname__": "Again", **more}
        return type("Again", (Model,), body)

    first = define()
    refers = type("Refers", (Model,), {"__module__": __name__, "__qualname__": "Refers", "again": Relationship(first)})
    second = define(extra=Field())
    old, new = await first.create(name="x"), await second.create(name="y", extra="e")
    one, two = await refers.create(again=old), await refers.create(again=new)
    found: Any = await refers.query.prefetch("again")
    assert sorted(row.again.name for row in found) == ["x", "y"]
    assert {type(row.again) for row in found} == {second}
    assert [len(each._meta.referrers) for each in (first, second)] == [1, 1]
    assert one.is_saved
    assert two.is_saved
