"""After any verb, the keys on the server are exactly those that the living records imply."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from popoto_async import (
    Database,
    Field,
    GeoField,
    IndexedField,
    IndexNotBuilt,
    KeyField,
    Model,
    RecordGone,
    SortedField,
    SortedKeyField,
    UniqueField,
    UniqueKeyField,
    UniqueViolation,
    connect,
    using,
)
from tests.model_of_store import assert_true, geohash, snapshot
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
    guest: str = KeyField()
    night: datetime = SortedKeyField()
    room: int | None = Field()
    kind: str | None = IndexedField()
    price: Decimal = SortedField(partition_by="hotel")
    rank: int | None = SortedField(null=True, partition_by=("kind", "room"))

    class Meta:
        unique_together = (("hotel", "room"),)
        indexes = ((("kind", "room"), False),)


class Member(Model):
    team: str = KeyField()
    code: str = UniqueKeyField()
    level: float = SortedField(default=1.5)

    class Meta:
        versioned = True
        ttl = 1000


MODELS = [Shop, Stay, Member]
NIGHT = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)


def shop(name: str = "Siam", **values: Any) -> dict[str, Any]:
    return {
        "name": name, "email": f"{name}@x", "cuisine": "Thai", "seats": 40, "rating": 4.5, "place": (40.7, -73.9),
        "note": None, **values,
    }  # fmt: skip


def stay(**values: Any) -> dict[str, Any]:
    return {
        "hotel": "Ritz", "guest": "ann", "night": NIGHT, "room": 7, "kind": "suite", "price": Decimal("99.90"),
        "rank": 1, **values,
    }  # fmt: skip


HARD = ["a:b", "%null", "None", "null", "*?[x]{y}", "new\nline\x00", "'/\"", "🦊", "% :", ""]


async def test_the_reference_knows_a_record(db: Database, clean_server: Server) -> None:
    """The reference itself, held against a keyspace written down by hand."""
    await Shop.create(**shop())
    found = assert_true(clean_server, MODELS)
    member = b"Shop:Siam"
    assert found == {
        b"$Class:Shop": [(member, 0.0)],
        b"$Geo:Shop:place": [(member, float(geohash(40.7, -73.9)))],
        b"$Index:Shop:cuisine:Thai": [(member, 0.0)],
        b"$Rev:Shop:cuisine": [(b"iahT", 0.0)],
        b"$Slots:Shop": b"c$Uniq:Shop:email\t$Val:Shop:email\n"
        b"m$Index:Shop:cuisine:\t$Val:Shop:cuisine\t$Rev:Shop:cuisine\nm$Sort:Shop:seats\nm$Tie:Shop:seats\n"
        b"m$Null:Shop:seats\nm$Sort:Shop:rating:\nm$Null:Shop:rating:\nm$Geo:Shop:place\nm$Pole:Shop:place\n\n"
        b"Geo:place=place:Coordinates\nIndex:cuisine=cuisine:str\nNull:rating=rating:float,cuisine:str\n"
        b"Null:seats=seats:int\nPole:place=place:Coordinates\nRev:cuisine=cuisine:str\n"
        b"Sort:rating=rating:float,cuisine:str\nSort:seats=seats:int\nTie:seats=seats:int\nUniq:email=email:str\n"
        b"Val:cuisine=cuisine:str\nVal:email=email:str",
        b"$Sort:Shop:rating:Thai": [(member, 4.5)],
        b"$Sort:Shop:seats": [(member, 40.0)],
        b"$Uniq:Shop:email": {b"Siam@x": member},
        b"$Val:Shop:cuisine": [(b"Thai", 0.0)],
        b"$Val:Shop:email": [(b"Siam@x", 0.0)],
        member: {
            b"$": found[member][b"$"], b"cuisine": b"Thai", b"email": b"Siam@x", b"name": b"Siam",
            b"place": b"40.7,-73.9",
            b"rating": b"4.5", b"seats": b"40",
        },
    }  # fmt: skip


async def test_the_geohash_is_the_servers_own(clean_server: Server) -> None:
    positions = [(40.7, -73.9), (0.0, 0.0), (85.05, 179.99), (-85.05, -180.0), (0.1, 179.9), (51.5, -0.1)]
    for latitude, longitude in positions:
        clean_server.client.geoadd("g", (longitude, latitude, "m"))
        assert clean_server.client.zscore("g", "m") == geohash(latitude, longitude)


async def test_create_overwrite_and_delete(db: Database, clean_server: Server) -> None:
    await Shop.create(**shop())
    await Shop.create(**shop("Roma", cuisine=None, seats=None, rating=None, place=(-90, 0)))
    assert_true(clean_server, MODELS)
    await Shop.create(**shop(email="new@x", cuisine="Greek", seats=2**60 + 1, place=None))
    await Shop.create(**shop("Roma", note="x"))
    assert_true(clean_server, MODELS)
    for name in ("Siam", "Roma"):
        assert await Shop(name=name).delete()
    assert set(snapshot(clean_server)) == {b"$Slots:Shop"}


async def test_every_field_moves_its_entries(db: Database, clean_server: Server) -> None:
    record = await Shop.create(**shop())
    changes: list[dict[str, Any]] = [
        {"email": "b@x"}, {"cuisine": None}, {"rating": 3}, {"cuisine": "Greek", "rating": None}, {"cuisine": "Thai"},
        {"seats": 2**60}, {"seats": 2**60 + 1}, {"seats": None}, {"place": (90, 0)}, {"place": (0, 0)}, {"place": None},
        {"note": "x" * 100}, {"name": "Moved"}, {"name": "Again", "email": "c@x", "rating": 1.25}, {},
    ]  # fmt: skip
    for change in changes:
        for name, value in change.items():
            setattr(record, name, value)
        await record.save()
        found = assert_true(clean_server, MODELS)
        assert sum(key.startswith(b"Shop:") for key in found) == 1


async def test_composite_keys_and_partitions_move(db: Database, clean_server: Server) -> None:
    record = await Stay.create(**stay())
    await Stay.create(**stay(guest="bob", room=8))
    changes: list[dict[str, Any]] = [
        {"hotel": "Plaza"}, {"guest": "bob"}, {"night": NIGHT + timedelta(microseconds=1)}, {"room": None},
        {"room": 2**60},
        {"kind": None, "rank": None}, {"rank": 2**60 + 1}, {"price": Decimal("0.10000000000000000001")},
        {"hotel": "Ritz"},
        {"price": Decimal("1E+30")}, {"price": Decimal("-0.0")}, {"kind": "a:b"}, {"guest": "ann", "hotel": "%null"},
    ]  # fmt: skip
    for change in changes:
        for name, value in change.items():
            setattr(record, name, value)
        await record.save()
        assert len(await Stay.query) == 2
        assert_true(clean_server, MODELS)


@pytest.mark.parametrize("text", HARD)
async def test_hard_texts(db: Database, clean_server: Server, text: str) -> None:
    await Shop.create(**shop(text, email=text, cuisine=text))
    await Stay.create(**stay(hotel=text, guest=text, kind=text))
    await Member.create(team=text, code=text)
    assert_true(clean_server, MODELS)


async def test_partial_saves(db: Database, clean_server: Server) -> None:
    record = await Shop.create(**shop())
    record.email, record.cuisine, record.seats, record.rating = "b@x", "Greek", 5, 2
    for names in (["cuisine"], ["rating"], ["seats", "email"], ["note"], []):
        await record.save(update_fields=names)
        assert_true(clean_server, MODELS)
    stored = await Shop.load(name="Siam")
    assert stored is not None
    assert stored.to_dict() == record.to_dict()


async def test_a_partial_save_of_a_partitioned_field_uses_the_stored_partition(
    db: Database, clean_server: Server
) -> None:
    record = await Shop.create(**shop())
    record.cuisine, record.rating = "Greek", 2
    await record.save(update_fields=["rating"])
    rows = assert_true(clean_server, MODELS)
    assert rows[b"$Sort:Shop:rating:Thai"] == [(b"Shop:Siam", 2.0)]


async def test_a_partial_save_beside_a_value_that_can_not_be_stored(db: Database, clean_server: Server) -> None:
    """The index says what is stored, which is null, and not what the instance has and can't save."""
    await Stay.create(**stay(kind=None, room=None))
    record = await Stay.load(hotel="Ritz", guest="ann", night=NIGHT)
    assert record is not None
    wrong: Any = "seven"
    record.room, record.rank, record.kind = wrong, 2, "suite"
    await record.save(update_fields=["rank", "kind"])
    assert_true(clean_server, MODELS)
    assert await record.increment("rank") == 3
    rows = assert_true(clean_server, MODELS)
    assert rows[b"$Sort:Stay:rank:suite:%null"] == [(b"Stay:Ritz:ann:2026-01-02T03%3A04%3A05.000006Z", 3.0)]


@pytest.mark.parametrize("other", [None, "Greek"])
@pytest.mark.parametrize("first", [None, "Thai"])
async def test_stale_partitions(db: Database, clean_server: Server, first: str | None, other: str | None) -> None:
    """A stale writer changes the sorted value where somebody else has changed the partition, to null and from it."""
    await Shop.create(**shop(cuisine=first))
    fresh, stale = await Shop.load(name="Siam"), await Shop.load(name="Siam")
    assert fresh is not None
    assert stale is not None
    fresh.cuisine = other
    await fresh.save()
    stale.rating = 1
    await stale.save()
    assert_true(clean_server, MODELS)
    stored = await Shop.load(name="Siam")
    assert stored is not None
    assert (stored.cuisine, stored.rating) == (other, 1.0)


async def test_stale_writers_of_a_record_that_went(db: Database, clean_server: Server) -> None:
    record = await Shop.create(**shop())
    stale = await Shop.load(name="Siam")
    assert stale is not None
    record.name = "Moved"
    await record.save()
    stale.cuisine = "Greek"
    before = snapshot(clean_server)
    with pytest.raises(RecordGone):
        await stale.save()
    with pytest.raises(RecordGone):
        await stale.increment("seats")
    assert not await stale.delete()
    assert snapshot(clean_server) == before
    await Shop(**shop(email="other@x")).save()
    assert_true(clean_server, MODELS)


async def test_renames_onto_records(db: Database, clean_server: Server) -> None:
    """The other record goes with all that was its own; its claims are no conflict."""
    await Shop.create(**shop("Roma", seats=2**60, cuisine="Italian"))
    record = await Shop.create(**shop())
    record.name, record.email = "Roma", "Roma@x"
    await record.save()
    assert [one.email for one in await Shop.query] == ["Roma@x"]
    assert_true(clean_server, MODELS)
    guest = await Stay.create(**stay())
    await Stay.create(**stay(guest="bob", room=9))
    guest.guest = "bob"
    await guest.save()
    assert_true(clean_server, MODELS)


async def test_a_unique_key_is_not_taken_by_a_rename(db: Database, clean_server: Server) -> None:
    await Member.create(team="a", code="1")
    for team in ("a", "b"):
        record = await Member.create(team=team, code=f"2{team}")
        before = snapshot(clean_server)
        record.code = "1"
        with pytest.raises(UniqueViolation):
            await record.save()
        assert snapshot(clean_server) == before


@pytest.mark.parametrize(
    ("value", "by", "total"),
    [
        (1, 1, 2), (None, 5, 5), (2**53, 1, 2**53 + 1), (2**53 + 1, -1, 2**53), (2**60, 1, 2**60 + 1),
        (-1, 1, 0), (10**30, -(10**30), 0),
    ],
)  # fmt: skip
async def test_increments_of_ints(db: Database, clean_server: Server, value: Any, by: int, total: int) -> None:
    record = await Shop.create(**shop(seats=value))
    assert await record.increment("seats", by) == total
    assert_true(clean_server, MODELS)


class Tally(Model):
    name: str = KeyField()
    exact: Decimal = IndexedField(default=Decimal(0), null=False)
    rough: float = IndexedField(default=0.0, null=False)
    owned: Decimal = UniqueField()
    split: int = SortedField(partition_by="exact", default=0)
    halved: float = SortedField(partition_by="rough", default=0.0)

    class Meta:
        indexes = ((("name", "exact"), True), (("rough", "exact"), False))


@pytest.mark.parametrize(
    ("start", "by"),
    [(1.0, 1e20), (0.0, 1e-7), (1e20, -1e20), (-0.5, 0.5), (0.1, 0.2), (1e300, 1e300), (-0.0, -0.0), (5e-324, 5e-324)],
)
async def test_increments_in_tails(db: Database, clean_server: Server, start: float, by: float) -> None:
    """A number that is part of index keys: the server writes the same text as the client would."""
    exact = Decimal(repr(start))
    record = await Tally.create(name="a", rough=start, exact=exact, owned=exact)
    assert await record.increment("rough", by) == start + by
    for name in ("exact", "owned"):
        assert await record.increment(name, Decimal(repr(by))) == exact + Decimal(repr(by))
    assert await record.increment("split") == 1
    assert_true(clean_server, [Tally])
    assert await Tally.query.filter(rough=start + by, exact=record.exact).count() == 1
    assert await Tally.query.filter(owned=record.owned).exists()


async def test_stale_increments(db: Database, clean_server: Server) -> None:
    record = await Shop.create(**shop())
    stale = await Shop.load(name="Siam")
    assert stale is not None
    for cuisine in ("Greek", None, "Thai"):
        record.cuisine = cuisine
        await record.save()
        await stale.increment("rating", 0.5)
        assert_true(clean_server, MODELS)


async def test_many_clients_at_once(db: Database, clean_server: Server) -> None:
    """Five clients over the same few keys, every operation failing or succeeding as it may."""

    async def client(number: int) -> None:
        async with connect(clean_server.url) as own:
            with using(own):
                for turn in range(12):
                    name = f"r{(number + turn) % 3}"
                    record = Shop(**shop(name, email=f"e{(number * turn) % 4}", cuisine="abc"[turn % 3], seats=turn))
                    await asyncio.gather(
                        record.save(), _rename(name, f"r{turn % 4}"), _touch(f"r{turn % 3}", number),
                        Shop(name=f"r{(turn + number) % 4}").delete(), return_exceptions=True,
                    )  # fmt: skip

    async with asyncio.TaskGroup() as group:
        for number in range(5):
            group.create_task(client(number))
    assert_true(clean_server, MODELS)


async def _rename(name: str, to: str) -> None:
    record = await Shop.load(name=name)
    if record is not None:
        record.name = to
        record.rating = 1
        await record.save()


async def _touch(name: str, number: int) -> None:
    record = await Shop.load(name=name)
    if record is not None:
        record.cuisine = "xyz"[number % 3]
        await record.save(update_fields=["cuisine"])
        await record.increment("seats", number)


async def test_get_or_create_by_a_unique_field(db: Database, clean_server: Server) -> None:
    """The owner of the claim is the answer, whatever stands under the key that the defaults would give."""
    await Shop.create(**shop("Siam", email="a@x"))
    await Shop.create(**shop("Roma", email="b@x"))
    before = snapshot(clean_server)
    found, created = await Shop.get_or_create(email="b@x", defaults={"name": "Siam"})
    assert (found.name, created) == ("Roma", False)
    assert snapshot(clean_server) == before


# A class that changes -------------------------------------------------------------------------------------------------


def version(**fields: Any) -> Any:
    """A version of one class, as two releases of a program have them."""
    return type("Evolving", (Model,), {"__qualname__": "<locals>.Evolving", "id": KeyField(), **fields})


async def test_slots_are_never_reused(db: Database, clean_server: Server) -> None:
    """Two versions of a class with other indexes, in turn on the same records: each leaves the other's entries true."""

    def slots() -> list[str]:
        table: str = clean_server.client.get("$Slots:Evolving").decode()
        return table.partition("\n\n")[0].split("\n")

    def holders(key: str) -> list[bytes]:
        found: list[bytes] = clean_server.client.zrange(key, 0, -1)
        return found

    old = version(a=IndexedField(null=True), rank=SortedField(type=int, default=1), mail=UniqueField())
    new = version(mail=UniqueField(), b=IndexedField(null=True), rank=SortedField(type=int, default=1))
    expected = ["m$Index:Evolving:a:\t$Val:Evolving:a", "m$Sort:Evolving:rank", "m$Tie:Evolving:rank"]
    expected.append("c$Uniq:Evolving:mail\t$Val:Evolving:mail")
    await old.create(id="1", a="x", mail="1")
    assert slots() == expected
    await new.create(id="2", b="y", mail="2")
    expected.append("m$Index:Evolving:b:\t$Val:Evolving:b")
    assert slots() == expected

    both = await new.load(id="1")
    both.b, both.rank = "z", 2**60 + 1
    await both.save()
    assert await old.query.filter(rank=2**60 + 1).keys() == ["Evolving:1"]
    assert holders("$Index:Evolving:a:x") == [b"Evolving:1"], "an update leaves what it knows not of"
    assert holders("$Index:Evolving:b:z") == [b"Evolving:1"]
    for query in (old.query.filter(a="x"), new.query.filter(b="z")):
        with pytest.raises(IndexNotBuilt):
            await query
    other = await old.load(id="2")
    other.a, other.id = "q", "3"
    await other.save()
    assert holders("$Index:Evolving:b:y") == holders("$Index:Evolving:a:q") == [b"Evolving:3"]
    await new.create(id="1", b="over", mail="3")
    assert holders("$Index:Evolving:a:x") == [], "an overwritten record goes with all that it had"
    with pytest.raises(UniqueViolation):
        await old.create(id="4", mail="2")
    assert slots() == expected
    for model, name in ((old, "1"), (new, "3")):
        assert await model(id=name).delete()
    assert set(snapshot(clean_server)) == {b"$Slots:Evolving"}


async def test_manifests_about_as_long_as_stand_in_the_hash(db: Database, clean_server: Server) -> None:
    lengths = set()
    for length in range(30, 70):
        record = await Shop.create(**shop("x", email="e" * length, seats=None, rating=None, place=None))
        found = assert_true(clean_server, MODELS)
        inline = len(found[b"Shop:x"][b"$"])
        assert (b"$Man:Shop" in found) is (inline == 0)
        assert inline <= 64
        lengths.add(inline)
        record.note = "changed"
        await record.save()
        assert_true(clean_server, MODELS)
    assert {0, 64} <= lengths
