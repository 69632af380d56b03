"""Queries against list comprehensions over the same rows, on both servers: every lookup and form, in one round trip."""

from __future__ import annotations

import asyncio
import operator
import warnings
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from math import radians
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from popoto_async import (
    Database,
    Field,
    GeoField,
    IndexedField,
    InvalidLookup,
    KeyField,
    MissingPartition,
    Model,
    MultipleResults,
    NotFound,
    SortedField,
    SortedKeyField,
    UnindexedFilterWarning,
    UniqueField,
    connect,
    trace,
)
from tests import servers
from tests.examples import examples
from tests.model_of_store import (
    RADIUS,
    TEXT_LOOKUPS,
    UNITS,
    Rows,
    Values,
    distance,
    holds,
    ordered,
    record_key,
    values_of,
)
from tests.random_queries import Asked, asked, lookups_of, pieces, trees_of
from tests.servers import Server

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore::popoto_async.UnindexedFilterWarning")]

BIG = 2**60
MOMENT = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
FAR = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


class Item(Model):
    shop: str = KeyField()
    number: int = KeyField()
    code: str = UniqueField()
    colour: str | None = IndexedField()
    size: int | None = SortedField(null=True)
    price: Decimal = SortedField(partition_by="shop")
    weight: float | None = SortedField(null=True, partition_by=("colour", "shop"))
    moment: datetime = SortedField()
    label: str | None = Field()
    sold: bool | None = IndexedField()
    part: int | None = Field()

    class Meta:
        unique_together = (("shop", "part"),)
        indexes = ((("colour", "sold"), False),)


class Spot(Model):
    name: str = KeyField()
    kind: str | None = IndexedField()
    place = GeoField(null=True)


few = st.sampled_from
OPERANDS: dict[str, Any] = {
    "shop": few(["a", "b:", "%null", "🦊"]),
    "number": st.integers(0, 30),
    "code": st.integers(0, 30).map("c{}".format),
    "colour": few([None, "red", "blue", "None", "*"]),
    "size": few([None, -1, 0, 1, 2**53, 2**53 + 1, BIG, BIG + 1, BIG - 1, -BIG - 1, 10**30]),
    "price": few(
        [Decimal(t) for t in ("0.1", "0.10000000000000000001", "1", "1.00", "-2.5", "1E+3", "999.999", "1E-30")]
    ),
    "weight": few([None, -1.5, -0.0, 0.0, 0.1, 0.30000000000000004, 1e20, float("inf"), float("-inf")]),
    "moment": few(
        [MOMENT, MOMENT + timedelta(microseconds=1), MOMENT - timedelta(days=1), FAR, FAR - timedelta(0, 0, 1)]
    ),
    "label": few([None, "x", "X", "é", "", "null"]),
    "sold": few([None, True, False]),
    "part": few([None]),
}
QUERIED = {name: operands for name, operands in OPERANDS.items() if name != "part"}


@st.composite
def collections(draw: Any) -> Rows:
    """Rows by record key; numbers and codes are unique."""
    rows: Rows = {}
    for number in range(draw(st.integers(0, 25))):
        row = {name: draw(operands) for name, operands in OPERANDS.items()}
        row.update(number=number, code=f"c{number}")
        rows[record_key(Item, row)] = row
    return rows


async def store(rows: Rows, model: type[Model] = Item) -> None:
    summary = await model.create_many(dict(row) for row in rows.values())
    assert summary.failed == 0, summary.failures


def run(server: Server, rows: Rows, work: Callable[[], Any]) -> None:
    """Do the work in a loop of its own, on an emptied server with these rows."""
    server.client.flushall()

    async def main() -> None:
        async with connect(server.unix_url):
            await store(rows)
            await work()

    asyncio.run(main())


async def check(question: Asked, rows: Rows) -> None:
    """Every form of one query, each in one round trip."""
    keys, query = question.answer(rows), question.query()
    async with trace() as traced:
        found = await query
    assert len(traced.operations) == traced.round_trips == 1
    async with trace() as traced:
        found_keys, count, exists, first, values = await asyncio.gather(
            query.keys(), query.count(), query.exists(), query.first(), query.values("code", "size")
        )
    assert len(traced.operations) <= 5, "one of them went on in a second call"
    assert found_keys == keys, question
    assert [values_of(one) for one in found] == [rows[key] for key in keys], question
    assert (count, exists) == (len(keys), bool(keys)), question
    assert (first and first.code) == (rows[keys[0]]["code"] if keys else None), question
    assert values == [{"code": rows[key]["code"], "size": rows[key]["size"]} for key in keys], question
    last = await query.last()
    assert (last and last.code) == (rows[keys[-1]]["code"] if keys else None), question
    assert [one.code async for one in query] == [rows[key]["code"] for key in keys], question


@examples(70)
@given(rows=collections(), questions=st.lists(asked(Item, QUERIED), min_size=8, max_size=12))
def test_conjunctions(clean_server: Server, rows: Rows, questions: list[Asked]) -> None:
    async def work() -> None:
        for question in questions:
            await check(question, rows)

    run(clean_server, rows, work)


# Trees of conditions -------------------------------------------------------------------------------------------------

Tree = tuple[Any, Callable[[Values], bool]]
COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "eq": operator.eq, "lt": operator.lt, "lte": operator.le, "gt": operator.gt, "gte": operator.ge,
    "in": lambda field, value: field.in_(value), "isnull": lambda field, value: field.isnull(value),
    "between": lambda field, value: field.between(*value),
    "startswith": lambda field, value: field.startswith(value), "endswith": lambda field, value: field.endswith(value),
    "contains": lambda field, value: field.contains(value),
}  # fmt: skip


@st.composite
def leaves(draw: Any) -> Tree:
    """One condition; on a partitioned field, together with its partition."""
    name = draw(few(sorted(QUERIED)))
    field: Any = getattr(Item, name)
    value = OPERANDS[name].filter(lambda found: found is not None)
    lookup = draw(few(lookups_of(field)))
    operand: Any = draw(OPERANDS[name] if lookup == "eq" else value)
    if lookup == "in":
        operand = draw(st.lists(value, max_size=3))
    elif lookup == "isnull":
        operand = draw(st.booleans())
    elif lookup == "between":
        operand = (operand, draw(value))
    elif lookup in TEXT_LOOKUPS:
        operand = draw(pieces(OPERANDS[name]))
    conditions = [(name, lookup, operand)]
    conditions += [(part, "eq", draw(OPERANDS[part])) for part in getattr(field, "partition", ())]
    expression = None
    for one, how, wanted in conditions:
        condition = COMPARISONS[how](getattr(Item, one), wanted)
        expression = condition if expression is None else expression & condition
    return expression, lambda row: all(holds(row, *condition) for condition in conditions)


trees: st.SearchStrategy[Tree] = trees_of(leaves())
orders = st.lists(few(["size", "-size", "moment", "-moment", "label", "-label", "code", "-code"]), max_size=2)


@examples(70)
@given(
    rows=collections(),
    questions=st.lists(
        st.tuples(trees, st.one_of(st.none(), trees), orders, st.integers(0, 4), st.one_of(st.none(),
        st.integers(0, 9))),
        min_size=8, max_size=12,
    ),
)  # fmt: skip
def test_trees(clean_server: Server, rows: Rows, questions: list[Any]) -> None:
    async def work() -> None:
        for (expression, accepts), more, by, offset, limit in questions:
            query: Any = Item.query.filter(expression)
            chosen = {key: row for key, row in rows.items() if accepts(row)}
            if more is not None:
                query = query.filter(more[0])
                chosen = {key: row for key, row in chosen.items() if more[1](row)}
            query = query.order_by(*by) if by else query.order_by("code")
            keys = ordered(chosen, by or ["code"])
            page = keys[offset : None if limit is None else offset + limit]
            async with trace() as traced:
                found, count = await asyncio.gather(query.offset(offset).limit(limit).keys(), query.count())
            assert len(traced.operations) <= 2, "one of them went on in a second call"
            assert found == page, expression
            assert count == len(keys), expression

    run(clean_server, rows, work)


# Read-only -----------------------------------------------------------------------------------------------------------

ROWS: Rows = {}
for _number in range(60):
    _row: Values = {
        "shop": "ab"[_number % 2], "number": _number, "code": f"c{_number}", "colour": [None, "red",
        "blue"][_number % 3],
        "size": [None, _number % 7, BIG + _number % 3][_number % 3], "price": Decimal(_number % 5) / 2,
        "weight": [None, _number / 8][_number % 2], "moment": MOMENT + timedelta(microseconds=_number % 4),
        "label": [None, "x", "y"][_number % 3], "sold": [None, True, False, True][_number % 4], "part": _number,
    }  # fmt: skip
    ROWS[record_key(Item, _row)] = _row

QUESTIONS = [
    Asked(Item),
    Asked(Item, (("colour", "eq", "red"),), ("-size",), 5, 2),
    Asked(Item, (("size", "gte", BIG), ("size", "lt", BIG + 2), ("colour", "in", ["red", "blue"]))),
    Asked(Item, (("shop", "eq", "a"), ("price", "between", (Decimal(1), Decimal(2)))), ("-price", "code"), 7),
    Asked(Item, (("shop", "eq", "a"), ("colour", "eq", None), ("weight", "isnull", True)), ("-weight",)),
    Asked(Item, (("moment", "gt", MOMENT),), ("-moment",), 10, 5),
    Asked(Item, (("label", "eq", "x"), ("sold", "eq", True)), ("label",)),
    Asked(Item, (("shop", "eq", "a"), ("number", "eq", 4))),
    Asked(Item, (("code", "in", ["c1", "c2", "gone"]),)),
    Asked(Item, (("shop", "eq", "b"), ("part", "eq", 3))),
    Asked(Item, (("code", "startswith", "c1"), ("size", "gte", 1)), ("-size",), 3),
    Asked(Item, (("colour", "contains", "e"), ("shop", "endswith", "a"))),
    Asked(Item, (("shop", "startswith", "b"), ("code", "contains", "2"))),
]


async def test_queries_write_nothing(db: Database, clean_server: Server) -> None:
    await store(ROWS)
    await Item.query.count()
    with servers.count_commands(clean_server) as counted:
        for question in QUESTIONS:
            await check(question, ROWS)
    assert set(counted.calls) & {"evalsha", "eval", "set", "zadd", "zrem", "hset", "del", "zinterstore"} == set()
    assert counted.calls["evalsha_ro"] == counted.round_trips


async def test_queries_at_maxmemory(db: Database, clean_server: Server) -> None:
    await store(ROWS)
    clean_server.client.config_set("maxmemory", "1")
    for question in QUESTIONS:
        await check(question, ROWS)


async def test_queries_on_a_replica(db: Database, clean_server: Server) -> None:
    await store(ROWS)
    with servers.replica_of(clean_server) as replica:
        async with connect(replica.url):
            for question in QUESTIONS:
                await check(question, ROWS)
            assert await Item.load(shop="a", number=4) is not None


async def test_queries_where_the_server_has_no_read_only_scripts(
    db: Database, clean_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("popoto_async.wire.Server.has_read_only_scripts", False)
    await store(ROWS)
    with servers.count_commands(clean_server) as counted:
        for question in QUESTIONS:
            await check(question, ROWS)
    assert counted.calls["evalsha_ro"] == 0
    assert set(counted.calls) & {"set", "zadd", "zrem", "hset", "del"} == set()


# Many records --------------------------------------------------------------------------------------------------------


async def test_more_than_one_call_can_examine(db: Database, clean_server: Server) -> None:
    rows: Rows = {}
    for number in range(3500):
        row: Values = {
            **next(iter(ROWS.values())), "number": number, "code": f"c{number}", "part": None,
            "label": f"l{number % 11}",
            "size": number % 100, "colour": ["red", "blue"][number % 2], "price": Decimal(number % 7),
        }  # fmt: skip
        rows[record_key(Item, row)] = row
    await store(rows)
    questions = [
        Asked(Item, (("label", "eq", "l3"),)), Asked(Item, (("label", "eq", "l3"),), ("-size", "code")),
        Asked(Item, (("label", "isnull", True),)), Asked(Item, (), ("label",), 40, 1000), Asked(Item, (),
        ("-size",), None),
        Asked(Item, (("colour", "eq", "red"), ("label", "in", ["l1", "l2"])), ("size",), 30, 100),
        Asked(Item, (("size", "gte", 95),)), Asked(Item),
    ]  # fmt: skip
    for question in questions:
        keys, query = question.answer(rows), question.query()
        found, count, exists = await asyncio.gather(query.keys(), query.count(), query.exists())
        assert found == keys, question
        assert (count, exists) == (len(keys), bool(keys))
        assert [one.db_key.redis_key async for one in query] == keys


# What can't be asked -------------------------------------------------------------------------------------------------


def test_partitions_that_are_missing() -> None:
    """Said by filter() itself; an earlier filter() may have given them, a branch of | only for itself."""
    asks: list[Callable[[], Any]] = [
        lambda: Item.query.filter(price__gt=1), lambda: Item.query.order_by("price"),
        lambda: Item.query.filter(price=1),
        lambda: Item.query.filter(colour="red").filter(weight__lt=1), lambda: Item.query.filter(weight__isnull=True),
        lambda: Item.query.filter((Item.price > 1) | (Item.shop == "a")), lambda: Item.query.filter(~(Item.price > 1)),
        lambda: Item.query.filter(shop__in=["a"], price__gt=1), lambda: Item.query.filter(Item.price.in_([1])),
        lambda: Item.query.filter((Item.shop == "a") | (Item.shop == "b")).order_by("-price"),
    ]  # fmt: skip
    for ask in asks:
        with pytest.raises(MissingPartition, match="shop"):
            ask()
    Item.query.filter(shop="a").filter(price__gt=1).order_by("-price")
    Item.query.filter(price__gt=1, shop="a")
    Item.query.filter(shop="a").filter((Item.price > 1) | ~(Item.price == 2))
    Item.query.filter(((Item.shop == "a") & (Item.price > 1)) | ((Item.shop == "b") & (Item.price < 1)))


@pytest.mark.parametrize(
    "lookup",
    [
        {"nothing": 1}, {"colour__like": 1}, {"colour__lt": "a"}, {"label__gt": "a"}, {"size__gt": "5"},
        {"size__gt": None},
        {"size__between": 5}, {"size__between": (1, 2, 3)}, {"size__in": 5}, {"size__isnull": 1}, {"size": 1.5},
        {"size": True}, {"sold": 1}, {"moment__gt": "2026"}, {"colour__in": "red"}, {"size__gt": float("nan")},
        {"limit": -1}, {"offset": "1"}, {"order_by": "nothing"}, {"order_by": 5}, {"colour": "\ud800"},
    ],
)  # fmt: skip
def test_lookups_that_cannot_be(lookup: dict[str, Any]) -> None:
    with pytest.raises(InvalidLookup):
        Item.query.filter(**lookup)


async def test_unindexed_filters_warn(db: Database) -> None:
    await store(ROWS)
    with pytest.warns(UnindexedFilterWarning, match=r"Item\.label") as caught:
        await Item.query.filter(label="x").count()
    assert caught[0].filename == __file__
    for ask in ("first", "last", "get", "all", "exists", "keys"):
        with pytest.warns(UnindexedFilterWarning, match=r"Item\.label") as caught:
            await getattr(Item.query.filter(label="x", limit=1), ask)()
        assert caught[0].filename == __file__, ask
    with pytest.warns(UnindexedFilterWarning, match=r"Item\.label"):
        await Item.query.filter((Item.label == "x") | (Item.colour == "red")).keys()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert await Item.query.filter(label="x", colour="red").count() == 20
        assert await Item.query.filter(colour="red").filter(Item.label != "x").count() == 0


# Small forms ---------------------------------------------------------------------------------------------------------


async def test_the_default_order(db: Database) -> None:
    """The one range, however its filter() calls are divided; else the key."""
    await store(ROWS)
    chosen = {key: row for key, row in ROWS.items() if row["size"] is not None and row["size"] >= 2 and row["sold"]}
    by_size, by_key = ordered(chosen, ["size"]), ordered(chosen)
    assert await Item.query.filter(size__gte=2, sold=True).keys() == by_size
    assert await Item.query.filter(size__gte=2).filter(sold=True).keys() == by_size
    assert await Item.query.filter(sold=True).filter(size__gte=2, size__lt=10**30).keys() == by_size
    assert await Item.query.filter((Item.size >= 2) & Item.sold.in_([True])).keys() == by_size
    exact = {key: row for key, row in ROWS.items() if row["size"] == BIG + 2 and row["moment"] >= MOMENT}
    assert len(exact) == 20
    by_moment = await Item.query.filter(size=BIG + 2, moment__gte=MOMENT).keys()
    assert by_moment == await Item.query.filter(moment__gte=MOMENT, size=BIG + 2).keys() == ordered(exact, ["moment"])
    assert await Item.query.filter(size__gte=2, sold=True, shop="a").filter(price__gte=Decimal(-1)).keys() == [
        key for key in by_key if ROWS[key]["shop"] == "a"
    ]


async def test_a_range_within_one_score_is_a_range(db: Database) -> None:
    """Its bounds are different values that one double stands for: with a second range there is no single one to order
    by; alone, it orders."""
    close = {"moment__between": (FAR - timedelta(0, 0, 1), FAR)}
    values = [(1, FAR, "2"), (2, FAR - timedelta(0, 0, 1), "1"), (3, FAR, "0.5")]
    for number, moment, price in values:
        await Item.create(shop="a", number=number, code=f"c{number}", moment=moment, price=Decimal(price))
    of_a = Item.query.filter(shop="a", price__lt=Decimal(3))
    assert await of_a.filter(**close).keys() == ["Item:a:1", "Item:a:2", "Item:a:3"]
    assert await Item.query.filter(shop="a", price__lt=Decimal(3), moment=FAR).keys() == ["Item:a:3", "Item:a:1"]
    assert await Item.query.filter(**close).keys() == ["Item:a:2", "Item:a:1", "Item:a:3"]


async def test_slices_pages_and_single_records(db: Database) -> None:
    await store(ROWS)
    everything = ordered(ROWS, ["-size"])
    query = Item.query.order_by("-size")
    for piece in (slice(0, 5), slice(5, None), slice(None, 3), slice(58, 99), slice(70, 80), slice(4, 4), slice(9, 2)):
        assert await query[piece].keys() == everything[piece]
    assert await query[10:30][5:10].keys() == everything[10:30][5:10]
    assert await query[10:30][15:].keys() == everything[10:30][15:]
    assert await query.limit(0).all() == []
    assert await query.limit(0).count() == 0
    assert await query.limit(0).first() is None
    assert not await query.limit(0).exists()
    assert await query.offset(60).last() is None
    assert await query.limit(7).count() == 7
    assert await query.offset(58).count() == 2
    assert await Item.query.get(code="c5") == await Item.load(shop="b", number=5)
    assert await Item.load(number=5) == await Item.load(code="c5")
    assert await Item.query.get(code="c99") is None
    with pytest.raises(NotFound):
        await Item.query.get_or_raise(code="c99")
    with pytest.raises(MultipleResults):
        await Item.load(shop="a")
    with pytest.raises(MultipleResults):
        await query.limit(2).get(shop="a")
    first = await query.get_or_raise(shop="a", number=(await query.filter(shop="a").values("number"))[0]["number"])
    assert await query.limit(1).get(shop="a") == first, "the one record that the query has"
    assert await query.limit(0).get(code="c5") is None
    assert await Item.query.limit(0).get(shop="b", number=5) is None
    assert await Item.query.offset(1).get(shop="b", number=5) is None


async def test_values_of_another_form(db: Database) -> None:
    """As by assignment: 1 finds 1.0 and Decimal(1)."""
    await store(ROWS)
    a = Item.query.filter(shop="a")
    assert await a.filter(price=1).count() == await a.filter(price=Decimal("1.00")).count() > 0
    assert await a.filter(colour="red", weight__gte=1).count() == await a.filter(colour="red", weight__gte=1.0).count()
    assert await Item.query.filter(moment=MOMENT.replace(tzinfo=None)).count() == 15
    assert await Item.query.filter(moment=MOMENT.astimezone(UTC)).count() == 15


class Event(Model):
    room: str = KeyField()
    at: datetime = SortedKeyField()
    size: int = SortedField(default=0)


class Reading(Model):
    at: int = SortedKeyField()
    value: float = Field(type=float, default=0.0)


async def test_sorted_keys(db: Database) -> None:
    events = [await Event.create(room="ab"[i % 2], at=MOMENT + timedelta(hours=i), size=i % 3) for i in range(10)]
    assert await Event.load(room="a", at=MOMENT) == events[0]
    found = await Event.query.filter(room="b", at__gt=MOMENT + timedelta(hours=2)).order_by("-at")
    assert [one.at for one in found] == [MOMENT + timedelta(hours=i) for i in (9, 7, 5, 3)]
    for number in (0, 5, BIG, BIG + 1, -7):
        await Reading.create(at=number)
    assert [one.at for one in await Reading.query.filter(at__gte=0)] == [0, 5, BIG, BIG + 1]
    assert [one.at for one in await Reading.query.filter(at=BIG)] == [BIG]
    assert [one.at for one in await Reading.query.filter(at__in=[BIG + 1, 5]).order_by("at")] == [5, BIG + 1]
    assert [one.at for one in await Reading.query.order_by("-at").limit(1)] == [BIG + 1]


# Positions -----------------------------------------------------------------------------------------------------------

positions = st.one_of(
    few(
        [(0, 0), (90, 0), (-90, 7), (85.0511287, 3), (85.06, 3), (0, 180), (0, -180), (1e-5, 179.99999), (40.7, -73.9)]
    ),
    st.tuples(st.floats(-90, 90), st.floats(-180, 180)),
    st.tuples(st.floats(40, 41), st.floats(-74, -73)),
)
lengths = st.one_of(few([0, 1, 1000, 2e7, 2.1e7]), st.floats(0, 3e5), st.floats(0, 2.2e7))


def in_box(centre: tuple[float, float], position: tuple[float, float], width: float, height: float) -> bool:
    """As GEOSEARCH BYBOX measures: along the meridian, and along the position's own parallel."""
    along = RADIUS * abs(radians(position[0]) - radians(centre[0]))
    across = distance((position[0], centre[1]), position)
    return along <= height / 2 and across <= width / 2


@examples(50)
@given(
    places=st.lists(st.one_of(st.none(), positions), max_size=20),
    asks=st.lists(
        st.tuples(positions, lengths, lengths, few(sorted(UNITS)), st.integers(1, 5)), min_size=4, max_size=8
    ),
)
def test_areas(clean_server: Server, places: list[Any], asks: list[Any]) -> None:
    rows = {f"Spot:s{i}": {"name": f"s{i}", "kind": "ab"[i % 2], "place": place} for i, place in enumerate(places)}

    async def work() -> None:
        await store(rows, Spot)
        located = {key: row["place"] for key, row in rows.items() if row["place"] is not None}
        for centre, radius, height, unit, limit in asks:
            scale = UNITS[unit]
            away = {key: distance(centre, place) for key, place in located.items()}
            near = [key for key in sorted(located) if away[key] <= radius / scale * scale]
            boxed = [key for key in sorted(located) if in_box(centre, located[key], radius, height)]
            circle = {"place": centre, "place_radius": radius / scale, "place_radius_unit": unit}
            box = {"place": centre, "place_box": (radius / scale, height / scale), "place_radius_unit": unit}
            query = Spot.query.filter(**circle)
            nearest = Spot.query.filter(**circle, place_with_distances=True)
            async with trace() as traced:
                keys, count, by_distance, page, boxes, some, far = await asyncio.gather(
                    query.keys(), query.count(), nearest.all(), nearest.limit(limit).all(),
                    Spot.query.filter(**box).keys(),
                    Spot.query.filter(kind="a", **circle).order_by("-name").keys(),
                    Spot.query.filter(kind="b").filter(**circle).count(),
                )  # fmt: skip
            assert len(traced.operations) <= 7, "one of them went on in a second call"
            assert keys == near
            assert count == len(near)
            by_key = sorted(near, key=lambda key: (away[key], key))
            assert [one.db_key.redis_key for one in by_distance] == by_key
            assert [one.db_key.redis_key for one in page] == by_key[:limit]
            assert [one._geo_distance for one in by_distance] == pytest.approx([away[key] / scale for key in by_key])
            assert {one._geo_distance_unit for one in by_distance} <= {unit}
            assert boxes == boxed
            assert some == [key for key in reversed(near) if rows[key]["kind"] == "a"]
            assert far == sum(rows[key]["kind"] == "b" for key in near)

    run(clean_server, {}, work)


async def test_members_and_nulls_of_positions(db: Database) -> None:
    home = await Spot.create(name="home", place=(40.7, -73.9))
    await Spot.create(name="near", place=(40.71, -73.9))
    await Spot.create(name="pole", place=(90, 0))
    await Spot.create(name="nowhere")
    around = Spot.query.filter(place_member=home, place_radius=5, place_radius_unit="km", place_with_distances=True)
    found: list[Any] = await around
    assert [(one.name, round(one._geo_distance, 3)) for one in found] == [("home", 0.0), ("near", 1.112)]
    assert await Spot.query.filter(place_member=home, place_radius=5).keys() == ["Spot:home"]
    assert await Spot.query.filter(place__isnull=True).keys() == ["Spot:nowhere"]
    assert await Spot.query.filter(place__isnull=False).count() == 3
    assert await Spot.query.filter(place=(89.99, 120), place_radius=2, place_radius_unit="km").keys() == ["Spot:pole"]
    rows = await around.values("name")
    assert [row["name"] for row in rows] == ["home", "near"]
    assert [row["_geo_distance_unit"] for row in rows] == ["km", "km"]
    wrong: list[dict[str, Any]] = [
        {"place": (0, 0)}, {"place_radius": 5}, {"place": (95, 0), "place_radius": 5}, {"place": (0, 0),
        "place_radius": -1},
        {"place": (0, 0), "place_radius": 5, "place_radius_unit": "yd"}, {"place": "x", "place_radius": 5},
        {"place": (0, 0), "place_radius": 5, "place_box": (1, 1)}, {"place": (0, 0), "place_box": 5},
        {"place_member": Spot(name="x"), "place_radius": 5}, {"place": (0, 0), "place_radius": float("nan")},
    ]  # fmt: skip
    for lookups in wrong:
        with pytest.raises(InvalidLookup):
            Spot.query.filter(**lookups)


# Forms of asking -----------------------------------------------------------------------------------------------------


class Twin(Model):
    a: str = KeyField()
    rate: int | None = SortedField(null=True)
    rate_max: int | None = SortedField(null=True)
    rating: int | None = SortedField(null=True)
    kind: str | None = IndexedField()
    kind_of: str | None = IndexedField()
    ind: str | None = IndexedField()


async def test_names_that_contain_each_other_don_t_mix(db: Database) -> None:
    await Twin.create(a="1", rate=1, rate_max=2, rating=3, kind="x:y", kind_of="x", ind="y")
    await Twin.create(a="2", rate=2, rate_max=3, rating=1, kind="x", kind_of="y", ind="x:y")
    await Twin.create(a="1:2", rate=3, rate_max=1, rating=2, kind="y", kind_of="x:y", ind="x")
    keys = ["Twin:1", "Twin:2", "Twin:1%3A2"]
    for name, values in {"rate": (1, 2, 3), "rate_max": (2, 3, 1), "rating": (3, 1, 2)}.items():
        for key, value in zip(keys, values, strict=True):
            assert await Twin.query.filter(**{name: value}).keys() == [key]
        assert await Twin.query.order_by(name).keys() == [keys[values.index(n)] for n in (1, 2, 3)]
    for name, texts in {"kind": ("x:y", "x", "y"), "kind_of": ("x", "y", "x:y"), "ind": ("y", "x:y", "x")}.items():
        for key, text in zip(keys, texts, strict=True):
            assert await Twin.query.filter(**{name: text}).keys() == [key]


async def test_limits_orders_and_values_as_keywords(db: Database) -> None:
    await store(ROWS)
    a = Item.query.filter(shop="a")
    same = a.filter(colour="red").order_by("-size", "number").offset(1).limit(3)
    assert (
        await Item.query.filter(shop="a", colour="red", order_by=("-size", "number"), offset=1, limit=3).keys()
        == await same.keys()
    )
    assert await a.filter(order_by="-number", limit=2, values=("number", "code")) == await a.order_by("-number").limit(
        2
    ).values("number", "code")
    assert await a.filter(values="number", limit=1) == await a.values("number").limit(1)
    assert await Item.query.filter(shop="a", order_by="price").keys() == await a.order_by("price").keys()
    assert await a.filter(order_by=["number"], limit=None, values=None).keys() == await a.order_by("number").keys()
    assert await a.order_by(Item.number).keys() == await a.order_by("number").keys()
    assert await a.limit(2**70).keys() == await a.keys()
    assert await a.offset(2**70).keys() == await a[2**60 :].keys() == []


async def test_a_query_is_a_value_and_each_answer_is_fresh(db: Database) -> None:
    await store(ROWS)
    query = Item.query.filter(shop="a").order_by("number")
    before = await query.keys()
    query.filter(colour="red"), query.order_by("-number"), query.limit(1), query.offset(3), query.values("code")
    one, two = await query, await query
    assert [item.db_key.redis_key for item in one] == before
    assert one == two
    assert one is not two
    assert all(first is not second for first, second in zip(one, two, strict=True))
    one[0].colour = "changed"
    one.clear()
    assert await query == two
    assert two[0].colour != "changed"


async def test_a_misspelt_lookup_is_told_with_the_valid_ones(db: Database) -> None:
    asks = {
        "size__gtt": "gt",
        "sise__gt": "size",
        "colour__isnul": "isnull",
        "colur": "colour",
        "size__betwen": "tween",
    }
    for ask, meant in asks.items():
        with pytest.raises(InvalidLookup) as caught:
            Item.query.filter(**{ask: 1})
        assert meant in "\n".join(caught.value.__notes__)
        assert caught.value.model == "Item"
    with pytest.raises(InvalidLookup) as caught:
        Spot.query.filter(place_radus=5)
    assert "place_radius" in "\n".join(caught.value.__notes__)
