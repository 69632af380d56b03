"""The values that pass between fields, planning and the dispatcher. No I/O, no fields, no redis.

Entries say what a record occupies; tests say what a query wants of an index; operations are what the dispatcher sends.
`docs/architecture.md` draws their forms on the wire.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import msgspec

MEMBER = "m"
CLAIM = "c"
LIST = "l"
BESIDE = frozenset({LIST})
"""Kinds without entries: they stand for a key beside each record, made of its prefix and the record's key parts."""


class Index(msgspec.Struct, frozen=True):
    """One index of a model: `name` is `Kind:field`, `inputs` the fields its entries are computed from.

    `listings` names the sorted sets that list its distinct tails: as they are, then reversed. Null is never listed.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    tailed: bool
    listings: tuple[str, ...] = ()


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A place in the index called `name` that a record occupies; the member is implied."""

    name: str
    tail: str = ""
    score: str = "0"
    inexact: bool = False
    """In the entries of a computed value: occupy only if the value turns out to share its score with others."""


# What a query wants of an index ---------------------------------------------------------------------------------------


class Test(msgspec.Struct, frozen=True):
    """A node of a query's tree."""


class Everything(Test, frozen=True):
    """Every record of the class."""


class Nothing(Test, frozen=True):
    """No record."""


class AnyOf(Test, frozen=True):
    """Members of one of these sorted sets of an index, which are disjoint."""

    index: str
    tails: tuple[str, ...]


class Range(Test, frozen=True):
    """Members with a score between two bounds (`"("` before a bound excludes it).

    `exact` holds the conditions to decide on the stored text where scores can be shared: `(("gt", "0.1"),)`.
    """

    index: str
    tail: str
    low: str
    high: str
    tie: str = ""
    field: str = ""
    compare: str = ""
    exact: tuple[tuple[str, str], ...] = ()


class KeyIs(Test, frozen=True):
    """The record whose key has exactly this one part (models with a single key field)."""

    parts: tuple[str, ...]


class KeyBegins(Test, frozen=True):
    """The records whose key begins, after the model's name, with an escaped text."""

    text: str


class Matches(Test, frozen=True):
    """Records with a text that begins with, ends with or contains another (`op`: "starts", "ends", "has").

    The text is `field`'s stored one, or the key's part of number `part` (from 1). Records are found through `listing`,
    which lists the distinct texts of `index`, reversed ones if it is a mirror, from those that begin with `begins`;
    without a listing, in the whole class.
    """

    op: str
    text: str
    field: str = ""
    part: int = 0
    begins: str = ""
    index: str = ""
    claims: bool = False
    listing: str = ""
    mirror: bool = False


class Claimed(Test, frozen=True):
    """The owners of these claims."""

    index: str
    tails: tuple[str, ...]


class Refers(Test, frozen=True):
    """Members of the sets of these targets in the index of a relation to the model called `target`."""

    index: str
    tails: tuple[str, ...]
    target: Any


class Via(Test, frozen=True):
    """The record that a relation leads to exists and satisfies a test of its own model (`target`, a schema)."""

    index: str
    field: str
    target: Any
    child: Test


class Near(Test, frozen=True):
    """Positions within `radius` metres of a point, or within a box of `box` metres (width, height) around it."""

    index: str
    pole: str
    field: str
    latitude: float
    longitude: float
    radius: float | None = None
    box: tuple[float, float] | None = None


class Stored(Test, frozen=True):
    """A comparison with the stored text of a field; `indexed` says whether an index could have answered."""

    field: str
    compare: str
    op: str
    values: tuple[bytes, ...] = ()


class AllOf(Test, frozen=True):
    """All of the children."""

    children: tuple[Test, ...]


class OneOf(Test, frozen=True):
    """At least one of the children."""

    children: tuple[Test, ...]


class Points(Test, frozen=True):
    """Members with one of these scores, which are different."""

    index: str
    tail: str
    scores: tuple[str, ...]


class Among(Test, frozen=True):
    """A value that is one of many: `choices` finds all that can be, `stored` tells of a record whether it is one."""

    choices: AnyOf | Points
    stored: Stored


class NoneOf(Test, frozen=True):
    """Not the child."""

    child: Test


class Walk(msgspec.Struct, frozen=True):
    """Order by an index; records with null stand in `nulls` (tail) and come last."""

    index: str
    tail: str
    field: str
    compare: str
    nulls: str | None = None
    tie: str = ""


class ByKey(msgspec.Struct, frozen=True):
    """Order by record key."""


class ByStored(msgspec.Struct, frozen=True):
    """Order by the stored text of a field that has no index to walk."""

    field: str
    compare: str


class ByDistance(msgspec.Struct, frozen=True):
    """Order by the distance of a stored position from a point, nearest first."""

    field: str
    latitude: float
    longitude: float


OrderBy = Walk | ByKey | ByStored | ByDistance


class Place(msgspec.Struct, frozen=True):
    """Where a record stands in the orders of a query: its key, its stored text for each, the score of each index."""

    key: str
    texts: tuple[bytes | None, ...]
    scores: tuple[str | None, ...]


# What the dispatcher sends ------------------------------------------------------------------------------------------


class Layout(msgspec.Struct, frozen=True):
    """One model as the scripts know it, under one namespace and one slot table."""

    model: str
    klass: str
    wire: bytes
    """The `model` map of the header, packed."""
    brief: bytes
    """As much of it as operations need that show records."""
    models: tuple[str, ...]
    """The class key, as operations have it that are about this model alone."""


class Guard(msgspec.Struct, frozen=True, eq=False):
    """A condition that changes depend on. Those of one call that have the same one carry it once."""

    wire: bytes
    """The condition as a select has it, packed."""
    values: tuple[bytes, ...]
    also: tuple[str, ...]
    """Class keys of other models whose records it reads."""


class Operation(msgspec.Struct, frozen=True, gc=False):
    """One thing to do in one script call.

    `values` are its binary arguments; the lane tells the script where in ARGV they begin (`at`). `cost` estimates the
    time it takes the server, in microseconds; `size` its bytes. Two reads with equal `join` in one queue, with no write
    of the model between them, are sent once.
    """

    name: str
    layout: Layout
    body: Mapping[str, Any]
    values: tuple[bytes, ...] = ()
    writes: bool = False
    cost: int = 5
    size: int = 0
    join: Hashable = None
    steps: tuple[Operation, ...] = ()
    """The operations of a transaction."""
    also: tuple[str, ...] = ()
    """Class keys of other models whose records it reads or writes."""
    key: str | None = None
    """The record that it is about. Neighbours in a queue that differ in nothing but key and values travel as one."""
    guard: Guard | None = None
    """What a record has to satisfy for its change to be made; no part of `size`, because it travels once."""


Outcome = list[Any]
"""`[status, …]` as the script answered; the status is bytes."""

DONE: Outcome = [b"ok"]
"""The outcome of most writes, which replies show as null."""

WAITED: Outcome = [b"waited"]
"""The outcome of what waited for all that was asked before it, and is to be planned now that this is answered."""

AGAIN = frozenset({b"slots", b"moved", b"due", b"held", b"waited"})
"""Outcomes that mean: plan it again. The operations behind such a one in its call are held, and come again with it."""
