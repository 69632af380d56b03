"""`__in` with few and with thousands of values: what Python says, by an index and without, in short calls."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from popoto_async import Database, Field, IndexedField, KeyField, Model, Q, SortedField, SortedKeyField, trace
from popoto_async.fields.base import FEW

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore::popoto_async.UnindexedFilterWarning")]

ALL = 200
MOMENT = datetime(2026, 1, 2, tzinfo=UTC)
COLUMNS: dict[str, Sequence[Any]] = {
    "kind": [number % 40 for number in range(ALL)],
    "exact": [Decimal(number % 50) / 8 for number in range(ALL)],
    "label": [f"l:{number % 40}" for number in range(ALL)],
    "size": [2**53 + number % 70 for number in range(ALL)],
    "cost": [Decimal(number % 30) / 7 for number in range(ALL)],
    "score": [(number % 60 - 30) / 4 for number in range(ALL)],
    "when": [MOMENT + timedelta(microseconds=number % 50) for number in range(ALL)],
    "day": [date(2026, 1, 1) + timedelta(days=number % 90) for number in range(ALL)],
    "hour": [time(number % 24, tzinfo=UTC) for number in range(ALL)],
    "plain": [number % 40 for number in range(ALL)],
    "text": [f"t{number % 40}" for number in range(ALL)],
    "fine": [Decimal(number % 45) / 7 for number in range(ALL)],
}


class Item(Model):
    number = SortedKeyField(type=int)
    kind = IndexedField(type=int)
    exact = IndexedField(type=Decimal)
    label = IndexedField()
    size = SortedField(type=int, partition_by="group")
    group = IndexedField(type=bool, default=True)
    cost = SortedField(type=Decimal)
    score = SortedField(type=float)
    when = SortedField(type=datetime)
    day = SortedField(type=date)
    hour = SortedField(type=time)
    plain = Field(type=int)
    text = Field()
    fine = Field(type=Decimal)


async def fill() -> None:
    rows = zip(*COLUMNS.values(), strict=True)
    await Item.create_many({"number": at, **dict(zip(COLUMNS, row, strict=True))} for at, row in enumerate(rows))


@pytest.mark.parametrize("count", [FEW, FEW + 1, 20])
async def test_a_value_is_one_of_many(db: Database, count: int) -> None:
    await fill()
    query = Item.query.filter(group=True)
    for name, column in COLUMNS.items():
        wanted = sorted(set(column))[: count - 1]
        wanted += wanted[:1]  # twice
        numbers = [number for number in range(ALL) if column[number] in wanted]
        assert len(numbers) < ALL
        found = query.filter(**{f"{name}__in": wanted})
        assert [item.number for item in await found.order_by("number")] == numbers, name
        assert await found.count() == len(numbers), name
        assert len(await found) == len(numbers), name
        assert await found.filter(number__gte=100, number__lt=150).count() == sum(100 <= n < 150 for n in numbers), name
        assert await query.exclude(**{f"{name}__in": wanted}).count() == ALL - len(numbers), name
        both = query.filter(Q(**{f"{name}__in": wanted}) | Q(kind__in=range(10, 30)), plain__in=range(25))
        either = [n for n in range(ALL) if (n in numbers or 10 <= n % 40 < 30) and n % 40 < 25]
        assert [item.number for item in await both.order_by("number")] == either, name
        pages = [item.number async for item in found.order_by("-number")]
        assert pages == numbers[::-1], name


async def test_values_that_share_a_double_are_told_apart(db: Database) -> None:
    for number in range(40):
        await Item.create(
            number=number,
            **{name: column[0] for name, column in COLUMNS.items() if name != "size"},
            size=2**60 + number,
        )
    wanted = [2**60 + number for number in range(0, 40, 2)]
    found = Item.query.filter(group=True, size__in=wanted)
    assert await found.count() == 20
    assert sorted(item.size for item in await found) == wanted
    zeros = [-0.0, 0.0, *map(float, range(1, 20))]
    await Item.query.filter(number=3).update(score=0.0)
    await Item.query.filter(number=4).update(score=-0.0)
    assert sorted(await Item.query.filter(score__in=zeros).keys()) == ["Item:3", "Item:4"]


async def test_equal_numbers_and_times_may_be_written_differently(db: Database) -> None:
    await fill()
    wanted = [Decimal(number) / 8 for number in range(20)]
    longer = [value * Decimal("1.000") for value in wanted]
    for name in ("exact", "fine", "cost"):
        assert (
            await Item.query.filter(**{f"{name}__in": longer}).count()
            == await Item.query.filter(**{f"{name}__in": wanted}).count()
        )
    elsewhere = [time(hour, tzinfo=timezone(timedelta(hours=1))) for hour in range(1, 24)]
    assert await Item.query.filter(hour__in=elsewhere).count() == sum(number % 24 < 23 for number in range(ALL))


async def test_thousands_of_values_are_looked_at_in_few_calls(db: Database) -> None:
    await fill()
    values = range(10**6, 10**6 + 3000)
    for name in ("kind", "cost", "score", "plain", "fine", "number"):
        wanted: list[Any] = [*values, 5]
        matching = sum(value == 5 for value in COLUMNS.get(name, range(ALL)))
        for query, found in (
            (Item.query.filter(**{f"{name}__in": wanted}), matching),
            (Item.query.exclude(**{f"{name}__in": wanted}), ALL - matching),
        ):
            async with trace() as t:
                assert len(await query.keys()) == found, name
                assert await query.count() == found, name
            assert t.round_trips <= 20, (name, t.round_trips)


async def test_nan_is_none_of_the_values(db: Database) -> None:
    class Reading(Model):
        id = KeyField()
        exact = Field(type=Decimal, null=True)
        rough = Field(type=float, null=True)

    await Reading.create(id="a", exact=Decimal("1.1"), rough=float("nan"))
    await Reading.create(id="b", exact=Decimal("sNaN"), rough=1.0)
    for text in ("NaN", "sNaN", "NaN123", "-sNaN"):
        assert await Reading.query.filter(exact=Decimal(text)).count() == 0
        assert await Reading.query.filter(exact__in=[Decimal(text), Decimal("1.10")]).keys() == ["Reading:a"]
        assert await Reading.query.exclude(exact=Decimal(text)).count() == 2
    assert await Reading.query.filter(rough__in=[float("nan"), 1]).keys() == ["Reading:b"]


async def test_alternatives_added_one_by_one(db: Database) -> None:
    await fill()
    q, narrowed, condition = Q(), Q(), Item.kind == 0
    for number in range(1500):
        q |= Q(kind=number)
        narrowed &= ~Q(plain=number + 20)
        condition = condition | (Item.kind == number)
    assert await Item.query.filter(q).count() == await Item.query.filter(condition).count() == ALL
    assert await Item.query.filter(narrowed).count() == sum(number % 40 < 20 for number in range(ALL))
    assert (
        await Item.query.filter((Q(kind=1) | Q(kind=2)) & (Q(kind=2) | Q(kind=3)), ~(Q(plain=9) & Q(kind=2))).count()
        == 5
    )
