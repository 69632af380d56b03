"""A client that ends in the middle of a rename leaves work: check shows it, repair finishes it, queries are right."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import suppress
from typing import Any

import pytest

from popoto_async import (
    Database,
    EventStreamMixin,
    IndexedField,
    KeyField,
    Model,
    Relationship,
    SortedField,
    connect,
    maintenance,
    saving,
    trace,
)
from popoto_async.maintenance import Report
from popoto_async.planning.relations import plan_rewrite
from popoto_async.records import ask
from tests.fix_processes import Spawn
from tests.model_of_store import Dump, assert_true, rows_of, snapshot
from tests.servers import Server

pytestmark = pytest.mark.anyio


class Stop(Model):
    name: str = KeyField()
    line: str | None = IndexedField()


class Trip(Model):
    number: int = KeyField()
    start = Relationship(Stop, related_name="trips")
    end = Relationship(Stop)
    fare: int = SortedField(default=1, partition_by="start")

    class Meta:
        indexes = ((("start", "end"), False),)


class Pass(Model):
    code: str = KeyField()
    stop = Relationship(Stop)
    zone: int = SortedField()

    class Meta:
        unique_together = (("stop", "zone"),)


MODELS: list[type[Model]] = [Stop, Trip, Pass]
MANY = 700
FOLLOWED = 200
"""Records that follow in one call."""


async def some_follow(schema: Any, key: str, parts: int) -> None:
    for _ in range(parts):
        status, outcome, _ = await ask("save", schema, lambda bound: plan_rewrite(bound, key), cost=1)
        assert (status, outcome[1] > 0) == (b"ok", True)


@pytest.fixture
def cut_off(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Have renames end after so many parts."""

    def after(parts: int) -> None:
        async def rewrite(schema: Any, state: Any, *times: Any) -> None:
            if key := state.pop("_moved", None):
                await some_follow(schema, key, parts - 1)

        monkeypatch.setattr(saving, "rewrite", rewrite)

    return after


async def trips(stop: Any, count: int = MANY) -> None:
    await Trip.create_many({"number": n, "start": stop, "end": stop if n % 3 else None} for n in range(count))


def findings(report: Report) -> list[tuple[str, str, str, str]]:
    return [(one.kind, one.key, one.place, one.other) for model in report.models for one in model.damage]


def assert_followed(server: Server, key: str) -> None:
    found = rows_of(assert_true(server, MODELS), MODELS)[Trip]
    assert {row["start"] for row in found.values()} == {key}
    assert {row["end"] for row in found.values()} == {key, None}


async def assert_mended(server: Server, *expected: tuple[str, str, str, str]) -> None:
    damaged = snapshot(server)
    for dry in (await maintenance.check(*MODELS), await maintenance.repair(*MODELS, dry_run=True)):
        assert sorted(findings(dry)) == list(expected)
        assert not dry.clean
    assert snapshot(server) == damaged
    report = await maintenance.repair(*MODELS)
    assert (report.total, report.left) == (len(expected), 0)
    assert (await maintenance.check(*MODELS)).clean


def stops_alone() -> type[Model]:
    """The same class in a program that doesn't define who refers to it."""

    class Stop(Model):
        name: str = KeyField()
        line: str | None = IndexedField()

    return Stop


async def test_a_program_that_knows_of_no_referrer_takes_no_reference_either(
    db: Database, clean_server: Server, cut_off: Any
) -> None:
    stop = await Stop.create(name="a")
    await trips(stop)
    cut_off(1)
    stop.name = "b"
    await stop.save()
    await stops_alone().create(name="a", line="other")
    assert_followed(clean_server, "Stop:b")


@pytest.mark.parametrize("parts", [1, 2, 3])
async def test_what_a_client_left_is_finished(db: Database, clean_server: Server, cut_off: Any, parts: int) -> None:
    stop = await Stop.create(name="a:b")
    await trips(stop)
    await Trip.ref(number=MANY - 1).expire_in(1000)
    cut_off(parts)
    stop.name = "%c"
    await stop.save()
    assert clean_server.client.zcard("$Rel:Trip:start:Stop:a%3Ab") == MANY - parts * FOLLOWED
    await assert_mended(clean_server, ("rename", "Stop:a%3Ab", "$Alias:Stop", "Stop:%25c"))
    assert_followed(clean_server, "Stop:%25c")
    assert await Trip.query.filter(start=stop, fare__gte=1).order_by("fare").count() == MANY


async def test_a_process_that_is_killed(clean_server: Server, spawn: Spawn) -> None:
    """With a name changed twice, so that records refer by three."""
    process = spawn([sys.executable, "-c", KILLED, clean_server.url], cwd=os.getcwd())
    _, said = await asyncio.to_thread(process.communicate)
    assert process.returncode == 7, said
    async with connect(clean_server.url):
        await assert_mended(
            clean_server,
            ("rename", "Stop:0", "$Alias:Stop", "Stop:2"),
            ("rename", "Stop:1", "$Alias:Stop", "Stop:2"),
        )
    assert_followed(clean_server, "Stop:2")


KILLED = """
import asyncio, os, sys
from popoto_async import connect, saving
from tests.test_unfinished_renames import MANY, Stop, some_follow, trips

async def rewrite(schema, state, *times):
    await some_follow(schema, state.pop("_moved"), 3 - int(stop.name))
    if stop.name == "2":
        os._exit(7)

async def main():
    global stop
    async with connect(sys.argv[1]):
        stop = await Stop.create(name="0")
        await trips(stop, 1000)
        saving.rewrite = rewrite
        for name in "12":
            stop.name = name
            await stop.save()

asyncio.run(main())
"""


async def test_a_rename_that_goes_on_is_left_to_its_client(db: Database, clean_server: Server, cut_off: Any) -> None:
    stop = await Stop.create(name="a")
    await trips(stop)
    cut_off(1)
    stop.name = "b"
    await stop.save()

    def follow(parts: int) -> Any:
        async def once(done: int, total: int) -> None:
            if not seen:
                seen.append(done)
                await some_follow(Stop._meta, "Stop:a", parts)

        seen: list[int] = []
        return once

    for run in (maintenance.check, maintenance.repair):
        before = clean_server.client.zcard("$Rel:Trip:start:Stop:a")
        assert (await run(Stop, progress=follow(1))).clean
        assert clean_server.client.zcard("$Rel:Trip:start:Stop:a") == before - FOLLOWED
    assert (await maintenance.check(Trip)).clean  # where its records stand is true at all times
    assert (await maintenance.check(Stop)).total == 1


async def test_client_and_repair_finish_it_together(db: Database, clean_server: Server, cut_off: Any) -> None:
    stop = await Stop.create(name="a")
    await trips(stop, 2000)
    cut_off(1)
    stop.name = "b"
    await stop.save()

    async def client() -> None:
        with suppress(AssertionError):  # when nothing is left
            await some_follow(Stop._meta, "Stop:a", 10)

    async def reader() -> None:
        for _ in range(20):
            assert await stop.trips.count() == 2000

    await asyncio.gather(maintenance.repair(Stop), client(), maintenance.repair(Stop), reader())
    await maintenance.repair(Stop)  # if both left it to the other one
    assert_followed(clean_server, "Stop:b")


async def test_nothing_is_left_of_a_rename_that_nobody_has_to_follow(
    db: Database, clean_server: Server, cut_off: Any
) -> None:
    """The records that still referred were deleted, or have expired, as has the one they refer to."""
    for name, ends in (("a", False), ("k", True)):
        stop = await Stop.create(name=name)
        await trips(stop, 201)
        cut_off(1)
        stop.name = f"{name}2"
        await stop.save()
        (last,) = clean_server.client.zrange(f"$Rel:Trip:start:Stop:{name}", 0, -1)
        trip = Trip.ref(number=int(last.split(b":")[1]))
        await (trip.expire_in(0.001) if ends else trip.delete())
        if ends:
            await stop.expire_in(0.001)
            while clean_server.client.exists(f"Stop:{name}2", last):
                await asyncio.sleep(0.001)
            assert (await Trip.query.count(), await Stop.query.count()) == (200, 1)  # now they are swept
        await assert_mended(clean_server, ("rename", f"Stop:{name}", "$Alias:Stop", f"Stop:{name}2"))
        assert not clean_server.client.exists("$Alias:Stop")
        await Trip.query.delete()


async def test_what_is_in_the_way_is_told_and_stays(db: Database, clean_server: Server, cut_off: Any) -> None:
    stop, other = await Stop.create(name="a"), await Stop.create(name="x")
    await Pass.create_many({"code": f"{n:03}", "stop": stop, "zone": n} for n in range(201))
    cut_off(1)
    stop.name = "b"
    await stop.save()
    (last,) = clean_server.client.zrange("$Rel:Pass:stop:Stop:a", 0, -1)
    await Pass.create(code="new", stop=stop, zone=int(last[-3:]))
    before = snapshot(clean_server)
    report = await maintenance.repair(Stop)
    assert (report.total, report.left) == (1, 1)
    assert snapshot(clean_server) == before
    rival = await Pass.load(code="new")
    assert rival is not None
    rival.stop = other
    await rival.save()
    assert (await maintenance.repair(Stop)).left == 0
    assert_true(clean_server, MODELS)


async def test_what_cannot_be_read_is_told_and_left_alone(db: Database, clean_server: Server, cut_off: Any) -> None:
    stop = await Stop.create(name="a")
    await trips(stop, 201)
    cut_off(1)
    stop.name = "b"
    await stop.save()
    client = clean_server.client
    client.hset("$Alias:Stop", mapping={"Stop:q": "text", "Stop:r": b"\x80", "Stop:s": b"\x81\xa3key\xa1x"})
    report = await maintenance.repair(Stop)
    assert sorted(findings(report)) == [
        ("foreign", "$Alias:Stop", "", ""),
        ("foreign", "$Alias:Stop", "", ""),
        ("foreign", "$Alias:Stop", "", ""),
        ("rename", "Stop:a", "$Alias:Stop", "Stop:b"),
    ]
    assert report.left == 3
    assert sorted(client.hkeys("$Alias:Stop")) == [b"Stop:q", b"Stop:r", b"Stop:s"]
    client.delete("$Alias:Stop")
    client.set("$Alias:Stop", "mine")
    assert findings(await maintenance.repair(Stop)) == [("foreign", "$Alias:Stop", "", "string")]
    assert client.get("$Alias:Stop") == b"mine"


async def test_memory_and_calls_are_bounded(db: Database, clean_server: Server, cut_off: Any) -> None:
    stop = await Stop.create(name="a")
    await trips(stop, 1000)
    cut_off(1)
    stop.name = "b"
    await stop.save()
    async with trace() as seen:
        assert (await maintenance.repair(Stop)).left == 0
    told = [one.operation for one in seen.operations]
    assert told.count("rewrite") == 8  # of 800 and 667 references, 200 in each
    async with trace() as seen:
        assert (await maintenance.check(Stop)).clean
    assert "behind" not in {one.operation for one in seen.operations}


async def test_stats_show_renames_and_streams(db: Database, clean_server: Server, cut_off: Any) -> None:
    stop = await Stop.create(name="a")
    await trips(stop, 201)
    assert "renames" not in await sizes(Stop)
    cut_off(1)
    stop.name = "b"
    await stop.save()
    assert (await sizes(Stop))["renames"] == (1, 1)


# Streams -------------------------------------------------------------------------------------------------------------


class News(EventStreamMixin, Model):
    title: str = KeyField()
    views: int = SortedField(default=0)


async def sizes(model: type[Model]) -> dict[str, tuple[int, int]]:
    (found,) = await maintenance.stats(model)
    return {index.name: (index.keys, index.entries) for index in found.indexes}


async def test_a_stream_is_no_damage_and_its_size_is_told(db: Database, clean_server: Server) -> None:
    """Whatever it holds: it is not derived from the records."""
    for title in "abc":
        await News.create(title=title)
    await News.ref(title="a").delete()
    clean_server.client.xadd("$Stream:News", {"any": "thing"})
    clean_server.client.xgroup_create("$Stream:News", "readers", "0")
    clean_server.client.xadd("$Stream:News:dead", {"one": "letter"})
    healthy: Dump = snapshot(clean_server)
    for run in (maintenance.check, maintenance.repair, maintenance.rebuild):
        assert (await run(News)).clean
    assert snapshot(clean_server) == healthy
    (found,) = await maintenance.stats(News)
    told = {index.name: (index.entries, index.bytes) for index in found.indexes}
    client = clean_server.client
    assert told["stream"] == (5, client.memory_usage("$Stream:News"))
    assert told["dead letters"] == (1, client.memory_usage("$Stream:News:dead"))
    clean_server.client.delete("$Stream:News", "$Stream:News:dead")
    assert (await maintenance.check(News)).clean
    assert not (await sizes(News)).keys() & {"stream", "dead letters"}


@pytest.mark.parametrize("key", ["$Stream:News", "$Stream:News:dead"])
async def test_what_is_foreign_under_the_key_of_a_stream(db: Database, clean_server: Server, key: str) -> None:
    await News.create(title="a")
    clean_server.client.delete(key)
    clean_server.client.rpush(key, "mine")
    clean_server.client.zadd("$Sort:News:views", {"News:a": 7})
    for run in (maintenance.check, maintenance.repair):
        assert findings(await run(News)) == [
            ("foreign", key, "", "list"),
            ("score", "News:a", "$Sort:News:views", "7"),
        ]
    assert clean_server.client.lrange(key, 0, -1) == [b"mine"]
    report = await maintenance.repair(News)
    assert (findings(report), report.left) == ([("foreign", key, "", "list")], 1)
