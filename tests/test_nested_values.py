"""Containers of anything, in the record and in lists beside it: what went in comes out, of the same types."""

from __future__ import annotations

import asyncio
from datetime import UTC, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from popoto_async import DefinitionError, DictField, Field, KeyField, ListField, Model, SetField, TupleField, connect
from popoto_async.codec import pack, unpack
from tests.examples import examples
from tests.model_of_store import assert_true
from tests.servers import Server


class Box(Model):
    name: str = KeyField()
    things = SetField()
    pair = TupleField()
    table = DictField()
    row = ListField()
    newest = ListField(max_length=3)
    size: int = Field(default=0)


zones = st.sampled_from([UTC, timezone(timedelta(hours=-3, minutes=-30)), timezone(timedelta(seconds=1))])
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(st.characters(codec="utf-8")),
    st.binary(), st.decimals(allow_nan=False), st.datetimes(), st.datetimes(timezones=zones), st.dates(),
    st.times(), st.uuids(),
)  # fmt: skip
hashable = st.recursive(
    scalars, lambda inner: st.one_of(st.tuples(inner, inner), st.frozensets(inner, max_size=3)), max_leaves=6
)
nested = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner),
        st.dictionaries(hashable, inner, max_size=3),
        st.sets(hashable, max_size=3),
    ),
    max_leaves=12,
)


def typed(value: Any) -> Any:
    """A value with the type of everything in it."""
    kind = type(value)
    if kind in (list, tuple):
        return kind, [typed(item) for item in value]
    if kind is dict:
        return kind, sorted((repr(typed(key)), typed(item)) for key, item in value.items())
    if kind in (set, frozenset):
        return kind, sorted(repr(typed(item)) for item in value)
    if hasattr(value, "fold"):  # means nothing without the zone, and ISO 8601 has no word for it
        value = value.replace(fold=0)
    return kind, repr(value)


slow = examples(60)


@given(value=nested)
@examples(500)
def test_a_value_comes_back_as_it_was(value: Any) -> None:
    assert typed(unpack(pack(value))) == typed(value)


@given(values=st.sets(hashable, max_size=5), data=st.data())
@examples(200)
def test_equal_sets_are_stored_alike(values: set[Any], data: Any) -> None:
    """Whatever the order in which they were filled: else a set that didn't change would count as changed."""
    again = set(data.draw(st.permutations(list(values))))
    assert pack(again) == pack(values)
    assert pack(unpack(pack(values))) == pack(values)


@given(things=st.sets(hashable, max_size=3), inner=nested, table=st.dictionaries(hashable, nested, max_size=3))
@slow
def test_records_of_containers(clean_server: Server, things: set[Any], inner: Any, table: dict[Any, Any]) -> None:
    values = {"things": things, "pair": (inner, inner), "table": table, "row": [inner], "newest": [inner, table]}

    async def work() -> None:
        async with connect(clean_server.unix_url):
            box = await Box.create(name="a", **values)
            await box.newest.push(inner)
            for found in (await Box.query.get_or_raise(name="a"), (await Box.query.values())[0]):
                read = found if isinstance(found, dict) else found.to_dict()
                assert {name: typed(read[name]) for name in values} == {
                    **{name: typed(value) for name, value in values.items()},
                    "newest": typed([inner, inner, table]),
                }
            # What was only read is not taken for changed.
            other = await Box.query.get_or_raise(name="a")
            box.things, box.pair, box.table, box.row, box.newest = {1}, (2,), {3: 4}, [5], [6]
            await box.save()
            other.size = 7
            await other.save()
            await box.refresh()
            assert (box.things, box.pair, box.table, box.row, box.newest, box.size) == (
                {1}, (2,), {3: 4}, [5], [6], 7,
            )  # fmt: skip

    asyncio.run(work())


@pytest.mark.parametrize(
    ("values", "change"),
    [
        ({"things": {1}}, lambda box: box.things.add(2)),
        ({"things": {(1, 2)}}, lambda box: box.things.discard((1, 2))),
        ({"pair": ([1], {})}, lambda box: box.pair[0].append(2)),
        ({"pair": ([1], {})}, lambda box: box.pair[1].update(x={1})),
        ({"table": {"deep": [{"er": {1}}]}}, lambda box: box.table["deep"][0]["er"].add(2)),
        ({"table": {"a": 1}}, lambda box: box.table.pop("a")),
        ({"row": [[]]}, lambda box: box.row[0].append(None)),
        ({"newest": [[]]}, lambda box: box.newest[0].append(None)),
    ],
)
@pytest.mark.anyio
async def test_changes_in_place_are_stored(clean_server: Server, values: Any, change: Any) -> None:
    async with connect(clean_server.url):
        await Box.create(name="a", **values)
        box = await Box.query.get_or_raise(name="a")
        change(box)
        await box.save()
        again = await Box.query.get_or_raise(name="a")
        (name,) = values
        assert getattr(again, name) == getattr(box, name) != values[name]


@pytest.mark.anyio
async def test_empty_is_not_null(clean_server: Server) -> None:
    async with connect(clean_server.url):
        empty = {"things": set(), "pair": (), "table": {}, "row": []}
        await Box.create(name="empty", **empty)
        await Box.create(name="null")
        found = {box.name: box for box in await Box.query.all()}
        assert {name: getattr(found["empty"], name) for name in empty} == empty
        assert {name: getattr(found["null"], name) for name in empty} == dict.fromkeys(empty)
        found["empty"].table = None
        await found["empty"].save()
        assert (await Box.query.get_or_raise(name="empty")).table is None


def test_one_kind_is_not_taken_for_another() -> None:
    box = Box(name="a", things=[1], pair=[1], table=[1], row=(1,), newest=(1,))
    assert set(box.errors()) == {"things", "pair", "table", "row", "newest"}
    box = Box(name="a", things=frozenset({1}))
    assert set(box.errors()) == {"things"}


@pytest.mark.parametrize(
    ("kind", "default"),
    [
        (SetField, {1}),
        (SetField, set()),
        (DictField, {}),
        (ListField, []),
        (TupleField, ([],)),
        (TupleField, ((1, {}),)),
    ],
)
def test_a_default_that_would_be_shared_is_refused(kind: Any, default: Any) -> None:
    with pytest.raises(DefinitionError, match="shared by all instances"):
        type("Wrong", (Model,), {"name": KeyField(), "value": kind(default=default)})


@pytest.mark.anyio
async def test_defaults_and_choices(clean_server: Server) -> None:
    class Choosy(Model):
        name: str = KeyField()
        flags = SetField(default=lambda: {"a"}, choices=[{"a"}, {"a", "b"}, set()])
        span = TupleField(default=(1, (2,)), choices=[(1, (2,)), ()])
        row = ListField(default=list, choices=[[], [1]])

    async with connect(clean_server.url):
        one, two = Choosy(name="1"), Choosy(name="2")
        one.flags.add("b")
        one.row.append(1)
        assert (two.flags, two.row) == ({"a"}, [])
        await asyncio.gather(one.save(), two.save())
        assert {found.name: found.flags for found in await Choosy.query.all()} == {"1": {"a", "b"}, "2": {"a"}}
        one.flags.add("c")
        one.row.append(1)
        one.span = (1, [2])
        assert set(one.errors()) == {"flags", "row", "span"}


@pytest.mark.anyio
async def test_the_keyspace_of_containers(clean_server: Server) -> None:
    class Bag(Model):
        name: str = KeyField()
        row: list[int] | None = ListField()
        newest = ListField(max_length=3)

    async with connect(clean_server.url):
        await Bag.create(name="a", row=[1, 2], newest=[3])
        assert_true(clean_server, [Bag], {Bag: {"Bag:a": {"name": "a", "row": [1, 2], "newest": [3]}}})
