"""Uniqueness under concurrency: of many creates of one value exactly one wins, from one process and from four."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from popoto_async import (
    AlreadyExists,
    Database,
    Field,
    KeyField,
    Model,
    UniqueField,
    UniqueKeyField,
    UniqueViolation,
    connect,
    using,
)
from tests.servers import Server, dump

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parent.parent
PROCESSES = 4
ROUNDS = 50
EACH = 200


class ByUniqueKey(Model):
    name = KeyField()
    email = UniqueKeyField()


class ByField(Model):
    name = KeyField()
    email = UniqueField()


class ByPair(Model):
    class Meta:
        unique_together = ("room", "hour")

    name = KeyField()
    room = Field(type=str)
    hour = Field(type=int)


class ByKey(Model):
    name = KeyField()
    who = Field(type=str)


def values_of(model: type[Model], who: str, value: str) -> dict[str, Any]:
    """What a create gets, so that `value` is what has to be unique."""
    if model is ByPair:
        return {"name": who, "room": value, "hour": 9}
    if model is ByKey:
        return {"name": value, "who": who, "if_exists": "error"}
    return {"name": who, "email": value}


MODELS = [ByUniqueKey, ByField, ByPair, ByKey]


@pytest.mark.parametrize("model", MODELS)
async def test_of_200_concurrent_creates_of_one_value_one_wins(db: Database, model: type[Model]) -> None:
    for number in range(3):
        value = f"v{number}"
        outcomes = await asyncio.gather(
            *(model.create(**values_of(model, f"{value}-{at}", value)) for at in range(EACH)), return_exceptions=True
        )
        lost = AlreadyExists if model is ByKey else UniqueViolation
        assert Counter(type(outcome) for outcome in outcomes) == {model: 1, lost: EACH - 1}
    assert await model.query.count() == 3


@pytest.mark.parametrize("model", [ByUniqueKey, ByField, ByPair])
async def test_also_over_several_connections_and_with_saves_and_renames(
    clean_server: Server, model: type[Model]
) -> None:
    async with connect(clean_server.url) as db:
        mine = [await model.create(**values_of(model, f"m{at}", f"old{at}")) for at in range(20)]
        other = Database(clean_server.url)
        field = "room" if model is ByPair else "email"

        async def take(instance: Any) -> bool:
            setattr(instance, field, "new")
            return bool(await instance.save())

        saves = [take(instance) for instance in mine]
        creates = [other_create(other, model, values_of(model, f"o{at}", "new")) for at in range(20)]
        outcomes = await asyncio.gather(*saves, *creates, return_exceptions=True)
        await other.close()
        assert sum(not isinstance(outcome, UniqueViolation) for outcome in outcomes) == 1
        whole = {"room": "new", "hour": 9} if model is ByPair else {"email": "new"}
        assert await model.query.filter(**whole).count() == 1
        assert db.stats().round_trips < 60


async def other_create(database: Database, model: type[Model], values: dict[str, Any]) -> Model:
    with using(database):
        return await model.create(**values)


async def test_a_value_is_free_again_when_its_owner_is_deleted_moved_or_expired(db: Database) -> None:
    for model in (ByUniqueKey, ByField, ByPair):
        first = await model.create(**values_of(model, "a", "v"))
        await first.delete()
        second = await model.create(**values_of(model, "b", "v"))
        setattr(second, "room" if model is ByPair else "email", "w")
        await second.save()
        third = await model.create(**values_of(model, "c", "v"))
        await third.expire_in(0.001)
        await asyncio.sleep(0.005)
        assert await model.create(**values_of(model, "d", "v"))


async def test_a_lost_race_leaves_nothing(db: Database, clean_server: Server) -> None:
    for model in (ByUniqueKey, ByField, ByPair):
        await model.create(**values_of(model, "winner", "v"))
    before = {key: value for key, value in dump(clean_server).items() if b"$Lane" not in key}
    for model in (ByUniqueKey, ByField, ByPair):
        for at in range(5):
            with pytest.raises(UniqueViolation):
                await model.create(**values_of(model, f"loser{at}", "v"))
    assert {key: value for key, value in dump(clean_server).items() if b"$Lane" not in key} == before


WORKER = """
    import asyncio, sys
    from collections import Counter
    from popoto_async import AlreadyExists, UniqueViolation, connect
    from tests.test_processes import MODELS, values_of

    async def main(url, process, each):
        async with connect(url) as db:
            # The slots of the models are known before the race begins.
            for model in MODELS:
                await model.query.count()
            print("ready", flush=True)
            loop = asyncio.get_running_loop()
            while line := await loop.run_in_executor(None, sys.stdin.readline):
                model, value = MODELS[int(line.split()[0])], line.split()[1]
                outcomes = await asyncio.gather(
                    *(model.create(**values_of(model, f"{value}-{process}-{at}", value)) for at in range(each)),
                    return_exceptions=True,
                )
                kinds = Counter(type(outcome).__name__ for outcome in outcomes)
                lost = kinds["UniqueViolation"] + kinds["AlreadyExists"]
                print(kinds[model.__name__], lost, flush=True)

    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


@pytest.fixture
def workers(clean_server: Server) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that create when they are told a value."""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(WORKER), clean_server.url, str(at), str(EACH // PROCESSES)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        for at in range(PROCESSES)
    ]
    try:
        for worker in started:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n"
        yield started
    finally:
        for worker in started:
            worker.communicate(timeout=20)  # its input ends, and so does it


def test_from_four_processes_one_wins_in_each_of_50_rounds(
    workers: list[subprocess.Popen[str]], clean_server: Server
) -> None:
    for number in range(ROUNDS):
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write(f"{number % len(MODELS)} v{number}\n")
            worker.stdin.flush()
        won = lost = 0
        for worker in workers:
            assert worker.stdout is not None
            wins, losses = map(int, worker.stdout.readline().split())
            won, lost = won + wins, lost + losses
        assert (won, lost) == (1, EACH - 1), f"round {number}, {MODELS[number % len(MODELS)].__name__}"
    counts = [clean_server.client.zcard(f"$Class:{model.__name__}") for model in MODELS]
    assert sum(counts) == ROUNDS
