"""Tests in words, for people who want to see a plan. Pure."""

from __future__ import annotations

from typing import Any

from popoto_async.errors import shorten
from popoto_async.keys import NULL
from popoto_async.plan import (
    Among,
    AnyOf,
    Claimed,
    KeyBegins,
    KeyIs,
    Matches,
    Near,
    Points,
    Range,
    Refers,
    Stored,
    Test,
    Via,
)

SHOWN = 3
"""Values of a list that are shown."""


def label(test: Test) -> str:
    """What a test asks of which index."""
    words: Any = _LABELS.get(type(test))
    return words(test) if words else type(test).__name__


def _list(values: tuple[Any, ...]) -> str:
    shown = ["null" if value == NULL else str(value) for value in values[:SHOWN]]
    return " | ".join(shown) + (f" | … ({len(values)})" if len(values) > SHOWN else "")


def _members(test: AnyOf | Claimed | Refers) -> str:
    return f"{test.index} = {_list(test.tails)}" if test.tails != ("",) else test.index


def _range(test: Range) -> str:
    low = "" if test.low == "-inf" else f"{test.low.replace('(', '')} {'<' if '(' in test.low else '<='} "
    high = "" if test.high == "+inf" else f" {'<' if '(' in test.high else '<='} {test.high.replace('(', '')}"
    return f"{low}{test.index}{f'[{test.tail}]' if test.tail else ''}{high}"


def _near(test: Near) -> str:
    reach = f"within {test.radius:g} m" if test.radius is not None else f"in a box of {test.box} m"
    return f"{test.index} {reach} of {test.latitude:g},{test.longitude:g}"


_OPERATIONS = {"eq": "=", "in": "=", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "null": "is null"}


def _stored(test: Stored) -> str:
    values = _list(tuple(shorten(value.decode(errors="replace")) for value in test.values))
    return f"{test.field} {_OPERATIONS[test.op]} {values}".rstrip() + " (stored)"


_TEXTS = {"starts": "begins with", "ends": "ends with", "has": "contains"}


def _matches(test: Matches) -> str:
    words = f"{test.field or f'key part {test.part}'} {_TEXTS[test.op]} {shorten(test.text)}"
    return words + (f" ({test.listing})" if test.listing else " (stored)")


_LABELS: dict[type[Test], Any] = {
    Among: lambda test: label(test.stored),
    AnyOf: _members,
    Points: lambda test: f"{test.index}{f'[{test.tail}]' if test.tail else ''} = {_list(test.scores)}",
    Claimed: _members,
    Range: _range,
    Refers: _members,
    KeyIs: lambda test: f"key = {_list(test.parts)}",
    KeyBegins: lambda test: f"key begins with {test.text}",
    Matches: _matches,
    Via: lambda test: f"{test.index}, and there",
    Near: _near,
    Stored: _stored,
}
"""How each kind of test is worded; others by their name."""
