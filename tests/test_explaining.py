"""What explain() tells: which index drives, what passes, what it costs; and that the plans it shows are good ones."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from popoto_async import Database, Explanation, Field, IndexedField, KeyField, Model, Q, SortedField, trace
from popoto_async.planning.read import BUDGET
from tests import servers
from tests.examples import examples
from tests.model_of_store import Rows, record_key
from tests.random_queries import Chosen, chosen
from tests.servers import Server
from tests.test_select import OPERANDS, QUERIED, Item, run

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore::popoto_async.UnindexedFilterWarning")]

INDEXED = {name: operands for name, operands in QUERIED.items() if name not in ("label", "code")}
LIMITED = chosen(Item, INDEXED, ["size", "moment", "code", "label"])


wheels = st.fixed_dictionaries({name: st.lists(values, min_size=4, max_size=4) for name, values in OPERANDS.items()})


def crowd(wheel: dict[str, list[Any]], share: int, count: int) -> Rows:
    """Rows whose values are of very different frequency and depend on one another."""
    rows: Rows = {}
    for number in range(count):
        at = 0 if number % share else number // share % 4
        row = {name: values[at] for name, values in wheel.items()}
        row.update(number=number, code=f"c{number}", part=None)
        rows[record_key(Item, row)] = row
    return rows


@settings(examples(12), phases=[Phase.generate])  # smaller crowds are no simpler, and slow to find
@given(
    wheel=wheels,
    share=st.sampled_from([2, 10, 50]),
    count=st.sampled_from([50, 400, 900]),
    asked=st.lists(LIMITED, min_size=25, max_size=25),
)
def test_what_is_sure_to_fit_is_one_trip(
    clean_server: Server, wheel: dict[str, list[Any]], share: int, count: int, asked: list[Chosen]
) -> None:
    """Any tree over indexed fields whose bound is within the budget; and no call ships more than the page asks for."""
    rows = crowd(wheel, share, count)

    async def work() -> None:
        await Item.create_many(dict(row) for row in rows.values())
        for question in asked:
            query = question.query()
            explained: Explanation = await query.explain()
            assert explained.spent <= explained.trips * 1.25 * BUDGET, explained
            if explained.bound <= BUDGET:
                assert explained.trips == 1, explained
                async with trace() as traced:
                    found = await query.keys()
                assert (traced.round_trips, found) == (1, question.answer(rows))
            most = float("inf") if question.limit is None else question.limit + question.offset
            async for outcome in query._selection("keys").calls():
                assert len(outcome[1]) <= most

    run(clean_server, {}, work)


class Person(Model):
    name = KeyField()
    city: str = IndexedField()
    job: str | None = IndexedField(null=True)
    age: int = SortedField()
    shoe: float = SortedField()
    note: str | None = Field()


async def people(count: int = 1200) -> None:
    await Person.create_many(
        {
            "name": f"p{i:04}",
            "city": "ab"[i % 2],
            "job": f"j{i % 40}",
            "age": i % 100,
            "shoe": float(i),
            "note": f"n{i % 3}",
        }
        for i in range(count)
    )


CONDITIONS: dict[str, tuple[dict[str, Any], Any]] = {
    "city": ({"city": "a"}, lambda i: i % 2 == 0),
    "job": ({"job": "j4"}, lambda i: i % 40 == 4),
    "age": ({"age__lte": 19}, lambda i: i % 100 < 20),
    "shoe": ({"shoe__between": (600.0, 699.0)}, lambda i: 600 <= i <= 699),
    "note": ({"note": "n1"}, lambda i: i % 3 == 1),
}


async def test_the_most_selective_index_drives(db: Database) -> None:
    """Whatever else is asked, and in whichever form: only what it holds is looked at."""
    await people()
    sizes = {name: sum(map(CONDITIONS[name][1], range(1200))) for name in CONDITIONS}
    names = ("city", "job", "age", "shoe")
    pairs = [[a, b] for a in names for b in names if a < b]
    for chosen_names in [*pairs, list(names), ["note", "job"], ["note", "age"]]:
        least = min(sizes[name] for name in chosen_names if name != "note")
        together = Person.query.order_by("note")
        for name in chosen_names:
            together = together.filter(**CONDITIONS[name][0])
        parts = [Q(**CONDITIONS[name][0]) for name in chosen_names]
        for query in (together, Person.query.filter(*reversed(parts)).order_by("note")):
            explained = await query.explain()
            assert explained.examined == least, explained
            assert len(explained.driver) == 1
            assert next(name for name in chosen_names if sizes[name] == least) in explained.driver[0]
            assert explained.rows == sum(all(CONDITIONS[n][1](i) for n in chosen_names) for i in range(1200))
        assert await together.count() == explained.rows


async def test_an_explanation_for_people(db: Database) -> None:
    await people()
    query = Person.query.filter(Q(city="a") | Q(job="j1"), age__gte=90).order_by("-age").limit(5)
    explained = await query.explain()
    assert str(explained) == "\n".join(
        [
            "<Query of Person: (city='a' | job='j1'), age__gte=90>",
            "plan      walk 90 <= Sort:age until the page is full",
            "order     Sort:age descending, pushed down",
            "filter    any of: about 630 of 1,200, 12 of 36 looked up passed",
            "filter      Index:city = a: about 600 of 1,200, 12 of 36 looked up passed",
            "filter      Index:job = j1: about 30 of 1,200, 0 of 24 looked up passed",
            "order     90 <= Sort:age: about 120 of 1,200, 12 of 12 looked up passed",
            "rows      5, of 36 examined",
            f"cost      {explained.spent:,.0f} of a budget of 1,500 a call, {explained.bound:,.0f} at most",
            f"commands  {sum(explained.commands.values())}: "
            + ", ".join(f"{count} {name}" for name, count in sorted(explained.commands.items())),
            "trips     1",
        ]
    )
    with pytest.raises(AttributeError):
        explained.rows = 3


async def test_an_explanation_tells_that_it_is_no_snapshot(db: Database) -> None:
    await people()
    explained = await Person.query.filter(note="n1").order_by("note").explain()
    assert explained.continued
    assert explained.trips > 1
    assert "true of each record when it was read" in str(explained)
    assert (explained.rows, explained.examined, explained.pushed_down) == (400, 1200, False)
    assert "every candidate of the class" in str(explained)


async def test_the_commands_are_those_of_the_server(db: Database, clean_server: Server) -> None:
    await people(300)
    queries: list[Any] = [
        Person.query.filter(city="a", age__lt=20).order_by("-shoe").limit(7), Person.query.filter(~Q(city="a"), shoe=5),
        Person.query.limit(3), Person.query.filter(name__in=["p0001", "p0002"]), Person.query.limit(0),
        Person.query.filter(job="j1"),
    ]  # fmt: skip
    for query in queries:
        await query
        with servers.count_commands(clean_server) as counted:
            explained = await query.explain()
        ran = {name.lower(): count for name, count in explained.commands.items()}
        # Beside them, a call reads the clock, looks for expired records and, to report, at sizes.
        beside = {"evalsha_ro": 1, "time": 1, "zrange": 1, "zcard": 10, "zcount": 10}
        assert set(counted.calls) - set(ran) <= set(beside)
        for name, count in ran.items():
            assert count <= counted.calls[name] <= count + beside.get(name, 0), explained


async def test_a_range_reads_each_row_once(db: Database) -> None:
    """A walk along the very candidates that another plan would go through leaves nothing of its budget to that plan."""
    await people(1200)
    explained = await Person.query.filter(shoe__gte=400, shoe__lt=520).explain()
    assert (explained.trips, explained.rows, explained.commands["HMGET"]) == (1, 120, 120)


async def test_a_walk_that_finds_too_little_still_ends_in_its_call(db: Database) -> None:
    """All that match stand at the wrong end of the order: the few candidates of the index answer in the same call."""
    await Person.create_many(
        {"name": f"p{i:04}", "city": "b" if i >= 2850 else "a", "age": i, "shoe": 0.0} for i in range(3000)
    )
    query = Person.query.filter(city="b").order_by("age").limit(10)
    explained = await query.explain()
    assert explained.bound <= BUDGET
    assert (explained.trips, explained.rows) == (1, 10)
    assert [one.age for one in await query] == list(range(2850, 2860))
