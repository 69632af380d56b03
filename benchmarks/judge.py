"""Whether an answer is right. The dataset says what every question must answer, so all contestants agree or fail."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from benchmarks.dataset import COMMON, Dataset, Record
from benchmarks.workers.actions import LIMIT, WINDOW, salt_of

Answer = dict[str, Any]


class Mismatch(Exception):
    """A contestant read back something else than was written, or counted wrong."""


def expected_found(action: str, dataset: Dataset, ops: int) -> int:
    """What a measured round must return."""
    per_operation = {
        "range": WINDOW,
        "equality": min(LIMIT, dataset.common),
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


def _check_rows(rows: Iterable[Sequence[Any]], expected: Sequence[Record]) -> None:
    got = [tuple(row) for row in rows]
    if len(got) != len(expected):
        raise Mismatch(f"{len(got)} rows, not {len(expected)}")
    for i, (row, record) in enumerate(zip(got, expected, strict=True)):
        if row != record:
            raise Mismatch(f"row {i} is {row}, not {tuple(record)}")


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
    low, high = answer["window"]
    inside = [record for record in dataset.records() if low <= record.rating <= high]
    _check_rows(answer["rows"], sorted(inside, key=lambda record: record.rating))


def _limited(dataset: Dataset, rounds: Sequence[int], answer: Answer) -> None:
    """Any rows of the category will do: no order was asked for."""
    right = {record for record in dataset.records() if record.category == COMMON}
    rows = [tuple(row) for row in answer["rows"]]
    wrong = [row for row in rows if row not in right]
    if wrong or len(set(rows)) != min(LIMIT, len(right)):
        raise Mismatch(f"{len(set(rows))} different rows, of which {len(wrong)} are not stored: {wrong[:1]}")


def _counted(dataset: Dataset, rounds: Sequence[int], answer: Answer) -> None:
    _check_count(answer["count"], dataset.count(COMMON, dataset.middle))


_CHECKS: dict[str, Callable[[Dataset, Sequence[int], Answer], None]] = {
    "create_each": _written,
    "create_together": _written,
    "create_many": _written,
    "load_together": _loaded,
    "range": _ranged,
    "equality": _limited,
    "count": _counted,
    "memory": _counted,
}
