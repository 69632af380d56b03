"""Conditions on what references lead to, to any depth, in any tree: what the same predicate finds in plain Python."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from popoto_async import (
    Database,
    Field,
    IndexedField,
    KeyField,
    Model,
    Relationship,
    SortedField,
    UnindexedFilterWarning,
    UniqueField,
    connect,
    trace,
)
from popoto_async.expressions import Expression
from popoto_async.planning import read
from tests.examples import examples
from tests.model_of_store import Rows, Values, holds, ordered
from tests.servers import Server

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore::popoto_async.UnindexedFilterWarning")]


class Owner(Model):
    name: str = KeyField()
    city: str | None = IndexedField()
    age: int | None = SortedField(null=True)
    code: str = UniqueField()


class Place(Model):
    name: str = KeyField()
    cuisine: str | None = IndexedField()
    note: str | None = Field()
    owner = Relationship(Owner, on_delete="DO_NOTHING")
    sister = Relationship("self", on_delete="DO_NOTHING")


class Visit(Model):
    number: int = KeyField()
    mood: str | None = IndexedField()
    price: int = SortedField()
    place = Relationship(Place, on_delete="DO_NOTHING")
    before = Relationship("self", on_delete="DO_NOTHING")


LEADS = {(Place, "owner"): Owner, (Place, "sister"): Place, (Visit, "place"): Place, (Visit, "before"): Visit}
few = st.sampled_from
OPERANDS: dict[type[Model], dict[str, Any]] = {
    Owner: {
        "name": few("abcx"), "city": few([None, "Bonn", "Rome"]), "age": few([None, 1, 2, 2**60, 2**60 + 1]),
        "code": few("abc"),
    },
    Place: {
        "name": few("abcdx"), "cuisine": few([None, "Thai", "Lao"]), "note": few([None, "n"]),
        "owner": few([None, "Owner:a", "Owner:b", "Owner:x"]), "sister": few([None, "Place:a", "Place:x"]),
    },
    Visit: {
        "number": few([1, 2, 3]), "mood": few([None, "good"]), "price": few([1, 2, 3]),
        "place": few([None, "Place:a", "Place:b", "Place:x"]), "before": few([None, "Visit:1", "Visit:2"]),
    },
}  # fmt: skip
RANGED = {"age", "price"}


def tree(model: type[Model]) -> st.SearchStrategy[Any]:
    """A tree of (operator, children) over (relations, model, name, lookup, operand)."""
    return st.recursive(leaf(model, ()), lambda inner: (
        st.tuples(few(["and", "or"]), st.lists(inner, min_size=1, max_size=3)) | st.tuples(st.just("not"), inner)
    ), max_leaves=6)  # fmt: skip


@st.composite
def leaf(draw: Any, model: type[Model], path: tuple[str, ...]) -> Any:
    for _ in range(draw(st.integers(0, 3))):
        steps = sorted(name for owner, name in LEADS if owner is model)
        if steps:
            path = (*path, draw(few(steps)))
            model = LEADS[model, path[-1]]
    name = draw(few(sorted(OPERANDS[model])))
    operands = OPERANDS[model][name]
    lookup = draw(few(["eq", "in", "isnull", *(["lt", "gte"] if name in RANGED else [])]))
    operand = draw(
        st.booleans() if lookup == "isnull"
        else st.lists(operands.filter(lambda found: found is not None), max_size=2) if lookup == "in"
        else operands if lookup == "eq" and name not in ("code", "name", "number", "price")
        else operands.filter(lambda found: found is not None)
    )  # fmt: skip
    return ("leaf", (path, name, lookup, operand))


def asked(model: type[Model], node: Any) -> Expression:
    """The tree as the library is asked."""
    kind, rest = node
    if kind == "leaf":
        path, name, lookup, operand = rest
        word = "__".join((*path, name, *([] if lookup == "eq" else [lookup])))
        return read.parse_lookup(model._meta, word, operand)
    if kind == "not":
        return ~asked(model, rest)
    found = asked(model, rest[0])
    for child in rest[1:]:
        found = found & asked(model, child) if kind == "and" else found | asked(model, child)
    return found


def has_range(node: Any) -> bool:
    """Whether a leaf asks for a range of the visit's own price."""
    kind, rest = node
    if kind == "leaf":
        path, name, lookup, _ = rest
        return not path and name == "price" and lookup in ("lt", "gte")
    return any(has_range(child) for child in ([rest] if kind == "not" else rest))


World = dict[type[Model], Rows]


def true_of(world: World, model: type[Model], row: Values, node: Any) -> bool:
    """The tree as a predicate over rows. What leads nowhere satisfies nothing."""
    kind, rest = node
    if kind == "not":
        return not true_of(world, model, row, rest)
    if kind != "leaf":
        return (all if kind == "and" else any)(true_of(world, model, row, child) for child in rest)
    path, name, lookup, operand = rest
    for step in path:
        model, key = LEADS[model, step], row[step]
        if key not in world[model]:
            return False
        row = world[model][key]
    return holds(row, name, lookup, operand)


@st.composite
def worlds(draw: Any) -> World:
    def rows(model: type[Model], names: list[Any]) -> Rows:
        first = next(iter(OPERANDS[model]))
        return {
            f"{model.__name__}:{name}": {
                first: name,
                **{other: draw(choice) for other, choice in OPERANDS[model].items() if other != first},
            }
            for name in names
        }

    found = {Owner: rows(Owner, list("abc")), Place: rows(Place, list("abcd")), Visit: rows(Visit, list(range(12)))}
    for number, row in enumerate(found[Owner].values()):
        row["code"] = "abc"[number]
    return found


@given(
    world=worlds(), nodes=st.lists(tree(Visit), min_size=3, max_size=8), order=few([(), ("price",), ("-price",)]),
    page=st.tuples(st.integers(0, 3), st.none() | st.integers(0, 4)), budget=few([2000, 3]),
)  # fmt: skip
@examples(40)
def check_trees(
    server: Server, patch: pytest.MonkeyPatch, world: World, nodes: list[Any], order: tuple[str, ...],
    page: tuple[int, int | None], budget: int,
) -> None:  # fmt: skip
    async def work() -> None:
        async with connect(server.url):
            await asyncio.gather(*(model.create(**row) for model, rows in world.items() for row in rows.values()))
            for node in nodes:
                # One range alone orders by its field; that is said here, so that both sides order alike.
                fields = order or (("price",) if has_range(node) else ())
                query = Visit.query.filter(asked(Visit, node)).order_by(*fields)
                rows = {key: row for key, row in world[Visit].items() if true_of(world, Visit, row, node)}
                keys = ordered(rows, fields)
                offset, limit = page
                assert await query.keys() == keys, node
                assert await query.offset(offset).limit(limit).keys() == keys[offset:][:limit], node
                assert await query.count() == len(keys), node

    server.client.flushall()
    with patch.context() as patched:
        patched.setattr(read, "BUDGET", budget)
        patched.setattr(read, "COUNT_BUDGET", budget)
        asyncio.run(work())


def test_random_trees_agree_with_python(clean_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    check_trees(clean_server, monkeypatch)


async def test_conditions_through_one_reference_are_about_one_record(db: Database) -> None:
    for name, city, age in (("a", "Bonn", 1), ("b", "Rome", 2)):
        await Owner.create(name=name, city=city, age=age, code=name)
        await Place.create(name=name, owner=f"Owner:{name}")
    assert await Place.query.filter(owner__city="Bonn", owner__age=2).keys() == []
    assert await Place.query.filter(owner__city="Bonn").filter(owner__age__lt=2).keys() == ["Place:a"]
    assert await Place.query.filter(owner__name__in=["b"], owner__age__gte=2, owner__code="b").keys() == ["Place:b"]


async def furnish(visits: int, places: int) -> None:
    await Owner.create_many({"name": str(n), "city": "Bonn" if n % 2 else "Rome", "code": str(n)} for n in range(20))
    await Place.create_many(
        {"name": f"{n:04}", "cuisine": "Thai" if n % 100 == 0 else "Lao", "owner": f"Owner:{n % 20}"}
        for n in range(places)
    )
    await Visit.create_many({"number": n, "price": n, "place": f"Place:{n % places:04}"} for n in range(visits))


async def test_few_targets_drive_the_query_and_many_are_looked_up(db: Database) -> None:
    """700 places are more than are gathered before a query begins; either way the rows are those of a comprehension."""
    await furnish(3000, 700)
    everything = range(3000)
    wanted = sorted((f"Visit:{n}" for n in everything if n % 700 % 100 == 0), key=str.encode)
    async with trace() as spent:
        assert await Visit.query.filter(place__cuisine="Thai").keys() == wanted
    assert spent.round_trips == 1
    async with trace() as spent:
        page = await Visit.query.filter(place__cuisine="Lao").order_by("-price").limit(10)
    assert spent.round_trips == 1
    assert [one.number for one in page] == [n for n in reversed(everything) if n % 700 % 100][:10]
    found = await Visit.query.filter(place__owner__city="Bonn").keys()
    assert found == sorted((f"Visit:{n}" for n in everything if n % 700 % 20 % 2), key=str.encode)
    assert await Visit.query.filter(place__owner__city="Bonn", place__cuisine="Thai").count() == 0
    assert await Visit.query.filter(place__owner__name="3", price__lt=300).count() == 15


async def test_a_query_through_references_waits_for_the_writes_before_it(db: Database) -> None:
    await furnish(10, 5)
    place = await Place.load(name="0003")
    assert place is not None
    before, _, after = await asyncio.gather(
        Visit.query.filter(place__cuisine="Thai").keys(),
        Place.create(name="0003", cuisine="Thai", note="x" * 1000),
        Visit.query.filter(place__cuisine="Thai").keys(),
    )
    assert before == ["Visit:0", "Visit:5"]
    assert after == ["Visit:0", "Visit:3", "Visit:5", "Visit:8"]


async def test_an_unindexed_condition_on_a_target_warns(db: Database) -> None:
    with pytest.warns(UnindexedFilterWarning, match="place__note"):
        await Visit.query.filter(place__note="n")
    await Visit.query.filter(place__note="n", place__name="a")
