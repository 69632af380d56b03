"""A save that fails changes nothing: every key on the server and the instance stay as they were."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from popoto_async import (
    AlreadyExists,
    CorruptIndex,
    CorruptRecord,
    Database,
    DatabaseError,
    DatetimeField,
    Field,
    GeoField,
    IndexedField,
    KeyField,
    Model,
    PopotoError,
    RecordGone,
    SortedField,
    StaleRecord,
    UniqueField,
    UniqueKeyField,
    UniqueViolation,
    ValidationError,
    connect,
    trace,
    transaction,
)
from tests.model_of_store import assert_true, rows_of, snapshot
from tests.servers import Server, until

pytestmark = pytest.mark.anyio


class Diner(Model):
    name: str = KeyField()
    branch: int = KeyField(default=1)
    email: str = UniqueField()
    cuisine: str | None = IndexedField(suffixes=True)
    seats: int = SortedField(default=2**60)
    rating: float | None = SortedField(null=True, partition_by="cuisine")
    place = GeoField()
    table: str | None = Field(max_length=5)
    floor: int = UniqueField(default=0)
    changed: datetime = DatetimeField(auto_now=True)

    class Meta:
        unique_together = (("cuisine", "table"),)


class Badge(Model):
    team: str = KeyField()
    code: str = UniqueKeyField()
    points: int = Field(default=0)

    class Meta:
        versioned = True


class Bystander(Model):
    name: str = KeyField()
    size: float = SortedField(default=1.0)


MODELS = [Diner, Badge, Bystander]


def diner(number: int = 1, **values: Any) -> dict[str, Any]:
    return {
        "name": f"d{number}", "email": f"{number}@x", "cuisine": "Thai", "rating": float(number), "place": (1, number),
        "table": f"t{number}", "floor": number, **values,
    }  # fmt: skip


@contextmanager
def nothing_changes(server: Server, *instances: Any) -> Iterator[None]:
    before, states = snapshot(server), [dict(vars(instance)) for instance in instances]
    yield
    assert snapshot(server) == before
    assert [vars(instance) for instance in instances] == states


# Refused before anything is sent -------------------------------------------------------------------------------------

INVALID: list[tuple[str, Any]] = [
    ("place", (95, 0)), ("place", (0, 181)), ("place", (math.nan, 0)), ("place", (0, math.inf)), ("place", "here"),
    ("rating", math.nan), ("rating", "5"), ("rating", True), ("seats", None), ("seats", 1.0), ("seats", True),
    ("email", None), ("email", 5), ("email", "x" * 1025), ("table", "123456"), ("cuisine", "\ud800"), ("name", None),
    ("floor", math.nan),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), INVALID)
async def test_invalid_values(db: Database, clean_server: Server, name: str, value: Any) -> None:
    new, stored = Diner(**diner(2, **{name: value})), await Diner.create(**diner())
    setattr(stored, name, value)
    stored.table = "other" if name != "table" else value
    calls: list[Callable[[], Any]] = [
        new.save, stored.save, lambda: stored.save(update_fields=[name]), lambda: stored.save(expire_in=5),
        lambda: _all([new, stored]), lambda: Diner.create(**diner(3, **{name: value})),
    ]  # fmt: skip
    for call in calls:
        with nothing_changes(clean_server, new, stored), pytest.raises(ValidationError) as raised:
            await call()
        assert name in raised.value.errors
    with nothing_changes(clean_server):
        summary = await Diner.create_many([diner(4, **{name: value})])
        assert (summary.done, summary.failed) == (0, 1)
    assert_true(clean_server, MODELS)


async def _all(instances: list[Any]) -> None:
    async with transaction() as tx:
        for instance in instances:
            tx.save(instance)


async def test_other_arguments_that_cannot_be(db: Database, clean_server: Server) -> None:
    stored = await Diner.create(**diner())
    calls: list[Callable[[], Any]] = [
        lambda: stored.save(update_fields=["nothing"]), lambda: stored.save(expire_in=0), lambda: stored.expire_in(-1),
        lambda: stored.increment("seats", 1.5), lambda: stored.increment("rating", math.inf),
        lambda: stored.increment("table"), lambda: stored.increment("branch"), lambda: stored.increment("nothing"),
        lambda: Diner(**diner(2)).increment("seats"), lambda: Diner(**diner(2)).expire_in(5),
        lambda: Diner.get_or_create(cuisine="Thai"), lambda: Diner.get_or_create(email="1@x", defaults={"nothing": 1}),
    ]  # fmt: skip
    for call in calls:
        with nothing_changes(clean_server, stored), pytest.raises(PopotoError):
            await call()


# Refused by the server -----------------------------------------------------------------------------------------------


async def test_unique_conflicts(db: Database, clean_server: Server) -> None:
    await Diner.create(**diner(1))
    second = await Diner.create(**diner(2))
    conflicts: list[dict[str, Any]] = [{"email": "1@x"}, {"floor": 1}, {"table": "t1"}]
    for conflict in conflicts:
        new = Diner(**diner(3, **conflict))
        with nothing_changes(clean_server, new), pytest.raises(UniqueViolation) as raised:
            await new.save()
        assert raised.value.owner == "Diner:d1:1"
        await second.refresh()
        for name, value in {"cuisine": "Thai", "seats": 5, **conflict}.items():
            setattr(second, name, value)
        with nothing_changes(clean_server, second):
            for call in (second.save, lambda names=list(conflict): second.save(update_fields=names)):
                with pytest.raises(UniqueViolation):
                    await call()
        second.name = "moved"
        with nothing_changes(clean_server, second), pytest.raises(UniqueViolation):
            await second.save()
    await second.refresh()
    with nothing_changes(clean_server, second), pytest.raises(UniqueViolation):
        await second.increment("floor", -1)
    second.table = None
    await second.save()
    assert_true(clean_server, MODELS)


async def test_a_unique_key_is_won_once(db: Database, clean_server: Server) -> None:
    await Badge.create(team="a", code="1")
    for team in ("a", "b"):
        with nothing_changes(clean_server), pytest.raises(UniqueViolation, match="'code' value '1' already exists"):
            await Badge.create(team=team, code="1")


async def test_of_concurrent_creates_one_wins(db: Database, clean_server: Server) -> None:
    for turn in range(5):
        numbers = range(turn * 100, turn * 100 + 50)
        makers = [Diner.create(**diner(i, email=f"same{turn}", table=None, place=None)) for i in numbers]
        outcomes = await asyncio.gather(*makers, return_exceptions=True)
        assert sum(isinstance(outcome, Diner) for outcome in outcomes) == 1
        assert sum(isinstance(outcome, UniqueViolation) for outcome in outcomes) == 49
    assert len(rows_of(assert_true(clean_server, MODELS), [Diner])[Diner]) == 5


async def test_taken_keys(db: Database, clean_server: Server) -> None:
    await Diner.create(**diner(1))
    second = await Diner.create(**diner(2))
    with nothing_changes(clean_server), pytest.raises(AlreadyExists):
        await Diner.create(**diner(1, email="new", table="t9", floor=9), if_exists="error")
    second.name = "d1"
    with nothing_changes(clean_server, second), pytest.raises(AlreadyExists):
        await second.save(if_exists="error")


async def test_records_gone_or_stale(db: Database, clean_server: Server) -> None:
    record = await Diner.create(**diner())
    await Diner(name="d1").delete()
    record.email, record.name = "new@x", "moved"
    calls: list[Callable[[], Any]] = [
        record.save, lambda: record.save(update_fields=["email"]), lambda: record.increment("seats"),
        lambda: record.expire_in(50), record.persist, record.refresh, lambda: _all([record]),
    ]  # fmt: skip
    for call in calls:
        with nothing_changes(clean_server, record), pytest.raises(RecordGone):
            await call()
    badge = await Badge.create(team="a", code="1")
    stale = await Badge.load(team="a", code="1")
    assert stale is not None
    badge.points = 5
    await badge.save()
    stale.points, stale.team = 6, "b"
    with nothing_changes(clean_server, stale), pytest.raises(StaleRecord) as caught:
        await stale.save()
    assert caught.value.key == "Badge:a:1", "the record, not the key that it would have had"
    await Diner.create(**diner(name="moved", email="other@x"))
    with nothing_changes(clean_server, record), pytest.raises(RecordGone, match="'Diner:d1:1' does not") as gone:
        await record.save()
    assert gone.value.key == "Diner:d1:1"
    assert_true(clean_server, MODELS)


async def test_a_transaction_that_fails_at_any_step(db: Database, clean_server: Server) -> None:
    """The steps before the failing one are taken back: saves, renames onto others, deletes, deadlines."""
    first, second, other = [await Diner.create(**diner(number)) for number in (1, 2, 3)]
    await second.expire_in(1000)
    await other.expire_in(1000)
    stays = await Badge.create(team="a", code="1")
    for failing in range(5):
        new = Diner(**diner(4))
        first.email, first.cuisine, second.name = "moved@x", None, "d3"
        stays.team = "b"
        involved = [first, second, new, stays]
        before = snapshot(clean_server), [dict(vars(one)) for one in involved]
        with pytest.raises(UniqueViolation):
            async with transaction() as tx:
                for step, act in enumerate(
                    [lambda: tx.save(first), lambda: tx.save(second), lambda: tx.delete(other), lambda: tx.save(new)]
                ):
                    if step == failing:
                        tx.save(Badge(team="z", code="1"))
                    act()
                tx.save(Badge(team="z", code="1"))
                tx.save(stays)
        assert (snapshot(clean_server), [dict(vars(one)) for one in involved]) == before
        assert_true(clean_server, MODELS)
    async with transaction() as tx:
        tx.save(first)
        tx.delete(other)
        tx.save(new)
    assert await Diner.query.filter(email__in=["moved@x", "4@x", "3@x"]).keys() == ["Diner:d1:1", "Diner:d4:1"]
    assert_true(clean_server, MODELS)


async def test_a_first_save_that_fails_leaves_an_empty_server_empty(clean_server: Server) -> None:
    """Not even the slot table of the model stays, and a client that leaves takes its lane along."""
    client = clean_server.client
    lost = Diner(**diner())
    async with connect(clean_server.url):
        await lost.save()
        await Diner.query.filter(name="d1").count()
        client.flushdb()
        calls: list[Callable[[], Any]] = [
            lambda: Diner.create(**diner(1, place=(95, 0))), lambda: Diner.create(**diner(1, rating=math.nan)),
            lambda: lost.increment("seats"), lambda: lost.expire_in(5), lambda: _changed(lost), lambda: _renamed(lost),
            lambda: _all([Diner(**diner(2)), Badge(team="a", code="c"), lost]),
        ]  # fmt: skip
        for call in calls:
            with pytest.raises((ValidationError, RecordGone)):
                await call()
            assert [key for key in client.keys("*") if not key.startswith(b"$Lane:")] == []
        assert not await lost.delete()
        assert [key for key in client.keys("*") if not key.startswith(b"$Lane:")] == []
        client.set("$Class:Diner", "foreign")
        with pytest.raises(CorruptIndex):
            await Diner.create(**diner(2))
        assert [key for key in client.keys("*") if not key.startswith(b"$Lane:")] == [b"$Class:Diner"]
        assert client.keys("$Lane:*") != []
    assert client.keys("*") == [b"$Class:Diner"]


# Something foreign on the server -------------------------------------------------------------------------------------

FOREIGN: dict[str, Callable[[Any, bytes], Any]] = {
    "string": lambda client, key: client.set(key, "x"),
    "list": lambda client, key: client.rpush(key, "x"),
    "set": lambda client, key: client.sadd(key, "x"),
    "zset": lambda client, key: client.zadd(key, {"x": 1}),
    "hash": lambda client, key: client.hset(key, "x", "y"),
    "stream": lambda client, key: client.xadd(key, {"x": "y"}),
}


@pytest.mark.parametrize("kind", ["string", "list", "set", "zset", "stream"])
async def test_a_foreign_type_under_a_record_key(db: Database, clean_server: Server, kind: str) -> None:
    record = await Diner.create(**diner(1))
    mover = await Diner.create(**diner(2))
    await Bystander.create(name="known")
    clean_server.client.delete("Diner:d1:1")
    FOREIGN[kind](clean_server.client, b"Diner:d1:1")
    mover.name, record.seats = "d1", 5
    calls: list[Callable[[], Any]] = [
        lambda: Diner.create(**diner(1)), lambda: Diner.create(**diner(1), if_exists="error"), record.save, mover.save,
        lambda: record.increment("seats"), lambda: record.expire_in(50), record.persist, record.delete, record.refresh,
        lambda: Diner.load(name="d1", branch=1), lambda: Diner.get_or_create(name="d1", branch=1, defaults=diner(1)),
        lambda: _all([mover]),
    ]  # fmt: skip
    for number, call in enumerate(calls):
        with nothing_changes(clean_server, record):
            before, failed, after = await _between_bystanders(clean_server, call, number)
            assert isinstance(failed, CorruptRecord), failed
            assert "Diner:d1:1" in str(failed)
            assert before.is_saved
            assert after.is_saved
            await Bystander.delete_many([before, after])


async def test_a_hash_that_is_no_record_is_left_alone(db: Database, clean_server: Server) -> None:
    record = await Diner.create(**diner(1))
    mover = await Diner.create(**diner(2))
    clean_server.client.delete("Diner:d1:1")
    FOREIGN["hash"](clean_server.client, b"Diner:d1:1")
    mover.name, record.seats = "d1", 5
    create, count = (lambda: Diner.create(**diner(1))), (lambda: record.increment("seats"))
    for call in (create, record.save, mover.save, count, record.delete):
        with (
            nothing_changes(clean_server, record),
            pytest.raises(CorruptRecord, match="'Diner:d1:1' holds a hash, not"),
        ):
            await call()
    assert await Diner.load(name="d1", branch=1) is None


async def _between_bystanders(server: Server, call: Callable[[], Any], number: int) -> tuple[Any, Any, Any]:
    """The outcome of a call, in one round trip with two creates that have nothing to do with it."""
    made = [Bystander(name=f"{side}{number}") for side in ("before", "after")]

    async def attempt() -> Any:
        try:
            return await call()
        except PopotoError as error:
            return error

    async with trace() as traced:
        server.pause()  # what is queued while a first call is under way leaves together
        waiting = [asyncio.create_task(Bystander.load(name="known"))]
        for work in (made[0].save, attempt, made[1].save):
            for _ in range(10):
                await asyncio.sleep(0)
            waiting.append(asyncio.create_task(work()))
        for _ in range(10):
            await asyncio.sleep(0)
        server.resume()
        _, _, outcome, _ = await asyncio.gather(*waiting)
    shared = [one for one in traced.operations if one.round_trip == traced.operations[1].round_trip]
    assert [one.model for one in shared] == ["Bystander", "Diner", "Bystander"], str(traced)
    return made[0], outcome, made[1]


async def _changed(record: Diner) -> bool:
    values = {
        "email": "new@x", "cuisine": "Greek", "seats": 2**60 + 1, "rating": -1.0, "place": (90, 0), "table": "t9",
        "floor": 9,
    }  # fmt: skip
    for name, value in values.items():
        setattr(record, name, value)
    return await record.save()


async def _renamed(record: Diner) -> bool:
    record.name = "moved"
    return await record.save()


VERBS: dict[str, Callable[[Diner], Coroutine[Any, Any, Any]]] = {
    "create": lambda record: Diner.create(**diner(1, name="new", email="n@x", floor=7, table="t7")),
    "overwrite": lambda record: Diner.create(**diner(1, email="n@x", cuisine=None, rating=None)),
    "update": _changed,
    "save": lambda record: record.save(),
    "rename": _renamed,
    "delete": lambda record: record.delete(),
    "increment": lambda record: record.increment("seats"),
    "expire": lambda record: record.expire_in(1000),
    "persist": lambda record: record.persist(),
    "transaction": lambda record: _all([Diner(**diner(5, cuisine=None)), record]),
    "get_or_create": lambda record: Diner.get_or_create(email="o@x", defaults=diner(6, email="o@x")),
}
ALWAYS = {b"$Slots:Diner", b"$Exp:Diner"}
"""What every operation of the class asks."""


@pytest.mark.parametrize("verb", VERBS)
async def test_a_foreign_type_under_an_index_key(db: Database, clean_server: Server, verb: str) -> None:
    """Each index key in turn: the operation either does not need it and is right, or fails and leaves nothing."""
    client = clean_server.client
    await Diner.create(**diner(2, cuisine="Greek", rating=2.0, place=(-90, 0), seats=2**60 + 1))
    record = await Diner.create(**diner(1))
    await record.expire_in(1000)
    await Bystander.create(name="known")
    truth = assert_true(clean_server, MODELS)
    keys = [key for key in truth if key.startswith(b"$") and b"Diner" in key]
    own = {key for key in keys if b"Diner:d1:1" in str(truth[key]).encode()}
    deadline = int(client.zscore("$Exp:Diner", "Diner:d1:1"))
    copies = {key: client.dump(key) for key in client.keys("*Diner*")}
    kinds = {key: client.type(key) for key in keys}
    failures = set()
    for number, key in enumerate([*keys, b"$Index:Diner:name:moved", b"$Index:Diner:name:new"]):
        kind = ("string", "zset", "hash", "set")[number % 4]
        if kind.encode() == kinds.get(key, b"zset") or (key == b"$Slots:Diner" and kind == "string"):
            kind = "list"
        with client.pipeline() as pipe:
            pipe.delete(*client.keys("*Diner*"))
            for name, copy in copies.items():
                pipe.restore(name, deadline if name == b"Diner:d1:1" else 0, copy, absttl=True)
            pipe.execute()
        fresh = await Diner.load(name="d1", branch=1)
        assert fresh is not None
        client.delete(key)
        FOREIGN[kind](client, key)
        before, state = snapshot(clean_server), dict(vars(fresh))
        one, outcome, other = await _between_bystanders(clean_server, lambda: VERBS[verb](fresh), number)
        await Bystander.delete_many([one, other])
        if isinstance(outcome, Exception):
            assert isinstance(outcome, CorruptIndex), outcome
            assert repr(key.decode()) in str(outcome)
            assert snapshot(clean_server) == before, key
            assert (fresh._key, fresh._stored) == (state["_key"], state["_stored"])
            failures.add(key)
        else:
            assert client.type(key) == kind.encode()
            client.delete(key)
            if key in copies:
                client.restore(key, 0, copies[key])
            assert_true(clean_server, MODELS)
    assert failures >= ALWAYS
    if verb == "delete":
        assert failures >= own


@pytest.mark.parametrize("kind", ["string", "list"])
async def test_reads_of_foreign_index_keys(db: Database, clean_server: Server, kind: str) -> None:
    """They say which key, and the others in the call are answered."""
    await Diner.create(**diner(1))
    await Bystander.create(name="known")
    queries = {
        "$Index:Diner:cuisine:Thai": Diner.query.filter(cuisine="Thai"),
        "$Sort:Diner:seats": Diner.query.filter(seats__gt=5),
        "$Exp:Diner": Diner.query.filter(seats__gt=5),
        "$Class:Diner": Diner.query,
    }
    for key, query in queries.items():
        copy = clean_server.client.dump(key)
        clean_server.client.delete(key)
        FOREIGN[kind](clean_server.client, key.encode())
        known, *failed = await asyncio.gather(
            Bystander.load(name="known"), query.all(), query.count(), query.exists(), return_exceptions=True
        )
        assert isinstance(known, Bystander)
        assert all(isinstance(one, CorruptIndex) for one in failed), failed
        clean_server.client.delete(key)
        if copy:
            clean_server.client.restore(key, 0, copy)
    assert await Diner.query.count() == 1


# Broken off on the way -----------------------------------------------------------------------------------------------


async def test_a_task_cancelled_at_any_point(db: Database, clean_server: Server) -> None:
    """Whatever turn of the loop it is cancelled in: all of it is stored or nothing, and the next save is right."""
    await Diner.create(**diner(1))
    await Diner.create(**diner(2))
    verbs: list[Callable[[Any], Any]] = [
        lambda record: record.save(), lambda record: _changed(record), lambda record: _renamed(record),
        lambda record: record.delete(), lambda record: record.increment("seats"),
        lambda record: _all([record, Diner(**diner(5))]), lambda record: record.expire_in(1000),
        lambda record: Diner.get_or_create(email="5@x", defaults=diner(5)),
    ]  # fmt: skip
    for verb in verbs:
        for turns in range(14):
            record = await Diner.create(**diner(1))
            before, values = snapshot(clean_server), dict(vars(record))

            async def work(verb: Callable[[Any], Any] = verb, record: Any = record) -> Any:
                return await verb(record)

            task = asyncio.create_task(work())
            for _ in range(turns):
                await asyncio.sleep(0)
            if turns == 1:
                task.cancel()
                await asyncio.wait([task])
                assert snapshot(clean_server) == before, "the cancelled operation has not left"
            task.cancel()
            await asyncio.wait([task])
            assert await Diner.query.count() in (1, 2, 3)
            found = assert_true(clean_server, MODELS)
            if found == before and task.cancelled() and record._key == values["_key"]:
                assert record._stored == values["_stored"]
            await Diner.delete_many([Diner(name=name) for name in ("d1", "d5", "moved")])
    assert_true(clean_server, MODELS)


async def test_a_server_killed_in_the_middle(start_server: Any, server: Server) -> None:
    """What it had acknowledged stands there when it is back; of the rest all or nothing."""
    chance = random.Random(5)
    mortal = start_server(server.kind, appendonly="yes", appendfsync="no")
    async with connect(mortal.url):
        acknowledged: dict[str, Diner] = {}

        async def writer(number: int) -> None:
            for turn in range(12):
                record = Diner(**diner(number * 100 + turn, place=None, table=None))
                try:
                    await record.save()
                    acknowledged[record.name] = record
                    record.cuisine, record.rating = "Greek", 5
                    await record.save()
                    if turn % 3 == 0:
                        await record.delete()
                        del acknowledged[record.name]
                except PopotoError:
                    acknowledged.pop(record.name, None)

        for round_ in range(2):
            writers = [asyncio.create_task(writer(round_ * 10 + number)) for number in range(10)]
            for _ in range(chance.randrange(20, 60)):
                await asyncio.sleep(0)
            mortal.kill()
            await asyncio.to_thread(mortal.start)
            await asyncio.gather(*writers)
            rows = rows_of(assert_true(mortal, MODELS), MODELS)[Diner]
            assert {f"Diner:{name}:1" for name in acknowledged} <= set(rows)


async def test_a_server_that_stays_away(start_server: Any, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("popoto_async.lane.PATIENCE", 0.0)
    mortal = start_server(server.kind)
    async with connect(mortal.url):
        record, new = await Diner.create(**diner(1)), Diner(**diner(2))
        record.name, record.email = "moved", "new@x"
        states = [dict(vars(one)) for one in (record, new)]
        mortal.kill()
        for call in (
            record.save,
            new.save,
            lambda: record.increment("seats"),
            record.delete,
            lambda: _all([record, new]),
        ):
            with pytest.raises(DatabaseError):
                await call()
            assert [vars(one) for one in (record, new)] == states
        mortal.start()
        await new.save()
        assert_true(mortal, MODELS)


async def test_a_server_at_its_maxmemory(db: Database, clean_server: Server) -> None:
    record, other = await Diner.create(**diner(1)), await Diner.create(**diner(2))
    await other.expire_in(1000)
    badge = await Badge.create(team="a", code="1")
    clean_server.client.config_set("maxmemory", "1")
    record.seats, record.email, badge.points = 7, "new@x", 9
    record.name = "moved"
    new = Diner(**diner(3))
    calls: list[Callable[[], Any]] = [
        record.save, lambda: record.save(update_fields=["seats"]), lambda: record.increment("rating"), badge.save,
        new.save,
        lambda: record.expire_in(5), lambda: other.save(), lambda: _all([badge, record, new]),
        lambda: Bystander.create(name="first"), lambda: Diner.get_or_create(email="n@x", defaults=diner(4)),
    ]  # fmt: skip
    for call in calls:
        with nothing_changes(clean_server, record, other, badge, new):
            with pytest.raises(DatabaseError, match="OOM") as raised:
                await call()
            assert "maxmemory" in str(raised.value.hint)
    with nothing_changes(clean_server):
        assert await Diner.query.filter(seats__gt=5).order_by("-seats").count() == 2
        assert await Diner.load(name="d1", branch=1) == record
        assert len(await Diner.query) == 2
    async with connect(clean_server.url):
        assert await other.delete(), "room can be made, also by a client that comes new"
    clean_server.client.config_set("maxmemory", "0")
    await record.save()
    assert_true(clean_server, MODELS)


@pytest.fixture
def unsaved(server: Server, start_server: Callable[..., Server], tmp_path: Path) -> Iterator[Server]:
    """A server whose snapshots fail, as the folder for them is gone, once `fail_to_save` was called."""
    folder = tmp_path / "data"
    folder.mkdir()
    mortal = start_server(server.kind, save="3600 1", dir=str(folder))
    yield mortal
    mortal.client.config_set("save", "")  # it would not end before it has saved


def fail_to_save(server: Server) -> None:
    Path(server.client.config_get("dir")["dir"]).rmdir()
    server.client.bgsave()
    until(lambda: server.client.info("persistence")["rdb_last_bgsave_status"] == "err", message="it saved")


@pytest.mark.parametrize("known", [True, False], ids=["a client that has written", "a new client"])
async def test_a_server_that_can_not_save_to_disk(unsaved: Server, known: bool) -> None:
    """It refuses writes with MISCONF: none of it is done, which is what the error says; reading goes on."""
    async with connect(unsaved.url):
        record = await Diner.create(**diner(1))
    async with connect(unsaved.url):
        if known:
            await record.save()
        fail_to_save(unsaved)
        record.seats, record.email, record.name = 7, "new@x", "moved"
        new = Diner(**diner(2))
        calls: list[Callable[[], Any]] = [
            new.save, lambda: Diner.create(**diner(3)), record.save, record.delete, lambda: record.increment("seats"),
            lambda: record.expire_in(5), lambda: _all([record, new]), lambda: Diner.query.update(table="x"),
        ]  # fmt: skip
        for call in calls:
            with nothing_changes(unsaved, record, new):
                with pytest.raises(DatabaseError, match="MISCONF") as raised:
                    await call()
                assert type(raised.value) is DatabaseError, "neither unknown nor passing"
                assert "disk" in str(raised.value.hint)
        with nothing_changes(unsaved):
            assert await Diner.query.filter(seats__gt=5).count() == 1
            found = await Diner.load(name="d1", branch=1)
            assert found is not None
            assert found.email == diner(1)["email"]
        unsaved.client.config_set("stop-writes-on-bgsave-error", "no")
        for call in (new.save, record.save):
            await call()
        assert_true(unsaved, MODELS)
