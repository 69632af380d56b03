"""Conditions through references that many records satisfy: what they cost, and that nothing is lost or doubled."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from popoto_async import Database, IndexedField, KeyField, Model, Q, Relationship, SortedField, connect
from popoto_async.planning import read
from popoto_async.queries.selecting import Selection
from tests.examples import examples
from tests.model_of_store import Rows, ordered
from tests.servers import Server, count_commands

pytestmark = pytest.mark.anyio


class Owner(Model):
    name: str = KeyField()
    city: str = IndexedField()


class Place(Model):
    name: str = KeyField()
    cuisine: str = IndexedField()
    rating: int = SortedField()
    owner = Relationship(Owner, on_delete="DO_NOTHING")


class Visit(Model):
    number: str = KeyField()
    mood: str = IndexedField()
    price: int = SortedField()
    place = Relationship(Place, on_delete="DO_NOTHING")
    before = Relationship("self", on_delete="DO_NOTHING")


# What it costs -------------------------------------------------------------------------------------------------------


async def furnish(matching: int, places: int, visits: int) -> None:
    """So many places, of which every so-manieth matches; visits go to all of them in turn."""
    await Owner.create_many({"name": f"{n}", "city": "Bonn" if n < matching else "Rome"} for n in range(places))
    await Place.create_many(
        {"name": f"{n:05}", "cuisine": "Thai" if n % (places // matching) == 0 else "Lao", "rating": n,
         "owner": f"Owner:{n * matching // places + n % (places // matching) * matching}"}
        for n in range(places)
    )  # fmt: skip
    await Visit.create_many(
        {"number": f"{n * 7919 % visits:06}", "mood": "good", "price": n, "place": f"Place:{n % places:05}"}
        for n in range(visits)
    )


Asked = Callable[[], Awaitable[Any]]

COSTS: dict[str, tuple[Asked, Any]] = {
    "by key": (lambda: Visit.query.filter(place__cuisine="Thai").limit(10).all(), 10),
    "by an index": (lambda: Visit.query.filter(place__cuisine="Thai").order_by("-price").limit(10).all(), 10),
    "two references": (lambda: Visit.query.filter(place__owner__city="Bonn").limit(10).all(), 10),
    "either": (lambda: Visit.query.filter(Q(place__cuisine="Thai") | Q(place__rating__lt=5)).limit(10).all(), 10),
    "exists": (lambda: Visit.query.filter(place__cuisine="Thai").exists(), True),
    "first": (lambda: Visit.query.filter(place__cuisine="Thai").first(), None),
}


@pytest.mark.parametrize("asked", COSTS)
@pytest.mark.parametrize("share", [1, 10])
async def test_a_page_costs_no_more_where_more_records_satisfy_the_condition(
    db: Database, clean_server: Server, asked: str, share: int
) -> None:
    """50 and 500 of them, everything around growing alike: neither the plan nor its execution asks each."""
    work, expected = COSTS[asked]
    spent = []
    for matching in (50, 500):
        await db.execute("FLUSHALL")
        await furnish(matching, share * matching, 2 * share * matching)
        await work()
        with count_commands(clean_server) as counted:
            found = await work()
        assert expected is None or (len(found) if isinstance(found, list) else found) == expected
        spent.append(sum(counted.calls.values()))
    assert spent[1] <= 1.3 * spent[0] + 10, spent


async def test_a_page_costs_less_where_more_records_satisfy_the_condition(db: Database, clean_server: Server) -> None:
    """The same 1,000 places and 1,000 visits; the benchmark's case."""
    spent = []
    for matching in (50, 500):
        await db.execute("FLUSHALL")
        await furnish(matching, 1000, 1000)
        work = COSTS["by key"][0]
        await work()
        with count_commands(clean_server) as counted:
            await work()
        spent.append(sum(counted.calls.values()))
    assert spent[1] <= spent[0], spent
    assert spent[1] < 100


async def test_many_matching_records_are_gone_through_where_the_class_is_larger_still(
    db: Database, clean_server: Server
) -> None:
    """700 places of 14,000 records that refer: their sets are opened in turn, and no other record is looked at."""
    await furnish(700, 7000, 14_000)
    query = Visit.query.filter(place__cuisine="Thai")
    with count_commands(clean_server) as counted:
        assert await query.count() == 1400
    assert sum(counted.calls.values()) < 2 * 700
    with count_commands(clean_server) as counted:
        assert len(await query.keys()) == 1400
    assert counted.calls["zmscore"] < 50
    assert sum(counted.calls.values()) < 700 + 2 * 1400 + 300


async def test_of_a_large_set_a_page_by_key_takes_its_beginning(db: Database) -> None:
    """Whichever sets records come from: those of references, of values, of beginnings of texts."""
    await Place.create_many({"name": f"{n}", "cuisine": f"c{n}", "rating": n} for n in range(300))
    await Visit.create_many(
        {"number": f"{n:05}", "mood": f"m{n % 3}" if n % 10 == 0 else f"other{n % 7}", "price": n,
         "place": f"Place:{n % 3 if n % 10 == 0 else 3 + n % 290}"}
        for n in range(6000)
    )  # fmt: skip
    some = list(range(0, 6000, 10))
    for query in (
        Visit.query.filter(place__cuisine__in=["c0", "c1", "c2"]), Visit.query.filter(mood__in=["m0", "m1", "m2"]),
        Visit.query.filter(mood__startswith="m"),
    ):  # fmt: skip
        explained = await query.limit(5).explain()
        assert (explained.trips, explained.examined < 200) == (1, True), explained
        assert await query.limit(5).keys() == [f"Visit:{n:05}" for n in some[:5]]
        assert await query.offset(100).limit(5).keys() == [f"Visit:{n:05}" for n in some[100:105]]
        page = await query.page(400)
        later = await query.page(400, page.cursor)
        assert [one.number for one in (*page, *later)] == [f"{n:05}" for n in some]
        last: Any = await query.last()
        assert last.number == f"{some[-1]:05}"


# That it is right ----------------------------------------------------------------------------------------------------

CUISINES = {"Thai": 1, "Lao": 8, "Shan": 30}


class World:
    """Owners, places and visits in plain Python."""

    def __init__(self, seed: int, places: int, visits: int) -> None:
        rng = random.Random(seed)

        def cuisine() -> str:
            return rng.choices(list(CUISINES), list(CUISINES.values()))[0]

        self.owners: Rows = {f"Owner:{n}": {"name": f"{n}", "city": rng.choice(["Bonn", "Rome"])} for n in range(9)}
        self.places: Rows = {
            f"Place:{n}": {"name": f"{n}", "cuisine": cuisine(), "rating": rng.randrange(9),
                           "owner": f"Owner:{rng.randrange(12)}"}
            for n in range(places)
        }  # fmt: skip
        self.visits: Rows = {
            f"Visit:{n}": {"number": f"{n}", "mood": rng.choice("abcd"), "price": rng.randrange(40),
                           "place": f"Place:{int(rng.random() ** 2 * (places + 5))}",
                           "before": f"Visit:{rng.randrange(visits + 5)}"}
            for n in range(visits)
        }  # fmt: skip

    async def store(self) -> None:
        for model, rows in ((Owner, self.owners), (Place, self.places), (Visit, self.visits)):
            await model.create_many(dict(row) for row in rows.values())

    def cuisine(self, visit: dict[str, Any] | None) -> Any:
        return self.places.get((visit or {}).get("place", ""), {}).get("cuisine")

    def leading_to(self, place: str) -> set[str]:
        """Visits that refer to a place, also by those before them."""
        found = {key for key, visit in self.visits.items() if visit["place"] == place}
        for _ in range(2):
            found |= {key for key, visit in self.visits.items() if visit["before"] in found}
        return found

    def matching(self, condition: str) -> Rows:
        return {key: row for key, row in self.visits.items() if CONDITIONS[condition][1](self, row)}


Holds = Callable[[World, dict[str, Any]], bool]
CONDITIONS: dict[str, tuple[Callable[[], Any], Holds]] = {
    "few": (lambda: Q(place__cuisine="Thai"), lambda w, v: w.cuisine(v) == "Thai"),
    "some": (lambda: Q(place__cuisine__in=["Thai", "Lao"]), lambda w, v: w.cuisine(v) in ("Thai", "Lao")),
    "most": (lambda: Q(place__cuisine="Shan"), lambda w, v: w.cuisine(v) == "Shan"),
    "range": (
        lambda: Q(place__rating__between=(2, 4)),
        lambda w, v: 2 <= w.places.get(v["place"], {}).get("rating", -1) <= 4,
    ),
    "beginning": (lambda: Q(place__cuisine__startswith="L"), lambda w, v: w.cuisine(v) == "Lao"),
    "two": (
        lambda: Q(place__owner__city="Bonn"),
        lambda w, v: w.owners.get(w.places.get(v["place"], {}).get("owner", ""), {}).get("city") == "Bonn",
    ),
    "three": (
        lambda: Q(before__before__place__cuisine="Lao"),
        lambda w, v: w.cuisine(w.visits.get(w.visits.get(v["before"], {}).get("before", ""))) == "Lao",
    ),
    "also": (lambda: Q(place__cuisine="Lao", mood="a"), lambda w, v: w.cuisine(v) == "Lao" and v["mood"] == "a"),
    "or": (lambda: Q(place__cuisine="Thai") | Q(mood="a"), lambda w, v: w.cuisine(v) == "Thai" or v["mood"] == "a"),
    "either": (
        lambda: Q(place__cuisine="Thai") | Q(before__place__cuisine="Lao"),
        lambda w, v: w.cuisine(v) == "Thai" or w.cuisine(w.visits.get(v["before"])) == "Lao",
    ),
    "neither": (lambda: ~Q(place__cuisine__in=["Shan", "Lao"]), lambda w, v: w.cuisine(v) not in ("Shan", "Lao")),
    "without": (
        lambda: Q(place__cuisine="Lao") & ~Q(before__place__cuisine="Shan"),
        lambda w, v: w.cuisine(v) == "Lao" and w.cuisine(w.visits.get(v["before"])) != "Shan",
    ),
    "values": (lambda: Q(mood__in=["a", "b"]), lambda w, v: v["mood"] in "ab"),
}


@given(
    seed=st.integers(0, 2**32), places=st.integers(1, 120), visits=st.integers(1, 250),
    asked=st.lists(st.sampled_from(sorted(CONDITIONS)), min_size=4, max_size=6, unique=True),
    order=st.sampled_from([(), ("price",), ("-price",)]), budget=st.sampled_from([2000, 60, 3]),
    window=st.tuples(st.integers(0, 9), st.integers(1, 12)), size=st.integers(20, 90),
)  # fmt: skip
@examples(40)
def check_crowds(
    server: Server, patch: pytest.MonkeyPatch, seed: int, places: int, visits: int, asked: list[str],
    order: tuple[str, ...], budget: int, window: tuple[int, int], size: int,
) -> None:  # fmt: skip
    world = World(seed, places, visits)

    async def work() -> None:
        async with connect(server.url):
            await world.store()
            for condition in asked:
                query = Visit.query.filter(CONDITIONS[condition][0]()).order_by(*order)
                rows = world.matching(condition)
                keys, (offset, limit) = ordered(rows, order), window
                assert await query.keys() == keys, condition
                assert await query.offset(offset).limit(limit).keys() == keys[offset:][:limit], condition
                assert await query.count() == len(keys), condition
                assert await query.exists() is bool(keys), condition
                last = await query.last()
                assert (last and last.db_key.redis_key) == (keys[-1] if keys else None), condition
                paged, cursor = [], None
                while cursor or not paged:
                    page = await query.page(size, cursor)
                    paged += [one.db_key.redis_key for one in page] or [None]
                    cursor = page.cursor
                assert paged == (keys or [None]), condition

    server.client.flushall()
    with patch.context() as patched:
        patched.setattr(read, "BUDGET", budget)
        patched.setattr(read, "COUNT_BUDGET", budget)
        asyncio.run(work())


def test_crowds_agree_with_python(clean_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    check_crowds(clean_server, monkeypatch)


async def test_a_cursor_holds_how_far_twenty_references_one_behind_the_other_got(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More levels than cmsgpack packs."""
    monkeypatch.setattr(read, "BUDGET", 20)
    await Visit.create_many(
        {"number": f"{n:03}", "mood": "good" if n < 20 else "bad", "price": n, "before": f"Visit:{max(n - 10, 0):03}"}
        for n in range(400)
    )
    query = Visit.query.filter(**{"before__" * 20 + "mood": "good"})
    assert (await query.explain()).trips > 20
    assert await query.keys() == [f"Visit:{n:03}" for n in range(220)]


CHANGES = ("rename", "delete place", "move visit", "delete visit", "cook", "rate")


async def change(world: World, what: str, which: int, touched: set[str]) -> None:
    """Change one record, here and there. `touched`: visits that stand elsewhere now, they or what they lead to."""
    model: Any = Visit if "visit" in what else Place
    rows = world.visits if model is Visit else world.places
    if not rows:
        return
    key = sorted(rows)[which % len(rows)]
    row = rows[key]
    one = await loaded(model, row)
    touched |= world.leading_to(key) if model is Place else {key}
    for _ in range(2):
        touched |= {name for name, visit in world.visits.items() if visit["before"] in touched}
    if "delete" in what:
        await one.delete()
        del rows[key]
        return
    if what == "rename":
        one.name = f"{which % 1000 - 500}x{len(touched)}"
    elif what == "move visit":
        one.place = row["place"] = f"Place:{which % 90}"
    elif what == "cook":
        one.cuisine = row["cuisine"] = ["Thai", "Lao", "Shan"][which % 3]
    else:
        one.rating = row["rating"] = which % 9
    await one.save()
    if what == "rename":
        world.places[one.db_key.redis_key] = {**world.places.pop(key), "name": one.name}
        for visit in world.visits.values():
            visit["place"] = one.db_key.redis_key if visit["place"] == key else visit["place"]


async def loaded(model: Any, row: dict[str, Any]) -> Any:
    first = next(iter(model._meta.keys)).name
    return await model.load(**{first: row[first]})


@given(
    seed=st.integers(0, 2**32), places=st.integers(1, 80), visits=st.integers(30, 200),
    condition=st.sampled_from(sorted(CONDITIONS)), order=st.sampled_from([(), ("-price",)]),
    budget=st.sampled_from([300, 60, 10]), limit=st.none() | st.integers(5, 40),
    changes=st.lists(st.tuples(st.sampled_from(CHANGES), st.integers(0, 2**16)), min_size=1, max_size=12),
)  # fmt: skip
@examples(40)
def check_changes_between_calls(
    server: Server, patch: pytest.MonkeyPatch, seed: int, places: int, visits: int, condition: str,
    order: tuple[str, ...], budget: int, limit: int | None, changes: list[tuple[str, int]],
) -> None:  # fmt: skip
    """No record comes twice; each satisfied when it was read; none is missing that always did and did not move."""
    world, touched, left = World(seed, places, visits), set[str](), list(changes)
    always = world.matching(condition)
    calls = Selection.calls

    async def interrupted(self: Selection, first: Any = None, *, explain: bool = False) -> AsyncIterator[Any]:
        async for outcome in calls(self, first, explain=explain):
            assert {key.decode() for key in outcome[1]} <= set(world.matching(condition))
            yield outcome
            if left:
                with patch.context() as undone:
                    undone.setattr(Selection, "calls", calls)
                    await change(world, *left.pop(), touched)
                now = world.matching(condition)
                for key in [key for key in always if key not in now]:
                    del always[key]

    async def work() -> None:
        async with connect(server.url):
            await world.store()
            query = Visit.query.filter(CONDITIONS[condition][0]()).order_by(*order).limit(limit)
            patched.setattr(Selection, "calls", interrupted)
            found = await query.keys()
            assert len(found) == len(set(found))
            if limit is None or len(found) < limit:
                assert set(always) - touched <= set(found)

    server.client.flushall()
    with patch.context() as patched:
        patched.setattr(read, "BUDGET", budget)
        asyncio.run(work())


def test_changes_between_the_calls_of_a_query(clean_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    check_changes_between_calls(clean_server, monkeypatch)
