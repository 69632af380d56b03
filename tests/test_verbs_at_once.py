"""Verbs of one instance asked at once come to what they come to one after the other: outcomes, rows, what it knows."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from popoto_async import (
    Database,
    Field,
    IndexedField,
    KeyField,
    ListField,
    Model,
    PopotoError,
    RecordGone,
    Relationship,
    StaleRecord,
    UniqueField,
    UniqueViolation,
    connect,
    trace,
    transaction,
)
from tests.examples import examples
from tests.model_of_store import assert_true, snapshot
from tests.servers import Server

pytestmark = pytest.mark.anyio


class Free(Model):
    name = KeyField()
    code = UniqueField(type=int)
    kind = IndexedField(type=str, default="k")
    count = Field(type=int, default=0)
    events = ListField(max_length=3)


class Strict(Free):
    class Meta:
        versioned = True


class Referred(Free):
    pass


class Remark(Model):
    name = KeyField()
    about = Relationship(Referred)


MODELS = [Free, Strict, Referred]
Verb = Callable[[Any], Awaitable[Any]]


def assign(name: str, value: Any) -> Verb:
    def save(one: Any) -> Awaitable[Any]:
        setattr(one, name, value)
        return one.save(if_exists="error")

    return save


def increment(one: Any) -> Awaitable[Any]:
    return one.increment("count", 2)


def push(one: Any) -> Awaitable[Any]:
    return one.events.push("x")


def expire(one: Any) -> Awaitable[Any]:
    return one.expire_in(1000)


async def together(one: Any) -> None:
    async with transaction() as tx:
        tx.increment(one, "count", 10)
        tx.save(one)


VERBS: dict[str, Verb] = {
    **{f"name={name}": assign("name", name) for name in "abc"},
    **{f"code={code}": assign("code", code) for code in (1, 2, 3)},
    **{f"kind={kind}": assign("kind", kind) for kind in "kl"},
    "increment": increment,
    "push": push,
    "expire": expire,
    "transaction": together,
}
Steps = list[tuple[int, str]]


async def outcome(asked: Awaitable[Any]) -> Any:
    try:
        return await asked
    except PopotoError as error:
        return type(error).__name__


async def play(model: Any, steps: Steps, *, at_once: bool) -> tuple[list[Any], list[Any]]:
    """What the verbs come to, and what the instances know then."""
    ones = [await model.create(name=name, code=code) for name, code in (("a", 1), ("b", 2))]
    ones.append(await model.load(name="a"))  # whom the first one's changes overtake
    asked = []
    for who, verb in steps:
        task = asyncio.create_task(outcome(VERBS[verb](ones[who])))
        asked.append(task)
        await (asyncio.sleep(0) if at_once else task)
    return await asyncio.gather(*asked), [(one.to_dict(), one.db_key.redis_key) for one in ones]


OWN = st.tuples(st.sampled_from([0, 0, 1]), st.sampled_from([*VERBS]))
# A save writes again what another one of its instance is about to write; in turn it would leave it as others stored it.
OTHERS = st.tuples(st.just(2), st.sampled_from([verb for verb in VERBS if not verb.startswith(("code", "kind"))]))


@examples(150)
@given(st.sampled_from(MODELS), st.lists(OWN | OTHERS, max_size=9))
@example(Free, [(0, "name=b"), (0, "kind=l"), (1, "name=c"), (0, "kind=k"), (0, "name=a")])
@example(Strict, [(0, "increment"), (0, "increment"), (2, "increment"), (0, "transaction"), (0, "push")])
def test_verbs_asked_at_once_come_to_what_they_do_in_turn(clean_server: Server, model: Any, steps: Steps) -> None:
    async def run(at_once: bool) -> Any:
        clean_server.client.flushall()
        async with connect(clean_server.unix_url):
            outcomes, known = await play(model, steps, at_once=at_once)
        dump = assert_true(clean_server, [model])
        stored = {key: value for key, value in dump.items() if not key.startswith((b"$Exp", b"$Man"))}
        for row in stored.values():
            if isinstance(row, dict):
                row.pop(b"$v", None)  # the first version is a time
        return outcomes, known, stored

    assert asyncio.run(run(at_once=True)) == asyncio.run(run(at_once=False))


async def test_verbs_wait_for_a_rename_that_is_under_way(db: Database, clean_server: Server) -> None:
    for verb, wanted in ((increment, 2), (push, 1), (expire, None), (lambda one: one.save(), True)):
        one = await Free.create(name="a", code=1)
        one.name = "b"
        async with trace() as t:
            assert await asyncio.gather(one.save(), verb(one)) == [True, wanted]
        assert t.round_trips == 2
        assert await one.delete()
    assert_true(clean_server, MODELS)


async def test_a_refresh_behind_a_rename_reads_the_record_where_it_is(db: Database) -> None:
    one = await Free.create(name="a", code=1)
    one.name = "b"
    await asyncio.gather(one.save(), one.refresh())
    assert (one.name, one.db_key.redis_key) == ("b", "Free:b")


@pytest.mark.parametrize("model", [Free, Referred])
async def test_a_deletion_behind_a_rename_deletes_the_record(db: Database, clean_server: Server, model: Any) -> None:
    one = await model.create(name="a", code=1)
    one.name = "b"
    assert await asyncio.gather(one.save(), one.delete(), model.query.count()) == [True, True, 0]
    assert not one.is_saved
    assert_true(clean_server, MODELS)


async def test_a_save_behind_a_deletion_creates_nothing(db: Database) -> None:
    one = await Free.create(name="a", code=1)
    deleted, saved = await asyncio.gather(one.delete(), one.save(), return_exceptions=True)
    assert deleted is True
    assert isinstance(saved, RecordGone)
    assert await Free.query.count() == 0


async def test_what_is_assigned_while_a_save_waits_is_the_next_saves(db: Database) -> None:
    one = await Strict.create(name="a", code=1)
    one.name = "b"
    renamed = asyncio.create_task(one.save())
    await asyncio.sleep(0)
    one.kind = "early"
    waits = asyncio.create_task(one.save())
    await asyncio.sleep(0)
    one.kind = "late"
    assert await asyncio.gather(renamed, waits) == [True, True]
    stored = await Strict.load(name="b")
    assert stored is not None
    assert (stored.kind, one.kind) == ("early", "late")
    await one.save()
    assert await Strict.query.filter(kind="late").keys() == ["Strict:b"]


async def test_what_others_ask_stands_behind_what_waits(db: Database) -> None:
    """A verb that waits keeps its place: nothing of its model that is asked later is done earlier."""
    one = await Free.create(name="a", code=1)
    one.name = "b"
    _, count, other = await asyncio.gather(one.save(), one.increment("count", 5), Free.load(name="b"))
    assert count == other.count == 5


async def test_who_waits_for_a_rename_that_fails_is_about_the_record_as_it_was(db: Database) -> None:
    await Free.create(name="other", code=2)
    one = await Free.create(name="a", code=1)
    one.name, one.code = "b", 2
    renamed, count = await asyncio.gather(one.save(), one.increment("count", 5), return_exceptions=True)
    assert isinstance(renamed, UniqueViolation)
    assert count == 5
    stored = await Free.load(name="a")
    assert stored is not None
    assert stored.count == 5


@pytest.mark.parametrize("cancelled", [0, 1])
async def test_who_waits_and_what_is_waited_for_can_be_cancelled(
    db: Database, clean_server: Server, cancelled: int
) -> None:
    one = await Free.create(name="a", code=1)
    one.name = "b"
    tasks = [asyncio.create_task(verb) for verb in (one.save(), one.increment("count", 5), one.increment("count", 1))]
    await asyncio.sleep(0)
    tasks[cancelled].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert tasks[2].result() == (6, 1)[cancelled]
    assert await one.refresh()
    assert one.count == (6, 1)[cancelled]
    assert "_under_way" not in one.__dict__
    assert_true(clean_server, MODELS)


def test_an_instance_whose_loop_ended_during_a_rename_goes_on_in_the_next(clean_server: Server) -> None:
    async def begin() -> Any:
        async with connect(clean_server.unix_url):
            one = await Free.create(name="a", code=1)
            one.name = "b"
            renaming = asyncio.create_task(one.save())
            await asyncio.sleep(0)
            renaming.cancel()
            return one

    async def go_on(one: Any) -> Any:
        async with connect(clean_server.unix_url):
            return await one.increment("count", 1)

    one = asyncio.run(begin())
    assert asyncio.run(go_on(one)) == 1


@pytest.mark.parametrize("model", [Free, Referred])
async def test_a_stub_saved_under_the_key_it_has_moves_nowhere(db: Database, clean_server: Server, model: Any) -> None:
    await model.create(name="a", code=1)
    stub = model.ref(name="a")
    stub.name, stub.kind = "a", "l"
    assert await stub.save()
    assert await model.query.filter(kind="l").keys() == [f"{model.__name__}:a"]
    assert_true(clean_server, MODELS)


async def test_transactions_wait_for_what_their_instances_have_under_way(db: Database, clean_server: Server) -> None:
    one, two = await Referred.create(name="a", code=1), await Strict.create(name="s", code=1)
    one.name, two.kind = "b", "l"

    async def all_of_it() -> None:
        async with transaction() as tx:
            tx.increment(one, "count", 1)
            tx.increment(two, "count", 1)
            tx.save(two)

    await asyncio.gather(one.save(), two.save(), all_of_it())
    assert (one.count, two.count) == (1, 1)
    with pytest.raises(StaleRecord):  # a lost race is one still
        theirs = await Strict.load(name="s")
        assert theirs is not None
        await theirs.save()
        await asyncio.gather(two.save(), two.increment("count", 1))
    assert snapshot(clean_server)[b"Strict:s"]


async def test_a_transaction_that_waits_stores_what_its_instances_had_when_its_block_ended(db: Database) -> None:
    one = await Free.create(name="a", code=1)
    one.name = "b"
    renamed = asyncio.create_task(one.save())
    await asyncio.sleep(0)

    async def twice() -> None:
        async with transaction() as tx:
            tx.increment(one, "count", 1)
            tx.save(one)
            tx.increment(one, "count", 1)

    one.kind = "early"
    waits = asyncio.create_task(twice())
    await asyncio.sleep(0)
    one.kind, one.name = "late", "c"
    await asyncio.gather(renamed, waits)
    stored = await Free.load(name="b")
    assert stored is not None
    assert (stored.kind, stored.count) == ("early", 2)
    assert (one.kind, one.count, one.db_key.redis_key) == ("late", 2, "Free:b")
