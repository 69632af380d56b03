"""The order of rows that came in several calls. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from popoto_async.plan import ByDistance, ByKey, OrderBy, Walk
from popoto_async.planning.read import ReadPlan


def merge_key(plan: ReadPlan, key: bytes, marks: Sequence[bytes | None]) -> list[Any]:
    """What rows of several calls are merged by: comparable with `<`, nulls last in both directions."""
    found: list[Any] = []
    for (by, descending), mark in zip(plan.orders, marks, strict=False):
        found.append(_Mark(mark, _is_number(by), descending))
    found.append(_Mark(key, False, plan.orders[0][1] if plan.orders else False))
    return found


def _is_number(by: OrderBy) -> bool:
    if isinstance(by, ByDistance):
        return True
    return not isinstance(by, ByKey) and (by.compare == "number" or (isinstance(by, Walk) and not by.tie))


class _Mark:
    """A value rows are ordered by."""

    __slots__ = ("descending", "value")

    def __init__(self, mark: bytes | None, number: bool, descending: bool) -> None:
        self.value: Any = mark if mark is None or not number else Decimal(mark.decode())
        self.descending = descending

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Mark) and self.value == other.value

    def __lt__(self, other: _Mark) -> bool:
        if self.value is None or other.value is None:
            return other.value is None and self.value is not None
        return bool(self.value > other.value if self.descending else self.value < other.value)
