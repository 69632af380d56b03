"""Any sequence of verbs on records that refer to one another: keys are those that the rows imply, and queries agree.

A plain Python world does every step beside the library: renames take references along, deletions do what the relations
say. Two clients take turns; records are changed as loaded, as stubs, in part, and in transactions.
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
    DO_NOTHING,
    PROTECT,
    SET_NULL,
    Database,
    IndexedField,
    KeyField,
    Model,
    PopotoError,
    Relationship,
    SortedField,
    transaction,
    using,
)
from popoto_async.planning.read import parse_lookup
from tests.examples import run_machine
from tests.model_of_store import Values, assert_true, values_of
from tests.servers import Server
from tests.world_of_records import World, key_of


class Team(Model):
    name: str = KeyField()
    colour: str | None = IndexedField()
    parent = Relationship("self")
    rival = Relationship("self", on_delete=DO_NOTHING)


class Player(Model):
    name: str = KeyField()
    shirt: int = KeyField()
    team = Relationship(Team, on_delete=SET_NULL, related_name="players")
    boss = Relationship("self", on_delete=CASCADE)
    score: int | None = SortedField(null=True, partition_by="team")

    class Meta:
        unique_together = (("team", "score"),)


class Deal(Model):
    number: int = KeyField()
    player = Relationship(Player, on_delete=CASCADE)
    team = Relationship(Team, on_delete=PROTECT)

    class Meta:
        indexes = ((("player", "team"), False),)


MODELS: list[type[Model]] = [Team, Player, Deal]
RELATIONS: dict[tuple[type[Model], str], tuple[type[Model], Any]] = {
    (model, field.name): (field.target, field.on_delete)
    for model in MODELS
    for field in model._meta.fields.values()
    if isinstance(field, Relationship)
}
few = st.sampled_from
teams = few([None, None, "Team:a", "Team:b%3A", "Team:c"])
players = few([None, None, "Player:x:1", "Player:x:2", "Player:y:1"])
VALUES: dict[type[Model], dict[str, Any]] = {
    Team: {"name": few(["a", "b:", "c"]), "colour": few([None, "red"]), "parent": teams, "rival": teams},
    Player: {
        "name": few("xy"), "shirt": few([1, 2]), "team": teams, "boss": players, "score": few([None, 1, 2]),
    },
    Deal: {"number": few([1, 2, 3]), "player": players, "team": few([None, None, None, "Team:a", "Team:c"])},
}  # fmt: skip
made = st.one_of([st.tuples(st.just(model), st.fixed_dictionaries(fields)) for model, fields in VALUES.items()])
clients = st.integers(0, 1)
changes = st.one_of([
    st.tuples(st.just(model), st.fixed_dictionaries({}, optional=dict(fields))) for model, fields in VALUES.items()
])  # fmt: skip


QUESTIONS: dict[type[Model], list[tuple[str, Any, Callable[[Any, Values], bool]]]] = {
    Player: [
        ("team__colour", "red", lambda at, row: at(Team, row["team"])["colour"] == "red"),
        ("team__parent__name", "a", lambda at, row: at(Team, at(Team, row["team"])["parent"])["name"] == "a"),
        ("team__rival__colour", None, lambda at, row: at(Team, at(Team, row["team"])["rival"])["colour"] is None),
        ("boss__boss__team", "Team:c", lambda at, row: at(Player, at(Player, row["boss"])["boss"])["team"] == "Team:c"),
        ("team__in", ["Team:a", "Team:c"], lambda at, row: row["team"] in ("Team:a", "Team:c")),
    ],
    Deal: [
        ("player__team__colour", "red", lambda at, row: at(Team, at(Player, row["player"])["team"])["colour"] == "red"),
        ("player__name", "x", lambda at, row: at(Player, row["player"])["name"] == "x"),
    ],
}  # fmt: skip


class Nowhere(Exception):
    """A reference leads to nothing."""


class Relations(RuleBasedStateMachine):
    server: Server

    def __init__(self) -> None:
        super().__init__()
        self.server.client.flushall()
        self.world = World(MODELS, RELATIONS)
        self.runner = asyncio.Runner()
        self.databases = [Database(self.server.url) for _ in range(2)]

    def teardown(self) -> None:
        async def close() -> None:
            for database in self.databases:
                await database.close()

        self.runner.run(close())
        self.runner.close()

    def run(self, client: int, work: Callable[[], Any]) -> Any:
        async def inside() -> Any:
            with using(self.databases[client]):
                return await work()

        return self.runner.run(inside())

    def both(self, client: int, expected: Callable[[World], Any], work: Callable[[], Any]) -> None:
        world, failure, promised = deepcopy(self.world), None, None
        try:
            promised = expected(world)
        except PopotoError as error:
            failure = error
        if failure is not None:
            with pytest.raises(type(failure)):
                self.run(client, work)
            return
        assert self.run(client, work) == promised
        self.world = world

    @rule(client=clients, one=made)
    def create(self, client: int, one: tuple[type[Model], Values]) -> None:
        model, values = one

        async def work() -> None:
            await model.create(**values)

        self.both(client, lambda world: world.insert(model, values), work)

    def pick(self, model: type[Model], number: int) -> str | None:
        keys = sorted(self.world.rows[model])
        return keys[number % len(keys)] if keys else None

    def handle(self, model: type[Model], key: str) -> Any:
        row = self.world.rows[model][key]
        return model.ref(**{field.name: row[field.name] for field in model._meta.keys})

    @rule(client=clients, number=st.integers(0, 9), change=changes, how=few(["loaded", "stub", "part", "many"]))
    def change(self, client: int, number: int, change: tuple[type[Model], Values], how: str) -> None:
        model, values = change
        key = self.pick(model, number)
        if key is None:
            return
        stub = self.handle(model, key)

        async def work() -> None:
            one = await stub if how != "stub" else stub
            for name, value in values.items():
                setattr(one, name, value)
            if how == "many":
                async with transaction() as tx:
                    tx.save(one)
            else:
                await one.save(update_fields=list(values) if how == "part" else None)
            assert one.db_key.redis_key == key_of(model, {**self.world.rows[model][key], **values})

        self.both(client, lambda world: world.update(model, key, values), work)

    @rule(client=clients, model=few(MODELS), number=st.integers(0, 9), loaded=st.booleans())
    def delete(self, client: int, model: type[Model], number: int, loaded: bool) -> None:
        key = self.pick(model, number)
        if key is None:
            return
        stub = self.handle(model, key)

        async def work() -> Any:
            return await (await stub if loaded else stub).delete()

        self.both(client, lambda world: world.drop(model, key), work)

    @precondition(lambda self: self.world.rows[Team] and self.world.rows[Player])
    @rule(
        client=clients, numbers=st.tuples(st.integers(0, 9), st.integers(0, 9)),
        change=st.fixed_dictionaries({}, optional=dict(VALUES[Player])), first=st.booleans(),
    )  # fmt: skip
    def together(self, client: int, numbers: tuple[int, int], change: Values, first: bool) -> None:
        """A player changes and a team goes, in either order, both or neither."""
        team, player = self.pick(Team, numbers[0]), self.pick(Player, numbers[1])
        assert team is not None
        assert player is not None
        going, changing = self.handle(Team, team), self.handle(Player, player)
        for name, value in change.items():
            setattr(changing, name, value)

        def expected(world: World) -> None:
            steps = [lambda: world.drop(Team, team), lambda: world.update(Player, player, change)]
            for step in steps if first else steps[::-1]:
                step()

        async def work() -> None:
            async with transaction() as tx:
                if first:
                    tx.delete(going)
                tx.save(changing)
                if not first:
                    tx.delete(going)

        self.both(client, expected, work)

    @rule(client=clients, model=few([Player, Deal]), flip=st.booleans(), limit=st.none() | st.integers(0, 2))
    def ask(self, client: int, model: type[Model], flip: bool, limit: int | None) -> None:
        rows = self.world.rows

        def at(target: type[Model], key: str | None) -> Values:
            if key not in rows[target]:
                raise Nowhere
            return rows[target][key]

        def true_of(row: Values, predicate: Callable[[Any, Values], bool]) -> bool:
            try:
                return predicate(at, row)
            except Nowhere:
                return False

        for word, operand, predicate in QUESTIONS[model]:
            condition = parse_lookup(model._meta, word, operand)
            query = model.query.filter(~condition if flip else condition).limit(limit)
            wanted = sorted(
                (key for key, row in rows[model].items() if true_of(row, predicate) != flip), key=str.encode
            )
            assert self.run(client, query.keys) == wanted[:limit], word

    @rule(client=clients)
    def follow(self, client: int) -> None:
        """What is prefetched is what is stored."""
        found = self.run(client, Deal.query.prefetch("player__team", "team").all)
        for deal in found:
            row = self.world.rows[Deal][deal.db_key.redis_key]
            assert values_of(deal) == row
            target = self.world.rows[Player].get(row["player"])
            if target is not None:
                assert values_of(deal.player) == target

    @invariant()
    def keys_are_those_that_the_rows_imply(self) -> None:
        assert_true(self.server, MODELS, self.world.rows)


def test_any_sequence(clean_server: Server) -> None:
    run_machine(Relations, 40, server=clean_server)


def test_the_world_knows_the_relations() -> None:
    assert set(RELATIONS) == {
        (Team, "parent"), (Team, "rival"), (Player, "team"), (Player, "boss"), (Deal, "player"), (Deal, "team"),
    }  # fmt: skip
