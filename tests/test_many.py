"""Many records at once, hooks around each, and rules of values: whatever happens to one happens to no other."""

from __future__ import annotations

import asyncio
import gc
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from popoto_async import (
    AutoKeyField,
    Database,
    Field,
    IndexedField,
    KeyField,
    Model,
    PopotoError,
    RecordGone,
    SortedField,
    UniqueField,
    UniqueKeyField,
    ValidationError,
    transaction,
)
from popoto_async.bulk import FAILURES_KEPT, WORKERS
from tests.model_of_store import assert_true, snapshot
from tests.servers import Server, count_commands

pytestmark = pytest.mark.anyio


class Item(Model):
    name = KeyField()
    code = UniqueField()
    kind = IndexedField(type=str, null=True)
    size = SortedField(type=int, default=0)


class Special(Item):
    pass


class Other(Model):
    name = KeyField()


def items(count: int, start: int = 0) -> Iterator[dict[str, Any]]:
    return ({"name": f"i{n}", "code": f"c{n}", "kind": f"k{n % 3}", "size": n} for n in range(start, start + count))


async def streamed(found: Iterator[Any]) -> AsyncIterator[Any]:
    for item in found:
        await asyncio.sleep(0)
        yield item


# Many ---------------------------------------------------------------------------------------------------------------


async def test_create_save_and_delete_many(db: Database, clean_server: Server) -> None:
    with count_commands(clean_server) as counted:
        summary = await Item.create_many(items(1000))
    assert (summary.total, summary.done, summary.failed, summary.failures) == (1000, 1000, 0, [])
    assert counted.round_trips < 1000 / 10  # how many go together depends on how fast the server answers
    assert_true(clean_server, [Item])
    summary = await Item.create_many(streamed(Item(**row) for row in items(300, 1000)))
    assert (summary.total, summary.done) == (300, 300)
    found = await Item.query
    for item in found:
        item.kind = "all"
    with count_commands(clean_server) as counted:
        summary = await Item.save_many(found)
    assert (summary.total, summary.done, await Item.query.filter(kind="all").count()) == (1300, 1300, 1300)
    assert counted.round_trips < 1300 / 10
    assert_true(clean_server, [Item])
    summary = await Item.delete_many(streamed(iter(found)))
    assert (summary.total, summary.done) == (1300, 1300)
    assert set(snapshot(clean_server)) == {b"$Slots:Item"}


async def test_one_that_fails_is_counted_and_hurts_no_other(db: Database) -> None:
    rows = [*items(5), {"name": "clash", "code": "c3"}, {"name": 5, "code": "x"}, {"nmae": "x"}, {1: 2}, None, "text"]
    told: list[tuple[Any, BaseException | None]] = []
    summary = await Item.create_many(rows, on_outcome=lambda item, error: told.append((item, error)))
    assert (summary.total, summary.done, summary.failed) == (11, 5, 6)
    assert [item for item, _ in summary.failures] == [item for item, error in told if error is not None]
    assert all(isinstance(error, PopotoError) for _, error in summary.failures)
    assert len(told) == 11
    assert sum(error is None for _, error in told) == 5
    mixed: Any = [await Item.load(name="i0"), 5, None, Other(name="o"), Item(name="i1", code="c0"), "text"]
    saved = await Item.save_many(mixed)
    assert (saved.total, saved.done, saved.failed) == (6, 1, 5)
    deleted = await Item.delete_many(mixed)
    assert (deleted.total, deleted.done, deleted.failed) == (6, 2, 4)
    for summary in (saved, deleted):
        assert all(isinstance(error, PopotoError) for _, error in summary.failures)
    refused = await Item.create_many([Special(name="s", code="s"), await Item.create(name="there", code="t")])
    assert refused.failed == 2, "instances of another class and stored ones"
    assert await Other.query.count() == 0


async def test_if_exists_of_many(db: Database) -> None:
    await Item.create_many(items(3))
    summary = await Item.create_many(items(6), if_exists="error")
    assert (summary.done, summary.failed) == (3, 3)
    assert {error.key for _, error in summary.failures if isinstance(error, PopotoError)} == {
        "Item:i0", "Item:i1", "Item:i2",
    }  # fmt: skip


async def test_the_first_thousand_failures_are_kept_and_all_are_counted(db: Database) -> None:
    summary = await Item.create_many({"name": n} for n in range(1200))
    assert (summary.total, summary.failed, len(summary.failures)) == (1200, 1200, FAILURES_KEPT)
    assert [item["name"] for item, _ in summary.failures] == list(range(1000))


async def test_items_are_taken_as_there_is_room_for_them(db: Database) -> None:
    """Flat memory: however many there are, no more than some hundred exist at once."""
    ended = taken = 0

    def count(item: Any, error: Any) -> None:
        nonlocal ended
        ended += 1

    def source() -> Iterator[dict[str, Any]]:
        nonlocal taken
        for row in items(2000):
            taken += 1
            assert taken - ended <= WORKERS + 1
            yield row

    assert (await Item.create_many(source(), on_outcome=count)).done == 2000
    assert ended == 2000


async def test_progress_and_callbacks_that_wait(db: Database) -> None:
    seen: list[int] = []
    told = 0

    async def tell(item: Any, error: Any) -> None:
        nonlocal told
        await asyncio.sleep(0)
        told += 1

    await Item.create_many(items(350), progress=seen.append, on_outcome=tell)
    assert told == 350
    assert seen == sorted(seen)
    assert seen[-1] == 350
    assert len(seen) >= 4
    seen.clear()
    await Item.create_many([], progress=seen.append)
    assert seen == [0]


async def test_an_error_of_the_source_ends_it_after_what_is_under_way(db: Database) -> None:
    def broken() -> Iterator[dict[str, Any]]:
        yield from items(20)
        raise KeyError("source")

    with pytest.raises(KeyError):
        await Item.create_many(broken())
    assert await Item.query.count() == 20

    def refuse(item: Any, error: Any) -> None:
        raise KeyError("callback")

    with pytest.raises(KeyError):
        await Item.create_many(items(20), on_outcome=refuse)
    assert db.stats().queued == 0


async def test_cancelled_in_the_middle(db: Database, clean_server: Server) -> None:
    def source() -> Iterator[dict[str, Any]]:
        for number, row in enumerate(items(3000)):
            if number == 600:
                task.cancel()
            yield row

    task = asyncio.create_task(Item.create_many(source()))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert 0 < await Item.query.count() < 3000
    assert_true(clean_server, [Item])


async def test_failures_that_a_cancelled_call_tells_nobody_are_not_logged(db: Database) -> None:
    class Waiting(Item):
        async def before_save(self) -> None:
            if self.name == "for ever":
                await asyncio.Event().wait()

    loop, logged = asyncio.get_running_loop(), list[Any]()
    loop.set_exception_handler(lambda _, context: logged.append(context))

    async def cancelled() -> None:
        rows = [{"name": name, "code": "taken"} for name in ("a", "b", "for ever")]
        task = asyncio.create_task(Waiting.create_many(rows))
        for _ in range(3):
            await Waiting.query.count()  # what was sent before it has failed by then
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await Waiting.query.count()  # what was under way has ended

    await Waiting.create(name="first", code="taken")
    await cancelled()
    gc.collect()
    assert not logged
    assert await Waiting.query.count() == 1


# Hooks --------------------------------------------------------------------------------------------------------------


class Hooked(Model):
    name = KeyField()
    title = Field(type=str, default="")
    slug = IndexedField(type=str, null=True)
    code = AutoKeyField()

    async def before_save(self) -> None:
        log.append(("before_save", self.name, self.is_saved))
        self.slug = self.title.lower()
        if self.title == "refuse":
            raise ValidationError("refused")

    async def after_save(self) -> None:
        log.append(("after_save", self.name, self.is_saved))

    async def before_delete(self) -> None:
        log.append(("before_delete", self.name, self.is_saved))

    async def after_delete(self) -> None:
        log.append(("after_delete", self.name, self.is_saved))


log: list[tuple[str, str, bool]] = []
SAVED = [("before_save", "a", False), ("after_save", "a", True)]


async def created(**values: Any) -> None:
    await Hooked.create(name="a", **values)


async def created_many(**values: Any) -> None:
    assert (await Hooked.create_many([{"name": "a", **values}])).done == 1


async def saved_many(**values: Any) -> None:
    assert (await Hooked.save_many([Hooked(name="a", **values)])).done == 1


async def got(**values: Any) -> None:
    assert (await Hooked.get_or_create(values, name="a", code="x"))[1]


async def updated(**values: Any) -> None:
    assert (await Hooked.update_or_create(values, name="a", code="x"))[1]


async def together(**values: Any) -> None:
    async with transaction() as tx:
        tx.save(Hooked(name="a", **values))


@pytest.mark.parametrize("way", [created, created_many, saved_many, got, updated, together])
async def test_hooks_around_a_save(db: Database, way: Callable[..., Any]) -> None:
    log.clear()
    await way(title="Hello")
    assert log == SAVED
    stored = await Hooked.query.filter(slug="hello").first()
    assert stored is not None, "what before_save assigns is stored and indexed"
    log.clear()
    stored.title = "New"
    await stored.save()
    assert log == [("before_save", "a", True), ("after_save", "a", True)]
    assert await Hooked.query.filter(slug="new").exists()
    log.clear()
    await stored.save(update_fields=[])
    assert log == []


@pytest.mark.parametrize("way", [created, got, updated, together])
async def test_a_hook_that_raises_stops_the_save(db: Database, clean_server: Server, way: Callable[..., Any]) -> None:
    with pytest.raises(ValidationError, match="refused"):
        await way(title="refuse")
    assert snapshot(clean_server) == {}
    assert ("after_save", "a", True) not in log[-1:]


async def test_a_hook_that_raises_hurts_no_other_of_many(db: Database) -> None:
    class Picky(Model):
        name = KeyField()

        async def before_save(self) -> None:
            if self.name == "b":
                raise KeyError("no PopotoError")

        before_delete = before_save

    made = await Picky.create_many([{"name": name} for name in "abc"])
    saved = await Picky.save_many([Picky(name=name) for name in "abc"])
    gone = await Picky.delete_many([await Picky.load(name="a"), Picky(name="b"), await Picky.load(name="c")])
    for summary in (made, saved, gone):
        assert (summary.total, summary.done, summary.failed) == (3, 2, 1)
        assert [type(error) for _, error in summary.failures] == [KeyError]
    assert await Picky.query.count() == 0


async def test_no_after_save_where_nothing_was_saved(db: Database) -> None:
    one = await Hooked.create(name="a")
    await (await Hooked.query.get_or_raise(name="a")).delete()
    log.clear()
    with pytest.raises(RecordGone):
        await one.save()
    assert log == [("before_save", "a", True)]
    again = Hooked(name="a", code=one.code)
    await again.save()
    log.clear()
    _, new = await Hooked.get_or_create(name="a", code=one.code)
    assert not new
    assert ("after_save", "a", True) not in log


async def test_hooks_around_a_delete(db: Database) -> None:
    async def in_transaction(record: Hooked) -> None:
        async with transaction() as tx:
            tx.delete(record)

    async def many(record: Hooked) -> None:
        assert (await Hooked.delete_many([record])).done == 1

    ways: list[Callable[[Hooked], Any]] = [lambda record: record.delete(), many, in_transaction]
    for way in ways:
        record = await Hooked.create(name="a")
        log.clear()
        await way(record)
        assert log == [("before_delete", "a", True), ("after_delete", "a", False)]
        assert await Hooked.query.count() == 0


@pytest.mark.parametrize("hook", ["before_save", "after_save", "before_delete", "after_delete"])
async def test_one_hook_alone_and_an_inherited_one(db: Database, hook: str) -> None:
    called: list[str] = []

    async def note(self: Any) -> None:
        called.append(hook)

    base = type("Base", (Model,), {"__qualname__": "<locals>.Base", "id": KeyField(), hook: note})
    heir: Any = type("Heir", (base,), {"__qualname__": "<locals>.Heir"})
    record = await heir.create(id="a")
    await record.save()
    await heir.create_many([{"id": "b"}])
    await record.delete()
    assert len(called) == (3 if "save" in hook else 1)


async def test_a_save_that_is_overridden(db: Database) -> None:
    class Loud(Model):
        id = KeyField()
        text = Field(type=str, default="")

        async def save(self, *arguments: Any, **options: Any) -> bool:
            self.text = self.text.upper()
            return await super().save(*arguments, **options)

    record = await Loud.create(id="a", text="x")
    await Loud.create_many([{"id": "b", "text": "y"}])
    record.text = "z"
    await Loud.save_many([record])
    assert await Loud.query.values("text") == [{"text": "Z"}, {"text": "Y"}]


# Rules of values ----------------------------------------------------------------------------------------------------


def even(value: int) -> str | None:
    return None if value % 2 == 0 else f"{value} is odd"


def not_thirteen(value: int) -> None:
    if value == 13:
        raise ValueError("unlucky")


class Ruled(Model):
    name = KeyField(choices=["a", "b"])
    level = Field(type=str, choices=("low", "high"), null=True)
    even = Field(type=int, validators=[even, not_thirteen], null=True)


@pytest.mark.parametrize(
    ("values", "field", "message"),
    [
        ({"level": "middle"}, "level", "('low', 'high')"),
        ({"even": 3}, "even", "3 is odd"),
        ({"even": 13}, "even", "unlucky"),
        ({"name": "c"}, "name", "['a', 'b']"),
    ],
)
async def test_choices_and_validators(db: Database, values: dict[str, Any], field: str, message: str) -> None:
    wrong = Ruled(**{"name": "a", **values})
    assert not wrong.is_valid()
    assert message.strip("[]()") in " ".join(wrong.errors()[field])
    with pytest.raises(ValidationError) as caught:
        await wrong.save()
    assert caught.value.field == field
    assert db.stats().operations == 0
    right = await Ruled.create(name="b", level="low", even=4)
    for name, value in values.items():
        setattr(right, name, value)
    with pytest.raises(ValidationError):
        await right.save()
    assert await Ruled.query.filter(name="b").values("level", "even") == [{"level": "low", "even": 4}]


# Transactions -------------------------------------------------------------------------------------------------------


async def test_a_transaction(db: Database, clean_server: Server) -> None:
    gone = await Item.create(name="gone", code="g")
    moved = await Item.create(name="moved", code="m", kind="old")
    with count_commands(clean_server) as counted:
        async with transaction() as tx:
            tx.delete(gone)
            tx.save(Item(name="new", code="g", kind="fresh"))  # in this order: the code is free then
            moved.name = "elsewhere"
            tx.save(moved)
            tx.save(Other(name="other"))
            moved.kind = "as it is when the block ends"
    assert counted.round_trips <= 2, "the server did not know the other model yet"
    assert await Item.query.keys() == ["Item:elsewhere", "Item:new"]
    assert (moved.db_key.redis_key, gone.is_saved) == ("Item:elsewhere", False)
    assert (await Item.query.get_or_raise(name="elsewhere")).kind == "as it is when the block ends"
    assert_true(clean_server, [Item, Other])


class Versioned(Model):
    code = UniqueKeyField()
    text = IndexedField(default="")

    class Meta:
        versioned = True


STEPS = ["save", "delete"]


@pytest.mark.parametrize("steps", [pair for n in (2, 3) for pair in itertools.product(STEPS, repeat=n)], ids="-".join)
@pytest.mark.parametrize("start", ["new", "stored", "renamed"])
async def test_one_instance_several_times_in_a_transaction(
    db: Database, clean_server: Server, start: str, steps: tuple[str, ...]
) -> None:
    """What was asked for last is what happens."""
    await Versioned.create(code="bystander")
    record = Versioned(code="a", text="x") if start == "new" else await Versioned.create(code="a", text="x")
    if start == "renamed":
        record.code = "b"
    async with transaction() as tx:
        for verb in steps:
            getattr(tx, verb)(record)
        record.text = "y"
    assert record.is_saved is (steps[-1] == "save")
    key = "Versioned:b" if start == "renamed" else "Versioned:a"
    found = await Versioned.query.filter(text="y").keys()
    assert found == ([key] if record.is_saved else [])
    assert await Versioned.query.count() == 1 + len(found)
    assert_true(clean_server, [Versioned])
    if record.is_saved:
        record.text = "z"
        assert await record.save(), "and the instance knows its version"


async def test_a_transaction_that_is_left_by_an_error_sends_nothing(db: Database, clean_server: Server) -> None:
    before = snapshot(clean_server)
    with pytest.raises(KeyError):
        async with transaction() as tx:
            tx.save(Item(name="a", code="a"))
            raise KeyError
    async with transaction():
        pass
    assert snapshot(clean_server) == before
    assert db.stats().operations == 0


@pytest.mark.parametrize("many", [3, 300])
async def test_cancellation_ends_bulk_verbs_at_once(db: Database, many: int) -> None:
    blocked = asyncio.Event()

    class Slow(Model):
        name = KeyField()

        async def before_save(self) -> None:
            await blocked.wait()

    task = asyncio.ensure_future(Slow.create_many({"name": str(number)} for number in range(many)))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    blocked.set()
    assert await Slow.query.count() == 0


async def test_an_error_of_a_callback_ends_bulk_verbs_at_once(db: Database) -> None:
    calls = []

    def fail(item: Any, error: Any) -> None:
        calls.append(item)
        raise KeyError(len(calls))

    with pytest.raises(KeyError, match="1"):
        await Item.create_many(({"name": str(number), "code": str(number)} for number in range(1000)), on_outcome=fail)
    assert len(calls) == 1
