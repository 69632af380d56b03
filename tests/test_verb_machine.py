"""Any sequence of changes by query, pages, cascades, renames and expiries: rows, keys, streams and `check` agree.

A plain Python world does every step beside the library; changes by query, record by record, as they are promised. After
each step the keyspace is compared, the streams are replayed, and `maintenance.check` has to find nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from popoto_async import (
    CASCADE,
    PROTECT,
    AlreadyExists,
    Database,
    EventStreamMixin,
    IndexedField,
    KeyField,
    Model,
    PopotoError,
    ProtectedRecord,
    Q,
    Relationship,
    SortedField,
    UniqueField,
    UniqueViolation,
    maintenance,
    transaction,
    using,
)
from tests.examples import run_machine
from tests.model_of_store import Values, difference, keyspace, observed, ordered, replayed, values_of
from tests.servers import Server, until
from tests.world_of_records import World as Records
from tests.world_of_records import key_of


class Team(EventStreamMixin, Model):
    name: str = KeyField()
    city: str | None = IndexedField(suffixes=True)
    parent = Relationship("self", related_name="children")


class Player(EventStreamMixin, Model):
    room: str = KeyField()
    number: int = KeyField()
    nick: str | None = IndexedField(suffixes=True)
    code: str = UniqueField()
    team = Relationship(Team, on_delete=CASCADE, related_name="players")
    guard = Relationship(Team, on_delete=PROTECT)
    mate = Relationship("self")
    score: int | None = SortedField(null=True, partition_by="team")
    rank: int | None = SortedField(null=True)

    class Meta:
        ttl = 5000
        unique_together = (("team", "rank"),)


MODELS: list[type[Model]] = [Team, Player]
ACTS: dict[tuple[type[Model], str], tuple[type[Model], str]] = {
    (Team, "parent"): (Team, "SET_NULL"),
    (Player, "team"): (Team, "CASCADE"),
    (Player, "guard"): (Team, "PROTECT"),
    (Player, "mate"): (Player, "SET_NULL"),
}
few = st.sampled_from
teams = few([None, "Team:a", "Team:b%3A", "Team:c"])
VALUES: dict[type[Model], dict[str, Any]] = {
    Team: {"name": few(["a", "b:", "c", "d"]), "city": few([None, "red", "read", "d:é"]), "parent": teams},
    Player: {
        "room": few("xyz"), "number": few([1, 2, 10]), "nick": few([None, "ann", "anna", "%:n"]),
        "code": few([str(n) for n in range(9)]), "team": teams, "guard": few([None, None, None, "Team:a", "Team:d"]),
        "mate": few([None, "Player:x:1", "Player:y:10"]), "score": few([None, 1, 2, 2**60]),
        "rank": few([None, None, -1, 0, 7]),
    },
}  # fmt: skip
made = st.one_of([st.tuples(st.just(model), st.fixed_dictionaries(fields)) for model, fields in VALUES.items()])
changes = st.one_of([
    st.tuples(st.just(model), st.fixed_dictionaries({}, optional=dict(fields))) for model, fields in VALUES.items()
])  # fmt: skip
numbers = st.integers(0, 9)


# Questions -----------------------------------------------------------------------------------------------------------

Predicate = Callable[["World", Values], bool]
Tree = tuple[Any, Predicate]


def _through(path: list[str], target: type[Model], of: Predicate) -> Predicate:
    """A condition on what a reference leads to; false where it leads nowhere."""

    def holds(world: World, row: Values) -> bool:
        found = world.rows[target].get(row[path[0]])
        return found is not None and (
            of(world, found) if len(path) == 1 else _through(path[1:], Team, of)(world, found)
        )

    return holds


def _leaves(model: type[Model]) -> list[Tree]:
    def red(world: World, row: Values) -> bool:
        return bool(row["city"] == "red")

    def ends(world: World, row: Values) -> bool:
        return row["city"] is not None and row["city"].endswith("d")

    def homeless(world: World, row: Values) -> bool:
        return row["city"] is None

    if model is Team:
        return [
            (Q(name__in=["a", "b:", "d"]), lambda world, row: row["name"] in ("a", "b:", "d")),
            (Q(city="red"), red), (Q(city__endswith="d"), ends), (Q(city__isnull=True), homeless),
            (Q(city__contains="e"), lambda world, row: "e" in (row["city"] or "")),
            (Q(name__startswith="b:"), lambda world, row: row["name"].startswith("b:")),
            (Q(parent__isnull=True), lambda world, row: row["parent"] is None),
            (Q(parent="Team:a"), lambda world, row: row["parent"] == "Team:a"),
            (Q(parent__city="red"), _through(["parent"], Team, red)),
            (Q(parent__parent__city__isnull=True), _through(["parent", "parent"], Team, homeless)),
        ]  # fmt: skip
    return [
        (Q(room="x"), lambda world, row: row["room"] == "x"),
        (Q(room__in=["y", "z"], number__in=[1, 10]), lambda world, row: row["room"] in "yz" and row["number"] != 2),
        (Q(nick__startswith="ann"), lambda world, row: (row["nick"] or "").startswith("ann")),
        (Q(nick__contains="n"), lambda world, row: "n" in (row["nick"] or "")),
        (Q(nick=None), lambda world, row: row["nick"] is None),
        (Q(code="1"), lambda world, row: row["code"] == "1"),
        (Q(team="Team:a", score__gte=2), lambda world, row: row["team"] == "Team:a" and (row["score"] or 0) >= 2),
        (Q(team=None, score__isnull=True), lambda world, row: row["team"] is None and row["score"] is None),
        (Q(team__in=["Team:b%3A", "Team:c"]), lambda world, row: row["team"] in ("Team:b%3A", "Team:c")),
        (Q(rank__lt=5), lambda world, row: row["rank"] is not None and row["rank"] < 5),
        (Q(rank__isnull=True), lambda world, row: row["rank"] is None),
        (Q(team__city="red"), _through(["team"], Team, red)),
        (Q(guard__city__endswith="d"), _through(["guard"], Team, ends)),
        (Q(team__parent__city__isnull=True), _through(["team", "parent"], Team, homeless)),
        (Q(mate__nick__startswith="ann"),
         _through(["mate"], Player, lambda world, row: (row["nick"] or "").startswith("ann"))),
        (Q(mate__team__city="red"), _through(["mate", "team"], Player, red)),
    ]  # fmt: skip


def trees(model: type[Model]) -> st.SearchStrategy[Tree]:
    def both(a: Tree, b: Tree) -> Tree:
        return a[0] & b[0], lambda world, row: a[1](world, row) and b[1](world, row)

    def either(a: Tree, b: Tree) -> Tree:
        return a[0] | b[0], lambda world, row: a[1](world, row) or b[1](world, row)

    def opposite(a: Tree) -> Tree:
        return ~a[0], lambda world, row: not a[1](world, row)

    return st.recursive(
        few(_leaves(model)),
        lambda inner: st.one_of(
            st.builds(both, inner, inner), st.builds(either, inner, inner), st.builds(opposite, inner)
        ),
        max_leaves=4,
    )


ORDERS = {Team: ["name", "city", "parent"], Player: ["room", "number", "nick", "code", "rank", "team", "mate"]}


class Question:
    """A tree for `filter` or `exclude`, an order, a page."""

    def __init__(
        self, model: type[Model], tree: Tree, flip: bool, orders: tuple[str, ...], limit: int | None, offset: int
    ) -> None:
        self.model, self.tree, self.flip = model, tree, flip
        self.orders, self.limit, self.offset = orders, limit, offset

    def __repr__(self) -> str:
        verb = "exclude" if self.flip else "filter"
        return f"{self.model.__name__} {verb} {self.tree[0]} {self.orders} {self.limit} {self.offset}"

    def query(self) -> Any:
        query: Any = self.model.query.exclude(self.tree[0]) if self.flip else self.model.query.filter(self.tree[0])
        return query.order_by(*self.orders).limit(self.limit).offset(self.offset)

    def holds(self, world: World, row: Values) -> bool:
        return self.tree[1](world, row) is not self.flip

    def sequence(self, world: World) -> list[str]:
        return ordered({key: row for key, row in world.rows[self.model].items() if self.holds(world, row)}, self.orders)

    def keys(self, world: World) -> list[str]:
        return self.sequence(world)[self.offset :][: self.limit]


@st.composite
def questions(draw: Any, model: type[Model] | None = None) -> Question:
    model = model or draw(few(MODELS))
    by = draw(st.lists(few(ORDERS[model]), min_size=1, max_size=3, unique=True))
    return Question(
        model, draw(trees(model)), draw(st.booleans()), tuple(draw(few(["", "-"])) + name for name in by),
        draw(st.none() | st.integers(0, 5)), draw(few([0, 0, 0, 1, 2])),
    )  # fmt: skip


@st.composite
def updates(draw: Any) -> tuple[Question, Values]:
    question = draw(questions())
    fields = VALUES[question.model]
    names = draw(st.lists(few(sorted(fields)), min_size=1, max_size=2, unique=True))
    return question, {name: draw(fields[name]) for name in names}


# The world beside it -------------------------------------------------------------------------------------------------


class World(Records):
    """The rows, and what the verbs of queries make of them."""

    def __init__(self) -> None:
        super().__init__(MODELS, ACTS)

    def one_by_one(self, question: Question, change: Callable[[str], Any], passes: list[list[str]]) -> int:
        count = 0
        for keys in passes:
            for key in keys:
                row = self.rows[question.model].get(key)
                if row is not None and question.holds(self, row) and change(key) is not False:
                    count += 1
        return count

    def drop_all(self, question: Question) -> int:
        limited = question.limit is not None or question.offset
        keys = question.keys(self) if limited else sorted(question.sequence(self), key=str.encode)
        held: list[ProtectedRecord] = []

        def drop(key: str) -> bool:
            try:
                return self.drop(question.model, key)
            except ProtectedRecord as error:
                held.append(error)
                return False

        count = made = self.one_by_one(question, drop, [keys])
        while held and made:
            held.clear()
            made = self.one_by_one(question, drop, [sorted(keys, key=str.encode, reverse=True)])
            count += made
        if held:
            raise held[0]
        return count

    def update_all(self, question: Question, values: Values) -> int:
        model = question.model
        limited = question.limit is not None or question.offset
        keys = sorted(question.keys(self) if limited else question.sequence(self), key=str.encode)

        def change(key: str) -> None:
            self.update(model, key, values, onto=False)

        moving = any(field.name in values for field in model._meta.keys)
        if limited or not moving:
            return self.one_by_one(question, change, [keys])

        def up(key: str) -> bool:
            return key_of(model, {**self.rows[model][key], **values}).encode() > key.encode()

        count = self.one_by_one(question, change, [[key for key in keys if not up(key)]])
        rest = sorted(question.sequence(self), key=str.encode, reverse=True)
        return count + self.one_by_one(question, change, [[key for key in rest if up(key)]])


# The machine ---------------------------------------------------------------------------------------------------------


class Verbs(RuleBasedStateMachine):
    server: Server

    def __init__(self) -> None:
        super().__init__()
        self.server.client.flushall()
        self.world = World()
        self.runner = asyncio.Runner()
        self.database = Database(self.server.url)
        self.paging: Any = None
        self.told = dict.fromkeys(MODELS, "0")

    def teardown(self) -> None:
        self.runner.run(self.database.close())
        self.runner.close()

    def run(self, work: Callable[[], Any]) -> Any:
        async def inside() -> Any:
            with using(self.database):
                return await work()

        return self.runner.run(inside())

    def both(self, expected: Callable[[World], Any], work: Callable[[], Any], *, whole: bool = True) -> None:
        world, failure, promised = deepcopy(self.world), None, None
        world.events.clear()
        try:
            promised = expected(world)
        except PopotoError as error:
            failure = error
        if failure is not None:
            with pytest.raises(type(failure) if whole else (UniqueViolation, AlreadyExists, ProtectedRecord)):
                self.run(work)
            if not whole:
                self.resync()
            else:
                assert self.new_events() == []
            return
        assert self.run(work) == promised
        assert set(self.new_events()) == set(world.events)
        self.world = world

    def new_events(self) -> list[tuple[str, str]]:
        found = []
        for model in MODELS:
            for entry, values in self.server.client.xrange(f"$Stream:{model.__name__}", f"({self.told[model]}"):
                self.told[model] = entry.decode()
                found.append((values[b"op"].decode(), values[b"key"].decode()))
        return found

    def resync(self) -> None:
        """After a change by query that failed on the way: what is stored, which the invariants still hold to."""

        async def work() -> None:
            for model in MODELS:
                self.world.rows[model] = {one.db_key.redis_key: values_of(one) for one in await model.query.all()}

        self.run(work)
        self.new_events()

    def pick(self, model: type[Model], number: int) -> str | None:
        keys = sorted(self.world.rows[model])
        return keys[number % len(keys)] if keys else None

    def handle(self, model: type[Model], key: str) -> Any:
        row = self.world.rows[model][key]
        return model.ref(**{field.name: row[field.name] for field in model._meta.keys})

    # Single records

    @rule(one=made)
    def create(self, one: tuple[type[Model], Values]) -> None:
        self.both(lambda world: world.insert(*one), lambda: self._create(*one))

    @rule(several=st.lists(made, min_size=3, max_size=6))
    def create_several(self, several: list[tuple[type[Model], Values]]) -> None:
        for one in several:
            self.create(one)

    async def _create(self, model: type[Model], values: Values) -> None:
        await model.create(**values)

    @rule(number=numbers, change=changes, loaded=st.booleans())
    def change(self, number: int, change: tuple[type[Model], Values], loaded: bool) -> None:
        model, values = change
        key = self.pick(model, number)
        if key is None:
            return
        stub = self.handle(model, key)

        async def work() -> None:
            one = await stub if loaded else stub
            for name, value in values.items():
                setattr(one, name, value)
            await one.save()

        self.both(lambda world: world.update(model, key, values), work)

    @rule(model=few(MODELS), number=numbers)
    def delete(self, model: type[Model], number: int) -> None:
        key = self.pick(model, number)
        if key is not None:
            stub = self.handle(model, key)
            self.both(lambda world: world.drop(model, key), stub.delete)

    @rule(model=few(MODELS), number=numbers)
    def expire(self, model: type[Model], number: int) -> None:
        """Nothing is done to what refers to it, and no event tells of it."""
        key = self.pick(model, number)
        if key is None:
            return
        stub = self.handle(model, key)
        self.run(lambda: stub.expire_in(0.001))
        until(lambda: not self.server.client.exists(key))
        del self.world.rows[model][key]

    @precondition(lambda self: self.world.rows[Team] and self.world.rows[Player])
    @rule(team=numbers, player=numbers, change=st.fixed_dictionaries({}, optional=dict(VALUES[Player])))
    def together(self, team: int, player: int, change: Values) -> None:
        going, changing = self.pick(Team, team), self.pick(Player, player)
        assert going is not None
        assert changing is not None
        first, second = self.handle(Player, changing), self.handle(Team, going)
        for name, value in change.items():
            setattr(first, name, value)

        async def work() -> None:
            async with transaction() as tx:
                tx.save(first)
                tx.delete(second)

        def expected(world: World) -> None:
            world.update(Player, changing, change)
            world.drop(Team, going)

        self.both(expected, work)

    # By query

    @rule(asked=updates())
    def update_by_query(self, asked: tuple[Question, Values]) -> None:
        question, values = asked
        self.both(
            lambda world: world.update_all(question, values), lambda: question.query().update(**values), whole=False
        )

    @rule(question=questions())
    def delete_by_query(self, question: Question) -> None:
        self.both(lambda world: world.drop_all(question), question.query().delete, whole=False)

    # Reads

    @rule(question=questions())
    def ask(self, question: Question) -> None:
        query, rows = question.query(), self.world.rows[question.model]
        keys = question.keys(self.world)
        relation = "team__parent" if question.model is Player else "parent__parent"
        names = ("team", "rank") if question.model is Player else ("city", "parent")

        async def work() -> list[Any]:
            return await asyncio.gather(
                query.all(), query.keys(), query.count(), query.exists(), query.first(), query.last(),
                query.values(*names), query.prefetch(relation).all(), query.explain(),
            )  # fmt: skip

        found, found_keys, count, exists, first, last, dicts, fetched, _ = self.run(work)
        assert found_keys == keys, question
        assert [values_of(one) for one in found] == [rows[key] for key in keys], question
        assert (count, exists) == (len(keys), bool(keys)), question
        assert (first and first.db_key.redis_key) == (keys[0] if keys else None), question
        assert (last and last.db_key.redis_key) == (keys[-1] if keys else None), question
        assert dicts == [{name: rows[key][name] for name in names} for key in keys], question
        for one in fetched:
            row = rows[one.db_key.redis_key]
            target = self.world.rows[Team].get(row[relation.partition("__")[0]])
            if target is not None:
                assert values_of(getattr(one, relation.partition("__")[0])) == target

    @rule(question=questions())
    def ask_in_bulk(self, question: Question) -> None:
        model = question.model
        keys = [*self.world.rows[model], f"{model.__name__}:nobody" + (":1" if model is Player else "")]
        query: Any = model.query.exclude(question.tree[0]) if question.flip else model.query.filter(question.tree[0])
        found = self.run(lambda: query.in_bulk(keys))
        assert list(found) == [key for key in keys[:-1] if question.holds(self.world, self.world.rows[model][key])]
        assert {key: values_of(one) for key, one in found.items()} == {
            key: self.world.rows[model][key] for key in found
        }

    @rule(question=questions(), size=st.integers(1, 3))
    def begin_paging(self, question: Question, size: int) -> None:
        self.paging = (question, size, None, None, question.limit)
        self.go_on()

    @precondition(lambda self: self.paging is not None)
    @rule()
    def go_on(self) -> None:
        """The next page, whatever was done since the one before: what stands behind where its last row stood."""
        question, size, cursor, last, left = self.paging
        page = self.run(lambda: question.query().page(size, cursor))
        rows = self.world.rows[question.model]
        if last is None:
            wanted = question.sequence(self.world)[question.offset :]
        else:
            standing = {key: rows[key] for key in question.sequence(self.world) if key != last[0]}
            own = rows.get(last[0])
            if own is not None and own != last[1]:  # which may be shown again, further on
                self.paging = None
                return
            marked = ordered({**standing, last[0]: last[1]}, question.orders)
            wanted = marked[marked.index(last[0]) + 1 :]
        wanted = wanted[:left]
        assert [one.db_key.redis_key for one in page] == wanted[:size], question
        assert (page.cursor is None) == (len(wanted) <= size), question
        self.paging = None
        if page.cursor is not None:
            key = wanted[size - 1]
            self.paging = (question, size, page.cursor, (key, dict(rows[key])), None if left is None else left - size)

    # What holds after every step

    @invariant()
    def all_agree(self) -> None:
        async def work() -> Any:
            found = await asyncio.gather(*(model.query.all() for model in MODELS))
            return found, await maintenance.check(*MODELS)

        found, report = self.run(work)
        for model, records in zip(MODELS, found, strict=True):
            assert {one.db_key.redis_key: values_of(one) for one in records} == self.world.rows[model]
        assert report.clean, [str(one) for model in report.models for one in model.damage]
        dump, ends = observed(self.server)
        streams = {model: dump.pop(f"$Stream:{model.__name__}".encode(), []) for model in MODELS}
        known = [model for model in MODELS if f"$Slots:{model.__name__}".encode() in dump]
        wrong = difference(dump, keyspace(self.world.rows, ends, {}, known))
        assert not wrong, wrong
        for model in MODELS:
            rows = self.world.rows[model]
            said = replayed(streams[model], model)
            assert {key: row for key, row in said.items() if key in rows} == rows


def test_any_sequence(clean_server: Server) -> None:
    run_machine(Verbs, 30, server=clean_server)
