"""Expired records: from their millisecond on as if they had been deleted, and swept in bounded amounts."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from popoto_async import (
    Database,
    GeoField,
    IndexedField,
    KeyField,
    Model,
    RecordGone,
    SortedField,
    UniqueField,
    UniqueKeyField,
    ValidationError,
    trace,
    transaction,
)
from tests import servers
from tests.model_of_store import assert_true, snapshot
from tests.servers import Server

pytestmark = pytest.mark.anyio

PAST = datetime(2001, 1, 1, tzinfo=UTC)
SWEEP = 150
"""Records that one call sweeps at most (`lib/expiry.lua`)."""


class Session(Model):
    user: str = KeyField()
    device: str = KeyField(default="phone")
    token: str = UniqueField()
    role: str | None = IndexedField()
    hits: int = SortedField(default=2**60)
    place = GeoField(null=True)


class Otp(Model):
    code: str = UniqueKeyField()
    tries: int = SortedField(default=0)

    class Meta:
        ttl = 500.5


class Witness(Model):
    name: str = KeyField()
    size: int = SortedField(default=1)


MODELS = [Session, Otp, Witness]


async def sessions(count: int, **values: Any) -> list[Session]:
    made = [
        Session(**{"user": f"u{i}", "token": f"t{i}", "role": "admin", "place": (0, i % 180), **values})
        for i in range(count)
    ]
    await Session.save_many(made)
    return made


async def gone(db: Database, *keys: str) -> None:
    """Wait until the server has forgotten these keys."""
    while await db.execute("EXISTS", *keys):
        await asyncio.sleep(0.002)


def deadline(server: Server, key: str) -> int:
    """The millisecond in which a key ends; -1 without one."""
    return int(server.client.pexpiretime(key))


def now_ms(server: Server) -> float:
    seconds, micros = server.client.time()
    return seconds * 1000 + micros / 1000


# Setting a deadline --------------------------------------------------------------------------------------------------


async def test_deadlines_in_all_ways(db: Database, clean_server: Server) -> None:
    record = (await sessions(1))[0]
    key = record.db_key.redis_key
    assert deadline(clean_server, key) == -1
    before = now_ms(clean_server)
    await record.expire_in(100)
    assert before + 99_999 <= deadline(clean_server, key) <= now_ms(clean_server) + 100_001
    when = datetime(2050, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC)
    for same in (when, when.replace(tzinfo=None), when.astimezone(UTC)):
        await record.expire_at(same)
        assert deadline(clean_server, key) == 2_524_705_445_678
    assert_true(clean_server, MODELS)
    record.role = "user"
    await record.save()
    assert deadline(clean_server, key) == 2_524_705_445_678, "a save keeps it"
    await record.increment("hits")
    assert deadline(clean_server, key) == 2_524_705_445_678
    await record.persist()
    assert deadline(clean_server, key) == -1
    assert_true(clean_server, MODELS)
    await record.save(expire_in=50)
    assert 0 < deadline(clean_server, key) <= now_ms(clean_server) + 50_001
    await record.save(expire_at=when)
    assert deadline(clean_server, key) == 2_524_705_445_678
    await Session.create(user="u0", token="new")
    assert deadline(clean_server, key) == -1, "another record has taken its key"
    assert_true(clean_server, MODELS)


@pytest.mark.parametrize("millisecond", [1, 9, 57, 333, 999])
async def test_a_deadline_is_exact_to_the_millisecond(db: Database, clean_server: Server, millisecond: int) -> None:
    record = (await sessions(1))[0]
    await record.expire_at(datetime(2050, 1, 2, 3, 4, 5, millisecond * 1000, tzinfo=UTC))
    assert deadline(clean_server, "Session:u0:phone") == 2_524_705_445_000 + millisecond
    assert_true(clean_server, MODELS)


@pytest.mark.parametrize("seconds", [0, -1, True, "5", float("nan"), float("inf"), None, 2**41])
async def test_deadlines_that_cannot_be(db: Database, clean_server: Server, seconds: Any) -> None:
    record = (await sessions(1))[0]
    before = snapshot(clean_server)
    with pytest.raises(ValidationError):
        await record.expire_in(seconds)
    with pytest.raises(ValidationError):
        await record.expire_at(seconds)
    if seconds is not None:
        with pytest.raises(ValidationError):
            await record.save(expire_in=seconds)
    assert snapshot(clean_server) == before


async def test_a_rename_keeps_the_deadline(db: Database, clean_server: Server) -> None:
    first, second, third = await sessions(3)
    await first.expire_in(1000)
    end = deadline(clean_server, "Session:u0:phone")
    first.user = "moved"
    await first.save()
    assert deadline(clean_server, "Session:moved:phone") == end
    second.user = "moved"
    await second.save()
    assert deadline(clean_server, "Session:moved:phone") == -1, "it had none, and brought that along"
    await third.expire_in(1000)
    end = deadline(clean_server, "Session:u2:phone")
    third.user = "moved"
    await third.save()
    assert deadline(clean_server, "Session:moved:phone") == end
    assert_true(clean_server, MODELS)


async def test_meta_ttl_starts_again_with_every_save(db: Database, clean_server: Server) -> None:
    record = await Otp.create(code="1")
    for save in (
        record.save, lambda: record.save(update_fields=["tries"]), lambda: record.increment("tries"),
        lambda: Otp.save_many([record]), lambda: _together(record), lambda: Otp.update_or_create({"tries": 3},
        code="1"),
    ):  # fmt: skip
        await record.expire_in(5)
        assert deadline(clean_server, "Otp:1") <= now_ms(clean_server) + 5_000
        earliest = now_ms(clean_server) + 500_499
        await save()
        await record.refresh()
        assert earliest <= deadline(clean_server, "Otp:1") <= now_ms(clean_server) + 500_501
    await record.persist()
    assert deadline(clean_server, "Otp:1") == -1
    assert_true(clean_server, MODELS)
    await record.save(expire_in=7)
    assert deadline(clean_server, "Otp:1") <= now_ms(clean_server) + 7_000


async def _together(record: Any) -> None:
    async with transaction() as tx:
        tx.save(record)


# Being gone ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["in", "at", "past"])
async def test_an_expired_record_is_gone_for_everything(db: Database, clean_server: Server, how: str) -> None:
    """At once, for the first question whatever it is; and what is left of it goes with that."""
    questions: list[tuple[Any, Any]] = [
        (lambda: Session.query.count(), 1),
        (lambda: Session.query.keys(), ["Session:u1:phone"]),
        (lambda: Session.query.filter(role="admin").count(), 1),
        (lambda: Session.query.filter(hits__gte=5).exists(), True),
        (lambda: Session.query.filter(token="t0").all(), []),
        (lambda: Session.query.filter(place=(0, 0), place_radius=10).count(), 0),
        (lambda: Session.load(user="u0", device="phone"), None),
        (lambda: Session.exists(user="u0"), False),
        (lambda: Session.query.order_by("-hits").first(), None),
    ]
    for ask, answer in questions:
        for record in await sessions(2):
            await record.persist()
        first = Session(user="u0", token="t0", role="admin", place=(0, 0))
        await first.save()
        if how == "past":
            await first.expire_at(PAST)
        else:
            await (
                first.expire_in(0.001) if how == "in" else first.expire_at(datetime.now(UTC) + timedelta(seconds=0.002))
            )
            await gone(db, "Session:u0:phone")
        found = await ask()
        assert found == answer or (answer is None and getattr(found, "user", "u1") == "u1")
        rows = assert_true(clean_server, MODELS)
        assert b"$Exp:Session" not in rows
        for verb in (first.save, first.persist, first.refresh, lambda first=first: first.increment("hits")):
            with pytest.raises(RecordGone):
                await verb()
        assert not await first.delete()


async def test_a_deadline_in_the_past_counts_within_the_same_call(db: Database, clean_server: Server) -> None:
    """What the operations behind it in one round trip see."""
    record, _ = await sessions(2)
    async with trace() as traced:
        _, count, found, kept = await asyncio.gather(
            record.expire_at(PAST), Session.query.count(), Session.load(user="u0", device="phone"),
            Session.create(user="u9", token="t0"),
        )  # fmt: skip
    assert traced.round_trips <= 2
    assert (count in (1, 2), found) == (True, None)
    assert kept.is_saved, "the claim is free"
    assert_true(clean_server, MODELS)
    await kept.save(expire_at=PAST)
    assert await Session.query.keys() == ["Session:u1:phone"]
    assert_true(clean_server, MODELS)


async def test_claims_of_the_expired_are_free(db: Database, clean_server: Server) -> None:
    otp = await Otp.create(code="1")
    await otp.expire_at(PAST)
    again = await Otp.create(code="1", if_exists="error")
    await again.expire_at(PAST)
    _, created = await Otp.get_or_create(code="1")
    assert created
    record = (await sessions(1))[0]
    await record.expire_at(PAST)
    found, created = await Session.get_or_create(token="t0", defaults={"user": "other"})
    assert (found.user, created) == ("other", True)
    assert_true(clean_server, MODELS)


async def test_an_expired_record_is_created_again(db: Database, clean_server: Server) -> None:
    record = (await sessions(1))[0]
    await record.expire_at(PAST)
    with pytest.raises(RecordGone):
        await record.save()
    await record.save(if_gone="create")
    assert_true(clean_server, MODELS)
    assert deadline(clean_server, "Session:u0:phone") == -1


# Sweeping ------------------------------------------------------------------------------------------------------------


def expire_behind_its_back(server: Server, model: type[Model]) -> int:
    """All records of a model reach their deadline now: as time would have it, without waiting."""
    exp, soon = f"$Exp:{model.__name__}", int(now_ms(server)) + 1
    keys = server.client.zrange(f"$Class:{model.__name__}", 0, -1)
    with server.client.pipeline() as pipe:
        for key in keys:
            pipe.pexpireat(key, soon)
            pipe.zadd(exp, {key: soon})
        pipe.execute()
    while server.client.exists(*keys):
        pass
    return len(keys)


READS: dict[str, Any] = {
    "count": (lambda: Session.query.count(), 0),
    "keys": (lambda: Session.query.keys(), []),
    "rows": (lambda: Session.query.filter(role="admin").order_by("-hits").limit(5).all(), []),
    "load": (lambda: Session.load(user="u5", device="phone"), None),
    "exists": (lambda: Session.exists(user="u5"), False),
}


@pytest.mark.parametrize("read", READS)
async def test_a_read_sweeps_all_that_is_due_in_bounded_calls(db: Database, clean_server: Server, read: str) -> None:
    await asyncio.gather(*(Session(user=f"u{i}", token=f"t{i}", role="admin").save(expire_in=1000) for i in range(420)))
    assert expire_behind_its_back(clean_server, Session) == 420
    ask, answer = READS[read]
    with servers.count_commands(clean_server) as counted:
        assert await ask() == answer
    assert 3 <= counted.round_trips <= 5, "150 at most in each"
    assert set(snapshot(clean_server)) == {b"$Slots:Session"}


async def test_a_write_goes_on_while_more_is_due(db: Database, clean_server: Server) -> None:
    """It sweeps its share, and is right about what is due and not swept yet: its own key, claims, target."""
    await sessions(1)
    await asyncio.gather(*(Session(user=f"u{i}", token=f"t{i}").save(expire_in=1000) for i in range(400)))
    expire_behind_its_back(clean_server, Session)
    last = "u99"  # in the order of keys the last: due till the end
    with servers.count_commands(clean_server) as counted:
        fresh = await Session.create(user=last, token="t98", if_exists="error")
    assert counted.round_trips == 1
    assert records_left(clean_server) == 400 - SWEEP
    assert fresh.is_saved
    assert await Session.query.count() == 1
    assert_true(clean_server, MODELS)


def records_left(server: Server) -> int:
    return int(server.client.zcard("$Class:Session"))


@pytest.mark.parametrize("verb", ["update", "rename onto", "delete", "increment", "expire", "transaction"])
async def test_verbs_on_what_is_due_and_not_swept(db: Database, clean_server: Server, verb: str) -> None:
    made = [Session(user=f"u{i:03}", token=f"t{i}") for i in range(400)]
    await asyncio.gather(*(one.save(expire_in=1000) for one in made))
    expire_behind_its_back(clean_server, Session)
    last = made[-1]
    last.role, last.token = "x", "t398"
    if verb == "update":
        with pytest.raises(RecordGone):
            await last.save()
    elif verb == "increment":
        with pytest.raises(RecordGone):
            await last.increment("hits")
    elif verb == "expire":
        with pytest.raises(RecordGone):
            await last.expire_in(1000)
    elif verb == "delete":
        assert not await last.delete()
    elif verb == "transaction":
        with pytest.raises(RecordGone):
            await _all(Session(user="new", token="t397"), last)
    else:
        mover = await Session.create(user="mover", token="m")
        mover.user, mover.token = "u399", "t398"
        await mover.save(if_exists="error")
        assert await Session.query.keys() == ["Session:u399:phone"]
    rest = await Session.query.count()
    assert rest == (verb == "rename onto")
    assert_true(clean_server, MODELS)


async def _all(*records: Any) -> None:
    async with transaction() as tx:
        for record in records:
            tx.save(record)


async def test_classes_are_swept_apart(db: Database, clean_server: Server) -> None:
    await asyncio.gather(*(Session(user=f"u{i}", token=f"t{i}").save(expire_in=1000) for i in range(20)))
    await Witness.create(name="w")
    expire_behind_its_back(clean_server, Session)
    assert await Witness.query.count() == 1
    assert records_left(clean_server) == 20, "an operation on another class has not touched them"
    assert await Session.query.count() == 0
    assert_true(clean_server, MODELS)


async def test_something_foreign_does_not_stop_the_sweep(db: Database, clean_server: Server) -> None:
    """Under the key of an expired record, and under its index keys."""
    client = clean_server.client
    await asyncio.gather(
        *(Session(user=f"u{i}", token=f"t{i}", role=f"r{i % 3}").save(expire_in=1000) for i in range(200))
    )
    await Session.create(user="lives", token="lives")
    client.persist("Session:lives:phone")
    expire_behind_its_back(clean_server, Session)
    client.delete("Session:lives:phone")
    client.set("Session:u5:phone", "somebody else's")
    client.delete("$Index:Session:role:r1")
    client.set("$Index:Session:role:r1", "somebody else's")
    assert await Session.query.count() == 0
    foreign = {b"$Index:Session:role:r1": b"somebody else's", b"Session:u5:phone": b"somebody else's"}
    assert snapshot(clean_server) == {**foreign, b"$Slots:Session": client.get("$Slots:Session")}


async def test_sweeps_between_many_readers_and_writers(db: Database, clean_server: Server) -> None:
    """Counts never show an expired record, whoever sweeps it."""
    await asyncio.gather(*(Session(user=f"u{i}", token=f"t{i}").save(expire_in=1000) for i in range(500)))
    expire_behind_its_back(clean_server, Session)
    counts = await asyncio.gather(
        *(Session.query.count() for _ in range(20)),
        *(Session.create(user=f"u{i}", token=f"t{i}") for i in range(0, 500, 50)),
        *(Session.query.count() for _ in range(20)),
    )
    assert all(0 <= count <= 10 for count in counts if isinstance(count, int))
    assert await Session.query.count() == 10
    assert_true(clean_server, MODELS)
