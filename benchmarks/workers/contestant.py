"""What a contestant has to do. Records go in and come back as the same plain values for all of them."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Protocol, TypeVar

from benchmarks.dataset import Account, Bill, Record, Visit

T = TypeVar("T")


class Unavailable(Exception):
    """A contestant can't do something here; the message is the reason that the table shows."""


class Contestant(Protocol):
    """Reading calls return complete records: every attribute has been read and decoded when they return."""

    versions: dict[str, str]
    note: str
    """What the reader of the figures has to know, or the empty string."""

    async def open(self, url: str) -> None: ...

    async def close(self) -> None: ...

    async def create_each(self, records: Sequence[Record]) -> None:
        """One awaited create after another."""

    async def create_together(self, records: Sequence[Record]) -> None:
        """All at once, the way an asyncio program would."""

    async def create_many(self, records: Iterable[Record]) -> None:
        """In bulk, from an iterable that need not fit into memory."""

    async def load_together(self, names: Sequence[str]) -> list[Record]:
        """The records of these names, in this order."""

    async def between(self, low: float, high: float) -> list[Record]:
        """All records with low ≤ rating ≤ high, by rating."""

    async def equal(self, category: str, limit: int) -> list[Record]:
        """Some `limit` records of this category."""

    async def count(self, category: str, low: float) -> int:
        """How many records have this category and at least this rating."""

    async def intersect(self, category: str, low: float, limit: int) -> list[Record]:
        """The first `limit` records, by rating, of this category and at least this rating."""

    async def prefixed(self, prefix: str, limit: int) -> list[Record]:
        """The first `limit` records, by name, whose names begin so."""

    async def create_linked(self, visits: Sequence[Visit], bills: Sequence[Bill]) -> None:
        """In bulk, after the records that they refer to."""

    async def visits_to(self, category: str, limit: int) -> list[Visit]:
        """Some `limit` visits to places of this category."""

    async def accounts(self, codes: Sequence[str]) -> list[Account]:
        """The bills of these codes, in this order, with their visits and the places of these."""

    async def recategorise(self, low: float, high: float, category: str) -> int:
        """Give all records with low ≤ rating ≤ high this category; how many there were."""

    async def remove(self, low: float, high: float) -> int:
        """Delete all records with low ≤ rating ≤ high; how many there were."""

    async def create_expiring(self, records: Sequence[Record], seconds: float) -> float:
        """Records that live for so many seconds; returns how long it takes until none is left.

        Whoever counts expired records raises Unavailable.
        """

    async def count_all(self) -> int:
        """How many records there are."""

    async def check_indexes(self) -> int:
        """How much is wrong with the indexes of all records."""

    async def rebuild(self) -> int:
        """Bring all indexes to what the records say; how many records were gone through."""

    def round_trips(self) -> int | None:
        """Round trips so far as the client counts them; None where it doesn't."""


async def require_expired(contestant: Contestant, before: int) -> None:
    """Raises Unavailable where more records are counted than before, though those created since have expired."""
    if (found := await contestant.count_all()) != before:
        raise Unavailable(f"{found - before} records that have expired are still counted")


def chunked(items: Iterable[T], size: int) -> Iterator[list[T]]:
    source = iter(items)
    while chunk := list(islice(source, size)):
        yield chunk
