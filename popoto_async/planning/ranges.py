"""Ranges of one index that have to hold together become one range, whoever asked for each. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from popoto_async.plan import Range, Test


def narrowed(tests: Iterable[Test]) -> list[Test]:
    """The tests of a conjunction with one range for each order at most: a window costs what is in it."""
    tests = list(tests)
    if len(tests) == 1:
        return tests
    found: dict[object, Test] = {}
    for number, test in enumerate(tests):
        place: object = (test.index, test.tail) if isinstance(test, Range) else number
        earlier = found.get(place)
        if isinstance(test, Range) and isinstance(earlier, Range):
            found[place] = _both(earlier, test)
        else:
            found[place] = test
    return list(found.values())


def _both(a: Range, b: Range) -> Range:
    low = max(a.low, b.low, key=lambda bound: (_number(bound), bound.startswith("(")))
    high = min(a.high, b.high, key=lambda bound: (_number(bound), not bound.startswith("(")))
    exact = (*a.exact, *(condition for condition in b.exact if condition not in a.exact))
    return Range(a.index, a.tail, low, high, a.tie or b.tie, a.field or b.field, a.compare or b.compare, exact)


def _number(bound: str) -> float:
    return float(bound.removeprefix("("))


def is_point(test: Range) -> bool:
    """Whether one value at most is in a range."""
    return test.low == test.high and len({text for _, text in test.exact}) <= 1
