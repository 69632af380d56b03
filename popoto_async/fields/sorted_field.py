"""Fields with an order: SortedField and SortedKeyField.

A sorted set holds doubles. Values that a double can't tell from their neighbours (2**60 and 2**60 + 1, long Decimals,
microseconds of far years) are listed in a second, usually empty set, the ties; only those are decided on their stored
text. So ranges are exact, and cost nothing more where all values are ordinary.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, Unpack

import msgspec

from popoto_async.codec import float_text, is_nan
from popoto_async.errors import shorten
from popoto_async.fields.base import FEW, Field, Options
from popoto_async.fields.indexed_field import reject_nan
from popoto_async.keys import COMPUTED, tail
from popoto_async.plan import (
    MEMBER,
    AllOf,
    Among,
    AnyOf,
    Entry,
    Index,
    KeyIs,
    Nothing,
    OneOf,
    Points,
    Range,
    Test,
    Walk,
)
from popoto_async.types import Row, TypeVar

T = TypeVar("T", default=float)

RANGES = {"gt": "gt", "gte": "ge", "lt": "lt", "lte": "le"}
"""Lookup → comparison of a stored text."""


class SortedField(Field[T]):
    """A value with an order.

    `=`, `__lt`, `__lte`, `__gt`, `__gte`, `__between` (inclusive), `__in`, `__isnull` and order_by; of int, float,
    Decimal, datetime, date or time. `partition_by` names fields (a str or a tuple): each combination of their values
    has an index of its own, and every range or order must say which.
    """

    lookups = ("eq", "in", "isnull", "lt", "lte", "gt", "gte", "between")
    default_type = float
    default_null = False
    allowed = (int, float, Decimal, datetime, date, time)

    def __init__(
        self,
        type: type[T] | None = None,
        *,
        partition_by: str | tuple[str, ...] = (),
        sort_by: str | tuple[str, ...] | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(type, **options)
        if sort_by is not None:
            if partition_by:
                raise self.refused("give partition_by alone, sort_by is its old name")
            warnings.warn("sort_by is deprecated, use partition_by", DeprecationWarning, stacklevel=2)
            partition_by = sort_by
        names: Any = (partition_by,) if isinstance(partition_by, str) else partition_by
        if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
            raise self.refused(f"partition_by takes a str or a tuple of str, not {shorten(partition_by)}")
        self.partition = names

    def connect(self, fields: Mapping[str, Field[Any]]) -> None:
        """Learn the fields of the partition."""
        super().connect(fields)
        self._parts = tuple((name, fields[name]) for name in self.partition)
        self._sort, self._tie, self._null = f"Sort:{self.name}", f"Tie:{self.name}", f"Null:{self.name}"

    def problems(self, value: Any) -> list[str]:
        """What is wrong with a value; NaN is, too."""
        return reject_nan(value, super().problems(value))

    def score(self, value: Any) -> str:
        """The score of a value, as text."""
        scored = self.codec.score
        assert scored is not None
        return float_text(scored(value))

    def indexes(self) -> tuple[Index, ...]:
        """The order, the ties where the type can have them, the nulls where they are allowed."""
        inputs, tailed = (self.name, *self.partition), bool(self.partition)
        found = [Index(self._sort, MEMBER, inputs, tailed)]
        if self.codec.number is not None:
            found.append(Index(self._tie, MEMBER, inputs, tailed))
        if self.null:
            found.append(Index(self._null, MEMBER, inputs, tailed))
        return tuple(found)

    def tail(self, row: Row) -> str:
        """The partition of a row."""
        return tail(field.part(row.get(name)) for name, field in self._parts)

    def entries(self, value: Any, row: Row) -> tuple[Entry, ...]:
        """A place in the order of the row's partition, or among its nulls."""
        where = self.tail(row) if self._parts else ""
        if value is None:  # of a record that was stored before the field was declared
            return (Entry(self._null, where),) if self.null else ()
        codec, score = self.codec, self.score(value)
        if codec.number is None or codec.exact(value):
            return (Entry(self._sort, where, score),)
        return (Entry(self._sort, where, score), Entry(self._tie, where, score))

    def waiting(self, row: Row, changing: str) -> tuple[Entry, ...]:
        """The place of a value to come: among the ties too, if it turns out inexact."""
        if changing != self.name:
            return self.entries(row.get(self.name), row)
        order = Entry(self._sort, self.tail(row), COMPUTED)
        return (
            (order,)
            if self.codec.number is None
            else (order, msgspec.structs.replace(order, name=self._tie, inexact=True))
        )

    def tests(self, lookups: Mapping[str, Any], tail: str) -> Test:
        """One range of the partition's order for all bounds, and whatever else the lookups ask."""
        bounds = [bound for lookup, value in lookups.items() for bound in self._bounds(lookup, value)]
        rest = {lookup: value for lookup, value in lookups.items() if lookup not in RANGES and lookup != "between"}
        if not bounds:
            return super().tests(rest, tail)
        found = self.range(tail, tuple(bounds))
        return AllOf((found, super().tests(rest, tail))) if rest else found

    def _bounds(self, lookup: str, value: Any) -> list[tuple[str, Any]]:
        if lookup == "between":
            if not isinstance(value, (tuple, list)) or len(value) != 2:
                raise self.invalid(lookup, value, "takes a pair (low, high)")
            return [("ge", self.comparable(lookup, value[0])), ("le", self.comparable(lookup, value[1]))]
        return [(RANGES[lookup], self.comparable(lookup, value))] if lookup in RANGES else []

    def comparable(self, lookup: str, value: Any) -> Any:
        """A value with a place in the order."""
        value = super().comparable(lookup, value)
        if is_nan(value):
            raise self.invalid(lookup, value, "takes a number, not NaN")
        return value

    def range(self, tail: str, bounds: tuple[tuple[str, Any], ...]) -> Test:
        """The records whose value satisfies all the bounds."""
        # Of several bounds on one side the narrowest; the strict one of two that are equal.
        lows, highs = [], []
        for op, value in bounds:
            score = self.score(value)
            if op in ("ge", "gt"):
                lows.append((float(score), op == "gt", score))
            else:
                highs.append((-float(score), op == "lt", score))
        _, above, low = max(lows, default=(0.0, False, "-inf"))
        _, below, high = max(highs, default=(0.0, False, "+inf"))
        if self.codec.number is None:
            return Range(self._sort, tail, "(" * above + low, "(" * below + high)
        # Scores can be shared: the bounds let their own score in, and the texts decide.
        exact = tuple((op, self.codec.encode(value).decode()) for op, value in bounds)
        return Range(self._sort, tail, low, high, self._tie, self.name, self.codec.compare, exact)

    def test_null(self, tail: str) -> Test:
        """The nulls of the partition; none where null is not allowed."""
        return AnyOf(self._null, (tail,)) if self.null else Nothing()

    def test_equal(self, values: tuple[Any, ...], tail: str) -> Test:
        """The records of the partition whose value is one of these."""
        if len(values) <= FEW:
            ranges = tuple(self.range(tail, (("ge", value), ("le", value))) for value in values)
            return OneOf(ranges) if len(ranges) > 1 else ranges[0] if ranges else Nothing()
        scores = map(self.score, values)
        points = Points(self._sort, tail, tuple({float(score): score for score in scores}.values()))  # 0 is -0
        return points if self.codec.number is None else Among(points, self.stored_among(values))

    def order(self, tail: str) -> Walk:
        """The partition's order itself."""
        nulls = self._null if self.null else None
        tie = self._tie if self.codec.number is not None else ""
        return Walk(self._sort, tail, self.name, self.codec.compare, nulls, tie)


class SortedKeyField(SortedField[T]):
    """A part of the key that has an order: equality and load by key, and all ranges."""

    is_key = True

    def test_equal(self, values: tuple[Any, ...], tail: str) -> Test:
        """The records of these keys, or the ranges of these values."""
        if self.sole_key and values:
            return KeyIs(tuple(dict.fromkeys(self.part(value) for value in values)))
        return super().test_equal(values, tail)
