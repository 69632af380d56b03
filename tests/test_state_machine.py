"""Any sequence of verbs by several clients: keys are those that the living records imply, queries list comprehensions.

A plain Python store does every step beside the library and says which error it must raise. After each step the whole
keyspace is compared, and a round of queries. Two clients with connections of their own take turns; instances stay
around and get stale.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from popoto_async import (
    AlreadyExists,
    Database,
    Field,
    GeoField,
    IndexedField,
    KeyField,
    ListField,
    Model,
    ModelException,
    PopotoError,
    RecordGone,
    SortedField,
    StaleRecord,
    UniqueField,
    UniqueKeyField,
    UniqueViolation,
    connect,
    transaction,
    using,
)
from tests.examples import run_machine
from tests.model_of_store import Rows, Values, assert_true, claims, record_key, stored_text, values_of
from tests.random_queries import Asked, asked
from tests.servers import Server

# Models --------------------------------------------------------------------------------------------------------------


class Account(Model):
    name: str = KeyField()
    email: str = UniqueField()
    colour: str | None = IndexedField(suffixes=True)
    score: int | None = SortedField(null=True)
    place = GeoField()


class Visit(Model):
    hotel: str = KeyField()
    guest: str = KeyField(suffixes=True)
    kind: str | None = IndexedField()
    room: int | None = Field()
    price: Decimal = SortedField(partition_by="hotel")
    rank: int | None = SortedField(null=True, partition_by="kind")
    notes = ListField(max_length=3)

    class Meta:
        unique_together = (("kind", "room"),)


class Pass(Model):
    team: str = KeyField()
    code: str = UniqueKeyField()
    level: float = SortedField()

    class Meta:
        versioned = True


class Ticket(Model):
    number: int = KeyField()
    owner: str = UniqueField()
    moment: datetime | None = SortedField(null=True)
    marks = ListField(max_length=2)

    class Meta:
        ttl = 5000


MODELS: list[type[Model]] = [Account, Visit, Pass, Ticket]
BIG = 2**60
MOMENT = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)

few = st.sampled_from
VALUES: dict[type[Model], dict[str, Any]] = {
    Account: {
        "name": few(["a", "b", "c:d", "%null"]),
        "email": few(["1@x", "2@x", "3@é:x", "4@é%x"]),
        "colour": few([None, "red", "None", "d:é🦊"]),
        "score": few([None, -1, 0, 5, 2**53, BIG, BIG + 1, BIG - 1]),
        "place": few([None, (0, 0), (90, 0), (-90, 5), (40.7, -73.9), (40.8, -73.9), (0, 180)]),
    },
    Visit: {
        "hotel": few(["r", "p", ""]),
        "guest": few(["x", "y"]),
        "kind": few([None, "s", "t"]),
        "room": few([None, 1, 2]),
        "price": few([Decimal(text) for text in ("1", "1.0", "0.1", "0.10000000000000000001", "-3", "1E+3")]),
        "rank": few([None, 1, 2, BIG, BIG + 1]),
        "notes": few([[], ["a"], [1, "b", None], [[1], 2, {"k": [3]}, "beyond"]]),
    },
    Pass: {"team": few(["t", "u"]), "code": few(["1", "2", "3"]), "level": few([-0.0, 0.0, 1.5, 1e20, -2.25])},
    Ticket: {
        "number": few([1, 2, -3, BIG]),
        "owner": few(["o", "p", "q"]),
        "moment": few([None, MOMENT, MOMENT + timedelta(microseconds=1), datetime(9999, 12, 31, tzinfo=UTC)]),
        "marks": few([[], ["x"], [True, "y"]]),
    },
}
QUERIED = {
    model: {name: choice for name, choice in fields.items() if name not in ("place", "room", "notes", "marks")}
    for model, fields in VALUES.items()
}
LISTS: dict[type[Model], tuple[str, int]] = {Visit: ("notes", 3), Ticket: ("marks", 2)}
NUMBERS: dict[type[Model], dict[str, Any]] = {
    Account: {"score": few([1, -1, BIG])},
    Visit: {"price": few([Decimal("0.1"), Decimal(-2)]), "rank": few([1, BIG]), "room": few([1, -1])},
    Pass: {"level": few([0.5, 1e20])},
}
rows_of_models = st.one_of([st.tuples(st.just(model), st.fixed_dictionaries(VALUES[model])) for model in MODELS])
questions = st.one_of([asked(model, QUERIED[model]) for model in MODELS])
clients = st.integers(0, 1)
handles = st.integers(0, 30)


def capped(model: type[Model], row: Values) -> Values:
    """A row with the part of its list that is stored."""
    name, cap = LISTS.get(model, ("", 0))
    return {**row, name: row[name][:cap]} if name in row else row


# The store beside the library ----------------------------------------------------------------------------------------


class World:
    """What is stored, as plain values. Every method does what the verb promises, or raises its error."""

    def __init__(self) -> None:
        self.rows: dict[type[Model], Rows] = {model: {} for model in MODELS}
        self.ends: set[str] = set()
        self.versions: dict[str, int] = {}
        self.clock = 0

    def _conflicts(self, model: type[Model], row: Values, free: set[str]) -> bool:
        own = set(claims(model, row))
        return any(own.intersection(claims(model, other)) for key, other in self.rows[model].items() if key not in free)

    def _put(self, model: type[Model], key: str, row: Values) -> None:
        self.clock += 1
        self.rows[model][key], self.versions[key] = capped(model, row), self.clock
        if model is Ticket:
            self.ends.add(key)

    def drop(self, model: type[Model], key: str) -> bool:
        self.ends.discard(key)
        return self.rows[model].pop(key, None) is not None

    def insert(self, model: type[Model], row: Values, if_exists: str = "overwrite") -> str:
        key = record_key(model, row)
        if key in self.rows[model] and if_exists == "error":
            raise AlreadyExists(key)
        if self._conflicts(model, row, set() if model is Pass else {key}):
            raise UniqueViolation(key)
        self.drop(model, key)
        self._put(model, key, dict(row))
        return key

    def update(
        self, model: type[Model], origin: str, changed: Values, version: int | None, if_exists: str = "overwrite"
    ) -> str:
        if origin not in self.rows[model]:
            raise RecordGone(origin)
        row = {**self.rows[model][origin], **changed}
        key = record_key(model, row)
        if key != origin and key in self.rows[model] and if_exists == "error":
            raise AlreadyExists(key)
        if model is Pass and version != self.versions[origin]:
            raise StaleRecord(origin)
        if self._conflicts(model, row, {origin} if model is Pass else {origin, key}):
            raise UniqueViolation(key)
        expires = origin in self.ends
        self.drop(model, origin)
        self.drop(model, key)
        self._put(model, key, row)
        if expires:
            self.ends.add(key)
        return key


@dataclass
class Handle:
    """An instance that somebody holds, and what was stored when it was last read or saved."""

    model: type[Model]
    instance: Any
    key: str | None = None
    seen: Values | None = None
    version: int | None = None

    def values(self) -> Values:
        """The values as a save would store them."""
        return capped(self.model, values_of(self.instance))

    def changed(self) -> Values:
        """What a save would write."""
        assert self.seen is not None
        return {name: value for name, value in self.values().items() if not same(value, self.seen[name])}

    def forget(self) -> None:
        self.key = self.seen = self.version = None


def same(a: Any, b: Any) -> bool:
    """Whether two values are stored as one text."""
    return (a is None) == (b is None) and (a is None or stored_text(a) == stored_text(b))


# The machine ---------------------------------------------------------------------------------------------------------


class Store(RuleBasedStateMachine):
    """Run with a server: see `test_any_sequence`."""

    server: Server

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.world = World()
        self.handles: list[Handle] = []
        self.server.client.flushall()
        self.opened = [connect(self.server.unix_url) for _ in range(2)]
        self.databases: list[Database] = [self.runner.run(one.__aenter__()) for one in self.opened]

    def teardown(self) -> None:
        for one in self.opened:
            self.runner.run(one.__aexit__(None, None, None))
        self.runner.close()

    # Doing a step on both sides --------------------------------------------------------------------------------------

    def run(self, client: int, work: Callable[[], Any]) -> Any:
        async def under() -> Any:
            with using(self.databases[client]):
                return await work()

        return self.runner.run(under())

    def both(self, client: int, expected: Callable[[World], Any], work: Callable[[], Any]) -> tuple[bool, Any, Any]:
        """Do it on a copy of the world and on the server; whether it succeeded, and what each gave."""
        world, failure, promised = deepcopy(self.world), None, None
        try:
            promised = expected(world)
        except PopotoError as error:
            failure = error
        if failure is not None:
            with pytest.raises(type(failure)):
                self.run(client, work)
            return False, None, None
        given = self.run(client, work)
        self.world = world
        return True, promised, given

    def handle(self, number: int) -> Handle:
        return self.handles[number % len(self.handles)]

    def keep(self, handle: Handle) -> None:
        self.handles = [*self.handles[-11:], handle]

    def settle(self, handle: Handle, key: str, stored: Values) -> None:
        handle.key, handle.seen, handle.version = key, {**(handle.seen or {}), **stored}, self.world.versions[key]

    def saving(self, world: World, handle: Handle, names: list[str] | None = None) -> tuple[str, Values]:
        """A save of a handle in the world; its key, and what it writes."""
        if handle.key is None:
            values = handle.values()
            return world.insert(handle.model, values), values
        changed = {name: value for name, value in handle.changed().items() if names is None or name in names}
        return world.update(handle.model, handle.key, changed, handle.version), changed

    # Rules -----------------------------------------------------------------------------------------------------------

    @rule(client=clients, made=rows_of_models, if_exists=few(["overwrite", "overwrite", "error"]))
    def create(self, client: int, made: tuple[type[Model], Values], if_exists: str) -> None:
        model, values = made
        done, key, instance = self.both(
            client,
            lambda world: world.insert(model, values, if_exists),
            lambda: model.create(if_exists=if_exists, **values),
        )
        if done:
            self.keep(Handle(model, instance))
            self.settle(self.handles[-1], key, values_of(instance))

    @rule(client=clients, made=rows_of_models)
    def load(self, client: int, made: tuple[type[Model], Values]) -> None:
        model, values = made
        keys = {field.name: values[field.name] for field in model._meta.keys}
        key = record_key(model, values)
        found = self.run(client, lambda: model.load(**keys))
        assert (found is not None) == (key in self.world.rows[model])
        if found is not None:
            self.keep(Handle(model, found))
            self.settle(self.handles[-1], key, values_of(found))

    @precondition(lambda self: self.handles)
    @rule(client=clients, number=handles, data=st.data(), partial=st.booleans(), save=st.booleans())
    def change(self, client: int, number: int, data: Any, partial: bool, save: bool) -> None:
        """Assign some values, and save all of it, or some fields, or nothing yet."""
        handle = self.handle(number)
        choices = VALUES[handle.model]
        names = data.draw(st.lists(st.sampled_from(sorted(choices)), max_size=3, unique=True), label="fields")
        for name in names:
            setattr(handle.instance, name, data.draw(choices[name], label=name))
        if not save:
            return
        limited = names if partial and names and handle.key is not None else None
        done, promised, _ = self.both(
            client,
            lambda world: self.saving(world, handle, limited),
            lambda: handle.instance.save(update_fields=limited),
        )
        if done:
            self.settle(handle, *promised)

    @precondition(lambda self: self.handles)
    @rule(client=clients, number=handles)
    def refresh(self, client: int, number: int) -> None:
        handle = self.handle(number)
        if handle.key is None:
            return

        def expected(world: World) -> None:
            if handle.key not in world.rows[handle.model]:
                raise RecordGone(handle.key or "")

        done, _, _ = self.both(client, expected, handle.instance.refresh)
        if done:
            self.settle(handle, handle.key, values_of(handle.instance))

    @precondition(lambda self: self.handles)
    @rule(client=clients, number=handles)
    def delete(self, client: int, number: int) -> None:
        handle = self.handle(number)
        key = handle.key or record_key(handle.model, handle.values())
        _, promised, given = self.both(client, lambda world: world.drop(handle.model, key), handle.instance.delete)
        assert promised == given
        handle.forget()

    @precondition(lambda self: self.handles)
    @rule(client=clients, number=handles, data=st.data())
    def increment(self, client: int, number: int, data: Any) -> None:
        handle = self.handle(number)
        if handle.key is None or handle.model not in NUMBERS:
            return
        name, step = data.draw(st.one_of([st.tuples(st.just(n), s) for n, s in NUMBERS[handle.model].items()]))

        def expected(world: World) -> tuple[str, Any]:
            assert handle.key is not None
            row = world.rows[handle.model].get(handle.key)
            total = step + (0 if row is None or row[name] is None else row[name])
            return world.update(handle.model, handle.key, {name: total}, handle.version), total

        done, promised, given = self.both(client, expected, lambda: handle.instance.increment(name, step))
        if done:
            assert given == promised[1] == getattr(handle.instance, name)
            self.world.rows[handle.model][handle.key][name] = given
            self.settle(handle, handle.key, {name: given})

    @precondition(lambda self: self.handles)
    @rule(client=clients, number=handles, item=few([0, "new", [1, None]]), here=st.booleans())
    def push(self, client: int, number: int, item: Any, here: bool) -> None:
        """Onto the list on the server; or into the instance's, to be stored by a later save."""
        handle = self.handle(number)
        if handle.model not in LISTS:
            return
        (name, cap), key = LISTS[handle.model], handle.key
        items = getattr(handle.instance, name)
        if here:
            items.insert(1, item)
            return

        def expected(world: World) -> int:
            if key is None:
                raise ModelException("new")
            if key not in world.rows[handle.model]:
                raise RecordGone(key)
            row = world.rows[handle.model][key]
            row[name] = [item, *row[name]][:cap]
            return len(row[name])

        done, promised, given = self.both(client, expected, lambda: items.push(item))
        if done:
            assert (promised, items[0]) == (given, item)
            assert handle.seen is not None
            handle.seen[name] = [item, *handle.seen[name]][:cap]

    @precondition(lambda self: self.handles)
    @rule(client=clients, number=handles, how=few(["far", "persist", "past", "soon", "save"]))
    def expire(self, client: int, number: int, how: str) -> None:
        handle = self.handle(number)
        model, key, instance = handle.model, handle.key, handle.instance
        if key is None:
            return

        def expected(world: World) -> Any:
            if how == "save":
                return self.saving(world, handle)
            if key not in world.rows[model]:
                raise RecordGone(key)
            if how == "persist":
                world.ends.discard(key)
            elif how == "far":
                world.ends.add(key)
            else:
                world.drop(model, key)
            return None

        async def soon() -> None:
            await instance.expire_in(0.001)
            while await self.databases[client].execute("EXISTS", key):
                await asyncio.sleep(0.001)

        work: dict[str, Callable[[], Any]] = {
            "far": lambda: instance.expire_in(4000),
            "persist": instance.persist,
            "past": lambda: instance.expire_at(MOMENT - timedelta(days=9000)),
            "soon": soon,
            "save": lambda: instance.save(expire_in=3000),
        }
        done, promised, _ = self.both(client, expected, work[how])
        if done and how == "save":
            self.settle(handle, *promised)
            self.world.ends.add(promised[0])

    @rule(client=clients, made=rows_of_models, by=few(["key", "unique"]), update=st.booleans())
    def find_or_create(self, client: int, made: tuple[type[Model], Values], by: str, update: bool) -> None:
        model, values = made
        names = [field.name for field in model._meta.keys]
        unique = {Account: ["email"], Visit: ["kind", "room"], Pass: ["code"], Ticket: ["owner"]}[model]
        names = unique if by == "unique" else names
        lookup = {name: values[name] for name in names}
        defaults = {name: value for name, value in values.items() if name not in names}
        if None in lookup.values():
            return

        def expected(world: World) -> tuple[str, bool]:
            for key, row in world.rows[model].items():
                if all(same(row[name], lookup[name]) for name in names):
                    if update:
                        return world.update(model, key, defaults, world.versions[key]), False
                    return key, False
            return world.insert(model, values, "error"), True

        verb = model.update_or_create if update else model.get_or_create
        done, promised, given = self.both(client, expected, lambda: verb(defaults, **lookup))
        if done:
            assert promised[1] == given[1]
            self.keep(Handle(model, given[0]))
            self.settle(self.handles[-1], promised[0], values_of(given[0]))

    @precondition(lambda self: self.handles)
    @rule(
        client=clients,
        steps=st.lists(st.tuples(handles, few(["save", "save", "delete"])), max_size=4, unique_by=lambda step: step[0]),
    )
    def together(self, client: int, steps: list[tuple[int, str]]) -> None:
        chosen = {id(self.handle(number)): (self.handle(number), verb) for number, verb in steps}.values()

        def expected(world: World) -> list[Any]:
            found: list[Any] = []
            for handle, verb in chosen:
                if verb == "save":
                    found.append(self.saving(world, handle))
                else:
                    world.drop(handle.model, handle.key or record_key(handle.model, handle.values()))
                    found.append(None)
            return found

        async def work() -> None:
            async with transaction() as tx:
                for handle, verb in chosen:
                    (tx.save if verb == "save" else tx.delete)(handle.instance)

        done, promised, _ = self.both(client, expected, work)
        if done:
            for (handle, _), saved in zip(chosen, promised, strict=True):
                if saved is None:
                    handle.forget()
                else:
                    handle.key, handle.seen = saved[0], {**(handle.seen or {}), **saved[1]}
                    handle.version = self.world.versions.get(saved[0])

    @precondition(lambda self: self.handles)
    @rule(client=clients, numbers=st.lists(handles, max_size=4), delete=st.booleans())
    def many(self, client: int, numbers: list[int], delete: bool) -> None:
        chosen = list({id(self.handle(number)): self.handle(number) for number in numbers}.values())
        models = {handle.model for handle in chosen}
        if len(models) != 1:
            return
        promised: list[Any] = []

        def expected(world: World) -> None:
            for handle in chosen:
                try:
                    if delete:
                        promised.append(
                            world.drop(handle.model, handle.key or record_key(handle.model, handle.values()))
                        )
                    else:
                        promised.append((*self.saving(world, handle), world.clock))
                except PopotoError as error:
                    promised.append(type(error))

        model = models.pop()
        verb = model.delete_many if delete else model.save_many
        outcomes: dict[int, Any] = {}
        self.both(
            client, expected, lambda: verb(
                [handle.instance for handle in chosen],
                on_outcome=lambda item, error: outcomes.update({id(item): error}),
            ),
        )  # fmt: skip
        for handle, wanted in zip(chosen, promised, strict=True):
            error = outcomes[id(handle.instance)]
            if isinstance(wanted, type):
                assert isinstance(error, wanted)
            elif delete:
                handle.forget()
            else:
                assert error is None
                handle.key, handle.seen, handle.version = wanted[0], {**(handle.seen or {}), **wanted[1]}, wanted[2]

    @rule(what=few(["flush scripts", "kill clients"]))
    def disrupt(self, what: str) -> None:
        if what == "flush scripts":
            self.server.client.script_flush()
        else:
            self.server.client.client_kill_filter(_type="normal")

    @rule(client=clients, question=questions)
    def ask(self, client: int, question: Asked) -> None:
        self.compare(client, question)

    # What holds after every step -------------------------------------------------------------------------------------

    def compare(self, client: int, question: Asked) -> None:
        """Every form of a query against the list comprehension."""
        rows = self.world.rows[question.model]
        keys, everything = question.answer(rows), question.sequence(rows)
        query = question.query()

        async def work() -> list[Any]:
            return await asyncio.gather(
                query.all(), query.keys(), query.count(), query.exists(), query.first(), query.last(), query.values()
            )

        found, found_keys, count, exists, first, last, dicts = self.run(client, work)
        assert found_keys == keys, question
        assert [values_of(one) for one in found] == [rows[key] for key in keys], question
        assert dicts == [rows[key] for key in keys], question
        assert count == len(keys), question
        assert exists == bool(keys), question
        assert (first and first.db_key.redis_key) == (keys[0] if keys else None), question
        assert (last and last.db_key.redis_key) == (keys[-1] if keys else None), question
        assert len(everything) >= len(keys)

    @invariant()
    def everything_is_as_it_should_be(self) -> None:
        self.queries_tell_the_truth()  # which sweeps what has expired
        self.keys_are_those_that_the_records_imply()

    def queries_tell_the_truth(self) -> None:
        async def work() -> list[Any]:
            return await asyncio.gather(
                *(form for model in MODELS for form in (model.query.count(), model.query.keys()))
            )

        found = iter(self.run(0, work))
        for model in MODELS:
            assert (next(found), next(found)) == (len(self.world.rows[model]), sorted(
                self.world.rows[model], key=str.encode
            ))  # fmt: skip

    def keys_are_those_that_the_records_imply(self) -> None:
        found: Any = assert_true(self.server, MODELS, self.world.rows)
        ends = {member.decode() for model in MODELS for member, _ in found.get(f"$Exp:{model.__name__}".encode(), ())}
        assert ends == self.world.ends


def test_any_sequence(clean_server: Server) -> None:
    run_machine(Store, 30, server=clean_server)
