"""What one round of each row does, and the answer by which it is judged."""

import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from benchmarks.dataset import COMMON, Dataset, Record
from benchmarks.workers.contestant import Contestant, Unavailable, chunked

WINDOW = 100  # rows of a range query
LIMIT = 10  # rows of a limited query


def salt_of(round_: int) -> str:
    """What makes the names of one writing round its own."""
    return f"r{round_}-"


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker is started for."""

    contestant: str
    action: str
    url: str
    dataset: Dataset
    ops: int

    @classmethod
    def of(cls, values: dict[str, Any]) -> "Job":
        return cls(**{**values, "dataset": Dataset(**values["dataset"])})


class Action(Protocol):
    """One row as one contestant does it. Only `run` is measured."""

    def prepare(self, round_: int) -> None: ...

    async def run(self) -> int:
        """Does the round; returns how many records it wrote or read, or what it counted."""

    async def answer(self) -> dict[str, Any]: ...


class Writing:
    """Rounds that create records under new names; the answer is all of the last round, read back."""

    def __init__(self, contestant: Contestant, job: Job, verb: str) -> None:
        self._contestant = contestant
        self._dataset = job.dataset
        self._create = getattr(contestant, verb)
        self._rounds = 0
        self._records: list[Record] = []

    def prepare(self, round_: int) -> None:
        self._rounds += 1
        self._records = list(self._dataset.records(salt_of(round_)))

    async def run(self) -> int:
        await self._create(self._records)
        return len(self._records)

    async def answer(self) -> dict[str, Any]:
        names = [record.name for record in self._records]
        rows: list[Record] = []
        for chunk in chunked(names, 1000):
            rows += await self._contestant.load_together(chunk)
        try:
            count: int | None = await self._contestant.count(COMMON, self._dataset.middle)
        except Unavailable:
            count = None
        return {"rows": rows, "count": count, "rounds": self._rounds}


class Loading:
    """Rounds that load records by key; the answer is what the last one got."""

    def __init__(self, contestant: Contestant, job: Job, _: str) -> None:
        self._contestant = contestant
        self._names = [record.name for record in job.dataset.records()]
        self._ops = job.ops
        self._asked: Sequence[str] = ()
        self._rows: list[Record] = []

    def prepare(self, round_: int) -> None:
        start = round_ * self._ops % (len(self._names) - self._ops + 1)
        self._asked = self._names[start : start + self._ops]
        self._rows = []

    async def run(self) -> int:
        self._rows = await self._contestant.load_together(self._asked)
        return len(self._rows)

    async def answer(self) -> dict[str, Any]:
        return {"rows": self._rows, "names": self._asked}


class Ranging:
    """Rounds of range queries; the answer is the last of them."""

    def __init__(self, contestant: Contestant, job: Job, _: str) -> None:
        self._contestant = contestant
        self._job = job
        self._windows: list[tuple[float, float]] = []
        self._rows: list[Record] = []

    def prepare(self, round_: int) -> None:
        self._windows = [self._job.dataset.window(round_ * 1009 + i * 37, WINDOW) for i in range(self._job.ops)]

    async def run(self) -> int:
        found = 0
        for low, high in self._windows:
            self._rows = await self._contestant.between(low, high)
            found += len(self._rows)
        return found

    async def answer(self) -> dict[str, Any]:
        return {"rows": self._rows, "window": self._windows[-1]}


class Equality:
    """Rounds of one limited query, again and again."""

    def __init__(self, contestant: Contestant, job: Job, _: str) -> None:
        self._contestant = contestant
        self._ops = job.ops
        self._rows: list[Record] = []

    def prepare(self, round_: int) -> None:
        self._rows = []

    async def run(self) -> int:
        found = 0
        for _ in range(self._ops):
            self._rows = await self._contestant.equal(COMMON, LIMIT)
            found += len(self._rows)
        return found

    async def answer(self) -> dict[str, Any]:
        return {"rows": self._rows}


class Counting:
    """Rounds of counts over two indexes."""

    def __init__(self, contestant: Contestant, job: Job, _: str) -> None:
        self._contestant = contestant
        self._job = job

    def prepare(self, round_: int) -> None:
        """Nothing changes from round to round."""

    async def run(self) -> int:
        found = 0
        for _ in range(self._job.ops):
            found += await self._contestant.count(COMMON, self._job.dataset.middle)
        return found

    async def answer(self) -> dict[str, Any]:
        return {"count": await self._contestant.count(COMMON, self._job.dataset.middle)}


class Storing(Counting):
    """Nothing but stored records, for the row that weighs them."""

    async def run(self) -> int:
        return 0

    async def answer(self) -> dict[str, Any]:
        try:
            return await super().answer()
        except Unavailable:
            return {"count": None}


ACTIONS: dict[str, Callable[[Contestant, Job, str], Action]] = {
    "create_each": Writing,
    "create_together": Writing,
    "create_many": Writing,
    "load_together": Loading,
    "range": Ranging,
    "equality": Equality,
    "count": Counting,
    "memory": Storing,
}


async def memory_growth(contestant: Contestant, dataset: Dataset) -> dict[str, int]:
    """Peak of Python's memory while a generator of n and of 3 n records is created in bulk, in bytes."""
    peaks = []
    for times in (1, 3):
        salts = [f"m{times}{i}-" for i in range(times)]
        tracemalloc.start()
        try:
            await contestant.create_many(record for salt in salts for record in dataset.records(salt))
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    return {"once": peaks[0], "thrice": peaks[1]}
