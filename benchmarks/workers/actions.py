"""What one round of each row does, and the answer by which it is judged."""

import asyncio
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

from benchmarks.dataset import COMMON, Dataset, Record
from benchmarks.workers.contestant import Contestant, Unavailable, chunked

WINDOW = 100  # rows of a range query, bills of a page
LIMIT = 10  # rows of a limited query
LIFE = 0.5  # seconds that expiring records live


def salt_of(round_: int) -> str:
    """What makes the names of one writing round its own."""
    return f"r{round_}-"


def category_of(round_: int) -> str:
    """The category that one updating round gives."""
    return f"moved-{round_}"


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

    async def prepare(self, round_: int) -> None: ...

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

    async def prepare(self, round_: int) -> None:
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

    async def prepare(self, round_: int) -> None:
        start = round_ * self._ops % (len(self._names) - self._ops + 1)
        self._asked = self._names[start : start + self._ops]
        self._rows = []

    async def run(self) -> int:
        self._rows = await self._contestant.load_together(self._asked)
        return len(self._rows)

    async def answer(self) -> dict[str, Any]:
        return {"rows": self._rows, "names": self._asked}


@dataclass(frozen=True, slots=True)
class Question:
    """A reading call of a contestant, and its arguments by the data set and a number that is another each time."""

    verb: str
    arguments: Callable[[Dataset, int], tuple[Any, ...]]


QUESTIONS = {
    "range": Question("between", lambda dataset, turn: dataset.window(turn, WINDOW)),
    "equality": Question("equal", lambda dataset, turn: (COMMON, LIMIT)),
    "intersect": Question(
        "intersect", lambda dataset, turn: (COMMON, dataset.window(turn, dataset.size // 2)[0], LIMIT)
    ),
    "prefix": Question("prefixed", lambda dataset, turn: (dataset.prefix, LIMIT)),
    "traversal": Question("visits_to", lambda dataset, turn: (COMMON, LIMIT)),
    "prefetch": Question("accounts", lambda dataset, turn: (dataset.bill_codes(turn, WINDOW),)),
}


class Asking:
    """Rounds of questions that are answered by rows; the answer is the last of them, with what was asked."""

    def __init__(self, contestant: Contestant, job: Job, action: str) -> None:
        self._job = job
        self._arguments = QUESTIONS[action].arguments
        self._ask = getattr(contestant, QUESTIONS[action].verb)
        self._asked: list[tuple[Any, ...]] = []
        self._rows: Sequence[tuple[Any, ...]] = ()

    async def prepare(self, round_: int) -> None:
        self._asked = [self._arguments(self._job.dataset, round_ * 1009 + i * 37) for i in range(self._job.ops)]
        self._rows = ()

    async def run(self) -> int:
        found = 0
        for arguments in self._asked:
            self._rows = await self._ask(*arguments)
            found += len(self._rows)
        return found

    async def answer(self) -> dict[str, Any]:
        return {"rows": self._rows, "asked": self._asked[-1]}


class Counting:
    """Rounds of counts over two indexes."""

    def __init__(self, contestant: Contestant, job: Job, _: str) -> None:
        self._contestant = contestant
        self._job = job

    async def prepare(self, round_: int) -> None:
        """Nothing changes from round to round."""

    async def run(self) -> int:
        found = 0
        for _ in range(self._job.ops):
            found += await self._contestant.count(COMMON, self._job.dataset.middle)
        return found

    async def answer(self) -> dict[str, Any]:
        return {"count": await self._contestant.count(COMMON, self._job.dataset.middle)}


class Checking(Counting):
    """Rounds of looking for damage, of which there is none."""

    async def run(self) -> int:
        return sum([await self._contestant.check_indexes() for _ in range(self._job.ops)])


class Rebuilding:
    """Rounds that rebuild all indexes; the answer is what they say then, and what a check says of them."""

    def __init__(self, contestant: Contestant, job: Job, _: str) -> None:
        self._contestant = contestant
        self._job = job

    async def prepare(self, round_: int) -> None:
        """Each round finds what the one before has left."""

    async def run(self) -> int:
        return sum([await self._contestant.rebuild() for _ in range(self._job.ops)])

    async def answer(self) -> dict[str, Any]:
        return {
            "rows": await self._contestant.between(0.0, self._job.dataset.size / 100),
            "count": await self._contestant.count_all(),
            "common": await self._contestant.count(COMMON, 0.0),
            "damage": await self._contestant.check_indexes(),
        }


class Storing(Counting):
    """Nothing but stored records, for the row that weighs them."""

    async def run(self) -> int:
        return 0

    async def answer(self) -> dict[str, Any]:
        try:
            return await super().answer()
        except Unavailable:
            return {"count": None}


class Updating:
    """Rounds that give the records of a window of ratings another category; the answer is what stands where then."""

    def __init__(self, contestant: Contestant, job: Job, _: str) -> None:
        self._contestant = contestant
        self._job = job
        self._category = ""
        self._windows: list[tuple[float, float]] = []

    async def prepare(self, round_: int) -> None:
        self._category = category_of(round_)
        self._windows.append(self._job.dataset.window(round_ * 1009, self._job.ops))

    async def run(self) -> int:
        return await self._contestant.recategorise(*self._windows[-1], self._category)

    async def answer(self) -> dict[str, Any]:
        return {
            "windows": self._windows,
            "rows": await self._contestant.between(*self._windows[-1]),
            "moved": await self._contestant.count(self._category, 0.0),
            "common": await self._contestant.count(COMMON, 0.0),
        }


class Deleting:
    """Rounds that delete the records of a window of ratings; what the round before has deleted is there again."""

    def __init__(self, contestant: Contestant, job: Job, _: str) -> None:
        self._contestant = contestant
        self._job = job
        self._window = (0.0, 0.0)
        self._deleted: list[Record] = []

    async def prepare(self, round_: int) -> None:
        await self._contestant.create_many(self._deleted)
        low, high = self._window = self._job.dataset.window(round_ * 1009, self._job.ops)
        self._deleted = [record for record in self._job.dataset.records() if low <= record.rating <= high]

    async def run(self) -> int:
        return await self._contestant.remove(*self._window)

    async def answer(self) -> dict[str, Any]:
        return {
            "window": self._window,
            "rows": await self._contestant.between(0.0, self._job.dataset.size / 100),
            "count": await self._contestant.count_all(),
            "common": await self._contestant.count(COMMON, 0.0),
        }


class Expiring:
    """Rounds that count all records in the moment after some have expired; the answer is what the indexes say then."""

    def __init__(self, contestant: Contestant, job: Job, _: str) -> None:
        self._contestant = contestant
        self._job = job

    async def prepare(self, round_: int) -> None:
        records = list(islice(self._job.dataset.records(f"x{round_}-"), self._job.ops))
        life = await self._contestant.create_expiring(records, LIFE)
        await asyncio.sleep(life + 0.02)

    async def run(self) -> int:
        return await self._contestant.count_all()

    async def answer(self) -> dict[str, Any]:
        return {
            "rows": await self._contestant.between(0.0, self._job.dataset.size / 100),
            "count": await self._contestant.count_all(),
            "common": await self._contestant.count(COMMON, 0.0),
        }


ACTIONS: dict[str, Callable[[Contestant, Job, str], Action]] = {
    "create_each": Writing,
    "create_together": Writing,
    "create_many": Writing,
    "load_together": Loading,
    **dict.fromkeys(QUESTIONS, Asking),
    "count": Counting,
    "update_by_query": Updating,
    "delete_by_query": Deleting,
    "expiry": Expiring,
    "memory": Storing,
    "check_indexes": Checking,
    "rebuild": Rebuilding,
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
