"""Beginnings, endings and parts of texts against str.startswith, str.endswith and `in`, on both servers.

Budgets of a few candidates stand for collections of many: the same walks stop and go on everywhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum, StrEnum
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from popoto_async import (
    AutoKeyField,
    Database,
    Field,
    IndexedField,
    InvalidLookup,
    KeyField,
    Model,
    ModelException,
    Relationship,
    SortedField,
    UniqueField,
    UniqueKeyField,
    connect,
    maintenance,
    trace,
)
from popoto_async.planning import read
from tests import servers
from tests.examples import examples
from tests.model_of_store import TEXT_LOOKUPS, Rows, assert_true, holds, ordered, record_key, values_of
from tests.random_queries import Asked, asked
from tests.servers import Server

pytestmark = pytest.mark.anyio


class Colour(Enum):
    RED = "red"
    DARK_RED = "dark red"
    PERCENT = "100%:"


class Size(StrEnum):
    SMALL = "small"
    TALL = "tall"


class Word(Model):
    """A single key, which lists itself, beside every kind of field that lists its values."""

    text: str = KeyField()
    code: str = UniqueField(suffixes=True)
    nick: str = UniqueField()
    tag: str | None = IndexedField()
    end: str | None = IndexedField(suffixes=True)
    colour: Colour | None = IndexedField()
    size: Size | None = IndexedField(suffixes=True)
    rank: int = SortedField(default=0)


class Entry(Model):
    """Parts of keys, nulls among them."""

    first: str | None = KeyField(null=True)
    second: str | None = KeyField(null=True, suffixes=True)
    third: str = UniqueKeyField()
    rank: int = SortedField(default=0)


class Login(Model):
    """Unique keys alone."""

    mail: str = UniqueKeyField(suffixes=True)
    rank: int = SortedField(default=0)


class Visit(Model):
    """A unique first part, listed by the keys alone."""

    id: str = AutoKeyField()
    place: str = KeyField()


MODELS: list[type[Model]] = [Word, Entry, Login, Visit]
PARTS = ["a", "b", "ab", "A", "%", "25", "%25", ":", "*", "?", "[a]", "]", "'", "/", "\\", "{}", "\n", "\0", "\x7f"]
UNUSUAL = ["é", "e\u0301", "\u0301", "🦊", "👩\u200d🚀", "ß", "\uffff", "\u0080", "\U0010ffff", "null", "%null", "None"]
texts = st.lists(st.sampled_from(PARTS + UNUSUAL), max_size=4).map("".join)
nullable = st.one_of(st.none(), texts)
OPERANDS: dict[type[Model], dict[str, Any]] = {
    Word: {"text": texts, "code": texts, "nick": texts, "tag": nullable, "end": nullable, "rank": st.integers(0, 4)},
    Entry: {"first": nullable, "second": nullable, "third": texts, "rank": st.integers(0, 4)},
    Login: {"mail": texts, "rank": st.integers(0, 4)},
    Visit: {"id": texts, "place": texts},
}
ENUMS = {"colour": st.sampled_from([None, *Colour]), "size": st.sampled_from([None, *Size])}


@st.composite
def collections(draw: Any, model: type[Model], most: int = 14) -> Rows:
    """Rows by record key, unique ones unique."""
    operands = OPERANDS[model] | (ENUMS if model is Word else {})
    unique = [name for name, field in model._meta.fields.items() if field.always_unique]
    ways = (lambda row: record_key(model, row), *(lambda row, name=name: row[name] for name in unique))
    rows = draw(st.lists(st.fixed_dictionaries(operands), max_size=most, unique_by=ways))
    return {record_key(model, row): row for row in rows}


def run(server: Server, model: type[Model], rows: Rows, work: Callable[[], Any]) -> None:
    """Do the work in a loop of its own, on an emptied server with these rows."""
    server.client.flushall()

    async def main() -> None:
        async with connect(server.unix_url):
            await store(model, rows)
            assert_true(server, [model], {model: rows})
            await work()

    asyncio.run(main())


async def store(model: type[Model], rows: Rows) -> None:
    summary = await model.create_many(dict(row) for row in rows.values())
    assert summary.failed == 0, summary.failures


@contextmanager
def budget_of(candidates: int) -> Iterator[None]:
    """Calls that look at no more than this."""
    before = read.BUDGET, read.COUNT_BUDGET
    read.BUDGET = read.COUNT_BUDGET = candidates
    try:
        yield
    finally:
        read.BUDGET, read.COUNT_BUDGET = before


async def check(question: Asked, rows: Rows, *, in_one: bool) -> int:
    """Every form of a query; how many round trips they took."""
    keys, query = question.answer(rows), question.query()
    trips, column = 0, list(question.model._meta.fields)[-1]
    forms: list[tuple[Callable[[], Any], Any]] = [
        (query.keys, keys), (query.count, len(keys)), (query.exists, bool(keys)),
        (lambda: query.values(column), [{column: rows[key][column]} for key in keys]),
    ]  # fmt: skip
    for form, expected in forms:
        async with trace() as traced:
            assert await form() == expected, question
        assert traced.round_trips == 1 or not in_one, question
        trips += traced.round_trips
    assert [values_of(one) for one in await query] == [rows[key] for key in keys], question
    return trips


@pytest.mark.parametrize("model", MODELS)
def test_random_texts(clean_server: Server, model: type[Model]) -> None:
    """Alone, and with equalities, ranges, orders, limits and offsets: one round trip each, or continuations."""

    @examples(60)
    @given(
        rows=collections(model),
        questions=st.lists(asked(model, OPERANDS[model]), min_size=6, max_size=10),
        budget=st.sampled_from([None, 1, 3, 9]),
    )
    def compare(rows: Rows, questions: list[Asked], budget: int | None) -> None:
        async def work() -> None:
            for question in questions:
                if budget is None:
                    await check(question, rows, in_one=True)
                else:
                    with budget_of(budget):
                        await check(question, rows, in_one=False)

        run(clean_server, model, rows, work)

    compare()


HARD = ["", *PARTS, *UNUSUAL, "a:b", "a%3Ab", "ab%", "b%25", "abé", "ba\u0301e", "x🦊", "100%", "[ab]*"]
HARD_ROWS: dict[type[Model], list[dict[str, Any]]] = {
    Word: [
        {
            "text": text, "code": text[::-1], "nick": f"{i}{text}", "tag": HARD[i % 7] if i % 5 else None,
            "end": HARD[-i % 11] if i % 3 else None, "colour": [None, *Colour][i % 4], "size": [None, *Size][i % 3],
            "rank": i % 4,
        }
        for i, text in enumerate(dict.fromkeys(HARD))
    ],
    Entry: [
        {"first": HARD[i % 9] if i % 4 else None, "second": text, "third": text + "x", "rank": i % 4}
        for i, text in enumerate([*dict.fromkeys(HARD)])
    ],
    Login: [{"mail": text, "rank": i % 4} for i, text in enumerate(dict.fromkeys(HARD))],
    Visit: [{"id": text, "place": HARD[i % 6]} for i, text in enumerate(dict.fromkeys(HARD))],
}  # fmt: skip


@pytest.mark.parametrize("model", MODELS)
async def test_every_character(db: Database, clean_server: Server, model: type[Model]) -> None:
    rows = {record_key(model, row): row for row in HARD_ROWS[model]}
    await store(model, rows)
    assert_true(clean_server, [model], {model: rows})
    names = [name for name in OPERANDS[model] if name != "rank"] + (list(ENUMS) if model is Word else [])
    queries = {
        (name, lookup, text): model.query.filter(**{f"{name}__{lookup}": text})
        for name in names for lookup in TEXT_LOOKUPS for text in (*HARD, "5", "%2", "e", "red", "a" * 2000)
    }  # fmt: skip
    for begin in range(0, len(queries), 100):
        some = dict(list(queries.items())[begin : begin + 100])
        found = await asyncio.gather(*(query.keys() for query in some.values()))
        counts = await asyncio.gather(*(query.count() for query in some.values()))
        for condition, keys, count in zip(some, found, counts, strict=True):
            expected = ordered({key: row for key, row in rows.items() if holds(row, *condition)})
            assert (keys, count) == (expected, len(expected)), condition


Tree = tuple[Any, Callable[[dict[str, Any]], bool]]


@st.composite
def leaves(draw: Any) -> Tree:
    name = draw(st.sampled_from(["text", "code", "nick", "tag", "end"]))
    lookup, text = draw(st.sampled_from(TEXT_LOOKUPS)), draw(st.sampled_from([*PARTS, *UNUSUAL, ""]))
    return getattr(getattr(Word, name), lookup)(text), lambda row: holds(row, name, lookup, text)


trees: st.SearchStrategy[Tree] = st.recursive(
    st.one_of(leaves(), st.integers(0, 4).map(lambda n: (Word.rank >= n, lambda row: row["rank"] >= n))),
    lambda inner: st.one_of(
        st.builds(lambda a, b: (a[0] | b[0], lambda row: a[1](row) or b[1](row)), inner, inner),
        st.builds(lambda a, b: (a[0] & b[0], lambda row: a[1](row) and b[1](row)), inner, inner),
        st.builds(lambda a: (~a[0], lambda row: not a[1](row)), inner),
    ),
    max_leaves=5,
)


def test_trees_of_conditions(clean_server: Server) -> None:
    @examples(60)
    @given(
        rows=collections(Word),
        some=st.lists(trees, min_size=4, max_size=6),
        order=st.sampled_from([("-rank",), ("rank", "-tag"), ("text",), ("-end", "code")]),
        budget=st.sampled_from([2000, 2, 7]),
    )
    def compare(rows: Rows, some: list[Tree], order: tuple[str, ...], budget: int) -> None:
        async def work() -> None:
            for expression, predicate in some:
                keys = ordered({key: row for key, row in rows.items() if predicate(row)}, order)
                query = Word.query.filter(expression).order_by(*order)
                with budget_of(budget):
                    async with trace() as traced:
                        assert await query.keys() == keys
                    assert traced.round_trips == 1 or budget < 2000
                    assert await query.limit(2).offset(1).keys() == keys[1:3]
                    assert await query.count() == len(keys)

        run(clean_server, Word, rows, work)

    compare()


# Many texts ----------------------------------------------------------------------------------------------------------

MANY = 6000


class Person(Model):
    name: str = KeyField()
    mail: str = UniqueField(suffixes=True)
    phone: str = UniqueField()
    city: str | None = IndexedField()
    street: str | None = IndexedField(suffixes=True)
    group: str = IndexedField()
    age: int = SortedField()


def people(count: int) -> Rows:
    """Names in key order; a city for each, and some cities of thousands; as many streets as people."""
    rows = (
        {
            "name": f"n{i:05d}", "mail": f"{i * 7919 % 100_003:06d}@{'ab'[i % 2]}.org", "phone": f"+{i * 31:07d}",
            "city": f"big{i % 3}" if i % 2 else f"c{i:05d}", "street": f"{i:05d} road", "group": f"g{i % 4}",
            "age": i % 100,
        }
        for i in range(count)
    )  # fmt: skip
    return {record_key(Person, row): row for row in rows}


LONG: dict[str, Asked] = {
    "a claim each": Asked(Person, (("phone", "startswith", "+0"),)),
    "a claim each, looked through": Asked(Person, (("mail", "contains", "9@a"),)),
    "a claim each, mirrored": Asked(Person, (("mail", "endswith", "a.org"),)),
    "a set each": Asked(Person, (("street", "startswith", "0"),)),
    "a set each, mirrored": Asked(Person, (("street", "endswith", " road"),)),
    "large sets": Asked(Person, (("city", "startswith", "big"),)),
    "large sets, looked through": Asked(Person, (("city", "endswith", "g1"),)),
    "keys": Asked(Person, (("name", "startswith", "n0"),)),
    "keys, looked through": Asked(Person, (("name", "contains", "5"),)),
    "a small part": Asked(Person, (("phone", "startswith", "+00001"),)),
    "nothing": Asked(Person, (("mail", "contains", "@c"),)),
    "a text and a range": Asked(Person, (("mail", "endswith", "b.org"), ("age", "gte", 50)), ("-age", "name")),
    "text, range, equality": Asked(
        Person, (("street", "startswith", "0"), ("group", "eq", "g1"), ("age", "lt", 30)), ("age",), 20, 10
    ),
    "ordered by another index": Asked(Person, (("city", "contains", "ig"),), ("-age",), 30, 5),
    "ordered, rare": Asked(Person, (("mail", "contains", "00@a"),), ("age",), 30),
    "two texts": Asked(Person, (("name", "endswith", "7"), ("city", "startswith", "big"))),
    "not null": Asked(Person, (("city", "startswith", ""),), ("-name",), 5),
}


async def test_many_texts(db: Database, clean_server: Server) -> None:
    """In calls that are bounded, with the same rows; a count by the list alone, or by few sets, is one."""
    rows = people(MANY)
    await store(Person, rows)
    with servers.count_commands(clean_server) as counted:
        trips = {name: await check(question, rows, in_one=False) for name, question in LONG.items()}
    assert counted.calls.keys() & {"keys", "scan", "sscan", "hscan", "zscan", "smembers", "sort", "evalsha"} == set()
    for name in ("a claim each, looked through", "a set each", "a set each, mirrored", "large sets", "keys", "nothing"):
        assert trips[name] > 4, name
    assert trips["a small part"] == 4
    for name in ("a claim each", "keys", "large sets"):
        async with trace() as traced:
            await LONG[name].query().count()
        assert traced.round_trips == 1, name


@pytest.mark.parametrize(
    "question",
    [
        Asked(Person, (("name", "startswith", "n01"),), (), 10),
        Asked(Person, (("name", "contains", "99"),), (), 10),
        Asked(Person, (("phone", "startswith", "+0"),), (), 10),
        Asked(Person, (("phone", "startswith", "+0"),), ("-age",), 10),
        Asked(Person, (("mail", "endswith", "a.org"),), ("age",), 10, 20),
        Asked(Person, (("mail", "contains", "@a"), ("group", "eq", "g2")), ("age",), 10),
        Asked(Person, (("street", "endswith", "9 road"), ("age", "between", (20, 60))), ("-age",), 10),
        Asked(Person, (("city", "startswith", "big"), ("age", "gte", 50), ("group", "eq", "g1")), ("age",), 10),
        Asked(Person, (("city", "contains", "00017"), ("age", "eq", 34)), (), 10),
        Asked(Person, (("phone", "startswith", "+00000"), ("age", "lt", 50)), ("age",)),
    ],
    ids=str,
)
async def test_one_round_trip(db: Database, clean_server: Server, question: Asked) -> None:
    """A page of many, and all of few."""
    rows = people(2500)
    await store(Person, rows)
    query = question.query()
    async with trace() as traced:
        assert await query.keys() == question.answer(rows)
    assert traced.round_trips == 1


async def test_keys_of_the_first_part_are_a_stretch(db: Database, clean_server: Server) -> None:
    """A page at an offset costs the page: the budget would not do for the candidates before it."""
    rows = people(2500)
    await store(Person, rows)
    query = Person.query.filter(name__startswith="n0")
    with budget_of(40):
        async with trace() as traced:
            assert await query.limit(10).offset(1500).keys() == list(rows)[1500:1510]
            assert (await Person.query.filter(name__startswith="n01").last()).name == "n01999"
        assert traced.round_trips == 2


async def test_texts_that_come_and_go_meanwhile(db: Database, clean_server: Server) -> None:
    """Between the calls of one answer: every record that stays comes once, one that comes or goes at most once."""
    rows = people(400)
    await store(Person, rows)
    names = list(rows)
    with budget_of(20):
        for lookups in (
            {"city__contains": "c"}, {"city__startswith": "b"}, {"mail__endswith": ".org"}, {"phone__startswith": "+"},
            {"street__endswith": "road"}, {"name__contains": "n"},
        ):  # fmt: skip
            expected = {one.name for one in await Person.query.filter(**lookups)}
            found, moved = [], set()
            query = Person.query.filter(**lookups).values("name")
            selection = query._selection("rows")
            number = 0
            async for outcome in selection.calls():
                found += [key.decode().partition(":")[2] for key in outcome[1]]
                for step in (number, -number - 1):
                    name = names[step % len(names)].partition(":")[2]
                    moved.add(name)
                    await Person(name=name).delete()
                    await Person.create(**rows[f"Person:{name}"])
                extra = f"n{90_000 + number}"
                moved.add(extra)
                await Person.create(
                    **{**rows[names[0]], "name": extra, "mail": f"{number}x@a.org", "phone": f"+9{number}"}
                )
                number += 1
            assert number > 10, "the answer came in one call"
            assert len(found) == len(set(found)), lookups
            assert expected - moved <= set(found) <= expected | moved
            for extra in moved:
                await Person(name=extra).delete()
            await Person.create_many([dict(row) for row in rows.values()])
    assert_true(clean_server, [Person], {Person: rows})


# Lists that stay true ------------------------------------------------------------------------------------------------


async def test_lists_follow_every_verb(db: Database, clean_server: Server) -> None:
    rows = HARD_ROWS[Entry]
    records = [await Entry.create(**row) for row in rows]
    assert_true(clean_server, MODELS)
    for i, record in enumerate(records):
        record.second = HARD[i % 5]
        await record.save(update_fields=["second"])
        await record.increment("rank", 3)
    assert_true(clean_server, MODELS)
    for record in records[::2]:
        record.first, record.third = None, f"{record.third}!"
        await record.save()
    assert_true(clean_server, MODELS)
    ending = records[::3]
    for record in ending:
        await record.expire_in(0.001)
    while await Entry.query.count() > len(records) - len(ending):
        await asyncio.sleep(0.001)
    assert_true(clean_server, MODELS)
    await Entry.delete_many(await Entry.query.all())
    assert set(assert_true(clean_server, MODELS)) == {b"$Slots:Entry"}


def declared(**options: Any) -> type[Model]:
    """A class of one name, declared in several ways: releases of one program, side by side."""

    class Release(Model):
        name: str = KeyField()
        tag: str | None = IndexedField(**options)

    return Release


async def test_classes_that_declare_less_keep_the_lists_of_others(db: Database, clean_server: Server) -> None:
    """The line of the slot table that both share keeps the longer form, in whatever order they come."""
    old, new = declared(), declared(suffixes=True)
    await old.create(name="a", tag="x:y")
    await new.create(name="b", tag="yé")
    await maintenance.rebuild(new)  # the list of reversed texts is new to the record that was there
    line = clean_server.client.get("$Slots:Release")
    assert line.partition(b"\n\n")[0] == b"m$Index:Release:tag:\t$Val:Release:tag\t$Rev:Release:tag"
    async with connect(clean_server.url):
        await old.create(name="c", tag="zé")
        assert await old.query.filter(tag__endswith="é").keys() == ["Release:b", "Release:c"]
    await old.create(name="d", tag="dé")
    assert await new.query.filter(tag__endswith="é").keys() == ["Release:b", "Release:c", "Release:d"]
    await old(name="b").delete()
    assert clean_server.client.zrange("$Rev:Release:tag", 0, -1) == [b"y%3Ax", "éd".encode(), "éz".encode()]
    assert clean_server.client.get("$Slots:Release") == line


# Through relations ----------------------------------------------------------------------------------------------------


class Place(Model):
    name: str = KeyField()
    owner: str = UniqueField(suffixes=True)
    town: str | None = IndexedField()


class Dish(Model):
    name: str = KeyField()
    place = Relationship(Place)


@pytest.mark.parametrize("count", [20, 700])
async def test_texts_of_other_records(db: Database, count: int) -> None:
    """Of few, whose referrers are looked up, and of many, which are looked at from the records that refer to them."""
    towns = [None, "York", "New York", "Yorkshire", "100%", "é"]
    shops = {
        f"p{i:03d}": {"name": f"p{i:03d}", "owner": f"{i}@{'ab'[i % 2]}", "town": towns[i % len(towns)]}
        for i in range(count)
    }
    await Place.create_many(dict(row) for row in shops.values())
    dishes = {f"d{i:03d}": f"p{i * 7 % count:03d}" if i % 5 else None for i in range(200)}
    await Dish.create_many({"name": name, "place": at and f"Place:{at}"} for name, at in dishes.items())
    for name, texts_asked in {
        "name": ["p0", "9", "1", "p00"], "owner": ["1", "@a", "@"], "town": ["York", "e", "%", "é", "x"]
    }.items():  # fmt: skip
        for lookup in TEXT_LOOKUPS:
            for text in texts_asked:
                expected = [
                    f"Dish:{dish}" for dish, at in dishes.items() if at and holds(shops[at], name, lookup, text)
                ]
                condition = {f"place__{name}__{lookup}": text}
                assert await Dish.query.filter(**condition).keys() == expected, condition
                assert await Dish.query.filter(**condition).count() == len(expected), condition


# What can't be asked -------------------------------------------------------------------------------------------------


class Other(Model):
    number: int = KeyField()
    ident: UUID | None = IndexedField()
    tag: str | None = IndexedField()
    colour: Colour | None = IndexedField()
    plain: str | None = Field()
    at: int = SortedField(default=0)


@pytest.mark.parametrize(
    ("lookup", "message"),
    [
        ({"number__startswith": "1"}, "of type int"), ({"ident__contains": "a"}, "of type UUID"),
        ({"tag__startswith": 5}, "not int"), ({"tag__startswith": None}, "not NoneType"),
        ({"tag__contains": b"a"}, "not bytes"), ({"tag__endswith": ["a"]}, "not list"),
        ({"colour__startswith": Colour.RED}, "not Colour"), ({"tag__contains": "\ud800"}, "surrogates"),
        ({"plain__contains": "a"}, "no lookup 'contains'"), ({"at__startswith": "1"}, "no lookup 'startswith'"),
        ({"tag__icontains": "1"}, "no lookup 'icontains'"),
    ],
)  # fmt: skip
def test_lookups_that_cannot_be(lookup: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidLookup, match=message):
        Other.query.filter(**lookup)


def test_declarations_that_cannot_be() -> None:
    def number() -> None:
        class A(Model):
            number: int = IndexedField(suffixes=True)

    def sole() -> None:
        class B(Model):
            name: str = KeyField(suffixes=True)

    def flag() -> None:
        flagged: Any = 1
        IndexedField(suffixes=flagged)

    for declare, message in ((number, "for texts"), (sole, "UniqueKeyField"), (flag, "True or False")):
        with pytest.raises(ModelException) as caught:
            declare()
        assert message in "".join([str(caught.value), *getattr(caught.value, "__notes__", [])])


async def test_members_of_enums_are_compared_by_their_values(db: Database) -> None:
    await Word.create(text="a", code="a", nick="a", colour=Colour.DARK_RED, size=Size.TALL)
    assert await Word.query.filter(colour__endswith="red", size__startswith="ta").count() == 1
    assert await Word.query.filter(size__startswith=Size.TALL).count() == 1
    assert await Word.query.filter(Word.colour.contains("RED") | Word.size.endswith("x")).count() == 0
