"""check finds each kind of damage and nothing else; repair takes it away and changes nothing else."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from popoto_async import (
    Database,
    Field,
    GeoField,
    IndexedField,
    KeyField,
    ListField,
    Model,
    PopotoError,
    Relationship,
    SortedField,
    UniqueField,
    UniqueKeyField,
    ValidationError,
    connect,
    maintenance,
    trace,
    using,
)
from popoto_async.maintenance import Damage, Report
from popoto_async.maintenance.survey import Survey
from tests.examples import examples
from tests.model_of_store import Dump, assert_true, snapshot
from tests.servers import Server

pytestmark = pytest.mark.anyio


class Shop(Model):
    name: str = KeyField()
    email: str = UniqueField()
    cuisine: str | None = IndexedField(suffixes=True)
    seats: int | None = SortedField(null=True)
    rating: float | None = SortedField(null=True, partition_by="cuisine")
    place = GeoField()
    note: str | None = Field()


class Stay(Model):
    hotel: str = KeyField()
    code: str = UniqueKeyField()
    room: int | None = Field()
    price: Decimal = SortedField(partition_by="hotel")

    class Meta:
        unique_together = (("hotel", "room"),)
        indexes = ((("room", "hotel"), False),)
        versioned = True


class Bare(Model):
    name: str = KeyField()


MODELS: list[type[Model]] = [Shop, Stay, Bare]
Finding = tuple[str, str, str, str]


def shop(name: str, **values: Any) -> dict[str, Any]:
    found = {"name": name, "email": f"{name}@x", "cuisine": "Thai", "seats": 40, "rating": 4.5, "place": (40.7, -73.9)}
    return {**found, "note": None, **values}


async def furnish() -> None:
    """Records with manifests inside and outside, a deadline, ties, nulls, a pole, and hard texts."""
    await Shop.create(**shop("a"))
    await (await Shop.create(**shop("b", cuisine="Greek:%", seats=2**60 + 1, place=(90, 0)))).expire_in(5000)
    await Shop.create(**shop("c", cuisine=None, seats=None, rating=None, place=None))
    await Stay.create(hotel="Ritz", code="1", room=7, price=Decimal("99.90"))
    await (await Stay.create(hotel="a:b", code="2", room=None, price=Decimal("0.10000000000000000001"))).expire_in(5000)
    await Bare.create(name="x")
    await (await Bare.create(name="y")).expire_in(5000)


def findings(report: Report) -> list[Finding]:
    return sorted((one.kind, one.key, one.place, one.tail) for model in report.models for one in model.damage)


GARBAGE = [
    b"",
    b"\xc1",
    b"text",
    msgspec.msgpack.encode([1, "x"]),
    msgspec.msgpack.encode([99, "x", "0"]),
    msgspec.msgpack.encode({"a": 1}),
    msgspec.msgpack.encode(7),
    msgspec.msgpack.encode([0, b"x", "0"]),
]

Plant = Callable[[Any], object]
PLANTED: dict[str, tuple[Plant, list[Finding]]] = {
    "a member is missing": (
        lambda c: c.zrem("$Index:Shop:cuisine:Thai", "Shop:a"),
        [("missing", "Shop:a", "$Index:Shop:cuisine:Thai", "")],
    ),
    "a whole index key is missing": (
        lambda c: c.delete("$Sort:Shop:seats", "$Geo:Shop:place"),
        [
            ("missing", "Shop:a", "$Geo:Shop:place", ""),
            ("missing", "Shop:a", "$Sort:Shop:seats", ""),
            ("missing", "Shop:b", "$Sort:Shop:seats", ""),
        ],
    ),
    "a member of a dead record": (
        lambda c: c.zadd("$Index:Shop:cuisine:Thai", {"Shop:dead": 0}),
        [("orphan", "Shop:dead", "$Index:Shop:cuisine:Thai", "")],
    ),
    "a member that is no record's key": (
        lambda c: c.zadd("$Sort:Shop:seats", {"Bare:x": 0, b"\xff\x00": 1}),
        [("orphan", "Bare:x", "$Sort:Shop:seats", ""), ("orphan", "\ufffd\x00", "$Sort:Shop:seats", "")],
    ),
    "a member under a wrong value": (
        lambda c: c.zadd("$Index:Shop:cuisine:Greek%3A%25", {"Shop:a": 0}),
        [("extra", "Shop:a", "$Index:Shop:cuisine:Greek%3A%25", "")],
    ),
    "a member under a value that nobody has": (
        lambda c: c.zadd("$Index:Shop:cuisine:", {"Shop:a": 0}),
        [("extra", "Shop:a", "$Index:Shop:cuisine:", "")],
    ),
    "a member in another partition": (
        lambda c: c.zadd("$Sort:Shop:rating:Lao", {"Shop:a": 1}),
        [("extra", "Shop:a", "$Sort:Shop:rating:Lao", "")],
    ),
    "a wrong score": (
        lambda c: c.zadd("$Sort:Shop:seats", {"Shop:a": 41}),
        [("score", "Shop:a", "$Sort:Shop:seats", "")],
    ),
    "a wrong score of a value": (
        lambda c: c.zadd("$Index:Shop:cuisine:Thai", {"Shop:a": 3}),
        [("score", "Shop:a", "$Index:Shop:cuisine:Thai", "")],
    ),
    "ties, nulls and poles that are wrong": (
        lambda c: [
            c.zadd("$Tie:Shop:seats", {"Shop:a": 40}),
            c.delete("$Null:Shop:seats"),
            c.zadd("$Null:Shop:rating:Thai", {"Shop:a": 0}),
            c.zrem("$Pole:Shop:place", "Shop:b"),
            c.zadd("$Pole:Shop:place", {"Shop:a": 0}),
        ],
        [
            ("extra", "Shop:a", "$Null:Shop:rating:Thai", ""),
            ("extra", "Shop:a", "$Pole:Shop:place", ""),
            ("extra", "Shop:a", "$Tie:Shop:seats", ""),
            ("missing", "Shop:b", "$Pole:Shop:place", ""),
            ("missing", "Shop:c", "$Null:Shop:seats", ""),
        ],
    ),
    "a missing claim": (
        lambda c: c.hdel("$Uniq:Shop:email", "a@x"),
        [("missing", "Shop:a", "$Uniq:Shop:email", "a@x")],
    ),
    "missing claims of keys and of several fields": (
        lambda c: c.delete("$UniqKey:Stay:code", "$Uniq:Stay:hotel+room"),
        [
            ("missing", "Stay:Ritz:1", "$UniqKey:Stay:code", "1"),
            ("missing", "Stay:Ritz:1", "$Uniq:Stay:hotel+room", "Ritz:7"),
            ("missing", "Stay:a%3Ab:2", "$UniqKey:Stay:code", "2"),
        ],
    ),
    "a claim of another record": (  # which has no right to it, as is told from its side too
        lambda c: c.hset("$Uniq:Shop:email", "a@x", "Shop:c"),
        [("claim", "Shop:a", "$Uniq:Shop:email", "a@x"), ("extra", "Shop:c", "$Uniq:Shop:email", "a@x")],
    ),
    "a claim of a dead record": (
        lambda c: c.hset("$Uniq:Shop:email", "old@x", "Shop:dead"),
        [("orphan", "Shop:dead", "$Uniq:Shop:email", "old@x")],
    ),
    "a stale claim": (
        lambda c: c.hset("$Uniq:Shop:email", "old@x", "Shop:a"),
        [("extra", "Shop:a", "$Uniq:Shop:email", "old@x")],
    ),
    "a value that is not listed": (
        lambda c: [c.zrem("$Val:Shop:cuisine", "Thai"), c.delete("$Val:Shop:email")],
        [
            ("missing", "Shop:a", "$Val:Shop:cuisine", "Thai"),
            *(("missing", f"Shop:{name}", "$Val:Shop:email", f"{name}@x") for name in "abc"),
        ],
    ),
    "a value that is not listed reversed": (
        lambda c: [
            c.zrem("$Rev:Shop:cuisine", "%25%3Akeerg".replace("g", "G")),
            c.zadd("$Rev:Shop:cuisine", {"iahT": 5}),
        ],
        [
            ("missing", "Shop:a", "$Rev:Shop:cuisine", "Thai"),
            ("missing", "Shop:b", "$Rev:Shop:cuisine", "Greek%3A%25"),
        ],
    ),
    "a listed value that nobody has": (
        lambda c: [
            c.zadd("$Val:Shop:cuisine", {"Lao": 0, "%null": 0}),
            c.zadd("$Rev:Shop:cuisine", {"Thai": 0, b"\xff": 1}),
            c.zadd("$Val:Shop:email", {"old@x": 0}),
            c.zadd("$Val:Shop:gone", {"a": 0}),
        ],
        [
            ("orphan", "%null", "$Val:Shop:cuisine", ""),
            ("orphan", "Lao", "$Val:Shop:cuisine", ""),
            ("orphan", "Thai", "$Rev:Shop:cuisine", ""),
            ("orphan", "a", "$Val:Shop:gone", ""),
            ("orphan", "old@x", "$Val:Shop:email", ""),
            ("orphan", "\ufffd", "$Rev:Shop:cuisine", ""),
        ],
    ),
    "a value that is listed and has no entries": (
        lambda c: [c.delete("$Index:Shop:cuisine:Thai", "$Uniq:Shop:email"), c.delete("$Rev:Shop:cuisine")],
        [
            ("missing", "Shop:a", "$Index:Shop:cuisine:Thai", ""),
            ("missing", "Shop:a", "$Rev:Shop:cuisine", "Thai"),
            ("missing", "Shop:b", "$Rev:Shop:cuisine", "Greek%3A%25"),
            *(("missing", f"Shop:{name}", "$Uniq:Shop:email", f"{name}@x") for name in "abc"),
        ],
    ),
    "a missing manifest": (
        lambda c: c.hdel("$Man:Shop", "Shop:b"),
        [("manifest", "Shop:b", "", "")],
    ),
    "missing manifests of all": (
        lambda c: c.delete("$Man:Shop", "$Man:Bare"),
        [("manifest", "Bare:y", "", ""), ("manifest", "Shop:b", "", "")],
    ),
    "an empty mark": (lambda c: c.hset("Bare:x", "$", ""), [("manifest", "Bare:x", "", "")]),
    "a foreign manifest": (
        lambda c: c.hset("$Man:Shop", "Shop:b", c.hget("Shop:a", "$")),
        [("manifest", "Shop:b", "", "")],
    ),
    "a manifest that names what is not there": (
        lambda c: c.hset("Shop:c", "$", msgspec.msgpack.encode([1, "zzz", "0"])),
        [("manifest", "Shop:c", "", "")],
    ),
    "a manifest that names too much, with the entry": (
        lambda c: [
            c.hset("Shop:c", "$", msgspec.msgpack.encode([1, "zzz", "0"])),
            c.zadd("$Index:Shop:cuisine:zzz", {"Shop:c": 0}),
        ],
        [("extra", "Shop:c", "$Index:Shop:cuisine:zzz", ""), ("manifest", "Shop:c", "", "")],
    ),
    "a manifest at both places": (
        lambda c: c.hset("$Man:Bare", "Bare:x", c.hget("Bare:x", "$")),
        [("manifest", "Bare:x", "", "")],
    ),
    "a manifest inside that belongs outside": (
        lambda c: [c.hset("Bare:y", "$", c.hget("$Man:Bare", "Bare:y")), c.hdel("$Man:Bare", "Bare:y")],
        [("manifest", "Bare:y", "", "")],
    ),
    "a manifest of no record": (
        lambda c: c.hset("$Man:Shop", mapping={"Shop:dead": b"\x90", "Bare:x": b"\x90"}),
        [("leftover", "Bare:x", "$Man:Shop", ""), ("leftover", "Shop:dead", "$Man:Shop", "")],
    ),
    "a record is not in its class": (lambda c: c.zrem("$Class:Bare", "Bare:x"), [("class", "Bare:x", "", "")]),
    "a score in the class": (lambda c: c.zadd("$Class:Bare", {"Bare:x": 2}), [("class", "Bare:x", "", "")]),
    "the class lists no record": (
        lambda c: c.zadd("$Class:Shop", {"Shop:dead": 0, "Bare:x": 0}),
        [("ghost", "Bare:x", "$Class:Shop", ""), ("ghost", "Shop:dead", "$Class:Shop", "")],
    ),
    "a deadline of no record": (
        lambda c: c.zadd("$Exp:Shop", {"Shop:dead": 4e12}),
        [("late", "Shop:dead", "$Exp:Shop", "")],
    ),
    "a record that ends without a listed deadline": (
        lambda c: c.zrem("$Exp:Bare", "Bare:y"),
        [("deadline", "Bare:y", "", "")],
    ),
    "another deadline than the listed one": (
        lambda c: c.zincrby("$Exp:Bare", 1e6, "Bare:y"),
        [("deadline", "Bare:y", "", "")],
    ),
    "a record deleted by hand": (
        lambda c: c.delete("Stay:Ritz:1", "Bare:y"),
        [
            ("ghost", "Bare:y", "$Class:Bare", ""),
            ("ghost", "Stay:Ritz:1", "$Class:Stay", ""),
            ("late", "Bare:y", "$Exp:Bare", ""),
            ("leftover", "Bare:y", "$Man:Bare", ""),
            ("orphan", "Stay:Ritz:1", "$Index:Stay:hotel:Ritz", ""),
            ("orphan", "Stay:Ritz:1", "$Index:Stay:room+hotel:7:Ritz", ""),
            ("orphan", "Stay:Ritz:1", "$Sort:Stay:price:Ritz", ""),
            ("orphan", "Stay:Ritz:1", "$UniqKey:Stay:code", "1"),
            ("orphan", "Stay:Ritz:1", "$Uniq:Stay:hotel+room", "Ritz:7"),
        ],
    ),
    "index keys of no index": (
        lambda c: [
            c.zadd("$Sort:Shop:gone", {"Shop:a": 1}),
            c.hset("$Uniq:Shop:gone", "x", "Shop:a"),
            c.zadd("$Tie:Shop:rating:x:y", {"z": 1}),
        ],
        [
            ("orphan", "Shop:a", "$Sort:Shop:gone", ""),
            ("orphan", "Shop:a", "$Uniq:Shop:gone", "x"),
            ("orphan", "z", "$Tie:Shop:rating:x:y", ""),
        ],
    ),
}


@pytest.mark.parametrize("what", PLANTED)
async def test_damage_is_found_and_repaired(db: Database, clean_server: Server, what: str) -> None:
    await furnish()
    healthy = snapshot(clean_server)
    assert (await maintenance.check(*MODELS)).clean
    plant, expected = PLANTED[what]
    plant(clean_server.client)
    if what == "a record deleted by hand":
        healthy = {key: value for key, value in healthy.items() if key not in (b"Stay:Ritz:1", b"Bare:y")}
    damaged = snapshot(clean_server)
    for dry in (await maintenance.check(*MODELS), await maintenance.repair(*MODELS, dry_run=True)):
        assert findings(dry) == sorted(expected)
        assert (dry.clean, dry.left) == (False, len(expected))
    assert snapshot(clean_server) == damaged
    assert (await maintenance.repair(*MODELS)).left == 0
    assert (await maintenance.check(*MODELS)).clean
    found = assert_true(clean_server, MODELS)
    if what != "a record deleted by hand":
        assert found == healthy


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("key", ["Bare:x", "Shop:c", "Shop:b"])
async def test_garbled_manifests(db: Database, clean_server: Server, key: str, garbage: bytes) -> None:
    await furnish()
    healthy = snapshot(clean_server)
    model = key.partition(":")[0]
    if clean_server.client.hget(key, "$"):
        clean_server.client.hset(key, "$", garbage)
    else:
        clean_server.client.hset(f"$Man:{model}", key, garbage)
    assert findings(await maintenance.check(*MODELS)) == [("manifest", key, "", "")]
    await maintenance.repair(*MODELS)
    assert snapshot(clean_server) == healthy


UNTOUCHED: dict[str, tuple[Plant, list[Finding]]] = {
    "a string under a record's key": (lambda c: c.set("Shop:z", "mine"), [("foreign", "Shop:z", "", "")]),
    "a hash that is no record": (lambda c: c.hset("Shop:z", "a", "b"), [("foreign", "Shop:z", "", "")]),
    "a foreign type in an index key": (
        lambda c: c.set("$Index:Shop:cuisine:zzz", "mine"),
        [("foreign", "$Index:Shop:cuisine:zzz", "", "")],
    ),
    "a foreign type in the key of no index": (
        lambda c: c.rpush("$Sort:Shop:gone", "mine"),
        [("foreign", "$Sort:Shop:gone", "", "")],
    ),
    "a foreign type where entries belong": (
        lambda c: [c.delete("$Sort:Shop:seats"), c.set("$Sort:Shop:seats", "mine")],
        [("foreign", "$Sort:Shop:seats", "", "")],
    ),
    "a foreign type where values are listed": (
        lambda c: [c.delete("$Val:Shop:email"), c.set("$Val:Shop:email", "mine")],
        [("foreign", "$Val:Shop:email", "", "")],
    ),
    "a foreign class key": (
        lambda c: [c.delete("$Class:Shop"), c.set("$Class:Shop", "mine")],
        [("foreign", "$Class:Shop", "", "")],
    ),
    "a foreign key of deadlines": (
        lambda c: [c.delete("$Exp:Shop"), c.set("$Exp:Shop", "mine")],
        [("foreign", "$Exp:Shop", "", "")],
    ),
    "a foreign slot table": (
        lambda c: [c.delete("$Slots:Shop"), c.rpush("$Slots:Shop", "mine")],
        [("foreign", "$Slots:Shop", "", "")],
    ),
    "a value that can't be read": (lambda c: c.hset("Shop:a", "seats", "many"), [("unreadable", "Shop:a", "", "")]),
    "a number that is none": (lambda c: c.hset("Shop:a", "rating", "nan"), [("unreadable", "Shop:a", "", "")]),
    "a record under another key": (
        lambda c: c.hset("Bare:w", mapping={"$": b"\x90", "name": "v"}) and c.zadd("$Class:Bare", {"Bare:w": 0}),
        [("misplaced", "Bare:w", "", "")],
    ),
    "two records of one value": (
        lambda c: (
            c.hset("Shop:d", mapping={**c.hgetall("Shop:c"), "name": "d"})
            and [
                c.zadd(key, {"Shop:d": 0})
                for key in ("$Class:Shop", "$Index:Shop:cuisine:%null", "$Null:Shop:seats", "$Null:Shop:rating:%null")
            ]
        ),
        [("duplicate", "Shop:d", "$Uniq:Shop:email", "c@x")],
    ),
}


@pytest.mark.parametrize("what", UNTOUCHED)
async def test_what_can_not_be_told_is_left_alone(db: Database, clean_server: Server, what: str) -> None:
    await furnish()
    plant, expected = UNTOUCHED[what]
    plant(clean_server.client)
    damaged = snapshot(clean_server)
    for report in (await maintenance.check(*MODELS), await maintenance.repair(*MODELS)):
        assert findings(report) == expected
        assert report.left == report.total == len(expected)
    assert snapshot(clean_server) == damaged


async def test_a_duplicate_names_both(db: Database, clean_server: Server) -> None:
    await furnish()
    UNTOUCHED["two records of one value"][0](clean_server.client)
    (damage,) = (await maintenance.check(Shop)).models[0].damage
    assert (damage.key, damage.other, damage.repairable) == ("Shop:d", "Shop:c", False)
    assert "Shop:d" in str(damage)
    assert "Shop:c" in str(damage)


async def test_the_rest_of_a_record_that_can_not_be_read_is_repaired(db: Database, clean_server: Server) -> None:
    await furnish()
    healthy = snapshot(clean_server)
    client = clean_server.client
    client.hset("Shop:a", "seats", "many")
    damaged = snapshot(clean_server)
    client.zrem("$Index:Shop:cuisine:Thai", "Shop:a")
    client.zadd("$Geo:Shop:place", {"Shop:a": 1})
    report = await maintenance.repair(Shop)
    assert (report.total, report.left) == (3, 1)
    assert snapshot(clean_server) == damaged
    client.hset("Shop:a", "seats", "40")
    assert snapshot(clean_server) == healthy


# Any damage ----------------------------------------------------------------------------------------------------------

texts = st.sampled_from(["Thai", "Greek", "a:b", "%null", "", "🦊", "None"])
numbers = st.one_of(st.none(), st.integers(-3, 3), st.sampled_from([2**60, 2**60 + 1]))
positions = st.sampled_from([None, (90, 0), (40.7, -73.9), (-85.2, 3.0), (0, 0)])
shops = st.fixed_dictionaries(
    {"cuisine": st.none() | texts, "seats": numbers, "rating": st.none() | st.floats(-9, 9), "place": positions}
)
members = st.sampled_from(["Shop:0", "Shop:1", "Shop:2", "Shop:3", "Shop:dead", "Stay:x"])
tails = st.sampled_from(["Thai", "Greek", "%null", "a%3Ab", "zzz"])
scores = st.sampled_from([0, 1, -2.5, 2**60])
zsets = st.one_of(
    tails.map("$Index:Shop:cuisine:{}".format),
    tails.map("$Sort:Shop:rating:{}".format),
    tails.map("$Null:Shop:rating:{}".format),
    st.sampled_from(["$Sort:Shop:seats", "$Tie:Shop:seats", "$Null:Shop:seats", "$Geo:Shop:place", "$Pole:Shop:place"]),
    st.sampled_from(["$Sort:Shop:none", "$Class:Shop"]),
)
blows = st.one_of(
    st.tuples(st.just("zadd"), zsets, members, scores),
    st.tuples(st.just("zrem"), zsets, members),
    st.tuples(st.just("zadd"), st.just("$Exp:Shop"), members, st.just(4e12)),
    st.tuples(st.just("zrem"), st.just("$Exp:Shop"), members),
    st.tuples(st.just("hset"), st.just("$Uniq:Shop:email"), st.sampled_from(["0@x", "9@x", "%null"]), members),
    st.tuples(st.just("hdel"), st.just("$Uniq:Shop:email"), st.sampled_from(["0@x", "1@x", "2@x"])),
    st.tuples(st.just("hset"), st.just("$Man:Shop"), members, st.sampled_from([b"\x90", *GARBAGE])),
    st.tuples(st.just("hdel"), st.just("$Man:Shop"), members),
    st.tuples(st.just("mark"), st.sampled_from(["Shop:0", "Shop:1"]), st.sampled_from([b"\x90", *GARBAGE])),
    st.tuples(st.just("delete"), zsets),
)


def strike(client: Any, blow: tuple[Any, ...]) -> None:
    verb, key, *rest = blow
    if verb == "zadd":
        client.zadd(key, {rest[0]: rest[1]})
    elif verb == "mark":
        if client.exists(key):
            client.hset(key, "$", rest[0])
    else:
        getattr(client, verb)(key, *rest)


def told(healthy: Dump, damaged: Dump) -> set[Finding]:
    """What check has to say of the difference between two keyspaces."""
    living = {key.decode() for key in healthy if key.startswith(b"Shop:")}
    found: set[Finding] = set()
    for raw in {*healthy, *damaged} - {b"$Slots:Shop"}:
        key = raw.decode()
        was, now = _items(healthy.get(raw, {})), _items(damaged.get(raw, {}))
        for item in {*was, *now}:
            if was.get(item) != now.get(item):
                found |= _told(key, item.decode(), was.get(item), now.get(item), living)
    return found


def _items(value: Any) -> dict[bytes, Any]:
    return dict(value)


def _told(key: str, item: str, was: Any, now: Any, living: set[str]) -> set[Finding]:
    lives = item in living
    match key.partition(":")[0]:
        case "Shop":
            return {("manifest", key, "", "")}
        case "$Man":
            return {("manifest", item, "", "") if lives else ("leftover", item, key, "")}
        case "$Class":
            return {("class", item, "", "") if lives else ("ghost", item, key, "")}
        case "$Exp":
            return {("deadline", item, "", "") if lives else ("late", item, key, "")}
        case "$Uniq":
            found = set()
            if was is not None:
                found.add(("missing" if now is None else "claim", was.decode(), key, item))
            if now is not None:
                found.add(("extra" if now.decode() in living else "orphan", now.decode(), key, item))
            return found
    if was is None:
        return {("extra" if lives and key != "$Sort:Shop:none" else "orphan", item, key, "")}
    return {("missing" if now is None else "score", item, key, "")}


@examples(60)
@given(rows=st.lists(shops, max_size=4), struck=st.lists(blows, min_size=1, max_size=6), ends=st.booleans())
def test_any_damage(clean_server: Server, rows: list[Any], struck: list[Any], ends: bool) -> None:
    async def run() -> None:
        clean_server.client.flushall()
        async with connect(clean_server.unix_url):
            for number, row in enumerate(rows):
                record = await Shop.create(name=str(number), email=f"{number}@x", **row)
                if ends and number % 2:
                    await record.expire_in(5000)
            healthy = assert_true(clean_server, [Shop])
            for blow in struck:
                strike(clean_server.client, blow)
            damaged = snapshot(clean_server)
            expected = told(healthy, damaged)
            report = await maintenance.check(Shop)
            assert set(findings(report)) == expected
            assert report.total == len(expected)
            await maintenance.repair(Shop, dry_run=True)
            assert snapshot(clean_server) == damaged
            assert (await maintenance.repair(Shop)).left == 0
            assert assert_true(clean_server, [Shop]) == healthy
            assert (await maintenance.check(Shop)).clean

    asyncio.run(run())


# While others work ---------------------------------------------------------------------------------------------------


async def test_others_go_on_writing(db: Database, clean_server: Server) -> None:
    """Repairs and rebuilds in a loop, writers of every kind, damage of every kind: at the end everything is true."""
    await asyncio.gather(*(Shop.create(**shop(f"fixed{n}", cuisine="Fixed", email=f"f{n}@x")) for n in range(30)))
    stop = asyncio.Event()

    async def keeper() -> None:
        async with connect(clean_server.url) as own:
            with using(own):
                while not stop.is_set():
                    await maintenance.repair(Shop)
                    await maintenance.rebuild(Shop)

    async def reader() -> None:
        while not stop.is_set():
            assert await Shop.query.filter(cuisine="Fixed", rating__gte=4).count() == 30
            assert len(await Shop.query.filter(seats__gte=1, cuisine="Fixed")) == 30

    async def writer(number: int) -> None:
        for turn in range(25):
            name = f"r{(number + turn) % 5}"
            record = Shop(**shop(name, email=f"e{(number * turn) % 7}", cuisine="abc"[turn % 3], seats=turn))
            await asyncio.gather(record.save(), _rename(name, f"r{turn % 6}"), return_exceptions=True)
            clean_server.client.zadd(f"$Index:Shop:cuisine:{'abc'[number % 3]}", {f"Shop:r{turn % 5}": 0, "Shop:q": 0})
            await asyncio.gather(Shop(name=f"r{(turn + number) % 5}").delete(), return_exceptions=True)

    async with asyncio.TaskGroup() as group:
        group.create_task(keeper())
        group.create_task(reader())
        async with asyncio.TaskGroup() as writers:
            for number in range(4):
                writers.create_task(writer(number))
        stop.set()
    await maintenance.repair(Shop)
    assert_true(clean_server, [Shop])


async def _rename(name: str, to: str) -> None:
    record = await Shop.load(name=name)
    if record is not None:
        record.name = to
        await record.save()


async def test_a_record_that_changes_meanwhile_is_mended_as_it_is_then(db: Database, clean_server: Server) -> None:
    """A damaged record is saved by somebody else at every step of a repair; it ends true each time."""
    await furnish()
    record = await Shop.load(name="a")
    assert record is not None
    for turn in range(40):
        clean_server.client.zrem("$Sort:Shop:seats", "Shop:a")
        record.cuisine, record.seats = ("Thai", "Lao")[turn % 2], turn
        await asyncio.gather(maintenance.repair(Shop), _later(record.save, turn))
        assert_true(clean_server, MODELS)


async def _later(save: Callable[[], Any], turns: int) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)
    await save()


@pytest.mark.parametrize("place", ["$Index:Shop:cuisine:Lao", "$Class:Shop", "$Val:Shop:cuisine", "$Uniq:Shop:email"])
async def test_what_comes_to_life_before_it_is_removed_stays(
    db: Database, clean_server: Server, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """It stood for no record when it was looked at, and stands for one when it would be taken away."""
    await Shop.create(**shop("a"))
    member = "Lao" if "Val" in place else "Shop:late"
    if "Uniq" in place:
        clean_server.client.hset(place, "late@x", member)
    else:
        clean_server.client.zadd(place, {member: 0})
    send, met = Survey._send, []

    async def meddle(self: Survey, name: str, plan: Any) -> Any:
        if name == "mend" and not met:
            met.append(await Shop.create(**shop("late", cuisine="Lao")))
        return await send(self, name, plan)

    monkeypatch.setattr(Survey, "_send", meddle)
    assert (await maintenance.repair(Shop)).left == 0
    assert met
    assert_true(clean_server, MODELS)


async def test_expired_records_are_no_damage(db: Database, clean_server: Server) -> None:
    await furnish()
    for name in ("a", "b"):
        record = await Shop.load(name=name)
        assert record is not None
        await record.expire_in(0.001)
    while clean_server.client.exists("Shop:a", "Shop:b"):
        await asyncio.sleep(0.001)
    report = await maintenance.check(Shop)
    assert (report.clean, report.models[0].records) == (True, 1)
    assert_true(clean_server, MODELS)


# How it works --------------------------------------------------------------------------------------------------------


async def test_a_check_writes_nothing_and_takes_few_trips(db: Database, clean_server: Server) -> None:
    await Shop.create_many(shop(f"s{n}", seats=n) for n in range(1000))
    clean_server.client.zrem("$Sort:Shop:seats", "Shop:s5")
    dirty = clean_server.client.info("persistence")["rdb_changes_since_last_save"]
    async with trace() as seen:
        report = await maintenance.check(Shop)
    assert clean_server.client.info("persistence")["rdb_changes_since_last_save"] == dirty
    assert (report.total, report.models[0].records, report.models[0].entries) == (1, 1000, 5000)
    assert seen.round_trips < 40
    assert {one.operation for one in seen.operations} == {"audit", "members", "tell"}


async def test_memory_does_not_grow_with_the_data(db: Database) -> None:
    peaks = []
    await maintenance.check(Bare)
    for size in (2000, 6000):
        await Bare.create_many({"name": f"n{n}"} for n in range(size))
        tracemalloc.start()
        try:
            assert (await maintenance.check(Bare)).models[0].records == size
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


async def test_progress(db: Database) -> None:
    await Bare.create_many({"name": f"n{n}"} for n in range(500))
    told: list[tuple[int, int]] = []
    await maintenance.check(Bare, progress=lambda done, total: told.append((done, total)))
    assert told[0] == (0, 500)
    assert told[-1] == (500, 500)
    assert sorted(told) == told


async def test_a_namespace_is_kept_apart(clean_server: Server) -> None:
    async with connect(clean_server.url, namespace="n[1]*"):
        await furnish()
        before = snapshot(clean_server)
    async with connect(clean_server.url):
        report = await maintenance.repair(*MODELS)
        assert (report.clean, report.models[0].records) == (True, 0)
        clean_server.client.zadd("$Class:Shop", {"n[1]*:Shop:a": 0})
        assert findings(await maintenance.repair(Shop)) == [("ghost", "n[1]*:Shop:a", "$Class:Shop", "")]
    async with connect(clean_server.url, namespace="n[1]*"):
        report = await maintenance.check(*MODELS)
        assert (report.clean, report.models[0].records) == (True, 3)
        clean_server.client.zrem("n[1]*:$Sort:Shop:seats", "n[1]*:Shop:a")
        assert (await maintenance.repair(*MODELS)).total == 1
    after = snapshot(clean_server)
    assert {key: after[key] for key in before if b"$Lane" not in key} == {
        k: v for k, v in before.items() if b"$Lane" not in k
    }


async def test_stats(db: Database, clean_server: Server) -> None:
    await furnish()
    shops, stays, bare = await maintenance.stats(*MODELS)
    assert (shops.model, shops.records, shops.deadlines, shops.sampled, shops.slots) == ("Shop", 3, 1, 3, 9)
    sizes = {index.name: (index.keys, index.entries) for index in shops.indexes}
    assert sizes == {
        "Geo:place": (1, 1),
        "Index:cuisine": (3, 3),
        "Null:rating": (1, 1),
        "Null:seats": (1, 1),
        "Pole:place": (1, 1),
        "Rev:cuisine": (1, 2),
        "Sort:rating": (2, 2),
        "Sort:seats": (1, 2),
        "Tie:seats": (1, 1),
        "Uniq:email": (1, 3),
        "Val:cuisine": (1, 2),
        "Val:email": (1, 3),
        "class": (1, 3),
        "deadlines": (1, 1),
        "manifests": (1, 1),
    }
    client = clean_server.client
    assert shops.record_bytes == sum(client.memory_usage(f"Shop:{name}") for name in "abc")
    assert next(one.bytes for one in shops.indexes if one.name == "class") == client.memory_usage("$Class:Shop")
    assert (stays.records, bare.records, bare.slots) == (2, 2, 0)


async def test_lists_and_references_are_no_damage(db: Database, clean_server: Server) -> None:
    """Nor do they keep anything from being found."""

    class Feed(Model):
        name: str = KeyField()
        events: list[str] = ListField(max_length=3)
        shop = Relationship(Shop)

    await furnish()
    feed = await Feed.create(name="f", events=["x", "y"], shop=Shop.ref(name="a"))
    await (await Feed.create(name="g", shop=None)).expire_in(5000)
    await feed.events.push("z")
    healthy = snapshot(clean_server)
    for run in (maintenance.check, maintenance.repair, maintenance.rebuild):
        assert (await run(Feed, Shop)).clean
    assert snapshot(clean_server) == healthy
    clean_server.client.zrem("$Rel:Feed:shop:Shop:a", "Feed:f")
    clean_server.client.zadd("$Rel:Feed:shop:Shop:b", {"Feed:f": 0, "Feed:q": 0})
    assert (await maintenance.repair(Feed)).total == 3
    assert snapshot(clean_server) == healthy


class Feed(Model):
    name: str = KeyField()
    part: int = KeyField(default=0)
    events = ListField(max_length=3)
    shop = Relationship(Shop)


TO_NULL = "$Rel:Feed:shop:%null"

BESIDE: dict[str, tuple[Plant, list[Finding]]] = {
    "lists of no record": (
        lambda c: [c.rpush("$List:Feed:events:q:0", "1", "2"), c.rpush("$List:Feed:gone:q:0", "1")],
        [("orphan", "Feed:q:0", "$List:Feed:events:q:0", ""), ("orphan", "Feed:q:0", "$List:Feed:gone:q:0", "")],
    ),
    "a list that stays when its record ends": (
        lambda c: c.persist("$List:Feed:events:g%3A1:0"),
        [("deadline", "Feed:g%3A1:0", "$List:Feed:events:g%3A1:0", "")],
    ),
    "a list that ends before its record": (
        lambda c: c.expire("$List:Feed:events:g%3A1:0", 2000),
        [("deadline", "Feed:g%3A1:0", "$List:Feed:events:g%3A1:0", "")],
    ),
    "a list that ends when its record stays": (
        lambda c: c.expire("$List:Feed:events:f:0", 2000),
        [("deadline", "Feed:f:0", "$List:Feed:events:f:0", "")],
    ),
    "a target that nobody refers to": (
        lambda c: c.zadd("$Rel:Feed:shop:Shop:z", {"Feed:q:0": 0, "Feed:f:0": 0, "Shop:a": 1}),
        [
            ("extra", "Feed:f:0", "$Rel:Feed:shop:Shop:z", ""),
            ("orphan", "Feed:q:0", "$Rel:Feed:shop:Shop:z", ""),
            ("orphan", "Shop:a", "$Rel:Feed:shop:Shop:z", ""),
        ],
    ),
    "targets without a name, and a key without a target": (
        lambda c: [c.zadd(key, {"Feed:f:0": 0}) for key in ("$Rel:Feed:shop:", "$Rel:Feed:shop", TO_NULL)],
        [
            ("extra", "Feed:f:0", "$Rel:Feed:shop:", ""),
            ("extra", "Feed:f:0", "$Rel:Feed:shop:%null", ""),
            ("orphan", "Feed:f:0", "$Rel:Feed:shop", ""),
        ],
    ),
}


async def furnish_feeds() -> None:
    await furnish()
    await Feed.create(name="f", events=["x", "y"], shop=Shop.ref(name="a"))
    await (await Feed.create(name="g:1", events=["z"], shop=None)).expire_in(5000)


def deadlines(server: Server) -> dict[bytes, int]:
    """When each list ends: ms of 1970, or -1."""
    return {key: server.client.pexpiretime(key) for key in server.client.keys("$List:*")}


@pytest.mark.parametrize("what", BESIDE)
async def test_damage_beside_records_is_found_and_repaired(db: Database, clean_server: Server, what: str) -> None:
    await furnish_feeds()
    healthy, ends = snapshot(clean_server), deadlines(clean_server)
    assert len(ends) == 2
    plant, expected = BESIDE[what]
    plant(clean_server.client)
    damaged, wrong = snapshot(clean_server), deadlines(clean_server)
    for dry in (await maintenance.check(Feed), await maintenance.repair(Feed, dry_run=True)):
        assert findings(dry) == sorted(expected)
    assert (snapshot(clean_server), deadlines(clean_server)) == (damaged, wrong)
    assert (await maintenance.repair(Feed)).left == 0
    assert (await maintenance.check(Feed)).clean
    assert (snapshot(clean_server), deadlines(clean_server)) == (healthy, ends)


async def test_what_is_foreign_beside_a_record_is_left_alone(db: Database, clean_server: Server) -> None:
    """Nor is the list of a foreign value taken away."""
    await furnish_feeds()
    client = clean_server.client
    client.delete("$List:Feed:events:f:0")
    client.set("$List:Feed:events:f:0", "mine")
    client.sadd("$List:Feed:events:q:0", "mine")
    client.set("Feed:h:0", "mine")
    client.rpush("$List:Feed:events:h:0", "1")
    damaged = snapshot(clean_server)
    report = await maintenance.repair(Feed)
    assert findings(report) == [
        ("foreign", "$List:Feed:events:f:0", "", ""),
        ("foreign", "$List:Feed:events:q:0", "", ""),
        ("foreign", "Feed:h:0", "", ""),
    ]
    assert (report.left, snapshot(clean_server)) == (3, damaged)


async def test_what_is_no_model_is_refused(db: Database) -> None:
    wrong: Any = "Shop"
    with pytest.raises(ValidationError, match="model classes"):
        await maintenance.check(wrong)
    with pytest.raises(ValidationError, match="renamed is new names"):
        await maintenance.rebuild(Shop, renamed=wrong)
    with pytest.raises(ValidationError, match="progress is called"):
        await maintenance.check(Shop, progress=wrong)


async def test_errors_of_the_server_are_raised(clean_server: Server) -> None:
    async with connect(clean_server.url):
        await furnish()
        clean_server.client.zrem("$Sort:Shop:seats", "Shop:a")
        clean_server.client.config_set("maxmemory", "1")
        assert (await maintenance.check(Shop)).total == 1
        with pytest.raises(PopotoError, match="OOM"):
            await maintenance.repair(Shop)
        clean_server.client.config_set("maxmemory", "0")


def test_damage_is_a_value() -> None:
    one = Damage("missing", "Shop:a", "$Sort:Shop:seats")
    assert one == Damage("missing", "Shop:a", "$Sort:Shop:seats")
    assert str(one) == "Shop:a in $Sort:Shop:seats: an entry that a record implies is not there"
