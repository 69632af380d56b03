"""The records that every contestant stores, and what each question about them must answer.

Everything follows from three numbers, so a worker and the judge compute the same records without sharing them.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

COMMON = "Thai"
_STRIDE = 7919  # a prime: i * _STRIDE % size visits every rating once, in an order unlike that of the names


class Record(NamedTuple):
    """One record as a plain value: a key, a text, a sorted float, an indexed text, a position."""

    name: str
    title: str
    rating: float
    category: str
    latitude: float
    longitude: float


class Visit(NamedTuple):
    """A record that refers to another one, here by its name."""

    code: str
    place: str
    guests: int


class Bill(NamedTuple):
    """A record that refers to a visit, by its code."""

    code: str
    visit: str
    total: float


class Account(NamedTuple):
    """A bill with all that it leads to."""

    bill: Bill
    visit: Visit
    place: Record


@dataclass(frozen=True, slots=True)
class Dataset:
    """`size` records with distinct ratings 0, 0.01, 0.02, …; the category of `common` of them is COMMON.

    Where a row is about relations, so many visits and bills besides.
    """

    size: int
    common: int
    visits: int = 0
    bills: int = 0
    seed: int = 20240607

    def records(self, salt: str = "") -> Iterator[Record]:
        """The records in an order unrelated to name and rating; `salt` makes other names of the same values."""
        if self.size % _STRIDE == 0:
            raise ValueError(f"a dataset of {self.size} records would repeat its ratings")
        source = random.Random(self.seed)
        for i in range(self.size):
            name = f"place-{salt}{i:06d}"
            category = COMMON if i < self.common else f"kind-{i % 20}"
            latitude = round(source.uniform(-80, 80), 6) or 1.0
            longitude = round(source.uniform(-179, 179), 6) or 1.0
            rating = (i * _STRIDE % self.size) / 100
            yield Record(name, f"A place to eat, number {i}", rating, category, latitude, longitude)

    def all_visits(self) -> list[Visit]:
        """The visits: each place has about as many."""
        return [Visit(f"v{i:06d}", f"place-{i * _STRIDE % self.size:06d}", 1 + i % 8) for i in range(self.visits)]

    def all_bills(self) -> list[Bill]:
        """The bills: of different visits, as long as there are enough."""
        return [Bill(f"b{i:06d}", f"v{i * _STRIDE % self.visits:06d}", i / 4) for i in range(self.bills)]

    def bill_codes(self, start: int, length: int) -> list[str]:
        """The codes of `length` bills in a row, in their order."""
        first = start % (self.bills - length + 1)
        return [f"b{i:06d}" for i in range(first, first + length)]

    @property
    def prefix(self) -> str:
        """What the names of exactly 10, 100, 1,000, … records begin with: of as many as there are."""
        zeros = 6 - (len(str(self.size)) - 1)
        return f"place-{'0' * zeros}"

    def window(self, start: int, length: int) -> tuple[float, float]:
        """Bounds, both included, that exactly `length` ratings lie between."""
        first = start % (self.size - length + 1)
        return first / 100, (first + length - 1) / 100

    @property
    def middle(self) -> float:
        """The rating that half of the records reach."""
        return (self.size // 2) / 100

    def count(self, category: str, low: float) -> int:
        """How many records have this category and at least this rating."""
        return sum(1 for record in self.records() if record.category == category and record.rating >= low)
