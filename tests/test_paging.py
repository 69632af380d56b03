"""Pages by cursor against plain Python, while records come, go and change between them, on both servers."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from popoto_async import Database, IndexedField, InvalidLookup, KeyField, Model, Q, SortedField, trace
from tests.examples import examples
from tests.model_of_store import Rows, Values, distance, ordered, record_key
from tests.random_queries import Chosen, chosen
from tests.servers import Server
from tests.test_select import OPERANDS, QUERIED, ROWS, Item, Spot, collections, positions, run, store

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore::popoto_async.UnindexedFilterWarning")]

ORDERS = ["size", "moment", "label", "code", "colour", "number"]
CALM = ("sold", "price", "weight")
"""Fields that no order of these tests reads."""


async def disturb(data: st.DataObject, rows: Rows, next_number: int) -> int:
    """Some records come, some go, some change in what nothing is ordered by."""
    for _ in range(data.draw(st.integers(0, 3))):
        row = {**{name: data.draw(operands) for name, operands in OPERANDS.items()}, "number": next_number}
        row["code"] = f"c{data.draw(st.integers(0, 99)):02}.{next_number}"
        rows[record_key(Item, row)] = row
        await Item.create(**row)
        next_number += 1
    for key in data.draw(st.lists(st.sampled_from(sorted(rows)), max_size=3, unique=True)) if rows else []:
        row = rows[key]
        instance: Any = await Item.load(shop=row["shop"], number=row["number"])
        if data.draw(st.booleans()):
            del rows[key]
            await instance.delete()
        else:
            name = data.draw(st.sampled_from(CALM))
            rows[key] = {**row, name: data.draw(OPERANDS[name])}
            setattr(instance, name, rows[key][name])
            await instance.save()
    return next_number


def following(question: Chosen, rows: Rows, last: tuple[str, Values] | None) -> list[str]:
    """The keys of all rows that satisfy the question and stand after a place, whether or not a row stands there."""
    sequence = question.sequence(rows)
    if last is None:
        return sequence[question.offset :]
    key, row = last
    standing = ordered({**{one: rows[one] for one in sequence}, key: row}, question.orders)
    return standing[standing.index(key) + 1 :]


@examples(80)
@given(
    rows=collections(),
    question=chosen(Item, QUERIED, ORDERS),
    size=st.integers(1, 6),
    budget=st.sampled_from([5, 60, 2000]),
    data=st.data(),
)
def test_pages_go_on_where_the_last_one_ended(
    clean_server: Server,
    monkeypatch: pytest.MonkeyPatch,
    rows: Rows,
    question: Chosen,
    size: int,
    budget: int,
    data: st.DataObject,
) -> None:
    """Each page is what stands after the last row of the one before, in any order, in one call or several."""
    monkeypatch.setattr("popoto_async.planning.read.BUDGET", budget)

    async def work() -> None:
        now, next_number = dict(rows), 100
        cursor, last, left = None, None, question.limit
        shown: list[str] = []
        for _ in range(40):
            expected = following(question, now, last)
            if left is not None:
                expected = expected[:left]
            page = await question.query().page(size, cursor)
            keys = [one.db_key.redis_key for one in page]
            assert keys == expected[:size], question
            assert (page.cursor is not None) == (len(expected) > size), question
            shown += keys
            if page.cursor is None:
                break
            cursor, last = page.cursor, (keys[-1], now[keys[-1]])
            left = None if left is None else left - size
            next_number = await disturb(data, now, next_number)
        assert len(shown) == len(set(shown)), question

    run(clean_server, rows, work)


@examples(40)
@given(
    places=st.lists(st.one_of(st.none(), positions), max_size=25),
    centre=positions,
    radius=st.sampled_from([1e3, 1e5, 2.2e7]),
    size=st.integers(1, 5),
    by=st.sampled_from([(), ("-kind",), ("kind", "name")]),
)
def test_pages_by_distance(
    clean_server: Server, places: list[Any], centre: Any, radius: float, size: int, by: tuple[str, ...]
) -> None:
    rows: Rows = {
        f"Spot:s{i:02}": {"name": f"s{i:02}", "kind": [None, "a", "b"][i % 3], "place": place}
        for i, place in enumerate(places)
    }
    away = {key: distance(centre, row["place"]) for key, row in rows.items() if row["place"] is not None}
    near = [key for key in sorted(away) if away[key] <= radius]
    expected = ordered({key: rows[key] for key in near}, by) if by else sorted(near, key=lambda key: (away[key], key))

    async def work() -> None:
        await store(rows, Spot)
        query: Any = Spot.query.filter(Q(place=centre, place_radius=radius, place_with_distances=True)).order_by(*by)
        shown: list[str] = []
        cursor = None
        for _ in range(len(expected) // size + 1):
            page = await query.page(size, cursor)
            shown += [one.db_key.redis_key for one in page]
            for one in page:
                assert one._geo_distance == pytest.approx(away[one.db_key.redis_key])
            cursor = page.cursor
            if cursor is None:
                break
            assert len(page) == size
        assert shown == expected

    run(clean_server, {}, work)


class Post(Model):
    name = KeyField()
    kind: str = IndexedField()
    score: float | None = SortedField(null=True)
    rank: int = SortedField(default=0)


async def fill(count: int) -> None:
    await Post.create_many(
        {"name": f"p{i:05}", "kind": "ab"[i % 2], "score": None if i % 10 == 9 else i / 4, "rank": i % 5}
        for i in range(count)
    )


@pytest.mark.parametrize(
    "by", [(), ("score",), ("-score",), ("-score", "rank"), ("rank", "-score")], ids=lambda by: "+".join(by) or "key"
)
async def test_a_page_costs_the_page(db: Database, by: tuple[str, ...]) -> None:
    """However many pages came before it: along keys, one order with nulls, and two of which the first has few ties."""
    await fill(3000)
    query = Post.query.filter(kind="a").order_by(*by)
    expected = await query.keys()
    shown, cursor, trips = [], None, []
    for _ in range(15):
        async with trace() as traced:
            page = await query.page(100, cursor)
        trips.append(traced.round_trips)
        shown += [f"Post:{one.name}" for one in page]
        cursor = page.cursor
    assert cursor is None
    assert shown == expected
    if by[:1] != ("rank",):  # a fifth of all records share each rank: they are sorted for every page
        assert trips == [1] * 15


async def test_a_cursor_travels_in_a_url(db: Database) -> None:
    await store(ROWS)
    page = await Item.query.order_by("-size", "code").page(7)
    assert page.cursor is not None
    assert set(page.cursor) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")
    assert len(page) == len(page.rows) == len(list(page)) == 7


async def test_a_cursor_of_another_query_is_refused(db: Database) -> None:
    await store(ROWS)
    query = Item.query.filter(colour="red", sold=True).order_by("-size")
    cursor = (await query.page(2)).cursor
    assert cursor is not None
    same = Item.query.filter(sold=True).filter(Item.colour == "red").order_by("-size")
    assert (await same.page(3, cursor)).rows == (await query)[2:5]
    assert await query.values("code").page(3, cursor) is not None
    others: list[Any] = [
        query.order_by("size"), query.filter(size__gt=-(10**9)), query.limit(50), query.offset(1), Item.query,
        Item.query.filter(colour="blue", sold=True).order_by("-size"), Spot.query, query.order_by("-size", "code"),
    ]  # fmt: skip
    for other in others:
        with pytest.raises(InvalidLookup, match="belongs to another query"):
            await other.page(2, cursor)


async def test_what_is_no_cursor_is_refused(db: Database) -> None:
    """Whatever a URL may hold: before anything is sent."""
    await store(ROWS)
    query = Item.query.order_by("size")
    cursor = (await query.page(2)).cursor
    assert cursor is not None
    parts = msgspec.msgpack.decode(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))

    def made(*parts: Any) -> str:
        return base64.urlsafe_b64encode(msgspec.msgpack.encode(parts)).decode().rstrip("=")

    version, question, key, texts, left = parts
    assert made(*parts) == cursor
    wrong: list[Any] = [
        "", "x", cursor[:-3], cursor + "é", "====", 5, b"x", made(2, *parts[1:]), made(version), made(),
        made(version, question, key, [b"five"], left), made(version, question, key, [], left),
        made(version, question, 5, texts, left), base64.urlsafe_b64encode(b"\xc1\xff").decode(), "a" * 5000,
    ]  # fmt: skip
    async with trace() as traced:
        for text in wrong:
            with pytest.raises(InvalidLookup, match="cursor"):
                await query.page(2, text)
        sizes: list[Any] = [0, -1, True, "5", 2.0]
        for size in sizes:
            with pytest.raises(InvalidLookup):
                await query.page(size)
    assert traced.operations == []
