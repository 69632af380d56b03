"""Transactions: all of the steps or none, each on what the earlier ones left, whatever the steps are."""

from __future__ import annotations

import asyncio
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from popoto_async import (
    AlreadyExists,
    Database,
    DatetimeField,
    Field,
    IndexedField,
    KeyField,
    Model,
    ModelException,
    OutcomeUnknown,
    PopotoError,
    RecordGone,
    SortedField,
    StaleRecord,
    UniqueField,
    UniqueViolation,
    ValidationError,
    connect,
    trace,
    transaction,
    using,
)
from popoto_async import transactions as module
from tests.examples import examples
from tests.model_of_store import assert_true, record_key, snapshot, values_of
from tests.proxy import FaultProxy
from tests.servers import Server
from tests.test_state_machine import MODELS, NUMBERS, VALUES, Handle, World, same

pytestmark = pytest.mark.anyio


class Purse(Model):
    owner: str = KeyField()
    coins: int = Field(default=0)
    level: int | None = SortedField(null=True, partition_by="kind")
    kind: str | None = IndexedField()


class Deed(Model):
    number: int = KeyField()
    house: str = UniqueField()
    signed = DatetimeField(auto_now=True)

    class Meta:
        versioned = True


OWN = [Purse, Deed]

# Any sequence of steps -----------------------------------------------------------------------------------------------

Planned = tuple[int, str, Any]
"""A handle's number, the verb, and how: `if_exists` of a save, field and number of an increment."""

NAMES = {model: sorted(choices) for model, choices in VALUES.items()}
rows = st.one_of([st.tuples(st.just(model), st.fixed_dictionaries(VALUES[model])) for model in MODELS[:3]])


class Sequential:
    """The steps done one after the other by plain Python, on copies of the world and of the handles."""

    def __init__(self, world: World, handles: list[Handle]) -> None:
        self.world = deepcopy(world)
        self.values = [handle.values() for handle in handles]
        self.handles = [
            Handle(one.model, None, one.key, None if one.seen is None else dict(one.seen), one.version)
            for one in handles
        ]

    def do(self, number: int, verb: str, how: Any) -> None:
        handle, values = self.handles[number], self.values[number]
        if verb == "delete":
            self.world.drop(handle.model, handle.key or record_key(handle.model, values))
            handle.forget()
            return
        if verb == "increment":
            assert handle.key is not None
            name, by = how
            changed = {name: (self.world.rows[handle.model].get(handle.key, {}).get(name) or 0) + by}
            handle.key = self.world.update(handle.model, handle.key, changed, handle.version)
            values.update(changed)
        elif handle.key is None:
            changed = dict(values)
            handle.key = self.world.insert(handle.model, changed, how)
        else:
            assert handle.seen is not None
            changed = {name: value for name, value in values.items() if not same(value, handle.seen[name])}
            handle.key = self.world.update(handle.model, handle.key, changed, handle.version, how)
        handle.seen = {**(handle.seen or {}), **changed}
        handle.version = self.world.versions[handle.key]


def refused_at_once(handles: list[Handle], steps: list[Planned]) -> int | None:
    """The first step that can't be sent: an increment of a new record, a new record of a number not known yet."""
    stored = [handle.key is not None for handle in handles]
    counted: set[int] = set()
    for index, (number, verb, _) in enumerate(steps):
        if (verb == "increment" and not stored[number]) or (
            verb == "save" and not stored[number] and number in counted
        ):
            return index
        counted |= {number} if verb == "increment" else set()
        stored[number] = verb != "delete"
    return None


class Scene:
    """Records on a server, and handles of them: fresh ones, stale ones, new ones, all with changes not saved yet."""

    def __init__(self, server: Server, data: Any) -> None:
        self.server, self.data = server, data
        self.world = World()
        self.handles: list[Handle] = []

    async def set(self) -> None:
        self.server.client.flushall()
        for model, values in self.data.draw(st.lists(rows, min_size=1, max_size=4), label="records"):
            try:
                key = self.world.insert(model, values)
            except UniqueViolation:
                continue
            one = await model.create(**values)
            self.handles.append(Handle(model, one, key, values_of(one), self.world.versions[key]))
        for model, values in self.data.draw(st.lists(rows, max_size=2), label="new ones"):
            self.handles.append(Handle(model, model(**values)))
        for handle in self.handles:
            for name in self.data.draw(st.lists(st.sampled_from(NAMES[handle.model]), max_size=2), label="changes"):
                setattr(handle.instance, name, self.data.draw(VALUES[handle.model][name], label=name))

    def steps(self) -> list[Planned]:
        found: list[Planned] = []
        for number in self.data.draw(st.lists(st.integers(0, len(self.handles) - 1), max_size=6), label="steps"):
            numbers = NUMBERS.get(self.handles[number].model, {})
            verb = self.data.draw(st.sampled_from(["save", "save", "delete", "increment"]), label="verb")
            how: Any = None
            if verb == "save":
                how = self.data.draw(st.sampled_from(["overwrite", "overwrite", "error"]), label="if_exists")
            elif verb == "increment":
                how = self.data.draw(st.one_of([st.tuples(st.just(name), by) for name, by in numbers.items()]))
            found.append((number, verb, how))
        return found

    async def together(self, steps: list[Planned]) -> None:
        async with transaction() as tx:
            for number, verb, how in steps:
                instance = self.handles[number].instance
                if verb == "save":
                    tx.save(instance, if_exists=how)
                elif verb == "delete":
                    tx.delete(instance)
                else:
                    tx.increment(instance, *how)

    async def play(self) -> None:
        await self.set()
        steps = self.steps()
        expected, failure, failing = Sequential(self.world, self.handles), None, refused_at_once(self.handles, steps)
        if failing is None:
            for index, step in enumerate(steps):
                try:
                    expected.do(*step)
                except PopotoError as error:
                    failing, failure = index, type(error)
                    break
        else:
            failure = ModelException
        if failure is not None:
            before, states = snapshot(self.server), [deepcopy(vars(one.instance)) for one in self.handles]
            with pytest.raises(failure) as raised:
                await self.together(steps)
            assert failing is not None
            assert (type(raised.value), raised.value.step) == (failure, failing + 1)
            assert f"step {failing + 1} of {len(steps)}" in "".join(raised.value.__notes__)
            assert without_slots(snapshot(self.server)) == without_slots(before)
            assert [vars(one.instance) for one in self.handles] == states
            return
        await self.together(steps)
        assert_true(self.server, MODELS, expected.world.rows)
        for handle, done, values in zip(self.handles, expected.handles, expected.values, strict=True):
            assert handle.values() == values
            assert handle.instance.is_saved == (done.key is not None)
            assert done.key in (None, handle.instance.db_key.redis_key)
        for number, handle in enumerate(self.handles):  # what each knows of its record shows in what it saves next
            try:
                expected.do(number, "save", "overwrite")
            except PopotoError as error:
                with pytest.raises(type(error)):
                    await handle.instance.save()
            else:
                assert await handle.instance.save()
        assert_true(self.server, MODELS, expected.world.rows)


def without_slots(dump: dict[bytes, object]) -> dict[bytes, object]:
    return {key: value for key, value in dump.items() if not key.startswith(b"$Slots:")}


def test_any_steps(clean_server: Server) -> None:
    """With a failing step, the keyspace and the instances as they were; else what the steps do one by one."""
    with asyncio.Runner() as runner:
        opened = connect(clean_server.unix_url)
        database = runner.run(opened.__aenter__())

        @examples(150)
        @given(data=st.data())
        def example(data: Any) -> None:
            async def play() -> None:
                with using(database):
                    await Scene(clean_server, data).play()

            runner.run(play())

        try:
            example()
        finally:
            runner.run(opened.__aexit__(None, None, None))


# One at a time -------------------------------------------------------------------------------------------------------


async def test_one_trip_for_several_models_and_none_for_nothing(db: Database, clean_server: Server) -> None:
    purse, deed = await Purse.create(owner="a", coins=5), await Deed.create(number=1, house="h")
    async with trace() as t, transaction():
        pass
    assert (t.round_trips, len(t.operations)) == (0, 0)
    async with trace() as t, transaction() as tx:
        tx.increment(purse, "coins", -3)
        tx.save(purse)
        tx.increment(purse, "coins", 10)
        tx.delete(deed)
        tx.save(Deed(number=2, house="h"))
        tx.save(deed)
        deed.house = "other"
    assert t.round_trips == 1
    assert (purse.coins, deed.is_saved) == (12, True)
    assert {row["house"] for row in await Deed.query.values("house")} == {"h", "other"}
    assert_true(clean_server, OWN)


async def test_a_value_goes_from_one_record_to_another_in_the_order_of_the_steps(
    db: Database, clean_server: Server
) -> None:
    first, second = await Deed.create(number=1, house="a"), Deed(number=2, house="a")
    first.house = "b"
    with pytest.raises(UniqueViolation) as raised:
        async with transaction() as tx:
            tx.save(second)
            tx.save(first)
    assert (raised.value.step, raised.value.owner) == (1, "Deed:1")
    async with transaction() as tx:
        tx.save(first)
        tx.save(second)
    assert_true(clean_server, OWN, {Deed: {one.db_key.redis_key: values_of(one) for one in (first, second)}})


async def test_a_step_sees_the_versions_that_earlier_steps_made(db: Database, clean_server: Server) -> None:
    mine = await Deed.create(number=1, house="a")
    yours = await Deed.load(number=1)
    assert yours is not None
    async with transaction() as tx:
        tx.save(mine)
        mine.house = "b"
        tx.save(mine)
    await mine.save()
    yours.house = "c"
    with pytest.raises(StaleRecord) as raised:
        async with transaction() as tx:
            tx.save(mine)
            tx.save(yours)
    assert raised.value.step == 2
    assert (await Deed.query.values("house")) == [{"house": "b"}]
    await mine.save()
    assert_true(clean_server, OWN)


async def test_a_number_that_was_added_to_is_not_overwritten_by_a_later_step(db: Database) -> None:
    purse = await Purse.create(owner="a", coins=5)
    purse.coins, purse.kind = 100, "gold"
    async with transaction() as tx:
        tx.increment(purse, "coins", 1)
        tx.save(purse)
    assert (purse.coins, purse.kind) == (6, "gold")
    assert (await Purse.query.values("coins", "kind")) == [{"coins": 6, "kind": "gold"}]


async def test_an_index_on_what_an_earlier_step_added_to_is_planned_again(db: Database, clean_server: Server) -> None:
    purse = await Purse.create(owner="a", level=1, kind="x")
    other = await Purse.load(owner="a")
    assert other is not None
    other.kind = "y"
    async with transaction() as tx:
        tx.increment(purse, "level", 4)
        tx.save(other)  # moves the partition of a level that is not what it read
    assert_true(clean_server, OWN)
    assert await Purse.query.filter(kind="y", level__gte=5).count() == 1


async def test_the_hundredth_step_that_fails_undoes_the_others(db: Database, clean_server: Server) -> None:
    await Deed.create(number=0, house="taken")
    purses = [await Purse.create(owner=f"o{number}", level=number) for number in range(60)]
    before = snapshot(clean_server)
    for purse in purses:
        purse.owner, purse.level = f"new {purse.owner}", None
    states = [dict(vars(purse)) for purse in purses]
    with pytest.raises(UniqueViolation) as raised:
        async with transaction() as tx:
            for purse in purses[:30]:
                tx.save(purse)
            for purse in purses[30:]:
                tx.delete(purse)
            tx.save(Deed(number=1, house="taken"))
    assert raised.value.step == 61
    assert "step 61 of 61 (save of Deed)" in raised.value.__notes__[-1]
    assert snapshot(clean_server) == before
    assert [dict(vars(purse)) for purse in purses] == states


async def test_what_is_wrong_is_told_before_anything_is_sent(db: Database, clean_server: Server) -> None:
    purse = await Purse.create(owner="a")
    wrong: list[tuple[Any, type[PopotoError], int | None]] = [
        (lambda tx: tx.increment(purse, "kind"), ValidationError, 2),
        (lambda tx: tx.increment(purse, "nothing"), PopotoError, 2),
        (lambda tx: tx.increment(Purse(owner="n"), "coins"), ModelException, 2),
        (lambda tx: tx.save(Purse(owner="n", coins="x")), ValidationError, 2),
        (lambda tx: tx.save(Purse), ValidationError, None),
        (lambda tx: tx.save("x"), ValidationError, None),
        (lambda tx: tx.save(purse, if_exists="return"), ValidationError, None),
    ]
    for act, kind, step in wrong:
        async with trace() as t:
            with pytest.raises(kind) as raised:
                async with transaction() as tx:
                    tx.delete(Purse(owner="another"))
                    act(tx)
        assert (raised.value.step, t.round_trips) == (step, 0)
    async with transaction() as over:
        pass
    with pytest.raises(ModelException, match="over"):
        over.save(purse)
    with pytest.raises(RuntimeError, match="mine"):
        async with transaction() as tx:
            tx.delete(purse)
            raise RuntimeError("mine")
    assert await Purse.exists(owner="a")


async def test_a_transaction_has_a_bound(db: Database) -> None:
    async with trace() as t:
        with pytest.raises(ModelException, match="holds the server for too long"):
            async with transaction() as tx:
                for number in range(900):
                    tx.save(Deed(number=number, house=str(number)))
        with pytest.raises(ModelException, match="at most 1000 steps"):
            async with transaction() as tx:
                for number in range(module.MOST_STEPS + 1):
                    tx.save(Deed(number=number, house=str(number)))
    assert t.round_trips == 0
    async with transaction() as tx:
        for number in range(200):
            tx.save(Deed(number=number, house=str(number)))
    assert await Deed.query.count() == 200


# Among others --------------------------------------------------------------------------------------------------------


async def test_what_moves_between_records_is_never_lost_nor_made(clean_server: Server) -> None:
    async with FaultProxy(clean_server) as proxy, connect(proxy.url):
        await Purse.create_many([{"owner": str(number), "coins": 100} for number in range(5)])

        async def move(number: int) -> None:
            a, b = await asyncio.gather(Purse.load(owner=str(number % 5)), Purse.load(owner=str(number * 3 % 5)))
            assert a is not None
            assert b is not None
            async with transaction() as tx:
                tx.increment(a, "coins", -number)
                tx.increment(b, "coins", number)

        for number in range(1, 40, 3):
            proxy.swallow_reply(nth=number, command="EVALSHA")
            proxy.cut_request(20 * number, nth=number + 1, command="EVALSHA")
        await asyncio.gather(*(move(number) for number in range(1, 101)))
        expected = {str(number): 100 for number in range(5)}
        for number in range(1, 101):
            expected[str(number % 5)] -= number
            expected[str(number * 3 % 5)] += number
        assert {row["owner"]: row["coins"] for row in await Purse.query.values("owner", "coins")} == expected


async def test_a_cancelled_transaction_is_done_or_not_at_all(clean_server: Server) -> None:
    """Cancelled at any turn of the loop, also where it had to be planned again; and when the server has done it."""
    async with FaultProxy(clean_server) as proxy, connect(proxy.url) as db:
        outcomes = []
        for turns in (*range(40), None):
            clean_server.client.flushall()
            db._bindings.clear()  # a slot table that the server doesn't know: two trips
            clean_server.client.set("$Slots:Deed", "m$Index:Deed:gone:")
            deed, purse = Deed(number=1, house="a"), Purse(owner="a")

            async def both() -> None:
                async with transaction() as tx:
                    tx.save(purse)
                    tx.save(deed)

            task = asyncio.create_task(both())
            for _ in range(turns or 0):
                await asyncio.sleep(0)
            while turns is None and not clean_server.client.exists("Purse:a"):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            stored = await asyncio.gather(Purse.exists(owner="a"), Deed.exists(number=1))
            assert stored in ([False, False], [True, True])
            assert [purse.is_saved, deed.is_saved] == stored
            assert (deed.signed is not None) == stored[0], "the clock's value stands where it was stored"
            outcomes.append(stored[0])
        assert (outcomes[0], outcomes[-1]) == (False, True)
        assert proxy.open <= 2


async def test_a_lost_server_says_so_for_the_whole(clean_server: Server) -> None:
    async with FaultProxy(clean_server) as proxy, connect(proxy.url):
        purse = await Purse.create(owner="a", coins=1)
        state = dict(vars(purse))
        fault = proxy.swallow_reply(command="EVALSHA")
        proxy.hold_request(nth=2, command="EVALSHA")

        async def forget() -> None:
            await fault.happened()
            clean_server.client.delete(*clean_server.client.keys("$Lane:*"))

        forgetting = asyncio.create_task(forget())
        proxy.refuse()
        asyncio.get_running_loop().call_later(0.05, lambda: asyncio.ensure_future(proxy.accept()))
        with pytest.raises(OutcomeUnknown):
            async with transaction() as tx:
                tx.increment(purse, "coins", 5)
                tx.save(Purse(owner="b"))
        await forgetting
        assert dict(vars(purse)) == state


async def test_gone_and_taken(db: Database, clean_server: Server) -> None:
    purse, other = await Purse.create(owner="a"), await Purse.create(owner="b")
    ghost = await Purse.load(owner="b")
    assert ghost is not None
    for act, kind in (
        (lambda tx: (tx.delete(other), tx.save(ghost)), RecordGone),
        (lambda tx: (tx.delete(other), tx.increment(ghost, "coins")), RecordGone),
        (lambda tx: (tx.delete(purse), tx.save(Purse(owner="b"), if_exists="error")), AlreadyExists),
    ):
        before = snapshot(clean_server)
        with pytest.raises(kind) as raised:
            async with transaction() as tx:
                act(tx)
        assert raised.value.step == 2
        assert snapshot(clean_server) == before
