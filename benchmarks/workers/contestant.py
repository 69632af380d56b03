"""What a contestant has to do. Records go in and come back as the same plain values for all of them."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Protocol, TypeVar

from benchmarks.dataset import Record

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

    def round_trips(self) -> int | None:
        """Round trips so far as the client counts them; None where it doesn't."""


def chunked(items: Iterable[T], size: int) -> Iterator[list[T]]:
    source = iter(items)
    while chunk := list(islice(source, size)):
        yield chunk
