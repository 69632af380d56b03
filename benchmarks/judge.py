"""Whether an answer is right. The dataset says what every question must answer, so all contestants agree or fail."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from benchmarks.dataset import COMMON, Account, Dataset, Record
from benchmarks.workers.actions import LIMIT, WINDOW, category_of, salt_of

Answer = dict[str, Any]


class Mismatch(Exception):
    """A contestant read back something else than was written, or counted wrong."""


def expected_found(action: str, dataset: Dataset, ops: int) -> int:
    """What a measured round must return."""
    if action == "expiry":
        return dataset.size  # one count: none of those that have expired
    if action == "rebuild":
        return ops * dataset.size
    per_operation = {
        "range": WINDOW,
        "check_indexes": 0,
        "equality": min(LIMIT, dataset.common),
        "intersect": LIMIT,
        "prefix": LIMIT,
        "traversal": LIMIT,
        "prefetch": WINDOW,
        "count": dataset.count(COMMON, dataset.middle) if action == "count" else 0,
    }
    return ops * per_operation.get(action, 1)


def check_found(action: str, dataset: Dataset, ops: int, found: int) -> None:
    expected = expected_found(action, dataset, ops)
    if found != expected:
        raise Mismatch(f"a round of {ops} operations gave {found}, not {expected}")


def check_answer(action: str, dataset: Dataset, rounds: Sequence[int], answer: Answer) -> None:
    """Raises Mismatch unless the answer after these rounds is what the dataset says, to the last digit."""
    _CHECKS[action](dataset, rounds, answer)


def _tupled(value: Any) -> Any:
    """JSON's lists as tuples, to compare them with named ones."""
    return tuple(_tupled(part) for part in value) if isinstance(value, list | tuple) else value


def _check_rows(rows: Iterable[Any], expected: Sequence[tuple[Any, ...]]) -> None:
    got = _tupled(list(rows))
    if len(got) != len(expected):
        raise Mismatch(f"{len(got)} rows, not {len(expected)}")
    for i, (row, record) in enumerate(zip(got, expected, strict=True)):
        if row != record:
            raise Mismatch(f"row {i} is {row}, not {tuple(record)}")


def _check_some(rows: Iterable[Any], right: set[Any]) -> None:
    """Any LIMIT of the right rows will do: no order was asked for."""
    got = _tupled(list(rows))
    wrong = [row for row in got if row not in right]
    if wrong or not len(got) == len(set(got)) == min(LIMIT, len(right)):
        raise Mismatch(f"{len(got)} rows, {len(set(got))} different, {len(wrong)} of them not stored: {wrong[:1]}")


def _by_rating(records: Iterable[Record]) -> list[Record]:
    return sorted(records, key=lambda record: record.rating)


def _check_count(count: int | None, expected: int) -> None:
    if count is not None and count != expected:
        raise Mismatch(f"counted {count}, not {expected}")


def _written(dataset: Dataset, rounds: Sequence[int], answer: Answer) -> None:
    _check_rows(answer["rows"], list(dataset.records(salt_of(rounds[-1]))))
    _check_count(answer["count"], len(rounds) * dataset.count(COMMON, dataset.middle))


def _loaded(dataset: Dataset, rounds: Sequence[int], answer: Answer) -> None:
    by_name = {record.name: record for record in dataset.records()}
    _check_rows(answer["rows"], [by_name[name] for name in answer["names"]])


def _ranged(dataset: Dataset, rounds: Sequence[int], answer: Answer) -> None:
    low, high = answer["asked"]
    _check_rows(answer["rows"], _by_rating(record for record in dataset.records() if low <= record.rating <= high))


def _limited(dataset: Dataset, rounds: Sequence[int], answer: Answer) -> None:
    category, _ = answer["asked"]
    _check_some(answer["rows"], {record for record in dataset.records() if record.category == category})


def _intersected(dataset: Dataset, rounds: Sequence[int], answer: Answer) -> None:
    category, low, limit = answer["asked"]
    fitting = [record for record in dataset.records() if record.category == category and record.rating >= low]
    _check_rows(answer["rows"], _by_rating(fitting)[:limit])


def _prefixed(dataset: Dataset, rounds: Sequence[int], answer: Answer) -> None:
    prefix, limit = answer["asked"]
    _check_rows(
        answer["rows"], sorted(record for record in dataset.records() if record.name.startswith(prefix))[:limit]
    )


def _traversed(dataset: Dataset, rounds: Sequence[int], answer: Answer) -> None:
    category, _ = answer["asked"]
    places = {record.name for record in dataset.records() if record.category == category}
    _check_some(answer["rows"], {visit for visit in dataset.all_visits() if visit.place in places})


def _followed(dataset: Dataset, rounds: Sequence[int], answer: Answer) -> None:
    (codes,) = answer["asked"]
    places = {record.name: record for record in dataset.records()}
    visits = {visit.code: visit for visit in dataset.all_visits()}
    bills = {bill.code: bill for bill in dataset.all_bills()}
    expected = []
    for code in codes:
        visit = visits[bills[code].visit]
        expected.append(Account(bills[code], visit, places[visit.place]))
    _check_rows(answer["rows"], expected)


def _updated(dataset: Dataset, rounds: Sequence[int], answer: Answer) -> None:
    """The rows of the last window are whole but for the category, and no index says what was before."""
    low, high = answer["windows"][-1]
    category = category_of(rounds[-1])
    window = [record for record in dataset.records() if low <= record.rating <= high]
    _check_rows(answer["rows"], _by_rating(record._replace(category=category) for record in window))
    _check_count(answer["moved"], len(window))
    moved = [record for record in dataset.records() if any(a <= record.rating <= b for a, b in answer["windows"])]
    _check_count(answer["common"], dataset.common - sum(record.category == COMMON for record in moved))


def _deleted(dataset: Dataset, rounds: Sequence[int], answer: Answer) -> None:
    low, high = answer["window"]
    _check_all(answer, [record for record in dataset.records() if not low <= record.rating <= high])


def _expired(dataset: Dataset, rounds: Sequence[int], answer: Answer) -> None:
    _check_all(answer, list(dataset.records()))


def _rebuilt(dataset: Dataset, rounds: Sequence[int], answer: Answer) -> None:
    _check_all(answer, list(dataset.records()))
    if answer["damage"]:
        raise Mismatch(f"a check right after it found {answer['damage']} to be wrong")


def _check_all(answer: Answer, left: Sequence[Record]) -> None:
    """These records are left, in every index."""
    _check_rows(answer["rows"], _by_rating(left))
    _check_count(answer["count"], len(left))
    _check_count(answer["common"], sum(record.category == COMMON for record in left))


def _counted(dataset: Dataset, rounds: Sequence[int], answer: Answer) -> None:
    _check_count(answer["count"], dataset.count(COMMON, dataset.middle))


_CHECKS: dict[str, Callable[[Dataset, Sequence[int], Answer], None]] = {
    "create_each": _written,
    "create_together": _written,
    "create_many": _written,
    "load_together": _loaded,
    "range": _ranged,
    "equality": _limited,
    "intersect": _intersected,
    "prefix": _prefixed,
    "traversal": _traversed,
    "prefetch": _followed,
    "count": _counted,
    "update_by_query": _updated,
    "delete_by_query": _deleted,
    "expiry": _expired,
    "memory": _counted,
    "check_indexes": _counted,
    "rebuild": _rebuilt,
}
