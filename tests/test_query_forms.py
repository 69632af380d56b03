"""Every form of a query against a plain Python predicate over the rows, for random trees, on both servers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from popoto_async import (
    Database,
    DatabaseError,
    InvalidLookup,
    KeyField,
    MissingPartition,
    Model,
    Q,
    SortedField,
    UnindexedFilterWarning,
    connect,
    trace,
)
from tests import servers
from tests.examples import examples
from tests.model_of_store import Rows, Values, assert_true, ordered, record_key, values_of
from tests.random_queries import Chosen, chosen
from tests.servers import Server
from tests.test_select import MOMENT, QUERIED, ROWS, Item, collections, run, store

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore::popoto_async.UnindexedFilterWarning")]

ORDERS = ["size", "moment", "label", "code", "colour", "number"]
questions = chosen(Item, QUERIED, ORDERS)


def codes(found: list[Any]) -> list[str]:
    return [one.code for one in found]


async def check(question: Chosen, rows: Rows, some: list[Any]) -> None:
    """Every form of one question."""
    keys, query = question.answer(rows), question.query()
    expected = [rows[key]["code"] for key in keys]
    async with trace() as traced:
        found, values, listed, count, exists, first = await asyncio.gather(
            query, query.values("code", "size"), query.keys(), query.count(), query.exists(), query.first()
        )
    assert len(traced.operations) <= 6, "one of them went on in a second call"
    assert [values_of(one) for one in found] == [rows[key] for key in keys], question
    assert values == [{"code": rows[key]["code"], "size": rows[key]["size"]} for key in keys], question
    assert (listed, count, exists) == (keys, len(keys), bool(keys)), question
    assert (first and first.code) == (expected[0] if keys else None), question
    last = await query.last()
    assert (last and last.code) == (expected[-1] if keys else None), question
    assert [one.code async for one in query] == expected, question
    assert codes(await query[1:3]) == expected[1:3], question
    many = await question.narrowed().in_bulk([*some, "Item:nowhere:1"])
    present = set(question.sequence(rows))
    wanted = [key for key in some if (key if isinstance(key, str) else record_key(Item, _named(key))) in present]
    assert list(many) == wanted, question
    assert all(values_of(one) in rows.values() for one in many.values())


def _named(key: tuple[Any, ...]) -> Values:
    return {"shop": key[0], "number": key[1]}


@examples(60)
@given(rows=collections(), asked=st.lists(questions, min_size=6, max_size=9), data=st.data())
def test_every_form(clean_server: Server, rows: Rows, asked: list[Chosen], data: st.DataObject) -> None:
    known = [*rows, *((row["shop"], row["number"]) for row in rows.values())]
    some = data.draw(st.lists(st.sampled_from(known), unique=True, max_size=8)) if known else []

    async def work() -> None:
        for question in asked:
            await check(question, rows, some)

    run(clean_server, rows, work)


# Changes -------------------------------------------------------------------------------------------------------------

CHANGED = {name: QUERIED[name] for name in ("shop", "colour", "size", "price", "weight", "moment", "label", "sold")}
changes = st.lists(st.sampled_from(sorted(CHANGED)), min_size=1, max_size=3, unique=True).flatmap(
    lambda names: st.fixed_dictionaries({name: CHANGED[name] for name in names})
)


@examples(60)
@given(
    rows=collections(), asked=st.lists(st.tuples(questions, changes), min_size=1, max_size=4), chunk=st.integers(1, 7)
)
def test_updates(
    clean_server: Server, monkeypatch: pytest.MonkeyPatch, rows: Rows, asked: list[tuple[Chosen, Values]], chunk: int
) -> None:
    """Also of what the query is filtered, ordered and chunked by, the key included: each record is met once."""
    monkeypatch.setattr("popoto_async.queries.changing.CHUNK", chunk)

    async def work() -> None:
        stored = dict(rows)
        for question, values in asked:
            keys = question.answer(stored)
            assert await question.query().update(**values) == len(keys), (question, values)
            changed = [{**stored.pop(key), **values} for key in keys]
            stored.update((record_key(Item, row), row) for row in changed)
            assert_true(clean_server, [Item], {Item: stored})

    run(clean_server, rows, work)


@examples(40)
@given(rows=collections(), asked=st.lists(questions, min_size=1, max_size=4), chunk=st.integers(1, 7))
def test_deletes(
    clean_server: Server, monkeypatch: pytest.MonkeyPatch, rows: Rows, asked: list[Chosen], chunk: int
) -> None:
    monkeypatch.setattr("popoto_async.queries.changing.CHUNK", chunk)

    async def work() -> None:
        stored = dict(rows)
        for question in asked:
            keys = question.answer(stored)
            assert await question.query().delete() == len(keys), question
            for key in keys:
                del stored[key]
            assert_true(clean_server, [Item], {Item: stored})

    run(clean_server, rows, work)


# Q and exclude -------------------------------------------------------------------------------------------------------


async def test_a_q_of_nothing_says_nothing(db: Database) -> None:
    await store(ROWS)
    everything = await Item.query.keys()
    asks: list[Q] = [Q(), ~Q(), Q() & Q(), Q() | ~Q(), Q(Q(), Q())]
    for ask in asks:
        assert await Item.query.filter(ask).keys() == await Item.query.exclude(ask).keys() == everything
    assert await Item.query.exclude().keys() == everything
    red = await Item.query.filter(colour="red").keys()
    some = Q()
    for colour in ("red", "green"):
        some |= Q(colour=colour)
    for ask in (some, Q() & Q(colour="red"), Q() | Q(colour="red"), ~~Q(colour="red"), Q(Item.colour == "red")):
        assert await Item.query.filter(ask).keys() == red


async def test_exclude_is_not_all_of_it(db: Database) -> None:
    """And a null, which equals nothing, is kept."""
    await store(ROWS)
    for query in (Item.query.exclude(colour="red", sold=True), Item.query.exclude(Item.colour == "red", sold=True)):
        found = await query.keys()
        assert found == sorted(key for key, row in ROWS.items() if not (row["colour"] == "red" and row["sold"] is True))
    kept = await Item.query.exclude(colour="red").values("colour")
    assert {row["colour"] for row in kept} == {None, "blue"}
    assert await Item.query.exclude(label="x").exclude(label__isnull=True).count() == 20


def test_partitions_of_branches() -> None:
    """Each branch of | says its own, or the query before it does; a Q is checked when a query takes it."""
    cheap = Q(price__lt=1)
    refused: list[Callable[[], Any]] = [
        lambda: Item.query.filter(cheap), lambda: Item.query.filter(cheap | Q(shop="a")),
        lambda: Item.query.filter(Q(shop="a") | (Q(colour="red") & cheap)), lambda: Item.query.exclude(cheap),
        lambda: Item.query.filter(~Q(shop="a"), cheap), lambda: Item.query.filter((Q(shop="a") & cheap) | cheap),
    ]  # fmt: skip
    for ask in refused:
        with pytest.raises(MissingPartition, match="shop"):
            ask()
    Item.query.filter(shop="a").filter(cheap | ~cheap)
    Item.query.filter(Q(shop="a"), cheap).order_by("price")
    Item.query.filter((Q(shop="a") & cheap) | Q(Q(price__gt=2), shop="b"))
    Item.query.exclude(cheap, shop="a")
    Item.query.filter(Q() | Q(shop="a"), price__gt=1)


def test_a_q_that_cannot_be() -> None:
    wrong: list[Q] = [Q(nothing=1), Q(colour="red") | Q(colour__lt="a"), ~Q(size="5"), Q(True), Q(limit=5)]
    for asked in wrong:
        with pytest.raises(InvalidLookup):
            Item.query.filter(asked)
        with pytest.raises(InvalidLookup):
            Item.query.exclude(asked)
    with pytest.raises(InvalidLookup, match="truth value"):
        bool(Q(colour="red"))


async def test_an_unindexed_branch_warns(db: Database) -> None:
    with pytest.warns(UnindexedFilterWarning, match=r"Item\.label") as caught:
        await Item.query.filter(Q(label="x") | Q(colour="red")).count()
    assert caught[0].filename == __file__


# One range -----------------------------------------------------------------------------------------------------------


class Gauge(Model):
    name = KeyField()
    value: float = SortedField(default=0.0)


async def test_ranges_that_meet_cost_what_is_in_them(db: Database) -> None:
    """However many filter() calls a window is said in, and whether it is empty."""
    await Gauge.create_many({"name": f"{i:04}", "value": float(i)} for i in range(3000))
    for query in (
        Gauge.query.filter(value__gte=1500.0).filter(value__lt=1503.0),
        Gauge.query.filter(Q(value__gte=1500.0) & Q(value__lt=1503.0), Gauge.value > 5),
        Gauge.query.filter(value__between=(0, 1502)).filter(value__gte=1500).filter(value__gt=1499),
    ):
        explained = await query.explain()
        assert (explained.rows, explained.examined) == (3, 3)
        assert [one.value for one in await query] == [1500.0, 1501.0, 1502.0]
    assert [one.value for one in await Gauge.query.filter(value__gt=3).filter(value__gte=3, value__lt=5)] == [4.0]
    empty = Q(value__gt=5.0, value__lt=1.0)
    assert await Gauge.query.filter(empty).count() == 0
    assert await Gauge.query.filter(empty | Q(value=7.0)).count() == 1
    assert [one.value for one in await Gauge.query.filter(empty | Q(value=7.0))] == [7.0]
    await Gauge.create(name="5", value=5.0)
    assert await Gauge.query.filter(empty, name__in=["5", "6"]).keys() == []
    assert await Gauge.query.filter(Gauge.value.between(5.0, 1.0), name="5").count() == 0
    assert await Gauge.query.filter(Q(value__lt=2.0) | empty | Q(name="0009")).count() == 3


# in_bulk -------------------------------------------------------------------------------------------------------------


async def test_in_bulk_refuses_what_can_be_no_key(db: Database) -> None:
    for wrong in ("Gauge:\ud800", "\ud800"):
        with pytest.raises(InvalidLookup):
            await Gauge.query.in_bulk([wrong])


async def test_in_bulk_takes_what_names_a_record(db: Database) -> None:
    await Gauge.create_many({"name": name, "value": 1.0} for name in ("a", "b:", "Gauge:a", "c"))
    found = await Gauge.query.in_bulk(["b:", "a", "nobody", "Gauge:a", ("Gauge:a",), "a"])
    assert {key: one.name for key, one in found.items()} == {
        "b:": "b:", "a": "a", "Gauge:a": "a", ("Gauge:a",): "Gauge:a"
    }  # fmt: skip
    assert list(found) == ["b:", "a", "Gauge:a", ("Gauge:a",)]
    keys = await Gauge.query.keys()
    assert list(await Gauge.query.in_bulk(keys)) == keys
    assert await Gauge.query.in_bulk([]) == {}
    assert list(await Gauge.query.filter(value__gt=1).in_bulk(keys)) == []
    assert await Gauge.query.values("value").in_bulk(["a"]) == {"a": {"value": 1.0}}
    wrong: list[Any] = ["a", 5, [("a", "b")], [5]]
    for keys in wrong:
        with pytest.raises(InvalidLookup):
            await Gauge.query.in_bulk(keys)
    with pytest.raises(InvalidLookup, match="limit"):
        await Gauge.query.limit(3).in_bulk(["a"])


async def test_in_bulk_is_one_trip_for_each_chunk(db: Database) -> None:
    await store(ROWS)
    await Gauge.create_many({"name": f"{i:04}", "value": float(i)} for i in range(250))
    async with trace() as traced:
        found = await Gauge.query.in_bulk([f"{i:04}" for i in range(300)])
    assert (len(found), traced.round_trips) == (250, 3)
    async with trace() as traced:
        assert len(await Gauge.query.filter(value__gte=100).in_bulk([f"{i:04}" for i in range(110)])) == 10
    assert traced.round_trips == 2
    assert (await Item.query.in_bulk([("a", 4)]))[("a", 4)].moment >= MOMENT


# Read-only -----------------------------------------------------------------------------------------------------------


async def read_everything() -> None:
    """Every form that reads, of queries with every kind of plan."""
    trees: list[Any] = [
        Q(colour="red") | ~Q(size__gte=3), Q(shop="a", price__lt=1) & ~Q(sold=True), Q(label="x", colour="red"), Q(),
        Q(code__in=["c1", "c2"]) | Q(moment__gt=MOMENT), ~Q(colour__isnull=True),
    ]  # fmt: skip
    for tree in trees:
        for by in (["-size", "code"], ["moment"], ["label"], []):
            query = Item.query.filter(tree).order_by(*by)
            expected = await query.keys()
            assert await query.count() == len(expected)
            assert await query.exists() is bool(expected)
            first, last = await query.first(), await query.last()
            assert [one and one.db_key.redis_key for one in (first, last)] == [*expected[:1], *expected[-1:]]
            shown, cursor = [], None
            while True:
                page = await query.page(9, cursor)
                shown += [one.db_key.redis_key for one in page]
                cursor = page.cursor
                if cursor is None:
                    break
            assert shown == expected
            assert (await query.explain()).rows == len(expected)
            assert set(await query.in_bulk(expected)) == set(expected)


async def test_reading_writes_nothing(db: Database, clean_server: Server) -> None:
    await store(ROWS)
    await Item.query.count()
    with servers.count_commands(clean_server) as counted:
        await read_everything()
    assert counted.calls["evalsha_ro"] == counted.round_trips
    assert set(counted.calls) & {"evalsha", "eval", "set", "zadd", "zrem", "hset", "del", "zinterstore"} == set()


async def test_reading_at_maxmemory(db: Database, clean_server: Server) -> None:
    await store(ROWS)
    clean_server.client.config_set("maxmemory", "1")
    await read_everything()


async def test_reading_on_a_replica(db: Database, clean_server: Server) -> None:
    await store(ROWS)
    with servers.replica_of(clean_server) as replica:
        async with connect(replica.url):
            await read_everything()
            with pytest.raises(DatabaseError, match=r"replica|READONLY|read only"):
                await Item.query.update(colour="green")


async def test_reading_leaves_the_append_only_file_as_it_was(
    server: Server, start_server: Callable[..., Server]
) -> None:
    """Byte for byte."""
    own = start_server(server.kind, appendonly="yes", appendfsync="always")

    def written() -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in sorted((own.folder / "appendonlydir").iterdir())}

    async with connect(own.url):
        await store(ROWS)
        before = written()
        assert any(b"Item:a:0" in content for content in before.values())
        await read_everything()
        assert written() == before


# Many records --------------------------------------------------------------------------------------------------------


async def test_more_than_one_call_can_examine(db: Database, clean_server: Server) -> None:
    """Trees over 2,500 records: the parts of several calls make the same answer, and so do pages."""
    rows: Rows = {}
    for number in range(2500):
        row: Values = {
            **next(iter(ROWS.values())), "number": number, "code": f"c{number}", "part": None, "size": number % 97,
            "label": f"l{number % 11}", "colour": [None, "red", "blue"][number % 3], "sold": number % 2 == 0,
        }  # fmt: skip
        rows[record_key(Item, row)] = row
    await store(rows)
    red, small = Q(colour="red"), Q(size__lt=20)
    asked: list[tuple[Q, Callable[[Values], bool]]] = [
        (red | small, lambda row: row["colour"] == "red" or row["size"] < 20),
        (~red & ~small, lambda row: row["colour"] != "red" and row["size"] >= 20),
        (~(red | Q(sold=True)) | Q(label="l3"),
         lambda row: not (row["colour"] == "red" or row["sold"]) or row["label"] == "l3"),
        (red & ~Q(sold=True), lambda row: row["colour"] == "red" and not row["sold"]),
    ]  # fmt: skip
    for tree, accepts in asked:
        for by in (["code"], ["-size"], ["label", "-size"]):
            expected = ordered({key: row for key, row in rows.items() if accepts(row)}, by)
            query = Item.query.filter(tree).order_by(*by)
            assert await query.keys() == expected
            assert await query.count() == len(expected)
            page = await query.page(50)
            second = await query.page(700, page.cursor)
            assert [one.db_key.redis_key for one in [*page, *second]] == expected[:750]
    assert await Item.query.filter(red | small).order_by("-size").offset(7).limit(900).update(colour="blue") == 900
    kept = {key: row for key, row in rows.items() if row["colour"] == "red" or row["size"] < 20}
    for key in ordered(kept, ["-size"])[7:907]:
        rows[key]["colour"] = "blue"
    assert_true(clean_server, [Item], {Item: rows})
    assert await Item.query.exclude(Q(colour="blue") | small).delete() == sum(
        not (row["colour"] == "blue" or row["size"] < 20) for row in rows.values()
    )
