"""What can be done wrong raises one of our errors, which names the model, the field, the value, and what to do."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import popoto_async
from popoto_async import (
    AlreadyExists,
    AutoKeyField,
    ConfigurationError,
    ContentError,
    CorruptIndex,
    CorruptRecord,
    Database,
    DatabaseError,
    DatetimeField,
    DefinitionError,
    EmbeddingError,
    EventStream,
    EventStreamMixin,
    Field,
    GeoField,
    IndexedField,
    IndexNotBuilt,
    InvalidLookup,
    KeyField,
    ListField,
    MissingPartition,
    Model,
    ModelException,
    MultipleResults,
    NotAwaited,
    NotFound,
    NotLoaded,
    OutcomeUnknown,
    Overloaded,
    PopotoError,
    ProtectedRecord,
    QueryException,
    RecordGone,
    SortedField,
    StaleRecord,
    TimedOut,
    Unavailable,
    UniqueField,
    UniqueKeyField,
    UniqueViolation,
    UnknownField,
    ValidationError,
    connect,
    errors,
    maintenance,
    transaction,
)
from popoto_async.database import resolve
from tests.proxy import FaultProxy
from tests.servers import Server

pytestmark = pytest.mark.anyio


class User(Model):
    name = KeyField()
    email = UniqueField(null=False)
    age = SortedField(type=int, null=True)
    city = IndexedField(type=str, null=True)
    note = Field(type=str, null=True)
    score = Field(type=float, null=True)
    active = Field(type=bool, default=True)
    price = Field(type=Decimal, null=True)
    tags = Field(type=list, null=True)
    place = GeoField(null=True)
    born = DatetimeField(null=True)
    grade = Field(type=int, choices=(1, 2, 3), null=True)
    even = Field(type=int, validators=[lambda value: "odd" if value % 2 else None], null=True)


class Teammate(Model):
    team = KeyField()
    email = UniqueKeyField()


class Draft(Model):
    class Meta:
        versioned = True

    name = KeyField()
    text = Field(type=str, default="")


class Booking(Model):
    id = AutoKeyField()
    room = Field(type=str)
    at = SortedField(type=int, partition_by="room")


class Told(EventStreamMixin, Model):
    name = KeyField()


class Log(Model):
    name: str = KeyField()
    lines = ListField(max_length=3)

    async def before_save(self) -> None:
        """A save with a hook goes another way."""

    async def before_delete(self) -> None:
        """So does a deletion."""


class Abstract(Model):
    class Meta:
        abstract = True

    name = KeyField()


EAST = timezone(timedelta(hours=10))


def told(error: PopotoError) -> str:
    """Everything an error says: its text and its notes."""
    return "\n".join([str(error), *getattr(error, "__notes__", ())])


# The texts that are promised ----------------------------------------------------------------------------------------


async def test_the_texts_that_are_promised(db: Database) -> None:
    await Teammate.create(team="a", email="x")
    with pytest.raises(UniqueViolation) as key_taken:
        await Teammate.create(team="b", email="x")
    assert str(key_taken.value) == "UniqueKeyField 'email' value 'x' already exists"

    await User.create(name="ann", email="x")
    with pytest.raises(UniqueViolation) as value_taken:
        await User.create(name="bob", email="x")
    assert str(value_taken.value) == "Uniqueness violation on User.email: value 'x' is already taken"
    assert isinstance(value_taken.value, ModelException)
    known = value_taken.value
    assert (known.model, known.field, known.value, known.key, known.owner) == (
        "User",
        "email",
        "x",
        "User:bob",
        "User:ann",
    )


# Records ------------------------------------------------------------------------------------------------------------


async def test_errors_of_records_carry_what_is_known(db: Database) -> None:
    ann = await User.create(name="ann", email="a")
    page = await Draft.create(name="p")
    again = await Draft.load(name="p")
    assert again is not None
    again.text = "first"
    await again.save()
    page.text = "second"
    gone = await User.create(name="gone", email="g")
    await User.query.filter(name="gone").get()
    await (await User.query.get_or_raise(name="gone")).delete()

    async def save_gone() -> None:
        gone.city = "Rome"
        await gone.save()

    table: list[tuple[Callable[[], Any], type[PopotoError], str | None]] = [
        (lambda: User.create(name="ann", email="b", if_exists="error"), AlreadyExists, "User:ann"),
        (save_gone, RecordGone, "User:gone"),
        (lambda: gone.increment("age"), RecordGone, "User:gone"),
        (lambda: gone.refresh(), RecordGone, "User:gone"),
        (lambda: gone.expire_in(5), RecordGone, "User:gone"),
        (lambda: page.save(), StaleRecord, "Draft:p"),
        (lambda: User.query.get_or_raise(name="nobody"), NotFound, None),
    ]
    for call, kind, key in table:
        with pytest.raises(kind) as caught:
            await call()
        assert caught.value.model in ("User", "Draft")
        assert caught.value.key == key
        assert caught.value.model in told(caught.value)
        assert kind is NotFound or caught.value.hint
        assert "nobody" in str(caught.value) or kind is not NotFound
    assert ann == await User.load(name="ann")


WRONG_VALUES: list[tuple[str, Any]] = [
    ("name", None),
    ("name", 5),
    ("name", b"x"),
    ("name", "x" * 1025),
    ("name", "\ud800"),
    ("email", None),
    ("email", 5),
    ("email", ["x"]),
    ("age", "5"),
    ("age", True),
    ("age", 5.5),
    ("age", float("nan")),
    ("city", 5),
    ("city", "x" * 1025),
    ("city", "\udfff"),
    ("note", 5),
    ("note", object()),
    ("note", "a\ud800b"),
    ("score", "1.5"),
    ("score", True),
    ("active", 1),
    ("active", "yes"),
    ("price", 1.5),
    ("price", "1"),
    ("tags", "abc"),
    ("tags", {1, 2}),
    ("tags", [object()]),
    ("tags", ["\ud800"]),
    ("place", (95, 0)),
    ("place", (0, 200)),
    ("place", "here"),
    ("place", (1, 2, 3)),
    ("place", (float("nan"), 0)),
    ("born", "2020-01-01"),
    ("born", 5),
]


@pytest.mark.parametrize(("field", "value"), WRONG_VALUES)
async def test_wrong_values_are_told_before_anything_is_sent(db: Database, field: str, value: Any) -> None:
    given = {"name": "n", "email": "e", field: value}
    user = User(**given)
    assert not user.is_valid()
    assert list(user.errors()) == [field]
    with pytest.raises(ValidationError) as caught:
        await user.save()
    error = caught.value
    assert (error.model, error.field) == ("User", field)
    assert list(error.errors) == [field]
    assert f"User.{field}" in str(error)
    assert isinstance(error, ValueError)
    assert len(told(error)) < 400, "values are shortened"
    assert db.stats().operations == 0


async def test_all_wrong_fields_are_told(db: Database) -> None:
    with pytest.raises(ValidationError) as caught:
        await User.create(name=None, email=5, age="x")
    assert set(caught.value.errors) == {"name", "email", "age"}


@pytest.mark.parametrize("value", ["x" * 100_000, b"x" * 100_000, list(range(50_000)), {"k": "v" * 50_000}])
async def test_values_are_shortened(db: Database, value: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        await User.create(name="n", email="e", age=value)
    assert len(told(caught.value)) < 400
    assert caught.value.value == value or caught.value.value is None


@pytest.mark.parametrize("name", ["self", "cls", "args", "kwargs", "fields", "items", "model", "lookup", "state"])
async def test_no_argument_of_ours_takes_the_name_of_a_field(db: Database, name: str) -> None:
    model: Any = type("Local", (Model,), {"__qualname__": "<locals>.Local", "id": KeyField(), name: IndexedField()})
    value: dict[str, Any] = {name: "x"}
    record = await model.create(id="a", **value)
    assert getattr(await model.load(id="a"), name) == "x"
    assert await model.query.filter(**value).keys() == ["Local:a"]
    assert await model.query.get(**value) == await model.query.get_or_raise(**value) == record
    assert await model.exists(**value)
    assert await model.get_or_create(value, id="b") == (await model.load(id="b"), True)
    assert await model.update_or_create({name: "y"}, id="b") == (await model.load(id="b"), False)
    assert (await model.create_many([{"id": "c", **value}])).done == 1
    setattr(record, name, "z")
    assert await record.save(update_fields=[name])


# Names --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "use",
    [
        lambda: User(nmae="x"),
        lambda: User.create(nmae="x"),
        lambda: setattr(User(), "nmae", "x"),
        lambda: User.query.filter(nmae="x"),
        lambda: User.query.order_by("nmae"),
        lambda: User.query.order_by("-nmae"),
        lambda: User.query.values("nmae"),
        lambda: User.query.filter(nmae__gte=5),
        lambda: User.get_or_create(name="n", defaults={"nmae": "x"}),
        lambda: User.update_or_create({"nmae": "x"}, name="n"),
        lambda: User.load(nmae="x"),
        lambda: User.exists(nmae="x"),
        lambda: User.query.get(nmae="x"),
        lambda: _with_user("increment", "nmae"),
        lambda: _with_user("refresh", "nmae"),
        lambda: _with_user("save", ["nmae"]),
    ],
)
async def test_a_misspelt_name_is_told_with_the_nearest(db: Database, use: Callable[[], Any]) -> None:
    with pytest.raises((UnknownField, InvalidLookup)) as caught:
        await _finish(use())
    assert caught.value.model == "User"
    assert caught.value.field == "nmae"
    assert "nmae" in told(caught.value)
    assert "name" in told(caught.value).replace("nmae", "")


async def _with_user(verb: str, argument: Any) -> Any:
    user = await User.create(name="n", email="e")
    return await getattr(user, verb)(argument)


async def _finish(result: Any) -> Any:
    return await result if inspect.isawaitable(result) else result


# Misuse -------------------------------------------------------------------------------------------------------------


async def in_a_transaction(*steps: Any) -> None:
    async with transaction() as tx:
        for step in steps:
            tx.save(step)


MISUSE: list[tuple[str, Callable[[], Any], type[PopotoError]]] = [
    ("filter by a bool", lambda: User.query.filter(True), InvalidLookup),
    ("filter by a text", lambda: User.query.filter("name"), InvalidLookup),
    ("unknown lookup", lambda: User.query.filter(age__above=5), InvalidLookup),
    ("range without an order", lambda: User.query.filter(note__gt="a"), InvalidLookup),
    ("lookup of a wrong type", lambda: User.query.filter(age__gte="old"), InvalidLookup),
    ("in without a list", lambda: User.query.filter(age__in=5), InvalidLookup),
    ("between without a pair", lambda: User.query.filter(age__between=5), InvalidLookup),
    ("between of three", lambda: User.query.filter(age__between=(1, 2, 3)), InvalidLookup),
    ("isnull of a text", lambda: User.query.filter(age__isnull="yes"), InvalidLookup),
    ("NaN", lambda: User.query.filter(age=float("nan")), InvalidLookup),
    ("a radius without a centre", lambda: User.query.filter(place_radius=5), InvalidLookup),
    ("neither radius nor box", lambda: User.query.filter(place=(1, 2)).count(), InvalidLookup),
    ("a negative radius", lambda: User.query.filter(place=(1, 2), place_radius=-5), InvalidLookup),
    ("an unknown unit", lambda: User.query.filter(place=(1, 2), place_radius=5, place_radius_unit="x"), InvalidLookup),
    ("a page of a text", lambda: _any(User.query).page("a"), InvalidLookup),
    ("a page of none", lambda: User.query.page(0), InvalidLookup),
    ("many by lists", lambda: User.query.in_bulk([["n"]]), InvalidLookup),
    ("values of an unknown field", lambda: User.query.values("nmae"), InvalidLookup),
    ("fetch of None", lambda: _call("fetch", None), ModelException),
    ("refresh of None", lambda: _call("refresh", None), ModelException),
    ("increment of None", lambda: _call("increment", None), ModelException),
    ("saving a field None", lambda: _call("save", [None]), ModelException),
    ("limit of a text", lambda: User.query.limit("5"), InvalidLookup),
    ("negative limit", lambda: User.query.limit(-1), InvalidLookup),
    ("negative offset", lambda: User.query.offset(-1), InvalidLookup),
    ("an index", lambda: User.query[5], InvalidLookup),
    ("a backward slice", lambda: User.query[5:1:-1], InvalidLookup),
    ("a negative slice", lambda: User.query[-5:], InvalidLookup),
    ("a slice of texts", lambda: _any(User.query)["a":"b"], InvalidLookup),
    ("order by a number", lambda: User.query.order_by(5), InvalidLookup),
    ("order by a field of another model", lambda: User.query.order_by(Teammate.email), InvalidLookup),
    ("filter by a field of another model", lambda: User.query.filter(Teammate.email == "x"), InvalidLookup),
    ("values of a field", lambda: User.query.values(User.name), InvalidLookup),
    ("values of None", lambda: User.query.values(None), InvalidLookup),
    ("a condition as a truth value", lambda: User.query.filter(3 < User.age < 5), InvalidLookup),
    ("order by a place", lambda: User.query.order_by("place"), InvalidLookup),
    ("order by a list", lambda: User.query.order_by("tags"), InvalidLookup),
    ("partition missing", lambda: Booking.query.filter(at__gt=5), MissingPartition),
    ("partition missing in order", lambda: Booking.query.order_by("at"), MissingPartition),
    ("increment of a text", lambda: _with_user("increment", "note"), ValidationError),
    ("increment of a key", lambda: _with_user("increment", "name"), ValidationError),
    ("increment of a field with choices", lambda: _with_user("increment", "grade"), ValidationError),
    ("increment of a field with a validator", lambda: _with_user("increment", "even"), ValidationError),
    ("increment by a text", lambda: _call("increment", "age", "5"), ValidationError),
    ("increment by None", lambda: _call("increment", "age", None), ValidationError),
    ("increment by infinity", lambda: _call("increment", "score", float("inf")), ValidationError),
    ("expire in a text", lambda: _call("expire_in", "5"), ValidationError),
    ("expire in the past", lambda: _call("expire_in", -5), ValidationError),
    ("expire in NaN", lambda: _call("expire_in", float("nan")), ValidationError),
    ("expire at a number", lambda: _call("expire_at", 5), ValidationError),
    ("expire at no instant of UTC", lambda: _call("expire_at", datetime(1, 1, 1, tzinfo=EAST)), ValidationError),
    ("expire at a text", lambda: _call("expire_at", "tomorrow"), ValidationError),
    ("increment of a new one", lambda: User(name="n", email="e").increment("age"), ModelException),
    ("refresh of a new one", lambda: User(name="n", email="e").refresh(), ModelException),
    ("expiry of a new one", lambda: User(name="n", email="e").expire_in(5), ModelException),
    ("abstract create", lambda: Abstract.create(name="x"), DefinitionError),
    ("abstract query", lambda: Abstract.query.count(), DefinitionError),
    ("abstract load", lambda: Abstract.load(name="x"), DefinitionError),
    ("query of an instance", lambda: User().query, ModelException),
    ("lookup that names nothing unique", lambda: User.get_or_create(city="x"), ValidationError),
    ("get_or_create without anything", lambda: User.get_or_create(), ValidationError),
    ("defaults that are no dict", lambda: User.get_or_create("x", name="n"), PopotoError),
    ("if_exists of another word", lambda: User.create(name="n", email="e", if_exists="ignore"), PopotoError),
    ("if_exists of another word, saved", lambda: _call("save", if_exists="ignore"), PopotoError),
    ("if_gone of another word", lambda: _call("save", if_gone="ignore"), PopotoError),
    ("update_fields of a text", lambda: _call("save", "name"), PopotoError),
    ("update_fields of a number", lambda: _call("save", 5), PopotoError),
    ("create_many of numbers", lambda: User.create_many(5), PopotoError),
    ("save_many of None", lambda: User.save_many(None), PopotoError),
    ("a transaction of a text", lambda: in_a_transaction("x"), PopotoError),
    ("a transaction of a class", lambda: in_a_transaction(User), PopotoError),
    ("a transaction with a wrong value", lambda: in_a_transaction(User(name=None, email="e")), ValidationError),
    ("a timeout of a text", lambda: User.create(name="n", email="e", timeout="x"), ValidationError),
    *(
        (f"{verb} of {what!r}", lambda verb=verb, what=what: _call(verb, what), UnknownField)
        for verb in ("increment", "refresh", "fetch")
        for what in ([], {"age": 1}, {"age"})
    ),
    ("saving a field []", lambda: _call("save", [[]]), UnknownField),
    ("limit of a list", lambda: User.query.filter(limit=[]), InvalidLookup),
    ("limit of a pair", lambda: User.query.filter(limit=(1, 2)), InvalidLookup),
    ("offset of a tuple", lambda: User.query.filter(offset=()), InvalidLookup),
    (
        "a unit that is a list",
        lambda: User.query.filter(place=(1, 2), place_radius=5, place_radius_unit=[]),
        InvalidLookup,
    ),
    (
        "distances of a text",
        lambda: User.query.filter(place=(1, 2), place_radius=5, place_with_distances="no"),
        InvalidLookup,
    ),
    *(
        (f"defaults {what!r}", partial(User.get_or_create, defaults=what, name="one"), ValidationError)
        for what in (0, "", [], False)
    ),
    *(
        (f"defaults {what!r}, updated", partial(User.update_or_create, defaults=what, name="one"), ValidationError)
        for what in (0, "", [], False)
    ),
    (
        "on_outcome that is none",
        lambda: User.create_many([{"name": "x", "email": "x"}], on_outcome=_any(5)),
        PopotoError,
    ),
    ("progress that is none", lambda: User.save_many([], progress=_any("x")), PopotoError),
    ("load without a key", lambda: User.load(), MultipleResults),
    ("a key of the wrong type", lambda: User.load(name=5), InvalidLookup),
    ("a key that can't be stored", lambda: User.load(name="\ud800"), InvalidLookup),
    ("a value that can't be stored", lambda: User.query.filter(city="\ud800").count(), InvalidLookup),
]


def _any(value: Any) -> Any:
    return value


async def _call(verb: str, *arguments: Any, **options: Any) -> Any:
    user = await User.create(name="n", email="e", age=1)
    return await getattr(user, verb)(*arguments, **options)


@pytest.mark.parametrize(("use", "kind"), [row[1:] for row in MISUSE], ids=[row[0] for row in MISUSE])
@pytest.mark.filterwarnings("ignore::popoto_async.UnindexedFilterWarning")
async def test_misuse(db: Database, use: Callable[[], Any], kind: type[PopotoError]) -> None:
    await User.create(name="one", email="1")
    await User.create(name="two", email="2")
    with pytest.raises(kind) as caught:
        await _finish(use())
    assert len(str(caught.value)) > 15
    assert len(told(caught.value)) < 600
    known = {"User", "Booking", "Abstract"}
    assert caught.value.model in known or kind is PopotoError or "timeout is" in str(caught.value)
    assert isinstance(caught.value, (ValueError, TypeError)) or kind is ModelException, "it is about an argument"
    assert await User.query.count() >= 2, "the connection is as good as before"


async def test_a_value_of_a_collection_item_can_be_wrong_without_hurting_the_others(db: Database) -> None:
    summary = await User.create_many(
        [
            {"name": "a", "email": "a"},
            {"name": "b", "email": "a"},
            {"name": 5, "email": "c"},
            {"nmae": "x"},
            7,
            {"name": "d", "email": "d"},
        ]
    )
    assert (summary.total, summary.done, summary.failed) == (6, 2, 4)
    assert all(isinstance(error, PopotoError) for _, error in summary.failures)


# Used without await -------------------------------------------------------------------------------------------------

UNAWAITED: list[Callable[[], Any]] = [
    lambda: User.exists(name="n"),
    lambda: User.load(name="n"),
    lambda: User.create(name="n", email="e"),
    lambda: User.query.count(),
    lambda: User.query.filter(name="n"),
    lambda: User.query.filter(name="n").exists(),
    lambda: User.query.first(),
    lambda: User.query.keys(),
    lambda: User.get_or_create(name="n"),
    lambda: User(name="n", email="e").save(),
    lambda: User(name="n", email="e").delete(),
    lambda: User.create_many([]),
    lambda: resolve().execute("PING"),
    lambda: maintenance.check(User),
    lambda: maintenance.stats(),
    lambda: EventStream(Told).length(),
]
USES: list[Callable[[Any], Any]] = [bool, len, list, lambda pending: pending.name, lambda pending: not pending]


@pytest.mark.parametrize("make", UNAWAITED)
async def test_a_forgotten_await_raises_as_soon_as_the_result_is_used(db: Database, make: Callable[[], Any]) -> None:
    for use in USES:
        with pytest.raises(NotAwaited) as caught:
            use(make())
        assert "await" in told(caught.value)
        assert isinstance(caught.value, TypeError)
    assert db.stats().operations == 0


async def test_a_forgotten_await_says_which_line_to_write(db: Database) -> None:
    with pytest.raises(NotAwaited) as caught:
        if not User.exists(name="n"):
            pytest.fail("silently true")
    assert "await User.exists(…)" in told(caught.value)
    user, log = User(name="n", email="e"), Log(name="l", lines=[])
    for pending, line in (
        (User.query.filter(name="n").count(), "await User.query.count(…)"),
        (db.execute("PING"), "await database.execute(…)"),
        (maintenance.repair(User), "await maintenance.repair(…)"),
        (EventStream(Told).read(), "await Told.events.read(…)"),
        (User.create(name="n", email="e"), "await User.create(…)"),
        (User.get_or_create(name="n"), "await User.get_or_create(…)"),
        (User.load(name="n"), "await User.load(…)"),
        *((getattr(user, verb)(), f"await user.{verb}(…)") for verb in ("save", "delete", "refresh", "persist")),
        (user.increment("age", 1), "await user.increment(…)"),
        (user.expire_in(5), "await user.expire_in(…)"),
        (log.lines.push("x"), "await log.lines.push(…)"),
        (log.save(), "await log.save(…)"),  # with hooks
        (log.delete(), "await log.delete(…)"),
    ):
        with pytest.raises(NotAwaited) as caught:
            bool(pending)
        assert line in told(caught.value)


POSITIONS: list[tuple[Callable[[], Any], str]] = [
    (
        lambda: User.query.filter(place_radius=2),
        "User: place_radius=2: takes a centre: place= or place_member=, one of them",
    ),
    (lambda: User.query.filter(place=(1, 2)), "User: place=(1, 2): needs place_radius= or place_box=, one of them"),
    (
        lambda: User.query.filter(place=(1, 2), place_radius=5, place_radius_unit="x"),
        "User: place_radius_unit='x': takes one of m, km, ft, mi",
    ),
]


@pytest.mark.parametrize(("make", "text"), POSITIONS)
def test_errors_of_areas_show_what_was_written(make: Callable[[], Any], text: str) -> None:
    with pytest.raises(InvalidLookup) as caught:
        make()
    assert str(caught.value) == text


# Keys that hold something else --------------------------------------------------------------------------------------

FOREIGN = [
    "User:x",
    "$Class:User",
    "$Man:User",
    "$Exp:User",
    "$Slots:User",
    "$Index:User:city:Rome",
    "$Sort:User:age",
    "$Uniq:User:email",
    "$Geo:User:place",
]


@pytest.mark.parametrize("key", FOREIGN)
@pytest.mark.filterwarnings("ignore::popoto_async.UnindexedFilterWarning")
async def test_a_foreign_key_hurts_only_those_that_need_it(db: Database, clean_server: Server, key: str) -> None:
    await Draft.create(name="p")
    clean_server.client.rpush(key, "foreign")
    values: dict[str, Any] = {"email": "e", "age": 5, "city": "Rome", "place": (1, 2), "note": "n" * 200}
    outcomes = await asyncio.gather(
        Draft.create(name="before"),
        User.create(name="x", **values),
        User.load(name="x"),
        User.query.filter(city="Rome", age__gte=1),
        User.query.filter(place=(1, 2), place_radius=5).count(),
        User.query.count(),
        Draft.create(name="after"),
        Draft.query.count(),
        return_exceptions=True,
    )
    assert isinstance(outcomes[0], Draft)
    assert isinstance(outcomes[6], Draft)
    assert outcomes[7] == 3
    for outcome in outcomes:
        assert isinstance(outcome, (PopotoError, Model, list, int, type(None))), repr(outcome)
    failed = [outcome for outcome in outcomes[1:6] if isinstance(outcome, PopotoError)]
    needed = outcomes[1]
    assert isinstance(needed, (CorruptIndex, CorruptRecord)) or key == "$Man:User", repr(needed)
    for error in failed:
        assert isinstance(error, (CorruptIndex, CorruptRecord)), repr(error)
        assert error.model == "User"
        assert error.hint
    assert clean_server.client.lrange(key, 0, -1) == [b"foreign"]
    clean_server.client.delete(key)
    assert await User.create(name="y", **{**values, "email": "f"})


async def test_what_is_stored_and_can_not_be_read_is_told_where_it_is_read(db: Database, clean_server: Server) -> None:
    user = await User.create(name="x", email="e", age=5, score=1.5)
    clean_server.client.hset("User:x", "score", b"\xff")
    loaded = await User.load(name="x")
    assert loaded is not None
    assert loaded.age == 5
    with pytest.raises(CorruptRecord) as caught:
        _ = loaded.score
    assert (caught.value.model, caught.value.field, caught.value.key) == ("User", "score", "User:x")
    with pytest.raises(CorruptRecord) as caught:
        await user.increment("score")
    assert (caught.value.field, caught.value.key, caught.value.value) == ("score", "User:x", b"\xff")
    with pytest.raises(CorruptRecord) as caught:
        await User.query.values("name", "score")
    assert (caught.value.model, caught.value.field, caught.value.key) == ("User", "score", "User:x")
    assert await User.query.values("name", "age") == [{"name": "x", "age": 5}]
    with pytest.raises(CorruptRecord):
        loaded.to_dict()


async def test_the_rest_of_a_record_that_can_not_be_read_can_be_used(db: Database, clean_server: Server) -> None:
    await User.create(name="x", email="e", age=5, score=1.5, city="Rome")
    clean_server.client.hset("User:x", "score", b"\xff")
    for change in (lambda one: one.save(), lambda one: one.save(update_fields=["age", "city"])):
        loaded = await User.query.get_or_raise(name="x")
        loaded.age, loaded.city = loaded.age + 1, "Oslo"
        assert await change(loaded)
        assert await loaded.increment("age") == loaded.age
        assert await User.query.filter(age=loaded.age, city="Oslo").keys() == ["User:x"]
        assert clean_server.client.hget("User:x", "score") == b"\xff"
    await loaded.refresh("age")
    for names in ((), ("score",)):
        await loaded.refresh(*names)
        with pytest.raises(CorruptRecord):
            _ = loaded.score
    clean_server.client.hset("User:x", "score", "2.5")
    assert (await loaded.refresh()).score == 2.5
    clean_server.client.hset("User:x", "score", b"\xff")
    loaded = await User.query.get_or_raise(name="x")
    loaded.score = 3.5
    await loaded.save()
    assert (await User.query.get_or_raise(name="x")).score == 3.5
    assert await loaded.increment("score") == 4.5


# The server dies ----------------------------------------------------------------------------------------------------


async def test_no_bare_error_of_the_driver_when_the_server_dies(start_server: Callable[..., Server]) -> None:
    server = start_server("redis")
    async with connect(server.url) as db:
        user = await User.create(name="n", email="e")
        db.session().dispatcher.lanes[0]._patient = False
        server.kill()
        calls: list[Callable[[], Any]] = [
            lambda: User.create(name="m", email="f"),
            lambda: User.load(name="n"),
            lambda: User.query.count(),
            lambda: User.query.filter(name="n"),
            lambda: user.increment("age"),
            lambda: user.save(),
            lambda: user.delete(),
            lambda: user.refresh(),
            lambda: user.expire_in(5),
            lambda: in_a_transaction(user),
            lambda: User.get_or_create(name="n", defaults={"email": "e"}),
            lambda: db.execute("PING"),
        ]
        for call in calls:
            with pytest.raises((Unavailable, OutcomeUnknown)) as caught:
                await _finish(call())
            assert f"127.0.0.1:{server.port}" in str(caught.value)
        summary = await User.create_many({"name": f"x{n}", "email": f"x{n}"} for n in range(10))
        assert summary.failed == 10
        server.start()
        assert await User.query.count() == 0


async def test_a_reply_that_makes_no_sense_is_an_error_of_ours(clean_server: Server) -> None:
    async with FaultProxy(clean_server) as proxy, connect(proxy.url) as db:
        user = await User.create(name="n", email="e")
        await db.execute("SET", b"$Lane:" + b"x", "y")
        lane = db.session().dispatcher.lanes[0]
        following = int(clean_server.client.getrange(lane._key, 0, 15)) + 1
        clean_server.client.set(lane._key, b"%016d\xc1" % following)  # "done already", and then no MessagePack
        with pytest.raises(PopotoError):
            await user.increment("age")
        clean_server.client.delete(lane._key)
        assert await user.increment("age") in (1, 2)


# The tree -----------------------------------------------------------------------------------------------------------


def test_every_error_is_a_popoto_error_and_public() -> None:
    for name, kind in vars(errors).items():
        if inspect.isclass(kind) and issubclass(kind, Exception) and name != "SkipSaveException":
            assert issubclass(kind, PopotoError)
            assert getattr(popoto_async, name) is kind


TREE: dict[type[PopotoError], set[type[PopotoError]]] = {
    PopotoError: {ModelException, QueryException, DatabaseError, ContentError, EmbeddingError},
    ModelException: {
        ValidationError, UniqueViolation, AlreadyExists, NotFound, RecordGone, StaleRecord, NotLoaded, CorruptRecord,
        DefinitionError, UnknownField, ProtectedRecord,
    },
    QueryException: {IndexNotBuilt, InvalidLookup, MissingPartition, MultipleResults},
    DatabaseError: {Unavailable, OutcomeUnknown, Overloaded, CorruptIndex, NotAwaited, ConfigurationError},
    Unavailable: {TimedOut},
}  # fmt: skip


def test_the_tree_of_errors_is_the_one_that_is_drawn() -> None:
    for parent, children in TREE.items():
        assert {kind for kind in parent.__subclasses__() if kind.__module__ == errors.__name__} == children
    assert not issubclass(popoto_async.SkipSaveException, PopotoError)
    drawn = re.findall(r"^[│ ]*(?:[├└]── )?(\w+Error|\w+Exception|[A-Z]\w+)\b", errors.__doc__ or "", re.MULTILINE)
    page = (Path(__file__).parent.parent / "docs" / "errors.md").read_text()
    for kind in {kind for children in TREE.values() for kind in children}:
        assert kind.__name__ in drawn
        assert f"`{kind.__name__}`" in page or kind in (ContentError, EmbeddingError)


def test_errors_about_arguments_are_builtin_errors_too() -> None:
    for kind in (
        ValidationError, DefinitionError, InvalidLookup, MissingPartition, MultipleResults, ConfigurationError,
    ):  # fmt: skip
        assert issubclass(kind, ValueError)
    for kind in (UnknownField, NotAwaited):
        assert issubclass(kind, TypeError)
    assert issubclass(DatabaseError, PopotoError)
