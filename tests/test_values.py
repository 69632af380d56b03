"""Values of every kind come back as they went in, and are found by their filters and by no other."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, StrEnum
from typing import Any
from uuid import UUID

import pandas as pd
import pytest

from popoto_async import (
    BytesField,
    CorruptRecord,
    Database,
    DatetimeField,
    DictField,
    Field,
    GeoField,
    IndexedField,
    KeyField,
    ListField,
    Model,
    SetField,
    SortedField,
    TupleField,
    UnindexedFilterWarning,
    UniqueField,
    UniqueViolation,
    ValidationError,
    maintenance,
)
from popoto_async.codec import pack, unpack
from tests.servers import Server


class Colour(Enum):
    RED = "red:1"
    BLUE = "blue%2"


TEXTS = [
    "plain",
    "",
    " ",
    "None",
    "null",
    "%null",
    "$m",
    "a:b",
    "a%3Ab",
    "*",
    "?",
    "[ab]",
    "{tag}",
    "100%",
    "it's",
    'say "hi"',
    "a/b\\c",
    "line\nfeed\r\n\ttab",
    "null\x00byte\x01\x02\x7f",
    "emoji 🦘 é e\u0301 \u2028",
    "a",
    "aa",
    "A",
    "long " + "x" * 1000,
]

PLAIN: dict[type, list[Any]] = {
    int: [0, 1, -1, 2**53, 2**53 + 1, 2**60, 2**60 + 1, 2**70, -(2**70), 2**70 + 1, 10**400],
    float: [0.0, 1.0, -1.5, 4.5, 0.1, 1 / 3, 1e-300, 5e-324, 1.7976931348623157e308, math.inf, -math.inf, 1e15, 1e16],
    Decimal: [
        Decimal(0),
        Decimal("1.1"),
        Decimal("0.1"),
        Decimal("0.10000000000000000000001"),
        Decimal("123456789012345678901234567890.5"),
        Decimal("1E+30"),
        Decimal("-1E-30"),
    ],
    bool: [True, False],
    date: [date.min, date(1970, 1, 1), date(2024, 2, 29), date.max],
    time: [time.min, time(12, 30), time(23, 59, 59, 999999)],
    datetime: [
        datetime(1, 1, 1, tzinfo=UTC),
        datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        datetime(2024, 1, 2, 3, 4, 5, 6, tzinfo=UTC),
        datetime(2024, 1, 2, 3, 4, 5, 7, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, 999998, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
    ],
    UUID: [UUID(int=0), UUID(int=2**128 - 1)],
    Colour: list(Colour),
    str: TEXTS,
}

COMPARABLE = (int, float, Decimal, date, time, datetime)


def model_with(kind: type) -> type[Model]:
    """A model that holds one value in each way a field can."""

    class Holder(Model):
        id = KeyField(type=int)
        plain = Field(type=kind, max_length=None) if kind is str else Field(type=kind)
        indexed = IndexedField(type=kind)

    return Holder


@pytest.mark.parametrize("kind", PLAIN, ids=lambda kind: kind.__name__)
async def test_values_of_plain_types(db: Database, kind: type) -> None:
    holder, values = model_with(kind), PLAIN[kind]
    for number, value in enumerate(values):
        await holder.create(id=number, plain=value, indexed=value)
    await holder.create(id=1000)
    rows = {number: await holder.load(id=number) for number in range(len(values))}
    for number, value in enumerate(values):
        row = rows[number]
        assert row is not None
        assert type(row.plain) is type(value)
        assert (row.plain, row.indexed) == (value, value)
        mine = [f"Holder:{other}" for other, known in enumerate(values) if known == value]
        assert sorted(await holder.query.filter(indexed=value).keys()) == sorted(mine), value
        with pytest.warns(UnindexedFilterWarning):
            assert sorted(await holder.query.filter(plain=value).keys()) == sorted(mine), value
    assert await holder.query.filter(indexed__in=values).count() == len(values)
    assert await holder.query.filter(indexed=None).keys() == ["Holder:1000"]
    assert await holder.query.filter(indexed__isnull=False).count() == len(values)


@pytest.mark.parametrize("kind", [str, int, bool, float, date, time, datetime, UUID, Decimal], ids=lambda k: k.__name__)
async def test_values_as_keys(db: Database, kind: type) -> None:
    class Keyed(Model):
        part = KeyField(type=kind)
        other = KeyField(type=str)
        note = Field()

    values = PLAIN[kind]
    for number, value in enumerate(values):
        await Keyed.create(part=value, other="x:y", note=str(number))
    assert await Keyed.query.count() == len(values)
    for number, value in enumerate(values):
        row = await Keyed.load(part=value, other="x:y")
        assert row is not None
        assert (row.part, row.note) == (value, str(number))
        assert [found.note for found in await Keyed.query.filter(part=value)] == [str(number)]
    assert await Keyed.query.filter(other="x").count() == 0
    assert await Keyed.query.filter(other="x:y").count() == len(values)


@pytest.mark.parametrize("kind", COMPARABLE, ids=lambda kind: kind.__name__)
async def test_ranges_are_exact(db: Database, kind: type) -> None:
    class Ranged(Model):
        id = KeyField(type=int)
        at = SortedField(type=kind)

    values = PLAIN[kind]
    for number, value in enumerate(values):
        await Ranged.create(id=number, at=value)
    ordered = sorted(range(len(values)), key=lambda number: (values[number], f"Ranged:{number}"))
    assert [row.id for row in await Ranged.query.order_by("at")] == ordered
    assert [row.id for row in await Ranged.query.order_by("-at")] == ordered[::-1]
    for value in values:
        for lookup, holds in {
            "at": lambda other, value=value: other == value,
            "at__lt": lambda other, value=value: other < value,
            "at__lte": lambda other, value=value: other <= value,
            "at__gt": lambda other, value=value: other > value,
            "at__gte": lambda other, value=value: other >= value,
        }.items():
            expected = [number for number in ordered if holds(values[number])]
            query = Ranged.query.filter(**{lookup: value})
            assert [row.id for row in await query] == expected, (lookup, value)
            assert await query.count() == len(expected), (lookup, value)


async def test_times_of_day_stand_where_they_are_in_utc(db: Database) -> None:
    class Shift(Model):
        id = KeyField()
        start = SortedField(type=time)

    east = timezone(timedelta(hours=2))
    starts = {"naive": time(11), "utc": time(12, tzinfo=UTC), "east": time(12, 30, tzinfo=east), "same": time(12)}
    for id, start in starts.items():
        await Shift.create(id=id, start=start)
    assert [row.id for row in await Shift.query.order_by("start")] == ["east", "naive", "same", "utc"]
    assert [row.start for row in await Shift.query.filter(start__lt=time(12, tzinfo=UTC))] == [
        starts["east"],
        starts["naive"],
    ]
    assert {row.id for row in await Shift.query.filter(start=time(14, tzinfo=east))} == {"same", "utc"}


async def test_negative_zero_is_zero_and_comes_back(db: Database) -> None:
    class Zero(Model):
        id = KeyField()
        plain = Field(type=float)
        indexed = IndexedField(type=float)
        ordered = SortedField(type=float)

    await Zero.create(id="a", plain=-0.0, indexed=-0.0, ordered=-0.0)
    row = await Zero.load(id="a")
    assert row is not None
    assert [math.copysign(1, value) for value in (row.plain, row.indexed, row.ordered)] == [-1, -1, -1]
    for lookup in ({"indexed": 0.0}, {"ordered": 0}, {"ordered__gte": 0.0}, {"indexed": -0.0}):
        assert await Zero.query.filter(**lookup).keys() == ["Zero:a"]


async def test_a_float_that_shows_itself_in_another_way_is_stored_as_the_number_it_is(db: Database) -> None:
    class Shown(float):
        def __repr__(self) -> str:
            return f"Shown({float(self)})"  # as numpy's do

    class Measure(Model):
        id = KeyField()
        plain = Field(type=float)
        indexed = IndexedField(type=float)
        ordered = SortedField(type=float)

    await Measure.create(id="a", plain=Shown(0.1), indexed=Shown(-1234.5), ordered=Shown(3.0))
    row = await Measure.load(id="a")
    assert row is not None
    assert (row.plain, row.indexed, row.ordered) == (0.1, -1234.5, 3.0)
    assert await Measure.query.filter(indexed=-1234.5, ordered__gte=3.0).keys() == ["Measure:a"]


class Level(int, Enum):
    LOW = 1
    HIGH = 2


class Word(StrEnum):
    YES = "y"


class Tagged(str):
    __slots__ = ()


class Cents(Decimal):
    def __str__(self) -> str:
        return f"{super().__str__()} €"


class Day(date):
    def isoformat(self) -> str:
        return "a day"


class Clock(time):
    def isoformat(self, timespec: str = "auto") -> str:
        return "a time"


class Instant(datetime):
    def isoformat(self, sep: str = "T", timespec: str = "auto") -> str:
        return "an instant"


class Name(UUID):
    def __str__(self) -> str:
        return "a name"


DERIVED: list[tuple[Any, Any, Any]] = [  # a value, its plain form, another plain value
    (Level.HIGH, 2, 3),
    (Word.YES, "y", "n"),
    (Tagged("t"), "t", "u"),
    (Cents("1.10"), Decimal("1.1"), Decimal(9)),
    (Day(2024, 1, 2), date(2024, 1, 2), date(1, 1, 1)),
    (Clock(3, 4), time(3, 4), time()),
    (Instant(2024, 1, 2, tzinfo=UTC), datetime(2024, 1, 2, tzinfo=UTC), datetime(1, 1, 1, tzinfo=UTC)),
    (Name(int=7), UUID(int=7), UUID(int=1)),
]


@pytest.mark.filterwarnings("ignore::popoto_async.UnindexedFilterWarning")
@pytest.mark.parametrize(("value", "plain", "other"), DERIVED, ids=[type(value).__name__ for value, _, _ in DERIVED])
async def test_a_value_of_a_derived_type_is_stored_as_what_it_derives_from(
    db: Database, value: Any, plain: Any, other: Any
) -> None:
    kind = type(plain)

    class Thing(Model):
        id = KeyField(type=kind)
        plain = Field(type=kind)
        indexed = IndexedField(type=kind)
        unique = UniqueField(type=kind)
        several = ListField()

    several = [] if isinstance(value, Enum) else [value]  # which containers refuse
    await Thing.create(id=value, plain=value, indexed=value, unique=value, several=several)
    assert (await maintenance.check(Thing)).clean
    row = await Thing.load(id=plain)
    assert row is not None
    assert (row.id, row.plain, row.indexed, row.unique) == (plain,) * 4
    assert row.several == several
    assert not several or type(row.several[0]) is kind
    for found in (plain, value):
        assert await Thing.query.filter(indexed=found).count() == 1
        assert await Thing.query.filter(plain=found).count() == 1
    with pytest.raises(UniqueViolation):
        await Thing.get_or_create(id=other, defaults={"plain": plain, "indexed": plain, "unique": plain, "several": []})


async def test_a_container_stores_what_a_derived_value_is_not_what_it_shows(db: Database) -> None:
    class Secret(str):
        __slots__ = ()

        def __str__(self) -> str:
            return "***"

    class Rounded(float):
        def __float__(self) -> float:
            return 99.0

    class Twice(int):
        def __int__(self) -> int:
            return 99

    class Reversed(list[Any]):
        def __iter__(self) -> Iterator[Any]:
            return reversed(list(super().__iter__()))

    class Empty(dict[str, Any]):
        def items(self) -> Any:
            return {}.items()

    class Other(bytes):
        def __bytes__(self) -> bytes:
            return b"other"

    class Note(Model):
        id = KeyField()
        several = ListField()
        raw = BytesField()
        size = SortedField(type=float)

    values: list[Any] = [Secret("s"), Rounded(2.5), Twice(7), Reversed([1, 2]), Empty(a=1), Other(b"o")]
    await Note.create(id="a", several=values, raw=Other(b"o"), size=Rounded(2.5))
    row = await Note.load(id="a")
    assert row is not None
    assert row.several == ["s", 2.5, 7, [1, 2], {"a": 1}, b"o"]
    assert (row.raw, row.size) == (b"o", 2.5)
    assert await Note.query.filter(size__gte=2.5, size__lte=2.5).count() == 1


async def test_members_of_an_enum_of_floats_are_floats(db: Database) -> None:
    class Size(float, Enum):
        NONE = 0.0
        SMALL = 1e-7
        SOME = 1.5
        HUGE = 1e20

    class Box(Model):
        id = KeyField()
        size = SortedField(type=float)

    for member in Size:
        await Box.create(id=member.name, size=member)
    assert [box.size for box in await Box.query.order_by("size")] == [0.0, 1e-7, 1.5, 1e20]
    assert await Box.query.filter(size=Size.NONE).keys() == ["Box:NONE"]


async def test_a_number_of_a_derived_type_is_added(db: Database) -> None:
    class Count(Model):
        id = KeyField()
        whole = Field(type=int, default=1)
        exact = Field(type=Decimal, default=Decimal("0.10"))

    row = await Count.create(id="a")
    assert await row.increment("whole", Level.HIGH) == 3
    assert await row.increment("exact", Cents("1.15")) == Decimal("1.25")
    for wrong in ("Infinity", "-Infinity", "NaN", "sNaN"):
        with pytest.raises(ValidationError, match=r"must be finite|can't be stored"):
            await row.increment("exact", Decimal(wrong))


async def test_a_sum_is_no_longer_than_can_be_read(db: Database) -> None:
    class Count(Model):
        id = KeyField()
        whole = Field(type=int)

    row = await Count.create(id="a", whole=10**4298)
    assert await row.increment("whole", 1) == 10**4298 + 1
    row.whole = 10**4300 - 1
    await row.save()
    with pytest.raises(ValidationError, match=r"Count.whole: 'Count:a' holds 9.*: the sum is too far off"):
        await row.increment("whole", 1)
    again = await Count.load(id="a")
    assert again is not None
    assert again.whole == 10**4300 - 1
    await db.execute("HSET", "Count:a", "whole", "much")
    with pytest.raises(CorruptRecord, match="to which nothing can be added"):
        await row.increment("whole", 1)


async def test_what_names_no_instant_is_refused(db: Database, clean_server: Server) -> None:
    class Event(Model):
        id = KeyField()
        at = DatetimeField(null=True)
        sorted_at = SortedField(type=datetime, null=True)
        several = ListField(null=True)

    for values in ({"at": pd.NaT}, {"sorted_at": pd.NaT}, {"several": [pd.NaT]}):
        with pytest.raises(ValidationError, match="names no instant"):
            await Event.create(id="a", **values)
    assert clean_server.client.exists("Event:a") == 0
    stamp = pd.Timestamp("2024-01-02T03:04:05.000006", tz="Asia/Tokyo")
    await Event.create(id="a", at=stamp, sorted_at=stamp, several=[stamp])
    row = await Event.load(id="a")
    assert row is not None
    assert row.at == row.sorted_at == row.several[0] == stamp


async def test_an_enum_of_naive_datetimes_comes_back(db: Database) -> None:
    class Era(Enum):
        BEFORE = datetime(1970, 1, 1)
        AFTER = datetime(2000, 1, 1)

    class Event(Model):
        id = KeyField()
        era = IndexedField(type=Era)

    await Event.create(id="a", era=Era.AFTER)
    row = await Event.load(id="a")
    assert row is not None
    assert row.era is Era.AFTER
    assert await Event.query.filter(era=Era.AFTER).count() == 1


async def test_datetimes_are_the_same_instant_in_utc(db: Database) -> None:
    class Event(Model):
        id = KeyField()
        at = DatetimeField()
        sorted_at = SortedField(type=datetime)

    tokyo = datetime(2024, 1, 2, 3, 4, 5, 6, tzinfo=timezone(timedelta(hours=9)))
    await Event.create(id="tokyo", at=tokyo, sorted_at=tokyo)
    await Event.create(id="naive", at=datetime(2024, 1, 1, 18, 4, 5, 6), sorted_at=datetime(2024, 1, 1, 18, 4, 5, 6))
    for name in ("tokyo", "naive"):
        row = await Event.load(id=name)
        assert row is not None
        assert row.at == row.sorted_at == tokyo
        assert row.at.tzinfo is UTC
    assert await Event.query.filter(sorted_at=tokyo).count() == 2
    assert await Event.query.filter(sorted_at__lt=tokyo).count() == 0


async def test_containers_come_back_with_their_types(db: Database) -> None:
    class Box(Model):
        id = KeyField()
        items = ListField()
        table = DictField()
        pair = TupleField()
        bag = SetField()
        raw = BytesField()
        wide: str = Field(max_length=None)

    deep = {
        "n": None,
        "d": Decimal("1.10"),
        "t": (1, (2, [3])),
        "s": {1, 2},
        "f": frozenset({"x"}),
        "u": UUID(int=5),
        "when": datetime(2024, 1, 1, tzinfo=UTC),
        "day": date(2024, 1, 1),
        "big": 2**100,
        "b": b"\x00\xff",
        3: {"": [True, False, -0.5]},
    }
    values = {
        "items": [deep, 1, "x", None],
        "table": deep,
        "pair": (1, "a", (2.5, None)),
        "bag": {"a", "b", 1, (2, 3)},
        "raw": bytes(range(256)),
        "wide": "🦘\x00" * 350_000,
    }
    await Box.create(id="a", **values)
    row = await Box.load(id="a")
    assert row is not None
    for name, value in values.items():
        assert getattr(row, name) == value
        assert type(getattr(row, name)) is type(value)
    assert type(row.table["t"]) is tuple
    assert type(row.table["f"]) is frozenset
    row.items.append("in place")
    row.table["new"] = {1: 2}
    await row.save()
    again = await Box.load(id="a")
    assert again is not None
    assert (again.items, again.table) == (row.items, row.table)


NESTS: list[Callable[[Any], Any]] = [
    lambda inner: [inner],
    lambda inner: {"a": inner},
    lambda inner: {(1, 2): inner},
    lambda inner: (inner,),
    lambda inner: frozenset([inner]),
]


@pytest.mark.parametrize("nest", NESTS)
async def test_what_is_stored_of_nested_containers_can_be_read(db: Database, nest: Callable[[Any], Any]) -> None:
    """Under a stack of some hundred frames too. What is deeper is refused before anything is sent."""

    class Nested(Model):
        id = KeyField()
        items = ListField()

    value: Any = Decimal("1.5")
    for _ in range(98):
        value = nest(value)
    await Nested.create(id="a", items=[value])

    def below(frames: int) -> Any:
        return unpack(pack([value])) if frames == 0 else below(frames - 1)

    assert below(300) == [value]
    assert [one.items for one in await Nested.query] == [[value]]
    with pytest.raises(ValidationError, match="100 deep"):
        await Nested.create(id="b", items=[nest(nest(value))])
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(ValidationError, match="100 deep"):
        await Nested.create(id="b", items=endless)
    assert await Nested.query.count() == 1


async def test_unique_texts_don_t_collide(db: Database) -> None:
    class Named(Model):
        id = KeyField(type=int)
        name = UniqueField()

    await Named.create_many({"id": number, "name": text} for number, text in enumerate(TEXTS))
    assert await Named.query.count() == len(TEXTS)
    for number, text in enumerate(TEXTS):
        assert await Named.query.filter(name=text).keys() == [f"Named:{number}"], text


async def test_poles_and_the_corners_of_the_earth(db: Database) -> None:
    class Spot(Model):
        name = KeyField()
        at = GeoField()

    spots = {
        "north": (90.0, 0.0),
        "south": (-90.0, 180.0),
        "null island": (0.0, 0.0),
        "date line": (0.0, 180.0),
        "other side": (0.0, -180.0),
        "mercator": (85.05112878, 1.0),
        "beyond": (85.0511288, 1.0),
    }
    for name, position in spots.items():
        await Spot.create(name=name, at=position)
    for name, position in spots.items():
        row = await Spot.load(name=name)
        assert row is not None
        assert row.at == GeoField.Coordinates(*position)
        near = {found.name for found in await Spot.query.filter(at=position, at_radius=0.5)}
        assert name in near
        assert near - {name} <= {
            "date line": {"other side"},
            "other side": {"date line"},
            "mercator": {"beyond"},
            "beyond": {"mercator"},
        }.get(name, set())


async def test_a_megabyte_found_by_nothing_but_its_key(db: Database) -> None:
    class Blob(Model):
        id = KeyField()
        text = IndexedField(max_length=None)

    text = "x" * 1_000_000
    await Blob.create(id="a", text=text)
    await Blob.create(id="b", text=text + "y")
    assert await Blob.query.filter(text=text).keys() == ["Blob:a"]
    assert await Blob.query.filter(text=text + "y").keys() == ["Blob:b"]


@pytest.mark.parametrize("count", [2000, 4100])
async def test_a_record_of_thousands_of_fields(db: Database, count: int) -> None:
    """More than a script can pass to one command at once."""
    names = [f"f{number}" for number in range(count)]
    wide: Any = type(
        "Wide",
        (Model,),
        {"__qualname__": "<locals>.Wide", "id": KeyField(), **{name: Field(type=int) for name in names}},
    )
    await wide.create(id="a", **{name: number for number, name in enumerate(names)})
    row = await wide.load(id="a")
    assert [getattr(row, name) for name in names] == list(range(count))
    for name in names[1:]:
        setattr(row, name, None)
    row.f0 = -1
    await row.save()
    (found,) = await wide.query
    assert [getattr(found, name) for name in names] == [-1] + [None] * (count - 1)
    assert (await wide.get_or_create(id="a"))[0].f0 == -1
    assert await found.delete()
