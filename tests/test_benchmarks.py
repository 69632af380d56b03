"""The benchmark's own honesty: every row is judged, and what is a little wrong does not pass for right."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from benchmarks.contest import CHANGING, READING
from benchmarks.dataset import COMMON, Account, Bill, Dataset, Record, Visit
from benchmarks.judge import Mismatch, check_answer, check_found
from benchmarks.rows import ROWS
from benchmarks.workers.actions import ACTIONS, Job
from benchmarks.workers.contestant import Contestant

pytestmark = pytest.mark.anyio

DATASET = Dataset(300, 150, visits=400, bills=200)
ROUNDS = (0, 1, 2)
OPS = {"update_by_query": 20, "delete_by_query": 20, "expiry": 10}
JUDGED = sorted(set(ACTIONS) - {"memory"})


class Plain:
    """A contestant that answers from a dictionary, by the words of the questions."""

    note = ""

    def __init__(self) -> None:
        self.versions: dict[str, str] = {}
        self.records: dict[str, Record] = {}
        self.visits: dict[str, Visit] = {}
        self.bills: dict[str, Bill] = {}

    async def open(self, url: str) -> None: ...

    async def close(self) -> None: ...

    async def create_each(self, records: Sequence[Record]) -> None:
        await self.create_many(records)

    async def create_together(self, records: Sequence[Record]) -> None:
        await self.create_many(records)

    async def create_many(self, records: Iterable[Record]) -> None:
        self.records |= {record.name: record for record in records}

    async def load_together(self, names: Sequence[str]) -> list[Record]:
        return [self.records[name] for name in names]

    async def between(self, low: float, high: float) -> list[Record]:
        return self._by_rating(record for record in self.records.values() if low <= record.rating <= high)

    async def equal(self, category: str, limit: int) -> list[Record]:
        return (await self.intersect(category, 0, limit))[::-1]

    async def count(self, category: str, low: float) -> int:
        return len(await self.intersect(category, low, len(self.records)))

    async def intersect(self, category: str, low: float, limit: int) -> list[Record]:
        records = self.records.values()
        return self._by_rating(one for one in records if one.category == category and one.rating >= low)[:limit]

    async def prefixed(self, prefix: str, limit: int) -> list[Record]:
        return sorted(record for record in self.records.values() if record.name.startswith(prefix))[:limit]

    async def create_linked(self, visits: Sequence[Visit], bills: Sequence[Bill]) -> None:
        self.visits = {visit.code: visit for visit in visits}
        self.bills = {bill.code: bill for bill in bills}

    async def visits_to(self, category: str, limit: int) -> list[Visit]:
        return [one for one in self.visits.values() if self.records[one.place].category == category][-limit:]

    async def accounts(self, codes: Sequence[str]) -> list[Account]:
        bills = [self.bills[code] for code in codes]
        visits = [self.visits[bill.visit] for bill in bills]
        return [Account(bill, one, self.records[one.place]) for bill, one in zip(bills, visits, strict=True)]

    async def recategorise(self, low: float, high: float, category: str) -> int:
        found = await self.between(low, high)
        self.records |= {record.name: record._replace(category=category) for record in found}
        return len(found)

    async def remove(self, low: float, high: float) -> int:
        return len([self.records.pop(record.name) for record in await self.between(low, high)])

    async def create_expiring(self, records: Sequence[Record], seconds: float) -> float:
        return 0.0  # gone before anybody asks

    async def count_all(self) -> int:
        return len(self.records)

    async def check_indexes(self) -> int:
        return 0

    async def rebuild(self) -> int:
        return len(self.records)

    def round_trips(self) -> int | None:
        return None

    def _by_rating(self, records: Iterable[Record]) -> list[Record]:
        return sorted(records, key=lambda record: record.rating)


async def held(action: str, contestant: Contestant) -> tuple[list[int], dict[str, Any]]:
    """What the rounds of an action gave, and the answer as the run gets it."""
    job = Job(contestant="plain", action=action, url="", dataset=DATASET, ops=OPS.get(action, 3))
    if action in READING | CHANGING:
        await contestant.create_many(DATASET.records())
        await contestant.create_linked(DATASET.all_visits(), DATASET.all_bills())
    doing = ACTIONS[action](contestant, job, action)
    found = []
    for turn in ROUNDS:
        await doing.prepare(turn)
        found.append(await doing.run())
    return found, json.loads(json.dumps(await doing.answer()))


def test_every_row_with_sizes_is_done_and_judged():
    measured = {row.action for row in ROWS if row.full}
    assert measured - {"import"} == set(ACTIONS)
    assert all(row.short for row in ROWS if row.full)


@pytest.mark.parametrize("action", JUDGED)
async def test_a_right_answer_passes_and_any_other_does_not(action):
    found, answer = await held(action, Plain())
    ops = DATASET.size if action in {"create_each", "create_together", "create_many"} else OPS.get(action, 3)
    for number in found:
        check_found(action, DATASET, ops, number)
        with pytest.raises(Mismatch):
            check_found(action, DATASET, ops, number + 1)
    check_answer(action, DATASET, ROUNDS, answer)

    wrong = [{**answer, name: answer[name] + 1} for name in ("count", "common", "moved", "damage") if name in answer]
    if rows := answer.get("rows"):
        wrong += [
            {**answer, "rows": changed} for changed in (rows[:-1], [*rows, rows[0]], [altered(rows[0]), *rows[1:]])
        ]
    assert wrong
    for other in wrong:
        with pytest.raises(Mismatch):
            check_answer(action, DATASET, ROUNDS, other)


def altered(row: list[Any]) -> list[Any]:
    """The row with another last value."""
    *first, last = row
    return [*first, altered(last) if isinstance(last, list) else last + 1]


class Forgetful(Plain):
    """What it takes away stays in an index."""

    async def count(self, category: str, low: float) -> int:
        return DATASET.common if category == COMMON and low == 0 else await super().count(category, low)


@pytest.mark.parametrize("action", ["update_by_query", "delete_by_query"])
async def test_an_index_that_keeps_what_is_gone_is_seen(action):
    _, answer = await held(action, Forgetful())
    with pytest.raises(Mismatch, match="counted"):
        check_answer(action, DATASET, ROUNDS, answer)
